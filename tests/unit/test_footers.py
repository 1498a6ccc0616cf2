"""Footers of Parquet objects: what they tell, what is wrong with them, and how little is read for that."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from registered import parquet

from lakehouse.catalog.parquet_footer import TAIL_BYTES, Footer, bound_text
from lakehouse.datasets.footers import Finding, read_footers
from lakehouse.errors import StatementCancelled, StorageError
from lakehouse.storage import Bucket, open_local_bucket

GOOD = parquet({"a": list(range(1000)), "b": [str(i) for i in range(1000)]}, row_group_size=300)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return open_local_bucket("data", tmp_path / "data")


def read(bucket: Bucket, key: str) -> Footer | Finding:
    (found,) = read_footers(bucket, [key])
    return found


def stated(bucket: Bucket, values: pa.Array, **options: Any) -> tuple[int | None, str | None, str | None]:
    bucket.put("o", parquet(pa.table({"v": values}), **options))
    footer = read(bucket, "o")
    assert isinstance(footer, Footer)
    (column,) = footer.columns
    assert column.size_bytes > 0
    return column.nulls, bound_text(column.type, column.minimum), bound_text(column.type, column.maximum)


D = decimal.Decimal


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([3, None, -5]), (1, "-5", "3")),
        (pa.array([2**64 - 1, 7], pa.uint64()), (0, "7", str(2**64 - 1))),
        (pa.array([200, 3], pa.uint8()), (0, "3", "200")),
        (pa.array([1.5, -0.25]), (0, "-0.25", "1.5")),
        (pa.array([math.nan]), (0, None, None)),
        (pa.array([True, None]), (1, "true", "true")),
        (pa.array(["b", "ä", "a"]), (0, "a", "ä")),
        (pa.array(["b", "a"]).dictionary_encode(), (0, "a", "b")),
        (pa.array(["x" * 300, "a"]), (0, "a", None)),
        (pa.array([b"\x00"]), (0, None, None)),
        (pa.array([D("-1.50"), D("12.25")], pa.decimal128(9, 2)), (0, "-1.50", "12.25")),
        (pa.array([D("-1.50"), D("12.25")], pa.decimal128(38, 2)), (0, "-1.50", "12.25")),
        (pa.array([dt.date(1969, 12, 31), dt.date(2026, 1, 1)]), (0, "1969-12-31", "2026-01-01")),
        (pa.array([0, 86_399_999_999], pa.time64("us")), (0, "00:00:00", "23:59:59.999999")),
        (pa.array([-1, 1_000], pa.timestamp("ms")), (0, "1969-12-31T23:59:59.999000", "1970-01-01T00:00:01")),
        (pa.array([1, 1_001], pa.timestamp("ns")), (0, "1970-01-01T00:00:00", "1970-01-01T00:00:00.000002")),
        (pa.array([5], pa.timestamp("us", "Asia/Tokyo")), (0, *["1970-01-01T00:00:00.000005+00:00"] * 2)),
        (pa.array([2**62], pa.timestamp("us")), (0, None, None)),
        (pa.array([{"x": 1}, None]), (None, None, None)),
        (pa.array([[1], None]), (None, None, None)),
        (pa.nulls(3, pa.int64()), (3, None, None)),
        (pa.array([], pa.int64()), (0, None, None)),
    ],
)
def test_statistics_are_what_the_values_are(bucket: Bucket, values: pa.Array, expected: Any) -> None:
    if len(values):
        assert stated(bucket, values) == expected
        assert stated(bucket, pa.concat_arrays([values, values]), row_group_size=1)[1:] == expected[1:]
    assert stated(bucket, values, write_statistics=False)[1:] == (None, None) if len(values) else True


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "a byte": (b"P", "not_parquet"),
    "text": (b"id,name\n1,ann\n" * 9000, "not_parquet"),
    "only magic": (b"PAR1", "truncated"),
    "both magics": (b"PAR1PAR1", "truncated"),
    "encrypted": (GOOD[:-4] + b"PARE", "encrypted"),
    "cut at the end": (GOOD[:-1], "truncated"),
    "cut in the middle": (GOOD[: len(GOOD) // 2], "truncated"),
    "long and cut": ((GOOD + bytes(TAIL_BYTES))[: TAIL_BYTES + 5], "truncated"),
    "footer too long": (GOOD[:-8] + (2**31).to_bytes(4, "little") + b"PAR1", "corrupt"),
    "footer too short": (GOOD[:-8] + (3).to_bytes(4, "little") + b"PAR1", "corrupt"),
    "footer of zeros": (b"PAR1" + bytes(500) + (500).to_bytes(4, "little") + b"PAR1", "corrupt"),
    "data cut out": (GOOD[:4] + GOOD[-int.from_bytes(GOOD[-8:-4], "little") - 8 :], "corrupt"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_whole_parquet_is_a_finding(bucket: Bucket, name: str) -> None:
    content, problem = DAMAGED[name]
    bucket.put("o", content)
    found = read(bucket, "o")
    assert isinstance(found, Finding)
    assert (found.problem, found.key) == (problem, "o")
    assert str(bucket.uri_of("")) not in found.detail


def test_flipped_bits_of_a_footer_are_a_finding_or_change_what_it_tells(bucket: Bucket) -> None:
    bucket.put("o", GOOD)
    good, random_ = read(bucket, "o"), random.Random(5)
    start = len(GOOD) - int.from_bytes(GOOD[-8:-4], "little") - 8
    findings = 0
    for _ in range(300):
        damaged = bytearray(GOOD)
        damaged[random_.randrange(start, len(GOOD))] ^= 1 << random_.randrange(8)
        bucket.put("o", bytes(damaged))
        found = read(bucket, "o")
        findings += isinstance(found, Finding)
        assert isinstance(found, Finding) or isinstance(good, Footer)
    assert findings > 100


def test_only_the_end_is_read_and_a_large_footer_with_one_more_request(bucket: Bucket) -> None:
    wide = pa.table({f"column {i}": [i] for i in range(2000)})
    noise = pa.table({"noise": [random.Random(1).randbytes(3_000_000)]})
    bucket.put("wide", parquet(wide))
    bucket.put("noise", parquet(noise))
    requests: list[str] = []
    bucket.observers.append(lambda operation, outcome, seconds: requests.append(operation))
    found = read(bucket, "noise")
    assert isinstance(found, Footer)
    assert (found.read_bytes, requests) == (TAIL_BYTES, ["get"])
    assert found.size_bytes > 3_000_000
    requests.clear()
    found = read(bucket, "wide")
    assert isinstance(found, Footer)
    assert len(found.columns) == 2000
    assert requests == ["get", "get"]


def test_many_footers_come_in_order_beside_what_is_wrong(bucket: Bucket) -> None:
    keys = [f"o{number:03}" for number in range(200)]
    for number, key in enumerate(keys):
        if number % 10 == 3:
            bucket.put(key, GOOD[:-3])
        elif number % 10 != 7:
            bucket.put(key, parquet({"a": [0] * number}))
    found = list(read_footers(bucket, iter(keys)))
    assert [each.key for each in found] == keys
    for number, each in enumerate(found):
        if isinstance(each, Footer):
            assert each.rows == number
            assert each.e_tag
        else:
            assert each.problem == {3: "truncated", 7: "missing"}[number % 10]


def test_reading_footers_is_stopped_and_holds_few_of_them(bucket: Bucket) -> None:
    bucket.put("o", GOOD)
    asked = 0

    def keys() -> Any:
        nonlocal asked
        for _ in range(10_000):
            asked += 1
            yield "o"

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise StatementCancelled("enough")

    with pytest.raises(StatementCancelled):
        list(read_footers(bucket, keys(), check, parallel=4))
    assert asked < 50


def test_a_bucket_that_cannot_be_read_is_no_finding(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "data" / "o").mkdir()
    (tmp_path / "data" / "o" / "p").write_bytes(b"")
    found = None
    try:
        found = read(bucket, "o")
    except StorageError:
        return
    assert isinstance(found, Finding)


def test_the_footer_is_what_pyarrow_reads(bucket: Bucket) -> None:
    bucket.put("o", GOOD)
    footer = read(bucket, "o")
    assert isinstance(footer, Footer)
    assert footer.schema == pq.read_schema(pa.BufferReader(GOOD))
    assert (footer.rows, footer.row_groups, footer.size_bytes) == (1000, 4, len(GOOD))
    assert [column.nulls for column in footer.columns] == [0, 0]
