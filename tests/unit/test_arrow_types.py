"""Arrow types and values as a table keeps them: the same values, or a refusal that names the column."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lakehouse.catalog.arrow_types import storable_schema, storable_type
from lakehouse.errors import InvalidRequest, SchemaMismatch, TypeNotStorable
from lakehouse.ingest.conversion import Conversion, convert

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.bool_(), pa.bool_()),
        (pa.int8(), pa.int32()),
        (pa.int16(), pa.int32()),
        (pa.uint8(), pa.int32()),
        (pa.uint16(), pa.int32()),
        (pa.int32(), pa.int32()),
        (pa.uint32(), pa.int64()),
        (pa.int64(), pa.int64()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.float16(), pa.float32()),
        (pa.float32(), pa.float32()),
        (pa.float64(), pa.float64()),
        (pa.string(), pa.string()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.binary(), pa.binary()),
        (pa.large_binary(), pa.binary()),
        (pa.binary_view(), pa.binary()),
        (pa.binary(7), pa.binary(7)),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.run_end_encoded(pa.int32(), pa.int8()), pa.int32()),
        (pa.date32(), pa.date32()),
        (pa.date64(), pa.date32()),
        (pa.timestamp("s"), pa.timestamp("us")),
        (pa.timestamp("ms"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "+02:00"), pa.timestamp("us", "UTC")),
        (pa.time32("s"), pa.time64("us")),
        (pa.time32("ms"), pa.time64("us")),
        (pa.time64("us"), pa.time64("us")),
        (pa.time64("ns"), pa.time64("us")),
        (pa.decimal32(9, 2), pa.decimal128(9, 2)),
        (pa.decimal64(18, 2), pa.decimal128(18, 2)),
        (pa.decimal128(38, 10), pa.decimal128(38, 10)),
        (pa.decimal256(38, 10), pa.decimal128(38, 10)),
        (pa.decimal128(5, -2), pa.decimal128(7, 0)),
        (pa.decimal128(3, 5), pa.decimal128(5, 5)),
        (pa.null(), pa.string()),
        (pa.uuid(), pa.uuid()),
        (pa.json_(), pa.string()),
        (pa.bool8(), pa.bool_()),
        (pa.opaque(pa.string(), "numeric", "PostgreSQL"), pa.string()),
        (pa.list_(pa.int8()), pa.list_(pa.field("element", pa.int32()))),
        (pa.large_list(pa.string_view()), pa.list_(pa.field("element", pa.string()))),
        (pa.list_(pa.float16(), 3), pa.list_(pa.field("element", pa.float32()))),
        (pa.list_view(pa.int64()), pa.list_(pa.field("element", pa.int64()))),
        (pa.large_list_view(pa.int64()), pa.list_(pa.field("element", pa.int64()))),
        (pa.struct([pa.field("a", pa.int8(), False)]), pa.struct([("a", pa.int32())])),
        (pa.map_(pa.large_string(), pa.int8()), pa.map_(pa.string(), pa.int32())),
        (
            pa.fixed_shape_tensor(pa.float32(), [2, 2]),
            pa.list_(pa.field("element", pa.float32())),
        ),
    ],
    ids=str,
)
def test_every_type_has_the_counterpart_that_loses_nothing(kind: pa.DataType, stored: pa.DataType) -> None:
    assert storable_type(kind, "c") == stored


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (pa.duration("us"), "int64"),
        (pa.month_day_nano_interval(), "string"),
        (pa.dense_union([pa.field("a", pa.int8()), pa.field("b", pa.string())]), "struct"),
        (pa.sparse_union([pa.field("a", pa.int8())]), "struct"),
        (pa.decimal256(39, 2), "decimal(38, s)"),
        (pa.decimal128(30, -9), "decimal(38, s)"),
        (pa.opaque(pa.binary(), "point", "PostgreSQL"), "cast it to text"),
        (pa.struct([]), "leave the column out"),
        (pa.list_(pa.duration("s")), "int64"),
    ],
    ids=str,
)
def test_a_type_without_counterpart_is_refused_by_name_with_what_works(kind: pa.DataType, hint: str) -> None:
    with pytest.raises(TypeNotStorable) as refused:
        storable_schema(pa.schema([("speed", kind)]))
    assert "'speed" in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        (pa.schema([]), SchemaMismatch),
        (pa.schema([("a", pa.int8()), ("A", pa.int8())]), SchemaMismatch),
        (pa.schema([("s", pa.struct([("x", pa.int8()), ("X", pa.int8())]))]), SchemaMismatch),
        (pa.schema([("", pa.int8())]), InvalidRequest),
        (pa.schema([("a\0b", pa.int8())]), InvalidRequest),
        (pa.schema([("s", pa.struct([("", pa.int8())]))]), InvalidRequest),
    ],
    ids=["none", "same", "same within a struct", "empty", "NUL", "empty within a struct"],
)
def test_columns_that_cannot_be_told_apart_or_named_are_refused(
    schema: pa.Schema, error: type[Exception]
) -> None:
    with pytest.raises(error):
        storable_schema(schema)


def test_letters_beyond_ascii_differ_by_case() -> None:
    assert storable_schema(pa.schema([("É", pa.int32()), ("é", pa.int32())])).names == ["É", "é"]


NANOSECOND = pa.array([1], pa.int64())


@pytest.mark.parametrize(
    "values",
    [
        NANOSECOND.view(pa.timestamp("ns")),
        NANOSECOND.view(pa.time64("ns")),
        NANOSECOND.view(pa.date64()),
        pa.array([2**62], pa.int64()).view(pa.timestamp("s")),
    ],
    ids=lambda values: str(values.type),
)
def test_a_time_that_does_not_fit_is_refused_with_a_hint(values: pa.Array) -> None:
    with pytest.raises(TypeNotStorable) as refused:
        convert(values, storable_type(values.type, "t"), "t")
    assert "'t'" in refused.value.message
    assert "round" in refused.value.hint


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        (pa.array([1, None], pa.int8()), pa.int64(), [1, None]),
        (pa.array([2**40], pa.int64()), pa.int64(), [2**40]),
        (pa.array([7, None], pa.int64()), pa.int32(), [7, None]),
        (pa.array([5], pa.int64()), pa.decimal128(5, 2), [Decimal("5.00")]),
        (pa.array([2**64 - 1], pa.uint64()), pa.decimal128(38, 18), [Decimal(2**64 - 1)]),
        (pa.array([Decimal("1.50")], pa.decimal128(9, 2)), pa.decimal128(4, 1), [Decimal("1.5")]),
        (pa.array([1.0, None]), pa.int32(), [1, None]),
        (pa.array([1.5, None]), pa.float32(), [1.5, None]),
        (pa.array([2**24], pa.int64()), pa.float32(), [float(2**24)]),
        (pa.array([1.5], pa.float32()), pa.float64(), [1.5]),
        (pa.array([0], pa.date32()), pa.timestamp("us"), [dt.datetime(1970, 1, 1)]),  # noqa: DTZ001
        (pa.array([str(UUID), None, UUID.hex.upper()]), pa.uuid(), [UUID, None, UUID]),
        (pa.array([str(UUID)], pa.string_view()), pa.uuid(), [UUID]),
        (pa.array([UUID.bytes, None]), pa.uuid(), [UUID, None]),
        (pa.array([], pa.string()), pa.uuid(), []),
        (pa.array([b"ab", None]), pa.binary(2), [b"ab", None]),
        (pa.array([b"ab"], pa.binary(2)), pa.binary(), [b"ab"]),
        (pa.nulls(2), pa.map_(pa.string(), pa.list_(pa.uuid())), [None, None]),
        (pa.array(["x", None, "x"]).dictionary_encode(), pa.string(), ["x", None, "x"]),
        (pa.RunEndEncodedArray.from_arrays([2, 3], [1, None]).slice(1), pa.int64(), [1, None]),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_values_that_fit_are_appended_to_other_types(
    values: pa.Array, target: pa.DataType, expected: list[object]
) -> None:
    converted = convert(values, target, "c")
    assert converted.type == target
    assert converted.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (pa.array([2**31]), pa.int32()),
        (pa.array([-1], pa.int64()).cast(pa.float64()), pa.string()),
        (pa.array([1.5]), pa.int64()),
        (pa.array([float("nan")]), pa.int64()),
        (pa.array([0.1]), pa.float32()),
        (pa.array([1e300]), pa.float32()),
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([100_000]), pa.decimal128(4, 0)),
        (pa.array([Decimal("1.55")]), pa.decimal128(4, 1)),
        (pa.array([1.5]), pa.decimal128(4, 1)),
        (pa.array(["1"]), pa.int32()),
        (pa.array([1]), pa.string()),
        (pa.array([1]), pa.bool_()),
        (pa.array(["no uuid"]), pa.uuid()),
        (pa.array([b"short"]), pa.uuid()),
        (pa.array([b"abc"]), pa.binary(2)),
        (pa.array([0], pa.timestamp("us")), pa.timestamp("us", "UTC")),
        (pa.array([0], pa.timestamp("us", "UTC")), pa.timestamp("us")),
        (pa.array([0], pa.timestamp("us")), pa.date32()),
        (pa.array([[1]]), pa.int32()),
        (pa.array([1]), pa.list_(pa.int32())),
        (pa.array([{"a": 1}]), pa.struct([("b", pa.int32())])),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_values_that_do_not_fit_are_refused_naming_the_column(values: pa.Array, target: pa.DataType) -> None:
    with pytest.raises(SchemaMismatch, match="'price'"):
        convert(values, target, "price")


def test_what_is_hidden_under_a_null_is_neither_kept_nor_a_reason_to_fail() -> None:
    hidden = pa.array([1, 2_000], pa.int64()).view(pa.timestamp("ns"))
    structs = pa.StructArray.from_arrays([hidden], ["t"], mask=pa.array([True, False]))
    converted = convert(structs, pa.struct([("t", pa.timestamp("us"))]), "s")
    assert converted.to_pylist()[0] is None
    assert pc.struct_field(converted, "t").cast(pa.int64()).to_pylist() == [None, 2]
    lists = pa.ListArray.from_arrays([0, 1, 2], hidden, mask=pa.array([True, False]))
    assert convert(lists, pa.list_(pa.timestamp("us")), "l").values.cast(pa.int64()).to_pylist() == [2]
    keys = pa.array(["a", "b"], pa.string_view())
    maps = pa.MapArray.from_arrays([0, 1, 2], keys, hidden, mask=pa.array([True, False]))
    converted = convert(maps, pa.map_(pa.string(), pa.timestamp("us")), "m")
    assert (converted.keys.to_pylist(), converted.items.cast(pa.int64()).to_pylist()) == (["b"], [2])


def test_a_null_where_a_nested_field_is_required_is_refused() -> None:
    target = pa.struct([pa.field("a", pa.int32(), False)])
    assert convert(pa.array([{"a": 1}, None]), target, "s").to_pylist() == [{"a": 1}, None]
    with pytest.raises(SchemaMismatch, match=r"'s\.a'"):
        convert(pa.array([{"a": 1}, {"a": None}]), target, "s")
    required = pa.list_(pa.field("element", pa.int32(), False))
    with pytest.raises(SchemaMismatch, match=r"'l\.element'"):
        convert(pa.array([[1], [None]], pa.list_(pa.int32())), required, "l")


SCALARS: list[tuple[pa.DataType, list[object]]] = [
    (pa.int8(), [-128, 0, 127]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.large_string(), ["", "ä", "x" * 30]),
    (pa.string_view(), ["", "long enough to be kept outside"]),
    (pa.timestamp("ms", "America/New_York"), [0, 10**12]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    (pa.decimal32(5, 2), [Decimal("1.25"), Decimal("-999.99")]),
]


def random_type(rng: random.Random, depth: int) -> pa.DataType:
    pick = rng.randrange(8 if depth else 1)
    if pick == 0:
        return rng.choice(SCALARS)[0]
    if pick == 1:
        return pa.struct([("a", random_type(rng, depth - 1)), ("b", random_type(rng, depth - 1))])
    if pick == 2:
        return pa.map_(pa.string(), random_type(rng, depth - 1))
    inner = random_type(rng, depth - 1)
    return [
        pa.list_(inner),
        pa.large_list(inner),
        pa.list_(inner, 2),
        pa.list_view(inner),
        pa.large_list_view(inner),
    ][pick - 3]


def random_array(rng: random.Random, kind: pa.DataType, length: int) -> pa.Array:
    nulls = pa.array([rng.random() < 0.3 for _ in range(length)], pa.bool_())
    if pa.types.is_struct(kind):
        children = [random_array(rng, field.type, length) for field in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=nulls)
    for scalar, values in SCALARS:
        if kind == scalar:
            chosen = [None if null.as_py() else rng.choice(values) for null in nulls]
            return pa.array(chosen, kind)
    sizes = [0 if null.as_py() else rng.randrange(4) for null in nulls]
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(
            random_array(rng, kind.value_type, 2 * length), type=kind, mask=nulls
        )
    ends = [sum(sizes[: n + 1]) for n in range(length)]
    starts = [0, *ends[:-1]] if length else []
    if pa.types.is_map(kind):
        keys = pa.array([f"k{n}" for n in range(sum(sizes))], kind.key_type)
        items = random_array(rng, kind.item_type, sum(sizes))
        return pa.MapArray.from_arrays(pa.array([0, *ends], pa.int32()), keys, items, type=kind, mask=nulls)
    values = random_array(rng, kind.value_type, sum(sizes))
    family = str(kind).split("<")[0]
    index = pa.int64() if "large" in family else pa.int32()
    if "view" in family:
        view = pa.LargeListViewArray if index == pa.int64() else pa.ListViewArray
        return view.from_arrays(
            pa.array(starts, index), pa.array(sizes, index), values, type=kind, mask=nulls
        )
    flat = pa.LargeListArray if index == pa.int64() else pa.ListArray
    return flat.from_arrays(pa.array([0, *ends], index), values, type=kind, mask=nulls)


@pytest.mark.parametrize("seed", range(150))
def test_nested_values_stay_the_same_also_within_slices(seed: int) -> None:
    rng = random.Random(seed)
    kind = random_type(rng, 3)
    array = random_array(rng, kind, 40)
    start = rng.randrange(40)
    part = array.slice(start, rng.randrange(40 - start + 1))
    target = storable_type(kind, "c")
    converted = convert(part, target, "c")
    converted.validate(full=True)
    assert converted.type == target
    assert plain(converted.to_pylist()) == plain(part.to_pylist()), kind


def plain(value: object) -> object:
    """Points in time as such, whatever time zone they are shown in, and integers for whole decimals."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC)
    if isinstance(value, Decimal) and value == int(value):
        return int(value)
    return value


TABLE = pa.schema([pa.field("Id", pa.int64(), False), ("Name", pa.string()), ("size", pa.int32())])


def test_columns_are_matched_by_name_in_any_case_and_order() -> None:
    source = pa.schema([("NAME", pa.large_string()), ("id", pa.int8())])
    conversion = Conversion(source, TABLE, "t")
    batch = conversion.batch(pa.record_batch([["a", None], pa.array([1, 2], pa.int8())], schema=source))
    assert batch.schema == TABLE
    assert batch.to_pylist() == [{"Id": 1, "Name": "a", "size": None}, {"Id": 2, "Name": None, "size": None}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pa.schema([("id", pa.int64()), ("colour", pa.string())]), "no column 'colour'"),
        (pa.schema([("name", pa.string())]), "'Id'"),
        (pa.schema([("id", pa.string())]), "'Id'"),
        (pa.schema([("id", pa.int64()), ("ID", pa.int64())]), "two columns"),
    ],
)
def test_columns_that_do_not_fit_are_refused_before_any_row_is_read(source: pa.Schema, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        Conversion(source, TABLE, "t")


def test_a_null_in_a_required_column_is_refused() -> None:
    source = pa.schema([("id", pa.int64())])
    with pytest.raises(SchemaMismatch, match="'Id' must not be NULL"):
        Conversion(source, TABLE, "t").batch(pa.record_batch([pa.array([1, None])], schema=source))


def test_a_categorical_column_of_polars_is_stored_as_text():
    views = pa.array(["x", "y"], pa.string_view())
    column = pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.uint32()), views)
    assert convert(column, pa.string(), "c").to_pylist() == ["x", None, "y"]
    assert convert(column.slice(1), pa.string(), "c").to_pylist() == [None, "y"]
