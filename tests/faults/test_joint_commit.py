"""A transaction over several tables: wherever a process dies or storage fails, all of it is there or none."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pyarrow as pa
import pytest
from faults.mortal import Death, Lake, copy

from lakehouse.catalog import object_catalog
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import CommitConflict, CommitStateUnknown, StorageError
from lakehouse.ingest import WriteMode
from lakehouse.types import TableName

TABLES = ("a", "b", "gone")
READS = ("get", "size", "list")
TRANSACTION = [
    "begin",
    "update b set n = n - 10 where k = 1",
    "update a set n = n + 10 where k = 1",
    "insert into a values (2, 0)",
    "drop table gone",
    "commit",
]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    real = time.sleep
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))
    monkeypatch.setattr(object_catalog, "_PATIENCE_S", 0.01)


def prepared(root):
    lake = Lake(root)
    for name in TABLES:
        table = pa.table({"k": [1], "n": [100]})
        scope = Scope(lake.session, None, CallWatch())
        where = TableName("lake", "main", name)
        lake.lakehouse.engine.changes.ingest(scope, where, WriteMode.CREATE, table.schema, table.to_batches())
    lake.close()


def state(lake):
    """The rows of every table, and which tables there are."""
    found = {}
    for name in lake.lakehouse.catalog.tables("main"):
        found[name] = [tuple(row.values()) for row in lake.rows(f"select k, n from {name} order by k")]
    return found


BEFORE = {name: [(1, 100)] for name in TABLES}
AFTER = {"a": [(1, 110), (2, 0)], "b": [(1, 90)]}


def created(lake):
    """Ingest within a transaction makes a table."""
    scope = Scope(lake.session, lake.session.sql_transaction, CallWatch())
    table = pa.table({"k": [7], "n": [7]})
    where = TableName("lake", "main", "fresh")
    lake.lakehouse.engine.changes.ingest(scope, where, WriteMode.CREATE, table.schema, table.to_batches())


def test_whichever_step_is_the_last_all_tables_have_changed_or_none(tmp_path):
    root, outcomes, answered, last = tmp_path / "lake", set(), False, 0
    prepared(root)
    copy(root, tmp_path / "pristine")
    after = {**AFTER, "fresh": [(7, 7)]}
    while not answered:
        last += 1
        shutil.rmtree(root)
        copy(tmp_path / "pristine", root)
        death = Death(last)
        victim, observer = Lake(root, death), Lake(root)
        assert state(observer) == BEFORE

        def run(sql, victim=victim):
            victim.run(sql)
            if sql == "begin":
                created(victim)

        answered = death.strikes(run, TRANSACTION)
        victim.close()
        found = state(observer)
        assert found in (BEFORE, after), f"killed at step {last}"
        assert found == after or not answered
        outcomes.add(found == after)
        restarted = Lake(root)
        assert state(restarted) == found, "a server that knew the tables and one that starts agree"
        restarted.run("insert into a values (9, 9)")
        restarted.run("insert into b values (9, 9)")
        observer.run("update a set n = n + 1 where k = 9")
        assert state(observer)["a"] == [*found["a"], (9, 10)]
        assert state(restarted)["b"] == [*found["b"], (9, 9)]
        observer.close()
        restarted.close()
    assert outcomes == {True, False}
    assert last > 20


@pytest.mark.parametrize("fault", ["before", "after"])
def test_whichever_call_fails_all_tables_have_changed_or_none(fault, tmp_path):
    root, number, calls, failures = tmp_path / "lake", 0, None, set()
    prepared(root)
    copy(root, tmp_path / "pristine")
    while calls is None or number < calls:
        number += 1
        shutil.rmtree(root)
        copy(tmp_path / "pristine", root)
        count, counting = [0], [False]

        def fails(_, what, number=number, count=count, counting=counting):
            # What was only read is the same whether the answer was lost or never given.
            counted = counting[0] and (fault == "before" or what not in READS)
            count[0] += counted
            return fault if counted and count[0] == number else None

        victim, observer = Lake(root, fails), Lake(root)
        for sql in TRANSACTION[:-1]:
            victim.run(sql)
        counting[0] = True
        try:
            victim.run("commit")
        except CommitStateUnknown:
            failures.add("unknown")
            assert state(observer) in (BEFORE, AFTER)
        except StorageError:
            failures.add("failed")
            assert state(observer) == BEFORE, f"call {number}"
        else:
            assert state(observer) == AFTER, f"call {number}"
            calls = calls or max(count[0], number)
        counting[0] = False
        observer.run("insert into a values (9, 9)")
        victim.close()
        observer.close()
        if count[0] < number:
            break
    assert "failed" in failures


def test_a_promise_that_stays_undecided_is_neither_seen_nor_in_the_way(tmp_path, monkeypatch):
    prepared(tmp_path)
    dying, other = Lake(tmp_path), Lake(tmp_path)
    monkeypatch.setattr(dying.lakehouse.catalog.objects, "decide", _die)
    for sql in TRANSACTION[:-1]:
        dying.run(sql)
    with pytest.raises(SystemExit):
        dying.run("commit")
    assert state(other) == BEFORE
    other.run("update a set n = 1")
    assert state(other)["a"] == [(1, 1)]
    for lake in (dying, other):
        lake.close()


def _die(*_, **__):
    raise SystemExit


def test_one_who_was_aborted_while_it_was_slow_is_told_and_can_try_again(tmp_path, monkeypatch):
    prepared(tmp_path)
    slow, other = Lake(tmp_path), Lake(tmp_path)
    decide = slow.lakehouse.catalog.objects.decide

    def late(promise, *, commit):
        if commit:
            other.run("update a set n = n + 1")
        return decide(promise, commit=commit)

    monkeypatch.setattr(slow.lakehouse.catalog.objects, "decide", late)
    for sql in TRANSACTION[:-1]:
        slow.run(sql)
    with pytest.raises(CommitConflict, match="try again"):
        slow.run("commit")
    assert state(other) == {**BEFORE, "a": [(1, 101)]}
    monkeypatch.undo()
    for sql in TRANSACTION:
        slow.run(sql)
    assert state(other) == {"a": [(1, 111), (2, 0)], "b": [(1, 90)]}
    for lake in (slow, other):
        lake.close()


def test_transfers_that_race_keep_the_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(object_catalog, "_PATIENCE_S", 5.0)
    prepared(tmp_path)
    lakes = [Lake(tmp_path) for _ in range(2)]
    done = []

    def transfer(lake, number):
        session = lake.lakehouse.sessions.get(f"transfer {number}", lake.lakehouse.anonymous)
        engine = lake.lakehouse.engine

        def run(sql):
            scope = Scope(session, session.sql_transaction, CallWatch())
            return engine.changes.run(engine.gate.analyse(sql), scope)

        source, target = ("a", "b") if number % 2 else ("b", "a")
        for _ in range(4):
            try:
                run("begin")
                run(f"update {source} set n = n - 1")
                run(f"update {target} set n = n + 1")
                run("commit")
                done.append(1 if number % 2 else -1)
            except CommitConflict:
                pass

    threads = [threading.Thread(target=transfer, args=(lakes[n % 2], n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    found = state(lakes[0])
    assert found["a"] == [(1, 100 - sum(done))]
    assert found["b"] == [(1, 100 + sum(done))]
    for lake in lakes:
        lake.close()
