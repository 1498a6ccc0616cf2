"""The action that tells a client how to send a file or rows, and whether it may."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Response
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from flight_server.ingest_options import FileIngestOptions, PutOptions
from lakehouse.errors import InvalidRequest, SchemaNotFound, TableAlreadyExists, TableNotFound
from lakehouse.ingest.sources.file_source import check_options
from lakehouse.runs import IngestMode
from lakehouse.types import TableName

_CONTENT = pa.schema([pa.field("content", pa.binary(), nullable=False)])
_PLACE = frozenset(OfTable.model_fields)
_OF_FILES = ("types", "format", "delimiter", "quote", "encoding", "header", "null_values", "sheet")


class UploadRequest(FileIngestOptions, OfTable):
    """What is to be sent, and what is to become of it."""

    file: str = Field(default="", description="the name of the file that is sent; empty where rows are")
    preview: int | None = Field(
        default=None, ge=0, le=1000, description="store nothing of the file, and give so many rows of it"
    )


class UploadResponse(Response):
    """How to send it by DoPut. Nothing is kept of the request: it is in ``first_metadata``."""

    path: list[str] = Field(description="the path of the flight descriptor")
    first_metadata: str = Field(
        description="the metadata of the first message: alone, or with the first batch; UTF-8"
    )
    last_metadata: str = Field(
        description="the metadata of a last message without rows; where it does not come nothing is stored"
    )
    arrow_schema: str | None = Field(
        description="the schema of the batches as an Arrow IPC stream in base64: one column for the bytes of "
        "a file, in any number of rows; none where rows of a schema of your own come"
    )
    max_bytes: int | None = Field(description="how large the file may be; none where rows come")
    max_message_bytes: int = Field(description="how large one batch may be")
    answer: str = Field(
        description="the key of the last message that the server sends, which has the run, or the preview"
    )


def _upload(ctx: CallContext, request: UploadRequest) -> Iterator[Response]:
    target = located(ctx, request)
    ctx.lake(target).check_write(target.schema, target.table)
    _check(request)
    _check_mode(ctx, request, target)
    said = PutOptions(**request.model_dump(exclude=set(_PLACE)), end_follows=True)
    settings = ctx.lakehouse.settings
    schema = base64.b64encode(_CONTENT.serialize().to_pybytes()).decode()
    yield UploadResponse(
        path=[target.catalog, target.schema, target.table],
        first_metadata=said.model_dump_json(exclude_defaults=True),
        last_metadata=json.dumps({"end": True}),
        arrow_schema=schema if request.file else None,
        max_bytes=settings.ingest.max_upload_bytes if request.file else None,
        max_message_bytes=settings.limits.message_bytes,
        answer="run" if request.preview is None else "preview",
    )


def _check(request: UploadRequest) -> None:
    """Make sure of what is said of a file, as far as that can be done without it.

    Raises:
        InvalidRequest, NotSupported: It does not fit.
    """
    if request.file:
        check_options(request.reading)
        return
    said = [name for name in (*_OF_FILES, "preview") if name in request.model_fields_set]
    if said:
        raise InvalidRequest(f"{', '.join(said)}: these are about files", "name the file, or leave them out")


def _check_mode(ctx: CallContext, request: UploadRequest, target: TableName) -> None:
    """Make sure that rows can come into the table as it is now.

    Raises:
        TableAlreadyExists: It is to be made.
        InvalidRequest: Rows are to take the place of others, and nothing tells which.
    """
    lake = ctx.lakehouse.engine.catalogs.of(target.catalog)
    lake.refresh(target.schema, target.table)
    try:
        table = lake.load(target.schema, target.table)
    except (TableNotFound, SchemaNotFound):
        table = None
    if request.mode is IngestMode.CREATE and table is not None:
        raise TableAlreadyExists(f"table '{target}' exists already")
    keys = request.keys or (table.primary_key if table is not None else ())
    if request.mode is IngestMode.UPSERT and not keys:
        raise InvalidRequest(
            f"rows of '{target}' cannot be told apart: it has no primary key", "name the key columns"
        )


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "ingest.upload",
        "How to send a file or rows by DoPut, and whether that may be done; nothing is stored yet",
        UploadRequest,
        UploadResponse,
        _upload,
        Permission.READ,
    ),
)
