"""Statements too long, too deep or too slow to read: a clean refusal, and nobody else waits."""

from __future__ import annotations

import subprocess
import sys
import threading

import duckdb
import pytest

from lakehouse.engine import gate_parser
from lakehouse.engine.gate import MAX_PARAMETERS, StatementGate
from lakehouse.engine.gate_parser import MAX_NESTING, Parsers, check_nesting
from lakehouse.engine.gate_scope import MAX_QUERIES
from lakehouse.errors import LimitExceeded, SqlSyntaxError


@pytest.fixture(scope="module")
def gate() -> StatementGate:
    return StatementGate(duckdb.connect(), max_bytes=1000)


def test_a_long_statement_is_refused_by_its_bytes_and_told_the_limit(gate: StatementGate) -> None:
    gate.analyse(f"SELECT '{'x' * 991}'")
    for text in (f"SELECT '{'x' * 992}'", f"SELECT '{'é' * 500}'", " " * 1001):
        with pytest.raises(LimitExceeded, match="longer than 1000 bytes") as raised:
            gate.analyse(text)
        assert "limits.statement_bytes" in str(raised.value)


# Each of these ended the process, took for ever or ran into Python's own limit before there was one.
DEEP = {
    "brackets": "'SELECT ' + '(' * n + '1' + ')' * n",
    "open brackets": "'SELECT ' + '(' * n",
    "brackets in FROM": "'FROM ' + '(' * n + 't' + ')' * n",
    "queries in FROM": "'SELECT * FROM ' + '(SELECT * FROM ' * n + 't' + ')' * n",
    "queries in WITH": "'WITH a AS (' * n + 'SELECT 1' + ') SELECT 1' * n",
    "hidden in strings": """"SELECT " + "(')'||" * n + "1" + ")" * n""",
    "hidden in comments": "'SELECT ' + '(/*)*/' * n + '1' + ')' * n",
    "hidden in dollars": "'SELECT ' + '($$)$$||' * n + '1' + ')' * n",
    "lists": "'SELECT ' + '[' * n + ']' * n",
    "structs": "'SELECT ' + '{a:' * n + '1' + '}' * n",
    "describe": "'DESCRIBE ' * n + 't'",
    "describe with comments": "'DESCRIBE/**/' * n + 't'",
    "case": "'SELECT ' + 'CASE WHEN a THEN ' * n + '1' + ' END' * n",
    "not": "'SELECT ' + 'NOT ' * n + 'true'",
    "minus": "'SELECT ' + '- ' * n + '1'",
    "plus": "'SELECT 1' + ' + 1' * n",
    "casts": "'SELECT 1' + '::INT' * n",
    "methods": "'SELECT x' + '.lower()' * n",
    "unions": "' UNION ALL '.join(['SELECT 1'] * n)",
    "joins": "'FROM t ' + 'JOIN t USING (a) ' * n",
    "conditions": "'SELECT 1 WHERE ' + ' AND '.join(['a'] * n)",
    "arrays of arrays": "'SELECT 1::INT' + '[]' * n",
    "inserts": "'INSERT INTO t ' + '(' * n + 'FROM t' + ')' * n",
    "column defaults": "'CREATE TEMP TABLE t (a INT DEFAULT ' + '(' * n + '1' + ')' * n + ')'",
    "explain": "'EXPLAIN ' + '(' * n + 'SELECT 1' + ')' * n",
    "comments": "'/*' * n + '*/' * n + 'SELECT 1'",
}
SCRIPT = """
import duckdb
from lakehouse.engine.gate import StatementGate
from lakehouse.errors import LakehouseError
gate, n = StatementGate(duckdb.connect(), max_bytes=1_000_000), 20_000
for name, text in {cases!r}.items():
    try:
        gate.analyse(eval(text))
        print(name, "passes", flush=True)
    except LakehouseError as error:
        print(name, "refused", error.code, flush=True)
print("alive")
"""


def test_no_depth_of_nesting_ends_the_process() -> None:
    # In a process of its own: what this guards against is one that dies.
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(cases=DEEP)], capture_output=True, text=True, check=False
    )
    lines = run.stdout.splitlines()
    assert (run.returncode, lines[-1:]) == (0, ["alive"]), run.stderr[-2000:]
    passed = {line.removesuffix(" passes") for line in lines if line.endswith(" passes")}
    assert passed <= {"joins", "conditions", "comments"}
    refused = [line for line in lines[:-1] if "refused" in line]
    assert all(line.endswith((" SQL_SYNTAX", "unions refused LIMIT_EXCEEDED")) for line in refused)


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT {'(' * MAX_NESTING}1{')' * MAX_NESTING}",
        "VALUES " + ", ".join(["(')', \"(\", [1])"] * 1000),
        f"SELECT '{'(' * 1000}', \"{'[' * 1000}\", $${'{' * 1000}$$ /* {'(' * 1000} */ -- {'(' * 1000}",
        f"SELECT 1 ORDER BY {', '.join(['1 DESC'] * 1000)}",
        "SELECT " + " + ".join(["f('it''s (', E'\\'(')"] * 400),
    ],
)
def test_brackets_that_are_not_nested_do_not_count(text: str) -> None:
    check_nesting(text)


@pytest.mark.parametrize("opening", ["(", "[", "{", "(')'||", '(")"||', "(/*)*/", "(E'\\')'||", "($x$)$x$||"])
def test_one_level_more_is_too_many(opening: str) -> None:
    check_nesting(f"SELECT {opening * MAX_NESTING}")
    with pytest.raises(SqlSyntaxError, match="nested too deeply"):
        check_nesting(f"SELECT {opening * (MAX_NESTING + 1)}")


def test_a_statement_that_takes_long_does_not_hold_up_the_others() -> None:
    parsers = Parsers(duckdb.connect())
    held = [parsers._parser(gate_parser._BIG + 1) for _ in range(gate_parser._BIG_AT_ONCE)]
    for parser in held:
        parser.__enter__()
    # As many as may run at once are at work on big statements, and one more waits.
    waiting = threading.Thread(target=parsers.query, args=(f"SELECT '{'x' * gate_parser._BIG}'",))
    waiting.start()
    assert parsers.query("SELECT 1") is not None
    assert waiting.is_alive()
    for parser in held:
        parser.__exit__(None, None, None)
    waiting.join(30)
    assert not waiting.is_alive()


def test_parsers_work_at_once() -> None:
    gate = StatementGate(duckdb.connect())
    found: list[int] = []

    def analyse(worker: int) -> None:
        for number in range(30):
            analysis = gate.analyse(f"SELECT {number} FROM t{worker}, nyc.s")
            assert [r.path for r in analysis.references] == [(f"t{worker}",), ("nyc", "s")]
            found.append(number)

    threads = [threading.Thread(target=analyse, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 240


def test_a_big_statement_names_what_a_small_one_names() -> None:
    gate = StatementGate(duckdb.connect())
    columns = ", ".join(f'a{n} + {n}, \'{{"class":"CONSTANT"}}{n}\'' for n in range(2000))
    analysis = gate.analyse(
        f"SELECT {columns}, (SELECT max(x) FROM s WHERE y = 'z') FROM nyc.t a WHERE b IN (1)"
    )
    assert len(analysis.sql) > gate_parser._BIG
    assert [r.path for r in analysis.references] == [("s",), ("nyc", "t")]
    assert all(r.span is not None for r in analysis.references)


def test_parsing_goes_on_with_another_connection() -> None:
    first, second = duckdb.connect(), duckdb.connect()
    gate = StatementGate(first)
    gate.analyse("SELECT 1")
    first.close()
    gate.reconnect(second)
    gate.analyse("SELECT 2")


def chain(word: str, length: int) -> str:
    """Expressions of which each joins the one before with itself."""
    steps = [f"a{n} AS {word} (SELECT p.x FROM a{n - 1} p, a{n - 1} q)" for n in range(1, length)]
    return f"WITH a0 AS (SELECT 1 AS x), {', '.join(steps)} SELECT count(*) FROM a{length - 1}"


# DuckDB plans each of these for minutes, deaf to being interrupted, or until memory is gone.
TOO_MANY_JOINS = [
    "FROM t" + ", t" * 200,
    "FROM t " + "LEFT JOIN t USING (a) " * 200,
    "FROM t" + ", LATERAL (SELECT a.a FROM t a WHERE a.a = t.a)" * 200,
    "FROM t WHERE " + " AND ".join(["EXISTS (SELECT 1 FROM t x WHERE x.a = t.a)"] * 200),
    "SELECT " + ", ".join(["(SELECT max(a) FROM t x WHERE x.a = t.a)"] * 200) + " FROM t",
    chain("NOT MATERIALIZED", 20),
    chain("NOT MATERIALIZED", 200),
    "WITH a AS NOT MATERIALIZED (FROM t" + ", t" * 40 + ") FROM a, a b, a c",
    "WITH a AS (FROM t" + ", t" * 60 + ") FROM a" + ", t" * 60,
    "SELECT 1 UNION ALL FROM t" + ", t" * 200,
    "INSERT INTO t FROM t" + ", t" * 200,
    "EXPLAIN FROM t" + ", t" * 200,
]


@pytest.mark.parametrize("sql", TOO_MANY_JOINS, ids=lambda sql: sql[:30])
def test_more_joins_than_can_be_planned_are_refused(sql: str) -> None:
    with pytest.raises(LimitExceeded, match="joins more than 100 tables"):
        StatementGate(duckdb.connect()).analyse(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM t" + ", t" * 100,
        chain("MATERIALIZED", 60),
        chain("", 30),
        " UNION ALL ".join(["FROM t" + ", t" * 20] * 50),
        "WITH a AS MATERIALIZED (FROM t" + ", t" * 60 + ") FROM a, a b, a c" + ", t" * 60,
    ],
    ids=lambda sql: sql[:30],
)
def test_what_is_planned_apart_does_not_count_together(sql: str) -> None:
    StatementGate(duckdb.connect()).analyse(sql)


def test_the_texts_kept_are_bounded_in_number_and_length() -> None:
    gate = StatementGate(duckdb.connect(), cache_entries=3)
    first = gate.analyse("SELECT 0")
    assert gate.analyse("SELECT 0") is first
    for number in range(1, 4):
        gate.analyse(f"SELECT {number}")
    assert gate.analyse("SELECT 0") is not first
    wide = StatementGate(duckdb.connect(), cache_entries=1000)
    first = wide.analyse("SELECT 0")
    for number in range(41):
        wide.analyse(f"SELECT {number}, '{'x' * 99_900}'")
    assert wide.analyse("SELECT 0") is not first


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELECT 1" + " UNION ALL SELECT 1" * MAX_QUERIES, "puts together more than"),
        ("SELECT 1 IN (" + ", ".join("?" * (MAX_PARAMETERS + 1)) + ")", "parameters, expected up to"),
    ],
)
def test_what_cannot_be_planned_in_reasonable_time_is_refused(sql: str, what: str) -> None:
    with pytest.raises(LimitExceeded, match=what):
        StatementGate(duckdb.connect(), max_bytes=1_000_000).analyse(sql)
