"""CommandStatementIngest: bulk load of Arrow batches into a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import Upload, UploadHandler
from flight_server.execution import Recording
from flight_server.protocol.codec import encode_update_result
from flight_server.protocol.commands import IfExists, IfNotExist, StatementIngest
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import StatementRecord
from lakehouse.errors import InvalidRequest
from lakehouse.ingest import WriteMode
from lakehouse.types import TableName

_MODES = {
    (IfNotExist.CREATE, IfExists.FAIL): WriteMode.CREATE,
    (IfNotExist.FAIL, IfExists.APPEND): WriteMode.APPEND,
    (IfNotExist.CREATE, IfExists.REPLACE): WriteMode.REPLACE,
    (IfNotExist.CREATE, IfExists.APPEND): WriteMode.CREATE_APPEND,
}


class IngestHandler:
    """Loads what the client sends, in one commit or as part of the session's open transaction."""

    def put(self, ctx: CallContext, command: StatementIngest, upload: Upload) -> None:
        """Load the batches and reply with the number of rows."""
        mode = _MODES.get((command.if_not_exist, command.if_exists))
        if mode is None:
            raise InvalidRequest(
                f"the table options {command.if_not_exist.name}/{command.if_exists.name} make no ingest mode",
                "modes: create, append, replace, create_append",
            )
        if not command.table:
            raise InvalidRequest("expected the name of a table to load into")
        with Recording(ctx, _described(command, mode), "ingest") as recording:
            rows = _load(ctx, command, mode, upload, recording)
        upload.reply(encode_update_result(rows))


def _load(
    ctx: CallContext, command: StatementIngest, mode: WriteMode, upload: Upload, recording: Recording
) -> int:
    owner = (command.transaction_id or b"").decode("ascii", "replace")
    session = ctx.lakehouse.sessions.owner(owner, ctx.session)
    recording.record.session_id = session.id
    transaction = session.transaction(command.transaction_id) or session.only_transaction()
    scope = Scope(session, transaction, recording.watch())
    engine = ctx.lakehouse.engine
    batches = _counted(upload.batches, recording.record)
    if command.temporary:
        if command.catalog or command.schema:
            raise InvalidRequest("a temporary table has no catalog or schema", "leave them out")
        return engine.changes.ingest_temporary(scope, command.table, mode, upload.schema, batches)
    catalog = session.lakes.of(command.catalog or session.catalog).name
    home = session.schema if catalog == session.catalog else engine.catalogs.home_schema(catalog)
    target = TableName(catalog, command.schema or home, command.table)
    scope.watch.note_tables([target])
    return engine.changes.ingest(scope, target, mode, upload.schema, batches)


def _counted(batches: Iterable[pa.RecordBatch], record: StatementRecord) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        record.rows += batch.num_rows
        record.bytes += batch.nbytes
        yield batch


def _described(command: StatementIngest, mode: WriteMode) -> str:
    """The load as a line of text."""
    place = ("temp",) if command.temporary else (command.catalog, command.schema)
    return f"INGEST {'.'.join(p for p in (*place, command.table) if p)} ({mode.value})"


def upload_handlers() -> dict[type, UploadHandler]:
    """Who answers DoPut."""
    return {StatementIngest: IngestHandler()}
