"""Tables of embeddings: the texts of a table in pieces, each with its vector, kept up with that table.

Such a table is an ordinary one: the key columns of its source, ``chunk_id`` (from 0 within a row of the
source), ``chunk_text``, ``vector`` and ``content_hash``. The hash is of the texts of the row, of how they are
cut and of the model, so that another run embeds only what is new or has changed, and removes what is gone.
All pieces of a row come in one commit, some thousand at a time; a run that ends in the middle is taken up by
the next one.

Which table the embeddings are of is kept beside the indexes, not in the table: whoever may write the table
must not decide who may search it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from lakehouse.ai.provider import Embedder, ModelIdentity, Purpose
from lakehouse.catalog import Table
from lakehouse.catalog.history import snapshot_records
from lakehouse.catalog.names import fold
from lakehouse.catalog.observer import coming_from
from lakehouse.engine.changes import Scope
from lakehouse.engine.engine import Engine
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    ObjectNotFound,
    PermissionDenied,
    SchemaNotFound,
    TableNotFound,
)
from lakehouse.ingest import WriteMode
from lakehouse.storage import Bucket
from lakehouse.types import TableName, quote
from lakehouse.vectors.chunking import ChunkBy, Chunking, chunks
from lakehouse.vectors.generation import Guard, Model

PREFIX = "_vectors/embeddings"
VECTOR, CHUNK_ID, CHUNK_TEXT, HASH = "vector", "chunk_id", "chunk_text", "content_hash"
_OWN = (CHUNK_ID, CHUNK_TEXT, VECTOR, HASH)
_GONE, _STORED = "gone_keys", "~stored"
_GROUP_CHUNKS = 4096
_GROUP_ROWS = 4096
_EMBEDDED_AT_ONCE = 256
_ATTEMPTS = 3
_log = structlog.get_logger()
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What to embed.

    Attributes:
        source: The table with the texts.
        target: The table of the embeddings; made where there is none.
        texts: The columns of the texts, put together in this order.
        keys: The columns that tell rows of the source apart.
        chunking: How texts are cut.
        profile: What the configuration calls the model.
    """

    source: TableName
    target: TableName
    texts: tuple[str, ...]
    keys: tuple[str, ...]
    chunking: Chunking = field(default_factory=Chunking)
    profile: str = ""


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What a run did: rows of the source by what became of them, and what the table has now."""

    unchanged: int
    embedded: int
    deleted: int
    chunks: int
    snapshot_id: int | None
    model: Model


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a table of embeddings is of. ``is_whole`` says whether the last run came to its end."""

    guard: Guard
    texts: tuple[str, ...]
    chunking: Chunking
    model: Model
    is_whole: bool


@dataclass(slots=True)
class _Group:
    """Rows of the source whose pieces are stored together."""

    gone: list[Key] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.texts) >= _GROUP_CHUNKS or len(self.gone) >= _GROUP_ROWS


class _Compared:
    """Statements that compare a source with its embeddings, as both were when the run began.

    The engine does it, within its bounds of memory: nothing here holds all keys.
    """

    def __init__(self, request: EmbedRequest, source: Table, target: Table) -> None:
        self._keys = [quote(key) for key in request.keys]
        self._texts = [quote(text) for text in request.texts]
        self._source, self._target = _at(source), _at(target)

    def rows(self) -> str:
        """Keys and texts of the source, each with the hash that is stored for it, if there is one.

        The hash is empty where it is not sure that the pieces are whole.
        """
        keys = ", ".join(self._keys)
        stored = (
            f"SELECT {keys}, CASE WHEN count(*) = count(DISTINCT {CHUNK_ID}) "
            f"AND count(DISTINCT {HASH}) = 1 THEN any_value({HASH}) ELSE '' END AS {quote(_STORED)} "
            f"FROM {self._target} AS e GROUP BY {keys}"
        )
        columns = ", ".join(f"s.{column}" for column in (*self._keys, *self._texts))
        return (
            f"SELECT {columns}, t.{quote(_STORED)} FROM {self._source} AS s LEFT JOIN ({stored}) AS t "
            f"ON {self._same()}"
        )

    def gone(self) -> str:
        """Keys of embeddings of which the source has no row."""
        keys = ", ".join(f"t.{key}" for key in self._keys)
        return (
            f"SELECT DISTINCT {keys} FROM {self._target} AS t "
            f"WHERE NOT EXISTS (SELECT 1 FROM {self._source} AS s WHERE {self._same()})"
        )

    def ambiguous(self) -> str:
        """A key of the source that has no value or comes more than once, if there is one."""
        keys = ", ".join(self._keys)
        empty = " OR ".join(f"{key} IS NULL" for key in self._keys)
        return (
            f"SELECT {keys} FROM {self._source} AS s GROUP BY {keys} HAVING count(*) > 1 OR {empty} LIMIT 1"
        )

    def _same(self) -> str:
        return " AND ".join(f"s.{key} = t.{key}" for key in self._keys)


def _at(table: Table) -> str:
    """A table as it is in its snapshot."""
    at = f" AT (VERSION => {table.snapshot_id})" if table.snapshot_id is not None else ""
    return f"(SELECT * FROM {table.name.sql}{at})"


class Embeddings:
    """Fills tables of embeddings. Safe to use from several threads.

    Args:
        engine: Reads and writes the tables.
        bucket: Where it is kept what they are of.
    """

    def __init__(self, engine: Engine, bucket: Bucket) -> None:
        self._engine = engine
        self._bucket = bucket
        self._lock = threading.Lock()
        self._busy: set[TableName] = set()

    def known(self, table: Table) -> Embedded | None:
        """What a table of embeddings is of; None for other tables."""
        try:
            told = json.loads(self._bucket.get(f"{PREFIX}/{table.uuid}.json"))
        except ObjectNotFound:
            return None
        guard = told["guard"]
        return Embedded(
            Guard(
                TableName(*guard["table"]),
                guard["table_uuid"],
                tuple(guard["columns"]),
                tuple(guard["keys"]),
                guard["snapshot_id"],
            ),
            tuple(told["texts"]),
            Chunking(ChunkBy(told["by"]), told["size"], told["overlap"]),
            Model(**told["model"]),
            told["is_whole"],
        )

    def run(
        self,
        request: EmbedRequest,
        embedder: Embedder,
        session: Session,
        *,
        check: Callable[[], None],
        cancelled: Callable[[], bool],
        progress: Callable[[float, str], None],
    ) -> EmbedResult:
        """Bring a table of embeddings up to its source.

        Args:
            request: What to embed.
            embedder: Makes the vectors.
            session: On whose behalf, and where it is done; no transaction is open in it.
            check: Raises where the work shall stop. What is stored by then stays, and is not done again.
            cancelled: Whether ``check`` would.
            progress: Told of what is done.

        Raises:
            PermissionDenied: The principal does not see all of the source, or may not write the target.
            InvalidRequest: A key has no value or comes twice, or the target is another kind of table.
            CommitConflict: Somebody else is filling the target.
        """
        with self._lock:
            if request.target in self._busy:
                raise CommitConflict(f"'{request.target}' is being filled already", "wait for that")
            self._busy.add(request.target)
        try:
            with coming_from("lake", str(request.source), "vectors.embed", (request.source,)):
                for left in reversed(range(_ATTEMPTS)):
                    # Another one begins with what is there by then.
                    run = _Run(self._engine, self._bucket, request, embedder, session, check, cancelled)
                    try:
                        return run.run(progress)
                    except CommitConflict as error:
                        if not left:
                            raise
                        _log.info("embedding_begins_again", table=str(request.target), reason=error.message)
                raise AssertionError("the last attempt gives or raises")
        finally:
            with self._lock:
                self._busy.discard(request.target)


class _Run:
    """One run, from its beginning to its end."""

    def __init__(
        self,
        engine: Engine,
        bucket: Bucket,
        request: EmbedRequest,
        embedder: Embedder,
        session: Session,
        check: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._bucket = bucket
        self._request = request
        self._embedder = embedder
        self._session = session
        self._check = check
        self._watch = CallWatch(cancelled)
        self._unchanged = self._embedded = self._deleted = self._chunks = 0

    def run(self, progress: Callable[[float, str], None]) -> EmbedResult:
        """Do it; gives what was done."""
        source = self._source()
        identity = self._embedder.model
        model = Model(self._request.profile, identity.provider, identity.name, identity.digest)
        guard = Guard(
            source.name,
            source.uuid,
            tuple(dict.fromkeys((*self._request.keys, *self._request.texts))),
            self._request.keys,
            source.snapshot_id,
        )
        salt = json.dumps([*_cut(self._request.chunking), *identity_key(model), identity.dimension])
        target = self._target(source)
        known = Embedded(guard, self._request.texts, self._request.chunking, model, is_whole=False)
        self._note(target, known)
        self._expected = target.snapshot_id
        compared = _Compared(self._request, source, target)
        self._check_keys(source, compared)
        self._fill(compared, salt, max(1, source.record_count), progress)
        self._clear(compared)
        self._note(target, replace(known, is_whole=True))
        return EmbedResult(
            self._unchanged, self._embedded, self._deleted, self._chunks, source.snapshot_id, model
        )

    def _fill(
        self, compared: _Compared, salt: str, total: int, progress: Callable[[float, str], None]
    ) -> None:
        """Embed the rows of the source that are new or have changed."""
        group, done, stored = _Group(), 0, 0
        width = len(self._request.keys)

        def tell(share: float) -> None:
            rows = stored + int(share * (done - stored))
            progress(min(1.0, rows / total), f"{rows} of {total} rows")

        for row in self._values(compared.rows()):
            key, before = row[:width], row[-1]
            text = "\n\n".join(str(each) for each in row[width:-1] if each)
            done += 1
            digest = hashlib.sha256(f"{salt}\0{text}".encode("utf-8", "replace")).hexdigest()
            if before == digest:
                self._unchanged += 1
                continue
            pieces = chunks(text, self._request.chunking)
            if before is not None:
                group.gone.append(key)
            if before is None and not pieces:
                self._unchanged += 1
                continue
            self._embedded += 1
            group.keys += [key] * len(pieces)
            group.numbers += range(len(pieces))
            group.texts += pieces
            group.hashes += [digest] * len(pieces)
            if group.is_full:
                self._store(group, tell)
                group, stored = _Group(), done
        self._store(group, tell)

    def _clear(self, compared: _Compared) -> None:
        """Remove the pieces of rows that the source has no more."""
        group = _Group()
        for key in self._values(compared.gone()):
            group.gone.append(key)
            self._deleted += 1
            if group.is_full:
                self._store(group)
                group = _Group()
        self._store(group)

    def _check_keys(self, source: Table, compared: _Compared) -> None:
        """Make sure that keys tell rows apart.

        Raises:
            InvalidRequest: One has no value or comes twice; names it.
        """
        keys = self._request.keys
        for row in self._values(compared.ambiguous()):
            if any(value is None for value in row):
                raise InvalidRequest(f"a row of '{source.name}' has no value in its key {', '.join(keys)}")
            raise InvalidRequest(f"the key {_shown(keys, row)} comes twice in '{source.name}'")

    def _source(self) -> Table:
        """The table with the texts, all of which the principal has to see."""
        name = self._request.source
        table = self._session.lakes.of(name.catalog).load(name.schema, name.table)
        if self._session.access.table(table.name).restrictions:
            raise PermissionDenied(
                f"{self._session.principal.name} does not see all of '{name}', so it cannot embed it"
            )
        return table

    def _target(self, source: Table) -> Table:
        """The table of the embeddings, which is made where there is none."""
        name, keys = self._request.target, self._request.keys
        lake = self._session.lakes.of(name.catalog)
        lake.check_change(name.schema, name.table)
        for key in keys:
            if fold(key) in map(fold, _OWN):
                raise InvalidRequest(f"the key column '{key}' has the name of a column of embeddings")
        try:
            table = self._latest()
        except TableNotFound:
            types = source.arrow_schema()
            schema = pa.schema([types.field(key).remove_metadata() for key in keys])
            for own, kind in zip(
                _OWN, (pa.int32(), pa.string(), pa.list_(pa.float32()), pa.string()), strict=True
            ):
                schema = schema.append(pa.field(own, kind))
            scope = Scope(self._session, None, self._watch)
            self._engine.changes.ingest(scope, name, WriteMode.CREATE, schema, iter(()))
            return self._latest()
        missing = [column for column in (*keys, *_OWN) if not table.has_column(column)]
        if missing:
            raise InvalidRequest(
                f"table '{name}' cannot take the embeddings of '{source.name}': it has no '{missing[0]}'",
                "name another one with into",
            )
        return table

    def _latest(self) -> Table:
        name = self._request.target
        lake = self._engine.catalogs.of(name.catalog)
        lake.refresh(name.schema, name.table)
        try:
            return lake.load(name.schema, name.table)
        except SchemaNotFound as error:
            raise InvalidRequest(error.message, "create the schema first") from error

    def _values(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, read as they are asked for."""
        for batch in self._rows(sql):
            self._check()
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _rows(self, sql: str) -> Iterator[pa.RecordBatch]:
        plan = self._engine.plan(self._engine.gate.analyse(sql), self._session, watch=self._watch)
        with closing(self._engine.open(plan, self._session, self._watch)) as stream:
            yield from stream

    def _vectors(self, texts: Sequence[str], tell: Callable[[float], None]) -> pa.Array:
        """The vectors of texts; null where a model has none for a text."""
        parts = []
        for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
            self._check()
            some = texts[start : start + _EMBEDDED_AT_ONCE]
            parts.append(self._embedder.embed(some, purpose=Purpose.DOCUMENT, check=self._check))
            tell((start + len(some)) / len(texts))
        vectors = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
        offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
        nothing = pa.array(~vectors.any(axis=1))
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()), mask=nothing)

    def _store(self, group: _Group, tell: Callable[[float], None] = lambda _: None) -> None:
        """Put the pieces of some rows in the place of their former ones, in one commit."""
        if not group.gone and not group.texts:
            return
        types = self._latest().arrow_schema()
        rows = self._pieces(group, types, tell)
        self._check()
        session = self._session
        transaction = session.begin()
        scope = Scope(session, transaction, self._watch)
        try:
            self._check_alone(transaction.load(self._request.target).snapshot_id)
            if group.gone:
                self._remove(group.gone, types, scope)
            if len(rows):
                self._engine.changes.ingest(
                    scope, self._request.target, WriteMode.APPEND, rows.schema, rows.to_batches()
                )
        except BaseException:
            session.end(transaction, commit=False)
            raise
        session.end(transaction, commit=True)
        latest = self._latest()
        parents = {each.snapshot_id: each.parent_id for each in snapshot_records(latest)}
        self._check_alone(None if latest.snapshot_id is None else parents.get(latest.snapshot_id))
        self._expected = latest.snapshot_id
        self._chunks += len(rows)

    def _check_alone(self, snapshot_id: int | None) -> None:
        """Make sure that what is stored follows what was seen last, with nothing in between."""
        if snapshot_id != self._expected:
            raise CommitConflict(
                f"somebody else wrote to '{self._request.target}' meanwhile", "embed once more"
            )

    def _pieces(self, group: _Group, types: pa.Schema, tell: Callable[[float], None]) -> pa.Table:
        keys = self._request.keys
        columns: dict[str, Any] = dict(zip(keys, _columns(group.keys, keys, types), strict=True))
        columns[CHUNK_ID] = pa.array(group.numbers, pa.int32())
        columns[CHUNK_TEXT] = pa.array(group.texts, pa.string())
        columns[VECTOR] = self._vectors(group.texts, tell)
        columns[HASH] = pa.array(group.hashes, pa.string())
        return pa.table(columns)

    def _remove(self, gone: list[Key], types: pa.Schema, scope: Scope) -> None:
        keys, target = self._request.keys, self._request.target
        table = pa.table(dict(zip(keys, _columns(gone, keys, types), strict=True)))
        self._engine.changes.ingest_temporary(
            scope, _GONE, WriteMode.REPLACE, table.schema, table.to_batches()
        )
        same = " AND ".join(f"t.{quote(key)} = g.{quote(key)}" for key in keys)
        sql = f"DELETE FROM {target.sql} AS t USING {quote(_GONE)} AS g WHERE {same}"
        self._engine.changes.run(self._engine.gate.analyse(sql), scope)

    def _note(self, target: Table, known: Embedded) -> None:
        guard, how = known.guard, known.chunking
        told = {
            "guard": {
                "table": [guard.table.catalog, guard.table.schema, guard.table.table],
                "table_uuid": guard.table_uuid,
                "columns": list(guard.columns),
                "keys": list(guard.keys),
                "snapshot_id": guard.snapshot_id,
            },
            "texts": list(known.texts),
            "by": str(how.by),
            "size": how.size,
            "overlap": how.overlap,
            "model": {key: getattr(known.model, key) for key in Model.__slots__},
            "is_whole": known.is_whole,
        }
        self._bucket.put(f"{PREFIX}/{target.uuid}.json", json.dumps(told).encode())


def identity_key(model: Model | ModelIdentity) -> tuple[str, str, str]:
    """What two models have to have in common for their vectors to be comparable."""
    return (model.provider, model.name, model.digest)


def _cut(how: Chunking) -> tuple[str, int, int]:
    return (str(how.by), how.size, how.overlap)


def _columns(rows: Sequence[Key], keys: Sequence[str], types: pa.Schema) -> list[pa.Array]:
    return [pa.array([row[i] for row in rows], types.field(key).type) for i, key in enumerate(keys)]


def _shown(keys: Sequence[str], key: Mapping[str, Any] | Key) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in zip(keys, key, strict=True))
