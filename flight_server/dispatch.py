"""Typed command → handler. Knows neither pyarrow.flight nor gRPC, so another transport fits under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from flight_server.context import CallContext
from lakehouse.errors import NotSupported


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One piece of a result that can be fetched by itself, on the connection already open.

    ``records`` and ``bytes`` are -1 where unknown.
    """

    ticket: bytes
    expiration: datetime | None = None
    app_metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class FlightPlan:
    """How a result can be fetched: the answer to GetFlightInfo, free of any transport."""

    schema: pa.Schema
    endpoints: tuple[Endpoint, ...]
    total_records: int = -1
    total_bytes: int = -1
    ordered: bool = False
    app_metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class DataStream:
    """A result on its way: closing ``batches`` (a generator) releases whatever it holds.

    ``trailer`` gives what is told with an empty batch after the last one.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    trailer: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """Record batches that a client sends, and a way to answer while they arrive.

    ``notes`` are the metadata of the messages up to the batch that came last.
    """

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    reply: Callable[[bytes], None]
    notes: list[bytes] = field(default_factory=list)


class QueryHandler(Protocol):
    """Answers commands that give rows. One object yields both schema and stream of a command."""

    def info(self, ctx: CallContext, command: Any, descriptor: bytes) -> FlightPlan:
        """How to fetch the result; ``descriptor`` is the command as it came."""
        ...

    def schema(self, ctx: CallContext, command: Any) -> pa.Schema:
        """The schema of the result."""
        ...

    def stream(self, ctx: CallContext, command: Any) -> DataStream:
        """The result itself."""
        ...


class UploadHandler(Protocol):
    """Answers commands that take rows (DoPut)."""

    def put(self, ctx: CallContext, command: Any, upload: Upload) -> None:
        """Take the rows and reply."""
        ...


ActionHandler = Callable[[CallContext, Any], Iterator[bytes]]


@dataclass(frozen=True)
class Dispatcher:
    """Maps the type of a command to the handler of its family."""

    queries: Mapping[type, QueryHandler] = field(default_factory=dict)
    uploads: Mapping[type, UploadHandler] = field(default_factory=dict)
    actions: Mapping[type, ActionHandler] = field(default_factory=dict)

    def info(self, ctx: CallContext, command: object, descriptor: bytes) -> FlightPlan:
        """Answer GetFlightInfo."""
        return self._query(command, "GetFlightInfo").info(ctx, command, descriptor)

    def schema(self, ctx: CallContext, command: object) -> pa.Schema:
        """Answer GetSchema."""
        return self._query(command, "GetSchema").schema(ctx, command)

    def stream(self, ctx: CallContext, command: object) -> DataStream:
        """Answer DoGet."""
        return self._query(command, "DoGet").stream(ctx, command)

    def put(self, ctx: CallContext, command: object, upload: Upload) -> None:
        """Answer DoPut."""
        handler = self.uploads.get(type(command))
        if handler is None:
            raise NotSupported(f"{type(command).__name__} cannot be sent with DoPut")
        handler.put(ctx, command, upload)

    def action(self, ctx: CallContext, command: object) -> Iterator[bytes]:
        """Answer a protocol action (DoAction)."""
        handler = self.actions.get(type(command))
        if handler is None:
            raise NotSupported(f"{type(command).__name__} is not supported by this server")
        return handler(ctx, command)

    def _query(self, command: object, rpc: str) -> QueryHandler:
        handler = self.queries.get(type(command))
        if handler is None:
            raise NotSupported(f"{type(command).__name__} cannot be used with {rpc}")
        return handler
