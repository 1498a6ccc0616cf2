"""The operator's HTTP port: what it tells, and that nobody can wear it out."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flight_server.metrics import Metrics
from flight_server.ops_http import OperationsHttp
from flight_server.readiness import Probe, Readiness
from lakehouse.config import Settings
from lakehouse.errors import ConfigError, StorageError
from lakehouse.runtime import Lakehouse

_FEW_SECONDS = 60


@dataclass
class Reply:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Operator:
    """Somebody who asks."""

    port: int

    def ask(self, path: str, method: str = "GET", **headers: str) -> Reply:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_FEW_SECONDS)) as connection:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Reply(response.status, response.read(), dict(response.getheaders()))

    def send(self, data: bytes) -> bytes:
        """What comes back for these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_FEW_SECONDS) as connection:
            received = b""
            with contextlib.suppress(OSError):  # who is refused early may find the connection gone
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    received += piece
            return received


@dataclass
class Served:
    """A lakehouse with its operator's port."""

    operator: Operator
    lakehouse: Lakehouse
    readiness: Readiness
    bucket: Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    bucket = tmp_path / "bucket"
    lakehouse = Lakehouse(Settings(buckets=[{"path": bucket}], catalog={"refresh_ms": 0}))
    readiness = Readiness.of(lakehouse, kept_s=0.0)
    http_port = OperationsHttp("127.0.0.1", 0, readiness, Metrics(lakehouse, readiness).exposition)
    yield Served(Operator(http_port.port), lakehouse, readiness, bucket)
    http_port.stop()
    lakehouse.close()


def serving(*checks: tuple[str, Callable[[], object]], limit_s: float = 5.0) -> OperationsHttp:
    probes = {name: Probe(name, check, limit_s, kept_s=0.0) for name, check in checks}
    return OperationsHttp("127.0.0.1", 0, Readiness(probes, tuple(probes)), lambda _: (b"", "text/plain"))


def test_a_healthy_server_is_alive_and_ready(served: Served) -> None:
    live, ready = served.operator.ask("/livez"), served.operator.ask("/readyz")
    assert (live.status, live.json["alive"], list(live.json["checks"])) == (200, True, ["engine"])
    assert (ready.status, ready.json["ready"]) == (200, True)
    assert set(ready.json["checks"]) == {"engine", "storage", "catalog"}
    assert all(check["ok"] and check["seconds"] >= 0 for check in ready.json["checks"].values())
    assert ready.headers["Content-Type"] == "application/json"


def test_lost_storage_makes_a_server_unready_but_not_dead(served: Served) -> None:
    shutil.rmtree(served.bucket)
    ready = served.operator.ask("/readyz")
    assert ready.status == 503
    assert ready.json["checks"]["storage"]["reason"].startswith("[STORAGE_UNAVAILABLE]")
    assert not ready.json["checks"]["catalog"]["ok"]
    assert str(served.bucket) not in ready.body.decode()
    assert served.operator.ask("/livez").status == 200
    served.bucket.mkdir()
    served.lakehouse.catalog.create_schema("main", if_not_exists=True)
    assert served.operator.ask("/readyz").status == 200


def test_a_draining_server_is_not_ready(served: Served) -> None:
    served.readiness.drain()
    ready = served.operator.ask("/readyz")
    assert ready.status == 503
    assert ready.json["checks"]["draining"]["reason"] == "the server is shutting down"
    assert served.operator.ask("/livez").status == 200


def test_metrics_are_given_as_prometheus_asks_for_them(served: Served) -> None:
    plain = served.operator.ask("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"lakehouse_build_info{" in plain.body
    assert b"# EOF" not in plain.body
    negotiated = served.operator.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert negotiated.headers["Content-Type"].startswith("application/openmetrics-text")
    assert negotiated.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/nothing"])
def test_head_gives_the_headers_of_get(served: Served, path: str) -> None:
    head, get = served.operator.ask(path, "HEAD"), served.operator.ask(path)
    assert head.status == get.status
    assert head.body == b""
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert int(head.headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_only_reading_is_possible(served: Served, method: str) -> None:
    assert served.operator.ask("/metrics", method).status == 501


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\x00\xff\xfe nonsense\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X-Header: 1\r\n" * 1000 + b"\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"GET /livez?<script> HTTP/1.1\r\nHost: <script>\r\n\r\n",
    ],
)
def test_nonsense_is_refused_without_a_word_about_the_inside(served: Served, data: bytes) -> None:
    reply = served.operator.send(data)
    assert b"Traceback" not in reply
    assert b"<script>" not in reply
    assert b"Python" not in reply
    assert served.operator.ask("/livez").status == 200


def test_clients_that_dawdle_keep_nobody_out(served: Served) -> None:
    dawdlers = [socket.create_connection(("127.0.0.1", served.operator.port)) for _ in range(60)]
    try:
        for connection in dawdlers:
            connection.sendall(b"GET /live")
        assert served.operator.ask("/livez").status == 200
        assert sum(thread.name == "ops-http-call" for thread in threading.enumerate()) <= 20
    finally:
        for connection in dawdlers:
            connection.close()


def test_however_often_it_is_asked_a_probe_runs_about_once_a_second() -> None:
    runs: list[int] = []
    probe = Probe("storage", lambda: runs.append(1), kept_s=3600)
    askers = [threading.Thread(target=probe.finding) for _ in range(20)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert runs == [1]


def test_a_check_that_hangs_is_told_within_the_time_limit_and_not_started_again() -> None:
    released = threading.Event()
    runs: list[int] = []

    def hang() -> None:
        runs.append(1)
        released.wait()

    port = serving(("storage", hang), limit_s=0.05)
    try:
        operator = Operator(port.port)
        for _ in range(3):
            reply = operator.ask("/readyz")
            assert reply.status == 503
            assert reply.json["checks"]["storage"]["reason"] == "no answer within 0.05 s"
        assert runs == [1]
        released.set()
        deadline = time.monotonic() + _FEW_SECONDS
        while operator.ask("/readyz").status != 200:
            assert time.monotonic() < deadline
    finally:
        released.set()
        port.stop()


def test_pages_that_hang_leave_a_bounded_number_of_threads() -> None:
    released = threading.Event()

    def hang(_: str) -> tuple[bytes, str]:
        released.wait()
        return b"", "text/plain"

    port = OperationsHttp("127.0.0.1", 0, Readiness({}, ()), hang)
    asked = [socket.create_connection(("127.0.0.1", port.port)) for _ in range(80)]
    try:
        for connection in asked:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        deadline = time.monotonic() + _FEW_SECONDS
        while not any(thread.name == "ops-http-call" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
        assert sum(thread.name == "ops-http-call" for thread in threading.enumerate()) <= 32
    finally:
        released.set()
        for connection in asked:
            connection.close()
        port.stop()


def test_a_failing_check_tells_reasons_meant_for_people_only() -> None:
    def refuse() -> None:
        raise StorageError("bucket 'primary' is away")

    def break_down() -> None:
        raise ZeroDivisionError("/secret/path")

    port = serving(("storage", refuse), ("engine", break_down))
    try:
        checks = Operator(port.port).ask("/readyz").json["checks"]
    finally:
        port.stop()
    assert checks["storage"]["reason"] == "[STORAGE_UNAVAILABLE] bucket 'primary' is away"
    assert checks["engine"]["reason"] == "the check failed; the server's log has the details"


def test_a_taken_port_is_an_error_that_names_the_setting(served: Served) -> None:
    with pytest.raises(ConfigError, match=r"ops\.http_port"):
        OperationsHttp("127.0.0.1", served.operator.port, served.readiness, lambda _: (b"", ""))
