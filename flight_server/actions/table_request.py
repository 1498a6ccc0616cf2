"""What the requests of actions about one table have in common: how it is named."""

from __future__ import annotations

from pydantic import Field

from flight_server.actions.registry import Request
from flight_server.context import CallContext
from lakehouse.catalog.names import fold
from lakehouse.config.profiles import NO_PROFILE
from lakehouse.datasets import VECTORS
from lakehouse.types import TableName
from lakehouse.vectors.guarded_indexes import GuardedIndexes
from lakehouse.vectors.manifests import DEFAULT, index_of


class OfTable(Request):
    """A table by name."""

    table: str = Field(description="name of the table", min_length=1)
    db_schema: str | None = Field(default=None, description="its schema; the session's own when left out")
    catalog: str | None = Field(default=None, description="its catalog; the session's own when left out")


def located(ctx: CallContext, request: OfTable) -> TableName:
    """The full name of the table that a request is about.

    Raises:
        CatalogNotFound: There is no such catalog for the caller.
    """
    session = ctx.session
    catalog = ctx.lakes.of(request.catalog or session.catalog).name
    home = session.schema if catalog == session.catalog else ctx.lakehouse.catalogs.home_schema(catalog)
    return TableName(catalog, request.db_schema or home, request.table)


def located_dataset(ctx: CallContext, request: OfTable) -> TableName:
    """The full name of the dataset that a request is about, which may be a vector index.

    Raises:
        CatalogNotFound: There is no such catalog for the caller.
    """
    if request.catalog is not None and fold(request.catalog) == VECTORS:
        home = guarded_indexes(ctx).profile or DEFAULT
        return TableName(VECTORS, request.db_schema or home, request.table)
    return located(ctx, request)


def check_dataset_change(ctx: CallContext, name: TableName) -> None:
    """Refuse to change a dataset where that is not granted; an index is changed by who may build it.

    Raises:
        SchemaNotFound, TableNotFound, VectorIndexNotFound: There is none for the caller.
        PermissionDenied: The caller may not change it.
    """
    if name.catalog == VECTORS:
        guarded_indexes(ctx, NO_PROFILE).owned(index_of(name))
    else:
        ctx.lake(name).check_change(name.schema, name.table)


def guarded_indexes(ctx: CallContext, profile: str | None = None) -> GuardedIndexes:
    """The vector indexes that are there for the caller.

    Args:
        ctx: The call.
        profile: The profile that the request asks for, ``none`` for none; the session's when left out.

    Raises:
        ProfileNotFound: There is no such profile for the caller.
    """
    lakehouse = ctx.lakehouse
    return GuardedIndexes(lakehouse.vectors, lakehouse.engine, ctx.session, profile)
