"""Commits that no server put on record, because it was killed before its events were stored.

Every commit says in its snapshot who made it and by what. So the table's own history tells what the event
journal has missed, and it is put on record afterwards, under the ids that the events would have had: where
two servers do that at once, or the first one was only slow, readers see each event once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.catalog.change_events import is_told, recovered_events
from lakehouse.clock import Clock
from lakehouse.errors import LakehouseError, StatementCancelled
from lakehouse.journal import EventJournal
from lakehouse.journal.change_event import ChangeEvent

_STARTING_TABLES = 10_000
_log = structlog.get_logger()

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """What was looked at, and what was found.

    Attributes:
        tables: Tables that were looked at.
        commits: Their commits within the time.
        recovered: Events of commits that nobody had put on record.
        unreadable: Tables that could not be looked at.
    """

    tables: int = 0
    commits: int = 0
    recovered: int = 0
    unreadable: int = 0


class EventRecovery:
    """Puts commits on record that a killed server did not.

    Args:
        catalogs: Whose tables are looked at.
        journal: What is on record.
        clock: Source of time.
    """

    def __init__(self, catalogs: Sequence[IcebergCatalog], journal: EventJournal, clock: Clock) -> None:
        self._catalogs = catalogs
        self._journal = journal
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look once in the background, as far back as the configuration says."""
        settings = self._journal.settings
        if self._journal.is_enabled and settings.recover_hours > 0 and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="event-recovery", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop after the table that is being looked at."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def run(
        self,
        since: datetime,
        report: Report = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
        most_tables: int | None = None,
    ) -> RecoveryResult:
        """Look for commits since a time that are not on record, and put them there, durably.

        Args:
            since: Older commits are left alone.
            report: Is told how far it is.
            cancelled: Asked between tables.
            most_tables: No more tables than that are looked at.

        Raises:
            StorageError: What is on record cannot be read, or what was found not be stored.
            StatementCancelled: ``cancelled`` said so; what was found is put on record all the same.
        """
        if not self._journal.is_enabled:
            return RecoveryResult()
        tables = commits = unreadable = 0
        found: dict[str, ChangeEvent] = {}
        for number, table in enumerate(self._tables()):
            if cancelled() or number == most_tables:
                break
            if table is None:
                unreadable += 1
                continue
            tables += 1
            for event in self._commits(table, since):
                commits += 1
                found[event.event_id] = event
            report(0.0, f"{tables} tables, {commits} commits")
        recovered = self._record(found, since) if found else 0
        if cancelled():
            raise StatementCancelled("the search was cancelled; what it found until then is on record")
        return RecoveryResult(tables, commits, recovered, unreadable)

    def _record(self, found: dict[str, ChangeEvent], since: datetime) -> int:
        # A server's clock and the times of its snapshots are not exactly the same.
        known = self._journal.known_ids(frozenset(found), since - timedelta(hours=1))
        missing = [event for event_id, event in found.items() if event_id not in known]
        self._journal.record(*missing)
        if missing:
            self._journal.flush()
            _log.info("commits_recovered", events=len(missing))
        return len(missing)

    def _tables(self) -> Iterator[Table | None]:
        for catalog in self._catalogs:
            try:
                schemas = catalog.schemas()
            except LakehouseError:
                yield None
                continue
            for schema in schemas:
                yield from self._tables_of(catalog, schema)

    def _tables_of(self, catalog: IcebergCatalog, schema: str) -> Iterator[Table | None]:
        try:
            names = catalog.tables(schema)
        except LakehouseError:
            yield None
            return
        for name in names:
            try:
                yield catalog.load(schema, name)
            except LakehouseError:
                yield None  # dropped meanwhile, or of a kind that cannot be read

    def _commits(self, table: Table, since: datetime) -> Iterator[ChangeEvent]:
        since_ms = since.timestamp() * 1000
        for snapshot in table.metadata.snapshots:
            if snapshot.timestamp_ms >= since_ms and is_told(snapshot):
                yield from recovered_events(str(table.name), table.metadata, snapshot)

    def _run(self) -> None:
        hours = self._journal.settings.recover_hours
        since = self._clock.now().astimezone(UTC) - timedelta(hours=hours)
        try:
            self.run(since, cancelled=self._stop.is_set, most_tables=_STARTING_TABLES)
        except StatementCancelled:
            return
        except Exception:  # noqa: BLE001 - the server works without, and the next start looks again
            _log.exception("events_not_recovered")
