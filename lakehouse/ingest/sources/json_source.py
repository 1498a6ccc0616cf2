"""JSON and JSON Lines: JSON's own types where all values agree, the text as it stands where they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pjson

from lakehouse.errors import InvalidRequest, SchemaMismatch
from lakehouse.ingest.sources.byte_source import ByteSource, joint_identity, joint_size
from lakehouse.ingest.sources.column_names import safe_names
from lakehouse.ingest.sources.csv_blocks import Block, Marks, blocks
from lakehouse.ingest.sources.disproof import Disproof, verified
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.json_flat import FlatColumn, flat_columns
from lakehouse.ingest.sources.json_lines import as_lines, is_array, is_lines
from lakehouse.ingest.sources.json_shapes import (
    DECODER,
    Mixed,
    Number,
    Shape,
    arrow_type,
    has_double,
    is_storable,
    merged,
    named,
    raw_fields,
    shape_of,
)
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
from lakehouse.ingest.sources.text_encoding import check_text, encoding_of, utf8_stream
from lakehouse.ingest.sources.text_kinds import BIGINT, DOUBLE, LARGEST_EXACT, Kind, text_bytes

_HEAD = 64 * 1024
_SAMPLE = 1024 * 1024
_CONTENT = 1024 * 1024
_SHOWN = 60
_MARKS = Marks(b"\x1f", b"", b"\n")
_LONG_NUMBER = re.compile(rb"[:\[,\s](-?[0-9][0-9.eE+-]{15,})")
_SCALAR = r"^(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false)$"
_TRUTH = pa.array(["true", "false"])
_DIGIT = np.zeros(256, np.bool_)
_DIGIT[list(b"0123456789")] = True
# Integers of so many digits are exact as doubles.
_SHORT = 15
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_EXPONENT = int.from_bytes(b"e-", "little")
_PART = 256 * 1024
_OF_NUMBERS = b"0123456789.eE+-/"
# A number that is longer is looked at one by one.
_NUMBER = 400
_MANY = 10_000


@dataclass(slots=True)
class _Field:
    """What is known of a field of the objects; ``mixed`` says why only its text holds all values."""

    shape: Shape = "null"
    mixed: str = ""
    example: str = ""

    def add(self, value: object, line: int) -> None:
        """Take a value in."""
        if self.mixed:
            return
        try:
            self.shape = merged(self.shape, shape_of(value))
        except Mixed as error:
            self.mixed = str(error)
            self.example = f"'{str(value)[:_SHOWN]}' in line {line}"

    def holds(self, value: object) -> bool:
        """Whether a value changes nothing."""
        if self.mixed:
            return True
        try:
            return bool(merged(self.shape, shape_of(value)) == self.shape)
        except Mixed:
            return False

    @property
    def is_text(self) -> bool:
        """Whether the column is made of the text of values."""
        return bool(self.mixed) or not is_storable(self.shape)

    @property
    def is_flat(self) -> bool:
        """Whether no object or list has been met."""
        return isinstance(self.shape, str)

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of the column."""
        return pa.string() if self.is_text else arrow_type(self.shape)

    def column(self, name: str, source_name: str, seen: str) -> SourceColumn:
        """The column, and why it is of its type."""
        if self.mixed:
            stricter = f"as {named(self.shape)} values would be lost, the first {self.example}"
            return SourceColumn(
                name, source_name, pa.string(), True, f"values of several kinds: {self.mixed}", stricter
            )
        if self.shape == "null":
            return SourceColumn(name, source_name, pa.string(), True, "there is no value")
        if self.is_text:
            return SourceColumn(
                name, source_name, pa.string(), True, "objects without fields, or with equal ones"
            )
        return SourceColumn(name, source_name, self.type, True, f"{named(self.shape)} in {seen}")


@dataclass(frozen=True, slots=True)
class _Row:
    """A value of a line: ``fields`` is None where it is no object."""

    line: int
    text: str
    fields: dict[str, Any] | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the columns of the result are made.

    Attributes:
        schema: Of the result.
        names: Of the source, in the order of the columns.
        fields: What their values have to be.
        stated: How texts are read, where a type was stated.
        fast: What Arrow's parser is told; None where it cannot do it.
        doubles: Whether there is a double in it.
        flat: Whether there is neither an object nor a list in it.
    """

    schema: pa.Schema
    names: tuple[str, ...]
    fields: tuple[_Field, ...]
    stated: tuple[Kind | None, ...]
    fast: pa.Schema | None
    doubles: bool = field(default=False)
    flat: bool = field(default=False)


class JsonReader:
    """Files of JSON as one source; fields of objects are columns, united by name.

    Args:
        files: Expanded already.
        options: What the caller says.
    """

    def __init__(self, files: Sequence[ByteSource], options: FileOptions) -> None:
        self._files = files
        self._options = options
        self._fields: dict[str, _Field] | None = None
        self._first_fault = ""

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """From a sample of each file."""
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
            Disproved: See ``Source``.
        """
        if self._fields is None:
            self.inspect(cancelled, progress)
        pieces = self._pieces(inspection, on_error, cancelled, progress, position)
        yield from verified(pieces, inspection, lambda: self._inspected(cancelled, progress, everything=True))

    def _inspected(self, cancelled: Callable[[], bool], progress: Progress, everything: bool) -> Inspection:
        fields: dict[str, _Field] = {}
        notes = {"format": "JSON"}
        rows, whole = 0, True
        each = min(_SAMPLE, self._options.limits.sample_bytes)
        for number, file in enumerate(self._files):
            progress(number / len(self._files), f"inspecting '{file.name}'")
            found, ended, layout = self._gathered(file, fields, None if everything else each, cancelled)
            rows, whole = rows + found, whole and ended
            counted = str(found) if ended else f"{found} in the sample"
            notes[f"file '{file.name}'" if len(self._files) > 1 else "layout"] = f"{layout}, rows: {counted}"
        if not fields and not whole:
            return self._inspected(cancelled, progress, everything=True)
        if not fields:
            name = self._files[0].name
            raise InvalidRequest(
                f"'{name}' holds no JSON object with a field, so there is no column{self._first_fault}"
            )
        if len(fields) > self._options.limits.max_columns:
            raise InvalidRequest(
                f"objects have {len(fields)} different fields, at most "
                f"{self._options.limits.max_columns} are taken (max_columns)"
            )
        self._fields = fields
        seen = (
            f"all {rows} rows" if whole else f"the first {rows} rows; the others are verified while reading"
        )
        names = safe_names(list(fields))
        columns = [
            self._stated(made.column(name, source_name, seen))
            for name, (source_name, made) in zip(names, fields.items(), strict=True)
        ]
        return Inspection(
            tuple(columns),
            rows if whole else None,
            joint_size(self._files),
            notes,
            identity=joint_identity(self._files),
        )

    def _stated(self, column: SourceColumn) -> SourceColumn:
        spec = self._spec(column)
        return replace(column, type=stated_type(spec, column.name)[0], reason=STATED) if spec else column

    def _spec(self, column: SourceColumn) -> str:
        types = self._options.types
        return types.get(column.name) or types.get(column.source_name) or ""

    def _gathered(
        self, file: ByteSource, fields: dict[str, _Field], most: int | None, cancelled: Callable[[], bool]
    ) -> tuple[int, bool, str]:
        """Take in the values; gives rows seen, whether those are all, and how the file is laid out."""
        rows = 0
        layout, found = self._blocks(file, 0, 1, most)
        for block, _ in in_order(found, lambda _: None, cancelled):
            plan = _plan_of(fields) if fields else None
            quick = _quick(block, plan) if plan is not None else None
            if quick is not None:
                rows += quick.num_rows
            else:
                for row in _rows(block):
                    rows += 1
                    if row.fault and not self._first_fault:
                        self._first_fault = f"; line {row.line}: {row.fault}"
                    for name, value in (row.fields or {}).items():
                        fields.setdefault(name, _Field()).add(value, row.line)
            if most is not None and block.end >= most:
                return rows, file.size is not None and block.end >= file.size, layout
        return rows, True, layout

    def _blocks(
        self, file: ByteSource, start: int, line: int, most: int | None = None
    ) -> tuple[str, Iterator[Block]]:
        limits = self._options.limits
        with closing(file.open()) as stream:
            head = stream.read(_HEAD)
        encoding = encoding_of(head, self._options.encoding)
        if not self._options.encoding and not encoding.mark_bytes and not encoding.name.startswith("utf"):
            encoding = encoding_of(b"")
        with closing(utf8_stream(file.open(), encoding, file.name)) as text:
            head = text.read(_HEAD)
        if not self._options.format:
            check_text(head, file.name, is_unicode=False)
        array = is_array(head)
        lines = not array and is_lines(head)

        def reading() -> Iterator[Block]:
            with closing(file.open()) as raw:
                stream = utf8_stream(raw, encoding, file.name)
                if not lines:
                    stream = as_lines(stream, array, file.name)
                skip(stream, start, stream is raw)
                size = limits.block_bytes if most is None else min(limits.block_bytes, most)
                yield from blocks(stream, _MARKS, size, limits.max_row_bytes, file.name, start, line)

        return "an array" if array else "JSON Lines" if lines else "one value after another", reading()

    def _pieces(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None,
    ) -> Iterator[Piece]:
        plan = self._plan(inspection)
        first, start, line = (int(part) for part in position.split(":")) if position else (0, 0, 1)
        done = rows = 0
        for number, file in enumerate(self._files):
            size = file.size or 0
            if number >= first:
                begin = (start, line) if number == first and position else (0, 1)
                work = partial(_converted, plan, on_error, file.name)
                for block, piece in in_order(self._blocks(file, *begin)[1], work, cancelled):
                    rows += piece.rows_in
                    total = inspection.size_bytes
                    progress(
                        min((done + min(block.end, size)) / total, 1.0) if total else None, f"{rows} rows"
                    )
                    yield replace(piece, position=f"{number}:{block.end}:{block.line + block.lines}")
            done += size

    def _plan(self, inspection: Inspection) -> _Plan:
        known = self._fields or {}
        names, fields, stated = [], [], []
        for column in inspection.columns:
            names.append(column.source_name)
            found = known.get(column.source_name)
            if found is None:
                raise SchemaMismatch(f"field '{column.source_name}' is not there any more")
            kind = None
            if column.type != found.type or column.reason in GIVEN:
                spec = self._spec(column)
                form = stated_type(spec, column.name)[1] if spec else ""
                kind = stated_kind(column.type, form, column.name)
                found = replace(found, mixed="stated") if found.shape != "string" or kind else found
            fields.append(found)
            stated.append(kind)
        fast = None
        if not any(found.is_text for found in fields):
            fast = pa.schema([pa.field(n, f.type) for n, f in zip(names, fields, strict=True)])
        doubles = any(has_double(found.shape) for found in fields)
        flat = all(found.is_flat for found in fields)
        return _Plan(inspection.schema, tuple(names), tuple(fields), tuple(stated), fast, doubles, flat)


def _plan_of(fields: dict[str, _Field]) -> _Plan | None:
    if any(found.is_text for found in fields.values()):
        return None
    schema = pa.schema([pa.field(name, found.type) for name, found in fields.items()])
    doubles = any(has_double(found.shape) for found in fields.values())
    flat = all(found.is_flat for found in fields.values())
    return _Plan(schema, tuple(fields), tuple(fields.values()), (None,) * len(fields), schema, doubles, flat)


def _converted(plan: _Plan, on_error: OnError, place: str, block: Block) -> Piece:
    quick = _quick(block, plan)
    if quick is not None:
        return Piece(quick)
    rows = list(_rows(block))
    rejected = [RejectedRow(place, row.line, "", row.fault, row.text[:_CONTENT]) for row in rows if row.fault]
    rows = [row for row in rows if not row.fault]
    known = set(plan.names)
    for row in rows:
        fields = row.fields or {}
        if not fields.keys() <= known:
            new = next(name for name in fields if name not in known)
            raise Disproof(f"'{place}' line {row.line}: there is a new field '{new}'")
    raws = [raw_fields(row.text) for row in rows] if any(found.is_text for found in plan.fields) else []
    misfits: dict[int, tuple[str, str]] = {}
    arrays = [_column(plan, number, rows, raws, misfits, place) for number in range(len(plan.names))]
    batch = pa.RecordBatch.from_arrays(arrays, schema=plan.schema)
    rejected += [
        RejectedRow(place, rows[n].line, *why, rows[n].text[:_CONTENT]) for n, why in misfits.items()
    ]
    rejected.sort(key=lambda row: row.line or 0)
    if rejected and on_error is OnError.FAIL:
        bad = rejected[0]
        where = f", field '{bad.column}'" if bad.column else ""
        raise InvalidRequest(
            f"'{place}' line {bad.line}{where}: {bad.reason}",
            "put it right, or let rows that do not fit be rejected",
        )
    if misfits:
        keep = np.ones(batch.num_rows, np.bool_)
        keep[list(misfits)] = False
        batch = batch.filter(pa.array(keep))
    return Piece(batch, rejected)


def _column(
    plan: _Plan,
    number: int,
    rows: Sequence[_Row],
    raws: Sequence[dict[str, str]],
    misfits: dict[int, tuple[str, str]],
    place: str,
) -> pa.Array:
    name, found, kind = plan.names[number], plan.fields[number], plan.stated[number]
    values = [(row.fields or {}).get(name) for row in rows]
    if found.is_text:
        texts = pa.array([_text(value, raws[n].get(name)) for n, value in enumerate(values)], pa.string())
        if kind is None:
            return texts
        made, wrong = kind.convert(texts)
        for place_of in np.flatnonzero(wrong).tolist():
            shown = texts[place_of].as_py()[:_SHOWN]
            misfits.setdefault(place_of, (plan.schema.field(number).name, f"'{shown}' is no {kind.name}"))
        return made
    for row, value in zip(rows, values, strict=True):
        if not found.holds(value):
            raise Disproof(
                f"'{place}' line {row.line}: field '{name}' holds '{str(value)[:_SHOWN]}', all before were "
                f"of the kind {named(found.shape)}"
            )
    return pa.array(values, found.type)


def _text(value: object, raw: str | None) -> str | None:
    """A value as text: itself if it is one, else as it is written."""
    return None if value is None else value if isinstance(value, str) else raw


def _rows(block: Block) -> Iterator[_Row]:
    """The values of a block, decoded one by one."""
    starts, ends = block.rows(blanks=False)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        content = block.content[start:end]
        if not content.strip():
            continue
        line = block.line_at(start)
        try:
            text = content.decode().strip()
        except UnicodeDecodeError:
            yield _Row(line, content.decode("utf-8", "replace"), None, "bytes that are not UTF-8")
            continue
        yield from _values(text, line)


def _values(text: str, line: int) -> Iterator[_Row]:
    while text:
        try:
            value, end = DECODER.raw_decode(text)
            rest = text[end:].lstrip()
        except (ValueError, RecursionError) as error:
            reason = (
                str(error).partition(":")[0] if isinstance(error, ValueError) else "it is nested too deeply"
            )
            yield _Row(line, text, None, f"no JSON: {reason}")
            return
        own, text = text[:end], rest
        if not isinstance(value, dict):
            yield _Row(line, own, None, "no JSON object, of which fields could be columns")
            continue
        fault = _fault(value, own)
        yield _Row(line, own, None if fault else value, fault)


def _fault(value: dict[str, Any], text: str) -> str:
    """Why an object cannot be stored, if it cannot."""
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair, which is no character"
    return ""


def _quick(block: Block, plan: _Plan) -> pa.RecordBatch | None:
    """The rows without decoding each; None unless it is certain that they are taken for what they are."""
    if not _is_utf8(block.content):
        return None
    if not block.content or block.content.isspace():
        return pa.RecordBatch.from_pylist([], plan.schema)
    made = _parsed(block, plan)
    return _flat(block, plan) if made is None and plan.flat else made


def _flat(block: Block, plan: _Plan) -> pa.RecordBatch | None:
    """The rows by where their marks stand."""
    columns = flat_columns(block.content, plan.names)
    if columns is None:
        return None
    arrays = []
    for column, found, kind in zip(columns, plan.fields, plan.stated, strict=True):
        array = _flat_values(column, found)
        if array is not None and kind is not None:
            array, wrong = kind.convert(array)
            array = None if wrong.any() else array
        if array is None:
            return None
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=plan.schema)


def _flat_values(column: FlatColumn, found: _Field) -> pa.Array | None:
    """The values of a column; None unless all certainly are of its shape."""
    values = column.values
    if found.is_text:
        written = values.filter(pa.array(~column.quoted)).drop_null() if column.bare else values[:0]
        return values if pc.all(pc.match_substring_regex(written, _SCALAR), min_count=0).as_py() else None
    if found.shape == "string":
        return None if column.bare else values
    if column.quoted.any():
        return None
    if found.shape == "null":
        return None if column.bare else values
    if found.shape == "bool":
        is_bool = pc.is_in(values, _TRUTH)
        true = pc.equal(values, "true")
        return true if pc.all(pc.or_(is_bool, values.is_null()), min_count=0).as_py() else None
    return BIGINT.quick(values) if found.shape in {"int", "wide"} else _doubles(values)


def _doubles(texts: pa.Array) -> pa.Array | None:
    """Numbers as JSON writes them, if doubles hold all of them, and all integers among them exactly."""
    ends, content = text_bytes(texts)
    lengths = np.diff(ends)
    starts, lasts = ends[:-1][lengths > 0], ends[1:][lengths > 0] - 1
    starts = np.minimum(starts + (content[starts] == ord("-")), lasts)
    if not (_DIGIT[content[starts]].all() and _DIGIT[content[lasts]].all()):
        return None
    if (lengths > _SHORT).any():
        long = texts.filter(pa.array(lengths > _SHORT))
        if not pc.all(pc.match_substring(long, "."), min_count=0).as_py():
            return None
    return DOUBLE.quick(texts)


def _parsed(block: Block, plan: _Plan) -> pa.RecordBatch | None:
    """The rows by Arrow's parser."""
    content = block.content
    if plan.fast is None or not _exact(content, plan.doubles):
        return None
    reading = pjson.ReadOptions(use_threads=False, block_size=len(content) + 1)
    parsing = pjson.ParseOptions(explicit_schema=plan.fast, unexpected_field_behavior="error")
    try:
        table = pjson.read_json(pa.py_buffer(content), reading, parsing)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    columns = [
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        for column in (table[name] for name in plan.names)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=plan.schema)


def _is_utf8(content: bytes) -> bool:
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _exact(content: bytes, doubles: bool) -> bool:
    """Whether no number has more digits than Arrow's parser keeps."""
    places: list[int] = []
    # In parts that the processor's cache holds, which overlap by what is looked for.
    for start in range(0, len(content), _PART):
        letters = np.frombuffer(content, np.uint8, min(_PART + 32, len(content) - start), start)
        if doubles and _has_small(letters):
            return False
        places += (_long_runs(letters) + start).tolist()
        if len(places) > _MANY:
            return all(_is_exact(found.group(1), doubles) for found in _LONG_NUMBER.finditer(content))
    for place in places:
        # The number that it is of, if it is of one: it may as well be within a text.
        start = len(content[max(0, place - _NUMBER) : place].rstrip(_OF_NUMBERS)) + max(0, place - _NUMBER)
        found = _LONG_NUMBER.match(content, max(0, start - 1))
        if found and not _is_exact(found.group(1), doubles):
            return False
    return True


def _has_small(letters: npt.NDArray[np.uint8]) -> bool:
    """Whether a number may be so small that a double is zero: with an exponent of three digits."""
    for offset in (0, 1):
        pairs = np.frombuffer(letters, "<u2", (len(letters) - offset) // 2, offset)
        found = pairs | np.uint16(32) == _EXPONENT
        if not found.any():
            continue
        places = np.flatnonzero(found) * 2 + offset
        places = places[(places > 0) & (places < len(letters) - 4)]
        if np.logical_and.reduce([_DIGIT[letters[places + at]] for at in (-1, 2, 3, 4)]).any():
            return True
    return False


def _long_runs(letters: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Places within runs of sixteen and more digits, points and slashes."""
    # In such a run are two letters whose place is a multiple of eight, and all between them.
    parts = letters[: len(letters) // 8 * 8].reshape(-1, 8)
    some = _is_numeric(parts[:, 0])
    some[:-1] &= some[1:]
    for place in (2, 4, 6):
        some &= _is_numeric(parts[:, place])
    places: npt.NDArray[np.int64] = np.flatnonzero(some) * 8
    window = places[:, None] + np.arange(-8, 17)
    inside = _is_numeric(letters[np.clip(window, 0, len(letters) - 1)])
    inside &= (window >= 0) & (window < len(letters))
    for length in (1, 2, 4, 8):
        inside = inside[:, :-length] & inside[:, length:]
    return places[inside.any(axis=1)]


def _is_numeric(letters: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of them are points, slashes or digits, which are neighbours."""
    found: npt.NDArray[np.bool_] = letters - np.uint8(46) < np.uint8(12)
    return found


def _is_exact(text: bytes, doubles: bool) -> bool:
    if text.lstrip(b"-").isdigit():
        return not doubles or abs(int(text)) <= LARGEST_EXACT
    try:
        return repr(float(text)) == text.decode() or Number(text.decode()).is_exact
    except (ValueError, ArithmeticError):
        return True  # a date, for instance
