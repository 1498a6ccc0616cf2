"""How the events of an append log are written into objects: as JSON lines, or as Parquet.

An event is a JSON object on its way to storage. ``writer`` and ``seq`` in it tell it from all others.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq
import structlog

_log = structlog.get_logger()
_GROUP_ROWS = 10_000

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as it is stored: ``line`` is its JSON text without the line feed."""

    writer: str
    seq: int
    event: Event
    line: bytes


class SeenEvents:
    """Which events were read, so that none is read twice: the highest ``seq`` of each writer."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def is_new(self, writer: str, seq: int) -> bool:
        """Whether the event was not read before; afterwards it was."""
        if self._highest.get(writer, 0) >= seq:
            return False
        self._highest[writer] = seq
        return True

    def new_rows(self, table: pa.Table) -> pa.Table:
        """Those of the events in a table that were not read before; afterwards they were.

        Args:
            table: Events in the order of writing, with the columns ``writer`` and ``seq``.
        """
        writers, seqs = table["writer"], table["seq"]
        kept: list[pa.Array] = []
        for writer in pc.unique(writers):
            name = writer.as_py()
            places = pc.indices_nonzero(pc.equal(writers, writer))
            own = pc.take(seqs, places).combine_chunks()
            highest = self._highest.get(name, 0)
            before = pa.concat_arrays([pa.array([highest], pa.int64()), pc.cumulative_max(own)[:-1]])
            kept.append(pc.filter(places, pc.greater(own, pc.max_element_wise(before, highest))))
            self._highest[name] = max(highest, pc.max(own).as_py())
        if sum(map(len, kept)) == len(table):
            return table
        rows = pa.concat_arrays(kept)
        return table.take(pc.take(rows, pc.sort_indices(rows)))


class LogEncoding(Protocol):
    """What an object of a log holds. ``suffix`` is how the names of the objects end."""

    suffix: str

    def encode(self, lines: Sequence[bytes]) -> bytes:
        """The content of an object with these events, each a line of JSON; the same for the same lines."""
        ...

    def entries(self, content: bytes) -> Iterator[Entry | None]:
        """The events in an object; None stands for what cannot be read."""
        ...

    def merged(self, contents: Iterable[bytes]) -> bytes | None:
        """The events of several objects in their order as one, each once; None where any cannot be read."""
        ...


def parse_entry(line: bytes) -> Entry | None:
    """The event in a line, or None where it is not one of a log's."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    writer, seq = event.get("writer"), event.get("seq")
    if not isinstance(writer, str) or not isinstance(seq, int):
        return None
    return Entry(writer, seq, event, line)


class JsonLines:
    """One JSON object a line: for logs that people look into with their own tools."""

    suffix = "jsonl"

    def encode(self, lines: Sequence[bytes]) -> bytes:
        """The lines one after the other."""
        return b"".join(lines)

    def entries(self, content: bytes) -> Iterator[Entry | None]:
        """The events of the lines."""
        for line in content.split(b"\n"):
            if line:
                yield parse_entry(line)

    def merged(self, contents: Iterable[bytes]) -> bytes | None:
        """The lines of all, each once."""
        seen = SeenEvents()
        lines: list[bytes] = []
        for content in contents:
            entries = [entry for entry in self.entries(content) if entry is not None]
            if sum(len(entry.line) + 1 for entry in entries) != len(content):
                return None
            lines += [entry.line + b"\n" for entry in entries if seen.is_new(entry.writer, entry.seq)]
        return b"".join(lines)


class ParquetEvents:
    """Events as rows of Parquet files.

    Args:
        schema: The columns, among them ``time``, ``kind``, ``detail``, ``writer`` and ``seq``. What an event
            says besides is not kept.
        repeats: Names of two columns: an id, and whether the row only repeats what one of that id has told
            or will tell. Where it has, the row is left out when objects are merged.
    """

    suffix = "parquet"

    def __init__(self, schema: pa.Schema, repeats: tuple[str, str] | None = None) -> None:
        self.schema = schema
        self._repeats = repeats
        self._parse = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")

    def encode(self, lines: Sequence[bytes]) -> bytes:
        """The events as a Parquet file. One that does not fit the columns leaves a row that says so."""
        return self._written(self.parsed(lines))

    def entries(self, content: bytes) -> Iterator[Entry | None]:
        """The events of the rows."""
        table = self.table(content)
        if table is None:
            yield None
            return
        for row in table.to_pylist():
            event = {name: _plain(value) for name, value in row.items() if value is not None}
            line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
            yield Entry(row["writer"], row["seq"], event, line)

    def merged(self, contents: Iterable[bytes]) -> bytes | None:
        """The rows of all, each once; only one object is held in memory as it is read."""
        seen, told, sink = SeenEvents(), set[str](), pa.BufferOutputStream()
        with self._writer(sink) as writer:
            for content in contents:
                table = self.table(content)
                if table is None:
                    return None
                writer.write_table(self._without_repeated(seen.new_rows(table), told), _GROUP_ROWS)
        return bytes(sink.getvalue())

    def _without_repeated(self, table: pa.Table, told: set[str]) -> pa.Table:
        """The rows without those that repeat what has been told; ``told`` grows by what they tell."""
        if self._repeats is None:
            return table
        ids = table[self._repeats[0]]
        gone: set[int] = set()
        for place in pc.indices_nonzero(pc.fill_null(table[self._repeats[1]], False)).to_pylist():
            if ids[place].as_py() in told:
                gone.add(place)
            told.add(ids[place].as_py())
        told.update(ids.drop_null().to_pylist())
        kept = [place for place in range(len(table)) if place not in gone]
        return table.take(pa.array(kept, pa.int64())) if gone else table

    def table(self, content: bytes, filters: pc.Expression | None = None) -> pa.Table | None:
        """The rows of an object; None where they cannot be read.

        Args:
            content: What the object holds.
            filters: Which rows to give; row groups that can have none of them are passed over.
        """
        try:
            found = pq.read_table(pa.BufferReader(content), filters=filters, use_threads=False)
            return self._conformed(found)
        except (pa.ArrowException, OSError):
            return None

    def parsed(self, lines: Sequence[bytes]) -> pa.Table:
        """Events in lines of JSON as rows."""
        if not lines:
            return self.schema.empty_table()
        content = b"".join(lines)
        # One block: a line may be as long as the whole content.
        options = pyarrow.json.ReadOptions(block_size=max(len(content) + 1, 1024), use_threads=False)
        try:
            return pyarrow.json.read_json(io.BytesIO(content), options, self._parse).select(self.schema.names)
        except pa.ArrowInvalid as error:
            if len(lines) == 1:
                return self._unfit(lines[0], str(error).splitlines()[0])
            middle = len(lines) // 2
            return pa.concat_tables([self.parsed(lines[:middle]), self.parsed(lines[middle:])])

    def _unfit(self, line: bytes, reason: str) -> pa.Table:
        event = json.loads(line)
        _log.error("log_event_unwritable", reason=reason)
        row = {
            "time": datetime.fromisoformat(event["time"]),
            "kind": "gap",
            "detail": "the event did not fit the columns of the log",
            "writer": event["writer"],
            "seq": event["seq"],
        }
        return pa.Table.from_pylist([row], self.schema)

    def _conformed(self, table: pa.Table) -> pa.Table:
        """A table with exactly these columns, whichever there were when it was written."""
        if table.schema.equals(self.schema):
            return table
        columns = [
            table[field.name].cast(field.type)
            if field.name in table.schema.names
            else pa.nulls(len(table), field.type)
            for field in self.schema
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _written(self, table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        with self._writer(sink) as writer:
            writer.write_table(table, _GROUP_ROWS)
        return bytes(sink.getvalue())

    def _writer(self, sink: pa.BufferOutputStream) -> pq.ParquetWriter:
        return pq.ParquetWriter(sink, self.schema, compression="zstd", write_statistics=True)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value
