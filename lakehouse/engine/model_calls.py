"""``embed(text)`` in statements: a function of DuckDB's that hands whole batches of texts to a model.

DuckDB calls it from threads of its own, so that what a statement is allowed and how it is stopped is found by
the cursor that it runs on: a variable of the cursor holds the number under which its call is known here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import FunctionNullHandling, PythonUDFType

from lakehouse.access.policy import Permission
from lakehouse.engine.semantics import Semantics
from lakehouse.errors import InternalError, InvalidRequest, LakehouseError, NotSupported, PermissionDenied

if TYPE_CHECKING:
    from lakehouse.engine.database import PooledCursor
    from lakehouse.engine.session import Session

EMBED = "embed"
"""The name of the function."""
PURPOSES = ("document", "query")

_FUNCTION = "~embed"
_VARIABLE = "model_call"
_PLANNING = "planning"
_KEPT_VECTORS = 64
_VECTORS = pa.list_(pa.float32())
_BEGIN, _END = "~failure", "~end"
_UDF = "Python exception occurred while executing the UDF"


@dataclass(slots=True)
class _Call:
    """A statement that may ask models, while it runs.

    ``kept`` has vectors of single texts: DuckDB computes what is constant several times.
    """

    principal: str
    check: Callable[[], None]
    may_embed: bool
    admitted: bool = False
    kept: dict[tuple[str, str, str], pa.Array] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class ModelCalls:
    """The statements that may ask models, and the function that they do it with.

    Attributes:
        semantics: Who has the models; None where there is nobody.
    """

    def __init__(self) -> None:
        self.semantics: Semantics | None = None
        self._lock = threading.Lock()
        self._calls: dict[str, list[_Call]] = {}

    def define(self, root: duckdb.DuckDBPyConnection, schema: str) -> None:
        """Offer the function in a database.

        Args:
            root: A connection to it.
            schema: The quoted full name of the schema in which sessions find their macros.
        """
        root.create_function(
            _FUNCTION,
            self._embed,
            [duckdb.sqltype("VARCHAR") for _ in range(4)],
            duckdb.sqltype("FLOAT[]"),
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
        )
        root.execute(
            f"CREATE MACRO {schema}.{EMBED}(value, model := '', purpose := '{PURPOSES[0]}') AS "
            f'"{_FUNCTION}"(value::VARCHAR, model::VARCHAR, purpose::VARCHAR, '
            f"coalesce(getvariable('{_VARIABLE}'), ''))"
        )

    def begin(
        self,
        connection: duckdb.DuckDBPyConnection,
        principal: str,
        check: Callable[[], None] | None,
        *,
        may_embed: bool = True,
    ) -> None:
        """Let what runs on a cursor ask models; pair it with ``end``.

        Args:
            connection: The cursor.
            principal: On whose behalf.
            check: Raises where the statement has to stop; None where it is only planned, and gets NULLs.
            may_embed: Whether the principal may have models work.
        """
        number = str(id(connection))
        told = _PLANNING if check is None else number
        connection.execute(f"SET VARIABLE {_VARIABLE} = '{told}'").fetchall()
        if check is not None:
            with self._lock:
                self._calls.setdefault(number, []).append(_Call(principal, check, may_embed))

    def end(self, connection: duckdb.DuckDBPyConnection) -> None:
        """What ran on a cursor asks no more. Harmless where nothing was begun."""
        number = str(id(connection))
        with self._lock:
            calls = self._calls.get(number)
            if calls:
                calls.pop()
            if not calls:
                self._calls.pop(number, None)

    def close(self) -> None:
        """Let go of the models."""
        self.semantics = None

    def _embed(
        self,
        texts: pa.ChunkedArray,
        models: pa.ChunkedArray,
        purposes: pa.ChunkedArray,
        calls: pa.ChunkedArray,
    ) -> pa.Array:
        """The function: vectors of texts, NULL for NULL and for texts that have none."""
        try:
            number = calls[0].as_py()
            if number == _PLANNING:
                return pa.nulls(len(texts), _VECTORS)
            with self._lock:
                found = self._calls.get(number)
                call = found[-1] if found else None
            return self._vectors(call, texts, models, purposes)
        except LakehouseError as error:
            raise RuntimeError(_told(error)) from None
        except Exception as error:
            raise RuntimeError(_told(InternalError(f"{EMBED}() failed"))) from error

    def _vectors(
        self,
        call: _Call | None,
        texts: pa.ChunkedArray,
        models: pa.ChunkedArray,
        purposes: pa.ChunkedArray,
    ) -> pa.Array:
        semantics = self.semantics
        if call is None or semantics is None:
            raise NotSupported(f"{EMBED}() cannot be used in this kind of statement")
        call.check()
        if not call.may_embed:
            raise PermissionDenied(
                f"{call.principal} may not use {EMBED}()", "it needs what the action ai.embed needs"
            )
        with call.lock:
            if not call.admitted:
                semantics.admit(call.principal)
                call.admitted = True
        kinds = list(_pairs(models, purposes))
        if len(kinds) == 1:
            return _embedded(semantics, call, texts.combine_chunks(), *kinds[0])
        parts, positions = [], []
        for model, purpose in kinds:
            mask = pc.and_(_equal(models, model), _equal(purposes, purpose)).to_numpy()
            there = np.flatnonzero(mask)
            parts.append(
                _embedded(semantics, call, texts.take(pa.array(there)).combine_chunks(), model, purpose)
            )
            positions.append(there)
        return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(positions))))


@dataclass(frozen=True, slots=True)
class ModelUse:
    """That a statement asks models, among its inputs. See ``Input``.

    Attributes:
        calls: The statements that do.
        principal: On whose behalf it does.
        may_embed: Whether the principal may.
    """

    calls: ModelCalls
    principal: str
    may_embed: bool

    @classmethod
    def of(cls, calls: ModelCalls, session: Session) -> Self:
        """On behalf of a session."""
        return cls(calls, session.principal.name, session.access.may_run("ai.embed", Permission.AI))

    def again(self, session: Session | None, values: Mapping[str, Any]) -> Self:
        """The same for another execution; for none it asks nothing."""
        return (
            replace(self, principal="", may_embed=False) if session is None else self.of(self.calls, session)
        )

    def supply(self, cursor: PooledCursor, check: Callable[[], None] | None) -> None:
        """Let what runs on a cursor ask models."""
        self.calls.begin(cursor.connection, self.principal, check, may_embed=self.may_embed)

    def withdraw(self, cursor: PooledCursor) -> None:
        """What ran there asks no more."""
        self.calls.end(cursor.connection)


def failure_in(text: str) -> LakehouseError | None:
    """The error that the function told DuckDB of, if a message of DuckDB's is about one."""
    if _UDF not in text or _BEGIN not in text or _END not in text:
        return None
    try:
        told = json.loads(text[text.index(_BEGIN) + len(_BEGIN) : text.rindex(_END)])
        kind, message, hint = _classes()[told["code"]], str(told["message"]), str(told["hint"])
    except (ValueError, KeyError, TypeError):
        return InternalError(f"{EMBED}() failed")
    return kind(message, hint)


def _told(error: LakehouseError) -> str:
    told = {"code": error.code, "message": error.message, "hint": error.hint}
    return f"{_BEGIN}{json.dumps(told)}{_END}"


def _classes() -> dict[str, type[LakehouseError]]:
    pending, found = [LakehouseError], {}
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending += kind.__subclasses__()
    return found


def _pairs(models: pa.ChunkedArray, purposes: pa.ChunkedArray) -> Iterator[tuple[str | None, str | None]]:
    """The models and purposes that come together, each pair once."""
    first, second = pc.unique(models), pc.unique(purposes)
    if len(first) == len(second) == 1:
        yield first[0].as_py(), second[0].as_py()
        return
    yield from dict.fromkeys(zip(models.to_pylist(), purposes.to_pylist(), strict=True))


def _equal(column: pa.ChunkedArray, value: str | None) -> pa.ChunkedArray:
    return pc.is_null(column) if value is None else pc.fill_null(pc.equal(column, value), False)


def _embedded(
    semantics: Semantics, call: _Call, texts: pa.Array, model: str | None, purpose: str | None
) -> pa.Array:
    """The vectors of texts by one model; each text is embedded once."""
    purpose = purpose or PURPOSES[0]
    if purpose not in PURPOSES:
        raise InvalidRequest(f"{EMBED}: purpose = {purpose!r}, expected {' or '.join(map(repr, PURPOSES))}")
    encoded = pc.dictionary_encode(texts)
    distinct: Sequence[str] = encoded.dictionary.to_pylist()
    if not distinct:
        return pa.nulls(len(texts), _VECTORS)
    key = (model or "", purpose, distinct[0])
    vectors = call.kept.get(key) if len(distinct) == 1 else None
    if vectors is None:
        vectors = _lists(semantics.vectors(distinct, model or "", purpose, call.check))
        if len(distinct) == 1 and len(call.kept) < _KEPT_VECTORS:
            call.kept[key] = vectors
    return vectors.take(encoded.indices)


def _lists(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> pa.Array:
    """Rows of a matrix as lists; those that are all zero are no vectors."""
    count, length = vectors.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat, _VECTORS, mask=pa.array(~vectors.any(axis=1)))
