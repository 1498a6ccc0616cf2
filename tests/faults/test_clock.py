"""A server whose clock goes backwards writes the same rows, and a history in the right order."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import pairwise

import pytest
from lake_tables import put

from lakehouse.catalog.references import roll_back
from lakehouse.config import Settings
from lakehouse.ingest import WriteMode
from lakehouse.maintenance.cleanup import Cleaner
from lakehouse.runtime import Lakehouse

BACK_S = 3600
REAL = time.time


@pytest.fixture
def lakes(tmp_path):
    settings = Settings(buckets=[{"path": tmp_path}], catalog={"refresh_ms": 0}, audit={"enabled": False})
    opened = [Lakehouse(settings) for _ in range(2)]
    yield opened
    for each in opened:
        each.close()


def test_commits_keep_their_order_whatever_the_clock_says(lakes, monkeypatch):
    turned_back = 0
    monkeypatch.setattr(time, "time", lambda: REAL() - turned_back)
    for turn in range(6):
        put(lakes[turn % 2], "t", {"n": [turn]})
        turned_back += BACK_S
    catalog = lakes[0].catalog
    table = catalog.load("main", "t")
    snapshots = table.metadata.snapshots
    assert [s.sequence_number for s in snapshots] == [1, 2, 3, 4, 5, 6]
    assert all(a.timestamp_ms < b.timestamp_ms for a, b in pairwise(snapshots))
    assert all(a.timestamp_ms < b.timestamp_ms for a, b in pairwise(table.metadata.snapshot_log))
    for number, entry in enumerate(table.metadata.snapshot_log, 1):
        assert sum(file.rows for file in table.files(entry.snapshot_id)) == number
        then = catalog.objects.version_at("main", "t", catalog.objects.head("main", "t"), entry.timestamp_ms)
        assert then.current_snapshot_id == entry.snapshot_id, "the version of a time is that of the time"
    roll_back(catalog, table, snapshots[2].snapshot_id)
    put(lakes[1], "t", {"n": [6]}, WriteMode.APPEND)
    log = catalog.load("main", "t").metadata.snapshot_log
    assert all(a.timestamp_ms < b.timestamp_ms for a, b in pairwise(log))


def test_nothing_that_is_needed_is_removed_by_a_clock_that_is_behind(lakes, monkeypatch, tmp_path):
    for turn in range(3):
        put(lakes[0], "t", {"n": [turn]})
    monkeypatch.setattr(time, "time", lambda: REAL() - 24 * BACK_S)
    put(lakes[1], "t", {"n": [3]})
    catalog = lakes[1].catalog
    cleaner = Cleaner(catalog, set, timedelta())
    cleaner.expire("main", "t", catalog.clock.now() + timedelta(days=1), 1)
    cleaner.remove_orphans("main", "t", timedelta(seconds=-60), lambda *_: None, lambda: False)
    for lake in (*lakes, Lakehouse(lakes[0].settings)):
        table = lake.catalog.load("main", "t")
        assert sum(file.rows for file in table.files()) == 4
        assert all((tmp_path / lake.bucket.key_of(file.uri)).exists() for file in table.files())
    lake.close()
