"""Other names for tables and views: the name moves, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.clock import SystemClock
from lakehouse.errors import (
    LakehouseError,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.types import TableName

ROWS = pa.table({"n": [1, 2]})
COLUMNS = pa.schema([("n", pa.int64())])


def opened(root: Path, bucket: Bucket | None = None) -> IcebergCatalog:
    return IcebergCatalog(
        "lake", bucket or open_local_bucket("primary", root), "warehouse", SystemClock(), 0.0
    )


@pytest.fixture
def catalog(tmp_path: Path) -> IcebergCatalog:
    catalog = opened(tmp_path)
    catalog.create_schema("main")
    catalog.create_schema("Other")
    write(catalog, "a")
    return catalog


def write(
    catalog: IcebergCatalog, table: str, mode: WriteMode = WriteMode.CREATE, schema: str = "main"
) -> None:
    name = TableName("lake", schema, table)
    commit(catalog, stage(catalog, name, mode, ROWS.schema, ROWS.to_batches(), lambda: False))


def count(table: Table) -> int:
    with duckdb.connect() as connection:
        paths = [file.path for file in table.files()]
        return int(connection.execute("SELECT count(*) FROM read_parquet(?)", [paths]).fetchall()[0][0])


def test_a_table_keeps_all_but_its_name(catalog: IcebergCatalog, tmp_path: Path) -> None:
    before = catalog.load("main", "a")
    catalog.rename("main", "A", "other", "B ä")
    assert catalog.tables("main") == []
    assert catalog.tables("other") == ["B ä"]
    for each in (catalog, opened(tmp_path)):
        after = each.load("OTHER", "b ä")
        assert after.name == TableName("lake", "Other", "B ä")
        assert (after.uuid, after.metadata.location) == (before.uuid, before.metadata.location)
        assert after.snapshots() == before.snapshots()
        with pytest.raises(TableNotFound):
            each.load("main", "a")
    write(catalog, "b ä", WriteMode.APPEND, "other")
    assert count(opened(tmp_path).load("other", "b ä")) == 4


def test_a_name_goes_back_and_forth(catalog: IcebergCatalog, tmp_path: Path) -> None:
    names = ["a", "b", "a", "c", "b", "a"]
    for number, (old, new) in enumerate(itertools.pairwise(names)):
        catalog.rename("main", old, "main", new)
        write(catalog, new, WriteMode.APPEND)
        assert opened(tmp_path).tables("main") == [new]
        assert count(opened(tmp_path).load("main", new)) == 4 + 2 * number


def test_a_new_table_of_the_old_name_is_another_one(catalog: IcebergCatalog) -> None:
    catalog.rename("main", "a", "main", "b")
    for _ in range(2):
        write(catalog, "a")
        write(catalog, "a", WriteMode.APPEND)
        assert (count(catalog.load("main", "a")), count(catalog.load("main", "b"))) == (4, 2)
        assert catalog.load("main", "a").metadata.location != catalog.load("main", "b").metadata.location
        catalog.drop_table("main", "a")
        assert catalog.purge("main", "a") > 0
        assert count(catalog.load("main", "b")) == 2
    catalog.drop_table("main", "b")
    assert catalog.purge("main", "b") > 0


def test_names_that_are_taken_or_missing_are_told(catalog: IcebergCatalog) -> None:
    write(catalog, "b")
    catalog.create_view("main", "v", "SELECT 1 AS n", COLUMNS)
    for taken in ("b", "B", "a", "v"):
        with pytest.raises(TableAlreadyExists):
            catalog.rename("main", "a", "main", taken)
    with pytest.raises(TableAlreadyExists):
        catalog.rename("main", "v", "main", "a", is_view=True)
    with pytest.raises(TableNotFound, match="did you mean 'a'"):
        catalog.rename("main", "aa", "main", "c")
    with pytest.raises(LakehouseError, match="schema"):
        catalog.rename("main", "a", "nowhere", "c")
    with pytest.raises(TableNotFound):
        catalog.rename("main", "a", "main", "c", is_view=True)
    catalog.rename("main", "v", "other", "w", is_view=True)
    found = catalog.find_view("other", "W")
    assert found is not None
    assert (found.name.table, found.sql) == ("w", "SELECT 1 AS n")
    assert catalog.find_view("main", "v") is None
    assert sorted(catalog.tables("main")) == ["a", "b"]


def test_a_purge_leaves_what_another_table_refers_to(catalog: IcebergCatalog, tmp_path: Path) -> None:
    write(catalog, "a", WriteMode.APPEND)
    with pytest.raises(TableAlreadyExists):
        catalog.purge("main", "a")
    with pytest.raises(TableNotFound):
        catalog.purge("main", "never")
    catalog.rename("main", "a", "main", "b")
    with pytest.raises(TableNotFound):
        catalog.purge("main", "a")
    catalog.drop_table("main", "b")
    left = len(list(tmp_path.glob("**/*.parquet")))
    assert left == 2
    assert catalog.purge("main", "b") >= left
    assert not list(tmp_path.glob("**/*.parquet"))
    assert not list(tmp_path.glob("**/a/**/*.avro"))
    assert catalog.purge("main", "b") == 0
    assert list(tmp_path.glob("**/b/metadata/v*.metadata.json"))
