"""Statements and uploads that change something: temporary tables, lake tables, schemas, settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from lakehouse.access.policy import SYSTEM_SCHEMA
from lakehouse.catalog import Table
from lakehouse.catalog.commit import writable
from lakehouse.catalog.names import check_name
from lakehouse.catalog.observer import coming_from
from lakehouse.catalog.table_alteration import Alteration
from lakehouse.catalog.table_definition import TableDefinition
from lakehouse.config.catalog import RESERVED_SCHEMAS
from lakehouse.config.profiles import NO_PROFILE
from lakehouse.engine.database import SESSION_SETTINGS, Binding, Supply
from lakehouse.engine.ddl import TableDdl
from lakehouse.engine.dml import LakeDml
from lakehouse.engine.gate import Analysis, StatementKind, TableReference, retarget
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import PROFILE, WORKSPACE, Session, check_workspace
from lakehouse.engine.transaction import Transaction
from lakehouse.engine.views import ViewDdl
from lakehouse.errors import (
    InvalidRequest,
    NotSupported,
    SchemaNotFound,
    StatementForbidden,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import StagedWrite, WriteMode, commit_or_discard, stage
from lakehouse.journal.change_event import Origin, acting
from lakehouse.storage.rescue import reading
from lakehouse.types import TableName, quote

if TYPE_CHECKING:
    from lakehouse.engine.engine import Engine

Values = list[Any] | dict[str, Any]

# RETURNING has to go through execute(): a relation would run the statement a second time.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")


@dataclass(frozen=True, slots=True)
class Scope:
    """On whose behalf a statement runs: session, transaction if any, and how it learns to stop."""

    session: Session
    transaction: Transaction | None
    watch: CallWatch


class Changes:
    """Runs what is not a query.

    Args:
        engine: The engine whose catalog, database and gate are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._catalogs = engine.catalogs
        self._database = engine.database
        self._settings = engine.settings
        self._ddl = TableDdl(engine)
        self._dml = LakeDml(engine)
        self._views = ViewDdl(engine)

    def run(self, analysis: Analysis, scope: Scope, rows: Iterable[Sequence[Any]] | None = None) -> int:
        """Run a statement that changes something, once or for each row of parameters.

        Returns:
            The number of rows affected; 0 for statements that affect none.

        Raises:
            LakehouseError: The statement failed; nothing of it remains.
        """
        with acting(_origin(scope, "sql")):
            return self._run(analysis, scope, rows)

    def _run(self, analysis: Analysis, scope: Scope, rows: Iterable[Sequence[Any]] | None) -> int:
        kind, detail = analysis.kind, analysis.detail
        if kind is StatementKind.BEGIN:
            scope.session.begin_sql()
        elif kind in (StatementKind.COMMIT, StatementKind.ROLLBACK):
            scope.session.end_sql(commit=kind is StatementKind.COMMIT)
        elif kind is StatementKind.SET:
            self._set(analysis, scope.session)
        elif kind is StatementKind.CREATE_SCHEMA:
            self._create_schema(analysis, scope, detail["if_not_exists"])
        elif kind is StatementKind.DROP_SCHEMA:
            self._ddl.drop_schema(
                analysis.target, scope, if_exists=detail["if_exists"], cascade=detail["cascade"]
            )
        elif kind is StatementKind.DROP:
            self._drop(analysis, scope)
        elif kind is StatementKind.CREATE_TABLE:
            return self._ddl.create(analysis, scope, rows)
        elif kind is StatementKind.ALTER_TABLE:
            self._ddl.alter(analysis, scope)
        elif kind is StatementKind.COMMENT:
            self._ddl.comment(analysis, scope)
        elif kind is StatementKind.CREATE_TEMP:
            self._create_temporary(analysis, scope, rows)
        elif kind is StatementKind.DML:
            return self.modify(analysis, scope, rows)[0]
        else:
            scope.watch.note_tables([self._views.run(analysis, scope.session, scope.transaction)])
        return 0

    def _set(self, analysis: Analysis, session: Session) -> None:
        detail = analysis.detail
        if "use" in detail:
            self.set_schema(session, detail["use"])
            return
        name, value = detail["name"], detail["value"]
        if name not in ("schema", "search_path"):
            self.set_option(session, name, _unquoted(value) if value is not None else None)
        elif value:
            self.set_schema(session, tuple(_unquoted(value).split(".")))
        else:
            session.catalog, session.schema = session.home
            session.changed()

    def _create_schema(self, analysis: Analysis, scope: Scope, if_not_exists: bool) -> None:
        catalog, name = self._engine.binder.locate_schema(analysis.target, scope.session)
        existed = self._catalogs.of(catalog).schema_exists(name)
        self.create_schema(scope.session, catalog, name, if_not_exists=if_not_exists)
        if scope.transaction is not None and not existed:
            scope.transaction.created_schemas.append((catalog, name))

    def create_schema(self, session: Session, catalog: str, name: str, *, if_not_exists: bool) -> None:
        """Make a schema.

        Raises:
            InvalidRequest: The name is the server's own.
            PermissionDenied: The session's principal may not write there.
            SchemaAlreadyExists: There is one of that name, and ``if_not_exists`` is false.
        """
        _check_free(name)
        session.lakes.of(catalog).create_schema(name, if_not_exists=if_not_exists)
        self._database.sync_schemas(catalog, self._catalogs.of(catalog).schemas())

    def need_schema(self, session: Session, transaction: Transaction, catalog: str, name: str) -> None:
        """Have a transaction make a schema where there is none, for a table that it creates.

        That takes place with the commit, unless the catalog prepares no table without its schema.

        Raises:
            InvalidRequest: The name is the server's own, or cannot be one.
            NotSupported: The tables of the catalog cannot be written to.
            PermissionDenied: The session's principal may not write there.
        """
        if not writable(self._catalogs.of(catalog)).has_late_schemas:
            self.create_schema(session, catalog, name, if_not_exists=True)
            return
        _check_free(name)
        session.lakes.of(catalog).check_schema(check_name(name, "schema"))
        transaction.need_schema(catalog, name)

    def _drop(self, analysis: Analysis, scope: Scope) -> None:
        session, transaction = scope.session, scope.transaction
        path, if_exists = analysis.target, bool(analysis.detail["if_exists"])
        if len(path) == 2 and path[0].lower() == "temp":
            path = path[1:]
        temporary = session.temp_objects().get(path[-1].lower()) if len(path) == 1 else None
        if temporary is not None:
            what = "VIEW" if path[-1].lower() in session.temp_views else "TABLE"
            name = f"{quote(session.temporary)}.main.{quote(temporary)}"
            self._run_temporary(scope, f"DROP {what} {name}", None)
            session.temp_views.pop(path[-1].lower(), None)
            return
        target = self._engine.binder.locate(path, session)
        scope.watch.note_tables([target])
        if analysis.detail["view"]:
            self._views.drop(analysis, session, transaction)
            return
        lake = session.lakes.of(target.catalog)
        if lake.find_view(target.schema, target.table) is not None:
            raise InvalidRequest(f"{target} is a view, not a table", f"DROP VIEW {target}")
        try:
            lake.check_change(target.schema, target.table)
            if transaction is not None:
                with transaction.lock:
                    transaction.drop(target, if_exists=if_exists)
                return
            known = self._catalogs.load(target).name
            lake.drop_table(known.schema, known.table, if_exists=if_exists)
            self._database.drop_view(known)
        except (TableNotFound, SchemaNotFound):
            if not if_exists:
                raise self._engine.binder.missing(target, session.lakes) from None

    def _create_temporary(
        self, analysis: Analysis, scope: Scope, rows: Iterable[Sequence[Any]] | None
    ) -> None:
        path = analysis.target
        if len(path) > 2 or (len(path) == 2 and path[0].lower() != "temp"):
            raise InvalidRequest(
                "a temporary table has no catalog or schema", f"CREATE TEMP TABLE {path[-1]} …"
            )
        session = scope.session
        self.ensure_temporary(session)
        view = bool(analysis.detail["view"])
        if view and any(r.at for r in analysis.references):
            raise NotSupported("a temporary view cannot use time travel")
        bound = self._engine.binder.bind(analysis, session, scope.transaction, qualify=view)
        scope.watch.note_tables(bound.names)
        sql = retarget(bound.sql, f"{quote(session.temporary)}.main.{quote(path[-1])}")
        if view and bound.inputs:
            raise NotSupported(
                "a temporary view cannot read tables of the schema system, search or embed", "CREATE VIEW"
            )
        self._run_temporary(scope, sql, _values(analysis, rows), bound.bindings, bound.inputs)
        if view:
            session.temp_views[path[-1].lower()] = self._located(analysis, session)

    def _located(self, analysis: Analysis, session: Session) -> tuple[TableReference, ...]:
        """What a view reads, by full names, so that it reads the same when the session's schema changes."""
        temporary = session.temp_objects()
        found: list[TableReference] = []
        for reference in analysis.references:
            path = reference.path
            known = len(path) == 1 and path[0].lower() in temporary
            if not known and "information_schema" not in path:
                name = self._engine.binder.locate(path, session)
                path = (name.catalog, name.schema, name.table)
                view = session.lakes.of(name.catalog).find_view(name.schema, name.table)
                if view is not None:
                    # What is kept is the text of that view as it is now, so its tables have to be bound.
                    found += self._located(self._engine.gate.analyse(view.sql), session)
                    continue
            found.append(TableReference(path))
        return tuple(found)

    def modify(
        self, analysis: Analysis, scope: Scope, rows: Iterable[Sequence[Any]] | None = None
    ) -> tuple[int, pa.Table | None]:
        """Run DML; gives the count, and the rows that RETURNING asked for.

        Raises:
            LakehouseError: The statement failed; nothing of it remains.
        """
        path, session = analysis.target, scope.session
        name = path[-1] if len(path) == 1 else ""
        if not name or name.lower() not in session.temp_objects():
            with acting(_origin(scope, "sql")):
                outcome = self._dml.run(analysis, session, scope.transaction, scope.watch, rows)
            return outcome.count, outcome.rows
        if self._database.has_view(TableName(session.catalog, session.schema, name)):
            raise NotSupported(
                f"{name} is the name of a temporary table and of a lake table of schema {session.schema}",
                "give the temporary table another name",
            )
        bound = self._engine.binder.bind(analysis, session, scope.transaction)
        scope.watch.note_tables(bound.names)
        returning = bool(analysis.detail["returning"])
        return self._run_temporary(
            scope, bound.sql, _values(analysis, rows), bound.bindings, bound.inputs, returning
        )

    def _run_temporary(
        self,
        scope: Scope,
        sql: str,
        rows: Iterable[Values] | None,
        bindings: Sequence[Binding] = (),
        inputs: Sequence[Supply] = (),
        returning: bool = False,
    ) -> tuple[int, pa.Table | None]:
        session, transaction = scope.session, scope.transaction
        self._begin(scope)
        with self._engine.cursor(session.state(), transaction) as cursor:
            connection = cursor.connection
            with self._engine.running.working(scope.watch, session.id) as statement:
                statement.attach(cursor.interrupt)
                try:
                    with self._engine.errors(), cursor.supplied(inputs, statement.record.check_stop):
                        cursor.bind(bindings, self._database.empty_file)
                        return _execute_all(connection, sql, rows, returning, own=transaction is None)
                finally:
                    session.changed()

    def _begin(self, scope: Scope) -> None:
        """Open DuckDB's own transaction for the first change to temporary tables in a transaction."""
        transaction = scope.transaction
        if transaction is not None and transaction.cursor is None:
            transaction.views_seen = self._database.views_made
            transaction.cursor = self._database.acquire(scope.session.state())
            transaction.cursor.connection.execute("BEGIN TRANSACTION").fetchall()

    # -- settings of a session ----------------------------------------------------------------------

    @reading()
    def set_schema(self, session: Session, path: tuple[str, ...]) -> None:
        """Make ``[catalog.]schema``, or a catalog, the session's default.

        The schema ``system`` is in the default catalog, from wherever it is named.

        Raises:
            CatalogNotFound, SchemaNotFound: There is none of that name.
        """
        if (
            len(path) == 1
            and session.lakes.find(path[0]) is not None
            and not session.lakes.of(session.catalog).schema_exists(path[0])
        ):
            self.set_catalog(session, path[0])
            return
        catalog, wanted = self._engine.binder.locate_schema(path, session)
        default = self._catalogs.default.name
        if len(path) == 1 and wanted.lower() == SYSTEM_SCHEMA:
            catalog = default
        lake = session.lakes.of(catalog)
        there = (*lake.schemas(), SYSTEM_SCHEMA) if catalog == default else lake.schemas()
        stored = {s.lower(): s for s in there}.get(wanted.lower())
        if stored is None:
            raise SchemaNotFound(f"schema {wanted} does not exist in catalog {catalog}")
        self._database.sync_schemas(catalog, self._catalogs.of(catalog).schemas())
        session.catalog, session.schema = catalog, stored
        session.changed()

    @reading()
    def set_catalog(self, session: Session, catalog: str, schema: str = "") -> None:
        """Make a catalog the session's default, with the schema in which sessions begin there.

        Args:
            session: The session.
            catalog: The catalog.
            schema: A schema of it to be preferred, if it has one of that name.

        Raises:
            CatalogNotFound: There is none of that name.
        """
        lake = session.lakes.of(catalog)
        self._database.sync_schemas(lake.name, self._catalogs.of(lake.name).schemas())
        stored = {s.lower(): s for s in lake.schemas()}.get(schema.lower())
        session.catalog, session.schema = lake.name, stored or self._catalogs.home_schema(lake.name)
        session.changed()

    def set_option(self, session: Session, name: str, value: str | None) -> None:
        """Change an engine setting of the session; ``None`` puts it back to the default.

        Raises:
            StatementForbidden: The setting is not one that sessions may change.
            SqlBindError, SqlExecutionError: The value does not fit.
        """
        key = name.lower()
        if key == WORKSPACE:
            session.workspace = check_workspace(value or "")
            return
        if key == PROFILE:
            wanted = (value or "").lower()
            session.profile = wanted if wanted in ("", NO_PROFILE) else session.access.profile(wanted).name
            return
        if key not in SESSION_SETTINGS:
            allowed = ", ".join(sorted((*SESSION_SETTINGS.values(), WORKSPACE, PROFILE)))
            raise StatementForbidden(f"the setting {name} cannot be changed", f"these can: {allowed}")
        if value is None:
            session.settings.pop(key, None)
        else:
            cursor = self._database.private_cursor()
            try:
                with self._engine.errors():
                    cursor.execute(f"SET SESSION {SESSION_SETTINGS[key]} = ?", [value]).fetchall()
            finally:
                cursor.close()
            session.settings[key] = value
        session.changed()

    # -- temporary tables ---------------------------------------------------------------------------

    def ensure_temporary(self, session: Session) -> None:
        """Give the session its own database, if it has none yet."""
        with session.lock:
            if not session.temporary:
                name = "~" + self._engine.clock.token()
                self._database.attach_temporary(name)
                session.temporary = name
                session.changed()

    def list_temporary(self, session: Session) -> dict[str, str]:
        """Temporary tables and views of a session: lower-case name → name."""
        with (
            self._engine.cursor(session.state(), session.only_transaction()) as cursor,
            self._engine.errors(),
        ):
            rows = cursor.connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = $1 UNION ALL "
                "SELECT view_name FROM duckdb_views() WHERE database_name = $1 AND NOT internal",
                [session.temporary],
            ).fetchall()
        return {str(name).lower(): str(name) for (name,) in rows}

    def temporary_schema(self, session: Session, name: str) -> pa.Schema:
        """The Arrow schema of a temporary table."""
        analysis = self._engine.gate.analyse(f"SELECT * FROM {quote(name)}")
        return self._engine.plan(analysis, session, session.only_transaction()).schema

    def ingest_temporary(
        self, scope: Scope, table: str, mode: WriteMode, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> int:
        """Load batches into a temporary table; gives the number of rows.

        Raises:
            TableAlreadyExists, TableNotFound: The table does not fit the mode.
        """
        session, transaction = scope.session, scope.transaction
        exists = table.lower() in session.temp_objects()
        if exists and mode is WriteMode.CREATE:
            raise TableAlreadyExists(f"temporary table {table} exists already")
        if not exists and mode is WriteMode.APPEND:
            raise TableNotFound(f"temporary table {table} does not exist in this session")
        self.ensure_temporary(session)
        target = f"{quote(session.temporary)}.main.{quote(table)}"
        append = exists and mode is not WriteMode.REPLACE
        verb = f"INSERT INTO {target} BY NAME" if append else f"CREATE OR REPLACE TABLE {target} AS"
        self._begin(scope)
        running = self._engine.running
        with (
            self._engine.cursor(session.state(), transaction) as cursor,
            running.working(scope.watch, session.id) as statement,
            self._engine.errors(),
        ):
            statement.attach(cursor.interrupt)
            reader = pa.RecordBatchReader.from_batches(schema, running.arriving(statement, batches))
            cursor.connection.register("incoming", reader)
            try:
                rows = cursor.connection.execute(f"{verb} SELECT * FROM incoming").fetchall()
            finally:
                cursor.connection.unregister("incoming")
                session.changed()
        return int(rows[0][0]) if rows else 0

    # -- lake tables --------------------------------------------------------------------------------

    def ingest(
        self,
        scope: Scope,
        target: TableName,
        mode: WriteMode,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        definition: TableDefinition | None = None,
        alterations: Sequence[Alteration] = (),
    ) -> int:
        """Load batches into a lake table, in one commit or within a transaction; gives the number of rows.

        Args:
            scope: Who does it, and in which transaction.
            target: The table.
            mode: What is to become of it.
            schema: The columns that come.
            batches: The rows.
            definition: What a table that gets created or replaced is declared to be.
            alterations: How the columns of a table change, with its rows, that gets some more.

        Raises:
            LakehouseError: The load failed; nothing of it is visible.
        """
        with acting(_origin(scope, "ingest")):
            return self._ingest(scope, target, mode, schema, batches, definition, alterations)

    def _ingest(
        self,
        scope: Scope,
        target: TableName,
        mode: WriteMode,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        definition: TableDefinition | None,
        alterations: Sequence[Alteration],
    ) -> int:
        transaction = scope.transaction
        lake = scope.session.lakes.of(target.catalog)
        lake.check_write(target.schema, target.table)
        if mode is WriteMode.REPLACE or alterations:
            lake.check_change(target.schema, target.table)
        if mode is WriteMode.REPLACE and not self._exists(transaction, target):
            mode = WriteMode.CREATE
        if transaction is None:
            staged = self._stage(scope, target, mode, schema, batches, definition, alterations)
            commit_or_discard(self._catalogs.of(target.catalog), staged)
            return staged.rows
        with transaction.lock:
            known = transaction.known(target)
            transaction.check_change(known)
            earlier = transaction.writes.get(known)
            if earlier is None and known in transaction.drops:
                if mode is WriteMode.APPEND:
                    raise TableNotFound(f"table {known} was dropped in this transaction")
                mode = WriteMode.REPLACE
            seen = transaction.pinned(known)
            staged = self._stage(scope, target, mode, schema, batches, definition, alterations, earlier, seen)
            transaction.keep(staged)
            return staged.rows

    def _stage(
        self,
        scope: Scope,
        target: TableName,
        mode: WriteMode,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        definition: TableDefinition | None,
        alterations: Sequence[Alteration],
        earlier: StagedWrite | None = None,
        seen: Table | None = None,
    ) -> StagedWrite:
        running = self._engine.running
        with (
            running.working(scope.watch, scope.session.id) as statement,
            coming_from("upload", ingest="bulk ingest"),
        ):

            def cancelled() -> bool:
                return statement.reason is not None or scope.watch.cancelled()

            incoming = running.arriving(statement, batches)
            catalog = self._catalogs.of(target.catalog)
            transaction = scope.transaction
            makes_schema = transaction is not None and transaction.makes_schema(target)
            return stage(
                catalog,
                target,
                mode,
                schema,
                incoming,
                cancelled,
                earlier,
                seen,
                definition,
                alterations,
                makes_schema=makes_schema,
            )

    def _exists(self, transaction: Transaction | None, target: TableName) -> bool:
        if transaction is None:
            return self._catalogs.of(target.catalog).table_exists(target.schema, target.table)
        try:
            transaction.load(target)
        except (TableNotFound, SchemaNotFound):
            return transaction.known(target) in transaction.drops
        return True


def _check_free(schema: str) -> None:
    if schema.lower() in RESERVED_SCHEMAS:
        raise InvalidRequest(f"a schema cannot be called {schema}", "the name is the server's own")


def _origin(scope: Scope, source: str) -> Origin:
    session, record, transaction = scope.session, scope.watch.record, scope.transaction
    return Origin(
        session.principal.name,
        source if transaction is None else transaction.origin(source),
        session.workspace,
        record.id if record is not None else "",
        record.request_id if record is not None else "",
    )


def _values(analysis: Analysis, rows: Iterable[Sequence[Any]] | None) -> Iterable[Values] | None:
    """Each row of parameters in the form DuckDB wants: by position, or by name where they have names."""
    names = analysis.parameters
    if rows is None:
        return None
    if all(name.isdigit() for name in names):
        return map(list, rows)
    return (dict(zip(names, row, strict=True)) for row in rows)


def _execute_all(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    rows: Iterable[Values] | None,
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
            changed, table = _execute(connection, sql, row, returning)
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
    connection: duckdb.DuckDBPyConnection, sql: str, row: Values | None, returning: bool
) -> tuple[int, pa.Table | None]:
    result = connection.execute(sql, row) if row is not None else connection.execute(sql)
    if returning:
        table: pa.Table = result.to_arrow_table()
        return int(table.num_rows), table
    answer = result.fetchall()
    is_count = len(answer) == 1 and len(answer[0]) == 1 and isinstance(answer[0][0], int)
    return (answer[0][0] if is_count else 0), None


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(value[0] * 2, value[0])
    return value
