"""Which rows of a system table a query can want at all, so that the others need not be made.

``WHERE table_name = 't'`` on ``system.files`` must not read the manifests of every table there is. DuckDB
filters the rows all the same, so it does no harm to find less than there is to be found.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

from lakehouse.engine.gate_scope import fold

_COLUMNS = ("catalog_name", "schema_name", "table_name")


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


def _conditions(use: exp.Table) -> dict[str, frozenset[str]]:
    """What the WHERE clause of the query that reads a table there says about its columns for sure."""
    place = use.parent
    if not isinstance(place, exp.From | exp.Join) or not isinstance(place.parent, exp.Select):
        return {}
    select = place.parent
    where = select.args.get("where")
    # Of a query that begins with FROM the joins hang on its first table.
    first = select.find(exp.From)
    joins = [*(select.args.get("joins") or ()), *((first.this.args.get("joins") if first else None) or ())]
    if where is None or not all(map(_is_plain, joins)):
        return {}
    alone = not joins
    found: dict[str, frozenset[str]] = {}
    for condition in _all_of(where.this):
        column, values = _equality(condition)
        if column is None or fold(column.name) not in _COLUMNS:
            continue
        if fold(column.table) == fold(use.alias_or_name) if column.table else alone:
            name = fold(column.name)
            found[name] = found.get(name, values) & values
    return found


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
