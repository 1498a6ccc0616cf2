"""Files that know their types."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from source_results import Result, never, silent

from lakehouse.errors import InvalidRequest, LimitExceeded
from lakehouse.ingest.sources.byte_source import BucketObject, LocalFile
from lakehouse.ingest.sources.file_options import FileLimits, FileOptions
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.source import OnError
from lakehouse.storage import open_local_bucket

NESTS = pa.list_(pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))]))
NESTED = pa.table(
    {
        "n": pa.array([1, None, 3], pa.int32()),
        "s": pa.array(["a", None, "=1+1"]),
        "l": pa.array([[{"x": 1, "y": [None, "b"]}, None], None, []], NESTS),
        "d": pa.array([date(2024, 1, 31), None, None]),
        "c": pa.array(["x", "y", None]).dictionary_encode(),
    }
)  # fmt: skip


def stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "parquet": lambda table, path: pq.write_table(table, path, row_group_size=2),
    "feather": lambda table, path: pyarrow.feather.write_feather(table, str(path), "zstd", chunksize=2),
    "stream": stream,
}


def plain(table: pa.Table) -> list[Any]:
    return list(table.to_pylist())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_gives_what_it_holds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "whatever"
    WRITERS[kind](NESTED, path)
    found = Result(FileSource([LocalFile(path)]))
    assert found.inspection.schema.types == NESTED.schema.types
    assert plain(found.table) == plain(NESTED)
    (tmp_path / "x.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert plain(Result(FileSource([LocalFile(tmp_path / "x.gz")])).table) == plain(NESTED)
    for place, piece in enumerate(found.pieces, 1):
        rest = FileSource([LocalFile(path)]).read(
            found.inspection, OnError.FAIL, never, silent, piece.position
        )
        assert sum(p.rows_in for p in rest) == sum(p.rows_in for p in found.pieces[place:])


def test_orc(tmp_path: Path) -> None:
    table = NESTED.drop_columns(["c"])
    pyarrow.orc.write_table(table, str(tmp_path / "x.orc"))
    assert plain(Result(FileSource([LocalFile(tmp_path / "x.orc")])).table) == plain(table)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_file_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    WRITERS[kind](pa.table({"n": range(100_000)}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidRequest, match="is damaged or cut off"):
        Result(FileSource([LocalFile(path)]))


def test_an_object_of_a_bucket_is_read_by_ranges(tmp_path: Path) -> None:
    bucket = open_local_bucket("b", tmp_path / "bucket")
    pq.write_table(NESTED, tmp_path / "x")
    bucket.put("in/x.parquet", (tmp_path / "x").read_bytes())
    bucket.put("in/x.csv", b"a,b\n" + b"1,x\n" * 100_000)
    assert plain(Result(FileSource([BucketObject.of(bucket, "in/x.parquet")])).table) == plain(NESTED)
    source = BucketObject.of(bucket, "in/x.csv")
    found = Result(FileSource([source]))
    assert found.table.num_rows == 100_000
    assert found.inspection.identity == source.identity != ""


def test_files_that_differ_are_united_or_refused(tmp_path: Path) -> None:
    def made(*tables: pa.Table) -> FileSource:
        for number, table in enumerate(tables):
            pq.write_table(table, tmp_path / f"{number}")
        return FileSource([LocalFile(tmp_path / f"{number}") for number in range(len(tables))])

    found = Result(
        made(
            pa.table({"a": pa.array([1], pa.int32()), "b": [1.5], "c": [1]}),
            pa.table({"b": pa.array([2], pa.int64()), "a": [2**40], "c": ["x"], "D": [True]}),
        )
    )
    assert found.types == {"a": "int64", "b": "double", "c": "string", "D": "bool"}
    assert found.rows == [(1, 1.5, "1", None), (2**40, 2.0, "x", True)]
    inexact = made(pa.table({"a": [1.5]}), pa.table({"a": [2**53 + 1]}))
    assert len(Result(inexact).rejected) == 1
    with pytest.raises(InvalidRequest, match="do not agree on a column"):
        Result(made(pa.table({"a": [[1]]}), pa.table({"a": [1]})))


def test_stated_types_reject_what_does_not_fit(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1", "x", None], "n": [1, 2**40, 3], "Größe": [1, 2, 3]}), tmp_path / "x")
    source = FileSource([LocalFile(tmp_path / "x")], FileOptions(types={"id": "BIGINT", "n": "INT"}))
    found = Result(source)
    assert found.rows == [(1, 1, 1), (None, 3, 3)]
    assert found.inspection.schema.names == ["id", "n", "Grosse"]
    assert [(row.line, row.column) for row in found.rejected] == [(2, "id")]
    with pytest.raises(InvalidRequest, match="row 2, column 'id': 'x' is no int64"):
        Result(source, OnError.FAIL)


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    pq.write_table(NESTED, tmp_path / "1")
    (tmp_path / "2").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidRequest, match="files are of different formats: '1' is parquet, '2' is csv"):
        Result(FileSource([LocalFile(tmp_path / "1"), LocalFile(tmp_path / "2")]))


POINT = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "double"}]}
AVRO: dict[str, Any] = {
    "type": "record",
    "name": "r",
    "fields": [
        {"name": "n", "type": ["null", "long"]},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "m", "type": {"type": "map", "values": "int"}},
        {"name": "choice", "type": ["null", "string", "int"]},
        {"name": "l", "type": {"type": "array", "items": ["null", POINT]}},
        {"name": "p", "type": ["null", "P"]},
    ],
}  # fmt: skip


def test_avro(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 31, 10, 0, 0, 5, UTC)
    row = {
        "n": 1,
        "day": date(2024, 1, 31),
        "price": Decimal("1.10"),
        "at": moment,
        "id": UUID(int=7),
        "e": "B",
    }
    row |= {"m": {"k": 1}, "choice": 5, "l": [{"x": 0.5}, None], "p": {"x": 1.5}}
    rows = [row, {**row, "n": None, "choice": "text", "p": None}] * 1000
    with (tmp_path / "x.avro").open("wb") as target:
        fastavro.writer(target, AVRO, rows, codec="deflate", sync_interval=1000)
    found = Result(FileSource([LocalFile(tmp_path / "x.avro")]))
    assert found.types["price"] == "decimal128(10, 2)"
    wanted = {**row, "id": str(row["id"]), "choice": "5", "m": [("k", 1)]}
    assert found.table.to_pylist()[:2] == [wanted, {**wanted, "n": None, "choice": "text", "p": None}]
    assert found.table.num_rows == 2000
    whole = (tmp_path / "x.avro").read_bytes()
    for damaged in (whole[:-20], whole[:50]):
        (tmp_path / "y.avro").write_bytes(damaged)
        with pytest.raises(InvalidRequest, match="is no Avro file, or is damaged"):
            Result(FileSource([LocalFile(tmp_path / "y.avro")], FileOptions(format="avro")))


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    moment = datetime.fromisoformat("2024-01-31T10:00:05")
    sheet.append(["id", "n", "x", "code", "day", "at", "t", "ok", "mixed"])
    sheet.append([1, 5, 1.5, "007", date(2024, 1, 31), moment, time(10, 5), True, 3])
    sheet.append([])
    sheet.append([2, None, 2, "=1+1", date(2024, 2, 1), moment, time(0, 0, 1), False, "N/A"])
    sheet.cell(4, 4).data_type = "s"
    sheet.append([3, 7, 3, None, None, None, None, None, 4.5])
    book.create_sheet("Two").append(["only", 1])
    book.save(tmp_path / "x.xlsx")
    return tmp_path / "x.xlsx"


def test_a_sheet_of_a_workbook(workbook: Path) -> None:
    found = Result(FileSource([LocalFile(workbook)]))
    types = [
        "int64",
        "int64",
        "double",
        "string",
        "date32[day]",
        "timestamp[us]",
        "time64[us]",
        "bool",
        "string",
    ]
    assert list(found.types.values()) == types
    moment = datetime.fromisoformat("2024-01-31T10:00:05")
    assert found.rows == [
        (1, 5, 1.5, "007", date(2024, 1, 31), moment, time(10, 5), True, "3"),
        (2, None, 2.0, "=1+1", date(2024, 2, 1), moment, time(0, 0, 1), False, "N/A"),
        (3, 7, 3.0, None, None, None, None, None, "4.5"),
    ]
    assert "1 values would be lost, first 'N/A'" in found.column("mixed").stricter
    assert Result(FileSource([LocalFile(workbook)], FileOptions(sheet="Two"))).rows == [("only", 1)]
    with pytest.raises(InvalidRequest, match="has no sheet 'Three'"):
        Result(FileSource([LocalFile(workbook)], FileOptions(sheet="Three")))
    with pytest.raises(LimitExceeded, match="at most 1000 are taken"):
        Result(FileSource([LocalFile(workbook)], FileOptions(limits=FileLimits(max_document_bytes=1000))))
    stated = Result(FileSource([LocalFile(workbook)], FileOptions(types={"mixed": "DOUBLE"})))
    assert [(row.column, row.line) for row in stated.rejected] == [("mixed", 2)]
    assert stated.table.num_rows == 2


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_files_are_the_same_only_where_all_of_them_are_known_to_be(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"id": [1]}), path)
    else:
        path.write_text("id\n1\n" if name.endswith("csv") else '{"id": 1}\n')

    def identity(*known: str) -> str:
        source = FileSource([LocalFile(path, identity=each) for each in known])
        return source.inspect(never, silent).identity

    assert identity("x", "y") == identity("x", "y") != identity("x", "z")
    assert identity("", "") == identity("x", "") == identity("") == ""
