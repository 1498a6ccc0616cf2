"""Bearer tokens that a login gives out, in place of a password that would go with every call."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta

from lakehouse.access.principal import Principal
from lakehouse.clock import Clock


def digest(token: str) -> str:
    """What a token is known by where the token itself must not be kept.

    A plain SHA-256 is right for this: tokens are as random as the digest is long, so there is nothing to
    guess that a slow hash would protect.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A token that was given out.

    Attributes:
        digest: Names the token, and with it the session; the token itself is not kept.
        principal: Whom it was given to.
        expires_s: When it ends, on the clock that never goes backwards.
    """

    digest: str
    principal: Principal
    expires_s: float


class SessionTokens:
    """The tokens given out and not yet ended. They are lost with the process; clients log in again.

    Args:
        clock: Source of time.
        lifetime_seconds: How long a token is good for.
        max_per_principal: How many one principal may have; its oldest give way.
    """

    def __init__(self, clock: Clock, lifetime_seconds: float, max_per_principal: int) -> None:
        self._clock = clock
        self._lifetime_seconds = lifetime_seconds
        self._max_per_principal = max_per_principal
        self._tokens: dict[str, SessionToken] = {}
        self._holders: dict[Principal, OrderedDict[str, None]] = {}
        self._lock = threading.Lock()

    def issue(self, principal: Principal) -> str:
        """A fresh token for a principal."""
        token = secrets.token_urlsafe(32)
        expires = self._clock.now() + timedelta(seconds=self._lifetime_seconds)
        issued = SessionToken(
            digest(token),
            replace(principal, expires_at=expires),
            self._clock.monotonic() + self._lifetime_seconds,
        )
        with self._lock:
            self._tokens[issued.digest] = issued
            held = self._holders.setdefault(principal, OrderedDict())
            held[issued.digest] = None
            self._trim(held)
        return token

    def _trim(self, held: OrderedDict[str, None]) -> None:
        """Forget a principal's tokens that have ended, oldest first, and those that are too many."""
        now = self._clock.monotonic()
        while held:
            oldest = next(iter(held))
            if len(held) <= self._max_per_principal and self._tokens[oldest].expires_s > now:
                return
            del held[oldest], self._tokens[oldest]

    def find(self, token_digest: str) -> SessionToken | None:
        """The token of that digest, if it was given out and has not ended."""
        found = self._tokens.get(token_digest)
        if found is None or found.expires_s > self._clock.monotonic():
            return found
        self.revoke(token_digest)
        return None

    def revoke(self, token_digest: str) -> None:
        """End a token; harmless when there is none of that digest."""
        with self._lock:
            found = self._tokens.pop(token_digest, None)
            if found is None:
                return
            held = self._holders[found.principal]
            held.pop(token_digest, None)
            if not held:
                del self._holders[found.principal]

    def count(self) -> int:
        """How many tokens are kept."""
        return len(self._tokens)
