"""One error class, made of what the server says rather than of the transport's noise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
from adbc_driver_manager import AdbcStatusCode

_CODED = re.compile(r"\[([A-Z][A-Z0-9_]+)\] (.*?)(?:\. Detail: |\. gRPC client debug context|\Z)", re.DOTALL)
# What the two transports (Go's and C++'s gRPC) say where no server spoke, the first match counts.
_TRANSPORT: tuple[tuple[str, str, str], ...] = (
    (r"ssl handshake|tls: |x509|certificate", "TLS_FAILED", "the TLS handshake failed"),
    (
        r"zero addresses|errors resolving|no such host|domain name not found|name resolution",
        "UNREACHABLE",
        "the host name is not known",
    ),
    (
        r"connection refused|failed to connect|error while dialing|no route to host|network is unreachable",
        "UNREACHABLE",
        "no server answers at this address",
    ),
    (r"deadline ?exceeded|timed ?out", "TIMEOUT", "there was no answer within the time allowed"),
    (
        r"socket closed|connection reset|unexpected eof|error reading|goaway|is closing|broken pipe",
        "UNREACHABLE",
        "the connection to the server was lost",
    ),
    (r"cancell?ed", "CANCELLED", "the call was cancelled"),
)
_TRANSPORT_ERRORS = (
    flight.FlightUnavailableError,
    flight.FlightTimedOutError,
    flight.FlightCancelledError,
    OSError,
)
_TRANSPORT_STATUS = (AdbcStatusCode.IO, AdbcStatusCode.TIMEOUT, AdbcStatusCode.CANCELLED)
_NOISE = re.compile(
    r"\A(Flight returned .*? error, with message: |[A-Z_]+: )?(\[FlightSQL\] )?"
    r"|(\. Detail: .*|\. gRPC client debug context.*| \(\w+; \w+\)(\. Vendor code.*)?)\Z",
    re.DOTALL,
)


class LakehouseClientError(Exception):
    """The server refused or failed, or could not be reached.

    Attributes:
        code: The server's code, such as ``TABLE_NOT_FOUND``. Where no server spoke, the client's own:
            ``INVALID_URI``, ``UNREACHABLE``, ``TLS_FAILED``, ``TIMEOUT``, ``CANCELLED``; ``FAILED`` where
            nothing better is known.
        message: One sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


def parse(error: BaseException) -> LakehouseClientError:
    """The client's error for something that ADBC or pyarrow raised."""
    text = str(error)
    coded = _CODED.search(text)
    if coded is not None:
        return LakehouseClientError(coded[1], _line(coded[2]))
    if _of_transport(error, text):
        for pattern, code, message in _TRANSPORT:
            if re.search(pattern, text, re.IGNORECASE):
                return LakehouseClientError(code, message)
    code = "UNAUTHENTICATED" if re.search("unauthenticated", text, re.IGNORECASE) else "FAILED"
    return LakehouseClientError(code, _line(_NOISE.sub("", text))[:500] or type(error).__name__)


def _of_transport(error: BaseException, text: str) -> bool:
    """Whether the words come from gRPC; a server's own may well be about certificates and time."""
    return (
        isinstance(error, _TRANSPORT_ERRORS)
        or getattr(error, "status_code", None) in _TRANSPORT_STATUS
        or re.search(r"\((Unavailable|DeadlineExceeded|Canceled); ", text) is not None
    )


def _line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn what ADBC and pyarrow raise inside into ``LakehouseClientError``."""
    try:
        yield
    except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
        raise parse(error) from None
