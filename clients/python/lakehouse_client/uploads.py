"""Files and rows that are sent to a server, to become rows of a table in one commit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.flight as flight

from lakehouse_client.actions import PreviewResponse, RunResponse
from lakehouse_client.channel import Channel
from lakehouse_client.errors import LakehouseClientError, client_errors
from lakehouse_client.messages import decode

Source: TypeAlias = str | PathLike[str] | BinaryIO
_PIECE_BYTES, _MESSAGE_BYTES = 2_000_000, 5_000_000
_END = json.dumps({"end": True}).encode()
_CONTENT = pa.schema([pa.field("content", pa.binary(), nullable=False)])


def table_path(catalog: str | None, schema: str | None, table: str) -> tuple[str, ...]:
    """The path of a table.

    Raises:
        ValueError: A catalog is named, and no schema.
    """
    if catalog and not schema:
        raise ValueError("a catalog needs a schema, too")
    return tuple(part for part in (catalog, schema, table) if part)


def file(
    channel: Channel,
    path: tuple[str, ...],
    source: Source,
    options: Mapping[str, Any],
    on_sent: Callable[[int], None] | None,
) -> RunResponse:
    """Send a file; gives the run that stored its rows.

    Args:
        channel: The connection.
        path: The table: catalog, schema and name, of which the first two may be left out.
        source: The path of a file, or a file that is open for reading bytes.
        options: What is to become of the table, and how the file is to be read.
        on_sent: Told how many bytes were sent with each piece.

    Raises:
        LakehouseClientError: The server refused; nothing was stored.
        OSError: The file cannot be read; nothing was stored.
    """
    return decode(RunResponse, _file(channel, path, source, dict(options), on_sent, "run"))


def preview(
    channel: Channel,
    path: tuple[str, ...],
    source: Source,
    limit: int,
    options: Mapping[str, Any],
    on_sent: Callable[[int], None] | None,
) -> PreviewResponse:
    """Send a file; gives what would become of it, and its first rows. See ``file``."""
    said = {"preview": limit, **options}
    return decode(PreviewResponse, _file(channel, path, source, said, on_sent, "preview"))


def _file(
    channel: Channel,
    path: tuple[str, ...],
    source: Source,
    options: dict[str, Any],
    on_sent: Callable[[int], None] | None,
    answer: str,
) -> dict[str, Any]:
    if isinstance(source, str | PathLike):
        with Path(source).open("rb") as opened:
            said = {"file": Path(fspath(source)).name, **options}
            return _sent(channel, path, _CONTENT, _pieces(opened, on_sent), said, answer)
    said = {"file": Path(getattr(source, "name", "") or "content").name, **options}
    return _sent(channel, path, _CONTENT, _pieces(source, on_sent), said, answer)


def rows(
    channel: Channel,
    path: tuple[str, ...],
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    options: Mapping[str, Any],
) -> RunResponse:
    """Send record batches; gives the run that stored them. See ``file``."""
    return decode(RunResponse, _sent(channel, path, schema, _messages(batches), dict(options), "run"))


def _messages(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches in pieces: a message has a largest size, which a batch of a table may exceed by far."""
    for batch in batches:
        rows = max(1, batch.num_rows * _MESSAGE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _pieces(opened: BinaryIO, on_sent: Callable[[int], None] | None) -> Iterator[pa.RecordBatch]:
    while piece := opened.read(_PIECE_BYTES):
        yield pa.record_batch([[piece]], schema=_CONTENT)
        if on_sent is not None:
            on_sent(len(piece))


def _sent(
    channel: Channel,
    path: tuple[str, ...],
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    said: dict[str, Any],
    answer: str,
) -> dict[str, Any]:
    # A stream that breaks off looks to the server like one that has ended, unless its end is to follow.
    said["end_follows"] = True
    with client_errors():
        descriptor = flight.FlightDescriptor.for_path(*path)
        writer, reader = channel.flight.do_put(descriptor, schema, channel.call)
    told: list[bytes] = []
    # What the server says while the rows are on their way has to be taken, or it would wait for that.
    listener = threading.Thread(target=_listen, args=(reader, told), name="upload-answers", daemon=True)
    listener.start()
    try:
        with client_errors():
            writer.write_metadata(json.dumps(said).encode())
        for batch in batches:
            with client_errors():
                writer.write_batch(batch)
        with client_errors():
            writer.write_metadata(_END)
            writer.done_writing()
            listener.join()
            writer.close()
    except BaseException:
        with suppress(pa.ArrowException, OSError):
            writer.done_writing()
            listener.join()  # of two threads that wait for the same answer none would get it
            writer.close()
        raise
    last = json.loads(told[-1]) if told else {}
    if answer not in last:
        raise LakehouseClientError("FAILED", "the server did not say what became of the rows")
    found: dict[str, Any] = last[answer]
    return found


def _listen(reader: flight.FlightMetadataReader, told: list[bytes]) -> None:
    try:
        while (message := reader.read()) is not None:
            told[:] = [message.to_pybytes()]
    except (pa.ArrowException, OSError):
        return  # the writer raises the same when it is closed
