"""Puts the server together: settings → lakehouse → dispatcher → listening server."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import NoReturn

import pyarrow.flight as flight
import structlog

from flight_server.actions.all import all_actions
from flight_server.dispatch import Dispatcher
from flight_server.exposure import check_exposure
from flight_server.handlers import (
    cancel,
    ingest,
    keys,
    metadata,
    prepared,
    session,
    sql_info,
    statement,
    transactions,
    xdbc,
)
from flight_server.operations import Operations
from flight_server.server import LakehouseFlightServer
from flight_server.tls import load_tls
from lakehouse.config import Settings
from lakehouse.errors import ConfigError
from lakehouse.runtime import Lakehouse

log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 5.0
_SIGNAL_SECONDS = 0.5
# Of <malloc.h>; how much that is free at the end of an arena glibc may keep; and the size from which it is to
# ask the system for a block, and to give it back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES, _LARGE_BLOCK_BYTES = 32 * 1024 * 1024, 4 * 1024 * 1024


def build_dispatcher() -> Dispatcher:
    """Every handler family, one line each."""
    queries = (statement, prepared, sql_info, xdbc, metadata, keys)
    uploads = (statement, prepared, ingest)
    actions = (prepared, transactions, cancel, session)
    return Dispatcher(
        queries={c: h for family in queries for c, h in family.query_handlers().items()},
        uploads={c: h for family in uploads for c, h in family.upload_handlers().items()},
        actions={c: h for family in actions for c, h in family.action_handlers().items()},
    )


class RunningServer:
    """A server that answers.

    Attributes:
        uri: Where it listens, as clients write it.
    """

    def __init__(self, lakehouse: Lakehouse, server: LakehouseFlightServer, operations: Operations) -> None:
        self._lakehouse = lakehouse
        self._operations = operations
        self._server = server
        self.port: int = server.port
        self.uri = _location(lakehouse.settings, server.port)
        self._stopped = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="session-sweep", daemon=True)
        self._sweeper.start()

    def _sweep(self) -> None:
        while not self._stopped.wait(_SWEEP_SECONDS):
            try:
                self._lakehouse.sessions.sweep()
            except Exception:
                log.exception("closing idle sessions failed")

    def stop(self, drain_seconds: float) -> None:
        """Take no new work, let running statements finish for so long, then interrupt them and close."""
        if self._stopped.is_set():
            return
        self._server.drain()
        self._operations.drain()
        running = self._lakehouse.engine.running
        waited = threading.Event()
        for _ in range(int(drain_seconds * 20)):
            if running.count() == 0:
                break
            waited.wait(0.05)
        self._stopped.set()
        running.cancel_all()
        # shutdown() waits for streams without limit, and a stalled client may never read on.
        closer = threading.Thread(target=self._server.shutdown, name="shutdown", daemon=True)
        closer.start()
        closer.join(timeout=max(1.0, drain_seconds))
        self._operations.stop()
        self._lakehouse.close()


def start(settings: Settings) -> RunningServer:
    """Start a server and return once it answers.

    Raises:
        ConfigError: The port is taken, the host cannot be listened on, the certificates will not do, or other
            machines could come in unprotected.
    """
    check_exposure(settings)
    tls = load_tls(settings, datetime.now(UTC))
    host, port = settings.server.host, settings.server.port
    if port:
        _check_free(host, port)
    lakehouse = Lakehouse(settings)
    location = _location(settings, port)
    try:
        operations = Operations(lakehouse)
        server = LakehouseFlightServer(
            location,
            lakehouse,
            build_dispatcher(),
            all_actions(),
            operations.observation,
            operations.middleware(),
            tls,
        )
    except (OSError, flight.FlightError) as error:
        lakehouse.close()
        raise ConfigError(f"cannot listen on {host}:{port}", "choose another with --port") from error
    running = RunningServer(lakehouse, server, operations)
    try:
        lakehouse.maintenance.start()
        lakehouse.recovery.start()
        operations.start()
    except BaseException:
        running.stop(0)
        raise
    return running


def _location(settings: Settings, port: int) -> str:
    host = settings.server.host
    scheme = "grpc+tls" if settings.server.tls.is_enabled else "grpc"
    return f"{scheme}://{'[' + host + ']' if ':' in host else host}:{port}"


def _check_free(host: str, port: int) -> None:
    """GRPC would share a taken port silently (SO_REUSEPORT), so ask before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} is in use or not allowed", "choose another with --port or server.port"
            ) from error


def serve(settings: Settings, *, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Returns:
        The exit status: 0 after a clean stop.
    """
    _keep_memory_warm()
    # Unlike an event's, its lock cannot be held by what the handler interrupts.
    asked: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.put(received))
    server = start(settings)
    ready(server.uri)
    while True:
        # A signal that comes just before the wait begins does not end it: its handler runs afterwards.
        with suppress(Empty):
            asked.get(timeout=_SIGNAL_SECONDS)
            break
    log.info("draining", seconds=settings.server.drain_seconds)
    server.stop(settings.server.drain_seconds)
    log.info("stopped")
    return 0


def _keep_memory_warm() -> None:
    """Have glibc give large blocks back to the system when they are freed, and only those; glibc only.

    It would soon keep large ones for each of its arenas: parts of objects, of 8 and 10 MiB, made the server
    grow by hundreds of megabytes. Of all others it would keep next to nothing: what gRPC receives into was
    taken from the system and given back with every message, which took a quarter of the processor time of an
    upload. Threads of gRPC take turns in receiving, each with an arena of its own: no more than processors.
    """
    with suppress(OSError, AttributeError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        glibc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        glibc.mallopt(_M_ARENA_MAX, max(2, os.cpu_count() or 1))


def leave(status: int) -> NoReturn:
    """End the process at once with everything flushed.

    DuckDB's binding prints leak warnings from the interpreter's own tear-down, which no operator can act on.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
