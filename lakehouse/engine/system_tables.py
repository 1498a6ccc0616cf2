"""Tables about the server itself: ``system.statements``, ``system.audit`` and their like.

They are computed when a statement reads them, and show each principal what concerns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.access.policy import Access


def _go_on() -> None:
    """Nothing stops the statement."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A statement that reads a system table.

    Attributes:
        lakes: The catalogs as its principal sees them.
        wanted: Names of columns and the only values that the statement wants of them.
        check: Raises when the statement has to stop.
        since: The statement wants no rows of an earlier time.
    """

    lakes: GuardedCatalogs
    wanted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    check: Callable[[], None] = _go_on
    since: datetime | None = None


@dataclass(frozen=True)
class SystemTable:
    """One table about the server.

    Attributes:
        name: Its name in the schema ``system``.
        summary: What it holds, in one line.
        schema: Its columns, in the types that DuckDB gives.
        read: Gives the rows, in exactly these columns; with a name only those that concern that principal.
        scan: Gives the rows instead of ``read`` where they depend on what the principal sees of the lake.
        personal: Whether there are rows for principals who may not see what concerns everybody.
    """

    name: str
    summary: str
    schema: pa.Schema
    read: Callable[[str | None], pa.Table] | None = None
    scan: Callable[[Reading], pa.Table] | None = None
    personal: bool = True
    catalog: str = ""

    def rows(self, reading: Reading) -> pa.Table:
        """The rows that a principal may see."""
        if self.scan is not None:
            return self.scan(reading)
        access = reading.lakes.access
        sees_all = access.sees_all_of(self.catalog, self.name)
        assert self.read is not None
        return self.read(None if sees_all else access.principal.name)


class SystemTables:
    """All tables about the server, by name.

    Args:
        catalog: Name of the catalog in which they are shown.
    """

    def __init__(self, catalog: str) -> None:
        self._catalog = catalog
        self._tables: dict[str, SystemTable] = {}

    def add(self, tables: Iterable[SystemTable]) -> None:
        """Offer these tables too."""
        self._tables |= {table.name: replace(table, catalog=self._catalog) for table in tables}

    def all(self) -> tuple[SystemTable, ...]:
        """Every table, sorted by name."""
        return tuple(self._tables[name] for name in sorted(self._tables))

    def visible(self, access: Access) -> tuple[SystemTable, ...]:
        """The tables that are there for a principal, sorted by name."""
        return tuple(t for t in self.all() if t.personal or access.sees_all_of(self._catalog, t.name))

    def names(self, access: Access) -> list[str]:
        """The names of the tables that are there for a principal."""
        return [table.name for table in self.visible(access)]

    def get(self, name: str, access: Access) -> SystemTable | None:
        """The table of that name, whatever its case, if it is there for a principal."""
        return next((table for table in self.visible(access) if table.name == name.lower()), None)
