"""BeginTransaction, EndTransaction; savepoints are refused because they are not announced."""

from __future__ import annotations

from collections.abc import Iterator

from flight_server.context import CallContext
from flight_server.dispatch import ActionHandler
from flight_server.protocol.codec import encode_begin_transaction
from flight_server.protocol.commands import (
    BeginSavepoint,
    BeginTransaction,
    EndAction,
    EndSavepoint,
    EndTransaction,
)
from lakehouse.errors import NotSupported, TransactionNotFound


def begin(ctx: CallContext, command: BeginTransaction) -> Iterator[bytes]:
    """Open a transaction in the caller's session."""
    yield encode_begin_transaction(ctx.session.begin().id.encode())


def end(ctx: CallContext, command: EndTransaction) -> Iterator[bytes]:
    """Commit or roll back."""
    name = command.transaction_id.decode("ascii", "replace")
    session = ctx.lakehouse.sessions.owner(name, ctx.session)
    transaction = session.transaction(command.transaction_id)
    if transaction is None:
        raise TransactionNotFound("the transaction is unknown or has ended")
    session.end(transaction, commit=command.action is EndAction.COMMIT)
    return iter(())


def no_savepoints(ctx: CallContext, command: BeginSavepoint | EndSavepoint) -> Iterator[bytes]:
    """Savepoints are not offered."""
    raise NotSupported("savepoints are not supported", "use transactions")


def action_handlers() -> dict[type, ActionHandler]:
    """Who answers DoAction."""
    return {
        BeginTransaction: begin,
        EndTransaction: end,
        BeginSavepoint: no_savepoints,
        EndSavepoint: no_savepoints,
    }
