"""How the rows of a table or query are asked for, and made into what the ingest wants."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import InvalidRequest, SchemaMismatch
from lakehouse.ingest.sources.disproof import Disproof
from lakehouse.ingest.sources.postgres.catalogue import PgColumn
from lakehouse.ingest.sources.postgres.mapping import (
    ListOf,
    Node,
    Scalar,
    Stated,
    StructOf,
    Types,
    as_json,
    as_text,
    looks_unfit,
)
from lakehouse.ingest.sources.source import Inspection, OnError, RejectedRow, SourceColumn
from lakehouse.types import quote

_MAX_CONTENT = 1_000_000
_ALIAS = "t"


@dataclass(frozen=True, slots=True)
class Planned:
    """A column: what it is called at the source, and how it travels.

    Attributes:
        column: What is wanted of it.
        value: What stands for its values in SQL.
        node: How they travel.
        proven: Whether every value is known to fit, or trusted to.
        trusted: Whether nobody has looked at them.
    """

    column: SourceColumn
    value: str
    node: Node
    proven: bool
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """Rows that came: those that fit, and those that do not."""

    batch: pa.RecordBatch
    rejected: tuple[RejectedRow, ...]
    last_ctid: tuple[int, int] | None


def definition(columns: Sequence[PgColumn]) -> str:
    """A short text that is another one when columns are."""
    text = json.dumps([(c.name, c.oid, c.modifier, c.not_null) for c in columns])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def value_of(name: str) -> str:
    """The expression for a column of what is read."""
    return f"{_ALIAS}.{quote(name)}"


def node_for(types: Types, oid: int, modifier: int, wanted: pa.DataType) -> Node:
    """How values of a type of the database become a type that was chosen or stated."""
    natural = types.node(oid, modifier)
    if natural.type == wanted:
        return natural
    if wanted == pa.string():
        return as_json(natural.reason) if isinstance(natural, ListOf | StructOf) else as_text(natural.reason)
    if isinstance(natural, ListOf):
        leaf, depth = wanted, 0
        while pa.types.is_list(leaf):
            leaf, depth = leaf.value_type, depth + 1
        element = natural.element
        if pa.types.is_decimal(leaf) and types.is_open_numeric(oid, modifier):
            element = types.open_numeric(leaf.scale, leaf.precision - leaf.scale) or element
        elif leaf == pa.string():
            element = Scalar(pa.string(), element.template if element.type == leaf else "{}::text")
        again = replace(natural, element=element, dimensions=max(depth, 1))
        if again.type == wanted:
            return again
    elif pa.types.is_decimal(wanted) and types.is_open_numeric(oid, modifier):
        open_node = types.open_numeric(wanted.scale, wanted.precision - wanted.scale)
        if open_node is not None and open_node.type == wanted:
            return open_node
    return Stated(natural, wanted)


class Plan:
    """The columns of an ingest, as expressions to select and as what is made of them."""

    def __init__(self, columns: Sequence[Planned], schema: pa.Schema, place: str) -> None:
        self._columns = columns
        self._schema = schema
        self._place = place
        self._checks = [
            (planned.column.name, unfit)
            for planned in columns
            if not planned.proven
            for unfit in planned.node.unfit(planned.value)
        ]

    def select(self, source: str, where: str = "", *, place: bool = False) -> str:
        """The query.

        Args:
            source: What stands behind FROM, without the alias.
            where: A condition, if there is one.
            place: Whether the place of each row comes as the last column.
        """
        sent = [sql for planned in self._columns for sql in self._sent(planned)]
        if self._checks:
            cases = " ".join(f"WHEN {unfit.condition} THEN {n}" for n, (_, unfit) in enumerate(self._checks))
            any_of = " OR ".join(f"({unfit.condition})" for _, unfit in self._checks)
            sent.append(f"(CASE {cases} END)::int4")
            sent.append(f"CASE WHEN {any_of} THEN left(row_to_json({_ALIAS})::text, {_MAX_CONTENT}) END")
        if place:
            sent.append(f"{_ALIAS}.ctid")
        items = ", ".join(f'{sql} AS "{n}"' for n, sql in enumerate(sent))
        return f"SELECT {items} FROM {source}{f' WHERE {where}' if where else ''}"

    def _sent(self, planned: Planned) -> list[str]:
        sent = planned.node.sent(planned.value)
        unfit = [] if planned.proven else planned.node.unfit(planned.value)
        if not unfit:
            return sent
        # The driver cannot read all of what does not fit.
        condition = " OR ".join(f"({each.condition})" for each in unfit)
        return [f"CASE WHEN {condition} THEN NULL ELSE {sql} END" for sql in sent]

    def take(self, batch: pa.RecordBatch, on_error: OnError, *, place: bool) -> Taken:
        """What a batch that was sent holds.

        Raises:
            InvalidRequest: A row does not fit, and ``on_error`` says fail.
            Disproof: A value that was trusted to fit does not.
        """
        arrays = list(batch.columns)
        last = _ctid(arrays.pop()) if place and batch.num_rows else None
        rejected: list[RejectedRow] = []
        if self._checks:
            contents, numbers = arrays.pop(), arrays.pop()
            if numbers.null_count < len(numbers):
                bad = pc.is_valid(numbers)
                for number, content in zip(
                    numbers.filter(bad).to_pylist(), contents.filter(bad).to_pylist(), strict=True
                ):
                    name, unfit = self._checks[number]
                    rejected.append(self._rejected(name, unfit.why, content, on_error))
                arrays = [array.filter(pc.invert(bad)) for array in arrays]
        made = self._decoded(arrays, rejected, on_error)
        return Taken(made, tuple(rejected), last)

    def _rejected(self, column: str, why: str, content: str, on_error: OnError) -> RejectedRow:
        if on_error is OnError.FAIL:
            raise InvalidRequest(
                f"a row of {self._place} does not fit: column '{column}': {why}",
                "ingest the column as string, or reject such rows",
            )
        return RejectedRow(self._place, None, column, why, content[:_MAX_CONTENT])

    def _decoded(
        self, arrays: list[pa.Array], rejected: list[RejectedRow], on_error: OnError
    ) -> pa.RecordBatch:
        rows, failed = len(arrays[0]), ""
        columns: Iterator[pa.Array] = iter(arrays)
        made = []
        for planned in self._columns:
            try:
                made.append(planned.node.decode(columns))
                if planned.trusted and looks_unfit(made[-1]):
                    raise _disproof(planned)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                if planned.trusted:
                    raise _disproof(planned) from None
                if not isinstance(planned.node, Stated):
                    raise
                failed = planned.column.name
                why = f"it is no {planned.column.type}"
                if isinstance(error, pa.ArrowNotImplementedError):
                    why = f"values of {planned.node.node.type} do not become {planned.column.type}"
                break
        else:
            return pa.record_batch(made, schema=self._schema)
        if rows == 1:
            content = json.dumps([str(array[0].as_py()) for array in arrays], ensure_ascii=False)
            rejected.append(self._rejected(failed, why, content, on_error))
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        half = rows // 2
        parts = [
            self._decoded([array.slice(at, length) for array in arrays], rejected, on_error)
            for at, length in ((0, half), (half, rows - half))
        ]
        return pa.concat_batches(parts)


def _disproof(planned: Planned) -> Disproof:
    return Disproof(
        f"column '{planned.column.source_name}' has a value that no {planned.column.type} can hold"
    )


def planned_columns(
    inspection: Inspection, columns: Sequence[PgColumn], names: Sequence[str], types: Types, place: str
) -> list[tuple[SourceColumn, str, Node]]:
    """The columns that an ingest wants, each with its expression and how it travels.

    Args:
        inspection: What is wanted.
        columns: What there is.
        names: By what name each of them can be asked for.
        types: The types of the database.
        place: What is read, for messages.

    Raises:
        SchemaMismatch: It is not what was inspected.
    """
    known = inspection.details.get("definition")
    if known is not None and known != definition(columns):
        raise SchemaMismatch(
            f"the columns of {place} are not those that were inspected: somebody altered it meanwhile",
            "inspect it again",
        )
    left = list(zip(columns, names, strict=True))
    found = []
    for wanted in inspection.columns:
        match = next((each for each in left if each[0].name == wanted.source_name), None)
        if match is None:
            raise SchemaMismatch(f"{place} has no column '{wanted.source_name}' any more")
        left.remove(match)
        node = node_for(types, match[0].oid, match[0].modifier, wanted.type)
        found.append((wanted, value_of(match[1]), node))
    return found


def _ctid(places: pa.Array) -> tuple[int, int]:
    array = places.storage if isinstance(places, pa.ExtensionArray) else places
    data = array[-1].as_py()
    return int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")
