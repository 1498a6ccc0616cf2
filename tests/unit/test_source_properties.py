"""Whatever table is written as CSV, JSON, Parquet or Arrow comes back with equal values."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_results import Result

from lakehouse.errors import LakehouseError
from lakehouse.ingest.sources.file_options import FileLimits, FileOptions
from lakehouse.ingest.sources.file_source import FileSource

# Small blocks and samples, so that rows stand across their ends and types are disproved.
LIMITS = FileLimits(block_bytes=96, sample_bytes=96)
LETTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(LETTERS, max_size=12)
NUMERIC = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.integers(-200, 200).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
TIMES = st.datetimes(min_value=datetime(1, 1, 1))  # noqa: DTZ001
CELLS = st.one_of(
    NUMERIC,
    st.sampled_from("true false True TRUE N/A NaN inf 0 -0 007 0x1F =1+1".split()),
    st.dates().map(str),
    st.dates().map(lambda day: day.strftime("%d/%m/%Y")),
    TIMES.map(str),
    TIMES.map(lambda moment: moment.isoformat() + "Z"),
    st.times().map(str),
    TEXT,
)  # fmt: skip
KINDS = st.sampled_from(
    [CELLS, NUMERIC, st.integers(0, 9).map(str), st.dates().map(str), TIMES.map(str), st.times().map(str)]
)


@dataclass(frozen=True)
class Memory:
    """Bytes as a source."""

    content: bytes
    name: str = "x"
    identity: str = ""

    @property
    def size(self) -> int:
        return len(self.content)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)


@st.composite
def columns(draw: st.DrawFn) -> list[list[str]]:
    rows = draw(st.integers(1, 30))
    made = []
    for _ in range(draw(st.integers(2, 5))):
        cells = draw(KINDS)
        usual = st.one_of(cells, st.just("")) if draw(st.booleans()) else cells
        made.append(draw(st.lists(usual, min_size=rows, max_size=rows)))
    return made


def says(value: Any, text: str) -> bool:
    """Whether a value is what a text says."""
    if isinstance(value, str):
        return value == text
    if isinstance(value, bool):
        return text in {"true", "True", "TRUE"} if value else text in {"false", "False", "FALSE"}
    if isinstance(value, float):
        return Decimal(repr(value)) == Decimal(text)
    if isinstance(value, int | Decimal):
        return Decimal(value) == Decimal(text)
    if isinstance(value, datetime):
        return value == datetime.fromisoformat(text)
    if isinstance(value, time):
        return value == time.fromisoformat(text)
    return isinstance(value, date) and str(value) == text.replace("/", "-")


@settings(max_examples=50, deadline=None)
@given(
    columns(),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_table_written_as_csv_comes_back(
    table: list[list[str]], delimiter: str, quoting: Any, encoding: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\r\n")
    writer.writerow([f"c{n}" for n in range(len(table))])
    writer.writerows(zip(*table, strict=True))
    options = FileOptions(delimiter=delimiter, header=True, encoding=encoding, format="csv", limits=LIMITS)
    found = Result(FileSource([Memory(text.getvalue().encode(encoding))], options))
    assert found.rejected == []
    assert found.inspection.rows in {None, len(table[0])}
    for number, texts in enumerate(table):
        values = found.table.column(number).to_pylist()
        assert len(values) == len(texts)
        for value, cell in zip(values, texts, strict=True):
            if value is None:
                assert cell == ""
                assert quoting == csv.QUOTE_MINIMAL
            else:
                assert says(value, cell), found.inspection.columns[number]
    whole = Result(FileSource([Memory(text.getvalue().encode(encoding))], FileOptions(**_unbounded(options))))
    assert whole.types == found.types


def _unbounded(options: FileOptions) -> dict[str, Any]:
    names = ("delimiter", "header", "encoding", "format")
    return {name: getattr(options, name) for name in names}


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.integers(-9, 9), TEXT,
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abA"), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        *(SCALARS, NESTED, st.integers(-9, 9), st.lists(st.integers(-9, 9), max_size=3), TEXT),
        st.fixed_dictionaries({}, optional={"x": st.integers(), "y": st.lists(st.none() | TEXT, max_size=2)}),
    ]
)


@st.composite
def objects(draw: st.DrawFn) -> list[dict[str, Any]]:
    kinds = {
        name: draw(FIELDS) for name in draw(st.lists(TEXT.filter(bool), min_size=1, max_size=4, unique=True))
    }
    row = st.fixed_dictionaries({}, optional=kinds)
    return [*draw(st.lists(row, max_size=20)), {name: draw(kind) for name, kind in kinds.items()}]


def same(value: Any, original: Any) -> bool:
    """Whether a value is what was written: absent fields are NULL, and values of several kinds their text."""
    if isinstance(value, str) and not isinstance(original, str):
        return repr(json.loads(value)) == repr(original)
    if isinstance(original, dict) and isinstance(value, dict):
        return (
            all(same(inner, original.get(name)) for name, inner in value.items())
            and original.keys() <= value.keys()
        )
    if isinstance(original, list) and isinstance(value, list):
        return len(value) == len(original) and all(map(same, value, original))
    return value == original and isinstance(value, bool) == isinstance(original, bool)


@settings(max_examples=50, deadline=None)
@given(objects(), st.sampled_from(["lines", "array", "indented", "pretty"]), st.booleans())
def test_any_objects_written_as_json_come_back(
    rows: list[dict[str, Any]], layout: str, escaped: bool
) -> None:
    if layout == "array":
        text = json.dumps(rows, ensure_ascii=escaped)
    elif layout == "indented":
        text = json.dumps(rows, ensure_ascii=escaped, indent=2)
    else:
        indent = 1 if layout == "pretty" else None
        text = "".join(json.dumps(row, ensure_ascii=escaped, indent=indent) + "\n" for row in rows)
    found = Result(FileSource([Memory(text.encode())], FileOptions(format="json", limits=LIMITS)))
    assert found.rejected == []
    sources = [column.source_name for column in found.inspection.columns]
    assert set(sources) == {name for row in rows for name in row}
    got = found.table.to_pylist()
    assert len(got) == len(rows)
    for mine, row in zip(got, rows, strict=True):
        for name, value in zip(sources, mine.values(), strict=True):
            assert same(value, row.get(name)), (name, found.inspection.columns)


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): TEXT,
    pa.binary(): st.binary(max_size=5),
    pa.date32(): st.dates(),
    pa.timestamp("us"): TIMES,
    pa.decimal128(20, 3): st.decimals(-(10**10), 10**10, places=3),
    pa.list_(pa.struct([("x", pa.int64()), ("y", pa.string())])): st.lists(
        st.none() | st.fixed_dictionaries({"x": st.none() | st.integers(0, 5), "y": st.none() | TEXT}),
        max_size=3,
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 20))
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=5))
    arrays = [
        pa.array(draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)), kind)
        for kind in types
    ]
    return pa.Table.from_arrays(arrays, [f"c{n}" for n in range(len(types))])


@settings(max_examples=30, deadline=None)
@given(tables(), st.sampled_from(["parquet", "file", "stream"]))
def test_any_table_written_with_its_types_comes_back(table: pa.Table, form: str) -> None:
    with tempfile.TemporaryFile() as target:
        if form == "parquet":
            pq.write_table(table, target, row_group_size=7)
        else:
            opened = (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(target, table.schema)
            with opened as writer:
                writer.write_table(table, max_chunksize=7)
        target.seek(0)
        content = target.read()
    found = Result(FileSource([Memory(content)]))
    assert repr(found.table.to_pylist()) == repr(table.to_pylist())


MIXED = st.one_of(SCALARS, st.sampled_from(["", '"', "\\", 'a\\"b', "}\n{", ',"c":', "null", "é\u2028"]))
CHANGES = st.tuples(
    st.integers(0, 400), st.integers(0, 2), st.sampled_from(list('{}[]",:\\ \tnt0-9.eE1a\r\n'))
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"a": MIXED}, optional={"b": MIXED, "c": st.integers(0, 9)}), min_size=3),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.booleans(),
    st.lists(CHANGES, max_size=2),
)
def test_lines_taken_apart_by_their_quotes_say_what_decoding_them_says(
    rows: list[dict[str, Any]],
    separators: tuple[str, str],
    escaped: bool,
    changes: list[tuple[int, int, str]],
) -> None:
    rows = [*rows, {"a": 1}, {"a": "N/A", "b": 1, "c": 2}, {"a": None, "b": "x", "c": 3}]
    text = "".join(json.dumps(row, ensure_ascii=escaped, separators=separators) + "\n" for row in rows)
    for number, removed, added in changes:
        place = number % len(text)
        text = text[:place] + added + text[place + removed :]
    found = []
    for takes_apart in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not takes_apart:
                patch.setattr("lakehouse.ingest.sources.json_source.flat_columns", lambda *_: None)
            try:
                result = Result(FileSource([Memory(text.encode())], FileOptions(format="jsonl")))
            except LakehouseError as error:
                found.append(str(error))
            else:
                found.append(repr((result.types, result.table.to_pylist(), result.rejected)))
    assert found[0] == found[1]
