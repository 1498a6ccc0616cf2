"""A Flight client below pyarrow's: it sends any bytes as any message, also what no client would send."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import pyarrow as pa
from wire import wrapped

_SERVICE = "/arrow.flight.protocol.FlightService/"
_UNARY = frozenset({"GetFlightInfo", "GetSchema", "PollFlightInfo"})
_UPLOADS = frozenset({"DoPut", "DoExchange", "Handshake"})
METHODS = (
    *sorted(_UNARY),
    *sorted(_UPLOADS),
    "DoGet",
    "DoAction",
    "ListActions",
    "ListFlights",
)


@dataclass(frozen=True)
class Answer:
    """What came back: a gRPC status by name, its text, and the messages (bytes) before it."""

    status: str
    text: str = ""
    messages: list[bytes] = field(default_factory=list)


class RawFlight:
    """One connection that sends and receives messages as bytes."""

    def __init__(self, port: int) -> None:
        # Connections are shared within a process unless their options differ.
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{port}",
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.enable_http_proxy", 0),
            ],
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        method: str,
        requests: Iterable[bytes],
        *,
        timeout_s: float = 20,
        most: int = 1000,
        headers: Iterable[tuple[str, str | bytes]] = (),
    ) -> Answer:
        """Send messages to a method; at most ``most`` messages of the answer are read."""
        name, metadata = _SERVICE + method, tuple(headers)
        items: list[bytes] = []
        call: Any = None
        try:
            if method in _UNARY:
                answer = self._channel.unary_unary(name)(
                    b"".join(requests), timeout=timeout_s, metadata=metadata
                )
                return Answer("OK", "", [answer])
            if method in _UPLOADS:
                call = self._channel.stream_stream(name)(iter(requests), timeout=timeout_s, metadata=metadata)
            else:
                call = self._channel.unary_stream(name)(
                    b"".join(requests), timeout=timeout_s, metadata=metadata
                )
            items.extend(itertools.islice(call, most))
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details() or "", items)
        finally:
            if call is not None:
                call.cancel()
        return Answer("OK", "", items)


# -- messages by hand -------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while True:
        low, number = number & 127, number >> 7
        if not number:
            out.append(low)
            return bytes(out)
        out.append(low | 128)


def chunk(number: int, data: bytes, *, declared: int | None = None) -> bytes:
    """A protobuf field of bytes; ``declared`` is the length that it claims to have."""
    return varint(number << 3 | 2) + varint(len(data) if declared is None else declared) + data


def command_descriptor(command: bytes) -> bytes:
    """A FlightDescriptor of a command."""
    return varint(1 << 3) + varint(2) + chunk(2, command)


def path_descriptor(*parts: bytes) -> bytes:
    """A FlightDescriptor of a path."""
    return varint(1 << 3) + varint(1) + b"".join(chunk(3, part) for part in parts)


def ticket(data: bytes) -> bytes:
    """A Ticket."""
    return chunk(1, data)


def action(kind: bytes, body: bytes) -> bytes:
    """An Action."""
    return chunk(1, kind) + chunk(2, body)


@dataclass(frozen=True)
class Message:
    """One IPC message: a flatbuffer and the bytes of its buffers."""

    header: bytes
    body: bytes = b""

    def flight_data(self, descriptor: bytes | None = None, app_metadata: bytes | None = None) -> bytes:
        """As FlightData."""
        out = b"" if descriptor is None else chunk(1, descriptor)
        out += chunk(2, self.header) if self.header else b""
        out += b"" if app_metadata is None else chunk(3, app_metadata)
        return out + chunk(1000, self.body)


def messages(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], options: pa.ipc.IpcWriteOptions | None = None
) -> list[Message]:
    """The IPC messages of a stream: schema, dictionaries and batches in the order in which they are sent."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return list(_split(sink.getvalue().to_pybytes()))


def _split(data: bytes) -> Iterator[Message]:
    place = 0
    while place + 8 <= len(data):
        size: int = struct.unpack_from("<i", data, place + 4)[0]
        if not size:
            return
        header = data[place + 8 : place + 8 + size]
        message = pa.ipc.read_message(pa.BufferReader(data[place:]))
        length = 0 if message.body is None else message.body.size
        body = data[place + 8 + size : place + 8 + size + length]
        yield Message(header, body)
        place += 8 + size + length


def ingest(table: str, **fields: Any) -> bytes:
    """The descriptor of a bulk load that creates its table or appends to it."""
    options = {"if_not_exist": 1, "if_exists": 2}
    return command_descriptor(
        wrapped("CommandStatementIngest", table=table, table_definition_options=options, **fields)
    )


def upload(descriptor: bytes, stream: Iterable[Message]) -> list[bytes]:
    """The FlightData of an upload: the first message carries the descriptor."""
    return [message.flight_data(None if place else descriptor) for place, message in enumerate(stream)]
