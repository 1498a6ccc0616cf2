"""JSON and JSON Lines: JSON's own types where all values agree, the text where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from source_results import Result, never, silent

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.byte_source import LocalFile
from lakehouse.ingest.sources.file_options import FileLimits, FileOptions
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.source import OnError

SMALL = FileLimits(block_bytes=64, sample_bytes=64, max_row_bytes=1000)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reading(
        content: bytes | str, name: str = "x.jsonl", on_error: OnError = OnError.REJECT, **options: Any
    ) -> Result:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Result(FileSource([LocalFile(path)], FileOptions(**options)), on_error)

    return reading


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        ("1|2|null", "int64", [1, 2, None]),
        ("1|2.5", "double", [1.0, 2.5]),
        ("9223372036854775807|1", "int64", [2**63 - 1, 1]),
        ("9223372036854775808|1", "string", ["9223372036854775808", "1"]),
        ("9007199254740993|0.5", "string", ["9007199254740993", "0.5"]),
        ("0.1234567890123456789|1", "string", ["0.1234567890123456789", "1"]),
        ("0.30000000000000004|1e-3", "double", [0.30000000000000004, 0.001]),
        ("1e-400|1", "string", ["1e-400", "1"]),
        ('"1"|"2"', "string", ["1", "2"]),
        ('1|"N/A"|""', "string", ["1", "N/A", ""]),
        ('"2024-01-01"|"2024-01-02"', "string", ["2024-01-01", "2024-01-02"]),
        ("true|false", "bool", [True, False]),
        ("true|0", "string", ["true", "0"]),
        ("[1,null]|[]|null", "list<element: int64>", [[1, None], [], None]),
        ('[1,"a"]|[]', "string", ['[1,"a"]', "[]"]),
        ('{"x":1}|{"y":""}', "struct<x: int64, y: string>", [{"x": 1, "y": None}, {"x": None, "y": ""}]),
        ('{"x":1}|{"x":"a"}|null', "string", ['{"x":1}', '{"x":"a"}', None]),
        ('{"x": 1.10}|[2]', "string", ['{"x": 1.10}', "[2]"]),
        ('{"x":1,"X":2}|{}', "string", ['{"x":1,"X":2}', "{}"]),
        ("{}|{}", "string", ["{}", "{}"]),
        ("[]|null", "list<element: string>", [[], None]),
        ("null|null", "string", [None, None]),
        ('"\\u00e9\\ud83d\\ude00\\n"|"=1+1"', "string", ["é😀\n", "=1+1"]),
    ],
)  # fmt: skip
def test_a_field_has_the_type_of_all_its_values_or_is_their_text(
    read: Any, values: str, type_: str, expected: list[Any]
) -> None:
    for content in (
        "".join(f'{{"n":{n},"v":{value}}}\n' for n, value in enumerate(values.split("|"))),
        "["
        + ",\n ".join(f'{{"n":{n}\n,\n"v":{value}}}' for n, value in enumerate(values.split("|")))
        + "\n]",
        "".join(f'{{\n"n":{n},\r\n"v" : {value}}}\n' for n, value in enumerate(values.split("|"))),
    ):
        found = read(content, "x.json")
        assert found.types == {"n": "int64", "v": type_}, found.column("v").reason
        assert [row[1] for row in found.rows] == expected
        assert found.rejected == []


def test_a_format_is_seen_from_the_content(read: Any) -> None:
    assert read('\ufeff{"a":1}\n', "x.txt").rows == [(1,)]
    assert read('[{"a":1},{"b":"}],\\""}]', "x").rows == [(1, None), (None, '}],"')]
    assert read("[a],b\n{x},1\n", "x").inspection.details["format"] == "delimited text"
    assert read('{"a":1}'.encode("utf-16"), "x.json").rows == [(1,)]


def test_lines_that_are_no_objects_are_rejected_with_their_number(read: Any) -> None:
    content = b'{"a":1}\n\n{"a":\n[1]\n{"a":2} {"a":3}\n{"a":"\xff"}\n{"a":4,}\n{"a":5}\n{"a":"\\ud800"}\n'
    found = read(content)
    assert found.rows == [(1,), (2,), (3,), (5,)]
    assert [(row.line, row.reason.partition(":")[0]) for row in found.rejected] == [
        (3, "no JSON"),
        (4, "no JSON object, of which fields could be columns"),
        (6, "bytes that are not UTF-8"),
        (7, "no JSON"),
        (9, "half of a surrogate pair, which is no character"),
    ]
    assert sum(piece.rows_in for piece in found.pieces) == 9
    with pytest.raises(InvalidRequest, match=r"'x\.jsonl' line 3: no JSON"):
        read(content, on_error=OnError.FAIL)


@pytest.mark.parametrize(
    ("first", "last", "type_"),
    [("1", "2.5", "double"), ("1", '"x"', "string"), ('{"a":1}', '{"b":1}', "struct<a: int64, b: int64>")],
)
def test_a_value_beyond_the_sample_changes_the_type_not_the_value(
    read: Any, first: str, last: str, type_: str
) -> None:
    content = "".join(f'{{"v":{first}}}\n' for _ in range(200)) + f'{{"v":{last},"w":true}}\n'
    found = read(content, limits=SMALL)
    assert found.restarts == 1
    assert found.types == {"v": type_, "w": "bool"}
    assert found.table.to_pylist() == read(content).table.to_pylist()
    assert found.table.num_rows == 201


def test_stated_types(read: Any) -> None:
    found = read(
        '{"id":"007","d":"2024-01-31","n":1.50}\n{"id":8,"d":"soon","n":2}\n',
        types={"id": "STRING", "d": "DATE", "n": "DECIMAL(5,2)"},
    )
    assert [str(value) for value in found.rows[0]] == ["007", "2024-01-31", "1.50"]
    assert [(row.line, row.column) for row in found.rejected] == [(2, "d")]


@pytest.mark.parametrize("document", [False, True])
def test_a_reading_goes_on_where_another_one_stopped(read: Any, tmp_path: Path, document: bool) -> None:
    rows = [{"n": n, "v": f'a\\"{n}\n', "w": None if n % 7 else [n]} for n in range(100)]
    content = json.dumps(rows, indent=1) if document else "".join(f"{json.dumps(row)}\n" for row in rows)
    whole = read(content, limits=SMALL)
    assert whole.table.to_pylist() == rows
    for done, piece in enumerate(whole.pieces, 1):
        source = FileSource([LocalFile(tmp_path / "x.jsonl")], FileOptions(limits=SMALL))
        source_rows = source.read(whole.inspection, OnError.REJECT, never, silent, piece.position)
        rest = [row for p in source_rows for row in p.batch.to_pylist()]
        assert rest == [row for p in whole.pieces[done:] for row in p.batch.to_pylist()]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no JSON object"),
        ("[]", "holds no JSON object"),
        ('[{"a":1},{"a":', "is cut off: its JSON ends within a value"),
        ('{"a":"' + "x" * 5000, "a row of more than 1000 bytes"),
    ],
)
def test_what_cannot_be_read_is_told(read: Any, content: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        read(content, "x.json", limits=SMALL)


def test_several_files_are_united_by_name(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"id":1,"v":1}\n')
    (tmp_path / "2.json").write_text('[{"v":1.5,"id":"x","w":true}]')
    found = Result(FileSource([LocalFile(tmp_path / f"{n}.json") for n in (1, 2)]))
    assert found.rows == [("1", 1.0, None), ("x", 1.5, True)]
    assert "integer and string" in found.column("id").reason
