"""What a handler may know about the call it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.errors import StatementCancelled, StatementTimeout

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

    def stopping(self) -> Callable[[], None]:
        """What stops the work of a call from now on: its client went away, or its time is over.

        It raises ``StatementCancelled`` or ``StatementTimeout``.
        """
        clock, seconds = self.lakehouse.clock, self.limits.statement_timeout_s
        began_s = clock.monotonic()

        def check() -> None:
            self.check_cancelled()
            if seconds is not None and clock.monotonic() - began_s > seconds:
                raise StatementTimeout(f"the action ran longer than {seconds:g} s")

        return check
