"""The gRPC health service (grpc.health.v1), on a port of its own: pyarrow's server takes no other service."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from flight_server.readiness import Readiness
from lakehouse.errors import ConfigError

log = structlog.get_logger(__name__)

FLIGHT = "arrow.flight.protocol.FlightService"
_OWN = "lakehouse."
_POLL_SECONDS = 2.0
_THREADS = 8
_MAX_CALLS = 100
_MAX_REQUEST_BYTES = 4096


class HealthService:
    """Answers Check, List and Watch until it is stopped.

    Known are ``""`` and the Flight service, which serve while everything is well and the server is not
    draining, and one service for each check: ``lakehouse.storage`` and so on.

    Args:
        host: Name or address to listen on.
        port: TCP port; 0 takes a free one.
        readiness: What is told.

    Attributes:
        port: The port that it listens on.

    Raises:
        ConfigError: The port cannot be listened on.
    """

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self._servicer = _Servicer(readiness)
        self._servicer.refresh()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="health")
        self._server = grpc.server(
            self._threads,
            maximum_concurrent_rpcs=_MAX_CALLS,
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
            ),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            self.port: int = self._server.add_insecure_port(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            )
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} for the health service", "choose another ops.health_port"
            ) from error
        self._server.start()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="health-poll", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS):
            try:
                self._servicer.refresh()
            except Exception:
                log.exception("looking at the server's health failed")

    def refresh(self) -> None:
        """Tell what has changed now rather than at the next look."""
        self._servicer.refresh()

    def stop(self) -> None:
        """Tell that nothing serves any more, and stop."""
        self._stopped.set()
        self._servicer.enter_graceful_shutdown()
        self._server.stop(grace=1.0).wait(timeout=5)
        self._threads.shutdown(wait=False)
        self._thread.join(timeout=5)


class _Watcher:
    """One Watch: it is told the status now and whenever that has changed, each once and in order."""

    def __init__(self, send: Callable[[Any], None], status: Callable[[], int]) -> None:
        self._send = send
        self._status = status
        self._told: int | None = None
        self._telling = threading.Lock()

    def tell(self) -> None:
        """Send the status, if it is another than the last that was sent."""
        with self._telling:
            status = self._status()
            if status != self._told:
                self._told = status
                self._send(health_pb2.HealthCheckResponse(status=status))


class _Servicer(health.HealthServicer):
    """grpcio's own servicer, with statuses that follow the findings.

    Watches are kept here: grpcio holds one lock both while it sends to watchers and when a call has ended. A
    send waits for the thread that tells of ended calls, so both can wait for each other for ever.
    """

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness
        self._known: dict[str, int] = {"": health_pb2.HealthCheckResponse.SERVING}
        self._refreshing = threading.Lock()
        self._watching = threading.Lock()
        self._watchers: dict[_Watcher, str] = {}

    def refresh(self) -> None:
        """Look, and tell watchers what has changed."""
        with self._refreshing:
            findings = self._readiness.findings()
            well = all(found.ok for found in findings)
            status = {"": well, FLIGHT: well}
            status |= {
                f"{_OWN}{found.name}": found.ok for found in findings if found.name in self._readiness.names
            }
            self._become(
                {
                    service: health_pb2.HealthCheckResponse.SERVING
                    if serves
                    else health_pb2.HealthCheckResponse.NOT_SERVING
                    for service, serves in status.items()
                }
            )

    def enter_graceful_shutdown(self) -> None:
        """Nothing serves any more, and nothing will."""
        super().enter_graceful_shutdown()
        self._become(dict.fromkeys(self._known, health_pb2.HealthCheckResponse.NOT_SERVING))

    def _become(self, statuses: dict[str, int]) -> None:
        changed = {service for service, status in statuses.items() if self._known.get(service) != status}
        self._known |= statuses
        for service in changed:
            self.set(service, statuses[service])
        with self._watching:
            told = [watcher for watcher, service in self._watchers.items() if service in changed]
        for watcher in told:
            watcher.tell()

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's name
        """The status of one service now."""
        self.refresh()
        return super().Check(request, context)

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """The status of every service now."""
        self.refresh()
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._known.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    def Watch(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None
    ) -> Any:
        """The status of one service, now and whenever it changes."""
        service = request.service
        if service not in self._known:
            # Services do not come into being later.
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            send_response_callback(health_pb2.HealthCheckResponse(status=unknown))
            send_response_callback(None)
            return
        watcher = _Watcher(send_response_callback, lambda: self._known[service])
        with self._watching:
            self._watchers[watcher] = service
        if not context.add_callback(lambda: self._forget(watcher)):
            self._forget(watcher)
        watcher.tell()

    def _forget(self, watcher: _Watcher) -> None:
        with self._watching:
            self._watchers.pop(watcher, None)
