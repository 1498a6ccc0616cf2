"""Manifests against what is really in storage: told where they differ, and made anew from it.

What a manifest should say is found out in the same way for both: of an Iceberg table its current snapshot
says it, of registered Parquet the footers of the objects. The footers of a table's files are read as well,
and compared with what the snapshot says of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from lakehouse.catalog import Catalogs, IcebergCatalog, Table
from lakehouse.catalog.names import fold
from lakehouse.clock import Clock
from lakehouse.datasets.difference import Difference, differences
from lakehouse.datasets.footers import Finding, Footer, read_footers
from lakehouse.datasets.manifest import VECTORS, DatasetKind, DatasetManifest, Sensitivity
from lakehouse.datasets.manifest_store import Build, ManifestStore
from lakehouse.datasets.observed import merged, observed
from lakehouse.datasets.registered_catalog import (
    REGISTERED,
    RegisteredCatalog,
    bucket_of,
    registered_datasets,
)
from lakehouse.datasets.registration import (
    Contents,
    Registrations,
    dataset_id_of,
    examine,
    list_parquet,
    refuse_damaged,
    with_contents,
    with_said,
)
from lakehouse.datasets.sensitivity import detect
from lakehouse.errors import (
    CatalogNotFound,
    LakehouseError,
    NotSupported,
    SchemaMismatch,
    SchemaNotFound,
    StatementCancelled,
    TableNotFound,
    TypeNotStorable,
)
from lakehouse.journal.change_event import ChangeEvent, ChangeRecorder
from lakehouse.storage import Bucket
from lakehouse.types import DataFileRef, TableName

MOST_FINDINGS = 1000
"""So many findings of one dataset are told; their number is always right."""

_SAMPLE_ROWS = 1000

Report = Callable[[float, str], None]
Visible = Callable[[TableName], bool]


class RowReader(Protocol):
    """Reads rows on nobody's behalf."""

    def sample(self, table: Table, rows: int, cancelled: Callable[[], bool]) -> pa.Table:
        """At most so many rows of a table as it is.

        Raises:
            LakehouseError: They cannot be read.
        """
        ...

    def count(self, table: Table, file: DataFileRef, cancelled: Callable[[], bool]) -> int:
        """How many rows a file has, deleted ones included; all values are read, so that damage is noticed.

        Raises:
            LakehouseError: It cannot be read.
        """
        ...


class IndexSource(Protocol):
    """Knows what is in storage of vector indexes."""

    def truth(self, name: TableName) -> DatasetManifest:
        """What the bucket says of an index.

        Raises:
            TableNotFound: There is no such index.
        """
        ...

    def names(self) -> list[TableName]:
        """The names of all indexes that are there."""
        ...

    def together(self, old: DatasetManifest | None, seen: DatasetManifest) -> DatasetManifest:
        """What the bucket says, with what somebody said."""
        ...

    def findings(
        self, manifest: DatasetManifest, check: Callable[[], None], *, deep: bool = False
    ) -> Iterator[Finding]:
        """What is wrong with the objects of an index."""
        ...


@dataclass(frozen=True, slots=True)
class Resynced:
    """What became of one manifest.

    Attributes:
        name: The dataset.
        dataset_id: Its id.
        differences: In what the former manifest differed; none where it was right.
        findings: What is wrong in storage.
        objects: How many objects it has.
        rows: How many rows.
        footers: How many footers were read.
    """

    name: TableName
    dataset_id: str
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]
    objects: int
    rows: int
    footers: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found of one dataset; ``findings`` are the first ``MOST_FINDINGS`` of ``count``."""

    name: TableName | None
    dataset_id: str
    findings: tuple[Finding, ...]
    count: int
    objects: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A dataset that could not be looked at."""

    name: TableName
    reason: str


@dataclass(frozen=True, slots=True)
class _Truth:
    """What a manifest should say, and what is wrong in storage."""

    manifest: DatasetManifest
    findings: tuple[Finding, ...]
    footers: int
    detected: Mapping[str, tuple[Sensitivity, ...]] | None = None


class Resync:
    """Compares manifests with storage, and makes them anew. Safe to use from several threads.

    Args:
        store: The manifests.
        catalogs: Where tables are.
        registered: The catalog of registered datasets.
        registrations: What is registered.
        buckets: The buckets by name.
        clock: Source of time.
        recorder: Told of manifests that were made anew.
        rows: Reads data files as a whole.

    Attributes:
        indexes: What is in storage of vector indexes; without it there are none.
    """

    indexes: IndexSource | None = None

    def __init__(
        self,
        store: ManifestStore,
        catalogs: Catalogs,
        registered: RegisteredCatalog,
        registrations: Registrations,
        buckets: Mapping[str, Bucket],
        clock: Clock,
        recorder: ChangeRecorder,
        rows: RowReader,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._registered = registered
        self._registrations = registrations
        self._buckets = buckets
        self._clock = clock
        self._recorder = recorder
        self._rows = rows

    # -- one dataset ---------------------------------------------------------------------------------------

    def resync(
        self,
        name: TableName,
        by: str,
        check: Callable[[], None],
        report: Report,
        *,
        skip_damaged: bool = False,
        source: str = "action:catalog.resync",
    ) -> Resynced:
        """Make the manifest of a dataset say what is in storage. What somebody said of it stays.

        Args:
            name: The dataset.
            by: Who does it.
            check: Raises where this has to stop; nothing is changed then.
            report: Told of how far it is.
            skip_damaged: Leave damaged objects of a registered dataset out of it, rather than refuse.
            source: What caused it, for the record.

        Raises:
            SchemaNotFound, TableNotFound: There is no such dataset, nor a record of one.
            SchemaMismatch: Objects of a registered dataset are damaged, or do not fit together.
            StorageError: Storage cannot be read or written.
        """
        self._store.refresh()
        truth = self._truth(name, check, report, skip_damaged=skip_damaged)
        new, now = truth.manifest, self._clock.now()
        told: list[Difference] = []

        def build(old: DatasetManifest | None) -> DatasetManifest:
            fresh = self._repaired(old, truth)
            told[:] = differences(old, fresh)
            if old is not None and not told:
                return old
            return replace(fresh, updated_at=now, updated_by=by)

        changes = {new.dataset_id: build} | self._namesakes(new, by)
        self._store.change_many(changes)
        if new.kind is DatasetKind.PARQUET:
            self._registrations.keep_record(new)
        events = [
            ChangeEvent("resync", str(name), new.dataset_id, each.field, each.old, each.new, source=source)
            for each in told
        ]
        self._recorder.record(*events)
        return Resynced(
            new.name,
            new.dataset_id,
            tuple(told),
            truth.findings,
            new.object_count,
            new.rows,
            truth.footers,
        )

    def resync_missing(
        self, by: str, visible: Visible, check: Callable[[], None], report: Report
    ) -> tuple[list[Resynced], list[Failed]]:
        """Make a manifest for every dataset that lacks one. Stopped, it goes on when it is called again.

        Args:
            by: Who does it.
            visible: Whether a dataset is to be looked at.
            check: Raises where this has to stop; what was done stays done.
            report: Told of how far it is.

        Raises:
            StorageError: What is there cannot be listed.
        """
        self._store.refresh()
        self._keep_records()
        missing = [name for name in self._without_manifest(check) if visible(name)]
        done, failed = [], []
        for number, name in enumerate(missing):
            share = number / len(missing)
            report(share, str(name))

            def within(part: float, key: str, share: float = share) -> None:
                report(share + part / len(missing), key)

            try:
                done.append(self.resync(name, by, check, within, source="action:catalog.resync_missing"))
            except StatementCancelled:
                raise
            except (SchemaNotFound, TableNotFound):
                continue  # dropped meanwhile
            except LakehouseError as error:
                failed.append(Failed(name, str(error)))
        return done, failed

    # -- telling without changing --------------------------------------------------------------------------

    def verify(
        self,
        names: Sequence[TableName] | None,
        visible: Visible,
        check: Callable[[], None],
        report: Report,
        *,
        deep: bool = False,
    ) -> tuple[list[Verified], int]:
        """What differs between manifests and storage, of those datasets where something does.

        Args:
            names: Which datasets; None for all of them.
            visible: Whether a dataset is to be looked at.
            check: Raises where this has to stop.
            report: Told of how far it is.
            deep: Read all values, not footers only.

        Returns:
            What was found, and how many datasets were looked at.

        Raises:
            StorageError: What is there cannot be listed.
        """
        self._store.refresh()
        wanted = self._everything(check) if names is None else list(names)
        wanted = [name for name in wanted if visible(name)]
        found = []
        for number, name in enumerate(wanted):
            report(number / max(len(wanted), 1), str(name))
            each = self._verified(name, check, deep=deep)
            if each.count:
                found.append(each)
        if names is None:
            damage = tuple(Finding("corrupt_manifest", each.reason, each.key) for each in self._store.damage)
            records = tuple(each for each in self._registrations.records() if isinstance(each, Finding))
            broken = damage + records
            if broken:
                found.append(Verified(None, "", broken[:MOST_FINDINGS], len(broken), 0))
        return found, len(wanted)

    def _verified(self, name: TableName, check: Callable[[], None], *, deep: bool) -> Verified:
        old = self._store.find(name)
        findings: list[Finding] = []
        try:
            truth = self._truth(name, check, _quiet, skip_damaged=True)
        except (CatalogNotFound, SchemaNotFound, TableNotFound):
            findings.append(Finding("table_gone", "there is a manifest, but no such table"))
            return Verified(name, old.dataset_id if old else "", tuple(findings), 1, 0)
        except StatementCancelled:
            raise
        except (SchemaMismatch, TypeNotStorable) as error:
            findings.append(Finding("schema_mismatch", error.message))
            return Verified(name, old.dataset_id if old else "", tuple(findings), 1, 0)
        except LakehouseError as error:
            findings.append(Finding("unreadable", str(error)))
            return Verified(name, old.dataset_id if old else "", tuple(findings), 1, 0)
        findings += truth.findings
        new = truth.manifest
        known = self._store.get(new.dataset_id)
        if known is None or known.dropped:
            findings.append(Finding("no_manifest", "there is a dataset, but no manifest of it"))
        else:
            told = differences(known, self._repaired(known, truth))
            findings += [_as_finding(each, known, new) for each in told]
        for other in self._namesakes(new, ""):
            findings.append(Finding("name_twice", f"the manifest {other} has the same name"))
        if deep:
            findings += self._unreadable_rows(name, new, known, {f.key for f in findings}, check)
        return Verified(
            new.name, new.dataset_id, tuple(findings[:MOST_FINDINGS]), len(findings), new.object_count
        )

    def _unreadable_rows(
        self,
        name: TableName,
        new: DatasetManifest,
        known: DatasetManifest | None,
        damaged: set[str],
        check: Callable[[], None],
    ) -> Iterator[Finding]:
        """What cannot be read of files whose footers are whole."""
        if new.kind is DatasetKind.VECTOR_INDEX:
            if self.indexes is not None:
                found = self.indexes.findings(new, check, deep=True)
                yield from (each for each in found if each.key not in damaged)
            return
        table = self._registered.table(new) if new.kind is DatasetKind.PARQUET else self._catalogs.load(name)

        def cancelled() -> bool:
            check()
            return False

        for file in table.files():
            check()
            key = table.planner.shown(file.uri)
            if key in damaged:
                continue
            try:
                rows = self._rows.count(table, replace(file, deletes=()), cancelled)
            except StatementCancelled:
                raise
            except LakehouseError as error:
                yield Finding("unreadable", error.message, key)
                continue
            if rows != file.rows:
                yield Finding("wrong_rows", f"it has {rows} rows, its footer says {file.rows}", key)

    # -- what manifests should say -------------------------------------------------------------------------

    def _truth(
        self, name: TableName, check: Callable[[], None], report: Report, *, skip_damaged: bool
    ) -> _Truth:
        if name.catalog == VECTORS:
            return self._truth_of_index(name, check)
        if name.catalog == REGISTERED:
            return self._truth_of_objects(name, check, report, skip_damaged=skip_damaged)
        return self._truth_of_table(name, check, report)

    def _truth_of_table(self, name: TableName, check: Callable[[], None], report: Report) -> _Truth:
        self._catalogs.of(name.catalog).refresh(name.schema, name.table)
        table = self._catalogs.load(name)
        try:
            seen = observed(table, self._clock.now())
        except NotSupported:  # what cannot be read has a name and columns all the same
            seen = observed(table, self._clock.now(), statistics=False)
            return _Truth(seen, (Finding("unreadable", "its files cannot be read by this server"),), 0)
        bucket = self._buckets[table.planner.bucket_name]
        files = {bucket.key_of(file.uri): file for file in table.files()}
        findings: list[Finding] = []
        for number, footer in enumerate(read_footers(bucket, files, check), 1):
            report(number / len(files), footer.key)
            findings += _compared(footer, files[footer.key])
        return _Truth(seen, tuple(findings), len(files), self._detected(table))

    def _truth_of_index(self, name: TableName, check: Callable[[], None]) -> _Truth:
        if self.indexes is None:
            raise TableNotFound(f"vector index '{name}' does not exist")
        found = self.indexes.truth(name)
        return _Truth(found, tuple(self.indexes.findings(found, check)), 0)

    def _detected(self, table: Table) -> Mapping[str, tuple[Sensitivity, ...]] | None:
        """The kinds of data in a table of which nothing is known; None where that is not so."""
        known = self._store.get(table.uuid)
        if known is not None and not known.dropped:
            return None
        with suppress(LakehouseError):
            return detect(self._rows.sample(table, _SAMPLE_ROWS, lambda: False))
        return None

    def _truth_of_objects(
        self, name: TableName, check: Callable[[], None], report: Report, *, skip_damaged: bool
    ) -> _Truth:
        base = self._registered_as(name)
        bucket = bucket_of(base, self._buckets)
        listing = list_parquet(bucket, base.location)
        if not listing.objects:
            gone = (Finding("missing", f"there is no Parquet object below '{base.location}' any more"),)
            if not skip_damaged:
                raise SchemaMismatch(
                    f"'{name}' cannot be made anew: {gone[0].detail} of bucket '{base.bucket}'",
                    "catalog.drop ends the registration",
                )
            return _Truth(base, gone, 0)
        found = examine(bucket, listing, check, report)
        if not skip_damaged:
            refuse_damaged(found, base.bucket)
        return _Truth(self._with_contents(base, found), found.findings, len(listing.objects))

    def _with_contents(self, base: DatasetManifest, found: Contents) -> DatasetManifest:
        """The manifest of a registered dataset; personal data is looked for where nobody has looked yet."""
        made = with_contents(base, found)
        if base.columns or not found.objects:
            return made
        with suppress(LakehouseError):
            return with_contents(base, found, self._registrations.detected(made))
        return made

    def _registered_as(self, name: TableName) -> DatasetManifest:
        """What is known of a registered dataset; where it is, its record knows best.

        Raises:
            SchemaNotFound, TableNotFound: It is not registered.
        """
        known = self._store.get(dataset_id_of(name))
        if known is not None and known.dropped:
            known = None
            record = None
        else:
            record = self._registrations.record(name)
        if record is None and known is None:
            self._registered.load(name.schema, name.table)
            raise TableNotFound(f"table '{name}' does not exist")
        if record is None or known is None:
            found = record or known
            assert found is not None
            return found
        return replace(
            known,
            kind=DatasetKind.PARQUET,
            name=record.name,
            bucket=record.bucket,
            location=record.location,
            created_at=record.created_at,
            created_by=record.created_by,
            snapshot_id=None,
        )

    def _repaired(self, old: DatasetManifest | None, truth: _Truth) -> DatasetManifest:
        """What is in storage, together with what somebody said.

        Raises:
            TableNotFound: The registration has ended meanwhile.
        """
        known, new = old if old is None or not old.dropped else None, truth.manifest
        if new.kind is DatasetKind.TABLE:
            found = truth.detected if known is None else None
            return merged(known, replace(new, version=old.version if old else 1), found=found)
        if new.kind is DatasetKind.VECTOR_INDEX:
            return new if self.indexes is None else self.indexes.together(old, new)
        if old is not None and old.dropped:
            raise TableNotFound(f"table '{new.name}' does not exist")
        return new if known is None else with_said(new, known)

    def _namesakes(self, new: DatasetManifest, by: str) -> dict[str, Build]:
        """Changes that end other manifests of the same name, whose datasets cannot be there."""
        now = self._clock.now()

        def ended(old: DatasetManifest | None) -> DatasetManifest:
            assert old is not None
            return replace(old, dropped=True, updated_at=now, updated_by=by)

        same = {
            each.dataset_id
            for each in self._store.all()
            if each.dataset_id != new.dataset_id and is_same(each.name, new.name)
        }
        if same:
            # What is registered under another name is put right by its own record.
            records = self._registrations.records()
            same -= {each.dataset_id for each in records if isinstance(each, DatasetManifest)}
        return dict.fromkeys(same, ended)

    # -- which there are -----------------------------------------------------------------------------------

    def _tables(self, check: Callable[[], None]) -> Iterator[Table]:
        for catalog in self._catalogs:
            if not isinstance(catalog, IcebergCatalog):
                continue
            for schema in catalog.schemas():
                with suppress(SchemaNotFound):
                    for name in catalog.tables(schema):
                        check()
                        with suppress(SchemaNotFound, TableNotFound):
                            yield catalog.load(schema, name)

    def _without_manifest(self, check: Callable[[], None]) -> Iterator[TableName]:
        for table in self._tables(check):
            known = self._store.get(table.uuid)
            if known is None or known.dropped or known.name != table.name:
                yield table.name
        for record in self._registrations.records():
            if isinstance(record, Finding):
                continue
            known = self._store.get(record.dataset_id)
            if known is not None and known.dropped:
                self._registrations.forget_record(record.dataset_id)
            elif known is None or known.name != record.name:
                yield record.name
        for name in () if self.indexes is None else self.indexes.names():
            known = self._store.find(name)
            if known is None or known.dropped:
                yield name

    def _keep_records(self) -> None:
        """Write down what is registered where that was not done yet: who did may have been killed before."""
        kept = {
            each.dataset_id for each in self._registrations.records() if isinstance(each, DatasetManifest)
        }
        for manifest in registered_datasets(self._store):
            # The id of what was registered follows from its name; in a damaged manifest it may not.
            if manifest.dataset_id not in kept and manifest.dataset_id == dataset_id_of(manifest.name):
                self._registrations.keep_record(manifest)

    def _everything(self, check: Callable[[], None]) -> list[TableName]:
        names = {manifest.name: None for manifest in self._store.all()}
        names |= dict.fromkeys(self._without_manifest(check))
        return sorted(names)


def _compared(footer: Footer | Finding, file: DataFileRef) -> Iterable[Finding]:
    """What differs between a file and what the snapshot of its table says of it."""
    if isinstance(footer, Finding):
        yield footer
        return
    if footer.rows != file.rows:
        detail = f"its footer says {footer.rows} rows, the Iceberg manifest {file.rows}"
        yield Finding("wrong_rows", detail, footer.key)
    if footer.size_bytes != file.size_bytes:
        detail = f"it has {footer.size_bytes} bytes, the Iceberg manifest says {file.size_bytes}"
        yield Finding("wrong_size", detail, footer.key)


def _as_finding(each: Difference, old: DatasetManifest, new: DatasetManifest) -> Finding:
    """What a manifest says wrongly. Where rows were committed since, its counts are merely late."""
    place, _, rest = each.field.partition(".")
    late = new.kind is DatasetKind.TABLE and old.snapshot_id != new.snapshot_id
    problem = "stale" if late else "wrong_" + place
    key = ""
    detail = f"{each.field} is {each.old}, in storage {each.new}"
    if place == "objects":
        if rest:
            key = rest.rpartition(".")[0]
            problem = "changed_object"
        elif each.new and each.old:
            problem, detail = "objects", f"not in storage: {each.old}; not in the manifest: {each.new}"
        elif each.new:
            problem, detail = "extra", f"not in the manifest: {each.new}"
        else:
            problem, detail = "missing", f"not in storage: {each.old}"
    return Finding(problem, detail, key)


def is_same(one: TableName, other: TableName) -> bool:
    """Whether two names are the same but for the case of their letters."""
    return (fold(one.catalog), fold(one.schema), fold(one.table)) == (
        fold(other.catalog),
        fold(other.schema),
        fold(other.table),
    )


def _quiet(share: float, message: str) -> None:
    """Nobody is told."""
