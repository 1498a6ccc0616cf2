"""``system.statements`` and ``system.sessions``: what is going on, and who started it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse.clock import Clock
from lakehouse.engine.running import RunningStatements, StatementRecord
from lakehouse.engine.session import Session, SessionRegistry
from lakehouse.engine.system_tables import SystemTable
from lakehouse.engine.usage import temporary_tables

if TYPE_CHECKING:
    from lakehouse.engine.engine import Engine

_TIME = pa.timestamp("us", tz="UTC")
_TEXTS = pa.list_(pa.field("l", pa.string()))
STATEMENTS_SCHEMA = pa.schema(
    [
        ("statement_id", pa.string()),
        ("state", pa.string()),
        ("principal", pa.string()),
        ("session_id", pa.string()),
        ("peer", pa.string()),
        ("kind", pa.string()),
        ("sql", pa.string()),
        ("tables", _TEXTS),
        ("submitted_at", _TIME),
        ("queue_seconds", pa.float64()),
        ("plan_seconds", pa.float64()),
        ("run_seconds", pa.float64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("memory_bytes", pa.int64()),
        ("code", pa.string()),
        ("error", pa.string()),
        ("rescue_used", _TEXTS),
        ("request_id", pa.string()),
        ("trace_id", pa.string()),
    ]
)
"""``state`` is planned, queued, running, finished, failed or cancelled; ``code`` and ``error`` are empty
where a statement did not fail."""
SESSIONS_SCHEMA = pa.schema(
    [
        ("session_id", pa.string()),
        ("principal", pa.string()),
        ("roles", _TEXTS),
        ("method", pa.string()),
        ("peer", pa.string()),
        ("catalog_name", pa.string()),
        ("schema_name", pa.string()),
        ("created_at", _TIME),
        ("last_used_at", _TIME),
        ("transactions", pa.int64()),
        ("prepared_statements", pa.int64()),
        ("temporary_tables", pa.int64()),
        ("running_statements", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class SessionState:
    """What an open session is and holds; ``temporary_tables`` counts those that are committed."""

    session: Session
    last_used_at: datetime
    transactions: int
    prepared_statements: int
    temporary_tables: int
    running_statements: int


def statements(running: RunningStatements, principal: str | None = None) -> list[StatementRecord]:
    """The statements that have not ended and those that ended lately, newest first.

    Args:
        running: The registry.
        principal: Only the statements of this one; all of them when left out.
    """
    # A statement may end in between, so what has not ended is read first, and each is given once.
    found = {record.id: record for record in (*running.records(), *running.recent())}
    chosen = [r for r in found.values() if principal is None or r.principal == principal]
    return sorted(chosen, key=lambda record: record.submitted_at, reverse=True)


def sessions(
    registry: SessionRegistry, engine: Engine, clock: Clock, principal: str | None = None
) -> list[SessionState]:
    """The open sessions, the one used last first.

    Args:
        registry: Where they are.
        engine: What holds their temporary tables, and runs their statements.
        clock: Source of time.
        principal: Only the sessions of this one; all of them when left out.
    """
    chosen = [s for s in registry.sessions() if principal is None or s.principal.name == principal]
    temporary = temporary_tables(engine)
    active = Counter(record.session_id for record in engine.running.working_records())
    now, now_s = clock.now(), clock.monotonic()
    states = []
    for session in sorted(chosen, key=lambda s: s.last_used_s, reverse=True):
        transactions, prepared = session.open_counts()
        used_at = now - timedelta(seconds=max(0.0, now_s - session.last_used_s))
        held = temporary.get(session.temporary, 0)
        states.append(SessionState(session, used_at, transactions, prepared, held, active[session.id]))
    return states


def statements_table(running: RunningStatements) -> SystemTable:
    """The table over the statements of this server."""

    def read(principal: str | None) -> pa.Table:
        rows = [_statement_row(running, record) for record in statements(running, principal)]
        return pa.Table.from_pylist(rows, STATEMENTS_SCHEMA)

    return SystemTable(
        "statements",
        "The statements that are running, waiting and ended lately",
        STATEMENTS_SCHEMA,
        read,
    )


def sessions_table(registry: SessionRegistry, engine: Engine, clock: Clock) -> SystemTable:
    """The table over the open sessions of this server."""

    def read(principal: str | None) -> pa.Table:
        rows = [_session_row(state) for state in sessions(registry, engine, clock, principal)]
        return pa.Table.from_pylist(rows, SESSIONS_SCHEMA)

    return SystemTable("sessions", "The open sessions and what they hold", SESSIONS_SCHEMA, read)


def _statement_row(running: RunningStatements, record: StatementRecord) -> Mapping[str, Any]:
    return {
        "statement_id": record.id,
        "state": record.state.value,
        "principal": record.principal,
        "session_id": record.session_id,
        "peer": record.peer,
        "kind": record.kind,
        "sql": record.sql,
        "tables": list(record.tables),
        "submitted_at": record.submitted_at.astimezone(UTC),
        "queue_seconds": record.queue_s,
        "plan_seconds": record.plan_s,
        "run_seconds": running.seconds_at_work(record),
        "rows": record.rows,
        "bytes": record.bytes,
        "memory_bytes": record.memory_bytes,
        "code": record.code,
        "error": record.error,
        "rescue_used": list(record.rescue_used),
        "request_id": record.request_id,
        "trace_id": record.trace_id,
    }


def _session_row(state: SessionState) -> Mapping[str, Any]:
    session = state.session
    return {
        "session_id": session.id,
        "principal": session.principal.name,
        "roles": sorted(session.principal.roles),
        "method": session.principal.method,
        "peer": session.peer,
        "catalog_name": session.catalog,
        "schema_name": session.schema,
        "created_at": session.created_at,
        "last_used_at": state.last_used_at,
        "transactions": state.transactions,
        "prepared_statements": state.prepared_statements,
        "temporary_tables": state.temporary_tables,
        "running_statements": state.running_statements,
    }
