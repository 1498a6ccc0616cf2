"""Long random sequences of changes: a lake table and one of plain DuckDB are equal after every one."""

from __future__ import annotations

import random

import duckdb
import pyarrow as pa
import pytest

from lakehouse.config import Settings
from lakehouse.engine import binding
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

pytestmark = pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
STEPS = 120
COLUMNS = pa.schema([("k", pa.int64()), ("g", pa.int32()), ("s", pa.string()), ("x", pa.float64())])
TEXTS = ["''", "'ä'", "'a''b'", "NULL", "'x' || k", "'\U0001f98a'"]


class Lake:
    """A session of a lakehouse in this process, with a table."""

    def __init__(self, directory):
        settings = Settings(
            buckets=[{"name": "primary", "kind": "local", "path": directory}],
            ingest={"target_file_bytes": 1 << 20},
        )
        self.lakehouse = Lakehouse(settings)
        self.session = self.lakehouse.sessions.get("random", self.lakehouse.anonymous)
        name = TableName("lake", "main", "t")
        self.lakehouse.engine.changes.ingest(self._scope(), name, WriteMode.CREATE, COLUMNS, [])

    def _scope(self):
        return Scope(self.session, self.session.sql_transaction, CallWatch())

    def change(self, sql, rows=None):
        """The number of rows affected, and those that were returned."""
        engine = self.lakehouse.engine
        analysis = engine.gate.analyse(sql)
        if analysis.detail.get("returning"):
            count, table = engine.changes.modify(analysis, self._scope(), rows)
            return count, sorted(map(repr, table.to_pylist()))
        return engine.changes.run(analysis, self._scope(), rows), None

    def rows(self, sql):
        engine = self.lakehouse.engine
        plan = engine.plan(engine.gate.analyse(sql), self.session, self.session.sql_transaction)
        return [
            tuple(row.values())
            for batch in engine.open(plan, self.session, CallWatch())
            for row in batch.to_pylist()
        ]

    @property
    def snapshot(self):
        return self.lakehouse.catalog.load("main", "t").snapshot_id


class Plain:
    """The same table in DuckDB alone."""

    def __init__(self):
        self.connection = duckdb.connect()
        self.connection.execute("CREATE TABLE t (k BIGINT, g INTEGER, s VARCHAR, x DOUBLE)")

    def change(self, sql, rows=None):
        count = 0
        for row in [None] if rows is None else rows:
            result = self.connection.execute(sql, row)
            if "returning" in sql:
                table = result.to_arrow_table()
                return table.num_rows, sorted(map(repr, table.to_pylist()))
            answer = result.fetchall()
            count += answer[0][0] if answer else 0
        return count, None

    def rows(self, sql):
        return self.connection.execute(sql).fetchall()


class Statements:
    """Random changes of a table ``t (k, g, s, x)``."""

    def __init__(self, rng):
        self.rng = rng
        self.next_key = 0

    def one(self):
        """A statement, and rows of parameters or ``None``."""
        makers = (
            self.insert_values, self.insert_query, self.insert_query, self.insert_by_name, self.insert_many,
            self.update, self.update, self.update_from, self.update_itself, self.update_many, self.delete,
            self.delete_using, self.delete_many, self.merge, self.merge, self.merge_insert,
            self.merge_by_source, self.common,
        )  # fmt: skip
        if self.rng.random() < 0.02:
            return self.rng.choice(["truncate t", "delete from t", "update t set g = 0"]), None
        made = self.rng.choice(makers)()
        sql, rows = made if isinstance(made, tuple) else (made, None)
        if rows is None and self.rng.random() < 0.25:
            sql += " returning " + self.rng.choice(["*", "k", "k + 1 as n, s"])
        return sql, rows

    def keys(self, count):
        first, self.next_key = self.next_key, self.next_key + count
        return first, first + count

    def condition(self, table="t"):
        high = max(self.next_key, 1)
        a = self.rng.randrange(high)
        return self.rng.choice(
            [
                f"{table}.k = {a}",
                f"{table}.k between {a} and {a + self.rng.randrange(40)}",
                f"{table}.g = {self.rng.randrange(5)} and {table}.k % 3 = 1",
                f"{table}.s is null",
                f"{table}.x > {self.rng.random():.3f} and {table}.k < {a}",
                f"{table}.k in (select max(k) from t group by g)",
                "false",
            ]
        )

    def insert_values(self):
        rows = [
            f"({k}, {k % 5}, {self.rng.choice(TEXTS).replace('k', str(k))}, {self.rng.random():.3f})"
            for k in range(*self.keys(self.rng.randrange(1, 4)))
        ]
        return f"insert into t values {', '.join(rows)}"

    def insert_query(self):
        first, last = self.keys(self.rng.randrange(1, 300))
        text = self.rng.choice(TEXTS)
        return (
            f"insert into t (g, k, s, x) select k % 5, k, {text}, k / 7.0 "
            f"from (select range as k from range({first}, {last}))"
        )

    def insert_by_name(self):
        first, last = self.keys(20)
        return f"insert into t by name select 'n' as s, range as k from range({first}, {last})"

    def insert_many(self):
        rows = [
            [k, k % 5, f"p{k}", None if k % 4 else 0.5] for k in range(*self.keys(self.rng.randrange(2, 60)))
        ]
        return "insert into t values (?, ?, 'v' || ?, ?)", rows

    def update(self):
        return f"update t set s = {self.rng.choice(TEXTS)}, x = x + 1 where {self.condition()}"

    def update_from(self):
        return (
            "update t as a set s = 'from ' || q.n, g = q.n from (select range as j, range % 3 as n from "
            f"range({self.next_key})) q where q.j = a.k and {self.condition('a')}"
        )

    def update_itself(self):
        return f"update t set x = (select count(*) from t i where i.g = t.g) where {self.condition()}"

    def update_many(self):
        rows = [
            [f"m{n}", self.rng.randrange(max(self.next_key, 1))] for n in range(self.rng.randrange(2, 30))
        ]
        return "update t set s = ? where k = ?", rows

    def delete(self):
        return f"delete from t where {self.condition()}"

    def delete_using(self):
        return (
            f"delete from t using (select range * 11 as j from range({max(self.next_key // 11, 1)})) q "
            f"where q.j = t.k and {self.condition()}"
        )

    def delete_many(self):
        return "delete from t where k = $1 or k = $2", [
            [self.rng.randrange(max(self.next_key, 1)), -n] for n in range(self.rng.randrange(2, 10))
        ]

    def _source(self):
        first = self.rng.randrange(max(self.next_key, 1))
        last = first + self.rng.randrange(1, 60)
        self.next_key = max(self.next_key, last)
        return f"(select range as k, 'merged' as s from range({first}, {last})) q"

    def merge(self):
        return (
            f"merge into t using {self._source()} on t.k = q.k when matched and t.k % 5 = 0 then delete "
            "when matched then update set s = q.s when not matched then insert (k, s) values (q.k, q.s)"
        )

    def merge_insert(self):
        insert = "when not matched then insert (k, s) values (q.k, q.s)"
        return f"merge into t using {self._source()} using (k) {insert}"

    def merge_by_source(self):
        return (
            f"merge into t using {self._source()} on t.k = q.k when matched then update set x = 1.5 "
            "when not matched by source and t.g = 4 then update set s = 'gone'"
        )

    def common(self):
        return (
            f"with doomed as (select k from t where {self.condition()} limit 1000) "
            "delete from t where k in (select k from doomed where k % 2 = 0)"
        )


EVERYTHING = "select k, g, s, x from t{} order by all"


@pytest.mark.parametrize(("seed", "pruned_above"), [(20131107, 32), (7, 1)])
def test_every_change_leaves_what_duckdb_leaves_and_every_version_stays(
    seed, pruned_above, tmp_path, monkeypatch
):
    monkeypatch.setattr(binding, "PRUNED_ABOVE", pruned_above)
    rng = random.Random(seed)
    lake, plain, statements = Lake(tmp_path), Plain(), Statements(rng)
    versions, open_transaction = {}, False
    for step in range(STEPS):
        if not open_transaction and rng.random() < 0.15:
            lake.change("begin")
            plain.connection.execute("begin")
            open_transaction = True
        sql, rows = statements.one()
        told = f"seed {seed}, step {step}: {sql} {rows or ''}"
        assert lake.change(sql, rows) == plain.change(sql, rows), told
        assert lake.rows(EVERYTHING.format("")) == plain.rows(EVERYTHING.format("")), told
        if open_transaction and rng.random() < 0.3:
            end = rng.choice(["commit", "rollback"])
            lake.change(end)
            plain.connection.execute(end)
            open_transaction = False
            assert lake.rows(EVERYTHING.format("")) == plain.rows(EVERYTHING.format("")), f"{told}; {end}"
        if not open_transaction and lake.snapshot is not None:
            versions[lake.snapshot] = plain.rows(EVERYTHING.format(""))
    if open_transaction:
        lake.change("rollback")
    for snapshot, expected in versions.items():
        assert lake.rows(EVERYTHING.format(f" at (version => {snapshot})")) == expected
    assert len(versions) > STEPS // 3
    lake.lakehouse.close()
