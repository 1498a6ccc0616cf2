"""One error class, made of what the server says rather than of the transport's noise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager
import pyarrow as pa

_CODED = re.compile(r"\[([A-Z][A-Z_]+)\] (.*?)(?:\. Detail: |\. gRPC client debug context|\Z)", re.DOTALL)
_TRANSPORT = re.compile(
    r"failed to connect|connection refused|error while dialing|socket closed", re.IGNORECASE
)


class LakehouseClientError(Exception):
    """The server refused or failed, or could not be reached.

    Attributes:
        code: The server's code, such as ``TABLE_NOT_FOUND``; ``UNREACHABLE`` where no server answered.
        message: One sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code
        self.message = message


def parse(error: BaseException) -> LakehouseClientError:
    """The client's error for something that ADBC or pyarrow raised."""
    text = str(error)
    coded = _CODED.search(text)
    if coded is not None:
        return LakehouseClientError(coded[1], coded[2].strip())
    if _TRANSPORT.search(text):
        return LakehouseClientError("UNREACHABLE", "no server answers at this address")
    return LakehouseClientError("FAILED", text.splitlines()[0][:500] if text else type(error).__name__)


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn what ADBC and pyarrow raise inside into ``LakehouseClientError``."""
    try:
        yield
    except (adbc_driver_manager.Error, pa.ArrowException) as error:
        raise parse(error) from None
