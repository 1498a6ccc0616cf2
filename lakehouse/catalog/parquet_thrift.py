"""The metadata at the end of a Parquet file, decoded without trust in it.

pyarrow ends the process where the statistics in a damaged footer do not have the length that their type asks
for, so a server must not look at them with it. This follows the compact protocol of Apache Thrift and
``parquet.thrift`` of the Parquet format, as far as rows, sizes and statistics go. Whatever the bytes are, the
result is either what they say or ``ValueError``.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = frozenset({4, 5, 6})
_DEEPEST = 32
# Of physical types: how values are stored that have a fixed size.
_BOOLEAN, _INT96, _BYTES, _FIXED = 0, 3, 6, 7
_FORMATS = {0: Struct("<?"), 1: Struct("<i"), 2: Struct("<q"), 4: Struct("<f"), 5: Struct("<d")}

Fields = dict[int, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the metadata tells of the values of one column in one row group.

    ``nulls`` is None where it is not told, as are ``minimum`` and ``maximum``, which are as Parquet stores
    the physical type.
    """

    begin: int
    size_bytes: int
    values: int
    nulls: int | None
    minimum: bool | int | float | bytes | None
    maximum: bool | int | float | bytes | None
    is_elsewhere: bool


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What the metadata tells of one row group."""

    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(content: bytes) -> tuple[int, list[RowGroup]]:
    """The number of rows of a file, and its row groups.

    Args:
        content: The metadata, without the length and the magic bytes that follow it.

    Raises:
        ValueError: It cannot be decoded.
    """
    try:
        told = _Reader(content).struct(0)
        groups = [
            RowGroup(_integer(group, 3), tuple(_chunk(each) for each in _list(group, 1)))
            for group in _list(told, 4)
        ]
        return _integer(told, 3), groups
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is not what Parquet files end with") from error


def _chunk(fields: Fields) -> Chunk:
    meta: Fields = fields[3]
    begin, dictionary = _integer(meta, 9), meta.get(11)
    if isinstance(dictionary, int) and 0 < dictionary < begin:
        begin = dictionary
    statistics: Fields = meta.get(12) or {}
    nulls = statistics.get(3)
    if nulls is not None and not isinstance(nulls, int):
        raise ValueError("a number of nulls is none")
    kind = _integer(meta, 1)
    return Chunk(
        begin,
        _integer(meta, 7),
        _integer(meta, 5),
        nulls,
        _value(kind, statistics.get(6)),
        _value(kind, statistics.get(5)),
        is_elsewhere=bool(fields.get(1)),
    )


def _value(kind: int, stored: Any) -> bool | int | float | bytes | None:
    """A bound as it was stored; None where there is none, or none that can be compared."""
    if not isinstance(stored, bytes) or kind == _INT96:
        return None
    if kind in (_BYTES, _FIXED):
        return stored
    form = _FORMATS.get(kind)
    if form is None or len(stored) != form.size:
        raise ValueError(f"a bound has {len(stored)} bytes, which its type has not")
    (found,) = form.unpack(stored)
    value: bool | int | float = found
    return value


def _integer(fields: Fields, number: int) -> int:
    found = fields[number]
    if isinstance(found, bool) or not isinstance(found, int):
        raise TypeError(f"field {number} is no number")
    return found


def _list(fields: Fields, number: int) -> list[Any]:
    found = fields[number]
    if not isinstance(found, list):
        raise TypeError(f"field {number} is no list")
    return found


class _Reader:
    """Reads values of the compact protocol, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self, depth: int) -> Fields:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        fields: Fields = {}
        number = 0
        while True:
            head = self._byte()
            if not head:
                return fields
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            if kind in (_TRUE, _FALSE):
                fields[number] = kind == _TRUE
            else:
                fields[number] = self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4
            return self._several(head & 15, self._varint() if count == 15 else count, depth)
        if kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            return [
                (self._element(kinds >> 4, depth), self._element(kinds & 15, depth))
                for _ in range(self._counted(count))
            ]
        if kind == _BYTE:
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise ValueError(f"there is no type {kind}")

    def _several(self, kind: int, count: int, depth: int) -> list[Any]:
        return [self._element(kind, depth + 1) for _ in range(self._counted(count))]

    def _element(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        return self._byte() == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)

    def _counted(self, count: int) -> int:
        if count > len(self._content) - self._at:
            raise ValueError("it has more elements than bytes")
        return count

    def _byte(self) -> int:
        found = self._content[self._at]
        self._at += 1
        return found

    def _bytes(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._content):
            raise ValueError("it ends too early")
        found = self._content[self._at : end]
        self._at = end
        return found

    def _varint(self) -> int:
        content, at = self._content, self._at
        found = content[at]
        at += 1
        if found >= 128:
            found &= 127
            for shift in range(7, 70, 7):
                more = content[at]
                at += 1
                found |= (more & 127) << shift
                if more < 128:
                    break
            else:
                raise ValueError("a number is too long")
        self._at = at
        return found

    def _zigzag(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)
