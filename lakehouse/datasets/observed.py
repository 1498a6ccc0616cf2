"""What a table itself says of itself, as a manifest, and how that goes together with what else is known."""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from lakehouse.catalog import Table
from lakehouse.catalog.file_statistics import ColumnStatistics
from lakehouse.datasets.fingerprint import fingerprint
from lakehouse.datasets.manifest import (
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    LineageEdge,
    Sensitivity,
)
from lakehouse.errors import NotSupported

_MOST_EDGES = 50
_MOST_TEXT = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The operation of snapshots that regroup rows without changing any.
_REGROUPS = "replace"


def observed(table: Table, now: datetime, *, statistics: bool = True) -> DatasetManifest:
    """The manifest of a table as far as the table tells it. Reads metadata only, no data file.

    Args:
        table: The table.
        now: When it became known.
        statistics: Whether rows and columns are counted too.

    Raises:
        LakehouseError: Metadata of the table cannot be read.
    """
    counts = (len(table.files()), table.record_count, table.size_bytes) if statistics else (0, 0, 0)
    return DatasetManifest(
        dataset_id=table.uuid,
        version=1,
        kind=DatasetKind.TABLE,
        name=table.name,
        bucket=table.planner.bucket_name,
        location=table.planner.shown(table.metadata.location),
        snapshot_id=table.snapshot_id,
        objects=(),
        object_count=counts[0],
        rows=counts[1],
        size_bytes=counts[2],
        columns=_columns(table, statistics),
        fingerprint=_fingerprint(table),
        owner="",
        description=table.description or "",
        tags=(),
        lineage=(),
        freshness_seconds=None,
        changed_at=changed_at(table),
        created_at=now,
        created_by="",
        updated_at=now,
        updated_by="",
    )


def changed_at(table: Table) -> datetime | None:
    """When the rows of a table changed last; None for a table that never had any."""
    metadata = table.metadata
    snapshot = metadata.current_snapshot()
    while snapshot is not None and snapshot.summary and snapshot.summary.operation.value == _REGROUPS:
        before = snapshot.parent_snapshot_id
        parent = None if before is None else metadata.snapshot_by_id(before)
        if parent is None:
            break
        snapshot = parent
    return None if snapshot is None else _EPOCH + timedelta(milliseconds=snapshot.timestamp_ms)


def is_current(manifest: DatasetManifest, table: Table) -> bool:
    """Whether counts, columns and description of a manifest are those of the table as it is."""
    return (
        manifest.snapshot_id == table.snapshot_id
        and manifest.name == table.name
        and manifest.description == (table.description or "")
        and [(c.name, c.type, not c.nullable) for c in manifest.columns] == _typed(table)
        and {c.name: c.description for c in manifest.columns if c.description} == dict(table.column_docs)
    )


def merged(
    old: DatasetManifest | None,
    seen: DatasetManifest,
    *,
    by: str = "",
    edges: Sequence[LineageEdge] = (),
    renamed: Mapping[str, str] | None = None,
    found: Mapping[str, tuple[Sensitivity, ...]] | None = None,
) -> DatasetManifest:
    """What a table says of itself, together with what else was known of it.

    Args:
        old: What is known; None where nothing is.
        seen: What the table says.
        by: Whose change it is; empty where nobody knows.
        edges: Where rows came from that were added.
        renamed: New names of columns, by the old ones.
        found: The kinds of data that were found in columns; None where nobody looked.
    """
    if old is None:
        columns = _with_knowledge(seen.columns, {}, found)
        return replace(
            seen,
            owner=by,
            created_by=by,
            updated_by=by,
            columns=columns,
            lineage=_with_edges((), edges),
        )
    moved = renamed or {}
    known = {moved.get(column.name, column.name): column for column in old.columns}
    new = replace(
        seen,
        version=old.version,
        columns=_with_knowledge(seen.columns, known, found),
        owner=old.owner,
        tags=old.tags,
        lineage=_with_edges(old.lineage, edges),
        freshness_seconds=old.freshness_seconds,
        created_at=old.created_at,
        created_by=old.created_by,
        updated_at=old.updated_at,
        updated_by=old.updated_by,
    )
    if new == old:
        return old
    return replace(new, updated_at=seen.updated_at, updated_by=by or old.updated_by)


def without_counts(old: DatasetManifest | None, seen: DatasetManifest) -> DatasetManifest:
    """What a table says of itself without its rows, which stay as they were known."""
    if old is None:
        return seen
    known = {column.name: column for column in old.columns}
    columns = tuple(
        replace(
            column,
            values=known[column.name].values,
            nulls=known[column.name].nulls,
            minimum=known[column.name].minimum,
            maximum=known[column.name].maximum,
            size_bytes=known[column.name].size_bytes,
        )
        if column.name in known and known[column.name].type == column.type
        else column
        for column in seen.columns
    )
    return replace(
        seen,
        snapshot_id=old.snapshot_id,
        object_count=old.object_count,
        rows=old.rows,
        size_bytes=old.size_bytes,
        changed_at=old.changed_at,
        columns=columns,
    )


def renamed_columns(before: Table, after: Table) -> dict[str, str]:
    """New names of columns by their old ones, for those whose name is another now."""
    names = {field.field_id: field.name for field in after.metadata.schema().fields}
    old = ((field.name, names.get(field.field_id)) for field in before.metadata.schema().fields)
    return {was: now for was, now in old if now is not None and now != was}


def declared_of(column: ColumnManifest) -> tuple[Sensitivity, ...]:
    """What somebody said of a column; with a confidence of 0 what it does not hold."""
    return tuple(each for each in column.sensitivity if each.declared)


def sensitivity_of(column: ColumnManifest) -> tuple[Sensitivity, ...]:
    """What a column holds, without what was declined."""
    return tuple(each for each in column.sensitivity if each.confidence > 0)


def together(declared: Sequence[Sensitivity], detected: Iterable[Sensitivity]) -> tuple[Sensitivity, ...]:
    """What was declared, and what was found besides: whoever declares a kind, or declines it, is believed."""
    kinds = {each.kind for each in declared}
    return (*declared, *(each for each in detected if each.kind not in kinds))


def _with_knowledge(
    columns: Iterable[ColumnManifest],
    known: Mapping[str, ColumnManifest],
    found: Mapping[str, tuple[Sensitivity, ...]] | None,
) -> tuple[ColumnManifest, ...]:
    result = []
    for column in columns:
        before = known.get(column.name)
        sensitivity = before.sensitivity if before else ()
        if found is not None:
            declared = declared_of(before) if before else ()
            sensitivity = together(declared, found.get(column.name, ()))
        if any(each.confidence > 0 for each in sensitivity):
            column = replace(column, minimum=None, maximum=None)  # noqa: PLW2901 - values of such columns are not kept
        result.append(replace(column, tags=before.tags if before else (), sensitivity=sensitivity))
    return tuple(result)


def _with_edges(old: Sequence[LineageEdge], new: Iterable[LineageEdge]) -> tuple[LineageEdge, ...]:
    """Edges in the order of time: one that comes again counts once, with its last time."""
    edges = {(e.system, e.source, e.ingest, e.inputs, e.by): e for e in old}
    for edge in new:
        key = (edge.system, edge.source, edge.ingest, edge.inputs, edge.by)
        edges.pop(key, None)
        edges[key] = edge
    found = tuple(edges.values())
    return found if len(found) <= _MOST_EDGES else (found[0], *found[1 - _MOST_EDGES :])


def _fingerprint(table: Table) -> str:
    try:
        return fingerprint(table.arrow_schema())
    except NotSupported:
        return ""


def _typed(table: Table) -> list[tuple[str, str, bool]]:
    """Name and SQL type of each column, and whether it is required."""
    fields = table.metadata.schema().fields
    try:
        types = dict(table.sql_columns())
    except NotSupported:
        types = {field.name: str(field.field_type).upper() for field in fields}
    return [(field.name, types[field.name], field.required) for field in fields]


def _columns(table: Table, statistics: bool) -> tuple[ColumnManifest, ...]:
    fields = table.metadata.schema().fields
    plain = [
        ColumnManifest(name=name, type=kind, nullable=not required, description=field.doc or "")
        for (name, kind, required), field in zip(_typed(table), fields, strict=True)
    ]
    if not statistics or table.snapshot_id is None:
        return tuple(plain)
    told = table.planner.statistics(str(table.name), table.metadata, table.snapshot_id)
    has_deletes = any(file.deletes for file in table.files())
    found = []
    for column, field in zip(plain, fields, strict=True):
        each = told.column(field.field_id, field.field_type)
        counts = (table.record_count, None) if has_deletes else _counts(each, table.record_count)
        minimum, maximum = (None, None) if each is None else _bounds(each, field.field_type)
        found.append(replace(column, values=counts[0], nulls=counts[1], minimum=minimum, maximum=maximum))
    return tuple(found)


def _counts(told: ColumnStatistics | None, rows: int) -> tuple[int, int | None]:
    if told is None or (told.nulls < 0).any():
        return rows, None
    return rows, int(told.nulls.sum())


def _bounds(told: ColumnStatistics, kind: Any) -> tuple[str | None, str | None]:
    """The least and the greatest value as text, where every file with a value tells its own."""
    has_values = told.nulls != told.rows
    if not has_values.any():
        return None, None
    least = _bound(told.lower[has_values], told.has_lower[has_values], min)
    greatest = _bound(told.upper[has_values], told.has_upper[has_values], max)
    return _text(least, kind), _text(greatest, kind)


def _bound(values: Any, known: Any, choose: Any) -> Any:
    if not known.all():
        return None
    if values.dtype == object:
        return choose(values.tolist())
    return (np.min(values) if choose is min else np.max(values)).item()


def _text(value: Any, kind: Any) -> str | None:
    """A bound as text, by the name of its Iceberg type."""
    if value is None:
        return None
    name = str(kind)
    try:
        if name == "string":
            return str(value.decode("utf-8", "replace"))[:_MOST_TEXT]
        if name == "boolean":
            return "true" if value else "false"
        if name == "date":
            return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
        if name in ("timestamp", "timestamptz"):
            moment = _EPOCH + timedelta(microseconds=value)
            return (moment if name == "timestamptz" else moment.replace(tzinfo=None)).isoformat()
        if name.startswith("decimal"):
            return str(decimal.Decimal(int(value)).scaleb(-int(kind.scale), decimal.Context(prec=60)))
    except (OverflowError, ValueError):
        return None
    return str(value)
