"""Rows for people and programs: a readable table, or CSV, JSON, Parquet and Arrow streams."""

from __future__ import annotations

import base64
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from lakehouse_client import Result
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

FORMATS = ("table", "csv", "json", "parquet", "arrow")
Advance = Callable[[int], None]
_UNBOUNDED = 10_000


def write_result(result: Result, form: str, output: Path | None, max_rows: int, advance: Advance) -> str:
    """Write a result as it streams; gives a sentence that sums it up.

    Args:
        result: The rows.
        form: One of ``FORMATS``.
        output: Where to; standard output when left out.
        max_rows: How many rows a table shows, 0 for all.
        advance: Told of every batch's number of rows.

    Raises:
        LakehouseClientError: The statement failed.
    """
    started = time.perf_counter()
    rows = _counted(result, advance)
    count = _Count()
    batches = count.of(rows)
    if form == "table":
        shown = _print_table(result.schema, batches, max_rows, output)
        rest = f", {shown:,} shown (--max-rows)" if shown < count.rows else ""
    else:
        rest = ""
        with _sink(output) as sink:
            _WRITERS[form](result.schema, batches, sink)
    return f"{count.rows:,} row{'' if count.rows == 1 else 's'}{rest}, {time.perf_counter() - started:.3f} s"


class _Count:
    """Counts the rows that pass."""

    def __init__(self) -> None:
        self.rows = 0

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.rows += batch.num_rows
            yield batch


def _counted(result: Result, advance: Advance) -> Iterator[pa.RecordBatch]:
    for batch in result:
        advance(batch.num_rows)
        yield batch


@contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with output.open("wb") as file:
            yield file


# -- programs -------------------------------------------------------------------------------------------


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    """RFC 4180; NULL is an empty field, an empty text is quoted; nested values are JSON."""
    flat = pa.schema([pa.field(f.name, f.type if _csv_writes(f.type) else pa.string()) for f in schema])
    with pacsv.CSVWriter(sink, flat) as writer:
        for batch in batches:
            columns = [
                column
                if _csv_writes(column.type)
                else pa.array([_as_text(v) for v in column.to_pylist()], pa.string())
                for column in batch.columns
            ]
            writer.write_batch(pa.record_batch(columns, schema=flat))


def _csv_writes(kind: pa.DataType) -> bool:
    simple = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_date,
    )
    return any(test(kind) for test in (*simple, pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_time))


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    """One JSON object a line; decimals and points in time are text, binary is base64."""
    names = schema.names
    for batch in batches:
        columns = [column.to_pylist() for column in batch.columns]
        for values in zip(*columns, strict=True):
            row = {name: _plain(value) for name, value in zip(names, values, strict=True)}
            sink.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _plain(value: Any) -> Any:
    """The value in the terms of JSON, without loss."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    if isinstance(value, float) and (not math.isfinite(value)):
        return str(value)
    return value


def _write_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: IO[bytes]) -> None:
    with pq.ParquetWriter(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


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


# -- people ---------------------------------------------------------------------------------------------


def _print_table(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], max_rows: int, output: Path | None
) -> int:
    kept: list[pa.RecordBatch] = []
    shown = 0
    for batch in batches:
        take = batch.num_rows if max_rows == 0 else min(batch.num_rows, max_rows - shown)
        if take > 0:
            kept.append(batch.slice(0, take))
            shown += take
    rows = pa.Table.from_batches(kept, schema)
    if output is not None:
        with output.open("w", encoding="utf-8") as file:
            Console(file=file, width=_UNBOUNDED).print(table_of(rows))
    elif sys.stdout.isatty():
        print_fitting(Console(), rows)
    else:
        Console(width=_UNBOUNDED).print(table_of(rows))
    return shown


def print_fitting(console: Console, rows: pa.Table) -> None:
    """Print as many of the leading columns as the terminal is wide, and say how many are left out."""
    count = rows.num_columns
    table = table_of(rows)
    while count > 1 and Measurement.get(console, console.options, table).maximum > console.width:
        count -= 1
        table = table_of(rows.select(range(count)))
    console.print(table)
    if count < rows.num_columns:
        names = ", ".join(rows.schema.names[count:])
        console.print(f"[dim]not shown: {_escaped(names)} (widen the terminal, or --format csv)[/dim]")


def table_of(rows: pa.Table) -> Table:
    """Rows as a table for the terminal: names and types on top, numbers to the right, NULL marked."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for field in rows.schema:
        number = (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type)
        )
        justify: Literal["right", "left"] = "right" if number else "left"
        table.add_column(f"{_escaped(field.name)}\n[dim]{field.type}[/dim]", justify=justify)
    columns = [column.to_pylist() for column in rows.columns]
    for values in zip(*columns, strict=True):
        table.add_row(*(_cell(value) for value in values))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]NULL[/dim]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, str):
        return _escaped(value)
    plain = _plain(value)
    return _escaped(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
