"""The text of statements that change rows, taken apart to run them on something else than their target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lakehouse.engine.gate_text import (
    Edited,
    Token,
    closing_bracket,
    outer_words,
    qualifiers,
    read_path,
    scan,
    words,
)
from lakehouse.errors import NotSupported
from lakehouse.types import TableName, quote

_VERBS = frozenset("INSERT UPDATE DELETE TRUNCATE MERGE".split())
_AFTER_TARGET = frozenset(
    "SET USING WHERE RETURNING VALUES SELECT FROM WITH DEFAULT BY ON TABLE PIVOT".split()
)
_QUERY_WORDS = frozenset("SELECT FROM WITH VALUES TABLE PIVOT UNPIVOT DESCRIBE SUMMARIZE (".split())
# A second look at rows chosen by these would choose others.
_VOLATILE = frozenset("RANDOM UUID GEN_RANDOM_UUID UUIDV4 UUIDV7 NEXTVAL SETSEED".split())

Values = list[Any] | dict[str, Any]


def numbered(sql: str) -> str:
    """The statement with each ``?`` written as ``$1`` and so on, so that parts of it keep their values."""
    places = [token for token in scan(sql) if token.text == "?"]
    for number, token in reversed(list(enumerate(places, 1))):
        sql = f"{sql[: token.start]}${number}{sql[token.end :]}"
    return sql


def parameters_of(sql: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and name of every parameter in a numbered text."""
    tokens = list(scan(sql))
    for sign, name in pairwise(tokens):
        if sign.text == "$" and sign.end == name.start and name.kind in ("name", "number"):
            yield sign.start, name.end, name.name


def values_for(sql: str, values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Those of the values that a part of a statement takes; DuckDB refuses any others."""
    if not values:
        return None
    wanted = {name.lower() for _, _, name in parameters_of(sql)}
    return {name: value for name, value in values.items() if name.lower() in wanted} or None


def with_columns(sql: str, table: str) -> str:
    """The text with each parameter replaced by the column of that name of a table."""
    for start, end, name in sorted(parameters_of(sql), reverse=True):
        sql = f"{sql[:start]}{table}.{quote(name)}{sql[end:]}"
    return sql


@dataclass(frozen=True, slots=True)
class ChangeText:
    """A statement that changes the rows of a table, in parts.

    Args:
        verb: INSERT, UPDATE, DELETE, TRUNCATE or MERGE.
        before: What stands before the target, common table expressions and the verb included.
        common: The common table expressions alone, up to the verb.
        alias: What the statement calls its target, quoted.
        after: What stands after the target and its alias.
        columns: The columns that INSERT names; None where it names none.
        by_name: Whether INSERT goes by the names of the columns that come.
        source: The query or VALUES of INSERT; what UPDATE and DELETE join with; what MERGE merges.
        condition: Which rows: the condition of WHERE, or of MERGE with its ON or USING.
        returning: Whether rows are asked for.
        every_file: Whether rows of any file can change.
        inserts_only: Whether MERGE has nothing to do with rows that match.
    """

    verb: str
    before: str
    common: str
    alias: str
    after: str
    columns: tuple[str, ...] | None = None
    by_name: bool = False
    source: str = ""
    condition: str = ""
    returning: bool = False
    every_file: bool = False
    inserts_only: bool = False
    extra: str = ""

    def on(self, table: str) -> str:
        """The whole statement with another target."""
        return f"{self.before} {table} AS {self.alias} {self.after}"

    def finding(self, body: str, column: str, more: str = "") -> str:
        """A query for the values that a column of the target has in rows which may change.

        Args:
            body: The target, as a query.
            column: The column.
            more: A table to be joined with.
        """
        target = f"({body}) AS {self.alias}"
        found = f"{self.common} SELECT DISTINCT {self.alias}.{quote(column)} FROM "
        more = f", {more}" if more else ""
        if self.verb == "MERGE":
            return f"{found} {target} JOIN {self.source} {self.condition} {more and 'CROSS JOIN' + more[1:]}"
        joined = f", {self.source}" if self.source else ""
        where = f" WHERE {self.condition}" if self.condition else ""
        return f"{found} {target}{joined}{more}{where}"

    @property
    def one_row(self) -> str | None:
        """The expressions of ``VALUES (…)`` with one row that has no default among them."""
        tokens = words(self.source)
        if not tokens or tokens[0].word != "VALUES" or self.extra:
            return None
        if closing_bracket(tokens, 1) != len(tokens) - 1 or any(t.word == "DEFAULT" for t in tokens):
            return None
        raw = self.source.encode()
        return raw[tokens[1].end : tokens[-1].start].decode()

    @property
    def name(self) -> str:
        """The alias without its quotes."""
        return self.alias[1:-1].replace('""', '"')

    @property
    def tells_rows(self) -> bool:
        """Whether the condition is one that every changed row fulfils, and its columns are the target's.

        Those that a join merges, ``USING (k)``, are named as the target's would be.
        """
        if self.verb not in ("UPDATE", "DELETE") or not self.condition:
            return False
        return not self.source or all(token.word != "JOIN" for token in words(self.source))

    @property
    def is_query(self) -> bool:
        """Whether INSERT takes its rows from a query rather than from VALUES or defaults."""
        first = self.source.lstrip("( \n\t")[:8].upper()
        return bool(self.source) and not first.startswith(("VALUES", "DEFAULT"))


def verb_of(sql: str) -> str:
    """What a statement does to its target, in upper case; empty where it is none that changes rows."""
    return next((word for word in outer_words(words(sql)) if word in _VERBS), "")


def read_change(sql: str, target: TableName) -> ChangeText:
    """Take a statement apart.

    Args:
        sql: The statement, with numbered parameters.
        target: The full name of the table that it changes.

    Raises:
        NotSupported: It has a form that cannot be taken apart.
    """
    tokens = words(sql)
    outer = outer_words(tokens)
    verb_at = next((i for i, word in enumerate(outer) if word in _VERBS), None)
    if verb_at is None:
        raise NotSupported("this form of the statement is not supported")
    first = verb_at + 1
    extra = ""
    while first < len(tokens) and outer[first] in ("INTO", "FROM", "TABLE", "OR", "REPLACE", "IGNORE"):
        extra = "OR" if outer[first] == "OR" else extra
        first += 1
    path, index = read_path(tokens, first)
    if not path:
        raise NotSupported("this form of the statement is not supported")
    alias, index = _alias(tokens, outer, index, path[-1])
    parts = _Parts(sql, tokens, outer, index)
    common = parts.text(0, verb_at)
    if common and not common.upper().startswith("WITH"):
        raise NotSupported("this form of the statement is not supported")
    before = parts.text(0, first)
    read = {"INSERT": _insert, "MERGE": _merge}.get(outer[verb_at], _where)
    found = read(parts, outer[verb_at])
    after = _without_schema(parts.text(index, len(tokens)), target, alias)
    every_file = found.pop("every_file", False) or any(token.word in _VOLATILE for token in tokens)
    for name in ("source", "condition"):
        if name in found:
            found[name] = _without_schema(found[name], target, alias)
    return ChangeText(
        outer[verb_at],
        before,
        common,
        alias,
        after,
        every_file=every_file,
        extra=found.pop("extra", extra),
        **found,
    )


class _Parts:
    """A text with its tokens, from the first after the target on."""

    def __init__(self, sql: str, tokens: Sequence[Token], outer: Sequence[str], first: int) -> None:
        self.raw = sql.encode()
        self.tokens = tokens
        self.outer = outer
        self.first = first

    def text(self, first: int, end: int) -> str:
        """The text of the tokens from ``first`` up to, but without, ``end``."""
        if first >= end:
            return ""
        return self.raw[self.tokens[first].start : self.tokens[end - 1].end].decode()

    def find(self, *names: str, after: int | None = None) -> int:
        """The first token at or after a place that is one of these words outside brackets, else the end."""
        start = self.first if after is None else after
        for index in range(start, len(self.tokens)):
            is_comparison = self.outer[index] == "FROM" and self.outer[index - 1] == "DISTINCT"
            if self.outer[index] in names and not is_comparison:
                return index
        return len(self.tokens)

    def has(self, name: str) -> bool:
        return self.find(name) < len(self.tokens)


def _alias(tokens: Sequence[Token], outer: Sequence[str], index: int, name: str) -> tuple[str, int]:
    if index < len(tokens) and outer[index] == "AS" and index + 1 < len(tokens):
        return quote(tokens[index + 1].name), index + 2
    if index < len(tokens) and tokens[index].kind == "name" and tokens[index].word not in _AFTER_TARGET:
        return quote(tokens[index].name), index + 1
    return quote(name), index


def _without_schema(text: str, target: TableName, alias: str) -> str:
    """The text with columns of the target written without its catalog and schema."""
    if not text:
        return text
    places = qualifiers(text, target.catalog, target.schema, target.table)
    return Edited(text, [(start, end, alias) for start, end in places]).text


def _insert(parts: _Parts, _: str) -> dict[str, Any]:
    index, tokens = parts.first, parts.tokens
    found: dict[str, Any] = {}
    if index < len(tokens) and tokens[index].text == "(" and _opens_columns(tokens, index):
        closing = closing_bracket(tokens, index)
        found["columns"] = tuple(t.name for t in tokens[index + 1 : closing] if t.text != ",")
        index = closing + 1
    if parts.outer[index : index + 2] == ["BY", "NAME"]:
        found["by_name"], index = True, index + 2
    elif parts.outer[index : index + 2] == ["BY", "POSITION"]:
        index += 2
    returning = parts.find("RETURNING", after=index)
    conflict = parts.find("CONFLICT", after=index)
    end = min(returning, conflict - 1 if conflict < len(tokens) else len(tokens))
    found |= {"source": parts.text(index, end), "returning": returning < len(tokens)}
    if conflict < len(tokens):
        found["extra"] = "ON CONFLICT"
    return found


def _opens_columns(tokens: Sequence[Token], index: int) -> bool:
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    if following is None or following.text == "(" or following.word in _QUERY_WORDS:
        return False
    return following.kind == "name"


def _where(parts: _Parts, verb: str) -> dict[str, Any]:
    """UPDATE, DELETE and TRUNCATE."""
    end = len(parts.tokens)
    returning = parts.find("RETURNING")
    where = min(parts.find("WHERE"), returning)
    source = min(parts.find("FROM" if verb == "UPDATE" else "USING"), where)
    return {
        "source": parts.text(source + 1, where) if source < where else "",
        "condition": parts.text(where + 1, returning) if where < returning else "",
        "returning": returning < end,
        "every_file": where == returning and source == where,
    }


def _merge(parts: _Parts, _: str) -> dict[str, Any]:
    outer, end = parts.outer, len(parts.tokens)
    using = parts.find("USING")
    whens = [i for i in range(using, end) if outer[i] == "WHEN" and "MATCHED" in outer[i + 1 : i + 3]]
    if not whens:
        raise NotSupported("this form of MERGE is not supported")
    first = whens[0]
    joins = [i for i in range(using + 1, first) if outer[i] in ("ON", "USING")]
    if not joins:
        raise NotSupported("this form of MERGE is not supported")
    condition = joins[-1]
    kinds = [tuple(outer[i + 1 : i + 5]) for i in whens]
    by_source = any(kind[:2] == ("NOT", "MATCHED") and kind[2:4] == ("BY", "SOURCE") for kind in kinds)
    return {
        "source": parts.text(using + 1, condition),
        "condition": parts.text(condition, first),
        "returning": parts.has("RETURNING"),
        "every_file": by_source,
        "inserts_only": all(kind[:2] == ("NOT", "MATCHED") for kind in kinds) and not by_source,
    }
