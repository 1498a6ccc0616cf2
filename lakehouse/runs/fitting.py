"""What becomes of a table and of a source's types where the two are not alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import pyarrow as pa
from pyarrow import types

from lakehouse.catalog import Table
from lakehouse.catalog.arrow_types import storable_type
from lakehouse.catalog.names import fold
from lakehouse.catalog.table_alteration import AddColumn, Alteration, RetypeColumn
from lakehouse.errors import SchemaMismatch
from lakehouse.ingest.sources.source import Inspection, SourceColumn


class Evolve(StrEnum):
    """How a table may change for what comes."""

    ADD = "add"
    """It gets the columns that it lacks; a column that does not come is NULL."""
    WIDEN = "widen"
    """As ``add``, and columns become wider without loss: INTEGER to BIGINT, REAL to DOUBLE."""
    STRICT = "strict"
    """It stays as it is, and every column of it has to come."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A source that fits a table, and how the table has to change before."""

    inspection: Inspection
    alterations: tuple[Alteration, ...] = ()


def stated(inspection: Inspection, stated_types: Mapping[str, pa.DataType]) -> Inspection:
    """An inspection with types that somebody stated.

    Args:
        inspection: What was found out.
        stated_types: Types by name of a column, as the table or as the source has it.

    Raises:
        SchemaMismatch: There is no such column.
    """
    wanted = {fold(name): (name, kind) for name, kind in stated_types.items()}
    columns = []
    for column in inspection.columns:
        found = wanted.pop(fold(column.name), None) or wanted.pop(fold(column.source_name), None)
        columns.append(
            column
            if found is None
            else replace(column, type=found[1], reason="stated by the caller", stricter="")
        )
    if wanted:
        unknown = ", ".join(repr(name) for name, _ in wanted.values())
        known = ", ".join(repr(column.name) for column in columns)
        raise SchemaMismatch(f"types were stated for {unknown}, which does not come", f"what comes: {known}")
    return replace(inspection, columns=tuple(columns))


def fitted(inspection: Inspection, table: Table, evolve: Evolve) -> Fitted:
    """Read a source as a table's types, as far as the table does not change for it.

    Args:
        inspection: What was found out of the source.
        table: The table as it is.
        evolve: How it may change.

    Raises:
        SchemaMismatch: A column comes that the table lacks, or one does not come, and it may not change so.
    """
    present = {fold(field.name): field for field in table.arrow_schema()}
    columns: list[SourceColumn] = []
    alterations: list[Alteration] = []
    for column in inspection.columns:
        field = present.pop(fold(column.name), None)
        kind = storable_type(column.type, column.name)
        if field is None:
            if evolve is Evolve.STRICT:
                known = ", ".join(f"'{name}'" for name in table.arrow_schema().names)
                raise SchemaMismatch(
                    f"table '{table.name}' has no column '{column.name}', which comes",
                    f"its columns are {known}; with evolve = 'add' it would get the column",
                )
            alterations.append(AddColumn((column.name,), kind))
            columns.append(column)
        elif evolve is Evolve.WIDEN and _is_wider(kind, field.type):
            alterations.append(RetypeColumn((field.name,), kind))
            columns.append(replace(column, name=field.name))
        else:
            columns.append(_as_in_table(column, field, kind))
    if evolve is Evolve.STRICT and present:
        missing = ", ".join(f"'{field.name}'" for field in present.values())
        raise SchemaMismatch(
            f"column {missing} of table '{table.name}' does not come", "with evolve = 'add' it would be NULL"
        )
    return Fitted(replace(inspection, columns=tuple(columns)), tuple(alterations))


def _as_in_table(column: SourceColumn, field: pa.Field, kind: pa.DataType) -> SourceColumn:
    if kind == field.type:
        return replace(column, name=field.name)
    return replace(column, name=field.name, type=field.type, reason="the table's type")


def _is_wider(kind: pa.DataType, than: pa.DataType) -> bool:
    """Whether Iceberg lets a column of one type become one of another."""
    if types.is_decimal(kind) and types.is_decimal(than):
        return bool(kind.scale == than.scale and kind.precision > than.precision)
    return (than, kind) in ((pa.int32(), pa.int64()), (pa.float32(), pa.float64()))
