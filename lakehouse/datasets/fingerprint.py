"""A fingerprint of a schema: equal for schemas that a program can read alike, wherever they were found.

What counts are the names of the columns, as they are spelled, and the types of their values. What does not:

- the order of columns, and of the fields of a struct, because both are read by name;
- whether a column may be null, comments and field ids, which Parquet files and catalogs tell differently;
- how values lie in memory (dictionaries, views, 64-bit offsets), and the time zone that points in time are
  shown in, because they are the same points in time.

The order of what a list, a map or a decimal is made of does count: it has a meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import pyarrow as pa
from pyarrow import types

_VERSION = "1"
_DIGITS = 32


def fingerprint(schema: pa.Schema) -> str:
    """The fingerprint of a schema: ``1:`` and 32 hexadecimal digits.

    Args:
        schema: The columns; names may be repeated.
    """
    text = json.dumps(_fields(schema), ensure_ascii=False, separators=(",", ":"))
    return f"{_VERSION}:{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"


def _fields(fields: Iterable[pa.Field]) -> list[list[object]]:
    return sorted(([field.name, _type(field.type)] for field in fields), key=json.dumps)


def _type(kind: pa.DataType) -> object:
    """A type as a text, or a nested list of them, that JSON writes the same way each time."""
    if isinstance(kind, pa.BaseExtensionType):
        return ["extension", kind.extension_name, _type(kind.storage_type)]
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _type(kind.value_type)
    if types.is_struct(kind):
        return ["struct", _fields(kind.field(i) for i in range(kind.num_fields))]
    if types.is_map(kind):
        return ["map", _type(kind.key_type), _type(kind.item_type)]
    if types.is_fixed_size_list(kind):
        return ["list", _type(kind.value_type), kind.list_size]
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.ListViewType | pa.LargeListViewType):
        return ["list", _type(kind.value_type)]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "binary"
    if types.is_timestamp(kind):
        return f"timestamp[{kind.unit}{', UTC' if kind.tz else ''}]"
    if types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    return str(kind)
