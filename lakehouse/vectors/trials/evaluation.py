"""Evaluation sets: queries with the neighbours that exact search finds, each one object of the bucket.

``{PREFIX}/{index}/{id}.{sha256}.parquet`` is put once and never changed: its name has the hash of its
content, its schema's metadata says what it was made of. Those of a profile's indexes are below
``{PROFILES}/{profile}/evaluations/`` instead of ``{PREFIX}/``, in its own bucket where it has one.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from lakehouse.clock import Clock
from lakehouse.errors import EvaluationNotFound, LakehouseError, ObjectNotFound, StorageError
from lakehouse.storage import Bucket
from lakehouse.types import TableName
from lakehouse.vectors.faiss_index import Vectors
from lakehouse.vectors.generation import parted_name
from lakehouse.vectors.generation_store import PROFILES
from lakehouse.vectors.parameters import Metric

PREFIX = "_vectors/evaluations"
FORMAT = 1
KEPT = 10
"""Of one index so many evaluation sets are kept, the newest."""
_NAME = re.compile(r"([0-9a-f]{14}-[0-9a-f]{8})\.([0-9a-f]{64})\.parquet")
_TOLD = b"lakehouse.evaluation"
_log = structlog.get_logger()


class Queries(StrEnum):
    """Where the queries of an evaluation set come from."""

    HELD_OUT = "held_out"
    """Vectors of the index's own table, which are left out of the indexes that are tried."""
    GENERATED = "generated"
    """A model was asked for questions that texts of the table answer; nothing is left out."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of an evaluation set. It never changes.

    Attributes:
        id: Tells it from all others of the index; ids of later ones are greater.
        index: The index that it was made for.
        created_at: When, in UTC.
        created_by: Whose call that was.
        kind: Where the queries come from.
        model: What generated them; empty where nothing did.
        table: The table of the vectors.
        table_uuid: Its id.
        snapshot_id: The snapshot that was read; None where the table had none.
        column: The column of the vectors.
        metric: How vectors are compared.
        k: How many neighbours each query has.
        queries: How many there are.
        vectors: How many vectors the table had, those that are queries among them.
        dimension: Of the vectors.
        vectors_sha256: Of all of them in the order in which they are read, as float32.
        size_bytes: Of the object.
    """

    id: str
    index: str
    created_at: datetime
    created_by: str
    kind: Queries
    model: str
    table: TableName
    table_uuid: str
    snapshot_id: int | None
    column: str
    metric: Metric
    k: int
    queries: int
    vectors: int
    dimension: int
    vectors_sha256: str
    size_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        table = [self.table.catalog, self.table.schema, self.table.table]
        at = self.created_at.isoformat()
        return {**asdict(self), "format": FORMAT, "table": table, "created_at": at}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError, TypeError, KeyError: It is something else, or of a later format.
        """
        values = dict(told)
        if values.pop("format") != FORMAT:
            raise ValueError(f"format {told['format']!r}, expected {FORMAT}")
        values["table"] = TableName(*told["table"])
        values["created_at"] = datetime.fromisoformat(told["created_at"])
        values["kind"], values["metric"] = Queries(told["kind"]), Metric(told["metric"])
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """The queries of an evaluation, and what exact search finds for them.

    Attributes:
        evaluation: What is known of it.
        queries: Float32 of shape ``(queries, dimension)``.
        positions: Int64 of shape ``(queries,)``: the vector, or the text that the query was made from.
        neighbours: Int64 of shape ``(queries, k)``: positions of the true neighbours, the nearest first.
        worst: Float32 of shape ``(queries,)``: the score of the last of these.
        texts: The questions, where a model made them.
    """

    evaluation: Evaluation
    queries: Vectors
    positions: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    worst: NDArray[np.float32]
    texts: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        arrays = (self.queries, self.positions, self.neighbours, self.worst)
        return sum(array.nbytes for array in arrays) + sum(map(len, self.texts))

    def encoded(self) -> bytes:
        """As Parquet."""
        told = json.dumps(self.evaluation.to_json()).encode()
        count = len(self.queries)
        columns: dict[str, pa.Array] = {
            "position": pa.array(self.positions),
            "text": pa.array(self.texts or [None] * count, pa.string()),
            "query": pa.FixedSizeListArray.from_arrays(pa.array(self.queries.ravel()), self.queries.shape[1]),
            "neighbours": pa.FixedSizeListArray.from_arrays(
                pa.array(self.neighbours.ravel()), self.neighbours.shape[1]
            ),
            "worst_score": pa.array(self.worst),
        }
        sink = io.BytesIO()
        pq.write_table(pa.table(columns).replace_schema_metadata({_TOLD: told}), sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def decoded(cls, content: bytes) -> Self:
        """What ``encoded`` gave.

        Raises:
            ValueError, TypeError, KeyError, pyarrow.ArrowException: It is something else.
        """
        table = pq.read_table(io.BytesIO(content)).combine_chunks()
        evaluation = Evaluation.from_json(json.loads(table.schema.metadata[_TOLD]))
        texts = tuple(table["text"].to_pylist())
        return cls(
            replace(evaluation, size_bytes=len(content)),
            _matrix(table["query"]),
            table["position"].to_numpy(),
            _matrix(table["neighbours"]),
            table["worst_score"].to_numpy(),
            texts if evaluation.kind is Queries.GENERATED else (),
        )


class EvaluationStore:
    """The evaluation sets of all indexes of a lake.

    Args:
        bucket_of: Where those of an index are kept.
        clock: Source of time and ids.
    """

    def __init__(self, bucket_of: Callable[[str], Bucket], clock: Clock) -> None:
        self._bucket_of = bucket_of
        self._clock = clock

    def new_id(self) -> str:
        """The id of a set that is made now."""
        return f"{int(self._clock.now().timestamp() * 1_000_000):014x}-{self._clock.token()[-8:]}"

    def put(self, made: EvaluationSet) -> Evaluation:
        """Keep a set, and delete the oldest ones of its index.

        Raises:
            StorageError: It could not be written.
        """
        content = made.encoded()
        digest = hashlib.sha256(content).hexdigest()
        index, evaluation_id = made.evaluation.index, made.evaluation.id
        bucket = self._bucket_of(index)
        bucket.put_new(f"{_base(index)}/{evaluation_id}.{digest}.parquet", content)
        for old, key in list(self.keys(index).items())[:-KEPT]:
            try:
                bucket.delete(key)
            except ObjectNotFound:
                continue
            except LakehouseError as error:
                _log.warning("evaluation_not_deleted", index=index, evaluation=old, reason=error.message)
        return replace(made.evaluation, size_bytes=len(content))

    def keys(self, index: str) -> dict[str, str]:
        """The keys of the sets of an index by their ids, the oldest first.

        Raises:
            StorageError: They cannot be listed.
        """
        base = _base(index)
        names = map(_NAME.fullmatch, sorted(self._bucket_of(index).names(base)))
        return {match[1]: f"{base}/{match[0]}" for match in names if match}

    def load(self, index: str, evaluation_id: str) -> EvaluationSet:
        """A set.

        Raises:
            EvaluationNotFound: There is none of that id.
            StorageError: It cannot be read, or is not what was written.
        """
        key = self.keys(index).get(evaluation_id)
        if key is None:
            raise absent(index, evaluation_id)
        try:
            content = self._bucket_of(index).get(key)
        except ObjectNotFound:
            raise absent(index, evaluation_id) from None
        match = _NAME.fullmatch(key.rpartition("/")[2])
        assert match is not None
        if hashlib.sha256(content).hexdigest() == match[2]:
            try:
                return EvaluationSet.decoded(content)
            except (ValueError, TypeError, KeyError, pa.ArrowException):
                pass
        raise StorageError(
            f"the evaluation set '{evaluation_id}' of the vector index '{index}' is damaged",
            "hnsw.evals.autogen makes another one",
        )


def absent(index: str, evaluation_id: str = "") -> EvaluationNotFound:
    """What says that there is no such evaluation set."""
    what = f"no evaluation set '{evaluation_id}'" if evaluation_id else "no evaluation set of what it is now"
    return EvaluationNotFound(f"the vector index '{index}' has {what}", "hnsw.evals.autogen makes one")


def _base(index: str) -> str:
    profile, name = parted_name(index)
    return f"{PROFILES}/{profile}/evaluations/{name}" if profile else f"{PREFIX}/{name}"


def digest_of(vectors: Vectors, check: Callable[[], None]) -> str:
    """The SHA-256 of vectors in their order."""
    digest = hashlib.sha256(f"{vectors.shape}".encode())
    step = max(1, 16_000_000 // max(1, vectors.shape[1] * 4))
    for start in range(0, len(vectors), step):
        check()
        digest.update(np.ascontiguousarray(vectors[start : start + step]).data)
    return digest.hexdigest()


def _matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks])
    found: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return found
