"""Keeps the manifests of tables: ahead of changes of what tables are, and behind commits of rows.

That a table is created, replaced, altered, renamed or dropped is written into its manifest before it takes
place. What did not take place after all, and what commits of rows changed, a thread of its own looks after:
it gathers the names of tables that changed, reads their metadata once and writes their manifests together. A
commit does no more than to leave a name.

The same thread looks through all tables once after the start, little by little: a table that another program
made gets its manifest, one that was dropped by another program loses it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import pyarrow as pa
import structlog

from lakehouse.catalog import Catalogs, IcebergCatalog, Table
from lakehouse.catalog.names import fold
from lakehouse.catalog.observer import RowSource, caller
from lakehouse.clock import Clock
from lakehouse.config import DatasetSettings
from lakehouse.datasets.manifest import DatasetKind, DatasetManifest, LineageEdge, Sensitivity
from lakehouse.datasets.manifest_store import Build, ManifestStore
from lakehouse.datasets.observed import is_current, merged, observed, renamed_columns, without_counts
from lakehouse.datasets.sensitivity import detect
from lakehouse.errors import (
    CatalogNotFound,
    LakehouseError,
    SchemaNotFound,
    TableNotFound,
)
from lakehouse.types import TableName

_log = structlog.get_logger()

_MOST_AT_ONCE = 200
_MOST_WAITING = 100_000
# Of the time of the thread so much may go into one table.
_SHARE = 0.05
_PACE_S = 0.05
_RETRY_S = 5.0
_GROWTH = 2

_Key = tuple[str, str, str]


class Sampler(Protocol):
    """Gives some rows of a table, read on nobody's behalf."""

    def sample(self, table: Table, rows: int, cancelled: Callable[[], bool]) -> pa.Table:
        """At most so many rows of a table as it is.

        Raises:
            LakehouseError: They cannot be read, or ``cancelled`` said so.
        """
        ...


@dataclass(slots=True)
class _Waiting:
    """A table whose manifest has to be looked after, and where rows came from that it got."""

    name: TableName
    sources: dict[RowSource, None] = field(default_factory=dict)
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a table was like when its rows were looked at last."""

    fingerprint: str
    rows: int


@dataclass(frozen=True, slots=True)
class _Observation:
    """What was found out of a name.

    Attributes:
        is_right: Tells whether the table is still what it was when it was looked at.
        dataset_id: The table; empty where there is none.
        looked: What it was like, where its rows were looked at.
    """

    is_right: Callable[[], bool]
    dataset_id: str = ""
    looked: _Looked | None = None


class DatasetTracker:
    """Keeps the manifests of the tables of catalogs. See ``CatalogObserver``.

    Args:
        store: Where the manifests are.
        catalogs: The catalogs.
        clock: Source of time.
        settings: How often, and how much of the rows is looked at.
        sampler: Gives rows to look at.
    """

    def __init__(
        self,
        store: ManifestStore,
        catalogs: Catalogs,
        clock: Clock,
        settings: DatasetSettings,
        sampler: Sampler | None = None,
    ) -> None:
        self.store = store
        self._catalogs = catalogs
        self._clock = clock
        self._settings = settings
        self._sampler = sampler
        self._lock = threading.Lock()
        self._waiting: dict[_Key, _Waiting] = {}
        # Changes that were announced and are not over, and how many were announced so far.
        self._under_way: set[_Key] = set()
        self._announced: dict[_Key, int] = {}
        self._looked: dict[str, _Looked] = {}
        self._working = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.also: Callable[[], Iterator[bool]] | None = None
        """Looks through datasets that are no tables, one at each step, after all tables."""

    def start(self) -> None:
        """Watch the catalogs, and look after manifests in the background."""
        for catalog in self._tables():
            catalog.observer = self
        self._thread = threading.Thread(target=self._run, name="datasets", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what waits is written, as far as it does not take long."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._look_after(time.monotonic(), everything=True)
        except LakehouseError as error:
            _log.warning("manifests_not_refreshed", reason=str(error))
        self.store.close()

    def settle(self) -> None:
        """Look after everything that waits, now.

        Raises:
            LakehouseError: A manifest could not be written.
        """
        while self._look_after(time.monotonic(), everything=True):
            pass

    # -- what catalogs tell -----------------------------------------------------------------------------

    def altering(self, after: Table, before: Table | None, sources: Sequence[RowSource] = ()) -> None:
        """Write ahead what a table is about to become. See ``CatalogObserver``."""
        seen = observed(after, self._clock.now(), statistics=False)
        renamed = {} if before is None else renamed_columns(before, after)
        edges = self._edges(sources if before is None else ())
        by = caller()
        self._announce(after.name)

        def build(old: DatasetManifest | None) -> DatasetManifest:
            return merged(old, without_counts(old, seen), by=by, edges=edges, renamed=renamed)

        self.store.change(seen.dataset_id, build)

    def dropping(self, table: Table) -> None:
        """Write ahead that a table is about to go. See ``CatalogObserver``."""
        if self.store.get(table.uuid) is not None:
            self._announce(table.name)
            self.store.change(table.uuid, partial(self._dropped, name=table.name, by=caller()))

    def renaming(self, table: Table, to: TableName) -> None:
        """Write ahead how a table is about to be called. See ``CatalogObserver``."""
        now, by = self._clock.now(), caller()
        if self.store.get(table.uuid) is None:
            return
        self._announce(table.name)
        self._announce(to)

        def build(old: DatasetManifest | None) -> DatasetManifest:
            assert old is not None
            return replace(old, name=to, updated_at=now, updated_by=by)

        self.store.change(table.uuid, build)

    def changed(self, name: TableName) -> None:
        """Look after a table soon, which is what it is again. See ``CatalogObserver``."""
        self._under_way.discard(_key(name))
        self.filled(name, ())

    def filled(self, name: TableName, sources: Sequence[RowSource]) -> None:
        """Look after a table soon. Costs microseconds. See ``CatalogObserver``."""
        key = _key(name)
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting is None:
                if len(self._waiting) >= _MOST_WAITING:
                    return  # the next start finds it
                waiting = self._waiting[key] = _Waiting(name)
            for source in sources:
                waiting.sources[source] = None
        if not self._wake.is_set():
            self._wake.set()

    def look_at(self, name: TableName) -> None:
        """Look after a table soon of which the manifest turned out to be wrong."""
        self.filled(name, ())

    def _announce(self, name: TableName) -> None:
        """From now on, what was seen of a table before does not go into its manifest any more."""
        key = _key(name)
        self._under_way.add(key)
        self._announced[key] = self._announced.get(key, 0) + 1

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        unseen = self._unseen()
        is_done = False
        while not self._closing.is_set():
            self._wake.wait(self._settings.refresh_seconds if is_done and not self._waiting else _PACE_S)
            try:
                if self._wake.is_set():
                    self._wake.clear()
                    self._closing.wait(self._settings.refresh_seconds)
                if not self._closing.is_set():
                    self._look_after(time.monotonic())
                    is_done = is_done or next(unseen, None) is None
            except Exception as error:  # noqa: BLE001 - the thread has to live as long as the server
                if not isinstance(error, LakehouseError):
                    _log.exception("manifests_not_refreshed")
                else:
                    _log.warning("manifests_not_refreshed", reason=str(error))
                unseen = unseen if is_done else self._unseen()
                self._closing.wait(_RETRY_S)

    def _unseen(self) -> Iterator[bool]:
        """Go through all tables, one at each step, and note those whose manifest is not right."""
        self.store.refresh()
        yield True
        there: set[str] = set()
        for catalog in self._tables():
            for schema in catalog.schemas():
                for name in _listed(catalog, schema):
                    there.add(self._check(catalog, schema, name))
                    yield True
        for dataset_id, found, kind in self.store.names():
            if kind is DatasetKind.TABLE and dataset_id not in there:
                self.look_at(found)
        if self.also is not None:
            yield from self.also()

    def _check(self, catalog: IcebergCatalog, schema: str, name: str) -> str:
        try:
            table = catalog.load(schema, name)
            manifest = self.store.get(table.uuid)
            if manifest is None or manifest.dropped or not is_current(manifest, table):
                self.look_at(table.name)
        except LakehouseError:
            return ""  # dropped meanwhile, or nothing that can be read
        return table.uuid

    def _look_after(self, now: float, *, everything: bool = False) -> bool:
        """Bring manifests up to date; gives whether there was anything to do."""
        with self._working:
            with self._lock:
                due = [
                    waiting
                    for key, waiting in self._waiting.items()
                    if key not in self._under_way and (everything or waiting.not_before <= now)
                ][:_MOST_AT_ONCE]
                for each in due:
                    del self._waiting[_key(each.name)]
            if not due:
                return False
            builds: dict[str, Build] = {}
            try:
                seen = [self._observe(each, builds) for each in due]
                if builds:
                    self.store.change_many(builds)
            except LakehouseError:
                for each in due:
                    self._again(each, now + _RETRY_S)
                raise
            for waiting, observation in zip(due, seen, strict=True):
                if not observation.is_right():
                    self._again(waiting, now)
                elif observation.looked is not None:
                    self._looked[observation.dataset_id] = observation.looked
            return True

    def _again(self, waiting: _Waiting, not_before: float) -> None:
        self.filled(waiting.name, tuple(waiting.sources))
        with self._lock:
            found = self._waiting.get(_key(waiting.name))
            if found is not None:
                found.not_before = not_before

    def _observe(self, waiting: _Waiting, builds: dict[str, Build]) -> _Observation:
        """Find out what has to become of the manifests of a name."""
        begun = time.monotonic()
        name, key = waiting.name, _key(waiting.name)
        announced = self._announced.get(key, 0)

        def is_right() -> bool:
            """Whether the table is still what it was when it was looked at."""
            return key not in self._under_way and self._announced.get(key, 0) == announced

        table = self._table(name)
        dataset_id = None if table is None else table.uuid
        for manifest in self.store.named(name):
            if manifest.kind is DatasetKind.TABLE and manifest.dataset_id != dataset_id:
                drop = partial(self._dropped, name=name, by="", is_right=is_right)
                builds.setdefault(manifest.dataset_id, drop)
        if table is None or dataset_id is None:
            return _Observation(is_right)
        try:
            seen = observed(table, self._clock.now())
        except LakehouseError as error:
            # Of a kind that cannot be read, or damaged: its name and columns are known all the same.
            _log.warning("manifest_without_statistics", table=str(name), reason=str(error))
            seen = observed(table, self._clock.now(), statistics=False)
        edges = self._edges(tuple(waiting.sources))
        by = next((source.by for source in reversed(waiting.sources)), "")
        found = self._found(table, seen)

        def build(old: DatasetManifest | None) -> DatasetManifest:
            if old is not None and (not is_right() or _is_newer(old, table)):
                return old
            return merged(old, seen, by=by, edges=edges, found=found)

        builds[dataset_id] = build
        cost = time.monotonic() - begun
        if cost > _PACE_S:
            with self._lock:
                again = self._waiting.get(key)
                if again is not None:
                    again.not_before = begun + cost / _SHARE
        looked = None if found is None else _Looked(seen.fingerprint, seen.rows)
        return _Observation(is_right, dataset_id, looked)

    def _found(self, table: Table, seen: DatasetManifest) -> Mapping[str, tuple[Sensitivity, ...]] | None:
        """The kinds of data in a table's columns; None where there is no need to look again."""
        if self._sampler is None or not self._settings.sample_rows or not seen.rows:
            return None
        before = self._looked.get(seen.dataset_id)
        if before is None:
            old = self.store.get(seen.dataset_id)
            # What was found before a restart is known still.
            if old is not None and old.rows and any(column.sensitivity for column in old.columns):
                before = _Looked(old.fingerprint, old.rows)
        if before is not None and before.fingerprint == seen.fingerprint:
            low, high = sorted((before.rows, seen.rows))
            if high < low * _GROWTH:
                return None
        try:
            sample = self._sampler.sample(table, self._settings.sample_rows, self._closing.is_set)
            found = detect(sample)
        except LakehouseError as error:
            if not self._closing.is_set():
                _log.warning("sensitivity_not_detected", table=str(table.name), reason=str(error))
            return None
        return found

    def _dropped(
        self,
        old: DatasetManifest | None,
        name: TableName,
        by: str,
        is_right: Callable[[], bool] | None = None,
    ) -> DatasetManifest:
        assert old is not None
        if old.dropped or _key(old.name) != _key(name) or (is_right is not None and not is_right()):
            return old  # it has another name by now
        return replace(old, dropped=True, updated_at=self._clock.now(), updated_by=by)

    def _table(self, name: TableName) -> Table | None:
        try:
            return self._iceberg(name).load(name.schema, name.table)
        except (TableNotFound, SchemaNotFound):
            return None

    def _edges(self, sources: Sequence[RowSource]) -> tuple[LineageEdge, ...]:
        now = self._clock.now()
        return tuple(
            LineageEdge(s.system, s.source, s.ingest, self._ids(s.inputs), now, s.by) for s in sources
        )

    def _ids(self, names: Sequence[TableName]) -> tuple[str, ...]:
        found = (self.id_of(name) for name in names)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    def id_of(self, name: TableName) -> str | None:
        """The id of the dataset of that name; None where there is none."""
        try:
            return self._catalogs.load(name).uuid
        except (CatalogNotFound, SchemaNotFound, TableNotFound):
            manifest = self.store.find(name)
            return None if manifest is None else manifest.dataset_id

    def _iceberg(self, name: TableName) -> IcebergCatalog:
        catalog = self._catalogs.of(name.catalog)
        if not isinstance(catalog, IcebergCatalog):
            raise TableNotFound(f"table '{name}' does not exist")
        return catalog

    def _tables(self) -> list[IcebergCatalog]:
        return [catalog for catalog in self._catalogs if isinstance(catalog, IcebergCatalog)]


def _listed(catalog: IcebergCatalog, schema: str) -> list[str]:
    try:
        return catalog.tables(schema)
    except SchemaNotFound:
        return []


def _is_newer(manifest: DatasetManifest, table: Table) -> bool:
    """Whether a manifest describes a later snapshot than a table that was looked at has."""
    snapshot_id, current = manifest.snapshot_id, table.metadata.current_snapshot()
    if snapshot_id is None or manifest.dropped or current is None or manifest.changed_at is None:
        return False
    if table.metadata.snapshot_by_id(snapshot_id) is not None:
        return False
    return manifest.changed_at.timestamp() * 1000 > current.timestamp_ms


def _key(name: TableName) -> _Key:
    return fold(name.catalog), fold(name.schema), fold(name.table)
