"""Reads the tables that indexes are made of out of the lake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

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
        name = source.table
        lake = self._engine.catalogs.of(name.catalog)
        lake.refresh(name.schema, name.table)
        table = lake.load(name.schema, name.table)
        if table.uuid != source.table_uuid:
            raise TableNotFound(
                f"table '{name}' is not the one any more that the vector index was made from",
                "build the index again",
            )
        wanted = [name for name in (source.column, *source.rows) if table.has_column(name)]

        def cancelled() -> bool:
            check()
            return False

        with self._reader.rows(table, table.files(), (), cancelled) as (schema, batches):
            fields = pa.schema([schema.field(column) for column in wanted])
            rows = pa.Table.from_batches((batch.select(wanted) for batch in batches), fields)
        return replace(source, snapshot_id=table.snapshot_id), rows
