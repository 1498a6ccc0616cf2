"""The only place where a domain error becomes a gRPC status.

pyarrow maps its own ``Flight*Error`` classes cleanly, but sends a Python traceback to the client for
everything else, and can express INVALID_ARGUMENT, NOT_FOUND and UNIMPLEMENTED only through exceptions of
that second sort. The wire classes below are such exceptions whose ``__cause__`` cannot be read: pyarrow
then fails to format a traceback and sends status and message alone. A test pins this.

ALREADY_EXISTS, RESOURCE_EXHAUSTED, FAILED_PRECONDITION and ABORTED cannot be sent at all; the nearest
status that can is used, and the code in the message tells the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.flight as flight
import structlog

from lakehouse.errors import ErrorKind, InternalError, LakehouseError

log = structlog.get_logger(__name__)


class _NoTraceback:
    """Makes an exception impossible to format with a traceback."""

    @property
    def __cause__(self) -> BaseException | None:
        raise RuntimeError("not for clients")

    @__cause__.setter
    def __cause__(self, value: BaseException | None) -> None:
        return None


class InvalidArgument(_NoTraceback, pa.ArrowInvalid):
    """INVALID_ARGUMENT."""


class NotFound(_NoTraceback, pa.ArrowKeyError):
    """NOT_FOUND."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Unimplemented(_NoTraceback, pa.ArrowNotImplementedError):
    """UNIMPLEMENTED."""


_CLASSES: dict[ErrorKind, type[Exception]] = {
    ErrorKind.INVALID: InvalidArgument,
    ErrorKind.ALREADY_EXISTS: InvalidArgument,
    ErrorKind.NOT_FOUND: NotFound,
    ErrorKind.UNSUPPORTED: Unimplemented,
    ErrorKind.UNAUTHENTICATED: flight.FlightUnauthenticatedError,
    ErrorKind.PERMISSION: flight.FlightUnauthorizedError,
    ErrorKind.CONFLICT: flight.FlightUnavailableError,
    ErrorKind.EXHAUSTED: flight.FlightUnavailableError,
    ErrorKind.CANCELLED: flight.FlightCancelledError,
    ErrorKind.DEADLINE: flight.FlightTimedOutError,
    ErrorKind.UNAVAILABLE: flight.FlightUnavailableError,
    ErrorKind.INTERNAL: flight.FlightInternalError,
}


# gRPC sends a message three times over, twice with an escape of up to three bytes for each of its own, and
# clients refuse an answer whose headers exceed 16 KiB: they would see that instead of the message.
_MOST_BYTES = 1500


def _cut(text: str) -> str:
    """As much of a message as every client takes. Line breaks and the like become blanks."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    data = plain.encode("utf-8", "replace")
    return plain if len(data) <= _MOST_BYTES else data[:_MOST_BYTES].decode("utf-8", "ignore") + " …"


def to_wire(error: LakehouseError, rpc: str) -> Exception:
    """The exception to raise in a pyarrow handler for a domain error."""
    kind = _CLASSES[error.kind]
    if rpc == "get_schema" and issubclass(kind, flight.FlightError):
        # pyarrow does not convert its own errors there: it would send UNKNOWN and a traceback.
        kind = InvalidArgument
    return kind(_cut(str(error)))


@contextmanager
def wire_errors(rpc: str) -> Iterator[None]:
    """Let nothing but wire exceptions out of a handler.

    Whatever is not a domain error is a defect: its details go to the log, a plain sentence to the client.
    """
    try:
        yield
    except LakehouseError as error:
        if error.kind is ErrorKind.INTERNAL:
            log.exception("request failed", rpc=rpc, code=error.code)
        wire = to_wire(error, rpc)
    except flight.FlightError as error:
        wire = error
    except Exception:
        log.exception("request failed", rpc=rpc, code="INTERNAL")
        wire = to_wire(InternalError("the server failed on this request", "its log has the details"), rpc)
    else:
        return
    raise wire from None
