"""Everything by which an operator sees a server from outside, put together from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from flight_server.logs import SlowStatementLog
from flight_server.metrics import Metrics
from flight_server.middleware.observation import TRACE_HEADERS, Observation
from flight_server.ops_http import OperationsHttp
from flight_server.readiness import Readiness
from lakehouse.engine.redaction import statement_text
from lakehouse.runtime import Lakehouse

if TYPE_CHECKING:
    from flight_server.health import HealthService
    from flight_server.middleware.tracing import TraceHeadersFactory, Tracing

log = structlog.get_logger(__name__)


class Operations:
    """Metrics, traces, health and the slow-statement log of one server, as far as they are switched on.

    It is built before the server that it observes, started once that answers, and stopped after it.

    Args:
        lakehouse: The domain, with its settings.

    Attributes:
        readiness: Whether the server can do its work.
        observation: What calls are to be reported to.
    """

    def __init__(self, lakehouse: Lakehouse) -> None:
        settings = lakehouse.settings
        self._settings = settings
        self.readiness = Readiness.of(lakehouse)
        self._metrics = Metrics(lakehouse, self.readiness) if settings.ops.http_port else None
        self._tracing: Tracing | None = None
        if settings.telemetry.traces != "off":
            from flight_server.middleware.tracing import Tracing  # noqa: PLC0415 - slow to import

            self._tracing = Tracing(settings.telemetry, lakehouse.clock.token())
        self.observation = Observation(self._metrics, self._tracing)
        self._http: OperationsHttp | None = None
        self._health: HealthService | None = None
        observers = lakehouse.engine.running.observers
        if self._metrics is not None:
            observers.append(self._metrics.statement)
            lakehouse.attempt_observers.append(self._attempted)
            for bucket in lakehouse.buckets.values():
                bucket.observers.append(self._metrics.storage)
        if settings.log.slow_statement_seconds:
            redact = settings.audit.redact_literals
            observers.append(
                SlowStatementLog(settings.log.slow_statement_seconds, lambda sql: statement_text(sql, redact))
            )

    def middleware(self) -> Mapping[str, TraceHeadersFactory]:
        """What the Flight server has to do with the headers of calls for this, by name."""
        if self._tracing is None:
            return {}
        from flight_server.middleware.tracing import TraceHeadersFactory  # noqa: PLC0415

        return {TRACE_HEADERS: TraceHeadersFactory()}

    def _attempted(self, _principal: str, _peer: str, method: str, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.authentication(method, outcome)

    def start(self) -> None:
        """Listen on the operator's ports.

        Raises:
            ConfigError: A port cannot be listened on.
        """
        ops = self._settings.ops
        try:
            if self._metrics is not None:
                self._http = OperationsHttp(ops.host, ops.http_port, self.readiness, self._metrics.exposition)
                log.info("metrics and probes", host=ops.host, port=self._http.port)
            if ops.health_port:
                from flight_server.health import HealthService  # noqa: PLC0415 - a second gRPC beside Arrow's

                self._health = HealthService(ops.host, ops.health_port, self.readiness)
                log.info("health service", host=ops.host, port=self._health.port)
        except BaseException:
            self.stop()
            raise

    def drain(self) -> None:
        """Tell whoever asks that the server takes no new work."""
        self.readiness.drain()
        if self._health is not None:
            self._health.refresh()

    def stop(self) -> None:
        """Stop listening, and send the spans that are left. Harmless when repeated."""
        http, self._http = self._http, None
        health, self._health = self._health, None
        tracing, self._tracing = self._tracing, None
        for part in (http, health):
            if part is not None:
                part.stop()
        if tracing is not None:
            tracing.close()
