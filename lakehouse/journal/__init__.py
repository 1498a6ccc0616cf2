"""Journals: what happened, kept in the bucket and never changed afterwards."""

from lakehouse.journal.audit import AUDIT_SCHEMA, AuditJournal
from lakehouse.journal.bucket_errors import BUCKET_ERRORS_SCHEMA, BucketErrorJournal
from lakehouse.journal.events import EVENTS_SCHEMA, EventFilter, EventJournal

__all__ = [
    "AUDIT_SCHEMA",
    "BUCKET_ERRORS_SCHEMA",
    "EVENTS_SCHEMA",
    "AuditJournal",
    "BucketErrorJournal",
    "EventFilter",
    "EventJournal",
]
