"""What a search costs and finds: recall against exact search, latency of one caller and of several."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from lakehouse.vectors.faiss_index import VectorIndex, Vectors, Way, build_threads
from lakehouse.vectors.parameters import Metric
from lakehouse.vectors.trials.evaluation import EvaluationSet

_BATCH = 64
_PASS_SECONDS = 1.0
_LEAST_CALLS, _ENOUGH_CALLS = 20, 1000
_TOGETHER_SECONDS = 0.3
_CHECKED_SECONDS = 0.05
# Two ways of adding up the same numbers differ by that much.
_TOLERANCE = 1e-5
_ONE_SIDED_95 = 1.645
MOST_THREADS = 64


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of searches of one query each, in microseconds."""

    p50_us: float
    p95_us: float
    p99_us: float

    @classmethod
    def of(cls, times_ns: list[int]) -> Latency:
        """The percentiles of some times."""
        p50, p95, p99 = np.percentile(times_ns, (50, 95, 99)) / 1000
        return cls(round(float(p50), 1), round(float(p95), 1), round(float(p99), 1))


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one index with one effort of searching.

    Attributes:
        recall: The share of the true neighbours that were found.
        recall_low: What the recall of all queries of that kind is above, with a certainty of 95 %.
        way: How the index answered.
        alone: Of one caller on one thread.
        cpu_us: Processor time of one of these searches.
        threads: How many callers searched at once.
        together: What each of these waited.
        queries_per_second: All that they made.
    """

    recall: float
    recall_low: float
    way: Way
    alone: Latency
    cpu_us: float
    threads: int
    together: Latency
    queries_per_second: float


class Measuring:
    """Measures indexes of the same vectors with the same queries.

    Args:
        wanted: The queries, and what is to be found.
        vectors: All vectors of the table.
        kept: The positions of those among them that the indexes have, in their order.
        check: Raises where the work shall stop.
    """

    def __init__(
        self,
        wanted: EvaluationSet,
        vectors: Vectors,
        kept: NDArray[np.int64],
        check: Callable[[], None],
    ) -> None:
        self._wanted = wanted
        self._vectors = vectors
        self._kept = kept
        self._check = check

    def measure(self, index: VectorIndex, ef: int, threads: int) -> Measured:
        """How an index does with an effort of searching.

        Args:
            index: The index.
            ef: Candidates that are looked at.
            threads: How many search at once in the second part; 0 for as many as there are cores.
        """
        recall, low, way = self.recall(index, ef)
        alone, cpu_us = self.alone(index, ef, _PASS_SECONDS)
        several = min(threads or os.cpu_count() or 1, MOST_THREADS)
        together, rate = self._together(index, ef, several)
        return Measured(recall, low, way, alone, cpu_us, several, together, rate)

    def recall(self, index: VectorIndex, ef: int) -> tuple[float, float, Way]:
        """The recall, its lower bound, and the way of searching.

        What is as near as the last of the true neighbours counts as one of them: of vectors that are the
        same nobody can say which should have been found.
        """
        wanted = self._wanted
        metric, k = wanted.evaluation.metric, wanted.evaluation.k
        shares: list[NDArray[np.float64]] = []
        way = Way.EXACT
        for start in range(0, len(wanted.queries), _BATCH):
            self._check()
            queries = wanted.queries[start : start + _BATCH]
            found = index.search(queries, k, ef=ef)
            way = found.way
            true = scores(queries, self._vectors, self._kept[found.positions], metric)
            worst = wanted.worst[start : start + _BATCH, None]
            tolerance = _TOLERANCE * np.maximum(1, np.abs(worst))
            hits = true >= worst - tolerance if metric.greater_is_closer else true <= worst + tolerance
            shares.append(hits.sum(axis=1) / k)
        each = np.concatenate(shares)
        error = float(each.std()) / sqrt(len(each))
        recall = float(each.mean())
        return round(recall, 6), round(max(0.0, recall - _ONE_SIDED_95 * error), 6), way

    def alone(self, index: VectorIndex, ef: int | None, seconds: float) -> tuple[Latency, float]:
        """What one caller waits on one thread, and the processor time of a search in microseconds."""
        queries, k = self._wanted.queries, self._wanted.evaluation.k
        times: list[int] = []
        with build_threads(1):
            index.search(queries[0], k, ef=ef)
            began_s = checked_s = time.monotonic()
            cpu_ns = time.thread_time_ns()
            while len(times) < _ENOUGH_CALLS:
                query = queries[len(times) % len(queries)]
                begun = time.perf_counter_ns()
                index.search(query, k, ef=ef)
                times.append(time.perf_counter_ns() - begun)
                now = time.monotonic()
                if now - checked_s > _CHECKED_SECONDS:
                    self._check()
                    checked_s = now
                if now - began_s > seconds and len(times) >= _LEAST_CALLS:
                    break
            cpu_ns = time.thread_time_ns() - cpu_ns
        return Latency.of(times), round(cpu_ns / len(times) / 1000, 1)

    def _together(self, index: VectorIndex, ef: int, threads: int) -> tuple[Latency, float]:
        """What several callers wait that search at once, and how many searches they make in a second."""
        queries, k = self._wanted.queries, self._wanted.evaluation.k
        stop = threading.Event()
        times: list[list[int]] = []
        failed: list[BaseException] = []

        def search(first: int) -> None:
            mine: list[int] = []
            try:
                with build_threads(1):
                    while not stop.is_set() or not mine:
                        query = queries[(first + len(mine)) % len(queries)]
                        begun = time.perf_counter_ns()
                        index.search(query, k, ef=ef)
                        mine.append(time.perf_counter_ns() - begun)
            except BaseException as error:  # noqa: BLE001 - raised by whoever waits
                failed.append(error)
            times.append(mine)

        step = max(1, len(queries) // threads)
        callers = [
            threading.Thread(target=search, args=(i * step,), name="hnsw trial") for i in range(threads)
        ]
        began_s = time.monotonic()
        for caller in callers:
            caller.start()
        try:
            while time.monotonic() - began_s < _TOGETHER_SECONDS:
                self._check()
                time.sleep(_CHECKED_SECONDS)
        finally:
            stop.set()
            for caller in callers:
                caller.join()
        elapsed_s = time.monotonic() - began_s
        if failed:
            raise failed[0]
        every = [each for mine in times for each in mine]
        return Latency.of(every), round(len(every) / elapsed_s, 1)


def scores(
    queries: Vectors, vectors: Vectors, positions: NDArray[np.int64], metric: Metric
) -> NDArray[np.float32]:
    """How near vectors are to queries, in full precision, however an index keeps them.

    Args:
        queries: Of shape ``(queries, dimension)``.
        vectors: All vectors.
        positions: Of shape ``(queries, k)``.
        metric: How to compare.
    """
    near = vectors[positions].astype(np.float64)
    if metric is Metric.L2:
        found: NDArray[np.float64] = np.linalg.norm(near - queries[:, None, :], axis=2)
    else:
        found = np.einsum("qkd,qd->qk", near, queries.astype(np.float64))
        if metric is Metric.COSINE:
            found /= np.linalg.norm(near, axis=2) * np.linalg.norm(queries, axis=1)[:, None]
    rounded: NDArray[np.float32] = found.astype(np.float32)
    return rounded
