"""Actions about the audit journal; the whole of it is read as ``system.audit``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Request, Response
from flight_server.context import CallContext
from lakehouse.errors import NotSupported
from lakehouse.journal import AuditJournal


class FlushRequest(Request):
    """Nothing to say."""


class FlushResponse(Response):
    """What is durable now."""

    flushed: int = Field(description="events that this call wrote to the bucket")
    waiting: int = Field(description="events that came meanwhile and are not durable yet")
    dropped: int = Field(description="events dropped since the server started, because storage took none")


class RecentRequest(Request):
    """How many events to give."""

    limit: int = Field(default=100, ge=1, le=1000, description="most events to give")
    kind: str | None = Field(
        default=None, description="only statement, action, authentication or gap; all kinds when left out"
    )
    principal: str | None = Field(default=None, description="only what this principal did")


class RecentResponse(Response):
    """The newest events of this server, newest first, durable or not."""

    events: list[dict[str, Any]] = Field(description="events as they are stored, one JSON object each")


def _journal(ctx: CallContext) -> AuditJournal:
    journal = ctx.lakehouse.journal
    if not journal.is_enabled:
        raise NotSupported("the audit journal is switched off", "set audit.enabled = true")
    return journal


def _flush(ctx: CallContext, _: FlushRequest) -> Iterator[Response]:
    journal = _journal(ctx)
    flushed = journal.flush()
    now = journal.statistics()
    yield FlushResponse(flushed=flushed, waiting=now.waiting if now else 0, dropped=now.dropped if now else 0)


def _recent(ctx: CallContext, request: RecentRequest) -> Iterator[Response]:
    events = (
        event
        for event in _journal(ctx).recent(1000)
        if request.kind in (None, event.get("kind")) and request.principal in (None, event.get("principal"))
    )
    yield RecentResponse(events=[event for event, _ in zip(events, range(request.limit), strict=False)])


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "audit.flush",
        "Make everything durable that was recorded so far",
        FlushRequest,
        FlushResponse,
        _flush,
        Permission.ADMIN,
    ),
    ActionSpec(
        "audit.recent",
        "The newest audit events of this server, without reading storage",
        RecentRequest,
        RecentResponse,
        _recent,
        Permission.ADMIN,
    ),
)
