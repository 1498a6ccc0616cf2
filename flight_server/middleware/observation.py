"""What is seen of a call from outside: its place in metrics, traces and log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from flight_server.logs import is_logged
from lakehouse import telemetry
from lakehouse.errors import ErrorKind, LakehouseError, LimitExceeded, StatementCancelled
from lakehouse.storage import rescue
from lakehouse.storage.rescue import RescueUse
from lakehouse.telemetry import UNTRACED, Span, call_fields

if TYPE_CHECKING:
    from flight_server.metrics import Metrics
    from flight_server.middleware.tracing import Tracing

log = structlog.get_logger(__name__)

R = TypeVar("R")

TRACE_HEADERS = "tracing"
"""Name of the middleware that keeps a call's trace headers."""
_OK = "OK"
_METHODS = {
    "get_flight_info": "GetFlightInfo",
    "get_schema": "GetSchema",
    "do_get": "DoGet",
    "do_put": "DoPut",
    "do_action": "DoAction",
    "do_exchange": "DoExchange",
    "list_actions": "ListActions",
    "list_flights": "ListFlights",
}
# Those in which nothing is ever changed.
_READS = frozenset({"GetSchema", "DoGet", "ListFlights"})
_REFUSED = (ErrorKind.UNAUTHENTICATED, ErrorKind.PERMISSION, ErrorKind.EXHAUSTED)


class Observation:
    """Watches calls for whoever was asked to: metrics, traces, both or, but for the log, neither.

    Args:
        metrics: Counts calls.
        tracing: Traces them.
    """

    def __init__(self, metrics: Metrics | None = None, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing

    def begin(self, handler: str, carrier: dict[str, str] | None = None) -> ObservedCall:
        """A call has come.

        Args:
            handler: The name of pyarrow's method, ``do_get``.
            carrier: The call's trace headers, if there are any.
        """
        method = _METHODS.get(handler, handler)
        span = UNTRACED if self._tracing is None else self._tracing.begin(method, carrier)
        return ObservedCall(method, span, self._metrics)


class ObservedCall:
    """One call, until its answer has been given in full.

    pyarrow enters Python anew for each batch of a stream, each time with empty context variables. So the
    call has a context of its own, and ``run`` executes each piece of it there.

    Attributes:
        span: The call's span.
        rescue: What it has read in the rescue bucket.
    """

    __slots__ = ("_begun_s", "_context", "_ended", "_fields", "_method", "_metrics", "rescue", "span")

    def __init__(self, method: str, span: Span, metrics: Metrics | None) -> None:
        self._begun_s = time.perf_counter()
        self._method = method
        self._metrics = metrics
        self._fields: dict[str, str] = {"rpc": method}
        self._ended = False
        self.span = span
        self.rescue = RescueUse(may_be_old=method in _READS)
        self._context: Context = copy_context()
        self._context.run(self._enter)

    def _enter(self) -> None:
        call_fields.set(self._fields)
        rescue.watch(self.rescue)
        if self.span is not UNTRACED:
            telemetry.make_current(self.span)

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Execute a piece of the call. Pieces do not nest."""
        return self._context.run(function, *arguments)

    def identify(self, request_id: str, session_id: str, principal: str, peer: str) -> None:
        """Tell who calls. The id of a session is public: it cannot be used to get into it."""
        self._fields |= {
            "request_id": request_id, "session": session_id, "principal": principal, "peer": peer,
        }  # fmt: skip
        if self.span is not UNTRACED:
            self.span.set({"request_id": request_id, "session": session_id, "principal": principal})

    def end(self, error: BaseException | None = None) -> None:
        """The answer has been given, or ``error`` instead. Harmless when repeated; the first end counts."""
        if self._ended:
            return
        self._ended = True
        seconds = time.perf_counter() - self._begun_s
        code = _OK if error is None else error.code if isinstance(error, LakehouseError) else "INTERNAL"
        self.span.end(error)
        if self._metrics is not None:
            self._metrics.rpc(self._method, code, seconds)
            if isinstance(error, LimitExceeded):
                self._metrics.refusal(error)
        if isinstance(error, LakehouseError) and error.kind in _REFUSED:
            log.warning(
                "call refused", **self._line(), code=code, reason=error.message, seconds=round(seconds, 6)
            )
        elif is_logged(logging.DEBUG):
            log.debug("call", **self._line(), code=code, seconds=round(seconds, 6))

    def abandon(self) -> None:
        """The client went away before it had the whole answer."""
        self.end(StatementCancelled("the client went away"))

    def _line(self) -> dict[str, str]:
        traced = self.span is not UNTRACED
        return self._fields | (
            {"trace_id": self.span.trace_id, "span_id": self.span.span_id} if traced else {}
        )
