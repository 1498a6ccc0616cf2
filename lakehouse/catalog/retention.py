"""Which snapshots a table can do without, and which files its metadata refers to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRef, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import RemoveSnapshotRefUpdate, RemoveSnapshotsUpdate

from lakehouse.catalog.history import ancestor_ids
from lakehouse.catalog.iceberg_catalog import IcebergCatalog
from lakehouse.catalog.iceberg_errors import iceberg_errors
from lakehouse.catalog.table import Table
from lakehouse.catalog.table_change import change_table, stage_updates
from lakehouse.errors import CommitConflict, ObjectNotFound, StorageError, TableNotFound
from lakehouse.types import TableName

_MIN_SNAPSHOTS = "history.expire.min-snapshots-to-keep"
_MAX_AGE = "history.expire.max-snapshot-age-ms"


@dataclass(frozen=True, slots=True)
class Expendable:
    """What is to go: snapshots, and names whose time is over."""

    snapshot_ids: tuple[int, ...]
    references: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.snapshot_ids or self.references)


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """What is kept of each branch.

    Args:
        older_than_ms: Snapshots committed before this time may go, counted from 1970 in UTC.
        keep_last: So many of each branch are kept however old they are.
        youngest_ms: No snapshot committed after this time goes, whatever else is said.
    """

    older_than_ms: int
    keep_last: int
    youngest_ms: int


def table_rule(table: Table, now_ms: int, youngest_ms: int) -> RetentionRule | None:
    """The rule that a table's properties state, as Iceberg names them; None where they state none."""
    properties = table.metadata.properties
    age, kept = properties.get(_MAX_AGE), properties.get(_MIN_SNAPSHOTS)
    if age is None or not age.isdigit():
        return None
    return RetentionRule(max(0, now_ms - int(age)), int(kept) if kept and kept.isdigit() else 1, youngest_ms)


def expendable(metadata: TableMetadata, rule: RetentionRule, now_ms: int) -> Expendable:
    """What a table can do without by a rule.

    The heads of branches and what tags stand for are kept, unless the time of the name is over; of a branch
    its own settings come before the rule's.
    """
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    over = {
        name for name, ref in metadata.refs.items() if name != MAIN_BRANCH and _is_over(ref, by_id, now_ms)
    }
    kept: set[int] = set()
    for name, ref in metadata.refs.items():
        if name not in over:
            kept.add(ref.snapshot_id)
            if ref.snapshot_ref_type is SnapshotRefType.BRANCH:
                kept |= _kept_of_branch(metadata, ref, by_id, rule, now_ms)
    gone = [
        snapshot.snapshot_id
        for snapshot in metadata.snapshots
        if snapshot.snapshot_id not in kept
        and snapshot.timestamp_ms < min(rule.older_than_ms, rule.youngest_ms)
    ]
    return Expendable(tuple(gone), tuple(sorted(over)))


def _is_over(ref: SnapshotRef, by_id: dict[int, Snapshot], now_ms: int) -> bool:
    snapshot = by_id.get(ref.snapshot_id)
    return bool(ref.max_ref_age_ms and snapshot and now_ms - snapshot.timestamp_ms > ref.max_ref_age_ms)


def _kept_of_branch(
    metadata: TableMetadata, ref: SnapshotRef, by_id: dict[int, Snapshot], rule: RetentionRule, now_ms: int
) -> set[int]:
    older_than = now_ms - ref.max_snapshot_age_ms if ref.max_snapshot_age_ms else rule.older_than_ms
    last = ref.min_snapshots_to_keep or rule.keep_last
    return {
        snapshot_id
        for number, snapshot_id in enumerate(ancestor_ids(metadata, ref.snapshot_id))
        if number < last or by_id[snapshot_id].timestamp_ms >= older_than
    }


def remove_snapshots(catalog: IcebergCatalog, table: Table, choice: Expendable) -> None:
    """Take snapshots and names out of a table's metadata; no file is deleted.

    Raises:
        CommitConflict: One of them has become needed meanwhile: nothing was changed.
    """

    def build(transaction: Transaction) -> None:
        now = transaction.table_metadata
        names = {name for name in choice.references if now.refs.get(name) == table.metadata.refs[name]}
        heads = {ref.snapshot_id for name, ref in now.refs.items() if name not in names}
        there = {snapshot.snapshot_id for snapshot in now.snapshots}
        if now.table_uuid != table.metadata.table_uuid or heads & set(choice.snapshot_ids):
            raise CommitConflict(
                f"snapshots of table '{table.name}' were given a name by another writer at the same time; "
                "none was expired",
                "try again",
            )
        updates = [RemoveSnapshotRefUpdate(ref_name=name) for name in sorted(names)]
        gone = [snapshot_id for snapshot_id in choice.snapshot_ids if snapshot_id in there]
        stage_updates(transaction, [*updates, *([RemoveSnapshotsUpdate(snapshot_ids=gone)] if gone else [])])

    with catalog.committing(table.name.schema, table.name.table):
        told = catalog.told(table.name)
        change_table(catalog.objects, table.name.schema, table.name.table, build, told=told)


def only_needed_by(catalog: IcebergCatalog, table: Table, snapshot_ids: Iterable[int]) -> set[str]:
    """The keys of the files that no other snapshot of a table refers to.

    Raises:
        StorageError: What the other snapshots refer to cannot be read.
    """
    going = set(snapshot_ids)
    gone = [s for s in table.metadata.snapshots if s.snapshot_id in going]
    kept = [s for s in table.metadata.snapshots if s.snapshot_id not in going]
    statistics = [
        s.statistics_path
        for s in (*table.metadata.statistics, *table.metadata.partition_statistics)
        if s.snapshot_id in going
    ]
    candidates = _keys(catalog, [*_files_of(catalog, table, gone, missing_ok=True), *statistics])
    return candidates - _keys(catalog, _files_of(catalog, table, kept)) if candidates else candidates


def needed_since(catalog: IcebergCatalog, schema: str, name: str, since_ms: int) -> tuple[set[str], set[str]]:
    """The keys of all that a table refers to.

    Snapshots of the time in between are in one of the two, because none that young is expired.

    Returns:
        What the current version refers to, and what the one does that was current at the time.

    Raises:
        StorageError: It cannot be found out.
    """
    head = catalog.objects.head(schema, name)
    earlier = catalog.objects.version_at(schema, name, head, since_ms)
    if head.metadata is None or earlier is None:
        raise TableNotFound(f"table '{catalog.name}.{schema}.{name}' does not exist")
    spelled = TableName(catalog.name, schema, name)
    now = _needed(catalog, catalog.view(spelled, head.metadata), missing_ok=False)
    if earlier is head.metadata:
        return now, now
    return now, _needed(catalog, catalog.view(spelled, earlier), missing_ok=True)


def _needed(catalog: IcebergCatalog, table: Table, *, missing_ok: bool) -> set[str]:
    metadata = table.metadata
    found = _keys(catalog, _files_of(catalog, table, metadata.snapshots, missing_ok=missing_ok))
    statistics = (*metadata.statistics, *metadata.partition_statistics)
    found |= _keys(catalog, (file.statistics_path for file in statistics))
    return found | _keys(catalog, (entry.metadata_file for entry in metadata.metadata_log))


def _files_of(
    catalog: IcebergCatalog, table: Table, snapshots: Iterable[Snapshot], *, missing_ok: bool = False
) -> Iterator[str]:
    """Manifest lists, manifests, and the data and delete files that are live in them.

    With ``missing_ok`` what an earlier removal took away already is passed over.
    """
    io, seen = catalog.planner.io, set()
    for snapshot in snapshots:
        yield snapshot.manifest_list
        try:
            with iceberg_errors(f"table '{table.name}'"):
                manifests = snapshot.manifests(io)
        except (FileNotFoundError, ObjectNotFound) as error:
            if not missing_ok:
                raise _unreadable(table) from error
            continue
        for manifest in manifests:
            if manifest.manifest_path in seen:
                continue
            seen.add(manifest.manifest_path)
            yield manifest.manifest_path
            try:
                with iceberg_errors(f"table '{table.name}'"):
                    entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
            except (FileNotFoundError, ObjectNotFound) as error:
                if not missing_ok:
                    raise _unreadable(table) from error
                continue
            yield from (entry.data_file.file_path for entry in entries)


def _unreadable(table: Table) -> StorageError:
    return StorageError(f"metadata of table '{table.name}' is missing in the bucket; no file was removed")


def _keys(catalog: IcebergCatalog, uris: Iterable[str]) -> set[str]:
    """Keys within the catalog's bucket; what is elsewhere is nobody's business here."""
    found = set()
    for uri in uris:
        try:
            found.add(catalog.bucket.key_of(uri))
        except StorageError:
            continue
    return found
