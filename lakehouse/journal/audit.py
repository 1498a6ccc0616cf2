"""The audit journal: who did what, to which tables, and how it ended.

One event for every statement, action and attempt to authenticate. Never in it: parameters, bodies of actions,
credentials, results, texts of errors (which quote data). The text of a statement is kept without whatever may
be a secret, and without any literal where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from lakehouse.clock import Clock
from lakehouse.config.access import AuditSettings
from lakehouse.journal.event_table import EventTable
from lakehouse.storage.append_log import AppendLog, LogBounds, LogStatistics
from lakehouse.storage.bucket import Bucket
from lakehouse.storage.log_encoding import Event

AUDIT_PREFIX = "_audit"
AUDIT_SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("kind", pa.string()),
        ("principal", pa.string()),
        ("method", pa.string()),
        ("peer", pa.string()),
        ("action", pa.string()),
        ("statement_kind", pa.string()),
        ("statement", pa.string()),
        ("tables", pa.list_(pa.field("l", pa.string()))),
        ("outcome", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("duration_s", pa.float64()),
        ("queue_s", pa.float64()),
        ("statement_id", pa.string()),
        ("request_id", pa.string()),
        ("session_id", pa.string()),
        ("trace_id", pa.string()),
        ("dropped", pa.int64()),
        ("detail", pa.string()),
        ("writer", pa.string()),
        ("seq", pa.int64()),
    ]
)
"""``kind`` is statement, action, authentication, gap or truncated; the other columns are null where they do
not apply. ``writer`` and ``seq`` identify an event; a number missing in between belongs to a dropped one."""
OK = "ok"
_NAME_CHARACTERS = 256
_STATEMENT_CHARACTERS = 10_000
_MOST_TABLES = 200

_log = structlog.get_logger()

Redaction = Callable[[str, bool], str]
"""Gives the text of a statement as it may be kept; the second argument asks to leave out all literals."""


class EndedStatement(Protocol):
    """What the journal needs to know of a statement that has ended."""

    id: str
    sql: str
    kind: str
    request_id: str
    session_id: str
    principal: str
    peer: str
    trace_id: str
    tables: tuple[str, ...]
    queue_s: float
    plan_s: float
    run_s: float
    rows: int
    bytes: int
    code: str


class AuditJournal:
    """The record of who did what. Recording never fails, never waits for storage and costs microseconds.

    Args:
        bucket: Where it is kept, under ``_audit/``.
        settings: The section ``audit`` of the configuration.
        clock: Source of time.
        redact: Takes out of a statement's text what must not be kept; called in the thread that writes.
    """

    def __init__(self, bucket: Bucket, settings: AuditSettings, clock: Clock, redact: Redaction) -> None:
        self._redact = redact
        self._redact_literals = settings.redact_literals
        self._events: AppendLog | None = None
        if settings.enabled:
            bounds = LogBounds(flush_events=settings.flush_events, flush_seconds=settings.flush_seconds)
            self._events = AppendLog(bucket, AUDIT_PREFIX, clock, bounds)
        self._table = EventTable(AUDIT_SCHEMA, AUDIT_PREFIX)

    @property
    def is_enabled(self) -> bool:
        """Whether anything is recorded."""
        return self._events is not None

    def statement(self, ended: EndedStatement) -> None:
        """Record a statement that has ended, whichever way.

        Args:
            ended: The statement; what is needed of it is copied at once.
        """
        fields = (
            ended.id, ended.principal, ended.peer, ended.request_id, ended.session_id, ended.trace_id,
            ended.kind, ended.sql, ended.tables, ended.code,
            ended.rows, ended.bytes, ended.plan_s + ended.run_s, ended.queue_s,
        )  # fmt: skip
        self._append(partial(self._statement_event, fields), 300 + len(ended.sql))

    def action(
        self,
        principal: str,
        peer: str,
        request_id: str,
        session_id: str,
        name: str,
        outcome_code: str,
        duration_s: float,
        *,
        method: str = "",
        trace_id: str = "",
        detail: str = "",
    ) -> None:
        """Record an action that has ended. Its body is not recorded: it may hold anything.

        Args:
            principal: Name of the caller.
            peer: Their address.
            request_id: Identifier of the call.
            session_id: Identifier of their session, or empty.
            name: The action, as it was asked for.
            outcome_code: Code of the error that ended it; empty or ``ok`` where it ended well.
            duration_s: Seconds it took.
            method: How the caller was recognised.
            trace_id: Identifier of the trace, or empty.
            detail: What else may be told of it, or empty.
        """
        event = {
            "kind": "action",
            "principal": principal[:_NAME_CHARACTERS],
            "method": method,
            "peer": peer,
            "request_id": request_id,
            "session_id": session_id,
            "trace_id": trace_id,
            "action": name[:_NAME_CHARACTERS],
            "outcome": outcome_code or OK,
            "duration_s": round(duration_s, 6),
            "detail": detail,
        }
        self._append(partial(_without_blanks, event), 400 + len(detail))

    def authentication(
        self, principal: str, peer: str, method: str, outcome: str = OK, *, request_id: str = ""
    ) -> None:
        """Record an attempt to authenticate.

        Args:
            principal: The name that was recognised, or else claimed; empty where there was none.
            peer: The caller's address.
            method: How it was tried: password, api_key, token, jwt, certificate …
            outcome: ``ok``, or the code of the error that refused it.
            request_id: Identifier of the call, or empty.
        """
        event = {
            "kind": "authentication",
            "principal": principal[:_NAME_CHARACTERS],
            "method": method,
            "peer": peer,
            "request_id": request_id,
            "outcome": outcome or OK,
        }
        self._append(partial(_without_blanks, event), 300)

    def flush(self) -> int:
        """Make durable what was recorded so far; gives how many events this call wrote.

        Raises:
            LakehouseError: Storage did not confirm it; the events are kept and tried again.
        """
        return self._events.flush() if self._events is not None else 0

    def recent(self, limit: int) -> list[Event]:
        """The newest events of this process, newest first."""
        return self._events.recent(limit) if self._events is not None else []

    def table(self, principal: str | None = None) -> pa.Table:
        """The newest events of all servers on the bucket, oldest first, as ``AUDIT_SCHEMA`` says.

        Args:
            principal: Only what this one did; everything when left out.

        Raises:
            StorageError: The stored events cannot be read.
        """
        table = self._table.read(self._events)
        return table if principal is None else table.filter(pc.equal(table["principal"], principal))

    def statistics(self) -> LogStatistics | None:
        """How much was recorded, written and dropped; None where nothing is recorded."""
        return self._events.statistics() if self._events is not None else None

    def close(self) -> None:
        """Make everything durable and stop."""
        if self._events is not None:
            self._events.close()

    def _append(self, make: Callable[[], Event], size: int) -> None:
        if self._events is None:
            return
        try:
            self._events.append(make, size)
        except Exception:  # noqa: BLE001 - a statement must not fail because it could not be recorded
            _log.exception("audit_event_lost")

    def _statement_event(self, fields: tuple[Any, ...]) -> Event:
        (id_, principal, peer, request_id, session_id, trace_id, kind, sql, tables, code,
         rows, bytes_, duration_s, queue_s) = fields  # fmt: skip
        text = self._redact(sql, self._redact_literals)
        if len(text) > _STATEMENT_CHARACTERS:
            text = text[:_STATEMENT_CHARACTERS] + "…"
        event = {
            "kind": "statement",
            "principal": principal,
            "peer": peer,
            "request_id": request_id,
            "session_id": session_id,
            "trace_id": trace_id,
            "statement_id": id_,
            "statement_kind": kind,
            "statement": text,
            "tables": list(tables[:_MOST_TABLES]),
            "outcome": code or OK,
        }
        sizes = {"rows": rows, "bytes": bytes_}
        times = {"duration_s": round(duration_s, 6), "queue_s": round(queue_s, 6)}
        return _without_blanks(event) | sizes | times


def _without_blanks(event: Event) -> Event:
    return {name: value for name, value in event.items() if value not in ("", [])}
