"""What the text of a query says about the rows that it reads of each table, for leaving out data files.

A query's WHERE, and the ON of its inner joins, come before everything else that it does. Rows of a table that
fulfil no such condition leave no trace in the query's result, where the table is on no side of a join that is
kept or filled up with NULLs for want of a match. This holds for a query wherever it stands in a statement:
what is around it sees its result only. What cannot be read plainly from the tree is left out, and every file
of the table is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from lakehouse.catalog.file_filter import (
    AllOf,
    AnyOf,
    Column,
    Compared,
    Condition,
    Constant,
    IsNull,
    OneOf,
    Parameter,
    Prefixed,
    Term,
    Unknown,
    cast,
    has_parameters,
)
from lakehouse.engine.gate_scope import fold

_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_TURNED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ORDINARY_JOINS = frozenset({"REGULAR", "NATURAL", "CROSS"})
_LONGEST_LIST = 1000


@dataclass(frozen=True, slots=True)
class ScanFilter:
    """What a query needs of a table that it reads.

    Attributes:
        condition: What the rows that it needs fulfil, if anything is known of them.
        limit: How many rows from the table's beginning are enough, if that is known.
    """

    condition: Condition | None = None
    limit: int | None = None

    @property
    def has_parameters(self) -> bool:
        """Whether it depends on the values of parameters."""
        return self.condition is not None and has_parameters(self.condition)


def scan_filters(tree: Any) -> dict[tuple[int, int], ScanFilter]:
    """What is known of the tables in a statement's tree, by their places: start and length.

    Args:
        tree: What DuckDB's ``json_serialize_sql`` gives for a statement.
    """
    found: dict[tuple[int, int], ScanFilter] = {}
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(item for item in node if isinstance(item, dict | list))
        elif isinstance(node, dict):
            if node.get("type") == "SELECT_NODE":
                for table, scan in _Query(node).filters():
                    found[int(table["query_location"]), int(table["query_location_length"])] = scan
            # A column that has no name is called by its text, which must then stay as it is.
            pending.extend(
                [part for part in item if isinstance(part, dict) and part["alias"]]
                if key == "select_list"
                else item
                for key, item in node.items()
                if isinstance(item, dict | list)
            )
    return found


def condition_of(expression: Any, alias: str) -> Condition | None:
    """What a Boolean expression in a tree demands of one table's columns; None if nothing that is known.

    Args:
        expression: The expression.
        alias: The name of the table in the expression; columns with another name before them say nothing.
    """
    return _projected(_condition(expression), fold(alias))


@dataclass
class _Query:
    """One SELECT."""

    node: Any
    aliases: Counter[str] = field(default_factory=Counter)
    merged: set[str] = field(default_factory=set)
    is_natural: bool = False

    def filters(self) -> Iterator[tuple[Any, ScanFilter]]:
        node = self.node
        limit = _limit(node)
        if limit is not None:
            yield node["from_table"], ScanFilter(limit=limit)
            return
        self._names(node["from_table"])
        for table, parts in self._scans(node["from_table"], _split(node["where_clause"])):
            condition = self._about(table, parts)
            if condition is not None:
                yield table, ScanFilter(condition)

    def _names(self, node: Any) -> None:
        if node["type"] != "JOIN":
            self.aliases[_alias(node)] += 1
            return
        self.merged.update(fold(str(column)) for column in node["using_columns"])
        self.is_natural = self.is_natural or node["ref_type"] == "NATURAL"
        self._names(node["left"])
        self._names(node["right"])

    def _scans(self, node: Any, parts: list[Condition]) -> Iterator[tuple[Any, list[Condition]]]:
        """The tables whose rows count only if they fulfil all of these conditions."""
        if node["sample"] is not None:
            return
        if node["type"] == "BASE_TABLE" and not node["column_name_alias"]:
            yield node, parts
        if node["type"] != "JOIN" or node["ref_type"] not in _ORDINARY_JOINS:
            return
        kind = node["join_type"]
        if kind == "INNER":
            parts = [*parts, *_split(node["condition"])]
            yield from self._scans(node["left"], parts)
            yield from self._scans(node["right"], parts)
        elif kind in ("LEFT", "SEMI", "ANTI"):
            yield from self._scans(node["left"], parts)
        elif kind == "RIGHT":
            yield from self._scans(node["right"], parts)

    def _about(self, table: Any, parts: Sequence[Condition]) -> Condition | None:
        alias = _alias(table)
        if self.aliases[alias] != 1:
            return None
        known = [_projected(part, alias, self.merged, is_natural=self.is_natural) for part in parts]
        return _all(part for part in known if part is not None)


def _alias(node: Any) -> str:
    name = node["alias"] or node.get("table_name") or ""
    if not name and node["type"] == "BASE_TABLE":
        name = node["qualified_name"]["path"][-1]
    return fold(str(name))


def _limit(node: Any) -> int | None:
    """How many rows a query takes from the beginning of its only table, if it does nothing else with it."""
    modifiers, table = node["modifiers"], node["from_table"]
    if len(modifiers) != 1 or modifiers[0]["type"] != "LIMIT_MODIFIER" or table["type"] != "BASE_TABLE":
        return None
    others = ("where_clause", "group_expressions", "group_sets", "having", "qualify", "sample")
    if any(node[key] for key in others) or node["aggregate_handling"] != "STANDARD_HANDLING":
        return None
    if table["sample"] is not None or not all(map(_is_plain, node["select_list"])):
        return None
    limit, offset = modifiers[0]["limit"], modifiers[0]["offset"]
    if modifiers[0].get("limit_type", "ROW_COUNT") != "ROW_COUNT":
        return None
    rows = 0
    for part in (limit, offset):
        count = _constant(part).value if _is_constant(part) else 0 if part is None else None
        if not isinstance(count, int) or count < 0:
            return None
        rows += count
    return rows if limit is not None else None


def _is_plain(expression: Any) -> bool:
    if not isinstance(expression, dict):
        return False
    kind = expression["class"]
    if kind == "CAST":
        return _is_plain(expression["child"])
    if kind == "STAR":
        return expression["expr"] is None and not expression["replace_list"]
    return kind in ("COLUMN_REF", "CONSTANT")


# -- conditions ------------------------------------------------------------------------------------------


def _split(expression: Any) -> list[Condition]:
    """The parts of a condition that all have to be true, as far as they are known."""
    condition = _condition(expression)
    if condition is None:
        return []
    return list(condition.parts) if isinstance(condition, AllOf) else [condition]


def _projected(
    condition: Condition | None,
    alias: str,
    merged: Iterable[str] = (),
    *,
    is_natural: bool = False,
) -> Condition | None:
    """What a condition says about one table alone; its columns then go by their names only."""
    if condition is None:
        return None
    if isinstance(condition, AllOf | AnyOf):
        parts = [_projected(part, alias, merged, is_natural=is_natural) for part in condition.parts]
        known = tuple(part for part in parts if part is not None)
        if isinstance(condition, AllOf):
            return _all(known)
        return AnyOf(known) if len(known) == len(parts) else None
    column = condition.column
    if column.table:
        return replace(condition, column=Column(column.name)) if fold(column.table) == alias else None
    return None if is_natural or fold(column.name) in merged else condition


def _all(parts: Iterable[Condition]) -> Condition | None:
    known = tuple(parts)
    return AllOf(known) if len(known) > 1 else known[0] if known else None


def _condition(node: Any) -> Condition | None:
    if not isinstance(node, dict):
        return None
    kind = node.get("class")
    try:
        if kind == "CONJUNCTION":
            return _conjunction(node)
        if kind == "COMPARISON":
            return _comparison(node)
        if kind == "BETWEEN":
            return _between(node)
        if kind == "OPERATOR":
            return _operator(node)
        if kind == "FUNCTION" and node["function_name"] == "~~":
            return _like([argument["expression"] for argument in node["arguments"]])
    except Unknown:
        return None
    return None


def _conjunction(node: Any) -> Condition | None:
    parts = [_condition(child) for child in node["children"]]
    known = tuple(part for part in parts if part is not None)
    if node["type"] == "CONJUNCTION_OR":
        return AnyOf(known) if len(known) == len(parts) else None
    flat = [p for part in known for p in (part.parts if isinstance(part, AllOf) else (part,))]
    return _all(flat)


def _comparison(node: Any) -> Condition:
    operator = _COMPARISONS.get(node["type"])
    if operator is None:
        raise Unknown
    left, right = node["left"], node["right"]
    if _is_column(left):
        return Compared(_column(left), operator, _term(right))
    return Compared(_column(right), _TURNED[operator], _term(left))


def _between(node: Any) -> Condition:
    return Compared(_column(node["input"]), "between", _term(node["lower"]), _term(node["upper"]))


def _operator(node: Any) -> Condition:
    kind, (first, *others) = node["type"], node["children"]
    if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
        return IsNull(_column(first), negated=kind == "OPERATOR_IS_NOT_NULL")
    if kind != "COMPARE_IN" or len(others) > _LONGEST_LIST:
        raise Unknown
    terms = tuple(_term(other) for other in others if not _is_null(other))
    if not terms:
        raise Unknown
    return OneOf(_column(first), terms)


def _like(arguments: Sequence[Any]) -> Condition:
    if len(arguments) != 2 or not _is_constant(arguments[1]):
        raise Unknown
    pattern = _constant(arguments[1]).value
    if not isinstance(pattern, str):
        raise Unknown
    prefix = pattern.split("%")[0].split("_")[0]
    if not prefix or "\\" in pattern:
        raise Unknown
    return Prefixed(_column(arguments[0]), prefix)


def _is_column(node: Any) -> bool:
    return isinstance(node, dict) and node.get("class") == "COLUMN_REF" and len(node["column_names"]) <= 2


def _column(node: Any) -> Column:
    if not _is_column(node):
        raise Unknown
    *table, name = map(str, node["column_names"])
    return Column(name, table[0] if table else "")


def _is_constant(node: Any) -> bool:
    return isinstance(node, dict) and node.get("class") == "CONSTANT"


def _is_null(node: Any) -> bool:
    return _is_constant(node) and node["literal"]["kind"] == "NULL_LITERAL"


def _term(node: Any) -> Term:
    """A constant or a parameter, casts of it included.

    Raises:
        Unknown: It is something else.
    """
    if not isinstance(node, dict):
        raise Unknown
    if node["class"] == "CAST":
        if node["try_cast"]:
            raise Unknown
        kind, inner = _type_name(node["type_expr"]), _term(node["child"])
        if isinstance(inner, Parameter):
            return Parameter(inner.name, (*inner.casts, kind))
        return Constant(cast(inner.value, kind))
    if node["class"] == "PARAMETER":
        return Parameter(str(node["identifier"]))
    return _constant(node)


def _type_name(node: Any) -> str:
    if node["children"] or node["schema"] or node["catalog"]:
        raise Unknown
    return str(node["type_name"])


def _constant(node: Any) -> Constant:
    if not _is_constant(node):
        raise Unknown
    kind, text = node["literal"]["kind"], node["literal"]["text"]
    if kind == "STRING":
        return Constant(text)
    if kind == "BOOLEAN":
        return Constant(text == "true")
    try:
        if kind == "INTEGER":
            return Constant(int(text))
        if kind == "NUMERIC":
            return Constant(float(text) if "e" in text.lower() else Decimal(text))
    except (ValueError, ArithmeticError):
        raise Unknown from None
    raise Unknown
