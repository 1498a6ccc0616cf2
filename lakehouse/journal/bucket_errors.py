"""The error journal: every request to a bucket that failed, so that one question tells what is broken."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import pyarrow as pa

from lakehouse import telemetry
from lakehouse.clock import Clock
from lakehouse.errors import LakehouseError, StorageError
from lakehouse.journal.event_table import EventTable
from lakehouse.storage import Bucket, BucketFailure
from lakehouse.storage.append_log import AppendLog, LogBounds, LogStatistics
from lakehouse.storage.log_encoding import Event
from lakehouse.storage.rescue import RescueRead

BUCKET_ERRORS_PREFIX = "_errors/bucket_errors"
BUCKET_ERRORS_SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("kind", pa.string()),
        ("bucket", pa.string()),
        ("key", pa.string()),
        ("operation", pa.string()),
        ("code", pa.string()),
        ("error", pa.string()),
        ("duration_s", pa.float64()),
        ("request_id", pa.string()),
        ("principal", pa.string()),
        ("trace_id", pa.string()),
        ("dropped", pa.int64()),
        ("detail", pa.string()),
        ("writer", pa.string()),
        ("seq", pa.int64()),
    ]
)
"""``kind`` is error, rescue (what was read in the rescue bucket instead), gap or truncated.

``writer`` and ``seq`` identify an event.
"""

_KEY_CHARACTERS = 1024
_RECENT = 1000


class BucketErrorJournal:
    """Keeps the failures of all buckets in the primary one, under ``_errors/bucket_errors/``.

    Recording never fails and never waits for storage. While the primary bucket itself is out of order, the
    newest failures are to be had from memory.

    Args:
        bucket: The primary bucket.
        clock: Source of time.
    """

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._events = AppendLog(bucket, BUCKET_ERRORS_PREFIX, clock, LogBounds())
        self._table = EventTable(BUCKET_ERRORS_SCHEMA, BUCKET_ERRORS_PREFIX)

    def watch(self, buckets: Iterable[Bucket]) -> None:
        """Record what fails in these buckets from now on, and what was read in the rescue bucket instead."""
        for bucket in buckets:
            bucket.failure_observers.append(self.record)
            bucket.rescue_observers.append(self.record_rescue)

    def record(self, failure: BucketFailure) -> None:
        """Record a failure."""
        if failure.key.startswith(BUCKET_ERRORS_PREFIX):
            return  # what cannot be written of this journal is counted by its log
        self._append(
            "error", failure.bucket, failure.key, failure.operation, failure.error, round(failure.seconds, 6)
        )

    def record_rescue(self, read: RescueRead) -> None:
        """Record that something was read in the rescue bucket, and why."""
        where = f"read in bucket '{read.rescue}'"
        self._append("rescue", read.bucket, read.key, read.operation, read.cause, None, where)

    def _append(
        self,
        kind: str,
        bucket: str,
        key: str,
        operation: str,
        error: LakehouseError,
        seconds: float | None,
        detail: str | None = None,
    ) -> None:
        call = telemetry.call_fields.get() or {}
        span = telemetry.current()
        self._events.append(
            {
                "kind": kind,
                "bucket": bucket,
                "key": key[:_KEY_CHARACTERS],
                "operation": operation,
                "code": error.code,
                "error": error.message,
                "duration_s": seconds,
                "detail": detail,
                "request_id": call.get("request_id"),
                "principal": call.get("principal"),
                "trace_id": span.trace_id if span else None,
            }
        )

    def recent(
        self,
        limit: int,
        *,
        bucket: str | None = None,
        operation: str | None = None,
        since: datetime | None = None,
    ) -> list[Event]:
        """The newest failures that this process saw, newest first; storage is not read.

        Args:
            limit: How many at most.
            bucket: Only of this bucket.
            operation: Only of this operation.
            since: Only from that time on.
        """
        found = [
            event
            for event in self._events.recent(_RECENT)
            if bucket in (None, event.get("bucket"))
            and operation in (None, event.get("operation"))
            and (since is None or datetime.fromisoformat(event["time"]) >= since)
        ]
        return found[:limit]

    def table(self, principal: str | None = None) -> pa.Table:
        """The newest failures that all servers recorded, oldest first, as ``BUCKET_ERRORS_SCHEMA`` says.

        While the stored ones cannot be read, they are those that this process saw.
        """
        try:
            return self._table.read(self._events)
        except StorageError:
            return self._table.remembered(self._events, _RECENT)

    def flush(self) -> int:
        """Make durable what was recorded so far; gives how many events this call wrote.

        Raises:
            LakehouseError: Storage did not confirm it; the events are kept and tried again.
        """
        return self._events.flush()

    def compact(self) -> int:
        """Merge small objects of the journal into large ones; gives how many went into others.

        Raises:
            StorageError: Storage failed on the way; the journal is whole all the same.
        """
        return self._events.compact()

    def statistics(self) -> LogStatistics:
        """How much was recorded, written and dropped."""
        return self._events.statistics()

    def close(self) -> None:
        """Make everything durable and stop."""
        self._events.close()
