"""Models that onnxruntime runs: MiniLM of its package, encoders and cross-encoders of a directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx_models import Minilm, bert_tokenizer, minilm_file, overlap_model
from pydantic import ValidationError

from lakehouse.ai.models import Models
from lakehouse.ai.provider import Embedder, Purpose, Reranker
from lakehouse.config import AiSettings, ModelSettings
from lakehouse.errors import ModelFailed, ModelNotFound, NotSupported, StatementCancelled

pytest.importorskip("onnxruntime")

DOCUMENTS = [
    "Encode Python objects as text in the interchange format of JavaScript, and decode it again.",
    "Open network connections and send bytes to other machines over TCP or UDP.",
    "Create, read, extract and list compressed archives in the ZIP format.",
    "Generate pseudo-random numbers and pick elements of a sequence by chance.",
]
QUESTIONS = ["parse JSON", "talk to a server", "unpack a download", "roll dice"]
ODD = ["a", "!", "日本語の文章", "🙂", "É or E\u0301", "a\u2028b c\x85d [MASK]", "x" * 400, "\x00"]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    found = Models(AiSettings(models=(ModelSettings(name="minilm", model="minilm", threads=1),)))
    yield found
    found.close()


@pytest.fixture(scope="module")
def embedder(models: Models) -> Embedder:
    return models.embedder()


def embed(embedder: Embedder, *texts: str) -> np.ndarray:
    return embedder.embed(texts, purpose=Purpose.DOCUMENT)


def directory(root: Path, pooling: str = "mean") -> Path:
    """MiniLM as sentence-transformers exports it."""
    (root / "onnx").mkdir()
    (root / "onnx" / "model.onnx").symlink_to(minilm_file())
    bert_tokenizer().save(str(root / "tokenizer.json"))
    (root / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{each}": each.startswith(pooling) for each in ("cls_token", "mean_tokens")}
    (root / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (root / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    return root


def of_directory(path: Path, task: str = "embed", **more: object) -> Models:
    profile = {"name": "own", "task": task, "provider": "onnx", "path": str(path), "threads": 1, **more}
    return Models(AiSettings(models=(ModelSettings(**profile),)))  # type: ignore[arg-type]


def test_vectors_are_those_of_the_weights_computed_without_the_runtime(embedder: Embedder) -> None:
    reference, texts = Minilm(), [DOCUMENTS[2], ODD[2], ODD[4], "one two " * 8]
    cosines = [reference.vector(t) @ v for t, v in zip(texts, embed(embedder, *texts), strict=True)]
    assert min(cosines) > 1 - 1e-4
    assert (embedder.model.name, embedder.model.dimension) == ("minilm", 384)


def test_questions_find_their_answers_and_a_text_has_one_vector(embedder: Embedder) -> None:
    documents = embed(embedder, *DOCUMENTS)
    asked = embedder.embed(QUESTIONS, purpose=Purpose.QUERY)
    assert (asked @ documents.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    many = embed(embedder, *ODD, *DOCUMENTS, " ", *QUESTIONS)
    assert not many[len(ODD) + len(DOCUMENTS)].any()
    for place, text in enumerate([*ODD, *DOCUMENTS]):
        np.testing.assert_allclose(many[place], embed(embedder, text)[0], atol=2e-5)
    whole = embed(embedder, "word " * 200_000, "word " * 254)
    np.testing.assert_allclose(whole[0], whole[1], atol=2e-5)


def test_a_directory_gives_the_same_vectors(embedder: Embedder, tmp_path: Path) -> None:
    own = of_directory(directory(tmp_path))
    np.testing.assert_allclose(embed(own.embedder(), *DOCUMENTS), embed(embedder, *DOCUMENTS), atol=1e-6)
    found = own.embedder().model
    assert (found.provider, found.name, found.dimension) == ("onnx", tmp_path.name, 384)
    assert found.digest != embedder.model.digest
    first = of_directory(tmp_path / "onnx" / "model.onnx", pooling="cls", context_tokens=8)
    assert abs(embed(first.embedder(), DOCUMENTS[0]) - embed(own.embedder(), DOCUMENTS[0])).max() > 0.01
    assert first.embedder().model.digest != found.digest
    assert (first.embedder().model.name, first.models()[0].error) == (tmp_path.name, None)


def test_work_stops_in_the_middle_of_a_batch(embedder: Embedder) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise StatementCancelled("gone")

    with pytest.raises(StatementCancelled):
        embedder.embed(["word " * 300] * 64, purpose=Purpose.DOCUMENT, check=check)
    assert embed(embedder, "a cat").any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "onnx"), "has no model.onnx"),
        (lambda root: (root / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda root: (root / "tokenizer.json").write_text("{}"), "damaged"),
        (lambda root: (root / "model.onnx").write_bytes(b"\x08\x0a"), "damaged"),
        (lambda root: (root / "sentence_bert_config.json").write_text("{"), "sentence_bert_config.json"),
        (
            lambda root: (root / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}'),
            "pooling that is not there: pooling_mode_max_tokens",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    spoil(directory(tmp_path))
    with pytest.raises(ModelNotFound, match=message) as error:
        embed(of_directory(tmp_path).embedder(), "x")
    assert str(tmp_path) not in f"{error.value} {error.value.hint}"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    models = Models(AiSettings(models=(ModelSettings(name="minilm", model="minilm"),)))
    with pytest.raises(NotSupported, match=r"lakehouse-server\[local-ai-onnx\]"):
        embed(models.embedder(), "x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provider": "onnx"}, "provider = \"onnx\" and path belong together"),
        ({"path": "/models/x"}, "belong together"),
        ({"task": "rerank"}, "task = \"rerank\" needs provider"),
        ({"task": "generate", "provider": "onnx", "path": "x"}, "needs provider = \"ollama\""),
        ({"model": "minilm", "dimension": 64}, "expected one of 384 or 0"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings(**settings)  # type: ignore[arg-type]


def cross_encoder(root: Path, labels: int = 1) -> Reranker:
    overlap_model(root / "model.onnx", labels)
    bert_tokenizer().save(str(root / "tokenizer.json"))
    return of_directory(root, "rerank").reranker()


@pytest.mark.parametrize(("labels", "scale"), [(1, 1), (2, 2)])
def test_a_cross_encoder_sees_query_and_text_together(tmp_path: Path, labels: int, scale: int) -> None:
    reranker = cross_encoder(tmp_path, labels)
    texts = ["nothing of the kind", "a cat", "", "the cat and the other cat sat down on a mat"]
    assert reranker.rerank("cat mat", texts).tolist() == [0, scale, 0, 3 * scale]
    assert (reranker.method, reranker.model.provider, reranker.model.dimension) == (
        "cross_encoder",
        "onnx",
        0,
    )
    assert reranker.rerank("cat", []).tolist() == []


def test_a_model_of_several_labels_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match=r"shape \(1, 3\) for 1 pairs"):
        cross_encoder(tmp_path, 3).rerank("cat", ["cat"])
