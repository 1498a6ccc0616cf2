"""Slows down who keeps failing: a bucket of attempts for each name and address, refilled over time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from lakehouse.clock import Clock


@dataclass(slots=True)
class _Bucket:
    attempts: float
    updated_s: float


class Throttle:
    """Allows so many attempts a minute for each key, all at once or spread out.

    An attempt is taken before it is made and given back when it succeeds, so that attempts made at the same
    time cannot outrun the count. Memory is bounded: the bucket unused for longest is forgotten, which is a
    full one unless more keys fail at once than are kept.

    Args:
        per_minute: Attempts that a key has, and gets back within a minute.
        clock: Source of time.
        max_keys: How many keys are kept.
    """

    def __init__(self, per_minute: int, clock: Clock, max_keys: int = 10_000) -> None:
        self._most = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, *keys: str, attempts: float = 1) -> float:
        """Take an attempt, or several, from the bucket of every key.

        More than a full bucket has are taken from a full one, which then has to be waited for.

        Returns:
            0, or for how many seconds one of them has none; then nothing was taken.
        """
        with self._lock:
            buckets = [self._bucket(key) for key in keys]
            missing = max((min(attempts, self._most) - bucket.attempts for bucket in buckets), default=0.0)
            if missing > 0:
                return missing / self._per_second
            for bucket in buckets:
                bucket.attempts -= attempts
            return 0.0

    def give_back(self, *keys: str, attempts: float = 1) -> None:
        """Give back what was taken from the bucket of every key."""
        with self._lock:
            for key in keys:
                bucket = self._bucket(key)
                bucket.attempts = min(self._most, bucket.attempts + attempts)

    def _bucket(self, key: str) -> _Bucket:
        now = self._clock.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._most, now)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(key)
        bucket.attempts = min(self._most, bucket.attempts + (now - bucket.updated_s) * self._per_second)
        bucket.updated_s = now
        return bucket
