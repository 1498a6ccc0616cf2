"""The content of an object on its way out of a bucket, in memory of some parts of 8 MiB."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from lakehouse.errors import StorageError
from lakehouse.storage.bucket import Bucket, ObjectDetails

PART_BYTES = 8 * 1024 * 1024
_PARTS_AHEAD_LOCAL, _PARTS_AHEAD = 1, 4
_TRIES = 3
_PAUSE_SECONDS = 0.2
# They wait for storage, so there may be many more than cores.
_THREADS = ThreadPoolExecutor(64, thread_name_prefix="object-read")


class ObjectDownload:
    """Some bytes of one version of an object, fetched in parts, a few of them ahead.

    What broke off is asked for again; of an object that is replaced meanwhile nothing of the new one comes.

    Args:
        bucket: The bucket.
        found: The object, as it was looked up.
        start: The first byte.
        end: The one after the last.
    """

    def __init__(self, bucket: Bucket, found: ObjectDetails, start: int, end: int) -> None:
        self._bucket = bucket
        self._found = found
        self._next = start
        self._end = end
        self._ahead = _PARTS_AHEAD_LOCAL if bucket.is_local else _PARTS_AHEAD
        self._parts: deque[Future[memoryview]] = deque()
        self._is_over = False
        self._fill()

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        """The next bytes.

        Raises:
            ObjectNotFound: The object is gone.
            ObjectChanged: It was replaced.
            StorageError: It cannot be read.
        """
        if not self._parts:
            raise StopIteration
        try:
            part = self._parts.popleft().result()
        except BaseException:
            self.close()
            raise
        self._fill()
        return part

    def close(self) -> None:
        """Fetch no more. Harmless when repeated."""
        self._is_over = True
        while self._parts:
            self._parts.popleft().cancel()

    def _fill(self) -> None:
        while self._next < self._end and len(self._parts) <= self._ahead:
            start, self._next = self._next, min(self._next + PART_BYTES, self._end)
            run = contextvars.copy_context().run
            self._parts.append(_THREADS.submit(run, self._fetched, start, self._next))

    def _fetched(self, start: int, end: int) -> memoryview:
        key, bucket = self._found.key, self._bucket
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS * attempt)
            if self._is_over:
                break
            part = bucket.read(key, start, end, self._found.e_tag)
            if part.nbytes == end - start:
                return part
        error = StorageError(
            f"object '{key}' of bucket '{bucket.name}' could not be read: the object store broke off "
            f"{_TRIES} times",
        )
        bucket.report("get", key, error, 0.0)
        raise error
