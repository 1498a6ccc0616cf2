"""A bucket of an S3-compatible object store."""

from __future__ import annotations

import secrets
import tomllib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import S3Store

from lakehouse.config import BucketSettings, SecretRef
from lakehouse.errors import ConfigError, ObjectAlreadyExists, StorageError
from lakehouse.storage.bucket import Bucket, storage_errors
from lakehouse.storage.object_cache import ObjectCache

if TYPE_CHECKING:
    from obstore.store import S3Credential

_REREAD = timedelta(seconds=60)
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=100), timedelta(seconds=3)


def open_s3_bucket(settings: BucketSettings, cache: ObjectCache | None = None) -> Bucket:
    """Open a bucket of an S3-compatible store; nothing is asked of the store yet.

    Args:
        settings: Where it is.
        cache: Where its objects are kept for reading; without one, data files cannot be read.

    Raises:
        ConfigError: The credentials or the cache cannot be used.
    """
    options: dict[str, Any] = {"endpoint": settings.endpoint} if settings.endpoint else {}
    if settings.secret_ref is not None:
        options["credential_provider"] = _Credentials(settings.name, settings.secret_ref)
        options["credential_provider"]()
    with storage_errors(settings.name, "", "opened"):
        store = S3Store(
            settings.bucket,
            prefix=settings.prefix or None,
            copy_if_not_exists="multipart",
            region=settings.region,
            client_options={
                "allow_http": settings.endpoint.startswith("http:"),
                "connect_timeout": timedelta(seconds=settings.connect_timeout_seconds),
                "timeout": timedelta(seconds=settings.request_timeout_seconds),
            },
            retry_config={
                "max_retries": settings.max_retries,
                "retry_timeout": timedelta(seconds=settings.retry_seconds),
                "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
            },
            **options,
        )
    place = "/".join(filter(None, (settings.bucket, settings.prefix)))
    aliases = (f"s3a://{place}", f"s3n://{place}")
    bucket = Bucket(settings.name, store, f"s3://{place}", aliases=aliases, cache=cache)
    if cache is not None:
        cache.attach(bucket, f"{settings.endpoint} {place}")
    return bucket


def check_create_only(bucket: Bucket) -> None:
    """See whether the store keeps the second of two writers from replacing what the first one wrote.

    Raises:
        ConfigError: It does not: there, commits of two servers would replace each other.
        StorageError: It cannot be reached, or does not let this server write.
    """
    key = f"_probe/{secrets.token_hex(16)}"
    try:
        bucket.put_new(key, b"first")
        bucket.put_new(key, b"second")
    except ObjectAlreadyExists:
        return
    finally:
        with suppress(StorageError):
            bucket.delete(key)
    raise ConfigError(
        f"the object store of bucket '{bucket.name}' ignores create-only writes (If-None-Match), without "
        "which commits get lost",
        "use a store that honours them, or a newer version of this one",
    )


class _Credentials:
    """Reads the credentials whenever the store wants them, so that they can be changed meanwhile."""

    refresh_threshold = timedelta(0)

    def __init__(self, bucket: str, reference: SecretRef) -> None:
        self._bucket = bucket
        self._secrets = reference.provider()

    def __call__(self) -> S3Credential:
        found = self._found()
        wanted = {key: found.get(key) for key in ("access_key_id", "secret_access_key")}
        token = found.get("session_token")
        if not all(value and isinstance(value, str) for value in (*wanted.values(), token or "none")):
            raise ConfigError(
                f"the credentials of bucket '{self._bucket}' are not in the secret that secret_ref names",
                "expected access_key_id and secret_access_key as TOML or as files of these names, or "
                "ID:SECRET in one line",
            )
        return {
            "access_key_id": wanted["access_key_id"] or "",
            "secret_access_key": wanted["secret_access_key"] or "",
            "token": token,
            "expires_at": datetime.now(UTC) + _REREAD,
        }

    def _found(self) -> dict[str, Any]:
        parts = self._secrets.parts()
        if parts is not None:
            return {name: part.get_secret_value() for name, part in parts.items()}
        text = self._secrets.text().get_secret_value()
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            names = ("access_key_id", "secret_access_key", "session_token")
            return dict(zip(names, text.split(":", 2), strict=False))
