"""Which type of DuckDB a table keeps as which type of Iceberg, and that every value comes back as it was."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import uuid
import zoneinfo
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import StaticTable

from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import LakehouseError, SchemaMismatch, TypeNotStorable
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

FIRST, LAST, BEFORE, AFTER = (
    dt.datetime.fromisoformat(text)
    for text in (
        "0001-01-01",
        "9999-12-31T23:59:59.999999",
        "1969-12-31T23:59:59.999999",
        "1970-01-01T00:00:00.000001",
    )
)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC"))
UUID = uuid.UUID(int=2**128 - 2)
ODD = ["", " ", "Größe", "\U0001f600", "a\x00b" * 2, "'\"\\", "é", "x" * 5000, None]
MICRO = pa.timestamp("us")
numbers = itertools.count()

# Declared type, Iceberg's type, the values as a client sends them, what comes back if that is not the same.
TYPES: dict[str, tuple[str, str, pa.Array, list[Any] | None]] = {
    "boolean": ("BOOLEAN", "boolean", pa.array([True, None, False]), None),
    "tinyint": ("TINYINT", "int", pa.array([-128, 127, None], pa.int8()), None),
    "integer": ("INTEGER", "int", pa.array([-(2**31), 2**31 - 1, None], pa.int32()), None),
    "uinteger": ("UINTEGER", "long", pa.array([0, 2**32 - 1, None], pa.uint32()), None),
    "bigint": ("BIGINT", "long", pa.array([-(2**63), 2**63 - 1, None]), None),
    "ubigint": (
        "UBIGINT",
        "decimal(20, 0)",
        pa.array([0, 2**64 - 1, None], pa.uint64()),
        [Decimal(0), Decimal(2**64 - 1), None],
    ),
    "hugeint": (
        "HUGEINT",
        "decimal(38, 0)",
        pa.array([Decimal(10**38 - 1), Decimal(1 - 10**38), None], pa.decimal128(38, 0)),
        None,
    ),
    "float": (
        "REAL",
        "float",
        pa.array([3.4028234663852886e38, 1e-45, -0.0, 0.0, math.nan, -math.inf, None], pa.float32()),
        None,
    ),
    "double": (
        "DOUBLE",
        "double",
        pa.array([1.7976931348623157e308, 5e-324, -0.0, math.nan, math.inf, None]),
        None,
    ),
    "decimal": (
        "DECIMAL(9, 2)",
        "decimal(9, 2)",
        pa.array([Decimal("9999999.99"), Decimal("-0.01"), None]),
        None,
    ),
    "wide decimal": (
        "DECIMAL(38, 38)",
        "decimal(38, 38)",
        pa.array([Decimal("0." + "9" * 38), None], pa.decimal128(38, 38)),
        None,
    ),
    "varchar": ("VARCHAR", "string", pa.array(ODD), None),
    "json": ("JSON", "string", pa.array(['{"a": [1, null]}', "null", '""', None]), None),
    "enum": ("ENUM('a', 'ß')", "string", pa.array(["a", "ß", None]).dictionary_encode(), None),
    "blob": ("BLOB", "binary", pa.array([b"", b"\x00\xff", None]), None),
    "uuid": (
        "UUID",
        "uuid",
        pa.array([UUID.bytes, bytes(16), None], pa.binary(16)),
        [str(UUID), str(uuid.UUID(int=0)), None],
    ),
    "uuid text": ("UUID", "uuid", pa.array([str(UUID), None]), None),
    "date": ("DATE", "date", pa.array([dt.date.min, dt.date.max, None]), None),
    "time": ("TIME", "time", pa.array([dt.time.min, dt.time.max, None]), None),
    "timestamp": ("TIMESTAMP", "timestamp", pa.array([FIRST, LAST, None], MICRO), None),
    "timestamp s": ("TIMESTAMP_S", "timestamp", pa.array([-1, 0, None], pa.timestamp("s")), None),
    "timestamp ns": (
        "TIMESTAMP_NS",
        "timestamp",
        pa.array([-1000, 1000, None], pa.timestamp("ns")),
        [BEFORE, AFTER, None],
    ),
    "timestamptz": (
        "TIMESTAMPTZ",
        "timestamptz",
        pa.array([0, 2**50, None], pa.timestamp("us", "Asia/Tokyo")),
        [EPOCH, EPOCH + dt.timedelta(microseconds=2**50), None],
    ),
    "list": ("VARCHAR[]", "list<string>", pa.array([["", None, "ß"], [], None]), None),
    "array": ("INTEGER[2]", "list<int>", pa.array([[1, None], None], pa.list_(pa.int32(), 2)), None),
    "list of lists": ("DOUBLE[][]", "list<list<double>>", pa.array([[[math.nan], None, []], None]), None),
    "struct": (
        'STRUCT(a INTEGER, "B c" STRUCT(d VARCHAR))',
        "struct<",
        pa.array(
            [{"a": 1, "B c": {"d": None}}, {"a": None, "B c": None}, None],
            pa.struct({"a": pa.int32(), "B c": pa.struct({"d": pa.string()})}),
        ),
        None,
    ),
    "map": (
        "MAP(VARCHAR, DECIMAL(4, 1))",
        "map<string, decimal(4, 1)>",
        pa.array([[("", Decimal("-0.1")), ("k", None)], [], None], pa.map_(pa.string(), pa.decimal128(4, 1))),
        None,
    ),
    "structs in lists": (
        "STRUCT(u UUID, t TIMESTAMP[])[]",
        "list<struct<",
        pa.array(
            [[{"u": str(UUID), "t": [FIRST, None]}, None], None],
            pa.list_(pa.struct({"u": pa.string(), "t": pa.list_(MICRO)})),
        ),
        None,
    ),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    bucket = tmp_path_factory.mktemp("bucket")
    opened = Lakehouse(Settings.model_validate({"buckets": [{"path": str(bucket)}]}))
    yield opened.sessions.get("types", Principal("ann", frozenset({"admin"})))
    opened.close()


@pytest.fixture
def table() -> str:
    return f"t{next(numbers)}"


def run(session: Session, sql: str) -> list[Any]:
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    if analysis.is_update:
        engine.changes.run(analysis, Scope(session, None, CallWatch()))
        return []
    plan = engine.plan(analysis, session)
    rows = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(rows.column(rows.num_columns - 1).to_pylist())


def ingest(session: Session, table: str, values: pa.Array, mode: WriteMode = WriteMode.APPEND) -> None:
    rows = pa.table({"n": pa.array(range(len(values)), pa.int32()), "v": values})
    name = TableName("lake", "main", table)
    scope = Scope(session, None, CallWatch())
    session.engine.changes.ingest(scope, name, mode, rows.schema, rows.to_batches())


def iceberg_type(session: Session, table: str) -> str:
    location = Path(
        session.engine.catalogs.default.load("main", table).metadata.location.removeprefix("file://")
    )
    newest = max(location.glob("metadata/v*.metadata.json"), key=lambda p: int(p.name[1:].split(".")[0]))
    return str(StaticTable.from_metadata(str(newest)).schema().find_field("v").field_type)


@pytest.mark.parametrize("case", TYPES)
def test_values_of_a_declared_type_come_back_as_they_were(session: Session, table: str, case: str) -> None:
    declared, kept, values, expected = TYPES[case]
    wanted = repr(values.to_pylist() if expected is None else expected)
    run(session, f"CREATE TABLE {table} (n INTEGER NOT NULL, v {declared})")
    assert iceberg_type(session, table).startswith(kept)
    ingest(session, table, values)
    assert repr(run(session, f"SELECT v FROM {table} ORDER BY n")) == wanted
    # The same through SQL: what a query gives, into a new table and into this one.
    run(session, f"CREATE TABLE {table}_as AS SELECT n, v::{declared} AS v FROM {table}")
    assert iceberg_type(session, f"{table}_as").startswith(kept)
    assert repr(run(session, f"SELECT v FROM {table}_as ORDER BY n")) == wanted
    run(session, f"INSERT INTO {table} SELECT n + {len(values)}, v FROM {table}_as")
    again = run(session, f"SELECT v FROM {table} WHERE n >= {len(values)} ORDER BY n")
    assert repr(again) == wanted
    # And all of them NULL.
    run(session, f"CREATE TABLE {table}_null AS SELECT 1 AS n, NULL::{declared} AS v")
    assert run(session, f"FROM {table}_null") == [None]
    assert run(session, f"SELECT v FROM {table}_as WHERE false") == []


@pytest.mark.parametrize(
    ("declared", "value", "message"),
    [
        ("TIMESTAMP_NS", pa.array([1], pa.timestamp("ns")), "microseconds"),
        ("TIME_NS", pa.array([1], pa.time64("ns")), "microseconds"),
        ("DECIMAL(4, 1)", pa.array([Decimal("1000.0")]), "does not fit"),
        ("HUGEINT", pa.array([Decimal(10**38)], pa.decimal256(39, 0)), "does not fit|found"),
        ("TINYINT", pa.array([2**31]), "does not fit"),
        ("TIMESTAMP", pa.array([1], pa.timestamp("us", "UTC")), "found"),
        ("UUID", pa.array(["nonsense"]), "UUID"),
    ],
)
def test_values_that_would_change_are_refused(
    session: Session, table: str, declared: str, value: pa.Array, message: str
) -> None:
    run(session, f"CREATE TABLE {table} (n INTEGER, v {declared})")
    with pytest.raises((SchemaMismatch, TypeNotStorable), match=message):
        ingest(session, table, value)
    assert run(session, f"FROM {table}") == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT '2000-01-01 00:00:00.000000001'::TIMESTAMP_NS AS v",
        "SELECT 170141183460469231731687303715884105727 AS v",
        "SELECT [170141183460469231731687303715884105727] AS v",
        "SELECT {'a': MAP {'x': -170141183460469231731687303715884105727}} AS v",
        "SELECT 340282366920938463463374607431768211455::UHUGEINT AS v",
    ],
)
def test_results_that_would_change_are_refused(session: Session, table: str, query: str) -> None:
    with pytest.raises(LakehouseError):
        run(session, f"CREATE TABLE {table} AS {query}")
    assert not session.engine.catalogs.default.table_exists("main", table)
