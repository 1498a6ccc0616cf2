"""The section ``journal``: the record of what changed."""

from __future__ import annotations

from pydantic import Field

from lakehouse.config.section import Section


class JournalSettings(Section):
    """The record of every change of the lake, kept under _journal/events/ and read as system.events."""

    enabled: bool = Field(True, description="Whether it is kept.")
    max_row_changes: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="How many rows a statement may change in a table with a primary key and have each of "
        "them recorded with its old and new values; 0 records none.",
    )
    workspace: str = Field("", description="Workspace of sessions that name none.")
    flush_events: int = Field(1000, ge=1, description="Number of events that are written together.")
    flush_seconds: float = Field(2.0, gt=0, description="How long an event may wait to be written.")
    recover_hours: float = Field(
        24.0,
        ge=0,
        description="How far back a starting server looks for commits that none recorded; 0 does not look.",
    )
