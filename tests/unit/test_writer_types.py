"""What is written is what DuckDB reads, in exactly the types that the table announces."""

from __future__ import annotations

import datetime as dt
import math
import uuid
import zoneinfo
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.clock import SystemClock
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

UUID = uuid.UUID(int=2**128 - 2)
NAME = TableName("lake", "main", "t")


@pytest.fixture
def catalog(tmp_path: Path) -> IcebergCatalog:
    catalog = IcebergCatalog("lake", open_local_bucket("primary", tmp_path), "warehouse", SystemClock())
    catalog.create_schema("main")
    return catalog


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def store(catalog: IcebergCatalog, rows: pa.Table, name: TableName = NAME) -> Table:
    staged = stage(catalog, name, WriteMode.CREATE, rows.schema, rows.to_batches(), lambda: False)
    commit(catalog, staged)
    return catalog.load(name.schema, name.table)


def scan(engine: duckdb.DuckDBPyConnection, table: Table, where: str = "true") -> pa.Table:
    paths = [file.path for file in table.files()]
    schema = table.read_schema_sql()
    sql = f"SELECT * FROM read_parquet({paths}, schema = {schema}, hive_partitioning = false) WHERE {where}"
    return engine.sql(sql).to_arrow_table()


def raw(kind: pa.DataType, *values: int) -> pa.Array:
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


CASES: dict[str, tuple[pa.Array, list[Any] | None]] = {
    "bool": (pa.array([True, False, None]), None),
    "int8": (pa.array([-128, 127, None], pa.int8()), None),
    "int32": (pa.array([-(2**31), 2**31 - 1, None], pa.int32()), None),
    "uint32": (pa.array([0, 2**32 - 1, None], pa.uint32()), None),
    "int64": (pa.array([-(2**63), 2**63 - 1, None]), None),
    "uint64": (pa.array([0, 2**64 - 1, None], pa.uint64()), [Decimal(0), Decimal(2**64 - 1), None]),
    "float16": (pa.array([1.5, None, -65504.0], pa.float16()), None),
    "float32": (pa.array([3.4028234663852886e38, 1e-45, -0.0, math.inf, None], pa.float32()), None),
    "float64": (pa.array([1.7976931348623157e308, 5e-324, -0.0, -math.inf, None]), None),
    "only NaN": (pa.array([math.nan, math.nan]), None),
    "NaN among others": (pa.array([math.nan, 1.0, None]), None),
    "text": (pa.array(["", "ä€😀", "a\0b", "\U0010ffff" * 20, "x" * 5000, "'\"\\", None]), None),
    "binary": (pa.array([b"", b"\0\xff", b"\xff" * 40, None]), None),
    "fixed": (pa.array([b"abcd", b"\xff" * 4, None], pa.binary(4)), None),
    "date": (raw(pa.date32(), -719162, 0, 2932896), None),
    "date extremes": (raw(pa.date32(), -(2**31) + 2, 2**31 - 2, 2**31 - 1), []),
    "time": (raw(pa.time64("us"), 0, 86_399_999_999), None),
    "time32": (raw(pa.time32("s"), 0, 86_399), None),
    "timestamp": (raw(pa.timestamp("us"), -62_135_596_800_000_000, 0, 253_402_300_799_999_999), None),
    "timestamp extremes": (raw(pa.timestamp("us"), -(2**63) + 2, -(2**63) + 1, 2**63 - 2, 2**63 - 1), []),
    "timestamp s": (raw(pa.timestamp("s"), -1, 0, 253_402_300_799), None),
    "timestamp ns": (
        raw(pa.timestamp("ns"), -(10**18), 0, 10**18),
        [dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None) for seconds in (-(10**9), 0, 10**9)],
    ),
    "instant": (
        raw(pa.timestamp("ms", "Asia/Kolkata"), 0, 10**12),
        [dt.datetime.fromtimestamp(seconds, zoneinfo.ZoneInfo("UTC")) for seconds in (0, 10**9)],
    ),
    "decimal 9": (pa.array([Decimal("-9999999.99"), Decimal("0.01"), None], pa.decimal128(9, 2)), None),
    "decimal 18": (pa.array([Decimal("9" * 18), Decimal(-1)], pa.decimal128(18, 0)), None),
    "decimal 38": (pa.array([Decimal("-" + "9" * 28 + "." + "9" * 10), None], pa.decimal128(38, 10)), None),
    "decimal256": (pa.array([Decimal("1.5"), None], pa.decimal256(30, 1)), None),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID.bytes, bytes(16), None], pa.binary(16))),
        [str(UUID), str(uuid.UUID(int=0)), None],
    ),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])), None),
    "dictionary": (pa.array(["a", None, "b", "a"]).dictionary_encode(), None),
    "null": (pa.nulls(3), None),
    "list": (pa.array([[], None, [1, None, 3]], pa.list_(pa.int16())), None),
    "list of lists": (pa.array([[[]], [None], None, [["a", None], []]]), None),
    "fixed size list": (pa.array([[1.0, 2.0], None, [3.0, math.inf]], pa.list_(pa.float32(), 2)), None),
    "struct": (
        pa.array([{"a": 1, "b c'\"": None}, None, {"a": None, "b c'\"": ["x", None]}]),
        None,
    ),
    "map": (
        pa.array([[("k", 1), ("l", None)], [], None], pa.map_(pa.string(), pa.int8())),
        None,
    ),
    "deep": (
        pa.array(
            [[{"m": [("k", [{"u": 1}, None])]}, None], None, []],
            pa.list_(
                pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.struct([("u", pa.decimal128(20, 1))]))))])
            ),
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_type_comes_back_with_the_values_that_were_written(
    catalog: IcebergCatalog, engine: duckdb.DuckDBPyConnection, case: str
) -> None:
    values, expected = CASES[case]
    table = store(catalog, pa.table({"c": values, "row": range(len(values))}))
    found = scan(engine, table)
    assert found.schema == table.arrow_schema()
    column = found.column("c").combine_chunks()
    if expected == []:  # Python cannot name these values
        stored = values.cast(column.type)
        assert column.view(f"int{column.type.bit_width}") == stored.view(f"int{stored.type.bit_width}")
        return
    wanted = values.to_pylist() if expected is None else expected
    assert [repr(value) for value in column.to_pylist()] == [repr(value) for value in wanted]


def test_many_columns_of_all_types_in_one_table_can_be_scanned_and_filtered(
    catalog: IcebergCatalog, engine: duckdb.DuckDBPyConnection
) -> None:
    columns = {
        name: values.take(pa.array([n % len(values) for n in range(9)]))
        for name, (values, _) in CASES.items()
    }
    table = store(catalog, pa.table({**columns, "n": range(9)}))
    assert scan(engine, table).num_rows == 9
    assert scan(engine, table, "n = 4").num_rows == 1
    assert scan(engine, table, '"only NaN" > 1e308').num_rows == 9
    assert scan(engine, table, '"float64" = 0').num_rows == 2


def test_statistics_find_rows_and_never_hide_one(
    catalog: IcebergCatalog, engine: duckdb.DuckDBPyConnection
) -> None:
    rows = pa.table(
        {
            "d": pa.array([Decimal("-1.5"), Decimal("200.25"), None], pa.decimal128(20, 2)),
            "s": ["a" * 16 + "z", "\U0010ffff" * 17, None],
            "b": [b"\xff" * 17, b"a", None],
            "f": [math.nan, -0.0, None],
        }
    )
    table = store(catalog, rows)
    files = list(catalog.objects.load_table(("main", "t")).scan().plan_files())
    file = files[0].file
    decimals, texts, binaries, floats = (table.metadata.schema().find_field(n).field_id for n in "dsbf")
    assert file.lower_bounds[decimals] == (-150).to_bytes(2, "big", signed=True)
    assert file.upper_bounds[decimals] == (20025).to_bytes(2, "big")
    assert file.lower_bounds[texts] == b"a" * 16
    assert texts not in file.upper_bounds  # no text of 16 characters is greater
    assert binaries not in file.upper_bounds
    assert file.null_value_counts == dict.fromkeys((decimals, texts, binaries, floats), 1)
    assert (file.record_count, file.file_size_in_bytes) == (3, Path(table.files()[0].path).stat().st_size)
    for predicate, count in [("d > 100", 1), ("s >= 'b'", 1), ("s = 'aaaaaaaaaaaaaaaaz'", 1)]:
        assert scan(engine, table, predicate).num_rows == count
        assert catalog.objects.load_table(("main", "t")).scan(predicate).to_arrow().num_rows == count


def test_names_of_columns_may_be_anything(catalog: IcebergCatalog, engine: duckdb.DuckDBPyConnection) -> None:
    names = [
        "a.b",
        "a",
        "list",
        "element",
        "é",
        "É",
        "sp ace",
        "'",
        '"',
        "%41",
        "{}",
        "select",
        "x" * 300,
        "\n",
    ]
    rows = pa.table({name: [n] for n, name in enumerate(names)})
    table = store(catalog, rows)
    assert scan(engine, table) == rows.cast(table.arrow_schema())


def test_pyiceberg_reads_what_we_write(catalog: IcebergCatalog) -> None:
    columns = {
        name: values
        for name, (values, expected) in CASES.items()
        if name not in ("fixed size list", "deep", "date extremes", "timestamp extremes") and len(values) == 3
    }
    store(catalog, pa.table(columns))
    found = catalog.objects.load_table(("main", "t")).scan().to_arrow()
    assert found.num_rows == 3
    assert found.column("struct").to_pylist() == columns["struct"].to_pylist()
    assert found.column("decimal 9").to_pylist() == columns["decimal 9"].to_pylist()
