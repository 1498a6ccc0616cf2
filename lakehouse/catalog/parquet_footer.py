"""The footers of Parquet objects: what they tell of rows and columns, and what is wrong with them.

No more is read of an object than its end. Statistics are kept as Iceberg keeps bounds, so that they can be
compared with those of its manifests: times in microseconds, decimals unscaled, texts in UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.catalog.arrow_types import storable_type
from lakehouse.catalog.parquet_thrift import RowGroup, row_groups
from lakehouse.errors import LakehouseError
from lakehouse.storage import Bucket

__all__ = ["ColumnFooter", "Footer", "FooterError", "bound_text", "read_footer"]

TAIL_BYTES = 65_536
"""So much of an object's end is read at once; few footers are larger."""
MAX_FOOTER_BYTES = 256 * 1024 * 1024
"""A footer that claims to be larger is taken for damaged."""
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_FRAME_BYTES = 8  # the length of the footer and the magic bytes after it
_LONGEST_TEXT = 256
_TO_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Bound = bool | int | float | bytes
"""A bound of a column: dates in days, times in microseconds, decimals unscaled, texts in UTF-8."""


class FooterError(Exception):
    """What is wrong with an object that should be Parquet.

    Attributes:
        problem: ``missing``, ``empty``, ``not_parquet``, ``truncated``, ``encrypted``, ``corrupt``,
            ``changing`` or ``unreadable``.
        detail: In words.
    """

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(f"{problem}: {detail}")
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ColumnFooter:
    """What a footer tells of one column.

    Attributes:
        name: The column's name.
        type: The Arrow type that the file declares.
        nulls: How many rows have no value; None where that is not known, as for columns with parts.
        minimum: No value is less; None where that is not known.
        maximum: No value is greater.
        size_bytes: Of its compressed data.
    """

    name: str
    type: pa.DataType
    nulls: int | None
    minimum: Bound | None
    maximum: Bound | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Footer:
    """What the end of a Parquet object tells.

    Attributes:
        key: The object's key.
        size_bytes: How large the object is.
        e_tag: Which version of the object it was.
        rows: How many rows.
        row_groups: In how many groups.
        columns: In the order of the file.
        read_bytes: How much of the object was read.
        has_field_ids: Whether every column has a field id.
    """

    key: str
    size_bytes: int
    e_tag: str
    rows: int
    row_groups: int
    columns: tuple[ColumnFooter, ...]
    read_bytes: int
    has_field_ids: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns as the file declares them."""
        return pa.schema([(column.name, column.type) for column in self.columns])


def read_footer(bucket: Bucket, key: str) -> Footer:
    """The footer of an object.

    Args:
        bucket: Where the object is.
        key: Its key.

    Raises:
        FooterError: It cannot be had; says why.
        LakehouseError: The bucket cannot be read.
    """
    tail, read = _end(bucket, key)
    length = int.from_bytes(tail.content[-8:-4], "little")
    try:
        rows, groups = row_groups(tail.content[-_FRAME_BYTES - length : -_FRAME_BYTES])
        _check_layout(rows, groups, tail.size - length - _FRAME_BYTES)
        # Of what pyarrow reads nothing but the schema is looked at: statistics could end the process.
        metadata = pq.read_metadata(pa.BufferReader(tail.content))
        schema = metadata.schema.to_arrow_schema()
        columns = tuple(_columns(schema, groups, metadata.num_columns))
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        raise FooterError("corrupt", f"its footer does not make sense: {_first_line(error)}") from error
    with_ids = all(b"PARQUET:field_id" in (field.metadata or {}) for field in schema)
    return Footer(key, tail.size, tail.e_tag, rows, len(groups), columns, read, with_ids)


@dataclass(frozen=True, slots=True)
class _Tail:
    content: bytes
    size: int
    e_tag: str


def _end(bucket: Bucket, key: str) -> tuple[_Tail, int]:
    """As much of an object's end as holds its footer, and how much was read for that."""
    found = bucket.tail(key, TAIL_BYTES)
    tail = _Tail(bytes(found.content), found.size, found.e_tag)
    if len(tail.content) != min(TAIL_BYTES, tail.size):
        raise FooterError("unreadable", "the answer of the store broke off")
    if not tail.size:
        raise FooterError("empty", "it has no bytes")
    length = _footer_bytes(bucket, key, tail)
    if length <= len(tail.content):
        return tail, len(tail.content)
    again = bucket.tail(key, length)
    if (again.size, again.e_tag) != (tail.size, tail.e_tag):
        raise FooterError("changing", "it was replaced while its footer was being read")
    if len(again.content) != length:
        raise FooterError("unreadable", "the answer of the store broke off")
    return _Tail(bytes(again.content), again.size, again.e_tag), len(tail.content) + length


def _footer_bytes(bucket: Bucket, key: str, tail: _Tail) -> int:
    """How long the footer is that an object claims to have, with what frames it."""
    magic = tail.content[-4:]
    if magic == _ENCRYPTED:
        raise FooterError("encrypted", "its footer is encrypted")
    if magic != _MAGIC or tail.size < len(_MAGIC) + _FRAME_BYTES:
        start = tail.content[:4] if tail.size <= len(tail.content) else _beginning(bucket, key)
        if start == _MAGIC:
            raise FooterError("truncated", "it begins as Parquet but does not end so")
        raise FooterError("not_parquet", f"it does not end with PAR1, found {magic!r}")
    length = int.from_bytes(tail.content[-8:-4], "little") + _FRAME_BYTES
    if length > min(tail.size - len(_MAGIC), MAX_FOOTER_BYTES):
        raise FooterError("corrupt", f"its footer claims {length} bytes of the {tail.size} that it has")
    return length


def _beginning(bucket: Bucket, key: str) -> bytes:
    try:
        return bucket.head_bytes(key, len(_MAGIC))
    except LakehouseError:
        return b""


def _check_layout(rows: int, groups: Sequence[RowGroup], data_end: int) -> None:
    """Make sure that what a footer tells can be true of a file whose data ends there."""
    for group in groups:
        for chunk in group.chunks:
            if chunk.is_elsewhere:
                raise ValueError("its columns are in other files")
            if chunk.size_bytes < 0 or (group.rows and chunk.begin < len(_MAGIC)):
                raise ValueError("a column lies before the beginning of the file")
            if chunk.begin + chunk.size_bytes > data_end:
                raise ValueError("a column reaches beyond the end of the data")
    counted = sum(group.rows for group in groups)
    if rows != counted or any(group.rows < 0 for group in groups):
        raise ValueError(f"{rows} rows in all, but {counted} in the row groups")


def _columns(schema: pa.Schema, groups: Sequence[RowGroup], count: int) -> Iterator[ColumnFooter]:
    if any(len(group.chunks) != count for group in groups):
        raise ValueError("a row group has another number of columns than the schema")
    position = 0
    for field in schema:
        leaves = _leaf_count(field.type)
        yield _column(field, groups, range(position, position + leaves))
        position += leaves
    if position != count:
        raise ValueError(f"{count} columns of values, expected {position}")


def _leaf_count(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf_count(kind.storage_type)
    if pa.types.is_struct(kind):
        return sum(_leaf_count(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_map(kind):
        return _leaf_count(kind.key_type) + _leaf_count(kind.item_type)
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return _leaf_count(kind.value_type)
    return 1


def _column(field: pa.Field, groups: Sequence[RowGroup], positions: range) -> ColumnFooter:
    size, nulls = 0, 0
    lows: list[Bound] = []
    highs: list[Bound] = []
    counted = bounded = not pa.types.is_nested(field.type) and len(positions) == 1
    for group in groups:
        size += sum(group.chunks[position].size_bytes for position in positions)
        if not counted or not group.rows:
            continue
        chunk = group.chunks[positions[0]]
        if chunk.values != group.rows:
            raise ValueError(f"column '{field.name}' has {chunk.values} values in {group.rows} rows")
        if chunk.nulls is None:
            counted = bounded = False
            continue
        if not 0 <= chunk.nulls <= group.rows:
            raise ValueError(f"column '{field.name}' has {chunk.nulls} nulls in {group.rows} rows")
        nulls += chunk.nulls
        if chunk.nulls == group.rows:
            continue
        low, high = _bound(field.type, chunk.minimum, -1), _bound(field.type, chunk.maximum, 1)
        bounded = bounded and low is not None and high is not None
        if low is not None and high is not None:
            lows.append(low)
            highs.append(high)
    return ColumnFooter(
        field.name,
        field.type,
        nulls if counted else None,
        min(lows) if bounded and lows else None,
        max(highs) if bounded and highs else None,
        size,
    )


def _bound(kind: pa.DataType, raw: object, side: int) -> Bound | None:
    """A bound as Iceberg has it, from the value that Parquet stores; None where nothing can be said."""
    if isinstance(kind, pa.BaseExtensionType):
        return None
    if pa.types.is_dictionary(kind):
        return _bound(kind.value_type, raw, side)
    if isinstance(raw, bool):
        return raw if pa.types.is_boolean(kind) else None
    if isinstance(raw, int):
        return _integer_bound(kind, raw, side)
    if isinstance(raw, float):
        floating = pa.types.is_float32(kind) or pa.types.is_float64(kind)
        return raw if floating and not math.isnan(raw) else None
    if not isinstance(raw, bytes):
        return None
    if pa.types.is_decimal(kind):
        return int.from_bytes(raw, "big", signed=True) if raw else None
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return raw if is_text and _is_text(raw) else None


def _integer_bound(kind: pa.DataType, raw: int, side: int) -> int | None:
    if pa.types.is_unsigned_integer(kind):
        return raw & ((1 << int(kind.bit_width)) - 1)
    if pa.types.is_integer(kind) or pa.types.is_date32(kind) or pa.types.is_decimal(kind):
        return raw
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        if kind.unit == "ns":
            return -(-raw // 1000) if side > 0 else raw // 1000
        return raw * _TO_MICROSECONDS[kind.unit]
    return None


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def bound_text(kind: pa.DataType, bound: Bound | None) -> str | None:
    """A bound as people read it; None where it is not known, too long, or a time that has no name.

    Args:
        kind: The type of the column, as a table keeps it.
        bound: The bound.
    """
    if bound is None:
        return None
    kind = storable_type(kind, "")
    try:
        if isinstance(bound, bool):
            return "true" if bound else "false"
        if isinstance(bound, bytes):
            text = bound.decode()
            return text if len(text) <= _LONGEST_TEXT else None
        if isinstance(bound, float):
            return repr(bound)
        return _integer_text(kind, bound)
    except (ValueError, OverflowError):
        return None


def _integer_text(kind: pa.DataType, bound: int) -> str:
    if pa.types.is_decimal(kind):
        return f"{Decimal(bound).scaleb(-kind.scale):f}"
    if pa.types.is_date(kind):
        return (date(1970, 1, 1) + timedelta(days=bound)).isoformat()
    if pa.types.is_time(kind):
        seconds, microseconds = divmod(bound, 1_000_000)
        minutes, second = divmod(seconds, 60)
        return time(minutes // 60, minutes % 60, second, microseconds).isoformat()
    if pa.types.is_timestamp(kind):
        moment = _EPOCH + timedelta(microseconds=bound)
        return moment.isoformat() if kind.tz else moment.replace(tzinfo=None).isoformat()
    return str(bound)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200] or type(error).__name__
