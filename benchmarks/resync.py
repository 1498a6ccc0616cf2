"""Registering and comparing a thousand Parquet objects by their footers, in a directory and an S3 store."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import duckdb
import obstore
import pyarrow.flight as flight
from obstore.store import LocalStore, ObjectStore

from benchmarks.processes import Line, interleaved, ratio, started
from benchmarks.storage import s3_store

_FILES, _ROWS, _REPETITIONS = 1000, 20_000, 5
_QUICK = 10
_TAIL_BYTES, _READERS = 65_536, 16
_SELECT = (
    "SELECT i AS id, i % 1000 AS a, hash(i) AS b, random() AS c, 'text ' || hash(i) AS d, "
    "TIMESTAMP '2020-01-01' + to_seconds(i) AS e FROM range({first}, {end}) r(i)"
)


def footers(directory: Path, quick: bool) -> list[Line]:
    """Resync and verification of one registered dataset, beside bare reads of the same ends of objects."""
    count = _FILES // (_QUICK if quick else 1)
    made = _made(directory / "made", count)
    lines = []
    with s3_store(directory) as store:
        config = directory / "lakehouse.toml"
        config.write_text(
            f'[[buckets]]\nname = "primary"\nkind = "local"\npath = "{directory}/primary"\n'
            f'[[buckets]]\nname = "local"\nkind = "local"\npath = "{directory}/bucket"\n'
            f'[[buckets]]\nname = "s3"\nkind = "s3"\nbucket = "{store.config["bucket"]}"\n'
            f'endpoint = "{store.config["endpoint"]}"\n'
            f'[cache]\ndirectory = "{directory}/cache"\n[auth]\nanonymous_role = "admin"\n'
        )
        local = LocalStore(directory / "bucket", mkdir=True)
        with started("flight_server", "serve", "--config", str(config), "--port", "0") as (uri, _):
            client = flight.connect(uri)
            for name, place in (("local", local), ("s3", store)):
                keys = _put(place, made)
                lines += _measured(client, name, place, keys, 2 if quick else _REPETITIONS)
    return lines


def _made(directory: Path, count: int) -> list[Path]:
    directory.mkdir()
    own = duckdb.connect()
    for number in range(count):
        select = _SELECT.format(first=number * _ROWS, end=(number + 1) * _ROWS)
        own.execute(f"COPY ({select}) TO '{directory}/{number:04}.parquet'")
    return sorted(directory.glob("*.parquet"))


def _put(store: ObjectStore, files: list[Path]) -> list[str]:
    keys = [f"many/{file.name}" for file in files]
    with ThreadPoolExecutor(_READERS) as threads:
        list(threads.map(lambda file: obstore.put(store, f"many/{file.name}", file.read_bytes()), files))
    return keys


def _measured(
    client: flight.FlightClient, bucket: str, store: ObjectStore, keys: list[str], repetitions: int
) -> list[Line]:
    table = {"catalog": "registered", "db_schema": bucket, "table": "many"}
    _act(client, "catalog.register", {"name": f"{bucket}.many", "bucket": bucket, "prefix": "many"})

    def bare() -> None:
        def end(key: str) -> int:
            return len(obstore.get(store, key, options={"range": {"suffix": _TAIL_BYTES}}).bytes())

        with ThreadPoolExecutor(_READERS) as threads:
            list(threads.map(end, keys))

    ways: dict[str, Callable[[], object]] = {
        "resync": lambda: _act(client, "catalog.resync", table),
        "verify": lambda: _act(client, "catalog.verify", table),
        "bare": bare,
    }
    seconds = interleaved(ways, repetitions)
    size = sum(obstore.head(store, key)["size"] for key in keys)
    read = min(_TAIL_BYTES * len(keys), size)
    what = f"{len(keys)} files of {size / 1e6:.0f} MB, {bucket}: {read / 1e6:.1f} MB read ({read / size:.0%})"

    def rate(name: str) -> str:
        return f"{len(keys) / median(seconds[name]):.0f} files/s"

    return [
        Line(f"{way}, {what}", rate(way), f"bare ends {rate('bare')}", ratio(seconds, way, "bare"), "")
        for way in ("resync", "verify")
    ]


def _act(client: flight.FlightClient, name: str, request: dict[str, str]) -> object:
    results = list(client.do_action(flight.Action(name, json.dumps(request).encode())))
    return json.loads(results[-1].body.to_pybytes())
