"""An index of the words of texts, weighed by BM25. The only module that imports ``bm25s``.

For each word it has the rows whose text holds it, and what the word adds to the score of each of them: what
``bm25s`` makes of the texts (Lucene's BM25; Lù, 2024: every weight is worked out when the index is built).
Kept as a table of Arrow, ordered by word, that is searched where it lies in the file. It never changes once
it is built, so any number of threads may search it.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.vectors.faiss_index import unchecked
from lakehouse.vectors.selection import Selection
from lakehouse.vectors.words import words

K1, B = 1.5, 0.75
_COUNT = b"rows"
_WORDS = pa.schema(
    [
        pa.field("word", pa.string(), nullable=False),
        pa.field("positions", pa.large_list(pa.int32()), nullable=False),
        pa.field("weights", pa.large_list(pa.float32()), nullable=False),
    ]
)
_TEXTS_AT_ONCE = 256
_MANY = 100


class LexicalIndex:
    """Which rows hold which words; ``build`` and ``load`` make one.

    Attributes:
        count: How many rows there are, with words or without; their positions are 0 to ``count`` - 1.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.count = int(table.schema.metadata[_COUNT])
        word, positions, weights = (_whole(column) for column in table.columns)
        self._words = word
        self._starts = positions.offsets.to_numpy()
        self._positions: NDArray[np.int32] = positions.values.to_numpy()
        self._weights: NDArray[np.float32] = weights.values.to_numpy()

    @classmethod
    def build(
        cls,
        texts: pa.ChunkedArray,
        *,
        check: Callable[[], None] = unchecked,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Self:
        """Build an index.

        Args:
            texts: One for each row; those that are missing have no words.
            check: Called from time to time; raises where the work shall stop.
            progress: Told the share that is done.

        Raises:
            InvalidRequest: They are no texts.
        """
        numbers: dict[str, int] = {}
        rows: list[array[int]] = []
        for batch in _texts(texts).to_batches(max_chunksize=_TEXTS_AT_ONCE) if len(texts) else ():
            check()
            rows.extend(
                array("i", [numbers.setdefault(word, len(numbers)) for word in words(text or "")])
                for text in batch.column(0).to_pylist()
            )
            progress(len(rows) / len(texts))
        listed = [pa.array(numbers, pa.string()), *_weighed(rows, len(numbers))]
        table = pa.table(listed, schema=_WORDS).sort_by("word").combine_chunks()
        return cls(table.replace_schema_metadata({_COUNT: str(len(rows))}))

    def save(self, path: Path) -> None:
        """Write the index into a file.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self._table.schema) as writer:
                writer.write_table(self._table)
        except OSError as error:
            raise StorageError("an index of words could not be written to the local disk") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """An index that ``save`` wrote; its pages are read when they are needed first.

        Raises:
            StorageError: The file is gone, or does not hold such an index.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            if not table.schema.equals(_WORDS):
                raise StorageError("the file of an index of words does not hold one")
            return cls(table)
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
            raise StorageError("the file of an index of words does not hold one") from error

    def search(
        self,
        query: str,
        k: int,
        *,
        selection: Selection | None = None,
        check: Callable[[], None] = unchecked,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows that answer a query best, and their scores, the best first and the former of equals.

        Found is what holds a word of the query, if it may be found: ``k`` of them, or all. Each word counts
        once. How rare a word is, is told by the rows that may be found, as if there were no others: whoever
        sees only some rows learns nothing about the rest.

        Args:
            query: A text.
            k: How many.
            selection: Which may be found; all where left out.
            check: Called from time to time; raises where the search shall stop.
        """
        scores = np.zeros(self.count, dtype=np.float32)
        mask = None if selection is None else selection.mask
        available = self.count if selection is None else selection.count
        for step, number in enumerate(self._numbers(query)):
            if step % _MANY == 0:
                check()
            start, end = self._starts[number], self._starts[number + 1]
            positions, weights = self._positions[start:end], self._weights[start:end]
            if mask is not None:
                visible = mask[positions]
                positions, rarity = positions[visible], _rarity(end - start, self.count)
                weights = weights[visible] * np.float32(_rarity(len(positions), available) / rarity)
            scores[positions] += weights
        found = np.flatnonzero(scores)
        if len(found) > k:
            least = np.partition(scores[found], -k)[-k]
            found = found[scores[found] >= least]
        order = np.lexsort((found, -scores[found]))[:k]
        return found[order].astype(np.int64, copy=False), scores[found[order]]

    def _numbers(self, query: str) -> list[int]:
        """Where the words of a query are, ascending; those that no row holds are nowhere."""
        wanted = sorted(set(words(query)))
        if len(wanted) > _MANY:
            found = pc.index_in(self._words, value_set=pa.array(wanted))
            return np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False)).tolist()
        numbers = []
        for word in wanted:
            number = bisect_left(range(len(self._words)), word, key=lambda n: self._words[n].as_py())
            if number < len(self._words) and self._words[number].as_py() == word:
                numbers.append(number)
        return numbers


def _rarity(holding: int, count: int) -> float:
    """What a word weighs that so many of all rows hold (Lucene's inverse document frequency)."""
    return log(1 + (count - holding + 0.5) / (holding + 0.5))


def is_text(kind: pa.DataType) -> bool:
    """Whether words can be taken of a column of that type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(fits(kind) for fits in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _texts(column: pa.ChunkedArray) -> pa.Table:
    if not is_text(column.type):
        raise InvalidRequest(f"words are to be taken of a column of type {column.type}, expected texts")
    return pa.table({"text": column.cast(pa.large_string())})


def _weighed(rows: list[array[int]], count: int) -> tuple[pa.Array, pa.Array]:
    """Of each word the positions that hold it and its weights there."""
    if not count:
        return pa.array([], _WORDS.field("positions").type), pa.array([], _WORDS.field("weights").type)
    made = _bm25().build_index_from_ids(range(count), rows, show_progress=False)
    starts = pa.array(made["indptr"], pa.int64())
    return (
        pa.LargeListArray.from_arrays(starts, pa.array(made["indices"], pa.int32())),
        pa.LargeListArray.from_arrays(starts, pa.array(made["data"], pa.float32())),
    )


def _whole(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _bm25() -> Any:
    """The library, which takes a third of a second to import and is not needed but for building."""
    import bm25s  # noqa: PLC0415

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy", csc_backend="numpy")
