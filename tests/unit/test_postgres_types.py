"""Each type of PostgreSQL's, through a real server and both drivers."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from postgres import Postgres, start_postgres

from lakehouse.catalog.arrow_types import storable_schema
from lakehouse.ingest.sources.postgres import Dsn, PostgresSource, Query, Reading, Relation
from lakehouse.ingest.sources.postgres.sessions import AdbcSession, PsycopgSession, WireSession
from lakehouse.ingest.sources.source import Disproved, Inspection, OnError

DRIVERS = {"wire": WireSession, "adbc": AdbcSession, "psycopg": PsycopgSession}
NAN = float("nan")
US = pa.timestamp("us")
UTC = pa.timestamp("us", "UTC")


def items(kind: pa.DataType, depth: int = 1) -> pa.DataType:
    for _ in range(depth):
        kind = pa.list_(pa.field("element", kind))
    return kind


PAIR = pa.struct([pa.field("n", pa.int32()), pa.field("t", pa.string()), pa.field("d", pa.decimal128(5, 1))])
OUTER = pa.struct([pa.field("p", PAIR), pa.field("a", items(pa.int32())), pa.field("w", pa.string())])

# A type, the values as SQL, what they become, and as what. Numbers stand for dates and times, whose extremes
# Python does not have.
CASES: list[tuple[str, list[str], pa.DataType, list[Any]]] = [
    ("bool", ["true", "false"], pa.bool_(), [True, False]),
    ("int2", ["-32768", "32767"], pa.int32(), [-32768, 32767]),
    ("int4", ["-2147483648", "2147483647"], pa.int32(), [-(2**31), 2**31 - 1]),
    ("int8", ["-9223372036854775808", "9223372036854775807"], pa.int64(), [-(2**63), 2**63 - 1]),
    ("oid", ["0", "4294967295"], pa.int64(), [0, 2**32 - 1]),
    (
        "float4",
        ["'NaN'", "'-Infinity'", "3.4028235e38", "'-0'"],
        pa.float32(),
        [NAN, -float("inf"), 3.4028234663852886e38, -0.0],
    ),
    (
        "float8",
        ["'NaN'", "'Infinity'", "1.7976931348623157e308", "5e-324"],
        pa.float64(),
        [NAN, float("inf"), 1.7976931348623157e308, 5e-324],
    ),
    (
        "numeric(12,2)",
        ["-9999999999.99", "0.1"],
        pa.decimal128(12, 2),
        [Decimal("-9999999999.99"), Decimal("0.10")],
    ),
    ("numeric(38,0)", ["99999999999999999999999999999999999999"], pa.decimal128(38, 0), [Decimal("9" * 38)]),
    ("numeric(5,-2)", ["1234567", "-9999900"], pa.decimal128(7, 0), [Decimal(1234600), Decimal(-9999900)]),
    ("numeric(3,5)", ["0.00999"], pa.decimal128(5, 5), [Decimal("0.00999")]),
    ("numeric(39,0)", ["1"], pa.string(), ["1"]),
    ("numeric(9,2)", ["1.5", "'NaN'"], pa.string(), ["1.50", "NaN"]),
    ("numeric", ["1.5", "-123456.789"], pa.decimal128(38, 3), [Decimal("1.500"), Decimal("-123456.789")]),
    ("numeric", ["7", "1e37"], pa.decimal128(38, 0), [Decimal(7), Decimal("1" + "0" * 37)]),
    ("numeric", ["1", "'NaN'", "'-Infinity'"], pa.string(), ["1", "NaN", "-Infinity"]),
    ("numeric", ["1e100", "1e-100"], pa.string(), ["1" + "0" * 100, "0." + "0" * 99 + "1"]),
    ("numeric", [], pa.string(), []),
    (
        "money",
        ["'-92233720368547758.08'", "12.5"],
        pa.decimal128(19, 2),
        [Decimal("-92233720368547758.08"), Decimal("12.50")],
    ),
    ("text", ["''", "'ü€😀\n\"'"], pa.string(), ["", 'ü€😀\n"']),
    ("varchar(5)", ["'abcde'"], pa.string(), ["abcde"]),
    ("char(5)", ["'ab'"], pa.string(), ["ab"]),
    ('"char"', ["'a'"], pa.string(), ["a"]),
    ("name", ["'a name'"], pa.string(), ["a name"]),
    ("citext", ["'MiXed'"], pa.string(), ["MiXed"]),
    ("bytea", ["''", "'\\x00ff27'"], pa.binary(), [b"", b"\x00\xff'"]),
    ("uuid", ["'00112233-4455-6677-8899-aabbccddeeff'"], pa.uuid(), ["00112233-4455-6677-8899-aabbccddeeff"]),
    ("json", ['\'{"a":  1.0, "a": null}\'', "'null'"], pa.string(), ['{"a":  1.0, "a": null}', "null"]),
    ("jsonb", ['\'{"b":1,"a":[1e2]}\''], pa.string(), ['{"a": [100], "b": 1}']),
    ("xml", ["'<a b=\"c\">d</a>'"], pa.string(), ['<a b="c">d</a>']),
    (
        "date",
        ["'0001-01-01'", "'4713-01-01 BC'", "'5874897-12-31'"],
        pa.date32(),
        [-719162, -2440550, 2145042905],
    ),
    (
        "date",
        ["'2020-01-01'", "'infinity'", "'-infinity'"],
        pa.string(),
        ["2020-01-01", "infinity", "-infinity"],
    ),
    (
        "timestamp",
        ["'4713-01-01 00:00:00 BC'", "'12345-06-07 08:09:10.123456'"],
        US,
        [-210863520000000000, 327416976550123456],
    ),
    (
        "timestamp",
        ["'1970-01-01 00:00:00.000001'", "'infinity'"],
        pa.string(),
        ["1970-01-01 00:00:00.000001", "infinity"],
    ),
    ("timestamp", ["'294276-12-31 23:59:59'"], pa.string(), ["294276-12-31 23:59:59"]),
    (
        "timestamptz",
        ["'2020-01-01 00:00:00+02'", "'0044-03-15 12:00:00+00 BC'"],
        UTC,
        [1577829600000000, -63517780800000000],
    ),
    ("timestamptz", ["'-infinity'"], pa.string(), ["-infinity"]),
    ("time", ["'00:00'", "'23:59:59.999999'"], pa.time64("us"), [0, 86399999999]),
    ("time", ["'24:00'"], pa.string(), ["24:00:00"]),
    ("timetz", ["'12:00:00.5-03:30'"], pa.string(), ["12:00:00.5-03:30"]),
    (
        "interval",
        ["'1 year 2 mons -3 days 04:05:06.7'", "'14 months'"],
        pa.string(),
        ["1 year 2 mons -3 days +04:05:06.7", "1 year 2 mons"],
    ),
    ("inet", ["'192.168.1.5'", "'10.0.0.1/8'", "'::1'"], pa.string(), ["192.168.1.5", "10.0.0.1/8", "::1"]),
    ("cidr", ["'10.0.0.0/8'"], pa.string(), ["10.0.0.0/8"]),
    ("macaddr", ["'08:00:2b:01:02:03'"], pa.string(), ["08:00:2b:01:02:03"]),
    ("mood", ["'so so'", "'happy'"], pa.string(), ["so so", "happy"]),
    ("int4range", ["'[1,5]'", "'empty'"], pa.string(), ["[1,6)", "empty"]),
    ("tstzrange", ["'[2020-01-01 00:00+00,)'"], pa.string(), ['["2020-01-01 00:00:00+00",)']),
    ("int4multirange", ["'{[1,2],[4,5]}'"], pa.string(), ["{[1,3),[4,6)}"]),
    ("bit(4)", ["B'1010'"], pa.string(), ["1010"]),
    ("varbit", ["B''", "B'101'"], pa.string(), ["", "101"]),
    ("tsvector", ["'a fat cat'"], pa.string(), ["'a' 'cat' 'fat'"]),
    ("point", ["'(1.5,-2)'"], pa.string(), ["(1.5,-2)"]),
    ("box", ["'(1,1),(0,0)'"], pa.string(), ["(1,1),(0,0)"]),
    ("pg_lsn", ["'16/B374D848'"], pa.string(), ["16/B374D848"]),
    ("int2vector", ["'1 2'"], pa.string(), ["1 2"]),
    ("posint", ["1", "2147483647"], pa.int32(), [1, 2**31 - 1]),
    ("cents", ["1.25"], pa.decimal128(7, 2), [Decimal("1.25")]),
    ("email", ["'A@b'"], pa.string(), ["A@b"]),
    (
        "pair",
        ["(1, 'x', 2.5)", "(NULL, NULL, NULL)"],
        PAIR,
        [{"n": 1, "t": "x", "d": Decimal("2.5")}, {"n": None, "t": None, "d": None}],
    ),
    (
        "outer_",
        ["ROW(ROW(1,'y',0)::pair, '{1,NULL}', '1 mon')"],
        OUTER,
        [{"p": {"n": 1, "t": "y", "d": Decimal("0.0")}, "a": [1, None], "w": "1 mon"}],
    ),
    ("int4[]", ["'{1,NULL,3}'", "'{}'", "'[5:6]={7,8}'"], items(pa.int32()), [[1, None, 3], [], [7, 8]]),
    ("int2[]", ["'{{1,2},{3,NULL}}'", "'{}'"], items(pa.int32(), 2), [[[1, 2], [3, None]], []]),
    (
        "int8[]",
        ["'{{{1},{2}},{{3},{4}},{{5},{6}}}'", "'[0:0][2:2][-1:0]={{{8,9}}}'"],
        items(pa.int64(), 3),
        [[[[1], [2]], [[3], [4]], [[5], [6]]], [[[8, 9]]]],
    ),
    ("int4[]", ["'{1}'", "'{{1,2}}'"], pa.string(), ["[1]", "[[1,2]]"]),
    ("text[]", ['\'{a,NULL,"NULL","","b,c"}\''], items(pa.string()), [["a", None, "NULL", "", "b,c"]]),
    ("numeric(6,2)[]", ["'{1.5,NULL}'"], items(pa.decimal128(6, 2)), [[Decimal("1.50"), None]]),
    (
        "numeric[]",
        ["'{1.5,2}'", "'{0.25}'"],
        items(pa.decimal128(38, 2)),
        [[Decimal("1.50"), Decimal("2.00")], [Decimal("0.25")]],
    ),
    ("numeric[]", ["'{NaN,2}'"], items(pa.string()), [["NaN", "2"]]),
    ("bytea[]", ["ARRAY['\\x00'::bytea, NULL]"], items(pa.binary()), [[b"\x00", None]]),
    (
        "uuid[]",
        ["'{00112233-4455-6677-8899-aabbccddeeff,NULL}'"],
        items(pa.uuid()),
        [["00112233-4455-6677-8899-aabbccddeeff", None]],
    ),
    ("date[]", ["'{2020-01-01,NULL}'"], items(pa.date32()), [[18262, None]]),
    ("date[]", ["'{2020-01-01,infinity}'"], pa.string(), ['["2020-01-01","infinity"]']),
    ("timestamptz[]", ["'{2020-01-01 00:00+00}'"], items(UTC), [[1577836800000000]]),
    ("float8[]", ["'{NaN,1}'"], items(pa.float64()), [[NAN, 1.0]]),
    ("bool[]", ["'{t,NULL}'"], items(pa.bool_()), [[True, None]]),
    ("mood[]", ["'{happy,NULL}'"], items(pa.string()), [["happy", None]]),
    ("inet[]", ["'{1.2.3.4}'"], items(pa.string()), [["1.2.3.4"]]),
    ("interval[]", ["'{1 mon}'"], items(pa.string()), [["1 mon"]]),
    ("jsonb[]", ["ARRAY['{}'::jsonb, NULL]"], items(pa.string()), [["{}", None]]),
    ("posint[]", ["'{1,2}'"], items(pa.int32()), [[1, 2]]),
    ("pair[]", ["ARRAY[(1,'x',2.5)::pair, NULL]"], items(pa.string()), [['{"n":1,"t":"x","d":2.5}', None]]),
]
MADE = """
    CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
    CREATE DOMAIN posint AS int4 CHECK (VALUE > 0); CREATE DOMAIN cents AS numeric(7,2);
    CREATE DOMAIN email AS citext; CREATE TYPE pair AS (n int, t text, d numeric(5,1));
    CREATE TYPE outer_ AS (p pair, a int[], w interval);
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    running = start_postgres()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def every_type(postgres: Postgres) -> str:
    """A database with a table that has a column for each case."""
    dsn = postgres.database().replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(MADE)
        columns = ", ".join(f"c{n} {case[0]}" for n, case in enumerate(CASES))
        connection.execute(f"CREATE TABLE t ({columns})")
        for row in range(max(len(case[1]) for case in CASES)):
            values = ", ".join(f"CAST({c[1][row]} AS {c[0]})" if row < len(c[1]) else "NULL" for c in CASES)
            connection.execute(f"INSERT INTO t VALUES ({values})")
        connection.execute("INSERT INTO t SELECT")
    return dsn


def source(dsn: str, wanted: Relation | Query, driver: str = "adbc", **reading: Any) -> PostgresSource:
    return PostgresSource(Dsn.parse(dsn), wanted, Reading(opener=DRIVERS[driver], **reading))


def never() -> bool:
    return False


def silent(share: float | None, text: str) -> None:
    assert share is None or 0 <= share <= 1


def everything(from_: PostgresSource, inspection: Inspection) -> pa.Table:
    pieces = from_.read(inspection, OnError.FAIL, never, silent)
    return pa.Table.from_batches([piece.batch for piece in pieces], inspection.schema)


def plain(array: pa.Array) -> list[Any]:
    """Python values; dates and times as their numbers."""
    kind = array.type
    if isinstance(kind, pa.UuidType):
        return [None if value is None else str(value) for value in array.to_pylist()]
    if pa.types.is_list(kind):
        return [None if row is None else plain(row) for row in (each.values for each in array)]
    if pa.types.is_date32(kind):
        return array.cast(pa.int32()).to_pylist()
    return array.cast(pa.int64()).to_pylist() if pa.types.is_temporal(kind) else array.to_pylist()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "wanted", [Relation("public", "t"), Query("SELECT * FROM t")], ids=["table", "query"]
)
def test_every_type_survives_or_becomes_what_is_documented(
    every_type: str, driver: str, wanted: Relation | Query
) -> None:
    reading = source(every_type, wanted, driver)
    inspection = reading.inspect(never, silent)
    table = everything(reading, inspection).combine_chunks()
    reading.close()
    assert storable_schema(inspection.schema) == inspection.schema
    assert [f"{c.source_name} {CASES[n][0]} {c.type}" for n, c in enumerate(inspection.columns)] == [
        f"c{n} {kind} {becomes}" for n, (kind, _, becomes, _) in enumerate(CASES)
    ]
    rows = table.num_rows
    found = [f"{case[0]} {plain(table.column(n).chunk(0))}" for n, case in enumerate(CASES)]
    wanted_ = [f"{kind} {[*values, *[None] * (rows - len(values))]}" for kind, _, _, values in CASES]
    assert [pair for pair in zip(found, wanted_, strict=True) if pair[0] != pair[1]] == []
    assert all(column.reason for column in inspection.columns)
    table.validate(full=True)


@pytest.mark.parametrize("driver", ["wire", "adbc"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("date", "-infinity"),
        ("date", "infinity"),
        ("timestamp", "infinity"),
        ("timestamptz", "-infinity"),
        ("timestamp", "294247-01-01"),
        ("time", "24:00"),
        ("numeric(5,2)", "NaN"),
    ],
)
def test_what_was_trusted_to_be_finite_and_is_not_begins_again(
    postgres: Postgres, driver: str, kind: str, value: str
) -> None:
    dsn = postgres.database().replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER DATABASE " + dsn.rsplit("/", 1)[1] + " SET timezone = 'UTC'")
        ordinary = "12.34" if "numeric" in kind else "12:34:56" if kind == "time" else "2020-02-02"
        connection.execute(f"CREATE TABLE t (n int, v {kind})".encode())
        connection.execute(
            f"INSERT INTO t SELECT n, (CASE n WHEN 50000 THEN '{value}' ELSE '{ordinary}' END)::{kind} "
            "FROM generate_series(1, 60000) n".encode()
        )
        connection.execute("ANALYZE t")
    reading = source(dsn, Relation("public", "t"), driver, trust=True)
    inspection = reading.inspect(never, silent)
    if inspection.columns[1].type != pa.string():  # else statistics told of it
        with pytest.raises(Disproved, match="column 'v' has a value that no") as disproved:
            list(reading.read(inspection, OnError.FAIL, never, silent))
        inspection = disproved.value.inspection
    assert inspection.columns[1].type == pa.string()
    pieces = list(reading.read(inspection, OnError.FAIL, never, silent))
    reading.close()
    rows = pa.concat_batches([piece.batch for piece in pieces])
    assert rows.num_rows == 60_000
    told = dict(zip(rows["n"].to_pylist(), rows["v"].to_pylist(), strict=True))[50_000]
    assert told.startswith(value.split("-01", maxsplit=1)[0])
