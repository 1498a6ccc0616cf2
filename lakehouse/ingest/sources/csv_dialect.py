"""How a delimited text is written: found out from its beginning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pyarrow as pa

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.csv_blocks import Block, Marks, delimiters_of_rows, last_row_end
from lakehouse.ingest.sources.csv_parsing import Parser
from lakehouse.ingest.sources.evidence import Evidence
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.text_encoding import Encoding

_CANDIDATES = (b",", b"\t", b";", b"|")
_NAMES = {b",": "comma", b"\t": "tab", b";": "semicolon", b"|": "bar"}
# What no text holds: parts nothing, where there is but one column.
_NOTHING = b"\x1f"
_ROWS = 200
_COLUMNS = 500
_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one file is written.

    Attributes:
        marks: What parts fields and rows.
        encoding: Of the bytes.
        names: Of its columns, as it has them or ``column_1`` …; two may be the same.
        header: Why the first row is taken for names, or is not.
        start: Where the first row of data begins in the text, in bytes.
        line: Its line.
    """

    marks: Marks
    encoding: Encoding
    names: tuple[str, ...]
    header: str
    start: int
    line: int

    @property
    def blanks(self) -> bool:
        """Whether an empty line is a row: it is where there is one column, a missing value."""
        return len(self.names) == 1

    def details(self) -> dict[str, str]:
        """What was found out, for people."""
        delimiter = "none" if self.marks.delimiter == _NOTHING else self.marks.delimiter.decode()
        return {
            "delimiter": _NAMES.get(self.marks.delimiter, delimiter),
            "encoding": f"{self.encoding.name}, {self.encoding.reason}",
            "header": self.header,
            "lines end in": {b"\n": "LF or CR LF", b"\r": "CR"}[self.marks.newline],
        }


def dialect_of(text: bytes, whole: bool, encoding: Encoding, options: FileOptions, name: str) -> Dialect:
    """How a text is written.

    Args:
        text: Its beginning, as UTF-8 without a mark.
        whole: Whether that is all of it.
        encoding: What it was before.
        options: What the caller says.
        name: Of the file, for messages and its extension.

    Raises:
        InvalidRequest: There is nothing in it, or an option makes no sense.
    """
    if not text.strip(b"\r\n"):
        raise InvalidRequest(f"'{name}' is empty: it has neither names of columns nor rows")
    newline = b"\n" if b"\n" in text or b"\r" not in text else b"\r"
    quote = one_byte(options.quote, "quote") if options.quote is not None else b'"'
    stated = one_byte(options.delimiter, "delimiter")
    head = text[:_BYTES] if len(text) > _BYTES else text
    if head is text and whole:
        candidates = {d: Block(head, 0, 1, Marks(d, quote, newline)) for d in _candidates(stated, name)}
    else:
        candidates = {}
        for delimiter in _candidates(stated, name):
            marks = Marks(delimiter, quote, newline)
            end = last_row_end(head, marks)
            candidates[delimiter] = Block(head[:end] if end else text, 0, 1, marks)
    delimiter = stated or _delimiter(candidates)
    block = candidates.get(delimiter) or Block(head, 0, 1, Marks(delimiter, quote, newline))
    return _with_header(block, encoding, options, name)


def one_byte(text: str | None, what: str) -> bytes:
    """A delimiter or quote as somebody states it; nothing for none.

    Raises:
        InvalidRequest: It is more than one byte.
    """
    stated = (text or "").replace("\\t", "\t").encode()
    if len(stated) > 1 or stated in {b"\n", b"\r"}:
        raise InvalidRequest(f"the {what} is one ASCII character, found '{text}'")
    return stated


def _candidates(stated: str | bytes, name: str) -> tuple[bytes, ...]:
    if isinstance(stated, bytes) and stated:
        return (stated,)
    if name.lower().endswith((".tsv", ".tab")):
        return (b"\t", *(d for d in _CANDIDATES if d != b"\t"))
    return _CANDIDATES


def _delimiter(candidates: dict[bytes, Block]) -> bytes:
    """The one that parts most rows alike; of those, the one that makes most columns."""
    best, best_score = b"", (0.0, 0)
    irregular = False
    for delimiter, block in candidates.items():
        counts = delimiters_of_rows(block, _ROWS)
        if not len(counts) or not counts[0]:
            # What the first row does not have cannot be what parts the names.
            irregular |= bool(len(counts) and counts.any())
            continue
        common, times = Counter(counts.tolist()).most_common(1)[0]
        score = (round(times / len(counts), 1), common)
        if common and score > best_score:
            best, best_score = delimiter, score
    return best or (_NOTHING if irregular else b",")


def _with_header(block: Block, encoding: Encoding, options: FileOptions, name: str) -> Dialect:
    starts, ends = block.rows(blanks=False)
    limit = options.limits.max_columns
    width = int(delimiters_of_rows(block, 1)[0]) + 1
    if width > limit:
        raise InvalidRequest(
            f"'{name}' has {width} columns, at most {limit} are taken (max_columns)",
            f"it was taken for text delimited by '{block.marks.delimiter.decode()}'",
        )
    cells = _cells(block)
    begin, line = int(ends[0]), block.line_at(int(ends[0]))
    dialect = Dialect(block.marks, encoding, (), "", begin, line)
    if options.header is not None:
        header, why = options.header, "stated by the caller"
    else:
        header, why = _looks_like_names(cells, block, begin, line)
    if header:
        names = tuple(cell or f"column_{place}" for place, cell in enumerate(cells, 1))
        return replace(dialect, names=names, header=f"yes, {why}")
    names = tuple(f"column_{place}" for place in range(1, len(cells) + 1))
    start, line = int(starts[0]), block.line_at(int(starts[0]))
    return replace(dialect, names=names, header=f"no, {why}", start=start, line=line)


def _cells(block: Block) -> list[str]:
    """The fields of the first row."""
    starts, ends = block.rows(blanks=False)
    begin, end = int(starts[0]), int(ends[0])
    first = Block(block.content[begin:end], begin, block.line, block.marks)
    width = int(delimiters_of_rows(first, 1)[0]) + 1
    columns = Parser(block.marks, width).parse(first).columns
    return [column[0].as_py() or "" for column in columns]


def _looks_like_names(cells: list[str], block: Block, start: int, line: int) -> tuple[bool, str]:
    """Whether a first row names columns: what is below it is of a kind that it is not."""
    rest = Block(block.content[start:], start, line, block.marks)
    columns = Parser(block.marks, len(cells)).parse(rest).columns if rest.content else []
    typed = 0
    for cell, texts in zip(cells[:_COLUMNS], columns, strict=False):
        evidence = Evidence()
        evidence.add(texts, lambda row: row)
        kind = evidence.verdict().kind
        if kind is None:
            continue
        typed += 1
        if cell and kind.convert(pa.array([cell]))[1].any():
            return True, f"'{cell}' stands above {kind.plural}"
    if typed:
        return False, "the first row is of the same types as the others"
    if len(set(cells)) < len(cells) or "" in cells:
        return False, "its fields are empty, or the same"
    if any(_is_value(cell) for cell in cells):
        return False, "it holds values, not names"
    return True, "nothing speaks against it"


def _is_value(text: str) -> bool:
    evidence = Evidence()
    evidence.add(pa.array([text]), lambda row: row)
    return evidence.verdict().kind is not None
