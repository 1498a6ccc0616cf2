"""Actions on vector indexes: build, search, list, go back, drop."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    ReadingResponse,
    Request,
    Response,
    in_a_thread,
    sparingly,
)
from flight_server.actions.run_response import RunResponse, run_actions, run_response
from flight_server.actions.table_request import OfTable, guarded_indexes, located
from flight_server.context import CallContext
from flight_server.execution import Recording
from flight_server.protocol.codec import encode_statement_ticket
from lakehouse.access.profile_access import Profile
from lakehouse.catalog import Table
from lakehouse.catalog.names import fold
from lakehouse.engine.session import Session, StatementHandle
from lakehouse.errors import InvalidRequest
from lakehouse.runs import RunRecord, TaskRequest, TaskResult, Watch
from lakehouse.types import TableName
from lakehouse.vectors.chunking import ChunkBy, Chunking
from lakehouse.vectors.embeddings import CHUNK_TEXT, EmbedRequest, EmbedResult, identity_key
from lakehouse.vectors.faiss_index import MOST_RESULTS, Way
from lakehouse.vectors.generation import Generation, Guard, Model, VectorColumn, parted_name
from lakehouse.vectors.generation_store import Live
from lakehouse.vectors.guarded_indexes import GuardedIndexes
from lakehouse.vectors.hybrid import CANDIDATES, RRF_K, Ask, Mode, told
from lakehouse.vectors.indexes import BuildRequest, Hits
from lakehouse.vectors.lexical import is_text
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric, Storage
from lakehouse.vectors.text_queries import embedded_queries

_DEFAULT = IndexParameters()
_CHUNKING = Chunking()
_MOST_QUERIES = 10_000
_MOST_TEXTS = 1000
_MOST_CANDIDATES = 10_000
_MOST_RERANKED = 10_000
_DEFAULT_K = 10
_TOO_MANY = f"expected at most {_MOST_RERANKED} rows to be reranked: texts times candidates (or k)"


class VectorModel(Response):
    """The model that vectors were made with; empty where nobody said."""

    profile: str
    provider: str
    name: str
    digest: str


class VectorIndexDescription(Response):
    """The live generation of an index."""

    index: str = Field(description="its full name: PROFILE:NAME where it is of a profile")
    profile: str = Field(description="empty where it is of none")
    generation: str = Field(description="tells it from all others of the index; later ones are greater")
    live_since: datetime
    why: str = Field(description="what made it live: build, promote, rollback or repair")
    created_at: datetime
    created_by: str
    table: str = Field(description="where the vectors are")
    column: str
    source: str = Field(description="what they were made from: who may read that may search the index")
    source_snapshot_id: int | None = Field(description="the snapshot of it that they were made from")
    keys: list[str] = Field(description="what tells rows of the source apart, so that a filter can choose")
    columns: list[str] = Field(description="what a search gives beside the score")
    count: int | None = Field(description="how many vectors; none for those who do not see all rows")
    dimension: int
    metric: Metric
    algorithm: Algorithm
    storage: Storage
    m: int
    ef_construction: int
    ef_search: int
    model: VectorModel
    lexical: str | None = Field(
        description="the column whose words can be searched; none where there is none"
    )
    size_bytes: int | None
    build_seconds: float


_OF_PROFILE = "the profile that it is about, none for none; the session's own when left out"


class BuildVectorsRequest(OfTable):
    """Of which table to build an index, and how. What is left out is the profile's, where there is one."""

    index: str = Field(description="name of the index: letters from a to z, digits, _ and -", min_length=1)
    column: str = Field(default="vector", description="column of the vectors: lists of numbers of one length")
    keys: list[str] = Field(
        default_factory=list, description="what tells rows apart; the table's primary key when left out"
    )
    columns: list[str] | None = Field(
        default=None, description="what a search gives beside the score; all but the vectors when left out"
    )
    lexical: str | None = Field(
        default=None,
        description="column of texts to be searched by their words, too; chunk_text, if there is such a "
        "column, when left out, none when empty",
    )
    metric: Metric | None = Field(
        default=None, description=f"cosine, inner_product or l2; {_DEFAULT.metric} when left out"
    )
    algorithm: Algorithm | None = Field(
        default=None, description=f"hnsw or exact; {_DEFAULT.algorithm} when left out"
    )
    storage: Storage | None = Field(
        default=None, description=f"fp32, fp16 or int8; {_DEFAULT.storage} when left out"
    )
    m: int | None = Field(
        default=None, description=f"neighbours of a vector in the graph; {_DEFAULT.m} when left out"
    )
    ef_construction: int | None = Field(
        default=None, description=f"effort of building; {_DEFAULT.ef_construction} when left out"
    )
    ef_search: int | None = Field(
        default=None, description=f"effort of a search that says nothing; {_DEFAULT.ef_search} when left out"
    )
    create: bool = Field(default=False, description="whether there must not be an index of that name yet")
    profile: str | None = Field(default=None, description=_OF_PROFILE)


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
    profile: str | None = Field(default=None, description=_OF_PROFILE)
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


class OfIndex(Request):
    """Which index."""

    index: str = Field(
        description="its name in the profile, or PROFILE:NAME; :NAME of one that is of no profile",
        min_length=1,
    )
    profile: str | None = Field(default=None, description=_OF_PROFILE)


class ListVectorsRequest(Request):
    """Which indexes."""

    profile: str | None = Field(
        default=None, description="only those of this profile, none for those of none; all when left out"
    )


class ListVectorsResponse(Response):
    """The indexes that the caller may search, by name."""

    indexes: list[VectorIndexDescription]


class DropVectorsResponse(Response):
    """The index that is gone."""

    index: str


class SearchVectorsRequest(OfIndex):
    """What to look for in which index."""

    vectors: list[list[float]] = Field(
        default_factory=list,
        description="one or several queries, each of the index's dimension",
        max_length=_MOST_QUERIES,
    )
    texts: list[str] = Field(
        default_factory=list,
        description="one or several queries instead, for the model that the vectors were made with, for the "
        "words in them, and for a reranker; beside as many vectors in a search that needs both",
        max_length=_MOST_TEXTS,
    )
    mode: Mode = Field(
        default=Mode.VECTOR,
        description="by what rows are found: vector, lexical (their words, by BM25) or hybrid (both, their "
        "ranks fused)",
    )
    k: int | None = Field(
        default=None,
        ge=1,
        le=MOST_RESULTS,
        description="how many to find of each; the profile's, else 10, when left out",
    )
    ef: int | None = Field(default=None, description="effort of the search; the index's own when left out")
    filter: str = Field(default="", description="SQL predicate over the columns of the source table")

    candidates: int = Field(
        default=CANDIDATES,
        ge=1,
        le=_MOST_CANDIDATES,
        description="how many each side of a hybrid search gives, and how many are reranked; k if that is "
        "more",
    )
    rrf_k: int = Field(
        default=RRF_K, ge=0, le=1_000_000, description="what is added to ranks before they are fused"
    )
    rerank: str | None = Field(
        default=None,
        description="one of ai.models that orders the candidates anew; the default one for that when empty",
    )

    @model_validator(mode="after")
    def _queries_that_mode_needs(self) -> Self:
        by_text = self.mode is not Mode.VECTOR or self.rerank is not None
        if by_text and not self.texts:
            raise ValueError("expected texts: there is something to be found or reranked by them")
        if by_text and self.mode is not Mode.LEXICAL and self.vectors:
            if len(self.vectors) != len(self.texts):
                raise ValueError(
                    f"{len(self.vectors)} vectors came with {len(self.texts)} texts, expected as many"
                )
        elif bool(self.vectors) == bool(self.texts):
            raise ValueError("expected either vectors or texts")
        if self.rerank is not None and self.reranked > _MOST_RERANKED:
            raise ValueError(_TOO_MANY)
        return self

    @property
    def reranked(self) -> int:
        """How many rows are reranked at most."""
        return len(self.texts) * max(self.k or _DEFAULT_K, self.candidates)


class SearchVectorsResponse(ReadingResponse):
    """How the search was made, and the ticket of a DoGet that gives what it found.

    The rows have ``query`` (from 0), ``rank`` (from 1) and ``score``, then ``vector_rank`` and
    ``lexical_rank`` in a hybrid search and ``rerank_score`` where they were reranked, and then the columns of
    the index.
    """

    index: str
    generation: str
    way: Way = Field(description="exact, hnsw, hnsw_filtered, hnsw_then_exact or lexical")
    ef: int = Field(description="the effort that was made in the graph; 0 where none was")
    rows: int
    ticket: str = Field(description="a ticket for DoGet, in base64")
    expires_at: datetime = Field(description="until when the ticket can be used")


def _guarded(ctx: CallContext, profile: str | None = None) -> GuardedIndexes:
    return guarded_indexes(ctx, profile)


def _profile(ctx: CallContext, indexes: GuardedIndexes, index: str = "") -> Profile | None:
    """The profile that a request is about, by the full name of its index where it is about one."""
    name = parted_name(indexes.named(index))[0] if index else indexes.profile
    return ctx.session.access.profile(name) if name else None


def _settled(ctx: CallContext, request: SearchVectorsRequest) -> SearchVectorsRequest:
    """A request that says all that its profile would: what is activated meanwhile does not matter to it."""
    indexes = _guarded(ctx, request.profile)
    k = request.k or indexes.usual_k(request.index)
    settled = request.model_copy(update={"index": indexes.named(request.index), "k": k})
    if settled.rerank is not None and settled.reranked > _MOST_RERANKED:
        raise InvalidRequest(_TOO_MANY)
    return settled


def _build(ctx: CallContext, request: BuildVectorsRequest) -> Iterator[Progress | Response]:
    settled = _placed(ctx, request)
    task = _build_task(ctx, settled)
    return _done(ctx, task, lambda _: _described(ctx, _guarded(ctx).find(settled.index)))


def _start_build(ctx: CallContext, request: BuildVectorsRequest) -> Iterator[Response]:
    yield run_response(
        ctx.lakehouse.vector_runs.start(_build_task(ctx, _placed(ctx, request)), ctx.principal)
    )


def _placed(ctx: CallContext, request: BuildVectorsRequest) -> BuildVectorsRequest:
    """A request with the full name of its index: what is activated meanwhile does not matter to it."""
    return request.model_copy(update={"index": _guarded(ctx, request.profile).named(request.index)})


def _build_task(ctx: CallContext, request: BuildVectorsRequest) -> TaskRequest:
    """What builds the index, here or in the background."""
    name = located(ctx, request)

    def work(session: Session, watch: Watch) -> TaskResult:
        own = replace(ctx, session=session, cancelled=watch.cancelled)
        with Recording(own, f"VECTORS BUILD {request.index}", "vectors") as recording:
            # Now, and not when it was asked for: the run before may have filled the table.
            indexes = _guarded(own)
            wanted = _requested(own, request, name, _profile(own, indexes, request.index))
            recording.record.tables = (str(wanted.source.table),)
            indexes.build(
                wanted, create=request.create, check=_stop(watch, recording), progress=watch.progress
            )
        live = _guarded(own).find(request.index)
        assert live.generation is not None
        count = live.generation.count
        return TaskResult(
            f"the index of {count} vectors is live", count, count, details={"generation": live.generation.id}
        )

    return TaskRequest("vectors.build", str(name), request.index, work)


def _done(
    ctx: CallContext, task: TaskRequest, response: Callable[[RunRecord], Response]
) -> Iterator[Progress | Response]:
    """Do a task while the caller waits, who is told of its progress."""

    def work(report: Callable[[float, str], None]) -> Response:
        tell = sparingly(report)
        return response(
            ctx.lakehouse.vector_runs.run(
                task, ctx.principal, ctx.cancelled, lambda share, message: tell(share or 0.0, message)
            )
        )

    return in_a_thread(task.action, work)


def _stop(watch: Watch, recording: Recording) -> Callable[[], None]:
    """What stops a task: whoever cancels its run or kills its statement."""

    def check() -> None:
        watch.check()
        if recording.record.stop is not None:
            raise recording.record.stop

    return check


def _requested(
    ctx: CallContext, request: BuildVectorsRequest, name: TableName, profile: Profile | None
) -> BuildRequest:
    profiles = ctx.lakehouse.vectors.profiles
    usual = _DEFAULT if profile is None or profiles is None else profiles.parameters(profile)
    said = {key: getattr(request, key) for key in IndexParameters.__slots__}
    parameters = replace(usual, **{key: value for key, value in said.items() if value is not None})
    table = ctx.lake(name).load(name.schema, name.table)
    column = _columns(table, [request.column])[0]
    others = [each for each in table.arrow_schema().names if each != column]
    keys = _columns(table, request.keys or list(table.primary_key))
    rows = _columns(table, others if request.columns is None else request.columns)
    if column in rows:
        raise InvalidRequest(f"columns names '{column}', which is the column of the vectors")
    rows = tuple(dict.fromkeys((*keys, *rows)))
    lexical = _lexical(table, request, rows)
    source = VectorColumn(table.name, table.uuid, column, rows, table.snapshot_id)
    embedded = ctx.lakehouse.embeddings.known(table)
    if embedded is not None:
        if not embedded.is_whole:
            raise InvalidRequest(f"'{table.name}' is not filled to its end", "run vectors.embed once more")
        if profile is not None:
            _check_model(ctx, profile, embedded.model, table.name)
        rows = tuple(dict.fromkeys((*embedded.guard.keys, *rows)))
        return BuildRequest(
            request.index, replace(source, rows=rows), parameters, embedded.guard, embedded.model, lexical
        )
    guard = Guard(table.name, table.uuid, (column, *rows), keys, table.snapshot_id)
    return BuildRequest(request.index, source, parameters, guard, lexical=lexical)


def _lexical(table: Table, request: BuildVectorsRequest, rows: tuple[str, ...]) -> str:
    """The column whose words are to be found; empty where none are.

    Raises:
        InvalidRequest: It is none of those that the index keeps, or holds no texts.
    """
    schema = table.arrow_schema()
    if request.lexical is None:
        there = CHUNK_TEXT in rows and is_text(schema.field(CHUNK_TEXT).type)
        return CHUNK_TEXT if there else ""
    if not request.lexical:
        return ""
    column = _columns(table, [request.lexical])[0]
    if column not in rows:
        raise InvalidRequest(f"columns does not name '{column}', whose words are to be searched")
    if not is_text(schema.field(column).type):
        raise InvalidRequest(
            f"lexical names '{table.name}.{column}' of type {schema.field(column).type}, expected texts"
        )
    return column


def _check_model(ctx: CallContext, profile: Profile, made_by: Model, table: TableName) -> None:
    """Refuse vectors that another model made than that of a profile."""
    models = ctx.lakehouse.ai
    wanted = profile.settings.model or models.default_embedder
    # One model may be configured twice, with vectors of other lengths or other prefixes.
    is_same = (made_by.profile or models.default_embedder) == wanted
    model = models.embedder(wanted).model
    if not is_same or identity_key(model) != identity_key(made_by):
        raise InvalidRequest(
            f"the vectors of '{table}' were made with the model '{made_by.profile or made_by.name}', the "
            f"profile '{profile.name}' has '{wanted}', or another version of it",
            "embed the texts with the profile into another table",
        )


def _columns(table: Table, names: list[str]) -> tuple[str, ...]:
    """Columns as the table spells them.

    Raises:
        InvalidRequest: It has no such column.
    """
    known = {fold(name): name for name in table.arrow_schema().names}
    for name in names:
        if fold(name) not in known:
            raise InvalidRequest(f"column '{table.name}.{name}' does not exist")
    return tuple(known[fold(name)] for name in names)


class SearchAnswer(NamedTuple):
    """What a search found, and how."""

    generation: Generation
    way: Way
    ef: int
    rows: pa.Table


def searched(ctx: CallContext, request: SearchVectorsRequest) -> SearchAnswer:
    """Search an index, on record."""
    request = _settled(ctx, request)
    lengths = sorted({len(vector) for vector in request.vectors})
    if len(lengths) > 1:
        raise InvalidRequest(
            f"the queries have {lengths[0]} and {lengths[1]} dimensions, expected one length"
        )
    with Recording(ctx, f"VECTORS SEARCH {request.index}", "vectors") as recording:
        watch, check = recording.watch(), ctx.stopping()
        if request.mode is Mode.VECTOR and request.rerank is None:
            hits = _guarded(ctx).search(
                request.index,
                _queries(ctx, request, check),
                request.k or _DEFAULT_K,
                ef=request.ef,
                where=request.filter,
                watch=watch,
                check=check,
            )
            answer = SearchAnswer(hits.generation, hits.found.way, hits.found.ef, _result(hits))
        else:
            if request.rerank is not None:
                ctx.lakehouse.ai_calls.admit_reranking(
                    ctx.principal.name, ctx.session.access, request.reranked
                )
            ask = _asked(ctx, request, check)
            if ask.reranker is not None:
                ctx.noted.update(model=ask.reranker.model.name, texts=request.reranked)
            found = _guarded(ctx).ask(request.index, ask, where=request.filter, watch=watch, check=check)
            rows = _told(told(ask, found), found.rows, found.generation, found.way)
            answer = SearchAnswer(found.generation, found.way, found.ef, rows)
        recording.record.rows = answer.rows.num_rows
    return answer


def _search(ctx: CallContext, request: SearchVectorsRequest) -> Iterator[Response]:
    generation, way, ef, result = searched(ctx, request)
    ticket, expires_at = _announced(ctx, result)
    yield SearchVectorsResponse(
        index=generation.index,
        generation=generation.id,
        way=way,
        ef=ef,
        rows=result.num_rows,
        ticket=base64.b64encode(ticket).decode("ascii"),
        expires_at=expires_at,
    )


def _asked(ctx: CallContext, request: SearchVectorsRequest, check: Callable[[], None]) -> Ask:
    return Ask(
        request.mode,
        request.k or _DEFAULT_K,
        None if request.mode is Mode.LEXICAL else _queries(ctx, request, check),
        request.texts,
        request.ef,
        request.candidates,
        request.rrf_k,
        None if request.rerank is None else ctx.lakehouse.ai.reranker(request.rerank or None),
    )


def _queries(
    ctx: CallContext, request: SearchVectorsRequest, check: Callable[[], None]
) -> NDArray[np.floating]:
    """The queries as vectors: of texts those that the model gives which made the index."""
    if request.vectors:
        return np.array(request.vectors, dtype=np.float64)
    generation = _guarded(ctx).find(request.index).generation
    assert generation is not None
    return embedded_queries(generation, request.texts, ctx.lakehouse.ai, check)


def _embed(ctx: CallContext, request: EmbedVectorsRequest) -> Iterator[Progress | Response]:
    found: list[EmbedResult] = []
    task = _embed_task(ctx, request, found.append)
    return _done(ctx, task, lambda record: _embedded(record, found[0]))


def _start_embed(ctx: CallContext, request: EmbedVectorsRequest) -> Iterator[Response]:
    task = _embed_task(ctx, request, lambda _: None)
    yield run_response(ctx.lakehouse.vector_runs.start(task, ctx.principal))


def _embed_task(
    ctx: CallContext, request: EmbedVectorsRequest, give: Callable[[EmbedResult], None]
) -> TaskRequest:
    """What embeds the table, here or in the background."""
    name = located(ctx, request)
    table = ctx.lake(name).load(name.schema, name.table)
    keys = _columns(table, request.keys or list(table.primary_key))
    if not keys:
        raise InvalidRequest(f"rows of '{table.name}' cannot be told apart", "name the key columns")
    indexes = _guarded(ctx, request.profile)
    profile = _profile(ctx, indexes)
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
        _columns(table, request.columns),
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
                check=_stop(watch, recording),
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
        model=_model(done.model),
    )


def _model(model: Model) -> VectorModel:
    return VectorModel(profile=model.profile, provider=model.provider, name=model.name, digest=model.digest)


def _result(hits: Hits) -> pa.Table:
    queries, k = hits.found.positions.shape
    columns = {
        "query": pa.array(np.repeat(np.arange(queries, dtype=np.int32), k)),
        "rank": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), queries)),
        "score": pa.array(hits.found.scores.ravel()),
    }
    return _told(columns, hits.rows, hits.generation, hits.found.way)


def _told(own: dict[str, pa.Array], rows: pa.Table, generation: Generation, way: Way) -> pa.Table:
    """What was found, after columns that tell how; these are named otherwise where the index has such."""
    taken = {fold(name) for name in rows.column_names}
    columns: dict[str, pa.Array] = {}
    for wanted, column in own.items():
        name = wanted
        while name in taken:
            name = f"_{name}"
        columns[name] = column
    columns.update(zip(rows.column_names, rows.columns, strict=True))
    told = {"vectors.way": str(way), "vectors.generation": generation.id}
    return pa.table(columns).replace_schema_metadata(told)


def _announced(ctx: CallContext, result: pa.Table) -> tuple[bytes, datetime]:
    """The ticket that a result can be fetched with."""
    clock, seconds = ctx.lakehouse.clock, ctx.lakehouse.settings.session.handle_seconds
    handle = StatementHandle(
        clock.token(), result.schema, result=result, expires_s=clock.monotonic() + seconds
    )
    ctx.session.add_handle(handle)
    return encode_statement_ticket(handle.handle.encode()), clock.now() + timedelta(seconds=seconds)


def _list(ctx: CallContext, request: ListVectorsRequest) -> Iterator[Response]:
    indexes = _guarded(ctx, request.profile)
    found = indexes.all()
    if request.profile is not None:
        found = [each for each in found if each.generation and _is_of(each.generation, indexes.profile)]
    yield ListVectorsResponse(indexes=[_described(ctx, live) for live in found])


def _is_of(generation: Generation, profile: str) -> bool:
    return parted_name(generation.index)[0] == profile


def _rollback(ctx: CallContext, request: OfIndex) -> Iterator[Response]:
    indexes = _guarded(ctx, request.profile)
    indexes.rollback(request.index)
    yield _described(ctx, indexes.find(request.index))


def _drop(ctx: CallContext, request: OfIndex) -> Iterator[Response]:
    indexes = _guarded(ctx, request.profile)
    name = indexes.named(request.index)
    indexes.drop(request.index)
    yield DropVectorsResponse(index=name)


def _described(ctx: CallContext, live: Live) -> VectorIndexDescription:
    generation = live.generation
    assert generation is not None
    # How much there is beyond a filter is not for those behind it.
    is_whole = not ctx.session.access.table(generation.guard.table).restrictions
    parameters, source, guard, model = (
        generation.parameters,
        generation.source,
        generation.guard,
        generation.model,
    )
    return VectorIndexDescription(
        index=generation.index,
        profile=parted_name(generation.index)[0],
        generation=generation.id,
        live_since=live.at,
        why=live.why,
        created_at=generation.created_at,
        created_by=generation.created_by,
        table=str(source.table),
        column=source.column,
        source=str(guard.table),
        source_snapshot_id=guard.snapshot_id,
        keys=list(guard.keys),
        columns=list(source.rows),
        count=generation.count if is_whole else None,
        dimension=generation.dimension,
        metric=parameters.metric,
        algorithm=parameters.algorithm,
        storage=parameters.storage,
        m=parameters.m,
        ef_construction=parameters.ef_construction,
        ef_search=parameters.ef_search,
        model=_model(model),
        lexical=None if generation.lexical is None else generation.lexical.column,
        size_bytes=generation.size_bytes if is_whole else None,
        build_seconds=generation.build_seconds,
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
        "vectors.build",
        "Build an index of a column of vectors, or another generation of one, and make it live",
        BuildVectorsRequest,
        VectorIndexDescription,
        _build,
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
    ActionSpec(
        "vectors.runs.build",
        "Do what vectors.build does in the background, and answer at once",
        BuildVectorsRequest,
        RunResponse,
        _start_build,
        Permission.WRITE,
    ),
    *run_actions(
        "vectors.runs",
        "a run",
        "Stop embedding or building, on any server; pieces that are stored stay, an index is not made",
        lambda ctx: ctx.lakehouse.vector_runs,
    ),
    ActionSpec(
        "vectors.search",
        "The nearest vectors of one or many queries, with their rows, as a ticket for DoGet",
        SearchVectorsRequest,
        SearchVectorsResponse,
        _search,
        Permission.READ,
    ),
    ActionSpec(
        "vectors.list",
        "The vector indexes that the caller may search",
        ListVectorsRequest,
        ListVectorsResponse,
        _list,
        Permission.READ,
    ),
    ActionSpec(
        "vectors.rollback",
        "Make the generation of an index live again that was it before",
        OfIndex,
        VectorIndexDescription,
        _rollback,
        Permission.WRITE,
    ),
    ActionSpec(
        "vectors.drop",
        "Remove a vector index; its table stays",
        OfIndex,
        DropVectorsResponse,
        _drop,
        Permission.WRITE,
    ),
)
