"""Words belong to a generation: swapped with it, loaded when they are asked for, made again when damaged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lakehouse.ai.provider import Check, ModelIdentity, Vectors, unchecked
from lakehouse.ai.reranking import UNSCORED
from lakehouse.clock import SystemClock
from lakehouse.config.vectors import VectorSettings
from lakehouse.errors import InvalidRequest, LimitExceeded
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.types import TableName
from lakehouse.vectors.generation import Generation, Guard, VectorColumn
from lakehouse.vectors.hybrid import Ask, Matches, Mode, Ranked, fused
from lakehouse.vectors.indexes import BuildRequest, VectorIndexes
from lakehouse.vectors.parameters import Algorithm, IndexParameters
from lakehouse.vectors.selection import Selection

TABLE = TableName("lake", "docs", "notes")
SOURCE = VectorColumn(TABLE, "u-1", "vector", ("id", "note"))
GUARD = Guard(TABLE, "u-1", ("id", "note", "vector"), ("id",))
COUNT = 40


class Rows:
    """A table in memory: note 0 is of the turn, the others of their number."""

    def __init__(self) -> None:
        self.turn = self.reads = 0

    def read(self, source: VectorColumn, check: Callable[[], None]) -> tuple[VectorColumn, pa.Table]:
        self.reads += 1
        notes = [f"turn{self.turn} all", *(f"note{n} all" for n in range(1, COUNT))]
        vectors = np.random.default_rng(5).standard_normal((COUNT, 4)).astype("f4")
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
        table = pa.table({"id": range(COUNT), "note": notes, "vector": lists})
        return replace(source, snapshot_id=self.turn), table


class Recorder(list[ChangeEvent]):
    def record(self, *events: ChangeEvent) -> None:
        self.extend(events)


class Judge:
    """Scores texts by a function of them, as a model would that answers always the same."""

    model = ModelIdentity("local", "judge", "1", 0)
    method = "generate"

    def __init__(self, score: Callable[[str], float]) -> None:
        self.score = score
        self.read: list[list[str]] = []

    def rerank(self, query: str, texts: Sequence[str], *, check: Check = unchecked) -> Vectors:
        self.read.append(list(texts))
        return np.array([self.score(text) for text in texts], dtype=np.float32)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_local_bucket("main", str(tmp_path / "lake"))


def indexes(bucket: Bucket, rows: Rows, **settings: float) -> VectorIndexes:
    wanted = VectorSettings(**{"refresh_ms": 0, **settings})  # type: ignore[arg-type]
    return VectorIndexes(bucket, SystemClock(), wanted, rows, Recorder())


def build(server: VectorIndexes, lexical: str = "note") -> Generation:
    parameters = IndexParameters(algorithm=Algorithm.EXACT)
    return server.build(BuildRequest("notes", SOURCE, parameters, GUARD, lexical=lexical))


def ask(server: VectorIndexes, *texts: str, mode: Mode = Mode.LEXICAL, **wanted: object) -> Matches:
    vectors = None if mode is Mode.LEXICAL else np.ones((len(texts), 4))
    return server.ask("notes", Ask(mode, **{"k": 5, "vectors": vectors, "texts": texts, **wanted}))  # type: ignore[arg-type]


def ids(found: Matches) -> list[int]:
    ids: list[int] = found.rows["id"].to_pylist()
    return ids


def test_words_are_swapped_with_the_vectors_while_searches_run(bucket: Bucket) -> None:
    rows = Rows()
    builder, searcher = indexes(bucket, rows, keep_generations=0, grace_seconds=0), indexes(bucket, rows)
    build(builder)
    ended, failed = threading.Event(), []
    searched = [0] * 3

    def search(number: int, mode: Mode) -> None:
        while not ended.is_set():
            try:
                found = ask(searcher, "all", "note7", mode=mode, k=COUNT)
                turn = found.generation.source.snapshot_id
                assert f"turn{turn} all" in found.rows["note"].to_pylist()
                assert len(found.queries[0]) == COUNT
                searched[number] += 1
            except Exception as error:  # noqa: BLE001 (whatever it is, it must not be)
                failed.append(error)
                return

    threads = [threading.Thread(target=search, args=each) for each in enumerate(Mode)]
    for thread in threads:
        thread.start()
    for turn in range(1, 16):
        rows.turn = turn
        build(builder)
    ended.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert min(searched) > 0
    assert ids(ask(searcher, "turn15")) == [0]
    assert ids(ask(searcher, "turn0")) == []


def test_generation_without_words_is_searched_as_before_and_says_how_to_have_them(bucket: Bucket) -> None:
    server = indexes(bucket, Rows())
    made = build(server, lexical="")
    told = made.to_json()
    del told["lexical"]  # as it was written before there were words
    assert Generation.from_json(told) == made
    assert len(server.search("notes", np.ones(4), 3).rows) == 3
    assert len(ids(ask(server, "x", mode=Mode.VECTOR))) == 5
    for mode in (Mode.LEXICAL, Mode.HYBRID):
        with pytest.raises(InvalidRequest, match="'notes' has no words") as refused:
            ask(server, "note1", mode=mode)
        assert "vectors.build" in str(refused.value.hint)
    made = build(server)
    assert Generation.from_json(made.to_json()) == made
    assert ids(ask(server, "note1")) == [1]
    assert made.lexical is not None
    assert made.size_bytes == sum(bucket.size(file.key) for file in made.files)


def test_words_of_another_version_are_not_searched_by(bucket: Bucket) -> None:
    server = indexes(bucket, Rows())
    made = build(server)
    assert made.lexical is not None
    later = replace(made, id=server.store.new_id(), lexical=replace(made.lexical, words=99))
    server.store.put_live("notes", later, server.live("notes"), by="", why="build")
    with pytest.raises(InvalidRequest, match="words that another version took"):
        ask(server, "note1")


@pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
def test_damaged_words_are_made_again_by_the_first_search_that_needs_them(
    bucket: Bucket, damage: str
) -> None:
    rows = Rows()
    made = build(indexes(bucket, rows))
    assert made.lexical is not None
    key = made.lexical.file.key
    content = bucket.get(key)
    if damage == "gone":
        bucket.delete(key)
    else:
        bucket.put(key, content[:-9] if damage == "cut" else content.replace(b"note1", b"note9"))
    server = indexes(bucket, rows)
    rows.reads, rows.turn = 0, 1
    assert len(server.search("notes", np.ones(4), 3).rows) == 3  # which needs none
    assert (rows.reads, server.live("notes").why) == (0, "build")
    found = []
    threads = [threading.Thread(target=lambda: found.append(ids(ask(server, "turn1")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0]] * 4
    assert (rows.reads, server.live("notes").why) == (1, "repair")


def test_words_are_loaded_when_they_are_needed_and_within_the_budget(bucket: Bucket) -> None:
    rows = Rows()
    server = indexes(bucket, rows)
    made = build(server)
    assert made.lexical is not None
    size = made.lexical.file.size_bytes
    ask(server, "x", mode=Mode.VECTOR)
    assert server.loader.statistics().bytes == made.size_bytes - size
    for _ in range(3):
        ask(server, "x", mode=Mode.HYBRID)
    assert (server.loader.statistics().bytes, server.loader.statistics().loads) == (made.size_bytes, 2)
    server.loader.forget("notes")
    assert server.loader.statistics().bytes == 0
    one = made.size_bytes - size
    small = indexes(bucket, rows, memory_bytes=max(one, size))
    for mode in (*Mode, *Mode):  # not both stay, and all are answered
        ask(small, "all", mode=mode)
    assert small.loader.statistics().bytes <= max(one, size)
    with pytest.raises(LimitExceeded, match="'notes' takes"):
        ask(indexes(bucket, rows, memory_bytes=max(one, size) - 1), "all", mode=Mode.HYBRID)


def test_ranks_are_fused_by_their_reciprocals() -> None:
    def ranked(*positions: int, words: bool) -> Ranked:
        there, nothing = np.arange(1, len(positions) + 1, dtype="i4"), np.zeros(len(positions), "i4")
        scores = np.zeros(len(positions), "f4")
        return Ranked(np.array(positions), scores, *((nothing, there) if words else (there, nothing)))

    near, alike = ranked(5, 3, 9, words=False), ranked(9, 7, 5, 1, words=True)
    both = fused(near, alike)
    # 5: 1/61 + 1/63, 9: 1/63 + 1/61, 3 and 7: 1/62, 1: 1/64; of equals that of the vectors first.
    assert both.positions.tolist() == [5, 9, 3, 7, 1]
    assert both.vector_ranks.tolist() == [1, 3, 2, 0, 0]
    assert both.lexical_ranks.tolist() == [3, 1, 0, 2, 4]
    assert both.scores == pytest.approx([1 / 61 + 1 / 63, 1 / 61 + 1 / 63, 1 / 62, 1 / 62, 1 / 64])
    assert fused(near, alike, rrf_k=0).scores[0] == pytest.approx(1 + 1 / 3)
    nothing = ranked(words=True)
    assert fused(near, nothing).positions.tolist() == [5, 3, 9]
    assert fused(ranked(words=False), nothing).positions.tolist() == []


def test_reranker_orders_the_candidates_of_each_query(bucket: Bucket) -> None:
    server = indexes(bucket, Rows())
    build(server)
    judge = Judge(lambda text: UNSCORED if "note3 " in text else float("note9" in text))
    found = ask(server, "all note1", "nothing", "all", k=3, candidates=10, reranker=judge)
    assert [len(each) for each in judge.read] == [10, 10]  # nothing was found for the second: nobody asked
    assert ids(found) == [9, 1, 0, 9, 0, 1]  # of equals the former order
    assert [len(each) for each in found.queries] == [3, 0, 3]
    again = ask(server, "all note3", k=10, candidates=1, reranker=judge)
    assert (len(ids(again)), ids(again)[-1]) == (10, 3)  # what has no score comes last
    only = Selection(np.arange(COUNT) % 2 == 0)
    wanted = Ask(Mode.HYBRID, 4, np.ones((1, 4)), ["all"], candidates=COUNT, reranker=judge)
    assert all(n % 2 == 0 for n in ids(server.ask("notes", wanted, select=lambda _: only)))
    assert len(judge.read[-1]) == COUNT // 2


def test_reranking_stops_between_queries(bucket: Bucket) -> None:
    server = indexes(bucket, Rows())
    build(server)
    judge = Judge(lambda _: 1.0)

    class Stopped(Exception):
        pass

    def check() -> None:
        if judge.read:
            raise Stopped

    with pytest.raises(Stopped):
        server.ask("notes", Ask(Mode.LEXICAL, 3, texts=["all"] * 3, reranker=judge), check=check)
    assert len(judge.read) == 1
    with pytest.raises(InvalidRequest, match="k = 0"):
        Ask(Mode.LEXICAL, 0, texts=["all"])
