"""Declared keys and descriptions of tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog
from lakehouse.catalog.table import FOREIGN_KEYS_PROPERTY
from lakehouse.clock import SystemClock
from lakehouse.errors import SchemaMismatch, TableNotFound
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import ForeignKey, TableName

SCHEMA = pa.schema(
    [
        pa.field("a", pa.int64(), nullable=False),
        pa.field("B", pa.string(), nullable=False),
        pa.field("f", pa.float64(), nullable=False),
        pa.field("s", pa.struct([("x", pa.int64())]), nullable=False),
        pa.field("n", pa.int64()),
    ]
)


@pytest.fixture
def catalog(tmp_path: Path) -> IcebergCatalog:
    catalog = IcebergCatalog("lake", open_local_bucket("primary", tmp_path), "warehouse", SystemClock())
    catalog.create_schema("main")
    target = TableName("lake", "main", "T")
    commit(catalog, stage(catalog, target, WriteMode.CREATE, SCHEMA, [], lambda: False))
    return catalog


def test_keys_are_kept_in_the_order_and_spelling_of_the_columns(catalog: IcebergCatalog) -> None:
    keys = [
        ForeignKey("fk 1", ("N", "b"), "other", "Où", ("x", "y")),
        ForeignKey("", ("a",), "m", "t", ("a",)),
    ]
    catalog.declare_keys("MAIN", "t", ["b", "A"], keys)
    table = catalog.load("main", "t")
    assert table.primary_key == ("B", "a")
    assert table.foreign_keys == (ForeignKey("fk 1", ("n", "B"), "other", "Où", ("x", "y")), keys[1])
    catalog.declare_keys("main", "t", [], [])
    table = catalog.load("main", "t")
    assert (table.primary_key, table.foreign_keys) == ((), ())


@pytest.mark.parametrize(
    ("primary", "foreign", "message"),
    [
        (["c"], [], "no column 'c'"),
        (["n"], [], "may be NULL"),
        (["f"], [], "cannot be in a primary key"),
        (["s"], [], "cannot be in a primary key"),
        (["a"], [ForeignKey("k", ("zz",), "m", "t", ("a",))], "no column 'zz'"),
    ],
)
def test_keys_that_cannot_be_are_refused_and_change_nothing(
    catalog: IcebergCatalog, primary: list[str], foreign: list[ForeignKey], message: str
) -> None:
    catalog.declare_keys("main", "t", ["a"], [])
    with pytest.raises(SchemaMismatch, match=message):
        catalog.declare_keys("main", "t", primary, foreign)
    assert catalog.load("main", "t").primary_key == ("a",)
    with pytest.raises(TableNotFound):
        catalog.declare_keys("main", "nothing", ["a"], [])


def test_descriptions_are_kept(catalog: IcebergCatalog) -> None:
    table = catalog.load("main", "t")
    assert (table.description, dict(table.column_docs)) == (None, {})
    catalog.describe_table("main", "t", "Things", {"b": "Größe", "A": "id"})
    table = catalog.load("main", "t")
    assert (table.description, dict(table.column_docs)) == ("Things", {"a": "id", "B": "Größe"})
    catalog.describe_table("main", "t", None, {"a": "number"})
    table = catalog.load("main", "t")
    assert (table.description, dict(table.column_docs)) == ("Things", {"a": "number", "B": "Größe"})
    with pytest.raises(SchemaMismatch, match="no column 'zz'"):
        catalog.describe_table("main", "t", None, {"zz": "?"})


def test_what_another_program_left_in_the_property_does_no_harm(catalog: IcebergCatalog) -> None:
    for text in ("nonsense", "{}", '[{"name": 1}]', "[1]", "null"):
        with catalog.objects.load_table(("main", "t")).transaction() as transaction:
            transaction.set_properties({FOREIGN_KEYS_PROPERTY: text})
        catalog.refresh("main", "t")
        assert catalog.load("main", "t").foreign_keys == ()
