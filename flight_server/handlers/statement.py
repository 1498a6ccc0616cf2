"""CommandStatementQuery, its ticket, and CommandStatementUpdate."""

from __future__ import annotations

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import DataStream, FlightPlan, QueryHandler, Upload, UploadHandler
from flight_server.execution import (
    COUNT_SCHEMA,
    RecordedFailure,
    Recording,
    execute,
    fetch,
    run_change,
    watch,
)
from flight_server.protocol.codec import encode_update_result
from flight_server.protocol.commands import StatementQuery, StatementUpdate, TicketStatementQuery
from lakehouse.engine.session import Session
from lakehouse.errors import NotSupported


class StatementHandler:
    """Ad-hoc statements."""

    def info(self, ctx: CallContext, command: StatementQuery, descriptor: bytes) -> FlightPlan:
        """Plan a query, or run what is not one."""
        with Recording(ctx, command.query) as recording:
            session = _session(ctx, command.transaction_id)
            transaction = session.transaction(command.transaction_id)
            analysis = ctx.lakehouse.engine.gate.analyse(command.query)
            return execute(ctx, session, analysis, transaction, recording)

    def schema(self, ctx: CallContext, command: StatementQuery) -> pa.Schema:
        """The schema of a query; nothing runs."""
        with RecordedFailure(ctx, command.query):
            session = _session(ctx, command.transaction_id)
            engine = ctx.lakehouse.engine
            analysis = engine.gate.analyse(command.query)
            if analysis.is_update:
                return COUNT_SCHEMA
            if analysis.detail.get("returning"):
                raise NotSupported("the schema of RETURNING is known only after the statement has run")
            transaction = session.transaction(command.transaction_id)
            return engine.plan(analysis, session, transaction, watch=watch(ctx)).schema

    def stream(self, ctx: CallContext, command: StatementQuery) -> DataStream:
        """Statements are fetched with the ticket that GetFlightInfo gave."""
        raise NotSupported("fetch a statement with the ticket from GetFlightInfo")

    def put(self, ctx: CallContext, command: StatementUpdate, upload: Upload) -> None:
        """Run a statement and reply with the number of rows affected."""
        with Recording(ctx, command.query) as recording:
            session = _session(ctx, command.transaction_id)
            transaction = session.transaction(command.transaction_id)
            analysis = ctx.lakehouse.engine.gate.analyse(command.query)
            recording.analysed(analysis, session)
            count = run_change(analysis, session, transaction, recording)
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
        return fetch(ctx, session, session.handle(name))


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
