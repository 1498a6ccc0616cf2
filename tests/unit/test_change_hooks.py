"""What the event journal learns of: every change that took place, once, and none that did not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.access.principal import Principal
from lakehouse.catalog.change_events import recovered_events
from lakehouse.catalog.references import latest, roll_back
from lakehouse.catalog.table_change import change_table
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import CommitConflict, LakehouseError
from lakehouse.ingest import WriteMode
from lakehouse.maintenance.compaction import CompactionOptions
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

Run = Callable[..., int]


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    settings = Settings(
        buckets=[{"name": "primary", "path": tmp_path / "data"}], journal={"flush_seconds": 3600}
    )
    opened = Lakehouse(settings)
    yield opened
    opened.close()


@pytest.fixture
def session(lakehouse: Lakehouse) -> Session:
    session = lakehouse.sessions.get("t", Principal("alice", frozenset({"admin"})))
    session.workspace = "audit"
    return session


@pytest.fixture
def run(lakehouse: Lakehouse, session: Session) -> Run:
    def run(sql: str, rows: list[list[Any]] | None = None, session: Session = session) -> int:
        engine = lakehouse.engine
        analysis = engine.gate.analyse(sql)
        record = engine.running.arrive(sql, principal="alice", request_id="r-1")
        scope = Scope(session, session.sql_transaction, CallWatch(record=record))
        try:
            return engine.changes.run(analysis, scope, rows)
        finally:
            engine.running.end(record)

    return run


class Story:
    """The events since the last look, each as it matters to a test."""

    def __init__(self, lakehouse: Lakehouse) -> None:
        self._lakehouse = lakehouse
        self._known = 0

    def rows(self) -> list[dict[str, Any]]:
        found = self._lakehouse.events.table().to_pylist()
        new = sorted((row for row in found if row["seq"] > self._known), key=lambda row: row["seq"])
        self._known = max((row["seq"] for row in found), default=0)
        for row in new:
            for name in ("old", "new", "key"):
                row[name] = None if row[name] is None else json.loads(row[name])
        return new

    def told(self) -> list[tuple[Any, ...]]:
        return [
            (row["action"], row["entity"].removeprefix("lake."), row["field"], row["old"], row["new"])
            for row in self.rows()
        ]

    def actions(self) -> list[str]:
        return [row["action"] for row in self.rows()]


@pytest.fixture
def story(lakehouse: Lakehouse) -> Story:
    story = Story(lakehouse)
    story.rows()
    return story


def test_a_commit_says_who_made_it_and_what_it_did(run: Run, story: Story, lakehouse: Lakehouse) -> None:
    run("CREATE TABLE t (k INTEGER, v TEXT)")
    created = story.rows()
    assert [(e["action"], e["new"]) for e in created] == [
        ("create", {"columns": {"k": "int", "v": "string"}})
    ]
    run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    (event,) = story.rows()
    table = lakehouse.catalog.load("main", "t")
    assert event["new"] == {
        "operation": "append", "added_rows": 2, "added_files": 1, "total_rows": 2,
    }  # fmt: skip
    assert (event["actor"], event["source"], event["workspace"], event["request_id"]) == (
        "alice", "sql", "audit", "r-1",
    )  # fmt: skip
    assert event["statement_id"]
    assert (event["entity_id"], event["snapshot_id"]) == (table.uuid, table.snapshot_id)
    assert event["event_id"] == f"{table.uuid}:{table.snapshot_id}:0"
    first = table.snapshot_id
    run("UPDATE t SET v = 'c' WHERE k = 1")
    (event,) = story.rows()
    assert (event["action"], event["old"], event["new"]["operation"]) == (
        "commit", {"snapshot_id": first}, "overwrite",
    )  # fmt: skip
    summary = lakehouse.catalog.load("main", "t").metadata.current_snapshot().summary
    assert summary.additional_properties["lakehouse.actor"] == "alice"
    assert summary.additional_properties["lakehouse.workspace"] == "audit"
    assert summary.additional_properties["lakehouse.statement-id"] == event["statement_id"]


def test_every_way_to_change_the_catalog_leaves_its_event(run: Run, story: Story) -> None:
    steps: list[tuple[str, list[tuple[Any, ...]]]] = [
        ("CREATE SCHEMA s", [("create", "s", "schema", None, None)]),
        ("CREATE SCHEMA IF NOT EXISTS s", []),
        (
            "CREATE TABLE s.t (k INTEGER PRIMARY KEY, v TEXT)",
            [("create", "s.t", None, None, {"columns": {"k": "int", "v": "string"}, "primary_key": ["k"]})],
        ),
        ("CREATE TABLE IF NOT EXISTS s.t (k INTEGER)", []),
        (
            "ALTER TABLE s.t ADD COLUMN w DOUBLE",
            [("alter", "s.t", "w", None, {"name": "w", "type": "double", "required": False})],
        ),
        ("ALTER TABLE s.t RENAME COLUMN w TO x", [("alter", "s.t", "x", {"name": "w"}, {"name": "x"})]),
        (
            "ALTER TABLE s.t DROP COLUMN x",
            [("alter", "s.t", "x", {"name": "x", "type": "double", "required": False}, None)],
        ),
        ("COMMENT ON TABLE s.t IS 'what it is'", [("alter", "s.t", "description", None, "what it is")]),
        (
            "COMMENT ON COLUMN s.t.v IS 'of v'",
            [("alter", "s.t", "v", {"description": None}, {"description": "of v"})],
        ),
        ("CREATE VIEW s.w AS SELECT k FROM s.t", [("create", "s.w", "view", None, "*")]),
        ("CREATE OR REPLACE VIEW s.w AS SELECT v FROM s.t", [("replace", "s.w", "view", "*", "*")]),
        ("COMMENT ON VIEW s.w IS 'a view'", [("alter", "s.w", "description", None, "a view")]),
        ("ALTER VIEW s.w RENAME TO w2", [("rename", "s.w2", "view", "lake.s.w", "lake.s.w2")]),
        ("DROP VIEW s.w2", [("drop", "s.w2", "view", "*", None)]),
        ("DROP VIEW IF EXISTS s.w2", []),
        ("ALTER TABLE s.t RENAME TO u", [("rename", "s.u", None, "lake.s.t", "lake.s.u")]),
        ("DROP TABLE s.u", [("drop", "s.u", None, "*", None)]),
        ("DROP TABLE IF EXISTS s.u", []),
        ("DROP SCHEMA s", [("drop", "s", "schema", None, None)]),
        ("DROP SCHEMA IF EXISTS s", []),
    ]
    for sql, expected in steps:
        run(sql)
        found = story.told()
        shown = [
            tuple("*" if want == "*" and have is not None else have for have, want in zip(a, b, strict=True))
            for a, b in zip(found, expected, strict=False)
        ]
        assert (sql, shown, len(found)) == (sql, expected, len(expected))


def test_what_failed_or_was_rolled_back_leaves_no_event(run: Run, story: Story, lakehouse: Lakehouse) -> None:
    run("CREATE TABLE t (k INTEGER NOT NULL)")
    story.rows()
    for sql in (
        "INSERT INTO t VALUES (NULL)", "INSERT INTO t SELECT 1 FROM nowhere",
        "CREATE TABLE t (k INTEGER)",
        "DROP TABLE nowhere", "ALTER TABLE t DROP COLUMN nope", "CREATE SCHEMA main", "DROP SCHEMA main",
        "CREATE VIEW t AS SELECT 1", "ALTER TABLE t RENAME TO t",
    ):  # fmt: skip
        with pytest.raises(LakehouseError):
            run(sql)
    run("BEGIN")
    run("INSERT INTO t VALUES (1)")
    run("CREATE TABLE u (k INTEGER)")
    run("ROLLBACK")
    assert story.told() == []


def test_a_change_of_several_tables_is_told_of_once_it_has_been_decided(
    run: Run, story: Story, lakehouse: Lakehouse
) -> None:
    run("CREATE TABLE a AS SELECT 1 AS k")
    run("CREATE TABLE b AS SELECT 1 AS k")
    run("CREATE TABLE c AS SELECT 1 AS k")
    assert story.actions() == ["create", "commit"] * 3
    run("BEGIN")
    run("INSERT INTO a VALUES (2)")
    run("INSERT INTO a VALUES (3)")
    run("DELETE FROM b")
    run("DROP TABLE c")
    assert story.told() == []
    run("COMMIT")
    rows = story.rows()
    assert [(row["action"], row["entity"]) for row in rows] == [
        ("commit", "lake.main.a"), ("commit", "lake.main.a"), ("commit", "lake.main.b"),
        ("drop", "lake.main.c"),
    ]  # fmt: skip
    assert [row["new"].get("own_rows") for row in rows[:2]] == [1, 1]
    assert rows[0]["statement_id"] != rows[1]["statement_id"]
    assert {row["actor"] for row in rows} == {"alice"}
    run("BEGIN")
    run("INSERT INTO a VALUES (4)")
    run("INSERT INTO b VALUES (4)")
    lakehouse.catalog.drop_table("main", "b")
    story.rows()
    with pytest.raises(LakehouseError):
        run("COMMIT")
    assert story.told() == []


def test_inserts_that_share_a_commit_are_told_of_one_by_one(
    run: Run, story: Story, lakehouse: Lakehouse
) -> None:
    run("CREATE TABLE t (k INTEGER)")
    story.rows()
    sessions = [
        lakehouse.sessions.get(f"s{number}", Principal("alice", frozenset({"admin"}))) for number in range(8)
    ]
    threads = [
        threading.Thread(target=run, args=(f"INSERT INTO t VALUES ({n})",), kwargs={"session": each})
        for n, each in enumerate(sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = story.rows()
    assert len(rows) == len({row["statement_id"] for row in rows}) == 8
    assert len({row["event_id"] for row in rows}) == 8
    metadata = lakehouse.catalog.load("main", "t").metadata
    assert {row["snapshot_id"] for row in rows} == {each.snapshot_id for each in metadata.snapshots}
    # What a killed server would have left tells the same.
    again = [e for each in metadata.snapshots for e in recovered_events("lake.main.t", metadata, each)]
    facts = {(e.event_id, e.origin.actor, e.origin.statement_id, json.dumps(e.new)) for e in again}
    assert facts == {(r["event_id"], r["actor"], r["statement_id"], json.dumps(r["new"])) for r in rows}


def test_ingest_maintenance_and_rollback_leave_events(
    run: Run, story: Story, lakehouse: Lakehouse, session: Session
) -> None:
    batch = pa.record_batch({"k": pa.array([1, 2, 3])})
    target = TableName("lake", "main", "t")
    for _ in range(3):
        lakehouse.engine.changes.ingest(
            Scope(session, None, CallWatch()), target, WriteMode.CREATE_APPEND, batch.schema, [batch]
        )
    rows = story.rows()
    assert [row["action"] for row in rows] == ["create", "commit", "commit", "commit"]
    assert {row["source"] for row in rows} == {"ingest"}
    first = rows[1]["snapshot_id"]
    lakehouse.maintenance.compactor.compact(
        "main", "t", CompactionOptions(min_files=2, target_bytes=1 << 20), lambda *_: None, lambda: False
    )
    (event,) = story.rows()
    assert (event["action"], event["new"]["operation"]) == ("commit", "replace")
    assert event["new"]["total_rows"] == 9
    table = latest(lakehouse.catalog, "main", "t")
    roll_back(lakehouse.catalog, table, first)
    (event,) = story.rows()
    assert (event["action"], event["snapshot_id"]) == ("rollback", first)
    assert (event["old"], event["new"]) == ({"snapshot_id": table.snapshot_id}, {"snapshot_id": first})


def test_a_change_that_lost_its_race_is_told_of_once(run: Run, story: Story, lakehouse: Lakehouse) -> None:
    run("CREATE TABLE t AS SELECT 1 AS k")
    story.rows()
    told: list[Any] = []
    attempts = []

    def build(transaction: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            run("ALTER TABLE t ADD COLUMN v INTEGER")
        transaction.set_properties({"x": str(len(attempts))})

    change_table(lakehouse.catalog.objects, "main", "t", build, told=told.append)
    assert len(attempts) == 2
    assert len(told) == 1

    def conflict(transaction: Any) -> None:
        raise CommitConflict("no")

    with pytest.raises(CommitConflict):
        change_table(lakehouse.catalog.objects, "main", "t", conflict, told=told.append)
    assert len(told) == 1


def test_a_journal_that_is_turned_off_hears_of_nothing(tmp_path: Path) -> None:
    buckets = [{"name": "primary", "path": tmp_path / "data"}]
    opened = Lakehouse(Settings(buckets=buckets, journal={"enabled": False}))
    assert opened.catalog.recorder is None
    opened.catalog.create_schema("s")
    assert len(opened.events.table()) == 0
    opened.close()
