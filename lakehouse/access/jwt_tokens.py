"""Signed tokens (JWT) of an identity provider."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import structlog

from lakehouse.access.principal import Principal
from lakehouse.access.session_tokens import digest
from lakehouse.clock import Clock
from lakehouse.config import JwtSettings
from lakehouse.errors import ConfigError

log = structlog.get_logger(__name__)

# The library also takes what is nearly base64, so one token could be written in several ways.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_FETCH_SECONDS = 5.0
_COOLDOWN_SECONDS = 15.0
_MAX_REMEMBERED = 10_000
_MAX_KEYS = 100
_MIN_SECRET_BYTES = 32
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class _KeysUnavailable(Exception):
    """The public keys cannot be read; says why without naming a place on this machine."""


class KeySet:
    """The public keys of a provider, read again when they are old or a token names one that is not there.

    While they cannot be read the last ones hold. Reads are at least 15 seconds apart, and nobody waits for
    one that another caller has begun unless there are no keys at all.

    Args:
        source: A file path or an https URL.
        refresh_seconds: How old the keys may get.
        clock: Source of time.
    """

    def __init__(self, source: str, refresh_seconds: float, clock: Clock) -> None:
        self._read = _reader(source)
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._keys: tuple[Mapping[str, Any], ...] = ()
        self._tried_s = float("-inf")
        self._lock = threading.Lock()

    def candidates(self, algorithm: str, kid: str | None) -> list[jwt.PyJWK]:
        """The keys that a token with this header may be signed with.

        A token without a key id is tried with every key of the right type. A key serves only algorithms of
        its own type, and only the one that it names, if it names one; shared secrets are never taken from
        here.
        """
        self._refresh(self._refresh_seconds)
        found = self._matching(algorithm, kid)
        if not found:
            self._refresh(_COOLDOWN_SECONDS)
            found = self._matching(algorithm, kid)
        return found

    def _matching(self, algorithm: str, kid: str | None) -> list[jwt.PyJWK]:
        fitting = []
        for key in self._keys:
            if (
                key.get("kty") == _KEY_TYPES[algorithm[:2]]
                and key.get("alg", algorithm) == algorithm
                and key.get("use", "sig") == "sig"
                and (kid is None or key.get("kid") == kid)
            ):
                try:
                    fitting.append(jwt.PyJWK(dict(key), algorithm=algorithm))
                except jwt.PyJWTError:  # a curve or size that this algorithm is not for
                    continue
        return fitting

    def _refresh(self, max_age_s: float) -> None:
        if self._clock.monotonic() - self._tried_s < max_age_s:
            return
        if not self._lock.acquire(blocking=not self._keys):
            return
        try:
            if self._clock.monotonic() - self._tried_s >= max_age_s:
                self._keys = self._read()
        except _KeysUnavailable as error:
            log.warning(
                "the public keys of auth.jwt could not be read, the last ones hold", reason=str(error)
            )
        finally:
            self._tried_s = self._clock.monotonic()
            self._lock.release()


def _reader(source: str) -> Callable[[], tuple[Mapping[str, Any], ...]]:
    if source.startswith("https://"):
        # Follows no redirects, which could lead to a place that is not encrypted.
        client = jwt.PyJWKClient(source, cache_jwk_set=False, timeout=_FETCH_SECONDS)

        def fetch() -> tuple[Mapping[str, Any], ...]:
            try:
                return _keys_of(client.fetch_data())
            except (jwt.PyJWTError, OSError, ValueError, RecursionError) as error:
                raise _KeysUnavailable(f"{type(error).__name__}: {error}") from None

        return fetch

    def load() -> tuple[Mapping[str, Any], ...]:
        try:
            return _keys_of(json.loads(Path(source).read_bytes()))
        except OSError as error:
            raise _KeysUnavailable(str(error.strerror)) from None
        except (ValueError, RecursionError):
            raise _KeysUnavailable("the file is not JSON") from None

    return load


def _keys_of(document: Any) -> tuple[Mapping[str, Any], ...]:
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise _KeysUnavailable("expected a JSON object with a list of keys")
    usable = tuple(key for key in keys[:_MAX_KEYS] if isinstance(key, dict) and "kty" in key)
    if not usable:
        raise _KeysUnavailable("there are no keys in it")
    return usable


class JwtTokens:
    """Checks signed tokens and turns their claims into a principal.

    What was found right is remembered until the token expires.

    Args:
        settings: The table ``auth.jwt`` of the configuration.
        clock: Source of time.
        roles: The names of the roles that there are; claims that name others give nothing.

    Raises:
        ConfigError: The shared secret is missing or too short.
    """

    def __init__(self, settings: JwtSettings, clock: Clock, roles: Collection[str]) -> None:
        self._settings = settings
        self._clock = clock
        self._roles = frozenset(roles)
        self._secret = _secret(settings)
        self._keys = KeySet(settings.jwks, settings.refresh_seconds, clock) if settings.jwks else None
        self._known: OrderedDict[str, tuple[Principal, float]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, token: str) -> Principal | None:
        """The holder of a token that was found right before and has not expired. Costs microseconds."""
        found = self._known.get(digest(token))
        if found is None or found[1] <= self._clock.now().timestamp():
            return None
        return found[0]

    def verify(self, token: str) -> Principal | None:
        """The holder of a token, if its signature, issuer, audience and times are right."""
        if not _COMPACT.fullmatch(token):
            return None
        try:
            header = jwt.get_unverified_header(token)
            claims = self._verified(token, header.get("alg"), header.get("kid"))
            principal = None if claims is None else self._principal(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, OSError, RecursionError):
            return None  # OSError: a time that is too far off for this machine
        if principal is not None and principal.expires_at is not None:
            self._remember(digest(token), principal, principal.expires_at.timestamp())
        return principal

    def _verified(self, token: str, algorithm: Any, kid: Any) -> dict[str, Any] | None:
        # What the token says of itself only chooses among what the configuration allows.
        if algorithm not in self._settings.algorithms:
            return None
        if algorithm.startswith("HS"):
            return self._decoded(token, self._secret, algorithm)
        if self._keys is None or not isinstance(kid, str | None):
            return None
        for key in self._keys.candidates(algorithm, kid):
            try:
                return self._decoded(token, key, algorithm)
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
                continue
        return None

    def _decoded(self, token: str, key: jwt.PyJWK | bytes, algorithm: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            leeway=self._settings.leeway_seconds,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )

    def _principal(self, claims: Mapping[str, Any]) -> Principal | None:
        name = _claim(claims, self._settings.principal_claim)
        if (
            not isinstance(name, str)
            or not name.isprintable()
            or not 0 < len(name.strip()) <= len(name) <= 200
        ):
            log.warning(
                "a signed token names no principal and is refused", claim=self._settings.principal_claim
            )
            return None
        found = _claim(claims, self._settings.roles_claim)
        values = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        roles = {self._settings.role_map.get(value, value) for value in values if isinstance(value, str)}
        roles.update(self._settings.default_roles)
        # Accepted for the leeway beyond exp, as the check of the token is.
        expires = datetime.fromtimestamp(int(claims["exp"]) + self._settings.leeway_seconds, UTC)
        return Principal(name, frozenset(roles) & self._roles, "jwt", expires)

    def _remember(self, key: str, principal: Principal, expires: float) -> None:
        with self._lock:
            self._known[key] = (principal, expires)
            self._known.move_to_end(key)
            if len(self._known) > _MAX_REMEMBERED:
                self._known.popitem(last=False)


def _secret(settings: JwtSettings) -> bytes:
    if settings.secret is None:
        return b""
    secret = settings.secret.resolve().get_secret_value().encode()
    if len(secret) < _MIN_SECRET_BYTES:
        raise ConfigError(
            f"auth.jwt: the secret has {len(secret)} bytes, expected at least {_MIN_SECRET_BYTES}"
        )
    return secret


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, which may have dots in it, or by the path to it through nested claims."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
