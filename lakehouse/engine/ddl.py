"""CREATE TABLE, ALTER TABLE, COMMENT ON and DROP SCHEMA … CASCADE for lake tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from lakehouse.access.policy import SYSTEM_SCHEMA
from lakehouse.catalog import Table
from lakehouse.catalog import table_alteration as alteration
from lakehouse.catalog.arrow_types import storable_schema
from lakehouse.catalog.commit import Target, resolve, writable
from lakehouse.catalog.names import fold
from lakehouse.catalog.observer import coming_from
from lakehouse.catalog.table_definition import TableDefinition
from lakehouse.config.catalog import RESERVED_SCHEMAS
from lakehouse.engine import gate_ddl as written
from lakehouse.engine.binding import Bound
from lakehouse.engine.gate import Analysis
from lakehouse.engine.result import rows_per_batch
from lakehouse.engine.stored_types import is_wider, stored_type
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    NotSupported,
    PermissionDenied,
    SchemaMismatch,
    SchemaNotFound,
    StatementForbidden,
    TableAlreadyExists,
    TableNotFound,
    TransactionStateError,
)
from lakehouse.ingest import StagedWrite, WriteMode, commit_or_discard
from lakehouse.ingest.writer import stage_for
from lakehouse.types import ForeignKey, TableName, quote

if TYPE_CHECKING:
    from lakehouse.engine.changes import Scope
    from lakehouse.engine.engine import Engine
    from lakehouse.engine.running import RunningStatement

_SCRATCH = '"~columns"'
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _Declared:
    """Columns as they are written: what DuckDB makes of them."""

    columns: pa.Schema
    primary_key: tuple[str, ...]
    defaults: dict[str, str]


class TableDdl:
    """Runs what declares tables and changes what they are declared to be.

    Args:
        engine: The engine whose catalog, database and gate are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._catalogs = engine.catalogs
        self._database = engine.database

    # -- CREATE TABLE -------------------------------------------------------------------------------

    def create(self, analysis: Analysis, scope: Scope, rows: Iterable[Sequence[Any]] | None) -> int:
        """CREATE TABLE, with the rows of a query where there is one; gives their number.

        Raises:
            TableAlreadyExists: There is one, and the statement does not say what then.
            LakehouseError: The statement failed; nothing of it remains.
        """
        create: written.CreateTable = analysis.detail["create"]
        session, transaction = scope.session, scope.transaction
        target = self._engine.binder.locate(create.target, session)
        if target.schema.lower() in (*RESERVED_SCHEMAS, SYSTEM_SCHEMA):
            raise InvalidRequest(
                f"no table can be created in schema {target.schema}", "it is the server's own"
            )
        if target.table.startswith("~"):
            raise StatementForbidden("names that begin with ~ are internal")
        scope.watch.note_tables([target])
        lake = session.lakes.of(target.catalog)
        lake.check_write(target.schema, target.table)
        if create.replaces:
            lake.check_change(target.schema, target.table)
        if create.if_not_exists and self._known(transaction, target) is not None:
            return 0
        values = _single(analysis, rows)
        if transaction is None:
            return self._create(analysis, create, scope, target, values)
        with transaction.lock:
            transaction.check_change(transaction.known(target))
            earlier = transaction.writes.get(transaction.known(target))
            staged = self._staged(analysis, create, scope, target, values, earlier)
            transaction.keep(staged)
        return staged.rows

    def _create(
        self, analysis: Analysis, create: written.CreateTable, scope: Scope, target: TableName, values: Any
    ) -> int:
        for left in reversed(range(_ATTEMPTS)):
            try:
                staged = self._staged(analysis, create, scope, target, values, None)
                commit_or_discard(self._catalogs.of(target.catalog), staged)
            except TableAlreadyExists:
                # Somebody else was faster.
                if create.if_not_exists:
                    return 0
                if not create.replaces or not left:
                    raise
            else:
                return staged.rows
        raise AssertionError("the last attempt gives or raises")

    def _staged(
        self,
        analysis: Analysis,
        create: written.CreateTable,
        scope: Scope,
        target: TableName,
        values: Any,
        earlier: StagedWrite | None,
    ) -> StagedWrite:
        engine, session, transaction = self._engine, scope.session, scope.transaction
        mode = self._mode(create, transaction, target, earlier)
        with engine.running.working(scope.watch, session.id) as statement:

            def cancelled() -> bool:
                return statement.reason is not None or scope.watch.cancelled()

            def stage(
                definition: TableDefinition, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
            ) -> StagedWrite:
                where = self._target(target, mode, definition, earlier, transaction)
                return stage_for(self._catalogs.of(target.catalog), where, schema, batches, cancelled)

            if create.query is None:
                definition = self._definition(create, scope, target, statement)
                return stage(definition, definition.columns, ())
            bound = engine.binder.bind(analysis, session, transaction)
            scope.watch.note_tables([*bound.names, target])
            with (
                self._reading(bound, scope, values, statement) as relation,
                coming_from("sql", ingest="CREATE TABLE AS", inputs=bound.names),
            ):
                columns = _columns_of(relation, create.names)
                definition = TableDefinition(
                    columns, create.layout.partitioning or (), create.layout.sorting or ()
                )
                if not create.with_data:
                    return stage(definition, columns, ())
                reader = _kept(relation).to_arrow_reader(
                    rows_per_batch(columns, engine.settings.engine.batch_bytes)
                )
                with reader:
                    schema = pa.schema(
                        [
                            field.with_name(name)
                            for field, name in zip(reader.schema, columns.names, strict=True)
                        ]
                    )
                    batches = (_renamed(batch, schema) for batch in reader)
                    return stage(definition, schema, batches)

    def _mode(
        self,
        create: written.CreateTable,
        transaction: Transaction | None,
        target: TableName,
        earlier: StagedWrite | None,
    ) -> WriteMode:
        exists = self._known(transaction, target) is not None
        if exists and not create.replaces:
            raise TableAlreadyExists(
                f"table {target} exists already", "CREATE TABLE IF NOT EXISTS, or CREATE OR REPLACE TABLE"
            )
        dropped = transaction is not None and earlier is None and _is_dropped(transaction, target)
        return WriteMode.REPLACE if exists or dropped else WriteMode.CREATE

    def _target(
        self,
        target: TableName,
        mode: WriteMode,
        definition: TableDefinition,
        earlier: StagedWrite | None,
        transaction: Transaction | None,
    ) -> Target:
        lake = writable(self._catalogs.of(target.catalog))
        known = None if transaction is None else transaction.known(target)
        seen = None if transaction is None or known is None else transaction.pinned(known)
        return resolve(lake, target, mode, lambda: definition.columns, earlier, seen, definition)

    def _known(self, transaction: Transaction | None, target: TableName) -> Table | None:
        try:
            return (transaction or self._catalogs).load(target)
        except (TableNotFound, SchemaNotFound):
            return None

    @contextmanager
    def _reading(
        self, bound: Bound, scope: Scope, values: Any, statement: RunningStatement
    ) -> Iterator[duckdb.DuckDBPyRelation]:
        """The rows of a query, as a relation that has not run."""
        engine = self._engine
        owner = scope.transaction if bound.temporary else None
        with engine.cursor(scope.session.state(), owner) as cursor, engine.errors():
            statement.attach(cursor.interrupt)
            cursor.bind(bound.bindings, self._database.empty_file)
            with cursor.supplied(bound.inputs, statement.record.check_stop):
                yield cursor.connection.sql(bound.sql, params=values)

    # -- definitions --------------------------------------------------------------------------------

    def _definition(
        self, create: written.CreateTable, scope: Scope, target: TableName, statement: RunningStatement
    ) -> TableDefinition:
        declared = self._declared(create.columns, scope, statement)
        own = {fold(name): name for name in declared.columns.names}
        keys = tuple(
            self._foreign_key(reference, scope, target, declared, own) for reference in create.references
        )
        return TableDefinition(
            declared.columns,
            create.layout.partitioning or (),
            create.layout.sorting or (),
            declared.primary_key,
            keys,
            declared.defaults,
        )

    def _declared(self, text: str, scope: Scope, statement: RunningStatement | None = None) -> _Declared:
        """What DuckDB makes of definitions of columns, by making a table of them that nobody else sees."""
        self._engine.gate.check_definition(text)
        scratch = self._database.private_cursor()
        try:
            with self._engine.errors():
                scratch.execute(f"CREATE TEMP TABLE {_SCRATCH} ({text}\n)").fetchall()
                relation = scratch.sql(f"FROM temp.main.{_SCRATCH}")
                columns, kinds = _columns_of(relation), list(relation.types)
                facts = scratch.execute(
                    'SELECT name, type, "notnull", dflt_value '
                    f"FROM pragma_table_info('temp.main.{_SCRATCH}')"
                ).fetchall()
                constraints = scratch.execute(
                    "SELECT constraint_type, constraint_text, constraint_column_names "
                    "FROM duckdb_constraints() WHERE database_name = 'temp'"
                ).fetchall()
        finally:
            scratch.close()
        key = _primary_key(constraints)
        defaults = {}
        for (name, kind, _, default), declared in zip(facts, kinds, strict=True):
            if default is not None:
                self._check_default(default, stored_type(declared, name)[0], scope)
                if default.upper() not in ("NULL", f"CAST(NULL AS {kind})"):
                    defaults[name] = default
        required = {name: bool(notnull) for name, _, notnull, _ in facts}
        fields = [column.with_nullable(not required[column.name]) for column in columns]
        return _Declared(pa.schema(fields), key, defaults)

    def _check_default(self, text: str, kind: str, scope: Scope) -> None:
        """Refuse a default value that may not or cannot be a value of its column."""
        engine, session = self._engine, scope.session
        engine.gate.check_expression(text)
        with engine.cursor(session.state(), None) as cursor, engine.errors():
            cursor.connection.sql(f"SELECT CAST(({text}\n) AS {kind})").to_arrow_table()

    def _foreign_key(
        self,
        reference: written.Reference,
        scope: Scope,
        target: TableName,
        own: _Declared | None = None,
        spelled: dict[str, str] | None = None,
    ) -> ForeignKey:
        """A foreign key whose table and columns are there for the principal."""
        session = scope.session
        name = self._engine.binder.locate_beside(reference.table, target, session)
        if name.catalog != target.catalog:
            raise NotSupported(f"table {target} cannot refer to {name}, which is in another catalog")
        if own is not None and (fold(name.schema), fold(name.table)) == (
            fold(target.schema),
            fold(target.table),
        ):
            known, key, found = dict(spelled or {}), own.primary_key, target
        else:
            session.lakes.of(name.catalog).check_read(name.schema, name.table)
            table = self._known(scope.transaction, name)
            if table is None:
                raise self._engine.binder.missing(name, session.lakes)
            names = table.arrow_schema().names
            known, key, found = {fold(n): n for n in names}, table.primary_key, table.name
        wanted = reference.ref_columns or key
        if not wanted:
            raise SchemaMismatch(f"table {name} has no primary key", "name the columns after REFERENCES")
        if len(wanted) != len(reference.columns):
            raise SchemaMismatch(
                f"the foreign key has {len(reference.columns)} columns, but refers to {len(wanted)} of {name}"
            )
        for column in wanted:
            if fold(column) not in known:
                raise SchemaMismatch(f"table {name} has no column '{column}'")
        title = reference.name or "_".join((target.table, *reference.columns, "fkey"))
        return ForeignKey(
            title, reference.columns, found.schema, found.table, tuple(known[fold(c)] for c in wanted)
        )

    # -- ALTER TABLE, COMMENT ON --------------------------------------------------------------------

    def alter(self, analysis: Analysis, scope: Scope) -> None:
        """ALTER TABLE.

        Raises:
            LakehouseError: The statement failed and changed nothing.
        """
        statement: written.AlterTable = analysis.detail["alter"]
        target = self._to_change(analysis.target, scope, statement.if_exists)
        if target is None:
            return
        for left in reversed(range(_ATTEMPTS)):
            change = self._change(statement.action, scope, target)
            try:
                scope.session.lakes.of(target.catalog).alter_table(target.schema, target.table, change)
                break
            except CommitConflict:
                # Rows came after they had been looked through for NULL.
                if not left or not isinstance(change, alteration.RequireColumn):
                    raise
        return

    def comment(self, analysis: Analysis, scope: Scope) -> None:
        """COMMENT ON TABLE and COMMENT ON COLUMN.

        Raises:
            LakehouseError: The statement failed and changed nothing.
        """
        comment: written.Comment = analysis.detail["comment"]
        target = self._to_change(analysis.target, scope, if_exists=False)
        if target is None:
            return
        text = "" if comment.text is None else str(self._engine.binder.evaluate(comment.text, scope.session))
        docs = {} if comment.column is None else {comment.column: text}
        description = text if comment.column is None else None
        lake = scope.session.lakes.of(target.catalog)
        lake.describe_table(target.schema, target.table, description, docs)

    def _to_change(self, path: tuple[str, ...], scope: Scope, if_exists: bool) -> TableName | None:
        """The table that a statement changes; None where there is none and that is fine."""
        session, binder = scope.session, self._engine.binder
        if (len(path) == 1 and path[0].lower() in session.temp_objects()) or (
            len(path) == 2 and path[0].lower() == "temp"
        ):
            raise NotSupported(f"{path[-1]} is a temporary table, which cannot be changed", "create it again")
        target = binder.locate(path, session)
        scope.watch.note_tables([target])
        try:
            lake = session.lakes.of(target.catalog)
            lake.check_change(target.schema, target.table)
            known = lake.load(target.schema, target.table).name
        except (TableNotFound, SchemaNotFound):
            if scope.transaction is not None and self._is_own(scope.transaction, target):
                raise _not_within(target) from None
            if if_exists:
                return None
            raise binder.missing(target, session.lakes) from None
        if scope.transaction is not None:
            raise _not_within(known)
        return known

    def _is_own(self, transaction: Transaction, target: TableName) -> bool:
        return transaction.known(target) in transaction.writes

    def _change(self, action: written.Action, scope: Scope, target: TableName) -> alteration.Alteration:
        match action:
            case written.AddColumn():
                return self._added(action, scope)
            case written.DropColumn():
                self._check_free(target, action.path)
                return alteration.DropColumn(action.path, action.if_exists)
            case written.RenameColumn():
                self._check_free(target, action.path)
                return alteration.RenameColumn(action.path, action.name)
            case written.RetypeColumn():
                declared = self._declared(f"{quote(action.path[-1])} {action.definition}", scope)
                return alteration.RetypeColumn(action.path, declared.columns.field(0).type)
            case written.RequireColumn():
                checked = self._without_null(action.path, scope, target) if action.required else None
                return alteration.RequireColumn(action.path, action.required, checked)
            case written.DefaultColumn():
                return self._defaulted(action, scope, target)
            case written.SetLayout():
                layout = action.layout
                if layout.partitioning is not None:
                    return alteration.SetPartitioning(layout.partitioning)
                return alteration.SetSorting(layout.sorting or ())
            case written.AddKey():
                if action.reference is None:
                    return alteration.AddPrimaryKey(action.columns)
                return alteration.AddForeignKey(self._foreign_key(action.reference, scope, target))

    def _added(self, action: written.AddColumn, scope: Scope) -> alteration.AddColumn:
        name = action.path[-1]
        declared = self._declared(f"{quote(name)} {action.definition}", scope)
        if len(declared.columns) != 1 or declared.primary_key:
            raise NotSupported("a column cannot be added as a primary key", "ADD PRIMARY KEY (…) after it")
        column = declared.columns.field(0)
        default = declared.defaults.get(name)
        return alteration.AddColumn(
            action.path, column.type, not column.nullable, default, action.if_not_exists
        )

    def _defaulted(
        self, action: written.DefaultColumn, scope: Scope, target: TableName
    ) -> alteration.DefaultColumn:
        default = action.expression
        columns = {fold(f.name): f for f in self._catalogs.load(target).arrow_schema()}
        column = columns.get(fold(action.path[0]))
        if default is None or column is None or len(action.path) > 1:
            return alteration.DefaultColumn(action.path, default)
        kinds = dict(self._catalogs.load(target).sql_columns())
        declared = self._declared(f"{quote(column.name)} {kinds[column.name]} DEFAULT {default}", scope)
        return alteration.DefaultColumn(action.path, declared.defaults.get(column.name))

    def _without_null(self, path: tuple[str, ...], scope: Scope, target: TableName) -> int | None:
        """The snapshot of a table that has no NULL in a column.

        Raises:
            SchemaMismatch: It has one.
        """
        engine, session = self._engine, scope.session
        column = {fold(f.name): f.name for f in self._catalogs.load(target).arrow_schema()}
        name = column.get(fold(path[0]))
        if name is None or len(path) > 1:
            return None
        sql = f"SELECT count(*) FROM {target.sql} WHERE {quote(name)} IS NULL"
        bound = engine.binder.bind(engine.gate.analyse(sql), session, None)
        with (
            engine.running.working(scope.watch, session.id) as statement,
            self._reading(bound, scope, None, statement) as relation,
        ):
            found = relation.fetchall()[0][0]
        if found:
            raise SchemaMismatch(
                f"column '{name}' of table {target} has {found} rows that are NULL",
                f"UPDATE {target.table} SET {quote(name)} = … WHERE {quote(name)} IS NULL",
            )
        return bound.tables[0][1].snapshot_id

    def _check_free(self, target: TableName, path: tuple[str, ...]) -> None:
        """Refuse to take away a name that access rules or the keys of other tables hold on to.

        Raises:
            SchemaMismatch: They do.
        """
        column = fold(path[0])
        if len(path) > 1:
            return
        if column in self._engine.policy.restricted_columns(target):
            raise SchemaMismatch(
                f"column '{path[0]}' of table {target} is named by a row filter or mask of the configuration",
                "change the roles in the configuration first",
            )
        catalog = self._catalogs.of(target.catalog)
        for schema in catalog.schemas():
            for table in catalog.tables(schema):
                if any(_refers(key, target, column) for key in self._keys_of(schema, table, target)):
                    raise SchemaMismatch(
                        f"a foreign key of another table refers to column '{path[0]}' of table {target}",
                        "set other keys by the action catalog.declare_keys first",
                    )

    def _keys_of(self, schema: str, table: str, target: TableName) -> tuple[ForeignKey, ...]:
        if (fold(schema), fold(table)) == (fold(target.schema), fold(target.table)):
            return ()
        found = self._known(None, TableName(target.catalog, schema, table))
        return () if found is None else found.foreign_keys

    # -- DROP SCHEMA --------------------------------------------------------------------------------

    def drop_schema(self, path: tuple[str, ...], scope: Scope, *, if_exists: bool, cascade: bool) -> None:
        """DROP SCHEMA, with CASCADE together with its views and tables, one after the other.

        Raises:
            SchemaNotEmpty: It holds tables or views.
            LakehouseError: A table or view, or the schema itself, could not be dropped.
        """
        name, schema = self._engine.binder.locate_schema(path, scope.session)
        lake, catalog = scope.session.lakes.of(name), self._catalogs.of(name)
        if cascade and lake.schema_exists(schema):
            if scope.transaction is not None:
                raise TransactionStateError(
                    f"schema {schema} cannot be dropped with its tables inside a transaction",
                    "COMMIT or ROLLBACK first",
                )
            tables, views = lake.tables(schema), lake.views(schema)
            for each in (*tables, *views):
                lake.check_change(schema, each)
            there = len(catalog.tables(schema)) + len(catalog.views(schema))
            if not lake.access.may_write_schema(lake.name, schema) or len(tables) + len(views) < there:
                raise PermissionDenied(
                    f"{lake.access.principal.name} may not drop the schema {schema} with all that is in it"
                )
            for view in views:
                lake.drop_view(schema, view, if_exists=True)
            for table in tables:
                known = lake.load(schema, table).name
                lake.drop_table(schema, table, if_exists=True)
                self._database.drop_view(known)
        lake.drop_schema(schema, if_exists=if_exists)
        self._database.sync_schemas(name, catalog.schemas())


def _columns_of(relation: duckdb.DuckDBPyRelation, names: Sequence[str] = ()) -> pa.Schema:
    """The columns of a table that keeps all that a relation can give."""
    found = list(relation.columns)
    if len(names) > len(found):
        raise InvalidRequest(
            f"the table has names for {len(names)} columns, but the query gives {len(found)}"
        )
    found[: len(names)] = names
    fields = [
        pa.field(name, stored_type(kind, name)[1]) for name, kind in zip(found, relation.types, strict=True)
    ]
    return storable_schema(pa.schema(fields))


def _kept(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The relation with those values cast that Arrow would take for what they are not."""
    if not any(is_wider(kind) for kind in relation.types):
        return relation
    columns = [
        f"CAST({quote(name)} AS {stored_type(kind, name)[0]}) AS {quote(name)}"
        if is_wider(kind)
        else quote(name)
        for name, kind in zip(relation.columns, relation.types, strict=True)
    ]
    return relation.project(", ".join(columns))


def _renamed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _primary_key(constraints: Iterable[tuple[str, str, list[str]]]) -> tuple[str, ...]:
    key: tuple[str, ...] = ()
    for kind, text, columns in constraints:
        if kind == "PRIMARY KEY":
            key = tuple(columns)
        elif kind != "NOT NULL":
            raise NotSupported(
                f"an Iceberg table cannot keep the constraint {text}",
                "there are NOT NULL, PRIMARY KEY and FOREIGN KEY; the last two are declared, not enforced",
            )
    return key


def _not_within(name: TableName) -> TransactionStateError:
    return TransactionStateError(f"{name} cannot be altered inside a transaction", "COMMIT or ROLLBACK first")


def _refers(key: ForeignKey, target: TableName, column: str) -> bool:
    same = (fold(key.ref_schema), fold(key.ref_table)) == (fold(target.schema), fold(target.table))
    return same and column in map(fold, key.ref_columns)


def _is_dropped(transaction: Transaction, target: TableName) -> bool:
    return transaction.known(target) in transaction.drops


def _single(analysis: Analysis, rows: Iterable[Sequence[Any]] | None) -> Any:
    """The values of the parameters: one row at most.

    Raises:
        InvalidRequest: There are more, or their number does not fit.
    """
    names = analysis.parameters
    given = [list(row) for row in rows or ()]
    if len(given) > 1:
        raise InvalidRequest("CREATE TABLE runs once, but several rows of parameters were bound")
    values = given[0] if given else []
    if len(values) != len(names):
        raise InvalidRequest(f"the statement has {len(names)} parameters, but {len(values)} were bound")
    if not names:
        return None
    return values if all(name.isdigit() for name in names) else dict(zip(names, values, strict=True))
