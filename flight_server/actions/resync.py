"""Manifests compared with storage, and made anew from it."""

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
from flight_server.actions.table_request import OfTable, check_dataset_change, located_dataset
from flight_server.context import CallContext
from lakehouse.access.guarded_datasets import may_search
from lakehouse.datasets import VECTORS
from lakehouse.datasets.footers import Finding
from lakehouse.datasets.resync import MOST_FINDINGS, Resynced, Verified
from lakehouse.errors import InvalidRequest
from lakehouse.types import TableName

_MOST_DATASETS = 10_000

Report = Callable[[float, str], None]


class ResyncRequest(OfTable):
    """A dataset by the name of its table."""

    skip_damaged: bool = Field(
        default=False,
        description="leave damaged objects of a registered dataset out of it; without that they are refused",
    )


class FieldDifference(Response):
    """A field in which the former manifest differed from storage; none where there was nothing."""

    field: str
    old: str | None
    new: str | None


class StorageFinding(Response):
    """What is wrong in storage, or in a manifest."""

    problem: str = Field(
        description="missing, extra, changed_object, empty, truncated, corrupt, not_parquet, wrong_rows …"
    )
    detail: str
    key: str | None = Field(description="the object; none where no single one is concerned")


class ResyncResponse(Response):
    """What became of the manifest."""

    dataset_id: str
    changed: bool
    differences: list[FieldDifference]
    findings: list[StorageFinding] = Field(description="what is wrong in storage, a thousand at most")
    objects: int
    rows: int
    footers: int = Field(description="how many footers were read")


class ResyncMissingRequest(Request):
    """Nothing to say."""


class ResyncedDataset(Response):
    """A dataset that has a manifest again."""

    table: str
    dataset_id: str
    objects: int
    rows: int
    findings: int = Field(description="what is wrong in storage; catalog.verify tells it")


class FailedDataset(Response):
    """A dataset that could not be looked at."""

    table: str
    reason: str


class ResyncMissingResponse(Response):
    """Which datasets have a manifest again."""

    resynced: list[ResyncedDataset] = Field(description="ten thousand at most")
    failed: list[FailedDataset]
    count: int = Field(description="how many have a manifest again")


class VerifyRequest(Request):
    """Which datasets to look at, and how closely."""

    table: str | None = Field(default=None, description="only this one; every dataset when left out")
    db_schema: str | None = Field(default=None, description="its schema; the session's own when left out")
    catalog: str | None = Field(default=None, description="its catalog; the session's own when left out")
    deep: bool = Field(default=False, description="read every value of every object, not the footers only")


class VerifiedDataset(Response):
    """A dataset with what is wrong with it."""

    table: str | None = Field(description="none where manifests themselves are damaged")
    dataset_id: str
    findings: list[StorageFinding] = Field(description="a thousand at most")
    count: int = Field(description="how many there are")


class VerifyResponse(Response):
    """What differs between manifests and storage. Nothing was changed."""

    datasets: int = Field(description="how many were looked at")
    wrong: list[VerifiedDataset] = Field(description="those where something differs; ten thousand at most")
    healthy: bool = Field(description="whether there are none")


def _resync(ctx: CallContext, request: ResyncRequest) -> Iterator[Progress | Response]:
    name = located_dataset(ctx, request)
    check_dataset_change(ctx, name)

    def work(report: Report) -> Response:
        done = ctx.lakehouse.resync.resync(
            name,
            ctx.principal.name,
            ctx.check_cancelled,
            sparingly(report),
            skip_damaged=request.skip_damaged,
        )
        return ResyncResponse(
            dataset_id=done.dataset_id,
            changed=bool(done.differences),
            differences=[
                FieldDifference(field=each.field, old=each.old, new=each.new) for each in done.differences
            ],
            findings=_findings(done.findings),
            objects=done.objects,
            rows=done.rows,
            footers=done.footers,
        )

    return in_a_thread("catalog.resync", work)


def _resync_missing(ctx: CallContext, _: ResyncMissingRequest) -> Iterator[Progress | Response]:
    def work(report: Report) -> Response:
        done, failed = ctx.lakehouse.resync.resync_missing(
            ctx.principal.name, _visible(ctx), ctx.check_cancelled, sparingly(report)
        )
        return ResyncMissingResponse(
            resynced=[_resynced(each) for each in done[:_MOST_DATASETS]],
            failed=[FailedDataset(table=str(each.name), reason=each.reason) for each in failed],
            count=len(done),
        )

    return in_a_thread("catalog.resync_missing", work)


def _verify(ctx: CallContext, request: VerifyRequest) -> Iterator[Progress | Response]:
    names = None
    if request.table is not None:
        wanted = OfTable(table=request.table, db_schema=request.db_schema, catalog=request.catalog)
        name = located_dataset(ctx, wanted)
        check_dataset_change(ctx, name)
        names = [name]
    elif request.db_schema is not None or request.catalog is not None:
        raise InvalidRequest("db_schema and catalog say where a table is: expected table as well")

    def work(report: Report) -> Response:
        found, count = ctx.lakehouse.resync.verify(
            names, _visible(ctx), ctx.check_cancelled, sparingly(report), deep=request.deep
        )
        wrong = [each for each in found if each.name is not None or ctx.session.access.is_admin]
        return VerifyResponse(
            datasets=count,
            wrong=[_verified(each) for each in wrong[:_MOST_DATASETS]],
            healthy=not wrong,
        )

    return in_a_thread("catalog.verify", work)


def _visible(ctx: CallContext) -> Callable[[TableName], bool]:
    """Whether the caller sees all of a dataset: what is found tells of its rows."""
    lakes = ctx.lakes

    def visible(name: TableName) -> bool:
        if name.catalog == VECTORS:
            known = ctx.lakehouse.vector_manifests.find(name) or ctx.lakehouse.manifests.find(name)
            if known is None or known.vectors is None or not may_search(lakes, known.vectors):
                return False
            return not lakes.access.table(known.vectors.guard_table).restrictions
        access = lakes.access.table(name)
        return lakes.find(name.catalog) is not None and access.read and not access.restrictions

    return visible


def _findings(findings: tuple[Finding, ...]) -> list[StorageFinding]:
    return [
        StorageFinding(problem=each.problem, detail=each.detail, key=each.key or None)
        for each in findings[:MOST_FINDINGS]
    ]


def _resynced(each: Resynced) -> ResyncedDataset:
    return ResyncedDataset(
        table=str(each.name),
        dataset_id=each.dataset_id,
        objects=each.objects,
        rows=each.rows,
        findings=len(each.findings),
    )


def _verified(each: Verified) -> VerifiedDataset:
    return VerifiedDataset(
        table=None if each.name is None else str(each.name),
        dataset_id=each.dataset_id,
        findings=_findings(each.findings),
        count=each.count,
    )


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "catalog.resync",
        "Make the manifest of a dataset say what is in storage, and tell in what it differed",
        ResyncRequest,
        ResyncResponse,
        _resync,
        Permission.WRITE,
        streams=True,
    ),
    ActionSpec(
        "catalog.resync_missing",
        "Make a manifest for every dataset that lacks one",
        ResyncMissingRequest,
        ResyncMissingResponse,
        _resync_missing,
        Permission.ADMIN,
        streams=True,
    ),
    ActionSpec(
        "catalog.verify",
        "Compare manifests with storage, and change nothing",
        VerifyRequest,
        VerifyResponse,
        _verify,
        Permission.WRITE,
        streams=True,
    ),
)
