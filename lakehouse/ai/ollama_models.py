"""Models of an Ollama service."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lakehouse.ai.ollama_service import OllamaService
from lakehouse.ai.provider import (
    Check,
    Generated,
    Message,
    ModelIdentity,
    Sampling,
    TokenStream,
    Vectors,
    unchecked,
)
from lakehouse.config import ModelSettings
from lakehouse.errors import ModelFailed, ModelUnavailable

if TYPE_CHECKING:
    from ollama import AsyncClient, ChatResponse, EmbedResponse, GenerateResponse, ShowResponse

# How long the service is believed to still have the model that it had.
_IDENTITY_SECONDS = 60.0


class _Model:
    """What the service knows of a model, asked again from time to time: it may be pulled anew.

    Args:
        settings: The profile.
        service: Who has the model.
    """

    def __init__(self, settings: ModelSettings, service: OllamaService) -> None:
        self.settings = settings
        self.service = service
        self._lock = threading.Lock()
        self._known: tuple[float, str, int] | None = None

    def known(self, check: Check) -> tuple[str, int]:
        """Its digest, and the length of its vectors."""
        with self._lock:
            known = self._known
        if known is not None and time.monotonic() - known[0] < _IDENTITY_SECONDS:
            return known[1:]
        name = self.settings.model
        shown: ShowResponse = self.service.ask([lambda client: client.show(name)], check)[0]
        listed = self.service.ask([lambda client: client.list()], check)[0]
        digest = next((each.digest for each in listed.models if each.model in (name, f"{name}:latest")), None)
        length = self.settings.dimension or _embedding_length(shown.modelinfo)
        with self._lock:
            self._known = (time.monotonic(), digest or "", length)
        return digest or "", length

    @property
    def described(self) -> str:
        """What it is called in messages."""
        return f"the model '{self.settings.model}' (ollama)"

    @property
    def keep_alive(self) -> str | int | None:
        """How long the service is to keep it in memory, as the service wants it said."""
        text = self.settings.keep_alive
        return int(text) if text.lstrip("-").isdigit() else text or None


class OllamaEmbedding:
    """A model of an Ollama service that embeds.

    Args:
        settings: The profile.
        service: Who has the model.
    """

    def __init__(self, settings: ModelSettings, service: OllamaService) -> None:
        self._settings = settings
        self._service = service
        self._model = _Model(settings, service)
        self._length = 0

    def identity(self, check: Check) -> ModelIdentity:
        """Which model it is. The length of its vectors is what it says, or else what it does."""
        digest, length = self._model.known(check)
        length = length or self._length or self.vectors(["length"], check).shape[1]
        return ModelIdentity("ollama", self._settings.model, digest, length)

    def vectors(self, texts: Sequence[str], check: Check) -> Vectors:
        """The vectors of texts, by as many requests as that takes."""
        size = self._settings.batch_size
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        answers = self._service.ask([self._request(batch) for batch in batches], check)
        found = [self._array(answer, batch) for answer, batch in zip(answers, batches, strict=True)]
        self._length = self._one_length({each.shape[1] for each in found})
        return np.concatenate(found)

    def _request(self, batch: Sequence[str]) -> Callable[[AsyncClient], Awaitable[EmbedResponse]]:
        settings = self._settings
        return lambda client: client.embed(
            settings.model,
            batch,
            truncate=True,
            keep_alive=self._model.keep_alive,
            dimensions=settings.dimension or None,
            options=_context(settings) or None,
        )

    def _array(self, answer: EmbedResponse, batch: Sequence[str]) -> Vectors:
        rows = answer.embeddings
        if len(rows) != len(batch):
            raise ModelFailed(f"{self._model.described} gave {len(rows)} vectors for {len(batch)} texts")
        self._one_length({len(row) for row in rows})
        with np.errstate(over="ignore"):
            return np.asarray(rows, dtype=np.float32)

    def _one_length(self, lengths: set[int]) -> int:
        if len(lengths) > 1 or 0 in lengths:
            found = sorted(lengths)
            raise ModelFailed(f"{self._model.described} gave vectors of lengths {found}, expected one length")
        return lengths.pop()


class OllamaGenerator:
    """A model of an Ollama service that generates text; see ``TextGenerator``.

    Args:
        settings: The profile.
        service: Who has the model.
    """

    def __init__(self, settings: ModelSettings, service: OllamaService) -> None:
        self._settings = settings
        self._service = service
        self._model = _Model(settings, service)

    @property
    def model(self) -> ModelIdentity:
        """Which model it is; asks the service where that is not known yet."""
        return ModelIdentity("ollama", self._settings.model, self._model.known(unchecked)[0], 0)

    def generate(
        self, prompt: str, sampling: Sampling, *, system: str = "", check: Check = unchecked
    ) -> TokenStream:
        """Continue a prompt."""

        async def request(client: AsyncClient) -> AsyncIterator[GenerateResponse]:
            return await client.generate(
                self._settings.model,
                prompt,
                system=system,
                stream=True,
                format=sampling.schema,
                options=self._options(sampling),
                keep_alive=self._model.keep_alive,
            )

        return self._tokens(self._service.stream(request, check), lambda part: part.response, sampling)

    def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, check: Check = unchecked
    ) -> TokenStream:
        """Give the next turn of a conversation."""

        async def request(client: AsyncClient) -> AsyncIterator[ChatResponse]:
            return await client.chat(
                self._settings.model,
                [{"role": each.role, "content": each.content} for each in messages],
                stream=True,
                format=sampling.schema,
                options=self._options(sampling),
                keep_alive=self._model.keep_alive,
            )

        return self._tokens(self._service.stream(request, check), lambda part: part.message.content, sampling)

    def answers(
        self, prompts: Sequence[str], sampling: Sampling, *, system: str = "", check: Check = unchecked
    ) -> list[str]:
        """The whole answers to prompts, of which several are worked on at once."""

        def request(prompt: str) -> Callable[[AsyncClient], Awaitable[ChatResponse]]:
            turns = [{"role": "system", "content": system}] if system else []
            return lambda client: client.chat(
                self._settings.model,
                [*turns, {"role": "user", "content": prompt}],
                format=sampling.schema,
                options=self._options(sampling),
                keep_alive=self._model.keep_alive,
            )

        answers = self._service.ask([request(prompt) for prompt in prompts], check)
        return [answer.message.content or "" for answer in answers]

    def _tokens(
        self, parts: Iterator[Any], text_of: Callable[[Any], str | None], sampling: Sampling
    ) -> TokenStream:
        count = 0
        try:
            for part in parts:
                text = text_of(part) or ""
                if text:
                    count += 1
                    yield text
                if part.done:
                    return Generated(part.prompt_eval_count, part.eval_count, part.done_reason or "stop")
                if count >= sampling.max_tokens:
                    return Generated(None, count, "length")
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        raise ModelUnavailable(
            f"{self._model.described} stopped in the middle of its answer",
            "try again in a moment",
        )

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        given = {
            "num_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
        }
        return {key: value for key, value in given.items() if value is not None} | _context(self._settings)


def _context(settings: ModelSettings) -> dict[str, int]:
    return {"num_ctx": settings.context_tokens} if settings.context_tokens else {}


def _embedding_length(info: Mapping[str, Any] | None) -> int:
    """The length of a model's vectors, where the service says it; else 0."""
    for key, value in (info or {}).items():
        if key.endswith(".embedding_length") and isinstance(value, int) and value > 0:
            return value
    return 0
