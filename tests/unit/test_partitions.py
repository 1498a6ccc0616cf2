"""Writing partitioned and sorted tables: every row in the file of its partition, once, in order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import AlwaysTrue, EqualTo, IsNull
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.sorting import NullOrder
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    TruncateTransform,
    VoidTransform,
    YearTransform,
)
from pyiceberg.types import NestedField, TimestampType

from lakehouse.catalog import IcebergCatalog
from lakehouse.catalog.commit import rewriting
from lakehouse.catalog.iceberg_catalog import FileLimits
from lakehouse.clock import FixedClock
from lakehouse.errors import CommitConflict, SchemaMismatch, StatementCancelled
from lakehouse.ingest import WriteMode, clustering, commit, discard, stage
from lakehouse.ingest.writer import stage_for
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

NAME = TableName("lake", "main", "t")
EPOCH = datetime.fromisoformat("1970-01-01")
MOMENTS = [
    None,
    EPOCH,
    datetime.fromisoformat("1969-12-31T23:59:59.999999"),
    datetime.fromisoformat("0001-01-01"),
    datetime.fromisoformat("9999-12-31T23:00:00"),
]
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "i": (pa.int32(), [None, 0, -1, 7, 2**31 - 1, 8 - 2**31]),
    "l": (pa.int64(), [None, 0, -11, 2**63 - 1, -(2**62)]),
    "f": (pa.float64(), [None, 0.0, -0.0, math.nan, math.inf, 1.5]),
    "b": (pa.bool_(), [None, True, False]),
    "s": (pa.string(), [None, "", "a/b?*[c]", "..", "日本語𐍈é", "x" * 300, "NULL", "null"]),
    "x": (pa.binary(), [None, b"", b"\x00\xff/", b"abcdef"]),
    "n": (pa.decimal128(9, 2), [None, Decimal("-14.29"), Decimal("0.00"), Decimal("1234567.89")]),
    "w": (pa.decimal128(38, 3), [None, Decimal(-(10**34)), Decimal("0.001")]),
    "u": (pa.uuid(), [None, UUID(int=0).bytes, UUID(int=2**128 - 1).bytes]),
    "d": (pa.date32(), [None, date(1970, 1, 1), date(1969, 12, 31), date(1, 1, 1), date(9999, 12, 31)]),
    "t": (pa.time64("us"), [None, time(0), time(23, 59, 59, 999999)]),
    "ts": (pa.timestamp("us"), MOMENTS),
    "tz": (pa.timestamp("us", "UTC"), [m and m.replace(tzinfo=UTC) for m in MOMENTS]),
}
CASES = [
    *[(column, IdentityTransform()) for column in VALUES],
    *[(column, BucketTransform(5)) for column in VALUES if column not in "fb"],
    *[(column, TruncateTransform(10)) for column in ("i", "l", "s", "x", "n", "w")],
    *[
        (column, each())
        for column in ("ts", "tz")
        for each in (YearTransform, MonthTransform, DayTransform, HourTransform)
    ],
    *[("d", each()) for each in (YearTransform, MonthTransform, DayTransform)],
    ("s", VoidTransform()),
]


@pytest.fixture
def catalog(tmp_path: Path) -> IcebergCatalog:
    limits = FileLimits(target_bytes=1 << 20, rows_per_group=1000)
    catalog = IcebergCatalog(
        "lake", open_local_bucket("primary", tmp_path), "warehouse", FixedClock(), limits=limits
    )
    catalog.create_schema("main")
    return catalog


def write(catalog: IcebergCatalog, rows: pa.Table, mode: WriteMode = WriteMode.APPEND) -> None:
    commit(catalog, stage(catalog, NAME, mode, rows.schema, rows.to_batches(), lambda: False))


def created(
    catalog: IcebergCatalog, rows: pa.Table, *fields: tuple[str, Any], order: tuple[tuple[Any, ...], ...] = ()
) -> IcebergTable:
    write(catalog, rows.slice(0, 0), WriteMode.CREATE)
    table = catalog.objects.load_table(("main", "t"))
    with table.update_spec() as update:
        for column, transform in fields:
            update.add_field(
                column, transform, f"p_{column.replace('.', '_')}_{transform}".translate({91: 95, 93: 95})
            )
    if order:
        with table.update_sort_order() as update:
            for column, transform, direction, nulls in order:
                (update.asc if direction == "asc" else update.desc)(column, transform, nulls)
    return table


def tasks(catalog: IcebergCatalog) -> list[tuple[Any, pa.Table]]:
    """Each data file's record with its rows, by a reader that is not ours."""
    table = catalog.objects.load_table(("main", "t"))
    found = []
    for task in table.scan().plan_files():
        path = task.file.file_path.removeprefix("file://")
        found.append((task.file, pq.ParquetFile(path).read()))
    return found


def same(left: pa.Table, right: pa.Table) -> bool:
    return sorted(map(repr, left.to_pylist())) == sorted(map(repr, right.to_pylist()))


@pytest.mark.parametrize(("column", "transform"), CASES, ids=str)
def test_every_row_is_in_the_file_of_its_partition(
    catalog: IcebergCatalog, column: str, transform: Any
) -> None:
    kind, values = VALUES[column]
    chosen = random.Random(5).choices(values, k=300)
    rows = pa.table({"id": range(300), column: pa.array(chosen, kind)})
    table = created(catalog, rows, (column, transform))
    field = table.schema().find_field(column)
    expected = transform.transform(field.field_type)
    write(catalog, rows)
    partitions = set()
    for file, found in tasks(catalog):
        partitions.add(repr(file.partition))
        physical = found[column].combine_chunks()
        if pa.types.is_temporal(kind):
            physical = physical.cast(pa.int32() if kind == pa.date32() else pa.int64())
        for value in set(map(repr, physical.to_pylist())):
            plain = next(v for v in physical.to_pylist() if repr(v) == value)
            made = expected(UUID(bytes=plain) if isinstance(plain, bytes) and column == "u" else plain)
            assert repr(made) == repr(file.partition[0])
    assert len(partitions) == len(tasks(catalog))
    table = catalog.objects.load_table(("main", "t"))
    assert same(pa.concat_tables(found for _, found in tasks(catalog)), rows)
    assert table.scan(IsNull(column)).to_arrow().num_rows == chosen.count(None)
    assert table.scan(EqualTo("id", 7)).to_arrow().num_rows == 1
    assert {file.spec_id for file, _ in tasks(catalog)} == {table.spec().spec_id}


def test_several_fields_nested_ones_and_null_structs(catalog: IcebergCatalog) -> None:
    rows = pa.table(
        {"s": [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}] * 50, "k": [1, 2, 3] * 50, "n": range(150)}
    )
    created(
        catalog, rows, ("s.a", IdentityTransform()), ("k", BucketTransform(2)), ("n", TruncateTransform(50))
    )
    write(catalog, rows)
    for file, found in tasks(catalog):
        for row in found.to_pylist():
            assert file.partition[0] == (row["s"] and row["s"]["a"])
            assert file.partition[2] == row["n"] // 50 * 50
    assert same(pa.concat_tables(found for _, found in tasks(catalog)), rows)


def test_thousands_of_partitions_take_few_open_files_and_little_memory(
    catalog: IcebergCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "_HELD_BYTES", 200_000)
    monkeypatch.setattr(clustering, "_PART_BYTES", 100_000)
    monkeypatch.setattr(clustering, "_LEAST_BYTES", 20_000)
    monkeypatch.setattr(clustering, "_OPEN_FILES", 3)
    opened, most = 0, 0
    original = type(catalog.bucket).open_writer

    def counted(self: Any, key: str) -> Any:
        nonlocal opened, most
        writer = original(self, key)
        opened, most = opened + 1, max(most, opened + 1)
        close = writer.close

        def closed() -> None:
            nonlocal opened
            opened -= 1
            close()

        monkeypatch.setattr(writer, "close", closed, raising=False)
        return writer

    monkeypatch.setattr(type(catalog.bucket), "open_writer", counted)
    picked = random.Random(3)
    keys = [picked.choice([1, 2, 3, 4, picked.randrange(1500)]) for _ in range(60_000)]
    rows = pa.table(
        {"k": pa.array(keys, pa.int64()), "n": range(60_000), "s": [f"text {n}" for n in range(60_000)]}
    )
    created(catalog, rows, ("k", IdentityTransform()))
    write(catalog, rows)
    found = tasks(catalog)
    assert most <= 4, "three, and at the end one more"
    assert same(pa.concat_tables(rows for _, rows in found), rows)
    assert all(set(part["k"].to_pylist()) == {file.partition[0]} for file, part in found)
    assert len({file.partition[0] for file, _ in found}) == len(set(keys))
    assert len(found) <= len(set(keys)) + 10
    assert max(file.record_count for file, _ in found) > 10_000


def test_rows_that_come_by_partition_are_written_as_they_come(
    catalog: IcebergCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "_PART_BYTES", 20_000)
    monkeypatch.setattr(clustering, "_OPEN_FILES", 2)
    monkeypatch.setattr(clustering, "tempfile", None)
    rows = pa.table({"k": [n // 3000 for n in range(30_000)], "n": range(30_000)})
    created(catalog, rows, ("k", IdentityTransform()))
    write(catalog, rows)
    assert sorted(file.partition[0] for file, _ in tasks(catalog)) == list(range(10))
    assert same(pa.concat_tables(found for _, found in tasks(catalog)), rows)


SORT_KEYS = [
    ("f", "desc", NullOrder.NULLS_FIRST),
    ("f", "asc", NullOrder.NULLS_LAST),
    ("s", "asc", NullOrder.NULLS_FIRST),
]


def ordered(value: Any, direction: str, nulls: NullOrder) -> tuple[Any, ...]:
    missing = value is None
    rank = (0 if missing else 1) if nulls is NullOrder.NULLS_FIRST else (1 if missing else 0)
    if missing:
        return (rank,)
    if isinstance(value, float):
        key = (math.isnan(value), 0.0 if math.isnan(value) else value, math.copysign(1, value))
        return (rank, *(-part for part in key)) if direction == "desc" else (rank, *key)
    return (rank, value.encode())


@pytest.mark.parametrize(("column", "direction", "nulls"), SORT_KEYS)
@pytest.mark.parametrize("partitioned", [True, False])
def test_rows_are_sorted_as_the_table_wants(
    catalog: IcebergCatalog, column: str, direction: str, nulls: NullOrder, partitioned: bool
) -> None:
    picked = random.Random(1)
    kind, values = VALUES[column]
    rows = pa.table(
        {column: pa.array(picked.choices(values, k=5000), kind), "n": [n % 3 for n in range(5000)]}
    )
    fields = [("n", IdentityTransform())] if partitioned else []
    table = created(catalog, rows, *fields, order=((column, IdentityTransform(), direction, nulls),))
    write(catalog, rows)
    found = tasks(catalog)
    assert len(found) == (3 if partitioned else 1)
    assert same(pa.concat_tables(part for _, part in found), rows)
    for file, part in found:
        assert file.sort_order_id == table.refresh().sort_order().order_id != 0
        keys = [ordered(value, direction, nulls) for value in part[column].to_pylist()]
        assert keys == sorted(keys)


def test_a_file_of_several_sorted_parts_does_not_claim_to_be_sorted(
    catalog: IcebergCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "_PART_BYTES", 20_000)
    rows = pa.table({"n": list(range(5000))[::-1]})
    created(catalog, rows, order=(("n", BucketTransform(4), "asc", NullOrder.NULLS_FIRST),))
    write(catalog, rows)
    ((file, _),) = tasks(catalog)
    assert file.sort_order_id is None
    assert file.record_count == 5000


def test_new_files_follow_a_changed_partitioning_and_old_ones_stay(catalog: IcebergCatalog) -> None:
    rows = pa.table({"a": ["x", "y"] * 10, "n": range(20)})
    table = created(catalog, rows)
    write(catalog, rows)
    with table.refresh().update_spec() as update:
        update.add_field("a", IdentityTransform(), "pa")
    write(catalog, rows)
    with table.refresh().update_spec() as update:
        update.remove_field("pa")
        update.add_field("n", BucketTransform(3), "pn")
    write(catalog, rows)
    found = tasks(catalog)
    assert {(file.spec_id, len(file.partition)) for file, _ in found} >= {(0, 0), (1, 1)}
    assert same(pa.concat_tables(part for _, part in found), pa.concat_tables([rows] * 3))
    # Rewriting some files of each, and then replacing all, keeps the manifests of every spec right.
    seen = catalog.view(NAME, table.refresh().metadata)
    gone = [f for f in seen.files() if f.uri in {file.file_path for file, _ in found[::2]}]
    kept = [part for file, part in found if file.file_path not in {f.uri for f in gone}]
    fresh = pa.table({"a": ["z"], "n": [100]})
    target = rewriting(seen, gone)
    commit(catalog, stage_for(catalog, target, fresh.schema, fresh.to_batches(), lambda: False))
    assert same(pa.concat_tables(part for _, part in tasks(catalog)), pa.concat_tables([*kept, fresh]))
    assert table.refresh().scan(EqualTo("a", "z")).to_arrow().num_rows == 1
    write(catalog, fresh, WriteMode.REPLACE)
    assert table.refresh().scan().to_arrow().to_pylist() == fresh.to_pylist()
    summary = table.current_snapshot().summary
    assert (summary["total-records"], summary["total-data-files"]) == ("1", "1")
    table.delete(AlwaysTrue())
    assert table.refresh().scan().to_arrow().num_rows == 0


def test_a_partitioning_that_changes_meanwhile_is_a_conflict(catalog: IcebergCatalog) -> None:
    rows = pa.table({"a": ["x", "y"]})
    table = created(catalog, rows, ("a", IdentityTransform()))
    staged = stage(catalog, NAME, WriteMode.APPEND, rows.schema, rows.to_batches(), lambda: False)
    with table.update_spec() as update:
        update.add_field("a", BucketTransform(4), "again")
    with pytest.raises(CommitConflict, match="partitioning"):
        commit(catalog, staged)
    discard(catalog, staged)
    assert tasks(catalog) == []


def test_columns_of_the_partitioning_stay_when_the_others_are_replaced(catalog: IcebergCatalog) -> None:
    rows = pa.table({"a": ["x", "y"], "n": [1, 2]})
    created(catalog, rows, ("a", IdentityTransform()))
    write(catalog, pa.table({"a": ["z"], "m": [1.5]}), WriteMode.REPLACE)
    ((file, part),) = tasks(catalog)
    assert (file.partition[0], part.to_pylist()) == ("z", [{"a": "z", "m": 1.5}])
    with pytest.raises(SchemaMismatch, match="column 'a'"):
        write(catalog, pa.table({"m": [1.5]}), WriteMode.REPLACE)


def test_nothing_is_left_of_a_write_that_fails(catalog: IcebergCatalog, tmp_path: Path) -> None:
    rows = pa.table({"k": range(5000)})
    created(catalog, rows, ("k", TruncateTransform(100)))

    def endless() -> Iterator[pa.RecordBatch]:
        yield from rows.to_batches() * 3

    asked = iter([False, False, True])
    with pytest.raises(StatementCancelled):
        stage(catalog, NAME, WriteMode.APPEND, rows.schema, endless(), lambda: next(asked))
    assert list(tmp_path.rglob("*.parquet")) == []
    far = pa.table({"ts": pa.array([2**63 - 1], pa.int64()).cast(pa.timestamp("us"))})
    schema = Schema(NestedField(1, "ts", TimestampType()))
    spec = PartitionSpec(PartitionField(1, 1000, DayTransform(), "d"))
    catalog.objects.create_table(("main", "far"), schema, partition_spec=spec)
    with pytest.raises(SchemaMismatch, match=r"partition|too far"):
        stage(
            catalog,
            TableName("lake", "main", "far"),
            WriteMode.APPEND,
            far.schema,
            far.to_batches(),
            lambda: False,
        )
    assert list(tmp_path.rglob("*.parquet")) == []
