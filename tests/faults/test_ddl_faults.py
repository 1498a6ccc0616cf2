"""A process killed at any step of DDL: after a restart the change is wholly there or not at all."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from faults.mortal import Death, Lake, copy

from lakehouse.errors import TableNotFound

STATEMENTS = {
    "create": ["create table u (k int primary key, s varchar default 'x') sorted by (k)"],
    "create as": ["create table u as select range as k, 'new' as s from range(20000)"],
    "replace": ["create or replace table t (k int primary key, z date) sorted by (z)"],
    "replace as": ["create or replace table t as select k, k * 2 as twice from t"],
    "add": ["alter table t add column more struct(a int)"],
    "not null": ["alter table t alter column s set not null"],
    "transaction": ["begin", "create table u as from t", "insert into u (k) values (7)", "commit"],
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """Faults by the hundred, without waiting for the disk or for better times."""
    real = time.sleep
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))


def state(lake):
    """Rows and declarations of both tables; None for one that is not there."""
    found = {}
    for name in ("t", "u"):
        try:
            rows = lake.rows(f"from {name} order by all")
            table = lake.lakehouse.catalog.load("main", name)
        except TableNotFound:
            found[name] = None
            continue
        order = [str(field) for field in table.metadata.sort_order().fields]
        declared = (table.arrow_schema(), table.primary_key, dict(table.column_defaults), order)
        found[name] = (rows, declared, dict(table.column_docs))
    return found


@pytest.mark.parametrize("statement", STATEMENTS)
def test_whichever_step_is_the_last_the_change_is_whole_or_absent(statement, tmp_path):
    root, pristine = tmp_path / "lake", tmp_path / "pristine"
    first = Lake(root)
    first.run("create table t as select range::int as k, 's' || range as s from range(300)")
    before = state(first)
    first.close()
    copy(root, pristine)
    expected, answered, last = None, False, 0
    while not answered:
        last += 1
        death = Death(last)
        shutil.rmtree(root)
        copy(pristine, root)
        victim = Lake(root, death)
        victim.rows()
        answered = death.strikes(victim.run, STATEMENTS[statement])
        victim.close()
        restarted = Lake(root)
        found = state(restarted)
        if found != before:
            expected = expected or found
        assert found in (before, expected), f"{statement}: half of it is there, killed at step {last}"
        assert found == expected or not answered, f"{statement}: answered, but not there"
        restarted.run("alter table t add column if not exists later int")
        restarted.close()
    assert last > 1
