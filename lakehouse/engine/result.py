"""Results on their way out of DuckDB: never collected, in messages of bounded size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from lakehouse.engine.errors import translate
from lakehouse.engine.running import RunningStatement, RunningStatements, StatementRecord
from lakehouse.errors import LimitExceeded, StatementCancelled

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
    "FLOAT[]": pa.list_(pa.field("l", pa.float32())),
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


def split(batch: pa.RecordBatch, max_bytes: int, size: int | None = None) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of at most ``max_bytes``; a single row larger than that goes alone.

    Args:
        batch: The batch.
        max_bytes: The largest piece.
        size: Bytes of the batch, where they are known already.
    """
    size = batch.nbytes if size is None else size
    if batch.num_rows <= 1 or size <= max_bytes:
        yield batch
        return
    rows = max(1, min(batch.num_rows - 1, batch.num_rows * max_bytes // size))
    for start in range(0, batch.num_rows, rows):
        yield from split(batch.slice(start, rows), max_bytes)


@dataclass(frozen=True, slots=True)
class ResultLimits:
    """Bounds of a result: bytes of one message, and of all of it (0 = any)."""

    message_bytes: int
    result_bytes: int = 0

    def check(self, sent_bytes: int) -> None:
        """Refuse a result that has grown too large.

        Raises:
            LimitExceeded: It has.
        """
        if self.result_bytes and sent_bytes > self.result_bytes:
            raise LimitExceeded(
                f"the result is larger than {self.result_bytes} bytes (limits.result_bytes)",
                "ask for fewer rows or columns",
            )


class ResultStream:
    """Iterates over the batches of a running statement; closing it stops the statement and frees its cursor.

    It is a class rather than a generator because a generator that was never started runs no ``finally``.
    Between two batches it may be closed from any thread.

    Args:
        running: The registry of statements.
        statement: The registered statement.
        reader: DuckDB's stream.
        schema: The schema every batch must have.
        limits: How large it may get.
        on_close: Called once when the stream ends, whichever way.
        at_end: Called when all rows were read; raises where they cannot be right.
    """

    def __init__(
        self,
        running: RunningStatements,
        statement: RunningStatement,
        reader: pa.RecordBatchReader,
        schema: pa.Schema,
        limits: ResultLimits,
        on_close: Callable[[], Any],
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self.schema = schema
        self._at_end = at_end
        self._running = running
        self._statement = statement
        self._reader: pa.RecordBatchReader | None = reader
        self._limits = limits
        self._closing = threading.Lock()
        self._on_close: Callable[[], Any] | None = on_close
        self._plain = reader.schema.equals(schema)
        self._pieces: Iterator[pa.RecordBatch] = iter(())
        statement.stream = self

    def prefetch(self) -> None:
        """Pull the first batch now, so that an error arrives before the stream has begun."""
        if not self._advance():
            self.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        for piece in self._pieces:
            return piece
        if not self._advance():
            self.close()
            raise StopIteration
        return next(self._pieces)

    def _advance(self) -> bool:
        """Take the next batch from DuckDB; gives whether there was one."""
        try:
            self._running.resume(self._statement)
            reader = self._reader
            if reader is None:
                return False
            batch = reader.read_next_batch()
            if not self._plain:
                # Not as a whole: Arrow refuses to cast batches in which two columns have the same name.
                columns = [c.cast(f.type) for c, f in zip(batch.columns, self.schema, strict=True)]
                batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
            size = batch.nbytes
            record = self._statement.record
            record.rows += batch.num_rows
            record.bytes += size
            self._limits.check(record.bytes)
        except StopIteration:
            return self._ended()
        except BaseException as error:  # noqa: BLE001 - whatever ends the stream frees its cursor
            self.close()
            told = translate(error) if isinstance(error, Exception) else error
            if isinstance(told, StatementCancelled) and self._statement.reason is not None:
                told = self._statement.reason
            raise told from None
        self._pieces = split(batch, self._limits.message_bytes, size)
        self._running.pause(self._statement)
        return True

    def _ended(self) -> bool:
        """Whether there is another batch: none."""
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            try:
                at_end()
            except BaseException:
                self.close()
                raise
        return False

    def close(self) -> None:
        """Stop the statement if it still runs, and give its cursor back. Harmless when repeated."""
        with self._closing:
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


class SpooledResult:
    """A result that has been computed in full; it holds nothing but its batches.

    Args:
        record: The record of its statement, which may be stopped while the batches are on their way.
        batches: The batches.
    """

    def __init__(self, record: StatementRecord, batches: list[pa.RecordBatch]) -> None:
        self._record = record
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        self._record.check_stop()
        return next(self._batches)

    def close(self) -> None:
        """Let go of the batches."""
        self._batches = iter(())
