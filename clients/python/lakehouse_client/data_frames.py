"""Data of any library as Arrow record batches that a server takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import pyarrow as pa

# Rows of one message: small enough that neither side holds much, large enough to be fast.
_BATCH_ROWS = 65_536


def to_record_batches(data: Any) -> pa.RecordBatch | pa.RecordBatchReader:
    """The rows as one batch or a stream of at least one, as the wire needs it.

    Args:
        data: An Arrow table, record batch or record batch reader; a pandas data frame (a named index becomes
            a column, an unnamed one is dropped); a polars data frame or anything else that exports an Arrow
            stream; or a mapping of column names to values.

    Raises:
        TypeError: The data is nothing of that kind.
    """
    if isinstance(data, pa.RecordBatch):
        return data
    if isinstance(data, pa.RecordBatchReader):
        return _not_empty(data)
    return _not_empty(_table_or_reader(data))


def _table_or_reader(data: Any) -> pa.RecordBatchReader:
    if isinstance(data, Mapping):
        data = pa.table(dict(data))
    elif _is_pandas(data):
        named = any(name is not None for name in data.index.names)
        data = pa.Table.from_pandas(data, preserve_index=named).replace_schema_metadata(None)
    if isinstance(data, pa.Table):
        return data.to_reader(max_chunksize=_BATCH_ROWS)
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    raise TypeError(
        "expected an Arrow table or reader, a pandas or polars data frame, or a dict of columns, "
        f"found {type(data).__name__}"
    )


def _is_pandas(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "index")


def _not_empty(reader: pa.RecordBatchReader) -> pa.RecordBatch | pa.RecordBatchReader:
    """A stream without any batch would not tell the server what to do with it."""
    try:
        first = reader.read_next_batch()
    except StopIteration:
        return pa.RecordBatch.from_pylist([], schema=reader.schema)
    rest: Iterable[pa.RecordBatch] = reader
    return pa.RecordBatchReader.from_batches(reader.schema, chain([first], rest))
