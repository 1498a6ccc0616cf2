"""Trials of index parameters over the wire, on a real corpus embedded by the built-in model."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from broken_ollama import BrokenOllama, Exchange, broken_ollama
from callers import Caller, start_guarded, token
from conftest import Server
from docstrings import docstrings

from flight_server.cli import run

pytest.importorskip("wordllama")

CONFIG = """
[vectors]
refresh_ms = 0
grace_seconds = 0
[[ai.models]]
name = "local"
[[ai.models]]
name = "words"
task = "generate"
provider = "ollama"
model = "smol"
host = "URL"
retries = 0
[[profiles]]
name = "inner"
datasets = ["lake.docs.*"]
roles = ["writer"]
[[roles]]
name = "half"
grants = [{ on = "lake.docs.*", row_filter = "id % 2 = 0" }]
[[roles]]
name = "masked"
grants = [{ on = "lake.docs.texts", masks = { body = "null" } }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.other.*" }]
"""
ROLES = ("admin", "writer", "reader", "half", "masked", "outsider")
COUNT = 2100
REFUSED = (flight.FlightError, pa.ArrowException)


def _ask(exchange: Exchange) -> None:
    """A model that asks for the first sentence of a text; of some texts it says nothing."""
    if "messages" not in exchange.asked:
        exchange.say({"models": [], "model_info": {}})
        return
    text = exchange.asked["messages"][-1]["content"].split("\n\n", 1)[1]
    sentence = "" if len(text) % 5 == 0 else f'\n "What does this: {text.split(".")[0]}?"\nor else'
    exchange.begin()
    done = {"done": True, "done_reason": "stop", "eval_count": 1, "prompt_eval_count": 1}
    for piece, end in ((sentence[:9], {}), (sentence[9:], {}), ("", done)):
        exchange.line({"message": {"role": "assistant", "content": piece}, "done": False, **end})
    exchange.end()


def _start(directory: Path, url: str) -> Server:
    return start_guarded(directory, CONFIG.replace("URL", url), ROLES)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def service() -> Iterator[BrokenOllama]:
    with broken_ollama(_ask) as found:
        yield found


@pytest.fixture(scope="module")
def server(directory: Path, service: BrokenOllama) -> Iterator[Server]:
    found = _start(directory, service.url)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def callers(server: Server) -> dict[str, Caller]:
    found = {role: Caller(server, role) for role in ROLES}
    admin = found["admin"]
    admin.sql("CREATE SCHEMA docs")
    texts = docstrings(COUNT)
    rows = pa.table({"id": range(COUNT), "name": [n for n, _ in texts], "body": [t for _, t in texts]})
    admin.fill("docs.texts", rows)
    admin.call(
        "vectors.embed", table="texts", db_schema="docs", columns=["body"], keys=["id"], chunk_by="none"
    )
    _build(admin, "texts")
    return found


def _build(caller: Caller, index: str, **parameters: Any) -> None:
    caller.call("vectors.build", index=index, table="texts_embeddings", db_schema="docs", **parameters)


@pytest.fixture(scope="module")
def swept(callers: dict[str, Caller]) -> dict[str, Any]:
    """What a sweep of the index said, after an evaluation set was made for it."""
    made = callers["writer"].call("hnsw.evals.autogen", index="texts", queries=200)
    assert (made["kind"], made["queries"], made["k"], made["vectors"]) == ("held_out", 200, 10, COUNT)
    told = callers["writer"].results(
        "hnsw.trial", index="texts", m=[8, 32], ef_construction=[40], ef_search=[10, 64, 128, 256]
    )
    shares = [each["progress"] for each in told[:-1]]
    assert shares == sorted(shares)
    assert len(shares) >= 4
    assert 0 <= shares[0] < shares[-1] <= 1
    return told[-1]


def test_the_live_index_has_the_recall_that_its_parameters_were_chosen_for(
    callers: dict[str, Caller], swept: dict[str, Any]
) -> None:
    writer, reader = callers["writer"], callers["reader"]
    assert (swept["reason"], swept["builds"], swept["measured"]) == ("done", 2, 8)
    told = reader.call("hnsw.best", index="texts", recall=0.99)
    best, front = told["best"], told["front"]
    assert best["recall"] >= best["recall_low"] >= 0.99
    assert best["trial"] in [each["trial"] for each in front] or best["recall"] <= front[-1]["recall"]
    assert [each["p50_us"] for each in front] == sorted(each["p50_us"] for each in front)
    assert [each["recall"] for each in front] == sorted(each["recall"] for each in front)
    made = writer.results("hnsw.promote", index="texts", recall=0.99)[-1]
    assert made["trial"] == best["trial"]
    (live,) = [each for each in reader.call("vectors.list")["indexes"] if each["index"] == "texts"]
    assert live["generation"] == made["generation"]
    assert live["why"] == "promote"
    assert [live[name] for name in ("m", "ef_construction", "ef_search", "storage")] == [
        best[name] for name in ("m", "ef_construction", "ef_search", "storage")
    ]
    # Against exact search, of vectors of which each finds itself: the nearest eleven without it.
    vectors = np.stack(
        reader.sql("SELECT vector FROM docs.texts_embeddings ORDER BY id")["vector"].to_pylist()
    )
    queries = vectors[np.random.default_rng(3).choice(COUNT, 200, replace=False)]
    _, rows = reader.search("texts", queries, k=11)
    scores = rows["score"].to_numpy().reshape(200, 11)[:, 1:]
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    true = np.sort(queries / np.linalg.norm(queries, axis=1)[:, None] @ unit.T, axis=1)[:, ::-1][:, 10]
    assert (scores >= true[:, None] - 1e-5).mean() >= 0.99


def test_trials_are_rows(callers: dict[str, Caller], swept: dict[str, Any]) -> None:
    reader = callers["reader"]
    rows = reader.fetch("hnsw.trials", index="texts")[1].to_pylist()
    assert len(rows) == swept["measured"]
    by_sql = reader.sql("SELECT * FROM system.hnsw_trials WHERE \"index\" = 'texts' ORDER BY trial")
    assert by_sql.to_pylist() == sorted(rows, key=lambda row: row["trial"])
    for row in rows:
        assert 0 < row["recall_low"] <= row["recall"] <= 1
        assert 0 < row["p50_us"] <= row["p95_us"] <= row["p99_us"]
        assert 0 < row["concurrent_p50_us"] <= row["concurrent_p99_us"]
        assert min(row["queries_per_second"], row["exact_p50_us"], row["cpu_us"], row["build_seconds"]) > 0
        assert row["vectors"] == COUNT - 200  # the queries are not in the index
        assert row["index_bytes"] > row["vectors"] * row["dimension"] * 4
    of_one = [row for row in rows if (row["m"], row["ef_construction"]) == (8, 40)]
    assert len({row["build"] for row in of_one}) == 1  # one build serves all efforts
    assert [row["ef_search"] for row in of_one] == sorted({row["ef_search"] for row in of_one})
    assert of_one[0]["recall"] < of_one[-1]["recall"]
    evaluations = reader.call("hnsw.evals.list", index="texts")["evaluations"]
    assert [each["evaluation"] for each in evaluations] == [rows[0]["evaluation"]]


def test_what_has_been_measured_is_not_measured_again(
    callers: dict[str, Caller], swept: dict[str, Any]
) -> None:
    writer = callers["writer"]
    told = writer.call("hnsw.trial", index="texts", m=[8], ef_construction=[40], ef_search=[64, 10])
    assert (told["builds"], told["measured"], told["known"]) == (0, 0, 2)
    told = writer.call("hnsw.trial", index="texts", m=[8], ef_construction=[40], ef_search=[10, 17])
    assert (told["builds"], told["measured"], told["known"]) == (1, 1, 1)
    told = writer.call("hnsw.trial", index="texts", m=[8], ef_construction=[40], ef_search=[17], again=True)
    assert (told["builds"], told["measured"]) == (1, 1)
    assert len(callers["admin"].sql("FROM system.hnsw_trials WHERE ef_search = 17")) == 2
    caches = callers["admin"].call("hnsw.cache.stats")
    assert caches["vectors"]["misses"] == 1
    assert caches["vectors"]["hits"] >= 3
    assert caches["vectors"]["bytes"] >= COUNT * 4


def test_sweep_in_the_background(callers: dict[str, Caller], swept: dict[str, Any]) -> None:
    writer = callers["writer"]
    wanted = {"index": "texts", "m": [7], "ef_construction": [40], "ef_search": [10, 30]}
    run = writer.call("vectors.runs.trial", **wanted)
    until = time.monotonic() + 60
    while run["state"] in ("queued", "running") and time.monotonic() < until:
        time.sleep(0.05)
        run = writer.call("vectors.runs.status", run=run["id"])
    assert (run["state"], run["message"]) == ("succeeded", "1 built, 2 measured: done")
    assert writer.call("hnsw.trial", **wanted)["known"] == 2
    with pytest.raises(REFUSED, match="EVALUATION_NOT_FOUND"):
        writer.call("vectors.runs.trial", **wanted, evaluation="x")


def test_access(callers: dict[str, Caller], swept: dict[str, Any]) -> None:
    for role in ("masked", "outsider"):
        caller = callers[role]
        for name in ("hnsw.evals.list", "hnsw.trials", "hnsw.best"):
            with pytest.raises(REFUSED, match=r"VECTOR_INDEX_NOT_FOUND|PERMISSION_DENIED"):
                caller.call(name, index="texts")
        assert caller.fetch("hnsw.trials")[1].num_rows == 0
        assert caller.sql("FROM system.hnsw_trials").num_rows == 0
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        callers["outsider"].call("hnsw.best", index="texts")
    half = callers["half"]
    rows = half.fetch("hnsw.trials", index="texts")[1]
    assert rows.num_rows > 0
    assert rows["index_bytes"].null_count == rows["vectors"].null_count == rows.num_rows
    told = half.call("hnsw.best", index="texts")
    assert told["evaluation"]["vectors"] is told["best"]["index_bytes"] is None
    for role in ("reader", "half", "masked", "outsider"):
        for name, more in (
            ("hnsw.evals.autogen", {}),
            ("hnsw.trial", {"max_trials": 1}),
            ("vectors.runs.trial", {"max_trials": 1}),
            ("hnsw.promote", {"trial": rows["trial"][0].as_py()}),
        ):
            with pytest.raises(REFUSED, match=r"PERMISSION_DENIED|VECTOR_INDEX_NOT_FOUND"):
                callers[role].call(name, index="texts", **more)
    with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
        callers["reader"].call("hnsw.cache.stats")


@pytest.mark.parametrize(
    ("name", "request_", "error"),
    [
        ("hnsw.trial", {"index": "absent", "m": [8]}, "VECTOR_INDEX_NOT_FOUND.*absent"),
        ("hnsw.trial", {"index": "texts"}, "nothing to try"),
        ("hnsw.trial", {"index": "texts", "m": []}, "m names nothing to try"),
        ("hnsw.trial", {"index": "texts", "m": [1]}, "m = 1, expected"),
        ("hnsw.trial", {"index": "texts", "ef_search": [0]}, "expected a whole number from 1 to"),
        ("hnsw.trial", {"index": "texts", "max_trials": 0}, "max_trials = 0"),
        ("hnsw.trial", {"index": "texts", "max_seconds": -1}, "max_seconds"),
        ("hnsw.trial", {"index": "texts", "m": [8], "recall": 1.01}, "recall = 1.01"),
        ("hnsw.trial", {"index": "texts", "m": [8], "evaluation": "x"}, "EVALUATION_NOT_FOUND"),
        ("hnsw.trial", {"index": "texts", "m": [8], "threads": 1000}, "threads"),
        ("hnsw.best", {"index": "texts", "recall": 0}, "recall = 0"),
        ("hnsw.promote", {"index": "texts", "trial": "x"}, "TRIAL_NOT_FOUND"),
        ("hnsw.evals.autogen", {"index": "texts", "queries": COUNT - 100}, "so there is nothing to try"),
        ("hnsw.evals.autogen", {"index": "texts", "k": 1000}, "k = 1000"),
        ("hnsw.evals.autogen", {"index": "texts", "kind": "generated", "model": "absent"}, "MODEL_NOT_FOUND"),
    ],
)
def test_errors_say_what_is_wrong(
    callers: dict[str, Caller], swept: dict[str, Any], name: str, request_: dict[str, Any], error: str
) -> None:
    with pytest.raises(REFUSED, match=error):
        callers["writer"].call(name, **request_)


def test_questions_of_a_model_are_queries(callers: dict[str, Caller], service: BrokenOllama) -> None:
    writer = callers["writer"]
    _build(writer, "asked")
    told = writer.results("hnsw.evals.autogen", index="asked", kind="generated", queries=30, k=5)
    assert len(told) > 2
    made = told[-1]
    assert (made["kind"], made["model"], made["queries"], made["k"]) == ("generated", "smol", 30, 5)
    asked = [each for path, each, _ in service.requests if path == "/api/chat"]
    assert len(asked) > 30  # of some texts it made no question
    told = writer.call("hnsw.trial", index="asked", ef_search=[200])
    assert told["best"]["recall"] > 0.9
    rows = writer.fetch("hnsw.trials", index="asked")[1].to_pylist()
    assert [(row["vectors"], row["queries"]) for row in rows] == [(COUNT, 30)]  # nothing is left out
    with pytest.raises(REFUSED, match=r"column '.*absent' does not exist"):
        writer.call("hnsw.evals.autogen", index="asked", kind="generated", text_column="absent")
    writer.call("vectors.drop", index="asked")
    # The name is given to something else: what was measured before is not of it.
    writer.sql("CREATE TABLE docs.others AS SELECT id, vector FROM docs.texts_embeddings")
    writer.call("vectors.build", index="asked", table="others", db_schema="docs")
    assert writer.fetch("hnsw.trials", index="asked")[1].num_rows == 0
    with pytest.raises(REFUSED, match="EVALUATION_NOT_FOUND"):
        writer.call("hnsw.best", index="asked")
    with pytest.raises(REFUSED, match="EVALUATION_NOT_FOUND"):
        writer.call("hnsw.trial", index="asked", max_trials=1, evaluation=made["evaluation"])
    with pytest.raises(REFUSED, match="no text can be a query"):
        writer.call("hnsw.evals.autogen", index="asked", kind="generated", text_column="id", queries=1)
    writer.call("vectors.drop", index="asked")


def test_index_of_a_profile_is_tried_by_those_whom_it_is_for(
    callers: dict[str, Caller], swept: dict[str, Any], directory: Path
) -> None:
    writer, reader = callers["writer"], callers["reader"]
    _build(writer, "inner:texts")
    made = writer.call("hnsw.evals.autogen", index="inner:texts", queries=20)
    (kept,) = (directory / "bucket" / "_vectors" / "profiles" / "inner" / "evaluations").rglob("*.parquet")
    assert kept.name.startswith(made["evaluation"])
    writer.call("hnsw.trial", index="inner:texts", ef_search=[50])
    where = "FROM system.hnsw_trials WHERE \"index\" = 'inner:texts'"
    (row,) = writer.sql(where).to_pylist()
    assert row["evaluation"] == made["evaluation"]
    assert len(reader.sql(where)) == 0
    assert "inner:texts" not in reader.fetch("hnsw.trials")[1]["index"].to_pylist()
    with pytest.raises(REFUSED, match="NOT_FOUND"):
        reader.fetch("hnsw.trials", index="inner:texts")
    done = writer.call("hnsw.promote", index="inner:texts", trial=row["trial"])
    assert (done["index"], done["ef_search"]) == ("inner:texts", 50)
    writer.call("vectors.drop", index="inner:texts")


def test_a_killed_sweep_goes_on_where_it_was(
    callers: dict[str, Caller], swept: dict[str, Any], directory: Path, service: BrokenOllama
) -> None:
    wanted = {"index": "texts", "m": [4, 6, 12], "ef_construction": [20], "ef_search": [10, 30, 60]}
    other = _start(directory, service.url)
    with contextlib.suppress(*REFUSED):
        for told in Caller(other, "writer").stream("hnsw.trial", **wanted):
            if "searching with ef 60" in told.get("message", ""):
                other.kill()
    writer = callers["writer"]
    kept = writer.sql("FROM system.hnsw_trials WHERE ef_construction = 20").to_pylist()
    assert 2 <= len(kept) < 9
    told = writer.call("hnsw.trial", **wanted)
    assert (told["known"], told["measured"]) == (len(kept), 9 - len(kept))
    rows = writer.sql("FROM system.hnsw_trials WHERE ef_construction = 20").to_pylist()
    assert len({(row["m"], row["ef_search"]) for row in rows}) == len(rows) == 9
    assert [row for row in rows if row in kept] == kept


def test_a_cancelled_sweep_stops(callers: dict[str, Caller], swept: dict[str, Any]) -> None:
    writer, admin = callers["writer"], callers["admin"]
    results = writer.stream("hnsw.trial", index="texts", m=list(range(40, 60)), ef_construction=[30])
    assert next(results)["progress"] >= 0
    running = (
        "FROM system.statements WHERE kind = 'hnsw' AND state NOT IN ('finished', 'failed', 'cancelled')"
    )
    assert len(admin.sql(running)) == 1
    del results
    until = time.monotonic() + 60
    while len(admin.sql(running)) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(admin.sql(running)) == 0
    assert len(admin.sql("FROM system.hnsw_trials WHERE ef_construction = 30")) < 100


def test_command_line(
    callers: dict[str, Caller],
    swept: dict[str, Any],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LAKEHOUSE_URI", server.uri)
    monkeypatch.setenv("LAKEHOUSE_TOKEN", token("writer"))

    def said(*arguments: str, status: int = 0) -> str:
        assert run(["hnsw", *arguments]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    assert re.fullmatch(
        r"0 built, 0 measured, 1 known: done\n",
        said("trial", "texts", "--ef-search", "10", "--m", "8", "--ef-construction", "40"),
    )
    best = callers["reader"].call("hnsw.best", index="texts")["best"]
    assert said("best", "texts").startswith(f"{best['trial']}: fp32, m {best['m']}, ")
    assert (
        len(said("trials", "texts").splitlines())
        == callers["writer"].fetch("hnsw.trials", index="texts")[1].num_rows + 2
    )
    chart = said("plot", "texts")
    assert chart.startswith("texts: recall@10 of 200 queries (exact search: ")
    assert chart.count("◆") == 1
    assert max(map(len, chart.splitlines()[1:-2])) <= 100
    picture = tmp_path / "trials.png"
    assert said("plot", "texts", "--png", str(picture)) == ""
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "VECTOR_INDEX_NOT_FOUND" in said("plot", "absent", status=1)
    assert "with commas in between" in said("trial", "texts", "--m", "x", status=2)
    made = said("promote", "texts", "--trial", best["trial"])
    assert f"m {best['m']}, ef_construction {best['ef_construction']}" in made
    assert "1 queries, 2,100 vectors, k = 3" in said("autogen", "texts", "--queries", "1", "--k", "3")
    assert "nothing of 'texts' was tried yet" in said("plot", "texts", status=1)
