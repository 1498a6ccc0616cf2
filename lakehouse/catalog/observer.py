"""Who is told of changes of tables before and after they take place, and where their rows come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from lakehouse import telemetry
from lakehouse.catalog.table import Table
from lakehouse.types import TableName


@dataclass(frozen=True, slots=True)
class RowSource:
    """Where rows that are written come from.

    Attributes:
        system: What kind of system: ``sql``, ``upload``, ``file``, ``postgresql`` …
        source: Which one, without any secret.
        ingest: What brings them: a statement or action.
        inputs: The tables that they were made from.
        by: Whose call it is.
    """

    system: str
    source: str = ""
    ingest: str = ""
    inputs: tuple[TableName, ...] = ()
    by: str = ""


_source: ContextVar[RowSource | None] = ContextVar("lakehouse_row_source", default=None)


def caller() -> str:
    """Whose call is being served; empty outside of calls."""
    return (telemetry.call_fields.get() or {}).get("principal", "")


@contextmanager
def coming_from(
    system: str, source: str = "", ingest: str = "", inputs: Sequence[TableName] = ()
) -> Iterator[None]:
    """For the length of a ``with``, rows that this thread writes come from there. See ``RowSource``.

    Within another such ``with`` the outer one holds: it knows more.
    """
    if _source.get() is not None:
        yield
        return
    token = _source.set(RowSource(system, source, ingest, tuple(inputs), caller()))
    try:
        yield
    finally:
        _source.reset(token)


def current_source() -> tuple[RowSource, ...]:
    """Where rows come from that this thread writes now: one source, or none where nobody said."""
    found = _source.get()
    return () if found is None else (found,)


class CatalogObserver(Protocol):
    """Told of what becomes of tables.

    After what was announced ``changed`` is called, whether it took place or not. Announcing may raise;
    nothing is changed then.
    """

    def altering(self, after: Table, before: Table | None, sources: Sequence[RowSource] = ()) -> None:
        """A table is about to be created, or to become what ``after`` says, rows apart."""
        ...

    def dropping(self, table: Table) -> None:
        """A table is about to be dropped."""
        ...

    def renaming(self, table: Table, to: TableName) -> None:
        """A table is about to get another name."""
        ...

    def changed(self, name: TableName) -> None:
        """A change of a table by this process is over, which may be no more. Never raises or waits."""
        ...

    def filled(self, name: TableName, sources: Sequence[RowSource]) -> None:
        """A table got rows that come from there. Never raises or waits."""
        ...
