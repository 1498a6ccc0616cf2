"""What the files of one format are to the source that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress


class FileReader(Protocol):
    """Some files of one format, as one source. See ``Source`` for what is raised."""

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """Which columns they have together, by name."""
        ...

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None,
    ) -> Iterator[Piece]:
        """Their rows, one file after the other."""
        ...
