"""The pyarrow Flight server: every RPC decodes, dispatches and encodes, nothing else."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as flight

from flight_server.actions import vector_ticket
from flight_server.actions.registry import ActionRegistry
from flight_server.context import CallContext, CallLimits
from flight_server.dispatch import DataStream, Dispatcher, FlightPlan, Upload
from flight_server.errors import wire_errors
from flight_server.handlers import exchange, flights, objects, rows
from flight_server.middleware.authentication import AuthenticationMiddleware, AuthenticationMiddlewareFactory
from flight_server.middleware.observation import TRACE_HEADERS, Observation, ObservedCall
from flight_server.protocol.codec import PROTOCOL_ACTIONS, decode_action, decode_command
from flight_server.protocol.uploads import upload_batches, upload_schema
from flight_server.tls import TlsIdentity
from lakehouse.engine.admission import CallPlaces, check_size
from lakehouse.engine.session import Session
from lakehouse.errors import (
    InternalError,
    InvalidRequest,
    LakehouseError,
    NotSupported,
    ShuttingDown,
    StatementCancelled,
    UnknownAction,
)
from lakehouse.runtime import Lakehouse
from lakehouse.storage.rescue import reading
from lakehouse.telemetry import begin, span

F = TypeVar("F", bound=Callable[..., Any])

# Given, because looking for the default costs a hundredth of a short statement.
_WRITE_OPTIONS = pa.ipc.IpcWriteOptions()
RESCUE_TRAILER = "lakehouse-rescue-used"
_EXPIRATION = pa.timestamp("ns", "UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The statements that these prepare are on record themselves.
_TOLD_BY_STATEMENTS = frozenset({"CreatePreparedStatement", "ClosePreparedStatement"})


class _Call:
    """One RPC: its cancellation flag, safe to ask for at any time, its place, and what is seen of it.

    pyarrow's context points to memory that is gone once the RPC has ended, so it is let go of first; a
    statement that outlives its call for whatever reason then finds itself cancelled.
    """

    def __init__(self, context: flight.ServerCallContext, observed: ObservedCall, places: CallPlaces) -> None:
        self._lock = threading.Lock()
        self._context: flight.ServerCallContext | None = context
        self._places = places
        self._entered = False
        self._session: Session | None = None
        self.observed = observed
        self.kept = False

    def enter(self) -> None:
        """Take a place.

        Raises:
            LimitExceeded: Too many calls are open.
        """
        self._places.enter()
        self._entered = True

    def belong(self, session: Session) -> None:
        """Keep a session from being found idle while the call lasts."""
        session.begin_call()
        self._session = session

    def cancelled(self) -> bool:
        """Whether the client has gone, or the call has ended."""
        with self._lock:
            return self._context is None or self._context.is_cancelled()

    def end(self, error: BaseException | None = None) -> None:
        """Let go of the context, and give the place back. Harmless when repeated."""
        with self._lock:
            # What the client had before its end is told by a trailer; one that has gone away reads none.
            if self._context is not None and self.observed.rescue.buckets and error is None:
                told = ",".join(sorted(self.observed.rescue.buckets))
                self._context.add_trailer(RESCUE_TRAILER, told)
        if self._let_go():
            self.observed.end(error)

    def abandon(self) -> None:
        """End a call whose answer the client did not want to the end. Harmless when repeated."""
        if self._let_go():
            self.observed.abandon()

    def _let_go(self) -> bool:
        with self._lock:
            held, self._context = self._context is not None, None
        if held and self._session is not None:
            self._session.end_call()
        if held and self._entered:
            self._places.leave()
        return held


def _rpc(method: F) -> F:
    """Map errors, give the method its context, and end the call with it unless a stream keeps it open."""
    name = method.__name__

    @functools.wraps(method)
    def wrapper(self: LakehouseFlightServer, context: flight.ServerCallContext, *args: Any) -> Any:
        with wire_errors(name):
            call = self._begin(name, context)
            try:
                call.enter()
                return call.observed.run(_answer, self, method, context, call, args)
            except BaseException as error:
                call.end(error)
                raise
            finally:
                if not call.kept:
                    call.end()

    return wrapper  # type: ignore[return-value]


def _answer(
    server: LakehouseFlightServer,
    method: Callable[..., Any],
    context: flight.ServerCallContext,
    call: _Call,
    args: tuple[Any, ...],
) -> Any:
    return method(server, server._context(context, call), call, *args)  # noqa: SLF001 - part of the server


class LakehouseFlightServer(flight.FlightServerBase):
    """One Flight endpoint over one lakehouse.

    Args:
        location: URI to listen on; port 0 takes a free one.
        lakehouse: The domain.
        dispatcher: Typed command → handler.
        actions: The custom actions.
        observation: What the operator sees of calls.
        headers: Reads the headers that observation wants, by name.
        tls: What encryption needs; None where connections are not encrypted.
    """

    def __init__(
        self,
        location: str,
        lakehouse: Lakehouse,
        dispatcher: Dispatcher,
        actions: ActionRegistry,
        observation: Observation,
        headers: Mapping[str, flight.ServerMiddlewareFactory],
        tls: TlsIdentity | None = None,
    ) -> None:
        # The server answers during super().__init__(), so everything must be in place before it.
        self._lakehouse = lakehouse
        self._dispatcher = dispatcher
        self._actions = actions
        self._draining = threading.Event()
        self._bounds = lakehouse.settings.limits
        self._limits = CallLimits(self._bounds.statement_timeout_seconds or None)
        self._places = CallPlaces(self._bounds.concurrent_calls)
        self._observation = observation
        self._reads_traces = bool(headers)
        callers = AuthenticationMiddlewareFactory(lakehouse.authenticator, lakehouse.sessions.known)
        encryption = tls.arguments() if tls is not None else {}
        middleware = {"authentication": callers, **headers}
        super().__init__(location, callers.auth_handler(), middleware=middleware, **encryption)

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
            path = _path(descriptor)
            with reading():
                plan = (objects if objects.is_object_path(ctx, path) else flights).info(ctx, path)
        else:
            plan = self._dispatcher.info(ctx, self._decoded(descriptor.command), descriptor.command)
        return _flight_info(_marked(plan, call.observed.rescue.buckets), descriptor)

    @_rpc
    def get_schema(
        self, ctx: CallContext, call: _Call, descriptor: flight.FlightDescriptor
    ) -> flight.SchemaResult:
        """GetSchema."""
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            path = _path(descriptor)
            family = objects if objects.is_object_path(ctx, path) else flights
            return flight.SchemaResult(family.schema(ctx, path))
        return flight.SchemaResult(self._dispatcher.schema(ctx, self._decoded(descriptor.command)))

    @_rpc
    def do_get(self, ctx: CallContext, call: _Call, ticket: flight.Ticket) -> flight.FlightDataStream:
        """DoGet."""
        check_size("the ticket", len(ticket.ticket), self._bounds.request_bytes, "limits.request_bytes")
        if vector_ticket.is_search_ticket(ticket.ticket):
            result = vector_ticket.stream(ctx, vector_ticket.decode_ticket(ticket.ticket))
        elif flights.is_path_ticket(ticket.ticket):
            wanted = objects.decode_ticket(ctx, ticket.ticket)
            if wanted is not None:
                result = objects.stream(ctx, wanted)
            else:
                result = flights.stream(ctx, flights.decode_ticket(ticket.ticket))
        else:
            result = self._dispatcher.stream(ctx, self._decoded(ticket.ticket))
        return flight.GeneratorStream(result.schema, _Outgoing(result, call), options=_WRITE_OPTIONS)

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

        def reply(metadata: bytes) -> None:
            writer.write(pa.py_buffer(metadata))

        def note(metadata: bytes) -> None:
            check_size("the metadata", len(metadata), self._bounds.request_bytes, "limits.request_bytes")
            notes.append(metadata)

        notes: list[bytes] = []
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            batches = upload_batches(reader, self._bounds.message_bytes, ctx.check_cancelled, note)
            path = _path(descriptor)
            family = objects if objects.is_upload_path(ctx, path) else rows
            family.put(ctx, path, Upload(upload_schema(reader), batches, reply, notes))
            return
        command = self._decoded(descriptor.command)
        batches = upload_batches(reader, self._bounds.message_bytes, ctx.check_cancelled)
        self._dispatcher.put(ctx, command, Upload(upload_schema(reader), batches, reply))

    @_rpc
    def do_action(self, ctx: CallContext, call: _Call, action: flight.Action) -> Iterator[flight.Result]:
        """DoAction."""
        body = action.body.to_pybytes() if action.body is not None else b""
        check_size("the body of the action", len(body), self._bounds.request_bytes, "limits.request_bytes")
        command = decode_action(action.type, body)
        if command is not None:
            results = partial(self._dispatcher.action, ctx, command)
        else:
            spec = self._actions.get(action.type)
            if spec is None:
                raise UnknownAction(f"no action is called {action.type}", "list_actions gives all of them")
            results = partial(self._actions.run, ctx, spec, body)
        is_told = action.type in _TOLD_BY_STATEMENTS
        return _ActionResults(results() if is_told else _audited(ctx, action.type, results), call)

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
    def do_exchange(
        self,
        ctx: CallContext,
        call: _Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        """DoExchange."""
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            raise NotSupported("there is no exchange for a path", "send a command")
        command = descriptor.command
        check_size("the command", len(command), self._bounds.request_bytes, "limits.request_bytes")
        batches = upload_batches(reader, self._bounds.message_bytes, ctx.check_cancelled)

        def send(batch: pa.RecordBatch, told: bytes | None) -> None:
            if told is None:
                writer.write_batch(batch)
            else:
                writer.write_with_metadata(batch, pa.py_buffer(told))

        replies = exchange.Replies(partial(writer.begin, options=_WRITE_OPTIONS), send)
        exchange.answer(ctx, command, upload_schema(reader), batches, replies)

    # -- plumbing -----------------------------------------------------------------------------------

    def _begin(self, name: str, context: flight.ServerCallContext) -> _Call:
        headers = context.get_middleware(TRACE_HEADERS) if self._reads_traces else None
        observed = self._observation.begin(name, headers.carrier if headers is not None else None)
        return _Call(context, observed, self._places)

    def _context(self, context: flight.ServerCallContext, call: _Call) -> CallContext:
        if self._draining.is_set():
            raise ShuttingDown("the server is shutting down", "connect again in a moment")
        session, peer, request_id = self._session(context), context.peer(), os.urandom(16).hex()
        call.belong(session)
        call.observed.identify(request_id, session.id, session.principal.name, peer)
        return CallContext(self._lakehouse, session, self._limits, request_id, peer, call.cancelled)

    def _decoded(self, command: bytes) -> object:
        check_size("the command", len(command), self._bounds.request_bytes, "limits.request_bytes")
        with span("decode"):
            return decode_command(command)

    def _session(self, context: flight.ServerCallContext) -> Session:
        caller: AuthenticationMiddleware = context.get_middleware("authentication")
        sessions, principal, peer = self._lakehouse.sessions, caller.principal(context), context.peer()
        if caller.token:
            return sessions.get(caller.token, principal, peer)
        session = sessions.get("peer:" + peer, principal, peer)
        sessions.alias(caller.offered, session)
        return session


class _Outgoing:
    """The batches of a result, with every error as a wire error; dropping it releases result and call."""

    def __init__(self, result: DataStream, call: _Call) -> None:
        self._batches = result.batches
        self._empty = result.schema
        self._trailer = result.trailer
        self._call = call
        self._part = begin("stream")
        self._sent = self._rows = 0
        call.kept = True

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch | tuple[pa.RecordBatch, pa.Buffer]:
        try:
            batch = self._call.observed.run(next, self._batches, None)
            told = None
            if batch is None and self._trailer is not None:
                told, self._trailer = self._call.observed.run(self._trailer), None
        except BaseException as error:
            with wire_errors("do_get"):
                self._release(error)
                self._call.end(error)
                raise
            raise
        if told is not None:
            return pa.RecordBatch.from_pylist([], schema=self._empty), pa.py_buffer(told)
        if batch is None:
            self._release()
            self._call.end()
            raise StopIteration
        self._sent += 1
        self._rows += batch.num_rows
        return batch

    def close(self) -> None:
        """Release what the result holds. Harmless when repeated."""
        self._release()
        self._call.abandon()

    def _release(self, error: BaseException | None = None) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self._part.set({"rows": self._rows, "batches": self._sent})
        self._part.end(error)

    def __del__(self) -> None:
        self.close()


def _audited(ctx: CallContext, name: str, start: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    """The results of an action, which is put on record when it has ended, whichever way."""
    journal, clock = ctx.lakehouse.journal, ctx.lakehouse.clock
    started_s, code = clock.monotonic(), "ok"
    try:
        yield from start()
    except LakehouseError as error:
        code = error.code
        raise
    except GeneratorExit:
        code = StatementCancelled.code
        raise
    except BaseException:
        code = InternalError.code
        raise
    finally:
        session, principal, seconds = ctx.session, ctx.principal, clock.monotonic() - started_s
        journal.action(
            principal.name,
            ctx.peer,
            ctx.request_id,
            session.id,
            name,
            code,
            seconds,
            method=principal.method,
            detail=json.dumps(ctx.noted) if ctx.noted else "",
        )


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
        with wire_errors("do_action"):
            try:
                body = self._call.observed.run(next, self._bodies, None) if body is None else body
            except BaseException as error:
                self._release()
                self._call.end(error)
                raise
        if body is None:
            self._release()
            self._call.end()
            raise StopIteration
        return flight.Result(pa.py_buffer(body))

    def close(self) -> None:
        """Stop the action. Harmless when repeated."""
        self._release()
        self._call.abandon()

    def _release(self) -> None:
        close = getattr(self._bodies, "close", None)
        if close is not None:
            close()

    def __del__(self) -> None:
        self.close()


def _path(descriptor: flight.FlightDescriptor) -> tuple[str, ...]:
    try:
        return tuple(part.decode() for part in descriptor.path)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the path of a dataset is text in UTF-8") from error


def _timestamp(moment: datetime) -> pa.Scalar:
    """A point in time as Arrow has it; of a number that costs a twentieth of what it does of a datetime."""
    return pa.scalar((moment - _EPOCH) // timedelta(microseconds=1) * 1000, _EXPIRATION)


def _marked(plan: FlightPlan, rescued: Iterable[str]) -> FlightPlan:
    """A plan that tells from which buckets' copies it was made, if any."""
    buckets = sorted(rescued)
    if not buckets:
        return plan
    told = json.loads(plan.app_metadata or b"{}")
    return replace(plan, app_metadata=json.dumps({**told, "rescue_used": buckets}).encode())


def _flight_info(plan: FlightPlan, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
    endpoints = [
        flight.FlightEndpoint(
            flight.Ticket(e.ticket),
            [],
            expiration_time=None if e.expiration is None else _timestamp(e.expiration),
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
