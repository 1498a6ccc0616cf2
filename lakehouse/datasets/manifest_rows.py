"""Manifests as rows of Parquet objects, and back. Columns and lists are decoded whole, not value by value."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.datasets.manifest import (
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    DatasetObject,
    LineageEdge,
    Sensitivity,
    VectorFacts,
)
from lakehouse.types import TableName

_TIME = pa.timestamp("us", tz="UTC")
_TEXTS = pa.list_(pa.string())
_SENSITIVITY = pa.struct(
    [("kind", pa.string()), ("confidence", pa.float64()), ("evidence", pa.string()), ("declared", pa.bool_())]
)
_COLUMN = pa.struct(
    [
        ("name", pa.string()),
        ("type", pa.string()),
        ("nullable", pa.bool_()),
        ("values", pa.int64()),
        ("nulls", pa.int64()),
        ("minimum", pa.string()),
        ("maximum", pa.string()),
        ("size_bytes", pa.int64()),
        ("description", pa.string()),
        ("tags", _TEXTS),
        ("sensitivity", pa.list_(_SENSITIVITY)),
    ]
)
_OBJECT = pa.struct(
    [("key", pa.string()), ("size_bytes", pa.int64()), ("rows", pa.int64()), ("e_tag", pa.string())]
)
_EDGE = pa.struct(
    [
        ("system", pa.string()),
        ("source", pa.string()),
        ("ingest", pa.string()),
        ("inputs", _TEXTS),
        ("at", _TIME),
        ("by", pa.string()),
    ]
)
_VECTORS = pa.struct(
    [
        ("index", pa.string()),
        ("generation", pa.string()),
        ("slot", pa.int64()),
        ("live_since", _TIME),
        ("why", pa.string()),
        ("model", pa.string()),
        ("model_provider", pa.string()),
        ("model_name", pa.string()),
        ("model_digest", pa.string()),
        ("dimension", pa.int64()),
        ("metric", pa.string()),
        ("algorithm", pa.string()),
        ("storage", pa.string()),
        ("m", pa.int64()),
        ("ef_construction", pa.int64()),
        ("ef_search", pa.int64()),
        ("source", _TEXTS),
        ("source_id", pa.string()),
        ("source_column", pa.string()),
        ("source_snapshot_id", pa.int64()),
        ("guard", _TEXTS),
        ("guard_id", pa.string()),
        ("guard_columns", _TEXTS),
        ("guard_keys", _TEXTS),
        ("guard_snapshot_id", pa.int64()),
        ("build_seconds", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("dataset_id", pa.string()),
        ("version", pa.int64()),
        ("kind", pa.string()),
        ("catalog_name", pa.string()),
        ("schema_name", pa.string()),
        ("table_name", pa.string()),
        ("bucket", pa.string()),
        ("location", pa.string()),
        ("snapshot_id", pa.int64()),
        ("objects", pa.list_(_OBJECT)),
        ("object_count", pa.int64()),
        ("rows", pa.int64()),
        ("size_bytes", pa.int64()),
        ("columns", pa.list_(_COLUMN)),
        ("fingerprint", pa.string()),
        ("owner", pa.string()),
        ("description", pa.string()),
        ("tags", _TEXTS),
        ("lineage", pa.list_(_EDGE)),
        ("freshness_seconds", pa.int64()),
        ("changed_at", _TIME),
        ("created_at", _TIME),
        ("created_by", pa.string()),
        ("updated_at", _TIME),
        ("updated_by", pa.string()),
        ("dropped", pa.bool_()),
        ("vectors", pa.list_(_VECTORS)),
    ]
)
"""The columns of the objects that hold manifests; a name is kept in its three parts."""

_DIGEST, _NO_DIGEST = "sha256", b"0" * 64
_NAME_PARTS = ("catalog", "schema", "table")
_CLASSES: Mapping[str, type] = {
    "objects": DatasetObject,
    "columns": ColumnManifest,
    "sensitivity": Sensitivity,
    "lineage": LineageEdge,
    "vectors": VectorFacts,
}
_TIMES = {"at", "changed_at", "created_at", "updated_at", "live_since"}


def to_rows(manifests: Sequence[DatasetManifest]) -> pa.Table:
    """A row for each manifest, with the columns of ``SCHEMA``."""
    values = {f"{part}_name": [getattr(m.name, part) for m in manifests] for part in _NAME_PARTS}
    values["vectors"] = [() if m.vectors is None else (m.vectors,) for m in manifests]
    for column in SCHEMA.names:
        if column not in values:
            values[column] = list(map(attrgetter(column), manifests))
    arrays = [_encoded(column.type, values[column.name]) for column in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_rows(rows: pa.Table) -> list[DatasetManifest]:
    """The manifests in rows with the columns of ``SCHEMA``."""
    values = {name: _decoded(name, rows.column(name).combine_chunks()) for name in rows.column_names}
    names = map(TableName, *(values.pop(f"{part}_name") for part in _NAME_PARTS))
    values["name"] = list(names)
    values["kind"] = list(map(DatasetKind, values["kind"]))
    values["vectors"] = [each[0] if each else None for each in values["vectors"]]
    found = [field.name for field in fields(DatasetManifest)]
    return [DatasetManifest(*parts) for parts in zip(*(values[name] for name in found), strict=True)]


def to_parquet(rows: pa.Table, note: str = "") -> bytes:
    """An object that holds rows, and a digest of itself so that any damage to it is noticed.

    Args:
        rows: Rows with the columns of ``SCHEMA``.
        note: Something that makes the object differ from others with the same rows.
    """
    target = io.BytesIO()
    with pq.ParquetWriter(target, rows.schema, compression="zstd") as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({_DIGEST: _NO_DIGEST, "note": note})
    content = target.getvalue()
    return content.replace(_NO_DIGEST, _digest(content), 1)


def from_parquet(content: bytes) -> pa.Table:
    """The rows in an object, with the columns of ``SCHEMA``.

    What an older version of this program did not write is empty, what a newer one added is left out.

    Raises:
        ValueError: It holds no manifests, or is damaged.
    """
    try:
        source = pq.ParquetFile(pa.BufferReader(content))
        digest = (source.metadata.metadata or {}).get(_DIGEST.encode(), b"")
        if not digest or _digest(content.replace(digest, _NO_DIGEST, 1)) != digest:
            raise ValueError("it is damaged, or not of this program: its digest is wrong")
        found = source.read().replace_schema_metadata(None)
        if not found.schema.equals(SCHEMA):
            found = _fitted(found)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is damaged, or not of this program: {type(error).__name__}") from error
    required = ("dataset_id", "version", "kind", "catalog_name", "schema_name", "table_name")
    if any(found.column(name).null_count for name in required):
        raise ValueError("it holds a manifest without an id, version, kind or name")
    unknown = set(found.column("kind").unique().to_pylist()) - set(DatasetKind)
    if unknown:
        raise ValueError("it holds manifests of a kind that this version does not know")
    return found


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _fitted(found: pa.Table) -> pa.Table:
    columns = [
        found.column(field.name).cast(field.type)
        if field.name in found.column_names
        else pa.nulls(len(found), field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _encoded(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    if pa.types.is_list(kind):
        offsets = pa.array(accumulate(map(len, values), initial=0), pa.int32())
        return pa.ListArray.from_arrays(
            offsets, _encoded(kind.value_type, list(chain.from_iterable(values))), type=kind
        )
    if pa.types.is_struct(kind):
        parts = [_encoded(field.type, list(map(attrgetter(field.name), values))) for field in kind]
        return pa.StructArray.from_arrays(parts, fields=list(kind))
    return pa.array(values, kind)


def _decoded(name: str, array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_list(kind):
        flat = _decoded(name, array.flatten())
        return _cut(flat, array.value_lengths().to_pylist())
    if pa.types.is_struct(kind):
        return _made(_CLASSES[name], {f.name: part for f, part in zip(kind, array.flatten(), strict=True)})
    values: list[Any] = array.to_pylist()
    if name in _TIMES:
        return [_utc(value) for value in values]
    default = _default(name, kind)
    if default is None or not array.null_count:
        return values
    return [default if value is None else value for value in values]


def _made(kind: type, parts: Mapping[str, pa.Array]) -> list[Any]:
    values = [_decoded(field.name, parts[field.name]) for field in fields(kind)]
    return [kind(*each) for each in zip(*values, strict=True)]


def _cut(flat: Sequence[Any], lengths: Iterable[int | None]) -> list[tuple[Any, ...]]:
    found, at = [], 0
    for length in lengths:
        end = at + (length or 0)
        found.append(tuple(flat[at:end]) if length else ())
        at = end
    return found


# None stands for what is not known in these only.
_OPTIONAL = {
    "snapshot_id", "source_snapshot_id", "guard_snapshot_id", "freshness_seconds",
    "values", "nulls", "minimum", "maximum",
}  # fmt: skip


def _default(name: str, kind: pa.DataType) -> Any:
    if name in _OPTIONAL or pa.types.is_timestamp(kind):
        return None
    if pa.types.is_string(kind):
        return ""
    return None if name == "size_bytes" else False if pa.types.is_boolean(kind) else 0


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(tzinfo=UTC)
