"""Rows as flights into tables: Arrow batches put under the path ``[catalog, schema, table]``.

What is to become of the table may be said by JSON in the metadata of the first message: ``{"mode":
"upsert", "keys": ["id"]}``. Each batch is acknowledged by ``{"batches": 3, "rows": 3000}``, which says that
it has arrived; the last message, ``{"run": {…}}``, that all of them are stored.

With ``{"file": "people.csv"}`` the bytes of a file come, in one binary column, and its rows are stored. With
``"preview": 20`` nothing is: the last message, ``{"preview": {…}}``, says what would become of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from pydantic import ValidationError

from flight_server.context import CallContext
from flight_server.dispatch import Upload
from flight_server.execution import Recording
from flight_server.ingest_options import PutOptions
from flight_server.misfit import misfit
from lakehouse.errors import InvalidRequest, LimitExceeded, StorageError
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.ingest.sources.byte_source import LocalFile
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.runs import preview

_KIND = "ingest"


def put(ctx: CallContext, path: tuple[str, ...], upload: Upload) -> None:
    """Store the rows, all in one commit, and reply with what became of them.

    Raises:
        InvalidRequest: The path is not that of a table, or what is said of the rows does not fit.
        LakehouseError: They could not be stored, and none is.
    """
    if not 1 <= len(path) <= 3 or not all(path):
        raise InvalidRequest("rows are put under the path of a table: catalog, schema, table")
    batches = iter(upload.batches)
    first = next(batches, None)
    said = _options(upload.notes[0]) if upload.notes else PutOptions()
    with Recording(ctx, f"PUT {'.'.join(path)} ({said.mode.value})", _KIND) as recording:
        target = ctx.lakehouse.engine.binder.locate(path, ctx.session)
        ctx.lake(target).check_write(target.schema, target.table)
        recording.watch().note_tables([target])
        arriving = _acknowledged(upload, first, batches)
        if said.end_follows:
            arriving = _whole(upload, arriving)
        request = said.request(target, said.on_error)
        with TemporaryDirectory(prefix="upload-", dir=ctx.lakehouse.scratch.path) as spool:
            source = (
                _file(ctx, said, upload.schema, arriving, Path(spool))
                if said.file
                else ArrowBatches(upload.schema, arriving, f"rows sent by {ctx.principal.name}")
            )
            if said.preview is not None:
                found = preview(source, said.preview, ctx.cancelled)
                upload.reply(json.dumps({"preview": found.model_dump(mode="json")}).encode())
                return
            record = ctx.lakehouse.ingests.run(
                request, source, ctx.principal, ctx.cancelled, lambda _, __: ctx.check_cancelled()
            )
        recording.record.rows = record.rows_stored
    upload.reply(json.dumps({"run": json.loads(record.model_dump_json())}).encode())


def _options(note: bytes) -> PutOptions:
    try:
        return PutOptions.model_validate_json(note)
    except ValidationError as error:
        raise misfit(error, PutOptions, "metadata of the rows", "metadata") from error


def _file(
    ctx: CallContext, said: PutOptions, schema: pa.Schema, batches: Iterator[pa.RecordBatch], spool: Path
) -> FileSource:
    """A file whose bytes arrive, kept on disk so that it can be read more than once.

    Raises:
        InvalidRequest: It is not one column of bytes that comes.
        LimitExceeded: It is too large.
    """
    if len(schema) != 1 or schema.types[0] not in (pa.binary(), pa.large_binary()):
        raise InvalidRequest(f"the bytes of '{said.file}' have to come as one binary column")
    most, size, digest = ctx.lakehouse.settings.ingest.max_upload_bytes, 0, hashlib.sha256()
    path = spool / "content"
    try:
        with path.open("wb") as file:
            for batch in batches:
                for value in batch.column(0):
                    content = value.as_buffer()
                    if content is None:
                        continue
                    size += len(content)
                    if size > most:
                        raise LimitExceeded(
                            f"'{said.file}' has more than {most} bytes (ingest.max_upload_bytes)",
                            "put it into a bucket and use ingest.file",
                        )
                    digest.update(content)
                    file.write(content)
    except OSError as error:
        raise StorageError(f"'{said.file}' could not be kept: {error.strerror}") from error
    described = f"{said.file}, sent by {ctx.principal.name}"
    return FileSource([LocalFile(path, said.file, digest.hexdigest())], said.reading, described)


def _whole(upload: Upload, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, and an error where they end without the message that says so.

    Raises:
        InvalidRequest: They broke off.
    """
    yield from batches
    try:
        ended = json.loads(upload.notes[-1]) == {"end": True}
    except ValueError:
        ended = False
    if not ended:
        raise InvalidRequest("what was sent broke off before its end; nothing was stored", "send it again")


def _acknowledged(
    upload: Upload, first: pa.RecordBatch | None, rest: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    batches = rows = 0
    batch = first
    while batch is not None:
        yield batch
        batches, rows = batches + 1, rows + batch.num_rows
        upload.reply(json.dumps({"batches": batches, "rows": rows}).encode())
        batch = next(rest, None)
