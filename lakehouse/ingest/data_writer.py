"""Rows into Parquet files of a target size, laid out as their table wants them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.catalog import IcebergCatalog
from lakehouse.catalog.commit import Target
from lakehouse.catalog.data_files import DataFile, data_file
from lakehouse.catalog.partitioning import UNPARTITIONED, Layout, Partition
from lakehouse.errors import LakehouseError, StorageError
from lakehouse.ingest.clustering import Clustering
from lakehouse.ingest.encodings import choose_encodings
from lakehouse.storage import ObjectWriter, Uploads

# Of what a writer stores while it goes on, parts may be in memory. Files of partitions may be many and small.
_STORED_AT_ONCE = 2


class FileWriter:
    """Writes the files of one target. One row group is encoded while the next is put together.

    Used in a ``with``: leaving it by an error removes every file.

    Args:
        catalog: Where the table is.
        target: What is written for.
        uploads: Where files that are complete are stored while the writer goes on, and after it has finished;
            left out, all are stored when it has.
    """

    def __init__(self, catalog: IcebergCatalog, target: Target, uploads: Uploads | None = None) -> None:
        metadata = target.table.metadata
        self._layout = Layout(metadata, str(target.table.name))
        self._files = _Files(catalog, target, self._layout, uploads)
        self._open: OpenFile | None = None
        self._clustering = (
            None
            if self._layout.is_plain
            else Clustering(self._layout, self._files.open, target.file_schema, catalog.limits)
        )
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._encoding: Future[None] | None = None

    def write(self, group: pa.Table) -> None:
        """Add a row group. An error in writing the one before is raised here."""
        self._wait()
        self._encoding = self._encoder.submit(self._encode, group)

    def finish(self) -> list[DataFile]:
        """Complete the last file, and give the records of all."""
        self._wait()
        if self._clustering is not None:
            self._clustering.finish()
        if self._open is not None:
            self._open.close()
        self._files.settle()
        return self._files.written

    def _wait(self) -> None:
        encoding, self._encoding = self._encoding, None
        if encoding is not None:
            encoding.result()

    def _encode(self, group: pa.Table) -> None:
        if self._clustering is not None:
            self._clustering.add(group)
            return
        if self._open is None:
            self._open = self._files.open(UNPARTITIONED, group)
        self._open.write(group)
        if self._open.is_full:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.shutdown()
        if self._clustering is not None:
            self._clustering.close()
        if kind is not None:
            self._files.abandon()


class _Files:
    """The files of one write: those that are open, and the records of those that are complete."""

    def __init__(
        self, catalog: IcebergCatalog, target: Target, layout: Layout, uploads: Uploads | None
    ) -> None:
        self.catalog = catalog
        self.target = target
        self.layout = layout
        self._uploads = Uploads() if uploads is None else uploads
        self._settles = uploads is None
        self._storing = 0
        self.schema = target.file_schema
        self.written: list[DataFile] = []
        self.open_files: set[OpenFile] = set()
        self._token = catalog.clock.token()
        self._keys: list[str] = []

    def open(self, partition: Partition, first: pa.Table) -> OpenFile:
        """A new file for rows of a partition, which is going to begin with these."""
        name = f"{partition.path}{self._token}-{len(self._keys):05d}.parquet"
        key = self.catalog.bucket.key_of(f"{self.target.table.metadata.location}/data/{name}")
        self._keys.append(key)
        opened = OpenFile(self, partition, self.catalog.bucket.open_writer(key), first)
        self.open_files.add(opened)
        return opened

    def store(self, sink: ObjectWriter) -> None:
        """Complete an object while the next file is encoded: to wait for the disk or the store takes long."""
        if self._settles and not self.layout.is_plain:
            sink.close()
            return
        if self._settles and self._storing == _STORED_AT_ONCE:
            self.settle()
        self._uploads.start(sink.close)
        self._storing += 1

    def settle(self) -> None:
        """Wait until all files are stored, unless that is done by whom the uploads belong to."""
        if self._settles:
            self._uploads.settle()
            self._storing = 0

    def abandon(self) -> None:
        self._uploads.abandon()
        for file in self.open_files:
            file.abort()
        for key in self._keys:
            with contextlib.suppress(StorageError):
                self.catalog.bucket.delete(key)


class OpenFile:
    """A Parquet file that rows are being written to."""

    def __init__(self, files: _Files, partition: Partition, sink: ObjectWriter, first: pa.Table) -> None:
        self._files = files
        self._partition = partition
        self._sink = sink
        self._sorted_parts = 0
        encodings = choose_encodings(first)
        self._writer = pq.ParquetWriter(
            sink,
            files.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=encodings.dictionary,
            column_encoding=encodings.others,
            store_schema=False,
            # As the Iceberg specification wants it: up to 18 digits as integers.
            store_decimal_as_integer=True,
        )

    @property
    def is_full(self) -> bool:
        """Whether the file has reached its target size."""
        files = self._files
        return self._sink.size_bytes >= (files.target.file_bytes or files.catalog.limits.target_bytes)

    def write(self, rows: pa.Table) -> None:
        """Add rows, in the order that the table wants, as row groups."""
        most = self._files.catalog.limits.rows_per_group
        self._sorted_parts += 1
        for part in _parts(rows, most):
            self._writer.write_table(part, row_group_size=part.num_rows)

    def close(self) -> None:
        """Complete the file."""
        files, target = self._files, self._files.target
        self._writer.close()
        files.store(self._sink)
        files.open_files.discard(self)
        files.written.append(
            data_file(
                files.catalog.bucket.uri_of(self._sink.key),
                self._sink.size_bytes,
                self._writer.writer.metadata,
                target.schema,
                files.layout.spec_id,
                self._partition.record,
                # Several sorted parts are not sorted together.
                files.layout.sort_order_id if self._sorted_parts == 1 else None,
            )
        )

    def abort(self) -> None:
        """Forget what was written."""
        with contextlib.suppress(LakehouseError):
            self._sink.abort()
        with contextlib.suppress(pa.ArrowException, OSError):
            self._writer.close()


def _parts(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, most):
        yield rows.slice(start, most)
