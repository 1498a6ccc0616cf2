"""Tables of many files: how long one row takes to be found in them, and how fast they are put together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

from benchmarks.processes import Line, drain, interleaved, lakehouse, query, ratio
from lakehouse.catalog.commit import commit, resolve, staged_write, writable
from lakehouse.catalog.data_files import data_file
from lakehouse.config import Settings
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

_FILE_COUNTS = (1, 100, 10_000)
_ROWS_PER_FILE = 10
# A number that has no divisor in common with the numbers of rows, so that every file has its turn.
_STEP = 7_919
_MANY = 100


def planning(directory: Path, quick: bool) -> list[Line]:
    """One row of tables of few and many files, by a statement that each time is another, so planned anew."""
    with _opened(directory) as lake:
        for files in _FILE_COUNTS:
            _register(lake, f"t{files}", (_rows(file) for file in range(files)))
    numbers = count(1)
    with lakehouse(directory) as (uri, _), flight.connect(uri) as client:

        def one_row(files: int) -> None:
            number = next(numbers)
            key = number * _STEP % (files * _ROWS_PER_FILE)
            found, _ = drain(client, query(f"SELECT k, s, {number} AS n FROM t{files} WHERE k = {key}"))
            assert found == 1

        first = {files: _seconds(lambda files=files: one_row(files)) for files in _FILE_COUNTS}  # type: ignore[misc]
        ways: dict[str, Callable[[], object]] = {
            str(files): lambda files=files: one_row(files)  # type: ignore[misc]
            for files in _FILE_COUNTS
        }
        seconds = interleaved(ways, 100 if quick else 500)
    base = median(seconds["1"])
    return [
        Line(
            f"SELECT of one row, {files:,} file{'s' * (files > 1)}",
            f"p50 {median(seconds[str(files)]) * 1e3:.1f} ms, the first {first[files] * 1e3:.0f} ms",
            f"1 file {base * 1e3:.1f} ms, {(median(seconds[str(files)]) - base) * 1e3:+.1f} ms",
            ratio(seconds, str(files), "1"),
            "+5 ms" if files == max(_FILE_COUNTS) else "",
        )
        for files in _FILE_COUNTS
    ]


def compaction(directory: Path, quick: bool) -> list[Line]:
    """A hundred small files put together, beside DuckDB copying the same files into one."""
    rows, repetitions = (1_000_000, 2) if quick else (10_000_000, 3)
    own, each = duckdb.connect(), rows // _MANY
    tables = [f"small_{number}" for number in range(repetitions + 1)]
    made = (
        "SELECT range::BIGINT AS k, (range % 10)::INTEGER AS g, 'text ' || (range % 10000) AS s, "
        "range / 7.0 AS x FROM range({}, {})"
    )
    with _opened(directory) as lake:
        for table in tables:
            parts = (
                own.sql(made.format(part * each, (part + 1) * each)).to_arrow_table() for part in range(_MANY)
            )
            _register(lake, table, parts)
    files = [str(path) for path in (directory / "bucket").rglob("*.parquet") if tables[0] in path.parts]
    target = f"{directory}/copied.parquet"
    left = iter(tables)
    with lakehouse(directory) as (uri, _), flight.connect(uri) as client:

        def compact() -> None:
            body = json.dumps({"table": next(left)}).encode()
            *_, last = client.do_action(flight.Action("table.compact", body))
            done = json.loads(last.body.to_pybytes())
            assert (done["rows"], done["files_before"]) == (rows, _MANY)

        seconds = interleaved(
            {
                "ours": compact,
                "copy": lambda: own.execute(
                    f"COPY (FROM read_parquet({files})) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
                ),
            },
            repetitions,
        )
    speed = {name: f"{rows / median(took) / 1e6:.2f} M rows/s" for name, took in seconds.items()}
    return [
        Line(
            f"compaction of {_MANY} files",
            speed["ours"],
            f"COPY {speed['copy']}",
            1 / ratio(seconds, "ours", "copy"),
            "",
        )
    ]


@contextmanager
def _opened(directory: Path) -> Iterator[Lakehouse]:
    """The lakehouse that the server will open later."""
    opened = Lakehouse(
        Settings.model_validate({"buckets": [{"name": "primary", "path": str(directory / "bucket")}]})
    )
    try:
        yield opened
    finally:
        opened.close()


def _register(lake: Lakehouse, table: str, parts: Iterator[pa.Table]) -> None:
    """Create a table with a file for each part, in one commit."""
    catalog, first = writable(lake.catalog), next(parts)
    name = TableName(catalog.name, "main", table)
    target = resolve(catalog, name, WriteMode.CREATE, lambda: first.schema)
    records = []
    for number, part in enumerate((first, *parts)):
        uri = f"{target.table.metadata.location}/data/{number:05d}.parquet"
        path = Path(catalog.bucket.local_path(catalog.bucket.key_of(uri)))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part.cast(target.file_schema), path, compression="zstd")
        footer = pq.read_metadata(path)
        records.append(data_file(uri, path.stat().st_size, footer, target.schema, 0))
    commit(catalog, staged_write(catalog, target, records))


def _rows(file: int) -> pa.Table:
    keys = range(file * _ROWS_PER_FILE, (file + 1) * _ROWS_PER_FILE)
    return pa.table({"k": pa.array(keys, pa.int64()), "s": [f"text {key}" for key in keys]})


def _seconds(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s
