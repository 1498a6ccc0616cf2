"""Storage that fails at a call of an ingest: what its record says is so, and rows come once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket, Killed
from run_records import put_run

from lakehouse.clock import FixedClock
from lakehouse.config import Settings
from lakehouse.engine.running import CallWatch
from lakehouse.errors import LakehouseError, StorageError
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.ingest.sources.source import OnError, Piece, RejectedRow, unheard
from lakehouse.runs import IngestMode, IngestRequest, RunRecord, RunState, RunStore
from lakehouse.runtime import Lakehouse
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

SEED = 61
ROUNDS = int(os.environ.get("LAKEHOUSE_INGEST_FAULTS", "36"))
MODES = list(IngestMode)
REAL_SLEEP = time.sleep
HOWS = ("before", "after", "gone")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: REAL_SLEEP(min(seconds, 0.002)))


class Fault:
    """Says which call fails: the one of a number, or all from there on."""

    def __init__(self) -> None:
        self.at, self.how, self.met = 0, "", False
        self._count = 0

    def set(self, at: int, how: str) -> None:
        self.at, self.how, self.met, self._count = at, how, False, 0

    def __call__(self, _: int, what: str) -> str | None:
        # Of the many writes of one file each is like the others.
        self._count += what != "write"
        if not self.how or self._count < self.at or (self._count > self.at and self.how != "gone"):
            return None
        self.met = True
        return "before" if self.how == "gone" else self.how


class Rows(ArrowBatches):
    """Ten rows of numbers from a first one on, and one that is rejected."""

    def __init__(self, first: int) -> None:
        self.first = first
        table = pa.table({"id": range(first, first + 10), "s": [f"row {n}" for n in range(10)]})
        super().__init__(table.schema, table.to_batches(max_chunksize=3), "a test", f"rows from {first}")

    def read(self, *args: Any, **kwargs: Any) -> Iterator[Piece]:
        yield from super().read(*args, **kwargs)
        empty = pa.record_batch([pa.array([], kind) for kind in self._schema.types], schema=self._schema)
        yield Piece(empty, [RejectedRow("a test", 11, "id", "a test", f"rejected {self.first}")])


class Lake:
    """A lakehouse whose storage fails."""

    def __init__(self, path: Path) -> None:
        self.fault = Fault()
        bucket = FaultyBucket(open_local_bucket("primary", path), self.fault)
        settings = Settings(buckets=[{"name": "primary", "path": path}], maintenance={"enabled": False})
        self.lakehouse = Lakehouse(settings, bucket=bucket)

    def sql(self, text: str) -> list[Any]:
        engine = self.lakehouse.engine
        session = engine.new_session(self.lakehouse.clock.token(), {}, self.lakehouse.anonymous)
        plan = engine.plan(engine.gate.analyse(text), session)
        return [value for batch in engine.open(plan, session, CallWatch()) for value in batch[0].to_pylist()]

    def rows(self, table: TableName) -> list[int]:
        """The numbers that are there."""
        if not self.lakehouse.catalog.schema_exists(table.schema):
            return []
        self.lakehouse.catalog.refresh(table.schema, table.table)
        there = self.lakehouse.catalog.table_exists(table.schema, table.table)
        return self.sql(f"SELECT id FROM {table.sql}") if there else []

    def ingest(
        self, table: TableName, mode: IngestMode, first: int, rows: Callable[[int], Rows] = Rows
    ) -> RunRecord | None:
        """Bring rows in; gives the record, unless it could not even be begun."""
        request = IngestRequest(table, mode, OnError.REJECT, keys=("id",))
        try:
            return self.lakehouse.ingests.attempt(
                request, rows(first), self.lakehouse.anonymous, lambda: False, unheard
            )
        except LakehouseError:
            return None

    def again(
        self, table: TableName, mode: IngestMode, first: int, rows: Callable[[int], Rows] = Rows
    ) -> RunRecord | None:
        """The same, until what was left of a commit that was under way is given up."""
        record = self.ingest(table, mode, first, rows)
        for _ in range(100):
            if record is None or record.error_code != "COMMIT_CONFLICT":
                break
            REAL_SLEEP(0.05)
            record = self.ingest(table, mode, first, rows)
        return record


def told(record: RunRecord | None) -> str:
    return "not begun" if record is None else f"{record.state}, {record.message}"


def test_what_the_record_says_is_so(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    lake = Lake(tmp_path / "data")
    met = 0
    for number in range(ROUNDS):
        mode, how = MODES[number % len(MODES)], HOWS[number // len(MODES) % len(HOWS)]
        target = TableName("lake", f"s{number}", "t")
        there: set[int] = set()
        if number % 2 and mode is not IngestMode.CREATE:
            lake.ingest(target, IngestMode.CREATE, 1000)
            there = set(range(1000, 1010))
        after = set(range(10)) | (there if mode is not IngestMode.REPLACE else set())
        at = rng.randrange(1, 70)
        lake.fault.set(at, how)
        record = lake.ingest(target, mode, 0)
        met += lake.fault.met
        lake.fault.set(0, "")
        found = lake.rows(target)
        what = f"round {number}: {mode} {how} at call {at}: {told(record)}"
        assert len(found) == len(set(found)), what
        if record is None or record.state is RunState.LOST:
            assert set(found) in (there, after), what
        elif record.state is RunState.FAILED:
            assert set(found) == there, what
            assert record.error_code in ("STORAGE_UNAVAILABLE", "COMMIT_CONFLICT"), what
        else:
            assert record.state is RunState.SUCCEEDED, what
            assert set(found) == after, what
        again = lake.again(target, mode, 0)
        assert again is not None, what
        assert again.state in (RunState.SUCCEEDED, RunState.REPEATED), f"{what}, then {told(again)}"
        assert sorted(lake.rows(target)) == sorted(after), f"{what}, then {told(again)}"
        rejected = lake.sql(f"SELECT content FROM {target.sql[:-1]}_rejects\" WHERE content = 'rejected 0'")
        assert rejected == ["rejected 0"], what
        key = lake.lakehouse.catalog.load(target.schema, target.table).primary_key
        assert key == ("id",), what
    assert met > ROUNDS // 3
    lake.lakehouse.close()


@pytest.mark.parametrize("how", ["before", "after", "dead", "dying"])
def test_records_that_could_not_be_removed_are_removed_later(tmp_path: Path, how: str) -> None:
    for at in range(1, 13):
        fault, clock = Fault(), FixedClock()
        bucket = FaultyBucket(open_local_bucket("primary", tmp_path / str(at)), fault)
        store = RunStore(bucket, clock)
        over = [put_run(store, clock) for _ in range(3)]
        for run in over:
            store.ask_to_stop(run)
        lasting = put_run(store, clock, RunState.RUNNING)
        clock.time += timedelta(days=91)
        store.put(store.get(lasting).model_copy(update={"state": RunState.RUNNING, "seen_at": clock.now()}))
        fault.set(at, how)
        with suppress(StorageError, Killed):
            store.remove_old(90 * 86_400, 0)
        # The names; of each old run its record, and two removals; the record of the one that lasts.
        assert fault.met == (at <= 11)
        fault.set(0, "")
        store.remove_old(90 * 86_400, 0)
        assert [found.id for found in store.newest()] == [lasting]
        assert bucket.names("_ingest/runs") == [f"{lasting}.json"]


def test_records_that_cannot_be_removed_do_not_keep_the_server_from_its_work(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "data")
    lake.fault.set(1, "gone")
    lake.lakehouse.maintenance.run_once()
    assert lake.fault.met
    lake.fault.set(0, "")
    assert lake.ingest(TableName("lake", "s", "t"), IngestMode.APPEND, 0) is not None
    lake.lakehouse.close()


@pytest.mark.parametrize("how", HOWS)
def test_a_schema_is_made_with_the_commit_only(tmp_path: Path, how: str) -> None:
    lake = Lake(tmp_path / "data")
    bucket = lake.lakehouse.bucket
    assert isinstance(bucket, FaultyBucket)
    early = 0
    for at in range(1, 70, 11):
        mode = MODES[at % len(MODES)]
        target = TableName("lake", f"s{at}", "t")
        lake.fault.set(at, how)
        with suppress(Killed):
            lake.ingest(target, mode, 0)
        lake.fault.set(0, "")
        asked = any(key.endswith(f"{target.schema}/_schema.json") for key in bucket.made)
        there = any((tmp_path / "data").rglob(f"{target.schema}/_schema.json"))
        assert asked or not there
        early += not asked
        lake.again(target, mode, 0)
        assert sorted(lake.rows(target)) == list(range(10))
    assert early
    lake.lakehouse.close()


class More(Rows):
    """The rows with one column more."""

    def __init__(self, first: int) -> None:
        super().__init__(first)
        more = pa.table({"id": range(first, first + 10), "more": [f"row {n}" for n in range(10)]})
        ArrowBatches.__init__(self, more.schema, more.to_batches(max_chunksize=3), "a test", f"more {first}")


@pytest.mark.parametrize("mode", [IngestMode.APPEND, IngestMode.UPSERT])
def test_columns_are_there_with_their_rows_or_not_at_all(tmp_path: Path, mode: IngestMode) -> None:
    lake = Lake(tmp_path / "data")
    outcomes = set()
    for number, at in enumerate((*range(1, 75, 7), 10_000)):
        target = TableName("lake", "s", f"t{number}")
        lake.ingest(target, IngestMode.CREATE, 1000)
        lake.fault.set(at, HOWS[number % len(HOWS)])
        record = lake.ingest(target, mode, 0, More)
        lake.fault.set(0, "")
        found = set(lake.rows(target))
        names = lake.lakehouse.catalog.load("s", target.table).arrow_schema().names
        assert names == (["id", "s", "more"] if 0 in found else ["id", "s"]), told(record)
        outcomes.add(0 in found)
        lake.again(target, mode, 0, More)
        assert sorted(lake.rows(target)) == [*range(10), *range(1000, 1010)]
    assert outcomes == {True, False}
    lake.lakehouse.close()


_KILLED = """
import os, signal, sys
import pyarrow as pa
from lakehouse.config import Settings
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.ingest.sources.source import unheard
from lakehouse.runs import IngestMode, IngestRequest
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

path, mode, schema = sys.argv[1:]
lake = Lakehouse(Settings(buckets=[{"name": "primary", "path": path}]))
table = pa.table({"id": [1, 2], "town": ["Ulm", "Graz"]})

def batches():
    yield from table.to_batches()
    os.kill(os.getpid(), signal.SIGKILL)

request = IngestRequest(TableName("lake", schema, "t"), IngestMode(mode), keys=("id",))
lake.ingests.run(request, ArrowBatches(table.schema, batches(), "a test"), lake.anonymous, bool, unheard)
"""


def test_a_killed_server_leaves_neither_a_schema_nor_a_column(tmp_path: Path) -> None:
    path, there = tmp_path / "data", TableName("lake", "there", "t")
    lake = Lake(path)
    lake.ingest(there, IngestMode.CREATE, 0)
    lake.lakehouse.close()
    for mode, schema in (("create", "absent"), ("append", "there")):
        killed = subprocess.run([sys.executable, "-c", _KILLED, path, mode, schema], check=False)
        assert killed.returncode == -signal.SIGKILL
    lake = Lake(path)
    assert "absent" not in lake.lakehouse.catalog.schemas()
    assert lake.lakehouse.catalog.load("there", "t").arrow_schema().names == ["id", "s"]
    assert lake.rows(there) == list(range(10))
    lake.lakehouse.close()
