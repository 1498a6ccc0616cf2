"""The Ollama client against a service that misbehaves: the right error, soon, and nothing made up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import pytest
from broken_ollama import Answer, BrokenOllama, Exchange, broken_ollama

from lakehouse.ai.models import Models
from lakehouse.ai.provider import Generated, Message, Purpose, Sampling
from lakehouse.ai.reranking import UNSCORED
from lakehouse.config import AiSettings, ModelSettings, SecretRef
from lakehouse.errors import (
    LakehouseError,
    ModelFailed,
    ModelNotFound,
    ModelUnavailable,
    ShuttingDown,
    StatementCancelled,
)

SAMPLING = Sampling(max_tokens=8)


@contextmanager
def models_of(url: str, **profile: Any) -> Iterator[Models]:
    said = {"timeout_seconds": 5.0, "retries": 0, **profile}
    models = Models(
        AiSettings(
            models=(
                ModelSettings(name="texts", provider="ollama", model="minilm", host=url, **said),
                ModelSettings(
                    name="words", task="generate", provider="ollama", model="smol", host=url, **said
                ),
            )
        )
    )
    try:
        yield models
    finally:
        models.close()


@contextmanager
def asking(answer: Answer, **profile: Any) -> Iterator[tuple[BrokenOllama, Models]]:
    with broken_ollama(answer) as service, models_of(service.url, **profile) as models:
        yield service, models


def embed(models: Models, *texts: str, check: Callable[[], None] = lambda: None) -> np.ndarray:
    return models.embedder().embed(texts, purpose=Purpose.DOCUMENT, check=check)


def vectors(exchange: Exchange, length: int = 3) -> None:
    """What a healthy one says: vectors that tell the lengths of texts."""
    texts = exchange.asked["input"]
    exchange.say(
        {"model": "minilm", "embeddings": [[1.0, float(len(t)), *[0.0] * (length - 2)] for t in texts]}
    )


def saying(body: Any, status: int = 200) -> Answer:
    return lambda exchange: exchange.say(body, status)


def patience(message: str) -> float:
    """Seconds to wait for an answer: few only where none comes."""
    return 0.7 if "within 0.7 s" in message else 60


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (saying({"embeddings": [[1.0, 2.0]]}), ModelFailed, "1 vectors for 2 texts"),
        (saying({"embeddings": [[1.0, 2.0], [1.0]]}), ModelFailed, r"vectors of lengths \[1, 2\]"),
        (saying({"embeddings": [[], []]}), ModelFailed, r"vectors of lengths \[0\]"),
        (saying({"embeddings": []}), ModelFailed, "0 vectors for 2 texts"),
        (saying(b'{"embeddings": [[1, 2], [NaN, 1]]}'), ModelFailed, "not finite for text 1 of 2"),
        (saying(b'{"embeddings": [[1, 2], [1, -Infinity]]}'), ModelFailed, "not finite for text 1 of 2"),
        (saying(b'{"embeddings": [[1, 2], [1, 1e300]]}'), ModelFailed, "not finite for text 1 of 2"),
        (saying({"embeddings": [["x", "y"], [1, 2]]}), ModelFailed, "not what Ollama answers"),
        (saying({"answer": 42}), ModelFailed, "not what Ollama answers"),
        (saying([1, 2]), ModelFailed, "not what Ollama answers"),
        (saying(b"<html>Welcome to nginx</html>"), ModelFailed, "not what Ollama answers"),
        (saying(b""), ModelFailed, "not what Ollama answers"),
        (saying(b"\xff\xfe"), ModelFailed, "not what Ollama answers"),
        (
            saying({"error": "model 'minilm' not found"}, 404),
            ModelNotFound,
            "does not have the model 'minilm'",
        ),
        (saying({"error": "who are you"}, 401), ModelFailed, "refuses us .see token"),
        (
            saying({"error": "out of memory at /root/.ollama/x"}, 500),
            ModelFailed,
            "'minilm': out of memory at …",
        ),
        (saying({"error": "too many"}, 503), ModelUnavailable, "busy: too many"),
        (saying(b"", 302), ModelFailed, "could not do this"),
        (Exchange.hang_up, ModelUnavailable, "does not answer, or went away"),
        (lambda exchange: time.sleep(1.5), ModelUnavailable, "no answer within 0.7 s"),
    ],
)
def test_what_is_no_answer_is_an_error_of_ours(
    answer: Answer, kind: type[LakehouseError], message: str
) -> None:
    with (
        asking(answer, timeout_seconds=patience(message)) as (_, models),
        pytest.raises(kind, match=message) as failed,
    ):
        embed(models, "one", "three")
    assert "/root" not in str(failed.value)


def test_a_service_that_is_not_there_is_told_of_with_what_to_do() -> None:
    with models_of("http://127.0.0.1:9", retries=1) as models:
        expected = (
            r"\[MODEL_UNAVAILABLE\] the Ollama service at http://127.0.0.1:9 does not answer.*"
            r"`ollama serve`.*`OLLAMA_HOST=http://127.0.0.1:9 ollama pull minilm`"
        )
        with pytest.raises(ModelUnavailable) as failed:
            embed(models, "x")
        failed.match(expected)
        states = models.models()
        assert [type(state.error) for state in states] == [ModelUnavailable, ModelUnavailable]


def test_requests_are_made_again_while_the_service_is_not_ready() -> None:
    tries = count()

    def answer(exchange: Exchange) -> None:
        number = next(tries)
        if number == 0:
            exchange.hang_up()
        elif number == 1:
            exchange.say({"error": "loading"}, 503)
        else:
            vectors(exchange)

    with asking(answer, retries=2) as (service, models):
        assert embed(models, "x").shape == (1, 3)
        assert len(service.requests) == 3


def test_texts_go_in_batches_of_which_few_are_under_way() -> None:
    def answer(exchange: Exchange) -> None:
        time.sleep(0.01 * (len(exchange.asked["input"][0]) % 3))  # some answers come later than others
        vectors(exchange)

    texts = ["x" * (n + 1) for n in range(50)]
    with asking(answer, batch_size=4, requests_in_flight=3, document_prefix="d: ") as (service, models):
        found = embed(models, *texts, " ")
        assert service.most_under_way <= 3
        assert len(service.requests) == 13
        _, asked, _ = service.requests[0]
        assert (asked["model"], asked["keep_alive"], asked["truncate"]) == ("minilm", "5m", True)
    np.testing.assert_allclose(found[:50, 1] / found[:50, 0], [n + 4 for n in range(50)], rtol=1e-5)
    assert not found[50].any()


def test_nothing_comes_of_texts_when_the_provider_dies_in_the_middle() -> None:
    tries = count()

    def answer(exchange: Exchange) -> None:
        if next(tries) < 3:
            vectors(exchange)
        else:
            exchange.hang_up()

    with asking(answer, batch_size=2, requests_in_flight=1) as (service, models):
        with pytest.raises(ModelUnavailable):
            embed(models, *["x"] * 40)
        assert len(service.requests) == 4


def test_vectors_of_another_length_than_configured_are_refused() -> None:
    expected = r"vectors of length 3, expected 4.*dimension of the model 'texts'"
    with asking(vectors, dimension=4) as (_, models), pytest.raises(ModelFailed, match=expected):
        embed(models, "x")


def test_the_token_goes_along_and_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "of-the-environment")
    monkeypatch.setenv("OURS", "first")
    with asking(vectors, token=SecretRef(env="OURS")) as (service, models):
        embed(models, "x")
        monkeypatch.setenv("OURS", "second")
        embed(models, "x")
        assert [each[2].get("authorization") for each in service.requests] == [
            "Bearer first",
            "Bearer second",
        ]
    with asking(vectors) as (service, models):
        embed(models, "x")
        assert "authorization" not in {name.lower() for name in service.requests[0][2]}


def test_a_token_is_not_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="should begin with https://"):
        ModelSettings(provider="ollama", host="http://models.example.org", token=SecretRef(env="X"))


def test_an_embedding_is_given_up_when_the_caller_goes() -> None:
    reached = threading.Event()

    def answer(exchange: Exchange) -> None:
        reached.set()
        while True:  # until the other side has gone
            exchange.connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(0.02)

    def check() -> None:
        if reached.is_set():
            raise StatementCancelled("gone")

    with asking(answer, timeout_seconds=60) as (service, models):
        with pytest.raises(StatementCancelled):
            embed(models, "x", check=check)
        assert service.hung_up.wait(10)


def test_closing_ends_what_is_under_way() -> None:
    reached, failed = threading.Event(), []

    def answer(exchange: Exchange) -> None:
        reached.set()
        time.sleep(2)

    with asking(answer, timeout_seconds=60) as (_, models):

        def work() -> None:
            try:
                embed(models, "x")
            except LakehouseError as error:
                failed.append(type(error))

        thread = threading.Thread(target=work)
        thread.start()
        assert reached.wait(10)
        models.close()
        thread.join(10)
        assert failed == [ShuttingDown]


# -- generated text -----------------------------------------------------------------------------------


def token(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "smol",
        "response": text,
        "message": {"role": "assistant", "content": text},
        "done": False,
    } | more


def telling(*lines: Any, end: Callable[[Exchange], None] = Exchange.end) -> Answer:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        for line in lines:
            exchange.line(line)
        end(exchange)

    return answer


def whole(models: Models, chat: bool) -> tuple[list[str], Generated]:
    generator = models.generator()
    tokens = generator.chat([Message("user", "hi")], SAMPLING) if chat else generator.generate("hi", SAMPLING)
    pieces: list[str] = []
    while True:
        try:
            pieces.append(next(tokens))
        except StopIteration as end:
            return pieces, end.value


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_come_one_by_one_with_how_it_ended(chat: bool) -> None:
    last = token("", done=True, done_reason="stop", prompt_eval_count=5, eval_count=2)
    with asking(telling(token("Hel"), token("lo 🙂"), last)) as (service, models):
        assert whole(models, chat) == (["Hel", "lo 🙂"], Generated(5, 2, "stop"))
        _, asked, _ = service.requests[0]
        assert (asked["options"], asked["stream"]) == ({"num_predict": 8}, True)


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_that_does_not_stop_is_stopped(chat: bool) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        for _ in range(10_000):
            exchange.line(token("x"))
            time.sleep(0.001)

    with asking(answer) as (service, models):
        assert whole(models, chat) == (["x"] * 8, Generated(None, 8, "length"))
        assert service.hung_up.wait(10)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (telling(token("a")), ModelUnavailable, "stopped in the middle"),
        (telling(token("a"), end=Exchange.hang_up), ModelUnavailable, "does not answer, or went away"),
        (telling(token("a"), {"error": "CUDA error"}), ModelFailed, "CUDA error"),
        (telling(token("a"), b"not JSON"), ModelFailed, "not what Ollama answers"),
        (telling(token("a"), [1]), ModelFailed, "not what Ollama answers"),
        (telling(token("a"), end=lambda exchange: time.sleep(2)), ModelUnavailable, "no answer within 0.7 s"),
        (telling(), ModelUnavailable, "stopped in the middle"),
        (saying({"error": "model not found"}, 404), ModelNotFound, "ollama pull smol"),
    ],
)
def test_text_that_breaks_off_is_no_whole_text(
    answer: Answer, kind: type[LakehouseError], message: str
) -> None:
    with asking(answer, timeout_seconds=patience(message)) as (_, models), pytest.raises(kind, match=message):
        whole(models, chat=False)


def test_a_reader_that_goes_away_stops_the_model_and_frees_its_place() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        while True:
            exchange.line(token("x"))
            time.sleep(0.002)

    with asking(answer, requests_in_flight=1) as (service, models):
        for _ in range(3):  # a place that is not freed would be waited for
            service.hung_up.clear()
            tokens = models.generator().generate("hi", SAMPLING)
            assert next(tokens) == "x"
            tokens.close()
            assert service.hung_up.wait(10)


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.ai.ollama_service._OTHER_BYTES", 100_000)
    monkeypatch.setattr("lakehouse.ai.ollama_service._BYTES_PER_TEXT", 0)

    def answer(exchange: Exchange) -> None:
        exchange.begin()
        while True:
            exchange.wfile.write(b"1000\r\n" + b"[" * 4096 + b"\r\n")

    with asking(answer) as (service, models):
        with pytest.raises(ModelFailed, match="more than 100000 bytes"):
            embed(models, "x")
        assert service.hung_up.wait(10)


def test_texts_without_a_score_come_last() -> None:
    answers = {
        "a": '{"score": 7}',
        "b": "Score: 9",
        "c": "good",
        "d": '{"score": 99}',
        "e": '{"score": true}',
    }

    def answer(exchange: Exchange) -> None:
        prompt = exchange.asked["messages"][-1]["content"]
        text = prompt.split("Passage: ")[1].split("\n")[0]
        exchange.say(
            {"model": "smol", "message": {"role": "assistant", "content": answers[text]}, "done": True}
        )

    with asking(answer, requests_in_flight=4) as (service, models):
        scores = models.reranker("words").rerank("q", list(answers))
        np.testing.assert_allclose(scores, [0.7, 0.9, UNSCORED, UNSCORED, UNSCORED])
        assert service.requests[0][1]["format"]["required"] == ["score"]
        assert json.dumps(service.requests[0][1]["options"]["temperature"]) == "0.0"
