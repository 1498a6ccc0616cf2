"""A transaction: the snapshots it first saw, the writes it has staged, and its temporary-table changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from lakehouse.catalog import Catalog, Catalogs, Table
from lakehouse.catalog.commit import writable
from lakehouse.catalog.ingest_mark import IngestMark
from lakehouse.catalog.names import fold
from lakehouse.errors import (
    CommitStateUnknown,
    NotSupported,
    SchemaNotEmpty,
    SchemaNotFound,
    StorageError,
    TableNotFound,
    TransactionStateError,
)
from lakehouse.ingest import StagedWrite, commit, commit_together, discard
from lakehouse.types import TableName

if TYPE_CHECKING:
    from lakehouse.engine.database import PooledCursor


_live: WeakValueDictionary[int, Transaction] = WeakValueDictionary()


def live_transactions() -> list[Transaction]:
    """The transactions of this process that somebody still holds."""
    # The list is made in one step, whatever other threads begin meanwhile.
    found = (reference() for reference in _live.valuerefs())
    return [transaction for transaction in found if transaction is not None]


@dataclass(eq=False)
class Transaction:
    """One open transaction of a session. Not to be used by two statements at once: take ``lock``.

    Reads see the snapshot that the transaction first saw of each table, plus its own staged writes.
    Commit makes all of its changes take place, or none. With a ``mark`` they are those of an ingest. Once it
    changes temporary tables it has a ``cursor`` with a transaction of DuckDB's, which began when so many
    views had been made as ``views_seen``. Its ``needed_schemas`` are made with the commit, and not undone:
    others may use them as soon as they are there.
    """

    id: str
    catalogs: Catalogs
    lock: threading.RLock = field(default_factory=threading.RLock)
    pins: dict[TableName, Table] = field(default_factory=dict)
    writes: dict[TableName, StagedWrite] = field(default_factory=dict)
    drops: dict[TableName, None] = field(default_factory=dict)
    created_schemas: list[tuple[str, str]] = field(default_factory=list)
    needed_schemas: dict[tuple[str, str], str] = field(default_factory=dict)
    cursor: PooledCursor | None = None
    views_seen: int | None = None
    open: bool = True
    mark: IngestMark | None = None

    def __post_init__(self) -> None:
        _live[id(self)] = self

    def origin(self, otherwise: str) -> str:
        """What made its changes, as events call it."""
        return otherwise if self.mark is None else "ingest"

    def files(self) -> Iterator[str]:
        """The paths of the files that it may read again or commit, for as long as somebody holds it."""
        for table in list(self.pins.values()):
            yield from table.metadata_paths()
            for file in table.files():
                yield file.path
                yield from (delete.path for delete in file.deletes)
        for staged in list(self.writes.values()):
            yield from (file.path for file in staged.table.files())

    def load(self, wanted: TableName) -> Table:
        """The table as this transaction sees it.

        Raises:
            TableNotFound: It does not exist, or this transaction dropped it.
        """
        name = self.known(wanted)
        if name in self.writes:
            return self.writes[name].table
        if name in self.drops:
            raise TableNotFound(f"table {name} was dropped in this transaction")
        pinned = self.pins.get(name)
        if pinned is None:
            pinned = self.catalogs.load(wanted)
            self.pins[name] = pinned
            self.pins[pinned.name] = pinned
        return pinned

    def known(self, wanted: TableName) -> TableName:
        """The name under which this transaction knows a table, whatever the case it is written in."""
        schema, table = wanted.schema.lower(), wanted.table.lower()
        for names in (self.writes, self.drops, self.pins):
            for name in names:
                if (name.catalog, name.schema.lower(), name.table.lower()) == (wanted.catalog, schema, table):
                    return name
        return wanted

    def pinned(self, name: TableName) -> Table | None:
        """The version of a table that this transaction reads, if it has read any and not dropped it."""
        return None if name in self.drops else self.pins.get(name)

    def keep(self, staged: StagedWrite) -> None:
        """Make what was written part of the transaction.

        Raises:
            NotSupported: The transaction changed another table, and the two cannot be changed at once;
                what was written is discarded.
            StorageError: The transaction has read what may be older than it seems; likewise.
        """
        try:
            self.check_change(staged.target)
        except (NotSupported, StorageError):
            discard(self._catalog_of(staged.target), staged)
            raise
        self.writes[staged.target] = staged.after(self.writes.get(staged.target))

    def drop(self, name: TableName, *, if_exists: bool) -> None:
        """Drop a table when the transaction commits.

        Raises:
            TableNotFound: There is none, and ``if_exists`` is false.
            NotSupported: The transaction changed another table, and the two cannot be changed at once; or no
                table of the catalog can be changed.
        """
        try:
            known = self.load(name).name
        except TableNotFound:
            if if_exists:
                return
            raise
        self.check_change(known)
        catalog = writable(self._catalog_of(known))
        staged = self.writes.pop(known, None)
        if staged is not None:
            discard(catalog, staged)
        if catalog.table_exists(known.schema, known.table):
            self.drops[known] = None

    def commit(self) -> None:
        """Publish everything that is staged.

        Raises:
            CommitConflict: Another writer changed a table first; nothing is changed.
            CommitStateUnknown: It could not be found out whether anything is changed; all files are kept.
            TransactionStateError: The transaction has ended.
        """
        self._end()
        try:
            self._publish()
        except BaseException as error:
            self._end_temporary("ROLLBACK")
            if isinstance(error, CommitStateUnknown):
                self.writes.clear()
            raise
        else:
            self._end_temporary("COMMIT")
        finally:
            self._discard_rest()

    def _end_temporary(self, how: str) -> None:
        """End DuckDB's own transaction, if temporary tables were changed."""
        if self.cursor is not None:
            self.cursor.connection.execute(how).fetchall()

    def _publish(self) -> None:
        mark = self.mark
        writes = [replace(each, mark=mark and mark.of(each.target)) for each in self.writes.values()]
        drops = [name for name in self.drops if name not in self.writes]
        if len(writes) + len(drops) > 1:
            # All of one catalog, or they would not have been accepted.
            commit_together(self._catalog_of([*self.writes, *drops][0]), writes, drops, self._make_schemas)
        elif writes:
            commit(self._catalog_of(writes[0].target), writes[0], self._make_schemas)
        elif drops:
            catalog = self._catalog_of(drops[0])
            catalog.drop_table(drops[0].schema, drops[0].table, if_exists=True)
        self.writes.clear()

    def need_schema(self, catalog: str, schema: str) -> None:
        """Have a schema made where there is none, right before the tables in it are committed."""
        self.needed_schemas[catalog, fold(schema)] = schema

    def makes_schema(self, name: TableName) -> bool:
        """Whether the commit makes the schema of a table where there is none."""
        return (name.catalog, fold(name.schema)) in self.needed_schemas

    def _make_schemas(self) -> None:
        for (catalog, _), schema in self.needed_schemas.items():
            self.catalogs.of(catalog).create_schema(schema, if_not_exists=True)

    def rollback(self) -> None:
        """Undo everything; harmless when the transaction has ended."""
        if not self.open:
            return
        self._end()
        try:
            self._end_temporary("ROLLBACK")
            for catalog, schema in self.created_schemas:
                # Somebody else may have put tables into it, or dropped it.
                with suppress(SchemaNotFound, SchemaNotEmpty):
                    self.catalogs.of(catalog).drop_schema(schema, if_exists=True)
        finally:
            self._discard_rest()

    def check_change(self, name: TableName) -> None:
        """Refuse to change a table that could not be changed together with those changed already.

        Raises:
            NotSupported: It is in another catalog, or in one that changes one table at a time.
            StorageError: The transaction has read what may be older than it seems.
        """
        old = next((table for table in self.pins.values() if table.is_rescued), None)
        if old is not None:
            raise StorageError(
                f"the transaction has read table {old.name} while its bucket could not be asked, which may "
                "be an older version, so it can change nothing",
                "ROLLBACK, and try again when the bucket of the table can be reached",
            )
        others = {*self.writes, *self.drops} - {name}
        catalogs = {other.catalog for other in others} - {name.catalog}
        if catalogs:
            raise NotSupported(
                f"the transaction changes tables of catalog '{min(catalogs)}', so {name} of catalog "
                f"'{name.catalog}' cannot be changed in it: two catalogs cannot be changed at once",
                "COMMIT or ROLLBACK before the other catalog is changed",
            )
        if others:
            writable(self._catalog_of(name)).check_joint()

    def _catalog_of(self, name: TableName) -> Catalog:
        return self.catalogs.of(name.catalog)

    def _end(self) -> None:
        with self.lock:
            if not self.open:
                raise TransactionStateError(f"transaction {self.id} has ended")
            self.open = False

    def _discard_rest(self) -> None:
        for staged in self.writes.values():
            discard(self._catalog_of(staged.target), staged)
        self.writes.clear()
