"""Compaction, expiry and removal of orphans: the rows stay, readers and writers are not disturbed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lake_tables import put
from pyiceberg.table.sorting import NullOrder
from pyiceberg.transforms import IdentityTransform

from lakehouse.access.principal import Principal
from lakehouse.catalog.references import create_reference, drop_reference, roll_back
from lakehouse.catalog.table import Reference
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import CommitConflict, SnapshotNotFound, StatementCancelled
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.maintenance.cleanup import Cleaner
from lakehouse.maintenance.compaction import CompactionOptions, CompactionResult, groups_of
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

ALL = CompactionOptions(1 << 20, min_files=2)


def settings_for(root: Path, **maintenance: Any) -> Settings:
    return Settings.model_validate(
        {
            "buckets": [{"path": str(root)}],
            "catalog": {"refresh_ms": 0},
            "maintenance": {"grace_seconds": 0, **maintenance},
            "log": {"format": "json"},
        }
    )


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    opened = Lakehouse(settings_for(tmp_path))
    yield opened
    opened.close()


def session_of(lakehouse: Lakehouse, name: str = "a") -> Session:
    return lakehouse.sessions.get(f"test-{name}", Principal("ann", frozenset({"admin"})))


def run(session: Session, sql: str) -> list[tuple[Any, ...]]:
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    if analysis.is_update:
        engine.changes.run(analysis, Scope(session, session.sql_transaction, CallWatch()))
        return []
    plan = engine.plan(analysis, session, session.sql_transaction)
    table = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def compact(lakehouse: Lakehouse, table: str = "t", options: CompactionOptions = ALL) -> CompactionResult:
    return lakehouse.maintenance.compactor.compact("main", table, options, lambda *_: None, lambda: False)


def expire(lakehouse: Lakehouse, table: str = "t", keep_last: int = 1) -> Any:
    soon = lakehouse.clock.now() + timedelta(seconds=10)
    return lakehouse.maintenance.cleaner.expire("main", table, soon, keep_last)


def orphans(lakehouse: Lakehouse, table: str = "t", age_hours: float = 1, dry_run: bool = False) -> Any:
    age = timedelta(hours=age_hours)
    clean = lakehouse.maintenance.cleaner.remove_orphans
    return clean("main", table, age, lambda *_: None, lambda: False, dry_run=dry_run)


def stored(root: Path, pattern: str = "*.parquet") -> set[Path]:
    return set((root / "warehouse").rglob(pattern))


def grow_old(root: Path) -> None:
    """Make every object look as if it had been there for weeks."""
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 30 * 86400,) * 2)


# -- compaction ----------------------------------------------------------------------------------------


def test_small_files_become_one_and_the_rows_stay(lakehouse: Lakehouse) -> None:
    moment = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    rows = {
        "n": [1, None, -(2**63)],
        "s": ["é", None, ""],
        "f": [float("nan"), -0.0, None],
        "d": [Decimal("1.10"), None, Decimal("-9999999999999999.99")],
        "t": [moment, None, moment],
        "b": [b"\0\xff", None, b""],
        "l": [[1, None], None, []],
        "m": [{"x": "a", "y": None}, None, {"x": None, "y": [1]}],
    }
    schema = pa.schema(
        [
            ("n", pa.int64()), ("s", pa.string()), ("f", pa.float64()), ("d", pa.decimal128(18, 2)),
            ("t", pa.timestamp("us", tz="UTC")), ("b", pa.binary()), ("l", pa.list_(pa.int32())),
            ("m", pa.struct([("x", pa.string()), ("y", pa.list_(pa.int64()))])),
        ]
    )  # fmt: skip
    for _ in range(6):
        before = put(lakehouse, "Größe", pa.table(rows, schema=schema))
    session = session_of(lakehouse)
    held = Counter(map(repr, run(session, 'FROM "Größe"')))
    reported: list[float] = []
    done = lakehouse.maintenance.compactor.compact(
        "main", "größe", ALL, lambda share, _: reported.append(share), lambda: False
    )
    assert (done.files_before, done.files_after, done.rows, done.commits, done.conflicts) == (6, 1, 18, 1, 0)
    assert reported[0] == 0.0
    assert reported[-1] == 1.0
    assert Counter(map(repr, run(session, 'FROM "Größe"'))) == held
    told = run(session, "SELECT operation, summary['total-records'], summary['total-data-files'] "
               "FROM system.snapshots WHERE is_current")  # fmt: skip
    assert told == [("replace", "18", "1")]
    travelled = run(session, f'FROM "Größe" AT (VERSION => {before.snapshot_id})')
    assert Counter(map(repr, travelled)) == held
    assert compact(lakehouse, "Größe") == CompactionResult()


def test_files_are_packed_into_groups_of_neighbours(lakehouse: Lakehouse) -> None:
    for number in range(7):
        table = put(lakehouse, "t", {"n": [number]})
    size = max(file.size_bytes for file in table.files())
    groups = groups_of(table, CompactionOptions(size // 4 + 1, min_files=2))
    assert groups == [], "files that are larger than the target are left alone"
    two = CompactionOptions(size * 2, min_files=5)
    assert [len(group.files) for group in groups_of(table, two)] == [7]
    assert groups_of(table, CompactionOptions(size * 2, min_files=8)) == []
    three = CompactionOptions(int(size * 3.2 / 8) * 4, min_files=2)
    packed = groups_of(table, three)
    assert [f for group in packed for f in group.files] == list(table.files())[
        : sum(len(g.files) for g in packed)
    ]


def test_an_evolved_and_sorted_table_is_compacted_in_its_order(lakehouse: Lakehouse) -> None:
    put(lakehouse, "t", {"n": [3, 1], "old": ["a", "b"]})
    native = lakehouse.catalog.objects.load_table(("main", "t"))  # type: ignore[attr-defined]
    with native.update_schema() as update:
        update.rename_column("old", "new")
        update.add_column("extra", native.schema().find_type("n"))
    with native.update_sort_order() as order:
        order.desc("n", IdentityTransform(), NullOrder.NULLS_LAST)
    put(lakehouse, "t", {"n": [2, None], "new": ["c", "d"], "extra": [7, 8]})
    table = lakehouse.catalog.load("main", "t")
    assert [(s.column, s.descending, s.nulls_first) for s in table.sort_columns] == [("n", True, False)]
    assert compact(lakehouse).files_after == 1
    expected = [(3, "a", None), (2, "c", 7), (1, "b", None), (None, "d", 8)]
    assert run(session_of(lakehouse), "FROM t") == expected


def test_compaction_gives_way_to_a_writer_that_took_its_files(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(4):
        put(lakehouse, "t", {"n": [number]})
    session = session_of(lakehouse)
    reader = lakehouse.maintenance.compactor._reader
    real, meanwhile = type(reader).rows, ["DELETE FROM t WHERE n = 2", "UPDATE t SET n = 30 WHERE n = 3"]

    def rows(self: Any, *arguments: Any) -> Any:
        if meanwhile:
            run(session, meanwhile.pop(0))
        return real(self, *arguments)

    monkeypatch.setattr(type(reader), "rows", rows)
    done = compact(lakehouse)
    assert done.conflicts == 2
    assert done.files_after == 1
    assert sorted(run(session, "FROM t")) == [(0,), (1,), (30,)]
    grow_old(tmp_path)
    assert orphans(lakehouse, dry_run=True).files == 0, "what was written for nothing is gone"


def test_writers_that_meet_compaction_lose_nothing(lakehouse: Lakehouse) -> None:
    put(lakehouse, "t", {"n": [-1]})
    deleted = set(range(0, 40, 5))
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(_append, lakehouse, 40), pool.submit(_delete, lakehouse, sorted(deleted))]
        while not all(writer.done() for writer in writers):
            compact(lakehouse)
            expire(lakehouse)
    for writer in writers:
        writer.result()
    expected = [(n,) for n in sorted({-1, *range(40)} - deleted)]
    session = session_of(lakehouse)
    assert sorted(run(session, "FROM t")) == expected
    compact(lakehouse)
    expire(lakehouse)
    assert sorted(run(session, "FROM t")) == expected
    assert len(lakehouse.catalog.load("main", "t").files()) == 1


def _append(lakehouse: Lakehouse, count: int) -> None:
    for number in range(count):
        put(lakehouse, "t", {"n": [number]})


def _delete(lakehouse: Lakehouse, numbers: list[int]) -> None:
    session = session_of(lakehouse, "deleting")
    for number in numbers:
        while not run(session, f"SELECT 1 FROM t WHERE n = {number}"):
            time.sleep(0.005)
        done = False
        while not done:
            with suppress(CommitConflict):
                run(session, f"DELETE FROM t WHERE n = {number}")
                done = True


def test_a_compaction_that_is_cancelled_keeps_what_was_committed(
    lakehouse: Lakehouse, tmp_path: Path
) -> None:
    for number in range(4):
        put(lakehouse, "t", {"n": [number]})
    with pytest.raises(StatementCancelled):
        lakehouse.maintenance.compactor.compact("main", "t", ALL, lambda *_: None, lambda: True)
    assert len(run(session_of(lakehouse), "FROM t")) == 4
    assert len(stored(tmp_path)) == 4


# -- expiry --------------------------------------------------------------------------------------------


def test_expiry_keeps_names_and_heads_and_removes_what_only_the_others_needed(
    lakehouse: Lakehouse, tmp_path: Path
) -> None:
    catalog, session = lakehouse.catalog, session_of(lakehouse)
    first = put(lakehouse, "t", {"n": [1]})
    create_reference(catalog, first, Reference("v1", "tag", first.snapshot_id or 0))
    second = put(lakehouse, "t", {"n": [2]}, WriteMode.REPLACE)
    third = put(lakehouse, "t", {"n": [3]}, WriteMode.REPLACE)
    fourth = put(lakehouse, "t", {"n": [4]})
    create_reference(
        catalog, fourth, Reference("fleeting", "tag", first.snapshot_id or 0), timedelta(milliseconds=1)
    )
    done = expire(lakehouse, keep_last=2)
    assert done.snapshots == (second.snapshot_id,)
    assert done.references == ("fleeting",)
    assert done.pending_files == 0
    assert len(stored(tmp_path)) == 3
    assert run(session, 'FROM "t@v1"') == [(1,)]
    assert sorted(run(session, "FROM t")) == [(3,), (4,)]
    with pytest.raises(SnapshotNotFound):
        run(session, f"FROM t AT (VERSION => {second.snapshot_id})")
    moment = second.snapshots()[-1].timestamp.isoformat()
    with pytest.raises(SnapshotNotFound):
        run(session, f"FROM t AT (TIMESTAMP => TIMESTAMPTZ '{moment}')")
    drop_reference(catalog, catalog.load("main", "t"), "v1", "tag")
    assert set(expire(lakehouse).snapshots) == {first.snapshot_id, third.snapshot_id}
    assert sorted(run(session, "FROM t")) == [(3,), (4,)]
    assert len(stored(tmp_path)) == 2
    slots = stored(tmp_path, "v*.metadata.json")
    assert {path.name for path in slots} == {f"v{n}.metadata.json" for n in range(1, len(slots) + 1)}
    assert stored(tmp_path, "expired/*") == set()
    assert expire(lakehouse) == type(done)()


def test_a_statement_and_a_transaction_keep_their_files(lakehouse: Lakehouse, tmp_path: Path) -> None:
    rows = pa.table({"n": range(300_000), "s": [f"text {n % 977}" for n in range(300_000)]})
    old = put(lakehouse, "t", rows)
    session, other = session_of(lakehouse), session_of(lakehouse, "other")
    plan = session.engine.plan(session.engine.gate.analyse("SELECT n, s FROM t"), session)
    stream = iter(session.engine.open(plan, session, CallWatch()))
    travel = session.engine.plan(
        session.engine.gate.analyse(f"SELECT sum(n) FROM t AT (VERSION => {old.snapshot_id})"), session
    )
    run(other, "BEGIN")
    assert run(other, "SELECT count(*) FROM t") == [(300_000,)]
    put(lakehouse, "t", {"n": [1], "s": ["x"]}, WriteMode.REPLACE)
    assert expire(lakehouse).pending_files > 0
    assert run(other, "SELECT sum(n) FROM t") == [(sum(range(300_000)),)]
    assert sum(batch.num_rows for batch in stream) == 300_000
    del stream, plan
    (total,) = list(session.engine.open(travel, session, CallWatch()))
    assert total.column(0).to_pylist() == [sum(range(300_000))]
    del travel, total
    run(other, "COMMIT")
    assert len(stored(tmp_path)) == 2
    run(session, "SELECT n, s FROM t")
    assert expire(lakehouse).pending_files == 0
    assert len(stored(tmp_path)) == 1
    assert run(session, "SELECT n, s FROM t") == [(1, "x")]


def test_files_stay_for_the_grace_time_after_their_snapshot_went(
    lakehouse: Lakehouse, tmp_path: Path
) -> None:
    catalog, clock = lakehouse.catalog, Later()
    cleaner = Cleaner(catalog, set, timedelta(hours=1))  # type: ignore[arg-type]
    catalog.clock = clock  # type: ignore[attr-defined]
    first = put(lakehouse, "t", {"n": [1]})
    put(lakehouse, "t", {"n": [2]}, WriteMode.REPLACE)

    def expired() -> Any:
        return cleaner.expire("main", "t", clock.now() + timedelta(days=1), 1)

    assert expired().snapshots == (), "a snapshot that young may be about to be read"
    clock.later = timedelta(hours=2)
    done = expired()
    assert done.snapshots == (first.snapshot_id,)
    assert (done.removed_files, len(stored(tmp_path))) == (0, 2)
    assert done.pending_files > 0
    grow_old(tmp_path)
    catalog.load("main", "t")
    clock.later = timedelta(hours=2, minutes=50)
    assert cleaner.sweep("main", "t")[0] == 0
    clock.later = timedelta(hours=3, minutes=10)
    removed, pending = cleaner.sweep("main", "t")
    assert (removed, pending) == (done.pending_files, 0)
    assert len(stored(tmp_path)) == 1
    assert run(session_of(lakehouse), "FROM t") == [(2,)]


class Later:
    """A clock that is ahead of the machine's."""

    later = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.later

    def monotonic(self) -> float:
        return time.monotonic() + self.later.total_seconds()

    def token(self) -> str:
        return os.urandom(16).hex()


def test_a_list_of_an_expiry_that_did_not_take_place_does_no_harm(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = put(lakehouse, "t", {"n": [1]})
    second = put(lakehouse, "t", {"n": [2]}, WriteMode.REPLACE)

    def conflict(*_: Any) -> None:
        raise CommitConflict("another writer")

    monkeypatch.setattr("lakehouse.maintenance.cleanup.remove_snapshots", conflict)
    with pytest.raises(CommitConflict):
        expire(lakehouse)
    monkeypatch.undo()
    assert len(stored(tmp_path, "expired/*")) == 3
    roll_back(lakehouse.catalog, second, first.snapshot_id or 0)
    assert lakehouse.maintenance.cleaner.sweep("main", "t") == (0, 0)
    assert stored(tmp_path, "expired/*") == set()
    assert run(session_of(lakehouse), "FROM t") == [(1,)]
    assert run(session_of(lakehouse), f"FROM t AT (VERSION => {second.snapshot_id})") == [(2,)]


# -- orphans -------------------------------------------------------------------------------------------


def test_only_old_files_that_nothing_refers_to_are_orphans(lakehouse: Lakehouse, tmp_path: Path) -> None:
    name = "Größe 1/2"
    first = put(lakehouse, name, {"n": [1]})
    put(lakehouse, name, {"n": [2]}, WriteMode.REPLACE)
    staged = stage(
        lakehouse.catalog, TableName("lake", "main", name), WriteMode.APPEND,
        pa.schema([("n", pa.int64())]), pa.table({"n": [3]}).to_batches(), lambda: False,
    )  # fmt: skip
    location = Path(first.files()[0].path).parent.parent
    for stray in (
        "data/sub/left.parquet",
        "metadata/left.avro",
        "metadata/left.txt",
        "metadata/v99.metadata.jso",
        "data/half.parquet#1",  # what a process leaves that is killed while it writes
        "metadata/v99.metadata.json#2",
    ):
        (location / stray).parent.mkdir(exist_ok=True)
        (location / stray).write_bytes(b"x")
    everything = stored(tmp_path, "*")
    assert orphans(lakehouse, name).files == 0, "all of it is young"
    grow_old(tmp_path)
    commit(lakehouse.catalog, staged)
    shown = orphans(lakehouse, name, dry_run=True)
    assert {key.rsplit("/", 1)[-1] for key in shown.keys} == {
        "left.parquet",
        "left.avro",
        "half.parquet#1",
        "v99.metadata.json#2",
    }
    assert shown.size_bytes == 4
    assert everything <= stored(tmp_path, "*")
    assert orphans(lakehouse, name) == shown
    assert orphans(lakehouse, name).files == 0
    session = session_of(lakehouse)
    assert sorted(run(session, f'FROM "{name}"')) == [(2,), (3,)]
    assert run(session, f'FROM "{name}" AT (VERSION => {first.snapshot_id})') == [(1,)]
    assert (location / "metadata/left.txt").exists()


def test_staged_rows_of_an_open_transaction_are_no_orphans(lakehouse: Lakehouse, tmp_path: Path) -> None:
    put(lakehouse, "t", {"n": [1]})
    session = session_of(lakehouse)
    run(session, "BEGIN")
    run(session, "INSERT INTO t VALUES (2)")
    grow_old(tmp_path)
    assert orphans(lakehouse).files == 0
    run(session, "COMMIT")
    assert sorted(run(session, "FROM t")) == [(1,), (2,)]


# -- the policy ----------------------------------------------------------------------------------------


def test_the_policy_looks_after_every_table_and_outlives_a_bad_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    settings = settings_for(
        tmp_path, min_small_files=3, interval_seconds=0.05, expire_snapshot_days=1e-9, keep_snapshots=1
    )
    lakehouse = Lakehouse(settings)
    try:
        for table in ("bad", "good"):
            for number in range(4):
                put(lakehouse, table, {"n": [number]})
        broken = lakehouse.catalog.load("main", "bad").files()[0].path
        Path(broken).write_bytes(b"not parquet")
        lakehouse.maintenance.start()
        deadline = time.monotonic() + 60
        while len(lakehouse.catalog.load("main", "good").snapshots()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lakehouse.maintenance.stop()
        assert len(lakehouse.catalog.load("main", "good").files()) == 1
        assert len(lakehouse.catalog.load("main", "bad").files()) == 4
        assert sorted(run(session_of(lakehouse), "FROM good")) == [(n,) for n in range(4)]
        done = {event["action"]: event["outcome"] for event in lakehouse.journal.recent(100)}
        assert done["table.compact lake.main.good"] == "ok"
        assert done["maintenance lake.main.bad"] != "ok"
    finally:
        lakehouse.close()
