"""Delimited text: types inferred from a sample, verified while reading, and put right where need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from lakehouse.catalog.names import fold
from lakehouse.errors import InvalidRequest, SchemaMismatch
from lakehouse.ingest.sources.byte_source import ByteSource, joint_identity, joint_size
from lakehouse.ingest.sources.column_names import safe_names
from lakehouse.ingest.sources.csv_blocks import Block, blocks
from lakehouse.ingest.sources.csv_dialect import Dialect, dialect_of
from lakehouse.ingest.sources.csv_parsing import NotUtf8, Parsed, Parser
from lakehouse.ingest.sources.disproof import Disproof, verified
from lakehouse.ingest.sources.evidence import NO_VALUE, Evidence
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.parallel import in_order, skip
from lakehouse.ingest.sources.source import (
    Inspection,
    OnError,
    Piece,
    Progress,
    RejectedRow,
    SourceColumn,
)
from lakehouse.ingest.sources.stated_kinds import GIVEN, STATED, stated_kind, stated_type
from lakehouse.ingest.sources.text_encoding import (
    Encoding,
    check_text,
    encoding_of,
    single_byte_encoding,
    utf8_stream,
)
from lakehouse.ingest.sources.text_kinds import Kind

_LEAST_SAMPLE = 256 * 1024
_HEAD = 1024 * 1024
# What is parsed at a time: more does not stay in the processor's cache, and is memory that comes from the
# system for each block anew (blocks of 8 MiB took a sixth more time of the processor).
_BLOCK = 2 * 1024 * 1024
_SHOWN = 60

Key = tuple[str, int]
"""A column of a source: its name, and which one of those of the same name it is."""


@dataclass(frozen=True, slots=True)
class _File:
    origin: ByteSource
    dialect: Dialect
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    """How a column of the result is made: ``kind`` is None for text.

    Of an ``unseen`` one no value has been met so far, so that the first one decides.
    """

    key: Key
    name: str
    kind: Kind | None
    stated: bool
    unseen: bool


class CsvReader:
    """Files of delimited text as one source.

    Args:
        files: Expanded already.
        options: What the caller says.
        several: Whether messages and rejected rows have to tell files apart.
    """

    def __init__(self, files: Sequence[ByteSource], options: FileOptions) -> None:
        self._origins = files
        self._options = options
        self._files: list[_File] | None = None
        self._evidence: dict[Key, Evidence] = {}
        self._notes: dict[str, str] = {}
        self._encodings: dict[str, Encoding] = {}

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """From samples of all files, or from all there is if that is not more."""
        return self._inspected(cancelled, progress, everything=False)

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None,
    ) -> Iterator[Piece]:
        """See ``FileReader``.

        Raises:
            Disproved: The sample told too little; what was given so far is void, and ``inspection`` of the
                error, which is made from all there is, is to be read instead.
        """
        if self._files is None:
            self.inspect(cancelled, progress)
        pieces = self._pieces(inspection, on_error, cancelled, progress, position)
        yield from verified(pieces, inspection, lambda: self._inspected(cancelled, progress, everything=True))

    def _inspected(self, cancelled: Callable[[], bool], progress: Progress, everything: bool) -> Inspection:
        for _ in range(len(self._origins)):
            try:
                return self._inspected_once(cancelled, progress, everything)
            except Disproof:
                continue  # of an encoding, which is known now
        return self._inspected_once(cancelled, progress, everything)

    def _inspected_once(
        self, cancelled: Callable[[], bool], progress: Progress, everything: bool
    ) -> Inspection:
        self._evidence, self._notes, self._files = {}, {}, []
        sample = self._options.limits.sample_bytes
        each = max(sample // len(self._origins), min(sample, _LEAST_SAMPLE))
        rows, whole = 0, True
        for number, origin in enumerate(self._origins):
            progress(number / len(self._origins), f"inspecting '{origin.name}'")
            file = self._opened(origin)
            if file is None:
                continue
            self._files.append(file)
            found, ended = self._gathered(file, None if everything else each, cancelled)
            rows, whole = rows + found, whole and ended
        if not self._files:
            raise InvalidRequest(
                f"'{self._origins[0].name}' is empty: it has neither names of columns nor rows"
            )
        return self._result(rows, whole)

    def _opened(self, origin: ByteSource) -> _File | None:
        """What a file looks like; None if there is nothing in it."""
        with closing(origin.open()) as stream:
            head = stream.read(_HEAD)
        encoding = self._encodings.get(origin.name) or encoding_of(head, self._options.encoding)
        with closing(utf8_stream(origin.open(), encoding, origin.name)) as stream:
            text = stream.read(_HEAD)
            ended = not stream.read(1)
        if not text.strip(b"\r\n"):
            self._notes[f"file '{origin.name}'"] = "empty, left out"
            return None
        if not (self._options.format or self._options.encoding or self._options.delimiter):
            check_text(text, origin.name, is_unicode=encoding.is_unicode)
        dialect = dialect_of(text, ended, encoding, self._options, origin.name)
        seen: dict[str, int] = {}
        keys = []
        for name in dialect.names:
            seen[name] = seen.get(name, 0) + 1
            keys.append((name, seen[name]))
        for key in keys:
            self._evidence.setdefault(key, Evidence())
        return _File(origin, dialect, tuple(keys))

    def _gathered(self, file: _File, most: int | None, cancelled: Callable[[], bool]) -> tuple[int, bool]:
        """Feed the evidence; gives the number of rows seen, and whether those are all."""
        rows = ragged = first_ragged = 0
        parser = self._parser(file)
        place = file.origin.name if len(self._origins) > 1 else ""
        ended = True
        found = self._blocks(file, file.dialect.start, file.dialect.line, most)
        for block, parsed in in_order(found, partial(self._parse, file, parser), cancelled):
            rows += parsed.rows + len(parsed.rejected)
            ragged += len(parsed.rejected)
            if parsed.rejected and not first_ragged:
                first_ragged = parsed.rejected[0].line or 0
            for key, texts in zip(file.keys, parsed.columns, strict=True):
                self._evidence[key].add(texts, parsed.line_of, place)
            if most is not None and block.end >= most:
                ended = self._is_end(file, block)
                break
        self._describe(file, rows, ragged, first_ragged, ended)
        return rows, ended

    def _is_end(self, file: _File, block: Block) -> bool:
        if not file.dialect.encoding.is_utf8 or file.origin.size is None:
            return False
        return block.end + file.dialect.encoding.mark_bytes >= file.origin.size

    def _describe(self, file: _File, rows: int, ragged: int, first: int, ended: bool) -> None:
        details = file.dialect.details()
        if ragged:
            details["rows that do not fit"] = f"{ragged}, the first in line {first}"
        details["rows"] = str(rows) if ended else f"{rows} in the sample"
        if len(self._origins) == 1:
            self._notes.update(details)
        else:
            columns = f"{len(file.keys)} columns, "
            self._notes[f"file '{file.origin.name}'"] = columns + ", ".join(
                f"{what}: {found}" for what, found in details.items()
            )

    def _result(self, rows: int, whole: bool) -> Inspection:
        keys = list(self._evidence)
        names = safe_names([name for name, _ in keys])
        columns = [self._column(key, name, whole) for key, name in zip(keys, names, strict=True)]
        self._check_stated(columns)
        notes = {"format": "delimited text", **self._notes}
        if not whole:
            notes["types"] = f"from the first {rows} rows; the others are verified while they are read"
        return Inspection(
            tuple(columns),
            rows if whole else None,
            joint_size(self._origins),
            notes,
            identity=joint_identity(self._origins),
        )

    def _column(self, key: Key, name: str, whole: bool) -> SourceColumn:
        verdict = self._evidence[key].verdict(whole)
        spec = self._spec(key, name)
        if spec:
            stated, _ = stated_type(spec, name)
            return SourceColumn(name, key[0], stated, reason=STATED, stricter=verdict.stricter)
        return SourceColumn(name, key[0], verdict.type, reason=verdict.reason, stricter=verdict.stricter)

    def _spec(self, key: Key, name: str) -> str:
        types = self._options.types
        return types.get(name) or types.get(key[0]) or ""

    def _check_stated(self, columns: Sequence[SourceColumn]) -> None:
        known = {name for column in columns for name in (column.name, column.source_name)}
        unknown = [name for name in self._options.types if name not in known]
        if unknown:
            raise InvalidRequest(
                f"a type was stated for the column '{unknown[0]}', which there is not",
                "columns are " + ", ".join(f"'{column.name}'" for column in columns[:50]),
            )

    def _parser(self, file: _File) -> Parser:
        dialect, options = file.dialect, self._options
        guessed = dialect.encoding.guessed
        return Parser(dialect.marks, len(dialect.names), options.null_values, file.origin.name, guessed)

    def _parse(self, file: _File, parser: Parser, block: Block) -> Parsed:
        try:
            return parser.parse(block)
        except NotUtf8 as error:
            encoding = single_byte_encoding(block.content, error.line)
            self._encodings[file.origin.name] = encoding
            raise Disproof(
                f"'{file.origin.name}' line {error.line} is not UTF-8, as everything before it; it is taken "
                f"for {encoding.name}"
            ) from None

    def _blocks(self, file: _File, start: int, line: int, most: int | None = None) -> Iterator[Block]:
        dialect, limits = file.dialect, self._options.limits
        size = min(limits.block_bytes, _BLOCK, _BLOCK if most is None else most)
        with closing(file.origin.open()) as raw:
            stream = utf8_stream(raw, dialect.encoding, file.origin.name)
            skip(stream, start, stream is raw)
            yield from blocks(
                stream, dialect.marks, size, limits.max_row_bytes, file.origin.name, start, line
            )

    def _pieces(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None,
    ) -> Iterator[Piece]:
        plan = self._plan(inspection)
        schema = inspection.schema
        first, start, line = (int(part) for part in position.split(":")) if position else (0, 0, 0)
        done = rows = 0
        for number, file in enumerate(self._files or ()):
            size = file.origin.size or 0
            if number >= first:
                resumed = number == first and position
                begin = (start, line) if resumed else (file.dialect.start, file.dialect.line)
                work = partial(self._converted, file, self._parser(file), plan, schema, on_error)
                for block, piece in in_order(self._blocks(file, *begin), work, cancelled):
                    rows += piece.rows_in
                    progress(_share(inspection, file, done, block.end), f"{rows} rows")
                    yield replace(piece, position=f"{number}:{block.end}:{block.line + block.lines}")
            done += size

    def _converted(
        self,
        file: _File,
        parser: Parser,
        plan: Sequence[_Column],
        schema: pa.Schema,
        on_error: OnError,
        block: Block,
    ) -> Piece:
        parsed = self._parse(file, parser, block)
        places = {key: place for place, key in enumerate(file.keys)}
        misfits: dict[int, tuple[str, str]] = {}
        arrays = []
        for column in plan:
            place = places.get(column.key)
            texts = pa.nulls(parsed.rows, pa.string()) if place is None else parsed.columns[place]
            arrays.append(_values(column, texts, parsed, misfits, file.origin.name))
        rejected = list(parsed.rejected)
        rejected += [parsed.reject(row, *misfits[row]) for row in sorted(misfits)]
        if rejected and on_error is OnError.FAIL:
            raise _refusal(min(rejected, key=lambda row: row.line or 0))
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        if misfits:
            keep = np.ones(batch.num_rows, np.bool_)
            keep[list(misfits)] = False
            batch = batch.filter(pa.array(keep))
        return Piece(batch, sorted(rejected, key=lambda row: row.line or 0))

    def _plan(self, inspection: Inspection) -> list[_Column]:
        keys = list(self._evidence)
        names = [fold(name) for name in safe_names([name for name, _ in keys])]
        by_name = dict(zip(names, keys, strict=True))
        plan = []
        for column in inspection.columns:
            key = by_name.get(fold(column.name))
            if key is None:
                raise SchemaMismatch(f"column '{column.source_name}' is not there any more")
            spec = self._spec(key, column.name)
            form = stated_type(spec, column.name)[1] if spec else ""
            inferred = None if column.reason in GIVEN else self._evidence[key].kind_for(column.type)
            kind = inferred or stated_kind(column.type, form, column.name)
            unseen = inspection.rows is None and column.reason == NO_VALUE
            plan.append(_Column(key, column.name, kind, inferred is None, unseen))
        return plan


def _values(
    column: _Column, texts: pa.Array, parsed: Parsed, misfits: dict[int, tuple[str, str]], place: str
) -> pa.Array:
    """The values of a column; those that do not fit are noted, or show that the column is another one."""
    if column.unseen and texts.null_count < len(texts):
        raise Disproof(f"'{place}': column '{column.name}' has values, of which the sample had none")
    if column.kind is None:
        return texts
    quick = None if column.stated else column.kind.quick(texts)
    if quick is not None:
        return quick
    values, wrong = column.kind.convert(texts)
    for row in np.flatnonzero(wrong).tolist():
        text = texts[row].as_py()
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        if not column.stated:
            raise Disproof(
                f"'{place}' line {parsed.line_of(row)}: column '{column.name}' holds '{shown}', all before "
                f"were {column.kind.plural}"
            )
        misfits.setdefault(row, (column.name, f"'{shown}' is no {column.kind.name}"))
    return values


def _refusal(row: RejectedRow) -> InvalidRequest:
    where = f", column '{row.column}'" if row.column else ""
    return InvalidRequest(
        f"'{row.place}' line {row.line}{where}: {row.reason}",
        "put it right, or let rows that do not fit be rejected",
    )


def _share(inspection: Inspection, file: _File, done: int, end: int) -> float | None:
    """How much is done, where the text is as long as the files."""
    if not inspection.size_bytes or file.origin.size is None or not file.dialect.encoding.is_utf8:
        return None
    return (done + min(end, file.origin.size)) / inspection.size_bytes
