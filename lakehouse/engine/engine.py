"""The query engine: plans, runs and streams statements for sessions."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from lakehouse.catalog import Catalog
from lakehouse.clock import Clock
from lakehouse.config import Settings
from lakehouse.engine.binding import Binder, Bound
from lakehouse.engine.database import SESSION_SETTINGS, Binding, CursorState, DuckDatabase, PooledCursor
from lakehouse.engine.errors import duckdb_errors
from lakehouse.engine.gate import Analysis, StatementGate, StatementKind
from lakehouse.engine.result import ResultStream, relation_schema, rows_per_batch, split
from lakehouse.engine.running import RunningStatement, RunningStatements
from lakehouse.engine.session import Session
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    NotSupported,
    SchemaNotFound,
    SqlExecutionError,
    StatementCancelled,
    StatementForbidden,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import StagedWrite, WriteMode, commit, stage
from lakehouse.types import TableName, quote

_EXPLAIN_SCHEMA = pa.schema([("explain_key", pa.string()), ("explain_value", pa.string())])
_PLAN_CACHE_ENTRIES = 2048


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class CallWatch:
    """How a running statement learns that it should stop."""

    cancelled: Callable[[], bool] = _never
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A query ready to run: bound to snapshots, with the schema of its result."""

    sql: str
    state: CursorState
    bindings: tuple[Binding, ...]
    schema: pa.Schema
    parameters: tuple[Any, ...] | dict[str, Any] | None = None
    transaction: Transaction | None = None
    tables: tuple[Any, ...] = field(default=(), compare=False)


class Engine:
    """Runs SQL over the lake with DuckDB.

    Args:
        settings: The whole configuration.
        catalog: The catalog of lake tables.
        readable: Directories that hold the bucket's files.
        clock: Source of time and ids.
    """

    def __init__(self, settings: Settings, catalog: Catalog, readable: Sequence[Path], clock: Clock) -> None:
        self.settings = settings
        self.catalog = catalog
        self.clock = clock
        self.database = DuckDatabase(settings.engine, catalog.name, readable)
        self.gate = StatementGate(self.database.private_cursor())
        self.running = RunningStatements(clock)
        self.binder = Binder(catalog, self.database, self._evaluate)
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._plans_lock = threading.Lock()
        self.database.sync_schemas(catalog.schemas())

    # -- sessions -----------------------------------------------------------------------------------

    def new_session(self, session_id: str, index: dict[str, Session]) -> Session:
        """A fresh session with the default catalog and schema."""
        settings = self.settings
        return Session(
            session_id,
            self,
            self.clock,
            self.catalog.name,
            settings.catalog.default_schema,
            index,
            settings.session.max_prepared_per_session,
        )

    def set_schema(self, session: Session, path: tuple[str, ...]) -> None:
        """Make ``[catalog.]schema`` the session's default.

        Raises:
            CatalogNotFound, SchemaNotFound: There is none of that name.
        """
        if len(path) > 2:
            raise InvalidRequest(f"expected a schema or catalog.schema, found {'.'.join(path)}")
        if len(path) == 1 and path[0].lower() == self.catalog.name.lower() and not self.catalog.schema_exists(path[0]):
            path = (path[0], self.settings.catalog.default_schema)
        name = self.binder.locate((*path, "x"), session) if len(path) == 2 else None
        wanted = name.schema if name else path[0]
        stored = {s.lower(): s for s in self.catalog.schemas()}.get(wanted.lower())
        if stored is None:
            raise SchemaNotFound(f"schema {wanted} does not exist in catalog {self.catalog.name}")
        self.database.sync_schemas(self.catalog.schemas())
        session.schema = stored
        session.changed()

    def set_option(self, session: Session, name: str, value: str | None) -> None:
        """Change an engine setting of the session; ``None`` puts it back to the default.

        Raises:
            StatementForbidden: The setting is not one that sessions may change.
            SqlBindError, SqlExecutionError: The value does not fit.
        """
        key = name.lower()
        if key not in SESSION_SETTINGS:
            allowed = ", ".join(sorted(SESSION_SETTINGS.values()))
            raise StatementForbidden(f"the setting {name} cannot be changed", f"these can: {allowed}")
        if value is None:
            session.settings.pop(key, None)
        else:
            cursor = self.database.private_cursor()
            try:
                with duckdb_errors():
                    cursor.execute(f"SET SESSION {SESSION_SETTINGS[key]} = ?", [value]).fetchall()
            finally:
                cursor.close()
            session.settings[key] = value
        session.changed()

    # -- queries ------------------------------------------------------------------------------------

    def plan(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None = None,
        parameters: Sequence[Any] | None = None,
    ) -> Plan:
        """Bind a query to snapshots and find the schema of its result, without running it.

        Raises:
            LakehouseError: The statement is wrong, names what is not there, or is no query.
        """
        values = _parameters(analysis, parameters)
        key = (analysis.sql, session.state(), None if values is None else tuple(map(type, _listed(values))))
        if transaction is None:
            cached = self._plans.get(key)
            if cached is not None and self._is_current(cached):
                return cached if values is None else _with_parameters(cached, values)
        bound = self.binder.bind(analysis, session, transaction)
        schema = self._schema(analysis, bound, session, transaction, values)
        plan = Plan(bound.sql, session.state(), bound.bindings, schema, values, transaction, bound.tables)
        if bound.fresh and len(analysis.sql) < 100_000:
            with self._plans_lock:
                self._plans[key] = plan
                if len(self._plans) > _PLAN_CACHE_ENTRIES:
                    self._plans.popitem(last=False)
        return plan

    def _is_current(self, plan: Plan) -> bool:
        """Whether every table of a cached plan is still at the snapshot that was bound."""
        try:
            return all(self.catalog.load(schema, name) is table for schema, name, table in plan.tables)
        except (TableNotFound, SchemaNotFound):
            return False

    def _schema(
        self,
        analysis: Analysis,
        bound: Bound,
        session: Session,
        transaction: Transaction | None,
        values: tuple[Any, ...] | dict[str, Any] | None,
    ) -> pa.Schema:
        if analysis.kind is StatementKind.EXPLAIN:
            return _EXPLAIN_SCHEMA
        if analysis.kind is not StatementKind.QUERY:
            raise NotSupported(f"{analysis.kind.value} gives no rows")
        with self._cursor(session.state(), transaction) as cursor, duckdb_errors():
            cursor.bind(bound.bindings, self.database.empty_file)
            return relation_schema(cursor.connection.sql(bound.sql, params=values))

    def columns_of(
        self, path: tuple[str, ...], session: Session, transaction: Transaction | None
    ) -> pa.Schema | None:
        """The columns of a named table or temporary table; ``None`` where there is none."""
        try:
            if path[-1].lower() in session.temp_objects() and (len(path) == 1 or path[0].lower() == "temp"):
                return self.temporary_schema(session, session.temp_objects()[path[-1].lower()])
            name = self.binder.locate(path, session)
            source = transaction or self.catalog
            return source.load(name.schema, name.table).arrow_schema()
        except LakehouseError:
            return None

    def typed_schema(
        self, analysis: Analysis, session: Session, transaction: Transaction | None, parameters: pa.Schema
    ) -> pa.Schema:
        """The schema of a query whose parameters have these types but no values yet."""
        if not analysis.parameters:
            return self.plan(analysis, session, transaction).schema
        try:
            specimens = [_specimen(field.type) for field in parameters]
            return self.plan(analysis, session, transaction, specimens).schema
        except SqlExecutionError:
            return self.plan(analysis, session, transaction, [None] * len(specimens)).schema

    def open(self, plan: Plan, session: Session, watch: CallWatch) -> ResultStream:
        """Run a plan; its first batch has been computed when this returns.

        Raises:
            LakehouseError: The statement failed, was cancelled or ran out of time.
        """
        if plan.transaction is not None and plan.transaction.cursor is not None:
            return self._open_spooled(plan, session, watch)
        cursor = self.database.acquire(plan.state)
        statement = self.running.start(session.id, plan.sql, cursor.connection, watch.cancelled, watch.timeout_s)

        def finish() -> None:
            self.running.finish(statement)
            self.database.release(cursor)

        return self._start(plan, cursor, statement, finish)

    def _start(
        self, plan: Plan, cursor: PooledCursor, statement: RunningStatement, finish: Callable[[], None]
    ) -> ResultStream:
        settings = self.settings.engine
        try:
            with duckdb_errors():
                cursor.bind(plan.bindings, self.database.empty_file)
                if plan.parameters is None and plan.transaction is None:
                    relation = cursor.relation(plan.sql, plan.bindings)
                else:
                    relation = cursor.connection.sql(plan.sql, params=plan.parameters)
                reader = relation.to_arrow_reader(rows_per_batch(plan.schema, settings.batch_bytes))
        except BaseException as error:
            finish()
            if isinstance(error, StatementCancelled) and statement.reason is not None:
                raise statement.reason from None
            raise
        stream = ResultStream(statement, reader, plan.schema, settings.max_message_bytes, finish)
        stream.prefetch()
        return stream

    def _open_spooled(self, plan: Plan, session: Session, watch: CallWatch) -> ResultStream:
        """Run on the transaction's own cursor, which must be free again before the next statement."""
        transaction = plan.transaction
        assert transaction is not None and transaction.cursor is not None
        cursor = transaction.cursor
        with transaction.lock:
            statement = self.running.start(session.id, plan.sql, cursor.connection, watch.cancelled, watch.timeout_s)
            stream = self._start(plan, cursor, statement, lambda: self.running.finish(statement))
            batches = list(stream)
        reader = pa.RecordBatchReader.from_batches(plan.schema, batches)
        return ResultStream(statement, reader, plan.schema, self.settings.engine.max_message_bytes, _nothing)

    def batches_of(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """A finished result in messages of bounded size."""
        for batch in table.to_batches():
            yield from split(batch, self.settings.engine.max_message_bytes)

    # -- updates ------------------------------------------------------------------------------------

    def update(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        watch: CallWatch,
        rows: Iterable[Sequence[Any]] | None = None,
    ) -> int:
        """Run a statement that changes something, once or for each row of parameters.

        Returns:
            The number of rows affected; 0 for statements that affect none.

        Raises:
            LakehouseError: The statement failed; nothing of it remains.
        """
        kind, detail = analysis.kind, analysis.detail
        if kind is StatementKind.BEGIN:
            session.begin_sql()
        elif kind in (StatementKind.COMMIT, StatementKind.ROLLBACK):
            session.end_sql(commit=kind is StatementKind.COMMIT)
        elif kind is StatementKind.SET:
            self._set(analysis, session)
        elif kind is StatementKind.CREATE_SCHEMA:
            self._create_schema(analysis, transaction, detail["if_not_exists"])
        elif kind is StatementKind.DROP_SCHEMA:
            self.catalog.drop_schema(_schema_name(analysis.target), if_exists=detail["if_exists"])
            self.database.sync_schemas(self.catalog.schemas())
        elif kind is StatementKind.DROP:
            self._drop(analysis, session, transaction, watch)
        elif kind is StatementKind.CREATE_TEMP:
            self._create_temporary(analysis, session, transaction, watch, rows)
        elif kind is StatementKind.TEMP_DML:
            return self.modify(analysis, session, transaction, watch, rows)[0]
        else:
            raise NotSupported("this statement gives rows", "send it as a query")
        return 0

    def _set(self, analysis: Analysis, session: Session) -> None:
        detail = analysis.detail
        if "use" in detail:
            self.set_schema(session, detail["use"])
            return
        name, value = detail["name"], detail["value"]
        if name in ("schema", "search_path"):
            default = self.settings.catalog.default_schema
            self.set_schema(session, tuple(_unquoted(value).split(".")) if value else (default,))
        else:
            self.set_option(session, name, _unquoted(value) if value is not None else None)

    def _create_schema(self, analysis: Analysis, transaction: Transaction | None, if_not_exists: bool) -> None:
        name = _schema_name(analysis.target)
        existed = self.catalog.schema_exists(name)
        self.catalog.create_schema(name, if_not_exists=if_not_exists)
        self.database.sync_schemas(self.catalog.schemas())
        if transaction is not None and not existed:
            transaction.created_schemas.append(name)

    def _drop(self, analysis: Analysis, session: Session, transaction: Transaction | None, watch: CallWatch) -> None:
        path, if_exists = analysis.target, bool(analysis.detail["if_exists"])
        if len(path) == 2 and path[0].lower() == "temp":
            path = path[1:]
        temporary = session.temp_objects().get(path[-1].lower()) if len(path) == 1 else None
        if temporary is not None:
            what = "VIEW" if path[-1].lower() in session.temp_views else "TABLE"
            name = f"{quote(session.temporary)}.main.{quote(temporary)}"
            self._run_temporary(session, transaction, watch, f"DROP {what} {name}", None, ())
            session.temp_views.pop(path[-1].lower(), None)
            return
        target = self.binder.locate(path, session)
        try:
            if transaction is not None:
                with transaction.lock:
                    transaction.drop(target, if_exists=if_exists)
                return
            known = self.catalog.load(target.schema, target.table).name
            self.catalog.drop_table(known.schema, known.table, if_exists=if_exists)
            self.database.drop_view(known)
        except (TableNotFound, SchemaNotFound):
            if not if_exists:
                raise self.binder.missing(target) from None

    def _create_temporary(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        watch: CallWatch,
        rows: Iterable[Sequence[Any]] | None,
    ) -> None:
        path = analysis.target
        if len(path) > 2 or (len(path) == 2 and path[0].lower() != "temp"):
            raise InvalidRequest("a temporary table has no catalog or schema", f"CREATE TEMP TABLE {path[-1]} …")
        if len(path) == 2:
            raise NotSupported("write the temporary table's name without temp.")
        self.ensure_temporary(session)
        bound = self.binder.bind(analysis, session, transaction)
        if analysis.detail["view"] and any(r.at for r in analysis.references):
            raise NotSupported("a temporary view cannot use time travel")
        self._run_temporary(session, transaction, watch, bound.sql, rows, bound.bindings)
        if analysis.detail["view"]:
            session.temp_views[path[-1].lower()] = analysis.references

    def modify(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        watch: CallWatch,
        rows: Iterable[Sequence[Any]] | None = None,
    ) -> tuple[int, pa.Table | None]:
        """Run DML on a temporary table; gives the count, and the rows that RETURNING asked for.

        Raises:
            NotSupported: The table is a lake table.
        """
        path = analysis.target
        name = path[-1] if len(path) == 1 else ""
        if not name or name.lower() not in session.temp_objects():
            target = self.binder.locate(path, session)
            if not self.catalog.table_exists(target.schema, target.table):
                raise self.binder.missing(target)
            raise NotSupported(
                f"{target} is a lake table: INSERT, UPDATE, DELETE and MERGE work on temporary tables only so far",
                "load rows with ADBC bulk ingest",
            )
        bound = self.binder.bind(analysis, session, transaction)
        returning = bool(analysis.detail["returning"])
        return self._run_temporary(session, transaction, watch, bound.sql, rows, bound.bindings, returning)

    def _run_temporary(
        self,
        session: Session,
        transaction: Transaction | None,
        watch: CallWatch,
        sql: str,
        rows: Iterable[Sequence[Any]] | None,
        bindings: Sequence[Binding],
        returning: bool = False,
    ) -> tuple[int, pa.Table | None]:
        if transaction is not None and transaction.cursor is None:
            transaction.cursor = self.database.acquire(session.state())
            transaction.cursor.connection.execute("BEGIN TRANSACTION").fetchall()
        with self._cursor(session.state(), transaction) as cursor:
            connection = cursor.connection
            statement = self.running.start(session.id, sql, connection, watch.cancelled, watch.timeout_s)
            try:
                with duckdb_errors():
                    cursor.bind(bindings, self.database.empty_file)
                    return _execute_all(connection, sql, rows, returning, own=transaction is None)
            except StatementCancelled:
                raise statement.reason or StatementCancelled("the statement was cancelled") from None
            finally:
                self.running.finish(statement)
                session.changed()

    # -- temporary tables ---------------------------------------------------------------------------

    def ensure_temporary(self, session: Session) -> None:
        """Give the session its own database, if it has none yet."""
        with session.lock:
            if not session.temporary:
                name = "~" + self.clock.token()
                self.database.attach_temporary(name)
                session.temporary = name
                session.changed()

    def list_temporary(self, session: Session) -> dict[str, str]:
        """Temporary tables and views of a session: lower-case name → name."""
        with self._cursor(session.state(), session.only_transaction()) as cursor, duckdb_errors():
            rows = cursor.connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = $1 UNION ALL "
                "SELECT view_name FROM duckdb_views() WHERE database_name = $1 AND NOT internal",
                [session.temporary],
            ).fetchall()
        return {str(name).lower(): str(name) for (name,) in rows}

    def temporary_schema(self, session: Session, name: str) -> pa.Schema:
        """The Arrow schema of a temporary table."""
        analysis = self.gate.analyse(f"SELECT * FROM {quote(name)}")
        return self.plan(analysis, session, session.only_transaction()).schema

    def ingest_temporary(
        self,
        session: Session,
        transaction: Transaction | None,
        table: str,
        mode: WriteMode,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        watch: CallWatch,
    ) -> int:
        """Load batches into a temporary table; gives the number of rows.

        Raises:
            TableAlreadyExists, TableNotFound: The table does not fit the mode.
        """
        exists = table.lower() in session.temp_objects()
        if exists and mode is WriteMode.CREATE:
            raise TableAlreadyExists(f"temporary table {table} exists already")
        if not exists and mode is WriteMode.APPEND:
            raise TableNotFound(f"temporary table {table} does not exist in this session")
        self.ensure_temporary(session)
        target = f"{quote(session.temporary)}.main.{quote(table)}"
        append = exists and mode is not WriteMode.REPLACE
        verb = f"INSERT INTO {target} BY NAME" if append else f"CREATE OR REPLACE TABLE {target} AS"
        if transaction is not None and transaction.cursor is None:
            transaction.cursor = self.database.acquire(session.state())
            transaction.cursor.connection.execute("BEGIN TRANSACTION").fetchall()
        with self._cursor(session.state(), transaction) as cursor, duckdb_errors():
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            cursor.connection.register("incoming", reader)
            try:
                rows = cursor.connection.execute(f"{verb} SELECT * FROM incoming").fetchall()
            finally:
                cursor.connection.unregister("incoming")
                session.changed()
        return int(rows[0][0]) if rows else 0

    # -- ingest -------------------------------------------------------------------------------------

    def ingest(
        self,
        transaction: Transaction | None,
        target: TableName,
        mode: WriteMode,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        watch: CallWatch,
    ) -> int:
        """Load batches into a lake table, in one commit or as part of a transaction; gives the number of rows.

        Raises:
            LakehouseError: The load failed; nothing of it is visible.
        """
        if transaction is None:
            staged = stage(self.catalog, target, mode, schema, batches, watch.cancelled)
            commit(self.catalog, staged)
            return staged.rows
        with transaction.lock:
            return self._stage(transaction, target, mode, schema, batches, watch)

    def _stage(
        self,
        transaction: Transaction,
        target: TableName,
        mode: WriteMode,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        watch: CallWatch,
    ) -> int:
        known = transaction.known(target.schema, target.table)
        earlier = transaction.writes.get(known)
        if earlier is None and known in transaction.drops:
            if mode is WriteMode.APPEND:
                raise TableNotFound(f"table {known} was dropped in this transaction")
            mode = WriteMode.REPLACE
        before = earlier.rows if earlier is not None and mode is not WriteMode.REPLACE else 0
        staged: StagedWrite = stage(self.catalog, target, mode, schema, batches, watch.cancelled, on=earlier)
        transaction.writes[staged.target] = staged
        return staged.rows - before

    # -- plumbing -----------------------------------------------------------------------------------

    def _evaluate(self, expression: str, session: Session) -> Any:
        """The value of a constant SQL expression."""
        self.gate.analyse(f"SELECT {expression}")
        with self._cursor(session.state(), None) as cursor, duckdb_errors():
            return cursor.connection.execute(f"SELECT {expression}").fetchall()[0][0]

    def _cursor(self, state: CursorState, transaction: Transaction | None) -> _Lease:
        return _Lease(self.database, state, transaction)

    def release_transaction(self, transaction: Transaction) -> None:
        """Close the cursor of a transaction that has ended."""
        cursor, transaction.cursor = transaction.cursor, None
        if cursor is not None:
            cursor.connection.close()

    def close(self) -> None:
        """Interrupt what runs and close DuckDB."""
        self.running.cancel_all()
        self.running.close()
        self.database.close()


class _Lease:
    """A cursor for the length of a ``with``: the transaction's own where it has one, else from the pool."""

    def __init__(self, database: DuckDatabase, state: CursorState, transaction: Transaction | None) -> None:
        self._database = database
        self._transaction = transaction if transaction is not None and transaction.cursor is not None else None
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


def _execute_all(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    rows: Iterable[Sequence[Any]] | None,
    returning: bool,
    own: bool,
) -> tuple[int, pa.Table | None]:
    """Run a statement once, or for each row of parameters in one transaction."""
    if rows is None:
        return _execute(connection, sql, None, returning)
    count, tables = 0, []
    if own:
        connection.execute("BEGIN TRANSACTION").fetchall()
    try:
        for row in rows:
            changed, table = _execute(connection, sql, list(row), returning)
            count += changed
            if table is not None:
                tables.append(table)
        if own:
            connection.execute("COMMIT").fetchall()
    except BaseException:
        if own:
            connection.execute("ROLLBACK").fetchall()
        raise
    return count, pa.concat_tables(tables) if tables else None


def _execute(
    connection: duckdb.DuckDBPyConnection, sql: str, row: list[Any] | None, returning: bool
) -> tuple[int, pa.Table | None]:
    result = connection.execute(sql, row) if row is not None else connection.execute(sql)
    if returning:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = result.to_arrow_table()
        return table.num_rows, table
    answer = result.fetchall()
    is_count = len(answer) == 1 and len(answer[0]) == 1 and isinstance(answer[0][0], int)
    return (answer[0][0] if is_count else 0), None


_SPECIMENS: tuple[tuple[Callable[[pa.DataType], bool], Any], ...] = (
    (pa.types.is_boolean, False),
    (pa.types.is_integer, 0),
    (pa.types.is_floating, 0.0),
    (pa.types.is_decimal, Decimal(0)),
    (pa.types.is_date, date(2000, 1, 1)),
    (pa.types.is_timestamp, datetime(2000, 1, 1)),
    (pa.types.is_time, time(0)),
    (pa.types.is_binary, b""),
    (pa.types.is_string, ""),
)


def _specimen(kind: pa.DataType) -> Any:
    """Some value of an Arrow type, for finding out the type of a result; ``None`` where there is no simple one."""
    value = next((value for test, value in _SPECIMENS if test(kind)), None)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and kind.tz else value


def _nothing() -> None:
    return None


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
    if all(name.isdigit() for name in expected):
        return tuple(values)
    return dict(zip(expected, values, strict=True))


def _listed(values: tuple[Any, ...] | dict[str, Any]) -> tuple[Any, ...]:
    return tuple(values.values()) if isinstance(values, dict) else values


def _with_parameters(plan: Plan, values: tuple[Any, ...] | dict[str, Any]) -> Plan:
    return Plan(plan.sql, plan.state, plan.bindings, plan.schema, values, plan.transaction, plan.tables)


def _schema_name(path: tuple[str, ...]) -> str:
    if not path:
        raise InvalidRequest("expected the name of a schema")
    return path[-1]


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(value[0] * 2, value[0])
    return value
