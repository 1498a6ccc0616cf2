"""The gRPC health service, asked by grpcio's own client."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from flight_server.health import FLIGHT, HealthService
from flight_server.readiness import Readiness
from lakehouse.config import Settings
from lakehouse.errors import ConfigError
from lakehouse.runtime import Lakehouse

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
_SECONDS = 60


@dataclass
class Served:
    """A lakehouse whose health can be asked for."""

    service: HealthService
    stub: HealthStub
    readiness: Readiness
    bucket: Path

    def check(self, name: str = "") -> int:
        status: int = self.stub.Check(HealthCheckRequest(service=name), timeout=_SECONDS).status
        return status

    def watch(self, name: str = "") -> Iterator[int]:
        for reply in self.stub.Watch(HealthCheckRequest(service=name), timeout=_SECONDS):
            yield reply.status


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    bucket = tmp_path / "bucket"
    lakehouse = Lakehouse(Settings(buckets=[{"path": bucket}], catalog={"refresh_ms": 0}))
    readiness = Readiness.of(lakehouse, kept_s=0.0)
    service = HealthService("127.0.0.1", 0, readiness)
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield Served(service, HealthStub(channel), readiness, bucket)
    service.stop()
    lakehouse.close()


def test_every_service_of_a_healthy_server_serves(served: Served) -> None:
    statuses = served.stub.List(HealthListRequest(), timeout=_SECONDS).statuses
    assert {name: found.status for name, found in statuses.items()} == dict.fromkeys(
        ["", FLIGHT, "lakehouse.engine", "lakehouse.storage", "lakehouse.catalog"], SERVING
    )
    assert served.check() == served.check(FLIGHT) == served.check("lakehouse.storage") == SERVING


def test_lost_storage_is_told_for_storage_and_for_the_whole(served: Served) -> None:
    shutil.rmtree(served.bucket)
    assert served.check() == NOT_SERVING
    assert served.check(FLIGHT) == NOT_SERVING
    assert served.check("lakehouse.storage") == NOT_SERVING
    assert served.check("lakehouse.engine") == SERVING


def test_an_unknown_service_is_not_found_and_a_watch_of_it_says_so(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.check("made.up")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert list(served.watch("made.up")) == [HealthCheckResponse.SERVICE_UNKNOWN]


@pytest.mark.parametrize(
    ("name", "happening"),
    [
        ("", lambda served: served.readiness.drain()),
        (FLIGHT, lambda served: served.readiness.drain()),
        ("lakehouse.storage", lambda served: shutil.rmtree(served.bucket)),
    ],
)
def test_a_watch_is_told_of_a_change(served: Served, name: str, happening: Callable[[Served], None]) -> None:
    watch = served.watch(name)
    assert next(watch) == SERVING
    happening(served)
    assert next(watch) == NOT_SERVING


def test_a_draining_server_serves_no_flight_but_its_storage_is_well(served: Served) -> None:
    served.readiness.drain()
    served.service.refresh()
    assert served.check() == served.check(FLIGHT) == NOT_SERVING
    assert served.check("lakehouse.storage") == SERVING


def test_watches_are_told_before_the_service_stops(served: Served) -> None:
    watch = served.watch("lakehouse.engine")
    assert next(watch) == SERVING
    served.service.stop()
    assert next(watch) == NOT_SERVING


def test_many_watches_take_no_thread_each(served: Served) -> None:
    watches = [served.watch() for _ in range(50)]
    assert [next(watch) for watch in watches] == [SERVING] * 50
    assert served.check() == SERVING
    served.readiness.drain()
    assert [next(watch) for watch in watches] == [NOT_SERVING] * 50


def test_a_request_of_absurd_size_is_refused(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.check("x" * 100_000)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.check() == SERVING


def test_a_taken_port_is_an_error_that_names_the_setting(served: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"ops\.health_port"):
            HealthService("127.0.0.1", taken.getsockname()[1], served.readiness)
