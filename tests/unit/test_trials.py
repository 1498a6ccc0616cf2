"""Trials of index parameters: what is measured, what is tried next; nothing is lost or done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.ai.models import Models
from lakehouse.clock import SystemClock
from lakehouse.config import AiSettings
from lakehouse.config.vectors import VectorSettings
from lakehouse.errors import (
    EvaluationNotFound,
    InvalidRequest,
    SnapshotNotFound,
    StatementCancelled,
    StorageError,
    TrialNotFound,
)
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.storage import Bucket
from lakehouse.storage.memory import open_memory_bucket
from lakehouse.types import TableName
from lakehouse.vectors.faiss_index import VectorIndex
from lakehouse.vectors.generation import Generation, Guard, VectorColumn
from lakehouse.vectors.indexes import BuildRequest, VectorIndexes
from lakehouse.vectors.parameters import IndexParameters, Metric, Storage
from lakehouse.vectors.trials import EvaluationRequest, SweepRequest, Trial, Trials
from lakehouse.vectors.trials import measuring as measuring_module
from lakehouse.vectors.trials.choosing import best, cost, front, newest, next_build
from lakehouse.vectors.trials.evaluation import KEPT, PREFIX, EvaluationSet
from lakehouse.vectors.trials.journal import Build

TABLE = TableName("lake", "docs", "chunks")
SOURCE = VectorColumn(TABLE, "u-1", "vector", ("id",))
GUARD = Guard(TABLE, "u-1", ("id", "vector"), ("id",))
COUNT, D = 1300, 12


class Rows:
    """A table in memory: each snapshot has the rows that it was given."""

    def __init__(self) -> None:
        self.snapshots = {1: clustered(COUNT)}
        self.reads = 0

    def snapshot_of(self, source: VectorColumn) -> int:
        return max(self.snapshots)

    def read(self, source: VectorColumn, check: Callable[[], None]) -> tuple[VectorColumn, pa.Table]:
        return self.read_at(source, None, check)

    def read_at(
        self, source: VectorColumn, snapshot_id: int | None, check: Callable[[], None]
    ) -> tuple[VectorColumn, pa.Table]:
        self.reads += 1
        number = snapshot_id or max(self.snapshots)
        if number not in self.snapshots:
            raise SnapshotNotFound("it was expired")
        vectors = self.snapshots[number]
        columns = {
            "id": pa.array(range(len(vectors))),
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        }
        return replace(source, snapshot_id=number), pa.table(columns)


def clustered(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 5)) @ rng.standard_normal((5, D)) + 0.1).astype("f4")


class Recorder(list[ChangeEvent]):
    def record(self, *events: ChangeEvent) -> None:
        self.extend(events)


class World:
    """A lake with one index."""

    def __init__(self, bucket: Bucket, metric: Metric = Metric.COSINE) -> None:
        self.rows = Rows()
        self.bucket = bucket
        self.trials, self.indexes = self.server()
        request = BuildRequest("texts", SOURCE, IndexParameters(metric, m=8, ef_construction=40), GUARD)
        self.live: Generation = self.indexes.build(request)
        self.others: list[tuple[Trials, VectorIndexes]] = []

    def server(self) -> tuple[Trials, VectorIndexes]:
        clock, bounds = SystemClock(), VectorSettings(refresh_ms=0)
        indexes = VectorIndexes(self.bucket, clock, bounds, self.rows, Recorder())
        models = Models(AiSettings())
        return Trials(indexes, self.rows, models, self.bucket, clock, bounds), indexes

    def another(self) -> Trials:
        self.others.append(self.server())
        return self.others[-1][0]

    def autogen(self, **request: object) -> str:
        made = self.trials.autogen(self.live, EvaluationRequest(**request), unchecked, untold)  # type: ignore[arg-type]
        return made.id

    def run(self, trials: Trials | None = None, check: Callable[[], None] | None = None, **request: object):
        wanted = SweepRequest(**request)  # type: ignore[arg-type]
        return (trials or self.trials).run(self.live, wanted, check or unchecked, untold)


def unchecked() -> None:
    """Go on."""


def untold(share: float, message: str) -> None:
    assert 0 <= share <= 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_module, "_TOGETHER_SECONDS", 0.02)
    monkeypatch.setattr(measuring_module, "_ENOUGH_CALLS", 50)


@pytest.fixture
def world() -> Iterator[World]:
    found = World(open_memory_bucket("main"))
    yield found
    for trials, indexes in [(found.trials, found.indexes), *found.others]:
        trials.close()
        indexes.close()


# -- evaluation sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", list(Metric))
def test_true_neighbours_are_those_of_numpy_and_no_query_is_among_them(metric: Metric) -> None:
    world = World(open_memory_bucket("main"), metric)
    found = world.trials.evaluation(world.live, world.autogen(queries=40, k=7))
    vectors = world.rows.snapshots[1].astype("f8")
    queries = vectors[found.positions]
    assert np.array_equal(found.queries, world.rows.snapshots[1][found.positions])
    if metric is Metric.L2:
        near = -np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    else:
        near = queries @ vectors.T
        if metric is Metric.COSINE:
            near /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    near[:, found.positions] = -np.inf
    assert np.array_equal(np.argsort(-near, axis=1)[:, :7], found.neighbours)
    worst = np.sort(near, axis=1)[:, ::-1][:, 6]
    assert np.allclose(np.abs(worst), np.abs(found.worst), atol=1e-5)
    done = world.run(m=(8,), ef_search=(64,), threads=1)
    assert done.trials[0].recall > 0.9
    assert done.trials[0].vectors == COUNT - 40
    world.trials.close()


def test_set_comes_back_as_it_was_and_damage_is_noticed(world: World) -> None:
    made = world.trials.evaluation(world.live, world.autogen(queries=20))
    (key,) = [each.key for each in world.bucket.objects(PREFIX)]
    content = world.bucket.get(key)
    again = EvaluationSet.decoded(content)
    assert again.evaluation == made.evaluation
    for name in ("queries", "positions", "neighbours", "worst"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
    world.bucket.put(key, content[:-100] + bytes(100))
    with pytest.raises(StorageError, match="is damaged"):
        world.another().evaluation(world.live, made.evaluation.id)
    with pytest.raises(EvaluationNotFound, match="what it is now"):
        world.another().evaluation(world.live)  # it is none that could be taken unasked


def test_only_the_newest_sets_are_kept(world: World) -> None:
    made = [world.autogen(queries=1, seed=seed) for seed in range(KEPT + 2)]
    assert [each.id for each in world.trials.evaluations(world.live)] == made[2:]


def test_set_stays_bound_to_its_snapshot(world: World) -> None:
    made = world.autogen(queries=20)
    world.rows.snapshots[2] = clustered(COUNT, seed=9)
    other = world.another()
    done = world.run(other, m=(8,), ef_search=(32,))
    assert done.trials[0].snapshot_id == 1
    assert done.trials[0].recall > 0.8
    del world.rows.snapshots[1]
    with pytest.raises(InvalidRequest, match="has been expired"):
        world.run(world.another(), m=(9,), evaluation=made)
    world.rows.snapshots = {1: clustered(COUNT, seed=9)}
    with pytest.raises(InvalidRequest, match="are not those"):
        world.run(world.another(), m=(9,), evaluation=made)
    gone = replace(world.live, source=replace(SOURCE, table_uuid="u-2"))
    with pytest.raises(EvaluationNotFound, match=made):
        world.trials.evaluation(gone, made)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda v: np.where(np.arange(v.size).reshape(v.shape) == 7, np.nan, v), "not finite"),
        (lambda v: v * (np.arange(len(v)) != 900)[:, None], "all zero"),
        (lambda v: v[:1010], "1010 vectors without 101 queries"),
        (lambda v: v[:0], "0 vectors without 1 queries"),
    ],
)
def test_vectors_that_cannot_be_tried_are_refused(
    world: World, spoil: Callable[[np.ndarray], np.ndarray], error: str
) -> None:
    world.rows.snapshots = {2: spoil(world.rows.snapshots[1]).astype("f4").reshape(-1, D)}
    with pytest.raises(InvalidRequest, match=error if len(world.rows.snapshots[2]) else "holds no vector"):
        world.autogen()
    assert list(world.bucket.objects(PREFIX)) == []


def test_vectors_that_are_the_same_do_not_cost_recall() -> None:
    world = World(open_memory_bucket("main"))
    world.rows.snapshots = {2: np.repeat(clustered(65), 20, axis=0)}
    world.autogen(queries=30)
    done = world.run(m=(16,), ef_construction=(200,), ef_search=(100,))
    assert done.trials[0].recall > 0.99
    world.trials.close()


@pytest.mark.parametrize("storage", list(Storage))
def test_size_is_that_of_the_file(storage: Storage, tmp_path: object) -> None:
    index = VectorIndex.build(clustered(700), IndexParameters(storage=storage, m=12))
    index.save(tmp_path / "x")  # type: ignore[operator]
    size = (tmp_path / "x").stat().st_size  # type: ignore[operator]
    assert 0.98 * size < index.size_bytes <= size


# -- sweeps --------------------------------------------------------------------------------------------------


def keys(trials: tuple[Trial, ...] | list[Trial]) -> list[tuple[Build, int]]:
    return [(each.built, each.ef_search) for each in trials]


def test_cancelled_sweep_keeps_what_it_measured_and_the_next_one_goes_on(world: World) -> None:
    world.autogen(queries=20)
    wanted = {"m": (4, 8), "ef_construction": (20, 40), "ef_search": (10, 20), "threads": 1}
    reached = threading.Event()

    def check() -> None:
        if len(world.trials.journal.table()) >= 3:
            reached.set()
            raise StatementCancelled("stop")

    with pytest.raises(StatementCancelled):
        world.run(check=check, **wanted)
    assert reached.is_set()
    known = world.trials.journal.of("texts")
    assert len(known) == 3
    # By another server, which was not there then.
    done = world.run(world.another(), **wanted)
    assert len(done.trials) == len(set(keys(done.trials))) == 8
    assert (done.measured, done.builds, done.reason) == (5, 3, "done")
    assert [each for each in done.trials if each in known] == known
    assert len(world.trials.journal.table()) == 8


def test_two_sweeps_at_once_share_what_they_measure(world: World) -> None:
    world.autogen(queries=20)
    done = {}

    def run(name: str, m: tuple[int, ...]) -> None:
        done[name] = world.run(m=m, ef_construction=(20,), ef_search=(10, 30), threads=1)

    sweeps = [
        threading.Thread(target=run, args=each)
        for each in (("one", (4, 6, 8)), ("twin", (4, 6, 8)), ("other", (8, 10)))
    ]
    for each in sweeps:
        each.start()
    for each in sweeps:
        each.join()
    assert [len(done[name].trials) for name in ("one", "twin", "other")] == [6, 6, 4]
    assert sum(each.measured for each in done.values()) == 8
    assert len(world.trials.journal.of("texts")) == 8


def test_budget_ends_a_sweep(world: World) -> None:
    world.autogen(queries=20)
    done = world.run(max_trials=3, threads=1)
    assert (done.reason, done.builds) == ("max_trials", 3)
    # Asked for once more it is the same, and nothing is built.
    again = world.run(world.another(), max_trials=3, threads=1)
    assert (again.reason, again.builds, again.trials) == ("max_trials", 0, done.trials)
    done = world.run(max_seconds=1e-6, m=(5,))
    assert (done.reason, done.builds, done.trials) == ("max_seconds", 0, ())
    done = world.run(max_trials=10, m=(8,), ef_construction=(40,))
    assert done.reason == "done"


@pytest.mark.parametrize(("recall", "enough"), [(1.0, 1.0), (0.8, 0.9)])
def test_efforts_grow_until_enough_is_found(world: World, recall: float, enough: float) -> None:
    world.autogen(queries=60)
    done = world.run(m=(3,), ef_construction=(20,), recall=recall, threads=1)
    found = [each.recall_low for each in done.trials]
    assert found[-1] >= enough
    assert len(found) > 1
    assert all(each < enough for each in found[:-1])


MS, EFFORTS = (4, 8, 16, 32), (20, 40, 80)


def _trial(
    build: Build, ef: int, recall: float, p50: float, name: str = "t", low: float | None = None
) -> Trial:
    values: dict[str, object] = dict.fromkeys(Trial.__slots__, 0)
    values |= {"trial": name, "evaluation": "e", "metric": "cosine", "storage": str(build.storage)}
    values |= {"m": build.m, "ef_construction": build.ef_construction, "ef_search": ef, "recall": recall}
    values |= {"recall_low": recall if low is None else low, "p50_us": p50}
    return Trial(**values)  # type: ignore[arg-type]


@given(
    st.sampled_from([0.5, 0.9, 0.999, 1.0]),
    st.sampled_from(MS),
    st.sampled_from(EFFORTS),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_everything_is_tried_once_and_from_near_the_live_index(
    recall: float, m: int, effort: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    builds = [Build(Storage.FP32, m, e) for m in MS for e in EFFORTS]
    builds.sort(key=lambda each: (cost(each), each))
    tried: dict[Build, list[Trial]] = {}
    start = Build(Storage.FP32, m, effort)
    while (chosen := next_build(builds, tried, recall, start)) is not None:
        assert tried or chosen == start
        assert chosen not in tried
        tried[chosen] = [_trial(chosen, 10, float(rng.random()), float(rng.random()))]
    assert set(tried) == set(builds)


def test_what_is_tried_next_is_beside_the_best() -> None:
    builds = sorted((Build(Storage.FP32, m, e) for m in MS for e in EFFORTS), key=lambda b: (cost(b), b))

    def at(m: int, effort: int) -> Build:
        return Build(Storage.FP32, m, effort)

    tried = {at(8, 40): [_trial(at(8, 40), 64, 0.9, 50)]}
    # Too little was found: more neighbours or more effort, the cheaper of both.
    assert next_build(builds, tried, 0.99, at(8, 40)) == at(16, 40)
    tried[at(16, 40)] = [_trial(at(16, 40), 64, 0.995, 60)]
    # Enough: now what is faster may be cheaper too.
    assert next_build(builds, tried, 0.99, at(8, 40)) == at(16, 20)
    tried[at(16, 20)] = [_trial(at(16, 20), 64, 0.995, 40)]
    assert next_build(builds, tried, 0.99, at(8, 40)) == at(8, 20)


trials = st.lists(
    st.tuples(st.integers(1, 50), st.floats(0.01, 1), st.floats(1, 1000), st.floats(0, 0.2)), max_size=30
)


@given(trials, st.floats(0.01, 1))
@settings(max_examples=150, deadline=None)
def test_best_and_front(drawn: list[tuple[int, float, float, float]], recall: float) -> None:
    build = Build(Storage.FP32, 8, 40)
    every = newest(
        _trial(build, ef, r, p50, f"t{number}", max(0.0, r - less))
        for number, (ef, r, p50, less) in enumerate(drawn)
    )
    assert len({each.ef_search for each in every}) == len(every)
    line = front(every)
    for one in line:
        assert not [o for o in every if o.p50_us < one.p50_us and o.recall >= one.recall]
        assert not [o for o in every if o.p50_us <= one.p50_us and o.recall > one.recall]
    for one in every:
        assert [o for o in line if o.p50_us <= one.p50_us and o.recall >= one.recall]
    fit = [each.p50_us for each in every if each.recall_low >= recall]
    if fit:
        found = best(every, recall)
        assert found.recall_low >= recall
        assert found.p50_us == min(fit)
    else:
        with pytest.raises(TrialNotFound, match="no trial reached" if every else "nothing was tried"):
            best(every, recall)


@pytest.mark.parametrize("recall", [0, -1, 1.5, float("nan"), True])
def test_recall_that_cannot_be_is_refused(recall: float) -> None:
    with pytest.raises(InvalidRequest, match="recall = "):
        best([], recall)
