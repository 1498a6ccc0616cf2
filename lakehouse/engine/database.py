"""The one DuckDB database of the process: sandboxed, with pooled cursors and the views over lake tables."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self
from weakref import WeakValueDictionary

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.access.policy import SYSTEM_SCHEMA
from lakehouse.config import RESERVED_CATALOGS, EngineSettings
from lakehouse.engine.bounded_functions import macros
from lakehouse.engine.errors import duckdb_errors
from lakehouse.engine.model_calls import ModelCalls
from lakehouse.engine.stored_types import sql_type
from lakehouse.engine.system_tables import SystemTable
from lakehouse.storage import Lease, ObjectCache, ScratchDirectory
from lakehouse.types import TableName, quote

if TYPE_CHECKING:
    from lakehouse.engine.session import Session

SESSION_SETTINGS: dict[str, str] = {
    name.lower(): name
    for name in (
        "TimeZone",
        "Calendar",
        "default_null_order",
        "default_order",
        "integer_division",
        "ieee_floating_point_ops",
        "scalar_subquery_error_on_multiple_rows",
        "order_by_non_integer_literal",
        "preserve_insertion_order",
    )
}
"""Engine settings that a session may change, by lower-case name."""

INTERNAL_CATALOG = "~lakehouse"
VISIBLE_TABLES = "visible_tables"
"""Variable with the tables that a principal may read, as ``catalog.schema.table``, each name quoted, with the
schemas, ``catalog.schema``, and the catalogs."""
REQUIRED_COLUMNS = "required_columns"
"""Variable with the columns that are never NULL, as ``catalog.schema.table.column``, each name quoted."""
ABSENT_SCHEMAS = "absent_schemas"
"""Variable with the schemas that DuckDB has and the catalogs have not, as ``catalog.schema``, quoted."""
PRINCIPAL = "principal"
"""Variable with the name that ``current_user`` gives, as a list of one."""
_NAMES = frozenset({VISIBLE_TABLES, REQUIRED_COLUMNS, ABSENT_SCHEMAS, PRINCIPAL})
_SESSION_CATALOG = "~session"
_STATEMENT_MEMORY = "operator_memory_limit"
_PROFILING = "enable_profiling"
_POOL_PER_STATE = 8
_POOL_STATES = 64
_RELATIONS_PER_CURSOR = 32
_SHOWN_PER_CURSOR = 64


@dataclass(frozen=True, slots=True)
class CursorState:
    """What a cursor has to be set to before a statement of some session can run on it.

    ``temporary`` is the name of the session's own database, or empty. ``access`` keeps cursors apart that
    serve principals to whom the tables look different, and is empty for those who read everything.
    """

    catalog: str
    schema: str
    temporary: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    access: str = ""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Binding:
    """A DuckDB variable that says which files a view reads. Equal ``key`` means equal files.

    Without a ``key`` the variable is not set, which is how it is on a new cursor.
    """

    variable: str
    key: tuple[Any, ...]
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        _live_bindings[id(self)] = self


_live_bindings: WeakValueDictionary[int, Binding] = WeakValueDictionary()


def bound_files() -> set[str]:
    """The paths of the files that statements of this process read, or are planned to read."""
    # The list is made in one step, whatever other threads bind meanwhile.
    bindings = (reference() for reference in _live_bindings.valuerefs())
    return {path for binding in bindings if binding is not None for path in binding.files}


@dataclass(frozen=True, slots=True)
class Input:
    """Rows made for one statement, which reads them under an internal name.

    ``rows`` is called when the statement runs, with what raises when it has to stop; it gives a table of
    exactly ``schema``.
    """

    name: str
    schema: pa.Schema
    rows: Callable[[Callable[[], None]], pa.Table]

    def again(self, session: Session | None, values: Mapping[str, Any]) -> Self:
        """The same for another execution."""
        return self

    def supply(self, cursor: PooledCursor, check: Callable[[], None] | None) -> None:
        """Make the rows readable on a cursor; without a check the columns only."""
        cursor.show(self.name, self.schema.empty_table() if check is None else self.rows(check))

    def withdraw(self, cursor: PooledCursor) -> None:
        """Forget the rows."""
        cursor.empty(self.name)


class Supply(Protocol):
    """What a statement needs beside files: rows made for it, or what its functions ask."""

    def again(self, session: Session | None, values: Mapping[str, Any]) -> Supply:
        """The same for another execution of the statement, in a session that sees what this one sees.

        Args:
            session: The session; None for what is kept, which is to hold none.
            values: The values of the statement's parameters, by name.
        """
        ...

    def supply(self, cursor: PooledCursor, check: Callable[[], None] | None) -> None:
        """Make it ready on a cursor.

        Args:
            cursor: Where the statement runs.
            check: Raises where it has to stop; None where it is only planned, for which columns do.
        """
        ...

    def withdraw(self, cursor: PooledCursor) -> None:
        """Let go of it. Harmless where it was not made ready."""
        ...


class _Shown:
    """Rows that a cursor reads under one name for its life: to make a name takes longer than to read it."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self.none = rows.schema.empty_table()

    def __arrow_c_schema__(self) -> Any:
        return self.rows.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.rows.__arrow_c_stream__(requested_schema)


@dataclass
class PooledCursor:
    """A DuckDB cursor with what it has been set to."""

    connection: duckdb.DuckDBPyConnection
    state: CursorState
    cache: ObjectCache
    leases: list[Lease] = field(default_factory=list)
    bound: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    relations: dict[tuple[Any, ...], duckdb.DuckDBPyRelation] = field(default_factory=dict)
    shown: dict[str, _Shown] = field(default_factory=dict)

    def relation(self, sql: str, bindings: Sequence[Binding]) -> duckdb.DuckDBPyRelation:
        """The query over bound files as a relation, kept because running one again saves the parsing."""
        key = (sql, *(binding.key for binding in bindings))
        found = self.relations.get(key)
        if found is None:
            if len(self.relations) >= _RELATIONS_PER_CURSOR:
                self.relations.clear()
            found = self.relations[key] = self.connection.sql(sql)
        return found

    def interrupt(self) -> None:
        """Stop what goes on, from any thread: DuckDB, or waiting for files."""
        self.connection.interrupt()
        for lease in self.leases[-1:]:
            lease.cancel()

    def located(self, bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
        """The bindings with the paths at which files are to be read now."""
        found = []
        for binding in bindings:
            files = binding.files if binding.variable in _NAMES else self.cache.located(binding.files)
            same = files is binding.files
            found.append(
                binding if same else replace(binding, files=files, key=(*binding.key, hash(files), "moved"))
            )
        return tuple(found)

    def bind_columns(self, bindings: Sequence[Binding], empty_file: str) -> None:
        """The same as ``bind`` for who asks for columns only: of remote files none is fetched, or read."""
        self.bind(
            [
                replace(binding, key=(), files=())
                if any(map(self.cache.holds, binding.files[:1]))
                else binding
                for binding in bindings
            ],
            empty_file,
        )

    def bind(self, bindings: Sequence[Binding], empty_file: str) -> None:
        """Make the views read the files of these bindings on this cursor, until it is released.

        Raises:
            StorageError: A file of a remote bucket could not be fetched.
            ObjectChanged: A registered object was replaced.
            StatementCancelled: ``interrupt`` was called while that went on.
        """
        self.check_unchanged(bindings)
        if self.cache.directory is not None:
            files = [path for binding in bindings if binding.variable not in _NAMES for path in binding.files]
            lease = self.cache.lease(files)
            self.leases.append(lease)
            lease.wait()
        for binding in bindings:
            if not binding.key:
                if self.bound.pop(binding.variable, None) is not None:
                    self.connection.execute(f"RESET VARIABLE {quote(binding.variable)}").fetchall()
            elif self.bound.get(binding.variable) != binding.key:
                files = list(binding.files) or [empty_file]
                self.connection.execute(f"SET VARIABLE {quote(binding.variable)} = ?", [files]).fetchall()
                self.bound[binding.variable] = binding.key
        if len(self.bound) > 1000:
            self._forget(keep={b.variable for b in bindings})

    def check_unchanged(self, bindings: Sequence[Binding]) -> None:
        """Make sure that the files of bindings which others may replace are still those that were bound.

        Raises:
            ObjectChanged: One of them was replaced.
            ObjectNotFound: One of them is gone.
        """
        links = self.cache.links
        if links is None:
            return
        for binding in bindings:
            if any(map(links.holds, binding.files[:1])):
                links.check(binding.files)

    @contextmanager
    def supplied(self, inputs: Sequence[Supply], check: Callable[[], None] | None = None) -> Iterator[None]:
        """Make the inputs readable for the length of a ``with``; see ``supply``."""
        self.supply(inputs, check)
        try:
            yield
        finally:
            self.withdraw(inputs)

    def supply(self, inputs: Sequence[Supply], check: Callable[[], None] | None = None) -> None:
        """Make the inputs readable on this cursor: their columns only, unless ``check`` says how to stop."""
        for each in inputs:
            each.supply(self, check)

    def withdraw(self, inputs: Sequence[Supply]) -> None:
        """Forget the inputs."""
        for each in inputs:
            each.withdraw(self)

    def show(self, name: str, rows: pa.Table) -> None:
        """Make rows readable under an internal name, always with the same columns."""
        found = self.shown.get(name)
        if found is None:
            found = self.shown[name] = _Shown(rows)
            self.connection.register(name, found)
        found.rows = rows

    def empty(self, name: str) -> None:
        """Let go of rows that were shown, if they were."""
        found = self.shown.get(name)
        if found is not None:
            found.rows = found.none

    def hide(self) -> None:
        """Forget internal names, where there have come to be many; nothing may be running."""
        if len(self.shown) > _SHOWN_PER_CURSOR:
            self.relations.clear()
            for name in self.shown:
                self.connection.unregister(name)
            self.shown.clear()

    def release_files(self) -> None:
        """Let go of the files that were bound: nothing reads them any more on this cursor."""
        leases, self.leases = self.leases, []
        for lease in leases:
            lease.release()

    def close(self) -> None:
        """Give everything free."""
        self.connection.close()
        self.release_files()

    def _forget(self, keep: set[str]) -> None:
        for variable in [v for v in self.bound if v not in keep]:
            self.connection.execute(f"RESET VARIABLE {quote(variable)}").fetchall()
            del self.bound[variable]


@dataclass(frozen=True, slots=True)
class ViewIdentity:
    """What a view reads: a table by one of its schemas, where ``merges`` says so without its deleted rows.

    A view that merges serves those as well that read files without deleted rows; once it does, it stays so,
    because other cursors may be about to read through it.
    """

    uuid: str
    schema_id: int
    merges: bool = False


def serves(there: ViewIdentity | None, wanted: ViewIdentity) -> bool:
    """Whether a view reads what another would."""
    return there is not None and there in (wanted, replace(wanted, merges=True))


def _folded(name: TableName) -> tuple[str, str, str]:
    return (name.catalog.lower(), name.schema.lower(), name.table.lower())


def _quoted(*columns: str) -> str:
    """SQL for the quoted names that stand in some columns, with dots between them."""
    return " || '.' || ".join(f"'\"' || replace({column}, '\"', '\"\"') || '\"'" for column in columns)


class DuckDatabase:
    """An in-memory DuckDB that can read the bucket and nothing else.

    Args:
        settings: Threads, memory and where to spill.
        catalogs: The names under which lake tables are queried, that of the default catalog first.
        readable: Directories whose files DuckDB may open.
        statement_memory: Memory of one statement's sorts and hash tables before they spill, or empty.
        cache: Where the files of remote buckets are read.

    Attributes:
        views_made: How many views over the lake have been made so far.
    """

    def __init__(
        self,
        settings: EngineSettings,
        catalogs: Sequence[str],
        readable: Sequence[Path],
        statement_memory: str = "",
        cache: ObjectCache | None = None,
    ) -> None:
        self.cache = cache or ObjectCache()
        self._statement_memory = statement_memory
        self._scratch = ScratchDirectory(settings.spill_directory)
        self._catalogs = tuple(catalogs)
        self.empty_file = str(self._scratch.path / "empty" / "empty.parquet")
        Path(self.empty_file).parent.mkdir()
        self.positions_directory = self._scratch.path / "positions"
        self.positions_directory.mkdir()
        pq.write_table(pa.table({"lakehouse_empty": pa.array([], pa.int32())}), self.empty_file)
        self._lock = threading.Lock()
        self._view_lock = threading.RLock()
        self._pool: OrderedDict[CursorState, list[PooledCursor]] = OrderedDict()
        self._views: dict[str, ViewIdentity] = {}
        self._empty_files: dict[tuple[tuple[str, str], ...], str] = {}
        self._schemas: set[tuple[str, str]] = set()
        self.main_views: dict[TableName, ViewIdentity] = {}
        self._listed: dict[tuple[str, str, str], tuple[TableName, tuple[tuple[str, str], ...]]] = {}
        self._has_metadata_views = False
        self._made: dict[TableName | str, int] = {}
        self.views_made = 0
        self.model_calls = ModelCalls()
        self._settings = settings
        self._readable = [*readable, Path(self.empty_file).parent, self.positions_directory]
        self._root = self._connect(settings, self._readable)

    def _connect(self, settings: EngineSettings, readable: Sequence[Path]) -> duckdb.DuckDBPyConnection:
        config: dict[str, Any] = {
            "temp_directory": str(self._scratch.path / "spill"),
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        if settings.threads:
            config["threads"] = settings.threads
        if settings.memory_limit:
            config["memory_limit"] = settings.memory_limit
        root = duckdb.connect(":memory:", config=config)
        if settings.spill_limit:
            # As an option of connect() it would be ignored without a word.
            root.execute("SET max_temp_directory_size = ?", [settings.spill_limit])
        for name in (*self._catalogs, INTERNAL_CATALOG, _SESSION_CATALOG):
            root.execute(f"ATTACH ':memory:' AS {quote(name)}")
        for function in ("current_user", "session_user"):
            name = f"{quote(_SESSION_CATALOG)}.main.{function}"
            root.execute(f"CREATE MACRO {name}() AS getvariable('{PRINCIPAL}')[1]")
        for macro in macros(f"{quote(_SESSION_CATALOG)}.main"):
            root.execute(macro)
        self.model_calls.define(root, f"{quote(_SESSION_CATALOG)}.main")
        root.execute("SET GLOBAL TimeZone = 'UTC'")
        root.execute("SET parquet_metadata_cache = true")
        root.execute("SET allowed_directories = ?", [[str(path) for path in readable]])
        root.execute(
            "SET allowed_configs = ?",
            [[*SESSION_SETTINGS.values(), "search_path", _STATEMENT_MEMORY, _PROFILING]],
        )
        root.execute("SET enable_external_access = false")
        root.execute("SET lock_configuration = true")
        return root

    def define_metadata_views(self) -> None:
        """Have what SHOW and information_schema give; a start that made them would take twice as long."""
        with self._view_lock:
            if not self._has_metadata_views:
                self._define_metadata_views(self._root.cursor())
                self._has_metadata_views = True

    def _define_metadata_views(self, root: duckdb.DuckDBPyConnection) -> None:
        """Lake tables and the session's own temporary ones."""
        own = "coalesce(getvariable('session_database'), '')"
        names = ["'" + name.replace("'", "''") + "'" for name in self._catalogs]
        lakes = ", ".join(names)
        reserved = ", ".join(f"'{name}'" for name in sorted(RESERVED_CATALOGS))
        schema = f"{quote(INTERNAL_CATALOG)}.main"
        temporary = f"table_catalog = {own}"

        def shown(*columns: str) -> str:
            """Whether the principal sees what these columns name."""
            return (
                "(NOT coalesce(getvariable('restricted'), false) OR list_contains("
                f"coalesce(getvariable('{VISIBLE_TABLES}'), []), {_quoted(*columns)}))"
            )

        visible = f"({temporary} OR {shown('table_catalog', 'table_schema', 'table_name')})"
        place = f"CASE WHEN {temporary} THEN 'temp' ELSE table_schema END AS table_schema"
        renamed = f"CASE WHEN {temporary} THEN {names[0]} ELSE table_catalog END AS table_catalog, {place}"
        # Tables of the lake are views here, and views of the lake tables without rows.
        kind = (
            f"CASE WHEN {temporary} THEN 'LOCAL TEMPORARY' WHEN table_type = 'VIEW' "
            f"OR table_schema = '{SYSTEM_SCHEMA}' THEN 'BASE TABLE' ELSE 'VIEW' END AS table_type"
        )
        lists = ", ".join(
            f"list(c.{column} ORDER BY c.ordinal_position) AS {name}"
            for column, name in (("column_name", "column_names"), ("data_type", "column_types"))
        )
        required = f"SELECT unnest(coalesce(getvariable('{REQUIRED_COLUMNS}'), []::VARCHAR[]))"
        quoted = _quoted("table_catalog", "table_schema", "table_name", "column_name")
        # Lake tables are views to DuckDB, and a view's columns can always be NULL.
        nullable = (
            f"CASE WHEN NOT {temporary} AND {quoted} IN ({required}) THEN 'NO' ELSE is_nullable END "
            "AS is_nullable"
        )
        views = {
            "tables": f"SELECT * REPLACE ({renamed}, {kind}) FROM information_schema.tables "
            f"WHERE table_catalog IN ({lakes}, {own}) AND {visible}",
            "columns": f"SELECT * REPLACE ({renamed}, {nullable}) FROM information_schema.columns "
            f"WHERE table_catalog IN ({lakes}, {own}) AND {visible}",
            "schemata": f"SELECT * FROM information_schema.schemata WHERE catalog_name IN ({lakes}) "
            "AND schema_name NOT IN ('information_schema', 'pg_catalog') "
            f"AND NOT list_contains(coalesce(getvariable('{ABSENT_SCHEMAS}'), []), "
            f"{_quoted('catalog_name', 'schema_name')}) AND {shown('catalog_name', 'schema_name')}",
            "show_tables": f"SELECT table_name AS name FROM {schema}.tables "
            "WHERE table_type = 'LOCAL TEMPORARY' OR (table_catalog = getvariable('session_catalog') "
            "AND table_schema = getvariable('session_schema')) ORDER BY name",
            "show_databases": f"SELECT database_name FROM (VALUES ({'), ('.join(names)})) v(database_name) "
            f"WHERE {shown('database_name')} AND (lower(database_name) NOT IN ({reserved}) OR "
            f"database_name IN (SELECT catalog_name FROM {schema}.schemata)) ORDER BY database_name",
            "show_schemas": "SELECT catalog_name AS database_name, schema_name "
            f"FROM {schema}.schemata ORDER BY ALL",
            "show_all_tables": "SELECT t.table_catalog AS database, t.table_schema AS schema, "
            f"t.table_name AS name, {lists}, t.table_type = 'LOCAL TEMPORARY' AS temporary "
            f"FROM {schema}.tables t JOIN {schema}.columns c "
            "USING (table_catalog, table_schema, table_name) GROUP BY ALL ORDER BY ALL",
        }
        for name, body in views.items():
            root.execute(f"CREATE OR REPLACE VIEW {schema}.{name} AS {body}")

    def empty_file_of(self, columns: tuple[tuple[str, str], ...]) -> str:
        """A Parquet file without rows that has these columns, by name and DuckDB type."""
        found = self._empty_files.get(columns)
        if found is None:
            with self._view_lock:
                # Looked up again: a second file for the same columns would take the name of the next one.
                found = self._empty_files.get(columns)
                if found is not None:
                    return found
                path = Path(self.empty_file).with_name(f"empty-{len(self._empty_files)}.parquet")
                selected = ", ".join(f"CAST(NULL AS {kind}) AS {quote(name)}" for name, kind in columns)
                target = str(path).replace("'", "''")
                with duckdb_errors():
                    self._root.cursor().execute(
                        f"COPY (SELECT {selected} WHERE false) TO '{target}' (FORMAT parquet)"
                    ).fetchall()
                found = self._empty_files[columns] = str(path)
        return found

    def reopen(self) -> bool:
        """Start DuckDB again after a fatal error, unless it answers; gives whether it was started."""
        with self._view_lock, self._lock:
            if self._answers():
                return False
            self._pool.clear()
            self._views.clear()
            self._schemas.clear()
            self.main_views.clear()
            self._listed.clear()
            self._made.clear()
            self._has_metadata_views = False
            self._root = self._connect(self._settings, self._readable)
            return True

    def _answers(self) -> bool:
        try:
            self._root.cursor().execute("SELECT 1").fetchall()
        except duckdb.Error:
            return False
        return True

    def private_cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor outside the pool, for a caller that keeps it."""
        return self._root.cursor()

    def acquire(self, state: CursorState) -> PooledCursor:
        """A cursor set to ``state``; give it back with ``release``."""
        with self._lock:
            waiting = self._pool.get(state)
            if waiting:
                return waiting.pop()
        return self._prepare(state)

    def _prepare(self, state: CursorState) -> PooledCursor:
        connection = self._root.cursor()
        lake = f"{quote(state.catalog)}.{quote(state.schema)}"
        own = f"{quote(state.temporary)}.main," if state.temporary else ""
        path = f"{lake},{own}{quote(_SESSION_CATALOG)}.main"
        with duckdb_errors():
            connection.execute("SET search_path = ?", [path]).fetchall()
            connection.execute("SET VARIABLE session_catalog = ?", [state.catalog]).fetchall()
            connection.execute("SET VARIABLE session_schema = ?", [state.schema]).fetchall()
            if state.access:
                connection.execute("SET VARIABLE restricted = true").fetchall()
            if self._statement_memory:
                limit = [self._statement_memory]
                connection.execute(f"SET SESSION {_STATEMENT_MEMORY} = ?", limit).fetchall()
            if state.temporary:
                connection.execute("SET VARIABLE session_database = ?", [state.temporary]).fetchall()
            for name, value in state.settings:
                connection.execute(f"SET SESSION {SESSION_SETTINGS[name]} = ?", [value]).fetchall()
        return PooledCursor(connection, state, self.cache)

    def release(self, cursor: PooledCursor) -> None:
        """Take back a cursor whose result has been closed."""
        cursor.release_files()
        cursor.hide()
        stale = [cursor]
        with self._lock:
            waiting = self._pool.setdefault(cursor.state, [])
            self._pool.move_to_end(cursor.state)
            if len(waiting) < _POOL_PER_STATE:
                waiting.append(stale.pop())
            if len(self._pool) > _POOL_STATES:
                stale += self._pool.popitem(last=False)[1]
        for each in stale:
            each.close()

    def forget(self, temporary: str) -> None:
        """Drop a session's own database and the cursors that know it."""
        with self._lock:
            stale = [s for s in self._pool if s.temporary == temporary]
            cursors = [c for s in stale for c in self._pool.pop(s)]
        for cursor in cursors:
            cursor.close()
        with duckdb_errors():
            self._root.cursor().execute(f"DETACH DATABASE IF EXISTS {quote(temporary)}")

    def attach_temporary(self, name: str) -> None:
        """Create a session's own in-memory database."""
        with duckdb_errors():
            self._root.cursor().execute(f"ATTACH ':memory:' AS {quote(name)}")

    def define_view(self, name: TableName, identity: ViewIdentity, body: str) -> None:
        """Make the view of a lake table read with this body, unless it already does or leaves out more."""
        if serves(self.main_views.get(name), identity):
            return
        with self._view_lock:
            if serves(self.main_views.get(name), identity):
                return
            self._ensure_schema(name.catalog, name.schema)
            self.drop_listed(name)
            self._root.cursor().execute(f"CREATE OR REPLACE VIEW {name.sql} AS {body}")
            self._note_made(name)
            self.main_views[name] = identity

    def list_view(self, name: TableName, columns: Sequence[tuple[str, str]]) -> None:
        """Have a view of the lake listed, with columns of these names and types. It is read otherwise."""
        key = _folded(name)
        if self._listed.get(key) == (name, tuple(columns)):
            return
        with self._view_lock:
            self._ensure_schema(name.catalog, name.schema)
            self.drop_view(name)
            self.drop_listed(name)
            body = ", ".join(f"{quote(column)} {kind}" for column, kind in columns)
            self._root.cursor().execute(f"CREATE TABLE {name.sql} ({body})")
            self._listed[key] = (name, tuple(columns))

    def drop_listed(self, name: TableName) -> None:
        """No longer have a view of the lake listed."""
        with self._view_lock:
            if self._listed.pop(_folded(name), None) is not None:
                self._root.cursor().execute(f"DROP TABLE IF EXISTS {name.sql}")

    @property
    def listed(self) -> list[TableName]:
        """The views of the lake that are listed."""
        return [name for name, _ in list(self._listed.values())]

    def has_view(self, name: TableName) -> bool:
        """Whether DuckDB knows a lake table of that name, in whatever case."""
        wanted = _folded(name)
        return any(_folded(n) == wanted for n in self.main_views)

    def has_hidden_view(self, name: str, identity: ViewIdentity) -> bool:
        """Whether an internal view of that name exists and reads what ``identity`` stands for."""
        return serves(self._views.get(name), identity)

    def hidden_view(self, name: str) -> str:
        """The quoted full name of an internal view."""
        return f"{quote(INTERNAL_CATALOG)}.main.{quote(name)}"

    def define_hidden_view(self, name: str, body: str, identity: ViewIdentity) -> None:
        """Make an internal view read with this body, unless it does: equal identity means equal body."""
        with self._view_lock:
            if not self.has_hidden_view(name, identity):
                self._root.cursor().execute(f"CREATE OR REPLACE VIEW {self.hidden_view(name)} AS {body}")
                self._note_made(name)
                self._views[name] = identity

    def _note_made(self, view: TableName | str) -> None:
        self.views_made += 1
        self._made[view] = self.views_made

    def is_seen(self, view: TableName | str, since: int | None) -> bool:
        """Whether a transaction of DuckDB's sees a view, being begun when so many views had been made.

        What was made, or made anew, after its beginning it does not; None stands for no transaction.
        """
        return since is None or self._made.get(view, 0) <= since

    def define_system(self, tables: Iterable[SystemTable]) -> None:
        """Make DuckDB know the tables about the server, so that they are listed; there they are empty."""
        schema = f"{quote(self._catalogs[0])}.{quote(SYSTEM_SCHEMA)}"
        made = [f"CREATE SCHEMA IF NOT EXISTS {schema}"]
        for table in tables:
            columns = ", ".join(f"{quote(field.name)} {sql_type(field.type)}" for field in table.schema)
            made.append(f"CREATE OR REPLACE TABLE {schema}.{quote(table.name)} ({columns})")
        with self._view_lock:
            self._root.cursor().execute("; ".join(made))

    def drop_view(self, name: TableName) -> None:
        """Forget the view of a table that is gone."""
        with self._view_lock:
            if self.main_views.pop(name, None) is not None:
                self._root.cursor().execute(f"DROP VIEW IF EXISTS {name.sql}")

    def sync_schemas(self, catalog: str, schemas: Sequence[str]) -> None:
        """Make DuckDB know exactly these schemas of a catalog."""
        with self._view_lock:
            for schema in schemas:
                self._ensure_schema(catalog, schema)
            known = {schema for owner, schema in self._schemas if owner == catalog}
            for gone in known - set(schemas):
                for name in [n for n in self.main_views if (n.catalog, n.schema) == (catalog, gone)]:
                    self.drop_view(name)
                for name in [n for n in self.listed if (n.catalog, n.schema) == (catalog, gone)]:
                    self.drop_listed(name)
                self._root.cursor().execute(f"DROP SCHEMA IF EXISTS {quote(catalog)}.{quote(gone)}")
                self._schemas.discard((catalog, gone))

    def _ensure_schema(self, catalog: str, schema: str) -> None:
        if (catalog, schema) not in self._schemas:
            self._root.cursor().execute(f"CREATE SCHEMA IF NOT EXISTS {quote(catalog)}.{quote(schema)}")
            if schema != "main":
                self._schemas.add((catalog, schema))

    def close(self) -> None:
        """Close every cursor and remove the spill directory."""
        with self._lock:
            cursors = [c for waiting in self._pool.values() for c in waiting]
            self._pool.clear()
        for cursor in cursors:
            cursor.close()
        self._root.close()
        self.model_calls.close()
        self._scratch.close()
