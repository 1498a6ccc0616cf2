"""What footers tell of a dataset as a whole, collected object by object."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from lakehouse.catalog.arrow_types import storable_type
from lakehouse.catalog.names import fold
from lakehouse.catalog.parquet_footer import Bound, ColumnFooter, Footer, bound_text
from lakehouse.catalog.registered_table import columns_of
from lakehouse.datasets.manifest import ColumnManifest, DatasetObject


@dataclass(slots=True)
class _Column:
    rows: int = 0
    nulls: int | None = 0
    minimum: Bound | None = None
    maximum: Bound | None = None
    bounded: bool = True
    size_bytes: int = 0

    def add(self, footer: ColumnFooter, rows: int) -> None:
        self.rows += rows
        self.size_bytes += footer.size_bytes
        self.nulls = None if self.nulls is None or footer.nulls is None else self.nulls + footer.nulls
        if footer.minimum is not None and footer.maximum is not None:
            low, high = footer.minimum, footer.maximum
            self.minimum = low if self.minimum is None else min(self.minimum, low)
            self.maximum = high if self.maximum is None else max(self.maximum, high)
        elif footer.nulls is None or footer.nulls < rows:
            self.bounded = False


@dataclass(slots=True)
class FooterSummary:
    """Rows, sizes, objects and statistics of the objects that were added.

    Attributes:
        rows: How many rows there are.
        size_bytes: How large the objects are together.
        objects: What a manifest lists.
    """

    rows: int = 0
    size_bytes: int = 0
    objects: list[DatasetObject] = field(default_factory=list)
    _columns: dict[str, _Column] = field(default_factory=dict)

    def add(self, footer: Footer) -> None:
        """Take one more object into account."""
        self.rows += footer.rows
        self.size_bytes += footer.size_bytes
        self.objects.append(DatasetObject(footer.key, footer.size_bytes, footer.rows, footer.e_tag))
        for column in footer.columns:
            self._columns.setdefault(fold(column.name), _Column()).add(column, footer.rows)

    def columns(self, schema: pa.Schema, in_path: frozenset[str] = frozenset()) -> tuple[ColumnManifest, ...]:
        """The columns with their statistics. An object that lacks a column has NULL in it for every row.

        Args:
            schema: The columns, of storable types.
            in_path: Names of those whose values are in the keys of the objects.
        """
        found = []
        for column, declared in zip(columns_of(schema), schema, strict=True):
            told = self._columns.get(fold(column.name), _Column())
            absent = self.rows - told.rows
            bounded = told.bounded
            kind = storable_type(declared.type, column.name)
            found.append(
                ColumnManifest(
                    column.name,
                    column.type,
                    nullable=declared.nullable,
                    values=self.rows,
                    nulls=None if told.nulls is None else told.nulls + absent,
                    minimum=bound_text(kind, told.minimum) if bounded else None,
                    maximum=bound_text(kind, told.maximum) if bounded else None,
                    size_bytes=None if column.name in in_path else told.size_bytes,
                )
            )
        return tuple(found)
