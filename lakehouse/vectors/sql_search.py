"""Vector indexes as statements search them: ``FROM vector_search(…)``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakehouse.access.model_quota import ModelQuota
from lakehouse.ai.models import Models
from lakehouse.ai.provider import Purpose
from lakehouse.catalog.names import fold
from lakehouse.engine.engine import Engine
from lakehouse.engine.running import CallWatch
from lakehouse.engine.semantics import Search, SearchColumns
from lakehouse.engine.session import Session
from lakehouse.errors import InvalidRequest, LakehouseError, LimitExceeded
from lakehouse.vectors.generation import Generation
from lakehouse.vectors.generation_store import IndexDamaged
from lakehouse.vectors.guarded_indexes import GuardedIndexes
from lakehouse.vectors.hybrid import Ask, Mode, told
from lakehouse.vectors.indexes import Hits, VectorIndexes
from lakehouse.vectors.text_queries import embedded_queries

_KEPT_SCHEMAS = 1000
_EMBEDDED_AT_ONCE = 256
RANK, SCORE = pa.field("rank", pa.int32()), pa.field("score", pa.float32())


class SqlSearch:
    """Searches that statements make; see ``Semantics``.

    Args:
        indexes: All indexes.
        engine: Reads the tables that they were made from.
        models: Embed queries that are texts.
        calls: How many statements of a principal may ask models.
    """

    def __init__(self, indexes: VectorIndexes, engine: Engine, models: Models, calls: ModelQuota) -> None:
        self._calls = calls
        self._indexes = indexes
        self._engine = engine
        self._models = models
        self._lock = threading.Lock()
        self._schemas: OrderedDict[tuple[str, str], pa.Schema] = OrderedDict()

    def columns(self, index: str, session: Session) -> SearchColumns:
        """What a search in an index gives; see ``Semantics``."""
        guarded = GuardedIndexes(self._indexes, self._engine, session)
        generation = guarded.find(index).generation
        assert generation is not None
        try:
            schema = self._schema(generation)
        except IndexDamaged:
            # A search finds that out as well, and has the index built again.
            guarded.search(index, np.ones(generation.dimension, np.float32), 1)
            generation = guarded.find(index).generation
            assert generation is not None
            schema = self._schema(generation)
        return SearchColumns(schema, generation.guard.table)

    def search(self, wanted: Search, session: Session, check: Callable[[], None]) -> pa.Table:
        """The nearest of a query; see ``Semantics``."""
        guarded = GuardedIndexes(self._indexes, self._engine, session)
        if wanted.query is None:
            return self.columns(wanted.index, session).schema.empty_table()
        watch = CallWatch(lambda: _stops(check), nested=True)
        if wanted.mode != Mode.VECTOR or wanted.rerank is not None:
            if wanted.rerank is not None:
                self._calls.admit_reranking(session.principal.name, session.access, wanted.k)
            return self._ranked(wanted, guarded, watch, check)
        if isinstance(wanted.query, str):
            generation = guarded.find(wanted.index).generation
            assert generation is not None
            query = embedded_queries(generation, [wanted.query], self._models, check)
        else:
            query = np.asarray(wanted.query, dtype=np.float64)
        hits = guarded.search(
            wanted.index, query, wanted.k, ef=wanted.ef, where=wanted.where, watch=watch, check=check
        )
        return found_rows(hits)

    def admit(self, principal: str) -> None:
        """Count a statement that asks models; see ``Semantics``."""
        self._calls.admit(principal)

    def vectors(
        self, texts: Sequence[str], model: str, purpose: str, check: Callable[[], None]
    ) -> NDArray[np.float32]:
        """The vectors of texts; see ``Semantics``."""
        most = self._models.settings.max_text_bytes
        size = max((len(text.encode()) for text in texts if len(text) * 4 > most), default=0)
        if size > most:
            raise LimitExceeded(f"a text has {size} bytes, at most {most} are embedded", "ai.max_text_bytes")
        embedder = self._models.embedder(model or None)
        parts = []
        for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
            check()
            some = texts[start : start + _EMBEDDED_AT_ONCE]
            parts.append(embedder.embed(some, purpose=Purpose(purpose), check=check))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _ranked(
        self, wanted: Search, guarded: GuardedIndexes, watch: CallWatch, check: Callable[[], None]
    ) -> pa.Table:
        """What a query finds by words, or by both, and what a model orders anew."""
        if wanted.mode not in set(Mode):
            raise InvalidRequest(
                f"vector_search: mode is {', '.join(map(repr, map(str, Mode)))}, found {wanted.mode!r:.100}"
            )
        if not isinstance(wanted.query, str):
            raise InvalidRequest(
                "vector_search: the query is a list of numbers, expected a text: something is to be found or "
                "reranked by it"
            )
        vectors = None
        if wanted.mode != Mode.LEXICAL:
            generation = guarded.find(wanted.index).generation
            assert generation is not None
            vectors = embedded_queries(generation, [wanted.query], self._models, check)
        reranker = None if wanted.rerank is None else self._models.reranker(wanted.rerank or None)
        ask = Ask(Mode(wanted.mode), wanted.k, vectors, [wanted.query], wanted.ef, reranker=reranker)
        found = guarded.ask(wanted.index, ask, where=wanted.where, watch=watch, check=check)
        own = told(ask, found)
        schema = result_schema(found.rows.schema)
        return pa.table([own["rank"], own["score"], *found.rows.columns], schema=schema)

    def _schema(self, generation: Generation) -> pa.Schema:
        key = (generation.index, generation.id)
        known = self._schemas.get(key)
        if known is None:
            with self._indexes.loader.held(generation) as loaded:
                known = result_schema(loaded.rows.schema)
            with self._lock:
                self._schemas[key] = known
                if len(self._schemas) > _KEPT_SCHEMAS:
                    self._schemas.popitem(last=False)
        return known


def result_schema(rows: pa.Schema) -> pa.Schema:
    """The columns of a search: rank and score, with _ before where the rows have such columns."""
    taken = {fold(name) for name in rows.names}
    own = []
    for field in (RANK, SCORE):
        name = field.name
        while name in taken:
            name = f"_{name}"
        own.append(field.with_name(name))
    return pa.schema([*own, *(field.remove_metadata() for field in rows)])


def found_rows(hits: Hits) -> pa.Table:
    """What a search by one query found, in the columns of ``result_schema``, the nearest first."""
    count = hits.found.positions.shape[1] if len(hits.found.positions) else 0
    schema = result_schema(hits.rows.schema)
    columns = [
        pa.array(np.arange(1, count + 1, dtype=np.int32)),
        pa.array(hits.found.scores.ravel()),
        *hits.rows.columns,
    ]
    return pa.table(columns, schema=schema)


def _stops(check: Callable[[], None]) -> bool:
    try:
        check()
    except LakehouseError:
        return True
    return False
