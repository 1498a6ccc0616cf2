"""The ADBC Flight SQL driver through its DBAPI: parameters, ingest, transactions, metadata, cancellation."""

from __future__ import annotations

import datetime as dt
import threading
from decimal import Decimal

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest

NAIVE = dt.datetime(2024, 1, 1, 12)  # noqa: DTZ001 - a TIMESTAMP has no zone


@pytest.mark.parametrize(
    "value",
    [
        1,
        2**40,
        1.5,
        "é💡",
        b"\x00\xff",
        True,
        None,
        dt.date(2024, 2, 29),
        NAIVE,
        Decimal("1.50"),
    ],
)
def test_a_parameter_comes_back_as_it_was(connection, value):
    with connection.cursor() as cursor:
        cursor.execute("SELECT ? AS x", (value,))
        assert cursor.fetchone() == (value,)


def test_rows_are_fetched_in_every_way(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT carrier, name FROM nyc.airlines ORDER BY carrier")
        assert [column[0] for column in cursor.description] == ["carrier", "name"]
        assert cursor.fetchone()[0] == "9E"
        assert len(cursor.fetchmany(5)) == 5
        assert len(cursor.fetchall()) == 10
        assert cursor.fetchone() is None
        cursor.execute("SELECT * FROM nyc.airlines")
        assert cursor.fetch_arrow_table().num_rows == 16
        cursor.execute("SELECT * FROM nyc.flights")
        assert sum(batch.num_rows for batch in cursor.fetch_record_batch()) == 336_776


def test_executemany_inserts_every_row_and_counts_them(connection):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE many (a INTEGER, b VARCHAR)")
        cursor.executemany("INSERT INTO many VALUES (?, ?)", [(i, str(i)) for i in range(2000)])
        assert cursor.rowcount == 2000
        cursor.execute("SELECT count(*), sum(a) FROM many")
        assert cursor.fetchone() == (2000, 1999000)


@pytest.mark.parametrize("schema", [None, "nyc"])
def test_ingest_in_every_mode(connection, schema):
    rows, name = pa.table({"a": [1, 2], "b": ["x", None]}), "adbc_modes"
    table = f"{schema or 'main'}.{name}"
    with connection.cursor() as cursor:

        def load(mode):
            return cursor.adbc_ingest(name, rows, mode=mode, db_schema_name=schema)

        def count():
            cursor.execute(f"SELECT count(*) FROM {table}")
            return cursor.fetchone()[0]

        cursor.execute(f"DROP TABLE IF EXISTS {table}")
        with pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
            load("append")
        assert load("create") == 2
        with pytest.raises(adbc.Error, match="TABLE_ALREADY_EXISTS"):
            load("create")
        assert load("append") == 2
        assert load("create_append") == 2
        assert count() == 6
        assert load("replace") == 2
        assert count() == 2
        with pytest.raises(adbc.Error, match="SCHEMA_MISMATCH"):
            cursor.adbc_ingest(name, pa.table({"zzz": [1]}), mode="append", db_schema_name=schema)
        assert count() == 2
        cursor.execute(f"DROP TABLE {table}")


def test_temporary_ingest_belongs_to_the_connection(server, connection):
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("adbc_temp", pa.table({"a": [1, 2]}), mode="create", temporary=True) == 2
        assert cursor.adbc_ingest("adbc_temp", pa.table({"a": [3]}), mode="append", temporary=True) == 1
        cursor.execute("SELECT sum(a) FROM adbc_temp")
        assert cursor.fetchone() == (6,)
    with server.adbc() as other, other.cursor() as cursor, pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
        cursor.execute("SELECT * FROM adbc_temp")


def test_transactions_commit_and_roll_back(server):
    rows = pa.table({"a": [1, 2, 3]})
    with adbc.connect(server.uri) as connection, server.adbc() as other, connection.cursor() as cursor:
        cursor.adbc_ingest("adbc_tx", rows, mode="create")
        cursor.execute("SELECT count(*) FROM adbc_tx")
        assert cursor.fetchone() == (3,)
        with other.cursor() as outside, pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
            outside.execute("SELECT * FROM adbc_tx")
        connection.rollback()
        with pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
            cursor.execute("SELECT * FROM adbc_tx")
        cursor.adbc_ingest("adbc_tx", rows, mode="create")
        cursor.adbc_ingest("adbc_tx_2", rows, mode="create")
        connection.commit()
        with other.cursor() as outside:
            outside.execute("SELECT (SELECT count(*) FROM adbc_tx) + (SELECT count(*) FROM adbc_tx_2)")
            assert outside.fetchone() == (6,)
            outside.execute("DROP TABLE adbc_tx")
            outside.execute("DROP TABLE adbc_tx_2")


def test_closing_without_commit_rolls_back(server):
    connection = adbc.connect(server.uri)
    cursor = connection.cursor()
    cursor.adbc_ingest("adbc_closed", pa.table({"a": [1]}), mode="create")
    cursor.close()
    connection.close()
    with server.adbc() as other, other.cursor() as cursor, pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
        cursor.execute("SELECT * FROM adbc_closed")


def test_metadata(connection):
    objects = connection.adbc_get_objects(depth="all", db_schema_filter="nyc").read_all().to_pylist()
    tables = objects[0]["catalog_db_schemas"][0]["db_schema_tables"]
    names = {table["table_name"] for table in tables}
    assert {"airlines", "airports", "flights", "planes", "weather"} <= names
    flights = next(table for table in tables if table["table_name"] == "flights")
    assert len(flights["table_columns"]) == 19
    schema = connection.adbc_get_table_schema("airlines", db_schema_filter="nyc")
    assert schema.names == ["carrier", "name"]
    assert "TABLE" in connection.adbc_get_table_types()
    assert connection.adbc_get_info()["vendor_name"] == "Lakehouse Flight SQL"
    assert (connection.adbc_current_catalog, connection.adbc_current_db_schema) == ("lake", "main")
    connection.adbc_current_db_schema = "nyc"
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM airlines")
        assert cursor.fetchone() == (16,)


def test_partitions_are_read_on_another_connection(server, connection):
    with connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT * FROM nyc.airlines")
    assert schema.names == ["carrier", "name"]
    with server.adbc() as other, other.cursor() as cursor:
        cursor.adbc_read_partition(partitions[0])
        assert cursor.fetch_arrow_table().num_rows == 16


def test_cancel_ends_a_running_query_and_the_connection_goes_on(connection):
    with connection.cursor() as cursor:
        timer = threading.Timer(0.5, cursor.adbc_cancel)
        timer.start()
        with pytest.raises(adbc.Error, match=r"(?i)cancel"):  # noqa: PT012 - in either of the two
            cursor.execute("SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b")
            cursor.fetchall()
        timer.join()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_two_connections_append_to_one_table_at_once(server):
    with server.adbc() as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("adbc_race", pa.table({"a": [-1]}), mode="replace")

    def append(start):
        with server.adbc() as mine, mine.cursor() as cursor:
            for i in range(10):
                cursor.adbc_ingest("adbc_race", pa.table({"a": [start + i]}), mode="append")

    threads = [threading.Thread(target=append, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with server.adbc() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT a) FROM adbc_race")
        assert cursor.fetchone() == (41, 41)
        cursor.execute("DROP TABLE adbc_race")
