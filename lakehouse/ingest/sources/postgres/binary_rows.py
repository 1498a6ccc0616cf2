"""Rows in PostgreSQL's binary form made into Arrow, a column at a time.

Each value of a row has its length before it, so where a column begins in each row is known when the columns
before it are. All rows go through that together: columns of fixed width that stand side by side are picked up
at once, as long as none of them is NULL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa

from lakehouse.ingest.sources.postgres.wire import SLACK, RowBytes

_EPOCH_DAYS = 10_957
_EPOCH_US = _EPOCH_DAYS * 86_400_000_000
_UUID_BYTES = 16
_MOST_DIGITS = 18
_GROUP_DIGITS, _GROUPS = 4, 6
_HEAD_BYTES = 8
_HEAD = np.dtype(
    [("digits", ">i2"), ("weight", ">i2"), ("sign", ">u2"), ("scale", ">i2")]
    + [(f"d{group}", ">i2") for group in range(_GROUPS)]
)
_NEGATIVE = 0x4000
_POWERS = 10 ** np.arange(_MOST_DIGITS + 1, dtype=np.int64)
_LARGEST = (10**_MOST_DIGITS - 1) // _POWERS


@dataclass(frozen=True, slots=True)
class Fixed:
    """A type whose values have one width: as numpy reads it, and what Arrow makes of the numbers."""

    read: str
    made: str
    type: pa.DataType
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Varying:
    """A type whose values are bytes."""

    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Number(Varying):
    """Numeric of up to 18 digits, which becomes decimal; a batch with NaN or infinity becomes text."""


Kind = Fixed | Varying
_KINDS: dict[str, Kind] = {
    "bool": Fixed("u1", "u1", pa.bool_()),
    "int2": Fixed(">i2", "i2", pa.int16()),
    "int4": Fixed(">i4", "i4", pa.int32()),
    "int8": Fixed(">i8", "i8", pa.int64()),
    "float4": Fixed(">f4", "f4", pa.float32()),
    "float8": Fixed(">f8", "f8", pa.float64()),
    "date": Fixed(">i4", "i4", pa.date32(), _EPOCH_DAYS),
    "time": Fixed(">i8", "i8", pa.time64("us")),
    "timestamp": Fixed(">i8", "i8", pa.timestamp("us"), _EPOCH_US),
    "timestamptz": Fixed(">i8", "i8", pa.timestamp("us", "UTC"), _EPOCH_US),
    "uuid": Fixed(f"V{_UUID_BYTES}", f"V{_UUID_BYTES}", pa.uuid()),
    "numeric": Number(pa.string()),
    "text": Varying(pa.string()),
    "varchar": Varying(pa.string()),
    "bpchar": Varying(pa.string()),
    "name": Varying(pa.string()),
    "json": Varying(pa.string()),
    "bytea": Varying(pa.binary()),
    "tid": Fixed("V6", "V6", pa.binary(6)),
}


def kinds_by_oid() -> Mapping[int, Kind]:
    """What can be read, by the numbers of the types."""
    return {psycopg.adapters.types[name].oid: kind for name, kind in _KINDS.items()}


class RowReader:
    """Makes rows of so many columns into batches, whose columns are numbered."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._names = [str(number) for number in range(len(kinds))]
        self._runs = list(_runs(kinds))

    def batch(self, rows: RowBytes) -> pa.RecordBatch:
        """The rows, in memory of their own.

        Raises:
            psycopg.DataError: They are not of these columns.
        """
        memory = _Memory(rows.memory)
        at = rows.starts.copy()
        columns: list[pa.Array] = []
        try:
            if (memory.read(">i2", at) != len(self._kinds)).any():
                raise psycopg.DataError("the server sent rows of other columns than it described")
            at += 2
            for run in self._runs:
                columns += _run(memory, run, at, rows.ends)
            is_whole = bool((at == rows.ends).all())
        except IndexError:
            is_whole = False
        if not is_whole:
            raise psycopg.DataError("the server sent rows whose length is not that of their values")
        return pa.RecordBatch.from_arrays(columns, names=self._names)


@dataclass(frozen=True, slots=True)
class _Run:
    """Columns side by side that are read together: those of fixed width, and the length of what follows."""

    fixed: Sequence[Fixed]
    last: Varying | None
    record: np.dtype


def _runs(kinds: Sequence[Kind]) -> Iterator[_Run]:
    group: list[Fixed] = []
    for kind in kinds:
        if isinstance(kind, Varying):
            yield _Run(group, kind, _record(group, followed=True))
            group = []
            continue
        if _record([*group, kind], followed=True).itemsize > SLACK:
            yield _Run(group, None, _record(group, followed=False))
            group = []
        group.append(kind)
    if group:
        yield _Run(group, None, _record(group, followed=False))


def _record(kinds: Sequence[Fixed], *, followed: bool) -> np.dtype:
    """How a piece of a row looks that holds values of all of these."""
    parts = [
        part
        for number, kind in enumerate(kinds)
        for part in ((f"l{number}", ">i4"), (f"v{number}", kind.read))
    ]
    return np.dtype([*parts, ("next", ">i4")] if followed else parts)


class _Memory:
    """Bytes of which any place can be read as any type."""

    def __init__(self, memory: bytearray) -> None:
        self._bytes = memory
        self.buffer = pa.py_buffer(memory)

    def read(self, kind: str | np.dtype, at: np.ndarray) -> np.ndarray:
        """What stands at these places."""
        read = np.dtype(kind)
        count = len(self._bytes) - read.itemsize + 1
        # As bytes without a meaning: numpy would take apart what has parts, and turn it round meanwhile.
        pieces: np.ndarray = np.ndarray((count,), f"V{read.itemsize}", buffer=self._bytes, strides=(1,))[at]
        return pieces.view(read)


def _run(memory: _Memory, run: _Run, at: np.ndarray, ends: np.ndarray) -> list[pa.Array]:
    """The columns of a run; moves ``at`` behind them."""
    found = memory.read(run.record, at)
    if all((found[f"l{n}"] == np.dtype(kind.read).itemsize).all() for n, kind in enumerate(run.fixed)):
        at += run.record.itemsize
        columns = [_made(kind, found[f"v{n}"], None) for n, kind in enumerate(run.fixed)]
        lengths = found["next"] if run.last else None
    else:
        columns = [_one(memory, kind, at) for kind in run.fixed]
        lengths = memory.read(">i4", at) if run.last else None
        at += 4 if run.last else 0
    if run.last is not None and lengths is not None:
        read = _numbers if isinstance(run.last, Number) else _bytes
        columns.append(read(memory, run.last, lengths.astype(np.int32), at, ends))
    return columns


def _one(memory: _Memory, kind: Fixed, at: np.ndarray) -> pa.Array:
    """A column some of whose values are missing."""
    found = memory.read(_record([kind], followed=False), at)
    width = found.dtype["v0"].itemsize
    missing = found["l0"] < 0
    if (found["l0"][~missing] != width).any():
        raise psycopg.DataError(f"the server sent values of another width than {width} bytes")
    at += 4
    at[~missing] += width
    return _made(kind, found["v0"], missing if missing.any() else None)


def _made(kind: Fixed, values: np.ndarray, missing: np.ndarray | None) -> pa.Array:
    count = len(values)
    valid = None if missing is None else _bits(~missing)
    if pa.types.is_boolean(kind.type):
        return pa.Array.from_buffers(kind.type, count, [valid, _bits(values != 0)])
    own = values.astype(kind.made)
    if kind.epoch:
        own += own.dtype.type(kind.epoch)
    buffer = pa.py_buffer(own.view(np.uint8))
    if isinstance(kind.type, pa.BaseExtensionType):
        stored = pa.Array.from_buffers(kind.type.storage_type, count, [valid, buffer])
        return kind.type.wrap_array(stored)
    return pa.Array.from_buffers(kind.type, count, [valid, buffer])


def _bits(flags: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _bytes(memory: _Memory, kind: Varying, lengths: np.ndarray, at: np.ndarray, ends: np.ndarray) -> pa.Array:
    """A column of bytes, which begin at ``at``: every other one of pieces that reach from value to value."""
    missing: np.ndarray | None = None
    if len(lengths) and lengths.min() < 0:
        missing = lengths < 0
        lengths[missing] = 0
    count = len(at)
    places = np.empty(2 * count + 1, np.int32)
    places[0:-1:2] = at
    at += lengths
    if (at > ends).any():
        raise IndexError("a value reaches beyond its row")
    places[1::2] = at
    places[-1] = places[-2] if count else 0
    pieces = pa.Array.from_buffers(kind.type, 2 * count, [None, pa.py_buffer(places), memory.buffer])
    wanted = np.arange(0, 2 * count, 2, dtype=np.int32)
    return pieces.take(pa.array(wanted, mask=missing))


def _numbers(
    memory: _Memory, kind: Varying, lengths: np.ndarray, at: np.ndarray, ends: np.ndarray
) -> pa.Array:
    """A column of numbers, each a head and some digits to the base of 10,000."""
    missing = lengths < 0
    lengths[missing] = 0
    first = at.copy()
    at += lengths
    if (at > ends).any():
        raise IndexError("a value reaches beyond its row")
    head = memory.read(_HEAD, first)
    digits, weight = head["digits"].astype(np.int64), head["weight"].astype(np.int64)
    digits[missing] = 0
    negative, scales = head["sign"] == _NEGATIVE, head["scale"].astype(np.int64)
    scales[missing] = 0
    if (lengths[~missing] != _HEAD_BYTES + 2 * digits[~missing]).any():
        raise psycopg.DataError("the server sent numbers whose length is not that of their digits")
    if (~missing & ~negative & (head["sign"] != 0)).any():
        return _texts(head["sign"], missing)
    scale = int(scales.max(initial=0))
    if scale > _MOST_DIGITS:
        raise psycopg.DataError(f"the server sent numbers of {scale} digits behind the point")
    most = int(digits.max(initial=0))
    if most > _GROUPS:
        raise psycopg.DataError(f"the server sent numbers of more than {_MOST_DIGITS} digits")
    values = np.zeros(len(at), np.int64)
    # How many digits of the number are behind those of a group, as far as they are kept.
    behind = 4 * weight + scale
    for group in range(most):
        values += _placed(np.where(digits > group, head[f"d{group}"], 0), behind - 4 * group)
    np.negative(values, out=values, where=negative)
    whole = np.empty((len(at), 2), np.int64)
    whole[:, 0] = values
    whole[:, 1] = values >> 63
    valid = _bits(~missing) if missing.any() else None
    made = pa.decimal128(_MOST_DIGITS, scale)
    return pa.Array.from_buffers(made, len(at), [valid, pa.py_buffer(whole)])


def _placed(groups: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Groups of four digits, with so many digits behind each of them; fewer than 0 where it ends in zeros."""
    found = groups.astype(np.int64)
    places = np.where(found == 0, 0, behind)
    if places.max(initial=0) > _MOST_DIGITS or places.min(initial=0) < -_GROUP_DIGITS:
        raise psycopg.DataError(f"the server sent numbers of more than {_MOST_DIGITS} digits")
    if places.min(initial=0) < 0:
        cut = _POWERS[np.maximum(-places, 0)]
        shorter = found // cut
        if (shorter * cut != found).any():
            raise psycopg.DataError("the server sent numbers with more digits than they have")
        found, places = shorter, np.maximum(places, 0)
    if (found > _LARGEST[places]).any():
        raise psycopg.DataError(f"the server sent numbers of more than {_MOST_DIGITS} digits")
    placed: np.ndarray = found * _POWERS[places]
    return placed


def _texts(signs: np.ndarray, missing: np.ndarray) -> pa.Array:
    """That there are numbers which no decimal is, without the others."""
    named = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
    texts = [
        None if gone else named.get(sign, "0")
        for sign, gone in zip(signs.tolist(), missing.tolist(), strict=True)
    ]
    return pa.array(texts, pa.string())
