"""What is kept of a run."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from lakehouse.ingest.sources.incremental import SyncAccount
from lakehouse.ingest.sources.source import SourceColumn


class RunState(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REPEATED = "repeated"
    """Its rows were in the table already, so that nothing was done."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its server, or the answer to its commit, went away. Nothing of it is in the table, or all of it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


class RunColumn(BaseModel):
    """A column of the source, and why it has its type."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="as the table has it")
    source_name: str = Field(description="as the source has it")
    type: str
    reason: str = Field(description="why it has this type")
    stricter: str = Field("", description="what a stricter reading would have lost; empty if nothing")

    @classmethod
    def of(cls, column: SourceColumn) -> Self:
        """What is kept of a column of a source."""
        return cls(
            name=column.name,
            source_name=column.source_name,
            type=str(column.type),
            reason=column.reason,
            stricter=column.stricter,
        )


class RunRecord(BaseModel):
    """One run of an ingest. No secret is in it.

    ``rows_in`` are ``rows_stored`` and ``rows_rejected``, and ``sync.rows_known`` where only new ones come.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[0-9a-f]{14}-[0-9a-f]{8}$", description="sorts by the time of the start")
    state: RunState
    table: str = Field(description="the full name of the table")
    mode: str
    system: str = Field(description="what kind of source: file, postgresql …")
    source: str = Field(description="which one, without any secret")
    principal: str
    key: str = Field("", description="the same for runs that would bring the same rows; empty if unknown")
    rows_in: int = 0
    rows_stored: int = 0
    rows_rejected: int = 0
    rejects_table: str = Field("", description="where the rejected rows are, with reasons")
    snapshot_id: int | None = None
    columns: tuple[RunColumn, ...] = ()
    details: dict[str, str] = Field(default_factory=dict, description="how the source was read")
    sync: SyncAccount | None = Field(None, description="what was new, for an ingest of only that")
    progress: float | None = Field(None, description="the share that is done, where it is known")
    message: str = Field("", description="what is happening, or what happened")
    error_code: str = ""
    started_at: AwareDatetime
    seen_at: AwareDatetime = Field(description="when its server last said that it goes on")
    ended_at: AwareDatetime | None = None

    def as_seen(self, now: datetime, lost_after_s: float) -> RunRecord:
        """The record as it has to be taken: a run whose server has said nothing for long is lost."""
        if self.state.is_over or (now - self.seen_at).total_seconds() <= lost_after_s:
            return self
        message = (
            "its server went away; what it did is in the table wholly or not at all, so it can be repeated"
        )
        return self.model_copy(update={"state": RunState.LOST, "message": message})

    def was_over_at(self, timestamp_s: float) -> bool:
        """Whether it was over at a time, or had not been heard of since then and is lost."""
        return self.state.is_over and (self.ended_at or self.seen_at).timestamp() < timestamp_s
