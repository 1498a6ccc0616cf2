"""Actions on buckets: which there are, how they are, and what went wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response
from flight_server.context import CallContext
from lakehouse.engine.system_buckets import bucket_rows
from lakehouse.storage.rescue_fill import Filled, fill


class BucketsRequest(Request):
    """Nothing to say."""


class BucketState(Response):
    """A bucket, and what became of the requests to it since the server was started."""

    name: str
    bucket_class: str = Field(description="primary, profile:NAME, tenant:NAME, rescue or data")
    kind: str
    is_primary: bool
    endpoint: str | None = Field(description="URL of the store; none for a directory and for Amazon S3")
    location: str | None = Field(description="URI of the bucket; none for a directory of the server")
    state: str = Field(description="closed; open while requests fail at once; half-open before a trial")
    requests: int
    failures: int
    refused: int = Field(description="requests not made because the store had not been answering")
    rescued: int = Field(description="objects and lists of objects that the rescue bucket gave instead")
    last_failure_at: datetime | None
    last_operation: str | None
    last_key: str | None
    last_code: str | None
    last_error: str | None


class BucketsResponse(Response):
    """The configured buckets, the primary one first."""

    buckets: list[BucketState]


class HealthRequest(Request):
    """Which buckets to ask."""

    bucket: str | None = Field(default=None, description="only this one; all of them when left out")


class BucketHealth(Response):
    """How a bucket answers now."""

    bucket: str
    healthy: bool
    latency_ms: float = Field(description="of a listing, the store's own retries included")
    state: str = Field(description="closed; open while requests fail at once; half-open before a trial")
    code: str | None
    reason: str | None = Field(description="why it is not healthy")
    recent_failures: int = Field(description="among the newest thousand failures that this server saw")


class HealthResponse(Response):
    """How the buckets answer now."""

    healthy: bool = Field(description="whether all of them that were asked are")
    buckets: list[BucketHealth]


class ErrorsRequest(Request):
    """Which failures to give."""

    bucket: str | None = Field(default=None, description="only of this bucket")
    operation: str | None = Field(default=None, description="only of this operation: get, put, list …")
    since: datetime | None = Field(default=None, description="only from that time on; UTC without a zone")
    limit: int = Field(default=100, ge=1, le=1000, description="most failures to give")


class BucketError(Response):
    """A request that failed, or what was read in the rescue bucket instead."""

    time: datetime
    kind: str = Field(description="error or rescue")
    bucket: str | None
    key: str | None
    operation: str | None
    code: str | None
    error: str | None
    duration_s: float | None
    request_id: str | None = Field(description="the call that it was made for")
    principal: str | None
    detail: str | None


class ErrorsResponse(Response):
    """The newest failures of this server, newest first, durable or not; all are in system.bucket_errors."""

    errors: list[BucketError]
    recorded: int = Field(description="since the server was started")
    dropped: int = Field(description="of them, because storage took none")


class FlushErrorsRequest(Request):
    """Nothing to say."""


class FlushErrorsResponse(Response):
    """What is durable now."""

    flushed: int = Field(description="events that this call wrote to the primary bucket")


class CompactErrorsRequest(Request):
    """Nothing to say."""


class CompactErrorsResponse(Response):
    """What was merged."""

    merged: int = Field(description="objects of the journal that went into others")


class RescueCopyRequest(Request):
    """What to copy into the rescue bucket."""

    bucket: str | None = Field(
        default=None, description="only objects of this bucket; of all others if left out"
    )
    prefix: str = Field(default="", description="only objects below this prefix")


class RescueCopyResponse(Response):
    """What was copied."""

    objects: int = Field(description="that there were to be looked at")
    copied: int = Field(
        description="of them, because the rescue bucket lacked them or had them in another size"
    )
    copied_bytes: int
    later: int = Field(description="versions of tables that came meanwhile, and are left for the next time")


def _buckets(ctx: CallContext, _: BucketsRequest) -> Iterator[Response]:
    rows = bucket_rows(ctx.lakehouse.buckets)
    yield BucketsResponse(buckets=[BucketState.model_validate(row) for row in rows])


def _health(ctx: CallContext, request: HealthRequest) -> Iterator[Response]:
    lakehouse = ctx.lakehouse
    recent = lakehouse.bucket_errors.recent(1000)
    failures = [event.get("bucket") for event in recent if event.get("kind") == "error"]
    found = [
        BucketHealth(
            bucket=each.bucket,
            healthy=not each.reason,
            latency_ms=round(each.seconds * 1000, 3),
            state=lakehouse.buckets.state(each.bucket).value,
            code=each.code or None,
            reason=each.reason or None,
            recent_failures=failures.count(each.bucket),
        )
        for each in lakehouse.buckets.health(None if request.bucket is None else [request.bucket])
    ]
    yield HealthResponse(healthy=all(each.healthy for each in found), buckets=found)


def _errors(ctx: CallContext, request: ErrorsRequest) -> Iterator[Response]:
    journal, since = ctx.lakehouse.bucket_errors, request.since
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    events = journal.recent(request.limit, bucket=request.bucket, operation=request.operation, since=since)
    told = journal.statistics()
    names = BucketError.model_fields
    yield ErrorsResponse(
        errors=[BucketError.model_validate({name: event.get(name) for name in names}) for event in events],
        recorded=told.appended,
        dropped=told.dropped,
    )


def _flush(ctx: CallContext, _: FlushErrorsRequest) -> Iterator[Response]:
    yield FlushErrorsResponse(flushed=ctx.lakehouse.bucket_errors.flush())


def _compact(ctx: CallContext, _: CompactErrorsRequest) -> Iterator[Response]:
    yield CompactErrorsResponse(merged=ctx.lakehouse.bucket_errors.compact())


def _rescue_copy(ctx: CallContext, request: RescueCopyRequest) -> Iterator[Progress | Response]:
    sources = ctx.lakehouse.buckets.to_be_rescued(request.bucket)
    rescue = ctx.lakehouse.buckets.rescue
    assert rescue is not None
    ended: list[Filled] = []
    for number, source in enumerate(sources):
        last = Filled(source.name)
        for last in fill(source, rescue, request.prefix):
            ctx.check_cancelled()
            share = (number + last.seen / max(last.total, 1)) / len(sources)
            said = f"{source.name}: {last.seen} of {last.total} objects, {last.copied} copied"
            yield Progress(progress=min(share, 1.0), message=said)
        ended.append(last)
    yield RescueCopyResponse(
        objects=sum(each.total for each in ended),
        copied=sum(each.copied for each in ended),
        copied_bytes=sum(each.copied_bytes for each in ended),
        later=sum(each.later for each in ended),
    )


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "storage.buckets",
        "The configured buckets, with their requests, failures and last error",
        BucketsRequest,
        BucketsResponse,
        _buckets,
        Permission.ADMIN,
    ),
    ActionSpec(
        "storage.health",
        "Ask every bucket for something small: which answer, and how fast",
        HealthRequest,
        HealthResponse,
        _health,
        Permission.ADMIN,
    ),
    ActionSpec(
        "storage.errors",
        "The newest requests to buckets that failed, without reading storage",
        ErrorsRequest,
        ErrorsResponse,
        _errors,
        Permission.ADMIN,
    ),
    ActionSpec(
        "storage.errors.flush",
        "Make the error journal durable",
        FlushErrorsRequest,
        FlushErrorsResponse,
        _flush,
        Permission.ADMIN,
    ),
    ActionSpec(
        "storage.errors.compact",
        "Merge small objects of the error journal",
        CompactErrorsRequest,
        CompactErrorsResponse,
        _compact,
        Permission.ADMIN,
    ),
    ActionSpec(
        "storage.rescue.copy",
        "Copy into the rescue bucket what it lacks of other buckets; nothing is deleted",
        RescueCopyRequest,
        RescueCopyResponse,
        _rescue_copy,
        Permission.ADMIN,
        streams=True,
    ),
)
