"""Settings of what is known of datasets beyond their rows."""

from __future__ import annotations

from pydantic import Field

from lakehouse.config.section import Section


class DatasetSettings(Section):
    """What is known of tables beyond their rows, kept in the first bucket under _catalog/manifests/."""

    enabled: bool = Field(True, description="Whether it is kept up to date when tables change.")
    refresh_seconds: float = Field(
        1.0,
        gt=0,
        le=3600,
        description="How long commits are gathered before manifests are brought up to date.",
    )
    index_refresh_ms: int = Field(
        500, ge=0, description="How old what is known of other servers' changes of manifests may be."
    )
    sample_rows: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="In how many rows of a table personal data is looked for; 0 looks for none.",
    )
