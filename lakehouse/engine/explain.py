"""Query plans fit to be shown: without the server's directories and internal names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

# Not the estimate of a number of rows, which is written like ``~3 rows``.
_INTERNAL = re.compile(r"\"?~(?!\d+\b)\w{7,}\"?\.?")


def shown_plans(reader: pa.RecordBatchReader, directories: Sequence[str]) -> pa.RecordBatchReader:
    """The stream of EXPLAIN with every text passed through ``shown_plan``."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            columns = [
                pa.array([None if text is None else shown_plan(text, directories) for text in texts])
                for texts in (column.to_pylist() for column in batch.columns)
            ]
            yield pa.record_batch(columns, names=batch.schema.names)

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def shown_plan(text: str, directories: Sequence[str]) -> str:
    """The text of a plan without directories and internal names; lines of boxes stay as long as they were.

    EXPLAIN ANALYZE tells the files it read by their full paths, whatever the format.
    """
    return "\n".join(_shown_line(line, directories) for line in text.split("\n"))


def _shown_line(line: str, directories: Sequence[str]) -> str:
    shown = line
    for directory in directories:
        # HTML and JSON may write a slash as an escape.
        for slash in ("/", "\\/", "\\u002f"):
            shown = shown.replace(directory.rstrip("/").replace("/", slash) + slash, "")
    shown = _INTERNAL.sub("", shown) if "~" in shown else shown
    if len(shown) < len(line) and line.endswith("│"):
        shown = shown[:-1] + " " * (len(line) - len(shown)) + "│"
    return shown
