"""What an ingest would make of a source: its columns, how it is read, and its first rows."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from contextlib import closing
from typing import cast

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from lakehouse.ingest.sources.source import OnError, Piece, Source, unheard
from lakehouse.runs.record import RunColumn


class Preview(BaseModel):
    """What an ingest would make of a source; nothing is stored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    columns: tuple[RunColumn, ...]
    details: dict[str, str] = Field(description="how the source is read")
    rows: int | None = Field(description="how many there are; none if only some were looked at")
    size_bytes: int | None
    arrow: str = Field(description="the first rows that fit, as an Arrow IPC stream in base64")
    rejected: tuple[str, ...] = Field(description="what does not fit among the first rows, and why")


def preview(source: Source, limit: int, cancelled: Callable[[], bool]) -> Preview:
    """Look at a source, and read its first rows.

    Args:
        source: The source, which is closed afterwards.
        limit: How many rows to give at most.
        cancelled: Whether to stop.

    Raises:
        LakehouseError: The source cannot be read, or not as it was asked to be.
    """
    with closing(source):
        inspection = source.inspect(cancelled, unheard)
        batches, rejected, rows = [], [], 0
        read = source.read(inspection, OnError.REJECT, cancelled, unheard)
        with closing(cast("Generator[Piece]", read)) as pieces:
            while rows < limit and (piece := next(pieces, None)) is not None:
                rejected += [f"{r.place}, line {r.line}: {r.reason}" for r in piece.rejected]
                batches.append(piece.batch.slice(0, limit - rows))
                rows += batches[-1].num_rows
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, inspection.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return Preview(
        columns=tuple(RunColumn.of(column) for column in inspection.columns),
        details=dict(inspection.details),
        rows=inspection.rows,
        size_bytes=inspection.size_bytes,
        arrow=base64.b64encode(sink.getvalue().to_pybytes()).decode(),
        rejected=tuple(rejected[:limit]),
    )
