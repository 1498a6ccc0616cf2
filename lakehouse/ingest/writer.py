"""Record batches in, staged Parquet files out, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.catalog import Catalog, IcebergCatalog, Table
from lakehouse.catalog.commit import StagedWrite, Target, WriteMode, resolve, staged_write, writable
from lakehouse.catalog.data_files import DataFile, data_file
from lakehouse.errors import InvalidRequest, LakehouseError, StatementCancelled, StorageError
from lakehouse.ingest.arrow_types import storable_schema
from lakehouse.ingest.conversion import Conversion
from lakehouse.ingest.encodings import choose_encodings
from lakehouse.storage import ObjectWriter
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

    Raises:
        SchemaNotFound, TableNotFound, TableAlreadyExists: The mode does not fit what is there.
        SchemaMismatch: The columns or values do not fit the table.
        TypeNotStorable: A column's type or values cannot be kept without loss.
        StatementCancelled: ``cancelled`` said so.
        StorageError: The files could not be written.
    """
    lake = writable(catalog)
    where = resolve(lake, target, mode, lambda: storable_schema(schema), on, seen)
    return stage_for(lake, where, schema, batches, cancelled)


def stage_for(
    catalog: Catalog,
    where: Target,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    cancelled: Callable[[], bool],
) -> StagedWrite:
    """Write rows as files for what has been decided already. See ``stage``."""
    lake = writable(catalog)
    conversion = Conversion(schema, where.file_schema, str(where.table.name))
    with _FileWriter(lake, where) as writer:
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


class _FileWriter:
    """Parquet files of a target size. One row group is encoded while the next is put together."""

    def __init__(self, catalog: IcebergCatalog, target: Target) -> None:
        self._catalog = catalog
        self._target = target
        self._layout = target.file_schema
        self._prefix = f"{target.table.metadata.location}/data/{catalog.clock.token()}"
        self._files: list[DataFile] = []
        self._keys: list[str] = []
        self._sink: ObjectWriter | None = None
        self._writer: pq.ParquetWriter | None = None
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._encoding: Future[None] | None = None

    def write(self, group: pa.Table) -> None:
        """Add a row group. An error in writing the one before is raised here."""
        self._wait()
        self._encoding = self._encoder.submit(self._encode, group)

    def finish(self) -> list[DataFile]:
        """Complete the last file, and give the records of all."""
        self._wait()
        self._close_file()
        return self._files

    def _wait(self) -> None:
        encoding, self._encoding = self._encoding, None
        if encoding is not None:
            encoding.result()

    def _encode(self, group: pa.Table) -> None:
        sink, writer = self._open_file(group)
        writer.write_table(group, row_group_size=group.num_rows)
        if sink.size_bytes >= (self._target.file_bytes or self._catalog.limits.target_bytes):
            self._close_file()

    def _open_file(self, first: pa.Table) -> tuple[ObjectWriter, pq.ParquetWriter]:
        if self._sink is None or self._writer is None:
            key = self._catalog.bucket.key_of(f"{self._prefix}-{len(self._keys):05d}.parquet")
            self._keys.append(key)
            encodings = choose_encodings(first)
            self._sink = self._catalog.bucket.open_writer(key)
            self._writer = pq.ParquetWriter(
                self._sink,
                self._layout,
                compression="zstd",
                compression_level=1,
                use_dictionary=encodings.dictionary,
                column_encoding=encodings.others,
                store_schema=False,
                # As the Iceberg specification wants it: up to 18 digits as integers.
                store_decimal_as_integer=True,
            )
        return self._sink, self._writer

    def _close_file(self) -> None:
        sink, writer = self._sink, self._writer
        if sink is None or writer is None:
            return
        writer.close()
        sink.close()
        self._sink = self._writer = None
        uri = self._catalog.bucket.uri_of(sink.key)
        spec_id = self._target.table.metadata.default_spec_id
        self._files.append(
            data_file(uri, sink.size_bytes, writer.writer.metadata, self._target.schema, spec_id)
        )

    def _abandon(self) -> None:
        sink, writer = self._sink, self._writer
        if sink is not None:
            with contextlib.suppress(LakehouseError):
                sink.abort()
        if writer is not None:
            with contextlib.suppress(pa.ArrowException, OSError):
                writer.close()
        for key in self._keys:
            with contextlib.suppress(StorageError):
                self._catalog.bucket.delete(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.shutdown()
        if kind is not None:
            self._abandon()
