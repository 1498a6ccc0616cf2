"""Blocks of delimited text as columns of strings, and the rows that are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from lakehouse.errors import InternalError
from lakehouse.ingest.sources.csv_blocks import Block, Marks, Places
from lakehouse.ingest.sources.source import RejectedRow

_CONTENT_BYTES = 1024 * 1024


class NotUtf8(Exception):
    """A block holds bytes that are not UTF-8, the first of them in ``line``."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _BrokenText(Exception):
    """Arrow found bytes that are not UTF-8."""


class Parsed:
    """The rows of a block.

    Args:
        block: Where they are.
        blanks: Whether empty lines are rows.
        columns: The texts of each column; NULL where a field is empty and not quoted.
        bad: Why the rows of the block that are not in ``columns`` are none, by their number.
        place: What rejected rows name the file.
    """

    def __init__(
        self, block: Block, blanks: bool, columns: Sequence[pa.Array], bad: Mapping[int, str], place: str
    ) -> None:
        self.columns = columns
        self._block = block
        self._blanks = blanks
        self._bad = bad
        self._place = place

    @property
    def rows(self) -> int:
        """How many rows ``columns`` have."""
        return len(self.columns[0])

    @cached_property
    def _bounds(self) -> tuple[Places, Places]:
        """Where the rows of ``columns`` are in the block."""
        starts, ends = self._block.rows(self._blanks)
        if len(starts) != self.rows + len(self._bad):
            raise InternalError(f"{len(starts)} rows were found in a block of {self.rows + len(self._bad)}")
        bad = list(self._bad)
        return np.delete(starts, bad), np.delete(ends, bad)

    @cached_property
    def rejected(self) -> list[RejectedRow]:
        """Those that are not in ``columns``."""
        if not self._bad:
            return []
        starts, ends = self._block.rows(self._blanks)
        return [
            self._rejected(int(starts[row]), int(ends[row]), "", self._bad[row]) for row in sorted(self._bad)
        ]

    def line_of(self, row: int) -> int:
        """The line in which a row of ``columns`` begins."""
        return self._block.line_at(int(self._bounds[0][row]))

    def reject(self, row: int, column: str, reason: str) -> RejectedRow:
        """A row of ``columns``, as one that is not taken after all."""
        return self._rejected(int(self._bounds[0][row]), int(self._bounds[1][row]), column, reason)

    def _rejected(self, start: int, end: int, column: str, reason: str) -> RejectedRow:
        content = self._block.content[start : min(end, start + _CONTENT_BYTES)]
        text = content.decode("utf-8", "replace").rstrip("\r\n")
        return RejectedRow(self._place, self._block.line_at(start), column, reason, text)


class Parser:
    """Parses blocks of one file; to be used by several threads.

    Args:
        marks: What parts fields and rows.
        width: How many columns there are.
        null_values: What stands for a missing value besides nothing at all.
        place: What rejected rows name the file.
        guessed: Whether it is only a guess that the text is UTF-8.
    """

    def __init__(
        self,
        marks: Marks,
        width: int,
        null_values: Sequence[str] = (),
        place: str = "",
        guessed: bool = False,
    ) -> None:
        self._marks = marks
        self._width = width
        self._place = place
        self._guessed = guessed
        self._names = [str(number) for number in range(width)]
        self._blanks = width == 1
        self._converting = pcsv.ConvertOptions(
            column_types=dict.fromkeys(self._names, pa.string()),
            null_values=["", *null_values],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )

    def parse(self, block: Block) -> Parsed:
        """The rows of a block.

        Raises:
            NotUtf8: It holds something else, and that it is UTF-8 was a guess.
        """
        nothing = [pa.array([], pa.string())] * self._width
        if block.unclosed:
            return Parsed(block, True, nothing, {0: "a quote is never closed"}, self._place)
        if not self._blanks and not block.content.strip(b"\r\n"):
            return Parsed(block, False, nothing, {}, self._place)
        bad: dict[int, str] = {}

        def note(row: pcsv.InvalidRow) -> str:
            bad[row.number - 1] = f"{row.actual_columns} fields where {self._width} are expected"
            return "skip"

        try:
            columns = self._read(block.content, note)
        except _BrokenText:
            bad.clear()
            broken = self._broken(block)
            if self._guessed:
                raise NotUtf8(block.line_at(int(block.rows(self._blanks)[0][broken[0]]))) from None
            columns = self._read(block.content.decode("utf-8", "replace").encode(), note)
            whole = np.ones(len(columns[0]) + len(bad), np.bool_)
            whole[broken] = False
            columns = [column.filter(pa.array(np.delete(whole, list(bad)))) for column in columns]
            bad.update(dict.fromkeys(broken, "bytes that are not UTF-8"))
        return Parsed(block, self._blanks, columns, bad, self._place)

    def _broken(self, block: Block) -> list[int]:
        """The numbers of the rows that are not UTF-8."""
        found = []
        for number, (start, end) in enumerate(zip(*block.rows(self._blanks), strict=True)):
            try:
                block.content[start:end].decode()
            except UnicodeDecodeError:
                found.append(number)
        return found

    def _read(self, content: bytes, note: Callable[[pcsv.InvalidRow], str]) -> list[pa.Array]:
        quote = self._marks.quote
        parsing = pcsv.ParseOptions(
            delimiter=self._marks.delimiter.decode(),
            quote_char=quote.decode() if quote else False,
            newlines_in_values=bool(quote) and quote in content,
            ignore_empty_lines=not self._blanks,
            invalid_row_handler=note,
        )
        reading = pcsv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=self._names)
        try:
            table = pcsv.read_csv(pa.py_buffer(content), reading, parsing, self._converting)
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise _BrokenText from error
            raise
        return [
            column.chunk(0)
            if column.num_chunks == 1
            else pa.concat_arrays(column.chunks or [pa.array([], pa.string())])
            for column in table.columns
        ]
