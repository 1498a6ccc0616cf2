"""The vectors of tables as they were in a snapshot: read once, kept in memory for whoever tries them next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from lakehouse.errors import InvalidRequest, SnapshotNotFound
from lakehouse.vectors.faiss_index import Vectors
from lakehouse.vectors.generation import VectorColumn
from lakehouse.vectors.trials.evaluation import Evaluation, digest_of
from lakehouse.vectors.trials.vector_cache import BoundedCache, CacheStatistics
from lakehouse.vectors.vector_rows import split


class SnapshotSource(Protocol):
    """Reads tables as they were in a snapshot."""

    def snapshot_of(self, source: VectorColumn) -> int | None:
        """The snapshot that a table shows now; None where it has none.

        Raises:
            TableNotFound: There is no such table any more, or another one of that name.
        """
        ...

    def read_at(
        self, source: VectorColumn, snapshot_id: int | None, check: Callable[[], None]
    ) -> tuple[VectorColumn, pa.Table]:
        """All rows of a table as it was in a snapshot; with None as it is.

        Raises:
            SnapshotNotFound: The snapshot has been expired.
            LakehouseError: It cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TableVectors:
    """The vectors of a table in a snapshot, in the order in which they are read.

    Attributes:
        vectors: Float32, one row for each; not to be changed.
        snapshot_id: The snapshot; None where the table had none.
        sha256: Of the vectors.
    """

    vectors: Vectors
    snapshot_id: int | None
    sha256: str


class SnapshotVectors:
    """The vectors of tables in their snapshots. Safe to use from several threads.

    Args:
        source: Reads the tables.
        cache_bytes: How much is kept in memory.
    """

    def __init__(self, source: SnapshotSource, cache_bytes: int) -> None:
        self._source = source
        self._cache: BoundedCache[TableVectors] = BoundedCache(
            cache_bytes, lambda found: found.vectors.nbytes
        )

    def read(self, source: VectorColumn, snapshot_id: int | None, check: Callable[[], None]) -> TableVectors:
        """The vectors of a table, in a snapshot or as it is now.

        Raises:
            LakehouseError: They cannot be read.
        """
        snapshot_id = self._source.snapshot_of(source) if snapshot_id is None else snapshot_id
        wanted = VectorColumn(source.table, source.table_uuid, source.column, ())

        def read() -> TableVectors:
            _, table = self._source.read_at(wanted, snapshot_id, check)
            _, vectors = split(table, wanted)
            vectors.flags.writeable = False
            return TableVectors(vectors, snapshot_id, digest_of(vectors, check))

        # A table without snapshots has no rows, and another first snapshot soon.
        key = (source.table_uuid, snapshot_id, source.column)
        return read() if snapshot_id is None else self._cache.get(key, read, check)

    def of(self, evaluation: Evaluation, check: Callable[[], None]) -> TableVectors:
        """The vectors that an evaluation set was made of.

        Raises:
            InvalidRequest: They are not to be had any more.
        """
        source = VectorColumn(
            evaluation.table, evaluation.table_uuid, evaluation.column, (), evaluation.snapshot_id
        )
        try:
            found = self.read(source, evaluation.snapshot_id, check)
        except SnapshotNotFound:
            raise InvalidRequest(
                f"the snapshot of '{evaluation.table}' that the evaluation set '{evaluation.id}' is of has "
                "been expired",
                "hnsw.evals.autogen makes another one",
            ) from None
        if found.sha256 != evaluation.vectors_sha256:
            raise InvalidRequest(
                f"the vectors of '{evaluation.table}' are not those that the evaluation set "
                f"'{evaluation.id}' was made of",
                "hnsw.evals.autogen makes another one",
            )
        return found

    def texts_beside(
        self, found: TableVectors, source: VectorColumn, column: str, check: Callable[[], None]
    ) -> list[str | None]:
        """The texts of a column beside vectors that were read of the same table.

        Raises:
            InvalidRequest: The table is not what it was when they were read.
            LakehouseError: They cannot be read.
        """
        wanted = VectorColumn(source.table, source.table_uuid, source.column, (column,))
        _, table = self._source.read_at(wanted, found.snapshot_id, check)
        rows, vectors = split(table, wanted)
        if digest_of(vectors, check) != found.sha256:
            raise InvalidRequest(f"'{source.table}' was changed meanwhile", "try again")
        return [None if text is None else str(text) for text in rows[column].to_pylist()]

    def statistics(self) -> CacheStatistics:
        """What is in memory, and how often it was of use."""
        return self._cache.statistics()
