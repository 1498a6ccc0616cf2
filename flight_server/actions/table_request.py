"""What the requests of actions about one table have in common: how it is named."""

from __future__ import annotations

from pydantic import Field

from flight_server.actions.registry import Request
from flight_server.context import CallContext
from lakehouse.types import TableName


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
