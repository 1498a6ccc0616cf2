"""What becomes of a reading of which a row shows that the sample told too little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lakehouse.catalog.names import fold
from lakehouse.ingest.sources.source import Disproved, Inspection, Piece
from lakehouse.ingest.sources.stated_kinds import STATED


class Disproof(Exception):
    """A value is not what the sample promised, or the text not in its encoding."""


def verified(
    pieces: Iterator[Piece], inspection: Inspection, everything: Callable[[], Inspection]
) -> Iterator[Piece]:
    """The pieces of a reading.

    Args:
        pieces: May raise ``Disproof``.
        inspection: What they are read as.
        everything: Gives an inspection from all there is.

    Raises:
        Disproved: They did; with what is true of all rows, in the types that the caller stated.
    """
    try:
        yield from pieces
    except Disproof as disproof:
        truth = everything()
        # A table may spell the name in another way than the source.
        stated = {fold(column.name): column for column in inspection.columns if column.reason == STATED}
        columns = tuple(stated.get(fold(column.name), column) for column in truth.columns)
        raise Disproved(str(disproof), replace(truth, columns=columns)) from None
