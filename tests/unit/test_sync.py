"""What is run again and again brings each object once, whatever comes between the runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Summary

from lakehouse.catalog.commit import writable
from lakehouse.catalog.ingest_mark import is_cut_off, sync_states
from lakehouse.catalog.references import roll_back
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.ingest.sources.byte_source import BucketObject
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.source import OnError, Piece
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
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

DAYS = TableName("lake", "crm", "days")
IN = "in/"


class Runner:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "data"
        self.lakehouse = Lakehouse(
            Settings(buckets=[{"name": "primary", "path": self.directory}], maintenance={"grace_seconds": 0})
        )
        lake = self.lakehouse
        self.ingests = Ingests(lake.engine, RunStore(lake.bucket, lake.clock), lake.clock)

    def put(self, name: str, *ids: int) -> None:
        content = "id,name\n" + "".join(f"{n},{name} {n}\n" for n in ids)
        self.lakehouse.bucket.put(IN + name, content.encode())

    def listing(self) -> Iterable[BucketObject]:
        bucket = self.lakehouse.bucket
        for chunk in bucket.objects_after(IN.rstrip("/"), ""):
            for found in chunk:
                yield BucketObject(bucket, found.key, found.size_bytes, found.e_tag)

    def source(self, changed: Changed = Changed.REFUSE, most: int = 100, prefix: str = IN) -> NewObjects:
        lists = KnownObjects(self.lakehouse.bucket, self.lakehouse.clock)
        options = FileOptions(format="csv")
        return NewObjects(self.listing, "primary", prefix, options, lists, changed, most, f"primary/{prefix}")

    def __call__(self, source: NewObjects | None = None, reset: bool = False, **request: Any) -> RunRecord:
        asked = IngestRequest(DAYS, sync=SyncRequest(request.pop("name", ""), reset), **request)
        what = source or self.source()
        return self.ingests.run(asked, what, self.lakehouse.anonymous, lambda: False, lambda *_: None)

    def sql(self, text: str) -> list[dict[str, Any]]:
        engine = self.lakehouse.engine
        session = engine.new_session(self.lakehouse.clock.token(), {}, self.lakehouse.anonymous)
        analysis = engine.gate.analyse(text)
        if not text.startswith("SELECT"):
            engine.changes.run(analysis, Scope(session, None, CallWatch()))
            return []
        plan = engine.plan(analysis, session)
        return [row for batch in engine.open(plan, session, CallWatch()) for row in batch.to_pylist()]

    def ids(self) -> list[int]:
        return sorted(row["id"] for row in self.sql(f"SELECT id FROM {DAYS.sql}"))

    def table(self) -> Any:
        return self.lakehouse.catalog.load("crm", "days")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path)
    yield runner
    runner.ingests.close()
    runner.lakehouse.close()


def account(record: RunRecord) -> tuple[str, int, int, int, int, int]:
    found = record.sync
    assert found is not None
    objects = (found.objects_new, found.objects_known, found.objects_changed, found.objects_gone)
    return (record.state, record.rows_stored, *objects)


def test_only_new_objects_come(run: Runner) -> None:
    assert account(run()) == ("repeated", 0, 0, 0, 0, 0)
    assert not run.lakehouse.catalog.table_exists("crm", "days")
    run.put("1", 1, 2)
    run.put("2", 3)
    assert account(run()) == ("succeeded", 3, 2, 0, 0, 0)
    before = run.table().snapshot_id
    assert account(run()) == ("repeated", 0, 0, 2, 0, 0)
    assert run.table().snapshot_id == before
    run.put("3", 4)
    run.lakehouse.bucket.delete(IN + "1")
    record = run()
    assert account(record) == ("succeeded", 1, 1, 1, 0, 1)
    assert record.snapshot_id == run.table().snapshot_id
    assert run.ids() == [1, 2, 3, 4]


def test_more_objects_than_one_run_brings_are_left_for_the_next(run: Runner) -> None:
    for n in range(5):
        run.put(f"{n}", n)
    left = []
    for _ in range(3):
        record = run(run.source(most=2))
        assert record.sync is not None
        left.append(record.sync.objects_left)
    assert (left, run.ids()) == ([3, 1, 0], [0, 1, 2, 3, 4])
    assert run(run.source(most=2)).state == "repeated"


def test_a_changed_object_is_refused_or_comes_as_said(run: Runner) -> None:
    run.put("1", 1)
    run.put("2", 2)
    run()
    run.put("1", 1, 10)
    with pytest.raises(InvalidRequest, match="'in/1' was brought before and has other content now"):
        run()
    assert account(run(run.source(Changed.SKIP))) == ("repeated", 0, 0, 1, 1, 0)
    assert run.ids() == [1, 2]
    assert account(run(run.source(Changed.AGAIN))) == ("succeeded", 2, 0, 1, 1, 0)
    assert run.ids() == [1, 1, 2, 10]
    assert run().state == "repeated"


def test_with_a_key_a_changed_object_replaces_its_rows(run: Runner) -> None:
    run.put("1", 1, 2)
    key: dict[str, Any] = {"mode": IngestMode.UPSERT, "keys": ("id",)}
    run(**key)
    run.put("1", 2, 3)
    assert account(run(run.source(Changed.AGAIN), **key)) == ("succeeded", 2, 0, 0, 1, 0)
    assert run.ids() == [1, 2, 3]


def test_an_object_without_rows_is_known_too(run: Runner) -> None:
    run.put("1", 1)
    run()
    run.put("2")
    assert account(run()) == ("succeeded", 0, 1, 1, 0, 0)
    assert account(run()) == ("repeated", 0, 0, 2, 0, 0)
    assert run.ids() == [1]


def test_rejected_rows_come_once_even_if_no_other_does(run: Runner) -> None:
    run.put("1", 1)
    run(types={"id": pa.int64()})
    run.lakehouse.bucket.put(IN + "2", b"id,name\nnone,x\n")
    reject: dict[str, Any] = {"on_error": OnError.REJECT, "types": {"id": pa.int64()}}
    assert run(**reject).rows_rejected == 1
    assert run(**reject).state == "repeated"
    assert run.sql("SELECT count(*) AS n FROM lake.crm.days_rejects") == [{"n": 1}]


# -- the state is that of the rows -------------------------------------------------------------------


def test_other_changes_and_expired_snapshots_do_not_matter(run: Runner) -> None:
    run.put("1", 1, 2)
    run()
    run.sql(f"INSERT INTO {DAYS.sql} VALUES (100, 'by hand')")
    run.sql(f"DELETE FROM {DAYS.sql} WHERE id = 2")
    rows = pa.table({"id": [200], "name": ["by another ingest"]})
    source = ArrowBatches(rows.schema, rows.to_batches(), "a test", "other")
    run.ingests.run(IngestRequest(DAYS), source, run.lakehouse.anonymous, lambda: False, lambda *_: None)
    later = run.lakehouse.clock.now() + timedelta(hours=1)
    run.lakehouse.maintenance.of("lake").cleaner.expire("crm", "days", later, 1)
    assert len(run.table().snapshots()) == 1
    assert run().state == "repeated"
    assert run.ids() == [1, 100, 200]


def by_others(metadata: TableMetadata, *, expired: bool) -> TableMetadata:
    """A table as after a commit of a program that knows nothing of ours, or after that expired ours, too."""
    last = metadata.current_snapshot()
    assert last is not None
    summary = Summary(Operation.APPEND)
    theirs = last.model_copy(
        update={"snapshot_id": 7, "parent_snapshot_id": last.snapshot_id, "summary": summary}
    )
    kept = [] if expired else metadata.snapshots
    return metadata.model_copy(update={"snapshots": [*kept, theirs], "current_snapshot_id": 7})


def test_what_a_table_remembers_is_not_lost_by_what_others_commit(run: Runner) -> None:
    run.put("1", 1)
    run()
    metadata = run.table().metadata
    assert len(sync_states(metadata)) == 1
    assert sync_states(by_others(metadata, expired=False)) == sync_states(metadata)
    assert not is_cut_off(by_others(metadata, expired=False))
    assert is_cut_off(by_others(metadata, expired=True))


def test_where_nobody_knows_what_came_nothing_comes_but_by_a_reset(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.put("1", 1)
    run()
    monkeypatch.setattr("lakehouse.runs.sync.sync_states", lambda _: {})
    monkeypatch.setattr("lakehouse.runs.run.is_cut_off", lambda _: True)
    with pytest.raises(InvalidRequest, match="was lost: another program"):
        run()
    assert run(name="another").state == "succeeded"


def test_rows_that_were_rolled_back_come_again(run: Runner) -> None:
    run.put("1", 1)
    first = run()
    run.put("2", 2)
    run()
    run.put("3", 3)
    assert first.snapshot_id is not None
    roll_back(writable(run.lakehouse.catalog), run.table(), first.snapshot_id)
    assert account(run()) == ("succeeded", 2, 2, 1, 0, 0)
    assert run.ids() == [1, 2, 3]


@pytest.mark.parametrize(
    "how", ["DROP TABLE {}", "CREATE OR REPLACE TABLE {} AS SELECT 0 AS id, 'x' AS name"]
)
def test_a_table_of_other_rows_gets_all_again(run: Runner, how: str) -> None:
    run.put("1", 1)
    run()
    run.sql(how.format(DAYS.sql))
    assert account(run()) == ("succeeded", 1, 1, 0, 0, 0)


def test_syncs_of_one_table_are_apart_and_keep_to_their_source(run: Runner) -> None:
    run.put("1", 1)
    run()
    assert run(name="another").state == "succeeded"
    assert run.ids() == [1, 1]
    assert len(sync_states(run.table().metadata)) == 2
    with pytest.raises(
        InvalidRequest, match="sync 'another' was made with prefix = 'in/', not with prefix = ''"
    ):
        run(run.source(prefix=""), name="another")
    assert run(run.source(prefix=""), name="another", reset=True).state == "succeeded"
    assert run().state == "repeated"
    assert run.ids() == [1, 1, 1]


def test_a_spoiled_list_is_never_taken_for_an_empty_one(run: Runner) -> None:
    run.put("1", 1)
    run()
    [found] = (run.directory / "_ingest/syncs").rglob("*.gz")
    found.write_bytes(b"")
    with pytest.raises(StorageError, match="lost or spoiled"):
        run()
    assert run.ids() == [1]


def test_lists_that_no_snapshot_names_are_removed(run: Runner) -> None:
    for n in range(3):
        run.put(f"{n}", n)
        run()
    folder = run.directory / "_ingest/syncs"
    for found in folder.rglob("*.gz"):
        os.utime(found, (0, 0))
    later = run.lakehouse.clock.now() + timedelta(hours=1)
    run.lakehouse.maintenance.of("lake").cleaner.expire("crm", "days", later, 1)
    run.put("3", 3)
    run()
    assert len(list(folder.rglob("*.gz"))) == 2
    assert run().state == "repeated"


@pytest.mark.parametrize("exists", [False, True])
def test_twins_at_the_same_time_bring_the_rows_once(run: Runner, exists: bool) -> None:
    if exists:
        run.put("0", 0)
        run()
    run.put("1", 1, 2, 3)
    gate = threading.Barrier(3)

    class Waiting(NewObjects):
        waited = False

        def read(self, *args: Any, **kwargs: Any) -> Iterator[Piece]:
            yield from super().read(*args, **kwargs)
            if not self.waited:
                self.waited = True
                gate.wait(30)

    ended: list[str] = []

    def work() -> None:
        source = run.source()
        source.__class__ = Waiting
        ended.append(run(source).state)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["repeated", "repeated", "succeeded"]
    assert run.ids() == [0, 1, 2, 3][not exists :]
