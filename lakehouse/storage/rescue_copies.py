"""One bucket's objects as the rescue bucket has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from lakehouse.errors import InternalError
from lakehouse.storage.bucket import Bucket, ObjectDetails, ObjectWriter, Range, StoredObject


class RescueCopies(Bucket):
    """The copies of a bucket's objects, under the keys and URIs of the objects. They can only be read.

    Args:
        original: The bucket whose objects were copied.
        rescue: The rescue bucket, which has them below the name of that bucket.
    """

    def __init__(self, original: Bucket, rescue: Bucket) -> None:
        super().__init__(rescue.name, None, original.uri)  # type: ignore[arg-type]
        self._prefixes = original.uri_prefixes
        self._rescue = rescue
        self._below = f"{original.name}/"

    @contextmanager
    def operation(self, name: str, key: str, done: str, *, always: bool = False) -> Iterator[None]:
        """A request to the rescue bucket. See ``Bucket``."""
        with self._rescue.operation(name, self._below + key, done, always=always):
            yield

    def local_path(self, key: str, e_tag: str = "") -> str:
        """Where a copy can be read on this machine. See ``Bucket``."""
        return self._rescue.local_path(self._below + key, e_tag)

    def get(self, key: str) -> bytes:
        """The content of a copy. See ``Bucket``."""
        return self._rescue.get(self._below + key)

    def get_unchanging(self, key: str) -> bytes:
        """The content of a copy. See ``Bucket``."""
        return self._rescue.get_unchanging(self._below + key)

    def get_end(self, key: str, length: int) -> bytes:
        """The last bytes of a copy. See ``Bucket``."""
        return self._rescue.get_end(self._below + key, length)

    async def get_range(self, key: str, start: int, end: int, e_tag: str = "") -> Range:
        """Some bytes of a copy. See ``Bucket``."""
        return await self._rescue.get_range(self._below + key, start, end, e_tag)

    def look_up(self, key: str) -> StoredObject:
        """What the rescue bucket knows of a copy. See ``Bucket``."""
        return replace(self._rescue.look_up(self._below + key), key=key)

    def details(self, key: str) -> ObjectDetails:
        """All that the rescue bucket knows of a copy. See ``Bucket``."""
        return replace(self._rescue.details(self._below + key), key=key, is_rescued=True)

    def read(self, key: str, start: int, end: int, e_tag: str) -> memoryview:
        """Some bytes of a copy. See ``Bucket``."""
        return self._rescue.read(self._below + key, start, end, e_tag)

    def directories(self, prefix: str) -> list[str]:
        """The segments that follow a prefix. See ``Bucket``."""
        return self._rescue.directories(self._below + prefix)

    def names(self, prefix: str) -> list[str]:
        """The objects directly under a prefix. See ``Bucket``."""
        return self._rescue.names(self._below + prefix)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Every copy below a prefix. See ``Bucket``."""
        for found in self._rescue.objects(self._below + prefix):
            yield replace(found, key=found.key.removeprefix(self._below))

    def check(self) -> None:
        """Ask the rescue bucket for something small. See ``Bucket``."""
        self._rescue.check()

    def put(self, key: str, content: bytes, durable: bool = True) -> None:
        """Never."""
        raise _read_only(key)

    def put_new(self, key: str, content: bytes) -> None:
        """Never."""
        raise _read_only(key)

    def put_once(self, key: str, content: bytes, attributes: Mapping[str, str], *, create: bool) -> str:
        """Never."""
        raise _read_only(key)

    def move(self, source: str, target: str, *, create: bool) -> None:
        """Never."""
        raise _read_only(target)

    def copy(self, source: str, target: str, *, create: bool) -> None:
        """Never."""
        raise _read_only(target)

    def delete(self, key: str) -> None:
        """Never."""
        raise _read_only(key)

    def open_writer(self, key: str, attributes: Mapping[str, str] | None = None) -> ObjectWriter:
        """Never."""
        raise _read_only(key)


def _read_only(key: str) -> InternalError:
    return InternalError(f"copy '{key}' in the rescue bucket was about to be written in place of the object")
