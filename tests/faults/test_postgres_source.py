"""Reading from a real PostgreSQL while things happen to it."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from postgres import PASSWORD, Postgres, start_postgres

from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    SchemaMismatch,
    StatementCancelled,
    StatementTimeout,
    StorageError,
)
from lakehouse.ingest.sources.postgres import Dsn, PostgresDatabase, PostgresSource, Query, Reading, Relation
from lakehouse.ingest.sources.postgres.sessions import AdbcSession, PsycopgSession, WireSession
from lakehouse.ingest.sources.source import Inspection, OnError, Piece

DRIVERS = {"wire": WireSession, "adbc": AdbcSession, "psycopg": PsycopgSession}
ROWS = 20_000
SMALL: dict[str, Any] = {"chunk_blocks": 16, "batch_bytes": 20_000, "buffer_bytes": 100_000}
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name = 'lakehouse'"
)
SLEEPY = "SELECT n, pg_sleep(0.001)::text AS s FROM generate_series(1, 100000) n"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    running = start_postgres()
    yield running
    running.stop()


@dataclass
class Database:
    """A database of one test's, and a superuser in it."""

    server: Postgres
    dsn: str

    def run(self, *statements: str, user: str = "lake") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn.replace("lake:", f"{user}:"), autocommit=True) as connection:
            for sql in statements:
                cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def source(
        self, wanted: str | Query, driver: str = "adbc", user: str = "lake", **reading: Any
    ) -> PostgresSource:
        which = wanted if isinstance(wanted, Query) else Relation(*wanted.split(".", 1))
        return PostgresSource(
            Dsn.parse(self.dsn.replace("lake:", f"{user}:")),
            which,
            Reading(opener=DRIVERS[driver], **reading),
        )


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return Database(postgres, postgres.database().replace("+psycopg", ""))


@pytest.fixture
def filled(database: Database) -> Database:
    """With a table of a few hundred blocks."""
    database.run(
        "CREATE TABLE t (n int PRIMARY KEY, s text)",
        f"INSERT INTO t SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, {ROWS}) n",
    )
    return database


def never() -> bool:
    return False


def silent(share: float | None, text: str) -> None:
    assert share is None or 0 <= share <= 1


def numbers(pieces: list[Piece], column: str = "n") -> list[int]:
    return [value for piece in pieces for value in piece.batch.column(column).to_pylist()]


def everything(source: PostgresSource, position: str | None = None) -> list[Piece]:
    try:
        return list(source.read(source.inspect(never, silent), OnError.FAIL, never, silent, position))
    finally:
        source.close()


def running(database: Database) -> int:
    """Queries of ours that the server is at."""
    return int(database.run(f"{SESSIONS} AND state = 'active'")[0][0])


def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("driver", DRIVERS)
def test_kinds_of_tables_give_each_row_once(database: Database, driver: str) -> None:
    database.run(
        "CREATE TABLE parted (n int, s text) PARTITION BY RANGE (n)",
        "CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (3000)",
        "CREATE TABLE high (s text, gone int, n int)",
        "ALTER TABLE high DROP COLUMN gone",
        "ALTER TABLE parted ATTACH PARTITION high FOR VALUES FROM (3000) TO (9000)",
        "INSERT INTO parted SELECT n, 'x' || n FROM generate_series(0, 5999) n",
        "DELETE FROM parted WHERE n % 3 = 0",
        "CREATE TABLE parent (n int)",
        "CREATE TABLE child (more text) INHERITS (parent)",
        "INSERT INTO parent SELECT generate_series(0, 9)",
        "INSERT INTO child SELECT generate_series(10, 19), 'x'",
        "CREATE VIEW seen AS SELECT n FROM parted WHERE n < 100",
        "CREATE MATERIALIZED VIEW kept AS SELECT n FROM parted",
        "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE outside (n int) SERVER files OPTIONS (program 'seq 1 50')",
        "ANALYZE",
    )
    left = [n for n in range(6000) if n % 3]
    expected = {
        "public.parted": left,
        "public.parent": list(range(20)),
        "public.seen": [n for n in left if n < 100],
        "public.kept": left,
        "public.outside": list(range(1, 51)),
    }
    with_places = {"public.parted", "public.parent", "public.kept"}
    for table, rows in expected.items():
        pieces = everything(database.source(table, driver, chunk_blocks=4, batch_bytes=4000))
        assert sorted(numbers(pieces)) == rows, table
        assert all((piece.position is not None) == (table in with_places) for piece in pieces)
    query = "WITH x AS (VALUES (1, 2), (3, 4)) SELECT column1 AS n, column2 AS n FROM x; "
    source = database.source(Query(query), driver)
    inspection = source.inspect(never, silent)
    assert [(c.name, c.source_name) for c in inspection.columns] == [("n", "n"), ("n_2", "n")]
    pieces = list(source.read(inspection, OnError.FAIL, never, silent))
    source.close()
    assert numbers(pieces, "n_2") == [2, 4]


def test_the_catalogue_is_carried_over(database: Database) -> None:
    database.run(
        'CREATE SCHEMA "Größe ""x"""',
        'CREATE TABLE "Größe ""x"""."select" ("Id" int, id int, "a.b" text NOT NULL, PRIMARY KEY ("Id", id))',
        "CREATE TABLE other (x int, y int, CONSTRAINT link FOREIGN KEY (x, y) "
        'REFERENCES "Größe ""x"""."select" ("Id", id))',
        'COMMENT ON TABLE "Größe ""x"""."select" IS $$it\'s a table$$',
        'COMMENT ON COLUMN "Größe ""x"""."select"."a.b" IS $$ünïcode$$',
        'INSERT INTO "Größe ""x"""."select" VALUES (1, 2, $$€$$)',
        "ANALYZE",
    )
    source = database.source('Größe "x".select')
    inspection = source.inspect(never, silent)
    assert [(c.name, c.source_name, c.nullable) for c in inspection.columns] == [
        ("Id", "Id", False),
        ("id_2", "id", False),
        ("a.b", "a.b", False),
    ]
    assert inspection.primary_key == ("Id", "id_2")
    assert inspection.description == "it's a table"
    assert inspection.columns[2].description == "ünïcode"
    assert inspection.rows == 1
    assert inspection.size_bytes
    pieces = list(source.read(inspection, OnError.FAIL, never, silent))
    source.close()
    assert [piece.batch.to_pylist() for piece in pieces] == [[{"Id": 1, "id_2": 2, "a.b": "€"}]]
    other = database.source("public.other")
    (key,) = other.inspect(never, silent).foreign_keys
    other.close()
    assert (key.name, key.columns, key.ref_schema) == ("link", ("x", "y"), 'Größe "x"')
    assert (key.ref_table, key.ref_columns) == ("select", ("Id", "id"))


@pytest.mark.parametrize("driver", DRIVERS)
def test_empty_and_very_wide_tables(database: Database, driver: str) -> None:
    columns = ", ".join(f"c{n} numeric" for n in range(1600))
    database.run(
        "CREATE TABLE nothing ()",
        "CREATE TABLE none (n int)",
        f"CREATE TABLE wide ({columns})",
        f"INSERT INTO wide SELECT {', '.join(['1.5', 'NULL'] * 800)}",
    )
    assert everything(database.source("public.none", driver)) == []
    with pytest.raises(InvalidRequest, match="no columns"):
        everything(database.source("public.nothing", driver))
    (piece,) = everything(database.source("public.wide", driver))
    assert piece.batch.num_columns == 1600
    (piece,) = everything(database.source("public.wide", driver, scan=False))
    assert set(piece.batch.to_pylist()[0].values()) == {"1.5", None}


@pytest.mark.parametrize("driver", DRIVERS)
def test_rows_that_do_not_fit_are_told_of_or_end_it(database: Database, driver: str) -> None:
    database.run(
        "CREATE TABLE t (n int, d date, s text)",
        "INSERT INTO t SELECT n, '2020-01-01', n::text FROM generate_series(1, 1000) n",
        "UPDATE t SET d = 'infinity' WHERE n = 500; UPDATE t SET s = 'N/A' WHERE n IN (3, 700)",
    )
    source = database.source("public.t", driver, scan=False)
    inspection = source.inspect(never, silent)
    assert inspection.columns[1].type == pa.date32()
    stated = Inspection((*inspection.columns[:2], replace(inspection.columns[2], type=pa.int64())))
    pieces = list(source.read(stated, OnError.REJECT, never, silent))
    rejected = [
        (row.column, "N/A" in row.content, "infinity" in row.content) for p in pieces for row in p.rejected
    ]
    assert sorted(rejected) == [("d", False, True), ("s", True, False), ("s", True, False)]
    assert sum(piece.rows_in for piece in pieces) == 1000
    assert sum(numbers(pieces, "s")) == sum(set(range(1, 1001)) - {3, 500, 700})
    for part in (inspection, stated):
        with pytest.raises(InvalidRequest, match=r"a row of .*t does not fit: column '[ds]'"):
            list(source.read(part, OnError.FAIL, never, silent))
    source.close()
    scanned = database.source("public.t", driver)
    inspection = scanned.inspect(never, silent)
    scanned.close()
    assert inspection.columns[1].type == pa.string()
    assert "lost" in inspection.columns[1].stricter


def test_a_value_of_100_megabytes_takes_little_more_than_itself(database: Database) -> None:
    database.run(
        "CREATE TABLE t (n int, s text)",
        "INSERT INTO t SELECT 1, repeat('0123456789', 10000000)",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(2, 1000) n",
    )
    pieces = everything(database.source("public.t"))
    assert sum(piece.rows_in for piece in pieces) == 1000
    assert pc.max(pc.utf8_length(pieces[0].batch.column("s"))).as_py() == 100_000_000


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_row_comes_once_however_often_connections_are_killed(filled: Database, driver: str) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lakehouse' "
        "AND backend_type = 'client backend' {}"
    )
    source = filled.source("public.t", driver, **SMALL)
    inspection = source.inspect(never, silent)
    pieces = []
    for number, piece in enumerate(source.read(inspection, OnError.FAIL, never, silent)):
        pieces.append(piece)
        if number in (3, 40):
            filled.run(kill.format("AND query NOT ILIKE 'select pg_export%'"))
        if number == 80:
            filled.run(kill.format(""))
    source.close()
    assert numbers(pieces) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_restart_of_the_server_is_waited_for(filled: Database, driver: str) -> None:
    source = filled.source("public.t", driver, **SMALL)
    inspection = source.inspect(never, silent)
    pieces = []
    for number, piece in enumerate(source.read(inspection, OnError.FAIL, never, silent)):
        pieces.append(piece)
        if number == 10:
            filled.server.halt()
            threading.Timer(1.0, filled.server.start).start()
    source.close()
    assert numbers(pieces) == list(range(1, ROWS + 1))


def test_rows_that_changed_while_the_server_was_away_are_not_mixed_with_old_ones(filled: Database) -> None:
    source = filled.source("public.t", **SMALL)
    rows = source.read(source.inspect(never, silent), OnError.FAIL, never, silent)
    next(rows)
    filled.server.restart()
    filled.run("UPDATE t SET s = 'changed' WHERE n = 1")
    with pytest.raises(StorageError, match="not the same any more") as caught:
        list(rows)
    assert "start again from the beginning" in str(caught.value)
    source.close()


def test_a_query_whose_connection_is_lost_has_to_be_started_again(database: Database) -> None:
    source = database.source(Query("SELECT n FROM generate_series(1, 1000000) n"), batch_bytes=1000)
    rows = source.read(source.inspect(never, silent), OnError.FAIL, never, silent)
    next(rows)
    database.server.restart()
    with pytest.raises(StorageError, match="no places to go on after"):
        list(rows)
    source.close()


def test_a_server_that_stays_away_is_told_of(filled: Database) -> None:
    source = filled.source("public.t", retry_seconds=1.0, **SMALL)
    rows = source.read(source.inspect(never, silent), OnError.FAIL, never, silent)
    next(rows)
    filled.server.halt()
    try:
        with pytest.raises(StorageError, match=r"PostgreSQL at 127\.0\.0\.1"):
            list(rows)
    finally:
        source.close()
        filled.server.start()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_later_process_goes_on_after_the_last_piece_that_was_taken(filled: Database, driver: str) -> None:
    before = everything(filled.source("public.t", driver, **SMALL))
    for taken in (1, len(before) // 2, len(before) - 1):
        after = everything(filled.source("public.t", driver, **SMALL), before[taken - 1].position)
        assert numbers(before[:taken] + after) == list(range(1, ROWS + 1))
    position = before[20].position
    filled.run(f"INSERT INTO t SELECT n, 'new' FROM generate_series({ROWS + 1}, {ROWS + 100}) n")
    filled.run(f"DELETE FROM t WHERE n = {ROWS}")
    after = everything(filled.source("public.t", driver, **SMALL), position)
    assert numbers(before[:21] + after) == [*range(1, ROWS), *range(ROWS + 1, ROWS + 101)]
    for change in ("DELETE FROM t WHERE n = 2", "CLUSTER t USING t_pkey", "TRUNCATE t"):
        filled.run(change)
        with pytest.raises(StorageError, match="not the same any more"):
            everything(filled.source("public.t", driver, **SMALL), position)
    for nonsense in ("", "{}", "[1]", '{"place": 3}'):
        with pytest.raises(InvalidRequest, match="position"):
            everything(filled.source("public.t", driver), nonsense)


def test_the_state_is_one_while_others_write(database: Database) -> None:
    """Sums that transfers do not change, over two tables and many connections."""
    database.run(
        "CREATE TABLE a (n int PRIMARY KEY, amount int)",
        "CREATE TABLE b (n int PRIMARY KEY, amount int)",
        "INSERT INTO a SELECT n, 100 FROM generate_series(1, 5000) n; INSERT INTO b SELECT * FROM a",
    )
    ended = threading.Event()

    def transfer() -> None:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            number = 0
            while not ended.is_set():
                number = number % 5000 + 1
                with connection.transaction():
                    connection.execute("UPDATE a SET amount = amount - 7 WHERE n = %s", [number])
                    connection.execute("UPDATE b SET amount = amount + 7 WHERE n = %s", [5001 - number])
                    connection.execute("DELETE FROM a WHERE n = %s", [-number])
                    connection.execute("INSERT INTO a VALUES (%s, 0)", [-number])

    writers = [threading.Thread(target=transfer)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(5):
            tables = PostgresDatabase(Dsn.parse(database.dsn), reading=Reading(**SMALL))
            sources = tables.sources(never)
            total = 0
            for source in sources:
                time.sleep(0.1)
                pieces = list(source.read(source.inspect(never, silent), OnError.FAIL, never, silent))
                total += sum(numbers(pieces, "amount"))
                found = numbers(pieces)
                assert len(found) == len(set(found))
            tables.close()
            assert total == 1_000_000
    finally:
        ended.set()
        for writer in writers:
            writer.join()


def test_all_tables_come_in_the_order_of_their_references(database: Database) -> None:
    database.run(
        "CREATE TABLE a_order (n int PRIMARY KEY)",
        "CREATE TABLE z_customer (n int PRIMARY KEY)",
        "ALTER TABLE a_order ADD FOREIGN KEY (n) REFERENCES z_customer",
        "CREATE TABLE ring1 (n int PRIMARY KEY); CREATE TABLE ring2 (n int PRIMARY KEY REFERENCES ring1)",
        "ALTER TABLE ring1 ADD FOREIGN KEY (n) REFERENCES ring2",
        "ALTER TABLE ring1 ADD FOREIGN KEY (n) REFERENCES ring1",
        "CREATE SCHEMA s; CREATE TABLE s.secret (n int); CREATE TABLE s.tmp_1 (n int)",
        "CREATE TABLE parted (n int) PARTITION BY LIST (n); CREATE TABLE part PARTITION OF parted DEFAULT",
        "CREATE ROLE bob LOGIN PASSWORD '" + PASSWORD + "'; GRANT USAGE ON SCHEMA s TO bob",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO bob",
    )

    def names(user: str = "lake", **which: Any) -> list[str]:
        tables = PostgresDatabase(Dsn.parse(database.dsn.replace("lake:", f"{user}:")), **which)
        sources = tables.sources(never)
        tables.close()
        return [str(source.relation) for source in sources]

    order = ["public.parted", "public.z_customer", "s.secret", "s.tmp_1"]
    assert [name for name in names() if name in order] == order
    found = names()
    assert found.index("public.z_customer") < found.index("public.a_order")
    assert {"public.ring1", "public.ring2"} < set(found)
    assert "public.part" not in found
    assert names(schemas=["s"], exclude=["tmp_*"]) == ["s.secret"]
    assert names(include=["s.*", "parted"]) == ["public.parted", "s.secret", "s.tmp_1"]
    tables = PostgresDatabase(
        Dsn.parse(database.dsn.replace("lake:", "bob:")), include=["s.secret", "parted"]
    )
    good, bad = tables.sources(never)
    with pytest.raises(InvalidRequest, match=r"may not read 's\.secret'"):
        bad.inspect(never, silent)
    assert list(good.read(good.inspect(never, silent), OnError.FAIL, never, silent)) == []
    tables.close()
    database.run("DROP OWNED BY bob; DROP ROLE bob")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_stopping_stops_the_server_too(database: Database, driver: str, how: str) -> None:
    source = database.source(Query(SLEEPY), driver, scan=False, batch_bytes=200)
    asked = threading.Event()
    rows = source.read(source.inspect(never, silent), OnError.FAIL, asked.is_set, silent)
    next(rows)
    if how == "cancel":
        asked.set()
        with pytest.raises(StatementCancelled):
            list(rows)
    else:
        rows.close()
    eventually(lambda: running(database) == 0)
    source.close()
    eventually(lambda: database.run(SESSIONS) == [(0,)])


def test_looking_at_values_can_be_cancelled(database: Database) -> None:
    source = database.source(Query("SELECT 1::numeric AS n, pg_sleep(60)::text AS s"))
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    with pytest.raises(StatementCancelled):
        source.inspect(asked.is_set, silent)
    eventually(lambda: running(database) == 0)
    source.close()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_time_limit_of_the_server_is_told_of(database: Database, driver: str) -> None:
    database.run(f"ALTER DATABASE {database.dsn.rsplit('/', 1)[1]} SET statement_timeout = '300ms'")
    source = database.source(Query(SLEEPY), driver, scan=False)
    with pytest.raises(StatementTimeout, match="statement timeout"):
        everything(source)


def test_a_table_that_is_being_read_cannot_be_changed_under_it(filled: Database) -> None:
    source = filled.source("public.t", **SMALL)
    inspection = source.inspect(never, silent)
    for change in ("DROP TABLE t", "ALTER TABLE t ADD COLUMN x int", "TRUNCATE t"):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            filled.run("SET lock_timeout = '50ms'", change)
    assert sum(p.rows_in for p in source.read(inspection, OnError.FAIL, never, silent)) == ROWS
    source.close()
    filled.run("ALTER TABLE t ALTER COLUMN n TYPE bigint")
    later = filled.source("public.t")
    with pytest.raises(SchemaMismatch, match="altered"):
        list(later.read(inspection, OnError.FAIL, never, silent))
    later.close()
    filled.run("DROP TABLE t")
    with pytest.raises(InvalidRequest, match=r"no table or view 'public.t'"):
        list(later.read(inspection, OnError.FAIL, never, silent))
    later.close()


@pytest.mark.parametrize(
    ("change", "wanted", "says"),
    [
        (("lake:", "nobody:"), "public.t", "refused the user or the password"),
        (("p%2Fw", "hunter2"), "public.t", "refused the user or the password"),
        (("/test", "/nope"), "public.t", "has no database 'nope"),
        (("127.0.0.1", "no-such-host.invalid"), "public.t", "is not known"),
        ((":PORT", ":1"), "public.t", "nothing listens"),
        (("", ""), "public.T", "there is public.t"),
        (("", ""), "nope.t", "no table or view 'nope.t'"),
        (("", ""), Query("SELECT nope FROM t"), 'column "nope" does not exist'),
        (("", ""), Query("SELECT 1; SELECT 2"), "multiple commands"),
        (("", ""), Query("SELECT 1) AS t; DROP TABLE t; --"), "syntax error"),
        (("", ""), Query("DELETE FROM t RETURNING n"), "cannot read the query"),
        (("", ""), Query("CREATE TABLE x (n int)"), "gives no columns"),
        (("", ""), Query("SELECT 1/0 AS n"), "division by zero"),
        (("?", "sslmode=require"), "public.t", "did not agree on TLS"),
    ],
)
def test_what_is_wrong_is_said_without_secrets(
    filled: Database, change: tuple[str, str], wanted: str | Query, says: str
) -> None:
    old, new = change
    dsn = filled.dsn.replace(f":{filled.server.port}", new) if old == ":PORT" else filled.dsn
    dsn = f"{dsn}?{new}" if old == "?" else dsn.replace(old, new) if old else dsn
    which = wanted if isinstance(wanted, Query) else Relation(*wanted.split("."))
    source = PostgresSource(Dsn.parse(dsn), which)
    with pytest.raises(LakehouseError) as caught:
        everything(source)
    error = caught.value
    assert isinstance(error, InvalidRequest | StorageError)
    assert says in str(error)
    shown = "".join(traceback.format_exception(error)) + repr(source)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not any(part in shown.replace(dsn, "") for part in (PASSWORD, "p%2Fw%401", "hunter2"))


def test_a_server_that_does_not_answer_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        dsn = f"postgresql://bob@127.0.0.1:{deaf.getsockname()[1]}/x?connect_timeout=2"
        source = PostgresSource(Dsn.parse(dsn), Relation("public", "t"))
        with pytest.raises(StorageError, match="did not answer in time"):
            source.inspect(never, silent)
        with pytest.raises(StatementCancelled):
            source.inspect(lambda: True, silent)
