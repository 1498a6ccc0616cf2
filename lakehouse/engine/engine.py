"""The query engine: plans, runs and streams statements for sessions."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pyarrow as pa

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.access.policy import AccessPolicy
from lakehouse.access.principal import Principal
from lakehouse.catalog import Catalogs
from lakehouse.catalog.sql_view import SqlView
from lakehouse.clock import Clock
from lakehouse.config import Settings
from lakehouse.engine.binding import Binder, Bound, Scan
from lakehouse.engine.changes import Changes
from lakehouse.engine.database import (
    Binding,
    CursorState,
    DuckDatabase,
    PooledCursor,
    Supply,
    bound_files,
)
from lakehouse.engine.errors import duckdb_errors
from lakehouse.engine.explain import shown_plans
from lakehouse.engine.gate import Analysis, StatementGate, StatementKind
from lakehouse.engine.parameters import infer_parameters
from lakehouse.engine.profiles import Profiler
from lakehouse.engine.result import (
    ResultLimits,
    ResultStream,
    SpooledResult,
    relation_schema,
    rows_per_batch,
    split,
)
from lakehouse.engine.running import CallWatch, RunningStatement, RunningStatements
from lakehouse.engine.search_input import SearchInput
from lakehouse.engine.session import Session
from lakehouse.engine.system_tables import SystemTable, SystemTables
from lakehouse.engine.transaction import Transaction, live_transactions
from lakehouse.engine.usage import memory_used
from lakehouse.errors import (
    ConfigError,
    EngineInvalidated,
    InvalidRequest,
    LakehouseError,
    NotSupported,
    SchemaNotFound,
    SqlBindError,
    SqlExecutionError,
    StatementCancelled,
    TableNotFound,
    TransactionStateError,
)
from lakehouse.storage import ObjectCache
from lakehouse.telemetry import span
from lakehouse.types import TableName

_EXPLAIN_SCHEMA = pa.schema([("explain_key", pa.string()), ("explain_value", pa.string())])
_PLAN_CACHE_ENTRIES = 2048
# Its columns may depend on the rows.
_PIVOT = re.compile(r"\bpivot", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """A query ready to run: bound to snapshots, with the schema of its result.

    ``transaction`` is set where the query reads temporary tables that a transaction may have changed;
    ``names`` are the lake tables that it reads, ``scans`` those of which the parameters spare files;
    ``left`` are the parameters that its text still has, where searches took some.
    """

    sql: str
    state: CursorState
    bindings: tuple[Binding, ...]
    schema: pa.Schema
    parameters: tuple[Any, ...] | dict[str, Any] | None = None
    transaction: Transaction | None = None
    tables: tuple[Any, ...] = ()
    inputs: tuple[Supply, ...] = ()
    names: tuple[TableName, ...] = ()
    scans: tuple[Scan, ...] = ()
    views: tuple[SqlView, ...] = ()
    left: tuple[str, ...] | None = None


class Engine:
    """Runs SQL over the lake with DuckDB.

    Args:
        settings: The whole configuration.
        catalogs: The catalogs of lake tables.
        policy: Who may do what.
        readable: Directories that hold the bucket's files.
        clock: Source of time and ids.
        cache: Where the files of remote buckets are read.
    """

    def __init__(
        self,
        settings: Settings,
        catalogs: Catalogs,
        policy: AccessPolicy,
        readable: Sequence[Path],
        clock: Clock,
        cache: ObjectCache | None = None,
    ) -> None:
        self.settings = settings
        self.catalogs = catalogs
        self.clock = clock
        self.database = DuckDatabase(
            settings.engine, catalogs.names, readable, settings.limits.statement_memory, cache
        )
        self._directories = [*map(str, readable), str(Path(self.database.empty_file).parent)]
        self._directories.append(str(self.database.positions_directory))
        self.gate = StatementGate(self.database.private_cursor(), max_bytes=settings.limits.statement_bytes)
        self.policy = policy
        self._check_policy()
        self.profiler = Profiler(settings.log.slow_statement_seconds)
        self.running = RunningStatements(clock, settings.limits, settings.session.idle_seconds)
        self.running.measure = partial(memory_used, self)
        self.system = SystemTables(catalogs.default.name)
        self.binder = Binder(
            catalogs, self.database, self.system, self._evaluate, self.gate.analyse, clock, self._compute
        )
        self.changes = Changes(self)
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._parameter_schemas: OrderedDict[
            str, tuple[dict[tuple[str, ...], pa.Schema | None], pa.Schema]
        ] = OrderedDict()
        self._plans_lock = threading.Lock()
        self._sessions: WeakSet[Session] = WeakSet()
        self.sync_schemas()

    # -- sessions -----------------------------------------------------------------------------------

    def _check_policy(self) -> None:
        """Refuse row filters and masks that reach beyond the row.

        Raises:
            ConfigError: Names the expression.
        """
        for expression in self.policy.expressions():
            try:
                self.gate.check_expression(expression)
            except LakehouseError as error:
                raise ConfigError(f"roles: {expression!r} cannot be used: {error.message}") from error

    def add_system_tables(self, tables: Iterable[SystemTable]) -> None:
        """Offer tables about the server in the schema ``system``."""
        self.system.add(tables)
        self.database.define_system(self.system.all())

    def new_session(self, session_id: str, index: dict[str, Session], principal: Principal) -> Session:
        """A fresh session of a principal, with the default catalog and schema."""
        settings = self.settings
        access = self.policy.of(principal)
        session = Session(
            session_id,
            self,
            self.clock,
            self.catalogs.default.name,
            settings.catalog.default_schema,
            index,
            settings.session.max_prepared_per_session,
            settings.session.max_transactions_per_session,
            created_at=self.clock.now(),
            created_s=self.clock.monotonic(),
            principal=principal,
            lakes=GuardedCatalogs(self.catalogs, access),
        )
        self._sessions.add(session)
        return session

    # -- queries ------------------------------------------------------------------------------------

    def plan(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None = None,
        parameters: Sequence[Any] | None = None,
        watch: CallWatch | None = None,
        *,
        needs_every_file: bool = False,
    ) -> Plan:
        """Bind a query to snapshots and find the schema of its result, without running it.

        Args:
            analysis: The query.
            session: Whose it is.
            transaction: In which it runs, if in any.
            parameters: The values of its parameters.
            watch: How it learns to stop.
            needs_every_file: Bind all files of a table, whatever the query needs of them.

        Raises:
            LakehouseError: The statement is wrong, names what is not there, or is no query.
        """
        with span("plan", kind=analysis.kind.value):
            return self._plan(analysis, session, transaction, parameters, watch, needs_every_file)

    def _plan(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        parameters: Sequence[Any] | None,
        watch: CallWatch | None,
        needs_every_file: bool,
    ) -> Plan:
        values = _parameters(analysis, parameters)
        kinds = None if values is None else _kinds(values, analysis.searched)
        key = (analysis.sql, session.state(), kinds, needs_every_file)
        cached = self._plans.get(key)
        if cached is not None and self._is_current(cached, transaction, session):
            return self._again(cached, session, values)
        with span("bind"):
            known = None if needs_every_file else _named(values)
            bound = self.binder.bind(analysis, session, transaction, values=known)
        owner = transaction if bound.temporary else None
        values = _left(values, bound.parameters)
        schema = self._schema(analysis, bound, session, owner, values, watch)
        plan = Plan(
            bound.sql,
            session.state(),
            bound.bindings,
            schema,
            values,
            owner,
            bound.tables,
            bound.inputs,
            bound.names,
            bound.scans,
            bound.views,
            bound.parameters,
        )
        if bound.fresh and len(analysis.sql) < 10_000:
            kept = plan
            if plan.inputs:
                kept = replace(plan, inputs=tuple(each.again(None, {}) for each in plan.inputs))
            with self._plans_lock:
                self._plans[key] = kept
                if len(self._plans) > _PLAN_CACHE_ENTRIES:
                    self._plans.popitem(last=False)
        return plan

    def _again(self, plan: Plan, session: Session, values: tuple[Any, ...] | dict[str, Any] | None) -> Plan:
        """A cached plan for another execution; other values may need other files."""
        if plan.inputs:
            given = _named(values)
            plan = replace(plan, inputs=tuple(each.again(session, given) for each in plan.inputs))
            values = _left(values, plan.left)
        if values is None or not plan.scans:
            return plan if values is None else replace(plan, parameters=values)
        named = _named(values)
        needed = {scan.variable: self.binder.needed(scan, named) for scan in plan.scans}
        bindings = tuple(needed.get(binding.variable, binding) for binding in plan.bindings)
        return replace(plan, parameters=values, bindings=bindings)

    def _is_current(
        self, plan: Plan, transaction: Transaction | None, session: Session | None = None
    ) -> bool:
        """Whether every table of a cached plan is still at the snapshot that was bound."""
        if transaction is not None and (plan.tables or plan.views or plan.inputs):
            return False
        if session is not None and any(
            isinstance(each, SearchInput) and not each.is_current(session) for each in plan.inputs
        ):
            return False
        find, load = self.catalogs.find_view, self.catalogs.load
        if any(find(view.name) is not view for view in plan.views):
            return False
        try:
            return all(load(name) is table for name, table in plan.tables)
        except (TableNotFound, SchemaNotFound):
            return False

    def _schema(
        self,
        analysis: Analysis,
        bound: Bound,
        session: Session,
        transaction: Transaction | None,
        values: tuple[Any, ...] | dict[str, Any] | None,
        watch: CallWatch | None,
    ) -> pa.Schema:
        if analysis.kind is StatementKind.EXPLAIN:
            return _EXPLAIN_SCHEMA
        if analysis.kind is not StatementKind.QUERY:
            raise NotSupported(f"{analysis.kind.value} gives no rows")
        with (
            self.cursor(session.state(), transaction) as cursor,
            self.running.planning(watch, session.id, cursor.interrupt),
            self.errors(),
        ):
            bind = cursor.bind if _PIVOT.search(bound.sql) else cursor.bind_columns
            bind(cursor.located(bound.bindings), self.database.empty_file)
            with cursor.supplied(bound.inputs):
                return relation_schema(cursor.connection.sql(bound.sql, params=values))

    def columns_of(
        self, path: tuple[str, ...], session: Session, transaction: Transaction | None
    ) -> pa.Schema | None:
        """The columns of a named table or temporary table; ``None`` where there is none."""
        try:
            if path[-1].lower() in session.temp_objects() and (len(path) == 1 or path[0].lower() == "temp"):
                return self.changes.temporary_schema(session, session.temp_objects()[path[-1].lower()])
            source, lakes = transaction or self.catalogs, session.lakes
            name, at = self.binder.named_version(self.binder.locate(path, session), source, lakes)
            lake = lakes.of(name.catalog)
            lake.check_read(name.schema, name.table)
            if lake.find_view(name.schema, name.table) is not None:
                return self.columns_seen(name, session)
            table = source.load(name)
            return table.arrow_schema(None if at is None else table.snapshot_for(at).schema_id)
        except LakehouseError:
            return None

    def columns_seen(self, name: TableName, session: Session) -> pa.Schema:
        """The columns of a table as the session's principal sees them, masks included."""
        return self.plan(self.gate.analyse(f"SELECT * FROM {name.sql}"), session).schema

    def parameter_schema(
        self, analysis: Analysis, session: Session, transaction: Transaction | None
    ) -> pa.Schema:
        """The types of a statement's parameters, kept while the tables it names keep their columns."""
        if not analysis.parameters:
            return pa.schema([])
        kept = self._parameter_schemas.get(analysis.sql)
        if kept is not None:
            columns, found = kept
            if all(self.columns_of(path, session, transaction) == schema for path, schema in columns.items()):
                return found
        columns = {}

        def columns_of(path: tuple[str, ...]) -> pa.Schema | None:
            columns[path] = self.columns_of(path, session, transaction)
            return columns[path]

        found = infer_parameters(analysis.sql, analysis.parameters, columns_of)
        with self._plans_lock:
            self._parameter_schemas[analysis.sql] = (columns, found)
            if len(self._parameter_schemas) > _PLAN_CACHE_ENTRIES:
                self._parameter_schemas.popitem(last=False)
        return found

    def typed_schema(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        parameters: pa.Schema,
        watch: CallWatch | None = None,
    ) -> pa.Schema:
        """The schema of a query whose parameters have these types but no values yet."""
        if not analysis.parameters:
            return self.plan(analysis, session, transaction, watch=watch).schema
        specimens = [_specimen(field.type) for field in parameters]
        try:
            return self.plan(analysis, session, transaction, specimens, watch).schema
        except (SqlExecutionError, SqlBindError):
            return self.plan(analysis, session, transaction, [None] * len(specimens), watch).schema

    def open(self, plan: Plan, session: Session, watch: CallWatch) -> ResultStream | SpooledResult:
        """Run a plan; its first batch has been computed when this returns.

        Raises:
            LakehouseError: The statement failed, was cancelled or ran out of time.
        """
        if plan.transaction is not None and plan.transaction.cursor is not None:
            return self._open_spooled(plan, session, watch)
        statement = self.running.start(watch, session.id)
        try:
            cursor = self.database.acquire(plan.state)
        except BaseException:
            self.running.finish(statement)
            raise

        def release() -> None:
            cursor.withdraw(plan.inputs)
            self.database.release(cursor)

        return self._start(plan, cursor, statement, release)

    def _start(
        self, plan: Plan, cursor: PooledCursor, statement: RunningStatement, release: Callable[[], None]
    ) -> ResultStream:
        settings, connection = self.settings.engine, cursor.connection
        limits = ResultLimits(settings.max_message_bytes, self.settings.limits.result_bytes)
        profiled = False

        def finish() -> None:
            self.running.finish(statement)
            try:
                record = statement.record
                self.profiler.end(connection, record, plan.sql, plan.parameters, profiled=profiled)
            finally:
                release()

        with span("execute"):
            try:
                statement.attach(cursor.interrupt)
                with self.errors():
                    bindings = cursor.located(plan.bindings)
                    cursor.bind(bindings, self.database.empty_file)
                    cursor.supply(plan.inputs, statement.record.check_stop)
                    if plan.parameters is None and plan.transaction is None:
                        relation = cursor.relation(plan.sql, bindings)
                    else:
                        relation = connection.sql(plan.sql, params=plan.parameters)
                    profiled = self.profiler.begin(connection, plan.sql)
                    reader = relation.to_arrow_reader(rows_per_batch(plan.schema, settings.batch_bytes))
                    if plan.schema is _EXPLAIN_SCHEMA:
                        reader = shown_plans(reader, self._directories)
            except BaseException as error:
                finish()
                if isinstance(error, StatementCancelled) and statement.reason is not None:
                    raise statement.reason from None
                raise
            at_end = partial(cursor.check_unchanged, bindings)
            stream = ResultStream(self.running, statement, reader, plan.schema, limits, finish, at_end)
            stream.prefetch()
            return stream

    def _open_spooled(self, plan: Plan, session: Session, watch: CallWatch) -> SpooledResult:
        """Run on the transaction's own cursor, which must be free again before the next statement.

        The lock comes before the place: whoever has a place waits for nothing else.
        """
        transaction = plan.transaction
        assert transaction is not None
        with transaction.lock:
            cursor = transaction.cursor
            if cursor is None:
                raise TransactionStateError("the transaction has ended")
            statement = self.running.start(watch, session.id)
            batches = list(self._start(plan, cursor, statement, lambda: cursor.withdraw(plan.inputs)))
        return SpooledResult(statement.record, batches)

    def batches_of(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """A finished result in messages of bounded size."""
        for batch in table.to_batches():
            yield from split(batch, self.settings.engine.max_message_bytes)

    # -- plumbing -----------------------------------------------------------------------------------

    def _evaluate(self, expression: str, session: Session) -> Any:
        """The value of a constant SQL expression."""
        if self.gate.analyse(f"SELECT {expression}").references:
            raise InvalidRequest(f"AT takes a version or time that needs no table, found {expression}")
        with self.cursor(session.state(), None) as cursor, self.errors():
            return cursor.connection.execute(f"SELECT {expression}").fetchall()[0][0]

    def _compute(
        self,
        expression: str,
        values: Mapping[str, Any],
        session: Session,
        transaction: Transaction | None,
        check: Callable[[], None],
    ) -> Any:
        """The value of an expression for a statement that runs, which waits for it.

        Args:
            expression: It has to pass the gate.
            values: The values of parameters, by name.
            session: Whose statement it is.
            transaction: In which it runs, if in any.
            check: Raises where the statement has to stop.

        Raises:
            InvalidRequest: It gives several values.
            LakehouseError: It is wrong, or was stopped.
        """
        analysis = self.gate.analyse(f"SELECT ({expression}\n) AS value")
        watch = CallWatch(partial(_is_stopped, check), nested=True)
        row = [values[name] for name in analysis.parameters]
        plan = self.plan(analysis, session, transaction, row or None, watch)
        with closing(self.open(plan, session, watch)) as stream:
            found = [value for batch in stream for value in batch.column(0).to_pylist()]
        check()
        if len(found) != 1:
            raise InvalidRequest(f"expected one value, {expression:.100} gives {len(found)}")
        return found[0]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what DuckDB raises into domain errors, and start it again after a fatal one.

        Raises:
            LakehouseError: The error translated.
        """
        try:
            with duckdb_errors():
                yield
        except EngineInvalidated:
            self._restart()
            raise

    def _restart(self) -> None:
        with self._plans_lock:
            if not self.database.reopen():
                return
            self.gate.reconnect(self.database.private_cursor())
            self.database.define_system(self.system.all())
            self._plans.clear()
            for session in list(self._sessions):
                session.lose_temporary()
        self.sync_schemas()

    def sync_schemas(self) -> None:
        """Make DuckDB know the schemas of every catalog."""
        for catalog in self.catalogs:
            self.database.sync_schemas(catalog.name, catalog.schemas())

    def cursor(self, state: CursorState, transaction: Transaction | None) -> CursorLease:
        """A cursor for a ``with``: the transaction's own where it has one, else from the pool."""
        return CursorLease(self.database, state, transaction)

    def files_in_use(self) -> set[str]:
        """The paths of the files that a statement or transaction of this process may still read.

        Plans are kept for the next statement of the same text; those of former snapshots are no longer used.
        """
        self._forget_former()  # by itself: its own variables would keep the last plan
        held = {path for transaction in live_transactions() for path in transaction.files()}
        return held | bound_files()

    def _forget_former(self) -> None:
        with self._plans_lock:
            kept = list(self._plans.items())
        for key, plan in kept:
            if not self._is_current(plan, None):
                with self._plans_lock:
                    self._plans.pop(key, None)

    def release_transaction(self, transaction: Transaction) -> None:
        """Close the cursor of a transaction that has ended."""
        cursor, transaction.cursor = transaction.cursor, None
        if cursor is not None:
            cursor.close()

    def close(self) -> None:
        """Interrupt what runs and close DuckDB."""
        self.running.cancel_all()
        self.running.close()
        self.database.close()


class CursorLease:
    """A cursor for the length of a ``with``: the transaction's own where it has one, else from the pool."""

    def __init__(self, database: DuckDatabase, state: CursorState, transaction: Transaction | None) -> None:
        self._database = database
        self._transaction = (
            transaction if transaction is not None and transaction.cursor is not None else None
        )
        self._cursor = self._transaction.cursor if self._transaction is not None else database.acquire(state)

    def __enter__(self) -> PooledCursor:
        if self._transaction is not None:
            self._transaction.lock.acquire()
        assert self._cursor is not None
        return self._cursor

    def __exit__(self, *_: object) -> None:
        assert self._cursor is not None
        if self._transaction is not None:
            self._transaction.lock.release()
        else:
            self._database.release(self._cursor)


_SPECIMENS: tuple[tuple[Callable[[pa.DataType], bool], Any], ...] = (
    (pa.types.is_boolean, False),
    (pa.types.is_integer, 0),
    (pa.types.is_floating, 0.0),
    (pa.types.is_decimal, Decimal(0)),
    (pa.types.is_date, date(2000, 1, 1)),
    (pa.types.is_timestamp, datetime(2000, 1, 1, tzinfo=UTC)),
    (pa.types.is_time, time(0)),
    (pa.types.is_binary, b""),
    (pa.types.is_string, ""),
)


def _specimen(kind: pa.DataType) -> Any:
    """Some value of an Arrow type, to find a result's type with; ``None`` where there is no simple one."""
    value = next((value for test, value in _SPECIMENS if test(kind)), None)
    return value.replace(tzinfo=None) if isinstance(value, datetime) and not kind.tz else value


def _parameters(analysis: Analysis, values: Sequence[Any] | None) -> tuple[Any, ...] | dict[str, Any] | None:
    """The values in the form DuckDB wants: by position, or by name where the statement names them.

    Raises:
        InvalidRequest: The number of values does not fit.
    """
    expected = analysis.parameters
    if not expected:
        if values:
            raise InvalidRequest(f"the statement has no parameters, but {len(values)} were bound")
        return None
    if values is None or len(values) != len(expected):
        found = 0 if values is None else len(values)
        raise InvalidRequest(f"the statement has {len(expected)} parameters, but {found} were bound")
    if expected == tuple(str(number) for number in range(1, len(expected) + 1)):
        return tuple(values)
    return dict(zip(expected, values, strict=True))


def _kind(value: Any) -> Any:
    """What DuckDB's type of a parameter depends on: more than the Python type, for numbers."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, int):
        return int, sum(value.bit_length() > bits for bits in (31, 63, 127))
    if isinstance(value, Decimal):
        return Decimal, len(value.as_tuple().digits), value.as_tuple().exponent
    if isinstance(value, datetime | time):
        return type(value), value.tzinfo is None
    if isinstance(value, list | tuple | dict):
        return type(value), repr(value)
    return type(value)


def _is_stopped(check: Callable[[], None]) -> bool:
    try:
        check()
    except LakehouseError:
        return True
    return False


def _kinds(values: tuple[Any, ...] | dict[str, Any], searched: frozenset[str]) -> tuple[Any, ...]:
    """What DuckDB's types of the parameters depend on, but for those that it does not see."""
    if not searched:
        return tuple(map(_kind, values.values() if isinstance(values, dict) else values))
    return tuple(None if name in searched else _kind(value) for name, value in _named(values).items())


def _left(
    values: tuple[Any, ...] | dict[str, Any] | None, names: tuple[str, ...] | None
) -> tuple[Any, ...] | dict[str, Any] | None:
    """The values that are left for a text which has these parameters, or all of them."""
    if names is None:
        return values
    given = _named(values)
    return {name: given[name] for name in names} or None


def _named(values: tuple[Any, ...] | dict[str, Any] | None) -> dict[str, Any]:
    """Values of parameters by name; those by position are called by their numbers."""
    if values is None or isinstance(values, dict):
        return values or {}
    return {str(number): value for number, value in enumerate(values, 1)}
