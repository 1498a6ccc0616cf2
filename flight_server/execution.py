"""Running statements for handlers: what is planned waits under a handle until it is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import Endpoint, FlightPlan
from flight_server.protocol.codec import encode_statement_ticket
from lakehouse.engine.changes import Scope
from lakehouse.engine.engine import Plan
from lakehouse.engine.gate import Analysis
from lakehouse.engine.result import ResultStream
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session, StatementHandle
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import StatementCancelled

COUNT_SCHEMA = pa.schema([pa.field("Count", pa.int64())])


def watch(ctx: CallContext) -> CallWatch:
    """How a statement of this call learns that it should stop."""
    return CallWatch(ctx.cancelled, ctx.limits.statement_timeout_s)


def execute(
    ctx: CallContext,
    session: Session,
    analysis: Analysis,
    transaction: Transaction | None,
    rows: Sequence[Sequence[Any]] | None = None,
) -> FlightPlan:
    """Plan a query, or run a statement that changes something, and keep the outcome under a handle.

    A query is planned here and runs when it is fetched, once for each row of parameters; anything else
    runs exactly once, here.
    """
    engine, clock = ctx.lakehouse.engine, ctx.lakehouse.clock
    seconds = ctx.lakehouse.settings.session.handle_seconds
    handle = StatementHandle(clock.token(), COUNT_SCHEMA, expires_s=clock.monotonic() + seconds)
    if analysis.is_update:
        count = engine.changes.run(analysis, Scope(session, transaction, watch(ctx)), rows)
        handle.result = pa.table([pa.array([count], pa.int64())], schema=COUNT_SCHEMA)
    elif analysis.detail.get("returning"):
        _, table = engine.changes.modify(analysis, Scope(session, transaction, watch(ctx)), rows)
        handle.result = table if table is not None else COUNT_SCHEMA.empty_table()
        handle.schema = handle.result.schema
    else:
        handle.plans = tuple(
            engine.plan(analysis, session, transaction, row)
            for row in (rows if rows is not None else (None,))
        ) or (engine.plan(analysis, session, transaction, None),)
        handle.schema = handle.plans[0].schema
    session.add_handle(handle)
    return FlightPlan(
        handle.schema,
        (
            Endpoint(
                encode_statement_ticket(handle.handle.encode()), clock.now() + timedelta(seconds=seconds)
            ),
        ),
        total_records=handle.result.num_rows if handle.result is not None else -1,
        total_bytes=handle.result.nbytes if handle.result is not None else -1,
    )


class RunningHandle:
    """The rows of a handle's plans, one plan after the other; stops when the handle is cancelled."""

    def __init__(self, ctx: CallContext, session: Session, handle: StatementHandle) -> None:
        self._handle = handle
        self._session = session
        self._engine = ctx.lakehouse.engine
        self._watch = CallWatch(lambda: handle.cancelled or ctx.cancelled(), ctx.limits.statement_timeout_s)
        self._plans: list[Plan] = list(reversed(handle.plans))
        self._open = True
        handle.active += 1
        try:
            self._stream = self._next_plan()
        except BaseException:
            self.close()
            raise

    def _next_plan(self) -> ResultStream:
        if self._handle.cancelled:
            raise StatementCancelled("the statement was cancelled")
        return self._engine.open(self._plans.pop(), self._session, self._watch)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            while True:
                for batch in self._stream:
                    return batch
                if not self._plans:
                    break
                self._stream = self._next_plan()
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Stop what runs. Harmless when repeated."""
        if self._open:
            self._open = False
            self._handle.active -= 1
            stream = getattr(self, "_stream", None)
            if stream is not None:
                stream.close()

    def __del__(self) -> None:
        self.close()
