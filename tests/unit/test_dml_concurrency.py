"""Statements that change the same rows at once: every effect is there once, or its statement failed."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import CommitConflict
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

pytestmark = pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")


class Client:
    """A session of its own."""

    def __init__(self, lakehouse, name):
        self.engine = lakehouse.engine
        self.session = lakehouse.sessions.get(name, lakehouse.anonymous)

    def change(self, sql):
        scope = Scope(self.session, self.session.sql_transaction, CallWatch())
        return self.engine.changes.run(self.engine.gate.analyse(sql), scope)

    def rows(self, sql):
        plan = self.engine.plan(self.engine.gate.analyse(sql), self.session, self.session.sql_transaction)
        batches = list(self.engine.open(plan, self.session, CallWatch()))
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


@pytest.fixture(params=["one server", "two servers"])
def clients(request, tmp_path):
    """Makes clients, of one server or in turn of two over the same bucket; there is a table of four files."""
    settings = Settings(
        buckets=[{"name": "primary", "kind": "local", "path": tmp_path}], catalog={"refresh_ms": 0}
    )
    opened = [Lakehouse(settings) for _ in range(2 if request.param == "two servers" else 1)]
    owner = Client(opened[0], "owner")
    scope = Scope(owner.session, None, CallWatch())
    for part in range(4):
        table = pa.table({"k": pa.array(range(part * 10, part * 10 + 10)), "n": pa.array([0] * 10)})
        mode = WriteMode.APPEND if part else WriteMode.CREATE
        name = TableName("lake", "main", "t")
        owner.engine.changes.ingest(scope, name, mode, table.schema, table.to_batches())
    yield lambda number: Client(opened[number % len(opened)], f"client {number}")
    for each in opened:
        each.close()


def together(count, work):
    """Run ``work(number)`` in threads that begin at once; gives the results."""
    barrier = threading.Barrier(count)

    def begin(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def test_no_increment_is_lost(clients):
    def work(number):
        client, rng, done = clients(number), random.Random(number), 0
        for _ in range(5):
            key = rng.randrange(40)
            try:
                done += client.change(f"update t set n = n + 1 where k in ({key}, {(key + 10) % 40})")
            except CommitConflict:
                continue  # refused after many attempts, which is allowed, as long as nothing is stored
        return done

    done = together(4, work)
    assert sum(done) > 0
    assert clients(0).rows("select count(*), sum(n) from t") == [(40, sum(done))]


def test_inserts_are_not_disturbed_by_deletes(clients):
    def work(number):
        client = clients(number)
        if number % 2:
            return -sum(client.change(f"delete from t where k % 10 = {number + step}") for step in range(4))
        return sum(
            client.change(f"insert into t values ({1000 * number + 10 * step}, 7)") for step in range(8)
        )

    done = together(4, work)
    assert clients(0).rows("select count(*) from t") == [(40 + sum(done),)]
    assert clients(0).rows("select count(*), count(distinct k) from t where n = 7") == [(16, 16)]


def test_merges_that_race_insert_a_key_once(clients):
    sql = (
        "merge into t using (select 500 + range as k from range(5)) q on t.k = q.k "
        "when matched then update set n = n + 1 when not matched then insert values (q.k, 1)"
    )

    def work(number):
        try:
            return clients(number).change(sql)
        except CommitConflict:
            return 0

    done = together(4, work)
    found = clients(0).rows("select k, n from t where k >= 500 order by k")
    assert found == [(500 + n, sum(done) // 5) for n in range(5)]


def test_of_two_transactions_on_the_same_rows_the_second_to_commit_fails_and_changes_nothing(clients):
    first, second, reader = clients(0), clients(1), clients(2)
    for client, value in ((first, 1), (second, 2)):
        client.change("begin")
        assert client.change(f"update t set n = {value} where k = 5") == 1
        assert client.change(f"insert into t values ({100 + value}, {value})") == 1
        assert client.rows("select n from t where k = 5") == [(value,)]
    assert reader.rows("select n from t where k = 5") == [(0,)]
    first.change("commit")
    assert second.rows("select n from t where k = 5") == [(2,)], "a transaction sees what it first saw"
    with pytest.raises(CommitConflict, match="changed by another writer"):
        second.change("commit")
    assert reader.rows("select k, n from t where k > 99 or n > 0 order by k") == [(5, 1), (101, 1)]


def test_transactions_on_other_rows_and_appends_do_not_conflict(clients):
    one, two, three = clients(0), clients(1), clients(2)
    for client, key in ((one, 5), (two, 15)):
        client.change("begin")
        client.change(f"update t set n = {key} where k = {key}")
    three.change("insert into t values (77, 77)")
    assert one.rows("select count(*) from t where k = 77") == [(0,)]
    one.change("commit")
    two.change("commit")
    assert three.rows("select k from t where n > 0 order by k") == [(5,), (15,), (77,)]


def test_a_transaction_that_fails_in_a_statement_keeps_the_ones_before(clients):
    client = clients(0)
    client.change("begin")
    client.change("insert into t values (200, 1)")
    with pytest.raises(Exception, match="convert"):
        client.change("update t set n = k::varchar || 'x'")
    assert client.rows("select count(*) from t where k = 200") == [(1,)]
    client.change("commit")
    assert clients(1).rows("select count(*) from t where k = 200") == [(1,)]
