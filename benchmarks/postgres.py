"""A table of PostgreSQL read by our source, by the bare driver, and in pages, each in a process of its own.

``python -m benchmarks.postgres WAY DSN TABLE`` reads it once, and prints seconds, rows and peak memory.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg

from benchmarks.processes import Line
from lakehouse.ingest.sources.postgres import Dsn, PostgresSource, Reading, Relation
from lakehouse.ingest.sources.postgres.sessions import PsycopgSession
from lakehouse.ingest.sources.source import OnError

_ROWS, _QUICK_ROWS = 2_000_000, 100_000
SMALL_ROWS = 586
_PAGE = 50_000
COLUMNS = "id small n big price::text ratio flag name code day at seen note".split()
_TABLE = (
    "CREATE TABLE {table} (id bigint PRIMARY KEY, small smallint, n int, big bigint, price numeric(12,2), "
    "ratio double precision, flag boolean, name text, code varchar(12), day date, at timestamp, "
    "seen timestamptz, note text)"
)
_FILL = (
    "INSERT INTO {table} SELECT i, i % 1000, i * 7 % 100000, i * 1000003, i % 1000000 / 100.0, i / 7.0, "
    "i % 3 = 0, 'name of row ' || i, 'c' || i % 5000, date '2000-01-01' + (i % 9000)::int, "
    "timestamp '2020-01-01' + i * interval '1 second', "
    "timestamptz '2020-01-01 00:00+00' + i * interval '1 second', "
    "CASE WHEN i % 10 > 0 THEN 'note ' || md5(i::text) END FROM generate_series(1::bigint, {rows}) i"
)


def postgres_reads(directory: Path, quick: bool) -> list[Line]:
    """Throughput and memory of a large table, and the time of a small one."""
    rows = _QUICK_ROWS if quick else _ROWS
    with postgres_server() as dsn:
        filled(dsn, {"large": rows, "little": SMALL_ROWS})
        found: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
        for _ in range(1 if quick else 3):
            for way, results in found.items():
                if way != "pages" or not results:
                    results.append(_run(way, dsn, "large"))
        small = [_run("ours", dsn, "little")["all_s"] * 1e3 for _ in range(3)]
    base = found["adbc"]

    def rate(way: str, part: str = "read_s") -> str:
        of = found[way]
        peak = max(each["peak_mb"] - each["before_mb"] for each in of)
        return f"{rows / median(each[part] for each in of) / 1e3:.0f} k rows/s, +{peak:.0f} MB"

    def line(what: str, way: str, part: str, aim: str) -> Line:
        ratios = [b["read_s"] / o[part] for b, o in zip(base, found[way], strict=False)]
        return Line(
            f"PostgreSQL {rows:,} × 13, {what}", rate(way, part), f"ADBC {rate('adbc')}", median(ratios), aim
        )

    return [
        line("read", "ours", "read_s", "≥ 0.9"),
        line("inspected and read", "ours", "all_s", ""),
        line("one connection", "one", "read_s", ""),
        line("without ADBC", "psycopg", "read_s", ""),
        line("LIMIT/OFFSET pages", "pages", "read_s", ""),
        Line(
            f"PostgreSQL {SMALL_ROWS} × 13, all of it",
            f"{median(small):.0f} ms",
            "old system 196 ms",
            median(small) / 196,
            "< 1",
        ),
    ]


def filled(dsn: str, tables: dict[str, int]) -> None:
    """Make tables of so many rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table, count in tables.items():
            connection.execute(_TABLE.format(table=table).encode())
            connection.execute(_FILL.format(table=table, rows=count).encode())
        connection.execute("VACUUM ANALYZE")


def _run(way: str, dsn: str, table: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.postgres", way, dsn, table]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


def _ours(dsn: str, table: str, reading: Reading) -> tuple[int, float]:
    def never() -> bool:
        return False

    def silent(share: float | None, text: str) -> None:
        pass

    source = PostgresSource(Dsn.parse(dsn), Relation("public", table), reading)
    inspection = source.inspect(never, silent)
    began_s = time.perf_counter()
    rows = sum(piece.rows_in for piece in source.read(inspection, OnError.FAIL, never, silent))
    source.close()
    return rows, time.perf_counter() - began_s


def _adbc(dsn: str, table: str) -> tuple[int, float]:
    began_s = time.perf_counter()
    with adbc.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM {table}")
        rows = sum(batch.num_rows for batch in cursor.fetch_record_batch())
    return rows, time.perf_counter() - began_s


def _pages(dsn: str, table: str) -> tuple[int, float]:
    began_s, rows = time.perf_counter(), 0
    with psycopg.connect(dsn) as connection:
        while page := connection.execute(
            f"SELECT * FROM {table} ORDER BY id LIMIT {_PAGE} OFFSET {rows}".encode()
        ).fetchall():
            rows += len(page)
    return rows, time.perf_counter() - began_s


_WAYS: dict[str, Callable[[str, str], tuple[int, float]]] = {
    "adbc": _adbc,
    "ours": lambda dsn, table: _ours(dsn, table, Reading()),
    "one": lambda dsn, table: _ours(dsn, table, Reading(connections=1)),
    "psycopg": lambda dsn, table: _ours(dsn, table, Reading(opener=PsycopgSession)),
    "pages": _pages,
}


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL of Debian's package on a free port; gives its DSN."""
    control = max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    directory = Path(mkdtemp(prefix="benchmark-postgres-"))
    options: dict[str, Any] = {"cwd": "/", "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres")
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(directory, user.pw_uid, user.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c shared_buffers=1GB"
    command = [str(control), "-D", f"{directory}/data", "-l", f"{directory}/log", "-w"]
    subprocess.run(
        [*command, "-o", "--auth=trust --username=lake --encoding=UTF8 --no-sync", "initdb"],
        check=True,
        **options,
    )
    subprocess.run([*command, "-o", server, "start"], check=True, **options)
    try:
        yield f"postgresql://lake@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*command, "-m", "immediate", "stop"], check=True, **options)
        subprocess.run(["rm", "-rf", str(directory)], check=True)


def main() -> None:
    """Read a table one way."""
    way, dsn, table = sys.argv[1:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.perf_counter()
    rows, read_s = _WAYS[way](dsn, table)
    all_s = time.perf_counter() - began_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "rows": rows,
        "read_s": read_s,
        "all_s": all_s,
        "before_mb": before / 1e3,
        "peak_mb": peak / 1e3,
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
