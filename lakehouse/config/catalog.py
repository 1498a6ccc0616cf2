"""Settings of the catalogs that tables are kept in."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section
from lakehouse.config.values import BucketName, Identifier, KeyPrefix, not_reserved
from lakehouse.errors import ConfigError

_RESERVED_CATALOGS = ("memory", "system", "temp")
RESERVED_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp")

_DATABASES = re.compile(r"sqlite:///(?!:memory:)[^?]+|postgresql\+psycopg://.+")
_DATABASE_FORMS = "sqlite:///path/of/catalog.db or postgresql+psycopg://user@host/database"


def _text_or_secret(value: object) -> object:
    """The URL of a database, or where that is found; no message shows what may be a password."""
    if isinstance(value, dict | SecretRef):
        try:
            return SecretRef.model_validate(value)
        except ValidationError:
            raise _not_a_database('a text, { env = "NAME" } or { file = "path" }') from None
    if not isinstance(value, str):
        raise _not_a_database(_DATABASE_FORMS)
    if not value.startswith("sqlite:") and re.search(r"//[^?]*:[^?]*@|password=", value):
        raise _not_a_database(
            'without a password; one with a password is kept elsewhere: { env = "NAME" } or { file = "path" }'
        )
    if value and not _DATABASES.fullmatch(value):
        raise _not_a_database(_DATABASE_FORMS)
    return value


def _not_a_database(expected: str) -> PydanticCustomError:
    return PydanticCustomError("secret_ref", "should be {expected}", {"expected": expected})


class CatalogConnection(Section):
    """A further catalog beside the default one, under a name of its own. Repeat [[catalogs]] for more."""

    type: Literal["object", "sql"] = Field(
        "object",
        description='What says which version of a table is the current one: "object" is the bucket itself, '
        '"sql" a database (docs/catalogs.md).',
    )
    uri: Annotated[str | SecretRef, Anchored(), BeforeValidator(_text_or_secret)] = Field(
        "",
        description=f'For type = "sql", the database: {_DATABASE_FORMS}; relative to this file. One with a '
        'password in it is named instead: { env = "NAME" } or { file = "path" }.',
    )
    name: Annotated[Identifier, not_reserved(*_RESERVED_CATALOGS)] = Field(
        "lake", description="Catalog name that SQL clients see.", examples=["other"]
    )
    bucket: BucketName | Literal[""] = Field(
        "", description="Name of the [[buckets]] entry that the tables are in. Empty takes the first."
    )
    refresh_ms: int = Field(
        500,
        ge=0,
        description="How old the known state of a table may be before storage is asked again for commits of "
        "other processes. Commits of this server are seen at once.",
    )
    warehouse: KeyPrefix = Field(
        "warehouse", description="Key prefix of all tables within the bucket.", examples=["others"]
    )

    @model_validator(mode="after")
    def _database_for_sql(self) -> Self:
        if self.type == "sql" and not self.uri:
            raise ValueError(f'type = "sql" needs uri, such as {_DATABASE_FORMS}')
        if self.type != "sql" and self.uri:
            raise ValueError(f'uri is for type = "sql", and type is "{self.type}"')
        return self

    @property
    def places_tables(self) -> bool:
        """Whether the warehouse is where this server puts tables, rather than what a service calls it."""
        return self.type in ("object", "sql")

    def database_uri(self) -> str:
        """The URL of the database, secrets included.

        Raises:
            ConfigError: It cannot be found, or is not the URL of a database that can be used.
        """
        if isinstance(self.uri, str):
            return self.uri
        found = self.uri.resolve().get_secret_value()
        if not _DATABASES.fullmatch(found):
            raise ConfigError("the secret that catalog.uri names is not a URL", f"expected {_DATABASE_FORMS}")
        return found


class CatalogSettings(CatalogConnection):
    """The Iceberg catalog that tables are kept in."""

    default_schema: Annotated[Identifier, not_reserved(*RESERVED_SCHEMAS)] = Field(
        "main", description="Schema that table names without one belong to. Created when missing."
    )
