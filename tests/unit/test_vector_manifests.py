"""Manifests of vector indexes: what is known of them is what is live, whatever was written and lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket
from lake_tables import put

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.access.guarded_datasets import DatasetSearch, GuardedDatasets, SeenDataset
from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.datasets import DatasetKind, DatasetManifest
from lakehouse.datasets.manifest_store import MANIFESTS, ManifestStore
from lakehouse.errors import CommitConflict, StorageError, TableNotFound, VectorIndexNotFound
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName
from lakehouse.vectors.generation import Generation, Guard, Model, VectorColumn
from lakehouse.vectors.indexes import BuildRequest
from lakehouse.vectors.manifests import IndexManifests, dataset_id_of, dataset_name, index_of
from lakehouse.vectors.parameters import IndexParameters, Metric

MODEL = Model("local", "local", "wordllama", "4d24")
NAME = dataset_name("texts")


def opened(path: Path) -> Lakehouse:
    quick = {"buckets": [{"path": str(path)}], "catalog": {"refresh_ms": 0}, "vectors": {"refresh_ms": 0}}
    roles = [{"name": "even", "grants": [{"on": "lake.main.notes", "row_filter": "id % 2 = 0"}]}]
    settings = {**quick, "roles": roles, "datasets": {"refresh_seconds": 3600, "index_refresh_ms": 0}}
    return Lakehouse(Settings.model_validate(settings))


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start puts right is put right when a test says so, and not before."""
    monkeypatch.setattr("lakehouse.datasets.tracker._PACE_S", 3600.0)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lakehouse]:
    found = opened(tmp_path)
    put(found, "notes", {"id": [1, 2, 3], "body": ["a", "b", "c"]})
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], pa.list_(pa.float32()))
    put(found, "pieces", pa.table({"id": [1, 2, 3], "chunk_text": ["a", "b", "c"], "vector": vectors}))
    yield found
    found.close()


def request(lake: Lakehouse, index: str = "texts", **parameters: Any) -> BuildRequest:
    notes, pieces = (lake.catalog.load("main", name) for name in ("notes", "pieces"))
    source = VectorColumn(pieces.name, pieces.uuid, "vector", ("id", "chunk_text"))
    guard = Guard(notes.name, notes.uuid, ("id", "body"), ("id",), notes.snapshot_id)
    return BuildRequest(index, source, IndexParameters(m=8, **parameters), guard, MODEL)


def kept(lake: Lakehouse, index: str = "texts") -> DatasetManifest | None:
    """What is in the bucket, with nothing remembered."""
    store = ManifestStore(lake.bucket, lake.clock)
    try:
        return store.get(dataset_id_of(index))
    finally:
        store.close()


def generation_of(lake: Lakehouse, index: str = "texts") -> str | None:
    found = kept(lake, index)
    return None if found is None or found.dropped or found.vectors is None else found.vectors.generation


def datasets(lake: Lakehouse, *roles: str) -> GuardedDatasets:
    access = lake.policy.of(Principal("somebody", frozenset(roles)))
    lakes = GuardedCatalogs(lake.catalogs, access)
    return GuardedDatasets(lake.manifests, lakes, lake.clock.now(), indexes=lake.vector_manifests)


def indexes_of(lake: Lakehouse, *roles: str) -> list[SeenDataset]:
    return list(datasets(lake, *roles).search(DatasetSearch(kind="vector_index")))


def start_again(lake: Lakehouse) -> None:
    """What a start does about manifests."""
    for _ in lake.vector_manifests.look():
        pass


def test_manifest_follows_what_is_live(lake: Lakehouse) -> None:
    first = lake.vectors.build(request(lake, metric=Metric.L2), create=True)
    found = kept(lake)
    assert found is not None
    assert (found.kind, found.name, str(found.name)) == (
        DatasetKind.VECTOR_INDEX,
        NAME,
        "vectors.default.texts",
    )
    assert (found.rows, found.object_count, found.size_bytes) == (3, 2, first.size_bytes)
    assert [(c.name, c.type) for c in found.columns] == [
        ("id", "BIGINT"), ("chunk_text", "VARCHAR"), ("vector", "FLOAT[2]"),
    ]  # fmt: skip
    notes, pieces = (lake.catalog.load("main", name) for name in ("notes", "pieces"))
    assert [(e.system, e.inputs) for e in found.lineage] == [
        ("lake", (pieces.uuid,)), ("lake", (notes.uuid,)), ("model", ()),
    ]  # fmt: skip
    assert found.lineage[2].source == "local/wordllama@4d24"
    assert (found.snapshot_id, found.changed_at) == (pieces.snapshot_id, first.created_at)
    facts = found.vectors
    assert facts is not None
    assert (facts.generation, facts.slot, facts.why, facts.metric, facts.m) == (first.id, 1, "build", "l2", 8)
    assert (facts.model_name, facts.dimension, facts.guard_snapshot_id) == ("wordllama", 2, notes.snapshot_id)
    assert {each.key for each in found.objects} == {first.vectors.key, first.rows.key}

    second = lake.vectors.build(request(lake))
    assert generation_of(lake) == second.id
    lake.vectors.rollback("texts")
    assert generation_of(lake) == first.id
    again = kept(lake)
    assert again is not None
    assert again.vectors is not None
    assert (again.vectors.why, again.changed_at, again.version) == ("rollback", first.created_at, 4)
    lake.vectors.drop("texts")
    gone = kept(lake)
    assert gone is not None
    assert gone.dropped
    with pytest.raises(VectorIndexNotFound):
        datasets(lake, "reader").find(NAME)


def test_what_somebody_said_outlives_generations_but_not_a_drop(lake: Lakehouse) -> None:
    lake.vectors.build(request(lake))
    said = {"description": "notes by meaning", "tags": ("gold",), "owner": "ann", "freshness_seconds": 60}
    lake.manifests.change(dataset_id_of("texts"), lambda old: replace(old, **said))  # type: ignore[arg-type, type-var]
    lake.vectors.build(request(lake, ef_search=7))
    found = kept(lake)
    assert found is not None
    assert found.vectors is not None
    assert {name: getattr(found, name) for name in said} == said
    assert found.vectors.ef_search == 7
    lake.vectors.drop("texts")
    lake.vectors.build(request(lake))
    anew = kept(lake)
    assert anew is not None
    assert (anew.dropped, anew.description, anew.tags, anew.version) == (False, "", (), found.version + 3)


@pytest.mark.parametrize("roles", [("reader",), ("even",), ()])
def test_index_is_there_for_those_who_may_search_it(lake: Lakehouse, roles: tuple[str, ...]) -> None:
    lake.vectors.build(request(lake))
    seen = indexes_of(lake, *roles)
    if not roles:
        assert seen == []
        with pytest.raises(VectorIndexNotFound):
            datasets(lake).find(NAME)
        assert datasets(lake).readable(dataset_id_of("texts")) is None
        return
    assert [each.manifest.name for each in seen] == [NAME]
    assert seen[0].is_whole is (roles == ("reader",))
    assert (seen[0].manifest.rows, len(seen[0].manifest.objects)) == ((3, 2) if seen[0].is_whole else (0, 0))
    facts = seen[0].manifest.vectors
    assert facts is not None
    # Who may not read the table of embeddings is not told of it.
    assert facts.source == (("lake", "main", "pieces") if roles == ("reader",) else ("", "", ""))
    inputs = [len(edge.inputs) for edge in seen[0].manifest.lineage]
    assert inputs == ([1, 1, 0] if roles == ("reader",) else [1, 0])
    lake.catalog.drop_table("main", "notes")
    assert indexes_of(lake, *roles) == []


def test_description_is_that_of_the_live_generation_whatever_the_manifest_says(lake: Lakehouse) -> None:
    lake.vectors.build(request(lake))
    lake.vectors.observer = None
    second = lake.vectors.build(request(lake))
    assert generation_of(lake) != second.id
    facts = datasets(lake, "reader").find(NAME).manifest.vectors
    assert facts is not None
    assert facts.generation == second.id
    lake.vectors.drop("texts")
    assert indexes_of(lake, "reader") == []


def test_start_puts_right_what_a_killed_server_left(lake: Lakehouse) -> None:
    observer, lake.vectors.observer = lake.vectors.observer, None
    made = lake.vectors.build(request(lake, "old"))
    lake.vectors.build(request(lake, "gone"))
    assert kept(lake, "old") is None
    start_again(lake)
    assert (generation_of(lake, "old"), generation_of(lake, "gone") is None) == (made.id, False)
    # Killed between the manifest and the change: a drop, and an index that there never was.
    assert observer is not None
    live = lake.vectors.live("old")
    observer.promoting("old", None, live)
    never = replace(made, index="never")
    observer.promoting("never", never, None)
    lake.vectors.drop("gone")
    assert (generation_of(lake, "old"), generation_of(lake, "never")) == (None, made.id)
    start_again(lake)
    assert (generation_of(lake, "old"), generation_of(lake, "never")) == (made.id, None)
    assert generation_of(lake, "gone") is None
    before = kept(lake, "old")
    start_again(lake)
    assert kept(lake, "old") == before


def test_lost_race_leaves_the_manifest_of_the_winner(
    lake: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_live = lake.vectors.store.put_live
    winner: list[Generation] = []

    def raced(index: str, generation: Generation | None, *args: Any, **how: Any) -> Any:
        monkeypatch.setattr(lake.vectors.store, "put_live", put_live)
        winner.append(lake.vectors.build(request(lake)))
        return put_live(index, generation, *args, **how)

    monkeypatch.setattr(lake.vectors.store, "put_live", raced)
    with pytest.raises(CommitConflict):
        lake.vectors.build(request(lake))
    assert generation_of(lake) == winner[0].id


def test_an_older_generation_never_covers_a_newer_one(lake: Lakehouse) -> None:
    lake.vectors.build(request(lake))
    first = lake.vectors.live("texts")
    second = lake.vectors.build(request(lake))
    lake.vector_manifests.promoted("texts", first)  # a server that was asleep
    assert generation_of(lake) == second.id


def test_storage_that_fails_keeps_an_index_from_being_made_but_not_from_being_swapped(
    lake: Lakehouse,
) -> None:
    failing: list[str] = []
    faulty = FaultyBucket(lake.bucket, lambda _, what: "before" if failing else None)
    store = ManifestStore(faulty, lake.clock)
    observer = IndexManifests(store, lake.vectors.store, lake.catalogs, lake.clock)
    lake.vectors.build(request(lake))
    store.refresh()
    lake.vectors.observer = observer
    failing.append("now")
    second = lake.vectors.build(request(lake))
    assert lake.vectors.live("texts").generation == second
    with pytest.raises(StorageError):
        lake.vectors.build(request(lake, "other"))
    with pytest.raises(StorageError):
        lake.vectors.drop("texts")
    with pytest.raises(VectorIndexNotFound):
        lake.vectors.live("other", fresh=True)
    store.close()


def test_resync_makes_lost_manifests_anew_from_the_bucket(lake: Lakehouse, tmp_path: Path) -> None:
    made = lake.vectors.build(request(lake))
    original = kept(lake)
    shutil.rmtree(tmp_path / MANIFESTS)
    fresh = opened(tmp_path)
    try:
        done, failed = fresh.resync.resync_missing("mechanic", lambda _: True, lambda: None, lambda *_: None)
        assert not failed
        assert NAME in {each.name for each in done} or generation_of(fresh) == made.id
        again = kept(fresh)
        assert again is not None
        assert original is not None
        same = {"version": 1, "updated_at": original.updated_at, "updated_by": original.updated_by}
        assert replace(again, **same) == replace(original, **same)  # type: ignore[arg-type]
        _verify_damage(fresh, tmp_path, made)
    finally:
        fresh.close()


def _verify_damage(lake: Lakehouse, root: Path, made: Generation) -> None:
    def problems(*, deep: bool = False) -> list[tuple[str, str]]:
        found, _ = lake.resync.verify([NAME], lambda _: True, lambda: None, lambda *_: None, deep=deep)
        return [(f.problem, f.key) for each in found for f in each.findings]

    assert problems(deep=True) == []
    file = root / made.vectors.key
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert problems() == []
    assert problems(deep=True) == [("corrupt", made.vectors.key)]
    file.write_bytes(content[:-1])
    assert problems() == [("wrong_size", made.vectors.key)]
    file.unlink()
    assert problems(deep=True) == [("missing", made.vectors.key)]
    file.write_bytes(content)
    lake.manifests.change(dataset_id_of("texts"), lambda old: replace(old, rows=9))  # type: ignore[arg-type, type-var]
    assert problems() == [("wrong_rows", "")]
    done = lake.resync.resync(NAME, "mechanic", lambda: None, lambda *_: None)
    assert [(each.field, each.old, each.new) for each in done.differences] == [("rows", "9", "3")]
    lake.vectors.drop("texts")
    with pytest.raises(TableNotFound):
        lake.resync.resync(NAME, "mechanic", lambda: None, lambda *_: None)


def test_names_of_datasets_and_of_indexes_belong_together() -> None:
    for index in ("texts", "fresh:texts"):
        assert index_of(dataset_name(index)) == index
    assert dataset_name("fresh:texts") == TableName("vectors", "fresh", "texts")
    assert index_of(TableName("vectors", "Default", "TEXTS")) == "texts"
    for name in ("a/b", "", "a:b"):
        with pytest.raises(TableNotFound):
            index_of(TableName("vectors", "default", name))
