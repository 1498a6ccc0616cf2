"""Builds one Lakehouse object from the settings; the only module that chooses adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lakehouse.access.authenticator import Authenticator, OnAttempt
from lakehouse.access.guarded_objects import Objects
from lakehouse.access.model_quota import ModelQuota
from lakehouse.access.policy import AccessPolicy
from lakehouse.access.principal import ANONYMOUS, Principal
from lakehouse.ai.models import Models
from lakehouse.catalog import Catalog, Catalogs, open_catalogs
from lakehouse.clock import Clock, SystemClock
from lakehouse.config import Settings
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.datasets.registered_catalog import RegisteredCatalog
from lakehouse.datasets.registration import Registrations
from lakehouse.datasets.resync import Resync
from lakehouse.datasets.tracker import DatasetTracker
from lakehouse.engine.engine import Engine
from lakehouse.engine.redaction import statement_text
from lakehouse.engine.session import SessionRegistry
from lakehouse.engine.system_audit import audit_table
from lakehouse.engine.system_buckets import bucket_errors_table, buckets_table
from lakehouse.engine.system_datasets import datasets_tables
from lakehouse.engine.system_events import events_table
from lakehouse.engine.system_history import history_tables
from lakehouse.engine.system_statements import sessions_table, statements_table
from lakehouse.engine.table_reader import TableReader
from lakehouse.journal import AuditJournal, BucketErrorJournal, EventJournal
from lakehouse.maintenance.policy import Maintenance
from lakehouse.maintenance.recovery import EventRecovery
from lakehouse.runs import Ingests, RunStore, Tasks
from lakehouse.storage import Bucket, Buckets, LinkedObjects, ObjectCache, ScratchDirectory
from lakehouse.vectors.embeddings import Embeddings
from lakehouse.vectors.indexes import VectorIndexes
from lakehouse.vectors.lake_source import LakeSource
from lakehouse.vectors.manifests import IndexManifests
from lakehouse.vectors.profiles import Profiles
from lakehouse.vectors.sql_search import SqlSearch
from lakehouse.vectors.trials import Trials, trials_table


class Lakehouse:
    """The whole domain of one server: catalogs, engine and sessions.

    ``catalog`` is the default one of the ``catalogs``, ``bucket`` the primary one of the ``buckets``.
    ``anonymous`` is who callers are while nobody has to say who they are. ``attempt_observers`` are told of
    attempts to authenticate. ``ai`` has the models; a principal's calls of them are taken from ``ai_calls``.

    Args:
        settings: The configuration.
        clock: Source of time and ids.
        bucket: The primary bucket of the configuration, where it is open already.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None, bucket: Bucket | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self._started_s = self.clock.monotonic()
        where = settings.cache
        self.cache = ObjectCache(
            Path(where.directory) if where.directory else None, where.max_bytes, where.concurrent_requests
        )
        catalogs = (settings.catalog, *settings.catalogs)
        primary = settings.primary_bucket.name
        of_profiles = {settings.bucket_of_profile(each.name) for each in settings.profiles}
        needed = frozenset({primary, *map(settings.bucket_of, catalogs), *of_profiles})
        # Of two commits to a service's tables the service lets one through, whatever the bucket does.
        deciding = frozenset(
            {primary, *of_profiles, *(settings.bucket_of(c) for c in catalogs if c.type != "rest")}
        )
        self.buckets = Buckets(settings.buckets, self.cache, self.clock, needed, deciding, bucket)
        self.bucket = self.buckets.primary
        self.bucket_errors = BucketErrorJournal(self.bucket, self.clock)
        self.bucket_errors.watch(self.buckets.values())
        self.events = EventJournal(self.bucket, settings.journal, self.clock)
        self.ai = Models(settings.ai)
        self.ai_calls = ModelQuota(settings.ai, self.clock)
        self.objects = Objects(settings, self.buckets, self.clock, self.events)
        self._opened = open_catalogs(settings, self.clock, self.buckets)
        self.manifests = ManifestStore(self.bucket, self.clock, settings.datasets.index_refresh_ms / 1000)
        self.scratch = ScratchDirectory(settings.engine.spill_directory)
        self.links = self.cache.links = LinkedObjects(settings.engine.spill_directory)
        self.registered = RegisteredCatalog(self.manifests, self.buckets, self.links)
        self.catalogs = Catalogs((*self._opened, self.registered), settings.catalog.default_schema)
        self.catalog: Catalog = self.catalogs.default
        if self.events.is_enabled:
            for catalog in self._opened:
                catalog.recorder = self.events
        readable = [Path(bucket.path).absolute() for bucket in settings.buckets if bucket.kind == "local"]
        readable.append(self.links.directory)
        if self.cache.directory is not None:
            readable.append(self.cache.directory)
        self.policy = AccessPolicy(settings)
        self.anonymous = Principal(ANONYMOUS, frozenset({settings.auth.anonymous_role}))
        self.journal = AuditJournal(self.bucket, settings.audit, self.clock, statement_text)
        self.attempt_observers: list[OnAttempt] = [self.journal.authentication]
        self.authenticator = Authenticator(settings, self.bucket, self.clock, self._attempted)
        self.engine = Engine(settings, self.catalogs, self.policy, readable, self.clock, self.cache)
        if self.journal.is_enabled:
            self.engine.running.observers.append(self.journal.statement)
        self.sessions = SessionRegistry(self.engine.new_session, self.clock, settings.session)
        self.maintenance = Maintenance(
            self._opened,
            TableReader(self.engine),
            self.engine.files_in_use,
            settings.maintenance,
            settings.ingest.target_file_bytes,
            self.journal,
        )
        self._know_datasets(settings)
        self.recovery = EventRecovery(self._opened, self.events, self.clock)
        runs = settings.ingest
        self.ingests = Ingests(
            self.engine,
            RunStore(self.bucket, self.clock),
            self.clock,
            runs.concurrent_runs,
            runs.waiting_runs,
        )
        self._index_vectors(settings)
        self._forget_runs(settings)
        self._show_system_tables()

    def uptime_seconds(self) -> float:
        """Seconds since this object was built."""
        return self.clock.monotonic() - self._started_s

    def close(self) -> None:
        """Roll back what is open, stop what runs and release every resource."""
        self.recovery.stop()
        self.maintenance.stop()
        self.ingests.close()
        self.vector_runs.close()
        self.ai.close()
        self.vectors.close()
        self.trials.close()
        self.datasets.close()
        self.sessions.close_all()
        self.engine.close()
        self.events.close()
        self.journal.close()
        self.bucket_errors.close()
        self.manifests.close()
        for catalog in self._opened:
            catalog.close()
        self.links.close()
        self.scratch.close()
        self.cache.close()
        self.objects.close()
        self.buckets.close()

    def _know_datasets(self, settings: Settings) -> None:
        """Begin to keep what is known of datasets."""
        self.datasets = DatasetTracker(
            self.manifests, self.catalogs, self.clock, settings.datasets, TableReader(self.engine)
        )
        reader = TableReader(self.engine)
        self.registrations = Registrations(
            self.manifests,
            self.buckets,
            [(settings.bucket_of(each), each.warehouse) for each in (settings.catalog, *settings.catalogs)],
            self.clock,
            self.events,
            lambda m: reader.sample(self.registered.table(m), settings.datasets.sample_rows, lambda: False),
        )
        self.resync = Resync(
            self.manifests,
            self.catalogs,
            self.registered,
            self.registrations,
            self.buckets,
            self.clock,
            self.events,
            reader,
        )

    def _index_vectors(self, settings: Settings) -> None:
        """Keep tables of embeddings and indexes of vectors."""
        source = LakeSource(self.engine)
        self.vectors = VectorIndexes(
            self.bucket,
            self.clock,
            settings.vectors,
            source,
            self.events,
            str(self.scratch.path),
            {each.name: self.buckets[settings.bucket_of_profile(each.name)] for each in settings.profiles},
        )
        if settings.profiles:
            self.vectors.profiles = Profiles(
                settings, self.policy.profiles, self.bucket, self.vectors, self.ai, self.clock, self.events
            )
        self.embeddings = Embeddings(self.engine, self.bucket)
        self.vector_runs = Tasks(
            self.engine,
            RunStore(self.bucket, self.clock, "_vectors", "vectors.runs.list"),
            self.clock,
            "vector runs",
            settings.vectors.concurrent_runs,
            settings.vectors.waiting_runs,
        )
        self.trials = Trials(self.vectors, source, self.ai, self.bucket, self.clock, settings.vectors)
        self.sql_search = SqlSearch(self.vectors, self.engine, self.ai, self.ai_calls)
        self.engine.database.model_calls.semantics = self.sql_search
        enabled = settings.datasets.enabled
        self.vector_manifests = IndexManifests(
            self.manifests, self.vectors.store, self.catalogs, self.clock, enabled=enabled
        )
        self.vectors.observer = self.resync.indexes = self.vector_manifests
        if enabled:
            self.datasets.also = self.vector_manifests.look
            self.datasets.start()

    def _forget_runs(self, settings: Settings) -> None:
        """Have records of runs removed when they are old."""
        days, keep = settings.maintenance.expire_run_days, settings.maintenance.keep_runs
        if not days:
            return
        for what, store in (("ingest", self.ingests.store), ("vector", self.vector_runs.store)):
            self.maintenance.also_remove(
                f"records of {what} runs", partial(store.remove_old, days * 86_400, keep)
            )

    def _show_system_tables(self) -> None:
        self.engine.add_system_tables(
            (
                audit_table(self.journal),
                bucket_errors_table(self.bucket_errors),
                buckets_table(self.buckets),
                events_table(self.events),
                statements_table(self.engine.running),
                sessions_table(self.sessions, self.engine, self.clock),
                *history_tables(),
                *datasets_tables(self.manifests, self.clock, self.vector_manifests),
                trials_table(self.trials.journal, self.vectors),
            )
        )

    def _attempted(self, principal: str, peer: str, method: str, outcome: str) -> None:
        for observer in self.attempt_observers:
            observer(principal, peer, method, outcome)
