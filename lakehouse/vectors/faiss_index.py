"""An index of vectors, held and searched by faiss. The only module that imports it.

An index never changes once it is built, so any number of threads may search it: faiss lets go of the
interpreter meanwhile. What a search needs beyond the vectors is said by parameters of the call.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from math import ceil, isfinite, sqrt
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric, Storage, check_ef
from lakehouse.vectors.selection import Selection

Vectors = NDArray[np.float32]
"""Float32, one row for each vector."""

EXACT_SHARE = 0.10
"""Of less than this part of an index every vector is compared: a graph of which so little may be found
gives worse results, and not sooner."""
EXACT_COUNT = 1000
"""Of so many vectors, or fewer, each is compared whatever the parameters."""
_BATCH = 8192
# A graph of 100,000 vectors is as good by steps of 2048 as in one, and worse by steps of 256.
_STEP_SECONDS, _LEAST_STEP = 0.4, 2048
_KEPT_EFFORTS = 64
_LEAST_SQUARE = float(np.finfo(np.float32).tiny)
_TRAINED = 100_000
# Above so many queries at a time faiss multiplies matrices.
_MATRIX_QUERIES = 20
MOST_DIMENSIONS = 65_536
MOST_RESULTS = 100_000


class Way(StrEnum):
    """How a search was made."""

    EXACT = "exact"
    """Every vector that may be found was compared."""
    HNSW = "hnsw"
    """By the graph."""
    HNSW_FILTERED = "hnsw_filtered"
    """By the graph, of which only some vectors may be found."""
    HNSW_THEN_EXACT = "hnsw_then_exact"
    """By the graph, and of the queries that it gave too little for, exactly."""
    LEXICAL = "lexical"
    """By words only; no vector was compared."""


class Found(NamedTuple):
    """The nearest vectors of each query, the nearest first.

    Attributes:
        positions: Int64 of shape ``(queries, k)``, where k is as many as there are at most.
        scores: Float32 of that shape: cosine, inner product, or distance.
        way: How they were found.
        ef: How many candidates were looked at, where that was by the graph; else 0.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]
    way: Way
    ef: int = 0


@contextmanager
def build_threads(count: int) -> Iterator[None]:
    """For the length of a ``with``, faiss uses so many threads for this one; with 0 as many as cores."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    if count:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def unchecked() -> None:
    """A check that lets everything go on."""


class VectorIndex:
    """Vectors of one dimension, to be searched for the nearest of a query.

    ``build`` and ``load`` make one.

    Attributes:
        parameters: What it was built with.
        count: How many vectors it has; their positions are 0 to ``count`` - 1.
        dimension: Of each of them.
    """

    def __init__(self, index: Any, parameters: IndexParameters) -> None:
        self._faiss = _faiss()
        self._index = index
        self._is_exact = parameters.algorithm is Algorithm.EXACT
        self._storage = index if self._is_exact else self._faiss.downcast_index(index.storage)
        self._efforts: dict[int, Any] = {}
        self.parameters = parameters
        self.count = int(index.ntotal)
        self.dimension = int(index.d)

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        parameters: IndexParameters,
        *,
        check: Callable[[], None] = unchecked,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Of shape ``(count, dimension)``; there may be none.
            parameters: How.
            check: Called from time to time; raises where the work shall stop.
            progress: Told the share that is done.

        Raises:
            InvalidRequest: A vector is not finite, or has no direction and the metric is cosine.
        """
        rows = _checked(vectors, "vector", parameters.metric)
        count, dimension = rows.shape
        index = _empty(dimension, parameters)
        if not index.is_trained:
            # Bounds of each dimension; of nothing there are none, and one vector is as good as another.
            step = max(1, count // _TRAINED)
            index.train(rows[::step] if count else np.zeros((1, dimension), dtype=np.float32))
        start, step = 0, _LEAST_STEP
        while start < count:
            check()
            began_s = time.monotonic()
            index.add(rows[start : start + step])
            start += step
            progress(min(1.0, start / count))
            # Short enough that whoever stops it does not wait long, and no shorter.
            seconds = time.monotonic() - began_s
            if seconds > _STEP_SECONDS:
                step = max(_LEAST_STEP, step // 2)
            elif seconds < _STEP_SECONDS / 4:
                step = min(_BATCH, step * 2)
        return cls(index, parameters)

    @property
    def size_bytes(self) -> int:
        """What the vectors take, and the graph."""
        size = self.count * int(self._storage.sa_code_size())
        if self.parameters.algorithm is Algorithm.HNSW:
            graph = self._index.hnsw
            size += 4 * graph.neighbors.size() + 8 * graph.offsets.size() + 4 * graph.levels.size()
        return int(size)

    def save(self, path: Path) -> None:
        """Write the index into a file.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            _faiss().write_index(self._index, str(path))
        except (RuntimeError, OSError) as error:
            raise StorageError("a vector index could not be written to the local disk") from error

    @classmethod
    def load(cls, path: Path, parameters: IndexParameters, *, mapped: bool = True) -> Self:
        """An index that ``save`` wrote.

        Args:
            path: The file. Whoever deletes it does the index no harm, whoever writes into it does.
            parameters: What it was built with.
            mapped: Whether its pages are read when they are needed first, and shared by all processes.

        Raises:
            StorageError: The file is gone, or does not hold such an index.
        """
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
            return cls(index, parameters)
        except (RuntimeError, OSError, AttributeError, AssertionError) as error:
            raise StorageError("the file of a vector index does not hold one") from error

    def search(
        self, queries: ArrayLike, k: int, *, ef: int | None = None, selection: Selection | None = None
    ) -> Found:
        """The nearest vectors of one or many queries.

        Every query gets ``k`` of them, or all there are: as many as may be found.

        Args:
            queries: Of shape ``(dimension,)`` or ``(queries, dimension)``.
            k: How many.
            ef: How many candidates to look at in the graph: more find more of the true neighbours and take
                longer. What the index was built with where left out.
            selection: Which may be found; all where left out.

        Raises:
            InvalidRequest: The dimension is another one, a number is not finite, k or ef is out of bounds, or
                a query is all zero and the metric is cosine.
        """
        rows = self._queries(queries)
        if isinstance(k, bool) or not 1 <= k <= MOST_RESULTS:
            raise InvalidRequest(f"k = {k!r}, expected a whole number from 1 to {MOST_RESULTS}")
        wanted = check_ef(self.parameters.ef_search if ef is None else ef)
        if selection is not None and selection.size != self.count:
            raise InvalidRequest(
                f"a selection is of {selection.size} vectors, expected one of the index's {self.count}"
            )
        available = self.count if selection is None else selection.count
        k = min(k, available)
        if not k or not len(rows):
            shape = (len(rows), k)
            return Found(np.empty(shape, np.int64), np.empty(shape, np.float32), Way.EXACT)
        if selection is not None and available == self.count:
            selection = None
        # A graph of which a good part is looked at anyway takes longer than comparing all of it.
        effort = max(wanted if selection is None else ceil(wanted / sqrt(selection.share)), k)
        if (
            self._is_exact
            or available <= EXACT_COUNT
            or (selection is not None and selection.share < EXACT_SHARE)
            or effort * 10 >= available
        ):
            return self._exact(rows, k, selection)
        return self._by_graph(rows, k, effort, selection)

    def vectors(self, positions: NDArray[np.int64]) -> Vectors:
        """Vectors as the index has them (of length 1 for cosine, rounded by its storage)."""
        found: Vectors = self._storage.reconstruct_batch(positions)
        return found

    def _queries(self, queries: ArrayLike) -> Vectors:
        rows = np.asarray(queries)
        if rows.ndim == 1:
            rows = rows[None, :]
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            found = rows.shape[1] if rows.ndim == 2 else f"shape {rows.shape}"
            raise InvalidRequest(
                f"the query has {found} dimensions, the index has {self.dimension}",
                "embed the query with the model that the index was made with",
            )
        return _checked(rows, "query", self.parameters.metric)

    def _exact(self, rows: Vectors, k: int, selection: Selection | None) -> Found:
        faiss = self._faiss
        sought = None
        if selection is not None:
            # By their numbers where faiss goes through these, else with one bit for each vector.
            by_number = self.parameters.storage is Storage.FP32 and selection.share < 0.5
            sel = (
                faiss.IDSelectorArray(selection.positions)
                if by_number
                else faiss.IDSelectorBitmap(selection.bits)
            )
            sought = faiss.SearchParameters(sel=sel)
        scores, positions = self._storage.search(rows, k, params=sought)
        return self._found(scores, positions, Way.EXACT)

    def _by_graph(self, rows: Vectors, k: int, ef: int, selection: Selection | None) -> Found:
        faiss = self._faiss
        if selection is None:
            # Whoever searches with the same effort shares them: they are only read.
            sought, way = self._efforts.get(ef), Way.HNSW
            if sought is None:
                sought = faiss.SearchParametersHNSW(efSearch=ef)
                if len(self._efforts) < _KEPT_EFFORTS:
                    self._efforts[ef] = sought
        else:
            sel = faiss.IDSelectorBitmap(selection.bits)
            sought, way = faiss.SearchParametersHNSW(efSearch=ef, sel=sel), Way.HNSW_FILTERED
        count = len(rows)
        scores, positions = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        # Without the wrapper, whose checks are made by now; it takes a tenth of a short search.
        at = faiss.swig_ptr
        self._index.search_c(count, at(rows), k, at(scores), at(positions), sought)
        if (positions[0, -1] if count == 1 else positions[:, -1].min()) >= 0:
            return self._found(scores, positions, way, ef)
        short = np.flatnonzero(positions[:, -1] < 0)
        found = self._found(scores, positions, Way.HNSW_THEN_EXACT, ef)
        rest = self._exact(rows[short], k, selection)
        found.positions[short], found.scores[short] = rest.positions, rest.scores
        return found

    def _found(self, scores: Vectors, positions: NDArray[np.int64], way: Way, ef: int = 0) -> Found:
        if self.parameters.metric is Metric.L2:
            scores = np.sqrt(np.maximum(scores, 0, out=scores), out=scores)
        return Found(positions, scores, way, ef)


def _checked(vectors: ArrayLike, what: str, metric: Metric) -> Vectors:
    """Vectors as float32, of length 1 where the metric wants that; never the caller's own array, changed."""
    try:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"a {what} is not made of numbers, or they are of several lengths") from error
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MOST_DIMENSIONS:
        raise InvalidRequest(
            f"vectors came in shape {rows.shape}, expected (number of them, 1 to {MOST_DIMENSIONS})"
        )
    if len(rows) == 1:
        # The same as below, in a third of the time that many small arrays take.
        row = rows[0]
        square = float(np.dot(row, row))
        if isfinite(square) and (metric is not Metric.COSINE or square >= _LEAST_SQUARE):
            return rows if metric is not Metric.COSINE else rows * np.float32(1 / sqrt(square))
    # One pass over all of it: anything that is not finite makes the square so, or it is too large to square.
    squares = np.einsum("ij,ij->i", rows, rows)
    wrong = np.flatnonzero(~np.isfinite(squares))
    if len(wrong):
        at = f" {wrong[0]}" if len(rows) > 1 else ""
        raise InvalidRequest(f"{what}{at} holds a number that is not finite, or too large")
    if metric is not Metric.COSINE:
        return rows
    zero = np.flatnonzero(squares < _LEAST_SQUARE)
    if len(zero):
        at = f" {zero[0]}" if len(rows) > 1 else ""
        raise InvalidRequest(f"{what}{at} is all zero: it has no direction, and so no cosine with others")
    scaled: Vectors = rows / np.sqrt(squares)[:, None]
    return scaled


def _empty(dimension: int, parameters: IndexParameters) -> Any:
    faiss = _faiss()
    metric = faiss.METRIC_L2 if parameters.metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    kinds = {Storage.FP16: faiss.ScalarQuantizer.QT_fp16, Storage.INT8: faiss.ScalarQuantizer.QT_8bit}
    kind = kinds.get(parameters.storage)
    if parameters.algorithm is Algorithm.EXACT:
        if kind is None:
            return faiss.IndexFlat(dimension, metric)
        return faiss.IndexScalarQuantizer(dimension, kind, metric)
    if kind is None:
        index = faiss.IndexHNSWFlat(dimension, parameters.m, metric)
    else:
        index = faiss.IndexHNSWSQ(dimension, kind, parameters.m, metric)
    index.hnsw.efConstruction = parameters.ef_construction
    return index


def _faiss() -> Any:
    """The library, which takes a third of a second to import and is not needed by every server."""
    if "faiss" not in sys.modules:
        # Read as its threads' library is loaded: those that wait for work leave the cores to others. On cores
        # that others use too, building took ten times as long where they did not.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import faiss  # noqa: PLC0415

    faiss.cvar.distance_compute_blas_threshold = _MATRIX_QUERIES
    return faiss
