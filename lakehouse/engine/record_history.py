"""One record's life: what the event journal tells of it, and what it looked like at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lakehouse.catalog import Table
from lakehouse.engine.engine import Engine
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.engine.system_events import EventView
from lakehouse.errors import (
    InvalidRequest,
    NotSupported,
    SchemaNotFound,
    SnapshotNotFound,
    SqlBindError,
    TableNotFound,
)
from lakehouse.journal import EventFilter, EventJournal
from lakehouse.journal.change_event import TRUNCATED
from lakehouse.journal.events import ROW
from lakehouse.journal.json_values import json_text
from lakehouse.types import TableName, quote

SNAPSHOT, EVENTS = "snapshot", "events"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordState:
    """What a record looked like at a time.

    Attributes:
        row: Its columns; None where there was no such record.
        basis: ``snapshot`` where a snapshot of that time was read, ``events`` where the row as it is now was
            taken back event by event.
        is_sure: Whether nothing is known of that the answer leaves out.
        detail: Why it is not sure.
    """

    row: Row | None
    basis: str
    is_sure: bool = True
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RecordHistory:
    """What is known of one record.

    Attributes:
        name: The table.
        key: The values of its key, as the journal has them.
        events: The events of the record, oldest first.
        at: What it looked like at the time that was asked for.
    """

    name: TableName
    key: Row
    events: Sequence[Row]
    at: RecordState | None = None


class RecordHistories:
    """Tells the life of records, as far as a session's principal may know of it.

    Args:
        engine: Reads the tables.
        journal: Where the changes are on record.
        session: On whose behalf.
        watch: How it learns to stop.
    """

    def __init__(self, engine: Engine, journal: EventJournal, session: Session, watch: CallWatch) -> None:
        self._engine = engine
        self._journal = journal
        self._session = session
        self._watch = watch

    def of(self, name: TableName, key: Mapping[str, Any], at: datetime | None = None) -> RecordHistory:
        """The life of one record.

        Args:
            name: Its table, which may have been dropped.
            key: The values of its primary key by column, as JSON has them.
            at: A time for which to tell what it looked like.

        Raises:
            SchemaNotFound, TableNotFound: There is no such table for the principal, and nothing of it on
                record.
            InvalidRequest: The key is not the table's.
        """
        table = absent = None
        try:
            table = self._session.lakes.of(name.catalog).load(name.schema, name.table)
        except (TableNotFound, SchemaNotFound) as error:
            if EventView(self._session.lakes).access_to(str(name)) != "all":
                raise
            absent = error
        if table is None:
            where = EventFilter(entities=frozenset({str(name)}))
            wanted = dict(key)
        else:
            where = EventFilter(entity_id=table.uuid)
            wanted = self._typed(table, key)
        events = self._events(replace(where, key=json_text(wanted)))
        state = None if at is None else self._at(table, wanted, where, events, at)
        if absent is not None and not events:
            raise absent
        return RecordHistory(name if table is None else table.name, wanted, events, state)

    def _events(self, where: EventFilter) -> list[Row]:
        view = EventView(self._session.lakes)
        found: list[Row] = self._journal.table(where, view.shown, self._check).to_pylist()
        return [row for row in found if row["kind"] != "truncated"]

    def _typed(self, table: Table, key: Mapping[str, Any]) -> Row:
        """The key in the order and with the types and spelling of the table's own."""
        if not table.primary_key:
            raise InvalidRequest(
                f"table '{table.name}' has no primary key, so no record of it can be told from others",
                "declare one with catalog.declare_keys",
            )
        given = {name.lower(): value for name, value in key.items()}
        if given.keys() != {column.lower() for column in table.primary_key}:
            raise InvalidRequest(
                f"the key of table '{table.name}' has the columns {', '.join(table.primary_key)}, "
                f"found {', '.join(key) or 'none'}"
            )
        kinds = dict(table.sql_columns())
        columns = ", ".join(f"CAST(? AS {kinds[c]}) AS {quote(c)}" for c in table.primary_key)
        texts = [_text(given[column.lower()]) for column in table.primary_key]
        (row,) = self._rows(f"SELECT {columns}", texts)
        return {column: json.loads(json_text(row[column])) for column in table.primary_key}

    def _at(
        self, table: Table | None, key: Row, where: EventFilter, own: Sequence[Row], at: datetime
    ) -> RecordState:
        moment = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if table is not None:
            try:
                snapshot = table.snapshot_for(at=moment)
                return RecordState(self._row(table, key, f"AT (VERSION => {snapshot.snapshot_id})"), SNAPSHOT)
            except (SnapshotNotFound, NotSupported, SqlBindError):
                pass  # it is no longer kept, or did not have the key's columns
        row = self._row(table, key, "") if table is not None else None
        later = [event for event in self._events(replace(where, since=moment)) if event["time"] > moment]
        return _taken_back(row, key, moment, own, later, table is None)

    def _row(self, table: Table, key: Row, version: str) -> Row | None:
        kinds = dict(table.sql_columns())
        same = " AND ".join(f"{quote(c)} IS NOT DISTINCT FROM CAST(? AS {kinds[c]})" for c in key)
        sql = f"SELECT * FROM {table.name.sql} {version} WHERE {same} LIMIT 1"
        found = self._rows(sql, [_text(value) for value in key.values()])
        return {n: json.loads(json_text(v)) for n, v in found[0].items()} if found else None

    def _rows(self, sql: str, values: Sequence[str | None]) -> list[Row]:
        engine, session = self._engine, self._session
        plan = engine.plan(engine.gate.analyse(sql), session, None, values, self._watch)
        return [row for batch in engine.open(plan, session, self._watch) for row in batch.to_pylist()]

    def _check(self) -> None:
        if self._watch.record is not None:
            self._watch.record.check_stop()


def _text(value: Any) -> str | None:
    """A value of JSON as SQL casts it."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _taken_back(
    row: Row | None,
    key: Row,
    moment: datetime,
    own: Sequence[Row],
    later: Sequence[Row],
    is_dropped: bool,
) -> RecordState:
    """A row without what happened to it since a moment.

    Args:
        row: As it is now.
        key: Its key.
        moment: For which to tell.
        own: Its events, oldest first.
        later: The events of its table since then.
        is_dropped: Whether the table is gone, so that how it is now says nothing.
    """
    known = not is_dropped
    for event in reversed(own):
        if event["time"] <= moment:
            break
        old = None if event["old"] is None else json.loads(event["old"])
        if event["action"] == "insert":
            row, known = None, True
        elif event["action"] == "delete":
            row, known = old, True
        elif event["field"]:
            row = {**(row or key), event["field"]: old}
    doubts = [*_doubts(later)]
    was_there = [event["action"] for event in own if event["time"] <= moment][-1:] in (["insert"], ["update"])
    if not was_there and row is not None and _has_unknown(later, ("append",)):
        doubts.append("rows were added since, and whether this one was there before is not on record")
    if not known:
        doubts.append("the table was dropped, so only columns that changed since are known")
    detail = "; ".join(dict.fromkeys(doubts))
    return RecordState(row, EVENTS, not detail, detail)


def _doubts(later: Sequence[Row]) -> Iterator[str]:
    """What is known to be missing among the events of a table."""
    for event in later:
        if event["action"] == TRUNCATED:
            yield "not every row that a statement changed is on record"
        elif event["is_recovered"]:
            yield "changes of rows may have been lost when a server was killed"
        elif event["action"] in ("rollback", "alter"):
            yield "the table was changed in a way that leaves no changes of rows on record"
    if _has_unknown(later, ("overwrite", "delete")):
        yield "rows were replaced or removed without their changes being on record"


def _has_unknown(events: Sequence[Row], operations: Sequence[str]) -> bool:
    """Whether there is a commit of such an operation that no events of rows go with."""
    of_rows = {event["snapshot_id"] for event in events if event["kind"] == ROW}
    return any(
        event["snapshot_id"] not in of_rows and json.loads(event["new"]).get("operation") in operations
        for event in events
        if event["action"] == "commit" and event["new"] is not None
    )
