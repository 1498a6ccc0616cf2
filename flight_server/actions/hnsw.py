"""Actions on trials of index parameters: evaluation sets, trials, the best of them, and making it live."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import TypeVar

import pyarrow.compute as pc
from pydantic import Field

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
from flight_server.actions.run_response import RunResponse, run_response, stop_of
from flight_server.actions.table_request import guarded_indexes
from flight_server.context import CallContext
from flight_server.execution import Recording, kept_result
from lakehouse.engine.session import Session
from lakehouse.errors import InvalidRequest
from lakehouse.runs.task import TaskRequest, TaskResult, Watch
from lakehouse.vectors.generation import FullName, Generation
from lakehouse.vectors.indexes import BuildRequest
from lakehouse.vectors.parameters import Storage
from lakehouse.vectors.trials import Evaluation, EvaluationRequest, Queries, SweepRequest, Trial
from lakehouse.vectors.trials.choosing import best, check_recall, front, newest
from lakehouse.vectors.trials.system_table import shown

T = TypeVar("T")
_EVALUATION, _SWEEP = EvaluationRequest(), SweepRequest(max_trials=1)


class OfTriedIndex(Request):
    """Which index."""

    index: str = Field(description="its name", min_length=1)


class EvaluationDescription(Response):
    """An evaluation set: queries of an index, with the neighbours that exact search finds."""

    evaluation: str = Field(description="tells it from all others of the index; later ones are greater")
    index: str
    created_at: datetime
    created_by: str
    kind: Queries = Field(description="held_out or generated")
    model: str = Field(description="what generated the queries; empty where nothing did")
    table: str
    snapshot_id: int | None = Field(description="the snapshot of the table that it is of")
    metric: str
    k: int
    queries: int
    vectors: int | None = Field(description="of the table; none for those who do not see all rows")
    dimension: int
    size_bytes: int


class AutogenRequest(OfTriedIndex):
    """For which index to make an evaluation set, and how."""

    kind: Queries = Field(
        default=_EVALUATION.kind,
        description="held_out: vectors of the table, which the indexes that are tried do not have; "
        "generated: questions that a model makes of texts of the table",
    )
    queries: int | None = Field(
        default=None,
        description="how many; a tenth of the vectors, at most 500 (50 generated ones), when left out",
    )
    k: int = Field(default=_EVALUATION.k, description="neighbours of each query, at most 100")
    seed: int = Field(default=_EVALUATION.seed, description="which vectors or texts are drawn")
    model: str = Field(
        default="", description="what generates the questions, one of ai.models; the default one if left out"
    )
    text_column: str = Field(default=_EVALUATION.text_column, description="the texts that they are made of")


class ListEvaluationsResponse(Response):
    """The evaluation sets of what the index is now, the oldest first."""

    evaluations: list[EvaluationDescription]


class TrialDescription(Response):
    """What was measured of an index with one effort of searching; latencies in microseconds."""

    trial: str = Field(description="tells it from all others; hnsw.promote takes it")
    evaluation: str
    storage: Storage
    m: int
    ef_construction: int
    ef_search: int
    k: int
    way: str = Field(description="how the index answered; exact where all vectors were compared after all")
    recall: float
    recall_low: float = Field(description="what the recall is above with a certainty of 95 %")
    p50_us: float
    p95_us: float
    p99_us: float
    cpu_us: float = Field(description="processor time of a search")
    threads: int = Field(description="how many searched at once in the second part of measuring")
    queries_per_second: float
    concurrent_p50_us: float
    concurrent_p95_us: float
    concurrent_p99_us: float
    exact_p50_us: float | None = Field(description="of comparing every vector, in the same run")
    build_seconds: float | None
    index_bytes: int | None = Field(description="what the index takes; none for those behind a row filter")


class TrialRequest(OfTriedIndex):
    """What to try: a grid of values, or within a bound what promises most."""

    evaluation: str = Field(default="", description="the evaluation set; the newest one when left out")
    m: list[int] | None = Field(default=None, description="neighbours of a vector; the index's if left out")
    ef_construction: list[int] | None = Field(default=None, description="efforts of building; likewise")
    ef_search: list[int] | None = Field(
        default=None,
        description="efforts of searching, all measured on one build; when left out they grow until "
        "half of what recall allows to be missing is found for sure",
    )
    storage: list[Storage] | None = Field(default=None, description="fp32, fp16, int8; likewise")
    recall: float = Field(default=_SWEEP.recall, description="what the choice of the next build aims at")
    max_trials: int | None = Field(
        default=None, description="most builds; with this or max_seconds not all of a grid is tried"
    )
    max_seconds: float | None = Field(default=None, description="most seconds to take")
    threads: int = Field(default=0, description="searches at once; as many as cores when 0")
    again: bool = Field(default=False, description="measure what has been measured before once more")


class TrialResponse(Response):
    """What is known of the parameters that were gone through."""

    index: str
    evaluation: str
    reason: str = Field(description="why it ended: done, max_trials or max_seconds")
    builds: int = Field(description="how many indexes were built")
    measured: int = Field(description="how many trials are new")
    known: int = Field(description="how many had been measured before")
    best: TrialDescription | None = Field(description="the fastest that is sure to reach the recall, if any")


class TrialsRequest(OfTriedIndex):
    """The trials of which index."""

    index: str = Field(default="", description="its name; all that the caller may search when left out")
    evaluation: str = Field(default="", description="only those with this evaluation set")


class TrialsResponse(ReadingResponse):
    """The ticket of a DoGet that gives trials, in the columns of system.hnsw_trials."""

    rows: int
    ticket: str = Field(description="a ticket for DoGet, in base64")
    expires_at: datetime = Field(description="until when the ticket can be used")


class BestRequest(OfTriedIndex):
    """Of which index, and what has to be reached."""

    recall: float = Field(default=0.99, description="what the recall has to be for sure")
    evaluation: str = Field(default="", description="the evaluation set; the newest one when left out")


class BestResponse(Response):
    """The best parameters that were tried."""

    index: str
    evaluation: EvaluationDescription
    best: TrialDescription = Field(description="the fastest that is sure to reach the recall")
    front: list[TrialDescription] = Field(
        description="the Pareto front: of these none is both faster and finds more; the fastest first"
    )


class PromoteRequest(OfTriedIndex):
    """Which trial's parameters the index is to have."""

    trial: str = Field(default="", description="a trial of the index; the best one when left out")
    recall: float = Field(default=0.99, description="what the best one has to reach for sure")


class PromoteResponse(Response):
    """The generation that is live now."""

    index: str
    generation: str
    trial: str
    storage: Storage
    m: int
    ef_construction: int
    ef_search: int
    build_seconds: float


class TrialCacheRequest(Request):
    """Nothing to say."""


class TrialCache(Response):
    """What is in one cache, and what happened since the server was started."""

    bytes: int
    entries: int
    hits: int = Field(description="how often it was there")
    misses: int = Field(description="how often it had to be read")
    evicted: int = Field(description="let go of to make room")


class TrialCacheResponse(Response):
    """What is in memory for trials and for searches."""

    vectors: TrialCache = Field(description="vectors of tables, for trials")
    evaluations: TrialCache = Field(description="evaluation sets: queries and their true neighbours")
    indexes: TrialCache = Field(description="live indexes that are searched")


def _owned(ctx: CallContext, index: str) -> Generation:
    generation = guarded_indexes(ctx).owned(index).generation
    assert generation is not None
    return generation


def _found(ctx: CallContext, index: str) -> Generation:
    generation = guarded_indexes(ctx).find(index).generation
    assert generation is not None
    return generation


def _autogen(ctx: CallContext, request: AutogenRequest) -> Iterator[Progress | Response]:
    generation = _owned(ctx, request.index)
    wanted = EvaluationRequest(
        request.kind, request.queries, request.k, request.seed, request.model, request.text_column
    )

    def work(report: Callable[[float, str], None]) -> Response:
        with Recording(ctx, f"HNSW EVALS AUTOGEN {generation.index}", "hnsw") as recording:
            recording.record.tables = (str(generation.source.table),)
            made = ctx.lakehouse.trials.autogen(
                generation,
                wanted,
                ctx.check_cancelled,
                sparingly(report),
                lambda: ctx.lakehouse.ai_calls.take(ctx.principal.name),
            )
        return _evaluation(made, is_whole=True)

    return in_a_thread("hnsw.evals.autogen", work)


def _evaluations(ctx: CallContext, request: OfTriedIndex) -> Iterator[Response]:
    generation = _found(ctx, request.index)
    is_whole = _sees_all(ctx, generation)
    found = ctx.lakehouse.trials.evaluations(generation)
    yield ListEvaluationsResponse(evaluations=[_evaluation(each, is_whole=is_whole) for each in found])


def _sweep(request: TrialRequest) -> SweepRequest:
    return SweepRequest(
        request.evaluation,
        _tuple(request.storage),
        _tuple(request.m),
        _tuple(request.ef_construction),
        _tuple(request.ef_search),
        request.recall,
        request.max_trials,
        request.max_seconds,
        request.threads,
        request.again,
    )


def _start_trial(ctx: CallContext, request: TrialRequest) -> Iterator[Response]:
    generation, wanted = _owned(ctx, request.index), _sweep(request)
    # Said at once, and not by the run.
    ctx.lakehouse.trials.evaluation(generation, request.evaluation)

    def work(session: Session, watch: Watch) -> TaskResult:
        own = replace(ctx, session=session, cancelled=watch.cancelled)
        with Recording(own, f"HNSW TRIAL {generation.index}", "hnsw") as recording:
            recording.record.tables = (str(generation.source.table),)
            live = _owned(own, FullName(generation.index))  # whoever asked for it may not do so any more
            done = own.lakehouse.trials.run(live, wanted, stop_of(watch, recording), watch.progress)
            recording.record.rows = len(done.trials)
        told = f"{done.builds} built, {done.measured} measured: {done.reason}"
        return TaskResult(told, details={"evaluation": done.evaluation.id, "reason": done.reason})

    task = TaskRequest("hnsw.trial", str(generation.source.table), generation.index, work)
    yield run_response(ctx.lakehouse.vector_runs.start(task, ctx.principal))


def _trial(ctx: CallContext, request: TrialRequest) -> Iterator[Progress | Response]:
    generation, wanted = _owned(ctx, request.index), _sweep(request)

    def work(report: Callable[[float, str], None]) -> Response:
        with Recording(ctx, f"HNSW TRIAL {generation.index}", "hnsw") as recording:
            recording.record.tables = (str(generation.source.table),)
            done = ctx.lakehouse.trials.run(generation, wanted, ctx.check_cancelled, sparingly(report))
            recording.record.rows = len(done.trials)
        fit = [each for each in done.trials if each.recall_low >= request.recall]
        return TrialResponse(
            index=generation.index,
            evaluation=done.evaluation.id,
            reason=done.reason,
            builds=done.builds,
            measured=done.measured,
            known=len(done.trials) - done.measured,
            best=_described(best(fit, request.recall), is_whole=True) if fit else None,
        )

    return in_a_thread("hnsw.trial", work)


def _trials(ctx: CallContext, request: TrialsRequest) -> Iterator[Response]:
    lakehouse = ctx.lakehouse
    table = lakehouse.trials.journal.table()
    if request.index:
        table = table.filter(pc.equal(table["index"], _found(ctx, request.index).index))
    if request.evaluation:
        table = table.filter(pc.equal(table["evaluation"], request.evaluation))
    result = shown(table, ctx.lakes, lakehouse.vectors)
    ticket, expires_at = kept_result(ctx, result)
    yield TrialsResponse(
        rows=result.num_rows, ticket=base64.b64encode(ticket).decode("ascii"), expires_at=expires_at
    )


def _best(ctx: CallContext, request: BestRequest) -> Iterator[Response]:
    check_recall(request.recall)
    generation = _found(ctx, request.index)
    trials, is_whole = ctx.lakehouse.trials, _sees_all(ctx, generation)
    evaluation = trials.evaluation(generation, request.evaluation).evaluation
    known = newest(trials.journal.of(generation.index, evaluation.id))
    yield BestResponse(
        index=generation.index,
        evaluation=_evaluation(evaluation, is_whole=is_whole),
        best=_described(best(known, request.recall), is_whole=is_whole),
        front=[_described(each, is_whole=is_whole) for each in front(known)],
    )


def _promote(ctx: CallContext, request: PromoteRequest) -> Iterator[Progress | Response]:
    indexes = guarded_indexes(ctx)
    generation = indexes.owned(request.index).generation
    assert generation is not None
    trials = ctx.lakehouse.trials
    if request.trial:
        chosen = trials.trial(generation, request.trial)
    else:
        chosen = best(trials.trials(generation), request.recall)
    if chosen.metric != generation.parameters.metric:
        raise InvalidRequest(
            f"the trial '{chosen.trial}' is of {chosen.metric}, the index of {generation.parameters.metric}",
            "make another evaluation set and try again",
        )
    wanted = replace(
        BuildRequest.again(generation), index=FullName(generation.index), parameters=chosen.parameters
    )

    def work(report: Callable[[float, str], None]) -> Response:
        with Recording(ctx, f"HNSW PROMOTE {generation.index}", "hnsw") as recording:
            recording.record.tables = (str(generation.source.table),)
            made = indexes.build(
                wanted,
                create=False,
                check=ctx.check_cancelled,
                progress=sparingly(report),
                why="promote",
            )
        parameters = made.parameters
        return PromoteResponse(
            index=made.index,
            generation=made.id,
            trial=chosen.trial,
            storage=parameters.storage,
            m=parameters.m,
            ef_construction=parameters.ef_construction,
            ef_search=parameters.ef_search,
            build_seconds=made.build_seconds,
        )

    return in_a_thread("hnsw.promote", work)


def _cache_stats(ctx: CallContext, _: TrialCacheRequest) -> Iterator[Response]:
    found = ctx.lakehouse.trials.cache()
    loader = found.indexes
    yield TrialCacheResponse(
        vectors=TrialCache(**asdict(found.vectors)),
        evaluations=TrialCache(**asdict(found.evaluations)),
        indexes=TrialCache(
            bytes=loader.bytes,
            entries=loader.indexes,
            hits=loader.hits + loader.shared,
            misses=loader.loads,
            evicted=loader.evicted,
        ),
    )


def _tuple(values: list[T] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(values)


def _sees_all(ctx: CallContext, generation: Generation) -> bool:
    return not ctx.session.access.table(generation.guard.table).restrictions


def _evaluation(found: Evaluation, *, is_whole: bool) -> EvaluationDescription:
    return EvaluationDescription(
        evaluation=found.id,
        index=found.index,
        created_at=found.created_at,
        created_by=found.created_by,
        kind=found.kind,
        model=found.model,
        table=str(found.table),
        snapshot_id=found.snapshot_id,
        metric=found.metric,
        k=found.k,
        queries=found.queries,
        vectors=found.vectors if is_whole else None,
        dimension=found.dimension,
        size_bytes=found.size_bytes,
    )


def _described(trial: Trial, *, is_whole: bool) -> TrialDescription:
    told = {name: getattr(trial, name) for name in TrialDescription.model_fields}
    if not is_whole:
        told |= dict.fromkeys(("exact_p50_us", "build_seconds", "index_bytes"))
    return TrialDescription(**told)


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "hnsw.evals.autogen",
        "Make an evaluation set of a vector index: queries, with the neighbours that exact search finds",
        AutogenRequest,
        EvaluationDescription,
        _autogen,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "hnsw.evals.list",
        "The evaluation sets of a vector index",
        OfTriedIndex,
        ListEvaluationsResponse,
        _evaluations,
        Permission.READ,
    ),
    ActionSpec(
        "hnsw.trial",
        "Build indexes with other parameters, measure them against exact search, and keep what was measured",
        TrialRequest,
        TrialResponse,
        _trial,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "vectors.runs.trial",
        "Do what hnsw.trial does in the background, and answer at once",
        TrialRequest,
        RunResponse,
        _start_trial,
        Permission.WRITE,
    ),
    ActionSpec(
        "hnsw.trials",
        "What was measured of vector indexes, as a ticket for DoGet",
        TrialsRequest,
        TrialsResponse,
        _trials,
        Permission.READ,
    ),
    ActionSpec(
        "hnsw.best",
        "The fastest parameters that reach a recall, and the Pareto front of all that were tried",
        BestRequest,
        BestResponse,
        _best,
        Permission.READ,
    ),
    ActionSpec(
        "hnsw.promote",
        "Build an index with the parameters of a trial and make it live",
        PromoteRequest,
        PromoteResponse,
        _promote,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "hnsw.cache.stats",
        "What is in memory for trials and searches, and how often it was of use",
        TrialCacheRequest,
        TrialCacheResponse,
        _cache_stats,
        Permission.ADMIN,
    ),
)
