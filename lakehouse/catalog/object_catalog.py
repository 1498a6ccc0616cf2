"""An Iceberg catalog without a database: its only state is the objects of one bucket.

``<warehouse>/<schema>/_schema.json`` makes a schema exist. A table's history is a row of slots,
``<warehouse>/<schema>/<table>/metadata/v1.metadata.json``, ``v2…``: a commit is a create-only put into the
first free slot, so of several writers exactly one takes it and the others start again from what it wrote.
The current version is the highest slot. A drop takes a slot too, with a tombstone in it, and so competes
with commits on equal terms; a table created again continues after the tombstone. Slots are never removed or
changed, which is what makes "is v(N+1) there?" a sufficient question for whether version N is current.
A commit over several tables first takes a slot of each with a promise, which holds what the slot is to be.
The promises are kept from the moment that one small object, the decision, says "commit"; while there is
none, and when it says "abort", the version before is the current one. The decision is a create-only put as
well: it is the one step that makes all of the changes or none. Whoever wants to commit on top of a promise
that stays undecided aborts it.
``version-hint.text`` is written afterwards, for other engines and as a starting point for this one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

from pyiceberg.catalog import MetastoreCatalog, PropertiesUpdateSummary
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io import FileIO
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, StagedTable, Table
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, SortOrder
from pyiceberg.table.update import TableRequirement, TableUpdate, update_table_metadata
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties
from pyiceberg.view.metadata import ViewMetadata

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.metadata_update import updated_metadata
from lakehouse.catalog.names import name_of, segment_of
from lakehouse.catalog.slots import NAME_PROPERTY, PRUNED, Head, read_slot, tombstone
from lakehouse.catalog.table_store import Capabilities, check_requirement
from lakehouse.errors import ObjectAlreadyExists, ObjectNotFound, StorageError
from lakehouse.storage.bucket import Bucket, StoreRefused

_SCHEMA_OBJECT = "_schema.json"
_HINT_OBJECT = "version-hint.text"
_SLOT = re.compile(r"v(\d+)\.metadata\.json")
_PROMISE, _PROMISE_START = "promised-by", b'{"promised-by"'
# Decisions about joint commits; this prefix is no warehouse's.
_DECISIONS = "_transactions"
_COMMIT, _ABORT = b"commit", b"abort"
# How long a joint commit may stay undecided before somebody who waits for it aborts it.
_PATIENCE_S = 5.0
_KEPT_VERSIONS_PROPERTY, _KEPT_VERSIONS = "write.metadata.previous-versions-max", 100
_PUT_ATTEMPTS = 3
_ATTEMPTS = 20
_PUT_PAUSE_S = 0.05
_SCHEMA_PAUSES_S = (0.02, 0.1, 0.4, 0.0)
_PAUSE_S = 0.8


_log = logging.getLogger(__name__)


_NOTHING = Head(0)


class ObjectCatalog(MetastoreCatalog):
    """pyiceberg's interface to tables that are kept in one bucket.

    Args:
        name: The catalog's name.
        bucket: Where the tables are.
        warehouse: Key prefix of all of them.
    """

    def __init__(self, name: str, bucket: Bucket, warehouse: str) -> None:
        super().__init__(name, warehouse=bucket.uri_of(warehouse))
        self._bucket = bucket
        self._warehouse = warehouse
        self._io = BucketFileIO(bucket)
        self._lock = threading.Lock()
        self._heads: dict[str, Head] = {}
        self._promises: dict[str, float] = {}

    # -- what the domain asks beyond pyiceberg's interface ------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """It can do everything."""
        return Capabilities("object", late_schemas=True)

    def head(self, schema: str, table: str) -> Head:
        """The current version of a table, asked from storage; costs one lookup when nothing changed.

        The same object is given again for as long as the version is the same.
        """
        return self._head(self._table_key(schema, table))

    def last_head(self, schema: str, table: str) -> Head | None:
        """The version that this process saw or wrote last; None where a joint commit of it is under way."""
        head = self._heads.get(self._table_key(schema, table))
        return None if head is None or head.undecided else head

    def version_at(self, schema: str, table: str, head: Head, moment_ms: int) -> TableMetadata | None:
        """The version that was current at a time, or the first one after a drop; none if there was none.

        Args:
            schema: The table's schema.
            table: Its name.
            head: A version of it that is current.
            moment_ms: The time, by the clocks of the writers.
        """
        key = self._table_key(schema, table)
        if head.metadata is None or head.metadata.last_updated_ms <= moment_ms:
            return head.metadata
        low, high = 1, head.version - 1
        found, later = None, head.metadata
        while low <= high:
            middle = (low + high) // 2
            metadata = self._read_slot(key, middle).metadata
            if metadata is None or metadata.table_uuid != head.metadata.table_uuid:
                low = middle + 1
            elif metadata.last_updated_ms > moment_ms:
                high, later = middle - 1, metadata
            else:
                low, found = middle + 1, metadata
        return found or later

    def table_location(self, schema: str, table: str) -> str:
        """The URI that everything of a table is kept under."""
        return self._bucket.uri_of(self._table_key(schema, table))

    def table(self, schema: str, table: str, head: Head) -> Table:
        """The object that pyiceberg has for one version of a table.

        Raises:
            NoSuchTableError: The version is that of a dropped table.
        """
        if head.metadata is None:
            raise NoSuchTableError(f"{schema}.{table}")
        location = self._bucket.uri_of(_slot(self._table_key(schema, table), head.version))
        return Table((schema, table), head.metadata, location, self._io, self)

    def staged_table(
        self,
        schema: str,
        table: str,
        columns: Schema,
        properties: Properties,
        spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        order: SortOrder = UNSORTED_SORT_ORDER,
    ) -> StagedTable:
        """A table that exists in memory only, to be created by a commit. The field ids are assigned anew.

        Where a table that now has another name left its data, the new one is kept elsewhere.
        """
        location = self.table_location(schema, table)
        if self.head(schema, table).shared:
            location += f"~{uuid.uuid4().hex}"
        metadata = new_table_metadata(columns, spec, order, location, {**properties, NAME_PROPERTY: table})
        return StagedTable((schema, table), metadata, "", self._io, self)

    @property
    def file_io(self) -> BucketFileIO:
        """How metadata files are read and written."""
        return self._io

    def prune_versions(self, schema: str, table: str, before: datetime) -> int:
        """Give up the content of old versions. See ``TableStore``.

        Their slots stay taken, by a few bytes: a writer that was asleep must not find one of them free, and
        take it for the next version.
        """
        key = self._table_key(schema, table)
        head = self._head(key)
        if head.metadata is None:
            return 0
        most = int(head.metadata.properties.get(_KEPT_VERSIONS_PROPERTY, _KEPT_VERSIONS))
        # The current version can stand below slots that joint commits took which did not take place.
        end = head.written_at - max(most, 1)
        first = (
            bisect_left(range(1, end), 1, key=lambda v: self._bucket.size(_slot(key, v)) != len(PRUNED)) + 1
        )
        for version in range(first, end):
            if self._bucket.look_up(_slot(key, version)).modified_at >= before:
                return version - first
            self._bucket.put(_slot(key, version), PRUNED, durable=False)
        return max(end - first, 0)

    def delete_file(self, uri: str) -> bool:
        """Delete a file that a table referred to; gives whether it was there."""
        try:
            self._bucket.delete(self._bucket.key_of(uri))
        except ObjectNotFound:
            return False
        return True

    # -- tables ---------------------------------------------------------------------------------------

    def load_table(self, identifier: str | Identifier, known: Head | None = None) -> Table:
        """The current version of a table, or ``known``. See ``TableStore``."""
        schema, table = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        return self.table(schema, table, known or self.head(schema, table))

    def create_table(
        self,
        identifier: str | Identifier,
        schema: Any,
        location: str | None = None,
        partition_spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        sort_order: SortOrder = UNSORTED_SORT_ORDER,
        properties: Properties = EMPTY_DICT,
    ) -> Table:
        """Create a table without rows; its location is always the catalog's choice."""
        _, table = self.identifier_to_database_and_table(identifier)
        named = {**properties, NAME_PROPERTY: table}
        transaction = self.create_table_transaction(
            identifier, schema, None, partition_spec, sort_order, named
        )
        try:
            transaction.commit_transaction()
        except ValidationException as error:
            raise TableAlreadyExistsError(str(identifier)) from error
        return self.load_table(identifier)

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
        promise: str = "",
    ) -> CommitTableResponse:
        """Apply updates to the current version and take the next slot with the result.

        Args:
            table: The table as it was loaded.
            requirements: What must hold for the current version.
            updates: What to change.
            promise: The joint commit that this is part of; the change takes place when that is decided.

        Raises:
            CommitFailedException: Another writer came first; reload and try again.
            ValidationException: A table that is to be created exists.
            NoSuchTableError, NoSuchNamespaceError: The table or its schema was dropped.
            CommitStateUnknownException: Storage failed in a way that leaves open whether the slot was taken.
        """
        schema, name = self.identifier_to_database_and_table(table.name())
        key = self._table_key(schema, name)
        seen = self.last_head(schema, name)
        # Whether what was loaded is the current version still, the slot tells.
        head = seen if seen is not None and seen.metadata is table.metadata else self._settled(key)
        base = self.table(schema, name, head) if head.metadata else None
        if base is None and not self.namespace_exists((schema,)):
            raise NoSuchNamespaceError(schema)
        if head.view is not None:
            raise ValidationException(f"there is a view of the name {schema}.{name}")
        for requirement in requirements:
            check_requirement(requirement, head.metadata, f"{schema}.{name}")
        if base is not None:
            metadata = updated_metadata(base.metadata, updates, base.metadata_location)
        else:
            metadata = update_table_metadata(self._empty_table_metadata(), updates, enforce_validation=True)
        if base is not None and metadata is base.metadata:
            return CommitTableResponse(metadata=metadata, metadata_location=base.metadata_location)
        taken = self._take_slot(key, head.version + 1, metadata, promise)
        if base is None and self._lost_its_schema(schema, name):
            raise NoSuchNamespaceError(schema)
        location = self._bucket.uri_of(_slot(key, taken))
        return CommitTableResponse(metadata=metadata, metadata_location=location)

    def drop_table(self, identifier: str | Identifier) -> None:
        """Make a table cease to exist; its files stay in the bucket."""
        schema, table = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        if not self._bury(schema, table, "metadata"):
            raise NoSuchTableError(f"{schema}.{table}")

    def list_tables(self, namespace: str | Identifier) -> list[Identifier]:
        """The tables of a schema, as (schema, table) pairs."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)
        if not self.namespace_exists((schema,)):
            raise NoSuchNamespaceError(schema)
        return sorted((schema, name) for name, head in self._names(segment_of(schema)) if head.metadata)

    def table_exists(self, identifier: str | Identifier) -> bool:
        """Whether there is such a table."""
        schema, table = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        return self.head(schema, table).metadata is not None

    # -- schemas --------------------------------------------------------------------------------------

    def create_namespace(self, namespace: str | Identifier, properties: Properties = EMPTY_DICT) -> None:
        """Make a schema exist."""
        schema = self.identifier_to_database(namespace)
        content = json.dumps({"name": schema, "properties": dict(properties)}, ensure_ascii=False)
        try:
            self._bucket.put_new(self._schema_key(schema), content.encode())
        except ObjectAlreadyExists as error:
            raise NamespaceAlreadyExistsError(schema) from error

    def drop_namespace(self, namespace: str | Identifier) -> None:
        """Make an empty schema cease to exist."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)
        content = self._read_schema(schema)
        segment = segment_of(schema)
        if any(self._names(segment, promised=True)):
            raise NamespaceNotEmptyError(schema)
        try:
            self._bucket.delete(self._schema_key(schema))
        except ObjectNotFound as error:
            raise NoSuchNamespaceError(schema) from error
        if any(self._names(segment, promised=True)):
            # A table was created meanwhile: the schema comes back.
            self.create_namespace(content["name"], content["properties"])
            raise NamespaceNotEmptyError(schema)

    def list_namespaces(self, namespace: str | Identifier = ()) -> list[Identifier]:
        """All schemas. There are no schemas within schemas."""
        if namespace:
            return []
        segments = self._bucket.directories(self._warehouse)
        found = (self._schema_at(f"{self._warehouse}/{segment}/{_SCHEMA_OBJECT}") for segment in segments)
        return sorted((content["name"],) for content in found if content is not None)

    def load_namespace_properties(self, namespace: str | Identifier) -> Properties:
        """What was given when the schema was created."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)
        return dict(self._read_schema(schema)["properties"])

    def namespace_name(self, schema: str) -> str:
        """The name of a schema as it was spelled when it was created.

        Raises:
            NoSuchNamespaceError: There is no such schema.
        """
        return str(self._read_schema(schema)["name"])

    # -- what this catalog does not offer --------------------------------------------------------------

    def update_namespace_properties(
        self, namespace: str | Identifier, removals: set[str] | None = None, updates: Properties = EMPTY_DICT
    ) -> PropertiesUpdateSummary:
        """Not offered: a schema's object is written once."""
        _refuse("properties of a schema cannot be changed")

    def register_table(
        self, identifier: str | Identifier, metadata_location: str, overwrite: bool = False
    ) -> Table:
        """Not offered."""
        _refuse("a table that is kept elsewhere cannot be registered")

    def register_view(self, identifier: str | Identifier, metadata_location: str) -> Any:
        """Not offered."""
        _refuse("a view that is kept elsewhere cannot be registered")

    # -- views and names ------------------------------------------------------------------------------

    def view_exists(self, identifier: str | Identifier) -> bool:
        """Whether there is such a view."""
        schema, view = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        return self.head(schema, view).view is not None

    def list_views(self, namespace: str | Identifier) -> list[Identifier]:
        """The views of a schema, as (schema, view) pairs."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)
        if not self.namespace_exists((schema,)):
            raise NoSuchNamespaceError(schema)
        return sorted((schema, name) for name, head in self._names(segment_of(schema)) if head.view)

    def load_view(self, identifier: str | Identifier) -> Any:
        """The metadata of a view."""
        schema, view = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        found = self.head(schema, view).view
        if found is None:
            raise NoSuchViewError(f"{schema}.{view}")
        return found

    def drop_view(self, identifier: str | Identifier) -> None:
        """Make a view cease to exist."""
        schema, view = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        if not self._bury(schema, view, "view"):
            raise NoSuchViewError(f"{schema}.{view}")

    def put_view(self, schema: str, name: str, build: Callable[[ViewMetadata | None], ViewMetadata]) -> None:
        """Write the next version of a view.

        Args:
            schema: Its schema.
            name: Its name.
            build: Gives the version, from the one that is there now, if any; called for each attempt.

        Raises:
            TableAlreadyExistsError: There is a table of that name.
            NoSuchNamespaceError: There is no such schema.
            CommitFailedException: Other writers were faster each time.
            CommitStateUnknownException: It could not be found out whether the version was written.
        """
        key = self._table_key(schema, name)
        for attempt in range(_ATTEMPTS):
            try:
                head = self._settled(key)
                if head.metadata is not None:
                    raise TableAlreadyExistsError(f"{schema}.{name}")
                if not self.namespace_exists((schema,)):
                    raise NoSuchNamespaceError(schema)
                wanted = Head(head.version + 1, view=build(head.view))
                self._put_slot(key, wanted.version, wanted.content())
            except CommitFailedException:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S * random.random())
                continue
            self._write_hint(key, wanted.version)
            self._remember(key, wanted)
            if head.view is None and self._lost_its_schema(schema, name):
                raise NoSuchNamespaceError(schema)
            return

    def rename_table(self, from_identifier: str | Identifier, to_identifier: str | Identifier) -> Table:
        """Give a table another name; its location stays."""
        schema, table = self.identifier_to_database_and_table(from_identifier, NoSuchTableError)
        target = self.identifier_to_database_and_table(to_identifier)
        self.rename(schema, table, *target, kind="metadata")
        return self.load_table(to_identifier)

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, kind: str) -> None:
        """Give a table or view another name, at once and wholly.

        Args:
            schema: The old schema.
            name: The old name.
            to_schema: The new schema.
            to_name: The new name.
            kind: ``metadata`` for a table, ``view`` for a view.

        Raises:
            NoSuchTableError: There is none of the old name.
            TableAlreadyExistsError: There is a table or view of the new name.
            NoSuchNamespaceError: There is no new schema.
            CommitFailedException: Other writers were faster each time.
            CommitStateUnknownException: It could not be found out whether the rename took place.
        """
        old, new = self._table_key(schema, name), self._table_key(to_schema, to_name)
        for attempt in range(_ATTEMPTS):
            try:
                return self._rename_once((schema, name, old), (to_schema, to_name, new), kind)
            except CommitFailedException:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S * random.random())
        return None

    def _rename_once(self, source: tuple[str, str, str], target: tuple[str, str, str], kind: str) -> None:
        (schema, name, old), (to_schema, to_name, new) = source, target
        head = self._settled(old)
        found = getattr(head, kind)
        if found is None:
            raise NoSuchTableError(f"{schema}.{name}")
        there = self._settled(new)
        if old == new or not there.is_free:
            raise TableAlreadyExistsError(f"{to_schema}.{to_name}")
        promise = str(uuid.uuid4())
        grave = tombstone(head, name, renamed_to=f"{to_schema}.{to_name}", is_shared=True)
        try:
            self._put_slot(new, there.version + 1, _promised(promise, head.content(to_name)))
            # After the promise, so that a drop of the schema sees that, or this sees the drop.
            self._read_schema(to_schema)
            self._put_slot(old, head.version + 1, _promised(promise, grave))
        except BaseException:
            with contextlib.suppress(StorageError, CommitStateUnknownException):
                self.decide(promise, commit=False)
            raise
        if not self.decide(promise, commit=True):
            raise CommitFailedException("somebody who waited for the rename aborted it")
        # Only for other programs, which cannot read promises.
        self._write_hint(old, head.version + 1)
        with contextlib.suppress(CommitFailedException, CommitStateUnknownException, StorageError):
            moved = self._settled(new)
            if not moved.is_free:
                self._put_slot(new, moved.version + 1, moved.content())
                self._write_hint(new, moved.version + 1)
                self._remember(new, replace(moved, version=moved.version + 1))

    def last_table(self, schema: str, table: str) -> TableMetadata | None:
        """What a dropped table was; None where there was none, where it is there or has another name."""
        key = self._table_key(schema, table)
        head = self._settled(key)
        if not head.is_free or head.moved or not head.version:
            return None
        for version in range(head.version - 1, 0, -1):
            found = self._read_slot(key, version)
            if found.metadata is not None or found.moved:
                return found.metadata
        return None

    # -- pyiceberg's hooks -----------------------------------------------------------------------------

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        return self._io

    def _resolve_table_location(self, location: str | None, database_name: str, table_name: str) -> str:
        return self.table_location(database_name, table_name)

    @staticmethod
    def _delete_old_metadata(io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        """Nothing: a slot that became free again could be taken by a writer that was asleep."""

    # -- slots ----------------------------------------------------------------------------------------

    def _head(self, key: str) -> Head:
        known = self._heads.get(key) or self._discover(key)
        version = self._newest(key, known.version)
        if version == known.version and not known.undecided:
            return known
        found = self._remember(key, self._read_slot(key, version))
        # What was decided in between may have been followed by another version already.
        return self._head(key) if found.undecided and self._bucket.exists(_slot(key, version + 1)) else found

    def _newest(self, key: str, version: int) -> int:
        """The highest slot that is taken, from one that is; none in between is free."""
        step = 1
        while self._bucket.exists(_slot(key, version + step)):
            version, step = version + step, step * 2
        while step > 1:
            step //= 2
            if self._bucket.exists(_slot(key, version + step)):
                version += step
        return version

    def _settled(self, key: str) -> Head:
        """The current version, to commit on top of.

        Raises:
            CommitFailedException: A joint commit is under way; try again.
        """
        head = self._head(key)
        if not head.undecided:
            return head
        since = self._promises.setdefault(head.undecided, time.monotonic())
        if time.monotonic() - since < _PATIENCE_S:
            raise CommitFailedException("a commit over several tables is under way")
        self.decide(head.undecided, commit=False)
        self._promises.pop(head.undecided, None)
        return self._head(key)

    def decide(self, promise: str, *, commit: bool) -> bool:
        """Say once and for all what becomes of a joint commit; gives whether it is committed.

        Raises:
            CommitStateUnknownException: It could not be found out what was decided.
            StorageError: Nothing was decided.
        """
        key, wanted = f"{_DECISIONS}/{promise}", _COMMIT if commit else _ABORT
        failure: StorageError | None = None
        for attempt in range(_PUT_ATTEMPTS):
            try:
                self._bucket.put_new(key, wanted)
            except ObjectAlreadyExists:
                break
            except StorageError as error:
                failure = error
                time.sleep(_PUT_PAUSE_S * attempt)
            else:
                return commit
        try:
            return self._bucket.get(key) == _COMMIT
        except ObjectNotFound:
            raise failure or StorageError("a commit could not be decided") from None
        except StorageError as error:
            raise CommitStateUnknownException(str(error)) from error

    def promise_drop(self, schema: str, table: str, promise: str) -> None:
        """Drop a table as part of a joint commit; one that does not exist stays so.

        Raises:
            CommitFailedException: Another writer came first; try again.
            StorageError, CommitStateUnknownException: The slot could not be taken.
        """
        key = self._table_key(schema, table)
        head = self._settled(key)
        if head.metadata is not None:
            grave = tombstone(head, table, is_shared=self._is_elsewhere(key, head))
            self._put_slot(key, head.version + 1, _promised(promise, grave))

    def write_out(self, schema: str, table: str) -> None:
        """Follow a promise that was decided with a version of its own, which other engines can read."""
        key = self._table_key(schema, table)
        with contextlib.suppress(StorageError, CommitFailedException, CommitStateUnknownException):
            head = self._settled(key)
            if head.metadata is not None:
                self._take_slot(key, head.version + 1, head.metadata)

    def _decision(self, promise: str) -> bytes | None:
        try:
            return self._bucket.get(f"{_DECISIONS}/{promise}")
        except ObjectNotFound:
            return None

    def _take_slot(self, key: str, version: int, metadata: TableMetadata, promise: str = "") -> int:
        content = metadata.model_dump_json(exclude_none=True).encode()
        if promise:
            self._put_slot(key, version, _promised(promise, content))
            return version
        self._put_slot(key, version, content)
        self._write_hint(key, version)
        return self._remember(key, Head(version, metadata)).version

    def _put_slot(self, key: str, version: int, content: bytes) -> None:
        """Take a slot. The put may be repeated: it is create-only, and the content tells whose it is."""
        slot = _slot(key, version)
        failure: StorageError | None = None
        is_open = False
        for attempt in range(_PUT_ATTEMPTS):
            try:
                self._bucket.put_new(slot, content)
            except ObjectAlreadyExists:
                break
            except StorageError as error:
                failure = error
                is_open |= not isinstance(error, StoreRefused)
                time.sleep(_PUT_PAUSE_S * attempt)
            else:
                return
        else:
            if failure is not None and not is_open:
                raise failure  # each time the store said that it did nothing
        if not self._holds(slot, content):
            if failure is not None:
                raise failure
            raise CommitFailedException(f"version {version} was taken by another writer")

    def _holds(self, slot: str, content: bytes) -> bool:
        try:
            return self._bucket.get(slot) == content
        except ObjectNotFound:
            return False
        except StorageError as error:
            raise CommitStateUnknownException(str(error)) from error

    def _lost_its_schema(self, schema: str, table: str) -> bool:
        """Whether the schema of a table that was just made is gone; then the table goes as well.

        A drop looks for tables after it removed the schema, this looks for the schema after the table was
        made, so one of the two always notices the other. Where it is the drop, the schema comes back.
        """
        try:
            for pause in _SCHEMA_PAUSES_S:
                if self.namespace_exists((schema,)):
                    return False
                time.sleep(pause)
            self._bury(schema, table, "metadata") or self._bury(schema, table, "view")
        except (StorageError, CommitStateUnknownException):
            # The table is there. Whoever is told otherwise would delete its files.
            _log.warning("it could not be checked whether a new table's schema still exists", exc_info=True)
            return False
        return True

    def _write_hint(self, key: str, version: int) -> None:
        with contextlib.suppress(StorageError):  # only a hint: the commit has taken place
            self._bucket.put(f"{key}/metadata/{_HINT_OBJECT}", str(version).encode(), durable=False)

    def _bury(self, schema: str, name: str, kind: str) -> bool:
        key = self._table_key(schema, name)
        while True:
            try:
                head = self._settled(key)
                if getattr(head, kind) is None:
                    return False
                is_shared = self._is_elsewhere(key, head)
                self._put_slot(key, head.version + 1, tombstone(head, name, is_shared=is_shared))
            except CommitFailedException:
                time.sleep(_PUT_PAUSE_S)
                continue
            self._write_hint(key, head.version + 1)
            self._remember(key, Head(head.version + 1, shared=is_shared))
            return True

    def _is_elsewhere(self, key: str, head: Head) -> bool:
        """Whether the data of a table is not where its name says: it had another, or follows one."""
        return head.metadata is not None and head.metadata.location != self._bucket.uri_of(key)

    def _discover(self, key: str) -> Head:
        """The newest version that can be found without knowing any; at least as old as the current one."""
        prefix = f"{key}/metadata"
        try:
            version = int(self._bucket.get(f"{prefix}/{_HINT_OBJECT}"))
            found = self._read_slot(key, version)
            if not found.pruned:
                return self._remember(key, found)
        except (ObjectNotFound, ValueError):
            pass
        slots = (_SLOT.fullmatch(name) for name in self._bucket.names(prefix))
        version = max((int(slot.group(1)) for slot in slots if slot), default=0)
        return self._remember(key, self._read_slot(key, version)) if version else _NOTHING

    def _read_slot(self, key: str, version: int) -> Head:
        if version == 0:
            return _NOTHING
        content = self._bucket.get(_slot(key, version))
        if not content.strip(b"\0"):
            # A power failure can leave an empty file of a commit that was not confirmed to anybody.
            return self._as_below(key, version)
        if content.startswith(_PROMISE_START):
            promise = json.loads(content)
            decision = self._decision(promise[_PROMISE])
            if decision != _COMMIT:
                undecided = promise[_PROMISE] if decision is None else ""
                return self._as_below(key, version, undecided)
            content = promise["then"].encode()
        if content == PRUNED:
            return Head(version, pruned=True)
        return read_slot(version, content)

    def _as_below(self, key: str, version: int, undecided: str = "") -> Head:
        found = self._read_slot(key, version - 1)
        return replace(found, version=version, undecided=undecided, below=found.below + 1)

    def _remember(self, key: str, head: Head) -> Head:
        with self._lock:
            known = self._heads.get(key, _NOTHING)
            if known.version > head.version or (known.version == head.version and not known.undecided):
                return known
            self._heads[key] = head
            return head

    # -- keys -----------------------------------------------------------------------------------------

    def _table_key(self, schema: str, table: str) -> str:
        return f"{self._warehouse}/{segment_of(schema)}/{segment_of(table)}"

    def _schema_key(self, schema: str) -> str:
        return f"{self._warehouse}/{segment_of(schema)}/{_SCHEMA_OBJECT}"

    def _read_schema(self, schema: str) -> dict[str, Any]:
        content = self._schema_at(self._schema_key(schema))
        if content is None:
            raise NoSuchNamespaceError(schema)
        return content

    def _schema_at(self, key: str) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(self._bucket.get(key))
        except ObjectNotFound:
            return None
        return content

    def _names(self, schema_segment: str, *, promised: bool = False) -> Iterator[tuple[str, Head]]:
        """The tables and views of a schema, on demand with those of joint commits that are not decided."""
        prefix = f"{self._warehouse}/{schema_segment}"
        for segment in self._bucket.directories(prefix):
            head = self._head(f"{prefix}/{segment}")
            if not head.is_free or (promised and head.undecided):
                yield head.properties.get(NAME_PROPERTY) or name_of(segment) or segment, head


def _slot(key: str, version: int) -> str:
    return f"{key}/metadata/v{version}.metadata.json"


def _promised(promise: str, content: bytes) -> bytes:
    return json.dumps({_PROMISE: promise, "then": content.decode()}, ensure_ascii=False).encode()


def _refuse(reason: str) -> NoReturn:
    raise NotImplementedError(reason)
