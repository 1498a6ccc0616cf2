"""Several catalogs side by side: every name leads to one catalog, and no change reaches into two of them."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from services import Service, start_rest

from flight_server.context import CallContext
from flight_server.handlers import flights, keys, metadata
from flight_server.protocol.commands import (
    GetCatalogs,
    GetDbSchemas,
    GetExportedKeys,
    GetImportedKeys,
    GetPrimaryKeys,
    GetTables,
)
from flight_server.readiness import Readiness
from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.engine.binding import PRUNED_ABOVE
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import CatalogNotFound, InvalidRequest, LakehouseError, NotSupported, SchemaNotFound
from lakehouse.ingest.sources.arrow_batches import ArrowBatches
from lakehouse.ingest.sources.source import unheard
from lakehouse.runs import IngestMode, IngestRequest
from lakehouse.runtime import Lakehouse
from lakehouse.types import ForeignKey, TableName

PLACES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "one bucket": lambda _: {"warehouse": "second"},
    "two buckets": lambda _: {"bucket": "b"},
    "a database": lambda root: {"type": "sql", "uri": f"sqlite:///{root}/catalog.db", "bucket": "b"},
    # The service has one catalog for each directory; this one is all that the test has.
    "a service": lambda root: {"type": "rest", "uri": f"{os.environ[_SERVICE]}/{root.name}", "bucket": "b"},
}
_SERVICE = "TEST_REST_SERVICE"
ROLES = [
    {"name": "here", "grants": [{"on": "lake.*.*"}]},
    {"name": "there", "grants": [{"on": "other.sales.orders", "row_filter": "id < 2"}]},
    {"name": "narrowed", "grants": [{"on": "*.*.*"}, {"on": "other.*.*", "privileges": []}]},
]
numbers = itertools.count()


def opened(root: Path, place: str = "one bucket", **more: Any) -> Lakehouse:
    # A service has its tables where it wants; neither bucket may be within the other.
    first, second = (Path(f"{root}.a"), root) if place == "a service" else (root / "a", root / "b")
    return Lakehouse(
        Settings.model_validate(
            {
                "buckets": [
                    {"name": "a", "path": str(first)},
                    {"name": "b", "path": str(second)},
                ],
                "catalogs": [{"name": "other", "refresh_ms": 0, **PLACES[place](root)}],
                "catalog": {"refresh_ms": 0},
                "maintenance": {"grace_seconds": 0, "min_small_files": 2},
                "roles": ROLES,
                **more,
            }
        )
    )


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def rest() -> Iterator[Service]:
    running = start_rest()
    yield running
    running.stop()


@pytest.fixture(params=PLACES)
def placed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str, Lakehouse]]:
    root = tmp_path
    if request.param == "a service":
        service: Service = request.getfixturevalue("rest")
        monkeypatch.setenv(_SERVICE, f"http://127.0.0.1:{service.port}")
        root = service.directory / uuid.uuid4().hex
        root.mkdir()
    lake = opened(root, request.param)
    yield root, request.param, lake
    lake.close()


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    lake = opened(tmp_path)
    yield lake
    lake.close()


def session_of(lakehouse: Lakehouse, role: str = "admin") -> Session:
    return lakehouse.sessions.get(f"test-{next(numbers)}", Principal("ann", frozenset({role})))


def run(session: Session, sql: str) -> Any:
    """The rows of a query, or how many rows a statement changed."""
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    transaction = session.sql_transaction
    if analysis.is_update:
        return engine.changes.run(analysis, Scope(session, transaction, CallWatch()))
    plan = engine.plan(analysis, session, transaction)
    table = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def filled(lakehouse: Lakehouse) -> Session:
    """``lake.nyc.flights`` with the ids 0 to 3, and ``other.sales.orders`` made from it."""
    session = session_of(lakehouse)
    for sql in (
        "CREATE SCHEMA nyc",
        "CREATE SCHEMA other.sales",
        "CREATE TABLE nyc.flights AS SELECT range AS id, 'f' || range AS name FROM range(4)",
        "CREATE TABLE other.sales.orders AS SELECT id, id * 10 AS amount FROM lake.nyc.flights WHERE id > 0",
    ):
        run(session, sql)
    return session


# -- what statements do --------------------------------------------------------------------------------


def test_statements_read_and_write_across_catalogs(placed: tuple[Path, str, Lakehouse]) -> None:
    root, place, lakehouse = placed
    session = filled(lakehouse)
    before = run(session, "SELECT max(snapshot_id) FROM system.snapshots WHERE table_name = 'orders'")[0][0]
    joined = "SELECT f.name, o.amount FROM lake.nyc.flights f JOIN other.sales.orders o USING (id) ORDER BY 1"
    assert run(session, joined) == [("f1", 10), ("f2", 20), ("f3", 30)]
    assert run(session, "INSERT INTO other.sales.orders SELECT id, 7 FROM nyc.flights WHERE id = 0") == 1
    update = (
        "UPDATE other.sales.orders SET amount = f.id FROM nyc.flights f WHERE f.id = orders.id AND f.id > 2"
    )
    assert run(session, update) == 1
    merge = (
        "MERGE INTO lake.nyc.flights AS f USING other.sales.orders AS o ON f.id = o.amount "
        "WHEN MATCHED THEN UPDATE SET name = 'matched' WHEN NOT MATCHED THEN INSERT VALUES (o.amount, 'new')"
    )
    assert run(session, merge) == 4
    assert run(session, "DELETE FROM other.sales.orders WHERE id IN (SELECT id FROM lake.nyc.flights)") == 4
    assert run(session, "FROM other.sales.orders") == []
    travelled = run(session, f"SELECT id FROM other.sales.orders AT (VERSION => {before}) ORDER BY id")
    assert travelled == [(1,), (2,), (3,)]
    flown = [(0, "f0"), (1, "f1"), (2, "f2"), (3, "matched"), (7, "new"), (10, "new"), (20, "new")]
    assert run(session, "FROM lake.nyc.flights ORDER BY id") == flown
    run(session, "ALTER TABLE other.sales.orders RENAME TO kept")
    lakehouse.close()
    again = opened(root, place)
    try:
        fresh = session_of(again)
        assert run(fresh, "FROM nyc.flights ORDER BY id") == flown
        assert run(fresh, "SELECT count(*) FROM other.sales.kept") == [(0,)]
        assert again.catalogs.of("OTHER").tables("sales") == ["kept"]
        assert again.catalog.schemas() == ["main", "nyc"]
    finally:
        again.close()


def test_views_read_tables_of_several_catalogs(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    run(session, "USE other.sales")
    run(
        session, "CREATE VIEW lake.main.v AS SELECT name, amount FROM orders JOIN lake.nyc.flights USING (id)"
    )
    run(session, "CREATE VIEW w AS FROM lake.main.v WHERE amount > 10")
    run(session, "USE lake")
    assert run(session, "SELECT * FROM other.sales.w ORDER BY 1") == [("f2", 20), ("f3", 30)]
    assert run(session, "SELECT count(*) FROM v") == [(3,)]
    with pytest.raises(LakehouseError, match="cannot read itself"):
        run(session, "CREATE OR REPLACE VIEW v AS FROM other.sales.w")
    # A view of the same schema and name in another catalog is another view.
    run(session, "CREATE SCHEMA other.main")
    run(session, "CREATE VIEW other.main.v AS FROM lake.main.v")
    assert run(session, "SELECT count(*) FROM other.main.v") == [(3,)]
    with pytest.raises(LakehouseError, match=r"view lake\.main\.v cannot be read: .* does not exist"):
        run(session_of(lakehouse, "here"), "FROM lake.main.v")


def _tables(run_sql: Callable[[str], Any]) -> None:
    """The same names in two catalogs; each table holds its own full name. ``lake`` has a schema ``other``."""
    for catalog, schemas in (("lake", ("main", "a", "other")), ("other", ("main", "a", "b"))):
        for schema in schemas:
            if (catalog, schema) != ("lake", "main"):
                run_sql(f"CREATE SCHEMA IF NOT EXISTS {catalog}.{schema}")
            run_sql(f"CREATE TABLE {catalog}.{schema}.t AS SELECT '{catalog}.{schema}' AS place")
    run_sql("CREATE TABLE other.b.only AS SELECT 'other.b' AS place")


def test_names_lead_where_duckdb_finds_them(lakehouse: Lakehouse) -> None:
    session = session_of(lakehouse)
    _tables(lambda sql: run(session, sql))
    plain = duckdb.connect()
    for catalog in ("lake", "other"):
        plain.execute(f"ATTACH ':memory:' AS {catalog}")
    _tables(plain.execute)
    names = ["t", "only", "main.t", "a.t", "b.t", "b.only", "lake.t", "other.t", "OTHER.A.T", "lake.a.t"]
    names += ["other.main.t", "lake.b.t", "other.other.t", "nowhere.a.t", '"a.t"', "lake.other.t"]
    different = {}
    for place in ("lake.main", "lake.a", "other.main", "other.a", "other.b"):
        run(session, f"USE {place}")
        plain.execute(f"USE {place}")
        for name in names:
            sql = f"SELECT place FROM {name}"
            try:
                expected = plain.execute(sql).fetchall()
            except duckdb.Error as error:
                expected = "ambiguous" if "Ambiguous" in str(error) else "nothing"
            try:
                found = run(session, sql)
            except LakehouseError:
                found = "nothing"
            if found != expected:
                different[place, name] = found, expected
    plain.close()
    # Where DuckDB cannot decide, the schema comes before the catalog.
    decided = ([("lake.other",)], "ambiguous")
    assert different == {("lake.main", "other.t"): decided, ("lake.a", "other.t"): decided}


def test_large_tables_of_one_name_are_told_apart_by_their_full_names(lakehouse: Lakehouse) -> None:
    """Of tables with many files a statement reads some by views, which have no catalog and schema."""
    session = session_of(lakehouse)
    run(session, "CREATE SCHEMA other.main")
    for catalog in ("lake", "other"):
        layout = "PARTITIONED BY (truncate(1, id))"
        rows = f"SELECT range AS id, '{catalog}' AS place FROM range({PRUNED_ABOVE + 3})"
        run(session, f"CREATE TABLE {catalog}.main.t {layout} AS {rows}")
        assert len(lakehouse.catalogs.of(catalog).load("main", "t").files()) > PRUNED_ABOVE
    both = "SELECT lake.main.t.place, other.main.t.place FROM lake.main.t JOIN other.main.t"
    assert run(session, f"{both} ON lake.main.t.id = other.main.t.id WHERE lake.main.t.id = 7") == [
        ("lake", "other")
    ]
    assert run(session, "SELECT place FROM other.main.t WHERE id = 7") == [("other",)]
    assert run(session, "SELECT a.place FROM other.main.t a, lake.main.t b WHERE a.id = 1 AND b.id = 2") == [
        ("other",)
    ]


def test_a_session_takes_a_catalog(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    where = "SELECT current_catalog(), current_schema()"
    for use, expected in (
        ("USE other", ("other", "main")),
        ("USE OTHER.Sales", ("other", "sales")),
        ("USE lake.nyc", ("lake", "nyc")),
        ("SET schema = 'other.sales'", ("other", "sales")),
        ("USE system", ("lake", "system")),
        ("RESET schema", ("lake", "main")),
    ):
        run(session, use)
        assert run(session, where) == [expected]
    run(session, "USE other")
    for wrong in ("USE nowhere", "USE other.nyc", "USE nyc", "USE nowhere.main"):
        with pytest.raises((SchemaNotFound, CatalogNotFound)):
            run(session, wrong)
    assert run(session, where) == [("other", "main")]
    assert run(session, "SELECT count(*) FROM sales.orders") == [(3,)]
    assert run(session, "SELECT count(*) > 0 FROM system.sessions") == [(True,)]
    with pytest.raises(SchemaNotFound, match="nyc does not exist in catalog other"):
        run(session, "FROM nyc.flights")
    run(session, "CREATE SCHEMA main")
    run(session, "CREATE TABLE t AS SELECT 1 AS x")
    run(session, "CREATE TEMP TABLE t2 AS FROM t")
    assert run(session, "SELECT * FROM t, t2, other.t AS a, other.main.t AS b") == [(1, 1, 1, 1)]
    assert run(session, "SHOW TABLES") == [("t",), ("t2",)]


def test_a_transaction_reads_all_catalogs_and_changes_one(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    files = lakehouse.buckets["a"].objects
    run(session, "BEGIN")
    run(session, "INSERT INTO nyc.flights VALUES (9, 'nine')")
    assert run(session, "SELECT count(*) FROM other.sales.orders") == [(3,)]
    before = {found.key for found in files("second")}
    for sql in (
        "INSERT INTO other.sales.orders VALUES (9, 9)",
        "UPDATE other.sales.orders SET amount = 0",
        "DELETE FROM other.sales.orders",
        "TRUNCATE other.sales.orders",
        "MERGE INTO other.sales.orders o USING nyc.flights f ON o.id = f.id WHEN MATCHED THEN DELETE",
        "DROP TABLE other.sales.orders",
        "CREATE TABLE other.sales.x AS FROM nyc.flights",
        "CREATE OR REPLACE TABLE other.sales.orders AS FROM nyc.flights",
    ):
        with pytest.raises(NotSupported, match=r"catalog 'lake', so other\.sales\.\w+ of catalog 'other'"):
            run(session, sql)
    assert {found.key for found in files("second")} == before
    # Another session commits meanwhile; this transaction has read what it has read.
    run(session_of(lakehouse), "INSERT INTO other.sales.orders VALUES (8, 8)")
    assert run(session, "SELECT count(*) FROM other.sales.orders") == [(3,)]
    run(session, "CREATE SCHEMA other.passing")
    run(session, "COMMIT")
    assert run(session, "SELECT max(id) FROM nyc.flights") == [(9,)]
    assert run(session, "SELECT count(*) FROM other.sales.orders") == [(4,)]
    run(session, "BEGIN")
    run(session, "CREATE SCHEMA other.gone")
    run(session, "CREATE TABLE other.gone.t AS SELECT 1 AS x")
    run(session, "INSERT INTO other.sales.orders VALUES (5, 5)")
    with pytest.raises(NotSupported, match="catalog 'other', so lake"):
        run(session, "INSERT INTO nyc.flights VALUES (5, 'five')")
    run(session, "ROLLBACK")
    assert lakehouse.catalogs.of("other").schemas() == ["passing", "sales"]
    assert run(session, "SELECT count(*) FROM other.sales.orders") == [(4,)]
    run(session, "BEGIN")
    run(session, "CREATE TABLE other.passing.t AS SELECT 1 AS x")
    run(session, "INSERT INTO other.sales.orders VALUES (5, 5)")
    run(session, "COMMIT")
    assert run(session, "SELECT count(*), (SELECT x FROM other.passing.t) FROM other.sales.orders") == [
        (5, 1)
    ]


def test_nothing_moves_or_refers_to_another_catalog(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    run(session, "CREATE VIEW v AS SELECT 1 AS one")
    for sql in (
        "ALTER TABLE nyc.flights RENAME TO other.sales.flights",
        "ALTER TABLE other.sales.orders RENAME TO lake.nyc.orders",
        "ALTER VIEW v RENAME TO other.sales.v",
        "CREATE TABLE other.sales.k (id BIGINT REFERENCES lake.nyc.flights (id))",
        "ALTER TABLE other.sales.orders ADD FOREIGN KEY (id) REFERENCES lake.nyc.flights (id)",
    ):
        with pytest.raises(NotSupported, match="another catalog"):
            run(session, sql)
    # What a name leaves out is as in the name beside it.
    run(session, "CREATE SCHEMA other.nyc")
    run(session, "ALTER TABLE other.sales.orders RENAME TO nyc.flights")
    run(session, "CREATE TABLE other.sales.k (id BIGINT REFERENCES nyc.flights (id))")
    run(session, "DROP SCHEMA other.nyc CASCADE")
    assert run(session, "SELECT count(*) FROM nyc.flights") == [(4,)]
    assert lakehouse.catalogs.of("other").schemas() == ["sales"]


def test_versions_of_one_table_in_two_catalogs_are_told_apart(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/catalog.db"
    again = {"name": "other", "type": "sql", "uri": database, "warehouse": "second", "refresh_ms": 0}
    lakehouse = opened(tmp_path, catalogs=[again])
    try:
        session = session_of(lakehouse)
        run(session, "CREATE TABLE t AS SELECT range AS i FROM range(3)")
        run(session, "CREATE SCHEMA other.main")
        metadata_file = max((tmp_path / "a/warehouse/main/t/metadata").glob("v*.json"))
        with sqlite3.connect(tmp_path / "catalog.db") as connection:
            connection.execute(
                "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location) "
                "VALUES ('other', 'main', 't', ?)",
                [f"file://{metadata_file}"],
            )
        both = "SELECT (SELECT count(*) FROM lake.main.t), (SELECT count(*) FROM other.main.t)"
        assert run(session, both) == [(3, 3)]
        run(session, "INSERT INTO t VALUES (3)")
        assert run(session, both) == [(4, 3)]
        run(session, "BEGIN")
        run(session, "DELETE FROM other.main.t WHERE i = 0")
        assert run(session, both) == [(4, 2)]
        run(session, "ROLLBACK")
        assert run(session, "SELECT count(*) FROM lake.main.t, other.main.t AS o") == [(12,)]
    finally:
        lakehouse.close()


# -- what looks after tables ---------------------------------------------------------------------------


def test_maintenance_reaches_every_catalog_and_no_file_of_another(
    placed: tuple[Path, str, Lakehouse],
) -> None:
    _, _, lakehouse = placed
    session = filled(lakehouse)
    for number in range(3):
        run(session, f"INSERT INTO nyc.flights VALUES ({10 + number}, 'x')")
        run(session, f"INSERT INTO other.sales.orders VALUES ({10 + number}, 0)")
    lakehouse.maintenance.run_once()
    count = "SELECT count(*) FROM system.files WHERE catalog_name = '{}'"
    assert [run(session, count.format(name)) for name in ("lake", "other")] == [[(1,)], [(1,)]]
    for name, place in (("lake", ("nyc", "flights")), ("other", ("sales", "orders"))):
        cleaner = lakehouse.maintenance.of(name).cleaner
        cleaner.expire(*place, lakehouse.clock.now() + timedelta(days=1), 1)
        cleaner.remove_orphans(*place, timedelta(days=-1), lambda *_: None, lambda: False)
    assert run(session, "SELECT count(*) FROM nyc.flights") == [(7,)]
    assert run(session, "SELECT count(*) FROM other.sales.orders") == [(6,)]


# -- what is listed, and for whom ----------------------------------------------------------------------


LISTINGS = {
    "SHOW DATABASES": lambda row: row[0],
    "SELECT DISTINCT catalog_name FROM information_schema.schemata": lambda row: row[0],
    "SELECT DISTINCT table_catalog FROM information_schema.tables": lambda row: row[0],
    "SELECT DISTINCT table_catalog FROM information_schema.columns": lambda row: row[0],
    "SHOW ALL TABLES": lambda row: row[0],
    "SELECT DISTINCT catalog_name FROM system.snapshots": lambda row: row[0],
}


@pytest.mark.parametrize(
    ("role", "seen"),
    [
        ("admin", {"lake", "other"}),
        ("reader", {"lake", "other"}),
        ("here", {"lake"}),
        ("narrowed", {"lake"}),
        ("there", {"lake", "other"}),
    ],
)
def test_a_catalog_is_there_for_those_who_may_read_in_it(
    lakehouse: Lakehouse, role: str, seen: set[str]
) -> None:
    filled(lakehouse)
    session = session_of(lakehouse, role)
    for sql, name in LISTINGS.items():
        found = {name(row) for row in run(session, sql)}
        # The tables about the server are in the default catalog, but have no snapshots.
        assert found == (seen - {"lake"} if "snapshots" in sql and role == "there" else seen), sql
    ctx = CallContext(lakehouse, session)
    assert {row["catalog_name"] for row in metadata.catalogs(ctx, GetCatalogs())} == seen
    if "other" in seen:
        return
    for sql in (
        "FROM {}.sales.orders",
        "INSERT INTO {}.sales.orders VALUES (1, 1)",
        "CREATE TABLE {}.sales.mine AS SELECT 1 AS x",
        "CREATE SCHEMA {}.mine",
        "DROP TABLE {}.sales.orders",
        "USE {}.sales",
    ):
        errors = []
        for catalog in ("other", "nowhere"):
            with pytest.raises(LakehouseError) as error:
                run(session, sql.format(catalog))
            errors.append(str(error.value).replace(catalog, "?"))
        assert errors[0] == errors[1]
        assert "CATALOG_NOT_FOUND" in errors[0]


def test_grants_hold_in_the_catalog_that_they_name(lakehouse: Lakehouse) -> None:
    admin = filled(lakehouse)
    run(admin, "CREATE SCHEMA other.nyc")
    run(admin, "CREATE TABLE other.nyc.flights AS FROM lake.nyc.flights")
    run(admin, "CREATE SCHEMA sales")
    run(admin, "CREATE TABLE sales.orders AS FROM other.sales.orders")
    there = session_of(lakehouse, "there")
    assert run(there, "SELECT id FROM other.sales.orders") == [(1,)]
    for sql in ("FROM lake.sales.orders", "FROM other.nyc.flights", "FROM lake.nyc.flights"):
        with pytest.raises(LakehouseError, match="NOT_FOUND"):
            run(there, sql)
    run(there, "USE other.sales")
    assert run(there, "SELECT count(*) FROM orders") == [(1,)]
    assert run(there, "SHOW TABLES") == [("orders",)]
    with pytest.raises(LakehouseError, match="PERMISSION_DENIED"):
        run(there, "INSERT INTO orders VALUES (5, 5)")


def test_metadata_tells_catalogs_apart(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    run(session, "CREATE SCHEMA other.nyc")
    run(session, "CREATE TABLE other.nyc.flights (id BIGINT PRIMARY KEY)")
    run(session, "CREATE OR REPLACE TABLE nyc.flights (id BIGINT PRIMARY KEY)")
    run(session, "CREATE TABLE other.nyc.seats (nr BIGINT, id BIGINT REFERENCES nyc.flights (id))")
    ctx = CallContext(lakehouse, session)

    def listed(command: GetTables) -> list[tuple[str, ...]]:
        columns = ("catalog_name", "db_schema_name", "table_name")
        return [tuple(row[c] for c in columns) for row in metadata.tables(ctx, command).to_pylist()]

    everything = GetTables(None, None, None, ("TABLE",), include_schema=True)
    assert listed(everything) == [
        ("lake", "nyc", "flights"),
        ("other", "nyc", "flights"),
        ("other", "nyc", "seats"),
        ("other", "sales", "orders"),
    ]
    assert len(listed(GetTables("OTHER", "nyc", None, (), include_schema=False))) == 2
    assert listed(GetTables("nowhere", None, None, (), include_schema=False)) == []
    schemas = [tuple(row.values()) for row in metadata.db_schemas(ctx, GetDbSchemas(None, None))]
    assert schemas == [
        ("lake", "main"),
        ("lake", "nyc"),
        ("lake", "system"),
        ("other", "nyc"),
        ("other", "sales"),
    ]
    assert len(metadata.db_schemas(ctx, GetDbSchemas("other", None))) == 2
    for catalog, count in (("lake", 1), ("other", 1), (None, 2)):
        assert len(keys.primary_keys(ctx, GetPrimaryKeys(catalog, "nyc", "flights"))) == count
    assert keys.exported_keys(ctx, GetExportedKeys("lake", "nyc", "flights")) == []
    (exported,) = keys.exported_keys(ctx, GetExportedKeys("other", "nyc", "flights"))
    (imported,) = keys.imported_keys(ctx, GetImportedKeys("other", "nyc", "seats"))
    assert exported == imported
    assert (exported["pk_catalog_name"], exported["fk_table_name"]) == ("other", "seats")


def test_datasets_are_found_by_two_and_three_names(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    ctx = CallContext(lakehouse, session)
    assert [found.path for found in flights.listing(ctx, b"")] == [
        ("lake", "nyc", "flights"),
        ("other", "sales", "orders"),
    ]
    assert [found.path for found in flights.listing(ctx, b"other.*")] == [("other", "sales", "orders")]
    assert flights.schema(ctx, ("other", "sales", "orders")).names == ["id", "amount"]
    with pytest.raises(SchemaNotFound):
        flights.schema(ctx, ("sales", "orders"))
    run(session, "USE other")
    assert flights.schema(ctx, ("sales", "orders")).names == ["id", "amount"]
    assert flights.schema(ctx, ("lake", "nyc", "flights")).names == ["id", "name"]


@pytest.mark.parametrize("mode", [IngestMode.APPEND, IngestMode.UPSERT])
def test_an_ingest_that_fails_leaves_neither_schema_nor_column(
    placed: tuple[Path, str, Lakehouse], mode: IngestMode
) -> None:
    _, place, lakehouse = placed
    target, other = TableName("other", "fresh", "t"), lakehouse.catalogs.of("other")
    ann = Principal("ann", frozenset({"admin"}))

    def bring(rows: dict[str, list[Any]], *, fails: bool) -> None:
        table = pa.table(rows)

        def batches() -> Iterator[pa.RecordBatch]:
            yield from table.to_batches()
            if fails:
                raise InvalidRequest("the last row does not fit")

        source = ArrowBatches(table.schema, batches(), "a test")
        request = IngestRequest(target, mode, keys=("id",))
        lakehouse.ingests.run(request, source, ann, lambda: False, unheard)

    with pytest.raises(InvalidRequest):
        bring({"id": [1]}, fails=True)
    # A service prepares no table without its schema.
    assert other.schema_exists("fresh") == (place == "a service")
    bring({"id": [1]}, fails=False)
    with pytest.raises(InvalidRequest):
        bring({"id": [2], "more": [2]}, fails=True)
    assert other.load("fresh", "t").arrow_schema().names == ["id"]
    bring({"id": [2], "more": [2]}, fails=False)
    assert run(session_of(lakehouse), "FROM other.fresh.t ORDER BY id") == [(1, None), (2, 2)]


# -- configuration --------------------------------------------------------------------------------------

TWO = [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}]


@pytest.mark.parametrize(
    ("catalogs", "complaint"),
    [
        ([{"name": "LAKE", "warehouse": "w"}], "'lake' and 'LAKE' have one name"),
        ([{"name": "x", "bucket": "c"}], "names the bucket 'c', expected one of a, b"),
        ([{"name": "x"}], "warehouses 'warehouse' and 'warehouse'"),
        ([{"name": "x", "warehouse": "warehouse/x"}], "warehouses 'warehouse' and 'warehouse/x'"),
        (
            [
                {"name": "x", "bucket": "b"},
                {"name": "y", "bucket": "b", "type": "sql", "uri": "sqlite:///c.db"},
            ],
            "'x' and 'y' are both in the bucket 'b'",
        ),
        ([{"name": "temp", "warehouse": "w"}], "name of your own"),
        ([{"name": "x", "default_schema": "y"}], "default_schema"),
    ],
)
def test_catalogs_that_cannot_stand_side_by_side_are_refused(
    catalogs: list[dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Settings.model_validate({"buckets": TWO, "catalogs": catalogs})


def test_warehouses_that_begin_alike_stand_side_by_side() -> None:
    Settings.model_validate(
        {"buckets": TWO, "catalogs": [{"name": "x", "warehouse": "warehouse2"}, {"name": "y", "bucket": "b"}]}
    )


def test_the_key_of_a_foreign_key_stays_in_its_catalog(lakehouse: Lakehouse) -> None:
    session = filled(lakehouse)
    reference = ForeignKey("k", ("id",), "nyc", "flights", ("id",))
    lakehouse.catalogs.of("other").declare_keys("sales", "orders", [], [reference])
    ctx = CallContext(lakehouse, session)
    (row,) = keys.imported_keys(ctx, GetImportedKeys("other", "sales", "orders"))
    assert row["pk_catalog_name"] == "other"
    assert keys.exported_keys(ctx, GetExportedKeys("lake", "nyc", "flights")) == []


def test_readiness_looks_at_every_catalog_and_bucket(placed: tuple[Path, str, Lakehouse]) -> None:
    root, place, lakehouse = placed
    readiness = Readiness.of(lakehouse, kept_s=0.0)
    # A bucket in which nothing is kept is not asked.
    expected = {"engine", "storage", "catalog", "catalog-other"}
    if place != "one bucket":
        expected.add("storage-b")
    assert {found.name for found in readiness.findings() if found.ok} == expected
    if place == "two buckets":
        shutil.rmtree(root / "b")
        assert [found.name for found in readiness.findings() if not found.ok] == ["storage-b"]
