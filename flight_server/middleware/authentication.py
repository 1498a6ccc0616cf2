"""Who is calling, and in which session: by bearer token, else by cookie, else by the peer's address."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

import pyarrow.flight as flight

from flight_server.errors import wire_errors
from flight_server.middleware.tracebacks import hide_tracebacks
from lakehouse.access.authenticator import Authenticator, Caller
from lakehouse.access.principal import Principal

COOKIE = "arrow_flight_session_id"
_MAX_COOKIES = 4096
# What is given out as a cookie; sessions have other names too, which are nothing to present.
_OFFERED = re.compile(r"[0-9a-f]{32}")


Known = Callable[[Principal, str], bool]
"""Whether a cookie belongs to an open session of a principal."""


class AuthenticationMiddleware(flight.ServerMiddleware):
    """What one call said about its caller and its session.

    Attributes:
        token: Names the session that the caller presented: that of the bearer token, else the cookie of an
            open session of the same principal; empty where there is neither. Ask for ``principal`` first.
        offered: A fresh cookie for a caller that presented no session, or empty. It stands for no session
            until the server says so, and never for a principal.
    """

    def __init__(
        self, authenticator: Authenticator, known: Known, header: str, caller: Caller | None, cookie: str
    ) -> None:
        super().__init__()
        self._authenticator = authenticator
        self._known = known
        self._header = header
        self._caller = caller
        self._login = ""
        self._cookie = cookie
        self.token = "" if caller is None else self._session_of(caller)
        self.offered = "" if self.token else secrets.token_hex(16)
        # The answer's headers leave before the caller is known; the cookie that it sent may be a good one.
        self._answers_cookie = not self.token and not (cookie and caller is None)

    def _session_of(self, caller: Caller) -> str:
        if caller.session:
            return caller.session
        return self._cookie if self._cookie and self._known(caller.principal, self._cookie) else ""

    def principal(self, context: flight.ServerCallContext) -> Principal:
        """Who is calling.

        Raises:
            Unauthenticated: The credentials are missing or not right, or there were too many attempts.
        """
        if self._caller is not None:
            return self._caller.principal
        return self.identify(context.peer(), context.peer_identity().decode("utf-8", "replace"))

    def identify(self, peer: str = "", certificate: str = "") -> Principal:
        """Who is calling, from this address and with this certificate as far as they are known.

        Raises:
            Unauthenticated: The credentials are missing or not right, or there were too many attempts.
        """
        caller = self._caller = self._authenticator.authenticate(self._header, peer, certificate)
        self.token = self._session_of(caller)
        return caller.principal

    def log_in(self) -> None:
        """Check the credentials of a handshake, which reaches no handler.

        Raises:
            Unauthenticated: They are missing or not right, or there were too many attempts.
        """
        self._login = self._authenticator.log_in(self._header)

    def sending_headers(self) -> dict[str, str]:
        """The token of a login, else the cookie offered."""
        if self._login:
            return {"authorization": f"Bearer {self._login}"}
        if self._answers_cookie:
            return {"set-cookie": f"{COOKIE}={self.offered}; Path=/; HttpOnly"}
        return {}


class AuthenticationMiddlewareFactory(flight.ServerMiddlewareFactory):
    """Reads the headers of every call.

    Args:
        authenticator: Knows who is who.
        known: Whether a cookie belongs to an open session of a principal.
    """

    def __init__(self, authenticator: Authenticator, known: Known) -> None:
        super().__init__()
        hide_tracebacks()  # headers that are not text fail before they are seen here
        self._authenticator = authenticator
        self._known = known

    def auth_handler(self) -> flight.ServerAuthHandler | None:
        """What the server is to be given for handshakes.

        With one of these the transport keeps the names in clients' certificates to itself, so where those
        matter there are no handshakes, and user and password come with every call.
        """
        return None if self._authenticator.accepts_certificates else _HandshakeByHeader()

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> AuthenticationMiddleware:
        """Note what the call presents; a handshake is decided here."""
        try:
            return self._start(info.method, headers)
        except Exception:
            # Whatever is not a wire error would reach the client with a traceback.
            with wire_errors("middleware"):
                raise
            raise

    def _start(self, method: flight.FlightMethod, headers: dict[str, list[str]]) -> AuthenticationMiddleware:
        found = headers.get("authorization")
        header = found[0] if found else ""
        caller = self._authenticator.recall(header)
        cookie = "" if caller is not None and caller.session else _cookie(headers)
        middleware = AuthenticationMiddleware(self._authenticator, self._known, header, caller, cookie)
        if not self._authenticator.accepts_certificates:
            if method == flight.FlightMethod.HANDSHAKE:
                middleware.log_in()
            elif method == flight.FlightMethod.GET_SCHEMA and caller is None:
                middleware.identify()  # the handler could refuse only with the wrong status
        return middleware


def _cookie(headers: dict[str, list[str]]) -> str:
    text = "; ".join(headers.get("cookie", ()))
    if not text or len(text) > _MAX_COOKIES:
        return ""
    try:
        cookie = SimpleCookie(text)
    except CookieError:
        return ""
    value = cookie[COOKIE].value if COOKIE in cookie else ""
    return value if _OFFERED.fullmatch(value) else ""


class _HandshakeByHeader(flight.ServerAuthHandler):
    """Lets handshakes through; the middleware has judged their headers by then."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Accept."""

    def is_valid(self, token: bytes) -> bytes:
        """Accept."""
        return b""
