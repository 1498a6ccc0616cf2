"""An Iceberg catalog whose current versions stand in a database, as pyiceberg, Trino and Spark keep them.

A row of ``iceberg_tables`` says which metadata file is a table's current one; the files are in the bucket.
A commit writes its metadata file first and then changes the row, on condition that the row still says what
the commit started from. A commit over several tables changes all of their rows in one transaction of the
database. Creating a table, renaming one into a schema and dropping the schema lock the schema's rows, so
that they take place one after the other. Names are kept as they are spelled.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from pyiceberg.catalog.sql import IcebergNamespaceProperties, IcebergTables, SqlCatalog
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
from sqlalchemy import Connection, delete, event, func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.metadata_files import MetadataFiles
from lakehouse.catalog.metadata_update import updated_metadata
from lakehouse.catalog.names import fold, segment_of
from lakehouse.catalog.slots import Head
from lakehouse.catalog.table_store import DELETE_METADATA_PROPERTY, Capabilities, check_requirement, extra
from lakehouse.config import CatalogConnection
from lakehouse.errors import ConfigError, InvalidRequest, StorageError
from lakehouse.storage.bucket import Bucket

_MAX_NAME = 255  # characters, of a column of the database
_BUSY_SECONDS = 30
_LOOK_AGAIN_PAUSES_S = (0.0, 0.1, 0.5, 2.0)
_LOCKS = 64
# Codes of PostgreSQL: serialization failure, deadlock.
_LOST_RACES = ("40001", "40P01")
_NOTHING = Head(0)
_READS = "lakehouse_reads"


@dataclass(frozen=True, slots=True)
class _Row:
    """Where a table stands in the database, and which metadata file is the current one."""

    schema: str
    table: str
    location: str


@dataclass(frozen=True, slots=True)
class _Step:
    """One change of a commit; ``old`` is None for a table that is created, ``new`` for a dropped one."""

    schema: str
    table: str
    old: str | None
    new: str | None


class SqlTableCatalog(SqlCatalog):
    """pyiceberg's interface to tables whose current versions stand in a database.

    Args:
        name: The catalog's name, which its rows bear.
        uri: Where the database is, ``sqlite:///…`` or ``postgresql+psycopg://…``.
        bucket: Where the files are.
        warehouse: Key prefix of the tables that are created.

    Raises:
        ConfigError: The database cannot be used.
    """

    def __init__(self, name: str, uri: str, bucket: Bucket, warehouse: str) -> None:
        self._bucket = bucket
        self._warehouse = warehouse
        self._files = MetadataFiles(bucket)
        self._lock = threading.Lock()
        self._asking = [threading.Lock() for _ in range(_LOCKS)]
        self._heads: dict[tuple[str, str], tuple[_Row | None, Head]] = {}
        self._promised: dict[str, list[_Step]] = {}
        with _opening(name):
            url = make_url(uri)
            is_sqlite = url.get_backend_name() == "sqlite"
            if is_sqlite:
                url = url.update_query_dict({"timeout": str(_BUSY_SECONDS)})
            properties = {"uri": url.render_as_string(hide_password=False), "pool_pre_ping": "true"}
            try:
                super().__init__(name, **properties)
            except SQLAlchemyError:
                # Another server may have made the tables at the same moment.
                super().__init__(name, **properties)
        self._read_options: dict[str, Any] = {_READS: True}
        self._write_options: dict[str, Any] = {}
        if not is_sqlite:
            self._read_options = {"isolation_level": "AUTOCOMMIT"}
            # What is asked after a lock was awaited has to be seen as it is by then.
            self._write_options = {"isolation_level": "READ COMMITTED"}
        if is_sqlite:
            event.listen(self.engine, "connect", _leave_transactions_alone)
            event.listen(self.engine, "begin", _begin)
            # What was opened before does not know of this.
            self.engine.dispose()

    # -- what the domain asks beyond pyiceberg's interface ------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """Tables only; nothing is left of one that was dropped."""
        return Capabilities("sql", views=False, remembers_dropped=False, late_schemas=True)

    @property
    def file_io(self) -> BucketFileIO:
        """How metadata files are read and written."""
        return self._files.io

    def head(self, schema: str, table: str) -> Head:
        """The current version of a table, asked from the database; the same object while nothing changed."""
        key = (fold(schema), fold(table))
        with self._asking[
            hash(key) % _LOCKS
        ]:  # so that answers are numbered in the order in which they were given
            row = self._find(schema, table)
            known = self._heads.get(key)
            if known is not None and known[0] == row:
                return known[1]
            version = known[1].version + 1 if known else 1
            if row is None:
                if known is None:
                    return _NOTHING
                head = Head(version)
            else:
                head = Head(version, self._metadata(row.location), name=row.table)
            self._heads[key] = (row, head)
            return head

    def last_head(self, schema: str, table: str) -> Head | None:
        """None: a commit changes a row, and tells nobody which answer comes next."""
        return None

    def version_at(self, schema: str, table: str, head: Head, moment_ms: int) -> TableMetadata | None:
        """The version that was current at a time, or the first one; none if there is no table.

        Raises:
            StorageError: A former version cannot be read.
        """
        return self._files.version_at(head.metadata, moment_ms)

    def table_location(self, schema: str, table: str) -> str:
        """The URI that what has a name is kept under."""
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
        """A table that exists in memory only, to be created by a commit, at a location of its own."""
        _check_length(schema, "schema")
        _check_length(table, "table")
        location = f"{self.table_location(schema, table)}~{uuid.uuid4().hex}"
        told = {DELETE_METADATA_PROPERTY: "true", **properties}
        metadata = new_table_metadata(columns, spec, order, location, told)
        return StagedTable((schema, table), metadata, "", self._files.io, self)

    def last_table(self, schema: str, table: str) -> TableMetadata | None:
        """None: a dropped table leaves no row."""
        return None

    def prune_versions(self, schema: str, table: str, before: datetime) -> int:
        """None are: each commit deletes the file of the version that its log has no room for any more."""
        return 0

    def delete_file(self, uri: str) -> bool:
        """Delete a file that a table referred to; gives whether it was there."""
        return self._files.delete(uri)

    # -- tables ---------------------------------------------------------------------------------------

    def load_table(self, identifier: str | Identifier, known: Head | None = None) -> Table:
        """The current version of a table, always asked from the database."""
        schema, table = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        row = self._find(schema, table)
        if row is None:
            raise NoSuchTableError(f"{schema}.{table}")
        return self._table(row)

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
        transaction = self.create_table_transaction(
            identifier, schema, None, partition_spec, sort_order, properties
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
        """Apply updates to the current version, and put the result in its place. See ``TableStore``."""
        schema, name = self.identifier_to_database_and_table(table.name())
        row = self._find(schema, name)
        base = self._metadata(row.location) if row else None
        if row is None and not self._spellings(schema):
            raise NoSuchNamespaceError(schema)
        for requirement in requirements:
            check_requirement(requirement, base, f"{schema}.{name}")
        if row is not None and base is not None:
            metadata = updated_metadata(base, updates, row.location)
            if metadata is base:
                return CommitTableResponse(metadata=base, metadata_location=row.location)
        else:
            metadata = update_table_metadata(self._empty_table_metadata(), updates, enforce_validation=True)
        location = self._files.write(metadata, row.location if row else "")
        place = row or _Row(schema, name, "")
        step = _Step(place.schema, place.table, place.location or None, location)
        if promise:
            with self._lock:
                self._promised.setdefault(promise, []).append(step)
        else:
            self._take_place([step])
            if base is not None:
                self._files.give_up(base, metadata)
        return CommitTableResponse(metadata=metadata, metadata_location=location)

    def drop_table(self, identifier: str | Identifier) -> None:
        """Make a table cease to exist; its files stay in the bucket."""
        schema, table = self.identifier_to_database_and_table(identifier, NoSuchTableError)
        while True:
            row = self._find(schema, table)
            if row is None:
                raise NoSuchTableError(f"{schema}.{table}")
            with suppress(CommitFailedException):
                return self._take_place([_Step(row.schema, row.table, row.location, None)])

    def purge_table(self, identifier: str | Identifier) -> None:
        """Not offered: files can be another table's as well."""
        _refuse("tables cannot be purged")

    def register_table(
        self, identifier: str | Identifier, metadata_location: str, overwrite: bool = False
    ) -> Table:
        """Not offered."""
        _refuse("a table that is kept elsewhere cannot be registered")

    def list_tables(self, namespace: str | Identifier) -> list[Identifier]:
        """The tables of a schema, as (schema, table) pairs; those that are not in the bucket are left out."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)
        with self._reading() as connection:
            if not _spellings(connection, self.name, schema):
                raise NoSuchNamespaceError(schema)
            found = connection.execute(self._rows_of(schema)).all()
        return sorted({(s, t) for s, t, uri in found if fold(s) == fold(schema) and self._files.is_ours(uri)})

    def table_exists(self, identifier: str | Identifier) -> bool:
        """Whether there is such a table."""
        return self._find(*self.identifier_to_database_and_table(identifier, NoSuchTableError)) is not None

    def rename_table(self, from_identifier: str | Identifier, to_identifier: str | Identifier) -> Table:
        """Give a table another name; its location stays."""
        source = self.identifier_to_database_and_table(from_identifier, NoSuchTableError)
        self.rename(*source, *self.identifier_to_database_and_table(to_identifier), kind="metadata")
        return self.load_table(to_identifier)

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, kind: str) -> None:
        """Give a table another name, at once and wholly. See ``TableStore``."""
        _check_length(to_name, "table")
        row = self._find(schema, name) if kind == "metadata" else None
        if row is None:
            raise NoSuchTableError(f"{schema}.{name}")

        def move(connection: Connection) -> None:
            target = self._locked(connection, to_schema)
            if self._holds(connection, target, to_name):
                raise TableAlreadyExistsError(f"{to_schema}.{to_name}")
            statement = update(IcebergTables).where(*self._is(row.schema, row.table))
            moved = connection.execute(statement.values(table_namespace=target, table_name=to_name))
            if not moved.rowcount:
                raise NoSuchTableError(f"{schema}.{name}")

        def is_done(connection: Connection) -> bool | None:
            left, there = self._row(connection, schema, name), self._row(connection, to_schema, to_name)
            return left is None and there is not None

        self._writing(move, is_done)

    # -- schemas --------------------------------------------------------------------------------------

    def create_namespace(self, namespace: str | Identifier, properties: Properties = EMPTY_DICT) -> None:
        """Make a schema exist."""
        schema = _check_length(self.identifier_to_database(namespace), "schema")
        told = dict(properties) or IcebergNamespaceProperties.NAMESPACE_MINIMAL_PROPERTIES

        def create(connection: Connection) -> None:
            if connection.dialect.name == "postgresql":
                # Names that differ by case are different keys: one after the other, each sees the other.
                table = IcebergNamespaceProperties.__tablename__
                connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
            if _spellings(connection, self.name, schema):
                raise NamespaceAlreadyExistsError(schema)
            rows = [
                {
                    "catalog_name": self.name,
                    "namespace": schema,
                    "property_key": key,
                    "property_value": value,
                }
                for key, value in told.items()
            ]
            connection.execute(insert(IcebergNamespaceProperties), rows)

        self._writing(create, lambda connection: bool(_spellings(connection, self.name, schema)))

    def drop_namespace(self, namespace: str | Identifier) -> None:
        """Make an empty schema cease to exist."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)

        def drop(connection: Connection) -> None:
            spelled = self._locked(connection, schema)
            connection.execute(
                delete(IcebergNamespaceProperties).where(
                    IcebergNamespaceProperties.catalog_name == self.name,
                    IcebergNamespaceProperties.namespace == spelled,
                )
            )
            taken = select(IcebergTables.table_name).where(
                IcebergTables.catalog_name == self.name, IcebergTables.table_namespace == spelled
            )
            if connection.execute(taken.limit(1)).first() is not None:
                raise NamespaceNotEmptyError(schema)

        self._writing(drop, lambda connection: not _spellings(connection, self.name, schema))

    def list_namespaces(self, namespace: str | Identifier = ()) -> list[Identifier]:
        """All schemas. One of several levels is a schema with dots in its name."""
        if namespace:
            return []
        with self._reading() as connection:
            return sorted((name,) for name in _spellings(connection, self.name))

    # -- joint commits ----------------------------------------------------------------------------------

    def promise_drop(self, schema: str, table: str, promise: str) -> None:
        """Drop a table as part of a joint commit; one that does not exist stays so."""
        row = self._find(schema, table)
        if row is not None:
            with self._lock:
                step = _Step(row.schema, row.table, row.location, None)
                self._promised.setdefault(promise, []).append(step)

    def decide(self, promise: str, *, commit: bool) -> bool:
        """Make all that was promised take place in one transaction of the database, or none of it."""
        with self._lock:
            steps = self._promised.pop(promise, None)
        if not commit:
            self._forget(steps or ())
            return False
        # A joint commit of drops may have found none of its tables.
        self._take_place(steps or [])
        return True

    def write_out(self, schema: str, table: str) -> None:
        """Nothing: every version is one that other engines can read."""

    # -- views ------------------------------------------------------------------------------------------

    def list_views(self, namespace: str | Identifier) -> list[Identifier]:
        """None."""
        schema = self.identifier_to_database(namespace, NoSuchNamespaceError)
        if not self._spellings(schema):
            raise NoSuchNamespaceError(schema)
        return []

    def put_view(self, schema: str, name: str, build: Callable[[ViewMetadata | None], ViewMetadata]) -> None:
        """Not offered."""
        if self._find(schema, name) is not None:
            raise TableAlreadyExistsError(f"{schema}.{name}")
        build(None)
        _refuse("views are not kept")

    def drop_view(self, identifier: str | Identifier) -> None:
        """There is none."""
        raise NoSuchViewError(str(identifier))

    # -- pyiceberg's hooks -----------------------------------------------------------------------------

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        return self._files.io

    def _resolve_table_location(self, location: str | None, database_name: str, table_name: str) -> str:
        return f"{self.table_location(database_name, table_name)}~{uuid.uuid4().hex}"

    # -- metadata files ---------------------------------------------------------------------------------

    def _table(self, row: _Row) -> Table:
        identifier = (row.schema, row.table)
        return Table(identifier, self._metadata(row.location), row.location, self._files.io, self)

    def _metadata(self, location: str) -> TableMetadata:
        return self._files.read(location)

    def _forget(self, steps: Sequence[_Step]) -> None:
        """Delete the metadata files of a commit that certainly did not take place."""
        for step in steps:
            if step.new is not None:
                self._files.forget(step.new)

    # -- the database -----------------------------------------------------------------------------------

    def _take_place(self, steps: Sequence[_Step]) -> None:
        """Make changes take place, all or none.

        Raises:
            CommitFailedException: A table is not what it was; nothing was changed.
            ValidationException, NoSuchNamespaceError: A table cannot be created; nothing was changed.
            StorageError: Nothing was changed.
            CommitStateUnknownException: It is open whether the changes took place.
        """

        def change(connection: Connection) -> None:
            # In one order everywhere, so that no two commits wait for each other: what locks a schema first.
            for step in sorted(steps, key=lambda step: (step.old is not None, step.schema, step.table)):
                self._change(connection, step)

        def is_done(connection: Connection) -> bool | None:
            answers = [self._is_done(connection, step) for step in steps if step.new is not None]
            if not answers:
                left = [self._row(connection, step.schema, step.table) for step in steps]
                return not any(left)
            return next((answer for answer in answers if answer is not None), None)

        try:
            self._writing(change, is_done)
        except (
            CommitFailedException, ValidationException, NoSuchNamespaceError, StorageError
        ):  # fmt: skip
            self._forget(steps)
            raise

    def _change(self, connection: Connection, step: _Step) -> None:
        if step.old is None:
            schema = self._locked(connection, step.schema)
            if self._holds(connection, schema, step.table):
                raise ValidationException(f"{schema}.{step.table} exists")
            row = self._create_table_row(schema, step.table, step.new)
            connection.execute(insert(IcebergTables).values(**row))
            return
        where = (*self._is(step.schema, step.table), IcebergTables.metadata_location == step.old)
        if step.new is None:
            found = connection.execute(delete(IcebergTables).where(*where))
        else:
            values = {"metadata_location": step.new, "previous_metadata_location": step.old}
            found = connection.execute(update(IcebergTables).where(*where).values(**values))
        if found.rowcount != 1:
            raise CommitFailedException(f"{step.schema}.{step.table} was changed by another writer")

    def _is_done(self, connection: Connection, step: _Step) -> bool | None:
        """Whether a change is known to have taken place, or not to have; asked within a transaction.

        A transaction whose end was not heard of holds the row until it has ended, so this waits for it.
        """
        statement = select(IcebergTables.metadata_location).where(*self._is(step.schema, step.table))
        now = connection.execute(statement.with_for_update()).scalar()
        if now is None or now == step.old:
            # A table that is gone or has another name now may have got there by way of this change.
            return None if now is None else False
        log = self._metadata(now).metadata_log
        return True if now == step.new or any(entry.metadata_file == step.new for entry in log) else None

    def _find(self, schema: str, table: str) -> _Row | None:
        with self._reading() as connection:
            return self._row(connection, schema, table)

    def _row(self, connection: Connection, schema: str, table: str) -> _Row | None:
        """The row of a table, whatever the case; the one that is spelled like this comes first."""
        exact = self._rows().where(*self._is(schema, table))
        found = connection.execute(exact).first()
        if found is None:
            statement = self._rows_of(schema).where(
                func.lower(IcebergTables.table_name) == func.lower(fold(table))
            )
            key = (fold(schema), fold(table))
            rows = connection.execute(statement).all()
            found = next((row for row in sorted(rows) if (fold(row[0]), fold(row[1])) == key), None)
        return _Row(*found) if found is not None and found[2] else None

    def _rows(self) -> Any:
        columns = (IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location)
        statement = select(*columns).where(IcebergTables.catalog_name == self.name)
        tables_only = self._iceberg_type_filter()
        return statement if tables_only is None else statement.where(tables_only)

    def _rows_of(self, schema: str) -> Any:
        return self._rows().where(func.lower(IcebergTables.table_namespace) == func.lower(fold(schema)))

    def _is(self, schema: str, table: str) -> tuple[Any, ...]:
        return (
            IcebergTables.catalog_name == self.name,
            IcebergTables.table_namespace == schema,
            IcebergTables.table_name == table,
        )

    def _holds(self, connection: Connection, schema: str, table: str) -> bool:
        """Whether a schema holds anything of a name, in any case, be it a table or not."""
        statement = select(IcebergTables.table_name).where(
            IcebergTables.catalog_name == self.name,
            IcebergTables.table_namespace == schema,
            func.lower(IcebergTables.table_name) == func.lower(fold(table)),
        )
        return any(fold(name) == fold(table) for name in connection.execute(statement).scalars())

    def _spellings(self, schema: str) -> list[str]:
        with self._reading() as connection:
            return _spellings(connection, self.name, schema)

    def _locked(self, connection: Connection, schema: str) -> str:
        """Hold a schema until the transaction ends; gives how it is spelled.

        Raises:
            NoSuchNamespaceError: There is none.
        """
        spellings = _spellings(connection, self.name, schema)
        if not spellings:
            raise NoSuchNamespaceError(schema)
        spelled = schema if schema in spellings else spellings[0]
        rows = select(IcebergNamespaceProperties.property_key).where(
            IcebergNamespaceProperties.catalog_name == self.name,
            IcebergNamespaceProperties.namespace == spelled,
        )
        if connection.execute(rows.with_for_update()).first() is None:
            # Other engines' schemas may exist by their tables only, and this one may be gone by now.
            if not _spellings(connection, self.name, schema):
                raise NoSuchNamespaceError(schema)
            values = {"property_key": "exists", "property_value": "true"}
            statement = insert(IcebergNamespaceProperties)
            connection.execute(statement.values(catalog_name=self.name, namespace=spelled, **values))
        return spelled

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self.engine.connect().execution_options(**self._read_options) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._unavailable() from error

    def _writing(
        self, change: Callable[[Connection], None], is_done: Callable[[Connection], bool | None]
    ) -> None:
        """Run one transaction of the database.

        Args:
            change: What it does; where this raises, nothing takes place.
            is_done: Asked in another transaction whether it took place when the answer to its end was lost;
                None where that cannot be told.

        Raises:
            CommitFailedException: Another writer was faster.
            StorageError: The database failed; nothing was changed.
            CommitStateUnknownException: It is open whether anything was changed.
        """
        try:
            with self._transaction() as connection:
                change(connection)
                try:
                    connection.commit()
                except SQLAlchemyError as error:
                    connection.invalidate()
                    lost = error
                else:
                    return
        except IntegrityError as error:
            raise CommitFailedException("another writer was faster") from error
        except SQLAlchemyError as error:
            if getattr(getattr(error, "orig", None), "sqlstate", None) in _LOST_RACES:
                raise CommitFailedException("another writer was faster") from error
            raise self._unavailable() from error
        if not self._took_place(is_done):
            raise self._unavailable() from lost

    def _transaction(self) -> Connection:
        return self.engine.connect().execution_options(**self._write_options)

    def _took_place(self, is_done: Callable[[Connection], bool | None]) -> bool:
        for pause in _LOOK_AGAIN_PAUSES_S:
            time.sleep(pause)
            with suppress(SQLAlchemyError, StorageError), self._transaction() as connection:
                done = is_done(connection)
                if done is not None:
                    return done
        raise CommitStateUnknownException("the database did not say whether a change took place")

    def _unavailable(self) -> StorageError:
        return StorageError(f"the database of catalog '{self.name}' did not answer", "try again later")


def open_sql(settings: CatalogConnection, bucket: Bucket) -> SqlTableCatalog:
    """The tables of a database.

    Raises:
        ConfigError: It cannot be used.
    """
    return SqlTableCatalog(settings.name, settings.location(), bucket, settings.warehouse)


@contextmanager
def _opening(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"the database of catalog '{name}' needs the package {error.name}, which is not installed",
            extra("sql"),
        ) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"catalog.uri of catalog '{name}' is not the URL of a database") from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"the database of catalog '{name}' cannot be opened: {reason}") from error


def _spellings(connection: Connection, catalog: str, schema: str | None = None) -> list[str]:
    """How schemas are spelled: those of a name in any case, or all."""
    found: set[str] = set()
    for column, owner in (
        (IcebergNamespaceProperties.namespace, IcebergNamespaceProperties.catalog_name),
        (IcebergTables.table_namespace, IcebergTables.catalog_name),
    ):
        statement = select(column).distinct().where(owner == catalog)
        if schema is not None:
            statement = statement.where(func.lower(column) == func.lower(fold(schema)))
        found.update(connection.execute(statement).scalars())
    return sorted(name for name in found if schema is None or fold(name) == fold(schema))


def _check_length(name: str, what: str) -> str:
    if len(name) > _MAX_NAME:
        raise InvalidRequest(
            f"the {what} name has {len(name)} characters, expected at most {_MAX_NAME} in a catalog of type "
            '"sql"'
        )
    return name


def _leave_transactions_alone(connection: Any, _: Any) -> None:
    """SQLite's driver begins transactions late, so that what was read before is not part of them."""
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    """Take SQLite's one lock for writers at the beginning: taken later, it can be refused at once."""
    reads = connection.get_execution_options().get(_READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _refuse(reason: str) -> NoReturn:
    raise NotImplementedError(reason)
