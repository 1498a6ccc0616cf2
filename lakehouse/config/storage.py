"""Settings of object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lakehouse.config.hosts import check_host
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section
from lakehouse.config.values import BucketName, key_prefix, matching

_REMOTE_ONLY = ("bucket", "endpoint", "prefix")


def _endpoint(url: str) -> str:
    if not url:
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("should be a URL such as https://s3.example.org, without user and password")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("should be a URL without a path; bucket and prefix have keys of their own")
    return url.rstrip("/")


class BucketSettings(Section):
    """Object storage, the source of truth (docs/storage.md). Repeat [[buckets]] for more."""

    name: BucketName = Field("primary", description="What other settings call this bucket.")
    kind: Literal["local", "s3"] = Field("local", description="Type of store.")
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
        "session_token) as TOML, or ID:SECRET in one line. A file is read again every minute. Without it "
        "they are found as Amazon's own tools find them, such as in AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY.",
        examples=[SecretRef(env="NAME", file=None)],
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

    @model_validator(mode="after")
    def _keys_of_kind(self) -> Self:
        if self.kind == "s3" and not self.bucket:
            raise ValueError(f'bucket {self.name!r} is of kind "s3", which needs the key bucket')
        if self.kind == "local":
            for key in _REMOTE_ONLY:
                if getattr(self, key):
                    raise ValueError(f'{key} is for kind = "s3", and bucket {self.name!r} is of kind "local"')
        return self

    def check_endpoint(self, allow_ip_literals: bool) -> None:
        """Refuse an endpoint that is named by an address, unless these are welcome.

        Raises:
            ValueError: It is not a DNS name or a loopback address.
        """
        host = urlsplit(self.endpoint).hostname
        if host:
            check_host(host, allow_ip_literals)


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
