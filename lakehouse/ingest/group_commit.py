"""Many small inserts, one commit: what comes while a commit of the table is under way goes together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from lakehouse.catalog import Catalog, Table
from lakehouse.catalog.change_events import Share
from lakehouse.catalog.commit import WriteMode, columns_changed, commit_or_discard, resolve, writable
from lakehouse.catalog.observer import RowSource, current_source
from lakehouse.ingest.conversion import Conversion
from lakehouse.ingest.writer import stage_for
from lakehouse.journal.change_event import Origin, current_origin
from lakehouse.storage import Uploads

_Key = tuple[str, int]


@dataclass(eq=False)
class _Addition:
    """The rows of one insert, and what became of them."""

    rows: pa.Table
    origin: Origin = field(default_factory=current_origin)
    sources: tuple[RowSource, ...] = field(default_factory=current_source)
    done: bool = False
    error: BaseException | None = None


@dataclass(eq=False)
class _Queue:
    """Additions to one table with one schema that wait; whoever holds the lock commits all of them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: list[_Addition] = field(default_factory=list)
    users: int = 0


class GroupCommit:
    """Adds rows to tables. Inserts that come while a commit is under way share the next one.

    Nobody waits for others to come: an insert that finds nothing under way is committed at once.

    Args:
        catalog: Where the tables are.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._queues: dict[_Key, _Queue] = {}

    def add(self, table: Table, rows: pa.Table) -> None:
        """Add rows to a table; when this returns they are stored for good.

        Args:
            table: The table as the insert saw it.
            rows: What is added, few enough to be held in memory; columns by the names of the table's.

        Raises:
            SchemaMismatch, TypeNotStorable: A value does not fit; nothing was stored.
            CommitConflict: The table's columns were changed meanwhile; nothing was stored.
            CommitStateUnknown: It could not be found out whether the rows were stored.
            LakehouseError: They could not be stored.
        """
        target = resolve(writable(self._catalog), table.name, WriteMode.APPEND, pa.schema, seen=table)
        conversion = Conversion(rows.schema, target.file_schema, str(table.name))
        converted = [conversion.batch(batch) for batch in rows.to_batches() if batch.num_rows]
        addition = _Addition(pa.Table.from_batches(converted, target.file_schema))
        key = (table.uuid, table.schema_id)
        queue = self._join(key, addition)
        try:
            with queue.lock:
                if not addition.done:
                    self._commit(table, self._take(queue))
        finally:
            self._leave(key, queue)
        if addition.error is not None:
            raise addition.error

    def _join(self, key: _Key, addition: _Addition) -> _Queue:
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            queue.users += 1
            queue.waiting.append(addition)
            return queue

    def _take(self, queue: _Queue) -> list[_Addition]:
        with self._lock:
            taken, queue.waiting = queue.waiting, []
            return taken

    def _leave(self, key: _Key, queue: _Queue) -> None:
        with self._lock:
            queue.users -= 1
            if not queue.users:
                del self._queues[key]

    def _commit(self, table: Table, additions: Sequence[_Addition]) -> None:
        error: BaseException | None = None
        try:
            self._store(table, additions)
        except BaseException as raised:  # noqa: BLE001 - everybody who shares the commit is told
            error = raised
        for addition in additions:
            addition.error, addition.done = error, True

    def _store(self, table: Table, additions: Sequence[_Addition]) -> None:
        rows = pa.concat_tables(addition.rows for addition in additions)
        lake = writable(self._catalog)
        seen = lake.load(table.name.schema, table.name.table)
        target = resolve(lake, table.name, WriteMode.APPEND, pa.schema, seen=seen)
        if (target.table.uuid, target.table.schema_id) != (table.uuid, table.schema_id):
            raise columns_changed(table.name)
        uploads = Uploads()
        staged = stage_for(lake, target, rows.schema, rows.to_batches(), lambda: False, uploads)
        shares = tuple(Share(addition.origin, addition.rows.num_rows) for addition in additions)
        sources = tuple(dict.fromkeys(source for addition in additions for source in addition.sources))
        commit_or_discard(lake, replace(staged, shares=shares, sources=sources), uploads)
