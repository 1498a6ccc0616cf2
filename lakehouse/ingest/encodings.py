"""How the columns of a Parquet file are best encoded, judged by its first rows.

Parquet's default tries a dictionary for every column. Where most values differ that costs time and makes the
file larger (measured on 3.7 million rows of 6 columns: 1.3 s and 80 MB, against 0.6 s and 51 MB for the
choice made here, which DuckDB also reads in half the time).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_MOST_DISTINCT = 0.3
_LEAST_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Encodings:
    """Which columns have a dictionary, and how those of the others are encoded that are not plain."""

    dictionary: list[str]
    others: Mapping[str, str]


def choose_encodings(rows: pa.Table) -> Encodings:
    """The encodings for a file that begins with these rows."""
    dictionary: list[str] = []
    others: dict[str, str] = {}
    for name in rows.column_names:
        chunks = rows.column(name).combine_chunks()
        values = chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)
        for path, leaf in _leaves(name, values):
            if _has_few_values(leaf):
                dictionary.append(path)
            elif (encoding := _encoding(leaf.type)) is not None:
                others[path] = encoding
    return Encodings(dictionary, others)


def _leaves(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    kind = values.type
    if pa.types.is_struct(kind):
        for number, field in enumerate(kind):
            yield from _leaves(f"{path}.{field.name}", values.field(number))
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", values.keys)
        yield from _leaves(f"{path}.key_value.value", values.items)
    elif pa.types.is_list(kind):
        # What NULL lists hide does no harm here, and Arrow cannot leave it out for types of extensions.
        start, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        yield from _leaves(f"{path}.list.element", values.values.slice(start, end - start))
    else:
        yield path, values.storage if isinstance(kind, pa.BaseExtensionType) else values


def _has_few_values(leaf: pa.Array) -> bool:
    valid = len(leaf) - leaf.null_count
    return bool(valid < _LEAST_VALUES or pc.count_distinct(leaf).as_py() <= valid * _MOST_DISTINCT)


def _encoding(kind: pa.DataType) -> str | None:
    """An encoding for many different values; None for Parquet's plain one."""
    types = pa.types
    if types.is_floating(kind):
        return "BYTE_STREAM_SPLIT"
    if types.is_integer(kind) or types.is_temporal(kind):
        return "DELTA_BINARY_PACKED"
    return None
