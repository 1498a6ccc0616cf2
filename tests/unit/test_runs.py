"""Ingests bring every row once, or none, and say what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from run_records import put_run

from lakehouse.access.principal import Principal
from lakehouse.catalog.commit import writable
from lakehouse.catalog.references import roll_back
from lakehouse.clock import FixedClock, SystemClock
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    LakehouseError,
    PermissionDenied,
    RunNotFound,
    SchemaMismatch,
    StatementCancelled,
    TableAlreadyExists,
)
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.ingest.sources.byte_source import LocalFile
from lakehouse.ingest.sources.file_options import FileLimits, FileOptions
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.source import (
    Inspection,
    OnError,
    Piece,
    Progress,
    RejectedRow,
    SourceColumn,
)
from lakehouse.runs import Evolve, IngestMode, IngestRequest, Ingests, RunState, RunStore
from lakehouse.runtime import Lakehouse
from lakehouse.storage import open_local_bucket
from lakehouse.types import ForeignKey, TableName

PEOPLE = TableName("lake", "crm", "people")
ROWS = {"id": [1, 2, 3], "name": ["Ann", "Bo", "Çelik"]}


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    opened = Lakehouse(
        Settings(buckets=[{"name": "primary", "path": tmp_path / "data"}], maintenance={"grace_seconds": 0})
    )
    yield opened
    opened.close()


@pytest.fixture
def ingests(lakehouse: Lakehouse) -> Iterator[Ingests]:
    opened = Ingests(lakehouse.engine, RunStore(lakehouse.bucket, lakehouse.clock), lakehouse.clock)
    yield opened
    opened.close()


def source(rows: dict[str, Any] | pa.Table, identity: str = "", batches: int = 1) -> ArrowBatches:
    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    size = max(1, -(-table.num_rows // batches))
    return ArrowBatches(table.schema, table.to_batches(max_chunksize=size), "a test", identity)


def silent(_: float | None, __: str) -> None:
    pass


class Runner:
    def __init__(self, lakehouse: Lakehouse, ingests: Ingests) -> None:
        self.lakehouse, self.ingests = lakehouse, ingests

    def __call__(self, what: Any, cancelled: Callable[[], bool] = lambda: False, **request: Any) -> Any:
        asked = IngestRequest(PEOPLE, **request)
        principal = self.lakehouse.anonymous
        return self.ingests.run(asked, what, principal, cancelled, silent)

    def sql(self, text: str) -> list[dict[str, Any]]:
        engine = self.lakehouse.engine
        session = engine.new_session(self.lakehouse.clock.token(), {}, self.lakehouse.anonymous)
        plan = engine.plan(engine.gate.analyse(text), session)
        return [row for batch in engine.open(plan, session, CallWatch()) for row in batch.to_pylist()]

    def execute(self, text: str) -> None:
        engine = self.lakehouse.engine
        session = engine.new_session(self.lakehouse.clock.token(), {}, self.lakehouse.anonymous)
        engine.changes.run(engine.gate.analyse(text), Scope(session, None, CallWatch()))

    def expire(self) -> None:
        """All snapshots but the last are gone."""
        later = self.lakehouse.clock.now() + timedelta(hours=1)
        self.lakehouse.maintenance.of("lake").cleaner.expire("crm", "people", later, 1)
        assert len(self.lakehouse.catalog.load("crm", "people").snapshots()) == 1

    def rows(self) -> list[dict[str, Any]]:
        return self.sql(f"SELECT * FROM {PEOPLE.sql} ORDER BY id")


@pytest.fixture
def run(lakehouse: Lakehouse, ingests: Ingests) -> Runner:
    return Runner(lakehouse, ingests)


def as_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_table_is_made_and_the_account_is_exact(run: Runner) -> None:
    record = run(source(ROWS, batches=3))
    assert run.rows() == as_rows(ROWS)
    assert (record.state, record.rows_in, record.rows_stored, record.rows_rejected) == ("succeeded", 3, 3, 0)
    assert record.snapshot_id == run.lakehouse.catalog.load("crm", "people").snapshot_id
    assert [(c.name, c.type) for c in record.columns] == [("id", "int64"), ("name", "string")]
    assert run.ingests.store.get(record.id) == record
    assert [found.id for found in run.ingests.newest()] == [record.id]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (IngestMode.APPEND, [(1, "Ann"), (2, "Bo"), (3, "X"), (3, "Çelik"), (4, "Y")]),
        (IngestMode.REPLACE, [(3, "X"), (4, "Y")]),
        (IngestMode.UPSERT, [(1, "Ann"), (2, "Bo"), (3, "X"), (4, "Y")]),
    ],
)
def test_modes(run: Runner, mode: IngestMode, expected: list[tuple[int, str]]) -> None:
    run(source(ROWS))
    run(source({"id": [3, 4], "name": ["X", "Y"]}), mode=mode, keys=("id",))
    assert sorted((row["id"], row["name"]) for row in run.rows()) == expected


def test_create_refuses_a_table_that_is_there(run: Runner) -> None:
    run(source(ROWS), mode=IngestMode.CREATE)
    with pytest.raises(TableAlreadyExists):
        run(source(ROWS), mode=IngestMode.CREATE)
    assert run.rows() == as_rows(ROWS)
    assert [found.state for found in run.ingests.newest()] == [RunState.FAILED, RunState.SUCCEEDED]


def test_an_upsert_makes_the_table_and_declares_its_key(run: Runner) -> None:
    run(source(ROWS), mode=IngestMode.UPSERT, keys=("id",))
    assert run.lakehouse.catalog.load("crm", "people").primary_key == ("id",)
    run(source({"id": [2], "name": ["Bob"]}), mode=IngestMode.UPSERT)
    assert [row["name"] for row in run.rows()] == ["Ann", "Bob", "Çelik"]


def test_rows_that_are_nothing_but_a_key_are_counted_where_they_were_there(run: Runner) -> None:
    run(source({"id": [1, 2]}), mode=IngestMode.UPSERT, keys=("id",))
    record = run(source({"id": [2, 3]}), mode=IngestMode.UPSERT, keys=("id",))
    assert (record.rows_in, record.rows_stored, record.rows_rejected) == (2, 2, 0)
    assert [row["id"] for row in run.rows()] == [1, 2, 3]


@pytest.mark.parametrize("ids", [[4, 4], [4, None]])
def test_an_upsert_of_an_ambiguous_key_stores_nothing(run: Runner, ids: list[int | None]) -> None:
    run(source(ROWS))
    with pytest.raises(InvalidRequest, match="the key id = "):
        run(source({"id": ids, "name": ["X", "Y"]}), mode=IngestMode.UPSERT, keys=("id",))
    assert run.rows() == as_rows(ROWS)


# -- once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(IngestMode))
def test_the_same_rows_come_once(run: Runner, mode: IngestMode) -> None:
    first = run(source(ROWS, "content"), mode=mode, keys=("id",))
    again = run(source(ROWS, "content"), mode=mode, keys=("id",))
    assert (again.state, again.snapshot_id, again.rows_stored) == ("repeated", first.snapshot_id, 0)
    assert run.rows() == as_rows(ROWS)


def test_other_rows_between_do_not_matter_but_for_a_replacement(run: Runner) -> None:
    run(source(ROWS, "one"))
    run(source({"id": [4], "name": ["D"]}, "two"))
    assert run(source(ROWS, "one")).state == "repeated"
    assert run(source(ROWS, "one"), mode=IngestMode.REPLACE).state == "succeeded"
    assert run.rows() == as_rows(ROWS)


def test_a_key_can_be_said_or_waived(run: Runner) -> None:
    assert run(source(ROWS, "one"), key="monday").state == "succeeded"
    assert run(source(ROWS, "two"), key="monday").state == "repeated"
    assert run(source(ROWS, "two"), key="").state == "succeeded"
    assert run(source(ROWS, "two"), key="").state == "succeeded"
    assert len(run.rows()) == 9


def test_rows_that_were_rolled_back_come_again(run: Runner) -> None:
    first = run(source({"id": [0], "name": ["first"]}))
    run(source(ROWS, "content"))
    lakehouse = run.lakehouse
    roll_back(writable(lakehouse.catalog), lakehouse.catalog.load("crm", "people"), first.snapshot_id)
    assert run(source(ROWS, "content")).state == "succeeded"
    assert len(run.rows()) == 4


@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize("by", ["ingest", "statement"])
def test_rows_that_were_replaced_come_again_and_then_once(run: Runner, by: str, expired: bool) -> None:
    run(source(ROWS, "content"))
    if by == "ingest":
        run(source({"id": [4], "name": ["D"]}, "two"), mode=IngestMode.REPLACE)
    else:
        run.execute(f"CREATE OR REPLACE TABLE {PEOPLE.sql} AS SELECT 4::BIGINT AS id, 'D' AS name")
    run.execute(f"INSERT INTO {PEOPLE.sql} VALUES (5, 'E')")
    if expired:
        run.expire()
    assert run(source(ROWS, "content")).state == "succeeded"
    run.execute(f"INSERT INTO {PEOPLE.sql} VALUES (6, 'F')")
    if expired:
        run.expire()
    assert run(source(ROWS, "content")).state == "repeated"
    assert [row["id"] for row in run.rows()] == [1, 2, 3, 4, 5, 6]


def test_rows_come_again_with_the_rejected_ones_still_there(run: Runner) -> None:
    for _ in range(2):
        assert run(Picky(100, "content"), on_error=OnError.REJECT).rows_stored == 85
        run.lakehouse.catalog.drop_table("crm", "people")
    assert run.sql("SELECT count(*) AS n FROM lake.crm.people_rejects") == [{"n": 30}]


def test_rows_of_an_expired_snapshot_do_not_come_again(run: Runner) -> None:
    run(source(ROWS, "content"))
    run(source({"id": [4], "name": ["D"]}))
    run.expire()
    assert run(source(ROWS, "content")).state == "repeated"
    assert len(run.rows()) == 4


def test_a_new_table_of_the_same_name_is_another(run: Runner) -> None:
    run(source(ROWS, "content"))
    run.lakehouse.catalog.drop_table("crm", "people")
    assert run(source(ROWS, "content")).state == "succeeded"
    assert run.rows() == as_rows(ROWS)


@pytest.mark.parametrize("exists", [False, True])
def test_twins_at_the_same_time_bring_the_rows_once(run: Runner, exists: bool) -> None:
    if exists:
        run(source({"id": [0], "name": ["first"]}))
    gate = threading.Barrier(4)

    class Waiting(ArrowBatches):
        def read(self, *args: Any, **kwargs: Any) -> Iterator[Piece]:
            yield from super().read(*args, **kwargs)
            gate.wait(30)

    ended: list[object] = []

    def work() -> None:
        table = pa.table(ROWS)
        ended.append(run(Waiting(table.schema, table.to_batches(), "a test", "content")).state)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["repeated"] * 3 + ["succeeded"]
    assert len(run.rows()) == 3 + exists


# -- rows that do not fit ----------------------------------------------------------------------------


class Picky:
    """Takes every row but each seventh; of those it tells."""

    system, described = "file", "numbers.csv"

    def __init__(self, count: int, identity: str = "") -> None:
        self.count = count
        self.identity = identity
        self.is_closed = False

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        columns = (SourceColumn("id", "id", pa.int64(), description="A number"),)
        keys = {"primary_key": ("id",), "foreign_keys": (ForeignKey("f", ("id",), "s", "t", ("id",)),)}
        return Inspection(columns, rows=self.count, description="Numbers", identity=self.identity, **keys)

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None = None,
    ) -> Iterator[Piece]:
        for start in range(0, self.count, 1000):
            numbers = range(start, min(start + 1000, self.count))
            if cancelled():
                raise StatementCancelled("cancelled")
            bad = [n for n in numbers if n % 7 == 0]
            if bad and on_error is OnError.FAIL:
                raise InvalidRequest(f"{self.described}, line {bad[0] + 1}: no number")
            rejected = [RejectedRow(self.described, n + 1, "id", "it is a seventh", f'"{n};\n"') for n in bad]
            kept = pa.record_batch([[n for n in numbers if n % 7]], schema=inspection.schema)
            yield Piece(kept, rejected)
            progress(start / self.count, f"{start} rows")

    def close(self) -> None:
        self.is_closed = True


def test_rejected_rows_are_kept_with_reason_and_line(run: Runner) -> None:
    record = run(Picky(10_000), on_error=OnError.REJECT)
    assert (record.rows_in, record.rows_stored, record.rows_rejected) == (10_000, 8571, 1429)
    assert record.rejects_table == "lake.crm.people_rejects"
    rejects = run.sql("SELECT * FROM lake.crm.people_rejects ORDER BY line")
    assert len(rejects) == 1429
    assert rejects[1] == {
        "run": record.id, "place": "numbers.csv", "line": 8, "column": "id",
        "reason": "it is a seventh", "content": '"7;\n"',
    }  # fmt: skip
    assert run.sql("SELECT count(*) AS n, sum(id % 7 = 0) AS bad FROM lake.crm.people") == [
        {"n": 8571, "bad": 0}
    ]


def test_a_row_that_does_not_fit_stops_the_ingest(run: Runner) -> None:
    picky = Picky(10)
    with pytest.raises(InvalidRequest, match="line 1"):
        run(picky)
    assert picky.is_closed
    assert not run.lakehouse.catalog.table_exists("crm", "people")
    [record] = run.ingests.newest()
    assert (record.state, record.error_code, record.rows_stored) == ("failed", "INVALID_REQUEST", 0)
    assert "line 1" in record.message


def test_what_a_source_says_of_itself_is_carried_over(run: Runner) -> None:
    run(Picky(100), on_error=OnError.REJECT)
    table = run.lakehouse.catalog.load("crm", "people")
    assert (table.description, table.primary_key) == ("Numbers", ("id",))
    assert table.column_docs == {"id": "A number"}


# -- columns -----------------------------------------------------------------------------------------


def test_new_columns_are_added_and_missing_ones_are_null(run: Runner) -> None:
    run(source(ROWS))
    run(source({"ID": [4], "mail": ["d@x"]}))
    assert run.rows()[0] == {"id": 1, "name": "Ann", "mail": None}
    assert run.rows()[3] == {"id": 4, "name": None, "mail": "d@x"}


def test_a_table_becomes_wider_only_where_that_is_wanted(run: Runner) -> None:
    run(source(pa.table({"id": pa.array([1], pa.int32())})))
    large = pa.table({"id": [2**40]})
    with pytest.raises(SchemaMismatch):
        run(source(large))
    run(source(large), evolve=Evolve.WIDEN)
    assert run.rows() == [{"id": 1}, {"id": 2**40}]


@pytest.mark.parametrize("columns", [{"id": [4]}, {**{n: v[:1] for n, v in ROWS.items()}, "more": [1]}])
def test_a_strict_ingest_wants_the_same_columns(run: Runner, columns: dict[str, Any]) -> None:
    run(source(ROWS))
    with pytest.raises(SchemaMismatch):
        run(source(columns), evolve=Evolve.STRICT)
    assert run.rows() == as_rows(ROWS)


def test_types_can_be_stated(run: Runner) -> None:
    record = run(source(ROWS), types={"ID": pa.int32()})
    assert record.columns[0].reason == "stated by the caller"
    assert run.lakehouse.catalog.load("crm", "people").arrow_schema().field("id").type == pa.int32()
    with pytest.raises(SchemaMismatch, match="'nope'"):
        run(source(ROWS), types={"nope": pa.int32()})


# -- on its way --------------------------------------------------------------------------------------


class Slow(Picky):
    """Goes on until it is stopped."""

    def __init__(self) -> None:
        super().__init__(10**9)

    def read(self, *args: Any, **kwargs: Any) -> Iterator[Piece]:
        for piece in super().read(*args, **kwargs):
            yield piece
            time.sleep(0.01)


def ended(ingests: Ingests, run_id: str) -> Any:
    deadline = time.monotonic() + 60
    while not (record := ingests.status(run_id)).state.is_over:
        assert time.monotonic() < deadline, record
        time.sleep(0.02)
    return record


def test_a_run_in_the_background_can_be_watched_and_cancelled(run: Runner) -> None:
    slow = Slow()
    request = IngestRequest(PEOPLE, on_error=OnError.REJECT)
    started = run.ingests.start(request, slow, run.lakehouse.anonymous)
    while not run.ingests.status(started.id).rows_in:
        time.sleep(0.01)
    assert run.ingests.status(started.id).state == "running"
    run.ingests.cancel(started.id)
    record = ended(run.ingests, started.id)
    assert (record.state, record.rows_stored) == ("cancelled", 0)
    assert record.rows_in > 0
    assert slow.is_closed
    assert not run.lakehouse.catalog.table_exists("crm", "people")


def test_another_server_can_tell_of_a_run_and_cancel_it(run: Runner) -> None:
    other = Ingests(run.lakehouse.engine, RunStore(run.lakehouse.bucket, SystemClock()), SystemClock())
    started = run.ingests.start(
        IngestRequest(PEOPLE, on_error=OnError.REJECT), Slow(), run.lakehouse.anonymous
    )
    while other.status(started.id).state != "running":
        time.sleep(0.05)
    other.cancel(started.id)
    assert ended(other, started.id).state == "cancelled"
    other.close()


def test_a_run_whose_server_is_gone_is_lost(run: Runner) -> None:
    record = run(source(ROWS))
    before = run.lakehouse.clock.now() - timedelta(hours=1)
    left = record.model_copy(update={"state": RunState.RUNNING, "seen_at": before, "ended_at": None})
    run.ingests.store.put(left)
    assert run.ingests.status(record.id).state == "lost"


def test_close_stops_what_runs(lakehouse: Lakehouse) -> None:
    ingests = Ingests(lakehouse.engine, RunStore(lakehouse.bucket, lakehouse.clock), lakehouse.clock, 1)
    request = IngestRequest(PEOPLE, on_error=OnError.REJECT)
    runs = [ingests.start(request, Slow(), lakehouse.anonymous) for _ in range(3)]
    ingests.close()
    assert {ingests.status(each.id).state for each in runs} == {"cancelled"}
    with pytest.raises(LakehouseError):
        ingests.start(request, Slow(), lakehouse.anonymous)


def test_an_unknown_run_is_an_error(run: Runner) -> None:
    for run_id in ("", "nope", "../../x", "0" * 14 + "-" + "0" * 8):
        with pytest.raises(RunNotFound):
            run.ingests.status(run_id)


def test_a_reader_may_not_ingest(run: Runner) -> None:
    reader = Principal("rita", frozenset({"reader"}))
    with pytest.raises(PermissionDenied):
        run.ingests.run(IngestRequest(PEOPLE), source(ROWS), reader, lambda: False, silent)
    assert not run.lakehouse.catalog.table_exists("crm", "people")


def test_no_rows_make_an_empty_table(run: Runner) -> None:
    record = run(source(pa.table(ROWS).slice(0, 0), "content"))
    assert (record.state, record.rows_in) == ("succeeded", 0)
    assert run.rows() == []


# -- old records ---------------------------------------------------------------------------------------

DAY_S = 86_400


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def store(tmp_path: Path, clock: FixedClock) -> RunStore:
    return RunStore(open_local_bucket("primary", tmp_path), clock)


def left(store: RunStore) -> list[str]:
    return [record.id for record in store.newest()][::-1]


def test_old_records_are_removed_but_for_the_newest(store: RunStore, clock: FixedClock) -> None:
    runs = []
    for _ in range(10):
        runs.append(put_run(store, clock))
        clock.time += timedelta(days=1)
    assert store.remove_old(20 * DAY_S, 0) == 0
    assert store.remove_old(5.5 * DAY_S, 8) == 2
    assert left(store) == runs[2:]
    assert store.remove_old(5.5 * DAY_S, 0) == 3
    assert store.remove_old(5.5 * DAY_S, 0) == 0
    assert left(store) == runs[5:]
    assert store.remove_old(1e15, 0) == 0
    with pytest.raises(RunNotFound):
        store.get(runs[0])


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING])
def test_what_goes_on_keeps_its_record(store: RunStore, clock: FixedClock, state: RunState) -> None:
    begun = put_run(store, clock, state)
    ended_late = put_run(store, clock)
    clock.time += timedelta(days=100)
    store.put(store.get(begun).model_copy(update={"state": state, "seen_at": clock.now()}))
    store.put(store.get(ended_late).model_copy(update={"ended_at": clock.now()}))
    lost = put_run(store, clock, state)
    assert store.remove_old(90 * DAY_S, 0) == 0
    clock.time += timedelta(days=91)
    store.put(store.get(begun).model_copy(update={"state": state, "seen_at": clock.now()}))
    assert store.remove_old(90 * DAY_S, 0) == 2
    assert left(store) == [begun]
    assert lost != begun


def test_requests_to_stop_go_with_their_runs(store: RunStore, clock: FixedClock, tmp_path: Path) -> None:
    over = put_run(store, clock)
    store.ask_to_stop(over)
    alone = put_run(store, clock)
    store.ask_to_stop(alone)
    (tmp_path / f"_ingest/runs/{alone}.json").unlink()
    spoiled = put_run(store, clock)
    (tmp_path / f"_ingest/runs/{spoiled}.json").write_text("{}")
    clock.time += timedelta(days=91)
    young = put_run(store, clock, RunState.RUNNING)
    store.ask_to_stop(young)
    assert store.remove_old(90 * DAY_S, 0) == 1
    names = sorted(each.name for each in (tmp_path / "_ingest/runs").iterdir())
    assert names == [f"{spoiled}.json", f"{young}.cancel", f"{young}.json"]


def test_so_many_records_at_a_time(
    store: RunStore, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.runs.store._MOST_REMOVED", 3)
    runs = [put_run(store, clock) for _ in range(5)]
    clock.time += timedelta(days=91)
    assert store.remove_old(90 * DAY_S, 0, stopped=lambda: True) == 0
    assert store.remove_old(90 * DAY_S, 0) == 3
    assert left(store) == runs[3:]
    assert store.remove_old(90 * DAY_S, 0) == 2


def test_two_servers_remove_the_same_records(store: RunStore, clock: FixedClock, tmp_path: Path) -> None:
    for _ in range(200):
        store.ask_to_stop(put_run(store, clock))
    clock.time += timedelta(days=91)
    kept = put_run(store, clock)
    stores = [RunStore(open_local_bucket("primary", tmp_path), clock) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        removed = [pool.submit(each.remove_old, 90 * DAY_S, 0) for each in stores]
        assert sum(each.result() for each in removed) >= 200
    assert [each.name for each in (tmp_path / "_ingest/runs").iterdir()] == [f"{kept}.json"]


def test_the_same_rows_come_once_though_nothing_is_known_of_their_run(tmp_path: Path) -> None:
    settings = Settings(
        buckets=[{"name": "primary", "path": tmp_path / "data"}],
        maintenance={"grace_seconds": 0, "expire_run_days": 90, "keep_runs": 0},
    )
    clock = FixedClock(SystemClock().now())
    lakehouse = Lakehouse(settings, clock)
    try:
        run = Runner(lakehouse, lakehouse.ingests)
        first = run(source(ROWS, "content"))
        run(source({"id": [4], "name": ["D"]}, "more"))
        vectors = put_run(lakehouse.vector_runs.store, clock)
        clock.time += timedelta(days=89)
        lakehouse.maintenance.run_once()
        assert run.ingests.status(first.id).state == "succeeded"
        clock.time += timedelta(days=2)
        lakehouse.maintenance.run_once()
        assert (left(run.ingests.store), left(lakehouse.vector_runs.store)) == ([], [])
        with pytest.raises(RunNotFound):
            lakehouse.vector_runs.status(vectors)
        again = run(source(ROWS, "content"))
        assert (again.state, again.snapshot_id) == ("repeated", first.snapshot_id)
        run.expire()
        assert run(source(ROWS, "content")).state == "repeated"
        assert len(run.rows()) == 4
        removals = [e["action"] for e in lakehouse.journal.recent(100) if e["action"].startswith("remove")]
        assert sorted(removals) == ["remove records of ingest runs", "remove records of vector runs"]
    finally:
        lakehouse.close()


# -- what a run leaves that fails ------------------------------------------------------------------------


class Meddled(ArrowBatches):
    """Rows of a table; between them and their end something happens."""

    def __init__(self, rows: dict[str, Any], then: Callable[[], object], *, comes_once: bool = False) -> None:
        self._table = pa.table(rows)
        super().__init__(self._table.schema, (), "a test", "")
        self._then = then
        self.comes_once = comes_once

    def read(self, *args: Any, **kwargs: Any) -> Iterator[Piece]:
        self._batches = iter(self._table.to_batches())
        yield from super().read(*args, **kwargs)
        self._then()


def fail() -> None:
    raise InvalidRequest("the last row does not fit")


def cancel() -> None:
    raise StatementCancelled("it was cancelled")


def columns(run: Runner) -> list[tuple[str, str]]:
    run.lakehouse.catalog.refresh("crm", "people")
    return list(run.lakehouse.catalog.load("crm", "people").sql_columns())


NEW = {"id": [3, 4], "name": ["X", "Y"], "town": ["Ulm", "Graz"]}
MERGED = [
    {"id": 1, "name": "Ann", "town": None},
    {"id": 2, "name": "Bo", "town": None},
    {"id": 3, "name": "X", "town": "Ulm"},
    {"id": 4, "name": "Y", "town": "Graz"},
]


@pytest.mark.parametrize("how", [fail, cancel])
@pytest.mark.parametrize("mode", list(IngestMode))
def test_a_schema_comes_with_its_table_only(run: Runner, mode: IngestMode, how: Callable[[], None]) -> None:
    with pytest.raises((InvalidRequest, StatementCancelled)):
        run(Meddled(ROWS, how), mode=mode, keys=("id",))
    assert not run.lakehouse.catalog.schema_exists("crm")
    seen = []
    rows = Meddled(ROWS, lambda: seen.append(run.lakehouse.catalog.schema_exists("crm")))
    run(rows, mode=mode, keys=("id",))
    assert seen == [False]
    assert run.rows() == as_rows(ROWS)


@pytest.mark.parametrize("mode", [IngestMode.CREATE, IngestMode.UPSERT])
def test_a_schema_that_others_make_meanwhile_is_taken(run: Runner, mode: IngestMode) -> None:
    made = Meddled(ROWS, lambda: run.execute("CREATE SCHEMA IF NOT EXISTS CRM"))
    assert run(made, mode=mode, keys=("id",)).state == "succeeded"
    assert run.rows() == as_rows(ROWS)
    assert [s for s in run.lakehouse.catalog.schemas() if s.lower() == "crm"] == ["CRM"]
    assert str(run.lakehouse.catalog.load("crm", "people").name) == "lake.CRM.people"


def test_a_schema_and_two_tables_come_at_once(run: Runner) -> None:
    assert run(Picky(100), on_error=OnError.REJECT).rows_rejected == 15
    assert run.lakehouse.catalog.tables("crm") == ["people", "people_rejects"]


def test_nobody_makes_a_schema_who_may_not_or_of_a_name_that_is_taken(run: Runner) -> None:
    for name in ("system", "a\0b"):
        request = IngestRequest(TableName("lake", name, "t"))
        with pytest.raises(InvalidRequest):
            run.ingests.run(request, source(ROWS), run.lakehouse.anonymous, lambda: False, silent)


@pytest.mark.parametrize("how", [fail, cancel])
@pytest.mark.parametrize("mode", [IngestMode.APPEND, IngestMode.UPSERT, IngestMode.REPLACE])
def test_columns_come_with_their_rows_only(run: Runner, mode: IngestMode, how: Callable[[], None]) -> None:
    run(source({"id": pa.array([1, 2, 3], pa.int32()), "name": ["Ann", "Bo", "Çelik"]}))
    before = columns(run)
    with pytest.raises((InvalidRequest, StatementCancelled)):
        run(Meddled(NEW, how), mode=mode, keys=("id",), evolve=Evolve.WIDEN)
    assert columns(run) == before == [("id", "INTEGER"), ("name", "VARCHAR")]
    # Another column of the same number must not be taken for that one.
    run.execute(f"ALTER TABLE {PEOPLE.sql} ADD COLUMN age INTEGER")
    assert [row["age"] for row in run.rows()] == [None] * 3


@pytest.mark.parametrize("mode", [IngestMode.APPEND, IngestMode.UPSERT])
@pytest.mark.parametrize("rejects", [False, True])
def test_columns_and_rows_come_in_one_commit(run: Runner, mode: IngestMode, rejects: bool) -> None:
    run(source({"id": pa.array([1, 2, 3], pa.int32()), "name": ["Ann", "Bo", "Çelik"]}), keys=("id",))
    table = run.lakehouse.catalog.load("crm", "people")
    rows = Rejecting(NEW) if rejects else source(NEW)
    record = run(rows, mode=mode, keys=("id",), evolve=Evolve.WIDEN, on_error=OnError.REJECT)
    after = run.lakehouse.catalog.load("crm", "people")
    assert (record.rows_stored, record.rows_rejected) == (2, rejects)
    assert len(after.metadata.metadata_log) == len(table.metadata.metadata_log) + 1
    assert len(after.snapshots()) == len(table.snapshots()) + 1
    assert after.snapshots()[-1].schema_id == after.schema_id
    assert columns(run) == [("id", "BIGINT"), ("name", "VARCHAR"), ("town", "VARCHAR")]
    assert after.primary_key == table.primary_key
    old = {"id": 3, "name": "Çelik", "town": None}
    expected = sorted([*MERGED, old], key=str) if mode is IngestMode.APPEND else sorted(MERGED, key=str)
    assert sorted(run.rows(), key=str) == expected
    assert run.sql(f"SELECT id FROM {PEOPLE.sql} AT (VERSION => {table.snapshot_id}) WHERE id > 2") == [
        {"id": 3}
    ]


class Rejecting(ArrowBatches):
    """Rows of a table, and one that is rejected."""

    def __init__(self, rows: dict[str, Any]) -> None:
        table = pa.table(rows)
        super().__init__(table.schema, table.to_batches(), "a test", "")

    def read(self, *args: Any, **kwargs: Any) -> Iterator[Piece]:
        for piece in super().read(*args, **kwargs):
            yield Piece(piece.batch, [RejectedRow("a test", 9, "id", "a test", "x")], piece.rows_in + 1)


@pytest.mark.parametrize("mode", [IngestMode.APPEND, IngestMode.UPSERT])
def test_a_new_column_is_what_all_rows_say_not_a_sample(
    run: Runner, tmp_path: Path, mode: IngestMode
) -> None:
    run(source({"id": [1, 2]}))
    path = tmp_path / "rows.csv"
    path.write_text("id,v\n" + "".join(f"{n},1\n" for n in range(3, 100)) + "100,x\n")
    options = FileOptions(limits=FileLimits(block_bytes=64, sample_bytes=64))
    record = run(FileSource([LocalFile(path)], options), mode=mode, keys=("id",))
    assert (record.rows_in, record.rows_stored) == (98, 98)
    assert columns(run) == [("id", "BIGINT"), ("v", "VARCHAR")]
    table = run.lakehouse.catalog.load("crm", "people")
    assert (len(run.rows()), len(table.metadata.schemas)) == (100, 2)


def test_a_column_comes_without_any_row(run: Runner) -> None:
    run(source(ROWS))
    run(source(pa.table(NEW).slice(0, 0)))
    assert [name for name, _ in columns(run)] == ["id", "name", "town"]
    assert run.rows() == [{**row, "town": None} for row in as_rows(ROWS)]


def test_a_table_that_must_not_be_there_keeps_its_columns(run: Runner) -> None:
    run(source(ROWS))
    with pytest.raises(TableAlreadyExists):
        run(source(NEW), mode=IngestMode.CREATE)
    assert [name for name, _ in columns(run)] == ["id", "name"]


ELSEWHERE = {
    "added": ("ADD COLUMN age INTEGER",),
    "the same": ("ADD COLUMN town VARCHAR",),
    "added and dropped": ("ADD COLUMN age INTEGER", "DROP COLUMN age"),
    "renamed there and back": ("RENAME name TO called", "RENAME called TO name"),
}


@pytest.mark.parametrize(
    ("mode", "elsewhere"),
    [
        *((IngestMode.APPEND, each) for each in ELSEWHERE),
        # The columns are not changed before all rows have come, so only what is still so then matters.
        *((IngestMode.UPSERT, each) for each in ("added", "the same")),
    ],
)
def test_columns_that_others_change_meanwhile_are_theirs(
    run: Runner, mode: IngestMode, elsewhere: str
) -> None:
    run(source({"id": [1, 2], "name": ["Ann", "Bo"]}))
    waiting = list(ELSEWHERE[elsewhere])

    def alter() -> None:
        while waiting:
            run.execute(f"ALTER TABLE {PEOPLE.sql} {waiting.pop(0)}")

    with pytest.raises(CommitConflict, match="changed by another writer"):
        run(Meddled(NEW, alter, comes_once=True), mode=mode, keys=("id",))
    theirs = {"added": ["age"], "the same": ["town"]}.get(elsewhere, [])
    assert [name for name, _ in columns(run)] == ["id", "name", *theirs]
    assert len(run.rows()) == 2
    waiting.append("ADD COLUMN size INTEGER")
    assert run(Meddled(NEW, alter), mode=mode, keys=("id",)).state == "succeeded"
    assert {name for name, _ in columns(run)} == {"id", "name", "town", "size", *theirs}
    assert [row["town"] for row in run.rows()] == [None, None, "Ulm", "Graz"]


def test_several_that_bring_the_same_column_all_bring_their_rows(run: Runner) -> None:
    run(source({"id": [0], "name": ["first"]}))
    gate = threading.Barrier(3)
    met: set[int] = set()

    def wait(number: int) -> None:
        if number not in met:
            met.add(number)
            gate.wait(30)

    def bring(number: int) -> str:
        rows = {"id": [number], "name": ["n"], "town": [f"T{number}"]}
        return str(run(Meddled(rows, lambda: wait(number))).state)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(bring, (1, 2, 3))) == ["succeeded"] * 3
    assert [row["town"] for row in run.rows()] == [None, "T1", "T2", "T3"]
    assert [name for name, _ in columns(run)] == ["id", "name", "town"]
