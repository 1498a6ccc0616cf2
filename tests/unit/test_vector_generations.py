"""Generations of indexes: searches see the old or the new one, whole, whatever happens in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket, Killed

from lakehouse.clock import FixedClock, SystemClock
from lakehouse.config.vectors import VectorSettings
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    LimitExceeded,
    StorageError,
    TableNotFound,
    VectorIndexAlreadyExists,
    VectorIndexNotFound,
)
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.storage import Bucket, ObjectCache, open_local_bucket
from lakehouse.storage.memory import open_memory_bucket
from lakehouse.types import TableName
from lakehouse.vectors.faiss_index import VectorIndex
from lakehouse.vectors.generation import Generation, Guard, IndexFile, Model, VectorColumn, checked_name
from lakehouse.vectors.generation_store import PREFIX, GenerationStore, IndexDamaged
from lakehouse.vectors.indexes import BuildRequest, VectorIndexes
from lakehouse.vectors.loader import IndexLoader
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric
from lakehouse.vectors.vector_rows import split

TABLE = TableName("lake", "docs", "chunks")
SOURCE = VectorColumn(TABLE, "u-1", "vector", ("id",))
WITH_TURN = replace(SOURCE, rows=("id", "turn"))
GUARD = Guard(TABLE, "u-1", ("id", "turn", "vector"), ("id",))
D = 8


class Rows:
    """A table in memory: ``turn`` stands in each of its rows."""

    def __init__(self, count: int = 60) -> None:
        self.turn = 0
        self.reads = 0
        self.count = count
        self.pause_s = 0.0
        self.error: Exception | None = None

    def read(self, source: VectorColumn, check: Callable[[], None]) -> tuple[VectorColumn, pa.Table]:
        self.reads += 1
        time.sleep(self.pause_s)
        if self.error is not None:
            raise self.error
        vectors = np.random.default_rng(5).standard_normal((self.count, D)).astype("f4")
        table = pa.table(
            {
                "id": range(self.count),
                "turn": [self.turn] * self.count,
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D),
            }
        )
        return replace(source, snapshot_id=self.turn), table


class Recorder(list[ChangeEvent]):
    def record(self, *events: ChangeEvent) -> None:
        self.extend(events)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_local_bucket("main", str(tmp_path / "lake"))


def indexes(bucket: Bucket, rows: Rows, **settings: float) -> VectorIndexes:
    wanted = VectorSettings(**{"refresh_ms": 0, **settings})  # type: ignore[arg-type]
    return VectorIndexes(bucket, SystemClock(), wanted, rows, Recorder())


def request(name: str = "texts", **parameters: object) -> BuildRequest:
    wanted = IndexParameters(m=8, ef_construction=20, **parameters)  # type: ignore[arg-type]
    return BuildRequest(name, WITH_TURN, wanted, GUARD)


def turn_found(server: VectorIndexes, name: str = "texts") -> int:
    """Which turn a search finds itself in; all rows have to be of one, and as many as were asked for."""
    hits = server.search(name, np.ones((2, D)), 5)
    assert hits.found.positions.shape == (2, 5)
    assert hits.rows.num_rows == 10
    turns = set(hits.rows["turn"].to_pylist())
    assert turns == {hits.generation.source.snapshot_id} == {hits.generation.guard.snapshot_id}
    return turns.pop()


def test_every_server_searches_what_was_made_live_and_can_go_back(bucket: Bucket) -> None:
    rows = Rows()
    one, other = indexes(bucket, rows), indexes(bucket, rows)
    with pytest.raises(VectorIndexNotFound, match="texts"):
        other.search("texts", np.ones(D), 1)
    first = one.build(request("Texts"), create=True)
    assert turn_found(other) == 0
    rows.turn = 1
    second = other.build(request())
    assert turn_found(one) == turn_found(other) == 1
    assert one.rollback("texts").id == first.id
    assert turn_found(one) == turn_found(other) == 0
    with pytest.raises(InvalidRequest, match="no former generation"):
        other.rollback("texts")
    with pytest.raises(VectorIndexAlreadyExists):
        one.build(request(), create=True)
    assert [live.generation.id for live in other.all() if live.generation] == [first.id]
    one.drop("texts")
    for server in (one, other):
        with pytest.raises(VectorIndexNotFound):
            server.search("texts", np.ones(D), 1)
        assert server.all() == []
    rows.turn = 2
    other.build(request(), create=True)
    assert turn_found(one) == 2
    with pytest.raises(InvalidRequest):
        one.rollback("texts")  # not to what was dropped
    told = [(e.action, e.old, e.new, e.detail) for e in one._recorder]  # type: ignore[attr-defined]
    assert told == [
        ("swap", None, first.id, "build"),
        ("swap", second.id, first.id, "rollback"),
        ("drop", first.id, None, "drop"),
    ]


def test_search_never_fails_or_comes_back_empty_during_a_hundred_swaps(bucket: Bucket) -> None:
    rows = Rows()
    builder = indexes(bucket, rows, keep_generations=0, grace_seconds=0.5)
    servers = [indexes(bucket, rows, refresh_ms=ms) for ms in (0, 20)]
    builder.build(request())
    stop, seen, errors = threading.Event(), set(), []

    def search(server: VectorIndexes) -> None:
        last = 0
        try:
            while not stop.is_set():
                turn = turn_found(server)
                assert turn >= last  # never back to an older one
                seen.add(turn)
                last = turn
        except BaseException as error:  # noqa: BLE001 - of any kind
            errors.append(error)

    threads = [threading.Thread(target=search, args=(servers[i % 2],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(1, 101):
        rows.turn = turn
        builder.build(request(algorithm=Algorithm.HNSW if turn % 2 else Algorithm.EXACT))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[:3]
    assert len(seen) > 10
    assert turn_found(servers[0]) == 100
    assert len(builder.store.generations("texts")) < 101  # old ones are deleted meanwhile


@pytest.mark.parametrize("fault", ["dead", "dying", "before", "after"])
def test_nothing_half_is_left_wherever_a_build_ends(tmp_path: Path, fault: str) -> None:
    rows, number = Rows(), 0
    while True:
        number += 1
        bucket = open_local_bucket("main", str(tmp_path / str(number)))
        rows.turn = 1
        indexes(bucket, rows).build(request())
        rows.turn = 2
        faulty = FaultyBucket(bucket, lambda call, what, n=number: fault if call == n else None)
        ended = None
        try:
            indexes(faulty, rows).build(request())
        except (Killed, StorageError) as error:
            ended = error
        after = indexes(bucket, rows)
        found = turn_found(after)
        assert found == (2 if ended is None else found)
        assert found in (1, 2)
        for generation in after.store.generations("texts"):
            with after.loader.held(generation) as loaded:
                assert loaded.index.count == 60
        rows.turn = 3
        after.build(request())
        assert turn_found(after) == 3
        after.store.clean("texts", keep=0, grace=timedelta(0), abandoned=timedelta(0))
        left = {o.key.split("/")[4] for o in bucket.objects(f"{PREFIX}/texts/generations")}
        assert len(left) == 1
        if ended is None and faulty.calls < number:
            break
    assert number > 8


def _damages() -> dict[str, Callable[[Path], object]]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return {
        "missing": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "flipped": flip,
    }


@pytest.mark.parametrize("damage", _damages())
@pytest.mark.parametrize("file", ["vectors", "rows"])
def test_damaged_index_is_built_again_once_for_all_who_search(bucket: Bucket, damage: str, file: str) -> None:
    rows = Rows()
    made = indexes(bucket, rows).build(request())
    assert bucket.root is not None
    _damages()[damage](bucket.root / getattr(made, file).key)
    server = indexes(bucket, rows)
    rows.reads, rows.pause_s, rows.turn = 0, 0.2, 1
    results = []
    threads = [threading.Thread(target=lambda: results.append(turn_found(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 4
    assert rows.reads == 1
    live = server.live("texts")
    assert live.why == "repair"
    assert live.generation is not None
    assert (live.generation.parameters, live.generation.id > made.id) == (made.parameters, True)


def test_damaged_index_whose_table_is_gone_says_so(bucket: Bucket) -> None:
    rows = Rows()
    made = indexes(bucket, rows).build(request())
    bucket.delete(made.rows.key)
    rows.error = TableNotFound("table 'lake.docs.chunks' does not exist")
    with pytest.raises(TableNotFound):
        indexes(bucket, rows).search("texts", np.ones(D), 1)


def test_damaged_slot_leaves_the_generation_before_it(bucket: Bucket) -> None:
    rows = Rows()
    server = indexes(bucket, rows)
    server.build(request())
    rows.turn = 1
    server.build(request())
    key = f"{PREFIX}/texts/live/000000000002.json"
    bucket.put(key, bucket.get(key).replace(b'"by"', b'"be"'))
    assert turn_found(indexes(bucket, rows)) == 0
    rows.turn = 2
    indexes(bucket, rows).build(request())
    assert turn_found(server) == 2
    for name in bucket.names(f"{PREFIX}/texts/live"):
        bucket.put(f"{PREFIX}/texts/live/{name}", b"[]")
    with pytest.raises(IndexDamaged):
        server.live("texts", fresh=True)


def test_of_two_builds_at_once_one_becomes_live(bucket: Bucket) -> None:
    rows, other = Rows(), indexes(bucket, Rows())
    server = indexes(bucket, rows)

    def progress(share: float, message: str) -> None:
        if message == "uploading" and rows.reads == 1:
            rows.reads += 1
            other.build(request())

    with pytest.raises(CommitConflict):
        server.build(request(), progress=progress)
    assert server.live("texts", fresh=True).number == 1


def test_build_that_is_stopped_leaves_nothing(bucket: Bucket) -> None:
    class Stopped(Exception):
        pass

    def check() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        indexes(bucket, Rows()).build(request(), check=check)
    assert list(bucket.objects(PREFIX)) == []


def test_old_generations_go_when_nobody_can_be_reading_them(bucket: Bucket) -> None:
    clock, rows = FixedClock(), Rows()
    settings = VectorSettings(keep_generations=1, grace_seconds=60, abandoned_hours=2)
    server = VectorIndexes(bucket, clock, settings, rows, Recorder())
    made = []
    for _ in range(4):
        made.append(server.build(request()).id)
        clock.time += timedelta(seconds=10)
    store = GenerationStore(bucket, clock)
    abandoned = replace(server.store.generations("texts")[0], id=store.new_id())
    store.complete(abandoned)
    bucket.put(f"{PREFIX}/texts/generations/{store.new_id()}/vectors.faiss", b"half")

    def left() -> list[str]:
        return sorted({o.key.split("/")[4] for o in bucket.objects(f"{PREFIX}/texts/generations")})

    assert server.clean("texts") == []
    with server.loader.held(server.store.generations("texts")[0]) as loaded:
        clock.time += timedelta(minutes=5)
        assert server.clean("texts") == made[:2]
        assert loaded.index.search(np.ones(D), 3).positions.shape == (1, 3)  # whoever has it keeps it
    assert len(left()) == 4
    clock.time += timedelta(hours=2)
    server.clean("texts")
    assert left() == made[2:]
    assert server.rollback("texts").id == made[2]
    server.drop("texts")
    clock.time += timedelta(minutes=5)
    server.clean("texts")
    assert left() == []


def _generation(bucket: Bucket, tmp_path: Path, index: str, count: int) -> Generation:
    rows = Rows(count)
    return indexes(bucket, rows).build(request(index))


def test_loader_holds_what_fits_and_lets_go_of_what_was_used_longest_ago(
    bucket: Bucket, tmp_path: Path
) -> None:
    made = {name: _generation(bucket, tmp_path, name, 100) for name in "abc"}
    size = max(g.size_bytes for g in made.values())
    loader = IndexLoader(bucket, 2 * size + 10)
    for name in "aba":
        with loader.held(made[name]):
            pass
    with loader.held(made["c"]):  # b goes
        with loader.held(made["a"]):
            pass
        stats = loader.statistics()
        assert (stats.loads, stats.hits, stats.evicted, stats.indexes) == (3, 2, 1, 2)
        assert stats.bytes <= 2 * size
        with loader.held(made["a"]), loader.held(made["b"]):  # in use: all three, above the budget
            assert loader.statistics().in_use == 3
        loader.forget("c")  # in use still
    assert loader.statistics().bytes <= 2 * size
    with (
        pytest.raises(LimitExceeded, match=r"vectors\.memory_bytes"),
        IndexLoader(bucket, 10).held(made["a"]),
    ):
        pass
    loader.close()
    assert (loader.statistics().bytes, loader.statistics().indexes) == (0, 0)


def test_one_load_does_for_all_who_wait(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _generation(bucket, tmp_path, "a", 100)
    loader, load = IndexLoader(bucket, 10**9), VectorIndex.load
    waiting = threading.Event()

    def slow(*args: object, **more: object) -> VectorIndex:
        assert waiting.wait(20)
        return load(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(VectorIndex, "load", slow)
    found = []

    def use() -> None:
        with loader.held(made) as loaded:
            found.append(loaded)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    while loader.statistics().shared < 3:
        time.sleep(0.01)

    class Stopped(Exception):
        pass

    def stopped() -> None:
        raise Stopped

    with pytest.raises(Stopped), loader.held(made, stopped):  # one who does not want to wait
        pass
    waiting.set()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert loader.statistics().loads == 1


def test_load_that_failed_is_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    made = _generation(bucket, tmp_path, "a", 100)
    loader = IndexLoader(bucket, 10**9)
    content = bucket.get(made.rows.key)
    bucket.delete(made.rows.key)
    with pytest.raises(IndexDamaged), loader.held(made):
        pass
    bucket.put(made.rows.key, content)
    with loader.held(made) as loaded:
        assert loaded.rows.num_rows == 100
    assert loader.statistics().damaged == 1


def test_generation_comes_back_from_json() -> None:
    with_guard = Guard(TABLE, "u", ("a", "ß"), ("k",))
    made = Generation(
        "i", "g", FixedClock().now(), "me", Model("p", "local", "m", "d"), IndexParameters(metric=Metric.L2),
        3, 4, replace(SOURCE, snapshot_id=2**60), with_guard, 1.5, *(2 * [IndexFile("k", 1, "s")]),
    )  # fmt: skip
    assert Generation.from_json(made.to_json()) == made
    with pytest.raises(ValueError, match="format 2"):
        Generation.from_json({**made.to_json(), "format": 2})


@pytest.mark.parametrize("name", ["", "-a", "a/b", "..", "ä", "a b", "x" * 101, "\u212a"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name of a vector index"):
        checked_name(name)


def _vectors(values: list[list[float] | None], kind: pa.DataType) -> pa.Table:
    return pa.table({"id": range(len(values)), "vector": pa.array(values, kind)})


LISTS = pa.list_(pa.float32())


def test_rows_without_a_vector_are_left_out() -> None:
    table = pa.concat_tables([_vectors([[1, 2], None], LISTS), _vectors([[3, 4]], LISTS).slice(0)])
    rows, vectors = split(table, SOURCE)
    assert (rows.to_pydict(), vectors.tolist()) == ({"id": [0, 0]}, [[1, 2], [3, 4]])
    sliced, part = split(_vectors([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float64(), 2)).slice(1), SOURCE)
    assert (sliced["id"].to_pylist(), part.tolist(), part.dtype) == ([1, 2], [[3, 4], [5, 6]], np.float32)
    empty, none = split(_vectors([], pa.list_(pa.float32(), 2)), SOURCE)
    assert (len(empty), none.shape) == (0, (0, 2))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_vectors([[1, 2], [1]], LISTS), "vectors of 1 and 2 numbers"),
        (_vectors([[1, None]], LISTS), "a number is missing"),
        (_vectors([], LISTS), "length is not known"),
        (_vectors([None], LISTS), "length is not known"),
        (pa.table({"id": [1], "vector": [1.0]}), "expected a list of numbers"),
        (pa.table({"id": [1], "vector": [["a"]]}), "expected a list of numbers"),
        (pa.table({"other": [1]}), "does not exist"),
    ],
)
def test_what_is_no_column_of_vectors_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        split(table, SOURCE)
    assert message in str(caught.value)


def test_sleeper_does_not_win_a_slot_that_was_given_free(bucket: Bucket) -> None:
    clock = FixedClock()
    store = GenerationStore(bucket, clock)
    settings = VectorSettings(grace_seconds=0, keep_generations=0, abandoned_hours=1)
    server = VectorIndexes(bucket, clock, settings, Rows(), Recorder())
    asleep = server.build(request())
    before = store.live("texts")
    for _ in range(3):
        server.build(request())
    clock.time += timedelta(hours=2)
    server.clean("texts")
    assert bucket.names(f"{PREFIX}/texts/live") == ["000000000004.json"]
    with pytest.raises(CommitConflict):
        store.put_live("texts", asleep, before, by="", why="build")
    with pytest.raises(CommitConflict):
        store.put_live("texts", asleep, None, by="", why="build")
    live = store.live("texts")
    assert live is not None
    assert live.number == 4


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Bucket, ObjectCache]]:
    """A bucket whose objects are read from local copies."""
    cache = ObjectCache(tmp_path / "cache")
    yield open_memory_bucket("main", cache), cache
    cache.close()


def test_index_is_searched_from_local_copies(elsewhere: tuple[Bucket, ObjectCache]) -> None:
    bucket, cache = elsewhere
    rows = Rows()
    server, other = indexes(bucket, rows), indexes(bucket, rows)
    server.build(request())
    assert turn_found(server) == turn_found(other) == 0
    assert cache.statistics().in_use_bytes > 0  # a copy stays as long as it is mapped
    rows.turn = 1
    other.build(request())
    assert turn_found(server) == 1
    server.close()
    other.close()
    assert cache.statistics().in_use_bytes == 0
    cache.clear()
    assert turn_found(server) == 1


def test_file_that_is_gone_from_the_bucket_is_made_again(elsewhere: tuple[Bucket, ObjectCache]) -> None:
    bucket, _ = elsewhere
    rows = Rows()
    made = indexes(bucket, rows).build(request())
    bucket.delete(made.vectors.key)
    server = indexes(bucket, rows)
    rows.turn = 1
    assert turn_found(server) == 1
    assert server.live("texts").why == "repair"
    with IndexLoader(bucket, 10**9).held(server.live("texts").generation) as loaded:  # type: ignore[arg-type]
        assert loaded.rows.num_rows == 60
