"""What GetDbSchemas, GetTables and the key commands find, by which names and patterns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flight_server.context import CallContext
from flight_server.handlers import keys, metadata
from flight_server.handlers.metadata import matcher
from flight_server.protocol.commands import (
    GetCatalogs,
    GetCrossReference,
    GetDbSchemas,
    GetExportedKeys,
    GetImportedKeys,
    GetPrimaryKeys,
    GetTables,
    GetTableTypes,
)
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import TableNotFound
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.runtime import Lakehouse
from lakehouse.types import ForeignKey, TableName

HANDLERS = {**metadata.query_handlers(), **keys.query_handlers()}
PERSON = pa.schema(
    [pa.field("id", pa.int64(), False), pa.field("part", pa.int32(), False), ("name", pa.string())]
)
VISIT = pa.schema([pa.field("nr", pa.int64(), False), ("person_id", pa.int64()), ("person_part", pa.int32())])
EVERYTHING = pa.schema(
    [
        ("b", pa.bool_()),
        ("i", pa.int32()),
        ("d", pa.decimal128(9, 2)),
        ("s", pa.string()),
        ("t", pa.timestamp("us")),
        ("tz", pa.timestamp("us", "UTC")),
        ("u", pa.uuid()),
        ("l", pa.list_(pa.int64())),
        ("st", pa.struct([("x", pa.int32()), ("y z", pa.string())])),
    ]
)


def create(lakehouse: Lakehouse, schema: str, table: str, columns: pa.Schema = PERSON) -> None:
    lakehouse.catalog.create_schema(schema, if_not_exists=True)
    name = TableName(lakehouse.catalog.name, schema, table)
    commit(
        lakehouse.catalog, stage(lakehouse.catalog, name, WriteMode.CREATE, columns, iter(()), lambda: False)
    )


def configured(bucket: Path) -> Settings:
    return Settings.model_validate({"buckets": [{"path": str(bucket)}]})


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lakehouse]:
    opened = Lakehouse(configured(tmp_path_factory.mktemp("bucket")))
    for table in ("orders_1", "ordersX1", "Mixed Case", "per%cent", "back\\slash", "ünï"):
        create(opened, "shop", table)
    create(opened, "main", "everything", EVERYTHING)
    opened.catalog.describe_table("main", "everything", None, {"i": "a number"})
    create(opened, "hr", "person")
    create(opened, "hr", "visit", VISIT)
    create(opened, "archive", "visit", VISIT)
    opened.catalog.declare_keys("hr", "person", ["id", "part"], [])
    to_person = ForeignKey("visit_person", ("person_id", "person_part"), "hr", "person", ("id", "part"))
    unnamed = ForeignKey("", ("person_id",), "HR", "PERSON", ("id",))
    opened.catalog.declare_keys("hr", "visit", ["nr"], [to_person])
    opened.catalog.declare_keys("archive", "visit", ["nr"], [unnamed])
    yield opened
    opened.close()


@pytest.fixture
def ctx(lakehouse: Lakehouse) -> Iterator[CallContext]:
    session = lakehouse.sessions.get("test", lakehouse.anonymous)
    yield CallContext(lakehouse, session)
    lakehouse.sessions.close(session)


def ask(ctx: CallContext, command: Any) -> list[dict[str, Any]]:
    """The rows of a command; also checks that what was announced is what is sent."""
    handler = HANDLERS[type(command)]
    plan = handler.info(ctx, command, b"ticket")
    result = handler.stream(ctx, command)
    table = pa.Table.from_batches(list(result.batches), result.schema)
    assert plan.schema.equals(result.schema, check_metadata=True)
    assert plan.schema.equals(handler.schema(ctx, command), check_metadata=True)
    assert plan.total_records == table.num_rows
    table.validate(full=True)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def found(ctx: CallContext, **filters: Any) -> list[str]:
    return [f"{row['db_schema_name']}.{row['table_name']}" for row in ask(ctx, GetTables(**filters))]


def run(ctx: CallContext, sql: str) -> None:
    engine = ctx.lakehouse.engine
    engine.changes.run(engine.gate.analyse(sql), Scope(ctx.session, None, CallWatch()))


# -- patterns -----------------------------------------------------------------------------------------------

ALPHABET = st.text("ab%_\\A", max_size=8)


@settings(deadline=None)
@given(name=ALPHABET.filter(bool), pattern=ALPHABET.filter(bool))
def test_patterns_mean_what_like_means(name: str, pattern: str) -> None:
    like = duckdb_like(name, pattern)
    assert matcher(pattern)(name) == (like or name.lower() == pattern.lower())


def duckdb_like(name: str, pattern: str) -> bool:
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        pattern += "\\"  # at the end of a pattern the escape stands for itself here, and is an error there
    rows = duckdb.execute("SELECT $1 ILIKE $2 ESCAPE '\\'", [name, pattern]).fetchall()
    return bool(rows[0][0])


@pytest.mark.parametrize(
    "name", ["a", "a_b", "a%b", "a\\b", "a\\", "%", "_", "\\_", "Ünï", "a.b", "(x|y)+", "a\nb"]
)
def test_every_name_matches_itself(name: str) -> None:
    assert matcher(name)(name)
    assert matcher(name)(name.swapcase() if name.isascii() else name)


def test_no_pattern_matches_all_and_an_empty_one_none() -> None:
    assert matcher(None)("x")
    assert not matcher("")("x")
    assert not matcher("")("")


def test_hostile_pattern_takes_no_time() -> None:
    assert not matcher("%a" * 500 + "b")("a" * 5000)


# -- catalogs and schemas -----------------------------------------------------------------------------------


def test_there_is_one_catalog(ctx: CallContext) -> None:
    assert ask(ctx, GetCatalogs()) == [{"catalog_name": "lake"}]


@pytest.mark.parametrize(
    ("catalog", "pattern", "expected"),
    [
        (None, None, ["archive", "hr", "main", "shop", "system"]),
        ("lake", None, ["archive", "hr", "main", "shop", "system"]),
        ("LAKE", "h_", ["hr"]),
        (None, "%h%", ["archive", "hr", "shop"]),
        (None, "HR", ["hr"]),
        (None, "nope", []),
        (None, "", []),
        ("", None, []),
        ("l%", None, []),
        ("other", None, []),
    ],
)
def test_schemas_are_found_by_catalog_and_pattern(
    ctx: CallContext, catalog: str | None, pattern: str | None, expected: list[str]
) -> None:
    rows = ask(ctx, GetDbSchemas(catalog, pattern))
    assert [row["db_schema_name"] for row in rows] == expected
    assert all(row["catalog_name"] == "lake" for row in rows)


# -- tables -------------------------------------------------------------------------------------------------


def test_all_tables_are_listed_in_order(ctx: CallContext) -> None:
    names = [(row["db_schema_name"], row["table_name"]) for row in ask(ctx, GetTables())]
    assert names == sorted(names)
    assert len([name for name in names if name[0] != "system"]) == 10


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("orders_1", ["shop.ordersX1", "shop.orders_1"]),
        ("orders\\_1", ["shop.orders_1"]),
        ("ORDERS\\_1", ["shop.orders_1"]),
        ("mixed case", ["shop.Mixed Case"]),
        ("per%cent", ["shop.per%cent"]),
        ("per\\%cent", ["shop.per%cent"]),
        ("back\\slash", ["shop.back\\slash"]),
        ("back\\\\slash", ["shop.back\\slash"]),
        ("ünï", ["shop.ünï"]),
        ("visit", ["archive.visit", "hr.visit"]),
        ("", []),
    ],
)
def test_tables_are_found_by_pattern(ctx: CallContext, pattern: str, expected: list[str]) -> None:
    assert found(ctx, table_pattern=pattern) == expected


def test_tables_are_found_by_catalog_and_schema(ctx: CallContext) -> None:
    assert found(ctx, catalog="lake", schema_pattern="h%") == ["hr.person", "hr.visit"]
    assert found(ctx, catalog="") == []
    assert found(ctx, schema_pattern="") == []
    assert found(ctx, catalog="lak_") == []


@pytest.mark.parametrize("kind", ["TABLE", "table", "BASE TABLE", "Base Table"])
def test_table_types_are_taken_as_tools_write_them(ctx: CallContext, kind: str) -> None:
    assert len(found(ctx, table_types=(kind,))) == 10
    assert len(found(ctx, table_types=("VIEW", kind))) == 10


def test_other_table_types_have_no_tables(ctx: CallContext) -> None:
    assert found(ctx, table_types=("VIEW",)) == []
    names = (
        "columns datasets events files history hnsw_trials lineage partitions sessions snapshots statements"
    )
    assert found(ctx, table_types=("VIEW", "SYSTEM TABLE")) == [f"system.{name}" for name in names.split()]


def test_table_types_told_are_those_that_tables_have(ctx: CallContext) -> None:
    run(ctx, "CREATE TEMP TABLE scratch AS SELECT 1 AS x")
    run(ctx, "CREATE VIEW main.seen AS SELECT 1 AS x")
    told = [row["table_type"] for row in ask(ctx, GetTableTypes())]
    assert told == sorted({row["table_type"] for row in ask(ctx, GetTables())})
    run(ctx, "DROP VIEW main.seen")


def columns(ctx: CallContext, **filters: Any) -> pa.Schema:
    (row,) = ask(ctx, GetTables(include_schema=True, **filters))
    return pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))


def told(field: pa.Field) -> dict[str, str]:
    prefix = "ARROW:FLIGHT:SQL:"
    return {
        key.decode().removeprefix(prefix): value.decode() for key, value in (field.metadata or {}).items()
    }


def test_columns_are_described(ctx: CallContext) -> None:
    schema = columns(ctx, table_pattern="everything")
    assert schema.equals(ctx.lakehouse.catalog.load("main", "everything").arrow_schema())
    assert told(schema.field("i")) == {
        "CATALOG_NAME": "lake",
        "SCHEMA_NAME": "main",
        "DB_SCHEMA_NAME": "main",
        "TABLE_NAME": "everything",
        "TYPE_NAME": "INTEGER",
        "PRECISION": "10",
        "SCALE": "0",
        "IS_AUTO_INCREMENT": "0",
        "IS_CASE_SENSITIVE": "0",
        "IS_READ_ONLY": "0",
        "IS_SEARCHABLE": "1",
        "REMARKS": "a number",
    }
    names = {field.name: told(field)["TYPE_NAME"] for field in schema}
    assert names == {
        "b": "BOOLEAN",
        "i": "INTEGER",
        "d": "DECIMAL(9,2)",
        "s": "VARCHAR",
        "t": "TIMESTAMP",
        "tz": "TIMESTAMP WITH TIME ZONE",
        "u": "UUID",
        "l": "BIGINT[]",
        "st": 'STRUCT("x" INTEGER, "y z" VARCHAR)',
    }
    assert (told(schema.field("d"))["PRECISION"], told(schema.field("d"))["SCALE"]) == ("9", "2")
    assert told(schema.field("s"))["IS_CASE_SENSITIVE"] == "1"
    assert "PRECISION" not in told(schema.field("s"))
    assert "REMARKS" not in told(schema.field("s"))


def test_type_names_of_columns_are_types_of_the_engine(ctx: CallContext) -> None:
    for field in columns(ctx, table_pattern="everything"):
        duckdb.execute(f"SELECT NULL::{told(field)['TYPE_NAME']}").fetchall()


def test_temporary_objects_are_in_a_schema_of_their_own(ctx: CallContext) -> None:
    assert ask(ctx, GetDbSchemas(None, "temp")) == []
    run(ctx, "CREATE TEMP TABLE Scratch AS SELECT 1 AS x, INTERVAL 1 DAY AS y, 'a' AS z")
    run(ctx, "CREATE TEMP VIEW peek AS SELECT s FROM main.everything")
    assert ask(ctx, GetDbSchemas(None, "temp")) == [{"catalog_name": "lake", "db_schema_name": "temp"}]
    assert found(ctx, table_types=("LOCAL TEMPORARY",)) == ["temp.Scratch", "temp.peek"]
    assert found(ctx, schema_pattern="temp", table_types=("TABLE",)) == []
    schema = columns(ctx, table_pattern="scratch")
    assert [(field.name, told(field)["TYPE_NAME"]) for field in schema] == [
        ("x", "INTEGER"),
        ("y", "INTERVAL"),
        ("z", "VARCHAR"),
    ]
    assert told(schema.field("x"))["SCHEMA_NAME"] == "temp"
    assert columns(ctx, table_pattern="peek").names == ["s"]


def test_temporary_objects_are_seen_by_their_session_only(ctx: CallContext) -> None:
    run(ctx, "CREATE TEMP TABLE mine AS SELECT 1 AS x")
    other = CallContext(ctx.lakehouse, ctx.lakehouse.sessions.get("other", ctx.lakehouse.anonymous))
    assert found(ctx, table_pattern="mine") == ["temp.mine"]
    assert found(other, table_pattern="mine") == []


def test_view_over_a_table_that_is_gone_is_still_listed(ctx: CallContext) -> None:
    create(ctx.lakehouse, "main", "shortlived")
    run(ctx, "CREATE TEMP VIEW dangling AS SELECT * FROM main.shortlived")
    ctx.lakehouse.catalog.drop_table("main", "shortlived")
    assert columns(ctx, table_pattern="dangling").names == []


def test_table_that_vanishes_while_listed_is_left_out(
    ctx: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = ctx.lakehouse.catalog
    listed = catalog.tables("hr")
    monkeypatch.setattr(catalog, "tables", lambda schema: [*listed, "ghost"] if schema == "hr" else [])
    with pytest.raises(TableNotFound):
        catalog.load("hr", "ghost")
    assert found(ctx, schema_pattern="hr", include_schema=True) == ["hr.person", "hr.visit"]
    assert len(ask(ctx, GetExportedKeys(None, "hr", "person"))) == 2


def test_table_that_cannot_be_read_is_listed_without_columns(tmp_path: Path) -> None:
    before = Lakehouse(configured(tmp_path))
    create(before, "main", "exotic", pa.schema([("at", pa.timestamp("us"))]))
    before.close()
    (file,) = tmp_path.rglob("v1.metadata.json")
    text = file.read_text()
    assert '"timestamp"' in text
    file.write_text(text.replace('"timestamp"', '"timestamp_ns"'))
    after = Lakehouse(configured(tmp_path))
    try:
        assert (
            columns(
                CallContext(after, after.sessions.get("test", after.anonymous)), table_pattern="exotic"
            ).names
            == []
        )
    finally:
        after.close()


def test_open_transaction_sees_the_tables_it_makes_and_not_those_it_drops(ctx: CallContext) -> None:
    create(ctx.lakehouse, "main", "doomed")
    transaction = ctx.session.begin()
    target = TableName("lake", "main", "fresh")
    engine = ctx.lakehouse.engine
    scope = Scope(ctx.session, transaction, CallWatch())
    engine.changes.ingest(scope, target, WriteMode.CREATE, PERSON, iter(()))
    transaction.drop(TableName("lake", "main", "doomed"), if_exists=False)
    assert found(ctx, schema_pattern="main") == ["main.everything", "main.fresh"]
    assert columns(ctx, table_pattern="fresh").names == PERSON.names
    other = CallContext(ctx.lakehouse, ctx.lakehouse.sessions.get("other", ctx.lakehouse.anonymous))
    assert found(other, schema_pattern="main") == ["main.doomed", "main.everything"]
    ctx.session.end(transaction, commit=False)
    assert found(ctx, schema_pattern="main") == ["main.doomed", "main.everything"]
    ctx.lakehouse.catalog.drop_table("main", "doomed")


# -- keys ---------------------------------------------------------------------------------------------------


def test_primary_key_is_told_column_by_column(ctx: CallContext) -> None:
    assert ask(ctx, GetPrimaryKeys("lake", "hr", "person")) == [
        {
            "catalog_name": "lake",
            "db_schema_name": "hr",
            "table_name": "person",
            "column_name": column,
            "key_sequence": place,
            "key_name": "person_pkey",
        }
        for place, column in enumerate(("id", "part"), start=1)
    ]


def test_keys_are_found_in_all_schemas_where_none_is_given(ctx: CallContext) -> None:
    rows = ask(ctx, GetPrimaryKeys(None, None, "VISIT"))
    assert [(row["db_schema_name"], row["table_name"]) for row in rows] == [
        ("archive", "visit"),
        ("hr", "visit"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        GetPrimaryKeys(None, None, "nope"),
        GetPrimaryKeys(None, "nope", "person"),
        GetPrimaryKeys("other", "hr", "person"),
        GetPrimaryKeys("", "hr", "person"),
        GetPrimaryKeys(None, "", "person"),
        GetPrimaryKeys(None, "hr", ""),
        GetPrimaryKeys(None, "hr", "nul\0"),
        GetPrimaryKeys(None, "hr", "pers%"),
        GetPrimaryKeys(None, "main", "everything"),
        GetExportedKeys(None, "hr", "visit"),
        GetExportedKeys(None, "hr", "nope"),
        GetImportedKeys(None, "hr", "person"),
        GetImportedKeys(None, "hr", "nope"),
        GetCrossReference(None, "hr", "visit", None, "hr", "person"),
        GetCrossReference(None, "hr", "person", None, "archive", "nope"),
    ],
)
def test_tables_without_keys_or_existence_give_no_rows(ctx: CallContext, command: Any) -> None:
    assert ask(ctx, command) == []


def pairs(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            row["fk_db_schema_name"],
            row["fk_key_name"],
            row["key_sequence"],
            row["fk_column_name"],
            row["pk_column_name"],
            row["pk_key_name"],
        )
        for row in rows
    ]


COMPOSITE = [
    ("hr", "visit_person", 1, "person_id", "id", "person_pkey"),
    ("hr", "visit_person", 2, "person_part", "part", "person_pkey"),
]
PARTIAL = [("archive", "visit_person_id_fkey", 1, "person_id", "id", None)]


def test_imported_keys_name_the_key_referred_to(ctx: CallContext) -> None:
    rows = ask(ctx, GetImportedKeys(None, "hr", "visit"))
    assert pairs(rows) == COMPOSITE
    assert {row["update_rule"] for row in rows} == {row["delete_rule"] for row in rows} == {3}
    assert {(row["pk_catalog_name"], row["pk_db_schema_name"], row["pk_table_name"]) for row in rows} == {
        ("lake", "hr", "person")
    }


def test_exported_keys_come_from_every_schema_in_order(ctx: CallContext) -> None:
    assert pairs(ask(ctx, GetExportedKeys(None, None, "Person"))) == PARTIAL + COMPOSITE


def test_reference_to_part_of_a_key_names_no_key(ctx: CallContext) -> None:
    rows = ask(ctx, GetImportedKeys(None, "archive", "visit"))
    assert pairs(rows) == PARTIAL
    assert (rows[0]["pk_db_schema_name"], rows[0]["pk_table_name"]) == ("hr", "person")


def test_cross_reference_is_between_the_two_tables_only(ctx: CallContext) -> None:
    assert pairs(ask(ctx, GetCrossReference(None, "hr", "person", None, "hr", "visit"))) == COMPOSITE
    assert (
        pairs(ask(ctx, GetCrossReference("lake", None, "person", "lake", None, "visit")))
        == PARTIAL + COMPOSITE
    )
    assert ask(ctx, GetCrossReference("x", "hr", "person", None, "hr", "visit")) == []
    assert ask(ctx, GetCrossReference(None, "hr", "person", "x", "hr", "visit")) == []
