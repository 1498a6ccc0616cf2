"""Which rows of a system table a query can want at all, so that the others need not be made.

``WHERE table_name = 't'`` on ``system.files`` must not read the manifests of every table there is. DuckDB
filters the rows all the same, so it does no harm to find less than there is to be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

from lakehouse.engine.gate_scope import fold

_COLUMNS = ("catalog_name", "schema_name", "table_name", "entity", "actor", "action")


def wanted_values(sql: str, table: str) -> Mapping[str, frozenset[str]]:
    """For the columns that name a table the only values that a query lets through.

    A column is missing in the answer where every value may matter.

    Args:
        sql: One statement that reads the system table.
        table: The table's name.
    """
    try:
        tree = sqlglot.parse_one(sql, dialect="duckdb")
    except (SqlglotError, RecursionError):
        return {}
    uses = [node for node in tree.find_all(exp.Table) if fold(node.name) == table]
    if not uses:
        return {}
    found = [_conditions(use) for use in uses]
    return {
        column: frozenset().union(*(conditions[column] for conditions in found))
        for column in _COLUMNS
        if all(column in conditions for conditions in found)
    }


def wanted_since(sql: str, table: str) -> datetime | None:
    """The time before which a query lets no row of a system table through, by the column ``time``.

    None where there is no such time. A day is taken off, whatever time zone the literal is meant in.

    Args:
        sql: One statement that reads the system table.
        table: The table's name.
    """
    try:
        tree = sqlglot.parse_one(sql, dialect="duckdb")
    except (SqlglotError, RecursionError):
        return None
    found = [
        max((s for c in _where(use) if (s := _beginning(c, use)) is not None), default=None)
        for use in tree.find_all(exp.Table)
        if fold(use.name) == table
    ]
    times = [time for time in found if time is not None]
    return min(times) - timedelta(days=1) if times and len(times) == len(found) else None


def _beginning(condition: exp.Expr, use: exp.Table) -> datetime | None:
    if isinstance(condition, exp.Between):
        column, bound = condition.this, condition.args["low"]
    elif isinstance(condition, exp.GT | exp.GTE):
        column, bound = condition.left, condition.right
    elif isinstance(condition, exp.LT | exp.LTE):
        column, bound = condition.right, condition.left
    else:
        return None
    bound = bound.this if isinstance(bound, exp.Cast) else bound
    if not (isinstance(column, exp.Column) and fold(column.name) == "time" and _is_of(column, use)):
        return None
    if not (isinstance(bound, exp.Literal) and bound.is_string):
        return None
    try:
        time = datetime.fromisoformat(str(bound.this))
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _conditions(use: exp.Table) -> dict[str, frozenset[str]]:
    """What the WHERE clause of the query that reads a table there says about its columns for sure."""
    found: dict[str, frozenset[str]] = {}
    for condition in _where(use):
        column, values = _equality(condition)
        if column is not None and fold(column.name) in _COLUMNS and _is_of(column, use):
            name = fold(column.name)
            found[name] = found.get(name, values) & values
    return found


def _where(use: exp.Table) -> list[exp.Expr]:
    """The conditions that every row of a table has to fulfil in the query that reads it there."""
    place = use.parent
    if not isinstance(place, exp.From | exp.Join) or not isinstance(place.parent, exp.Select):
        return []
    where = place.parent.args.get("where")
    return _all_of(where.this) if where is not None and all(map(_is_plain, _joins(place.parent))) else []


def _joins(select: exp.Select) -> list[exp.Join]:
    # Of a query that begins with FROM the joins hang on its first table.
    first = select.find(exp.From)
    return [*(select.args.get("joins") or ()), *((first.this.args.get("joins") if first else None) or ())]


def _is_of(column: exp.Column, use: exp.Table) -> bool:
    """Whether a column is sure to be one of the table that is read there."""
    if column.table:
        return fold(column.table) == fold(use.alias_or_name)
    select = use.parent.parent if use.parent is not None else None
    return isinstance(select, exp.Select) and not _joins(select)


def _is_plain(join: exp.Join) -> bool:
    """Whether rows that WHERE takes away can be taken away before, which ASOF and POSITIONAL would notice."""
    return not (join.method or join.side) and join.kind in ("", "INNER", "CROSS")


def _all_of(condition: exp.Expr) -> list[exp.Expr]:
    pending, found = [condition], []
    while pending:
        node = pending.pop().unnest()
        if isinstance(node, exp.And):
            pending += [node.left, node.right]
        else:
            found.append(node)
    return found


def _equality(condition: exp.Expr) -> tuple[exp.Column | None, frozenset[str]]:
    if isinstance(condition, exp.EQ):
        sides = (condition.left.unnest(), condition.right.unnest())
        for column, value in (sides, sides[::-1]):
            if isinstance(column, exp.Column) and isinstance(value, exp.Literal) and value.is_string:
                return column, frozenset({str(value.this)})
    if isinstance(condition, exp.In) and isinstance(condition.this, exp.Column):
        values = condition.expressions
        if values and all(isinstance(v, exp.Literal) and v.is_string for v in values):
            return condition.this, frozenset(str(v.this) for v in values)
    return None, frozenset()
