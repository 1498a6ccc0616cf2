"""CREATE TABLE, ALTER TABLE, COMMENT ON and DROP SCHEMA … CASCADE of lake tables, in process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import StaticTable

from lakehouse.access.principal import Principal
from lakehouse.catalog import Table
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    LakehouseError,
    NotSupported,
    PermissionDenied,
    SchemaMismatch,
    SchemaNotEmpty,
    SchemaNotFound,
    SqlBindError,
    SqlExecutionError,
    SqlSyntaxError,
    StatementForbidden,
    TableAlreadyExists,
    TableNotFound,
    TransactionStateError,
    TypeNotStorable,
)
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import ForeignKey, TableName

ROLES: list[dict[str, Any]] = [
    {
        "name": "shop",
        "grants": [
            {"on": "lake.shop.*", "privileges": ["read", "write"]},
            {"on": "lake.shop.h*", "privileges": []},
        ],
    },
    {"name": "appender", "grants": [{"on": "lake.shop.*", "privileges": ["write"]}]},
    {"name": "looker", "grants": [{"on": "lake.shop.*"}]},
    {
        "name": "masked",
        "grants": [{"on": "lake.*.people", "masks": {"phone": "hash"}, "row_filter": "age > 3"}],
    },
]
numbers = itertools.count()


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lakehouse]:
    bucket = tmp_path_factory.mktemp("bucket")
    opened = Lakehouse(Settings.model_validate({"buckets": [{"path": str(bucket)}], "roles": ROLES}))
    yield opened
    opened.close()


def session_of(lakehouse: Lakehouse, *roles: str) -> Session:
    return lakehouse.sessions.get(f"ddl-{next(numbers)}", Principal("ann", frozenset(roles)))


@pytest.fixture
def session(lakehouse: Lakehouse) -> Session:
    """Of an admin, in a schema of its own."""
    opened = session_of(lakehouse, "admin")
    schema = f"s{next(numbers)}"
    run(opened, f"CREATE SCHEMA {schema}")
    run(opened, f"USE {schema}")
    return opened


def run(session: Session, sql: str, parameters: list[Any] | None = None) -> Any:
    """The rows of a query, or the count that a change gives."""
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    transaction = session.sql_transaction
    if analysis.is_update:
        rows = None if parameters is None else [parameters]
        return engine.changes.run(analysis, Scope(session, transaction, CallWatch()), rows)
    plan = engine.plan(analysis, session, transaction, parameters)
    table = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def load(session: Session, table: str) -> Table:
    return session.engine.catalogs.default.load(session.schema, table)


def ingest(session: Session, table: str, rows: pa.Table) -> int:
    scope = Scope(session, session.sql_transaction, CallWatch())
    name = TableName("lake", session.schema, table)
    return session.engine.changes.ingest(scope, name, WriteMode.APPEND, rows.schema, rows.to_batches())


def static(session: Session, table: str) -> StaticTable:
    """The table as another program opens it, from its newest metadata file."""
    location = Path(load(session, table).metadata.location.removeprefix("file://"))
    newest = max(location.glob("metadata/v*.metadata.json"), key=lambda p: int(p.name[1:].split(".")[0]))
    return StaticTable.from_metadata(str(newest))


# -- CREATE TABLE ----------------------------------------------------------------------------------


def test_what_is_declared_stands_in_the_metadata(session: Session) -> None:
    run(session, 'CREATE TABLE customer (id INT PRIMARY KEY, "Größe" REAL)')
    run(
        session,
        """
        CREATE TABLE orders (
            -- PRIMARY KEY (nothing)
            id BIGINT, line INTEGER NOT NULL, ts TIMESTAMP, d DATE, name VARCHAR DEFAULT 'x' || 'y',
            "odd, name (1)" DECIMAL(12, 2) DEFAULT 0 NOT NULL, utc TIMESTAMPTZ DEFAULT now(),
            buyer INT CONSTRAINT buyer REFERENCES customer NOT NULL,
            PRIMARY KEY (line, id), CONSTRAINT "fk 2" FOREIGN KEY (line) REFERENCES orders (line)
        )
        SORTED BY (ts DESC, name NULLS LAST, id ASC NULLS FIRST)
        PARTITIONED BY (d, bucket(16, id), truncate(name, 4), years(ts), hour(utc));
        """,
    )
    seen = static(session, "orders")
    schema = seen.schema()
    assert [(f.name, str(f.field_type), f.required) for f in schema.fields] == [
        ("id", "long", True),
        ("line", "int", True),
        ("ts", "timestamp", False),
        ("d", "date", False),
        ("name", "string", False),
        ("odd, name (1)", "decimal(12, 2)", True),
        ("utc", "timestamptz", False),
        ("buyer", "int", True),
    ]
    assert schema.identifier_field_names() == {"id", "line"}
    assert [(schema.find_column_name(f.source_id), str(f.transform), f.name) for f in seen.spec().fields] == [
        ("d", "identity", "d"),
        ("id", "bucket[16]", "id_bucket_16"),
        ("name", "truncate[4]", "name_trunc_4"),
        ("ts", "year", "ts_year"),
        ("utc", "hour", "utc_hour"),
    ]
    order = seen.sort_order()
    assert [
        (schema.find_column_name(f.source_id), f.direction.name, f.null_order.name) for f in order.fields
    ] == [("ts", "DESC", "NULLS_LAST"), ("name", "ASC", "NULLS_LAST"), ("id", "ASC", "NULLS_FIRST")]
    table = load(session, "orders")
    assert table.primary_key == ("line", "id")
    assert table.foreign_keys == (
        ForeignKey("buyer", ("buyer",), session.schema, "customer", ("id",)),
        ForeignKey("fk 2", ("line",), session.schema, "orders", ("line",)),
    )
    assert dict(table.column_defaults) == {"name": "('x' || 'y')", "odd, name (1)": "0", "utc": "now()"}
    assert [f.nullable for f in table.arrow_schema()] == [False, False, True, True, True, False, True, False]
    assert run(session, "FROM orders") == []


def test_create_table_as_writes_the_rows_of_the_query(session: Session) -> None:
    query = "SELECT i AS a, i::VARCHAR AS b, [i, NULL] AS l, {'x': i} AS s FROM range(300000) r(i)"
    assert run(session, f"CREATE TABLE t AS {query}") == 300_000
    assert run(session, f"(FROM t EXCEPT ALL ({query})) UNION ALL (({query}) EXCEPT ALL FROM t)") == []
    assert len(static(session, "t").metadata.snapshots) == 1
    assert run(session, "CREATE OR REPLACE TABLE t SORTED BY (a) AS FROM t WHERE a < 10 WITH DATA") == 10
    assert run(session, "SELECT sum(a) FROM t") == [(45,)]
    assert len(static(session, "t").sort_order().fields) == 1
    assert run(session, "CREATE TABLE u (x, Y) AS SELECT a, b, s FROM t WITH NO DATA") == 0
    assert load(session, "u").arrow_schema().names == ["x", "Y", "s"]
    assert run(session, "CREATE TABLE v AS SELECT $1::DATE AS d, $2 AS n", ["2024-02-29", 7]) == 1
    assert [str(row[0]) for row in run(session, "FROM v")] == ["2024-02-29"]
    run(session, "CREATE TEMP TABLE own AS SELECT 5 AS q")
    assert run(session, "CREATE TABLE w AS SELECT q, count(*) AS n FROM own, t GROUP BY ALL") == 1
    assert run(session, "FROM w") == [(5, 10)]


def test_if_not_exists_and_or_replace(session: Session) -> None:
    run(session, "CREATE TABLE t (a INT PRIMARY KEY, b INT DEFAULT 7) PARTITIONED BY (a) SORTED BY (a)")
    before = load(session, "t")
    with pytest.raises(TableAlreadyExists, match="IF NOT EXISTS"):
        run(session, "CREATE TABLE T (x INT)")
    run(session, "CREATE TABLE IF NOT EXISTS t AS SELECT error('must not run') AS x")
    assert load(session, "t") is before
    run(session, "CREATE OR REPLACE TABLE t (B BIGINT, a INT DEFAULT 8)")
    after = load(session, "t")
    assert after.metadata.table_uuid == before.metadata.table_uuid
    seen = static(session, "t")
    assert (seen.spec().is_unpartitioned(), seen.sort_order().is_unsorted) == (True, True)
    assert (after.primary_key, dict(after.column_defaults)) == ((), {"a": "8"})
    run(session, "CREATE OR REPLACE TABLE t (a INT, c VARCHAR) PARTITIONED BY (c, bucket(2, a))")
    run(session, "CREATE OR REPLACE TABLE t (a INT PRIMARY KEY)")
    assert load(session, "t").primary_key == ("a",)
    run(session, "CREATE OR REPLACE TABLE fresh (a INT)")
    assert run(session, "FROM fresh") == []


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("CREATE TABLE t (a INT UNIQUE)", NotSupported, "UNIQUE"),
        ("CREATE TABLE t (a INT CHECK (a > 1))", NotSupported, "CHECK"),
        ("CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (a + 1))", NotSupported, "generated"),
        ("CREATE TABLE t (a INT, b AS (a + 1))", NotSupported, "generated"),
        ("CREATE TABLE t (a VARCHAR COLLATE NOCASE)", NotSupported, "collation"),
        ("CREATE TABLE t (a INT) WITH (format = 'x')", NotSupported, "WITH"),
        ("CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES t ON DELETE NO ACTION)", NotSupported, "actions"),
        ("CREATE TABLE t (a INTERVAL)", TypeNotStorable, "months"),
        ("CREATE TABLE t (a STRUCT(b BIT)[])", TypeNotStorable, r"'a.element.b'.*BIT"),
        ("CREATE TABLE t (a UNION(x INT, y INT))", TypeNotStorable, "alternatives"),
        ("CREATE TABLE t (a VARIANT)", TypeNotStorable, "JSON"),
        ("CREATE TABLE t (a GEOMETRY)", TypeNotStorable, "ST_AsWKB"),
        ("CREATE TABLE t (a TIMETZ)", TypeNotStorable, "offset"),
        ("CREATE TABLE t (a BIGNUM)", TypeNotStorable, "DECIMAL"),
        ("CREATE TABLE t AS SELECT INTERVAL 1 DAY AS a", TypeNotStorable, "months"),
        ("CREATE TABLE t (a nosuchtype)", SqlBindError, "nosuchtype"),
        ("CREATE TABLE t (a INT, A INT)", SqlBindError, "already exists"),
        ("CREATE TABLE t ()", SqlSyntaxError, "."),
        ("CREATE TABLE t", SqlSyntaxError, "."),
        ("CREATE TABLE t (a INT); DROP TABLE t", SqlSyntaxError, "one SQL statement"),
        ("CREATE TABLE t (a INT DEFAULT 'abc')", SqlExecutionError, "abc"),
        ("CREATE TABLE t (a INT, b INT DEFAULT a)", SqlBindError, "column names"),
        ("CREATE TABLE t (a INT DEFAULT read_text('/etc/passwd'))", StatementForbidden, "read_text"),
        ("CREATE TABLE t (a INT DEFAULT (SELECT 1))", NotSupported, "query"),
        ("CREATE TABLE t (a INT) PARTITIONED BY (b)", SchemaMismatch, "no column 'b'"),
        ("CREATE TABLE t (a INT) PARTITIONED BY (a, a)", SchemaMismatch, "twice"),
        ("CREATE TABLE t (a INT) PARTITIONED BY (a) PARTITIONED BY (a)", SqlSyntaxError, "."),
        ("CREATE TABLE t (a INT) PARTITIONED BY (year(a))", SchemaMismatch, "year"),
        ("CREATE TABLE t (a INT) PARTITIONED BY (bucket(0, a))", SchemaMismatch, "above 0"),
        ("CREATE TABLE t (a INT) PARTITIONED BY (bucket(a))", SchemaMismatch, "bucket"),
        ("CREATE TABLE t (a INT) PARTITIONED BY (year(3, a))", SchemaMismatch, "year"),
        ("CREATE TABLE t (a DOUBLE) PARTITIONED BY (a)", SchemaMismatch, "double"),
        ("CREATE TABLE t (a INT[]) SORTED BY (a)", SchemaMismatch, "sorted"),
        ("CREATE TABLE t (a INT) SORTED BY (a + 1)", NotSupported, "a \\+ 1"),
        ("CREATE TABLE t (a INT, a_bucket_2 INT) PARTITIONED BY (bucket(2,a))", SchemaMismatch, "a_bucket_2"),
        ("CREATE TABLE t (a DOUBLE PRIMARY KEY)", SchemaMismatch, "cannot be in a primary key"),
        ("CREATE TABLE t (a INT REFERENCES nowhere)", TableNotFound, "nowhere"),
        ("CREATE TABLE t (a INT REFERENCES t (b))", SchemaMismatch, "no column 'b'"),
        ("CREATE TABLE t (a INT REFERENCES t)", SchemaMismatch, "no primary key"),
        ("CREATE TABLE t (a INT, FOREIGN KEY (b) REFERENCES t (a))", LakehouseError, "b"),
        ("CREATE TABLE nowhere.t (a INT)", SchemaNotFound, "nowhere"),
        ('CREATE TABLE "~t" (a INT)', StatementForbidden, "internal"),
        ("CREATE TABLE system.t (a INT)", InvalidRequest, "server's own"),
        ("CREATE TABLE t AS SELECT 1 AS a, 2 AS A", SchemaMismatch, "same name"),
        ("CREATE TABLE t (a, b) AS SELECT 1", LakehouseError, "."),
        ("CREATE TABLE t AS SELECT i // (i - 90000) AS a FROM range(100000) r(i) ",
         SqlExecutionError, "[Dd]ivision"),
        ("CREATE TABLE t AS SELECT 170141183460469231731687303715884105727 AS h", SqlExecutionError, "."),
    ],
)  # fmt: skip
def test_what_cannot_be_created_is_refused_and_leaves_nothing(
    session: Session, sql: str, error: type[LakehouseError], message: str
) -> None:
    with pytest.raises(error, match=message) as refused:
        run(session, sql)
    assert "~columns" not in str(refused.value)
    assert run(session, "SHOW TABLES") == []


def test_names_that_look_like_clauses_do_no_harm(session: Session) -> None:
    run(session, 'CREATE TABLE "a ""b"" (c) AS" ("sorted by" INT, "x;y" INT) PARTITIONED BY ("sorted by")')
    table = load(session, 'a "b" (c) AS')
    assert table.arrow_schema().names == ["sorted by", "x;y"]
    run(session, "CREATE TABLE partitioned (sorted INT) PARTITIONED /* -- */ BY (sorted) -- end")
    assert len(static(session, "partitioned").spec().fields) == 1
    run(session, "CREATE TABLE s AS SELECT 'PARTITIONED BY (x)' AS t, 1 AS \"AS\"")
    assert run(session, "FROM s") == [("PARTITIONED BY (x)", 1)]


def test_a_created_table_belongs_to_the_transaction(session: Session, lakehouse: Lakehouse) -> None:
    other = session_of(lakehouse, "reader")
    run(session, "BEGIN")
    assert run(session, "CREATE TABLE t AS SELECT 1 AS a") == 1
    run(session, "CREATE TABLE IF NOT EXISTS t (zz INT)")
    run(session, "CREATE TABLE empty (a INT PRIMARY KEY) PARTITIONED BY (a)")
    ingest(session, "t", pa.table({"a": [2]}))
    assert run(session, "FROM t ORDER BY a") == [(1,), (2,)]
    with pytest.raises(TableNotFound):
        run(other, f"FROM {session.schema}.t")
    for statement in ("ALTER TABLE t ADD COLUMN b INT", "COMMENT ON TABLE t IS 'x'"):
        with pytest.raises(TransactionStateError, match="inside a transaction"):
            run(session, statement)
    run(session, "ROLLBACK")
    with pytest.raises(TableNotFound):
        run(session, "FROM t")
    run(session, "BEGIN")
    run(session, "CREATE TABLE t AS SELECT 1 AS a")
    run(session, "CREATE OR REPLACE TABLE t AS SELECT a + 1 AS b FROM t")
    run(session, "DROP TABLE t")
    run(session, "CREATE TABLE t AS SELECT 3 AS c")
    run(session, "COMMIT")
    assert run(other, f"FROM {session.schema}.t") == [(3,)]
    run(session, "BEGIN")
    run(session, "DROP TABLE t")
    run(session, "CREATE TABLE t (d INT)")
    run(session, "COMMIT")
    assert load(session, "t").arrow_schema().names == ["d"]


@pytest.mark.parametrize(
    "forms", [("TABLE", "TABLE IF NOT EXISTS"), ("OR REPLACE TABLE", "OR REPLACE TABLE")]
)
def test_of_several_that_create_a_table_at_once_one_does(
    session: Session, lakehouse: Lakehouse, forms: tuple[str, str]
) -> None:
    outcomes: list[object] = []
    barrier = threading.Barrier(4)

    def create(number: int) -> None:
        own = session_of(lakehouse, "admin")
        barrier.wait()
        try:
            outcomes.append(
                run(own, f"CREATE {forms[number % 2]} {session.schema}.t AS SELECT {number} AS a")
            )
        except TableAlreadyExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert sum(outcome == 1 for outcome in outcomes) == (4 if "REPLACE" in forms[0] else 1)
    assert len(run(session, "FROM t")) == 1


# -- ALTER TABLE -----------------------------------------------------------------------------------


def test_columns_are_added_dropped_renamed_and_widened(session: Session) -> None:
    run(
        session,
        "CREATE TABLE t AS SELECT i::INT AS a, i::FLOAT AS f, i::DECIMAL(5, 2) AS d, "
        "{'x': i::INT, 'y': [{'z': i::INT}]} AS s FROM range(3) r(i)",
    )
    for action in (
        "ADD COLUMN b VARCHAR",
        "ADD IF NOT EXISTS B INT",
        "ADD COLUMN s.w DATE",
        "ADD COLUMN s.y.q INT",
        "RENAME a TO k",
        "ALTER COLUMN k SET DATA TYPE BIGINT",
        "ALTER f TYPE DOUBLE",
        "ALTER d TYPE DECIMAL(20, 2)",
        "ALTER s.x TYPE BIGINT",
        "DROP COLUMN IF EXISTS nothing",
    ):
        run(session, f"ALTER TABLE t {action}")
    assert [(f.name, str(f.type)) for f in load(session, "t").arrow_schema()] == [
        ("k", "int64"),
        ("f", "double"),
        ("d", "decimal128(20, 2)"),
        ("s", "struct<x: int64, y: list<l: struct<z: int32, q: int32>>, w: date32[day]>"),
        ("b", "string"),
    ]
    new = {"x": 1, "y": [{"z": 1, "q": None}], "w": None}
    assert run(session, "SELECT k, f, d::INT, s, b FROM t WHERE k = 1") == [(1, 1.0, 1, new, None)]
    run(session, "CREATE OR REPLACE TEMP TABLE more AS SELECT * FROM t")
    run(session, "ALTER TABLE t DROP COLUMN s.x")
    assert run(session, "SELECT s FROM t WHERE k = 2") == [({"y": [{"z": 2, "q": None}], "w": None},)]
    run(session, "ALTER TABLE t DROP b")
    run(session, "ALTER TABLE t ADD b INT")
    ingest(session, "t", pa.table({"k": [2**40], "b": pa.array([5], pa.int32())}))
    assert run(session, "SELECT k, b FROM t WHERE k > 1 ORDER BY k") == [(2, None), (2**40, 5)]
    run(session, "ALTER TABLE t RENAME COLUMN k TO K")
    assert load(session, "t").arrow_schema().names[0] == "K"


def test_a_field_that_older_files_have_by_another_name_is_refused(session: Session) -> None:
    run(session, "CREATE TABLE t AS SELECT {'x': 1, 'y': 2} AS s")
    run(session, "ALTER TABLE t DROP COLUMN s.x")
    for action in ("ADD COLUMN s.x INT", "RENAME COLUMN s.y TO z", "DROP COLUMN s.y"):
        with pytest.raises((NotSupported, SchemaMismatch)):
            run(session, f"ALTER TABLE t {action}")
        assert run(session, "FROM t") == [({"y": 2},)]


def test_not_null_is_set_only_where_nothing_is_null(session: Session) -> None:
    run(session, "CREATE TABLE t AS SELECT * FROM (VALUES (1, 1), (2, NULL)) v(a, b)")
    with pytest.raises(SchemaMismatch, match="1 rows that are NULL"):
        run(session, "ALTER TABLE t ALTER b SET NOT NULL")
    run(session, "ALTER TABLE t ALTER a SET NOT NULL")
    assert [f.nullable for f in load(session, "t").arrow_schema()] == [False, True]
    with pytest.raises(SchemaMismatch):
        ingest(session, "t", pa.table({"a": pa.array([None], pa.int32()), "b": pa.array([1], pa.int32())}))
    run(session, "ALTER TABLE t ADD PRIMARY KEY (a)")
    assert load(session, "t").primary_key == ("a",)
    with pytest.raises(SchemaMismatch, match="primary key"):
        run(session, "ALTER TABLE t ALTER a DROP NOT NULL")
    run(session, "CREATE TABLE u (a INT NOT NULL)")
    run(session, "ALTER TABLE u ALTER a DROP NOT NULL")
    run(session, "ALTER TABLE u ALTER a SET NOT NULL")


def test_rows_that_come_while_null_is_looked_for_are_seen(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(session, "CREATE TABLE t (a INT)")
    ddl, inner = session.engine.changes._ddl, session.engine.changes._ddl._without_null
    left = [1]

    def racing(*arguments: Any) -> int | None:
        checked = inner(*arguments)
        if left:
            ingest(session, "t", pa.table({"a": pa.array([left.pop()], pa.int32())}))
        return checked

    monkeypatch.setattr(ddl, "_without_null", racing)
    run(session, "ALTER TABLE t ALTER a SET NOT NULL")
    assert not load(session, "t").arrow_schema().field("a").nullable
    run(session, "CREATE TABLE u (a INT)")

    def losing(path: Any, scope: Any, target: Any) -> int | None:
        checked = inner(path, scope, target)
        ingest(session, "u", pa.table({"a": pa.array([None], pa.int32())}))
        return checked

    monkeypatch.setattr(ddl, "_without_null", losing)
    with pytest.raises((CommitConflict, SchemaMismatch)):
        run(session, "ALTER TABLE u ALTER a SET NOT NULL")
    assert load(session, "u").arrow_schema().field("a").nullable


def test_defaults_are_set_and_dropped(session: Session) -> None:
    run(session, "CREATE TABLE t (a INT, b VARCHAR DEFAULT 'x')")
    run(session, "ALTER TABLE t ALTER COLUMN a SET DEFAULT 1 + 1")
    run(session, "ALTER TABLE t ADD COLUMN c DATE DEFAULT current_date() NOT NULL")
    run(session, "ALTER TABLE t RENAME b TO bb")
    assert set(load(session, "t").column_defaults) == {"a", "bb", "c"}
    run(session, "INSERT INTO t (bb) VALUES ('y')")
    run(session, "INSERT INTO t (a) VALUES (5)")
    assert run(session, "SELECT a, bb, c = current_date() FROM t ORDER BY a") == [
        (2, "y", True),
        (5, "x", True),
    ]
    run(session, "DELETE FROM t")
    run(session, "ALTER TABLE t ALTER a DROP DEFAULT")
    run(session, "ALTER TABLE t DROP COLUMN bb")
    assert set(load(session, "t").column_defaults) == {"c"}
    ingest(session, "t", pa.table({"c": pa.array([0], pa.date32())}))
    for action in ("ADD d INT DEFAULT 3", "ADD e INT NOT NULL"):
        with pytest.raises(NotSupported, match="has rows"):
            run(session, f"ALTER TABLE t {action}")
    with pytest.raises(SqlExecutionError):
        run(session, "ALTER TABLE t ALTER a SET DEFAULT 'abc'")


def test_partitions_and_order_change_for_new_files(session: Session) -> None:
    run(session, "CREATE TABLE t (a INT, ts TIMESTAMP) PARTITIONED BY (day(ts))")
    run(session, "ALTER TABLE t SET PARTITIONED BY (month(ts), bucket(4, a))")
    run(session, "ALTER TABLE t SET SORTED BY (a DESC NULLS FIRST)")
    seen = static(session, "t")
    assert [f.name for f in seen.spec().fields] == ["ts_month", "a_bucket_4"]
    assert len(seen.specs()) == 2
    run(session, "ALTER TABLE t SET PARTITIONED BY (day(ts))")
    assert static(session, "t").spec().spec_id == 0
    run(session, "ALTER TABLE t RESET PARTITIONED BY")
    run(session, "ALTER TABLE t ADD COLUMN b INT")
    run(session, "ALTER TABLE t SET SORTED BY (b)")
    with pytest.raises(SchemaMismatch, match="RESET SORTED BY"):
        run(session, "ALTER TABLE t DROP COLUMN b")
    run(session, "ALTER TABLE t RESET SORTED BY")
    run(session, "ALTER TABLE t DROP COLUMN b")
    seen = static(session, "t")
    assert (seen.spec().is_unpartitioned(), seen.sort_order().is_unsorted) == (True, True)
    with pytest.raises(SchemaMismatch, match="partitioned"):
        run(session, "ALTER TABLE t DROP COLUMN ts")


def test_keys_follow_their_columns_or_hold_them(session: Session) -> None:
    run(session, "CREATE TABLE p (id INT PRIMARY KEY, up INT REFERENCES p (id))")
    run(session, "ALTER TABLE p RENAME up TO parent")
    run(session, "ALTER TABLE p RENAME id TO key")
    (key,) = load(session, "p").foreign_keys
    assert (key.columns, key.ref_columns, load(session, "p").primary_key) == (("parent",), ("key",), ("key",))
    run(session, "CREATE TABLE c (p INT, q INT)")
    run(session, "ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p")
    for table, action in (("p", "RENAME key TO k"), ("p", "DROP parent"), ("c", "DROP p"), ("p", "DROP key")):
        with pytest.raises(SchemaMismatch, match="key"):
            run(session, f"ALTER TABLE {table} {action}")
    with pytest.raises(SchemaMismatch, match="already"):
        run(session, "ALTER TABLE p ADD PRIMARY KEY (key)")


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        ("ADD COLUMN A INT", SchemaMismatch, "already"),
        ("ADD COLUMN s.X INT", SchemaMismatch, "already"),
        ("ADD COLUMN a.x INT", SchemaMismatch, "no fields"),
        ("ADD COLUMN zz.x INT", SchemaMismatch, "no column 'zz'"),
        ("ADD COLUMN s.n INT NOT NULL", NotSupported, "NOT NULL"),
        ("ADD COLUMN b INTERVAL", TypeNotStorable, "months"),
        ("ADD COLUMN b INT CHECK (b > 1)", LakehouseError, "CHECK"),
        ("ADD COLUMN b INT REFERENCES t (a)", LakehouseError, "FOREIGN KEY"),
        ("DROP COLUMN zz", SchemaMismatch, "did you mean|no column"),
        ("DROP COLUMN s.zz", SchemaMismatch, "no field"),
        ("DROP COLUMN s.x", SchemaMismatch, "nothing would be left"),
        ("RENAME a TO S", SchemaMismatch, "already"),
        ("RENAME zz TO b", SchemaMismatch, "no column"),
        ("RENAME a TO \"\"", LakehouseError, "."),
        ("ALTER a TYPE VARCHAR", SchemaMismatch, "INTEGER.*cannot become VARCHAR"),
        ("ALTER a TYPE SMALLINT UNIQUE", LakehouseError, "."),
        ("ALTER a TYPE BIGINT USING a + 1", NotSupported, "USING"),
        ("ALTER s TYPE INT", SchemaMismatch, "cannot become"),
        ("ALTER s.x SET NOT NULL", NotSupported, "field within"),
        ("ALTER s.x SET DEFAULT 1", NotSupported, "field within"),
        ("ALTER zz SET NOT NULL", SchemaMismatch, "no column"),
        ("SET PARTITIONED BY (zz)", SchemaMismatch, "no column"),
        ("SET SORTED BY (s)", SchemaMismatch, "sorted"),
        ("ADD UNIQUE (a)", NotSupported, "UNIQUE"),
        ("ADD PRIMARY KEY (a)", SchemaMismatch, "may be NULL"),
        ("SET (x = 1)", NotSupported, "."),
    ],
)  # fmt: skip
def test_what_cannot_be_altered_is_refused_and_changes_nothing(
    session: Session, action: str, error: type[LakehouseError], message: str
) -> None:
    run(session, "CREATE TABLE t (a INT, s STRUCT(x INT))")
    before = load(session, "t").metadata
    with pytest.raises(error, match=message):
        run(session, f"ALTER TABLE t {action}")
    assert load(session, "t").metadata == before


def test_comments(session: Session) -> None:
    run(session, "CREATE TABLE t (a INT, b INT)")
    run(session, "COMMENT ON TABLE t IS 'it''s a table'")
    run(session, f"COMMENT ON COLUMN lake.{session.schema}.T.A IS $$Größe$$")
    table = load(session, "t")
    assert (table.description, dict(table.column_docs)) == ("it's a table", {"a": "Größe"})
    run(session, "COMMENT ON TABLE t IS NULL")
    run(session, "COMMENT ON COLUMN t.a IS NULL")
    table = load(session, "t")
    assert (table.description, dict(table.column_docs)) == (None, {})
    with pytest.raises(SchemaMismatch):
        run(session, "COMMENT ON COLUMN t.zz IS 'x'")
    with pytest.raises(TableNotFound):
        run(session, "COMMENT ON TABLE zz IS 'x'")


# -- who may ---------------------------------------------------------------------------------------


def test_ddl_takes_what_the_grants_say(session: Session, lakehouse: Lakehouse) -> None:
    run(session, "CREATE SCHEMA IF NOT EXISTS shop")
    run(session, "CREATE OR REPLACE TABLE shop.open AS SELECT 1 AS a")
    run(session, "CREATE OR REPLACE TABLE shop.hidden AS SELECT 1 AS a")
    shop, looker, appender = (session_of(lakehouse, role) for role in ("shop", "looker", "appender"))
    run(shop, "CREATE TABLE IF NOT EXISTS shop.mine (a INT)")
    run(appender, "CREATE TABLE IF NOT EXISTS shop.mine (a INT)")
    for changes in (
        "CREATE OR REPLACE TABLE shop.{} (b INT)",
        "ALTER TABLE shop.{} ADD COLUMN b INT",
        "COMMENT ON TABLE shop.{} IS 'x'",
    ):
        with pytest.raises(PermissionDenied):
            run(looker, changes.format("open"))
        with pytest.raises(PermissionDenied):
            run(appender, changes.format("open"))
        # What is hidden looks like what is not there.
        errors = []
        for name in ("hidden", "hnothing"):
            with pytest.raises(LakehouseError) as error:
                run(shop, changes.format(name))
            errors.append((type(error.value), str(error.value).replace(name, "?")))
        assert errors[0] == errors[1]
    for name in ("hidden", "hnothing"):
        with pytest.raises(PermissionDenied):
            run(shop, f"CREATE TABLE shop.{name} (a INT)")
        with pytest.raises(TableNotFound):
            run(shop, f"CREATE TABLE shop.fk (a INT REFERENCES shop.{name} (a))")
        with pytest.raises(TableNotFound):
            run(shop, f"CREATE TABLE shop.copy AS FROM shop.{name}")
        run(shop, f"ALTER TABLE IF EXISTS shop.{name} ADD COLUMN b INT")
    with pytest.raises(PermissionDenied):
        run(shop, "DROP SCHEMA shop CASCADE")
    assert run(session, "FROM shop.hidden") == [(1,)]
    assert run(session, "FROM shop.open") == [(1,)]


def test_a_column_that_access_rules_name_keeps_its_name(session: Session, lakehouse: Lakehouse) -> None:
    run(session, "CREATE TABLE people AS SELECT 'x' AS name, '030' AS phone, 5 AS age")
    for action in ("RENAME phone TO tel", "DROP COLUMN Phone", "RENAME age TO years"):
        with pytest.raises(SchemaMismatch, match="row filter or mask"):
            run(session, f"ALTER TABLE people {action}")
    run(session, "ALTER TABLE people RENAME name TO nick")
    masked = session_of(lakehouse, "masked")
    assert run(masked, f"SELECT nick, length(phone) FROM {session.schema}.people") == [("x", 64)]
    with pytest.raises(PermissionDenied):
        run(masked, f"ALTER TABLE {session.schema}.people ADD COLUMN b INT")


def test_a_schema_is_dropped_with_its_tables(session: Session) -> None:
    run(session, "CREATE TABLE t AS SELECT 1 AS a")
    run(session, "CREATE TABLE u (a INT)")
    schema = session.schema
    run(session, "USE main")
    with pytest.raises(SchemaNotEmpty, match="CASCADE"):
        run(session, f"DROP SCHEMA {schema}")
    run(session, "BEGIN")
    with pytest.raises(TransactionStateError):
        run(session, f"DROP SCHEMA {schema} CASCADE")
    run(session, "ROLLBACK")
    run(session, f"DROP SCHEMA {schema} CASCADE")
    run(session, f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    with pytest.raises(SchemaNotFound):
        run(session, f"FROM {schema}.t")
    run(session, f"CREATE SCHEMA {schema}")
    with pytest.raises(TableNotFound):
        run(session, f"FROM {schema}.t")
