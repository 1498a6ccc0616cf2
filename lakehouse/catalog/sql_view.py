"""Views: names for queries, kept as the Iceberg view specification has them (version 1)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.view.metadata import (
    SQLViewRepresentation,
    ViewHistoryEntry,
    ViewMetadata,
    ViewRepresentation,
    ViewVersion,
)

from lakehouse.catalog.iceberg_types import duckdb_type, iceberg_schema
from lakehouse.catalog.slots import NAME_PROPERTY
from lakehouse.types import TableName

DIALECT = "duckdb"
_DESCRIPTION_PROPERTY = "comment"
_KEPT_VERSIONS = 10


@dataclass(frozen=True, slots=True)
class SqlView:
    """One version of a view.

    Attributes:
        name: The full name, spelled as it was when the view was created.
        uuid: What tells it from other views of that name.
        version: Grows whenever the view is replaced.
        sql: The query, every table in it by its full name; empty where there is none for this engine.
        columns: Names and DuckDB types of what it gave when it was made.
        description: What it is, in words.
    """

    name: TableName
    uuid: str
    version: int
    sql: str
    columns: tuple[tuple[str, str], ...]
    description: str | None = None


def as_view(name: TableName, metadata: ViewMetadata) -> SqlView:
    """A view as its metadata describes it."""
    (current,) = [v for v in metadata.versions if v.version_id == metadata.current_version_id]
    texts = [r.root.sql for r in current.representations if r.root.dialect.lower() == DIALECT]
    description = metadata.properties.get(_DESCRIPTION_PROPERTY)
    columns: tuple[tuple[str, str], ...] = ()
    for schema in metadata.schemas:
        if schema.schema_id == current.schema_id:
            columns = tuple((field.name, duckdb_type(field.field_type)) for field in schema.fields)
    text = texts[0] if texts else ""
    return SqlView(name, metadata.view_uuid, current.version_id, text, columns, description)


def new_version(
    old: ViewMetadata | None, name: TableName, location: str, sql: str, columns: pa.Schema, timestamp_ms: int
) -> ViewMetadata:
    """The metadata of a view that is created, or replaced by another query.

    Args:
        old: The view that is replaced.
        name: Its full name.
        location: The URI under which it is kept.
        sql: The query, every table in it by its full name.
        columns: What it gives, of storable types.
        timestamp_ms: Now.
    """
    ids = count(1)
    schema = iceberg_schema(columns, lambda: next(ids))
    number = old.current_version_id + 1 if old else 1
    schemas: list[Schema] = [*old.schemas] if old else []
    schema_id = max((each.schema_id for each in schemas), default=-1) + 1
    schemas.append(schema.model_copy(update={"schema_id": schema_id}))
    representation = SQLViewRepresentation(type="sql", sql=sql, dialect=DIALECT)
    version = ViewVersion(
        version_id=number,
        schema_id=schema_id,
        timestamp_ms=timestamp_ms,
        summary={"engine-name": "lakehouse"},
        representations=[ViewRepresentation(root=representation)],
        default_catalog=name.catalog,
        default_namespace=[name.schema],
    )
    versions: Sequence[ViewVersion] = [*(old.versions if old else ()), version][-_KEPT_VERSIONS:]
    used = {each.schema_id for each in versions}
    kept = dict(old.properties) if old else {NAME_PROPERTY: name.table}
    log = [ViewHistoryEntry(timestamp_ms=v.timestamp_ms, version_id=v.version_id) for v in versions]
    return ViewMetadata(
        view_uuid=old.view_uuid if old else str(uuid.uuid4()),
        format_version=1,
        location=location,
        schemas=[each for each in schemas if each.schema_id in used],
        current_version_id=number,
        versions=list(versions),
        version_log=log,
        properties=kept,
    )


def described_as(old: ViewMetadata, description: str | None) -> ViewMetadata:
    """The view with another description; without words it has none."""
    rest = {key: value for key, value in old.properties.items() if key != _DESCRIPTION_PROPERTY}
    told = {_DESCRIPTION_PROPERTY: description} if description else {}
    return old.model_copy(update={"properties": {**rest, **told}})
