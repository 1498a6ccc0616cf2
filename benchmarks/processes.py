"""Servers as processes, and clients that measure them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.flight as flight

from flight_server.protocol.messages import Any_, message_class


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: what was measured, beside what, and the ratio that the aim is about."""

    what: str
    ours: str
    beside: str
    ratio: float
    aim: str


@contextmanager
def started(*arguments: str) -> Iterator[tuple[str, int]]:
    """A server process of this Python; gives its address and process id.

    Raises:
        RuntimeError: It ended before it listened.
    """
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"grpc://127\.0\.0\.1:\d+", line)
            if found:
                yield found[0], process.pid
                return
        raise RuntimeError(f"{' '.join(arguments)} did not start")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def lakehouse(directory: Path, more: str = "") -> Iterator[tuple[str, int]]:
    """Our server over a bucket in ``directory``; gives its address and process id.

    Args:
        directory: Where everything of it is.
        more: What else its configuration says.
    """
    config = directory / "lakehouse.toml"
    bucket = f'[[buckets]]\nname = "primary"\nkind = "local"\npath = "{directory}/bucket"\n'
    config.write_text(bucket + more)
    with started("flight_server", "serve", "--config", str(config), "--port", "0") as found:
        yield found


def query(sql: str) -> flight.FlightDescriptor:
    """The descriptor of a statement."""
    body = message_class("CommandStatementQuery")(query=sql).SerializeToString()
    url = "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return flight.FlightDescriptor.for_command(Any_(type_url=url, value=body).SerializeToString())


def drain(client: flight.FlightClient, descriptor: flight.FlightDescriptor) -> tuple[int, int]:
    """Read a result to its end; gives rows and bytes."""
    rows = size = 0
    info = client.get_flight_info(descriptor)
    for chunk in client.do_get(info.endpoints[0].ticket):
        rows += chunk.data.num_rows
        size += chunk.data.nbytes
    return rows, size


def drain_reader(reader: pa.RecordBatchReader) -> tuple[int, int]:
    """Read a stream to its end; gives rows and bytes."""
    rows = size = 0
    for batch in reader:
        rows += batch.num_rows
        size += batch.nbytes
    return rows, size


def interleaved(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each way, taken in turn so that a machine that changes its pace does so for all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repetitions):
        for name, way in ways.items():
            started_s = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started_s)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """The median over the repetitions of one way's time by another's."""
    return median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))
