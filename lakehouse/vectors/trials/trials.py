"""Trials of index parameters: evaluation sets are made, parameters tried and measured, the best made live.

Whoever asks for the same again, after a kill or beside another, gets what is there and tries the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lakehouse.ai.models import Models
from lakehouse.clock import Clock
from lakehouse.config.vectors import VectorSettings
from lakehouse.errors import InvalidRequest, LakehouseError, TrialNotFound
from lakehouse.storage import Bucket
from lakehouse.vectors.generation import Generation
from lakehouse.vectors.indexes import Progress, VectorIndexes
from lakehouse.vectors.loader import LoaderStatistics
from lakehouse.vectors.trials.choosing import SweepRequest, newest
from lakehouse.vectors.trials.evaluation import Evaluation, EvaluationSet, EvaluationStore, absent
from lakehouse.vectors.trials.journal import Trial, TrialJournal
from lakehouse.vectors.trials.making import EvaluationMaker, EvaluationRequest
from lakehouse.vectors.trials.sweep import Sweep, SweepOutcome
from lakehouse.vectors.trials.table_vectors import SnapshotSource, SnapshotVectors
from lakehouse.vectors.trials.vector_cache import BoundedCache, CacheStatistics


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What is in memory for trials and searches."""

    vectors: CacheStatistics
    evaluations: CacheStatistics
    indexes: LoaderStatistics


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
        self._clock = clock
        self._store = EvaluationStore(indexes.store.bucket_of, clock)
        self._vectors = SnapshotVectors(source, settings.trial_cache_bytes)
        self._maker = EvaluationMaker(
            self._vectors, models, indexes, self._store, clock, settings.build_threads
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
        return self._maker.make(generation, request, check, progress, turn)

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
        sweep = Sweep(
            self.journal,
            self._vectors,
            self._indexes,
            self._clock,
            generation,
            request,
            wanted,
            builds,
            progress,
        )
        return sweep.run(check)

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


def _fits(evaluation: Evaluation, generation: Generation) -> bool:
    source = generation.source
    return (
        evaluation.table_uuid == source.table_uuid
        and evaluation.column == source.column
        and evaluation.metric is generation.parameters.metric
    )
