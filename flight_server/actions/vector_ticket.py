"""Searches of vector indexes in one call: the ticket of a DoGet that says what ``vectors.search`` is told.

A ticket is JSON: ``{"search": {"index": "notes", "texts": ["how to bake"], "k": 3}}``, with what the action
takes. Vectors may follow it instead, as float32 in little-endian order behind one zero byte; ``"dimension"``
beside ``"index"`` says how long each is where there are several.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from flight_server.actions.registry import Permission
from flight_server.actions.vectors_search import SearchVectorsRequest, searched
from flight_server.context import CallContext
from flight_server.dispatch import DataStream
from flight_server.misfit import misfit
from lakehouse.errors import InvalidRequest, PermissionDenied
from lakehouse.journal.change_event import Origin, acting
from lakehouse.storage.rescue import reading

_ACTION = "vectors.search"
_BEGIN = re.compile(rb'\s*\{\s*"search"\s*:')
_FLOAT_BYTES = 4


class SearchTicket(BaseModel):
    """What such a ticket may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search: SearchVectorsRequest


def is_search_ticket(ticket: bytes) -> bool:
    """Whether a ticket is one of a search."""
    return _BEGIN.match(ticket) is not None


def decode_ticket(ticket: bytes) -> SearchVectorsRequest:
    """The validated request of a ticket.

    Raises:
        InvalidRequest: It does not fit; names the field.
    """
    text, zero, packed = ticket.partition(b"\0")
    try:
        if not zero:
            return SearchTicket.model_validate_json(text).search
        return SearchTicket.model_validate(_unpacked(text, packed)).search
    except ValidationError as error:
        raise misfit(error, SearchTicket, "search ticket", "ticket") from error


def stream(ctx: CallContext, request: SearchVectorsRequest) -> DataStream:
    """What a search finds, with the way and the effort of it in the metadata of the schema.

    Raises:
        PermissionDenied: The principal may not run the action.
        LakehouseError: As of the action.
    """
    session = ctx.session
    if not session.access.may_run(_ACTION, Permission.READ):
        raise PermissionDenied(
            f"{ctx.principal.name} may not run {_ACTION}",
            f"it needs the permission {Permission.READ.value}",
        )
    origin = Origin(session.principal.name, f"ticket:{_ACTION}", session.workspace, "", ctx.request_id)
    with acting(origin), reading():
        answer = searched(ctx, request)
    rows = answer.rows.replace_schema_metadata(
        {**(answer.rows.schema.metadata or {}), b"vectors.ef": str(answer.ef)}
    )
    return DataStream(rows.schema, ctx.lakehouse.engine.batches_of(rows))


def _unpacked(text: bytes, packed: bytes) -> dict[str, Any]:
    """What a ticket says, with the vectors that follow it."""
    try:
        said = json.loads(text)
        search = said["search"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise InvalidRequest("the search ticket is not JSON with an object 'search'") from None
    if not isinstance(search, dict) or "vectors" in search:
        raise InvalidRequest("the search ticket has vectors twice: in its JSON and behind it")
    numbers, rest = divmod(len(packed), _FLOAT_BYTES)
    dimension = search.pop("dimension", numbers)
    if not isinstance(dimension, int) or dimension < 1 or rest or numbers % dimension:
        raise InvalidRequest(
            f"{len(packed)} bytes follow the search ticket, expected vectors of {dimension!r} float32"
        )
    search["vectors"] = np.frombuffer(packed, "<f4").reshape(-1, dimension).tolist()
    return said  # type: ignore[no-any-return]
