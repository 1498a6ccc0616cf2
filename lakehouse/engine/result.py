"""Results on their way out of DuckDB: never collected, in messages of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pyarrow as pa

from lakehouse.engine.errors import duckdb_errors, translate
from lakehouse.engine.running import RunningStatement
from lakehouse.errors import StatementCancelled

_VECTOR_ROWS = 2048
_VARIABLE_WIDTH_BYTES = 32
_SIMPLE_TYPES: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "HUGEINT": pa.decimal128(38, 0),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
}


def relation_schema(relation: duckdb.DuckDBPyRelation) -> pa.Schema:
    """The Arrow schema of a relation, without running it."""
    fields = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        arrow = _SIMPLE_TYPES.get(str(kind))
        if arrow is None:
            break
        fields.append(pa.field(name, arrow))
    else:
        return pa.schema(fields)
    reader = relation.limit(0).to_arrow_reader(1)
    try:
        return plain_schema(reader.schema)
    finally:
        reader.close()


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with dictionaries replaced by their values (an ENUM is sent as text)."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), _plain_field(kind.item_field))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with dictionaries replaced by their values."""
    return pa.schema([_plain_field(field) for field in schema])


def rows_per_batch(schema: pa.Schema, batch_bytes: int) -> int:
    """How many rows make a message of about ``batch_bytes``, in whole DuckDB vectors."""
    width = sum(_width(field.type) for field in schema)
    rows = int(batch_bytes / max(width, 0.125))
    return max(_VECTOR_ROWS, min(rows // _VECTOR_ROWS * _VECTOR_ROWS, 60 * _VECTOR_ROWS))


def _width(kind: pa.DataType) -> float:
    if pa.types.is_struct(kind):
        return sum(_width(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_fixed_size_list(kind):
        return float(kind.list_size) * _width(kind.value_type)
    if pa.types.is_nested(kind):
        return 4 * _VARIABLE_WIDTH_BYTES
    try:
        return float(kind.bit_width) / 8
    except ValueError:
        return _VARIABLE_WIDTH_BYTES


def split(batch: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of at most ``max_bytes``; a single row larger than that goes alone."""
    if batch.num_rows <= 1 or batch.nbytes <= max_bytes:
        yield batch
        return
    rows = max(1, min(batch.num_rows - 1, batch.num_rows * max_bytes // batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield from split(batch.slice(start, rows), max_bytes)


class ResultStream:
    """Iterates over the batches of a running statement; closing it stops the statement and frees its cursor.

    It is a class rather than a generator because a generator that was never started runs no ``finally``.

    Args:
        statement: The registered statement.
        reader: DuckDB's stream.
        schema: The schema every batch must have.
        max_bytes: The largest batch that may be sent.
        on_close: Called once when the stream ends, whichever way.
    """

    def __init__(
        self,
        statement: RunningStatement,
        reader: pa.RecordBatchReader,
        schema: pa.Schema,
        max_bytes: int,
        on_close: Callable[[], Any],
    ) -> None:
        self.schema = schema
        self._statement = statement
        self._reader: pa.RecordBatchReader | None = reader
        self._max_bytes = max_bytes
        self._on_close: Callable[[], Any] | None = on_close
        self._plain = reader.schema.equals(schema)
        self._pieces: Iterator[pa.RecordBatch] = iter(())

    def prefetch(self) -> None:
        """Pull the first batch now, so that an error arrives before the stream has begun."""
        batch = self._pull()
        self._pieces = split(batch, self._max_bytes) if batch is not None else iter(())
        if batch is None:
            self.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        for piece in self._pieces:
            return piece
        batch = self._pull()
        if batch is None:
            self.close()
            raise StopIteration
        self._pieces = split(batch, self._max_bytes)
        return next(self._pieces)

    def _pull(self) -> pa.RecordBatch | None:
        if self._reader is None:
            return None
        try:
            with duckdb_errors():
                batch = self._reader.read_next_batch()
                return batch if self._plain else batch.cast(self.schema)
        except StopIteration:
            return None
        except BaseException as error:  # noqa: BLE001 - whatever ends the stream frees its cursor
            self.close()
            if isinstance(error, StatementCancelled) and self._statement.reason is not None:
                raise self._statement.reason from None
            raise translate(error) if isinstance(error, Exception) else error from None

    def close(self) -> None:
        """Stop the statement if it still runs, and give its cursor back. Harmless when repeated."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        reader, self._reader = self._reader, None
        self._pieces = iter(())
        try:
            if reader is not None:
                reader.close()
        finally:
            on_close()

    def __del__(self) -> None:
        self.close()
