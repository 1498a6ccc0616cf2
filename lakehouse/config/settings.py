"""Every setting: its type, default, bounds and explanation. ``lakehouse.toml`` is generated from here."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lakehouse.config.hosts import check_host
from lakehouse.config.section import Anchored, Section

ENV_PREFIX = "LAKEHOUSE__"
_RESERVED_CATALOGS = ("memory", "system", "temp")
_RESERVED_SCHEMAS = ("information_schema", "pg_catalog")


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


class BucketSettings(Section):
    """Object storage, the source of truth. Repeat [[buckets]] for more; tables are kept in the first."""

    name: BucketName = Field("primary", description="What other settings call this bucket.")
    kind: Literal["local"] = Field("local", description="Type of store: a directory of this machine.")
    path: Annotated[Path, Anchored()] = Field(
        Path("./data"), description="The directory; relative to this file. Created when missing."
    )


class CatalogSettings(Section):
    """The Iceberg catalog that tables are kept in."""

    name: Annotated[Identifier, _not_reserved(*_RESERVED_CATALOGS)] = Field(
        "lake", description="Catalog name that SQL clients see."
    )
    default_schema: Annotated[Identifier, _not_reserved(*_RESERVED_SCHEMAS)] = Field(
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


class SessionSettings(Section):
    """What a client may hold open, and for how long."""

    idle_seconds: float = Field(
        1800, gt=0, description="A session unused for so long is closed and its transaction rolled back."
    )
    handle_seconds: float = Field(
        600, gt=0, description="A result announced but not fetched for so long is forgotten."
    )
    max_sessions: int = Field(1000, ge=1, description="Most sessions open at once.")
    max_prepared_per_session: int = Field(1000, ge=1, description="Most prepared statements of one session.")


class LimitSettings(Section):
    """Bounds on the work of all clients together."""

    statement_timeout_seconds: float = Field(
        0, ge=0, description="A statement that runs longer is stopped. 0 lets it run."
    )


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
    session: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()

    @model_validator(mode="after")
    def _distinct_buckets(self) -> Self:
        if not self.buckets:
            raise ValueError("buckets is empty, expected at least one bucket")
        names = Counter(bucket.name for bucket in self.buckets)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"the bucket name {twice[0]!r} is used {names[twice[0]]} times, expected once")
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
