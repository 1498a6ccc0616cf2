"""What a handler may know about the call it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.errors import StatementCancelled

if TYPE_CHECKING:
    from lakehouse.engine.session import Session
    from lakehouse.runtime import Lakehouse


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. ``roles`` decides what they may do."""

    name: str
    roles: frozenset[str] = frozenset()


ANONYMOUS = Principal("anonymous", frozenset({"writer"}))


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

    ``cancelled`` may be polled from any thread until the call has returned.
    """

    lakehouse: Lakehouse
    session: Session
    principal: Principal = ANONYMOUS
    limits: CallLimits = field(default_factory=CallLimits)
    request_id: str = ""
    cancelled: Callable[[], bool] = _never

    def check_cancelled(self) -> None:
        """Raise ``StatementCancelled`` when the client went away or asked to stop."""
        if self.cancelled():
            raise StatementCancelled("the client cancelled the call")
