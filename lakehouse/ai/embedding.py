"""What every embedder does alike: prefixes, empty texts, turns, and a look at what the model gave."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from lakehouse.ai.provider import Check, ModelIdentity, Purpose, Vectors, unchecked
from lakehouse.config import ModelSettings
from lakehouse.errors import ModelFailed

_POLL_SECONDS = 0.05


class EmbeddingModel(Protocol):
    """A model as its provider has it."""

    def identity(self, check: Check) -> ModelIdentity:
        """Which model it is."""
        ...

    def vectors(self, texts: Sequence[str], check: Check) -> Vectors:
        """The vectors of texts that are not empty, as the model gives them."""
        ...


class Turns:
    """Lets so many callers work at once; the others wait, and can be stopped meanwhile.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    @contextmanager
    def one(self, check: Check) -> Iterator[None]:
        """A turn, for a ``with``."""
        while not self._free.acquire(timeout=_POLL_SECONDS):
            check()
        try:
            yield
        finally:
            self._free.release()


class ProfileEmbedder:
    """An embedder as the configuration describes it: vectors have length 1, those of empty texts are zero.

    Args:
        settings: The profile.
        model: Who gives the vectors.
    """

    def __init__(self, settings: ModelSettings, model: EmbeddingModel) -> None:
        self._settings = settings
        self._model = model
        self._turns = Turns(settings.requests_in_flight)

    @property
    def model(self) -> ModelIdentity:
        """Which model it is; asks the provider where that is not known yet."""
        return self._model.identity(unchecked)

    def embed(self, texts: Sequence[str], *, purpose: Purpose, check: Check = unchecked) -> Vectors:
        """The vectors of texts; see ``Embedder``."""
        settings = self._settings
        prefix = settings.document_prefix if purpose is Purpose.DOCUMENT else settings.query_prefix
        there = [number for number, text in enumerate(texts) if text.strip()]
        if not there:
            return np.zeros(
                (len(texts), settings.dimension or self._model.identity(check).dimension), np.float32
            )
        with self._turns.one(check):
            found = self._model.vectors([prefix + texts[number] for number in there], check)
        _check(found, len(there), settings)
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found, dtype=np.float64))[:, None]
        found /= np.where(lengths > 0, lengths, 1).astype(np.float32)
        if len(there) == len(texts):
            return found
        vectors = np.zeros((len(texts), found.shape[1]), np.float32)
        vectors[there] = found
        return vectors


def _check(found: Vectors, count: int, settings: ModelSettings) -> None:
    """Refuse what are not that many finite vectors of the length that is expected."""
    what = f"the model '{settings.model}' ({settings.provider})"
    if found.ndim != 2 or found.shape[0] != count or not found.shape[1]:
        raise ModelFailed(f"{what} gave an array of shape {found.shape}, expected {count} vectors")
    if settings.dimension and found.shape[1] != settings.dimension:
        raise ModelFailed(
            f"{what} gave vectors of length {found.shape[1]}, expected {settings.dimension}",
            f"set dimension of the model '{settings.name}' in ai.models, or take another model",
        )
    if not np.isfinite(found).all():
        number = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise ModelFailed(f"{what} gave numbers that are not finite for text {number} of {count}")
