"""One attempt after another to change a table's metadata, with pyiceberg's building blocks.

pyiceberg's own retry loop rebuilds snapshots only, never looks whether the schema is still the one that the
files were written for, and deletes or keeps files by rules of its own; so the loop is here and its parts are
used one by one. The private names that this takes are all in this module.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

from cachetools import LRUCache
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchTableError,
    ValidationException,
)
from pyiceberg.manifest import (
    UNASSIGNED_SEQ,
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)
from pyiceberg.table import CreateTableTransaction, StagedTable, Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertCreate,
    AssertCurrentSchemaId,
    AssertDefaultSortOrderId,
    AssertDefaultSpecId,
    AssertTableUUID,
    TableRequirement,
    TableUpdate,
)
from pyiceberg.table.update.snapshot import (
    _FastAppendFiles,
    _ManifestMergeManager,
    _OverwriteFiles,
    _SnapshotProducer,
)
from pyiceberg.typedef import EMPTY_DICT

from lakehouse.catalog.change_events import Change, Share, Told
from lakehouse.catalog.file_io import AttemptFiles
from lakehouse.catalog.metadata_update import SharingTransaction
from lakehouse.catalog.slots import Head
from lakehouse.catalog.table_store import TableStore
from lakehouse.errors import CommitConflict, StorageError
from lakehouse.journal.change_event import ChangeEvent

COMMIT_ID_PROPERTY = "lakehouse.commit-id"
MERGE_PROPERTY = "commit.manifest-merge.enabled"
_MERGE_COUNT_PROPERTY, _MERGE_COUNT = "commit.manifest.min-count-to-merge", 100
_MANIFEST_BYTES = 8 * 1024 * 1024
_ATTEMPTS = 20
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0
_LOOK_AGAIN_PAUSES_S = (0.0, 0.1, 0.5, 2.0)
_log = logging.getLogger(__name__)
T = TypeVar("T")
# What the manifest lists that were written last hold, by their URIs, which are never used again.
_last_lists: MutableMapping[str, list[ManifestFile]] = LRUCache(256)
_last_lists_lock = threading.Lock()  # looking something up changes an LRUCache, too


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
        shares: Who brought the rows.
        row_events: What becomes of single rows.
    """

    snapshot_id: int
    files: Sequence[DataFile]
    properties: Mapping[str, str]
    replaces_all: bool = False
    removed: frozenset[str] = frozenset()
    keeps_rows: bool = False
    shares: tuple[Share, ...] = ()
    row_events: tuple[ChangeEvent, ...] = ()


# What has to be true before a commit may take place: waits for it, and raises where it fails.
Ready = Callable[[], None]
# Stages updates of schema and properties on the transaction, and tells which rows go with them.
Build = Callable[[Transaction], NewSnapshot | None]


class _Append(_FastAppendFiles):
    """A snapshot with more files than the one before.

    Manifests are put together once there are enough of about the same size: a file is then written into a
    new manifest once for each tenfold of files, say, and not with every merge. What the manifest list of
    the last commit holds is remembered, because the next one begins with it.
    """

    def _existing_manifests(self) -> list[ManifestFile]:
        snapshot = self._transaction.table_metadata.current_snapshot()
        if snapshot is None:
            return []
        with _last_lists_lock:
            known = _last_lists.get(snapshot.manifest_list)
        manifests = snapshot.manifests(self._io) if known is None else known
        return [m for m in manifests if m.has_added_files() or m.has_existing_files()]

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        properties = self._transaction.table_metadata.properties
        if properties.get(MERGE_PROPERTY) == "true":
            enough = int(properties.get(_MERGE_COUNT_PROPERTY, _MERGE_COUNT))
            manifests = self._merged(manifests, max(enough, 2))
        self._manifests_now = manifests
        return manifests

    def _merged(self, manifests: list[ManifestFile], enough: int) -> list[ManifestFile]:
        alike: defaultdict[tuple[int, int], list[ManifestFile]] = defaultdict(list)
        rest: list[ManifestFile] = []
        for manifest in manifests:
            if manifest.content != ManifestContent.DATA or manifest.added_snapshot_id == self._snapshot_id:
                rest.append(manifest)
                continue
            files = (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
            alike[manifest.partition_spec_id, int(math.log(max(files, 1), enough))].append(manifest)
        manager = _ManifestMergeManager(_MANIFEST_BYTES, enough, merge_enabled=True, snapshot_producer=self)
        for (spec_id, _), group in alike.items():
            if len(group) >= enough and sum(m.manifest_length for m in group) <= _MANIFEST_BYTES:
                rest.append(manager._create_manifest(spec_id, group))
            else:
                rest.extend(group)
        return rest

    def _commit(self) -> tuple[tuple[TableUpdate, ...], tuple[TableRequirement, ...]]:
        number = self._transaction.table_metadata.next_sequence_number()
        staged = super()._commit()
        numbered = [_numbered(m, number) for m in self._manifests_now]
        with _last_lists_lock:
            _last_lists[self._written_manifest_lists[-1]] = numbered
        return staged


def _numbered(manifest: ManifestFile, number: int) -> ManifestFile:
    """A manifest as a manifest list has it that was written with a commit of that number."""
    numbered = copy(manifest)
    if numbered.sequence_number == UNASSIGNED_SEQ:
        numbered.sequence_number = number
    if numbered.min_sequence_number == UNASSIGNED_SEQ:
        numbered.min_sequence_number = number
    return numbered


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
    catalog: TableStore,
    schema: str,
    table: str,
    build: Build,
    promise: str = "",
    known: Head | None = None,
    ready: Ready | None = None,
    told: Told | None = None,
) -> TableMetadata:
    """Change a table that exists, in one commit; gives its new metadata.

    Args:
        catalog: Where the table is.
        schema: Its schema.
        table: Its name.
        build: Called for every attempt with a transaction on the then current version; raises when the
            change no longer fits.
        promise: The joint commit that this is part of.
        known: A version that was current a moment ago, which the first attempt takes for the current one.
        ready: Called before each attempt takes place.
        told: Called once the change has taken place, or has been promised.

    Raises:
        NoSuchTableError: It does not exist.
        CommitFailedException: Other writers were faster each time.
        ValidationException: The change does not fit the table as it is.
        CommitStateUnknownException: It could not be found out whether the change took place.
    """
    likely = [known]

    def attempt() -> TableMetadata:
        base = catalog.load_table((schema, table), likely.pop() if likely else None)
        return _attempt(catalog, base, SharingTransaction(base), build, promise, ready, told)

    return retried(attempt)


def create_table(
    catalog: TableStore,
    staged: StagedTable,
    build: Build,
    promise: str = "",
    ready: Ready | None = None,
    told: Told | None = None,
) -> TableMetadata:
    """Create a table together with its first rows, in one commit; gives its metadata.

    Raises:
        ValidationException: There is a table of that name.
        NoSuchNamespaceError: There is no such schema.
        CommitFailedException, CommitStateUnknownException: As for ``change_table``.
    """
    return retried(
        lambda: _attempt(catalog, staged, CreateTableTransaction(staged), build, promise, ready, told)
    )


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
    catalog: TableStore,
    base: Table,
    transaction: Transaction,
    build: Build,
    promise: str,
    ready: Ready | None,
    told: Told | None,
) -> TableMetadata:
    producer: _SnapshotProducer[Any] | None = None
    files = AttemptFiles(catalog.file_io.bucket)
    rows: NewSnapshot | None = None
    is_new = isinstance(transaction, CreateTableTransaction)
    try:
        rows = build(transaction)
        if rows is not None:
            producer = _producer(transaction, rows, files)
            updates, requirements = producer._commit()
            transaction._stage(_in_order(updates, transaction.table_metadata), requirements)
        # A table that is being created has no refs that could be required to stay the same.
        required = (AssertCreate(),) if is_new else (*transaction._requirements, *_unchanged(base.metadata))
        files.uploads.settle()
        if ready is not None:
            ready()
        metadata = catalog.commit_table(base, required, transaction._updates, promise).metadata
    except CommitStateUnknownException:
        if rows is None or promise:
            raise
        metadata = _look_for(catalog, base, rows.snapshot_id)
    except (CommitFailedException, ValidationException, NoSuchTableError, StorageError):
        _clean_up(producer, files)
        raise
    if told is not None:
        before = None if is_new else base.metadata
        uuid = str(base.metadata.table_uuid)
        shares, row_events = (rows.shares, rows.row_events) if rows is not None else ((), ())
        told(Change(before, transaction._updates, uuid, shares, row_events))
    return metadata


def _unchanged(base: TableMetadata) -> tuple[TableRequirement, ...]:
    """What ``build`` looked at, besides the snapshots."""
    return (
        AssertTableUUID(uuid=base.table_uuid),
        AssertCurrentSchemaId(current_schema_id=base.current_schema_id),
        AssertDefaultSpecId(default_spec_id=base.default_spec_id),
        AssertDefaultSortOrderId(default_sort_order_id=base.default_sort_order_id),
    )


def _producer(transaction: Transaction, rows: NewSnapshot, files: AttemptFiles) -> _SnapshotProducer[Any]:
    kind: type[_SnapshotProducer[Any]] = _Append
    operation = Operation.OVERWRITE if rows.replaces_all or rows.files else Operation.DELETE
    if rows.removed:
        kind = _Regrouping if rows.keeps_rows else _Rewrite
    elif rows.replaces_all:
        kind = _ReplaceAll
    else:
        operation = Operation.APPEND
    producer = kind(operation, transaction, files, snapshot_properties=dict(rows.properties))
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


def _clean_up(producer: _SnapshotProducer[Any] | None, files: AttemptFiles) -> None:
    if producer is None:
        return
    files.uploads.abandon()
    for path in (*producer._written_manifests, *producer._written_manifest_lists):
        try:
            producer._io.delete(path)
        except (StorageError, OSError):
            _log.warning("a manifest of a commit that did not take place could not be deleted", exc_info=True)
