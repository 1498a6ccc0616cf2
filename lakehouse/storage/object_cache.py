"""Local copies of objects of remote buckets, which the SQL engine reads in place.

An object of a remote bucket has one path within the cache's directory, whether it is there or not.
``lease`` fetches what is missing, in ranges and several at once, and keeps it there until the lease is
released; whoever wants the same object meanwhile waits for the same download.

Objects that never change are read through the cache as they are: the files of Iceberg tables. Of those that
may be replaced, one version is meant, which has a path of its own. What is in the cache is
right because of three things:

- A copy is written under another name and gets its own only when it is complete: of the size that the store
  names, with all ranges from one version of the object, and with the MD5 sum that the store has of it, where
  it has one (two downloads that agree with each other are right as well: the ETag of an encrypted object only
  looks like one).
- Beside each copy there is a checksum. Copies of an earlier process are compared with theirs before they are
  used for the first time.
- A copy whose size or time has changed since it was made is fetched again, as is one that is gone.

The directory belongs to one process at a time: it is taken with a lock, and other processes take others.
Deleting it, or any part of it, costs nothing but time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote

import structlog

from lakehouse.errors import (
    InternalError,
    ObjectChanged,
    ShuttingDown,
    StatementCancelled,
    StorageError,
    object_changed,
)
from lakehouse.storage.cache_files import checksums, md5_of, take_directory, write_at
from lakehouse.storage.rescue import note

if TYPE_CHECKING:
    from lakehouse.storage.bucket import Bucket, Range
    from lakehouse.storage.linked_objects import LinkedObjects

_log = structlog.get_logger()

_PART_BYTES = 8 * 1024 * 1024
_ATTEMPTS = 3
_POLL_S = 0.02
# What stands for itself in a path; the engine's wildcards do not. Keys have more often % in them than !.
_PLAIN = "/=+,@!"
_SWAPPED = str.maketrans("%!", "!%")
# Begins the segment of a path that says which version is meant; no quoted key has it.
_VERSION = ":"


def readable_key(key: str) -> str:
    """A key as a path of this machine that has nothing in it which the engine takes for a wildcard."""
    return quote(key.translate(_SWAPPED), safe=_PLAIN)


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What is in the cache, and what happened since it was opened.

    ``in_use_bytes`` cannot be evicted at the moment. ``shared`` counts the reads that waited for a download
    which another had begun; ``damaged`` the copies that were not what they should be.
    """

    directory: str
    max_bytes: int
    objects: int
    bytes: int
    in_use_bytes: int
    hits: int
    misses: int
    shared: int
    fetched_bytes: int
    evicted: int
    damaged: int


@dataclass(eq=False, slots=True)
class _Entry:
    """An object that is in the cache or on its way. ``fetching`` is None once it can be read.

    ``rescued`` is the name of its bucket where that did not give it, and the rescue bucket did.
    """

    path: str
    size: int = 0
    changed_ns: int = 0
    pins: int = 0
    fetching: Future[None] | None = None
    is_checked: bool = True
    rescued: str = ""


class Lease:
    """Some objects that stay in the cache until they are released. Usable in a ``with``."""

    def __init__(self, cache: ObjectCache, entries: list[_Entry]) -> None:
        self._cache = cache
        self._entries = entries
        self._cancelled = False

    def wait(self) -> None:
        """Return when everything is there.

        Raises:
            StorageError: An object could not be fetched.
            StatementCancelled: ``cancel`` was called.
        """
        for entry in self._entries:
            while (fetching := entry.fetching) is not None:
                if self._cancelled:
                    raise StatementCancelled("the statement was cancelled while it was waiting for storage")
                try:
                    fetching.result(_POLL_S)
                except TimeoutError:
                    continue
                except CancelledError:
                    raise ShuttingDown("the server is shutting down") from None
                break
            if entry.rescued:
                note(entry.rescued)

    def cancel(self) -> None:
        """Wait no longer; from any thread."""
        self._cancelled = True

    def release(self) -> None:
        """Let go of the objects. What nobody else waits for is fetched no further."""
        entries, self._entries = self._entries, []
        self._cache.unpin(entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ObjectCache:
    """Holds copies of objects of remote buckets on this machine. Safe to use from several threads.

    Nothing is made on disk before a bucket is attached.

    Args:
        directory: Where the copies are; None takes one in the user's cache directory.
        max_bytes: What is not in use is evicted above that, least recently used first. What is in use stays,
            even if it is more.
        requests: How many ranges are fetched at once.

    Attributes:
        links: The paths of objects of local buckets that may be replaced, where there are any.
    """

    def __init__(
        self, directory: Path | None = None, max_bytes: int = 10_000_000_000, requests: int = 16
    ) -> None:
        self.max_bytes = max_bytes
        self.links: LinkedObjects | None = None
        self._wanted = directory
        self._requests_count = requests
        self._root: Path | None = None
        self._held_lock = -1
        self._prefix = ""
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()  # over what follows; no waiting for storage within
        self._entries: dict[str, _Entry] = {}
        self._idle: OrderedDict[str, _Entry] = OrderedDict()  # entries that can be evicted
        self._bytes = 0
        self._hits = self._misses = self._shared = self._fetched = self._evicted = self._damaged = 0
        self._md5_means_nothing: set[str] = set()
        self._stand_ins: dict[str, Callable[[str], str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # -- what is where --------------------------------------------------------------------------------

    @property
    def directory(self) -> Path | None:
        """The directory with the copies, which a reader has to be allowed to read; None while unused."""
        return None if self._root is None else self._root / "objects"

    def attach(self, bucket: Bucket, identity: str) -> None:
        """Make room for the objects of a bucket.

        Args:
            bucket: The bucket.
            identity: Tells it from every other bucket that the directory may ever have copies of.

        Raises:
            ConfigError: The directory of the cache cannot be used.
        """
        name = f"{bucket.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        with self._lock:
            if self._root is None:
                self._open()
            self._buckets[name] = bucket

    def path(self, bucket: Bucket, key: str, e_tag: str = "") -> str:
        """Where an object of an attached bucket is when it is in the cache.

        Args:
            bucket: The bucket.
            key: The object's key.
            e_tag: The version of the object that is meant, for objects that may be replaced: each version
                has a path of its own. Empty for objects that never change.

        Raises:
            StorageError: The key cannot be the name of a file.
        """
        if any(segment in ("", ".", "..") for segment in key.split("/")):
            raise StorageError(
                f"object '{key}' of bucket '{bucket.name}' cannot be read: its key is not plain"
            )
        name = next((name for name, known in self._buckets.items() if known is bucket), None)
        if name is None:
            raise InternalError(f"bucket '{bucket.name}' is not attached to the object cache")
        version = f"{_VERSION}{e_tag.encode().hex()}/" if e_tag else ""
        return f"{self._prefix}{name}/{version}{readable_key(key)}"

    def stand_in(self, directory: str, find: Callable[[str], str]) -> None:
        """Say where files are read that are missing from a directory outside of the cache.

        Args:
            directory: The directory.
            find: Gives another path for that of a missing file, or the same.
        """
        self._stand_ins[f"{directory}/"] = find

    def located(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """The paths at which files are to be read now; the same object where all are where they should be."""
        found = paths
        for directory, find in self._stand_ins.items():
            if any(path.startswith(directory) and not os.path.exists(path) for path in paths):  # noqa: PTH110
                found = tuple(find(p) if p.startswith(directory) else p for p in found)
        return found

    def holds(self, path: str) -> bool:
        """Whether a path is that of an object that may have to be fetched."""
        return bool(self._prefix) and path.startswith(self._prefix)

    def _source(self, path: str) -> tuple[Bucket, str, str]:
        """The bucket, the key, and the version that is meant, if it has to be a certain one."""
        name, _, quoted = path[len(self._prefix) :].partition("/")
        version = ""
        if quoted.startswith(_VERSION):
            version, _, quoted = quoted.removeprefix(_VERSION).partition("/")
        return self._buckets[name], unquote(quoted).translate(_SWAPPED), bytes.fromhex(version).decode()

    # -- reading --------------------------------------------------------------------------------------

    def lease(self, paths: Iterable[str]) -> Lease:
        """Begin to fetch what is missing of some objects, and keep them; ``Lease.wait`` says when it is done.

        Args:
            paths: Paths that ``path`` gave; others are left alone.
        """
        wanted = dict.fromkeys(path for path in paths if self.holds(path))
        if not wanted:
            return Lease(self, [])
        with self._lock:
            return Lease(self, [self._pin(path) for path in wanted])

    @contextmanager
    def held(self, paths: Iterable[str]) -> Iterator[None]:
        """The objects of these paths can be read for the length of a ``with``.

        Raises:
            StorageError: An object could not be fetched.
        """
        with self.lease(paths) as lease:
            lease.wait()
            yield

    def _pin(self, path: str) -> _Entry:
        entry = self._entries.get(path)
        if entry is not None and entry.fetching is None and not self._is_intact(entry):
            self._damaged += 1
            self._idle.pop(path, None)
            self._forget(entry)
            entry = None
        if entry is None:
            entry = self._entries[path] = _Entry(path)
            self._misses += 1
            entry.fetching = self._submit(entry)
        elif not entry.is_checked:
            entry.is_checked = True
            entry.fetching = self._submit(entry)
        elif entry.fetching is not None:
            self._shared += 1
        else:
            self._hits += 1
        entry.pins += 1
        self._idle.pop(path, None)
        return entry

    def _is_intact(self, entry: _Entry) -> bool:
        try:
            found = os.stat(entry.path)  # noqa: PTH116 - a Path takes longer than the question
        except OSError:
            return False
        return found.st_size == entry.size and found.st_mtime_ns == entry.changed_ns

    def unpin(self, entries: Iterable[_Entry]) -> None:
        """Let go of entries that ``lease`` pinned, once for each time."""
        with self._lock:
            for entry in entries:
                entry.pins -= 1
                if entry.pins:
                    continue
                if entry.fetching is not None:
                    entry.fetching.cancel()
                    self._forget(entry)
                elif self._entries.get(entry.path) is entry:
                    self._idle[entry.path] = entry
            self._evict(self.max_bytes)

    # -- what stays and what goes -----------------------------------------------------------------------

    def clear(self) -> tuple[int, int]:
        """Remove everything that is not in use; gives how many objects, and how many bytes these were."""
        with self._lock:
            objects, size = len(self._idle), self._bytes
            self._evict(-1)
            return objects, size - self._bytes

    def statistics(self) -> CacheStatistics:
        """What is in the cache, and what happened so far."""
        with self._lock:
            ready = [entry for entry in self._entries.values() if entry.fetching is None]
            return CacheStatistics(
                directory="" if self._root is None else str(self._root),
                max_bytes=self.max_bytes,
                objects=len(ready),
                bytes=self._bytes,
                in_use_bytes=self._bytes - sum(entry.size for entry in self._idle.values()),
                hits=self._hits,
                misses=self._misses,
                shared=self._shared,
                fetched_bytes=self._fetched,
                evicted=self._evicted,
                damaged=self._damaged,
            )

    def _evict(self, limit: int) -> None:
        while self._bytes > limit and self._idle:
            _, entry = self._idle.popitem(last=False)
            self._forget(entry)
            Path(entry.path).unlink(missing_ok=True)
            self._sum_of(entry.path).unlink(missing_ok=True)
            self._evicted += 1

    def _resize(self, entry: _Entry, size: int) -> None:
        if self._entries.get(entry.path) is not entry:
            raise asyncio.CancelledError  # nobody waits for it any more
        self._bytes += size - entry.size
        entry.size = size

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get(entry.path) is entry:
            del self._entries[entry.path]
            self._bytes -= entry.size

    # -- fetching: in the loop's thread -------------------------------------------------------------------

    def _submit(self, entry: _Entry) -> Future[None]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._requests = asyncio.Semaphore(self._requests_count)
            self._objects = asyncio.Semaphore(self._requests_count)
            self._thread = threading.Thread(target=self._loop.run_forever, name="object-cache", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._provide(entry), self._loop)

    async def _provide(self, entry: _Entry) -> None:
        """Make an entry readable; a failure or cancellation makes it as if it had never been wanted."""
        try:
            async with self._objects:
                if not (entry.size and await asyncio.to_thread(self._adopt, entry)):
                    await self._fetch(entry)
        except BaseException:
            with self._lock:
                self._forget(entry)
            raise

    def _adopt(self, entry: _Entry) -> bool:
        """Whether the copy that another process left is what its checksum says."""
        try:
            told = self._sum_of(entry.path).read_text()
            with Path(entry.path).open("rb") as file:
                is_same = told == checksums(file.fileno(), entry.size)[0]
        except OSError:
            is_same = False
        with self._lock:
            if is_same:
                self._hits += 1
                entry.fetching = None
            else:
                self._damaged += 1
                self._resize(entry, 0)
        return is_same

    async def _fetch(self, entry: _Entry) -> None:
        assert self._root is not None
        bucket, key, version = self._source(entry.path)
        partial = self._root / "partial" / secrets.token_hex(8)
        try:
            try:
                with bucket.operation("fetch", key, "read"):
                    checksum = await self._transfer(entry, bucket, key, partial, version)
            except StorageError as error:
                if bucket.copies is None or isinstance(error, ObjectChanged):
                    raise
                checksum = await self._rescue(entry, bucket, key, partial, version, error)
            with _disk(bucket, key):
                await asyncio.to_thread(self._install, entry, partial, checksum)
        finally:
            partial.unlink(missing_ok=True)

    async def _rescue(
        self, entry: _Entry, bucket: Bucket, key: str, partial: Path, version: str, cause: StorageError
    ) -> str:
        """The same as ``_transfer``, from the rescue bucket.

        The ETag of a copy is that of its own store, so it is the content that has to be of the version.
        """
        assert bucket.copies is not None
        md5 = md5_of(version)
        try:
            with bucket.copies.operation("fetch", key, "read"):
                checksum = await self._transfer(entry, bucket.copies, key, partial, "" if md5 else version)
                if md5 and md5 != await asyncio.to_thread(_md5, partial, entry.size):
                    raise object_changed(bucket.copies.name, key)
        except StorageError:
            raise cause from None
        entry.rescued = bucket.name
        bucket.tell_rescued("fetch", key, cause)
        return checksum

    async def _transfer(self, entry: _Entry, bucket: Bucket, key: str, partial: Path, version: str) -> str:
        """Write an object into a file; gives the checksum of what was written."""
        previous = ""
        for _ in range(_ATTEMPTS):
            first = await self._range(bucket, key, 0, _PART_BYTES, "")
            if version and first.e_tag != version:
                raise object_changed(bucket.name, key)
            with self._lock:
                self._resize(entry, first.size)
                self._evict(self.max_bytes)
            with _disk(bucket, key), partial.open("wb+") as file:
                os.posix_fallocate(file.fileno(), 0, max(first.size, 1))
                os.truncate(file.fileno(), first.size)
                await self._parts(file.fileno(), bucket, key, first)
                expected = "" if bucket.name in self._md5_means_nothing else md5_of(first.e_tag)
                checksum, found = await asyncio.to_thread(
                    checksums, file.fileno(), first.size, bool(expected)
                )
            self._fetched += first.size
            if found == expected:
                return checksum
            if found == previous:
                self._md5_means_nothing.add(bucket.name)
                return checksum
            previous = found
        self._damaged += 1
        raise StorageError(f"object '{key}' of bucket '{bucket.name}' arrived damaged, {_ATTEMPTS} times")

    async def _parts(self, descriptor: int, bucket: Bucket, key: str, first: Range) -> None:
        write_at(descriptor, first.content, 0)
        try:
            async with asyncio.TaskGroup() as group:
                for start in range(_PART_BYTES, first.size, _PART_BYTES):
                    group.create_task(self._part(descriptor, bucket, key, start, first))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _part(self, descriptor: int, bucket: Bucket, key: str, start: int, first: Range) -> None:
        part = await self._range(bucket, key, start, min(start + _PART_BYTES, first.size), first.e_tag)
        write_at(descriptor, part.content, start)

    async def _range(self, bucket: Bucket, key: str, start: int, end: int, e_tag: str) -> Range:
        async with self._requests:
            for _ in range(_ATTEMPTS):
                found = await bucket.get_range(key, start, end, e_tag)
                if len(found.content) == min(end, found.size) - start:
                    return found
        raise StorageError(f"object '{key}' of bucket '{bucket.name}' could not be read: it came incomplete")

    def _install(self, entry: _Entry, partial: Path, checksum: str) -> None:
        target, beside = Path(entry.path), self._sum_of(entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.parent.mkdir(parents=True, exist_ok=True)
        changed_ns = partial.stat().st_mtime_ns
        with self._lock:
            if self._entries.get(entry.path) is not entry:
                return  # given up meanwhile, and perhaps begun anew
            beside.write_text(checksum)
            partial.replace(target)
            entry.changed_ns = changed_ns
            entry.fetching = None

    # -- the directory --------------------------------------------------------------------------------

    def _sum_of(self, path: str) -> Path:
        assert self._root is not None
        return self._root / "sums" / path[len(self._prefix) :]

    def _open(self) -> None:
        self._root, self._held_lock = take_directory(self._wanted)
        self._prefix = f"{self._root}/objects/"
        self._take_over()

    def _take_over(self) -> None:
        """Know what an earlier process left, oldest first."""
        left = []
        for place, _, names in os.walk(f"{self._root}/objects"):
            for name in names:
                with suppress(OSError):
                    found = Path(place, name).stat()
                    left.append((found.st_mtime_ns, f"{place}/{name}", found.st_size))
        for changed_ns, path, size in sorted(left):
            self._entries[path] = self._idle[path] = _Entry(path, size, changed_ns, is_checked=False)
            self._bytes += size
        self._evict(self.max_bytes)

    def close(self) -> None:
        """Stop what is being fetched and give the directory free; what is in it stays."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        if self._held_lock >= 0:
            os.close(self._held_lock)
            self._held_lock = -1


def _md5(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return checksums(file.fileno(), size, md5=True)[1]


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


@contextmanager
def _disk(bucket: Bucket, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"object '{key}' of bucket '{bucket.name}' could not be cached: {error.strerror}",
            "make room on the disk of cache.directory",
        ) from error
