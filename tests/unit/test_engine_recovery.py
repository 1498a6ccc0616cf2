"""The engine after a fatal error of DuckDB's, which leaves the whole database refusing everything."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import EngineInvalidated, TableNotFound
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName


@pytest.fixture
def lakehouse(tmp_path):
    settings = Settings(buckets=[{"name": "primary", "kind": "local", "path": tmp_path / "bucket"}])
    opened = Lakehouse(settings)
    yield opened
    opened.close()


def rows(lakehouse, session, sql):
    engine = lakehouse.engine
    plan = engine.plan(engine.gate.analyse(sql), session)
    return pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema).to_pylist()


def break_duckdb(lakehouse) -> None:
    """DuckDB closed under the engine, and what DuckDB raises when it has become unusable."""
    lakehouse.engine.database._root.close()
    with lakehouse.engine.errors():
        raise duckdb.FatalException(
            "FATAL Error: database has been invalidated because of a previous fatal error"
        )


def test_the_engine_starts_again_after_a_fatal_error(lakehouse):
    session, engine = lakehouse.sessions.get("x", lakehouse.anonymous), lakehouse.engine
    table = pa.table({"a": [1, 2, 3]})
    scope = Scope(session, None, CallWatch())
    target = TableName("lake", "main", "t")
    engine.changes.ingest(scope, target, WriteMode.CREATE, table.schema, table.to_batches())
    engine.changes.run(engine.gate.analyse("CREATE TEMP TABLE gone AS SELECT 1 AS x"), scope)
    with pytest.raises(EngineInvalidated):
        break_duckdb(lakehouse)
    assert rows(lakehouse, session, "SELECT sum(a) AS s FROM t") == [{"s": 6}]
    with pytest.raises(TableNotFound):
        rows(lakehouse, session, "SELECT * FROM gone")
    engine.changes.run(engine.gate.analyse("CREATE TEMP TABLE gone AS SELECT 1 AS x"), scope)
    assert rows(lakehouse, session, "SELECT * FROM gone") == [{"x": 1}]


def test_an_engine_that_answers_is_not_started_again(lakehouse):
    session, engine = lakehouse.sessions.get("x", lakehouse.anonymous), lakehouse.engine
    scope = Scope(session, None, CallWatch())
    engine.changes.run(engine.gate.analyse("CREATE TEMP TABLE kept AS SELECT 1 AS x"), scope)
    with pytest.raises(EngineInvalidated), engine.errors():
        raise duckdb.FatalException(
            "from a statement that was already failing when the engine was started again"
        )
    assert rows(lakehouse, session, "SELECT * FROM kept") == [{"x": 1}]
