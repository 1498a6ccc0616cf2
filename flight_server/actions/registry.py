"""What an action is, and the table of all of them."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flight_server.context import CallContext
from flight_server.misfit import misfit
from lakehouse.access.policy import Permission
from lakehouse.errors import InternalError, InvalidRequest, PermissionDenied
from lakehouse.journal.change_event import Origin, acting
from lakehouse.storage.rescue import reading, used

__all__ = [
    "ActionRegistry",
    "ActionSpec",
    "Part",
    "Permission",
    "Progress",
    "ReadingResponse",
    "Request",
    "Response",
    "in_a_thread",
    "sparingly",
]


_EVERY = 0.01


class Request(BaseModel):
    """Base of request bodies: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(BaseModel):
    """Base of final results."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadingResponse(Response):
    """Base of final results that come from tables or objects."""

    rescue_used: list[str] = Field(
        default_factory=list, description="buckets in whose place the rescue bucket was read; it may be older"
    )


class Progress(BaseModel):
    """An intermediate result of a long action: the share done, 0 to 1, and what is happening."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    progress: float
    message: str = ""


class Part(BaseModel):
    """Base of what an action gives piece by piece before its final result; sent as ``{"part": {…}}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class ActionSpec:
    """One action. From this definition come its listing, validation, description, stubs and documentation.

    ``run`` yields any number of ``Progress`` and of its ``part``, and then exactly one ``response``; only
    actions with ``streams`` yield progress.
    """

    name: str
    summary: str
    request: type[Request]
    response: type[Response]
    run: Callable[[CallContext, Any], Iterator[Progress | Response | Part]]
    permission: Permission
    streams: bool = False
    part: type[Part] | None = None


def in_a_thread(
    name: str, work: Callable[[Callable[[float, str], None]], Response]
) -> Iterator[Progress | Response]:
    """Run the work of a long action in a thread of its own, so that its progress can be streamed meanwhile.

    Args:
        name: What to call the thread.
        work: Does the work; it is given what it can tell its progress to.
    """
    results: queue.Queue[Progress | Response | BaseException] = queue.Queue()

    def report(share: float, message: str) -> None:
        results.put(Progress(progress=share, message=message))

    def run() -> None:
        try:
            results.put(work(report))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that answers the client
            results.put(error)

    # On behalf of the same caller.
    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    try:
        while True:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
            if isinstance(result, Response):
                return
    finally:
        thread.join()


def sparingly(report: Callable[[float, str], None]) -> Callable[[float, str], None]:
    """What can be told of every step, and passes on those by which a hundredth of the work was done."""
    told = [-1.0]

    def tell(share: float, message: str) -> None:
        if share - told[0] >= _EVERY:
            told[0] = share
            report(share, message)

    return tell


class ActionRegistry:
    """The actions that a server offers, by name.

    Args:
        specs: Every action; names must be unique.
    """

    def __init__(self, specs: tuple[ActionSpec, ...]) -> None:
        self._specs: Mapping[str, ActionSpec] = {spec.name: spec for spec in specs}
        if len(self._specs) != len(specs):
            raise InternalError("two actions have the same name")

    def __iter__(self) -> Iterator[ActionSpec]:
        return iter(sorted(self._specs.values(), key=lambda spec: spec.name))

    def get(self, name: str) -> ActionSpec | None:
        """The action of that name, if there is one."""
        return self._specs.get(name)

    def run(self, ctx: CallContext, spec: ActionSpec, body: bytes) -> Iterator[bytes]:
        """Validate the body, run the action and give its results as JSON.

        Raises:
            PermissionDenied: The principal may not run it.
            InvalidRequest: The body is not JSON or does not fit; names the field.
        """
        if not ctx.session.access.may_run(spec.name, spec.permission):
            raise PermissionDenied(
                f"{ctx.principal.name} may not run {spec.name}",
                f"it needs the permission {spec.permission.value}",
            )
        request = decode_request(spec, body)
        session = ctx.session
        origin = Origin(session.principal.name, f"action:{spec.name}", session.workspace, "", ctx.request_id)
        with acting(origin), reading() if spec.permission is Permission.READ else nullcontext():
            for result in spec.run(ctx, request):
                ctx.check_cancelled()
                if isinstance(result, ReadingResponse):
                    result = result.model_copy(update={"rescue_used": list(used())})  # noqa: PLW2901
                text = result.model_dump_json()
                yield (f'{{"part":{text}}}' if isinstance(result, Part) else text).encode()


def decode_request(spec: ActionSpec, body: bytes) -> Request:
    """The validated request of an action; an empty body stands for ``{}``.

    Raises:
        InvalidRequest: The body is not JSON or does not fit; names the field.
    """
    try:
        return spec.request.model_validate(json.loads(body or b"{}"))
    except ValidationError as error:
        raise misfit(error, spec.request, spec.name, "body") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body of {spec.name} is not JSON") from error
