"""Manifests for tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from lakehouse.datasets import DatasetKind, DatasetManifest
from lakehouse.types import TableName

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def manifest(dataset_id: str = "d", name: str = "t", **changes: object) -> DatasetManifest:
    made = DatasetManifest(
        dataset_id, 1, DatasetKind.TABLE, TableName("lake", "main", name), "primary", f"warehouse/{name}",
        None, (), 0, 0, 0, (), "", "", "", (), (), None, None, NOW, "", NOW, "",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]
