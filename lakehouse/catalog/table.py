"""An immutable view of one version of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import NullOrder, SortDirection

from lakehouse.catalog import iceberg_types
from lakehouse.catalog.file_filter import Condition, may_match
from lakehouse.catalog.names import fold
from lakehouse.catalog.snapshot_files import FilePlanner
from lakehouse.errors import SnapshotNotFound
from lakehouse.types import DataFileRef, ForeignKey, TableName

FOREIGN_KEYS_PROPERTY = "lakehouse.foreign-keys"
PRIMARY_KEY_PROPERTY = "lakehouse.primary-key"
DESCRIPTION_PROPERTY = "comment"
DEFAULT_PROPERTY = "lakehouse.default."
"""Begins the names of properties that hold the SQL of a column's default value; the field id follows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed state of a table; ``timestamp`` is in UTC."""

    snapshot_id: int
    schema_id: int
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Reference:
    """A name for a snapshot: a ``tag``, which stays, or a ``branch``, which moves with commits to it."""

    name: str
    kind: str
    snapshot_id: int


@dataclass(frozen=True, slots=True)
class SortColumn:
    """One part of the order that the rows of a file are in."""

    column: str
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, eq=False)
class Table:
    """One version of a table, as it was when it was loaded. Later commits never show in it.

    Args:
        name: The full name, spelled as it was when the table was created.
        metadata: The Iceberg metadata of this version.
        planner: Finds the data files of snapshots.
        staged: Files of a transaction that is not committed; None for a committed version.
        replacement: Names the replacement of the whole table that is staged; empty when there is none.
        draft: Names the change of its columns that is staged; empty when there is none.
        removed: Files of the committed version that a transaction removes, by what the table calls them.
        is_rescued: Whether this may be an older version, because the bucket itself could not be asked.
    """

    name: TableName
    metadata: TableMetadata
    planner: FilePlanner
    staged: tuple[DataFileRef, ...] | None = None
    replacement: str = ""
    removed: Mapping[str, DataFileRef] = field(default_factory=dict)
    is_rescued: bool = False
    draft: str = ""

    @cached_property
    def uuid(self) -> str:
        """What tells this table from others that had the same name, and from what it is staged to become."""
        return f"{self.metadata.table_uuid}{self.replacement}{self.draft}"

    @cached_property
    def schema_id(self) -> int:
        """The current schema."""
        return self.metadata.current_schema_id

    @cached_property
    def snapshot_id(self) -> int | None:
        """The current snapshot; None for a table that never had rows, and with files that are only staged."""
        return self.metadata.current_snapshot_id if self.staged is None else None

    def arrow_schema(self, schema_id: int | None = None) -> pa.Schema:
        """Exactly what the SQL engine returns for a scan; required columns are not nullable.

        Raises:
            NotSupported: A column's type cannot be read.
        """
        key = self.schema_id if schema_id is None else schema_id
        if key not in self._arrow_schemas:
            self._arrow_schemas[key] = iceberg_types.result_schema(self._schema(key))
        return self._arrow_schemas[key]

    def read_schema_sql(self, schema_id: int | None = None) -> str:
        """The DuckDB literal for ``read_parquet(…, schema = …)``: columns by field id.

        Raises:
            NotSupported: A column, or a field within one, cannot be read right.
        """
        key = self.schema_id if schema_id is None else schema_id
        if key not in self._read_schemas:
            schema = self._schema(key)
            iceberg_types.check_nested_names(schema, self.metadata.schemas)
            self._read_schemas[key] = iceberg_types.read_schema_sql(schema)
        return self._read_schemas[key]

    def plain_columns(self) -> tuple[tuple[str, str], ...] | None:
        """Names and DuckDB types of the columns where they can be read by name, else ``None``.

        That is so where the table has had one schema only, of primitive columns whose names every writer
        leaves as they are. DuckDB then knows how many rows there are, which it does not when reading by id.
        """
        schema = self._schema(self.schema_id)
        if len(self.metadata.schemas) != 1 or not iceberg_types.is_plain(schema):
            return None
        return tuple((field.name, iceberg_types.duckdb_type(field.field_type)) for field in schema.fields)

    @property
    def files_differ(self) -> bool:
        """Whether a file may lack columns, or have them with narrower types."""
        return False

    def selected(self, file_column: str) -> str | None:
        """The columns as SQL, where some of them are made from the path of the file; else None.

        Args:
            file_column: The column that has the path.
        """
        return None

    def sql_columns(self) -> tuple[tuple[str, str], ...]:
        """Names and DuckDB types of the columns.

        Raises:
            NotSupported: A column's type cannot be read.
        """
        fields = self.metadata.schema().fields
        return tuple((field.name, iceberg_types.duckdb_type(field.field_type)) for field in fields)

    @property
    def required_columns(self) -> frozenset[str]:
        """The columns that are never NULL."""
        return frozenset(field.name for field in self.metadata.schema().fields if field.required)

    @cached_property
    def column_defaults(self) -> Mapping[str, str]:
        """The SQL text of the value that a column gets where none is given, for those that have one."""
        found = {
            field.name: self.metadata.properties.get(f"{DEFAULT_PROPERTY}{field.field_id}")
            for field in self.metadata.schema().fields
        }
        return {name: text for name, text in found.items() if text is not None}

    def files(self, snapshot_id: int | None = None) -> tuple[DataFileRef, ...]:
        """The data files of a snapshot, by default of the current one with what is staged on top.

        Raises:
            SnapshotNotFound: The table has none of that id.
            NotSupported: The snapshot has files other than Parquet.
        """
        if snapshot_id is not None:
            return self.planner.files(str(self.name), self.metadata, snapshot_id)
        current = self.metadata.current_snapshot_id
        if current is None or self.replacement:
            return self.staged or ()
        committed = self.planner.files(str(self.name), self.metadata, current)
        if self.removed:
            committed = tuple(file for file in committed if file.uri not in self.removed)
        return committed + self.staged if self.staged else committed

    def matching_files(
        self,
        condition: Condition,
        values: Mapping[str, Any] = MappingProxyType({}),
        snapshot_id: int | None = None,
        schema_id: int | None = None,
    ) -> tuple[DataFileRef, ...]:
        """Those of ``files`` that may hold a row of which a condition is true; what is staged always may.

        Args:
            condition: The condition, about columns of the schema.
            values: The values of its parameters, by name.
            snapshot_id: The snapshot, by default the current one with what is staged on top.
            schema_id: The schema in which the columns are named, by default the current one.

        Raises:
            SnapshotNotFound, NotSupported: As for ``files``.
        """
        files = self.files(snapshot_id)
        source = self.metadata.current_snapshot_id if snapshot_id is None else snapshot_id
        if source is None or not files or (self.replacement and snapshot_id is None):
            return files
        statistics = self.planner.statistics(str(self.name), self.metadata, source)
        schema = self._schema(self.schema_id if schema_id is None else schema_id)
        gone = set(statistics.uris[~may_match(condition, statistics, schema, values)])
        return tuple(file for file in files if file.uri not in gone) if gone else files

    def has_column(self, name: str, schema_id: int | None = None) -> bool:
        """Whether there is a column of that name, in whatever case."""
        schema = self._schema(self.schema_id if schema_id is None else schema_id)
        return any(fold(field.name) == fold(name) for field in schema.fields)

    def metadata_paths(self) -> tuple[str, ...]:
        """The paths of the manifest list and the manifests of the current committed snapshot."""
        return self.planner.metadata_paths(self.metadata)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """All snapshots that are kept, oldest first."""
        return self._snapshots

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """The tags and branches, sorted by name; ``main`` is the branch whose snapshot is the current one."""
        return tuple(
            Reference(name, ref.snapshot_ref_type.value, ref.snapshot_id)
            for name, ref in sorted(self.metadata.refs.items())
        )

    def snapshot_for(self, version: int | str | None = None, at: datetime | None = None) -> Snapshot:
        """The snapshot of that id or name, or the one that was current at a time.

        Args:
            version: A snapshot id, or the name of a tag or branch. A branch is read with the table's columns
                as they are now, as its rows would be if it were merged.
            at: A point in time; without a time zone it is in UTC.

        Raises:
            SnapshotNotFound: There is none, or neither was given.
        """
        if isinstance(version, str):
            return self._by_name(version)
        if version is not None:
            return self._by_id(version)
        if at is None:
            raise SnapshotNotFound(f"neither a version nor a time was given for table '{self.name}'")
        moment = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        log = [entry for entry in self.metadata.snapshot_log if _moment(entry.timestamp_ms) <= moment]
        if not log:
            first = self.metadata.snapshot_log[0].timestamp_ms if self.metadata.snapshot_log else None
            since = (
                f"its first snapshot is of {_moment(first).isoformat()}"
                if first
                else "it has no snapshot yet"
            )
            raise SnapshotNotFound(
                f"table '{self.name}' has no snapshot as old as {moment.isoformat()}; {since}"
            )
        return self._by_id(log[-1].snapshot_id)

    @cached_property
    def sort_columns(self) -> tuple[SortColumn, ...]:
        """The order in which rows are to be written, as far as it can be said by columns."""
        schema, found = self.metadata.schema(), []
        for part in self.metadata.sort_order().fields:
            name = schema.find_column_name(part.source_id)
            if name is None or not part.transform.preserves_order:
                break  # what comes after it orders rows that are equal in it
            descending = part.direction is SortDirection.DESC
            found.append(SortColumn(name, descending, part.null_order is NullOrder.NULLS_FIRST))
        return tuple(found)

    @cached_property
    def primary_key(self) -> tuple[str, ...]:
        """The columns of the declared, not enforced, primary key."""
        schema = self.metadata.schema()
        names = tuple(field.name for field in schema.fields if field.field_id in schema.identifier_field_ids)
        # Iceberg's identifier fields are a set; the property keeps the order in which they were declared.
        declared = self.metadata.properties.get(PRIMARY_KEY_PROPERTY, "").split(",")
        ids = {str(field.field_id): field.name for field in schema.fields if field.name in names}
        return tuple(ids[field_id] for field_id in declared) if set(declared) == set(ids) else names

    @cached_property
    def foreign_keys(self) -> tuple[ForeignKey, ...]:
        """The declared, not enforced, references to other tables."""
        return foreign_keys_from_json(self.metadata.properties.get(FOREIGN_KEYS_PROPERTY))

    @property
    def description(self) -> str | None:
        """What the table is, in words."""
        return self.metadata.properties.get(DESCRIPTION_PROPERTY)

    @cached_property
    def column_docs(self) -> Mapping[str, str]:
        """What the columns are, in words, for those that have a description."""
        return {field.name: field.doc for field in self.metadata.schema().fields if field.doc}

    @cached_property
    def record_count(self) -> int:
        """How many rows the table has."""
        current = self.metadata.current_snapshot_id
        if current is not None and not self.replacement and self._may_have_deletes():
            return self.planner.rows_left(self.files())
        removed = sum(file.rows for file in self.removed.values())
        return self._total("total-records") - removed + sum(file.rows for file in self.staged or ())

    @cached_property
    def size_bytes(self) -> int:
        """How large the table's data files are together."""
        removed = sum(file.size_bytes for file in self.removed.values())
        return self._total("total-files-size") - removed + sum(file.size_bytes for file in self.staged or ())

    @cached_property
    def _snapshots(self) -> tuple[Snapshot, ...]:
        found = (
            Snapshot(
                snapshot.snapshot_id,
                self.schema_id if snapshot.schema_id is None else snapshot.schema_id,
                _moment(snapshot.timestamp_ms),
            )
            for snapshot in self.metadata.snapshots
        )
        return tuple(sorted(found, key=lambda snapshot: snapshot.timestamp))

    @cached_property
    def _arrow_schemas(self) -> dict[int, pa.Schema]:
        return {}

    @cached_property
    def _read_schemas(self) -> dict[int, str]:
        return {}

    def _may_have_deletes(self) -> bool:
        snapshot = self.metadata.current_snapshot()
        told = snapshot.summary["total-delete-files"] if snapshot and snapshot.summary else None
        return told != "0" and any(file.deletes for file in self.files())

    def _schema(self, schema_id: int) -> Schema:
        return self.metadata.schema_by_id(schema_id) or self.metadata.schema()

    def _by_id(self, snapshot_id: int) -> Snapshot:
        for snapshot in self._snapshots:
            if snapshot.snapshot_id == snapshot_id:
                return snapshot
        raise SnapshotNotFound(
            f"table '{self.name}' has no snapshot {snapshot_id}",
            "it may have been expired, or belong to another table",
        )

    def _by_name(self, name: str) -> Snapshot:
        found = next((reference for reference in self.references if reference.name == name), None)
        if found is not None:
            snapshot = self._by_id(found.snapshot_id)
            return replace(snapshot, schema_id=self.schema_id) if found.kind == "branch" else snapshot
        if name.isascii() and name.isdigit():
            return self._by_id(int(name))
        names = [reference.name for reference in self.references]
        near = get_close_matches(name, names, 1, 0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names[:10])}" if names else ""
        raise SnapshotNotFound(f"table '{self.name}' has no tag or branch '{name}'", hint)

    def _total(self, measure: str) -> int:
        snapshot = self.metadata.current_snapshot()
        if self.replacement or snapshot is None:
            return 0
        told = snapshot.summary[measure] if snapshot.summary else None
        if told is not None:
            return int(told)
        files = self.files(snapshot.snapshot_id)
        return sum(file.rows if measure == "total-records" else file.size_bytes for file in files)


def foreign_keys_to_json(keys: Sequence[ForeignKey]) -> str:
    """Foreign keys as the table property holds them."""
    return json.dumps(
        [
            {
                "name": key.name,
                "columns": list(key.columns),
                "references": {
                    "schema": key.ref_schema,
                    "table": key.ref_table,
                    "columns": list(key.ref_columns),
                },
            }
            for key in keys
        ],
        ensure_ascii=False,
    )


def foreign_keys_from_json(text: str | None) -> tuple[ForeignKey, ...]:
    """Foreign keys from the table property; none where another program left something else in it."""
    try:
        return tuple(
            ForeignKey(
                key["name"],
                tuple(key["columns"]),
                key["references"]["schema"],
                key["references"]["table"],
                tuple(key["references"]["columns"]),
            )
            for key in json.loads(text or "[]")
        )
    except (ValueError, TypeError, KeyError):
        return ()


def _moment(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
