"""Results in the formats of ``lakehouse sql``; all but the table stream."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lakehouse_client import Result
from rich.console import Console

from flight_server.output.table import fitting, print_table
from flight_server.output.text import as_json, as_text

Advance = Callable[[int], None]

# Rows that become text at once.
_TEXT_ROWS = 16_384
# A row group of a Parquet file: large enough to be read fast, small enough to be held.
_GROUP_ROWS, _GROUP_BYTES = 1_000_000, 32_000_000
# How long the rows beyond those that a table shows are counted.
_COUNT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Head:
    """The first rows of a result.

    Attributes:
        rows: These rows.
        total: How many rows the result has, or how many were counted.
        complete: Whether all were.
    """

    rows: pa.Table
    total: int
    complete: bool


def first_rows(result: Result, limit: int, advance: Advance) -> Head:
    """Take the first rows of a result; those after them are counted for a while, then the query is stopped.

    Args:
        result: The rows.
        limit: How many to take, 0 for all.
        advance: Told of every batch's number of rows.

    Raises:
        LakehouseClientError: The statement failed.
    """
    kept: list[pa.RecordBatch] = []
    total, missing, deadline, complete = 0, limit, 0.0, True
    for batch in result:
        total += batch.num_rows
        advance(batch.num_rows)
        if limit == 0 or missing > 0:
            kept.append(batch if limit == 0 else batch.slice(0, missing))
            missing -= kept[-1].num_rows
            deadline = time.monotonic() + _COUNT_SECONDS
        elif time.monotonic() > deadline:
            complete = False
            break
    return Head(pa.Table.from_batches(kept, result.schema), total, complete)


def write_table(rows: pa.Table, output: Path | None) -> int:
    """Write rows as a readable table.

    Args:
        rows: The rows.
        output: The file to write, with all columns; standard output when left out.

    Returns:
        How many columns there was room for.

    Raises:
        OSError: The output cannot be written.
    """
    if output is None:
        return print_table(fitting(Console()), rows)
    text = io.StringIO()
    shown = print_table(fitting(Console(file=text)), rows)
    with _sink(output) as sink:
        sink.write(text.getvalue().encode())
    return shown


def write_rows(result: Result, form: str, output: Path | None, advance: Advance) -> int:
    """Write a result as it streams, whatever its size.

    Args:
        result: The rows.
        form: One of ``STREAMED``.
        output: The file to write, which appears when it is complete; standard output when left out.
        advance: Told of every batch's number of rows.

    Returns:
        The number of rows.

    Raises:
        LakehouseClientError: The statement failed.
        OSError: The output cannot be written.
    """
    rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in result:
            rows += batch.num_rows
            advance(batch.num_rows)
            yield batch

    with _sink(output) as sink:
        _WRITERS[form](result.schema, counted(), sink)
    return rows


@contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    """Where to write. A file takes its name when it is complete; a pipe or device is written as it is."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():
        with output.open("wb") as device:
            yield device
        return
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            raise OSError(error.errno, error.strerror, str(output)) from None
        raise


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _TEXT_ROWS):
            yield batch.slice(start, _TEXT_ROWS)


def _write_lines(lines: pa.StringArray, sink: IO[bytes]) -> None:
    """The texts, each with its end of line: one after the other they are the array's own memory."""
    ended = pc.binary_join_element_wise(lines, "\n", "")
    sink.write(memoryview(ended.buffers()[2]))


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    """RFC 4180 with line feeds: NULL is an empty field, an empty text is quoted."""
    names = _csv_field(pa.array(schema.names, pa.string()))
    sink.write((",".join(names.to_pylist()) + "\n").encode())
    for piece in _pieces(batches):
        fields = [_csv_field(as_text(column)) for column in piece.columns]
        row = pc.binary_join_element_wise(*fields, ",", null_handling="replace", null_replacement="")
        _write_lines(row, sink)


def _csv_field(texts: pa.StringArray) -> pa.StringArray:
    quoting = pc.or_(pc.match_substring_regex(texts, '[",\r\n]'), pc.equal(texts, ""))
    if not pc.any(quoting).as_py():
        return texts
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(quoting, quoted, texts)


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    """One JSON object a line."""
    for piece in _pieces(batches):
        _write_lines(as_json(piece.to_struct_array()), sink)


def _write_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    with pq.ParquetWriter(sink, schema) as writer:
        held: list[pa.RecordBatch] = []
        for batch in batches:
            held.append(batch)
            if sum(b.num_rows for b in held) >= _GROUP_ROWS or sum(b.nbytes for b in held) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(held, schema))
                held.clear()
        writer.write_table(pa.Table.from_batches(held, schema))


def _write_arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


_WRITERS: dict[str, Callable[[pa.Schema, Iterable[pa.RecordBatch], IO[bytes]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}

STREAMED = tuple(_WRITERS)
BINARY = ("parquet", "arrow")
