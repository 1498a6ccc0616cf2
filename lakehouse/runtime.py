"""Builds one Lakehouse object from the settings; the only module that chooses adapters."""

from __future__ import annotations

from pathlib import Path

from lakehouse.access.authenticator import Authenticator
from lakehouse.access.policy import AccessPolicy
from lakehouse.access.principal import ANONYMOUS, Principal
from lakehouse.catalog import Catalog, open_catalog
from lakehouse.clock import Clock, SystemClock
from lakehouse.config import Settings
from lakehouse.engine.engine import Engine
from lakehouse.engine.session import SessionRegistry
from lakehouse.storage import open_local_bucket


class Lakehouse:
    """The whole domain of one server: catalog, engine and sessions.

    ``anonymous`` is who callers are while nobody has to say who they are.

    Args:
        settings: The configuration.
        clock: Source of time and ids.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self._started_s = self.clock.monotonic()
        self.catalog: Catalog = open_catalog(settings, self.clock)
        default = settings.catalog.default_schema
        self.catalog.create_schema(default, if_not_exists=True)
        readable = [Path(bucket.path).absolute() for bucket in settings.buckets]
        self.policy = AccessPolicy(settings)
        self.anonymous = Principal(ANONYMOUS, frozenset({settings.auth.anonymous_role}))
        where = settings.buckets[0]
        self.bucket = open_local_bucket(where.name, where.path)
        self.authenticator = Authenticator(settings, self.bucket, self.clock)
        self.engine = Engine(settings, self.catalog, self.policy, readable, self.clock)
        self.engine.add_system_tables(())
        session = settings.session
        self.sessions = SessionRegistry(
            self.engine.new_session, self.clock, session.idle_seconds, session.max_sessions
        )

    def uptime_seconds(self) -> float:
        """Seconds since this object was built."""
        return self.clock.monotonic() - self._started_s

    def close(self) -> None:
        """Roll back what is open, stop what runs and release every resource."""
        self.sessions.close_all()
        self.engine.close()
