"""Statements from their arrival to their end: recorded, admitted, watched for cancellation and time-out."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, TypeVar

import structlog

from lakehouse import telemetry
from lakehouse.clock import Clock
from lakehouse.config.settings import LimitSettings
from lakehouse.engine.admission import Admission
from lakehouse.errors import (
    InternalError,
    LakehouseError,
    LimitExceeded,
    ShuttingDown,
    StatementCancelled,
    StatementTimeout,
)
from lakehouse.storage.rescue import used

log = structlog.get_logger(__name__)

_WEIGH_SECONDS = 0.1
_POLL_SECONDS = 0.02
_STALL_SECONDS = 1.0
_RECENT_RECORDS = 1000
_RECORDED_CHARACTERS = 20_000
ABANDONED = "ABANDONED"
"""Code of a record whose statement was planned but whose result nobody fetched."""


Batch = TypeVar("Batch")


def _never() -> bool:
    return False


class StatementState(Enum):
    """Where a statement is. ``PLANNED``: being planned, or waiting for its client to fetch the result."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(eq=False, slots=True)
class StatementRecord:
    """What is known of one statement, from its arrival until after its end.

    Attributes:
        kind: Value of its ``StatementKind``, "ingest" or "flight"; empty until its text has been understood.
        tables: Full names of the lake tables that it reads or writes.
        queue_s, plan_s, run_s: Seconds spent waiting for a place, planning, and at work or being fetched.
        rows, bytes: Size of the result so far, or the number of rows changed.
        memory_bytes: Most memory that the engine used, for all that it did, while the statement was at work;
            0 for one that was over before it was looked at, within a tenth of a second.
        code: Code of the error that ended it; empty where it ended well.
        rescue_used: The buckets in whose place it read the rescue bucket.
        stop: Why it has to stop, once somebody wants that.
        began_s: Monotonic time since which it is at work; ``None`` while it is not.
    """

    id: str
    submitted_at: datetime
    sql: str = ""
    kind: str = ""
    request_id: str = ""
    session_id: str = ""
    principal: str = ""
    peer: str = ""
    trace_id: str = ""
    tables: tuple[str, ...] = ()
    state: StatementState = StatementState.PLANNED
    queue_s: float = 0.0
    plan_s: float = 0.0
    run_s: float = 0.0
    rows: int = 0
    bytes: int = 0
    memory_bytes: int = 0
    code: str = ""
    error: str = ""
    rescue_used: tuple[str, ...] = ()
    profile: dict[str, Any] | None = None
    stop: LakehouseError | None = None
    began_s: float | None = None

    def note_rescue(self) -> None:
        """Note from which buckets' copies this call has read for the statement, if any."""
        found = used()
        if found:
            self.rescue_used = tuple(sorted({*self.rescue_used, *found}))

    def check_stop(self) -> None:
        """Raise the reason why the statement has to stop, if it has to."""
        if self.stop is not None:
            raise self.stop


@dataclass(frozen=True, slots=True)
class CallWatch:
    """How a statement learns that it should stop, and where it is recorded.

    ``nested`` is one that another, which has a place already, needs to go on: it does not wait for one.
    """

    cancelled: Callable[[], bool] = _never
    timeout_s: float | None = None
    record: StatementRecord | None = None
    nested: bool = False

    def note_tables(self, names: Iterable[object]) -> None:
        """Record which lake tables the statement reads or writes."""
        if self.record is not None:
            self.record.tables = tuple(dict.fromkeys([*self.record.tables, *map(str, names)]))


class Closable(Protocol):
    """Something that is open until it is closed."""

    def close(self) -> None:
        """Release it. Harmless when repeated."""
        ...


@dataclass(eq=False, slots=True)
class RunningStatement:
    """A statement at work, or waiting for a place to work.

    ``cancelled`` is asked from the watching thread, but never after ``finish`` has returned. ``interrupt``
    stops what is going on at the moment. ``idle_since_s`` is set while a result waits for its client to take
    the next batch; only then may another thread close ``stream``.
    """

    record: StatementRecord
    cancelled: Callable[[], bool]
    timeout_s: float | None
    started_s: float
    deadline_s: float | None = None
    interrupt: Callable[[], None] | None = None
    stream: Closable | None = None
    idle_since_s: float | None = None
    has_place: bool = False
    finished: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def reason(self) -> LakehouseError | None:
        """Why it has to stop, if it has to."""
        return self.record.stop

    def halt(self, reason: LakehouseError) -> Closable | None:
        """Interrupt what goes on for this reason, unless it has another already.

        Returns:
            The stream to close, where nothing goes on because a result waits for its client. A stream whose
            statement has to stop takes up no work any more, so that it can be closed from any thread.
        """
        with self.lock:
            if self.finished:
                return None
            if self.record.stop is None:
                self.record.stop = reason
            return self._interrupt()

    def attach(self, interrupt: Callable[[], None]) -> None:
        """Say how to interrupt what comes next.

        Raises:
            LakehouseError: It has been stopped meanwhile.
        """
        with self.lock:
            self.record.check_stop()
            self.interrupt = interrupt

    def check(self, now_s: float, idle_limit_s: float) -> Closable | None:
        """Stop the statement if its client has gone or its time is up; gives what ``halt`` gives."""
        with self.lock:
            if self.finished:
                return None
            record = self.record
            if record.stop is None:
                record.stop = self._overdue(now_s, idle_limit_s)
            return None if record.stop is None else self._interrupt()

    def _overdue(self, now_s: float, idle_limit_s: float) -> LakehouseError | None:
        if self.cancelled():
            return StatementCancelled("the client cancelled the statement")
        if self.deadline_s is not None and now_s > self.deadline_s:
            return StatementTimeout(
                f"the statement ran longer than {self.timeout_s:g} s", "limits.statement_timeout_seconds"
            )
        if self.idle_since_s is not None and now_s - self.idle_since_s > idle_limit_s:
            return LimitExceeded(
                f"nothing was read of the result for {idle_limit_s:g} s (session.idle_seconds)"
            )
        return None

    def _interrupt(self) -> Closable | None:
        if self.idle_since_s is not None:
            return self.stream
        if self.interrupt is not None:
            self.interrupt()
        return None


class RunningStatements:
    """The registry of statements: what runs, what waits, and what has ended lately.

    A statement is recorded when it arrives (``arrive``) and ends exactly once (``end``). Each time it has
    work to do it takes one of a limited number of places (``start``) until that work is done (``finish``).
    A result whose client does not read on lends its place to others after a second, and takes it back
    without waiting; one that is not read for the idle limit is closed.

    Args:
        clock: Source of time and ids.
        limits: How many statements may work and wait.
        idle_seconds: A result of which nothing is read for so long is closed.

    Attributes:
        observers: Called with the record of every statement that has ended. They have to be quick.
        measure: Gives the memory that the engine uses, in bytes.
    """

    def __init__(self, clock: Clock, limits: LimitSettings, idle_seconds: float) -> None:
        self._clock = clock
        self._idle_seconds = idle_seconds
        self.admission = Admission(limits)
        self.observers: list[Callable[[StatementRecord], None]] = []
        self.measure: Callable[[], int] = int
        self._measured_s = 0.0
        self._prefix = clock.token()[:8]
        self._numbers = itertools.count(1)
        self._records: dict[str, StatementRecord] = {}
        self._recent: deque[StatementRecord] = deque(maxlen=_RECENT_RECORDS)
        # Changed by one step each, and copied before it is looked through: needs no lock of its own.
        self._statements: set[RunningStatement] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="statement-watch", daemon=True)
        self._thread.start()

    # -- records ------------------------------------------------------------------------------------

    def arrive(
        self,
        sql: str,
        *,
        kind: str = "",
        principal: str = "",
        session_id: str = "",
        request_id: str = "",
        peer: str = "",
    ) -> StatementRecord:
        """Record a statement that has just arrived; only so much of its text is kept as people read."""
        span = telemetry.current()
        record = StatementRecord(
            f"{self._prefix}-{next(self._numbers)}",
            self._clock.now(),
            sql if len(sql) <= _RECORDED_CHARACTERS else sql[:_RECORDED_CHARACTERS] + "…",
            kind,
            request_id,
            session_id,
            principal,
            peer,
            "" if span is None else span.trace_id,
        )
        self._records[record.id] = record
        return record

    def end(self, record: StatementRecord, error: BaseException | None = None, code: str = "") -> None:
        """Note how a statement has ended, and tell the observers. Harmless when repeated: the first counts.

        Args:
            record: The statement.
            error: What ended it, unless it ended well.
            code: What to note instead of the error's own code.
        """
        if self._records.pop(record.id, None) is None:
            return
        record.note_rescue()
        if error is None:
            record.state = StatementState.FINISHED
        else:
            told = error if isinstance(error, LakehouseError) else InternalError("the statement failed")
            cancelled = isinstance(told, StatementCancelled)
            record.state = StatementState.CANCELLED if cancelled else StatementState.FAILED
            record.code, record.error = code or told.code, told.message
        self._recent.append(record)
        for observer in self.observers:
            try:
                observer(record)
            except Exception:
                log.exception("an observer of statements failed", statement=record.id)

    def abandon(self, record: StatementRecord) -> None:
        """Note that nobody fetched what was planned."""
        self.end(record, record.stop or StatementCancelled("the result was never fetched"), ABANDONED)

    def has_ended(self, record: StatementRecord) -> bool:
        """Whether a statement has ended."""
        return record.id not in self._records

    def records(self) -> list[StatementRecord]:
        """The statements that have not ended: planned, queued and running, oldest first."""
        return list(self._records.copy().values())

    def find(self, statement_id: str) -> StatementRecord | None:
        """The statement of that id, if it has not ended."""
        return self._records.get(statement_id)

    def working_records(self) -> list[StatementRecord]:
        """The records of the statements that are at work or wait for their turn."""
        return [statement.record for statement in self._statements.copy()]

    def recent(self) -> list[StatementRecord]:
        """Statements that have ended lately, oldest first."""
        return list(self._recent.copy())

    def seconds_at_work(self, record: StatementRecord) -> float:
        """How long a statement has been at work so far."""
        began_s = record.began_s
        return record.run_s + (0.0 if began_s is None else self._clock.monotonic() - began_s)

    def kill(self, record: StatementRecord, reason: LakehouseError) -> bool:
        """Stop a statement wherever it is; gives whether it had not ended yet."""
        if self.has_ended(record):
            return False
        if record.stop is None:
            record.stop = reason
        working = [s for s in self._statements.copy() if s.record is record]
        for statement in working:
            self._stop_work(statement, reason)
        if not working and record.state is StatementState.PLANNED:
            self.end(record, record.stop)
        return True

    # -- work ---------------------------------------------------------------------------------------

    def start(self, watch: CallWatch, session_id: str) -> RunningStatement:
        """Take a place for a statement, waiting for one where there is none free.

        Args:
            watch: How it learns to stop.
            session_id: Whose it is, where it is not recorded.

        Raises:
            LimitExceeded: Too many statements wait, or it waited for too long.
            LakehouseError: It was stopped while it waited.
        """
        statement = self._register(watch, session_id)
        record, admission = statement.record, self.admission
        try:
            if watch.nested:
                admission.enter_again()
            elif not admission.try_enter():
                record.state = StatementState.QUEUED
                with telemetry.span("queue"):
                    admission.wait(record.principal, statement.attach, record.check_stop)
            statement.has_place = True
            now = self._clock.monotonic()
            record.queue_s += now - statement.started_s
            statement.started_s = record.began_s = now
            if watch.timeout_s:
                statement.deadline_s = now + watch.timeout_s - record.plan_s - record.run_s
            record.check_stop()
        except BaseException:
            if not statement.has_place:
                record.queue_s += self._clock.monotonic() - statement.started_s
            self.finish(statement)
            raise
        record.state = StatementState.RUNNING
        return statement

    @contextmanager
    def planning(
        self, watch: CallWatch | None, session_id: str, interrupt: Callable[[], None]
    ) -> Iterator[None]:
        """Watch a statement while it is planned, which takes no place.

        Raises:
            LakehouseError: It has been stopped.
        """
        if watch is None:
            yield
            return
        statement = self._register(watch, session_id)
        if watch.timeout_s:
            statement.deadline_s = statement.started_s + watch.timeout_s
        try:
            statement.attach(interrupt)
            yield
        except StatementCancelled:
            statement.record.check_stop()
            raise
        finally:
            self._unregister(statement)

    def finish(self, statement: RunningStatement) -> None:
        """Give a statement's place back and forget it; afterwards nothing of it is touched any more."""
        if self._unregister(statement):
            self.admission.leave()
        record = statement.record
        if record.began_s is not None:
            record.run_s += self._clock.monotonic() - record.began_s
            record.began_s = None

    @contextmanager
    def working(self, watch: CallWatch, session_id: str) -> Iterator[RunningStatement]:
        """A place for the length of a ``with``; what stopped the statement is what comes out of it.

        Raises:
            LakehouseError: See ``start``; or the statement was stopped.
        """
        statement = self.start(watch, session_id)
        try:
            yield statement
        except LakehouseError:
            statement.record.check_stop()
            raise
        finally:
            self.finish(statement)

    def arriving(self, statement: RunningStatement, batches: Iterable[Batch]) -> Iterator[Batch]:
        """What a client sends for a statement, which lends its place while it waits for the client."""
        incoming = iter(batches)
        while True:
            self.pause(statement)
            try:
                batch = next(incoming)
            except StopIteration:
                return
            except LakehouseError as error:
                # Engines that read this from foreign code would turn the error into text.
                statement.record.stop = statement.record.stop or error
                raise
            finally:
                self.resume(statement)
            yield batch

    def pause(self, statement: RunningStatement) -> None:
        """Note that a result waits for its client to take the next batch."""
        statement.idle_since_s = self._clock.monotonic()

    def resume(self, statement: RunningStatement) -> None:
        """Note that the client of a result takes the next batch.

        Raises:
            LakehouseError: The statement has been stopped.
        """
        with statement.lock:
            statement.record.check_stop()
            statement.idle_since_s = None
            if not statement.has_place and not statement.finished:
                self.admission.enter_again()
                statement.has_place = True

    def of_session(self, session_id: str) -> list[RunningStatement]:
        """The statements of a session that are at work or wait for their turn."""
        return [s for s in self._statements.copy() if s.record.session_id == session_id]

    def count(self) -> int:
        """How many statements are at work or wait for their turn."""
        return len(self._statements)

    def cancel_session(self, session_id: str, reason: LakehouseError | None = None) -> int:
        """Stop everything that a session runs; gives how much that was."""
        statements = self.of_session(session_id)
        for statement in statements:
            self._stop_work(statement, reason or StatementCancelled("the session was closed"))
        return len(statements)

    def cancel_all(self) -> None:
        """Stop everything."""
        for statement in self._statements.copy():
            self._stop_work(statement, ShuttingDown("the server is shutting down"))

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=1)

    # -- plumbing -----------------------------------------------------------------------------------

    def _register(self, watch: CallWatch, session_id: str) -> RunningStatement:
        record = watch.record or StatementRecord("", self._clock.now(), session_id=session_id)
        statement = RunningStatement(record, watch.cancelled, watch.timeout_s, self._clock.monotonic())
        self._statements.add(statement)
        return statement

    def _unregister(self, statement: RunningStatement) -> bool:
        """Forget a statement; gives whether it had a place, which is the caller's to give back."""
        with statement.lock:
            had_place = statement.has_place
            statement.has_place = False
            statement.finished = True
        self._statements.discard(statement)
        return had_place

    def _watch(self) -> None:
        """Poll rather than be woken: waking a thread for each statement would cost every short one dearly."""
        while not self._stop.wait(_POLL_SECONDS):
            if not self._statements:
                continue
            now = self._clock.monotonic()
            self._weigh(now)
            for statement in self._statements.copy():
                try:
                    self._close_stalled(statement, statement.check(now, self._idle_seconds))
                    self._lend(statement, now)
                except Exception:
                    log.exception("watching a statement failed", statement=statement.record.id)

    def _weigh(self, now_s: float) -> None:
        """Note what memory the engine uses, in the records of statements that have been at work a while."""
        if now_s - self._measured_s < _WEIGH_SECONDS:
            return
        weighed = [
            statement.record
            for statement in self._statements.copy()
            if statement.has_place and now_s - (statement.record.began_s or now_s) >= _WEIGH_SECONDS
        ]
        if not weighed:
            return
        self._measured_s = now_s
        try:
            used = self.measure()
        except LakehouseError:
            return
        for record in weighed:
            record.memory_bytes = max(record.memory_bytes, used)

    def _stop_work(self, statement: RunningStatement, reason: LakehouseError) -> None:
        self._close_stalled(statement, statement.halt(reason))

    def _close_stalled(self, statement: RunningStatement, stream: Closable | None) -> None:
        """Free what a result holds whose client does not read on, and which has to stop."""
        if stream is not None:
            stream.close()
            self.end(statement.record, statement.record.stop)

    def _lend(self, statement: RunningStatement, now_s: float) -> None:
        """Give the place of a result that its client does not read to others."""
        with statement.lock:
            idle_since_s = statement.idle_since_s
            if not statement.has_place or idle_since_s is None or now_s - idle_since_s < _STALL_SECONDS:
                return
            statement.has_place = False
        self.admission.leave()
