"""Datasets as one principal sees them: what may not be read is not there."""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.catalog import Table
from lakehouse.catalog.names import fold
from lakehouse.datasets.manifest import (
    VECTORS,
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    LineageEdge,
    VectorFacts,
)
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.datasets.observed import is_current, merged, observed, sensitivity_of
from lakehouse.errors import (
    CatalogNotFound,
    LakehouseError,
    NotSupported,
    SchemaNotFound,
    TableNotFound,
    VectorIndexNotFound,
)
from lakehouse.types import TableName

MOST_NODES = 1000
"""So many datasets are told of in a graph of lineage."""


class IndexDatasets(Protocol):
    """Knows the vector indexes as datasets."""

    def find(self, name: TableName) -> DatasetManifest | None:
        """What is known of an index as it is now; None where there is none of that name."""
        ...


@dataclass(frozen=True, slots=True)
class SeenDataset:
    """A dataset as a principal sees it.

    Attributes:
        manifest: What is known of it, with counts as of the current snapshot. Of lineage only inputs that the
            principal may read.
        is_whole: Whether the principal sees all of its rows and columns; only then counts, statistics and
            kinds of data are for it.
        table: The table, where it is one.
    """

    manifest: DatasetManifest
    is_whole: bool
    table: Table | None = None

    @property
    def sensitivity(self) -> tuple[str, ...]:
        """The kinds of data that its columns hold, sorted."""
        columns = self.manifest.columns if self.is_whole else ()
        return tuple(sorted({each.kind for column in columns for each in sensitivity_of(column)}))


@dataclass(frozen=True, slots=True)
class DatasetSearch:
    """What datasets have to be like; what is None does not matter.

    Attributes:
        text: Occurs in the name, the description, a tag, or the name or description of a column.
        tag: One of its tags, or of a column's.
        owner: Its owner.
        column: The name of one of its columns.
        sensitivity: A kind of data that a column holds; empty for any kind.
        kind: What it is made of.
        freshness: ``fresh``, ``late`` or ``unknown``.
        catalog: Where it is.
        schema: Where it is.
    """

    text: str | None = None
    tag: str | None = None
    owner: str | None = None
    column: str | None = None
    sensitivity: str | None = None
    kind: str | None = None
    freshness: str | None = None
    catalog: str | None = None
    schema: str | None = None

    def may_fit(self, manifest: DatasetManifest) -> bool:
        """Whether a manifest fits, freshness and kinds of data apart."""
        name, columns = manifest.name, manifest.columns
        return (
            (self.catalog is None or fold(self.catalog) == fold(name.catalog))
            and (self.schema is None or fold(self.schema) == fold(name.schema))
            and (self.kind is None or self.kind == manifest.kind.value)
            and (self.owner is None or self.owner == manifest.owner)
            and (self.tag is None or self.tag in manifest.tags or any(self.tag in c.tags for c in columns))
            and (self.column is None or any(fold(self.column) == fold(c.name) for c in columns))
            and (self.text is None or _occurs(self.text, manifest))
        )

    def fits(self, seen: SeenDataset, now: datetime) -> bool:
        """Whether a dataset fits, as a principal sees it."""
        if self.sensitivity is not None:
            kinds = seen.sensitivity
            if not kinds or (self.sensitivity and self.sensitivity not in kinds):
                return False
        if self.freshness is not None and self.freshness != seen.manifest.freshness(now):
            return False
        return self.may_fit(seen.manifest)


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A dataset in a graph of lineage; ``distance`` is negative upstream."""

    manifest: DatasetManifest
    distance: int


@dataclass(frozen=True, slots=True)
class LineageLink:
    """What a dataset came from; ``from_id`` is None where that is no dataset of this lake."""

    from_id: str | None
    to_id: str
    edge: LineageEdge


@dataclass(slots=True)
class LineageGraph:
    """Datasets and what came from what; ``is_cut`` where there are more than are told of."""

    nodes: dict[str, LineageNode] = field(default_factory=dict)
    links: dict[tuple[str | None, str, LineageEdge], LineageLink] = field(default_factory=dict)
    is_cut: bool = False


class GuardedDatasets:
    """What a principal may know of datasets.

    Args:
        store: The manifests.
        lakes: The catalogs as the principal sees them.
        now: The time.
        missed: Told of names whose manifest turned out to be out of date.
        indexes: The vector indexes; without it there are none.
    """

    def __init__(
        self,
        store: ManifestStore,
        lakes: GuardedCatalogs,
        now: datetime,
        missed: Callable[[TableName], None] = lambda _: None,
        indexes: IndexDatasets | None = None,
    ) -> None:
        self._store = store
        self._lakes = lakes
        self._now = now
        self._missed = missed
        self._indexes = indexes

    def find(self, name: TableName) -> SeenDataset:
        """The dataset of a name.

        Raises:
            CatalogNotFound, SchemaNotFound, TableNotFound, VectorIndexNotFound: There is none for the
                principal.
        """
        if fold(name.catalog) == VECTORS:
            return self.index(name)
        lake = self._lakes.of(name.catalog)
        lake.check_read(name.schema, name.table)
        return self.of(lake.load(name.schema, name.table))

    def index(self, name: TableName) -> SeenDataset:
        """The vector index of a name.

        Raises:
            VectorIndexNotFound: There is none for the principal.
        """
        found = None if self._indexes is None else self._indexes.find(name)
        if found is None or not self._searches(found):
            raise VectorIndexNotFound(
                f"vector index '{name}' does not exist",
                'catalog.search with the kind "vector_index" lists them',
            )
        return self._seen(found, None)

    def indexes(self) -> Iterator[SeenDataset]:
        """The vector indexes that the principal may search, by name."""
        return self.search(DatasetSearch(kind=DatasetKind.VECTOR_INDEX.value))

    def of(self, table: Table) -> SeenDataset:
        """The dataset that a table is, which the principal may read."""
        known = self._store.get(table.uuid)
        if known is None:
            named = self._store.find(table.name)
            known = named if named is not None and named.kind is not DatasetKind.TABLE else None
        if (
            known is None
            or (known.kind is DatasetKind.TABLE and not is_current(known, table))
            or known.dropped
        ):
            known = merged(known, _observed(table, self._now))
        return self._seen(known, table)

    def readable(self, dataset_id: str) -> DatasetManifest | None:
        """The manifest of a dataset, dropped or not, whose name the principal may read."""
        found = self._store.get(dataset_id)
        return found if found is not None and self._reads(found) else None

    def search(self, wanted: DatasetSearch, after: tuple[str, ...] = ()) -> Iterator[SeenDataset]:
        """Datasets that fit, sorted by name, behind a place in that order; see ``place_of``."""
        for manifest in self._store.all():
            if place_of(manifest) <= after or not wanted.may_fit(manifest) or not self._reads(manifest):
                continue
            try:
                seen = self._current(manifest)
            except (SchemaNotFound, TableNotFound):
                self._missed(manifest.name)
                continue
            except NotSupported:
                continue  # registered in a bucket that is not configured any more
            if seen is not None and wanted.fits(seen, self._now):
                yield seen

    def lineage(self, dataset_id: str, depth: int, *, upstream: bool, downstream: bool) -> LineageGraph:
        """What a dataset came from, and what came from it, over so many steps.

        What may not be read is left out, and so is what can be reached only by way of it.
        """
        graph = LineageGraph()
        start = self.readable(dataset_id)
        if start is None:
            return graph
        graph.nodes[dataset_id] = LineageNode(start, 0)
        if upstream:
            self._follow(graph, dataset_id, depth, -1, self._inputs)
        if downstream:
            outputs = self._outputs()
            self._follow(graph, dataset_id, depth, 1, lambda each: outputs.get(each, ()))
        return graph

    def input_names(self, edge: LineageEdge) -> list[TableName]:
        """The names of the datasets that an edge begins at, of those that the principal may read."""
        found = (self.readable(each) for each in edge.inputs)
        return [manifest.name for manifest in found if manifest is not None]

    # -- one dataset ----------------------------------------------------------------------------------

    def _current(self, manifest: DatasetManifest) -> SeenDataset | None:
        """A dataset as it is now; None where its name belongs to another one."""
        name = manifest.name
        if manifest.kind is DatasetKind.VECTOR_INDEX:
            try:
                return self.index(name)
            except VectorIndexNotFound:
                return None
        lake = self._lakes.find(name.catalog)
        if lake is None:
            return None
        seen = self.of(lake.load(name.schema, name.table))
        if seen.manifest.dataset_id != manifest.dataset_id:
            self._missed(name)
            return None
        return seen

    def _seen(self, manifest: DatasetManifest, table: Table | None) -> SeenDataset:
        vectors = manifest.vectors
        guard = manifest.name if vectors is None else vectors.guard_table
        is_whole = not self._lakes.access.table(guard).restrictions
        lineage = tuple(self._visible(edge) for edge in manifest.lineage)
        if vectors is not None:
            # An edge names the table that it begins at.
            both = zip(lineage, manifest.lineage, strict=True)
            lineage = tuple(edge for edge, whole in both if edge.inputs or not whole.inputs)
        manifest = replace(manifest, lineage=lineage)
        if not is_whole:
            manifest = replace(
                manifest,
                rows=0,
                size_bytes=0,
                object_count=0,
                objects=(),
                columns=tuple(map(_bare, manifest.columns)),
            )
        if vectors is not None and not self._reads_name(vectors.source_table):
            # Of a table that is not there for the principal the index does not tell either.
            manifest = replace(manifest, vectors=replace(vectors, source=("", "", ""), source_id=""))

        return SeenDataset(manifest, is_whole, table)

    def _visible(self, edge: LineageEdge) -> LineageEdge:
        inputs = tuple(each for each in edge.inputs if self.readable(each) is not None)
        return edge if inputs == edge.inputs else replace(edge, inputs=inputs)

    def _reads(self, manifest: DatasetManifest) -> bool:
        if manifest.kind is DatasetKind.VECTOR_INDEX:
            return self._searches(manifest)
        return self._reads_name(manifest.name)

    def _searches(self, manifest: DatasetManifest) -> bool:
        """Whether the principal may search an index: it reads what the vectors were made from."""
        vectors = manifest.vectors
        return vectors is not None and may_search(self._lakes, vectors)

    def _reads_name(self, name: TableName) -> bool:
        return self._lakes.find(name.catalog) is not None and self._lakes.access.table(name).read

    # -- lineage --------------------------------------------------------------------------------------

    def _follow(
        self,
        graph: LineageGraph,
        start: str,
        depth: int,
        step: int,
        beside: Callable[[str], Iterable[LineageLink]],
    ) -> None:
        pending, done = deque([(start, 0)]), {start}
        while pending:
            at, distance = pending.popleft()
            if distance == depth:
                continue
            for link in beside(at):
                other = link.from_id if step < 0 else link.to_id
                found = None if other is None else self.readable(other)
                if other is not None and found is None:
                    continue
                if other is not None and found is not None and other not in done:
                    if len(graph.nodes) >= MOST_NODES:
                        graph.is_cut = True
                        continue
                    done.add(other)
                    graph.nodes.setdefault(other, LineageNode(found, step * (distance + 1)))
                    pending.append((other, distance + 1))
                graph.links[link.from_id, link.to_id, link.edge] = link

    def _inputs(self, dataset_id: str) -> Iterator[LineageLink]:
        manifest = self._store.get(dataset_id)
        for edge in manifest.lineage if manifest else ():
            shown = self._visible(edge)
            if not edge.inputs:
                yield LineageLink(None, dataset_id, shown)
            for each in shown.inputs:
                yield LineageLink(each, dataset_id, shown)

    def _outputs(self) -> Mapping[str, Sequence[LineageLink]]:
        found: dict[str, list[LineageLink]] = {}
        for manifest in self._store.all():
            for edge in manifest.lineage:
                if not edge.inputs:
                    continue
                shown = self._visible(edge)
                for each in shown.inputs:
                    found.setdefault(each, []).append(LineageLink(each, manifest.dataset_id, shown))
        return found


def may_search(lakes: GuardedCatalogs, vectors: VectorFacts) -> bool:
    """Whether a principal may search an index.

    Args:
        lakes: The catalogs as the principal sees them.
        vectors: The index.
    """
    guard = vectors.guard_table
    profile = vectors.index.rpartition(":")[0]
    if profile:
        found = lakes.access.profiles.get(profile)
        if found is None or not found.covers(guard):
            return False
    try:
        table = lakes.of(guard.catalog).load(guard.schema, guard.table)
    except (CatalogNotFound, SchemaNotFound, TableNotFound):
        return False
    if table.uuid != vectors.guard_id:
        return False
    told = {column.lower() for column in (*vectors.guard_columns, *vectors.guard_keys)}
    restrictions = lakes.access.table(guard).restrictions
    return not any(column in told for each in restrictions for column, _ in each.masks)


def place_of(manifest: DatasetManifest) -> tuple[str, ...]:
    """The place of a dataset in the order of their names."""
    return (manifest.name.catalog, manifest.name.schema, manifest.name.table, manifest.dataset_id)


def _observed(table: Table, now: datetime) -> DatasetManifest:
    try:
        return observed(table, now)
    except (NotSupported, LakehouseError):
        # What cannot be read has a name and columns all the same.
        return observed(table, now, statistics=False)


def _bare(column: ColumnManifest) -> ColumnManifest:
    """A column without what tells of rows."""
    return ColumnManifest(
        column.name, column.type, column.nullable, description=column.description, tags=column.tags
    )


def _occurs(text: str, manifest: DatasetManifest) -> bool:
    wanted = _plain(text)
    name = manifest.name
    places = [f"{name.catalog}.{name.schema}.{name.table}", manifest.description, *manifest.tags]
    for column in manifest.columns:
        places += (column.name, column.description, *column.tags)
    return any(wanted in _plain(place) for place in places)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
