"""What the event journal keeps of single rows of tables with a primary key."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.runtime import Lakehouse

Run = Callable[..., int]
ROWS = "(1, 'a', 1.5), (2, 'b', 2.5), (3, 'c', 3.5), (4, 'd', NULL)"


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    settings = Settings(
        buckets=[{"name": "primary", "path": tmp_path / "data"}],
        journal={"flush_seconds": 3600, "max_row_changes": 5},
    )
    opened = Lakehouse(settings)
    yield opened
    opened.close()


@pytest.fixture
def run(lakehouse: Lakehouse) -> Run:
    session = lakehouse.sessions.get("t", Principal("alice", frozenset({"admin"})))

    def run(sql: str, rows: list[list[Any]] | None = None) -> int:
        engine = lakehouse.engine
        scope = Scope(session, session.sql_transaction, CallWatch(record=engine.running.arrive(sql)))
        return engine.changes.run(engine.gate.analyse(sql), scope, rows)

    return run


@pytest.fixture
def query(lakehouse: Lakehouse) -> Callable[[str], list[tuple[Any, ...]]]:
    session: Session = lakehouse.sessions.get("q", Principal("alice", frozenset({"admin"})))

    def query(sql: str) -> list[tuple[Any, ...]]:
        engine = lakehouse.engine
        stream = engine.open(engine.plan(engine.gate.analyse(sql), session, None), session, CallWatch())
        return [tuple(row.values()) for batch in stream for row in batch.to_pylist()]

    return query


@pytest.fixture
def told(lakehouse: Lakehouse) -> Callable[[], list[tuple[Any, ...]]]:
    known = [0]

    def told() -> list[tuple[Any, ...]]:
        """Action, key, field, old and new of each row event since the last look."""
        found = sorted(lakehouse.events.table().to_pylist(), key=lambda row: row["seq"])
        new = [row for row in found if row["seq"] > known[0]]
        known[0] = max((row["seq"] for row in found), default=0)
        for row in new:
            if row["kind"] == "row":
                assert row["entity"] == "lake.main.t"
                assert row["snapshot_id"] == lakehouse.catalog.load("main", "t").snapshot_id
        load = {None: None}
        return [
            (row["action"], *(load.get(row[n], row[n] and json.loads(row[n])) for n in ("key",)),
             row["field"], *(row[n] and json.loads(row[n]) for n in ("old", "new")))
            for row in new if row["kind"] == "row"
        ]  # fmt: skip

    return told


@pytest.fixture
def table(run: Run, told: Callable[[], Any]) -> None:
    run("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT, x DOUBLE)")
    run(f"INSERT INTO t VALUES {ROWS}")
    assert told() == []


CASES: list[tuple[str, list[tuple[Any, ...]]]] = [
    ("UPDATE t SET v = 'z' WHERE k = 2", [("update", {"k": 2}, "v", "b", "z")]),
    (
        "UPDATE t SET v = upper(v), x = 0 WHERE k >= 3",
        [
            ("update", {"k": 3}, "v", "c", "C"), ("update", {"k": 3}, "x", 3.5, 0.0),
            ("update", {"k": 4}, "v", "d", "D"), ("update", {"k": 4}, "x", None, 0.0),
        ],
    ),
    ("UPDATE t SET v = v WHERE k = 2", []),
    ("UPDATE t SET v = 'z' WHERE false", []),
    ("UPDATE t SET k = k + 10 WHERE k = 1", [("update", {"k": 1}, "k", 1, 11)]),
    (
        "UPDATE t SET x = 1.5",
        [("update", {"k": 2}, "x", 2.5, 1.5), ("update", {"k": 3}, "x", 3.5, 1.5),
         ("update", {"k": 4}, "x", None, 1.5)],
    ),
    (
        "UPDATE t SET x = 0 FROM (VALUES (1), (9)) AS s(k) WHERE t.k = s.k",
        [("update", {"k": 1}, "x", 1.5, 0.0)],
    ),
    ("UPDATE t SET v = 'r' WHERE random() >= 0 AND k = 3", [("update", {"k": 3}, "v", "c", "r")]),
    ("DELETE FROM t WHERE k = 4", [("delete", {"k": 4}, None, {"k": 4, "v": "d", "x": None}, None)]),
    ("DELETE FROM t WHERE k > 100", []),
    (
        "DELETE FROM t",
        [("delete", {"k": n}, None, {"k": n, "v": v, "x": x}, None)
         for n, v, x in ((1, "a", 1.5), (2, "b", 2.5), (3, "c", 3.5), (4, "d", None))],
    ),
    (
        ("MERGE INTO t USING (VALUES (2, 'm'), (7, 'n')) AS s(k, v) ON t.k = s.k "
         "WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k, s.v)"),
        [("update", {"k": 2}, "v", "b", "m"),
         ("insert", {"k": 7}, None, None, {"k": 7, "v": "n", "x": None})],
    ),
    (
        ("MERGE INTO t USING (VALUES (2), (3)) AS s(k) ON t.k = s.k "
         "WHEN MATCHED AND t.x > 3 THEN DELETE WHEN NOT MATCHED BY SOURCE THEN UPDATE SET v = '-'"),
        [("update", {"k": 1}, "v", "a", "-"),
         ("delete", {"k": 3}, None, {"k": 3, "v": "c", "x": 3.5}, None), ("update", {"k": 4}, "v", "d", "-")],
    ),
    (
        ("MERGE INTO t USING (VALUES (2, 'm'), (7, 'n')) AS s(k, v) ON t.k = s.k "
         "WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k, s.v)"),
        [("insert", {"k": 7}, None, None, {"k": 7, "v": "n", "x": None})],
    ),
]  # fmt: skip


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("sql", "expected"), CASES, ids=[sql[:40] for sql, _ in CASES])
def test_what_a_statement_does_to_rows_is_kept(
    run: Run, told: Callable[[], Any], sql: str, expected: list[tuple[Any, ...]]
) -> None:
    run(sql)
    assert told() == expected


@pytest.mark.usefixtures("table")
def test_rows_of_parameters_are_told_of_as_one_statement(run: Run, told: Callable[[], Any]) -> None:
    run("UPDATE t SET v = ? WHERE v = ?", [["b", "a"], ["q", "b"]])
    assert told() == [("update", {"k": 1}, "v", "a", "q"), ("update", {"k": 2}, "v", "b", "q")]
    run("UPDATE t SET v = ? WHERE k = ?", [["w", 3]])
    assert told() == [("update", {"k": 3}, "v", "c", "w")]


@pytest.mark.usefixtures("table")
def test_rows_beyond_the_limit_are_counted(run: Run, told: Callable[[], Any]) -> None:
    run("INSERT INTO t SELECT range, 'x', 0 FROM range(10, 20)")
    for sql in ("UPDATE t SET x = 9 WHERE k >= 10", "UPDATE t SET x = 8",
                "UPDATE t SET x = 7 WHERE random() < 2",
                "DELETE FROM t WHERE k >= 10"):  # fmt: skip
        run(sql)
        *rows, marker = told()
        assert len(rows) == 5
        count = 14 if "k >=" not in sql else 10
        assert marker == ("truncated", None, None, None, {"rows_changed": count, "rows_recorded": 5})


@pytest.mark.usefixtures("table")
def test_rows_appear_with_the_commit_of_their_transaction(run: Run, told: Callable[[], Any]) -> None:
    run("BEGIN")
    run("UPDATE t SET v = 'y' WHERE k = 1")
    run("UPDATE t SET v = 'z' WHERE k = 1")
    run("DELETE FROM t WHERE k = 2")
    assert told() == []
    run("COMMIT")
    assert [event[:2] for event in told()] == [
        ("update", {"k": 1}),
        ("update", {"k": 1}),
        ("delete", {"k": 2}),
    ]
    run("BEGIN")
    run("DELETE FROM t")
    run("ROLLBACK")
    assert told() == []


def test_every_type_is_kept_as_json_says_it_best(run: Run, told: Callable[[], Any]) -> None:
    columns = {
        "i": ("BIGINT", "9223372036854775807", 9223372036854775807),
        "d": ("DECIMAL(20, 4)", "'1234567890.1200'", "1234567890.1200"),
        "f": ("DOUBLE", "'nan'::DOUBLE", "nan"),
        "t": ("TIMESTAMP", "'2026-01-02 03:04:05.000006'", "2026-01-02T03:04:05.000006"),
        "z": ("TIMESTAMPTZ", "'2026-01-02 03:04:05+00'", "2026-01-02T03:04:05+00:00"),
        "n": ("DATE", "'2026-01-02'", "2026-01-02"),
        "c": ("TIME", "'03:04:05'", "03:04:05"),
        "u": ("UUID", "'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
        "b": ("BLOB", "'\\x00\\xFF'::BLOB",
              {"bytes": 2, "sha256": "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8"}),
        "l": ("INTEGER[]", "[1, NULL]", [1, None]),
        "s": ("STRUCT(a INTEGER, b TEXT)", "{'a': 1, 'b': 'ü'}", {"a": 1, "b": "ü"}),
        "x": ("TEXT", "repeat('ü', 5000)", {"beginning": "ü" * 4096, "characters": 5000}),
    }  # fmt: skip
    run(f"CREATE TABLE t (k INTEGER PRIMARY KEY, {', '.join(f'{n} {c[0]}' for n, c in columns.items())})")
    run("INSERT INTO t (k) VALUES (1), (2)")
    run(f"UPDATE t SET {', '.join(f'{name} = {column[1]}' for name, column in columns.items())} WHERE k = 2")
    assert told() == [
        ("update", {"k": 2}, name, None, expected) for name, (_, _, expected) in columns.items()
    ]


def test_tables_without_a_key_and_journals_without_rows_keep_none(
    run: Run, told: Callable[[], Any], lakehouse: Lakehouse, tmp_path: Path
) -> None:
    run("CREATE TABLE t AS SELECT 1 AS k")
    run("UPDATE t SET k = 2")
    assert told() == []


def test_a_key_of_several_columns_and_odd_names(run: Run, told: Callable[[], Any], query: Any) -> None:
    run('CREATE TABLE t ("ключ" TEXT, "a ""b" INTEGER, "~n" TEXT, v TEXT, PRIMARY KEY ("ключ", "a ""b"))')
    run("INSERT INTO t VALUES ('x', 1, 'n', 'v'), ('x', 2, 'n', 'v')")
    run('UPDATE t AS "s" SET "~n" = \'m\' WHERE "s"."a ""b" = 2')
    assert told() == [("update", {"ключ": "x", 'a "b': 2}, "~n", "n", "m")]


@pytest.mark.parametrize("temporary", [True, False])
def test_a_merge_that_only_inserts_adds_nothing_twice_in_a_transaction(
    run: Run, query: Any, temporary: bool
) -> None:
    run("CREATE TABLE t AS SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS r(k, v)")
    run("BEGIN")
    source = "(SELECT 2 AS k, 'z' AS v UNION ALL SELECT 3, 'c')"
    if temporary:
        run(f"CREATE TEMP TABLE x AS FROM {source}")
        source = "x"
    run(f"MERGE INTO t USING {source} AS s ON t.k = s.k WHEN NOT MATCHED THEN INSERT VALUES (s.k, s.v)")
    run("COMMIT")
    assert query("SELECT * FROM t ORDER BY k") == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize("seed", range(6))
def test_the_events_of_rows_lead_from_one_state_to_the_next(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    """Whatever statements do: the state before, with the events applied, is the state after."""
    chance = random.Random(seed)
    settings = Settings(
        buckets=[{"name": "primary", "path": tmp_path / "many"}],
        journal={"flush_seconds": 3600, "max_row_changes": 1000},
    )
    lakehouse = Lakehouse(settings)
    request.addfinalizer(lakehouse.close)
    session = lakehouse.sessions.get("t", Principal("alice", frozenset({"admin"})))
    engine = lakehouse.engine

    def run(sql: str) -> None:
        scope = Scope(session, session.sql_transaction, CallWatch())
        engine.changes.run(engine.gate.analyse(sql), scope)

    def state() -> dict[int, dict[str, Any]]:
        plan = engine.plan(engine.gate.analyse("FROM t"), session, None)
        rows = [row for batch in engine.open(plan, session, CallWatch()) for row in batch.to_pylist()]
        return {row["k"]: row for row in rows}

    kind = chance.choice(["TEXT", "INTEGER[]"])
    value = {"TEXT": lambda: f"'{chance.randint(0, 3)}'", "INTEGER[]": lambda: f"[{chance.randint(0, 3)}]"}[
        kind
    ]
    run(f"CREATE TABLE t (k INTEGER PRIMARY KEY, v {kind}, n INTEGER)")
    fresh = iter(range(1000, 10_000))
    known = 0
    for _ in range(25):
        keys = [str(next(fresh)) for _ in range(chance.randint(1, 6))]
        condition = chance.choice(
            ["k % 3 = 0", "n IS NULL", "n > 2", "random() < 0.4", "v IS NOT NULL AND k % 2 = 1", "true"]
        )
        target = ", ".join(f"({k}, {value()}, {chance.choice(['NULL', '1', '5'])})" for k in keys)
        some = f"SELECT k, v, 9 AS n FROM t WHERE {condition}"
        merged = f"({some} UNION ALL FROM (VALUES {target})) AS s(k, v, n)"
        joined = re.sub(r"\b([knv]) ", r"t.\1 ", condition)
        sql = chance.choice(
            [
                f"INSERT INTO t VALUES {target}",
                f"UPDATE t SET v = {value()} WHERE {condition}",
                f"UPDATE t SET n = coalesce(n, 0) + 1, v = {value()} WHERE {condition}",
                f"UPDATE t SET n = s.n FROM (VALUES {target}) AS s(k, v, n) WHERE t.k = s.k - 7 AND {joined}",
                f"DELETE FROM t WHERE k % {chance.randint(3, 9)} = 1 AND {condition}",
                f"MERGE INTO t USING {merged} ON t.k = s.k WHEN MATCHED AND t.k % 5 = 0 THEN DELETE "  # noqa: ISC004
                "WHEN MATCHED THEN UPDATE SET n = s.n WHEN NOT MATCHED THEN INSERT VALUES (s.k, s.v, s.n)",
                f"MERGE INTO t USING {merged} ON t.k = s.k WHEN NOT MATCHED BY SOURCE THEN DELETE",
            ]
        )  # fmt: skip
        expected = state()
        run(sql)
        events = sorted(lakehouse.events.table().to_pylist(), key=lambda row: row["seq"])
        for event in (row for row in events if row["seq"] > known and row["kind"] == "row"):
            key, old, new = (
                None if event[n] is None else json.loads(event[n]) for n in ("key", "old", "new")
            )
            if event["action"] == "insert":
                assert key["k"] not in expected
                expected[key["k"]] = new
            elif event["action"] == "delete":
                assert expected.pop(key["k"]) == old
            else:
                assert expected[key["k"]][event["field"]] == old != new
                expected[key["k"]][event["field"]] = new
        known = max((row["seq"] for row in events), default=0)
        if not sql.startswith("INSERT"):
            assert state() == expected, sql


def test_rows_are_told_of_in_a_transaction_that_changed_temporary_tables(
    run: Run, told: Callable[[], Any]
) -> None:
    run("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
    run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    run("BEGIN")
    run("CREATE TEMP TABLE x AS SELECT 2 AS k, 'z' AS v UNION ALL SELECT 3, 'c'")
    run("UPDATE t SET v = x.v FROM x WHERE t.k = x.k")
    merged = "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (x.k, x.v)"
    run(f"MERGE INTO t USING x ON t.k = x.k {merged}")
    run("COMMIT")
    assert told() == [
        ("update", {"k": 2}, "v", "b", "z"),
        ("delete", {"k": 2}, None, {"k": 2, "v": "z"}, None),
        ("insert", {"k": 3}, None, None, {"k": 3, "v": "c"}),
    ]
