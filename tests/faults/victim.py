"""The server that hostile tests act on, what may never come back from it, and an honest client."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.flight as flight
from conftest import ROOT, Server, start_server
from faults.raw_flight import Answer, RawFlight, action
from wire import command, query

ROWS = 5000
CONFIG = """
[limits]
statement_timeout_seconds = 2
queue_seconds = 5
message_bytes = 67_108_864
[engine]
memory_limit = "1GB"
[session]
max_sessions = 5000
max_sessions_per_principal = 5000
"""
# Statuses that say what was wrong with the request; UNKNOWN is Arrow's own for a stream it cannot read.
_HONEST = frozenset(
    "OK INVALID_ARGUMENT NOT_FOUND UNIMPLEMENTED UNAUTHENTICATED PERMISSION_DENIED CANCELLED UNKNOWN".split()
)
_CODED = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
_LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|/home/|/root/|/tmp/|/usr/|lakehouse\.(?:engine|catalog|ingest)"
)


class Misbehaved(AssertionError):
    """The server did what it never may."""


@dataclass
class Victim:
    """A server under attack, started again where a test ended it."""

    directory: Path
    server: Server

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    @property
    def process(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(self.server.process.pid)

    def check(self, answer: Answer, what: str) -> None:
        """Make sure that an answer is one that a server may give."""
        if self.server.process.poll() is not None:
            raise Misbehaved(f"{what}: the server died with {self.server.process.returncode}{self._last()}")
        text = f"{answer.status} {answer.text}"
        if answer.status not in _HONEST and not (
            answer.status in _CODED and re.match(r"\[[A-Z_]+\] ", answer.text)
        ):
            raise Misbehaved(f"{what}: {text}{self._last()}")
        for place in (str(self.directory), str(ROOT)):
            if place in answer.text:
                raise Misbehaved(f"{what}: told its directory: {text}")
        leak = _LEAKS.search(answer.text)
        if leak:
            raise Misbehaved(f"{what}: leaked {leak[0]!r}: {text}")
        if "[INTERNAL]" in answer.text or "[ENGINE_RESTARTED]" in answer.text:
            raise Misbehaved(f"{what}: {text}{self._last()}")

    def check_honest(self) -> None:
        """Make sure that an honest client gets right answers, from statements and from a load of its own."""
        with self.server.client() as client:
            options = flight.FlightCallOptions(timeout=60)
            table = query(client, "select sum(k) as k, count(distinct s) as s from truth", options)
            assert table.to_pydict() == {"k": [ROWS * (ROWS - 1) // 2], "s": [ROWS]}
            load(client, "mine", pa.table({"a": ["x", None, "é"]}), temporary=True)
            assert query(client, "select count(*) as n from mine", options).to_pydict() == {"n": [3]}
            list(client.do_action(flight.Action("CloseSession", b"")))

    def _last(self) -> str:
        errors = [
            line for line in self.server.log if '"error"' in line or "Fatal" in line or "terminate" in line
        ]
        return "\n" + errors[-1][-3000:] if errors else ""


def start_victim(directory: Path, config: str = CONFIG, **environment: str) -> Victim:
    """A fresh server with two tables: truth, which is checked, and honest, which attacks may change."""
    shutil.rmtree(directory, ignore_errors=True)
    victim = Victim(directory, start_server(directory, config, **environment))
    with victim.server.client() as client:
        data = pa.table({"k": range(ROWS), "s": [f"text {i}" for i in range(ROWS)]})
        load(client, "truth", data)
        load(client, "honest", data)
        list(client.do_action(flight.Action("CloseSession", b"")))
    return victim


def load(client: flight.FlightClient, table: str, data: pa.Table, **fields: Any) -> None:
    """Load a table as an honest client does."""
    options = {"if_not_exist": 1, "if_exists": 3}
    descriptor = command("CommandStatementIngest", table=table, table_definition_options=options, **fields)
    writer, reader = client.do_put(descriptor, data.schema, flight.FlightCallOptions(timeout=60))
    with writer:
        writer.write_table(data)
        writer.done_writing()
        assert reader.read() is not None


def close_session(client: RawFlight) -> None:
    """End a raw client's session, so that the next starts with nothing."""
    client.call("DoAction", [action(b"CloseSession", b"")])


def wait_until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 60) -> None:
    """Wait for something that must come true before long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)
