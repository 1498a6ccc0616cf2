"""Reads of a table in an S3 store: the first one, and those after it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import obstore
import pyarrow.flight as flight
from obstore.store import S3Store

from benchmarks.processes import Line, drain, interleaved, query, ratio, started

_ROWS, _FILES, _REPETITIONS = 20_000_000, 8, 5
_QUICK = 10
_KEY, _SECRET, _BUCKET = "benchmark", "benchmark-secret", "lake"
_RANGE_BYTES, _RANGES = 8 * 1024 * 1024, 16
_SUM = "SELECT " + ", ".join(f"max({column})" for column in "abcdef") + " FROM {source}"
_WIDE = (
    "SELECT i::BIGINT AS a, (i % 1000)::INTEGER AS b, hash(i) / 3 AS c, hash(i + 1) % 100_000 AS d, "
    "'text ' || (i % 10_000) AS e, TIMESTAMP '2020-01-01' + to_seconds(i) AS f "
    "FROM range({first}, {end}) r(i)"
)


def s3_reads(directory: Path, quick: bool) -> list[Line]:
    """Cold and warm reads of one table, beside a bare download of its files and DuckDB on these."""
    rows = _ROWS // (_QUICK if quick else 1)
    with s3_store(directory) as store:
        config = directory / "lakehouse.toml"
        config.write_text(
            f'[[buckets]]\nkind = "s3"\nbucket = "{_BUCKET}"\nendpoint = "{_endpoint(store)}"\n'
            f'[cache]\ndirectory = "{directory}/cache"\n[auth]\nanonymous_role = "admin"\n'
        )
        with started("flight_server", "serve", "--config", str(config), "--port", "0") as (uri, _):
            with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE t AS " + _WIDE.format(first=0, end=0))
                for file in range(_FILES):
                    part = rows // _FILES
                    cursor.execute("INSERT INTO t " + _WIDE.format(first=file * part, end=(file + 1) * part))
            return _measured(directory, store, flight.connect(uri), quick)


def _measured(directory: Path, store: S3Store, client: flight.FlightClient, quick: bool) -> list[Line]:
    objects = [o for o in obstore.list(store, "warehouse").collect() if o["path"].endswith(".parquet")]
    sizes = {o["path"]: o["size"] for o in objects}
    size = sum(sizes.values())
    copies = directory / "copies"
    own = duckdb.connect()

    def download() -> None:
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        asyncio.run(_download(store, sizes, copies))

    def clear() -> None:
        list(client.do_action(flight.Action("cache.clear", b"{}")))

    def cold() -> object:
        clear()
        return drain(client, query(_SUM.format(source="t")))

    def local() -> object:
        return own.sql(_SUM.format(source=f"read_parquet('{copies}/*.parquet')")).fetchall()

    def then() -> object:
        download()
        return local()

    ways: dict[str, Callable[[], object]] = {
        "download": download,
        "then": then,
        "cold": cold,
        "warm": lambda: drain(client, query(_SUM.format(source="t"))),
        "local": local,
    }
    seconds = interleaved(ways, 2 if quick else _REPETITIONS)
    took = {name: f"{median(found) * 1000:.0f} ms" for name, found in seconds.items()}
    rate = f"{size / median(seconds['download']) / 1e9:.2f} GB/s"
    what = f"{size / 1e6:.0f} MB in {len(objects)} files"
    compared = (
        ("cold", "download", f"download {took['download']} ({rate})", ""),
        ("cold", "then", f"download, then DuckDB {took['then']}", "≤ 1.1"),
        ("warm", "local", f"DuckDB, local files {took['local']}", "≤ 1.1"),
    )
    return [
        Line(f"{ours}, {what}", took[ours], beside, ratio(seconds, ours, theirs), aim)
        for ours, theirs, beside, aim in compared
    ]


async def _download(store: S3Store, sizes: dict[str, int], target: Path) -> None:
    """What bare obstore takes: the same ranges, as many at once, into files."""
    slots = asyncio.Semaphore(_RANGES)

    async def part(path: str, descriptor: int, start: int, end: int) -> None:
        async with slots:
            os.pwrite(descriptor, await obstore.get_range_async(store, path, start=start, end=end), start)

    descriptors = {
        path: os.open(target / path.rsplit("/", 1)[-1], os.O_CREAT | os.O_WRONLY) for path in sizes
    }
    await asyncio.gather(
        *(
            part(path, descriptors[path], start, min(start + _RANGE_BYTES, size))
            for path, size in sizes.items()
            for start in range(0, size, _RANGE_BYTES)
        )
    )
    for descriptor in descriptors.values():
        os.close(descriptor)


def _endpoint(store: S3Store) -> str:
    return str(store.config["endpoint"])


@contextmanager
def s3_store(directory: Path) -> Iterator[S3Store]:
    """SeaweedFS with an empty bucket; its credentials are in the variables that every client looks into."""
    weed = Path(sys.executable).with_name("weed")
    os.environ |= {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET}
    names = ("master", "volume", "filer", "s3", "admin")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    data = directory / "s3"
    data.mkdir()
    command = [str(weed), f"-logdir={data}", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.lance=0"]
    command += ["-s3.port.iceberg=0", f"-bucket={_BUCKET}", *(f"-{n}.port={p}" for n, p in ports.items())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        store = S3Store(_BUCKET, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})
        for _ in range(100):
            try:
                obstore.list_with_delimiter(store)
                break
            except Exception:  # noqa: BLE001 - it does not listen yet
                time.sleep(0.2)
        yield store
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Free ones below 55536, as the store adds 10000 to each for another purpose."""
    found: list[int] = []
    for port in range(21_000, 32_000, 7):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found
