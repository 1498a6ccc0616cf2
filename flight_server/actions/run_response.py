"""What the results of actions about ingests have in common: a run."""

from __future__ import annotations

from flight_server.actions.registry import Response
from lakehouse.runs import RunRecord


class RunResponse(RunRecord, Response):
    """A run: what it is to do, how far it is, and what became of every row."""


def run_response(record: RunRecord) -> RunResponse:
    """A run as actions tell of it."""
    return RunResponse(**record.model_dump())
