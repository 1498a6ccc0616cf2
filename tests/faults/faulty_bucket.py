"""Storage that fails where a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lakehouse.errors import StorageError
from lakehouse.storage import Bucket, ObjectWriter, StoredObject

Fails = Callable[[int, str], str | None]


class Killed(BaseException):
    """The process is no more: nothing catches this, and storage answers nobody after it."""


class FaultyBucket(Bucket):
    """A bucket whose n-th call fails: before it did anything, or after, so that only the answer is lost.

    ``made`` are the keys of what was to be created.

    Args:
        bucket: The bucket.
        fails: Told the number of a call and what it is; gives ``before``, ``after``, or for a process that is
            killed ``dead`` (before it did anything) or ``dying`` (after), or None.
    """

    def __init__(self, bucket: Bucket, fails: Fails) -> None:
        super().__init__(bucket.name, bucket._store, bucket.uri, bucket._root, bucket._persist)
        self.fails = fails
        self.calls = 0
        self.made: list[str] = []

    def _call(self, what: str, action: Callable[[], Any]) -> Any:
        self.calls += 1
        fault = self.fails(self.calls, what)
        if fault == "dead":
            raise Killed(what)
        if fault == "before":
            raise StorageError(f"injected before {what}")
        result = action()
        if fault == "dying":
            raise Killed(what)
        if fault == "after":
            raise StorageError(f"injected after {what}")
        return result

    def get(self, key: str) -> bytes:
        return self._call("get", lambda: super(FaultyBucket, self).get(key))

    def put(self, key: str, content: bytes, durable: bool = True) -> None:
        self._call("put", lambda: super(FaultyBucket, self).put(key, content, durable))

    def put_new(self, key: str, content: bytes) -> None:
        self.made.append(key)
        self._call("put_new", lambda: super(FaultyBucket, self).put_new(key, content))

    def size(self, key: str) -> int:
        return self._call("size", lambda: super(FaultyBucket, self).size(key))

    def directories(self, prefix: str) -> list[str]:
        return self._call("list", lambda: super(FaultyBucket, self).directories(prefix))

    def names(self, prefix: str) -> list[str]:
        return self._call("list", lambda: super(FaultyBucket, self).names(prefix))

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        return iter(self._call("list", lambda: list(super(FaultyBucket, self).objects(prefix))))

    def delete(self, key: str) -> None:
        self._call("delete", lambda: super(FaultyBucket, self).delete(key))

    def open_writer(self, key: str) -> ObjectWriter:
        return self._call("open", lambda: FaultyWriter(self, super(FaultyBucket, self).open_writer(key)))


class FaultyWriter(ObjectWriter):
    def __init__(self, bucket: FaultyBucket, writer: ObjectWriter) -> None:
        assert writer._target is not None
        super().__init__(bucket, writer.key, writer._target, writer._persist)
        self._faulty = bucket

    def write(self, data: Any) -> int:
        return self._faulty._call("write", lambda: super(FaultyWriter, self).write(data))

    def close(self) -> None:
        self._faulty._call("close", super().close)
