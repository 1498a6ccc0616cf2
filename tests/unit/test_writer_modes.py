"""Creating, appending to and replacing tables: what becomes of the rows, the columns and the files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.catalog.iceberg_catalog import FileLimits
from lakehouse.clock import SystemClock
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    SchemaMismatch,
    SchemaNotFound,
    StatementCancelled,
    TableAlreadyExists,
    TableNotFound,
    TypeNotStorable,
)
from lakehouse.ingest import StagedWrite, WriteMode, commit, discard, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import ForeignKey, TableName

NAME = TableName("lake", "main", "t")
ROWS = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["a", None]})


DEFAULT_LIMITS = FileLimits()


def opened(root: Path, limits: FileLimits = DEFAULT_LIMITS) -> IcebergCatalog:
    bucket = open_local_bucket("primary", root)
    return IcebergCatalog("lake", bucket, "warehouse", SystemClock(), limits=limits)


@pytest.fixture
def catalog(tmp_path: Path) -> IcebergCatalog:
    catalog = opened(tmp_path)
    catalog.create_schema("main")
    return catalog


def staged(
    catalog: IcebergCatalog, mode: WriteMode, rows: pa.Table, on: StagedWrite | None = None
) -> StagedWrite:
    return stage(catalog, NAME, mode, rows.schema, rows.to_batches(), lambda: False, on)


def write(catalog: IcebergCatalog, mode: WriteMode, rows: pa.Table = ROWS) -> Table:
    commit(catalog, staged(catalog, mode, rows))
    return catalog.load("main", "t")


def read(table: Table) -> list[dict[str, object]]:
    paths = [file.path for file in table.files()]
    if not paths:
        return []
    schema = table.read_schema_sql()
    sql = f"SELECT * FROM read_parquet({paths}, schema = {schema}, hive_partitioning = false)"
    with duckdb.connect() as connection:
        return connection.sql(sql).to_arrow_table().to_pylist()


def data_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and "data" in path.parts[len(root.parts) :]]


def test_create_makes_the_table_and_its_first_rows_in_one_version(
    catalog: IcebergCatalog, tmp_path: Path
) -> None:
    table = write(catalog, WriteMode.CREATE)
    assert read(table) == ROWS.to_pylist()
    assert (table.record_count, len(table.snapshots())) == (2, 1)
    assert table.size_bytes == sum(path.stat().st_size for path in data_files(tmp_path))
    assert len(list(tmp_path.rglob("v*.metadata.json"))) == 1
    snapshot = table.metadata.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary["lakehouse.commit-id"]


@pytest.mark.parametrize(
    ("mode", "exists", "error"),
    [
        (WriteMode.CREATE, True, TableAlreadyExists),
        (WriteMode.APPEND, False, TableNotFound),
        (WriteMode.REPLACE, False, TableNotFound),
    ],
)
def test_a_mode_that_does_not_fit_is_refused_before_a_row_is_read(
    catalog: IcebergCatalog, mode: WriteMode, exists: bool, error: type[Exception]
) -> None:
    if exists:
        write(catalog, WriteMode.CREATE)

    def rows() -> Iterator[pa.RecordBatch]:
        raise AssertionError("read")
        yield

    with pytest.raises(error):
        stage(catalog, NAME, mode, ROWS.schema, rows(), lambda: False)


@pytest.mark.parametrize("mode", WriteMode)
def test_no_mode_makes_a_schema(catalog: IcebergCatalog, mode: WriteMode) -> None:
    with pytest.raises(SchemaNotFound):
        stage(catalog, TableName("lake", "nowhere", "t"), mode, ROWS.schema, [], lambda: False)


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800"])
def test_names_that_cannot_be_names_are_refused(catalog: IcebergCatalog, bad: str) -> None:
    for name in (TableName("lake", "main", bad), TableName("lake", bad, "t")):
        with pytest.raises(InvalidRequest):
            stage(catalog, name, WriteMode.CREATE, ROWS.schema, [], lambda: False)


def test_create_append_creates_first_and_then_appends(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE_APPEND)
    assert read(write(catalog, WriteMode.CREATE_APPEND)) == ROWS.to_pylist() * 2


def test_append_matches_columns_by_name_and_fills_up_with_null(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE)
    table = write(catalog, WriteMode.APPEND, pa.table({"ID": pa.array([3], pa.int8())}))
    assert read(table) == [*ROWS.to_pylist(), {"id": 3, "name": None}]


@pytest.mark.parametrize(
    "rows",
    [
        pa.table({"id": [1], "colour": ["red"]}),
        pa.table({"id": ["text"]}),
        pa.table({"id": [1.5]}),
        pa.table({"id": [1], "name": [[1]]}),
    ],
    ids=["unknown column", "other type", "value that does not fit", "nested"],
)
def test_an_append_that_does_not_fit_stores_nothing(
    catalog: IcebergCatalog, tmp_path: Path, rows: pa.Table
) -> None:
    write(catalog, WriteMode.CREATE)
    before = data_files(tmp_path)
    with pytest.raises(SchemaMismatch):
        write(catalog, WriteMode.APPEND, rows)
    assert data_files(tmp_path) == before
    assert read(catalog.load("main", "t")) == ROWS.to_pylist()


def test_a_null_in_a_required_column_stores_nothing(catalog: IcebergCatalog, tmp_path: Path) -> None:
    required = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    table = write(catalog, WriteMode.CREATE, pa.table({"id": [1]}, schema=required))
    assert not table.arrow_schema().field("id").nullable
    before = data_files(tmp_path)
    batches = [pa.record_batch({"id": pa.array([n] * 200_000)}) for n in (1, None)]
    batches[1] = batches[1].cast(batches[0].schema)
    with pytest.raises(SchemaMismatch, match="'id' must not be NULL"):
        stage(catalog, NAME, WriteMode.APPEND, batches[0].schema, batches, lambda: False)
    assert data_files(tmp_path) == before


def test_replace_changes_rows_and_columns_in_one_version(catalog: IcebergCatalog, tmp_path: Path) -> None:
    old = write(catalog, WriteMode.CREATE)
    new_rows = pa.table({"name": [1.5], "extra": [True], "id": pa.array([9], pa.int64())})
    new = write(catalog, WriteMode.REPLACE, new_rows)
    assert read(new) == new_rows.to_pylist()
    assert new.arrow_schema().names == ["name", "extra", "id"]
    assert (new.uuid, new.record_count) == (old.uuid, 1)
    assert len(list(tmp_path.rglob("v*.metadata.json"))) == 2
    assert read(old) == ROWS.to_pylist(), "what was loaded before stays as it was"
    past = new.snapshots()[0]
    files = [file.path for file in new.files(past.snapshot_id)]
    schema = new.read_schema_sql(past.schema_id)
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM read_parquet({files}, schema = {schema})").to_arrow_table()
    assert found.to_pylist() == ROWS.to_pylist()


def test_replace_with_the_same_columns_keeps_their_ids_keys_and_descriptions(catalog: IcebergCatalog) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), ("l", pa.list_(pa.int32()))])
    rows = pa.table({"id": [1], "l": [[1]]}, schema=schema)
    write(catalog, WriteMode.CREATE, rows)
    catalog.declare_keys("main", "t", ["id"], [ForeignKey("f", ("id",), "main", "t", ("id",))])
    catalog.describe_table("main", "t", "things", {"id": "a number"})
    before = catalog.load("main", "t")
    after = write(catalog, WriteMode.REPLACE, rows)
    assert after.schema_id == before.schema_id
    assert (after.primary_key, after.column_docs) == (("id",), {"id": "a number"})
    changed = write(catalog, WriteMode.REPLACE, pa.table({"id": ["x"], "l": rows["l"]}))
    assert (changed.primary_key, dict(changed.column_docs)) == ((), {"id": "a number"})
    ids = {field.name: field.field_id for field in changed.metadata.schema().fields}
    old_ids = {field.name: field.field_id for field in before.metadata.schema().fields}
    assert ids["l"] == old_ids["l"]
    assert ids["id"] > before.metadata.last_column_id
    again = write(catalog, WriteMode.REPLACE, rows)
    assert read(again) == rows.to_pylist()


@pytest.mark.parametrize("mode", [WriteMode.CREATE, WriteMode.CREATE_APPEND])
def test_no_rows_make_an_empty_table(catalog: IcebergCatalog, mode: WriteMode) -> None:
    table = write(catalog, mode, ROWS.slice(0, 0))
    assert (table.files(), table.snapshot_id, table.record_count, table.size_bytes) == ((), None, 0, 0)
    assert table.arrow_schema() == ROWS.schema
    assert read(write(catalog, WriteMode.APPEND)) == ROWS.to_pylist()


def test_appending_no_rows_changes_nothing(catalog: IcebergCatalog, tmp_path: Path) -> None:
    before = write(catalog, WriteMode.CREATE)
    result = commit(catalog, staged(catalog, WriteMode.APPEND, ROWS.slice(0, 0)))
    assert (result.snapshot_id, result.rows) == (None, 0)
    assert catalog.load("main", "t").snapshot_id == before.snapshot_id
    assert len(list(tmp_path.rglob("v*.metadata.json"))) == 1


def test_replacing_by_no_rows_empties_the_table(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE)
    table = write(catalog, WriteMode.REPLACE, pa.table({"z": pa.array([], pa.int8())}))
    assert (table.files(), table.record_count, table.arrow_schema().names) == ((), 0, ["z"])
    assert read(write(catalog, WriteMode.REPLACE)) == ROWS.to_pylist()


def test_a_commit_that_is_repeated_takes_place_once(catalog: IcebergCatalog) -> None:
    for mode in (WriteMode.CREATE, WriteMode.APPEND, WriteMode.REPLACE):
        rows = staged(catalog, mode, ROWS)
        assert commit(catalog, rows) == commit(catalog, rows)
    assert read(catalog.load("main", "t")) == ROWS.to_pylist()
    assert len(catalog.load("main", "t").snapshots()) == 3


def test_staged_rows_are_seen_through_their_own_table_only(catalog: IcebergCatalog, tmp_path: Path) -> None:
    base = write(catalog, WriteMode.CREATE)
    more = staged(catalog, WriteMode.APPEND, ROWS)
    assert read(more.table) == ROWS.to_pylist() * 2
    assert (more.table.record_count, more.rows) == (4, 2)
    assert more.table.uuid == base.uuid
    other = staged(catalog, WriteMode.REPLACE, pa.table({"z": [1]}))
    assert read(other.table) == [{"z": 1}]
    assert other.table.uuid != base.uuid, "an uncommitted replacement must not be taken for the table"
    assert read(catalog.load("main", "t")) == ROWS.to_pylist()
    discard(catalog, more)
    discard(catalog, other)
    discard(catalog, other)
    assert len(data_files(tmp_path)) == 1


def test_writes_of_one_transaction_build_on_each_other(catalog: IcebergCatalog, tmp_path: Path) -> None:
    first = staged(catalog, WriteMode.CREATE, ROWS)
    with pytest.raises(TableAlreadyExists):
        staged(catalog, WriteMode.CREATE, ROWS, first)
    second = staged(catalog, WriteMode.APPEND, ROWS, first)
    assert read(second.table) == ROWS.to_pylist() * 2
    third = staged(catalog, WriteMode.REPLACE, pa.table({"z": [1]}), second)
    fourth = staged(catalog, WriteMode.CREATE_APPEND, pa.table({"z": [2]}), third)
    assert (fourth.rows, read(fourth.table)) == (1, [{"z": 1}, {"z": 2}])
    assert commit(catalog, fourth).rows == 2
    assert read(catalog.load("main", "t")) == [{"z": 1}, {"z": 2}]
    assert len(data_files(tmp_path)) == 2, "replaced files of the transaction are removed"


def test_a_replacement_within_a_transaction_replaces_the_table(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE)
    first = staged(catalog, WriteMode.APPEND, ROWS)
    second = staged(catalog, WriteMode.REPLACE, pa.table({"name": [1]}), first)
    third = staged(catalog, WriteMode.APPEND, pa.table({"name": [2]}), second)
    assert read(third.table) == [{"name": 1}, {"name": 2}]
    commit(catalog, third)
    assert read(catalog.load("main", "t")) == [{"name": 1}, {"name": 2}]


def test_an_append_goes_on_top_of_what_was_appended_meanwhile(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE)
    late = staged(catalog, WriteMode.APPEND, ROWS)
    write(catalog, WriteMode.APPEND)
    commit(catalog, late)
    assert len(read(catalog.load("main", "t"))) == 6


def test_a_replacement_replaces_what_was_appended_meanwhile(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE)
    late = staged(catalog, WriteMode.REPLACE, ROWS)
    write(catalog, WriteMode.APPEND)
    commit(catalog, late)
    assert read(catalog.load("main", "t")) == ROWS.to_pylist()


@pytest.mark.parametrize("mode", [WriteMode.APPEND, WriteMode.REPLACE])
def test_rows_for_columns_that_changed_meanwhile_are_not_committed(
    catalog: IcebergCatalog, mode: WriteMode
) -> None:
    write(catalog, WriteMode.CREATE)
    late = staged(catalog, mode, ROWS)
    write(catalog, WriteMode.REPLACE, pa.table({"id": ["other"]}))
    with pytest.raises(CommitConflict):
        commit(catalog, late)
    assert read(catalog.load("main", "t")) == [{"id": "other"}]


def test_rows_for_a_table_that_was_dropped_meanwhile_are_not_committed(catalog: IcebergCatalog) -> None:
    write(catalog, WriteMode.CREATE)
    late = staged(catalog, WriteMode.APPEND, ROWS)
    catalog.drop_table("main", "t")
    with pytest.raises(TableNotFound):
        commit(catalog, late)
    write(catalog, WriteMode.CREATE)
    with pytest.raises(CommitConflict):
        commit(catalog, late)
    assert read(catalog.load("main", "t")) == ROWS.to_pylist()


@pytest.mark.parametrize(("again", "error"), [(False, TableNotFound), (True, CommitConflict)])
def test_a_drop_in_the_middle_of_a_commit_is_noticed(
    catalog: IcebergCatalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    again: bool,
    error: type[Exception],
) -> None:
    write(catalog, WriteMode.CREATE)
    late = staged(catalog, WriteMode.APPEND, ROWS)
    real = catalog.objects.commit_table

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(catalog.objects, "commit_table", real)
        other = opened(tmp_path)
        other.drop_table("main", "t")
        if again:
            write(other, WriteMode.CREATE)
        return real(*arguments)

    monkeypatch.setattr(catalog.objects, "commit_table", overtaken)
    with pytest.raises(error):
        commit(catalog, late)
    assert len(list(tmp_path.rglob("snap-*.avro"))) == (2 if again else 1)


def test_of_two_creations_one_fails_and_stores_nothing(catalog: IcebergCatalog) -> None:
    first, second = (staged(catalog, WriteMode.CREATE, ROWS) for _ in range(2))
    commit(catalog, first)
    with pytest.raises(TableAlreadyExists):
        commit(catalog, second)
    assert read(catalog.load("main", "t")) == ROWS.to_pylist()


def test_a_table_cannot_be_created_in_a_schema_that_was_dropped_meanwhile(catalog: IcebergCatalog) -> None:
    late = staged(catalog, WriteMode.CREATE, ROWS)
    catalog.drop_schema("main")
    with pytest.raises(SchemaNotFound):
        commit(catalog, late)
    catalog.create_schema("main")
    assert catalog.tables("main") == []


def test_many_appends_keep_rows_in_order_and_manifests_few(catalog: IcebergCatalog, tmp_path: Path) -> None:
    write(catalog, WriteMode.CREATE, pa.table({"n": [0]}))
    with catalog.objects.load_table(("main", "t")).transaction() as transaction:
        transaction.set_properties({"commit.manifest.min-count-to-merge": "5"})
    for number in range(1, 18):
        table = write(catalog, WriteMode.APPEND, pa.table({"n": [number]}))
    assert [row["n"] for row in read(table)] == list(range(18))
    snapshot = table.metadata.current_snapshot()
    assert snapshot is not None
    manifests = snapshot.manifests(catalog.objects.load_table(("main", "t")).io)
    sizes = sorted(manifest.existing_files_count or 1 for manifest in manifests)
    assert sizes == [1, 1, 1, 5, 5, 5], "five of a size become one"
    afresh = opened(tmp_path).load("main", "t")
    assert afresh.files() == table.files()
    assert [sum(file.rows for file in afresh.files(s.snapshot_id)) for s in afresh.snapshots()] == [
        *range(1, 19)
    ]
    assert catalog.objects.load_table(("main", "t")).scan().to_arrow().num_rows == 18
    write(catalog, WriteMode.REPLACE, pa.table({"n": [99]}))
    assert read(catalog.load("main", "t")) == [{"n": 99}]


def test_small_batches_become_full_row_groups(tmp_path: Path) -> None:
    catalog = opened(tmp_path, FileLimits(rows_per_group=100))
    catalog.create_schema("main")
    batches = (pa.record_batch({"n": [n]}) for n in range(250))
    rows = stage(catalog, NAME, WriteMode.CREATE, pa.schema([("n", pa.int64())]), batches, lambda: False)
    (file,) = rows.table.files()
    footer = pq.read_metadata(file.path)
    assert [footer.row_group(n).num_rows for n in range(footer.num_row_groups)] == [100, 100, 50]
    assert [row["n"] for row in read(rows.table)] == list(range(250))


def test_large_batches_are_parted_into_row_groups_and_files(tmp_path: Path) -> None:
    catalog = opened(tmp_path, FileLimits(target_bytes=100_000, rows_per_group=10_000))
    catalog.create_schema("main")
    values = pa.table({"f": [math.sin(n) for n in range(100_000)]})
    table = write(catalog, WriteMode.CREATE, values)
    files = table.files()
    assert len(files) == 5
    assert {file.rows for file in files} == {20_000}
    assert all(file.size_bytes < 200_000 for file in files)
    assert read(table) == values.to_pylist(), "rows stay in order"


def test_wide_rows_do_not_make_huge_row_groups(catalog: IcebergCatalog) -> None:
    wide = pa.table({"b": [bytes(10_000_000)] * 20})
    staged_rows = staged(catalog, WriteMode.CREATE, wide)
    (file,) = staged_rows.table.files()
    footer = pq.read_metadata(file.path)
    assert [footer.row_group(n).num_rows for n in range(footer.num_row_groups)] == [5, 5, 5, 5]
    assert staged_rows.rows == 20


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_write_leaves_no_file(catalog: IcebergCatalog, tmp_path: Path, after: int) -> None:
    polls = iter(range(100))
    batch = pa.record_batch({"n": range(200_000)})
    with pytest.raises(StatementCancelled):
        stage(catalog, NAME, WriteMode.CREATE, batch.schema, [batch] * 50, lambda: next(polls) >= after)
    assert data_files(tmp_path) == []
    assert not catalog.table_exists("main", "t")


class ClientGone(Exception):
    pass


def test_a_source_that_fails_halfway_leaves_no_file(catalog: IcebergCatalog, tmp_path: Path) -> None:
    batch = pa.record_batch({"n": range(200_000)})

    def rows() -> Iterator[pa.RecordBatch]:
        yield from [batch] * 3
        raise ClientGone

    with pytest.raises(ClientGone):
        stage(catalog, NAME, WriteMode.CREATE, batch.schema, rows(), lambda: False)
    assert data_files(tmp_path) == []


def test_values_too_precise_leave_no_file(catalog: IcebergCatalog, tmp_path: Path) -> None:
    times = pa.array([*range(0, 300_000_000, 1000), 1], pa.int64()).view(pa.timestamp("ns"))
    with pytest.raises(TypeNotStorable):
        write(catalog, WriteMode.CREATE, pa.table({"t": times}))
    assert data_files(tmp_path) == []


def test_batches_of_another_schema_are_refused(catalog: IcebergCatalog) -> None:
    schema = pa.schema([("s", pa.string())])
    other = pa.record_batch({"t": ["x"]})
    with pytest.raises(InvalidRequest, match="expected"):
        stage(catalog, NAME, WriteMode.CREATE, schema, [other], lambda: False)
