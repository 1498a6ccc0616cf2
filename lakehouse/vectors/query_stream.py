"""Queries that keep coming, batch after batch, each answered from the index that is live then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakehouse.ai.models import Models
from lakehouse.catalog.names import fold
from lakehouse.engine.running import CallWatch
from lakehouse.engine.semantics import fitting
from lakehouse.errors import InvalidRequest
from lakehouse.vectors.faiss_index import Way
from lakehouse.vectors.guarded_indexes import GuardedIndexes
from lakehouse.vectors.indexes import Hits
from lakehouse.vectors.sql_search import result_schema
from lakehouse.vectors.text_queries import embedded_queries

TEXT, VECTOR = "text", "vector"
QUERY = pa.field("query", pa.int64())
_MOST_QUERIES = 1000
_MOST_ROWS = 500_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is sought for every query of a stream.

    Attributes:
        index: The name of the index.
        k: How many to find of each.
        ef: The effort; None for the index's own.
        where: SQL predicate over the table that the index was made from; empty for all rows.
    """

    index: str
    k: int
    ef: int | None
    where: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What some queries found.

    Attributes:
        rows: In the columns of the stream.
        queries: How many queries of the stream are answered now.
        way: How that was found; None where nothing was sought.
        generation: Where.
    """

    rows: pa.Table
    queries: int
    way: Way | None
    generation: str


class QueryStream:
    """Answers batches of queries for one caller.

    Args:
        indexes: The indexes, as the caller sees them.
        models: Embed queries that are texts.
        wanted: What is sought.
        queries: The schema of the batches to come: a column ``text``, or ``vector``.
        found: What a search gives: rank, score, and the columns of the index.
        watch: How a query for the filter learns to stop.
        check: Raises where the work shall stop.

    Attributes:
        schema: The columns of the answers: ``query``, which counts the queries of the stream from 0,
            ``rank``, ``score`` and those of the index.

    Raises:
        InvalidRequest: The batches to come have no queries.
    """

    def __init__(
        self,
        indexes: GuardedIndexes,
        models: Models,
        wanted: Wanted,
        queries: pa.Schema,
        found: pa.Schema,
        watch: CallWatch,
        check: Callable[[], None],
    ) -> None:
        self._indexes = indexes
        self._models = models
        self._wanted = wanted
        self._column = _column(queries)
        self._found = found
        self._watch = watch
        self._check = check
        self._answered = 0
        name = QUERY.name
        while name in {fold(each) for each in found.names}:
            name = f"_{name}"
        self.schema = pa.schema([QUERY.with_name(name), *found])

    def answers(self, batch: pa.RecordBatch) -> Iterator[Answer]:
        """What the queries of a batch find, in parts of bounded size.

        Raises:
            InvalidRequest: A query does not fit; the error says which.
            LakehouseError: The index is not there any more, or the model cannot be asked.
        """
        column = batch.column(self._column)
        at_once = max(1, min(_MOST_QUERIES, _MOST_ROWS // max(1, self._wanted.k)))
        for start in range(0, len(column), at_once):
            self._check()
            yield self._answer(column.slice(start, at_once))

    def _answer(self, queries: pa.Array) -> Answer:
        first, self._answered = self._answered, self._answered + len(queries)
        numbers = np.flatnonzero(queries.is_valid().to_numpy(zero_copy_only=False)) + first
        if not len(numbers):
            return Answer(self.schema.empty_table(), self._answered, None, "")
        vectors = self._vectors(queries.drop_null(), numbers)
        hits = self._search(vectors, numbers)
        return Answer(self._rows(hits, numbers), self._answered, hits.found.way, hits.generation.id)

    def _vectors(self, queries: pa.Array, numbers: NDArray[np.int64]) -> NDArray[np.floating]:
        if self._column == TEXT:
            generation = self._indexes.find(self._wanted.index).generation
            assert generation is not None
            return embedded_queries(generation, queries.to_pylist(), self._models, self._check)
        lengths = pc.list_value_length(queries).to_numpy()
        wrong = np.flatnonzero(lengths != lengths[0])
        if len(wrong):
            at = wrong[0]
            raise InvalidRequest(
                f"query {numbers[at]} has {lengths[at]} dimensions, query {numbers[0]} has {lengths[0]}",
                "expected one length",
            )
        flat = pc.list_flatten(queries)
        if flat.null_count:
            at = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // int(lengths[0])
            raise InvalidRequest(f"query {numbers[at]}: a number of the vector is missing")
        numbers_in_all: NDArray[np.float32] = flat.cast(pa.float32(), safe=False).to_numpy()
        return numbers_in_all.reshape(len(queries), -1)

    def _search(self, vectors: NDArray[np.floating], numbers: NDArray[np.int64]) -> Hits:
        try:
            return self._once(vectors)
        except InvalidRequest as error:
            # Which of them is at fault is found by asking each alone.
            for number, each in zip(numbers, vectors, strict=True):
                self._check()
                try:
                    self._once(each[None, :])
                except InvalidRequest as own:
                    raise InvalidRequest(f"query {number}: {own.message}", own.hint) from error
            raise

    def _once(self, vectors: NDArray[np.floating]) -> Hits:
        wanted = self._wanted
        return self._indexes.search(
            wanted.index,
            vectors,
            wanted.k,
            ef=wanted.ef,
            where=wanted.where,
            watch=self._watch,
            check=self._check,
        )

    def _rows(self, hits: Hits, numbers: NDArray[np.int64]) -> pa.Table:
        count = hits.found.positions.shape[1]
        columns = [
            pa.array(np.tile(np.arange(1, count + 1, dtype=np.int32), len(numbers))),
            pa.array(hits.found.scores.ravel()),
            *hits.rows.columns,
        ]
        found = pa.table(columns, schema=result_schema(hits.rows.schema))
        fit = fitting(found, self._found, self._wanted.index)
        return pa.table([pa.array(np.repeat(numbers, count)), *fit.columns], schema=self.schema)


def _column(queries: pa.Schema) -> str:
    there = [name for name in (TEXT, VECTOR) if queries.get_all_field_indices(name)]
    if len(there) != 1 or len(queries.get_all_field_indices(there[0])) != 1:
        raise InvalidRequest(
            f"queries came with the columns {', '.join(queries.names) or 'none'}",
            f"expected one column {TEXT} (texts) or {VECTOR} (lists of numbers)",
        )
    kind = queries.field(there[0]).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    is_vector = is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    if not (is_text if there[0] == TEXT else is_vector):
        wanted = "text" if there[0] == TEXT else "a list of numbers"
        raise InvalidRequest(f"the column {there[0]} of the queries is {kind}, expected {wanted}")
    return there[0]
