"""Tables whose current versions a service keeps: an Iceberg REST catalog, a Hive metastore, AWS Glue.

The wire is pyiceberg's catalog for the service, with what ``Service`` says besides. What is here is the same
for all of them: names in any case, tables that are in another bucket, the order of answers, and what became
of a change whose answer was lost. A service decides about the change of one table at once and wholly; about
changes of several tables only where it says that it can.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, StagedTable, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, SortOrder
from pyiceberg.table.update import AddSnapshotUpdate, AssertCreate, TableRequirement, TableUpdate
from pyiceberg.typedef import Identifier, Properties
from pyiceberg.view.metadata import ViewMetadata

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.metadata_files import MetadataFiles
from lakehouse.catalog.names import fold, segment_of
from lakehouse.catalog.slots import Head
from lakehouse.catalog.table_store import Capabilities
from lakehouse.errors import LakehouseError, NotSupported, StorageError, TableAlreadyExists
from lakehouse.storage.bucket import Bucket

_ATTEMPTS = 20
_PAUSE_S = 0.5
_LOOK_AGAIN_PAUSES_S = (0.0, 0.1, 0.5, 2.0)
_LOCKS = 64
_ASKED_AT_ONCE = 8
_NOTHING = Head(0)

Name = tuple[str, str]


class Unreadable(Exception):
    """There is a table, which cannot be read here: it is elsewhere, or none of this server's business.

    Args:
        reason: What whoever asks for the table is told.
    """

    def __init__(self, reason: LakehouseError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Step:
    """One table's part of a joint commit."""

    table: Table
    requirements: tuple[TableRequirement, ...]
    updates: tuple[TableUpdate, ...]


class Service(Protocol):
    """pyiceberg's catalog for a service. All names are spelled as the service spells them."""

    def calling(self, *, changes: bool) -> AbstractContextManager[None]:
        """Within this, what goes wrong on the way becomes StorageError, or CommitStateUnknownException.

        Args:
            changes: Whether something is changed, so that a lost answer leaves open whether it was.
        """

    def close(self) -> None:
        """Release what is held open."""

    def list_namespaces(self) -> list[Identifier]:
        """All schemas."""

    def create_namespace(self, namespace: tuple[str], /) -> None:
        """Make a schema."""

    def drop_namespace(self, namespace: tuple[str], /) -> None:
        """Remove an empty schema."""

    def list_tables(self, namespace: tuple[str], /) -> list[Identifier]:
        """The Iceberg tables of a schema."""

    def load_table(self, identifier: Name, /) -> Table:
        """The current version; the metadata is the same object for as long as nothing changed.

        Raises:
            NoSuchTableError: There is none, or none that is an Iceberg table.
            Unreadable: It cannot be read here.
        """

    def stage(
        self,
        identifier: Name,
        columns: Schema,
        properties: Properties,
        spec: PartitionSpec,
        order: SortOrder,
        location: str,
        /,
    ) -> StagedTable:
        """A table that does not exist yet.

        Args:
            identifier: Its name.
            columns: Its schema; the field ids are assigned anew.
            properties: Its properties.
            spec: Its partitioning.
            order: Its sort order.
            location: Where it is to be kept, unless that is the service's choice.
        """

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
        /,
    ) -> CommitTableResponse:
        """Change one table, or create it."""

    def commit_together(self, steps: Sequence[Step], /) -> None:
        """Change several tables at once."""

    def drop_table(self, identifier: Name, /) -> None:
        """Make a table cease to exist."""

    def rename_table(self, source: Name, target: Name, /) -> object:
        """Give a table another name."""

    def list_views(self, namespace: tuple[str], /) -> list[Identifier]:
        """The views of a schema."""

    def view(self, identifier: Name, /) -> ViewMetadata:
        """The current version of a view; the same object for as long as nothing changed."""

    def put_view(self, identifier: Name, old: ViewMetadata | None, new: ViewMetadata, /) -> None:
        """Create a view, or replace the version of it that was read."""

    def drop_view(self, identifier: Name, /) -> None:
        """Make a view cease to exist."""

    def rename_view(self, source: Name, target: Name, /) -> None:
        """Give a view another name."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What has a name, and how the name is spelled."""

    name: Name
    table: Table | None = None
    view: ViewMetadata | None = None
    unreadable: LakehouseError | None = None

    @property
    def content(self) -> TableMetadata | ViewMetadata | None:
        return self.table.metadata if self.table else self.view


class RemoteTables:
    """A ``TableStore`` over a service.

    Args:
        service: Keeps the current versions.
        bucket: Where the files of the tables are.
        warehouse: Key prefix of tables whose place is not the service's choice.
        capabilities: What the service can do.
        folds_names: Whether the service knows names in lower case only.
    """

    def __init__(
        self,
        service: Service,
        bucket: Bucket,
        warehouse: str,
        capabilities: Capabilities,
        *,
        folds_names: bool,
    ) -> None:
        self.capabilities = capabilities
        self._service = service
        self._bucket = bucket
        self._warehouse = warehouse
        self._folds_names = folds_names
        self._files = MetadataFiles(bucket)
        self._lock = threading.Lock()
        self._asking = [threading.Lock() for _ in range(_LOCKS)]
        self._heads: dict[Name, tuple[_Found | None, Head]] = {}
        self._spelled: dict[Name, _Found] = {}
        self._ours: dict[Name, bool] = {}
        self._promised: dict[str, list[Step]] = {}

    @property
    def file_io(self) -> BucketFileIO:
        """How metadata files are read and written."""
        return self._files.io

    def close(self) -> None:
        """Release what is held open; the store is not used any more."""
        self._service.close()

    # -- schemas --------------------------------------------------------------------------------------

    def create_namespace(self, namespace: tuple[str]) -> None:
        """Make a schema exist."""
        (schema,) = namespace
        if self._schema(schema) is not None:
            raise NamespaceAlreadyExistsError(schema)
        try:
            with self._service.calling(changes=True):
                self._service.create_namespace((self._folded(schema),))
        except StorageError as error:
            # Not every service has a word for it when two make a schema at once.
            if self._schema(schema) is None:
                raise
            raise NamespaceAlreadyExistsError(schema) from error
        except CommitStateUnknownException:
            if not self._looks(lambda: self._schema(schema) is not None):
                raise

    def drop_namespace(self, namespace: tuple[str]) -> None:
        """Make an empty schema cease to exist."""
        with self._service.calling(changes=True):
            self._service.drop_namespace((self._existing(namespace[0]),))

    def list_namespaces(self) -> list[Identifier]:
        """The names of all schemas: namespaces within namespaces are not among them."""
        with self._service.calling(changes=False):
            return sorted({identifier[:1] for identifier in self._service.list_namespaces()})

    # -- tables ---------------------------------------------------------------------------------------

    def head(self, schema: str, table: str) -> Head:
        """The current version of a name, asked anew; the same object for as long as nothing changed."""
        key = (fold(schema), fold(table))
        # So that answers are numbered in the order in which they were given.
        with self._asking[hash(key) % _LOCKS]:
            found = self._find(schema, table)
            known = self._heads.get(key)
            if found is None and known is None:
                return _NOTHING
            if known is not None and _is_same(known[0], found):
                return known[1]
            version = known[1].version + 1 if known else 1
            metadata = found.table.metadata if found and found.table else None
            head = Head(version, metadata, found.view if found else None, name=found.name[1] if found else "")
            self._heads[key] = (found, head)
            return head

    def last_head(self, schema: str, table: str) -> Head | None:
        """None: what became of a commit, the service tells."""
        return None

    def version_at(self, schema: str, table: str, head: Head, moment_ms: int) -> TableMetadata | None:
        """The version that was current at a time, or the first one that is known."""
        return self._files.version_at(head.metadata, moment_ms)

    def load_table(self, identifier: Name | Identifier, known: Head | None = None) -> Table:
        """The current version of a table, for a change of it; always asked from the service."""
        schema, name = identifier
        found = self._find(schema, name)
        if found is None or found.table is None:
            raise NoSuchTableError(f"{schema}.{name}")
        return found.table

    def list_tables(self, namespace: tuple[str] | Identifier) -> list[Identifier]:
        """The tables of a schema, as (schema, table) pairs; those that are not in the bucket are left out.

        Where a table is, is asked once for each.
        """
        schema = self._existing(namespace[0])
        names = self._table_names(schema)
        unknown = [name for name in names if name not in self._ours]
        if unknown:
            with ThreadPoolExecutor(min(_ASKED_AT_ONCE, len(unknown))) as pool:
                list(pool.map(self._look_where, unknown))
        ours = {name for name in names if self._ours.get(name)}
        with self._lock:
            for name in [name for name in self._ours if name[0] == schema and name not in names]:
                del self._ours[name]
        return sorted(ours)

    def table_location(self, schema: str, table: str) -> str:
        """The URI that what has a name is kept under, where that is not the service's choice."""
        return self._bucket.uri_of(f"{self._warehouse}/{segment_of(schema)}/{segment_of(table)}")

    def staged_table(
        self,
        schema: str,
        table: str,
        columns: Schema,
        properties: Properties,
        spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        order: SortOrder = UNSORTED_SORT_ORDER,
    ) -> StagedTable:
        """A table that exists in memory only, to be created by a commit, at a location that is unused."""
        identifier = (self._existing(schema), self._folded(table))
        wish = f"{self.table_location(schema, table)}~{uuid.uuid4().hex}"
        try:
            with self._service.calling(changes=False):
                staged = self._service.stage(identifier, columns, properties, spec, order, wish)
        except TableAlreadyExistsError as error:
            raise TableAlreadyExists(f"table '{schema}.{table}' exists already") from error
        self._bucket.key_of(staged.metadata.location)
        return staged

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
        promise: str = "",
    ) -> CommitTableResponse:
        """Have the service apply updates to the current version of a table. See ``TableStore``."""
        creates = any(isinstance(requirement, AssertCreate) for requirement in requirements)
        schema, name = table.name()
        if promise:
            if creates:
                raise self._not_jointly("created", name)
            with self._lock:
                self._promised.setdefault(promise, []).append(Step(table, requirements, updates))
            return CommitTableResponse(metadata=table.metadata, metadata_location=table.metadata_location)
        if creates and self._find(schema, name, anything=True):
            raise ValidationException(f"{schema}.{name} exists")
        try:
            with self._service.calling(changes=True):
                return self._service.commit_table(table, requirements, updates)
        except (CommitFailedException, TableAlreadyExistsError) as error:
            if creates and self._find(schema, name, anything=True):
                raise ValidationException(f"{schema}.{name} exists") from error
            raise CommitFailedException(str(error)) from error
        except NoSuchTableError as error:
            if creates:
                raise NoSuchNamespaceError(schema) from error
            raise

    def drop_table(self, identifier: Name) -> None:
        """Make a table cease to exist; its files stay if the service leaves them."""
        table = self.load_table(identifier)
        schema, name = table.name()
        try:
            with self._service.calling(changes=True):
                self._service.drop_table((schema, name))
        except CommitStateUnknownException:
            if not self._looks(lambda: not self._is_there(table)):
                raise

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, kind: str) -> None:
        """Give a table or view another name. See ``TableStore``."""
        source = self._find(schema, name)
        if source is None or (source.table is None) != (kind == "view"):
            raise NoSuchTableError(f"{schema}.{name}")
        target = (self._existing(to_schema), self._folded(to_name))
        if self._find(*target, anything=True) is not None:
            raise TableAlreadyExistsError(f"{to_schema}.{to_name}")
        try:
            with self._service.calling(changes=True):
                if kind == "view":
                    self._service.rename_view(source.name, target)
                else:
                    self._service.rename_table(source.name, target)
        except CommitStateUnknownException:
            if not self._looks(lambda: self._identity(target) == _identity(source)):
                raise

    def last_table(self, schema: str, table: str) -> TableMetadata | None:
        """None: a service tells nothing of a table that was dropped."""
        return None

    def prune_versions(self, schema: str, table: str, before: datetime) -> int:
        """None are: old versions are given up by commits, or are the service's business."""
        return 0

    def delete_file(self, uri: str) -> bool:
        """Delete a file that a table referred to; gives whether it was there."""
        return self._files.delete(uri)

    # -- joint commits ----------------------------------------------------------------------------------

    def promise_drop(self, schema: str, table: str, promise: str) -> None:
        """Refused where there is such a table: services change several tables at once, but drop none."""
        if self._find(schema, table) is not None:
            raise self._not_jointly("dropped", table)

    def decide(self, promise: str, *, commit: bool) -> bool:
        """Have the service make all the changes that were promised, in one request."""
        with self._lock:
            steps = self._promised.pop(promise, [])
        if not commit:
            return False
        if len(steps) == 1:
            self.commit_table(steps[0].table, steps[0].requirements, steps[0].updates)
        elif steps:
            self._commit_together(steps)
        return True

    def write_out(self, schema: str, table: str) -> None:
        """Nothing: every version is one that other engines can read."""

    # -- views ------------------------------------------------------------------------------------------

    def list_views(self, namespace: tuple[str]) -> list[Identifier]:
        """The views of a schema, as (schema, view) pairs; none where the service keeps none."""
        schema = self._existing(namespace[0])
        return sorted(self._view_names(schema))

    def put_view(self, schema: str, name: str, build: Callable[[ViewMetadata | None], ViewMetadata]) -> None:
        """Write the next version of a view. See ``TableStore``."""
        place = (self._existing(schema), self._folded(name))
        for attempt in range(_ATTEMPTS):
            found = self._find(schema, name, anything=True)
            if found is not None and found.view is None:
                raise TableAlreadyExistsError(f"{schema}.{name}")
            old = found.view if found else None
            wanted = build(old)
            if not self.capabilities.views:
                raise NotImplementedError("views are not kept")
            try:
                with self._service.calling(changes=True):
                    return self._service.put_view(found.name if found else place, old, wanted)
            except CommitFailedException:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S * random.random())
        return None

    def drop_view(self, identifier: Name) -> None:
        """Make a view cease to exist."""
        found = self._find(*identifier)
        if found is None or found.view is None:
            raise NoSuchViewError(".".join(identifier))
        with self._service.calling(changes=True):
            self._service.drop_view(found.name)

    # -- names ----------------------------------------------------------------------------------------

    def _folded(self, name: str) -> str:
        return fold(name) if self._folds_names else name

    def _schema(self, schema: str) -> str | None:
        """How a schema is spelled; one that is spelled like this comes first."""
        names = [name for (name,) in self.list_namespaces() if fold(name) == fold(schema)]
        return schema if schema in names else next(iter(names), None)

    def _existing(self, schema: str) -> str:
        spelled = self._schema(schema)
        if spelled is None:
            raise NoSuchNamespaceError(schema)
        return spelled

    def _table_names(self, schema: str) -> list[Name]:
        with self._service.calling(changes=False):
            return [(schema, identifier[-1]) for identifier in self._service.list_tables((schema,))]

    def _view_names(self, schema: str) -> list[Name]:
        if not self.capabilities.views:
            return []
        with self._service.calling(changes=False):
            return [(schema, identifier[-1]) for identifier in self._service.list_views((schema,))]

    def _find(self, schema: str, name: str, *, anything: bool = False) -> _Found | None:
        """What has a name in any case; what is spelled like this comes first.

        Args:
            schema: The schema.
            name: The name.
            anything: Whether what cannot be read here is an answer rather than an error.

        Raises:
            StorageError: The service cannot be asked, or the table cannot be read here.
        """
        key = (fold(schema), fold(name))
        last = self._spelled.get(key)
        likely = last.name if last else (self._folded(schema), self._folded(name))
        for found in self._candidates(likely, last is not None and last.view is not None):
            if found is None:
                continue
            self._spelled[key] = found
            if found.unreadable is not None and not anything:
                raise found.unreadable
            return found
        self._spelled.pop(key, None)
        return None

    def _candidates(self, likely: Name, is_view: bool) -> Iterable[_Found | None]:
        """What may have a name, in the order in which that is likely; asked for on demand."""
        yield self._view_of(likely) if is_view else self._table_of(likely)
        schema = self._schema(likely[0])
        if schema is None:
            return
        for names, load in ((self._table_names, self._table_of), (self._view_names, self._view_of)):
            try:
                alike = {name for name in names(schema) if fold(name[1]) == fold(likely[1])}
            except NoSuchNamespaceError:
                return
            for name in sorted(alike, key=lambda name: (name[1] != likely[1], name)):
                yield load(name)

    def _table_of(self, name: Name) -> _Found | None:
        try:
            with self._service.calling(changes=False):
                return _Found(name, table=self._service.load_table(name))
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        except Unreadable as error:
            return _Found(name, unreadable=error.reason)

    def _view_of(self, name: Name) -> _Found | None:
        try:
            with self._service.calling(changes=False):
                return _Found(name, view=self._service.view(name))
        except (NoSuchViewError, NoSuchNamespaceError):
            return None

    def _look_where(self, name: Name) -> None:
        """Find out whether a table can be read here."""
        found = self._table_of(name)
        self._ours[name] = found is not None and found.table is not None

    # -- what became of a change ------------------------------------------------------------------------

    def _commit_together(self, steps: Sequence[Step]) -> None:
        try:
            with self._service.calling(changes=True):
                self._service.commit_together(steps)
        except CommitFailedException:
            # Files of what took place in spite of this must not be deleted.
            with suppress(StorageError):
                if not any(self._took_place(step) for step in steps):
                    raise
            raise CommitStateUnknownException("a joint commit may have taken place in part") from None
        except CommitStateUnknownException:
            if not self._looks(lambda: all(self._took_place(step) for step in steps)):
                raise
        else:
            # Not every service changes several tables as wholly as it says.
            with suppress(StorageError):
                if not all(self._took_place(step) for step in steps if _snapshots(step)):
                    raise CommitStateUnknownException("a joint commit is not there")

    def _took_place(self, step: Step) -> bool:
        found = self._find(*step.table.name(), anything=True)
        if found is None or found.table is None:
            return False
        metadata, wanted = found.table.metadata, _snapshots(step)
        return bool(wanted) and all(metadata.snapshot_by_id(each) is not None for each in wanted)

    def _is_there(self, table: Table) -> bool:
        found = self._find(*table.name(), anything=True)
        return bool(found and found.table and found.table.metadata.table_uuid == table.metadata.table_uuid)

    def _identity(self, name: Name) -> object:
        found = self._find(*name, anything=True)
        return _identity(found) if found else None

    @staticmethod
    def _looks(is_done: Callable[[], bool]) -> bool:
        for pause in _LOOK_AGAIN_PAUSES_S:
            time.sleep(pause)
            with suppress(StorageError):
                if is_done():
                    return True
        return False

    def _not_jointly(self, what: str, table: str) -> NotSupported:
        return NotSupported(
            f"table '{table}' cannot be {what} in one commit with changes of other tables: its catalog, of "
            f'type "{self.capabilities.kind}", changes several tables at once only where they exist already',
            f"commit before the table is {what}",
        )


def _snapshots(step: Step) -> list[int]:
    return [update.snapshot.snapshot_id for update in step.updates if isinstance(update, AddSnapshotUpdate)]


def _identity(found: _Found) -> object:
    return found.table.metadata.table_uuid if found.table else found.view.view_uuid if found.view else None


def _is_same(known: _Found | None, found: _Found | None) -> bool:
    if known is None or found is None:
        return known is found
    return known.name == found.name and known.content is found.content
