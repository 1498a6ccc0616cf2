"""Actions that load sample data."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response
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
    """The load runs in a thread of its own so that its progress can be streamed while it works."""
    ctx.catalog.check_schema(NYC)
    results: queue.Queue[Progress | Response | BaseException] = queue.Queue()

    def report(share: float, message: str) -> None:
        results.put(Progress(progress=share, message=message))

    def work() -> None:
        lakehouse = ctx.lakehouse
        try:
            tables = load_sample(lakehouse.catalog, lakehouse.settings, request.name, report, ctx.cancelled)
            results.put(LoadResponse(tables=[LoadedTable(table=t.name, rows=t.rows) for t in tables]))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that answers the client
            results.put(error)

    thread = threading.Thread(target=work, name="samples.load", daemon=True)
    thread.start()
    try:
        while True:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
            if isinstance(result, Response):
                return
    finally:
        thread.join()


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
