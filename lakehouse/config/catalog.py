"""Settings of the catalogs that tables are kept in."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section
from lakehouse.config.values import BucketName, Identifier, KeyPrefix, matching, not_reserved
from lakehouse.errors import ConfigError

_RESERVED_CATALOGS = ("memory", "system", "temp", "vectors")
RESERVED_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp")

# What a catalog of a type is reached by: the form, and how messages show it.
_FORMS = {
    "sql": (
        re.compile(r"sqlite:///(?!:memory:)[^?]+|postgresql\+psycopg://.+"),
        "sqlite:///path/of/catalog.db or postgresql+psycopg://user@host/database",
    ),
    "rest": (re.compile(r"https?://[^\s@?#,]+"), "https://catalog.example.org/api"),
    "hive": (re.compile(r"thrift://[^\s@?#/,]+:\d+(,thrift://[^\s@?#/,]+:\d+)*"), "thrift://host:9083"),
    "glue": (re.compile(r"https?://[^\s@?#,]+"), "https://glue.eu-central-1.amazonaws.com"),
}
_SECRET_KEY = re.compile(r"secret|passw|token|credential|authorization|(^|[.-])key($|[.-])", re.IGNORECASE)
_OWN_KEYS = ("name", "oauth2-server-uri", "type", "uri")


def _text_or_secret(value: object, info: ValidationInfo) -> object:
    """The URL of a database or service, or where that is found; no message shows what may be a password."""
    if isinstance(value, dict | SecretRef):
        try:
            return SecretRef.model_validate(value)
        except ValidationError:
            raise _not_a_url('a text, { env = "NAME" } or { file = "path" }') from None
    form, shown = _FORMS.get(info.data.get("type", ""), _FORMS["sql"])
    if not isinstance(value, str):
        raise _not_a_url(shown)
    if not value.startswith("sqlite:") and re.search(r"//[^?]*:[^?]*@|password=", value):
        raise _not_a_url(
            'without a password; one with a password is kept elsewhere: { env = "NAME" } or { file = "path" }'
        )
    if value and not form.fullmatch(value):
        raise _not_a_url(shown)
    return value


def _without_secrets(properties: dict[str, str]) -> dict[str, str]:
    for key in properties:
        if _SECRET_KEY.search(key):
            raise PydanticCustomError(
                "secret_ref",
                "holds {key}, which may be a secret: expected that in credential or token, or where the "
                "library looks for it by itself",
                {"key": repr(key)},
            )
        if key in _OWN_KEYS:
            raise PydanticCustomError(
                "secret_ref", "holds {key}, which has a key of its own", {"key": repr(key)}
            )
    return properties


def _not_a_url(expected: str) -> PydanticCustomError:
    return PydanticCustomError("secret_ref", "should be {expected}", {"expected": expected})


class CatalogConnection(Section):
    """A further catalog beside the default one, under a name of its own. Repeat [[catalogs]] for more."""

    type: Literal["object", "sql", "rest", "hive", "glue"] = Field(
        "object",
        description='What says which version of a table is the current one: "object" is the bucket itself, '
        '"sql" a database, "rest" an Iceberg REST service, "hive" a Hive metastore, "glue" the AWS Glue '
        "data catalog (docs/catalogs.md).",
    )
    uri: Annotated[str | SecretRef, Anchored(), BeforeValidator(_text_or_secret)] = Field(
        "",
        description=f'For type = "sql" the database: {_FORMS["sql"][1]}; relative to this file. For "rest" '
        f'and "hive" the service: {_FORMS["rest"][1]}, {_FORMS["hive"][1]}. For "glue" an endpoint other '
        'than that of the region. One with a password in it is named instead: { env = "NAME" } or '
        '{ file = "path" }.',
    )
    credential: SecretRef | None = Field(
        None,
        examples=[SecretRef(env="CATALOG_CREDENTIAL")],
        description='What a service of type "rest" or "glue" is asked with, ID:SECRET: an OAuth2 client and '
        "its secret, or an AWS access key. Without one, AWS's own places are looked through.",
    )
    token: SecretRef | None = Field(
        None,
        examples=[SecretRef(env="CATALOG_TOKEN")],
        description='For type = "rest" a bearer token, for "glue" the session token of the access key.',
    )
    oauth2_server_uri: Annotated[
        str, matching(r"(https?://[^\s@?#]+)?", "an http or https URL, or empty")
    ] = Field(
        "", description='For type = "rest", where a token is had for the credential; empty asks the service.'
    )
    properties: Annotated[dict[str, str], AfterValidator(_without_secrets)] = Field(
        {},
        description="What pyiceberg's catalog of the type takes besides, such as "
        '{ warehouse = "analytics", scope = "catalog" }; no secrets.',
    )
    name: Annotated[Identifier, not_reserved(*_RESERVED_CATALOGS)] = Field(
        "lake", description="Catalog name that SQL clients see.", examples=["other"]
    )
    bucket: BucketName | Literal[""] = Field(
        "", description="Name of the [[buckets]] entry that the tables are in. Empty takes the primary one."
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
    def _keys_of_the_type(self) -> Self:
        if self.type in ("sql", "rest", "hive") and not self.uri:
            raise ValueError(f'type = "{self.type}" needs uri, such as {_FORMS[self.type][1]}')
        unfit = [
            key
            for key, types in (
                ("uri", ("sql", "rest", "hive", "glue")),
                # An object catalog asks nobody, so what it is told besides stays unused.
                ("credential", ("object", "rest", "glue")),
                ("token", ("object", "rest", "glue")),
                ("oauth2_server_uri", ("rest",)),
                ("properties", ("rest", "hive", "glue")),
            )
            if getattr(self, key) and self.type not in types
        ]
        if unfit:
            raise ValueError(f'type = "{self.type}" takes no {" and no ".join(unfit)}')
        if self.type == "glue" and self.token and not self.credential:
            raise ValueError('type = "glue" takes a token only together with a credential')
        return self

    def location(self) -> str:
        """The URL of the database or service, secrets included; empty where there is none.

        Raises:
            ConfigError: It cannot be found, or is not a URL that can be used.
        """
        if isinstance(self.uri, str):
            return self.uri
        form, shown = _FORMS[self.type]
        found = self.uri.resolve().get_secret_value()
        if not form.fullmatch(found):
            raise ConfigError("the secret that catalog.uri names is not a URL", f"expected {shown}")
        return found


class CatalogSettings(CatalogConnection):
    """The Iceberg catalog that tables are kept in."""

    default_schema: Annotated[Identifier, not_reserved(*RESERVED_SCHEMAS)] = Field(
        "main", description="Schema that table names without one belong to. Created when missing."
    )
