"""Rows that come in any order, gathered by partition in bounded memory.

What comes is held in memory until a partition has enough for a row group, which is then written to the
partition's own file. Only so many files are open. What does not find a place goes to a temporary file, each
partition's rows on their own, and from there into data files at the end, one partition after another. So a
write to thousands of partitions makes as many files as one that comes in order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Protocol

import pyarrow as pa

from lakehouse.catalog.iceberg_catalog import FileLimits
from lakehouse.catalog.partitioning import Layout, Partition
from lakehouse.errors import StorageError

# What all rows that are held take at most, and how much of them are written in one go.
_HELD_BYTES = 128 * 1024 * 1024
_PART_BYTES = 64 * 1024 * 1024
# A partition with less than that is not worth a row group while more of it may come.
_LEAST_BYTES = 8 * 1024 * 1024
_OPEN_FILES = 16
# After so many portions without a row of its partition, a file is closed where another needs its place.
_IDLE_ROUNDS = 2


class Sink(Protocol):
    """A data file that is open."""

    @property
    def is_full(self) -> bool:
        """Whether the file has reached its target size."""

    def write(self, rows: pa.Table) -> None:
        """Add rows."""

    def close(self) -> None:
        """Complete the file."""


@dataclass(frozen=True, slots=True)
class _Spilled:
    """Rows in the temporary file."""

    number: int
    size: int


@dataclass(eq=False)
class _Rows:
    """What there is of one partition that is not in a data file yet."""

    partition: Partition
    held: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    spilled: list[_Spilled] = field(default_factory=list)
    file: Sink | None = None
    last_seen: int = 0


class Clustering:
    """Gathers rows by partition and writes them to files, sorted as the table wants.

    Args:
        layout: How the table's rows are laid out.
        open_file: Opens a data file for rows of a partition, given the first of them.
        schema: The columns.
        limits: How large row groups become, and where the temporary file may be.
    """

    def __init__(
        self,
        layout: Layout,
        open_file: Callable[[Partition, pa.Table], Sink],
        schema: pa.Schema,
        limits: FileLimits,
    ) -> None:
        self._layout = layout
        self._open_file = open_file
        self._schema = schema
        self._limits = limits
        # What is to be sorted is written in larger parts than row groups, each of them sorted.
        self._enough_rows = limits.rows_per_group if layout.sort_order_id is None else None
        self._partitions: dict[tuple[object, ...], _Rows] = {}
        self._open: set[_Rows] = set()
        self._held = 0
        self._round = 0
        self._pending: list[pa.Table] = []
        self._pending_size = 0
        self._spill: _Spill | None = None

    def add(self, rows: pa.Table) -> None:
        """Take rows of any partitions."""
        self._pending.append(rows)
        self._pending_size += rows.nbytes
        if self._pending_size >= _PART_BYTES:
            self._distribute()

    def _distribute(self) -> None:
        """Give each partition its rows of what came. In large portions, for that costs time per partition."""
        rows = pa.concat_tables(self._pending)
        self._pending, self._pending_size = [], 0
        self._round += 1
        for partition, part in self._layout.split(rows):
            found = self._partitions.setdefault(partition.key, _Rows(partition))
            found.held.append(part)
            found.rows += part.num_rows
            found.size += part.nbytes
            found.last_seen = self._round
            self._held += part.nbytes
            if self._is_enough(found) and self._finds_place(found):
                self._write(found)
        while self._held > _HELD_BYTES:
            self._make_room()

    def finish(self) -> None:
        """Write what is left. Rows of a partition that was spilled follow each other in its files."""
        if self._pending:
            self._distribute()
        for key in list(self._partitions):
            rows = self._partitions.pop(key)
            for part in self._remaining(rows):
                self._append(rows, part)
            self._close_file(rows)

    def close(self) -> None:
        """Remove the temporary file."""
        if self._spill is not None:
            self._spill.close()

    def _is_enough(self, rows: _Rows) -> bool:
        if rows.size >= _PART_BYTES:
            return True
        return self._enough_rows is not None and rows.rows >= self._enough_rows

    def _finds_place(self, rows: _Rows) -> bool:
        if rows.file is not None or len(self._open) < _OPEN_FILES:
            return True
        idle = min(self._open, key=lambda other: other.last_seen)
        if idle.last_seen + _IDLE_ROUNDS > self._round:
            return False
        self._write(idle)
        self._close_file(idle)
        return True

    def _make_room(self) -> None:
        largest = max(self._partitions.values(), key=lambda rows: rows.size)
        if largest.size >= _LEAST_BYTES and self._finds_place(largest):
            self._write(largest)
            return
        if self._spill is None:
            self._spill = _Spill(self._limits.spill_directory, self._schema)
        for rows in self._partitions.values():
            if rows.held:
                rows.spilled.append(self._spill.put(self._take(rows)))

    def _take(self, rows: _Rows) -> pa.Table:
        taken = pa.concat_tables(rows.held)
        self._held -= rows.size
        rows.held, rows.rows, rows.size = [], 0, 0
        return taken

    def _write(self, rows: _Rows) -> None:
        if rows.held:
            self._append(rows, self._take(rows))

    def _append(self, rows: _Rows, part: pa.Table) -> None:
        ordered = self._layout.in_order(part)
        if rows.file is None:
            rows.file = self._open_file(rows.partition, ordered)
            self._open.add(rows)
        rows.file.write(ordered)
        if rows.file.is_full:
            self._close_file(rows)

    def _close_file(self, rows: _Rows) -> None:
        file, rows.file = rows.file, None
        self._open.discard(rows)
        if file is not None:
            file.close()

    def _remaining(self, rows: _Rows) -> Iterator[pa.Table]:
        """The rows of a partition that are in no file, as they came, in parts that memory has room for."""
        pending: list[pa.Table] = []
        size = 0
        for spilled in rows.spilled:
            if pending and size + spilled.size > _PART_BYTES:
                yield pa.concat_tables(pending)
                pending, size = [], 0
            if self._spill is None:
                raise AssertionError("rows were spilled to nowhere")
            pending.append(self._spill.get(spilled))
            size += spilled.size
        if rows.held:
            if pending and size + rows.size > _PART_BYTES:
                yield pa.concat_tables(pending)
                pending = []
            pending.append(self._take(rows))
        if pending:
            yield pa.concat_tables(pending)


class _Spill:
    """A temporary file that nobody else can see, and that is gone with the process. Written, then read."""

    def __init__(self, directory: str, schema: pa.Schema) -> None:
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._count = 0
        with _spill_errors():
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory or None)  # noqa: SIM115
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(self._file, schema, options=options)

    def put(self, rows: pa.Table) -> _Spilled:
        """Keep rows."""
        (batch,) = rows.combine_chunks().to_batches()
        with _spill_errors():
            self._writer.write_batch(batch)
        self._count += 1
        return _Spilled(self._count - 1, batch.nbytes)

    def get(self, spilled: _Spilled) -> pa.Table:
        """The rows again; after the first call none can be put any more."""
        with _spill_errors():
            if self._reader is None:
                self._writer.close()
                self._reader = pa.ipc.open_file(self._file)
            return pa.Table.from_batches([self._reader.get_batch(spilled.number)])

    def close(self) -> None:
        self._file.close()


@contextmanager
def _spill_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the rows of a write could not be kept on disk to be put in order: {error.strerror}",
            "make room on the disk of engine.spill_directory",
        ) from error
