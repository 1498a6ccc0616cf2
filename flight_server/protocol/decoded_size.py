"""How large Arrow data is once every value is written out.

Dictionaries, runs, views and nulls let a message of a few bytes stand for values without end, which whatever
decodes them would try to hold. All arrays must have been validated before.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_EMPTY_BYTES = 8.0  # what a value without bytes of its own counts
_VIEW_INTS = 4


def decoded_bytes(batch: pa.RecordBatch, most: int) -> float:
    """Size of a batch with every value written out, in bytes; ``inf`` where that exceeds ``most``.

    Costs nothing for columns whose values each have bytes of their own.
    """
    if batch.num_rows > most:
        return float("inf")
    total = 0.0
    for column in batch.columns:
        total += _total(column, most)
        if total > most:
            return float("inf")
    return total


class _TooLargeError(Exception):
    """Writing it out would take more than is allowed."""


def _total(array: pa.Array, most: int) -> float:
    if not _shares(array.type):
        return float(array.nbytes)
    try:
        total: float | None = pc.sum(_sizes(array, most)).as_py()
    except _TooLargeError:
        return float("inf")
    return total or 0.0


def _shares(kind: pa.DataType) -> bool:
    """Whether values of a type may be larger than the buffers that hold them."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _shares(kind.storage_type)
    alike = types.is_union(kind) or types.is_run_end_encoded(kind) or _is_list_view(kind)
    if types.is_nested(kind) and not alike:
        inner = [kind.field(i).type for i in range(kind.num_fields)]
        return (
            not inner or any(map(_shares, inner)) or (types.is_fixed_size_list(kind) and not kind.list_size)
        )
    if types.is_fixed_size_binary(kind):
        return not kind.byte_width
    return bool(
        types.is_null(kind)
        or types.is_nested(kind)
        or types.is_dictionary(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    )


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _sizes(array: pa.Array, most: int) -> pa.DoubleArray:
    """The size of each value. Floats, which grow beyond any bound where integers would wrap."""
    kind, types = array.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _sizes(array.storage, most)
    if types.is_dictionary(kind):
        return pc.fill_null(_sizes(array.dictionary, most).take(array.indices), _EMPTY_BYTES)
    if (
        types.is_string(kind)
        or types.is_binary(kind)
        or types.is_large_string(kind)
        or types.is_large_binary(kind)
    ):
        return _plus(pc.binary_length(array))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return _plus(pc.if_else(array.is_valid(), _view_lengths(array), 0))
    if types.is_nested(kind) or types.is_run_end_encoded(kind):
        return _nested(array, most)
    width = 0.0 if types.is_null(kind) else kind.bit_width / 8
    return _alike(len(array), width, most)


def _alike(count: int, size: float, most: int) -> pa.DoubleArray:
    size = max(size, 1.0) if size else _EMPTY_BYTES
    if count * _EMPTY_BYTES > most and count * size > most:
        raise _TooLargeError
    return pc.add(pa.nulls(0, pa.float64()), 0.0) if not count else pa.repeat(size, count)


def _plus(lengths: pa.Array) -> pa.DoubleArray:
    return pc.add(pc.fill_null(pc.cast(lengths, pa.float64()), 0.0), _EMPTY_BYTES)


def _view_lengths(array: pa.Array) -> pa.Int32Array:
    """The first number of each view."""
    views = array.buffers()[1]
    if views is None or not len(array):
        return pa.nulls(len(array), pa.int32())
    count = views.size // 4 // _VIEW_INTS * _VIEW_INTS
    numbers = pa.Array.from_buffers(pa.int32(), count, [None, views])
    firsts = pa.Array.from_buffers(pa.bool_(), count, [None, pa.py_buffer(b"\x11" * (count // 8 + 1))])
    return numbers.filter(firsts).slice(array.offset, len(array))


def _nested(array: pa.Array, most: int) -> pa.DoubleArray:
    kind, types = array.type, pa.types
    if types.is_run_end_encoded(kind):
        _alike(len(array), 0.0, most)
        ends = array.run_ends
        sizes = _sizes(array.values, most)
        return pc.run_end_decode(
            pa.RunEndEncodedArray.from_arrays(ends, sizes, pa.run_end_encoded(ends.type, pa.float64()))
        ).slice(array.offset, len(array))
    if types.is_struct(kind):
        total = _alike(len(array), 0.0, most)
        for i in range(kind.num_fields):
            total = pc.add(total, _sizes(array.field(i), most))
        return total
    if types.is_union(kind):
        largest = 0.0
        for i in range(kind.num_fields):
            largest = max(largest, pc.max(_sizes(array.field(i), most)).as_py() or 0.0)
        return _alike(len(array), largest, most)
    return _list_sizes(array, most)


def _list_sizes(array: pa.Array, most: int) -> pa.DoubleArray:
    kind, types = array.type, pa.types
    count = len(array)
    if types.is_map(kind):
        values = pc.add(_sizes(array.keys, most), _sizes(array.items, most))
    else:
        values = _sizes(array.values, most)
    ends = pa.concat_arrays([pa.array([0.0]), pc.cumulative_sum(values)])
    if _is_list_view(kind):
        valid = array.is_valid()
        starts = pc.if_else(valid, array.offsets, 0)
        stops = pc.if_else(valid, pc.add(array.offsets, array.sizes), 0)
    elif types.is_fixed_size_list(kind):
        places = pa.array(range(array.offset, array.offset + count + 1), pa.int64())
        places = pc.multiply(places, kind.list_size)
        starts, stops = places[:-1], places[1:]
    else:
        starts, stops = array.offsets[:-1], array.offsets[1:]
    return pc.add(pc.subtract(ends.take(stops), ends.take(starts)), _alike(count, 0.0, most))
