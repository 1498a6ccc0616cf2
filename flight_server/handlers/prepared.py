"""Prepared statements: create, bind, execute, close."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import ActionHandler, DataStream, FlightPlan, QueryHandler, Upload, UploadHandler
from flight_server.execution import (
    COUNT_SCHEMA,
    RecordedFailure,
    RecordedStream,
    Recording,
    execute,
    plan_rows,
    run_change,
    watch,
)
from flight_server.protocol.codec import encode_prepared_statement, encode_update_result
from flight_server.protocol.commands import (
    ClosePreparedStatement,
    CreatePreparedStatement,
    CreatePreparedSubstraitPlan,
    PreparedStatementQuery,
    PreparedStatementUpdate,
    StatementSubstraitPlan,
)
from lakehouse.engine.engine import Plan
from lakehouse.engine.gate import Analysis
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import PreparedStatement, Session
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import InvalidRequest, LimitExceeded, NotSupported
from lakehouse.storage.rescue import reading

# A query is planned once for each row of its parameters before any of them runs.
_MAX_BOUND_ROWS = 10_000
# Values become Python objects, several times as large, so many at a time.
_ROWS_AT_A_TIME = 8192


def create(ctx: CallContext, command: CreatePreparedStatement) -> Iterator[bytes]:
    """Analyse a statement, find the types of its result and parameters, and keep it."""
    with RecordedFailure(ctx, command.query):
        answer = _prepare(ctx, command)
    yield answer


def _prepare(ctx: CallContext, command: CreatePreparedStatement) -> bytes:
    engine = ctx.lakehouse.engine
    owner = (command.transaction_id or b"").decode("ascii", "replace")
    session = ctx.lakehouse.sessions.owner(owner, ctx.session)
    transaction = session.transaction(command.transaction_id)
    analysis = engine.gate.analyse(command.query)
    dataset_schema = None
    with reading():
        parameter_schema = engine.parameter_schema(analysis, session, transaction)
        if not analysis.is_update and not analysis.detail.get("returning"):
            dataset_schema = engine.typed_schema(analysis, session, transaction, parameter_schema, watch(ctx))
    handle = ctx.lakehouse.clock.token()
    session.add_prepared(PreparedStatement(handle, analysis.sql, analysis, transaction, parameter_schema))
    announced = _in_milliseconds(parameter_schema)
    return encode_prepared_statement(handle.encode(), dataset_schema, announced, is_update=analysis.is_update)


def _in_milliseconds(schema: pa.Schema) -> pa.Schema:
    """The schema with times in milliseconds.

    JDBC drivers write milliseconds into whatever unit is announced (arrow-java#838), so any other unit would
    store a wrong time without a word. Other clients do not look at the unit.
    """
    return pa.schema([field.with_type(_milliseconds(field.type)) for field in schema])


def _milliseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("ms", kind.tz)
    return pa.time32("ms") if pa.types.is_time(kind) else kind


def close(ctx: CallContext, command: ClosePreparedStatement) -> Iterator[bytes]:
    """Forget a prepared statement; a handle that is unknown is no error."""
    name = command.handle.decode("ascii", "replace")
    ctx.lakehouse.sessions.owner(name, ctx.session).close_prepared(name)
    return iter(())


def no_substrait(ctx: CallContext, command: CreatePreparedSubstraitPlan) -> Iterator[bytes]:
    """Substrait plans are not offered."""
    raise NotSupported("Substrait plans are not supported", "send SQL")


class PreparedHandler:
    """Executes prepared statements as queries, and takes their parameters."""

    def info(self, ctx: CallContext, command: PreparedStatementQuery, descriptor: bytes) -> FlightPlan:
        """Execute with the rows bound last."""
        session, statement = _statement(ctx, command.handle)
        transaction = _transaction(session, statement)
        with Recording(ctx, statement.sql) as recording:
            return execute(ctx, session, statement.analysis, transaction, recording, statement.rows)

    def schema(self, ctx: CallContext, command: PreparedStatementQuery) -> pa.Schema:
        """The schema under the rows bound last."""
        session, statement = _statement(ctx, command.handle)
        if statement.analysis.is_update:
            return COUNT_SCHEMA
        with RecordedFailure(ctx, statement.sql):
            return self._plans(session, statement, watch(ctx))[0].schema

    def stream(self, ctx: CallContext, command: PreparedStatementQuery) -> DataStream:
        """Execute and fetch in one call, for clients that use the command as a ticket."""
        session, statement = _statement(ctx, command.handle)
        with Recording(ctx, statement.sql) as recording:
            recording.analysed(statement.analysis, session)
            plans = self._plans(session, statement, recording.watch())
            recording.goes_on = True
        return DataStream(plans[0].schema, RecordedStream(ctx, session, plans, recording.record))

    def _plans(self, session: Session, statement: PreparedStatement, watched: CallWatch) -> tuple[Plan, ...]:
        rows: list[Any] = list(statement.rows) if statement.rows else [None]
        if statement.rows is None and statement.analysis.parameters:
            rows = [[None] * len(statement.analysis.parameters)]
        return plan_rows(statement.analysis, session, _transaction(session, statement), watched, rows)

    def put(self, ctx: CallContext, command: PreparedStatementQuery, upload: Upload) -> None:
        """Keep the rows of parameters for the next execution."""
        _, statement = _statement(ctx, command.handle)
        rows = list(islice(parameter_rows(statement.analysis, upload), _MAX_BOUND_ROWS + 1))
        if len(rows) > _MAX_BOUND_ROWS:
            raise LimitExceeded(
                f"a query takes up to {_MAX_BOUND_ROWS} rows of parameters", "bind them in several parts"
            )
        statement.rows = rows or None


class PreparedUpdateHandler:
    """Executes prepared statements that change something."""

    def put(self, ctx: CallContext, command: PreparedStatementUpdate, upload: Upload) -> None:
        """Run once for each row of parameters, as one unit, and reply with the rows affected."""
        session, statement = _statement(ctx, command.handle)
        analysis = statement.analysis
        with Recording(ctx, statement.sql) as recording:
            recording.analysed(analysis, session)
            rows = parameter_rows(analysis, upload) if analysis.parameters else None
            if rows is None:
                for _ in upload.batches:
                    pass
            if not analysis.is_update and not analysis.detail.get("returning"):
                raise InvalidRequest("the prepared statement is a query", "execute it as a query")
            count = run_change(analysis, session, _transaction(session, statement), recording, rows)
        upload.reply(encode_update_result(count))


class SubstraitHandler:
    """Refuses Substrait plans cleanly."""

    def info(self, ctx: CallContext, command: StatementSubstraitPlan, descriptor: bytes) -> FlightPlan:
        """Refuse."""
        raise NotSupported("Substrait plans are not supported", "send SQL")

    def schema(self, ctx: CallContext, command: StatementSubstraitPlan) -> pa.Schema:
        """Refuse."""
        raise NotSupported("Substrait plans are not supported", "send SQL")

    def stream(self, ctx: CallContext, command: StatementSubstraitPlan) -> DataStream:
        """Refuse."""
        raise NotSupported("Substrait plans are not supported", "send SQL")

    def put(self, ctx: CallContext, command: StatementSubstraitPlan, upload: Upload) -> None:
        """Refuse."""
        raise NotSupported("Substrait plans are not supported", "send SQL")


def parameter_rows(analysis: Analysis, upload: Upload) -> Iterator[list[Any]]:
    """The rows of parameters that a client sends, in the order in which the statement takes them.

    Raises:
        InvalidRequest: The number of columns does not fit, or a value has no SQL form.
    """
    names, expected = upload.schema.names, analysis.parameters
    if len(names) == 0:
        return
    if len(names) != len(expected):
        raise InvalidRequest(
            f"the statement has {len(expected)} parameters, but {len(names)} columns were bound"
        )
    order = [names.index(p) for p in expected] if sorted(names) == sorted(expected) else range(len(names))
    for batch in upload.batches:
        for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
            part = batch.slice(start, _ROWS_AT_A_TIME)
            columns = [_values(part.column(i), names[i]) for i in order]
            for row in zip(*columns, strict=True):
                yield list(row)


def _values(column: pa.Array, name: str) -> list[Any]:
    try:
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            column = column.cast(pa.timestamp("us", column.type.tz))
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise InvalidRequest(f"parameter {name}: its values of type {column.type} cannot be bound") from error
    return values


def _statement(ctx: CallContext, handle: bytes) -> tuple[Session, PreparedStatement]:
    name = handle.decode("ascii", "replace")
    session = ctx.lakehouse.sessions.owner(name, ctx.session)
    return session, session.prepared(name)


def _transaction(session: Session, statement: PreparedStatement) -> Transaction | None:
    """The transaction to run in: the statement's own while that is open, else the session's current one.

    ADBC keeps using a statement after COMMIT with the id it was prepared under; it means the current one.
    """
    own = statement.transaction
    if own is not None and own.open:
        return own
    return session.only_transaction() if own is not None else session.sql_transaction


def query_handlers() -> dict[type, QueryHandler]:
    """Who answers GetFlightInfo, GetSchema and DoGet."""
    return {PreparedStatementQuery: PreparedHandler(), StatementSubstraitPlan: SubstraitHandler()}


def upload_handlers() -> dict[type, UploadHandler]:
    """Who answers DoPut."""
    return {
        PreparedStatementQuery: PreparedHandler(),
        PreparedStatementUpdate: PreparedUpdateHandler(),
        StatementSubstraitPlan: SubstraitHandler(),
    }


def action_handlers() -> dict[type, ActionHandler]:
    """Who answers DoAction."""
    return {
        CreatePreparedStatement: create,
        ClosePreparedStatement: close,
        CreatePreparedSubstraitPlan: no_substrait,
    }
