"""Reads the tables that indexes are made of out of the lake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from lakehouse.catalog import Table
from lakehouse.engine.engine import Engine
from lakehouse.engine.table_reader import TableReader
from lakehouse.errors import TableNotFound
from lakehouse.vectors.generation import VectorColumn


class LakeSource:
    """The tables of the lake, read on nobody's behalf: who may build an index is checked by others.

    Args:
        engine: Reads them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = TableReader(engine)

    def read(self, source: VectorColumn, check: Callable[[], None]) -> tuple[VectorColumn, pa.Table]:
        """All rows of a table as it is, in the columns that are wanted, and which snapshot that is.

        Raises:
            TableNotFound: There is no such table any more, or another one of that name.
            LakehouseError: It cannot be read.
        """
        return self._read(source, check, None)

    def snapshot_of(self, source: VectorColumn) -> int | None:
        """The snapshot that a table shows now; None where it has none.

        Raises:
            TableNotFound: There is no such table any more, or another one of that name.
        """
        return self._table(source).snapshot_id

    def read_at(
        self, source: VectorColumn, snapshot_id: int | None, check: Callable[[], None]
    ) -> tuple[VectorColumn, pa.Table]:
        """All rows of a table as it was in a snapshot, as ``read`` gives them.

        Args:
            source: The table, and what of it is wanted.
            snapshot_id: The snapshot; None stands for the present one.
            check: Raises where the reading shall stop.

        Raises:
            TableNotFound: There is no such table any more, or another one of that name.
            SnapshotNotFound: The snapshot has been expired.
            LakehouseError: It cannot be read.
        """
        return self._read(source, check, snapshot_id)

    def _read(
        self, source: VectorColumn, check: Callable[[], None], snapshot_id: int | None
    ) -> tuple[VectorColumn, pa.Table]:
        table = self._table(source)
        wanted = [name for name in (source.column, *source.rows) if table.has_column(name)]

        if snapshot_id is not None:
            table.snapshot_for(snapshot_id)
        files = table.files(snapshot_id)

        def cancelled() -> bool:
            check()
            return False

        with self._reader.rows(table, files, (), cancelled) as (schema, batches):
            fields = pa.schema([schema.field(column) for column in wanted])
            rows = pa.Table.from_batches((batch.select(wanted) for batch in batches), fields)
        seen = table.snapshot_id if snapshot_id is None else snapshot_id
        return replace(source, snapshot_id=seen), rows

    def _table(self, source: VectorColumn) -> Table:
        name = source.table
        lake = self._engine.catalogs.of(name.catalog)
        lake.refresh(name.schema, name.table)
        table = lake.load(name.schema, name.table)
        if table.uuid != source.table_uuid:
            raise TableNotFound(
                f"table '{name}' is not the one any more that the vector index was made from",
                "build the index again",
            )
        return table
