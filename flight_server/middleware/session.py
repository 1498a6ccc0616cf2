"""Which session a call belongs to: by bearer token, else by cookie, else by the peer's address."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

import pyarrow.flight as flight

COOKIE = "arrow_flight_session_id"
HANDSHAKE = getattr(flight.FlightMethod, "HANDSHAKE", None)


class SessionMiddleware(flight.ServerMiddleware):
    """What one call said about its session.

    Attributes:
        presented: The token the client sent and the server knows, or empty.
        offered: A fresh token offered to a client that sent none, or empty.
        user: The user name of a Basic header, or empty.
    """

    def __init__(self, presented: str, offered: str, user: str, *, bearer: bool) -> None:
        super().__init__()
        self.presented = presented
        self.offered = offered
        self.user = user
        self._bearer = bearer

    def sending_headers(self) -> dict[str, str]:
        """Offer the session as a cookie, and as a bearer token to a client that logged in."""
        if not self.offered:
            return {}
        headers = {"set-cookie": f"{COOKIE}={self.offered}; Path=/; HttpOnly"}
        if self._bearer:
            headers["authorization"] = f"Bearer {self.offered}"
        return headers


class SessionMiddlewareFactory(flight.ServerMiddlewareFactory):
    """Reads the headers of every call.

    Args:
        known: Whether a token belongs to an open session.
    """

    def __init__(self, known: Callable[[str], bool]) -> None:
        super().__init__()
        self._known = known

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> SessionMiddleware:
        """Note what the call presents."""
        scheme, _, credentials = _header(headers, "authorization").partition(" ")
        user = _basic_user(credentials) if scheme.lower() == "basic" else ""
        candidates = [credentials.strip()] if scheme.lower() == "bearer" else []
        candidates.append(_cookie(headers))
        for token in candidates:
            if token and self._known(token):
                return SessionMiddleware(token, "", user, bearer=False)
        return SessionMiddleware("", secrets.token_hex(16), user, bearer=bool(user))


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


def _basic_user(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[0] or "anonymous"
    except (binascii.Error, UnicodeDecodeError):
        return "anonymous"
