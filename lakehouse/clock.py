"""Time and identifiers, injected so that tests can fix them."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the program gets time and fresh identifiers from."""

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        ...

    def token(self) -> str:
        """An unguessable identifier of 32 hexadecimal digits."""
        ...


class SystemClock:
    """The machine's clock and its cryptographic random source."""

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def token(self) -> str:
        """An unguessable identifier of 32 hexadecimal digits."""
        return secrets.token_hex(16)


@dataclass
class FixedClock:
    """A clock for tests: stands still until told otherwise, and counts its tokens."""

    time: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    elapsed_s: float = 0.0
    tokens: int = 0

    def now(self) -> datetime:
        """The time this clock was set to."""
        return self.time

    def monotonic(self) -> float:
        """The seconds this clock was advanced by."""
        return self.elapsed_s

    def token(self) -> str:
        """The next number, as 32 hexadecimal digits."""
        self.tokens += 1
        return f"{self.tokens:032x}"
