"""Actions on the local copies of the data files of remote buckets."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Request, Response
from flight_server.context import CallContext


class CacheStatsRequest(Request):
    """Nothing to say."""


class CacheStatsResponse(Response):
    """What is in the object cache, and what happened since the server was started."""

    max_bytes: int = Field(description="setting cache.max_bytes")
    bytes: int
    objects: int
    in_use_bytes: int = Field(description="read by running statements or open transactions, or on its way")
    hits: int = Field(description="reads of a copy that was there")
    misses: int = Field(description="reads for which the object had to be fetched")
    shared: int = Field(description="reads that waited for what another had begun to fetch")
    fetched_bytes: int
    evicted: int = Field(description="objects removed to make room, or by cache.clear")
    damaged: int = Field(description="copies that were not as they should be, and were fetched again")


class CacheClearRequest(Request):
    """Nothing to say."""


class CacheClearResponse(Response):
    """What was removed."""

    objects: int
    bytes: int


def _stats(ctx: CallContext, request: CacheStatsRequest) -> Iterator[Response]:
    found = ctx.lakehouse.cache.statistics()
    yield CacheStatsResponse(**{name: getattr(found, name) for name in CacheStatsResponse.model_fields})


def _clear(ctx: CallContext, request: CacheClearRequest) -> Iterator[Response]:
    objects, size = ctx.lakehouse.cache.clear()
    yield CacheClearResponse(objects=objects, bytes=size)


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "cache.stats",
        "How large the object cache is, and how often it was of use",
        CacheStatsRequest,
        CacheStatsResponse,
        _stats,
        Permission.ADMIN,
    ),
    ActionSpec(
        "cache.clear",
        "Remove the local copies that nothing reads at the moment",
        CacheClearRequest,
        CacheClearResponse,
        _clear,
        Permission.ADMIN,
    ),
)
