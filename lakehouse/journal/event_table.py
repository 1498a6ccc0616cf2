"""The events of a journal as a table."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import structlog

from lakehouse.storage.append_log import AppendLog
from lakehouse.storage.log_encoding import SeenEvents, parse_entry

_SHOWN_BYTES = 67_108_864
_log = structlog.get_logger()


class EventTable:
    """Reads the newest events of a journal.

    Args:
        schema: Their columns, among them ``time``, ``kind``, ``detail``, ``writer`` and ``seq``.
        prefix: Where in the bucket they are, for whoever wants older ones.
        max_bytes: How much stored JSON is read for it. Where there is more, the first row is of the kind
            ``truncated`` and says since when the table is complete.
    """

    def __init__(self, schema: pa.Schema, prefix: str, max_bytes: int = _SHOWN_BYTES) -> None:
        self._schema = schema
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._parse = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")

    def read(self, events: AppendLog | None) -> pa.Table:
        """The events in the columns of the schema, oldest first, each once.

        Args:
            events: The log; None where nothing is recorded.

        Raises:
            StorageError: The stored events cannot be read.
        """
        if events is None:
            return self._schema.empty_table()
        waiting = events.waiting()  # first: what is flushed meanwhile is then seen in storage as well
        contents, is_cut = events.objects.newest(self._max_bytes)
        contents.append(b"\n".join(entry.line for entry in waiting))
        parsed = [table for content in contents for table in self._parsed(content)]
        table = SeenEvents().new_rows(
            pa.concat_tables(parsed).combine_chunks() if parsed else self._schema.empty_table()
        )
        return pa.concat_tables([self._truncation(table), table]) if is_cut else table

    def remembered(self, events: AppendLog, count: int) -> pa.Table:
        """The newest events that this process saw, oldest first; storage is not read.

        Args:
            events: The log.
            count: How many at most.
        """
        lines = [json.dumps(event).encode() for event in reversed(events.recent(count))]
        return pa.concat_tables([self._schema.empty_table(), *self._parsed(b"\n".join(lines))])

    def _parsed(self, content: bytes) -> Iterator[pa.Table]:
        if not content.strip(b"\n"):
            return
        try:
            yield self._rows(content)
        except pa.ArrowInvalid:
            lines = [line for line in content.split(b"\n") if line and parse_entry(line) is not None]
            yield from self._salvaged(lines)

    def _salvaged(self, lines: list[bytes]) -> Iterator[pa.Table]:
        """What can be read of some lines: halve them until the bad ones stand alone."""
        if not lines:
            return
        try:
            yield self._rows(b"\n".join(lines))
        except pa.ArrowInvalid as error:
            if len(lines) == 1:
                _log.warning("event_skipped", log=self._prefix, reason=str(error).splitlines()[0])
                return
            middle = len(lines) // 2
            yield from self._salvaged(lines[:middle])
            yield from self._salvaged(lines[middle:])

    def _rows(self, content: bytes) -> pa.Table:
        # One block: a line may be as long as the whole content.
        options = pyarrow.json.ReadOptions(block_size=max(len(content) + 1, 1024), use_threads=False)
        return pyarrow.json.read_json(io.BytesIO(content), options, self._parse).select(self._schema.names)

    def _truncation(self, table: pa.Table) -> pa.Table:
        since = pc.min(table["time"]).as_py()
        detail = f"older events are left out here; all of them are in the bucket under {self._prefix}/"
        return pa.Table.from_pylist([{"time": since, "kind": "truncated", "detail": detail}], self._schema)
