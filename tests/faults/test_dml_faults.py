"""A process killed at any step of a statement: after a restart its effect is wholly there or not at all."""

from __future__ import annotations

import os
import shutil
import time

import pyarrow as pa
import pytest
from faults.mortal import Death, Lake, copy

from lakehouse.ingest import WriteMode
from lakehouse.types import TableName

NAME = TableName("lake", "main", "t")
STATEMENTS = {
    "small insert": ["insert into t values (9000, 'new', 1.5)"],
    "large insert": ["insert into t select range + 10000, 'many', 0.5 from range(15000)"],
    "insert returning": ["insert into t values (1, 'x', 0), (2, 'y', 0) returning k"],
    "update": ["update t set s = 'changed' where k % 7 = 0"],
    "update of one file": ["update t set s = s || '!', x = -x where k between 10 and 20"],
    "delete": ["delete from t where k > 50 and k < 250"],
    "delete of everything": ["delete from t"],
    "merge": [
        """merge into t using (select range * 40 as k from range(20)) q on t.k = q.k
        when matched then update set s = 'm' when not matched then insert values (q.k, 'n', 0)"""
    ],
    "transaction": [
        "begin",
        "insert into t values (9000, 'new', 1.5)",
        "update t set x = x + 1 where k in (0, 299, 9000)",
        "delete from t where k = 150",
        "commit",
    ],
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """Faults by the hundred, without waiting for the disk or for better times."""
    real = time.sleep
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))


def prepared(root):
    """Make a table of three files; gives its rows."""
    lake = Lake(root)
    for part in range(3):
        keys = range(part * 100, part * 100 + 100)
        table = pa.table({"k": keys, "s": [f"s{k}" for k in keys], "x": [k / 4 for k in keys]})
        mode = WriteMode.APPEND if part else WriteMode.CREATE
        lake.lakehouse.engine.changes.ingest(lake.scope(), NAME, mode, table.schema, table.to_batches())
    rows = lake.rows()
    lake.close()
    return rows


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
@pytest.mark.parametrize("statement", STATEMENTS)
def test_whichever_step_is_the_last_the_statement_is_whole_or_absent(statement, tmp_path):
    root = tmp_path / "lake"
    before = prepared(root)
    copy(root, tmp_path / "pristine")
    expected, answered, last = None, False, 0
    while not answered:
        last += 1
        death = Death(last)
        shutil.rmtree(root)
        copy(tmp_path / "pristine", root)
        victim = Lake(root, death)
        victim.rows()
        answered = death.strikes(victim.run, STATEMENTS[statement])
        victim.close()
        restarted = Lake(root)
        found = restarted.rows()
        if found != before:
            expected = expected or found
        assert found in (before, expected), f"{statement}: half of it is there, killed at step {last}"
        assert found == expected or not answered, f"{statement}: answered, but not there"
        restarted.run("insert into t values (-1, 'later', 0)")
        assert len(restarted.rows()) == len(found) + 1
        restarted.close()
    assert last > 3
