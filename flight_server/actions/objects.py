"""Actions on the objects of the buckets: look at them, list, copy and delete them; small ones whole."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    ReadingResponse,
    Request,
    Response,
)
from flight_server.context import CallContext
from flight_server.execution import arrive
from lakehouse.access.guarded_objects import GuardedObjects, Place
from lakehouse.errors import InvalidRequest, LakehouseError, LimitExceeded, StatementCancelled
from lakehouse.storage import ObjectDetails, StoredObject
from lakehouse.storage.object_upload import CONTENT_TYPE, HASH_ATTRIBUTE, PutOptions, PutResult

_SHA256 = r"^[0-9A-Fa-f]{64}$"
_MOST_LISTED = 1000


class ObjectRequest(Request):
    """An object by bucket and key."""

    bucket: str = Field(description="name of the bucket", min_length=1)
    key: str = Field(description="key of the object", min_length=1)


class HeadRequest(ObjectRequest):
    """The object to look at."""


class ObjectResponse(ReadingResponse):
    """What is known of an object."""

    bucket: str
    key: str
    size: int = Field(description="in bytes")
    modified_at: datetime = Field(description="by the clock of the store")
    e_tag: str | None = Field(description="changes whenever the object does")
    content_type: str | None = Field(description="none where the bucket keeps none")
    sha256: str | None = Field(description="where it is known; see docs/objects.md")


class ListRequest(Request):
    """What to list."""

    bucket: str = Field(description="name of the bucket", min_length=1)
    prefix: str = Field(default="", description="what keys begin with; may end within a segment")
    recursive: bool = Field(
        default=False, description="list keys at any depth; else what follows the next slash is one prefix"
    )
    limit: int = Field(default=_MOST_LISTED, ge=1, le=_MOST_LISTED, description="most entries to give")
    token: str | None = Field(default=None, max_length=4096, description="next_token of the page before")


class ListedObject(Response):
    """An object that was listed."""

    key: str
    size: int
    modified_at: datetime
    e_tag: str | None


class ListResponse(Response):
    """A page of keys that the caller may read; it may be short, or empty, before the last one."""

    objects: list[ListedObject]
    prefixes: list[str] = Field(description="beginnings of further keys, each with a slash at its end")
    next_token: str | None = Field(description="ask with it for the next page; none on the last one")


class GetRequest(ObjectRequest):
    """The object, or the part of it, to read."""

    offset: int = Field(default=0, ge=0, description="the first byte")
    length: int | None = Field(
        default=None, ge=0, description="how many bytes; all that follow when left out"
    )


class GetResponse(ReadingResponse):
    """The content, if it is small enough for an answer; else only where it is to be had."""

    size: int = Field(description="of the whole object")
    e_tag: str | None
    content: str | None = Field(description="the bytes in base64; none where they are too many")
    sha256: str | None = Field(description="of the bytes in content")
    path: list[str] = Field(description="of the flight that streams the object")
    ticket: str = Field(description="for DoGet, in base64: the same bytes as a stream")


class PutRequest(ObjectRequest):
    """An object of a small content. A larger one is put as a flight with the path bucket, key."""

    content: str = Field(description="the bytes in base64")
    if_absent: bool = Field(default=False, description="fail if there is an object of that key")
    sha256: str | None = Field(default=None, pattern=_SHA256, description="fail unless this is their hash")
    content_type: str = Field(
        default="", max_length=200, pattern=r"^[\x20-\x7e]*$", description="media type; S3 only"
    )


class PutResponse(Response):
    """What was put."""

    bucket: str
    key: str
    size: int
    sha256: str
    e_tag: str | None


class CopyRequest(ObjectRequest):
    """An object, and where a copy of it is to be."""

    to_bucket: str | None = Field(default=None, description="the same bucket when left out")
    to_key: str = Field(description="key of the copy", min_length=1)
    if_absent: bool = Field(default=False, description="fail if there is an object of that key")


class CopyResponse(Response):
    """The copy."""

    bucket: str
    key: str
    size: int
    sha256: str | None = Field(description="none where the store copied it by itself")
    e_tag: str | None


class DeleteRequest(ObjectRequest):
    """The object to delete."""


class DeleteResponse(Response):
    """What was deleted."""

    bucket: str
    key: str
    size: int
    e_tag: str | None


class PresignRequest(ObjectRequest):
    """For what a URL is wanted."""

    method: Literal["GET", "PUT"] = Field(default="GET", description="to read the object, or to write it")
    seconds: int = Field(default=900, ge=1, description="how long it is good; see objects.presign_seconds")


class PresignResponse(Response):
    """A URL that needs no credentials: whoever has it can use it."""

    url: str
    method: str
    seconds: int


_Run = Callable[[CallContext, Any], Iterator[Progress | Response]]


def _guarded(ctx: CallContext) -> GuardedObjects:
    return GuardedObjects(ctx.lakehouse.objects, ctx.session.access)


def _on_record(verb: str, run: _Run) -> _Run:
    """The action, with the object that it is about in the audit journal, which keeps no bodies of actions."""

    def recorded(ctx: CallContext, request: ObjectRequest) -> Iterator[Progress | Response]:
        about = f"OBJECT {verb} {request.bucket}/{request.key}"
        if isinstance(request, CopyRequest):
            about += f" TO {request.to_bucket or request.bucket}/{request.to_key}"
        results = run(ctx, request)
        record = arrive(ctx, about, "object")
        ended: BaseException | None = StatementCancelled("the client went away before the end of the action")
        try:
            for result in results:
                if isinstance(result, Response):
                    ended = None
                yield result
        except LakehouseError as error:
            ended = error
            raise
        finally:
            ctx.lakehouse.engine.running.end(record, ended)

    return recorded


def _head(ctx: CallContext, request: HeadRequest) -> Iterator[Response]:
    found = _guarded(ctx).head(request.bucket, request.key)
    yield ObjectResponse(
        bucket=request.bucket,
        key=request.key,
        size=found.size_bytes,
        modified_at=found.modified_at,
        e_tag=found.e_tag or None,
        content_type=found.attributes.get(CONTENT_TYPE),
        sha256=found.attributes.get(HASH_ATTRIBUTE),
    )


def _list(ctx: CallContext, request: ListRequest) -> Iterator[Response]:
    page = _guarded(ctx).list(
        request.bucket,
        request.prefix,
        recursive=request.recursive,
        limit=request.limit,
        after=_position(request.token),
    )
    yield ListResponse(
        objects=[_listed(found) for found in page.objects],
        prefixes=list(page.prefixes),
        next_token=base64.urlsafe_b64encode(page.next_after.encode()).decode() if page.next_after else None,
    )


def _position(token: str | None) -> str:
    try:
        return base64.b64decode(token or "", altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidRequest("the token of the listing is none that a listing gave") from error


def _listed(found: StoredObject) -> ListedObject:
    return ListedObject(
        key=found.key, size=found.size_bytes, modified_at=found.modified_at, e_tag=found.e_tag or None
    )


def _get(ctx: CallContext, request: GetRequest) -> Iterator[Response]:
    objects = _guarded(ctx)
    place = objects.to_read(request.bucket, request.key)
    found = objects.details(place)
    start = min(request.offset, found.size_bytes)
    end = found.size_bytes if request.length is None else min(start + request.length, found.size_bytes)
    content = None
    if end - start <= ctx.lakehouse.objects.bounds.inline_bytes:
        with ctx.lakehouse.objects.transfer():
            content = b"".join(objects.download(place, found, start, end))
    ticket = {"path": [request.bucket, request.key], "offset": start, "length": end - start}
    yield GetResponse(
        size=found.size_bytes,
        e_tag=found.e_tag or None,
        content=None if content is None else base64.b64encode(content).decode(),
        sha256=None if content is None else hashlib.sha256(content).hexdigest(),
        path=[request.bucket, request.key],
        ticket=base64.b64encode(json.dumps(ticket).encode()).decode(),
    )


def _put(ctx: CallContext, request: PutRequest) -> Iterator[Response]:
    objects, most = _guarded(ctx), ctx.lakehouse.objects.bounds.inline_bytes
    place = objects.to_write(request.bucket, request.key)
    try:
        content = base64.b64decode(request.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("objects.put: content: expected base64") from error
    if len(content) > most:
        raise LimitExceeded(
            f"objects.put takes up to {most} bytes (objects.inline_bytes), found {len(content)}",
            f"put it as a flight (DoPut) with the path {request.bucket}, {request.key}",
        )
    options = PutOptions(request.if_absent, (request.sha256 or "").lower(), content_type=request.content_type)
    with ctx.lakehouse.objects.transfer():
        upload = objects.upload(place, options)
        try:
            upload.write(memoryview(content))
            result = upload.finish()
        finally:
            upload.abort()
    objects.recorded("put", place, result)
    yield PutResponse(
        bucket=request.bucket,
        key=request.key,
        size=result.size_bytes,
        sha256=result.sha256,
        e_tag=result.e_tag or None,
    )


def _copy(ctx: CallContext, request: CopyRequest) -> Iterator[Progress | Response]:
    objects = _guarded(ctx)
    source = objects.to_read(request.bucket, request.key)
    target = objects.to_write(request.to_bucket or request.bucket, request.to_key)
    if source.uri == target.uri:
        raise InvalidRequest(f"'{source}' cannot be copied onto itself", "name another key")
    found = source.bucket.details(source.key)
    with ctx.lakehouse.objects.transfer():
        if objects.copy_in_store(source, target, found, if_absent=request.if_absent):
            there = target.bucket.details(target.key)
            result = PutResult(there.size_bytes, "", there.e_tag)
        else:
            result = yield from _streamed(ctx, objects, source, target, found, request.if_absent)
    objects.recorded("copy", target, result, source)
    yield CopyResponse(
        bucket=target.bucket.name,
        key=target.key,
        size=result.size_bytes,
        sha256=result.sha256 or None,
        e_tag=result.e_tag or None,
    )


def _streamed(
    ctx: CallContext,
    objects: GuardedObjects,
    source: Place,
    target: Place,
    found: ObjectDetails,
    if_absent: bool,
) -> Generator[Progress, None, PutResult]:
    """Copy an object by reading and writing it, in bounded memory."""
    kind = found.attributes.get(CONTENT_TYPE, "") if target.bucket.keeps_attributes else ""
    upload = objects.upload(target, PutOptions(if_absent, size_bytes=found.size_bytes, content_type=kind))
    parts = objects.download(source, found, 0, found.size_bytes)
    try:
        for part in parts:
            upload.write(part)
            ctx.check_cancelled()
            yield Progress(progress=round(upload.size_bytes / found.size_bytes, 4), message=str(target))
        return upload.finish()
    finally:
        parts.close()
        upload.abort()


def _delete(ctx: CallContext, request: DeleteRequest) -> Iterator[Response]:
    found = _guarded(ctx).delete(request.bucket, request.key)
    yield DeleteResponse(
        bucket=request.bucket, key=request.key, size=found.size_bytes, e_tag=found.e_tag or None
    )


def _presign(ctx: CallContext, request: PresignRequest) -> Iterator[Response]:
    url = _guarded(ctx).presign(request.method, request.bucket, request.key, request.seconds)
    yield PresignResponse(url=url, method=request.method, seconds=request.seconds)


# Whether a caller may do it with an object is up to the grants on objects; see docs/objects.md.
ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "objects.head",
        "What is known of an object: size, time, ETag, type, hash",
        HeadRequest,
        ObjectResponse,
        _head,
        Permission.READ,
    ),
    ActionSpec(
        "objects.list",
        "The keys of a bucket that begin with a prefix, page by page",
        ListRequest,
        ListResponse,
        _list,
        Permission.READ,
    ),
    ActionSpec(
        "objects.get",
        "The content of a small object, or the ticket of a large one",
        GetRequest,
        GetResponse,
        _on_record("GET", _get),
        Permission.READ,
    ),
    ActionSpec(
        "objects.put",
        "Put an object of a small content; it appears whole or not at all",
        PutRequest,
        PutResponse,
        _on_record("PUT", _put),
        Permission.READ,
    ),
    ActionSpec(
        "objects.copy",
        "Copy an object within a bucket, or into another one",
        CopyRequest,
        CopyResponse,
        _on_record("COPY", _copy),
        Permission.READ,
        streams=True,
    ),
    ActionSpec(
        "objects.delete",
        "Delete an object",
        DeleteRequest,
        DeleteResponse,
        _on_record("DELETE", _delete),
        Permission.READ,
    ),
    ActionSpec(
        "objects.presign",
        "A URL at which an object can be read or written for a time (S3 only)",
        PresignRequest,
        PresignResponse,
        _on_record("PRESIGN", _presign),
        Permission.READ,
    ),
)
