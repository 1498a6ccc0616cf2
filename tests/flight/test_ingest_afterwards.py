"""After an ingest, whichever way it comes, everything is known of its rows without another call."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import psycopg
import pyarrow as pa
import pyarrow.csv as pc
import pytest
from conftest import Server, start_server
from lakehouse_client import Client, connect
from postgres import PASSWORD, Postgres, start_postgres

CONFIG = """
[auth]
anonymous_role = "admin"
[[sources]]
name = "shop"
dsn = "postgresql://lake@127.0.0.1:{port}/{database}"
password = {{ env = "SHOP_PASSWORD" }}
"""
ROWS = pa.table({"id": range(100), "mail": [f"person{n}@example.org" for n in range(100)]})
SECONDS = 60


@dataclass
class Place:
    """A server that can read a database."""

    server: Server
    lake: Client

    def file(self) -> None:
        path = self.server.directory / "bucket/in/people.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._csv())
        self.lake.call("ingest.file", {"key": "in/people.csv", "table": "file", "db_schema": "after"})

    def upload(self) -> None:
        self.lake.ingest_file(io.BytesIO(self._csv()), "upload", db_schema="after", file="people.csv")

    def rows(self) -> None:
        self.lake.ingest_rows(ROWS, "rows", db_schema="after", mode="upsert", keys=["id"])

    def bulk(self) -> None:
        self.lake.execute("CREATE SCHEMA IF NOT EXISTS after")
        with adbc.connect(self.server.uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("bulk", ROWS, mode="create", db_schema_name="after")

    def postgres(self) -> None:
        request = {"source": "shop", "relation": "people", "table": "postgres", "db_schema": "after"}
        self.lake.call("ingest.postgres", request)

    def _csv(self) -> bytes:
        written = io.BytesIO()
        pc.write_csv(ROWS, written)
        return written.getvalue()


# What lineage calls the system, and what is in its words for the source.
WAYS: dict[str, tuple[Callable[[Place], None], str, str]] = {
    "file": (Place.file, "file", "primary/in/people.csv"),
    "upload": (Place.upload, "file", "people.csv, sent by anonymous"),
    "rows": (Place.rows, "upload", "rows sent by anonymous"),
    "bulk": (Place.bulk, "upload", ""),
    "postgres": (Place.postgres, "postgresql", "people"),
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    started = start_postgres()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Place]:
    database = postgres.database().rpartition("/")[2]
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        connection.execute(
            b"CREATE TABLE people AS SELECT n::bigint AS id, 'person' || n || '@example.org' AS mail "
            b"FROM generate_series(0, 99) n"
        )
    config = CONFIG.format(port=postgres.port, database=database)
    server = start_server(tmp_path_factory.mktemp("after"), config, SHOP_PASSWORD=PASSWORD)
    with connect(server.uri) as lake:
        yield Place(server, lake)
    assert server.stop() == 0


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_known_without_another_call(place: Place, way: str) -> None:
    bring, system, source = WAYS[way]
    lake = place.lake
    bring(place)
    columns = {c["name"]: c for c in known(lake, way)["columns"]}
    # A table at once, and a flight.
    assert lake.sql(f"SELECT * FROM after.{way}").table().num_rows == 100
    assert lake.read_flight(["lake", "after", way]).num_rows == 100
    assert ("after", way) in {tuple(each.path[-2:]) for each in lake.flights()}
    # Statistics and sensitivity.
    assert [columns["id"][each] for each in ("minimum", "maximum", "nulls")] == ["0", "99", 0]
    assert columns["mail"]["sensitivity"][0]["kind"] == "email"
    # Manifest, fingerprint, freshness.
    found = known(lake, way)
    assert found["rows"] == 100
    assert found["fingerprint"].startswith("1:")
    assert found["changed_at"]
    assert found["freshness"] == "unknown", "nobody said how fresh it has to be"
    assert found["version"] > 0
    (row,) = lake.sql(f"SELECT * FROM system.datasets WHERE table_name = '{way}'").table().to_pylist()
    assert (row["snapshot_id"], row["fingerprint"]) == (found["snapshot_id"], found["fingerprint"])
    # Lineage and the event.
    (edge,) = found["lineage"]
    assert edge["system"] == system
    assert source in edge["source"]
    lake.call("journal.flush")
    entity = f"entity = 'lake.after.{way}' AND action != 'insert'"
    events = lake.sql(f"SELECT action, source, actor FROM system.events WHERE {entity}").table().to_pylist()
    by = {"source": "ingest", "actor": "anonymous"}
    assert sorted(events, key=str) == [{"action": "commit", **by}, {"action": "create", **by}]


def known(lake: Client, table: str) -> dict[str, Any]:
    """The description of a table, once what looks at its rows in the background has got to them."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = lake.call("catalog.describe", {"table": table, "db_schema": "after"})
        if any(column.get("sensitivity") for column in found["columns"]):
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {SECONDS} s all that is known of {table} is {found}")
