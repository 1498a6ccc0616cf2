"""Iceberg types as DuckDB names and returns them, as Parquet files hold them, and made from Arrow ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    PrimitiveType,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from lakehouse.catalog.names import fold
from lakehouse.errors import NotSupported, TypeNotStorable
from lakehouse.types import quote

FIELD_ID = b"PARQUET:field_id"
# What DuckDB calls the element of a list that it returns.
_DUCKDB_LIST_CHILD = "l"
# Per primitive type: DuckDB's name, the Arrow type that DuckDB returns, the Arrow type that is written.
_PRIMITIVES: dict[PrimitiveType, tuple[str, pa.DataType, pa.DataType]] = {
    BooleanType(): ("BOOLEAN", pa.bool_(), pa.bool_()),
    IntegerType(): ("INTEGER", pa.int32(), pa.int32()),
    LongType(): ("BIGINT", pa.int64(), pa.int64()),
    FloatType(): ("FLOAT", pa.float32(), pa.float32()),
    DoubleType(): ("DOUBLE", pa.float64(), pa.float64()),
    DateType(): ("DATE", pa.date32(), pa.date32()),
    TimeType(): ("TIME", pa.time64("us"), pa.time64("us")),
    TimestampType(): ("TIMESTAMP", pa.timestamp("us"), pa.timestamp("us")),
    TimestamptzType(): ("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
    StringType(): ("VARCHAR", pa.string(), pa.string()),
    BinaryType(): ("BLOB", pa.binary(), pa.binary()),
    UUIDType(): ("UUID", pa.string(), pa.uuid()),
}


def duckdb_type(kind: IcebergType) -> str:
    """The DuckDB type that a column of an Iceberg type is read as.

    Raises:
        NotSupported: The type (of a newer version of the table format) cannot be read.
    """
    if isinstance(kind, StructType):
        _check_names("a struct", kind.fields)
        fields = ", ".join(f"{quote(field.name)} {duckdb_type(field.field_type)}" for field in kind.fields)
        return f"STRUCT({fields})"
    if isinstance(kind, ListType):
        return f"{duckdb_type(kind.element_type)}[]"
    if isinstance(kind, MapType):
        return f"MAP({duckdb_type(kind.key_type)}, {duckdb_type(kind.value_type)})"
    if isinstance(kind, DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    return "BLOB" if isinstance(kind, FixedType) else _primitive(kind)[0]


def result_type(kind: IcebergType) -> pa.DataType:
    """The Arrow type that DuckDB returns when it reads a column of an Iceberg type.

    Raises:
        NotSupported: The type (of a newer version of the table format) cannot be read.
    """
    if isinstance(kind, StructType):
        return pa.struct([pa.field(field.name, result_type(field.field_type)) for field in kind.fields])
    if isinstance(kind, ListType):
        return pa.list_(pa.field(_DUCKDB_LIST_CHILD, result_type(kind.element_type)))
    if isinstance(kind, MapType):
        return pa.map_(result_type(kind.key_type), result_type(kind.value_type))
    if isinstance(kind, DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    return pa.binary() if isinstance(kind, FixedType) else _primitive(kind)[1]


def result_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema that DuckDB returns for a scan of a table; required columns are not nullable."""
    return pa.schema(
        [pa.field(field.name, result_type(field.field_type), not field.required) for field in schema.fields]
    )


def file_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema that a table's Parquet files are written with, field ids included."""
    return pa.schema([_file_field(field.name, field) for field in schema.fields])


def is_plain(schema: Schema) -> bool:
    """Whether every column is primitive and has a name that no Parquet writer changes, in any case."""
    names = {field.name.lower() for field in schema.fields}
    simple = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", field.name) for field in schema.fields)
    return (
        simple and len(names) == len(schema.fields) and all(f.field_type.is_primitive for f in schema.fields)
    )


def read_schema_sql(schema: Schema) -> str:
    """The DuckDB literal for ``read_parquet(schema = …)``, which finds columns by their field ids.

    Raises:
        NotSupported: A column cannot be read.
    """
    _check_names("the table", schema.fields)
    return f"MAP {{{', '.join(_read_field(field) for field in schema.fields)}}}"


def check_nested_names(schema: Schema, history: Sequence[Schema]) -> None:
    """Make sure that fields within columns can be found by name in files of any schema that a table had.

    DuckDB finds columns by field id, but what is within them by name: a field that was renamed, or dropped
    and made again, would be read as NULL or as another field.

    Raises:
        NotSupported: A field cannot be found by its name; names it.
    """
    wanted = dict(_nested_fields(schema))
    names = {field_id: name for (_, name), field_id in wanted.items()}
    for other in history:
        for (parent, name), field_id in _nested_fields(other):
            same_place = wanted.get((parent, name), field_id)
            if same_place != field_id or names.get(field_id, name) != name:
                column = schema.find_column_name(parent) or str(parent)
                raise NotSupported(
                    f"field '{name}' within column '{column}' was renamed or made anew elsewhere, and "
                    "cannot be read right from older files",
                    "rewrite the table's data files with that engine, or create the table again",
                )


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column of a Parquet file; ``repeated`` where a row can have several values (lists and maps)."""

    field_id: int
    type: IcebergType
    repeated: bool


def leaves(schema: Schema) -> Iterator[Leaf]:
    """The columns of a Parquet file of this schema, in the order that the file has them."""
    for field in schema.fields:
        yield from _leaves(field.field_id, field.field_type, repeated=False)


def iceberg_schema(columns: pa.Schema, next_id: Callable[[], int], kept: Schema | None = None) -> Schema:
    """An Iceberg schema for columns of storable Arrow types.

    Args:
        columns: Columns as ``lakehouse.catalog.arrow_types.storable_schema`` makes them.
        next_id: Gives field ids that were never used in the table.
        kept: The schema that is being replaced; columns that stay the same keep their ids and descriptions.

    Raises:
        TypeNotStorable: A column's type has no counterpart.
    """
    old = {field.name: field for field in kept.fields} if kept else {}
    ids = {column.name: next_id() for column in columns if column.name not in old}
    fields = [
        _iceberg_field(column, old.get(column.name), ids.get(column.name), next_id) for column in columns
    ]
    present = {field.field_id for field in fields}
    keys = kept.identifier_field_ids if kept and present.issuperset(kept.identifier_field_ids) else []
    return Schema(*fields, identifier_field_ids=keys)


def _primitive(kind: IcebergType) -> tuple[str, pa.DataType, pa.DataType]:
    found = _PRIMITIVES.get(kind) if isinstance(kind, PrimitiveType) else None
    if found is None:
        raise NotSupported(f"columns of the Iceberg type {kind} cannot be read or written")
    return found


def _file_type(kind: IcebergType) -> pa.DataType:
    if isinstance(kind, StructType):
        return pa.struct([_file_field(field.name, field) for field in kind.fields])
    if isinstance(kind, ListType):
        return pa.list_(_file_field("element", kind.element_field))
    if isinstance(kind, MapType):
        return pa.map_(_file_field("key", kind.key_field), _file_field("value", kind.value_field))
    if isinstance(kind, DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    return pa.binary(len(kind)) if isinstance(kind, FixedType) else _primitive(kind)[2]


def _file_field(name: str, field: NestedField) -> pa.Field:
    metadata = {FIELD_ID: str(field.field_id).encode()}
    return pa.field(name, _file_type(field.field_type), not field.required, metadata)


def _read_field(field: NestedField) -> str:
    if field.initial_default is not None:
        raise NotSupported(f"column '{field.name}' has an initial default value, which cannot be read yet")
    name, kind = (text.replace("'", "''") for text in (field.name, duckdb_type(field.field_type)))
    return f"{field.field_id}: {{name: '{name}', type: '{kind}', default_value: NULL}}"


def _nested_fields(schema: Schema) -> Iterator[tuple[tuple[int, str], int]]:
    """((id of the enclosing field, name), id) of every field of every struct within a column."""
    for field in schema.fields:
        yield from _fields_within(field.field_id, field.field_type)


def _fields_within(parent: int, kind: IcebergType) -> Iterator[tuple[tuple[int, str], int]]:
    if isinstance(kind, StructType):
        for field in kind.fields:
            yield (parent, field.name), field.field_id
            yield from _fields_within(field.field_id, field.field_type)
    elif isinstance(kind, ListType):
        yield from _fields_within(kind.element_id, kind.element_type)
    elif isinstance(kind, MapType):
        yield from _fields_within(kind.key_id, kind.key_type)
        yield from _fields_within(kind.value_id, kind.value_type)


def _check_names(owner: str, fields: Sequence[NestedField]) -> None:
    seen: dict[str, str] = {}
    for field in fields:
        other = seen.setdefault(fold(field.name), field.name)
        if other != field.name:
            raise NotSupported(
                f"{owner} has fields '{other}' and '{field.name}', which SQL cannot tell apart"
            )


def _leaves(field_id: int, kind: IcebergType, repeated: bool) -> Iterator[Leaf]:
    if isinstance(kind, StructType):
        for field in kind.fields:
            yield from _leaves(field.field_id, field.field_type, repeated)
    elif isinstance(kind, ListType):
        yield from _leaves(kind.element_id, kind.element_type, repeated=True)
    elif isinstance(kind, MapType):
        yield from _leaves(kind.key_id, kind.key_type, repeated=True)
        yield from _leaves(kind.value_id, kind.value_type, repeated=True)
    else:
        yield Leaf(field_id, kind, repeated)


def _iceberg_field(
    column: pa.Field, old: NestedField | None, field_id: int | None, next_id: Callable[[], int]
) -> NestedField:
    if (
        old is not None
        and _file_type(old.field_type).equals(_plain(column.type))
        and old.required != column.nullable
    ):
        return old
    return NestedField(
        field_id=next_id() if field_id is None else field_id,
        name=column.name,
        field_type=_iceberg_type(column.type, column.name, next_id),
        required=not column.nullable,
        doc=old.doc if old else None,
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type as ``_file_type`` spells it: without the sender's names of list elements and map entries."""
    if isinstance(kind, pa.ListType):
        return pa.list_(pa.field("element", _plain(kind.value_type)))
    if isinstance(kind, pa.MapType):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return kind


def _iceberg_type(kind: pa.DataType, column: str, next_id: Callable[[], int]) -> IcebergType:
    if isinstance(kind, pa.StructType):
        ids = [next_id() for _ in kind]
        return StructType(
            *(
                NestedField(field_id, field.name, _iceberg_type(field.type, column, next_id), required=False)
                for field_id, field in zip(ids, kind, strict=True)
            )
        )
    if isinstance(kind, pa.ListType):
        return ListType(next_id(), _iceberg_type(kind.value_type, column, next_id), element_required=False)
    if isinstance(kind, pa.MapType):
        return MapType(
            key_id=next_id(),
            key_type=_iceberg_type(kind.key_type, column, next_id),
            value_id=next_id(),
            value_type=_iceberg_type(kind.item_type, column, next_id),
            value_required=False,
        )
    if pa.types.is_decimal128(kind):
        return DecimalType(kind.precision, kind.scale)
    if pa.types.is_fixed_size_binary(kind):
        return FixedType(kind.byte_width)
    for iceberg, (_, _, written) in _PRIMITIVES.items():
        if written.equals(kind):
            return iceberg
    raise TypeNotStorable(f"column '{column}' has the type {kind}, which an Iceberg table cannot hold")
