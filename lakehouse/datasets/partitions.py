"""Columns whose values are in the keys of objects, as in ``year=2026/month=01/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from urllib.parse import unquote

import pyarrow as pa

from lakehouse.catalog.names import fold
from lakehouse.catalog.parquet_footer import ColumnFooter, Footer
from lakehouse.catalog.registered_table import NO_VALUE
from lakehouse.datasets.manifest import DatasetManifest
from lakehouse.errors import SchemaMismatch

_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)


def path_values(key: str, location: str) -> dict[str, str]:
    """What the directories of an object say: names and values, as they are written in its key.

    Args:
        key: The object's key.
        location: What the keys of the dataset begin with; directories within that say nothing.
    """
    return dict(_directories(key, location))


def _directories(key: str, location: str) -> list[tuple[str, str]]:
    inner = key.removeprefix(location).split("/")[:-1]
    parts = (segment.partition("=") for segment in inner)
    return [(name, value) for name, equals, value in parts if equals and name]


def partition_columns(keys: Iterable[str], location: str) -> list[tuple[str, pa.DataType]]:
    """The columns that the directories of a dataset's objects stand for.

    A column is of whole numbers or dates where all of its values are written as such, else text.

    Args:
        keys: The objects.
        location: What their keys begin with.

    Raises:
        SchemaMismatch: The directories of two objects do not have the same names in the same order, or one
            name twice.
    """
    names: list[str] | None = None
    first, found = "", dict[str, set[str]]()
    for key in keys:
        here = [name for name, _ in _directories(key, location)]
        if names is None:
            names, first = here, key
            if len({fold(name) for name in here}) != len(here):
                raise SchemaMismatch(
                    f"object '{key}' names a column twice in its directories: {', '.join(here)}"
                )
        elif here != names:
            raise SchemaMismatch(
                f"object '{key}' is in directories of {_named(here)}, object '{first}' of {_named(names)}",
                "all objects of a dataset are kept in directories of the same columns, in the same order; "
                "register them apart",
            )
        for name, value in path_values(key, location).items():
            found.setdefault(name, set()).add(unquote(value))
    return [(name, _type(found[name])) for name in names or []]


def path_schema(manifest: DatasetManifest) -> pa.Schema:
    """Those columns of a manifest whose values are in keys."""
    kinds = {"BIGINT": pa.int64(), "DATE": pa.date32()}
    return pa.schema(
        [(c.name, kinds.get(c.type, pa.string())) for c in manifest.columns if c.size_bytes is None]
    )


def with_path_columns(footer: Footer, location: str, columns: pa.Schema) -> Footer:
    """A footer that tells of the columns in the object's key as well.

    Args:
        footer: The footer of an object.
        location: What the keys of the dataset begin with.
        columns: The columns.
    """
    if not len(columns):
        return footer
    values = path_values(footer.key, location)
    added = []
    for column in columns:
        bound = _bound(unquote(values.get(column.name, NO_VALUE)), column.type)
        nulls = footer.rows if bound is None else 0
        added.append(ColumnFooter(column.name, column.type, nulls, bound, bound, 0))
    return replace(footer, columns=(*footer.columns, *added))


def _bound(text: str, kind: pa.DataType) -> int | bytes | None:
    if text == NO_VALUE:
        return None
    if pa.types.is_int64(kind):
        return int(text)
    if pa.types.is_date32(kind):
        return (date.fromisoformat(text) - date(1970, 1, 1)).days
    return text.encode()


def _type(values: set[str]) -> pa.DataType:
    told = values - {NO_VALUE}
    if told and all(_NUMBER.fullmatch(value) for value in told):
        return pa.int64()
    if told and all(_is_date(value) for value in told):
        return pa.date32()
    return pa.string()


def _is_date(text: str) -> bool:
    try:
        return len(text) == 10 and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no column"
