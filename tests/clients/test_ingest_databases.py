"""Tables of databases brought in by the command line, without a password on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import Server, start_server
from postgres import PASSWORD, Postgres, start_postgres
from test_cli import lakehouse, on_terminal

from flight_server.cli.database_password import with_password

TABLES = """
CREATE TABLE orders (id int PRIMARY KEY, paid bool, note text);
INSERT INTO orders SELECT n, n % 2 = 0, '[/bold] ' || n FROM generate_series(1, 5000) n;
CREATE TABLE customers (id int PRIMARY KEY);
INSERT INTO customers VALUES (1), (2);
"""
CONFIG = """
[auth]
anonymous_role = "admin"
[[sources]]
name = "shop"
dsn = "{dsn}"
password = {{ env = "SHOP_PASSWORD" }}
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    started = start_postgres()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    """The URI of a database with tables, without a password."""
    name = postgres.database().rpartition("/")[2]
    with psycopg.connect(postgres.dsn(name), autocommit=True) as connection:
        connection.execute(TABLES.encode())
    return f"postgresql://lake@127.0.0.1:{postgres.port}/{name}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[Server]:
    running = start_server(
        tmp_path_factory.mktemp("shop"), CONFIG.format(dsn=database), SHOP_PASSWORD=PASSWORD
    )
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGPASSWORD", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))


def count(server: Server, table: str) -> int:
    done = lakehouse("sql", f"SELECT count(*) FROM {table}", "--format", "csv", server=server)
    return int(done.stdout.splitlines()[1])


def test_a_table_of_a_named_source_comes_and_is_kept_up_to_date(server: Server) -> None:
    arguments = ("ingest", "source://shop", "--table", "public.orders", "--into", "crm.orders")
    done = lakehouse(*arguments, "--batch-bytes", "65536", "--connections", "1", server=server)
    assert (done.returncode, done.stderr) == (0, "")
    assert "public.orders: 5,000 rows into lake.crm.orders (run " in done.stdout
    assert lakehouse(*arguments, "--mode", "upsert", server=server).returncode == 0
    assert count(server, "crm.orders") == 5000


def test_a_query_is_brought_once_for_each_key(server: Server) -> None:
    query = ("--query", "SELECT * FROM orders WHERE paid", "--run-key", "2026-01-01")
    arguments = ("ingest", "source://shop", *query, "--into", "crm.paid")
    assert "2,500 rows" in lakehouse(*arguments, server=server).stdout
    assert "in lake.crm.paid already" in lakehouse(*arguments, server=server).stdout
    assert count(server, "crm.paid") == 2500


def test_only_new_rows_come_with_a_watermark(server: Server, postgres: Postgres, database: str) -> None:
    with psycopg.connect(postgres.dsn(database.rpartition("/")[2]), autocommit=True) as connection:
        connection.execute("CREATE TABLE log AS SELECT n AS id FROM generate_series(1, 10) n")
        arguments = ("ingest", "source://shop", "--table", "log", "--into", "crm.log", "--sync")
        arguments = (*arguments, "--watermark", "id")
        assert lakehouse(*arguments, server=server).returncode == 0
        connection.execute("INSERT INTO log VALUES (11)")
        assert lakehouse(*arguments, server=server).returncode == 0
        connection.execute("DROP TABLE log")
    assert count(server, "crm.log") == 11


def test_a_preview_shows_columns_and_rows_and_stores_nothing(server: Server) -> None:
    arguments = ("ingest", "source://shop", "--table", "orders", "--into", "crm.nothing", "--preview")
    done = lakehouse(*arguments, server=server)
    assert done.returncode == 0, done.stderr
    assert "note     string   text" in done.stdout
    assert "[/bold] 7" in done.stdout
    assert lakehouse("sql", "FROM crm.nothing", server=server).returncode == 1


def test_all_tables_come_and_a_failure_among_them_shows(server: Server) -> None:
    done = lakehouse("ingest", "source://shop", "--all", "--into", "copied", server=server)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[2:]] == [
        ["lake.copied.customers", "succeeded", "2"],
        ["lake.copied.orders", "succeeded", "5,000"],
    ]
    create = ("--all", "--into", "copied", "--include", "cust*", "--mode", "create")
    done = lakehouse("ingest", "source://shop", *create, server=server)
    assert done.returncode == 1
    assert "exists already" in done.stdout
    assert done.stderr == "1 of 1 tables failed\n"


def test_a_run_in_the_background_is_told_of(server: Server) -> None:
    arguments = ("ingest", "source://shop", "--table", "orders", "--into", "crm.later", "--background")
    done = lakehouse(*arguments, server=server)
    run = done.stdout.split(": run ")[1].split()[0]
    assert f'ingest.status \'{{"run": "{run}"}}\'' in done.stderr
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        told = json.loads(lakehouse("action", "ingest.status", f'{{"run": "{run}"}}', server=server).stdout)
        if told["state"] == "succeeded":
            break
    assert count(server, "crm.later") == 5000


@pytest.mark.parametrize("kept_in", ["environment", "file"])
def test_the_password_is_taken_from_where_psql_does(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept_in: str
) -> None:
    if kept_in == "environment":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    else:
        file = tmp_path / "pgpass"
        file.write_text(f"# ours\nelsewhere:*:*:*:wrong\n127.0.0.1:*:*:lake:{PASSWORD}\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))
    done = lakehouse("ingest", database, "--table", "orders", "--into", f"crm.by_{kept_in}", server=server)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout


def test_without_a_password_nobody_is_asked_where_nobody_is(server: Server, database: str) -> None:
    done = lakehouse("ingest", database, "--table", "orders", "--into", "crm.refused", server=server)
    assert done.returncode == 1
    assert "no password supplied" in done.stderr


@pytest.mark.parametrize(
    ("line", "uri", "expected"),
    [
        (r"db:5432:shop:me:a\:b\\c", "postgresql://me@db/shop", "postgresql://me:a%3Ab%5Cc@db/shop"),
        (
            "*:*:*:*:any",
            "postgres://me@[::1]:7/x?sslmode=require",
            "postgres://me:any@[::1]:7/x?sslmode=require",
        ),
        ("b:*:me:me:second", "postgresql://me@a:1,b:2/", "postgresql://me:second@a:1,b:2/"),
        ("*:*:other:*:no", "postgresql://me@db/shop", "postgresql://me@db/shop"),
        ("*:*:*:*:no", "postgresql://me:own@db/shop", "postgresql://me:own@db/shop"),
        ("*:*:*:me%:x", "postgresql://me%25@db/shop", "postgresql://me%25:x@db/shop"),
    ],
)
def test_a_password_file_is_read_as_libpq_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, uri: str, expected: str
) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"\n{line}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert with_password(uri) == expected
    file.chmod(0o644)
    assert with_password(uri) == (expected if "own" in uri else uri)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source://shop", "--into", "a.b"), "one of --table, --query and --all"),
        (("source://shop", "--table", "a", "--all"), "one of --table, --query and --all"),
        (("source://shop", "--table", "a", "--schema", "b", "--into", "a.b"), "go with --all"),
        (("source://shop", "--table", "a"), "--into"),
        (("source://shop", "--all", "--key", "id"), "about one table"),
        (("source://shop", "--table", "a", "--into", "a.b", "--sync"), "needs --watermark"),
        (("source://shop", "--table", "a", "--into", "a.b", "--watermark", "id"), "go with --sync"),
        (("people.csv", "--into", "a.b", "--sync"), "not about files that are sent"),
        (("people.csv", "--table", "a", "--into", "a.b"), "about databases"),
        (("people.csv", "--background", "--into", "a.b"), "background"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    server: Server, arguments: tuple[str, ...], message: str
) -> None:
    done = lakehouse("ingest", *arguments, server=server)
    assert done.returncode == 2
    assert message in done.stderr


def test_ctrl_c_ends_it_here_at_the_server_and_in_the_database(
    server: Server, postgres: Postgres, database: str
) -> None:
    query = "SELECT pg_sleep(300)::text AS s"
    with psycopg.connect(postgres.dsn(database.rpartition("/")[2]), autocommit=True) as connection:

        def running() -> bool:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%pg_sleep(300)%' "
                "AND state = 'active' AND pid <> pg_backend_pid()"
            ).fetchone()
            return found is not None and found[0] > 0

        arguments = ("ingest", "source://shop", "--query", query, "--into", "crm.slow")
        status, screen = on_terminal(*arguments, server=server, interrupt_at=running)
        assert status == 130
        assert "Traceback" not in screen
        deadline = time.monotonic() + 60
        while running() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running()

    def states() -> list[str]:
        answer = lakehouse("action", "ingest.list", '{"table": "lake.crm.slow"}', server=server).stdout
        return [run["state"] for run in json.loads(answer)["runs"]]

    # What it took from the database is given back before the run is said to be over.
    while states() == ["running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert states() == ["cancelled"]
