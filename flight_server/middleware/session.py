"""Which session a call belongs to: by bearer token, else by cookie, else by the peer's address."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

import pyarrow.flight as flight

COOKIE = "arrow_flight_session_id"
_MAX_ISSUED = 10_000


class SessionMiddleware(flight.ServerMiddleware):
    """What one call said about its session.

    Attributes:
        presented: The token the client sent and the server knows, or empty.
        offered: A fresh token offered to a client that sent none, or empty.
    """

    def __init__(self, presented: str, offered: str, *, bearer: bool) -> None:
        super().__init__()
        self.presented = presented
        self.offered = offered
        self._bearer = bearer

    def sending_headers(self) -> dict[str, str]:
        """Offer the session as a cookie, and as a bearer token to a client that logs in."""
        if not self.offered:
            return {}
        headers = {"set-cookie": f"{COOKIE}={self.offered}; Path=/; HttpOnly"}
        if self._bearer:
            headers["authorization"] = f"Bearer {self.offered}"
        return headers


class SessionMiddlewareFactory(flight.ServerMiddlewareFactory):
    """Reads the headers of every call.

    A handshake reaches no handler, so the tokens given out in one are remembered here until they are used.

    Args:
        known: Whether a token belongs to an open session.
    """

    def __init__(self, known: Callable[[str], bool]) -> None:
        super().__init__()
        self._known = known
        self._issued: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> SessionMiddleware:
        """Note what the call presents."""
        scheme, _, credentials = _header(headers, "authorization").partition(" ")
        candidates = [credentials.strip()] if scheme.lower() == "bearer" else []
        candidates.append(_cookie(headers))
        for token in candidates:
            if token and (self._known(token) or token in self._issued):
                return SessionMiddleware(token, "", bearer=False)
        offered = secrets.token_hex(16)
        if info.method == flight.FlightMethod.HANDSHAKE:
            self._issue(offered)
        return SessionMiddleware("", offered, bearer=scheme.lower() == "basic")

    def _issue(self, token: str) -> None:
        with self._lock:
            self._issued[token] = None
            if len(self._issued) > _MAX_ISSUED:
                self._issued.popitem(last=False)


def _header(headers: dict[str, list[str]], name: str) -> str:
    for key, values in headers.items():
        if key.lower() == name and values:
            return values[0]
    return ""


def _cookie(headers: dict[str, list[str]]) -> str:
    try:
        cookie = SimpleCookie(_header(headers, "cookie"))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""
