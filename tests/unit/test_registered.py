"""Parquet objects of others, registered where they are: read as tables, never written, never wrong."""

from __future__ import annotations

import datetime as dt
import decimal
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from registered import open_lake, parquet, put, register, run, session_of
from s3 import S3, start_s3

from lakehouse.config import Settings
from lakehouse.datasets.registered_catalog import registered_datasets
from lakehouse.engine.binding import PRUNED_ABOVE
from lakehouse.engine.running import CallWatch
from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    SchemaMismatch,
    TableAlreadyExists,
    TableNotFound,
    TransactionStateError,
)
from lakehouse.runtime import Lakehouse

DECIMAL = decimal.Decimal


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lakehouse]:
    opened = open_lake(tmp_path, request.getfixturevalue("s3") if request.param == "s3" else None)
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Lakehouse]:
    opened = open_lake(tmp_path)
    yield opened
    opened.close()


def test_objects_of_any_bucket_are_read_as_one_table(lake: Lakehouse) -> None:
    data, session = lake.buckets["data"], session_of(lake)
    put(data, "t/1.parquet", {"a": pa.array([1, 2], pa.int32()), "name": ["x", "größe"]})
    put(data, "t/deep/2.parquet", {"name": ["y"], "a": [2**40], "added": [DECIMAL("1.50")]})
    put(data, "t/_SUCCESS/3.parquet", {"other": [1]})
    data.put("t/_marker", b"")
    data.put("t/notes.txt", b"no rows")
    before = {o.key: (o.size_bytes, o.modified_at) for o in data.objects("t")}
    manifest = register(lake, description="what came", owner="ann", tags=("b", "a", "b"))
    assert (manifest.rows, manifest.object_count, manifest.version) == (3, 2, 1)
    assert [(o.key, o.rows) for o in manifest.objects] == [("t/1.parquet", 2), ("t/deep/2.parquet", 1)]
    assert [(c.name, c.type, c.nulls, c.minimum, c.maximum) for c in manifest.columns] == [
        ("a", "BIGINT", 0, "1", str(2**40)),
        ("name", "VARCHAR", 0, "größe", "y"),
        ("added", "DECIMAL(3,2)", 2, "1.50", "1.50"),
    ]
    rows = [(1, "x", None), (2, "größe", None), (2**40, "y", DECIMAL("1.50"))]
    assert run(session, "FROM registered.raw.t ORDER BY a") == rows
    assert run(session, "SELECT count(*), count(added) FROM registered.RAW.T WHERE a > 1") == [(2, 1)]
    assert run(session, "SELECT name FROM registered.raw.t WHERE a = ?", [2]) == [("größe",)]
    plan = "\n".join(row[1] for row in run(session, "EXPLAIN SELECT a FROM registered.raw.t WHERE a > 5"))
    assert "a > 5" in plan
    assert "name" not in plan
    run(session, "CREATE SCHEMA s")
    run(session, "CREATE TABLE s.copy AS FROM registered.raw.t")
    assert run(session, "SELECT count(*) FROM s.copy JOIN registered.raw.t USING (a, name)") == [(3,)]
    assert {o.key: (o.size_bytes, o.modified_at) for o in data.objects("t")} == before


TYPES: dict[str, tuple[pa.Array, str, Any]] = {
    "tiny": (pa.array([200], pa.uint8()), "INTEGER", 200),
    "huge": (pa.array([2**64 - 1], pa.uint64()), "DECIMAL(20,0)", DECIMAL(2**64 - 1)),
    "half": (pa.array([1.5], pa.float16()), "FLOAT", 1.5),
    "nano": (
        pa.array([1_000_000_001_000], pa.timestamp("ns")),
        "TIMESTAMP",
        dt.datetime(1970, 1, 1, 0, 16, 40, 1),  # noqa: DTZ001
    ),
    "zoned": (
        pa.array([5], pa.timestamp("ms", "Europe/Berlin")),
        "TIMESTAMP WITH TIME ZONE",
        dt.datetime(1970, 1, 1, 0, 0, 0, 5000, dt.UTC),
    ),
    "day": (pa.array([3], pa.date32()), "DATE", dt.date(1970, 1, 4)),
    "clock": (pa.array([3_000], pa.time32("ms")), "TIME", dt.time(0, 0, 3)),
    "money": (pa.array([DECIMAL("-12.340")], pa.decimal128(30, 3)), "DECIMAL(30,3)", DECIMAL("-12.340")),
    "word": (pa.array(["é"]).dictionary_encode(), "VARCHAR", "é"),
    "raw": (pa.array([b"\xff\x00"]), "BLOB", b"\xff\x00"),
    "none": (pa.nulls(1), "VARCHAR", None),
    "fixed": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "INTEGER[]", [1, 2]),
    'we"ird, (name)': (
        pa.array(
            [[{"in, ner": 1, 'q"': [("k", None)]}]],
            pa.list_(pa.struct([("in, ner", pa.int64()), ('q"', pa.map_(pa.string(), pa.date32()))])),
        ),
        'STRUCT("in, ner" BIGINT, "q""" MAP(VARCHAR, DATE))[]',
        [{"in, ner": 1, 'q"': [("k", None)]}],
    ),
}


def test_every_type_that_a_table_can_hold_is_read_right(local: Lakehouse) -> None:
    put(
        local.buckets["data"], "t/1.parquet", pa.table({name: array for name, (array, _, _) in TYPES.items()})
    )
    put(local.buckets["data"], "t/2.parquet", {"day": pa.array([9], pa.date32())})
    manifest = register(local)
    assert {c.name: c.type for c in manifest.columns} == {name: kind for name, (_, kind, _) in TYPES.items()}
    first = run(session_of(local), "FROM registered.raw.t ORDER BY day LIMIT 1")[0]
    assert dict(zip(TYPES, first, strict=True)) == {name: value for name, (_, _, value) in TYPES.items()}
    table = local.registered.load("raw", "t")
    plan = session_of(local).engine.plan(
        local.engine.gate.analyse("FROM registered.raw.t"), session_of(local), None
    )
    assert table.arrow_schema().equals(plan.schema)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": [1]}, {"a": ["x"]}),
        ({"a": [DECIMAL("1.5")]}, {"a": [DECIMAL("1.55")]}),
        ({"a": [{"x": 1}]}, {"a": [{"x": "y"}]}),
        ({"a": [dt.date(2020, 1, 1)]}, {"a": [dt.datetime(2020, 1, 1)]}),  # noqa: DTZ001
    ],
)
def test_objects_whose_columns_do_not_fit_are_refused(local: Lakehouse, one: Any, other: Any) -> None:
    put(local.buckets["data"], "t/1.parquet", one)
    put(local.buckets["data"], "t/2.parquet", other)
    with pytest.raises(SchemaMismatch, match=r"'a' is .* in object 't/2.parquet' .*, but .* 't/1.parquet'"):
        register(local)
    assert not list(registered_datasets(local.manifests))


def test_partitions_in_keys_are_columns(lake: Lakehouse) -> None:
    data, session = lake.buckets["data"], session_of(lake)
    for year, region, day in [(2025, "eu", "2026-01-01"), (2026, "u s", "2026-01-02"), (2026, "ü%2F", NONE)]:
        put(data, f"k=0/t/year={year}/region={region}/day={day}/o.parquet", {"a": [year], "k": [year * 2]})
    manifest = register(lake, prefix="k=0/t/")
    assert [(c.name, c.type, c.size_bytes is None) for c in manifest.columns] == [
        ("a", "BIGINT", False),
        ("k", "BIGINT", False),
        ("year", "BIGINT", True),
        ("region", "VARCHAR", True),
        ("day", "DATE", True),
    ]
    assert run(session, "SELECT a, k, year, region, day FROM registered.raw.t ORDER BY ALL") == [
        (2025, 4050, 2025, "eu", dt.date(2026, 1, 1)),
        (2026, 4052, 2026, "u s", dt.date(2026, 1, 2)),
        (2026, 4052, 2026, "ü/", None),
    ]
    sql = "SELECT region FROM registered.raw.t WHERE year = 2026 AND day IS NOT NULL"
    assert run(session, sql) == [("u s",)]
    assert run(session, "SELECT count(*) FROM registered.raw.t WHERE region = 'eu'") == [(1,)]


NONE = "__HIVE_DEFAULT_PARTITION__"


def test_an_object_that_was_replaced_is_never_read_as_the_one_that_was_registered(lake: Lakehouse) -> None:
    data, session, dataset_id = lake.buckets["data"], session_of(lake), ""
    for number in range(5):
        put(data, "t/1.parquet", {"a": [number] * (number + 1)})
        put(data, "t/2.parquet", {"a": [number]})
        if number:
            lake.cache.clear()
            with pytest.raises(ObjectChanged, match=r"'t/[12].parquet' of bucket 'data'"):
                run(session, "SELECT count(*), min(a), max(a) FROM registered.raw.t")
            lake.manifests.change(dataset_id, lambda old: replace(old, dropped=True))
        dataset_id = register(lake).dataset_id
        assert run(session, "SELECT count(*), min(a), max(a) FROM registered.raw.t") == [
            (number + 2, number, number)
        ]
    data.delete("t/2.parquet")
    lake.cache.clear()
    with pytest.raises(ObjectNotFound, match=r"t/2.parquet"):
        run(session, "FROM registered.raw.t")


def test_an_object_that_is_replaced_while_it_is_read_is_noticed_at_the_end(local: Lakehouse) -> None:
    data, session = local.buckets["data"], session_of(local)
    for number in range(3):
        put(data, f"t/{number}.parquet", {"a": list(range(500_000))})
    register(local)
    engine = local.engine
    plan = engine.plan(engine.gate.analyse("FROM registered.raw.t"), session, None)
    batches = engine.open(plan, session, CallWatch())
    next(iter(batches))
    put(data, "t/2.parquet", {"a": [-1]})
    with pytest.raises(ObjectChanged, match=r"'t/2.parquet'"):
        list(batches)


def test_a_statement_opens_only_the_objects_that_can_hold_what_it_asks_for(lake: Lakehouse) -> None:
    data, session = lake.buckets["data"], session_of(lake)
    for number in range(PRUNED_ABOVE + 8):
        put(data, f"t/part={number % 2}/{number:02}.parquet", {"a": [number, number + 0.5], "b": ["x", None]})
    register(lake)
    engine, before = lake.engine, lake.cache.statistics().objects
    for condition, expected in [("a = 7", 1), ("a BETWEEN 3 AND 4.6", 2), ("part = 1 AND a < 8", 4)]:
        sql = f"SELECT * FROM registered.raw.t WHERE {condition}"
        plan = engine.plan(engine.gate.analyse(sql), session, None)
        assert max(len(binding.files) for binding in plan.bindings) == expected
        assert len(run(session, sql)) >= 1
    remote = 0 if data.is_local else 6
    assert lake.cache.statistics().objects - before <= remote


def test_one_dataset_that_cannot_be_read_is_in_the_way_of_no_other(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    put(lake.buckets["data"], "t/1.parquet", {"a": [1]})
    put(lake.buckets.primary, "mine/1.parquet", {"a": [2]})
    register(lake)
    register(lake, "raw.mine", "mine", bucket="primary")
    run(session_of(lake), "CREATE TABLE main.own AS SELECT 1 AS a")
    put(lake.buckets["data"], "t/1.parquet", {"a": [3, 4]})
    assert len(run(session_of(lake), "FROM system.files")) == 3
    lake.close()
    lake = open_lake(tmp_path, buckets=[{"name": "primary", "path": str(tmp_path / "primary")}])
    session = session_of(lake)
    try:
        with pytest.raises(NotSupported, match="in bucket 'data', which is not configured"):
            run(session, "FROM registered.raw.t")
        assert run(session, "SELECT a FROM registered.raw.mine") == [(2,)]
        for sql in (
            "SELECT table_name FROM information_schema.columns WHERE table_schema IN ('raw', 'main')",
            "SELECT table_name FROM system.snapshots",
            "SELECT table_name FROM system.datasets",
        ):
            assert sorted(run(session, sql)) == [("mine",), ("own",)]
        assert {row[2] for row in run(session, "SHOW ALL TABLES")} >= {"mine", "own"}
        done, _ = lake.resync.verify(None, lambda _: True, lambda: None, lambda *_: None)
        assert [(str(each.name), each.findings[0].problem) for each in done] == [
            ("registered.raw.t", "unreadable")
        ]
    finally:
        lake.close()


def test_of_two_servers_that_register_one_name_one_does(tmp_path: Path) -> None:
    lakes = [open_lake(tmp_path, datasets={"index_refresh_ms": 0}) for _ in range(2)]
    for number in range(2):
        put(lakes[0].buckets["data"], f"t{number}/1.parquet", {"a": [number]})

    def attempt(number: int) -> bool:
        try:
            register(lakes[number], prefix=f"t{number}")
        except TableAlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(attempt, range(2)))
    assert sorted(done) == [False, True]
    for each in lakes:
        assert run(session_of(each), "FROM registered.raw.t") == [(done.index(True),)]
        each.close()


def test_personal_data_is_found_and_its_values_are_not_kept(local: Lakehouse) -> None:
    mails = [f"person{number}@example.org" for number in range(50)]
    put(local.buckets["data"], "t/1.parquet", {"id": list(range(50)), "mail": mails})
    by_name = {column.name: column for column in register(local).columns}
    assert [each.kind for each in by_name["mail"].sensitivity] == ["email"]
    assert (by_name["mail"].minimum, by_name["mail"].maximum) == (None, None)
    assert (by_name["id"].minimum, by_name["id"].maximum) == ("0", "49")


WRITES = [
    "INSERT INTO registered.raw.t VALUES (1)",
    "UPDATE registered.raw.t SET a = 1",
    "DELETE FROM registered.raw.t",
    "MERGE INTO registered.raw.t USING (SELECT 1 AS a) s ON (s.a = t.a) WHEN MATCHED THEN DELETE",
    "TRUNCATE registered.raw.t",
    "ALTER TABLE registered.raw.t ADD COLUMN b INTEGER",
    "ALTER TABLE registered.raw.t RENAME TO u",
    "DROP TABLE registered.raw.t",
    "DROP SCHEMA registered.raw CASCADE",
    "CREATE TABLE registered.raw.u (a INTEGER)",
    "CREATE OR REPLACE TABLE registered.raw.t AS SELECT 1 AS a",
    "CREATE VIEW registered.raw.v AS SELECT 1 AS a",
    "CREATE SCHEMA registered.other",
    "COMMENT ON TABLE registered.raw.t IS 'mine'",
    "COMMENT ON COLUMN registered.raw.t.a IS 'mine'",
]


@pytest.mark.parametrize("sql", WRITES)
@pytest.mark.parametrize("begin", [False, True])
def test_no_statement_writes_a_registered_dataset(local: Lakehouse, sql: str, begin: bool) -> None:
    data, session = local.buckets["data"], session_of(local)
    put(data, "t/1.parquet", {"a": [1]})
    register(local)
    if begin:
        run(session, "BEGIN")
    with pytest.raises((NotSupported, TransactionStateError) if begin else NotSupported):
        run(session, sql)
    if begin:
        run(session, "ROLLBACK")
    assert run(session, "FROM registered.raw.t") == [(1,)]
    assert [o.key for o in data.objects("t")] == ["t/1.parquet"]


def test_the_catalog_is_shown_where_something_is_in_it_for_the_principal(local: Lakehouse) -> None:
    ann, european, nobody = (session_of(local, role) for role in ("admin", "europe", "nobody"))
    assert "registered" not in ann.lakes.names
    put(local.buckets["data"], "t/1.parquet", {"a": [1, 5]})
    register(local)
    assert "registered" in ann.lakes.names
    assert "registered" in european.lakes.names
    assert "registered" not in nobody.lakes.names
    listed = "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'registered'"
    assert run(ann, listed) == run(european, listed) == [("t",)]
    assert run(nobody, listed) == []
    assert run(european, "SELECT a FROM registered.raw.t") == [(1,)]
    with pytest.raises(LakehouseError, match="does not exist"):
        run(nobody, "FROM registered.raw.t")
    run(ann, "USE registered.raw")
    assert run(ann, "SELECT count(*) FROM t") == [(2,)]


def test_what_cannot_be_registered_is_refused_and_leaves_nothing(local: Lakehouse) -> None:
    data = local.buckets["data"]
    session = session_of(local)
    run(session, "CREATE SCHEMA s")
    run(session, "CREATE TABLE s.t AS SELECT 1 AS a")
    put(data, "good/1.parquet", {"a": [1]})
    put(data, "bad/1.parquet", {"a": [1]})
    data.put("bad/2.parquet", parquet({"a": [1]})[:-5])
    put(data, "mixed/year=1/1.parquet", {"a": [1]})
    put(data, "mixed/1.parquet", {"a": [1]})
    put(data, "twice/1.parquet", pa.table([[1], [2]], names=["a", "A"]))
    put(data, "span/1.parquet", {"a": pa.array([1], pa.duration("s"))})
    for prefix, bucket, kind, told in [
        ("good", "nowhere", InvalidRequest, "no bucket 'nowhere'"),
        ("goo", "data", InvalidRequest, "no Parquet objects"),
        ("", "data", InvalidRequest, "prefix"),
        ("a/../b", "data", InvalidRequest, "prefix"),
        ("bad", "data", SchemaMismatch, r"'bad/2.parquet' .* \(truncated\)"),
        ("mixed", "data", SchemaMismatch, "year"),
        ("twice", "data", SchemaMismatch, "'twice/1.parquet' .*two columns of the same name"),
        ("span", "data", LakehouseError, "duration"),
        ("warehouse", "primary", InvalidRequest, "tables of the lake"),
        ("warehouse/s/t/data", "primary", InvalidRequest, "tables of the lake"),
        ("_catalog/manifests", "primary", InvalidRequest, "its own objects"),
    ]:
        with pytest.raises(kind, match=told):
            register(local, prefix=prefix, bucket=bucket)
    assert not list(registered_datasets(local.manifests))
    assert list(local.buckets.primary.objects("_catalog/registered")) == []
    register(local, prefix="good")
    with pytest.raises(TableAlreadyExists, match=r"'registered.RAW.T' is registered already"):
        register(local, "RAW.T", "good")
    with pytest.raises(TableNotFound, match="did you mean 't'"):
        local.registered.load("raw", "t1")


def test_no_configured_catalog_takes_the_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="catalog of registered Parquet"):
        Settings.model_validate({"catalogs": [{"name": "Registered", "warehouse": "w"}]})
