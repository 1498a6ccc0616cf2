"""Actions about tables: their history and their declared keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, ReadingResponse, Request, Response
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from lakehouse.types import ForeignKey


class TableRequest(OfTable):
    """A table by name."""


class SnapshotItem(Response):
    """One snapshot of a table."""

    snapshot_id: int = Field(description="what AT (VERSION => …) takes")
    timestamp: datetime = Field(description="when it was committed")
    current: bool


class SnapshotsResponse(ReadingResponse):
    """The history of a table, oldest first."""

    snapshots: list[SnapshotItem]


class ForeignKeyItem(Request):
    """A reference to the key of another table of the same catalog. Declared, not enforced."""

    name: str
    columns: list[str] = Field(min_length=1)
    ref_table: str
    ref_columns: list[str] = Field(min_length=1)
    ref_schema: str | None = Field(default=None, description="the table's own schema when left out")


class DeclareKeysRequest(TableRequest):
    """Which keys to declare; they replace those declared before."""

    primary_key: list[str] = Field(default_factory=list)
    foreign_keys: list[ForeignKeyItem] = Field(default_factory=list)


class DeclareKeysResponse(Response):
    """What is declared now."""

    primary_key: list[str]
    foreign_keys: list[str] = Field(description="names of the foreign keys")


def _snapshots(ctx: CallContext, request: TableRequest) -> Iterator[Response]:
    name = located(ctx, request)
    table = ctx.lake(name).load(name.schema, name.table)
    yield SnapshotsResponse(
        snapshots=[
            SnapshotItem(
                snapshot_id=s.snapshot_id, timestamp=s.timestamp, current=s.snapshot_id == table.snapshot_id
            )
            for s in table.snapshots()
        ]
    )


def _declare_keys(ctx: CallContext, request: DeclareKeysRequest) -> Iterator[Response]:
    name = located(ctx, request)
    foreign_keys = [
        ForeignKey(k.name, tuple(k.columns), k.ref_schema or name.schema, k.ref_table, tuple(k.ref_columns))
        for k in request.foreign_keys
    ]
    lake = ctx.lake(name)
    lake.declare_keys(name.schema, name.table, request.primary_key, foreign_keys)
    table = lake.load(name.schema, name.table)
    yield DeclareKeysResponse(
        primary_key=list(table.primary_key), foreign_keys=[key.name for key in table.foreign_keys]
    )


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "catalog.snapshots",
        "The snapshots of a table, for time travel",
        TableRequest,
        SnapshotsResponse,
        _snapshots,
        Permission.READ,
    ),
    ActionSpec(
        "catalog.declare_keys",
        "Declare the primary key and foreign keys of a table",
        DeclareKeysRequest,
        DeclareKeysResponse,
        _declare_keys,
        Permission.WRITE,
    ),
)
