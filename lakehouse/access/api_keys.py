"""API keys: made, listed, expired and revoked while the server runs, kept in the bucket as hashes.

A key is one small object that is written once, and its revocation another, so that servers and commands
on one bucket need nothing but create-only writes to agree. A key looks like ``lh_<id>_<secret>``; of the
secret only the SHA-256 is kept, which is enough: 256 random bits cannot be guessed, so there is nothing
that a slow hash would protect, and each call can afford the check.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lakehouse.access.principal import Principal
from lakehouse.access.session_tokens import digest
from lakehouse.clock import Clock
from lakehouse.config.access import PrincipalName
from lakehouse.errors import ApiKeyNotFound, InvalidRequest, ObjectAlreadyExists, ObjectNotFound, StorageError
from lakehouse.storage import Bucket

log = structlog.get_logger(__name__)

_PREFIX = "_access/keys"
_SHAPE = re.compile(r"lh_([0-9a-f]{16})_([0-9a-f]{64})")
_OBJECT = re.compile(r"([0-9a-f]{16})\.(key|revoked)\.json")
# How old the known state of the bucket may be: of keys that are known, and before one is called unknown.
_KNOWN_SECONDS = 2.0
_UNKNOWN_SECONDS = 0.2
# How old it may get while it is being read again.
_SLOW_SECONDS = 10.0
# While the bucket cannot be read, keys go on being accepted for so long although they may be revoked.
_OUTAGE_SECONDS = 60.0


class ApiKey(BaseModel):
    """What is kept of a key. The secret is not."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    name: str = Field(min_length=1, max_length=200)
    principal: PrincipalName
    roles: tuple[str, ...]
    secret_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created_at: AwareDatetime
    created_by: str
    expires_at: AwareDatetime | None = None


class _Revocation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    revoked_at: AwareDatetime
    revoked_by: str


@dataclass(frozen=True, slots=True)
class ApiKeyState:
    """A key and what has become of it.

    Attributes:
        state: ``active``, ``expired`` or ``revoked``.
        last_used_at: When this process last saw it used.
    """

    key: ApiKey
    state: str
    last_used_at: datetime | None = None

    def public(self) -> dict[str, Any]:
        """What people may see of it."""
        return {
            **self.key.model_dump(exclude={"secret_sha256"}),
            "state": self.state,
            "last_used_at": self.last_used_at,
        }


class ApiKeys:
    """The keys of a bucket.

    What is known of them is at most two seconds old when a key is checked; a key that is not known is
    looked for at once. Storage is listed at most five times a second, whatever is asked.

    Args:
        bucket: Where the keys are kept.
        clock: Source of time.
        roles: The names of the roles that a key can have.
    """

    def __init__(self, bucket: Bucket, clock: Clock, roles: Collection[str]) -> None:
        self._bucket = bucket
        self._clock = clock
        self._roles = frozenset(roles)
        self._keys: dict[str, tuple[ApiKey, Principal]] = {}
        self._revoked: set[str] = set()
        self._unreadable: set[str] = set()
        self._used: dict[str, datetime] = {}
        self._listed_s = float("-inf")
        self._tried_s = float("-inf")
        self._lock = threading.Lock()

    def create(
        self,
        name: str,
        principal: str,
        roles: Collection[str],
        expires_in: timedelta | None = None,
        created_by: str = "",
    ) -> tuple[ApiKey, str]:
        """Make a key; gives it and the text that its holder presents, which nobody can learn later.

        Args:
            name: What people call the key.
            principal: Who its holder is.
            roles: What its holder may do.
            expires_in: How long it is good for; until it is revoked when left out.
            created_by: Who makes it.

        Raises:
            InvalidRequest: A name is not valid, there are no roles, or one does not exist.
        """
        unknown = sorted(set(roles) - self._roles)
        if unknown or not roles:
            found = f"found {unknown[0]!r}" if unknown else "found none"
            raise InvalidRequest(
                f"a key needs roles that exist, {found}", f"there are {', '.join(sorted(self._roles))}"
            )
        now, secret = self._clock.now(), secrets.token_hex(32)
        if expires_in is not None and expires_in <= timedelta(0):
            raise InvalidRequest("a key should expire in the future")
        try:
            key = ApiKey(
                id=secrets.token_hex(8),
                name=name,
                principal=principal,
                roles=tuple(sorted(set(roles))),
                secret_sha256=digest(secret),
                created_at=now,
                created_by=created_by,
                expires_at=None if expires_in is None else now + expires_in,
            )
        except (ValidationError, OverflowError) as error:
            place = str(error.errors()[0]["loc"][0]) if isinstance(error, ValidationError) else "expiry"
            raise InvalidRequest(f"the key's {place} is not valid") from None
        self._bucket.put_new(f"{_PREFIX}/{key.id}.key.json", key.model_dump_json().encode())
        with self._lock:
            self._add(key)
        return key, f"lh_{key.id}_{secret}"

    def revoke(self, key_id: str, revoked_by: str = "") -> bool:
        """End a key; gives whether it was not revoked already.

        Raises:
            ApiKeyNotFound: There is no key of that id.
        """
        if re.fullmatch(r"[0-9a-f]{16}", key_id) is None or not self._bucket.exists(
            f"{_PREFIX}/{key_id}.key.json"
        ):
            raise ApiKeyNotFound(f"there is no API key with the id {key_id[:40]!r}")
        revocation = _Revocation(revoked_at=self._clock.now(), revoked_by=revoked_by)
        try:
            self._bucket.put_new(f"{_PREFIX}/{key_id}.revoked.json", revocation.model_dump_json().encode())
        except ObjectAlreadyExists:
            return False
        finally:
            self._revoked.add(key_id)
        return True

    def states(self) -> list[ApiKeyState]:
        """Every key as the bucket has it now, the oldest first."""
        with self._lock:
            self._read()
            keys = sorted((key for key, _ in self._keys.values()), key=lambda k: (k.created_at, k.id))
        return [ApiKeyState(key, self._state(key), self._used.get(key.id)) for key in keys]

    def recall(self, text: str) -> Principal | None:
        """The holder of a key, as far as that can be said without reading the bucket."""
        if self._clock.monotonic() - self._listed_s >= _KNOWN_SECONDS:
            return None
        parts = _SHAPE.fullmatch(text)
        return None if parts is None else self._holder(*parts.groups())

    def find(self, text: str) -> Principal | None:
        """The holder of a key, if it is one that holds.

        Raises:
            StorageError: The bucket cannot be read, for longer than a moment.
        """
        parts = _SHAPE.fullmatch(text)
        if parts is None:
            return None
        self._refresh(known=parts[1] in self._keys)
        age_s = self._clock.monotonic() - self._listed_s
        if age_s > (_OUTAGE_SECONDS if parts[1] in self._keys else _KNOWN_SECONDS):
            raise StorageError(
                "API keys cannot be checked: the bucket they are in cannot be read", "try again"
            )
        return self._holder(*parts.groups())

    def _holder(self, key_id: str, secret: str) -> Principal | None:
        found = self._keys.get(key_id)
        if found is None:
            return None
        key, principal = found
        if not hmac.compare_digest(digest(secret), key.secret_sha256) or self._state(key) != "active":
            return None
        self._used[key_id] = self._clock.now()
        return principal

    def _state(self, key: ApiKey) -> str:
        if key.id in self._revoked:
            return "revoked"
        expired = key.expires_at is not None and key.expires_at <= self._clock.now()
        return "expired" if expired else "active"

    def _refresh(self, *, known: bool) -> None:
        """Read the bucket again unless that was done lately; of several callers one does.

        Who presents a known key need not wait for another caller's reading unless that takes long.
        """
        max_age_s = _KNOWN_SECONDS if known else _UNKNOWN_SECONDS
        now = self._clock.monotonic()
        waits = not known or now - self._listed_s > _SLOW_SECONDS
        if now - self._tried_s < max_age_s or not self._lock.acquire(blocking=waits):
            return
        try:
            if self._clock.monotonic() - self._tried_s >= max_age_s:
                self._tried_s = self._clock.monotonic()
                self._read()
        except StorageError as error:
            log.warning("API keys could not be read again", reason=str(error))
        finally:
            self._lock.release()

    def _read(self) -> None:
        """Take over what is new in the bucket."""
        for name in self._bucket.names(_PREFIX):
            found = _OBJECT.fullmatch(name)
            if found is None:
                continue
            key_id, kind = found.groups()
            if kind == "revoked":
                self._revoked.add(key_id)
            elif key_id not in self._keys and key_id not in self._unreadable:
                self._load(key_id)
        self._listed_s = self._tried_s = self._clock.monotonic()

    def _load(self, key_id: str) -> None:
        try:
            key = ApiKey.model_validate_json(self._bucket.get(f"{_PREFIX}/{key_id}.key.json"))
        except ObjectNotFound:
            return
        except ValidationError:
            self._unreadable.add(key_id)
            log.warning("an API key in the bucket cannot be read and is ignored", id=key_id)
            return
        if key.id == key_id:
            self._add(key)

    def _add(self, key: ApiKey) -> None:
        roles = frozenset(key.roles) & self._roles
        self._keys[key.id] = (key, Principal(key.principal, roles, "api_key", key.expires_at))
