"""The manifest of a dataset: what is known of it beyond its rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from lakehouse.types import TableName

VECTORS = "vectors"
"""The catalog in whose name the manifests of vector indexes are; no catalog of tables is called so."""


class DatasetKind(StrEnum):
    """What a dataset is made of."""

    TABLE = "table"
    """An Iceberg table of one of the catalogs."""
    PARQUET = "parquet"
    """Parquet objects of somebody else, registered in place and never changed."""
    VECTOR_INDEX = "vector_index"
    """An index of vectors: its live generation."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A kind of personal or confidential data that a column holds, or is declared to hold.

    Attributes:
        kind: ``email``, ``phone``, ``national_id``, ``card_number``, ``person_name``, ``address``,
            ``free_text``; where it was declared by somebody, any word.
        confidence: From 0 to 1; 1 where it was declared.
        evidence: What it was concluded from, in numbers; never a value.
        declared: Whether somebody said so, rather than the detection.
    """

    kind: str
    confidence: float
    evidence: str
    declared: bool = False


@dataclass(frozen=True, slots=True)
class ColumnManifest:
    """What is known of one column.

    ``values`` are all rows, ``nulls`` those without a value; ``minimum`` and ``maximum`` are bounds as text.
    What is not known is None. ``size_bytes`` is the compressed size in the data files.
    """

    name: str
    type: str
    nullable: bool = True
    values: int | None = None
    nulls: int | None = None
    minimum: str | None = None
    maximum: str | None = None
    size_bytes: int | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetObject:
    """One object that a dataset consists of; ``key`` is that in the dataset's bucket."""

    key: str
    size_bytes: int
    rows: int
    e_tag: str = ""


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """Where rows of a dataset came from.

    Attributes:
        system: What kind of system: ``postgresql``, ``file``, ``upload``, ``sql``, ``lake`` …
        source: Which one, without any secret: a URI, a host and database, a table.
        ingest: What brought them: the action or statement, and its id.
        inputs: The ids of the datasets they were made from, where these are known to this lake.
        at: When.
        by: Whose call it was.
    """

    system: str
    source: str
    ingest: str
    inputs: tuple[str, ...]
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class VectorFacts:
    """What is known of the live generation of a vector index.

    Attributes:
        index: The index, as searches name it.
        generation: Its id.
        slot: Counts the generations that were made live; of two manifests the one with the greater is newer.
        live_since: When it was made live.
        why: ``build``, ``rollback`` or ``repair``.
        model: What the configuration calls the model of the vectors; empty where nobody knows.
        model_provider: Who runs it.
        model_name: What its provider calls it.
        model_digest: Tells its version from others.
        dimension: Of the vectors.
        metric: How they are compared.
        algorithm: ``hnsw`` or ``exact``.
        storage: How their numbers are kept.
        m: Neighbours in the graph.
        ef_construction: Effort of building.
        ef_search: Effort of a search that says nothing.
        source: Where the vectors are: catalog, schema, table.
        source_id: The id of that table.
        source_column: The column of the vectors.
        source_snapshot_id: The snapshot that was read.
        guard: What they were made from, whose readers may search: catalog, schema, table.
        guard_id: The id of that table.
        guard_columns: Its columns that the index tells of.
        guard_keys: What tells its rows apart.
        guard_snapshot_id: The snapshot that they were made from.
        build_seconds: How long building took.
    """

    index: str
    generation: str
    slot: int
    live_since: datetime
    why: str
    model: str
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
    source: tuple[str, ...]
    source_id: str
    source_column: str
    source_snapshot_id: int | None
    guard: tuple[str, ...]
    guard_id: str
    guard_columns: tuple[str, ...]
    guard_keys: tuple[str, ...]
    guard_snapshot_id: int | None
    build_seconds: float

    @property
    def source_table(self) -> TableName:
        """Where the vectors are."""
        return TableName(*self.source)

    @property
    def guard_table(self) -> TableName:
        """What they were made from."""
        return TableName(*self.guard)


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """What is known of one dataset. Times are in UTC.

    Attributes:
        dataset_id: Of an Iceberg table its UUID, so that it outlives renames; else a UUID of its own.
        version: Counts the changes of this manifest, from 1.
        kind: What it is made of.
        name: Under which name it can be queried.
        bucket: The bucket that holds its objects.
        location: What the keys of its objects begin with.
        snapshot_id: The snapshot that counts, columns and fingerprint describe, where there are snapshots.
        objects: All of them, by key; empty for tables, whose snapshots list them.
        object_count: How many data files it has.
        rows: How many rows.
        size_bytes: The size of its data files.
        columns: In the order of the schema.
        fingerprint: Of the schema (``fingerprint.py``).
        owner: Who answers for it.
        description: What it is.
        tags: Words to find it by, sorted.
        lineage: Where its rows came from, oldest first.
        freshness_seconds: After how long without a change it is late; None where nobody said.
        changed_at: When its rows changed last; None where that is not known.
        created_at: When it became known to the lake.
        created_by: Whose call that was; empty where nobody knows.
        updated_at: When this version of the manifest was made.
        updated_by: Whose call that was.
        dropped: Whether the dataset is gone; such a manifest keeps its place for the record.
        vectors: Of a vector index what else is known of it.
    """

    dataset_id: str
    version: int
    kind: DatasetKind
    name: TableName
    bucket: str
    location: str
    snapshot_id: int | None
    objects: tuple[DatasetObject, ...]
    object_count: int
    rows: int
    size_bytes: int
    columns: tuple[ColumnManifest, ...]
    fingerprint: str
    owner: str
    description: str
    tags: tuple[str, ...]
    lineage: tuple[LineageEdge, ...]
    freshness_seconds: int | None
    changed_at: datetime | None
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    dropped: bool = False
    vectors: VectorFacts | None = None

    def freshness(self, now: datetime) -> str:
        """``fresh``, ``late``, or ``unknown`` where there is no agreed age or no known change."""
        if self.freshness_seconds is None or self.changed_at is None:
            return "unknown"
        age = (now - self.changed_at).total_seconds()
        return "late" if age > self.freshness_seconds else "fresh"
