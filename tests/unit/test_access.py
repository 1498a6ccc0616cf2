"""What principals may read and write, in process, through every shape of a query."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.access.policy import Permission
from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import (
    ConfigError,
    InvalidRequest,
    LakehouseError,
    LimitExceeded,
    PermissionDenied,
    SchemaNotFound,
    TableNotFound,
)
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

SECRET = "SECRET"
PEOPLE = pa.table(
    {
        "id": pa.array([1, 2, 3, 4], pa.int64()),
        "region": ["eu", "us", "eu", "us"],
        "name": ["Ana", f"{SECRET}-Bob", "Cyd", f"{SECRET}-Dan"],
        "phone": ["0301234567", f"{SECRET}5678", None, f"{SECRET}999"],
        "owner": ["ann", "ben", "ben", "ann"],
    }
)
ROLES: list[dict[str, Any]] = [
    {
        "name": "european",
        "grants": [{"on": "lake.hr.people", "row_filter": "region = 'eu'", "masks": {"phone": "last_four"}}],
    },
    {"name": "owner", "grants": [{"on": "lake.hr.people", "row_filter": "lower(owner) = current_user"}]},
    {
        "name": "masked",
        "grants": [
            {
                "on": "lake.hr.people",
                "masks": {"name": "hash", "phone": "null", "owner": "left(owner, 1)", "id": "id // 2"},
            }
        ],
    },
    {
        "name": "broad",
        "grants": [
            {"on": "lake.*.*"},
            {"on": "lake.hr.*", "privileges": []},
            {"on": "lake.hr.pub*", "privileges": ["read", "write"]},
        ],
    },
    {"name": "appender", "grants": [{"on": "lake.hr.people", "privileges": ["write"]}]},
    {"name": "misfit", "grants": [{"on": "lake.hr.people", "row_filter": "planet = 'mars'"}]},
    {"name": "auditor", "grants": [{"on": "lake.system.*"}], "actions": ["audit.*"]},
]


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lakehouse]:
    bucket = tmp_path_factory.mktemp("bucket")
    opened = Lakehouse(Settings.model_validate({"buckets": [{"path": str(bucket)}], "roles": ROLES}))
    for schema, table in (("hr", "people"), ("hr", "public"), ("shop", "people"), ("main", "other")):
        opened.catalog.create_schema(schema, if_not_exists=True)
        name = TableName("lake", schema, table)
        batches = PEOPLE.to_batches()
        staged = stage(opened.catalog, name, WriteMode.CREATE, PEOPLE.schema, batches, lambda: False)
        commit(opened.catalog, staged)
    yield opened
    opened.close()


numbers = itertools.count()


def session_of(lakehouse: Lakehouse, *roles: str, name: str = "ann") -> Session:
    return lakehouse.sessions.get(f"test-{next(numbers)}", Principal(name, frozenset(roles)))


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


# Each reads names of hr.people in some shape; the answer must hold those of the filter only.
SHAPES = {
    "plain": "SELECT name FROM hr.people",
    "full name": "SELECT name FROM lake.hr.people",
    "other case": 'SELECT name FROM "HR".PEOPLE',
    "from first": "FROM hr.people SELECT name",
    "table": "SELECT name FROM (TABLE hr.people)",
    "alias": "SELECT p.name FROM hr.people AS p",
    "column names": "SELECT c FROM hr.people AS p(a, b, c)",
    "qualified": "SELECT people.name FROM hr.people",
    "schema and column": 'SELECT hr.people.name FROM hr.people WHERE "HR"."People".id > 0 ORDER BY id',
    "catalog and column": "SELECT lake.hr.people.name, hr.people.id FROM lake.hr.people",
    "subquery": "SELECT name FROM (SELECT * FROM (SELECT * FROM hr.people))",
    "scalar": "SELECT (SELECT string_agg(name, ',' ORDER BY id) FROM hr.people)",
    "exists": "SELECT name FROM hr.people a WHERE EXISTS (FROM hr.people b WHERE b.id = a.id)",
    "cte": "WITH x AS (SELECT * FROM hr.people) SELECT name FROM x",
    "cte of the same name": "WITH people AS (SELECT * FROM hr.people) SELECT name FROM people",
    "materialized cte": "WITH x AS MATERIALIZED (SELECT * FROM hr.people) SELECT name FROM x",
    "recursive cte": "WITH RECURSIVE x AS (SELECT id, name FROM hr.people UNION SELECT id, name FROM x) "
    "SELECT name FROM x",
    "union": "SELECT name FROM hr.people UNION ALL SELECT name FROM hr.people",
    "join": "SELECT b.name FROM hr.people a JOIN hr.people b USING (id)",
    "lateral": "SELECT n FROM hr.people a, LATERAL (SELECT b.name AS n FROM hr.people b WHERE b.id = a.id)",
    "positional": "SELECT b.name FROM hr.people a POSITIONAL JOIN hr.people b",
    "sample": "SELECT name FROM hr.people USING SAMPLE 100 PERCENT",
    "window": "SELECT max(name) OVER (PARTITION BY id) FROM hr.people",
    "group": "SELECT name FROM hr.people GROUP BY ALL HAVING count(*) > 0",
    "aggregate": "SELECT list(name) FROM hr.people",
    "columns": "SELECT COLUMNS('na.*') FROM hr.people",
    "struct": "SELECT people FROM hr.people",
    "unpivot": "SELECT value FROM (UNPIVOT (SELECT name, region FROM hr.people) ON name, region)",
    "time travel": "SELECT name FROM hr.people AT (TIMESTAMP => now())",
    "order": "SELECT name FROM hr.people ORDER BY ALL LIMIT 10",
    "comments": "SELECT name FROM hr /* here */ . /* there */ people -- end",
    "filter on hidden": f"SELECT name FROM hr.people WHERE name LIKE '{SECRET}%' OR true",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_filter_holds_in_every_shape_of_a_query(lakehouse: Lakehouse, shape: str) -> None:
    session = session_of(lakehouse, "european")
    found = str(run(session, SHAPES[shape]))
    assert "Ana" in found
    assert "Cyd" in found
    assert SECRET not in found
    assert SECRET in str(run(session_of(lakehouse, "reader"), SHAPES[shape]))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_without_a_grant_is_not_there_in_any_shape(lakehouse: Lakehouse, shape: str) -> None:
    session = session_of(lakehouse, "broad")
    with pytest.raises(TableNotFound) as denied:
        run(session, SHAPES[shape])
    absent = SHAPES[shape].replace("people", "peeple").replace("PEOPLE", "PEEPLE")
    with pytest.raises(TableNotFound) as missing:
        run(session, absent)
    assert denied.value.message.lower().replace("people", "peeple") == missing.value.message.lower()
    assert "hr." not in denied.value.hint


ERRORS = (
    "SELECT * FROM hr.people WHERE CAST(name AS INTEGER) = 1",
    "SELECT CAST(name AS INTEGER) FROM hr.people",
    f"SELECT * FROM hr.people WHERE CASE WHEN name LIKE '{SECRET}%' THEN error(name) ELSE true END",
    f"SELECT 1 FROM hr.people GROUP BY CASE WHEN name LIKE '{SECRET}%' THEN error(name) END",
    "SELECT strptime(name, '%Y') FROM hr.people",
    "SELECT regexp_matches('x', name || '(') FROM hr.people",
    "SELECT a.id FROM hr.people a JOIN hr.people b ON a.id = CAST(b.name AS INTEGER)",
    "SELECT min(CAST(phone AS INTEGER)) FROM hr.people",
    "SELECT sum(CAST(name AS INTEGER)) OVER (ORDER BY CAST(phone AS INTEGER)) FROM hr.people",
)


@pytest.mark.parametrize("sql", ERRORS)
@pytest.mark.parametrize("roles", [("european",), ("owner", "european")])
def test_errors_do_not_show_what_a_filter_hides(
    lakehouse: Lakehouse, sql: str, roles: tuple[str, ...]
) -> None:
    session = session_of(lakehouse, *roles, name="nobody")
    try:
        found = str(run(session, sql))
    except LakehouseError as error:
        found = str(error)
    assert SECRET not in found


def test_masks_replace_values_everywhere(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "masked")
    rows = run(session, "SELECT id, name, phone, owner, region FROM hr.people ORDER BY region, id")
    assert [row[0] for row in rows] == [0, 1, 1, 2]
    assert all(len(row[1]) == 64 for row in rows)
    assert {row[2] for row in rows} == {None}
    assert {row[3] for row in rows} == {"a", "b"}
    assert run(session, f"SELECT count(*) FROM hr.people WHERE name LIKE '{SECRET}%'") == [(0,)]
    assert run(session, "SELECT count(DISTINCT name), max(phone) FROM hr.people") == [(4, None)]


def test_a_mask_shows_the_last_four_characters_only(lakehouse: Lakehouse) -> None:
    rows = run(session_of(lakehouse, "european"), "SELECT phone FROM hr.people ORDER BY id")
    assert rows == [("******4567",), (None,)]


def test_a_filter_can_depend_on_who_asks(lakehouse: Lakehouse) -> None:
    sql = "SELECT id FROM hr.people ORDER BY id"
    assert run(session_of(lakehouse, "owner", name="ann"), sql) == [(1,), (4,)]
    assert run(session_of(lakehouse, "owner", name="ben"), sql) == [(2,), (3,)]
    assert run(session_of(lakehouse, "owner", name="' OR true --"), sql) == []


def test_several_roles_give_what_any_of_them_gives(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "owner", "european", name="ben")
    rows = run(session, "SELECT id, phone FROM hr.people ORDER BY id")
    assert rows == [(1, "******4567"), (2, f"{SECRET}5678"), (3, None)]
    everything = session_of(lakehouse, "european", "reader")
    assert run(everything, "SELECT count(*) FROM hr.people") == [(4,)]


def test_the_most_specific_pattern_of_a_role_holds(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "broad")
    assert run(session, "SELECT count(*) FROM hr.public") == [(4,)]
    assert run(session, "SELECT count(*) FROM shop.people") == [(4,)]
    assert session.lakes.default.tables("hr") == ["public"]
    assert session.lakes.default.schemas() == ["hr", "main", "shop"]


def test_without_a_role_there_is_nothing(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse)
    assert session.lakes.default.schemas() == []
    with pytest.raises(SchemaNotFound):
        run(session, "FROM hr.people")
    assert run(session, "SELECT 1") == [(1,)]
    assert (
        run(session, "SELECT table_name FROM information_schema.tables WHERE table_schema <> 'system'") == []
    )
    unknown = session_of(lakehouse, "no such role")
    assert unknown.lakes.default.schemas() == []


def test_information_schema_lists_what_may_be_read(lakehouse: Lakehouse) -> None:
    run(session_of(lakehouse, "reader"), "FROM hr.people")
    run(session_of(lakehouse, "reader"), "FROM main.other")
    tables = "FROM information_schema.tables WHERE table_schema <> 'system'"
    sql = f"SELECT table_schema, table_name {tables} ORDER BY ALL"
    assert run(session_of(lakehouse, "european"), sql) == [("hr", "people")]
    assert run(session_of(lakehouse, "broad"), sql) == [
        ("hr", "public"),
        ("main", "other"),
        ("shop", "people"),
    ]
    assert len(run(session_of(lakehouse, "reader"), sql)) == 4
    columns = "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'hr'"
    assert run(session_of(lakehouse, "broad"), columns) == [("public",)]
    schemata = "SELECT schema_name FROM information_schema.schemata WHERE schema_name <> 'system' ORDER BY 1"
    assert run(session_of(lakehouse, "european"), schemata) == [("hr",)]
    session = session_of(lakehouse, "broad")
    run(session, "USE hr")
    assert run(session, "SHOW TABLES") == [("public",)]
    assert SECRET not in str(run(session, "SHOW ALL TABLES"))
    assert "people" not in str([row[1:3] for row in run(session, "SHOW ALL TABLES") if row[1] == "hr"])


def test_a_cursor_used_by_one_principal_shows_nothing_to_another(lakehouse: Lakehouse) -> None:
    reader, european, broad = (session_of(lakehouse, role) for role in ("reader", "european", "broad"))
    for _ in range(3):
        assert run(reader, "SELECT count(*) FROM hr.people") == [(4,)]
        assert run(european, "SELECT count(*) FROM hr.people") == [(2,)]
        with pytest.raises(TableNotFound):
            run(broad, "SELECT count(*) FROM hr.people")


def test_temporary_views_and_tables_hold_what_may_be_seen(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "european")
    run(session, "CREATE TEMP TABLE kept AS SELECT * FROM hr.people")
    run(session, "CREATE TEMP VIEW seen AS SELECT * FROM hr.people")
    for table in ("kept", "seen"):
        assert run(session, f"SELECT id FROM {table} ORDER BY id") == [(1,), (3,)]
    other = session_of(lakehouse, "reader")
    with pytest.raises(TableNotFound):
        run(other, "FROM kept")


def test_views_upon_views_stand_for_a_bounded_number_of_tables(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "reader")
    run(session, "CREATE TEMP VIEW v0 AS SELECT id FROM hr.people")
    for level in range(1, 7):
        run(session, f"CREATE TEMP VIEW v{level} AS SELECT a.id FROM v{level - 1} a, v{level - 1} b")
    with pytest.raises(LimitExceeded, match="the views of the statement stand for more"):
        run(session, "CREATE TEMP VIEW v7 AS SELECT a.id FROM v6 a, v6 b")
    assert run(session, "SELECT count(*) > 0 FROM v1") == [(True,)]


def test_a_transaction_sees_what_may_be_seen(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "european")
    run(session, "BEGIN")
    assert run(session, "SELECT count(*) FROM hr.people") == [(2,)]
    run(session, "CREATE TEMP TABLE inside AS FROM hr.people")
    assert run(session, "SELECT count(*) FROM inside JOIN hr.people USING (id)") == [(2,)]
    run(session, "ROLLBACK")


def test_parameters_and_prepared_plans_are_guarded(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "european")
    assert run(session, "SELECT count(*) FROM hr.people WHERE id > ?", [0]) == [(2,)]
    broad = session_of(lakehouse, "broad")
    analysis = broad.engine.gate.analyse("SELECT id FROM hr.people WHERE id = ?")
    assert broad.engine.columns_of(("hr", "people"), broad, None) is None
    with pytest.raises(TableNotFound):
        broad.engine.typed_schema(analysis, broad, None, pa.schema([("1", pa.int64())]))


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO x SELECT id, name FROM hr.people",
        "INSERT INTO x BY NAME SELECT id, name FROM hr.people",
        "UPDATE x SET name = p.name FROM hr.people p WHERE p.id = x.id",
        "UPDATE x SET name = (SELECT string_agg(name) FROM hr.people)",
        "DELETE FROM x USING hr.people p WHERE p.id <> x.id",
        "MERGE INTO x USING hr.people p USING (id) WHEN NOT MATCHED THEN INSERT VALUES (p.id, p.name)",
        "WITH p AS (FROM hr.people) INSERT INTO x SELECT id, name FROM p",
        "CREATE OR REPLACE TEMP TABLE x AS SELECT id, name FROM hr.people",
    ],
)
def test_a_row_filter_holds_where_temporary_tables_are_filled(lakehouse: Lakehouse, sql: str) -> None:
    session = session_of(lakehouse, "european")
    run(session, "CREATE TEMP TABLE x AS SELECT 1::BIGINT AS id, 'old' AS name UNION ALL SELECT 2, 'old'")
    run(session, sql)
    assert SECRET not in str(run(session, "FROM x"))
    hidden = session_of(lakehouse, "broad")
    run(hidden, "CREATE TEMP TABLE x AS SELECT 1::BIGINT AS id, 'old' AS name")
    with pytest.raises(TableNotFound):
        run(hidden, sql)


def test_a_point_in_time_cannot_be_asked_of_a_table(lakehouse: Lakehouse) -> None:
    run(session_of(lakehouse, "reader"), "FROM hr.people")
    for role in ("broad", "reader"):
        with pytest.raises(InvalidRequest, match="needs no table"):
            run(
                session_of(lakehouse, role),
                "FROM shop.people AT (VERSION => (SELECT count(*) FROM hr.people))",
            )


def test_the_plan_of_a_query_on_a_part_is_not_shown(lakehouse: Lakehouse) -> None:
    with pytest.raises(PermissionDenied):
        run(session_of(lakehouse, "european"), "EXPLAIN SELECT * FROM hr.people")
    assert run(session_of(lakehouse, "reader"), "EXPLAIN SELECT * FROM hr.people")


def test_a_filter_that_does_not_fit_the_table_shows_nothing(lakehouse: Lakehouse) -> None:
    with pytest.raises(LakehouseError, match=r"\[ACCESS_POLICY\].*misfit.*planet"):
        run(session_of(lakehouse, "misfit"), "SELECT 1 FROM hr.people")


def test_suggestions_name_nothing_that_is_hidden(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "broad")
    for sql in ("FROM hr.peopl", "FROM hr.people2", "FROM main.people"):
        with pytest.raises(TableNotFound) as missing:
            run(session, sql)
        assert "hr.people" not in missing.value.hint
    with pytest.raises(SchemaNotFound) as nowhere:
        run(session_of(lakehouse, "european"), "FROM shopp.people")
    assert nowhere.value.hint == ""


def write(session: Session, table: str, mode: WriteMode, schema: str = "hr") -> int:
    scope = Scope(session, None, CallWatch())
    target = TableName("lake", schema, table)
    return session.engine.changes.ingest(scope, target, mode, PEOPLE.schema, PEOPLE.slice(0, 1).to_batches())


@pytest.mark.parametrize("mode", list(WriteMode))
def test_writing_needs_the_privilege(lakehouse: Lakehouse, mode: WriteMode) -> None:
    for roles in (("reader",), ("european",), ("owner",)):
        with pytest.raises(PermissionDenied):
            write(session_of(lakehouse, *roles), "people", mode)
    broad = session_of(lakehouse, "broad")
    with pytest.raises(PermissionDenied) as present:
        write(broad, "people", mode)
    with pytest.raises(PermissionDenied) as absent:
        write(broad, "nothing", mode)
    assert str(present.value).replace("people", "nothing") == str(absent.value)
    with pytest.raises(SchemaNotFound):
        write(session_of(lakehouse, "european"), "people", mode, "shop")


def test_a_grant_to_write_lets_rows_in_but_not_out(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse, "appender")
    before = run(session_of(lakehouse, "reader"), "SELECT count(*) FROM hr.people")[0][0]
    assert write(session, "people", WriteMode.APPEND) == 1
    with pytest.raises(TableNotFound):
        run(session, "FROM hr.people")
    assert session.lakes.default.tables("hr") == []
    assert run(session_of(lakehouse, "reader"), "SELECT count(*) FROM hr.people") == [(before + 1,)]
    broad = session_of(lakehouse, "broad")
    assert write(broad, "published", WriteMode.CREATE) == 1
    run(broad, "DROP TABLE hr.published")


@pytest.mark.parametrize("sql", ["DROP TABLE hr.people", "DROP SCHEMA hr", "CREATE SCHEMA fresh"])
def test_ddl_needs_the_privilege(lakehouse: Lakehouse, sql: str) -> None:
    for roles in (("reader",), ("european",), ("broad",), ()):
        with pytest.raises((PermissionDenied, TableNotFound, SchemaNotFound)):
            run(session_of(lakehouse, *roles), sql)
    run(session_of(lakehouse, "broad"), "DROP TABLE IF EXISTS hr.people")
    assert run(session_of(lakehouse, "reader"), "SELECT count(*) > 0 FROM hr.people") == [(True,)]


def test_actions_are_granted_by_name_or_pattern(lakehouse: Lakehouse) -> None:
    auditor = session_of(lakehouse, "auditor").access
    assert auditor.may_run("audit.flush", Permission.ADMIN)
    assert not auditor.may_run("audits.flush", Permission.ADMIN)
    assert not auditor.may_run("admin.kill", Permission.ADMIN)
    assert auditor.may_run("server.status", Permission.READ)
    assert session_of(lakehouse, "admin").access.may_run("admin.kill", Permission.ADMIN)
    assert not session_of(lakehouse, "writer").access.may_run("admin.kill", Permission.ADMIN)


def test_system_tables_show_everything_to_those_who_were_granted_them(lakehouse: Lakehouse) -> None:
    assert run(session_of(lakehouse, "auditor"), "SELECT count(*) >= 0 FROM system.audit") == [(True,)]
    assert run(session_of(lakehouse, "admin"), "SELECT count(*) >= 0 FROM lake.system.audit") == [(True,)]
    for roles in (("reader",), ("writer",), ("broad",), ()):
        with pytest.raises(TableNotFound):
            run(session_of(lakehouse, *roles), "FROM system.audit")


def test_a_schema_that_is_hidden_cannot_be_chosen(lakehouse: Lakehouse) -> None:
    with pytest.raises(SchemaNotFound):
        run(session_of(lakehouse, "european"), "USE shop")


def test_another_principal_cannot_use_a_handle_or_token(lakehouse: Lakehouse) -> None:
    ann, ben = Principal("ann", frozenset({"reader"})), Principal("ben", frozenset({"reader"}))
    mine = lakehouse.sessions.get("shared token", ann)
    yours = lakehouse.sessions.get("shared token", ben)
    assert mine is not yours
    transaction = mine.begin()
    assert lakehouse.sessions.owner(transaction.id, ben_session := yours) is ben_session
    assert lakehouse.sessions.owner(transaction.id, mine) is mine
    fewer = lakehouse.sessions.get("shared token", Principal("ann", frozenset()))
    assert fewer is not mine


@pytest.mark.parametrize(
    "expression",
    ["1 +", "(SELECT 1) = 1", "count(*) > 1", "id = ?", "true; DROP TABLE x", "read_text('x') = ''"],
)
def test_filters_and_masks_that_reach_beyond_the_row_are_refused(tmp_path: Path, expression: str) -> None:
    for grant in ({"row_filter": expression}, {"masks": {"a": expression}}):
        roles = [{"name": "bad", "grants": [{"on": "lake.a.b", **grant}]}]
        with pytest.raises(ConfigError, match=r"bad|roles"):
            Lakehouse(Settings.model_validate({"buckets": [{"path": str(tmp_path)}], "roles": roles}))
