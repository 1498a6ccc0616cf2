"""The runs of a server, some of them in the background, and what became of those of other servers."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from lakehouse.errors import LakehouseError, LimitExceeded, ShuttingDown
from lakehouse.runs.record import RunRecord
from lakehouse.runs.recorded import RecordedRun
from lakehouse.runs.store import RunStore

_BEAT_S = 5.0
_log = structlog.get_logger()
RunT = TypeVar("RunT", bound=RecordedRun)


class Runs(Generic[RunT]):
    """Knows the runs of this server, and those of others by their records. Safe to use from several threads.

    Args:
        store: Where records of runs are kept.
        what: What several of them are called, in messages and names of threads.
        most_at_once: How many run in the background at a time.
        most_waiting: How many may wait for that.
    """

    def __init__(self, store: RunStore, what: str, most_at_once: int = 2, most_waiting: int = 100) -> None:
        self.store = store
        self._what = what
        self._most = most_at_once + most_waiting
        self._workers = ThreadPoolExecutor(most_at_once, what)
        self._active: dict[str, RunT] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

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

    def _admit(self, run: RunT) -> None:
        """Take a run up.

        Raises:
            LimitExceeded: Too many run or wait already.
            StorageError: Its record could not be written.
        """
        with self._lock:
            if len(self._active) >= self._most:
                raise LimitExceeded(
                    f"{len(self._active)} {self._what} are running or waiting", "try again later"
                )
            self._active[run.record.id] = run
            if self._beat is None:
                self._beat = threading.Thread(
                    target=self._keep_beating, name=f"{self._what}-beat", daemon=True
                )
                self._beat.start()
        try:
            self.store.put(run.record)
        except BaseException:
            self._forget(run)
            raise

    def _submit(self, run: RunT) -> None:
        """Do a run in the background that was taken up, on behalf of the same caller.

        Raises:
            ShuttingDown: Nothing is begun any more.
        """
        context = contextvars.copy_context()

        def work() -> None:
            with suppress(LakehouseError):  # it is in the record
                context.run(self._do, run)

        try:
            self._workers.submit(work)
        except RuntimeError:
            self._forget(run)
            raise ShuttingDown("the server is shutting down") from None

    def _do(self, run: RunT) -> RunRecord:
        try:
            return run.execute()
        finally:
            self._forget(run)

    def _forget(self, run: RunT) -> None:
        with self._lock:
            self._active.pop(run.record.id, None)

    def _keep_beating(self) -> None:
        while not self._stop.wait(_BEAT_S):
            for run in list(self._active.values()):
                try:
                    run.beat()
                except Exception as error:  # noqa: BLE001 - the next one comes soon
                    _log.warning("run_record_not_written", run=run.record.id, reason=str(error))
