"""Values as text, exactly, a whole column at a time: what CSV, JSON and tables have in common.

Numbers keep all their digits, points in time their zone and precision, binary is base64, nested values are
JSON. Python values are made of neither: they know no nanoseconds, no year 10000 and no infinity.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_INFINITE = {
    pa.timestamp("us").id: (2**63 - 1, -(2**63 - 1)),
    pa.date32().id: (2**31 - 1, -(2**31 - 1)),
}
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARIES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_NESTED = (*_LISTS, pa.types.is_struct, pa.types.is_map, pa.types.is_union)
_NO_QUOTES = (pa.types.is_boolean, pa.types.is_integer)
_CONTROL = "[\\x00-\\x1f]"


def as_text(values: pa.Array) -> pa.StringArray:
    """The values as text; NULL stays NULL."""
    values = plain(values)
    kind = values.type
    if _is(kind, _STRINGS):
        return values.cast(pa.string())
    if _is(kind, _NESTED):
        return pc.if_else(values.is_null(), None, as_json(values))
    for test, convert in _CONVERSIONS:
        if test(kind):
            return convert(values)
    return values.cast(pa.string())


def as_json(values: pa.Array) -> pa.StringArray:
    """The values as JSON; NULL is ``null``. Decimals and points in time are strings, infinities too."""
    values = plain(values)
    kind = values.type
    if _is(kind, _LISTS):
        texts = _json_lists(values)
    elif pa.types.is_struct(kind):
        texts = _json_objects(values)
    elif pa.types.is_map(kind):
        texts = _json_maps(values)
    elif pa.types.is_union(kind):
        texts = pa.array([json.dumps(value.as_py(), default=str) for value in values], pa.string())
    elif _is(kind, _NO_QUOTES) or pa.types.is_null(kind):
        texts = values.cast(pa.string())
    elif pa.types.is_floating(kind):
        texts = pc.if_else(pc.is_finite(values), _floats(values), _quoted(_floats(values)))
    else:
        texts = as_text(values)
        if pa.types.is_timestamp(kind):
            texts = pc.replace_substring(texts, " ", "T")
        texts = _quoted(_escaped(texts))
    return pc.if_else(values.is_null(), "null", texts).cast(pa.string())


def plain(values: pa.Array) -> pa.Array:
    """The values without dictionaries, run ends and extension types."""
    if isinstance(values, pa.ExtensionArray):
        if values.type.extension_name == "arrow.uuid":
            texts = [None if v is None else str(uuid.UUID(bytes=v)) for v in values.storage.to_pylist()]
            return pa.array(texts, pa.string())
        return plain(values.storage)
    if pa.types.is_dictionary(values.type):
        return plain(values.dictionary_decode())
    if pa.types.is_run_end_encoded(values.type):
        return plain(pc.run_end_decode(values))
    return values


def _is(kind: pa.DataType, tests: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    return any(test(kind) for test in tests)


def _each(values: pa.Array, convert: Callable[[Any], str]) -> pa.StringArray:
    """One value at a time, for what Arrow cannot convert."""
    return pa.array([None if v is None else convert(v) for v in values.to_pylist()], pa.string())


# -- simple types -------------------------------------------------------------------------------------


def _floats(values: pa.Array) -> pa.StringArray:
    """The shortest text that reads back as the same number; a whole number keeps its point."""
    texts = values.cast(pa.string())
    texts = pc.replace_substring_regex(texts, r"^(-?\d+)$", r"\1.0")
    if pc.all(pc.is_finite(values)).as_py() in (True, None):
        return texts
    for written, name in (("nan", "NaN"), ("-nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")):
        texts = pc.if_else(pc.equal(texts, written), name, texts)
    return texts


def _decimals(values: pa.Array) -> pa.StringArray:
    texts = values.cast(pa.string())
    if not pc.any(pc.match_substring(texts, "E")).as_py():
        return texts
    return _each(texts, lambda text: f"{Decimal(text):f}")


def _timestamps(values: pa.Array) -> pa.StringArray:
    texts = values.cast(pa.string())
    if values.type.tz is not None:
        texts = pc.replace_substring_regex(texts, r"([+-]\d\d)(\d\d)$", r"\1:\2")
    return _infinities(values, texts)


def _infinities(values: pa.Array, texts: pa.StringArray) -> pa.StringArray:
    """DuckDB writes infinite dates and timestamps as the extremes of their range."""
    if not pc.any(pc.starts_with(texts, "<")).as_py():
        return texts
    numbers = values.cast(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
    for extreme, name in zip(_INFINITE.get(values.type.id, ()), ("infinity", "-infinity"), strict=False):
        texts = pc.if_else(pc.equal(numbers, pa.scalar(extreme, numbers.type)), name, texts)
    return texts


def _dates(values: pa.Array) -> pa.StringArray:
    return _infinities(values, values.cast(pa.string()))


def _binary(values: pa.Array) -> pa.StringArray:
    return _each(values, lambda value: base64.b64encode(value).decode())


def _intervals(values: pa.Array) -> pa.StringArray:
    """ISO 8601 durations, such as P1M2DT3.5S."""
    return _each(values, lambda v: _duration(v.months, v.days, v.nanoseconds))


def _durations(values: pa.Array) -> pa.StringArray:
    factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[values.type.unit]
    return _each(values.cast(pa.int64()), lambda v: _duration(0, 0, v * factor))


def _duration(months: int, days: int, nanoseconds: int) -> str:
    date = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    seconds = re.sub(r"\.?0+\Z", "", f"{Decimal(nanoseconds).scaleb(-9):.9f}")
    time = f"T{seconds}S" if nanoseconds or not date else ""
    return f"P{date}{time}"


_CONVERSIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.StringArray]], ...] = (
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_date, _dates),
    (pa.types.is_duration, _durations),
    (pa.types.is_interval, _intervals),
    (lambda kind: _is(kind, _BINARIES), _binary),
)


# -- JSON ---------------------------------------------------------------------------------------------


def _quoted(texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _escaped(texts: pa.StringArray) -> pa.StringArray:
    if pc.any(pc.match_substring_regex(texts, _CONTROL)).as_py():
        return _each(texts, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    return pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')


def _json_objects(values: pa.StructArray) -> pa.StringArray:
    if values.type.num_fields == 0:
        return pa.array(["{}"] * len(values), pa.string())
    parts: list[Any] = []
    for field, child in zip(values.type, values.flatten(), strict=True):
        lead = "," if parts else "{"
        parts += [f"{lead}{json.dumps(field.name, ensure_ascii=False)}:", as_json(child)]
    return pc.binary_join_element_wise(*parts, "}", "")


def _json_lists(values: pa.Array) -> pa.StringArray:
    items = as_json(values.flatten()).to_pylist()
    texts, start = [], 0
    for length in pc.list_value_length(values).to_pylist():
        stop = start + (length or 0)
        texts.append(f"[{','.join(items[start:stop])}]")
        start = stop
    return pa.array(texts, pa.string())


def _json_maps(values: pa.MapArray) -> pa.StringArray:
    """Objects where the keys are text, else lists of pairs."""
    offsets = values.offsets.to_pylist()
    keys = as_json(values.keys[offsets[0] : offsets[-1]]).to_pylist()
    items = as_json(values.items[offsets[0] : offsets[-1]]).to_pylist()
    objects = _is(values.type.key_type, _STRINGS)
    pairs = [f"{k}:{i}" if objects else f"[{k},{i}]" for k, i in zip(keys, items, strict=True)]
    left, right = ("{", "}") if objects else ("[", "]")
    base = offsets[0]
    texts = [f"{left}{','.join(pairs[a - base : b - base])}{right}" for a, b in pairwise(offsets)]
    return pa.array(texts, pa.string())
