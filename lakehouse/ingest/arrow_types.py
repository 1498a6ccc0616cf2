"""Arrow data as an Iceberg table can keep it: without loss, or refused with the column's name."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.catalog.names import check_name, fold
from lakehouse.errors import SchemaMismatch, TypeNotStorable

_MAX_DECIMAL_PRECISION = 38


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a table that can hold everything that data of a schema can hold.

    Raises:
        TypeNotStorable: A column's type has no lossless counterpart.
        SchemaMismatch: There is no column, or two of them have the same name.
        InvalidRequest: A column has no usable name.
    """
    if not len(schema):
        raise SchemaMismatch("a table needs at least one column, found none")
    seen: dict[str, str] = {}
    for name in schema.names:
        if fold(check_name(name, "column")) in seen:
            raise SchemaMismatch(f"the columns '{seen[fold(name)]}' and '{name}' have the same name")
        seen[fold(name)] = name
    return pa.schema([pa.field(f.name, storable_type(f.type, f.name), f.nullable) for f in schema])


def storable_type(kind: pa.DataType, column: str) -> pa.DataType:
    """The type that a table keeps values of a type as.

    Raises:
        TypeNotStorable: There is none that loses nothing.
    """
    types = pa.types
    if types.is_int8(kind) or types.is_int16(kind) or types.is_uint8(kind) or types.is_uint16(kind):
        return pa.int32()
    if types.is_uint32(kind):
        return pa.int64()
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    return kind


def convert(array: pa.Array, target: pa.DataType, column: str) -> pa.Array:
    """Values of one column as a table keeps them."""
    return array if array.type.equals(target) else pc.cast(array, target)
