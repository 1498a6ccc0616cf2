"""What every source of rows is to an ingest, whatever it reads.

An ingest asks a source twice: ``inspect`` tells which columns there will be and why, and ``read`` gives the
rows as those columns, with an account of each row that was not taken. Both take bounded memory, however much
there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import pyarrow as pa

from lakehouse.errors import SchemaMismatch
from lakehouse.types import ForeignKey

Progress = Callable[[float | None, str], None]
"""Told of the share that is done, 0 to 1 or None where nobody knows, and of what is happening."""


def unheard(share: float | None, message: str) -> None:
    """Progress that nobody is told of."""


class OnError(StrEnum):
    """What becomes of a row that does not fit."""

    FAIL = "fail"
    """The ingest stops, and nothing of it is stored."""
    REJECT = "reject"
    """The row goes, whole and with the reason, to the rejected ones; the others are stored."""


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """One column of a source, and why it has its type.

    Attributes:
        name: As the table will have it: safe in SQL, distinct whatever the case of letters.
        source_name: As the source has it.
        type: The Arrow type of its values.
        nullable: Whether values may be missing.
        reason: Why that type: ``all 336776 values are integers``, ``stated by the caller``.
        stricter: What a stricter reading would have lost: ``as BIGINT 2 values would be lost, first 'N/A' in
            line 17``; empty where there is none.
        description: What the source says of it, such as a comment.
    """

    name: str
    source_name: str
    type: pa.DataType
    nullable: bool = True
    reason: str = ""
    stricter: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a source turned out to hold.

    Attributes:
        columns: In their order.
        rows: How many there are, or about; None where nobody knows.
        size_bytes: How much has to be read; None where nobody knows.
        details: What was found out of how to read it: delimiter, encoding, compression … for people to read.
        primary_key: Names (of this ingest) of the columns of a declared key, if there is one.
        foreign_keys: Those declared; schemas and tables as the source has them.
        description: What the source says of itself, such as a table's comment.
        identity: What is the same when the source is, such as a hash of its content; empty if unknown.
    """

    columns: tuple[SourceColumn, ...]
    rows: int | None = None
    size_bytes: int | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    description: str = ""
    identity: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The columns as ``read`` gives them."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that was not taken.

    Attributes:
        place: Where it stands: the object or table, and what part of it, such as a sheet.
        line: Its first line, or its number, from 1; None where there is none.
        column: The column that it does not fit, if it is one.
        reason: Why, for people to read.
        content: The row as it came; cut where it is longer than a megabyte.
    """

    place: str
    line: int | None
    column: str
    reason: str
    content: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows on their way: ``rows_in`` of the source are those of the batch and the rejected ones.

    ``position`` says where to go on after this piece, for ``read`` of a later process; None where it cannot.
    """

    batch: pa.RecordBatch
    rejected: Sequence[RejectedRow] = ()
    position: str | None = None

    @property
    def rows_in(self) -> int:
        """How many rows of the source this accounts for."""
        return int(self.batch.num_rows) + len(self.rejected)


class Disproved(SchemaMismatch):
    """The rows show that an inspection, which saw only some of them, told less than the truth.

    Pieces that were given so far are void: they are to be discarded, and the source read again.

    Args:
        message: Which value showed it, and where.
        inspection: What was found out from all there is, to read again with; it cannot be disproved.
    """

    def __init__(self, message: str, inspection: Inspection) -> None:
        super().__init__(message, "read it again with what is known now")
        self.inspection = inspection


class Source(Protocol):
    """Where rows come from. Used by one thread. ``cancelled`` is asked often enough to stop in a second."""

    @property
    def system(self) -> str:
        """What kind it is, as lineage calls it: ``file`` or ``postgresql``."""
        ...

    @property
    def comes_once(self) -> bool:
        """Whether its rows can be read no second time."""
        ...

    @property
    def described(self) -> str:
        """Which one it is, for people, lineage and journals: without any secret."""
        ...

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """Find out what it holds.

        Raises:
            InvalidRequest, StorageError: It cannot be read; the message says why, and where.
            StatementCancelled: ``cancelled`` said so.
        """
        ...

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None = None,
    ) -> Iterator[Piece]:
        """The rows, once. Closing the iterator lets go of what it holds.

        Args:
            inspection: What ``inspect`` gave; with other types where the caller stated them.
            on_error: What becomes of rows that do not fit.
            cancelled: Asked at least once for each piece.
            progress: Told what is done.
            position: Where an earlier reading got to, to go on after it.

        Raises:
            InvalidRequest: A row does not fit, and ``on_error`` says fail; names place, line, column and why.
            Disproved: The inspection saw only a sample, and told too little.
            SchemaMismatch: The source is not any more what was inspected.
            StatementCancelled: ``cancelled`` said so.
        """
        ...

    def close(self) -> None:
        """Let go of connections and temporary files."""
        ...
