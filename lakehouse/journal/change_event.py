"""One change of the lake, as the event journal keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from lakehouse import telemetry

SCHEMA_FIELD = "schema"
"""The field of events whose entity is a schema, by its full name."""
TRUNCATED = "truncated"
"""The action of the event that says how many rows a statement changed where not all are recorded."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who makes a change, and by what.

    Attributes:
        actor: The name of the principal.
        source: What causes it: ``sql``, ``ingest``, ``action:…``, ``maintenance``.
        workspace: What the principal's session is for, as it says itself.
        statement_id: The statement, where it is one.
        request_id: The call.
    """

    actor: str = ""
    source: str = ""
    workspace: str = ""
    statement_id: str = ""
    request_id: str = ""


_origin: ContextVar[Origin | None] = ContextVar("lakehouse_origin", default=None)


def current_origin() -> Origin:
    """Who is changing something in this context, as far as anybody said."""
    call = telemetry.call_fields.get() or {}
    said = _origin.get()
    if said is None:
        return Origin(actor=call.get("principal", ""), request_id=call.get("request_id", ""))
    if said.request_id or not call:
        return said
    return replace(said, request_id=call.get("request_id", ""))


@contextmanager
def acting(origin: Origin) -> Iterator[None]:
    """Changes within the ``with`` are made by this one; an outer one that says more is kept in the rest."""
    outer = _origin.get()
    if outer is not None:
        origin = Origin(
            origin.actor or outer.actor,
            origin.source or outer.source,
            origin.workspace or outer.workspace,
            origin.statement_id or outer.statement_id,
            origin.request_id or outer.request_id,
        )
    token = _origin.set(origin)
    try:
        yield
    finally:
        # A generator that nobody finishes may be closed from anywhere; who acts there is not touched.
        with suppress(ValueError):
            _origin.reset(token)


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
        source: What caused it: ``sql``, ``action:catalog.update``, ``ingest``, ``maintenance`` …; left out,
            what the origin says.
        origin: Who made it; left out, whoever acts in the context that it is recorded in.
        event_id: Tells it from all others, where the same change may be recorded twice.
        at: When it took place, where that is not now.
        is_recovered: Whether it was found in a table's history after a server had not recorded it.
        detail: What else there is to say, in words.
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
    origin: Origin | None = None
    event_id: str = ""
    at: datetime | None = None
    is_recovered: bool = False
    detail: str = ""


class ChangeRecorder(Protocol):
    """Takes changes that took place. Recording never fails and does not wait for storage."""

    def record(self, *events: ChangeEvent) -> None:
        """Put changes on record, in this order."""
        ...
