"""A real server seen from its operator's ports, from start to stop."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from conftest import ROOT, Server, start_server
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from ports import free_ports
from wire import command, query

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
FLIGHT = "arrow.flight.protocol.FlightService"
_SECONDS = 60


@dataclass
class Operated:
    """A server and its operator's ports."""

    server: Server
    http_port: int
    health_port: int

    def get(self, path: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=_SECONDS)) as asked:
            asked.request("GET", path)
            reply = asked.getresponse()
            return reply.status, reply.read().decode()

    def value(self, series: str) -> float:
        """The value of one series, 0 where it has none yet."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    @contextmanager
    def health(self) -> Iterator[HealthStub]:
        with grpc.insecure_channel(f"127.0.0.1:{self.health_port}") as channel:
            yield HealthStub(channel)


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Operated]:
    http_port, health_port = free_ports(2)
    config = f"[ops]\nhttp_port = {http_port}\nhealth_port = {health_port}\n[server]\ndrain_seconds = 60"
    server = start_server(tmp_path / "server", config)
    yield Operated(server, http_port, health_port)
    server.kill()


def test_statements_calls_and_storage_are_counted_while_they_happen(operated: Operated) -> None:
    finished = 'lakehouse_statements_total{code="OK",kind="query",state="finished"}'
    fetched = 'lakehouse_rpcs_total{code="OK",method="DoGet"}'
    with operated.server.client() as client:
        for _ in range(3):
            query(client, "SELECT 1")
        assert operated.value(finished) == 3
        assert operated.value(fetched) == 3
        assert operated.value('lakehouse_statement_rows_total{kind="query"}') == 3
        assert operated.value('lakehouse_rpc_duration_seconds_count{method="GetFlightInfo"}') == 3
        info = client.get_flight_info(command("CommandStatementQuery", query="FROM range(100000000)"))
        assert operated.value("lakehouse_statements_planned") == 1
        reader = client.do_get(info.endpoints[0].ticket)
        reader.read_chunk()
        assert operated.value("lakehouse_statements_running") == 1
        reader.cancel()
    assert operated.value("lakehouse_sessions") >= 1
    assert operated.value('lakehouse_storage_operations_total{operation="list",outcome="ok"}') > 0


def test_lost_storage_is_told_by_every_port_while_the_process_lives(operated: Operated) -> None:
    with operated.health() as stub:
        watch = stub.Watch(HealthCheckRequest(service="lakehouse.storage"), timeout=_SECONDS)
        assert next(watch).status == SERVING
        assert operated.get("/readyz")[0] == 200
        # In one step: nothing that is written meanwhile is in the way.
        (operated.server.directory / "bucket").rename(operated.server.directory / "away")
        assert next(watch).status == NOT_SERVING
        assert stub.Check(HealthCheckRequest(), timeout=_SECONDS).status == NOT_SERVING
    status, body = operated.get("/readyz")
    assert (status, json.loads(body)["checks"]["storage"]["ok"]) == (503, False)
    assert operated.value('lakehouse_healthy{check="storage"}') == 0
    assert operated.get("/livez")[0] == 200


def test_a_server_that_drains_says_so_until_its_last_stream_has_ended(operated: Operated) -> None:
    server = operated.server
    with server.client() as client, operated.health() as stub:
        info = client.get_flight_info(command("CommandStatementQuery", query="FROM range(30000000)"))
        reader = client.do_get(info.endpoints[0].ticket)
        rows = reader.read_chunk().data.num_rows
        watch = stub.Watch(HealthCheckRequest(service=FLIGHT), timeout=_SECONDS)
        assert next(watch).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        status, body = operated.get("/readyz")
        assert status == 503
        assert not json.loads(body)["checks"]["draining"]["ok"]
        assert json.loads(body)["checks"]["storage"]["ok"]
        assert operated.get("/livez")[0] == 200
        assert operated.value("lakehouse_draining") == 1
        rows += sum(chunk.data.num_rows for chunk in reader)
    assert rows == 30_000_000
    assert server.process.wait(timeout=_SECONDS) == 0


def test_nothing_but_flight_is_listened_on_unless_asked_for(server: Server) -> None:
    names = [json.loads(line).get("event") for line in server.log if line.startswith("{")]
    assert "health service" not in names
    assert "metrics and probes" not in names


@pytest.mark.parametrize("setting", ["http_port", "health_port"])
def test_a_taken_operators_port_stops_the_start_with_one_line(tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = tmp_path / "lakehouse.toml"
        file.write_text(f'[[buckets]]\npath = "bucket"\n[ops]\n{setting} = {taken.getsockname()[1]}\n')
        serve = [sys.executable, "-m", "flight_server", "serve", "--config", str(file), "--port", "0"]
        ended = subprocess.run(serve, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 1
    assert f"ops.{setting}" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
