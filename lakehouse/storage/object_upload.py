"""An object that is put piece by piece: it appears whole and as it was announced, or not at all."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse.errors import ContentMismatch, LimitExceeded, NotSupported, ObjectAlreadyExists, StorageError
from lakehouse.storage.bucket import UPLOAD_PART_BYTES, Bucket, ObjectWriter
from lakehouse.storage.object_hash import RunningHash

UNFINISHED_PREFIX = "_uploads"
"""Where objects are put that are not to be seen yet, in every bucket."""
MOST_COPIED_BYTES = 5 * 1024**3
"""What stores copy in one request."""
HASH_ATTRIBUTE = "sha256"
CONTENT_TYPE = "Content-Type"
_CLAIM_TRIES, _CLAIM_PAUSE_SECONDS = 150, 0.2


@dataclass(frozen=True, slots=True)
class PutOptions:
    """How an object is to be put.

    Attributes:
        if_absent: Whether there must not be one of that key.
        sha256: What its content has to hash to, in lower-case hexadecimal digits; empty if that is open.
        size_bytes: How large it has to be; None if that is not known.
        content_type: Its media type; empty if that is not known.
    """

    if_absent: bool = False
    sha256: str = ""
    size_bytes: int | None = None
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class PutResult:
    """An object that was put.

    Attributes:
        size_bytes: Its size.
        sha256: Of its content; empty where nobody but the store saw it.
        e_tag: Of what was put or, unless ``is_exact``, of what was there right afterwards.
        is_exact: Whether nobody else can have put what the ETag is of.
    """

    size_bytes: int
    sha256: str
    e_tag: str
    is_exact: bool = True


class ObjectUpload:
    """The content of an object on its way into a bucket, in memory of some parts of 10 MiB.

    A small content is put in one request. A directory gets everything under another name first, which is
    changed in one step; a store gets a large content in parts, which make an object when all are there, and
    where there must not be one yet, under another key, from which the store copies it.

    Args:
        bucket: The bucket.
        key: The object's key.
        options: What is announced of it.
        most_bytes: The largest object to take.
    """

    def __init__(self, bucket: Bucket, key: str, options: PutOptions, most_bytes: int) -> None:
        if options.content_type and not bucket.keeps_attributes:
            raise NotSupported(
                f"bucket '{bucket.name}' keeps no content types: it is not an S3 store",
                "leave content_type out",
            )
        self._bucket = bucket
        self._key = key
        self._most_bytes = most_bytes
        self._options = options
        self._hash = RunningHash()
        self._first: list[bytes] = []
        self._buffered = 0
        self._writer: ObjectWriter | None = None
        self._staged = ""
        self._is_over = False
        self.size_bytes = 0

    def announce(self, size_bytes: int) -> None:
        """Say how large the object has to be, where that is known only at its end."""
        self._options = PutOptions(
            self._options.if_absent, self._options.sha256, size_bytes, self._options.content_type
        )

    def write(self, piece: memoryview) -> None:
        """Take the next bytes; these must not change afterwards.

        Raises:
            LimitExceeded: The object is larger than any may be.
            ContentMismatch: It is larger than was announced.
            StorageError: The store does not take it.
        """
        self.size_bytes += piece.nbytes
        if self.size_bytes > self._most_bytes:
            raise LimitExceeded(
                f"the object has more than {self._most_bytes} bytes (objects.max_bytes)",
                "put it in several pieces, or raise the limit",
            )
        if self._options.if_absent and not self._bucket.is_local and self.size_bytes > MOST_COPIED_BYTES:
            raise LimitExceeded(
                f"an object of more than {MOST_COPIED_BYTES} bytes cannot be put only if there is none",
                "leave if_absent out",
            )
        announced = self._options.size_bytes
        if announced is not None and self.size_bytes > announced:
            raise ContentMismatch(f"{self._subject} has more than the {announced} bytes that were announced")
        if not piece.nbytes:
            return
        self._hash.update(piece)
        if self._writer is None and self._buffered + piece.nbytes <= UPLOAD_PART_BYTES:
            self._first.append(bytes(piece))
            self._buffered += piece.nbytes
            return
        writer = self._writer or self._begun()
        writer.write(piece)

    def finish(self) -> PutResult:
        """Make the object appear.

        Raises:
            ContentMismatch: It is not what was announced.
            ObjectAlreadyExists: There is one.
            StorageError: The store did not take it.
        """
        found = self._hash.hexdigest()
        wanted, size = self._options.sha256, self._options.size_bytes
        if size is not None and self.size_bytes != size:
            raise ContentMismatch(f"{self._subject} was announced with {size} bytes, found {self.size_bytes}")
        if wanted and wanted != found:
            raise ContentMismatch(f"{self._subject} was announced with SHA-256 {wanted}, found {found}")
        is_exact = self._writer is None or self._bucket.is_local
        e_tag = self._put_whole(found) if self._writer is None else self._complete(self._writer)
        self._is_over = True
        return PutResult(self.size_bytes, found, e_tag, is_exact)

    def abort(self) -> None:
        """Leave nothing of it. Harmless when repeated, and after ``finish``."""
        if self._is_over:
            return
        self._is_over = True
        self._first.clear()
        if self._writer is not None:
            with suppress(StorageError):
                self._writer.abort()
        self._remove_staged()

    @property
    def _subject(self) -> str:
        return f"object '{self._key}' of bucket '{self._bucket.name}'"

    def _attributes(self, sha256: str) -> dict[str, str]:
        if not self._bucket.keeps_attributes:
            return {}
        kept = {CONTENT_TYPE: self._options.content_type, HASH_ATTRIBUTE: sha256}
        return {name: value for name, value in kept.items() if value}

    def _begun(self) -> ObjectWriter:
        """The writer of a content that is too large for one request, with what there is so far in it."""
        bucket, key = self._bucket, self._key
        if bucket.is_local or self._options.if_absent:
            key = self._staged = _staged_key()
        if self._staged and self._options.content_type:
            raise NotSupported(
                f"no content type is kept of more than {UPLOAD_PART_BYTES} bytes that are put with if_absent",
                "leave content_type or if_absent out",
            )
        if self._options.if_absent and bucket.exists(self._key):
            raise ObjectAlreadyExists(f"{self._subject} exists already")
        self._writer = bucket.open_writer(key, self._attributes(self._options.sha256))
        for piece in self._first:
            self._writer.write(piece)
        self._first.clear()
        return self._writer

    def _put_whole(self, sha256: str) -> str:
        bucket, content = self._bucket, b"".join(self._first)
        if not bucket.is_local:
            return bucket.put_once(
                self._key, content, self._attributes(sha256), create=self._options.if_absent
            )
        self._staged = _staged_key()
        e_tag = bucket.put_once(self._staged, content, {}, create=False)
        self._move()
        return e_tag

    def _complete(self, writer: ObjectWriter) -> str:
        writer.close()
        bucket = self._bucket
        if bucket.is_local:
            e_tag = bucket.details(self._staged).e_tag
            self._move()
            return e_tag
        if self._staged:
            copy_new(bucket, self._staged, self._key)
            self._remove_staged()
        return bucket.details(self._key).e_tag

    def _move(self) -> None:
        self._bucket.move(self._staged, self._key, create=self._options.if_absent)
        self._staged = ""

    def _remove_staged(self) -> None:
        staged, self._staged = self._staged, ""
        if staged:
            with suppress(StorageError):
                if self._bucket.exists(staged):
                    self._bucket.delete(staged)


def _staged_key() -> str:
    return f"{UNFINISHED_PREFIX}/{secrets.token_hex(16)}"


def copy_new(bucket: Bucket, source: str, target: str) -> None:
    """Let the store copy an object, if there is none of the new key. Of several copies exactly one succeeds.

    Stores that honour create-only puts may all the same complete two creating uploads that they get at one
    time. So who copies puts a claim first, which only one can have.

    Args:
        bucket: A bucket of a store.
        source: The key of the object.
        target: The key of the copy.

    Raises:
        ObjectAlreadyExists: There is one.
        StorageError: The store failed, or others go on copying to that key.
    """
    claim = f"{UNFINISHED_PREFIX}/claims/{hashlib.sha256(target.encode()).hexdigest()}"
    for attempt in range(_CLAIM_TRIES):
        if attempt:
            time.sleep(_CLAIM_PAUSE_SECONDS)
        try:
            bucket.put_new(claim, b"")
            break
        except ObjectAlreadyExists:
            continue
    else:
        raise StorageError(
            f"object '{target}' of bucket '{bucket.name}' is being put by others", "try again in a moment"
        )
    try:
        if bucket.exists(target):
            raise ObjectAlreadyExists(f"object '{target}' of bucket '{bucket.name}' exists already")
        bucket.copy(source, target, create=True)
    finally:
        with suppress(StorageError):
            bucket.delete(claim)


class Leftovers:
    """Removes what servers that were killed left of puts.

    Args:
        bucket: The bucket.
        seconds: What has not changed for so long belongs to nobody.
    """

    def __init__(self, bucket: Bucket, seconds: float) -> None:
        self._bucket = bucket
        self._age = timedelta(seconds=seconds)
        self._lock = threading.Lock()
        self._next: datetime | None = None

    def sweep(self, now: datetime) -> int:
        """Remove them, unless that was tried lately; gives how many."""
        with self._lock:
            if self._next is not None and now < self._next:
                return 0
            self._next = now + self._age
        removed = 0
        with suppress(StorageError):
            for key in list(self._old(now - self._age)):
                with suppress(StorageError, OSError):
                    self._bucket.delete(key)
                    removed += 1
        return removed

    def _old(self, before: datetime) -> Iterator[str]:
        for found in (*self._bucket.unfinished(UNFINISHED_PREFIX), *self._bucket.objects(UNFINISHED_PREFIX)):
            if found.modified_at < before:
                yield found.key
