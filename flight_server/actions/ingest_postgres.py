"""Actions that bring tables, views and queries of PostgreSQL databases into tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from flight_server.actions.ingest import PreviewResponse
from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response, in_a_thread
from flight_server.actions.run_response import RunResponse, ingesting, run_response
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from flight_server.ingest_options import IngestOptions
from lakehouse.errors import InvalidRequest, NotSupported, PermissionDenied
from lakehouse.runs import Evolve, IngestMode, RunRecord, RunState, preview
from lakehouse.types import TableName

if TYPE_CHECKING:
    from lakehouse.ingest.sources.postgres import Dsn, PostgresSource, Query, Reading, Relation


class DatabaseRequest(Request):
    """Which database."""

    source: str | None = Field(default=None, description="name of one in the configuration, [[sources]]")
    dsn: str | None = Field(
        default=None,
        repr=False,
        description="another one, password included; for admins: postgresql://user:…@host/db",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.source is None) == (self.dsn is None):
            raise ValueError("exactly one of source and dsn has to be given")
        return self


class ReadingRequest(DatabaseRequest):
    """Which database, and how to read it."""

    batch_bytes: int = Field(
        default=8 << 20, ge=1 << 16, le=64 << 20, description="about how large the batches are that come"
    )
    connections: int = Field(default=2, ge=1, le=16, description="how many read parts of a table at once")

    @property
    def reading(self) -> Reading:
        """How to read."""
        from lakehouse.ingest.sources.postgres import Reading  # noqa: PLC0415 - an extra

        return Reading(trust=True, connections=self.connections, batch_bytes=self.batch_bytes)


class RelationRequest(ReadingRequest, OfTable):
    """Which table, view or query of a database, and the table that it is for."""

    relation: str | None = Field(default=None, description="table or view: schema.name, or name in public")
    query: str | None = Field(default=None, description="or a SELECT", min_length=1)

    @model_validator(mode="after")
    def _relation_or_query(self) -> Self:
        if (self.relation is None) == (self.query is None):
            raise ValueError("exactly one of relation and query has to be given")
        return self


class PostgresRequest(RelationRequest, IngestOptions):
    """Which table, view or query of a database, and into which table."""

    background: bool = Field(
        default=False, description="answer at once; ingest.status tells what becomes of it"
    )


class PostgresPreviewRequest(RelationRequest):
    """What to look into, and the table that it is for, which the caller has to be allowed to write."""

    limit: int = Field(default=20, ge=0, le=1000, description="how many rows to give")

    @property
    def reading(self) -> Reading:
        """How to read: what is told of the columns is true of all rows, few of which come."""
        return replace(super().reading, trust=False)


class PostgresAllRequest(ReadingRequest):
    """Which tables of a database; each goes into a table of its name, all as of one moment."""

    schemas: tuple[str, ...] = Field(default=(), description="all but the system's when left out")
    include: tuple[str, ...] = Field(default=(), description="patterns of table or schema.table; all if none")
    exclude: tuple[str, ...] = Field(default=(), description="patterns of those to leave out")
    db_schema: str | None = Field(
        default=None, description="the schema that all go into; that of each table when left out"
    )
    catalog: str | None = Field(default=None, description="its catalog; the session's own when left out")
    mode: IngestMode = Field(
        default=IngestMode.REPLACE, description="replace makes the tables what they are in the database"
    )
    evolve: Evolve = Field(default=Evolve.ADD, description="how tables may change, for append and upsert")


class PostgresAllResponse(Response):
    """What became of each table. What failed is told in its run, and the others are there."""

    runs: list[RunResponse]
    failed: int


def database_dsn(ctx: CallContext, request: DatabaseRequest) -> Dsn:
    """How to connect to a database.

    Raises:
        InvalidRequest: It is not configured, or the DSN cannot be read.
        NotSupported: The driver is not installed.
        PermissionDenied: The caller may not say where the server is to connect to.
    """
    try:
        from lakehouse.ingest.sources.postgres import Dsn  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise NotSupported(
            "PostgreSQL needs a package that is not installed", "pip install 'lakehouse-server[postgres]'"
        ) from error
    if request.dsn is not None:
        if not ctx.session.access.is_admin:
            raise PermissionDenied(
                f"{ctx.principal.name} may not have the server connect to any address",
                "name a source of the configuration",
            )
        return Dsn.parse(request.dsn)
    known = {source.name: source for source in ctx.lakehouse.settings.sources}
    found = known.get(request.source or "")
    if found is None:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidRequest(f"there is no source '{request.source}'", f"the configuration has: {names}")
    return Dsn.parse(found.dsn, found.password, local=True)


def wanted_rows(relation: str | None, query: str | None) -> Relation | Query:
    """A table or view, or a query if there is one."""
    from lakehouse.ingest.sources.postgres import Query, Relation  # noqa: PLC0415 - an extra

    if query is not None:
        return Query(query)
    schema, _, name = (relation or "").rpartition(".")
    return Relation(schema or "public", name)


def _source(ctx: CallContext, request: RelationRequest) -> tuple[TableName, PostgresSource]:
    """The table that rows are for, and where they come from.

    Raises:
        LakehouseError: The caller may not write the table, or there is no such database.
    """
    dsn = database_dsn(ctx, request)
    from lakehouse.ingest.sources.postgres import PostgresSource  # noqa: PLC0415 - an extra

    target = located(ctx, request)
    ctx.lake(target).check_write(target.schema, target.table)
    return target, PostgresSource(dsn, wanted_rows(request.relation, request.query), request.reading)


def _postgres(ctx: CallContext, request: PostgresRequest) -> Iterator[Progress | Response]:
    target, source = _source(ctx, request)
    ingest = request.request(target)
    return ingesting(ctx, "ingest.postgres", ingest, source, background=request.background)


def _preview(ctx: CallContext, request: PostgresPreviewRequest) -> Iterator[Response]:
    _, source = _source(ctx, request)
    yield PreviewResponse(**preview(source, request.limit, ctx.cancelled).model_dump())


def _postgres_all(ctx: CallContext, request: PostgresAllRequest) -> Iterator[Progress | Response]:
    dsn = database_dsn(ctx, request)
    from lakehouse.ingest.sources.postgres import PostgresDatabase  # noqa: PLC0415 - an extra

    catalog = ctx.lakes.of(request.catalog or ctx.session.catalog).name

    def work(report: Callable[[float, str], None]) -> Response:
        runs: list[RunRecord] = []
        database = PostgresDatabase(
            dsn,
            schemas=request.schemas,
            include=request.include,
            exclude=request.exclude,
            reading=request.reading,
        )
        with closing(database):
            sources = database.sources(ctx.cancelled)
            if not sources:
                raise InvalidRequest("no table of the database fits", "look at schemas, include and exclude")
            for number, source in enumerate(sources):
                ctx.check_cancelled()
                runs.append(_one(ctx, request, catalog, source, _part(report, number, len(sources))))
        failed = sum(run.state not in (RunState.SUCCEEDED, RunState.REPEATED) for run in runs)
        return PostgresAllResponse(runs=[run_response(run) for run in runs], failed=failed)

    yield from in_a_thread("ingest.postgres_all", work)


def _part(report: Callable[[float, str], None], number: int, of: int) -> Callable[[float | None, str], None]:
    """What one of several is told to, as a share of all."""
    return lambda share, message: report((number + (share or 0.0)) / of, message)


def _one(
    ctx: CallContext,
    request: PostgresAllRequest,
    catalog: str,
    source: PostgresSource,
    progress: Callable[[float | None, str], None],
) -> RunRecord:
    relation = source.relation
    assert relation is not None
    target = TableName(catalog, request.db_schema or relation.schema, relation.name)

    # Where one fails, the others are no less wanted, and its record says why.
    found = ctx.lakehouse.ingests.attempt(
        IngestOptions(mode=request.mode, evolve=request.evolve).request(target),
        source,
        ctx.principal,
        ctx.cancelled,
        lambda share, message: progress(share, f"{relation}: {message}"),
    )
    ctx.check_cancelled()
    return found


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "ingest.postgres",
        "Bring a table, view or query of a PostgreSQL database into a table, in one commit",
        PostgresRequest,
        RunResponse,
        _postgres,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "ingest.postgres_preview",
        "What an ingest would make of a table, view or query of a PostgreSQL database; nothing is stored",
        PostgresPreviewRequest,
        PreviewResponse,
        _preview,
        Permission.WRITE,
    ),
    ActionSpec(
        "ingest.postgres_all",
        "Bring the tables of a PostgreSQL database into tables, all as of one moment",
        PostgresAllRequest,
        PostgresAllResponse,
        _postgres_all,
        Permission.WRITE,
        streams=True,
    ),
)
