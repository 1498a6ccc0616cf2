"""``python -m benchmarks [NAME …] [--quick]``: measure, and print a table of ratios from one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.datasets import manifests
from benchmarks.embedding import embedding
from benchmarks.ingest import ingest_files, ingest_postgres, ingest_put
from benchmarks.journal import journal
from benchmarks.objects import objects
from benchmarks.postgres import postgres_reads
from benchmarks.processes import Line, drain, drain_reader, interleaved, lakehouse, query, ratio, started
from benchmarks.resync import footers
from benchmarks.retrieval import retrieval
from benchmarks.storage import s3_reads
from benchmarks.tables import compaction, planning
from benchmarks.vectors import vectors
from benchmarks.writes import small_writes, writes


def lance(directory: Path, quick: bool) -> list[Line]:
    """Parquet with an index beside it, and Lance; wants the extra ``bench``."""
    try:
        from benchmarks.lance import lance_beside  # noqa: PLC0415 - may be absent
    except ModuleNotFoundError:
        return [Line("vectors beside Lance", "not measured", "pip install '.[bench]'", float("nan"), "")]
    return lance_beside(directory, quick)


_ROOT = Path(__file__).parent.parent
_WIDE = (
    "SELECT range::BIGINT AS a, (range % 1000)::INTEGER AS b, random() AS c, random() * 100 AS d, "
    "'text ' || (range % 10000) AS e, TIMESTAMP '2020-01-01' + to_seconds(range) AS f FROM range({rows})"
)
_TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")


def bulk(directory: Path, quick: bool) -> list[Line]:
    """Throughput of a large read, beside replay from memory and DuckDB in process."""
    rows = 1_000_000 if quick else 10_000_000
    own = duckdb.connect()
    with lakehouse(directory) as (uri, _):
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(
                "bulk", own.sql(_WIDE.format(rows=rows)).to_arrow_reader(100_000), mode="replace"
            )
        files = [str(f) for f in (directory / "bucket" / "warehouse").rglob("*.parquet")]
        batches = directory / "bulk.arrow"
        reader = own.read_parquet(files).to_arrow_reader(40_960)
        with pa.ipc.new_stream(str(batches), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        with (
            started("benchmarks.peers", "replay", str(batches)) as (replay, _),
            adbc.connect(uri) as connection,
        ):
            ours, theirs = flight.connect(uri), flight.connect(replay)
            cursor = connection.cursor()

            def over_adbc() -> object:
                cursor.execute("SELECT * FROM bulk")
                return drain_reader(cursor.fetch_record_batch())

            ways: dict[str, Callable[[], object]] = {
                "ours": lambda: drain(ours, query("SELECT * FROM bulk")),
                "adbc": over_adbc,
                "replay": lambda: drain(theirs, query("x")),
                "duckdb": lambda: drain_reader(own.read_parquet(files).to_arrow_reader(40_960)),
            }
            size = drain(theirs, query("x"))[1]
            seconds = interleaved(ways, 3 if quick else 5)
            cursor.close()

    def rate(name: str) -> str:
        return f"{size / median(seconds[name]) / 1e9:.2f} GB/s"

    return [
        Line(
            "bulk read, plain Flight",
            rate("ours"),
            f"replay {rate('replay')}",
            1 / ratio(seconds, "ours", "replay"),
            "≥ 0.9",
        ),
        Line(
            "bulk read, ADBC",
            rate("adbc"),
            f"replay {rate('replay')}",
            1 / ratio(seconds, "adbc", "replay"),
            "",
        ),
        Line(
            "bulk read, plain Flight",
            rate("ours"),
            f"DuckDB {rate('duckdb')}",
            1 / ratio(seconds, "ours", "duckdb"),
            "",
        ),
    ]


def latency(directory: Path, quick: bool) -> list[Line]:
    """SELECT 1, beside a server that gives a fixed row."""
    count = 300 if quick else 2000
    lines = []
    with lakehouse(directory) as (uri, _), started("benchmarks.peers", "static") as (static, _):
        ours, theirs = flight.connect(uri), flight.connect(static)
        seconds = interleaved(
            {
                "ours": lambda: drain(ours, query("SELECT 1")),
                "static": lambda: drain(theirs, query("SELECT 1")),
            },
            count,
        )
        lines.append(_latency_line("SELECT 1, plain Flight", seconds))
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:

            def over_adbc() -> object:
                cursor.execute("SELECT 1")
                return cursor.fetchall()

            alone = interleaved(
                {"ours": over_adbc, "static": lambda: drain(theirs, query("SELECT 1"))}, count
            )
            lines.append(_latency_line("SELECT 1, ADBC (4 calls, static has 2)", alone))
        for clients in (1, 8, 32):
            rates = {
                name: _queries_per_second(at, clients, 1.0 if quick else 4.0)
                for name, at in (("o", uri), ("s", static))
            }
            lines.append(
                Line(
                    f"SELECT 1, {clients} clients",
                    f"{rates['o']:.0f}/s",
                    f"static {rates['s']:.0f}/s",
                    rates["o"] / rates["s"],
                    "",
                )
            )
    return lines


def _latency_line(what: str, seconds: dict[str, list[float]]) -> Line:
    ours, static = (f"{median(seconds[name]) * 1e3:.2f} ms" for name in ("ours", "static"))
    return Line(
        what, ours, f"static {static}", ratio(seconds, "ours", "static"), "≤ 1.3" if "plain" in what else ""
    )


def _queries_per_second(uri: str, clients: int, seconds: float) -> float:
    """Rate over all clients, each a thread with a connection of its own, on the server's machine."""
    counts = [0] * clients
    stop = time.monotonic() + seconds

    def work(index: int) -> None:
        with flight.connect(uri) as client:
            while time.monotonic() < stop:
                drain(client, query("SELECT 1"))
                counts[index] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def tpch(directory: Path, quick: bool) -> list[Line]:
    """The 22 TPC-H queries over Flight, beside DuckDB in process on the same Parquet files."""
    source = directory / "tpch"
    generator = Path(sys.executable).with_name("tpchgen-cli")
    scale = "0.1" if quick else "1"
    subprocess.run(
        [generator, "parquet", "-s", scale, "--output-dir", source], check=True, capture_output=True
    )
    own = duckdb.connect()
    with lakehouse(directory) as (uri, _), adbc.connect(uri, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA tpch")
            for table in _TABLES:
                file = pq.ParquetFile(source / f"{table}.parquet")
                reader = pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches())
                cursor.adbc_ingest(table, reader, mode="create", db_schema_name="tpch")
                files = [str(f) for f in (directory / "bucket/warehouse/tpch" / table).rglob("*.parquet")]
                own.execute(f"CREATE VIEW {table} AS FROM read_parquet({files})")
        client = flight.connect(uri)
        drain(client, query("USE tpch"))
        total = {"ours": 0.0, "duckdb": 0.0}
        for path in sorted((_ROOT / "tests/sql/tpch").glob("q*.sql")):
            sql = path.read_text()
            ways: dict[str, Callable[[], object]] = {
                "ours": lambda sql=sql: drain(client, query(sql)),  # type: ignore[misc]
                "duckdb": lambda sql=sql: drain_reader(own.sql(sql).to_arrow_reader(40_960)),  # type: ignore[misc]
            }
            seconds = interleaved(ways, 3)
            for name in total:
                total[name] += median(seconds[name])
    return [
        Line(
            f"TPC-H SF {scale}, 22 queries",
            f"{total['ours']:.2f} s",
            f"DuckDB {total['duckdb']:.2f} s",
            total["ours"] / total["duckdb"],
            "≤ 1.05",
        )
    ]


def memory(directory: Path, quick: bool) -> list[Line]:
    """Growth of the server's memory while a client reads 2 GB, fast and slowly."""
    rows = 10_000_000 if quick else 62_500_000
    lines = []
    with lakehouse(directory) as (uri, pid):
        process, client = psutil.Process(pid), flight.connect(uri)
        drain(client, query("SELECT 1"))
        for pace, pause_s in (("fast", 0.0), ("slow", 0.002)):
            before, peak, size = process.memory_info().rss, 0, 0
            info = client.get_flight_info(
                query(
                    "SELECT range AS a, range * 2 AS b, range::DOUBLE AS c, range + 1 AS d "
                    f"FROM range({rows})"
                )
            )
            for index, chunk in enumerate(client.do_get(info.endpoints[0].ticket)):
                size += chunk.data.nbytes
                if index % 50 == 0:
                    peak = max(peak, process.memory_info().rss)
                time.sleep(pause_s)
            grown = (peak - before) / 1e6
            lines.append(
                Line(
                    f"memory, {size / 1e9:.1f} GB read {pace}",
                    f"+{grown:.0f} MB",
                    f"from {before / 1e6:.0f} MB",
                    grown * 1e6 / size,
                    "flat",
                )
            )
    return lines


_BENCHMARKS: dict[str, Callable[[Path, bool], list[Line]]] = {
    "bulk": bulk,
    "latency": latency,
    "tpch": tpch,
    "memory": memory,
    "writes": writes,
    "small-writes": small_writes,
    "planning": planning,
    "compaction": compaction,
    "journal": journal,
    "s3": s3_reads,
    "postgres": postgres_reads,
    "objects": objects,
    "manifests": manifests,
    "footers": footers,
    "ingest-files": ingest_files,
    "ingest-postgres": ingest_postgres,
    "ingest-put": ingest_put,
    "vectors": vectors,
    "embedding": embedding,
    "retrieval": retrieval,
    "lance": lance,
}


def main() -> None:
    """Run the benchmarks named, all when none is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*_BENCHMARKS, []], help="which to run")
    parser.add_argument("--quick", action="store_true", help="small data, few repetitions")
    arguments = parser.parse_args()
    lines: list[Line] = []
    for name in arguments.names or _BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
            lines += _BENCHMARKS[name](Path(directory), arguments.quick)
    table = Table("what", "ours", "beside", "ratio", "aim")
    for line in lines:
        texts = (line.what, line.ours, line.beside, f"{line.ratio:.2f}", line.aim)
        table.add_row(*map(escape, texts))
    Console(width=110).print(table)
    Console().print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"DuckDB {duckdb.__version__}, pyarrow {pa.__version__}"
    )
    target = _ROOT / "build/benchmarks.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps([asdict(line) for line in lines], indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
