"""One behaviour over all stores of a catalog: the bucket alone, SQLite, and a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import requests
from botocore.exceptions import ReadTimeoutError
from faults.faulty_bucket import FaultyBucket, Killed
from faults.mortal import Lake
from postgres import Postgres, start_postgres
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.catalog.hive import HiveCatalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from services import Service, start_glue, start_hive, start_rest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from thrift.transport.TTransport import TTransportException

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.catalog.commit import commit_together, discard, rewriting, staged_write
from lakehouse.catalog.hive_catalog import HiveService
from lakehouse.catalog.iceberg_catalog import open_store
from lakehouse.catalog.names import fold
from lakehouse.catalog.object_catalog import ObjectCatalog
from lakehouse.catalog.table_store import Capabilities
from lakehouse.clock import SystemClock
from lakehouse.config import CatalogSettings
from lakehouse.errors import (
    CommitConflict,
    CommitStateUnknown,
    ConfigError,
    InvalidRequest,
    LakehouseError,
    NotSupported,
    SchemaAlreadyExists,
    SchemaNotEmpty,
    SchemaNotFound,
    StorageError,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import StagedWrite, WriteMode, commit, stage
from lakehouse.maintenance.cleanup import Cleaner
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.types import TableName

ROWS = pa.table({"n": [1, 2]})
DATABASES = ("sqlite", "postgres")
SERVICES = ("rest", "glue", "hive")
STORES = ("object", *DATABASES, *SERVICES)
# A service changes several tables at once only where they exist.
WHOLLY_JOINT = ("object", *DATABASES)
# For these, names that differ by case are different names until one of them is taken.
CASE_MATTERS = ("rest",)
# These keep names in lower case.
FOLDING = ("glue", "hive")
# Two steps make a rename of a table here, between which a commit could be lost.
WITHOUT_RENAME = ("glue",)
# Here a table can be created in a schema that is dropped at the same moment.
WITHOUT_LOCKS = SERVICES
# Who is killed here leaves a lock, which the others respect for some minutes.
WITH_LASTING_LOCKS = ("hive",)


def param(kind: str, *more: Any) -> Any:
    """A store as a parameter; the tests of one service are done by one worker, which starts it once."""
    marks = pytest.mark.xdist_group(f"catalog {kind}") if kind in ("postgres", *SERVICES) else ()
    return pytest.param(kind, *more, marks=marks)


def over(*kinds: str, besides: tuple[str, ...] = ()) -> Any:
    """The stores that a test is about."""
    pairs = [param(kind) for kind in kinds if kind not in besides]
    return pytest.mark.parametrize("sites", pairs, indirect=True)


in_databases = over(*DATABASES)
renaming = over(*STORES, besides=WITHOUT_RENAME)
locking = over(*STORES, besides=WITHOUT_LOCKS)
joint = over(*WHOLLY_JOINT, "rest")
wholly_joint = over(*WHOLLY_JOINT)
in_services = over(*SERVICES)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    running = start_postgres()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def rest() -> Iterator[Service]:
    running = start_rest()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def glue() -> Iterator[Service]:
    running = start_glue()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def hive() -> Iterator[Service]:
    running = start_hive()
    yield running
    running.stop()


def emptied(uri: str) -> str:
    """A metastore without what former tests left."""
    client = HiveCatalog("hive", uri=uri)
    for (schema,) in client.list_namespaces():
        with client._client as connection:
            connection.drop_database(schema, deleteData=True, cascade=True) if schema != "default" else None
    return uri


@dataclass
class Site:
    """A bucket and, where the store has one, a database or service: what several servers share."""

    root: Path
    uri: str = ""
    kind: str = "object"
    opened: list[IcebergCatalog] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """What the configuration says of the catalog."""
        if self.kind in DATABASES:
            os.environ["TEST_CATALOG_URI"] = self.uri
            return {"type": "sql", "uri": {"env": "TEST_CATALOG_URI"}}
        found: dict[str, Any] = {"type": self.kind, "uri": self.uri}
        if self.kind == "glue":
            os.environ["TEST_CATALOG_CREDENTIAL"] = "id:secret"
            found["credential"] = {"env": "TEST_CATALOG_CREDENTIAL"}
            found["properties"] = {"glue.region": "eu-central-1"}
        return found

    def name(self, text: str) -> str:
        """A name that the store takes, made from one that not every store takes."""
        return re.sub(r"[^\w]", "_", text, flags=re.ASCII) if self.kind == "hive" else text

    def kept(self, text: str) -> str:
        """How the store spells it."""
        return fold(self.name(text)) if self.kind in FOLDING else text

    @property
    def always(self) -> list[str]:
        """Schemas that are there from the beginning."""
        return ["default"] if self.kind == "hive" else []

    def server(self, fails: Callable[[int, str], str | None] | None = None) -> IcebergCatalog:
        """The catalog as one more server has it."""
        bucket: Bucket = open_local_bucket("primary", self.root)
        if fails is not None:
            bucket = FaultyBucket(bucket, fails)
        store = open_store(CatalogSettings(**self.settings), bucket)
        catalog = IcebergCatalog("lake", bucket, "warehouse", SystemClock(), refresh_s=0, store=store)
        self.opened.append(catalog)
        return catalog


@pytest.fixture(params=[param(kind) for kind in STORES])
def sites(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Site]]:
    """Makes sites that nothing is at yet."""
    monkeypatch.setenv("TEST_CATALOG_URI", "")
    monkeypatch.setenv("TEST_CATALOG_CREDENTIAL", "")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    made: list[Site] = []

    def make() -> Site:
        root, uri = tmp_path / f"bucket{len(made)}", ""
        if request.param == "sqlite":
            uri = f"sqlite:///{tmp_path}/catalog{len(made)}.db"
        if request.param == "postgres":
            uri = request.getfixturevalue("postgres").database()
        if request.param == "rest":
            service = request.getfixturevalue("rest")
            root = service.directory / uuid.uuid4().hex
            uri = f"http://127.0.0.1:{service.port}/{root.name}"
        if request.param == "glue":
            uri = f"http://127.0.0.1:{request.getfixturevalue('glue').port}"
            requests.post(f"{uri}/moto-api/reset", timeout=10)
        if request.param == "hive":
            uri = emptied(f"thrift://127.0.0.1:{request.getfixturevalue('hive').port}")
        root.mkdir()
        made.append(Site(root, uri, request.param))
        return made[-1]

    yield make
    for site in made:
        for catalog in site.opened:
            catalog.close()


@pytest.fixture
def site(sites: Callable[[], Site]) -> Site:
    return sites()


@pytest.fixture
def catalog(site: Site) -> IcebergCatalog:
    catalog = site.server()
    catalog.create_schema("main")
    return catalog


def staged(
    catalog: IcebergCatalog, table: str, mode: WriteMode, rows: pa.Table = ROWS, schema: str = "main"
) -> StagedWrite:
    name = TableName("lake", schema, table)
    return stage(catalog, name, mode, rows.schema, rows.to_batches(), lambda: False)


def write(catalog: IcebergCatalog, table: str, mode: WriteMode = WriteMode.CREATE, **more: Any) -> None:
    commit(catalog, staged(catalog, table, mode, **more))


def values(table: Table) -> list[int]:
    """The rows as another reader finds them, from the files of the current version."""
    found = [pa.parquet.read_table(file.path)["n"].to_pylist() for file in table.files()]
    return sorted(itertools.chain.from_iterable(found))


def test_a_table_lives_from_create_to_drop_for_all_servers(site: Site, catalog: IcebergCatalog) -> None:
    other = site.server()
    write(catalog, site.name("Ünï T"))
    assert other.tables("MAIN") == [site.kept("Ünï T")]
    assert other.load("Main", site.name("Ünï t")).name == TableName("lake", "main", site.kept("Ünï T"))
    with pytest.raises(TableAlreadyExists):
        write(other, site.name("Ünï t"))
    write(other, site.name("Ünï T"), WriteMode.APPEND, rows=pa.table({"n": [3]}))
    first = catalog.load("main", site.name("Ünï T"))
    assert values(first) == [1, 2, 3]
    write(catalog, site.name("Ünï t"), WriteMode.REPLACE, rows=pa.table({"n": [7], "x": ["a"]}))
    assert values(other.load("main", site.name("Ünï T"))) == [7]
    assert values(first) == [1, 2, 3], "who still reads what was replaced is not disturbed"
    assert len(other.load("main", site.name("Ünï T")).snapshots()) == 3
    other.drop_table("main", site.name("Ünï T".replace("T", "t")))
    assert catalog.tables("main") == []
    with pytest.raises(TableNotFound):
        catalog.load("main", site.name("Ünï T"))
    with pytest.raises(TableNotFound):
        catalog.drop_table("main", site.name("Ünï T"))
    write(catalog, site.name("Ünï T"))
    assert values(other.load("main", site.name("Ünï T"))) == [1, 2]
    assert other.load("main", site.name("Ünï T")).uuid != first.uuid


def test_schemas_are_found_in_any_case_and_dropped_only_empty(site: Site, catalog: IcebergCatalog) -> None:
    other = site.server()
    # A dot parts the levels of a service's namespaces.
    end = site.name(" É" if site.kind in SERVICES else ".É")
    catalog.create_schema(f"Sales{end}")
    assert other.schemas() == sorted([site.kept(f"Sales{end}"), "main", *site.always])
    assert other.spelled_schema(f"sALES{end}") == site.kept(f"Sales{end}")
    with pytest.raises(SchemaAlreadyExists):
        other.create_schema(f"SALES{end}")
    write(other, "t", schema=f"sales{end}")
    with pytest.raises(SchemaNotEmpty):
        catalog.drop_schema(f"Sales{end}")
    catalog.drop_table(f"SALES{end}", "T")
    catalog.drop_schema(f"SALES{end}")
    assert other.schemas() == [*site.always, "main"]
    with pytest.raises(SchemaNotFound, match=r"lake\.sales"):
        write(other, "t", schema=f"sales{end}")
    with pytest.raises(SchemaNotFound):
        catalog.drop_schema(f"sales{end}")


@renaming
def test_a_rename_moves_the_name_and_nothing_else(site: Site, catalog: IcebergCatalog) -> None:
    catalog.create_schema("Other")
    write(catalog, "a")
    write(catalog, "taken")
    before = catalog.load("main", "a")
    with pytest.raises(TableAlreadyExists):
        catalog.rename("main", "a", "main", "TAKEN")
    with pytest.raises(TableNotFound, match="did you mean 'a'"):
        catalog.rename("main", "aa", "main", "b")
    with pytest.raises(SchemaNotFound):
        catalog.rename("main", "a", "nowhere", "b")
    catalog.rename("main", "A", "other", site.name("B ä"))
    for each in (catalog, site.server()):
        after = each.load("OTHER", site.name("b ä"))
        assert (after.name, after.uuid, values(after)) == (
            TableName("lake", site.kept("Other"), site.kept("B ä")),
            before.uuid,
            [1, 2],
        )
        assert each.tables("main") == ["taken"]
    write(catalog, "a", rows=pa.table({"n": [5]}))
    write(catalog, site.name("B ä"), WriteMode.APPEND, schema="other")
    assert values(catalog.load("main", "a")) == [5]
    assert values(catalog.load("other", site.name("B ä"))) == [1, 1, 2, 2]
    assert catalog.load("main", "a").metadata.location != before.metadata.location


def test_appends_of_several_servers_at_once_are_all_there_once(site: Site, catalog: IcebergCatalog) -> None:
    write(catalog, "t", rows=pa.table({"n": [-1]}))
    # The metastore's database in the tests is no quick one when several ask it.
    count, turns = {"hive": (2, 2), "glue": (4, 3), "rest": (4, 3)}.get(site.kind, (4, 10))
    servers = [site.server() for _ in range(count)]

    def append(number: int) -> None:
        for turn in range(turns):
            write(servers[number], "t", WriteMode.APPEND, rows=pa.table({"n": [number * 10 + turn]}))

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(append, range(count)))
    table = catalog.load("main", "t")
    assert values(table) == sorted(
        [-1, *(number * 10 + turn for number in range(count) for turn in range(turns))]
    )
    assert len(table.snapshots()) == 1 + count * turns


def test_of_those_who_create_a_name_at_once_one_succeeds(site: Site, catalog: IcebergCatalog) -> None:
    count = 2 if site.kind == "hive" else 6
    servers = [site.server() for _ in range(count)]
    barrier = threading.Barrier(count)
    spellings = ("ss", "tt") if site.kind in CASE_MATTERS else ("sS", "tT")

    def create(number: int) -> int:
        barrier.wait()
        schema, table = (spelling[number % 2] for spelling in spellings)
        with suppress(SchemaAlreadyExists):
            servers[number].create_schema(schema)
        write(servers[number], table, schema="S", rows=pa.table({"n": [number]}))
        return number

    def tried(number: int) -> int | None:
        with suppress(TableAlreadyExists):
            return create(number)
        return None

    with ThreadPoolExecutor(count) as pool:
        won = [number for number in pool.map(tried, range(count)) if number is not None]
    assert len(won) == 1
    assert sorted(name.lower() for name in catalog.schemas()) == [*site.always, "main", "s"]
    assert [name.lower() for name in catalog.tables("s")] == ["t"]
    assert values(catalog.load("s", "t")) == won


@locking
def test_no_table_is_left_in_a_schema_that_is_dropped_meanwhile(site: Site, catalog: IcebergCatalog) -> None:
    maker, dropper = site.server(), site.server()
    for turn in range(10):
        catalog.create_schema(f"s{turn}")
        barrier = threading.Barrier(2)

        def make(turn: int = turn, barrier: threading.Barrier = barrier) -> bool:
            new = staged(maker, "t", WriteMode.CREATE, schema=f"s{turn}")
            barrier.wait()
            try:
                commit(maker, new)
            except SchemaNotFound:
                return False
            return True

        def drop(turn: int = turn, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                dropper.drop_schema(f"s{turn}")
            except SchemaNotEmpty:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            made, dropped = pool.submit(make), pool.submit(drop)
            assert made.result() or dropped.result()
            assert not (made.result() and dropped.result())
        assert catalog.schema_exists(f"s{turn}") is made.result()
        if made.result():
            assert values(catalog.load(f"s{turn}", "t")) == [1, 2]


def test_who_loses_a_race_changes_nothing(site: Site, catalog: IcebergCatalog) -> None:
    other = site.server()
    write(catalog, "t")
    table = catalog.load("main", "t")
    rewrite = staged_write(catalog, rewriting(table, table.files()), ())
    commit(
        other, staged_write(other, rewriting(other.load("main", "t"), other.load("main", "t").files()), ())
    )
    write(other, "t", WriteMode.APPEND, rows=pa.table({"n": [9]}))
    with pytest.raises(CommitConflict):
        commit(catalog, rewrite)
    assert values(catalog.load("main", "t")) == [9]
    late = staged(catalog, "t", WriteMode.APPEND)
    other.drop_table("main", "t")
    with pytest.raises(TableNotFound):
        commit(catalog, late)
    write(other, "t", rows=pa.table({"n": [4]}))
    with pytest.raises(CommitConflict):
        commit(catalog, late)
    discard(catalog, late)
    assert values(catalog.load("main", "t")) == [4]


@wholly_joint
def test_several_tables_change_together_or_not_at_all(site: Site, catalog: IcebergCatalog) -> None:
    other = site.server()
    for name in ("a", "b", "gone"):
        write(catalog, name)
    gone = TableName("lake", "main", "gone")
    append, new = staged(catalog, "a", WriteMode.APPEND), staged(catalog, "new", WriteMode.CREATE)
    write(other, "a", WriteMode.APPEND, rows=pa.table({"n": [8]}))
    commit_together(catalog, [append, new], [gone])
    assert other.tables("main") == ["a", "b", "new"]
    assert values(other.load("main", "a")) == [1, 1, 2, 2, 8]
    assert values(other.load("main", "new")) == [1, 2]

    table = catalog.load("main", "b")
    rewrite = staged_write(catalog, rewriting(table, table.files()), ())
    append = staged(catalog, "a", WriteMode.APPEND)
    write(other, "b", WriteMode.REPLACE, rows=pa.table({"n": [6]}))
    with pytest.raises(CommitConflict):
        commit_together(catalog, [append, rewrite], [TableName("lake", "main", "new")])
    assert other.tables("main") == ["a", "b", "new"]
    assert values(other.load("main", "a")) == [1, 1, 2, 2, 8]
    assert values(other.load("main", "b")) == [6]


@joint
def test_several_tables_that_exist_change_together_or_not_at_all(site: Site, catalog: IcebergCatalog) -> None:
    other = site.server()
    for name in ("a", "b"):
        write(catalog, name)
    changes = [staged(catalog, name, WriteMode.APPEND) for name in ("a", "b")]
    write(other, "a", WriteMode.APPEND, rows=pa.table({"n": [8]}))
    commit_together(catalog, changes, [])
    assert state(other) == {"a": [1, 1, 2, 2, 8], "b": [1, 1, 2, 2]}

    table = catalog.load("main", "b")
    rewrite = staged_write(catalog, rewriting(table, table.files()), ())
    append = staged(catalog, "a", WriteMode.APPEND)
    write(other, "b", WriteMode.REPLACE, rows=pa.table({"n": [6]}))
    with pytest.raises(CommitConflict):
        commit_together(catalog, [append, rewrite], [])
    assert state(other) == {"a": [1, 1, 2, 2, 8], "b": [6]}


@over("rest")
def test_a_service_creates_and_drops_no_tables_in_a_joint_commit(site: Site, catalog: IcebergCatalog) -> None:
    for name in ("a", "b"):
        write(catalog, name)
    append, new = staged(catalog, "a", WriteMode.APPEND), staged(catalog, "new", WriteMode.CREATE)
    with pytest.raises(NotSupported, match="table 'new' cannot be created in one commit"):
        commit_together(catalog, [append, new], [])
    with pytest.raises(NotSupported, match="table 'b' cannot be dropped in one commit"):
        commit_together(catalog, [append], [TableName("lake", "main", "b")])
    assert state(site.server()) == {"a": [1, 2], "b": [1, 2]}


@joint
def test_joint_commits_at_once_keep_tables_equal(site: Site, catalog: IcebergCatalog) -> None:
    write(catalog, "a")
    write(catalog, "b")
    servers = [site.server() for _ in range(3)]

    def work(number: int) -> None:
        for turn in range(4):
            rows = pa.table({"n": [100 * number + turn]})
            names = ("a", "b") if number % 2 else ("b", "a")
            changes = [staged(servers[number], name, WriteMode.APPEND, rows) for name in names]
            commit_together(servers[number], changes, [])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    wanted = sorted([1, 2, *(100 * number + turn for number in range(3) for turn in range(4))])
    assert values(catalog.load("main", "a")) == values(catalog.load("main", "b")) == wanted


def test_former_versions_are_found_by_time(catalog: IcebergCatalog) -> None:
    write(catalog, "t")
    versions = [catalog.objects.head("main", "t").metadata]
    for _ in range(3):
        write(catalog, "t", WriteMode.APPEND)
        versions.append(catalog.objects.head("main", "t").metadata)
    head = catalog.objects.head("main", "t")
    assert catalog.objects.head("main", "t") is head
    for version in versions:
        found = catalog.objects.version_at("main", "t", head, version.last_updated_ms)
        assert found.current_snapshot_id == version.current_snapshot_id
    assert catalog.objects.version_at("main", "t", head, 0).current_snapshot_id == (
        versions[0].current_snapshot_id
    )


@over(*STORES, besides=("rest",))
def test_old_metadata_does_not_pile_up(site: Site, catalog: IcebergCatalog) -> None:
    write(catalog, "t")
    with catalog.objects.load_table(("main", "t")).transaction() as transaction:
        transaction.set_properties({"write.metadata.previous-versions-max": "3"})
    for _ in range(9):
        write(catalog, "t", WriteMode.APPEND)
    catalog.objects.prune_versions("main", "t", datetime.now(UTC) + timedelta(minutes=1))
    kept = [path for path in site.root.rglob("*.metadata.json") if path.stat().st_size > 100]
    assert len(kept) == 4
    assert values(site.server().load("main", "t")) == sorted([1, 2] * 10)
    write(site.server(), "t", WriteMode.APPEND)
    assert values(catalog.load("main", "t")) == sorted([1, 2] * 11)


@renaming
def test_what_is_removed_as_needless_is_needed_by_no_table(catalog: IcebergCatalog) -> None:
    write(catalog, "a")
    write(catalog, "a", WriteMode.REPLACE, rows=pa.table({"n": [5]}))
    catalog.rename("main", "a", "main", "b")
    write(catalog, "a")
    write(catalog, "a", WriteMode.APPEND)
    staged(catalog, "a", WriteMode.APPEND)
    catalog.refresh("main", "a")
    cleaner = Cleaner(catalog, set, timedelta())
    removed = {}
    for name in ("a", "b"):
        soon = datetime.now(UTC) + timedelta(minutes=1)
        expired = cleaner.expire("main", name, soon, 1)
        assert len(expired.snapshots) == 1
        found = cleaner.remove_orphans("main", name, timedelta(seconds=-60), lambda *_: None, lambda: False)
        removed[name] = [key for key in found.keys if key.endswith(".parquet")]
    assert [len(removed[name]) for name in ("a", "b")] == [1, 0]
    assert values(catalog.load("main", "a")) == [1, 1, 2, 2]
    assert values(catalog.load("main", "b")) == [5]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))


class Death:
    """Kills a server at its n-th step after the rows are written: of the bucket, database or service."""

    def __init__(self, last: int) -> None:
        self.left = last
        self.awaited = self.came = False

    def step(self) -> None:
        if self.awaited:
            self.left -= 1
            self.came = self.came or self.left == 0
        if self.came:
            raise Killed

    def __call__(self, _: int, what: str) -> str | None:
        with suppress(Killed):
            if what in ("put", "put_new", "delete"):
                self.step()
        return "dead" if self.came else None

    def watch(self, catalog: IcebergCatalog) -> None:
        around(catalog, self.around, self.step_of_reading)

    def around(self, change: Callable[[], Any]) -> Any:
        self.step()
        answer = change()
        self.step()
        return answer

    def step_of_reading(self) -> None:
        if self.came:
            raise Killed


def around(
    catalog: IcebergCatalog, change: Callable[[Callable[[], Any]], Any], read: Callable[[], None]
) -> None:
    """Have something else done for each change that a catalog asks a database or service for."""
    store = catalog.objects
    engine = getattr(store, "engine", None)
    if engine is not None:
        commit = engine.dialect.do_commit
        engine.dialect.do_commit = lambda connection: change(lambda: commit(connection))
        event.listen(engine, "before_cursor_execute", lambda *_: read())
    session = getattr(getattr(store, "_service", None), "_session", None)
    if session is not None:
        request = session.request

        def ask(method: str, url: str, **more: Any) -> Any:
            read()
            # Tables that are staged are not there yet.
            if method in ("GET", "HEAD") or (method == "POST" and url.endswith("/tables")):
                return request(method, url, **more)
            return change(lambda: request(method, url, **more))

        session.request = ask
    client = getattr(getattr(store, "_service", None), "glue", None)
    if client is not None:
        call = client._make_api_call

        def called(operation: str, arguments: dict[str, Any]) -> Any:
            read()
            if operation.startswith("Get"):
                return call(operation, arguments)
            return change(lambda: call(operation, arguments))

        client._make_api_call = called
    connections = getattr(getattr(store, "_service", None), "_client", None)
    if connections is not None:
        connections._make = Watched(connections._make, change, read)


class Watched:
    """Makes connections to a metastore whose requests are seen."""

    def __init__(
        self, make: Any, change: Callable[[Callable[[], Any]], Any], read: Callable[[], None]
    ) -> None:
        self.make, self.change, self.read = make, change, read

    def __call__(self, uri: str) -> Any:
        made = self.make(uri)
        opened = made._client

        def client() -> Any:
            real = opened()
            for name in ("create_database", "drop_database", "create_table", "drop_table"):
                self.see(real, name)
            self.see(real, "alter_table_with_environment_context")
            for name in ("get_table", "get_all_tables", "get_all_databases"):
                asked = getattr(real, name)
                setattr(real, name, lambda *a, asked=asked, **more: (self.read(), asked(*a, **more))[1])
            return real

        made._client = client
        return made

    def see(self, real: Any, name: str) -> None:
        asked = getattr(real, name)
        setattr(real, name, lambda *a, **more: self.change(lambda: asked(*a, **more)))


WORK: dict[str, Callable[[IcebergCatalog, str], None]] = {
    "create": lambda lake, schema: write(lake, "new", schema=schema),
    "append": lambda lake, schema: write(lake, "a", WriteMode.APPEND, schema=schema),
    "replace": lambda lake, schema: write(
        lake, "a", WriteMode.REPLACE, schema=schema, rows=pa.table({"n": [3]})
    ),
    "drop": lambda lake, schema: lake.drop_table(schema, "a"),
    "rename": lambda lake, schema: lake.rename(schema, "a", schema, "moved"),
    "joint appends": lambda lake, schema: commit_together(
        lake, [staged(lake, name, WriteMode.APPEND, schema=schema) for name in ("a", "b")], []
    ),
    "joint": lambda lake, schema: commit_together(
        lake,
        [
            staged(lake, "a", WriteMode.APPEND, schema=schema),
            staged(lake, "new", WriteMode.CREATE, schema=schema),
        ],
        [TableName("lake", schema, "b")],
    ),
}


def works(kinds: tuple[str, ...], besides: tuple[tuple[str, str], ...] = ()) -> Any:
    """Each kind of work over each of these stores that can do it."""
    unable = {
        "joint": SERVICES,
        "joint appends": [kind for kind in SERVICES if kind != "rest"],
        "rename": WITHOUT_RENAME,
    }
    able = [(kind, work) for kind in kinds for work in WORK if kind not in unable.get(work, ())]
    pairs = [param(*pair) for pair in able if pair not in besides]
    return pytest.mark.parametrize(("sites", "work"), pairs, indirect=["sites"])


def state(catalog: IcebergCatalog, schema: str = "main") -> dict[str, list[int]]:
    return {name: values(catalog.load(schema, name)) for name in catalog.tables(schema)}


@pytest.mark.usefixtures("no_pauses")
# For a service, a replacement is a commit like an append.
@works(
    tuple(kind for kind in STORES if kind not in WITH_LASTING_LOCKS),
    besides=tuple((kind, "replace") for kind in SERVICES),
)
def test_wherever_a_server_is_killed_a_change_is_there_wholly_or_not_at_all(
    site: Site, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.catalog.object_catalog._PATIENCE_S", 0.01)
    outcomes, answered, last, observer = [], False, 0, site.server()
    before = {"a": [1, 2], "b": [1, 2]}
    while not answered:
        last += 1
        schema, death = f"s{last}", Death(last)
        observer.create_schema(schema)
        for name in before:
            write(observer, name, schema=schema)
        victim = site.server(death)
        death.watch(victim)
        death.awaited = True
        try:
            WORK[work](victim, schema)
            answered = not death.came
        except (Killed, LakehouseError):
            assert death.came
        found = state(observer, schema)
        outcomes.append(found)
        restarted = site.server()
        assert state(restarted, schema) == found
        for name in found:
            write(restarted, name, WriteMode.APPEND, schema=schema, rows=pa.table({"n": [99]}))
        assert state(observer, schema) == {name: [*rows, 99] for name, rows in found.items()}
        for opened in (victim, restarted):
            opened.close()
    after = outcomes[-1]
    assert after != before
    assert all(found in (before, after) for found in outcomes)
    assert before in outcomes


LOST = {
    **dict.fromkeys(DATABASES, OperationalError("COMMIT", None, Exception("the connection was lost"))),
    "rest": requests.exceptions.ReadTimeout("the connection was lost"),
    "glue": ReadTimeoutError(endpoint_url="the connection was lost"),
    "hive": TTransportException(TTransportException.END_OF_FILE, "the connection was lost"),
}


@pytest.mark.usefixtures("no_pauses")
@works((*DATABASES, *SERVICES))
@pytest.mark.parametrize("took_place", [True, False])
def test_an_answer_that_is_lost_is_found_out(site: Site, work: str, took_place: bool) -> None:
    catalog = site.server()
    catalog.create_schema("main")
    for name in ("a", "b"):
        write(catalog, name)
    before = state(catalog)
    lost = []

    def lossy(change: Callable[[], Any]) -> Any:
        if lost:
            return change()
        lost.append(True)
        if took_place:
            change()
        raise LOST[site.kind]

    around(catalog, lossy, lambda: None)
    if took_place:
        WORK[work](catalog, "main")
    else:
        with pytest.raises((StorageError, CommitStateUnknown)) as failed:
            WORK[work](catalog, "main")
        assert "the connection was lost" not in str(failed.value)
    assert lost
    assert (state(catalog) == before) is not took_place
    assert state(site.server()) == state(catalog)


@in_databases
def test_what_a_database_cannot_keep_is_refused(site: Site, catalog: IcebergCatalog) -> None:
    write(catalog, "t")
    with pytest.raises(NotSupported, match="views"):
        catalog.create_view("main", "v", "SELECT 1 AS n", pa.schema([("n", pa.int64())]))
    assert catalog.views("main") == []
    with pytest.raises(TableNotFound):
        catalog.describe_view("main", "v", "text")
    with pytest.raises(TableNotFound):
        catalog.drop_view("main", "v")
    catalog.drop_table("main", "t")
    with pytest.raises(NotSupported, match="purged"):
        catalog.purge("main", "t")
    for call in (catalog.create_schema, lambda name: write(catalog, name)):
        with pytest.raises(InvalidRequest, match="255"):
            call("x" * 256)
    write(catalog, "é" * 255)
    assert catalog.tables("main") == ["é" * 255]


@in_databases
def test_other_programs_read_and_write_the_same_tables(site: Site, catalog: IcebergCatalog) -> None:
    write(catalog, "T")
    theirs = SqlCatalog("lake", uri=site.uri, warehouse=f"file://{site.root}-theirs")
    try:
        assert theirs.list_tables("main") == [("main", "T")]
        for number in range(2):
            theirs.load_table("main.T").append(pa.table({"n": [10 + number]}))
            write(catalog, "t", WriteMode.APPEND, rows=pa.table({"n": [20 + number]}))
        assert values(catalog.load("main", "t")) == [1, 2, 10, 11, 20, 21]
        assert sorted(theirs.load_table("main.T").scan().to_arrow()["n"].to_pylist()) == [
            1,
            2,
            10,
            11,
            20,
            21,
        ]
        theirs.rename_table("main.T", "main.Renamed")
        assert catalog.tables("main") == ["Renamed"]
        write(catalog, "RENAMED", WriteMode.APPEND)
        theirs.drop_table("main.Renamed")
        theirs.create_table("main.Far", ROWS.schema)
        assert catalog.tables("main") == []
        with pytest.raises(StorageError):
            catalog.load("main", "far")
        with pytest.raises(StorageError, match="not in bucket"):
            write(catalog, "FAR")
    finally:
        theirs.close()


def test_a_database_that_is_gone_is_told_without_its_secrets(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, postgres.database(), "postgres")
    monkeypatch.setenv("TEST_CATALOG_URI", "")
    wrong = Site(tmp_path, site.uri.replace("p%2Fw", "secret"), "postgres")
    with pytest.raises(LakehouseError) as refused:
        wrong.server()
    assert refused.value.code == "CONFIG_INVALID"
    assert "secret" not in str(refused.value)
    catalog = site.server()
    catalog.create_schema("main")
    write(catalog, "t")
    engine = catalog.objects.engine  # type: ignore[attr-defined]

    def fail(*_: Any) -> None:
        raise OperationalError("SELECT secret", None, Exception("host unreachable"))

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(StorageError, match="database of catalog 'lake'") as gone:
        catalog.load("main", "t")
    assert "secret" not in str(gone.value)
    event.remove(engine, "before_cursor_execute", fail)
    assert values(catalog.load("main", "t")) == [1, 2]
    catalog.close()


@in_databases
def test_sql_statements_work_over_a_database(site: Site) -> None:
    lake = Lake(site.root, **site.settings)
    try:
        lake.run("create table a (n int, s varchar)")
        lake.run("insert into a values (1, 'x'), (2, 'y'), (3, 'z')")
        lake.run("begin")
        lake.run("update a set s = 'q' where n = 1")
        lake.run("create table c as select n from a where n < 3")
        lake.run("delete from a where n = 2")
        lake.run("commit")
        lake.run("begin")
        lake.run("delete from a")
        lake.run("drop table c")
        lake.run("rollback")
        lake.run("alter table a add column k int")
        lake.run("alter table a rename to b")
    finally:
        lake.close()
    again = Lake(site.root, **site.settings)
    try:
        assert again.rows("select n, s, k from b order by n") == [
            {"n": 1, "s": "q", "k": None},
            {"n": 3, "s": "z", "k": None},
        ]
        assert again.rows("select n from c order by n") == [{"n": 1}, {"n": 2}]
    finally:
        again.close()


def test_a_transaction_changes_one_table_where_the_store_cannot_change_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    try:
        for name in ("a", "b"):
            lake.run(f"create table {name} (n int)")
        lacking = Capabilities("object", joint_commits=False)
        monkeypatch.setattr(ObjectCatalog, "capabilities", property(lambda _: lacking))
        lake.run("begin")
        lake.run("insert into a values (1)")
        lake.run("insert into a values (2)")
        for change in ("insert into b values (1)", "drop table b", "create table c (n int)"):
            with pytest.raises(NotSupported, match="several tables at once"):
                lake.run(change)
        lake.run("commit")
        assert lake.rows("select n from a order by n") == [{"n": 1}, {"n": 2}]
        assert lake.rows("select * from b") == []
    finally:
        lake.close()


def other_program(site: Site) -> Catalog:
    """pyiceberg by itself, as another program uses it."""
    if site.kind == "rest":
        return RestCatalog("theirs", uri=site.uri)
    if site.kind == "hive":
        found = HiveCatalog("theirs", uri=site.uri, warehouse=f"file://{site.root}/theirs")
        # pyiceberg asks in a form that this version of the metastore does not know any more.
        found._client = HiveService._create_hive_client({"uri": site.uri})
        return found
    more = {"glue.region": "eu-central-1", "glue.access-key-id": "id", "glue.secret-access-key": "secret"}
    place = {"glue.endpoint": site.uri, "warehouse": f"file://{site.root}/theirs"}
    return GlueCatalog("theirs", **more, **place)


@in_services
def test_other_programs_share_a_service(site: Site, catalog: IcebergCatalog, tmp_path: Path) -> None:
    write(catalog, "t")
    theirs = other_program(site)
    for number in range(2):
        theirs.load_table("main.t").append(pa.table({"n": [10 + number]}))
        write(catalog, "t", WriteMode.APPEND, rows=pa.table({"n": [20 + number]}))
    assert values(catalog.load("main", "T")) == [1, 2, 10, 11, 20, 21]
    found = theirs.load_table("main.t").scan().to_arrow()["n"].to_pylist()
    assert sorted(found) == [1, 2, 10, 11, 20, 21]
    theirs.create_table("main.near", ROWS.schema, location=f"file://{site.root}/near")
    theirs.create_table("main.far", ROWS.schema, location=f"file://{tmp_path}/far")
    assert catalog.tables("main") == ["near", "t"]
    with pytest.raises(StorageError, match="not in"):
        catalog.load("main", "Far")
    with pytest.raises((StorageError, TableAlreadyExists)):
        write(catalog, "far")
    theirs.drop_table("main.far")
    theirs.drop_table("main.t")
    assert catalog.tables("main") == ["near"]
    write(catalog, "far")
    assert catalog.tables("main") == ["far", "near"]
    table = catalog.load("main", "far")
    catalog.drop_table("main", "far")
    assert [catalog.bucket.exists(catalog.bucket.key_of(file.uri)) for file in table.files()] == [True]
    with pytest.raises(NotSupported, match="purged"):
        catalog.purge("main", "far")


@over("rest")
def test_views_are_kept_by_a_service(site: Site, catalog: IcebergCatalog) -> None:
    columns, other = pa.schema([("n", pa.int64())]), site.server()
    catalog.create_view("main", "V", "SELECT 1 AS n", columns)
    first = other.find_view("MAIN", "v")
    assert (first.name.table, first.sql, first.columns) == ("V", "SELECT 1 AS n", (("n", "BIGINT"),))
    with pytest.raises(TableAlreadyExists):
        other.create_view("main", "v", "SELECT 2 AS n", columns)
    with pytest.raises(InvalidRequest, match="is a view"):
        write(other, "v")
    other.create_view("main", "v", "SELECT 'x' AS s", pa.schema([("s", pa.string())]), replace=True)
    other.describe_view("main", "V", "what it is")
    second = catalog.find_view("main", "v")
    assert (second.sql, second.columns, second.description) == (
        "SELECT 'x' AS s",
        (("s", "VARCHAR"),),
        "what it is",
    )
    assert (second.uuid, second.version > first.version) == (first.uuid, True)
    catalog.describe_view("main", "V", "")
    assert not other.find_view("main", "v").description
    catalog.rename("main", "v", "main", "W", is_view=True)
    assert (catalog.views("main"), catalog.tables("main")) == (["W"], [])
    assert other.find_view("main", "w").name.table == "W"
    with pytest.raises(SchemaNotEmpty):
        catalog.drop_schema("main")
    other.drop_view("main", "w")
    assert catalog.find_view("main", "w") is None
    with pytest.raises(TableNotFound):
        catalog.drop_view("main", "w")
    write(catalog, "w")
    assert values(other.load("main", "w")) == [1, 2]


@over("glue", "hive")
def test_a_metastore_keeps_no_views(catalog: IcebergCatalog) -> None:
    with pytest.raises(NotSupported, match="views"):
        catalog.create_view("main", "v", "SELECT 1 AS n", pa.schema([("n", pa.int64())]))
    assert catalog.views("main") == []
    with pytest.raises(TableNotFound):
        catalog.drop_view("main", "v")


@over("rest")
def test_what_is_known_of_a_table_is_not_sent_again(catalog: IcebergCatalog) -> None:
    write(catalog, "t")
    head = catalog.objects.head("main", "t")
    session, answers = catalog.objects._service._session, []  # type: ignore[attr-defined]
    session.hooks["response"].append(lambda response, **_: answers.append(response.status_code))
    assert catalog.objects.head("MAIN", "T") is head
    assert catalog.objects.head("main", "t") is head
    assert answers[-1] == 304


@in_services
@pytest.mark.usefixtures("no_pauses")
def test_a_service_that_is_gone_is_told_without_its_secrets(site: Site, catalog: IcebergCatalog) -> None:
    write(catalog, "t")

    def fail(*_: Any) -> None:
        raise LOST[site.kind]

    around(catalog, lambda _: fail(), fail)
    with pytest.raises(StorageError, match="catalog 'lake'") as gone:
        catalog.load("main", "t")
    assert "connection was lost" not in str(gone.value)
    with pytest.raises((StorageError, CommitStateUnknown)):
        write(catalog, "u")
    assert state(site.server()) == {"t": [1, 2]}


UNREACHABLE = {
    "rest": {"uri": "http://127.0.0.1:9/api"},
    "hive": {"uri": "thrift://127.0.0.1:9,thrift://127.0.0.1:10"},
    "glue": {
        "uri": "http://127.0.0.1:9",
        "credential": {"env": "TEST_CREDENTIAL"},
        "properties": {"glue.region": "eu-central-1", "glue.max-retries": "1"},
    },
}


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_a_service_that_cannot_be_reached_is_told_at_start(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_CREDENTIAL", "id:hidden")
    bucket = open_local_bucket("primary", tmp_path)
    with pytest.raises(ConfigError, match="did not answer") as refused:
        open_store(CatalogSettings(type=kind, **UNREACHABLE[kind]), bucket)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "package", "more"),
    [
        ("sql", "sqlalchemy", {"uri": "sqlite:///x.db"}),
        ("hive", "thrift", UNREACHABLE["hive"]),
        ("glue", "boto3", {}),
    ],
)
def test_a_package_that_is_missing_is_named(
    kind: str, package: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith((f"lakehouse.catalog.{kind}_catalog", f"pyiceberg.catalog.{kind}", package)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    bucket = open_local_bucket("primary", tmp_path)
    with pytest.raises(ConfigError, match=package) as refused:
        open_store(CatalogSettings(type=kind, **more), bucket)
    assert refused.value.hint == f"pip install 'lakehouse-server[{kind}]'"


class Guarded(BaseHTTPRequestHandler):
    """A service that gives tokens for one credential, each good for a few requests, and nothing without."""

    tokens: ClassVar[dict[str, int]] = {}

    def do_POST(self) -> None:
        told = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "client_secret=s3cret" not in told:
            return self._answer(401, {"error": "invalid_client", "error_description": "s3cret"})
        token = uuid.uuid4().hex
        self.tokens[token] = 2
        return self._answer(200, {"access_token": token, "token_type": "bearer"})

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0) == 0:
            error = {"message": "s3cret", "type": "NotAuthorizedException", "code": 401}
            return self._answer(401, {"error": error})
        self.tokens[token] -= 1
        if "/config" in self.path:
            return self._answer(200, {"defaults": {}, "overrides": {}})
        return self._answer(200, {"namespaces": [["main"]]})

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_tokens_are_had_for_the_credential_and_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_local_bucket("primary", tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = CatalogSettings(
            type="rest",
            uri=f"http://127.0.0.1:{server.server_port}",
            credential={"env": "TEST_CREDENTIAL"},
            oauth2_server_uri=f"http://127.0.0.1:{server.server_port}/token",
        )
        monkeypatch.setenv("TEST_CREDENTIAL", "id:s3cret")
        store = open_store(settings, bucket)
        for _ in range(5):
            assert store.list_namespaces() == [("main",)]
        store.close()
        monkeypatch.setenv("TEST_CREDENTIAL", "id:other")
        with pytest.raises(ConfigError, match="refuses this server") as refused:
            open_store(settings, bucket)
        assert "s3cret" not in str(refused.value)
        server.shutdown()


@in_services
def test_sql_statements_work_over_a_service(site: Site) -> None:
    lake = Lake(site.root, **site.settings)
    try:
        lake.run("create table a (n int, s varchar)")
        lake.run("create table b (n int)")
        lake.run("insert into a values (1, 'x'), (2, 'y'), (3, 'z')")
        lake.run("begin")
        lake.run("update a set s = 'q' where n = 1")
        lake.run("delete from a where n = 2")
        if lake.lakehouse.catalog.objects.capabilities.joint_commits:
            lake.run("insert into b select n from a")
        else:
            with pytest.raises(NotSupported, match="several tables at once"):
                lake.run("insert into b select n from a")
        lake.run("commit")
        lake.run("alter table a add column k int")
    finally:
        lake.close()
    again = Lake(site.root, **site.settings)
    try:
        assert again.rows("select n, s, k from a order by n") == [
            {"n": 1, "s": "q", "k": None},
            {"n": 3, "s": "z", "k": None},
        ]
        assert again.rows("select n from b order by n") == (
            [{"n": 1}, {"n": 3}] if site.kind == "rest" else []
        )
    finally:
        again.close()
