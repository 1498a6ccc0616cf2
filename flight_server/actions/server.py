"""Actions about the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError

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


class CheckRequest(Request):
    """A request to look at."""

    action: str = Field(description="name of the action", min_length=1)
    request: dict[str, Any] = Field(default_factory=dict, description="the request as it would be sent")


class CheckResponse(Response):
    """Whether an action would take a request from the caller. What the request is about is not looked at."""

    problems: list[str] = Field(description="what is wrong, with the field; empty where nothing is")


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


def check_spec(specs: tuple[ActionSpec, ...]) -> ActionSpec:
    """The action ``actions.check`` over these actions and itself."""

    def run(ctx: CallContext, request: CheckRequest) -> Iterator[Response]:
        found = ActionRegistry((*specs, spec)).get(request.action)
        if found is None:
            raise UnknownAction(f"no action is called {request.action}", "actions.describe tells of all")
        problems = []
        if not ctx.session.access.may_run(found.name, found.permission):
            problems.append(f"{ctx.principal.name} may not run {found.name} ({found.permission.value})")
        try:
            found.request.model_validate(request.request)
        except ValidationError as error:
            problems += [
                f"{'.'.join(map(str, each['loc'])) or 'request'}: {each['msg']}" for each in error.errors()
            ]
        yield CheckResponse(problems=problems)

    spec = ActionSpec(
        "actions.check",
        "Whether an action would take a request; nothing is done",
        CheckRequest,
        CheckResponse,
        run,
        Permission.READ,
    )
    return spec


ACTIONS: tuple[ActionSpec, ...] = (STATUS,)
