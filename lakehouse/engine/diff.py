"""What distinguishes two snapshots of a table, as a query over the files that only one of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakehouse.catalog import Snapshot, Table
from lakehouse.engine.binding import has_deletes
from lakehouse.engine.database import Binding
from lakehouse.engine.engine import Engine, Plan
from lakehouse.engine.result import relation_schema
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.types import DataFileRef, quote

_KINDS = ("INSERT", "DELETE", "UPDATE_BEFORE", "UPDATE_AFTER")


@dataclass(frozen=True, slots=True)
class Diff:
    """A comparison that is ready to run.

    Args:
        rows: Gives the rows that differ, with ``change_column`` in front of the table's columns.
        counts: Gives how many rows of each kind there are.
        change_column: The name of the column that says what became of a row: ``INSERT``, ``DELETE``, and
            where the table has a primary key ``UPDATE_BEFORE`` and ``UPDATE_AFTER``.
        key: The columns by which rows are recognised; empty where only whole rows can be compared.
        files_read: How many files have to be read.
    """

    rows: Plan
    counts: Plan
    change_column: str
    key: tuple[str, ...]
    files_read: int


def plan_diff(engine: Engine, session: Session, table: Table, before: Snapshot, after: Snapshot) -> Diff:
    """Compare two snapshots, in the columns of the later one, as the session's principal sees the rows.

    Files that both have are not read: their rows are the same.

    Raises:
        AccessPolicyError: A filter or mask of the principal does not fit the table.
        NotSupported: A snapshot has files that cannot be read.
    """
    old, new = table.files(before.snapshot_id), table.files(after.snapshot_id)
    gone = _missing(old, new)
    come = _missing(new, old)
    sides = [
        _side(engine, session, table, after.schema_id, files, slot)
        for slot, files in enumerate((gone, come), start=1)
    ]
    columns = table.arrow_schema(after.schema_id).names
    change = "_change_type"
    while change in {name.lower() for name in columns}:
        change = "_" + change
    key = tuple(name for name in table.primary_key if name in columns)
    if len(key) < len(table.primary_key):
        key = ()
    sql = _sql(sides[0][0], sides[1][0], quote(change), key)
    counts = f"SELECT {quote(change)}, count(*) FROM ({sql}) GROUP BY ALL"
    ordered = f"{sql} ORDER BY {', '.join(map(quote, key))}, {quote(change)} DESC" if key else sql
    bindings = tuple(binding for _, bound in sides for binding in bound)
    return Diff(
        _plan(engine, session, ordered, bindings, table),
        _plan(engine, session, counts, bindings, table),
        change,
        key,
        len(gone) + len(come),
    )


def count_changes(engine: Engine, session: Session, diff: Diff, watch: CallWatch) -> dict[str, int]:
    """How many rows there are of each kind of change.

    Raises:
        LakehouseError: The statement failed, was cancelled or ran out of time.
    """
    found = pa.Table.from_batches(list(engine.open(diff.counts, session, watch)), diff.counts.schema)
    told = dict(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))
    return {kind: told.get(kind, 0) for kind in _KINDS}


def _missing(files: Sequence[DataFileRef], others: Sequence[DataFileRef]) -> tuple[DataFileRef, ...]:
    there = set(others)
    return tuple(file for file in files if file not in there)


def _side(
    engine: Engine,
    session: Session,
    table: Table,
    schema_id: int,
    files: tuple[DataFileRef, ...],
    slot: int,
) -> tuple[str, tuple[Binding, Binding]]:
    merges = has_deletes(files)
    binder, access = engine.binder, session.access
    if access.table(table.name).restrictions:
        view, variable = binder.restricted_view(table, access, schema_id, slot, merges=merges)
    else:
        found, variable = binder.view(table, schema_id, slot, merges=merges)
        view = found or table.name.sql
    key, empty = (table.uuid, schema_id, "diff", hash(files), len(files)), binder.empty_file(table, schema_id)
    return view, binder.file_bindings(variable, key, files, empty)


def _sql(old: str, new: str, change: str, key: Sequence[str]) -> str:
    """Rows as multisets: of equal rows as many differ as one side has more of than the other."""
    parts = (
        f"WITH gone AS MATERIALIZED (SELECT * FROM {old} EXCEPT ALL SELECT * FROM {new}), "
        f"come AS MATERIALIZED (SELECT * FROM {new} EXCEPT ALL SELECT * FROM {old}) "
    )
    same = " AND ".join(f"gone.{quote(name)} = come.{quote(name)}" for name in key)

    def side(name: str, other: str, alone: str, both: str) -> str:
        if not key:
            return f"SELECT '{alone}' AS {change}, * FROM {name}"
        known = f"EXISTS (SELECT 1 FROM {other} WHERE {same})"
        return f"SELECT CASE WHEN {known} THEN '{both}' ELSE '{alone}' END AS {change}, * FROM {name}"

    before = side("gone", "come", "DELETE", "UPDATE_BEFORE")
    after = side("come", "gone", "INSERT", "UPDATE_AFTER")
    return f"{parts}SELECT * FROM ({before} UNION ALL {after})"


def _plan(engine: Engine, session: Session, sql: str, bindings: tuple[Binding, ...], table: Table) -> Plan:
    with engine.cursor(session.state(), None) as cursor, engine.errors():
        cursor.bind_columns(bindings, engine.database.empty_file)
        schema = relation_schema(cursor.connection.sql(sql))
    return Plan(sql, session.state(), bindings, schema, names=(table.name,))
