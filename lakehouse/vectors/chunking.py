"""Texts in pieces that a model can embed, cut where a reader would cut them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from lakehouse.errors import InvalidRequest

MOST_CHARACTERS = 100_000


class ChunkBy(StrEnum):
    """Where a text is cut if that is possible."""

    PARAGRAPH = "paragraph"
    """Between paragraphs: at empty lines."""
    SENTENCE = "sentence"
    """Between sentences."""
    SIZE = "size"
    """Between words."""
    NONE = "none"
    """Nowhere: a text is one piece, of which a model reads as much as it can."""


_ENDS = {
    ChunkBy.PARAGRAPH: re.compile(r"\n[^\S\n]*(?:\n\s*)+"),
    ChunkBy.SENTENCE: re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\n[^\S\n]*(?:\n\s*)+"),
    ChunkBy.SIZE: re.compile(r"\s+"),
}
_FINER = {ChunkBy.PARAGRAPH: ChunkBy.SENTENCE, ChunkBy.SENTENCE: ChunkBy.SIZE}
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chunking:
    """How texts are cut.

    Attributes:
        by: Where, if that is possible; what is longer than ``size`` in one piece is cut more finely.
        size: Most characters of a piece.
        overlap: Most characters that a piece repeats of the end of the one before: whole units of ``by``.

    Raises:
        InvalidRequest: The numbers are out of bounds.
    """

    by: ChunkBy = ChunkBy.PARAGRAPH
    size: int = 1000
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST_CHARACTERS:
            raise InvalidRequest(f"size = {self.size}, expected 1 to {MOST_CHARACTERS} characters")
        if not 0 <= self.overlap <= self.size // 2:
            raise InvalidRequest(f"overlap = {self.overlap}, expected 0 to half of size ({self.size // 2})")


def chunks(text: str, how: Chunking) -> list[str]:
    """The pieces of a text, each as it stands there without blanks at its ends; none of a blank text."""
    if how.by is ChunkBy.NONE:
        whole = text.strip()
        return [whole] if whole else []
    found, packed = [], _packed(list(_units(text, (0, len(text)), how.by, how.size)), how)
    for start, end in packed:
        piece = text[start:end].strip()
        if piece:
            found.append(piece)
    return found


def _units(text: str, span: Span, by: ChunkBy | None, size: int) -> Iterator[Span]:
    """What is never cut: the whole of a span in order, with the blanks that follow each unit.

    Blanks do not count: a unit is of ``size`` characters at most without those at its end.
    """
    start, end = span
    if by is None:
        yield from ((at, min(at + size, end)) for at in range(start, end, size))
        return
    cuts = [match.end() for match in _ENDS[by].finditer(text, start, end) if match.end() < end]
    for low, high in zip([start, *cuts], [*cuts, end], strict=True):
        if len(text[low:high].rstrip()) <= size:
            yield (low, high)
        else:
            yield from _units(text, (low, high), _FINER.get(by), size)


def _packed(units: list[Span], how: Chunking) -> Iterator[Span]:
    """Units put together as long as they fit, each piece beginning with the end of the one before."""
    first = 0
    while first < len(units):
        last = first
        start = units[first][0]
        while last + 1 < len(units) and units[last + 1][1] - start <= how.size:
            last += 1
        yield start, units[last][1]
        if last + 1 == len(units):
            return
        following = last + 1
        while (
            following - 1 > first
            and units[last][1] - units[following - 1][0] <= how.overlap
            and units[last + 1][1] - units[following - 1][0] <= how.size
        ):
            following -= 1
        first = following
