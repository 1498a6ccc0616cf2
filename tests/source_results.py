"""What reading a source gives, as an ingest would see it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.source import Disproved, Inspection, OnError, Piece, RejectedRow


def never() -> bool:
    return False


def silent(share: float | None, what: str) -> None:
    assert share is None or 0 <= share <= 1


class Result:
    """What reading gave, as an ingest would see it."""

    def __init__(self, source: FileSource, on_error: OnError = OnError.REJECT) -> None:
        self.restarts = 0
        self.inspection: Inspection = source.inspect(never, silent)
        while True:
            try:
                self.pieces: list[Piece] = list(source.read(self.inspection, on_error, never, silent))
                break
            except Disproved as disproved:
                self.restarts += 1
                assert self.restarts == 1
                self.inspection = disproved.inspection
        self.table = pa.Table.from_batches([p.batch for p in self.pieces], self.inspection.schema)
        self.rejected: list[RejectedRow] = [row for piece in self.pieces for row in piece.rejected]
        self.types = {column.name: str(column.type) for column in self.inspection.columns}

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.table.to_pylist()]

    def column(self, name: str) -> Any:
        return next(c for c in self.inspection.columns if c.name == name)
