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
    Response,
    in_a_thread,
)
from flight_server.actions.table_request import OfTable, located
from flight_server.context import CallContext
from lakehouse.maintenance.compaction import CompactionOptions
from lakehouse.maintenance.policy import CatalogMaintenance
from lakehouse.types import TableName

Report = Callable[[float, str], None]


class MaintenanceRequest(OfTable):
    """A table by name."""


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


def _checked(ctx: CallContext, request: MaintenanceRequest) -> tuple[TableName, CatalogMaintenance]:
    """The table, if the caller may change it as a whole, and what looks after it."""
    name = located(ctx, request)
    lake = ctx.lake(name)
    lake.check_change(name.schema, name.table)
    lake.load(name.schema, name.table)
    return name, ctx.lakehouse.maintenance.of(name.catalog)


def _compact(ctx: CallContext, request: CompactRequest) -> Iterator[Progress | Response]:
    name, maintenance = _checked(ctx, request)
    target = request.target_bytes or ctx.lakehouse.maintenance.target_bytes
    options = CompactionOptions(target, request.min_files, request.partition)

    def work(report: Report) -> Response:
        done = maintenance.compactor.compact(name.schema, name.table, options, report, ctx.cancelled)
        return CompactResponse(**asdict(done))

    return in_a_thread("table.compact", work)


def _expire(ctx: CallContext, request: ExpireRequest) -> Iterator[Progress | Response]:
    name, maintenance = _checked(ctx, request)
    asked = request.older_than or ctx.lakehouse.clock.now()
    older_than = asked.replace(tzinfo=UTC) if asked.tzinfo is None else asked
    done = maintenance.cleaner.expire(name.schema, name.table, older_than, request.keep_last)
    yield ExpireResponse(
        snapshots=list(done.snapshots),
        references=list(done.references),
        removed_files=done.removed_files,
        pending_files=done.pending_files,
    )


def _remove_orphans(ctx: CallContext, request: OrphansRequest) -> Iterator[Progress | Response]:
    name, maintenance = _checked(ctx, request)
    hours = request.older_than_hours
    days = ctx.lakehouse.settings.maintenance.orphan_days
    age = timedelta(days=days) if hours is None else timedelta(hours=hours)

    def work(report: Report) -> Response:
        found = maintenance.cleaner.remove_orphans(
            name.schema, name.table, age, report, ctx.cancelled, dry_run=request.dry_run
        )
        return OrphansResponse(
            files=found.files, size_bytes=found.size_bytes, dry_run=request.dry_run, keys=list(found.keys)
        )

    return in_a_thread("table.remove_orphans", work)


def _purge(ctx: CallContext, request: PurgeRequest) -> Iterator[Progress | Response]:
    name = located(ctx, request)
    ctx.lake(name).check_change(name.schema, name.table)
    cleaner = ctx.lakehouse.maintenance.of(name.catalog).cleaner
    yield PurgeResponse(files=cleaner.purge(name.schema, name.table))


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
