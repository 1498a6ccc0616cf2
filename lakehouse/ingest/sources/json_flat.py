"""Lines of JSON whose objects hold neither objects nor lists, taken apart by where their quotes stand.

Field by field, of all rows at once, and without reading values: so a field may be of several kinds, which
Arrow's parser does not allow, and for which objects decoded one by one take twenty times as long. Whatever is
not certainly of that form is left to that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Places = npt.NDArray[np.int64]
_Letters = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]

_QUOTE, _BACKSLASH, _BLANK, _NEWLINE = 34, 92, 32, 10
_COMMA, _OPEN, _CLOSE = ord(","), ord("{"), ord("}")
_NULL = int.from_bytes(b"null", "little")
_WORD = 8
_SAMPLE = 20
# Fields that a row does not have cost as much as those that it has.
_MOST_MISSING = 8


@dataclass(frozen=True, slots=True)
class FlatColumn:
    """One field of all rows.

    Attributes:
        values: Texts as they are meant, everything else as it is written, unchecked: what is not quoted may
            be anything. NULL where a value is missing, or null.
        quoted: Which values are texts.
        bare: Whether some are neither that nor NULL.
    """

    values: pa.Array
    quoted: _Mask
    bare: bool


def flat_columns(content: bytes, names: Sequence[str]) -> list[FlatColumn] | None:
    """The fields of these names of all rows; None unless each line certainly is an object of such fields.

    Args:
        content: Whole lines of UTF-8.
        names: Those that there may be, in any order.
    """
    lines = _Lines.of(content if content.endswith(b"\n") else content + b"\n")
    if lines is None or len(names) * len(lines.starts) > _MOST_MISSING * len(lines.quotes):
        return None
    step = max(1, len(lines.starts) // _SAMPLE)
    walk = _Walk(lines)
    for number in _order(lines, range(0, len(lines.starts), step), names):
        if not walk.step(number, names[number]):
            return None
    return walk.columns(len(names)) if walk.is_done else None


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where lines, and texts within them, begin and end.

    Attributes:
        content: The lines, and some blanks behind.
        letters: The same.
        starts: The braces that the lines begin with.
        ends: Those that they end with.
        quotes: The quotes that texts begin and end with.
        first: Which of these is the first of each line.
        escapes: The backslashes.
    """

    content: bytes
    letters: _Letters
    starts: Places
    ends: Places
    quotes: npt.NDArray[np.int32]
    first: Places
    escapes: Places

    @classmethod
    def of(cls, content: bytes) -> _Lines | None:
        """None unless each line begins with a brace and a quote, and ends with a brace."""
        letters = np.frombuffer(content, np.uint8)
        rows = content.count(b"\n")
        if np.count_nonzero(letters < _BLANK) != rows:
            return None
        quotes, escapes = _quotes(content, letters)
        if not len(quotes) or len(quotes) % 2 or quotes[0] == 0:
            return None
        opening = np.flatnonzero(letters[quotes[0::2] - 1] == _OPEN) * 2
        starts = quotes[opening] - 1
        # As many as there are lines, each at the beginning of one: so none is within a line, or a text.
        if len(starts) != rows or starts[0] or (letters[starts[1:] - 1] != _NEWLINE).any():
            return None
        ends = np.append(starts[1:], len(content)) - 2
        if (letters[ends] != _CLOSE).any():
            return None
        padded = content + b" " * (2 * _WORD)
        behind = np.frombuffer(padded, np.uint8)
        return cls(padded, behind, starts, ends, quotes.astype(np.int32), opening, escapes)


def _quotes(content: bytes, letters: _Letters) -> tuple[Places, Places]:
    """The places of the quotes that begin or end a text, and of backslashes."""
    quotes: Places = np.flatnonzero(letters == _QUOTE)
    if b"\\" not in content:
        return quotes, quotes[:0]
    escapes: Places = np.flatnonzero(letters == _BACKSLASH)
    numbers = np.arange(len(escapes))
    begins_run = np.diff(escapes, prepend=-2) != 1
    run = numbers - np.maximum.accumulate(np.where(begins_run, numbers, 0)) + 1
    escaped = np.zeros(len(letters) + 1, np.bool_)
    escaped[escapes[run % 2 == 1] + 1] = True
    return quotes[~escaped[quotes]], escapes


def _order(lines: _Lines, sample: Iterable[int], names: Sequence[str]) -> list[int]:
    """The names by their numbers, in an order that the fields of these lines have."""
    known = {name: number for number, name in enumerate(names)}
    order: list[int] = []
    for row in sample:
        try:
            fields = json.loads(lines.content[lines.starts[row] : lines.ends[row] + 1])
        except (ValueError, RecursionError):
            continue
        place = 0
        for key in fields:
            number = known.get(key)
            if number is None:
                continue
            if number in order:
                place = order.index(number) + 1
            else:
                order.insert(place, number)
                place += 1
    seen = set(order)
    return order + [number for number in range(len(names)) if number not in seen]


@dataclass(frozen=True, slots=True)
class _Step:
    """A field of those lines that have it next: ``rows`` is None where all have."""

    number: int
    rows: Places | None
    starts: Places
    ends: Places
    quoted: _Mask


class _Walk:
    """Goes through the fields of all lines at once; each step takes those that have the field next."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self._words: npt.NDArray[np.uint64] = np.frombuffer(lines.content, "<u8", len(lines.content) // _WORD)
        self._place = lines.starts.copy()
        self._quote = lines.first.copy()
        self._behind = np.append(lines.first[1:], len(lines.quotes))
        self._steps: list[_Step] = []

    @property
    def is_done(self) -> bool:
        """Whether the ends of all lines are reached."""
        return bool((self._place == self._lines.ends).all())

    def step(self, number: int, name: str) -> bool:
        """Take a field; gives whether no line shows that it is of another form."""
        lines, letters, quotes = self._lines, self._lines.letters, self._lines.quotes
        key = json.dumps(name, ensure_ascii=False).encode() + b":"
        opening = quotes[np.minimum(self._quote, len(quotes) - 1)].astype(np.int64)
        here = (self._quote < self._behind) & self._is_at(opening, key)
        rows = None if here.all() else np.flatnonzero(here)
        place, quote, limit, behind = self._place, self._quote, lines.ends, self._behind
        if rows is not None:
            place, quote, limit, behind = place[rows], quote[rows], limit[rows], behind[rows]
            opening = opening[rows]
        # Before the key stands what is behind the last value, and perhaps a blank.
        blank = opening - place != 1
        if blank.any() and ((opening - place)[blank] != 2).any():
            return False
        if blank.any() and (letters[opening[blank] - 1] != _BLANK).any():
            return False
        start = opening + len(key)
        mark = letters[start]
        if (mark == _BLANK).any():
            start = start + (mark == _BLANK)
            mark = letters[start]
        quoted = mark == _QUOTE
        # A text ends with its second quote, everything else where the next key or the line's end is.
        most = len(quotes) - 1
        comma = quotes[np.minimum(quote + 2, most)].astype(np.int64) - 1
        comma = comma - (letters[comma] == _BLANK)
        end = np.where(quote + 2 >= behind, limit, comma)
        end = np.where(quoted, quotes[np.minimum(quote + 3, most)], end)
        start, after = start + quoted, end + quoted
        self._go(rows, after, quote + np.where(quoted, 4, 2))
        self._steps.append(_Step(number, rows, start, end, quoted))
        is_right = (after == limit) | ((letters[after] == _COMMA) & (after < limit))
        return bool(is_right.all()) and not bool((end < start).any())

    def _go(self, rows: Places | None, place: Places, quote: Places) -> None:
        if rows is None:
            self._place, self._quote = place, quote
        else:
            self._place[rows], self._quote[rows] = place, quote

    def _is_at(self, places: Places, key: bytes) -> _Mask:
        """At which places a key stands."""
        words, word = self._words, places >> 3
        shift = ((places & 7) << 3).astype(np.uint64)
        back = np.uint64(63) - shift
        found = np.ones(len(places), np.bool_)
        low = words[np.minimum(word, len(words) - 1)]
        for at in range(0, len(key), _WORD):
            high = words[np.minimum(word + (at // _WORD + 1), len(words) - 1)]
            part = key[at : at + _WORD]
            have = (low >> shift) | (high << back << np.uint64(1))
            if len(part) < _WORD:
                have &= np.uint64((1 << (8 * len(part))) - 1)
            found &= have == np.uint64(int.from_bytes(part, "little"))
            low = high
        return found

    def columns(self, count: int) -> list[FlatColumn] | None:
        """The columns, in the order of their numbers; None if a text is none."""
        lines, width, rows = self._lines, len(self._steps), len(self._lines.starts)
        bounds = np.empty((rows, width, 2), np.int32)
        for number, step in enumerate(self._steps):
            if step.rows is not None:  # the others have nothing there, behind what they had before
                before = bounds[:, number - 1, 1] if number else lines.starts
                bounds[:, number, 0] = bounds[:, number, 1] = before
            which = slice(None) if step.rows is None else step.rows
            bounds[which, number, 0], bounds[which, number, 1] = step.starts, step.ends
        offsets = np.empty(2 * rows * width + 2, np.int32)
        offsets[0], offsets[-1] = 0, len(lines.content)
        offsets[1:-1] = bounds.ravel()
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(lines.content)]
        parts = pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)
        texts = parts.take(pa.array(np.arange(1, 2 * rows * width, 2, dtype=np.int32)))
        found: dict[int, FlatColumn] = {}
        for number, step in enumerate(self._steps):
            column = self._column(texts, np.arange(number, rows * width, width, dtype=np.int32), step)
            if column is None:
                return None
            found[step.number] = column
        return [found[number] for number in range(count)]

    def _column(self, texts: pa.Array, which: npt.NDArray[np.int32], step: _Step) -> FlatColumn | None:
        lines, quoted, missing = self._lines, step.quoted, None
        bare = ~quoted
        null = bare & (lines.letters[step.starts] == ord("n")) if bare.any() else bare
        if null.any():
            begins = step.starts[null]
            if (step.ends[null] - begins != 4).any() or not self._is_at(begins, b"null").all():
                return None
            bare &= ~null
        if step.rows is not None or null.any():
            missing = np.ones(len(which), np.bool_)
            missing[slice(None) if step.rows is None else step.rows] = null
        values = texts.take(pa.array(which, mask=missing))
        if step.rows is not None:
            quoted = np.zeros(len(which), np.bool_)
            quoted[step.rows] = step.quoted
        values = self._meant(values, step, quoted)
        return None if values is None else FlatColumn(values, quoted, bool(bare.any()))

    def _meant(self, values: pa.Array, step: _Step, quoted: _Mask) -> pa.Array | None:
        """Texts with what their escapes mean; None if one means nothing."""
        escapes = self._lines.escapes
        if not len(escapes):
            return values
        escaped = step.quoted & (np.searchsorted(escapes, step.starts) < np.searchsorted(escapes, step.ends))
        if not escaped.any():
            return values
        content = self._lines.content
        begins, ends = (step.starts[escaped] - 1).tolist(), (step.ends[escaped] + 1).tolist()
        places = zip(begins, ends, strict=True)
        mask = quoted.copy()
        mask[mask] = escaped[step.quoted]
        try:
            meant = json.loads(b"[" + b",".join(content[a:b] for a, b in places) + b"]")
            return pc.replace_with_mask(values, pa.array(mask), pa.array(meant, pa.string()))
        except ValueError:  # no escape, or half of a surrogate pair
            return None
