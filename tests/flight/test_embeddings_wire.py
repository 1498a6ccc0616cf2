"""Texts of a table become vectors that are searched by meaning, with the real built-in model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded, token
from conftest import Server
from lakehouse_client import LakehouseClientError, connect

pytest.importorskip("wordllama")

REFUSED = (flight.FlightError, pa.ArrowException)
ROWS = 40_000
CONFIG = """
[vectors]
refresh_ms = 0
[[roles]]
name = "even"
grants = [{ on = "lake.docs.notes", row_filter = "id % 2 = 0" }]
[[roles]]
name = "untitled"
grants = [{ on = "lake.docs.notes", masks = { title = "null" } }]
[[roles]]
name = "derived"
grants = [{ on = "lake.docs.notes_embeddings" }]
"""
ROLES = ("admin", "even", "untitled", "derived")
TEXTS = {
    1: ("Bread", "Flour, water, salt and yeast are kneaded, left to rise and baked in a hot oven."),
    2: ("Sailing", "The boat leans as wind fills the sails.\n\nA keel keeps it from drifting sideways."),
    3: ("Databases", "A transaction is either committed as a whole or rolled back."),
    4: ("Gardens", "Tomatoes want sun, a stake to climb and water every morning."),
    5: ("Nothing", None),
    6: ("Bicycles", "A chain carries the force of the pedals to the rear wheel.\n\nBrakes stop the wheels."),
}


class Searcher(Caller):
    """A caller that embeds notes, and searches them."""

    def embed(self, **request: Any) -> tuple[int, int, int, int]:
        wanted = {"table": "notes", "db_schema": "docs", "columns": ["title", "body"], "keys": ["id"]}
        done = self.call("vectors.embed", **{**wanted, **request})
        return done["unchanged"], done["embedded"], done["deleted"], done["chunks"]

    def ended(self, run: dict[str, Any]) -> dict[str, Any]:
        while run["ended_at"] is None:
            time.sleep(0.02)
            run = self.call("vectors.runs.status", run=run["id"])
        return run

    def find(self, *texts: str, **request: Any) -> pa.Table:
        return self.search("notes", texts=texts, **request)[1]

    def fill_notes(self, rows: dict[int, tuple[str, str | None]]) -> None:
        data = pa.table(
            {
                "id": pa.array(rows.keys(), pa.int64()),
                "title": [title for title, _ in rows.values()],
                "body": pa.array([body for _, body in rows.values()], pa.string()),
            }
        )
        self.fill("docs.notes", data)


def _start(directory: Path) -> Server:
    return start_guarded(directory, CONFIG, ROLES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = _start(tmp_path_factory.mktemp("embeddings"))
    yield found
    found.stop()


@pytest.fixture
def who(server: Server) -> Searcher:
    client = Searcher(server)
    client.sql("CREATE SCHEMA IF NOT EXISTS docs")
    for name in ("notes", "notes_embeddings"):
        client.sql(f"DROP TABLE IF EXISTS docs.{name}")
    client.fill_notes(TEXTS)
    return client


def test_texts_are_found_by_their_meaning(who: Searcher) -> None:
    told = who.results(
        "vectors.embed", table="notes", db_schema="docs", columns=["title", "body"], keys=["ID"]
    )
    assert told[-1]["table"] == "lake.docs.notes_embeddings"
    assert (told[-1]["model"]["provider"], told[-1]["model"]["name"]) == ("local", "wordllama")
    rows = who.sql("FROM docs.notes_embeddings ORDER BY id, chunk_id")
    assert rows.column_names == ["id", "chunk_id", "chunk_text", "vector", "content_hash"]
    assert rows["id"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert rows["chunk_text"][1].as_py() == "Sailing\n\n" + str(TEXTS[2][1])
    assert {len(vector) for vector in rows["vector"].to_pylist()} == {256}
    built = who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
    assert (built["source"], built["keys"], built["count"]) == ("lake.docs.notes", ["id"], 6)
    assert built["model"]["name"] == "wordllama"
    found = who.find("how to bake a loaf", "commit or roll back", "growing vegetables outside", k=1)
    assert found["id"].to_pylist() == [1, 3, 4]
    found = who.find("how to bake a loaf", k=3, filter="title IN ('Gardens', 'Nothing')")
    assert set(found["id"].to_pylist()) == {4, 5}


def test_client_searches_by_text_and_by_vector(who: Searcher, server: Server) -> None:
    who.embed()
    who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs", metric="l2")
    with connect(server.uri, token=token("admin")) as lake:
        by_text = lake.search_vectors("notes", "how to bake a loaf", k=2)
        assert by_text["id"].to_pylist()[0] == 1
        queries = lake.embed(["how to bake a loaf"], purpose="query").to_pylist()
        assert lake.search_vectors("notes", queries, k=2, ef=50).equals(by_text)
        assert lake.search_vectors("notes", ["bread"], where="id > 2")["id"].to_pylist()[0] > 2
        with pytest.raises(LakehouseClientError, match="VECTOR_INDEX_NOT_FOUND"):
            lake.search_vectors("nothing", "x")


def test_another_run_does_only_what_has_changed(who: Searcher) -> None:
    cut = {"chunk_size": 60}
    assert who.embed(**cut) == (0, 6, 0, 12)
    before = who.sql("SELECT * FROM docs.notes_embeddings").sort_by(
        [("id", "ascending"), ("chunk_id", "ascending")]
    )
    assert who.embed(**cut) == (6, 0, 0, 0)
    who.sql("UPDATE docs.notes SET body = 'Rye.' WHERE id = 1")
    who.sql("DELETE FROM docs.notes WHERE id = 2")
    who.sql("INSERT INTO docs.notes VALUES (7, 'Ünïcode 🦆', 'quack'), (8, ' ', NULL)")
    assert who.embed(**cut) == (5, 2, 1, 2)
    now = who.sql("SELECT * FROM docs.notes_embeddings").sort_by(
        [("id", "ascending"), ("chunk_id", "ascending")]
    )
    kept = lambda t: t.filter(pa.compute.is_in(t["id"], pa.array([3, 4, 5, 6])))  # noqa: E731
    assert kept(now).equals(kept(before))
    assert now["chunk_text"].to_pylist()[0] == "Bread\n\nRye."
    assert 2 not in now["id"].to_pylist()
    assert now["chunk_text"].to_pylist()[-1] == "Ünïcode 🦆\n\nquack"
    assert who.embed(**cut, chunk_by="sentence")[1] == 6  # cut in another way: all of it anew
    pieces = who.sql("SELECT id, chunk_id FROM docs.notes_embeddings").to_pylist()
    assert len({(p["id"], p["chunk_id"]) for p in pieces}) == len(pieces)


def test_index_made_before_a_change_shows_what_was_there_then(who: Searcher) -> None:
    who.embed()
    who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
    who.sql("DELETE FROM docs.notes WHERE id = 1")
    assert who.find("how to bake a loaf", k=1)["id"].to_pylist() == [1]
    who.embed()
    who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
    assert 1 not in who.find("how to bake a loaf", k=10)["id"].to_pylist()


def test_what_may_be_read_of_the_texts_may_be_found(who: Searcher, server: Server) -> None:
    """Grants on the table with the texts decide, whatever may be read of the table with the vectors."""
    who.embed()
    who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
    even = Searcher(server, "even")
    assert sorted(even.find("how to bake a loaf", k=10)["id"].to_pylist()) == [2, 4, 6]
    assert even.find("how to bake a loaf", k=10, filter="id > 4")["id"].to_pylist() == [6]
    # A row that is let through now, with what it was when it was not.
    who.sql("UPDATE docs.notes SET id = 10 WHERE id = 1")
    assert sorted(even.find("how to bake a loaf", k=10)["id"].to_pylist()) == [2, 4, 6]
    with pytest.raises(REFUSED, match="which is masked for untitled"):
        Searcher(server, "untitled").find("how to bake a loaf")
    derived = Searcher(server, "derived")
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        derived.find("how to bake a loaf")
    for other in (even, derived):
        with pytest.raises(REFUSED, match=r"PERMISSION_DENIED|NOT_FOUND"):
            other.embed(into="mine")


def test_two_runs_at_once_store_every_piece_once(who: Searcher, server: Server) -> None:
    rows = {n: (f"note {n}", f"Text number {n}.") for n in range(9000)}
    who.fill_notes(rows)
    ended: list[tuple[int, int, int, int]] = []

    def run() -> None:
        with contextlib.suppress(*REFUSED):  # of which the other one is told
            ended.append(Searcher(server).embed())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended
    (found,) = who.sql("SELECT count(*) AS n, count(DISTINCT id) AS i FROM docs.notes_embeddings").to_pylist()
    assert found == {"n": 9000, "i": 9000}


def test_runs_in_the_background_tell_how_far_they_are_and_can_be_stopped(
    who: Searcher, server: Server
) -> None:
    names = {"table": "notes", "db_schema": "docs", "columns": ["title", "body"], "keys": ["id"]}
    run = who.call("vectors.runs.embed", **names)
    assert (run["mode"], run["table"]) == ("vectors.embed", "lake.docs.notes_embeddings")
    done = who.ended(run)
    assert (done["state"], done["rows_in"], done["rows_stored"], done["progress"]) == ("succeeded", 6, 6, 1.0)
    assert done["details"] == {
        "unchanged": "0", "embedded": "6", "deleted": "0", "chunks": "6", "model": "wordllama"
    }  # fmt: skip
    source = {"table": "notes_embeddings", "db_schema": "docs"}
    built = who.ended(who.call("vectors.runs.build", index="later", **source))
    assert (built["table"], built["message"]) == ("later", "the index of 6 vectors is live")
    assert built["details"]["generation"] == next(
        each["generation"] for each in who.call("vectors.list")["indexes"] if each["index"] == "later"
    )
    failed = who.ended(who.call("vectors.runs.build", index="later", create=True, **source))
    assert (failed["state"], failed["error_code"]) == ("failed", "VECTOR_INDEX_ALREADY_EXISTS")
    who.fill_notes({n: ("", f"Text number {n} of very many.") for n in range(100, 150_000)})
    long = who.call("vectors.runs.embed", **names)
    waiting = who.call("vectors.runs.build", index="more", **source)  # one at a time
    while who.call("vectors.runs.status", run=long["id"])["progress"] in (None, 0.0):
        time.sleep(0.02)
    assert who.call("vectors.runs.status", run=waiting["id"])["state"] == "queued"
    listed = who.call("vectors.runs.list")["runs"]
    assert [each["id"] for each in listed][:2] == [waiting["id"], long["id"]]
    other = Searcher(server, "even")
    assert other.call("vectors.runs.list")["runs"] == []
    with pytest.raises(REFUSED, match="there is no run"):
        other.call("vectors.runs.cancel", run=long["id"])
    who.call("vectors.runs.cancel", run=long["id"])
    stopped = who.ended(long)
    assert (stopped["state"], stopped["error_code"]) == ("cancelled", "CANCELLED")
    assert who.ended(waiting)["error_code"] == "INVALID_REQUEST"  # what it is of is not filled to its end
    (there,) = who.sql("SELECT count(DISTINCT id) AS n FROM docs.notes_embeddings")["n"].to_pylist()
    assert 6 <= there < 149_906


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"keys": []}, "cannot be told apart"),
        ({"keys": ["title2"]}, "does not exist"),
        ({"columns": ["nothing"]}, "does not exist"),
        ({"columns": []}, "columns"),
        ({"model": "nothing"}, "MODEL_NOT_FOUND"),
        ({"chunk_size": 0}, "size = 0"),
        ({"chunk_overlap": 600}, "overlap = 600"),
        ({"into": "notes"}, "cannot take the embeddings"),
        ({"table": "nothing"}, "TABLE_NOT_FOUND"),
    ],
)
def test_embedding_that_cannot_be_is_told_why(who: Searcher, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(REFUSED) as caught:
        who.embed(**request_)
    assert message in str(caught.value)


def test_key_has_to_be_one(who: Searcher) -> None:
    who.sql("INSERT INTO docs.notes VALUES (1, 'again', 'x')")
    with pytest.raises(REFUSED, match="id = 1 comes twice"):
        who.embed()
    who.sql("DELETE FROM docs.notes WHERE id = 1")
    who.sql("INSERT INTO docs.notes VALUES (NULL, 'again', 'x')")
    with pytest.raises(REFUSED, match="no value in its key"):
        who.embed()
    with pytest.raises(REFUSED, match=r"run vectors\.embed once more"):  # which was not made to its end
        who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
    who.sql("DELETE FROM docs.notes WHERE id IS NULL")
    assert who.embed()[0] + who.embed()[0] >= 5


def test_search_by_text_wants_to_know_the_model(who: Searcher) -> None:
    who.embed()
    who.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
    for wrong in ({}, {"texts": ["a"], "vectors": [[1.0]]}):
        with pytest.raises(REFUSED, match="either vectors or texts"):
            who.call("vectors.search", index="notes", **wrong)
    who.sql("CREATE OR REPLACE TABLE docs.plain AS SELECT id, vector FROM docs.notes_embeddings")
    who.call("vectors.build", index="plain", table="plain", db_schema="docs")
    with pytest.raises(REFUSED, match="nobody said which model"):
        who.call("vectors.search", index="plain", texts=["a"])


def test_run_that_was_killed_is_taken_up(tmp_path: Path) -> None:
    docs = {n: (f"note {n}", f"Text number {n} about things.") for n in range(ROWS)}
    server = _start(tmp_path)
    who = Searcher(server)
    who.sql("CREATE SCHEMA docs")
    who.fill_notes(docs)
    started = threading.Event()

    def embed() -> None:
        wanted = {"table": "notes", "db_schema": "docs", "columns": ["body"], "keys": ["id"]}
        with contextlib.suppress(*REFUSED):
            for told in who.stream("vectors.embed", **wanted):
                if told.get("progress", 0) > 0.3:
                    started.set()

    thread = threading.Thread(target=embed)
    thread.start()
    assert started.wait(60)
    server.kill()
    thread.join()
    server = _start(tmp_path)
    try:
        who = Searcher(server)
        (there,) = who.sql("SELECT count(DISTINCT id) AS n FROM docs.notes_embeddings")["n"].to_pylist()
        assert 0 < there < ROWS
        unchanged, embedded, _, _ = who.embed(columns=["body"])
        assert (unchanged, embedded) == (there, ROWS - there)
        counts = "SELECT count(*) AS n, count(DISTINCT (id, chunk_id)) AS d, count(DISTINCT id) AS i"
        (found,) = who.sql(f"{counts} FROM docs.notes_embeddings").to_pylist()
        assert found["n"] == found["d"]
        assert found["i"] == ROWS
    finally:
        server.stop()
