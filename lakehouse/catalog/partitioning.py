"""How a table wants its rows laid out: which partition each belongs to, and in what order they come.

After the Iceberg table specification, sections "Partitioning" and "Sorting".
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.partitioning import PartitionField
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import NullOrder, SortDirection
from pyiceberg.transforms import (
    DayTransform,
    Transform,
    TruncateTransform,
    UnknownTransform,
    VoidTransform,
)
from pyiceberg.typedef import Record
from pyiceberg.types import (
    DateType,
    FixedType,
    IcebergType,
    NestedField,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from lakehouse.errors import NotSupported, SchemaMismatch

# File systems allow names of 255 bytes.
_LONGEST_SEGMENT = 200
_Place = tuple[str, tuple[int, ...], IcebergType]
_TIMES = (DateType, TimeType, TimestampType, TimestamptzType)


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a table.

    Args:
        key: Tells it from the others.
        record: Its values, as manifests hold them.
        path: Where its files are below the table's data directory; empty, or with a slash at the end.
    """

    key: tuple[object, ...]
    record: Record
    path: str


UNPARTITIONED = Partition((), Record(), "")


@dataclass(frozen=True, slots=True)
class _Source:
    """A column, or a field within one, and what is made of it."""

    name: str
    path: tuple[int, ...]
    type: IcebergType
    transform: Transform  # type: ignore[type-arg]

    def values(self, rows: pa.Table) -> pa.Array:
        column = rows.column(self.path[0]).combine_chunks()
        values = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        for position in self.path[1:]:
            values = pc.struct_field(values, [position])
        try:
            return self._transformed(values)
        except (pa.ArrowInvalid, ValueError, OverflowError) as error:
            raise SchemaMismatch(
                f"a value of column '{self.name}' is too far off for {self.transform} of it, by which the "
                "table's rows are laid out"
            ) from error

    def _transformed(self, values: pa.Array) -> pa.Array:
        if isinstance(self.transform, DayTransform):
            # The library's own rounds days before 1970 up.
            return values.cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.int32())
        if isinstance(self.transform, TruncateTransform) and isinstance(self.type, FixedType):
            return pc.binary_slice(values.cast(pa.binary()), 0, self.transform.width)
        made = self.transform.pyarrow_transform(self.type)(values)
        return made.storage if isinstance(made.type, pa.BaseExtensionType) else made


class Layout:
    """How the rows of a table's new files are laid out.

    Args:
        metadata: The table, or what it is going to be.
        table: Its name, for messages.

    Attributes:
        spec_id: The partition spec of new files.
        sort_order_id: The order of rows in new files; None for a table without one.
        is_plain: Whether rows can be written as they come.

    Raises:
        NotSupported: Rows cannot be laid out like that.
    """

    def __init__(self, metadata: TableMetadata, table: str) -> None:
        self._schema = metadata.schema()
        self._spec = metadata.spec()
        self._table = table
        places = dict(_places(self._schema.fields))
        self._sources: list[_Source | None] = [
            None
            if isinstance(field.transform, VoidTransform)
            else _source(table, field.source_id, field.transform, places)
            for field in self._spec.fields
        ]
        order = metadata.sort_order()
        self._order = [
            (
                _source(table, field.source_id, field.transform, places),
                "ascending" if field.direction is SortDirection.ASC else "descending",
                "at_start" if field.null_order is NullOrder.NULLS_FIRST else "at_end",
            )
            for field in order.fields
            if not isinstance(field.transform, VoidTransform)
        ]
        self._known: dict[tuple[object, ...], Partition] = {}
        self.spec_id = self._spec.spec_id
        self.sort_order_id = order.order_id if self._order else None
        self.is_plain = not self._order and self._spec.is_unpartitioned()

    def split(self, rows: pa.Table) -> Iterator[tuple[Partition, pa.Table]]:
        """The rows of each partition, in the order in which they came.

        Raises:
            SchemaMismatch: A value cannot be the one of a partition.
        """
        used = [source for source in self._sources if source is not None]
        if not used:
            yield self._partition([]), rows
            return
        rows = rows.combine_chunks()
        keys = [source.values(rows) for source in used]
        codes = row_codes(keys, rows.num_rows)
        if codes[0] == codes[-1] and (codes == codes[0]).all():
            yield self._partition([key[0] for key in keys]), rows
            return
        order = np.argsort(codes, kind="stable")
        clustered = codes[order]
        starts = [0, *(np.flatnonzero(clustered[1:] != clustered[:-1]) + 1).tolist(), len(order)]
        for start, end in itertools.pairwise(starts):
            values = [key[int(order[start])] for key in keys]
            # Taken one by one, so that a few rows that are kept do not keep the memory of all.
            yield self._partition(values), rows.take(pa.array(order[start:end]))

    def in_order(self, rows: pa.Table) -> pa.Table:
        """The rows in the table's sort order; as they are in a table without one."""
        if not self._order or rows.num_rows < 2:
            return rows
        keys = {str(n): sortable(source.values(rows)) for n, (source, _, _) in enumerate(self._order)}
        wanted = [(str(n), direction, nulls) for n, (_, direction, nulls) in enumerate(self._order)]
        return rows.take(pc.sort_indices(pa.table(keys), sort_keys=wanted))

    def _partition(self, values: Sequence[pa.Scalar]) -> Partition:
        found = iter(values)
        parts = [
            None if source is None else _internal(next(found), source.transform.result_type(source.type))
            for source in self._sources
        ]
        # Python takes 0.0 and −0.0 for equal, and no NaN for equal to another.
        key = tuple(repr(part) if isinstance(part, float) else part for part in parts)
        known = self._known.get(key)
        if known is None:
            record = Record(*parts)
            known = self._known[key] = Partition(key, record, self._path(record))
        return known

    def _path(self, record: Record) -> str:
        try:
            self._spec.partition_to_path(record, self._schema)
        except (OverflowError, ValueError) as error:
            # pyiceberg tells in a commit's summary what was added to which partition.
            raise SchemaMismatch(
                f"table '{self._table}' cannot have a partition for a time that is infinite or far from now"
            ) from error
        kinds = self._spec.partition_type(self._schema).fields
        return "".join(
            f"{_segment(field, field.transform.to_human_string(kind.field_type, value))}/"
            for field, kind, value in zip(
                self._spec.fields, kinds, (record[n] for n in range(len(record))), strict=True
            )
        )


def check_layout(metadata: TableMetadata, table: str) -> None:
    """Make sure that rows can be laid out as a table wants them.

    Raises:
        NotSupported: They cannot.
    """
    Layout(metadata, table)


def layout_columns(metadata: TableMetadata) -> frozenset[int]:
    """The ids of the columns by whose values a table is partitioned and sorted."""
    spec, order = metadata.spec(), metadata.sort_order()
    sources = {f.source_id for f in spec.fields if not isinstance(f.transform, VoidTransform)}
    sources |= {f.source_id for f in order.fields if not isinstance(f.transform, VoidTransform)}
    ids = {field_id: column.field_id for column in metadata.schema().fields for field_id in _ids(column)}
    return frozenset(ids[source] for source in sources if source in ids)


def _ids(column: NestedField) -> Iterator[int]:
    return (field_id for field_id, _ in _places([column]))


def _places(
    fields: Sequence[NestedField], name: str = "", path: tuple[int, ...] = ()
) -> Iterator[tuple[int, _Place]]:
    """Per field id of a column or of a field in a struct: its name, the way to it by position, its type."""
    for position, field in enumerate(fields):
        full, way = f"{name}{field.name}", (*path, position)
        yield field.field_id, (full, way, field.field_type)
        if isinstance(field.field_type, StructType):
            yield from _places(field.field_type.fields, f"{full}.", way)


def _source(
    table: str,
    field_id: int,
    transform: Transform,  # type: ignore[type-arg]
    places: Mapping[int, _Place],
) -> _Source:
    if field_id not in places:
        raise NotSupported(
            f"table '{table}' is partitioned or sorted by a column that it does not have any more",
            "change its partitioning first",
        )
    name, path, kind = places[field_id]
    fits = isinstance(transform, TruncateTransform) and isinstance(kind, FixedType)
    if isinstance(transform, UnknownTransform) or not (transform.can_transform(kind) or fits):
        raise NotSupported(
            f"table '{table}' is partitioned or sorted by {transform} of column '{name}' of the type {kind}, "
            "which cannot be written"
        )
    return _Source(name, path, kind, transform)


def row_codes(keys: Sequence[pa.Array], length: int) -> np.ndarray:
    """A number for each row; equal where all keys are. NULL equals NULL, and NaN equals NaN."""
    codes = np.zeros(length, np.int64)
    for key in keys:
        exact = sortable(key) if pa.types.is_floating(key.type) else key
        encoded = exact.dictionary_encode(null_encoding="encode")
        combined = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
        # Numbered anew, so that they stay small however many keys there are.
        codes = pa.array(combined).dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def sortable(values: pa.Array) -> pa.Array:
    """The values such that Arrow orders them as Iceberg does: −NaN, −∞ … −0.0, 0.0 … ∞, NaN."""
    if not pa.types.is_floating(values.type):
        return values
    whole = pa.int64() if pa.types.is_float64(values.type) else pa.int32()
    missing = values.is_null().to_numpy(zero_copy_only=False)
    bits = values.fill_null(0.0).view(whole).to_numpy()
    return pa.array(np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits), whole, mask=missing)


def _internal(value: pa.Scalar, kind: IcebergType) -> object:
    """An Arrow value as pyiceberg wants it in a manifest."""
    if not value.is_valid:
        return None
    if isinstance(kind, _TIMES):
        return value.value if hasattr(value, "value") else value.as_py()
    found = value.as_py()
    return uuid.UUID(bytes=found) if isinstance(kind, UUIDType) and isinstance(found, bytes) else found


def _segment(field: PartitionField, value: str) -> str:
    return f"{quote_plus(field.name, safe='')}={quote_plus(value, safe='')}"[:_LONGEST_SEGMENT]
