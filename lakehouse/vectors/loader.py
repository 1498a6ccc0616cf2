"""Generations of indexes in memory: within a budget, each once, for all who search it."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse.errors import LimitExceeded, ObjectNotFound, StorageError
from lakehouse.storage import Bucket
from lakehouse.vectors.faiss_index import VectorIndex, unchecked
from lakehouse.vectors.generation import Generation, IndexFile, LexicalPart
from lakehouse.vectors.generation_store import IndexDamaged
from lakehouse.vectors.lexical import LexicalIndex

_POLL_S = 0.05
_Load = Callable[[], tuple[Any, ExitStack]]
"""Gives what is held, and what keeps its files where they are."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedIndex:
    """A generation that can be searched.

    Attributes:
        generation: What is known of it.
        index: The index.
        rows: What its table has beside the vectors, one row for each position.
    """

    generation: Generation
    index: VectorIndex
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class LoaderStatistics:
    """What is in memory, and what happened since the start.

    ``shared`` counts the searches that waited for a load which another had begun.
    """

    max_bytes: int
    bytes: int
    indexes: int
    in_use: int
    hits: int
    loads: int
    shared: int
    evicted: int
    damaged: int


class _Entry:
    __slots__ = ("is_dropped", "loading", "size_bytes", "users")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.users = 0
        self.is_dropped = False
        self.loading: Future[tuple[Any, ExitStack]] = Future()


class IndexLoader:
    """Holds the generations that are searched. Safe to use from several threads.

    The files are mapped into memory: in place where the bucket is a directory of this machine, else from a
    local copy. A file that is deleted meanwhile stays readable to whoever has it.

    Args:
        bucket: Where the generations are, or what tells it of an index.
        max_bytes: What is not in use is let go of above that, least recently used first. What is in use
            stays, even if it is more.
    """

    def __init__(self, bucket: Bucket | Callable[[str], Bucket], max_bytes: int) -> None:
        self._bucket_of = bucket if callable(bucket) else lambda _: bucket
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._hits = self._loads = self._shared = self._evicted = self._damaged = 0

    @contextmanager
    def held(self, generation: Generation, check: Callable[[], None] = unchecked) -> Iterator[LoadedIndex]:
        """A generation, for the length of a ``with``.

        Args:
            generation: Which.
            check: Called while another one loads it; raises where this one shall not wait any longer.

        Raises:
            LimitExceeded: It is larger than the budget.
            IndexDamaged: A file of it is missing, or not what was written.
            StorageError: A file of it cannot be read.
        """
        key = f"{generation.index}/{generation.id}"
        size_bytes = generation.vectors.size_bytes + generation.rows.size_bytes
        with self._held(
            key, size_bytes, lambda: _loaded(self._bucket_of(generation.index), generation), check
        ) as loaded:
            yield loaded

    @contextmanager
    def held_words(
        self, generation: Generation, part: LexicalPart, check: Callable[[], None] = unchecked
    ) -> Iterator[LexicalIndex]:
        """The index of words of a generation, for the length of a ``with``; raises like ``held``."""
        key = f"{generation.index}/{generation.id}/words"
        loaded = partial(_loaded_words, self._bucket_of(generation.index), generation, part)
        with self._held(key, part.file.size_bytes, loaded, check) as words:
            yield words

    @contextmanager
    def _held(self, key: str, size_bytes: int, load: _Load, check: Callable[[], None]) -> Iterator[Any]:
        entry, is_first = self._enter(key, size_bytes)
        try:
            if is_first:
                self._load(key, entry, load)
            yield self._awaited(entry, check)
        finally:
            self._leave(entry)

    def forget(self, index: str) -> None:
        """Let go of the generations of an index, once nobody uses them."""
        with self._lock:
            for key in [k for k in self._entries if k.startswith(f"{index}/")]:
                self._drop(key)

    def forget_all(self, prefix: str) -> None:
        """Let go of the generations of all indexes whose names begin so, once nobody uses them."""
        with self._lock:
            for key in [k for k in self._entries if k.startswith(prefix)]:
                self._drop(key)

    def loaded(self, prefix: str) -> dict[str, int]:
        """Bytes in memory by index, of those whose names begin so."""
        found: dict[str, int] = {}
        with self._lock:
            for key, entry in self._entries.items():
                if key.startswith(prefix):
                    index = key.partition("/")[0]
                    found[index] = found.get(index, 0) + entry.size_bytes
        return found

    def statistics(self) -> LoaderStatistics:
        """What is in memory, and what happened so far."""
        with self._lock:
            used = sum(bool(entry.users) for entry in self._entries.values())
            return LoaderStatistics(
                self._max_bytes,
                self._bytes,
                len(self._entries),
                used,
                self._hits,
                self._loads,
                self._shared,
                self._evicted,
                self._damaged,
            )

    def close(self) -> None:
        """Let go of everything that nobody uses."""
        with self._lock:
            for key in list(self._entries):
                self._drop(key)

    def _enter(self, key: str, size_bytes: int) -> tuple[_Entry, bool]:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                entry.users += 1
                if entry.loading.done():
                    self._hits += 1
                else:
                    self._shared += 1
                return entry, False
            if size_bytes > self._max_bytes:
                raise LimitExceeded(
                    f"the vector index '{key.partition('/')[0]}' takes {size_bytes} bytes of memory, "
                    f"which is more than vectors.memory_bytes = {self._max_bytes}"
                )
            entry = self._entries[key] = _Entry(size_bytes)
            entry.users = 1
            self._bytes += entry.size_bytes
            self._loads += 1
            self._make_room()
            return entry, True

    def _load(self, key: str, entry: _Entry, load: _Load) -> None:
        try:
            entry.loading.set_result(load())
        except BaseException as error:
            with self._lock:
                self._damaged += isinstance(error, IndexDamaged)
                if not entry.is_dropped:
                    del self._entries[key]
                    self._bytes -= entry.size_bytes
            entry.loading.set_exception(error)
            raise

    @staticmethod
    def _awaited(entry: _Entry, check: Callable[[], None]) -> Any:
        while True:
            try:
                return entry.loading.result(_POLL_S)[0]
            except TimeoutError:
                check()

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if entry.is_dropped and not entry.users:
                _release(entry)
            self._make_room()

    def _make_room(self) -> None:
        for key in list(self._entries):
            if self._bytes <= self._max_bytes:
                return
            if not self._entries[key].users:
                self._drop(key)
                self._evicted += 1

    def _drop(self, key: str) -> None:
        """Forget a generation. Those who still use it have it as long as they do."""
        entry = self._entries.pop(key)
        entry.is_dropped = True
        self._bytes -= entry.size_bytes
        if not entry.users:
            _release(entry)


def _release(entry: _Entry) -> None:
    if entry.loading.exception() is None:
        entry.loading.result()[1].close()


def _loaded(bucket: Bucket, generation: Generation) -> tuple[LoadedIndex, ExitStack]:
    """A generation in memory, and what keeps its files where they are."""
    with ExitStack() as files:
        vectors, rows = (_file(bucket, file, files) for file in (generation.vectors, generation.rows))
        try:
            index = VectorIndex.load(vectors, generation.parameters)
            table = pa.ipc.open_file(pa.memory_map(str(rows))).read_all()
        except (StorageError, OSError, pa.ArrowException) as error:
            raise _damaged(generation.vectors.key) from error
        if not index.count == len(table) == generation.count or index.dimension != generation.dimension:
            raise _damaged(generation.vectors.key)
        return LoadedIndex(generation, index, table), files.pop_all()


def _loaded_words(
    bucket: Bucket, generation: Generation, part: LexicalPart
) -> tuple[LexicalIndex, ExitStack]:
    """The index of words of a generation in memory, and what keeps its file where it is."""
    with ExitStack() as files:
        path = _file(bucket, part.file, files)
        try:
            index = LexicalIndex.load(path)
        except StorageError as error:
            raise _damaged(part.file.key) from error
        if index.count != generation.count:
            raise _damaged(part.file.key)
        return index, files.pop_all()


def _file(bucket: Bucket, file: IndexFile, files: ExitStack) -> Path:
    """Where a file can be read, which is what was written."""
    path = bucket.local_path(file.key)
    held: AbstractContextManager[None] = bucket.held([path])
    try:
        files.enter_context(held)
        with Path(path).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() == file.sha256:
                return Path(path)
    except (ObjectNotFound, FileNotFoundError) as error:
        raise _damaged(file.key) from error
    except OSError as error:
        raise StorageError(f"the local copy of '{file.key}' cannot be read") from error
    raise _damaged(file.key)


def _damaged(key: str) -> IndexDamaged:
    return IndexDamaged(f"the file '{key}' of a vector index is missing or damaged")
