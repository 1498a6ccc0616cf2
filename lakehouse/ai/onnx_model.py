"""A model that onnxruntime runs in this process: an encoder that embeds, or a cross-encoder of pairs.

Texts go through the model in batches of about the same length, shortest first, so that little is padded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.ai.embedding import Turns
from lakehouse.ai.onnx_files import OnnxFiles, files_of, lacking_packages
from lakehouse.ai.provider import Check, ModelIdentity, Vectors, unchecked
from lakehouse.config import ModelSettings
from lakehouse.errors import LakehouseError, ModelFailed, ModelNotFound

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_POLL_SECONDS = 0.05
_MOST_THREADS = 8
_TOKENIZED_AT_ONCE = 1024
# Bounds the memory of attention, and how long a batch takes.
_BATCH_TOKENS = 2048
# What is longer cannot come into the tokens that are read, but for words without end.
_CHARACTERS_OF_TOKEN = 64
_INTEGERS: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
# Of what exports call them, the first that there is.
_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings", "logits")
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: InferenceSession
    tokenizer: Any
    files: OnnxFiles
    digest: str
    inputs: dict[str, type[np.integer[Any]]]
    output: str


class OnnxModel:
    """A model of onnxruntime, loaded when it is first asked. Methods may be called from any thread.

    Args:
        settings: The profile.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._runs = ThreadPoolExecutor(settings.requests_in_flight, f"onnx-{settings.name}")

    def load(self) -> _Loaded:
        """The model, which is in memory then.

        Raises:
            NotSupported: A package is not installed.
            ModelNotFound: The model is not there, or is none that can be used.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = _read(self._settings)
            return self._loaded

    def identity(self, dimension: int) -> ModelIdentity:
        """Which model it is; the digest is that of its files."""
        loaded = self.load()
        return ModelIdentity(loaded.files.provider, self._settings.model, loaded.digest, dimension)

    def outputs(
        self, texts: Sequence[str] | Sequence[tuple[str, str]], check: Check
    ) -> Iterator[tuple[Integers, NDArray[Any], Integers]]:
        """What the model gives for texts or pairs of them, batch by batch.

        Yields:
            The numbers of the texts of a batch, what the model gave for them, and which tokens count.
        """
        loaded = self.load()
        most = _CHARACTERS_OF_TOKEN * loaded.files.max_tokens
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            check()
            some = [_cut(text, most) for text in texts[start : start + _TOKENIZED_AT_ONCE]]
            encoded = loaded.tokenizer.encode_batch_fast(some)
            tokens = [each.ids for each in encoded]
            kinds = [each.type_ids for each in encoded] if "token_type_ids" in loaded.inputs else tokens
            for numbers in _batches([len(ids) for ids in tokens], self._settings.batch_size):
                ids = _padded([tokens[n] for n in numbers])
                mask = _mask([len(tokens[n]) for n in numbers])
                given = {
                    "input_ids": ids,
                    "attention_mask": mask,
                    "token_type_ids": _padded([kinds[n] for n in numbers]),
                    "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
                }
                feed = {name: given[name].astype(kind, copy=False) for name, kind in loaded.inputs.items()}
                yield start + numbers, self._run(loaded, feed, check), mask

    def close(self) -> None:
        """Release the threads, once what is under way has ended."""
        self._runs.shutdown(wait=True, cancel_futures=True)

    def _run(self, loaded: _Loaded, feed: dict[str, Any], check: Check) -> NDArray[Any]:
        """Run the model, and stop it where ``check`` raises."""
        from onnxruntime import RunOptions  # noqa: PLC0415 - an extra

        options = RunOptions()
        done: Future[list[NDArray[Any]]] = self._runs.submit(
            loaded.session.run, [loaded.output], feed, options
        )
        while True:
            try:
                return done.result(_POLL_SECONDS)[0]
            except NotYet:
                try:
                    check()
                except BaseException:
                    options.terminate = True
                    done.exception()
                    raise
            except Exception as error:
                raise ModelFailed(f"the model '{self._settings.name}' ended with an error") from error


class OnnxEmbedding:
    """An encoder that embeds.

    Args:
        settings: The profile.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._model = OnnxModel(settings)
        self._dimension = 0

    def identity(self, check: Check) -> ModelIdentity:
        """Which model it is."""
        if not self._dimension:
            shape = _output_shape(self._model.load())
            known = shape[-1] if isinstance(shape[-1], int) else 0
            self._dimension = known or self.vectors(["length"], check).shape[1]
        return self._model.identity(self._dimension)

    def vectors(self, texts: Sequence[str], check: Check) -> Vectors:
        """The vectors of texts, none of them empty, as the model gives them."""
        pooling = self._model.load().files.pooling
        found: Vectors | None = None
        for numbers, output, mask in self._model.outputs(texts, check):
            pooled = output if output.ndim == 2 else _pooled(output, mask, pooling)
            if found is None:
                found = np.empty((len(texts), pooled.shape[-1]), np.float32)
            found[numbers] = pooled
        assert found is not None
        return found

    def close(self) -> None:
        """Release the threads."""
        self._model.close()


class OnnxReranker:
    """A cross-encoder: it reads query and text together, and gives one number for the pair.

    Args:
        settings: The profile.
        turns: How many calls are worked on at once.
    """

    method = "cross_encoder"

    def __init__(self, settings: ModelSettings, turns: Turns) -> None:
        self._settings = settings
        self._turns = turns
        self._model = OnnxModel(settings)

    @property
    def model(self) -> ModelIdentity:
        """Which model it is."""
        return self._model.identity(0)

    def rerank(self, query: str, texts: Sequence[str], *, check: Check = unchecked) -> Vectors:
        """Scores of texts: the log-odds that they answer the query, as the model has it.

        Raises:
            ModelFailed: The model does not give one number, or those of no and yes.
        """
        scores = np.empty(len(texts), np.float32)
        with self._turns.one(check):
            for numbers, output, _ in self._model.outputs([(query, text) for text in texts], check):
                if output.ndim != 2 or output.shape[1] not in (1, 2) or not np.isfinite(output).all():
                    raise ModelFailed(
                        f"the model '{self._settings.name}' gave an array of shape {output.shape} for "
                        f"{len(numbers)} pairs, expected one finite number for each",
                        "take a model with one label",
                    )
                scores[numbers] = output[:, -1] - (output[:, 0] if output.shape[1] == 2 else 0)
        return scores

    def close(self) -> None:
        """Release the threads."""
        self._model.close()


def _read(settings: ModelSettings) -> _Loaded:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise lacking_packages(settings) from error
    files = files_of(settings)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads or min(_MOST_THREADS, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads without work sleep: others need the processor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        tokenizer = (
            _bert(files) if files.tokenizer.suffix == ".txt" else Tokenizer.from_file(str(files.tokenizer))
        )
        tokenizer.no_padding()
        tokenizer.enable_truncation(files.max_tokens)
        session = onnxruntime.InferenceSession(str(files.graph), options, providers=["CPUExecutionProvider"])
        digest = files.digest()
    except LakehouseError:
        raise
    except Exception as error:
        raise ModelNotFound(
            f"the files of the model '{settings.name}' cannot be used: they are damaged, or of another kind",
            "look at path in ai.models, and at onnxruntime's version",
        ) from error
    inputs = {each.name: _INTEGERS.get(each.type) for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    output = next((name for name in _OUTPUTS if name in outputs), outputs[0])
    usable = {name: kind for name, kind in inputs.items() if name in _INPUTS and kind is not None}
    if "input_ids" not in usable or len(usable) != len(inputs):
        raise ModelNotFound(
            f"the model '{settings.name}' takes {', '.join(inputs)}, expected input_ids and of "
            f"{', '.join(_INPUTS[1:])} what it has",
            "take an export of an encoder",
        )
    return _Loaded(session, tokenizer, files, digest, usable, output)


def _bert(files: OnnxFiles) -> Any:
    """The tokenizer of uncased BERT models."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer  # noqa: PLC0415 - an extra

    words = files.tokenizer.read_text("utf-8").rstrip("\n").split("\n")
    found = BertWordPieceTokenizer({word: number for number, word in enumerate(words)}, lowercase=True)
    return Tokenizer.from_str(found.to_str())


def _output_shape(loaded: _Loaded) -> list[Any]:
    shapes = {each.name: each.shape for each in loaded.session.get_outputs()}
    return list(shapes[loaded.output]) or [None]


def _cut(text: str | tuple[str, str], most: int) -> str | tuple[str, str]:
    return text[:most] if isinstance(text, str) else (text[0][:most], text[1][:most])


def _batches(lengths: Sequence[int], most: int) -> Iterator[Integers]:
    """Numbers of texts of about the same length that go through the model together, the shortest first."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and end - start < most:
            if lengths[order[end]] * (end - start + 1) > _BATCH_TOKENS:
                break
            end += 1
        yield order[start:end]
        start = end


def _padded(rows: Sequence[Sequence[int]]) -> Integers:
    # Beyond the end of a text the mask says that nothing is there, whatever it is.
    found = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return found


def _mask(lengths: Sequence[int]) -> Integers:
    positions = np.arange(max(lengths))
    return (positions < np.asarray(lengths)[:, None]).astype(np.int64)


def _pooled(output: NDArray[Any], mask: Integers, pooling: str) -> NDArray[Any]:
    """One vector for each text of those of its tokens."""
    if output.ndim != 3:
        raise ModelFailed(f"the model gave an array of {output.ndim} dimensions, expected 2 or 3")
    if pooling == "cls":
        return output[:, 0]
    weights = mask.astype(np.float32)
    means: NDArray[Any] = np.matmul(weights[:, None, :], output)[:, 0] / weights.sum(axis=1, keepdims=True)
    return means
