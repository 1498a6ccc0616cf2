"""Actions of models: vectors of texts, generated text, orders of texts, and which models there are."""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from flight_server.actions.registry import ActionSpec, Part, Permission, Request, Response
from flight_server.context import CallContext
from lakehouse.ai.models import ModelState
from lakehouse.ai.provider import Generated, Message, ModelIdentity, Purpose, Sampling, TokenStream, Vectors
from lakehouse.ai.reranking import UNSCORED
from lakehouse.errors import InvalidRequest, LimitExceeded

_EMBEDDED_AT_ONCE = 256
_PART_BYTES = 1_000_000


class ModelOf(Response):
    """Which model did it: vectors of two models cannot be compared unless all of this is equal."""

    provider: str = Field(description="local, onnx or ollama")
    name: str = Field(description="what the provider calls it")
    digest: str = Field(description="what it is known by when the name stays and the weights change")
    dimension: int = Field(description="length of its vectors; 0 for one that gives none")


class EmbedRequest(Request):
    """Texts to turn into vectors."""

    texts: list[str] = Field(description="the texts; the vector of an empty one is zero")
    model: str | None = Field(default=None, description="one of ai.models; the default one when left out")
    purpose: Purpose = Field(
        default=Purpose.DOCUMENT, description="what for: to be found, or to search by; models have prefixes"
    )


class EmbeddedTexts(Part):
    """The vectors of some of the texts."""

    first: int = Field(description="number of the first of these texts, from 0")
    vectors: str = Field(
        description="an Arrow IPC stream in base64, with the columns number (int32) and vector (a list of "
        "fixed size of float32, of length 1)"
    )


class EmbedResponse(Response):
    """What made the vectors."""

    model: ModelOf
    texts: int


class ChatMessage(Request):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class GenerateRequest(Request):
    """A prompt to continue, or a conversation whose next turn is wanted."""

    prompt: str | None = Field(default=None, description="the prompt; either this or messages")
    messages: list[ChatMessage] = Field(default_factory=list, description="the conversation so far")
    system: str = Field(default="", description="what the model is told before the prompt")
    model: str | None = Field(default=None, description="one of ai.models; the default one when left out")
    max_tokens: int = Field(default=512, ge=1, description="most tokens to generate")
    temperature: float | None = Field(
        default=None, ge=0, le=10, description="0 takes the likeliest token; the model's own when left out"
    )
    seed: int | None = Field(default=None, ge=0, lt=2**31, description="makes the draw repeatable")
    stop: list[str] = Field(default_factory=list, max_length=16, description="texts to stop at")
    json_schema: dict[str, Any] | None = Field(default=None, description="that the text is to follow")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("expected either prompt or messages")
        if self.messages and self.system:
            raise ValueError("expected system with a prompt only; messages hold their own")
        return self


class GeneratedText(Part):
    """A piece of the text, as it was generated."""

    text: str


class GenerateResponse(Response):
    """The whole text, and how it ended."""

    text: str
    model: ModelOf
    reason: str = Field(description="stop (the model was done) or length (max_tokens was reached)")
    prompt_tokens: int | None = Field(description="where the provider counts them")
    tokens: int | None = Field(description="where the provider counts them")


class RerankRequest(Request):
    """Texts to put into the order of how well they answer a query."""

    query: str = Field(min_length=1)
    texts: list[str]
    model: str | None = Field(default=None, description="one of ai.models; the default one when left out")
    top: int | None = Field(default=None, ge=1, description="how many of the best to give; all when left out")


class RerankResponse(Response):
    """The texts in order, best first; of equals the one that came first."""

    order: list[int] = Field(description="numbers of texts, from 0")
    scores: list[float | None] = Field(description="of the texts in this order; none where there is none")
    method: str = Field(
        description="cross_encoder (a model read both, the score is log-odds), generate (one was asked for "
        "a score from 0 to 1) or cosine (of vectors)"
    )
    model: ModelOf


class ModelsRequest(Request):
    """Nothing to say."""


class ConfiguredModel(Response):
    """A model of the configuration."""

    name: str = Field(description="what actions call it")
    task: str = Field(description="embed, generate or rerank")
    provider: str = Field(description="local, onnx or ollama")
    model: str = Field(description="what the provider calls it")
    default_for: list[str] = Field(description="embed, generate, rerank: where it is taken if none is named")
    available: bool = Field(description="whether it answers now")
    digest: str | None
    dimension: int | None = Field(description="length of its vectors; none for one that gives none")
    code: str | None = Field(description="of the error where it is not available")
    reason: str | None = Field(description="why it is not available, and what to do")


class ModelsResponse(Response):
    """The models of the configuration, each asked whether it is there."""

    models: list[ConfiguredModel]


def _embed(ctx: CallContext, request: EmbedRequest) -> Iterator[Response | Part]:
    _admit(ctx, request.texts)
    embedder, check = ctx.lakehouse.ai.embedder(request.model), ctx.stopping()
    ctx.noted["model"] = embedder.model.name
    for start in range(0, len(request.texts), _EMBEDDED_AT_ONCE):
        texts = request.texts[start : start + _EMBEDDED_AT_ONCE]
        vectors = embedder.embed(texts, purpose=request.purpose, check=check)
        rows = max(1, _PART_BYTES // (4 * vectors.shape[1]))
        for low in range(0, len(texts), rows):
            yield _part(start + low, vectors[low : low + rows])
    yield EmbedResponse(model=_model(embedder.model), texts=len(request.texts))


def _part(first: int, vectors: Vectors) -> EmbeddedTexts:
    count, length = vectors.shape
    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), length)
    numbers = pa.array(range(first, first + count), pa.int32())
    batch = pa.record_batch([numbers, vector], names=["number", "vector"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return EmbeddedTexts(first=first, vectors=base64.b64encode(sink.getvalue()).decode("ascii"))


def _generate(ctx: CallContext, request: GenerateRequest) -> Iterator[Response | Part]:
    bounds = ctx.lakehouse.settings.ai
    if request.max_tokens > bounds.max_tokens:
        raise LimitExceeded(
            f"{request.max_tokens} tokens are asked for, at most {bounds.max_tokens} are generated",
            "ai.max_tokens",
        )
    said = [request.prompt or "", request.system, *(message.content for message in request.messages)]
    _admit(ctx, (), "".join(said))
    generator, check = ctx.lakehouse.ai.generator(request.model), ctx.stopping()
    ctx.noted["model"] = request.model or "the default one"
    sampling = Sampling(
        request.max_tokens, request.temperature, request.seed, tuple(request.stop), request.json_schema
    )
    if request.prompt is not None:
        tokens = generator.generate(request.prompt, sampling, system=request.system, check=check)
    else:
        turns = [Message(message.role, message.content) for message in request.messages]
        tokens = generator.chat(turns, sampling, check=check)
    pieces: list[str] = []
    ended = yield from _told(tokens, pieces)
    ctx.noted.update(model=generator.model.name, tokens=ended.tokens or len(pieces))
    yield GenerateResponse(
        text="".join(pieces),
        model=_model(generator.model),
        reason=ended.reason,
        prompt_tokens=ended.prompt_tokens,
        tokens=ended.tokens,
    )


def _told(tokens: TokenStream, pieces: list[str]) -> Generator[Part, None, Generated]:
    """Passes tokens on, and notes them."""
    try:
        while True:
            piece = next(tokens)
            pieces.append(piece)
            yield GeneratedText(text=piece)
    except StopIteration as end:
        ended: Generated = end.value
        return ended
    finally:
        tokens.close()


def _rerank(ctx: CallContext, request: RerankRequest) -> Iterator[Response]:
    _admit(ctx, request.texts, request.query)
    reranker = ctx.lakehouse.ai.reranker(request.model)
    ctx.noted["model"] = reranker.model.name
    scores = reranker.rerank(request.query, request.texts, check=ctx.stopping()).tolist()
    order = sorted(range(len(scores)), key=lambda number: -scores[number])[: request.top]
    generated = reranker.method == "generate"
    yield RerankResponse(
        order=order,
        scores=[None if generated and scores[n] == UNSCORED else scores[n] for n in order],
        method=reranker.method,
        model=_model(reranker.model),
    )


def _models(ctx: CallContext, request: ModelsRequest) -> Iterator[Response]:
    yield ModelsResponse(models=[_configured(each) for each in ctx.lakehouse.ai.models(ctx.stopping())])


def _configured(state: ModelState) -> ConfiguredModel:
    settings, identity, error = state.settings, state.identity, state.error
    return ConfiguredModel(
        name=settings.name,
        task=settings.task,
        provider=settings.provider,
        model=settings.model,
        default_for=list(state.default_for),
        available=error is None,
        digest=identity.digest if identity is not None else None,
        dimension=(identity.dimension if identity is not None else 0) or None,
        code=error.code if error is not None else None,
        reason=str(error) if error is not None else None,
    )


def _model(identity: ModelIdentity) -> ModelOf:
    return ModelOf(
        provider=identity.provider,
        name=identity.name,
        digest=identity.digest,
        dimension=identity.dimension,
    )


def _admit(ctx: CallContext, texts: Sequence[str], prompt: str = "") -> None:
    """Refuse what is too much, at once or within a minute."""
    bounds = ctx.lakehouse.settings.ai
    if len(texts) > bounds.max_texts:
        raise LimitExceeded(
            f"{len(texts)} texts are more than the {bounds.max_texts} of one call", "ai.max_texts"
        )
    for name, text in (("the prompt", prompt), *((f"text {n}", text) for n, text in enumerate(texts))):
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{name} holds half of a surrogate pair, which is no character") from error
        if size > bounds.max_text_bytes:
            raise LimitExceeded(
                f"{name} has {size} bytes, at most {bounds.max_text_bytes} are taken",
                "ai.max_text_bytes",
            )
    ctx.noted.update(texts=len(texts), characters=len(prompt) + sum(map(len, texts)))
    ctx.lakehouse.ai_calls.admit(ctx.principal.name, max(1, len(texts)))


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "ai.embed",
        "Turn texts into vectors",
        EmbedRequest,
        EmbedResponse,
        _embed,
        Permission.AI,
        part=EmbeddedTexts,
    ),
    ActionSpec(
        "ai.generate",
        "Generate text from a prompt or a conversation",
        GenerateRequest,
        GenerateResponse,
        _generate,
        Permission.WRITE,
        part=GeneratedText,
    ),
    ActionSpec(
        "ai.rerank",
        "Put texts into the order of how well they answer a query",
        RerankRequest,
        RerankResponse,
        _rerank,
        Permission.AI,
    ),
    ActionSpec(
        "ai.models",
        "The configured models, and whether they answer",
        ModelsRequest,
        ModelsResponse,
        _models,
        Permission.READ,
    ),
)
