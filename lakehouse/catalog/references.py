"""Tags and branches, and setting a table back to an earlier snapshot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.update import RemoveSnapshotRefUpdate, SetSnapshotRefUpdate

from lakehouse.catalog.history import ancestor_ids
from lakehouse.catalog.iceberg_catalog import IcebergCatalog
from lakehouse.catalog.names import check_name
from lakehouse.catalog.table import Reference, Snapshot, Table
from lakehouse.catalog.table_change import change_table, stage_updates
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    ReferenceAlreadyExists,
    SnapshotNotFound,
)

MAIN = MAIN_BRANCH
"""The branch whose snapshot is the table's current one."""


def latest(catalog: IcebergCatalog, schema: str, table: str) -> Table:
    """The current version of a table, asked from storage.

    Raises:
        SchemaNotFound, TableNotFound: There is none.
    """
    catalog.refresh(schema, table)
    return catalog.load(schema, table)


def find_snapshot(
    table: Table, snapshot_id: int | None = None, ref: str | None = None, at: datetime | None = None
) -> Snapshot:
    """The snapshot of an id, of a tag or branch, or of a time; the current one where none is given.

    Raises:
        SnapshotNotFound: There is none.
    """
    if ref is not None:
        return table.snapshot_for(ref)
    if snapshot_id is not None or at is not None:
        return table.snapshot_for(snapshot_id, at)
    if table.metadata.current_snapshot_id is None:
        raise SnapshotNotFound(f"table '{table.name}' has no snapshot yet", "load some rows first")
    return table.snapshot_for(table.metadata.current_snapshot_id)


def create_reference(
    catalog: IcebergCatalog,
    table: Table,
    reference: Reference,
    retain: timedelta | None = None,
    *,
    replace: bool = False,
) -> None:
    """Give a snapshot a name.

    Args:
        catalog: Where the table is.
        table: The table.
        reference: The name, kind and snapshot.
        retain: For how long the name is kept; for ever when left out.
        replace: Whether a name of the same kind may be moved to this snapshot.

    Raises:
        ReferenceAlreadyExists: The table has a tag or branch of that name.
        SnapshotNotFound: The snapshot was removed meanwhile.
    """
    _check_reference_name(reference.name)

    def build(transaction: Transaction) -> None:
        now = transaction.table_metadata
        _check_same(table, now)
        there = now.refs.get(reference.name)
        if there is not None and not (replace and there.snapshot_ref_type == reference.kind):
            raise ReferenceAlreadyExists(
                f"table '{table.name}' has a {there.snapshot_ref_type} '{reference.name}' already",
                "choose another name, or drop it first",
            )
        _check_kept(table, now, reference.snapshot_id)
        age_ms = None if retain is None else max(1, int(retain.total_seconds() * 1000))
        stage_updates(
            transaction,
            (
                SetSnapshotRefUpdate(
                    ref_name=reference.name,
                    type=SnapshotRefType(reference.kind),
                    snapshot_id=reference.snapshot_id,
                    max_ref_age_ms=age_ms,
                    max_snapshot_age_ms=None,
                    min_snapshots_to_keep=None,
                ),
            ),
        )

    _commit(catalog, table, build)


def drop_reference(catalog: IcebergCatalog, table: Table, name: str, kind: str) -> int:
    """Take a snapshot's name away; gives the snapshot's id.

    Raises:
        InvalidRequest: It is the branch main.
        SnapshotNotFound: The table has no tag or branch of that name.
    """
    if name == MAIN:
        raise InvalidRequest("the branch 'main' is the table itself and cannot be dropped")
    dropped = 0

    def build(transaction: Transaction) -> None:
        nonlocal dropped
        there = transaction.table_metadata.refs.get(name)
        if there is None or there.snapshot_ref_type != kind:
            names = [r.name for r in table.references if r.kind == kind and r.name != MAIN]
            raise SnapshotNotFound(
                f"table '{table.name}' has no {kind} '{name}'",
                f"there are {', '.join(names[:10])}" if names else f"it has no {kind}",
            )
        dropped = there.snapshot_id
        stage_updates(transaction, (RemoveSnapshotRefUpdate(ref_name=name),))

    _commit(catalog, table, build)
    return dropped


def roll_back(
    catalog: IcebergCatalog,
    table: Table,
    snapshot_id: int,
    expected: int | None = None,
    *,
    any_snapshot: bool = False,
) -> None:
    """Make a snapshot the current one; those after it stay, and can be made current again.

    Args:
        catalog: Where the table is.
        table: The table as it was looked at; when it has other rows by now, nothing is changed.
        snapshot_id: What becomes current.
        expected: What has to be current until then; left out, what ``table`` has.
        any_snapshot: Whether it may be one that the current one did not come from.

    Raises:
        CommitConflict: Rows were committed since the table was looked at.
        InvalidRequest: The current snapshot did not come from this one.
        SnapshotNotFound: The snapshot was removed meanwhile.
    """
    seen = table.metadata.current_snapshot_id if expected is None else expected

    def build(transaction: Transaction) -> None:
        now = transaction.table_metadata
        _check_same(table, now)
        _check_kept(table, now, snapshot_id)
        if now.current_snapshot_id != seen:
            raise CommitConflict(
                f"table '{table.name}' was changed by another writer at the same time; "
                "it was not rolled back",
                "look at its snapshots, and try again",
            )
        if not any_snapshot and snapshot_id not in ancestor_ids(now, now.current_snapshot_id):
            raise InvalidRequest(
                f"the current snapshot of table '{table.name}' did not come from snapshot {snapshot_id}",
                "say any_snapshot to make it current all the same",
            )
        head = now.refs.get(MAIN)
        stage_updates(
            transaction,
            (
                SetSnapshotRefUpdate(
                    ref_name=MAIN,
                    type=SnapshotRefType.BRANCH,
                    snapshot_id=snapshot_id,
                    max_ref_age_ms=head.max_ref_age_ms if head else None,
                    max_snapshot_age_ms=head.max_snapshot_age_ms if head else None,
                    min_snapshots_to_keep=head.min_snapshots_to_keep if head else None,
                ),
            ),
        )

    _commit(catalog, table, build)


def _commit(catalog: IcebergCatalog, table: Table, build: Callable[[Transaction], None]) -> None:
    with catalog.committing(table.name.schema, table.name.table):
        told = catalog.told(table.name)
        change_table(catalog.objects, table.name.schema, table.name.table, build, told=told)


def _check_same(table: Table, now: TableMetadata) -> None:
    if now.table_uuid != table.metadata.table_uuid:
        raise CommitConflict(f"table '{table.name}' was dropped and created again meanwhile", "try again")


def _check_kept(table: Table, now: TableMetadata, snapshot_id: int) -> None:
    if now.snapshot_by_id(snapshot_id) is None:
        raise SnapshotNotFound(f"snapshot {snapshot_id} of table '{table.name}' is no longer kept")


def _check_reference_name(name: str) -> None:
    check_name(name, "tag or branch")
    if name.isascii() and name.isdigit():
        raise InvalidRequest(f"a tag or branch cannot be called {name}: whole numbers are ids of snapshots")
