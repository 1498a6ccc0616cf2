"""Long random sequences of changes: a lake table and one of plain DuckDB are equal after every one."""

from __future__ import annotations

import random

import duckdb
import pyarrow as pa
import pytest
from random_statements import Statements

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
