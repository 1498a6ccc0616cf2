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
from flight_server.middleware.authentication import AuthenticationMiddleware, AuthenticationMiddlewareFactory
from flight_server.protocol.codec import PROTOCOL_ACTIONS, decode_action, decode_command
from flight_server.tls import TlsIdentity
from lakehouse.engine.session import Session
from lakehouse.errors import InvalidRequest, NotSupported, ShuttingDown, UnknownAction
from lakehouse.runtime import Lakehouse

F = TypeVar("F", bound=Callable[..., Any])


class _Call:
    """One RPC's cancellation flag, safe to ask for at any time.

    pyarrow's context points to memory that is gone once the RPC has ended, so it is let go of first; a
    statement that outlives its call for whatever reason then finds itself cancelled.
    """

    def __init__(self, context: flight.ServerCallContext) -> None:
        self._lock = threading.Lock()
        self._context: flight.ServerCallContext | None = context
        self.kept = False

    def cancelled(self) -> bool:
        """Whether the client has gone, or the call has ended."""
        with self._lock:
            return self._context is None or self._context.is_cancelled()

    def end(self) -> None:
        """Let go of the context. Harmless when repeated."""
        with self._lock:
            self._context = None


def _rpc(method: F) -> F:
    """Map errors, give the method its context, and end the call with it unless a stream keeps it open."""

    @functools.wraps(method)
    def wrapper(self: LakehouseFlightServer, context: flight.ServerCallContext, *args: Any) -> Any:
        call = _Call(context)
        try:
            with wire_errors(method.__name__):
                return method(self, self._context(context, call), call, *args)
        except BaseException:
            call.kept = False
            raise
        finally:
            if not call.kept:
                call.end()

    return wrapper  # type: ignore[return-value]


class LakehouseFlightServer(flight.FlightServerBase):
    """One Flight endpoint over one lakehouse.

    Args:
        location: URI to listen on; port 0 takes a free one.
        lakehouse: The domain.
        dispatcher: Typed command → handler.
        actions: The custom actions.
        tls: What encryption needs; None where connections are not encrypted.
    """

    def __init__(
        self,
        location: str,
        lakehouse: Lakehouse,
        dispatcher: Dispatcher,
        actions: ActionRegistry,
        tls: TlsIdentity | None = None,
    ) -> None:
        # The server answers during super().__init__(), so everything must be in place before it.
        self._lakehouse = lakehouse
        self._dispatcher = dispatcher
        self._actions = actions
        self._draining = threading.Event()
        timeout = lakehouse.settings.limits.statement_timeout_seconds
        self._limits = CallLimits(statement_timeout_s=timeout or None)
        callers = AuthenticationMiddlewareFactory(lakehouse.authenticator, lakehouse.sessions.known)
        encryption = tls.arguments() if tls is not None else {}
        super().__init__(
            location, callers.auth_handler(), middleware={"authentication": callers}, **encryption
        )

    def drain(self) -> None:
        """Take no new work from now on."""
        self._draining.set()

    # -- RPCs ---------------------------------------------------------------------------------------

    @_rpc
    def get_flight_info(
        self, ctx: CallContext, call: _Call, descriptor: flight.FlightDescriptor
    ) -> flight.FlightInfo:
        """GetFlightInfo."""
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            plan = flights.info(ctx, _path(descriptor))
        else:
            plan = self._dispatcher.info(ctx, decode_command(descriptor.command), descriptor.command)
        return _flight_info(plan, descriptor)

    @_rpc
    def get_schema(
        self, ctx: CallContext, call: _Call, descriptor: flight.FlightDescriptor
    ) -> flight.SchemaResult:
        """GetSchema."""
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            return flight.SchemaResult(flights.schema(ctx, _path(descriptor)))
        return flight.SchemaResult(self._dispatcher.schema(ctx, decode_command(descriptor.command)))

    @_rpc
    def do_get(self, ctx: CallContext, call: _Call, ticket: flight.Ticket) -> flight.FlightDataStream:
        """DoGet."""
        if flights.is_path_ticket(ticket.ticket):
            result = flights.stream(ctx, flights.decode_ticket(ticket.ticket))
        else:
            result = self._dispatcher.stream(ctx, decode_command(ticket.ticket))
        return flight.GeneratorStream(result.schema, _Outgoing(result, call))

    @_rpc
    def do_put(
        self,
        ctx: CallContext,
        call: _Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """DoPut."""
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            raise NotSupported("DoPut takes Flight SQL commands", "load tables with CommandStatementIngest")

        def reply(metadata: bytes) -> None:
            writer.write(pa.py_buffer(metadata))

        self._dispatcher.put(
            ctx, decode_command(descriptor.command), Upload(_schema(reader), _incoming(ctx, reader), reply)
        )

    @_rpc
    def do_action(self, ctx: CallContext, call: _Call, action: flight.Action) -> Iterator[flight.Result]:
        """DoAction."""
        body = action.body.to_pybytes() if action.body is not None else b""
        command = decode_action(action.type, body)
        if command is not None:
            results = self._dispatcher.action(ctx, command)
        else:
            spec = self._actions.get(action.type)
            if spec is None:
                raise UnknownAction(f"no action is called {action.type}", "list_actions gives all of them")
            results = self._actions.run(ctx, spec, body)
        return _ActionResults(results, call)

    @_rpc
    def list_actions(self, ctx: CallContext, call: _Call) -> list[flight.ActionType]:
        """ListActions."""
        own = [flight.ActionType(spec.name, spec.summary) for spec in self._actions]
        return [*(flight.ActionType(name, text) for name, text in PROTOCOL_ACTIONS), *own]

    @_rpc
    def list_flights(self, ctx: CallContext, call: _Call, criteria: bytes) -> Iterator[flight.FlightInfo]:
        """ListFlights."""
        return iter(
            [
                _flight_info(found.plan, flight.FlightDescriptor.for_path(*found.path))
                for found in flights.listing(ctx, criteria or b"")
            ]
        )

    @_rpc
    def do_exchange(self, ctx: CallContext, call: _Call, *_: Any) -> None:
        """DoExchange is not offered."""
        raise NotSupported("DoExchange is not supported")

    # -- plumbing -----------------------------------------------------------------------------------

    def _context(self, context: flight.ServerCallContext, call: _Call) -> CallContext:
        if self._draining.is_set():
            raise ShuttingDown("the server is shutting down", "connect again in a moment")
        return CallContext(
            self._lakehouse,
            self._session(context),
            limits=self._limits,
            request_id=uuid.uuid4().hex,
            peer=context.peer(),
            cancelled=call.cancelled,
        )

    def _session(self, context: flight.ServerCallContext) -> Session:
        caller: AuthenticationMiddleware = context.get_middleware("authentication")
        sessions, principal = self._lakehouse.sessions, caller.principal(context)
        if caller.token:
            return sessions.get(caller.token, principal)
        session = sessions.get("peer:" + context.peer(), principal)
        sessions.alias(caller.offered, session)
        return session


class _Outgoing:
    """The batches of a result, with every error as a wire error; dropping it releases result and call."""

    def __init__(self, result: DataStream, call: _Call) -> None:
        self._batches = result.batches
        self._call = call
        call.kept = True

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self._batches)
        except StopIteration:
            self.close()
            raise
        except Exception as error:
            self.close()
            with wire_errors("do_get"):
                raise error  # noqa: TRY201 - inside the mapping
            raise

    def close(self) -> None:
        """Release what the result holds. Harmless when repeated."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self._call.end()

    def __del__(self) -> None:
        self.close()


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


class _ActionResults:
    """Results of an action; the first is computed at once, so that an error arrives as an error."""

    def __init__(self, bodies: Iterator[bytes], call: _Call) -> None:
        self._bodies = bodies
        self._call = call
        self._first = next(bodies, None)
        call.kept = True

    def __iter__(self) -> Iterator[flight.Result]:
        return self

    def __next__(self) -> flight.Result:
        body, self._first = self._first, None
        try:
            with wire_errors("do_action"):
                body = next(self._bodies, None) if body is None else body
        except BaseException:
            self.close()
            raise
        if body is None:
            self.close()
            raise StopIteration
        return flight.Result(pa.py_buffer(body))

    def close(self) -> None:
        """Stop the action. Harmless when repeated."""
        close = getattr(self._bodies, "close", None)
        if close is not None:
            close()
        self._call.end()

    def __del__(self) -> None:
        self.close()


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
