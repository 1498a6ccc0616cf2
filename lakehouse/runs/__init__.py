"""Runs of ingests: from a source into a table, with an account of every row."""

from lakehouse.runs.ingest import Evolve, IngestMode, IngestRequest, Ingests
from lakehouse.runs.preview import Preview, preview
from lakehouse.runs.record import RunColumn, RunRecord, RunState
from lakehouse.runs.store import RunStore

__all__ = [
    "Evolve",
    "IngestMode",
    "IngestRequest",
    "Ingests",
    "Preview",
    "RunColumn",
    "RunRecord",
    "RunState",
    "RunStore",
    "preview",
]
