"""What an ingest leaves in the snapshot that it makes, so that the same rows do not come twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from lakehouse.catalog.names import fold
from lakehouse.catalog.table_change import COMMIT_ID_PROPERTY
from lakehouse.types import TableName

_RUN = "lakehouse.ingest-run"
_KEY = "lakehouse.ingest-key"
_GENERATION = "lakehouse.generation"
_SYNC = "lakehouse.sync."


@dataclass(frozen=True, slots=True)
class SyncStep:
    """How far an ingest that is run again and again gets with a snapshot.

    Every snapshot says it of all of them: what comes after has it from the one before, so that the state of a
    table is that of its rows, whichever snapshots are expired and whichever it is rolled back to.

    Attributes:
        table: The table whose rows these are.
        id: Tells those of one table apart.
        before: The state that this goes on from, empty for none. Where it is another one, rows came twice.
        after: The state that its rows are in the table with.
    """

    table: TableName
    id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class IngestMark:
    """An ingest, as the snapshot tells of it.

    Attributes:
        table: The table whose rows it brings; others that it changes have no key.
        run: The id of the run that made the snapshot.
        key: What is the same when the same rows come again; empty where they may.
        sync: How far it gets, where it is run again and again. Its snapshot is made without rows, too.
    """

    table: TableName
    run: str
    key: str = ""
    sync: SyncStep | None = None

    def of(self, table: TableName) -> IngestMark:
        """The mark for one of the tables that the ingest changes."""
        return self if _folded(table) == _folded(self.table) else replace(self, key="", sync=None)

    @property
    def properties(self) -> Mapping[str, str]:
        """Entries of the snapshot's summary."""
        entries = {_RUN: self.run, _KEY: self.key}
        if self.sync is not None:
            entries[f"{_SYNC}{self.sync.id}"] = self.sync.after
        return {name: value for name, value in entries.items() if value}


def _folded(table: TableName) -> tuple[str, str, str]:
    return table.catalog, fold(table.schema), fold(table.table)


def marked_snapshot(metadata: TableMetadata, key: str, *, only_last: bool = False) -> int | None:
    """The snapshot that brought the rows of an ingest, if it is among those that the table is made of.

    A snapshot that was rolled back is not, and neither is one whose rows were replaced by others.

    Args:
        metadata: A version of the table.
        key: The ingest's key; for an empty one there is none.
        only_last: Whether what came after it undoes it.
    """
    if not key:
        return None
    now = generation(metadata)
    for number, entries in _history(metadata):
        if entries.get(_KEY) == key and entries.get(_GENERATION, "") == now:
            return number
        if only_last:
            return None
    return None


def generation(metadata: TableMetadata) -> str:
    """What is another one whenever all rows of a table were replaced; empty before that."""
    return _last(metadata).get(_GENERATION, "")


def generation_of(commit_id: str) -> Mapping[str, str]:
    """The entry of a snapshot that replaces all rows."""
    return {_GENERATION: commit_id}


def snapshot_of_run(metadata: TableMetadata, run: str) -> int | None:
    """The snapshot that a run made, if it is among those that the table is made of."""
    return next((number for number, entries in _history(metadata) if entries.get(_RUN) == run), None)


def sync_states(metadata: TableMetadata) -> Mapping[str, str]:
    """How far each ingest that is run again and again has got in a table, by their ids."""
    entries = _last(metadata).items()
    return {name.removeprefix(_SYNC): state for name, state in entries if name.startswith(_SYNC)}


def all_sync_states(metadata: TableMetadata, sync: str) -> set[str]:
    """The states of one of them that any snapshot tells of, also of those that were rolled back."""
    summaries = [snapshot.summary for snapshot in metadata.snapshots]
    found = [each.additional_properties.get(f"{_SYNC}{sync}") for each in summaries if each is not None]
    return {state for state in found if state}


def is_cut_off(metadata: TableMetadata) -> bool:
    """Whether the snapshots that would tell of ingests are gone: others made all that are left."""
    found = None
    for number, entries in _history(metadata):
        if COMMIT_ID_PROPERTY in entries:
            return False
        found = metadata.snapshot_by_id(number)
    return found is not None and found.parent_snapshot_id is not None


def columns_of(metadata: TableMetadata, schema_id: int) -> list[str]:
    """The columns that a table had in an earlier version of its schema, by the names that they have now."""
    then = next((each for each in metadata.schemas if each.schema_id == schema_id), metadata.schema())
    known = {field.field_id for field in then.fields}
    return [field.name for field in metadata.schema().fields if field.field_id in known]


def carried(metadata: TableMetadata) -> Mapping[str, str]:
    """The entries that the next snapshot has to have from those before it."""
    entries = _last(metadata).items()
    return {name: value for name, value in entries if name.startswith(_SYNC) or name == _GENERATION}


def _last(metadata: TableMetadata) -> Mapping[str, str]:
    # Other programs pass nothing on; what was there before them holds still.
    return next((entries for _, entries in _history(metadata) if COMMIT_ID_PROPERTY in entries), {})


def _history(metadata: TableMetadata) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The entries of the summaries of the current snapshot and those before it, newest first."""
    snapshot = metadata.current_snapshot()
    if snapshot is None:
        return
    known = {each.snapshot_id: each for each in metadata.snapshots}
    found: Snapshot | None = snapshot
    while found is not None:
        yield found.snapshot_id, found.summary.additional_properties if found.summary else {}
        found = known.get(found.parent_snapshot_id or -1)
