"""Runs of ingests, with an account of every row, and of other long work; all are on record."""

from lakehouse.runs.ingest import Evolve, IngestMode, IngestRequest, Ingests
from lakehouse.runs.known_objects import KnownObjects
from lakehouse.runs.new_objects import Changed, NewObjects
from lakehouse.runs.preview import Preview, preview
from lakehouse.runs.record import RunColumn, RunRecord, RunState
from lakehouse.runs.registry import Runs
from lakehouse.runs.store import RunStore
from lakehouse.runs.sync import SyncRequest
from lakehouse.runs.task import TaskRequest, TaskResult, Tasks, Watch

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
    "Runs",
    "SyncRequest",
    "TaskRequest",
    "TaskResult",
    "Tasks",
    "Watch",
    "preview",
]
