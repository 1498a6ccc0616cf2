"""A fingerprint tells schemas apart that are read differently, and none that are read alike."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.datasets.fingerprint import fingerprint

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("name", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("price", pa.decimal128(12, 2)),
        ("tags", pa.list_(pa.string())),
        ("place", pa.struct([("lat", pa.float64()), ("lon", pa.float64())])),
        ("counts", pa.map_(pa.string(), pa.int32())),
    ]
)


def changed(name: str, kind: pa.DataType) -> pa.Schema:
    return SCHEMA.set(SCHEMA.get_field_index(name), pa.field(name, kind))


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema(list(reversed(list(SCHEMA)))),
        pa.schema([field.with_nullable(True) for field in SCHEMA]),
        SCHEMA.with_metadata({"made": "elsewhere"}),
        changed("name", pa.large_string()),
        changed("name", pa.string_view()),
        changed("name", pa.dictionary(pa.int32(), pa.string())),
        changed("at", pa.timestamp("us", tz="Europe/Berlin")),
        changed("price", pa.decimal256(12, 2)),
        changed("tags", pa.large_list(pa.field("element", pa.string_view(), nullable=False))),
        changed("place", pa.struct([("lon", pa.float64()), ("lat", pa.float64())])),
    ],
)
def test_what_is_read_alike_has_one_fingerprint(schema: pa.Schema) -> None:
    assert fingerprint(schema) == fingerprint(SCHEMA)


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([]),
        SCHEMA.remove(0),
        SCHEMA.append(pa.field("more", pa.null())),
        SCHEMA.append(SCHEMA.field(0)),
        pa.schema([f.with_name("Name") if f.name == "name" else f for f in SCHEMA]),
        changed("id", pa.int32()),
        changed("id", pa.uint64()),
        changed("name", pa.binary()),
        changed("at", pa.timestamp("us")),
        changed("at", pa.timestamp("ms", tz="UTC")),
        changed("price", pa.decimal128(12, 3)),
        changed("tags", pa.list_(pa.int64())),
        changed("tags", pa.list_(pa.string(), 3)),
        changed("place", pa.struct([("lat", pa.float64()), ("lon", pa.float32())])),
        changed("counts", pa.map_(pa.int32(), pa.string())),
        changed("id", pa.uuid()),
    ],
)
def test_what_is_read_differently_has_another(schema: pa.Schema) -> None:
    assert fingerprint(schema) != fingerprint(SCHEMA)


def test_names_cannot_be_mistaken_for_types() -> None:
    one = pa.schema([('a","string"],["b', pa.string())])
    two = pa.schema([("a", pa.string()), ("b", pa.string())])
    assert fingerprint(one) != fingerprint(two)


def test_a_parquet_file_has_the_fingerprint_of_what_was_written(tmp_path: object) -> None:
    table = SCHEMA.empty_table()
    pq.write_table(table, f"{tmp_path}/t.parquet")
    assert fingerprint(pq.read_schema(f"{tmp_path}/t.parquet")) == fingerprint(SCHEMA)


def test_it_stays_the_same_from_version_to_version() -> None:
    assert fingerprint(SCHEMA) == "1:9aa528cdd9e44ee29e35a1cb15fb6ce5"


@given(st.lists(st.tuples(st.text(), st.sampled_from(list(SCHEMA.types))), max_size=8), st.randoms())
def test_order_never_matters(columns: list[tuple[str, pa.DataType]], order: random.Random) -> None:
    shuffled = order.sample(columns, len(columns))
    assert fingerprint(pa.schema(columns)) == fingerprint(pa.schema(shuffled))
