"""Actions that embed the texts of a table, at once or in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Progress, Response
from flight_server.actions.run_response import RunResponse, doing, run_response, stop_of
from flight_server.actions.table_request import OfTable, guarded_indexes, located
from flight_server.actions.vector_index import OF_PROFILE, VectorModel, columns_of, model_response, profile_of
from flight_server.context import CallContext
from flight_server.execution import Recording
from lakehouse.engine.session import Session
from lakehouse.errors import InvalidRequest
from lakehouse.runs import RunRecord, TaskRequest, TaskResult, Watch
from lakehouse.types import TableName
from lakehouse.vectors.chunking import ChunkBy, Chunking
from lakehouse.vectors.embeddings import EmbedRequest, EmbedResult

_CHUNKING = Chunking()


class EmbedVectorsRequest(OfTable):
    """The texts of which table to embed, and how."""

    columns: list[str] = Field(description="columns of the texts, put together in this order", min_length=1)
    keys: list[str] = Field(
        default_factory=list, description="what tells rows apart; the table's primary key when left out"
    )
    into: str | None = Field(
        default=None,
        description="table of the embeddings in the same schema, made where there is none; the name of the "
        "table with _embeddings, and the profile's if there is one, when left out",
    )
    model: str | None = Field(
        default=None, description="one of ai.models; the profile's or the default one when left out"
    )
    profile: str | None = Field(default=None, description=OF_PROFILE)
    chunk_by: ChunkBy = Field(
        default=_CHUNKING.by, description="where texts are cut: paragraph, sentence, size or none"
    )
    chunk_size: int = Field(default=_CHUNKING.size, description="most characters of a piece")
    chunk_overlap: int = Field(
        default=_CHUNKING.overlap, description="most characters that a piece repeats of the one before"
    )


class EmbedVectorsResponse(Response):
    """What was done: rows of the table by what became of them, and pieces that were embedded."""

    table: str = Field(description="the table of the embeddings")
    unchanged: int
    embedded: int
    deleted: int
    chunks: int
    source_snapshot_id: int | None
    model: VectorModel


def _embed(ctx: CallContext, request: EmbedVectorsRequest) -> Iterator[Progress | Response]:
    found: list[EmbedResult] = []
    task = _embed_task(ctx, request, found.append)
    return doing(ctx, task, lambda record: _embedded(record, found[0]))


def _start_embed(ctx: CallContext, request: EmbedVectorsRequest) -> Iterator[Response]:
    task = _embed_task(ctx, request, lambda _: None)
    yield run_response(ctx.lakehouse.vector_runs.start(task, ctx.principal))


def _embed_task(
    ctx: CallContext, request: EmbedVectorsRequest, give: Callable[[EmbedResult], None]
) -> TaskRequest:
    """What embeds the table, here or in the background."""
    name = located(ctx, request)
    table = ctx.lake(name).load(name.schema, name.table)
    keys = columns_of(table, request.keys or list(table.primary_key))
    if not keys:
        raise InvalidRequest(f"rows of '{table.name}' cannot be told apart", "name the key columns")
    indexes = guarded_indexes(ctx, request.profile)
    profile = profile_of(ctx, indexes)
    into, model = f"{name.table}_embeddings", request.model
    if profile is not None:
        indexes.check_covered(profile.name, table.name)
        own = profile.settings.model
        if own and model not in (None, own):
            raise InvalidRequest(
                f"the profile '{profile.name}' has the model '{own}', the request names '{model}'"
            )
        into, model = f"{into}_{profile.name.replace('-', '_')}", model or own or None
    target = TableName(name.catalog, name.schema, request.into or into)
    embedder = ctx.lakehouse.ai.embedder(model)
    wanted = EmbedRequest(
        table.name,
        target,
        columns_of(table, request.columns),
        keys,
        Chunking(request.chunk_by, request.chunk_size, request.chunk_overlap),
        model or "",
    )

    def work(session: Session, watch: Watch) -> TaskResult:
        own = replace(ctx, session=session, cancelled=watch.cancelled)
        with Recording(own, f"VECTORS EMBED {table.name}", "vectors") as recording:
            recording.record.tables = (str(table.name), str(target))
            done = ctx.lakehouse.embeddings.run(
                wanted,
                embedder,
                session,
                check=stop_of(watch, recording),
                cancelled=lambda: watch.cancelled() or recording.record.stop is not None,
                progress=watch.progress,
            )
            recording.record.rows = done.chunks
        give(done)
        counts = {name: getattr(done, name) for name in ("unchanged", "embedded", "deleted", "chunks")}
        return TaskResult(
            f"{done.embedded} rows were embedded in {done.chunks} pieces",
            done.unchanged + done.embedded,
            done.chunks,
            done.snapshot_id,
            {name: str(count) for name, count in counts.items()} | {"model": done.model.name},
        )

    return TaskRequest("vectors.embed", str(table.name), str(target), work)


def _embedded(record: RunRecord, done: EmbedResult) -> Response:
    return EmbedVectorsResponse(
        table=record.table,
        unchanged=done.unchanged,
        embedded=done.embedded,
        deleted=done.deleted,
        chunks=done.chunks,
        source_snapshot_id=done.snapshot_id,
        model=model_response(done.model),
    )


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "vectors.embed",
        "Bring a table of embeddings up to the texts of another one: what is new, changed or gone",
        EmbedVectorsRequest,
        EmbedVectorsResponse,
        _embed,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "vectors.runs.embed",
        "Do what vectors.embed does in the background, and answer at once",
        EmbedVectorsRequest,
        RunResponse,
        _start_embed,
        Permission.WRITE,
    ),
)
