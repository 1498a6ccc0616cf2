"""Typed configuration: ``lakehouse.toml``, overridden by ``LAKEHOUSE__SECTION__KEY`` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64)]


class Section(BaseModel):
    """A table of the configuration file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(Section):
    """Where the server listens and how it stops."""

    host: str = Field("127.0.0.1", description="Name or loopback address to listen on.")
    port: int = Field(31337, ge=0, le=65535, description="TCP port; 0 takes any free port.")
    drain_seconds: float = Field(10.0, ge=0, description="How long running calls may finish after SIGTERM.")
    allow_ip_literals: bool = Field(False, description="Accept addresses other than loopback as endpoints.")


class LogSettings(Section):
    """What is logged, and how it looks."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")
    format: Literal["auto", "json", "text"] = Field("auto", description="JSON lines, or text for a terminal.")


class BucketSettings(Section):
    """One place where objects are kept."""

    name: Name = Field("primary", description="What other settings call this bucket.")
    kind: Literal["local"] = Field("local", description="Type of store.")
    path: Path = Field(Path("./data"), description="Directory of a local bucket.")


class CatalogSettings(Section):
    """The Iceberg catalog that tables are kept in."""

    name: Name = Field("lake", description="Catalog name that SQL clients see.")
    default_schema: Name = Field("main", description="Schema of names without one.")
    refresh_ms: int = Field(500, ge=0, description="How stale a table's metadata may be.")
    warehouse: str = Field("warehouse", description="Key prefix of all tables in the bucket.")


class EngineSettings(Section):
    """The SQL engine."""

    threads: int = Field(0, ge=0, description="Worker threads; 0 takes all cores.")
    memory_limit: str = Field("", description="Memory before spilling; empty for the engine's default.")
    spill_directory: str = Field("", description="Where larger work goes; empty for a temporary directory.")
    batch_bytes: int = Field(2_000_000, ge=1, description="Target size of one message of a result.")
    max_message_bytes: int = Field(4_000_000, ge=1, description="Largest message of a result.")


class IngestSettings(Section):
    """How tables are written."""

    target_file_bytes: int = Field(134_217_728, ge=1, description="Size at which a new data file is begun.")
    max_rows_per_group: int = Field(122_880, ge=1, description="Rows of one Parquet row group.")


class SessionSettings(Section):
    """What a client may hold open."""

    idle_seconds: float = Field(1800, gt=0, description="A session unused for so long is closed.")
    handle_seconds: float = Field(600, gt=0, description="A ticket unused for so long expires.")
    max_sessions: int = Field(1000, ge=1, description="Sessions open at once.")
    max_prepared_per_session: int = Field(1000, ge=1, description="Prepared statements of one session.")


class LimitSettings(Section):
    """Bounds on work."""

    statement_timeout_seconds: float = Field(0, ge=0, description="Longest run time; 0 for none.")
    concurrent_statements: int = Field(64, ge=1, description="Statements running at once.")


class Settings(BaseSettings):
    """Everything that can be configured. Building one reads neither files nor the environment."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    server: ServerSettings = Field(ServerSettings(), description="Where the server listens.")
    log: LogSettings = Field(LogSettings(), description="What is logged.")
    buckets: tuple[BucketSettings, ...] = Field((BucketSettings(),), description="Object storage.")
    catalog: CatalogSettings = Field(CatalogSettings(), description="The Iceberg catalog.")
    engine: EngineSettings = Field(EngineSettings(), description="The SQL engine.")
    ingest: IngestSettings = Field(IngestSettings(), description="How tables are written.")
    session: SessionSettings = Field(SessionSettings(), description="What a client may hold open.")
    limits: LimitSettings = Field(LimitSettings(), description="Bounds on work.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments only: ``load_settings`` is what reads the environment."""
        return (init_settings,)


def load_settings(path: Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of this process."""
    return Settings(**(overrides or {}))
