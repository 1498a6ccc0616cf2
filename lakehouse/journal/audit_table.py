"""The audit journal as a table."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import structlog

from lakehouse.storage.append_log import AppendLog
from lakehouse.storage.log_objects import parse_entry

AUDIT_SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("kind", pa.string()),
        ("principal", pa.string()),
        ("method", pa.string()),
        ("peer", pa.string()),
        ("action", pa.string()),
        ("statement_kind", pa.string()),
        ("statement", pa.string()),
        ("tables", pa.list_(pa.field("l", pa.string()))),
        ("outcome", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("duration_s", pa.float64()),
        ("queue_s", pa.float64()),
        ("statement_id", pa.string()),
        ("request_id", pa.string()),
        ("session_id", pa.string()),
        ("trace_id", pa.string()),
        ("dropped", pa.int64()),
        ("detail", pa.string()),
        ("writer", pa.string()),
        ("seq", pa.int64()),
    ]
)
"""``kind`` is statement, action, authentication, gap or truncated; the other columns are null where they do
not apply. ``writer`` and ``seq`` identify an event; a number missing in between belongs to a dropped one."""

_SHOWN_BYTES = 67_108_864
_PARSE = pyarrow.json.ParseOptions(explicit_schema=AUDIT_SCHEMA, unexpected_field_behavior="ignore")

_log = structlog.get_logger()


class AuditTable:
    """Reads the newest events of an audit journal.

    Args:
        max_bytes: How much stored JSON is read for it. Where there is more, the first row is of the kind
            ``truncated`` and says since when the table is complete.
    """

    def __init__(self, max_bytes: int = _SHOWN_BYTES) -> None:
        self._max_bytes = max_bytes

    def read(self, events: AppendLog | None, principal: str | None = None) -> pa.Table:
        """The events as ``AUDIT_SCHEMA``, oldest first, each once.

        Args:
            events: The log; None where nothing is recorded.
            principal: Only what this one did; everything when left out.
        """
        if events is None:
            return AUDIT_SCHEMA.empty_table()
        waiting = events.waiting()  # first: what is flushed meanwhile is then seen in storage as well
        contents, is_cut = events.objects.newest(self._max_bytes)
        contents.append(b"\n".join(entry.line for entry in waiting))
        parsed = [table for content in contents for table in _parsed(content)]
        table = _each_once(
            pa.concat_tables(parsed).combine_chunks() if parsed else AUDIT_SCHEMA.empty_table()
        )
        if principal is not None:
            table = table.filter(pc.equal(table["principal"], principal))
        return pa.concat_tables([_truncation(table), table]) if is_cut else table


def _parsed(content: bytes) -> Iterator[pa.Table]:
    if not content.strip(b"\n"):
        return
    try:
        yield _table(content)
    except pa.ArrowInvalid:
        lines = [line for line in content.split(b"\n") if line and parse_entry(line) is not None]
        yield from _salvaged(lines)


def _salvaged(lines: list[bytes]) -> Iterator[pa.Table]:
    """What can be read of some lines: halve them until the bad ones stand alone."""
    if not lines:
        return
    try:
        yield _table(b"\n".join(lines))
    except pa.ArrowInvalid as error:
        if len(lines) == 1:
            _log.warning("audit_event_skipped", reason=str(error).splitlines()[0])
            return
        middle = len(lines) // 2
        yield from _salvaged(lines[:middle])
        yield from _salvaged(lines[middle:])


def _table(content: bytes) -> pa.Table:
    # One block: a line may be as long as the whole content.
    options = pyarrow.json.ReadOptions(block_size=max(len(content) + 1, 1024), use_threads=False)
    return pyarrow.json.read_json(io.BytesIO(content), options, _PARSE).select(AUDIT_SCHEMA.names)


def _each_once(table: pa.Table) -> pa.Table:
    """Without the events that do not raise the ``seq`` of their writer: those were there before."""
    writers, seqs = table["writer"], table["seq"]
    kept: list[pa.Array] = []
    for writer in pc.unique(writers):
        places = pc.indices_nonzero(pc.equal(writers, writer))
        own = pc.take(seqs, places).combine_chunks()
        rises = pc.greater(own[1:], pc.cumulative_max(own)[:-1])
        kept += [places[:1], pc.filter(places[1:], rises)]
    if sum(map(len, kept)) == len(table):
        return table
    return table.take(pc.take(pa.concat_arrays(kept), pc.sort_indices(pa.concat_arrays(kept))))


def _truncation(table: pa.Table) -> pa.Table:
    since = pc.min(table["time"]).as_py()
    detail = "older events are left out here; all of them are in the bucket under _audit/"
    return pa.Table.from_pylist([{"time": since, "kind": "truncated", "detail": detail}], AUDIT_SCHEMA)
