"""Actions about datasets: what is known of them, finding them, saying what they are, where they came from."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Literal

from pydantic import Field

from flight_server.actions.registry import ActionSpec, Permission, Request, Response
from flight_server.actions.table_request import (
    OfTable,
    check_dataset_change,
    guarded_indexes,
    located_dataset,
)
from flight_server.context import CallContext
from flight_server.execution import Recording
from lakehouse.access.guarded_datasets import DatasetSearch, GuardedDatasets, SeenDataset, place_of
from lakehouse.catalog.names import fold
from lakehouse.catalog.observer import caller
from lakehouse.config.profiles import NO_PROFILE
from lakehouse.datasets import (
    VECTORS,
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    LineageEdge,
    Sensitivity,
    VectorFacts,
)
from lakehouse.datasets.edit import ColumnEdit, DatasetEdit, Words, changes_between
from lakehouse.datasets.observed import declared_of, sensitivity_of
from lakehouse.engine.changes import Scope
from lakehouse.errors import InvalidRequest, SchemaNotFound, TableNotFound, VectorIndexNotFound
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.types import TableName

_MOST_OBJECTS = 1000


class DescribeDatasetRequest(OfTable):
    """A dataset by the name of its table; an index by its own in the catalog vectors."""


class ColumnSensitivity(Response):
    """A kind of personal or confidential data that a column holds."""

    kind: str
    confidence: float = Field(description="from 0 to 1; 1 where it was declared")
    evidence: str = Field(description="what it was concluded from, in numbers; never a value")
    declared: bool = Field(description="whether somebody said so, rather than the detection")


class DatasetColumn(Response):
    """What is known of a column; counts and bounds are none where nobody knows, or not for the caller."""

    name: str
    type: str
    nullable: bool
    description: str
    tags: list[str]
    values: int | None = Field(description="rows, those without a value included")
    nulls: int | None
    minimum: str | None = Field(description="no value is less; none for columns with personal data")
    maximum: str | None = Field(description="no value is greater; none for columns with personal data")
    size_bytes: int | None
    sensitivity: list[ColumnSensitivity]
    declined: list[str] = Field(description="kinds of data that somebody said it does not hold")


class DatasetSource(Response):
    """Where rows came from."""

    system: str
    source: str = Field(description="which one, without any secret")
    ingest: str = Field(description="what brought them")
    inputs: list[str] = Field(description="names of the datasets that they were made from")
    at: datetime = Field(description="when last")
    by: str


class DatasetObjectItem(Response):
    """One object of a dataset that was registered."""

    key: str
    size_bytes: int
    rows: int


class DatasetForeignKey(Response):
    """A declared, not enforced, reference to another table."""

    name: str
    columns: list[str]
    ref_schema: str
    ref_table: str
    ref_columns: list[str]


class DatasetVectors(Response):
    """What is known of the live generation of a vector index."""

    index: str = Field(description="as searches name it")
    generation: str
    live_since: datetime
    why: str = Field(description="what made it live: build, rollback or repair")
    model: str = Field(description="what the configuration calls the model; empty where nobody knows it")
    model_provider: str
    model_name: str
    model_digest: str
    dimension: int
    metric: str
    algorithm: str
    storage: str
    m: int
    ef_construction: int
    ef_search: int
    table: str | None = Field(description="where the vectors are; none where the caller may not read it")
    column: str
    snapshot_id: int | None = Field(description="the snapshot of it that was read")
    source: str = Field(description="what they were made from: who may read that may search the index")
    source_snapshot_id: int | None
    keys: list[str]
    build_seconds: float


class DatasetDescription(Response):
    """What is known of a dataset. Counts are those of the current snapshot.

    Who sees only a part of the rows or columns is told neither counts nor statistics nor sensitivity.
    """

    dataset_id: str = Field(description="outlives renames")
    kind: str = Field(description="table, parquet or vector_index")
    catalog: str
    db_schema: str
    table: str
    description: str
    owner: str
    tags: list[str]
    rows: int | None
    size_bytes: int | None
    object_count: int | None
    sensitivity: list[str] | None = Field(description="kinds of data that its columns hold")
    columns: list[DatasetColumn]
    primary_key: list[str]
    foreign_keys: list[DatasetForeignKey]
    snapshot_id: int | None
    fingerprint: str = Field(description="the same for schemas that are read alike")
    freshness: str = Field(description="fresh, late or unknown")
    freshness_seconds: int | None = Field(description="after how long without a change it is late")
    changed_at: datetime | None = Field(description="when its rows changed last")
    lineage: list[DatasetSource]
    bucket: str
    location: str = Field(description="what the keys of its objects begin with")
    objects: list[DatasetObjectItem] = Field(description="of a registered dataset, a thousand at most")
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    version: int = Field(description="counts the changes of what is known of it; 0 where nothing is kept yet")
    vectors: DatasetVectors | None = Field(description="of a vector index what else is known of it")


class SearchDatasetsRequest(Request):
    """What datasets have to be like; all that is given has to hold."""

    text: str | None = Field(
        default=None,
        min_length=1,
        description="occurs in the name, the description, a tag, or the name or description of a column",
    )
    tag: str | None = Field(default=None, description="a tag of the dataset or of a column")
    owner: str | None = Field(default=None, description="who answers for it")
    column: str | None = Field(default=None, description="the name of a column")
    sensitivity: str | None = Field(
        default=None, description="a kind of personal data, such as email; empty for any kind"
    )
    kind: Literal["table", "parquet", "vector_index"] | None = Field(default=None)
    freshness: Literal["fresh", "late", "unknown"] | None = Field(default=None)
    catalog: str | None = Field(default=None)
    db_schema: str | None = Field(default=None)
    limit: int = Field(default=100, ge=1, le=1000, description="most datasets to give")
    page: str = Field(default="", description="next_page of the answer that this one is to follow")


class FoundDataset(Response):
    """A dataset that was found."""

    dataset_id: str
    kind: str
    catalog: str
    db_schema: str
    table: str
    description: str
    owner: str
    tags: list[str]
    rows: int | None
    size_bytes: int | None
    sensitivity: list[str] | None
    freshness: str
    changed_at: datetime | None


class SearchDatasetsResponse(Response):
    """Datasets that the caller may read, sorted by name."""

    datasets: list[FoundDataset]
    next_page: str = Field(description="empty where there are no more")


class ColumnUpdate(Request):
    """What to say of a column; what is left out stays."""

    name: str = Field(min_length=1)
    description: str | None = Field(default=None, max_length=10_000, description="empty takes it away")
    tags: list[str] | None = Field(default=None, description="in place of all that it has")
    add_tags: list[str] = Field(default=[])
    remove_tags: list[str] = Field(default=[])
    declare: list[str] = Field(default=[], description="kinds of data that it holds: any words")
    decline: list[str] = Field(default=[], description="kinds of data that it does not hold")
    forget: list[str] = Field(default=[], description="kinds of which nothing is to be declared any more")


class UpdateDatasetRequest(OfTable):
    """What to say of a dataset; what is left out stays."""

    owner: str | None = Field(default=None, max_length=200)
    description: str | None = Field(default=None, max_length=10_000, description="empty takes it away")
    tags: list[str] | None = Field(default=None, description="in place of all that it has")
    add_tags: list[str] = Field(default=[])
    remove_tags: list[str] = Field(default=[])
    freshness_seconds: int | None = Field(
        default=None, ge=0, description="after how long without a change it is late; 0 for never"
    )
    columns: list[ColumnUpdate] = Field(default=[], max_length=10_000)


class DropDatasetRequest(OfTable):
    """A dataset by the name of its table."""

    if_exists: bool = Field(default=False, description="do nothing where there is none")


class DropDatasetResponse(Response):
    """What was dropped."""

    dropped: bool
    dataset_id: str
    kind: str


class LineageRequest(OfTable):
    """Where to begin, which way to go and how far."""

    direction: Literal["upstream", "downstream", "both"] = Field(default="both")
    depth: int = Field(default=10, ge=1, le=100, description="over so many steps")


class LineageDataset(Response):
    """A dataset in the graph."""

    dataset_id: str
    name: str
    kind: str
    distance: int = Field(description="steps from where the graph begins; negative upstream")
    dropped: bool


class LineageStep(Response):
    """Rows of one dataset, or of somewhere else, came into another."""

    from_id: str | None = Field(description="none where they came from no dataset of this lake")
    to_id: str
    system: str
    source: str
    ingest: str
    at: datetime = Field(description="when last")
    by: str


class LineageResponse(Response):
    """What a dataset came from and what came from it, of what the caller may read."""

    datasets: list[LineageDataset]
    steps: list[LineageStep]
    is_cut: bool = Field(description="whether there are more datasets than are told of")


def _datasets(ctx: CallContext) -> GuardedDatasets:
    lakehouse = ctx.lakehouse
    return GuardedDatasets(
        lakehouse.manifests,
        ctx.lakes,
        lakehouse.clock.now(),
        lakehouse.datasets.look_at,
        lakehouse.vector_manifests,
    )


def _found(ctx: CallContext, name: TableName) -> SeenDataset:
    if name.catalog == VECTORS:
        return _datasets(ctx).find(name)
    try:
        ctx.lakehouse.catalogs.of(name.catalog).refresh(name.schema, name.table)
        return _datasets(ctx).find(name)
    except (TableNotFound, SchemaNotFound):
        raise ctx.lakehouse.engine.binder.missing(name, ctx.lakes) from None


def _describe(ctx: CallContext, request: DescribeDatasetRequest) -> Iterator[Response]:
    yield _described(ctx, _found(ctx, located_dataset(ctx, request)))


def _described(ctx: CallContext, seen: SeenDataset) -> DatasetDescription:
    manifest, whole, table = seen.manifest, seen.is_whole, seen.table
    datasets = _datasets(ctx)
    return DatasetDescription(
        dataset_id=manifest.dataset_id,
        kind=manifest.kind.value,
        catalog=manifest.name.catalog,
        db_schema=manifest.name.schema,
        table=manifest.name.table,
        description=manifest.description,
        owner=manifest.owner,
        tags=list(manifest.tags),
        rows=manifest.rows if whole else None,
        size_bytes=manifest.size_bytes if whole else None,
        object_count=manifest.object_count if whole else None,
        sensitivity=list(seen.sensitivity) if whole else None,
        columns=[_column(column) for column in manifest.columns],
        primary_key=list(table.primary_key) if table else [],
        foreign_keys=_foreign_keys(ctx, seen),
        snapshot_id=manifest.snapshot_id,
        fingerprint=manifest.fingerprint,
        freshness=manifest.freshness(ctx.lakehouse.clock.now()),
        freshness_seconds=manifest.freshness_seconds,
        changed_at=manifest.changed_at,
        lineage=[_edge(datasets, edge) for edge in manifest.lineage],
        bucket=manifest.bucket,
        location=manifest.location,
        objects=[
            DatasetObjectItem(key=each.key, size_bytes=each.size_bytes, rows=each.rows)
            for each in manifest.objects[:_MOST_OBJECTS]
        ],
        created_at=manifest.created_at,
        created_by=manifest.created_by,
        updated_at=manifest.updated_at,
        updated_by=manifest.updated_by,
        version=manifest.version if ctx.lakehouse.manifests.get(manifest.dataset_id) else 0,
        vectors=None if manifest.vectors is None else _vectors(manifest.vectors),
    )


def _vectors(facts: VectorFacts) -> DatasetVectors:
    table = facts.source_table
    return DatasetVectors(
        index=facts.index,
        generation=facts.generation,
        live_since=facts.live_since,
        why=facts.why,
        model=facts.model,
        model_provider=facts.model_provider,
        model_name=facts.model_name,
        model_digest=facts.model_digest,
        dimension=facts.dimension,
        metric=facts.metric,
        algorithm=facts.algorithm,
        storage=facts.storage,
        m=facts.m,
        ef_construction=facts.ef_construction,
        ef_search=facts.ef_search,
        table=str(table) if table.table else None,
        column=facts.source_column,
        snapshot_id=facts.source_snapshot_id,
        source=str(facts.guard_table),
        source_snapshot_id=facts.guard_snapshot_id,
        keys=list(facts.guard_keys),
        build_seconds=facts.build_seconds,
    )


def _column(column: ColumnManifest) -> DatasetColumn:
    return DatasetColumn(
        name=column.name,
        type=column.type,
        nullable=column.nullable,
        description=column.description,
        tags=list(column.tags),
        values=column.values,
        nulls=column.nulls,
        minimum=column.minimum,
        maximum=column.maximum,
        size_bytes=column.size_bytes,
        sensitivity=[_sensitivity(each) for each in sensitivity_of(column)],
        declined=[each.kind for each in declared_of(column) if not each.confidence],
    )


def _sensitivity(each: Sensitivity) -> ColumnSensitivity:
    return ColumnSensitivity(
        kind=each.kind, confidence=each.confidence, evidence=each.evidence, declared=each.declared
    )


def _foreign_keys(ctx: CallContext, seen: SeenDataset) -> list[DatasetForeignKey]:
    """Those that refer to tables that the caller may read."""
    catalog = seen.manifest.name.catalog
    return [
        DatasetForeignKey(
            name=key.name,
            columns=list(key.columns),
            ref_schema=key.ref_schema,
            ref_table=key.ref_table,
            ref_columns=list(key.ref_columns),
        )
        for key in (seen.table.foreign_keys if seen.table else ())
        if ctx.session.access.table(TableName(catalog, key.ref_schema, key.ref_table)).read
    ]


def _edge(datasets: GuardedDatasets, edge: LineageEdge) -> DatasetSource:
    return DatasetSource(
        system=edge.system,
        source=edge.source,
        ingest=edge.ingest,
        inputs=[str(name) for name in datasets.input_names(edge)],
        at=edge.at,
        by=edge.by,
    )


def _search(ctx: CallContext, request: SearchDatasetsRequest) -> Iterator[Response]:
    wanted = DatasetSearch(
        request.text,
        request.tag,
        request.owner,
        request.column,
        request.sensitivity,
        request.kind,
        request.freshness,
        request.catalog,
        request.db_schema,
    )
    found: list[SeenDataset] = []
    for seen in itertools.islice(_datasets(ctx).search(wanted, _place(request.page)), request.limit + 1):
        ctx.check_cancelled()
        found.append(seen)
    shown = found[: request.limit]
    yield SearchDatasetsResponse(
        datasets=[_short(ctx, seen) for seen in shown],
        next_page=_page(shown[-1].manifest) if len(found) > len(shown) else "",
    )


def _short(ctx: CallContext, seen: SeenDataset) -> FoundDataset:
    manifest, whole = seen.manifest, seen.is_whole
    return FoundDataset(
        dataset_id=manifest.dataset_id,
        kind=manifest.kind.value,
        catalog=manifest.name.catalog,
        db_schema=manifest.name.schema,
        table=manifest.name.table,
        description=manifest.description,
        owner=manifest.owner,
        tags=list(manifest.tags),
        rows=manifest.rows if whole else None,
        size_bytes=manifest.size_bytes if whole else None,
        sensitivity=list(seen.sensitivity) if whole else None,
        freshness=manifest.freshness(ctx.lakehouse.clock.now()),
        changed_at=manifest.changed_at,
    )


def _page(manifest: DatasetManifest) -> str:
    return base64.urlsafe_b64encode(json.dumps(place_of(manifest)).encode()).decode("ascii")


def _place(page: str) -> tuple[str, ...]:
    if not page:
        return ()
    try:
        found = json.loads(base64.urlsafe_b64decode(page.encode("ascii")))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        raise InvalidRequest("page is not one that an answer of catalog.search gave", "leave it out to begin")
    return tuple(found)


def _update(ctx: CallContext, request: UpdateDatasetRequest) -> Iterator[Response]:
    """Field by field on the newest manifest, so that what others change meanwhile stays."""
    name, lakehouse = located_dataset(ctx, request), ctx.lakehouse
    check_dataset_change(ctx, name)
    before = _found(ctx, name).manifest
    edit, now, by = _edit(request), lakehouse.clock.now(), caller()
    edit.on(before, by, now)  # refuses what cannot be, before anything is changed
    if before.kind is DatasetKind.TABLE:
        # What tables and columns are in words, the tables themselves say, and so does the record of that.
        words, edit = edit.parted()
        docs = {column: each.description for column, each in words.by_column(before).items()}
        if words.description is not None or docs:
            ctx.lake(name).describe_table(
                name.schema, name.table, words.description, {c: d for c, d in docs.items() if d is not None}
            )
    made: list[DatasetManifest] = []

    def build(old: DatasetManifest | None) -> DatasetManifest:
        start = before if old is None or old.dropped else old
        made[:] = [start, edit.on(start, by, now)]
        return made[1]

    lakehouse.manifests.change(before.dataset_id, build)
    lakehouse.events.record(*changes_between(made[0], made[1], "action:catalog.update"))
    yield _described(ctx, _found(ctx, name))


def _edit(request: UpdateDatasetRequest) -> DatasetEdit:
    columns: dict[str, ColumnEdit] = {}
    for each in request.columns:
        if fold(each.name) in map(fold, columns):
            raise InvalidRequest(f"columns: '{each.name}' is named twice")
        columns[each.name] = ColumnEdit(
            each.description,
            _words(each),
            tuple(each.declare),
            tuple(each.decline),
            tuple(each.forget),
        )
    return DatasetEdit(
        request.owner, request.description, _words(request), request.freshness_seconds, columns
    )


def _words(request: UpdateDatasetRequest | ColumnUpdate) -> Words:
    everything = None if request.tags is None else tuple(request.tags)
    return Words(everything, tuple(request.add_tags), tuple(request.remove_tags))


def _drop(ctx: CallContext, request: DropDatasetRequest) -> Iterator[Response]:
    """A table goes as by DROP TABLE; of what was registered only that it is, never an object."""
    name, lakehouse = located_dataset(ctx, request), ctx.lakehouse
    try:
        check_dataset_change(ctx, name)
        manifest = _found(ctx, name).manifest
    except (TableNotFound, SchemaNotFound, VectorIndexNotFound):
        if not request.if_exists:
            raise
        yield DropDatasetResponse(dropped=False, dataset_id="", kind="")
        return
    if manifest.kind is DatasetKind.TABLE:
        sql = f"DROP TABLE {manifest.name.sql}"
        with Recording(ctx, sql) as recording:
            analysis = lakehouse.engine.gate.analyse(sql)
            recording.analysed(analysis, ctx.session)
            lakehouse.engine.changes.run(analysis, Scope(ctx.session, None, recording.watch()))
    elif manifest.vectors is not None:
        guarded_indexes(ctx, NO_PROFILE).drop(manifest.vectors.index)
    else:
        _forget(ctx, manifest)
    yield DropDatasetResponse(dropped=True, dataset_id=manifest.dataset_id, kind=manifest.kind.value)


def _forget(ctx: CallContext, manifest: DatasetManifest) -> None:
    now, by = ctx.lakehouse.clock.now(), caller()

    def build(old: DatasetManifest | None) -> DatasetManifest:
        return replace(old or manifest, dropped=True, updated_at=now, updated_by=by)

    # In this order: a record without a manifest would be taken for what was lost.
    ctx.lakehouse.registrations.forget_record(manifest.dataset_id)
    ctx.lakehouse.manifests.change(manifest.dataset_id, build)
    event = ChangeEvent("drop", str(manifest.name), manifest.dataset_id, source="action:catalog.drop")
    ctx.lakehouse.events.record(event)


def _lineage(ctx: CallContext, request: LineageRequest) -> Iterator[Response]:
    start = _found(ctx, located_dataset(ctx, request)).manifest
    datasets = _datasets(ctx)
    graph = datasets.lineage(
        start.dataset_id,
        request.depth,
        upstream=request.direction != "downstream",
        downstream=request.direction != "upstream",
    )
    nodes = sorted(graph.nodes.values(), key=lambda node: (node.distance, place_of(node.manifest)))
    yield LineageResponse(
        datasets=[
            LineageDataset(
                dataset_id=node.manifest.dataset_id,
                name=str(node.manifest.name),
                kind=node.manifest.kind.value,
                distance=node.distance,
                dropped=node.manifest.dropped,
            )
            for node in nodes
        ],
        steps=[
            LineageStep(
                from_id=link.from_id,
                to_id=link.to_id,
                system=link.edge.system,
                source=link.edge.source,
                ingest=link.edge.ingest,
                at=link.edge.at,
                by=link.edge.by,
            )
            for link in graph.links.values()
        ],
        is_cut=graph.is_cut,
    )


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "catalog.describe",
        "Everything that is known of a dataset: columns, counts, owner, tags, sensitivity, lineage",
        DescribeDatasetRequest,
        DatasetDescription,
        _describe,
        Permission.READ,
    ),
    ActionSpec(
        "catalog.search",
        "Find datasets by text, tag, owner, column, sensitivity, kind or freshness",
        SearchDatasetsRequest,
        SearchDatasetsResponse,
        _search,
        Permission.READ,
    ),
    ActionSpec(
        "catalog.update",
        "Say what a dataset and its columns are: owner, description, tags, freshness, sensitivity",
        UpdateDatasetRequest,
        DatasetDescription,
        _update,
        Permission.WRITE,
    ),
    ActionSpec(
        "catalog.drop",
        "Drop a table or a vector index, or forget what was registered",
        DropDatasetRequest,
        DropDatasetResponse,
        _drop,
        Permission.WRITE,
    ),
    ActionSpec(
        "catalog.lineage",
        "What a dataset came from, and what came from it",
        LineageRequest,
        LineageResponse,
        _lineage,
        Permission.READ,
    ),
)
