"""A table, view or query of a PostgreSQL database as a source of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa

from lakehouse.errors import InvalidRequest, LakehouseError, StorageError
from lakehouse.ingest.sources.disproof import verified
from lakehouse.ingest.sources.postgres import catalogue, measuring
from lakehouse.ingest.sources.postgres.catalogue import Description, Leaf, PgColumn, Relation
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.failures import Dropped
from lakehouse.ingest.sources.postgres.fetching import Fetch, Reading
from lakehouse.ingest.sources.postgres.mapping import Server, Types
from lakehouse.ingest.sources.postgres.naming import distinct
from lakehouse.ingest.sources.postgres.plan import Plan, Planned, definition, planned_columns, value_of
from lakehouse.ingest.sources.postgres.redaction import redacted
from lakehouse.ingest.sources.postgres.resuming import Read, unchanged
from lakehouse.ingest.sources.postgres.sessions import WireSession, can_trust
from lakehouse.ingest.sources.postgres.snapshot import Cancelled, Snapshot, pause
from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress, SourceColumn
from lakehouse.types import quote

T = TypeVar("T")

_TID_RANGES = 140000
# To look at fewer rows before they come takes next to no time.
_MANY_ROWS = 50_000
# No row of a block has a higher number.
_LAST_OFFSET = 65_535
_BLOCK_BYTES, _FIELD_BYTES = 8192, 4
_SHARE, _LEAST_BLOCKS = 0.8, 64
_BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT whose rows are wanted."""

    sql: str

    def __str__(self) -> str:
        return "the query"


@dataclass(slots=True)
class _Known:
    """What was looked up under one snapshot."""

    key: str
    description: Description
    types: Types
    proven: dict[str, pa.DataType] = field(default_factory=dict)
    trusted: set[str] = field(default_factory=set)


class PostgresSource:
    """Rows of one table, view or query, as of one moment.

    The moment is that of the first look at it; from then on until ``close`` the table can be changed by
    others, but neither altered nor dropped.
    """

    system = "postgresql"
    comes_once = False

    def __init__(
        self,
        dsn: Dsn,
        wanted: Relation | Query,
        reading: Reading | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        """Describe a source; nothing is connected to yet.

        Args:
            dsn: The database.
            wanted: What to read.
            reading: How to read.
            snapshot: An open one that others read from too, and that somebody else closes.
        """
        if isinstance(wanted, Query):
            wanted = Query(wanted.sql.strip().rstrip(";").strip())
        self._dsn = dsn
        self._wanted = wanted
        self._reading = reading or Reading()
        self._snapshot = snapshot or Snapshot(dsn)
        self._shared = snapshot is not None
        self._known: _Known | None = None
        self._condition = ""
        self._is_few = False
        self._trusts = self._reading.trust and self._reading.scan and can_trust(self._reading.opener)

    @property
    def relation(self) -> Relation | None:
        """The table or view; None for a query."""
        return self._wanted if isinstance(self._wanted, Relation) else None

    @property
    def described(self) -> str:
        """Host, database, and the table or the query without the texts in it."""
        shown = redacted(self._wanted.sql) if isinstance(self._wanted, Query) else str(self._wanted)
        return f"{self._dsn} {self._dsn.scrub(shown)}"

    def __repr__(self) -> str:
        return f"PostgresSource({self.described!r})"

    def inspect(self, cancelled: Cancelled, progress: Progress) -> Inspection:
        """Which columns there are, and of which types.

        Raises:
            InvalidRequest, StorageError, StatementTimeout: It cannot be read; the message says why.
            StatementCancelled: ``cancelled`` said so.
        """
        return _plainly(lambda: self._inspect(cancelled, progress))

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Cancelled,
        progress: Progress,
        position: str | None = None,
    ) -> Iterator[Piece]:
        """The rows, once. Connections that are lost are made again, and reading goes on where it was.

        Raises:
            InvalidRequest: A row does not fit, and ``on_error`` says fail.
            SchemaMismatch: It is not what was inspected.
            Disproved: A value is not finite that was trusted to be.
            StorageError: The server is gone, or came back with other rows: start from the beginning.
            StatementTimeout: The server ended it.
            StatementCancelled: ``cancelled`` said so.
        """
        at = Read.parse(position) if position is not None else Read()
        _plainly(lambda: self._begin(at, position is not None, cancelled))

        def everything() -> Inspection:
            self._trusts = False
            return self.inspect(cancelled, progress)

        pieces = self._passes(inspection, on_error, cancelled, progress, at)
        yield from verified(pieces, inspection, everything)

    def _passes(
        self, inspection: Inspection, on_error: OnError, cancelled: Cancelled, progress: Progress, at: Read
    ) -> Iterator[Piece]:
        """The rows, by as many connections as it takes, one after the other."""
        tries, since = 0, time.monotonic()
        while True:
            before = at.rows
            try:
                yield from self._pass(inspection, on_error, cancelled, progress, at)
            except Dropped as dropped:
                failure = dropped.error
            else:
                return
            if at.rows > before:
                tries, since = 0, time.monotonic()
            if at.rows and at.place is None:
                raise StorageError(
                    f"{failure.message}; rows of {self._wanted} have no places to go on after",
                    "start again from the beginning",
                )
            while True:
                if time.monotonic() - since > self._reading.retry_seconds:
                    raise failure
                pause(_BACK_OFF_S[min(tries, len(_BACK_OFF_S) - 1)], cancelled)
                tries += 1
                progress(None, f"connecting again to PostgreSQL at {self._dsn.where}")
                try:
                    self._begin(at, True, cancelled)
                    break
                except Dropped as dropped:
                    failure = dropped.error

    def column(self, name: str, cancelled: Cancelled) -> tuple[PgColumn, str]:
        """A column, and what stands for its values in SQL.

        Raises:
            InvalidRequest: There is no such column.
        """
        columns = _plainly(lambda: self._look(cancelled)).description.columns
        for column, called in zip(columns, self._names(columns), strict=True):
            if column.name == name:
                return column, value_of(called)
        known = ", ".join(f"'{column.name}'" for column in columns)
        raise InvalidRequest(f"{self._wanted} has no column '{name}'", f"its columns are {known}")

    def ask(self, items: str, condition: str, cancelled: Cancelled, *, rows: bool = True) -> tuple[Any, ...]:
        """The only row of a query about the rows of the source, or with ``rows = False`` about no rows."""
        known = _plainly(lambda: self._look(cancelled))
        source = f" FROM {self._from(known.description.columns)} WHERE {condition}" if rows else ""
        sql = f"SELECT {items}{source}"
        return _plainly(lambda: self._snapshot.query(sql, (), str(self._wanted), cancelled))[0]

    def narrow(self, condition: str, *, is_few: bool) -> None:
        """Give only rows that fulfil a condition; where they are few, by whatever index there is."""
        self._condition, self._is_few = condition, is_few

    def close(self) -> None:
        """Let go of the connection, and so of the moment and the locks."""
        if not self._shared:
            self._snapshot.close()

    def _hold(self, cancelled: Cancelled) -> None:
        if not self._snapshot.is_open:
            locked = [(self._wanted.schema, self._wanted.name)] if isinstance(self._wanted, Relation) else []
            self._snapshot.open(locked, cancelled)

    def _look(self, cancelled: Cancelled) -> _Known:
        """What is known of it under the snapshot."""
        self._hold(cancelled)
        if self._known is None or self._known.key != self._snapshot.key:
            if isinstance(self._wanted, Relation):
                description = catalogue.described(self._snapshot, self._wanted, cancelled)
            else:
                columns = self._snapshot.describe(self._wanted.sql, cancelled)
                if not columns:
                    raise InvalidRequest("the query gives no columns, expected a SELECT")
                description = Description("query", tuple(PgColumn(*column) for column in columns))
                description = replace(description, rows=self._estimate(cancelled))
            known = catalogue.types(self._snapshot, {c.oid for c in description.columns}, cancelled)
            self._known = _Known(self._snapshot.key, description, Types(known, self._server(cancelled)))
        return self._known

    def _server(self, cancelled: Cancelled) -> Server:
        ((scale,),) = self._snapshot.query("SELECT scale('0'::money::numeric)", (), "the database", cancelled)
        is_wire = self._reading.opener in (None, WireSession) and self._snapshot.is_bare
        return Server(self._snapshot.version, int(scale), sends_numbers=is_wire)

    def _estimate(self, cancelled: Cancelled) -> int:
        explain = f"EXPLAIN (FORMAT JSON) SELECT * FROM {self._from(())}"
        ((plan,),) = self._snapshot.query(explain, (), "the query", cancelled)
        return int(plan[0]["Plan"]["Plan Rows"])

    def _from(self, columns: Sequence[PgColumn]) -> str:
        if isinstance(self._wanted, Relation):
            return f"{self._wanted.sql} AS t"
        names = ", ".join(quote(name) for name in self._names(columns))
        return f"({self._wanted.sql}\n) AS t{f'({names})' if names else ''}"

    def _names(self, columns: Sequence[PgColumn]) -> list[str]:
        """What each column can be asked for by."""
        names = [column.name for column in columns]
        return names if isinstance(self._wanted, Relation) else distinct(names)

    def _inspect(self, cancelled: Cancelled, progress: Progress) -> Inspection:
        progress(None, f"looking at {self._wanted}")
        known = self._look(cancelled)
        described = known.description
        known.trusted = self._trusted(known, cancelled)
        answers = self._answers(known, cancelled, progress) if self._reading.scan else {}
        columns = []
        names = distinct([column.name for column in described.columns])
        for number, (column, name) in enumerate(zip(described.columns, names, strict=True)):
            if number in answers:
                chosen = measuring.chosen(column, known.types, answers[number])
            else:
                chosen = measuring.Chosen(known.types.node(column.oid, column.modifier))
            if self._reading.scan:
                known.proven[name] = chosen.node.type
            columns.append(
                SourceColumn(
                    name,
                    column.name,
                    chosen.node.type,
                    not column.not_null,
                    chosen.node.reason,
                    chosen.stricter,
                    column.comment,
                )
            )
        by_source = dict(zip((c.name for c in described.columns), names, strict=True))
        details = {
            "kind": described.kind,
            "server": str(self._dsn),
            "definition": definition(described.columns),
        }
        if described.filtered:
            details["rows"] = "those that row level security shows to the user"
        if not _has_places(described):
            details["resume"] = "from the beginning: its rows have no places to go on after"
        return Inspection(
            tuple(columns),
            described.rows,
            described.size_bytes,
            details,
            tuple(by_source[name] for name in described.primary_key),
            tuple(
                replace(key, columns=tuple(by_source[name] for name in key.columns))
                for key in described.foreign_keys
            ),
            described.comment,
        )

    def _trusted(self, known: _Known, cancelled: Cancelled) -> set[str]:
        """The columns, by what they can be asked for, whose values nobody looks at before they come."""
        columns = known.description.columns
        if not self._trusts or (known.description.rows or 0) < _MANY_ROWS:
            return set()
        suspects: set[str] = set()
        if isinstance(self._wanted, Relation):
            suspects = catalogue.suspects(self._snapshot, self._wanted, cancelled)
        return {
            name
            for column, name in zip(columns, self._names(columns), strict=True)
            if column.name not in suspects and measuring.can_be_trusted(column, known.types)
        }

    def _answers(self, known: _Known, cancelled: Cancelled, progress: Progress) -> dict[int, list[object]]:
        """What the values of columns are whose types do not tell: one pass over the table for all of them."""
        columns = known.description.columns
        asked = {
            number: found
            for number, (column, name) in enumerate(zip(columns, self._names(columns), strict=True))
            if name not in known.trusted
            and (found := measuring.questions(column, value_of(name), known.types))
        }
        answers: dict[int, list[object]] = {}
        for group in measuring.groups(asked):
            progress(None, f"looking at the values of {len(group)} column(s) of {self._wanted}")
            items = ", ".join(sql for number in group for sql in asked[number])
            where = f" WHERE {self._condition}" if self._condition else ""
            select = f"SELECT {items} FROM {self._from(columns)}{where}"
            (row,) = self._snapshot.query(select, (), str(self._wanted), cancelled)
            left = list(row)
            for number in group:
                answers[number] = left[: len(asked[number])]
                del left[: len(asked[number])]
        return answers

    def _begin(self, at: Read, resumed: bool, cancelled: Cancelled) -> None:
        """Have a snapshot in which what was read so far is as it was read."""
        if self._snapshot.is_open and not self._snapshot.alive():
            if self._shared:
                raise StorageError(
                    f"the connection to PostgreSQL at {self._dsn.where} was lost, and with it the one state "
                    "of several tables",
                    "start again from the beginning, with all of them",
                )
            self._snapshot.close()
        known = self._look(cancelled)
        if not resumed or not at.rows or at.snapshot == self._snapshot.key:
            return
        if not unchanged(self._snapshot, known.description, at, str(self._wanted), cancelled):
            raise StorageError(
                f"rows of {self._wanted} that were read already are not the same any more",
                "start again from the beginning",
            )

    def _pass(
        self, inspection: Inspection, on_error: OnError, cancelled: Cancelled, progress: Progress, at: Read
    ) -> Iterator[Piece]:
        """The rows from a place on, until the end or until a connection is lost."""
        known = self._look(cancelled)
        plan = self._plan(known, inspection)
        at.snapshot, at.server, at.xmin = self._snapshot.key, self._snapshot.server, self._snapshot.xmin
        at.definition = definition(known.description.columns)
        has_places = _has_places(known.description) and not self._is_few
        chunks = self._chunks(known.description, at) if has_places else [None]
        more = f" AND {self._condition}" if self._condition else ""
        # Where the rows of a whole piece were read, their places need not come with them.
        placed = [chunk is not None and (chunk.is_last or bool(more)) for chunk in chunks]
        queries = [
            plan.select(f"ONLY {chunk.leaf.sql} AS t", f"{chunk.where}{more}", place=has_place)
            if chunk
            else plan.select(self._from(known.description.columns), self._condition)
            for chunk, has_place in zip(chunks, placed, strict=True)
        ]
        ends = [chunk is not None and not has_place for chunk, has_place in zip(chunks, placed, strict=True)]
        fetch = Fetch(self._snapshot, self._reading, queries, str(self._wanted), ends)
        described = replace(known.description, rows=None) if self._is_few else known.description
        account = _Account(described, chunks, progress, at.rows)
        account.say(0)
        try:
            with closing(fetch.batches(cancelled)) as batches:
                reached, rows = -1, 0
                for number, batch, is_last in batches:
                    if not batch.num_rows:
                        continue
                    rows = batch.num_rows + (rows if number == reached else 0)
                    reached, chunk = number, chunks[number]
                    taken = plan.take(batch, on_error, place=placed[number])
                    last = taken.last_ctid
                    if chunk is not None and last is None:
                        last = (
                            (chunk.end - 1, _LAST_OFFSET) if is_last else self._ctid(chunk, rows, cancelled)
                        )
                    at.rows += batch.num_rows
                    if chunk is not None and last is not None:
                        at.advance(chunk.leaf, last, batch.num_rows)
                    account.say(number, at)
                    yield Piece(taken.batch, taken.rejected, at.text() if chunk is not None else None)
        finally:
            fetch.stop()
        account.end(at)

    def _ctid(self, chunk: _Chunk, rows: int, cancelled: Cancelled) -> tuple[int, int]:
        """The place of the last of so many rows of a piece."""
        sql = (
            f"SELECT t.ctid::text FROM ONLY {chunk.leaf.sql} AS t WHERE {chunk.where} "
            f"ORDER BY t.ctid OFFSET {rows - 1} LIMIT 1"
        )
        ((found,),) = self._snapshot.query(sql, (), str(self._wanted), cancelled)
        block, offset = found.strip("()").split(",")
        return int(block), int(offset)

    def _plan(self, known: _Known, inspection: Inspection) -> Plan:
        columns = known.description.columns
        place = f"{self._dsn} {self._wanted}"
        found = planned_columns(inspection, columns, self._names(columns), known.types, place)
        trusted = {value_of(name) for name in known.trusted}
        planned = [
            Planned(column, value, node, known.proven.get(column.name) == node.type, value in trusted)
            for column, value, node in found
        ]
        return Plan(planned, inspection.schema, place)

    def _chunks(self, description: Description, at: Read) -> list[_Chunk]:
        """What is left to read, a piece of a file each."""
        step = self._step(description) if self._snapshot.version >= _TID_RANGES else 0
        done = {place.oid for place in at.done}
        chunks = []
        for leaf in description.leaves:
            if leaf.oid in done:
                continue
            first = at.place.ctid if at.place is not None and at.place.oid == leaf.oid else None
            start = first[0] if first else 0
            for block in range(start, leaf.blocks, step or max(leaf.blocks, 1)):
                after = first if first and block == start else None
                chunks.append(_Chunk(leaf, block, block + step if step else leaf.blocks, after, leaf.blocks))
        return chunks

    def _step(self, description: Description) -> int:
        """How many blocks are read at once: about as many as make a batch."""
        blocks = sum(leaf.blocks for leaf in description.leaves)
        # As they are sent, values have their lengths before them.
        sent = _BLOCK_BYTES + _FIELD_BYTES * len(description.columns) * (description.rows or 0) / max(
            blocks, 1
        )
        fitting = int(_SHARE * self._reading.batch_bytes / sent)
        return max(min(fitting, self._reading.chunk_blocks), min(_LEAST_BLOCKS, self._reading.chunk_blocks))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The rows of a file from one block on to another, or after one row."""

    leaf: Leaf
    start: int
    end: int
    after: tuple[int, int] | None
    blocks: int

    @property
    def is_last(self) -> bool:
        """Whether nothing of the file comes after it."""
        return self.end >= self.blocks

    @property
    def where(self) -> str:
        low = (
            f"t.ctid > '({self.after[0]},{self.after[1]})'" if self.after else f"t.ctid >= '({self.start},0)'"
        )
        return f"{low} AND t.ctid < '({self.end},0)'" if self.end < self.blocks else low


class _Account:
    """Tells how far reading got and how fast."""

    def __init__(
        self, description: Description, chunks: Sequence[_Chunk | None], progress: Progress, rows: int
    ) -> None:
        self._description = description
        self._chunks = chunks
        self._progress = progress
        self._began = time.monotonic()
        self._rows = rows
        self._total = sum(leaf.blocks for leaf in description.leaves)
        self._ahead = sum(chunk.end - chunk.start for chunk in chunks if chunk is not None)

    def say(self, number: int, at: Read | None = None) -> None:
        """Tell it, while the rows of one of the chunks come."""
        rows = at.rows if at is not None else self._rows
        share: float | None = None
        chunk = self._chunks[number] if number < len(self._chunks) else None
        if chunk is not None and self._total:
            left = sum(each.end - each.start for each in self._chunks[number:] if each is not None)
            if at is not None and at.place is not None and at.place.oid == chunk.leaf.oid:
                left -= max(min(at.place.ctid[0], chunk.end) - chunk.start, 0)
            share = max(0.0, min(1 - left / self._total, 1.0))
        elif self._description.rows:
            share = min(rows / self._description.rows, 0.99)
        self._progress(share, self._text(rows))

    def end(self, at: Read) -> None:
        """Tell that all is read."""
        self._progress(1.0, self._text(at.rows))

    def _text(self, rows: int) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        return f"{rows:,} rows, {(rows - self._rows) / seconds:,.0f} rows/s"


def _has_places(description: Description) -> bool:
    return bool(description.leaves) and all(leaf.is_heap and leaf.readable for leaf in description.leaves)


def _plainly(work: Callable[[], T]) -> T:
    """Do something, with a lost connection told as what it is to people."""
    failure: LakehouseError
    try:
        return work()
    except Dropped as dropped:
        failure = dropped.error
    raise failure
