"""All that keeps tables in shape, on demand and in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from lakehouse.catalog import IcebergCatalog
from lakehouse.catalog.references import latest
from lakehouse.catalog.retention import table_rule
from lakehouse.config import MaintenanceSettings
from lakehouse.errors import LakehouseError, NotSupported, SchemaNotFound, TableNotFound
from lakehouse.journal import AuditJournal
from lakehouse.journal.change_event import Origin, acting
from lakehouse.maintenance.cleanup import Cleaner
from lakehouse.maintenance.compaction import CompactionOptions, CompactionResult, Compactor, Reader
from lakehouse.types import TableName

_log = structlog.get_logger()
_PRINCIPAL = "maintenance"

Removal = Callable[[Callable[[], bool]], int]
"""Removes what is old, unless what it is given says that it has to stop; gives how much it removed."""


class CatalogMaintenance:
    """Compacts and cleans up the tables of one catalog.

    Each piece of work that did something is logged and journaled as the principal ``maintenance``; a table on
    which it fails does not keep it from the others.

    Args:
        catalog: Where the tables are.
        reader: Gives the rows of files.
        in_use: Gives the paths of the files that statements of this process read or may yet read.
        settings: The section ``maintenance`` of the configuration.
        file_bytes: How large files are made by ingest.
        journal: Where it is recorded.
        stop: Set when the work has to end.

    Attributes:
        cleaner: Expires snapshots and removes files.
        compactor: Puts small files together.
    """

    def __init__(
        self,
        catalog: IcebergCatalog,
        reader: Reader,
        in_use: Callable[[], set[str]],
        settings: MaintenanceSettings,
        file_bytes: int,
        journal: AuditJournal,
        stop: threading.Event,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._journal = journal
        self._target_bytes = settings.target_file_bytes or file_bytes
        self.cleaner = Cleaner(catalog, in_use, timedelta(seconds=settings.grace_seconds))
        self.compactor = Compactor(catalog, reader)
        self._stop = stop

    def run_once(self) -> None:
        """Look at every table of the catalog once."""
        for schema in self._catalog.schemas():
            try:
                names = self._catalog.tables(schema)
            except (SchemaNotFound, LakehouseError):
                continue
            for name in names:
                if self._stop.is_set():
                    return
                self._look_after(schema, name)

    def _look_after(self, schema: str, name: str) -> None:
        for work in (self._compact, self._expire):
            try:
                work(schema, name)
            except (TableNotFound, SchemaNotFound, NotSupported):
                return
            except Exception as error:  # noqa: BLE001 - the other tables are looked after all the same
                if self._stop.is_set():
                    return
                code = error.code if isinstance(error, LakehouseError) else "INTERNAL"
                table = TableName(self._catalog.name, schema, name)
                _log.exception("maintenance of a table failed", table=str(table))
                self._record(f"maintenance {table}", code, 0.0)

    def _compact(self, schema: str, name: str) -> None:
        began_s = self._catalog.clock.monotonic()
        options = CompactionOptions(self._target_bytes, self._settings.min_small_files)
        result = self.compactor.compact(schema, name, options, _unheard, self._stop.is_set)
        if result != CompactionResult():
            seconds = self._catalog.clock.monotonic() - began_s
            table = TableName(self._catalog.name, schema, name)
            _log.info(
                "table compacted",
                table=str(table),
                files_before=result.files_before,
                files_after=result.files_after,
                conflicts=result.conflicts,
                seconds=round(seconds, 3),
            )
            self._record(f"table.compact {table}", "", seconds)

    def _expire(self, schema: str, name: str) -> None:
        began_s, now = self._catalog.clock.monotonic(), self._catalog.clock.now()
        table = latest(self._catalog, schema, name)
        now_ms = int(now.timestamp() * 1000)
        rule = table_rule(table, now_ms, self.cleaner.youngest_ms())
        if rule is not None:
            age, keep = timedelta(milliseconds=now_ms - rule.older_than_ms), rule.keep_last
        elif self._settings.expire_snapshot_days:
            age, keep = timedelta(days=self._settings.expire_snapshot_days), self._settings.keep_snapshots
        else:
            self.cleaner.sweep(schema, name)
            return
        result = self.cleaner.expire(schema, name, now - age, keep)
        if result.snapshots or result.removed_files:
            seconds = self._catalog.clock.monotonic() - began_s
            expired, removed = len(result.snapshots), result.removed_files
            _log.info("snapshots expired", table=str(table.name), snapshots=expired, removed_files=removed)
            self._record(f"table.expire_snapshots {table.name}", "", seconds)

    def _record(self, what: str, code: str, seconds: float) -> None:
        self._journal.action(_PRINCIPAL, "", "", "", what, code, seconds)


class Maintenance:
    """Looks after the tables of every catalog.

    Background work is done by one thread, one table after the other. A catalog that cannot be reached does
    not keep it from the others.

    Args:
        catalogs: Where the tables are, the default catalog first.
        reader: Gives the rows of files.
        in_use: Gives the paths of the files that statements of this process read or may yet read.
        settings: The section ``maintenance`` of the configuration.
        file_bytes: How large files are made by ingest.
        journal: Where it is recorded.
    """

    def __init__(
        self,
        catalogs: Sequence[IcebergCatalog],
        reader: Reader,
        in_use: Callable[[], set[str]],
        settings: MaintenanceSettings,
        file_bytes: int,
        journal: AuditJournal,
    ) -> None:
        self._settings = settings
        self.target_bytes = settings.target_file_bytes or file_bytes
        self._stop = threading.Event()
        self._by_catalog = {
            catalog.name: CatalogMaintenance(
                catalog, reader, in_use, settings, file_bytes, journal, self._stop
            )
            for catalog in catalogs
        }
        self._default = self._by_catalog[catalogs[0].name]
        self._journal = journal
        self._clock = catalogs[0].clock
        self._also: list[tuple[str, Removal]] = []
        self._thread: threading.Thread | None = None

    def of(self, catalog: str) -> CatalogMaintenance:
        """What looks after the tables of a catalog, by its name as it is spelled.

        Raises:
            NotSupported: The files of the catalog are those of others, which are left alone.
        """
        found = self._by_catalog.get(catalog)
        if found is None:
            raise NotSupported(f"the files of catalog '{catalog}' are left as they are")
        return found

    def also_remove(self, what: str, removal: Removal) -> None:
        """Have something else removed at each look, after the tables.

        Args:
            what: What is removed, for the log and the journal.
            removal: Removes it.
        """
        self._also.append((what, removal))

    @property
    def cleaner(self) -> Cleaner:
        """Expires snapshots and removes files of the default catalog."""
        return self._default.cleaner

    @property
    def compactor(self) -> Compactor:
        """Puts small files of the default catalog together."""
        return self._default.compactor

    def start(self) -> None:
        """Begin to look after the tables in the background, if the configuration says so."""
        if self._settings.enabled and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop within a batch of rows; what was committed stays."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def run_once(self) -> None:
        """Look at every table once, and at what else is removed."""
        for name, catalog in self._by_catalog.items():
            try:
                with acting(Origin("maintenance", "maintenance")):
                    catalog.run_once()
            except Exception:  # noqa: BLE001 - the next look may go better
                _log.exception("maintenance failed", catalog=name)
        for what, removal in self._also:
            if not self._stop.is_set():
                self._remove(what, removal)

    def _remove(self, what: str, removal: Removal) -> None:
        began_s = self._clock.monotonic()
        try:
            removed = removal(self._stop.is_set)
        except Exception as error:  # noqa: BLE001 - the next look may go better
            expected = isinstance(error, LakehouseError)
            _log.warning("old records not removed", what=what, reason=str(error), exc_info=not expected)
            return
        if removed:
            seconds = self._clock.monotonic() - began_s
            _log.info("old records removed", what=what, removed=removed, seconds=round(seconds, 3))
            self._journal.action(_PRINCIPAL, "", "", "", f"remove {what}", "", seconds)

    def _run(self) -> None:
        while not self._stop.wait(self._settings.interval_seconds):
            self.run_once()


def _unheard(share: float, message: str) -> None:
    """Nobody listens."""
