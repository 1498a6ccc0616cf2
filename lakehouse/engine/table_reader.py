"""The rows of some files of a table, for what reads them on nobody's behalf."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from lakehouse.catalog import Table
from lakehouse.catalog.table import SortColumn
from lakehouse.engine.binding import has_deletes
from lakehouse.engine.database import CursorState
from lakehouse.engine.engine import Engine
from lakehouse.engine.result import rows_per_batch
from lakehouse.engine.running import CallWatch
from lakehouse.types import DataFileRef, quote

_SAMPLED_FILES = 8


class TableReader:
    """Reads files with the engine, in bounded memory: as a stream, sorted by way of the disk where need be.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def rows(
        self,
        table: Table,
        files: Sequence[DataFileRef],
        order: Sequence[SortColumn],
        cancelled: Callable[[], bool],
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Columns and rows of some files, in the columns of the table as it is, for the length of a ``with``.

        Deleted rows are left out.

        Args:
            table: The table.
            files: Files of it.
            order: What to sort by.
            cancelled: Asked from time to time.

        Raises:
            LakehouseError: They could not be read, or ``cancelled`` said so.
        """
        engine = self._engine
        settings = engine.settings
        state = CursorState(engine.catalogs.default.name, settings.catalog.default_schema)
        cursor = engine.database.acquire(state)
        try:
            connection = cursor.connection
            watch = CallWatch(cancelled)
            with engine.running.planning(watch, "", cursor.interrupt), engine.errors():
                binder = engine.binder
                view, variable = binder.view(table, slot=1, merges=has_deletes(files))
                key, empty = (
                    (table.uuid, "files", hash(tuple(files))),
                    binder.empty_file(table, table.schema_id),
                )
                cursor.bind(binder.file_bindings(variable, key, files, empty), engine.database.empty_file)
                sql = f"SELECT * FROM {view}" + (
                    f" ORDER BY {', '.join(map(_order, order))}" if order else ""
                )
                size = rows_per_batch(table.arrow_schema(), settings.engine.batch_bytes)
                reader = connection.sql(sql).to_arrow_reader(size)
                try:
                    yield reader.schema, iter(reader)
                finally:
                    reader.close()
        finally:
            engine.database.release(cursor)

    def count(self, table: Table, file: DataFileRef, cancelled: Callable[[], bool]) -> int:
        """How many rows a file has; every value of it is read.

        Args:
            table: The table.
            file: One of its files.
            cancelled: Asked from time to time.

        Raises:
            LakehouseError: It cannot be read, or ``cancelled`` said so.
        """
        with self.rows(table, (file,), (), cancelled) as (_, batches), self._engine.errors():
            return sum(batch.num_rows for batch in batches)

    def sample(self, table: Table, rows: int, cancelled: Callable[[], bool]) -> pa.Table:
        """Some rows of a table as it is, of a small one among its oldest and its newest files each.

        Args:
            table: The table.
            rows: How many at most.
            cancelled: Asked from time to time.

        Raises:
            LakehouseError: They could not be read, or ``cancelled`` said so.
        """
        files = table.files()
        # A file of a bucket elsewhere is fetched as a whole.
        ends = (files[:_SAMPLED_FILES], files[_SAMPLED_FILES:][-_SAMPLED_FILES:])
        chosen = [min(end, key=lambda file: file.size_bytes) for end in ends if end]
        parts: list[pa.RecordBatch] = []
        for file in chosen:
            wanted = -(-rows // len(chosen))
            with self.rows(table, (file,), (), cancelled) as (_, batches):
                for batch in batches:
                    parts.append(batch.slice(0, wanted))
                    wanted -= parts[-1].num_rows
                    if wanted <= 0:
                        break
        return pa.Table.from_batches(parts) if parts else table.arrow_schema().empty_table()


def _order(by: SortColumn) -> str:
    direction = "DESC" if by.descending else "ASC"
    return f"{quote(by.column)} {direction} NULLS {'FIRST' if by.nulls_first else 'LAST'}"
