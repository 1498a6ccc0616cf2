"""The journal of trials: what was measured, with which parameters, on what; an append log of the bucket."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.clock import Clock
from lakehouse.journal.event_table import EventTable
from lakehouse.storage import Bucket
from lakehouse.storage.append_log import AppendLog
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric, Storage

TRIALS_PREFIX = "_vectors/trials"
KIND = "trial"


@dataclass(frozen=True, slots=True, order=True)
class Build:
    """What an index has to be built with: one that is built can be searched with any effort."""

    storage: Storage
    m: int
    ef_construction: int

    def parameters(self, metric: Metric, ef_search: int) -> IndexParameters:
        """All parameters of an index."""
        return IndexParameters(metric, Algorithm.HNSW, self.storage, self.m, self.ef_construction, ef_search)


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured of an index with one effort of searching.

    Attributes:
        trial: Tells it from all others.
        build: The same for those that were measured on one index.
        index: The name of the index that it was made for.
        evaluation: The evaluation set.
        table_uuid: The table of the vectors.
        snapshot_id: The snapshot of it that was read.
        metric: How vectors are compared.
        storage: How their numbers are kept.
        m: Neighbours of a vector in the graph.
        ef_construction: The effort of building.
        ef_search: The effort of searching.
        k: How many neighbours were wanted.
        vectors: How many the index had.
        dimension: Of each.
        queries: How many the recall is of.
        way: How the index answered.
        recall: The share of the true neighbours that were found.
        recall_low: What the recall is above with a certainty of 95 %, as far as the choice of queries goes.
        p50_us: Of the latency of a query on one thread, in microseconds; 95th and 99th percentile likewise.
        cpu_us: Processor time of such a query.
        threads: How many callers searched at once.
        queries_per_second: How many searches these made.
        concurrent_p50_us: What each of them waited; 95th and 99th percentile likewise.
        exact_p50_us: The median of comparing every vector, on one thread in the same run.
        build_seconds: What building took.
        build_cpu_seconds: The processor time of building, on all threads.
        index_bytes: What the index takes in memory.
        created_by: Whose call it was.
    """

    trial: str
    build: str
    index: str
    evaluation: str
    table_uuid: str
    snapshot_id: int | None
    metric: str
    storage: str
    m: int
    ef_construction: int
    ef_search: int
    k: int
    vectors: int
    dimension: int
    queries: int
    way: str
    recall: float
    recall_low: float
    p50_us: float
    p95_us: float
    p99_us: float
    cpu_us: float
    threads: int
    queries_per_second: float
    concurrent_p50_us: float
    concurrent_p95_us: float
    concurrent_p99_us: float
    exact_p50_us: float
    build_seconds: float
    build_cpu_seconds: float
    index_bytes: int
    created_by: str

    @property
    def built(self) -> Build:
        """What its index was built with."""
        return Build(Storage(self.storage), self.m, self.ef_construction)

    @property
    def parameters(self) -> IndexParameters:
        """Its parameters, as those of an index."""
        return self.built.parameters(Metric(self.metric), self.ef_search)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """A row of the journal's table."""
        return cls(**{name: row[name] for name in cls.__slots__})


_TEXTS = ("trial", "build", "index", "evaluation", "table_uuid", "metric", "storage", "way", "created_by")
_WHOLE = (
    *("snapshot_id", "m", "ef_construction", "ef_search", "k", "vectors", "dimension", "queries"),
    *("threads", "index_bytes"),
)


def _kind(name: str) -> pa.DataType:
    return pa.string() if name in _TEXTS else pa.int64() if name in _WHOLE else pa.float64()


TRIALS_SCHEMA = pa.schema(
    [("time", pa.timestamp("us", tz="UTC")), *((name, _kind(name)) for name in Trial.__slots__)]
)
"""The columns of ``system.hnsw_trials``."""
_OF_EVENTS = [("kind", pa.string()), ("detail", pa.string()), ("writer", pa.string()), ("seq", pa.int64())]
_STORED = pa.schema([*TRIALS_SCHEMA, *(pa.field(*each) for each in _OF_EVENTS)])


class TrialJournal:
    """Keeps trials in the primary bucket, under ``_vectors/trials/``, of all servers.

    Args:
        bucket: The primary bucket.
        clock: Source of time.
    """

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._events = AppendLog(bucket, TRIALS_PREFIX, clock)
        self._table = EventTable(_STORED, TRIALS_PREFIX)

    def record(self, trial: Trial) -> None:
        """Keep a trial; it is durable when this returns.

        Raises:
            LakehouseError: Storage did not confirm it; it is tried again.
        """
        self._events.append({"kind": KIND, **asdict(trial)})
        self._events.flush()

    def table(self) -> pa.Table:
        """All trials, the oldest first, in the columns of ``TRIALS_SCHEMA``.

        Raises:
            StorageError: They cannot be read.
        """
        found = self._table.read(self._events)
        found = found.filter(pc.equal(found["kind"], KIND))
        return found.take(pc.sort_indices(found["time"])).select(TRIALS_SCHEMA.names)

    def of(self, index: str, evaluation: str = "", since: datetime | None = None) -> list[Trial]:
        """The trials of an index, the oldest first.

        Args:
            index: Its name.
            evaluation: Only those with this evaluation set.
            since: Only those of that time or later.

        Raises:
            StorageError: They cannot be read.
        """
        table = self.table()
        chosen = pc.equal(table["index"], index)
        if evaluation:
            chosen = pc.and_(chosen, pc.equal(table["evaluation"], evaluation))
        if since is not None:
            moment = pa.scalar(since, pa.timestamp("us", tz="UTC"))
            chosen = pc.and_(chosen, pc.greater_equal(table["time"], moment))
        return [Trial.of(row) for row in table.filter(chosen).to_pylist()]

    def close(self) -> None:
        """Make everything durable and stop."""
        self._events.close()
