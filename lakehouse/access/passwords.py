"""Users with passwords, kept as argon2 hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import unicodedata
from collections.abc import Iterable

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from lakehouse.access.principal import Principal
from lakehouse.config.access import UserSettings
from lakehouse.errors import ConfigError, LimitExceeded

# Each verification takes the memory that its hash asks for, 64 MiB by default, and tens of milliseconds.
_CONCURRENT = 2
_WAIT_SECONDS = 10.0


def hash_password(password: str) -> str:
    """The argon2id hash of a password, with salt and parameters, as the configuration takes it."""
    return PasswordHasher().hash(_normal(password))


def _normal(password: str) -> str:
    """One form for letters that keyboards of different systems compose differently (RFC 8265)."""
    return unicodedata.normalize("NFC", password)


class Passwords:
    """Tells whether a password is that of a user.

    A password that was right is remembered for as long as the process lives, as an HMAC under a key that
    nobody else has, since some clients send it with every call.

    Args:
        users: The users of the configuration.

    Raises:
        ConfigError: A secret is missing or is not an argon2 hash.
    """

    def __init__(self, users: Iterable[UserSettings]) -> None:
        self._hashes: dict[str, str] = {}
        self._principals: dict[str, Principal] = {}
        for user in users:
            self._hashes[user.name] = _checked(user)
            self._principals[user.name] = Principal(user.name, frozenset(user.roles), "password")
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._turn = threading.BoundedSemaphore(_CONCURRENT)
        self._hasher = _hasher_like(next(iter(self._hashes.values()), ""))
        # Checked for users that do not exist, so that the time taken does not tell whether they do.
        self._decoy = self._hasher.hash(secrets.token_hex(16)) if self._hashes else ""

    def recall(self, name: str, password: str) -> Principal | None:
        """The user, if this very password was found right before. Costs microseconds."""
        known = self._right.get(name)
        if known is None or not hmac.compare_digest(known, self._fingerprint(name, password)):
            return None
        return self._principals[name]

    def verify(self, name: str, password: str) -> Principal | None:
        """The user, if the password is right. Takes as long for a user that does not exist.

        Raises:
            LimitExceeded: Too many passwords are being checked.
        """
        stored = self._hashes.get(name)
        if not self._turn.acquire(timeout=_WAIT_SECONDS):
            raise LimitExceeded("too many passwords are being checked at this moment", "try again")
        try:
            right = self._matches(stored or self._decoy, _normal(password))
        finally:
            self._turn.release()
        if not right or stored is None:
            return None
        self._right[name] = self._fingerprint(name, password)
        return self._principals[name]

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def _fingerprint(self, name: str, password: str) -> bytes:
        text = f"{name}\0{_normal(password)}".encode()
        return hmac.digest(self._key, text, hashlib.sha256)


def _checked(user: UserSettings) -> str:
    text: str = user.password_hash.resolve().get_secret_value()
    try:
        extract_parameters(text)
    except (InvalidHashError, ValueError):
        raise ConfigError(
            f"auth.users: the password_hash of {user.name!r} is not an argon2 hash",
            "make one with `lakehouse hash-password`",
        ) from None
    return text


def _hasher_like(stored: str) -> PasswordHasher:
    return PasswordHasher.from_parameters(extract_parameters(stored)) if stored else PasswordHasher()
