"""Fixtures: a real server as a process of its own, with the sample data loaded."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc
import pyarrow.flight as flight
import pytest
from _pytest.nodeid import NodeId
from hypothesis import settings
from spawner import Forked, Spawner

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 120
# What a shell runs in the background ignores SIGINT, as would every program that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Generated examples are the same in every run and take as long as they take, so that no change is refused for
# what it has nothing to do with. Others are looked for by ``make test ARGS="--hypothesis-profile default"``.
settings.load_profile("ci")
_SPAWNER = Spawner()
# Files of tests that take a minute or more, the longest first: nobody waits for them at the end.
_LONGEST = (
    "test_sqlalchemy_suite.py",
    "test_jdbc.py",
    "test_load.py",
    "test_kill_random.py",
    "test_joint_commit.py",
)
# Read as libraries are loaded, before a fork could hear of them.
_EARLY = "MIMALLOC_"


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen[str] | Forked
    port: int
    directory: Path
    log: list[str]
    reader: threading.Thread

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"grpc://127.0.0.1:{self.port}"

    def client(self) -> flight.FlightClient:
        """A plain Flight client."""
        return flight.connect(self.uri)

    def adbc(self, **options: object) -> adbc.Connection:
        """An ADBC connection in autocommit mode."""
        return adbc.connect(self.uri, autocommit=True, **options)

    def load_sample(self) -> None:
        """Load the nyc sample."""
        with self.client() as client:
            list(client.do_action(flight.Action("samples.load", b'{"name": "nyc"}')))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._ended()

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self) -> int:
        status = self.process.wait(timeout=120)
        self.reader.join(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def start_server(directory: Path, config: str = "", **environment: str) -> Server:
    """Start a server on a free port over the configured bucket or a directory: a fork, for speed."""
    early = any(name.startswith(_EARLY) for name in environment)
    process = (_executed if early or sys.platform != "linux" else _SPAWNER.start)(
        _arguments(directory, config), {**os.environ, "LAKEHOUSE__LOG__FORMAT": "json", **environment}
    )
    return _started(process, directory)


def execute_server(directory: Path, config: str = "") -> Server:
    """Start a server as users do: ``python -m flight_server serve``."""
    environment = {**os.environ, "LAKEHOUSE__LOG__FORMAT": "json"}
    return _started(_executed(_arguments(directory, config), environment), directory)


def _arguments(directory: Path, config: str) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "lakehouse.toml"
    bucket = directory / "bucket"
    local = f'[[buckets]]\nname = "primary"\nkind = "local"\npath = "{bucket}"\n\n'
    file.write_text(f"{'' if '[[buckets]]' in config else local}{config}\n")
    return ["serve", "--config", str(file), "--port", "0"]


def _executed(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flight_server", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def _started(process: subprocess.Popen[str] | Forked, directory: Path) -> Server:
    log: list[str] = []
    port, reader = _await_port(process, log)
    return Server(process, port, directory, log, reader)


def _await_port(process: subprocess.Popen[str] | Forked, log: list[str]) -> tuple[int, threading.Thread]:
    found = threading.Event()
    ports: list[int] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            match = re.search(r"grpc(?:\+tls)?://[^\s\"]+?:(\d+)", line)
            if match and not ports:
                ports.append(int(match[1]))
                found.set()
        found.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if not found.wait(_START_SECONDS) or not ports:
        process.kill()
        process.wait(timeout=30)
        reader.join(timeout=30)
        assert process.stdout is not None
        process.stdout.close()
        raise RuntimeError("the server did not start:\n" + "".join(log))
    return ports[0], reader


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and keep what is set up once on one worker (--dist loadgroup)."""
    items.sort(
        key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST)
    )
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        groups = {str(mark.args[0]) for mark in item.iter_markers("xdist_group")}
        fixtures = getattr(item, "_fixtureinfo", None)
        defined = fixtures.name2fixturedefs.values() if fixtures else ()
        if any(each[-1].scope == "module" for each in defined):
            groups.add(item.path.name)
        if groups:
            # What xdist 3.8 does itself by an attribute that pytest 9.2 no longer reads.
            item._id = NodeId.parse(f"{item.nodeid}@{'_'.join(sorted(groups))}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the whole run, with the nyc sample. Tests create tables of their own names."""
    # Not every test closes what it opens.
    many = "[session]\nmax_sessions = 100000\nmax_sessions_per_principal = 100000"
    running = execute_server(tmp_path_factory.mktemp("server"), many)
    running.load_sample()
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[Server]:
    """An empty server for one test."""
    running = start_server(tmp_path / "server")
    yield running
    if running.process.poll() is None:
        running.kill()


@pytest.fixture
def connection(server: Server) -> Iterator[adbc.Connection]:
    """An ADBC connection in autocommit mode."""
    with server.adbc() as opened:
        yield opened


def need(tool: str) -> str:
    """The path of a program a test cannot do without; skips where it is missing, but fails in CI."""
    found = shutil.which(tool)
    if found is None:
        if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
            pytest.fail(f"{tool} is missing, and nothing may be skipped here")
        pytest.skip(f"{tool} is not installed")
    return found
