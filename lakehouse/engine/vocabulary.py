"""The words of the SQL dialect: its keywords, and the functions that statements may call, by subject."""

from __future__ import annotations

import re
from dataclasses import dataclass

import duckdb

from lakehouse.engine.gate import check_function
from lakehouse.errors import StatementForbidden

_NUMBERS = frozenset(
    "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT FLOAT DOUBLE "
    "DECIMAL BIGNUM".split()
)
_TEMPORAL = re.compile(r"(DATE|TIME|TIMESTAMP|INTERVAL)\b.*|TIMESTAMP_.*|TIMESTAMPTZ_.*|TIME_NS")
_STRING_CATEGORIES = frozenset({"string", "regex", "text_similarity"})
_PLAIN_NAME = re.compile(r"(?!icu_|collate_)[a-z][a-z0-9_]*")
# Macros have no parameter types to tell their subject by.
_NUMERIC_MACROS = frozenset("fmod fdiv geomean geometric_mean".split())
_STRING_MACROS = frozenset("split_part array_to_string md5_number_lower md5_number_upper".split())
_DATETIME_MACROS = frozenset("ago date_add days_in_month".split())
_SYSTEM = frozenset(
    "current_catalog current_connection_id current_database current_query_id current_role current_schema "
    "current_schemas current_transaction_id current_user if nullif pg_typeof session_user txid_current "
    "typeof user version".split()
)
# Per name: whether it is a macro, the types of each overload, all categories.
_FUNCTIONS_SQL = """
SELECT lower(function_name), bool_or(function_type = 'macro'),
       list(list_append(list_transform(parameter_types, lambda t: coalesce(t, '')),
                        coalesce(return_type, ''))),
       flatten(list(coalesce(categories, [])))
FROM duckdb_functions() WHERE function_type IN ('scalar', 'macro') AND database_name = 'system'
GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Sorted lower-case words."""

    keywords: tuple[str, ...]
    numeric: tuple[str, ...]
    string: tuple[str, ...]
    system: tuple[str, ...]
    datetime: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Function:
    """A function with its categories and, for each overload, the types of its parameters and its result."""

    name: str
    is_macro: bool
    overloads: tuple[tuple[str, ...], ...]
    categories: frozenset[str]

    def is_numeric(self) -> bool:
        """Whether it makes numbers of numbers."""
        if self.is_macro:
            return self.name in _NUMERIC_MACROS
        return self.name not in _SYSTEM and all(_NUMBERS.issuperset(types) for types in self.overloads)

    def is_string(self) -> bool:
        """Whether it works on text."""
        return self.name in _STRING_MACROS if self.is_macro else bool(_STRING_CATEGORIES & self.categories)

    def is_datetime(self) -> bool:
        """Whether it always has to do with dates, times or intervals."""
        if self.is_macro:
            return self.name in _DATETIME_MACROS
        return all(any(_TEMPORAL.fullmatch(kind) for kind in types) for types in self.overloads)


def read_vocabulary(connection: duckdb.DuckDBPyConnection) -> Vocabulary:
    """What DuckDB knows, without the functions that the statement gate forbids."""
    keywords = connection.execute("SELECT DISTINCT keyword_name FROM duckdb_keywords() ORDER BY 1").fetchall()
    functions = _functions(connection)
    return Vocabulary(
        tuple(str(word) for (word,) in keywords),
        tuple(function.name for function in functions if function.is_numeric()),
        tuple(function.name for function in functions if function.is_string()),
        tuple(function.name for function in functions if function.name in _SYSTEM),
        tuple(function.name for function in functions if function.is_datetime()),
    )


def _functions(connection: duckdb.DuckDBPyConnection) -> list[_Function]:
    rows = connection.execute(_FUNCTIONS_SQL).fetchall()
    return [
        _Function(name, macro, tuple(map(tuple, overloads)), frozenset(categories))
        for name, macro, overloads, categories in rows
        if _PLAIN_NAME.fullmatch(name) and _allowed(name)
    ]


def _allowed(name: str) -> bool:
    try:
        check_function(name)
    except StatementForbidden:
        return False
    return True
