"""One change of the lake, as the event journal keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """A change that took place. Who made it, when and for which call is added by the journal.

    Attributes:
        action: ``create``, ``commit``, ``alter``, ``rename``, ``drop``, ``register``, ``update``,
            ``resync``, ``swap`` …; of a row ``insert``, ``update``, ``delete``.
        entity: What changed: the full name of a dataset, or another name that its kind has.
        entity_id: Its id that outlives renames, or empty.
        field: Which property or column changed; empty where the whole did.
        old: The former value, anything that JSON can say; None where there was none.
        new: The present one.
        key: Of a row, the values of its key by column; None where the change is not one of a row.
        snapshot_id: The snapshot that brought it, where one did.
        source: What caused it: ``sql``, ``action:catalog.update``, ``ingest``, ``maintenance`` …
    """

    action: str
    entity: str
    entity_id: str = ""
    field: str = ""
    old: Any = None
    new: Any = None
    key: Mapping[str, Any] | None = None
    snapshot_id: int | None = None
    source: str = ""


class ChangeRecorder(Protocol):
    """Takes changes that took place. Recording never fails and does not wait for storage."""

    def record(self, *events: ChangeEvent) -> None:
        """Put changes on record, in this order."""
        ...
