"""Objects of the server's buckets, streamed from and to files in pieces."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.flight as flight

from lakehouse_client.channel import Channel
from lakehouse_client.errors import LakehouseClientError, client_errors

Source: TypeAlias = bytes | str | PathLike[str] | BinaryIO
Target: TypeAlias = str | PathLike[str] | BinaryIO
_PIECE_BYTES = 2_000_000
_SCHEMA = pa.schema([pa.field("content", pa.binary(), nullable=False)])


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that was put or read.

    Attributes:
        bucket: Its bucket.
        key: Its key.
        size: Of all of it, in bytes.
        e_tag: Changes whenever the object does; None where the store tells none.
        sha256: Of all of its content, in hexadecimal digits; None where nobody knows.
    """

    bucket: str
    key: str
    size: int
    e_tag: str | None
    sha256: str | None


def put(channel: Channel, bucket: str, key: str, source: Source, announced: dict[str, Any]) -> StoredObject:
    """Put an object, whole or not at all.

    Args:
        channel: The connection.
        bucket: Its bucket.
        key: Its key.
        source: Bytes, the path of a file, or a file that is open for reading bytes.
        announced: What the server is told before the first bytes.

    Raises:
        LakehouseClientError: The server refused.
        OSError: The file cannot be read; nothing was stored.
    """
    if isinstance(source, str | PathLike):
        with Path(source).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _sent(channel, bucket, key, _pieces(file), {**announced, "size": size})
    if isinstance(source, bytes):
        pieces = (source[at : at + _PIECE_BYTES] for at in range(0, len(source), _PIECE_BYTES))
        return _sent(channel, bucket, key, pieces, {**announced, "size": len(source)})
    # A stream that breaks off looks to the server like one that has ended, unless its size is to follow.
    return _sent(channel, bucket, key, _pieces(source), {**announced, "size_follows": True})


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


def _sent(
    channel: Channel, bucket: str, key: str, pieces: Iterator[bytes], announced: dict[str, Any]
) -> StoredObject:
    size = 0
    with client_errors():
        descriptor = flight.FlightDescriptor.for_path(bucket, key)
        writer, reader = channel.flight.do_put(descriptor, _SCHEMA, channel.call)
    try:
        with client_errors():
            writer.write_metadata(json.dumps(announced).encode())
        for piece in pieces:
            size += len(piece)
            with client_errors():
                writer.write_batch(_batch(piece))
        with client_errors():
            if "size_follows" in announced:
                writer.write_metadata(json.dumps({"size": size}).encode())
            writer.done_writing()
            reply = reader.read()
            writer.close()
    except BaseException:
        with suppress(pa.ArrowException, OSError):
            writer.close()
        raise
    told = json.loads(reply.to_pybytes())
    return StoredObject(bucket, key, told["size"], told["e_tag"], told["sha256"])


def _batch(piece: bytes) -> pa.RecordBatch:
    """One row, without a copy of it."""
    buffers = [None, pa.py_buffer(struct.pack("=ii", 0, len(piece))), pa.py_buffer(piece)]
    column = pa.Array.from_buffers(pa.binary(), 1, buffers)
    return pa.RecordBatch.from_arrays([column], schema=_SCHEMA)


def get(channel: Channel, bucket: str, key: str, target: Target, *, verify: bool) -> StoredObject:
    """Read an object into a file, which appears, at a path, only when it is whole.

    Args:
        channel: The connection.
        bucket: Its bucket.
        key: Its key.
        target: The path of a file, which is replaced, or a file that is open for writing bytes.
        verify: Whether to have the content hashed at both ends.

    Raises:
        LakehouseClientError: The server refused, or what came is not what is there.
        OSError: The file cannot be written.
    """
    if not isinstance(target, str | PathLike):
        return _received(channel, {"path": [bucket, key], "sha256": verify}, target.write, verify)
    path = Path(target)
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            found = _received(channel, {"path": [bucket, key], "sha256": verify}, file.write, verify)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return found


def read(channel: Channel, bucket: str, key: str, offset: int, length: int | None) -> bytes:
    """The content of an object, or a part of it, in memory.

    Raises:
        LakehouseClientError: The server refused.
    """
    found: list[bytes] = []
    wish: dict[str, Any] = {"path": [bucket, key], "offset": offset}
    if length is not None:
        wish["length"] = length
    _received(channel, wish, lambda piece: found.append(bytes(piece)), verify=False)
    return b"".join(found)


def _received(channel: Channel, wish: dict[str, Any], take: Any, verify: bool) -> StoredObject:
    told: dict[str, Any] = {}
    size, sha256 = 0, hashlib.sha256()
    with client_errors():
        reader = channel.flight.do_get(flight.Ticket(json.dumps(wish).encode()), channel.call)
    try:
        while True:
            with client_errors():
                chunk = next(reader, None)
            if chunk is None:
                break
            if chunk.app_metadata is not None:
                told = json.loads(chunk.app_metadata.to_pybytes())
            for value in chunk.data.column(0):
                piece = memoryview(value.as_buffer())
                size += piece.nbytes
                if verify:
                    sha256.update(piece)
                take(piece)
    except BaseException:
        reader.cancel()
        raise
    bucket, key = wish["path"]
    is_whole = "offset" not in wish
    if not told or (is_whole and told["size"] != size) or (verify and told["sha256"] != sha256.hexdigest()):
        raise LakehouseClientError("CONTENT_MISMATCH", f"object '{key}' of bucket '{bucket}' came spoiled")
    return StoredObject(bucket, key, told["size"], told["e_tag"], told["sha256"])
