"""Names in a statement → tables, snapshots and the DuckDB variables that say which files to read."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lakehouse.catalog import Catalog, Table
from lakehouse.engine.database import INTERNAL_CATALOG, Binding, DuckDatabase
from lakehouse.engine.gate import Analysis, TableReference, rewrite_reference
from lakehouse.engine.session import Session
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    CatalogNotFound,
    InvalidRequest,
    NotSupported,
    SchemaNotFound,
    StatementForbidden,
    TableNotFound,
)
from lakehouse.types import TableName, quote

_SYSTEM_SCHEMAS = frozenset({"information_schema", "pg_catalog"})


@dataclass(frozen=True, slots=True)
class Bound:
    """A statement whose names are settled: text for DuckDB, files to read, tables it depends on.

    ``fresh`` is false where the answer must not be reused for a later statement of the same text;
    ``temporary`` is true where it reads the session's temporary tables.
    """

    sql: str
    bindings: tuple[Binding, ...]
    tables: tuple[tuple[str, str, Table], ...]
    fresh: bool
    temporary: bool


class Binder:
    """Binds statements to snapshots.

    Args:
        catalog: Where tables are looked up.
        database: Where their views live.
        evaluate: Gives the value of a constant SQL expression (for AT clauses).
    """

    def __init__(
        self, catalog: Catalog, database: DuckDatabase, evaluate: Callable[[str, Session], Any]
    ) -> None:
        self.catalog = catalog
        self.database = database
        self.evaluate = evaluate

    def bind(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        *,
        qualify: bool = False,
    ) -> Bound:
        """Settle every name of a statement; with ``qualify`` every lake table is written with its full name.

        Raises:
            TableNotFound, SchemaNotFound, CatalogNotFound, SnapshotNotFound: A name leads nowhere.
            NotSupported: A reference that would have to be rewritten cannot be.
        """
        if analysis.needs_all_tables:
            self.define_all()
        work = _Binding(self, analysis, session, transaction, qualify=qualify)
        for reference in analysis.references:
            work.reference(reference)
        return work.result()

    def define_all(self) -> None:
        """Make DuckDB know every table of the catalog, for statements that list them."""
        schemas = self.catalog.schemas()
        self.database.sync_schemas(schemas)
        present = set()
        for schema in schemas:
            for name in self.catalog.tables(schema):
                try:
                    table = self.catalog.load(schema, name)
                    self.view(table)
                except (TableNotFound, SchemaNotFound, NotSupported):
                    continue
                present.add(table.name)
        for gone in set(self.database.main_views) - present:
            self.database.drop_view(gone)

    def view(self, table: Table, schema_id: int | None = None, slot: int = 0) -> tuple[str | None, str]:
        """The view through which a table is read: ``None`` for the one under its own name, and its variable.

        Slot 0 is the table as it is now; other slots are other snapshots read by the same statement.
        """
        schema_id = table.schema_id if schema_id is None else schema_id
        if slot == 0:
            variable = f"t_{table.uuid}"
            if self.database.main_views.get(table.name) != (table.uuid, schema_id):
                body = self._body(table, schema_id, variable)
                self.database.define_view(table.name, (table.uuid, schema_id), body)
            return None, variable
        variable = f"t_{table.uuid}_{schema_id}_{slot}"
        if not self.database.has_hidden_view(variable):
            self.database.define_hidden_view(variable, self._body(table, schema_id, variable))
        return self.database.hidden_view(variable), variable

    def is_named(self, table: Table) -> bool:
        """Whether a transaction can read its table under the table's own name: the columns are the same.

        Only then do columns written with a schema, ``nyc.flights.origin``, lead somewhere.
        """
        try:
            current = self.catalog.load(table.name.schema, table.name.table)
        except (TableNotFound, SchemaNotFound):
            return False
        return (
            current.uuid == table.uuid
            and current.schema_id == table.schema_id
            and current.read_schema_sql() == table.read_schema_sql()
        )

    def _body(self, table: Table, schema_id: int, variable: str) -> str:
        empty = self.empty_file(table, schema_id).replace("'", "''")
        files = f"coalesce(getvariable('{variable}'), ['{empty}'])"
        columns = table.plain_columns() if schema_id == table.schema_id else None
        if columns is None:
            schema = table.read_schema_sql(schema_id)
            return f"SELECT * FROM read_parquet({files}, schema = {schema}, hive_partitioning = false)"
        # By field id DuckDB guesses one row a table, and joins in a bad order: by name where that is safe.
        selected = ", ".join(f"CAST({quote(name)} AS {kind}) AS {quote(name)}" for name, kind in columns)
        return f"SELECT {selected} FROM read_parquet({files}, hive_partitioning = false)"

    def empty_file(self, table: Table, schema_id: int) -> str:
        """A file without rows that the table's view can read where there is no other."""
        columns = table.plain_columns() if schema_id == table.schema_id else None
        return self.database.empty_file if columns is None else self.database.empty_file_of(columns)

    def locate(self, path: tuple[str, ...], session: Session) -> TableName:
        """The full name that a written name stands for, not counting temporary tables.

        Raises:
            CatalogNotFound: The name's catalog is not this server's.
        """
        if len(path) == 1:
            return TableName(session.catalog, session.schema, path[0])
        if len(path) == 2:
            first, table = path
            if first.lower() == session.catalog.lower() and not self.catalog.schema_exists(first):
                return TableName(session.catalog, "main", table)
            return TableName(session.catalog, first, table)
        catalog, schema, table = path[-3:]
        if catalog.lower() != self.catalog.name.lower():
            raise CatalogNotFound(f"catalog {catalog} does not exist", f"the catalog is {self.catalog.name}")
        return TableName(self.catalog.name, schema, table)

    def missing(self, name: TableName) -> TableNotFound | SchemaNotFound:
        """The error for a table that is not there, with the nearest name that is."""
        schemas = self.catalog.schemas()
        if name.schema.lower() not in {s.lower() for s in schemas}:
            near = difflib.get_close_matches(name.schema, schemas, 1)
            return SchemaNotFound(
                f"schema {name.schema} does not exist in catalog {name.catalog}",
                f"did you mean {near[0]}?" if near else "",
            )
        elsewhere = [
            f"{s}.{t}" for s in schemas for t in self.catalog.tables(s) if t.lower() == name.table.lower()
        ]
        near = elsewhere or difflib.get_close_matches(name.table, self.catalog.tables(name.schema), 1)
        return TableNotFound(f"table {name} does not exist", f"did you mean {near[0]}?" if near else "")


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
    ) -> None:
        self._binder = binder
        self._qualify = qualify
        self._analysis = analysis
        self._session = session
        self._transaction = transaction
        self._temporary = session.temp_objects()
        self._edits: list[tuple[int, int, str]] = []
        self._bindings: dict[str, Binding] = {}
        self._slots: dict[tuple[Any, ...], int] = {}
        self._tables: list[tuple[str, str, Table]] = []
        self._fresh = True
        self._reads_temporary = False

    def reference(self, reference: TableReference) -> None:
        path = reference.path
        if not path:
            return
        if path[0].startswith("~"):
            raise StatementForbidden("names that begin with ~ are internal")
        if len(path) > 1 and path[-2].lower() in _SYSTEM_SCHEMAS:
            self._system(reference)
            return
        if self._is_temporary(reference):
            return
        if len(path) == 1 and path[0].lower() in self._analysis.local_names:
            try:
                self._lake(reference)
            except (TableNotFound, SchemaNotFound):
                return
            return
        self._lake(reference)

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
        for nested in self._session.temp_views.get(path[-1].lower(), ()):
            self.reference(TableReference(nested.path))
        return True

    def _system(self, reference: TableReference) -> None:
        if reference.path[-2].lower() != "information_schema":
            raise NotSupported(f"{reference.path[-2]} is not offered", "read information_schema instead")
        view = f'"{INTERNAL_CATALOG}".main.{quote(reference.path[-1].lower())}'
        self._fresh = False
        self._rewrite(reference, view)

    def _lake(self, reference: TableReference) -> None:
        name = self._binder.locate(reference.path, self._session)
        source = self._transaction or self._binder.catalog
        if self._transaction is not None:
            self._fresh = False
        try:
            table = source.load(name.schema, name.table)
        except (TableNotFound, SchemaNotFound) as error:
            self._binder.database.drop_view(name)
            if self._transaction is not None and "dropped in this transaction" in str(error):
                raise
            raise self._binder.missing(name) from None
        schema_id, snapshot_id, latest = table.schema_id, table.snapshot_id, self._transaction is None
        if reference.at is not None:
            schema_id, snapshot_id = self._travel(table, reference.at)
            latest = False
        named = latest or (reference.at is None and self._binder.is_named(table))
        self._use(reference, table, schema_id, snapshot_id, latest, named)
        if self._fresh:
            self._tables.append((name.schema, name.table, table))

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
        key = (table.uuid, schema_id, snapshot_id, len(files), 0 if latest else hash(files))
        slot = 0 if named else self._slots.setdefault(key, len(self._slots) + 1)
        view, variable = self._binder.view(table, schema_id, slot)
        if view is not None:
            self._rewrite(reference, view)
        elif self._qualify and reference.span is not None:
            self._rewrite(reference, table.name.sql)
        paths = tuple(f.path for f in files) or (self._binder.empty_file(table, schema_id),)
        self._bindings[variable] = Binding(variable, key, paths)

    def _travel(self, table: Table, at: tuple[str, str]) -> tuple[int, int]:
        unit, expression = at
        self._fresh = False
        if unit == "VERSION":
            value = self._binder.evaluate(expression, self._session)
            if not isinstance(value, int):
                raise InvalidRequest(
                    f"AT (VERSION => …) takes a snapshot id, a whole number, not {expression}"
                )
            snapshot = table.snapshot_for(version=value)
        else:
            value = self._binder.evaluate(f"epoch_us(({expression})::TIMESTAMPTZ)", self._session)
            if not isinstance(value, int):
                raise InvalidRequest(f"AT (TIMESTAMP => …) takes a point in time, not {expression}")
            snapshot = table.snapshot_for(at=datetime.fromtimestamp(value / 1e6, UTC))
        return snapshot.schema_id, snapshot.snapshot_id

    def _rewrite(self, reference: TableReference, view: str) -> None:
        if reference.span is None:
            raise NotSupported(
                f"{'.'.join(reference.path)} cannot be read in this kind of statement here",
                "write SELECT … FROM it",
            )
        start, end = reference.span
        text = self._analysis.sql.encode()[start:end].decode()
        self._edits.append(
            (start, end, rewrite_reference(text, view, reference.path[-1], reference.has_alias))
        )

    def result(self) -> Bound:
        text = self._analysis.sql
        if self._edits:
            raw = text.encode()
            for start, end, replacement in sorted(self._edits, reverse=True):
                raw = raw[:start] + replacement.encode() + raw[end:]
            text = raw.decode()
        bindings, tables = tuple(self._bindings.values()), tuple(self._tables)
        return Bound(text, bindings, tables, self._fresh, self._reads_temporary)
