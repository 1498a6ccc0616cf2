"""Changing a table's metadata without copying what stays the same.

pyiceberg ends every update with a deep copy, and asks for the updated metadata a dozen times per commit. On
a table of 500 snapshots that makes a commit take 600 ms instead of 25. Metadata is never modified here, so
parts of it can be shared between versions.
"""

from __future__ import annotations

import time
from typing import Any

from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import SnapshotLogEntry
from pyiceberg.table.update import (
    TableUpdate,
    _apply_table_update,
    _TableMetadataUpdateContext,
    _update_table_metadata_log,
)


def updated_metadata(
    base: TableMetadata, updates: tuple[TableUpdate, ...], location: str | None = None
) -> TableMetadata:
    """The metadata with updates applied; shares what did not change with ``base``.

    Args:
        base: The metadata of a table that exists.
        updates: What to change, in order.
        location: Where ``base`` is kept, to be noted in the log of former versions.
    """
    context = _TableMetadataUpdateContext()
    metadata = base
    for update in updates:
        metadata = _apply_table_update(update, metadata, context)
    if not context.has_changes():
        return base
    log = _log(base, metadata)
    updated_ms = max([metadata.last_updated_ms, *(entry.timestamp_ms for entry in log[-1:])])
    metadata = metadata.model_copy(update={"snapshot_log": log, "last_updated_ms": updated_ms})
    if location is not None:
        metadata = _update_table_metadata_log(metadata, location, base.last_updated_ms)
    if metadata.last_updated_ms == base.last_updated_ms:
        metadata = metadata.model_copy(update={"last_updated_ms": int(time.time() * 1000)})
    metadata.spec().check_compatible(metadata.schema())
    metadata.sort_order().check_compatible(metadata.schema())
    return metadata


def _log(base: TableMetadata, metadata: TableMetadata) -> list[SnapshotLogEntry]:
    """Which snapshot was current since when, so that a time leads to the right snapshot or to none.

    When a snapshot is removed, what was current before it must not seem to have been current until the next
    one: the log begins after the last removed one (table specification, snapshot-log). And the clock may have
    gone backwards since the last entry.
    """
    log, kept = metadata.snapshot_log, {snapshot.snapshot_id for snapshot in metadata.snapshots}
    if len(metadata.snapshots) < len(base.snapshots):
        gone = [i for i, entry in enumerate(base.snapshot_log) if entry.snapshot_id not in kept]
        log = (
            [*base.snapshot_log[gone[-1] + 1 :], *log[len(base.snapshot_log) - len(gone) :]] if gone else log
        )
    if len(log) > 1 and log[-1].timestamp_ms <= log[-2].timestamp_ms:
        log = [*log[:-1], log[-1].model_copy(update={"timestamp_ms": log[-2].timestamp_ms + 1})]
    return log


class SharingTransaction(Transaction):
    """A transaction that applies its updates once, not each time that somebody looks at the result."""

    def __init__(self, table: Any) -> None:
        super().__init__(table)
        self._applied: tuple[tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The metadata with the updates that were staged so far."""
        if not self._updates:
            return self._table.metadata
        if self._applied is None or self._applied[0] is not self._updates:
            self._applied = (self._updates, updated_metadata(self._table.metadata, self._updates))
        return self._applied[1]
