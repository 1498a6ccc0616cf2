"""Journals: what happened, kept in the bucket and never changed afterwards."""

from lakehouse.journal.audit import AuditJournal
from lakehouse.journal.audit_table import AUDIT_SCHEMA

__all__ = ["AUDIT_SCHEMA", "AuditJournal"]
