"""Buckets that fail, with a rescue bucket beside them: what can be read is read and marked, writes fail."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from conftest import Server, start_server
from ports import free_ports
from s3 import S3, start_s3
from s3_proxy import Answer, Fault, S3Proxy, start_proxy

ROWS = 1000
NUMBERS = itertools.count()


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


def config(s3: S3, directory: Path, prefix: str, http_port: int = 0, **primary: Any) -> str:
    """A primary bucket in S3, one for the copies in a directory, and little patience."""
    quick = {"max_retries": 0, "retry_seconds": 1, "breaker_failures": 2, "breaker_max_seconds": 0.1}
    return "\n".join(
        [
            s3.toml(prefix, **quick, **primary),
            f'[[buckets]]\nname = "copies"\nclass = "rescue"\npath = "{directory}/copies"',
            f'[cache]\ndirectory = "{directory}/cache{next(NUMBERS)}"\nmax_bytes = 0',
            '[catalog]\nrefresh_ms = 0\n[auth]\nanonymous_role = "admin"',
            f"[ops]\nhttp_port = {http_port}",
        ]
    )


@dataclass
class Pair:
    """Two servers on one bucket: one reaches it through the proxy, the other directly."""

    reader: Server
    maker: Server
    http_port: int
    directory: Path


@pytest.fixture(scope="module")
def pair(s3: S3, proxy: S3Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    (port,), prefix = free_ports(1), s3.prefix()
    maker = start_server(directory / "maker", config(s3, directory, prefix))
    reader = start_server(directory / "reader", config(s3, directory, prefix, port, endpoint=proxy.endpoint))
    yield Pair(reader, maker, port, directory)
    assert (reader.stop(), maker.stop()) == (0, 0)


@pytest.fixture(autouse=True)
def undisturbed(proxy: S3Proxy) -> Iterator[None]:
    yield
    heal(proxy)
    proxy.seen.clear()


class Trailers(flight.ClientMiddlewareFactory):
    """Collects what calls told about the rescue bucket."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def start_call(self, info: flight.CallInfo) -> flight.ClientMiddleware:
        found = self.found

        class Middleware(flight.ClientMiddleware):
            def received_headers(self, headers: dict[str, list[str]]) -> None:
                found.extend(headers.get("lakehouse-rescue-used", []))

        return Middleware()


def run(server: Server, *statements: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    with server.adbc() as connection, connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)
            found = cursor.fetchall() if cursor.description else []
    return found


def call(server: Server, action: str, /, **body: object) -> dict[str, Any]:
    with server.client() as client:
        *_, found = client.do_action(flight.Action(action, json.dumps(body).encode()))
    return json.loads(found.body.to_pybytes())


def read(server: Server, table: str) -> tuple[int, list[str]]:
    """The number of a table's rows as a flight, and what the trailers say."""
    trailers = Trailers()
    with flight.connect(server.uri, middleware=[trailers]) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path("main", table))
        rows = sum(client.do_get(endpoint.ticket).read_all().num_rows for endpoint in info.endpoints)
    planned = json.loads(info.app_metadata).get("rescue_used", [])
    assert set(planned) <= set(trailers.found)
    return rows, sorted(set(trailers.found))


def rescue_used(server: Server, table: str) -> list[str]:
    """What the record of the newest query of a table says."""
    which = f"sql LIKE 'SELECT count%{table}' ORDER BY submitted_at"
    return run(server, f"SELECT rescue_used FROM system.statements WHERE {which}")[-1][0]


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return float(re.search(rf'^{name}{{bucket="primary"}} (\S+)$', text, re.MULTILINE)[1])


@dataclass(frozen=True)
class Failing:
    """How a store fails: what becomes of its answers, or what it answers without doing anything."""

    told: str
    fault: Fault = lambda answer: answer
    status: int = 0
    code: str = ""

    def begin(self, proxy: S3Proxy) -> None:
        proxy.fault = self.fault
        if self.status:
            proxy.instead = self._answer

    def _answer(self, method: str, path: str) -> Answer:
        text = f"<Error><Code>{self.code}</Code><Message>said by the proxy</Message></Error>".encode()
        return Answer(method, path, "", self.status, text, len(text), ())


def heal(proxy: S3Proxy) -> None:
    proxy.fault = lambda answer: answer
    proxy.instead = lambda method, path: None


def no_answer(answer: Answer) -> Answer | None:
    return None


def short_or_reset(answer: Answer) -> Answer | None:
    """Each answer breaks off somewhere, or does not come at all."""
    end = random.Random(len(answer.body)).randint(-5, max(len(answer.body) - 1, 0))
    whole = answer.method in ("PUT", "HEAD", "DELETE", "POST")
    return None if end < 0 or whole else replace(answer, body=answer.body[:end])


FAULTS = {
    "reset": Failing("cannot be reached", no_answer),
    "lost_500": Failing("is not working", lambda answer: replace(answer, status=500, body=b"", length=0)),
    "503": Failing("is not working", status=503, code="SlowDown"),
    "short": Failing("broke off|cannot be reached", short_or_reset),
    "credentials": Failing("does not accept the credentials", status=403, code="SignatureDoesNotMatch"),
    "skew": Failing("too far apart|does not accept", status=403, code="RequestTimeTooSkewed"),
    "no_bucket": Failing("has no such bucket", status=404, code="NoSuchBucket"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bucket_that_fails_is_read_from_its_copies_and_not_written(
    pair: Pair, proxy: S3Proxy, fault: str
) -> None:
    known, unknown = f"known_{fault}", f"unknown_{fault}"
    for table in (known, unknown):
        run(pair.maker, f"CREATE TABLE {table} AS SELECT i AS n FROM range({ROWS}) r(i)")
    call(pair.maker, "storage.rescue.copy", bucket="primary")
    assert read(pair.reader, known) == (ROWS, [])
    reads = metric(pair.http_port, "lakehouse_rescue_reads_total")
    FAULTS[fault].begin(proxy)
    told = FAULTS[fault].told
    for table in (unknown, known):
        assert run(pair.reader, f"SELECT count(*) FROM {table}") == [(ROWS,)]
        assert rescue_used(pair.reader, table) == ["primary"]
        assert read(pair.reader, table) == (ROWS, ["primary"])
    assert call(pair.reader, "table.snapshots", table=unknown)["rescue_used"] == ["primary"]
    assert (unknown,) in run(pair.reader, "SELECT table_name FROM information_schema.tables")
    assert run(pair.reader, "USE main", f"SELECT count(*) FROM {unknown}") == [(ROWS,)]
    seen = run(pair.reader, "SELECT kind, error FROM system.bucket_errors WHERE bucket = 'primary'")
    assert any(kind == "rescue" and re.search(told, error) for kind, error in seen)
    for sql in (
        f"INSERT INTO {known} VALUES (-1)",
        f"UPDATE {unknown} SET n = 0",
        f"CREATE TABLE new_{known} AS SELECT * FROM {unknown}",
        f"DROP TABLE {known}",
        f"ALTER TABLE {known} ADD COLUMN extra BIGINT",
    ):
        with pytest.raises(
            adbc.Error, match=f"STORAGE_UNAVAILABLE.*({told}|has not been answering)"
        ) as caught:
            run(pair.reader, sql)
        assert "127.0.0.1" not in str(caught.value)
    events = call(pair.reader, "storage.errors", bucket="primary", limit=1000)["errors"]
    causes = {event["kind"]: [e["error"] for e in events if e["kind"] == event["kind"]] for event in events}
    assert any(re.search(told, error) for error in causes["error"])
    assert any(re.search(told, error) for error in causes["rescue"])
    assert metric(pair.http_port, "lakehouse_rescue_reads_total") > reads
    (shown,) = [b for b in call(pair.reader, "storage.buckets")["buckets"] if b["name"] == "primary"]
    assert shown["rescued"] > 0
    assert not call(pair.reader, "storage.health", bucket="primary")["healthy"]
    heal(proxy)
    assert call(pair.reader, "storage.health", bucket="primary")["buckets"][0]["state"] == "closed"
    assert read(pair.reader, known) == read(pair.reader, unknown) == (ROWS, [])
    run(pair.reader, f"INSERT INTO {known} VALUES (-1)")
    assert run(pair.maker, f"SELECT count(*) FROM {known}") == [(ROWS + 1,)]
    tables = run(pair.reader, "SELECT table_name FROM information_schema.tables")
    assert (f"new_{known}",) not in tables


def test_nothing_is_written_after_what_may_be_an_old_version(pair: Pair, proxy: S3Proxy) -> None:
    run(pair.maker, "CREATE TABLE moved AS SELECT 1 AS n", "CREATE TABLE aside (n BIGINT)")
    call(pair.maker, "storage.rescue.copy")
    run(pair.maker, "INSERT INTO moved VALUES (2)")
    with adbc.connect(pair.reader.uri) as connection, connection.cursor() as cursor:  # no autocommit
        proxy.fault = no_answer
        cursor.execute("SELECT n FROM moved")
        assert cursor.fetchall() == [(1,)], "the version that was copied, and marked"
        heal(proxy)
        assert call(pair.reader, "storage.health", bucket="primary")["healthy"]
        for sql in ("INSERT INTO aside SELECT * FROM moved", "DELETE FROM moved", "DROP TABLE moved"):
            with pytest.raises(adbc.Error, match="may be an older version, so it can change nothing"):
                cursor.execute(sql)
        connection.rollback()
        cursor.execute("INSERT INTO aside SELECT * FROM moved")
        connection.commit()
    assert sorted(run(pair.maker, "SELECT n FROM aside")) == [(1,), (2,)]


def test_a_reader_never_goes_back_behind_what_it_saw(pair: Pair, proxy: S3Proxy) -> None:
    run(pair.maker, "CREATE TABLE forward AS SELECT 1 AS n")
    call(pair.maker, "storage.rescue.copy")
    run(pair.maker, "INSERT INTO forward VALUES (2)")
    assert run(pair.reader, "SELECT count(*) FROM forward") == [(2,)]
    proxy.fault = no_answer
    with pytest.raises(adbc.Error, match="STORAGE_UNAVAILABLE"):
        run(pair.reader, "SELECT count(n) FROM forward")
    call(pair.maker, "storage.rescue.copy")
    assert run(pair.reader, "SELECT count(n) FROM forward") == [(2,)]


def test_objects_that_are_missing_are_read_from_their_copies(pair: Pair, s3: S3) -> None:
    run(
        pair.maker, "CREATE TABLE holes AS SELECT i AS n FROM range(10) r(i)", "INSERT INTO holes VALUES (10)"
    )
    call(pair.maker, "storage.rescue.copy")
    store = s3.store()
    keys = [o["path"] for o in store.list().collect() if "/holes/" in o["path"]]
    for ending in (".parquet", ".avro"):
        store.delete(next(key for key in keys if key.endswith(ending)))
    assert read(pair.reader, "holes") == (11, ["primary"])
    events = call(pair.reader, "storage.errors", limit=1000)["errors"]
    rescued = [e for e in events if e["kind"] == "rescue" and "/holes/" in e["key"]]
    assert {e["code"] for e in rescued} == {"OBJECT_NOT_FOUND"}
    assert {e["detail"] for e in rescued} == {"read in bucket 'copies'"}
    with pytest.raises(adbc.Error, match="NOT_FOUND"):
        run(pair.reader, "SELECT * FROM never_there")


def test_objects_of_clients_are_read_from_copies_while_their_bucket_is_down(
    pair: Pair, proxy: S3Proxy
) -> None:
    put = {"bucket": "primary", "key": "papers/größe.txt", "content": "aGVsbG8="}
    call(pair.maker, "objects.put", **put, content_type="text/plain")
    call(pair.maker, "objects.put", **{**put, "key": "papers/deleted.txt"})
    call(pair.maker, "storage.rescue.copy", prefix="papers")
    call(pair.maker, "objects.delete", bucket="primary", key="papers/deleted.txt")
    where = {"bucket": "primary", "key": put["key"]}
    there = call(pair.reader, "objects.get", **where)
    assert (there["content"], there["rescue_used"]) == (put["content"], [])
    FAULTS["503"].begin(proxy)
    for action in ("get", "head"):
        found = call(pair.reader, f"objects.{action}", **where)
        assert (found["size"], found["rescue_used"]) == (5, ["primary"])
    trailers = Trailers()
    with flight.connect(pair.reader.uri, middleware=[trailers]) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path("primary", put["key"]))
        assert json.loads(info.app_metadata)["rescue_used"] == ["primary"]
        content = client.do_get(info.endpoints[0].ticket).read_all().column(0).to_pylist()
    assert b"".join(content) == b"hello"
    assert trailers.found == ["primary", "primary"]
    for action, more in (("put", {"content": "bm8="}), ("copy", {"to_key": "papers/b"}), ("delete", {})):
        with pytest.raises(flight.FlightUnavailableError, match="STORAGE_UNAVAILABLE"):
            call(pair.reader, f"objects.{action}", **where, **more)
    heal(proxy)
    assert call(pair.reader, "storage.health")["healthy"]
    assert call(pair.reader, "objects.get", **where) == there
    with pytest.raises(pa.ArrowException, match="OBJECT_NOT_FOUND"):
        call(pair.reader, "objects.get", bucket="primary", key="papers/deleted.txt")


def test_registered_objects_are_read_from_copies_of_the_very_same_content(
    pair: Pair, proxy: S3Proxy, s3: S3
) -> None:
    def put(name: str, first: int) -> None:
        content = io.BytesIO()
        pq.write_table(pa.table({"n": [first, 2, 3]}), content)
        call(pair.maker, "objects.put", bucket="primary", key=name, content=encoded(content.getvalue()))

    put("raw/same/1.parquet", 1)
    put("raw/other/1.parquet", 1)
    call(pair.maker, "storage.rescue.copy", prefix="raw")
    put("raw/other/1.parquet", 7)
    for name in ("same", "other"):
        call(pair.maker, "catalog.register", name=f"main.{name}", bucket="primary", prefix=f"raw/{name}")
        assert run(pair.maker, f"SELECT count(n) FROM registered.main.{name}") == [(3,)]
    table = "registered.main.{}"
    run(pair.reader, f"SELECT n FROM {table.format('same')} WHERE false")  # it knows that there is one
    FAULTS["503"].begin(proxy)
    assert run(pair.reader, f"SELECT count(n), sum(n) FROM {table.format('same')}") == [(3, 6)]
    assert rescue_used(pair.reader, "same") == ["primary"]
    with pytest.raises(adbc.Error, match="STORAGE_UNAVAILABLE"):
        run(pair.reader, f"SELECT count(n), sum(n) FROM {table.format('other')}")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_with_both_buckets_gone_the_cause_is_that_of_the_first(pair: Pair, proxy: S3Proxy) -> None:
    run(pair.maker, "CREATE TABLE twice AS SELECT 1 AS n")
    call(pair.maker, "storage.rescue.copy")
    copies, aside = pair.directory / "copies", pair.directory / "aside"
    copies.rename(aside)
    try:
        FAULTS["503"].begin(proxy)
        with pytest.raises(adbc.Error, match=r"bucket 'primary'.*(is not working|has not been answering)"):
            run(pair.reader, "SELECT * FROM twice")
        aside.rename(copies)
        assert run(pair.reader, "SELECT * FROM twice") == [(1,)]
    finally:
        if aside.exists():
            aside.rename(copies)
    heal(proxy)
    assert call(pair.reader, "storage.health")["healthy"]
    assert read(pair.reader, "twice") == (1, [])


def test_a_slow_store_is_given_up_and_read_from_its_copies(
    s3: S3, proxy: S3Proxy, pair: Pair, tmp_path: Path
) -> None:
    prefix = s3.prefix()
    slow = {"endpoint": proxy.endpoint, "request_timeout_seconds": 4}
    server = start_server(tmp_path / "server", config(s3, tmp_path, prefix, **slow))
    run(server, "CREATE TABLE t AS SELECT 1 AS n")
    call(server, "storage.rescue.copy")
    go_on = threading.Event()
    proxy.fault = lambda answer: answer if go_on.wait(30) else None
    assert read(server, "t") == (1, ["primary"])
    events = call(server, "storage.errors", bucket="primary")["errors"]
    assert any("did not answer in time" in event["error"] for event in events)
    go_on.set()
    assert call(server, "storage.health")["healthy"]
    assert read(server, "t") == (1, [])
    server.kill()


def test_a_store_that_is_killed_and_started_again_needs_no_restart_of_the_server(
    tmp_path: Path,
) -> None:
    store = start_s3()
    try:
        server = start_server(tmp_path / "server", config(store, tmp_path, store.prefix()))
        run(server, "CREATE TABLE t AS SELECT i AS n FROM range(100) r(i)")
        call(server, "storage.rescue.copy")
        store.kill()
        assert read(server, "t") == (100, ["primary"])
        with pytest.raises(adbc.Error, match="STORAGE_UNAVAILABLE"):
            run(server, "INSERT INTO t VALUES (1)")
        store.restart()
        assert call(server, "storage.health")["healthy"]
        run(server, "INSERT INTO t VALUES (1)")
        assert read(server, "t") == (101, [])
        assert server.stop() == 0
    finally:
        store.stop()


def test_credentials_are_shown_nowhere(s3: S3, proxy: S3Proxy, tmp_path: Path) -> None:
    secret = tmp_path / "credentials"
    secret.write_text(s3.secret)
    secret.chmod(0o600)
    (port,) = free_ports(1)
    text = config(s3, tmp_path, s3.prefix(), port, endpoint=proxy.endpoint)
    text = re.sub(r"secret_ref = .*", f'secret_ref = {{ file = "{secret}" }}', text)
    server = start_server(tmp_path / "server", text + '\n[log]\nlevel = "debug"\n')
    said = [str(run(server, "CREATE TABLE t AS SELECT 1 AS n"))]
    call(server, "storage.rescue.copy")
    for failing in FAULTS.values():
        heal(proxy)
        failing.begin(proxy)
        for sql in ("FROM t", "INSERT INTO t VALUES (2)", "FROM system.bucket_errors", "FROM system.buckets"):
            try:
                said.append(str(run(server, sql)))
            except adbc.Error as error:
                said.append(str(error))
        said += [str(call(server, f"storage.{name}")) for name in ("buckets", "health", "errors")]
    heal(proxy)
    assert call(server, "storage.health")["healthy"]
    call(server, "storage.errors.flush")
    said.append(str(run(server, "FROM system.bucket_errors")))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        said.append(answer.read().decode())
    assert server.stop() == 0
    said += server.log
    said += [
        file.read_bytes().decode("latin-1") for file in (tmp_path / "copies").rglob("*") if file.is_file()
    ]
    store = s3.store()
    said += [store.get(o["path"]).bytes().to_bytes().decode("latin-1") for o in store.list().collect()]
    assert len(said) > 50
    for text in said:
        for part in (s3.secret_key, s3.access_key, "Signature=", "Credential="):
            assert part not in text


def test_a_directory_that_is_gone_is_read_from_its_copies_and_not_made_again(tmp_path: Path) -> None:
    text = (
        f'[[buckets]]\npath = "{tmp_path}/data"\n'
        f'[[buckets]]\nname = "copies"\nclass = "rescue"\npath = "{tmp_path}/copies"\n'
        '[catalog]\nrefresh_ms = 0\n[auth]\nanonymous_role = "admin"\n'
    )
    server = start_server(tmp_path / "server", text)
    for name in ("t", "unknown"):
        run(server, f"CREATE TABLE {name} AS SELECT i AS n FROM range(100) r(i)")
    call(server, "storage.rescue.copy")
    assert server.stop() == 0
    server = start_server(tmp_path / "server", text)
    assert read(server, "t") == (100, [])
    file = next((tmp_path / "data").rglob("t/data/*.parquet"))
    file.rename(tmp_path / "aside")
    assert run(server, "SELECT sum(n) FROM t") == [(4950,)]
    assert read(server, "t") == (100, ["primary"])
    (tmp_path / "aside").rename(file)
    assert read(server, "t") == (100, [])
    shutil.move(tmp_path / "data", tmp_path / "gone")
    for name in ("t", "unknown"):
        assert read(server, name) == (100, ["primary"])
    assert sorted(
        run(server, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'")
    ) == [
        ("t",),
        ("unknown",),
    ]
    for sql in ("INSERT INTO t VALUES (1)", "CREATE TABLE u (n BIGINT)", "DELETE FROM unknown"):
        with pytest.raises(adbc.Error, match=r"STORAGE_UNAVAILABLE.*'primary' is gone"):
            run(server, sql)
    assert not (tmp_path / "data").exists()
    shutil.move(tmp_path / "gone", tmp_path / "data")
    run(server, "INSERT INTO t VALUES (1)")
    assert read(server, "t") == (101, [])
    assert server.stop() == 0
