"""What actions about ingests have in common: doing one, and the run that they answer with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flight_server.actions.registry import Progress, Response, in_a_thread
from flight_server.context import CallContext
from lakehouse.ingest.sources.source import Source
from lakehouse.runs import IngestRequest, RunRecord


class RunResponse(RunRecord, Response):
    """A run: what it is to do, how far it is, and what became of every row."""


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
