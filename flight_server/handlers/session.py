"""SetSessionOptions, GetSessionOptions, CloseSession."""

from __future__ import annotations

from collections.abc import Iterator

from flight_server.context import CallContext
from flight_server.dispatch import ActionHandler
from flight_server.protocol.codec import (
    CloseStatus,
    SessionOptionError,
    encode_close_session,
    encode_session_options,
    encode_set_session_options,
)
from flight_server.protocol.commands import (
    CloseSession,
    GetSessionOptions,
    SessionOptionValue,
    SetSessionOptions,
)
from lakehouse.engine.database import SESSION_SETTINGS
from lakehouse.engine.session import PROFILE, WORKSPACE, Session
from lakehouse.errors import LakehouseError
from lakehouse.storage.rescue import reading


def set_options(ctx: CallContext, command: SetSessionOptions) -> Iterator[bytes]:
    """Set what can be set; the reply lists only what failed."""
    errors = {}
    # The schema is one of the catalog, and options come in any order.
    for name, value in sorted(command.options.items(), key=lambda option: option[0].lower() != "catalog"):
        error = _set(ctx, name, value)
        if error is not None:
            errors[name] = error
    yield encode_set_session_options(errors)


@reading()
def _set(ctx: CallContext, name: str, value: SessionOptionValue) -> SessionOptionError | None:
    engine, session = ctx.lakehouse.engine, ctx.session
    key = name.lower()
    if key not in ("catalog", "schema", WORKSPACE, PROFILE) and key not in SESSION_SETTINGS:
        return SessionOptionError.INVALID_NAME
    if isinstance(value, tuple | float):
        return SessionOptionError.INVALID_VALUE
    if key in (WORKSPACE, PROFILE) and not isinstance(value, str | None):
        return SessionOptionError.INVALID_VALUE
    text = None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    try:
        if key == "catalog":
            wanted = text or engine.catalogs.default.name
            if wanted.lower() != session.catalog.lower():
                engine.changes.set_catalog(session, wanted, session.schema)
        elif key == "schema" and text:
            engine.changes.set_schema(session, (_catalog_with(session, text), text))
        elif key == "schema":
            engine.changes.set_catalog(session, session.catalog)
        else:
            engine.changes.set_option(session, key, text)
    except LakehouseError:
        return SessionOptionError.INVALID_VALUE
    return None


def _catalog_with(session: Session, schema: str) -> str:
    """The catalog that a schema is taken from: the current one, unless only others have such a schema.

    Drivers send catalog and schema in calls of their own, in any order.
    """
    others = (lake.name for lake in session.lakes if lake.name != session.catalog)
    places = (session.catalog, *others)
    return next((name for name in places if session.lakes.of(name).schema_exists(schema)), session.catalog)


def get_options(ctx: CallContext, command: GetSessionOptions) -> Iterator[bytes]:
    """The options that are set."""
    session = ctx.session
    options = {"catalog": session.catalog, "schema": session.schema, **session.settings}
    own = {WORKSPACE: session.workspace, PROFILE: session.profile}
    yield encode_session_options(options | {name: value for name, value in own.items() if value})


def close(ctx: CallContext, command: CloseSession) -> Iterator[bytes]:
    """Roll back, drop temporary tables, forget the session and the login that opened it."""
    ctx.lakehouse.sessions.close(ctx.session)
    for token in ctx.session.tokens:
        ctx.lakehouse.authenticator.log_out(token)
    yield encode_close_session(CloseStatus.CLOSED)


def action_handlers() -> dict[type, ActionHandler]:
    """Who answers DoAction."""
    return {SetSessionOptions: set_options, GetSessionOptions: get_options, CloseSession: close}
