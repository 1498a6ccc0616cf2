"""Makes evaluation sets: chooses or generates queries, and finds their true neighbours by exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakehouse.ai.models import Models
from lakehouse.ai.provider import Check, Message, Sampling, TextGenerator
from lakehouse.clock import Clock
from lakehouse.errors import InvalidRequest
from lakehouse.journal.change_event import current_origin
from lakehouse.vectors.faiss_index import EXACT_COUNT, VectorIndex, Vectors, build_threads
from lakehouse.vectors.generation import Generation
from lakehouse.vectors.indexes import Progress, VectorIndexes
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric
from lakehouse.vectors.text_queries import embedded_queries
from lakehouse.vectors.trials.evaluation import Evaluation, EvaluationSet, EvaluationStore, Queries
from lakehouse.vectors.trials.measuring import scores
from lakehouse.vectors.trials.table_vectors import SnapshotVectors, TableVectors

MOST_QUERIES, MOST_GENERATED, MOST_NEIGHBOURS = 10_000, 500, 100
_BATCH = 16
_WAIT_SECONDS = 0.2
_TEXT_CHARACTERS = 2000
_INSTRUCTION = (
    "Write one short question, in the language of the text, that somebody would type into a search engine "
    "and that this text answers. Answer with the question only."
)
_QUESTION = Sampling(max_tokens=60, temperature=0.7, seed=0)


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What evaluation set to make.

    Attributes:
        kind: Where the queries come from.
        queries: How many; a tenth of the vectors, at most 500 of them (50 generated ones), where left out.
        k: How many neighbours of each.
        seed: Which are drawn.
        model: What generates the questions, one of ``ai.models``.
        text_column: The column of the texts that they are made from.

    Raises:
        InvalidRequest: A value is out of bounds.
    """

    kind: Queries = Queries.HELD_OUT
    queries: int | None = None
    k: int = 10
    seed: int = 0
    model: str = ""
    text_column: str = "chunk_text"

    def __post_init__(self) -> None:
        most = MOST_GENERATED if self.kind is Queries.GENERATED else MOST_QUERIES
        if self.queries is not None and not 1 <= self.queries <= most:
            raise InvalidRequest(f"queries = {self.queries}, expected 1 to {most}")
        if not 1 <= self.k <= MOST_NEIGHBOURS:
            raise InvalidRequest(f"k = {self.k}, expected 1 to {MOST_NEIGHBOURS}")
        if self.seed < 0:
            raise InvalidRequest(f"seed = {self.seed}, expected at least 0")

    def count(self, vectors: int, index: str) -> int:
        """How many queries of so many vectors.

        Raises:
            InvalidRequest: Of so few vectors each is compared in any case.
        """
        held_out = self.kind is Queries.HELD_OUT
        most = 500 if held_out else 50
        count = self.queries if self.queries is not None else max(1, min(most, vectors // 10))
        left = vectors - count if held_out else vectors
        if left <= EXACT_COUNT:
            without = f" without {count} queries" if held_out else ""
            raise InvalidRequest(
                f"the vector index '{index}' has {vectors} vectors{without}: of {EXACT_COUNT} or fewer each "
                "is compared whatever the parameters, so there is nothing to try"
            )
        return count


def drawn(count: int, of: int, seed: int) -> NDArray[np.int64]:
    """Some positions, each once, in order."""
    found: NDArray[np.int64] = np.sort(np.random.default_rng(seed).choice(of, count, replace=False))
    return found.astype(np.int64)


def kept(vectors: int, held_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions that are left."""
    mask = np.ones(vectors, bool)
    mask[held_out] = False
    return np.flatnonzero(mask).astype(np.int64)


def neighbours(
    index: VectorIndex, queries: Vectors, k: int, check: Callable[[], None], progress: Callable[[float], None]
) -> NDArray[np.int64]:
    """The positions of the true neighbours of queries, in an index that compares every vector."""
    found = []
    for start in range(0, len(queries), _BATCH):
        check()
        found.append(index.search(queries[start : start + _BATCH], k).positions)
        progress(min(1.0, (start + _BATCH) / len(queries)))
    return np.concatenate(found)


def worst_of(
    queries: Vectors,
    vectors: Vectors,
    positions: NDArray[np.int64],
    metric: Metric,
    check: Callable[[], None],
) -> NDArray[np.float32]:
    """The score of the farthest of the true neighbours of each query."""
    found = []
    for start in range(0, len(queries), _BATCH):
        check()
        part = slice(start, start + _BATCH)
        each = scores(queries[part], vectors, positions[part], metric)
        found.append(each.min(axis=1) if metric.greater_is_closer else each.max(axis=1))
    return np.concatenate(found)


def exact(vectors: Vectors, metric: Metric, check: Callable[[], None]) -> VectorIndex:
    """What compares every vector.

    Raises:
        InvalidRequest: A vector is not finite, or has no direction and the metric is cosine.
    """
    return VectorIndex.build(vectors, IndexParameters(metric, Algorithm.EXACT), check=check)


def questions(
    generator: TextGenerator,
    texts: Sequence[str | None],
    positions: NDArray[np.int64],
    count: int,
    check: Check,
    progress: Callable[[float], None],
    turn: Callable[[], float] = lambda: 0.0,
) -> tuple[list[str], NDArray[np.int64]]:
    """Questions that a model made of texts, and of which; texts of which it makes none are passed over.

    Args:
        generator: The model.
        texts: All texts.
        positions: Those that may be taken, in the order in which they are.
        count: How many questions.
        check: Raises where the work shall stop.
        progress: Told the share that is done.
        turn: Takes a turn of asking the model; gives the seconds to wait where there is none now.

    Raises:
        InvalidRequest: It made too few.
        ModelUnavailable, ModelFailed: It does not answer.
    """
    found: list[str] = []
    made_of: list[int] = []
    for position in positions.tolist():
        check()
        text = (texts[position] or "").strip()
        if not text:
            continue
        while (seconds := turn()) > 0:
            check()
            time.sleep(min(seconds, _WAIT_SECONDS))
        said = Message("user", f"{_INSTRUCTION}\n\n{text[:_TEXT_CHARACTERS]}")
        answer = "".join(generator.chat([said], _QUESTION, check=check))
        question = next((line.strip(" \t\"'*") for line in answer.splitlines() if line.strip(" \t\"'*")), "")
        if question:
            found.append(question)
            made_of.append(position)
            progress(len(found) / count)
        if len(found) == count:
            break
    if len(found) < count:
        raise InvalidRequest(
            f"of {len(positions)} texts the model made {len(found)} questions, wanted {count}"
        )
    return found, np.array(made_of, np.int64)


class EvaluationMaker:
    """Makes evaluation sets of the tables of indexes.

    Args:
        vectors: Gives the vectors of the tables.
        models: What generates and embeds questions.
        indexes: Whose turns of building it takes.
        store: Where the sets are kept.
        clock: Source of time.
        threads: How many compare vectors at once.
    """

    def __init__(
        self,
        vectors: SnapshotVectors,
        models: Models,
        indexes: VectorIndexes,
        store: EvaluationStore,
        clock: Clock,
        threads: int,
    ) -> None:
        self._vectors = vectors
        self._models = models
        self._indexes = indexes
        self._store = store
        self._clock = clock
        self._threads = threads

    def make(
        self,
        generation: Generation,
        request: EvaluationRequest,
        check: Callable[[], None],
        progress: Progress,
        turn: Callable[[], float],
    ) -> Evaluation:
        """Make a set of the table of an index as it is now, and keep it, as ``Trials.autogen`` is told to.

        Raises:
            InvalidRequest: There are too few vectors, or one cannot be compared.
            LakehouseError: The table cannot be read, or a model does not answer.
        """
        progress(0.0, f"reading {generation.source.table}")
        found = self._vectors.read(generation.source, None, check)
        vectors, metric = found.vectors, generation.parameters.metric
        count = request.count(len(vectors), generation.index)
        texts: tuple[str, ...] = ()
        if request.kind is Queries.HELD_OUT:
            positions = drawn(count, len(vectors), request.seed)
            queries, left = vectors[positions], kept(len(vectors), positions)
        else:
            texts, positions = self._questions(generation, request, found, count, check, progress, turn)
            queries = embedded_queries(generation, texts, self._models, check, "take held_out queries")
            left = np.arange(len(vectors), dtype=np.int64)
        progress(0.5, f"comparing {count} queries with {len(left)} vectors")
        with self._indexes.building(check), build_threads(self._threads):
            index = exact(vectors[left] if len(left) < len(vectors) else vectors, metric, check)
            near = left[
                neighbours(
                    index,
                    queries,
                    request.k,
                    check,
                    lambda share: progress(0.5 + 0.4 * share, f"comparing: {share:.0%}"),
                )
            ]
        evaluation = Evaluation(
            id=self._store.new_id(),
            index=generation.index,
            created_at=self._clock.now(),
            created_by=current_origin().actor,
            kind=request.kind,
            model=self._models.generator(request.model or None).model.name if texts else "",
            table=generation.source.table,
            table_uuid=generation.source.table_uuid,
            snapshot_id=found.snapshot_id,
            column=generation.source.column,
            metric=metric,
            k=request.k,
            queries=count,
            vectors=len(vectors),
            dimension=vectors.shape[1],
            vectors_sha256=found.sha256,
        )
        worst = worst_of(queries, vectors, near, metric, check)
        return self._store.put(EvaluationSet(evaluation, queries, positions, near, worst, texts))

    def _questions(
        self,
        generation: Generation,
        request: EvaluationRequest,
        found: TableVectors,
        count: int,
        check: Callable[[], None],
        progress: Progress,
        turn: Callable[[], float],
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Questions that a model made of texts beside the vectors, and the positions of these."""
        generator = self._models.generator(request.model or None)
        texts = self._vectors.texts_beside(found, generation.source, request.text_column, check)
        order = np.random.default_rng(request.seed).permutation(len(texts))[: 2 * count + 10]
        asked, positions = questions(
            generator,
            texts,
            order.astype(np.int64),
            count,
            check,
            lambda share: progress(0.1 + 0.3 * share, f"asking the model: {share:.0%}"),
            turn,
        )
        return tuple(asked), positions
