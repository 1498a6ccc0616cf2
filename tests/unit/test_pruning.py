"""Leaving out data files by what manifests tell: never a row less, and files spared where they can be."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

from lakehouse.access.principal import Principal
from lakehouse.catalog.data_files import data_file
from lakehouse.catalog.file_filter import may_match
from lakehouse.catalog.file_statistics import FileStatistics, ManifestStatistics
from lakehouse.catalog.iceberg_catalog import IcebergCatalog
from lakehouse.catalog.iceberg_types import file_schema
from lakehouse.catalog.table import Table
from lakehouse.config import Settings
from lakehouse.engine import binding
from lakehouse.engine.changes import Scope
from lakehouse.engine.pruning import condition_of
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

LONG = "the same sixteen characters and "
_days = st.dates(date(1969, 12, 28), date(1970, 1, 6))
_times = st.datetimes(datetime(2024, 3, 30), datetime(2024, 4, 1))  # noqa: DTZ001
_small = st.integers(-6, 6)
_far = st.integers(-(2**63), 2**63 - 1)
_texts = st.one_of(
    st.text("abz\u00e9\ud7ff\ue000\U0001f600\U0010ffff%_", max_size=4),
    st.builds(lambda end: LONG + end, st.text("ab\U0010ffff", max_size=3)),
    st.builds(lambda end: "\U0010ffff" * 16 + end, st.text("\U0010ffffa", max_size=2)),
)
_reals = st.one_of(
    st.sampled_from(
        [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 0.1, -0.1, 5e-324, 1e308, 2.0**53]
    ),
    st.floats(-4, 4),
)
_decimals = st.decimals(Decimal(-3), Decimal(3), places=2)


def _number(value: Any) -> str:
    return str(value)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# Per type: values of the column, and SQL texts of constants it may be compared with.
_near = st.one_of(
    _small.map(str), _decimals.map(_number), st.floats(-7, 7).map(lambda x: f"{x:.3e}"), _far.map(str)
)
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "int": (IntegerType(), _small, _near),
    "long": (LongType(), st.one_of(_small, _far), _near),
    "float": (FloatType(), _reals.filter(lambda x: not math.isfinite(x) or abs(x) < 1e30), _near),
    "double": (DoubleType(), _reals, st.one_of(_near, _reals.map(lambda x: f"'{x!r}'::DOUBLE"))),
    "decimal": (DecimalType(9, 2), _decimals, _near),
    "wide decimal": (DecimalType(38, 2), _decimals, _near),
    "boolean": (BooleanType(), st.booleans(), st.sampled_from(["true", "false", "1", "'t'"])),
    "string": (StringType(), _texts, _texts.map(_text)),
    "date": (
        DateType(),
        _days,
        st.one_of(
            _days.map(lambda d: f"DATE '{d}'"),
            _days.map(lambda d: f"'{d}'"),
            _days.map(lambda d: f"TIMESTAMP '{d} 10:00:00'"),
            _days.map(lambda d: f"TIMESTAMPTZ '{d} 10:00:00'"),
            _days.map(lambda d: f"CAST('{d}' AS DATE)"),
        ),
    ),
    "timestamp": (
        TimestampType(),
        _times,
        st.one_of(
            _times.map(lambda t: f"'{t}'"),
            _times.map(lambda t: f"TIMESTAMP '{t:%Y-%m-%dT%H:%M:%S}'"),
            _times.map(lambda t: f"DATE '{t.date()}'"),
            _times.map(lambda t: f"'{t.date()}'"),
            _times.map(lambda t: f"TIMESTAMPTZ '{t:%Y-%m-%d %H:%M:%S}+02'"),
        ),
    ),
    "timestamptz": (
        TimestamptzType(),
        _times.map(lambda t: t.replace(tzinfo=UTC)),
        st.one_of(
            _times.map(lambda t: f"'{t}'"),
            _times.map(lambda t: f"'{t}'::TIMESTAMPTZ"),
            _times.map(lambda t: f"TIMESTAMP '{t}'"),
            _times.map(lambda t: f"DATE '{t.date()}'"),
            _times.map(lambda t: f"TIMESTAMPTZ '{t:%Y-%m-%d %H:%M:%S}-03:30'"),
            _times.map(lambda t: f"'{t:%Y-%m-%dT%H:%M:%S}Z'"),
        ),
    ),
}


def _leaf(constants: Any) -> Any:
    operators = st.sampled_from(["=", "<", "<=", ">", ">="])
    return st.one_of(
        st.builds(lambda op, c: f"x {op} {c}", operators, constants),
        st.builds(lambda op, c: f"{c} {op} t.x", operators, constants),
        st.builds(lambda a, b: f"x BETWEEN {a} AND {b}", constants, constants),
        st.builds(
            lambda cs: f"T.X IN ({', '.join(cs)}, NULL)",
            st.one_of(
                st.lists(constants, min_size=1, max_size=3), st.lists(constants, min_size=70, max_size=70)
            ),
        ),
        st.sampled_from(["x IS NULL", "x IS NOT NULL", "NOT x IS NULL", "x = NULL"]),
    )


def _predicates(kind: str) -> Any:
    leaf = _leaf(KINDS[kind][2])
    if kind == "string":
        leaf = st.one_of(
            leaf, _texts.map(lambda p: f"x LIKE {_text(p)}"), _texts.map(lambda p: f"x LIKE {_text(p + '%')}")
        )
    return st.recursive(
        leaf,
        lambda inner: st.builds(
            lambda a, op, b: f"({a} {op} {b})", inner, st.sampled_from(["AND", "OR"]), inner
        ),
        max_leaves=3,
    )


ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Europe/Berlin")


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def _statistics(schema: Schema, files: Sequence[pa.Table]) -> FileStatistics:
    records = []
    for number, file in enumerate(files):
        sink = BytesIO()
        pq.write_table(file, sink, store_decimal_as_integer=True, row_group_size=3)
        records.append(
            data_file(f"file:///{number}", 1, pq.read_metadata(BytesIO(sink.getvalue())), schema, 0)
        )
    return FileStatistics([ManifestStatistics(records[:2]), ManifestStatistics(records[2:])])


def _condition(engine: duckdb.DuckDBPyConnection, predicate: str) -> Any:
    (row,) = engine.execute(
        "SELECT json_serialize_sql($1::VARCHAR)", [f"FROM t WHERE {predicate}"]
    ).fetchall()
    return condition_of(json.loads(row[0])["statements"][0]["node"]["where_clause"], "t")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_that_holds_a_matching_row_is_never_left_out(
    engine: duckdb.DuckDBPyConnection, kind: str, data: st.DataObject
) -> None:
    iceberg, values, _ = KINDS[kind]
    schema = Schema(NestedField(7, "x", iceberg, required=False))
    column = st.lists(st.one_of(st.none(), values), max_size=7)
    layout = file_schema(schema)
    files = [pa.table([pa.array(data.draw(column), layout.field(0).type)], schema=layout) for _ in range(4)]
    predicate = data.draw(_predicates(kind))
    zone = data.draw(st.sampled_from(ZONES))
    condition = _condition(engine, predicate)
    if condition is None:
        return
    kept = may_match(condition, _statistics(schema, files), schema, {})
    engine.execute(f"SET TimeZone = '{zone}'").fetchall()
    for file, keep in zip(files, kept, strict=True):
        engine.register("t", file)
        try:
            found = engine.execute(f"SELECT count(*) FROM t WHERE {predicate}").fetchall()
        except duckdb.Error:
            return  # the constant does not fit the column
        assert keep or not found[0][0]


# -- through the engine ----------------------------------------------------------------------------------

FILES, ROWS = 40, 10
numbers = itertools.count()
_START = datetime(2024, 3, 20)  # noqa: DTZ001


def _rows(file: int) -> pa.Table:
    ids = range(file * ROWS, (file + 1) * ROWS)
    start = datetime(2024, 3, 20, tzinfo=UTC)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": [f"{LONG}{i:05d}" for i in ids],
            "price": pa.array([Decimal(i) / 4 for i in ids], pa.decimal128(12, 2)),
            "real": pa.array([float("nan") if i % 97 == 0 else i / 2 for i in ids], pa.float64()),
            "day": pa.array([date(2024, 1, 1) + timedelta(days=file)] * ROWS),
            "moment": pa.array([start + timedelta(hours=i) for i in ids], pa.timestamp("us", "UTC")),
            "local": pa.array(
                [(start + timedelta(hours=i)).replace(tzinfo=None) for i in ids], pa.timestamp("us")
            ),
            "flag": pa.array([None if file % 3 == 0 else file % 2 == 0] * ROWS, pa.bool_()),
        }
    )


def _add(
    catalog: IcebergCatalog, table: str, rows: pa.Table, mode: WriteMode = WriteMode.CREATE_APPEND
) -> None:
    name = TableName("lake", "main", table)
    commit(catalog, stage(catalog, name, mode, rows.schema, rows.to_batches(), lambda: False))


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lakehouse]:
    """``t`` has forty files; ``evolved`` as many, of three schemas; ``few`` has one."""
    bucket = tmp_path_factory.mktemp("bucket")
    roles = [
        {
            "name": "part",
            "grants": [{"on": "lake.main.*", "row_filter": "id < 300", "masks": {"name": "hash"}}],
        }
    ]
    opened = Lakehouse(Settings.model_validate({"buckets": [{"path": str(bucket)}], "roles": roles}))
    catalog = opened.catalog
    assert isinstance(catalog, IcebergCatalog)
    for file in range(FILES):
        _add(catalog, "t", _rows(file))
        if file in (15, 30):
            _evolve(catalog, file)
        rows = _rows(file)
        if file >= 15:
            rows = rows.rename_columns(["Key" if name == "id" else name for name in rows.column_names])
            rows = rows.append_column("later", pa.array(range(file, file + ROWS), pa.int64()))
        if file >= 30:
            rows = rows.drop_columns(["price"]).append_column("price", pa.array([file] * ROWS, pa.int64()))
        _add(catalog, "evolved", rows)
    _add(catalog, "few", _rows(3))
    yield opened
    opened.close()


def _evolve(catalog: IcebergCatalog, file: int) -> None:
    with catalog.committing("main", "evolved"):
        with catalog.objects.load_table(("main", "evolved")).update_schema() as update:
            if file == 15:
                update.rename_column("id", "Key")
                update.add_column("later", LongType())
            else:
                update.delete_column("price")
        if file == 30:
            with catalog.objects.load_table(("main", "evolved")).update_schema() as update:
                update.add_column("price", LongType())


def _session(lakehouse: Lakehouse, role: str = "admin") -> Session:
    return lakehouse.sessions.get(f"test-{next(numbers)}", Principal("ann", frozenset({role})))


def _run(session: Session, sql: str, parameters: list[Any] | None = None) -> tuple[pa.Table, int]:
    """The rows of a query, and how many files it was given."""
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    transaction = session.sql_transaction
    if analysis.is_update:
        rows = None if parameters is None else [parameters]
        engine.changes.run(analysis, Scope(session, transaction, CallWatch()), rows)
        return pa.table({}), 0
    plan = engine.plan(analysis, session, transaction, parameters)
    given = sum(len(each.files) for each in plan.bindings)
    batches = list(engine.open(plan, session, CallWatch()))
    return pa.Table.from_batches(batches, plan.schema), given


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch, lakehouse: Lakehouse) -> Any:
    """Runs a query with all files and with the needed ones only; gives both results."""

    def both(
        sql: str, parameters: list[Any] | None = None, zone: str = "UTC"
    ) -> tuple[pa.Table, pa.Table, int]:
        session = _session(lakehouse)
        _run(session, f"SET TimeZone = '{zone}'")
        lakehouse.engine._plans.clear()
        with monkeypatch.context() as patch:
            patch.setattr(binding, "PRUNED_ABOVE", 10**9)
            whole, _ = _run(session, sql, parameters)
        lakehouse.engine._plans.clear()
        some, given = _run(session, sql, parameters)
        return whole, some, given

    return both


# Statement, values of its parameters, and the most files that it should be given.
SPARING: list[tuple[str, list[Any] | None, int]] = [
    ("SELECT * FROM t WHERE id = 123", None, 1),
    ("FROM t WHERE id = ?", [123], 1),
    ("FROM t WHERE id IN ($a, $b) AND flag IS NOT NULL", [15, 385], 2),
    ("SELECT id FROM main.t WHERE t.id BETWEEN 95 AND 104", None, 2),
    ("SELECT id FROM lake.main.t WHERE lake.main.t.id > 0 AND id < 10", None, 1),
    ("SELECT x.id FROM t AS x WHERE X.ID >= 390 OR x.id < 5", None, 2),
    (f"FROM t WHERE name = '{LONG}00077'", None, 40),
    ("FROM t WHERE name LIKE 'z%'", None, 1),
    ("FROM t WHERE price BETWEEN 10.25 AND 11.5", None, 2),
    ("FROM t WHERE price = 1e1", None, 1),
    ("FROM t WHERE real BETWEEN 2 AND 3", None, 1),
    ("FROM t WHERE real = 101.5", None, 1),
    ("FROM t WHERE real > 190", None, 40),
    ("FROM t WHERE day = DATE '2024-01-05'", None, 1),
    ("FROM t WHERE day >= ? AND day <= ?::DATE", [date(2024, 1, 5), "2024-01-06"], 2),
    ("FROM t WHERE local >= '2024-03-21' AND local < TIMESTAMP '2024-03-22 00:00:00'", None, 4),
    ("FROM t WHERE moment >= '2024-03-21' AND moment < '2024-03-22'", None, 10),
    ("FROM t WHERE moment = ?", [datetime(2024, 3, 25, 5, tzinfo=timezone(timedelta(hours=5)))], 1),
    ("FROM t WHERE flag IS NULL", None, 14),
    ("FROM t WHERE flag = true", None, 13),
    ("SELECT count(*) FROM t WHERE id < -1", None, 1),
    ("SELECT a.id, b.id FROM t a JOIN t b ON a.id = b.id AND b.id < 15 WHERE a.id > 9", None, 41),
    ("SELECT a.id, b.id FROM t a LEFT JOIN t b ON a.id = b.id + 390 WHERE a.id < 30 ORDER BY ALL", None, 43),
    ("SELECT a.id, b.id FROM t a LEFT JOIN t b ON a.id = b.id WHERE b.id IS NULL", None, 80),
    ("SELECT a.id, b.id FROM t a FULL JOIN t b ON a.id = b.id + 5 WHERE a.id < 9", None, 80),
    ("SELECT b.id FROM t a RIGHT JOIN t b ON a.id = b.id WHERE b.id = 7 AND a.id IS NULL", None, 41),
    ("SELECT a.id FROM t a ANTI JOIN t b ON a.id = b.id + 5 WHERE a.id < 20", None, 42),
    ("SELECT id, a.name FROM t a JOIN few b USING (id) WHERE id = 33", None, 41),
    ("SELECT id, a.name FROM t a JOIN few b USING (id) WHERE a.id = 33", None, 2),
    ("SELECT a.id FROM t a NATURAL JOIN few b WHERE id = 33", None, 41),
    ("SELECT a.id, b.id FROM t a POSITIONAL JOIN t b WHERE a.id = 17", None, 80),
    ("SELECT a.id, b.id FROM t a ASOF JOIN few b ON a.id >= b.id WHERE a.id < 50", None, 41),
    ("WITH c AS (SELECT * FROM t WHERE id < 30) SELECT * FROM c WHERE id > 25", None, 3),
    ("SELECT * FROM (FROM t WHERE id = 5) UNION ALL FROM t WHERE id = 395", None, 2),
    (
        "SELECT id, (SELECT max(id) FROM t i WHERE i.id < 20 AND i.id < o.id) AS n FROM t o WHERE id < 12",
        None,
        4,
    ),
    ("SELECT id, (SELECT max(id) FROM t i WHERE i.id < 20 AND i.id < o.id) FROM t o WHERE id < 12", None, 42),
    ("SELECT id FROM few o WHERE EXISTS (SELECT 1 FROM t WHERE t.id = o.id AND o.id < 35)", None, 41),
    ("SELECT id + 300 AS id FROM t WHERE id = 310", None, 1),
    ("SELECT sum(id) FROM t WHERE id >= 380 GROUP BY day HAVING count(*) > 1", None, 2),
    ("SELECT row_number() OVER (ORDER BY id) FROM t WHERE id >= 395", None, 1),
    ("SELECT n FROM t AS y(n, id) WHERE n = 5", None, 40),
    ("FROM t WHERE id + 0 = 5", None, 40),
    ("FROM t WHERE NOT id > 5", None, 40),
    ("FROM t WHERE id = 5 OR upper(name) = 'X'", None, 40),
    ("FROM t LIMIT 25", None, 3),
    ("SELECT id, name FROM t LIMIT 5 OFFSET 17", None, 3),
    ("FROM t ORDER BY id DESC LIMIT 5", None, 40),
    ("SELECT DISTINCT flag FROM t ORDER BY ALL LIMIT 5", None, 40),
    ("SELECT count(*) FROM t LIMIT 5", None, 40),
    ("SELECT * FROM t WHERE flag LIMIT 5", None, 40),
    ("FROM t LIMIT 0", None, 1),
    ("PIVOT (FROM t WHERE id < 30) ON flag USING count(*)", None, 3),
    ("SUMMARIZE SELECT id FROM t WHERE id < 30", None, 3),
    ("FROM evolved WHERE Key = 155", None, 1),
    ("FROM evolved WHERE KEY = 345", None, 1),
    ("FROM evolved WHERE price IS NULL", None, 30),
    ("FROM evolved WHERE price = 35", None, 31),
    ("FROM evolved WHERE price IS NOT NULL", None, 40),
    ("FROM evolved WHERE later IS NULL", None, 15),
    ("FROM evolved WHERE later = 38", None, 25),
    ("FROM evolved WHERE later IS NULL AND key < 20", None, 2),
]


def _sorted(rows: pa.Table) -> list[str]:
    return sorted(map(str, zip(*(column.to_pylist() for column in rows.columns), strict=True)))


@pytest.mark.parametrize(("sql", "parameters", "most"), SPARING, ids=[case[0] for case in SPARING])
def test_a_statement_gives_the_same_from_the_files_that_it_needs(
    everything: Any, sql: str, parameters: list[Any] | None, most: int
) -> None:
    whole, some, given = everything(sql, parameters)
    assert some.schema == whole.schema
    assert _sorted(some) == _sorted(whole)
    assert given <= most


@pytest.mark.parametrize("zone", ZONES)
def test_what_a_date_means_in_the_zone_of_a_session_spares_no_row(everything: Any, zone: str) -> None:
    rng = random.Random(5)
    for _ in range(12):
        moment = _START + timedelta(minutes=rng.randrange(60 * 400))
        operator = rng.choice(["=", "<", ">=", ">"])
        literal = rng.choice(
            [f"'{moment}'", f"DATE '{moment.date()}'", f"TIMESTAMP '{moment:%Y-%m-%d %H:00:00}'"]
        )
        for column in ("moment", "local"):
            whole, some, _ = everything(f"SELECT id FROM t WHERE {column} {operator} {literal}", zone=zone)
            assert some.sort_by("id") == whole.sort_by("id")


def test_a_plan_that_is_used_again_reads_the_files_for_its_own_parameters(lakehouse: Lakehouse) -> None:
    session = _session(lakehouse)
    for wanted in (5, 395, 395, 200, -1, 5):
        found, given = _run(session, "SELECT id FROM t WHERE id = ?", [wanted])
        assert found["id"].to_pylist() == ([wanted] if wanted >= 0 else [])
        assert given == 1
    found, given = _run(session, "SELECT count(*) AS n FROM t WHERE id < ?", [10**6])
    assert (found["n"].to_pylist(), given) == ([400], 40)
    found, given = _run(session, "SELECT count(*) AS n FROM t WHERE id < ?", [15])
    assert (found["n"].to_pylist(), given) == ([15], 2)


def test_rows_that_are_added_are_found_by_a_statement_that_was_run_before(lakehouse: Lakehouse) -> None:
    session = _session(lakehouse)
    for rows in range(1, 4):
        sql = "SELECT count(*) AS n FROM growing WHERE id = 7"
        if rows == 1:
            for file in range(33):
                _add(lakehouse.catalog, "growing", _rows(file).slice(0, 8))  # type: ignore[arg-type]
        else:
            _add(lakehouse.catalog, "growing", _rows(0))  # type: ignore[arg-type]
        found, given = _run(session, sql)
        assert (found["n"].to_pylist(), given) == ([rows], rows)


def test_a_transaction_reads_its_own_rows_beside_the_files_that_it_needs(lakehouse: Lakehouse) -> None:
    session = _session(lakehouse)
    _run(session, "BEGIN")
    transaction = session.sql_transaction
    rows = _rows(0).set_column(0, "id", pa.array([77_000] * ROWS, pa.int64()))
    scope = Scope(session, transaction, CallWatch())
    name = TableName("lake", "main", "t")
    lakehouse.engine.changes.ingest(scope, name, WriteMode.APPEND, rows.schema, rows.to_batches())
    found, given = _run(session, "SELECT count(*) AS n FROM t WHERE id = 77000")
    assert (found["n"].to_pylist(), given) == ([ROWS], 1)
    assert _run(session, "SELECT id FROM t WHERE id = 8")[0]["id"].to_pylist() == [8]
    _run(session, "ROLLBACK")
    assert _run(session, "SELECT id FROM t WHERE id = 77000")[0].num_rows == 0


def test_time_travel_reads_the_files_of_its_snapshot(lakehouse: Lakehouse) -> None:
    table = lakehouse.catalog.load("main", "evolved")
    versions = [snapshot.snapshot_id for snapshot in table.snapshots()]
    found, given = _run(
        _session(lakehouse), f"SELECT key FROM evolved AT (VERSION => {versions[36]}) WHERE key = 15"
    )
    assert (found.num_rows, given) == (1, 1)
    early = f"SELECT count(*) AS n FROM evolved AT (VERSION => {versions[36]}) WHERE key >= 370"
    assert _run(_session(lakehouse), early)[0]["n"].to_pylist() == [0]


def test_what_is_kept_as_text_reads_every_file(lakehouse: Lakehouse) -> None:
    session = _session(lakehouse)
    _run(session, "CREATE TEMP VIEW v AS SELECT * FROM t WHERE id < 15")
    _run(session, "CREATE TEMP TABLE c AS SELECT * FROM t WHERE id < 15")
    assert _run(session, "FROM v")[0].num_rows == _run(session, "FROM c")[0].num_rows == 15
    assert _run(session, "SELECT count(*) AS n FROM t, v WHERE t.id = 300 AND v.id = 3")[0][
        "n"
    ].to_pylist() == [1]


def test_part_of_a_table_is_read_from_every_file(lakehouse: Lakehouse) -> None:
    session = _session(lakehouse, "part")
    found, given = _run(session, "SELECT id FROM t WHERE id IN (5, 399)")
    assert (found["id"].to_pylist(), given) == ([5], FILES)


def test_the_files_for_a_condition_given_as_text(lakehouse: Lakehouse) -> None:
    table: Table = lakehouse.catalog.load("main", "t")
    matching = lakehouse.engine.gate.files_matching
    assert len(matching(table, "x.id = 5 AND name > 'a'", "x")) == 1
    assert len(matching(table, "id = $n", "t", {"n": 5})) == 1
    assert len(matching(table, "y.id = 5", "x")) == FILES
    assert len(matching(table, "x.id = 5 OR random() > 2", "x")) == FILES
    assert len(matching(table, "x.id IN (SELECT 5)", "x")) == FILES


# Statement, rows of its parameters, and the ids of the rows that it changes.
CHANGES: list[tuple[str, list[list[Any]] | None, set[int]]] = [
    ("DELETE FROM t WHERE id = 25", None, {25}),
    ("DELETE FROM t AS d WHERE d.id BETWEEN 19 AND 21 AND d.flag IS NOT NULL", None, {19, 20, 21}),
    ("UPDATE t SET id = -1 WHERE lake.main.t.id = 25 RETURNING name", None, {25}),
    ("UPDATE main.t SET id = -1 WHERE id = ?", [[12], [28], [-5]], {12, 28}),
    ("UPDATE t SET id = -1 WHERE id IN (SELECT id FROM few) AND id < 0", None, set()),
    ("WITH c AS (SELECT 25 AS n) DELETE FROM t USING c WHERE n = t.id AND id < 29", None, {25}),
    ("UPDATE t SET name = 'x' WHERE id < 0 AND random() < 2", None, set()),
]


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
@pytest.mark.parametrize(("sql", "rows", "changed"), CHANGES, ids=[case[0] for case in CHANGES])
def test_a_change_reads_no_file_that_cannot_have_such_rows(
    lakehouse: Lakehouse, sql: str, rows: list[list[Any]] | None, changed: set[int]
) -> None:
    files = lakehouse.catalog.load("main", "t").files()
    needed = {0, 1, 2} if "random" not in sql else set(range(FILES))
    spared = [Path(file.path) for number, file in enumerate(files) if number not in needed]
    session, engine = _session(lakehouse), lakehouse.engine
    _run(session, "BEGIN")
    transaction, analysis = session.sql_transaction, engine.gate.analyse(sql)
    assert transaction is not None
    try:
        for path in spared:
            path.rename(path.with_suffix(".away"))
        count, _ = engine.changes.modify(analysis, Scope(session, transaction, CallWatch()), rows)
    finally:
        for path in spared:
            path.with_suffix(".away").rename(path)
    assert count == len(changed)
    kept = {file.path for file in transaction.load(TableName("lake", "main", "t")).files()}
    gone = {number for number, file in enumerate(files) if file.path not in kept}
    assert gone == {key // ROWS for key in changed}
    left, _ = _run(session, "SELECT id FROM t WHERE id >= 0 ORDER BY id")
    assert left["id"].to_pylist() == sorted(set(range(FILES * ROWS)) - changed)
    _run(session, "ROLLBACK")


def test_columns_that_a_join_merges_say_nothing_of_the_rows_to_be_changed(lakehouse: Lakehouse) -> None:
    session = _session(lakehouse)
    _run(session, "BEGIN")
    sql = "DELETE FROM t USING few a JOIN few b USING (id) WHERE id = 33 AND t.id = a.id + 300"
    scope = Scope(session, session.sql_transaction, CallWatch())
    assert lakehouse.engine.changes.run(lakehouse.engine.gate.analyse(sql), scope) == 1
    _run(session, "ROLLBACK")


def test_files_without_statistics_are_read(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    schema = Schema(NestedField(1, "x", LongType(), required=False))
    rows = pa.table({"x": pa.array([1, 2], pa.int64())}, schema=file_schema(schema))
    sink = tmp_path / "x.parquet"
    pq.write_table(rows, sink, write_statistics=False)
    record = data_file("file:///x", 1, pq.read_metadata(sink), schema, 0)
    statistics = FileStatistics([ManifestStatistics([record])])
    for predicate in ("x = 9", "x IS NULL", "x IS NOT NULL", "x < 0", "x IN (7, 8)"):
        assert may_match(_condition(engine, predicate), statistics, schema, {}).all()
