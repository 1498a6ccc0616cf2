"""Queries that are sent batch after batch while what they find comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.flight as flight

from lakehouse_client.channel import Channel
from lakehouse_client.errors import client_errors

Queries: TypeAlias = Sequence[str] | Sequence[Sequence[float]] | pa.RecordBatch


def stream(channel: Channel, said: Mapping[str, Any], queries: Iterator[Queries]) -> Iterator[pa.RecordBatch]:
    """What queries find, while further ones are sent; closing it stops both.

    Args:
        channel: The connection.
        said: What is sought for all of them.
        queries: Batches of texts or of vectors. They are taken by a thread.

    Raises:
        LakehouseClientError: The server refused, or a query does not fit.
    """
    first = next(queries, None)
    if first is None:
        return
    batch = _batch(first)
    with client_errors():
        descriptor = flight.FlightDescriptor.for_command(json.dumps(said).encode())
        writer, reader = channel.flight.do_exchange(descriptor, channel.call)
        writer.begin(batch.schema)
    # A server whose answers are not read takes no more queries, so both go on at once.
    sender = _Sender(writer, reader, batch, queries)
    sender.start()
    try:
        while True:
            try:
                with client_errors():
                    found = reader.read_chunk().data
            except StopIteration:
                break
            if found is not None and found.num_rows:
                yield found
        sender.end()
        with client_errors():
            writer.close()
    finally:
        sender.stop()
        if sender.error is not None:
            raise sender.error


class _Sender(threading.Thread):
    """Sends queries until there are no more, or it is stopped.

    Attributes:
        error: What the queries themselves raised, if they did.
    """

    def __init__(
        self,
        writer: flight.FlightStreamWriter,
        reader: flight.FlightStreamReader,
        first: pa.RecordBatch,
        others: Iterator[Queries],
    ) -> None:
        super().__init__(name="search-queries", daemon=True)
        self._writer = writer
        self._reader = reader
        self._first: pa.RecordBatch | None = first
        self._others = others
        self._stopped = False
        self._closed = False
        self.error: BaseException | None = None

    def run(self) -> None:
        with suppress(pa.ArrowException, OSError):  # the reader raises the same
            while not self._stopped and (batch := self._next()) is not None:
                self._writer.write_batch(batch)
            self._writer.done_writing()

    def end(self) -> None:
        """Wait until all are sent."""
        self.join()
        self._closed = True

    def stop(self) -> None:
        """Send no more, and want no more answers. Harmless when all is over."""
        if self._closed:
            return
        self._stopped = self._closed = True
        self._reader.cancel()
        self.join()
        with suppress(pa.ArrowException, OSError):
            self._writer.close()

    def _next(self) -> pa.RecordBatch | None:
        batch, self._first = self._first, None
        if batch is not None:
            return batch
        try:
            found = next(self._others, None)
            return None if found is None else _batch(found)
        except BaseException as error:  # noqa: BLE001 - it is raised to who reads the answers
            self.error = error
            self._reader.cancel()
            return None


def _batch(queries: Queries) -> pa.RecordBatch:
    if isinstance(queries, pa.RecordBatch):
        return queries
    listed = list(queries)
    if listed and isinstance(listed[0], str):
        return pa.record_batch({"text": pa.array(listed, pa.string())})
    return pa.record_batch({"vector": pa.array(listed, pa.list_(pa.float32()))})
