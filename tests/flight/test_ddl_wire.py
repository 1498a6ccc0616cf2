"""DDL over ADBC: what a client declares, it finds again in the metadata."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import Server
from wire import command, query

numbers = itertools.count()


@pytest.fixture
def schema(server: Server) -> Iterator[str]:
    """A schema of the test's own."""
    name = f"ddl{next(numbers)}"
    with server.adbc() as opened, opened.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {name}")
        yield name
        cursor.execute(f"DROP SCHEMA {name} CASCADE")


def update(cursor: adbc.Cursor, sql: str) -> int:
    """Run a statement as an update; gives the count."""
    cursor.adbc_statement.set_sql_query(sql)
    return int(cursor.adbc_statement.execute_update())


def test_a_table_is_created_filled_altered_and_read(
    server: Server, connection: adbc.Connection, schema: str
) -> None:
    with connection.cursor() as cursor:
        assert update(cursor, f"CREATE TABLE {schema}.customer (id INT PRIMARY KEY)") == 0
        update(
            cursor,
            f"CREATE TABLE {schema}.t (id BIGINT PRIMARY KEY, name VARCHAR DEFAULT 'none' NOT NULL, "
            f'"odd ""name" TIMESTAMP, customer INT REFERENCES {schema}.customer) SORTED BY (id DESC)',
        )
        assert update(cursor, f"INSERT INTO {schema}.t (id) VALUES (1), (2)") == 2
        rows = pa.table({"id": [3], "name": ["x"]})
        with connection.cursor() as loading:
            assert loading.adbc_ingest("t", rows, mode="append", db_schema_name=schema) == 1
        update(cursor, f"ALTER TABLE {schema}.t ADD COLUMN more STRUCT(a INT)")
        assert update(cursor, f"CREATE TABLE {schema}.u AS FROM {schema}.t WHERE id > 1") == 2
        cursor.execute(f"SELECT * FROM {schema}.u ORDER BY id")
        assert cursor.fetchall() == [(2, "none", None, None, None), (3, "x", None, None, None)]
        cursor.execute(
            "SELECT column_name, is_nullable FROM information_schema.columns "
            f"WHERE table_schema = '{schema}' AND table_name = 't' ORDER BY ordinal_position"
        )
        assert cursor.fetchall() == [
            ("id", "NO"), ("name", "NO"), ('odd "name', "YES"), ("customer", "YES"), ("more", "YES"),
        ]  # fmt: skip
    described = connection.adbc_get_table_schema("t", db_schema_filter=schema)
    assert [field.nullable for field in described] == [False, False, True, True, True]
    with server.client() as client:
        (key,) = keys(client, "CommandGetPrimaryKeys", db_schema=schema, table="t")
        (reference,) = keys(client, "CommandGetImportedKeys", db_schema=schema, table="t")
    assert key["column_name"] == "id"
    assert (reference["fk_column_name"], reference["pk_table_name"], reference["pk_column_name"]) == (
        ("customer", "customer", "id")
    )


def keys(client: flight.FlightClient, name: str, **fields: str) -> list[dict[str, object]]:
    """The rows of a metadata command."""
    info = client.get_flight_info(command(name, **fields))
    rows: list[dict[str, object]] = client.do_get(info.endpoints[0].ticket).read_all().to_pylist()
    return rows


def test_ddl_in_a_transaction_of_the_protocol(server: Server, schema: str) -> None:
    with adbc.connect(server.uri) as manual, server.adbc() as other, other.cursor() as looking:
        with manual.cursor() as cursor:
            assert update(cursor, f"CREATE TABLE {schema}.t AS SELECT 1 AS a") == 1
            cursor.execute(f"FROM {schema}.t")
            assert cursor.fetchall() == [(1,)]
            with pytest.raises(adbc.ProgrammingError, match="inside a transaction"):
                update(cursor, f"ALTER TABLE {schema}.t ADD COLUMN b INT")
            with pytest.raises(adbc.ProgrammingError, match="does not exist"):
                looking.execute(f"FROM {schema}.t")
        manual.rollback()
        with manual.cursor() as cursor:
            update(cursor, f"CREATE TABLE {schema}.t AS SELECT 2 AS a")
        manual.commit()
        looking.execute(f"FROM {schema}.t")
        assert looking.fetchall() == [(2,)]


def test_a_create_that_is_fetched_runs_once(server: Server, schema: str) -> None:
    with server.client() as client:
        made = query(client, f"CREATE TABLE {schema}.t AS FROM range(5)")
        assert made.to_pydict() == {"Count": [5]}
        assert query(client, f"SELECT count(*) AS n FROM {schema}.t").to_pydict() == {"n": [5]}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "CREATE TABLE {}.t (a INTERVAL)",
            r"\[TYPE_NOT_STORABLE\] column 'a' has the type INTERVAL.*VARCHAR",
        ),
        ("CREATE TABLE {}.t (a INT UNIQUE)", r"\[NOT_SUPPORTED\].*UNIQUE"),
        ("CREATE TABLE {}.t (a INT) PARTITIONED BY (year(a))", r"\[SCHEMA_MISMATCH\].*year\(a\)"),
        ("CREATE TABLE {}.t (a INT", r"\[SQL_SYNTAX\]"),
        ("ALTER TABLE {}.zz ADD COLUMN a INT", r"\[TABLE_NOT_FOUND\]"),
        ("COMMENT ON SCHEMA {} IS 'x'", r"\[NOT_SUPPORTED\]"),
    ],
)
def test_errors_say_what_works_instead(
    connection: adbc.Connection, schema: str, sql: str, message: str
) -> None:
    with connection.cursor() as cursor, pytest.raises(adbc.Error, match=message) as refused:
        cursor.execute(sql.format(schema))
    assert "Traceback" not in str(refused.value)
