"""Trials of index parameters: evaluation sets are made, parameters tried and measured, the best made live.

Vectors of the table are read once and kept in memory; what is measured goes into the journal as soon as it is
known. Whoever asks for the same again, after a kill or beside another, gets what is there and tries the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakehouse.ai.models import Models
from lakehouse.clock import Clock
from lakehouse.config.vectors import VectorSettings
from lakehouse.errors import InvalidRequest, LakehouseError, SnapshotNotFound, TrialNotFound
from lakehouse.journal.change_event import current_origin
from lakehouse.storage import Bucket
from lakehouse.vectors.faiss_index import VectorIndex, Vectors, build_threads
from lakehouse.vectors.generation import Generation, VectorColumn
from lakehouse.vectors.indexes import Progress, VectorIndexes
from lakehouse.vectors.loader import LoaderStatistics
from lakehouse.vectors.text_queries import embedded_queries
from lakehouse.vectors.trials.evaluation import (
    Evaluation,
    EvaluationSet,
    EvaluationStore,
    Queries,
    absent,
    digest_of,
)
from lakehouse.vectors.trials.journal import Build, Trial, TrialJournal
from lakehouse.vectors.trials.making import (
    EvaluationRequest,
    drawn,
    exact,
    kept,
    neighbours,
    questions,
    worst_of,
)
from lakehouse.vectors.trials.measuring import Latency, Measured, Measuring
from lakehouse.vectors.trials.sweep import SweepRequest, cost, newest, next_build
from lakehouse.vectors.trials.vector_cache import BoundedCache, CacheStatistics
from lakehouse.vectors.vector_rows import split

_EXACT_SECONDS = 0.3


class SnapshotSource(Protocol):
    """Reads tables as they were in a snapshot."""

    def snapshot_of(self, source: VectorColumn) -> int | None:
        """The snapshot that a table shows now; None where it has none.

        Raises:
            TableNotFound: There is no such table any more, or another one of that name.
        """
        ...

    def read_at(
        self, source: VectorColumn, snapshot_id: int | None, check: Callable[[], None]
    ) -> tuple[VectorColumn, pa.Table]:
        """All rows of a table as it was in a snapshot; with None as it is.

        Raises:
            SnapshotNotFound: The snapshot has been expired.
            LakehouseError: It cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TableVectors:
    """The vectors of a table in a snapshot, in the order in which they are read.

    Attributes:
        vectors: Float32, one row for each; not to be changed.
        snapshot_id: The snapshot; None where the table had none.
        sha256: Of the vectors.
    """

    vectors: Vectors
    snapshot_id: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        evaluation: What it was measured with.
        trials: What is known of the parameters that it went through, in their order.
        builds: How many indexes were built.
        measured: How many of the trials were measured now; the others were known.
        reason: Why it ended: ``done``, ``max_trials`` or ``max_seconds``.
    """

    evaluation: Evaluation
    trials: tuple[Trial, ...]
    builds: int
    measured: int
    reason: str


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What is in memory for trials and searches."""

    vectors: CacheStatistics
    evaluations: CacheStatistics
    indexes: LoaderStatistics


class _TimeUp(Exception):
    """The seconds of a sweep are over."""


class Trials:
    """The trials of a server. Safe to use from several threads.

    Args:
        indexes: What there is to try.
        source: Reads the tables.
        models: What generates and embeds questions.
        bucket: Where the journal is kept; evaluation sets are where the index is.
        clock: Source of time and ids.
        settings: Bounds.
    """

    def __init__(
        self,
        indexes: VectorIndexes,
        source: SnapshotSource,
        models: Models,
        bucket: Bucket,
        clock: Clock,
        settings: VectorSettings,
    ) -> None:
        self.journal = TrialJournal(bucket, clock)
        self._indexes = indexes
        self._source = source
        self._models = models
        self._clock = clock
        self._settings = settings
        self._store = EvaluationStore(indexes.store.bucket_of, clock)
        self._vectors: BoundedCache[TableVectors] = BoundedCache(
            settings.trial_cache_bytes, lambda found: found.vectors.nbytes
        )
        self._sets: BoundedCache[EvaluationSet] = BoundedCache(
            settings.trial_cache_bytes, lambda found: found.size_bytes
        )

    # -- evaluation sets --------------------------------------------------------------------------------

    def evaluations(self, generation: Generation) -> list[Evaluation]:
        """The evaluation sets that fit what an index is now, the oldest first; damaged ones are left out.

        Args:
            generation: The live generation of the index.

        Raises:
            StorageError: They cannot be listed.
        """
        found = []
        for each in self._store.keys(generation.index):
            try:
                evaluation = self._loaded(generation.index, each).evaluation
            except LakehouseError:
                continue
            if _fits(evaluation, generation):
                found.append(evaluation)
        return found

    def evaluation(self, generation: Generation, evaluation_id: str = "") -> EvaluationSet:
        """An evaluation set of an index, the newest that fits where none is named.

        Raises:
            EvaluationNotFound: There is none.
            InvalidRequest: It does not fit what the index is now.
            StorageError: It is damaged.
        """
        if not evaluation_id:
            fit = self.evaluations(generation)
            if not fit:
                raise absent(generation.index)
            evaluation_id = fit[-1].id
        found = self._loaded(generation.index, evaluation_id)
        if found.evaluation.table_uuid != generation.source.table_uuid:
            raise absent(generation.index, evaluation_id)  # of an index that had this name before
        if not _fits(found.evaluation, generation):
            raise InvalidRequest(
                f"the evaluation set '{evaluation_id}' is of {found.evaluation.column} by "
                f"{found.evaluation.metric}, the index is of {generation.source.column} by "
                f"{generation.parameters.metric}",
                "hnsw.evals.autogen makes another one",
            )
        return found

    def autogen(
        self,
        generation: Generation,
        request: EvaluationRequest,
        check: Callable[[], None],
        progress: Progress,
        turn: Callable[[], float] = lambda: 0.0,
    ) -> Evaluation:
        """Make an evaluation set of the table of an index as it is now, and keep it.

        Args:
            generation: The live generation of the index.
            request: What to make.
            check: Raises where the work shall stop.
            progress: Told of what is done.
            turn: Takes a turn of asking a model; gives the seconds to wait where there is none now.

        Raises:
            InvalidRequest: There are too few vectors, or one cannot be compared.
            LakehouseError: The table cannot be read, or a model does not answer.
        """
        progress(0.0, f"reading {generation.source.table}")
        found = self._read(generation.source, None, check)
        vectors, metric = found.vectors, generation.parameters.metric
        count = request.count(len(vectors), generation.index)
        texts: tuple[str, ...] = ()
        if request.kind is Queries.HELD_OUT:
            positions = drawn(count, len(vectors), request.seed)
            queries, left = vectors[positions], kept(len(vectors), positions)
        else:
            texts, positions = self._questions(generation, request, found, count, check, progress, turn)
            queries = embedded_queries(generation, texts, self._models, check, "take held_out queries")
            left = np.arange(len(vectors), dtype=np.int64)
        progress(0.5, f"comparing {count} queries with {len(left)} vectors")
        with self._indexes.building(check), build_threads(self._settings.build_threads):
            index = exact(vectors[left] if len(left) < len(vectors) else vectors, metric, check)
            near = left[
                neighbours(
                    index,
                    queries,
                    request.k,
                    check,
                    lambda share: progress(0.5 + 0.4 * share, f"comparing: {share:.0%}"),
                )
            ]
        evaluation = Evaluation(
            id=self._store.new_id(),
            index=generation.index,
            created_at=self._clock.now(),
            created_by=current_origin().actor,
            kind=request.kind,
            model=self._models.generator(request.model or None).model.name if texts else "",
            table=generation.source.table,
            table_uuid=generation.source.table_uuid,
            snapshot_id=found.snapshot_id,
            column=generation.source.column,
            metric=metric,
            k=request.k,
            queries=count,
            vectors=len(vectors),
            dimension=vectors.shape[1],
            vectors_sha256=found.sha256,
        )
        worst = worst_of(queries, vectors, near, metric, check)
        return self._store.put(EvaluationSet(evaluation, queries, positions, near, worst, texts))

    def _questions(
        self,
        generation: Generation,
        request: EvaluationRequest,
        found: TableVectors,
        count: int,
        check: Callable[[], None],
        progress: Progress,
        turn: Callable[[], float],
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Questions that a model made of texts beside the vectors, and the positions of these."""
        generator = self._models.generator(request.model or None)
        source = generation.source
        wanted = VectorColumn(source.table, source.table_uuid, source.column, (request.text_column,))
        _, table = self._source.read_at(wanted, found.snapshot_id, check)
        rows, vectors = split(table, wanted)
        if digest_of(vectors, check) != found.sha256:
            raise InvalidRequest(f"'{source.table}' was changed meanwhile", "try again")
        texts = [None if text is None else str(text) for text in rows[request.text_column].to_pylist()]
        order = np.random.default_rng(request.seed).permutation(len(texts))[: 2 * count + 10]
        asked, positions = questions(
            generator,
            texts,
            order.astype(np.int64),
            count,
            check,
            lambda share: progress(0.1 + 0.3 * share, f"asking the model: {share:.0%}"),
            turn,
        )
        return tuple(asked), positions

    def _loaded(self, index: str, evaluation_id: str) -> EvaluationSet:
        return self._sets.get(
            (index, evaluation_id), lambda: self._store.load(index, evaluation_id), lambda: None
        )

    # -- trials -----------------------------------------------------------------------------------------

    def run(
        self,
        generation: Generation,
        request: SweepRequest,
        check: Callable[[], None],
        progress: Progress,
    ) -> SweepOutcome:
        """Try parameters of an index.

        Args:
            generation: The live generation of the index.
            request: What to try.
            check: Raises where the work shall stop; what has been measured stays.
            progress: Told of what is done.

        Raises:
            EvaluationNotFound: There is no evaluation set to measure with.
            InvalidRequest: A parameter is out of bounds, or the table is not what it was.
            LakehouseError: The table cannot be read, or the journal not be written.
        """
        wanted = self.evaluation(generation, request.evaluation)
        builds = request.builds(generation.parameters)
        return _Sweep(self, self._indexes, self._clock, generation, request, wanted, builds, progress).run(
            check
        )

    def vectors_of(self, evaluation: Evaluation, check: Callable[[], None]) -> TableVectors:
        """The vectors that an evaluation set was made of.

        Raises:
            InvalidRequest: They are not to be had any more.
        """
        source = VectorColumn(
            evaluation.table, evaluation.table_uuid, evaluation.column, (), evaluation.snapshot_id
        )
        try:
            found = self._read(source, evaluation.snapshot_id, check)
        except SnapshotNotFound:
            raise InvalidRequest(
                f"the snapshot of '{evaluation.table}' that the evaluation set '{evaluation.id}' is of has "
                "been expired",
                "hnsw.evals.autogen makes another one",
            ) from None
        if found.sha256 != evaluation.vectors_sha256:
            raise InvalidRequest(
                f"the vectors of '{evaluation.table}' are not those that the evaluation set "
                f"'{evaluation.id}' was made of",
                "hnsw.evals.autogen makes another one",
            )
        return found

    def trials(self, generation: Generation, evaluation_id: str = "") -> list[Trial]:
        """What was measured of an index, the newest of each parameters, with one evaluation set.

        Args:
            generation: The live generation of the index.
            evaluation_id: The evaluation set; the newest one that fits where left out.

        Raises:
            EvaluationNotFound: There is none.
            StorageError: The journal cannot be read.
        """
        evaluation = self.evaluation(generation, evaluation_id).evaluation
        return newest(self.journal.of(generation.index, evaluation.id))

    def trial(self, generation: Generation, trial_id: str) -> Trial:
        """A trial of an index.

        Raises:
            TrialNotFound: There is none of that id.
        """
        for each in self.journal.of(generation.index):
            if each.trial == trial_id and each.table_uuid == generation.source.table_uuid:
                return each
        raise TrialNotFound(
            f"the vector index '{generation.index}' has no trial '{trial_id}'",
            "hnsw.trials tells which it has",
        )

    def cache(self) -> CacheUse:
        """What is in memory, and how often it was of use."""
        return CacheUse(
            self._vectors.statistics(), self._sets.statistics(), self._indexes.loader.statistics()
        )

    def close(self) -> None:
        """Make everything durable and stop."""
        self.journal.close()

    def _read(self, source: VectorColumn, snapshot_id: int | None, check: Callable[[], None]) -> TableVectors:
        """The vectors of a table, in a snapshot or as it is now."""
        snapshot_id = self._source.snapshot_of(source) if snapshot_id is None else snapshot_id
        wanted = VectorColumn(source.table, source.table_uuid, source.column, ())

        def read() -> TableVectors:
            _, table = self._source.read_at(wanted, snapshot_id, check)
            _, vectors = split(table, wanted)
            vectors.flags.writeable = False
            return TableVectors(vectors, snapshot_id, digest_of(vectors, check))

        # A table without snapshots has no rows, and another first snapshot soon.
        key = (source.table_uuid, snapshot_id, source.column)
        return read() if snapshot_id is None else self._vectors.get(key, read, check)


class _Sweep:
    """One request to try parameters."""

    def __init__(
        self,
        trials: Trials,
        indexes: VectorIndexes,
        clock: Clock,
        generation: Generation,
        request: SweepRequest,
        wanted: EvaluationSet,
        builds: list[Build],
        progress: Progress,
    ) -> None:
        self._trials = trials
        self._indexes = indexes
        self._clock = clock
        self._generation = generation
        self._request = request
        self._wanted = wanted
        self._builds = builds
        self._progress = progress
        self._since = clock.now()
        self._began_s = time.monotonic()
        self._tried: dict[Build, list[Trial]] = {}
        self._built = self._measured = 0
        self._slowest: tuple[float, float] = (0.0, 1.0)
        self._at = 0.0

    def run(self, check: Callable[[], None]) -> SweepOutcome:
        """Go through it."""

        def within() -> None:
            check()
            if self._seconds_left() <= 0:
                raise _TimeUp

        reason = "done"
        try:
            self._tell(0.0, f"reading {self._generation.source.table}")
            vectors = self._trials.vectors_of(self._wanted.evaluation, within).vectors
            held = self._wanted.positions if self._wanted.evaluation.kind is Queries.HELD_OUT else None
            left = np.arange(len(vectors), dtype=np.int64) if held is None else kept(len(vectors), held)
            mine = vectors if held is None else vectors[left]
            brute = exact(mine, self._wanted.evaluation.metric, within)
            measuring = Measuring(self._wanted, vectors, left, within)
            while (build := self._next()) is not None:
                if self._request.max_trials is not None and len(self._tried) >= self._request.max_trials:
                    reason = "max_trials"
                    break
                self._tried[build] = []
                with self._indexes.building(within):
                    self._try(build, mine, brute, measuring, within)
        except _TimeUp:
            reason = "max_seconds"
        found = tuple(each for tried in self._tried.values() for each in tried)
        return SweepOutcome(self._wanted.evaluation, found, self._built, self._measured, reason)

    def _next(self) -> Build | None:
        request = self._request
        if not request.is_bounded:
            return next((each for each in self._builds if each not in self._tried), None)
        live = self._generation.parameters
        start = Build(live.storage, live.m, live.ef_construction)
        known = self._known()
        left = self._seconds_left()
        seconds, of_cost = self._slowest
        # What cannot be built in the time that is left is not begun.
        able = [
            each
            for each in self._builds
            if each in self._tried or each in known or seconds * cost(each) / of_cost < left
        ]
        tried = {each: self._tried[each] for each in self._tried if each in able}
        found = next_build(able, tried, request.recall, start)
        if found is None and len(self._tried) < len(self._builds):
            raise _TimeUp
        return found

    def _known(self) -> dict[Build, dict[int, Trial]]:
        """What has been measured already with this evaluation set: before, or by somebody else meanwhile."""
        since = self._since if self._request.again else None
        evaluation = self._wanted.evaluation
        found: dict[Build, dict[int, Trial]] = {}
        for each in newest(self._trials.journal.of(evaluation.index, evaluation.id, since)):
            found.setdefault(each.built, {})[each.ef_search] = each
        return found

    def _try(
        self,
        build: Build,
        vectors: Vectors,
        brute: VectorIndex,
        measuring: Measuring,
        check: Callable[[], None],
    ) -> None:
        """Measure what is not known of a build; it is built only if something is not."""
        known, found = self._known().get(build, {}), self._tried[build]
        made: _Made | None = None
        efforts = self._request.efforts()
        for number, ef in enumerate(efforts):
            check()
            if not self._request.goes_on(found):
                break
            if ef not in known:
                if made is None:
                    made = self._made(build, vectors, brute, measuring, check)
                share = 0.5 + 0.5 * number / len(efforts)
                self._tell(share, f"{_said(build)}: searching with ef {ef}")
                measured = measuring.measure(made.index, ef, self._request.threads)
                known[ef] = self._trial(build, ef, made, measured, len(vectors))
                self._trials.journal.record(known[ef])
                self._measured += 1
            found.append(known[ef])

    def _made(
        self,
        build: Build,
        vectors: Vectors,
        brute: VectorIndex,
        measuring: Measuring,
        check: Callable[[], None],
    ) -> _Made:
        parameters = build.parameters(self._wanted.evaluation.metric, self._request.efforts()[0])
        began_s, cpu_s = time.perf_counter(), time.process_time()
        with build_threads(self._indexes.settings.build_threads):
            index = VectorIndex.build(
                vectors,
                parameters,
                check=check,
                progress=lambda share: self._tell(0.5 * share, f"{_said(build)}: building"),
            )
        seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        self._built += 1
        self._slowest = max(self._slowest, (seconds, cost(build)), key=lambda each: each[0] / each[1])
        alone, _ = measuring.alone(brute, None, _EXACT_SECONDS)
        return _Made(self._clock.token()[-12:], index, round(seconds, 3), round(cpu_s, 3), alone)

    def _trial(self, build: Build, ef: int, made: _Made, measured: Measured, vectors: int) -> Trial:
        evaluation, alone, together = self._wanted.evaluation, measured.alone, measured.together
        return Trial(
            trial=self._clock.token()[-12:],
            build=made.id,
            index=evaluation.index,
            evaluation=evaluation.id,
            table_uuid=evaluation.table_uuid,
            snapshot_id=evaluation.snapshot_id,
            metric=str(evaluation.metric),
            storage=str(build.storage),
            m=build.m,
            ef_construction=build.ef_construction,
            ef_search=ef,
            k=evaluation.k,
            vectors=vectors,
            dimension=evaluation.dimension,
            queries=evaluation.queries,
            way=str(measured.way),
            recall=measured.recall,
            recall_low=measured.recall_low,
            p50_us=alone.p50_us,
            p95_us=alone.p95_us,
            p99_us=alone.p99_us,
            cpu_us=measured.cpu_us,
            threads=measured.threads,
            queries_per_second=measured.queries_per_second,
            concurrent_p50_us=together.p50_us,
            concurrent_p95_us=together.p95_us,
            concurrent_p99_us=together.p99_us,
            exact_p50_us=made.exact.p50_us,
            build_seconds=made.seconds,
            build_cpu_seconds=made.cpu_seconds,
            index_bytes=made.index.size_bytes,
            created_by=current_origin().actor,
        )

    def _seconds_left(self) -> float:
        most = self._request.max_seconds
        return float("inf") if most is None else most - (time.monotonic() - self._began_s)

    def _tell(self, share: float, message: str) -> None:
        """Tell how far all of it is, from the share of the present index."""
        most = len(self._builds)
        if self._request.max_trials is not None:
            most = min(most, self._request.max_trials)
        done = (max(0, len(self._tried) - 1) + share) / most
        if self._request.max_seconds is not None:
            done = max(done, 1 - self._seconds_left() / self._request.max_seconds)
        self._at = max(self._at, min(1.0, done))
        self._progress(self._at, message)


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    id: str
    index: VectorIndex
    seconds: float
    cpu_seconds: float
    exact: Latency


def _said(build: Build) -> str:
    return f"{build.storage}, m {build.m}, ef_construction {build.ef_construction}"


def _fits(evaluation: Evaluation, generation: Generation) -> bool:
    source = generation.source
    return (
        evaluation.table_uuid == source.table_uuid
        and evaluation.column == source.column
        and evaluation.metric is generation.parameters.metric
    )
