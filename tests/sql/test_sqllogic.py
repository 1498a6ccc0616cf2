"""Every .slt file in process and over Flight, with equal results."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from sqllogic import run_file

from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.runtime import Lakehouse
from lakehouse.samples import load_sample

FILES = sorted((Path(__file__).parent / "cases").glob("*.slt"))


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory):
    """A lakehouse in this process, with the sample."""
    directory = tmp_path_factory.mktemp("lake")
    settings = Settings(buckets=[{"name": "primary", "kind": "local", "path": directory / "bucket"}])
    opened = Lakehouse(settings)
    load_sample(opened.catalog, settings, "nyc", lambda *_: None, lambda: False)
    yield opened
    opened.close()


def in_process(lakehouse, name):
    """Runs statements in a session of the engine's own."""
    engine, session = lakehouse.engine, lakehouse.sessions.get(name, lakehouse.anonymous)

    def run(sql):
        analysis = engine.gate.analyse(sql)
        scope = Scope(session, session.sql_transaction, CallWatch())
        if analysis.is_update:
            engine.changes.run(analysis, scope)
            return []
        if analysis.detail.get("returning"):
            return rows_of(engine.changes.modify(analysis, scope)[1])
        plan = engine.plan(analysis, session, session.sql_transaction)
        return rows_of(pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema))

    return run, lambda: lakehouse.sessions.close(session)


def over_flight(server):
    """Runs statements over ADBC."""
    connection = server.adbc()
    cursor = connection.cursor()

    def run(sql):
        cursor.execute(sql)
        return rows_of(cursor.fetch_arrow_table()) if cursor.description is not None else []

    def close():
        cursor.close()
        connection.close()

    return run, close


def rows_of(table):
    columns = [column.to_pylist() for column in table.columns]
    return list(zip(*columns, strict=True))


# pytest replaces the filter that lakehouse.engine.changes sets for this one.
@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_gives_the_same_in_process_and_over_flight(path, lakehouse, server):
    here, close_here = in_process(lakehouse, path.stem)
    there, close_there = over_flight(server)
    try:
        assert run_file(path, here) == run_file(path, there)
    finally:
        close_here()
        close_there()
