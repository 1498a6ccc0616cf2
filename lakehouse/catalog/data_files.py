"""Iceberg's record of a Parquet file: where it is, and what its footer tells about the columns.

The statistics are made from the footer's raw values and not by pyiceberg, which turns them into Python dates
first and so fails on timestamps that Python cannot name (infinity, or a year after 9999).
"""

from __future__ import annotations

import math
import struct
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from lakehouse.catalog.iceberg_types import Leaf, leaves

__all__ = ["DataFile", "data_file", "encoded"]

_BOUND_LENGTH = 16
_FIRST_SURROGATE, _AFTER_SURROGATES = 0xD800, 0xE000
_FORMATS: dict[IcebergType, str] = {
    BooleanType(): "?",
    IntegerType(): "<i",
    DateType(): "<i",
    LongType(): "<q",
    TimeType(): "<q",
    TimestampType(): "<q",
    TimestamptzType(): "<q",
    FloatType(): "<f",
    DoubleType(): "<d",
}


def data_file(
    uri: str,
    size_bytes: int,
    footer: pq.FileMetaData,
    schema: Schema,
    spec_id: int,
    partition: Record | None = None,
    sort_order_id: int | None = None,
) -> DataFile:
    """The record of a file that was written with ``iceberg_types.file_schema(schema)``.

    Args:
        uri: Where the file is.
        size_bytes: How large it is.
        footer: Its Parquet metadata.
        schema: The Iceberg schema it was written with.
        spec_id: The table's partition spec.
        partition: The values that the spec gives for every row of the file.
        sort_order_id: The order that the rows of the whole file are in.
    """
    statistics = _Statistics()
    # By position, because dots in names make the paths of Parquet columns ambiguous.
    columns = list(enumerate(leaves(schema)))
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for position, leaf in columns:
            statistics.add(leaf, group.column(position))
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=uri,
        file_format=FileFormat.PARQUET,
        partition=partition or Record(),
        record_count=footer.num_rows,
        file_size_in_bytes=size_bytes,
        column_sizes=dict(statistics.sizes),
        value_counts=dict(statistics.values),
        null_value_counts=dict(statistics.nulls),
        nan_value_counts={},
        lower_bounds=statistics.bounds(min, _lower),
        upper_bounds=statistics.bounds(max, _upper),
        split_offsets=[_offset(footer.row_group(number)) for number in range(footer.num_row_groups)],
        sort_order_id=sort_order_id,
        equality_ids=None,
        key_metadata=None,
    )
    file.spec_id = spec_id
    return file


class _Statistics:
    """What the row groups of a file tell about its columns, by field id."""

    def __init__(self) -> None:
        self.sizes: defaultdict[int, int] = defaultdict(int)
        self.values: defaultdict[int, int] = defaultdict(int)
        self.nulls: defaultdict[int, int] = defaultdict(int)
        self._extremes: defaultdict[int, list[Any]] = defaultdict(list)
        self._unbounded: set[int] = set()
        self._types: dict[int, IcebergType] = {}

    def add(self, leaf: Leaf, chunk: pq.ColumnChunkMetaData) -> None:
        self.sizes[leaf.field_id] += chunk.total_compressed_size
        if leaf.repeated:
            return  # counts and bounds of list elements say nothing about rows
        self._types[leaf.field_id] = leaf.type
        self.values[leaf.field_id] += chunk.num_values
        statistics = chunk.statistics if chunk.is_stats_set else None
        if statistics is None or not statistics.has_null_count:
            self._unbounded.add(leaf.field_id)
            return
        self.nulls[leaf.field_id] += statistics.null_count
        if statistics.has_min_max and not _is_nan(statistics.min_raw) | _is_nan(statistics.max_raw):
            self._extremes[leaf.field_id] += [statistics.min_raw, statistics.max_raw]
        elif statistics.null_count < chunk.num_values:
            self._unbounded.add(leaf.field_id)

    def bounds(
        self, extreme: Callable[[list[Any]], Any], encode: Callable[[IcebergType, bytes], bytes | None]
    ) -> dict[int, bytes]:
        found = {}
        for field_id, values in self._extremes.items():
            if field_id not in self._unbounded:
                kind = self._types[field_id]
                bound = encode(kind, encoded(kind, extreme(_comparable(kind, values))))
                if bound is not None:
                    found[field_id] = bound
        return found


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _comparable(kind: IcebergType, values: list[Any]) -> list[Any]:
    if isinstance(kind, DecimalType):
        return [int.from_bytes(v, "big", signed=True) if isinstance(v, bytes) else v for v in values]
    return values


def encoded(kind: IcebergType, value: Any) -> bytes:
    """A value in Iceberg's single-value serialisation (table specification, appendix D)."""
    if isinstance(kind, DecimalType):
        number = int(value)
        return number.to_bytes((number if number >= 0 else ~number).bit_length() // 8 + 1, "big", signed=True)
    if kind in _FORMATS:
        return struct.pack(_FORMATS[kind], value)
    return bytes(value)


def _lower(kind: IcebergType, bound: bytes) -> bytes | None:
    if isinstance(kind, StringType):
        return bound.decode()[:_BOUND_LENGTH].encode()
    return bound if _has_fixed_size(kind) else bound[:_BOUND_LENGTH]


def _upper(kind: IcebergType, bound: bytes) -> bytes | None:
    if isinstance(kind, StringType):
        text = bound.decode()
        return bound if len(text) <= _BOUND_LENGTH else _text_above(text[:_BOUND_LENGTH])
    if _has_fixed_size(kind) or len(bound) <= _BOUND_LENGTH:
        return bound
    return _bytes_above(bound[:_BOUND_LENGTH])


def _text_above(prefix: str) -> bytes | None:
    """The least text that is greater than every text of that prefix."""
    for position in reversed(range(len(prefix))):
        code = ord(prefix[position]) + 1
        code = _AFTER_SURROGATES if code == _FIRST_SURROGATE else code
        if code <= sys.maxunicode:
            return (prefix[:position] + chr(code)).encode()
    return None


def _bytes_above(prefix: bytes) -> bytes | None:
    """The least bytes that are greater than all bytes of that prefix."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def _has_fixed_size(kind: IcebergType) -> bool:
    return kind in _FORMATS or isinstance(kind, DecimalType)


def _offset(group: pq.RowGroupMetaData) -> int:
    first = group.column(0)
    offset: int = first.data_page_offset
    return min(offset, first.dictionary_page_offset) if first.has_dictionary_page else offset
