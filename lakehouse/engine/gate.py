"""The statement gate: what kind of statement is this, what does it name, and may it run at all.

DuckDB's own parser does the parsing (``extract_statements``, ``json_serialize_sql``); sqlglot reads the
statements that DuckDB cannot serialise. The answer depends on the text only, so it is cached by text.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import duckdb
import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

from lakehouse.engine.database import INTERNAL_CATALOG
from lakehouse.engine.errors import duckdb_errors
from lakehouse.engine.gate_functions import check_function, check_table_function
from lakehouse.engine.gate_text import NAME, PATH, retarget, rewrite_reference
from lakehouse.engine.gate_tree import TableReference, TreeWalk
from lakehouse.errors import LakehouseError, NotSupported, SqlSyntaxError, StatementForbidden

__all__ = [
    "Analysis",
    "StatementGate",
    "StatementKind",
    "TableReference",
    "check_function",
    "retarget",
    "rewrite_reference",
]


class StatementKind(Enum):
    """What a statement does, as far as the server has to tell statements apart."""

    QUERY = "query"
    EXPLAIN = "explain"
    CREATE_TEMP = "create temp"
    DROP = "drop"
    TEMP_DML = "dml"
    CREATE_SCHEMA = "create schema"
    DROP_SCHEMA = "drop schema"
    SET = "set"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the gate found out about one statement.

    ``sql`` is the statement without trailing semicolon; ``local_names`` are lower-case CTE names
    where DuckDB could not give its tree; otherwise no reference leads to one.
    ``target`` is the table or schema that DDL and DML change; ``detail`` holds what a kind needs besides.
    """

    kind: StatementKind
    sql: str
    references: tuple[TableReference, ...] = ()
    local_names: frozenset[str] = frozenset()
    parameters: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    needs_all_tables: bool = False

    @property
    def is_update(self) -> bool:
        """Whether the statement changes something rather than giving rows."""
        return self.kind not in (StatementKind.QUERY, StatementKind.EXPLAIN) and not self.detail.get(
            "returning"
        )


# It says on standard error what it does not understand, which the caller of this server cannot act on.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_COMMENT = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_EXPLAIN = re.compile(r"EXPLAIN\s+(ANALYZE\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_CREATE_TEMP = re.compile(
    r"CREATE\s+(OR\s+REPLACE\s+)?(LOCAL\s+)?(?P<temp>TEMP|TEMPORARY)\s+(?P<what>TABLE|VIEW)\b", re.IGNORECASE
)
_SET = re.compile(
    rf"(?P<verb>SET|RESET)\s+(?:(?P<scope>SESSION|LOCAL|GLOBAL)\s+)?(?P<name>{NAME})\s*(?:(?:=|TO\b)\s*(?P<value>.+))?\Z",
    re.IGNORECASE | re.DOTALL,
)
_USE = re.compile(rf"USE\s+(?P<path>{PATH})\s*\Z", re.IGNORECASE)
_SHOW = {
    '"tables"': "show_tables",
    '"databases"': "show_databases",
    '"schemas"': "show_schemas",
    "__show_tables_expanded": "show_all_tables",
}


class StatementGate:
    """Analyses statements and refuses those that nobody may run.

    Args:
        connection: A DuckDB connection of the gate's own, used for parsing only.
        cache_entries: How many analyses are kept.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, cache_entries: int = 4096) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Analysis] = OrderedDict()
        self._cache_entries = cache_entries

    def reconnect(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Parse with another connection from now on."""
        with self._lock:
            self._connection = connection

    def analyse(self, sql: str) -> Analysis:
        """What one statement is and names.

        Raises:
            SqlSyntaxError: The text does not parse, is empty or holds several statements.
            StatementForbidden: The kind of statement or a function in it is not allowed.
            NotSupported: The statement is legitimate but not offered.
        """
        found = self._cache.get(sql)
        if found is not None:
            return found
        with self._lock:
            analysis = self._analyse(sql)
            if len(sql) <= 100_000:
                self._cache[sql] = analysis
                while len(self._cache) > self._cache_entries:
                    self._cache.popitem(last=False)
        return analysis

    def check_expression(self, text: str) -> None:
        """Refuse a text that is anything but one expression, so that it can be put into a statement.

        Raises:
            SqlSyntaxError: The text does not parse, or goes on after the expression.
            StatementForbidden: A function in it is not allowed.
        """
        self.analyse(f"SELECT ({text}\n)")
        with self._lock:
            tree = self._serialise(f"SELECT ({text}\n)")
        node = tree["statements"][0]["node"] if tree is not None else {}
        plain = (
            node.get("type") == "SELECT_NODE"
            and len(node["select_list"]) == 1
            and node["from_table"]["type"] == "EMPTY"
            and not (node["modifiers"] or node["where_clause"] or node["group_expressions"] or node["having"])
        )
        if not plain:
            raise SqlSyntaxError("expected one SQL expression, but the text goes on after it")

    def _analyse(self, sql: str) -> Analysis:
        with duckdb_errors():
            statements = self._connection.extract_statements(sql)
        if len(statements) != 1:
            found = "the text is empty" if not statements else f"the text holds {len(statements)}"
            raise SqlSyntaxError(f"expected one SQL statement, but {found}", "send statements one at a time")
        kind = statements[0].type.name
        text = _strip(sql)
        parameters = tuple(sorted(statements[0].named_parameters, key=_parameter_order))
        handler = {
            "SELECT": self._select,
            "MULTI": self._other_query,
            "EXPLAIN": self._explain,
            "CREATE": self._create,
            "DROP": self._drop,
            "INSERT": self._dml,
            "UPDATE": self._dml,
            "DELETE": self._dml,
            "MERGE_INTO": self._dml,
            "SET": self._set,
            "VARIABLE_SET": self._set,
            "TRANSACTION": self._transaction,
        }.get(kind)
        if handler is None:
            raise _refusal(kind)
        return handler(text, parameters)

    def _select(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        tree = self._serialise(sql)
        if tree is None:
            return self._other_query(sql, parameters)
        walk = TreeWalk(sql.encode())
        walk.visit(tree)
        if walk.show:
            return self._show(sql, walk.show)
        return Analysis(
            StatementKind.QUERY,
            sql,
            tuple(walk.references),
            frozenset(),
            parameters,
            needs_all_tables=walk.needs_all_tables,
        )

    def _show(self, sql: str, what: str) -> Analysis:
        view = _SHOW.get(what)
        if view is None or not re.match(r"SHOW\b", sql, re.IGNORECASE):
            raise NotSupported(
                f"SHOW {what.strip(chr(34))} is not supported here", "read information_schema instead"
            )
        return Analysis(StatementKind.QUERY, f'FROM "{INTERNAL_CATALOG}".main.{view}', needs_all_tables=True)

    def _serialise(self, sql: str) -> Any:
        with duckdb_errors():
            rows = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
        try:
            tree = json.loads(rows[0][0])
        except RecursionError as error:
            raise SqlSyntaxError("the statement is nested too deeply") from error
        return None if tree.get("error") else tree

    def _other_query(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        """A query that DuckDB cannot serialise (PIVOT with values found at run time)."""
        tree = _parse(sql)
        if not isinstance(tree, exp.Query | exp.Pivot):
            raise NotSupported("this kind of statement is not supported")
        references, local_names = _inspect(tree)
        return Analysis(StatementKind.QUERY, sql, references, local_names, parameters)

    def _explain(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        match = _EXPLAIN.match(sql)
        if match is None:
            raise NotSupported("this form of EXPLAIN is not supported")
        inner = self._analyse(sql[match.end() :])
        if inner.kind is not StatementKind.QUERY:
            raise NotSupported("EXPLAIN is supported for queries only")
        shift = len(sql[: match.end()].encode())
        return Analysis(
            StatementKind.EXPLAIN,
            sql[: match.end()] + inner.sql,
            tuple(_shifted(r, shift) for r in inner.references),
            inner.local_names,
            parameters,
            needs_all_tables=inner.needs_all_tables,
        )

    def _create(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        tree = _parse(sql)
        if not isinstance(tree, exp.Create):
            raise NotSupported("this kind of CREATE is not supported")
        kind = str(tree.args.get("kind") or "").upper()
        if kind == "SCHEMA":
            name = _path(tree.find(exp.Table))
            return Analysis(
                StatementKind.CREATE_SCHEMA,
                sql,
                target=name,
                detail={"if_not_exists": bool(tree.args.get("exists"))},
            )
        if kind not in ("TABLE", "VIEW"):
            raise NotSupported(f"CREATE {kind} is not supported")
        match = _CREATE_TEMP.match(sql)
        if match is None:
            raise NotSupported(
                f"CREATE {kind} is not supported on lake tables yet",
                "load tables with ADBC bulk ingest, or use CREATE TEMP TABLE",
            )
        # Without TEMP and under the name of the session's own database it lives as long as the session.
        plain = sql[: match.start("temp")] + sql[match.end("temp") :].lstrip()
        start, query = self._trailing_query(sql) if tree.expression is not None else (0, None)
        if query is not None:
            moved = start - (len(sql.encode()) - len(plain.encode()))
            references = tuple(_shifted(r, moved) for r in query.references)
            local_names = query.local_names
        else:
            references, local_names = _inspect(tree, skip=tree.this)
        return Analysis(
            StatementKind.CREATE_TEMP,
            plain,
            references,
            local_names,
            parameters,
            target=_path(tree.find(exp.Table)),
            detail={"view": kind == "VIEW"},
        )

    def _trailing_query(self, sql: str) -> tuple[int, Analysis | None]:
        """The query after the first AS of a CREATE, with the place where it starts in the UTF-8 bytes."""
        for match in re.finditer(r"\bAS\b", sql, re.IGNORECASE):
            inner = sql[match.end() :]
            body = inner.lstrip()
            try:
                statements = self._connection.extract_statements(body)
                if len(statements) == 1 and statements[0].type.name == "SELECT":
                    return len(sql[: len(sql) - len(body)].encode()), self._select(body, ())
            except duckdb.Error:
                continue
        return 0, None

    def _drop(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        tree = _parse(sql)
        if not isinstance(tree, exp.Drop):
            raise NotSupported("this kind of DROP is not supported")
        kind = str(tree.args.get("kind") or "").upper()
        target = _path(tree.find(exp.Table))
        detail = {"if_exists": bool(tree.args.get("exists")), "view": kind == "VIEW"}
        if kind == "SCHEMA":
            if tree.args.get("cascade"):
                raise NotSupported("DROP SCHEMA … CASCADE is not supported", "drop its tables first")
            return Analysis(StatementKind.DROP_SCHEMA, sql, target=target, detail=detail)
        if kind not in ("TABLE", "VIEW"):
            raise NotSupported(f"DROP {kind} is not supported")
        return Analysis(StatementKind.DROP, sql, target=target, detail=detail)

    def _dml(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        tree = _parse(sql)
        target = tree.find(exp.Table) if not isinstance(tree, exp.TruncateTable) else tree.expressions[0]
        if target is None or isinstance(tree, exp.Command):
            raise NotSupported("this form of the statement is not supported")
        references, local_names = _inspect(tree, skip=target)
        returning = tree.args.get("returning") is not None
        return Analysis(
            StatementKind.TEMP_DML,
            sql,
            references,
            local_names,
            parameters,
            target=_path(target),
            detail={"returning": returning},
        )

    def _set(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        use = _USE.match(sql)
        if use is not None:
            return Analysis(StatementKind.SET, sql, detail={"use": _split(use["path"])})
        match = _SET.match(sql)
        if match is None or match["name"].lower() == "variable":
            raise StatementForbidden("SET VARIABLE is not allowed")
        if (match["scope"] or "").upper() == "GLOBAL":
            raise StatementForbidden(
                "SET GLOBAL is not allowed", "settings hold for one session: SET name = value"
            )
        value = None if match["verb"].upper() == "RESET" else (match["value"] or "").strip()
        return Analysis(
            StatementKind.SET, sql, detail={"name": _split(match["name"])[0].lower(), "value": value}
        )

    def _transaction(self, sql: str, parameters: tuple[str, ...]) -> Analysis:
        word = sql.split(None, 1)[0].upper().rstrip(";")
        kind = {
            "BEGIN": StatementKind.BEGIN,
            "START": StatementKind.BEGIN,
            "COMMIT": StatementKind.COMMIT,
            "END": StatementKind.COMMIT,
            "ROLLBACK": StatementKind.ROLLBACK,
            "ABORT": StatementKind.ROLLBACK,
        }.get(word)
        if kind is None:
            raise NotSupported(f"{word} is not supported")
        return Analysis(kind, sql)


def _inspect(
    tree: exp.Expr, skip: exp.Expr | None = None
) -> tuple[tuple[TableReference, ...], frozenset[str]]:
    """References and CTE names of a statement that sqlglot parsed; forbidden functions are refused."""
    references = []
    local_names = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    skipped = skip.find(exp.Table) if skip is not None else None
    for function in tree.find_all(exp.Func):
        name = function.name if isinstance(function, exp.Anonymous) else function.sql_name()
        check_function(name)
        if isinstance(function, exp.ReadCSV | exp.ReadParquet):
            raise StatementForbidden(f"the table function {name.lower()} is not allowed")
    for table in tree.find_all(exp.Table):
        if table is skipped:
            continue
        if isinstance(table.this, exp.Func):
            name = table.this.name if isinstance(table.this, exp.Anonymous) else table.this.sql_name()
            check_table_function(name)
            continue
        if table.args.get("version") is not None or table.args.get("when") is not None:
            raise NotSupported("time travel can be used in queries only")
        references.append(TableReference(_path(table)))
    return tuple(references), frozenset(local_names)


def _parse(sql: str) -> exp.Expr:
    try:
        tree = sqlglot.parse_one(sql, dialect="duckdb")
    except (SqlglotError, RecursionError) as error:
        raise NotSupported("this form of the statement is not supported") from error
    return tree


def _path(table: exp.Expr | None) -> tuple[str, ...]:
    if not isinstance(table, exp.Table):
        return ()
    return tuple(part.name for part in table.parts if part.name)


def _split(path: str) -> tuple[str, ...]:
    """The parts of a dotted name, unquoted."""
    parts = re.findall(NAME, path)
    return tuple(p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts)


def _shifted(reference: TableReference, by: int) -> TableReference:
    span = reference.span
    moved = (span[0] + by, span[1] + by) if span else None
    return TableReference(reference.path, moved, reference.has_alias, reference.at)


def _strip(sql: str) -> str:
    """The statement without leading comments and trailing semicolons."""
    text = sql[_COMMENT.match(sql).end() :]  # type: ignore[union-attr]
    return text.rstrip().rstrip(";").rstrip()


def _parameter_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 31, name)


def _refusal(kind: str) -> LakehouseError:
    if kind in ("ALTER", "VACUUM", "ANALYZE", "CREATE_FUNC"):
        return NotSupported(f"{kind} statements are not supported yet")
    word = kind.replace("_", " ")
    return StatementForbidden(
        f"{word} statements are not allowed", "queries, temporary tables and ingest are"
    )
