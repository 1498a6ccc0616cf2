"""Datasets: what is known of tables and registered files beyond their rows, kept as manifests."""

from lakehouse.datasets.manifest import (
    VECTORS,
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    DatasetObject,
    LineageEdge,
    Sensitivity,
    VectorFacts,
)

__all__ = [
    "VECTORS",
    "ColumnManifest",
    "DatasetKind",
    "DatasetManifest",
    "DatasetObject",
    "LineageEdge",
    "Sensitivity",
    "VectorFacts",
]
