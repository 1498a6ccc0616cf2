"""The limits to compare with, each a Flight server in a process of its own.

``python -m benchmarks.peers replay FILE`` streams the record batches of an Arrow file from memory;
``python -m benchmarks.peers static`` answers GetFlightInfo and DoGet with one fixed row;
``python -m benchmarks.peers bytes SIZE`` gives so many bytes, and takes any number.
"""

from __future__ import annotations

import json
import os
import sys

import pyarrow as pa
import pyarrow.flight as flight

BATCH_BYTES = 2_000_000
SCHEMA = pa.schema([pa.field("content", pa.binary(), nullable=False)])


class Bytes(flight.FlightServerBase):
    """Takes bytes and forgets them, and gives some from memory."""

    def __init__(self, size: int) -> None:
        self._batch = pa.record_batch([pa.array([os.urandom(BATCH_BYTES)], pa.binary())], schema=SCHEMA)
        self._count = size // BATCH_BYTES
        super().__init__("grpc://127.0.0.1:0")

    def do_put(
        self,
        _: flight.ServerCallContext,
        __: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """Answers with how many there were."""
        size = sum(batch.data.num_rows * BATCH_BYTES for batch in reader)
        writer.write(pa.py_buffer(json.dumps({"size": size}).encode()))

    def do_get(self, _: flight.ServerCallContext, __: flight.Ticket) -> flight.FlightDataStream:
        """The same batch again and again, by way of Python as ours are."""
        return flight.GeneratorStream(SCHEMA, (self._batch for _ in range(self._count)))


class Replay(flight.FlightServerBase):
    """Streams the same batches to whoever asks."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self._batches = batches
        super().__init__("grpc://127.0.0.1:0")

    def get_flight_info(
        self, _: flight.ServerCallContext, descriptor: flight.FlightDescriptor
    ) -> flight.FlightInfo:
        """One endpoint."""
        endpoint = flight.FlightEndpoint(flight.Ticket(b"x"), [])
        return flight.FlightInfo(self._batches[0].schema, descriptor, [endpoint], -1, -1)

    def do_get(self, _: flight.ServerCallContext, __: flight.Ticket) -> flight.FlightDataStream:
        """All batches."""
        schema = self._batches[0].schema
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(schema, self._batches))


def main() -> None:
    """Serve until killed."""
    if sys.argv[1] == "replay":
        with pa.ipc.open_stream(sys.argv[2]) as reader:
            batches = list(reader)
    elif sys.argv[1] == "bytes":
        batches = []
    else:
        batches = [pa.record_batch({"1": pa.array([1], pa.int32())})]
    server = Bytes(int(sys.argv[2])) if sys.argv[1] == "bytes" else Replay(batches)
    sys.stdout.write(f"listening on grpc://127.0.0.1:{server.port}\n")
    sys.stdout.flush()
    server.serve()


if __name__ == "__main__":
    main()
