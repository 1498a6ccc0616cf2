"""What is new comes exactly once, whichever step of a sync is the last one of its server."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults.mortal import Death, Lake, copy

from lakehouse.errors import CommitStateUnknown, StorageError
from lakehouse.ingest.sources.byte_source import BucketObject
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.runs import (
    Changed,
    IngestMode,
    IngestRequest,
    Ingests,
    KnownObjects,
    NewObjects,
    RunRecord,
    RunStore,
    SyncRequest,
)
from lakehouse.types import TableName


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults by the dozen, without waiting for the disk or for better times."""
    real = time.sleep
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))


DAYS = TableName("lake", "main", "days")


def put(root: Path, name: str, *ids: int) -> None:
    file = root / "in" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("id,v\n" + "".join(f"{n},{name}\n" for n in ids))


def sync(lake: Lake, root: Path, mode: str) -> RunRecord:
    lakehouse = lake.lakehouse

    def listing() -> list[BucketObject]:
        found = sorted((root / "in").iterdir())
        stats = [(f"in/{file.name}", file.stat()) for file in found]
        return [BucketObject(lakehouse.bucket, key, s.st_size, "") for key, s in stats]

    lists = KnownObjects(lakehouse.bucket, lakehouse.clock)
    source = NewObjects(listing, "primary", "in/", FileOptions(), lists, Changed.REFUSE, 100, "in/")
    request = IngestRequest(
        DAYS, IngestMode(mode), keys=("id",) if mode == "upsert" else (), sync=SyncRequest()
    )
    ingests = Ingests(lakehouse.engine, RunStore(lakehouse.bucket, lakehouse.clock), lakehouse.clock)
    try:
        return ingests.run(request, source, lakehouse.anonymous, lambda: False, lambda *_: None)
    finally:
        ingests.close()


def ids(lake: Lake) -> list[int]:
    if not lake.lakehouse.catalog.table_exists("main", "days"):
        return []
    return sorted(row["id"] for row in lake.rows("select id from days"))


def begun(root: Path, mode: str, *, later: bool) -> None:
    """A lake in which a sync is to be made, for the first time or for a later one."""
    first = Lake(root)
    put(root, "1", 1, 2)
    if later:
        sync(first, root, mode)
        put(root, "2", 3)
        put(root, "3", 4, 5)
    first.close()


@pytest.mark.parametrize(("mode", "later"), [("append", False), ("append", True), ("upsert", True)])
def test_whichever_step_is_the_last_new_rows_come_once(mode: str, later: bool, tmp_path: Path) -> None:
    root, pristine = tmp_path / "lake", tmp_path / "pristine"
    begun(root, mode, later=later)
    copy(root, pristine)
    before, after = ([1, 2], [1, 2, 3, 4, 5]) if later else ([], [1, 2])
    last, answered = 0, False
    seen: set[bool] = set()
    while not answered:
        last += 1
        death = Death(last)
        shutil.rmtree(root)
        copy(pristine, root)
        victim = Lake(root, death)
        answered = death.strikes(lambda _, lake=victim: sync(lake, root, mode), ["it"])
        victim.close()
        restarted = Lake(root)
        found = ids(restarted)
        assert found in (before, after)
        seen.add(found == after)
        assert sync(restarted, root, mode).state == ("repeated" if found == after else "succeeded")
        assert ids(restarted) == after
        assert sync(restarted, root, mode).state == "repeated"
        restarted.close()
    assert seen == {True, False}
    assert last > 5


@pytest.mark.parametrize("fault", ["before", "after"])
def test_whichever_call_of_storage_fails_new_rows_come_once(fault: str, tmp_path: Path) -> None:
    root, pristine = tmp_path / "lake", tmp_path / "pristine"
    begun(root, "append", later=True)
    copy(root, pristine)
    failing, failed = -1 if fault == "before" else 0, True
    while failed:
        failing += 2
        shutil.rmtree(root)
        copy(pristine, root)
        state: dict[str, Any] = {"left": None, "failed": False}

        def fails(_: int, __: str, state: dict[str, Any] = state) -> str | None:
            if state["left"] is None:
                return None
            state["left"] -= 1
            state["failed"] = state["failed"] or state["left"] == 0
            return fault if state["left"] == 0 else None

        lake = Lake(root, fails)
        state["left"] = failing
        with suppress(StorageError, CommitStateUnknown):
            sync(lake, root, "append")
        failed, state["left"] = state["failed"], None
        sync(lake, root, "append")
        assert ids(lake) == [1, 2, 3, 4, 5]
        assert sync(lake, root, "append").state == "repeated"
        lake.close()
    assert failing > 10
