"""CommandStatementIngest: bulk load of Arrow batches into a table."""

from __future__ import annotations

from flight_server.context import CallContext
from flight_server.dispatch import Upload, UploadHandler
from flight_server.execution import watch
from flight_server.protocol.codec import encode_update_result
from flight_server.protocol.commands import IfExists, IfNotExist, StatementIngest
from lakehouse.engine.changes import Scope
from lakehouse.errors import InvalidRequest
from lakehouse.ingest import WriteMode

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
        owner = (command.transaction_id or b"").decode("ascii", "replace")
        session = ctx.lakehouse.sessions.owner(owner, ctx.session)
        transaction = session.transaction(command.transaction_id) or session.only_transaction()
        scope = Scope(session, transaction, watch(ctx))
        engine = ctx.lakehouse.engine
        if command.temporary:
            if command.catalog or command.schema:
                raise InvalidRequest("a temporary table has no catalog or schema", "leave them out")
            rows = engine.changes.ingest_temporary(scope, command.table, mode, upload.schema, upload.batches)
        else:
            path = tuple(p for p in (command.catalog, command.schema or session.schema, command.table) if p)
            target = engine.binder.locate(path, session)
            rows = engine.changes.ingest(scope, target, mode, upload.schema, upload.batches)
        upload.reply(encode_update_result(rows))


def upload_handlers() -> dict[type, UploadHandler]:
    """Who answers DoPut."""
    return {StatementIngest: IngestHandler()}
