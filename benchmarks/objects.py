"""Objects through Flight, beside obstore itself on the same buckets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import obstore
import psutil
import pyarrow as pa
import pyarrow.flight as flight
from obstore.store import LocalStore, ObjectStore

from benchmarks.peers import BATCH_BYTES, SCHEMA
from benchmarks.processes import Line, interleaved, ratio, started
from benchmarks.storage import s3_store

_BYTES, _QUICK_BYTES, _REPETITIONS = 400_000_000, 100_000_000, 5
_GET_BYTES, _PUT_BYTES = 8 * 1024 * 1024, 10 * 1024 * 1024


def objects(directory: Path, quick: bool) -> list[Line]:
    """Puts and gets of one large object, in a directory and in an S3 store."""
    size = _QUICK_BYTES if quick else _BYTES
    lines = []
    with s3_store(directory) as store:
        config = directory / "lakehouse.toml"
        config.write_text(
            f'[[buckets]]\nname = "local"\nkind = "local"\npath = "{directory}/bucket"\n'
            f'[[buckets]]\nname = "s3"\nkind = "s3"\nbucket = "{store.config["bucket"]}"\n'
            f'endpoint = "{store.config["endpoint"]}"\n[auth]\nanonymous_role = "admin"\n'
        )
        with (
            started("flight_server", "serve", "--config", str(config), "--port", "0") as (uri, pid),
            started("benchmarks.peers", "bytes", str(size)) as (wire, _),
        ):
            bare = directory / "bare"
            bare.mkdir()
            for name, beside in (("local", LocalStore(bare)), ("s3", store)):
                ways = _Ways(
                    flight.connect(uri), flight.connect(wire), psutil.Process(pid), name, beside, size
                )
                lines += ways.measured(2 if quick else _REPETITIONS)
    return lines


class _Ways:
    """The ways to put and get one object of one bucket."""

    def __init__(
        self,
        client: flight.FlightClient,
        wire: flight.FlightClient,
        server: psutil.Process,
        bucket: str,
        store: ObjectStore,
        size: int,
    ) -> None:
        self._client = client
        self._wire = wire
        self._server = server
        self._bucket = bucket
        self._store = store
        self._content = np.random.default_rng(1).bytes(BATCH_BYTES)
        self._batch = pa.record_batch([pa.array([self._content], pa.binary())], schema=SCHEMA)
        self._pieces = size // BATCH_BYTES
        self._size = self._pieces * BATCH_BYTES
        self._before = self._peak = server.memory_info().rss

    def measured(self, repetitions: int) -> list[Line]:
        """Every way in turn, so often, as lines of the table."""
        ticket = json.dumps({"path": [self._bucket, "ours"]}).encode()
        ways: dict[str, Callable[[], object]] = {
            "put": lambda: self._put(self._client),
            "put_bare": self._put_bare,
            "put_wire": lambda: self._put(self._wire),
            "get": lambda: self._get(self._client, ticket),
            "get_bare": self._get_bare,
            "get_wire": lambda: self._get(self._wire, b"x"),
        }
        seconds = interleaved(ways, repetitions)

        def line(what: str, ours: str, beside: str, named: str, aim: str = "") -> Line:
            rates = [f"{self._size / median(seconds[name]) / 1e9:.2f} GB/s" for name in (ours, beside)]
            share = 1 / ratio(seconds, ours, beside)
            return Line(f"{what}, {self._bucket}", rates[0], f"{named} {rates[1]}", share, aim)

        grown = (self._peak - self._before) / 1e6
        synced = "obstore and fsync" if isinstance(self._store, LocalStore) else "obstore"
        return [
            line("put", "put", "put_bare", synced, "≥ 0.9"),
            line("put", "put", "put_wire", "Flight alone"),
            line("get", "get", "get_bare", "obstore", "≥ 0.9"),
            line("get", "get", "get_wire", "Flight alone"),
            Line(
                f"memory, {self._size / 1e9:.1f} GB put and got, {self._bucket}",
                f"+{grown:.0f} MB",
                f"from {self._before / 1e6:.0f} MB",
                grown * 1e6 / self._size,
                "flat",
            ),
        ]

    def _put(self, client: flight.FlightClient) -> None:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path(self._bucket, "ours"), SCHEMA)
        with writer:
            for index in range(self._pieces):
                writer.write_batch(self._batch)
                self._look(index)
            writer.done_writing()
            assert json.loads(reader.read().to_pybytes())["size"] == self._size

    def _get(self, client: flight.FlightClient, ticket: bytes) -> None:
        found = 0
        for index, chunk in enumerate(client.do_get(flight.Ticket(ticket))):
            found += chunk.data.get_total_buffer_size()
            self._look(index)
        assert found >= self._size

    def _look(self, index: int) -> None:
        if index % 50 == 0:
            self._peak = max(self._peak, self._server.memory_info().rss)

    def _put_bare(self) -> None:
        with obstore.open_writer(self._store, "bare", buffer_size=_PUT_BYTES, max_concurrency=4) as target:
            for _ in range(self._pieces):
                target.write(self._content)
        if isinstance(self._store, LocalStore):
            with (Path(str(self._store.prefix)) / "bare").open("rb") as file:
                os.fsync(file.fileno())

    def _get_bare(self) -> None:
        found = 0
        for start in range(0, self._size, _GET_BYTES):
            end = min(start + _GET_BYTES, self._size)
            found += len(obstore.get_range(self._store, "bare", start=start, end=end))
        assert found == self._size
