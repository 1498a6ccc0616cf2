"""An index finds what is nearest, the graph nearly always and everything else always."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.vectors.faiss_index import VectorIndex, Way
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric, Storage
from lakehouse.vectors.selection import Selection

N, D = 3000, 24


def clustered(count: int, seed: int) -> np.ndarray:
    """Vectors as texts have them: many dimensions, few directions."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(7).standard_normal((8, D))
    return (rng.standard_normal((count, 8)) @ directions + 0.1 * rng.standard_normal((count, D))).astype("f4")


VECTORS = clustered(N, 1)
QUERIES = clustered(40, 2)


def truth(vectors: np.ndarray, queries: np.ndarray, metric: Metric) -> np.ndarray:
    """The score of every vector for every query, computed in double precision."""
    v, q = vectors.astype("f8"), queries.astype("f8")
    if metric is Metric.L2:
        return np.linalg.norm(v[None] - q[:, None], axis=2)
    if metric is Metric.COSINE:
        v, q = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, q))
    return q @ v.T


def nearest(scores: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    return np.argsort(-scores if metric.greater_is_closer else scores, axis=1, kind="stable")[:, :k]


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, expected, strict=True)]))


_built: dict[IndexParameters, VectorIndex] = {}


def built(**parameters: object) -> VectorIndex:
    wanted = IndexParameters(**parameters)  # type: ignore[arg-type]
    if wanted not in _built:
        _built[wanted] = VectorIndex.build(VECTORS, wanted)
    return _built[wanted]


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_nearest_are_found_with_their_scores(metric: Metric, storage: Storage, algorithm: Algorithm) -> None:
    index = built(metric=metric, storage=storage, algorithm=algorithm)
    expected = truth(VECTORS, QUERIES, metric)
    found = index.search(QUERIES, 10, ef=100)
    assert found.way is (Way.HNSW if algorithm is Algorithm.HNSW else Way.EXACT)
    exact = algorithm is Algorithm.EXACT and storage is Storage.FP32
    least = 1.0 if exact else 0.85 if storage is Storage.INT8 else 0.97
    assert recall(found.positions, nearest(expected, 10, metric)) >= least
    told = np.take_along_axis(expected, found.positions, axis=1)
    scale = float(np.abs(expected).max())
    assert np.abs(found.scores - told).max() <= {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-2}[storage] * scale
    order = found.scores if metric is Metric.L2 else -found.scores
    assert (np.diff(order, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("metric", "storage"),
    [(Metric.COSINE, Storage.FP32), (Metric.L2, Storage.FP16), (Metric.INNER_PRODUCT, Storage.INT8)],
)
@pytest.mark.parametrize("share", [0.002, 0.05, 0.4, 0.9])
def test_selected_are_found_and_no_others(metric: Metric, storage: Storage, share: float) -> None:
    index = built(metric=metric, storage=storage)
    # What is selected lies together, far from most queries: as hard for a graph as filters are in life.
    order = np.argsort(VECTORS[:, 0])
    chosen = np.sort(order[: int(N * share)]).astype("i8")
    found = index.search(QUERIES, 10, selection=Selection.of(chosen, N))
    k = min(10, len(chosen))
    assert found.positions.shape == (len(QUERIES), k)
    assert np.isin(found.positions, chosen).all()
    assert all(len({*row}) == k for row in found.positions.tolist())
    by_graph = len(chosen) > 1000
    assert (found.way is not Way.EXACT) == by_graph
    expected = chosen[nearest(truth(VECTORS[chosen], QUERIES, metric), k, metric)]
    least = 0.8 if storage is Storage.INT8 else 0.95 if by_graph else 0.99 if storage is Storage.FP16 else 1.0
    assert recall(found.positions, expected) >= least


def test_positions_and_bitmap_select_the_same() -> None:
    index = built()
    mask = np.random.default_rng(3).random(N) < 0.04
    by_mask = index.search(QUERIES, 7, selection=Selection(mask))
    by_position = index.search(QUERIES, 7, selection=Selection.of(np.flatnonzero(mask)[::-1], N))
    assert (by_mask.positions == by_position.positions).all()


def test_graph_that_leads_nowhere_is_made_up_for() -> None:
    """Thousands of equal vectors are a graph in which much cannot be reached."""
    vectors = np.repeat(clustered(4, 5), 1000, axis=0)
    index = VectorIndex.build(vectors, IndexParameters(m=2, ef_construction=4, ef_search=1))
    rng = np.random.default_rng(9)
    ways = set()
    for share in (1.0, 0.6, 0.3):
        mask = rng.random(len(vectors)) < share
        mask[:1000] = False
        mask[rng.integers(0, 1000, 5)] = True
        found = index.search(vectors[[0, 1500, 2500, 3500]], 90, selection=Selection(mask))
        ways.add(found.way)
        assert (found.positions >= 0).all()
        assert mask[found.positions].all()
        assert all(len({*row}) == 90 for row in found.positions.tolist())
    assert Way.HNSW_THEN_EXACT in ways


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_vectors_give_as_many_as_there_are(storage: Storage, algorithm: Algorithm, count: int) -> None:
    index = VectorIndex.build(VECTORS[:count], IndexParameters(storage=storage, algorithm=algorithm))
    found = index.search(VECTORS[0], 10)
    assert found.positions.shape == found.scores.shape == (1, count)
    assert sorted(found.positions[0].tolist()) == list(range(count))
    nothing = index.search(VECTORS[0], 10, selection=Selection(np.zeros(count, bool)))
    assert nothing.positions.shape == (1, 0)
    assert index.search(np.empty((0, D), "f4"), 10).positions.shape == (0, count)


def _with(row: int, value: float) -> np.ndarray:
    changed = VECTORS[:20].copy()
    changed[row, 3] = value
    return changed


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (_with(4, np.nan), "vector 4 holds a number that is not finite"),
        (_with(0, np.inf), "vector 0 holds a number that is not finite"),
        (_with(7, 3e38), "vector 7 holds a number that is not finite, or too large"),
        (VECTORS[:20] * (np.arange(20) != 6)[:, None], "vector 6 is all zero"),
        ([[1.0, 2.0], [1.0]], "of several lengths"),
        ([["a", "b"]], "not made of numbers"),
        (np.empty((3, 0), "f4"), "expected (number of them"),
        (np.float32(1), "expected (number of them"),
    ],
)
def test_what_is_no_vector_is_refused(vectors: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VectorIndex.build(vectors, IndexParameters())  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.INNER_PRODUCT])
def test_zero_is_a_vector_like_others_where_length_counts(metric: Metric) -> None:
    vectors = np.vstack([np.zeros(D, "f4"), VECTORS[:5]])
    index = VectorIndex.build(vectors, IndexParameters(metric=metric))
    found = index.search(np.zeros(D), 6)
    assert (found.positions[0, 0] == 0) if metric is Metric.L2 else (found.scores == 0).all()


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        (np.ones(D - 1), {}, f"the query has {D - 1} dimensions, the index has {D}"),
        (np.ones((2, 2, D)), {}, "the index has"),
        (np.full(D, np.nan), {}, "query holds a number that is not finite"),
        (np.zeros(D), {}, "query is all zero"),
        (np.ones(D), {"k": 0}, "k = 0"),
        (np.ones(D), {"k": 100_001}, "k = 100001"),
        (np.ones(D), {"ef": 0}, "ef = 0"),
        (np.ones(D), {"selection": Selection(np.ones(5, bool))}, "a selection is of 5 vectors"),
    ],
)
def test_search_that_makes_no_sense_is_refused(query: object, arguments: dict, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        built().search(query, **{"k": 3, **arguments})  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"m": 1}, {"m": 257}, {"ef_construction": 3}, {"ef_search": 0}, {"m": 2.5}, {"m": True}]
)
def test_parameters_have_bounds(wrong: dict) -> None:
    with pytest.raises(InvalidRequest, match=f"{next(iter(wrong))} = "):
        IndexParameters(**wrong)


def test_parameters_come_back_from_json() -> None:
    parameters = IndexParameters(Metric.L2, Algorithm.EXACT, Storage.INT8, 8, 20, 30)
    assert IndexParameters.from_json(parameters.to_json()) == parameters


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("mapped", [True, False])
def test_saved_index_gives_the_same(
    tmp_path: Path, storage: Storage, algorithm: Algorithm, mapped: bool
) -> None:
    index = built(storage=storage, algorithm=algorithm)
    index.save(tmp_path / "i")
    again = VectorIndex.load(tmp_path / "i", index.parameters, mapped=mapped)
    (tmp_path / "i").unlink()  # as happens to an old generation while it is searched
    for selection in (None, Selection(VECTORS[:, 1] > 0), Selection(VECTORS[:, 1] > 4)):
        one, other = (x.search(QUERIES, 10, selection=selection) for x in (index, again))
        assert (one.positions == other.positions).all()
        assert (one.scores == other.scores).all()
    assert (again.count, again.dimension) == (N, D)


def test_what_is_no_index_is_not_loaded(tmp_path: Path) -> None:
    built().save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for name, wrong in {
        "empty": b"",
        "other": b"nonsense" * 100,
        "cut": content[: len(content) // 2],
    }.items():
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(StorageError):
            VectorIndex.load(tmp_path / name, built().parameters)
    with pytest.raises(StorageError):
        VectorIndex.load(tmp_path / "none", built().parameters)


def test_callers_array_is_left_as_it_was() -> None:
    mine = VECTORS[:50].copy()
    VectorIndex.build(mine, IndexParameters()).search(mine, 3)
    assert (mine == VECTORS[:50]).all()


def test_build_can_be_stopped() -> None:
    class Stopped(Exception):
        pass

    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        VectorIndex.build(np.ones((20_000, 2), "f4"), IndexParameters(algorithm=Algorithm.EXACT), check=check)


def test_many_threads_search_with_effort_and_selection_of_their_own() -> None:
    index = built()
    selections = [
        None,
        Selection(VECTORS[:, 0] > 0),
        Selection(VECTORS[:, 0] <= 0),
        Selection(VECTORS[:, 1] > 5),
    ]
    cases = [(ef, s) for ef in (10, 64, 200) for s in selections]
    expected = [index.search(QUERIES, 10, ef=ef, selection=s).positions for ef, s in cases]
    wrong = []

    def search(offset: int) -> None:
        for turn in range(40):
            at = (turn + offset) % len(cases)
            ef, selection = cases[at]
            if not (index.search(QUERIES, 10, ef=ef, selection=selection).positions == expected[at]).all():
                wrong.append(at)

    threads = [threading.Thread(target=search, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_library_is_imported_when_it_is_needed_first() -> None:
    import subprocess

    code = "import sys, lakehouse.vectors.faiss_index; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
