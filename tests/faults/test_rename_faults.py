"""Renames that fail half-way, and that race: one name leads to the table, never both, never none."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.clock import SystemClock
from lakehouse.errors import (
    CommitConflict,
    CommitStateUnknown,
    LakehouseError,
    StorageError,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.types import TableName

ROWS = pa.table({"n": [1, 2]})
COLUMNS = pa.schema([("n", pa.int64())])


def opened(root: Path, bucket: Bucket | None = None) -> IcebergCatalog:
    return IcebergCatalog(
        "lake", bucket or open_local_bucket("primary", root), "warehouse", SystemClock(), 0.0
    )


def write(
    catalog: IcebergCatalog, table: str, mode: WriteMode = WriteMode.CREATE, schema: str = "main"
) -> None:
    name = TableName("lake", schema, table)
    commit(catalog, stage(catalog, name, mode, ROWS.schema, ROWS.to_batches(), lambda: False))


def count(table: Table) -> int:
    with duckdb.connect() as connection:
        paths = [file.path for file in table.files()]
        return int(connection.execute("SELECT count(*) FROM read_parquet(?)", [paths]).fetchall()[0][0])


class FailingBucket(Bucket):
    """A bucket whose n-th call fails, before or after its work, and those that follow if it stays down."""

    def __init__(self, bucket: Bucket, fails_at: int, *, after: bool, stays: bool) -> None:
        super().__init__(bucket.name, bucket._store, bucket.uri, bucket._root, bucket._persist)
        self.left, self._after, self._stays = fails_at, after, stays

    def _fails(self) -> bool:
        self.left -= 1
        return self.left == 0 or (self._stays and self.left < 0)

    def _do(self, action: Callable[[], Any]) -> Any:
        fails = self._fails()
        if fails and not self._after:
            raise StorageError("injected")
        found = action()
        if fails:
            raise StorageError("injected")
        return found

    def get(self, key: str) -> bytes:
        return self._do(lambda: super(FailingBucket, self).get(key))

    def put(self, key: str, content: bytes, durable: bool = True) -> None:
        return self._do(lambda: super(FailingBucket, self).put(key, content, durable))

    def put_new(self, key: str, content: bytes) -> None:
        return self._do(lambda: super(FailingBucket, self).put_new(key, content))

    def exists(self, key: str) -> bool:
        return self._do(lambda: super(FailingBucket, self).exists(key))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.catalog.object_catalog._PATIENCE_S", 0.1)


@pytest.mark.parametrize(("after", "stays"), [(False, False), (True, True), (False, True)])
@pytest.mark.parametrize("call", range(1, 16))
def test_a_rename_that_storage_fails_leaves_one_name(
    tmp_path: Path, call: int, after: bool, stays: bool
) -> None:
    healthy = opened(tmp_path)
    healthy.create_schema("main")
    write(healthy, "a")
    bucket = FailingBucket(open_local_bucket("primary", tmp_path), 10**9, after=after, stays=stays)
    broken = opened(tmp_path, bucket)
    broken.load("main", "a")
    bucket.left = call
    told = None
    try:
        broken.rename("main", "a", "main", "b")
    except LakehouseError as error:
        told = error
    for each in (healthy, opened(tmp_path)):
        (name,) = each.tables("main")
        assert count(each.load("main", name)) == 2
        if told is None:
            assert name == "b"
        elif not isinstance(told, CommitStateUnknown | StorageError):
            assert name == "a"
    # Whatever was left behind, both names can be used again.
    (name,) = healthy.tables("main")
    other = "a" if name == "b" else "b"
    write(opened(tmp_path), other)
    assert opened(tmp_path).tables("main") == ["a", "b"]
    assert healthy.tables("main") == ["a", "b"]
    assert count(healthy.load("main", name)) == 2


def race(*actions: Callable[[], None]) -> list[LakehouseError | None]:
    told: list[LakehouseError | None] = [None] * len(actions)
    start = threading.Barrier(len(actions))

    def run(number: int) -> None:
        start.wait()
        try:
            actions[number]()
        except LakehouseError as error:
            told[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


@pytest.mark.parametrize("seed", range(4))
def test_of_renames_at_once_one_takes_place(tmp_path: Path, seed: int) -> None:
    first = opened(tmp_path)
    first.create_schema("main")
    write(first, "a")
    write(first, "b")
    rng = random.Random(seed)
    pairs = [(rng.choice("ab"), rng.choice("cd")) for _ in range(4)]
    told = race(*[lambda p=p: opened(tmp_path).rename("main", p[0], "main", p[1]) for p in pairs])  # type: ignore[misc]
    names = opened(tmp_path).tables("main")
    assert len(names) == 2
    won = [pair for pair, error in zip(pairs, told, strict=True) if error is None]
    assert {new for _, new in won} | ({"a", "b"} - {old for old, _ in won}) == set(names)
    assert len({old for old, _ in won}) == len(won)
    for error in told:
        assert error is None or isinstance(error, TableNotFound | TableAlreadyExists | CommitConflict)
    assert all(count(opened(tmp_path).load("main", name)) == 2 for name in names)


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_in_the_table_under_whichever_name(tmp_path: Path, seed: int) -> None:
    first = opened(tmp_path)
    first.create_schema("main")
    write(first, "a")
    writers = [opened(tmp_path) for _ in range(2)]
    told = race(
        *[lambda w=w: write(w, "a", WriteMode.APPEND) for w in writers],  # type: ignore[misc]
        lambda: opened(tmp_path).rename("main", "a", "main", "b"),
    )
    assert told[-1] is None
    assert opened(tmp_path).tables("main") == ["b"]
    kept = sum(error is None for error in told[:-1])
    assert count(opened(tmp_path).load("main", "b")) == 2 + 2 * kept


@pytest.mark.parametrize("seed", range(4))
def test_a_name_is_given_once(tmp_path: Path, seed: int) -> None:
    first = opened(tmp_path)
    first.create_schema("main")
    write(first, "a")
    told = race(
        lambda: write(opened(tmp_path), "b"),
        lambda: opened(tmp_path).create_view("main", "b", "SELECT 1 AS n", COLUMNS),
        lambda: opened(tmp_path).rename("main", "a", "main", "b"),
    )
    last = opened(tmp_path)
    assert sum(error is None for error in told) == 1, told
    assert len(last.tables("main")) + len(last.views("main")) == (1 if told[2] is None else 2)
    assert ("a" in last.tables("main")) == (told[2] is not None)


@pytest.mark.parametrize("seed", range(4))
def test_a_table_is_not_moved_into_a_schema_that_goes(tmp_path: Path, seed: int) -> None:
    first = opened(tmp_path)
    first.create_schema("main")
    first.create_schema("s")
    write(first, "a")
    told = race(
        lambda: opened(tmp_path).rename("main", "a", "s", "b"),
        lambda: opened(tmp_path).drop_schema("s"),
    )
    last = opened(tmp_path)
    tables = [t for schema in last.schemas() for t in last.tables(schema)]
    assert len(tables) == 1, told
    assert (tables == ["b"]) == (told[0] is None)
