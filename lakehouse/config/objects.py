"""Settings of the objects that clients read and write as they are."""

from __future__ import annotations

from pydantic import Field

from lakehouse.config.section import Section

# A multipart upload has at most ten thousand parts, of 10 MiB each.
MOST_OBJECT_BYTES = 104_857_600_000


class ObjectSettings(Section):
    """Objects of the buckets as actions and flights (docs/objects.md)."""

    max_bytes: int = Field(
        100_000_000_000, ge=1, le=MOST_OBJECT_BYTES, description="Largest object that can be put, in bytes."
    )
    inline_bytes: int = Field(
        1_000_000,
        ge=0,
        le=2_000_000,
        description="Largest content that objects.get and objects.put carry themselves, in bytes. Larger "
        "objects are streamed.",
    )
    concurrent_transfers: int = Field(
        32,
        ge=1,
        description="Most objects that are read, put and copied at once. Each takes 100 to 250 MB.",
    )
    presign_seconds: int = Field(
        3600, ge=1, le=604_800, description="Longest time for which objects.presign gives access."
    )
    unfinished_seconds: int = Field(
        3600,
        ge=1,
        description="What a killed server left of unfinished puts is removed when it has not changed for so "
        "long. Longer than any client pauses.",
    )
