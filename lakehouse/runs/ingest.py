"""Ingests: a source's rows into a table, all in one commit, exactly once, with an account of each row.

A run is what any client could do, done inside: a session of the caller's, in it a transaction, into which the
rows are loaded, and beside them those that were rejected. The commit makes both visible, or neither. What it
leaves in the snapshot tells that these rows are there (``catalog/ingest_mark.py``), so that the same ingest,
made again or made twice at once, finds that there is nothing to be done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from lakehouse.access.principal import Principal
from lakehouse.clock import Clock
from lakehouse.engine.engine import Engine
from lakehouse.errors import LakehouseError, ShuttingDown
from lakehouse.ingest.sources.source import Progress, Source, unheard
from lakehouse.runs.fitting import Evolve
from lakehouse.runs.record import RunRecord, RunState
from lakehouse.runs.registry import Runs
from lakehouse.runs.run import IngestMode, IngestRequest, Run
from lakehouse.runs.store import RunStore

__all__ = ["Evolve", "IngestMode", "IngestRequest", "Ingests"]


class Ingests(Runs[Run]):
    """Runs ingests, some of them in the background. Safe to use from several threads.

    Args:
        engine: What they are run with.
        store: Where records of runs are kept.
        clock: Source of time and ids.
        most_at_once: How many run in the background at a time.
        most_waiting: How many may wait for that.
    """

    def __init__(
        self, engine: Engine, store: RunStore, clock: Clock, most_at_once: int = 2, most_waiting: int = 100
    ) -> None:
        super().__init__(store, "ingests", most_at_once, most_waiting)
        self._engine = engine
        self._clock = clock

    def run(
        self,
        request: IngestRequest,
        source: Source,
        principal: Principal,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> RunRecord:
        """Do an ingest now; gives what came of it. The source is closed in any case.

        Raises:
            LakehouseError: It failed, and nothing of it is in the table; the record of the run says the same.
        """
        run = self._register(request, source, principal, cancelled, progress)
        return self._do(run)

    def attempt(
        self,
        request: IngestRequest,
        source: Source,
        principal: Principal,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> RunRecord:
        """Do an ingest now, as one of several: where it fails, its record says why. See ``run``."""
        run = self._register(request, source, principal, cancelled, progress)
        with suppress(LakehouseError):
            self._do(run)
        return run.record

    def start(self, request: IngestRequest, source: Source, principal: Principal) -> RunRecord:
        """Do an ingest in the background; gives its record as it is now. The source is closed in any case.

        Raises:
            LimitExceeded: Too many wait already.
        """
        run = self._register(request, source, principal, lambda: False, unheard)
        try:
            self._submit(run)
        except ShuttingDown:
            source.close()
            raise
        return run.record

    def _register(
        self,
        request: IngestRequest,
        source: Source,
        principal: Principal,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Run:
        now = self._clock.now()
        record = RunRecord(
            id=self.store.new_id(),
            state=RunState.QUEUED,
            table=str(request.table),
            mode=request.mode.value,
            system=source.system,
            source=source.described,
            principal=principal.name,
            started_at=now,
            seen_at=now,
        )
        run = Run(
            self._engine, self.store, self._clock, request, source, principal, cancelled, progress, record
        )
        try:
            self._admit(run)
        except BaseException:
            source.close()
            raise
        return run
