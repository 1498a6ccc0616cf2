"""Rows that were not taken, on their way into the table that keeps them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa

from lakehouse.ingest.sources.source import RejectedRow

REJECTS_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("place", pa.string()),
        ("line", pa.int64()),
        ("column", pa.string()),
        ("reason", pa.string()),
        ("content", pa.string()),
    ]
)
"""``content`` is the row as it came; ``line`` where it stands in ``place``; ``run`` the ingest."""
_ROWS = 1000


class Rejects:
    """Collects rejected rows in a temporary file, however many there are.

    Args:
        run: The id of the ingest.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._waiting: list[RejectedRow] = []
        self.count = 0

    def add(self, rows: Sequence[RejectedRow]) -> None:
        """Take some rows."""
        self.count += len(rows)
        self._waiting.extend(rows)
        if len(self._waiting) >= _ROWS:
            self._spill()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All of them, once, as ``REJECTS_SCHEMA`` says."""
        if self._waiting:
            self._spill()
        if self._file is None or self._writer is None:
            return
        self._writer.close()
        self._file.seek(0)
        with pa.ipc.open_stream(self._file) as reader:
            yield from reader

    def clear(self) -> None:
        """Forget them all."""
        self.close()
        self._file = self._writer = None
        self._waiting.clear()
        self.count = 0

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="lakehouse-rejects-")  # noqa: SIM115 - close() does it
            self._writer = pa.ipc.new_stream(self._file, REJECTS_SCHEMA)
        rows = [
            {
                "run": self._run,
                "place": row.place,
                "line": row.line,
                "column": row.column or None,
                "reason": row.reason,
                "content": row.content,
            }
            for row in self._waiting
        ]
        assert self._writer is not None
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=REJECTS_SCHEMA))
        self._waiting.clear()
