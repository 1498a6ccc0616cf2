"""Record batches in, staged Parquet files out, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile

from lakehouse.catalog import Catalog
from lakehouse.catalog.commit import StagedWrite, Target, WriteMode, commit, discard, resolve, staged_write, writable
from lakehouse.catalog.data_files import data_file
from lakehouse.errors import StatementCancelled
from lakehouse.ingest.arrow_types import convert, storable_schema
from lakehouse.types import TableName

__all__ = ["StagedWrite", "WriteMode", "commit", "discard", "stage"]


def stage(
    into: Catalog,
    target: TableName,
    mode: WriteMode,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    cancelled: Callable[[], bool],
    on: StagedWrite | None = None,
) -> StagedWrite:
    """Write rows as files that no table refers to yet."""
    catalog = writable(into)
    where = resolve(catalog, target, mode, storable_schema(schema), on)
    layout = where.file_schema
    files: list[DataFile] = []
    uri = f"{where.table.metadata.location}/data/{catalog.clock.token()}.parquet"
    sink = catalog.bucket.open_writer(catalog.bucket.key_of(uri))
    rows = 0
    with sink, pq.ParquetWriter(sink, layout, compression="zstd", compression_level=1, store_schema=False, store_decimal_as_integer=True) as writer:
        for batch in batches:
            if cancelled():
                raise StatementCancelled("cancelled")
            rows += batch.num_rows
            columns = [convert(batch.column(i), field.type, field.name) for i, field in enumerate(layout)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=layout))
    if rows:
        files.append(data_file(uri, sink.size_bytes, writer.writer.metadata, where.schema, where.table.metadata.properties, where.table.metadata.default_spec_id))
    return staged_write(catalog, where, files)
