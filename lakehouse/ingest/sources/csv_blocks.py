"""Delimited text in blocks of whole rows, and where each row of a block is.

A quote has a meaning only where a field begins (RFC 4180, and what pyarrow's parser and Python's csv module
make of everything that is not quite that): ``5" pipe`` is a field like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from lakehouse.errors import InvalidRequest

Places = npt.NDArray[np.int64]
_LF = 10


@dataclass(frozen=True, slots=True)
class Marks:
    """What parts fields and rows. ``quote`` may be empty; lines end in ``newline``, or in others."""

    delimiter: bytes = b","
    quote: bytes = b'"'
    newline: bytes = b"\n"


@dataclass(frozen=True)
class Block:
    """Some whole rows.

    Attributes:
        content: Their bytes.
        start: Where they begin in the text, in bytes.
        line: The line that they begin in, from 1.
        marks: What parts them.
        unclosed: Whether it is the one row at the end whose last quote is never closed.
    """

    content: bytes
    start: int
    line: int
    marks: Marks
    unclosed: bool = False

    @property
    def end(self) -> int:
        """Where the next block begins in the text."""
        return self.start + len(self.content)

    @cached_property
    def lines(self) -> int:
        """How many lines it has."""
        return count_lines(self.content)

    @cached_property
    def _line_ends(self) -> Places:
        return _line_ends(self.content)

    @cached_property
    def _row_bounds(self) -> tuple[Places, Places]:
        ends = _outside(self._line_ends - 1, quoted_spans(self.content, self.marks)) + 1
        if not len(ends) or ends[-1] < len(self.content):
            ends = np.append(ends, len(self.content))
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        return starts, ends

    def rows(self, blanks: bool) -> tuple[Places, Places]:
        """Where the rows begin, and where they end; empty lines are rows only with ``blanks``."""
        starts, ends = self._row_bounds
        if blanks:
            return starts, ends
        letters = np.frombuffer(self.content, np.uint8)
        blank = np.isin(letters[np.minimum(starts, len(letters) - 1)], (10, 13)) | (starts >= len(letters))
        return starts[~blank], ends[~blank]

    def line_at(self, place: int) -> int:
        """The line of a place in ``content``."""
        return self.line + int(np.searchsorted(self._line_ends, place, "right"))


def blocks(
    stream: BinaryIO,
    marks: Marks,
    block_bytes: int,
    max_row_bytes: int,
    name: str,
    start: int = 0,
    line: int = 1,
) -> Iterator[Block]:
    """The rows of a text, in blocks of about ``block_bytes``.

    Args:
        stream: UTF-8 from the beginning of a row.
        marks: What parts fields and rows.
        block_bytes: How much is read at a time.
        max_row_bytes: The longest row that is taken.
        name: What messages call the file.
        start: Where the stream is in the text.
        line: The line that it is at.

    Raises:
        InvalidRequest: A row is too long.
    """
    rest = b""
    while found := stream.read(block_bytes):
        rest = rest + found if rest else found
        end = last_row_end(rest, marks)
        if end:
            block = Block(rest[:end], start, line, marks)
            yield block
            start, line, rest = block.end, line + block.lines, rest[end:]
        if len(rest) > max_row_bytes:
            raise InvalidRequest(
                f"'{name}' line {line}: a row of more than {max_row_bytes} bytes begins there, "
                "which is the most that is taken (max_row_bytes)",
                "a quote that is never closed makes one row of all that follows",
            )
    if not rest:
        return
    end = _row_end_of_rest(rest, marks)
    if end:
        block = Block(rest[:end], start, line, marks)
        yield block
        start, line, rest = block.end, line + block.lines, rest[end:]
    if rest:
        yield Block(rest, start, line, marks, unclosed=True)


def count_lines(content: bytes) -> int:
    """How many line ends there are: LF, CR LF or CR."""
    # Counting bytes one by one takes a quarter of what looking for each takes.
    count = int(np.count_nonzero(np.frombuffer(content, np.uint8) == _LF))
    if b"\r" in content:
        count += content.count(b"\r") - content.count(b"\r\n")
    return count


def last_row_end(content: bytes, marks: Marks) -> int:
    """Where the row after the last one that is complete begins; 0 if none is complete."""
    last = _last_newline(content, marks.newline, len(content))
    if last < 0 or not marks.quote or marks.quote not in content:
        return last + 1
    quotes = _regular_quotes(content, marks)
    if quotes is None:
        spans = quoted_spans(content, marks)
        return _last_outside(content, marks, spans[:, 0], spans[:, 1])
    if len(quotes) % 2:
        quotes = np.append(quotes, len(content))
    return _last_outside(content, marks, quotes[0::2], quotes[1::2] + 1)


def _last_outside(content: bytes, marks: Marks, opens: Places, ends: Places) -> int:
    """The end of the last line that does not end within quotes."""
    last = _last_newline(content, marks.newline, len(content))
    while last >= 0:
        span = int(np.searchsorted(opens, last, "right")) - 1
        if span < 0 or ends[span] <= last:
            return last + 1
        last = _last_newline(content, marks.newline, int(opens[span]))
    return 0


def _last_newline(content: bytes, newline: bytes, before: int) -> int:
    if newline == b"\r" and before == len(content):
        before -= 1  # what follows may be the other half of it
    return content.rfind(newline, 0, max(before, 0))


def _row_end_of_rest(rest: bytes, marks: Marks) -> int:
    """Of the last rows, those that are whole, the last of them with or without an end of line."""
    if not marks.quote or marks.quote not in rest:
        return len(rest)
    spans = quoted_spans(rest, marks)
    if not len(spans) or spans[-1, 2]:
        return len(rest)
    ends = _outside(_line_ends(rest[: int(spans[-1, 0])]) - 1, spans) + 1
    return int(ends[-1]) if len(ends) else 0


def _regular_quotes(content: bytes, marks: Marks) -> Places | None:
    """The places of all quotes, if they open and close in turn; None if one stands where it means nothing."""
    letters = np.frombuffer(content, np.uint8)
    quotes: Places = np.flatnonzero(letters == marks.quote[0])
    opens = quotes[0::2]
    before = letters[opens[1:] - 1] if opens[0] == 0 else letters[opens - 1]
    regular = np.zeros(256, np.bool_)
    regular[[10, 13, marks.delimiter[0], marks.quote[0]]] = True
    return quotes if regular[before].all() else None


def quoted_spans(content: bytes, marks: Marks) -> Places:
    """Beginning and end of each quoted part, and whether it is closed: an array of three columns."""
    if not marks.quote or marks.quote not in content:
        return np.zeros((0, 3), np.int64)
    q, d = re.escape(marks.quote), re.escape(marks.delimiter)
    pattern = re.compile(
        rb"(?:\A|(?<=["
        + d
        + rb"\r\n]))"
        + q
        + rb"[^"
        + q
        + rb"]*+(?:"
        + q
        + q
        + rb"[^"
        + q
        + rb"]*+)*+("
        + q
        + rb"|\Z)"
    )
    found = [(m.start(), m.end(), m.end(1) > m.start(1)) for m in pattern.finditer(content)]
    return np.array(found, np.int64).reshape(len(found), 3)


def _line_ends(content: bytes) -> Places:
    """Where a line begins that is not the first one."""
    letters = np.frombuffer(content, np.uint8)
    ends: Places = np.flatnonzero(letters == 10) + 1
    if b"\r" in content:
        returns: Places = np.flatnonzero(letters == 13) + 1
        lone = returns[(returns == len(letters)) | (letters[np.minimum(returns, len(letters) - 1)] != 10)]
        ends = np.union1d(ends, lone)
    return ends


def _outside(places: Places, spans: Places) -> Places:
    """Those places that are not within quotes."""
    if not len(spans):
        return places
    span = np.searchsorted(spans[:, 0], places, "right") - 1
    inside: npt.NDArray[np.bool_] = (span >= 0) & (spans[np.maximum(span, 0), 1] > places)
    outside: Places = places[~inside]
    return outside


def delimiters_of_rows(block: Block, most: int) -> Places:
    """How many delimiters each of the first rows has."""
    starts, ends = block.rows(blanks=False)
    starts, ends = starts[:most], ends[:most]
    if not len(starts):
        return starts
    content = block.content[: int(ends[-1])]
    letters = np.frombuffer(content, np.uint8)
    places = _outside(np.flatnonzero(letters == block.marks.delimiter[0]), quoted_spans(content, block.marks))
    counts: Places = np.searchsorted(places, ends) - np.searchsorted(places, starts)
    return counts
