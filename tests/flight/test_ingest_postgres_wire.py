"""Tables of a PostgreSQL database become tables of the lake by one action, as of one moment."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import presenting, start_guarded, token
from conftest import Server
from lakehouse_client import LakehouseClientError, connect
from postgres import PASSWORD, Postgres, start_postgres

TABLES = """
CREATE SCHEMA shop;
CREATE SCHEMA keys;
CREATE TABLE shop.customers (id int PRIMARY KEY, name text NOT NULL, balance numeric(12, 2));
COMMENT ON TABLE shop.customers IS 'Who buys';
COMMENT ON COLUMN shop.customers.name IS 'Full name';
CREATE TABLE shop.orders (
    id bigint PRIMARY KEY, customer int REFERENCES shop.customers (id), at timestamptz, items text[]
);
CREATE TABLE shop.secret (id int);
INSERT INTO shop.customers SELECT n, 'customer ' || n, n / 100.0 FROM generate_series(1, 1000) n;
INSERT INTO shop.orders
    SELECT n, 1 + n % 1000, '2026-01-01 UTC'::timestamptz + n * interval '1 minute', ARRAY['a', NULL, n::text]
    FROM generate_series(1, 20000) n;
CREATE VIEW shop.rich AS SELECT * FROM shop.customers WHERE balance > 9;
"""
CONFIG = """
[[sources]]
name = "shop"
dsn = "{dsn}"
password = {{ env = "SHOP_PASSWORD" }}
[[sources]]
name = "wrong"
dsn = "{dsn}"
password = {{ env = "WRONG_PASSWORD" }}
"""
WRONG = "not-the-password-1234"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    started = start_postgres()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    name = postgres.database().rpartition("/")[2]
    with psycopg.connect(postgres.dsn(name), autocommit=True) as connection:
        connection.execute(TABLES.encode())
    return name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, database: str) -> Iterator[Server]:
    config = CONFIG.format(dsn=f"postgresql://lake@127.0.0.1:{postgres.port}/{database}")
    secrets = {"SHOP_PASSWORD": PASSWORD, "WRONG_PASSWORD": WRONG}
    running = start_guarded(tmp_path_factory.mktemp("shop"), config, ("writer", "admin"), **secrets)
    yield running
    assert running.stop() == 0


def call(server: Server, action: str, who: str = "writer", **request: Any) -> dict[str, Any]:
    with connect(server.uri, token=token(who)) as lake:
        return lake.call(action, request)


def rows(server: Server, sql: str) -> list[dict[str, Any]]:
    with connect(server.uri, token=token("admin")) as lake:
        found: list[dict[str, Any]] = lake.sql(sql).table().to_pylist()
        return found


def test_a_table_comes_with_keys_and_comments(server: Server) -> None:
    run = call(
        server, "ingest.postgres", source="shop", relation="shop.customers", table="c", db_schema="one"
    )
    assert (run["state"], run["rows_in"], run["rows_stored"]) == ("succeeded", 1000, 1000)
    assert run["system"] == "postgresql"
    assert rows(server, "SELECT count(*) AS n, sum(balance) AS total FROM one.c")[0]["n"] == 1000
    found = call(server, "catalog.describe", table="c", db_schema="one")
    assert (found["description"], found["primary_key"]) == ("Who buys", ["id"])
    assert {c["name"]: c["description"] for c in found["columns"]}["name"] == "Full name"


def test_a_query_or_view_comes_too(server: Server) -> None:
    query = "SELECT customer, count(*) AS orders FROM shop.orders GROUP BY 1"
    run = call(server, "ingest.postgres", source="shop", query=query, table="per_customer", db_schema="one")
    assert run["rows_stored"] == 1000
    run = call(server, "ingest.postgres", source="shop", relation="shop.rich", table="rich", db_schema="one")
    assert run["rows_stored"] == 100


def test_rows_of_a_key_are_brought_up_to_date(server: Server, postgres: Postgres, database: str) -> None:
    request = {"source": "shop", "relation": "shop.customers", "table": "kept", "db_schema": "one"}
    call(server, "ingest.postgres", **request, mode="upsert")
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        connection.execute("UPDATE shop.customers SET name = 'changed' WHERE id = 7")
    run = call(server, "ingest.postgres", **request, mode="upsert")
    assert run["rows_in"] == 1000
    assert rows(server, "SELECT count(*) AS n, count(*) FILTER (name = 'changed') AS c FROM one.kept") == [
        {"n": 1000, "c": 1}
    ]


def declared(server: Server, table: str) -> tuple[Any, ...]:
    found = call(server, "catalog.describe", table=table, db_schema="keys")
    references = [(key["columns"], key["ref_schema"], key["ref_table"]) for key in found["foreign_keys"]]
    words = {c["name"]: c["description"] for c in found["columns"] if c.get("description")}
    return found["primary_key"], references, found["description"], words


def test_a_replacement_is_declared_to_be_what_the_source_is_now(
    server: Server, postgres: Postgres, database: str
) -> None:
    def brought(relation: str, **more: Any) -> dict[str, Any]:
        table = relation.partition(".")[2]
        request = {"source": "shop", "relation": relation, "table": table, "db_schema": "keys", **more}
        return call(server, "ingest.postgres", **request)

    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        connection.execute(
            b"""
            CREATE TABLE keys.changing (
                a int PRIMARY KEY, b text NOT NULL, c float8, d int REFERENCES shop.customers,
                boss int REFERENCES keys.changing
            );
            COMMENT ON TABLE keys.changing IS 'first'; COMMENT ON COLUMN keys.changing.b IS 'b, first';
            COMMENT ON COLUMN keys.changing.a IS 'a, first';
            INSERT INTO keys.changing VALUES (1, 'x', 1.5, 7, 1)
            """
        )
        brought("shop.customers")
        brought("keys.changing", mode="replace")
        words = {"a": "a, first", "b": "b, first"}
        to_itself = (["boss"], "keys", "changing")
        assert declared(server, "changing") == (
            ["a"], [to_itself, (["d"], "keys", "customers")], "first", words,
        )  # fmt: skip
        connection.execute(
            b"""
            ALTER TABLE keys.changing DROP COLUMN d, DROP COLUMN c, ADD COLUMN e text,
                DROP CONSTRAINT changing_pkey CASCADE, ADD PRIMARY KEY (b, a), ALTER a TYPE bigint;
            COMMENT ON TABLE keys.changing IS 'second'; COMMENT ON COLUMN keys.changing.e IS 'e, second'
            """
        )
        assert brought("keys.changing", mode="replace")["rows_stored"] == 1
        assert declared(server, "changing") == (["b", "a"], [], "second", {**words, "e": "e, second"})
        assert rows(server, "SELECT * FROM keys.changing") == [{"a": 1, "b": "x", "boss": 1, "e": None}]
    with connect(server.uri, token=token("writer")) as lake:
        lake.ingest_rows(pa.table({"b": ["y"], "a": [2]}), "changing", db_schema="keys", mode="replace")
        assert declared(server, "changing") == (["b", "a"], [], "second", words)
        lake.ingest_rows(pa.table({"b": ["y"]}), "changing", db_schema="keys", mode="replace")
        assert declared(server, "changing") == ([], [], "second", {"b": "b, first"})


def test_a_key_that_a_table_cannot_have_is_left_out(
    server: Server, postgres: Postgres, database: str
) -> None:
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        connection.execute(
            b"CREATE TABLE keys.floats (x float8 PRIMARY KEY); INSERT INTO keys.floats VALUES (1.5)"
        )
    request = {"source": "shop", "relation": "keys.floats", "table": "floats", "db_schema": "keys"}
    for mode in ("append", "replace"):
        assert call(server, "ingest.postgres", **request, mode=mode)["state"] == "succeeded"
    assert declared(server, "floats")[0] == []
    assert rows(server, "SELECT x FROM keys.floats") == [{"x": 1.5}]


def test_all_tables_come_as_of_one_moment(server: Server) -> None:
    found = call(server, "ingest.postgres_all", source="shop", schemas=["shop"], exclude=["secret"])
    assert found["failed"] == 0
    stored = {run["table"]: run["rows_stored"] for run in found["runs"]}
    assert stored == {"lake.shop.customers": 1000, "lake.shop.orders": 20_000}
    orders = call(server, "catalog.describe", table="orders", db_schema="shop")
    assert orders["primary_key"] == ["id"]
    assert len(orders["foreign_keys"]) == 1
    assert rows(server, "SELECT items FROM shop.orders WHERE id = 5") == [{"items": ["a", None, "5"]}]
    again = call(server, "ingest.postgres_all", source="shop", schemas=["shop"], exclude=["secret"])
    assert again["failed"] == 0
    assert rows(server, "SELECT count(*) AS n FROM shop.orders") == [{"n": 20_000}]


@contextmanager
def busy_bank(postgres: Postgres) -> Iterator[str]:
    """A database of pgbench's, whose four tables change together all the time; gives its DSN."""
    dsn = postgres.dsn(postgres.database().rpartition("/")[2])
    pgbench = str(Path(postgres.control).with_name("pgbench"))
    subprocess.run([pgbench, "-i", "-q", "--foreign-keys", dsn], check=True, capture_output=True)
    writers = subprocess.Popen(
        [pgbench, "-n", "-c", "3", "-T", "300", dsn], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not connection.execute("SELECT 1 FROM pgbench_history LIMIT 1").fetchall():
                assert writers.poll() is None
        yield dsn
        assert writers.poll() is None
    finally:
        writers.kill()
        writers.wait()


def test_what_transactions_keep_equal_is_equal_in_every_copy(server: Server, postgres: Postgres) -> None:
    sums = """
        SELECT (SELECT sum(abalance) FROM bank.pgbench_accounts) AS accounts,
            (SELECT sum(tbalance) FROM bank.pgbench_tellers) AS tellers,
            (SELECT sum(bbalance) FROM bank.pgbench_branches) AS branches,
            (SELECT sum(delta) FROM bank.pgbench_history) AS history,
            (SELECT count(*) FROM bank.pgbench_history) AS transactions
    """
    seen = []
    with busy_bank(postgres) as dsn:
        for _ in range(3):
            done = call(server, "ingest.postgres_all", who="admin", dsn=dsn, db_schema="bank")
            assert (len(done["runs"]), done["failed"]) == (4, 0)
            [found] = rows(server, sums)
            assert found["accounts"] == found["tellers"] == found["branches"] == found["history"]
            seen.append(found["transactions"])
    assert 0 < seen[0] < seen[1] < seen[2]
    assert rows(server, "SELECT count(*) AS n FROM bank.pgbench_accounts") == [{"n": 100_000}]
    told = call(server, "catalog.describe", who="admin", table="pgbench_accounts", db_schema="bank")
    assert told["primary_key"] == ["aid"]


def test_a_query_whose_database_is_restarted_fails_clearly_and_can_be_repeated(
    server: Server, postgres: Postgres
) -> None:
    query = "SELECT n, repeat('x', 4000) AS s, pg_sleep(0.001)::text AS z FROM generate_series(1, 8000) n"
    request = {"source": "shop", "table": "restarted", "db_schema": "one", "key": "restarted"}
    run = call(server, "ingest.postgres", **request, query=query, background=True)
    while not call(server, "ingest.status", run=run["id"])["rows_in"]:
        time.sleep(0.02)
    postgres.restart()
    while (run := call(server, "ingest.status", run=run["id"]))["state"] == "running":
        time.sleep(0.05)
    assert (run["state"], run["error_code"]) == ("failed", "STORAGE_UNAVAILABLE")
    assert "start again" in run["message"]
    again = call(server, "ingest.postgres", **request, query=query.replace("0.001", "0"))
    assert (again["state"], again["rows_stored"]) == ("succeeded", 8000)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            {"source": "nope", "relation": "shop.customers"},
            "INVALID_REQUEST",
            "the configuration has: shop, wrong",
        ),
        ({"source": "shop", "relation": "shop.nothing"}, "INVALID_REQUEST", "nothing"),
        ({"source": "shop", "query": "SELECT * FROM nowhere"}, "INVALID_REQUEST", "nowhere"),
        ({"source": "shop", "query": "DROP TABLE shop.secret"}, "INVALID_REQUEST", "query"),
        ({"source": "shop"}, "INVALID_REQUEST", "exactly one of relation and query"),
        ({"relation": "shop.customers"}, "INVALID_REQUEST", "exactly one of source and dsn"),
        ({"dsn": "postgresql://a@b/c", "relation": "x"}, "PERMISSION_DENIED", "name a source"),
    ],
)
def test_what_cannot_be_read_is_said(
    server: Server, request_: dict[str, Any], code: str, message: str
) -> None:
    with pytest.raises(LakehouseClientError, match=message) as raised:
        call(server, "ingest.postgres", table="refused", db_schema="one", **request_)
    assert raised.value.code == code


def test_an_admin_may_name_any_database(server: Server, postgres: Postgres, database: str) -> None:
    request = {
        "dsn": postgres.dsn(database),
        "relation": "shop.customers",
        "table": "direct",
        "db_schema": "one",
    }
    assert call(server, "ingest.postgres", who="admin", **request)["rows_stored"] == 1000


def test_no_password_is_seen_anywhere(server: Server, postgres: Postgres, database: str) -> None:
    with pytest.raises(LakehouseClientError) as raised:
        call(server, "ingest.postgres", source="wrong", relation="shop.customers", table="w", db_schema="one")
    wrong_dsn = postgres.dsn(database, password=WRONG)
    with pytest.raises(LakehouseClientError) as direct:
        call(server, "ingest.postgres", "admin", dsn=wrong_dsn, relation="x.y", table="w", db_schema="one")
    for action in ("journal.flush", "audit.flush", "storage.errors.flush"):
        call(server, action, "admin")
    seen = [
        str(raised.value),
        str(direct.value),
        *server.log,
        json.dumps(call(server, "ingest.list", "admin")),
    ]
    tables = ("audit", "events", "statements", "lineage", "datasets")
    seen += [str(rows(server, f"SELECT * FROM system.{table}")) for table in tables]
    with flight.connect(server.uri) as client:
        options = presenting(token("admin"))
        seen += [str(action) for action in client.list_actions(options)]
    bucket = Path(server.directory) / "bucket"
    seen += [file.read_bytes().decode("latin-1") for file in bucket.rglob("*") if file.is_file()]
    for text in seen:
        for secret in (PASSWORD, WRONG, "p%2Fw%401"):
            assert secret not in text


def test_names_of_the_source_are_kept_for_people(server: Server) -> None:
    query = 'SELECT 1 AS "Öl %", 2 AS "öl %"'
    run = call(server, "ingest.postgres", source="shop", query=query, table="odd", db_schema="one")
    assert [c["source_name"] for c in run["columns"]] == ["Öl %", "öl %"]
    assert len({c["name"] for c in run["columns"]}) == 2
    assert isinstance(rows(server, "SELECT * FROM one.odd"), list)
