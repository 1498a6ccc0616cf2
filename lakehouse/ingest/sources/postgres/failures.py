"""What the drivers raise, as errors of ours: what happened and to what, without secrets.

Both drivers put the text of the query and parts of the connection into their messages, so none of them is
passed on whole, and no error of ours keeps the driver's as its cause or context.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import psycopg

from lakehouse.errors import InvalidRequest, LakehouseError, StatementTimeout, StorageError
from lakehouse.ingest.sources.postgres.dsn import Dsn

T = TypeVar("T")

_DROPPED_STATES = ("08", "57P01", "57P02", "57P03", "57P05", "53300", "25P03", "XX000 lost")
_DROPPED_TEXTS = (
    "connection",
    "the database system is",
    "too many clients",
    "ssl error",
    "ssl syscall",
    "could not receive data",
    "could not send data",
    "no copy in progress",
)
_MESSAGE = re.compile(
    r"(?:ERROR|FATAL|PANIC):\s+(.*?)"
    r"(?:\n(?:LINE \d|DETAIL|HINT|CONTEXT|QUERY|STATEMENT|Query was)|\n\n|\s*\. SQLSTATE|\Z)",
    re.DOTALL,
)
_TIMEOUT = "statement timeout"
_CONNECT = (
    (
        ("password authentication failed", "no password supplied", "no pg_hba.conf entry"),
        "refused the user or the password",
    ),
    (("ssl", "certificate", "tls"), "did not agree on TLS"),
    (
        ("could not translate host name", "name or service not known"),
        "is not known: the host's name has no address",
    ),
    (("timeout",), "did not answer in time"),
    (("connection refused",), "is not there: nothing listens on that port"),
)
_WRONG = ("refused the user or the password", "did not agree on TLS")


class Dropped(Exception):
    """The connection is gone, or could not be made for now; ``error`` says so to people."""

    def __init__(self, error: LakehouseError) -> None:
        super().__init__(str(error))
        self.error = error


def attempt(dsn: Dsn, what: str, work: Callable[[], T]) -> T:
    """Do something with a driver.

    Args:
        dsn: Where.
        what: What is read, for messages.
        work: What to do.

    Raises:
        Dropped: The connection was lost.
        InvalidRequest, StorageError, StatementTimeout: It failed.
    """
    try:
        return work()
    except (psycopg.Error, OSError, ValueError) as error:
        failure = failure_of(error, dsn, what)
    except Exception as error:
        if not hasattr(error, "sqlstate"):  # what the ADBC driver raises; it may not be installed
            raise
        failure = failure_of(error, dsn, what)
    raise failure


def failure_of(error: BaseException, dsn: Dsn, what: str) -> Dropped | LakehouseError:
    """What a driver's error is to us."""
    state = str(getattr(error, "sqlstate", None) or "")
    text = dsn.scrub(_text(error))
    if state.startswith(_DROPPED_STATES) or (not state and _is_drop(error, text)):
        return Dropped(
            StorageError(f"the connection to PostgreSQL at {dsn.where} was lost while reading {what}: {text}")
        )
    if state == "57014" or (not state and _TIMEOUT in text):
        if _TIMEOUT in text:
            return StatementTimeout(
                f"PostgreSQL at {dsn.where} ended reading {what}: {text}",
                "raise statement_timeout for the user, or read less at once",
            )
        return StorageError(f"PostgreSQL at {dsn.where} ended reading {what}: {text}")
    if state == "55P03":
        return StorageError(
            f"{what} is locked by another session of the PostgreSQL at {dsn.where}", "try again later"
        )
    if state.startswith(("40", "53", "57", "58", "XX")):
        return StorageError(f"PostgreSQL at {dsn.where} failed to read {what}: {text}")
    return InvalidRequest(f"PostgreSQL at {dsn.where} cannot read {what}: {text}")


def connect_failure(error: BaseException, dsn: Dsn) -> Dropped | LakehouseError:
    """Why there is no connection: ``Dropped`` where trying again may help."""
    text = dsn.scrub(_text(error))
    lowered = str(error).lower()
    if 'database "' in lowered and "does not exist" in lowered:
        return InvalidRequest(f"PostgreSQL at {dsn.where} has no database '{dsn.dbname}'")
    for texts, why in _CONNECT:
        if any(each in lowered for each in texts):
            if why in _WRONG:
                return InvalidRequest(f"PostgreSQL at {dsn.where} {why}: {text}")
            return Dropped(StorageError(f"PostgreSQL at {dsn.where} {why}"))
    return Dropped(StorageError(f"PostgreSQL at {dsn.where} cannot be reached: {text}"))


def _is_drop(error: BaseException, text: str) -> bool:
    lowered = text.lower()
    return isinstance(error, psycopg.OperationalError | OSError) and any(e in lowered for e in _DROPPED_TEXTS)


def _text(error: BaseException) -> str:
    """The one sentence that says what happened: no query, no line of it, no detail with values."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    whole = str(error)
    if found := _MESSAGE.search(whole):
        return " ".join(found[1].split())
    first = whole.split("Query was", 1)[0].strip().splitlines()
    return first[0].removeprefix("IO: ").removeprefix("[libpq] ") if first else type(error).__name__
