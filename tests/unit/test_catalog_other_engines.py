"""Tables that other programs write to: read right, or refused, but never wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import StaticTable
from pyiceberg.table import Table as IcebergTable
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DoubleType, FloatType, IntegerType, LongType, NestedField, StringType

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.clock import FixedClock
from lakehouse.errors import NotSupported, StorageError
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

NAME = TableName("lake", "main", "t")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def catalog(tmp_path: Path, clock: FixedClock) -> IcebergCatalog:
    catalog = IcebergCatalog("lake", open_local_bucket("primary", tmp_path), "warehouse", clock)
    catalog.create_schema("main")
    return catalog


def write(catalog: IcebergCatalog, rows: pa.Table, mode: WriteMode = WriteMode.CREATE) -> IcebergTable:
    commit(catalog, stage(catalog, NAME, mode, rows.schema, rows.to_batches(), lambda: False))
    return catalog.objects.load_table(("main", "t"))


def current(catalog: IcebergCatalog) -> Table:
    assert isinstance(catalog.clock, FixedClock)
    catalog.clock.elapsed_s += 1
    return catalog.load("main", "t")


def read(table: Table) -> list[dict[str, object]]:
    paths = [file.path for file in table.files()]
    sql = (
        f"SELECT * FROM read_parquet({paths}, schema = {table.read_schema_sql()}, hive_partitioning = false)"
    )
    with duckdb.connect() as connection:
        found = connection.sql(sql).to_arrow_table()
    assert found.schema == table.arrow_schema()
    return found.to_pylist()


def test_columns_that_were_renamed_widened_dropped_and_added_are_read_right(catalog: IcebergCatalog) -> None:
    rows = pa.table(
        {
            "i": pa.array([1], pa.int32()),
            "f": pa.array([1.5], pa.float32()),
            "old": ["x"],
            "gone": [True],
            "s": [{"a": 1}],
        }
    )
    table = write(catalog, rows)
    with table.update_schema() as update:
        update.rename_column("old", "new")
        update.update_column("i", LongType())
        update.update_column("f", DoubleType())
        update.delete_column("gone")
        update.add_column("gone", StringType())
        update.add_column("late", IntegerType())
        update.add_column(("s", "b"), IntegerType())
        update.move_first("old")
    found = read(current(catalog))
    expected = {"new": "x", "i": 1, "f": 1.5, "s": {"a": 1, "b": None}, "gone": None, "late": None}
    assert found == [expected]
    more = {"new": "y", "i": 2**40, "f": 0.1, "s": {"a": 2, "b": 3}, "gone": "here", "late": 5}
    arrow = pa.Table.from_pylist([more], schema=table.refresh().schema().as_arrow())
    write(catalog, arrow, WriteMode.APPEND)
    assert read(current(catalog)) == [expected, more]
    assert sorted(table.refresh().scan().to_arrow().to_pylist(), key=str) == sorted([expected, more], key=str)


def test_rows_appended_by_pyiceberg_are_seen(catalog: IcebergCatalog) -> None:
    table = write(catalog, pa.table({"n": [1]}))
    table.append(pa.table({"n": [2]}))
    assert read(current(catalog)) == [{"n": 1}, {"n": 2}]
    table.overwrite(pa.table({"n": [3]}))
    assert read(current(catalog)) == [{"n": 3}]
    table.delete("n = 3")
    assert current(catalog).files() == ()


@pytest.mark.parametrize("how", ["rename", "made anew"])
def test_fields_within_columns_that_cannot_be_found_by_name_are_refused(
    catalog: IcebergCatalog, how: str
) -> None:
    rows = pa.table({"s": [{"deep": [{"a": 1, "b": 2}]}]})
    table = write(catalog, rows)
    with table.update_schema() as update:
        if how == "rename":
            update.rename_column(("s", "deep", "element", "a"), "z")
        else:
            update.delete_column(("s", "deep", "element", "a"))
    if how != "rename":
        assert read(current(catalog)) == [{"s": {"deep": [{"b": 2}]}}], "dropping alone does no harm"
        with table.update_schema() as update:
            update.add_column(("s", "deep", "element", "a"), LongType())
    with pytest.raises(NotSupported, match=r"within column 's\.deep\.element'"):
        current(catalog).read_schema_sql()


def test_columns_that_sql_cannot_tell_apart_are_refused(catalog: IcebergCatalog) -> None:
    schema = Schema(NestedField(1, "a", LongType()), NestedField(2, "A", LongType()))
    catalog.objects.create_table(("main", "t"), schema)
    with pytest.raises(NotSupported, match="'a' and 'A'"):
        current(catalog).read_schema_sql()


def test_files_without_field_ids_are_refused(catalog: IcebergCatalog) -> None:
    table = write(catalog, pa.table({"n": [1]}))
    foreign = Path(table.location().removeprefix("file://")) / "data" / "foreign.parquet"
    pq.write_table(pa.table({"n": [2]}), foreign)
    table.add_files([f"file://{foreign}"])
    with pytest.raises(NotSupported, match="without field ids"):
        current(catalog).files()
    table.delete("n = 2")
    assert read(current(catalog)) == [{"n": 1}]


def test_partitioned_tables_are_read_and_written(catalog: IcebergCatalog) -> None:
    schema = Schema(NestedField(1, "p", StringType()), NestedField(2, "n", LongType()))
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "p"))
    rows = pa.table({"p": ["a", "b"], "n": [1, 2]})
    catalog.objects.create_table(("main", "t"), schema, partition_spec=spec).append(rows)
    assert sorted(read(current(catalog)), key=str) == rows.to_pylist()
    for mode, times in ((WriteMode.APPEND, 2), (WriteMode.REPLACE, 1), (WriteMode.CREATE_APPEND, 2)):
        table = write(catalog, rows, mode)
        assert sorted(read(current(catalog)), key=str) == sorted(rows.to_pylist() * times, key=str)
        assert table.scan("p = 'a'").to_arrow().num_rows == times


def test_files_outside_of_the_bucket_are_refused(catalog: IcebergCatalog, tmp_path: Path) -> None:
    table = write(catalog, pa.table({"n": [1]}))
    outside = tmp_path.parent / f"{tmp_path.name}-outside.parquet"
    pq.write_table(pa.table({"n": [2]}), outside)
    bucket = catalog.bucket
    with pytest.raises(StorageError, match="not in bucket"):
        bucket.key_of(f"file://{outside}")
    with pytest.raises(StorageError, match="not in bucket"):
        table.add_files([f"file://{outside}"])


def test_another_engine_reads_the_table_from_its_files_alone(catalog: IcebergCatalog, tmp_path: Path) -> None:
    write(catalog, pa.table({"n": [1, 2]}))
    write(catalog, pa.table({"n": [3]}), WriteMode.APPEND)
    directory = tmp_path / "warehouse/main/t/metadata"
    version = (directory / "version-hint.text").read_text()
    table = StaticTable.from_metadata(f"file://{directory}/v{version}.metadata.json")
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [1, 2, 3]


def test_the_catalog_serves_pyiceberg_like_any_other(catalog: IcebergCatalog) -> None:
    ours = catalog.objects
    schema = Schema(NestedField(1, "n", LongType()))
    ours.create_namespace("a", {"k": "v"})
    with pytest.raises(NamespaceAlreadyExistsError):
        ours.create_namespace("a")
    assert ours.list_namespaces() == [("a",), ("main",)]
    assert ours.load_namespace_properties("a")["k"] == "v"
    table = ours.create_table("a.t", schema)
    with pytest.raises(TableAlreadyExistsError):
        ours.create_table("a.t", schema)
    with pytest.raises(NoSuchNamespaceError):
        ours.create_table("b.t", schema)
    table.append(pa.table({"n": [1]}))
    table.append(pa.table({"n": [2]}))
    assert ours.list_tables("a") == [("a", "t")]
    assert ours.load_table("a.t").scan().to_arrow().num_rows == 2
    with pytest.raises(NamespaceNotEmptyError):
        ours.drop_namespace("a")
    assert ours.table_exists("a.t")
    ours.drop_table("a.t")
    assert not ours.table_exists("a.t")
    for call in (ours.load_table, ours.drop_table):
        with pytest.raises(NoSuchTableError):
            call("a.t")
    with pytest.raises(NoSuchNamespaceError):
        ours.list_tables("b")
    with pytest.raises(NoSuchNamespaceError):
        ours.drop_namespace("b")
    with pytest.raises(NoSuchViewError):
        ours.load_view("a.v")
    for refused in (ours.register_view, ours.register_table):
        with pytest.raises(NotImplementedError):
            refused("a.t", "a.u")
    ours.drop_namespace("a")
    assert not ours.namespace_exists("a")


def test_concurrent_appends_by_pyiceberg_are_retried(catalog: IcebergCatalog) -> None:
    table = write(catalog, pa.table({"n": [0]}))
    stale = [catalog.objects.load_table(("main", "t")) for _ in range(3)]
    for number, other in zip(itertools.count(1), stale, strict=False):
        other.append(pa.table({"n": [number]}))
    assert table.refresh().scan().to_arrow().num_rows == 4


def test_a_widened_float_keeps_its_statistics_usable(catalog: IcebergCatalog) -> None:
    schema = Schema(NestedField(1, "f", FloatType()))
    table = catalog.objects.create_table(("main", "t"), schema)
    write(catalog, pa.table({"f": [1.5]}), WriteMode.APPEND)
    with table.refresh().update_schema() as update:
        update.update_column("f", DoubleType())
    assert table.refresh().scan("f > 1.0").to_arrow().num_rows == 1
    assert read(current(catalog)) == [{"f": 1.5}]
