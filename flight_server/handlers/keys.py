"""GetPrimaryKeys, GetExportedKeys, GetImportedKeys, GetCrossReference: keys that are declared, not enforced.

A table that does not exist has no keys, as JDBC expects, rather than being an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flight_server.context import CallContext
from flight_server.dispatch import QueryHandler
from flight_server.metadata_query import Row, of_rows
from flight_server.protocol.commands import (
    GetCrossReference,
    GetExportedKeys,
    GetImportedKeys,
    GetPrimaryKeys,
)
from flight_server.protocol.result_schemas import GET_KEYS, GET_PRIMARY_KEYS
from lakehouse.access.guarded_catalog import GuardedCatalog
from lakehouse.catalog import Table
from lakehouse.catalog.names import fold
from lakehouse.errors import InvalidRequest, SchemaNotFound, TableNotFound
from lakehouse.types import ForeignKey, TableName

_NO_ACTION = 3


def primary_keys(ctx: CallContext, command: GetPrimaryKeys) -> list[Row]:
    """The columns of the primary key of every table of that name, in key order."""
    rows = [
        {
            "catalog_name": table.name.catalog,
            "db_schema_name": table.name.schema,
            "table_name": table.name.table,
            "column_name": column,
            "key_sequence": place,
            "key_name": _primary_key_name(table),
        }
        for table in _named(ctx, command.catalog, command.schema, command.table)
        for place, column in enumerate(table.primary_key, start=1)
    ]
    return _sorted(rows, "catalog_name", "db_schema_name", "table_name", "key_name")


def exported_keys(ctx: CallContext, command: GetExportedKeys) -> list[Row]:
    """The foreign keys of all tables that refer to the named one."""
    targets = {
        _identity(table): table for table in _named(ctx, command.catalog, command.schema, command.table)
    }
    rows = [
        row
        for table in (_all(ctx) if targets else ())
        for key in table.foreign_keys
        if _reference(table, key) in targets
        for row in _key_rows(table, key, targets[_reference(table, key)])
    ]
    return _sorted(rows, "fk_catalog_name", "fk_db_schema_name", "fk_table_name", "fk_key_name")


def imported_keys(ctx: CallContext, command: GetImportedKeys) -> list[Row]:
    """The foreign keys of the named table."""
    rows = [
        row
        for table in _named(ctx, command.catalog, command.schema, command.table)
        for key in table.foreign_keys
        if ctx.session.access.table(TableName(table.name.catalog, key.ref_schema, key.ref_table)).read
        for row in _key_rows(table, key, _load(ctx.lake(table.name), key.ref_schema, key.ref_table))
    ]
    return _sorted(rows, "pk_catalog_name", "pk_db_schema_name", "pk_table_name", "pk_key_name")


def cross_reference(ctx: CallContext, command: GetCrossReference) -> list[Row]:
    """The foreign keys of one table that refer to another."""
    targets = {
        _identity(table): table
        for table in _named(ctx, command.pk_catalog, command.pk_schema, command.pk_table)
    }
    rows = [
        row
        for table in _named(ctx, command.fk_catalog, command.fk_schema, command.fk_table)
        for key in table.foreign_keys
        if _reference(table, key) in targets
        for row in _key_rows(table, key, targets[_reference(table, key)])
    ]
    return _sorted(rows, "pk_catalog_name", "pk_db_schema_name", "pk_table_name", "pk_key_name")


def _key_rows(table: Table, key: ForeignKey, target: Table | None) -> Iterator[dict[str, Any]]:
    """One row for each pair of columns; ``target`` is None where the table referred to is gone."""
    for place, (column, ref_column) in enumerate(zip(key.columns, key.ref_columns, strict=False), start=1):
        yield {
            "pk_catalog_name": table.name.catalog,
            "pk_db_schema_name": target.name.schema if target else key.ref_schema,
            "pk_table_name": target.name.table if target else key.ref_table,
            "pk_column_name": ref_column,
            "fk_catalog_name": table.name.catalog,
            "fk_db_schema_name": table.name.schema,
            "fk_table_name": table.name.table,
            "fk_column_name": column,
            "key_sequence": place,
            "fk_key_name": key.name or f"{table.name.table}_{'_'.join(key.columns)}_fkey",
            "pk_key_name": _referenced_key_name(key, target),
            "update_rule": _NO_ACTION,
            "delete_rule": _NO_ACTION,
        }


def _primary_key_name(table: Table) -> str:
    return f"{table.name.table}_pkey"


def _referenced_key_name(key: ForeignKey, target: Table | None) -> str | None:
    """The name of the primary key, where it is that which the foreign key refers to."""
    if target is None or {fold(c) for c in target.primary_key} != {fold(c) for c in key.ref_columns}:
        return None
    return _primary_key_name(target)


def _named(ctx: CallContext, catalog: str | None, schema: str | None, table: str) -> Iterator[Table]:
    """The tables of that name: at most one, or one in each schema and catalog where none is given."""
    for lake in ctx.lakes:
        if catalog is not None and fold(catalog) != fold(lake.name):
            continue
        for name in lake.schemas() if schema is None else (schema,):
            found = _load(lake, name, table)
            if found is not None:
                yield found


def _all(ctx: CallContext) -> Iterator[Table]:
    for lake in ctx.lakes:
        for schema in lake.schemas():
            try:
                names = lake.tables(schema)
            except SchemaNotFound:
                continue
            for name in names:
                found = _load(lake, schema, name)
                if found is not None:
                    yield found


def _load(lake: GuardedCatalog, schema: str, table: str) -> Table | None:
    """A table; None where there is none, or could be none of that name."""
    try:
        return lake.load(schema, table)
    except (SchemaNotFound, TableNotFound, InvalidRequest):
        return None


def _identity(table: Table) -> tuple[str, str, str]:
    return table.name.catalog, fold(table.name.schema), fold(table.name.table)


def _reference(table: Table, key: ForeignKey) -> tuple[str, str, str]:
    return table.name.catalog, fold(key.ref_schema), fold(key.ref_table)


def _sorted(rows: list[dict[str, Any]], *columns: str) -> list[Row]:
    return sorted(rows, key=lambda row: (*(row[column] or "" for column in columns), row["key_sequence"]))


def query_handlers() -> dict[type, QueryHandler]:
    """Who answers GetFlightInfo, GetSchema and DoGet."""
    return {
        GetPrimaryKeys: of_rows(GET_PRIMARY_KEYS, primary_keys),
        GetExportedKeys: of_rows(GET_KEYS, exported_keys),
        GetImportedKeys: of_rows(GET_KEYS, imported_keys),
        GetCrossReference: of_rows(GET_KEYS, cross_reference),
    }
