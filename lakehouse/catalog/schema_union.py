"""One schema for files that were written with several: columns may be added, types may only be widened."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

from lakehouse.catalog.arrow_types import storable_schema
from lakehouse.catalog.names import fold
from lakehouse.errors import SchemaMismatch, TypeNotStorable

_WIDER = {(pa.int32(), pa.int64()): pa.int64(), (pa.float32(), pa.float64()): pa.float64()}


class SchemaUnion:
    """Collects the columns of files. Every column can be null: a file may lack it."""

    def __init__(self) -> None:
        # By folded name: the column, whether its type is known yet, and the file that it was first seen in.
        self._columns: dict[str, tuple[pa.Field, bool, str]] = {}

    def add(self, schema: pa.Schema, source: str) -> None:
        """Take over the columns of one more file.

        Args:
            schema: The columns.
            source: What messages call the file.

        Raises:
            SchemaMismatch: A column has another type than in the files before, and neither holds both; or
                two columns of the file have one name.
            TypeNotStorable: Values of a column's type cannot be read as a table's.
        """
        try:
            wanted = storable_schema(schema)
        except (TypeNotStorable, SchemaMismatch) as error:
            raise type(error)(f"{source}: {error.message}", error.hint) from error
        for column, declared in zip(wanted, schema, strict=True):
            key, typed = fold(column.name), not types.is_null(declared.type)
            known, was_typed, first = self._columns.get(key, (column, typed, source))
            if not was_typed and typed:
                known, was_typed, first = pa.field(known.name, column.type), True, source
            elif typed and not known.type.equals(column.type):
                wider = _wider(known.type, column.type)
                if wider is None:
                    raise SchemaMismatch(
                        f"column '{known.name}' is {column.type} in {source}, but {known.type} in {first}",
                        "a dataset has one type a column: register the objects apart, or write them anew",
                    )
                known = pa.field(known.name, wider)
            self._columns[key] = (pa.field(known.name, known.type), was_typed, first)

    def schema(self) -> pa.Schema:
        """The columns of all files, in the order in which they were first seen."""
        return pa.schema([column for column, _, _ in self._columns.values()])


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both; None where there is none."""
    if one.equals(other):
        return one
    found = _WIDER.get((one, other)) or _WIDER.get((other, one))
    if found is not None:
        return found
    if types.is_decimal128(one) and types.is_decimal128(other) and one.scale == other.scale:
        return pa.decimal128(max(one.precision, other.precision), one.scale)
    if types.is_struct(one) and types.is_struct(other):
        return _wider_struct(one, other)
    if types.is_map(one) and types.is_map(other):
        key, item = _wider(one.key_type, other.key_type), _wider(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if types.is_list(one) and types.is_list(other):
        element = _wider(one.value_type, other.value_type)
        return None if element is None else pa.list_(pa.field("element", element))
    return None


def _wider_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    fields = {fold(field.name): field for field in one}
    for field in other:
        known = fields.get(fold(field.name))
        kind = field.type if known is None else _wider(known.type, field.type)
        if kind is None:
            return None
        fields[fold(field.name)] = pa.field(field.name if known is None else known.name, kind)
    return pa.struct(list(fields.values()))
