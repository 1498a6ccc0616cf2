"""INSERT, UPDATE, DELETE, MERGE and TRUNCATE on lake tables.

DuckDB runs the statement itself on a shadow, a temporary table with the rows of the files that can change;
what the shadow then holds is written as new files, and one commit puts them in the place of the old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from lakehouse.catalog import Catalog, Table
from lakehouse.catalog.observer import coming_from
from lakehouse.engine.binding import Bound, has_deletes
from lakehouse.engine.database import PooledCursor
from lakehouse.engine.dml_text import (
    ChangeText,
    numbered,
    read_change,
    values_for,
    verb_of,
    with_columns,
)
from lakehouse.engine.gate import Analysis
from lakehouse.engine.result import rows_per_batch
from lakehouse.engine.row_changes import RowChanges
from lakehouse.engine.running import CallWatch, RunningStatement
from lakehouse.engine.session import Session
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    CommitConflict,
    NotSupported,
    SchemaNotFound,
    SqlBindError,
    SqlSyntaxError,
    TableNotFound,
)
from lakehouse.ingest import GroupCommit, StagedWrite, WriteMode, drop_files, rewriting, stage, stage_for
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.types import DataFileRef, TableName, quote

if TYPE_CHECKING:
    from lakehouse.engine.engine import Engine

_SHADOW = 'temp.main."~shadow"'
_PARAMETERS = 'temp.main."~parameters"'
_FILE_COLUMN = "~file"
_AFFECTED = "~affected"
# How often a statement is run anew because another writer changed the same rows first.
_ATTEMPTS = 10
# Inserts of no more than this share commits with others.
_SMALL_ROWS, _SMALL_BYTES = 10_000, 4 << 20
# For more rows of parameters it is quicker to look into all files once than at their statistics each time.
_PRUNED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did: how many rows, and which rows it was asked to give."""

    count: int
    rows: pa.Table | None = None


class LakeDml:
    """Runs statements that change rows of lake tables.

    Args:
        engine: The engine whose catalog, database and binder are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._groups = {catalog.name: GroupCommit(catalog) for catalog in engine.catalogs}

    def run(
        self,
        analysis: Analysis,
        session: Session,
        transaction: Transaction | None,
        watch: CallWatch,
        rows: Iterable[Sequence[Any]] | None = None,
    ) -> Outcome:
        """Run a statement, in its transaction or in one commit of its own; nothing of it remains if it fails.

        Args:
            analysis: The statement.
            session: Whose it is.
            transaction: What it belongs to, if anything.
            watch: How it learns to stop.
            rows: Values of its parameters; it is run for each of them, in one commit.

        Raises:
            TableNotFound, SchemaNotFound: The target is not there.
            PermissionDenied: The principal may not change it.
            CommitConflict: Another writer changed the same rows, again and again or during the transaction.
            LakehouseError: It failed.
        """
        target = self._engine.binder.locate(analysis.target, session)
        values = None if rows is None else [_named(analysis, row) for row in rows]
        watch.note_tables([target])
        if transaction is not None:
            with transaction.lock:
                return _Change(self._engine, analysis, session, transaction, watch, target, values).run()
        adds_only = verb_of(analysis.sql) == "INSERT"
        for attempt in range(_ATTEMPTS):
            own = Transaction(self._engine.clock.token(), self._engine.catalogs)
            if attempt or not adds_only:
                self._engine.catalogs.of(target.catalog).refresh(target.schema, target.table)
            try:
                change = _Change(self._engine, analysis, session, own, watch, target, values, alone=True)
                outcome = change.run()
            except BaseException:
                own.rollback()
                raise
            try:
                if change.small is not None:
                    with change.origin():
                        self._groups[target.catalog].add(change.table, change.small)
                own.commit()
            except CommitConflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                return outcome
        raise AssertionError("the last attempt returns or raises")


@dataclass
class _Change:
    """One run of a statement on what its transaction sees.

    ``alone`` says that there is nothing else in its transaction. The rows of a small insert are then in
    ``small`` and not part of the transaction, so that they can be committed together with those of others.
    """

    engine: Engine
    analysis: Analysis
    session: Session
    transaction: Transaction
    watch: CallWatch
    target: TableName
    values: list[dict[str, Any]] | None
    alone: bool = False
    small: pa.Table | None = None
    table: Table = field(init=False)
    text: ChangeText = field(init=False)
    bound: Bound = field(init=False)

    def run(self) -> Outcome:
        self._check()
        self.table = self._load()
        self.bound = self.engine.binder.bind(self.analysis, self.session, self.transaction)
        self.watch.note_tables((self.table.name, *self.bound.names))
        self.text = read_change(numbered(self.bound.sql), self.table.name)
        self._refuse()
        owner = self.transaction if self.bound.temporary else None
        running = self.engine.running
        with (
            running.working(self.watch, self.session.id) as statement,
            self.engine.cursor(self.session.state(), owner) as cursor,
            self.origin(),
        ):
            statement.attach(cursor.interrupt)
            with self.engine.errors(), cursor.supplied(self.bound.inputs, statement.record.check_stop):
                cursor.bind(self.bound.bindings, self.engine.database.empty_file)
                try:
                    return self._run(cursor, statement)
                finally:
                    with suppress(duckdb.Error):
                        cursor.connection.unregister("~parameters")

    def origin(self) -> AbstractContextManager[None]:
        """For the length of a ``with``, what is written comes from what the statement reads."""
        inputs = [name for name in self.bound.names if name != self.table.name]
        if not inputs and self.text.verb not in ("INSERT", "MERGE"):
            return nullcontext()
        return coming_from("sql", ingest=self.text.verb, inputs=inputs)

    def _check(self) -> None:
        lake = self.session.lakes.of(self.target.catalog)
        adds_only = verb_of(self.analysis.sql) == "INSERT"
        check = lake.check_write if adds_only else lake.check_change
        check(self.target.schema, self.target.table)
        self.transaction.check_change(self.transaction.known(self.target))

    def _load(self) -> Table:
        try:
            return self.transaction.load(self.target)
        except (TableNotFound, SchemaNotFound) as error:
            if "dropped in this transaction" in str(error):
                raise
            raise self.engine.binder.missing(self.target, self.session.lakes) from None

    def _refuse(self) -> None:
        if self.text.extra:
            raise NotSupported(
                f"{self.text.verb} … {self.text.extra} is not supported: lake tables have no unique index",
                "write MERGE INTO … USING … WHEN MATCHED …",
            )

    def _run(self, cursor: PooledCursor, statement: RunningStatement) -> Outcome:
        text = self.text
        if text.verb == "INSERT":
            query = self._streamed(cursor)
            if query is not None:
                return Outcome(self._insert_query(cursor, statement, *query))
            return self._on_shadow(cursor, statement, ())
        if text.verb in ("DELETE", "TRUNCATE") and not (text.source or text.condition or text.returning):
            return Outcome(self._remove_all(cursor))
        return self._on_shadow(cursor, statement, self._affected(cursor))

    # -- INSERT from a query ---------------------------------------------------------------------------

    def _streamed(self, cursor: PooledCursor) -> tuple[str, dict[str, Any] | None] | None:
        """The query that gives the rows of an INSERT as the table will have them, where one does."""
        text = self.text
        if text.returning:
            return None
        common = text.common
        if self.values is not None and len(self.values) > 1:
            expressions = text.one_row
            if expressions is None or not self._supply_parameters(cursor):
                return None
            source = f"SELECT {with_columns(expressions, quote('~p'))} FROM {_PARAMETERS} AS {quote('~p')}"
            return self._mapped(cursor, f"{common} {source}", None), None
        values = self.values[0] if self.values else None
        if not text.is_query:
            if text.one_row is None:
                return None
            source = f"SELECT {text.one_row}"
        else:
            source = text.source
        query = f"{common} {source}"
        return self._mapped(cursor, query, values_for(query, values)), values_for(query, values)

    def _mapped(self, cursor: PooledCursor, query: str, values: dict[str, Any] | None) -> str:
        """The query with the names, order and types of the table's columns, and defaults for the rest."""
        columns = dict(self.table.sql_columns())
        names = cursor.connection.sql(query, params=values).columns
        given = self._insert_columns(names, list(columns))
        place = {column.lower(): quote(column) for column in given}
        defaults = self.table.column_defaults
        selected = (
            f"CAST({place.get(name.lower()) or defaults.get(name) or 'NULL'} AS {kind}) AS {quote(name)}"
            for name, kind in columns.items()
        )
        return f"SELECT {', '.join(selected)} FROM ({query}) AS {quote('~rows')}({', '.join(place.values())})"

    def _insert_columns(self, names: Sequence[str], columns: Sequence[str]) -> Sequence[str]:
        """Which column of the table each column that comes goes to."""
        text, folded = self.text, {column.lower(): column for column in columns}
        given = names if text.by_name else text.columns or columns
        if len(given) != len(names):
            raise SqlBindError(
                f"table {self.table.name} takes {len(given)} columns here, but {len(names)} values came"
            )
        for number, name in enumerate(given):
            if name.lower() not in folded:
                raise SqlBindError(f"table {self.table.name} has no column {name}")
            if name.lower() in (other.lower() for other in given[:number]):
                raise SqlBindError(f"column {name} is named twice")
        return given

    def _insert_query(
        self, cursor: PooledCursor, statement: RunningStatement, query: str, values: dict[str, Any] | None
    ) -> int:
        relation = cursor.connection.sql(query, params=values)
        schema = self.table.arrow_schema()
        reader = relation.to_arrow_reader(rows_per_batch(schema, self.engine.settings.engine.batch_bytes))
        try:
            return self._add(reader, statement)
        finally:
            reader.close()

    def _add(self, reader: pa.RecordBatchReader, statement: RunningStatement) -> int:
        """Add rows to the table; gives how many."""
        batches = self._batches(reader)
        first = _few(batches) if self.alone else []
        if self.alone and _are_few(first):
            self.small = pa.Table.from_batches(first, reader.schema) if first else None
            return sum(batch.num_rows for batch in first)
        return self._keep(self._append(reader.schema, chain(first, batches), statement)).rows

    def _append(
        self, schema: pa.Schema, batches: Iterable[pa.RecordBatch], statement: RunningStatement
    ) -> StagedWrite:
        name = self.table.name
        return stage(
            self._catalog,
            name,
            WriteMode.APPEND,
            schema,
            batches,
            self._cancelled(statement),
            on=self.transaction.writes.get(name),
            seen=self.table,
        )

    # -- everything else, on a shadow ---------------------------------------------------------------------

    def _on_shadow(
        self, cursor: PooledCursor, statement: RunningStatement, affected: Sequence[DataFileRef]
    ) -> Outcome:
        connection = cursor.connection
        columns = _definitions(self.table)
        changes = None if self.text.verb == "INSERT" else self._row_changes()
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {_SHADOW} ({', '.join(columns)})").fetchall()
        try:
            before = self._fill(cursor, affected)
            if changes is not None:
                changes.prepare(connection, self.text, self.values, before)
            outcome = self._execute(connection)
            if outcome.count:
                events = changes.events(connection, self.text, outcome.count) if changes is not None else ()
                self._write_shadow(cursor, statement, affected, before, events)
            return outcome
        finally:
            with suppress(duckdb.Error):
                connection.execute(f"DROP TABLE IF EXISTS {_SHADOW}").fetchall()
            if changes is not None:
                changes.forget(connection)

    def _row_changes(self) -> RowChanges | None:
        """What finds out which rows change and how, where that is to be recorded."""
        journal = self.engine.settings.journal
        if not (journal.enabled and journal.max_row_changes and self.table.primary_key):
            return None
        return RowChanges(self.table, _SHADOW, journal.max_row_changes, self.bound.temporary)

    def _fill(self, cursor: PooledCursor, affected: Sequence[DataFileRef]) -> int:
        """Put the rows of files into the shadow; gives the row id from which on those are that come later.

        Within DuckDB's own transaction row ids do not begin with zero.
        """
        if not affected:
            return 0
        body = self._body(cursor, affected)
        cursor.connection.execute(f"INSERT INTO {_SHADOW} {body}").fetchall()
        rows = cursor.connection.execute(f"SELECT coalesce(max(rowid) + 1, 0) FROM {_SHADOW}").fetchall()
        return int(rows[0][0])

    def _execute(self, connection: duckdb.DuckDBPyConnection) -> Outcome:
        sql, count = self.text.on(_SHADOW), 0
        tables: list[pa.Table] = []
        for values in self.values or [{}]:
            result = connection.execute(sql, values_for(sql, values))
            if self.text.returning:
                tables.append(result.to_arrow_table())
            else:
                count += int(result.fetchall()[0][0])
        if not self.text.returning:
            return Outcome(count)
        rows = pa.concat_tables(tables)
        return Outcome(rows.num_rows, rows)

    def _write_shadow(
        self,
        cursor: PooledCursor,
        statement: RunningStatement,
        affected: Sequence[DataFileRef],
        before: int,
        events: tuple[ChangeEvent, ...],
    ) -> None:
        only_new = self.text.verb == "INSERT" or self.text.inserts_only
        rows = f"SELECT * FROM {_SHADOW}" + (f" WHERE rowid >= {before}" if only_new and before else "")
        schema = self.table.arrow_schema()
        reader = cursor.connection.sql(rows).to_arrow_reader(
            rows_per_batch(schema, self.engine.settings.engine.batch_bytes)
        )
        try:
            if self.text.verb == "INSERT":
                self._add(reader, statement)
                return
            target = rewriting(
                self.table,
                () if only_new else affected,
                self.transaction.writes.get(self.table.name),
                serializable=self.text.verb == "MERGE",
            )
            batches, cancelled = self._batches(reader), self._cancelled(statement)
            staged = stage_for(self._catalog, target, reader.schema, batches, cancelled)
            self._keep(replace(staged, row_events=events))
        finally:
            reader.close()

    def _affected(self, cursor: PooledCursor) -> Sequence[DataFileRef]:
        """The files that have rows which the statement may change."""
        files: Sequence[DataFileRef] = self.table.files()
        text = self.text
        if len(files) <= 1 or text.every_file:
            return files
        files = self._without_hopeless(files)
        if len(files) <= 1:
            return files
        body = self._body(cursor, files, _FILE_COLUMN)
        found: set[str] = set()
        many = self.values is not None and len(self.values) > 1 and self._supply_parameters(cursor)
        if many:
            sql = with_columns(
                text.finding(body, _FILE_COLUMN, f"{_PARAMETERS} AS {quote('~p')}"), quote("~p")
            )
            found.update(path for (path,) in cursor.connection.execute(sql).fetchall())
        else:
            sql = text.finding(body, _FILE_COLUMN)
            for values in self.values or [{}]:
                rows = cursor.connection.execute(sql, values_for(sql, values)).fetchall()
                found.update(path for (path,) in rows)
        return [file for file in files if file.path in found]

    def _without_hopeless(self, files: Sequence[DataFileRef]) -> Sequence[DataFileRef]:
        """Of the files of a large table those whose statistics allow that a row fulfils the condition."""
        text, rows = self.text, self.values or [{}]
        is_worth_it = self.engine.binder.is_worth_pruning(files)
        if not is_worth_it or len(rows) > _PRUNED_ROWS or not text.tells_rows:
            return files
        if "calendar" in self.session.settings:
            return files
        found: set[str] = set()
        try:
            for values in rows:
                matching = self.engine.gate.files_matching(self.table, text.condition, text.name, values)
                found.update(file.uri for file in matching)
        except SqlSyntaxError:
            return files
        return [file for file in files if file.uri in found]

    def _remove_all(self, cursor: PooledCursor) -> int:
        files = self.table.files()
        if not files:
            return 0
        earlier, count = self.transaction.writes.get(self.table.name), self.table.planner.rows_left(files)
        changes = self._row_changes()
        events: tuple[ChangeEvent, ...] = ()
        if changes is not None:
            events = changes.removed(cursor.connection, self._body(cursor, files), count)
        staged = drop_files(self._catalog, rewriting(self.table, files, earlier))
        self._keep(replace(staged, row_events=events))
        return count

    def _body(
        self, cursor: PooledCursor, files: Sequence[DataFileRef], file_column: str | None = None
    ) -> str:
        """A query for the rows of some files of the table."""
        binder, empty = self.engine.binder, self.engine.database.empty_file
        cursor.bind(binder.file_bindings(_AFFECTED, (self.engine.clock.token(),), files, empty), empty)
        return binder.scan(self.table, _AFFECTED, file_column, merges=has_deletes(files))

    # -- plumbing -------------------------------------------------------------------------------------------

    def _supply_parameters(self, cursor: PooledCursor) -> bool:
        """Make all rows of parameters one table; gives whether their types allowed that."""
        schema = self.engine.parameter_schema(self.analysis, self.session, self.transaction)
        rows = self.values or []
        try:
            columns = [
                pa.array([row[name] for row in rows], type=kind.type)
                for name, kind in zip(self.analysis.parameters, schema, strict=True)
            ]
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return False
        cursor.connection.register("~parameters", pa.table(columns, names=list(self.analysis.parameters)))
        return True

    @property
    def _catalog(self) -> Catalog:
        return self.engine.catalogs.of(self.target.catalog)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with self.engine.errors():
            yield from reader

    def _cancelled(self, statement: RunningStatement) -> Callable[[], bool]:
        return lambda: statement.reason is not None or self.watch.cancelled()

    def _keep(self, staged: StagedWrite) -> StagedWrite:
        """Make what was written part of the transaction."""
        self.transaction.keep(staged)
        return staged


def _definitions(table: Table) -> Iterator[str]:
    """The columns of a table as CREATE TABLE wants them."""
    required, defaults = table.required_columns, table.column_defaults
    for name, kind in table.sql_columns():
        default = f" DEFAULT {defaults[name]}" if name in defaults else ""
        yield f"{quote(name)} {kind}{' NOT NULL' if name in required else ''}{default}"


def _few(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The first batches: all of them where they are few rows."""
    taken: list[pa.RecordBatch] = []
    for batch in batches:
        taken.append(batch)
        if not _are_few(taken):
            break
    return taken


def _are_few(batches: Sequence[pa.RecordBatch]) -> bool:
    rows, size = sum(batch.num_rows for batch in batches), sum(batch.nbytes for batch in batches)
    return bool(rows <= _SMALL_ROWS and size <= _SMALL_BYTES)


def _named(analysis: Analysis, row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(analysis.parameters, row, strict=True))
