"""What a run of any kind does alike: it keeps its record, says that it goes on, and stops when asked to."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import structlog

from lakehouse.clock import Clock
from lakehouse.errors import (
    CommitStateUnknown,
    InternalError,
    LakehouseError,
    StatementCancelled,
    StorageError,
)
from lakehouse.runs.record import RunRecord, RunState
from lakehouse.runs.store import RunStore

Told = Callable[[float | None, str], None]
"""Is told what share is done, where that is known, and what is happening."""
_log = structlog.get_logger()


class RecordedRun(ABC):
    """A run with its record.

    Attributes:
        record: The record as it is now.
        stop: Is set where the run shall stop.

    Args:
        store: Where the record is kept.
        clock: Source of time.
        record: The record at the start.
        cancelled: Whether the caller went away.
        tell: Is told of progress.
    """

    def __init__(
        self, store: RunStore, clock: Clock, record: RunRecord, cancelled: Callable[[], bool], tell: Told
    ) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._caller_cancelled = cancelled
        self._tell = tell
        self.record = record
        self.stop = threading.Event()

    @abstractmethod
    def execute(self) -> RunRecord:
        """Do it; gives the record of its end.

        Raises:
            LakehouseError: It failed, or was cancelled.
        """

    def give_up(self) -> None:
        """End a run that has not begun."""
        self._end(RunState.CANCELLED, message="the server was shut down before it began")

    def beat(self) -> None:
        """Say that it goes on, and stop it where another server was asked to.

        Raises:
            StorageError: It could not be said.
        """
        with self._lock:
            if self.record.state.is_over:
                return
            self.record = self.record.model_copy(update={"seen_at": self._clock.now()})
            self._store.put(self.record)
        if self._store.is_to_stop(self.record.id):
            self.stop.set()

    def _cancelled(self) -> bool:
        return self.stop.is_set() or self._caller_cancelled()

    def _progress(self, share: float | None, message: str) -> None:
        self._note(progress=share, message=message)
        self._tell(share, message)

    def _note(self, **what: object) -> None:
        with self._lock:
            self.record = self.record.model_copy(update=what)

    def _failed(self, error: BaseException, what: str) -> None:
        """End the run with an error."""
        told = error if isinstance(error, LakehouseError) else InternalError(f"the {what} failed")
        self._end(_state_after(told), message=str(told), error_code=told.code)

    def _end(self, state: RunState, **what: object) -> None:
        now = self._clock.now()
        with self._lock:
            over = {"state": state, "ended_at": now, "seen_at": now, **what}
            if state is not RunState.SUCCEEDED:
                over |= {"rows_stored": 0, "rejects_table": ""}
            self.record = self.record.model_copy(update=over)
            try:
                self._store.put(self.record)
                self._store.forget_request(self.record.id)
            except StorageError as error:
                _log.warning("run_record_not_written", run=self.record.id, reason=str(error))


def _state_after(error: LakehouseError) -> RunState:
    if isinstance(error, CommitStateUnknown):
        return RunState.LOST
    return RunState.CANCELLED if isinstance(error, StatementCancelled) else RunState.FAILED
