"""Temporary tables beside tables of the lake in one transaction, over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from conftest import start_server

COUNTS = "SELECT count(*), sum(x) FROM t.{0} JOIN mine USING (x)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = start_server(tmp_path_factory.mktemp("temporary"))
    with running.adbc() as other, other.cursor() as cursor:
        cursor.execute("CREATE SCHEMA t")
    yield running
    assert running.stop() == 0


@pytest.fixture
def other(server: Any) -> Iterator[Any]:
    """Somebody else, whose statements take place at once."""
    with server.adbc() as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def mine(server: Any) -> Iterator[Any]:
    """A transaction that has a temporary table already."""
    with adbc.connect(server.uri) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE mine AS SELECT unnest(range(100)) AS x")
        yield cursor


def one(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()


def test_a_table_made_since_is_read(mine: Any, other: Any) -> None:
    other.execute("CREATE TABLE t.later AS SELECT unnest([1, 2, 200]) AS x")
    assert one(mine, COUNTS.format("later")) == (2, 3)
    assert one(mine, "SELECT t.later.x FROM t.later ORDER BY x DESC LIMIT 1") == (200,)
    mine.execute("CREATE TEMP TABLE copied AS SELECT x FROM t.later")
    assert one(mine, "SELECT count(*) FROM copied JOIN mine USING (x)") == (2,)
    with pytest.raises(adbc.NotSupportedError, match="was not read before the first temporary table"):
        mine.execute("CREATE TEMP VIEW v AS SELECT x FROM t.later")


def test_a_table_replaced_since_is_read_as_it_is(mine: Any, other: Any) -> None:
    other.execute("CREATE TABLE t.replaced AS SELECT 'a' AS x")
    assert one(other, "SELECT count(*) FROM t.replaced") == (1,)
    other.execute("DROP TABLE t.replaced")
    other.execute("CREATE TABLE t.replaced AS SELECT unnest([5, 6]) AS x")
    assert one(mine, COUNTS.format("replaced")) == (2, 11)


def test_an_old_version_and_a_view_are_read_for_the_first_time(mine: Any, other: Any) -> None:
    other.execute("CREATE TABLE t.old AS SELECT 1 AS x")
    (version,) = one(other, "SELECT max(snapshot_id) FROM system.snapshots WHERE table_name = 'old'")
    other.execute("INSERT INTO t.old VALUES (2)")
    other.execute("CREATE VIEW t.seen AS SELECT x FROM t.old")
    assert one(mine, f"SELECT count(*) FROM t.old AT (VERSION => {version}) JOIN mine USING (x)") == (1,)
    assert one(mine, "SELECT count(*) FROM t.seen JOIN mine USING (x)") == (2,)
