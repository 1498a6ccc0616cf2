"""Runs of ingests: from a source into a table, with an account of every row."""

from lakehouse.runs.ingest import Evolve, IngestMode, IngestRequest, Ingests
from lakehouse.runs.known_objects import KnownObjects
from lakehouse.runs.new_objects import Changed, NewObjects
from lakehouse.runs.preview import Preview, preview
from lakehouse.runs.record import RunColumn, RunRecord, RunState
from lakehouse.runs.store import RunStore
from lakehouse.runs.sync import SyncRequest

__all__ = [
    "Changed",
    "Evolve",
    "IngestMode",
    "IngestRequest",
    "Ingests",
    "KnownObjects",
    "NewObjects",
    "Preview",
    "RunColumn",
    "RunRecord",
    "RunState",
    "RunStore",
    "SyncRequest",
    "preview",
]
