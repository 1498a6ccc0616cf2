"""What models do for the lake, whoever provides them: vectors of texts, generated text, orders of texts.

Every call takes a ``check``, which is asked between steps of the work and raises where it shall stop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""Float32, one row for each text."""
Check = Callable[[], None]
"""Raises where the work shall stop: the caller went away, or its time is over."""


def unchecked() -> None:
    """A ``check`` for work that nobody stops."""


class Purpose(Enum):
    """What a text is embedded for; many models want another prefix for each."""

    DOCUMENT = "document"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model it is: vectors of two models cannot be compared unless all of this is equal.

    Attributes:
        provider: Who runs it: ``local``, ``onnx`` or ``ollama``.
        name: What the provider calls it.
        digest: What the provider knows it by when the name stays and the weights change.
        dimension: Length of its vectors; 0 for models that give none.
    """

    provider: str
    name: str
    digest: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How text is generated.

    Attributes:
        max_tokens: Most tokens to generate.
        temperature: 0 always takes the likeliest token; None is the model's own default.
        seed: Makes what is drawn repeatable, where the provider can.
        stop: Texts at which to stop; they are not given.
        schema: JSON schema that the text is to follow, where the provider can.
    """

    max_tokens: int
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """How a generation ended.

    Attributes:
        prompt_tokens: Tokens of the prompt; None where the provider does not say.
        tokens: Tokens that were generated; None where the provider does not say.
        reason: Why it ended: ``stop`` (the model was done) or ``length`` (the bound was reached).
    """

    prompt_tokens: int | None
    tokens: int | None
    reason: str


TokenStream = Generator[str, None, Generated]
"""Pieces of text as they are generated; what it returns says how it ended. Closing it stops the model."""


class Embedder(Protocol):
    """Turns texts into vectors. Methods may be called from any number of threads."""

    @property
    def model(self) -> ModelIdentity:
        """Which model it is; asks the provider where that is not known yet.

        Raises:
            ModelUnavailable: The provider does not answer.
            ModelNotFound: The provider does not have it.
        """
        ...

    def embed(self, texts: Sequence[str], *, purpose: Purpose, check: Check = unchecked) -> Vectors:
        """The vectors of texts, in their order; of shape ``(len(texts), dimension)``, all finite.

        Args:
            texts: Of any length; what is longer than the model reads is cut by it. Empty texts are allowed.
            purpose: What for.
            check: Raises where the work shall stop.

        Raises:
            ModelUnavailable: The provider does not answer, or not in time.
            ModelNotFound: The provider does not have the model.
            ModelFailed: The provider answers something that is no such vectors.
        """
        ...


class TextGenerator(Protocol):
    """Generates text. Methods may be called from any number of threads."""

    @property
    def model(self) -> ModelIdentity:
        """Which model it is; asks the provider where that is not known yet."""
        ...

    def generate(
        self, prompt: str, sampling: Sampling, *, system: str = "", check: Check = unchecked
    ) -> TokenStream:
        """Continue a prompt.

        Raises:
            ModelUnavailable: The provider does not answer, stops in the middle, or is not in time.
            ModelNotFound: The provider does not have the model.
            ModelFailed: The provider refuses, or answers something that is no generation.
        """
        ...

    def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, check: Check = unchecked
    ) -> TokenStream:
        """Give the next turn of a conversation; raises like ``generate``."""
        ...


class Reranker(Protocol):
    """Says how well texts answer a query. Methods may be called from any number of threads."""

    @property
    def method(self) -> str:
        """How: ``cross_encoder``, ``generate`` (a model is asked for a score) or ``cosine`` (of vectors)."""
        ...

    @property
    def model(self) -> ModelIdentity:
        """Which model it is."""
        ...

    def rerank(self, query: str, texts: Sequence[str], *, check: Check = unchecked) -> Vectors:
        """Scores of texts in their order, of shape ``(len(texts),)``; more is better.

        Raises:
            ModelUnavailable: The provider does not answer, or not in time.
            ModelNotFound: The provider does not have the model.
            ModelFailed: The provider answers something that is no score.
        """
        ...
