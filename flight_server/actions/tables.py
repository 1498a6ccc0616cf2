"""Actions about a table's history: its snapshots, their names, going back, and what changed between two."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Self

from pydantic import Field, model_validator

from flight_server.actions.registry import ActionSpec, Permission, ReadingResponse, Request, Response
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from flight_server.execution import Recording, announced, new_handle
from lakehouse.catalog import IcebergCatalog, Snapshot, Table
from lakehouse.catalog.commit import writable
from lakehouse.catalog.history import SnapshotRecord, snapshot_records
from lakehouse.catalog.references import (
    create_reference,
    drop_reference,
    find_snapshot,
    latest,
    roll_back,
)
from lakehouse.catalog.table import Reference
from lakehouse.engine.diff import Diff, count_changes, plan_diff
from lakehouse.types import TableName


class HistoryRequest(OfTable):
    """A table by name."""


class SnapshotChoice(Request):
    """One snapshot of a table: by id, by name, or as of a time."""

    snapshot_id: int | None = Field(default=None, description="its id")
    ref: str | None = Field(default=None, min_length=1, description="the name of a tag or branch")
    timestamp: datetime | None = Field(
        default=None, description="a time at which it was the current one; UTC unless it has a zone"
    )

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        if sum(way is not None for way in (self.snapshot_id, self.ref, self.timestamp)) > 1:
            raise ValueError("expected only one of snapshot_id, ref and timestamp")
        return self


class SnapshotOf(HistoryRequest, SnapshotChoice):
    """A snapshot of a table; the current one where none is chosen."""


class TableSnapshot(Response):
    """One snapshot of a table."""

    snapshot_id: int
    parent_id: int | None
    sequence_number: int | None
    committed_at: datetime
    operation: str = Field(description="append, overwrite, delete or replace")
    summary: dict[str, str] = Field(
        description="counts of rows and files; empty for those who see only a part of the table"
    )
    tags: list[str]
    branches: list[str]
    is_current: bool


class TableSnapshotsResponse(ReadingResponse):
    """The snapshots of a table that are kept, oldest first."""

    snapshots: list[TableSnapshot]


class CreateTagRequest(SnapshotOf):
    """A name for a snapshot, which keeps the snapshot from being expired."""

    name: str = Field(min_length=1, description="the new tag")
    retain_days: float | None = Field(default=None, gt=0, description="for ever when left out")
    replace: bool = Field(default=False, description="move the tag, if the table has it already")


class CreateBranchRequest(SnapshotOf):
    """A name for a snapshot that other engines can commit to."""

    name: str = Field(min_length=1, description="the new branch")
    retain_days: float | None = Field(default=None, gt=0, description="for ever when left out")
    replace: bool = Field(default=False, description="move the branch, if the table has it already")


class DropReferenceRequest(HistoryRequest):
    """A tag or branch."""

    name: str = Field(min_length=1)


class ReferenceResponse(Response):
    """A tag or branch, and the snapshot that it stands or stood for."""

    name: str
    snapshot_id: int


class RollbackRequest(SnapshotOf):
    """The snapshot to go back to."""

    any_snapshot: bool = Field(
        default=False,
        description="allow one that the current snapshot did not come from, to go forward again or across",
    )
    expected_snapshot_id: int | None = Field(
        default=None, description="change nothing unless this is the current snapshot"
    )

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.snapshot_id is None and self.ref is None and self.timestamp is None:
            raise ValueError("expected one of snapshot_id, ref and timestamp")
        return self


class RollbackResponse(Response):
    """Which snapshot is the current one, and which was."""

    snapshot_id: int
    previous_snapshot_id: int | None


class DiffRequest(HistoryRequest):
    """Two snapshots of a table."""

    before: SnapshotChoice = Field(description="the earlier one: its snapshot_id, ref or timestamp")
    after: SnapshotChoice = Field(
        default=SnapshotChoice(), description="the later one; the current snapshot when left out"
    )


class DiffResponse(ReadingResponse):
    """How many rows differ, and the ticket of a DoGet that gives them."""

    before_id: int
    after_id: int
    inserted: int
    deleted: int
    updated: int = Field(description="rows whose key both snapshots have; 0 for a table without a key")
    key: list[str] = Field(description="the primary key, by which rows are recognised")
    change_column: str = Field(
        description="column of the result, before those of the table: INSERT, DELETE, UPDATE_BEFORE or "
        "UPDATE_AFTER"
    )
    files_read: int = Field(description="files that only one of the snapshots has")
    ticket: str = Field(description="a ticket for DoGet, in base64")
    expires_at: datetime = Field(description="until when the ticket can be used")


def _seen(ctx: CallContext, request: HistoryRequest) -> Table:
    """The table, asked from storage, if it is there for the caller."""
    name = located(ctx, request)
    ctx.lake(name).load(name.schema, name.table)
    return latest(_writable(ctx, name), name.schema, name.table)


def _changed(ctx: CallContext, request: HistoryRequest) -> Table:
    """The table, asked from storage, if the caller may change it as a whole."""
    name = located(ctx, request)
    ctx.lake(name).check_change(name.schema, name.table)
    return _seen(ctx, request)


def _writable(ctx: CallContext, name: TableName) -> IcebergCatalog:
    return writable(ctx.lakehouse.catalogs.of(name.catalog))


def _chosen(table: Table, choice: SnapshotChoice) -> Snapshot:
    return find_snapshot(table, choice.snapshot_id, choice.ref, choice.timestamp)


def _snapshots(ctx: CallContext, request: HistoryRequest) -> Iterator[Response]:
    table = _seen(ctx, request)
    in_part = bool(ctx.session.access.table(table.name).restrictions)
    yield TableSnapshotsResponse(snapshots=[_snapshot(r, in_part) for r in snapshot_records(table)])


def _snapshot(record: SnapshotRecord, in_part: bool) -> TableSnapshot:
    return TableSnapshot(
        snapshot_id=record.snapshot_id,
        parent_id=record.parent_id,
        sequence_number=record.sequence_number,
        committed_at=record.committed_at,
        operation=record.operation,
        summary={} if in_part else dict(record.summary),
        tags=list(record.tags),
        branches=list(record.branches),
        is_current=record.is_current,
    )


def _create_tag(ctx: CallContext, request: CreateTagRequest) -> Iterator[Response]:
    yield _create(ctx, request, "tag")


def _create_branch(ctx: CallContext, request: CreateBranchRequest) -> Iterator[Response]:
    yield _create(ctx, request, "branch")


def _create(ctx: CallContext, request: CreateTagRequest | CreateBranchRequest, kind: str) -> Response:
    table = _changed(ctx, request)
    reference = Reference(request.name, kind, _chosen(table, request).snapshot_id)
    retain = None if request.retain_days is None else timedelta(days=request.retain_days)
    create_reference(_writable(ctx, table.name), table, reference, retain, replace=request.replace)
    return ReferenceResponse(name=request.name, snapshot_id=reference.snapshot_id)


def _drop_tag(ctx: CallContext, request: DropReferenceRequest) -> Iterator[Response]:
    yield _drop(ctx, request, "tag")


def _drop_branch(ctx: CallContext, request: DropReferenceRequest) -> Iterator[Response]:
    yield _drop(ctx, request, "branch")


def _drop(ctx: CallContext, request: DropReferenceRequest, kind: str) -> Response:
    table = _changed(ctx, request)
    dropped = drop_reference(_writable(ctx, table.name), table, request.name, kind)
    return ReferenceResponse(name=request.name, snapshot_id=dropped)


def _rollback(ctx: CallContext, request: RollbackRequest) -> Iterator[Response]:
    table = _changed(ctx, request)
    chosen = _chosen(table, request).snapshot_id
    roll_back(
        _writable(ctx, table.name),
        table,
        chosen,
        request.expected_snapshot_id,
        any_snapshot=request.any_snapshot,
    )
    yield RollbackResponse(snapshot_id=chosen, previous_snapshot_id=table.metadata.current_snapshot_id)


def _diff(ctx: CallContext, request: DiffRequest) -> Iterator[Response]:
    """The counts are of a first run; the ticket stands for another, which gives the rows."""
    engine, session = ctx.lakehouse.engine, ctx.session
    table = _seen(ctx, request)
    before, after = _chosen(table, request.before), _chosen(table, request.after)
    with Recording(ctx, f"table.diff {table.name}", "query") as recording:
        watch = recording.watch()
        watch.note_tables((table.name,))
        diff = plan_diff(engine, session, table, before, after)
        counts = count_changes(engine, session, diff, watch)
        ticket, expires_at = _announced(ctx, diff, recording)
    yield DiffResponse(
        before_id=before.snapshot_id,
        after_id=after.snapshot_id,
        inserted=counts["INSERT"],
        deleted=counts["DELETE"],
        updated=counts["UPDATE_AFTER"],
        key=list(diff.key),
        change_column=diff.change_column,
        files_read=diff.files_read,
        ticket=base64.b64encode(ticket).decode("ascii"),
        expires_at=expires_at,
    )


def _announced(ctx: CallContext, diff: Diff, recording: Recording) -> tuple[bytes, datetime]:
    """The ticket that the rows can be fetched with."""
    handle = new_handle(ctx, diff.rows.schema)
    handle.plans, handle.record = (diff.rows,), recording.record
    recording.goes_on = True
    return announced(ctx, ctx.session, handle)


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "table.snapshots",
        "The snapshots of a table with their summaries, tags and branches",
        HistoryRequest,
        TableSnapshotsResponse,
        _snapshots,
        Permission.READ,
    ),
    ActionSpec(
        "table.create_tag",
        "Give a snapshot a name that stays, and keep it",
        CreateTagRequest,
        ReferenceResponse,
        _create_tag,
        Permission.WRITE,
    ),
    ActionSpec(
        "table.drop_tag",
        "Take a tag away",
        DropReferenceRequest,
        ReferenceResponse,
        _drop_tag,
        Permission.WRITE,
    ),
    ActionSpec(
        "table.create_branch",
        "Begin a branch at a snapshot",
        CreateBranchRequest,
        ReferenceResponse,
        _create_branch,
        Permission.WRITE,
    ),
    ActionSpec(
        "table.drop_branch",
        "Take a branch away",
        DropReferenceRequest,
        ReferenceResponse,
        _drop_branch,
        Permission.WRITE,
    ),
    ActionSpec(
        "table.rollback",
        "Make an earlier snapshot of a table the current one",
        RollbackRequest,
        RollbackResponse,
        _rollback,
        Permission.WRITE,
    ),
    ActionSpec(
        "table.diff",
        "The rows that distinguish two snapshots of a table",
        DiffRequest,
        DiffResponse,
        _diff,
        Permission.READ,
    ),
)
