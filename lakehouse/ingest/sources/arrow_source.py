"""Files that know their types: Parquet, Arrow IPC (Feather), ORC and others that come as batches."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.orc
import pyarrow.parquet as pq

from lakehouse.errors import InvalidRequest, SchemaMismatch, StatementCancelled
from lakehouse.ingest.sources.byte_source import ByteSource, joint_identity, joint_size
from lakehouse.ingest.sources.column_names import safe_names
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress, RejectedRow, SourceColumn
from lakehouse.ingest.sources.stated_kinds import STATED, Recast, stated_kind, stated_type

REASON, STRICTER = b"reason", b"stricter"
"""Keys of a field's metadata, where an opener has more to say of it than its type."""
_ROWS = 65_536
_SHOWN = 60
_CONTENT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batches:
    """What a file gives: its schema, how many rows there are if that is known, and the rows."""

    schema: pa.Schema
    rows: int | None
    batches: Iterator[pa.RecordBatch]


Opener = Callable[[BinaryIO, str, FileOptions], Batches]


def parquet(stream: BinaryIO, name: str, options: FileOptions) -> Batches:
    """A Parquet file, a row group at a time."""
    file = pq.ParquetFile(stream)
    return Batches(file.schema_arrow, file.metadata.num_rows, file.iter_batches(_ROWS))


def arrow(stream: BinaryIO, name: str, options: FileOptions) -> Batches:
    """An Arrow IPC file or stream, also called Feather. What it holds is checked: it comes from strangers."""
    magic = stream.read(6)
    stream.seek(0)
    if magic.startswith(b"FEA1"):
        raise InvalidRequest(
            f"'{name}' is of the first version of Feather", "write it again with a newer one"
        )
    if magic != b"ARROW1":
        reader = pa.ipc.open_stream(stream)
        return Batches(reader.schema, None, _checked(iter(reader)))
    file = pa.ipc.open_file(stream)
    return Batches(file.schema, None, _checked(file.get_batch(n) for n in range(file.num_record_batches)))


def orc(stream: BinaryIO, name: str, options: FileOptions) -> Batches:
    """An ORC file, a stripe at a time."""
    file = pyarrow.orc.ORCFile(stream)
    return Batches(file.schema, file.nrows, (file.read_stripe(n) for n in range(file.nstripes)))


def _checked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.validate(full=True)
        yield batch


class TypedReader:
    """Files with a schema, as one source; columns are united by name.

    Args:
        files: Expanded already.
        options: What the caller says.
        format_name: What messages call the format.
        opener: Reads one of them.
    """

    def __init__(
        self, files: Sequence[ByteSource], options: FileOptions, format_name: str, opener: Opener
    ) -> None:
        self._files = files
        self._options = options
        self._format = format_name
        self._opener = opener

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """By their schemas."""
        schemas, rows, notes = [], 0, {"format": self._format}
        known = True
        for number, file in enumerate(self._files):
            progress(number / len(self._files), f"inspecting '{file.name}'")
            if cancelled():
                raise StatementCancelled("the inspection was cancelled")
            with self._open(file) as found:
                schemas.append(found.schema)
                known &= found.rows is not None
                rows += found.rows or 0
                if len(self._files) > 1:
                    counted = "unknown" if found.rows is None else str(found.rows)
                    notes[f"file '{file.name}'"] = f"{len(found.schema)} columns, rows: {counted}"
        return Inspection(
            tuple(self._columns(schemas)),
            rows if known else None,
            joint_size(self._files),
            notes,
            identity=joint_identity(self._files),
        )

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None,
    ) -> Iterator[Piece]:
        """See ``FileReader``."""
        first, skipped = (int(part) for part in position.split(":")) if position else (0, 0)
        done = 0
        for number, file in enumerate(self._files):
            if number < first:
                continue
            with self._open(file) as found:
                casts = self._casts(found.schema, inspection, file.name)
                row = 0
                for batch in _small(found.batches):
                    if cancelled():
                        raise StatementCancelled("reading was cancelled")
                    start, row = row, row + batch.num_rows
                    if number == first and row <= skipped:
                        continue
                    piece = _converted(batch, casts, inspection.schema, file.name, start)
                    if piece.rejected and on_error is OnError.FAIL:
                        bad = piece.rejected[0]
                        raise InvalidRequest(
                            f"'{bad.place}' row {bad.line}, column '{bad.column}': {bad.reason}",
                            "put it right, or let rows that do not fit be rejected",
                        )
                    done += batch.num_rows
                    progress(min(done / inspection.rows, 1.0) if inspection.rows else None, f"{done} rows")
                    yield Piece(piece.batch, piece.rejected, f"{number}:{row}")

    @contextmanager
    def _open(self, file: ByteSource) -> Iterator[Batches]:
        try:
            with _seekable(file) as stream:
                yield self._opener(stream, file.name, self._options)
        except (pa.ArrowException, OSError, ValueError, EOFError, KeyError) as error:
            raise InvalidRequest(
                f"'{file.name}' is no {self._format} file, or is damaged or cut off", "bring it here again"
            ) from error

    def _columns(self, schemas: Sequence[pa.Schema]) -> list[SourceColumn]:
        found: dict[tuple[str, int], list[pa.Field]] = {}
        for schema in schemas:
            for key, field in zip(_keys(schema), schema, strict=True):
                found.setdefault(key, []).append(field)
        names = safe_names([name for name, _ in found])
        columns = []
        for name, (key, fields) in zip(names, found.items(), strict=True):
            spec = self._options.types.get(name) or self._options.types.get(key[0])
            kind, reason = _united([field.type for field in fields])
            kind, reason = (stated_type(spec, name)[0], STATED) if spec else (kind, reason)
            nullable = len(fields) < len(schemas) or any(field.nullable for field in fields)
            told = fields[0].metadata or {} if len(fields) == 1 else {}
            reason = told.get(REASON, reason.encode()).decode() if not spec else reason
            stricter = told.get(STRICTER, b"").decode()
            columns.append(SourceColumn(name, key[0], kind, nullable, reason, stricter))
        known = {name for column in columns for name in (column.name, column.source_name)}
        unknown = [name for name in self._options.types if name not in known]
        if unknown:
            raise InvalidRequest(f"a type was stated for the column '{unknown[0]}', which there is not")
        if not columns:
            raise InvalidRequest(f"'{self._files[0].name}' has no column")
        return columns

    def _casts(
        self, schema: pa.Schema, inspection: Inspection, place: str
    ) -> list[tuple[int | None, SourceColumn, Recast | None]]:
        """For each column of the result: where it is in a file, and how it is converted if it has to be."""
        seen: dict[str, int] = {}
        places = {key: number for number, key in enumerate(_keys(schema))}
        casts: list[tuple[int | None, SourceColumn, Recast | None]] = []
        for column in inspection.columns:
            seen[column.source_name] = seen.get(column.source_name, 0) + 1
            number = places.pop((column.source_name, seen[column.source_name]), None)
            kind = schema.field(number).type if number is not None else column.type
            casts.append((number, column, None if kind == column.type else self._recast(kind, column)))
        if places:
            raise SchemaMismatch(f"'{place}' has the column '{next(iter(places))[0]}', which it did not have")
        return casts

    def _recast(self, kind: pa.DataType, column: SourceColumn) -> Recast:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            spec = self._options.types.get(column.name) or self._options.types.get(column.source_name) or ""
            form = stated_type(spec, column.name)[1] if spec else ""
            text_kind = stated_kind(column.type, form, column.name)
            if text_kind is not None:
                return Recast(text_kind, column.type)
        return Recast(None, column.type)


def _keys(schema: pa.Schema) -> list[tuple[str, int]]:
    seen: dict[str, int] = {}
    keys = []
    for name in schema.names:
        seen[name] = seen.get(name, 0) + 1
        keys.append((name, seen[name]))
    return keys


def _united(kinds: Sequence[pa.DataType]) -> tuple[pa.DataType, str]:
    """The type that holds the values of all; text where there is none."""
    distinct = list(dict.fromkeys(kinds))
    if len(distinct) == 1:
        return distinct[0], f"{distinct[0]} in the file" if len(kinds) == 1 else f"{distinct[0]} in all files"
    shown = " and ".join(str(kind) for kind in distinct)
    plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in distinct]
    try:
        schemas = [pa.schema([pa.field("c", kind)]) for kind in plain]
        united = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        if any(pa.types.is_nested(kind) for kind in plain):
            raise InvalidRequest(
                f"files do not agree on a column: {shown}", "bring them in one by one, as different tables"
            ) from None
        return pa.string(), f"{shown} in different files, which only text holds"
    return united, f"{shown} in different files"


@contextmanager
def _seekable(file: ByteSource) -> Iterator[BinaryIO]:
    with file.open() as stream:
        if stream.seekable():
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            yield cast("BinaryIO", copy)


def _small(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            yield batch.slice(start, _ROWS)


def _converted(
    batch: pa.RecordBatch,
    casts: Sequence[tuple[int | None, SourceColumn, Recast | None]],
    schema: pa.Schema,
    place: str,
    start: int,
) -> Piece:
    arrays = []
    misfits: dict[int, tuple[str, str]] = {}
    for number, column, recast in casts:
        if number is None:
            arrays.append(pa.nulls(batch.num_rows, column.type))
        elif recast is None:
            arrays.append(batch.column(number))
        else:
            values, wrong = recast.convert(batch.column(number))
            for row in np.flatnonzero(wrong).tolist():
                text = str(batch.column(number)[row].as_py())[:_SHOWN]
                misfits.setdefault(row, (column.name, f"'{text}' is no {column.type}"))
            arrays.append(values)
    made = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if not misfits:
        return Piece(made)
    rejected = []
    for row in sorted(misfits):
        content = json.dumps(batch.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)[:_CONTENT]
        rejected.append(RejectedRow(place, start + row + 1, *misfits[row], content))
    keep = np.ones(batch.num_rows, np.bool_)
    keep[list(misfits)] = False
    return Piece(made.filter(pa.array(keep)), rejected)
