"""Actions that keep a table in shape: compaction, expiry of snapshots, removal of what nothing needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from pydantic import Field

from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    Request,
    Response,
    in_a_thread,
)
from flight_server.context import CallContext
from lakehouse.maintenance.compaction import CompactionOptions

Report = Callable[[float, str], None]


class MaintenanceRequest(Request):
    """A table by name."""

    table: str = Field(description="name of the table", min_length=1)
    db_schema: str | None = Field(default=None, description="its schema; the session's own when left out")


class CompactRequest(MaintenanceRequest):
    """Which files to put together."""

    target_bytes: int | None = Field(
        default=None, ge=1024, description="size of the new files; maintenance.target_file_bytes if left out"
    )
    min_files: int = Field(
        default=5,
        ge=1,
        description="groups of fewer small files are left alone; with 1 every file that has a delete file is "
        "written anew",
    )
    partition: str = Field(
        default="", description="only partitions whose path begins so, as system.partitions tells it"
    )


class CompactResponse(Response):
    """What was done; each commit is whole by itself."""

    files_before: int
    files_after: int
    rows: int = Field(description="rows that were written anew; the table has the same rows as before")
    bytes_before: int
    bytes_after: int
    commits: int
    conflicts: int = Field(description="groups of files that another writer changed first")


class ExpireRequest(MaintenanceRequest):
    """Which snapshots to forget. Tags and the heads of branches are always kept."""

    older_than: datetime | None = Field(
        default=None,
        description="snapshots committed before may go; UTC unless it has a zone; now if left out",
    )
    keep_last: int = Field(default=1, ge=1, description="so many of each branch are kept")


class ExpireResponse(Response):
    """What was done."""

    snapshots: list[int] = Field(description="the ids of the snapshots that were expired")
    references: list[str] = Field(description="tags and branches whose time was over")
    removed_files: int
    pending_files: int = Field(
        description="files that are removed when maintenance.grace_seconds have passed, or a statement has "
        "finished reading them"
    )


class OrphansRequest(MaintenanceRequest):
    """Which files to remove."""

    older_than_hours: float | None = Field(
        default=None, ge=1, description="only files that are so old; maintenance.orphan_days if left out"
    )
    dry_run: bool = Field(default=False, description="only tell what would be removed")


class OrphansResponse(Response):
    """Files that nothing refers to."""

    files: int
    size_bytes: int
    dry_run: bool
    keys: list[str] = Field(description="the first thousand, by their key in the bucket")


class PurgeRequest(MaintenanceRequest):
    """Which dropped table's files to delete, for good."""


class PurgeResponse(Response):
    """What was done."""

    files: int = Field(description="how many files were deleted; those that another table refers to stay")


def _checked(ctx: CallContext, request: MaintenanceRequest) -> str:
    """The table's schema, if the caller may change the table as a whole."""
    schema = request.db_schema or ctx.session.schema
    ctx.catalog.check_change(schema, request.table)
    ctx.catalog.load(schema, request.table)
    return schema


def _compact(ctx: CallContext, request: CompactRequest) -> Iterator[Progress | Response]:
    schema, maintenance = _checked(ctx, request), ctx.lakehouse.maintenance
    target = request.target_bytes or maintenance.target_bytes
    options = CompactionOptions(target, request.min_files, request.partition)

    def work(report: Report) -> Response:
        done = maintenance.compactor.compact(schema, request.table, options, report, ctx.cancelled)
        return CompactResponse(**asdict(done))

    return in_a_thread("table.compact", work)


def _expire(ctx: CallContext, request: ExpireRequest) -> Iterator[Progress | Response]:
    schema, lakehouse = _checked(ctx, request), ctx.lakehouse
    asked = request.older_than or lakehouse.clock.now()
    older_than = asked.replace(tzinfo=UTC) if asked.tzinfo is None else asked
    done = lakehouse.maintenance.cleaner.expire(schema, request.table, older_than, request.keep_last)
    yield ExpireResponse(
        snapshots=list(done.snapshots),
        references=list(done.references),
        removed_files=done.removed_files,
        pending_files=done.pending_files,
    )


def _remove_orphans(ctx: CallContext, request: OrphansRequest) -> Iterator[Progress | Response]:
    schema, lakehouse = _checked(ctx, request), ctx.lakehouse
    hours = request.older_than_hours
    days = lakehouse.settings.maintenance.orphan_days
    age = timedelta(days=days) if hours is None else timedelta(hours=hours)

    def work(report: Report) -> Response:
        found = lakehouse.maintenance.cleaner.remove_orphans(
            schema, request.table, age, report, ctx.cancelled, dry_run=request.dry_run
        )
        return OrphansResponse(
            files=found.files, size_bytes=found.size_bytes, dry_run=request.dry_run, keys=list(found.keys)
        )

    return in_a_thread("table.remove_orphans", work)


def _purge(ctx: CallContext, request: PurgeRequest) -> Iterator[Progress | Response]:
    schema = request.db_schema or ctx.session.schema
    ctx.catalog.check_change(schema, request.table)
    yield PurgeResponse(files=ctx.lakehouse.maintenance.cleaner.purge(schema, request.table))


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "table.compact",
        "Put the small files of a table together",
        CompactRequest,
        CompactResponse,
        _compact,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "table.expire_snapshots",
        "Forget old snapshots of a table and remove the files that only they need",
        ExpireRequest,
        ExpireResponse,
        _expire,
        Permission.WRITE,
    ),
    ActionSpec(
        "table.remove_orphans",
        "Remove files that unfinished writes left at the location of a table",
        OrphansRequest,
        OrphansResponse,
        _remove_orphans,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "table.purge",
        "Delete the files of a table that was dropped, for good",
        PurgeRequest,
        PurgeResponse,
        _purge,
        Permission.WRITE,
    ),
)
