"""What actions about runs have in common: doing one here, and the status, list and cancel of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from pydantic import Field

from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    Request,
    Response,
    in_a_thread,
    sparingly,
)
from flight_server.context import CallContext
from flight_server.execution import Recording
from lakehouse.errors import RunNotFound
from lakehouse.ingest.sources.source import Source
from lakehouse.runs import IngestRequest, RunRecord, Runs, RunState, TaskRequest, Watch


class RunResponse(RunRecord, Response):
    """A run: what it is to do, how far it is, and what became of every row."""


class RunStatusRequest(Request):
    """Which run."""

    run: str = Field(description="its id", min_length=1)


class RunCancelRequest(RunStatusRequest):
    """Which run is to stop."""


class RunListRequest(Request):
    """Which runs."""

    table: str | None = Field(default=None, description="only those into this table, by its full name")
    state: RunState | None = Field(default=None, description="only those that are there")
    limit: int = Field(default=20, ge=1, le=1000)


class RunListResponse(Response):
    """Runs, the newest first. Admins see all, others their own."""

    runs: list[RunResponse]


def run_response(record: RunRecord) -> RunResponse:
    """A run as actions tell of it."""
    return RunResponse(**record.model_dump())


def ingesting(
    ctx: CallContext, name: str, request: IngestRequest, source: Source, *, background: bool
) -> Iterator[Progress | Response]:
    """Do an ingest for a caller, who is told of its progress, or who is answered at once."""
    ingests = ctx.lakehouse.ingests
    if background:
        yield run_response(ingests.start(request, source, ctx.principal))
        return

    def work(report: Callable[[float, str], None]) -> Response:
        known = [0.0]

        def progress(share: float | None, message: str) -> None:
            if share is not None:
                known[0] = share
            report(known[0], message)

        return run_response(ingests.run(request, source, ctx.principal, ctx.cancelled, progress))

    yield from in_a_thread(name, work)


def doing(
    ctx: CallContext, task: TaskRequest, response: Callable[[RunRecord], Response]
) -> Iterator[Progress | Response]:
    """Do a task while the caller waits, who is told of its progress."""

    def work(report: Callable[[float, str], None]) -> Response:
        tell = sparingly(report)
        return response(
            ctx.lakehouse.vector_runs.run(
                task, ctx.principal, ctx.cancelled, lambda share, message: tell(share or 0.0, message)
            )
        )

    return in_a_thread(task.action, work)


def stop_of(watch: Watch, recording: Recording) -> Callable[[], None]:
    """What stops a task: whoever cancels its run or kills its statement."""

    def check() -> None:
        watch.check()
        recording.record.check_stop()

    return check


def run_actions(
    family: str, one: str, cancelling: str, runs: Callable[[CallContext], Runs[Any]]
) -> tuple[ActionSpec, ActionSpec, ActionSpec]:
    """The actions that tell of runs and cancel them.

    Args:
        family: What the names of the actions begin with.
        one: What one of them is called, with its article.
        cancelling: What cancelling does.
        runs: Which runs.
    """

    def visible(ctx: CallContext, run_id: str) -> RunRecord:
        record = runs(ctx).status(run_id)
        if not _is_visible(ctx, record):
            raise RunNotFound(f"there is no run {run_id!r}", f"{family}.list tells of those that there are")
        return record

    def status(ctx: CallContext, request: RunStatusRequest) -> Iterator[Response]:
        yield run_response(visible(ctx, request.run))

    def cancel(ctx: CallContext, request: RunCancelRequest) -> Iterator[Response]:
        visible(ctx, request.run)
        yield run_response(runs(ctx).cancel(request.run))

    def listed(ctx: CallContext, request: RunListRequest) -> Iterator[Response]:
        wanted = (
            record
            for record in runs(ctx).newest()
            if _is_visible(ctx, record)
            and request.table in (None, record.table)
            and request.state in (None, record.state)
        )
        yield RunListResponse(runs=[run_response(record) for record in islice(wanted, request.limit)])

    return (
        ActionSpec(
            f"{family}.status",
            f"How far {one} is, and what became of its rows",
            RunStatusRequest,
            RunResponse,
            status,
            Permission.READ,
        ),
        ActionSpec(
            f"{family}.list",
            f"The {one.split(maxsplit=1)[1]}s that run or ran, the newest first",
            RunListRequest,
            RunListResponse,
            listed,
            Permission.READ,
        ),
        ActionSpec(
            f"{family}.cancel",
            cancelling,
            RunCancelRequest,
            RunResponse,
            cancel,
            Permission.READ,
        ),
    )


def _is_visible(ctx: CallContext, record: RunRecord) -> bool:
    return ctx.session.access.is_admin or record.principal == ctx.principal.name
