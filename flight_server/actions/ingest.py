"""Actions that bring rows into tables, and tell what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Request, Response
from flight_server.context import CallContext
from lakehouse.errors import RunNotFound
from lakehouse.runs import RunRecord, RunState


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


def _response(record: RunRecord) -> RunResponse:
    return RunResponse(**record.model_dump())


def _is_visible(ctx: CallContext, record: RunRecord) -> bool:
    return ctx.session.access.is_admin or record.principal == ctx.principal.name


def _visible(ctx: CallContext, run_id: str) -> RunRecord:
    """A run that is for the caller to see.

    Raises:
        RunNotFound: There is none of that id for the caller.
    """
    record = ctx.lakehouse.ingests.status(run_id)
    if not _is_visible(ctx, record):
        raise RunNotFound(f"there is no run {run_id!r}", "ingest.list tells of those that there are")
    return record


def _status(ctx: CallContext, request: RunStatusRequest) -> Iterator[Response]:
    yield _response(_visible(ctx, request.run))


def _cancel(ctx: CallContext, request: RunCancelRequest) -> Iterator[Response]:
    _visible(ctx, request.run)
    yield _response(ctx.lakehouse.ingests.cancel(request.run))


def _list(ctx: CallContext, request: RunListRequest) -> Iterator[Response]:
    wanted = (
        record
        for record in ctx.lakehouse.ingests.newest()
        if _is_visible(ctx, record)
        and request.table in (None, record.table)
        and request.state in (None, record.state)
    )
    yield RunListResponse(runs=[_response(record) for record in islice(wanted, request.limit)])


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "ingest.status",
        "How far an ingest is, and what became of its rows",
        RunStatusRequest,
        RunResponse,
        _status,
        Permission.READ,
    ),
    ActionSpec(
        "ingest.list",
        "The ingests that run or ran, the newest first",
        RunListRequest,
        RunListResponse,
        _list,
        Permission.READ,
    ),
    ActionSpec(
        "ingest.cancel",
        "Stop an ingest, of any server; nothing of it is stored",
        RunCancelRequest,
        RunResponse,
        _cancel,
        Permission.READ,
    ),
)
