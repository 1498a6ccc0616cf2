"""Goes through a sweep: builds and measures what is not known yet of the parameters that are to be tried."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lakehouse.clock import Clock
from lakehouse.journal.change_event import current_origin
from lakehouse.vectors.faiss_index import VectorIndex, Vectors, build_threads
from lakehouse.vectors.generation import Generation
from lakehouse.vectors.indexes import Progress, VectorIndexes
from lakehouse.vectors.trials.choosing import SweepRequest, cost, newest, next_build
from lakehouse.vectors.trials.evaluation import Evaluation, EvaluationSet, Queries
from lakehouse.vectors.trials.journal import Build, Trial, TrialJournal
from lakehouse.vectors.trials.making import exact, kept
from lakehouse.vectors.trials.measuring import Latency, Measured, Measuring
from lakehouse.vectors.trials.table_vectors import SnapshotVectors

_EXACT_SECONDS = 0.3


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


class _TimeUp(Exception):
    """The seconds of a sweep are over."""


class Sweep:
    """One request to try parameters. What is measured goes into the journal as soon as it is known.

    Args:
        journal: What was measured before, and what is now.
        vectors: Gives the vectors of the table.
        indexes: Whose turns of building it takes.
        clock: Source of time and ids.
        generation: The live generation of the index.
        request: What to try.
        wanted: The evaluation set to measure with.
        builds: What may be built, the cheapest first.
        progress: Told of what is done.
    """

    def __init__(
        self,
        journal: TrialJournal,
        vectors: SnapshotVectors,
        indexes: VectorIndexes,
        clock: Clock,
        generation: Generation,
        request: SweepRequest,
        wanted: EvaluationSet,
        builds: list[Build],
        progress: Progress,
    ) -> None:
        self._journal = journal
        self._vectors = vectors
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
        """Go through it.

        Args:
            check: Raises where the work shall stop; what has been measured stays.

        Raises:
            InvalidRequest: The table is not what it was.
            LakehouseError: It cannot be read, or the journal not be written.
        """

        def within() -> None:
            check()
            if self._seconds_left() <= 0:
                raise _TimeUp

        reason = "done"
        try:
            self._tell(0.0, f"reading {self._generation.source.table}")
            vectors = self._vectors.of(self._wanted.evaluation, within).vectors
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
        for each in newest(self._journal.of(evaluation.index, evaluation.id, since)):
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
                self._journal.record(known[ef])
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
