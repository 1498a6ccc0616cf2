"""What a source says of itself, as what the table that is made of it is declared to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pyarrow import types

from lakehouse.access.guarded_catalog import GuardedCatalog
from lakehouse.catalog.arrow_types import storable_schema
from lakehouse.catalog.names import fold
from lakehouse.catalog.table_definition import TableDefinition
from lakehouse.ingest.sources.source import Inspection
from lakehouse.types import ForeignKey, TableName


def definition(
    inspection: Inspection, keys: tuple[str, ...], target: TableName, lake: GuardedCatalog
) -> TableDefinition:
    """What a table is declared to be that is made of a source, or that is replaced by it.

    Args:
        inspection: What was found out of the source.
        keys: The columns of the primary key.
        target: The table.
        lake: Where it is, as the caller sees it.
    """
    return TableDefinition(
        storable_schema(inspection.schema),
        primary_key=keys,
        foreign_keys=tuple(_references(inspection, target, lake)),
        description=inspection.description,
        docs={column.name: column.description for column in inspection.columns if column.description},
        keeps_rest=True,
    )


def with_required(inspection: Inspection, keys: tuple[str, ...]) -> Inspection:
    """The inspection with values required in the columns of the key."""
    key = {fold(name) for name in keys}
    columns = tuple(replace(c, nullable=c.nullable and fold(c.name) not in key) for c in inspection.columns)
    return replace(inspection, columns=columns)


def can_be_key(inspection: Inspection, keys: tuple[str, ...]) -> bool:
    """Whether some columns come and are of types that a declared key can have."""
    coming = {fold(column.name): column.type for column in inspection.columns}
    kinds = [coming.get(fold(key)) for key in keys]
    return not any(
        kind is None or types.is_floating(kind) or types.is_nested(kind) or types.is_null(kind)
        for kind in kinds
    )


def _references(inspection: Inspection, target: TableName, lake: GuardedCatalog) -> Iterator[ForeignKey]:
    """Foreign keys to tables that are in the lake, in the schema of that name or beside the table."""
    for key in inspection.foreign_keys:
        for schema in (key.ref_schema, target.schema):
            itself = (fold(schema), fold(key.ref_table)) == (fold(target.schema), fold(target.table))
            if itself or lake.table_exists(schema, key.ref_table):
                yield replace(key, ref_schema=schema)
                break
