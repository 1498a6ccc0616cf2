"""Searches by meaning, by words, or by both at once, and what a model makes of their order.

Two searches are made one by the ranks that they give (reciprocal rank fusion; Cormack, Clarke and Büttcher,
2009): scores of vectors and of words cannot be compared, ranks can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from lakehouse.ai.provider import Reranker
from lakehouse.ai.reranking import UNSCORED
from lakehouse.errors import InvalidRequest
from lakehouse.vectors.embeddings import CHUNK_TEXT
from lakehouse.vectors.faiss_index import MOST_RESULTS, Found, Way
from lakehouse.vectors.generation import Generation, LexicalPart
from lakehouse.vectors.lexical import LexicalIndex
from lakehouse.vectors.loader import LoadedIndex
from lakehouse.vectors.selection import Selection
from lakehouse.vectors.words import WORDS

RRF_K = 60
"""What Cormack, Clarke and Büttcher found to be best, and everybody takes."""
CANDIDATES = 100
ABSENT = 0
"""The rank of what a side did not find among its candidates."""


class Mode(StrEnum):
    """By what rows are found."""

    VECTOR = "vector"
    """By the nearness of their vectors."""
    LEXICAL = "lexical"
    """By the words that they have in common with the query."""
    HYBRID = "hybrid"
    """By both: the ranks of the two are fused."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """What is sought.

    Attributes:
        mode: By what.
        k: How many of each query.
        vectors: The queries as vectors, where ``mode`` needs them.
        texts: The queries as texts, where ``mode`` or a reranker needs them; as many as ``vectors``.
        ef: How many candidates to look at in the graph; see ``VectorIndex.search``.
        candidates: How many each side gives, and of how many a reranker says the order; ``k`` if
            that is more.
        rrf_k: What is added to ranks before they are fused: the greater, the less the first ones count.
        reranker: What orders the candidates anew; None leaves them as they are.

    Raises:
        InvalidRequest: ``k`` is out of bounds.
    """

    mode: Mode
    k: int
    vectors: ArrayLike | None = None
    texts: Sequence[str] = ()
    ef: int | None = None
    candidates: int = CANDIDATES
    rrf_k: int = RRF_K
    reranker: Reranker | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST_RESULTS:
            raise InvalidRequest(f"k = {self.k!r}, expected a whole number from 1 to {MOST_RESULTS}")

    @property
    def depth(self) -> int:
        """How many rows of each query are looked at."""
        if self.mode is Mode.HYBRID or self.reranker is not None:
            return min(max(self.k, self.candidates), MOST_RESULTS)
        return self.k


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The rows that answer one query, the best first.

    Attributes:
        positions: Int64, where they are in the index.
        scores: Float32: cosine, inner product or distance; of words BM25; of both the sum of fused ranks.
        vector_ranks: Int32, from 1; ``ABSENT`` where vectors did not find it.
        lexical_ranks: Int32, from 1; ``ABSENT`` where words did not find it.
        rerank_scores: Float32, what the reranker said; None where there was none.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]
    vector_ranks: NDArray[np.int32]
    lexical_ranks: NDArray[np.int32]
    rerank_scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def taken(self, order: NDArray[np.int64]) -> Ranked:
        """The same in another order, or some of them."""
        again = self.rerank_scores
        return Ranked(
            self.positions[order],
            self.scores[order],
            self.vector_ranks[order],
            self.lexical_ranks[order],
            None if again is None else again[order],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """What a search found.

    Attributes:
        generation: Where.
        way: How.
        ef: How many candidates were looked at in the graph; 0 where it was not asked.
        queries: Of each query its rows.
        rows: What the table has of them beside the vectors: those of the first query, then of the second …
        texts: What a reranker is to read of each of these rows.
    """

    generation: Generation
    way: Way
    ef: int
    queries: tuple[Ranked, ...]
    rows: pa.Table
    texts: pa.ChunkedArray | None = None


def matches(
    ask: Ask,
    loaded: LoadedIndex,
    words: LexicalIndex | None,
    selection: Selection | None,
    column: str,
    check: Callable[[], None],
) -> Matches:
    """The rows of an index that answer queries best, before a reranker has seen them.

    Args:
        ask: What is sought.
        loaded: The index.
        words: Its index of words, where ``ask.mode`` needs it.
        selection: Which rows may be found; all where left out.
        column: The column that the reranker is to read; empty where there is none.
        check: Raises where the search shall stop.

    Raises:
        InvalidRequest: A query does not fit.
    """
    depth = ask.depth
    found: Found | None = None
    sides: list[list[Ranked]] = []
    if ask.mode is not Mode.LEXICAL:
        assert ask.vectors is not None
        found = loaded.index.search(ask.vectors, depth, ef=ask.ef, selection=selection)
        sides.append([_by_vectors(*each) for each in zip(found.positions, found.scores, strict=True)])
    if ask.mode is not Mode.VECTOR:
        assert words is not None
        by_words = (words.search(text, depth, selection=selection, check=check) for text in ask.texts)
        sides.append([_by_words(*each) for each in by_words])
    ranked = sides[0]
    if len(sides) > 1:
        ranked = [fused(*each, rrf_k=ask.rrf_k) for each in zip(*sides, strict=True)]
    kept = depth if ask.reranker is not None else ask.k
    ranked = [each.taken(np.arange(min(kept, len(each)))) for each in ranked]
    positions = np.concatenate([each.positions for each in ranked])
    way, ef = (Way.LEXICAL, 0) if found is None else (found.way, found.ef)
    rows = loaded.rows.take(pa.array(positions))
    texts = rows[column] if column else None
    return Matches(loaded.generation, way, ef, tuple(ranked), rows, texts)


def fused(near: Ranked, alike: Ranked, *, rrf_k: int = RRF_K) -> Ranked:
    """What two searches for one query found, ordered by the sum of ``1 / (rrf_k + rank)``.

    Of equals the one comes first that vectors found before the other.

    Args:
        near: What vectors found.
        alike: What words found.
        rrf_k: See ``Ask``.
    """
    positions, where = np.unique(np.concatenate([near.positions, alike.positions]), return_inverse=True)
    ranks = np.zeros((2, len(positions)), np.int32)
    ranks[0, where[: len(near)]] = near.vector_ranks
    ranks[1, where[len(near) :]] = alike.lexical_ranks
    shares = np.zeros(ranks.shape)
    np.divide(1.0, rrf_k + ranks, out=shares, where=ranks != ABSENT)
    scores = shares.sum(axis=0)
    last = np.where(ranks[0] == ABSENT, np.iinfo(np.int32).max, ranks[0])
    order = np.lexsort((positions, last, -scores))
    return Ranked(positions, scores.astype(np.float32), ranks[0], ranks[1]).taken(order)


def reranked(ask: Ask, found: Matches, check: Callable[[], None]) -> Matches:
    """The ``k`` rows of each query that a reranker says are best; of equals the former comes first.

    Rows come last that have no text, or for which a generating model said no score.

    Args:
        ask: What was sought.
        found: What was found, ``candidates`` rows of each query.
        check: Raises where it shall stop.

    Raises:
        LakehouseError: The model does not answer, or no scores.
    """
    assert ask.reranker is not None
    assert found.texts is not None
    ranked, taken, start = [], [], 0
    for query, each in zip(ask.texts, found.queries, strict=True):
        check()
        read = found.texts.slice(start, len(each)).to_pylist()
        scores = np.full(len(each), -np.inf, np.float32)
        there = np.flatnonzero([bool(text) for text in read])
        if len(there):
            said = ask.reranker.rerank(query, [read[i] for i in there], check=check)
            is_unsure = ask.reranker.method == "generate"
            scores[there] = np.where(said == UNSCORED, -np.inf, said) if is_unsure else said
        order = np.argsort(-scores, kind="stable")[: ask.k]
        ranked.append(replace(each, rerank_scores=scores).taken(order))
        taken.append(start + order)
        start += len(each)
    rows = found.rows.take(pa.array(np.concatenate(taken)))
    return replace(found, queries=tuple(ranked), rows=rows, texts=None)


def lexical_part(generation: Generation) -> LexicalPart:
    """The index of words of a generation.

    Raises:
        InvalidRequest: It has none, or one of words that were taken in another way.
    """
    part = generation.lexical
    if part is None or part.words != WORDS:
        what = "no words to be searched by" if part is None else "words that another version took"
        raise InvalidRequest(
            f"the vector index '{generation.index}' has {what}",
            "vectors.build makes a generation that has: lexical names the column of the texts "
            f"({CHUNK_TEXT} where left out)",
        )
    return part


def text_column(generation: Generation) -> str:
    """The column of an index that a reranker reads.

    Raises:
        InvalidRequest: It has none.
    """
    if generation.lexical is not None:
        return generation.lexical.column
    if CHUNK_TEXT in generation.source.rows:
        return CHUNK_TEXT
    raise InvalidRequest(
        f"nobody said which column of the vector index '{generation.index}' holds texts to be reranked",
        "vectors.build with lexical = that column makes another generation of it",
    )


def told(ask: Ask, found: Matches) -> dict[str, pa.Array]:
    """The columns that say how rows were found: ``query`` (from 0), ``rank`` (from 1), ``score`` and more."""
    queries = found.queries
    lengths = [len(each) for each in queries]
    columns = {
        "query": pa.array(np.repeat(np.arange(len(queries), dtype=np.int32), lengths)),
        "rank": pa.array(np.concatenate([_ranks(length) for length in lengths])),
        "score": pa.array(np.concatenate([each.scores for each in queries])),
    }
    if ask.mode is Mode.HYBRID:
        for name in ("vector_rank", "lexical_rank"):
            ranks = np.concatenate([getattr(each, f"{name}s") for each in queries])
            columns[name] = pa.array(ranks, mask=ranks == ABSENT)
    if ask.reranker is not None:
        scores = np.concatenate([each.rerank_scores for each in queries])
        columns["rerank_score"] = pa.array(scores, mask=np.isneginf(scores))
    return columns


def _by_vectors(positions: NDArray[np.int64], scores: NDArray[np.float32]) -> Ranked:
    return Ranked(positions, scores, _ranks(len(positions)), np.zeros(len(positions), np.int32))


def _by_words(positions: NDArray[np.int64], scores: NDArray[np.float32]) -> Ranked:
    return Ranked(positions, scores, np.zeros(len(positions), np.int32), _ranks(len(positions)))


def _ranks(count: int) -> NDArray[np.int32]:
    return np.arange(1, count + 1, dtype=np.int32)
