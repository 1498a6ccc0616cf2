"""Bytes that can be read as often as needed: a file of this machine, or an object of a bucket."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from lakehouse.errors import SchemaMismatch, StorageError
from lakehouse.storage import Bucket

_FETCHED = 8 * 1024 * 1024


class ByteSource(Protocol):
    """Something that can be opened as a stream of bytes, again and again, and is the same every time."""

    @property
    def name(self) -> str:
        """What people call it: a file name or a key. Its extension is a hint at its format."""
        ...

    @property
    def size(self) -> int | None:
        """How many bytes it has; None where nobody knows."""
        ...

    @property
    def identity(self) -> str:
        """What is the same when the content is, such as a hash; empty if unknown."""
        ...

    def open(self) -> BinaryIO:
        """A new stream from the beginning. It can seek if ``size`` is known.

        Raises:
            StorageError: It cannot be read.
        """
        ...


def joint_identity(files: Sequence[ByteSource]) -> str:
    """What is the same when all files are; empty if that of one of them is not known."""
    known = [file.identity for file in files]
    return " ".join(known) if all(known) else ""


def joint_size(files: Sequence[ByteSource]) -> int | None:
    """How many bytes all files have; None if nobody knows of one of them."""
    known = [size for file in files if (size := file.size) is not None]
    return sum(known) if len(known) == len(files) else None


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine, such as one that an upload was spooled to.

    Attributes:
        path: Where it is. No message names it.
        name: What people call it; the file's own name if empty.
        identity: A hash of the content, if somebody knows it.
    """

    path: Path
    name: str = ""
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.name)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        """See ``ByteSource``."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise StorageError(f"'{self.name}' cannot be read: {error.strerror}") from error

    def content_hash(self) -> str:
        """SHA-256 of what it holds."""
        with self.open() as stream:
            return hashlib.file_digest(cast("io.BufferedReader", stream), "sha256").hexdigest()


@dataclass(frozen=True)
class BucketObject:
    """An object of a bucket, read by ranges.

    Attributes:
        bucket: Where it is.
        key: Which one it is.
        size: How many bytes it has.
        e_tag: The version that it has to be; empty if any will do.
        fetch_bytes: How much is asked for at a time.
    """

    bucket: Bucket = field(repr=False)
    key: str
    size: int
    e_tag: str = ""
    fetch_bytes: int = _FETCHED

    @classmethod
    def of(cls, bucket: Bucket, key: str) -> BucketObject:
        """The object of a key, as it is now.

        Raises:
            ObjectNotFound: There is none.
        """
        found = asyncio.run(bucket.get_range(key, 0, 1)) if bucket.size(key) else None
        return cls(bucket, key, found.size if found else 0, found.e_tag if found else "")

    @property
    def name(self) -> str:
        """The key."""
        return self.key

    @property
    def identity(self) -> str:
        """The store's mark of this version."""
        return f"{self.bucket.name}/{self.key}@{self.e_tag}" if self.e_tag else ""

    def open(self) -> BinaryIO:
        """See ``ByteSource``."""
        return cast("BinaryIO", io.BufferedReader(_Ranges(self), 64 * 1024))


class _Ranges(io.RawIOBase):
    """An object as a file: what is read is fetched ahead, a range at a time."""

    def __init__(self, origin: BucketObject) -> None:
        self._origin = origin
        self._place = 0
        self._start = 0
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._origin.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._place >= self._origin.size:
            return 0
        if not self._start <= self._place < self._start + len(self._held):
            self._fetch(len(target))
        begin = self._place - self._start
        found = self._held[begin : begin + len(target)]
        target[: len(found)] = found
        self._place += len(found)
        return len(found)

    def _fetch(self, wanted: int) -> None:
        origin = self._origin
        # After a jump only what is asked for: footers and indexes are small.
        ahead = origin.fetch_bytes if self._place == self._start + len(self._held) else wanted
        end = min(origin.size, self._place + max(ahead, wanted))
        for _ in range(3):
            found = asyncio.run(origin.bucket.get_range(origin.key, self._place, end, origin.e_tag))
            if found.size != origin.size:
                raise SchemaMismatch(f"'{origin.key}' has changed while it was read")
            if len(found.content):
                self._start, self._held = self._place, found.content
                return
        raise StorageError(f"'{origin.key}' could not be read: its content broke off")
