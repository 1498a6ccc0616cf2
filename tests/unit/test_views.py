"""Views of the lake: kept, listed, read by every path, and no more than their reader may read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    PermissionDenied,
    SchemaNotEmpty,
    TableNotFound,
)
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

ROLES: list[dict[str, Any]] = [
    {"name": "part", "grants": [{"on": "lake.main.t", "row_filter": "id < 3"}, {"on": "lake.main.v*"}]},
    {"name": "views", "grants": [{"on": "lake.main.v*"}]},
    {
        "name": "clerk",
        "grants": [
            {"on": "lake.shop.*", "privileges": ["read", "write"]},
            {"on": "lake.shop.secret", "privileges": []},
        ],
    },
    {"name": "tables", "grants": [{"on": "lake.main.t*", "privileges": ["read", "write"]}]},
]
numbers = itertools.count()


def opened(root: Path) -> Lakehouse:
    return Lakehouse(Settings.model_validate({"buckets": [{"path": str(root)}], "roles": ROLES}))


def put(lakehouse: Lakehouse, table: str, rows: pa.Table, mode: WriteMode = WriteMode.CREATE) -> None:
    name = TableName("lake", "main", table)
    staged = stage(lakehouse.catalog, name, mode, rows.schema, rows.to_batches(), lambda: False)
    commit(lakehouse.catalog, staged)


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    lake = opened(tmp_path)
    put(lake, "t", pa.table({"id": pa.array(range(6), pa.int64()), "name": list("abcdef")}))
    put(lake, "u", pa.table({"id": pa.array([1, 4], pa.int64()), "more": ["x", "y"]}))
    yield lake
    lake.close()


def session_of(lakehouse: Lakehouse, role: str = "admin") -> Session:
    return lakehouse.sessions.get(f"test-{next(numbers)}", Principal("ann", frozenset({role})))


def run(session: Session, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    transaction = session.sql_transaction
    if analysis.is_update:
        rows = None if parameters is None else [parameters]
        engine.changes.run(analysis, Scope(session, transaction, CallWatch()), rows)
        return []
    plan = engine.plan(analysis, session, transaction, parameters)
    table = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.fixture
def session(lakehouse: Lakehouse) -> Session:
    session = session_of(lakehouse)
    run(session, "CREATE VIEW v AS SELECT id, upper(name) AS name FROM t WHERE id > 1 -- end")
    return session


READS = {
    "SELECT * FROM v ORDER BY id": 4,
    "SELECT v.name FROM main.v": 4,
    "SELECT main.v.name, lake.main.V.id FROM lake.main.v": 4,
    "FROM V AS x(a, b) WHERE a = 3": 1,
    "TABLE v": 4,
    "SELECT * FROM v JOIN u USING (id)": 1,
    "SELECT * FROM u LEFT JOIN v ON u.id = v.id": 2,
    "WITH c AS (FROM v), t AS (SELECT 1 AS id) SELECT * FROM c, t": 4,
    "SELECT (SELECT max(id) FROM v) FROM u": 2,
    "SELECT * FROM v a, v b WHERE a.id = b.id": 4,
    "SELECT * FROM v UNION ALL FROM v": 8,
    "DESCRIBE v": 2,
    "SUMMARIZE v": 2,
    "SELECT * FROM t WHERE id IN (SELECT id FROM v)": 4,
    "SELECT count(*) FROM v TABLESAMPLE 100 PERCENT": 1,
    "EXPLAIN FROM v": 1,
}


@pytest.mark.parametrize("sql", READS)
def test_a_view_is_read_wherever_a_table_is(session: Session, sql: str) -> None:
    assert len(run(session, sql)) == READS[sql]


def test_a_view_reads_the_same_in_every_session_and_after_a_restart(session: Session, tmp_path: Path) -> None:
    run(session, "CREATE SCHEMA other")
    run(session, 'CREATE VIEW other."A ""strange"" näme" (k, "Wert") AS SELECT * FROM v')
    run(session, "COMMENT ON VIEW v IS 'what it''s about'")
    session.lakes.default.drop_view("main", "nothing", if_exists=True)
    again = opened(tmp_path)
    try:
        other = session_of(again)
        run(other, "USE other")
        run(other, "CREATE TEMP TABLE t AS SELECT 99 AS id, 'temp' AS name")
        assert run(other, 'SELECT min(k), max("Wert") FROM "a ""strange"" näme"') == [(2, "F")]
        found = again.catalog.find_view("main", "v")
        assert found is not None
        assert found.description == "what it's about"
        assert again.catalog.views("OTHER") == ['A "strange" näme']
        run(session, "CREATE OR REPLACE VIEW v AS SELECT 7 AS id, 'seven' AS name")
        again.catalog.refresh("main", "v")
        assert run(other, "FROM main.v") == [(7, "seven")]
        assert found.description == "what it's about"
    finally:
        again.close()


def test_a_view_is_listed_as_one(session: Session, lakehouse: Lakehouse) -> None:
    listed = (
        "SELECT table_name, table_type FROM information_schema.tables "
        "WHERE table_schema = 'main' ORDER BY ALL"
    )
    assert run(session, listed) == [("t", "BASE TABLE"), ("u", "BASE TABLE"), ("v", "VIEW")]
    columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'v'"
    assert run(session, columns) == [("id", "BIGINT"), ("name", "VARCHAR")]
    assert ("v",) in run(session, "SHOW TABLES")
    run(session, "DROP VIEW v")
    assert ("v",) not in run(session, "SHOW TABLES")
    run(session, "CREATE VIEW v AS SELECT 1 AS a")
    assert run(session, columns) == [("a", "INTEGER")]
    run(session, "DROP VIEW v")
    run(session, "CREATE VIEW x AS SELECT 1 AS a")
    assert run(session, columns) == []
    run(session, "DROP VIEW x")
    put(lakehouse, "x", pa.table({"n": [1]}))
    assert run(session, listed)[-1] == ("x", "BASE TABLE")
    assert run(session, "FROM x") == [(1,)]


def test_rows_that_are_added_show_in_a_view(session: Session, lakehouse: Lakehouse) -> None:
    sql = "SELECT count(*) FROM v"
    assert run(session, sql) == [(4,)]
    put(lakehouse, "t", pa.table({"id": pa.array([50], pa.int64()), "name": ["z"]}), WriteMode.APPEND)
    assert run(session, sql) == [(5,)]
    run(session, "BEGIN")
    assert run(session, sql) == [(5,)]
    put(lakehouse, "t", pa.table({"id": pa.array([51], pa.int64()), "name": ["z"]}), WriteMode.APPEND)
    assert run(session, sql) == [(5,)]
    run(session, "INSERT INTO t VALUES (52, 'own')")
    assert run(session, "SELECT name FROM v WHERE id > 50") == [("OWN",)]
    run(session, "ROLLBACK")
    assert run(session, sql) == [(6,)]


def test_a_view_follows_the_columns_of_its_table(session: Session, lakehouse: Lakehouse) -> None:
    run(session, "CREATE VIEW every AS SELECT * FROM t")
    assert len(run(session, "FROM every")[0]) == 2
    catalog: Any = lakehouse.catalog
    with (
        catalog.committing("main", "t"),
        catalog.objects.load_table(("main", "t")).update_schema() as update,
    ):
        update.rename_column("name", "label")
    assert len(run(session, "SELECT label FROM every")) == 6
    with pytest.raises(LakehouseError, match=r"view lake\.main\.v cannot be read any more.*name"):
        run(session, "FROM v")
    # What the view lacks must not be taken from what it stands beside.
    with pytest.raises(LakehouseError, match="cannot be read any more"):
        run(session, "SELECT * FROM (SELECT 'stolen' AS name) s, v")


def test_temporary_views_stand_on_views(session: Session) -> None:
    run(session, "CREATE TEMP VIEW tv AS SELECT * FROM v WHERE id < 4")
    assert len(run(session, "FROM tv")) == 2
    run(session, "CREATE OR REPLACE VIEW v AS SELECT id, name FROM u, (SELECT '-' AS name)")
    assert len(run(session, "FROM tv")) == 2
    run(session, "DROP VIEW v")
    assert len(run(session, "FROM tv")) == 2


def test_prunes_within_views(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.engine.binding.PRUNED_ABOVE", 0)
    run(session, "CREATE VIEW w AS SELECT * FROM t WHERE id > 100 UNION ALL SELECT * FROM t WHERE id = 3")
    assert run(session, "SELECT a.id, b.id FROM w a, w b, t WHERE t.id = 3") == [(3, 3)]


def test_a_view_shows_no_more_than_its_reader_may_read(session: Session, lakehouse: Lakehouse) -> None:
    part = session_of(lakehouse, "part")
    assert run(part, "SELECT id FROM v") == [(2,)]
    assert len(run(session, "SELECT id FROM v")) == 4
    with pytest.raises(LakehouseError, match=r"main\.v cannot be read: .*main\.t does not exist"):
        run(session_of(lakehouse, "views"), "FROM v")
    with pytest.raises(LakehouseError, match="does not exist"):
        run(session_of(lakehouse, "tables"), "FROM v")
    assert run(part, "SELECT table_name FROM information_schema.tables ORDER BY 1")[-1] == ("v",)
    assert ("v",) not in run(session_of(lakehouse, "tables"), "SHOW TABLES")
    for sql in ("CREATE VIEW v2 AS SELECT 1 AS a", "DROP VIEW v", "ALTER VIEW v RENAME TO v3"):
        with pytest.raises(LakehouseError, match="may not"):
            run(part, sql)
    with pytest.raises(LakehouseError, match="not shown"):
        run(part, "EXPLAIN FROM v")


def test_current_user_is_who_reads_the_view(session: Session, lakehouse: Lakehouse) -> None:
    run(session, "CREATE VIEW vwho AS SELECT current_user AS me")
    bob = lakehouse.sessions.get("bob", Principal("bob", frozenset({"views"})))
    assert run(session, "FROM vwho") == [("ann",)]
    assert run(bob, "FROM vwho") == [("bob",)]


REFUSED = {
    "CREATE VIEW v AS SELECT 1 AS a": "exists already",
    "CREATE VIEW t AS SELECT 1 AS a": "name of a table",
    "CREATE OR REPLACE VIEW t AS SELECT 1 AS a": "name of a table",
    "CREATE VIEW w AS SELECT 1 AS a, 2 AS A": "two columns",
    "CREATE VIEW w (a, a) AS SELECT 1, 2": "two columns",
    "CREATE VIEW w AS SELECT * FROM nothing": "does not exist",
    "CREATE VIEW w AS SELECT ? AS a": "parameters",
    "CREATE VIEW w AS SELECT * FROM read_csv('/etc/passwd')": "not allowed",
    "CREATE VIEW w AS FROM t AT (VERSION => 1)": "time travel",
    "CREATE VIEW w AS FROM information_schema.tables": "list tables",
    "CREATE VIEW w AS FROM system.statements": "cannot read tables of the schema",
    "CREATE OR REPLACE VIEW v AS FROM v": "cannot read itself",
    "CREATE VIEW nowhere.w AS SELECT 1 AS a": "does not exist",
    "DROP TABLE v": "is a view, not a table",
    "DROP VIEW t": "is a table, not a view",
    "DROP VIEW nothing": "does not exist",
    "INSERT INTO v VALUES (1, 'a')": "view",
    "DELETE FROM v": "view",
    "FROM v AT (TIMESTAMP => now())": "no history",
    "ALTER TABLE v RENAME TO w": "is a view",
    "ALTER VIEW t RENAME TO w": "is a table",
    "COMMENT ON VIEW t IS 'x'": "does not exist",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_what_cannot_be_done_with_views_is_said(session: Session, sql: str) -> None:
    with pytest.raises(LakehouseError) as refused:
        run(session, sql)
    assert REFUSED[sql] in refused.value.message
    assert len(run(session, "FROM v")) == 4


def test_views_within_views_have_a_bound(session: Session) -> None:
    run(session, "CREATE VIEW n0 AS SELECT * FROM v")
    for i in range(14):
        run(session, f"CREATE VIEW n{i + 1} AS SELECT * FROM n{i}")
    run(session, "CREATE VIEW n15 AS SELECT * FROM n14")
    with pytest.raises(LakehouseError, match="more than 16 views"):
        run(session, "CREATE VIEW n16 AS SELECT * FROM n15")
    assert len(run(session, "FROM n14")) == 4
    run(session, "CREATE VIEW wide AS SELECT 1 AS a FROM " + ", ".join(f"v v{i}" for i in range(15)))
    with pytest.raises(LakehouseError, match="more than"):
        run(session, "FROM wide a, wide b, wide c, wide d, wide e, wide f, wide g, wide h")


def test_a_view_whose_table_is_gone_names_both(session: Session) -> None:
    run(session, "DROP TABLE t")
    with pytest.raises(LakehouseError, match=r"main\.v cannot be read: .*main\.t does not exist"):
        run(session, "FROM v")


def test_a_view_is_kept_as_iceberg_has_it(session: Session, tmp_path: Path) -> None:
    run(session, "CREATE OR REPLACE VIEW v AS SELECT id FROM t")
    (path,) = tmp_path.glob("**/v/metadata/v2.metadata.json")
    told = json.loads(path.read_text())
    assert told["format-version"] == 1
    assert told["current-version-id"] == 2
    version = told["versions"][-1]
    assert version["default-namespace"] == ["main"]
    sql = 'SELECT id FROM "lake"."main"."t"'
    assert version["representations"] == [{"type": "sql", "sql": sql, "dialect": "duckdb"}]
    assert [f["name"] for f in told["schemas"][-1]["fields"]] == ["id"]
    # A text that somebody else left there passes the gate as any other.
    for text in ("FROM read_text('/etc/passwd')", "DELETE FROM lake.main.t", "FROM t", "FROM '~x'.main.y"):
        told["versions"][-1]["representations"][0]["sql"] = text
        (path.parent / f"v{len(list(path.parent.glob('v*.json'))) + 1}.metadata.json").write_text(
            json.dumps(told)
        )
        session.engine.catalogs.default.refresh("main", "v")
        with pytest.raises(LakehouseError):
            run(session, "FROM v")


@pytest.mark.parametrize("form", ["TABLE", "TABLE IF NOT EXISTS", "OR REPLACE TABLE"])
def test_a_table_that_would_have_the_name_of_a_view_is_refused(session: Session, form: str) -> None:
    for definition in ("(id INT)", "AS SELECT 1 AS id"):
        with pytest.raises(InvalidRequest, match=r"lake\.main\.v is a view, not a table") as refused:
            run(session, f"CREATE {form} V {definition}")
        assert "DROP VIEW" in refused.value.hint
    assert len(run(session, "FROM v")) == 4


def test_rows_are_not_loaded_into_a_view(lakehouse: Lakehouse, session: Session) -> None:
    for mode in WriteMode:
        with pytest.raises(InvalidRequest, match="is a view"):
            put(lakehouse, "v", pa.table({"id": [1]}), mode)
    assert len(run(session, "FROM v")) == 4


def test_a_schema_is_dropped_with_its_views(lakehouse: Lakehouse, session: Session) -> None:
    run(session, "CREATE SCHEMA shop")
    run(session, "CREATE TABLE shop.a AS SELECT 1 AS n")
    run(session, "CREATE VIEW shop.b AS FROM shop.a")
    run(session, "CREATE VIEW c AS FROM shop.b")
    with pytest.raises(SchemaNotEmpty, match=r"tables or views"):
        run(session, "DROP SCHEMA shop")
    run(session, "DROP SCHEMA shop CASCADE")
    assert lakehouse.catalog.schemas() == ["main"]
    run(session, "CREATE SCHEMA shop")
    assert lakehouse.catalog.tables("shop") == lakehouse.catalog.views("shop") == []
    with pytest.raises(TableNotFound, match=r"lake\.main\.c"):
        run(session, "FROM c")


def test_a_schema_with_a_view_that_one_cannot_see_stays(lakehouse: Lakehouse, session: Session) -> None:
    run(session, "CREATE SCHEMA shop")
    run(session, "CREATE VIEW shop.secret AS FROM t")
    clerk = session_of(lakehouse, "clerk")
    with pytest.raises(PermissionDenied):
        run(clerk, "DROP SCHEMA shop CASCADE")
    assert lakehouse.catalog.views("shop") == ["secret"]
