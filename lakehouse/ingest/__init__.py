"""Getting rows into tables."""

from lakehouse.catalog.commit import (
    CommitResult,
    StagedWrite,
    WriteMode,
    commit,
    commit_or_discard,
    commit_together,
    discard,
    drop_files,
    rewriting,
)
from lakehouse.ingest.group_commit import GroupCommit
from lakehouse.ingest.writer import stage, stage_for

__all__ = [
    "CommitResult",
    "GroupCommit",
    "StagedWrite",
    "WriteMode",
    "commit",
    "commit_or_discard",
    "commit_together",
    "discard",
    "drop_files",
    "rewriting",
    "stage",
    "stage_for",
]
