"""CommandStatementQuery, its ticket, and CommandStatementUpdate."""

from __future__ import annotations

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import DataStream, FlightPlan, QueryHandler, Upload, UploadHandler
from flight_server.execution import COUNT_SCHEMA, RunningHandle, execute, watch
from flight_server.protocol.codec import encode_update_result
from flight_server.protocol.commands import StatementQuery, StatementUpdate, TicketStatementQuery
from lakehouse.engine.changes import Scope
from lakehouse.engine.session import Session
from lakehouse.errors import NotSupported


class StatementHandler:
    """Ad-hoc statements."""

    def info(self, ctx: CallContext, command: StatementQuery, descriptor: bytes) -> FlightPlan:
        """Plan a query, or run what is not one."""
        session = _session(ctx, command.transaction_id)
        transaction = session.transaction(command.transaction_id)
        return execute(ctx, session, ctx.lakehouse.engine.gate.analyse(command.query), transaction)

    def schema(self, ctx: CallContext, command: StatementQuery) -> pa.Schema:
        """The schema of a query; nothing runs."""
        session = _session(ctx, command.transaction_id)
        engine = ctx.lakehouse.engine
        analysis = engine.gate.analyse(command.query)
        if analysis.is_update:
            return COUNT_SCHEMA
        if analysis.detail.get("returning"):
            raise NotSupported("the schema of RETURNING is known only after the statement has run")
        return engine.plan(analysis, session, session.transaction(command.transaction_id)).schema

    def stream(self, ctx: CallContext, command: StatementQuery) -> DataStream:
        """Statements are fetched with the ticket that GetFlightInfo gave."""
        raise NotSupported("fetch a statement with the ticket from GetFlightInfo")

    def put(self, ctx: CallContext, command: StatementUpdate, upload: Upload) -> None:
        """Run a statement and reply with the number of rows affected."""
        session = _session(ctx, command.transaction_id)
        scope = Scope(session, session.transaction(command.transaction_id), watch(ctx))
        engine = ctx.lakehouse.engine
        analysis = engine.gate.analyse(command.query)
        if analysis.detail.get("returning"):
            count, _ = engine.changes.modify(analysis, scope)
        else:
            count = engine.changes.run(analysis, scope)
        upload.reply(encode_update_result(count))


class TicketHandler:
    """Tickets of planned statements."""

    def info(self, ctx: CallContext, command: TicketStatementQuery, descriptor: bytes) -> FlightPlan:
        """A ticket is not a descriptor."""
        raise NotSupported("a statement ticket can be used with DoGet only")

    def schema(self, ctx: CallContext, command: TicketStatementQuery) -> pa.Schema:
        """The schema of the planned statement."""
        name = command.statement_handle.decode("ascii", "replace")
        return ctx.lakehouse.sessions.owner(name, ctx.session).handle(name).schema

    def stream(self, ctx: CallContext, command: TicketStatementQuery) -> DataStream:
        """Run the planned statement and stream its rows."""
        name = command.statement_handle.decode("ascii", "replace")
        session = ctx.lakehouse.sessions.owner(name, ctx.session)
        handle = session.handle(name)
        if handle.result is not None:
            return DataStream(handle.schema, ctx.lakehouse.engine.batches_of(handle.result))
        return DataStream(handle.schema, RunningHandle(ctx, session, handle))


def _session(ctx: CallContext, transaction_id: bytes | None) -> Session:
    """The session of a statement: the one that opened its transaction, else the caller's."""
    if not transaction_id:
        return ctx.session
    return ctx.lakehouse.sessions.owner(transaction_id.decode("ascii", "replace"), ctx.session)


def query_handlers() -> dict[type, QueryHandler]:
    """Who answers GetFlightInfo, GetSchema and DoGet."""
    return {StatementQuery: StatementHandler(), TicketStatementQuery: TicketHandler()}


def upload_handlers() -> dict[type, UploadHandler]:
    """Who answers DoPut."""
    return {StatementUpdate: StatementHandler()}
