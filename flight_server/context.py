"""What a handler may know about the call it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.errors import StatementCancelled

if TYPE_CHECKING:
    from lakehouse.access.guarded_catalog import GuardedCatalog
    from lakehouse.access.guarded_catalogs import GuardedCatalogs
    from lakehouse.access.principal import Principal
    from lakehouse.engine.session import Session
    from lakehouse.runtime import Lakehouse
    from lakehouse.types import TableName


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The bounds that hold for one call; ``None`` means unbounded."""

    statement_timeout_s: float | None = None
    result_bytes: int | None = None


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call: who, in which session, under which bounds, against which lakehouse.

    ``peer`` is the address the call came from. ``cancelled`` may be polled from any thread until the call
    has returned. What an action puts into ``noted`` is kept in the audit journal.
    """

    lakehouse: Lakehouse
    session: Session
    limits: CallLimits = field(default_factory=CallLimits)
    request_id: str = ""
    peer: str = ""
    cancelled: Callable[[], bool] = _never
    noted: dict[str, str | int] = field(default_factory=dict)

    @property
    def principal(self) -> Principal:
        """Who is calling."""
        return self.session.principal

    @property
    def lakes(self) -> GuardedCatalogs:
        """The catalogs as the caller sees them. Handlers and actions know no others."""
        return self.session.lakes

    def lake(self, name: TableName) -> GuardedCatalog:
        """The catalog of a table as the caller sees it.

        Raises:
            CatalogNotFound: There is none for the caller.
        """
        return self.session.lakes.of(name.catalog)

    def check_cancelled(self) -> None:
        """Raise ``StatementCancelled`` when the client went away or asked to stop."""
        if self.cancelled():
            raise StatementCancelled("the client cancelled the call")
