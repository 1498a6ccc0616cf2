"""OpenTelemetry traces: a span for each call, under the client's own where its headers name one.

pyarrow's ``TracingServerMiddlewareFactory`` gives nothing here: it hands over what Arrow's C++ part traces,
which wheels are built without. So ``traceparent`` and ``tracestate`` (W3C Trace Context) are read from the
headers as they come. Importing this module takes a quarter of a second, so only who traces does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping

import pyarrow.flight as flight
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flight_server import __version__
from lakehouse.config import TelemetrySettings
from lakehouse.errors import LakehouseError
from lakehouse.telemetry import Attribute, Span

_SERVICE = "arrow.flight.protocol.FlightService"
_PROPAGATED = ("traceparent", "tracestate")
_EXPORT_SECONDS = 5
_FLUSH_SECONDS = 5
_PREFIX = "lakehouse."


class TraceHeaders(flight.ServerMiddleware):
    """What one call's headers say about the trace that it is part of.

    Attributes:
        carrier: The headers of W3C Trace Context that came.
    """

    def __init__(self, carrier: dict[str, str]) -> None:
        super().__init__()
        self.carrier = carrier


class TraceHeadersFactory(flight.ServerMiddlewareFactory):
    """Keeps the trace headers of every call for its handler."""

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> TraceHeaders | None:
        """Note them; most calls have none."""
        carrier = {
            key.lower(): values[0]
            for key, values in headers.items()
            if key.lower() in _PROPAGATED and values and isinstance(values[0], str)
        }
        return TraceHeaders(carrier) if carrier else None


class Tracing:
    """Traces calls and sends their spans where the settings say, from a thread of its own.

    A collector that is away, slow or wrong costs spans, never a call.

    Args:
        settings: The section ``telemetry``; ``traces`` must not be ``off``.
        instance: Tells this server apart from others of its kind.
        exporter: Where spans go instead of where the settings say.
    """

    def __init__(
        self, settings: TelemetrySettings, instance: str, exporter: SpanExporter | None = None
    ) -> None:
        resource = Resource.create(
            {
                "service.name": "lakehouse",
                "service.version": __version__,
                "service.instance.id": instance,
            }
        )
        self._provider = TracerProvider(
            ParentBasedTraceIdRatio(settings.sample_ratio), resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(settings)))
        self._tracer = self._provider.get_tracer("lakehouse", __version__)
        self._extract = TraceContextTextMapPropagator().extract

    def begin(self, method: str, carrier: Mapping[str, str] | None) -> Span:
        """The span of a call.

        Args:
            method: As the protocol spells it, ``DoGet``.
            carrier: The call's trace headers.
        """
        span = self._tracer.start_span(
            f"{_SERVICE}/{method}",
            context=self._extract(carrier or {}, Context()),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": _SERVICE, "rpc.method": method},
        )
        return _Recorded(self._tracer, span) if span.is_recording() else _Unsampled(span)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        # The provider itself waits for half a minute where the collector does not answer.
        closer = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        closer.start()
        closer.join(timeout=_FLUSH_SECONDS)


class _Recorded:
    """A span that is kept."""

    __slots__ = ("_ended", "_span", "_tracer", "span_id", "trace_id")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._ended = False
        self.trace_id, self.span_id = _identifiers(span)

    def child(self, name: str, attributes: Mapping[str, Attribute]) -> Span:
        parent = trace.set_span_in_context(self._span, Context())
        child = self._tracer.start_span(name, context=parent, attributes=_named(attributes))
        return _Recorded(self._tracer, child)

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        if not self._ended:
            self._span.set_attributes(_named(attributes))

    def end(self, error: BaseException | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        if error is not None:
            # The code only: messages can repeat what a statement says.
            code = error.code if isinstance(error, LakehouseError) else type(error).__name__
            self._span.set_attribute("error.type", code)
            self._span.set_status(trace.StatusCode.ERROR, code)
        self._span.end()


class _Unsampled:
    """Stands for a call that is not kept: it has an identity for the log, and no parts."""

    __slots__ = ("span_id", "trace_id")

    def __init__(self, span: trace.Span) -> None:
        self.trace_id, self.span_id = _identifiers(span)

    def child(self, name: str, attributes: Mapping[str, Attribute]) -> Span:
        return self

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Attributes under names of OpenTelemetry's conventions, or else under this server's prefix."""
    return {key if "." in key else _PREFIX + key: value for key, value in attributes.items()}


def _identifiers(span: trace.Span) -> tuple[str, str]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _exporter(settings: TelemetrySettings) -> SpanExporter:
    if settings.traces == "stdout":
        return ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n")
    return OTLPSpanExporter(endpoint=settings.otlp_endpoint, timeout=_EXPORT_SECONDS)
