"""Every setting: its type, default, bounds and explanation. ``lakehouse.toml`` is generated from here."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lakehouse.config.access import BUILT_IN_ROLES, AuditSettings, AuthSettings, RoleSettings, TlsSettings
from lakehouse.config.ai import AiSettings
from lakehouse.config.catalog import CatalogConnection, CatalogSettings
from lakehouse.config.datasets import DatasetSettings
from lakehouse.config.hosts import check_host
from lakehouse.config.journal import JournalSettings
from lakehouse.config.objects import ObjectSettings
from lakehouse.config.profiles import NO_PROFILE, ProfileSettings
from lakehouse.config.section import Anchored, Section
from lakehouse.config.sources import SourceSettings
from lakehouse.config.storage import BucketSettings, CacheSettings, check_apart, is_nested, with_classes
from lakehouse.config.values import ByteSize, MemorySize
from lakehouse.config.vectors import VectorSettings

ENV_PREFIX = "LAKEHOUSE__"


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
        description="Where work larger than memory_limit goes, and uploads while they arrive; relative to "
        "this file. Empty takes a directory under the system's temporary one.",
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
    concurrent_runs: int = Field(
        2, ge=1, le=64, description="How many ingests run in the background at once."
    )
    max_upload_bytes: int = Field(
        10_737_418_240, ge=1, description="Largest file that a client may send; it is kept on disk meanwhile."
    )
    waiting_runs: int = Field(100, ge=0, description="How many may wait for that; further ones are refused.")


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
    expire_run_days: float = Field(
        90,
        ge=0,
        description="Records of runs (ingest.list, vectors.runs.list) that have been over for so long are "
        "removed. 0 keeps them.",
    )
    keep_runs: int = Field(
        100, ge=0, description="So many records of each kind of run are kept however old they are."
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


RESERVED_CATALOGS = frozenset({"registered"})
"""Names of catalogs that every server has."""


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
    buckets: Annotated[tuple[BucketSettings, ...], AfterValidator(with_classes)] = Field(
        (BucketSettings(),), validate_default=True
    )
    cache: CacheSettings = CacheSettings()
    objects: ObjectSettings = ObjectSettings()
    catalog: CatalogSettings = CatalogSettings()
    catalogs: tuple[CatalogConnection, ...] = ()
    engine: EngineSettings = EngineSettings()
    ingest: IngestSettings = IngestSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    session: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    roles: tuple[RoleSettings, ...] = ()
    audit: AuditSettings = AuditSettings()
    journal: JournalSettings = JournalSettings()
    datasets: DatasetSettings = DatasetSettings()
    sources: tuple[SourceSettings, ...] = ()
    ai: AiSettings = AiSettings()
    vectors: VectorSettings = VectorSettings()
    profiles: tuple[ProfileSettings, ...] = ()
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
        check_apart(self.buckets)
        return self

    @model_validator(mode="after")
    def _named_stores(self) -> Self:
        for bucket in self.buckets:
            try:
                bucket.check_endpoint(self.server.allow_ip_literals)
            except ValueError as error:
                raise ValueError(f"buckets: endpoint = {bucket.endpoint!r} {error}") from None
        for model in self.ai.models:
            try:
                model.check_endpoint(self.server.allow_ip_literals)
            except ValueError as error:
                raise ValueError(f"ai.models: host = {model.host!r} {error}") from None
        return self

    @model_validator(mode="after")
    def _catalogs_apart(self) -> Self:
        buckets = {bucket.name for bucket in self.buckets}
        named: dict[str, str] = {}
        places: list[tuple[str, str, str]] = []
        for each in (self.catalog, *self.catalogs):
            if each.name.lower() in named:
                raise ValueError(
                    f"the catalogs {named[each.name.lower()]!r} and {each.name!r} have one name, "
                    "expected names that differ by more than case"
                )
            if each.name.lower() in RESERVED_CATALOGS:
                raise ValueError(
                    f"a catalog is called {each.name!r}, which is the catalog of registered Parquet: "
                    "expected another name"
                )
            named[each.name.lower()] = each.name
            if each.name.lower() in buckets:
                raise ValueError(
                    f"a catalog and a bucket have the name {each.name.lower()!r}, expected different names: "
                    "the path of a table or object begins with it"
                )
            if each.bucket and each.bucket not in buckets:
                raise ValueError(
                    f"the catalog {each.name!r} names the bucket {each.bucket!r}, expected one of "
                    f"{', '.join(sorted(buckets))}"
                )
            if self.class_of(self.bucket_of(each)) == "rescue":
                raise ValueError(
                    f'the catalog {each.name!r} is in the bucket {each.bucket!r} of class "rescue", expected '
                    "another: nothing but copies is written there"
                )
            for name, bucket, warehouse in places:
                if bucket == self.bucket_of(each) and is_nested(warehouse, each.warehouse):
                    raise ValueError(
                        f"the catalogs {name!r} and {each.name!r} are both in the bucket {bucket!r}, with "
                        f"the warehouses {warehouse!r} and {each.warehouse!r}: expected prefixes of which "
                        "none is within the other"
                    )
            places.append((each.name, self.bucket_of(each), each.warehouse))
        return self

    def bucket_of(self, catalog: CatalogConnection) -> str:
        """The name of the bucket that a catalog's tables are in."""
        return catalog.bucket or self.primary_bucket.name

    def class_of(self, bucket: str) -> str:
        """The class of a bucket."""
        return next(each.bucket_class for each in self.buckets if each.name == bucket)

    def bucket_of_profile(self, profile: str) -> str:
        """The name of the bucket that the indexes of a profile are in."""
        own = (each.name for each in self.buckets if each.bucket_class == f"profile:{profile}")
        return next(own, self.primary_bucket.name)

    @property
    def primary_bucket(self) -> BucketSettings:
        """The bucket of class "primary": what the server itself keeps is there."""
        return next(bucket for bucket in self.buckets if bucket.bucket_class == "primary")

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

    @model_validator(mode="after")
    def _known_profiles(self) -> Self:
        names = [profile.name for profile in self.profiles]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the profile {twice!r} is there twice, expected once")
        models = [model.name for model in self.ai.models if model.task == "embed"]
        roles = {*BUILT_IN_ROLES, *(role.name for role in self.roles)}
        for profile in self.profiles:
            if profile.model and profile.model not in models:
                raise ValueError(
                    f"the profile {profile.name!r} names the model {profile.model!r}, expected one that "
                    f"embeds: {', '.join(models) or 'there is none'}"
                )
            unknown = next((role for role in profile.roles if role not in roles), None)
            if unknown is not None:
                raise ValueError(
                    f"the profile {profile.name!r} names the role {unknown!r}, expected one of "
                    f"{', '.join(sorted(roles))}"
                )
        self._check_default_profile("vectors.profile", self.vectors.profile, "")
        for role in self.roles:
            self._check_default_profile(f"the role {role.name!r}", role.profile, role.name)
        return self

    def _check_default_profile(self, place: str, name: str, role: str) -> None:
        if not name or name == NO_PROFILE:
            return
        fit = [each.name for each in self.profiles if not each.roles or role in each.roles]
        if name not in fit:
            raise ValueError(
                f"{place} names the profile {name!r}, expected one that may be used there: "
                f"{', '.join(fit) or 'there is none'}"
            )

    @model_validator(mode="after")
    def _known_buckets_of_grants(self) -> Self:
        known = sorted(bucket.name for bucket in self.buckets)
        for role in self.roles:
            for grant in role.objects:
                name = grant.on.partition("/")[0]
                if "*" not in name and name not in known:
                    raise ValueError(
                        f"the role {role.name!r} has a grant on objects of the bucket {name!r}, expected one "
                        f"of {', '.join(known)}"
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
