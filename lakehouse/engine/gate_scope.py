"""Which common table expressions a place in a statement sees, and how much is joined there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lakehouse.errors import LimitExceeded

# DuckDB's planner cannot be stopped, and takes time like the third power of what it joins at once.
MAX_JOINS = 100
"""How many tables and subqueries may be joined by one query, expressions that stand for queries filled in."""

MAX_QUERIES = 5000
"""How many sides of UNIONs and common table expressions a statement may have; their planning is quadratic."""

# Inside a recursive CTE its whole result so far goes by this schema.
_RECURRING = "recurring"


def fold(name: str) -> str:
    """A name as DuckDB compares it: without ASCII case; ``É`` and ``é`` are two names."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


@dataclass(eq=False, slots=True)
class Region:
    """What is planned as one: the joins of a query with its subqueries, but not other sides of a UNION.

    ``materialized`` is DuckDB's word for what is done with a common table expression.
    """

    materialized: str = ""
    joins: int = 0
    uses: list[Region] = field(default_factory=list)
    used: bool = False

    def use(self, expression: Region) -> None:
        """Take in a common table expression, as often as it will be put in place of its name."""
        if expression.materialized.endswith("NEVER") or (
            expression.materialized.endswith("DEFAULT") and not expression.used
        ):
            self.uses.append(expression)
        expression.used = True


@dataclass(frozen=True, slots=True)
class Scope:
    """The common table expressions that a place sees, by folded name, and the region it belongs to."""

    region: Region
    names: Mapping[str, Region] = field(default_factory=dict)
    recurring: frozenset[str] = frozenset()

    def within(self, region: Region) -> Scope:
        """The same names in another region."""
        return replace(self, region=region)

    def with_name(self, name: str, expression: Region) -> Scope:
        """One name more."""
        return replace(self, names={**self.names, fold(name): expression})

    def with_recursion(self, name: str) -> Scope:
        """One name more, which is that of the recursive expression that the place is in."""
        inner = self.with_name(name, Region())
        return replace(inner, recurring=self.recurring | {fold(name)})

    def resolves(self, path: tuple[str, ...]) -> bool:
        """Whether a name leads to a common table expression rather than to a table; if so it is used."""
        if len(path) == 2:
            return fold(path[0]) == _RECURRING and fold(path[1]) in self.recurring
        expression = self.names.get(fold(path[0])) if len(path) == 1 else None
        if expression is not None:
            self.region.use(expression)
        return expression is not None


def check_joins(regions: Iterable[Region]) -> None:
    """Refuse a statement that joins more than the planner can take in reasonable time.

    Raises:
        LimitExceeded: One of its regions joins too many tables, or there are too many of them.
    """
    totals: dict[Region, int] = {}
    pending = list(regions)
    if len(pending) > MAX_QUERIES:
        raise LimitExceeded(
            f"the statement puts together more than {MAX_QUERIES} queries", "load the rows into a table"
        )
    while pending:
        region = pending[-1]
        waiting = [used for used in region.uses if used not in totals]
        if waiting:
            pending.extend(waiting)
            continue
        pending.pop()
        total = totals[region] = region.joins + sum(totals[used] + 1 for used in region.uses)
        if total > MAX_JOINS:
            raise LimitExceeded(
                f"the statement joins more than {MAX_JOINS} tables and subqueries at once",
                "materialize a part of it: WITH part AS MATERIALIZED (…), or a temporary table",
            )
