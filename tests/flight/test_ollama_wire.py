"""Models of an Ollama service over the wire: of a real one where OLLAMA_HOST answers, else of a real model
behind the same HTTP API, which `make models` installs.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lakehouse_client
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import ROOT, Server, start_server
from lakehouse_client.actions import GeneratedText

PYTHON = ROOT / "build" / "ollama" / "bin" / "python"
PARIS = "What is the capital of France? Answer in one word."


@dataclass
class Ollama:
    """A service, and what its models are called."""

    url: str
    embeds: str
    generates: str


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=2) as answer:
            return "version" in json.load(answer)
    except (OSError, ValueError):
        return False


@pytest.fixture(scope="module")
def ollama() -> Iterator[Ollama]:
    given = os.environ.get("OLLAMA_HOST", "")
    url = given if "://" in given else f"http://{given}"
    if given and answers(url):
        names = os.environ.get
        yield Ollama(url, names("OLLAMA_EMBEDS", "all-minilm"), names("OLLAMA_GENERATES", "smollm2:135m"))
        return
    if not PYTHON.with_name("ollama-proxy").exists():
        if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
            pytest.fail(
                "neither does OLLAMA_HOST answer nor was there `make models`, and nothing may be skipped"
            )
        pytest.skip("no OLLAMA_HOST answers, and there was no `make models`")
    process = subprocess.Popen(
        [PYTHON, ROOT / "tests" / "ollama" / "serve.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = next(line.split()[1] for line in process.stdout if line.startswith("PORT "))
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while not answers(url):
            assert time.monotonic() < until, "the service did not begin to answer"
            time.sleep(0.1)
        yield Ollama(url, "vectors/smollm2", "text/smollm2")
    finally:
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()


@pytest.fixture(scope="module")
def server(ollama: Ollama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = f"""
[ai]
reranker = "text"

[[ai.models]]
name = "vectors"
provider = "ollama"
model = "{ollama.embeds}"
host = "{ollama.url}"
batch_size = 4

[[ai.models]]
name = "text"
task = "generate"
provider = "ollama"
model = "{ollama.generates}"
host = "{ollama.url}"
requests_in_flight = 1
"""
    found = start_server(tmp_path_factory.mktemp("ollama"), config)
    yield found
    assert found.stop() == 0


def act(server: Server, name: str, /, **body: Any) -> list[dict[str, Any]]:
    with server.client() as client:
        results = client.do_action(flight.Action(name, json.dumps(body).encode()))
        return [json.loads(result.body.to_pybytes()) for result in results]


def test_the_models_of_the_service_are_known(server: Server, ollama: Ollama) -> None:
    (found,) = act(server, "ai.models")
    told = [(each["name"], each["model"], each["available"]) for each in found["models"]]
    assert told == [("vectors", ollama.embeds, True), ("text", ollama.generates, True)]
    assert [each["default_for"] for each in found["models"]] == [["embed"], ["generate", "rerank"]]
    assert found["models"][0]["dimension"] > 100
    assert all(each["digest"] for each in found["models"])


def test_texts_of_like_meaning_have_like_vectors(server: Server) -> None:
    texts = [
        "The cat sat on the mat.", "A kitten rested on the rug.", "Stock prices fell sharply.", "",
        "日本語の文章です 🙂", "The cat sat on the mat.",
    ]  # fmt: skip
    *parts, last = act(server, "ai.embed", texts=texts)
    table = pa.concat_tables(
        pa.ipc.open_stream(base64.b64decode(part["part"]["vectors"])).read_all() for part in parts
    )
    found = np.array(table.column("vector").to_pylist(), np.float32)
    assert found.shape == (6, last["model"]["dimension"])
    alike = found @ found.T
    assert alike[0, 1] > alike[0, 2]
    assert alike[0, 5] > 0.999
    assert not found[3].any()
    with lakehouse_client.connect(server.uri) as client:
        again = client.embed(texts[:2], model="vectors").flatten().to_numpy().reshape(2, -1)
    np.testing.assert_allclose(again, found[:2], atol=1e-3)


def test_tokens_arrive_while_they_are_generated(server: Server) -> None:
    arrived: list[float] = []
    pieces: list[str] = []

    def tell(part: GeneratedText) -> None:
        arrived.append(time.monotonic())
        pieces.append(part.text)

    prompt = "Write a long story about a king and his castle."
    with lakehouse_client.connect(server.uri) as client:
        done = client.actions.ai.generate(prompt=prompt, max_tokens=40, temperature=0.0, seed=1, on_part=tell)
    assert "".join(pieces) == done.text
    assert len(pieces) > 20
    assert done.reason in ("length", "stop")
    assert max(later - sooner for sooner, later in pairwise(arrived)) < arrived[-1] - arrived[0]


def test_a_conversation_is_answered(server: Server) -> None:
    messages = [{"role": "user", "content": PARIS}]
    *parts, last = act(server, "ai.generate", messages=messages, max_tokens=16, temperature=0, seed=1)
    assert "Paris" in last["text"]
    assert "".join(part["part"]["text"] for part in parts) == last["text"]
    assert last["tokens"] is None or last["tokens"] <= 16


def test_a_reader_that_goes_away_frees_the_model(server: Server) -> None:
    for _ in range(3):
        with server.client() as client:
            body = json.dumps(
                {"prompt": "Write a very long story about a king.", "max_tokens": 2000}
            ).encode()
            results = client.do_action(flight.Action("ai.generate", body))
            assert "part" in json.loads(next(iter(results)).body.to_pybytes())
            del results
    assert act(server, "ai.generate", prompt="Hello", max_tokens=1)[-1]["text"]


def test_texts_are_scored_by_the_model(server: Server) -> None:
    texts = ["Paris is the capital of France.", "Bread is baked from flour."]
    (found,) = act(server, "ai.rerank", query="the capital of France", texts=texts)
    assert found["method"] == "generate"
    assert sorted(found["order"]) == [0, 1]
    assert all(score is None or 0 <= score <= 1 for score in found["scores"])
    (by_vectors,) = act(server, "ai.rerank", query=texts[0], texts=texts, model="vectors")
    assert (by_vectors["method"], by_vectors["order"]) == ("cosine", [0, 1])


def test_a_service_that_went_away_is_told_of(tmp_path: Any) -> None:
    config = '[[ai.models]]\nprovider = "ollama"\nmodel = "nomic-embed-text"\nhost = "http://127.0.0.1:9"\n'
    server = start_server(tmp_path / "away", config + "retries = 0\n")
    try:
        expected = (
            r"MODEL_UNAVAILABLE.*127.0.0.1:9 .*OLLAMA_HOST=http://127.0.0.1:9 ollama pull nomic-embed-text"
        )
        with pytest.raises(flight.FlightUnavailableError, match=expected):
            act(server, "ai.embed", texts=["x"])
        (found,) = act(server, "ai.models")
        assert [found["models"][0][key] for key in ("available", "code")] == [False, "MODEL_UNAVAILABLE"]
    finally:
        server.stop()
