"""The models of the configuration, by the names that it gives them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakSet

from lakehouse.ai.embedding import EmbeddingModel, ProfileEmbedder, Turns
from lakehouse.ai.ollama_models import OllamaEmbedding, OllamaGenerator
from lakehouse.ai.ollama_service import OllamaService
from lakehouse.ai.onnx_model import OnnxEmbedding, OnnxReranker
from lakehouse.ai.provider import Check, Embedder, ModelIdentity, Reranker, TextGenerator, unchecked
from lakehouse.ai.reranking import GeneratedReranker, VectorReranker
from lakehouse.ai.static_model import STATIC_MODELS, StaticModel, forget_static_models
from lakehouse.config import AiSettings, ModelSettings
from lakehouse.errors import LakehouseError, ModelNotFound

_ASKED_AT_ONCE = 8
_BUILT_IN = '[[ai.models]] with name = "local" adds the built-in one'


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model of the configuration, and whether it can be used now.

    ``identity`` is there where it can; ``error`` says why not where it cannot.
    """

    settings: ModelSettings
    default_for: tuple[str, ...]
    identity: ModelIdentity | None
    error: LakehouseError | None


class Models:
    """The models of a server. Nothing is loaded and no service is asked before the first use.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: AiSettings) -> None:
        self.settings = settings
        self._profiles: Mapping[str, ModelSettings] = {each.name: each for each in settings.models}
        self._lock = threading.Lock()
        self._embedders: dict[str, ProfileEmbedder] = {}
        self._generators: dict[str, OllamaGenerator] = {}
        self._cross_encoders: dict[str, OnnxReranker] = {}
        self._in_process: WeakSet[OnnxEmbedding | OnnxReranker] = WeakSet()
        self._services: dict[str, OllamaService] = {}

    def embedder(self, name: str | None = None) -> Embedder:
        """A model that embeds; the default one where none is named.

        Raises:
            ModelNotFound: None of that name embeds.
        """
        profile = self._profile(name, self._default_embedder(), "embed")
        with self._lock:
            found = self._embedders.get(profile.name)
            if found is None:
                found = self._embedders[profile.name] = ProfileEmbedder(profile, self._encoder(profile))
            return found

    def generator(self, name: str | None = None) -> OllamaGenerator:
        """A model that generates text; the default one where none is named.

        Raises:
            ModelNotFound: None of that name generates.
        """
        profile = self._profile(name, self._default_generator(), "generate")
        with self._lock:
            found = self._generators.get(profile.name)
            if found is None:
                found = self._generators[profile.name] = OllamaGenerator(profile, self._service(profile))
            return found

    def reranker(self, name: str | None = None) -> Reranker:
        """What orders texts by a query: a cross-encoder, or a model that generates or embeds, in its way.

        Raises:
            ModelNotFound: There is none of that name.
        """
        wanted = name or self._default_reranker()
        profile = self._profiles.get(wanted or "")
        if profile is not None and profile.task == "rerank":
            return self._cross_encoder(profile)
        if profile is not None and profile.task == "generate":
            return GeneratedReranker(self.generator(profile.name))
        return VectorReranker(self.embedder(wanted))

    @property
    def default_embedder(self) -> str | None:
        """The one that embeds where none is named; None where none can."""
        return self._default_embedder()

    def unload(self, name: str) -> None:
        """Let go of what is in memory of a model that embeds; who uses it keeps it as long."""
        with self._lock:
            if self._embedders.pop(name, None) is None:
                return
            left = [self._profiles[each] for each in self._embedders]
        if not any(each.provider == "local" and each.model in STATIC_MODELS for each in left):
            forget_static_models()

    def models(self, check: Check = unchecked) -> tuple[ModelState, ...]:
        """All models of the configuration, each asked whether it is there, several at once."""
        with ThreadPoolExecutor(_ASKED_AT_ONCE, "models") as pool:
            return tuple(pool.map(lambda each: self._state(each, check), self.settings.models))

    def close(self) -> None:
        """Stop what is under way and release connections."""
        with self._lock:
            services, self._services = list(self._services.values()), {}
            in_process = list(self._in_process)
        for service in services:
            service.close()
        for model in in_process:
            model.close()

    def _state(self, profile: ModelSettings, check: Check) -> ModelState:
        check()
        defaults = {
            "embed": self._default_embedder(),
            "generate": self._default_generator(),
            "rerank": self._default_reranker(),
        }
        default_for = tuple(task for task, name in defaults.items() if name == profile.name)
        of_task: Mapping[str, Callable[[str], Embedder | TextGenerator | Reranker]] = {
            "embed": self.embedder,
            "generate": self.generator,
            "rerank": self.reranker,
        }
        try:
            model = of_task[profile.task](profile.name).model
        except LakehouseError as error:
            return ModelState(profile, default_for, None, error)
        return ModelState(profile, default_for, model, None)

    def _profile(self, name: str | None, default: str | None, task: str) -> ModelSettings:
        wanted = name or default
        found = self._profiles.get(wanted or "")
        if found is not None and found.task == task:
            return found
        fit = ", ".join(f"'{each.name}'" for each in self.settings.models if each.task == task)
        if wanted is None:
            hint = _BUILT_IN if task == "embed" else "add one to [[ai.models]], see docs/ai.md"
            raise ModelNotFound(f"no model of the configuration can {task}", hint)
        raise ModelNotFound(f"no model that can {task} is called '{wanted}'", f"there are: {fit or 'none'}")

    def _default_embedder(self) -> str | None:
        return self.settings.embedder or self._first("embed")

    def _default_generator(self) -> str | None:
        return self.settings.generator or self._first("generate")

    def _default_reranker(self) -> str | None:
        named = self.settings.reranker or self._first("rerank")
        return named or self._default_embedder() or self._default_generator()

    def _first(self, task: str) -> str | None:
        return next((each.name for each in self.settings.models if each.task == task), None)

    def _encoder(self, profile: ModelSettings) -> EmbeddingModel:
        """What gives the vectors of a profile."""
        if profile.provider == "ollama":
            return OllamaEmbedding(profile, self._service(profile))
        if profile.provider == "local" and profile.model in STATIC_MODELS:
            return StaticModel(profile.model, profile.dimension)
        found = OnnxEmbedding(profile)
        self._in_process.add(found)
        return found

    def _cross_encoder(self, profile: ModelSettings) -> OnnxReranker:
        with self._lock:
            found = self._cross_encoders.get(profile.name)
            if found is None:
                found = self._cross_encoders[profile.name] = OnnxReranker(
                    profile, Turns(profile.requests_in_flight)
                )
                self._in_process.add(found)
            return found

    def _service(self, profile: ModelSettings) -> OllamaService:
        """The connection of a profile, with its own bounds."""
        if profile.name not in self._services:
            self._services[profile.name] = OllamaService(profile)
        return self._services[profile.name]
