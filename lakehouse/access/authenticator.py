"""Tells who is calling from what a call presents."""

from __future__ import annotations

import base64
import binascii
import hmac
import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Network

import structlog

from lakehouse.access.api_keys import ApiKeys
from lakehouse.access.jwt_tokens import JwtTokens
from lakehouse.access.passwords import Passwords
from lakehouse.access.principal import ANONYMOUS, Principal
from lakehouse.access.session_tokens import SessionTokens, digest
from lakehouse.access.throttle import Throttle
from lakehouse.clock import Clock
from lakehouse.config import Settings
from lakehouse.config.access import BUILT_IN_ROLES, CertificateSettings, TokenSettings
from lakehouse.errors import ConfigError, LimitExceeded, Unauthenticated
from lakehouse.storage import Bucket

log = structlog.get_logger(__name__)

_MAX_HEADER = 16_384
_MAX_NAME = 200
_MIN_TOKEN = 32
_MAX_ANONYMOUS_TOKENS = 10_000
_PEER_PORT = re.compile(r":\d+\Z")
# All handshakes together: the transport does not tell whom a handshake comes from.
_HANDSHAKES = "handshakes"
# What is checked once and then recalled is noted when it is; the rest would be noted over and over.
_NOTED_WHEN_NEW = ("password", "jwt")
# Attempts refused unseen are noted so often for each name or address, or they would flood log and journal.
_REFUSALS_PER_MINUTE = 1

OnAttempt = Callable[[str, str, str, str], None]
"""Told of attempts to authenticate: principal, peer, method, and ``ok``, ``failed`` or ``throttled``."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as far as it was established.

    Attributes:
        principal: Who it is.
        session: Names the session token that was presented (not the token itself), or empty.
    """

    principal: Principal
    session: str = ""


@dataclass(frozen=True, slots=True)
class _Basic:
    name: str
    password: str

    def __repr__(self) -> str:
        return "_Basic(...)"


class Authenticator:
    """Every configured way to say who one is.

    ``recall`` is for every call and answers from memory. ``authenticate`` checks what it did not know,
    ``log_in`` what comes in a handshake.

    Wrong passwords are slowed by user name and address, anything else that is wrong by address. What is
    right is never refused because others fail: a password that was right once is recalled before attempts
    are counted, and a key or token, which cannot be guessed, is checked before they are. The transport does
    not tell the address that a handshake comes from, so its failures count for the user name alone, and
    handshakes with a password not seen before are limited for all together.

    Args:
        settings: The whole configuration.
        bucket: Where API keys are kept.
        clock: Source of time.
        on_attempt: Told of logins and of failed attempts.

    Raises:
        ConfigError: A secret is missing or of the wrong form.
    """

    def __init__(
        self, settings: Settings, bucket: Bucket, clock: Clock, on_attempt: OnAttempt | None = None
    ) -> None:
        auth = settings.auth
        if auth.certificates and not settings.server.tls.client_authorities:
            raise ConfigError("auth.certificates needs server.tls.client_authorities to check them")
        self.is_enabled = auth.is_enabled
        self.roles = frozenset({*BUILT_IN_ROLES, *(role.name for role in settings.roles)})
        self.api_keys = ApiKeys(bucket, clock, self.roles)
        self.accepts_api_keys = auth.api_keys
        self.accepts_certificates = bool(auth.certificates)
        self._anonymous = Caller(Principal(ANONYMOUS, frozenset({auth.anonymous_role})))
        self._passwords = Passwords(auth.users)
        self._accepts_passwords = bool(auth.users)
        self._tokens = _static_tokens(auth.tokens)
        self._jwt = None if auth.jwt is None else JwtTokens(auth.jwt, clock, self.roles)
        self._certificates = _certificates(auth.certificates)
        most = settings.session.max_sessions_per_principal if self.is_enabled else _MAX_ANONYMOUS_TOKENS
        self._sessions = SessionTokens(clock, settings.session.lifetime_seconds, most)
        self._failures = Throttle(auth.failures_per_minute, clock)
        self._handshakes = Throttle(auth.handshakes_per_minute, clock)
        self._refusals = Throttle(_REFUSALS_PER_MINUTE, clock)
        self._on_attempt = on_attempt or (lambda *_: None)
        self._ways = ", ".join(self._accepted())

    # -- every call ---------------------------------------------------------------------------------

    def recall(self, header: str) -> Caller | None:
        """Who sends this ``authorization`` header, where memory tells; None where it does not."""
        scheme, _, rest = header.partition(" ")
        credentials = rest.strip()
        if scheme.lower() == "bearer":
            known = self._sessions.find(digest(credentials))
            if known is not None:
                return Caller(known.principal, known.digest)
        if not self.is_enabled:
            return self._anonymous
        if not header or len(header) > _MAX_HEADER:
            return None
        principal = None
        if scheme.lower() == "bearer":
            principal = self._static(credentials)
            if principal is None and self.accepts_api_keys:
                principal = self.api_keys.recall(credentials)
            if principal is None and self._jwt is not None:
                principal = self._jwt.recall(credentials)
        elif scheme.lower() == "basic" and (basic := _basic(credentials)) is not None:
            principal = self._passwords.recall(basic.name, basic.password)
        return None if principal is None else Caller(principal)

    def authenticate(self, header: str, peer: str = "", certificate: str = "") -> Caller:
        """Who is calling.

        Args:
            header: The ``authorization`` header, or empty.
            peer: The address of the caller, as the transport writes it; empty where it is unknown.
            certificate: The name in the caller's certificate, where the transport has checked it.

        Raises:
            Unauthenticated: The credentials are missing or not right, or there were too many attempts.
        """
        known = self.recall(header)
        if known is not None:
            return known
        if header:
            principal = self._checked(header, peer)
            if peer and principal.method in _NOTED_WHEN_NEW:
                self._on_attempt(principal.name, peer, principal.method, "ok")
            return Caller(principal)
        holder = self._certificates.get(certificate) if certificate else None
        if holder is not None:
            return Caller(holder)
        if certificate:
            self._failed("", peer, "certificate", (f"address {_address(peer)}",))
        raise Unauthenticated("this server asks who is calling", f"it accepts {self._ways}")

    def log_in(self, header: str) -> str:
        """Check what comes in a handshake.

        Returns:
            A session token for who sent user and password; empty for who sent a token, which stays good.

        Raises:
            Unauthenticated: The credentials are missing or not right, or there were too many attempts.
            LimitExceeded: There were too many handshakes.
        """
        scheme = header.partition(" ")[0].lower()
        caller = self.recall(header)
        if caller is None:
            if scheme == "basic" and (wait := self._handshakes.take(_HANDSHAKES)):
                self._throttled("", "", "handshake", wait)
                raise LimitExceeded(
                    f"too many handshakes, try again in {_seconds(wait)}", "auth.handshakes_per_minute"
                )
            caller = self.authenticate(header)
        if self.is_enabled:
            if scheme != "basic":
                return ""
            self._on_attempt(caller.principal.name, "", caller.principal.method, "ok")
        return self._sessions.issue(caller.principal)

    def log_out(self, session: str) -> None:
        """End the session token that ``Caller.session`` named; harmless when there is none."""
        self._sessions.revoke(session)

    # -- the ways -----------------------------------------------------------------------------------

    def _checked(self, header: str, peer: str) -> Principal:
        """Check credentials that memory does not know."""
        scheme, _, rest = header.partition(" ")
        credentials = rest.strip()
        address = f"address {_address(peer)}" if peer else ""
        if len(header) <= _MAX_HEADER:
            if scheme.lower() == "basic" and self._accepts_passwords:
                basic = _basic(credentials)
                if basic is not None:
                    return self._password(basic, peer, address)
            if scheme.lower() == "bearer":
                principal = self._bearer(credentials)
                if principal is not None:
                    return principal
        method = {"basic": "password", "bearer": "token"}.get(scheme.lower(), "unknown")
        raise self._failed("", peer, method, (address or _HANDSHAKES,))

    def _password(self, basic: _Basic, peer: str, address: str) -> Principal:
        buckets = (f"user {basic.name} {address}", address) if address else (f"user {basic.name}",)
        wait = self._failures.take(*buckets)
        if wait:
            raise self._throttled(basic.name, peer, "password", wait)
        try:
            principal = self._passwords.verify(basic.name, basic.password)
        except LimitExceeded:
            self._failures.give_back(*buckets)
            raise
        if principal is None:
            raise self._failed(basic.name, peer, "password", ())
        self._failures.give_back(*buckets)
        return principal

    def _bearer(self, token: str) -> Principal | None:
        principal = self._static(token)
        if principal is None and self.accepts_api_keys and token.startswith("lh_"):
            principal = self.api_keys.find(token)
        if principal is None and self._jwt is not None and token.count(".") == 2:
            principal = self._jwt.verify(token)
        return principal

    def _static(self, token: str) -> Principal | None:
        hashed = digest(token)
        found = self._tokens.get(hashed)
        return found[1] if found is not None and hmac.compare_digest(found[0], hashed) else None

    def _accepted(self) -> Iterable[str]:
        if self._accepts_passwords:
            yield "a user with a password"
        if self.accepts_api_keys:
            yield "an API key as a bearer token"
        if self._tokens:
            yield "a bearer token"
        if self._jwt is not None:
            yield "a signed bearer token (JWT)"
        if self._certificates:
            yield "a client certificate"

    # -- what fails ---------------------------------------------------------------------------------

    def _failed(self, name: str, peer: str, method: str, buckets: Collection[str]) -> Unauthenticated:
        """Note an attempt that failed and give what to answer."""
        wait = self._failures.take(*buckets)
        if wait:
            return self._throttled(name, peer, method, wait)
        self._note(name, peer, method, "failed")
        return Unauthenticated(
            "the credentials are wrong, expired or of a kind not accepted",
            f"this server accepts {self._ways}",
        )

    def _throttled(self, name: str, peer: str, method: str, wait: float) -> Unauthenticated:
        if not self._refusals.take(f"{method} {name} {_address(peer)}"):
            self._note(name, peer, method, "throttled")
        return Unauthenticated(f"too many failed attempts, try again in {_seconds(wait)}")

    def _note(self, name: str, peer: str, method: str, outcome: str) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in name)
        log.warning("authentication failed", user=shown, peer=peer, method=method, outcome=outcome)
        self._on_attempt(shown, peer, method, outcome)


def _basic(credentials: str) -> _Basic | None:
    try:
        # Go's client leaves out the padding.
        padding = "=" * (-len(credentials) % 4)
        text = base64.b64decode(credentials + padding, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    name, colon, password = text.partition(":")
    return _Basic(name, password) if colon and 0 < len(name) <= _MAX_NAME else None


def _address(peer: str) -> str:
    """The part of a peer's address that an attacker cannot vary at will.

    Of IPv6 that is the network of 64 bits, which one customer has the whole of.
    """
    host = _PEER_PORT.sub("", peer)
    if host.startswith("ipv6:"):
        groups = host.removeprefix("ipv6:").replace("%5B", "").replace("%5D", "").strip("[]")
        return _network(groups)
    return host


def _network(address: str) -> str:
    try:
        return str(IPv6Network(f"{address.partition('%')[0]}/64", strict=False))
    except ValueError:
        return address


def _seconds(wait: float) -> str:
    return f"{math.ceil(wait)} s"


def _static_tokens(settings: Iterable[TokenSettings]) -> dict[str, tuple[str, Principal]]:
    found: dict[str, tuple[str, Principal]] = {}
    for entry in settings:
        token = entry.token.resolve().get_secret_value()
        if len(token) < _MIN_TOKEN:
            raise ConfigError(
                f"auth.tokens: the token of {entry.name!r} has {len(token)} characters, "
                f"expected at least {_MIN_TOKEN}"
            )
        hashed = digest(token)
        if hashed in found:
            raise ConfigError(
                f"auth.tokens: {found[hashed][1].name!r} and {entry.name!r} have the same token"
            )
        found[hashed] = (hashed, Principal(entry.name, frozenset(entry.roles), "token"))
    return found


def _certificates(settings: Iterable[CertificateSettings]) -> dict[str, Principal]:
    return {c.subject: Principal(c.name, frozenset(c.roles), "certificate") for c in settings}
