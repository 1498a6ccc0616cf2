"""Record batches in, staged Parquet files out, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from lakehouse.catalog import Catalog, Table
from lakehouse.catalog.arrow_types import storable_schema
from lakehouse.catalog.commit import StagedWrite, Target, WriteMode, resolve, staged_write, writable
from lakehouse.catalog.table_alteration import Alteration
from lakehouse.catalog.table_definition import TableDefinition
from lakehouse.errors import InvalidRequest, StatementCancelled
from lakehouse.ingest.conversion import Conversion
from lakehouse.ingest.data_writer import FileWriter
from lakehouse.storage import Uploads
from lakehouse.types import TableName

# What a row group may take in memory before it is encoded; two of them are held at a time.
_GROUP_BYTES = 64 * 1024 * 1024


def stage(
    catalog: Catalog,
    target: TableName,
    mode: WriteMode,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    cancelled: Callable[[], bool],
    on: StagedWrite | None = None,
    seen: Table | None = None,
    definition: TableDefinition | None = None,
    alterations: Sequence[Alteration] = (),
    *,
    makes_schema: bool = False,
) -> StagedWrite:
    """Write rows as files that no table refers to yet, for ``commit`` or ``discard``.

    Takes memory for a few row groups, however many rows come. When anything goes wrong the files are removed
    before the error is raised.

    Args:
        catalog: Where the table is or will be.
        target: Its name, in any case.
        mode: What is to become of the table.
        schema: The columns that come.
        batches: The rows; read once, to the end. They must be valid: rows from the wire are
            checked where they arrive.
        cancelled: Asked between batches.
        on: What the same transaction staged for the table before; the result includes it.
        seen: The table as the same transaction has read it.
        definition: What a table that gets created or replaced is declared to be; its columns are storable.
        alterations: How the columns of a table change that gets rows, if ``on`` is None.
        makes_schema: Whether the commit makes the schema where there is none.

    Raises:
        SchemaNotFound, TableNotFound, TableAlreadyExists: The mode does not fit what is there.
        SchemaMismatch: The columns or values do not fit the table.
        TypeNotStorable: A column's type or values cannot be kept without loss.
        StatementCancelled: ``cancelled`` said so.
        StorageError: The files could not be written.
    """
    lake = writable(catalog)
    where = resolve(
        lake,
        target,
        mode,
        lambda: storable_schema(schema),
        on,
        seen,
        definition,
        alterations,
        makes_schema=makes_schema,
    )
    return stage_for(lake, where, schema, batches, cancelled)


def stage_for(
    catalog: Catalog,
    where: Target,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    cancelled: Callable[[], bool],
    uploads: Uploads | None = None,
) -> StagedWrite:
    """Write rows as files for what has been decided already. See ``stage``.

    With ``uploads`` the last of them may be on their way still; a commit has to wait for them.
    """
    lake = writable(catalog)
    conversion = Conversion(schema, where.file_schema, str(where.table.name))
    with FileWriter(lake, where, uploads) as writer:
        for group in _groups(_converted(batches, schema, conversion, cancelled), lake.limits.rows_per_group):
            writer.write(group)
        files = writer.finish()
    return staged_write(lake, where, files)


def _converted(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    conversion: Conversion,
    cancelled: Callable[[], bool],
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if cancelled():
            raise StatementCancelled("the write was cancelled; nothing was stored")
        if batch.schema.names != schema.names or batch.schema.types != schema.types:
            raise InvalidRequest(f"a batch has the columns {batch.schema.names}, expected {schema.names}")
        for part in _small(batch):
            yield from _small(conversion.batch(part))


def _small(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts that fit into a row group; a single row is never parted."""
    if batch.nbytes <= _GROUP_BYTES or batch.num_rows <= 1:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from _small(batch.slice(0, half))
    yield from _small(batch.slice(half))


def _groups(batches: Iterator[pa.RecordBatch], most_rows: int) -> Iterator[pa.Table]:
    """Row groups: as many rows as allowed, unless they take too much memory."""
    pending: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        rest = batch
        while rest.num_rows:
            if pending and size + rest.nbytes > _GROUP_BYTES:
                yield pa.Table.from_batches(pending)
                pending, rows, size = [], 0, 0
            part = rest.slice(0, most_rows - rows)
            rest = rest.slice(part.num_rows)
            pending.append(part)
            rows += part.num_rows
            size += part.nbytes
            if rows == most_rows:
                yield pa.Table.from_batches(pending)
                pending, rows, size = [], 0, 0
    if pending:
        yield pa.Table.from_batches(pending)
