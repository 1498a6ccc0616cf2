"""The vector indexes of a lake: built, made live, searched, gone back from, dropped.

Building a generation disturbs no search: it is made beside the live one, and becomes live in one step. A
search takes the generation that is live when it begins, and keeps it to its end.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import pyarrow as pa
import structlog
from numpy.typing import ArrayLike

from lakehouse.clock import Clock
from lakehouse.config.vectors import VectorSettings
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    LakehouseError,
    VectorIndexAlreadyExists,
    VectorIndexNotFound,
)
from lakehouse.journal.change_event import ChangeEvent, ChangeRecorder, current_origin
from lakehouse.storage import Bucket
from lakehouse.vectors.faiss_index import Found, VectorIndex, build_threads, unchecked
from lakehouse.vectors.generation import Generation, Guard, LexicalPart, Model, VectorColumn, checked_name
from lakehouse.vectors.generation_store import LEXICAL, ROWS, VECTORS, GenerationStore, IndexDamaged, Live
from lakehouse.vectors.hybrid import Ask, Matches, Mode, lexical_part, matches, reranked, text_column
from lakehouse.vectors.lexical import LexicalIndex
from lakehouse.vectors.loader import IndexLoader, LoadedIndex
from lakehouse.vectors.parameters import IndexParameters
from lakehouse.vectors.selection import Selection
from lakehouse.vectors.vector_rows import split
from lakehouse.vectors.words import WORDS

if TYPE_CHECKING:
    from lakehouse.vectors.profiles import Profiles

T = TypeVar("T")
Progress = Callable[[float, str], None]
Select = Callable[[LoadedIndex], Selection | None]
_ATTEMPTS = 4
_log = structlog.get_logger()


class VectorSource(Protocol):
    """Reads the tables that indexes are made of."""

    def read(self, source: VectorColumn, check: Callable[[], None]) -> tuple[VectorColumn, pa.Table]:
        """All rows of a table as it is, and which snapshot that is.

        Raises:
            LakehouseError: There is no such table any more, or it cannot be read.
        """
        ...


class IndexObserver(Protocol):
    """Told of what becomes of indexes."""

    def promoting(self, index: str, generation: Generation | None, before: Live | None) -> None:
        """Another generation is about to become live, or none; where this raises, it does not."""
        ...

    def promoted(self, index: str, live: Live) -> None:
        """It did."""
        ...

    def failed(self, index: str) -> None:
        """It did not."""
        ...


NO_MODEL = Model()
"""Of vectors of which nobody said what made them."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What a generation is to be made of.

    Attributes:
        index: The name of the index.
        source: Where the vectors are.
        parameters: How it is to be built.
        model: What made the vectors.
        guard: What they were made from: the same table, or one of which they are the embeddings.
        lexical: The column of the rows whose words are to be found, too; empty where none are.
    """

    index: str
    source: VectorColumn
    parameters: IndexParameters
    guard: Guard
    model: Model = NO_MODEL
    lexical: str = ""

    @classmethod
    def again(cls, made: Generation) -> Self:
        """What makes another generation like that one, of the table as it is then."""
        lexical = "" if made.lexical is None else made.lexical.column
        return cls(made.index, made.source, made.parameters, made.guard, made.model, lexical)


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What a search found.

    Attributes:
        generation: Where.
        found: The nearest of each query.
        rows: What the table has of them beside the vectors: ``k`` rows for the first query, then those of
            the second …
    """

    generation: Generation
    found: Found
    rows: pa.Table


def _untold(_share: float, _message: str) -> None:
    """Progress that nobody hears of."""


class VectorIndexes:
    """All vector indexes of a lake. Safe to use from several threads, and by several servers.

    Args:
        bucket: Where they are kept.
        clock: Source of time and ids.
        settings: Bounds.
        source: Reads the tables that they are made of.
        recorder: Told when another generation becomes live.
        directory: Where files are made before they are uploaded; the system's own one where left out.
        profiles: Where the indexes of profiles are kept, by the names of the profiles.

    Attributes:
        observer: Told of what becomes of indexes.
        profiles: The profiles; None where none is configured.
    """

    observer: IndexObserver | None = None
    profiles: Profiles | None = None

    def __init__(
        self,
        bucket: Bucket,
        clock: Clock,
        settings: VectorSettings,
        source: VectorSource,
        recorder: ChangeRecorder,
        directory: str = "",
        profiles: Mapping[str, Bucket] = MappingProxyType({}),
    ) -> None:
        self.store = GenerationStore(bucket, clock, profiles)
        self.loader = IndexLoader(self.store.bucket_of, settings.memory_bytes)
        self.settings = settings
        self._clock = clock
        self._source = source
        self._recorder = recorder
        self._directory = directory or None
        self._known: dict[str, tuple[Live, float]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._building = threading.Lock()

    # -- what there is --------------------------------------------------------------------------------

    def live(self, index: str, *, fresh: bool = False) -> Live:
        """The live generation of an index, as it was a moment ago.

        Args:
            index: The name of the index.
            fresh: Whether to ask the bucket, however young what is known.

        Raises:
            VectorIndexNotFound: There is no such index.
            StorageError: It cannot be read.
        """
        name = checked_name(index)
        now = time.monotonic()
        known = self._known.get(name)
        if known is not None and not fresh and now - known[1] < self.settings.refresh_ms / 1000:
            return known[0]
        found = self.store.live(name)
        if found is None or found.generation is None:
            with self._lock:
                self._known.pop(name, None)
            raise VectorIndexNotFound(f"vector index '{name}' does not exist", "vectors.list tells which do")
        self._learn(name, found, now)
        return found

    def all(self) -> list[Live]:
        """The live generations of all indexes, by name; what cannot be read is left out."""
        found = []
        for name in self.store.indexes():
            try:
                found.append(self.live(name, fresh=True))
            except VectorIndexNotFound:
                continue
            except IndexDamaged as error:
                _log.warning("vector_index_unreadable", index=name, reason=error.message)
        return found

    # -- building -------------------------------------------------------------------------------------

    def build(
        self,
        request: BuildRequest,
        *,
        create: bool = False,
        check: Callable[[], None] = unchecked,
        progress: Progress = _untold,
        why: str = "build",
    ) -> Generation:
        """Build a generation of an index and make it the live one.

        Args:
            request: What of, and how.
            create: Whether there must not be an index of that name.
            check: Called from time to time; raises where the work shall stop. Nothing is left then.
            progress: Told of what is done.
            why: What for, as the index will tell.

        Raises:
            VectorIndexAlreadyExists: There is one, and ``create`` is true.
            InvalidRequest: The table has no such column, or what is in it cannot be indexed.
            CommitConflict: Another generation was made live meanwhile; this one was not.
            StorageError: It could not be written.
        """
        name = checked_name(request.index)
        before = self.store.live(name)
        if create and before is not None and before.generation is not None:
            raise VectorIndexAlreadyExists(f"vector index '{name}' exists already")
        generation = self._made(name, request, check, progress)
        check()
        self._promote(name, generation, before, why)
        return generation

    def rollback(self, index: str) -> Generation:
        """Make the generation the live one that was it before.

        Raises:
            VectorIndexNotFound: There is no such index.
            InvalidRequest: There is none to go back to.
            CommitConflict: Another generation was made live meanwhile.
        """
        name = checked_name(index)
        live = self.live(name, fresh=True)
        assert live.generation is not None
        whole = {generation.id for generation in self.store.generations(name)}
        left: Generation | None = None
        for slot in reversed(self.store.history(name)[:-1]):
            if slot.generation is None:
                break
            if slot.generation.id in whole and slot.generation.id < live.generation.id:
                left = slot.generation
                break
        if left is None:
            raise InvalidRequest(
                f"vector index '{name}' has no former generation to go back to",
                "vectors.keep_generations says how many are kept",
            )
        self._promote(name, left, live, "rollback")
        return left

    def drop(self, index: str) -> None:
        """Remove an index. Searches that run are not disturbed.

        Raises:
            VectorIndexNotFound: There is no such index.
            CommitConflict: Another generation was made live meanwhile.
        """
        name = checked_name(index)
        self._promote(name, None, self.live(name, fresh=True), "drop")
        self.loader.forget(name)

    def clean(self, index: str) -> list[str]:
        """Delete the generations of an index that nobody reads any more; gives their ids."""
        settings = self.settings
        return self.store.clean(
            checked_name(index),
            keep=settings.keep_generations,
            grace=timedelta(seconds=settings.grace_seconds),
            abandoned=timedelta(hours=settings.abandoned_hours),
        )

    @contextmanager
    def building(self, check: Callable[[], None] = unchecked) -> Iterator[None]:
        """For the length of a ``with``, this server builds no other index: it takes all cores.

        Args:
            check: Called while another one is built; raises where this shall not wait any longer.
        """
        while not self._building.acquire(timeout=0.1):
            check()
        try:
            yield
        finally:
            self._building.release()

    def _made(
        self, name: str, request: BuildRequest, check: Callable[[], None], progress: Progress
    ) -> Generation:
        """A new generation, whole and in the bucket, that is not live yet."""
        with self.building(check):
            progress(0.0, f"reading {request.source.table}")
            source, table = self._source.read(request.source, check)
            rows, vectors = split(table, source)
            progress(0.1, f"building the index of {len(vectors)} vectors")
            began_s = time.perf_counter()
            with build_threads(self.settings.build_threads):
                index = VectorIndex.build(
                    vectors,
                    request.parameters,
                    check=check,
                    progress=lambda share: progress(0.1 + 0.8 * share, f"building: {share:.0%}"),
                )
            build_s = time.perf_counter() - began_s
            words = None
            if request.lexical:
                words = LexicalIndex.build(
                    rows[request.lexical],
                    check=check,
                    progress=lambda share: progress(0.9 + 0.05 * share, f"taking words: {share:.0%}"),
                )
            progress(0.95, "uploading")
            return self._stored(name, request, source, index, rows, words, build_s)

    def _stored(
        self,
        name: str,
        request: BuildRequest,
        source: VectorColumn,
        index: VectorIndex,
        rows: pa.Table,
        words: LexicalIndex | None,
        build_s: float,
    ) -> Generation:
        generation_id, guard = self.store.new_id(), request.guard
        if guard.table_uuid == source.table_uuid:
            guard = replace(guard, snapshot_id=source.snapshot_id)
        with tempfile.TemporaryDirectory(prefix="vectors-", dir=self._directory) as directory:
            vectors_path, rows_path = Path(directory, VECTORS), Path(directory, ROWS)
            index.save(vectors_path)
            with pa.OSFile(str(rows_path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
            part = None
            if words is not None:
                words.save(Path(directory, LEXICAL))
                file = self.store.upload(name, generation_id, LEXICAL, Path(directory, LEXICAL))
                part = LexicalPart(request.lexical, WORDS, file)
            made = Generation(
                index=name,
                id=generation_id,
                created_at=self._clock.now(),
                created_by=current_origin().actor,
                model=request.model,
                parameters=request.parameters,
                dimension=index.dimension,
                count=index.count,
                source=source,
                guard=guard,
                build_seconds=round(build_s, 3),
                vectors=self.store.upload(name, generation_id, VECTORS, vectors_path),
                rows=self.store.upload(name, generation_id, ROWS, rows_path),
                lexical=part,
            )
        self.store.complete(made)
        return made

    def _promote(self, name: str, generation: Generation | None, before: Live | None, why: str) -> Live:
        observer = self.observer
        if observer is not None:
            observer.promoting(name, generation, before)
        try:
            made = self.store.put_live(name, generation, before, by=current_origin().actor, why=why)
        except LakehouseError:
            if observer is not None:
                observer.failed(name)
            raise
        self._learn(name, made, time.monotonic())
        former = None if before is None or before.generation is None else before.generation.id
        self._recorder.record(
            ChangeEvent(
                "drop" if generation is None else "swap",
                name,
                field="generation",
                old=former,
                new=None if generation is None else generation.id,
                detail=why,
            )
        )
        if observer is not None:
            observer.promoted(name, made)
        try:
            self.clean(name)
        except LakehouseError as error:
            _log.warning("vector_index_not_cleaned", index=name, reason=error.message)
        return made

    def _learn(self, name: str, live: Live, now: float) -> None:
        with self._lock:
            known = self._known.get(name)
            if known is None or known[0].number <= live.number:
                self._known[name] = (live, now)

    # -- searching ------------------------------------------------------------------------------------

    def search(
        self,
        index: str,
        queries: ArrayLike,
        k: int,
        *,
        ef: int | None = None,
        select: Select | None = None,
        check: Callable[[], None] = unchecked,
    ) -> Hits:
        """The nearest vectors of one or many queries.

        Args:
            index: The name of the index.
            queries: Of shape ``(dimension,)`` or ``(queries, dimension)``.
            k: How many of each.
            ef: How many candidates to look at in the graph; see ``VectorIndex.search``.
            select: Gives what may be found, of the generation that is searched; all where left out.
            check: Raises where the search shall stop; asked while others load or build.

        Raises:
            VectorIndexNotFound: There is no such index.
            InvalidRequest: A query does not fit.
            LakehouseError: The index is damaged and cannot be built again from its table.
        """

        def use(loaded: LoadedIndex) -> Hits:
            selection = None if select is None else select(loaded)
            found = loaded.index.search(queries, k, ef=ef, selection=selection)
            return Hits(loaded.generation, found, loaded.rows.take(pa.array(found.positions.ravel())))

        return self._used(checked_name(index), use, check)

    def ask(
        self,
        index: str,
        ask: Ask,
        *,
        select: Select | None = None,
        check: Callable[[], None] = unchecked,
    ) -> Matches:
        """The rows that answer one or many queries best, by vectors, words or both.

        Args:
            index: The name of the index.
            ask: What is sought.
            select: Gives what may be found, of the generation that is searched; all where left out.
            check: Raises where the search shall stop; asked while others load or build.

        Raises:
            VectorIndexNotFound: There is no such index.
            InvalidRequest: A query does not fit, or the index has no words or texts that are asked for.
            LakehouseError: The index is damaged and cannot be built again from its table, or the model that
                is to rerank does not.
        """

        def use(loaded: LoadedIndex) -> Matches:
            column = "" if ask.reranker is None else text_column(loaded.generation)
            part = None if ask.mode is Mode.VECTOR else lexical_part(loaded.generation)
            selection = None if select is None else select(loaded)
            with ExitStack() as held:
                words = None
                if part is not None:
                    words = held.enter_context(self.loader.held_words(loaded.generation, part, check))
                return matches(ask, loaded, words, selection, column, check)

        found = self._used(checked_name(index), use, check)
        return found if ask.reranker is None else reranked(ask, found, check)

    def _used(self, name: str, use: Callable[[LoadedIndex], T], check: Callable[[], None]) -> T:
        """What is made of the live generation; again of the one that is live then, if it was damaged."""
        live = self.live(name)
        for attempt in range(_ATTEMPTS):
            assert live.generation is not None
            try:
                with self.loader.held(live.generation, check) as loaded:
                    return use(loaded)
            except IndexDamaged:
                # Deleted since it is live no more, or really damaged.
                newer = self.live(name, fresh=True)
                if newer.number == live.number:
                    if attempt == _ATTEMPTS - 1:
                        raise
                    newer = self._repaired(name, live, check)
                live = newer
        raise IndexDamaged(f"vector index '{name}' cannot be read")

    def _repaired(self, name: str, damaged: Live, check: Callable[[], None]) -> Live:
        """What is live after a damaged generation was built again, once for all who wait."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        while not lock.acquire(timeout=0.1):
            check()
        try:
            live = self.live(name, fresh=True)
            if live.number != damaged.number:
                return live
            generation = damaged.generation
            assert generation is not None
            _log.warning("vector_index_damaged", index=name, generation=generation.id)
            request = BuildRequest.again(generation)
            made = self._made(name, request, check, _untold)
            try:
                return self._promote(name, made, live, "repair")
            except CommitConflict:
                return self.live(name, fresh=True)
        finally:
            lock.release()

    def close(self) -> None:
        """Let go of what is in memory."""
        self.loader.close()
