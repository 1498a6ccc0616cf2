"""Rows are found by words and meaning at once, over the wire, on the docstrings of Python's library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded, token
from conftest import Server
from lakehouse_client import LakehouseClientError, connect
from library_questions import QUESTIONS, docstrings

pytest.importorskip("wordllama")

REFUSED = (flight.FlightError, pa.ArrowException)
ROLES = ("admin", "threads", "masked")
CONFIG = """
[vectors]
refresh_ms = 0
[[ai.models]]
name = "local"
[[roles]]
name = "threads"
grants = [{ on = "lake.docs.*", row_filter = "module = 'threading'" }]
[[roles]]
name = "masked"
grants = [{ on = "lake.docs.*", masks = { doc = "null" } }]
"""


class Searcher(Caller):
    """A caller of searches by text."""

    def find(self, *texts: str, index: str = "library", **request: Any) -> pa.Table:
        return self.search(index, texts=texts, **request)[1]

    def names(self, *texts: str, **request: Any) -> list[str]:
        return self.find(*texts, **request)["name"].to_pylist()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = start_guarded(tmp_path_factory.mktemp("hybrid"), CONFIG, ROLES)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def who(server: Server) -> Searcher:
    client = Searcher(server)
    client.sql("CREATE SCHEMA docs")
    rows = docstrings()
    client.fill("docs.library", pa.Table.from_pylist(rows))
    client.call("vectors.embed", table="library", db_schema="docs", columns=["name", "doc"], keys=["name"])
    built = client.call("vectors.build", index="library", table="library_embeddings", db_schema="docs")
    assert built["lexical"] == "chunk_text"
    vectors = pa.table(
        {
            "id": range(4),
            "note": pa.array(["red apple", "green apple", None, "Äpfel 林檎 りんご"], pa.string()),
            "vector": pa.array([[1.0, 0], [0, 1], [1, 1], [-1, 0]], pa.list_(pa.float32())),
        }
    )
    client.fill("docs.own", vectors)
    return client


def test_words_and_meaning_together_find_what_either_misses(who: Searcher) -> None:
    """The name that answers a question comes sooner, and is among the first five more often."""
    reciprocal, missed = {}, {}
    for mode in ("vector", "lexical", "hybrid"):
        rows = who.find(*QUESTIONS, mode=mode, k=10)
        ranks: dict[tuple[int, str], int] = {}
        for query_, name, rank in zip(
            *(rows[each].to_pylist() for each in ("query", "name", "rank")), strict=True
        ):
            ranks.setdefault((query_, name), rank)
        found = [ranks.get((number, name)) for number, name in enumerate(QUESTIONS.values())]
        reciprocal[mode] = sum(1 / rank for rank in found if rank) / len(found)
        missed[mode] = {number for number, rank in enumerate(found) if rank is None or rank > 5}
    assert reciprocal["hybrid"] > max(reciprocal["vector"], reciprocal["lexical"]), reciprocal
    assert len(missed["hybrid"]) < min(len(missed["vector"]), len(missed["lexical"])), missed
    for side in ("vector", "lexical"):
        assert missed[side] - missed["hybrid"]


def test_ranks_of_both_sides_make_the_score(who: Searcher) -> None:
    texts = ["matching file names with wildcards", "covariance"]
    rows = who.find(*texts, mode="hybrid", k=200, candidates=50, rrf_k=10)
    assert rows.column_names[:5] == ["query", "rank", "score", "vector_rank", "lexical_rank"]
    sides = {mode: who.find(*texts, mode=mode, k=200) for mode in ("vector", "lexical")}
    for number in range(len(texts)):
        mine = [row for row in rows.to_pylist() if row["query"] == number]
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        for side, found in sides.items():
            ranks = {(r["name"], r["chunk_id"]): r["rank"] for r in found.to_pylist() if r["query"] == number}
            for row in mine:
                assert row[f"{side}_rank"] == ranks.get((row["name"], row["chunk_id"]))
        scores = [
            sum(1 / (10 + row[side]) for side in ("vector_rank", "lexical_rank") if row[side]) for row in mine
        ]
        assert [row["score"] for row in mine] == pytest.approx(scores)
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("mode", ["vector", "lexical", "hybrid"])
def test_filters_and_row_filters_are_honoured_exactly(who: Searcher, server: Server, mode: str) -> None:
    text = "wait until a thread is done"
    threads = sorted(row["name"] for row in docstrings() if row["module"] == "threading")
    for searcher, request in (
        (who, {"filter": "module = 'threading'"}),
        (Searcher(server, "threads"), {}),
    ):
        found = searcher.names(text, mode=mode, k=1000, **request)
        assert set(found) <= set(threads)
        if mode != "lexical":
            assert set(found) == set(threads)  # all that fit, not only those among the best of all rows
        assert len(searcher.names(text, mode=mode, k=5, candidates=1, **request)) == 5
    # Behind the filter words are as rare as they are there: the same as a filter of one's own gives.
    mine = Searcher(server, "threads").find(text, mode=mode, k=7)
    assert mine.equals(who.find(text, mode=mode, k=7, filter="module = 'threading'"))
    assert who.names(text, mode=mode, filter="module = 'nothing'") == []
    with pytest.raises(REFUSED, match="masked for masked"):
        Searcher(server, "masked").find(text, mode=mode)
    with pytest.raises(REFUSED, match="threads may not have a search reranked"):
        Searcher(server, "threads").find(text, mode=mode, rerank="local")


def test_queries_without_a_known_word(who: Searcher) -> None:
    for text in ("", "zzzzqq", "🦆"):
        assert who.names(text, mode="lexical") == []
    rows = who.find("zzzzqq", "mutex lock", mode="hybrid", k=3)
    assert rows["query"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert rows["lexical_rank"].to_pylist()[:3] == [None] * 3
    assert rows["vector_rank"].to_pylist()[:3] == [1, 2, 3]
    long = "wait for the thread " * 50_000
    assert who.names(long, mode="lexical", k=1)[0].startswith("threading.")
    assert len(who.names(long, mode="hybrid", k=3)) == 3


@pytest.mark.parametrize("mode", ["vector", "lexical", "hybrid"])
def test_model_orders_the_candidates_anew(who: Searcher, server: Server, mode: str) -> None:
    texts = ["undo percent-encoding of a URL", "smallest item of a heap"]
    rows = who.find(*texts, mode=mode, k=4, candidates=30, rerank="local")
    assert rows["rank"].to_pylist() == [1, 2, 3, 4] * 2
    candidates = who.find(*texts, mode=mode, k=30)
    for number, text in enumerate(texts):
        told = candidates.filter(pa.compute.equal(candidates["query"], number))
        said = who.call("ai.rerank", query=text, texts=told["chunk_text"].to_pylist(), model="local", top=4)
        mine = rows.filter(pa.compute.equal(rows["query"], number))
        assert mine["chunk_text"].to_pylist() == [told["chunk_text"][n].as_py() for n in said["order"]]
        assert mine["rerank_score"].to_pylist() == pytest.approx(said["scores"], abs=1e-5)
    with connect(server.uri, token=token("admin")) as lake:
        again = lake.search_vectors("library", texts, k=4, mode=mode, rerank="", candidates=30)  # type: ignore[arg-type]
        assert again.equals(rows)


def test_index_of_vectors_from_elsewhere_has_words_of_a_column(who: Searcher) -> None:
    request = {"index": "own", "table": "own", "db_schema": "docs", "keys": ["id"]}
    assert who.call("vectors.build", **request)["lexical"] is None
    with pytest.raises(REFUSED, match=r"no words to be searched by.*vectors\.build"):
        who.find("apple", index="own", mode="lexical")
    with pytest.raises(REFUSED, match="to be reranked"):
        who.find("apple", index="own", vectors=[[1, 0]], rerank="local")
    assert who.call("vectors.build", **request, lexical="NOTE")["lexical"] == "note"
    ids = lambda *texts, **request: who.find(*texts, index="own", **request)["id"].to_pylist()  # noqa: E731
    assert ids("APPLE green", mode="lexical") == [1, 0]
    assert ids("äpfel", "檎", mode="lexical") == [3, 3]
    rows = who.find("green", index="own", mode="hybrid", vectors=[[1, 0.1]])
    assert sorted(rows["id"].to_pylist()) == [0, 1, 2, 3]
    assert rows["id"][0].as_py() == 1  # third of the vectors, but the only one with the word
    rows = who.find("apple", index="own", vectors=np.eye(2)[:1].tolist(), rerank="local", k=4)
    assert (rows["id"].to_pylist()[-1], rows["rerank_score"].to_pylist()[-1]) == (2, None)  # has no text
    with pytest.raises(REFUSED, match="nobody said which model"):
        who.find("green", index="own", mode="hybrid")
    assert who.call("vectors.build", **request, lexical="")["lexical"] is None
    for wrong, message in (
        ({"lexical": "id"}, "int64, expected texts"),
        ({"lexical": "nothing"}, "does not exist"),
        ({"lexical": "note", "columns": ["id"]}, "columns does not name 'note'"),
    ):
        with pytest.raises(REFUSED, match=message):
            who.call("vectors.build", **request, **wrong)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"mode": "lexical"}, "expected texts"),
        ({"mode": "hybrid", "vectors": [[1.0]]}, "expected texts"),
        ({"rerank": "local", "vectors": [[1.0]]}, "expected texts"),
        ({"mode": "hybrid", "texts": ["a"], "vectors": [[1.0]] * 2}, "2 vectors came with 1 texts"),
        ({"mode": "lexical", "texts": ["a"], "vectors": [[1.0]]}, "either vectors or texts"),
        ({"texts": ["a"], "vectors": [[1.0]]}, "either vectors or texts"),
        ({"texts": ["a"] * 20, "rerank": "local", "candidates": 1000}, "at most 10000 rows"),
        ({"texts": ["a"], "mode": "both"}, "'vector', 'lexical' or 'hybrid'"),
        ({"texts": ["a"], "mode": "hybrid", "rerank": "nobody"}, "MODEL_NOT_FOUND"),
        ({"texts": ["a"], "candidates": 0}, "candidates"),
    ],
)
def test_wrong_requests_say_what_was_expected(who: Searcher, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(REFUSED, match=message):
        who.call("vectors.search", index="library", **request_)


def test_client_says_what_is_wrong(who: Searcher, server: Server) -> None:
    with connect(server.uri, token=token("admin")) as lake:
        found = lake.search_vectors("library", "covariance of two inputs", k=1, mode="hybrid")
        assert found["name"].to_pylist() == ["statistics.covariance"]
        with pytest.raises(LakehouseClientError, match="expected texts"):
            lake.search_vectors("library", [[1.0]], mode="hybrid")


def test_statements_search_by_words_and_both(who: Searcher, server: Server) -> None:
    text = "wait until a thread is done"
    call = f"vector_search('library', '{text}', 7"
    for request in (
        {"mode": "lexical"},
        {"mode": "hybrid"},
        {"mode": "hybrid", "rerank": "local"},
        {"rerank": ""},
    ):
        options = ", ".join(f"{name} := '{value}'" for name, value in request.items())
        found = who.sql(f"FROM {call}, {options}) ORDER BY rank")
        expected = who.find(text, k=7, **request)
        assert found.equals(expected.select(found.column_names).cast(found.schema))
        found = who.sql(f"SELECT name FROM {call}, filter := 'module = ''queue''', {options})")
        expected_names = who.names(text, k=7, filter="module = 'queue'", **request)
        assert sorted(found["name"].to_pylist()) == sorted(expected_names)
    mine = Searcher(server, "threads").sql(f"FROM {call}, mode := 'hybrid')")
    assert {name.partition(".")[0] for name in mine["name"].to_pylist()} == {"threading"}
    with pytest.raises(REFUSED, match="threads may not have a search reranked"):
        Searcher(server, "threads").sql(f"FROM {call}, rerank := 'local')")
    assert who.sql("FROM vector_search('library', NULL, mode := 'hybrid')").num_rows == 0
    assert who.sql(f"FROM {call}, mode := NULL)").num_rows == 7
    for wrong, message in (
        ("'x', mode := 'both'", "'vector', 'lexical', 'hybrid', found 'both'"),
        ("'x', mode := 1", "mode is a word in single quotes"),
        ("[1.0], mode := 'hybrid'", "expected a text"),
        ("'x', 0, mode := 'hybrid'", "k = 0"),
        ("'x', rerank := 'nobody'", "MODEL_NOT_FOUND"),
    ):
        with pytest.raises(REFUSED, match=message):
            who.sql(f"FROM vector_search('library', {wrong})")


def test_what_a_model_may_read_to_rerank_is_on_record(who: Searcher) -> None:
    who.find("mutex", "heap", mode="lexical", k=1, candidates=7, rerank="local")
    who.call("audit.flush")
    told = who.sql(
        "SELECT detail FROM system.audit WHERE action = 'vectors.search' ORDER BY time DESC LIMIT 1"
    )
    assert json.loads(told["detail"][0].as_py()) == {"model": "wordllama", "texts": 14}
