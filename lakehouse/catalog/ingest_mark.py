"""What an ingest leaves in the snapshot that it makes, so that the same rows do not come twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyiceberg.table.metadata import TableMetadata

_RUN = "lakehouse.ingest-run"
_KEY = "lakehouse.ingest-key"
_STATE = "lakehouse.ingest-state"
_SYNC = "lakehouse.ingest-sync"


@dataclass(frozen=True, slots=True)
class IngestMark:
    """An ingest, as the snapshot tells of it.

    Attributes:
        run: The id of the run that made the snapshot.
        key: What is the same when the same rows come again; empty where they may.
        sync: The name of what is ingested again and again, or empty.
        state: How far that has got, for its next run.
    """

    run: str
    key: str = ""
    sync: str = ""
    state: str = ""

    @property
    def properties(self) -> Mapping[str, str]:
        """Entries of the snapshot's summary."""
        entries = {_RUN: self.run, _KEY: self.key, _SYNC: self.sync, _STATE: self.state}
        return {name: value for name, value in entries.items() if value}


def marked_snapshot(metadata: TableMetadata, key: str, *, only_last: bool = False) -> int | None:
    """The snapshot that brought the rows of an ingest, if it is among those that the table is made of.

    A snapshot that was rolled back is not.

    Args:
        metadata: A version of the table.
        key: The ingest's key; for an empty one there is none.
        only_last: Whether what came after it undoes it.
    """
    if not key:
        return None
    for number, entries in _history(metadata):
        if entries.get(_KEY) == key:
            return number
        if only_last:
            return None
    return None


def snapshot_of_run(metadata: TableMetadata, run: str) -> int | None:
    """The snapshot that a run made, if it is among those that the table is made of."""
    return next((number for number, entries in _history(metadata) if entries.get(_RUN) == run), None)


def last_state(metadata: TableMetadata, sync: str) -> str:
    """How far what is ingested again and again has got in a table; empty where that is not known."""
    return next((e.get(_STATE, "") for _, e in _history(metadata) if e.get(_SYNC) == sync), "")


def _history(metadata: TableMetadata) -> list[tuple[int, Mapping[str, str]]]:
    """The entries of the summaries of the current snapshot and those before it, newest first."""
    found: list[tuple[int, Mapping[str, str]]] = []
    known = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        summary = snapshot.summary
        found.append((snapshot.snapshot_id, summary.additional_properties if summary else {}))
        snapshot = known.get(snapshot.parent_snapshot_id or -1)
    return found
