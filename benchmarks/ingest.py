"""Ingests over the wire beside the bare library doing the same, in turn, with processor time and memory.

``python -m benchmarks.ingest WAY SOURCE TARGET`` is one of the bare ways, in a process of its own; it prints
seconds, processor seconds and peak memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import psutil
import psycopg
import pyarrow as pa
import pyarrow.json as pjson
import pyarrow.parquet as pq
from lakehouse_client import Client, connect

from benchmarks.postgres import COLUMNS, SMALL_ROWS, filled, postgres_server
from benchmarks.processes import Line, lakehouse
from lakehouse.catalog.iceberg_catalog import FileLimits
from lakehouse.ingest.encodings import choose_encodings
from lakehouse.ingest.sources.byte_source import LocalFile
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.json_source import JsonReader

_SCALE, _QUICK_SCALE = 1.35, 0.1
_ROWS, _QUICK_ROWS = 10_000_000, 1_000_000
_TABLE_ROWS, _QUICK_TABLE_ROWS = 2_000_000, 100_000
_BATCH_ROWS = 100_000
_PRICE = COLUMNS.index("price::text")
_GROUP_ROWS = FileLimits().rows_per_group
_ADMIN = '[auth]\nanonymous_role = "admin"\n'
_WIDE = (
    "SELECT range::BIGINT AS a, (range % 1000)::INTEGER AS b, random() AS c, random() * 100 AS d, "
    "'text ' || (range % 10000) AS e, TIMESTAMP '2020-01-01' + to_seconds(range) AS f FROM range({rows})"
)
# What programs log: objects within objects, lists, texts with quotes and line ends, fields that are left out.
_EVENTS = (
    "SELECT o_orderkey AS id, o_orderpriority AS kind, "
    "CASE WHEN o_orderkey % 3 = 0 THEN {'city': o_clerk, 'zip': o_custkey} END AS place, "
    "[o_orderstatus, o_clerk] AS tags, 'He said \"' || o_comment || '\",\n' || o_orderdate AS note, "
    "o_totalprice AS price FROM read_csv('{csv}')"
)


@dataclass(slots=True)
class _Spent:
    """What one way took: seconds, processor seconds of its process, and how far its memory grew."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    grown_mb: list[float] = field(default_factory=list)

    def add(self, seconds: float, cpu_s: float, grown_mb: float) -> None:
        self.seconds.append(seconds)
        self.cpu_s.append(cpu_s)
        self.grown_mb.append(grown_mb)

    @property
    def described(self) -> str:
        cpu = f"{median(self.cpu_s):.1f} s of the processor"
        return f"{median(self.seconds):.1f} s, {cpu}, +{max(self.grown_mb):.0f} MB"

    def beside(self, other: _Spent) -> tuple[float, float]:
        """How fast this is as a share of another: by the clock, and by time of the processor."""
        clock = median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))
        return clock, median(b / a for a, b in zip(self.cpu_s, other.cpu_s, strict=True))


class _Server:
    """A server that is measured while it does something."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def measured(self, work: Callable[[], object]) -> tuple[float, float, float]:
        """Seconds, processor seconds of the server, and how far its memory grew."""
        before = peak = self._process.memory_info().rss
        cpu_before, done = sum(self._process.cpu_times()[:2]), threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.02):
                peak = max(peak, self._process.memory_info().rss)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        began_s = time.perf_counter()
        try:
            work()
        finally:
            took_s = time.perf_counter() - began_s
            done.set()
            watcher.join()
        return took_s, sum(self._process.cpu_times()[:2]) - cpu_before, (peak - before) / 1e6


def ingest_files(directory: Path, quick: bool) -> list[Line]:
    """A gigabyte of text in a bucket into Iceberg, beside DuckDB reading it and writing Parquet."""
    made = directory / "bucket" / "in"
    made.mkdir(parents=True)
    csv = _generated("lineitem", _QUICK_SCALE if quick else _SCALE, directory)
    orders = _generated("orders", _QUICK_SCALE if quick else _SCALE, directory)
    csv.rename(made / "rows.csv")
    own = duckdb.connect()
    share = 3  # a row takes nearly three times as much as JSON
    own.execute(
        f"COPY (SELECT * FROM read_csv('{made}/rows.csv') WHERE l_orderkey // 32 % {share} = 0) "
        f"TO '{made}/rows.jsonl' (FORMAT json)"
    )
    own.execute(f"COPY ({_EVENTS.replace('{csv}', str(orders))}) TO '{made}/nested.jsonl' (FORMAT json)")
    own.close()
    lines = []
    with lakehouse(directory, _ADMIN) as (uri, pid), connect(uri) as client:
        server = _Server(pid)
        for name, what in (
            ("rows.csv", "CSV"),
            ("rows.jsonl", "JSON Lines"),
            ("nested.jsonl", "JSON Lines, nested"),
        ):
            lines += _file_lines(client, server, made / name, what, directory, 1 if quick else 2)
    return lines


def _file_lines(
    client: Client, server: _Server, file: Path, what: str, directory: Path, repetitions: int
) -> list[Line]:
    ours, theirs, parsed = _Spent(), _Spent(), _Spent()
    way = "csv" if file.suffix == ".csv" else "jsonl"

    def bring(number: int) -> object:
        table = f"{file.stem}_{way}_{number}"
        return client.actions.ingest.file(table=table, prefix=f"in/{file.name}")

    for number in range(repetitions):
        ours.add(*server.measured(partial(bring, number)))
        theirs.add(*_bare(way, str(file), str(directory / "bare.parquet")))
        if way == "jsonl":
            parsed.add(*_bare("parse", str(file), ""))
    size = f"{file.stat().st_size / 1e9:.2f} GB"
    lines = _lines(f"{what}, {size}", ours, "DuckDB", theirs, "≥ 0.8")
    return (
        lines + _lines(f"{what}, Arrow's parser alone", parsed, "DuckDB", theirs, "")
        if parsed.cpu_s
        else lines
    )


def ingest_postgres(directory: Path, quick: bool) -> list[Line]:
    """Tables of PostgreSQL into Iceberg, beside draining the same query and reading it in pages."""
    rows = _QUICK_TABLE_ROWS if quick else _TABLE_ROWS
    with postgres_server() as dsn:
        filled(dsn, {"large": rows, "little": SMALL_ROWS})
        source = f'{_ADMIN}[[sources]]\nname = "bench"\ndsn = "{dsn}"\n'
        with lakehouse(directory, source) as (uri, pid), connect(uri) as client:
            server = _Server(pid)

            def bring(relation: str) -> object:
                return client.actions.ingest.postgres(
                    source="bench", relation=relation, table=relation, mode="replace", key=""
                )

            bring("little")
            spent = {way: _Spent() for way in ("ours", "drain", "encode", "pages")}
            for _ in range(1 if quick else 3):
                spent["ours"].add(*server.measured(lambda: bring("large")))
                spent["drain"].add(*_bare("drain", dsn, "large"))
                spent["encode"].add(*_bare("encode", dsn, "large"))
                spent["pages"].add(*_bare("pages", dsn, "large"))
            small = _Spent()
            for _ in range(5 if quick else 20):
                small.add(*server.measured(lambda: bring("little")))
    what = f"PostgreSQL {rows:,} × 13 into Iceberg"
    return [
        *_lines(what, spent["ours"], "drained by ADBC", spent["drain"], "≥ 0.9"),
        *_lines(what, spent["ours"], "drained by ADBC and encoded", spent["encode"], ""),
        *_lines(what, spent["ours"], "in pages", spent["pages"], ""),
        Line(
            f"PostgreSQL {SMALL_ROWS} × 13 into Iceberg",
            f"{median(small.seconds) * 1e3:.0f} ms, least {min(small.seconds) * 1e3:.0f} ms",
            "old system 196 ms",
            median(small.seconds) / 0.196,
            "< 1",
        ),
    ]


def ingest_put(directory: Path, quick: bool) -> list[Line]:
    """Arrow rows put under a path, beside writing the same Parquet files here."""
    rows = _QUICK_ROWS if quick else _ROWS
    own = duckdb.connect()
    data = own.sql(_WIDE.format(rows=rows)).to_arrow_table()
    own.close()
    ours, theirs = _Spent(), _Spent()
    with lakehouse(directory) as (uri, pid), connect(uri) as client:
        server, here = _Server(pid), _Server(psutil.Process().pid)
        for _ in range(2 if quick else 5):
            ours.add(
                *server.measured(
                    lambda: client.ingest_rows(data.to_reader(_BATCH_ROWS), "put", mode="replace", key="")
                )
            )
            theirs.add(*here.measured(lambda: _written(data, directory / "local.parquet")))
    what = f"DoPut {rows / 1e6:.0f} M × 6, {data.nbytes / 1e6:.0f} MB"
    return _lines(what, ours, "written here", theirs, "≥ 0.8")


def _written(data: pa.Table, path: Path) -> None:
    """A Parquet file as the server writes them."""
    with _writer(path, data.slice(0, _BATCH_ROWS)) as writer:
        writer.write_table(data, row_group_size=_GROUP_ROWS)


def _writer(path: Path, first: pa.Table) -> pq.ParquetWriter:
    encodings = choose_encodings(first)
    return pq.ParquetWriter(
        path,
        first.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=encodings.dictionary,
        column_encoding=encodings.others,
        store_decimal_as_integer=True,
    )


def _lines(what: str, ours: _Spent, name: str, theirs: _Spent, aim: str) -> list[Line]:
    clock, cpu = ours.beside(theirs)
    beside = f"{name} {theirs.described}"
    return [
        Line(what, ours.described, beside, clock, aim),
        Line(f"{what}: the same by the processor", "", "", cpu, aim),
    ]


def _generated(table: str, scale: float, directory: Path) -> Path:
    """A table of TPC-H as CSV."""
    generator = Path(sys.executable).with_name("tpchgen-cli")
    command = [str(generator), "csv", "-s", str(scale), "--tables", table, "--output-dir", str(directory)]
    subprocess.run(command, check=True, capture_output=True)
    return directory / f"{table}.csv"


def _bare(way: str, source: str, target: str) -> tuple[float, float, float]:
    command = [sys.executable, "-m", "benchmarks.ingest", way, source, target]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, cpu_s, grown_mb = json.loads(output)
    return seconds, cpu_s, grown_mb


def _copied(reader: str) -> Callable[[str, str], object]:
    def copy(source: str, target: str) -> object:
        sql = f"COPY (FROM {reader}('{source}')) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
        return duckdb.connect().execute(sql).fetchall()

    return copy


def _parsed(source: str, target: str) -> object:
    """Read by Arrow's parser with the schema that the server finds, and let go of."""
    schema = JsonReader([LocalFile(Path(source))], FileOptions()).inspect(lambda: False, _untold).schema
    reading = pjson.ReadOptions(use_threads=False, block_size=8 << 20)
    parsing = pjson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    with pjson.open_json(source, reading, parsing) as reader:
        return sum(batch.num_rows for batch in reader)


def _untold(share: float | None, text: str) -> None:
    pass


def _drained(dsn: str, table: str) -> object:
    with adbc.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM {table}")
        return sum(batch.num_rows for batch in cursor.fetch_record_batch())


def _encoded(dsn: str, table: str) -> object:
    """Drained, and written as the server writes it, both at once: what storing the rows takes at least."""
    with (
        adbc.connect(dsn) as connection,
        connection.cursor() as cursor,
        TemporaryDirectory() as directory,
        ThreadPoolExecutor(1) as encoder,
    ):
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM {table}")
        count = 0
        writer: pq.ParquetWriter | None = None
        encoding: Future[None] | None = None
        for batch in cursor.fetch_record_batch():
            arrays = [
                array.cast(pa.decimal128(12, 2)) if n == _PRICE else array for n, array in enumerate(batch)
            ]
            count += batch.num_rows
            rows = pa.table(arrays, names=COLUMNS)
            if writer is None:
                writer = _writer(Path(directory) / "rows.parquet", rows)
            if encoding is not None:
                encoding.result()
            encoding = encoder.submit(writer.write_table, rows)
        assert writer is not None
        assert encoding is not None
        encoding.result()
        writer.close()
        return count


def _paged(dsn: str, table: str) -> object:
    rows = 0
    with psycopg.connect(dsn) as connection:
        while page := connection.execute(
            f"SELECT * FROM {table} ORDER BY id LIMIT 50000 OFFSET {rows}".encode()
        ).fetchall():
            rows += len(page)
    return rows


_WAYS: dict[str, Callable[[str, str], object]] = {
    "csv": _copied("read_csv"),
    "jsonl": _copied("read_json"),
    "parse": _parsed,
    "drain": _drained,
    "encode": _encoded,
    "pages": _paged,
}


def main() -> None:
    """Do it one of the bare ways."""
    way, source, target = sys.argv[1:]
    before_mb = _peak_mb()
    began_s, cpu_before = time.perf_counter(), time.process_time()
    _WAYS[way](source, target)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_before
    sys.stdout.write(json.dumps([took_s, cpu_s, _peak_mb() - before_mb]))


def _peak_mb() -> float:
    """The most memory that this process had so far; getrusage tells of the one that started it, too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0


if __name__ == "__main__":
    main()
