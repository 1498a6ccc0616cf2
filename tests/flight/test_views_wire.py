"""Views and other names as clients see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

if TYPE_CHECKING:
    from conftest import Server


def fetched(connection: adbc.Connection, sql: str) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def changed(connection: adbc.Connection, sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_a_view_over_the_wire(server: Server, connection: adbc.Connection) -> None:
    changed(connection, "CREATE SCHEMA viewed")
    changed(
        connection,
        "CREATE VIEW viewed.united AS SELECT carrier, flight FROM nyc.flights WHERE carrier = 'UA'",
    )
    expected = fetched(connection, "SELECT count(*) FROM nyc.flights WHERE carrier = 'UA'")
    assert fetched(connection, "SELECT count(*) FROM viewed.united") == expected
    objects = connection.adbc_get_objects(db_schema_filter="viewed").read_all().to_pylist()
    (schema,) = [s for c in objects for s in c["catalog_db_schemas"] if s["db_schema_name"] == "viewed"]
    (table,) = schema["db_schema_tables"]
    assert (table["table_name"], table["table_type"]) == ("united", "VIEW")
    assert [c["column_name"] for c in table["table_columns"]] == ["carrier", "flight"]
    with server.client() as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path("viewed", "united"))
        rows = sum(client.do_get(end.ticket).read_all().num_rows for end in info.endpoints)
        assert rows == expected[0][0]
        ticket = flight.Ticket(b'{"path": ["viewed", "united"], "filter": "flight < 0", "limit": 3}')
        assert client.do_get(ticket).read_all().num_rows == 0
    changed(connection, "ALTER VIEW viewed.united RENAME TO ua")
    with pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
        fetched(connection, "FROM viewed.united")
    with pytest.raises(adbc.Error, match="SCHEMA_NOT_EMPTY"):
        changed(connection, "DROP SCHEMA viewed")
    changed(connection, "DROP VIEW viewed.ua")
    changed(connection, "DROP SCHEMA viewed")


def test_a_table_under_another_name_over_the_wire(connection: adbc.Connection) -> None:
    with connection.cursor() as cursor:
        cursor.adbc_ingest("named_once", pa.table({"n": [1, 2]}), mode="create")
        assert fetched(connection, "SELECT sum(n) FROM named_once") == [(3,)]
        changed(connection, "ALTER TABLE named_once RENAME TO named_twice")
        assert fetched(connection, "SELECT sum(n) FROM named_twice") == [(3,)]
        with pytest.raises(adbc.Error, match="TABLE_NOT_FOUND"):
            fetched(connection, "SELECT sum(n) FROM named_once")
        cursor.adbc_ingest("named_once", pa.table({"n": [10]}), mode="create")
        cursor.adbc_ingest("named_twice", pa.table({"n": [4]}), mode="append")
    assert fetched(
        connection, "SELECT (SELECT sum(n) FROM named_once), (SELECT sum(n) FROM named_twice)"
    ) == [(10, 7)]
    changed(connection, "DROP TABLE named_once")
    changed(connection, "DROP TABLE named_twice")
