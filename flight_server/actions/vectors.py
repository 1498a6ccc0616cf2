"""Actions on vector indexes: build, list, go back, drop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response
from flight_server.actions.run_response import RunResponse, doing, run_actions, run_response, stop_of
from flight_server.actions.table_request import OfTable, guarded_indexes, located
from flight_server.actions.vector_index import (
    OF_PROFILE,
    OfIndex,
    VectorModel,
    columns_of,
    model_response,
    profile_of,
)
from flight_server.context import CallContext
from flight_server.execution import Recording
from lakehouse.access.profile_access import Profile
from lakehouse.catalog import Table
from lakehouse.engine.session import Session
from lakehouse.errors import InvalidRequest
from lakehouse.runs import TaskRequest, TaskResult, Watch
from lakehouse.types import TableName
from lakehouse.vectors.embeddings import CHUNK_TEXT, identity_key
from lakehouse.vectors.generation import Generation, Guard, Model, VectorColumn, parted_name
from lakehouse.vectors.generation_store import Live
from lakehouse.vectors.indexes import BuildRequest
from lakehouse.vectors.lexical import is_text
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric, Storage

_DEFAULT = IndexParameters()


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
    profile: str | None = Field(default=None, description=OF_PROFILE)


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


def _build(ctx: CallContext, request: BuildVectorsRequest) -> Iterator[Progress | Response]:
    settled = _placed(ctx, request)
    task = _build_task(ctx, settled)
    return doing(ctx, task, lambda _: _described(ctx, guarded_indexes(ctx).find(settled.index)))


def _start_build(ctx: CallContext, request: BuildVectorsRequest) -> Iterator[Response]:
    yield run_response(
        ctx.lakehouse.vector_runs.start(_build_task(ctx, _placed(ctx, request)), ctx.principal)
    )


def _placed(ctx: CallContext, request: BuildVectorsRequest) -> BuildVectorsRequest:
    """A request with the full name of its index: what is activated meanwhile does not matter to it."""
    return request.model_copy(update={"index": guarded_indexes(ctx, request.profile).named(request.index)})


def _build_task(ctx: CallContext, request: BuildVectorsRequest) -> TaskRequest:
    """What builds the index, here or in the background."""
    name = located(ctx, request)

    def work(session: Session, watch: Watch) -> TaskResult:
        own = replace(ctx, session=session, cancelled=watch.cancelled)
        with Recording(own, f"VECTORS BUILD {request.index}", "vectors") as recording:
            # Now, and not when it was asked for: the run before may have filled the table.
            indexes = guarded_indexes(own)
            wanted = _requested(own, request, name, profile_of(own, indexes, request.index))
            recording.record.tables = (str(wanted.source.table),)
            indexes.build(
                wanted, create=request.create, check=stop_of(watch, recording), progress=watch.progress
            )
        live = guarded_indexes(own).find(request.index)
        assert live.generation is not None
        count = live.generation.count
        return TaskResult(
            f"the index of {count} vectors is live", count, count, details={"generation": live.generation.id}
        )

    return TaskRequest("vectors.build", str(name), request.index, work)


def _requested(
    ctx: CallContext, request: BuildVectorsRequest, name: TableName, profile: Profile | None
) -> BuildRequest:
    profiles = ctx.lakehouse.vectors.profiles
    usual = _DEFAULT if profile is None or profiles is None else profiles.parameters(profile)
    said = {key: getattr(request, key) for key in IndexParameters.__slots__}
    parameters = replace(usual, **{key: value for key, value in said.items() if value is not None})
    table = ctx.lake(name).load(name.schema, name.table)
    column = columns_of(table, [request.column])[0]
    others = [each for each in table.arrow_schema().names if each != column]
    keys = columns_of(table, request.keys or list(table.primary_key))
    rows = columns_of(table, others if request.columns is None else request.columns)
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
    column = columns_of(table, [request.lexical])[0]
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


def _list(ctx: CallContext, request: ListVectorsRequest) -> Iterator[Response]:
    indexes = guarded_indexes(ctx, request.profile)
    found = indexes.all()
    if request.profile is not None:
        found = [each for each in found if each.generation and _is_of(each.generation, indexes.profile)]
    yield ListVectorsResponse(indexes=[_described(ctx, live) for live in found])


def _is_of(generation: Generation, profile: str) -> bool:
    return parted_name(generation.index)[0] == profile


def _rollback(ctx: CallContext, request: OfIndex) -> Iterator[Response]:
    indexes = guarded_indexes(ctx, request.profile)
    indexes.rollback(request.index)
    yield _described(ctx, indexes.find(request.index))


def _drop(ctx: CallContext, request: OfIndex) -> Iterator[Response]:
    indexes = guarded_indexes(ctx, request.profile)
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
        model=model_response(model),
        lexical=None if generation.lexical is None else generation.lexical.column,
        size_bytes=generation.size_bytes if is_whole else None,
        build_seconds=generation.build_seconds,
    )


ACTIONS: tuple[ActionSpec, ...] = (
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
