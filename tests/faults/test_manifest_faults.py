"""Manifests of a server that is killed at any step, and of servers that share an S3 bucket that fails."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from faults.mortal import Death, Lake, copy
from manifests import manifest
from s3 import S3, start_s3
from s3_proxy import Answer, start_proxy

from lakehouse.clock import SystemClock
from lakehouse.datasets import DatasetManifest
from lakehouse.datasets import manifest_store as module
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.datasets.observed import is_current
from lakehouse.errors import CommitStateUnknown, LakehouseError, StorageError
from lakehouse.storage import open_bucket

STATEMENTS = {
    "create as": "create table made as select k from t",
    "replace": "create or replace table t as select 1 as z",
    "rename": "alter table t rename to moved",
    "alter": "alter table t rename column k to z",
    "drop": "drop table t",
}


def watching(root: Path, fails: Death | None = None) -> Lake:
    """A lakehouse that keeps manifests; nothing of it runs in the background."""
    lake = Lake(root, fails)
    for catalog in lake.lakehouse.catalogs:
        catalog.observer = lake.lakehouse.datasets
    return lake


def check(lake: Lake) -> None:
    """There is a manifest for every table, as the table is, and for nothing else."""
    lakehouse = lake.lakehouse
    for _ in lakehouse.datasets._unseen():
        pass
    lakehouse.datasets.settle()
    manifests = {each.dataset_id: each for each in lakehouse.manifests.all()}
    tables = [lakehouse.catalog.load("main", name) for name in lakehouse.catalog.tables("main")]
    assert set(manifests) == {table.uuid for table in tables}
    for table in tables:
        assert is_current(manifests[table.uuid], table)
        assert manifests[table.uuid].rows == table.record_count
    assert not lakehouse.manifests.damage


@pytest.mark.parametrize("statement", STATEMENTS)
def test_whichever_step_is_the_last_manifests_are_right_again_after_the_next_start(
    statement: str, tmp_path: Path
) -> None:
    root, pristine = tmp_path / "lake", tmp_path / "pristine"
    first = watching(root)
    first.run("create table t as select range::int as k, 's' || range as s from range(300)")
    first.run("create table u as select * from t")
    check(first)
    first.close()
    copy(root, pristine)
    last, answered = 0, False
    while not answered:
        last += 1
        death = Death(last)
        shutil.rmtree(root)
        copy(pristine, root)
        victim = watching(root, death)
        answered = death.strikes(victim.run, [STATEMENTS[statement]])
        victim.close()
        restarted = watching(root)
        check(restarted)
        restarted.close()
    assert last > 1


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


def tagged(tag: str) -> module.Build:
    def build(old: DatasetManifest | None) -> DatasetManifest:
        assert old is not None
        return replace(old, tags=(*old.tags, tag))

    return build


def test_servers_that_share_a_bucket_which_fails_lose_nothing_that_they_confirmed(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SLOTS", 4)
    monkeypatch.setattr(module, "KEPT_SLOTS", 8)
    settings = s3.settings()
    proxy = start_proxy(s3.endpoint)
    seeded = random.Random(11)

    def fault(answer: Answer) -> Answer | None:
        """The answer is lost, or an error instead, whether the request took place or not."""
        chance = seeded.random()
        return (
            None
            if chance < 0.03
            else replace(answer, status=500, body=b"", length=0)
            if chance < 0.08
            else answer
        )

    shared = open_bucket(settings)
    store = ManifestStore(shared, SystemClock(), 0)
    first = manifest("d")
    store.change(first.dataset_id, lambda _: first)
    faulty = settings.model_copy(update={"endpoint": proxy.endpoint})
    opened = [open_bucket(faulty) for _ in range(3)]
    proxy.fault = fault
    confirmed: set[str] = set()
    doubtful: set[str] = set()

    def run(number: int) -> None:
        own = ManifestStore(opened[number], SystemClock(), 0)
        for turn in range(8):
            tag = f"{number}.{turn}"
            try:
                own.change(first.dataset_id, tagged(tag))
                confirmed.add(tag)
            except (StorageError, CommitStateUnknown):
                doubtful.add(tag)
        own.close()

    with ThreadPoolExecutor(3) as servers:
        list(servers.map(run, range(3)))
    proxy.stop()
    found = ManifestStore(shared, SystemClock(), 0).get(first.dataset_id)
    assert found is not None
    assert confirmed <= set(found.tags) <= confirmed | doubtful
    assert len(found.tags) == len(set(found.tags))
    assert len(confirmed) > 6
    store.close()


def test_unknown_errors_of_storage_do_not_stop_a_reader(s3: S3) -> None:
    settings = s3.settings()
    proxy = start_proxy(s3.endpoint)
    bucket = open_bucket(settings.model_copy(update={"endpoint": proxy.endpoint}))
    store = ManifestStore(bucket, SystemClock(), 0)
    made = manifest("d")
    store.change("d", lambda _: made)
    proxy.fault = lambda answer: replace(answer, status=403, body=b"", length=0)
    assert store.get("d") == made
    with pytest.raises(LakehouseError):
        ManifestStore(bucket, SystemClock(), 0).get("d")
    with pytest.raises(LakehouseError):
        store.change("d", tagged("x"))
    proxy.fault = lambda answer: answer
    # What was refused may have taken place all the same.
    assert store.change("d", tagged("y")).tags in (("y",), ("x", "y"))
    proxy.stop()
    store.close()
