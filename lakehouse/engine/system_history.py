"""``system.snapshots``, ``history``, ``files`` and ``partitions``: the past and the files of lake tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from lakehouse.access.guarded_catalog import GuardedCatalog
from lakehouse.catalog import Table
from lakehouse.catalog.history import file_records, log_records, partition_records, snapshot_records
from lakehouse.engine.system_tables import Reading, SystemTable
from lakehouse.errors import LimitExceeded, NotSupported, SchemaNotFound, TableNotFound

_TIME = pa.timestamp("us", tz="UTC")
_TEXTS = pa.list_(pa.field("l", pa.string()))
_MAP = pa.map_(pa.string(), pa.string())
_OF = [("catalog_name", pa.string()), ("schema_name", pa.string()), ("table_name", pa.string())]
_BATCH_ROWS = 5000
_MOST_BYTES = 512 * 1024 * 1024

SNAPSHOTS_SCHEMA = pa.schema(
    [
        *_OF,
        ("snapshot_id", pa.int64()),
        ("parent_id", pa.int64()),
        ("sequence_number", pa.int64()),
        ("committed_at", _TIME),
        ("operation", pa.string()),
        ("summary", _MAP),
        ("tags", _TEXTS),
        ("branches", _TEXTS),
        ("is_current", pa.bool_()),
    ]
)
HISTORY_SCHEMA = pa.schema(
    [
        *_OF,
        ("made_current_at", _TIME),
        ("snapshot_id", pa.int64()),
        ("parent_id", pa.int64()),
        ("is_current_ancestor", pa.bool_()),
    ]
)
FILES_SCHEMA = pa.schema(
    [
        *_OF,
        ("content", pa.string()),
        ("file_path", pa.string()),
        ("file_format", pa.string()),
        ("spec_id", pa.int32()),
        ("partition", pa.string()),
        ("record_count", pa.int64()),
        ("file_size_bytes", pa.int64()),
        ("sort_order_id", pa.int32()),
        ("snapshot_id", pa.int64()),
        ("lower_bounds", _MAP),
        ("upper_bounds", _MAP),
        ("null_counts", pa.map_(pa.string(), pa.int64())),
    ]
)
PARTITIONS_SCHEMA = pa.schema(
    [
        *_OF,
        ("partition", pa.string()),
        ("spec_id", pa.int32()),
        ("record_count", pa.int64()),
        ("file_count", pa.int64()),
        ("total_size_bytes", pa.int64()),
        ("position_delete_file_count", pa.int64()),
        ("equality_delete_file_count", pa.int64()),
        ("last_updated_at", _TIME),
    ]
)
Rows = Callable[[Table, bool], Iterable[Mapping[str, Any]]]


def history_tables() -> tuple[SystemTable, ...]:
    """The tables over the history and the files of the lake tables that a principal may read."""
    return (
        _table("snapshots", "The snapshots of the lake tables", SNAPSHOTS_SCHEMA, _snapshots),
        _table("history", "Which snapshot of a lake table was current since when", HISTORY_SCHEMA, _history),
        _table("files", "The files of the current snapshots of the lake tables", FILES_SCHEMA, _files),
        _table("partitions", "The partitions of the lake tables", PARTITIONS_SCHEMA, _partitions),
    )


def _table(name: str, summary: str, schema: pa.Schema, rows: Rows) -> SystemTable:
    return SystemTable(name, summary, schema, scan=lambda reading: scan_tables(reading, name, schema, rows))


def scan_tables(reading: Reading, name: str, schema: pa.Schema, rows: Rows) -> pa.Table:
    """What there is to tell of all lake tables, in memory that is bounded, and interruptible meanwhile.

    Args:
        reading: The statement.
        name: The name of the system table.
        schema: Its columns, the first three of which name the lake table.
        rows: Gives its rows for a lake table, of which the principal may see a part only.

    Raises:
        LimitExceeded: There are too many of them.
    """
    batches: list[pa.RecordBatch] = []
    pending: list[Mapping[str, Any]] = []
    size = 0

    def flush() -> None:
        nonlocal size
        if pending:
            batches.append(pa.RecordBatch.from_pylist(pending, schema))
            pending.clear()
            size += batches[-1].nbytes
        if size > _MOST_BYTES:
            raise LimitExceeded(
                f"system.{name} has more rows than fit into memory at once",
                "ask for one table: WHERE schema_name = '…' AND table_name = '…'",
            )

    for table in _tables(reading):
        of = {
            "catalog_name": table.name.catalog,
            "schema_name": table.name.schema,
            "table_name": table.name.table,
        }
        in_part = bool(reading.lakes.access.table(table.name).restrictions)
        for row in rows(table, in_part):
            pending.append({**of, **row})
            if len(pending) >= _BATCH_ROWS:
                reading.check()
                flush()
    flush()
    return pa.Table.from_batches(batches, schema)


def _tables(reading: Reading) -> Iterator[Table]:
    """The tables that the principal may read and the statement wants, one after the other."""
    catalogs = reading.wanted.get("catalog_name")
    for lake in reading.lakes:
        if catalogs is None or lake.name in catalogs:
            yield from _tables_of(lake, reading)


def _tables_of(lake: GuardedCatalog, reading: Reading) -> Iterator[Table]:
    wanted = reading.wanted
    schemas = wanted.get("schema_name")
    names = wanted.get("table_name")
    for schema in lake.schemas():
        if schemas is not None and schema not in schemas:
            continue
        try:
            there = lake.tables(schema)
        except SchemaNotFound:
            continue
        for name in there:
            if names is not None and name not in names:
                continue
            reading.check()
            try:
                yield lake.load(schema, name)
            except (TableNotFound, SchemaNotFound, NotSupported):
                continue  # dropped meanwhile, or nothing that can be read


def _snapshots(table: Table, in_part: bool) -> Iterator[Mapping[str, Any]]:
    """What a snapshot added counts rows that a principal may not know of who sees a part of them."""
    for record in snapshot_records(table):
        row = {name: getattr(record, name) for name in record.__slots__}
        yield {**row, "summary": None if in_part else list(record.summary.items())}


def _history(table: Table, in_part: bool) -> Iterator[Mapping[str, Any]]:
    return map(asdict, log_records(table))


def _files(table: Table, in_part: bool) -> Iterator[Mapping[str, Any]]:
    """Bounds and counts tell of rows that are not for a principal who sees a part of them."""
    for record in () if in_part else file_records(table):
        row = {name: getattr(record, name) for name in record.__slots__}
        for name in ("lower_bounds", "upper_bounds", "null_counts"):
            row[name] = list(row[name].items())
        yield row


def _partitions(table: Table, in_part: bool) -> Iterator[Mapping[str, Any]]:
    for record in () if in_part else partition_records(table):
        row = asdict(record)
        del row["snapshots"]
        yield row
