"""What the columns of a table are, as ``ARROW:FLIGHT:SQL:*`` field metadata tells it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

_PREFIX = "ARROW:FLIGHT:SQL:"
REMARKS = f"{_PREFIX}REMARKS"
"""The key of what a column, or a table in the metadata of its schema, is in words."""
_FRACTION_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_NAMES: dict[pa.DataType, tuple[str, int | None, int | None]] = {
    pa.bool_(): ("BOOLEAN", 1, None),
    pa.int8(): ("TINYINT", 3, 0),
    pa.int16(): ("SMALLINT", 5, 0),
    pa.int32(): ("INTEGER", 10, 0),
    pa.int64(): ("BIGINT", 19, 0),
    pa.uint8(): ("UTINYINT", 3, 0),
    pa.uint16(): ("USMALLINT", 5, 0),
    pa.uint32(): ("UINTEGER", 10, 0),
    pa.uint64(): ("UBIGINT", 20, 0),
    pa.float32(): ("FLOAT", 7, None),
    pa.float64(): ("DOUBLE", 15, None),
    pa.date32(): ("DATE", 10, None),
    pa.string(): ("VARCHAR", None, None),
    pa.large_string(): ("VARCHAR", None, None),
    pa.binary(): ("BLOB", None, None),
    pa.large_binary(): ("BLOB", None, None),
    pa.month_day_nano_interval(): ("INTERVAL", None, None),
    pa.null(): ("NULL", None, None),
}


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type as SQL names it; ``precision`` is in decimal digits or characters, None where unbounded."""

    name: str
    precision: int | None = None
    scale: int | None = None


def sql_type(kind: pa.DataType) -> SqlType:
    """The SQL type of which DuckDB returns an Arrow type."""
    known = _NAMES.get(kind)
    if known is not None:
        return SqlType(*known)
    if pa.types.is_decimal(kind):
        return SqlType(f"DECIMAL({kind.precision},{kind.scale})", kind.precision, kind.scale)
    if pa.types.is_time(kind):
        return _with_fraction("TIME", 8, kind.unit)
    if pa.types.is_timestamp(kind):
        zoned = kind.tz is not None
        return _with_fraction(_timestamp_name(kind), 25 if zoned else 19, kind.unit)
    return SqlType(_nested_name(kind))


def _with_fraction(name: str, whole: int, unit: str) -> SqlType:
    digits = _FRACTION_DIGITS[unit]
    return SqlType(name, whole + (digits + 1 if digits else 0), digits)


def _timestamp_name(kind: pa.TimestampType) -> str:
    if kind.tz is not None:
        return "TIMESTAMP WITH TIME ZONE"
    return "TIMESTAMP" if kind.unit == "us" else f"TIMESTAMP_{kind.unit.upper()}"


def _nested_name(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return f"STRUCT({', '.join(f'{_quoted(f.name)} {sql_type(f.type).name}' for f in fields)})"
    if pa.types.is_map(kind):
        return f"MAP({sql_type(kind.key_type).name}, {sql_type(kind.item_type).name})"
    if pa.types.is_fixed_size_list(kind):
        return f"{sql_type(kind.value_type).name}[{kind.list_size}]"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{sql_type(kind.value_type).name}[]"
    if pa.types.is_dictionary(kind):
        return sql_type(kind.value_type).name
    return str(kind).upper()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def described(
    field: pa.Field,
    catalog: str,
    schema: str,
    table: str,
    *,
    type_name: str | None = None,
    remarks: str | None = None,
) -> pa.Field:
    """A column of a table with everything that clients may want to know of it.

    Args:
        field: The column.
        catalog: Where the table is.
        schema: Where the table is; told under both names that are in use (the text of the protocol says
            DB_SCHEMA_NAME, its implementations SCHEMA_NAME).
        table: The table.
        type_name: The SQL name of the column's type, where the Arrow type does not tell it.
        remarks: What the column is, in words.
    """
    kind = sql_type(field.type)
    text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    told = {
        "CATALOG_NAME": catalog,
        "SCHEMA_NAME": schema,
        "DB_SCHEMA_NAME": schema,
        "TABLE_NAME": table,
        "TYPE_NAME": type_name or kind.name,
        "PRECISION": None if kind.precision is None else str(kind.precision),
        "SCALE": None if kind.scale is None else str(kind.scale),
        "IS_AUTO_INCREMENT": "0",
        "IS_CASE_SENSITIVE": "1" if text else "0",
        "IS_READ_ONLY": "0",
        "IS_SEARCHABLE": "1",
        "REMARKS": remarks,
    }
    return field.with_metadata({_PREFIX + key: value for key, value in told.items() if value is not None})
