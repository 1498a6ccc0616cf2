"""Arrow record batches that somebody sends: read once, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from lakehouse.errors import InvalidRequest, SchemaMismatch, StatementCancelled
from lakehouse.ingest.conversion import Conversion
from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress, SourceColumn


class ArrowBatches:
    """A source of batches that come once.

    Args:
        schema: Their columns.
        batches: The rows.
        described: Where they come from.
        identity: What is the same when the same rows come again; empty where nobody knows.
    """

    system = "upload"
    comes_once = True

    def __init__(
        self, schema: pa.Schema, batches: Iterable[pa.RecordBatch], described: str, identity: str = ""
    ) -> None:
        self.described = described
        self._schema = schema
        self._batches = iter(batches)
        self._identity = identity

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """The columns as they are announced."""
        columns = tuple(
            SourceColumn(f.name, f.name, f.type, f.nullable, "the type that it comes with")
            for f in self._schema
        )
        return Inspection(columns, identity=self._identity)

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None = None,
    ) -> Iterator[Piece]:
        """The batches in the types of the inspection; a batch that does not fit stops the ingest.

        Raises:
            SchemaMismatch: A value does not fit.
            InvalidRequest: The rows are to be read from the middle, and they come once.
            StatementCancelled: ``cancelled`` said so.
        """
        if position is not None:
            raise InvalidRequest("rows that are sent cannot be read a second time")
        source = pa.schema([self._schema.field(c.source_name).with_name(c.name) for c in inspection.columns])
        conversion = Conversion(source, inspection.schema, self.described)
        rows = 0
        for batch in self._batches:
            if cancelled():
                raise StatementCancelled("the ingest was cancelled; nothing was stored")
            if not batch.schema.equals(self._schema):
                raise SchemaMismatch(f"a batch of {self.described} has other columns than were announced")
            named = pa.RecordBatch.from_arrays(batch.columns, schema=source)
            yield Piece(conversion.batch(named))
            rows += batch.num_rows
            progress(None, f"{rows} rows")

    def close(self) -> None:
        """Nothing is held."""
