"""What a table's metadata tells about its past and its files, in Iceberg's own terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile, DataFileContent, ManifestEntry
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IcebergType, PrimitiveType

from lakehouse.catalog.iceberg_errors import iceberg_errors
from lakehouse.catalog.table import Table

_CONTENT = {
    DataFileContent.DATA: "data",
    DataFileContent.POSITION_DELETES: "position deletes",
    DataFileContent.EQUALITY_DELETES: "equality deletes",
}


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot; ``committed_at`` is in UTC, ``operation`` is append, overwrite, delete or replace."""

    snapshot_id: int
    parent_id: int | None
    sequence_number: int | None
    committed_at: datetime
    operation: str
    summary: Mapping[str, str]
    tags: tuple[str, ...]
    branches: tuple[str, ...]
    is_current: bool


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A snapshot becoming the current one; ``is_current_ancestor`` is false after a rollback behind it."""

    made_current_at: datetime
    snapshot_id: int
    parent_id: int | None
    is_current_ancestor: bool


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A data or delete file of the current snapshot. Bounds are readable, by the name of the column."""

    content: str
    file_path: str
    file_format: str
    spec_id: int
    partition: str
    record_count: int
    file_size_bytes: int
    sort_order_id: int | None
    snapshot_id: int | None
    lower_bounds: Mapping[str, str]
    upper_bounds: Mapping[str, str]
    null_counts: Mapping[str, int]


@dataclass(slots=True)
class PartitionRecord:
    """The files of one partition; ``last_updated_at`` is None where that snapshot is no longer kept."""

    partition: str
    spec_id: int
    record_count: int = 0
    file_count: int = 0
    total_size_bytes: int = 0
    position_delete_file_count: int = 0
    equality_delete_file_count: int = 0
    last_updated_at: datetime | None = None
    snapshots: set[int] = field(default_factory=set)


def snapshot_records(table: Table) -> list[SnapshotRecord]:
    """The snapshots that are kept, oldest first."""
    metadata = table.metadata
    by_kind: dict[str, dict[int, list[str]]] = {"tag": {}, "branch": {}}
    for reference in table.references:
        by_kind[reference.kind].setdefault(reference.snapshot_id, []).append(reference.name)
    return [
        SnapshotRecord(
            snapshot.snapshot_id,
            snapshot.parent_snapshot_id,
            snapshot.sequence_number,
            moment(snapshot.timestamp_ms),
            snapshot.summary.operation.value if snapshot.summary else "",
            dict(snapshot.summary.additional_properties) if snapshot.summary else {},
            tuple(by_kind["tag"].get(snapshot.snapshot_id, ())),
            tuple(by_kind["branch"].get(snapshot.snapshot_id, ())),
            snapshot.snapshot_id == metadata.current_snapshot_id,
        )
        for snapshot in sorted(metadata.snapshots, key=_age)
    ]


def log_records(table: Table) -> list[LogRecord]:
    """Which snapshot was the current one since when, oldest first."""
    metadata = table.metadata
    ancestors = set(ancestor_ids(metadata, metadata.current_snapshot_id))
    parents = {s.snapshot_id: s.parent_snapshot_id for s in metadata.snapshots}
    return [
        LogRecord(
            moment(entry.timestamp_ms),
            entry.snapshot_id,
            parents.get(entry.snapshot_id),
            entry.snapshot_id in ancestors,
        )
        for entry in metadata.snapshot_log
    ]


def file_records(table: Table) -> Iterator[FileRecord]:
    """The files of the current snapshot, delete files included; manifests are read one by one.

    Raises:
        StorageError: A manifest cannot be read.
    """
    schema = table.metadata.schema()
    columns = {
        field_id: (name, field_type)
        for field_id, name in _column_names(schema).items()
        if isinstance(field_type := schema.find_type(field_id), PrimitiveType)
    }
    for entry in _entries(table):
        file = entry.data_file
        yield FileRecord(
            _CONTENT[file.content],
            table.planner.shown(file.file_path),
            file.file_format.value.lower(),
            file.spec_id,
            partition_path(table.metadata, schema, file),
            file.record_count,
            file.file_size_in_bytes,
            file.sort_order_id,
            entry.snapshot_id,
            _bounds(columns, file.lower_bounds),
            _bounds(columns, file.upper_bounds),
            {columns[i][0]: n for i, n in (file.null_value_counts or {}).items() if i in columns},
        )


def partition_records(table: Table) -> list[PartitionRecord]:
    """The partitions of the current snapshot, sorted; an unpartitioned table is one, without a name."""
    found: dict[tuple[int, str], PartitionRecord] = {}
    metadata, schema = table.metadata, table.metadata.schema()
    for entry in _entries(table):
        file = entry.data_file
        name = partition_path(metadata, schema, file)
        record = found.setdefault((file.spec_id, name), PartitionRecord(name, file.spec_id))
        if file.content is DataFileContent.DATA:
            record.record_count += file.record_count
            record.file_count += 1
            record.total_size_bytes += file.file_size_in_bytes
        elif file.content is DataFileContent.POSITION_DELETES:
            record.position_delete_file_count += 1
        else:
            record.equality_delete_file_count += 1
        if entry.snapshot_id is not None:
            record.snapshots.add(entry.snapshot_id)
    for record in found.values():
        times = [s.timestamp_ms for s in metadata.snapshots if s.snapshot_id in record.snapshots]
        record.last_updated_at = moment(max(times)) if times else None
    return [found[key] for key in sorted(found)]


def ancestor_ids(metadata: TableMetadata, snapshot_id: int | None) -> Iterator[int]:
    """A snapshot and those it came from, as far as they are kept."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    seen: set[int] = set()
    while snapshot_id is not None and snapshot_id in by_id and snapshot_id not in seen:
        seen.add(snapshot_id)
        yield snapshot_id
        snapshot_id = by_id[snapshot_id].parent_snapshot_id


def partition_path(metadata: TableMetadata, schema: Schema, file: DataFile) -> str:
    """The partition of a file as Iceberg writes it into paths: ``day=2026-01-01/kind=a``; or empty."""
    spec = metadata.specs()[file.spec_id]
    return "" if spec.is_unpartitioned() else spec.partition_to_path(file.partition, schema)


def moment(timestamp_ms: int) -> datetime:
    """A time as Iceberg counts it, in UTC."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)


def _entries(table: Table) -> Iterator[ManifestEntry]:
    snapshot = table.metadata.current_snapshot()
    if snapshot is None:
        return
    with iceberg_errors(f"table '{table.name}'"):
        yield from table.planner.entries(table.metadata, snapshot)


def _bounds(
    columns: Mapping[int, tuple[str, IcebergType]], bounds: Mapping[int, bytes] | None
) -> dict[str, str]:
    return {
        columns[i][0]: _readable(columns[i][1], value) for i, value in (bounds or {}).items() if i in columns
    }


def _readable(kind: IcebergType, value: bytes) -> str:
    try:
        return IdentityTransform().to_human_string(kind, from_bytes(kind, value))  # type: ignore[arg-type]
    except (ValueError, OverflowError, TypeError, ArithmeticError):
        return "0x" + value.hex()  # what Python has no value for, such as a date after 9999


def _age(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.timestamp_ms, snapshot.sequence_number or 0


def _column_names(schema: Schema) -> dict[int, str]:
    return {field_id: schema.find_column_name(field_id) or "" for field_id in sorted(schema.field_ids)}
