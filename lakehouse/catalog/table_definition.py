"""What a table is declared to be: columns, keys, defaults, partitions and order, as Iceberg keeps them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSortOrderUpdate,
    RemovePropertiesUpdate,
    SetDefaultSortOrderUpdate,
    SetDefaultSpecUpdate,
    SetPropertiesUpdate,
    TableUpdate,
)
from pyiceberg.transforms import Transform, parse_transform
from pyiceberg.types import DoubleType, FloatType, NestedField, PrimitiveType

from lakehouse.catalog import iceberg_types
from lakehouse.catalog.names import fold
from lakehouse.catalog.table import (
    DEFAULT_PROPERTY,
    DESCRIPTION_PROPERTY,
    FOREIGN_KEYS_PROPERTY,
    PRIMARY_KEY_PROPERTY,
    foreign_keys_from_json,
    foreign_keys_to_json,
)
from lakehouse.errors import SchemaMismatch
from lakehouse.types import ForeignKey

TRANSFORMS = frozenset({"identity", "bucket", "truncate", "year", "month", "day", "hour"})
"""What a table can be partitioned or sorted by, besides the bare column (``identity``)."""

_WITH_NUMBER = frozenset({"bucket", "truncate"})


@dataclass(frozen=True, slots=True)
class Term:
    """A column, or what a transform makes of it, by which a table is partitioned or sorted.

    ``number`` is how many buckets there are, or how much is left by truncation.
    """

    column: str
    transform: str = "identity"
    number: int | None = None

    def __str__(self) -> str:
        if self.transform == "identity":
            return self.column
        number = "" if self.number is None else f"{self.number}, "
        return f"{self.transform}({number}{self.column})"


@dataclass(frozen=True, slots=True)
class SortTerm:
    """One of the things that the rows of a table's files are sorted by."""

    term: Term
    descending: bool = False
    nulls_first: bool = True


@dataclass(frozen=True)
class TableDefinition:
    """What a table is declared to be.

    Args:
        columns: Its columns, of storable types; those that are not nullable are required.
        partitioning: What it is partitioned by.
        sorting: What its files are to be sorted by.
        primary_key: Columns of the declared, not enforced, key.
        foreign_keys: Declared, not enforced, references; their columns are spelled as those of the table.
        defaults: SQL of the values that columns get which an INSERT leaves out.
        description: What it is, in words.
        docs: What columns are, in words.
        keeps_rest: Whether a table that is replaced by it keeps its partitions, order and defaults, and the
            keys and words of its own in place of which nothing is declared.
    """

    columns: pa.Schema
    partitioning: tuple[Term, ...] = ()
    sorting: tuple[SortTerm, ...] = ()
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    docs: Mapping[str, str] = field(default_factory=dict)
    keeps_rest: bool = False

    def schema(self, next_id: Callable[[], int], kept: Schema | None = None) -> Schema:
        """The Iceberg schema, keys included. See ``iceberg_types.iceberg_schema``.

        Raises:
            TypeNotStorable: A column's type has no counterpart.
            SchemaMismatch: A column cannot be in the primary key.
        """
        schema = iceberg_types.iceberg_schema(self.columns, next_id, kept)
        columns = Columns(schema, "the table")
        keys = [columns.key_column(name).field_id for name in self.primary_key]
        if self.keeps_rest and not keys:
            keys = schema.identifier_field_ids
        docs = {columns.spelled(name): doc for name, doc in self.docs.items()}
        fields = [each.model_copy(update={"doc": docs.get(each.name, each.doc)}) for each in schema.fields]
        return Schema(*fields, identifier_field_ids=keys)

    def properties(self, schema: Schema) -> dict[str, str]:
        """Table properties for what Iceberg itself has no place for; ``schema`` has the final field ids."""
        columns = Columns(schema, "the table")
        found = {
            f"{DEFAULT_PROPERTY}{columns.find(name).field_id}": sql for name, sql in self.defaults.items()
        }
        if self.primary_key:
            ids = [str(columns.find(name).field_id) for name in self.primary_key]
            found[PRIMARY_KEY_PROPERTY] = ",".join(ids)
        if self.foreign_keys:
            keys = [
                replace(key, columns=tuple(columns.find(name).name for name in key.columns))
                for key in self.foreign_keys
            ]
            found[FOREIGN_KEYS_PROPERTY] = foreign_keys_to_json(keys)
        if self.description:
            found[DESCRIPTION_PROPERTY] = self.description
        return found

    def replacing(self, metadata: TableMetadata) -> tuple[TableUpdate, ...]:
        """The changes, besides that of the schema, that make an existing table what is declared.

        Args:
            metadata: The table with its new schema as the current one.
        """
        wanted = self.properties(metadata.schema())
        if self.keeps_rest:
            return self._beside(metadata, wanted)
        updates = (*partition_updates(metadata, self.partitioning), *sort_updates(metadata, self.sorting))
        gone = [
            name
            for name in metadata.properties
            if (name.startswith(DEFAULT_PROPERTY) or name in (PRIMARY_KEY_PROPERTY, FOREIGN_KEYS_PROPERTY))
            and name not in wanted
        ]
        if gone:
            updates = (*updates, RemovePropertiesUpdate(removals=gone))
        return (*updates, SetPropertiesUpdate(updates=wanted)) if wanted else updates

    def _beside(self, metadata: TableMetadata, wanted: Mapping[str, str]) -> tuple[TableUpdate, ...]:
        """The changes of what is said of a table that keeps what nothing else is said of."""
        told = dict(wanted)
        if self.primary_key or self.foreign_keys:
            told.setdefault(PRIMARY_KEY_PROPERTY, "")
            told.setdefault(FOREIGN_KEYS_PROPERTY, foreign_keys_to_json(()))
        else:
            names = {each.name for each in metadata.schema().fields}
            keys = foreign_keys_from_json(metadata.properties.get(FOREIGN_KEYS_PROPERTY))
            left = [key for key in keys if names.issuperset(key.columns)]
            if len(left) < len(keys):
                told[FOREIGN_KEYS_PROPERTY] = foreign_keys_to_json(left)
        changed = {name: text for name, text in told.items() if metadata.properties.get(name, "") != text}
        return (SetPropertiesUpdate(updates=changed),) if changed else ()


class Columns:
    """The columns of a table, found whatever the case of their letters.

    Args:
        schema: The table's schema.
        table: What to call the table in messages.
    """

    def __init__(self, schema: Schema, table: str) -> None:
        self._fields = {fold(field.name): field for field in schema.fields}
        self._table = table

    def spelled(self, column: str) -> str:
        """The name of a column as the table has it."""
        return self.find(column).name

    def find(self, column: str) -> NestedField:
        """A column.

        Raises:
            SchemaMismatch: There is none of that name.
        """
        found = self._fields.get(fold(column))
        if found is None:
            near = difflib.get_close_matches(fold(column), self._fields, n=1)
            hint = f"did you mean '{self._fields[near[0]].name}'?" if near else ""
            raise SchemaMismatch(f"{self._table} has no column '{column}'", hint)
        return found

    def key_column(self, column: str) -> NestedField:
        """A column that can be in a primary key.

        Raises:
            SchemaMismatch: It cannot.
        """
        found = self.find(column)
        if not found.required:
            raise SchemaMismatch(
                f"column '{found.name}' of {self._table} may be NULL, so no primary key can have it"
            )
        kind = found.field_type
        if not isinstance(kind, PrimitiveType) or isinstance(kind, FloatType | DoubleType):
            raise SchemaMismatch(
                f"column '{found.name}' of {self._table} is of the type {kind}, "
                "which cannot be in a primary key"
            )
        return found


def partition_spec(
    terms: Sequence[Term], schema: Schema, former: Sequence[PartitionSpec] = (), last_id: int | None = None
) -> PartitionSpec:
    """The Iceberg partition spec of some terms.

    Args:
        terms: What to partition by.
        schema: The table's schema.
        former: Specs that the table has or had: an equal one is given again, equal fields keep their ids.
        last_id: The highest id of a partition field that the table ever had.

    Raises:
        SchemaMismatch: A column is not there or cannot be partitioned by in this way.
    """
    fields: list[PartitionField] = []
    next_id = (last_id or PARTITION_FIELD_ID_START - 1) + 1
    old = {(f.source_id, repr(f.transform)): f for spec in former for f in spec.fields}
    for term in terms:
        source, transform = _bound(term, schema, "partitioned")
        name = _partition_name(term, source)
        known = old.get((source.field_id, repr(transform)))
        if any(f.source_id == source.field_id and f.transform == transform for f in fields):
            raise SchemaMismatch(f"the table is partitioned by {term} twice")
        if known is not None and known.name == name:
            fields.append(known)
            continue
        _check_partition_name(name, term, schema)
        fields.append(PartitionField(source.field_id, next_id, transform, name))
        next_id += 1
    new = PartitionSpec(*fields, spec_id=max((spec.spec_id for spec in former), default=-1) + 1)
    return next((spec for spec in former if new.compatible_with(spec)), new)


def sort_order(terms: Sequence[SortTerm], schema: Schema, former: Sequence[SortOrder] = ()) -> SortOrder:
    """The Iceberg sort order of some terms; an equal one of the former ones is given again.

    Raises:
        SchemaMismatch: A column is not there or cannot be sorted by.
    """
    if not terms:
        return UNSORTED_SORT_ORDER
    fields = []
    for each in terms:
        source, transform = _bound(each.term, schema, "sorted")
        fields.append(
            SortField(
                source_id=source.field_id,
                transform=transform,
                direction=SortDirection.DESC if each.descending else SortDirection.ASC,
                null_order=NullOrder.NULLS_FIRST if each.nulls_first else NullOrder.NULLS_LAST,
            )
        )
    known = next((order for order in former if list(order.fields) == fields), None)
    return known or SortOrder(*fields, order_id=max((order.order_id for order in former), default=0) + 1)


def partition_updates(metadata: TableMetadata, terms: Sequence[Term]) -> tuple[TableUpdate, ...]:
    """The changes after which new files of a table are partitioned by these terms; old ones stay as they are.

    Raises:
        SchemaMismatch: A column is not there or cannot be partitioned by in this way.
    """
    specs = metadata.partition_specs
    spec = partition_spec(terms, metadata.schema(), specs, metadata.last_partition_id)
    if spec.spec_id == metadata.default_spec_id:
        return ()
    known = any(spec.spec_id == other.spec_id for other in specs)
    added = () if known else (AddPartitionSpecUpdate(spec=spec),)
    return (*added, SetDefaultSpecUpdate(spec_id=spec.spec_id))


def sort_updates(metadata: TableMetadata, terms: Sequence[SortTerm]) -> tuple[TableUpdate, ...]:
    """The changes after which new files of a table are to be sorted by these terms.

    Raises:
        SchemaMismatch: A column is not there or cannot be sorted by.
    """
    orders = metadata.sort_orders
    order = sort_order(terms, metadata.schema(), orders)
    if order.order_id == metadata.default_sort_order_id:
        return ()
    known = any(order.order_id == other.order_id for other in orders)
    added = () if known else (AddSortOrderUpdate(sort_order=order),)
    return (*added, SetDefaultSortOrderUpdate(sort_order_id=order.order_id))


def used_columns(metadata: TableMetadata) -> Iterator[tuple[int, str]]:
    """Field ids that partitions or the order of a table depend on, and what each is used for.

    Specs that were given up count, as long as there may be files of them.
    """
    for spec in metadata.partition_specs:
        current = spec.spec_id == metadata.default_spec_id
        for partition in spec.fields:
            yield partition.source_id, "is" if current else "has files that are"
    for sort in metadata.sort_order().fields:
        yield sort.source_id, ""


def _bound(term: Term, schema: Schema, verb: str) -> tuple[NestedField, Transform[object, object]]:
    source = Columns(schema, "the table").find(term.column)
    numbered = term.transform in _WITH_NUMBER
    if term.transform not in TRANSFORMS or numbered != (term.number is not None):
        raise SchemaMismatch(
            f"a table cannot be {verb} by {term}",
            "by a column, bucket(n, column), truncate(n, column), year, month, day or hour(column)",
        )
    if numbered and not 0 < (term.number or 0) < 2**31:
        raise SchemaMismatch(f"expected a whole number above 0 in {term}")
    transform = parse_transform(f"{term.transform}[{term.number}]" if numbered else term.transform)
    kind = source.field_type
    is_float = isinstance(kind, FloatType | DoubleType) and verb == "partitioned"
    if not isinstance(kind, PrimitiveType) or not transform.can_transform(kind) or is_float:
        raise SchemaMismatch(
            f"a table cannot be {verb} by {term}: column '{source.name}' is of the type {kind}"
        )
    return source, transform


def _partition_name(term: Term, source: NestedField) -> str:
    """What other engines call the partition field, too."""
    suffix = {"identity": "", "truncate": "_trunc"}.get(term.transform, f"_{term.transform}")
    return f"{source.name}{suffix}" + (f"_{term.number}" if term.transform in _WITH_NUMBER else "")


def _check_partition_name(name: str, term: Term, schema: Schema) -> None:
    if term.transform != "identity" and any(fold(f.name) == fold(name) for f in schema.fields):
        raise SchemaMismatch(
            f"the partition by {term} would be called '{name}', as a column of the table is",
            "rename the column",
        )
