"""Storage that fails, processes that die, writers that race: a commit is whole or not there, never twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket

from lakehouse.catalog import IcebergCatalog
from lakehouse.catalog.iceberg_catalog import FileLimits
from lakehouse.clock import SystemClock
from lakehouse.errors import (
    CommitStateUnknown,
    LakehouseError,
    ObjectAlreadyExists,
    SchemaNotEmpty,
    SchemaNotFound,
    StorageError,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import WriteMode, commit, discard, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

NAME = TableName("lake", "main", "t")
ROWS = pa.table({"n": list(range(600))})
SMALL_FILES = FileLimits(target_bytes=1000, rows_per_group=400)


def opened(root: Path, fails: Callable[[int, str], str | None] | None = None) -> IcebergCatalog:
    bucket = open_local_bucket("primary", root)
    if fails is not None:
        bucket = FaultyBucket(bucket, fails)
    return IcebergCatalog("lake", bucket, "warehouse", SystemClock(), refresh_s=0, limits=SMALL_FILES)


def write(catalog: IcebergCatalog, mode: WriteMode, rows: pa.Table = ROWS) -> None:
    staged = stage(catalog, NAME, mode, rows.schema, rows.to_batches(), lambda: False)
    try:
        commit(catalog, staged)
    except CommitStateUnknown:
        raise
    except LakehouseError:
        discard(catalog, staged)
        raise


def count(catalog: IcebergCatalog) -> int:
    """The rows of the table, read from its files; 0 when there is no table."""
    try:
        table = catalog.load("main", "t")
    except TableNotFound:
        return 0
    paths = [file.path for file in table.files()]
    if not paths:
        return 0
    with duckdb.connect() as connection:
        found = connection.execute("SELECT count(*) FROM read_parquet(?)", [paths]).fetchone()
    assert found is not None
    assert found[0] == table.record_count
    return int(found[0])


def data_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("warehouse/*/*/data/*"))


MODES = [WriteMode.CREATE, WriteMode.APPEND, WriteMode.REPLACE]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults by the hundred, without waiting for the disk or for better times."""
    real = time.sleep
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("mode", MODES)
def test_whichever_call_fails_once_the_write_is_whole_or_not_there(
    tmp_path: Path, mode: WriteMode, fault: str
) -> None:
    before, after = {"create": (0, 600), "append": (600, 1200), "replace": (600, 600)}[mode.value]
    outcomes = set()
    for number in range(1, calls_of(tmp_path / "all", mode) + 1):
        once = partial(fails_at, number, fault)
        healthy, catalog = prepared(tmp_path / str(number), mode, once)
        try:
            write(catalog, mode)
        except CommitStateUnknown:
            outcomes.add("unknown")
            assert count(healthy) in (before, after)
        except StorageError:
            outcomes.add("failed")
            assert count(healthy) == before, f"call {number} failed, and the rows are there"
            surplus = 0 if mode is WriteMode.CREATE else 2
            assert len(data_files(tmp_path / str(number))) == surplus, f"call {number} left files behind"
        else:
            outcomes.add("done")
            assert count(healthy) == after
        write(healthy, WriteMode.CREATE_APPEND)
        assert count(healthy) in (before + 600, after + 600), "the table is as good as new"
    assert {"failed", "done"} <= outcomes


def prepared(
    root: Path, mode: WriteMode, fails: Callable[[int, str], str | None]
) -> tuple[IcebergCatalog, IcebergCatalog]:
    """A catalog that works, with a table where the mode needs one, and one that fails on the same bucket."""
    healthy = opened(root)
    healthy.create_schema("main")
    if mode is not WriteMode.CREATE:
        write(healthy, WriteMode.CREATE)
    return healthy, opened(root, fails)


def fails_at(number: int, fault: str, call: int, _: str) -> str | None:
    return fault if call == number else None


def calls_of(root: Path, mode: WriteMode) -> int:
    """How many calls of storage a write takes when none of them fails."""
    _, catalog = prepared(root, mode, lambda _, __: None)
    write(catalog, mode)
    assert isinstance(catalog.bucket, FaultyBucket)
    return catalog.bucket.calls


@pytest.mark.parametrize("seed", range(12))
def test_under_faults_at_random_nothing_is_lost_and_nothing_twice(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    healthy = opened(tmp_path)
    healthy.create_schema("main")
    write(healthy, WriteMode.CREATE, ROWS.slice(0, 1))
    catalog = opened(tmp_path, lambda _, __: rng.choice(["before", "after"]) if rng.random() < 0.08 else None)
    expected, unknown = {0}, 0
    for number in range(1, 40):
        rows = pa.table({"n": [number]})
        try:
            write(catalog, WriteMode.APPEND, rows)
        except CommitStateUnknown:
            unknown += 1
        except StorageError:
            continue
        else:
            expected.add(number)
    found = values(healthy)
    assert len(found) == len(set(found)), f"seed {seed}: rows are there twice"
    assert expected <= set(found), f"seed {seed}: rows are lost"
    assert len(set(found) - expected) <= unknown, f"seed {seed}: rows that were said to be refused are there"


def values(catalog: IcebergCatalog) -> list[int]:
    paths = [file.path for file in catalog.load("main", "t").files()]
    with duckdb.connect() as connection:
        return [n for (n,) in connection.execute("SELECT n FROM read_parquet(?)", [paths]).fetchall()]


def test_a_commit_whose_answer_is_lost_is_recognised(tmp_path: Path) -> None:
    opened(tmp_path).create_schema("main")
    lost = []

    def fails(_: int, what: str) -> str | None:
        if what == "put_new" and not lost:
            lost.append(what)
            return "after"
        return None

    healthy = opened(tmp_path)
    write(healthy, WriteMode.CREATE)
    catalog = opened(tmp_path)
    rows = stage(catalog, NAME, WriteMode.APPEND, ROWS.schema, ROWS.to_batches(), lambda: False)
    catalog.objects._bucket = FaultyBucket(catalog.bucket, fails)
    commit(catalog, rows)
    assert lost
    assert count(healthy) == 1200
    commit(catalog, rows)
    assert count(healthy) == 1200


def test_a_commit_that_cannot_be_looked_up_is_said_to_be_unknown_and_keeps_its_files(tmp_path: Path) -> None:
    healthy = opened(tmp_path)
    healthy.create_schema("main")
    write(healthy, WriteMode.CREATE)
    broken = []

    def fails(_: int, what: str) -> str | None:
        if what == "put_new":
            broken.append(what)
            return "after"
        return "before" if broken else None

    catalog = opened(tmp_path)
    rows = stage(catalog, NAME, WriteMode.APPEND, ROWS.schema, ROWS.to_batches(), lambda: False)
    catalog.objects._bucket = FaultyBucket(catalog.bucket, fails)
    with pytest.raises(CommitStateUnknown):
        commit(catalog, rows)
    assert count(healthy) == 1200, "it had taken place"
    assert commit(healthy, rows).rows == 600
    assert count(healthy) == 1200, "and is recognised by who tries again"


def test_a_disk_that_is_full_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file size is a real error of the operating system in the middle of a file."""
    script = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        rows = pa.table({"n": [bytes(str(n) * 30, "ascii") for n in range(100_000)]})
        try:
            write(rows)
        except LakehouseError as error:
            print(error.code, error)
    """
    opened(tmp_path).create_schema("main")
    answer = run(tmp_path, script).communicate(timeout=200)[0]
    assert answer.startswith("STORAGE_UNAVAILABLE"), answer
    assert "file too large" in answer
    assert str(tmp_path) not in answer
    assert data_files(tmp_path) == []
    assert not opened(tmp_path).table_exists("main", "t")


PRELUDE = """
    import sys, threading, time
    import pyarrow as pa
    from lakehouse.catalog import IcebergCatalog
    from lakehouse.clock import SystemClock
    from lakehouse.errors import LakehouseError
    from lakehouse.ingest import WriteMode, commit, stage
    from lakehouse.storage import open_local_bucket
    from lakehouse.types import TableName

    catalog = IcebergCatalog("lake", open_local_bucket("primary", sys.argv[1]), "warehouse", SystemClock())
    NAME = TableName("lake", "main", "t")

    def staged(rows, mode=WriteMode.CREATE_APPEND):
        return stage(catalog, NAME, mode, rows.schema, rows.to_batches(), lambda: False)

    def write(rows, mode=WriteMode.CREATE_APPEND):
        return commit(catalog, staged(rows, mode))
"""


def run(root: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", text, str(root), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_two_processes_of_four_threads_append_and_every_row_is_there_once(tmp_path: Path) -> None:
    opened(tmp_path).create_schema("main")
    write(opened(tmp_path), WriteMode.CREATE, ROWS.slice(0, 0))
    script = """
        process = int(sys.argv[2])

        def work(thread):
            for number in range(6):
                write(pa.table({"n": [process * 100 + thread * 10 + number] * 3}), WriteMode.APPEND)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print("done")
    """
    processes = [run(tmp_path, script, str(number)) for number in range(2)]
    assert [process.communicate(timeout=200)[0] for process in processes] == ["done\n"] * 2
    found = values(opened(tmp_path))
    wanted = [p * 100 + t * 10 + n for p in range(2) for t in range(4) for n in range(6)]
    assert sorted(found) == sorted(wanted * 3)
    assert len(opened(tmp_path).load("main", "t").snapshots()) == 48
    manifests = list(tmp_path.rglob("snap-*.avro"))
    assert len(manifests) == 48, "attempts that lost leave no manifest lists behind"


def test_append_survives_kill_between_upload_and_commit(tmp_path: Path) -> None:
    healthy = opened(tmp_path)
    healthy.create_schema("main")
    write(healthy, WriteMode.CREATE)
    process = run(tmp_path, "staged(pa.table({'n': [1]})); print('staged', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "staged\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert count(opened(tmp_path)) == 600
    write(healthy, WriteMode.APPEND)
    assert count(opened(tmp_path)) == 1200


def test_processes_killed_at_any_moment_leave_whole_commits_only(tmp_path: Path) -> None:
    healthy = opened(tmp_path)
    healthy.create_schema("main")
    write(healthy, WriteMode.CREATE, ROWS.slice(0, 0))
    rng = random.Random(5)
    script = """
        for number in range(10_000):
            write(pa.table({"n": [number] * 10}), WriteMode.APPEND)
            print(number, flush=True)
    """
    told = 0
    for _ in range(2):
        process = run(tmp_path, script)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.002)
        threading.Event().wait(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        told += 1 + len(process.communicate()[0].splitlines())
        rows = count(opened(tmp_path))
        assert rows % 10 == 0
        assert rows >= told * 10
    write(healthy, WriteMode.APPEND)
    assert count(opened(tmp_path)) == rows + 600


def test_of_many_creations_of_one_table_one_succeeds(tmp_path: Path) -> None:
    catalogs = [opened(tmp_path) for _ in range(4)]
    catalogs[0].create_schema("main")
    outcomes: list[str] = []

    def create(catalog: IcebergCatalog) -> None:
        try:
            write(catalog, WriteMode.CREATE)
        except TableAlreadyExists:
            outcomes.append("exists")
        else:
            outcomes.append("created")

    together(*(lambda c=catalog: create(c) for catalog in catalogs))
    assert sorted(outcomes) == ["created", "exists", "exists", "exists"]
    assert count(catalogs[0]) == 600
    assert len(data_files(tmp_path)) == 2


def test_drops_and_appends_that_race_leave_a_table_that_makes_sense(tmp_path: Path) -> None:
    for number in range(8):
        root = tmp_path / str(number)
        one, two = opened(root), opened(root)
        one.create_schema("main")
        write(one, WriteMode.CREATE)
        outcomes: dict[str, str] = {}

        def append(catalog: IcebergCatalog = one, told: dict[str, str] = outcomes) -> None:
            try:
                write(catalog, WriteMode.APPEND)
            except TableNotFound:
                told["append"] = "gone"

        def drop(catalog: IcebergCatalog = two) -> None:
            catalog.drop_table("main", "t")

        together(append, drop)
        assert not opened(root).table_exists("main", "t"), "a drop is never undone by an append"
        write(one, WriteMode.CREATE)
        assert count(two) == 600


def test_a_schema_is_not_dropped_from_under_a_table_that_is_being_created(tmp_path: Path) -> None:
    for number in range(12):
        root = tmp_path / str(number)
        one, two = opened(root), opened(root)
        one.create_schema("main")
        outcomes: set[str] = set()

        def create(catalog: IcebergCatalog = one, told: set[str] = outcomes) -> None:
            try:
                write(catalog, WriteMode.CREATE)
                told.add("created")
            except SchemaNotFound:
                pass

        def drop(catalog: IcebergCatalog = two, told: set[str] = outcomes) -> None:
            try:
                catalog.drop_schema("main")
                told.add("dropped")
            except SchemaNotEmpty:
                pass

        together(create, drop)
        assert outcomes != {"created", "dropped"}
        healthy = opened(root)
        assert healthy.schema_exists("main") == ("dropped" not in outcomes)
        if "created" in outcomes:
            assert count(healthy) == 600


@pytest.mark.parametrize("left", [b"", bytes(4096)])
def test_an_empty_slot_left_by_a_power_failure_is_passed_over(tmp_path: Path, left: bytes) -> None:
    catalog = opened(tmp_path)
    catalog.create_schema("main")
    write(catalog, WriteMode.CREATE)
    (tmp_path / "warehouse/main/t/metadata/v2.metadata.json").write_bytes(left)
    afresh = opened(tmp_path)
    assert count(afresh) == 600
    write(afresh, WriteMode.APPEND)
    assert count(opened(tmp_path)) == count(catalog) == 1200
    first = tmp_path / "warehouse/main/u/metadata/v1.metadata.json"
    first.parent.mkdir(parents=True)
    first.write_bytes(left)
    assert not catalog.table_exists("main", "u")
    assert catalog.tables("main") == ["t"]


def test_what_is_confirmed_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[str] = set()
    names = {}

    def opening(path: Any, *arguments: Any) -> int:
        descriptor = os_open(path, *arguments)
        names[descriptor] = str(path)
        return descriptor

    os_open = os.open
    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(names[descriptor]))
    catalog = opened(tmp_path)
    catalog.create_schema("main")
    write(catalog, WriteMode.CREATE)
    hint = tmp_path / "warehouse/main/t/metadata/version-hint.text"
    made = {str(path) for path in tmp_path.rglob("*") if path != hint}
    assert made <= flushed


def test_create_only_has_one_winner(tmp_path: Path) -> None:
    bucket = open_local_bucket("primary", tmp_path)
    won: list[int] = []

    def put(number: int) -> None:
        try:
            bucket.put_new("a/b", str(number).encode())
        except ObjectAlreadyExists:
            return
        won.append(number)

    together(*(lambda n=number: put(n) for number in range(16)))
    assert [bucket.get("a/b")] == [str(number).encode() for number in won]


def together(*actions: Callable[[], None]) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(actions))

    def guarded(action: Callable[[], None]) -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
