"""Settings of databases that rows are brought from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Section
from lakehouse.config.values import BucketName


class SourceSettings(Section):
    """A database that rows are brought from (docs/postgres.md). Repeat [[sources]] for more."""

    name: BucketName = Field(description="What ingest.postgres calls it.", examples=["crm"])
    kind: Literal["postgresql"] = Field("postgresql", description="What kind of database it is.")
    dsn: str = Field(
        description="Where it is, without a password: postgresql://user@host:port/database, or keywords.",
        examples=["postgresql://reader@db.example.org:5432/crm"],
    )
    password: SecretRef | None = Field(
        None,
        description="Where the password is.",
        examples=[SecretRef(env="NAME", file=None, directory=None)],
    )
