"""Any table that is written to a file or sent, and ingested, is read back by SQL with equal values."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import start_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_client import Client, connect

EXAMPLES = int(os.environ.get("LAKEHOUSE_INGEST_EXAMPLES", "8"))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
MOMENTS = st.datetimes(min_value=datetime(1, 1, 1))  # noqa: DTZ001
WORDS = st.sampled_from(
    "007 +1 1e5 0x1F N/A NULL nan inf true TRUE yes =1+1 2024-01-31 31/01/2024 10:00 é".split()
)
CELLS = st.one_of(TEXT.filter(bool), WORDS, st.integers(-(10**20), 10**20).map(str), st.dates().map(str))
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): TEXT,
    pa.binary(): st.binary(max_size=5),
    pa.date32(): st.dates(),
    pa.time64("us"): st.times(),
    pa.timestamp("us"): MOMENTS,
    pa.decimal128(20, 3): st.decimals(-(10**10), 10**10, places=3),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-9, 9), max_size=3),
    pa.struct([("x", pa.string()), ("y", pa.list_(pa.date32()))]): st.fixed_dictionaries(
        {"x": st.none() | TEXT, "y": st.none() | st.lists(st.dates(), max_size=2)}
    ),
}
PLAIN = [kind for kind in VALUES if not pa.types.is_nested(kind) and kind != pa.binary()]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = start_server(tmp_path_factory.mktemp("properties"), '[auth]\nanonymous_role = "admin"')
    with connect(server.uri) as client:
        client.bucket = server.directory / "bucket"  # type: ignore[attr-defined]
        yield client
    assert server.stop() == 0


def tables(kinds: list[pa.DataType]) -> st.SearchStrategy[pa.Table]:
    """Tables of a few rows, whose first column numbers them."""

    @st.composite
    def drawn(draw: st.DrawFn) -> pa.Table:
        rows = draw(st.integers(0, 12))
        columns: dict[str, pa.Array] = {"n": pa.array(range(rows), pa.int64())}
        for number, kind in enumerate(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))):
            values = draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows))
            columns[f"c{number}"] = pa.array(values, kind)
        return pa.table(columns)

    return drawn()


def ingested(lake: Client, name: str, content: bytes, how: str) -> pa.Table:
    """Bring a file in, and read its rows by SQL."""
    table = f"t{next(NUMBERS)}"
    if how == "upload":
        run = asdict(lake.ingest_file(io.BytesIO(content), table, file=name, header=True))
    else:
        path: Path = lake.bucket / "in" / f"{table}-{name}"  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        run = lake.call("ingest.file", {"key": f"in/{path.name}", "table": table, "header": True})
    assert (run["state"], run["rows_rejected"]) == ("succeeded", 0)
    assert run["rows_in"] == run["rows_stored"]
    return lake.sql(f"SELECT * FROM {table} ORDER BY n").table()


HOW = st.sampled_from(["upload", "object"])
COMMON = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@COMMON
@given(tables(list(VALUES)), st.sampled_from(["parquet", "file", "stream", "rows"]), HOW)
def test_what_has_types_keeps_them(lake: Client, table: pa.Table, form: str, how: str) -> None:
    if form == "rows":
        name = f"t{next(NUMBERS)}"
        lake.ingest_rows(table, name)
        found = lake.sql(f"SELECT * FROM {name} ORDER BY n").table()
    else:
        written = io.BytesIO()
        if form == "parquet":
            pq.write_table(table, written, row_group_size=5)
        else:
            with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(written, table.schema) as writer:
                writer.write_table(table, max_chunksize=5)
        found = ingested(lake, "x", written.getvalue(), how)
    assert repr(found.to_pylist()) == repr(table.to_pylist())
    for kind, original in zip(found.schema.types, table.schema.types, strict=True):
        assert kind == original or pa.types.is_nested(original)  # DuckDB names elements otherwise


@COMMON
@given(tables(PLAIN), HOW)
def test_what_csv_says_is_there_or_its_text(lake: Client, table: pa.Table, how: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    writer.writerow(table.column_names)
    cells = [["" if v is None else said(v) for v in row.values()] for row in table.to_pylist()]
    writer.writerows(cells)
    found = ingested(lake, "x.csv", text.getvalue().encode(), how).to_pylist()
    assert len(found) == len(cells)
    for row, texts in zip(found, cells, strict=True):
        for value, cell in zip(row.values(), texts, strict=True):
            assert equal(value, cell), (value, cell)


@COMMON
@given(st.lists(st.lists(st.none() | CELLS, min_size=3, max_size=3), min_size=1, max_size=12), HOW)
def test_texts_of_any_kind_stay_as_they_are(lake: Client, cells: list[list[Any]], how: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["n", "a", "b", "c"])
    writer.writerows(
        [number, *("" if cell is None else cell for cell in row)] for number, row in enumerate(cells)
    )
    found = ingested(lake, "x.csv", text.getvalue().encode(), how).to_pylist()
    for row, texts in zip(found, cells, strict=True):
        for value, cell in zip(list(row.values())[1:], texts, strict=True):
            assert equal(value, cell or ""), (value, cell)


OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.none() | st.integers(-(2**63), 2**63 - 1),
        "b": TEXT,
        "c": st.one_of(st.integers(-9, 9), TEXT, st.booleans()),
        "d": st.lists(st.none() | st.integers(-9, 9), max_size=3),
        "e": st.fixed_dictionaries({}, optional={"x": TEXT, "y": st.floats(-1e9, 1e9)}),
        "f": st.floats(allow_nan=False, allow_infinity=False),
    },
)


@COMMON
@given(st.lists(OBJECTS, max_size=12), HOW, st.booleans())
def test_objects_come_back(lake: Client, objects: list[dict[str, Any]], how: str, lines: bool) -> None:
    rows = [{"n": number, **row} for number, row in enumerate([*objects, {}])]
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    found = ingested(lake, "x.json", text.encode(), how).to_pylist()
    assert len(found) == len(rows)
    for mine, row in zip(found, rows, strict=True):
        for name, value in mine.items():
            assert same(value, row.get(name)), (name, value, row)


def said(value: Any) -> str:
    """A value as programs write it into CSV."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return str(value)


def equal(value: Any, cell: str) -> bool:
    """Whether a value is what a text says; one that was quoted for what it holds is no number."""
    if value is None or isinstance(value, str):
        return (value or "") == cell
    if isinstance(value, bool):
        return str(value).lower() == cell.lower()
    if isinstance(value, float):
        return Decimal(repr(value)) == Decimal(cell)
    if isinstance(value, int | Decimal):
        return Decimal(value) == Decimal(cell)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None) == datetime.fromisoformat(cell).replace(tzinfo=None)
    if isinstance(value, time):
        return value == time.fromisoformat(cell)
    assert isinstance(value, date)
    return str(value) == cell.replace("/", "-")


def same(value: Any, original: Any) -> bool:
    """Whether a value is what was written: absent fields are NULL, and values of several kinds their text."""
    if isinstance(value, str) and not isinstance(original, str):
        return repr(json.loads(value)) == repr(original)
    if isinstance(value, dict):
        return all(same(inner, (original or {}).get(name)) for name, inner in value.items())
    if isinstance(value, list) and isinstance(original, list):
        return len(value) == len(original) and all(map(same, value, original))
    return bool(value == original)
