"""Runs of work that is no ingest, such as embedding a table, in the foreground or the background."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from lakehouse.access.principal import Principal
from lakehouse.clock import Clock
from lakehouse.engine.engine import Engine
from lakehouse.engine.session import Session
from lakehouse.errors import StatementCancelled
from lakehouse.ingest.sources.source import unheard
from lakehouse.journal.change_event import Origin, acting
from lakehouse.runs.record import RunRecord, RunState
from lakehouse.runs.recorded import RecordedRun, Told
from lakehouse.runs.registry import Runs
from lakehouse.runs.store import RunStore


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task did, as its record tells it."""

    message: str
    rows_in: int = 0
    rows_stored: int = 0
    snapshot_id: int | None = None
    details: dict[str, str] = field(default_factory=dict)


class Watch(Protocol):
    """How a task learns that it shall stop, and whom it tells how far it is."""

    def check(self) -> None:
        """Raise where it shall stop."""
        ...

    def cancelled(self) -> bool:
        """Whether ``check`` would raise."""
        ...

    def progress(self, share: float | None, message: str) -> None:
        """Note how far it is."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task.

    Attributes:
        action: What does it, such as ``vectors.embed``.
        source: What it reads.
        target: What it makes.
        work: Does it, in a session of the caller's.
    """

    action: str
    source: str
    target: str
    work: Callable[[Session, Watch], TaskResult]


class Task(RecordedRun):
    """One task from its beginning to its end."""

    def __init__(
        self,
        engine: Engine,
        store: RunStore,
        clock: Clock,
        request: TaskRequest,
        principal: Principal,
        cancelled: Callable[[], bool],
        tell: Told,
        record: RunRecord,
    ) -> None:
        super().__init__(store, clock, record, cancelled, tell)
        self._engine = engine
        self._request = request
        self._principal = principal

    def execute(self) -> RunRecord:
        """Do it; gives the record of its end."""
        try:
            with (
                acting(Origin(actor=self._principal.name, source=f"action:{self._request.action}")),
                closing(self._engine.new_session(self.record.id, {}, self._principal)) as session,
            ):
                self._note(state=RunState.RUNNING)
                self.check()
                done = self._request.work(session, self)
            told = {name: getattr(done, name) for name in TaskResult.__slots__}
            self._end(RunState.SUCCEEDED, progress=1.0, **told)
        except BaseException as error:
            self._failed(error, "run")
            raise
        return self.record

    def check(self) -> None:
        """Raise where it shall stop."""
        if self._cancelled():
            raise StatementCancelled("it was cancelled")

    def cancelled(self) -> bool:
        """Whether ``check`` would raise."""
        return self._cancelled()

    def progress(self, share: float | None, message: str) -> None:
        """Note how far it is."""
        self._progress(share, message)


class Tasks(Runs[Task]):
    """Runs tasks, some of them in the background. Safe to use from several threads.

    Args:
        engine: What they are run with.
        store: Where records of runs are kept.
        clock: Source of time and ids.
        what: What several of them are called.
        most_at_once: How many run in the background at a time.
        most_waiting: How many may wait for that.
    """

    def __init__(
        self, engine: Engine, store: RunStore, clock: Clock, what: str, most_at_once: int, most_waiting: int
    ) -> None:
        super().__init__(store, what, most_at_once, most_waiting)
        self._engine = engine
        self._clock = clock

    def run(
        self, request: TaskRequest, principal: Principal, cancelled: Callable[[], bool], tell: Told
    ) -> RunRecord:
        """Do a task now; gives what came of it.

        Raises:
            LakehouseError: It failed or was cancelled; the record of the run says the same.
        """
        run = self._task(request, principal, cancelled, tell)
        self._admit(run)
        return self._do(run)

    def start(self, request: TaskRequest, principal: Principal) -> RunRecord:
        """Do a task in the background; gives its record as it is now.

        Raises:
            LimitExceeded: Too many wait already.
        """
        run = self._task(request, principal, lambda: False, unheard)
        self._admit(run)
        self._submit(run)
        return run.record

    def _task(
        self, request: TaskRequest, principal: Principal, cancelled: Callable[[], bool], tell: Told
    ) -> Task:
        now = self._clock.now()
        record = RunRecord(
            id=self.store.new_id(),
            state=RunState.QUEUED,
            table=request.target,
            mode=request.action,
            system="lake",
            source=request.source,
            principal=principal.name,
            started_at=now,
            seen_at=now,
        )
        return Task(self._engine, self.store, self._clock, request, principal, cancelled, tell, record)
