"""The gate finds every table of a statement, and tells where it stands: held against DuckDB itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.engine.gate import Analysis, StatementGate, StatementKind, rewrite_reference

TABLES = ("f", "g", "h", "ünï")


@pytest.fixture(scope="module")
def gate() -> Iterator[StatementGate]:
    connection = duckdb.connect()
    yield StatementGate(connection)
    connection.close()


def lake(*, hidden: bool) -> duckdb.DuckDBPyConnection:
    """A database with the tables; with ``hidden`` they are elsewhere and others stand in their places."""
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA nyc; CREATE SCHEMA hid; CREATE SCHEMA recurring")
    for name in TABLES:
        for schema in ("main", "nyc", "recurring"):
            place = f'hid."{schema} {name}"' if hidden else f'{schema}."{name}"'
            connection.execute(f"CREATE TABLE {place} AS SELECT '{schema[0]}{name}' AS s, 1 AS k, 2 AS v")
            if hidden:
                connection.execute(f"CREATE TABLE {schema}.\"{name}\" AS SELECT 'WRONG' AS s, 0 AS k, 0 AS v")
    for schema in ("main", "hid"):
        connection.execute(f"CREATE TABLE {schema}.own AS SELECT 'own' AS s, 1 AS k, 2 AS v")
    return connection


@pytest.fixture(scope="module")
def plain() -> Iterator[duckdb.DuckDBPyConnection]:
    with lake(hidden=False) as connection:
        yield connection


@pytest.fixture(scope="module")
def hidden() -> Iterator[duckdb.DuckDBPyConnection]:
    with lake(hidden=True) as connection:
        yield connection


def rewritten(analysis: Analysis) -> str:
    """The statement with the hidden table in place of every table it names."""
    raw = analysis.sql.encode()
    for reference in sorted(analysis.references, key=lambda r: r.span or (0, 0), reverse=True):
        assert reference.span is not None, (analysis.sql, reference)
        start, end = reference.span
        *schema, table = reference.path
        view = f'hid."{schema[-1].lower() if schema else "main"} {table.lower()}"'
        text = rewrite_reference(raw[start:end].decode(), view, table, reference.has_alias)
        raw = raw[:start] + text.encode() + raw[end:]
    return raw.decode()


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Any] | None:
    try:
        return sorted(connection.execute(sql).fetchall(), key=str)
    except duckdb.Error:
        return None


FORMS = """
FROM f
TABLE f
(TABLE f)
TABLE nyc.f UNION ALL TABLE g ORDER BY 1
SELECT * FROM f, g b, LATERAL (SELECT f.k + 1 AS z FROM h c)
SELECT f.s FROM f POSITIONAL JOIN nyc . g
SELECT a.y FROM f AS a(x, y)
SELECT * FROM a: nyc.f
SELECT "a b".s FROM "a b" : nyc . "f" TABLESAMPLE 100%
SELECT f.s FROM f TABLESAMPLE 100 PERCENT (bernoulli)
SELECT * FROM f USING SAMPLE 100%
SELECT * FROM (f) JOIN ((g)) USING (k)
SELECT * FROM (nyc.f JOIN g USING (k)) j
SELECT 'ü', f.s FROM nyc /* x . y */ . f, "ünï" -- AT (VERSION => 3)
SELECT s FROM 'f'
SELECT f.s, g.s FROM f, nyc.g WHERE f.k IN (SELECT k FROM h) AND EXISTS (FROM f)
SELECT (SELECT max(s) FROM f) || s FROM f ORDER BY (SELECT s FROM g) LIMIT (SELECT count(*) FROM h)
SELECT s FROM f QUALIFY row_number() OVER (ORDER BY (SELECT s FROM g)) = 1
SELECT * FROM f WHERE k = ANY (SELECT k FROM g) GROUP BY ALL HAVING count(*) > 0
SELECT * FROM f SEMI JOIN g USING (k) ANTI JOIN (FROM nyc.h WHERE false) USING (k)
SELECT * FROM range((SELECT v FROM f)) t(i), unnest([(SELECT s FROM g)]) u(x)
VALUES ((SELECT s FROM f))
FROM (VALUES ((SELECT s FROM f))) t(s)
SELECT list_transform([1, 2], lambda x: x + 1), s FROM f
SELECT COLUMNS(lambda c: c = 's') FROM f
PIVOT f ON s USING sum(v) GROUP BY k
PIVOT nyc.f ON s || 'x', k IN (1) USING sum(v)
PIVOT f ON s IN ('mf') USING sum(v)
PIVOT (SELECT * FROM f JOIN g USING (k, v)) ON k USING count(*)
SELECT * FROM (PIVOT f ON s USING sum(v)) JOIN g USING (k)
WITH x AS (PIVOT f ON s USING sum(v)) FROM x, g
WITH f AS (SELECT s, 9 AS v FROM f) PIVOT f ON s USING sum(v)
SELECT * FROM f PIVOT (sum(v) FOR s IN ('mf'))
FROM f PIVOT (sum(v) FOR s IN ('mf')) JOIN g USING (k)
UNPIVOT f ON k, v
SELECT * FROM nyc.f UNPIVOT (a FOR b IN (k, v))
DESCRIBE f
DESC nyc.f
DESCRIBE TABLE f
SHOW f
SHOW nyc."f"
SUMMARIZE nyc.f
SUMMARIZE SELECT s FROM f
DESCRIBE SELECT s FROM f
SELECT column_name FROM (DESCRIBE f)
SELECT min, max FROM (SUMMARIZE nyc.f)
WITH x AS (SUMMARIZE f), f AS (TABLE x) SELECT min FROM f
DESCRIBE DESCRIBE f
"""


@pytest.mark.parametrize("sql", FORMS.strip().splitlines())
def test_a_table_can_be_replaced_in_every_form(
    sql: str, gate: StatementGate, plain: duckdb.DuckDBPyConnection, hidden: duckdb.DuckDBPyConnection
) -> None:
    expected = rows(plain, sql)
    analysis = gate.analyse(sql)
    assert expected is not None
    assert analysis.references
    assert rows(plain, analysis.sql) == expected
    assert rows(hidden, rewritten(analysis)) == expected


CHANGES = """
INSERT INTO own SELECT * FROM nyc.f AS q -- AT (VERSION => 3)
INSERT INTO own TABLE f
INSERT INTO own BY NAME SELECT s FROM f
WITH x AS (FROM f), own AS (FROM x) INSERT INTO own FROM own UNION ALL FROM g
UPDATE own SET s = (SELECT max(s) FROM nyc.f), v = g.v + 7 FROM g WHERE own.k = g.k
DELETE FROM own USING f WHERE own.k = f.k
DELETE FROM own WHERE k IN (WITH g AS (FROM f) SELECT k FROM g)
MERGE INTO own USING nyc.f AS q ON own.k = q.k WHEN MATCHED THEN UPDATE SET s = q.s
MERGE INTO own o USING (SELECT * FROM f UNION SELECT 'new', 8, 8) q USING (k) WHEN NOT MATCHED THEN INSERT
WITH x AS (FROM f) MERGE INTO own USING x ON (CASE WHEN true THEN false END) WHEN NOT MATCHED THEN INSERT
"""


@pytest.mark.parametrize("sql", CHANGES.strip().splitlines())
def test_a_table_can_be_replaced_in_every_change(
    sql: str, gate: StatementGate, plain: duckdb.DuckDBPyConnection, hidden: duckdb.DuckDBPyConnection
) -> None:
    analysis = gate.analyse(sql)
    found = []
    for connection, text in ((plain, sql), (hidden, rewritten(analysis))):
        connection.execute("BEGIN")
        connection.execute(text)
        found.append(rows(connection, "FROM own"))
        connection.execute("ROLLBACK")
    assert analysis.kind is StatementKind.DML
    assert analysis.target == ("own",)
    assert found[0] == found[1] != [("own", 1, 2)]


@pytest.mark.parametrize(
    ("sql", "plain_sql", "target"),
    [
        ("CREATE TEMP TABLE x AS TABLE f", "CREATE TABLE x AS FROM f", ("x",)),
        (
            'CREATE /* c */ OR REPLACE TEMPORARY VIEW temp."x y"(a) AS WITH f AS (FROM g) SELECT s FROM f',
            'CREATE OR REPLACE VIEW temp."x y"(a) AS WITH f AS (FROM g) SELECT s FROM f',
            ("temp", "x y"),
        ),
        ("CREATE TEMP TABLE IF NOT EXISTS x AS FROM f", "CREATE TABLE IF NOT EXISTS x AS FROM f", ("x",)),
    ],
)
def test_a_new_temporary_table_names_what_it_reads(
    sql: str, plain_sql: str, target: tuple[str, ...], gate: StatementGate
) -> None:
    analysis = gate.analyse(sql)
    assert (analysis.sql, analysis.target) == (plain_sql, target)
    assert [reference.span is not None for reference in analysis.references] == [True]
    assert 'hid."main ' in rewritten(analysis)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT s,\u00a0s FROM\u2003f\u00a0a",
        "SELECT 'a\u00a0b' || f.s FROM nyc\u3000.\u00a0f -- \u00a0\n, g",
        "SELECT 'é' || f.s FROM f\u200b, /* \u2003 */ nyc.g",
    ],
)
def test_wide_blanks_do_not_shift_places(
    sql: str, gate: StatementGate, plain: duckdb.DuckDBPyConnection, hidden: duckdb.DuckDBPyConnection
) -> None:
    expected = rows(plain, sql)
    assert expected is not None
    assert rows(hidden, rewritten(gate.analyse(sql))) == expected


def test_a_place_that_cannot_be_told_is_not_guessed(gate: StatementGate) -> None:
    (reference,) = gate.analyse("SELECT * FROM (SHOW f)").references
    assert (reference.path, reference.span) == (("f",), None)


def test_time_travel_is_read_from_the_clause_not_from_comments(gate: StatementGate) -> None:
    sql = "FROM nyc.f /* AT (VERSION => 5) */ a (x) AT /* c */ ( version /**/ => 1 /* ) */ + (2) -- )\n )"
    analysis = gate.analyse(sql)
    (reference,) = analysis.references
    assert reference.at == ("VERSION", "1 /* ) */ + (2)")
    assert rewritten(analysis) == 'FROM hid."nyc f" /* AT (VERSION => 5) */ a (x) '


NAMES = st.sampled_from(["f", "g", "h", "F", '"f"', "nyc.f", "main.g", "recurring.f", "recurring.h", '"ünï"'])
CTE_NAMES = st.sampled_from(["f", "g", "h", "F", "ünï"])


SHAPES = [
    "WITH {cte}(s) AS ({q}) {p}",
    "WITH {cte}(s) AS MATERIALIZED ({q}) {p}",
    "WITH {cte}(s) AS NOT MATERIALIZED ({q}) {p}",
    "WITH {cte}(s) AS ({q}), {cte2}(s) AS ({p}) {r}",
    "WITH RECURSIVE {cte}(s) AS ({q}) {p}",
    "WITH RECURSIVE {cte}(s) AS ({q} UNION SELECT a.s || 'x' FROM {name} a, ({p}) b WHERE len(a.s) < 5) {r}",
    "SELECT s FROM ({q}) t",
    "({q}) UNION ALL ({p})",
    "SELECT s FROM {name} UNION SELECT s FROM {name2}",
    "SELECT s FROM {name} x WHERE s IN ({q}) OR EXISTS ({p})",
    "SELECT (SELECT min(s) FROM ({q})) AS s FROM {name}",
    "SELECT x.s FROM {name} x, LATERAL (SELECT x.s || y.s AS s FROM ({q}) y)",
    "SELECT min AS s FROM (SUMMARIZE SELECT s FROM {name})",
    "SELECT column_name AS s FROM (DESCRIBE {name})",
    "SELECT s FROM {name} ORDER BY (SELECT min(s) FROM ({q}))",
]


def queries(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Queries of one column ``s`` built of smaller ones."""
    parts = {"q": inner, "p": inner, "r": inner, "cte": CTE_NAMES, "cte2": CTE_NAMES}
    names = {"name": NAMES, "name2": NAMES}
    return st.one_of(*(st.builds(shape.format, **parts, **names) for shape in SHAPES))


QUERIES = st.recursive(st.builds("SELECT s FROM {0}".format, NAMES), queries, max_leaves=8)


def test_names_of_common_table_expressions_are_resolved_as_duckdb_does(
    gate: StatementGate, plain: duckdb.DuckDBPyConnection, hidden: duckdb.DuckDBPyConnection
) -> None:
    compared = 0

    @settings(max_examples=250, derandomize=True, deadline=None, database=None)
    @given(QUERIES)
    def compare(sql: str) -> None:
        nonlocal compared
        expected = rows(plain, sql)
        if expected is not None:
            assert rows(hidden, rewritten(gate.analyse(sql))) == expected
            compared += 1

    compare()
    assert compared > 150
