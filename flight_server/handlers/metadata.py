"""GetCatalogs, GetDbSchemas, GetTables, GetTableTypes.

Names and patterns are compared as SQL compares names: whatever the case of ASCII letters. The catalog is
matched as a name, schemas and tables as LIKE patterns (``%``, ``_``, escaped by a backslash); clients also
pass plain names unescaped, so a name always matches itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import QueryHandler
from flight_server.metadata_query import MetadataQuery, Row, of_rows, to_table
from flight_server.protocol.column_metadata import REMARKS, described
from flight_server.protocol.commands import GetCatalogs, GetDbSchemas, GetTables, GetTableTypes
from flight_server.protocol.result_schemas import (
    GET_CATALOGS,
    GET_DB_SCHEMAS,
    GET_TABLE_TYPES,
    GET_TABLES,
    GET_TABLES_WITH_SCHEMA,
)
from lakehouse.access.guarded_catalog import GuardedCatalog
from lakehouse.access.policy import SYSTEM_SCHEMA
from lakehouse.catalog import Table
from lakehouse.catalog.iceberg_types import duckdb_type
from lakehouse.catalog.names import fold
from lakehouse.datasets import DatasetManifest
from lakehouse.datasets.remarks import column_remarks, table_remarks
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import AccessPolicyError, NotSupported, SchemaNotFound, StorageError, TableNotFound
from lakehouse.types import TableName

TEMPORARY_SCHEMA = "temp"
_TABLE, _TEMPORARY, _SYSTEM = "TABLE", "LOCAL TEMPORARY", "SYSTEM TABLE"
_VIEW = "VIEW"
# What clients call the same types besides.
_SYNONYMS = {"BASE TABLE": _TABLE, "TEMPORARY": _TEMPORARY}


class _Wildcard(Enum):
    ONE = "_"
    MANY = "%"


_WILDCARDS = {wildcard.value: wildcard for wildcard in _Wildcard}


def matcher(pattern: str | None) -> Callable[[str], bool]:
    r"""Whether a name fits a LIKE pattern (``%``, ``_``, ``\`` escapes) or is, letter by letter, the pattern.

    Args:
        pattern: None fits every name, an empty one none: every object here has a name.
    """
    if pattern is None:
        return lambda _: True
    if not pattern:
        return lambda _: False
    literal = fold(pattern)
    tokens = _tokens(literal)
    return lambda name: fold(name) == literal or _like(fold(name), tokens)


def _tokens(pattern: str) -> list[str | _Wildcard]:
    """The characters of a pattern, with its wildcards told apart from escaped ones."""
    tokens: list[str | _Wildcard] = []
    escaped = False
    for char in pattern:
        if not escaped and char == "\\":
            escaped = True
            continue
        tokens.append(char if escaped else _WILDCARDS.get(char, char))
        escaped = False
    return [*tokens, "\\"] if escaped else tokens


def _like(name: str, tokens: Sequence[str | _Wildcard]) -> bool:
    """Whether a name fits. Goes back to the last ``%`` only, so the time stays within name × pattern."""
    at = token = 0
    retry: tuple[int, int] | None = None
    while at < len(name):
        wanted = tokens[token] if token < len(tokens) else None
        if wanted is _Wildcard.MANY:
            retry = (at, token)
            token += 1
        elif wanted is _Wildcard.ONE or wanted == name[at]:
            at, token = at + 1, token + 1
        elif retry is not None:
            retry = (retry[0] + 1, retry[1])
            at, token = retry[0], retry[1] + 1
        else:
            return False
    return all(rest is _Wildcard.MANY for rest in tokens[token:])


def catalogs(ctx: CallContext, command: GetCatalogs) -> list[Row]:
    """The catalogs, sorted."""
    return [{"catalog_name": name} for name in sorted(ctx.lakes.names)]


def db_schemas(ctx: CallContext, command: GetDbSchemas) -> list[Row]:
    """Schemas that fit; the session's temporary tables make one more."""
    fits = matcher(command.schema_pattern)
    return [
        {"catalog_name": lake.name, "db_schema_name": name}
        for lake in sorted(_lakes(ctx, command.catalog), key=lambda lake: lake.name)
        for name in _schemas(ctx, lake)
        if fits(name)
    ]


def table_types(ctx: CallContext, command: GetTableTypes) -> list[Row]:
    """The types of table that there can be."""
    return [{"table_type": kind} for kind in (_TEMPORARY, _SYSTEM, _TABLE, _VIEW)]


def tables_schema(command: GetTables) -> pa.Schema:
    """The schema of GetTables: one column more where the tables' own schemas are asked for."""
    return GET_TABLES_WITH_SCHEMA if command.include_schema else GET_TABLES


def tables(ctx: CallContext, command: GetTables) -> pa.Table:
    """Tables that fit, sorted."""
    rows: list[Row] = []
    wanted = {_SYNONYMS.get(kind.upper(), kind.upper()) for kind in command.table_types}
    for lake in _lakes(ctx, command.catalog):
        if not wanted or _TABLE in wanted:
            rows += _lake_tables(ctx, lake, command)
        if not wanted or _VIEW in wanted:
            rows += _lake_views(ctx, lake, command)
        if lake is not ctx.lakes.default:
            continue
        if not wanted or _TEMPORARY in wanted:
            rows += _temporary_tables(ctx, command)
        if not wanted or _SYSTEM in wanted:
            rows += _system_tables(ctx, command)
    order = ("catalog_name", "db_schema_name", "table_name", "table_type")
    rows.sort(key=lambda row: tuple(row[column] for column in order))
    return to_table(tables_schema(command), rows)


def _lakes(ctx: CallContext, catalog: str | None) -> list[GuardedCatalog]:
    """The catalog of that name, if there is one for the caller; all of them where no name is given."""
    return [lake for lake in ctx.lakes if catalog is None or fold(catalog) == fold(lake.name)]


def _schemas(ctx: CallContext, lake: GuardedCatalog) -> list[str]:
    """The schemas of a catalog; the server's own are in the default one."""
    if lake is not ctx.lakes.default:
        return lake.schemas()
    names = [*lake.schemas(), SYSTEM_SCHEMA]
    return sorted([*names, TEMPORARY_SCHEMA] if ctx.session.temp_objects() else names)


def _lake_tables(ctx: CallContext, lake: GuardedCatalog, command: GetTables) -> Iterator[Row]:
    schema_fits, table_fits = matcher(command.schema_pattern), matcher(command.table_pattern)
    transaction = ctx.session.only_transaction()
    for schema in filter(schema_fits, lake.schemas()):
        for name in _names(lake, schema, transaction):
            if not table_fits(name):
                continue
            row = _row(lake, schema, name, _TABLE)
            if command.include_schema:
                table = _load(lake, schema, name, transaction)
                if table is None:
                    continue
                row["table_schema"] = _serialised(_columns(ctx, table))
            yield row


def _lake_views(ctx: CallContext, lake: GuardedCatalog, command: GetTables) -> Iterator[Row]:
    schema_fits, view_fits = matcher(command.schema_pattern), matcher(command.table_pattern)
    for schema in filter(schema_fits, lake.schemas()):
        try:
            names = lake.views(schema)
        except SchemaNotFound:
            continue
        for name in filter(view_fits, names):
            row = _row(lake, schema, name, _VIEW)
            if command.include_schema:
                path = (lake.name, schema, name)
                # None: a view over a table that is gone, or is not there for the principal.
                columns = ctx.lakehouse.engine.columns_of(path, ctx.session, None) or ()
                row["table_schema"] = _serialised(pa.schema([described(f, *path) for f in columns]))
            yield row


def _names(lake: GuardedCatalog, schema: str, transaction: Transaction | None) -> list[str]:
    """The tables of a schema, as the session's open transaction sees them."""
    try:
        names = {fold(name): name for name in lake.tables(schema)}
    except SchemaNotFound:
        return []
    if transaction is not None:
        names = {key: name for key, name in names.items() if not _dropped(transaction, lake, schema, name)}
        created = [
            written.table
            for written in list(transaction.writes)
            if written.catalog == lake.name and fold(written.schema) == fold(schema)
        ]
        names = {**{fold(name): name for name in created}, **names}
    return list(names.values())


def _dropped(transaction: Transaction, lake: GuardedCatalog, schema: str, name: str) -> bool:
    known: TableName = transaction.known(TableName(lake.name, schema, name))
    return known in transaction.drops and known not in transaction.writes


def _load(lake: GuardedCatalog, schema: str, name: str, transaction: Transaction | None) -> Table | None:
    """A table; None where it has gone since it was listed, or cannot be read."""
    if transaction is not None:
        staged = transaction.writes.get(transaction.known(TableName(lake.name, schema, name)))
        if staged is not None:
            return staged.table
    try:
        return lake.load(schema, name)
    except (SchemaNotFound, TableNotFound, NotSupported):
        return None


def _columns(ctx: CallContext, table: Table) -> pa.Schema:
    """The columns of a lake table, described; none where the table is of a kind that cannot be read."""
    name = table.name
    try:
        if ctx.session.access.table(name).restrictions:
            # A mask may have another type than its column.
            seen = ctx.lakehouse.engine.columns_seen(name, ctx.session)
            return pa.schema([described(f, name.catalog, name.schema, name.table) for f in seen])
        types = {field.name: duckdb_type(field.field_type) for field in table.metadata.schema().fields}
        manifest = _manifest(ctx, table)
        known = {column.name: column for column in manifest.columns} if manifest else {}
        docs, remarks = table.column_docs, table_remarks(manifest, table.description)
        return pa.schema(
            [
                described(
                    field,
                    name.catalog,
                    name.schema,
                    name.table,
                    type_name=types[field.name],
                    remarks=column_remarks(known.get(field.name), docs.get(field.name)) or None,
                )
                for field in table.arrow_schema()
            ],
            {REMARKS: remarks} if remarks else None,
        )
    except (NotSupported, AccessPolicyError):
        return pa.schema([])


def _manifest(ctx: CallContext, table: Table) -> DatasetManifest | None:
    try:
        return ctx.lakehouse.manifests.get(table.uuid)
    except StorageError:
        return None


def _temporary_tables(ctx: CallContext, command: GetTables) -> Iterator[Row]:
    if not matcher(command.schema_pattern)(TEMPORARY_SCHEMA):
        return
    fits, catalog = matcher(command.table_pattern), ctx.lakes.default.name
    transaction = ctx.session.only_transaction()
    for name in filter(fits, ctx.session.temp_objects().values()):
        row = _row(ctx.lakes.default, TEMPORARY_SCHEMA, name, _TEMPORARY)
        if command.include_schema:
            # None: a view over a table that is gone.
            columns = (
                ctx.lakehouse.engine.columns_of((TEMPORARY_SCHEMA, name), ctx.session, transaction) or ()
            )
            fields = [described(field, catalog, TEMPORARY_SCHEMA, name) for field in columns]
            row["table_schema"] = _serialised(pa.schema(fields))
        yield row


def _system_tables(ctx: CallContext, command: GetTables) -> Iterator[Row]:
    if not matcher(command.schema_pattern)(SYSTEM_SCHEMA):
        return
    fits = matcher(command.table_pattern)
    for table in ctx.lakehouse.engine.system.visible(ctx.session.access):
        if not fits(table.name):
            continue
        row = _row(ctx.lakes.default, SYSTEM_SCHEMA, table.name, _SYSTEM)
        if command.include_schema:
            fields = [described(f, ctx.lakes.default.name, SYSTEM_SCHEMA, table.name) for f in table.schema]
            row["table_schema"] = _serialised(pa.schema(fields))
        yield row


def _row(lake: GuardedCatalog, schema: str, name: str, kind: str) -> dict[str, str | bytes]:
    return {
        "catalog_name": lake.name,
        "db_schema_name": schema,
        "table_name": name,
        "table_type": kind,
    }


def _serialised(schema: pa.Schema) -> bytes:
    text: bytes = schema.serialize().to_pybytes()
    return text


def query_handlers() -> dict[type, QueryHandler]:
    """Who answers GetFlightInfo, GetSchema and DoGet."""
    return {
        GetCatalogs: of_rows(GET_CATALOGS, catalogs),
        GetDbSchemas: of_rows(GET_DB_SCHEMAS, db_schemas),
        GetTables: MetadataQuery(tables_schema, tables),
        GetTableTypes: of_rows(GET_TABLE_TYPES, table_types),
    }
