"""The HTTP port of the operator: /metrics, /livez, /readyz. It only reads and holds little for strangers."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

import structlog

from flight_server.readiness import Finding, Readiness
from lakehouse.errors import ConfigError

log = structlog.get_logger(__name__)

_MAX_CONNECTIONS = 16
_MAX_THREADS = 32
_CONNECTION_SECONDS = 15.0
_READ_SECONDS = 5.0
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"

Exposition = Callable[[str], tuple[bytes, str]]
"""Gives the metrics for an ``Accept`` header: the body and its media type."""


class OperationsHttp:
    """Serves the operator's pages from threads of its own until it is stopped.

    Args:
        host: Name or address to listen on.
        port: TCP port; 0 takes a free one.
        readiness: What /livez and /readyz tell.
        exposition: What /metrics tells.

    Attributes:
        port: The port that it listens on.

    Raises:
        ConfigError: The port cannot be listened on.
    """

    def __init__(self, host: str, port: int, readiness: Readiness, exposition: Exposition) -> None:
        try:
            self._server = _Server(host, port, readiness, exposition)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} for /metrics", "choose another ops.http_port"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.25}, name="ops-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and drop what is connected."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(socketserver.TCPServer):
    """One thread a connection, one request a connection, few connections, each for a short time.

    When all are taken, the connection that has been dawdling longest over its request gives way, so that a
    client that sends its request byte by byte keeps nobody out.
    """

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, readiness: Readiness, exposition: Exposition) -> None:
        self.readiness = readiness
        self.exposition = exposition
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}
        self._answering: set[socket.socket] = set()
        self._threads = 0
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._since) >= _MAX_CONNECTIONS and not self._drop_slowest()
            if full or self._threads >= _MAX_THREADS:
                self.shutdown_request(request)
                return
            self._since[request] = time.monotonic()
            self._threads += 1
        threading.Thread(
            target=self._answer, args=(request, client_address), name="ops-http-call", daemon=True
        ).start()

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone, or was dropped
        except Exception:
            log.exception("operations request failed")
        finally:
            with self._lock:
                self._threads -= 1
                self._since.pop(request, None)
                self._answering.discard(request)
            self.shutdown_request(request)

    def begin_answer(self, request: socket.socket) -> None:
        """The request has been read: from now on it is this server's turn."""
        with self._lock:
            self._answering.add(request)

    def _drop_slowest(self) -> bool:
        slowest = next((found for found in self._since if found not in self._answering), None)
        if slowest is None:
            return False
        self._drop(slowest)
        return True

    def _drop(self, connection: socket.socket) -> None:
        self._since.pop(connection, None)
        try:
            connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        except OSError:
            return

    def service_actions(self) -> None:
        """Called several times a second: drop what takes too long."""
        latest = time.monotonic() - _CONNECTION_SECONDS
        with self._lock:
            for connection in [found for found, since in self._since.items() if since < latest]:
                self._drop(connection)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            for connection in list(self._since):
                self._drop(connection)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    server_version = "lakehouse"
    sys_version = ""
    timeout = _READ_SECONDS

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        self.server.begin_answer(self.connection)
        path = self.path.partition("?")[0]
        try:
            status, body, kind = self._page(path)
        except Exception:
            log.exception("operations request failed", path=path[:100])
            status, body, kind = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                b"the server's log has the details\n",
                _TEXT,
            )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _page(self, path: str) -> tuple[HTTPStatus, bytes, str]:
        if path == "/metrics":
            body, kind = self.server.exposition(self.headers.get("Accept", ""))
            return HTTPStatus.OK, body, kind
        if path == "/livez":
            return _report("alive", self.server.readiness.alive())
        if path == "/readyz":
            return _report("ready", self.server.readiness.findings())
        return HTTPStatus.NOT_FOUND, b"there is /metrics, /livez and /readyz\n", _TEXT

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse in one line; nothing of the request is repeated."""
        body = f"{code} {HTTPStatus(code).phrase}\n".encode()
        self.send_response(code)
        self.send_header("Content-Type", _TEXT)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Scrapes and probes come every few seconds: nothing to note."""


def _report(word: str, findings: list[Finding]) -> tuple[HTTPStatus, bytes, str]:
    well = all(finding.ok for finding in findings)
    checks = {
        found.name: {
            "ok": found.ok,
            **({} if found.ok else {"reason": found.reason}),
            "seconds": round(found.seconds, 6),
        }
        for found in findings
    }
    body = json.dumps({word: well, "checks": checks}, indent=2).encode() + b"\n"
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, body, _JSON
