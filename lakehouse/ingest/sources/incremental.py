"""What a source is that is read again and again, each time for what is new."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress, Source

At = Mapping[str, str]
"""How far a source was read: short texts, which JSON keeps as they are."""


class SyncAccount(BaseModel):
    """What a run found that brings only what is new."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="tells the syncs of a table apart")
    objects_new: int = Field(0, description="objects that were not brought before")
    objects_known: int = Field(0, description="objects that were")
    objects_changed: int = Field(0, description="objects that were, with other content")
    objects_gone: int = Field(0, description="objects that were and are not there any more; their rows stay")
    objects_left: int = Field(0, description="new objects that the next run brings")
    watermark: str = Field("", description="up to which value of the watermark column the rows are there now")
    watermark_before: str = Field("", description="up to which they were there before")
    rows_known: int = Field(0, description="rows that were read again and are in the table already")
    rows_without_watermark: int = Field(0, description="rows that never come: their watermark is NULL")
    rows_ahead: int = Field(
        0, description="rows that do not come yet: their watermark is infinite or to come"
    )


class Incremental(ABC):
    """A source whose rows are what is new since it was read last. Used by one thread, like every source.

    ``begin`` is asked first, and again after ``close``.
    """

    system: str
    comes_once = False
    described: str
    name: str
    """What a sync of it is called that nobody gave a name."""
    definition: Mapping[str, str]
    """What must stay the same, for what was read before to be what would be read."""
    account: SyncAccount
    again: str = ""
    """The source's name of the column whose values tell which rows may come again; empty if none does."""
    _part: Source | None = None

    @abstractmethod
    def _look(self, since: At | None, cancelled: Callable[[], bool], progress: Progress) -> Source | None:
        """What is new, if anything is. See ``begin``."""

    @abstractmethod
    def reached(self, table: str, run: str) -> At:
        """How far it is read with what is new; what has to be kept for that is kept when this returns.

        Args:
            table: The id of the table that the rows go into.
            run: The id of the run.

        Raises:
            StorageError: It could not be kept.
        """

    def tidy(self, table: str, kept: Sequence[At]) -> None:  # noqa: B027 - most have nothing to remove
        """Remove what no state needs any more; ``kept`` are those that may be gone back to."""

    def begin(self, since: At | None, cancelled: Callable[[], bool], progress: Progress) -> bool:
        """Look what is new; gives whether anything is.

        Args:
            since: How far it was read before; None if it was not.
            cancelled: Asked often enough to stop in a second.
            progress: Told what is done.

        Raises:
            LakehouseError: It cannot be found out.
        """
        self.close()
        self._part = self._look(since, cancelled, progress)
        return self._part is not None

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """See ``Source``."""
        return self._begun().inspect(cancelled, progress)

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None = None,
    ) -> Iterator[Piece]:
        """See ``Source``."""
        return self._begun().read(inspection, on_error, cancelled, progress, position)

    def close(self) -> None:
        """See ``Source``."""
        part, self._part = self._part, None
        if part is not None:
            part.close()

    def _begun(self) -> Source:
        if self._part is None:
            raise RuntimeError("nobody asked what is new")
        return self._part
