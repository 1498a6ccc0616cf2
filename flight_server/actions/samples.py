"""Actions that load sample data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response, in_a_thread
from flight_server.context import CallContext
from lakehouse.samples import NYC, load_sample


class LoadRequest(Request):
    """Which sample to load."""

    name: str = Field(
        default="nyc", description="nyc: flights from New York City in 2013, five related tables"
    )


class LoadedTable(Response):
    """One table of the sample."""

    table: str
    rows: int


class LoadResponse(Response):
    """The tables of the sample, all there now."""

    tables: list[LoadedTable]


def _load(ctx: CallContext, request: LoadRequest) -> Iterator[Progress | Response]:
    ctx.lakes.default.check_schema(NYC)
    lakehouse = ctx.lakehouse

    def work(report: Callable[[float, str], None]) -> Response:
        tables = load_sample(lakehouse.catalog, lakehouse.settings, request.name, report, ctx.cancelled)
        return LoadResponse(tables=[LoadedTable(table=t.name, rows=t.rows) for t in tables])

    return in_a_thread("samples.load", work)


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "samples.load",
        "Load sample data, unless it is there already",
        LoadRequest,
        LoadResponse,
        _load,
        Permission.WRITE,
        streams=True,
    ),
)
