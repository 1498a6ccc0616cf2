"""The event journal when servers are killed and storage fails: what can be known is told, and told once."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import start_server
from faults.faulty_bucket import FaultyBucket, Killed
from wire import query

from lakehouse.catalog.references import latest
from lakehouse.clock import FixedClock, SystemClock
from lakehouse.config import Settings
from lakehouse.config.journal import JournalSettings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import LakehouseError, StorageError
from lakehouse.ingest import WriteMode
from lakehouse.journal import EVENTS_SCHEMA, EventJournal
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.runtime import Lakehouse
from lakehouse.storage import open_local_bucket
from lakehouse.storage.append_log import AppendLog, LogBounds
from lakehouse.storage.log_encoding import ParquetEvents
from lakehouse.types import TableName

BY_HAND = JournalSettings(flush_seconds=3600, flush_events=10**9)
NEVER_FLUSHES = """
[auth]
anonymous_role = "admin"
[journal]
flush_seconds = 3600
recover_hours = 0
"""
RECOVERS = '[auth]\nanonymous_role = "admin"\n'
TABLE, ROWS = TableName("lake", "main", "t"), pa.record_batch({"k": [1, 2, 3]})
COMMITS = "SELECT * FROM system.events WHERE action = 'commit' AND entity = 'lake.main.t' ORDER BY time"


def since() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def test_commits_of_a_killed_server_are_put_on_record_once(tmp_path: Path) -> None:
    server = start_server(tmp_path, NEVER_FLUSHES)
    with server.client() as client:
        query(client, "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
        query(client, "SET workspace = 'night'")
        query(client, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        query(client, "UPDATE t SET v = 'c' WHERE k = 1")
        query(client, "BEGIN")
        query(client, "DELETE FROM t WHERE k = 2")
        told = query(client, COMMITS).to_pylist()
        assert [event["is_recovered"] for event in told] == [None, None]
    server.kill()
    for _ in range(2):
        server = start_server(tmp_path, RECOVERS)
        with server.client() as client:
            found: list[dict[str, Any]] = []
            for _ in range(1200):
                found = query(client, COMMITS).to_pylist()
                if len(found) >= 2:
                    break
                time.sleep(0.05)
            assert [event["is_recovered"] for event in found] == [True, True]
            facts = ("event_id", "new", "actor", "source", "workspace", "statement_id", "snapshot_id")
            assert [[e[f] for f in facts] for e in found] == [[e[f] for f in facts] for e in told]
            assert "1 changes of single rows" in found[1]["detail"]
            action = flight.Action("journal.recover", b"{}")
            (*_, last) = client.do_action(action)
            assert json.loads(last.body.to_pybytes())["recovered"] == 0
        server.kill()


def lake(root: Path) -> Lakehouse:
    settings = Settings(
        buckets=[{"name": "primary", "path": root}],
        journal={"flush_seconds": 3600},
        audit={"enabled": False},
        engine={"threads": 1},
    )
    return Lakehouse(settings)


def commit_rows(lakehouse: Lakehouse, count: int) -> None:
    session = lakehouse.sessions.get("t", lakehouse.anonymous)
    for _ in range(count):
        lakehouse.engine.changes.ingest(
            Scope(session, None, CallWatch()), TABLE, WriteMode.CREATE_APPEND, ROWS.schema, [ROWS]
        )


def test_servers_that_recover_at_once_tell_of_each_commit_once(tmp_path: Path) -> None:
    first = lake(tmp_path)
    commit_rows(first, 20)
    ids = {row["event_id"] for row in first.events.table().to_pylist() if row["action"] == "commit"}
    assert len(ids) == 20
    # The first one is alive and only slow: it has recorded everything and stored nothing yet.
    others = [lake(tmp_path) for _ in range(2)]
    threads = [threading.Thread(target=other.recovery.run, args=(since(),)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def commits(lakehouse: Lakehouse) -> list[dict[str, Any]]:
        return [row for row in lakehouse.events.table().to_pylist() if row["action"] == "commit"]

    assert all(row["is_recovered"] for row in commits(others[0]))
    assert sorted(row["event_id"] for row in commits(others[0])) == sorted(ids)
    first.events.flush()
    for each in (first, *others):
        rows = commits(each)
        assert sorted(row["event_id"] for row in rows) == sorted(ids)
        assert not any(row["is_recovered"] for row in rows)
        each.events._events.compact(settle_seconds=-1e9)
    assert sorted(row["event_id"] for row in commits(others[1])) == sorted(ids)
    assert others[0].recovery.run(since()).recovered == 0
    for each in (first, *others):
        each.close()


def test_a_commit_that_was_not_made_by_a_server_is_not_told_of(tmp_path: Path) -> None:
    first = lake(tmp_path)
    commit_rows(first, 1)
    table = first.catalog.load("main", "t")
    snapshot = table.metadata.snapshots[0]
    summary = snapshot.summary
    for name in [key for key in summary.additional_properties if key.startswith("lakehouse.source")]:
        summary._additional_properties.pop(name)
    assert first.recovery.run(since()).commits == 0
    first.close()


def test_an_outage_delays_events_and_loses_none(tmp_path: Path) -> None:
    down = [True]
    bucket = FaultyBucket(
        open_local_bucket("primary", tmp_path),
        lambda _, what: "before" if down[0] and what in ("put", "put_new") else None,
    )
    journal = EventJournal(bucket, BY_HAND, SystemClock())
    for number in range(500):
        journal.record(ChangeEvent("update", "e", new=number))
        if number % 100 == 0:
            with pytest.raises(StorageError):
                journal.flush()
    assert [json.loads(row["new"]) for row in journal.table().to_pylist()] == list(range(500))
    down[0] = False
    assert journal.flush() == 500
    statistics = journal.statistics()
    assert statistics is not None
    assert (statistics.durable, statistics.dropped, statistics.failures) == (500, 0, 5)
    journal.close()
    again = EventJournal(open_local_bucket("primary", tmp_path), BY_HAND, SystemClock())
    assert [json.loads(row["new"]) for row in again.table().to_pylist()] == list(range(500))
    again.close()


def test_what_does_not_fit_during_an_outage_is_counted_as_a_gap(tmp_path: Path) -> None:
    bounds = LogBounds(flush_seconds=3600, flush_events=10**9, held_events=100, compact_objects=0)
    encoding = ParquetEvents(EVENTS_SCHEMA)
    log = AppendLog(open_local_bucket("primary", tmp_path), "_log", SystemClock(), bounds, encoding)
    for number in range(150):
        log.append({"kind": "change", "action": "update", "new": str(number)})
    log.flush()
    log.append({"kind": "change", "action": "update", "new": "150"})
    log.flush()
    events = list(log.read())
    assert [event["new"] for event in events if event["kind"] == "change"] == [
        *map(str, range(100)), "150",
    ]  # fmt: skip
    (gap,) = [event for event in events if event["kind"] == "gap"]
    assert gap["dropped"] == 50
    assert "too much waited" in gap["detail"]
    log.close()


def test_a_merge_killed_at_any_step_keeps_order_and_every_event(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    whole = tmp_path / "whole"
    journals = [EventJournal(open_local_bucket("primary", whole), BY_HAND, clock) for _ in range(2)]
    for number in range(60):
        journals[number % 2].record(ChangeEvent("update", "e", new=number))
        clock.time += timedelta(milliseconds=1)
        if number % 5 == 4:
            journals[number % 2].flush()
    for journal in journals:
        journal.close()
    expected = list(range(60))
    step, was_whole = 0, False
    while not was_whole:
        step += 1
        root = tmp_path / f"step{step}"
        shutil.copytree(whole, root)
        left = [step]

        def dies(_: int, what: str, left: list[int] = left) -> str | None:
            if what in ("put_new", "delete"):
                left[0] -= 1
            return "dead" if left[0] <= 0 else None

        bucket = FaultyBucket(open_local_bucket("primary", root), dies)
        merging = EventJournal(bucket, BY_HAND, FixedClock(clock.time + timedelta(hours=1)))
        try:
            merging.compact()
            was_whole = left[0] > 0
        except (Killed, StorageError):
            pass
        for merges in (False, True):
            reader = EventJournal(
                open_local_bucket("primary", root), BY_HAND, FixedClock(clock.time + timedelta(hours=2))
            )
            if merges:
                reader.compact()
            assert [json.loads(row["new"]) for row in reader.table().to_pylist()] == expected
            reader.close()
    assert step > 10


@pytest.mark.parametrize("kind", ["before", "after"])
def test_events_are_of_those_commits_that_took_place_whatever_storage_does(tmp_path: Path, kind: str) -> None:
    # Every fifth request, from a place of its own for each kind of failure.
    step, was_hit = (-4 if kind == "before" else -2), True
    while was_hit:
        step += 5
        root = tmp_path / f"{kind}{step}"
        left, armed, hit = [step], [False], [False]

        def fails(
            _: int, what: str, left: list[int] = left, armed: list[bool] = armed, hit: list[bool] = hit
        ) -> str | None:
            if armed[0] and what in ("put", "put_new", "open", "close"):
                left[0] -= 1
                if left[0] == 0:
                    hit[0] = True
                    return kind
            return None

        settings = Settings(
            buckets=[{"name": "primary", "path": root}],
            catalog={"refresh_ms": 0},
            journal={"flush_seconds": 3600, "recover_hours": 0},
            audit={"enabled": False},
            datasets={"enabled": False},
            engine={"threads": 1},
        )
        bucket = FaultyBucket(open_local_bucket("primary", root), fails)
        lakehouse = Lakehouse(settings, bucket=bucket)
        session = lakehouse.sessions.get("t", lakehouse.anonymous)

        def run(sql: str, lakehouse: Lakehouse = lakehouse, session: Session = session) -> None:
            engine = lakehouse.engine
            scope = Scope(session, session.sql_transaction, CallWatch())
            engine.changes.run(engine.gate.analyse(sql), scope)

        for table in ("a", "b"):
            run(f"CREATE TABLE {table} (k INTEGER PRIMARY KEY, v INTEGER)")
            run(f"INSERT INTO {table} VALUES (1, 1), (2, 2)")
        armed[0] = True
        for sql in ("INSERT INTO a VALUES (3, 3)", "UPDATE a SET v = 7 WHERE k = 1", "BEGIN",
                    "UPDATE a SET v = 8", "DELETE FROM b WHERE k = 1", "COMMIT"):  # fmt: skip
            with suppress(LakehouseError):
                run(sql)
        armed[0] = False
        lakehouse.recovery.run(since())
        snapshots = {
            snapshot.snapshot_id
            for name in ("a", "b")
            for snapshot in latest(lakehouse.catalog, "main", name).metadata.snapshots
        }
        events = lakehouse.events.table().to_pylist()
        told = [event for event in events if event["action"] == "commit"]
        assert {event["snapshot_id"] for event in told} == snapshots
        assert len({event["event_id"] for event in told}) == len(told)
        assert {event["snapshot_id"] for event in events if event["kind"] == "row"} <= snapshots
        was_hit = hit[0]
        lakehouse.close()
    assert step > 5
