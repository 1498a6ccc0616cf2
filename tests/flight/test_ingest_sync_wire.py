"""What is new of a PostgreSQL table comes by one action, however often, and whoever writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Server, start_server
from lakehouse_client import connect
from postgres import PASSWORD, Postgres, start_postgres

CONFIG = """
[auth]
anonymous_role = "admin"
[[sources]]
name = "shop"
dsn = "postgresql://lake@127.0.0.1:{port}/{database}"
password = {{ env = "SHOP_PASSWORD" }}
"""


class Shop:
    """Two servers of one bucket, and the database that they read."""

    def __init__(self, servers: list[Server], postgres: Postgres, database: str) -> None:
        self.servers, self.dsn = servers, postgres.dsn(database)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def call(self, action: str, server: int = 0, **request: Any) -> dict[str, Any]:
        with connect(self.servers[server].uri) as lake:
            found: dict[str, Any] = lake.call(action, request)
            return found

    def sync(self, table: str, server: int = 0, **request: Any) -> dict[str, Any]:
        said = {"source": "shop", "relation": table, "watermark": "at", "table": table} | request
        return self.call("ingest.sync", server, **said)

    def rows(self, sql: str, server: int = 0) -> list[dict[str, Any]]:
        with connect(self.servers[server].uri) as lake:
            found: list[dict[str, Any]] = lake.sql(sql).table().to_pylist()
            return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    postgres = start_postgres()
    database = postgres.database().rpartition("/")[2]
    config = CONFIG.format(port=postgres.port, database=database)
    directory = tmp_path_factory.mktemp("sync")
    servers = [start_server(directory / "one", config, SHOP_PASSWORD=PASSWORD)]
    yield Shop(servers, postgres, database)
    assert all(server.stop() == 0 for server in servers)
    postgres.stop()


def account(run: dict[str, Any]) -> tuple[str, int, int, int]:
    return run["state"], run["rows_in"], run["rows_stored"], run["sync"]["rows_known"]


COLUMNS = """
    id int, name text, at timestamptz, tags text[], who uuid, raw bytea, price numeric(12, 2), day date,
    rate double precision
"""


def some(table: str, first: int, last: int, at: str) -> str:
    return f"""
        INSERT INTO {table} SELECT n, 'row ' || n, {at}, ARRAY[n::text, NULL], md5(n::text)::uuid,
            decode(md5(n::text), 'hex'), n / 100.0, '2026-01-01'::date + n,
            CASE n % 3 WHEN 0 THEN 'NaN'::float8 ELSE n END
        FROM generate_series({first}, {last}) n"""


def test_rows_without_a_key_come_once(shop: Shop) -> None:
    minute = "'2026-01-01 UTC'::timestamptz + n / 10 * interval '1 minute'"
    shop.execute(f"CREATE TABLE visits ({COLUMNS})", some("visits", 1, 95, minute))
    assert account(shop.sync("visits")) == ("succeeded", 95, 95, 0)
    again = shop.sync("visits")
    assert account(again) == ("repeated", 6, 0, 6)
    assert again["message"] == "nothing is new"
    # At the same time as rows that have come already, and one of them a second time as it was.
    shop.execute(some("visits", 96, 130, minute), "INSERT INTO visits SELECT * FROM visits WHERE id = 95")
    run = shop.sync("visits")
    assert account(run) == ("succeeded", 42, 36, 6)
    assert run["sync"]["watermark_before"] == "2026-01-01 00:09:00+00"
    assert run["sync"]["watermark"] == "2026-01-01 00:13:00+00"
    [found] = shop.rows(
        "SELECT count(*) AS n, count(DISTINCT id) AS ids, count(*) FILTER (id = 95) AS twice FROM visits"
    )
    assert found == {"n": 131, "ids": 130, "twice": 2}
    assert shop.sync("visits")["state"] == "repeated"
