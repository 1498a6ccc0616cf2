"""The action that brings what is new, again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from flight_server.actions.ingest_postgres import DatabaseRequest, database_dsn, wanted_rows
from flight_server.actions.object_files import listed
from flight_server.actions.registry import ActionSpec, Permission, Progress, Response
from flight_server.actions.run_response import RunResponse, ingesting
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from flight_server.ingest_options import FileIngestOptions, IngestOptions
from lakehouse.access.guarded_objects import GuardedObjects
from lakehouse.ingest.sources.byte_source import BucketObject
from lakehouse.ingest.sources.incremental import Incremental
from lakehouse.runs import Changed, IngestMode, KnownObjects, NewObjects, SyncRequest

_OF_OBJECTS = {"bucket", "pattern", "changed", "most_objects"} | (
    FileIngestOptions.model_fields.keys() - IngestOptions.model_fields.keys() - {"on_error"}
)


class IngestSyncRequest(FileIngestOptions, OfTable):
    """What is new of which objects of a bucket, or rows of a database, and into which table."""

    mode: Literal[IngestMode.APPEND, IngestMode.UPSERT] = Field(
        default=IngestMode.APPEND, description="upsert puts rows in the place of those of the same key"
    )
    key: None = Field(default=None, description="nothing: what is new is known without")
    name: str = Field(
        default="", max_length=200, description="tells the syncs of a table apart; the source's when left out"
    )
    reset: bool = Field(default=False, description="bring everything, whatever came before")
    bucket: str | None = Field(default=None, description="the primary bucket when left out")
    prefix: str | None = Field(default=None, description="objects: what their keys begin with, at any depth")
    pattern: str = Field(default="*", description="which of these: the end of the key fits, as in *.csv.gz")
    changed: Changed | None = Field(
        default=None,
        description="objects that came before and have other content now: refuse, again, or skip; again with "
        "upsert, refuse otherwise",
    )
    most_objects: int = Field(
        default=10_000, ge=1, le=100_000, description="how many come in one run; the others with the next"
    )
    source: str | None = Field(default=None, description="rows: a database of the configuration, [[sources]]")
    dsn: str | None = Field(default=None, repr=False, description="another one, for admins")
    relation: str | None = Field(default=None, description="table or view: schema.name, or name in public")
    query: str | None = Field(default=None, description="or a SELECT", min_length=1)
    watermark: str | None = Field(
        default=None, description="the column whose values grow from row to row", min_length=1
    )
    overlap: str = Field(
        default="",
        max_length=100,
        description="how much below the last watermark rows may still have come: '10 minutes', '1000'",
    )
    background: bool = Field(
        default=False, description="answer at once; ingest.status tells what becomes of it"
    )

    @model_validator(mode="after")
    def _objects_or_rows(self) -> Self:
        rows = (self.source, self.dsn, self.relation, self.query, self.watermark)
        if self.prefix is not None:
            if self.overlap or any(value is not None for value in rows):
                raise ValueError("either objects (prefix) or rows of a database (source, watermark) can come")
            return self
        if (self.relation is None) == (self.query is None) or self.watermark is None:
            raise ValueError("prefix has to be given, or watermark and exactly one of relation and query")
        if said := sorted(_OF_OBJECTS & self.model_fields_set):
            raise ValueError(f"{', '.join(said)}: only for objects (prefix)")
        return self


def _sync(ctx: CallContext, request: IngestSyncRequest) -> Iterator[Progress | Response]:
    target = located(ctx, request)
    source = _objects(ctx, request) if request.prefix is not None else _rows(ctx, request)
    ctx.lake(target).check_write(target.schema, target.table)
    ingest = request.request(target, request.on_error, SyncRequest(request.name, request.reset))
    return ingesting(ctx, "ingest.sync", ingest, source, background=request.background)


def _objects(ctx: CallContext, request: IngestSyncRequest) -> Incremental:
    objects = GuardedObjects(ctx.lakehouse.objects, ctx.session.access)
    bucket = objects.bucket(request.bucket or ctx.lakehouse.bucket.name)
    prefix = request.prefix or ""

    def listing() -> Iterable[BucketObject]:
        for found in listed(objects, bucket.name, prefix, request.pattern):
            yield BucketObject(bucket, found.key, found.size_bytes, found.e_tag)

    is_upsert = request.mode is IngestMode.UPSERT
    return NewObjects(
        listing,
        bucket.name,
        prefix,
        request.reading,
        KnownObjects(ctx.lakehouse.bucket, ctx.lakehouse.clock),
        request.changed or (Changed.AGAIN if is_upsert else Changed.REFUSE),
        request.most_objects,
        f"{bucket.name}/{prefix}{request.pattern}",
    )


def _rows(ctx: CallContext, request: IngestSyncRequest) -> Incremental:
    dsn = database_dsn(ctx, DatabaseRequest(source=request.source, dsn=request.dsn))
    from lakehouse.ingest.sources.postgres import NewRows  # noqa: PLC0415 - an extra

    wanted = wanted_rows(request.relation, request.query)
    return NewRows(dsn, wanted, request.watermark or "", request.overlap, request.source or "")


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "ingest.sync",
        "Bring what is new of objects of a bucket, or of rows of a database, each time that it is run",
        IngestSyncRequest,
        RunResponse,
        _sync,
        Permission.WRITE,
        streams=True,
    ),
)
