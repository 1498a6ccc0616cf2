"""Rows of PostgreSQL that are new by the value of one column, as a source that is read again and again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.incremental import At, Incremental, SyncAccount
from lakehouse.ingest.sources.postgres.catalogue import PgColumn, Relation
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.fetching import Reading
from lakehouse.ingest.sources.postgres.snapshot import Cancelled
from lakehouse.ingest.sources.postgres.source import PostgresSource, Query
from lakehouse.ingest.sources.source import Progress, Source

_VALUE, _TYPE = "watermark", "type"
_MOST_CHARACTERS = 1000
_LEAST = -(2**63)
_NUMBER = re.compile(r"\d{1,18}")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a watermark can be.

    Attributes:
        name: The type of the database that values are compared as.
        ahead: Which values of the column ``{0}`` are not reached yet.
        overlap: What is earlier than ``{0}`` by ``{1}``; empty where that cannot be said.
    """

    name: str
    ahead: str = ""
    overlap: str = ""

    def of(self, text: str) -> str:
        """A value as SQL has it."""
        collation = ' COLLATE "C"' if self.name == "text" else ""
        return f"({_literal(text)}::{self.name}{collation})"


_INTEGER = _Kind("int8", overlap="{0} - {1}")
_TEXT = _Kind("text")
_INFINITE = "({0} IN ('infinity', '-infinity'))"
# A row of the future must not have those left out that come before it.
_TO_COME = "({0} > statement_timestamp() OR {0} = '-infinity')"
_KINDS = {
    20: _INTEGER,
    21: _INTEGER,
    23: _INTEGER,
    25: _TEXT,
    1043: _TEXT,
    1082: _Kind("date", _INFINITE, "({0} - {1})::date"),
    1114: _Kind("timestamp", _INFINITE, "({0} - {1})"),
    1184: _Kind("timestamptz", _TO_COME, "({0} - {1})"),
}


class NewRows(Incremental):
    """The rows of a table, view or query whose watermark is at or above the last one that was read.

    Those that were read before come again and are known by their values or their key.

    Args:
        dsn: The database.
        wanted: What to read.
        column: The column that only grows, from row to row.
        overlap: How much below the last watermark rows may still have come; empty for nothing.
        database: What the database is called; host, port and name where that is empty.
        reading: How to read.
    """

    system = "postgresql"

    def __init__(
        self,
        dsn: Dsn,
        wanted: Relation | Query,
        column: str,
        overlap: str = "",
        database: str = "",
        reading: Reading | None = None,
    ) -> None:
        self._new_source: Callable[[], PostgresSource] = lambda: PostgresSource(dsn, wanted, reading)
        self._overlap = overlap.strip()
        what = wanted.sql if isinstance(wanted, Query) else str(wanted)
        hashed = hashlib.sha256(what.encode()).hexdigest()[:16]
        shown = f"query {hashed}" if isinstance(wanted, Query) else what
        where = database or str(dsn)
        self.described = self._new_source().described
        self.name = f"{where} {shown}"
        self.definition: Mapping[str, str] = {"database": where, "reads": shown, "watermark": column}
        self.account = SyncAccount(name=self.name)
        self.again = column
        self._reached: At = {}

    def _look(self, since: At | None, cancelled: Cancelled, progress: Progress) -> Source | None:
        source = self._new_source()
        try:
            return source if self._is_narrowed(source, since, cancelled, progress) else None
        except BaseException:
            source.close()
            raise

    def reached(self, table: str, run: str) -> At:
        """See ``Incremental``."""
        return self._reached

    def _is_narrowed(
        self, source: PostgresSource, since: At | None, cancelled: Cancelled, progress: Progress
    ) -> bool:
        """Have a source give only rows that may be new; gives whether there can be any."""
        column, value = source.column(self.again, cancelled)
        kind = self._kind(column, since)
        if kind is _TEXT:
            # Other collations may take different texts for the same, and change with the database's version.
            value = f'({value} COLLATE "C")'
        self._check_overlap(source, kind, cancelled)
        ahead = kind.ahead.format(value) or "false"
        progress(None, f"looking for the last value of {column.name}")
        (last,) = source.ask(f"max({value})::text", f"{value} IS NOT NULL AND NOT {ahead}", cancelled)
        (without,) = source.ask("count(*)", f"{value} IS NULL", cancelled)
        (later,) = source.ask("count(*)", ahead, cancelled) if kind.ahead else (0,)
        before = since[_VALUE] if since is not None else ""
        if last is not None and len(last) > _MOST_CHARACTERS:
            raise InvalidRequest(
                f"a value of the watermark '{column.name}' has {len(last)} characters",
                f"{_MOST_CHARACTERS} are the most",
            )
        if last is not None and since is not None:
            # What was read may be gone: the watermark does not go back for that.
            sql = f"GREATEST({kind.of(last)}, {kind.of(before)})::text"
            (reached,) = source.ask(sql, "", cancelled, rows=False)
        else:
            reached = before if last is None else last
        self.account = self.account.model_copy(
            update={
                "watermark": reached,
                "watermark_before": before,
                "rows_without_watermark": without,
                "rows_ahead": later,
            }
        )
        if last is None:
            return False
        self._reached = {_VALUE: reached, _TYPE: kind.name}
        lower = "" if since is None else f" AND {value} >= {self._lower(kind, before)}"
        source.narrow(f"{value} <= {kind.of(last)} AND NOT {ahead}{lower}", is_few=since is not None)
        return True

    def _kind(self, column: PgColumn, since: At | None) -> _Kind:
        kind = _KINDS.get(column.oid)
        if kind is None:
            raise InvalidRequest(
                f"column '{column.name}' cannot be a watermark: it is none of integer, date, timestamp, "
                "timestamptz and text",
                "cast it in a query",
            )
        if since is not None and since[_TYPE] != kind.name:
            raise InvalidRequest(
                f"the watermark '{column.name}' is of type {kind.name}, and was of type {since[_TYPE]}",
                "with reset = true everything comes again",
            )
        return kind

    def _check_overlap(self, source: PostgresSource, kind: _Kind, cancelled: Cancelled) -> None:
        """Refuse an overlap that cannot be.

        Raises:
            InvalidRequest: It says no length, or the watermark has none.
        """
        if not self._overlap:
            return
        if not kind.overlap:
            raise InvalidRequest(f"there is no overlap for a watermark of type {kind.name}", "leave it out")
        if kind is _INTEGER:
            is_length = bool(_NUMBER.fullmatch(self._overlap))
        else:
            condition = f"{_literal(self._overlap)}::interval >= '0'"
            (is_length,) = source.ask(condition, "", cancelled, rows=False)
        if not is_length:
            expected = "a number" if kind is _INTEGER else "a length of time like '10 minutes'"
            raise InvalidRequest(f"expected an overlap that is {expected}, found '{self._overlap}'")

    def _lower(self, kind: _Kind, before: str) -> str:
        """From where on rows may be new."""
        if not self._overlap:
            return kind.of(before)
        if kind is _INTEGER:
            return kind.of(str(max(int(before) - int(self._overlap), _LEAST)))
        return kind.overlap.format(kind.of(before), f"{_literal(self._overlap)}::interval")


def _literal(text: str) -> str:
    """A text as SQL has it, whatever the settings of the server."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
