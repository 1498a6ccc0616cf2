"""Datasets: what is known of tables and registered files beyond their rows, kept as manifests."""

from lakehouse.datasets.manifest import (
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    DatasetObject,
    LineageEdge,
    Sensitivity,
)

__all__ = [
    "ColumnManifest",
    "DatasetKind",
    "DatasetManifest",
    "DatasetObject",
    "LineageEdge",
    "Sensitivity",
]
