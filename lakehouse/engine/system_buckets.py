"""``system.buckets`` and ``system.bucket_errors``: what storage there is, and what went wrong with it."""

from __future__ import annotations

import pyarrow as pa

from lakehouse.engine.system_tables import SystemTable
from lakehouse.journal import BUCKET_ERRORS_SCHEMA, BucketErrorJournal
from lakehouse.storage import Buckets

BUCKETS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("bucket_class", pa.string()),
        ("kind", pa.string()),
        ("is_primary", pa.bool_()),
        ("endpoint", pa.string()),
        ("location", pa.string()),
        ("state", pa.string()),
        ("requests", pa.int64()),
        ("failures", pa.int64()),
        ("refused", pa.int64()),
        ("rescued", pa.int64()),
        ("last_failure_at", pa.timestamp("us", tz="UTC")),
        ("last_operation", pa.string()),
        ("last_key", pa.string()),
        ("last_code", pa.string()),
        ("last_error", pa.string()),
    ]
)


def buckets_table(buckets: Buckets) -> SystemTable:
    """The table of the configured buckets and of what became of the requests to them."""
    return SystemTable(
        "buckets",
        "The configured buckets, with the requests since the start of this server and the last failure",
        BUCKETS_SCHEMA,
        lambda _: pa.Table.from_pylist(bucket_rows(buckets), BUCKETS_SCHEMA),
        personal=False,
    )


def bucket_errors_table(journal: BucketErrorJournal) -> SystemTable:
    """The table over the error journal."""
    return SystemTable(
        "bucket_errors",
        "Every request to a bucket that failed: bucket, key, operation, error, and for whom",
        BUCKET_ERRORS_SCHEMA,
        journal.table,
        personal=False,
    )


def bucket_rows(buckets: Buckets) -> list[dict[str, object]]:
    """One row for each bucket, with the columns of ``BUCKETS_SCHEMA``."""
    rows = []
    for name, settings in buckets.settings.items():
        use, is_remote = buckets.use(name), settings.kind != "local"
        last = use.last_failure
        rows.append(
            {
                "name": name,
                "bucket_class": settings.bucket_class,
                "kind": settings.kind,
                "is_primary": buckets[name] is buckets.primary,
                "endpoint": settings.endpoint or None,
                "location": buckets[name].uri if is_remote else None,
                "state": buckets.state(name).value,
                "requests": use.requests,
                "failures": use.failures,
                "refused": use.refused,
                "rescued": use.rescued,
                "last_failure_at": use.last_failure_at,
                "last_operation": last.operation if last else None,
                "last_key": last.key if last else None,
                "last_code": last.error.code if last else None,
                "last_error": last.error.message if last else None,
            }
        )
    return rows
