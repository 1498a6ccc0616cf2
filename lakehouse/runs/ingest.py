"""Ingests: a source's rows into a table, all in one commit, exactly once, with an account of each row.

A run is what any client could do, done inside: a session of the caller's, in it a transaction, into which the
rows are loaded, and beside them those that were rejected. The commit makes both visible, or neither. What it
leaves in the snapshot tells that these rows are there (``catalog/ingest_mark.py``), so that the same ingest,
made again or made twice at once, finds that there is nothing to be done.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog

from lakehouse.access.principal import Principal
from lakehouse.clock import Clock
from lakehouse.engine.engine import Engine
from lakehouse.errors import (
    LakehouseError,
    LimitExceeded,
    ShuttingDown,
)
from lakehouse.ingest.sources.source import Progress, Source, unheard
from lakehouse.runs.fitting import Evolve
from lakehouse.runs.record import RunRecord, RunState
from lakehouse.runs.run import IngestMode, IngestRequest, Run
from lakehouse.runs.store import RunStore

__all__ = ["Evolve", "IngestMode", "IngestRequest", "Ingests"]

_BEAT_S = 5.0
_log = structlog.get_logger()


class Ingests:
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
        self.store = store
        self._engine = engine
        self._clock = clock
        self._most = most_at_once + most_waiting
        self._workers = ThreadPoolExecutor(most_at_once, "ingest")
        self._active: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

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
        context = contextvars.copy_context()

        def work() -> None:
            with suppress(LakehouseError):  # it is in the record
                context.run(self._do, run)

        try:
            self._workers.submit(work)
        except RuntimeError:
            self._forget(run)
            source.close()
            raise ShuttingDown("the server is shutting down") from None
        return run.record

    def status(self, run_id: str) -> RunRecord:
        """What is known of a run of any server.

        Raises:
            RunNotFound: There is none of that id.
        """
        run = self._active.get(run_id)
        return self.store.get(run_id) if run is None else run.record

    def newest(self) -> Iterator[RunRecord]:
        """The runs of all servers, the newest first."""
        for record in self.store.newest():
            run = self._active.get(record.id)
            yield record if run is None else run.record

    def cancel(self, run_id: str) -> RunRecord:
        """Ask a run of any server to stop; gives it as it is now. One that is over stays as it is.

        Raises:
            RunNotFound: There is none of that id.
        """
        run = self._active.get(run_id)
        if run is not None:
            run.stop.set()
            return run.record
        found = self.store.get(run_id)
        if not found.state.is_over:
            self.store.ask_to_stop(run_id)
        return found

    def close(self) -> None:
        """Stop what runs."""
        self._stop.set()
        for run in list(self._active.values()):
            run.stop.set()
        self._workers.shutdown(wait=True, cancel_futures=True)
        for run in list(self._active.values()):
            run.give_up()
            self._forget(run)

    # -- the registry ---------------------------------------------------------------------------------

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
        with self._lock:
            if len(self._active) >= self._most:
                source.close()
                raise LimitExceeded(f"{len(self._active)} ingests are running or waiting", "try again later")
            self._active[record.id] = run
            if self._beat is None:
                self._beat = threading.Thread(target=self._keep_beating, name="ingest-beat", daemon=True)
                self._beat.start()
        try:
            self.store.put(record)
        except BaseException:
            self._forget(run)
            source.close()
            raise
        return run

    def _do(self, run: Run) -> RunRecord:
        try:
            return run.execute()
        finally:
            self._forget(run)

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._active.pop(run.record.id, None)

    def _keep_beating(self) -> None:
        while not self._stop.wait(_BEAT_S):
            for run in list(self._active.values()):
                try:
                    run.beat()
                except Exception as error:  # noqa: BLE001 - the next one comes soon
                    _log.warning("ingest_record_not_written", run=run.record.id, reason=str(error))
