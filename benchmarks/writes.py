"""Writing: loads and changes of many rows beside DuckDB's own Parquet files, and many inserts of one row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import pyarrow as pa

from benchmarks.processes import Line, interleaved, lakehouse, ratio

_ROWS = (
    "SELECT range::BIGINT AS k, (range % 10)::INTEGER AS g, 'text ' || (range % 10000) AS s, "
    "range / 7.0 AS x FROM range({rows})"
)


def writes(directory: Path, quick: bool) -> list[Line]:
    """Loads and changes of ten million rows, beside DuckDB writing the same rows as Parquet."""
    rows = 1_000_000 if quick else 10_000_000
    own = duckdb.connect()
    made = _ROWS.format(rows=rows)
    with lakehouse(directory) as (uri, _), adbc.connect(uri, autocommit=True) as connection:
        cursor = connection.cursor()
        data = own.sql(made).to_arrow_table()
        own.register("data", data)
        cursor.adbc_ingest("selected", data.slice(0, 1), mode="create")
        cursor.adbc_ingest("g", pa.table({"g": range(10)}), mode="create")

        def run(sql: str) -> object:
            cursor.execute(sql)
            return cursor.rowcount

        ways: dict[str, Callable[[], object]] = {
            "select": lambda: run(f"INSERT INTO selected {made}"),
            "copy": lambda: own.execute(
                f"COPY ({made}) TO '{directory}/rows.parquet' (FORMAT parquet, COMPRESSION zstd)"
            ),
            "ingest": lambda: cursor.adbc_ingest("ingested", data.to_reader(100_000), mode="replace"),
            "copy data": lambda: own.execute(
                f"COPY data TO '{directory}/data.parquet' (FORMAT parquet, COMPRESSION zstd)"
            ),
        }
        seconds = interleaved(ways, 2 if quick else 3)
        run(f"CREATE TABLE parted PARTITIONED BY (g) AS {made}")
        changes = interleaved(
            {
                "part": lambda: run("UPDATE parted SET x = x + 1 WHERE g = 3 AND k // 10 % 10 = 3"),
                "whole": lambda: run("UPDATE parted SET x = x + 1"),
            },
            2,
        )
        cursor.close()

    def speed(name: str) -> str:
        return f"{rows / median(seconds[name]) / 1e6:.1f} M rows/s"

    return [
        Line(
            "INSERT … SELECT",
            speed("select"),
            f"COPY {speed('copy')}",
            1 / ratio(seconds, "select", "copy"),
            "≥ 0.7",
        ),
        Line(
            "adbc_ingest",
            speed("ingest"),
            f"COPY {speed('copy data')}",
            1 / ratio(seconds, "ingest", "copy data"),
            "≥ 0.7",
        ),
        Line(
            "UPDATE of 1 % of the rows, in one of 10 partitions",
            f"{median(changes['part']):.2f} s",
            f"of every row {median(changes['whole']):.2f} s",
            ratio(changes, "part", "whole"),
            "",
        ),
    ]


def small_writes(directory: Path, quick: bool) -> list[Line]:
    """Inserts of one row, each answered when it is stored for good, by one client and by eight."""
    seconds = 3.0 if quick else 15.0
    lines, alone = [], 0.0
    with lakehouse(directory) as (uri, _):
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("small", pa.table({"k": [0], "s": ["x"]}), mode="create")
        for clients in (1, 8):
            took = _insert(uri, clients, seconds)
            rate = len(took) / seconds
            cuts = quantiles(took, n=100)
            alone = alone or rate
            lines.append(
                Line(
                    f"single-row inserts, {clients} client{'s' * (clients > 1)}",
                    f"{rate:.0f}/s, p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms",
                    f"1 client {alone:.0f}/s",
                    rate / alone,
                    "",
                )
            )
    return lines


def _insert(uri: str, clients: int, seconds: float) -> list[float]:
    """How long each insert took."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            while (begun := time.perf_counter()) < until:
                cursor.execute(f"INSERT INTO small VALUES ({number}, 'a row of text')")
                took.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took
