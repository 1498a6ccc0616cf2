"""All buckets of a configuration, how they have been doing, and how they are now."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from lakehouse.clock import Clock
from lakehouse.config import BucketSettings
from lakehouse.config.storage import check_apart, with_classes
from lakehouse.errors import ConfigError, InvalidRequest, LakehouseError
from lakehouse.storage.breaker import BreakerState, CircuitBreaker
from lakehouse.storage.bucket import Bucket, BucketFailure
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.memory import open_memory_bucket
from lakehouse.storage.object_cache import ObjectCache
from lakehouse.storage.rescue import RescueRead
from lakehouse.storage.rescue_copies import RescueCopies
from lakehouse.storage.s3 import check_create_only, open_s3_bucket

_PROBE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class BucketUse:
    """What became of the requests to a bucket since the server was started.

    ``refused`` are those that were not made, because the store had not been answering; ``rescued`` are the
    objects and lists of objects that the rescue bucket gave in its place.
    """

    requests: int = 0
    failures: int = 0
    refused: int = 0
    rescued: int = 0
    last_failure: BucketFailure | None = None
    last_failure_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BucketHealth:
    """What asking a bucket for something small showed. ``reason`` is empty where it answered."""

    bucket: str
    seconds: float
    code: str = ""
    reason: str = ""


class Buckets(Mapping[str, Bucket]):
    """The buckets by name, the primary one first.

    Args:
        settings: How they are configured.
        cache: Where the objects of remote buckets are kept for reading.
        clock: Source of time.
        needed: Names of those without which there is nothing to serve; these have to answer.
        deciding: Names of those in which the first of two writers has to win.
        primary: The primary bucket, where it is open already.

    Attributes:
        settings: How they are configured, by name.
        needed: Names of those without which there is nothing to serve.

    Raises:
        ConfigError: The configuration does not lead to a bucket, or to one in which two writers could both
            take place.
        StorageError: A bucket that is needed does not answer, or does not let this server in.
    """

    def __init__(
        self,
        settings: Iterable[BucketSettings],
        cache: ObjectCache,
        clock: Clock,
        needed: frozenset[str],
        deciding: frozenset[str],
        primary: Bucket | None = None,
    ) -> None:
        try:
            listed = with_classes(tuple(settings))
            check_apart(listed)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        ordered = sorted(listed, key=lambda each: each.bucket_class != "primary")
        self.settings = {each.name: each for each in ordered}
        self._primary = ordered[0].name
        self.needed = needed
        self._clock = clock
        self._lock = threading.Lock()
        self._use = dict.fromkeys(self.settings, BucketUse())
        self._open: dict[str, Bucket] = {}
        self._probes = ThreadPoolExecutor(thread_name_prefix="bucket-probe")
        for name, each in self.settings.items():
            bucket = primary if name == self._primary else None
            self._open[name] = bucket or open_bucket(
                each, cache, ask=name in needed, decides=name in deciding
            )
        for name, bucket in self._open.items():
            each = self.settings[name]
            if each.kind == "s3" and each.breaker_failures:
                bucket.breaker = CircuitBreaker(
                    clock, each.breaker_failures, each.breaker_seconds, each.breaker_max_seconds
                )
            bucket.observers.append(self._counter(name))
            bucket.failure_observers.append(self._failed)
            bucket.rescue_observers.append(self._rescued)
        if self.rescue is not None:
            for bucket in self._open.values():
                if bucket is not self.rescue:
                    bucket.copies = RescueCopies(bucket, self.rescue)
                    if bucket.root is not None:
                        cache.stand_in(str(bucket.root), bucket.path_now)

    def __getitem__(self, name: str) -> Bucket:
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def primary(self) -> Bucket:
        """What the server itself keeps is there."""
        return self._open[self._primary]

    @property
    def rescue(self) -> Bucket | None:
        """Where copies of the objects of the others are."""
        names = (name for name, each in self.settings.items() if each.bucket_class == "rescue")
        return next((self._open[name] for name in names), None)

    def to_be_rescued(self, name: str | None = None) -> list[Bucket]:
        """The buckets whose objects can be copied into the rescue bucket: all others, or one of them.

        Raises:
            InvalidRequest: There is no rescue bucket, or no other bucket of that name.
        """
        if self.rescue is None:
            raise InvalidRequest('no bucket is of class "rescue"', "name one in the configuration")
        found = [bucket for bucket in self._open.values() if bucket is not self.rescue]
        chosen = [bucket for bucket in found if name in (None, bucket.name)]
        if not chosen:
            others = ", ".join(bucket.name for bucket in found)
            raise InvalidRequest(
                f"bucket '{name}' cannot be copied into the rescue bucket", f"these can: {others}"
            )
        return chosen

    def state(self, name: str) -> BreakerState:
        """Whether requests reach the store of a bucket."""
        breaker = self._open[name].breaker
        return BreakerState.CLOSED if breaker is None else breaker.state

    def use(self, name: str) -> BucketUse:
        """What became of the requests to a bucket."""
        return self._use[name]

    def health(self, names: Iterable[str] | None = None) -> list[BucketHealth]:
        """Ask buckets for something small, all at once; none is waited for longer than ten seconds.

        Args:
            names: Which; all of them when left out.

        Raises:
            InvalidRequest: There is no bucket of such a name.
        """
        wanted = list(self._open if names is None else names)
        for name in wanted:
            if name not in self._open:
                raise InvalidRequest(f"there is no bucket '{name}'", f"there are: {', '.join(self._open)}")
        run = contextvars.copy_context
        asked = [(name, self._probes.submit(run().run, _health, self._open[name])) for name in wanted]
        until = time.monotonic() + _PROBE_SECONDS
        found = []
        for name, answer in asked:
            try:
                found.append(answer.result(max(until - time.monotonic(), 0)))
            except TimeoutError:
                reason = f"no answer within {_PROBE_SECONDS:g} s"
                found.append(BucketHealth(name, _PROBE_SECONDS, "STORAGE_UNAVAILABLE", reason))
        return found

    def close(self) -> None:
        """Wait for nobody any more."""
        self._probes.shutdown(wait=False, cancel_futures=True)

    def _counter(self, name: str) -> Callable[[str, str, float], None]:
        def count(operation: str, outcome: str, seconds: float) -> None:
            refused = outcome == "refused"
            with self._lock:
                use = self._use[name]
                self._use[name] = replace(
                    use, requests=use.requests + (not refused), refused=use.refused + refused
                )

        return count

    def _rescued(self, read: RescueRead) -> None:
        with self._lock:
            use = self._use[read.bucket]
            self._use[read.bucket] = replace(use, rescued=use.rescued + 1)

    def _failed(self, failure: BucketFailure) -> None:
        now = self._clock.now()
        with self._lock:
            use = self._use[failure.bucket]
            self._use[failure.bucket] = replace(
                use, failures=use.failures + 1, last_failure=failure, last_failure_at=now
            )


def open_bucket(
    settings: BucketSettings, cache: ObjectCache | None = None, *, ask: bool = True, decides: bool = True
) -> Bucket:
    """Open a bucket as it is configured.

    Args:
        settings: The configuration.
        cache: Where the objects of remote buckets are kept for reading; without one, only their metadata
            can be read.
        ask: Whether its store has to answer.
        decides: Whether of two writers in it the first has to win.

    Raises:
        ConfigError: The configuration does not lead to a bucket, or to one in which two writers could both
            take place.
        StorageError: Its store cannot be reached, or does not let this server in.
    """
    if settings.kind == "local":
        return open_local_bucket(settings.name, settings.path)
    if settings.kind == "memory":
        return open_memory_bucket(settings.name, cache)
    bucket = open_s3_bucket(settings, cache)
    if ask:
        bucket.check()
        if decides:
            check_create_only(bucket)
    return bucket


def _health(bucket: Bucket) -> BucketHealth:
    begun_s = time.perf_counter()
    try:
        bucket.check()
    except LakehouseError as error:
        return BucketHealth(bucket.name, time.perf_counter() - begun_s, error.code, error.message)
    return BucketHealth(bucket.name, time.perf_counter() - begun_s)
