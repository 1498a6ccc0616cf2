"""Arrow values in the types of a table: every value the same, or an error that names the column."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.catalog.arrow_types import check_distinct
from lakehouse.catalog.names import fold
from lakehouse.errors import SchemaMismatch, TypeNotStorable

_UUID_BYTES = 16
_UUID_TEXT = re.compile(r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")
_WIDE_DECIMAL_PRECISION = 76


class Conversion:
    """Turns batches of one schema into batches of another.

    Columns are matched by name, whatever the case of their letters. A column that does not come becomes NULL.

    Args:
        source: The schema of what comes.
        target: The schema that a table's files have.
        table: The table's name, for messages.

    Raises:
        SchemaMismatch: A column comes that the table does not have, one is missing that must not be NULL,
            or the types do not go together.
    """

    def __init__(self, source: pa.Schema, target: pa.Schema, table: str) -> None:
        self._target = target
        self._table = table
        check_distinct(source.names, "the data has")
        positions = {fold(name): position for position, name in enumerate(source.names)}
        self._positions = [positions.pop(fold(field.name), None) for field in target]
        if positions:
            unknown = ", ".join(f"'{source.names[position]}'" for position in sorted(positions.values()))
            known = ", ".join(f"'{name}'" for name in target.names)
            raise SchemaMismatch(f"table '{table}' has no column {unknown}", f"its columns are {known}")
        for field, position in zip(target, self._positions, strict=True):
            if position is None and not field.nullable:
                raise SchemaMismatch(f"column '{field.name}' of table '{table}' must have values, none came")
            if position is not None:
                # Types that do not go together are found before any row arrives.
                convert(pa.nulls(0, source.field(position).type), field.type, field.name)

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch, as the table's files hold it.

        Raises:
            SchemaMismatch: A value does not fit, or is NULL where it must not be.
            TypeNotStorable: A time is more precise than microseconds.
        """
        columns = [
            _column(batch.column(position), field, field.name)
            if position is not None
            else pa.nulls(batch.num_rows, field.type)
            for field, position in zip(self._target, self._positions, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._target)


def convert(array: pa.Array, target: pa.DataType, column: str) -> pa.Array:
    """The values of an array in another type.

    Args:
        array: Any array, also a slice of one.
        target: A type that ``storable_type`` gives or that an Iceberg table has.
        column: The column's name, for messages.

    Raises:
        SchemaMismatch: A value does not fit into the type, or the types do not go together.
        TypeNotStorable: A time is more precise than microseconds.
    """
    kind = array.type
    types = pa.types
    if kind == target and _takes_nulls(target):
        return array
    if types.is_null(kind):
        return pa.nulls(len(array), target)
    if types.is_dictionary(kind):
        # The values first: a dictionary of string views, as polars sends, cannot be decoded.
        values = convert(array.dictionary, target, column)
        return values.take(array.indices)
    if types.is_run_end_encoded(kind):
        return convert(pc.run_end_decode(array), target, column)
    if isinstance(kind, pa.BaseExtensionType) and kind != target:
        stored = pc.not_equal(array.storage, 0) if isinstance(kind, pa.Bool8Type) else array.storage
        return convert(stored, target, column)
    if types.is_struct(target) and types.is_struct(kind):
        return _struct(array, target, column)
    if types.is_map(target) and types.is_map(kind):
        return _map(array, target, column)
    if types.is_list(target) and _is_list(kind):
        return _list(array, target, column)
    if isinstance(target, pa.UuidType):
        return array if kind == target else _uuid(array, column)
    if types.is_nested(target) or types.is_nested(kind):
        raise _mismatch(kind, target, column)
    return _primitive(array, target, column)


def _column(array: pa.Array, field: pa.Field, column: str) -> pa.Array:
    converted = convert(array, field.type, column)
    if not field.nullable and converted.null_count:
        raise SchemaMismatch(
            f"column '{column}' must not be NULL, found {converted.null_count} NULL in a batch"
        )
    return converted


def _takes_nulls(target: pa.DataType) -> bool:
    """Whether nothing within the type is required, so that no value has to be looked at."""
    if pa.types.is_struct(target):
        return all(field.nullable and _takes_nulls(field.type) for field in target)
    if pa.types.is_map(target):
        return bool(target.item_field.nullable) and _takes_nulls(target.item_type)
    if pa.types.is_list(target):
        return bool(target.value_field.nullable) and _takes_nulls(target.value_type)
    return True


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _struct(array: pa.StructArray, target: pa.StructType, column: str) -> pa.Array:
    children = {fold(field.name): _child(array, number) for number, field in enumerate(array.type)}
    converted = []
    for field in target:
        child = children.pop(fold(field.name), None)
        path = f"{column}.{field.name}"
        child = pa.nulls(len(array), field.type) if child is None else convert(child, field.type, path)
        if not field.nullable and child.null_count > array.null_count:
            raise SchemaMismatch(f"column '{path}' must not be NULL")
        converted.append(child)
    if children:
        raise SchemaMismatch(f"column '{column}' has no field {', '.join(repr(name) for name in children)}")
    return pa.StructArray.from_arrays(converted, fields=list(target), mask=array.is_null())


def _child(array: pa.StructArray, number: int) -> pa.Array:
    """A field of structs, NULL where the struct is, so that what is hidden there cannot fail."""
    child = array.field(number)
    if not array.null_count:
        return child
    if isinstance(child.type, pa.BaseExtensionType):
        # Arrow itself cannot do this with the types of extensions.
        stored = pc.if_else(array.is_valid(), child.storage, pa.scalar(None, child.storage.type))
        return pa.ExtensionArray.from_storage(child.type, stored)
    return array.flatten()[number]


def _list(array: pa.Array, target: pa.ListType, column: str) -> pa.Array:
    values = _column(_elements(array), target.value_field, f"{column}.element")
    mask = array.is_null() if array.null_count else None
    offsets = _ends(pc.fill_null(pc.list_value_length(array), 0))
    return pa.ListArray.from_arrays(offsets, values, type=target, mask=mask)


def _elements(array: pa.Array) -> pa.Array:
    """What the lists hold, without what is hidden under NULL lists and outside of the slice."""
    try:
        return array.flatten()
    except pa.ArrowNotImplementedError:
        # Arrow cannot do this with types of extensions; it can put lists together one by one.
        parts = [part.values for part in array if part.is_valid]
        return pa.concat_arrays(parts) if parts else array.values.slice(0, 0)


def _map(array: pa.MapArray, target: pa.MapType, column: str) -> pa.Array:
    mask = array.is_null() if array.null_count else None
    offsets = pc.add(array.offsets, 0)
    start, end = offsets[0].as_py(), offsets[-1].as_py()
    keys, items = array.keys.slice(start, end - start), array.items.slice(start, end - start)
    offsets = pc.subtract(offsets, start)
    if mask is not None:
        lengths = pc.if_else(mask, 0, pc.subtract(offsets[1:], offsets[:-1]))
        if pc.sum(lengths).as_py() != len(keys):
            visible = list(zip(offsets[:-1].to_pylist(), lengths.to_pylist(), strict=True))
            keys, items = (
                pa.concat_arrays([part.slice(*place) for place in visible]) for part in (keys, items)
            )
            offsets = _ends(lengths)
    keys = _column(keys, target.key_field, f"{column}.key")
    items = _column(items, target.item_field, f"{column}.value")
    return pa.MapArray.from_arrays(offsets, keys, items, type=target, mask=mask)


def _ends(lengths: pa.Array) -> pa.Array:
    """The offsets of lists of these lengths."""
    ends = pc.cumulative_sum(pc.cast(lengths, pa.int64()))
    return pc.cast(pa.concat_arrays([pa.array([0], pa.int64()), ends]), pa.int32())


def _uuid(array: pa.Array, column: str) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.ExtensionArray.from_storage(pa.uuid(), _uuid_bytes(array, column))
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        stored = _cast(array, pa.binary(_UUID_BYTES), column)
        return pa.ExtensionArray.from_storage(pa.uuid(), stored)
    raise _mismatch(kind, pa.uuid(), column)


def _uuid_bytes(array: pa.Array, column: str) -> pa.Array:
    texts = pc.cast(array, pa.string()).drop_null()
    if not pc.all(pc.match_substring_regex(texts, _UUID_TEXT.pattern), min_count=0).as_py():
        raise SchemaMismatch(f"column '{column}' holds UUIDs, found a text that is none")
    digits = "".join(pc.replace_substring(texts, "-", "").to_pylist())
    found = pa.Array.from_buffers(
        pa.binary(_UUID_BYTES), len(texts), [None, pa.py_buffer(bytes.fromhex(digits))]
    )
    if not array.null_count:
        return found
    valid = array.is_valid()
    places = pc.subtract(pc.cumulative_sum(pc.cast(valid, pa.int32())), 1)
    return found.take(pc.if_else(valid, places, pa.scalar(None, pa.int32())))


def _primitive(array: pa.Array, target: pa.DataType, column: str) -> pa.Array:
    kind = array.type
    if not _goes_together(kind, target):
        raise _mismatch(kind, target, column)
    types = pa.types
    if types.is_integer(kind) and types.is_decimal(target):
        array = _cast(array, pa.decimal256(_WIDE_DECIMAL_PRECISION, target.scale), column)
    converted = _cast(array, target, column)
    if types.is_float64(kind) and types.is_float32(target):
        _check_exact(array, converted, column)
    return converted


def _goes_together(kind: pa.DataType, target: pa.DataType) -> bool:
    """Whether every value of one type that has a counterpart in the other means the same there."""
    types = pa.types
    if types.is_integer(target):
        return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))
    if types.is_floating(target):
        return bool(types.is_integer(kind) or types.is_floating(kind))
    if types.is_decimal(target):
        return bool(types.is_integer(kind) or types.is_decimal(kind))
    if types.is_timestamp(target):
        if types.is_timestamp(kind):
            return bool(kind.tz) == bool(target.tz)
        return bool(types.is_date(kind)) and target.tz is None
    return any(
        kind_is(kind) and kind_is(target)
        for kind_is in (types.is_boolean, types.is_date, types.is_time, _is_text, _is_bytes)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    variable = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(variable or types.is_fixed_size_binary(kind))


def _cast(array: pa.Array, target: pa.DataType, column: str) -> pa.Array:
    try:
        return pc.cast(array, target)
    except pa.ArrowNotImplementedError as error:
        raise _mismatch(array.type, target, column) from error
    except pa.ArrowInvalid as error:
        if pa.types.is_temporal(array.type) and pa.types.is_temporal(target):
            raise TypeNotStorable(
                f"column '{column}' has values that the type {target} cannot hold exactly: {error}",
                "round them to microseconds, or dates to days, at the source",
            ) from error
        raise SchemaMismatch(
            f"column '{column}' has a value that does not fit into {target}: {error}"
        ) from error


def _check_exact(array: pa.Array, converted: pa.Array, column: str) -> None:
    back = pc.cast(converted, array.type)
    same = pc.or_(pc.equal(back, array), pc.is_nan(array))
    if not pc.all(same, min_count=0).as_py():
        raise SchemaMismatch(
            f"column '{column}' has a value that does not fit into {converted.type} exactly",
            "round it at the source",
        )


def _mismatch(kind: pa.DataType, target: pa.DataType, column: str) -> SchemaMismatch:
    return SchemaMismatch(f"column '{column}' is of the type {target}, found {kind}", f"cast it to {target}")
