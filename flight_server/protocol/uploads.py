"""Record batches of a DoPut stream, made safe to work with.

Arrow takes a message from the wire at its word: offsets, lengths and indices in it are not looked at before
they are used, so one lying message would read, or end, the process. Nothing of an upload may be touched
before it has passed through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.flight as flight

from flight_server.protocol.decoded_size import decoded_bytes
from lakehouse.errors import InvalidRequest, LimitExceeded

_SHOWN = 300
_NO_DATA = "never sent a data message"


def upload_schema(reader: flight.MetadataRecordBatchReader) -> pa.Schema:
    """The schema of an upload; without columns where a client (Go) sends a command and nothing after it.

    Raises:
        InvalidRequest: The first message is no schema.
    """
    try:
        return reader.schema
    except flight.FlightError:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        if _NO_DATA in str(error):
            return pa.schema([])
        raise InvalidRequest(f"the schema of the rows is malformed: {_shown(error)}") from error


def upload_batches(
    reader: flight.MetadataRecordBatchReader,
    most_bytes: int,
    check: Callable[[], None],
    note: Callable[[bytes], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The batches of an upload, each of them sound and of bounded size.

    Args:
        reader: The stream.
        most_bytes: Largest batch to take, in bytes, with every value written out.
        check: Called before each batch; raises where the call is over.
        note: Given the metadata of each message that has any, before its batch.

    Raises:
        InvalidRequest: A message is malformed, or text in it is not UTF-8.
        LimitExceeded: A batch is too large.
    """
    while True:
        check()
        try:
            chunk = reader.read_chunk()
            batch = chunk.data
            if note is not None and chunk.app_metadata is not None:
                note(chunk.app_metadata.to_pybytes())
            if batch is None:
                continue
            size = float(batch.get_total_buffer_size())
            if size <= most_bytes:
                batch.validate(full=True)
                size = decoded_bytes(batch, most_bytes)
        except StopIteration:
            # A client that went away ends its stream just as one that has finished.
            check()
            return
        except flight.FlightError:
            raise
        except MemoryError as error:
            raise LimitExceeded(
                "a batch of rows needs more memory than there is", "send smaller ones"
            ) from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidRequest(f"a batch of rows is malformed: {_shown(error)}") from error
        if size > most_bytes:
            raise LimitExceeded(
                f"a batch of {batch.num_rows} rows takes more than {most_bytes} bytes",
                "send smaller batches, or raise limits.message_bytes",
            )
        yield batch


def _shown(error: BaseException) -> str:
    """What Arrow says, fit for one line of an error message."""
    return " ".join(str(error).split())[:_SHOWN]
