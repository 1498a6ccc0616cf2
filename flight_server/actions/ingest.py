"""Actions that bring rows into tables, and tell what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from flight_server.actions.object_files import listed
from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    Request,
    Response,
)
from flight_server.actions.run_response import RunResponse, ingesting, run_actions
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from flight_server.ingest_options import FileIngestOptions
from lakehouse.access.guarded_objects import GuardedObjects
from lakehouse.errors import LimitExceeded
from lakehouse.ingest.sources.byte_source import BucketObject
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.runs import Preview, preview

_MOST_FILES = 10_000


class FilesRequest(FileIngestOptions, Request):
    """Which objects of a bucket to read, and how."""

    bucket: str | None = Field(default=None, description="the primary bucket when left out")
    key: str | None = Field(default=None, description="the object, for one", min_length=1)
    prefix: str | None = Field(default=None, description="what the keys of several begin with, at any depth")
    pattern: str = Field(default="*", description="which of these: the end of the key fits, as in *.csv.gz")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.key is None) == (self.prefix is None):
            raise ValueError("exactly one of key and prefix has to be given")
        return self


class IngestFileRequest(FilesRequest, OfTable):
    """From which objects into which table, and how."""

    run_key: str | None = Field(
        default=None,
        description="runs of the same key bring the same rows, and only the first does anything; the content "
        "of the objects if left out, and with an empty one every run brings its rows",
    )
    background: bool = Field(
        default=False, description="answer at once; ingest.status tells what becomes of it"
    )


class PreviewRequest(FilesRequest):
    """Which objects to look into, and how."""

    limit: int = Field(default=20, ge=0, le=1000, description="how many rows to give")


class PreviewResponse(Preview, Response):
    """What an ingest would make of the objects; nothing is stored."""


def _source(ctx: CallContext, request: FilesRequest) -> FileSource:
    """The objects that a request is about, as far as the caller may read them.

    Raises:
        ObjectNotFound, BucketNotFound: There is none for the caller.
        InvalidRequest: There is nothing to read.
        LimitExceeded: There are too many.
    """
    objects = GuardedObjects(ctx.lakehouse.objects, ctx.session.access)
    name = request.bucket or ctx.lakehouse.bucket.name
    prefix, what = request.prefix or "", request.key
    keys = [] if what is None else [what]
    if what is None:
        for found in listed(objects, name, prefix, request.pattern):
            keys.append(found.key)
            if len(keys) > _MOST_FILES:
                raise LimitExceeded(
                    f"more than {_MOST_FILES} objects fit", "name a longer prefix or another pattern"
                )
        what = f"{prefix}{request.pattern} ({len(keys)} objects)"
    files = []
    for key in keys:
        place = objects.to_read(name, key)
        details = objects.details(place)
        files.append(BucketObject(place.bucket, key, details.size_bytes, details.e_tag))
    return FileSource(files, request.reading, f"{name}/{what}")


def _file(ctx: CallContext, request: IngestFileRequest) -> Iterator[Progress | Response]:
    target = located(ctx, request)
    ctx.lake(target).check_write(target.schema, target.table)
    source = _source(ctx, request)
    # What other ingests call key is that of the object here.
    ingest = replace(request.request(target, request.on_error), key=request.run_key)
    return ingesting(ctx, "ingest.file", ingest, source, background=request.background)


def _preview(ctx: CallContext, request: PreviewRequest) -> Iterator[Response]:
    found = preview(_source(ctx, request), request.limit, ctx.cancelled)
    yield PreviewResponse(**found.model_dump())


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "ingest.file",
        "Bring files of a bucket into a table, in one commit, once, with an account of every row",
        IngestFileRequest,
        RunResponse,
        _file,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "ingest.preview",
        "What an ingest would make of files: columns, types and why, first rows; nothing is stored",
        PreviewRequest,
        PreviewResponse,
        _preview,
        Permission.READ,
    ),
    *run_actions(
        "ingest",
        "an ingest",
        "Stop an ingest, of any server; nothing of it is stored",
        lambda ctx: ctx.lakehouse.ingests,
    ),
)
