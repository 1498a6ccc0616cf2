"""Actions for operators: who is connected, what runs, and how to stop it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from flight_server.actions.registry import ActionSpec, Permission, Request, Response
from flight_server.context import CallContext
from lakehouse.engine.running import StatementRecord
from lakehouse.engine.system_statements import SessionState, sessions, statements
from lakehouse.errors import SessionNotFound, StatementKilled, StatementNotFound

_SHOWN_CHARACTERS = 1000


class SessionsRequest(Request):
    """Which sessions to give."""

    principal: str | None = Field(default=None, description="only those of this principal")
    limit: int = Field(default=100, ge=1, le=1000, description="most sessions to give")


class SessionItem(Response):
    """One open session."""

    session_id: str
    principal: str
    roles: list[str]
    method: str = Field(description="how the principal was authenticated")
    peer: str = Field(description="address of the last call")
    created_at: datetime
    last_used_at: datetime
    transactions: int = Field(description="open transactions")
    prepared_statements: int = Field(description="open prepared statements")
    temporary_tables: int = Field(description="temporary tables and views, as far as they are committed")
    running_statements: int = Field(description="statements at work or waiting for their turn")


class SessionsResponse(Response):
    """Open sessions, the one used last first."""

    total: int = Field(description="how many there are that fit the request")
    sessions: list[SessionItem]


class StatementsRequest(Request):
    """Which statements to give."""

    state: Literal["planned", "queued", "running", "finished", "failed", "cancelled"] | None = None
    principal: str | None = Field(default=None, description="only those of this principal")
    session_id: str | None = Field(default=None, description="only those of this session")
    min_seconds: float = Field(default=0, ge=0, description="only those at work for at least so long")
    limit: int = Field(default=100, ge=1, le=1000, description="most statements to give")


class StatementItem(Response):
    """One statement."""

    statement_id: str
    state: str = Field(description="planned, queued, running, finished, failed or cancelled")
    principal: str
    session_id: str
    peer: str
    kind: str
    sql: str = Field(description="its text, of long ones the beginning")
    tables: list[str] = Field(description="lake tables that it reads or writes")
    submitted_at: datetime
    queue_seconds: float
    plan_seconds: float
    run_seconds: float
    rows: int
    bytes: int
    code: str = Field(description="code of the error that ended it")
    error: str
    rescue_used: list[str] = Field(description="buckets in whose place it read the rescue bucket")


class StatementsResponse(Response):
    """Statements, newest first."""

    total: int = Field(description="how many there are that fit the request")
    statements: list[StatementItem]


class KillRequest(Request):
    """What to stop: a statement or a session."""

    statement_id: str | None = Field(default=None, min_length=1)
    session_id: str | None = Field(
        default=None, min_length=1, description="close this session and stop all that it runs"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.statement_id is None) == (self.session_id is None):
            raise ValueError("expected either statement_id or session_id")
        return self


class KillResponse(Response):
    """What was stopped."""

    statements: list[str] = Field(description="ids of the statements that were told to stop")
    session_closed: bool


def _sessions(ctx: CallContext, request: SessionsRequest) -> Iterator[Response]:
    lakehouse = ctx.lakehouse
    found = sessions(lakehouse.sessions, lakehouse.engine, lakehouse.clock, request.principal)
    yield SessionsResponse(total=len(found), sessions=[_session(s) for s in found[: request.limit]])


def _session(state: SessionState) -> SessionItem:
    session = state.session
    return SessionItem(
        session_id=session.id,
        principal=session.principal.name,
        roles=sorted(session.principal.roles),
        method=session.principal.method,
        peer=session.peer,
        created_at=session.created_at,
        last_used_at=state.last_used_at,
        transactions=state.transactions,
        prepared_statements=state.prepared_statements,
        temporary_tables=state.temporary_tables,
        running_statements=state.running_statements,
    )


def _statements(ctx: CallContext, request: StatementsRequest) -> Iterator[Response]:
    running = ctx.lakehouse.engine.running
    found = [
        (record, seconds)
        for record in statements(running, request.principal)
        if request.state in (None, record.state.value)
        and request.session_id in (None, record.session_id)
        and (seconds := running.seconds_at_work(record)) >= request.min_seconds
    ]
    items = [_statement(record, seconds) for record, seconds in found[: request.limit]]
    yield StatementsResponse(total=len(found), statements=items)


def _statement(record: StatementRecord, run_seconds: float) -> StatementItem:
    sql = record.sql
    return StatementItem(
        statement_id=record.id,
        state=record.state.value,
        principal=record.principal,
        session_id=record.session_id,
        peer=record.peer,
        kind=record.kind,
        sql=sql if len(sql) <= _SHOWN_CHARACTERS else sql[:_SHOWN_CHARACTERS] + "…",
        tables=list(record.tables),
        submitted_at=record.submitted_at,
        queue_seconds=record.queue_s,
        plan_seconds=record.plan_s,
        run_seconds=run_seconds,
        rows=record.rows,
        bytes=record.bytes,
        code=record.code,
        error=record.error,
        rescue_used=list(record.rescue_used),
    )


def _kill(ctx: CallContext, request: KillRequest) -> Iterator[Response]:
    if request.statement_id is not None:
        yield _kill_statement(ctx, request.statement_id)
    elif request.session_id is not None:
        yield _kill_session(ctx, request.session_id)


def _kill_statement(ctx: CallContext, statement_id: str) -> KillResponse:
    running = ctx.lakehouse.engine.running
    record = running.find(statement_id)
    if record is None or not running.kill(record, _by_administrator("statement")):
        raise StatementNotFound(
            f"no statement {statement_id} is running or waiting", "admin.statements lists them"
        )
    return KillResponse(statements=[record.id], session_closed=False)


def _kill_session(ctx: CallContext, session_id: str) -> KillResponse:
    registry, running = ctx.lakehouse.sessions, ctx.lakehouse.engine.running
    session = registry.find(session_id)
    if session is None:
        raise SessionNotFound(f"no session {session_id} is open", "admin.sessions lists them")
    reason = _by_administrator("session")
    stopped = [r.id for r in running.records() if r.session_id == session_id and running.kill(r, reason)]
    registry.close(session, reason)
    return KillResponse(statements=stopped, session_closed=True)


def _by_administrator(what: str) -> StatementKilled:
    return StatementKilled(f"an administrator stopped the {what}")


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "admin.sessions",
        "The open sessions and what they hold",
        SessionsRequest,
        SessionsResponse,
        _sessions,
        Permission.ADMIN,
    ),
    ActionSpec(
        "admin.statements",
        "The statements that are running, waiting and ended lately",
        StatementsRequest,
        StatementsResponse,
        _statements,
        Permission.ADMIN,
    ),
    ActionSpec(
        "admin.kill",
        "Stop a statement, or close a session and stop what it runs",
        KillRequest,
        KillResponse,
        _kill,
        Permission.ADMIN,
    ),
)
