"""Servers whose tables are in an S3 store: nothing else is needed, and what fails there is told as such."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow.flight as flight
import pytest
from conftest import Server, start_server
from s3 import S3, start_s3
from s3_proxy import Answer, S3Proxy, slowly, start_proxy

ROWS_OF_A_FILE = 100_000
FILES = 4


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[S3Proxy]:
    running = start_proxy(s3.endpoint)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def narrow(s3: S3, proxy: S3Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a proxy before its store, whose cache keeps nothing that is not in use."""
    directory = tmp_path_factory.mktemp("narrow")
    running = start_server(directory, config(s3, directory, "narrow", 0, endpoint=proxy.endpoint))
    with running.adbc() as connection:
        run(connection, "CREATE TABLE wide (n BIGINT, text VARCHAR)")
        for file in range(FILES):
            first = file * ROWS_OF_A_FILE
            values = f"range({first}, {first + ROWS_OF_A_FILE}) r(i)"
            run(connection, f"INSERT INTO wide SELECT i, md5(i::VARCHAR) FROM {values}")
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@pytest.fixture(autouse=True)
def undisturbed(proxy: S3Proxy) -> Iterator[None]:
    yield
    proxy.fault = lambda answer: answer
    proxy.seen.clear()


def config(
    s3: S3, directory: Path, prefix: str | None = None, max_bytes: int = 10**9, **bucket: object
) -> str:
    cache = f'[cache]\ndirectory = "{directory}/cache"\nmax_bytes = {max_bytes}\n'
    rest = '[catalog]\nrefresh_ms = 0\n[auth]\nanonymous_role = "admin"\n'
    rest += "[maintenance]\ngrace_seconds = 0\norphan_days = 1e-9\n"
    rest += "[datasets]\nsample_rows = 0\n"  # what the server reads in its own time would be counted
    return f"{s3.toml(prefix, **bucket)}\n{cache}\n{rest}"


def run(connection: adbc.Connection, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def call(server: Server, action: str, /, **body: object) -> dict[str, Any]:
    with server.client() as client:
        *_, found = client.do_action(flight.Action(action, json.dumps(body).encode()))
    return json.loads(found.body.to_pybytes())


def everything(server: Server) -> dict[str, list[tuple[Any, ...]]]:
    with server.adbc() as connection:
        return {
            sql: sorted(run(connection, sql), key=repr)
            for sql in (
                "FROM shop.orders",
                "FROM shop.log",
                "FROM shop.large",
                "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'shop'",
                "SELECT snapshot_id, operation FROM system.snapshots WHERE schema_name = 'shop'",
                "SELECT * FROM shop.orders AT (VERSION => 'first')",
            )
        }


def test_nothing_but_the_bucket_is_needed_and_two_servers_share_it(s3: S3, tmp_path: Path) -> None:
    prefix = s3.prefix()
    one, two = (start_server(tmp_path / n, config(s3, tmp_path / n, prefix)) for n in ("one", "two"))
    with one.adbc() as here, two.adbc() as there:
        for sql in (
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, what VARCHAR, price DECIMAL(9, 2))",
            "CREATE TABLE shop.log (id BIGINT)",
            "INSERT INTO shop.orders SELECT i, 'thing ' || i, i / 4 FROM range(1000) r(i)",
            "CREATE VIEW shop.large AS SELECT id FROM shop.orders WHERE price > 200",
        ):
            run(here, sql)
        call(two, "table.create_tag", table="orders", db_schema="shop", name="first")
        run(there, "UPDATE shop.orders SET what = 'ü' WHERE id < 10")
        run(here, "DELETE FROM shop.orders WHERE id BETWEEN 500 AND 509")
        source = "(SELECT 5 AS id UNION SELECT 5000) s ON o.id = s.id WHEN MATCHED THEN UPDATE SET price = 0"
        new = "WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'new', 1)"
        run(there, f"MERGE INTO shop.orders o USING {source} {new}")
        run(here, "BEGIN")
        run(here, "INSERT INTO shop.log VALUES (1)")
        run(here, "DELETE FROM shop.orders WHERE id = 20")
        assert run(there, "SELECT count(*) FROM shop.orders")[0] == (991,)
        run(here, "COMMIT")
        run(there, "BEGIN")
        run(there, "DELETE FROM shop.orders")
        run(there, "ROLLBACK")
        for each in (here, there):
            assert run(each, "SELECT count(*), sum(price), min(what) FROM shop.orders WHERE id < 20") == [
                (20, 190 / 4 - 5 / 4, "thing 10")
            ]
            assert run(each, "SELECT (SELECT count(*) FROM shop.orders), (FROM shop.log)") == [(990, 1)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(append, itertools.islice(itertools.cycle((one, two)), 4), range(100, 104)))
    before = everything(one)
    assert everything(two) == before
    assert before["FROM shop.log"] == [(1,), (100,), (101,), (102,), (103,)]
    assert one.stop() == two.stop() == 0
    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(tmp_path / "two")
    again = start_server(tmp_path / "again", config(s3, tmp_path / "again", prefix))
    assert everything(again) == before
    assert not (tmp_path / "again" / "bucket").exists()
    assert call(again, "cache.stats")["misses"] > 0
    again.kill()
    # What is left after kill -9 is used, or fetched again.
    again = start_server(tmp_path / "again", config(s3, tmp_path / "again", prefix))
    assert everything(again) == before
    assert call(again, "cache.stats")["misses"] == 0
    assert again.stop() == 0


def append(server: Server, number: int) -> None:
    with server.adbc() as connection:
        run(connection, f"INSERT INTO shop.log VALUES ({number})")


def test_a_stream_keeps_its_files_while_others_go(narrow: Server) -> None:
    with narrow.adbc() as connection, connection.cursor() as cursor, narrow.adbc() as other:
        cursor.execute("SELECT n, text FROM wide")
        reader = cursor.fetch_record_batch()
        numbers = reader.read_next_batch().column("n").to_pylist()
        in_use = call(narrow, "cache.stats")["in_use_bytes"]
        assert in_use > 0
        assert call(narrow, "cache.clear") == {"objects": 0, "bytes": 0}
        assert run(other, f"SELECT count(*) FROM wide WHERE n < {ROWS_OF_A_FILE}") == [(ROWS_OF_A_FILE,)]
        assert call(narrow, "cache.stats")["bytes"] == in_use
        for batch in reader:
            numbers += batch.column("n").to_pylist()
    assert sorted(numbers) == list(range(FILES * ROWS_OF_A_FILE))
    stats = call(narrow, "cache.stats")
    assert (stats["bytes"], stats["objects"]) == (0, 0)
    assert stats["evicted"] >= FILES


def test_statements_that_read_the_same_fetch_it_once(narrow: Server, proxy: S3Proxy) -> None:
    proxy.fault = slowly(0.5)
    ready = threading.Barrier(6)

    def count(_: int) -> list[tuple[Any, ...]]:
        with narrow.adbc() as connection:
            ready.wait(30)
            return run(connection, "SELECT count(*), sum(n) FROM wide")

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(count, range(6)))
    rows = FILES * ROWS_OF_A_FILE
    assert found == [[(rows, rows * (rows - 1) // 2)]] * 6
    assert len(proxy.reads_of_data()) < 6 * FILES


def test_only_files_that_a_statement_needs_are_fetched_and_none_to_plan_it(
    narrow: Server, proxy: S3Proxy
) -> None:
    with narrow.adbc() as connection, connection.cursor() as cursor:
        assert cursor.adbc_execute_schema("SELECT n, text || '!' AS t FROM wide").names == ["n", "t"]
        assert proxy.reads_of_data() == []
        cursor.execute("SELECT text FROM wide WHERE n = 7")
        assert len(cursor.fetchall()) == 1
        assert len(proxy.reads_of_data()) == 1
        run(connection, "UPDATE wide SET text = 'seven' WHERE n = 7")
        assert len(proxy.reads_of_data()) == 2
        assert run(connection, "SELECT n FROM wide WHERE text = 'seven'") == [(7,)]


def test_no_statement_reaches_the_copies(narrow: Server) -> None:
    with narrow.adbc() as connection, connection.cursor() as cursor, narrow.adbc() as other:
        cursor.execute("SELECT n, text FROM wide")
        reader = cursor.fetch_record_batch()
        reader.read_next_batch()
        copy = next((narrow.directory / "cache").rglob("*.parquet"))
        for sql in (
            f"FROM '{copy}'",
            f'FROM "{copy}"',
            f"FROM read_parquet('{copy}')",
            f"FROM glob('{copy.parent}/*')",
            f"SELECT content FROM read_blob('{copy}')",
            f"COPY (SELECT 1 AS n) TO '{copy}'",
            f"COPY (SELECT 1 AS n) TO '{copy}.new'",
            f"ATTACH '{copy}' AS x",
            f"CREATE TABLE stolen AS FROM '{copy}'",
        ):
            with pytest.raises(adbc.Error) as caught:
                run(other, sql)
            assert "FORBIDDEN" in str(caught.value) or "NOT_FOUND" in str(caught.value)
        reader.close()


def test_tables_are_looked_after_in_a_store_as_in_a_directory(narrow: Server, s3: S3) -> None:
    store = s3.store("narrow")

    def files() -> set[str]:
        return {o["path"] for o in store.list("warehouse/main/kept/data").collect()}

    with narrow.adbc() as connection:
        run(connection, "CREATE TABLE kept (n BIGINT)")
        for number in range(4):
            run(connection, f"INSERT INTO kept VALUES ({number})")
        small = files()
        assert call(narrow, "table.compact", table="kept", min_files=2)["files_before"] == len(small) == 4
        assert call(narrow, "table.expire_snapshots", table="kept", keep_last=1)["removed_files"] >= 4
        assert len(files() - small) == len(files()) == 1
        orphan = f"{next(iter(small)).rsplit('/', 1)[0]}/orphan.parquet"
        store.put(orphan, b"of a write that was never finished")
        found = call(narrow, "table.remove_orphans", table="kept", dry_run=True)
        assert found["keys"] == [orphan]
        assert call(narrow, "table.remove_orphans", table="kept")["files"] == 1
        assert orphan not in files()
        assert len(files()) == 1
        assert run(connection, "SELECT n FROM kept ORDER BY n") == [(0,), (1,), (2,), (3,)]
        run(connection, "DROP TABLE kept")
    assert call(narrow, "table.purge", table="kept")["files"] >= 1  # the session's results are gone with it
    assert files() == set()


def test_a_store_that_stops_in_the_middle_fails_the_statement_and_no_more(
    narrow: Server, proxy: S3Proxy
) -> None:
    read = threading.Event()

    def stop(answer: Answer) -> Answer | None:
        if not read.is_set() and answer in proxy.reads_of_data()[:1]:
            read.set()
            return answer
        return None if read.is_set() else answer

    with narrow.adbc() as connection:
        proxy.seen.clear()
        proxy.fault = stop
        with pytest.raises(
            adbc.Error, match=r"STORAGE_UNAVAILABLE.*of bucket 'primary' could not be"
        ) as caught:
            run(connection, "SELECT sum(n) FROM wide")
        assert proxy.endpoint.removeprefix("http://") not in str(caught.value)
        with pytest.raises(adbc.Error, match="STORAGE_UNAVAILABLE"):
            run(connection, "INSERT INTO wide VALUES (-1, 'lost')")
        proxy.fault = lambda answer: answer
        assert call(narrow, "storage.health")["healthy"]
        rows = FILES * ROWS_OF_A_FILE
        assert run(connection, "SELECT count(*), sum(n) FROM wide") == [(rows, rows * (rows - 1) // 2)]
        run(connection, "INSERT INTO wide VALUES (-1, 'kept')")
        assert run(connection, "SELECT text FROM wide WHERE n < 0") == [("kept",)]
        run(connection, "DELETE FROM wide WHERE n < 0")


def test_a_cancelled_statement_stops_waiting_for_the_store(narrow: Server, proxy: S3Proxy) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(answer: Answer) -> Answer | None:
        if answer in proxy.reads_of_data():
            reached.set()
            go_on.wait(60)
        return answer

    with narrow.adbc() as connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as threads:
        proxy.fault = hold
        waits = threads.submit(lambda: (cursor.execute("SELECT max(text) FROM wide"), cursor.fetchall()))
        assert reached.wait(30)
        cursor.adbc_cancel()
        with pytest.raises(adbc.Error):
            waits.result(30)
        assert not go_on.is_set()
        while call(narrow, "cache.stats")["in_use_bytes"]:
            pass  # its end is noticed by the server a moment after it is told to the client
        go_on.set()
    assert call(narrow, "cache.stats")["objects"] == 0


def test_wrong_credentials_end_the_start_without_showing_them(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config(s3, tmp_path)
    with pytest.raises(RuntimeError, match="does not accept the credentials") as caught:
        start_server(tmp_path, text, TEST_S3_CREDENTIALS=f"{s3.access_key}:wr0ng-s3cret")
    assert "bucket 'primary'" in str(caught.value)
    assert "wr0ng" not in str(caught.value)
