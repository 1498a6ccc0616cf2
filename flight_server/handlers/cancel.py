"""CancelFlightInfo, CancelQuery, RenewFlightEndpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

from flight_server.context import CallContext
from flight_server.dispatch import ActionHandler
from flight_server.protocol.codec import (
    CancelStatus,
    decode_command,
    encode_cancel_flight_info,
    encode_cancel_query,
    encode_renewed_endpoint,
)
from flight_server.protocol.commands import (
    CancelFlightInfo,
    CancelQuery,
    RenewFlightEndpoint,
    TicketStatementQuery,
)
from lakehouse.engine.running import StatementRecord
from lakehouse.engine.session import Session, StatementHandle
from lakehouse.errors import InvalidRequest, LakehouseError, StatementCancelled, StatementNotFound

_WAIT_SECONDS = 1.0


def cancel_flight_info(ctx: CallContext, command: CancelFlightInfo) -> Iterator[bytes]:
    """Cancel the statement that a FlightInfo stands for."""
    yield encode_cancel_flight_info(_cancel(ctx, command.tickets))


def cancel_query(ctx: CallContext, command: CancelQuery) -> Iterator[bytes]:
    """The same, as older clients ask for it."""
    yield encode_cancel_query(_cancel(ctx, command.tickets))


def renew(ctx: CallContext, command: RenewFlightEndpoint) -> Iterator[bytes]:
    """Let a statement wait longer to be fetched."""
    _, handle = _find(ctx, command.ticket)
    seconds = ctx.lakehouse.settings.session.handle_seconds
    handle.expires_s = ctx.lakehouse.clock.monotonic() + seconds
    yield encode_renewed_endpoint(command.endpoint, ctx.lakehouse.clock.now() + timedelta(seconds=seconds))


def _cancel(ctx: CallContext, tickets: tuple[bytes, ...]) -> CancelStatus:
    handles = [_find(ctx, ticket)[1] for ticket in tickets]
    if not handles:
        raise StatementNotFound("the FlightInfo names no statement of this server")
    running = ctx.lakehouse.engine.running
    records: list[StatementRecord] = []
    for handle in handles:
        handle.cancelled = True
        records += handle.fetches
        if handle.record is not None and not handle.is_taken:
            records.append(handle.record)
    for record in records:
        running.kill(record, StatementCancelled("the client cancelled the statement"))
    give_up = time.monotonic() + _WAIT_SECONDS
    while not all(running.has_ended(record) for record in records):
        if time.monotonic() > give_up:
            return CancelStatus.CANCELLING
        time.sleep(0.01)
    return CancelStatus.CANCELLED


def _find(ctx: CallContext, ticket: bytes) -> tuple[Session, StatementHandle]:
    try:
        command = decode_command(ticket)
    except LakehouseError:
        command = None
    if not isinstance(command, TicketStatementQuery):
        raise InvalidRequest("the ticket does not belong to a statement")
    name = command.statement_handle.decode("ascii", "replace")
    session = ctx.lakehouse.sessions.owner(name, ctx.session)
    return session, session.handle(name)


def action_handlers() -> dict[type, ActionHandler]:
    """Who answers DoAction."""
    return {CancelFlightInfo: cancel_flight_info, CancelQuery: cancel_query, RenewFlightEndpoint: renew}
