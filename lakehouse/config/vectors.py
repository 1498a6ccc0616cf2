"""The section ``vectors``: indexes of vectors."""

from __future__ import annotations

from pydantic import Field

from lakehouse.config.section import Section


class VectorSettings(Section):
    """Indexes of vectors, kept in the first bucket under _vectors/ and mapped into memory for searches."""

    profile: str = Field(
        "",
        description="Which of [[profiles]] those search with who name none, and whose roles have none. "
        "profiles.activate says otherwise while the server runs.",
    )
    memory_bytes: int = Field(
        4_000_000_000,
        ge=1,
        description="Indexes that nobody searches are let go of above that, least recently used first. A "
        "larger one cannot be searched.",
    )
    refresh_ms: int = Field(
        500, ge=0, description="How old what is known of other servers' changes of indexes may be."
    )
    build_threads: int = Field(
        0, ge=0, le=1024, description="Threads that build an index. 0 takes all cores."
    )
    concurrent_runs: int = Field(
        1, ge=1, le=64, description="How many tables are embedded or indexed in the background at once."
    )
    waiting_runs: int = Field(
        100, ge=0, description="How many of these may run or wait beyond that; further ones are refused."
    )
    keep_generations: int = Field(
        1, ge=0, description="How many generations that were live before are kept to go back to."
    )
    grace_seconds: float = Field(
        900,
        ge=0,
        description="How long a generation stays that is live no more, for searches of other servers.",
    )
    abandoned_hours: float = Field(
        24,
        gt=0,
        description="Generations that nobody made live are deleted after that; longer than a build takes.",
    )
    trial_cache_bytes: int = Field(
        1_000_000_000,
        ge=0,
        description="Vectors and evaluation sets that trials have read are kept in memory up to that.",
    )
