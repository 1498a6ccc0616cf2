"""The catalog as the rest of the program sees it: cached, case-insensitive, with domain errors."""

from __future__ import annotations

import difflib
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import pyarrow as pa
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    TableAlreadyExistsError,
)
from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Identifier
from pyiceberg.view.metadata import ViewMetadata

from lakehouse.catalog.change_events import Change, Told, events_of
from lakehouse.catalog.iceberg_errors import iceberg_errors
from lakehouse.catalog.names import check_name, fold
from lakehouse.catalog.object_catalog import ObjectCatalog
from lakehouse.catalog.observer import CatalogObserver
from lakehouse.catalog.purge import purge_table
from lakehouse.catalog.slots import NAME_PROPERTY, Head
from lakehouse.catalog.snapshot_files import SnapshotFiles
from lakehouse.catalog.sql_view import SqlView, as_view, described_as, new_version
from lakehouse.catalog.table import (
    DESCRIPTION_PROPERTY,
    FOREIGN_KEYS_PROPERTY,
    PRIMARY_KEY_PROPERTY,
    Table,
    foreign_keys_to_json,
)
from lakehouse.catalog.table_alteration import Alteration, alter
from lakehouse.catalog.table_change import change_table
from lakehouse.catalog.table_definition import Columns
from lakehouse.catalog.table_store import TableStore, extra
from lakehouse.clock import Clock
from lakehouse.config import CatalogConnection, Settings
from lakehouse.errors import (
    ConfigError,
    LakehouseError,
    NotSupported,
    SchemaAlreadyExists,
    SchemaNotEmpty,
    SchemaNotFound,
    StorageError,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.journal.change_event import SCHEMA_FIELD, ChangeEvent, ChangeRecorder
from lakehouse.storage import Bucket, open_bucket
from lakehouse.storage.rescue import may_be_old, note
from lakehouse.types import ForeignKey, TableName

_REMEMBERED_TABLES = 10_000
# Module and function that open the store of a catalog, by its type.
_STORES = {
    "sql": ("sql_catalog", "open_sql"),
    "rest": ("rest_catalog", "open_rest"),
    "hive": ("hive_catalog", "open_hive"),
    "glue": ("glue_catalog", "open_glue"),
}


@dataclass(frozen=True, slots=True)
class _Known:
    head: Head
    table: Table | None
    fresh_until: float
    view: SqlView | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """When storage was asked, and how many changes this process had made until then."""

    at: float
    changes: int


@dataclass(frozen=True, slots=True)
class _Names:
    """Names by their folded form."""

    names: Mapping[str, str]
    fresh_until: float


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How large data files and the row groups within them may become.

    Args:
        target_bytes: A file that has reached this size is followed by another one.
        rows_per_group: The most rows of a row group.
        spill_directory: Where rows are kept that have to be put in order; empty for the system's own place.
    """

    target_bytes: int = 134_217_728
    rows_per_group: int = 122_880
    spill_directory: str = ""


class IcebergCatalog:
    """Iceberg tables in one bucket. See ``Catalog`` for what it offers.

    Args:
        name: What SQL clients call the catalog.
        bucket: Where the tables are.
        warehouse: Key prefix of all of them.
        clock: Tells when what is known has to be asked again.
        refresh_s: How old what is known may be.
        limits: How large data files become.
        store: Keeps which versions of the tables are current; objects of the bucket when left out.

    Attributes:
        recorder: Is told of every change that took place; nobody is while it is None.
        observer: Told of changes of tables, where somebody wants to know of them.
    """

    def __init__(
        self,
        name: str,
        bucket: Bucket,
        warehouse: str,
        clock: Clock,
        refresh_s: float = 0.5,
        limits: FileLimits = FileLimits(),
        store: TableStore | None = None,
    ) -> None:
        self.name = name
        self.bucket = bucket
        self.objects: TableStore = store or ObjectCatalog(name, bucket, warehouse)
        # Where the bucket itself says which versions are current, so do the copies of its objects.
        self._copies: TableStore | None = None
        if bucket.copies is not None and isinstance(self.objects, ObjectCatalog):
            self._copies = ObjectCatalog(name, bucket.copies, warehouse)
        self._rescued: dict[tuple[str, str], _Known] = {}
        self._is_rescued = False
        self.planner = SnapshotFiles(bucket)
        self.clock = clock
        self.limits = limits
        self.recorder: ChangeRecorder | None = None
        self.observer: CatalogObserver | None = None
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._version = 0
        self._changes = 0
        self._known: dict[tuple[str, str], _Known] = {}
        self._schemas: _Names | None = None
        self._tables: dict[str, _Names] = {}
        self._views: dict[str, _Names] = {}
        self._commits: dict[tuple[str, str], threading.RLock] = {}

    # -- schemas --------------------------------------------------------------------------------------

    def schemas(self) -> list[str]:
        """The names of all schemas, sorted."""
        return sorted(self._schema_names().values())

    def schema_exists(self, schema: str) -> bool:
        """Whether there is such a schema."""
        return fold(schema) in self._schema_names()

    def create_schema(self, schema: str, if_not_exists: bool = False) -> None:
        """Make a schema.

        Raises:
            SchemaAlreadyExists: There is one of that name, and ``if_not_exists`` is false.
        """
        check_name(schema, "schema")
        try:
            with iceberg_errors(f"schema '{schema}'"):
                self.objects.create_namespace((schema,))
        except NamespaceAlreadyExistsError as error:
            if not if_not_exists:
                raise SchemaAlreadyExists(f"schema '{self.name}.{schema}' exists already") from error
            return
        self._forget_schemas()
        self.record(ChangeEvent("create", f"{self.name}.{schema}", field=SCHEMA_FIELD))

    @property
    def has_late_schemas(self) -> bool:
        """Whether a table can be prepared while its schema does not exist yet."""
        return self.objects.capabilities.late_schemas

    def drop_schema(self, schema: str, if_exists: bool = False) -> None:
        """Remove an empty schema.

        Raises:
            SchemaNotFound: There is none of that name, and ``if_exists`` is false.
            SchemaNotEmpty: It holds tables or views.
        """
        check_name(schema, "schema")
        spelled = self._schema_names().get(fold(schema), schema)
        try:
            self.objects.drop_namespace((schema,))
        except NoSuchNamespaceError as error:
            if not if_exists:
                raise self._no_schema(schema) from error
        except NamespaceNotEmptyError as error:
            raise SchemaNotEmpty(
                f"schema '{self.name}.{schema}' cannot be dropped because it holds tables or views",
                "drop them first, or all at once with CASCADE",
            ) from error
        else:
            self.record(ChangeEvent("drop", f"{self.name}.{spelled}", field=SCHEMA_FIELD))
        self._forget_schemas()

    # -- tables ---------------------------------------------------------------------------------------

    def tables(self, schema: str) -> list[str]:
        """The names of a schema's tables, sorted.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        return self._listed(self._tables, schema, lambda store, name: store.list_tables(name))

    def table_exists(self, schema: str, table: str) -> bool:
        """Whether there is such a table."""
        return bool(schema and table) and self._current(schema, table).table is not None

    def load(self, schema: str, table: str) -> Table:
        """The current version of a table, at most ``refresh_s`` old.

        Raises:
            SchemaNotFound: There is no such schema.
            TableNotFound: There is no such table in it.
        """
        found = self._current(schema, table).table
        if found is None:
            raise self._no_table(schema, table)
        return found

    def drop_table(self, schema: str, table: str, if_exists: bool = False) -> None:
        """Remove a table.

        Raises:
            SchemaNotFound, TableNotFound: There is none, and ``if_exists`` is false.
        """
        check_name(schema, "schema")
        check_name(table, "table")
        with self.committing(schema, table):
            dropped = self.dropped(schema, table)
            try:
                if self.observer is not None and self.table_exists(schema, table):
                    self.observer.dropping(self.load(schema, table))
                self.objects.drop_table((schema, table))
            except NoSuchTableError as error:
                if not if_exists:
                    raise self._no_table(schema, table) from error
            else:
                self.record(dropped)

    def declare_keys(
        self, schema: str, table: str, primary_key: Sequence[str], foreign_keys: Sequence[ForeignKey]
    ) -> None:
        """Set the declared, not enforced, keys of a table, in place of those it had.

        Raises:
            SchemaMismatch: A key names a column that the table does not have or that cannot be in a key.
        """

        def build(transaction: Transaction) -> None:
            names = Columns(transaction.table_metadata.schema(), f"table '{schema}.{table}'")
            key = [names.key_column(column) for column in primary_key]
            with transaction.update_schema() as update:
                update.set_identifier_fields(*(field.name for field in key))
            keys = [
                replace(key, columns=tuple(names.spelled(column) for column in key.columns))
                for key in foreign_keys
            ]
            transaction.set_properties(
                {
                    PRIMARY_KEY_PROPERTY: ",".join(str(field.field_id) for field in key),
                    FOREIGN_KEYS_PROPERTY: foreign_keys_to_json(keys),
                }
            )

        self._change(schema, table, build)

    def describe_table(
        self, schema: str, table: str, description: str | None, column_docs: Mapping[str, str]
    ) -> None:
        """Set what a table and some of its columns are, in words; empty words take a description away.

        Raises:
            SchemaMismatch: A column is described that the table does not have.
        """

        def build(transaction: Transaction) -> None:
            names = Columns(transaction.table_metadata.schema(), f"table '{schema}.{table}'")
            with transaction.update_schema() as update:
                for column, doc in column_docs.items():
                    update.update_column((names.spelled(column),), doc=doc)
            if description:
                transaction.set_properties({DESCRIPTION_PROPERTY: description})
            elif description is not None and DESCRIPTION_PROPERTY in transaction.table_metadata.properties:
                transaction.remove_properties(DESCRIPTION_PROPERTY)

        self._change(schema, table, build)

    def alter_table(self, schema: str, table: str, change: Alteration) -> None:
        """Change what a table is declared to be, in one commit.

        Raises:
            SchemaNotFound, TableNotFound: There is none.
            SchemaMismatch: The change does not fit the table.
            NotSupported: Rows or files that are there could not be read right afterwards.
            CommitConflict: Rows were changed since they were looked through.
        """
        name = self.load(schema, table).name
        self._change(schema, table, lambda transaction: alter(transaction, name, change))

    # -- views, and other names -----------------------------------------------------------------------

    def views(self, schema: str) -> list[str]:
        """The names of a schema's views, sorted.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        return self._listed(self._views, schema, lambda store, name: store.list_views(name))

    def find_view(self, schema: str, view: str) -> SqlView | None:
        """The current version of a view, at most ``refresh_s`` old; None where there is none."""
        return self._current(schema, view).view if schema and view else None

    def create_view(
        self,
        schema: str,
        view: str,
        sql: str,
        columns: pa.Schema,
        *,
        replace: bool = False,
        if_not_exists: bool = False,
    ) -> None:
        """Give a query a name.

        Args:
            schema: The view's schema.
            view: Its name.
            sql: The query, every table in it by its full name.
            columns: What it gives, of storable types.
            replace: Take the place of a view of that name.
            if_not_exists: Leave alone what has that name.

        Raises:
            SchemaNotFound: There is no such schema.
            TableAlreadyExists: There is a table of that name, or a view that is not to be replaced.
            NotSupported: The catalog keeps no views.
        """
        spelled = self.spelled_schema(check_name(schema, "schema"))
        name = TableName(self.name, spelled, check_name(view, "view"))
        location = self.objects.table_location(spelled, view)
        now_ms = int(self.clock.now().timestamp() * 1000)
        if not self.objects.capabilities.views:
            raise self._lacks("keeps no views", "a temporary view, CREATE TEMP VIEW, can be made")

        former: list[ViewMetadata | None] = [None]

        def build(old: ViewMetadata | None) -> ViewMetadata:
            if old is not None and not replace:
                raise TableAlreadyExists(f"view '{name}' exists already", "CREATE OR REPLACE VIEW")
            former[0] = old
            return new_version(old, name, location, sql, columns, now_ms)

        with self.committing(spelled, view):
            try:
                self.objects.put_view(spelled, view, build)
            except TableAlreadyExists:
                if not if_not_exists:
                    raise
            except TableAlreadyExistsError as error:
                if not if_not_exists:
                    raise TableAlreadyExists(f"'{name}' is the name of a table") from error
            else:
                before = None if former[0] is None else as_view(name, former[0]).sql
                action = "create" if before is None else "replace"
                self.record(ChangeEvent(action, str(name), field="view", old=before, new=sql))

    def describe_view(self, schema: str, view: str, description: str | None) -> None:
        """Set what a view is, in words.

        Raises:
            TableNotFound: There is no such view.
        """
        missing = self._no_view(schema, view)
        found = self.find_view(schema, view)

        def build(old: ViewMetadata | None) -> ViewMetadata:
            if old is None:
                raise missing
            return described_as(old, description)

        with self.committing(schema, view):
            try:
                self.objects.put_view(schema, view, build)
            except TableAlreadyExistsError:
                raise missing from None
            if found is not None:
                old, new = found.description or None, description or None
                self.record(ChangeEvent("alter", str(found.name), field="description", old=old, new=new))

    def drop_view(self, schema: str, view: str, if_exists: bool = False) -> None:
        """Remove a view.

        Raises:
            TableNotFound: There is none, and ``if_exists`` is false.
        """
        check_name(schema, "schema")
        check_name(view, "view")
        with self.committing(schema, view):
            known = self._known.get((fold(schema), fold(view)))
            found = known.view if known is not None else None
            try:
                self.objects.drop_view((schema, view))
            except NoSuchViewError as error:
                if not if_exists:
                    raise self._no_view(schema, view) from error
            else:
                name = found.name if found is not None else TableName(self.name, schema, view)
                old = found.sql if found is not None else None
                self.record(ChangeEvent("drop", str(name), found.uuid if found else "", "view", old))

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, *, is_view: bool = False) -> None:
        """Give a table or view another name. Rows, history and location stay as they are.

        Args:
            schema: The old schema.
            name: The old name.
            to_schema: The new schema.
            to_name: The new name.
            is_view: Whether it is a view.

        Raises:
            SchemaNotFound, TableNotFound: There is none of the old name, or no new schema.
            TableAlreadyExists: There is a table or view of the new name.
            NotSupported: The catalog cannot move tables to another schema.
        """
        check_name(schema, "schema")
        check_name(name, "table")
        target = self.spelled_schema(check_name(to_schema, "schema"))
        check_name(to_name, "table")
        if not self.objects.capabilities.renames and not is_view:
            raise self._lacks("cannot give tables other names in one step")
        if fold(schema) != fold(target) and not self.objects.capabilities.moves:
            raise self._lacks("cannot move tables to another schema")
        first, second = sorted([(fold(schema), fold(name)), (fold(target), fold(to_name))])
        with self.committing(*first), self.committing(*second):
            event = self._renamed(schema, name, TableName(self.name, target, to_name), is_view)
            try:
                if self.observer is not None and not is_view and self.table_exists(schema, name):
                    to = TableName(self.name, target, to_name)
                    self.observer.renaming(self.load(schema, name), to)
                self.objects.rename(schema, name, target, to_name, "view" if is_view else "metadata")
            except NoSuchTableError as error:
                raise (self._no_view if is_view else self._no_table)(schema, name) from error
            except TableAlreadyExistsError as error:
                raise TableAlreadyExists(f"'{self.name}.{target}.{to_name}' exists already") from error
            self.record(event)

    def purge(self, schema: str, table: str) -> int:
        """Delete the files of a dropped table that no table refers to; gives how many these were.

        The versions of its metadata stay, so that no writer that was asleep can take their place.

        Raises:
            TableNotFound: No table of that name was dropped, or it has another name now.
            NotSupported: The catalog does not remember what was dropped.
            TableAlreadyExists: There is a table or view of that name.
        """
        check_name(schema, "schema")
        check_name(table, "table")
        if not self.objects.capabilities.remembers_dropped:
            raise self._lacks("does not remember dropped tables, so none can be purged")
        with self.committing(schema, table):
            if not self.objects.head(schema, table).is_free:
                raise TableAlreadyExists(f"'{self.name}.{schema}.{table}' exists", "drop it first")
            dropped = self.objects.last_table(schema, table)
            if dropped is None:
                raise TableNotFound(f"no table '{self.name}.{schema}.{table}' was dropped")
            count = purge_table(self.objects, dropped)
            name, uuid = TableName(self.name, schema, table), str(dropped.table_uuid)
            self.record(ChangeEvent("purge", str(name), uuid, old={"files": count}))
            return count

    def version(self) -> int:
        """A number that grows whenever anything that this process knows of the catalog changes."""
        return self._version

    def check_joint(self) -> None:
        """Make sure that changes of several tables can be committed at once.

        Raises:
            NotSupported: They cannot.
        """
        if not self.objects.capabilities.joint_commits:
            raise self._lacks(
                "cannot change several tables at once, so a transaction can change only one",
                "commit before the next table is changed",
            )

    def close(self) -> None:
        """Release what is held open."""
        self.objects.close()

    # -- for commits ----------------------------------------------------------------------------------

    @contextmanager
    def committing(self, schema: str, table: str) -> Iterator[None]:
        """Commits of this process to one table go one after the other; the result is visible at the end."""
        key = (fold(schema), fold(table))
        with self._lock:
            lock = self._commits.setdefault(key, threading.RLock())
        with lock:
            try:
                with iceberg_errors(f"table '{self.name}.{schema}.{table}'"):
                    yield
            finally:
                with self._lock:
                    self._version += 1
                    self._changes += 1
                    self._tables.pop(key[0], None)
                    self._views.pop(key[0], None)
                self.refresh(schema, table)
                if self.observer is not None:
                    self.observer.changed(TableName(self.name, schema, table))

    def record(self, *events: ChangeEvent) -> None:
        """Put changes that took place on record, if anybody keeps one."""
        if self.recorder is not None:
            self.recorder.record(*events)

    def told(self, name: TableName) -> Told:
        """What is to be told of changes of a table, so that they are put on record."""

        def told(change: Change) -> None:
            if self.recorder is not None:
                self.recorder.record(*events_of(name, change))

        return told

    def dropped(self, schema: str, table: str) -> ChangeEvent:
        """What is to be put on record once a table has been dropped."""
        found = self._last_seen(schema, table)
        if found is None:
            return ChangeEvent("drop", str(TableName(self.name, schema, table)))
        columns = {field.name: str(field.field_type) for field in found.metadata.schema().fields}
        old = {"columns": columns, "snapshot_id": found.metadata.current_snapshot_id}
        return ChangeEvent("drop", str(found.name), found.uuid, old=old)

    def _renamed(self, schema: str, name: str, to: TableName, is_view: bool) -> ChangeEvent:
        found = self._last_seen(schema, name)
        old = str(found.name) if found is not None else str(TableName(self.name, schema, name))
        field = "view" if is_view else ""
        return ChangeEvent("rename", str(to), found.uuid if found else "", field, old, str(to))

    def _last_seen(self, schema: str, table: str) -> Table | None:
        """A table as it was at the last look; what is on record of it does not need another one."""
        known = self._known.get((fold(schema), fold(table)))
        return known.table if known is not None else None

    def known_head(self, schema: str, table: str) -> Head | None:
        """The version that a look at a table would give without asking storage; None where it would ask."""
        known = self._known.get((fold(schema), fold(table)))
        return known.head if known is not None and self.clock.monotonic() < known.fresh_until else None

    def catch_up(self, schema: str, table: str) -> None:
        """Take over what the store saw while it committed, so that the next look does not have to ask.

        Never fails: the commit has taken place, and the next look asks where this could not.
        """
        asked = self._ask()
        head = self.objects.last_head(schema, table)
        if head is None:
            return
        with suppress(LakehouseError):
            seen, named = self._view_of(schema, table, head), self._sql_view_of(schema, table, head)
            found = _Known(head, seen, self._fresh_until(asked), named)
            with self._lock:
                self._learn((fold(schema), fold(table)), found)

    def view(self, name: TableName, metadata: TableMetadata) -> Table:
        """A table as one version of its metadata describes it."""
        return Table(name, metadata, self.planner)

    def spelled_schema(self, schema: str) -> str:
        """A schema's name as it was spelled when it was created.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        name = self._schema_names().get(fold(schema))
        if name is None:
            self._schemas = None  # another process may have made it a moment ago
            name = self._schema_names().get(fold(schema))
        if name is None:
            raise self._no_schema(schema)
        return name

    def refresh(self, schema: str, table: str) -> None:
        """Ask storage at the next look at a table, however young what is known about it."""
        key = (fold(schema), fold(table))
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known[key] = replace(known, fresh_until=0.0)

    def _change(self, schema: str, table: str, build: Callable[[Transaction], None]) -> None:
        name = self.load(schema, table).name

        def announced(transaction: Transaction) -> None:
            before = transaction.table_metadata
            build(transaction)
            if self.observer is not None:
                after = self.view(name, transaction.table_metadata)
                self.observer.altering(after, self.view(name, before))

        with self.committing(schema, table):
            change_table(self.objects, schema, table, announced, told=self.told(name))

    # -- what is known --------------------------------------------------------------------------------

    def _current(self, schema: str, table: str) -> _Known:
        key = (fold(schema), fold(table))
        known = self._known.get(key)
        if known is not None and self.clock.monotonic() < known.fresh_until:
            return known
        check_name(schema, "schema")
        check_name(table, "table")
        asked = self._ask()
        try:
            with iceberg_errors(f"table '{self.name}.{schema}.{table}'"):
                head = self.objects.head(schema, table)
            if head.version == 0:
                self._check_there()
        except StorageError as error:
            if self._copies is None or not may_be_old():
                raise
            return self._rescued_version(self._copies, schema, table, error)
        self._set_rescued(False)
        if known and known.head is head:
            found = replace(known, fresh_until=self._fresh_until(asked))
        else:
            seen, named = self._view_of(schema, table, head), self._sql_view_of(schema, table, head)
            found = _Known(head, seen, self._fresh_until(asked), named)
        with self._lock:
            return self._learn(key, found)

    def _check_there(self) -> None:
        """Tell a bucket in which there is nothing from a directory that is gone."""
        if self._copies is not None and self.bucket.root is not None:
            self.bucket.check()

    def _rescued_version(self, copies: TableStore, schema: str, table: str, cause: LakehouseError) -> _Known:
        """The newest version of a name that this process has seen, or that was copied; for reading only.

        Nothing later than this may be based on it, so it is kept apart from what is known.

        Raises:
            StorageError: ``cause``, where there is none.
        """
        seen = self.objects.last_head(schema, table)
        prefix = self.bucket.key_of(self.objects.table_location(schema, table))

        def newest(_: Bucket) -> Head:
            with iceberg_errors(f"table '{self.name}.{schema}.{table}'"):
                copied = copies.head(schema, table)
            if copied.version == 0 and seen is None:
                raise cause
            return copied if seen is None or copied.version > seen.version else seen

        try:
            head = self.bucket.rescued("list", prefix, cause, newest)
        except StorageError:
            if seen is None:
                raise
            head = seen
            note(self.bucket.name)
        self._set_rescued(True)
        key = (fold(schema), fold(table))
        known = self._rescued.get(key)
        if known is not None and known.head is head:
            return known
        found, named = self._view_of(schema, table, head), self._sql_view_of(schema, table, head)
        kept = _Known(head, None if found is None else replace(found, is_rescued=True), 0.0, named)
        with self._lock:
            if len(self._rescued) >= _REMEMBERED_TABLES:
                self._rescued.clear()
            self._rescued[key] = kept
            self._version += 1
        return kept

    def _set_rescued(self, is_rescued: bool) -> None:
        """Note whether what is told at the moment may be old; who made a list of it then makes another."""
        if is_rescued is not self._is_rescued:
            with self._lock:
                self._is_rescued = is_rescued
                self._version += 1

    def _rescued_names(
        self,
        prefix: str,
        cause: LakehouseError,
        ask: Callable[[TableStore], dict[str, str]],
        known: _Names | None,
    ) -> _Names:
        """What a listing that failed would have told, as far as it was copied or is known; for reading only.

        Raises:
            StorageError: ``cause``, where nothing is known.
        """
        copies = self._copies
        if copies is None or not may_be_old():
            raise cause
        try:
            copied = self.bucket.rescued("list", prefix, cause, lambda _: ask(copies))
        except StorageError:
            if known is None:
                raise
            copied = {}
            note(self.bucket.name)
        except NoSuchNamespaceError:
            copied = {}
        self._set_rescued(True)
        return _Names({**copied, **(known.names if known is not None else {})}, 0.0)

    def _learn(self, key: tuple[str, str], found: _Known) -> _Known:
        known = self._known.get(key)
        if known is not None and known.head.version > found.head.version:
            return known
        if len(self._known) >= _REMEMBERED_TABLES:
            self._known.clear()
        if known is None or known.head is not found.head:
            self._version += 1
        self._known[key] = found
        return found

    def _ask(self) -> _Asked:
        return _Asked(self.clock.monotonic(), self._changes)

    def _fresh_until(self, asked: _Asked) -> float:
        """Until when an answer may be used; not at all if this process changed something meanwhile."""
        return asked.at + self._refresh_s if asked.changes == self._changes else 0.0

    def _view_of(self, schema: str, table: str, head: Head) -> Table | None:
        if head.metadata is None:
            return None
        spelled = head.name or head.metadata.properties.get(NAME_PROPERTY) or table
        return self.view(TableName(self.name, self.spelled_schema(schema), spelled), head.metadata)

    def _sql_view_of(self, schema: str, view: str, head: Head) -> SqlView | None:
        if head.view is None:
            return None
        spelled = head.name or head.view.properties.get(NAME_PROPERTY) or view
        return as_view(TableName(self.name, self.spelled_schema(schema), spelled), head.view)

    def _schema_names(self) -> Mapping[str, str]:
        known = self._schemas
        if known is None or self.clock.monotonic() >= known.fresh_until:
            asked = self._ask()

            def ask(store: TableStore) -> dict[str, str]:
                return {fold(name): name for (name,) in store.list_namespaces()}

            try:
                with iceberg_errors(f"catalog '{self.name}'"):
                    names = ask(self.objects)
                if not names:
                    self._check_there()
            except StorageError as error:
                return self._rescued_names("", error, ask, known).names
            self._set_rescued(False)
            with self._lock:
                if known is None or known.names != names:
                    self._version += 1
                known = self._schemas = _Names(names, self._fresh_until(asked))
        return known.names

    def _forget_schemas(self) -> None:
        with self._lock:
            self._schemas = None
            self._tables.clear()
            self._views.clear()
            self._version += 1
            self._changes += 1

    def _listed(
        self,
        known: dict[str, _Names],
        schema: str,
        ask: Callable[[TableStore, tuple[str]], list[Identifier]],
    ) -> list[str]:
        key = fold(schema)
        found = known.get(key)
        if found is None or self.clock.monotonic() >= found.fresh_until:
            found = self._ask_for_names(known, schema, ask)
        return sorted(found.names.values())

    def _ask_for_names(
        self,
        known: dict[str, _Names],
        schema: str,
        ask: Callable[[TableStore, tuple[str]], list[Identifier]],
    ) -> _Names:
        asked = self._ask()

        def names_in(store: TableStore) -> dict[str, str]:
            return {fold(name): name for _, name in ask(store, (schema,))}

        try:
            with iceberg_errors(f"schema '{self.name}.{schema}'"):
                names = names_in(self.objects)
        except SchemaNotFound as error:
            try:
                self._check_there()
            except StorageError as gone:
                return self._rescued_names(schema, gone, names_in, known.get(fold(schema)))
            raise self._no_schema(schema) from error
        except StorageError as error:
            return self._rescued_names(schema, error, names_in, known.get(fold(schema)))
        self._set_rescued(False)
        with self._lock:
            found = _Names(names, self._fresh_until(asked))
            previous = known.get(fold(schema))
            if previous is None or previous.names != names:
                self._version += 1
            known[fold(schema)] = found
        return found

    def _lacks(self, what: str, hint: str = "") -> NotSupported:
        kind = self.objects.capabilities.kind
        return NotSupported(f"catalog '{self.name}', which is of type \"{kind}\", {what}", hint)

    def _no_view(self, schema: str, view: str) -> SchemaNotFound | TableNotFound:
        try:
            views = self.views(schema)
        except SchemaNotFound as error:
            return error
        return TableNotFound(f"view '{self.name}.{schema}.{view}' does not exist", _nearest(view, views))

    def _no_schema(self, schema: str) -> SchemaNotFound:
        return SchemaNotFound(
            f"schema '{self.name}.{schema}' does not exist", _nearest(schema, self.schemas())
        )

    def _no_table(self, schema: str, table: str) -> SchemaNotFound | TableNotFound:
        try:
            tables = self.tables(schema)
        except SchemaNotFound as error:
            return error
        return TableNotFound(f"table '{self.name}.{schema}.{table}' does not exist", _nearest(table, tables))


def open_catalog(settings: Settings, clock: Clock, bucket: Bucket | None = None) -> IcebergCatalog:
    """The default catalog of a configuration; its default schema is made if it is missing.

    Args:
        settings: The configuration.
        clock: Source of time and ids.
        bucket: The bucket of the catalog, where it is open already.

    Raises:
        ConfigError: The bucket or the database of the catalog cannot be used.
    """
    if bucket is None:
        where = next(b for b in settings.buckets if b.name == settings.bucket_of(settings.catalog))
        bucket = open_bucket(where)
    catalog = open_mounted(settings.catalog, settings, clock, bucket)
    catalog.create_schema(settings.catalog.default_schema, if_not_exists=True)
    return catalog


def open_mounted(
    connection: CatalogConnection, settings: Settings, clock: Clock, bucket: Bucket
) -> IcebergCatalog:
    """The catalog that one section of a configuration describes, as it is.

    Args:
        connection: The section.
        settings: The whole configuration.
        clock: Source of time and ids.
        bucket: The bucket of the catalog.

    Raises:
        ConfigError: The database of the catalog cannot be used.
    """
    return IcebergCatalog(
        connection.name,
        bucket,
        connection.warehouse,
        clock,
        connection.refresh_ms / 1000,
        FileLimits(
            settings.ingest.target_file_bytes,
            settings.ingest.max_rows_per_group,
            settings.engine.spill_directory,
        ),
        open_store(connection, bucket),
    )


def open_store(settings: CatalogConnection, bucket: Bucket) -> TableStore:
    """What keeps the current versions of the tables, by the type of the catalog.

    Raises:
        ConfigError: A package is missing, or the database or service cannot be used.
    """
    if settings.type == "object":
        return ObjectCatalog(settings.name, bucket, settings.warehouse)
    module, opener = _STORES[settings.type]
    try:
        found = importlib.import_module(f"lakehouse.catalog.{module}")  # extras, and slow to import
    except ImportError as error:
        raise ConfigError(
            f'catalog.type = "{settings.type}" needs the package {error.name}, which is not installed',
            extra(settings.type),
        ) from error
    store: TableStore = getattr(found, opener)(settings, bucket)
    return store


def _nearest(name: str, names: Sequence[str]) -> str:
    folded = {fold(candidate): candidate for candidate in names}
    found = difflib.get_close_matches(fold(name), folded, n=1)
    return f"did you mean '{folded[found[0]]}'?" if found else ""
