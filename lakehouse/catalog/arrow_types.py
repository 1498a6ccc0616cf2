"""Which types a table keeps Arrow columns as, without loss; others are refused."""

from __future__ import annotations

import pyarrow as pa

from lakehouse.catalog.names import check_name, fold
from lakehouse.errors import SchemaMismatch, TypeNotStorable

_MAX_DECIMAL_PRECISION = 38
_MICROSECONDS = pa.timestamp("us")
_SAME = frozenset(
    {
        pa.bool_(),
        pa.int32(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.binary(),
        pa.date32(),
        pa.time64("us"),
    }
)
_WIDENED: dict[pa.DataType, pa.DataType] = {
    pa.int8(): pa.int32(),
    pa.int16(): pa.int32(),
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.time64("us"),
    pa.time32("ms"): pa.time64("us"),
    pa.time64("ns"): pa.time64("us"),
    pa.null(): pa.string(),
}


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a table that can hold everything that data of a schema can hold.

    Columns that are not nullable stay so; fields within columns become nullable.

    Raises:
        TypeNotStorable: A column's type has no lossless counterpart.
        SchemaMismatch: There is no column, or two of them have the same name.
        InvalidRequest: A column has no usable name.
    """
    if not len(schema):
        raise SchemaMismatch("a table needs at least one column, found none")
    check_distinct(schema.names, "the data has")
    return pa.schema([pa.field(f.name, storable_type(f.type, f.name), f.nullable) for f in schema])


def check_distinct(names: list[str], owner: str) -> None:
    """Make sure that names can be told apart, and are names at all.

    Raises:
        SchemaMismatch: Two names are the same but for the case of their letters.
        InvalidRequest: A name is empty or not usable.
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = fold(check_name(name, "column"))
        if folded in seen:
            raise SchemaMismatch(
                f"{owner} two columns of the same name, '{seen[folded]}' and '{name}'",
                "names are compared without regard to case; rename one of them",
            )
        seen[folded] = name


def storable_type(kind: pa.DataType, column: str) -> pa.DataType:
    """The type that a table keeps values of an Arrow type as.

    Args:
        kind: The type that comes.
        column: The column's name, for messages.

    Raises:
        TypeNotStorable: There is none that loses nothing.
    """
    if kind in _SAME:
        return kind
    if kind in _WIDENED:
        return _WIDENED[kind]
    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us", "UTC") if kind.tz else _MICROSECONDS
    if types.is_decimal(kind):
        return _decimal(kind, column)
    if types.is_fixed_size_binary(kind):
        return kind if kind.byte_width else pa.binary()
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return storable_type(kind.value_type, column)
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(kind, column)
    if types.is_nested(kind) and not types.is_union(kind):
        return _nested(kind, column)
    raise _refused(kind, column)


def _decimal(kind: pa.DataType, column: str) -> pa.DataType:
    # Iceberg knows neither negative scales nor scales above the precision.
    scale = max(kind.scale, 0)
    precision = max(kind.precision - min(kind.scale, 0), scale)
    if precision > _MAX_DECIMAL_PRECISION:
        raise TypeNotStorable(
            f"column '{column}' has the type {kind}; decimals can have up to {_MAX_DECIMAL_PRECISION} digits",
            "cast it to decimal(38, s) if the values fit, or to string",
        )
    return pa.decimal128(precision, scale)


def _extension(kind: pa.BaseExtensionType, column: str) -> pa.DataType:
    if isinstance(kind, pa.UuidType):
        return kind
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.OpaqueType) and not _is_text(kind.storage_type):
        raise TypeNotStorable(
            f"column '{column}' holds values of the type {kind.type_name} of {kind.vendor_name}, which only "
            "that program can read",
            "cast it to text or to another standard type at the source",
        )
    return storable_type(kind.storage_type, column)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _nested(kind: pa.DataType, column: str) -> pa.DataType:
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            raise TypeNotStorable(
                f"column '{column}' is a struct without fields, which Parquet files cannot hold",
                "leave the column out, or give the struct a field",
            )
        check_distinct([field.name for field in kind], f"the struct '{column}' has")
        return pa.struct([pa.field(f.name, storable_type(f.type, f"{column}.{f.name}")) for f in kind])
    if pa.types.is_map(kind):
        key = storable_type(kind.key_type, f"{column}.key")
        return pa.map_(key, storable_type(kind.item_type, f"{column}.value"))
    return pa.list_(pa.field("element", storable_type(kind.value_type, f"{column}.element")))


def _refused(kind: pa.DataType, column: str) -> TypeNotStorable:
    if pa.types.is_duration(kind):
        hint = "cast it to int64, which keeps the number of units"
    elif pa.types.is_interval(kind):
        hint = "store months, days and microseconds as columns of their own, or the interval as string"
    elif pa.types.is_union(kind):
        hint = "store a struct with one nullable field for each of the alternatives"
    else:
        hint = "cast it to a type that Iceberg has"
    return TypeNotStorable(f"column '{column}' has the type {kind}, which an Iceberg table cannot hold", hint)
