"""Getting rows into tables."""

from lakehouse.catalog.commit import CommitResult, StagedWrite, WriteMode, commit, discard
from lakehouse.ingest.writer import stage

__all__ = ["CommitResult", "StagedWrite", "WriteMode", "commit", "discard", "stage"]
