"""What is running: every statement at work, watched for cancellation and time-out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import duckdb

from lakehouse.clock import Clock
from lakehouse.errors import LakehouseError, StatementCancelled, StatementTimeout

_POLL_SECONDS = 0.02


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class CallWatch:
    """How a running statement learns that it should stop."""

    cancelled: Callable[[], bool] = _never
    timeout_s: float | None = None


@dataclass(eq=False)
class RunningStatement:
    """A statement at work on one DuckDB connection.

    ``cancelled`` is asked from the watching thread, but never after ``finish`` has returned.
    """

    session_id: str
    sql: str
    connection: duckdb.DuckDBPyConnection
    cancelled: Callable[[], bool]
    started_s: float
    deadline_s: float | None
    timeout_s: float | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    reason: LakehouseError | None = None
    finished: bool = False

    def cancel(self, reason: LakehouseError | None = None) -> bool:
        """Interrupt the statement; gives whether it was still at work."""
        with self.lock:
            if self.finished:
                return False
            self.reason = self.reason or reason or StatementCancelled("the statement was cancelled")
            self.connection.interrupt()
            return True

    def check(self, now_s: float) -> None:
        """Interrupt the statement if its client has gone or its time is up."""
        with self.lock:
            if self.finished:
                return
            if self.reason is None and self.cancelled():
                self.reason = StatementCancelled("the client cancelled the statement")
            if self.reason is None and self.deadline_s is not None and now_s > self.deadline_s:
                self.reason = StatementTimeout(
                    f"the statement ran longer than {self.timeout_s:g} s", "limits.statement_timeout_seconds"
                )
            if self.reason is not None:
                self.connection.interrupt()


class RunningStatements:
    """The registry of running statements, with the thread that watches them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._statements: set[RunningStatement] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="statement-watch", daemon=True)
        self._thread.start()

    def start(
        self,
        session_id: str,
        sql: str,
        connection: duckdb.DuckDBPyConnection,
        cancelled: Callable[[], bool],
        timeout_s: float | None,
    ) -> RunningStatement:
        """Register a statement that is about to run."""
        now = self._clock.monotonic()
        deadline = now + timeout_s if timeout_s else None
        statement = RunningStatement(session_id, sql, connection, cancelled, now, deadline, timeout_s)
        with self._lock:
            self._statements.add(statement)
        return statement

    def finish(self, statement: RunningStatement) -> None:
        """Forget a statement; afterwards nothing of it is touched any more."""
        with statement.lock:
            statement.finished = True
        with self._lock:
            self._statements.discard(statement)

    def of_session(self, session_id: str) -> list[RunningStatement]:
        """The running statements of a session."""
        with self._lock:
            return [s for s in self._statements if s.session_id == session_id]

    def count(self) -> int:
        """How many statements are running."""
        return len(self._statements)

    def cancel_session(self, session_id: str) -> None:
        """Interrupt everything that a session runs."""
        for statement in self.of_session(session_id):
            statement.cancel()

    def cancel_all(self) -> None:
        """Interrupt everything."""
        with self._lock:
            statements = list(self._statements)
        for statement in statements:
            statement.cancel(StatementCancelled("the server is shutting down"))

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=1)

    def _watch(self) -> None:
        """Poll rather than be woken: waking a thread for each statement would cost every short one dearly."""
        while not self._stop.wait(_POLL_SECONDS):
            if not self._statements:
                continue
            with self._lock:
                statements = list(self._statements)
            now = self._clock.monotonic()
            for statement in statements:
                statement.check(now)
