"""Registering Parquet objects where they are, so that they can be queried like tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    Request,
    Response,
    in_a_thread,
    sparingly,
)
from flight_server.context import CallContext
from lakehouse.datasets.registered_catalog import REGISTERED
from lakehouse.datasets.registration import Registration
from lakehouse.errors import InvalidRequest
from lakehouse.types import TableName

_MOST_KEYS = 1000

Report = Callable[[float, str], None]


class RegisterRequest(Request):
    """Which objects to register, and how to call them."""

    name: str = Field(description="schema.table; it is queried as registered.schema.table")
    bucket: str = Field(description="name of the bucket that holds the objects")
    prefix: str = Field(description="what their keys begin with, in whole segments; or the key of one object")
    description: str = Field(default="", max_length=10_000)
    owner: str = Field(default="", max_length=255, description="who answers for it")
    tags: list[str] = Field(default_factory=list, max_length=100, description="words to find it by")
    freshness_seconds: int | None = Field(
        default=None, ge=1, description="after how long without a new object it is late"
    )


class RegisteredColumn(Response):
    """A column of a registered dataset."""

    name: str
    type: str
    in_path: bool = Field(
        description="whether its values are in the keys (name=value/) rather than in objects"
    )


class RegisterResponse(Response):
    """What was registered. No object was changed."""

    dataset_id: str
    table: str = Field(description="what to call it in SQL")
    objects: int
    rows: int
    size_bytes: int
    fingerprint: str = Field(description="of the columns; equal for schemas that are read alike")
    columns: list[RegisteredColumn]
    ignored: list[str] = Field(
        description="keys below the prefix that are not Parquet by their names, a thousand at most; those "
        "that begin with _ or . are not told"
    )


def named(name: str) -> TableName:
    """The full name of what is registered as ``schema.table``.

    Raises:
        InvalidRequest: It is not of that form.
    """
    parts = name.split(".")
    if len(parts) == 3 and parts[0].lower() == REGISTERED:
        parts = parts[1:]
    if len(parts) != 2 or not all(parts):
        raise InvalidRequest(f"name: expected schema.table, found {name!r}")
    return TableName(REGISTERED, *parts)


def _register(ctx: CallContext, request: RegisterRequest) -> Iterator[Progress | Response]:
    name = named(request.name)
    ctx.lakes.of(REGISTERED).check_write(name.schema, name.table)

    def work(report: Report) -> Response:
        wanted = Registration(
            name,
            request.bucket,
            request.prefix,
            request.description,
            request.owner,
            tuple(request.tags),
            request.freshness_seconds,
        )
        manifest, ignored = ctx.lakehouse.registrations.register(
            wanted, ctx.principal.name, ctx.check_cancelled, sparingly(report)
        )
        return RegisterResponse(
            dataset_id=manifest.dataset_id,
            table=manifest.name.sql,
            objects=manifest.object_count,
            rows=manifest.rows,
            size_bytes=manifest.size_bytes,
            fingerprint=manifest.fingerprint,
            columns=[
                RegisteredColumn(name=each.name, type=each.type, in_path=each.size_bytes is None)
                for each in manifest.columns
            ],
            ignored=list(ignored[:_MOST_KEYS]),
        )

    return in_a_thread("catalog.register", work)


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "catalog.register",
        "Make Parquet objects of a bucket a table that can be read, where they are",
        RegisterRequest,
        RegisterResponse,
        _register,
        Permission.ADMIN,
        streams=True,
    ),
)
