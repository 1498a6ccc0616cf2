"""What a statement does to single rows of a table with a primary key, for the event journal.

The statement runs on a shadow of the table (see ``dml``). Before, the rows that it may change are copied
aside; afterwards DuckDB compares them with what the shadow then holds. Values leave DuckDB only of rows that
did change, no more than are recorded, and none at any length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import structlog

from lakehouse.catalog import Table
from lakehouse.engine.dml_text import ChangeText, values_for
from lakehouse.journal.change_event import TRUNCATED, ChangeEvent, current_origin
from lakehouse.types import quote

_BEFORE = 'temp.main."~before"'
_MOST_CHARACTERS = 4096
# So many rows are copied where it cannot be told which of them a statement may change.
_MOST_COPIED = 1_000_000
_FIXED = frozenset(
    "BOOLEAN TINYINT SMALLINT INTEGER BIGINT UTINYINT USMALLINT UINTEGER UBIGINT FLOAT DOUBLE DECIMAL DATE "
    " TIME TIMESTAMP TIMESTAMP_S TIMESTAMP_MS UUID INTERVAL".split()
)

Row = dict[str, Any]
_log = structlog.get_logger()


@dataclass
class RowChanges:
    """One statement's changes of the rows of a table.

    Args:
        table: The table, with a primary key.
        shadow: What stands in for it.
        limit: How many changed rows are recorded.
        in_transaction: Whether a query that fails would end a transaction of DuckDB's own.
    """

    table: Table
    shadow: str
    limit: int
    in_transaction: bool = False
    columns: tuple[tuple[str, str], ...] = field(init=False)
    _first_new: int = 0
    _is_copied: bool = False
    _is_cut: bool = False

    def __post_init__(self) -> None:
        self.columns = self.table.sql_columns()
        names, row = {name.lower() for name, _ in self.columns}, "~n"
        while row in names:
            row += "~"
        self._row_name, self._row = row, quote(row)

    def prepare(
        self,
        connection: duckdb.DuckDBPyConnection,
        text: ChangeText,
        values: Sequence[Mapping[str, Any]] | None,
        first_new: int,
    ) -> None:
        """Put aside the rows that a statement may change.

        Args:
            connection: Where the shadow is.
            text: The statement.
            values: The rows of its parameters.
            first_new: The row id from which on those rows are that the statement adds to the shadow.
        """
        self._first_new = first_new
        try:
            self._is_copied = self._copy(connection, text, values)
        except duckdb.InterruptException:
            raise
        except duckdb.Error:
            # What the statement itself is wrong about, it will say.
            _log.info("row_changes_not_found", table=str(self.table.name), exc_info=True)

    def _copy(
        self,
        connection: duckdb.DuckDBPyConnection,
        text: ChangeText,
        values: Sequence[Mapping[str, Any]] | None,
    ) -> bool:
        """Put the rows aside; gives whether these are all that can change, up to the limit."""
        rows = f"SELECT rowid AS {self._row}, * FROM {self.shadow}"
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {_BEFORE} AS {rows} LIMIT 0").fetchall()
        if text.inserts_only:
            return True
        copied, count = f"INSERT INTO {_BEFORE} {rows}", 0
        is_each = text.verb == "UPDATE" and not (text.source or text.condition)
        if is_each:
            count = connection.execute(f"{copied} LIMIT {self.limit + 1}").fetchall()[0][0]
        elif not (text.every_file or self.in_transaction) and len(values or ()) <= 1:
            found = text.finding(rows, self._row_name)
            some = f"SELECT * FROM ({found}) ORDER BY 1 LIMIT {self.limit + 1}"
            given = values_for(found, values[0]) if values else None
            count = connection.execute(f"{copied} WHERE rowid IN ({some})", given).fetchall()[0][0]
        else:
            there = connection.execute(f"SELECT count(*) FROM {self.shadow}").fetchall()[0][0]
            if there > _MOST_COPIED:
                return False
            connection.execute(copied).fetchall()
        self._is_cut = count > self.limit
        return True

    def events(
        self, connection: duckdb.DuckDBPyConnection, text: ChangeText, count: int
    ) -> tuple[ChangeEvent, ...]:
        """What became of the rows that were put aside, and which came.

        Args:
            connection: Where the shadow is.
            text: The statement, which has run on the shadow.
            count: How many rows it says that it changed.
        """
        changed: list[Row] = []
        added: list[Row] = []
        try:
            if self._is_copied:
                changed = self._changed(connection)
                if text.verb != "DELETE":
                    where = f"FROM {self.shadow} AS s WHERE s.rowid >= {self._first_new}"
                    added = self._selected(connection, where, ("s",))
        except duckdb.InterruptException:
            raise
        except (duckdb.Error, pa.ArrowException, ValueError):
            _log.exception("row_changes_not_recorded", table=str(self.table.name))
            changed, added, self._is_copied = [], [], False
        self._is_cut |= not self._is_copied
        return self._told(_paired(changed, added, self.table.primary_key), count)

    def forget(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let go of the rows that were put aside."""
        with suppress(duckdb.Error):
            connection.execute(f"DROP TABLE IF EXISTS {_BEFORE}").fetchall()

    def removed(
        self, connection: duckdb.DuckDBPyConnection, body: str, count: int
    ) -> tuple[ChangeEvent, ...]:
        """The events of all rows going at once.

        Args:
            connection: Reads the rows.
            body: A query for them.
            count: How many there are.
        """
        rows = self._selected(connection, f"FROM ({body}) AS s", ("s",))
        return self._told([(row["s"], None) for row in rows], count)

    def _changed(self, connection: duckdb.DuckDBPyConnection) -> list[Row]:
        different = " OR ".join(
            f"b.{quote(name)} IS DISTINCT FROM s.{quote(name)}" for name, _ in self.columns
        )
        where = (
            f"FROM {_BEFORE} AS b LEFT JOIN (SELECT rowid AS {self._row}, * FROM {self.shadow}) AS s "
            f"ON b.{self._row} = s.{self._row} "
            f"WHERE s.{self._row} IS NULL OR {different} ORDER BY b.{self._row}"
        )
        return self._selected(connection, where, ("b", "s"))

    def _selected(self, connection: duckdb.DuckDBPyConnection, where: str, sides: Sequence[str]) -> list[Row]:
        """The rows of a query, by side and column; of two sides with the columns that differ."""
        parts: list[str] = []
        for number, (name, kind) in enumerate(self.columns):
            for side in sides:
                value, length = _bounded(f"{side}.{quote(name)}", kind)
                parts += [f'{value} AS "{side}{number}"', f'{length} AS "{side}{number}n"']
            if len(sides) > 1:
                parts.append(f'b.{quote(name)} IS DISTINCT FROM s.{quote(name)} AS "d{number}"')
        if len(sides) > 1:
            parts.append(f's.{self._row} IS NULL AS "gone"')
        sql = f"SELECT {', '.join(parts)} {where} LIMIT {self.limit + 1}"
        found = connection.sql(sql).to_arrow_table()
        return self._read(found, sides)

    def _read(self, found: pa.Table, sides: Sequence[str]) -> list[Row]:
        rows: list[Row] = [{side: {} for side in sides} for _ in range(len(found))]
        for number, (name, kind) in enumerate(self.columns):
            for side in sides:
                values = found[f"{side}{number}"].to_pylist()
                lengths = found[f"{side}{number}n"].to_pylist()
                for row, value, length in zip(rows, values, lengths, strict=True):
                    row[side][name] = _value(value, length, kind)
        if len(sides) > 1:
            gone = found["gone"].to_pylist()
            flags = [found[f"d{number}"].to_pylist() for number in range(len(self.columns))]
            for place, row in enumerate(rows):
                row["gone"] = gone[place]
                row["different"] = [
                    name for (name, _), flag in zip(self.columns, flags, strict=True) if flag[place]
                ]
        return rows

    def _told(self, changes: Iterable[tuple[Row | None, Row | None]], count: int) -> tuple[ChangeEvent, ...]:
        """The events of changes, each the row before and after; with what says so where not all are told."""
        key_columns, events = self.table.primary_key, list[ChangeEvent]()
        told, is_cut, origin = 0, self._is_cut, current_origin()
        for old, new in changes:
            if told == self.limit:
                is_cut = True
                break
            told += 1
            row = old if old is not None else new or {}
            key = {column: row.get(column) for column in key_columns}
            if old is None:
                events.append(ChangeEvent("insert", "", new=new, key=key, origin=origin))
            elif new is None:
                events.append(ChangeEvent("delete", "", old=old, key=key, origin=origin))
            else:
                events += [
                    ChangeEvent("update", "", "", name, old[name], new[name], key, origin=origin)
                    for name in new
                ]
        if is_cut and count > told:
            marker = {"rows_changed": count, "rows_recorded": told}
            detail = f"{told} of {count} rows are recorded; journal.max_row_changes is {self.limit}"
            events.append(ChangeEvent(TRUNCATED, "", new=marker, origin=origin, detail=detail))
        return tuple(events)


def _paired(
    changed: Sequence[Row], added: Sequence[Row], key: Sequence[str]
) -> Iterable[tuple[Row | None, Row | None]]:
    """Each changed row before and after. DuckDB may put the new version of a row at the end."""
    came: dict[str, list[Row]] = {}
    for row in added:
        came.setdefault(_key_text(row["s"], key), []).append(row["s"])
    for row in changed:
        old = row["b"]
        if not row["gone"]:
            yield old, {name: row["s"][name] for name in row["different"]}
            continue
        same = came.get(_key_text(old, key))
        if not same:
            yield old, None
        else:
            new = same.pop(0)
            yield old, {name: new[name] for name in new if new[name] != old[name]}
    for new in (row for rows in came.values() for row in rows):
        yield None, new


def _key_text(row: Row, key: Sequence[str]) -> str:
    return json.dumps([row[column] for column in key], default=str)


def _bounded(value: str, kind: str) -> tuple[str, str]:
    """SQL for a value as it is to be recorded, cut off where it is too long, and for its length if any."""
    name = re.split(r"[( ]", kind, maxsplit=1)[0]
    if name in _FIXED and not kind.endswith("]"):
        return value, "NULL"
    if name == "BLOB" and not kind.endswith("]"):
        return f"sha256({value})", f"octet_length({value})"
    text = value if kind == "VARCHAR" else f"CAST(to_json({value}) AS VARCHAR)"
    return f"left({text}, {_MOST_CHARACTERS})", f"length({text})"


def _value(value: Any, length: int | None, kind: str) -> Any:
    if value is None or length is None:
        return value
    if kind == "BLOB":
        return {"bytes": length, "sha256": value}
    if length > _MOST_CHARACTERS:
        return {"beginning": value, "characters": length}
    return value if kind == "VARCHAR" else json.loads(value)
