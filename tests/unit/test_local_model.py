"""The built-in model: real vectors, those of the package's own code, of any text."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.ai.models import Models
from lakehouse.ai.provider import Embedder, Purpose
from lakehouse.ai.static_model import StaticModel, _read
from lakehouse.config import AiSettings, ModelSettings
from lakehouse.errors import ModelNotFound, NotSupported, StatementCancelled

DOCUMENTS = {
    "json": "Encode Python objects as text in the interchange format of JavaScript, and decode it again.",
    "socket": "Open network connections and send bytes to other machines over TCP or UDP.",
    "zipfile": "Create, read, extract and list compressed archives in the ZIP format.",
    "random": "Generate pseudo-random numbers and pick elements of a sequence by chance.",
    "sqlite3": "A database in one file, with tables that are queried in SQL.",
    "calendar": "Print months and years, find weekdays and leap years.",
}
QUESTIONS = {
    "how do I unpack a compressed archive": "zipfile",
    "roll a dice": "random",
    "connect to a remote machine over the network": "socket",
    "SELECT rows FROM a table of a small database": "sqlite3",
    "which weekday is the first of the month": "calendar",
    "parse JavaScript object notation": "json",
}
ODD = (
    "a", "!", "\x00", "\t x \n", "日本語の文章", "🙂🙂🙂", "é vs e\u0301", "العربية", "\u200b", "x" * 5000,
    "one two " * 2000, "a  b   c    d", " leading", "trailing ", "\ufffd",
)  # fmt: skip


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Models(AiSettings()).embedder()


def embed(embedder: Embedder, *texts: str) -> np.ndarray:
    return embedder.embed(texts, purpose=Purpose.DOCUMENT)


def reference(texts: list[str]) -> np.ndarray:
    """What the package itself makes of texts."""
    import wordllama
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from wordllama.inference import WordLlamaInference

    root = Path(wordllama.__file__).parent
    weights = load_file(root / "weights/l2_supercat_256.safetensors")["embedding.weight"]
    rules = root / "tokenizers/l2_supercat_tokenizer_config.json"
    return WordLlamaInference(weights, Tokenizer.from_file(str(rules))).embed(texts, norm=True)


def test_vectors_are_those_of_the_package(embedder: Embedder) -> None:
    texts = [*DOCUMENTS.values(), *QUESTIONS, *ODD]
    np.testing.assert_allclose(embed(embedder, *texts), reference(texts), atol=2e-3)
    short = [text for text in texts if len(text) < 2000]
    np.testing.assert_allclose(embed(embedder, *short), reference(short), atol=1e-6)


def test_questions_find_their_answers(embedder: Embedder) -> None:
    names = list(DOCUMENTS)
    documents = embed(embedder, *DOCUMENTS.values())
    asked = embedder.embed(list(QUESTIONS), purpose=Purpose.QUERY)
    assert [names[n] for n in (asked @ documents.T).argmax(axis=1)] == list(QUESTIONS.values())


@given(st.lists(st.text(max_size=60), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_text_has_one_vector_whatever_is_beside_it(embedder: Embedder, texts: list[str]) -> None:
    found = embed(embedder, *texts)
    assert found.shape == (len(texts), 256)
    assert found.dtype == np.float32
    lengths = np.linalg.norm(found, axis=1)
    for text, vector, length in zip(texts, found, lengths, strict=True):
        assert (length == 0) == (not text.strip()) or abs(length - 1) < 1e-5
        np.testing.assert_allclose(vector, embed(embedder, text)[0], atol=1e-6)


def test_texts_of_a_megabyte_are_taken_whole(embedder: Embedder) -> None:
    text = "the archive is compressed and encrypted " * 25_000
    once = embed(embedder, text[:40].strip())
    assert (embed(embedder, text) @ once.T).item() > 0.999
    end = embed(embedder, "zip " * 10_000 + "socket " * 8_000)
    assert (end @ embed(embedder, "socket").T).item() > 0.5


def test_a_megabyte_is_given_up_when_the_caller_goes(embedder: Embedder) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise StatementCancelled("gone")

    with pytest.raises(StatementCancelled):
        embedder.embed(["word " * 200_000], purpose=Purpose.DOCUMENT, check=check)


def test_vectors_can_be_cut(embedder: Embedder) -> None:
    whole = embed(embedder, *DOCUMENTS.values())
    for length in (128, 64):
        profile = ModelSettings(name="short", dimension=length)
        short = Models(AiSettings(models=(profile,))).embedder()
        assert short.model.dimension == length
        assert short.model.digest == embedder.model.digest
        cut = whole[:, :length] / np.linalg.norm(whole[:, :length], axis=1, keepdims=True)
        np.testing.assert_allclose(embed(short, *DOCUMENTS.values()), cut, atol=1e-5)


def test_prefixes_stand_before_texts() -> None:
    profile = ModelSettings(document_prefix="passage: ", query_prefix="query: ")
    models = Models(AiSettings(models=(profile, ModelSettings(name="plain"))))
    prefixed, plain = models.embedder("local"), models.embedder("plain")
    for purpose, prefix in ((Purpose.DOCUMENT, "passage: "), (Purpose.QUERY, "query: ")):
        np.testing.assert_array_equal(
            prefixed.embed(["a cat"], purpose=purpose), embed(plain, f"{prefix}a cat")
        )
    assert not embed(prefixed, "", "  ").any()


def test_texts_wait_for_their_turn() -> None:
    class Slow(StaticModel):
        working = most = 0

        def vectors(self, texts, check):  # type: ignore[no-untyped-def]
            self.working += 1
            self.most = max(self.most, self.working)
            time.sleep(0.02)
            self.working -= 1
            return super().vectors(texts, check)

    from lakehouse.ai.embedding import ProfileEmbedder

    model = Slow("wordllama")
    embedder = ProfileEmbedder(ModelSettings(requests_in_flight=1), model)
    threads = [threading.Thread(target=embed, args=(embedder, "x")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.most == 1


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "wordllama" else find(n, *a))
    monkeypatch.setattr("lakehouse.ai.static_model._read", _read.__wrapped__)
    with pytest.raises(NotSupported, match=r"pip install lakehouse-server\[local-ai\]"):
        embed(Models(AiSettings()).embedder(), "x")


def test_models_are_told_of_with_what_they_lack() -> None:
    models = Models(AiSettings())
    (state,) = models.models()
    assert state.error is None
    assert state.default_for == ("embed", "rerank")
    with pytest.raises(ModelNotFound, match=r"called 'other' .there are: 'local'"):
        models.embedder("other")
    with pytest.raises(ModelNotFound, match="can generate"):
        models.generator()


def test_reranking_is_by_vectors_where_nothing_is_said() -> None:
    reranker = Models(AiSettings()).reranker()
    scores = reranker.rerank("unpack a compressed archive", [*DOCUMENTS.values(), ""])
    assert reranker.method == "cosine"
    assert list(DOCUMENTS)[int(scores.argmax())] == "zipfile"
    assert scores[-1] == 0
