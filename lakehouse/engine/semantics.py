"""What statements can ask of models and of vector indexes, whoever answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakehouse.engine.search_call import VECTOR_SEARCH, Argument, SearchCall
from lakehouse.errors import CommitConflict, InvalidRequest
from lakehouse.types import TableName

if TYPE_CHECKING:
    from lakehouse.engine.session import Session

_K = 10
_NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class SearchColumns:
    """What a search in an index gives.

    Attributes:
        schema: Its columns: rank, score and those of the index's rows.
        table: What the index was made from.
    """

    schema: pa.Schema
    table: TableName


@dataclass(frozen=True, slots=True)
class Search:
    """A search as a statement asks for it.

    Attributes:
        index: The name of the index.
        query: A text, or a vector; None finds nothing.
        k: How many to find.
        ef: The effort; None for the index's own.
        where: SQL predicate over the table that the index was made from; empty for all rows.
        mode: By what rows are found: ``vector``, ``lexical`` or ``hybrid``.
        rerank: The model that orders them anew, the default one for that where empty; None for none.
    """

    index: str
    query: str | NDArray[Any] | None
    k: int
    ef: int | None
    where: str
    mode: str = "vector"
    rerank: str | None = None


class Semantics(Protocol):
    """Answers what statements ask of models, and of vector indexes as far as a session may see them."""

    def columns(self, index: str, session: Session) -> SearchColumns:
        """What a search in an index gives; no model is asked.

        Raises:
            VectorIndexNotFound: There is no such index for the session's principal.
            PermissionDenied: A column that it tells of is masked for the principal.
        """
        ...

    def search(self, wanted: Search, session: Session, check: Callable[[], None]) -> pa.Table:
        """The nearest of a query, in the columns that ``columns`` gives.

        Args:
            wanted: What to look for.
            session: On whose behalf.
            check: Raises where the search shall stop.

        Raises:
            LakehouseError: There is no such index, or the search does not fit it.
        """
        ...

    def admit(self, principal: str) -> None:
        """Count a statement that asks models.

        Raises:
            LimitExceeded: The principal has had too many within a minute.
        """
        ...

    def vectors(
        self, texts: Sequence[str], model: str, purpose: str, check: Callable[[], None]
    ) -> NDArray[np.float32]:
        """The vectors of texts, of shape ``(len(texts), dimension)``; of texts that have none, zero.

        Args:
            texts: Of any length.
            model: What the configuration calls the model; empty for the default one.
            purpose: ``document`` or ``query``.
            check: Raises where the work shall stop.

        Raises:
            LakehouseError: There is no such model, it cannot be asked, or a text is too long.
        """
        ...


def wanted_search(call: SearchCall, value: Callable[[Argument], Any]) -> Search:
    """What a call asks for, once its arguments have values.

    Args:
        call: The call.
        value: Gives the value of an argument.

    Raises:
        InvalidRequest: A value is of the wrong kind.
    """
    values: Mapping[str, Any] = {name: value(argument) for name, argument in call.arguments.items()}
    texts = {}
    for name, what in (("filter", "a condition"), ("mode", "a word"), ("rerank", "the name of a model")):
        texts[name] = values.get(name)
        if texts[name] is not None and not isinstance(texts[name], str):
            raise InvalidRequest(
                f"{VECTOR_SEARCH}: {name} is {what} in single quotes, found {texts[name]!r:.100}"
            )
    return Search(
        call.index,
        _query(values["query"]),
        _whole("k", values.get("k", _K)) or 0,
        _whole("ef", values.get("ef")),
        texts["filter"] or "",
        texts["mode"] or "vector",
        texts["rerank"],
    )


def fitting(found: pa.Table, schema: pa.Schema, index: str) -> pa.Table:
    """What was found, in the columns that a statement was planned with.

    Raises:
        CommitConflict: Another generation, with other columns, has become live meanwhile.
    """
    if found.schema.equals(schema):
        return found
    try:
        return found.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowException):
        raise CommitConflict(
            f"vector index '{index}' got other columns while the statement was planned", "run it once more"
        ) from None


def _query(value: Any) -> str | NDArray[Any] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        # One pass in C: of a vector each number counts.
        numbers = np.asarray(value) if value else np.empty(0)
        if numbers.dtype.kind == "O" and all(isinstance(each, int | float | Decimal) for each in value):
            numbers = numbers.astype(np.float64)
        if numbers.dtype.kind not in "fiu" or numbers.ndim != 1:
            raise InvalidRequest(f"{VECTOR_SEARCH}: the query is a list with something else than numbers")
        return numbers
    raise InvalidRequest(
        f"{VECTOR_SEARCH}: the query is a text or a list of numbers, found {type(value).__name__}",
        "a vector that is sent as text can be cast: ?::VARCHAR::FLOAT[]",
    )


def _whole(name: str, value: Any) -> int | None:
    if value is None and name == "ef":
        return None
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or value != int(value):
        raise InvalidRequest(f"{VECTOR_SEARCH}: {name} is a whole number, found {value!r:.100}")
    return int(value)
