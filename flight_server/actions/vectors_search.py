"""The action that searches a vector index, and what a search is told and gives however it is asked for."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from flight_server.actions.registry import ActionSpec, Permission, ReadingResponse, Response
from flight_server.actions.table_request import guarded_indexes
from flight_server.actions.vector_index import OfIndex
from flight_server.context import CallContext
from flight_server.execution import Recording, kept_result
from lakehouse.catalog.names import fold
from lakehouse.errors import InvalidRequest
from lakehouse.vectors.faiss_index import MOST_RESULTS, Way
from lakehouse.vectors.generation import Generation
from lakehouse.vectors.hybrid import CANDIDATES, RRF_K, Ask, Mode, told
from lakehouse.vectors.indexes import Hits
from lakehouse.vectors.text_queries import embedded_queries

_MOST_QUERIES = 10_000
_MOST_TEXTS = 1000
_MOST_CANDIDATES = 10_000
_MOST_RERANKED = 10_000
_DEFAULT_K = 10
_TOO_MANY = f"expected at most {_MOST_RERANKED} rows to be reranked: texts times candidates (or k)"


class SearchVectorsRequest(OfIndex):
    """What to look for in which index."""

    vectors: list[list[float]] = Field(
        default_factory=list,
        description="one or several queries, each of the index's dimension",
        max_length=_MOST_QUERIES,
    )
    texts: list[str] = Field(
        default_factory=list,
        description="one or several queries instead, for the model that the vectors were made with, for the "
        "words in them, and for a reranker; beside as many vectors in a search that needs both",
        max_length=_MOST_TEXTS,
    )
    mode: Mode = Field(
        default=Mode.VECTOR,
        description="by what rows are found: vector, lexical (their words, by BM25) or hybrid (both, their "
        "ranks fused)",
    )
    k: int | None = Field(
        default=None,
        ge=1,
        le=MOST_RESULTS,
        description="how many to find of each; the profile's, else 10, when left out",
    )
    ef: int | None = Field(default=None, description="effort of the search; the index's own when left out")
    filter: str = Field(default="", description="SQL predicate over the columns of the source table")

    candidates: int = Field(
        default=CANDIDATES,
        ge=1,
        le=_MOST_CANDIDATES,
        description="how many each side of a hybrid search gives, and how many are reranked; k if that is "
        "more",
    )
    rrf_k: int = Field(
        default=RRF_K, ge=0, le=1_000_000, description="what is added to ranks before they are fused"
    )
    rerank: str | None = Field(
        default=None,
        description="one of ai.models that orders the candidates anew; the default one for that when empty",
    )

    @model_validator(mode="after")
    def _queries_that_mode_needs(self) -> Self:
        by_text = self.mode is not Mode.VECTOR or self.rerank is not None
        if by_text and not self.texts:
            raise ValueError("expected texts: there is something to be found or reranked by them")
        if by_text and self.mode is not Mode.LEXICAL and self.vectors:
            if len(self.vectors) != len(self.texts):
                raise ValueError(
                    f"{len(self.vectors)} vectors came with {len(self.texts)} texts, expected as many"
                )
        elif bool(self.vectors) == bool(self.texts):
            raise ValueError("expected either vectors or texts")
        if self.rerank is not None and self.reranked > _MOST_RERANKED:
            raise ValueError(_TOO_MANY)
        return self

    @property
    def reranked(self) -> int:
        """How many rows are reranked at most."""
        return len(self.texts) * max(self.k or _DEFAULT_K, self.candidates)


class SearchVectorsResponse(ReadingResponse):
    """How the search was made, and the ticket of a DoGet that gives what it found.

    The rows have ``query`` (from 0), ``rank`` (from 1) and ``score``, then ``vector_rank`` and
    ``lexical_rank`` in a hybrid search and ``rerank_score`` where they were reranked, and then the columns of
    the index.
    """

    index: str
    generation: str
    way: Way = Field(description="exact, hnsw, hnsw_filtered, hnsw_then_exact or lexical")
    ef: int = Field(description="the effort that was made in the graph; 0 where none was")
    rows: int
    ticket: str = Field(description="a ticket for DoGet, in base64")
    expires_at: datetime = Field(description="until when the ticket can be used")


class SearchAnswer(NamedTuple):
    """What a search found, and how."""

    generation: Generation
    way: Way
    ef: int
    rows: pa.Table


def searched(ctx: CallContext, request: SearchVectorsRequest) -> SearchAnswer:
    """Search an index, on record."""
    request = _settled(ctx, request)
    lengths = sorted({len(vector) for vector in request.vectors})
    if len(lengths) > 1:
        raise InvalidRequest(
            f"the queries have {lengths[0]} and {lengths[1]} dimensions, expected one length"
        )
    with Recording(ctx, f"VECTORS SEARCH {request.index}", "vectors") as recording:
        watch, check = recording.watch(), ctx.stopping()
        if request.mode is Mode.VECTOR and request.rerank is None:
            hits = guarded_indexes(ctx).search(
                request.index,
                _queries(ctx, request, check),
                request.k or _DEFAULT_K,
                ef=request.ef,
                where=request.filter,
                watch=watch,
                check=check,
            )
            answer = SearchAnswer(hits.generation, hits.found.way, hits.found.ef, _result(hits))
        else:
            if request.rerank is not None:
                ctx.lakehouse.ai_calls.admit_reranking(
                    ctx.principal.name, ctx.session.access, request.reranked
                )
            ask = _asked(ctx, request, check)
            if ask.reranker is not None:
                ctx.noted.update(model=ask.reranker.model.name, texts=request.reranked)
            found = guarded_indexes(ctx).ask(
                request.index, ask, where=request.filter, watch=watch, check=check
            )
            rows = _told(told(ask, found), found.rows, found.generation, found.way)
            answer = SearchAnswer(found.generation, found.way, found.ef, rows)
        recording.record.rows = answer.rows.num_rows
    return answer


def _search(ctx: CallContext, request: SearchVectorsRequest) -> Iterator[Response]:
    generation, way, ef, result = searched(ctx, request)
    ticket, expires_at = kept_result(ctx, result)
    yield SearchVectorsResponse(
        index=generation.index,
        generation=generation.id,
        way=way,
        ef=ef,
        rows=result.num_rows,
        ticket=base64.b64encode(ticket).decode("ascii"),
        expires_at=expires_at,
    )


def _settled(ctx: CallContext, request: SearchVectorsRequest) -> SearchVectorsRequest:
    """A request that says all that its profile would: what is activated meanwhile does not matter to it."""
    indexes = guarded_indexes(ctx, request.profile)
    k = request.k or indexes.usual_k(request.index)
    settled = request.model_copy(update={"index": indexes.named(request.index), "k": k})
    if settled.rerank is not None and settled.reranked > _MOST_RERANKED:
        raise InvalidRequest(_TOO_MANY)
    return settled


def _asked(ctx: CallContext, request: SearchVectorsRequest, check: Callable[[], None]) -> Ask:
    return Ask(
        request.mode,
        request.k or _DEFAULT_K,
        None if request.mode is Mode.LEXICAL else _queries(ctx, request, check),
        request.texts,
        request.ef,
        request.candidates,
        request.rrf_k,
        None if request.rerank is None else ctx.lakehouse.ai.reranker(request.rerank or None),
    )


def _queries(
    ctx: CallContext, request: SearchVectorsRequest, check: Callable[[], None]
) -> NDArray[np.floating]:
    """The queries as vectors: of texts those that the model gives which made the index."""
    if request.vectors:
        return np.array(request.vectors, dtype=np.float64)
    generation = guarded_indexes(ctx).find(request.index).generation
    assert generation is not None
    return embedded_queries(generation, request.texts, ctx.lakehouse.ai, check)


def _result(hits: Hits) -> pa.Table:
    queries, k = hits.found.positions.shape
    columns = {
        "query": pa.array(np.repeat(np.arange(queries, dtype=np.int32), k)),
        "rank": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), queries)),
        "score": pa.array(hits.found.scores.ravel()),
    }
    return _told(columns, hits.rows, hits.generation, hits.found.way)


def _told(own: dict[str, pa.Array], rows: pa.Table, generation: Generation, way: Way) -> pa.Table:
    """What was found, after columns that tell how; these are named otherwise where the index has such."""
    taken = {fold(name) for name in rows.column_names}
    columns: dict[str, pa.Array] = {}
    for wanted, column in own.items():
        name = wanted
        while name in taken:
            name = f"_{name}"
        columns[name] = column
    columns.update(zip(rows.column_names, rows.columns, strict=True))
    told = {"vectors.way": str(way), "vectors.generation": generation.id}
    return pa.table(columns).replace_schema_metadata(told)


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "vectors.search",
        "The nearest vectors of one or many queries, with their rows, as a ticket for DoGet",
        SearchVectorsRequest,
        SearchVectorsResponse,
        _search,
        Permission.READ,
    ),
)
