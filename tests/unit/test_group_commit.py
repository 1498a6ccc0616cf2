"""Inserts that share a commit: each stored for good when it is answered, or not at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog
from lakehouse.clock import SystemClock
from lakehouse.errors import CommitConflict, LakehouseError, SchemaMismatch, StorageError
from lakehouse.ingest import GroupCommit, WriteMode, commit, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

NAME = TableName("lake", "main", "t")
ROWS = pa.schema([("k", pa.int64()), ("s", pa.string())])


@pytest.fixture
def catalog(tmp_path):
    opened = IcebergCatalog("lake", open_local_bucket("primary", tmp_path), "warehouse", SystemClock(), 0.0)
    opened.create_schema("main")
    commit(opened, stage(opened, NAME, WriteMode.CREATE, ROWS, [], lambda: False))
    return opened


def rows(*keys):
    return pa.table({"k": pa.array(keys, pa.int64()), "s": pa.array([f"ä{key}" for key in keys])})


def stored(catalog):
    table = catalog.objects.load_table(("main", "t")).scan().to_arrow()
    return sorted(table["k"].to_pylist())


def waiting(group):
    return sum(len(queue.waiting) for queue in group._queues.values())


def all_at_once(catalog, group, additions):
    """Add while a commit is held up, so that all but the first share the next; gives what each raised."""
    table = catalog.load("main", "t")

    def add(addition):
        try:
            group.add(table, addition)
        except LakehouseError as error:
            return error
        return None

    def until(condition, answers):
        pause = threading.Event()
        while not condition() and not any(answer.done() for answer in answers):
            pause.wait(0.005)

    with ThreadPoolExecutor(len(additions)) as threads:
        with catalog.committing("main", "t"):
            first = threads.submit(add, additions[0])
            # It commits what it finds waiting, so the others come once it has begun.
            until(lambda: group._queues and not waiting(group), [first])
            answers = [first, *(threads.submit(add, addition) for addition in additions[1:])]
            until(lambda: waiting(group) == len(additions) - 1, answers)
        return [answer.result() for answer in answers]


def test_what_comes_during_a_commit_goes_together(catalog):
    assert all_at_once(catalog, GroupCommit(catalog), [rows(n, 100 + n) for n in range(12)]) == [None] * 12
    assert stored(catalog) == sorted([*range(12), *range(100, 112)])
    table = catalog.load("main", "t")
    assert len(table.snapshots()) == 2
    assert len(table.files()) == 2


def test_a_value_that_does_not_fit_fails_its_own_insert_only(catalog):
    group = GroupCommit(catalog)
    wrong = pa.table({"k": pa.array(["x"]), "s": pa.array(["y"])})
    with pytest.raises(SchemaMismatch):
        group.add(catalog.load("main", "t"), wrong)
    answers = all_at_once(catalog, group, [rows(1), rows(2)])
    assert answers == [None, None]
    assert stored(catalog) == [1, 2]


def test_when_storage_fails_everybody_who_shared_the_commit_is_told(catalog, monkeypatch):
    put_new, calls = catalog.bucket.put_new, []

    def failing(key, content):
        calls.append(key)
        if "metadata.json" in key:
            raise StorageError("the disk is full")
        return put_new(key, content)

    monkeypatch.setattr(catalog.bucket, "put_new", failing)
    answers = all_at_once(catalog, GroupCommit(catalog), [rows(n) for n in range(5)])
    assert [type(answer) for answer in answers] == [StorageError] * 5
    monkeypatch.undo()
    assert stored(catalog) == []
    GroupCommit(catalog).add(catalog.load("main", "t"), rows(7))
    assert stored(catalog) == [7]


def test_an_insert_seen_on_other_columns_is_sent_again(catalog):
    seen = catalog.load("main", "t")
    replaced = stage(catalog, NAME, WriteMode.REPLACE, pa.schema([("other", pa.int64())]), [], lambda: False)
    commit(catalog, replaced)
    with pytest.raises(CommitConflict, match="were changed by another writer"):
        GroupCommit(catalog).add(seen, rows(1))


def test_nothing_is_kept_of_tables_that_nobody_writes(catalog):
    group = GroupCommit(catalog)
    group.add(catalog.load("main", "t"), rows(1))
    assert group._queues == {}
