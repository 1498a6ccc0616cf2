"""One attempt after another to change a table's metadata, with pyiceberg's building blocks.

pyiceberg's own retry loop rebuilds snapshots only, never looks whether the schema is still the one that the
files were written for, and deletes or keeps files by rules of its own; so the loop is here and its parts are
used one by one. The private names that this takes are all in this module.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchTableError,
    ValidationException,
)
from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)
from pyiceberg.table import CreateTableTransaction, StagedTable, Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update import AddSnapshotUpdate, AssertCreate, AssertTableUUID, TableUpdate
from pyiceberg.table.update.snapshot import (
    _FastAppendFiles,
    _MergeAppendFiles,
    _OverwriteFiles,
    _SnapshotProducer,
)
from pyiceberg.typedef import EMPTY_DICT

from lakehouse.catalog.metadata_update import SharingTransaction
from lakehouse.catalog.table_store import TableStore
from lakehouse.errors import CommitConflict, StorageError

COMMIT_ID_PROPERTY = "lakehouse.commit-id"
MERGE_PROPERTY = "commit.manifest-merge.enabled"
_ATTEMPTS = 20
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0
_LOOK_AGAIN_PAUSES_S = (0.0, 0.1, 0.5, 2.0)
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """The rows of a commit.

    Args:
        snapshot_id: Stays the same over all attempts, so that it tells whether one of them took place.
        files: The files to add.
        properties: Entries of the snapshot's summary.
        replaces_all: Whether every file that is in the table goes.
        removed: Which files go, by what the table calls them.
        keeps_rows: Whether the files that come hold exactly the rows of those that go.
    """

    snapshot_id: int
    files: Sequence[DataFile]
    properties: Mapping[str, str]
    replaces_all: bool = False
    removed: frozenset[str] = frozenset()
    keeps_rows: bool = False


# Stages updates of schema and properties on the transaction, and tells which rows go with them.
Build = Callable[[Transaction], NewSnapshot | None]


class _ReplaceAll(_SnapshotProducer["_ReplaceAll"]):
    """A snapshot that holds nothing of the one before, whatever that was."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gone = list(self._entries_of(ManifestContent.DATA))
        # The summary counts delete files too, which go without a trace in any manifest.
        self._deleted_data_files = {
            entry.data_file for entry in (*self._gone, *self._entries_of(ManifestContent.DELETES))
        }

    def _existing_manifests(self) -> list[ManifestFile]:
        return []

    def _deleted_entries(self) -> list[ManifestEntry]:
        return self._gone

    def _build_delete_files_partition_predicate(self) -> None:
        """Nothing: no manifest is looked through by partition."""

    def _entries_of(self, content: ManifestContent) -> Sequence[ManifestEntry]:
        snapshot = self._transaction.table_metadata.current_snapshot()
        return [
            ManifestEntry.from_args(
                status=ManifestEntryStatus.DELETED,
                snapshot_id=self._snapshot_id,
                sequence_number=entry.sequence_number,
                file_sequence_number=entry.file_sequence_number,
                data_file=entry.data_file,
            )
            for manifest in (snapshot.manifests(self._io) if snapshot else ())
            if manifest.content == content
            for entry in manifest.fetch_manifest_entry(self._io, discard_deleted=True)
        ]


class _Rewrite(_OverwriteFiles):
    """A snapshot without certain files of the one before, and with others instead."""

    def remove(self, uris: frozenset[str]) -> None:
        """Name the files that go; each must be in the table still.

        Raises:
            CommitConflict: One is not.
        """
        snapshot = self._transaction.table_metadata.current_snapshot()
        for manifest in snapshot.manifests(self._io) if snapshot else ():
            if manifest.content == ManifestContent.DATA:
                entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
                self._deleted_data_files.update(e.data_file for e in entries if e.data_file.file_path in uris)
        if len(self._deleted_data_files) != len(uris):
            raise CommitConflict(
                "the rows were changed by another writer at the same time; nothing was stored", "try again"
            )

    def _build_delete_files_partition_predicate(self) -> None:
        """Nothing: files are found by their names."""

    def _build_manifest_evaluator(self, _: int) -> Callable[[ManifestFile], bool]:
        return lambda manifest: manifest.content == ManifestContent.DATA


class _Regrouping(_Rewrite):
    """A rewrite after which the table has the same rows: Iceberg's operation ``replace``."""

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        told = super()._summary(snapshot_properties)
        return Summary(operation=Operation.REPLACE, **told.additional_properties)


def change_table(
    catalog: TableStore, schema: str, table: str, build: Build, promise: str = ""
) -> TableMetadata:
    """Change a table that exists, in one commit; gives its new metadata.

    Args:
        catalog: Where the table is.
        schema: Its schema.
        table: Its name.
        build: Called for every attempt with a transaction on the then current version; raises when the
            change no longer fits.
        promise: The joint commit that this is part of.

    Raises:
        NoSuchTableError: It does not exist.
        CommitFailedException: Other writers were faster each time.
        ValidationException: The change does not fit the table as it is.
        CommitStateUnknownException: It could not be found out whether the change took place.
    """

    def attempt() -> TableMetadata:
        base = catalog.load_table((schema, table))
        return _attempt(catalog, base, SharingTransaction(base), build, promise)

    return retried(attempt)


def create_table(catalog: TableStore, staged: StagedTable, build: Build, promise: str = "") -> TableMetadata:
    """Create a table together with its first rows, in one commit; gives its metadata.

    Raises:
        ValidationException: There is a table of that name.
        NoSuchNamespaceError: There is no such schema.
        CommitFailedException, CommitStateUnknownException: As for ``change_table``.
    """
    return retried(lambda: _attempt(catalog, staged, CreateTableTransaction(staged), build, promise))


def stage_updates(transaction: Transaction, updates: Sequence[TableUpdate]) -> None:
    """Add changes to a transaction, besides those that its own methods can make."""
    transaction._stage(tuple(updates))


def retried(attempt: Callable[[], T]) -> T:
    """The result of an attempt, made again while other writers are faster.

    Raises:
        CommitFailedException: They were, each time.
    """
    for number in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except CommitFailedException:
            pause = min(_FIRST_PAUSE_S * 2**number, _LONGEST_PAUSE_S)
            time.sleep(pause * random.uniform(0.5, 1.5))
    return attempt()


def _attempt(
    catalog: TableStore, base: Table, transaction: Transaction, build: Build, promise: str
) -> TableMetadata:
    producer: _SnapshotProducer[Any] | None = None
    rows: NewSnapshot | None = None
    try:
        rows = build(transaction)
        if rows is not None:
            producer = _producer(transaction, rows)
            updates, requirements = producer._commit()
            transaction._stage(_in_order(updates, transaction.table_metadata), requirements)
        is_new = isinstance(transaction, CreateTableTransaction)
        identity = (AssertCreate(),) if is_new else (AssertTableUUID(uuid=base.metadata.table_uuid),)
        # A table that is being created has no refs that could be required to stay the same.
        required = identity if is_new else (*transaction._requirements, *identity)
        return catalog.commit_table(base, required, transaction._updates, promise).metadata
    except CommitStateUnknownException:
        if rows is None or promise:
            raise
        return _look_for(catalog, base, rows.snapshot_id)
    except (CommitFailedException, ValidationException, NoSuchTableError, StorageError):
        _clean_up(producer)
        raise


def _producer(transaction: Transaction, rows: NewSnapshot) -> _SnapshotProducer[Any]:
    kind: type[_SnapshotProducer[Any]] = _FastAppendFiles
    operation = Operation.OVERWRITE if rows.replaces_all or rows.files else Operation.DELETE
    if rows.removed:
        kind = _Regrouping if rows.keeps_rows else _Rewrite
    elif rows.replaces_all:
        kind = _ReplaceAll
    elif transaction.table_metadata.properties.get(MERGE_PROPERTY) == "true":
        kind, operation = _MergeAppendFiles, Operation.APPEND
    else:
        operation = Operation.APPEND
    io = transaction._table.io
    producer = kind(operation, transaction, io, snapshot_properties=dict(rows.properties))
    producer._snapshot_id = rows.snapshot_id
    for file in rows.files:
        producer.append_data_file(file)
    if isinstance(producer, _Rewrite):
        producer.remove(rows.removed)
    return producer


def _in_order(updates: tuple[TableUpdate, ...], metadata: TableMetadata) -> tuple[TableUpdate, ...]:
    """The updates, with each snapshot later than the last change, so that time travel can tell them apart."""
    return tuple(
        update.model_copy(
            update={
                "snapshot": update.snapshot.model_copy(
                    update={"timestamp_ms": max(update.snapshot.timestamp_ms, metadata.last_updated_ms + 1)}
                )
            }
        )
        if isinstance(update, AddSnapshotUpdate)
        else update
        for update in updates
    )


def _look_for(catalog: TableStore, base: Table, snapshot_id: int) -> TableMetadata:
    for pause in _LOOK_AGAIN_PAUSES_S:
        time.sleep(pause)
        try:
            metadata = catalog.load_table(base.name()).metadata
        except (StorageError, NoSuchTableError):
            continue
        if metadata.snapshot_by_id(snapshot_id) is not None:
            return metadata
    raise CommitStateUnknownException(f"snapshot {snapshot_id} was not found, but may yet appear")


def _clean_up(producer: _SnapshotProducer[Any] | None) -> None:
    if producer is None:
        return
    for path in (*producer._written_manifests, *producer._written_manifest_lists):
        try:
            producer._io.delete(path)
        except (StorageError, OSError):
            _log.warning("a manifest of a commit that did not take place could not be deleted", exc_info=True)
