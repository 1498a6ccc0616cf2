"""The SQL of ingests: what is done with rows that came into a temporary table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lakehouse.catalog.names import fold
from lakehouse.types import TableName, quote

INCOMING = "incoming_rows"
FRESH = "fresh_rows"
_NUMBER = quote("~number")


def upsert(target: TableName, source: str, keys: Sequence[str], names: Sequence[str]) -> str:
    """The statement that brings the rows of a temporary table into a table, by a key."""
    columns = ", ".join(map(quote, names))
    same = " AND ".join(f"t.{quote(key)} = i.{quote(key)}" for key in keys)
    others = [name for name in names if fold(name) not in set(map(fold, keys))]
    changed = ", ".join(f"{quote(name)} = i.{quote(name)}" for name in others)
    update = f"WHEN MATCHED THEN UPDATE SET {changed} " if others else ""
    values = ", ".join(f"i.{quote(name)}" for name in names)
    return (
        f"MERGE INTO {target.sql} AS t USING {quote(source)} AS i ON ({same}) {update}"
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
    )


def insert(target: TableName, source: str, names: Sequence[str]) -> str:
    """The statement that adds the rows of a temporary table to a table."""
    columns = ", ".join(map(quote, names))
    return f"INSERT INTO {target.sql} ({columns}) SELECT {columns} FROM {quote(source)}"


def ambiguous(keys: Sequence[str]) -> str:
    """The query for a key of the incoming rows that comes twice, or without a value."""
    columns = ", ".join(map(quote, keys))
    missing = " OR ".join(f"{quote(key)} IS NULL" for key in keys)
    return (
        f"SELECT {columns}, count(*) FROM {quote(INCOMING)} GROUP BY ALL "
        f"HAVING count(*) > 1 OR {missing} LIMIT 1"
    )


def span(column: str) -> str:
    """The query for the least and the greatest value of a column of the incoming rows, as texts."""
    value = quote(column)
    ends = f"CAST(min({value}) AS VARCHAR) AS low, CAST(max({value}) AS VARCHAR) AS high"
    return f"SELECT {ends} FROM {quote(INCOMING)}"


def fresh(
    target: TableName, types: Mapping[str, str], told_by: Sequence[str], column: str, low: str, high: str
) -> str:
    """The statement that makes a temporary table of those incoming rows that are not in a table yet.

    A row that comes more often than it is there is there as often as it comes more.

    Args:
        target: The table.
        types: The columns that come, with the types that the table has them in.
        told_by: Those of them by whose values a row is known again.
        column: One of these.
        low: Its least value.
        high: Its greatest value.
    """
    partition = ", ".join(map(quote, told_by))
    number = f"row_number() OVER (PARTITION BY {partition}) AS {_NUMBER}"
    coming = ", ".join(f"CAST({quote(name)} AS {kind}) AS {quote(name)}" for name, kind in types.items())
    same = " AND ".join(f"t.{quote(name)} IS NOT DISTINCT FROM i.{quote(name)}" for name in told_by)
    bound = [f"CAST('{_escaped(value)}' AS {types[column]})" for value in (low, high)]
    return (
        f"CREATE OR REPLACE TEMP TABLE {quote(FRESH)} AS SELECT {', '.join(f'i.{quote(n)}' for n in types)} "
        f"FROM (SELECT *, {number} FROM (SELECT {coming} FROM {quote(INCOMING)})) AS i "
        f"ANTI JOIN (SELECT {partition}, {number} FROM {target.sql} "
        f"WHERE {quote(column)} BETWEEN {bound[0]} AND {bound[1]}) AS t "
        f"ON (t.{_NUMBER} = i.{_NUMBER} AND {same})"
    )


def _escaped(text: str) -> str:
    return text.replace("'", "''")
