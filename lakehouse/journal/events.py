"""The event journal: every change of the lake, who made it, and what was there before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from lakehouse.clock import Clock
from lakehouse.config.journal import JournalSettings
from lakehouse.journal.change_event import TRUNCATED, ChangeEvent, Origin, current_origin
from lakehouse.journal.json_values import json_text
from lakehouse.storage import Bucket
from lakehouse.storage.append_log import AppendLog, LogBounds, LogStatistics
from lakehouse.storage.log_encoding import Event, ParquetEvents, SeenEvents
from lakehouse.storage.log_objects import microseconds

EVENTS_PREFIX = "_journal/events"
_TIME = pa.timestamp("us", tz="UTC")
EVENTS_SCHEMA = pa.schema(
    [
        ("time", _TIME),
        ("kind", pa.string()),
        ("action", pa.string()),
        ("entity", pa.string()),
        ("entity_id", pa.string()),
        ("field", pa.string()),
        ("old", pa.string()),
        ("new", pa.string()),
        ("key", pa.string()),
        ("actor", pa.string()),
        ("source", pa.string()),
        ("workspace", pa.string()),
        ("snapshot_id", pa.int64()),
        ("request_id", pa.string()),
        ("statement_id", pa.string()),
        ("event_id", pa.string()),
        ("is_recovered", pa.bool_()),
        ("dropped", pa.int64()),
        ("detail", pa.string()),
        ("writer", pa.string()),
        ("seq", pa.int64()),
    ]
)
"""``kind`` is change, row, gap or truncated; ``old``, ``new`` and ``key`` are JSON. ``writer`` and ``seq``
identify an event; ``event_id`` the commit that it tells of, however often it was recorded."""
CHANGE, ROW = "change", "row"

# Events take some twenty times as much in memory as they do in Parquet, and an object is read as a whole.
_BOUNDS = LogBounds(ring_events=10_000, ring_bytes=16_777_216, target_bytes=4_194_304)
_NEWEST_BYTES = 8_388_608
_SHOWN_BYTES = 134_217_728
_NAME_CHARACTERS = 1024
_log = structlog.get_logger()


def _go_on() -> None:
    """Nothing stops the reading."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted; what is None does not matter.

    Attributes:
        since: From that time on.
        until: Before that time.
        entities: Of these entities.
        entity_id: Of the entity of this id, whichever names it had.
        actor: Made by this principal.
        action: Of this action.
        key: Of the row with this key, as the journal writes it.
    """

    since: datetime | None = None
    until: datetime | None = None
    entities: frozenset[str] | None = None
    entity_id: str | None = None
    actor: str | None = None
    action: str | None = None
    key: str | None = None

    def __bool__(self) -> bool:
        return self != EventFilter()

    def matches(self, event: Event) -> bool:
        """Whether an event as the log gives it is wanted."""
        time = datetime.fromisoformat(event["time"])
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (self.entities is None or event.get("entity") in self.entities)
            and self.entity_id in (None, event.get("entity_id"))
            and self.actor in (None, event.get("actor"))
            and self.action in (None, event.get("action"))
            and self.key in (None, event.get("key"))
        )

    def expression(self) -> pc.Expression | None:
        """The same for a table of events; None where everything is wanted."""
        conditions: list[pc.Expression] = []
        if self.since is not None:
            conditions.append(pc.field("time") >= pa.scalar(self.since.astimezone(UTC), _TIME))
        if self.until is not None:
            conditions.append(pc.field("time") < pa.scalar(self.until.astimezone(UTC), _TIME))
        if self.entities is not None:
            conditions.append(pc.field("entity").isin(sorted(self.entities)))
        for name in ("entity_id", "actor", "action", "key"):
            wanted = getattr(self, name)
            if wanted is not None:
                conditions.append(pc.field(name) == wanted)
        found: pc.Expression | None = None
        for condition in conditions:
            found = condition if found is None else found & condition
        return found


class EventJournal:
    """Keeps the changes of the lake in the primary bucket, under ``_journal/events/``.

    Recording never fails and never waits for storage.

    Args:
        bucket: The primary bucket.
        settings: The section ``journal`` of the configuration.
        clock: Source of time.
    """

    def __init__(self, bucket: Bucket, settings: JournalSettings, clock: Clock) -> None:
        self.settings = settings
        self._encoding = ParquetEvents(EVENTS_SCHEMA, ("event_id", "is_recovered"))
        self._events: AppendLog | None = None
        if settings.enabled:
            bounds = replace(
                _BOUNDS, flush_events=settings.flush_events, flush_seconds=settings.flush_seconds
            )
            self._events = AppendLog(bucket, EVENTS_PREFIX, clock, bounds, self._encoding)

    @property
    def is_enabled(self) -> bool:
        """Whether anything is recorded."""
        return self._events is not None

    def record(self, *events: ChangeEvent) -> None:
        """Put changes that took place on record, in this order."""
        if self._events is None:
            return
        try:
            origin = current_origin()
            for event in events:
                made = partial(stored, event, event.origin or origin, self.settings.workspace)
                self._events.append(made, _size(event), event.at)
        except Exception:  # noqa: BLE001 - what took place must not look as if it had failed
            _log.exception("change_event_lost")

    def recent(self, limit: int, where: EventFilter = EventFilter()) -> list[Event]:
        """The newest events of this process, newest first; storage is not read.

        Args:
            limit: How many at most.
            where: Which are wanted.
        """
        if self._events is None:
            return []
        if not where:
            return self._events.recent(limit)
        found = (event for event in self._events.recent(_BOUNDS.ring_events) if where.matches(event))
        return [event for event, _ in zip(found, range(limit), strict=False)]

    def table(
        self,
        where: EventFilter = EventFilter(),
        keep: Callable[[pa.Table], pa.Table] = lambda table: table,
        check: Callable[[], None] = _go_on,
        max_bytes: int = _SHOWN_BYTES,
    ) -> pa.Table:
        """Events of all servers on the bucket, oldest first, as ``EVENTS_SCHEMA`` says, each once.

        Without any condition the newest objects are read, otherwise all that can hold what is wanted, one
        after the other. Where more is found than fits, the first row is of the kind ``truncated``.

        Args:
            where: Which are wanted.
            keep: Takes out of a part of them what is not to be shown.
            check: Called between objects; raises to stop.
            max_bytes: How much is kept in memory, of the newest.

        Raises:
            StorageError: The stored events cannot be read.
        """
        if self._events is None:
            return EVENTS_SCHEMA.empty_table()
        waiting = self._events.waiting()  # first: what is flushed meanwhile is then seen in storage as well
        contents, is_cut = self._contents(where)
        condition, seen = where.expression(), SeenEvents()
        parts: list[pa.Table] = []
        size = 0
        for content in contents:
            check()
            rows = self._encoding.table(content, condition)
            if rows is None:
                _log.warning("events_unreadable", log=EVENTS_PREFIX)
                continue
            parts.append(keep(seen.new_rows(rows)))
            size += parts[-1].nbytes
            while size > max_bytes and len(parts) > 1:
                size -= parts.pop(0).nbytes
                is_cut = True
        part = seen.new_rows(self._encoding.parsed([entry.line + b"\n" for entry in waiting]))
        parts.append(keep(part if condition is None else part.filter(condition)))
        table = _in_order(pa.concat_tables(parts))
        return pa.concat_tables([_truncation(table), table]) if is_cut else table

    def known_ids(self, wanted: frozenset[str], since: datetime) -> frozenset[str]:
        """Which of some commits are on record, by the ids of their events.

        Args:
            wanted: The ids.
            since: No commit of these is older.

        Raises:
            StorageError: The stored events cannot be read.
        """
        found: set[str] = set()

        def keep(part: pa.Table) -> pa.Table:
            found.update(wanted.intersection(part["event_id"].drop_null().to_pylist()))
            return part.slice(0, 0)

        self.table(EventFilter(since=since, action="commit"), keep)
        return frozenset(found)

    def flush(self) -> int:
        """Make durable what was recorded so far; gives how many events this call wrote.

        Raises:
            LakehouseError: Storage did not confirm it; the events are kept and tried again.
        """
        return self._events.flush() if self._events is not None else 0

    def compact(self) -> int:
        """Merge small objects of the journal into large ones; gives how many went into others.

        Raises:
            StorageError: Storage failed on the way; the journal is whole all the same.
        """
        return self._events.compact() if self._events is not None else 0

    def statistics(self) -> LogStatistics | None:
        """How much was recorded, written and dropped; None where nothing is recorded."""
        return self._events.statistics() if self._events is not None else None

    def close(self) -> None:
        """Make everything durable and stop."""
        if self._events is not None:
            self._events.close()

    def _contents(self, where: EventFilter) -> tuple[Iterable[bytes], bool]:
        assert self._events is not None
        if not where:
            return self._events.objects.newest(_NEWEST_BYTES)
        since_us = microseconds(where.since) if where.since is not None else 0
        return (content for _, content in self._events.objects.contents(since_us)), False


def stored(event: ChangeEvent, origin: Origin, workspace: str) -> Event:
    """An event as its log keeps it.

    Args:
        event: What took place.
        origin: Who made it.
        workspace: Where the origin says none.
    """
    found: Event = {
        "kind": ROW if event.key is not None or event.action == TRUNCATED else CHANGE,
        "action": event.action,
        "entity": event.entity[:_NAME_CHARACTERS],
        "entity_id": event.entity_id,
        "field": event.field,
        "old": None if event.old is None else json_text(event.old),
        "new": None if event.new is None else json_text(event.new),
        "key": None if event.key is None else json_text(event.key),
        "actor": origin.actor,
        "source": event.source or origin.source,
        "workspace": origin.workspace or workspace,
        "snapshot_id": event.snapshot_id,
        "request_id": origin.request_id,
        "statement_id": origin.statement_id,
        "event_id": event.event_id,
        "is_recovered": event.is_recovered or None,
        "detail": event.detail,
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def _size(event: ChangeEvent) -> int:
    """About how many bytes an event takes."""
    return 300 + _weight(event.old) + _weight(event.new)


def _weight(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(item) if isinstance(item, str) else 20 for item in value.values())
    return 20


def _in_order(table: pa.Table) -> pa.Table:
    """The events by their time, without commits that were recovered though they had been recorded."""
    order = pc.sort_indices(table["time"])
    table = table.take(order)
    recovered = pc.indices_nonzero(pc.fill_null(table["is_recovered"], False)).to_pylist()
    if not recovered:
        return table
    ids = table["event_id"]
    known = set(pc.unique(ids.filter(pc.invert(pc.fill_null(table["is_recovered"], False)))).to_pylist())
    gone: set[int] = set()
    for place in recovered:
        event_id = ids[place].as_py()
        if event_id is not None and event_id in known:
            gone.add(place)
        known.add(event_id)
    kept = [place for place in range(len(table)) if place not in gone]
    return table.take(pa.array(kept, pa.int64())) if gone else table


def _truncation(table: pa.Table) -> pa.Table:
    since = pc.min(table["time"]).as_py() if len(table) else None
    detail = (
        f"older events are left out here; all of them are in the bucket under {EVENTS_PREFIX}/, and a "
        "condition on time or entity finds them"
    )
    return pa.Table.from_pylist([{"time": since, "kind": "truncated", "detail": detail}], EVENTS_SCHEMA)
