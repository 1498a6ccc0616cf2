"""Models over the wire: vectors as Arrow, bounds, permissions, and the typed client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import lakehouse_client
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded, token
from conftest import Server
from onnx_models import bert_tokenizer, overlap_model

CONFIG = """
[ai]
max_texts = 300
max_text_bytes = 1_100_000
calls_per_minute = 25
texts_per_minute = 2000
reranker = "local"
[[ai.models]]
name = "local"
[[ai.models]]
name = "judge"
task = "rerank"
provider = "onnx"
path = "judge"
[audit]
flush_seconds = 0.1
[[roles]]
name = "author"
actions = ["ai.generate"]
[[roles]]
name = "bare"
grants = [{ on = "*.*.*" }]
"""
PRINCIPALS = {
    "reader": ["reader"],
    "busy": ["reader"],
    "bare": ["bare"],
    "wordy": ["bare", "reader"],
    "admin": ["admin"],
    "author": ["author"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("ai")
    (directory / "judge").mkdir()
    overlap_model(directory / "judge" / "model.onnx")
    bert_tokenizer().save(str(directory / "judge" / "tokenizer.json"))
    found = start_guarded(directory, CONFIG, PRINCIPALS)
    yield found
    found.stop()


def act(server: Server, name: str, who: str = "reader", /, **body: Any) -> list[dict[str, Any]]:
    return Caller(server, who).results(name, **body)


def vectors(results: list[dict[str, Any]]) -> pa.Table:
    parts = [base64.b64decode(each["part"]["vectors"]) for each in results[:-1]]
    return pa.concat_tables([pa.ipc.open_stream(part).read_all() for part in parts])


def test_vectors_come_as_arrow_in_the_order_of_the_texts(server: Server) -> None:
    texts = [f"text number {n}" for n in range(299)] + [""]
    results = act(server, "ai.embed", texts=texts)
    assert len(results) > 2
    table = vectors(results)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 256)
    assert table.column("number").to_pylist() == list(range(300))
    assert results[-1]["texts"] == 300
    assert results[-1]["model"] | {"digest": ""} == {
        "provider": "local", "name": "wordllama", "digest": "", "dimension": 256
    }  # fmt: skip
    found = np.array(table.column("vector").to_pylist(), np.float32)
    (alone,) = vectors(act(server, "ai.embed", texts=[texts[7]])).column("vector").to_pylist()
    np.testing.assert_allclose(found[7], alone, atol=1e-6)
    assert not found[-1].any()
    assert act(server, "ai.embed", texts=[])[-1]["texts"] == 0


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("ai.embed", {"texts": ["x"] * 301}, r"\[LIMIT_EXCEEDED\] 301 texts .* 300 .*ai.max_texts"),
        ("ai.embed", {"texts": ["", "é" * 600_000]}, r"text 1 has 1200000 bytes, at most 1100000"),
        ("ai.embed", {"texts": ["\ud83d"]}, r"\[INVALID_REQUEST\] text 0 holds half of a surrogate"),
        ("ai.embed", {"texts": ["x"], "model": "gpt"}, r"\[MODEL_NOT_FOUND\] .*'gpt' .there are: 'local'"),
        ("ai.embed", {"texts": ["x"], "purpose": "fun"}, r"purpose"),
        ("ai.embed", {"texts": "x"}, r"texts"),
        ("ai.generate", {"prompt": "x"}, r"\[MODEL_NOT_FOUND\] no model .* can generate"),
        ("ai.generate", {}, r"either prompt or messages"),
        ("ai.generate", {"prompt": "x", "max_tokens": 5000}, r"\[LIMIT_EXCEEDED\] 5000 .* 4096 .*ai.max_tok"),
        ("ai.rerank", {"query": "", "texts": []}, r"query"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(server: Server, name: str, body: dict[str, Any], message: str) -> None:
    with pytest.raises((flight.FlightError, pa.ArrowException, KeyError), match=message):
        act(server, name, "admin", **body)


def test_a_text_of_a_megabyte_is_embedded(server: Server) -> None:
    (whole, word) = vectors(act(server, "ai.embed", texts=["cat " * 250_000, "cat"])).column("vector")
    assert np.dot(whole.as_py(), word.as_py()) > 0.99


def test_texts_are_put_in_order(server: Server) -> None:
    texts = ["stock prices fell", "the cat sat on the mat", "", "taxes rose"]
    (found,) = act(server, "ai.rerank", query="a feline on a carpet", texts=texts, top=2)
    assert (found["order"][0], len(found["order"]), found["method"]) == (1, 2, "cosine")
    assert found["scores"] == sorted(found["scores"], reverse=True)
    (found,) = act(server, "ai.rerank", query="a cat on the mat", texts=texts, model="judge")
    assert (found["order"], found["scores"]) == ([1, 0, 2, 3], [5.0, 0.0, 0.0, 0.0])
    assert (found["method"], found["model"]["provider"], found["model"]["name"]) == (
        "cross_encoder",
        "onnx",
        "judge",
    )


def test_calls_of_a_principal_are_counted(server: Server) -> None:
    told = r"RATE_LIMITED. busy has made 25 calls .*try again in \d+ s.* ai.calls_per_minute"
    with pytest.raises(flight.FlightUnavailableError, match=told):  # noqa: PT012
        for _ in range(40):
            act(server, "ai.embed", "busy", texts=["x"])
    assert act(server, "ai.models", "busy")[0]["models"][0]["available"]
    assert act(server, "ai.embed", "admin", texts=["x"])[-1]["texts"] == 1


def test_texts_of_a_principal_are_counted(server: Server) -> None:
    for _ in range(6):
        act(server, "ai.embed", "wordy", texts=["x"] * 300)
    with pytest.raises(
        flight.FlightUnavailableError, match=r"RATE_LIMITED. 300 texts .*in \d s.* ai.texts_per_min"
    ):
        act(server, "ai.rerank", "wordy", query="x", texts=["x"] * 300)
    assert act(server, "ai.embed", "wordy", texts=["x"])[-1]["texts"] == 1


def test_models_work_for_those_to_whom_that_is_granted(server: Server) -> None:
    for name, body in (("ai.embed", {"texts": ["x"]}), ("ai.rerank", {"query": "x", "texts": ["x"]})):
        with pytest.raises(
            flight.FlightUnauthorizedError, match=r"PERMISSION_DENIED.*may not run .*permission ai"
        ):
            act(server, name, "bare", **body)
    assert act(server, "ai.models", "bare")[0]["models"]
    with lakehouse_client.connect(server.uri, token=token("bare")) as client:
        assert client.sql("SELECT 'embed(x)' AS t").table().num_rows == 1
        with pytest.raises(
            lakehouse_client.LakehouseClientError, match=r"PERMISSION_DENIED.*may not use embed"
        ):
            client.sql("SELECT embed('x') AS v").table()
    with lakehouse_client.connect(server.uri, token=token("reader")) as client:
        assert len(client.sql("SELECT embed('x') AS v").table()["v"][0]) == 256


def test_generating_has_to_be_granted_and_calls_are_audited(server: Server) -> None:
    with pytest.raises(flight.FlightUnauthorizedError, match=r"PERMISSION_DENIED.*may not run ai.generate"):
        act(server, "ai.generate", prompt="x")
    with pytest.raises(pa.ArrowKeyError, match="MODEL_NOT_FOUND"):
        act(server, "ai.generate", "author", prompt="x")
    (info,) = act(server, "ai.models")
    assert [model["default_for"] for model in info["models"]] == [["embed", "rerank"], []]
    assert [(model["task"], model["available"]) for model in info["models"]] == [
        ("embed", True),
        ("rerank", True),
    ]
    act(server, "audit.flush", "admin")
    with lakehouse_client.connect(server.uri, token=token("admin")) as client:
        sql = "SELECT DISTINCT principal, outcome FROM system.audit WHERE action LIKE 'ai.%'"
        seen = {tuple(row.values()) for row in client.sql(sql).table().to_pylist()}
        assert {("reader", "PERMISSION_DENIED"), ("author", "MODEL_NOT_FOUND"), ("reader", "ok")} <= seen
        noted = "SELECT DISTINCT detail FROM system.audit WHERE action = 'ai.embed' AND principal = 'reader'"
        details = [
            json.loads(row["detail"]) for row in client.sql(noted).table().to_pylist() if row["detail"]
        ]
        assert {"texts": 2, "characters": 4 * 250_000 + 3, "model": "wordllama"} in details
        got: list[int] = []
        done = client.actions.ai.embed(texts=["a", "b"], on_part=lambda part: got.append(part.first))
        assert (done.texts, done.model.dimension, got) == (2, 256, [0])
        many = client.embed([f"text {n}" for n in range(300)], purpose="query")
        assert (len(many), many.type) == (300, pa.list_(pa.float32(), 256))
        assert client.embed([]).type == many.type
