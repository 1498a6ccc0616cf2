"""Objects as flights: bytes streamed from and into buckets under the path ``[bucket, key …]``.

A ticket is JSON: ``{"path": ["media", "cat.jpg"], "offset": 0, "length": 1000}``; everything but ``path`` may
be left out. What is put is announced by JSON in the metadata of any of its messages: ``{"if_absent": true}``.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flight_server.context import CallContext
from flight_server.dispatch import DataStream, Endpoint, FlightPlan, Upload
from flight_server.execution import RecordedFailure, Recording, watch
from flight_server.misfit import misfit
from lakehouse.access.guarded_objects import GuardedObjects, Place
from lakehouse.engine.running import StatementRecord
from lakehouse.errors import (
    ContentMismatch,
    InvalidRequest,
    LakehouseError,
    ObjectChanged,
    StatementCancelled,
)
from lakehouse.storage import ObjectDetails, rescue
from lakehouse.storage.object_hash import RunningHash
from lakehouse.storage.object_upload import HASH_ATTRIBUTE, ObjectUpload, PutOptions, PutResult

CONTENT_SCHEMA = pa.schema([pa.field("content", pa.binary(), nullable=False)])
M = TypeVar("M", bound=BaseModel)
_KIND = "object"
_MOST_PIECE_BYTES = 8 * 1024 * 1024
_OFFSETS = {pa.binary(): "i", pa.string(): "i", pa.large_binary(): "q", pa.large_string(): "q"}


class ObjectTicket(BaseModel):
    """What the ticket of an object may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: list[str] = Field(min_length=2)
    offset: int = Field(default=0, ge=0)
    length: int | None = Field(default=None, ge=0)
    e_tag: str | None = None
    sha256: bool = False

    @property
    def key(self) -> str:
        """The object's key."""
        return "/".join(self.path[1:])


class Announcement(BaseModel):
    """What a client may say of what it puts, in the metadata of any message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    if_absent: bool = False
    sha256: str = Field(default="", pattern=r"^([0-9A-Fa-f]{64})?$")
    size: int | None = Field(default=None, ge=0)
    size_follows: bool = False
    content_type: str = Field(default="", max_length=200, pattern=r"^[\x20-\x7e]*$")


def guarded(ctx: CallContext) -> GuardedObjects:
    """The objects as the caller may read and write them."""
    return GuardedObjects(ctx.lakehouse.objects, ctx.session.access)


def is_object_path(ctx: CallContext, path: tuple[str, ...]) -> bool:
    """Whether a path is that of an object: it begins with the name of a bucket that the caller may see."""
    return len(path) >= 2 and guarded(ctx).sees_bucket(path[0])


def is_upload_path(ctx: CallContext, path: tuple[str, ...]) -> bool:
    """Whether what is put under a path is an object, were it one that the caller may not put.

    What is meant for a bucket must not become the rows of a table that the caller may write.
    """
    return len(path) >= 2 and path[0] in ctx.lakehouse.buckets


def decode_ticket(ctx: CallContext, ticket: bytes) -> ObjectTicket | None:
    """The validated ticket; None where its path is not that of an object.

    Raises:
        InvalidRequest: It does not fit; names the field.
    """
    try:
        said = json.loads(ticket)
        path = said["path"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    if not isinstance(path, list) or not all(isinstance(part, str) for part in path):
        return None
    if not is_object_path(ctx, tuple(path)):
        return None
    return _validated(ObjectTicket, said, "object ticket")


def _validated(model: type[M], said: object, what: str) -> M:
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise misfit(error, model, what, what) from error


def info(ctx: CallContext, path: tuple[str, ...]) -> FlightPlan:
    """How to fetch an object.

    Raises:
        ObjectNotFound: There is none for the caller.
    """
    ticket = ObjectTicket(path=list(path))
    with RecordedFailure(ctx, f"OBJECT {path[0]}/{ticket.key}", _KIND):
        found = guarded(ctx).head(path[0], ticket.key)
    return FlightPlan(
        CONTENT_SCHEMA,
        (Endpoint(ticket.model_dump_json(include={"path"}).encode()),),
        total_bytes=found.size_bytes,
        ordered=True,
        app_metadata=json.dumps(described(found)).encode(),
    )


def described(found: ObjectDetails) -> dict[str, Any]:
    """What is known of an object, as metadata tell it."""
    return {
        "size": found.size_bytes,
        "e_tag": found.e_tag or None,
        "sha256": found.attributes.get(HASH_ATTRIBUTE),
        "modified_at": found.modified_at.isoformat(),
    }


def schema(ctx: CallContext, path: tuple[str, ...]) -> pa.Schema:
    """The schema of an object as it is streamed."""
    return info(ctx, path).schema


def stream(ctx: CallContext, ticket: ObjectTicket) -> DataStream:
    """The bytes that a ticket asks for, and at their end what is known of the object."""
    with Recording(ctx, f"OBJECT GET {ticket.path[0]}/{ticket.key}", _KIND) as recording:
        objects = guarded(ctx)
        place = objects.to_read(ticket.path[0], ticket.key)
        found = objects.details(place)
        if ticket.e_tag is not None and ticket.e_tag != found.e_tag:
            raise ObjectChanged(
                f"object '{ticket.key}' of bucket '{ticket.path[0]}' is another version by now"
            )
        batches = _ContentStream(ctx, place, found, ticket, recording.record)
        recording.goes_on = True
    return DataStream(CONTENT_SCHEMA, batches, batches.trailer)


class _ContentStream:
    """The bytes of an object as batches of one row each. Between two of them any thread may close it."""

    def __init__(
        self,
        ctx: CallContext,
        place: Place,
        found: ObjectDetails,
        ticket: ObjectTicket,
        record: StatementRecord,
    ) -> None:
        self._running = ctx.lakehouse.engine.running
        self._objects = ctx.lakehouse.objects
        self._record = record
        self._found = found
        self._closing = threading.Lock()
        self._is_closed = True
        self._part = memoryview(b"")
        self._at = 0
        self._piece_bytes = ctx.lakehouse.settings.engine.batch_bytes
        start = min(ticket.offset, found.size_bytes)
        end = found.size_bytes if ticket.length is None else min(start + ticket.length, found.size_bytes)
        is_whole = end - start == found.size_bytes
        is_known = HASH_ATTRIBUTE in found.attributes
        self._hash = RunningHash() if ticket.sha256 and is_whole and not is_known else None
        self._objects.enter()
        try:
            self._statement = self._running.start(watch(ctx, record), ctx.session.id)
        except BaseException:
            self._objects.leave()
            raise
        self._parts = guarded(ctx).download(place, found, start, end)
        self._is_closed = False
        self._statement.stream = self
        try:
            # The first part, so that an error arrives before the stream has begun.
            self._advance()
        except BaseException as error:
            self._end(error)
            raise

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            self._running.resume(self._statement)
            if self._at >= self._part.nbytes and not self._advance():
                self._end(None)
                raise StopIteration
        except LakehouseError as error:
            self._end(error)
            raise
        piece = self._part[self._at : self._at + self._piece_bytes]
        self._at += piece.nbytes
        self._record.bytes += piece.nbytes
        self._record.rows += 1
        self._running.pause(self._statement)
        return _batch(piece)

    def trailer(self) -> bytes:
        """What is known of the object now that all of it was read."""
        found = described(self._found)
        if self._hash is not None:
            found["sha256"] = self._hash.hexdigest()
        if rescue.used():
            found["rescue_used"] = list(rescue.used())
        return json.dumps(found).encode()

    def close(self) -> None:
        """Fetch no more. Harmless when repeated."""
        self._end(StatementCancelled("the client went away before the end of the object"))

    def _advance(self) -> bool:
        """Take the next part; gives whether there was one."""
        part = next(self._parts, None)
        if part is None:
            return False
        if self._hash is not None:
            self._hash.update(part)
        self._part, self._at = part, 0
        return True

    def _end(self, error: BaseException | None) -> None:
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        self._parts.close()
        self._running.finish(self._statement)
        self._objects.leave()
        self._running.end(self._record, self._record.stop if error and self._record.stop else error)

    def __del__(self) -> None:
        self.close()


def _batch(piece: memoryview) -> pa.RecordBatch:
    """One row, without a copy of it."""
    buffers = [None, pa.py_buffer(struct.pack("=ii", 0, piece.nbytes)), pa.py_buffer(piece)]
    return pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.binary(), 1, buffers)], schema=CONTENT_SCHEMA)


def put(ctx: CallContext, path: tuple[str, ...], upload: Upload) -> None:
    """Put an object, and reply with its size and hash.

    Raises:
        InvalidRequest: What is sent is not one column of bytes, or is announced wrongly.
        ContentMismatch: It is not what was announced.
        PermissionDenied: The caller may not write the object.
    """
    if len(path) < 2:
        raise InvalidRequest(
            "DoPut takes the path of an object: bucket, key", "tables are loaded with CommandStatementIngest"
        )
    bucket, key = path[0], "/".join(path[1:])
    with Recording(ctx, f"OBJECT PUT {bucket}/{key}", _KIND) as recording:
        objects = guarded(ctx)
        place = objects.to_write(bucket, key)
        _check_schema(upload.schema)
        running = ctx.lakehouse.engine.running
        with (
            ctx.lakehouse.objects.transfer(),
            running.working(recording.watch(), ctx.session.id) as statement,
        ):
            batches = running.arriving(statement, upload.batches)
            result = _Putting(ctx, objects, place, upload.notes).take(batches, recording.record)
        objects.recorded("put", place, result)
    told = {"bucket": bucket, "key": key, "size": result.size_bytes}
    upload.reply(json.dumps({**told, "sha256": result.sha256, "e_tag": result.e_tag or None}).encode())


class _Putting:
    """One object on its way in: what was said of it, and what of it has come."""

    def __init__(self, ctx: CallContext, objects: GuardedObjects, place: Place, notes: list[bytes]) -> None:
        self._ctx = ctx
        self._objects = objects
        self._place = place
        self._notes = notes
        self._upload: ObjectUpload | None = None
        self._size_follows = False

    def take(self, batches: Iterator[pa.RecordBatch], record: StatementRecord) -> PutResult:
        """All of it; it appears only when it is whole, and as it was announced."""
        try:
            for batch in batches:
                upload = self._hear()
                record.rows += batch.num_rows
                for piece in _bytes_of(batch):
                    upload.write(piece)
                    record.bytes += piece.nbytes
            upload = self._hear()
            if self._size_follows:
                raise ContentMismatch(
                    f"object '{self._place.key}' broke off: its size was to follow", "send it again"
                )
            # A client that went away ends its stream just as one that has finished.
            self._ctx.check_cancelled()
            return upload.finish()
        finally:
            if self._upload is not None:
                self._upload.abort()

    def _hear(self) -> ObjectUpload:
        """The upload, once it is known what the client has said so far."""
        notes, self._notes[:] = list(self._notes), []
        for note in notes:
            try:
                said = json.loads(note)
            except (ValueError, RecursionError) as error:
                raise InvalidRequest("the metadata of an object that is put is not JSON") from error
            self._announced(_validated(Announcement, said, "metadata of an object"))
        if self._upload is None:
            self._announced(Announcement())
        assert self._upload is not None
        return self._upload

    def _announced(self, said: Announcement) -> None:
        if self._upload is None:
            options = PutOptions(said.if_absent, said.sha256.lower(), said.size, said.content_type)
            self._upload = self._objects.upload(self._place, options)
            self._size_follows = said.size_follows and said.size is None
            return
        if said.model_fields_set - {"size"}:
            raise InvalidRequest(
                "only the size of an object can be told after its first bytes", "send the rest with them"
            )
        if said.size is not None:
            self._upload.announce(said.size)
            self._size_follows = False


def _check_schema(found: pa.Schema) -> None:
    if len(found) != 1 or found.field(0).type not in _OFFSETS:
        shown = ", ".join(f"{field.name}: {field.type}" for field in list(found)[:5]) or "no column"
        raise InvalidRequest(f"an object is put as one column of binary, found {shown}")


def _bytes_of(batch: pa.RecordBatch) -> Iterator[memoryview]:
    """The values of the one column, one after the other, in pieces of bounded size."""
    column = batch.column(0)
    if column.null_count:
        raise InvalidRequest("an object is put as bytes, found a null between them")
    _, offsets, data = column.buffers()
    if not len(column) or data is None:
        return
    width = _OFFSETS[column.type]
    size = struct.calcsize(f"={width}")
    (start,) = struct.unpack_from(f"={width}", offsets, column.offset * size)
    (end,) = struct.unpack_from(f"={width}", offsets, (column.offset + len(column)) * size)
    content = memoryview(data).cast("B")
    for at in range(start, end, _MOST_PIECE_BYTES):
        yield content[at : min(at + _MOST_PIECE_BYTES, end)]
