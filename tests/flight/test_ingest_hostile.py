"""Awkward files, as users bring them: each becomes a table, or leaves a clear word and no trace."""

from __future__ import annotations

import gzip
import io
import random
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Server, start_server
from lakehouse_client import Client, LakehouseClientError, connect

GARBAGE = random.Random(7).randbytes(5000)
WIDE = 1000


def parquet(table: pa.Table) -> bytes:
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return written.getvalue()


NESTED = [None, {"x": [1, None, 3], "y": None}, {"x": None, "y": {"z": "q"}}, {"x": [], "y": {"z": None}}]
PLAIN = [{"id": 1, "name": "ü"}]
STORED: dict[str, tuple[bytes, list[dict[str, Any]]]] = {
    "mark.csv": ("\ufeffid,name\n1,ü\n".encode(), PLAIN),
    "utf-16.csv": ("id,name\n1,ü\n".encode("utf-16"), PLAIN),
    "windows.csv": ("id,name\n1,ü\n".encode("windows-1252"), PLAIN),
    "returns.csv": ("id,name\r1,ü\r".encode(), PLAIN),
    "quotes.csv": (b'id,name\n1,"a\nb ""q"", c"\n', [{"id": 1, "name": 'a\nb "q", c'}]),
    "header.csv": (b"id,name\n", []),
    "zero.csv": (b"id,name\n1,a\0b\n", [{"id": 1, "name": "a\0b"}]),
    "formulas.csv": (
        b"id,f\n1,=cmd|' /C calc'!A0\n2,@SUM(1)\n3,+1\n4,\"'; DROP TABLE x; --\"\n",
        [
            {"id": 1, "f": "=cmd|' /C calc'!A0"}, {"id": 2, "f": "@SUM(1)"}, {"id": 3, "f": "+1"},
            {"id": 4, "f": "'; DROP TABLE x; --"},
        ],
    ),
    "letters.csv": (b"id,ID,Id,iD_2\n1,2,3,4\n", [{"id": 1, "ID_3": 2, "Id_4": 3, "iD_2": 4}]),
    "Größe 日本 %20?#'.csv": ("Größe,日本\n1,x\n".encode(), [{"Grosse": 1, "column_2": "x"}]),
    "ragged.csv": (b"id,name\n1,x\n2\n3,y,z\n4,w\n", [{"id": 1, "name": "x"}, {"id": 4, "name": "w"}]),
    "up.zip": (archive({"../../up.csv": b"a\n1\n", "empty.csv": b""}), [{"a": 1}]),
    "letters.json": (b'{"a":1,"a":2}\n{"A":3}\n', [{"a": 2, "A_2": None}, {"a": None, "A_2": 3}]),
    "infinite.json": (b'{"a":NaN}\n{"a":1e999}\n', [{"a": "NaN"}, {"a": "1e999"}]),
    "nested.parquet": (parquet(pa.table({"a": NESTED})), [{"a": value} for value in NESTED]),
    "letters.parquet": (parquet(pa.table({"a": [1], "A": [2]})), [{"a": 1, "A_2": 2}]),
    "wide.csv": (
        f"{','.join(f'c{n}' for n in range(WIDE))}\n{','.join(['1'] * WIDE)}\n".encode(),
        [{f"c{n}": 1 for n in range(WIDE)}],
    ),
}  # fmt: skip
CUT = gzip.compress("".join(f"{n},{n * n}\n" for n in range(100_000)).encode())[:-2000]
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty: it has neither names of columns nor rows"),
    "blank.csv": (b"\n\n", "is empty"),
    "line.csv": (b"id,name\n1," + b"x" * 20_000_000, "line 2: a row of more than 16777216 bytes"),
    "bomb.csv.gz": (gzip.compress(b"id\n" + b"0" * 300_000_000), "line 2: a row of more than 16777216 bytes"),
    "cut.csv.gz": (CUT, "is cut off: its gzip data ends in the middle"),
    "zeros.csv": (bytes(10_000), "is no text, and of no other format"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\0\0\0" + GARBAGE, "is no text, and of no other format"),
    **{
        f"garbage.{ending}": (GARBAGE, "is no text, and of no other format")
        for ending in ("csv", "json", "parquet", "arrow", "avro", "orc", "xlsx")
    },
    "damaged.parquet": (b"PAR1" + GARBAGE + b"PAR1", "is no Parquet file, or is damaged or cut off"),
    "damaged.arrow": (b"ARROW1\0\0" + GARBAGE, "is no Arrow file, or is damaged or cut off"),
    "damaged.avro": (b"Obj\x01" + GARBAGE, "is no Avro file, or is damaged or cut off"),
    "damaged.xlsx": (b"PK\x03\x04" + GARBAGE, "cut off or damaged: a zip archive has a table of contents"),
    "damaged.gz": (b"\x1f\x8b" + GARBAGE, "is damaged: its gzip data makes no sense"),
    "cut.json": (b'{"a":1}\n{"a":\n', "is cut off: its JSON ends within a value"),
    "half.json": (b'{"a":"\\ud800"}\n', "line 1: "),
    "deep.jsonl": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "line 1: "),
    "scalars.json": (b"1\n2\n", "so there is no column; line 1: no JSON object"),
    "mixed.zip": (archive({"a.csv": b"a\n1\n", "b.json": b'{"a":1}'}), "different formats: 'a.csv' is csv"),
    "none.parquet": (parquet(pa.table({})), "has no column"),
}  # fmt: skip
UNSTORABLE: dict[str, tuple[bytes, str]] = {
    "letters in.parquet": (
        parquet(pa.table({"s": [{"a": 1, "A": 2}]})),
        "the struct 's' has two columns of the same name, 'a' and 'A'",
    ),
    "nano.parquet": (parquet(pa.table({"t": pa.array([1001], pa.timestamp("ns"))})), "'t' has values that"),
    "span.parquet": (
        parquet(pa.table({"t": pa.array([1], pa.duration("s"))})),
        "'t' has the type duration[s]",
    ),
}


@dataclass
class Place:
    """A server, what a client says to it, and the directory of its bucket."""

    server: Server
    lake: Client
    bucket: Path
    numbers: Iterator[int]

    def put(self, name: str, content: bytes) -> str:
        path = self.bucket / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"in/{name}"

    def brought(self, how: str, name: str, content: bytes) -> tuple[str, int, int]:
        """Bring a file in; gives the table, and how many rows were stored and rejected."""
        table = f"t{next(self.numbers)}"
        if how == "action":
            request = {"key": self.put(name, content), "table": table, "on_error": "reject"}
            told = self.lake.call("ingest.file", request)
        else:
            sent = self.lake.ingest_file(io.BytesIO(content), table, file=name, on_error="reject")
            told = asdict(sent)
        assert told["rows_in"] == told["rows_stored"] + told["rows_rejected"]
        return table, told["rows_stored"], told["rows_rejected"]

    @property
    def peak(self) -> int:
        """How much memory the server has ever taken."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = start_server(tmp_path_factory.mktemp("hostile"), '[auth]\nanonymous_role = "admin"')
    with connect(server.uri) as lake:
        yield Place(server, lake, server.directory / "bucket", iter(range(1000)))
    assert server.stop() == 0
    assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize("how", ["action", "upload"])
@pytest.mark.parametrize("name", STORED)
def test_what_can_be_read_is_stored_as_it_is(place: Place, name: str, how: str) -> None:
    content, expected = STORED[name]
    table, stored, rejected = place.brought(how, name, content)
    assert place.lake.sql(f"SELECT * FROM {table}").table().to_pylist() == expected
    assert (stored, rejected) == (len(expected), 2 if name == "ragged.csv" else 0)
    if how == "action" and expected:
        seen = place.lake.call("ingest.preview", {"key": f"in/{name}"})
        assert [column["name"] for column in seen["columns"]] == list(expected[0])


@pytest.mark.parametrize("how", ["action", "upload"])
@pytest.mark.parametrize("name", [*REFUSED, *UNSTORABLE])
def test_what_cannot_be_read_is_told_and_leaves_nothing(place: Place, name: str, how: str) -> None:
    content, message = {**REFUSED, **UNSTORABLE}[name]
    before, stored = place.peak, files(place.bucket)
    with pytest.raises(LakehouseClientError) as raised:
        place.brought(how, name, content)
    told = str(raised.value)
    assert message in told
    assert raised.value.code in ("INVALID_REQUEST", "SCHEMA_MISMATCH", "TYPE_NOT_STORABLE")
    assert name in UNSTORABLE or name == "mixed.zip" or name.removesuffix(".gz") in told
    assert not any(inside in told for inside in ("Traceback", "pyarrow", str(place.bucket)))
    assert files(place.bucket) == stored
    assert place.peak - before < 300_000_000
    if how == "action" and name in REFUSED:
        with pytest.raises(LakehouseClientError, match=re.escape(message)):
            place.lake.call("ingest.preview", {"key": f"in/{name}"})


def files(bucket: Path) -> set[Path]:
    """All files of tables."""
    return {path for path in (bucket / "warehouse").rglob("*") if path.is_file()}


def test_names_of_tables(place: Place) -> None:
    lake, key = place.lake, place.put("names.csv", b"id\n1\n")
    for table in ("Größe 日本", 'with "quotes" and \'', "select", "UPPER", "../../a", "..", "x" * 300):
        run = lake.call("ingest.file", {"key": key, "table": table, "db_schema": "ÜnÏ 名"})
        assert run["state"] == "succeeded", table
        again = lake.call("ingest.file", {"key": key, "table": table.lower(), "db_schema": "ÜNÏ 名"})
        assert again["state"] == "repeated", table
    assert lake.sql('SELECT id FROM "ÜNÏ 名"."größe 日本"').table().to_pylist() == [{"id": 1}]
    assert {path.name for path in place.bucket.iterdir() if path.name[0] != "_"} == {"warehouse", "in"}
    for table in ("", "a\0b"):
        with pytest.raises(LakehouseClientError) as raised:
            lake.call("ingest.file", {"key": key, "table": table, "db_schema": "names"})
        assert raised.value.code == "INVALID_REQUEST", table
