"""Journals: what happened, kept in the bucket and never changed afterwards."""

from lakehouse.journal.audit import AUDIT_SCHEMA, AuditJournal
from lakehouse.journal.bucket_errors import BUCKET_ERRORS_SCHEMA, BucketErrorJournal

__all__ = ["AUDIT_SCHEMA", "BUCKET_ERRORS_SCHEMA", "AuditJournal", "BucketErrorJournal"]
