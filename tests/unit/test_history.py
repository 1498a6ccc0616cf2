"""The past of lake tables: system tables, tags, time travel by name, rollback, and what changed."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lake_tables import put

from lakehouse.access.principal import Principal
from lakehouse.catalog import Table
from lakehouse.catalog.references import create_reference, drop_reference, latest, roll_back
from lakehouse.catalog.table import Reference
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.diff import count_changes, plan_diff
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.engine.system_filter import wanted_values
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    LimitExceeded,
    ReferenceAlreadyExists,
    SnapshotNotFound,
    StatementCancelled,
    TableNotFound,
)
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse

ROLES: list[dict[str, Any]] = [
    {"name": "european", "grants": [{"on": "lake.main.people", "row_filter": "region = 'eu'"}]},
    {"name": "stranger", "grants": [{"on": "lake.main.other"}]},
]
numbers = itertools.count()


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    settings = {"buckets": [{"path": str(tmp_path)}], "roles": ROLES, "catalog": {"refresh_ms": 0}}
    opened = Lakehouse(Settings.model_validate(settings))
    yield opened
    opened.close()


def session_of(lakehouse: Lakehouse, *roles: str) -> Session:
    return lakehouse.sessions.get(f"test-{next(numbers)}", Principal("ann", frozenset(roles or ("admin",))))


def run(session: Session, sql: str) -> list[tuple[Any, ...]]:
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    if analysis.is_update:
        engine.changes.run(analysis, Scope(session, session.sql_transaction, CallWatch()))
        return []
    plan = engine.plan(analysis, session, session.sql_transaction)
    table = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def tag(lakehouse: Lakehouse, table: Table, name: str, kind: str = "tag") -> None:
    assert table.metadata.current_snapshot_id is not None
    reference = Reference(name, kind, table.metadata.current_snapshot_id)
    create_reference(lakehouse.catalog, table, reference)


def test_the_system_tables_tell_the_history_and_the_files(lakehouse: Lakehouse, tmp_path: Path) -> None:
    first = put(
        lakehouse, "Größe", {"n": [1, 2], "s": ["x", None], "d": [None, datetime(2026, 1, 2, tzinfo=UTC)]}
    )
    second = put(lakehouse, "Größe", {"n": [7], "s": ["é"], "d": [datetime(2027, 1, 2, tzinfo=UTC)]})
    tag(lakehouse, second, "v 1")
    session = session_of(lakehouse)
    found = run(
        session,
        "SELECT snapshot_id, parent_id, sequence_number, operation, summary['added-records'], tags, "
        "branches, is_current FROM system.snapshots WHERE table_name = 'Größe' ORDER BY committed_at",
    )
    ids = first.snapshot_id, second.snapshot_id
    assert found == [
        (ids[0], None, 1, "append", "2", [], [], False),
        (ids[1], ids[0], 2, "append", "1", ["v 1"], ["main"], True),
    ]
    files = run(
        session,
        "SELECT content, file_path, record_count, partition, snapshot_id, lower_bounds['n'], "
        "upper_bounds['s'], lower_bounds['d'], null_counts['s'] FROM system.files ORDER BY record_count",
    )
    assert [(c, n, p, i, low, high, day[:10], nulls) for c, _, n, p, i, low, high, day, nulls in files] == [
        ("data", 1, "", ids[1], "7", "é", "2027-01-02", 0),
        ("data", 2, "", ids[0], "1", "x", "2026-01-02", 1),
    ]
    assert all((tmp_path / path).is_file() for _, path, *_ in files)
    assert not any(str(tmp_path) in str(row) for row in files)
    assert run(session, "SELECT record_count, file_count, spec_id FROM system.partitions") == [(3, 2, 0)]
    assert run(session, "SELECT snapshot_id, is_current_ancestor FROM system.history ORDER BY 1") == sorted(
        (i, True) for i in ids
    )


def test_what_a_principal_sees_of_a_table_bounds_what_it_sees_of_its_history(lakehouse: Lakehouse) -> None:
    put(lakehouse, "people", {"id": [1, 2], "region": ["eu", "us"]})
    put(lakehouse, "other", {"id": [1]})
    european, stranger = session_of(lakehouse, "european"), session_of(lakehouse, "stranger")
    for name in ("snapshots", "history", "files", "partitions"):
        seen = run(stranger, f"SELECT DISTINCT table_name FROM system.{name}")
        assert seen == [("other",)]
    assert run(european, "SELECT table_name, summary FROM system.snapshots") == [("people", None)]
    assert run(european, "FROM system.files") == run(european, "FROM system.partitions") == []


def test_a_query_for_one_table_reads_no_other(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(lakehouse, f"t{number}", {"n": [number]})
    loaded: list[str] = []
    real = type(lakehouse.catalog).load

    def load(self: Any, schema: str, table: str) -> Table:
        loaded.append(table)
        return real(self, schema, table)

    monkeypatch.setattr(type(lakehouse.catalog), "load", load)
    sql = "SELECT record_count FROM system.files WHERE 't3' = table_name AND schema_name IN ('main', 'x')"
    assert run(session_of(lakehouse), sql) == [(1,)]
    assert set(loaded) == {"t3"}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("FROM system.files WHERE table_name = 'a'", {"table_name": {"a"}}),
        ("SELECT 1 FROM lake.system.FILES f WHERE (f.table_name = 'a') AND n > 1", {"table_name": {"a"}}),
        ("FROM system.files WHERE table_name = 'a' OR n = 1", {}),
        ("FROM system.files WHERE NOT table_name = 'a'", {}),
        ("FROM system.files WHERE table_name = 'a' COLLATE NOCASE", {}),
        ("FROM system.files WHERE table_name = ?", {}),
        ("FROM system.files f JOIN t ON true WHERE table_name = 'a'", {}),
        ("SELECT 1 FROM system.files f JOIN t ON true WHERE table_name = 'a'", {}),
        ("FROM t, system.files WHERE table_name = 'a'", {}),
        ("SELECT 1 FROM t, system.files f WHERE f.table_name = 'a'", {"table_name": {"a"}}),
        ("FROM system.files f JOIN t ON true WHERE f.table_name = 'a'", {"table_name": {"a"}}),
        ("FROM system.files f JOIN t ON true WHERE t.table_name = 'a'", {}),
        ("FROM t ASOF JOIN system.files f ON t.n >= f.n WHERE f.table_name = 'a'", {}),
        ("FROM t POSITIONAL JOIN system.files f WHERE f.table_name = 'a'", {}),
        ("FROM system.files WHERE table_name = 'a' UNION ALL FROM system.files", {}),
        (
            "FROM system.files WHERE table_name = 'a' UNION ALL FROM system.files WHERE table_name IN ('b')",
            {"table_name": {"a", "b"}},
        ),
        ("FROM (FROM system.files) WHERE table_name = 'a'", {}),
        ("FROM system.files WHERE table_name = 'a' AND table_name = 'b'", {"table_name": set()}),
    ],
)
def test_only_what_a_query_cannot_want_is_left_out(sql: str, expected: dict[str, set[str]]) -> None:
    assert wanted_values(sql, "files") == expected


def test_a_system_table_that_is_too_large_is_refused_and_one_being_made_can_be_stopped(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lakehouse, "t", {"n": [1]})
    session = session_of(lakehouse)
    stopped = CallWatch(cancelled=lambda: True)
    plan = session.engine.plan(session.engine.gate.analyse("FROM system.files"), session)
    monkeypatch.setattr("lakehouse.engine.system_history._BATCH_ROWS", 1)
    monkeypatch.setattr("lakehouse.catalog.history._entries", _wait_for_the_end(lakehouse))
    with pytest.raises(StatementCancelled):
        list(session.engine.open(plan, session, stopped))
    monkeypatch.undo()
    monkeypatch.setattr("lakehouse.engine.system_history._MOST_BYTES", 10)
    with pytest.raises(LimitExceeded, match=r"system\.files.*table_name"):
        run(session, "FROM system.files")


def _wait_for_the_end(lakehouse: Lakehouse) -> Any:
    def entries(table: Table) -> Iterator[Any]:
        snapshot = table.metadata.current_snapshot()
        assert snapshot is not None
        (manifest,) = snapshot.manifests(table.planner.io)
        while True:
            threading.Event().wait(0.01)
            yield from manifest.fetch_manifest_entry(table.planner.io)

    return entries


def test_a_tag_is_read_by_its_name_whatever_is_committed_later(lakehouse: Lakehouse) -> None:
    first = put(lakehouse, "t", {"n": [1, 2]})
    tag(lakehouse, first, "v1")
    tag(lakehouse, first, "it's", "branch")
    session = session_of(lakehouse)
    run(session, "BEGIN")
    assert run(session, "SELECT sum(n) FROM t") == [(3,)]
    second = put(lakehouse, "t", {"n": [10]})
    tag(lakehouse, second, "v2")
    for inside in (True, False):
        assert run(session, "SELECT sum(n) FROM t AT (VERSION => 'v1')") == [(3,)]
        assert run(session, 'SELECT sum("t@v1".n) FROM "t@v1"') == [(3,)]
        assert run(session, 'SELECT sum(x.n) FROM lake.main."T@it\'s" x') == [(3,)]
        assert run(session, "SELECT sum(n) FROM t AT (VERSION => 'main')") == [(3 if inside else 13,)]
        if inside:
            with pytest.raises(SnapshotNotFound, match="did you mean 'v1'"):
                run(session, 'FROM "t@v2"')
            run(session, "COMMIT")
    assert run(session, 'SELECT sum(n) FROM "t@v2"') == [(13,)]
    with pytest.raises(
        SnapshotNotFound, match=r"'lake\.main\.t' has no tag or branch 'v3' .*did you mean 'v[12]'"
    ):
        run(session, "FROM t AT (VERSION => 'v3')")
    with pytest.raises(TableNotFound, match=r"main\.u does not exist"):
        run(session, 'FROM "u@v1"')
    with pytest.raises(InvalidRequest, match="tag or branch"):
        run(session, "FROM t AT (VERSION => 1.5)")
    put(lakehouse, "t@v1", {"n": [100]})
    assert run(session, 'SELECT n FROM "t@v1"') == [(100,)], "a table of that name comes first"


def test_a_tag_shows_each_principal_its_part(lakehouse: Lakehouse) -> None:
    first = put(lakehouse, "people", {"id": [1, 2], "region": ["eu", "us"]})
    tag(lakehouse, first, "v1")
    put(lakehouse, "people", {"id": [3], "region": ["eu"]})
    european = session_of(lakehouse, "european")
    for sql in ('SELECT id FROM "people@v1"', "SELECT id FROM people AT (VERSION => 'v1')"):
        assert run(european, sql) == [(1,)]
        run(european, "BEGIN")
        assert run(european, sql) == [(1,)]
        run(european, "ROLLBACK")
    with pytest.raises(TableNotFound):
        run(session_of(lakehouse, "stranger"), 'FROM "people@v1"')


def test_names_are_given_once_and_taken_away(lakehouse: Lakehouse) -> None:
    table = put(lakehouse, "t", {"n": [1]})
    tag(lakehouse, table, "v1")
    with pytest.raises(ReferenceAlreadyExists):
        tag(lakehouse, table, "v1")
    with pytest.raises(ReferenceAlreadyExists):
        tag(lakehouse, table, "main", "branch")
    with pytest.raises(InvalidRequest, match="whole numbers"):
        tag(lakehouse, table, "12")
    now = put(lakehouse, "t", {"n": [2]})
    moved = Reference("v1", "tag", now.metadata.current_snapshot_id or 0)
    create_reference(lakehouse.catalog, table, moved, timedelta(days=1), replace=True)
    assert lakehouse.catalog.load("main", "t").snapshot_for("v1").snapshot_id == now.snapshot_id
    with pytest.raises(SnapshotNotFound, match="no branch 'v1'"):
        drop_reference(lakehouse.catalog, table, "v1", "branch")
    with pytest.raises(InvalidRequest):
        drop_reference(lakehouse.catalog, table, "main", "branch")
    assert drop_reference(lakehouse.catalog, table, "v1", "tag") == now.snapshot_id
    assert [r.name for r in lakehouse.catalog.load("main", "t").references] == ["main"]


def test_rolling_back_and_forward_keeps_what_time_travel_finds(lakehouse: Lakehouse) -> None:
    states = [put(lakehouse, "t", {"n": [n]}) for n in (1, 2, 3)]
    ids = [state.snapshot_id or 0 for state in states]
    session = session_of(lakehouse)
    catalog = lakehouse.catalog
    with pytest.raises(CommitConflict):
        roll_back(catalog, states[1], ids[0])
    assert run(session, "SELECT count(*) FROM t") == [(3,)]
    roll_back(catalog, states[2], ids[0])
    assert run(session, "FROM t") == [(1,)]
    with pytest.raises(InvalidRequest, match="any_snapshot"):
        roll_back(catalog, latest(catalog, "main", "t"), ids[2])
    roll_back(catalog, latest(catalog, "main", "t"), ids[2], any_snapshot=True)
    assert run(session, "SELECT count(*) FROM t") == [(3,)]
    with pytest.raises(CommitConflict):
        roll_back(catalog, latest(catalog, "main", "t"), ids[0], expected=ids[1])
    roll_back(catalog, latest(catalog, "main", "t"), ids[1], expected=ids[2])
    put(lakehouse, "t", {"n": [9]})
    assert sorted(run(session, "FROM t")) == [(1,), (2,), (9,)]
    log = run(session, "SELECT made_current_at, snapshot_id, is_current_ancestor FROM system.history")
    assert [row[1] for row in log][:5] == [*ids, ids[0], ids[2]]
    assert [row[2] for row in log] == [True, True, False, True, False, True, True]
    assert [row[0] for row in log] == sorted({row[0] for row in log}), (
        "each entry is later than the one before"
    )
    expected = [1, 2, 3, 1, 3, 2, 3]
    for (at, _, _), rows in zip(log, expected, strict=True):
        assert run(session, f"SELECT count(*) FROM t AT (TIMESTAMP => TIMESTAMPTZ '{at}')") == [(rows,)]


def changes(lakehouse: Lakehouse, session: Session, table: Table, before: int, after: int) -> Counter[Any]:
    diff = plan_diff(lakehouse.engine, session, table, table.snapshot_for(before), table.snapshot_for(after))
    found = pa.Table.from_batches(
        list(lakehouse.engine.open(diff.rows, session, CallWatch())), diff.rows.schema
    )
    assert found.schema.names[0] == diff.change_column
    rows = Counter(zip(*(column.to_pylist() for column in found.columns), strict=True))
    kinds = Counter(row[0] for row in rows.elements())
    counts = count_changes(lakehouse.engine, session, diff, CallWatch())
    assert {kind: n for kind, n in counts.items() if n} == dict(kinds)
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_a_diff_is_the_difference_of_the_multisets(lakehouse: Lakehouse, seed: int) -> None:
    random.seed(seed)
    values = [None, "a", "b", "é"]
    session = session_of(lakehouse)
    states: list[tuple[int, Counter[Any]]] = []
    held: Counter[Any] = Counter()
    for _ in range(5):
        rows = [(random.choice([None, 1, 2]), random.choice(values)) for _ in range(random.randrange(1, 6))]
        data = pa.table(
            {"n": pa.array([r[0] for r in rows], pa.int64()), "s": pa.array([r[1] for r in rows])}
        )
        replaces = bool(states) and random.random() < 0.4
        table = put(lakehouse, "t", data, WriteMode.REPLACE if replaces else WriteMode.CREATE_APPEND)
        held = Counter(rows) + (Counter() if replaces else held)
        states.append((table.snapshot_id or 0, held))
    for (before, old), (after, new) in itertools.permutations(states, 2):
        expected = Counter({("DELETE", *row): n for row, n in (old - new).items()})
        expected += Counter({("INSERT", *row): n for row, n in (new - old).items()})
        assert changes(lakehouse, session, table, before, after) == expected


def test_a_diff_knows_rows_by_their_key_and_shows_what_may_be_seen(lakehouse: Lakehouse) -> None:
    schema = pa.schema(
        [pa.field("id", pa.int64(), nullable=False), ("region", pa.string()), ("_change_type", pa.int64())]
    )
    first = put(lakehouse, "people", pa.table([[1, 2, 3], ["eu", "eu", "us"], [0, 0, 0]], schema=schema))
    lakehouse.catalog.declare_keys("main", "people", ["id"], [])
    later = pa.table([[1, 2, 3, 4], ["eu", "us", "us", "eu"], [5, 0, 9, 0]], schema=schema)
    second = put(lakehouse, "people", later, WriteMode.REPLACE)
    table = latest(lakehouse.catalog, "main", "people")
    assert table.primary_key == ("id",)
    ids = first.snapshot_id or 0, second.snapshot_id or 0
    assert set(changes(lakehouse, session_of(lakehouse), table, *ids)) == {
        ("UPDATE_BEFORE", 1, "eu", 0), ("UPDATE_AFTER", 1, "eu", 5),
        ("UPDATE_BEFORE", 2, "eu", 0), ("UPDATE_AFTER", 2, "us", 0),
        ("UPDATE_BEFORE", 3, "us", 0), ("UPDATE_AFTER", 3, "us", 9),
        ("INSERT", 4, "eu", 0),
    }  # fmt: skip
    assert set(changes(lakehouse, session_of(lakehouse, "european"), table, *ids)) == {
        ("UPDATE_BEFORE", 1, "eu", 0), ("UPDATE_AFTER", 1, "eu", 5),
        ("DELETE", 2, "eu", 0), ("INSERT", 4, "eu", 0),
    }  # fmt: skip


def test_a_diff_reads_only_files_that_one_of_the_snapshots_lacks(
    lakehouse: Lakehouse, tmp_path: Path
) -> None:
    first = put(lakehouse, "t", {"n": [1]})
    second = put(lakehouse, "t", {"n": [2]})
    (kept,) = first.files()
    content = Path(kept.path).read_bytes()
    Path(kept.path).write_bytes(b"\0" * len(content))
    found = changes(lakehouse, session_of(lakehouse), second, first.snapshot_id or 0, second.snapshot_id or 0)
    assert found == {("INSERT", 2): 1}
