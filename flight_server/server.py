"""The pyarrow Flight server: every RPC decodes, dispatches and encodes, nothing else."""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as flight

from flight_server.actions.registry import ActionRegistry
from flight_server.context import CallContext, CallLimits
from flight_server.dispatch import DataStream, Dispatcher, FlightPlan, Upload
from flight_server.errors import wire_errors
from flight_server.handlers import flights
from flight_server.middleware.session import SessionMiddleware, SessionMiddlewareFactory
from flight_server.protocol.codec import PROTOCOL_ACTIONS, decode_action, decode_command
from lakehouse.engine.session import Session
from lakehouse.errors import InvalidRequest, NotSupported, ShuttingDown, UnknownAction
from lakehouse.runtime import Lakehouse

F = TypeVar("F", bound=Callable[..., Any])


def _rpc(method: F) -> F:
    """Map errors and count the call while it is being answered."""

    @functools.wraps(method)
    def wrapper(self: LakehouseFlightServer, context: flight.ServerCallContext, *args: Any) -> Any:
        with wire_errors(method.__name__):
            return method(self, context, *args)

    return wrapper  # type: ignore[return-value]


class _NoHandshake(flight.ServerAuthHandler):
    """Lets clients that insist on a handshake through; who they are is told by the headers."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Accept."""

    def is_valid(self, token: bytes) -> bytes:
        """Accept."""
        return b""


class LakehouseFlightServer(flight.FlightServerBase):
    """One Flight endpoint over one lakehouse.

    Args:
        location: URI to listen on; port 0 takes a free one.
        lakehouse: The domain.
        dispatcher: Typed command → handler.
        actions: The custom actions.
    """

    def __init__(
        self, location: str, lakehouse: Lakehouse, dispatcher: Dispatcher, actions: ActionRegistry
    ) -> None:
        # The server answers during super().__init__(), so everything must be in place before it.
        self._lakehouse = lakehouse
        self._dispatcher = dispatcher
        self._actions = actions
        self._draining = threading.Event()
        timeout = lakehouse.settings.limits.statement_timeout_seconds
        self._limits = CallLimits(statement_timeout_s=timeout or None)
        sessions = SessionMiddlewareFactory(lakehouse.sessions.known)
        super().__init__(location, auth_handler=_NoHandshake(), middleware={"session": sessions})

    def drain(self) -> None:
        """Take no new work from now on."""
        self._draining.set()

    # -- RPCs ---------------------------------------------------------------------------------------

    @_rpc
    def get_flight_info(
        self, context: flight.ServerCallContext, descriptor: flight.FlightDescriptor
    ) -> flight.FlightInfo:
        """GetFlightInfo."""
        ctx = self._context(context)
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            plan = flights.info(ctx, _path(descriptor))
        else:
            plan = self._dispatcher.info(ctx, decode_command(descriptor.command), descriptor.command)
        return _flight_info(plan, descriptor)

    @_rpc
    def get_schema(
        self, context: flight.ServerCallContext, descriptor: flight.FlightDescriptor
    ) -> flight.SchemaResult:
        """GetSchema."""
        ctx = self._context(context)
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            return flight.SchemaResult(flights.schema(ctx, _path(descriptor)))
        return flight.SchemaResult(self._dispatcher.schema(ctx, decode_command(descriptor.command)))

    @_rpc
    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.FlightDataStream:
        """DoGet."""
        ctx = self._context(context)
        if flights.is_path_ticket(ticket.ticket):
            result = flights.stream(ctx, flights.decode_ticket(ticket.ticket))
        else:
            result = self._dispatcher.stream(ctx, decode_command(ticket.ticket))
        return flight.GeneratorStream(result.schema, _Outgoing(result))

    @_rpc
    def do_put(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """DoPut."""
        ctx = self._context(context)
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            raise NotSupported("DoPut takes Flight SQL commands", "load tables with CommandStatementIngest")

        def reply(metadata: bytes) -> None:
            writer.write(pa.py_buffer(metadata))

        self._dispatcher.put(
            ctx, decode_command(descriptor.command), Upload(_schema(reader), _incoming(ctx, reader), reply)
        )

    @_rpc
    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[flight.Result]:
        """DoAction."""
        ctx = self._context(context)
        body = action.body.to_pybytes() if action.body is not None else b""
        command = decode_action(action.type, body)
        if command is not None:
            results = self._dispatcher.action(ctx, command)
        else:
            spec = self._actions.get(action.type)
            if spec is None:
                raise UnknownAction(f"no action is called {action.type}", "list_actions gives all of them")
            results = self._actions.run(ctx, spec, body)
        return _results(results)

    @_rpc
    def list_actions(self, context: flight.ServerCallContext) -> list[flight.ActionType]:
        """ListActions."""
        own = [flight.ActionType(spec.name, spec.summary) for spec in self._actions]
        return [*(flight.ActionType(name, text) for name, text in PROTOCOL_ACTIONS), *own]

    @_rpc
    def list_flights(self, context: flight.ServerCallContext, criteria: bytes) -> Iterator[flight.FlightInfo]:
        """ListFlights."""
        ctx = self._context(context)
        return iter(
            [
                _flight_info(found.plan, flight.FlightDescriptor.for_path(*found.path))
                for found in flights.listing(ctx, criteria or b"")
            ]
        )

    @_rpc
    def do_exchange(self, context: flight.ServerCallContext, *_: Any) -> None:
        """DoExchange is not offered."""
        raise NotSupported("DoExchange is not supported")

    # -- plumbing -----------------------------------------------------------------------------------

    def _context(self, context: flight.ServerCallContext) -> CallContext:
        if self._draining.is_set():
            raise ShuttingDown("the server is shutting down", "connect again in a moment")
        return CallContext(
            self._lakehouse,
            self._session(context),
            limits=self._limits,
            request_id=uuid.uuid4().hex,
            cancelled=context.is_cancelled,
        )

    def _session(self, context: flight.ServerCallContext) -> Session:
        middleware: SessionMiddleware = context.get_middleware("session")
        sessions = self._lakehouse.sessions
        if middleware.presented:
            return sessions.get(middleware.presented)
        session = sessions.get("peer:" + context.peer())
        sessions.alias(middleware.offered, session)
        return session


class _Outgoing:
    """The batches of a result, with every error as a wire error; dropping it releases the result."""

    def __init__(self, result: DataStream) -> None:
        self._batches = result.batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self._batches)
        except StopIteration:
            raise
        except Exception as error:
            with wire_errors("do_get"):
                raise error  # noqa: TRY201 - inside the mapping
            raise

    def __del__(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def _schema(reader: flight.MetadataRecordBatchReader) -> pa.Schema:
    """The schema of an upload; without columns where a client (Go) sends a command and nothing after it."""
    try:
        return reader.schema
    except OSError as error:
        if "never sent a data message" not in str(error):
            raise
        return pa.schema([])


def _incoming(ctx: CallContext, reader: flight.MetadataRecordBatchReader) -> Iterable[pa.RecordBatch]:
    for chunk in reader:
        ctx.check_cancelled()
        if chunk.data is not None:
            yield chunk.data


def _results(bodies: Iterator[bytes]) -> Iterator[flight.Result]:
    """Results of an action; the first is computed at once, so that an error arrives as an error."""
    missing = object()
    first = next(bodies, missing)

    def rest() -> Iterator[flight.Result]:
        with wire_errors("do_action"):
            if first is not missing:
                yield flight.Result(pa.py_buffer(first))
            for body in bodies:
                yield flight.Result(pa.py_buffer(body))

    return rest()


def _path(descriptor: flight.FlightDescriptor) -> tuple[str, ...]:
    try:
        return tuple(part.decode() for part in descriptor.path)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the path of a dataset is text in UTF-8") from error


def _flight_info(plan: FlightPlan, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
    endpoints = [
        flight.FlightEndpoint(
            flight.Ticket(e.ticket),
            [],
            expiration_time=None
            if e.expiration is None
            else pa.scalar(e.expiration, pa.timestamp("ns", "UTC")),
            app_metadata=e.app_metadata,
        )
        for e in plan.endpoints
    ]
    return flight.FlightInfo(
        plan.schema,
        descriptor,
        endpoints,
        plan.total_records,
        plan.total_bytes,
        ordered=plan.ordered,
        app_metadata=plan.app_metadata,
    )
