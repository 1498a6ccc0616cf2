"""Actions on the event journal: what changed, one record's life, and looking after the journal itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response, in_a_thread
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from flight_server.execution import Recording
from lakehouse.engine.record_history import RecordHistories
from lakehouse.engine.system_events import EventView
from lakehouse.journal import EVENTS_SCHEMA, EventFilter


class EventsRequest(Request):
    """Which events to give."""

    entity: str | None = Field(default=None, description="only of this one: the full name of a table …")
    actor: str | None = Field(default=None, description="only by this principal")
    action: str | None = Field(default=None, description="only of this action: commit, alter, update …")
    since: datetime | None = Field(default=None, description="only from that time on; UTC without a zone")
    until: datetime | None = Field(default=None, description="only before that time; UTC without a zone")
    stored: bool = Field(
        default=False,
        description="read storage for the events of all servers, instead of the newest of this one in memory",
    )
    limit: int = Field(default=100, ge=1, le=10_000, description="most events to give, the newest ones")


class JournalEvent(Response):
    """One change that took place."""

    time: datetime
    kind: str = Field(description="change, row, gap or truncated")
    action: str | None
    entity: str | None
    entity_id: str | None
    field: str | None = Field(description="which property or column; none where the whole changed")
    old: Any = Field(description="what was there before")
    new: Any = Field(description="what is there now")
    key: dict[str, Any] | None = Field(description="of a row, its primary key")
    actor: str | None
    source: str | None
    workspace: str | None
    snapshot_id: int | None
    request_id: str | None
    statement_id: str | None
    is_recovered: bool = Field(description="found in a table's history after a server had not recorded it")
    detail: str | None


class EventsResponse(Response):
    """The events that the caller may know of, newest first."""

    events: list[JournalEvent]


class RecordRequest(OfTable):
    """A record by the key of its table."""

    key: dict[str, Any] = Field(description="the values of the primary key, by column")
    at: datetime | None = Field(
        default=None, description="tell what it looked like at that time; UTC without a zone"
    )


class RecordAt(Response):
    """What a record looked like at a time."""

    row: dict[str, Any] | None = Field(description="its columns; none where there was no such record")
    basis: str = Field(description='"snapshot", or "events" where no snapshot is as old any more')
    is_sure: bool
    detail: str | None = Field(description="why it is not sure")


class RecordResponse(Response):
    """One record's life, as far as it is on record, oldest event first."""

    table: str
    key: dict[str, Any]
    events: list[JournalEvent]
    at: RecordAt | None


class FlushEventsRequest(Request):
    """Nothing to say."""


class FlushEventsResponse(Response):
    """What is durable now."""

    flushed: int = Field(description="events that this call wrote to the primary bucket")


class CompactEventsRequest(Request):
    """Nothing to say."""


class CompactEventsResponse(Response):
    """What was merged."""

    merged: int = Field(description="objects of the journal that went into others")


class RecoverRequest(Request):
    """How far back to look."""

    hours: float = Field(default=24, gt=0, le=87_600, description="commits older than that are left alone")


class RecoverResponse(Response):
    """What was looked at, and what was found."""

    tables: int
    commits: int
    recovered: int = Field(description="events of commits that nobody had put on record")
    unreadable: int = Field(description="tables that could not be looked at")


def _events(ctx: CallContext, request: EventsRequest) -> Iterator[Response]:
    where = EventFilter(
        since=_utc(request.since),
        until=_utc(request.until),
        entities=None if request.entity is None else frozenset({request.entity}),
        actor=request.actor,
        action=request.action,
    )
    view, journal = EventView(ctx.lakes), ctx.lakehouse.events
    if request.stored:
        found = journal.table(where, view.shown, ctx.check_cancelled)
    else:
        rows = [_row(event) for event in reversed(journal.recent(10_000, where))]
        found = view.shown(pa.Table.from_pylist(rows, EVENTS_SCHEMA))
    newest = found.slice(max(0, len(found) - request.limit)).to_pylist()
    yield EventsResponse(events=[_shown(row) for row in reversed(newest)])


def _history(ctx: CallContext, request: RecordRequest) -> Iterator[Response]:
    lakehouse, name = ctx.lakehouse, located(ctx, request)
    with Recording(ctx, f"journal.history {name}", "query") as recording:
        watch = recording.watch()
        watch.note_tables((name,))
        histories = RecordHistories(lakehouse.engine, lakehouse.events, ctx.session, watch)
        found = histories.of(name, request.key, _utc(request.at))
    state = found.at
    yield RecordResponse(
        table=str(found.name),
        key=found.key,
        events=[_shown(row) for row in found.events],
        at=None
        if state is None
        else RecordAt(row=state.row, basis=state.basis, is_sure=state.is_sure, detail=state.detail or None),
    )


def _flush(ctx: CallContext, _: FlushEventsRequest) -> Iterator[Response]:
    yield FlushEventsResponse(flushed=ctx.lakehouse.events.flush())


def _compact(ctx: CallContext, _: CompactEventsRequest) -> Iterator[Response]:
    yield CompactEventsResponse(merged=ctx.lakehouse.events.compact())


def _recover(ctx: CallContext, request: RecoverRequest) -> Iterator[Progress | Response]:
    since = ctx.lakehouse.clock.now() - timedelta(hours=request.hours)

    def work(report: Any) -> Response:
        done = ctx.lakehouse.recovery.run(since, report, ctx.cancelled)
        return RecoverResponse(
            tables=done.tables, commits=done.commits, recovered=done.recovered, unreadable=done.unreadable
        )

    return in_a_thread("journal.recover", work)


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _row(event: Mapping[str, Any]) -> dict[str, Any]:
    return {**event, "time": datetime.fromisoformat(event["time"])}


def _shown(row: Mapping[str, Any]) -> JournalEvent:
    values = {name: row.get(name) for name in JournalEvent.model_fields}
    for name in ("old", "new", "key"):
        text = values[name]
        values[name] = None if text is None else json.loads(text)
    return JournalEvent.model_validate({**values, "is_recovered": bool(values["is_recovered"])})


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "journal.events",
        "What changed: the newest events that the caller may know of",
        EventsRequest,
        EventsResponse,
        _events,
        Permission.READ,
    ),
    ActionSpec(
        "journal.history",
        "One record's life: its changes, and what it looked like at a time",
        RecordRequest,
        RecordResponse,
        _history,
        Permission.READ,
    ),
    ActionSpec(
        "journal.flush",
        "Make the event journal durable",
        FlushEventsRequest,
        FlushEventsResponse,
        _flush,
        Permission.ADMIN,
    ),
    ActionSpec(
        "journal.compact",
        "Merge small objects of the event journal",
        CompactEventsRequest,
        CompactEventsResponse,
        _compact,
        Permission.ADMIN,
    ),
    ActionSpec(
        "journal.recover",
        "Put commits on record that a killed server did not",
        RecoverRequest,
        RecoverResponse,
        _recover,
        Permission.ADMIN,
        streams=True,
    ),
)
