"""The append log: the one way in which journals get from memory into a bucket.

What is durable when:

- ``append`` only puts an event into memory. It costs microseconds, does no I/O and never waits for storage.
  A process that is killed loses what it appended since the last flush: at most ``flush_seconds`` or
  ``flush_events``, whichever comes first, as long as storage answers.
- ``flush`` returns when everything that was appended before the call is durable, and raises otherwise.
- ``close`` flushes; what it could not write is counted in the process's log.
- While storage is down, events are kept up to ``held_events`` and ``held_bytes``. Later ones are dropped,
  counted, and the gap is recorded in their place as an event of the kind ``gap``.

An event is never changed after it was written, and an object never rewritten with anything else.
"""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import structlog

from lakehouse.clock import Clock
from lakehouse.errors import LakehouseError, ObjectAlreadyExists, ObjectNotFound
from lakehouse.storage.bucket import Bucket
from lakehouse.storage.log_encoding import Entry, Event, LogEncoding, SeenEvents
from lakehouse.storage.log_objects import LogObjects, microseconds

_log = structlog.get_logger()

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=True)
_CLOSING_ATTEMPTS = 3
_DAY_US = 86_400_000_000

EventSource = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much an append log holds back, and for how long.

    ``flush_events``, ``flush_bytes`` and ``flush_seconds`` say when a batch is written; an object is closed
    once it reaches ``flush_bytes``. ``held_events`` and ``held_bytes`` bound what waits while storage is
    down, ``ring_events`` and ``ring_bytes`` the events kept for ``recent``. After ``compact_objects`` batches
    neighbours among them are merged; 0 never merges by itself. ``settle_seconds`` and ``target_bytes`` are
    those of ``LogObjects.compact``.
    """

    flush_events: int = 1000
    flush_bytes: int = 4_194_304
    flush_seconds: float = 5.0
    held_events: int = 100_000
    held_bytes: int = 67_108_864
    ring_events: int = 1000
    ring_bytes: int = 8_388_608
    retry_seconds: float = 0.5
    max_retry_seconds: float = 30.0
    compact_objects: int = 100
    settle_seconds: float = 60.0
    target_bytes: int = 33_554_432


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """What a log did since it was opened, and what waits.

    ``appended`` counts the dropped events too. ``logged_bytes`` is the size of the events that became
    durable, as lines of JSON; ``written_bytes`` that of all batches written for them, failed attempts
    included; ``merged_bytes`` that of the objects into which batches were merged.
    """

    appended: int
    dropped: int
    waiting: int
    durable: int
    batches: int
    logged_bytes: int
    written_bytes: int
    merged_bytes: int
    failures: int


class _Raw(NamedTuple):
    seq: int
    time: datetime
    source: EventSource
    size: int


@dataclass(slots=True)
class _Batch:
    us: int
    count: int
    size: int
    content: bytes
    last_seq: int
    was_tried: bool = False


class _Line(NamedTuple):
    seq: int
    us: int
    text: bytes


class AppendLog:
    """An append-only log of events (JSON objects) under a prefix of a bucket.

    Every event gets ``time`` (when it was appended), ``writer`` and ``seq``; see ``log_objects`` for the
    layout and for what order and uniqueness rest upon.

    Args:
        bucket: Where the events go.
        prefix: Key prefix of the log.
        clock: Source of time and of the writer's identifier.
        bounds: How much is held back, and for how long.
        encoding: What the objects hold; JSON lines when left out.
    """

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        clock: Clock,
        bounds: LogBounds | None = None,
        encoding: LogEncoding | None = None,
    ) -> None:
        self.objects = LogObjects(bucket, prefix, encoding)
        self._prefix = prefix
        self._clock = clock
        self._bounds = bounds or LogBounds()
        self.writer = clock.token()[-16:]
        self._lock = threading.Lock()  # over what follows; held for microseconds
        self._raw: deque[_Raw] = deque()
        self._waiting: deque[_Line] = deque()
        self._ring: deque[_Line] = deque()
        self._ring_bytes = 0
        self._seq = self._held_events = self._held_bytes = 0
        self._gap: tuple[int, datetime, datetime] | None = None
        self._dropped = self._durable = self._batches = self._failures = 0
        self._logged_bytes = self._written_bytes = 0
        self._encoding = threading.Lock()  # held while raw events become lines
        self._writing = threading.Lock()  # held while storage is written to
        self._batch: _Batch | None = None
        self._last_us = 0
        self._since_compaction = 0
        self._compact_after = self._bounds.compact_objects
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"append-log {prefix}", daemon=True)
        self._thread.start()

    def append(self, event: EventSource, size: int | None = None, at: datetime | None = None) -> bool:
        """Add an event; it is not durable yet. Safe to call from any thread.

        Args:
            event: A JSON object, not changed any more by the caller; or a function that makes one, called
                once in the thread that writes.
            size: About how many bytes it has; by default the length of its texts.
            at: When it took place, where that is not now.

        Returns:
            False if the event was dropped because too much is waiting already.
        """
        if size is None:
            size = 200 if callable(event) else 100 + sum(len(v) for v in event.values() if isinstance(v, str))
        now = self._clock.now()
        bounds = self._bounds
        with self._lock:
            if self._held_events >= bounds.held_events or self._held_bytes + size > bounds.held_bytes:
                self._seq += 1
                self._dropped += 1
                count, since, _ = self._gap or (0, now, now)
                self._gap = (count + 1, since, now)
                return False
            if self._gap is not None:
                self._add_gap(now)
            self._add(event, at or now, size)
            is_due = self._held_events >= bounds.flush_events or self._held_bytes >= bounds.flush_bytes
        if is_due and not self._wake.is_set():
            self._wake.set()
        return True

    def flush(self) -> int:
        """Make everything durable that was appended before this call; gives how many events this call wrote.

        Raises:
            LakehouseError: Storage did not confirm it. The events stay in memory and are tried again.
        """
        with self._writing:
            written = self._write_waiting()
            with self._lock:
                if self._gap is None:
                    return written
                self._add_gap(self._clock.now())
            return written + self._write_waiting()

    def recent(self, limit: int) -> list[Event]:
        """The newest events of this process, newest first, durable or not; does not read storage."""
        self._encode()
        with self._lock:
            lines = list(islice(reversed(self._ring), limit))
        return [json.loads(line.text) for line in lines]

    def waiting(self) -> list[Entry]:
        """The events that are not durable yet, in order."""
        self._encode()
        with self._lock:
            lines = list(self._waiting)
        return [Entry(self.writer, line.seq, json.loads(line.text), line.text[:-1]) for line in lines]

    def read(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[Event]:
        """Every stored event of all writers and every waiting one of this process, once, in order of writing.

        Args:
            since: Leaves out events before that time.
            until: Leaves out events of that time and later.

        Raises:
            StorageError: An object cannot be read.
        """
        waiting = self.waiting()  # first: what is flushed meanwhile is then seen in storage as well
        seen = SeenEvents()
        low = _iso(since) if since else ""
        high = _iso(until) if until else "~"
        for entry in self.objects.entries(microseconds(since) if since else 0):
            seen.is_new(entry.writer, entry.seq)
            if low <= str(entry.event.get("time", "")) < high:
                yield entry.event
        for entry in waiting:
            if seen.is_new(entry.writer, entry.seq) and low <= str(entry.event["time"]) < high:
                yield entry.event

    def compact(self, settle_seconds: float | None = None, since_us: int = 0) -> int:
        """Merge small objects into large ones, keeping the order; gives how many went into others.

        Args:
            settle_seconds: Objects younger than that are left alone; by default as in the bounds.
            since_us: Days before that time, in microseconds since the epoch, are left alone.

        Raises:
            StorageError: Storage failed on the way; the log is whole all the same.
        """
        settle = self._bounds.settle_seconds if settle_seconds is None else settle_seconds
        return self.objects.compact(self._clock, settle, self._bounds.target_bytes, since_us)

    def statistics(self) -> LogStatistics:
        """What the log did so far."""
        with self._lock:
            return LogStatistics(
                appended=self._seq,
                dropped=self._dropped,
                waiting=self._held_events,
                durable=self._durable,
                batches=self._batches,
                logged_bytes=self._logged_bytes,
                written_bytes=self._written_bytes,
                merged_bytes=self.objects.merged_bytes,
                failures=self._failures,
            )

    def close(self) -> None:
        """Flush and stop. Appending afterwards has no effect that lasts."""
        self._closing.set()
        self._wake.set()
        self._thread.join()
        for attempt in range(_CLOSING_ATTEMPTS):
            try:
                self.flush()
            except LakehouseError as error:
                if attempt == _CLOSING_ATTEMPTS - 1:
                    lost = self._held_events + self._dropped_in_gap()
                    _log.error("log_events_lost", log=self._prefix, events=lost, reason=str(error))
            else:
                return

    def _dropped_in_gap(self) -> int:
        return self._gap[0] if self._gap is not None else 0

    def _add(self, source: EventSource, now: datetime, size: int) -> None:
        self._seq += 1
        self._raw.append(_Raw(self._seq, now, source, size))
        self._held_events += 1
        self._held_bytes += size

    def _add_gap(self, now: datetime) -> None:
        assert self._gap is not None
        count, since, until = self._gap
        self._gap = None
        self._add(_gap(count, _iso(since), _iso(until), "too much waited to be written"), now, 300)
        _log.error("log_events_dropped", log=self._prefix, events=count, since=_iso(since))

    def _encode(self) -> None:
        """Turn what was appended into lines; not under the lock that ``append`` takes."""
        with self._encoding:
            with self._lock:
                raw, self._raw = self._raw, deque()
            for item in raw:
                line = self._line(item)
                with self._lock:
                    self._waiting.append(line)
                    self._held_bytes += len(line.text) - item.size
                    self._ring.append(line)
                    self._ring_bytes += len(line.text)
                    while len(self._ring) > self._bounds.ring_events or (
                        self._ring_bytes > self._bounds.ring_bytes and self._ring
                    ):
                        self._ring_bytes -= len(self._ring.popleft().text)

    def _line(self, item: _Raw) -> _Line:
        at = _iso(item.time)
        stamp: Event = {"time": at, "writer": self.writer, "seq": item.seq}
        try:
            made = item.source() if callable(item.source) else item.source
            event = {**stamp, **made, **stamp}
            text = _encoded(event)
        except Exception as error:  # noqa: BLE001 - one event that cannot be written must not stop the others
            _log.exception("log_event_unwritable", log=self._prefix)
            event = {**stamp, **_gap(1, at, at, f"the event could not be written: {type(error).__name__}")}
            text = _encoded(event)
        return _Line(item.seq, microseconds(item.time), text)

    def _write_waiting(self) -> int:
        self._encode()
        with self._lock:
            target = self._waiting[-1].seq if self._waiting else 0
        written = 0
        while (batch := self._batch or self._next_batch(target)) is not None:
            self._batch = batch
            self._store(batch)
            written += batch.count
        return written

    def _next_batch(self, target: int) -> _Batch | None:
        """The oldest waiting events as one batch, or None where none is as old as ``target``."""
        with self._lock:
            if not self._waiting or self._waiting[0].seq > target:
                return None
            lines: list[_Line] = []
            size = 0
            for line in self._waiting:
                if size >= self._bounds.flush_bytes:
                    break
                lines.append(line)
                size += len(line.text)
        # Never below the time of an event in it, so that readers can pass over what is too old for them.
        youngest = max(line.us for line in lines)
        us = max(microseconds(self._clock.now()), youngest, self._last_us + 1)
        content = self.objects.encoding.encode([line.text for line in lines])
        return _Batch(us, len(lines), size, content, lines[-1].seq)

    def _store(self, batch: _Batch) -> None:
        try:
            while not self._put(batch):
                batch.us += 1
                batch.was_tried = False
        except LakehouseError:
            with self._lock:
                self._failures += 1
            raise
        self._batch = None
        self._last_us = batch.us
        self._since_compaction += 1
        with self._lock:
            for _ in range(batch.count):
                self._waiting.popleft()
            self._held_events -= batch.count
            self._held_bytes -= batch.size
            self._durable += batch.count
            self._batches += 1
            self._logged_bytes += batch.size

    def _put(self, batch: _Batch) -> bool:
        """Write a batch under its number; False where that belongs to another writer.

        An attempt that failed may have left the batch in storage, so the next one keeps number and content.
        """
        with self._lock:
            self._written_bytes += len(batch.content)
        was_tried, batch.was_tried = batch.was_tried, True
        try:
            self._put_batch(batch)
        except ObjectAlreadyExists:
            return was_tried and self.objects.has_batch(batch.us, batch.content)
        return True

    def _put_batch(self, batch: _Batch) -> None:
        try:
            self.objects.put_batch(batch.us, batch.content)
        except ObjectNotFound:
            # Another process merged it between its writing and its flushing to the disk. It may be there
            # twice from now on, which readers see.
            self.objects.put_batch(batch.us, batch.content)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self._wake.wait(self._bounds.flush_seconds)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self.flush()
                self._compact_when_due()
            except Exception as error:  # noqa: BLE001 - the thread has to live as long as the log
                failures += 1
                if failures == 1:
                    held = self._held_events
                    _log.error("log_not_written", log=self._prefix, waiting=held, reason=str(error))
                delay = self._bounds.retry_seconds * 2 ** min(failures, 16)
                delay = min(self._bounds.max_retry_seconds, delay)
                self._closing.wait(random.uniform(delay / 2, delay))
            else:
                if failures:
                    _log.info("log_written_again", log=self._prefix, failures=failures)
                failures = 0

    def _compact_when_due(self) -> None:
        if not 0 < self._compact_after <= self._since_compaction:
            return
        self._since_compaction = 0
        try:
            self.compact(since_us=max(0, self._last_us - _DAY_US))
        except LakehouseError as error:
            # The log is whole all the same. Where objects may not be deleted, each attempt leaves one more.
            self._compact_after *= 2
            _log.warning("log_not_merged", log=self._prefix, reason=str(error))
        else:
            self._compact_after = self._bounds.compact_objects


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _gap(count: int, since: str, until: str, reason: str) -> Event:
    detail = f"{count} dropped from {since} to {until}: {reason}"
    return {"kind": "gap", "dropped": count, "since": since, "until": until, "detail": detail}


def _encoded(event: Event) -> bytes:
    # Half of a surrogate pair is no character: other readers of the file would stumble over it.
    return _ENCODER.encode(event).encode("utf-8", "replace") + b"\n"
