"""The stored half of an append log: objects of events under a prefix, how they are named, read and merged.

Layout: ``{prefix}/date=2026-11-21/batch_{us}.jsonl``, or ``.parquet``, as the log's encoding is. A batch's
number is the time of writing in microseconds since the epoch, at least that of its youngest event; the day is
that of the number. ``merged_{first}_{last}_{us}.jsonl`` holds what the batches ``first`` to ``last`` held.

Every event carries ``writer`` (random, one per log object in a process) and ``seq`` (counted by that writer).
A writer's batches have rising numbers, and a merged object takes the place of its first source, so in the
order of the names the ``seq`` of each writer only rises. An event whose ``seq`` does not rise is one that was
read already: an object and what it went into may stand side by side at any time, and nothing is seen twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from lakehouse.clock import Clock
from lakehouse.errors import ObjectAlreadyExists, ObjectNotFound, StorageError
from lakehouse.storage.bucket import Bucket
from lakehouse.storage.log_encoding import Entry, JsonLines, LogEncoding, SeenEvents

_log = structlog.get_logger()

_NAME = re.compile(
    r"(?P<kind>batch|merged)_(?P<first>\d{16})(?:_(?P<last>\d{16})_(?P<made>\d{16}))?\.(?:jsonl|parquet)"
)
_DAY = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_ROUNDS = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """Microseconds since the epoch."""
    return (time - _EPOCH) // _MICROSECOND


def day_of(us: int) -> str:
    """The UTC day of a time in microseconds since the epoch, as the name of its directory."""
    return f"date={(_EPOCH + timedelta(microseconds=us)).date().isoformat()}"


@dataclass(frozen=True, slots=True, order=True)
class LogObject:
    """One object of a log. The order of the fields is the order of reading.

    ``first_us`` and ``last_us`` are the numbers of the first and last batch in it, ``made_us`` is when it was
    written. Of objects that begin together merged ones come first.
    """

    first_us: int
    is_batch: bool
    last_us: int
    made_us: int
    name: str

    @classmethod
    def of(cls, name: str) -> LogObject | None:
        """The object of that name, or None where a log would not name an object so."""
        match = _NAME.fullmatch(name)
        if match is None or (match["kind"] == "merged") == (match["last"] is None):
            return None
        first = int(match["first"])
        last = int(match["last"] or first)
        return cls(first, match["kind"] == "batch", last, int(match["made"] or first), name)


class Listing(NamedTuple):
    """Objects in order, whether these are all up to the number ``end_us``, and that number."""

    objects: list[LogObject]
    is_complete: bool
    end_us: int


class LogObjects:
    """The objects of one log. Safe to use from several threads, and by several processes on one bucket.

    Args:
        bucket: Where they are.
        prefix: Key prefix of the log, without a slash at the end.
        encoding: What the objects hold; JSON lines when left out.

    Attributes:
        merged_bytes: How much this process has written to merge objects.
    """

    def __init__(self, bucket: Bucket, prefix: str, encoding: LogEncoding | None = None) -> None:
        self.encoding = encoding or JsonLines()
        self.merged_bytes = 0
        self._bucket = bucket
        self._prefix = prefix
        self._said: set[str] = set()

    def put_batch(self, us: int, content: bytes) -> None:
        """Write a batch of that number.

        Raises:
            ObjectAlreadyExists: The number is taken.
            StorageError: It is not known whether the batch was written.
        """
        self._bucket.put_new(self._batch_key(us), content)

    def has_batch(self, us: int, content: bytes) -> bool:
        """Whether the batch of that number is known to be durable and to hold exactly this content."""
        key = self._batch_key(us)
        try:
            if self._bucket.get(key) != content:
                return False
            if self._is_local(key):
                # After a failed fsync nobody knows what the disk holds, so the same bytes are written afresh.
                self._bucket.put(key, content)
        except StorageError:
            return False  # such as credentials that may write but not read
        return True

    def _is_local(self, key: str) -> bool:
        try:
            self._bucket.local_path(key)
        except StorageError:
            return False
        return True

    def days(self, since_us: int = 0) -> list[str]:
        """The directories of days that can hold events of that time or later, in order."""
        found = self._bucket.directories(self._prefix)
        return [day for day in found if _DAY.fullmatch(day) and day >= day_of(since_us)]

    def objects(self, day: str, end_us: int | None = None) -> Listing:
        """The objects of a day, in order.

        Listing is not atomic. What appeared between two listings, or was merged away during the first one,
        shows as a new object in the second; only what stands before it is sure to be complete. What is new
        behind all of the first listing was written after it, which is still true of its time.

        Args:
            day: The directory of the day.
            end_us: Number of the last object to give; by default the last one found at first.
        """
        before, after = self._listed(day), self._listed(day)
        end = max((found.first_us for found in before), default=-1) if end_us is None else end_us
        overtaken = min((found for found in after - before if found.first_us <= end), default=None)
        sure = (
            found for found in before if found.first_us <= end and (overtaken is None or found < overtaken)
        )
        return Listing(sorted(sure), overtaken is None, end)

    def entries(self, since_us: int = 0) -> Iterator[Entry]:
        """Every event that was stored when the iteration began, once, in order.

        Objects without any event of ``since_us`` or later are left out; others are given whole.

        Raises:
            StorageError: An object cannot be read.
        """
        seen = SeenEvents()
        for subject, content in self.contents(since_us):
            for entry in self.lines(content, subject):
                if seen.is_new(entry.writer, entry.seq):
                    yield entry

    def contents(self, since_us: int = 0) -> Iterator[tuple[str, bytes]]:
        """Name and content of every object that was there when the iteration began, in order, one at a time.

        Events may occur more than once in them: ``SeenEvents`` tells.

        Args:
            since_us: Objects without any event of that time or later are left out.

        Raises:
            StorageError: An object cannot be read.
        """
        for day in self.days(since_us):
            yield from self._contents_of(day, since_us)

    def newest(self, max_bytes: int, since_us: int = 0) -> tuple[list[bytes], bool]:
        """The contents of the newest objects in order, and whether older ones were left out.

        Events may occur more than once in them: ``SeenEvents`` tells.

        Args:
            max_bytes: How much to read; the object that goes beyond it is the last.
            since_us: Objects without any event of that time or later are left out.
        """
        contents: list[bytes] = []
        for day in reversed(self.days(since_us)):
            found, is_cut = self._newest_of(day, max_bytes - sum(map(len, contents)), since_us)
            contents[:0] = found
            if is_cut:
                return contents, True
        return contents, False

    def compact(self, clock: Clock, settle_seconds: float, target_bytes: int, since_us: int = 0) -> int:
        """Merge neighbouring objects; gives how many went into others.

        A merged object appears whole before the first of its sources is removed, so every event is there at
        least once at any time, and ``seq`` shows what is there twice. Several processes may do this at once.

        Args:
            clock: Says what is young.
            settle_seconds: Objects younger than that stay, so that no listing under way misses both an object
                and the one it went into.
            target_bytes: Size from which objects are left alone.
            since_us: Days before that time are left alone.
        """
        merged = 0
        for day in self.days(since_us):
            try:
                for run in self._runs(day, clock, settle_seconds, target_bytes):
                    merged += self._merge(day, run, clock)
            except ObjectNotFound:
                continue  # another process is merging the same objects
        return merged

    def _batch_key(self, us: int) -> str:
        return f"{self._prefix}/{day_of(us)}/batch_{us:016d}.{self.encoding.suffix}"

    def _key(self, day: str, found: LogObject) -> str:
        return f"{self._prefix}/{day}/{found.name}"

    def _listed(self, day: str) -> set[LogObject]:
        names = self._bucket.names(f"{self._prefix}/{day}")
        end = f".{self.encoding.suffix}"
        found = {name: LogObject.of(name) if name.endswith(end) else None for name in names}
        for name, what in found.items():
            if what is None:
                self._say(f"{day}/{name}", "its name is not one of this log's")
        return {what for what in found.values() if what is not None}

    def _say(self, name: str, reason: str) -> None:
        if name not in self._said and len(self._said) < 1000:
            self._said.add(name)
            _log.warning("log_object_skipped", object=f"{self._prefix}/{name}", reason=reason)

    def lines(self, content: bytes, subject: str) -> Iterator[Entry]:
        """The events in an object's content; what is none is left out, and the log says so.

        Args:
            content: What the object holds.
            subject: The object, as the log calls it.
        """
        for entry in self.encoding.entries(content):
            if entry is not None:
                yield entry
            else:
                self._say(subject, "something in it is not an event")

    def _contents_of(self, day: str, since_us: int) -> Iterator[tuple[str, bytes]]:
        done: set[LogObject] = set()
        end_us: int | None = None
        for _ in range(_ROUNDS):
            objects, complete, end_us = self.objects(day, end_us)
            for found in objects:
                if found in done or found.last_us < since_us:
                    continue
                try:
                    content = self._bucket.get(self._key(day, found))
                except ObjectNotFound:
                    complete = False  # merged since it was listed
                    break
                done.add(found)
                yield f"{day}/{found.name}", content
            if complete:
                return
        raise _too_busy(self._prefix, day)

    def _newest_of(self, day: str, max_bytes: int, since_us: int) -> tuple[list[bytes], bool]:
        for _ in range(_ROUNDS):
            objects, complete, _ = self.objects(day)
            wanted = [found for found in objects if found.last_us >= since_us]
            contents: list[bytes] = []
            room = max_bytes
            try:
                while complete and wanted and room > 0:
                    contents.insert(0, self._bucket.get(self._key(day, wanted.pop())))
                    room -= len(contents[0])
            except ObjectNotFound:
                continue
            if complete:
                return contents, bool(wanted)
        raise _too_busy(self._prefix, day)

    def _runs(
        self, day: str, clock: Clock, settle_seconds: float, target_bytes: int
    ) -> list[list[LogObject]]:
        """Neighbours that are worth merging, oldest first within each run.

        A merged object goes into another only once what came after it is as large, so that a log is rewritten
        a number of times that grows with the logarithm of its size; or when its sources are still there.
        """
        young = microseconds(clock.now()) - int(settle_seconds * 1e6)
        runs: list[list[LogObject]] = [[]]
        total = 0
        for found in reversed(self.objects(day).objects):
            size = 0 if found.made_us > young else self._bucket.size(self._key(day, found))
            has_sources = bool(runs[-1]) and runs[-1][0].first_us <= found.last_us
            if found.made_us > young or size >= target_bytes:
                runs.append([])
            elif found.is_batch or size <= total or has_sources:
                runs[-1].insert(0, found)
                total += size
            else:
                runs.append([])
            if not runs[-1] or total >= target_bytes:
                runs.append([])
                total = 0
        return [run for run in runs if len(run) > 1]

    def _merge(self, day: str, run: list[LogObject], clock: Clock) -> int:
        merged = self.encoding.merged(self._bucket.get(self._key(day, found)) for found in run)
        if merged is None:
            return 0  # what cannot be read is nothing to throw away
        self._put_merged(day, run, merged, microseconds(clock.now()))
        for found in run:
            try:
                self._bucket.delete(self._key(day, found))
            except ObjectNotFound:
                continue
        return len(run)

    def _put_merged(self, day: str, run: list[LogObject], content: bytes, made_us: int) -> None:
        last = max(found.last_us for found in run)
        for us in range(made_us, made_us + _ROUNDS):
            name = f"merged_{run[0].first_us:016d}_{last:016d}_{us:016d}.{self.encoding.suffix}"
            try:
                self._bucket.put_new(f"{self._prefix}/{day}/{name}", content)
            except ObjectAlreadyExists:
                continue
            self.merged_bytes += len(content)
            return
        raise _too_busy(self._prefix, day)


def _too_busy(prefix: str, day: str) -> StorageError:
    return StorageError(
        f"the log '{prefix}/{day}' changed faster than it could be read, {_ROUNDS} times", "try again"
    )
