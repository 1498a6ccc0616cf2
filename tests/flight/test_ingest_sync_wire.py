"""What is new of a PostgreSQL table comes by one action, however often, and whoever writes meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from callers import start_guarded, token
from conftest import Server
from lakehouse_client import LakehouseClientError, connect
from postgres import PASSWORD, Postgres, start_postgres

CONFIG = """
[[buckets]]
name = "primary"
kind = "local"
path = "{bucket}"
[[roles]]
name = "half"
actions = ["ingest.*"]
grants = [{{ on = "lake.main.half_seen", privileges = ["read", "write"], row_filter = "id < 10" }}]
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
        with connect(self.servers[server].uri, token=token("admin")) as lake:
            found: dict[str, Any] = lake.call(action, request)
            return found

    def sync(self, table: str, server: int = 0, **request: Any) -> dict[str, Any]:
        said = {"source": "shop", "relation": table, "watermark": "at", "table": table} | request
        return self.call("ingest.sync", server, **said)

    def rows(self, sql: str, server: int = 0) -> list[dict[str, Any]]:
        with connect(self.servers[server].uri, token=token("admin")) as lake:
            found: list[dict[str, Any]] = lake.sql(sql).table().to_pylist()
            return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    postgres = start_postgres()
    database = postgres.database().rpartition("/")[2]
    directory = tmp_path_factory.mktemp("sync")
    config = CONFIG.format(port=postgres.port, database=database, bucket=directory / "bucket")
    servers = [
        start_guarded(directory / name, config, ("admin", "half"), SHOP_PASSWORD=PASSWORD)
        for name in ("one", "two")
    ]
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


def test_rows_of_a_key_are_brought_up_to_date(shop: Shop) -> None:
    shop.execute(
        "CREATE TABLE people (id int PRIMARY KEY, name text, at timestamp)",
        "INSERT INTO people SELECT n, 'row ' || n, '2026-01-01'::timestamp + n * interval '1 s' "
        "FROM generate_series(1, 100) n",
    )
    assert account(shop.sync("people", mode="upsert")) == ("succeeded", 100, 100, 0)
    before = shop.rows("SELECT count(*) AS n FROM system.snapshots WHERE table_name = 'people'")
    assert account(shop.sync("people", mode="upsert")) == ("repeated", 1, 0, 1)
    assert shop.rows("SELECT count(*) AS n FROM system.snapshots WHERE table_name = 'people'") == before
    shop.execute("UPDATE people SET name = 'changed', at = '2026-02-01' WHERE id IN (7, 8)")
    shop.execute("INSERT INTO people VALUES (101, 'late', '2026-01-01 00:01:00')")
    assert account(shop.sync("people", mode="upsert")) == ("succeeded", 3, 2, 1)
    found = "SELECT count(*) AS n, count(*) FILTER (name = 'changed') AS changed FROM people"
    assert shop.rows(found) == [{"n": 100, "changed": 2}]
    # What was committed with an earlier watermark comes where it is said how much earlier that may be.
    run = shop.sync("people", mode="upsert", overlap="1 month")
    assert (run["rows_stored"], shop.rows(found)) == (1, [{"n": 101, "changed": 2}])
    assert shop.sync("people", mode="upsert", overlap="1 month")["state"] == "repeated"


@pytest.mark.parametrize(
    ("kind", "values", "later", "overlap"),
    [
        ("bigint", "n", ["9000"], "5"),
        ("smallint", "n", ["9000"], ""),
        ("date", "'2026-01-01'::date + n", ["'2027-01-01'", "'infinity'"], "2 days"),
        (
            "timestamp",
            "'2026-01-01 BC'::timestamp + n * interval '1 s'",
            ["'2027-01-01'", "'-infinity'"],
            "3 s",
        ),
        (
            "timestamptz",
            "'2026-01-01'::timestamptz + n * interval '1 s'",
            ["'2026-02-01'", "'9999-01-01'"],
            "3 s",
        ),
        ("text", "'it''s \\ ' || lpad(n::text, 5, '0')", ["'it''s \\ 1'"], ""),
    ],
)
def test_a_watermark_is_of_any_type_with_an_order(
    shop: Shop, kind: str, values: str, later: list[str], overlap: str
) -> None:
    table = f"typed_{kind}"
    shop.execute(
        f"CREATE TABLE {table} (at {kind}, id int)",
        f"INSERT INTO {table} SELECT {values}, n FROM generate_series(1, 30) n",
        f"INSERT INTO {table} VALUES (NULL, -1), (NULL, -2)",
    )
    run = shop.sync(table, overlap=overlap)
    assert (run["rows_stored"], run["sync"]["rows_without_watermark"]) == (30, 2)
    assert shop.sync(table, overlap=overlap)["state"] == "repeated"
    for value in later:
        shop.execute(f"INSERT INTO {table} VALUES ({value}, 31)")
    run = shop.sync(table, overlap=overlap)
    assert (run["rows_stored"], run["sync"]["rows_ahead"]) == (1, len(later) - 1)
    assert shop.rows(f"SELECT count(*) AS n, max(id) AS last FROM {table}") == [{"n": 31, "last": 31}]
    assert shop.sync(table, overlap=overlap)["state"] == "repeated"


def test_a_column_that_comes_later_makes_no_row_come_again(shop: Shop) -> None:
    shop.execute(
        "CREATE TABLE wider (id int, at int)",
        "INSERT INTO wider SELECT n, n / 3 FROM generate_series(1, 10) n",
    )
    shop.sync("wider")
    shop.execute("ALTER TABLE wider ADD more text DEFAULT 'x'", "INSERT INTO wider VALUES (11, 3), (12, 4)")
    assert account(shop.sync("wider")) == ("succeeded", 4, 2, 2)
    found = shop.rows("SELECT count(*) AS n, count(more) AS with_it FROM wider")
    assert found == [{"n": 12, "with_it": 2}]


def test_queries_and_views_come_too(shop: Shop) -> None:
    shop.execute(
        "CREATE TABLE sales (id int, at int)", "INSERT INTO sales SELECT n, n FROM generate_series(1, 10) n",
        "CREATE VIEW every_sale AS SELECT * FROM sales",
    )  # fmt: skip
    query = {"relation": None, "query": "SELECT id * 10 AS id, at -- '%'\nFROM sales WHERE id % 2 = 0"}
    for said, expected in ((query, 5), ({"relation": "every_sale"}, 10)):
        assert shop.sync("sales_seen", name=f"to {expected}", **said)["rows_stored"] == expected
        assert shop.sync("sales_seen", name=f"to {expected}", **said)["state"] == "repeated"
    shop.execute("INSERT INTO sales VALUES (12, 12)")
    assert shop.sync("sales_seen", name="to 5", **query)["rows_stored"] == 1
    assert shop.rows("SELECT count(*) AS n FROM sales_seen") == [{"n": 16}]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"watermark": "nothing", "name": "new"}, "has no column 'nothing'"),
        ({"watermark": "price", "name": "new"}, "cannot be a watermark"),
        ({"watermark": "id"}, "was made with watermark = 'at', not with watermark = 'id'"),
        ({"relation": "other", "name": "named"}, "was made with reads = 'public.refused'"),
        ({"overlap": "soon"}, "interval"),
        ({"overlap": "-1 day"}, "overlap"),
        ({"watermark": None}, "watermark"),
        ({"delimiter": ";"}, "delimiter: only for objects"),
        ({"mode": "replace"}, "append"),
        ({"key": "x"}, "key"),
        ({"prefix": "in/"}, "either objects"),
        ({"source": "nope"}, "there is no source 'nope'"),
    ],
)
def test_what_cannot_be_is_refused(shop: Shop, said: dict[str, Any], message: str) -> None:
    if not shop.execute("SELECT 1 FROM pg_class WHERE relname = 'refused'"):
        shop.execute(f"CREATE TABLE refused ({COLUMNS})", some("refused", 1, 5, "'2026-01-01'"))
        shop.execute("CREATE TABLE other (at timestamptz)", "INSERT INTO other VALUES ('2026-01-01')")
        shop.sync("refused")
        shop.sync("refused", name="named")
    with pytest.raises(LakehouseClientError, match=message):
        shop.sync(**({"table": "refused"} | said))
    assert shop.rows("SELECT count(*) AS n FROM refused") == [{"n": 10}]


def test_who_does_not_see_which_rows_are_there_brings_none(shop: Shop) -> None:
    shop.execute(
        "CREATE TABLE half_seen (id int, at int)",
        "INSERT INTO half_seen SELECT n, 1 FROM generate_series(1, 20) n",
    )
    said = {"source": "shop", "relation": "half_seen", "watermark": "at", "table": "half_seen"}
    with connect(shop.servers[0].uri, token=token("half")) as lake:
        assert lake.call("ingest.sync", said)["rows_stored"] == 20
        with pytest.raises(LakehouseClientError, match="which it does not see in full") as raised:
            lake.call("ingest.sync", said)
        assert raised.value.code == "PERMISSION_DENIED"
        [_, first] = lake.call("ingest.list", {})["runs"]
    assert first["sync"]["watermark"] == "1"
    assert shop.rows("SELECT count(*) AS n FROM half_seen") == [{"n": 20}]
    assert shop.sync("half_seen")["state"] == "repeated"


def test_a_sync_in_the_background_can_be_cancelled(shop: Shop) -> None:
    shop.execute(
        "CREATE TABLE slow (id int, at int)", "INSERT INTO slow SELECT n, n FROM generate_series(1, 9) n"
    )
    query = "SELECT id, at, pg_sleep(0.5)::text AS pause FROM slow"
    said = {"relation": None, "query": query, "background": True}
    run = shop.sync("slow", **said)
    assert run["state"] in ("queued", "running")
    while shop.call("ingest.status", run=run["id"])["state"] == "queued":
        pass
    shop.call("ingest.cancel", 1, run=run["id"])
    while (found := shop.call("ingest.status", 1, run=run["id"]))["state"] in ("queued", "running"):
        pass
    assert (found["state"], found["rows_stored"]) == ("cancelled", 0)


def test_with_writers_at_work_and_two_servers_the_rows_end_up_equal(shop: Shop) -> None:
    """Rows are inserted and changed in transactions that end late, out of the order of their watermarks."""
    shop.execute(
        "CREATE TABLE busy (id int PRIMARY KEY, version int, at timestamptz DEFAULT clock_timestamp())",
        "CREATE TABLE log (id int, at timestamptz DEFAULT clock_timestamp())",
    )
    stop, failures = threading.Event(), []

    def write(writer: int) -> None:
        chance, count = random.Random(writer), 0
        with psycopg.connect(shop.dsn) as connection:
            while not stop.is_set() or not count:
                for _ in range(chance.randrange(1, 20)):
                    count += 1
                    number = writer * 1_000_000 + count
                    connection.execute("INSERT INTO busy VALUES (%s, 0)", [number])
                    connection.execute("INSERT INTO log VALUES (%s)", [number // 3])
                    old = writer * 1_000_000 + chance.randrange(1, count + 1)
                    update = "UPDATE busy SET version = version + 1, at = clock_timestamp() WHERE id = %s"
                    connection.execute(update, [old])
                stop.wait(chance.random() / 10)
                if chance.random() < 0.2:
                    connection.rollback()
                connection.commit()

    def bring(server: int) -> None:
        try:
            for _ in range(2):
                shop.sync("busy", server, mode="upsert", keys=["id"], overlap="1 minute")
                shop.sync("log", server, overlap="1 minute")
        except LakehouseClientError as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    readers = [threading.Thread(target=bring, args=(n % 2,)) for n in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    for thread in writers:
        thread.join()
    assert not failures
    shop.sync("busy", 1, mode="upsert", keys=["id"], overlap="1 minute")
    shop.sync("log", 0, overlap="1 minute")
    for table, columns in (("busy", 'id, version, "at"'), ("log", 'id, "at"')):
        there = sorted(shop.execute(f"SELECT {columns} FROM {table}"))
        here = sorted(tuple(row.values()) for row in shop.rows(f"SELECT {columns} FROM {table}"))
        assert here == there
        assert len(here) > 50
