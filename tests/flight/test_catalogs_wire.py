"""Several catalogs over the wire, by ADBC and Flight: object catalogs in two buckets, and one in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import Server, start_server
from wire import bare_action, call, command, cookie_options, query

from flight_server.protocol.messages import flight_class

CONFIG = """
[[buckets]]
name = "primary"
path = "{directory}/first"

[[buckets]]
name = "second"
path = "{directory}/second"

[[catalogs]]
name = "other"
bucket = "second"
refresh_ms = 0

[[catalogs]]
name = "filed"
type = "sql"
uri = "sqlite:///{directory}/catalog.db"
warehouse = "filed"
"""
ROWS = pa.table({"id": pa.array(range(6), pa.int64()), "amount": pa.array(range(0, 60, 10), pa.int64())})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("catalogs")
    running = start_server(directory, CONFIG.format(directory=directory))
    with running.adbc() as connection, connection.cursor() as cursor:
        for catalog in ("lake", "other", "filed"):
            cursor.execute(f"CREATE SCHEMA {catalog}.sales")
        cursor.execute("CREATE SCHEMA other.apart")
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@pytest.fixture
def connection(served: Server) -> Iterator[adbc.Connection]:
    with served.adbc() as opened:
        yield opened


def rows(cursor: adbc.Cursor, sql: str) -> list[tuple[Any, ...]]:
    cursor.execute(sql)
    return cursor.fetchall()


@pytest.mark.parametrize("catalog", ["other", "filed"])
def test_adbc_loads_into_the_catalog_that_it_names(connection: adbc.Connection, catalog: str) -> None:
    with connection.cursor() as cursor:
        place = {"catalog_name": catalog, "db_schema_name": "sales"}
        assert cursor.adbc_ingest("loaded", ROWS, mode="create", **place) == 6
        assert cursor.adbc_ingest("loaded", ROWS, mode="append", **place) == 6
        assert rows(cursor, f"SELECT count(*), sum(amount) FROM {catalog}.sales.loaded") == [(12, 300)]
        cursor.execute(f"CREATE TABLE sales.of_{catalog} AS SELECT DISTINCT * FROM {catalog}.sales.loaded")
        joined = f"SELECT count(*) FROM sales.of_{catalog} a JOIN {catalog}.sales.loaded b USING (id)"
        assert rows(cursor, joined) == [(12,)]
    found = connection.adbc_get_objects(catalog_filter=catalog).read_all().to_pylist()
    (listed,) = [c for c in found if c["catalog_name"] == catalog]
    (schema,) = [s for s in listed["catalog_db_schemas"] if s["db_schema_name"] == "sales"]
    assert "loaded" in {table["table_name"] for table in schema["db_schema_tables"]}
    described = connection.adbc_get_table_schema("loaded", catalog_filter=catalog, db_schema_filter="sales")
    assert described.names == ["id", "amount"]


def test_adbc_takes_a_catalog_for_the_connection(served: Server) -> None:
    options = {"adbc.connection.catalog": "other", "adbc.connection.db_schema": "sales"}
    with served.adbc(conn_kwargs=options) as connection, connection.cursor() as cursor:
        assert (connection.adbc_current_catalog, connection.adbc_current_db_schema) == ("other", "sales")
        assert cursor.adbc_ingest("mine", ROWS, mode="create") == 6
        assert rows(cursor, "SELECT current_catalog(), count(*) FROM mine") == [("other", 6)]
        assert rows(cursor, "SHOW TABLES").count(("mine",)) == 1
        connection.adbc_current_catalog = "lake"
        assert rows(cursor, "SELECT current_catalog(), current_schema()") == [("lake", "sales")]
        with pytest.raises(adbc.Error):
            connection.adbc_current_catalog = "nowhere"
        assert rows(cursor, "SELECT count(*) FROM other.sales.mine") == [(6,)]


@pytest.mark.parametrize("schema", ["sales", "apart"])
@pytest.mark.parametrize("calls", ["catalog schema", "schema catalog", "together"])
def test_catalog_and_schema_of_a_session_come_in_any_order(served: Server, schema: str, calls: str) -> None:
    """ADBC sends them one by one in an order of its own; ``apart`` is in the catalog ``other`` only."""
    values = {"catalog": "other", "schema": schema}
    with served.client() as client:
        options = cookie_options(f"{schema} {calls}")
        for names in (["schema", "catalog"],) if calls == "together" else [[n] for n in calls.split()]:
            request = flight_class("SetSessionOptionsRequest")()
            for name in names:
                request.session_options[name].string_value = values[name]
            (reply,) = bare_action(client, "SetSessionOptions", request, options)
            assert not flight_class("SetSessionOptionsResult").FromString(reply).errors
        found = query(client, "SELECT current_catalog() AS c, current_schema() AS s", options).to_pylist()
        assert found == [{"c": "other", "s": schema}]


def test_a_transaction_changes_one_catalog(served: Server, connection: adbc.Connection) -> None:
    with connection.cursor() as cursor:
        for catalog in ("lake", "other"):
            cursor.execute(f"CREATE TABLE {catalog}.sales.moved (id BIGINT)")
    with adbc.connect(served.uri, autocommit=False) as first, first.cursor() as cursor:
        cursor.execute("INSERT INTO other.sales.moved VALUES (1)")
        with pytest.raises(adbc.Error, match=r"\[NOT_SUPPORTED\].*'other'.*lake\.sales\.moved"):
            cursor.execute("INSERT INTO lake.sales.moved VALUES (1)")
        with pytest.raises(adbc.Error, match=r"\[NOT_SUPPORTED\]"):
            cursor.adbc_ingest("moved", ROWS.select(["id"]), mode="append", db_schema_name="sales")
        assert rows(cursor, "SELECT count(*) FROM lake.sales.moved") == [(0,)]
        first.commit()
    with connection.cursor() as cursor:
        both = "SELECT (SELECT count(*) FROM lake.sales.moved), (SELECT count(*) FROM other.sales.moved)"
        assert rows(cursor, both) == [(0, 1)]


def test_actions_and_datasets_reach_a_table_by_three_names(
    served: Server, connection: adbc.Connection
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE other.sales.kept AS SELECT 1 AS id")
        cursor.execute("INSERT INTO other.sales.kept VALUES (2)")
        cursor.execute("INSERT INTO other.sales.kept VALUES (3)")
    place = {"catalog": "other", "db_schema": "sales", "table": "kept"}
    with served.client() as client:
        first = call(client, "table.snapshots", place)["snapshots"][0]["snapshot_id"]
        call(client, "table.create_tag", {**place, "name": "first", "snapshot_id": first})
        assert query(client, 'SELECT id FROM other.sales."kept@first"').to_pylist() == [{"id": 1}]
        assert call(client, "table.diff", {**place, "before": {"ref": "first"}})["inserted"] == 2
        assert call(client, "table.compact", {**place, "min_files": 2})["files_after"] == 1
        assert call(client, "catalog.declare_keys", place)["primary_key"] == []
        call(client, "table.rollback", {**place, "ref": "first"})
        found = client.get_flight_info(flight.FlightDescriptor.for_path("other", "sales", "kept"))
        assert client.do_get(found.endpoints[0].ticket).read_all()["id"].to_pylist() == [1]
        listed = [i.descriptor.path for i in client.list_flights(b"other.sales.kept")]
        assert listed == [[b"other", b"sales", b"kept"]]
        with pytest.raises(KeyError, match="CATALOG_NOT_FOUND"):
            call(client, "table.snapshots", {**place, "catalog": "nowhere"})
        with pytest.raises(KeyError, match="SCHEMA_NOT_FOUND"):
            # Another catalog's own schema, not the session's.
            call(client, "table.snapshots", {"catalog": "other", "table": "kept"})
        status = call(client, "server.status")
        assert (status["catalog"], status["catalogs"]) == ("lake", ["lake", "other", "filed"])
        names = client.get_flight_info(command("CommandGetCatalogs"))
        listed = client.do_get(names.endpoints[0].ticket).read_all()["catalog_name"].to_pylist()
        assert listed == ["filed", "lake", "other"]
