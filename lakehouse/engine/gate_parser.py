"""DuckDB's parser at work: texts in, trees as JSON out, with bounds on what it is given."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from lakehouse.engine.errors import duckdb_errors
from lakehouse.engine.gate_text import words
from lakehouse.errors import LimitExceeded, SqlSyntaxError

# Beyond it DuckDB's parser and the writer of its tree need more stack than a thread has, or hours.
MAX_NESTING = 200
"""How deeply brackets may be nested in a statement."""

_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_BRACKET = re.compile(r"[()\[\]{}]")
# Without these every quote begins or ends a string or a name, and what stands between is no bracket.
_SPECIAL = re.compile(r"[\\$]|--|/\*")
_QUOTES = re.compile(r"'[^']*'|\"[^\"]*\"")
_PREFIXES = frozenset({"DESCRIBE", "DESC", "SUMMARIZE", "SHOW", "EXPLAIN"})
_PREFIX = re.compile(r"\b(?:DESCRIBE|DESC|SUMMARIZE|SHOW|EXPLAIN)\b", re.IGNORECASE)
_PLACES = re.compile(r'"query_location(?:_length)?":\d+')
# Constants and columns in the tree of a big statement: nobody asks for them, and there may be 100,000.
_TEXT = r'"(?:[^"\\]|\\.)*"'
_LEAF = (
    r'\{"class":"(?:'
    rf'CONSTANT","type":"VALUE_CONSTANT"[^{{}}]*"literal":\{{"kind":"\w+","text":{_TEXT}\}}\}}'
    rf'|COLUMN_REF","type":"COLUMN_REF"[^{{}}\[\]]*"column_names":\[{_TEXT}(?:,{_TEXT})*\]\}})'
)
_SERIALISE = "SELECT json_serialize_sql($1::VARCHAR)"
_SERIALISE_BIG = f"SELECT regexp_replace(json_serialize_sql($1::VARCHAR)::VARCHAR, '{_LEAF}', '0', 'g')"
_BIG = 20_000
_PARSERS = 4
_BIG_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Parsed:
    """A statement that DuckDB gives the tree of: a query.

    ``shape`` is the tree's text without places: two texts of equal shape mean the same.
    """

    text: str
    tree: Any
    shape: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the statement's parameters."""
        return tuple(entry["key"] for entry in self.tree["named_param_map"])


class Parsers:
    """A few parsers, so that a statement that takes long does not hold up the others.

    Args:
        connection: The connection whose cursors parse.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._lock = threading.Lock()
        self._free = threading.Semaphore(_PARSERS)
        self._big = threading.Semaphore(_BIG_AT_ONCE)
        self._connection = connection
        self._idle: list[duckdb.DuckDBPyConnection] = []

    def reconnect(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Parse with cursors of another connection from now on."""
        with self._lock:
            self._connection = connection
            self._idle.clear()

    @contextmanager
    def _parser(self, size: int) -> Iterator[duckdb.DuckDBPyConnection]:
        if size > _BIG:
            with self._big, self._lease() as parser:
                yield parser
        else:
            with self._lease() as parser:
                yield parser

    @contextmanager
    def _lease(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._free:
            with self._lock:
                root = self._connection
                parser = self._idle.pop() if self._idle else root.cursor()
            try:
                yield parser
            finally:
                with self._lock:
                    if root is self._connection:
                        self._idle.append(parser)

    def query(self, text: str) -> Parsed | None:
        """The tree of a query; ``None`` for every other statement and for a text that does not parse.

        Raises:
            SqlSyntaxError: The text holds no statement or several, or is nested too deeply.
        """
        check_nesting(text)
        with self._parser(len(text)) as parser, duckdb_errors():
            row = parser.execute(_SERIALISE_BIG if len(text) > _BIG else _SERIALISE, [text]).fetchone()
        source = str(row[0]) if row else ""
        try:
            tree = json.loads(source)
        except RecursionError as error:
            raise SqlSyntaxError("the statement is nested too deeply") from error
        if tree.get("error"):
            return None
        check_single(len(tree["statements"]))
        return Parsed(text, tree["statements"][0], source)

    def kind(self, text: str) -> tuple[str, frozenset[str]]:
        """The kind of a statement as DuckDB calls it, and the names of its parameters.

        Raises:
            SqlSyntaxError: The text does not parse, or holds no statement or several.
        """
        check_nesting(text)
        with self._parser(len(text)) as parser, duckdb_errors():
            statements = parser.extract_statements(text)
        check_single(len(statements))
        try:
            kind = statements[0].type.name
        except ValueError:
            kind = "UNKNOWN"  # DuckDB has kinds that its Python package has no name for
        return kind, frozenset(statements[0].named_parameters)


def same_shape(one: Parsed, other: Parsed) -> bool:
    """Whether two texts mean the same: their trees differ in places only."""
    return _PLACES.sub("", one.shape) == _PLACES.sub("", other.shape)


def check_single(found: int) -> None:
    """Refuse what is not one statement.

    Raises:
        SqlSyntaxError: There is none, or there are several.
    """
    if found != 1:
        what = "the text is empty" if not found else f"the text holds {found}"
        raise SqlSyntaxError(f"expected one SQL statement, but {what}", "send statements one at a time")


def check_size(text: str, max_bytes: int) -> None:
    """Refuse a text that is longer than allowed; 0 allows every length.

    Raises:
        LimitExceeded: It is longer.
    """
    if max_bytes and (len(text) > max_bytes or len(text.encode()) > max_bytes):
        raise LimitExceeded(f"the statement is longer than {max_bytes} bytes", "limits.statement_bytes")


def check_nesting(text: str) -> None:
    """Refuse a text so deeply nested that the parser could exhaust its stack or take for ever.

    Raises:
        SqlSyntaxError: Brackets, or DESCRIBE and its like, are nested too deeply.
    """
    if len(text) <= MAX_NESTING:
        return
    opening = text.count("(") + text.count("[") + text.count("{")
    is_flat = opening <= MAX_NESTING or (
        _SPECIAL.search(text) is None and _depth(_QUOTES.sub("", text)) <= MAX_NESTING
    )
    if is_flat and sum(1 for _ in _PREFIX.finditer(text)) <= MAX_NESTING:
        return
    depth = run = 0
    for token in words(text):
        depth += _BRACKETS.get(token.text, 0)
        run = run + 1 if token.word in _PREFIXES else 0
        if depth > MAX_NESTING or run > MAX_NESTING:
            raise SqlSyntaxError(
                "the statement is nested too deeply", f"the limit is {MAX_NESTING} levels of brackets"
            )


def _depth(text: str) -> int:
    """How deeply brackets are nested in a text without quotes."""
    depth = deepest = 0
    for match in _BRACKET.finditer(text):
        depth += _BRACKETS[match[0]]
        deepest = max(deepest, depth)
    return deepest
