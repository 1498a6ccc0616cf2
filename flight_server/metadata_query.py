"""Commands whose result is small and computed at once: metadata about the server and its catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from flight_server.context import CallContext
from flight_server.dispatch import DataStream, Endpoint, FlightPlan
from lakehouse.storage.rescue import reading

C = TypeVar("C")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetadataQuery(Generic[C]):
    """Answers one metadata command; the ticket is the command itself, so the result is computed when fetched.

    Args:
        schema_of: The schema of the command's result.
        table_of: The result; its schema is exactly that of ``schema_of``.
    """

    schema_of: Callable[[C], pa.Schema]
    table_of: Callable[[CallContext, C], pa.Table]

    def info(self, ctx: CallContext, command: C, descriptor: bytes) -> FlightPlan:
        """One endpoint, with the number of rows that there are now."""
        with reading():
            table = self.table_of(ctx, command)
        return FlightPlan(
            self.schema_of(command), (Endpoint(descriptor),), table.num_rows, table.nbytes, ordered=True
        )

    def schema(self, ctx: CallContext, command: C) -> pa.Schema:
        """The schema of the result."""
        return self.schema_of(command)

    def stream(self, ctx: CallContext, command: C) -> DataStream:
        """The result."""
        table = self.table_of(ctx, command)
        return DataStream(self.schema_of(command), ctx.lakehouse.engine.batches_of(table))


def of_rows(schema: pa.Schema, rows_of: Callable[[CallContext, C], Sequence[Row]]) -> MetadataQuery[C]:
    """A metadata query of a fixed schema whose result is made row by row."""
    return MetadataQuery(lambda _: schema, lambda ctx, command: to_table(schema, rows_of(ctx, command)))


def to_table(schema: pa.Schema, rows: Sequence[Row]) -> pa.Table:
    """Rows as a table of exactly this schema."""
    return pa.Table.from_batches([pa.RecordBatch.from_pylist(list(rows), schema=schema)], schema)
