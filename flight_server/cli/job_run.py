"""Doing the steps of a job, and telling what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lakehouse_client import LakehouseClientError

from flight_server.cli.database_password import with_password
from flight_server.cli.ingest import send_file
from flight_server.cli.job_file import JobError, JobFile, Step
from flight_server.cli.querying import call_with_progress

if TYPE_CHECKING:
    from lakehouse_client import Client

_DATABASES = ("postgresql://", "postgres://")
_COUNTS = ("rows_in", "rows_stored", "rows_rejected")
_GOOD = ("succeeded", "repeated", "nothing", "running")


@dataclass
class Outcome:
    """What became of a step.

    ``state`` is ``succeeded``, ``repeated`` (what it brings was there), ``nothing`` (there was no file),
    ``running`` (in the background), ``failed``, or ``skipped`` (a step before it failed).
    """

    step: str
    does: str
    state: str = "skipped"
    rows_in: int | None = None
    rows_stored: int | None = None
    rows_rejected: int | None = None
    seconds: float = 0.0
    message: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return self.state in _GOOD

    def add(self, result: dict[str, Any]) -> None:
        """Take the result of an action into account; what it says of runs is counted."""
        self.results.append(result)
        runs = result.get("runs", [result] if "rows_stored" in result else [])
        for name in _COUNTS if runs else ():
            setattr(self, name, (getattr(self, name) or 0) + sum(int(run.get(name, 0)) for run in runs))
        states = {run["state"] for run in runs}
        wrong = [run for run in runs if run["state"] in ("failed", "cancelled", "lost")]
        if wrong or result.get("failed"):
            self.state = "failed"
            self.message = "; ".join(f"{run['table']}: {run['message']}" for run in wrong)
        elif states & {"queued", "running"}:
            self.state = "running"
        elif states == {"repeated"} and self.state in ("skipped", "repeated"):
            self.state = "repeated"
        elif self.state != "failed":
            self.state = "succeeded"

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def prepared(file: JobFile) -> list[Step]:
    """The steps with their variables, all of which have to be set before the first step is done.

    Raises:
        JobError: Some are not.
    """
    steps, problems = [], []
    for number in range(len(file.job.steps)):
        try:
            steps.append(file.filled(number))
        except JobError as error:
            problems.append(error.message)
    if problems:
        raise JobError("; ".join(problems))
    return steps


def run_steps(
    client: Client, file: JobFile, steps: list[Step], told: Callable[[int, Outcome], None]
) -> list[Outcome]:
    """Do the steps in their order.

    Args:
        client: The connection.
        file: The job.
        steps: Its steps, with their variables.
        told: Told of each step when it is over.
    """
    outcomes = [Outcome(step.title, step.action or f"upload {step.upload}") for step in file.job.steps]
    for number, (step, outcome) in enumerate(zip(steps, outcomes, strict=True)):
        started = time.monotonic()
        try:
            _do(client, file, step, outcome)
        except (LakehouseClientError, JobError, OSError) as error:
            outcome.state = "failed"
            outcome.message = _message(error)
        outcome.seconds = round(time.monotonic() - started, 3)
        told(number, outcome)
        if not outcome.is_good and step.on_failure == "stop":
            break
    return outcomes


def _do(client: Client, file: JobFile, step: Step, outcome: Outcome) -> None:
    if step.action is not None:
        outcome.add(call_with_progress(client, step.action, request_of(step)))
        return
    files = file.files(step)
    if not files:
        if step.when_empty == "fail":
            raise JobError(
                f"there is no file {step.upload} beside {file.path}", 'when_empty = "skip" allows it'
            )
        outcome.state = "nothing"
    for number, path in enumerate(files):
        try:
            run = send_file(client, path, tuple(step.table.values()), step.request, first=number == 0)
        except LakehouseClientError as error:
            raise LakehouseClientError(error.code, f"{path.name}: {error.message}") from None
        outcome.add(asdict(run))


def request_of(step: Step) -> dict[str, Any]:
    """The request of a step's action; the URI of a database gets the password that is known for it."""
    request = step.request
    if str(request.get("dsn", "")).startswith(_DATABASES):
        request["dsn"] = with_password(request["dsn"])
    return request


def _message(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    return str(error)
