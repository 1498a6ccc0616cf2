"""Running statements for handlers: each is recorded; what is planned waits under a handle to be fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import DataStream, Endpoint, FlightPlan
from flight_server.protocol.codec import encode_statement_ticket
from lakehouse import telemetry
from lakehouse.engine.changes import Scope
from lakehouse.engine.engine import Plan
from lakehouse.engine.gate import Analysis
from lakehouse.engine.result import ResultStream, SpooledResult
from lakehouse.engine.running import CallWatch, StatementRecord
from lakehouse.engine.session import Session, StatementHandle
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import StatementCancelled
from lakehouse.storage import rescue

COUNT_SCHEMA = pa.schema([pa.field("Count", pa.int64())])


def watch(ctx: CallContext, record: StatementRecord | None = None) -> CallWatch:
    """How a statement of this call learns that it should stop, and where it is recorded."""
    return CallWatch(ctx.cancelled, ctx.limits.statement_timeout_s, record)


def arrive(ctx: CallContext, sql: str, kind: str = "") -> StatementRecord:
    """Record a statement of this call."""
    session = ctx.session
    return ctx.lakehouse.engine.running.arrive(
        sql,
        kind=kind,
        principal=session.principal.name,
        session_id=session.id,
        request_id=ctx.request_id,
        peer=ctx.peer,
    )


class Recording:
    """Records the statement that a ``with`` is about, and how it ends.

    Attributes:
        record: The record; it ends with the block unless ``goes_on`` is set in it.
        goes_on: Whether the statement outlives the block: it waits to be fetched, or is being streamed.
    """

    __slots__ = ("_began_s", "_ctx", "goes_on", "record")

    def __init__(self, ctx: CallContext, sql: str, kind: str = "") -> None:
        self._ctx = ctx
        self._began_s = ctx.lakehouse.clock.monotonic()
        self.record = arrive(ctx, sql, kind)
        self.goes_on = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record = self.record
        elapsed_s = self._ctx.lakehouse.clock.monotonic() - self._began_s
        record.plan_s += max(0.0, elapsed_s - record.queue_s - record.run_s)
        record.note_rescue()
        if error is not None or not self.goes_on:
            self._ctx.lakehouse.engine.running.end(record, error)

    def analysed(self, analysis: Analysis, session: Session) -> None:
        """Note what the statement turned out to be, and in which session it runs."""
        self.record.kind = analysis.kind.value
        self.record.session_id = session.id
        _show(self.record)

    def watch(self) -> CallWatch:
        """How the statement learns that it should stop."""
        return watch(self._ctx, self.record)


class RecordedFailure:
    """Records a statement only if the ``with`` that is about it fails: for requests that run nothing.

    Preparing a statement that is refused has to leave a trace; the executions of one that is not, do.
    """

    __slots__ = ("_ctx", "_kind", "_sql")

    def __init__(self, ctx: CallContext, sql: str, kind: str = "") -> None:
        self._ctx = ctx
        self._sql = sql
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._ctx.lakehouse.engine.running.end(arrive(self._ctx, self._sql, self._kind), error)


def execute(
    ctx: CallContext,
    session: Session,
    analysis: Analysis,
    transaction: Transaction | None,
    recording: Recording,
    rows: Sequence[Sequence[Any]] | None = None,
) -> FlightPlan:
    """Plan a query, or run a statement that changes something, and keep the outcome under a handle.

    A query is planned here and runs when it is fetched, once for each row of parameters; anything else
    runs exactly once, here.
    """
    engine = ctx.lakehouse.engine
    handle = new_handle(ctx, COUNT_SCHEMA)
    recording.analysed(analysis, session)
    if analysis.is_update:
        count = run_change(analysis, session, transaction, recording, rows)
        handle.result = pa.table([pa.array([count], pa.int64())], schema=COUNT_SCHEMA)
    elif analysis.detail.get("returning"):
        scope = Scope(session, transaction, recording.watch())
        count, table = engine.changes.modify(analysis, scope, rows)
        recording.record.rows = count
        handle.result = table if table is not None else COUNT_SCHEMA.empty_table()
        handle.schema = handle.result.schema
    else:
        handle.plans = plan_rows(analysis, session, transaction, recording.watch(), rows)
        handle.schema = handle.plans[0].schema
        handle.record = recording.record
        recording.goes_on = True
    ticket, expires_at = announced(ctx, session, handle)
    return FlightPlan(
        handle.schema,
        (Endpoint(ticket, expires_at),),
        total_records=handle.result.num_rows if handle.result is not None else -1,
        total_bytes=handle.result.nbytes if handle.result is not None else -1,
    )


def kept_result(ctx: CallContext, result: pa.Table) -> tuple[bytes, datetime]:
    """The ticket that a finished result can be fetched with, and until when."""
    handle = new_handle(ctx, result.schema)
    handle.result = result
    return announced(ctx, ctx.session, handle)


def new_handle(ctx: CallContext, schema: pa.Schema) -> StatementHandle:
    """A handle for rows of these columns; its time begins now."""
    clock, seconds = ctx.lakehouse.clock, ctx.lakehouse.settings.session.handle_seconds
    return StatementHandle(clock.token(), schema, expires_s=clock.monotonic() + seconds)


def announced(ctx: CallContext, session: Session, handle: StatementHandle) -> tuple[bytes, datetime]:
    """Keep a handle in a session; gives the ticket that its rows can be fetched with, and until when."""
    session.add_handle(handle)
    seconds = timedelta(seconds=ctx.lakehouse.settings.session.handle_seconds)
    return encode_statement_ticket(handle.handle.encode()), ctx.lakehouse.clock.now() + seconds


def plan_rows(
    analysis: Analysis,
    session: Session,
    transaction: Transaction | None,
    watched: CallWatch,
    rows: Sequence[Sequence[Any]] | None,
) -> tuple[Plan, ...]:
    """Plan a query once for each row of parameters, and at least once."""
    with rescue.reading():
        plans = tuple(
            session.engine.plan(analysis, session, transaction, row, watched) for row in (rows or (None,))
        )
    watched.note_tables(plans[0].names)
    return plans


def run_change(
    analysis: Analysis,
    session: Session,
    transaction: Transaction | None,
    recording: Recording,
    rows: Iterable[Sequence[Any]] | None = None,
) -> int:
    """Run a statement that changes something; gives the number of rows affected."""
    scope = Scope(session, transaction, recording.watch())
    changes = session.engine.changes
    if analysis.detail.get("returning"):
        count, _ = changes.modify(analysis, scope, rows)
    else:
        count = changes.run(analysis, scope, rows)
    recording.record.rows = count
    return count


def fetch(ctx: CallContext, session: Session, handle: StatementHandle) -> DataStream:
    """Run what a handle stands for, or give the result that it holds."""
    engine = ctx.lakehouse.engine
    if handle.result is not None:
        return DataStream(handle.schema, engine.batches_of(handle.result))
    if handle.cancelled:
        raise StatementCancelled("the statement was cancelled")
    record = session.take_record(handle) or _again(ctx, handle)
    _show(record)
    handle.fetches.add(record)
    rescue.note(*record.rescue_used)
    stream = RecordedStream(ctx, session, handle.plans, record, lambda: handle.fetches.discard(record))
    return DataStream(handle.schema, stream)


def _show(record: StatementRecord) -> None:
    """Let the trace of the call tell which statement it is about."""
    call = telemetry.current()
    if call is not None:
        call.set({"statement": record.id, "kind": record.kind})


def _again(ctx: CallContext, handle: StatementHandle) -> StatementRecord:
    """A record for one more fetch of a statement."""
    first = handle.record
    assert first is not None
    record = arrive(ctx, first.sql, first.kind)
    record.tables = first.tables
    record.rescue_used = first.rescue_used
    return record


def _nothing() -> None:
    return None


class RecordedStream:
    """The rows of a statement's plans, one plan after the other; its end is noted in the record.

    Args:
        ctx: The call that fetches them.
        session: In which session they run.
        plans: What to run.
        record: The record of the statement.
        on_end: Called once, whichever way it ends.
    """

    def __init__(
        self,
        ctx: CallContext,
        session: Session,
        plans: Sequence[Plan],
        record: StatementRecord,
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        self._engine = ctx.lakehouse.engine
        self._session = session
        self._watch = watch(ctx, record)
        self._record = record
        self._plans: list[Plan] = list(reversed(plans))
        self._on_end: Callable[[], None] | None = on_end
        self._stream: ResultStream | SpooledResult | None = None
        try:
            self._stream = self._next_plan()
        except BaseException as error:
            self._end(error)
            raise

    def _next_plan(self) -> ResultStream | SpooledResult:
        return self._engine.open(self._plans.pop(), self._session, self._watch)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            while self._stream is not None:
                for batch in self._stream:
                    return batch
                self._stream = self._next_plan() if self._plans else None
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)
        raise StopIteration

    def close(self) -> None:
        """Stop what runs. Harmless when repeated."""
        self._end(StatementCancelled("the client went away before the end of the result"))

    def _end(self, error: BaseException | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        if self._stream is not None:
            self._stream.close()
        on_end()
        self._engine.running.end(self._record, error)

    def __del__(self) -> None:
        self.close()
