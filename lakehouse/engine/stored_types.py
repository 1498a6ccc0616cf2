"""The types that tables keep DuckDB's types as; others are refused with what works instead."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from lakehouse.errors import TypeNotStorable
from lakehouse.types import quote

_TEXT, _TIMESTAMP, _TIME = (
    ("VARCHAR", pa.string()),
    ("TIMESTAMP", pa.timestamp("us")),
    ("TIME", pa.time64("us")),
)
_INTEGER, _WIDEST = ("INTEGER", pa.int32()), ("DECIMAL(38,0)", pa.decimal128(38, 0))
# Per id of a type that has no parameters: what it is kept as, in DuckDB's words and in Arrow's.
_KEPT: dict[str, tuple[str, pa.DataType]] = {
    "boolean": ("BOOLEAN", pa.bool_()),
    "tinyint": _INTEGER,
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "utinyint": _INTEGER,
    "usmallint": _INTEGER,
    "uinteger": ("BIGINT", pa.int64()),
    "bigint": ("BIGINT", pa.int64()),
    "ubigint": ("DECIMAL(20,0)", pa.decimal128(20, 0)),
    "hugeint": _WIDEST,
    "uhugeint": _WIDEST,
    "float": ("FLOAT", pa.float32()),
    "double": ("DOUBLE", pa.float64()),
    "varchar": _TEXT,
    "enum": _TEXT,
    "null": _TEXT,
    "blob": ("BLOB", pa.binary()),
    "date": ("DATE", pa.date32()),
    "time": _TIME,
    "time_ns": _TIME,
    "timestamp": _TIMESTAMP,
    "timestamp_s": _TIMESTAMP,
    "timestamp_ms": _TIMESTAMP,
    "timestamp_ns": _TIMESTAMP,
    "timestamp with time zone": ("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "UTC")),
    "uuid": ("UUID", pa.uuid()),
}
_SQL = {arrow: sql for sql, arrow in _KEPT.values()}
_INSTEAD = {
    "interval": "store months, days and microseconds as columns of their own, or the interval as VARCHAR",
    "bit": "store it as VARCHAR of 0 and 1, or as BLOB",
    "bignum": "DECIMAL(38, 0) if the values fit, or VARCHAR",
    "time with time zone": "TIME with the offset as a column of its own, or TIMESTAMP WITH TIME ZONE",
    "union": "a STRUCT with one nullable field for each of the alternatives",
    "variant": "JSON, which is kept as text, or a STRUCT",
    "geometry": "BLOB, with ST_AsWKB() to write and ST_GeomFromWKB() to read",
}


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that tables keep, or of lists and maps of such."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    return _SQL[kind]


def stored_type(kind: DuckDBPyType, column: str) -> tuple[str, pa.DataType]:
    """What a table keeps values of a type as: DuckDB's type, and the storable Arrow type.

    Args:
        kind: The type of a column or of a query's result.
        column: The column's name, for messages.

    Raises:
        TypeNotStorable: An Iceberg table has nothing that loses nothing.
    """
    kept = _KEPT.get(kind.id)
    if kept is not None:
        return kept
    if kind.id == "decimal":
        precision, scale = (int(size) for _, size in _children(kind))
        return f"DECIMAL({precision},{scale})", pa.decimal128(precision, scale)
    if kind.id in ("list", "array"):
        sql, arrow = stored_type(_children(kind)[0][1], f"{column}.element")
        return f"{sql}[]", pa.list_(pa.field("element", arrow))
    if kind.id == "map":
        keys, values = (stored_type(child, f"{column}.{name}") for name, child in _children(kind))
        return f"MAP({keys[0]}, {values[0]})", pa.map_(keys[1], values[1])
    if kind.id in ("struct", "tuple"):
        named = [
            (name or f"element{number}", child) for number, (name, child) in enumerate(_children(kind), 1)
        ]
        fields = [(name, stored_type(child, f"{column}.{name}")) for name, child in named]
        sql = ", ".join(f"{quote(name)} {field}" for name, (field, _) in fields)
        return f"STRUCT({sql})", pa.struct([pa.field(name, arrow) for name, (_, arrow) in fields])
    raise TypeNotStorable(
        f"column '{column}' has the type {kind}, which an Iceberg table cannot hold",
        _INSTEAD.get(kind.id, "cast it to a type that Iceberg has"),
    )


def is_wider(kind: DuckDBPyType) -> bool:
    """Whether values of a type have to be cast, because Arrow takes them for what they may not be."""
    if kind.id in ("hugeint", "uhugeint"):
        return True
    nested = kind.id in ("list", "array", "map", "struct", "tuple")
    return nested and any(isinstance(c, DuckDBPyType) and is_wider(c) for _, c in _children(kind))


def _children(kind: DuckDBPyType) -> list[tuple[str, Any]]:
    return list(kind.children)
