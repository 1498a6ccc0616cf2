"""The manifests of vector indexes: each index is a dataset of the kind ``vector_index``.

That there is an index, and that it is dropped, is written into its manifest before it takes place; that
another generation became live, right after it. The bucket's own record of the live generation is what counts:
what describes an index compares its manifest with that, and what a killed server left wrong is put right by
the next start, or by a resync.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import structlog

from lakehouse.catalog import Catalogs
from lakehouse.catalog.names import fold
from lakehouse.catalog.observer import caller
from lakehouse.clock import Clock
from lakehouse.datasets.footers import Finding
from lakehouse.datasets.manifest import (
    VECTORS,
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    DatasetObject,
    LineageEdge,
    VectorFacts,
)
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.errors import InvalidRequest, LakehouseError, ObjectNotFound, TableNotFound
from lakehouse.storage import Bucket
from lakehouse.types import TableName
from lakehouse.vectors.generation import Generation, IndexFile, checked_name
from lakehouse.vectors.generation_store import Live

_IDS = uuid.UUID("5f0b5f0e-6d1c-5e0a-9d59-5a4f0b0a7c11")
_log = structlog.get_logger()

DEFAULT = "default"
"""The schema, in names of datasets, of indexes that belong to no profile."""


class LiveGenerations(Protocol):
    """Tells which generations of indexes are live, asking their buckets."""

    def indexes(self) -> list[str]:
        """The names of all indexes, dropped ones of which something is left among them."""
        ...

    def live(self, index: str) -> Live | None:
        """What is live of an index; None where there never was one."""
        ...

    def bucket_of(self, index: str) -> Bucket:
        """Where an index is kept."""
        ...

    def location(self, index: str) -> str:
        """What the keys of its objects begin with."""
        ...


def dataset_name(index: str) -> TableName:
    """The name that an index has as a dataset."""
    profile, _, name = index.rpartition(":")
    return TableName(VECTORS, profile or DEFAULT, name)


def index_of(name: TableName) -> str:
    """The index that has a name as a dataset.

    Raises:
        TableNotFound: No index can be called so.
    """
    profile = fold(name.schema)
    if ":" in name.table:
        raise _absent(name)
    try:
        return checked_name(name.table if profile == DEFAULT else f"{profile}:{name.table}")
    except InvalidRequest:
        raise _absent(name) from None


def dataset_id_of(index: str) -> str:
    """The id of an index as a dataset: the same whoever makes its manifest."""
    return str(uuid.uuid5(_IDS, index))


class IndexManifests:
    """Keeps the manifests of vector indexes. Safe to use from several threads, and by several servers.

    Args:
        manifests: Where they are kept.
        generations: Tells what is live.
        catalogs: Where the tables are that indexes are made of.
        clock: Source of time.
        enabled: Whether they are written at all; else they are told from the live generations only.
    """

    def __init__(
        self,
        manifests: ManifestStore,
        generations: LiveGenerations,
        catalogs: Catalogs,
        clock: Clock,
        *,
        enabled: bool = True,
    ) -> None:
        self._store = manifests
        self._generations = generations
        self._catalogs = catalogs
        self._clock = clock
        self._enabled = enabled

    # -- what becomes of indexes ------------------------------------------------------------------------

    def promoting(self, index: str, generation: Generation | None, before: Live | None) -> None:
        """Write ahead that an index is about to be there, or to be gone.

        Raises:
            StorageError: It could not be written; then it must not take place.
        """
        is_there = before is not None and before.generation is not None
        if not self._enabled or is_there is (generation is not None):
            return  # another generation of it: its manifest follows
        number = 1 if before is None else before.number + 1
        self._write(Live(number, generation, self._clock.now(), caller(), "build", ""), index)

    def promoted(self, index: str, live: Live) -> None:
        """Write what is live now. What cannot be written is put right later on."""
        if not self._enabled:
            return
        try:
            self._write(live, index)
        except LakehouseError as error:
            _log.warning("vector_manifest_not_written", index=index, reason=error.message)

    def failed(self, index: str) -> None:
        """What was written ahead did not take place: write what is there instead."""
        if not self._enabled:
            return
        try:
            self._settle(index)
        except LakehouseError as error:
            _log.warning("vector_manifest_not_written", index=index, reason=error.message)

    def look(self) -> Iterator[bool]:
        """Go through all indexes, one at each step, and put right those manifests that are wrong."""
        if not self._enabled:
            return
        known = {name: each for each, name, kind in self._store.names() if kind is DatasetKind.VECTOR_INDEX}
        for index in self._generations.indexes():
            known.pop(dataset_name(index), None)
            try:
                self._settle(index)
            except LakehouseError as error:
                _log.warning("vector_manifest_not_written", index=index, reason=error.message)
            yield True
        for name in known:
            self.failed(index_of(name))
            yield True

    # -- what is known ----------------------------------------------------------------------------------

    def find(self, name: TableName) -> DatasetManifest | None:
        """What is known of an index as it is now; None where there is none of that name."""
        try:
            index = index_of(name)
            live = self._generations.live(index)
        except TableNotFound:
            return None
        except LakehouseError as error:
            _log.warning("vector_index_unreadable", dataset=str(name), reason=error.message)
            return None
        if live is None or live.generation is None:
            return None
        return self._described(self._store.get(dataset_id_of(index)), index, live)

    def truth(self, name: TableName) -> DatasetManifest:
        """What the bucket says of an index, nothing that somebody said of it.

        Raises:
            TableNotFound: There is no such index.
            StorageError: The bucket cannot be read.
        """
        index = index_of(name)
        live = self._generations.live(index)
        if live is None or live.generation is None:
            raise _absent(name)
        return self._described(None, index, live)

    def names(self) -> list[TableName]:
        """The names of all indexes that are there.

        Raises:
            StorageError: They cannot be listed.
        """
        return [dataset_name(index) for index in self._generations.indexes() if self._is_there(index)]

    def together(self, old: DatasetManifest | None, seen: DatasetManifest) -> DatasetManifest:
        """What the bucket says of an index, with what else was known of it."""
        if old is None or old.dropped:
            return replace(seen, version=0 if old is None else old.version)
        known = {column.name: column for column in old.columns}
        columns = []
        for column in seen.columns:
            was = known.get(column.name)
            if was is not None:
                column = replace(  # noqa: PLW2901 - the same column
                    column,
                    type=column.type or was.type,
                    description=was.description,
                    tags=was.tags,
                    sensitivity=was.sensitivity,
                )
            columns.append(column)
        return replace(
            seen,
            version=old.version,
            columns=tuple(columns),
            owner=old.owner,
            description=old.description,
            tags=old.tags,
            freshness_seconds=old.freshness_seconds,
            created_at=old.created_at,
            created_by=old.created_by,
            updated_at=old.updated_at,
            updated_by=old.updated_by,
        )

    def findings(
        self, manifest: DatasetManifest, check: Callable[[], None], *, deep: bool = False
    ) -> Iterator[Finding]:
        """What is wrong with the objects of an index.

        Args:
            manifest: What they should be.
            check: Raises where this has to stop.
            deep: Read all of them, rather than ask for their sizes.
        """
        assert manifest.vectors is not None
        bucket = self._generations.bucket_of(manifest.vectors.index)
        for each in manifest.objects:
            check()
            try:
                size = bucket.size(each.key)
                if size != each.size_bytes:
                    yield Finding("wrong_size", f"it has {size} bytes, expected {each.size_bytes}", each.key)
                elif deep and _digest(bucket, each.key, check) != each.e_tag:
                    yield Finding("corrupt", "its content is not what was written", each.key)
            except ObjectNotFound:
                yield Finding("missing", "it is not in storage; a search builds it anew", each.key)

    # -- one manifest -----------------------------------------------------------------------------------

    def _is_there(self, index: str) -> bool:
        try:
            live = self._generations.live(index)
        except LakehouseError:
            return True  # damaged: whoever looks at it is told so
        return live is not None and live.generation is not None

    def _settle(self, index: str) -> None:
        """Make the manifest of an index say what is live."""
        dataset_id = dataset_id_of(index)
        known = self._store.get(dataset_id)
        live = self._generations.live(index)
        if known is None and (live is None or live.generation is None):
            return

        def build(old: DatasetManifest | None) -> DatasetManifest:
            # Asked after the manifest was: what that says beyond this has not taken place.
            now = self._generations.live(index)
            if now is None or now.generation is None:
                return self._gone(old or known or self.truth(dataset_name(index)), "")
            return self._changed(old, index, now, "")

        self._store.change(dataset_id, build)

    def _write(self, live: Live, index: str) -> None:
        """Make the manifest of an index say that this is live, unless it tells of something later."""
        dataset_id = dataset_id_of(index)
        known = self._store.get(dataset_id)
        if live.generation is None and known is None:
            return

        def build(old: DatasetManifest | None) -> DatasetManifest:
            there = old or known
            if there is not None and there.vectors is not None and there.vectors.slot > live.number:
                return there
            if live.generation is None:
                assert there is not None
                return self._gone(there, live.by)
            return self._changed(old, index, live, live.by)

        self._store.change(dataset_id, build)

    def _changed(self, old: DatasetManifest | None, index: str, live: Live, by: str) -> DatasetManifest:
        new = self._described(old, index, live)
        if old is not None and replace(new, updated_at=old.updated_at, updated_by=old.updated_by) == old:
            return old
        return replace(new, updated_at=self._clock.now(), updated_by=by)

    def _gone(self, old: DatasetManifest, by: str) -> DatasetManifest:
        if old.dropped:
            return old
        return replace(old, dropped=True, updated_at=self._clock.now(), updated_by=by)

    def _described(self, old: DatasetManifest | None, index: str, live: Live) -> DatasetManifest:
        generation = live.generation
        assert generation is not None
        seen = DatasetManifest(
            dataset_id=dataset_id_of(index),
            version=0,
            kind=DatasetKind.VECTOR_INDEX,
            name=dataset_name(index),
            bucket=self._generations.bucket_of(index).name,
            location=self._generations.location(index),
            snapshot_id=generation.source.snapshot_id,
            objects=tuple(_object(file, generation) for file in generation.files),
            object_count=len(generation.files),
            rows=generation.count,
            size_bytes=generation.size_bytes,
            columns=self._columns(generation),
            fingerprint="",
            owner=generation.created_by,
            description="",
            tags=(),
            lineage=_lineage(generation),
            freshness_seconds=None,
            changed_at=generation.created_at,
            created_at=generation.created_at,
            created_by=generation.created_by,
            updated_at=live.at,
            updated_by=live.by,
            vectors=_facts(index, live, generation),
        )
        return self.together(old, seen)

    def _columns(self, generation: Generation) -> tuple[ColumnManifest, ...]:
        """What searches give, and the vectors; types as the table of the vectors has them now."""
        source = generation.source
        types: dict[str, str] = {}
        try:
            table = self._catalogs.load(source.table)
            if table.uuid == source.table_uuid:
                types = {fold(name): kind for name, kind in table.sql_columns()}
        except LakehouseError:
            pass  # gone, or nothing that can be read: the index is there all the same
        told = [
            ColumnManifest(name, types.get(fold(name), ""), values=generation.count)
            for name in source.rows
            if name != source.column
        ]
        vector = f"FLOAT[{generation.dimension}]"
        return (*told, ColumnManifest(source.column, vector, values=generation.count, nulls=0))


def _object(file: IndexFile, generation: Generation) -> DatasetObject:
    return DatasetObject(file.key, file.size_bytes, generation.count, file.sha256)


def _lineage(generation: Generation) -> tuple[LineageEdge, ...]:
    """From the texts, the model and the table of the vectors."""
    source, guard, model = generation.source, generation.guard, generation.model
    at, by = generation.created_at, generation.created_by
    edges = [LineageEdge("lake", str(source.table), "vectors.build", (source.table_uuid,), at, by)]
    if guard.table_uuid != source.table_uuid:
        edges.append(LineageEdge("lake", str(guard.table), "vectors.embed", (guard.table_uuid,), at, by))
    if model.name:
        named = f"{model.provider}/{model.name}@{model.digest}"
        edges.append(LineageEdge("model", named, "vectors.embed", (), at, by))
    return tuple(edges)


def _facts(index: str, live: Live, generation: Generation) -> VectorFacts:
    parameters, model = generation.parameters, generation.model
    source, guard = generation.source, generation.guard
    return VectorFacts(
        index=index,
        generation=generation.id,
        slot=live.number,
        live_since=live.at,
        why=live.why,
        model=model.profile,
        model_provider=model.provider,
        model_name=model.name,
        model_digest=model.digest,
        dimension=generation.dimension,
        metric=str(parameters.metric),
        algorithm=str(parameters.algorithm),
        storage=str(parameters.storage),
        m=parameters.m,
        ef_construction=parameters.ef_construction,
        ef_search=parameters.ef_search,
        source=_named(source.table),
        source_id=source.table_uuid,
        source_column=source.column,
        source_snapshot_id=source.snapshot_id,
        guard=_named(guard.table),
        guard_id=guard.table_uuid,
        guard_columns=guard.columns,
        guard_keys=guard.keys,
        guard_snapshot_id=guard.snapshot_id,
        build_seconds=generation.build_seconds,
    )


def _absent(name: TableName) -> TableNotFound:
    return TableNotFound(f"vector index '{name}' does not exist")


def _named(table: TableName) -> tuple[str, ...]:
    return (table.catalog, table.schema, table.table)


def _digest(bucket: Bucket, key: str, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    for piece in bucket.pieces(key):
        check()
        digest.update(piece)
    return digest.hexdigest()
