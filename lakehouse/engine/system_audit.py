"""``system.audit``: the audit journal as a table for those who may see what everybody did."""

from __future__ import annotations

from lakehouse.engine.system_tables import SystemTable
from lakehouse.journal import AUDIT_SCHEMA, AuditJournal


def audit_table(journal: AuditJournal) -> SystemTable:
    """The table over an audit journal."""
    return SystemTable(
        "audit",
        "Every statement, action and attempt to authenticate: who, what, which tables, with what outcome",
        AUDIT_SCHEMA,
        journal.table,
        personal=False,
    )
