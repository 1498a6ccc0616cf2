"""Settings of object storage."""

from __future__ import annotations

import os.path
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lakehouse.config.hosts import check_host
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section
from lakehouse.config.values import BucketName, key_prefix, matching, not_reserved

_REMOTE_ONLY = ("bucket", "endpoint", "prefix")
_NAMED_CLASS = re.compile(r"(profile|tenant):[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_PLAIN_CLASSES = ("primary", "data", "rescue")
_CLASSES = '"primary", "profile:NAME", "tenant:NAME", "rescue" or "data"'


def _endpoint(url: str) -> str:
    if not url:
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("should be a URL such as https://s3.example.org, without user and password")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("should be a URL without a path; bucket and prefix have keys of their own")
    return url.rstrip("/")


def _bucket_class(text: str) -> str:
    if not text or text in _PLAIN_CLASSES or _NAMED_CLASS.fullmatch(text):
        return text
    kind, colon, name = text.partition(":")
    near = get_close_matches(kind, (*_PLAIN_CLASSES, "profile", "tenant"), n=1, cutoff=0.6)
    if not near:
        raise ValueError(f"should be {_CLASSES}")
    if near[0] in _PLAIN_CLASSES:
        raise ValueError(f'should be {_CLASSES}; did you mean "{near[0]}"?')
    if not name or kind == near[0]:
        raise ValueError(
            f'should be "{near[0]}:NAME", with a name of 1 to 63 ASCII letters, digits, ., _, @ and -'
        )
    raise ValueError(f'should be {_CLASSES}; did you mean "{near[0]}{colon}{name}"?')


class BucketSettings(Section):
    """Object storage, the source of truth (docs/storage.md). Repeat [[buckets]] for more."""

    name: Annotated[BucketName, not_reserved("memory", "registered", "system", "temp")] = Field(
        "primary", description="What other settings, paths and messages call this bucket; no catalog's name."
    )
    bucket_class: Annotated[str, AfterValidator(_bucket_class)] = Field(
        "",
        alias="class",
        description='What it is for: "primary" (exactly one: what the server itself keeps, and tables of '
        'which nothing else is said), "profile:NAME" or "tenant:NAME" (of one user or customer), "rescue" '
        '(at most one: copies of the others, to be read when they fail), or "data". Empty is "primary" for '
        'the first bucket where no other one is, else "data".',
    )
    kind: Literal["local", "s3", "memory"] = Field(
        "local",
        description='Type of store. What is in one of kind "memory" is gone with the server: for tests.',
    )
    path: Annotated[Path, Anchored()] = Field(
        Path("./data"),
        description='For kind = "local": the directory; relative to this file. Created when missing.',
    )
    bucket: Annotated[
        str, matching(r"([A-Za-z0-9][A-Za-z0-9._-]{1,62})?", "the name of a bucket, without a scheme")
    ] = Field("", description='For kind = "s3": the name of the bucket in its store.')
    endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(
        "",
        description='For kind = "s3": URL of the store, such as "https://s3.example.org", with a DNS name. '
        "Empty is Amazon S3.",
    )
    region: Annotated[str, matching(r"[a-z0-9-]{1,64}", "a region such as eu-central-1")] = Field(
        "us-east-1", description='For kind = "s3": the region; stores other than Amazon\'s mostly ignore it.'
    )
    prefix: Annotated[str, AfterValidator(lambda prefix: prefix and key_prefix(prefix))] = Field(
        "", description='For kind = "s3": what the keys of all objects begin with. Empty is nothing.'
    )
    secret_ref: SecretRef | None = Field(
        None,
        description='For kind = "s3": where the credentials are: access_key_id and secret_access_key (and '
        "session_token) as TOML, as ID:SECRET in one line, or as files of these names in a directory. They "
        "are read again every minute. Without it they are found as Amazon's own tools find them, such as in "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        examples=[SecretRef(env="NAME", file=None, directory=None)],
    )
    connect_timeout_seconds: float = Field(
        5, gt=0, description='For kind = "s3": how long connecting may take.'
    )
    request_timeout_seconds: float = Field(
        60, gt=0, description='For kind = "s3": how long one request may take, of at most some megabytes.'
    )
    max_retries: int = Field(
        6,
        ge=0,
        le=100,
        description='For kind = "s3": how often a failed request is repeated, after growing random pauses.',
    )
    retry_seconds: float = Field(
        20, ge=0, description='For kind = "s3": no request is repeated later than that after its first try.'
    )
    breaker_failures: int = Field(
        3,
        ge=0,
        description='For kind = "s3": after so many requests in a row that the store did not answer, all of '
        "their retries included, requests fail at once for a while. 0 always asks.",
    )
    breaker_seconds: float = Field(
        1,
        gt=0,
        description='For kind = "s3": how long that while is; then one request finds out whether the store '
        "is back. It doubles each time that it is not.",
    )
    breaker_max_seconds: float = Field(30, gt=0, description='For kind = "s3": the longest such while.')

    @model_validator(mode="after")
    def _keys_of_kind(self) -> Self:
        if self.kind == "s3" and not self.bucket:
            raise ValueError(f'bucket {self.name!r} is of kind "s3", which needs the key bucket')
        if self.kind != "s3":
            for key in _REMOTE_ONLY:
                if getattr(self, key):
                    raise ValueError(
                        f'{key} is for kind = "s3", and bucket {self.name!r} is of kind "{self.kind}"'
                    )
        if self.breaker_max_seconds < self.breaker_seconds:
            raise ValueError(
                f"breaker_seconds = {self.breaker_seconds:g} should not exceed "
                f"breaker_max_seconds = {self.breaker_max_seconds:g}"
            )
        return self

    def check_endpoint(self, allow_ip_literals: bool) -> None:
        """Refuse an endpoint that is named by an address, unless these are welcome.

        Raises:
            ValueError: It is not a DNS name or a loopback address.
        """
        host = urlsplit(self.endpoint).hostname
        if host:
            check_host(host, allow_ip_literals)


def with_classes(buckets: tuple[BucketSettings, ...]) -> tuple[BucketSettings, ...]:
    """The buckets of a configuration, each with its class.

    Raises:
        ValueError: Not exactly one of them is the primary bucket, or several are rescue buckets.
    """
    named = [bucket.bucket_class for bucket in buckets]
    if buckets and "primary" not in named and not named[0]:
        named[0] = "primary"
    found = tuple(
        bucket.model_copy(update={"bucket_class": kind or "data"})
        for bucket, kind in zip(buckets, named, strict=True)
    )
    for kind, expected in (("primary", "exactly one"), ("rescue", "at most one")):
        there = [repr(bucket.name) for bucket in found if bucket.bucket_class == kind]
        if len(there) > 1:
            raise ValueError(
                f'the buckets {" and ".join(there)} are of class "{kind}", expected {expected} of them'
            )
        if buckets and not there and kind == "primary":
            raise ValueError('no bucket is of class "primary", expected exactly one')
    return found


def check_apart(buckets: Sequence[BucketSettings]) -> None:
    """Make sure that no object is in two buckets.

    Raises:
        ValueError: Two of them are one place, or one is within the other.
    """
    for number, one in enumerate(buckets):
        for other in buckets[:number]:
            if _overlap(one, other):
                raise ValueError(
                    f"the buckets {other.name!r} and {one.name!r} are one place, or one is within the other: "
                    "expected places of which none is within another"
                )


def _overlap(one: BucketSettings, other: BucketSettings) -> bool:
    if one.kind != other.kind or one.kind == "memory":
        return False
    if one.kind == "s3":
        is_one_store = _store(one) == _store(other)
        return is_one_store and one.bucket == other.bucket and is_nested(one.prefix, other.prefix)
    if one.path.is_absolute() != other.path.is_absolute():
        return False  # what relative paths are relative to is found out later
    return is_nested(*(os.path.realpath(bucket.path).rstrip("/") for bucket in (one, other)))


def _store(bucket: BucketSettings) -> tuple[str, int | None]:
    parts = urlsplit(bucket.endpoint or "https://s3.amazonaws.com")
    return (parts.hostname or "").rstrip("."), parts.port or {"http": 80, "https": 443}[parts.scheme]


def is_nested(one: str, other: str) -> bool:
    """Whether one key prefix is within the other, or the same."""
    one, other = (f"{prefix}/" if prefix else "" for prefix in (one, other))
    return one.startswith(other) or other.startswith(one)


class CacheSettings(Section):
    """Local copies of the data files of remote buckets. Nothing is lost when they are deleted."""

    directory: Annotated[str, Anchored()] = Field(
        "",
        description="Where they are kept; relative to this file. Empty takes lakehouse in CACHE_DIRECTORY, "
        "XDG_CACHE_HOME or ~/.cache.",
    )
    max_bytes: int = Field(
        10_000_000_000,
        ge=0,
        description="Above that the files go that were not used for longest. What running statements and "
        "open transactions read stays, even if it is more.",
    )
    concurrent_requests: int = Field(
        16, ge=1, le=256, description="How many parts of files, of 8 MiB at most, are fetched at once."
    )
