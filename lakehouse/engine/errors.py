"""DuckDB's exceptions become domain errors here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from lakehouse.engine.model_calls import failure_in
from lakehouse.errors import (
    EngineInvalidated,
    InternalError,
    LakehouseError,
    LimitExceeded,
    NotSupported,
    SqlBindError,
    SqlExecutionError,
    SqlSyntaxError,
    StatementCancelled,
    StatementForbidden,
    StorageError,
    TableNotFound,
    TransactionStateError,
)

_CLASSES: tuple[tuple[type[Exception], type[LakehouseError]], ...] = (
    (duckdb.ParserException, SqlSyntaxError),
    (duckdb.SyntaxException, SqlSyntaxError),
    (duckdb.BinderException, SqlBindError),
    (duckdb.CatalogException, SqlBindError),
    (duckdb.ConversionException, SqlExecutionError),
    (duckdb.OutOfRangeException, SqlExecutionError),
    (duckdb.ConstraintException, SqlExecutionError),
    (duckdb.InvalidInputException, SqlExecutionError),
    (duckdb.InvalidTypeException, SqlBindError),
    (duckdb.TypeMismatchException, SqlExecutionError),
    (duckdb.NotImplementedException, NotSupported),
    (duckdb.PermissionException, StatementForbidden),
    (duckdb.OutOfMemoryException, LimitExceeded),
    (duckdb.InterruptException, StatementCancelled),
    (duckdb.IOException, StorageError),
    (duckdb.HTTPException, StorageError),
)
# An error in the middle of an Arrow stream arrives as plain OSError whose text names DuckDB's class.
_PREFIXES: tuple[tuple[str, type[LakehouseError]], ...] = (
    ("Parser Error", SqlSyntaxError),
    ("Binder Error", SqlBindError),
    ("Catalog Error", SqlBindError),
    ("Conversion Error", SqlExecutionError),
    ("Out of Range Error", SqlExecutionError),
    ("Invalid Input Error", SqlExecutionError),
    ("Constraint Error", SqlExecutionError),
    ("Mismatch Type Error", SqlExecutionError),
    ("Not implemented Error", NotSupported),
    ("Out of Memory Error", LimitExceeded),
    ("INTERRUPT Error", StatementCancelled),
    ("IO Error", StorageError),
    ("Permission Error", StatementForbidden),
)
_MISSING_TABLE = re.compile(r"Table with name \S+ does not exist")
# What DuckDB suggests instead are names from every session.
_SUGGESTED = re.compile(r'\s*Did you mean ".*', re.DOTALL)
_SERVER_PATH = re.compile(r"(?:file://)?/(?:[^\s/'\"\]\[,;:]+/)+")
_TRACEBACK = re.compile(r"(?: Detail: Python exception:)? Traceback \(most recent call last\):.*")
_INTERNAL_NAME = re.compile(r'"?~\w+"?\.')


def clean(text: str) -> str:
    """One readable sentence of a DuckDB message: no class prefix, caret art, server path or internal name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept: list[str] = []
    for line in lines:
        if re.match(r"LINE \d+:", line) or set(line) <= {"^", " "}:
            continue
        kept.append(line)
    sentence = " ".join(kept)
    sentence = re.sub(r"^(?:IOError: |OSError: |Invalid: )+", "", sentence)
    sentence = re.sub(r"^[A-Z][\w ]{2,30} Error: ", "", sentence)
    sentence = _SERVER_PATH.sub("", _TRACEBACK.sub("", sentence))
    return _INTERNAL_NAME.sub("", sentence)[:2000]


def translate(error: BaseException) -> LakehouseError:
    """The domain error for something that DuckDB or its Arrow stream raised."""
    if isinstance(error, LakehouseError):
        return error
    text = str(error)
    special = failure_in(text) or _special(error, text)
    if special is not None:
        return special
    message = clean(text)
    for foreign, domain in _CLASSES:
        if isinstance(error, foreign):
            return domain(message)
    for prefix, domain in _PREFIXES:
        if prefix in text[:80]:
            return domain(message)
    if isinstance(error, duckdb.Error | pa.ArrowException | OSError):
        return SqlExecutionError(message)
    return InternalError("the SQL engine failed on this statement")


def _special(error: BaseException, text: str) -> LakehouseError | None:
    """Errors whose class alone does not say what happened."""
    if isinstance(error, duckdb.FatalException) or "database has been invalidated" in text:
        return EngineInvalidated("the SQL engine failed on a statement and was started again", "try again")
    if isinstance(error, duckdb.InternalException):
        return InternalError("the SQL engine failed on this statement")
    if isinstance(error, duckdb.CatalogException) and _MISSING_TABLE.search(text):
        return TableNotFound(_SUGGESTED.sub("", clean(text)))
    if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in text[:200]:
        if "max_temp_directory_size" in text:
            return LimitExceeded(
                "the statement needs more memory and disk space than the server allows",
                "engine.memory_limit, engine.spill_limit",
            )
        return LimitExceeded("the statement needs more memory than the server allows", "engine.memory_limit")
    if "Current transaction is aborted" in text:
        return TransactionStateError("an earlier error ended this transaction", "ROLLBACK, then begin again")
    if isinstance(error, RecursionError):
        return SqlSyntaxError("the statement is nested too deeply")
    return None


@contextmanager
def duckdb_errors() -> Iterator[None]:
    """Turn everything that DuckDB raises inside into a domain error.

    Raises:
        LakehouseError: The error translated; the original is its cause.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, RecursionError, RuntimeError) as error:
        raise translate(error) from error
