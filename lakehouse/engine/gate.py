"""The statement gate: what kind of statement is this, what does it name, and may it run at all.

DuckDB's own parser does the reading: queries come as its tree, other statements are brought into a form that
has one. The answer depends on the text only, so it is cached by text.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

import duckdb

from lakehouse.catalog import Table
from lakehouse.engine.database import INTERNAL_CATALOG
from lakehouse.engine.gate_ddl import (
    check_readable,
    create_parts,
    layout_places,
    read_alter,
    read_comment,
    read_create,
)
from lakehouse.engine.gate_functions import check_calls, check_function
from lakehouse.engine.gate_parser import Parsed, Parsers, check_size, same_shape
from lakehouse.engine.gate_text import (
    NAME,
    PATH,
    Edited,
    Token,
    closing_bracket,
    has_wide_blanks,
    outer_words,
    plain_blanks,
    read_path,
    retarget,
    rewrite_reference,
    statement_start,
    with_from_clauses,
    with_pivot_values,
    without_wide_blanks,
    words,
)
from lakehouse.engine.gate_tree import TableReference, TreeWalk
from lakehouse.engine.gate_views import Rename, ViewComment, read_columns, read_naming
from lakehouse.engine.pruning import condition_of, scan_filters
from lakehouse.engine.search_call import VECTOR_SEARCH, numbered_marks, parameters_in
from lakehouse.errors import LakehouseError, LimitExceeded, NotSupported, SqlSyntaxError, StatementForbidden
from lakehouse.telemetry import span
from lakehouse.types import DataFileRef

__all__ = [
    "Analysis",
    "StatementGate",
    "StatementKind",
    "TableReference",
    "check_function",
    "retarget",
    "rewrite_reference",
]


MAX_PARAMETERS = 10_000
"""How many parameters a statement may have; finding their types holds the interpreter."""


class StatementKind(Enum):
    """What a statement does, as far as the server has to tell statements apart."""

    QUERY = "query"
    EXPLAIN = "explain"
    CREATE_TEMP = "create temp"
    CREATE_TABLE = "create table"
    ALTER_TABLE = "alter table"
    COMMENT = "comment"
    DROP = "drop"
    DML = "dml"
    CREATE_VIEW = "create view"
    COMMENT_VIEW = "comment view"
    RENAME = "rename"
    CREATE_SCHEMA = "create schema"
    DROP_SCHEMA = "drop schema"
    SET = "set"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the gate found out about one statement.

    ``sql`` is the statement without trailing semicolon, in a form that tells where its names stand; no
    reference leads to a common table expression. ``target`` is the table or schema that DDL and DML change;
    ``detail`` holds what a kind needs besides. ``searched`` are the parameters that only searches take.
    """

    kind: StatementKind
    sql: str
    references: tuple[TableReference, ...] = ()
    parameters: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    needs_all_tables: bool = False
    searched: frozenset[str] = frozenset()

    @property
    def is_update(self) -> bool:
        """Whether the statement changes something rather than giving rows."""
        return self.kind not in (StatementKind.QUERY, StatementKind.EXPLAIN) and not self.detail.get(
            "returning"
        )


_SET = re.compile(
    rf"(?P<verb>SET|RESET)\s+(?:(?P<scope>SESSION|LOCAL|GLOBAL)\s+)?(?P<name>{NAME})\s*(?:(?:=|TO\b)\s*(?P<value>.+))?\Z",
    re.IGNORECASE | re.DOTALL,
)
_CREATE = re.compile(r"CREATE\b", re.IGNORECASE)
_ALTER = re.compile(r"ALTER\b", re.IGNORECASE)
_USE = re.compile(rf"USE\s+(?P<path>{PATH})\s*\Z", re.IGNORECASE)
_SHOW = {
    '"tables"': "show_tables",
    '"databases"': "show_databases",
    '"schemas"': "show_schemas",
    "__show_tables_expanded": "show_all_tables",
}
_QUERY_WORDS = frozenset("SELECT FROM WITH VALUES TABLE DESCRIBE DESC SUMMARIZE SHOW PIVOT UNPIVOT (".split())
# What begins with these has no tree of its own: no need to ask for it.
_NO_QUERY = re.compile(
    r"(?:INSERT|UPDATE|DELETE|TRUNCATE|MERGE|CREATE|DROP|SET|RESET|USE|BEGIN|START|COMMIT|ROLLBACK|EXPLAIN|"
    r"ALTER|COMMENT)\b",
    re.IGNORECASE,
)
# What a tree has that may tell which rows of a table are needed.
_SELECTS_SOME = re.compile(r'"where_clause":\{|"condition":\{|"LIMIT_MODIFIER"')
_TRANSACTION_WORDS = {
    "BEGIN": StatementKind.BEGIN,
    "START": StatementKind.BEGIN,
    "COMMIT": StatementKind.COMMIT,
    "END": StatementKind.COMMIT,
    "ROLLBACK": StatementKind.ROLLBACK,
    "ABORT": StatementKind.ROLLBACK,
}
# The longest text whose analysis is kept, and how many characters of texts are kept in all.
_CACHED_LENGTH, _CACHED_LENGTHS = 100_000, 4_000_000
# INSERT, UPDATE and DELETE have a tree as the body of a common table expression only.
_BEFORE_CHANGE, _AFTER_CHANGE = 'WITH "~" AS (\n', "\n) SELECT 1"


class StatementGate:
    """Analyses statements and refuses those that nobody may run.

    Args:
        connection: A DuckDB connection of the gate's own, used for parsing only.
        cache_entries: How many analyses are kept.
        max_bytes: How long a statement may be, in UTF-8 bytes; 0 allows every length.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, cache_entries: int = 4096, max_bytes: int = 0
    ) -> None:
        self._parsers = Parsers(connection)
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Analysis] = OrderedDict()
        self._cached_length = 0
        self._cache_entries = cache_entries
        self._max_bytes = max_bytes

    def reconnect(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Parse with another connection from now on."""
        self._parsers.reconnect(connection)

    def analyse(self, sql: str) -> Analysis:
        """What one statement is and names.

        Raises:
            SqlSyntaxError: The text does not parse, is empty or holds several statements.
            StatementForbidden: The kind of statement or a function in it is not allowed.
            NotSupported: The statement is legitimate but not offered.
            LimitExceeded: The text is too long, or has too many parameters, UNIONs or joins.
        """
        found = self._cache.get(sql)
        if found is not None:
            return found
        check_size(sql, self._max_bytes)
        with span("gate"):
            analysis = self._analyse(sql)
        if len(analysis.parameters) > MAX_PARAMETERS:
            raise LimitExceeded(
                f"the statement has {len(analysis.parameters)} parameters, expected up to {MAX_PARAMETERS}",
                "load the values into a temporary table",
            )
        if len(sql) <= _CACHED_LENGTH:
            with self._lock:
                self._cached_length += len(sql) if sql not in self._cache else 0
                self._cache[sql] = analysis
                while len(self._cache) > self._cache_entries or self._cached_length > _CACHED_LENGTHS:
                    self._cached_length -= len(self._cache.popitem(last=False)[0])
        return analysis

    def check_expression(self, text: str) -> None:
        """Refuse a text that is anything but one expression, so that it can be put into a statement.

        Raises:
            SqlSyntaxError: The text does not parse, or goes on after the expression.
            StatementForbidden: A function in it is not allowed.
        """
        if statement_start(text) == len(text):
            raise SqlSyntaxError("expected one SQL expression, but the text is empty")
        sql = f"SELECT ({text}\n)"
        self.analyse(sql)
        parsed = self._parsers.query(plain_blanks(sql))
        node = parsed.tree["node"] if parsed is not None else {}
        plain = (
            node.get("type") == "SELECT_NODE"
            and len(node["select_list"]) == 1
            and node["from_table"]["type"] == "EMPTY"
            and not (node["modifiers"] or node["where_clause"] or node["group_expressions"] or node["having"])
        )
        if not plain:
            raise SqlSyntaxError("expected one SQL expression, but the text goes on after it")

    def files_matching(
        self, table: Table, where: str, alias: str, values: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[DataFileRef, ...]:
        """The files of a table that may hold a row of which a condition is true.

        Args:
            table: The table.
            where: The condition as SQL text. It is only read here, and has to pass the gate elsewhere.
            alias: What the table is called in it; columns without a table before them are the table's too.
            values: The values of its parameters, by name.

        Raises:
            SqlSyntaxError: The text does not parse.
        """
        parsed = self._parsers.query(plain_blanks(f"SELECT 1 WHERE ({where}\n)"))
        if parsed is None:
            raise SqlSyntaxError("expected one SQL condition")
        node = parsed.tree["node"]
        condition = condition_of(node.get("where_clause"), alias)
        return table.files() if condition is None else table.matching_files(condition, values)

    def _analyse(self, sql: str) -> Analysis:
        text = _strip(plain_blanks(sql))
        if VECTOR_SEARCH in text.lower():
            text = numbered_marks(text)
        parsed = None if _NO_QUERY.match(text) else self._parsers.query(text)
        if parsed is not None:
            return self._query(parsed)
        naming = read_naming(text)
        if naming is not None:
            return _naming(text, naming)
        if _CREATE.match(text):
            table = self._create_table(text)
            if table is not None:
                return table
        kind, names = self._parsers.kind(text)
        parameters = tuple(sorted(names, key=_parameter_order))
        handler = {
            "MULTI": self._several,
            "ALTER": self._alter,
            "EXPLAIN": self._explain,
            "CREATE": self._create,
            "DROP": self._drop,
            "INSERT": self._change,
            "UPDATE": self._change,
            "DELETE": self._change,
            "MERGE_INTO": self._merge,
            "SET": self._set,
            "VARIABLE_SET": self._set,
            "TRANSACTION": self._transaction,
        }.get(kind)
        if handler is None:
            raise _refusal(kind)
        return handler(text, parameters)

    # -- queries --------------------------------------------------------------------------------------

    def _query(self, parsed: Parsed) -> Analysis:
        parsed, walk = self._walk(parsed, TreeWalk.visit)
        if walk.show:
            return _show(parsed.text, walk.show)
        return Analysis(
            StatementKind.QUERY,
            parsed.text,
            walk.in_order(),
            parameters=tuple(sorted(parsed.parameters, key=_parameter_order)),
            needs_all_tables=walk.needs_all_tables,
            searched=_searched(parsed.text, walk.references),
        )

    def _walk(self, parsed: Parsed, visit: Callable[[TreeWalk, Any], None]) -> tuple[Parsed, TreeWalk]:
        """Walk a tree; where places of names are missing, that of a text that means the same and has them."""
        walk = TreeWalk(parsed.text)
        visit(walk, parsed.tree)
        if any(reference.span is None for reference in walk.references):
            text = with_from_clauses(parsed.text)
            other = self._parsers.query(text) if text != parsed.text else None
            if other is not None:
                placed = TreeWalk(text)
                visit(placed, other.tree)
                is_show = re.match(r"SHOW\b", parsed.text, re.IGNORECASE) and walk.paths() == placed.paths()
                if is_show or same_shape(parsed, other):
                    parsed, walk = other, placed
        if has_wide_blanks(parsed.text) and walk.references:
            self._doubt_places(parsed.text, walk, visit)
        if walk.references and _SELECTS_SOME.search(parsed.shape):
            filters = scan_filters(parsed.tree)
            walk.references = [
                replace(r, scan=filters.get((r.span[0], r.span[1] - r.span[0]))) if r.span else r
                for r in walk.references
            ]
        return parsed, walk

    def _doubt_places(self, text: str, walk: TreeWalk, visit: Callable[[TreeWalk, Any], None]) -> None:
        """Forget the places of names where DuckDB may have counted otherwise than the bytes of the text."""
        other = self._parsers.query(without_wide_blanks(text))
        counted = TreeWalk("")
        if other is not None:
            visit(counted, other.tree)
        if counted.places != walk.places:
            walk.references = [replace(reference, span=None) for reference in walk.references]

    def _pivot(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        """PIVOT with values found at run time, which DuckDB runs as two statements and gives no tree of."""
        explained = re.match(r"EXPLAIN\b", text, re.IGNORECASE)
        if explained is not None:
            return self._explain(text, parameters)
        edited = with_pivot_values(text)
        parsed = self._parsers.query(edited.text)
        if parsed is None:
            raise NotSupported("this form of PIVOT is not supported", "name the values: ON column IN (…)")
        inner = self._query(parsed)
        if inner.sql != edited.text:
            raise NotSupported("this form of PIVOT is not supported", "write SELECT … FROM the table")
        references = tuple(_moved(r, edited.original) for r in inner.references)
        return replace(inner, sql=text, references=references, parameters=parameters)

    def _explain(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        tokens = words(text)
        index = 2 if len(tokens) > 1 and tokens[1].word in ("ANALYZE", "ANALYSE", "VERBOSE") else 1
        if index < len(tokens) and tokens[index].text == "(":
            after = tokens[index + 1 : index + 2]
            if after and after[0].word not in _QUERY_WORDS and after[0].text != "(":
                index = closing_bracket(tokens, index) + 1
        if index >= len(tokens):
            raise NotSupported("this form of EXPLAIN is not supported")
        start = tokens[index].start
        head, body = text.encode()[:start].decode(), text.encode()[start:].decode()
        inner = self._analyse(body)
        if inner.kind is not StatementKind.QUERY:
            raise NotSupported("EXPLAIN is supported for queries only")
        return replace(
            inner,
            kind=StatementKind.EXPLAIN,
            sql=head + inner.sql,
            references=tuple(_moved(r, lambda place: place + start) for r in inner.references),
            parameters=parameters or inner.parameters,
        )

    def _several(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        """What DuckDB runs as several statements."""
        return (self._alter if _ALTER.match(text) else self._pivot)(text, parameters)

    # -- what changes something -----------------------------------------------------------------------

    def _create_table(self, text: str) -> Analysis | None:
        """CREATE TABLE of a lake table; None for everything else."""
        tokens = words(text)
        _, temporary, what, index, _ = create_parts(tokens)
        path, _ = read_path(tokens, index)
        if what != "TABLE" or temporary or (len(path) == 2 and path[0].lower() == "temp"):
            return None
        check_readable(text)
        # DuckDB does not know the whole grammar of these clauses.
        places = [(tokens[a].start, tokens[b].end, "") for a, b in layout_places(tokens)]
        kind, names = self._parsers.kind(Edited(text, places).text)
        if kind != "CREATE":
            raise _refusal(kind)
        create = read_create(text, tokens)
        parameters = tuple(sorted(names, key=_parameter_order))
        found = Analysis(
            StatementKind.CREATE_TABLE,
            text,
            parameters=parameters,
            target=create.target,
            detail={"create": create},
        )
        if create.query is None:
            return found
        start, stop = create.query
        parsed = self._parsers.query(text.encode()[start:stop].decode())
        if parsed is None:
            raise NotSupported("this kind of query is not supported in CREATE")
        query = self._query(parsed)
        return replace(
            found, sql=query.sql, references=query.references, needs_all_tables=query.needs_all_tables
        )

    def check_definition(self, columns: str) -> None:
        """Refuse a text that is anything but definitions of columns, so that a table can be made of it.

        Functions in it have been looked at before.

        Raises:
            SqlSyntaxError: The text does not parse.
            NotSupported: It makes more of a statement than a table.
        """
        kind, names = self._parsers.kind(f"CREATE TEMP TABLE t ({columns}\n)")
        if kind != "CREATE" or names:
            raise NotSupported("this definition of a column is not supported")

    def _alter(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        """ALTER TABLE, and COMMENT ON, which DuckDB takes for the same."""
        check_readable(text)
        tokens = words(text)
        if tokens[0].word == "COMMENT":
            comment = read_comment(tokens)
            return Analysis(StatementKind.COMMENT, text, target=comment.target, detail={"comment": comment})
        alter = read_alter(text, tokens)
        return Analysis(StatementKind.ALTER_TABLE, text, target=alter.target, detail={"alter": alter})

    def _create(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        tokens = words(text)
        replaces, temporary, what, index, exists = create_parts(tokens)
        head = "CREATE OR REPLACE" if replaces else "CREATE"
        path, after = read_path(tokens, index)
        if what == "SCHEMA" and not temporary:
            return Analysis(StatementKind.CREATE_SCHEMA, text, target=path, detail={"if_not_exists": exists})
        if what not in ("TABLE", "VIEW") or not path:
            raise NotSupported(f"CREATE {what} is not supported")
        if not temporary and what == "VIEW":
            return self._create_view(
                text, tokens, path, after, {"replace": "OR" in head, "if_not_exists": exists}
            )
        # Without TEMP and under the name of the session's own database it lives as long as the session.
        start = tokens[index].start
        plain = f"{head} {what} {'IF NOT EXISTS ' if exists else ''}"
        moved = len(plain) - start
        plain += text.encode()[start:].decode()
        found = Analysis(
            StatementKind.CREATE_TEMP,
            plain,
            parameters=parameters,
            target=path,
            detail={"view": what == "VIEW"},
        )
        return self._created(found, tokens, after, moved)

    def _create_view(
        self, text: str, tokens: Sequence[Token], path: tuple[str, ...], after: int, detail: dict[str, Any]
    ) -> Analysis:
        """A view of the lake: its query, and the names of its columns where they are given."""
        columns, after = read_columns(tokens, after)
        if after + 1 >= len(tokens) or tokens[after].word != "AS":
            raise NotSupported("this form of CREATE VIEW is not supported", "CREATE VIEW name AS SELECT …")
        parsed = self._parsers.query(text.encode()[tokens[after + 1].start :].decode())
        if parsed is None:
            raise NotSupported("this kind of query is not supported in CREATE VIEW")
        query = self._query(parsed)
        if query.parameters:
            raise NotSupported("a view cannot have parameters")
        if query.needs_all_tables:
            raise NotSupported("a view cannot list tables")
        detail = {**detail, "columns": columns}
        return replace(query, kind=StatementKind.CREATE_VIEW, target=path, detail=detail)

    def _created(self, found: Analysis, tokens: Sequence[Token], after: int, moved: int) -> Analysis:
        """What the query or the column definitions after the name of a new table or view name."""
        if after < len(tokens) and tokens[after].text == "(":
            closing = closing_bracket(tokens, after)
            check_calls(tokens[after : closing + 1])
            after = closing + 1
        if after >= len(tokens):
            return found
        if tokens[after].word != "AS" or after + 1 >= len(tokens):
            raise NotSupported("this form of CREATE is not supported")
        raw, end = found.sql.encode(), len(tokens)
        start = tokens[after + 1].start + moved
        if [t.word for t in tokens[-2:]] == ["WITH", "DATA"]:
            end -= 2
        elif [t.word for t in tokens[-3:]] == ["WITH", "NO", "DATA"]:
            end -= 3
        stop = tokens[end].start + moved if end < len(tokens) else len(raw)
        parsed = self._parsers.query(raw[start:stop].decode())
        if parsed is None:
            raise NotSupported("this kind of query is not supported in CREATE")
        query = self._query(parsed)
        return replace(
            found,
            sql=(raw[:start] + query.sql.encode() + b" " + raw[stop:]).decode().rstrip(),
            references=tuple(_moved(r, lambda place: place + start) for r in query.references),
            needs_all_tables=query.needs_all_tables,
        )

    def _drop(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        tokens = words(text)
        what = tokens[1].word
        exists = [t.word for t in tokens[2:4]] == ["IF", "EXISTS"]
        target, after = read_path(tokens, 4 if exists else 2)
        rest = [t.word for t in tokens[after:]]
        detail = {"if_exists": exists, "view": what == "VIEW", "cascade": rest == ["CASCADE"]}
        if what not in ("SCHEMA", "TABLE", "VIEW"):
            raise NotSupported(f"DROP {what} is not supported")
        if not target or rest not in ([], ["CASCADE"], ["RESTRICT"]):
            raise NotSupported("this form of DROP is not supported", "drop one thing at a time")
        kind = StatementKind.DROP_SCHEMA if what == "SCHEMA" else StatementKind.DROP
        return Analysis(kind, text, target=target, detail=detail)

    def _change(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        """INSERT, UPDATE, DELETE and TRUNCATE."""
        parsed = self._parsers.query(f"{_BEFORE_CHANGE}{text}{_AFTER_CHANGE}")
        if parsed is None:
            raise NotSupported("this form of the statement is not supported")
        parsed, walk = self._walk(parsed, TreeWalk.visit_change)
        start = len(_BEFORE_CHANGE)
        return Analysis(
            StatementKind.DML,
            parsed.text[start : -len(_AFTER_CHANGE)],
            tuple(_moved(r, lambda place: place - start) for r in walk.references),
            parameters=parameters,
            target=walk.target,
            detail={"returning": walk.returning},
            needs_all_tables=walk.needs_all_tables,
        )

    def _merge(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        """MERGE has no tree: its tables are read as those of a join, its actions may hold no query."""
        tokens = words(text)
        outer = outer_words(tokens)
        try:
            merge = outer.index("MERGE")
            using = outer.index("USING", merge)
            when = next(
                i
                for i in range(using, len(outer))
                if outer[i] == "WHEN" and "MATCHED" in outer[i + 1 : i + 3]
            )
        except ValueError as error:
            raise NotSupported("this form of MERGE is not supported") from error
        check_calls(tokens[when:])
        edited = Edited(
            text,
            [
                (tokens[merge].start, tokens[merge + 1].end, "SELECT 1 FROM"),
                (tokens[using].start, tokens[using].end, "JOIN"),
                (tokens[when].start, len(text.encode()), ""),
            ],
        )
        parsed = self._parsers.query(edited.text)
        if parsed is None:
            raise NotSupported("this form of MERGE is not supported")
        walk = TreeWalk(parsed.text)
        walk.visit(parsed.tree)
        target, _ = read_path(tokens, merge + 2)
        found = [_moved(r, edited.original) for r in walk.references]
        into = [r for r in found if r.span and r.span[0] == tokens[merge + 2].start]
        if len(into) != 1 or into[0].path != target or has_wide_blanks(text):
            raise NotSupported("this form of MERGE is not supported")
        return Analysis(
            StatementKind.DML,
            text,
            tuple(r for r in found if r is not into[0]),
            parameters=parameters,
            target=target,
            detail={"returning": "RETURNING" in outer[when:]},
            needs_all_tables=walk.needs_all_tables,
        )

    def _set(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        use = _USE.match(text)
        if use is not None:
            return Analysis(StatementKind.SET, text, detail={"use": _split(use["path"])})
        match = _SET.match(text)
        if match is None or match["name"].lower() == "variable":
            raise StatementForbidden("SET VARIABLE is not allowed")
        if (match["scope"] or "").upper() == "GLOBAL":
            raise StatementForbidden(
                "SET GLOBAL is not allowed", "settings hold for one session: SET name = value"
            )
        value = None if match["verb"].upper() == "RESET" else (match["value"] or "").strip()
        return Analysis(
            StatementKind.SET, text, detail={"name": _split(match["name"])[0].lower(), "value": value}
        )

    def _transaction(self, text: str, parameters: tuple[str, ...]) -> Analysis:
        word = words(text)[0].word
        kind = _TRANSACTION_WORDS.get(word)
        if kind is None:
            raise NotSupported(f"{word} is not supported")
        return Analysis(kind, text)


def _searched(text: str, references: Sequence[TableReference]) -> frozenset[str]:
    """The parameters that stand in the arguments of searches and nowhere else."""
    calls = [r for r in references if r.search is not None and r.span is not None]
    found = {name for r in calls if r.search is not None for name in r.search.parameters}
    if not found:
        return frozenset()
    rest = Edited(text, [(r.span[0], r.span[1], " ") for r in calls if r.span is not None]).text
    return frozenset(found.difference(parameters_in(rest)))


def _naming(text: str, naming: Rename | ViewComment) -> Analysis:
    if isinstance(naming, ViewComment):
        return Analysis(StatementKind.COMMENT_VIEW, text, target=naming.path, detail={"text": naming.text})
    detail = {"to": naming.target, "view": naming.is_view, "if_exists": naming.if_exists}
    return Analysis(StatementKind.RENAME, text, target=naming.path, detail=detail)


def _show(sql: str, what: str) -> Analysis:
    view = _SHOW.get(what)
    if view is None or not re.match(r"SHOW\b", sql, re.IGNORECASE):
        what = "TABLES FROM" if what == "SHOW_FROM" else what.strip(chr(34))
        raise NotSupported(f"SHOW {what} is not supported here", "read information_schema instead")
    return Analysis(StatementKind.QUERY, f'FROM "{INTERNAL_CATALOG}".main.{view}', needs_all_tables=True)


def _split(path: str) -> tuple[str, ...]:
    """The parts of a dotted name, unquoted."""
    parts = re.findall(NAME, path)
    return tuple(p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts)


def _moved(reference: TableReference, place: Callable[[int], int]) -> TableReference:
    span = reference.span
    return replace(reference, span=(place(span[0]), place(span[1])) if span else None)


def _strip(sql: str) -> str:
    """The statement without leading comments and trailing semicolons."""
    return sql[statement_start(sql) :].rstrip().rstrip(";").rstrip()


def _parameter_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 31, name)


def _refusal(kind: str) -> LakehouseError:
    if kind in ("VACUUM", "ANALYZE", "CREATE_FUNC"):
        return NotSupported(f"{kind} statements are not supported yet")
    word = "such" if kind == "UNKNOWN" else kind.replace("_", " ")
    return StatementForbidden(
        f"{word} statements are not allowed", "queries, temporary tables and ingest are"
    )
