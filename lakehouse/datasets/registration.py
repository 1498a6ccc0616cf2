"""Registering Parquet objects where they are: the manifest of a new dataset, made from what is in storage."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa

from lakehouse.catalog.names import check_name, fold
from lakehouse.catalog.registered_table import result_schema
from lakehouse.catalog.schema_union import SchemaUnion
from lakehouse.clock import Clock
from lakehouse.datasets.fingerprint import fingerprint
from lakehouse.datasets.footers import Finding, read_footers
from lakehouse.datasets.manifest import (
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    DatasetObject,
    Sensitivity,
)
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.datasets.observed import declared_of, together
from lakehouse.datasets.partitions import partition_columns, with_path_columns
from lakehouse.datasets.registered_catalog import REGISTERED
from lakehouse.datasets.sensitivity import detect
from lakehouse.datasets.summary import FooterSummary
from lakehouse.errors import (
    InvalidRequest,
    LimitExceeded,
    ObjectNotFound,
    SchemaMismatch,
    StorageError,
    TableAlreadyExists,
)
from lakehouse.journal.change_event import ChangeEvent, ChangeRecorder
from lakehouse.storage import Bucket, Buckets, StoredObject
from lakehouse.types import TableName

RECORDS = "_catalog/registered"
"""Where it is kept which prefixes are registered, so that it can be told when the manifests are lost."""
MAX_OBJECTS = 100_000
_ENDINGS = (".parquet", ".parq", ".pq")
_IDS = uuid.UUID("5f1b3c1e-6f0e-4d2b-9a57-0b7c8f6a4e21")

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Listing:
    """What is below a prefix.

    Attributes:
        location: What the keys of the objects begin with.
        objects: The Parquet objects, by key.
        ignored: The keys of other objects; those whose name begins with ``_`` or ``.`` are not told.
    """

    location: str
    objects: tuple[StoredObject, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a dataset of Parquet objects is made of, by what is in storage.

    Attributes:
        objects: All of them, by key.
        rows: How many rows they have.
        size_bytes: How large they are.
        columns: With statistics.
        fingerprint: Of the columns.
        changed_at: When the last object was written; None where there is none.
        findings: What is wrong with objects that were left out.
        ignored: Objects that are no Parquet, by their names.
        footer_bytes: How much was read for that.
    """

    objects: tuple[DatasetObject, ...]
    rows: int
    size_bytes: int
    columns: tuple[ColumnManifest, ...]
    fingerprint: str
    changed_at: datetime | None
    findings: tuple[Finding, ...]
    ignored: tuple[str, ...]
    footer_bytes: int


def dataset_id_of(name: TableName) -> str:
    """The id of what is registered under a name: the same whoever registers it, so that one of two does."""
    return str(uuid.uuid5(_IDS, f"{fold(name.schema)}\n{fold(name.table)}"))


def list_parquet(bucket: Bucket, prefix: str) -> Listing:
    """The Parquet objects below a prefix, or the one object of that key.

    Args:
        bucket: The bucket.
        prefix: Whole segments of keys; a slash at the end does not matter.

    Raises:
        InvalidRequest: The prefix is none.
        LimitExceeded: There are too many objects.
    """
    wanted = prefix.strip("/")
    if any(segment in ("", ".", "..") for segment in wanted.split("/")):
        raise InvalidRequest(f"the prefix {prefix!r} is none: expected segments of keys, such as 'raw/sales'")
    location = f"{wanted}/"
    objects, ignored = [], []
    for found in bucket.objects(wanted):
        inner = found.key.removeprefix(location).split("/")
        if any(segment.startswith(("_", ".")) for segment in inner):
            continue
        if found.key.lower().endswith(_ENDINGS):
            objects.append(found)
        elif found.key != wanted:
            ignored.append(found.key)
        if len(objects) + len(ignored) > MAX_OBJECTS:
            raise LimitExceeded(
                f"there are more than {MAX_OBJECTS} objects below '{wanted}' of bucket '{bucket.name}'",
                "register parts of them, or merge the objects",
            )
    if not objects and wanted.lower().endswith(_ENDINGS):
        with suppress(ObjectNotFound):
            return Listing(wanted, (bucket.look_up(wanted),), ())
    return Listing(location, tuple(sorted(objects, key=lambda each: each.key)), tuple(sorted(ignored)))


def examine(
    bucket: Bucket, listing: Listing, check: Callable[[], None] | None = None, report: Report | None = None
) -> Contents:
    """What a dataset is made of, by the footers of its objects.

    Args:
        bucket: The bucket.
        listing: The objects.
        check: Raises where this has to stop.
        report: Told of how far it is, and of the object that was looked at last.

    Raises:
        SchemaMismatch: The columns of two objects do not fit together; names the objects and the column.
        TypeNotStorable: A column's type cannot be read as a table's.
        StorageError: The bucket cannot be read.
    """
    union, summary, findings = SchemaUnion(), FooterSummary(), []
    read_bytes = 0
    keys = [each.key for each in listing.objects]
    in_path = pa.schema(partition_columns(keys, listing.location))
    for number, footer in enumerate(read_footers(bucket, keys, check), 1):
        if report is not None:
            report(number / len(keys), footer.key)
        if isinstance(footer, Finding):
            findings.append(footer)
            continue
        union.add(footer.schema, f"object '{footer.key}' of bucket '{bucket.name}'")
        read_bytes += footer.read_bytes
        summary.add(with_path_columns(footer, listing.location, in_path))
    schema = union.schema()
    names = {fold(name) for name in schema.names}
    # What a file says of a column is what its rows have, whatever the directory is called.
    in_path = pa.schema([column for column in in_path if fold(column.name) not in names])
    damaged = {each.key for each in findings}
    columns = summary.columns(pa.schema([*schema, *in_path]), frozenset(in_path.names))
    return Contents(
        tuple(summary.objects),
        summary.rows,
        summary.size_bytes,
        columns,
        fingerprint(result_schema((c.name, c.type) for c in columns)),
        max((each.modified_at for each in listing.objects if each.key not in damaged), default=None),
        tuple(findings),
        listing.ignored,
        read_bytes,
    )


@dataclass(frozen=True, slots=True)
class Registration:
    """What is to be registered.

    Attributes:
        name: How it is to be called.
        bucket: The bucket's name.
        prefix: What the keys begin with, in whole segments; or the key of one object.
        description: What it is.
        owner: Who answers for it.
        tags: Words to find it by.
        freshness_seconds: After how long without a change it is late.
    """

    name: TableName
    bucket: str
    prefix: str
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    freshness_seconds: int | None = None


class Registrations:
    """Makes datasets of Parquet objects that are in buckets already.

    Args:
        store: The manifests.
        buckets: The buckets; the primary one also has the records of what is registered.
        reserved: Bucket and prefix of what no dataset may reach into: the tables of catalogs.
        clock: Source of time.
        recorder: Told of what was registered.
        sample: Gives some rows of what is to be registered, in which personal data is looked for.
    """

    def __init__(
        self,
        store: ManifestStore,
        buckets: Buckets,
        reserved: Sequence[tuple[str, str]],
        clock: Clock,
        recorder: ChangeRecorder,
        sample: Callable[[DatasetManifest], pa.Table],
    ) -> None:
        self._sample = sample
        self._store = store
        self._buckets = buckets
        self._primary = buckets.primary
        self._reserved = reserved
        self._clock = clock
        self._recorder = recorder

    def register(
        self,
        wanted: Registration,
        by: str,
        check: Callable[[], None] | None = None,
        report: Report | None = None,
    ) -> tuple[DatasetManifest, tuple[str, ...]]:
        """Make a dataset of the Parquet objects below a prefix. No object is changed, now or later.

        Args:
            wanted: Which objects, and how they are to be called.
            by: Who does it.
            check: Raises where this has to stop.
            report: Told of how far it is.

        Returns:
            The manifest, and the keys of objects below the prefix that are no Parquet by their names.

        Raises:
            InvalidRequest: There is no such bucket, or nothing below the prefix; or it is the server's own.
            TableAlreadyExists: Something is registered under that name.
            SchemaMismatch: The objects do not fit together, or one is damaged.
            StorageError: The bucket cannot be read.
        """
        name, bucket = wanted.name, self._bucket(wanted.bucket)
        check_name(name.schema, "schema")
        check_name(name.table, "table")
        self._refuse_taken(self._store.find(name), name)
        listing = list_parquet(bucket, wanted.prefix)
        self._refuse_own(bucket.name, listing.location)
        if not listing.objects:
            raise InvalidRequest(
                f"there are no Parquet objects below '{listing.location}' of bucket '{bucket.name}'",
                f"expected keys that end with {', '.join(_ENDINGS)}",
            )
        found = examine(bucket, listing, check, report)
        refuse_damaged(found, bucket.name)
        if not bucket.is_local and not all(each.e_tag for each in found.objects):
            raise StorageError(
                f"the store of bucket '{bucket.name}' does not tell versions of objects (ETag)"
            )
        said = replace(
            bare_manifest(name, bucket.name, listing.location, self._clock.now(), by),
            owner=wanted.owner,
            description=wanted.description,
            tags=tuple(sorted(set(wanted.tags))),
            freshness_seconds=wanted.freshness_seconds,
        )
        made = with_contents(said, found, self.detected(with_contents(said, found)))

        def build(old: DatasetManifest | None) -> DatasetManifest:
            self._refuse_taken(old, name)
            return made

        manifest = self._store.change(made.dataset_id, build)
        self.keep_record(manifest)
        self._recorder.record(_event(manifest))
        return manifest, found.ignored

    def detected(self, manifest: DatasetManifest) -> dict[str, tuple[Sensitivity, ...]]:
        """The kinds of personal data that a sample of a dataset's rows holds, by column.

        Raises:
            LakehouseError: The objects cannot be read.
        """
        return detect(self._sample(manifest))

    # -- the records of what is registered --------------------------------------------------------------

    def keep_record(self, manifest: DatasetManifest) -> None:
        """Write down which prefix a dataset is, beside the manifests.

        Raises:
            StorageError: It failed. The dataset is registered nevertheless.
        """
        told = {
            "dataset_id": manifest.dataset_id,
            "schema": manifest.name.schema,
            "table": manifest.name.table,
            "bucket": manifest.bucket,
            "location": manifest.location,
            "created_at": manifest.created_at.isoformat(),
            "created_by": manifest.created_by,
        }
        key = _record_key(manifest.dataset_id)
        content = json.dumps(told, ensure_ascii=False, indent=1).encode()
        try:
            is_there = self._primary.get(key) == content
        except ObjectNotFound:
            is_there = False
        if not is_there:
            self._primary.put(key, content)

    def forget_record(self, dataset_id: str) -> None:
        """Remove what was written down; harmless where there is nothing."""
        with suppress(ObjectNotFound):
            self._primary.delete(_record_key(dataset_id))

    def records(self) -> Iterator[DatasetManifest | Finding]:
        """What is registered by these records: manifests that tell no more than where the objects are."""
        for stored in self._primary.objects(RECORDS):
            try:
                yield _from_record(json.loads(self._primary.get(stored.key)))
            except ObjectNotFound:
                continue  # dropped in this moment
            except (ValueError, KeyError, TypeError) as error:
                yield Finding("corrupt", f"the record cannot be read: {type(error).__name__}", stored.key)

    def record(self, name: TableName) -> DatasetManifest | None:
        """What is registered under a name by its record; None where there is none that can be read.

        Raises:
            StorageError: The primary bucket cannot be read.
        """
        try:
            return _from_record(json.loads(self._primary.get(_record_key(dataset_id_of(name)))))
        except (ObjectNotFound, ValueError, KeyError, TypeError):
            return None

    def _bucket(self, name: str) -> Bucket:
        found = self._buckets.get(name)
        if found is None:
            raise InvalidRequest(f"there is no bucket '{name}'", f"there are: {', '.join(self._buckets)}")
        return found

    def _refuse_own(self, bucket: str, location: str) -> None:
        if bucket == self._primary.name and location.startswith("_"):
            raise InvalidRequest(
                f"'{location}' of bucket '{bucket}' is where the server keeps its own objects"
            )
        for other, prefix in self._reserved:
            inner = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
            if bucket == other and (location.startswith(inner) or inner.startswith(location)):
                raise InvalidRequest(
                    f"'{location}' of bucket '{bucket}' holds files of tables of the lake, below '{inner}'",
                    "a table is read under its own name; only objects of others are registered",
                )

    def _refuse_taken(self, old: DatasetManifest | None, name: TableName) -> None:
        if old is not None and not old.dropped:
            raise TableAlreadyExists(
                f"'{name}' is registered already, as '{old.location}' of bucket '{old.bucket}'",
                "catalog.resync takes over what changed there; catalog.drop ends the registration",
            )


def _event(manifest: DatasetManifest) -> ChangeEvent:
    told = {
        "bucket": manifest.bucket,
        "location": manifest.location,
        "objects": manifest.object_count,
        "rows": manifest.rows,
    }
    return ChangeEvent(
        "register", str(manifest.name), manifest.dataset_id, new=told, source="action:catalog.register"
    )


def bare_manifest(
    name: TableName, bucket: str, location: str, created_at: datetime, created_by: str
) -> DatasetManifest:
    """A manifest that tells no more than where the objects of a dataset are."""
    return DatasetManifest(
        dataset_id=dataset_id_of(name),
        version=0,
        kind=DatasetKind.PARQUET,
        name=name,
        bucket=bucket,
        location=location,
        snapshot_id=None,
        objects=(),
        object_count=0,
        rows=0,
        size_bytes=0,
        columns=(),
        fingerprint="",
        owner="",
        description="",
        tags=(),
        lineage=(),
        freshness_seconds=None,
        changed_at=None,
        created_at=created_at,
        created_by=created_by,
        updated_at=created_at,
        updated_by=created_by,
    )


def with_contents(
    manifest: DatasetManifest, found: Contents, detected: Mapping[str, tuple[Sensitivity, ...]] | None = None
) -> DatasetManifest:
    """A manifest that tells of what was found; what somebody said of the columns stays.

    Args:
        manifest: What is known.
        found: What is in storage.
        detected: The kinds of data that were found in columns; None where nobody looked.
    """
    known = {fold(column.name): column for column in manifest.columns}
    columns = []
    for column in found.columns:
        old = known.get(fold(column.name))
        sensitivity = old.sensitivity if old else ()
        if detected is not None:
            sensitivity = together(declared_of(old) if old else (), detected.get(column.name, ()))
        if any(each.confidence > 0 for each in sensitivity):
            column = replace(column, minimum=None, maximum=None)  # noqa: PLW2901 - values of such columns are not kept
        said = (old.description, old.tags) if old else ("", ())
        columns.append(replace(column, description=said[0], tags=said[1], sensitivity=sensitivity))
    return replace(
        manifest,
        objects=found.objects,
        object_count=len(found.objects),
        rows=found.rows,
        size_bytes=found.size_bytes,
        columns=tuple(columns),
        fingerprint=found.fingerprint,
        changed_at=found.changed_at,
    )


def with_said(manifest: DatasetManifest, known: DatasetManifest) -> DatasetManifest:
    """A manifest with what another one tells of what somebody said."""
    columns = {fold(column.name): column for column in known.columns}
    said = []
    for column in manifest.columns:
        old = columns.get(fold(column.name))
        if old is not None:
            column = replace(  # noqa: PLW2901 - the column with what was said
                column, description=old.description, tags=old.tags, sensitivity=old.sensitivity
            )
            if any(each.confidence > 0 for each in old.sensitivity):
                column = replace(column, minimum=None, maximum=None)  # noqa: PLW2901
        said.append(column)
    return replace(
        manifest,
        columns=tuple(said),
        owner=known.owner,
        description=known.description,
        tags=known.tags,
        lineage=known.lineage,
        freshness_seconds=known.freshness_seconds,
    )


def refuse_damaged(found: Contents, bucket: str) -> None:
    """Make sure that every object could be read.

    Raises:
        SchemaMismatch: One could not; names the first.
    """
    if found.findings:
        first, others = found.findings[0], len(found.findings) - 1
        more = f", and {others} others are damaged as well" if others else ""
        raise SchemaMismatch(
            f"object '{first.key}' of bucket '{bucket}' is not whole Parquet ({first.problem}): "
            f"{first.detail}{more}",
            "replace or remove it",
        )


def _record_key(dataset_id: str) -> str:
    return f"{RECORDS}/{dataset_id}.json"


def _from_record(told: Mapping[str, str]) -> DatasetManifest:
    created_at = datetime.fromisoformat(told["created_at"])
    name = TableName(REGISTERED, told["schema"], told["table"])
    if told["dataset_id"] != dataset_id_of(name):
        raise ValueError("the id is not that of the name")
    return bare_manifest(name, told["bucket"], told["location"], created_at, told["created_by"])
