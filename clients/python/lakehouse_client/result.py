"""The rows of a query, in whatever form the caller likes; streamed until asked for as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from lakehouse_client.blocking import interruptible
from lakehouse_client.errors import LakehouseClientError, client_errors

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class Result:
    """The rows of one query; they can be read once.

    Args:
        reader: The stream.
        rows: How many rows there will be, or -1 where the server did not say.
        cancel: Stops the query while a batch is awaited.
        close: Called when the stream has ended or is given up.

    Attributes:
        schema: The columns.
        rows: How many rows there will be, or -1 where the server did not say.
    """

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        rows: int,
        cancel: Callable[[], None],
        close: Callable[[], None],
    ) -> None:
        self.rows = rows
        self.schema: pa.Schema = reader.schema
        self._reader = reader
        self._cancel = cancel
        self._close = close
        self._begun = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The record batches as they arrive.

        Raises:
            LakehouseClientError: The statement failed, or the rows were read before.
        """
        self._begin()
        return self._batches()

    def _begin(self) -> None:
        if self._begun:
            raise LakehouseClientError("RESULT_READ", "the rows of this result were read or given up before")
        self._begun = True

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            while (batch := self._next()) is not None:
                yield batch
        finally:
            self._close()

    def _next(self) -> pa.RecordBatch | None:
        with client_errors():
            try:
                return interruptible(self._reader.read_next_batch, self._cancel)
            except StopIteration:
                return None

    def reader(self) -> pa.RecordBatchReader:
        """The stream as a record batch reader."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def table(self) -> pa.Table:
        """All rows as an Arrow table.

        Raises:
            LakehouseClientError: The statement failed, or the rows were read before.
        """
        self._begin()
        try:
            with client_errors():
                return interruptible(self._reader.read_all, self._cancel)
        finally:
            self._close()

    def pandas(self, **options: Any) -> pd.DataFrame:
        """All rows as a pandas data frame; ``options`` go to ``pyarrow.Table.to_pandas``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as _  # noqa: F401, ICN001, PLC0415 - optional
        except ImportError as error:
            raise ImportError("pandas is not installed: pip install 'lakehouse-client[pandas]'") from error
        return self.table().to_pandas(**options)

    def polars(self) -> pl.DataFrame:
        """All rows as a polars data frame.

        Raises:
            ImportError: polars is not installed.
        """
        try:
            import polars as pl  # noqa: PLC0415 - optional
        except ImportError as error:
            raise ImportError("polars is not installed: pip install 'lakehouse-client[polars]'") from error
        frame = pl.from_arrow(self.table())
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()

    def close(self) -> None:
        """Give up what has not been read; the server stops the query. Harmless when repeated."""
        self._begun = True
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
