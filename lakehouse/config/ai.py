"""Settings of the models that embed and generate."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from lakehouse.config.hosts import check_host, is_loopback
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section
from lakehouse.config.values import BucketName, matching

LOCAL_DIMENSIONS = {"wordllama": (256, 128, 64), "minilm": (384,)}
"""The models of packages, and how long their vectors can be; the first where nothing is said."""

Duration = Annotated[
    str,
    matching(r"-?\d+(ms|s|m|h)?|", "a duration such as 30s, 5m, 0 (not at all) or -1 (for ever), or empty"),
]


class ModelSettings(Section):
    """A model that embeds, generates or judges texts (docs/ai.md). Repeat [[ai.models]] for more."""

    name: BucketName = Field("local", description="What actions and indexes call it.")
    task: Literal["embed", "generate", "rerank"] = Field("embed", description="What it does.")
    provider: Literal["local", "onnx", "ollama"] = Field(
        "local",
        description="Who runs it: this process, with a model of a package or of a directory, or an Ollama "
        "service.",
    )
    model: str = Field(
        "wordllama",
        min_length=1,
        max_length=200,
        description='What the provider calls it: "wordllama" or "minilm" for those of packages, or a model '
        'of the service such as "nomic-embed-text". One of a directory has its name if nothing is said.',
    )
    path: Annotated[str, Anchored()] = Field(
        "",
        description='For provider = "onnx": a directory with model.onnx and tokenizer.json, as '
        "sentence-transformers exports them, or the .onnx file itself; relative to this file.",
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        "auto",
        description='For provider = "onnx": how one vector is made of those of tokens. "auto" is what the '
        "directory says, or else their mean.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads of a model that onnxruntime runs. 0 takes all processors, at most 8.",
    )
    host: str = Field("http://localhost:11434", description="URL of the Ollama service.")
    token: SecretRef | None = Field(
        None,
        description="Where the token is that the service wants, if any; it is sent over TLS or to this "
        "machine only.",
        examples=[SecretRef(env="OLLAMA_TOKEN")],
    )
    dimension: int = Field(
        0,
        ge=0,
        le=65_536,
        description="Length that its vectors have to have. 0 takes the model's own. The built-in model can "
        "cut them to 128 or 64.",
    )
    document_prefix: str = Field(
        "", max_length=2000, description="Put before texts that are to be found, as many models want it."
    )
    query_prefix: str = Field("", max_length=2000, description="Put before texts to search by.")
    timeout_seconds: float = Field(
        60.0, gt=0, description="How long to wait for an answer, or for the next token of one."
    )
    retries: int = Field(
        3, ge=0, le=10, description="How often a request that found no service is made again, ever later."
    )
    keep_alive: Duration = Field(
        "5m",
        description="How long the service keeps the model in memory after a request, such as 5m, or -1 for "
        "ever. Empty leaves it to the service.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Most texts in one request or batch.")
    requests_in_flight: int = Field(2, ge=1, le=256, description="Most requests to it at once.")
    context_tokens: int = Field(
        0,
        ge=0,
        description="Most tokens of a text that the model reads; an Ollama service is asked for that "
        "context. 0 leaves it to the model or the service.",
    )

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_directory(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("provider") == "onnx" and "model" not in given:
            parts = PurePath(str(given.get("path") or "").removesuffix(".onnx")).parts
            named = [part for part in parts if part not in ("model", "onnx", "..", "/")]
            return {**given, "model": named[-1] if named else "model"}
        return given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.provider == "onnx") != bool(self.path):
            raise ValueError('provider = "onnx" and path belong together')
        if self.task == "rerank" and self.provider != "onnx":
            raise ValueError('task = "rerank" needs provider = "onnx"; for others see reranker of [ai]')
        if self.task == "generate" and self.provider != "ollama":
            raise ValueError('task = "generate" needs provider = "ollama", the others cannot')
        if self.provider == "local":
            lengths = LOCAL_DIMENSIONS.get(self.model)
            if lengths is None:
                known = ", ".join(LOCAL_DIMENSIONS)
                raise ValueError(f"model = {self.model!r} is in no package, expected {known}")
            if self.dimension and self.dimension not in lengths:
                known = ", ".join(map(str, lengths))
                raise ValueError(f"dimension = {self.dimension}, expected one of {known} or 0")
        parts = urlsplit(self.host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"host = {self.host!r} should be a URL such as http://localhost:11434")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("host should be a URL without user, password, query and fragment; see token")
        is_here = parts.hostname == "localhost" or is_loopback(parts.hostname)
        if self.token is not None and parts.scheme != "https" and not is_here:
            raise ValueError(f"host = {self.host!r} should begin with https://, as a token goes there")
        return self

    def check_endpoint(self, allow_ip_literals: bool) -> None:
        """Refuse a service that is named by an address, unless these are welcome.

        Raises:
            ValueError: It is not a DNS name or a loopback address.
        """
        check_host(urlsplit(self.host).hostname or "", allow_ip_literals)


class AiSettings(Section):
    """Models: which are taken where none is named, and what a call may ask for (docs/ai.md)."""

    embedder: str = Field(
        "", description="The one of [[ai.models]] that embeds. Empty takes the first that can."
    )
    generator: str = Field(
        "", description="The one of [[ai.models]] that generates. Empty takes the first that can."
    )
    reranker: str = Field(
        "",
        description="The one of [[ai.models]] that orders texts by how well they answer a query: one that "
        "generates is asked for scores, of one that embeds vectors are compared. Empty takes the first that "
        "does nothing else, or else the embedder.",
    )
    max_texts: int = Field(1000, ge=1, description="Most texts of one ai.embed or ai.rerank.")
    max_text_bytes: int = Field(2_000_000, ge=1, description="Longest text or prompt, in bytes.")
    max_tokens: int = Field(4096, ge=1, description="Most tokens that one call may generate.")
    calls_per_minute: int = Field(
        600, ge=1, description="Most calls of ai.embed, ai.generate and ai.rerank of one principal."
    )
    texts_per_minute: int = Field(100_000, ge=1, description="Most texts in these calls of one principal.")
    models: tuple[ModelSettings, ...] = (ModelSettings(),)

    @model_validator(mode="after")
    def _known_models(self) -> Self:
        tasks: dict[str, str] = {}
        for model in self.models:
            if model.name in tasks:
                raise ValueError(f"the model {model.name!r} is there twice, expected once")
            tasks[model.name] = model.task
        for key, wanted in (("embedder", "embed"), ("generator", "generate"), ("reranker", "")):
            name = getattr(self, key)
            fit = [each for each, task in tasks.items() if not wanted or task == wanted]
            if name and name not in fit:
                raise ValueError(f"{key} = {name!r}, expected one of {', '.join(fit) or 'none'}")
        return self
