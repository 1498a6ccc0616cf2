"""``system.datasets``, ``system.columns`` and ``system.lineage``: what is known of tables besides rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from lakehouse.access.guarded_datasets import GuardedDatasets, IndexDatasets, SeenDataset
from lakehouse.catalog import Table
from lakehouse.clock import Clock
from lakehouse.datasets.manifest import VECTORS
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.datasets.observed import sensitivity_of
from lakehouse.engine.system_history import scan_tables
from lakehouse.engine.system_tables import Reading, SystemTable

_TIME = pa.timestamp("us", tz="UTC")
_TEXTS = pa.list_(pa.field("l", pa.string()))
_OF = [("catalog_name", pa.string()), ("schema_name", pa.string()), ("table_name", pa.string())]

DATASETS_SCHEMA = pa.schema(
    [
        *_OF,
        ("dataset_id", pa.string()),
        ("kind", pa.string()),
        ("description", pa.string()),
        ("owner", pa.string()),
        ("tags", _TEXTS),
        ("sensitivity", _TEXTS),
        ("row_count", pa.int64()),
        ("size_bytes", pa.int64()),
        ("file_count", pa.int64()),
        ("column_count", pa.int64()),
        ("fingerprint", pa.string()),
        ("freshness", pa.string()),
        ("freshness_seconds", pa.int64()),
        ("changed_at", _TIME),
        ("snapshot_id", pa.int64()),
        ("bucket", pa.string()),
        ("location", pa.string()),
        ("created_at", _TIME),
        ("created_by", pa.string()),
        ("updated_at", _TIME),
        ("updated_by", pa.string()),
    ]
)
COLUMNS_SCHEMA = pa.schema(
    [
        *_OF,
        ("column_name", pa.string()),
        ("ordinal_position", pa.int64()),
        ("data_type", pa.string()),
        ("is_nullable", pa.bool_()),
        ("description", pa.string()),
        ("tags", _TEXTS),
        ("sensitivity", _TEXTS),
        ("confidence", pa.float64()),
        ("evidence", _TEXTS),
        ("value_count", pa.int64()),
        ("null_count", pa.int64()),
        ("minimum", pa.string()),
        ("maximum", pa.string()),
        ("size_bytes", pa.int64()),
    ]
)
LINEAGE_SCHEMA = pa.schema(
    [
        *_OF,
        ("dataset_id", pa.string()),
        ("system", pa.string()),
        ("source", pa.string()),
        ("ingest", pa.string()),
        ("input_id", pa.string()),
        ("input_name", pa.string()),
        ("last_at", _TIME),
        ("actor", pa.string()),
    ]
)
Rows = Callable[[GuardedDatasets, SeenDataset], Iterator[Mapping[str, Any]]]


def datasets_tables(
    store: ManifestStore, clock: Clock, indexes: IndexDatasets | None = None
) -> tuple[SystemTable, ...]:
    """The tables over the manifests of the datasets that a principal may read."""

    def table(name: str, summary: str, schema: pa.Schema, rows: Rows) -> SystemTable:
        def scan(reading: Reading) -> pa.Table:
            datasets = GuardedDatasets(store, reading.lakes, clock.now(), indexes=indexes)

            def of(found: Table, _: bool) -> Iterator[Mapping[str, Any]]:
                return rows(datasets, datasets.of(found))

            tables = scan_tables(reading, name, schema, of)
            vectors = [
                {**_named(seen), **row} for seen in _wanted(datasets, reading) for row in rows(datasets, seen)
            ]
            return pa.concat_tables([tables, pa.Table.from_pylist(vectors, schema)]) if vectors else tables

        return SystemTable(name, summary, schema, scan=scan)

    def datasets(_: GuardedDatasets, seen: SeenDataset) -> Iterator[Mapping[str, Any]]:
        return _datasets(seen, clock)

    return (
        table("datasets", "The datasets, with owner, tags, counts and freshness", DATASETS_SCHEMA, datasets),
        table(
            "columns",
            "The columns of the datasets, with statistics and sensitivity",
            COLUMNS_SCHEMA,
            _columns,
        ),
        table("lineage", "Where the rows of the datasets came from", LINEAGE_SCHEMA, _lineage),
    )


def _named(seen: SeenDataset) -> Mapping[str, Any]:
    name = seen.manifest.name
    return {"catalog_name": name.catalog, "schema_name": name.schema, "table_name": name.table}


def _wanted(datasets: GuardedDatasets, reading: Reading) -> Iterator[SeenDataset]:
    """The vector indexes that a statement wants."""
    catalogs = reading.wanted.get("catalog_name")
    if catalogs is not None and VECTORS not in catalogs:
        return
    for seen in datasets.indexes():
        reading.check()
        if all(value in reading.wanted.get(key, (value,)) for key, value in _named(seen).items()):
            yield seen


def _datasets(seen: SeenDataset, clock: Clock) -> Iterator[Mapping[str, Any]]:
    manifest, whole = seen.manifest, seen.is_whole
    yield {
        "dataset_id": manifest.dataset_id,
        "kind": manifest.kind.value,
        "description": manifest.description or None,
        "owner": manifest.owner or None,
        "tags": list(manifest.tags),
        "sensitivity": list(seen.sensitivity) if whole else None,
        "row_count": manifest.rows if whole else None,
        "size_bytes": manifest.size_bytes if whole else None,
        "file_count": manifest.object_count if whole else None,
        "column_count": len(manifest.columns),
        "fingerprint": manifest.fingerprint or None,
        "freshness": manifest.freshness(clock.now()),
        "freshness_seconds": manifest.freshness_seconds,
        "changed_at": manifest.changed_at,
        "snapshot_id": manifest.snapshot_id,
        "bucket": manifest.bucket,
        "location": manifest.location,
        "created_at": manifest.created_at,
        "created_by": manifest.created_by or None,
        "updated_at": manifest.updated_at,
        "updated_by": manifest.updated_by or None,
    }


def _columns(_: GuardedDatasets, seen: SeenDataset) -> Iterator[Mapping[str, Any]]:
    for position, column in enumerate(seen.manifest.columns, start=1):
        held = sensitivity_of(column)
        yield {
            "column_name": column.name,
            "ordinal_position": position,
            "data_type": column.type,
            "is_nullable": column.nullable,
            "description": column.description or None,
            "tags": list(column.tags),
            "sensitivity": [each.kind for each in held] if seen.is_whole else None,
            "confidence": max((each.confidence for each in held), default=None),
            "evidence": [each.evidence for each in held] if seen.is_whole else None,
            "value_count": column.values,
            "null_count": column.nulls,
            "minimum": column.minimum,
            "maximum": column.maximum,
            "size_bytes": column.size_bytes,
        }


def _lineage(datasets: GuardedDatasets, seen: SeenDataset) -> Iterator[Mapping[str, Any]]:
    manifest = seen.manifest
    for edge in manifest.lineage:
        row = {
            "dataset_id": manifest.dataset_id,
            "system": edge.system,
            "source": edge.source or None,
            "ingest": edge.ingest,
            "last_at": edge.at,
            "actor": edge.by or None,
        }
        if not edge.inputs:
            yield row
        for each in edge.inputs:
            found = datasets.readable(each)
            yield {**row, "input_id": each, "input_name": None if found is None else str(found.name)}
