"""Settings about who gets in and what they may do: encryption, authentication, roles."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section

BUILT_IN_ROLES = ("reader", "writer", "admin")
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
_SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})


def _principal_name(name: str) -> str:
    if not name or len(name) > 200 or not name.isprintable() or name != name.strip():
        raise ValueError("should be a name of 1 to 200 printable characters without spaces around it")
    return name


def _role_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError("should be 1 to 64 ASCII letters, digits, _, - and ., a letter first")
    return name


def _table_pattern(pattern: str) -> str:
    parts = pattern.split(".")
    if len(parts) != 3 or not all(parts):
        raise ValueError(
            'should be catalog.schema.table, each a name or a pattern with *, such as "lake.nyc.*"'
        )
    return pattern


def _object_pattern(pattern: str) -> str:
    bucket, slash, key = pattern.partition("/")
    if not bucket or not slash or not key:
        raise ValueError(
            'should be bucket/key, each a text or a pattern with *, such as "media/photos/*" or "media/*"'
        )
    return pattern


PrincipalName = Annotated[str, AfterValidator(_principal_name)]
RoleName = Annotated[str, AfterValidator(_role_name)]
TablePattern = Annotated[str, AfterValidator(_table_pattern)]
ObjectPattern = Annotated[str, AfterValidator(_object_pattern)]


class TlsSettings(Section):
    """Encryption. Certificate and key are PEM files; without them connections are not encrypted."""

    certificate: Annotated[str, Anchored()] = Field(
        "", description="The server's certificate chain, its own certificate first; relative to this file."
    )
    key: Annotated[str, Anchored()] = Field(
        "", description="The private key of the certificate, a file of mode 0600; relative to this file."
    )
    client_authorities: Annotated[str, Anchored()] = Field(
        "",
        description="Certificates of the authorities that clients' certificates must come from. When set, "
        "every client has to present one (mutual TLS).",
    )

    @property
    def is_enabled(self) -> bool:
        """Whether connections are encrypted."""
        return bool(self.certificate)

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key should be given together")
        if self.client_authorities and not self.certificate:
            raise ValueError("client_authorities needs certificate and key")
        return self


class UserSettings(Section):
    """A user with a password."""

    name: PrincipalName = Field(description="What the user is called.", examples=["alice"])
    roles: tuple[RoleName, ...] = Field((), description="What the user may do.", examples=[("reader",)])
    password_hash: SecretRef = Field(
        description="The argon2 hash of the password, from `lakehouse hash-password`.",
        examples=[SecretRef(env="ALICE_PASSWORD_HASH")],
    )


class TokenSettings(Section):
    """A fixed bearer token, for a program."""

    name: PrincipalName = Field(description="What the program is called.", examples=["dashboard"])
    roles: tuple[RoleName, ...] = Field((), description="What it may do.", examples=[("reader",)])
    token: SecretRef = Field(
        description="The token, of at least 32 characters.", examples=[SecretRef(env="DASHBOARD_TOKEN")]
    )


class JwtSettings(Section):
    """Signed tokens (JWT) of an identity provider."""

    issuer: str = Field(
        description="The iss claim to expect.", min_length=1, examples=["https://id.example.org"]
    )
    audience: str = Field(description="The aud claim to expect.", min_length=1, examples=["lakehouse"])
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "ES256"), min_length=1, description="The signatures to accept."
    )
    jwks: Annotated[str, Anchored()] = Field(
        "",
        description="The provider's public keys: an https URL, or a file relative to this one.",
        examples=["https://id.example.org/.well-known/jwks.json"],
    )
    secret: SecretRef | None = Field(
        None, description="The shared secret of HS256, HS384 and HS512, of at least 32 bytes."
    )
    principal_claim: str = Field("sub", min_length=1, description="The claim that names the principal.")
    roles_claim: str = Field(
        "roles",
        min_length=1,
        description="The claim with the roles, a list or a text parted by spaces; may be dotted.",
    )
    role_map: dict[str, RoleName] = Field(
        {},
        description="Role for each value of roles_claim; values not named here are roles themselves.",
    )
    default_roles: tuple[RoleName, ...] = Field((), description="Roles of every holder of a valid token.")
    leeway_seconds: float = Field(30, ge=0, le=600, description="How far the clocks may differ.")
    refresh_seconds: float = Field(
        300, ge=1, description="How long the public keys are kept before they are read again."
    )

    @model_validator(mode="after")
    def _keys_for_every_algorithm(self) -> Self:
        symmetric = _SYMMETRIC & set(self.algorithms)
        if symmetric and self.secret is None:
            raise ValueError(f"secret is needed for {', '.join(sorted(symmetric))}")
        if set(self.algorithms) - _SYMMETRIC and not self.jwks:
            raise ValueError("jwks is needed for every algorithm but HS256, HS384 and HS512")
        if self.jwks.startswith("http://"):
            raise ValueError(
                "jwks should be an https URL or a file: keys that come unencrypted prove nothing"
            )
        return self


class CertificateSettings(Section):
    """A client certificate, for mutual TLS."""

    subject: str = Field(
        min_length=1,
        description="The name in the certificate: its first subject alternative name, else its common name.",
        examples=["etl.example.org"],
    )
    name: PrincipalName = Field(description="What its holder is called.", examples=["etl"])
    roles: tuple[RoleName, ...] = Field((), description="What the holder may do.", examples=[("writer",)])


class AuthSettings(Section):
    """Who gets in. While none of the ways below is set up, everybody does, and only on this machine."""

    anonymous_role: RoleName = Field(
        "writer", description="Role of everybody while no way to authenticate is set up."
    )
    api_keys: bool = Field(
        False, description="Accept API keys, made with `lakehouse keys create` or auth.keys.create."
    )
    failures_per_minute: int = Field(
        10,
        ge=1,
        description="Failed attempts per user name and per address before further ones have to wait.",
    )
    handshakes_per_minute: int = Field(
        120,
        ge=1,
        description="Most handshakes with a password that was not right before, of all clients together: "
        "checking one takes a core a fifth of a second. Who has logged in once is not counted.",
    )
    mask_key: SecretRef | None = Field(
        None,
        description='Secret that goes into the mask "hash", so that nobody finds values by hashing guesses. '
        "Without it the mask differs from one start of the server to the next.",
        examples=[SecretRef(env="LAKEHOUSE_MASK_KEY")],
    )
    users: tuple[UserSettings, ...] = ()
    tokens: tuple[TokenSettings, ...] = ()
    certificates: tuple[CertificateSettings, ...] = ()
    jwt: JwtSettings | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether any way to authenticate is set up."""
        return bool(self.api_keys or self.users or self.tokens or self.certificates or self.jwt)

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        for what, names in (
            ("user", [user.name for user in self.users]),
            ("token", [token.name for token in self.tokens]),
            ("certificate", [certificate.subject for certificate in self.certificates]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"the {what} {twice!r} is there twice, expected once")
        return self


class GrantSettings(Section):
    """What a role may do with the tables that a pattern fits. The most specific pattern of a role holds."""

    on: TablePattern = Field(
        description="catalog.schema.table, each a name or a pattern with *.", examples=["lake.nyc.*"]
    )
    privileges: tuple[Literal["read", "write"], ...] = Field(
        ("read",), description="read, write, both, or none.", examples=[("read",)]
    )
    row_filter: str = Field(
        "",
        description="SQL predicate over the table's columns: only rows for which it is true are there. "
        "current_user stands for the principal's name.",
        examples=["origin = 'JFK'"],
    )
    masks: dict[str, str] = Field(
        {},
        description='What is seen in place of a column: "hash", "last_four", "null", or an SQL expression.',
        examples=[{"tailnum": "last_four"}],
    )


class ObjectGrantSettings(Section):
    """What a role may do with the objects whose keys a pattern fits. The most specific pattern holds."""

    on: ObjectPattern = Field(
        description="bucket/key, each a text or a pattern with * for any characters, / among them.",
        examples=["primary/photos/*"],
    )
    privileges: tuple[Literal["read", "write"], ...] = Field(
        ("read",), description="read, write, both, or none.", examples=[("read",)]
    )


class RoleSettings(Section):
    """A named role. Built in are reader (reads every table), writer (writes them too), admin (everything)."""

    name: RoleName = Field(description="What the role is called.", examples=["analyst"])
    actions: tuple[str, ...] = Field(
        (),
        description="Actions that it may run besides those that only read: names or patterns with *.",
        examples=[("catalog.*",)],
    )
    profile: str = Field(
        "",
        description="Which of [[profiles]] its holders search with when they name none; see vectors.profile.",
    )
    grants: tuple[GrantSettings, ...] = ()
    objects: tuple[ObjectGrantSettings, ...] = ()

    @model_validator(mode="after")
    def _not_built_in(self) -> Self:
        if self.name in BUILT_IN_ROLES:
            raise ValueError(f"{self.name!r} is built in, choose another name")
        return self


class AuditSettings(Section):
    """The record of who did what, kept in the bucket under _audit/ and read as system.audit."""

    enabled: bool = Field(True, description="Whether it is kept.")
    redact_literals: bool = Field(
        False, description="Keep ? in place of every number and text in a statement."
    )
    flush_events: int = Field(1000, ge=1, description="Number of events that are written together.")
    flush_seconds: float = Field(5.0, gt=0, description="How long an event may wait to be written.")
