"""What a statement names: a walk over the tree that DuckDB's parser gives as JSON.

Everything that is not known to be harmless is refused: kinds of query nodes, of table references and of
expressions as much as functions. Names of common table expressions are resolved here as DuckDB does it,
so that what is left over are tables, every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lakehouse.engine.gate_functions import check_function, check_table_function
from lakehouse.engine.gate_scope import Region, Scope, check_joins
from lakehouse.engine.gate_text import read_reference
from lakehouse.engine.pruning import ScanFilter
from lakehouse.engine.search_call import VECTOR_SEARCH, SearchCall, read_search
from lakehouse.errors import NotSupported, StatementForbidden

# WITH x AS (INSERT …), WITH x AS (COPY … TO …) are query nodes too, and not on this list.
_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_CHANGES = frozenset({"INSERT_QUERY_NODE", "UPDATE_QUERY_NODE", "DELETE_QUERY_NODE"})
_TABLE_REFERENCES = frozenset(
    "BASE_TABLE SUBQUERY JOIN TABLE_FUNCTION EXPRESSION_LIST EMPTY PIVOT SHOW_REF".split()
)
_EXPRESSIONS = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT DEFAULT FUNCTION LAMBDA LAMBDA_REF "
    "OPERATOR PARAMETER POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW".split()
)
_INFORMATION_SCHEMA = frozenset({"tables", "columns", "schemata"})


@dataclass(frozen=True, slots=True)
class TableReference:
    """A table named in a statement.

    ``path`` is the name as written, one to three parts. ``span`` is the place of the reference in the
    UTF-8 bytes of the text, where known. ``at`` is the kind and the SQL text of a time-travel clause.
    ``scan`` is what the statement needs of the table's rows, where that is known. ``search`` is set where it
    is no table but a call of ``vector_search``.
    """

    path: tuple[str, ...]
    span: tuple[int, int] | None = None
    has_alias: bool = False
    at: tuple[str, str] | None = None
    scan: ScanFilter | None = None
    search: SearchCall | None = None


class TreeWalk:
    """Collects what a serialised query names, and refuses what no query may hold.

    ``target`` is the table that a change changes, ``returning`` whether it gives rows.

    Args:
        text: The statement, whose UTF-8 bytes the places in the tree count in.
    """

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self.references: list[TableReference] = []
        self.places: list[tuple[int, int]] = []
        self.needs_all_tables = False
        self.show = ""
        self.target: tuple[str, ...] = ()
        self._regions: list[Region] = []
        self.returning = False

    def paths(self) -> set[tuple[str, ...]]:
        """The names found."""
        return {reference.path for reference in self.references}

    def in_order(self) -> tuple[TableReference, ...]:
        """The references in the order of the text, those without a place first."""
        return tuple(sorted(self.references, key=lambda reference: reference.span or (-1, -1)))

    def visit(self, root: Any) -> None:
        """Walk the tree without recursion, so that deep nesting cannot exhaust the stack.

        Raises:
            StatementForbidden: A function, or a statement in place of a query, is not allowed.
            NotSupported: Something is in the tree that is not offered.
        """
        self._visit([(root, Scope(self._region()))])

    def visit_change(self, root: Any) -> None:
        """Walk the tree of an INSERT, UPDATE or DELETE that stands alone in a WITH clause.

        Raises:
            StatementForbidden: A function in it is not allowed.
            NotSupported: It is something else, or something is in the tree that is not offered.
        """
        (entry,) = root["node"]["cte_map"]["map"]
        node = entry["value"]["query_node"]
        if node["type"] not in _CHANGES:
            raise NotSupported("this form of the statement is not supported")
        table = node["table"]
        if isinstance(table, dict) and table.get("type") != "BASE_TABLE":
            raise NotSupported("only one table can be changed at a time")
        self.target = _path(table if isinstance(table, dict) else node)
        self.returning = bool(node["returning_list"])
        pending: list[tuple[Any, Scope]] = []
        scope = self._expressions(node, Scope(self._region()), pending)
        others = {k: v for k, v in node.items() if k not in ("cte_map", "table", "table_ref")}
        self._visit([*pending, (list(others.values()), scope)])

    def _region(self, materialized: str = "") -> Region:
        region = Region(materialized)
        self._regions.append(region)
        return region

    def _visit(self, pending: list[tuple[Any, Scope]]) -> None:
        while pending:
            node, scope = pending.pop()
            if isinstance(node, list):
                pending.extend([(item, scope) for item in node if isinstance(item, dict | list)])
            elif not isinstance(node, dict):
                continue
            elif "cte_map" in node:
                self._query(node, scope, pending)
            elif node.get("type") == "TABLE_FUNCTION" and "class" not in node:
                _check_visible(_path(node["function"]))
                if _path(node["function"]) and _path(node["function"])[0].lower() == VECTOR_SEARCH:
                    self._search(node)
                    continue
                check_table_function(str(node["function"]["function_name"]))
                pending.append((list(node["function"].values()), scope))
            else:
                self._node(node, scope)
                pending.extend([(item, scope) for item in node.values() if isinstance(item, dict | list)])
        check_joins(self._regions)

    def _query(self, node: dict[str, Any], scope: Scope, pending: list[tuple[Any, Scope]]) -> None:
        """A query: each common table expression sees those before it, the rest of the query sees all."""
        kind = str(node.get("type", ""))
        if kind not in _QUERY_NODES:
            word = kind.removesuffix("_QUERY_NODE").removesuffix("_NODE").replace("_", " ")
            raise StatementForbidden(f"{word} is not allowed inside a query")
        scope = self._expressions(node, scope, pending)
        # Only the second part of a recursive CTE sees the CTE itself; the first sees what is outside.
        inner = scope.with_recursion(str(node["cte_name"])) if kind == "RECURSIVE_CTE_NODE" else scope
        for key, item in node.items():
            if key == "children" and kind == "SET_OPERATION_NODE":
                pending.extend([(child, scope.within(self._region())) for child in item])
            elif key != "cte_map" and isinstance(item, dict | list):
                pending.append((item, inner if key == "right" else scope))

    def _expressions(self, node: dict[str, Any], scope: Scope, pending: list[tuple[Any, Scope]]) -> Scope:
        """What the rest of a query sees after its common table expressions, each planned by itself."""
        for entry in node["cte_map"].get("map", ()):
            region = self._region(str(entry["value"]["materialized"]))
            pending.append((entry["value"], scope.within(region)))
            scope = scope.with_name(str(entry["key"]), region)
        return scope

    def _node(self, node: dict[str, Any], scope: Scope) -> None:
        kind, expression = node.get("type"), node.get("class")
        if expression is not None:
            self._expression(node, str(expression))
            scope.region.joins += expression == "SUBQUERY"
        elif "sample" in node and "alias" in node:
            if kind not in _TABLE_REFERENCES:
                raise NotSupported(f"{kind} is not supported in FROM")
            if kind == "BASE_TABLE":
                self._table(node, scope)
            elif kind == "JOIN":
                scope.region.joins += 1
            elif kind == "SHOW_REF" and str(node.get("show_type", "")).startswith("SHOW"):
                self._show(node)

    def _expression(self, node: dict[str, Any], kind: str) -> None:
        if kind not in _EXPRESSIONS:
            raise NotSupported(f"{kind} expressions are not supported")
        _check_visible(_path(node)[:-1])
        name = node.get("function_name")
        if name is not None and kind in ("FUNCTION", "WINDOW"):
            check_function(str(name))

    def _show(self, node: dict[str, Any]) -> None:
        if node["show_type"] != "SHOW":
            self.show = str(node["table_name"] or node["show_type"])
        else:
            self.references.append(TableReference(_path(node)))

    def _search(self, node: dict[str, Any]) -> None:
        """A search, whose arguments are statements of their own: they are analysed when it is bound."""
        start, length = int(node["query_location"]), int(node["query_location_length"])
        self.places.append((start, length))
        text = self._text[start : start + length].decode(errors="replace") if length else ""
        self.references.append(
            TableReference(
                (VECTOR_SEARCH,),
                (start, start + length),
                bool(node["alias"]),
                search=read_search(text, node),
            )
        )

    def _table(self, node: dict[str, Any], scope: Scope) -> None:
        path = _path(node)
        if scope.resolves(path):
            return
        _check_visible(path)
        if len(path) > 1 and path[-2].lower() == "information_schema":
            if path[-1].lower() not in _INFORMATION_SCHEMA:
                raise NotSupported(
                    f"information_schema.{path[-1]} is not offered", "there are tables, columns, schemata"
                )
            self.needs_all_tables = True
        start, length = int(node["query_location"]), int(node["query_location_length"])
        self.places.append((start, length))
        text = self._text[start : start + length].decode(errors="replace") if length else ""
        found = read_reference(text)
        if found is not None and found.path != path:
            found = None
        at, clause = node.get("at_clause"), None
        if at is not None:
            if found is None or found.clause is None:
                raise NotSupported(
                    "time travel cannot be used in this place", "write FROM table AT (VERSION => …)"
                )
            clause = (str(at["unit"]).upper(), found.expression)
        span = (start, start + length) if found is not None else None
        self.references.append(TableReference(path, span, bool(node.get("alias")), clause))


def _check_visible(path: tuple[str, ...]) -> None:
    if any(part.startswith("~") for part in path):
        raise StatementForbidden("names that begin with ~ are internal")


def _path(node: dict[str, Any]) -> tuple[str, ...]:
    path = tuple(str(part) for part in node.get("qualified_name", {}).get("path") or ())
    return path or tuple(
        str(node[key]) for key in ("catalog_name", "schema_name", "table_name") if node.get(key)
    )
