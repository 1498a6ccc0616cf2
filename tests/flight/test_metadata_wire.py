"""Catalog, types, keys and server information as real clients ask for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from flight_server.protocol import result_schemas as reference
from flight_server.protocol.messages import Any_, message_class

if TYPE_CHECKING:
    from conftest import Server

COMMANDS: list[tuple[str, dict[str, Any], pa.Schema]] = [
    ("CommandGetCatalogs", {}, reference.GET_CATALOGS),
    ("CommandGetDbSchemas", {"db_schema_filter_pattern": "nyc"}, reference.GET_DB_SCHEMAS),
    ("CommandGetTables", {"db_schema_filter_pattern": "nyc"}, reference.GET_TABLES),
    (
        "CommandGetTables",
        {"db_schema_filter_pattern": "nyc", "include_schema": True},
        reference.GET_TABLES_WITH_SCHEMA,
    ),
    ("CommandGetTables", {"catalog": "elsewhere"}, reference.GET_TABLES),
    ("CommandGetTableTypes", {}, reference.GET_TABLE_TYPES),
    ("CommandGetPrimaryKeys", {"db_schema": "nyc", "table": "planes"}, reference.GET_PRIMARY_KEYS),
    ("CommandGetPrimaryKeys", {"table": "not there"}, reference.GET_PRIMARY_KEYS),
    ("CommandGetExportedKeys", {"table": "airports"}, reference.GET_KEYS),
    ("CommandGetImportedKeys", {"catalog": "lake", "table": "flights"}, reference.GET_KEYS),
    ("CommandGetCrossReference", {"pk_table": "planes", "fk_table": "flights"}, reference.GET_KEYS),
    ("CommandGetSqlInfo", {}, reference.GET_SQL_INFO),
    ("CommandGetSqlInfo", {"info": [8, 4711]}, reference.GET_SQL_INFO),
    ("CommandGetXdbcTypeInfo", {}, reference.GET_XDBC_TYPE_INFO),
]
IDS = [f"{name.removeprefix('CommandGet')}-{place}" for place, (name, _, _) in enumerate(COMMANDS)]


@pytest.fixture
def client(server: Server) -> Any:
    with server.client() as opened:
        yield opened


def descriptor(name: str, **fields: Any) -> flight.FlightDescriptor:
    wrapper = Any_(
        type_url=f"type.googleapis.com/arrow.flight.protocol.sql.{name}",
        value=message_class(name)(**fields).SerializeToString(),
    )
    return flight.FlightDescriptor.for_command(wrapper.SerializeToString())


def rows(client: flight.FlightClient, name: str, **fields: Any) -> list[dict[str, Any]]:
    info = client.get_flight_info(descriptor(name, **fields))
    return client.do_get(info.endpoints[0].ticket).read_all().to_pylist()


# -- plain Flight -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fields", "schema"), COMMANDS, ids=IDS)
def test_what_is_announced_is_what_is_sent(
    client: flight.FlightClient, name: str, fields: dict[str, Any], schema: pa.Schema
) -> None:
    asked = descriptor(name, **fields)
    info = client.get_flight_info(asked)
    assert info.schema.equals(schema, check_metadata=True)
    assert client.get_schema(asked).schema.equals(schema, check_metadata=True)
    (endpoint,) = info.endpoints
    assert (endpoint.locations, endpoint.ticket.ticket) == ([], asked.command)
    reader = client.do_get(endpoint.ticket)
    assert reader.schema.equals(schema, check_metadata=True)
    table = reader.read_all()
    assert table.num_rows == info.total_records
    table.validate(full=True)


def test_ticket_can_be_used_again(client: flight.FlightClient) -> None:
    ticket = client.get_flight_info(descriptor("CommandGetTableTypes")).endpoints[0].ticket
    assert client.do_get(ticket).read_all().equals(client.do_get(ticket).read_all())


def test_sample_is_found_with_its_columns(client: flight.FlightClient) -> None:
    found = rows(client, "CommandGetTables", db_schema_filter_pattern="NYC", include_schema=True)
    assert [row["table_name"] for row in found] == ["airlines", "airports", "flights", "planes", "weather"]
    assert {(row["catalog_name"], row["db_schema_name"], row["table_type"]) for row in found} == {
        ("lake", "nyc", "TABLE")
    }
    for row in found:
        described = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
        path = flight.FlightDescriptor.for_path("lake", "nyc", row["table_name"])
        streamed = client.get_schema(path).schema
        assert (described.names, described.types) == (streamed.names, streamed.types)


def test_keys_of_the_sample_are_the_real_ones(client: flight.FlightClient) -> None:
    primary = {
        table: [
            row["column_name"] for row in rows(client, "CommandGetPrimaryKeys", db_schema="nyc", table=table)
        ]
        for table in ("airlines", "airports", "planes")
    }
    assert primary == {"airlines": ["carrier"], "airports": ["faa"], "planes": ["tailnum"]}
    imported = rows(client, "CommandGetImportedKeys", db_schema="nyc", table="flights")
    assert ("carrier", "airlines", "carrier") in {
        (row["fk_column_name"], row["pk_table_name"], row["pk_column_name"]) for row in imported
    }
    exported = rows(client, "CommandGetExportedKeys", db_schema="nyc", table="airlines")
    assert exported == rows(
        client, "CommandGetCrossReference", pk_db_schema="nyc", pk_table="airlines", fk_table="flights"
    )


def test_unknown_sql_info_is_left_out(client: flight.FlightClient) -> None:
    assert rows(client, "CommandGetSqlInfo", info=[8, 4711]) == [{"info_name": 8, "value": 1}]


def test_many_clients_get_the_same_answers(server: Server) -> None:
    def ask(_: int) -> list[Any]:
        with server.client() as client:
            return [
                rows(client, "CommandGetTables", db_schema_filter_pattern="nyc", include_schema=True),
                rows(client, "CommandGetSqlInfo"),
                rows(client, "CommandGetExportedKeys", db_schema="nyc", table="airports"),
            ]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert all(answer == answers[0] for answer in answers)


def upload(client: flight.FlightClient, asked: flight.FlightDescriptor) -> None:
    writer, reader = client.do_put(asked, pa.schema([]))
    writer.done_writing()
    reader.read()
    writer.close()


def test_metadata_commands_cannot_be_sent_as_upload(client: flight.FlightClient) -> None:
    with pytest.raises(pa.ArrowNotImplementedError, match="NOT_SUPPORTED"):
        upload(client, descriptor("CommandGetTables"))


# -- ADBC ---------------------------------------------------------------------------------------------------


def objects(connection: adbc.Connection, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection.adbc_get_objects(**options).read_all().to_pylist()
    return found


def tables(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"{schema['db_schema_name']}.{table['table_name']}": table
        for catalog in found
        for schema in catalog["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }


def test_adbc_gets_catalogs(connection: adbc.Connection) -> None:
    assert objects(connection, depth="catalogs") == [{"catalog_name": "lake", "catalog_db_schemas": None}]


def test_adbc_gets_schemas(connection: adbc.Connection) -> None:
    (catalog,) = objects(connection, depth="db_schemas", db_schema_filter="n%")
    assert catalog["catalog_db_schemas"] == [{"db_schema_name": "nyc", "db_schema_tables": None}]


def test_adbc_gets_tables(connection: adbc.Connection) -> None:
    found = tables(objects(connection, depth="tables", db_schema_filter="nyc", table_name_filter="air%"))
    assert set(found) == {"nyc.airlines", "nyc.airports"}
    assert found["nyc.airlines"]["table_type"] == "TABLE"
    assert found["nyc.airlines"]["table_columns"] is None


def test_adbc_gets_columns(connection: adbc.Connection) -> None:
    found = tables(objects(connection, depth="all", db_schema_filter="nyc", table_name_filter="planes"))
    columns = found["nyc.planes"]["table_columns"]
    assert [column["ordinal_position"] for column in columns] == list(range(1, len(columns) + 1))
    first = columns[0]
    assert (first["column_name"], first["xdbc_type_name"]) == ("tailnum", "VARCHAR")
    assert (first["xdbc_scope_catalog"], first["xdbc_scope_schema"]) == ("lake", "nyc")
    assert first["xdbc_is_autoincrement"] is False


def test_adbc_filters_columns_and_types(connection: adbc.Connection) -> None:
    found = tables(
        objects(connection, depth="columns", table_name_filter="planes", column_name_filter="tail%")
    )
    assert [column["column_name"] for column in found["nyc.planes"]["table_columns"]] == ["tailnum"]
    assert tables(objects(connection, depth="tables", table_types_filter=["LOCAL TEMPORARY"])) == {}


def test_adbc_gets_nothing_of_other_catalogs(connection: adbc.Connection) -> None:
    assert objects(connection, depth="all", catalog_filter="elsewhere") == []


def test_adbc_gets_the_schema_of_a_table(connection: adbc.Connection) -> None:
    schema = connection.adbc_get_table_schema("flights", db_schema_filter="nyc")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM nyc.flights LIMIT 0")
        result = cursor.fetch_arrow_table().schema
    assert (schema.names, schema.types) == (result.names, result.types)
    assert schema.field(0).metadata[b"ARROW:FLIGHT:SQL:TABLE_NAME"] == b"flights"


def test_adbc_is_told_of_a_table_that_is_not_there(connection: adbc.Connection) -> None:
    with pytest.raises(adbc.ProgrammingError, match="No table found"):
        connection.adbc_get_table_schema("not_there")


def test_adbc_tells_similar_names_apart(connection: adbc.Connection) -> None:
    with connection.cursor() as cursor:
        for table, column in (("wire_1", "first"), ("wirex1", "second")):
            cursor.adbc_ingest(table, pa.table({column: [1]}), mode="create")
    try:
        assert connection.adbc_get_table_schema("wire_1").names == ["first"]
        assert connection.adbc_get_table_schema("wirex1").names == ["second"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE wire_1")
            cursor.execute("DROP TABLE wirex1")


def test_adbc_gets_server_information(connection: adbc.Connection) -> None:
    found = connection.adbc_get_info()
    assert found["vendor_name"] == "Lakehouse Flight SQL"
    assert found["vendor_arrow_version"] == pa.__version__
    assert connection.adbc_get_table_types() == ["LOCAL TEMPORARY", "SYSTEM TABLE", "TABLE", "VIEW"]


def test_adbc_sees_its_temporary_and_uncommitted_tables(server: Server) -> None:
    with adbc.connect(server.uri) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("wire_temporary", pa.table({"a": [1]}), mode="create", temporary=True)
        cursor.adbc_ingest("wire_uncommitted", pa.table({"b": ["x"]}), mode="create")
        assert set(tables(objects(connection, depth="tables", table_name_filter="wire_%"))) == {
            "main.wire_uncommitted",
            "temp.wire_temporary",
        }
        assert connection.adbc_get_table_schema("wire_uncommitted").names == ["b"]
        connection.rollback()
        assert tables(objects(connection, depth="tables", table_name_filter="wire_u%")) == {}
