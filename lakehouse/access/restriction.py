"""Row filters and column masks, as SQL that no query can get round.

A restricted table is read through a view in which every value of a row that is not to be seen is NULL
before anything a user writes can touch it. A filter alone would not do: the optimiser may run a user's
condition first, and the text of an error (a failed cast) would show the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

from lakehouse.errors import AccessPolicyError, ConfigError
from lakehouse.types import quote

_VISIBLE = quote("~visible")
_NAMED_MASKS = ("hash", "last_four", "null")
# What cannot fail on any value and may therefore stand without TRY, which would keep it out of the scan.
_SAFE = (
    exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.And, exp.Or, exp.Not,
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Is, exp.Tuple, exp.Neg,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Restriction:
    """What one grant leaves of a table.

    Attributes:
        role: The role that it belongs to.
        row_filter: SQL predicate over the table's columns, or empty.
        masks: Lower-case column name and what is seen instead, sorted.
        exact: Whether the grant names one table, which then must have the masked columns.
    """

    role: str
    row_filter: str
    masks: tuple[tuple[str, str], ...]
    exact: bool = False

    @property
    def is_personal(self) -> bool:
        """Whether what is left depends on the principal's name."""
        return any("current_user" in text.lower() for text in self.expressions())

    def expressions(self) -> tuple[str, ...]:
        """The parts that are SQL."""
        masks = (mask for _, mask in self.masks if mask not in _NAMED_MASKS)
        return tuple(filter(None, (self.row_filter, *masks)))

    def columns(self) -> frozenset[str]:
        """The columns that are masked or that the expressions name, in lower case."""
        named = (c.name.lower() for text in self.expressions() for c in _parsed(text).find_all(exp.Column))
        return frozenset((*named, *(column for column, _ in self.masks)))


def check_restriction(restriction: Restriction) -> None:
    """Refuse what is not one expression over the columns of a row.

    Raises:
        ConfigError: Names the role and the text.
    """
    for text in restriction.expressions():
        try:
            tree = _parsed(text)
        except SqlglotError as error:
            raise ConfigError(f"role {restriction.role}: {text!r} is not an SQL expression") from error
        if tree.find(exp.Query, exp.Table, exp.Placeholder, exp.Parameter, exp.AggFunc, exp.Window):
            raise ConfigError(
                f"role {restriction.role}: {text!r} should be an expression over the columns of one row",
                "without subqueries, aggregates and parameters",
            )


def restricted_query(
    source: str,
    columns: Sequence[str],
    restrictions: Sequence[Restriction],
    principal: str,
    mask_key: str,
) -> str:
    """SQL text that gives of a table what its restrictions leave: a row where one of them lets it through.

    Args:
        source: A query that gives the whole table.
        columns: The table's columns.
        restrictions: At least one.
        principal: What ``current_user`` stands for.
        mask_key: Secret that goes into the mask ``hash``.

    Raises:
        AccessPolicyError: A filter or an exact grant's mask names a column that the table does not have.
    """
    known = {column.lower() for column in columns}
    if len(known) != len(columns):
        raise AccessPolicyError(
            "the table has columns that differ in case only, and part of it is restricted"
        )
    filters = {r: _predicate(r, known, principal) for r in restrictions}
    masks = {r: _masks(r, known, principal, mask_key) for r in restrictions}
    visible = "true" if "" in filters.values() else _any(filters.values())
    selected = []
    for column in columns:
        value = _column(column, restrictions, filters, masks)
        guarded = value if visible == "true" else f"CASE WHEN {_VISIBLE} THEN {value} END"
        selected.append(f"{guarded} AS {quote(column)}")
    if visible == "true":
        return f"SELECT {', '.join(selected)} FROM ({source})"
    # One column decides, so that filter and values can never disagree.
    inner = f"SELECT *, {visible} AS {_VISIBLE} FROM ({source})"
    return f"SELECT {', '.join(selected)} FROM ({inner}) WHERE {_VISIBLE}"


def _column(
    column: str,
    restrictions: Sequence[Restriction],
    filters: Mapping[Restriction, str],
    masks: Mapping[Restriction, Mapping[str, str]],
) -> str:
    """What is seen of a column: its value on rows that a grant without a mask lets through, else the mask."""
    name = quote(column)
    masked = {r: masks[r][column.lower()] for r in restrictions if column.lower() in masks[r]}
    if not masked:
        return name
    plain = [filters[r] for r in restrictions if r not in masked]
    if "" in plain:
        return name
    cases = [(_any(plain), name)] if plain else []
    cases += [(filters[r], mask) for r, mask in masked.items()]
    text = ""
    for condition, value in cases:
        if not condition:
            return f"CASE {text}ELSE {value} END" if text else value
        text += f"WHEN {condition} THEN {value} "
    return f"CASE {text}END"


def _any(conditions: Iterable[str]) -> str:
    return "(" + " OR ".join(dict.fromkeys(conditions)) + ")"


def _predicate(restriction: Restriction, known: set[str], principal: str) -> str:
    if not restriction.row_filter:
        return ""
    text, is_safe = _resolved(restriction.row_filter, restriction, known, principal)
    return f"({text})" if is_safe else f"TRY({text})"


def _masks(restriction: Restriction, known: set[str], principal: str, mask_key: str) -> dict[str, str]:
    found = {}
    for column, mask in restriction.masks:
        if column in known:
            found[column] = _mask(column, mask, restriction, known, principal, mask_key)
        elif restriction.exact:
            raise AccessPolicyError(
                f"role {restriction.role} masks the column {column}, which the table does not have"
            )
    return found


def _mask(
    column: str, mask: str, restriction: Restriction, known: set[str], principal: str, mask_key: str
) -> str:
    name = quote(column)
    text = f"CAST({name} AS VARCHAR)"
    if mask == "null":
        return f"CASE WHEN false THEN {name} END"
    if mask == "hash":
        return f"sha256({_literal(mask_key)} || {text})"
    if mask == "last_four":
        hidden = f"repeat('*', length({text}) - 4) || right({text}, 4)"
        return f"CASE WHEN length({text}) > 4 THEN {hidden} ELSE repeat('*', length({text})) END"
    return f"TRY({_resolved(mask, restriction, known, principal)[0]})"


def _resolved(text: str, restriction: Restriction, known: set[str], principal: str) -> tuple[str, bool]:
    """An expression with the principal's name put in, and whether it cannot fail on any value."""
    tree = _parsed(text).copy()
    for column in tree.find_all(exp.Column):
        if column.name.lower() == "current_user" and "current_user" not in known:
            continue
        if column.table or column.name.lower() not in known:
            raise AccessPolicyError(
                f"role {restriction.role} refers to the column {column.sql()}, which the table does not have"
            )
    is_safe = all(isinstance(node, _SAFE) or _is_current_user(node, known) for node in tree.walk())
    resolved = tree.transform(
        lambda node: exp.Literal.string(principal) if _is_current_user(node, known) else node
    )
    return resolved.sql(dialect="duckdb"), is_safe


def _is_current_user(node: exp.Expr, known: set[str]) -> bool:
    if isinstance(node, exp.CurrentUser):
        return True
    return (
        isinstance(node, exp.Column)
        and not node.table
        and node.name.lower() == "current_user"
        and "current_user" not in known
    )


def _parsed(text: str) -> exp.Expr:
    return sqlglot.parse_one(text, dialect="duckdb", into=exp.Condition)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
