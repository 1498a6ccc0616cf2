"""Rows as flights into tables: Arrow batches put under the path ``[catalog, schema, table]``.

What is to become of the table may be said by JSON in the metadata of the first message: ``{"mode":
"upsert", "keys": ["id"]}``. Each batch is acknowledged by ``{"batches": 3, "rows": 3000}``, which says that
it has arrived; the last message, ``{"run": {…}}``, that all of them are stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from flight_server.context import CallContext
from flight_server.dispatch import Upload
from flight_server.execution import Recording
from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.runs import Evolve, IngestMode, IngestRequest

_KIND = "ingest"


class RowsAnnouncement(BaseModel):
    """What a client may say of the rows that it puts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: IngestMode = IngestMode.APPEND
    keys: tuple[str, ...] = ()
    key: str | None = None
    evolve: Evolve = Evolve.ADD


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
    said = _announcement(upload.notes[0]) if upload.notes else RowsAnnouncement()
    with Recording(ctx, f"PUT {'.'.join(path)} ({said.mode.value})", _KIND) as recording:
        target = ctx.lakehouse.engine.binder.locate(path, ctx.session)
        recording.watch().note_tables([target])
        rows = _acknowledged(upload, first, batches)
        source = ArrowBatches(upload.schema, rows, f"rows sent by {ctx.principal.name}")
        request = IngestRequest(target, said.mode, keys=said.keys, key=said.key, evolve=said.evolve)
        record = ctx.lakehouse.ingests.run(
            request, source, ctx.principal, ctx.cancelled, lambda _, __: ctx.check_cancelled()
        )
        recording.record.rows = record.rows_stored
    upload.reply(json.dumps({"run": json.loads(record.model_dump_json())}).encode())


def _announcement(note: bytes) -> RowsAnnouncement:
    try:
        return RowsAnnouncement.model_validate_json(note)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "metadata"
        fields = ", ".join(RowsAnnouncement.model_fields)
        raise InvalidRequest(f"metadata of the rows: {place}: {first['msg']}", f"fields: {fields}") from error


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
