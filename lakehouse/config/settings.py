"""Every setting: its type, default, bounds and explanation. ``lakehouse.toml`` is generated from here."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lakehouse.config.access import BUILT_IN_ROLES, AuditSettings, AuthSettings, RoleSettings, TlsSettings
from lakehouse.config.hosts import check_host
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import Anchored, Section
from lakehouse.errors import ConfigError

ENV_PREFIX = "LAKEHOUSE__"
_RESERVED_CATALOGS = ("memory", "system", "temp")
RESERVED_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp")


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {expected}")
        return text

    return AfterValidator(check)


def _not_reserved(*names: str) -> AfterValidator:
    def check(name: str) -> str:
        if name.lower() in names:
            raise ValueError(f"should be a name of your own, not one of the engine's {', '.join(names)}")
        return name

    return AfterValidator(check)


def _key_prefix(prefix: str) -> str:
    if prefix != str(PurePosixPath(prefix)) or prefix.startswith("/") or {".", ".."} & set(prefix.split("/")):
        raise ValueError("should be a relative key such as warehouse or teams/a, without . and ..")
    return prefix


Identifier = Annotated[
    str,
    _matching(r"[A-Za-z][A-Za-z0-9_]{0,63}", "1 to 64 ASCII letters, digits and _, a letter first"),
]
BucketName = Annotated[
    str, _matching(r"[a-z0-9][a-z0-9-]{0,62}", "1 to 63 lower-case ASCII letters, digits and -")
]
MemorySize = Annotated[
    str,
    _matching(r"(\d+(\.\d+)? ?([KMGTkmgt][Ii]?[Bb]|%))?", "an amount such as 4GB, 512MiB or 60%, or empty"),
]
ByteSize = Annotated[
    str, _matching(r"(\d+(\.\d+)? ?[KMGTkmgt][Ii]?[Bb])?", "an amount such as 4GB or 512MiB, or empty")
]


class ServerSettings(Section):
    """Where the server listens, and how it stops."""

    host: str = Field(
        "127.0.0.1",
        description="DNS name or loopback address to listen on. Other addresses, among them 0.0.0.0 and :: "
        "(all interfaces), need allow_ip_literals = true.",
    )
    port: int = Field(31337, ge=0, le=65535, description="TCP port of Flight SQL. 0 takes any free port.")
    drain_seconds: float = Field(
        10.0, ge=0, description="How long calls that are running may go on after SIGTERM or SIGINT."
    )
    allow_ip_literals: bool = Field(
        False,
        description="Accept IP addresses other than loopback wherever an endpoint is named. DNS names "
        "survive a move to another machine and can be put into certificates; addresses do not.",
    )
    insecure: bool = Field(
        False, description="Listen beyond this machine even without authentication and encryption."
    )
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _named_endpoint(self) -> Self:
        try:
            check_host(self.host, self.allow_ip_literals)
        except ValueError as error:
            raise ValueError(f"host = {self.host!r} {error}") from None
        return self


class LogSettings(Section):
    """What is logged to standard output, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")
    format: Literal["auto", "json", "text"] = Field(
        "auto",
        description='"json" is one JSON object a line, "text" is for people, "auto" takes text on a terminal '
        "and JSON elsewhere.",
    )
    slow_statement_seconds: float = Field(
        10.0, ge=0, description="Statements that take longer are logged with their profile. 0 logs none."
    )


class BucketSettings(Section):
    """Object storage, the source of truth. Repeat [[buckets]] for more; tables are kept in the first."""

    name: BucketName = Field("primary", description="What other settings call this bucket.")
    kind: Literal["local"] = Field("local", description="Type of store: a directory of this machine.")
    path: Annotated[Path, Anchored()] = Field(
        Path("./data"), description="The directory; relative to this file. Created when missing."
    )


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


class CatalogSettings(Section):
    """The Iceberg catalog that tables are kept in."""

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

    name: Annotated[Identifier, _not_reserved(*_RESERVED_CATALOGS)] = Field(
        "lake", description="Catalog name that SQL clients see."
    )
    default_schema: Annotated[Identifier, _not_reserved(*RESERVED_SCHEMAS)] = Field(
        "main", description="Schema that table names without one belong to. Created when missing."
    )
    refresh_ms: int = Field(
        500,
        ge=0,
        description="How old the known state of a table may be before storage is asked again for commits of "
        "other processes. Commits of this server are seen at once.",
    )
    warehouse: Annotated[str, AfterValidator(_key_prefix)] = Field(
        "warehouse", description="Key prefix of all tables within the bucket."
    )

    @model_validator(mode="after")
    def _database_for_sql(self) -> Self:
        if self.type == "sql" and not self.uri:
            raise ValueError(f'type = "sql" needs uri, such as {_DATABASE_FORMS}')
        if self.type != "sql" and self.uri:
            raise ValueError(f'uri is for type = "sql", and type is "{self.type}"')
        return self

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


class EngineSettings(Section):
    """The SQL engine (DuckDB)."""

    threads: int = Field(0, ge=0, description="Worker threads. 0 takes all cores.")
    memory_limit: MemorySize = Field(
        "",
        description='Memory of the engine before it spills to disk, such as "4GB", "512MiB" or "60%". Empty '
        "takes the engine's own default, 80 % of the machine.",
    )
    spill_directory: Annotated[str, Anchored()] = Field(
        "",
        description="Where work larger than memory_limit goes; relative to this file. Empty takes a "
        "directory under the system's temporary one.",
    )
    spill_limit: ByteSize = Field(
        "", description='Most disk space for that, such as "100GB". Empty takes 90 % of what is free.'
    )
    batch_bytes: int = Field(
        2_000_000, ge=1, description="Size that one message of a result is aimed at, in bytes."
    )
    max_message_bytes: int = Field(
        4_000_000,
        ge=1,
        le=2_000_000_000,
        description="Size that no message of a result exceeds unless a single row does, in bytes. Many gRPC "
        "clients refuse more than 4 MiB (4194304).",
    )

    @model_validator(mode="after")
    def _aim_below_bound(self) -> Self:
        if self.batch_bytes > self.max_message_bytes:
            raise ValueError(
                f"batch_bytes = {self.batch_bytes} should not exceed "
                f"max_message_bytes = {self.max_message_bytes}"
            )
        return self


class IngestSettings(Section):
    """How data is written into tables."""

    target_file_bytes: int = Field(
        134_217_728, ge=1, description="Size at which a new data file is begun, in bytes."
    )
    max_rows_per_group: int = Field(122_880, ge=1, description="Most rows in one Parquet row group.")


class MaintenanceSettings(Section):
    """How tables are kept in shape. What is done by hand (actions table.*) obeys the times, too."""

    enabled: bool = Field(
        True, description="Compact and clean up tables in the background, one at a time, one thread."
    )
    interval_seconds: float = Field(600, gt=0, description="Pause between two looks at all tables.")
    min_small_files: int = Field(
        32, ge=2, description="Tables with so many files below three quarters of the target are compacted."
    )
    target_file_bytes: int = Field(
        0, ge=0, description="Size that compaction aims at, in bytes. 0 takes ingest.target_file_bytes."
    )
    expire_snapshot_days: float = Field(
        0,
        ge=0,
        description="Snapshots older than that are expired, except tags and the heads of branches. 0 keeps "
        "them, unless a table's property history.expire.max-snapshot-age-ms says otherwise.",
    )
    keep_snapshots: int = Field(
        10, ge=1, description="So many snapshots of each branch are kept however old they are."
    )
    grace_seconds: float = Field(
        900,
        ge=0,
        description="How long the files of expired snapshots stay, for readers in other processes. Longer "
        "than any query of theirs.",
    )
    orphan_days: float = Field(
        3,
        gt=0,
        description="Files that no table refers to are removed by table.remove_orphans when they are that "
        "old. Longer than any write or transaction takes.",
    )


class SessionSettings(Section):
    """What a client may hold open, and for how long."""

    idle_seconds: float = Field(
        1800, gt=0, description="A session unused for so long is closed and its transaction rolled back."
    )
    lifetime_seconds: float = Field(
        86_400,
        gt=0,
        description="A session older than that is closed, however busy; its client logs in again.",
    )
    handle_seconds: float = Field(
        600, gt=0, description="A result announced but not fetched for so long is forgotten."
    )
    max_sessions: int = Field(1000, ge=1, description="Most sessions open at once.")
    max_sessions_per_principal: int = Field(500, ge=1, description="Most sessions of one principal.")
    max_prepared_per_session: int = Field(1000, ge=1, description="Most prepared statements of one session.")
    max_transactions_per_session: int = Field(100, ge=1, description="Most open transactions of one session.")


class LimitSettings(Section):
    """Bounds on the work of all clients together."""

    statement_timeout_seconds: float = Field(
        0, ge=0, description="A statement that runs longer is stopped. 0 lets it run."
    )
    concurrent_statements: int = Field(32, ge=1, description="Most statements at work at once.")
    queued_statements: int = Field(
        256, ge=0, description="Most statements that wait for their turn; principals take turns."
    )
    queue_seconds: float = Field(30, ge=0, description="How long a statement waits for its turn.")
    statement_memory: ByteSize = Field(
        "",
        description="Memory of the sorts and hash tables of one statement before they spill to disk, such as "
        '"1GB". Empty leaves it to engine.memory_limit.',
    )
    result_bytes: int = Field(0, ge=0, description="Most bytes of one result. 0 lets it grow.")
    statement_bytes: int = Field(1_000_000, ge=1, description="Longest SQL text, in bytes.")
    request_bytes: int = Field(
        16_777_216, ge=1, description="Largest descriptor, ticket or body of an action, in bytes."
    )
    message_bytes: int = Field(
        268_435_456, ge=1, description="Largest batch of rows that a client may send at a time, in bytes."
    )
    concurrent_calls: int = Field(
        512, ge=1, description="Most calls at once, open streams included. Each takes a thread."
    )


class OperationsSettings(Section):
    """Where the server tells how it is doing."""

    host: str = Field("127.0.0.1", description="DNS name or address to listen on.")
    http_port: int = Field(
        0, ge=0, le=65535, description="TCP port of /metrics, /livez and /readyz. 0 leaves them out."
    )
    health_port: int = Field(
        0, ge=0, le=65535, description="TCP port of the gRPC health service. 0 leaves it out."
    )


class TelemetrySettings(Section):
    """Traces (OpenTelemetry)."""

    traces: Literal["off", "stdout", "otlp"] = Field("off", description="Where they go.")
    otlp_endpoint: str = Field(
        "http://localhost:4318/v1/traces", description="URL of the collector (OTLP over HTTP)."
    )
    sample_ratio: float = Field(1.0, ge=0, le=1, description="Share of calls that are traced.")


class Settings(BaseSettings):
    """Everything that can be configured.

    Building one reads neither files nor the environment; ``load_settings`` does.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
    )

    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    buckets: tuple[BucketSettings, ...] = (BucketSettings(),)
    catalog: CatalogSettings = CatalogSettings()
    engine: EngineSettings = EngineSettings()
    ingest: IngestSettings = IngestSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    session: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    roles: tuple[RoleSettings, ...] = ()
    audit: AuditSettings = AuditSettings()
    ops: OperationsSettings = OperationsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _distinct_buckets(self) -> Self:
        if not self.buckets:
            raise ValueError("buckets is empty, expected at least one bucket")
        names = Counter(bucket.name for bucket in self.buckets)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"the bucket name {twice[0]!r} is used {names[twice[0]]} times, expected once")
        return self

    @model_validator(mode="after")
    def _known_roles(self) -> Self:
        named = [role.name for role in self.roles]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the role {twice!r} is there twice, expected once")
        known = {*BUILT_IN_ROLES, *named}
        auth = self.auth
        wanted = {auth.anonymous_role: "auth.anonymous_role"}
        for place, holders in (
            ("auth.users", auth.users), ("auth.tokens", auth.tokens), ("auth.certificates", auth.certificates)
        ):  # fmt: skip
            wanted |= {role: place for holder in holders for role in holder.roles}
        if auth.jwt is not None:
            roles = (*auth.jwt.role_map.values(), *auth.jwt.default_roles)
            wanted |= dict.fromkeys(roles, "auth.jwt")
        for role, place in wanted.items():
            if role not in known:
                raise ValueError(
                    f"{place} names the role {role!r}, expected one of {', '.join(sorted(known))}"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments only, so that tests and libraries get what they ask for."""
        return (init_settings,)
