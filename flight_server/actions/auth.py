"""Actions about who is calling and about API keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Request, Response
from flight_server.context import CallContext
from lakehouse.errors import NotSupported


class WhoamiRequest(Request):
    """Nothing to say."""


class WhoamiResponse(Response):
    """Who is calling, as the server sees it."""

    name: str = Field(description="name of the principal")
    roles: list[str] = Field(description="its roles, sorted")
    method: str = Field(
        description="how it was recognised: anonymous, password, api_key, token, jwt or certificate"
    )
    expires_at: datetime | None = Field(description="when that ends; null where it does not")


class CreateKeyRequest(Request):
    """A key to be made."""

    name: str = Field(description="what people call the key", min_length=1, max_length=200)
    principal: str | None = Field(
        default=None, description="who its holder is; the key's own name when left out"
    )
    roles: list[str] = Field(description="what its holder may do", min_length=1)
    expires_in_seconds: int | None = Field(
        default=None, description="how long it is good for; until it is revoked when left out", gt=0
    )


class CreateKeyResponse(Response):
    """The key. Its text is shown here once and kept nowhere."""

    id: str = Field(description="names the key when it is listed or revoked")
    key: str = Field(description="what its holder sends as a bearer token")
    expires_at: datetime | None


class ListKeysRequest(Request):
    """Nothing to say."""


class KeyState(Response):
    """A key and what has become of it."""

    id: str
    name: str
    principal: str
    roles: list[str]
    state: str = Field(description="active, expired or revoked")
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="when this server last saw it used since it started")


class ListKeysResponse(Response):
    """Every key, the oldest first."""

    keys: list[KeyState]


class RevokeKeyRequest(Request):
    """The key to end."""

    id: str = Field(description="id of the key")


class RevokeKeyResponse(Response):
    """The key is revoked; other servers on the same bucket know within seconds."""

    revoked: bool = Field(description="false where it was revoked already")


def _whoami(ctx: CallContext, _: WhoamiRequest) -> Iterator[Response]:
    caller = ctx.principal
    yield WhoamiResponse(
        name=caller.name, roles=sorted(caller.roles), method=caller.method, expires_at=caller.expires_at
    )


def _create(ctx: CallContext, request: CreateKeyRequest) -> Iterator[Response]:
    authenticator = ctx.lakehouse.authenticator
    if not authenticator.accepts_api_keys:
        raise NotSupported("this server accepts no API keys", "set auth.api_keys = true")
    seconds = request.expires_in_seconds
    try:
        expires_in = None if seconds is None else timedelta(seconds=seconds)
    except OverflowError:
        expires_in = timedelta.max
    holder = request.name if request.principal is None else request.principal
    key, text = authenticator.api_keys.create(
        request.name, holder, request.roles, expires_in, ctx.principal.name
    )
    yield CreateKeyResponse(id=key.id, key=text, expires_at=key.expires_at)


def _list(ctx: CallContext, _: ListKeysRequest) -> Iterator[Response]:
    states = ctx.lakehouse.authenticator.api_keys.states()
    yield ListKeysResponse(keys=[KeyState.model_validate(found.public()) for found in states])


def _revoke(ctx: CallContext, request: RevokeKeyRequest) -> Iterator[Response]:
    keys = ctx.lakehouse.authenticator.api_keys
    yield RevokeKeyResponse(revoked=keys.revoke(request.id, ctx.principal.name))


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec("auth.whoami", "Who the caller is", WhoamiRequest, WhoamiResponse, _whoami, Permission.READ),
    ActionSpec(
        "auth.keys.create", "Make an API key", CreateKeyRequest, CreateKeyResponse, _create, Permission.ADMIN
    ),
    ActionSpec(
        "auth.keys.list", "List the API keys", ListKeysRequest, ListKeysResponse, _list, Permission.ADMIN
    ),
    ActionSpec(
        "auth.keys.revoke",
        "End an API key",
        RevokeKeyRequest,
        RevokeKeyResponse,
        _revoke,
        Permission.ADMIN,
    ),
)
