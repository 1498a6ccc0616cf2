"""The store of manifests: what is written is read again, by other servers too, whatever happened."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket, Killed
from manifests import NOW, manifest

from lakehouse.clock import FixedClock, SystemClock
from lakehouse.datasets import (
    ColumnManifest,
    DatasetKind,
    DatasetManifest,
    DatasetObject,
    LineageEdge,
    Sensitivity,
)
from lakehouse.datasets import manifest_store as module
from lakehouse.datasets.manifest_rows import SCHEMA, from_rows, to_parquet, to_rows
from lakehouse.datasets.manifest_store import MANIFESTS, ManifestStore
from lakehouse.errors import CommitStateUnknown, StorageError
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.types import TableName

FULL = manifest(
    "ünï",
    "Tabelle „1“ 🦆",
    kind=DatasetKind.PARQUET,
    snapshot_id=2**62,
    objects=(DatasetObject("a/b.parquet", 10, 3, '"x"'), DatasetObject("c", 0, 0)),
    object_count=2,
    rows=2**40,
    size_bytes=11,
    columns=(
        ColumnManifest("a", "BIGINT", False, 3, 0, "-1", "9", 7),
        ColumnManifest(
            "ß",
            "VARCHAR",
            description="what\nit is",
            tags=("p", "q"),
            sensitivity=(Sensitivity("email", 0.75, "3 of 4"), Sensitivity("own", 1.0, "", declared=True)),
        ),
    ),
    fingerprint="f",
    owner="alice",
    description="d",
    tags=("x",),
    lineage=(
        LineageEdge("sql", "s", "CREATE", ("i", "j"), NOW, "bob"),
        LineageEdge("a", "", "", (), NOW, ""),
    ),
    freshness_seconds=60,
    changed_at=NOW,
    dropped=False,
)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_local_bucket("primary", tmp_path / "bucket")


def opened(bucket: Bucket, clock: FixedClock | SystemClock | None = None) -> ManifestStore:
    return ManifestStore(bucket, clock or SystemClock(), refresh_s=0)


def put(store: ManifestStore, *manifests: DatasetManifest) -> list[DatasetManifest]:
    return store.change_many({m.dataset_id: lambda _, m=m: m for m in manifests})  # type: ignore[misc]


def tagged(tag: str) -> Callable[[DatasetManifest | None], DatasetManifest]:
    def build(old: DatasetManifest | None) -> DatasetManifest:
        assert old is not None
        return replace(old, tags=(*old.tags, tag))

    return build


def test_manifests_are_read_as_they_were_written() -> None:
    written = [FULL, manifest(), manifest("e", dropped=True, freshness_seconds=0)]
    assert from_rows(to_rows(written)) == written
    assert from_rows(to_rows([])) == []


def test_a_change_is_there_for_other_servers_and_after_a_start(bucket: Bucket) -> None:
    one, other = opened(bucket), opened(bucket)
    assert other.get("d") is None
    assert list(other.all()) == []
    made = put(one, FULL, manifest())
    assert other.get("d") == made[1]
    assert other.find(TableName("LAKE", "Main", "T")) == made[1]
    assert other.get(FULL.dataset_id) == FULL
    again = other.change("d", tagged("seen"))
    assert (again.version, again.tags) == (2, ("seen",))
    assert one.get("d") == again
    assert list(opened(bucket).all()) == [FULL, again]


def test_what_does_not_change_is_not_written(bucket: Bucket) -> None:
    store = opened(bucket)
    put(store, FULL)
    put(store, FULL)
    assert store.change(FULL.dataset_id, lambda old: old or FULL).version == 1
    assert bucket.names(MANIFESTS) == ["000000000001.parquet"]


def test_a_name_leads_to_the_dataset_that_has_it_now(bucket: Bucket) -> None:
    store = opened(bucket)
    put(store, manifest("a", "x"), manifest("b", "y"))
    put(store, manifest("a", "z"))
    assert store.find(TableName("lake", "main", "x")) is None
    assert [m.dataset_id for m in store.all()] == ["b", "a"]
    put(store, manifest("a", "z", dropped=True))
    put(store, manifest("c", "Z"))
    for each in (store, opened(bucket)):
        found = each.find(TableName("lake", "main", "z"))
        assert found is not None
        assert found.dataset_id == "c"
        dropped = each.get("a")
        assert dropped is not None
        assert dropped.dropped
        assert [m.dataset_id for m in each.all()] == ["c", "b"]


def test_no_server_loses_a_change_of_another(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SLOTS", 5)
    monkeypatch.setattr(module, "KEPT_SLOTS", 12)
    put(opened(bucket), manifest())

    def run(number: int) -> None:
        store = opened(bucket)
        for turn in range(12):
            store.change("d", tagged(f"{number}.{turn}"))
        store.close()

    with ThreadPoolExecutor(4) as servers:
        list(servers.map(run, range(4)))
    found = opened(bucket).get("d")
    assert found is not None
    assert sorted(found.tags) == sorted(f"{n}.{t}" for n in range(4) for t in range(12))
    assert found.version == 49


def test_the_log_stays_short_and_a_writer_that_slept_loses_nothing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SLOTS", 4)
    monkeypatch.setattr(module, "KEPT_SLOTS", 8)
    sleeper = opened(bucket)
    put(sleeper, manifest())
    # It is about to take slot 2 while the others go on, and finds it free when it wakes up.
    awake = opened(bucket)
    slept = False

    def fails(_: int, what: str) -> None:
        nonlocal slept
        if what == "put_new" and not slept:
            slept = True
            for turn in range(40):
                awake.change("d", tagged(str(turn)))
                awake.checkpoint()

    sleeper._bucket = FaultyBucket(bucket, fails)  # type: ignore[arg-type]
    sleeper.change("d", tagged("late"))
    found = opened(bucket).get("d")
    assert found is not None
    assert found.tags == (*map(str, range(40)), "late")
    names = bucket.names(MANIFESTS)
    assert len([n for n in names if n.startswith("checkpoint")]) == 3
    assert len(names) < 20
    awake.close()


@pytest.mark.parametrize("fault", ["before", "after", "dead", "dying"])
def test_a_failure_at_any_request_leaves_a_change_whole_or_absent(tmp_path: Path, fault: str) -> None:
    """Of two manifests that change together never one alone; what was confirmed is there."""
    for failing in range(1, 12):
        bucket = open_local_bucket("primary", tmp_path / fault / str(failing))
        put(opened(bucket), manifest("a", "a"), manifest("b", "b"))
        faulty = FaultyBucket(bucket, lambda call, _, failing=failing: fault if call == failing else None)  # type: ignore[misc]
        store = ManifestStore(faulty, SystemClock(), refresh_s=0)
        confirmed = 0
        try:
            for turn in range(3):
                store.change_many({"a": tagged(str(turn)), "b": tagged(str(turn))})
                confirmed += 1
                store.checkpoint()
        except (StorageError, CommitStateUnknown, Killed):
            pass
        found = [opened(bucket).get(each) for each in "ab"]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].tags == found[1].tags
        assert len(found[0].tags) in (confirmed, confirmed + 1)
        put(opened(bucket), replace(found[0], owner="next"))
        after = opened(bucket).get("a")
        assert after is not None
        assert after.owner == "next"


def _damaged(content: bytes, how: str) -> bytes:
    match how:
        case "empty":
            return b""
        case "cut":
            return content[: len(content) // 2]
        case "text":
            return b"not parquet"
        case "other":
            return to_parquet(pa.table({"x": [1]}))
        case "zeros":
            return bytes(len(content))
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["empty", "cut", "text", "other", "zeros"])
def test_damaged_objects_are_skipped_and_told(bucket: Bucket, how: str) -> None:
    store = opened(bucket)
    for each in "abc":
        put(store, manifest(each, each))
    store.checkpoint()
    for each in "def":
        put(store, manifest(each, each))
    checkpoint = f"{MANIFESTS}/checkpoint-000000000003.parquet"
    bucket.put(checkpoint, _damaged(bucket.get(checkpoint), how))
    after = opened(bucket)
    # The slots that the checkpoint was made of are there still.
    assert [m.dataset_id for m in after.all()] == list("abcdef")
    assert [d.key for d in after.damage] == [checkpoint]
    slot = f"{MANIFESTS}/000000000005.parquet"
    bucket.put(slot, _damaged(bucket.get(slot), how))
    after = opened(bucket)
    assert [m.dataset_id for m in after.all()] == list("abcdf")
    assert {d.key for d in after.damage} == {checkpoint, slot}
    bucket.delete(f"{MANIFESTS}/000000000006.parquet")
    put(after, manifest("g", "g"))
    again = opened(bucket)
    assert [m.dataset_id for m in again.all()] == list("abcdg")
    assert f"{MANIFESTS}/000000000006.parquet" in {d.key for d in again.damage}
    assert [m.dataset_id for m in store.all()] == list("abcdefg")


def test_flipped_bits_are_noticed(bucket: Bucket) -> None:
    written = [replace(FULL, dataset_id=each, name=TableName("l", "m", each)) for each in "abc"]
    put(opened(bucket), *written)
    slot = f"{MANIFESTS}/000000000001.parquet"
    whole = bucket.get(slot)
    seeded = random.Random(5)
    for _ in range(200):
        at = seeded.randrange(len(whole))
        bucket.put(slot, whole[:at] + bytes([whole[at] ^ (1 << seeded.randrange(8))]) + whole[at + 1 :])
        store = opened(bucket)
        assert list(store.all()) == [], at
        assert store.damage


def test_columns_of_other_versions_do_no_harm(bucket: Bucket) -> None:
    rows = to_rows([FULL]).drop_columns(["lineage", "owner"]).append_column("new", pa.array([1]))
    bucket.put(f"{MANIFESTS}/000000000001.parquet", to_parquet(rows))
    assert opened(bucket).get(FULL.dataset_id) == replace(FULL, lineage=(), owner="")
    assert rows.schema != SCHEMA


def test_what_is_known_can_be_read_while_storage_is_away(bucket: Bucket) -> None:
    away = False
    faulty = FaultyBucket(bucket, lambda *_: "before" if away else None)
    store = ManifestStore(faulty, SystemClock(), refresh_s=0)
    put(store, manifest())
    away = True
    assert store.get("d") == manifest()
    with pytest.raises(StorageError):
        store.change("d", tagged("x"))
    away = False
    assert store.change("d", tagged("y")).tags == ("y",)


def test_one_list_request_tells_that_nothing_changed(bucket: Bucket) -> None:
    calls: list[str] = []
    faulty = FaultyBucket(bucket, lambda _, what: calls.append(what))
    clock = FixedClock()
    store = ManifestStore(faulty, clock, refresh_s=0.5)
    put(store, manifest())
    clock.elapsed_s += 1
    calls.clear()
    for _ in range(3):
        store.get("d")
        store.all()
    assert calls == ["list"]


def test_datasets_that_were_dropped_long_ago_are_forgotten(bucket: Bucket) -> None:
    clock = FixedClock(NOW)
    store = opened(bucket, clock)
    put(store, manifest("a", dropped=True), manifest("b"))
    store.checkpoint()
    assert opened(bucket).get("a") is not None
    clock.time += timedelta(days=31)
    put(store, manifest("b", owner="c"))
    store.checkpoint()
    after = opened(bucket)
    assert after.get("a") is None
    assert after.get("b") is not None
