"""What trials read, kept in memory within bounds: vectors of tables, and evaluation sets."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What is in a cache, and what happened since the start."""

    bytes: int
    entries: int
    hits: int
    misses: int
    evicted: int


class BoundedCache(Generic[T]):
    """Things that never change, by keys; the least recently used are let go of. Safe to use from threads.

    Args:
        max_bytes: How much is kept; what is larger is given and not kept.
        size: Tells the bytes of a thing.
    """

    def __init__(self, max_bytes: int, size: Callable[[T], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}
        self._entries: OrderedDict[Hashable, T] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evicted = 0

    def get(self, key: Hashable, make: Callable[[], T], check: Callable[[], None]) -> T:
        """A thing, made once for all who want it at the same time.

        Args:
            key: Its key.
            make: Makes it.
            check: Called while another one makes it; raises where this one shall not wait any longer.
        """
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        while not making.acquire(timeout=0.1):
            check()
        try:
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
                    self._hits += 1
                    return self._entries[key]
                self._misses += 1
            made = make()
            self._keep(key, made)
            return made
        finally:
            making.release()

    def _keep(self, key: Hashable, made: T) -> None:
        size = self._size(made)
        if size > self._max_bytes:
            return
        with self._lock:
            self._entries[key] = made
            self._bytes += size
            while self._bytes > self._max_bytes:
                gone, thing = self._entries.popitem(last=False)
                self._making.pop(gone, None)
                self._bytes -= self._size(thing)
                self._evicted += 1

    def statistics(self) -> CacheStatistics:
        """What is kept, and what happened so far."""
        with self._lock:
            return CacheStatistics(self._bytes, len(self._entries), self._hits, self._misses, self._evicted)
