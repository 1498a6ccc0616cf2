"""Changes of what a table is declared to be, one at a time, after which every file of it reads right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import ResolveError, ValidationError
from pyiceberg.schema import Schema, promote
from pyiceberg.table import StagedTable, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from lakehouse.catalog import iceberg_types
from lakehouse.catalog.metadata_update import SharingTransaction
from lakehouse.catalog.names import check_name, fold
from lakehouse.catalog.table import (
    DEFAULT_PROPERTY,
    FOREIGN_KEYS_PROPERTY,
    PRIMARY_KEY_PROPERTY,
    Table,
    foreign_keys_from_json,
    foreign_keys_to_json,
)
from lakehouse.catalog.table_change import stage_updates
from lakehouse.catalog.table_definition import (
    Columns,
    SortTerm,
    Term,
    partition_updates,
    sort_updates,
    used_columns,
)
from lakehouse.errors import CommitConflict, NotSupported, SchemaMismatch
from lakehouse.types import ForeignKey, TableName

Path = tuple[str, ...]
"""The name of a column, or of a field within it: its column's name first."""


@dataclass(frozen=True, slots=True)
class AddColumn:
    """One column or field more, of a storable type. In rows that are there already it is NULL."""

    path: Path
    type: pa.DataType
    required: bool = False
    default: str | None = None
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropColumn:
    """One column or field less."""

    path: Path
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """Another name for a column."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class RetypeColumn:
    """A wider type for a column or field; its values stay what they are."""

    path: Path
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class RequireColumn:
    """Whether a column must have values.

    ``snapshot_id`` is the snapshot that was looked through and has no NULL in the column.
    """

    path: Path
    required: bool
    snapshot_id: int | None = None


@dataclass(frozen=True, slots=True)
class DefaultColumn:
    """The SQL of what an INSERT gives a column that it leaves out; None for NULL."""

    path: Path
    default: str | None


@dataclass(frozen=True, slots=True)
class SetPartitioning:
    """What new files are partitioned by; the old ones stay as they are."""

    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class SetSorting:
    """What new files are to be sorted by."""

    terms: tuple[SortTerm, ...]


@dataclass(frozen=True, slots=True)
class AddPrimaryKey:
    """A declared, not enforced, primary key."""

    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddForeignKey:
    """One more declared, not enforced, foreign key."""

    key: ForeignKey


Alteration = (
    AddColumn
    | DropColumn
    | RenameColumn
    | RetypeColumn
    | RequireColumn
    | DefaultColumn
    | SetPartitioning
    | SetSorting
    | AddPrimaryKey
    | AddForeignKey
)


def alter(transaction: Transaction, name: TableName, change: Alteration) -> None:
    """Stage a change on a transaction.

    Raises:
        SchemaMismatch: It does not fit the table.
        NotSupported: Rows or files that are there could not be read right afterwards.
        CommitConflict: Rows were added since they were looked through.
    """
    work = _Alteration(transaction, name)
    try:
        work.apply(change)
    except (ValueError, ResolveError, ValidationError) as error:
        raise SchemaMismatch(f"table '{name}' cannot be changed like this: {error}") from error


def altered(table: Table, changes: Sequence[Alteration]) -> TableMetadata:
    """The metadata that a version of a table has after changes, which take place nowhere.

    Raises:
        SchemaMismatch, NotSupported: As for ``alter``.
    """
    unkept: Any = None
    version = StagedTable((table.name.schema, table.name.table), table.metadata, "", unkept, unkept)
    transaction = SharingTransaction(version)
    for change in changes:
        alter(transaction, table.name, change)
    return transaction.table_metadata


class _Alteration:
    """The state of changing one table."""

    def __init__(self, transaction: Transaction, name: TableName) -> None:
        self._transaction = transaction
        self._name = name
        self._before: TableMetadata = transaction.table_metadata
        self._schema: Schema = self._before.schema()
        self._columns = Columns(self._schema, f"table '{name}'")

    def apply(self, change: Alteration) -> None:
        match change:
            case AddColumn():
                self._add(change)
            case DropColumn():
                self._drop(change)
            case RenameColumn():
                self._rename(change)
            case RetypeColumn():
                self._retype(change)
            case RequireColumn():
                self._require(change)
            case DefaultColumn():
                self._default(self._column(change.path, "a default"), change.default)
            case SetPartitioning():
                self._check_version()
                stage_updates(self._transaction, partition_updates(self._before, change.terms))
            case SetSorting():
                stage_updates(self._transaction, sort_updates(self._before, change.terms))
            case AddPrimaryKey():
                self._primary_key(change.columns)
            case AddForeignKey():
                self._foreign_keys([*self._keys(), self._spelled(change.key)])

    # -- columns ---------------------------------------------------------------------------------------

    def _add(self, change: AddColumn) -> None:
        check_name(change.path[-1], "column")
        parent, siblings = self._parent(change.path)
        known = {fold(field.name): field for field in siblings}.get(fold(change.path[-1]))
        if known is not None:
            if change.if_not_exists:
                return
            raise SchemaMismatch(
                f"table '{self._name}' has a column '{'.'.join((*parent, known.name))}' already"
            )
        what = "NOT NULL" if change.required else "a default" if change.default is not None else ""
        if what and parent:
            raise NotSupported(f"a field within a column cannot have {what}")
        if what and self._has_rows():
            raise NotSupported(
                f"table '{self._name}' has rows, in which a new column is NULL: it cannot come with {what}",
                "add the column alone, UPDATE the rows, then ALTER COLUMN … SET",
            )
        kind = _iceberg_type(change.type, change.path[-1])
        with self._transaction.update_schema(allow_incompatible_changes=True) as update:
            update.add_column((*parent, change.path[-1]), kind, required=change.required)
        self._check_readable(f"field '{'.'.join(change.path)}' cannot be added")
        if change.default is not None:
            after = Columns(self._transaction.table_metadata.schema(), f"table '{self._name}'")
            self._default(after.find(change.path[-1]), change.default)

    def _drop(self, change: DropColumn) -> None:
        try:
            path, field = self._find(change.path)
        except SchemaMismatch:
            if change.if_exists:
                return
            raise
        _, siblings = self._parent(change.path)
        if len(siblings) == 1:
            raise SchemaMismatch(f"'{'.'.join(path)}' cannot be dropped: nothing would be left beside it")
        self._check_unused(field, "dropped")
        for key in self._keys():
            if len(path) == 1 and any(fold(name) == fold(field.name) for name in self._own_columns(key)):
                raise SchemaMismatch(
                    f"column '{field.name}' cannot be dropped: it belongs to foreign key '{key.name}'",
                    "set other keys by the action catalog.declare_keys first",
                )
        self._default(field, None)
        with self._transaction.update_schema() as update:
            update.delete_column(path)
        self._check_readable(f"'{'.'.join(path)}' cannot be dropped")

    def _rename(self, change: RenameColumn) -> None:
        path, field = self._find(change.path)
        if len(path) > 1:
            raise NotSupported(
                f"'{'.'.join(path)}' cannot be renamed: fields within columns are found by name in files",
                "add a field of the new name, or CREATE OR REPLACE TABLE … AS SELECT",
            )
        check_name(change.name, "column")
        if any(fold(f.name) == fold(change.name) and f is not field for f in self._schema.fields):
            raise SchemaMismatch(f"table '{self._name}' has a column '{change.name}' already")
        with self._transaction.update_schema() as update:
            update.rename_column(path, change.name)
        keys = self._keys()
        if keys:
            self._foreign_keys([self._renamed(key, field.name, change.name) for key in keys])

    def _retype(self, change: RetypeColumn) -> None:
        path, field = self._find(change.path)
        kind = _iceberg_type(change.type, path[-1])
        if kind == field.field_type:
            return
        try:
            promote(field.field_type, kind)
        except ResolveError as error:
            raise SchemaMismatch(
                f"column '{'.'.join(path)}' is of the type {iceberg_types.duckdb_type(field.field_type)} and "
                f"cannot become {iceberg_types.duckdb_type(kind)}",
                "INTEGER can become BIGINT, FLOAT DOUBLE, a DECIMAL one of more digits and the same scale; "
                "for other types CREATE OR REPLACE TABLE … AS SELECT with a cast",
            ) from error
        if any(field_id == field.field_id and verb for field_id, verb in used_columns(self._before)):
            raise NotSupported(f"column '{path[-1]}' has partitions, so its type cannot be changed")
        with self._transaction.update_schema() as update:
            update.update_column(path, field_type=kind)

    def _require(self, change: RequireColumn) -> None:
        field = self._column(change.path, "NOT NULL")
        if field.required == change.required:
            return
        if not change.required and field.field_id in self._schema.identifier_field_ids:
            raise SchemaMismatch(f"column '{field.name}' belongs to the primary key, so it cannot be NULL")
        if change.required and self._before.current_snapshot_id != change.snapshot_id:
            raise CommitConflict(
                f"rows of table '{self._name}' were changed at the same time; nothing was changed",
                "try again",
            )
        with self._transaction.update_schema(allow_incompatible_changes=True) as update:
            update.update_column((field.name,), required=change.required)

    def _default(self, field: NestedField, default: str | None) -> None:
        key = f"{DEFAULT_PROPERTY}{field.field_id}"
        if default is not None:
            self._transaction.set_properties({key: default})
        elif key in self._before.properties:
            self._transaction.remove_properties(key)

    # -- keys ------------------------------------------------------------------------------------------

    def _primary_key(self, columns: Sequence[str]) -> None:
        if self._schema.identifier_field_ids:
            raise SchemaMismatch(f"table '{self._name}' has a primary key already")
        fields = [self._columns.key_column(column) for column in columns]
        with self._transaction.update_schema() as update:
            update.set_identifier_fields(*(field.name for field in fields))
        ids = ",".join(str(field.field_id) for field in fields)
        self._transaction.set_properties({PRIMARY_KEY_PROPERTY: ids})

    def _keys(self) -> tuple[ForeignKey, ...]:
        return foreign_keys_from_json(self._before.properties.get(FOREIGN_KEYS_PROPERTY))

    def _foreign_keys(self, keys: Sequence[ForeignKey]) -> None:
        self._transaction.set_properties({FOREIGN_KEYS_PROPERTY: foreign_keys_to_json(keys)})

    def _spelled(self, key: ForeignKey) -> ForeignKey:
        return replace(key, columns=tuple(self._columns.spelled(name) for name in key.columns))

    def _is_own(self, key: ForeignKey) -> bool:
        own = (fold(self._name.schema), fold(self._name.table))
        return (fold(key.ref_schema), fold(key.ref_table)) == own

    def _own_columns(self, key: ForeignKey) -> tuple[str, ...]:
        """The columns of this table that a key names."""
        return key.columns + (key.ref_columns if self._is_own(key) else ())

    def _renamed(self, key: ForeignKey, old: str, new: str) -> ForeignKey:
        def names(columns: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(new if fold(name) == fold(old) else name for name in columns)

        ref_columns = names(key.ref_columns) if self._is_own(key) else key.ref_columns
        return replace(key, columns=names(key.columns), ref_columns=ref_columns)

    # -- what is there ---------------------------------------------------------------------------------

    def _column(self, path: Path, what: str) -> NestedField:
        """A column that is not within another."""
        _, field = self._find(path)
        if len(path) > 1:
            raise NotSupported(f"a field within a column cannot have {what}, found '{'.'.join(path)}'")
        return field

    def _find(self, path: Path) -> tuple[Path, NestedField]:
        """The full path of a column or field as the table spells it, and the field itself."""
        parent, siblings = self._parent(path)
        found = {fold(field.name): field for field in siblings}.get(fold(path[-1]))
        if found is None:
            if len(path) == 1:
                self._columns.find(path[0])
            raise SchemaMismatch(f"column '{'.'.join(parent)}' has no field '{path[-1]}'")
        return (*parent, found.name), found

    def _parent(self, path: Path) -> tuple[Path, Sequence[NestedField]]:
        """Where a field is or would be: the path of what encloses it, and the fields that are there."""
        parent: Path = ()
        siblings: Sequence[NestedField] = self._schema.fields
        for depth, name in enumerate(path[:-1]):
            found = {fold(field.name): field for field in siblings}.get(fold(name))
            if found is None:
                if depth == 0:
                    self._columns.find(name)
                raise SchemaMismatch(f"column '{'.'.join(parent)}' has no field '{name}'")
            parent, kind = (*parent, found.name), found.field_type
            while isinstance(kind, ListType | MapType):
                step = "element" if isinstance(kind, ListType) else "value"
                parent, kind = (*parent, step), _within(kind)
            if not isinstance(kind, StructType):
                raise SchemaMismatch(
                    f"column '{'.'.join(parent)}' is of the type {kind}, which has no fields"
                )
            siblings = kind.fields
        return parent, siblings

    def _has_rows(self) -> bool:
        snapshot = self._before.current_snapshot()
        summary = snapshot.summary if snapshot else None
        return snapshot is not None and (summary is None or summary["total-records"] != "0")

    def _check_unused(self, field: NestedField, verb: str) -> None:
        if field.field_id in self._schema.identifier_field_ids:
            raise SchemaMismatch(f"column '{field.name}' cannot be {verb}: it belongs to the primary key")
        for field_id, use in used_columns(self._before):
            if field_id == field.field_id and use:
                raise SchemaMismatch(
                    f"column '{field.name}' cannot be {verb}: the table {use} partitioned by it",
                    "CREATE OR REPLACE TABLE … AS SELECT without it",
                )
            if field_id == field.field_id:
                raise SchemaMismatch(
                    f"column '{field.name}' cannot be {verb}: the table is sorted by it",
                    "ALTER TABLE … RESET SORTED BY first",
                )

    def _check_readable(self, what: str) -> None:
        """Make sure that the table can still be read once it has its new schema."""
        after = self._transaction.table_metadata
        try:
            iceberg_types.check_nested_names(after.schema(), self._before.schemas)
            iceberg_types.read_schema_sql(after.schema())
        except NotSupported as error:
            raise NotSupported(
                f"{what}: older files of table '{self._name}' would not be read right ({error.message})",
                "choose a name that was not used before, or CREATE OR REPLACE TABLE … AS SELECT",
            ) from error

    def _check_version(self) -> None:
        if self._before.format_version != 2:
            raise NotSupported(
                f"table '{self._name}' is of format version {self._before.format_version}; "
                "its partitions can be changed in version 2 only"
            )


def _within(kind: ListType | MapType) -> IcebergType:
    return kind.element_type if isinstance(kind, ListType) else kind.value_type


def _iceberg_type(kind: pa.DataType, column: str) -> IcebergType:
    next_id: Callable[[], int] = iter(range(1, 1_000_000)).__next__
    return iceberg_types.iceberg_schema(pa.schema([pa.field(column, kind)]), next_id).fields[0].field_type
