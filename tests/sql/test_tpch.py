"""The 22 TPC-H queries over Flight give what DuckDB gives on the same Parquet files."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

QUERIES = sorted((Path(__file__).parent / "tpch").glob("q*.sql"))
TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
SCALE = "0.1"


@pytest.fixture(scope="module")
def tpch(server, tmp_path_factory):
    """The tables generated, loaded into schema tpch, and known to a DuckDB of our own."""
    directory = tmp_path_factory.mktemp("tpch")
    generator = Path(sys.executable).with_name("tpchgen-cli")
    subprocess.run(
        [generator, "parquet", "-s", SCALE, "--output-dir", directory], check=True, capture_output=True
    )
    own = duckdb.connect()
    with server.adbc() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS tpch")
        for table in TABLES:
            file = pq.ParquetFile(directory / f"{table}.parquet")
            batches = file.iter_batches()
            rows = cursor.adbc_ingest(table, _reader(file, batches), mode="replace", db_schema_name="tpch")
            assert rows == file.metadata.num_rows
            own.execute(f"CREATE VIEW {table} AS FROM '{directory}/{table}.parquet'")
        connection.adbc_current_db_schema = "tpch"
        yield cursor, own
    own.close()


def _reader(file, batches):
    return pa.RecordBatchReader.from_batches(file.schema_arrow, batches)


@pytest.mark.parametrize("query", QUERIES, ids=lambda path: path.stem)
def test_a_tpch_query_gives_duckdbs_answer(tpch, query):
    cursor, own = tpch
    sql = query.read_text()
    cursor.execute(sql)
    ours = cursor.fetch_arrow_table()
    theirs = own.sql(sql).to_arrow_table()
    assert ours.schema.names == theirs.schema.names
    assert ours.schema.types == theirs.schema.types
    assert ours.num_rows == theirs.num_rows
    assert ours.num_rows > 0
    for mine, expected in zip(ours.to_pylist(), theirs.to_pylist(), strict=True):
        for name, value in mine.items():
            other = expected[name]
            same = math.isclose(value, other, rel_tol=1e-9) if isinstance(value, float) else value == other
            assert same, (name, value, other)


def test_every_query_is_there():
    assert len(QUERIES) == 22


# The refresh functions of TPC-H, 2.5.3: new sales, and old ones removed; 0.1 % of the orders each.
RF1 = (
    """INSERT INTO orders SELECT o_orderkey + 10000000, * EXCLUDE (o_orderkey) FROM orders
    WHERE o_orderkey IN (SELECT o_orderkey FROM orders ORDER BY o_orderkey LIMIT 150)""",
    """INSERT INTO lineitem SELECT l_orderkey + 10000000, * EXCLUDE (l_orderkey) FROM lineitem
    WHERE l_orderkey + 10000000 IN (SELECT o_orderkey FROM orders)""",
)
RF2 = (
    "DELETE FROM lineitem WHERE l_orderkey IN (SELECT o_orderkey FROM orders ORDER BY o_orderkey LIMIT 150)",
    "DELETE FROM orders WHERE o_orderkey IN (SELECT o_orderkey FROM orders ORDER BY o_orderkey LIMIT 150)",
)
TOTALS = (
    "SELECT count(*), sum(o_orderkey), sum(o_totalprice), min(o_orderkey), max(o_orderkey) FROM orders",
    "SELECT count(*), sum(l_orderkey), sum(l_extendedprice), sum(l_quantity) FROM lineitem",
    "SELECT count(*) FROM lineitem ANTI JOIN orders ON l_orderkey = o_orderkey",
)


@pytest.mark.parametrize("pairs", [2])
def test_the_refresh_functions_leave_what_duckdb_leaves(tpch, pairs):
    cursor, views = tpch
    own = views.cursor()
    for table in ("orders", "lineitem"):
        own.execute(f"CREATE TEMP TABLE {table} AS FROM main.{table}")
    for _ in range(pairs):
        for function in (RF1, RF2):
            cursor.execute("BEGIN")
            for statement in function:
                affected = own.execute(statement).fetchall()[0][0]
                assert affected > 0
                cursor.execute(statement)
                assert cursor.rowcount == affected
            cursor.execute("COMMIT")
            for sql in TOTALS:
                cursor.execute(sql)
                assert cursor.fetchall() == own.execute(sql).fetchall()
