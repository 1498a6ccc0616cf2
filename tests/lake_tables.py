"""Tables for tests, written without SQL."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lakehouse.catalog import Table
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName


def put(
    lakehouse: Lakehouse,
    table: str,
    rows: pa.Table | dict[str, Any],
    mode: WriteMode = WriteMode.CREATE_APPEND,
) -> Table:
    data = rows if isinstance(rows, pa.Table) else pa.table(rows)
    name = TableName("lake", "main", table)
    commit(
        lakehouse.catalog, stage(lakehouse.catalog, name, mode, data.schema, data.to_batches(), lambda: False)
    )
    return lakehouse.catalog.load("main", table)
