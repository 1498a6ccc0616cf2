"""A collector of OpenTelemetry spans (OTLP over HTTP) for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass
class CollectedSpan:
    """One span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    failed: bool
    is_server: bool
    resource: dict[str, Any]


@dataclass
class Collector:
    """What has arrived so far."""

    url: str = ""
    spans: list[CollectedSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Decode one request."""
        self.raw.append(body)
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(part.resource.attributes)
            self.spans.extend(_span(span, resource) for scope in part.scope_spans for span in scope.spans)

    def calls(self, method: str) -> list[CollectedSpan]:
        """The spans of calls of a method, in the order in which they began."""
        found = [span for span in self.spans if span.is_server and span.attributes["rpc.method"] == method]
        return sorted(found, key=lambda span: span.start_ns)

    def parts(self, span: CollectedSpan) -> list[CollectedSpan]:
        """The spans directly under one."""
        found = [part for part in self.spans if part.parent_id == span.span_id]
        return sorted(found, key=lambda part: part.start_ns)

    def below(self, span: CollectedSpan) -> list[CollectedSpan]:
        """The spans under one, however deep."""
        return [found for part in self.parts(span) for found in (part, *self.below(part))]


def _span(span: Span, resource: dict[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code == Status.STATUS_CODE_ERROR,
        span.kind == Span.SPAN_KIND_SERVER,
        resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens while the block runs."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            body = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{listener.server_address[1]}/v1/traces"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
