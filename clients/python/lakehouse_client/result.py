"""The rows of a query, in whatever form the caller likes; streamed until asked for as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse_client.errors import client_errors

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class Result:
    """The rows of one query; they can be read once.

    Args:
        reader: The stream.
        rows: How many rows there will be, or -1 where the server did not say.
        close: Called when the stream has ended or is given up.
    """

    def __init__(self, reader: pa.RecordBatchReader, rows: int, close: Callable[[], None]) -> None:
        self.rows = rows
        self.schema: pa.Schema = reader.schema
        self._reader = reader
        self._close = close

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The record batches as they arrive.

        Raises:
            LakehouseClientError: The statement failed.
        """
        try:
            while True:
                with client_errors():
                    try:
                        batch = self._reader.read_next_batch()
                    except StopIteration:
                        return
                yield batch
        finally:
            self.close()

    def reader(self) -> pa.RecordBatchReader:
        """The stream as a record batch reader."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def table(self) -> pa.Table:
        """All rows as an Arrow table."""
        return pa.Table.from_batches(list(self), self.schema)

    def pandas(self, **options: Any) -> pd.DataFrame:
        """All rows as a pandas data frame; ``options`` go to ``pyarrow.Table.to_pandas``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as _  # noqa: F401, ICN001, PLC0415 - optional
        except ImportError as error:
            raise ImportError("pandas is not installed: pip install pandas") from error
        return self.table().to_pandas(**options)

    def polars(self) -> pl.DataFrame:
        """All rows as a polars data frame.

        Raises:
            ImportError: polars is not installed.
        """
        try:
            import polars as pl  # noqa: PLC0415 - optional
        except ImportError as error:
            raise ImportError("polars is not installed: pip install polars") from error
        frame = pl.from_arrow(self.table())
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()

    def close(self) -> None:
        """Give the rest up. Harmless when repeated."""
        self._close()
