"""Types of parameters inferred from statements; each is checked by binding such a value in DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.engine.parameters import infer_parameters
from lakehouse.engine.signatures import argument_type, result_type

TEXT, BOOL, I16, I32, I64 = pa.string(), pa.bool_(), pa.int16(), pa.int32(), pa.int64()
F32, F64, DATE, TIME = pa.float32(), pa.float64(), pa.date32(), pa.time64("us")
TS, TZ, SPAN, BYTES = pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.duration("us"), pa.binary()
MONEY, TAX = pa.decimal128(12, 2), pa.decimal128(5, 4)

TABLES = {
    "orders": """
        CREATE TABLE orders (id BIGINT PRIMARY KEY, customer INTEGER, total DECIMAL(12, 2), tax DECIMAL(5, 4),
            placed DATE, shipped TIMESTAMP, seen TIMESTAMPTZ, at_time TIME, weight DOUBLE, ratio FLOAT,
            note VARCHAR, blob BLOB, paid BOOLEAN, small SMALLINT, tags VARCHAR[], scores INTEGER[],
            place STRUCT(city VARCHAR, zip INTEGER), extra MAP(VARCHAR, DOUBLE), key UUID, big HUGEINT)
    """,
    "customers": "CREATE TABLE customers (id INTEGER, name VARCHAR, born DATE, points BIGINT)",
}


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for statement in TABLES.values():
            connection.execute(statement)
        connection.execute("CREATE SCHEMA shop")
        connection.execute("CREATE TABLE shop.orders (id VARCHAR, customer DATE)")
        connection.execute(
            "INSERT INTO orders (id, customer, placed, shipped, note) "
            "VALUES (1, 2, '2020-01-01', '2020-01-01 10:00:00', '{}')"
        )
        yield connection


@pytest.fixture(scope="module")
def schemas(database: duckdb.DuckDBPyConnection) -> dict[tuple[str, ...], pa.Schema]:
    def schema(table: str) -> pa.Schema:
        return database.sql(f"SELECT * FROM {table} LIMIT 0").to_arrow_table().schema

    found = {(name,): schema(name) for name in TABLES}
    found["shop", "orders"] = schema("shop.orders")
    found["memory", "main", "orders"] = found["orders",]
    return found


# fmt: off
CASES: list[tuple[str, list[pa.DataType]]] = [
    # nothing known
    ("SELECT ?", [TEXT]),
    ("SELECT ? AS a, ? AS b", [TEXT, TEXT]),
    ("SELECT ? IS NULL", [TEXT]),
    # casts
    ("SELECT CAST(? AS INTEGER), TRY_CAST(? AS DATE)", [I32, DATE]),
    ("SELECT ?::INT, ?::VARCHAR,?::BIGINT", [I32, TEXT, I64]),
    ("SELECT $1::DECIMAL(10,2),$2::TIMESTAMP,$3::TIMESTAMPTZ", [pa.decimal128(10, 2), TS, TZ]),
    ("SELECT ?::BOOLEAN, ?::BLOB, ?::TIME, ?::REAL, ?::DOUBLE", [BOOL, BYTES, TIME, F32, F64]),
    ("SELECT ?::INT[]", [pa.list_(I32)]),
    ("SELECT ?::STRUCT(a INT, b VARCHAR)", [pa.struct([("a", I32), ("b", TEXT)])]),
    ("SELECT ?::UUID, ?::JSON, ?::INTERVAL", [TEXT, TEXT, TEXT]),
    ("SELECT ?::UTINYINT, ?::HUGEINT, ?::DECIMAL", [pa.uint8(), pa.decimal128(38, 0), pa.decimal128(18, 3)]),
    # comparisons
    ("SELECT * FROM orders WHERE id = ?", [I64]),
    ("SELECT * FROM orders WHERE ? = id AND note <> ?", [I64, TEXT]),
    ("SELECT * FROM orders WHERE total >= ? AND placed < ?", [MONEY, DATE]),
    ("SELECT * FROM orders WHERE shipped > ? OR seen <= ? OR at_time = ?", [TS, TZ, TIME]),
    ("SELECT * FROM orders WHERE weight > ? AND ratio < ? AND small = ?", [F64, F32, I16]),
    ("SELECT * FROM orders WHERE blob = ? AND paid = ? AND key = ?", [BYTES, BOOL, TEXT]),
    ("SELECT * FROM orders WHERE big = ?", [pa.decimal128(38, 0)]),
    ("SELECT * FROM orders WHERE ID = ? AND \"Note\" = ?", [I64, TEXT]),
    ("SELECT * FROM orders WHERE customer IS DISTINCT FROM ? AND id IS NOT DISTINCT FROM ?", [I32, I64]),
    ("SELECT * FROM orders WHERE id BETWEEN ? AND ?", [I64, I64]),
    ("SELECT * FROM orders WHERE ? BETWEEN placed AND shipped", [DATE]),
    ("SELECT * FROM orders WHERE customer IN (?, ?) AND id NOT IN (1, ?)", [I32, I32, I64]),
    ("SELECT * FROM orders WHERE ? IN (placed)", [DATE]),
    ("SELECT * FROM orders WHERE (customer, note) = (?, ?)", [I32, TEXT]),
    ("SELECT * FROM orders WHERE (customer, placed) IN ((?, ?), (?, ?))", [I32, DATE, I32, DATE]),
    ("SELECT * FROM orders WHERE id = ANY(?)", [pa.list_(I64)]),
    ("SELECT ? = 5, ? = 1.5, ? = 'x', ? = DATE '2020-01-01'", [I64, F64, TEXT, DATE]),
    ("SELECT ? = ?", [TEXT, TEXT]),
    ("SELECT * FROM orders WHERE (id) = (?)", [I64]),
    ("SELECT ? IS TRUE", [BOOL]),
    ("SELECT * FROM orders WHERE CAST(small AS INTEGER) = ? AND id::VARCHAR = ?", [I32, TEXT]),
    # subqueries
    ("SELECT ? IN (SELECT placed FROM orders)", [DATE]),
    ("SELECT * FROM orders WHERE customer IN (SELECT ?)", [I32]),
    ("SELECT * FROM orders WHERE customer IN (SELECT id FROM customers WHERE born > ?)", [DATE]),
    ("SELECT * FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = o.customer AND total > ?)",
     [MONEY]),
    ("SELECT * FROM orders WHERE (SELECT max(born) FROM customers) > ?", [DATE]),
    ("SELECT * FROM orders WHERE placed > (SELECT ?)", [DATE]),
    ("SELECT * FROM (SELECT id AS a, note AS b FROM orders) s WHERE s.a = ? AND b = ?", [I64, TEXT]),
    ("SELECT * FROM (SELECT * FROM orders) WHERE placed = ?", [DATE]),
    ("SELECT * FROM (SELECT id, placed FROM orders) AS s(x, y) WHERE y = ? AND x = ?", [DATE, I64]),
    ("SELECT * FROM (SELECT ? AS a) s, orders WHERE orders.placed = s.a", [DATE]),
    ("WITH c AS (SELECT total AS t FROM orders) SELECT * FROM c WHERE t = ?", [MONEY]),
    ("WITH c(a, b) AS (SELECT id, placed FROM orders) SELECT * FROM c x WHERE x.b = ?", [DATE]),
    ("WITH orders AS (SELECT born AS id FROM customers) SELECT * FROM orders WHERE id = ?", [DATE]),
    ("WITH orders AS (SELECT id, note FROM orders) SELECT * FROM orders WHERE note = ? AND id = ?",
     [TEXT, I64]),
    ("WITH a AS (SELECT id FROM orders), b AS (SELECT id AS n FROM a) SELECT * FROM b WHERE n = ?", [I64]),
    ("WITH RECURSIVE r(n) AS (SELECT 1::BIGINT UNION ALL SELECT n + 1 FROM r WHERE n < ?) SELECT * FROM r",
     [I64]),
    ("WITH p AS (SELECT ? AS low, ? AS high) SELECT * FROM orders, p WHERE placed BETWEEN p.low AND p.high",
     [DATE, DATE]),
    # names
    ("SELECT * FROM orders AS o WHERE o.placed = ?", [DATE]),
    ("SELECT * FROM orders o JOIN customers c ON customer = c.id AND c.born = ? WHERE o.id = ? AND name = ?",
     [DATE, I64, TEXT]),
    ("SELECT * FROM orders JOIN customers USING (id) WHERE points > ?", [I64]),
    ("SELECT * FROM orders o LEFT JOIN shop.orders s ON s.customer = ? WHERE o.customer = ?", [DATE, I32]),
    ("SELECT * FROM shop.orders WHERE shop.orders.customer = ? AND orders.id = ?", [DATE, TEXT]),
    ("SELECT * FROM memory.main.orders WHERE id = ?", [I64]),
    ("SELECT * FROM orders, LATERAL (SELECT * FROM customers WHERE born > orders.placed - ?) x", [I32]),
    ("SELECT id + 1 AS next FROM orders WHERE next = ?", [I64]),
    ("SELECT customer, sum(total) AS s FROM orders GROUP BY customer HAVING s > ?", [pa.decimal128(38, 2)]),
    ("SELECT * FROM orders WHERE place.zip = ? AND (place).city = ? AND place['zip'] = ?", [I32, TEXT, I32]),
    ("SELECT * FROM orders o WHERE o.place.zip = ?", [I32]),
    ("SELECT * FROM orders WHERE scores[1] = ? AND scores[?] = 1 AND extra[?] > ?", [I32, I64, TEXT, F64]),
    ("FROM orders WHERE placed = ?", [DATE]),
    ("SELECT * EXCLUDE (id) FROM (SELECT * EXCLUDE (note) FROM orders) WHERE placed = ?", [DATE]),
    ("SELECT * FROM (SELECT * REPLACE (note AS placed) FROM orders) WHERE placed = ?", [TEXT]),
    ("SELECT * REPLACE (? AS placed) FROM orders", [DATE]),
    # text
    ("SELECT * FROM orders WHERE note LIKE ? OR note ILIKE ? ESCAPE ?", [TEXT, TEXT, TEXT]),
    ("SELECT * FROM orders WHERE note SIMILAR TO ? OR note GLOB ? OR note ^@ ?", [TEXT, TEXT, TEXT]),
    ("SELECT note || ?, upper(?), substring(note, ?, ?) FROM orders", [TEXT, TEXT, I64, I64]),
    ("SELECT substring(note FROM ? FOR ?), position(? IN note), trim(BOTH ? FROM note) FROM orders",
     [I64, I64, TEXT, TEXT]),
    ("SELECT * FROM orders WHERE upper(note) = ? AND length(note) > ?", [TEXT, I64]),
    ("SELECT concat(?, note), replace(note, ?, ?), left(note, ?) FROM orders", [TEXT, TEXT, TEXT, I64]),
    ("SELECT regexp_matches(note, ?), starts_with(note, ?), note -> ? FROM orders", [TEXT, TEXT, TEXT]),
    # whole numbers
    ("SELECT * FROM orders LIMIT ? OFFSET ?", [I64, I64]),
    ("SELECT * FROM range(?)", [I64]),
    ("SELECT * FROM generate_series(?, ?) g(i) WHERE i > ?", [I64, I64, I64]),
    ("SELECT sum(id) OVER (ORDER BY id ROWS BETWEEN ? PRECEDING AND ? FOLLOWING) FROM orders", [I64, I64]),
    ("SELECT lag(total, ?, ?) OVER (ORDER BY id), ntile(?) OVER () FROM orders", [I64, MONEY, I64]),
    ("SELECT customer & ?, id << ? FROM orders", [I32, I64]),
    # arithmetic
    ("SELECT id + ?, ? - customer, small * ? FROM orders", [I64, I64, I64]),
    ("SELECT weight * ?, ratio + ?, weight / ? FROM orders", [F64, F64, F64]),
    ("SELECT total + ?, ? * total FROM orders", [MONEY, MONEY]),
    ("SELECT id / ?, id // ?, id % ?, id ** ? FROM orders", [F64, I64, I64, F64]),
    ("SELECT ? + 1, ? * 1.5, -?, ? + ?", [I64, F64, F64, F64, F64]),
    ("SELECT * FROM orders WHERE tax BETWEEN ? - 0.01 AND ? + 0.01", [TAX, TAX]),
    ("SELECT * FROM orders WHERE total * (1 - tax) > ?", [pa.decimal128(18, 6)]),
    ("SELECT * FROM orders WHERE id * 2 = ? AND total / 2 > ?", [I64, F64]),
    # dates and times
    ("SELECT placed + ?, placed - ?, ? - placed FROM orders", [I32, I32, DATE]),
    ("SELECT shipped + ?, shipped - ?, ? - shipped FROM orders", [TEXT, SPAN, TS]),
    ("SELECT * FROM orders WHERE placed - ? > 30", [DATE]),
    ("SELECT * FROM orders WHERE placed > ? - INTERVAL 1 DAY AND shipped > ? + INTERVAL '2' HOUR",
     [DATE, TS]),
    ("SELECT ? + INTERVAL 1 DAY, INTERVAL 1 DAY * ?", [TS, F64]),
    ("SELECT * FROM orders WHERE placed > current_date - ? AND shipped > now() - INTERVAL (?) DAY",
     [I32, I64]),
    ("SELECT date_trunc(?, shipped), date_trunc('month', ?), date_diff('day', placed, ?) FROM orders",
     [TEXT, TS, DATE]),
    ("SELECT * FROM orders WHERE date_trunc('month', placed) = ? AND year(placed) = ?", [TS, I64]),
    ("SELECT extract(year FROM ?), year(?), strftime(?, '%Y'), make_date(?, 1, 1)", [TS, TS, TS, I64]),
    ("SELECT shipped AT TIME ZONE ?, strptime(?, ?) FROM orders", [TEXT, TEXT, TEXT]),
    ("SELECT * FROM orders WHERE extract(month FROM placed) = ? AND shipped::DATE = ?", [I64, DATE]),
    ("SELECT * FROM orders WHERE shipped - placed > ?", [TEXT]),
    # conditions
    ("SELECT * FROM orders WHERE ?", [BOOL]),
    ("SELECT * FROM orders WHERE ? OR NOT ? AND paid", [BOOL, BOOL]),
    ("SELECT count(*) FILTER (WHERE ?) FROM orders HAVING ?", [BOOL, BOOL]),
    ("SELECT * FROM orders JOIN customers ON ?", [BOOL]),
    ("SELECT CASE WHEN ? THEN id ELSE ? END FROM orders", [BOOL, I64]),
    ("SELECT CASE customer WHEN ? THEN ? ELSE total END FROM orders", [I32, MONEY]),
    ("SELECT if(?, placed, ?) FROM orders", [BOOL, DATE]),
    ("SELECT * FROM orders WHERE id = CASE WHEN paid THEN ? ELSE ? END", [I64, I64]),
    # functions
    ("SELECT coalesce(placed, ?), ifnull(?, total), nullif(id, ?), greatest(?, weight) FROM orders",
     [DATE, MONEY, I64, F64]),
    ("SELECT * FROM orders WHERE coalesce(?, ?) = id", [I64, I64]),
    ("SELECT round(weight, ?), abs(?), sqrt(?), pow(?, 2) FROM orders", [I32, F64, F64, F64]),
    ("SELECT list_contains(tags, ?), list_position(scores, ?), array_append(scores, ?) FROM orders",
     [TEXT, I32, I32]),
    ("SELECT list_filter(scores, lambda s: s > ?), [s + ? FOR s IN scores IF s < ?] FROM orders",
     [I32, I64, I32]),
    ("SELECT * FROM orders WHERE ? = [1, 2] OR scores = ?", [pa.list_(I64), pa.list_(I32)]),
    ("SELECT [1, ?], [placed, ?] FROM orders", [I64, DATE]),
    ("SELECT sum(?), max(?)", [F64, TEXT]),
    ("SELECT string_agg(note, ? ORDER BY id), quantile_cont(weight, ?), count(DISTINCT ?) FROM orders",
     [TEXT, F64, TEXT]),
    # aggregates and windows
    ("SELECT customer FROM orders GROUP BY customer HAVING count(*) > ? AND sum(id) > ? AND avg(total) > ?",
     [I64, I64, F64]),
    ("SELECT * FROM orders QUALIFY row_number() OVER (PARTITION BY customer ORDER BY id) = ?", [I64]),
    ("SELECT customer FROM orders GROUP BY ALL HAVING max(placed) > ? AND min(total) < ?", [DATE, MONEY]),
    # sets and values
    ("SELECT placed FROM orders UNION ALL SELECT ?", [DATE]),
    ("SELECT ?, id FROM orders UNION SELECT note, customer FROM orders WHERE customer = ?", [TEXT, I32]),
    ("(SELECT id FROM orders) EXCEPT (SELECT ?) LIMIT ?", [I64, I64]),
    ("SELECT id, placed FROM orders UNION ALL BY NAME SELECT ? AS placed", [DATE]),
    ("SELECT * FROM (VALUES (1, 'a'), (?, ?)) v(a, b) WHERE a = ?", [I64, TEXT, I32]),
    ("SELECT * FROM orders, (VALUES (?, ?)) v(i, d) WHERE id = v.i AND placed = v.d", [I64, DATE]),
    ("VALUES (?, 1)", [TEXT]),
    # changes
    ("INSERT INTO orders VALUES (9, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, [], [], NULL, NULL, NULL, NULL)",
     [I32, MONEY, DATE, TS, TZ, TIME, F64, F32, TEXT, BYTES, BOOL, I16]),
    ("INSERT INTO orders (placed, id, note) VALUES (?, ?, ?), (?, 3, lower(?))",
     [DATE, I64, TEXT, DATE, TEXT]),
    ("INSERT INTO orders (id, tags, place) VALUES (101, ?, NULL)", [pa.list_(pa.field("l", TEXT))]),
    ("INSERT INTO customers SELECT ?, ?, ? + 1, points FROM customers WHERE id = ?", [I32, TEXT, DATE, I32]),
    ("INSERT INTO customers BY NAME SELECT ? AS born, ? AS name", [DATE, TEXT]),
    ("INSERT INTO customers (born, id) (SELECT ?, ?)", [DATE, I32]),
    ("INSERT INTO customers (born) SELECT ? UNION ALL SELECT ?", [DATE, DATE]),
    ("""INSERT INTO orders (id, total) VALUES (?, 1)
        ON CONFLICT (id) DO UPDATE SET total = excluded.total + ?, placed = ? WHERE excluded.id > ?
        RETURNING id""",
     [I64, MONEY, DATE, I64]),
    ("INSERT INTO shop.orders VALUES (?, ?)", [TEXT, DATE]),
    ("UPDATE orders SET total = ?, placed = placed + ?, customer = customer + ? WHERE id = ?",
     [MONEY, I32, I64, I64]),
    ("UPDATE orders SET placed = ? FROM customers c WHERE c.id = customer AND c.born = ? AND note = ?",
     [DATE, DATE, TEXT]),
    ("UPDATE orders SET total = CASE WHEN paid THEN ? ELSE total * ? END", [MONEY, MONEY]),
    ("DELETE FROM orders o WHERE o.placed < ?", [DATE]),
    ("DELETE FROM orders USING customers c WHERE c.id = orders.customer AND c.born > ? RETURNING note",
     [DATE]),
    ("""MERGE INTO customers t USING (SELECT ?::INT AS id) s ON t.id = s.id
        WHEN MATCHED AND t.points > ? THEN UPDATE SET born = ?
        WHEN NOT MATCHED THEN INSERT (born, id) VALUES (?, ?)""",
     [I32, I64, DATE, DATE, I32]),
    ("CREATE TEMP TABLE made AS SELECT * FROM orders WHERE placed = ?", [DATE]),
    # writing of parameters
    ("SELECT * FROM orders WHERE id=?AND note=?--?\n/* ? /* ? */ ? */AND placed=?", [I64, TEXT, DATE]),
    ("SELECT '?', \"id\", $$ ? $$, $t$ $1 ? $t$, E'\\'?' FROM orders WHERE id = ?", [I64]),
    ("SELECT * FROM orders WHERE id IN ($1,$2,$1) AND placed = $3", [I64, I64, DATE]),
    ("SELECT * FROM orders WHERE placed = $2 AND id = $1", [I64, DATE]),
    ("SELECT * FROM orders WHERE placed = ?2 AND id = ?1", [I64, DATE]),
    ("-- a comment\nEXPLAIN ANALYZE SELECT * FROM orders WHERE id = ?", [I64]),
    ("EXPLAIN SELECT * FROM orders WHERE placed = ?", [DATE]),
    ("SUMMARIZE SELECT * FROM orders WHERE placed = ?", [DATE]),
]
NAMED: list[tuple[str, dict[str, pa.DataType]]] = [
    ("SELECT * FROM orders WHERE id = $id AND placed = $day", {"day": DATE, "id": I64}),
    ("SELECT * FROM orders WHERE $day IS NULL OR placed >= $day", {"day": DATE}),
    ("SELECT * FROM orders WHERE id=$a AND note=$b AND id<>$A", {"a": I64, "b": TEXT}),
    ('SELECT * FROM orders WHERE placed = $"a day"', {"a day": DATE}),
    ("INSERT INTO customers (id, born) VALUES ($id,$born)", {"born": DATE, "id": I32}),
]
# fmt: on


def specimen(kind: pa.DataType) -> Any:
    """A value of a type, in the form in which the server binds it."""
    plain = {
        TEXT: "1",
        BYTES: b"x",
        BOOL: True,
        DATE: date(2021, 2, 3),
        TIME: time_of_day(1, 2, 3),
        TS: datetime(2021, 2, 3, 4, 5, 6),  # noqa: DTZ001
        TZ: datetime(2021, 2, 3, tzinfo=UTC),
        SPAN: timedelta(hours=1),
    }
    if kind in plain:
        return plain[kind]
    if pa.types.is_list(kind):
        return [specimen(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: specimen(field.type) for field in kind}
    if pa.types.is_decimal(kind):
        return Decimal(1).scaleb(-kind.scale)
    return 7.5 if pa.types.is_floating(kind) else 7


def plain(kind: pa.DataType) -> pa.DataType:
    """A list type without the name of its element, which differs by where it comes from."""
    return pa.list_(plain(kind.value_type)) if pa.types.is_list(kind) else kind


def names_of(database: duckdb.DuckDBPyConnection, sql: str) -> tuple[str, ...]:
    """The parameters of a statement in the order in which the server lists them."""
    names = database.extract_statements(sql)[0].named_parameters
    return tuple(sorted(names, key=lambda name: (int(name), "") if name.isdigit() else (1 << 31, name)))


@pytest.mark.parametrize(("sql", "expected"), CASES, ids=[sql[:70] for sql, _ in CASES])
def test_parameters_have_the_types_of_their_places(
    sql: str, expected: list[pa.DataType], database: duckdb.DuckDBPyConnection, schemas: dict[Any, pa.Schema]
) -> None:
    names = names_of(database, sql)
    schema = infer_parameters(sql, names, schemas.get)
    assert schema.names == list(names) == [str(i + 1) for i in range(len(expected))]
    assert [plain(kind) for kind in schema.types] == [plain(kind) for kind in expected]
    assert all(field.nullable for field in schema)


@pytest.mark.parametrize(("sql", "expected"), NAMED, ids=[sql[:70] for sql, _ in NAMED])
def test_named_parameters_have_the_types_of_all_their_places(
    sql: str,
    expected: dict[str, pa.DataType],
    database: duckdb.DuckDBPyConnection,
    schemas: dict[Any, pa.Schema],
) -> None:
    schema = infer_parameters(sql, names_of(database, sql), schemas.get)
    assert dict(zip(schema.names, schema.types, strict=True)) == expected


# Where only some values have a meaning: how the statement starts, and values for its places.
VALUES: dict[str, dict[int, Any]] = {
    "SELECT ?::UUID": {0: "6ba7b810-9dad-11d1-80b4-00c04fd430c8"},
    "SELECT * FROM orders WHERE note LIKE ?": {2: "!"},
    "SELECT regexp_matches": {2: "/a"},
    "SELECT date_trunc(?": {0: "day"},
    "SELECT shipped AT TIME ZONE ?": {0: "UTC", 2: "%d"},
    "SELECT string_agg": {1: 0.5},
}


@pytest.mark.parametrize("sql", [sql for sql, _ in CASES + NAMED])
def test_values_of_the_types_can_be_bound(
    sql: str, database: duckdb.DuckDBPyConnection, schemas: dict[Any, pa.Schema]
) -> None:
    schema = infer_parameters(sql, names_of(database, sql), schemas.get)
    special = next((places for start, places in VALUES.items() if sql.startswith(start)), {})
    values = {field.name: special.get(i, specimen(field.type)) for i, field in enumerate(schema)}
    positional = all(name.isdigit() for name in values)
    database.execute("BEGIN")
    try:
        database.execute(sql, list(values.values()) if positional else values)
    finally:
        database.execute("ROLLBACK")


# -- whatever comes ---------------------------------------------------------------------------------------

WORDS = sorted({word for sql, _ in CASES for word in sql.replace("(", " ( ").replace(",", " , ").split()})


@settings(max_examples=100, deadline=None)
@given(sql=st.text(max_size=200), names=st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=6))
def test_there_is_one_field_for_each_name_whatever_the_text(sql: str, names: list[str]) -> None:
    schema = infer_parameters(sql, tuple(names), lambda path: None)
    assert schema.names == names


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=25),
    start=st.sampled_from(
        ["SELECT ", "SELECT * FROM orders WHERE ", "INSERT INTO orders ", "WITH o AS (", ""]
    ),
    count=st.integers(1, 8),
)
def test_odd_statements_do_no_harm(
    words: list[str], start: str, count: int, schemas: dict[Any, pa.Schema]
) -> None:
    names = tuple(str(i + 1) for i in range(count))
    assert infer_parameters(start + " ".join(words), names, schemas.get).names == list(names)


def test_a_statement_without_parameters_is_not_looked_at() -> None:
    def columns_of(path: tuple[str, ...]) -> pa.Schema | None:
        raise AssertionError(path)

    assert infer_parameters("SELECT * FROM orders WHERE id = 1", (), columns_of) == pa.schema([])


def test_a_table_is_looked_up_once_and_by_its_name_as_written() -> None:
    asked = []

    def columns_of(path: tuple[str, ...]) -> pa.Schema | None:
        asked.append(path)
        return pa.schema([("Id", I64), ("day", DATE)])

    sql = (
        'SELECT * FROM lake."S 1".Orders o, lake."S 1".Orders p WHERE o.id = ? AND p.day = ? AND nothing = ?'
    )
    assert infer_parameters(sql, ("1", "2", "3"), columns_of).types == [I64, DATE, TEXT]
    assert asked == [("lake", "S 1", "Orders")]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.dictionary(pa.uint8(), TEXT), TEXT),
        (pa.large_string(), TEXT),
        (pa.string_view(), TEXT),
        (pa.large_binary(), BYTES),
        (pa.null(), TEXT),
        (pa.month_day_nano_interval(), TEXT),
        (pa.uuid(), pa.binary(16)),
        (pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.list_(I32), pa.list_(I32)),
    ],
)
def test_types_that_clients_cannot_bind_give_way_to_those_they_can(
    column: pa.DataType, expected: pa.DataType
) -> None:
    schema = infer_parameters("SELECT * FROM t WHERE c = ?", ("1",), lambda path: pa.schema([("c", column)]))
    assert schema.types == [expected]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 5000 + "?" + ")" * 5000,
        "SELECT ?" + " + 1" * 5000,
        "SELECT " + "NOT " * 5000 + "?",
        "SELECT * FROM orders WHERE id IN (" + "SELECT id FROM orders WHERE id IN (" * 200 + "?" + ")" * 201,
        "SELECT * FROM " + "(SELECT * FROM " * 300 + "orders" + ")" * 300 + " WHERE id = ?",
        "SELECT * FROM orders WHERE note = '" + "x" * 1_000_000 + "' AND id = ?",
        "WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM a, b WHERE a.id = ?",
        "SELECT x + ? AS x FROM (SELECT y AS x FROM (SELECT x AS y)) WHERE x = y",
        "SELECT " + "$a$ " * 50_000 + "?",
        "SELECT /*" * 50_000 + "?",
        "SELECT '" + "''" * 90_000 + "?",
    ],
    ids=lambda sql: sql[:30],
)
def test_deep_and_huge_statements_do_not_crash(sql: str, schemas: dict[Any, pa.Schema]) -> None:
    assert infer_parameters(sql, ("1",), schemas.get).names == ["1"]


def test_thousands_of_parameters_are_all_inferred(schemas: dict[Any, pa.Schema]) -> None:
    count = 4000
    names = tuple(str(i + 1) for i in range(count))
    sql = f"SELECT coalesce({'?, ' * count} id) FROM orders WHERE id IN (" + "?, " * count + "1)"
    assert set(infer_parameters(sql, names, schemas.get).types) == {I64}


# -- functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "place", "expected"),
    [
        ("round", [F64, None], 1, I32),
        ("abs", [None], 0, F64),
        ("date_diff", [TEXT, DATE, None], 2, DATE),
        ("list_contains", [pa.list_(I32), None], 1, I32),
        ("map_extract", [pa.map_(TEXT, I32), None], 1, TEXT),
        ("lag", [I32, None], 1, I64),
        ("sum", [None], 0, F64),
        ("printf", [None, I32], 0, TEXT),
        ("max", [None], 0, None),
        ("no_such_function", [None], 0, None),
    ],
)
def test_arguments_have_the_types_that_duckdb_lists(
    name: str, arguments: list[pa.DataType | None], place: int, expected: pa.DataType | None
) -> None:
    assert argument_type(name, arguments, place, [False] * len(arguments)) == expected


RESULTS = [
    "year(placed)",
    "length(note)",
    "sqrt(total)",
    "sum(total)",
    "sum(weight)",
    "min(placed)",
    "avg(id)",
    "avg(total)",
    "count(*)",
    "abs(total)",
    "date_trunc('month', placed)",
    "upper(note)",
    "to_timestamp(id)",
    "list_contains(tags, 'a')",
    "md5(note)",
    "floor(weight)",
    "list_distinct(scores)",
    "today()",
    "id + 1",
    "small + 1",
    "small + customer",
    "total + 1",
    "total * tax",
    "total / 2",
    "id // 2",
    "placed - placed",
    "placed + 1",
    "placed + INTERVAL 1 DAY",
    "shipped::DATE",
    "ratio + small",
    "weight + total",
    "-total",
    "total + total",
    "scores[1]",
    "place.zip",
    "extra['a']",
    "coalesce(note, 'a')",
    "CASE WHEN paid THEN placed END",
    "id & 1",
    "extract(year FROM placed)",
    "note LIKE 'a'",
    "seen AT TIME ZONE 'UTC'",
    "(SELECT max(born) FROM customers)",
    "first(note)",
    "max(total)",
    "row_number() OVER ()",
    "lag(placed) OVER (ORDER BY id)",
    "list_value(customer)",
    "nullif(id, 1)",
    "note || 'a'",
]


@pytest.mark.parametrize("expression", RESULTS)
def test_expressions_have_the_types_that_duckdb_finds(
    expression: str, database: duckdb.DuckDBPyConnection, schemas: dict[Any, pa.Schema]
) -> None:
    found = infer_parameters(
        f"SELECT * FROM (SELECT {expression} AS e FROM orders) WHERE e = ?", ("1",), schemas.get
    )
    known = database.sql(f"SELECT {expression} AS e FROM orders LIMIT 0").to_arrow_table().schema
    assert plain(found.types[0]) == plain(known.types[0])


def test_results_of_unknown_functions_are_unknown() -> None:
    assert result_type("no_such_function", [I64], [False]) is None
