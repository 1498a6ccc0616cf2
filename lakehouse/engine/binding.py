"""Names in a statement → tables, snapshots and the DuckDB variables that say which files to read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from zlib import crc32

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.access.policy import SYSTEM_SCHEMA, Access
from lakehouse.access.restriction import restricted_query
from lakehouse.catalog import Catalog, Catalogs, Snapshot, Table
from lakehouse.catalog.catalogs import HOME_SCHEMA
from lakehouse.catalog.sql_view import SqlView
from lakehouse.clock import Clock
from lakehouse.engine.database import (
    ABSENT_SCHEMAS,
    INTERNAL_CATALOG,
    PRINCIPAL,
    REQUIRED_COLUMNS,
    VISIBLE_TABLES,
    Binding,
    DuckDatabase,
    Input,
    Supply,
    ViewIdentity,
    serves,
)
from lakehouse.engine.errors import duckdb_errors
from lakehouse.engine.gate import Analysis, StatementKind, TableReference, rewrite_reference
from lakehouse.engine.gate_text import qualifiers
from lakehouse.engine.model_calls import EMBED, ModelUse
from lakehouse.engine.position_files import PositionFiles
from lakehouse.engine.pruning import ScanFilter
from lakehouse.engine.search_call import VECTOR_SEARCH, SearchCall, parameters_in
from lakehouse.engine.search_input import Compute, SearchInput
from lakehouse.engine.session import Session
from lakehouse.engine.system_filter import wanted_since, wanted_values
from lakehouse.engine.system_tables import Reading, SystemTables
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    CatalogNotFound,
    InvalidRequest,
    LimitExceeded,
    NotSupported,
    PermissionDenied,
    SchemaNotFound,
    SqlBindError,
    StatementForbidden,
    TableNotFound,
)
from lakehouse.types import DataFileRef, TableName, quote

PRUNED_ABOVE = 32
"""Of tables with more files than this, a statement is given only the files that it may need.

A file that has to be fetched costs more than finding out: of remote tables every file is looked at.
"""

# DuckDB puts the text of every view in its place, and planning so many tables cannot be interrupted.
_MAX_NESTED = 200
_MAX_DEPTH = 16
_SYSTEM_SCHEMAS = frozenset({"information_schema", "pg_catalog"})
_FILE, _POSITION = "~file", "file_row_number"
DELETED = ":deleted"
_EMBEDS = re.compile(rf"\b{EMBED}\b", re.IGNORECASE)
_ASKS_WHO = re.compile(r"\b(current_|session_)?user\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Bound:
    """A statement whose names are settled: text for DuckDB, files to read, tables it depends on.

    ``fresh`` is false where the answer must not be reused for a later statement of the same text;
    ``temporary`` is true where it reads the session's temporary tables; ``names`` are the lake tables read.
    ``scans`` are those whose files depend on the values of parameters; ``views`` the views of the lake.
    ``parameters`` are those that the text still has, where some were arguments of searches.
    """

    sql: str
    bindings: tuple[Binding, ...]
    tables: tuple[tuple[TableName, Table], ...]
    fresh: bool
    temporary: bool
    inputs: tuple[Supply, ...] = ()
    names: tuple[TableName, ...] = ()
    scans: tuple[Scan, ...] = ()
    views: tuple[SqlView, ...] = ()
    parameters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """One place where a statement reads a snapshot of a large table, of which it needs some files only.

    ``variable`` is that of its view; with ``snapshot_id`` None the table is read as it is.
    """

    variable: str
    table: Table
    schema_id: int
    snapshot_id: int | None
    filter: ScanFilter


class Binder:
    """Binds statements to snapshots.

    Args:
        catalogs: Where tables are looked up.
        database: Where their views live.
        system: The tables about the server itself.
        evaluate: Gives the value of a constant SQL expression (for AT clauses).
        analyse: The statement gate, which the texts of views pass whenever they are used.
        clock: Tells how long ago deleted rows were asked for.
        compute: Gives the value of any SQL expression, by the values of its parameters, for a statement that
            runs.
    """

    def __init__(
        self,
        catalogs: Catalogs,
        database: DuckDatabase,
        system: SystemTables,
        evaluate: Callable[[str, Session], Any],
        analyse: Callable[[str], Analysis],
        clock: Clock,
        compute: Compute,
    ) -> None:
        self.analyse = analyse
        self.compute = compute
        self.catalogs = catalogs
        self._marks = {name: f"{number}_" if number else "" for number, name in enumerate(catalogs.names)}
        self.database = database
        self.system = system
        self.evaluate = evaluate
        self.positions = PositionFiles(database.positions_directory, clock, database.cache.held)

    def bind(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        *,
        qualify: bool = False,
        values: Mapping[str, Any] | None = MappingProxyType({}),
    ) -> Bound:
        """Settle every name of a statement.

        Args:
            analysis: The statement.
            session: Whose it is.
            transaction: In which it runs, if in any.
            qualify: Write every lake table with its full name, for a text that is kept.
            values: The values of its parameters by name, as far as they are known, which may spare files;
                None if all files of a table are to be bound.

        Raises:
            TableNotFound, SchemaNotFound, CatalogNotFound, SnapshotNotFound: A name leads nowhere.
            NotSupported: A reference that would have to be rewritten cannot be.
        """
        if analysis.needs_all_tables:
            self.define_all()
        work = _Binding(self, analysis, session, transaction, qualify=qualify, values=values)
        for reference in analysis.references:
            work.reference(reference)
        return work.result()

    def is_worth_pruning(self, files: Sequence[DataFileRef]) -> bool:
        """Whether finding out which files of a table are needed takes less than reading all of them."""
        return len(files) > PRUNED_ABOVE or (len(files) > 1 and self.database.cache.holds(files[0].path))

    def needed(self, scan: Scan, values: Mapping[str, Any]) -> Binding:
        """The files that a scan has to read, given the values of parameters."""
        table, wanted = scan.table, scan.filter
        if wanted.condition is not None:
            files = table.matching_files(wanted.condition, values, scan.snapshot_id, scan.schema_id)
        else:
            files = _first(table.files(scan.snapshot_id), wanted.limit)
        paths = tuple(file.path for file in files)
        key = (table.uuid, scan.schema_id, scan.snapshot_id, len(paths), hash(paths), "some")
        return Binding(scan.variable, key, paths or (self.empty_file(table, scan.schema_id),))

    def define_all(self) -> None:
        """Make DuckDB know every table of the catalogs, for statements that list them."""
        self.database.define_metadata_views()
        present: set[TableName] = set()
        for catalog in self.catalogs:
            present |= self._define_all_of(catalog)
        for gone in set(self.database.main_views) - present:
            self.database.drop_view(gone)
        for gone in set(self.database.listed) - present:
            self.database.drop_listed(gone)

    def _define_all_of(self, catalog: Catalog) -> set[TableName]:
        schemas = catalog.schemas()
        self.database.sync_schemas(catalog.name, schemas)
        present = set()
        for schema in schemas:
            for name in catalog.tables(schema):
                try:
                    table = catalog.load(schema, name)
                    self.view(table)
                except (TableNotFound, SchemaNotFound, NotSupported):
                    continue
                present.add(table.name)
            for name in catalog.views(schema):
                view = catalog.find_view(schema, name)
                if view is not None:
                    self.database.list_view(view.name, view.columns)
                    present.add(view.name)
        return present

    def required_columns(self) -> tuple[str, ...]:
        """The columns of all tables that are never NULL, for ``information_schema.columns``."""
        found = []
        for catalog in self.catalogs:
            for schema in catalog.schemas():
                for name in catalog.tables(schema):
                    try:
                        table = catalog.load(schema, name)
                    except (TableNotFound, SchemaNotFound, NotSupported):
                        continue
                    columns = sorted(table.required_columns)
                    found += [f"{table.name.sql}.{quote(column)}" for column in columns]
        return tuple(found)

    def absent_schemas(self) -> tuple[str, ...]:
        """The schemas that every DuckDB database has, of those catalogs that have none of that name."""
        return tuple(
            f"{quote(catalog.name)}.{quote(HOME_SCHEMA)}"
            for catalog in self.catalogs
            if not catalog.schema_exists(HOME_SCHEMA)
        )

    def mark(self, table: Table) -> str:
        """What a table is called in the names of variables: copies of it can be in several catalogs."""
        return f"{self._marks[table.name.catalog]}{table.uuid}"

    def view(
        self,
        table: Table,
        schema_id: int | None = None,
        slot: int = 0,
        *,
        merges: bool = False,
        since: int | None = None,
    ) -> tuple[str | None, str]:
        """What a table is read through, and its variable: ``None`` for the view under the table's own name.

        Slot 0 is the table as it is now; other slots are other snapshots read by the same statement. With
        ``merges`` the view leaves out deleted rows. A transaction that does not see the view, see
        ``DuckDatabase.is_seen``, reads through its text.
        """
        schema_id = table.schema_id if schema_id is None else schema_id
        identity = ViewIdentity(table.uuid, schema_id, merges)
        variable = f"t_{self.mark(table)}" + (f"_{schema_id}_{slot}" if slot else "")

        def body() -> str:
            return self._body(table, schema_id, variable, merges=merges)

        if slot == 0:
            if not serves(self.database.main_views.get(table.name), identity):
                self.database.define_view(table.name, identity, body())
            return (None if self.database.is_seen(table.name, since) else f"({body()})"), variable
        if not self.database.has_hidden_view(variable, identity):
            self.database.define_hidden_view(variable, body(), identity)
        if not self.database.is_seen(variable, since):
            return f"({body()})", variable
        return self.database.hidden_view(variable), variable

    def restricted_view(
        self,
        table: Table,
        access: Access,
        schema_id: int,
        slot: int,
        *,
        merges: bool = False,
        since: int | None = None,
    ) -> tuple[str, str]:
        """What a principal reads what is left of a table through, and its variable. See ``view``.

        The variable is another than that of the whole table, which thus is empty on the same cursor.

        Raises:
            AccessPolicyError: A filter or mask does not fit the table.
        """
        viewer = sha256(access.key.encode()).hexdigest()[:16]
        variable = f"r_{self.mark(table)}_{viewer}" + (f"_{schema_id}_{slot}" if slot else "")
        identity = ViewIdentity(table.uuid, schema_id, merges)

        def body() -> str:
            return restricted_query(
                self._body(table, schema_id, variable, merges=merges),
                table.arrow_schema(schema_id).names,
                access.table(table.name).restrictions,
                access.principal.name,
                access.mask_key,
            )

        if not self.database.has_hidden_view(variable, identity):
            with duckdb_errors():
                self.database.define_hidden_view(variable, body(), identity)
        if not self.database.is_seen(variable, since):
            return f"({body()})", variable
        return self.database.hidden_view(variable), variable

    def is_named(self, table: Table) -> bool:
        """Whether a transaction can read its table under the table's own name: the columns are the same.

        Only then do columns written with a schema, ``nyc.flights.origin``, lead somewhere.
        """
        try:
            current = self.catalogs.load(table.name)
        except (TableNotFound, SchemaNotFound):
            return False
        return (
            current.uuid == table.uuid
            and current.schema_id == table.schema_id
            and current.read_schema_sql() == table.read_schema_sql()
        )

    def scan(
        self, table: Table, variable: str, file_column: str | None = None, *, merges: bool = False
    ) -> str:
        """A query for the rows of the files that a variable names. See ``file_bindings``.

        Args:
            table: Whose files they are.
            variable: The variable.
            file_column: A column to be added, with the path of the file that a row is in.
            merges: Whether there are deleted rows to be left out.
        """
        return self._body(table, table.schema_id, variable, file_column, merges=merges)

    def file_bindings(
        self, variable: str, key: tuple[Any, ...], files: Sequence[DataFileRef], empty: str
    ) -> tuple[Binding, Binding]:
        """What makes a view or a scan read some files: those, and where their deleted rows are.

        Args:
            variable: The variable that the view or scan was made for.
            key: Equal where the files and their deleted rows are.
            files: Any files of one table.
            empty: What is read where there are no files.
        """
        paths = tuple(file.path for file in files) or (empty,)
        positions = self.positions.paths(files) if has_deletes(files) else ()
        gone = f"{variable}{DELETED}"
        return Binding(variable, key, paths), Binding(gone, positions, positions)

    def _body(
        self,
        table: Table,
        schema_id: int,
        variable: str,
        file_column: str | None = None,
        *,
        merges: bool = False,
    ) -> str:
        empty = self.empty_file(table, schema_id).replace("'", "''")
        files = f"coalesce(getvariable('{variable}'), ['{empty}'])"
        by_path = table.selected(file_column or _FILE)
        file = file_column or (_FILE if merges or by_path is not None else None)
        if file is not None:
            files += f", filename = '{file}'"
        columns = table.plain_columns() if schema_id == table.schema_id else None
        added = "" if file is None else f", {quote(file)}"
        if columns is None:
            schema = table.read_schema_sql(schema_id)
            selected = "*" if by_path is None else by_path + (added if file_column or merges else "")
            source = f"read_parquet({files}, schema = {schema}, hive_partitioning = false)"
        else:
            # By field id DuckDB guesses one row a table, and joins badly: by name where that is safe.
            selected = ", ".join(f"CAST({quote(name)} AS {kind}) AS {quote(name)}" for name, kind in columns)
            selected += added
            if table.files_differ:
                # What has no rows has all columns, whichever of the files are read.
                files = f"list_concat(['{empty}'], {files}), union_by_name = true"
            source = f"read_parquet({files}, hive_partitioning = false)"
        if not merges:
            return f"SELECT {selected} FROM {source}"
        names = table.arrow_schema(schema_id).names
        if _POSITION in (name.lower() for name in names):
            raise NotSupported(
                f"table '{table.name}' has deleted rows, which cannot be told from others because of its "
                f"column '{_POSITION}'",
                "rename the column",
            )
        none = self.positions.none.replace("'", "''")
        gone = f"coalesce(getvariable('{variable}{DELETED}'), ['{none}'])"
        wanted = ", ".join(quote(name) for name in names) + (added if file_column else "")
        return (
            f"SELECT {wanted} FROM (SELECT {selected}, {_POSITION} FROM {source}) ANTI JOIN "
            f"(SELECT file_path AS {quote(_FILE + '?')}, pos AS {quote(_POSITION + '?')} FROM "
            f"read_parquet({gone}, hive_partitioning = false)) "
            f"ON {quote(file or _FILE)} = {quote(_FILE + '?')} AND {_POSITION} = {quote(_POSITION + '?')}"
        )

    def empty_file(self, table: Table, schema_id: int) -> str:
        """A file without rows that the table's view can read where there is no other."""
        columns = table.plain_columns() if schema_id == table.schema_id else None
        return self.database.empty_file if columns is None else self.database.empty_file_of(columns)

    def locate(self, path: tuple[str, ...], session: Session) -> TableName:
        """The full name that a written name stands for, not counting temporary tables.

        Raises:
            CatalogNotFound: There is no such catalog for the session's principal.
        """
        if len(path) == 1:
            return TableName(session.catalog, session.schema, path[0])
        lakes = session.lakes
        if len(path) == 2:
            first, table = path
            named = lakes.find(first)
            if named is not None and not lakes.of(session.catalog).schema_exists(first):
                # As DuckDB has it: in the current catalog the current schema.
                return TableName(
                    named.name, session.schema if named.name == session.catalog else HOME_SCHEMA, table
                )
            return TableName(session.catalog, first, table)
        catalog, schema, table = path[-3:]
        return TableName(lakes.of(catalog).name, schema, table)

    def locate_beside(self, path: tuple[str, ...], name: TableName, session: Session) -> TableName:
        """The full name that a name stands for which is written to stand beside another.

        What it leaves out is as in the other name.

        Raises:
            CatalogNotFound: There is no such catalog for the session's principal.
        """
        if len(path) == 1:
            return TableName(name.catalog, name.schema, path[0])
        if len(path) == 2 and name.catalog != session.catalog:
            return TableName(name.catalog, *path)
        return self.locate(path, session)

    def locate_schema(self, path: tuple[str, ...], session: Session) -> tuple[str, str]:
        """Catalog and schema that ``[catalog.]schema`` stands for.

        Raises:
            CatalogNotFound: There is no such catalog for the session's principal.
            InvalidRequest: It is not of that form.
        """
        if not 1 <= len(path) <= 2:
            raise InvalidRequest(f"expected a schema or catalog.schema, found {'.'.join(path) or 'nothing'}")
        return (session.catalog if len(path) == 1 else session.lakes.of(path[0]).name), path[-1]

    def named_version(
        self, name: TableName, source: Catalogs | Transaction, lakes: GuardedCatalogs
    ) -> tuple[TableName, str | None]:
        """``"table@tag"`` as table and tag or branch; a table that is called so comes first."""
        table, _, reference = name.table.rpartition("@")
        if not table or not reference:
            return name, None
        try:
            lakes.of(name.catalog).check_read(name.schema, name.table)
            source.load(name)
        except (TableNotFound, SchemaNotFound):
            return replace(name, table=table), reference
        return name, None

    def missing(self, name: TableName, lakes: GuardedCatalogs) -> TableNotFound | SchemaNotFound:
        """The error for a table that is not there, with the nearest name that is in its catalog."""
        catalog = lakes.of(name.catalog)
        view = catalog.find_view(name.schema, name.table)
        if view is not None:
            return TableNotFound(f"{view.name} is a view, expected a table")
        schemas = catalog.schemas()
        if name.schema.lower() not in {s.lower() for s in schemas}:
            near = difflib.get_close_matches(name.schema, schemas, 1)
            return SchemaNotFound(
                f"schema {name.schema} does not exist in catalog {name.catalog}",
                f"did you mean {near[0]}?" if near else "",
            )
        elsewhere = [
            f"{s}.{t}" for s in schemas for t in catalog.tables(s) if t.lower() == name.table.lower()
        ]
        near = elsewhere or difflib.get_close_matches(name.table, catalog.tables(name.schema), 1)
        return TableNotFound(f"table {name} does not exist", f"did you mean {near[0]}?" if near else "")


def has_deletes(files: Sequence[DataFileRef]) -> bool:
    """Whether rows of some files were deleted without rewriting them."""
    return any(file.deletes for file in files)


def _first(files: tuple[DataFileRef, ...], limit: int | None) -> tuple[DataFileRef, ...]:
    """As many of the files from the beginning as hold so many rows."""
    if limit is None:
        return files
    rows = 0
    for number, file in enumerate(files):
        if rows >= limit:
            return files[:number]
        rows += file.rows
    return files


class _Binding:
    """The state of binding one statement."""

    def __init__(
        self,
        binder: Binder,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        *,
        qualify: bool,
        values: Mapping[str, Any] | None,
    ) -> None:
        self._binder = binder
        self._values = values
        self._scans: list[Scan] = []
        self._qualify = qualify
        self._analysis = analysis
        self._session = session
        self._transaction = transaction
        self._temporary = session.temp_objects()
        self._edits: list[tuple[int, int, str]] = []
        self._bindings: dict[str, Binding] = {}
        self._slots: dict[tuple[Any, ...], int] = {}
        self._tables: list[tuple[TableName, Table]] = []
        self._fresh = True
        self._reads_temporary = False
        self._inputs: dict[str, Supply] = {}
        self._names: dict[TableName, None] = {}
        self._renamed: dict[TableName, str] = {}
        self._nested = [0]
        self._seen: list[Table] = []
        self._searches = False
        self._kind = analysis.kind
        self._outer: tuple[SqlView, ...] = ()
        self._places: tuple[Any, ...] = ()
        self._views: list[SqlView] = []
        self._since = None if transaction is None else transaction.views_seen

    def reference(self, reference: TableReference, *, nested: bool = False) -> None:
        """Settle one name; with ``nested`` one within a temporary view, whose text is settled already."""
        path = reference.path
        if not path:
            return
        if reference.search is not None:
            self._search(reference, reference.search)
            return
        if any(part.startswith("~") for part in path):
            raise StatementForbidden("names that begin with ~ are internal")
        if len(path) > 1 and path[-2].lower() in _SYSTEM_SCHEMAS:
            self._information_schema(reference)
            return
        if self._is_system(path):
            self._system(reference)
            return
        if self._is_temporary(reference):
            return
        self._lake(reference, nested)

    def _is_temporary(self, reference: TableReference) -> bool:
        path = reference.path
        if len(path) == 2 and path[0].lower() == "temp":
            name = self._temporary.get(path[1].lower())
            if name is None:
                raise TableNotFound(f"temporary table {path[1]} does not exist in this session")
            self._rewrite(reference, f"{quote(self._session.temporary)}.main.{quote(name)}")
        elif len(path) != 1 or path[0].lower() not in self._temporary:
            return False
        elif self._binder.database.has_view(TableName(self._session.catalog, self._session.schema, path[0])):
            # DuckDB would find the lake table of the same name first.
            name = self._temporary[path[0].lower()]
            self._rewrite(reference, f"{quote(self._session.temporary)}.main.{quote(name)}")
        self._fresh, self._reads_temporary = False, True
        for inner in self._session.temp_views.get(path[-1].lower(), ()):
            self._count_nested()
            self.reference(TableReference(inner.path), nested=True)
        return True

    def _count_nested(self) -> None:
        self._nested[0] += 1
        if self._nested[0] > _MAX_NESTED:
            raise LimitExceeded(
                f"the views of the statement stand for more than {_MAX_NESTED} tables",
                "keep parts of it in temporary tables",
            )

    def _is_system(self, path: tuple[str, ...]) -> bool:
        default = self._binder.catalogs.default.name
        if len(path) == 1:
            return self._session.schema.lower() == SYSTEM_SCHEMA and self._session.catalog == default
        return path[-2].lower() == SYSTEM_SCHEMA and (len(path) == 2 or path[0].lower() == default.lower())

    def _system(self, reference: TableReference) -> None:
        """Read a table about the server itself, as far as it concerns the principal."""
        if reference.at is not None:
            raise NotSupported(f"system.{reference.path[-1]} has no history")
        table = self._binder.system.get(reference.path[-1], self._session.access)
        if table is None:
            names = ", ".join(self._binder.system.names(self._session.access))
            default = self._binder.catalogs.default.name
            raise TableNotFound(
                f"table {default}.{SYSTEM_SCHEMA}.{reference.path[-1]} does not exist",
                f"there are {names}" if names else "",
            )
        internal, lakes = f"~system_{table.name}", self._session.lakes
        wanted = wanted_values(self._analysis.sql, table.name) if table.scan is not None else {}
        since = wanted_since(self._analysis.sql, table.name) if table.scan is not None else None
        self._inputs[internal] = Input(
            internal, table.schema, lambda check: table.rows(Reading(lakes, wanted, check, since))
        )
        self._fresh = False
        self._rewrite(reference, f"temp.main.{quote(internal)}")

    def _search(self, reference: TableReference, call: SearchCall) -> None:
        """Read what a search in a vector index finds, which is made when the statement runs."""
        semantics, session = self._binder.database.model_calls.semantics, self._session
        if semantics is None:
            raise NotSupported(f"{VECTOR_SEARCH} is not offered here")
        self._check_arguments(call)
        known = semantics.columns(call.index, session)
        internal = f"~search_{len(self._inputs)}_{crc32(str(known.schema).encode()):08x}"
        self._inputs[internal] = SearchInput(
            internal,
            known.schema,
            call,
            self._binder.database.model_calls,
            self._binder.compute,
            session,
            self._transaction,
            self._values or {},
        )
        self._names[known.table] = None
        self._fresh = self._fresh and self._transaction is None
        self._searches = True
        start, end = self._place(reference)
        self._edits.append((start, end, call.in_place(f"temp.main.{quote(internal)}")))

    def _check_arguments(self, call: SearchCall) -> None:
        """Have the arguments pass the gate, before anything runs."""
        if call.parameters and self._kind not in (StatementKind.QUERY, StatementKind.EXPLAIN):
            raise NotSupported(
                f"{VECTOR_SEARCH} cannot take parameters in a statement that changes something",
                "write the values into it",
            )
        for argument in call.arguments.values():
            if argument.is_known or argument.parameter:
                continue
            analysis = self._binder.analyse(f"SELECT ({argument.text}\n)")
            if self._outer and analysis.references:
                raise StatementForbidden(f"{VECTOR_SEARCH} in a view cannot take a subquery")

    def _place(self, reference: TableReference) -> tuple[int, int]:
        """Where a reference stands in the text.

        Raises:
            NotSupported: Nobody knows.
        """
        if reference.span is None:
            raise NotSupported(
                f"{'.'.join(reference.path)} cannot be read in this kind of statement here",
                "write SELECT … FROM it",
            )
        return reference.span

    def _information_schema(self, reference: TableReference) -> None:
        if reference.path[-2].lower() != "information_schema":
            raise NotSupported(f"{reference.path[-2]} is not offered", "read information_schema instead")
        view = f'"{INTERNAL_CATALOG}".main.{quote(reference.path[-1].lower())}'
        self._fresh = False
        if reference.path[-1].lower() == "columns":
            required = self._binder.required_columns()
            self._bindings[REQUIRED_COLUMNS] = Binding(REQUIRED_COLUMNS, required, required)
        self._rewrite(reference, view)

    def _lake(self, reference: TableReference, nested: bool) -> None:
        name = self._binder.locate(reference.path, self._session)
        source, lakes = self._transaction or self._binder.catalogs, self._session.lakes
        if self._transaction is not None:
            self._fresh = False
        at, version = reference.at, None
        if at is None:
            name, version = self._binder.named_version(name, source, lakes)
        try:
            lakes.of(name.catalog).check_read(name.schema, name.table)
        except (TableNotFound, SchemaNotFound):
            raise self._binder.missing(name, lakes) from None
        view = self._sql_view(name)
        if view is not None:
            self._use_view(reference, view)
            return
        try:
            table = source.load(name)
        except (TableNotFound, SchemaNotFound) as error:
            self._binder.database.drop_view(name)
            if self._transaction is not None and "dropped in this transaction" in str(error):
                raise
            raise self._binder.missing(name, lakes) from None
        self._names[table.name] = None
        self._seen.append(table)
        schema_id, snapshot_id, latest = table.schema_id, table.snapshot_id, self._transaction is None
        if at is not None or version is not None:
            snapshot = table.snapshot_for(version) if at is None else self._travel(table, at)
            schema_id, snapshot_id = snapshot.schema_id, snapshot.snapshot_id
            self._fresh = latest = False
        named = latest or (at is None and version is None and self._binder.is_named(table))
        if lakes.access.table(table.name).restrictions:
            self._use_part(reference, table, schema_id, snapshot_id, named, nested)
        else:
            self._use(reference, table, schema_id, snapshot_id, latest, named)
        if self._fresh:
            self._tables.append((name, table))

    def _sql_view(self, name: TableName) -> SqlView | None:
        """The view of a name, unless a transaction knows a table of that name."""
        transaction = self._transaction
        if transaction is not None:
            known = transaction.known(name)
            if any(known in names for names in (transaction.writes, transaction.pins, transaction.drops)):
                return None
        return self._binder.catalogs.find_view(name)

    def _use_view(self, reference: TableReference, view: SqlView) -> None:
        """Read a view of the lake, with what this principal may read of the tables in it."""
        if reference.at is not None:
            raise NotSupported(
                f"{view.name} is a view, which has no history", "travel in the tables it reads"
            )
        if self._session.access.table(view.name).restrictions:
            raise PermissionDenied(
                f"{view.name} is a view, of which no part can be shown",
                "row filters and masks hold for the tables that it reads: grant the view without any",
            )
        if not view.sql:
            raise NotSupported(f"{view.name} is a view for other programs", "its text is in another dialect")
        if len(self._outer) >= _MAX_DEPTH:
            raise LimitExceeded(f"{view.name} is a view within more than {_MAX_DEPTH} views")
        analysis = self._binder.analyse(view.sql)
        if analysis.kind is not StatementKind.QUERY or analysis.parameters or analysis.needs_all_tables:
            raise StatementForbidden(f"the text of {view.name} is not that of a view")
        inner = copy(self)
        inner.enter(analysis, view, reference.span)
        try:
            for each in analysis.references:
                self._count_nested()
                if each.search is None and (
                    len(each.path) != 3 or each.at is not None or self._is_system(each.path)
                ):
                    raise StatementForbidden(f"the text of {view.name} does not name tables in full")
                inner.reference(each)
            found = inner.defined(view)
            self._searches = self._searches or inner.has_searches
        except (TableNotFound, SchemaNotFound, CatalogNotFound) as error:
            raise TableNotFound(f"view {view.name} cannot be read: {error.message}") from None
        except SqlBindError as error:
            hint = f"CREATE OR REPLACE VIEW {view.name} AS …"
            raise SqlBindError(f"view {view.name} cannot be read any more: {error.message}", hint) from None
        self._fresh = self._fresh and inner.is_fresh
        if _ASKS_WHO.search(view.sql):
            self._tell_principal()
        if _EMBEDS.search(view.sql):
            self._use_models()
        self._views.append(view)
        self._rewrite(reference, found, view.name)

    def enter(self, analysis: Analysis, view: SqlView, place: Any) -> None:
        """Go on with the text of a view, for the same statement."""
        self._analysis = analysis
        self._edits, self._renamed, self._seen, self._searches = [], {}, [], False
        self._outer, self._places = (*self._outer, view), (*self._places, place)

    @property
    def is_fresh(self) -> bool:
        """Whether the answer may be used again for the same text."""
        return self._fresh

    @property
    def has_searches(self) -> bool:
        """Whether there are searches in the text, whose rows only this statement has."""
        return self._searches

    def defined(self, view: SqlView) -> str:
        """The internal view that stands for a view of the lake as it is bound here, or its text."""
        text = self._text()
        if self._searches or _EMBEDS.search(text):
            # Nobody but this statement has the rows, or finds the function.
            return f"({text})"
        # A view that DuckDB keeps has to be made anew when a table in it gets other columns.
        tables = "".join(f"{table.uuid}/{table.schema_id} " for table in self._seen)
        name = f"v_{view.uuid}_{sha256((tables + text).encode()).hexdigest()[:24]}"
        identity = ViewIdentity(view.uuid, schema_id=0)
        if not self._binder.database.has_hidden_view(name, identity):
            with duckdb_errors():
                self._binder.database.define_hidden_view(name, text, identity)
        if not self._binder.database.is_seen(name, self._since):
            return f"({text})"
        return self._binder.database.hidden_view(name)

    def _use(
        self,
        reference: TableReference,
        table: Table,
        schema_id: int,
        snapshot_id: int | None,
        latest: bool,
        named: bool,
    ) -> None:
        files = table.files(snapshot_id)
        count = len(files)
        # Counting rows, to read as many as LIMIT wants, takes files without deletes.
        may_prune = self._binder.is_worth_pruning(files) and not has_deletes(files)
        if may_prune and self._use_some(reference, table, schema_id, snapshot_id, count):
            return
        key = (table.uuid, schema_id, snapshot_id, len(files), 0 if latest else hash(files))
        slot = 0 if named else self._slots.setdefault(key, len(self._slots) + 1)
        view, variable = self._binder.view(
            table, schema_id, slot, merges=has_deletes(files), since=self._since
        )
        if view is not None:
            self._check_kept(reference, view, table.name)
            self._rewrite(reference, view, table.name)
        elif reference.span is not None and (self._qualify or not self._is_plain(reference.path)):
            # A name without its catalog that looks like a file's could be taken for one.
            self._rewrite(reference, table.name.sql)
        self._bind_files(table, schema_id, variable, key, files)

    def _check_kept(self, reference: TableReference, view: str, name: TableName) -> None:
        """Make sure that no text of a view gets into a text that is kept: it may hold filters and masks."""
        if view.startswith("(") and (self._qualify or reference.span is None):
            raise NotSupported(
                f"{name} was not read before the first temporary table of this transaction",
                "make the temporary view in a transaction of its own",
            )

    def _is_plain(self, path: tuple[str, ...]) -> bool:
        """Whether DuckDB takes a name for nothing else: a file, or a table of another catalog."""
        name = path[-1]
        return (
            "/" not in name and "." not in name and not (len(path) == 2 and path[0] in self._binder.catalogs)
        )

    def _use_some(
        self, reference: TableReference, table: Table, schema_id: int, snapshot_id: int | None, count: int
    ) -> bool:
        """Read only the files that the statement needs, by a view of its own; gives whether that spares any.

        What is kept as text, and what depends on how a session reads dates, is left alone.
        """
        wanted = reference.scan
        values = self._values
        if wanted is None or values is None or self._qualify or "calendar" in self._session.settings:
            return False
        if self._shares_name(reference):
            return False
        place = ("scan", self._places, reference.span)
        slot = self._slots.get(place) or len(self._slots) + 1
        name = f"t_{self._binder.mark(table)}_{schema_id}_{slot}"
        scan = Scan(name, table, schema_id, snapshot_id, wanted)
        binding = self._binder.needed(scan, values)
        if len(binding.files) >= count and not wanted.has_parameters:
            return False
        self._slots[place] = slot
        view, variable = self._binder.view(table, schema_id, slot, since=self._since)
        assert view is not None
        assert variable == name
        self._rewrite(reference, view, table.name)
        self._bindings[variable] = binding
        # The view may leave out deleted rows, and the cursor remember those of another snapshot.
        self._bindings[f"{variable}{DELETED}"] = Binding(f"{variable}{DELETED}", (), ())
        if wanted.has_parameters:
            self._scans.append(scan)
        return True

    def _shares_name(self, reference: TableReference) -> bool:
        """Whether another table of the statement is called the same but for its schema or catalog.

        A view in the place of one of them would take a name that only the full names tell apart.
        """
        if reference.has_alias:
            return False
        own = self._binder.locate(reference.path, self._session)
        for other in self._analysis.references:
            if not other.has_alias and other.path and other.path[-1].lower() == own.table.lower():
                found = self._binder.locate(other.path, self._session)
                if (found.catalog, found.schema.lower()) != (own.catalog, own.schema.lower()):
                    return True
        return False

    def _use_part(
        self,
        reference: TableReference,
        table: Table,
        schema_id: int,
        snapshot_id: int | None,
        named: bool,
        nested: bool,
    ) -> None:
        """Read what is left of a table by filters and masks. What runs is not shown: it holds them."""
        if self._kind is StatementKind.EXPLAIN:
            raise PermissionDenied(
                f"the plan of a query on {table.name} is not shown", "the principal sees a part of it only"
            )
        files = table.files(snapshot_id)
        key = (table.uuid, schema_id, snapshot_id, len(files), hash(files))
        slot = 0 if named else self._slots.setdefault(key, len(self._slots) + 1)
        view, variable = self._binder.restricted_view(
            table, self._session.access, schema_id, slot, merges=has_deletes(files), since=self._since
        )
        self._check_kept(reference, view, table.name)
        if not nested:
            self._rewrite(reference, view, table.name)
        elif slot:
            raise NotSupported(
                f"a temporary view cannot read {table.name} here: its columns changed in this transaction"
            )
        self._bind_files(table, schema_id, variable, key, files)

    def _bind_files(
        self,
        table: Table,
        schema_id: int,
        variable: str,
        key: tuple[Any, ...],
        files: Sequence[DataFileRef],
    ) -> None:
        empty = self._binder.empty_file(table, schema_id)
        for binding in self._binder.file_bindings(variable, key, files, empty):
            self._bindings[binding.variable] = binding
        if has_deletes(files):
            self._fresh = False

    def _travel(self, table: Table, at: tuple[str, str]) -> Snapshot:
        unit, expression = at
        if unit == "VERSION":
            value = self._binder.evaluate(expression, self._session)
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise InvalidRequest(
                    "AT (VERSION => …) takes a snapshot id, a whole number, or the name of a tag or branch "
                    f"in single quotes, not {expression}"
                )
            return table.snapshot_for(version=value)
        value = self._binder.evaluate(f"epoch_us(({expression})::TIMESTAMPTZ)", self._session)
        if not isinstance(value, int):
            raise InvalidRequest(f"AT (TIMESTAMP => …) takes a point in time, not {expression}")
        return table.snapshot_for(at=datetime.fromtimestamp(value / 1e6, UTC))

    def _rewrite(self, reference: TableReference, view: str, name: TableName | None = None) -> None:
        """Put a view in place of a reference; columns written with the table's schema then lose that."""
        start, end = self._place(reference)
        text = self._analysis.sql.encode()[start:end].decode()
        self._edits.append(
            (start, end, rewrite_reference(text, view, reference.path[-1], reference.has_alias))
        )
        if name is not None and not reference.has_alias:
            self._renamed[name] = reference.path[-1]

    def _unqualify(self, text: str) -> None:
        for name, alias in self._renamed.items():
            for start, end in qualifiers(text, name.catalog, name.schema, name.table):
                if not any(
                    start < other_end and other_start < end for other_start, other_end, _ in self._edits
                ):
                    self._edits.append((start, end, quote(alias)))

    def _show_visible(self) -> None:
        """Tell the views of information_schema which tables are there for the principal."""
        names = []
        for lake in self._session.lakes:
            names.append(quote(lake.name))
            for schema in lake.schemas():
                place = f"{quote(lake.name)}.{quote(schema)}"
                names += [
                    place,
                    *(f"{place}.{quote(t)}" for t in (*lake.tables(schema), *lake.views(schema))),
                ]
        place = f"{quote(self._binder.catalogs.default.name)}.{quote(SYSTEM_SCHEMA)}"
        names += [place, *(f"{place}.{quote(n)}" for n in self._binder.system.names(self._session.access))]
        self._bindings[VISIBLE_TABLES] = Binding(VISIBLE_TABLES, tuple(names), tuple(names))

    def _tell_principal(self) -> None:
        """Let ``current_user`` give the principal's name; others may run the same text on the same cursor."""
        name = self._session.principal.name
        self._fresh = False
        self._bindings[PRINCIPAL] = Binding(PRINCIPAL, (name,), (name,))

    def _use_models(self) -> None:
        """Let the statement call ``embed``."""
        self._inputs[EMBED] = ModelUse.of(self._binder.database.model_calls, self._session)

    def _text(self) -> str:
        text = self._analysis.sql
        self._unqualify(text)
        if not self._edits:
            return text
        raw = text.encode()
        for start, end, replacement in sorted(self._edits, reverse=True):
            raw = raw[:start] + replacement.encode() + raw[end:]
        return raw.decode()

    def result(self) -> Bound:
        if self._analysis.needs_all_tables:
            # Which tables there are is looked up by binding, so that has to happen every time.
            self._fresh = False
            absent = self._binder.absent_schemas()
            self._bindings[ABSENT_SCHEMAS] = Binding(ABSENT_SCHEMAS, absent, absent)
            if self._session.access.key:
                self._show_visible()
        if _ASKS_WHO.search(self._analysis.sql) or self._session.temp_views:
            self._tell_principal()
        if _EMBEDS.search(self._analysis.sql):
            self._use_models()
        text = self._text()
        bindings, tables = tuple(self._bindings.values()), tuple(self._tables)
        inputs, names = tuple(self._inputs.values()), tuple(self._names)
        scans, views = tuple(self._scans), tuple(self._views)
        left = parameters_in(text) if self._searches and self._analysis.parameters else None
        return Bound(
            text, bindings, tables, self._fresh, self._reads_temporary, inputs, names, scans, views, left
        )
