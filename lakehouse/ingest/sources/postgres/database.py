"""All tables of a database as sources, as of one moment."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.errors import LakehouseError
from lakehouse.ingest.sources.postgres import catalogue
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.failures import Dropped
from lakehouse.ingest.sources.postgres.fetching import Reading
from lakehouse.ingest.sources.postgres.snapshot import Cancelled, Snapshot
from lakehouse.ingest.sources.postgres.source import PostgresSource


class PostgresDatabase:
    """Tables, partitioned, foreign and materialized ones too, that all show one state of the database.

    A foreign table shows what its own server has when it is read.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        schemas: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        reading: Reading | None = None,
    ) -> None:
        """Describe which; nothing is connected to yet.

        Args:
            dsn: The database.
            schemas: Those to look in; all but the system's if empty.
            include: Patterns (``*``, ``?``, ``[…]``) of ``table`` or ``schema.table``; all if empty.
            exclude: Patterns of those to leave out.
            reading: How to read.
        """
        self._dsn = dsn
        self._which = (schemas, include, exclude)
        self._reading = reading
        self._snapshot = Snapshot(dsn)

    def __repr__(self) -> str:
        return f"PostgresDatabase({str(self._dsn)!r})"

    def sources(self, cancelled: Cancelled) -> list[PostgresSource]:
        """One for each table; those that others refer to come first.

        Those that the user may not read are among them: it shows when they are inspected. All of them end
        with ``close``.

        Raises:
            InvalidRequest, StorageError, StatementTimeout: The database cannot be looked at.
            StatementCancelled: ``cancelled`` said so.
        """
        failure: LakehouseError
        try:
            self._snapshot.open((), cancelled)
            found = catalogue.relations(self._snapshot, *self._which, cancelled)
            # Again, now with locks from before the moment whose state is read.
            self._snapshot.open([(each.schema, each.name) for each in found], cancelled)
            found = catalogue.relations(self._snapshot, *self._which, cancelled)
        except Dropped as dropped:
            failure = dropped.error
        else:
            return [PostgresSource(self._dsn, each, self._reading, self._snapshot) for each in found]
        raise failure

    def close(self) -> None:
        """Let go of the connection, and so of the moment and the locks."""
        self._snapshot.close()
