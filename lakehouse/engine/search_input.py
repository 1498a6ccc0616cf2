"""The rows that a search in a statement finds, as an input of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from lakehouse.engine.model_calls import ModelCalls
from lakehouse.engine.search_call import VECTOR_SEARCH, Argument, SearchCall
from lakehouse.engine.semantics import fitting, wanted_search
from lakehouse.errors import LakehouseError, NotSupported

if TYPE_CHECKING:
    from lakehouse.engine.database import PooledCursor
    from lakehouse.engine.session import Session
    from lakehouse.engine.transaction import Transaction

Compute = Callable[[str, Mapping[str, Any], "Session", "Transaction | None", Callable[[], None]], Any]
"""Gives the value of any SQL expression, by the values of its parameters, for a statement that runs."""


@dataclass(frozen=True, slots=True)
class SearchInput:
    """A search that is made when its statement runs. See ``Input``.

    Attributes:
        name: The internal name under which the statement reads what it finds.
        schema: Its columns.
        call: What is sought.
        calls: Who answers.
        compute: Gives the values of arguments that are no literals.
        session: On whose behalf; None in what is kept for later executions.
        transaction: In which the statement runs, if in any.
        values: The values of the statement's parameters, by name.
    """

    name: str
    schema: pa.Schema
    call: SearchCall
    calls: ModelCalls
    compute: Compute
    session: Session | None
    transaction: Transaction | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def again(self, session: Session | None, values: Mapping[str, Any]) -> Self:
        """The same search for another execution."""
        return replace(self, session=session, values=values)

    def is_current(self, session: Session) -> bool:
        """Whether the index, as a session sees it, has these columns still."""
        semantics = self.calls.semantics
        try:
            return semantics is not None and semantics.columns(self.call.index, session).schema.equals(
                self.schema
            )
        except LakehouseError:
            return False

    def supply(self, cursor: PooledCursor, check: Callable[[], None] | None) -> None:
        """Search, and make what is found readable on a cursor; without a check the columns only."""
        cursor.show(self.name, self.schema.empty_table() if check is None else self._rows(check))

    def withdraw(self, cursor: PooledCursor) -> None:
        """Forget what was found."""
        cursor.empty(self.name)

    def _rows(self, check: Callable[[], None]) -> pa.Table:
        semantics, session = self.calls.semantics, self.session
        if semantics is None or session is None:
            raise NotSupported(f"{VECTOR_SEARCH} is not offered here")

        def value(argument: Argument) -> Any:
            if argument.is_known:
                return argument.value
            if argument.parameter:
                given = self.values[argument.parameter]
                if not argument.is_cast or given is None or isinstance(given, list):
                    return given
            return self.compute(argument.text, self.values, session, self.transaction, check)

        found = semantics.search(wanted_search(self.call, value), session, check)
        return fitting(found, self.schema, self.call.index)
