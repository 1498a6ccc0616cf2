"""What a dataset and its columns are, in one line each, for programs that show a remark and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.datasets.manifest import ColumnManifest, DatasetManifest
from lakehouse.datasets.observed import sensitivity_of


def table_remarks(manifest: DatasetManifest | None, description: str | None) -> str:
    """The description of a dataset, then what else is said of it in brackets; empty where nothing is.

    Args:
        manifest: What is known of it, if anything is.
        description: What it is, as its table says.
    """
    if manifest is None:
        return description or ""
    kinds = sorted({each.kind for column in manifest.columns for each in sensitivity_of(column)})
    owner = [manifest.owner] if manifest.owner else []
    return _line(description, (("owner", owner), ("tags", manifest.tags), ("sensitivity", kinds)))


def column_remarks(column: ColumnManifest | None, description: str | None) -> str:
    """The description of a column, then what else is said of it in brackets; empty where nothing is."""
    if column is None:
        return description or ""
    kinds = [each.kind for each in sensitivity_of(column)]
    return _line(description, (("tags", column.tags), ("sensitivity", kinds)))


def _line(description: str | None, facts: Sequence[tuple[str, Sequence[str]]]) -> str:
    told = "; ".join(f"{name}: {', '.join(words)}" for name, words in facts if words)
    return " ".join(part for part in (description or "", f"[{told}]" if told else "") if part)
