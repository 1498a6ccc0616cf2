"""Actions about the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from flight_server import __version__
from flight_server.actions.registry import ActionRegistry, ActionSpec, Permission, Request, Response
from flight_server.context import CallContext
from lakehouse.errors import UnknownAction


class StatusRequest(Request):
    """Nothing to say."""


class StatusResponse(Response):
    """How the server is doing."""

    version: str = Field(description="version of the server")
    catalog: str = Field(description="name of the default catalog")
    catalogs: list[str] = Field(description="names of all catalogs that are there for the caller")
    schemas: int = Field(description="number of schemas, of all catalogs")
    sessions: int = Field(description="open sessions")
    running_statements: int = Field(description="statements at work now")
    uptime_seconds: float = Field(description="seconds since the server was built")


class DescribeRequest(Request):
    """Which action to describe."""

    name: str | None = Field(default=None, description="name of one action; all when left out")


class ActionDescription(Response):
    """One action."""

    name: str
    summary: str
    permission: str
    streams: bool = Field(description="whether progress results come before the final one")
    request_schema: dict[str, Any] = Field(description="JSON Schema of the request body")
    response_schema: dict[str, Any] = Field(description="JSON Schema of the final result")


class DescribeResponse(Response):
    """The actions asked for, sorted by name."""

    actions: list[ActionDescription]


def _status(ctx: CallContext, _: StatusRequest) -> Iterator[Response]:
    lakehouse = ctx.lakehouse
    yield StatusResponse(
        version=__version__,
        catalog=lakehouse.catalog.name,
        catalogs=list(ctx.lakes.names),
        schemas=sum(len(lake.schemas()) for lake in ctx.lakes),
        sessions=len(lakehouse.sessions.sessions()),
        running_statements=lakehouse.engine.running.count(),
        uptime_seconds=lakehouse.uptime_seconds(),
    )


def describe(spec: ActionSpec) -> ActionDescription:
    """The self-description of an action."""
    return ActionDescription(
        name=spec.name,
        summary=spec.summary,
        permission=spec.permission.value,
        streams=spec.streams,
        request_schema=spec.request.model_json_schema(),
        response_schema=spec.response.model_json_schema(),
    )


STATUS = ActionSpec(
    "server.status",
    "Version, uptime and what is open",
    StatusRequest,
    StatusResponse,
    _status,
    Permission.READ,
)


def describe_spec(specs: tuple[ActionSpec, ...]) -> ActionSpec:
    """The action ``actions.describe`` over these actions and itself."""

    def run(_: CallContext, request: DescribeRequest) -> Iterator[Response]:
        registry = ActionRegistry((*specs, spec))
        if request.name is None:
            yield DescribeResponse(actions=[describe(s) for s in registry])
            return
        found = registry.get(request.name)
        if found is None:
            raise UnknownAction(f"no action is called {request.name}", "call actions.describe without a name")
        yield DescribeResponse(actions=[describe(found)])

    spec = ActionSpec(
        "actions.describe",
        "Request and response schemas of every action",
        DescribeRequest,
        DescribeResponse,
        run,
        Permission.READ,
    )
    return spec


ACTIONS: tuple[ActionSpec, ...] = (STATUS,)
