"""Upload streams that claim what is not so. Each function gives the IPC messages of one of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from faults.raw_flight import Message, messages

ROWS = 1237  # a number that is found nowhere else in a message's header
_FAR = 0x7F00_0000
_VALUES = [f"value {i:04d}" for i in range(ROWS)]


def _batch(column: pa.Array) -> list[Message]:
    batch = pa.record_batch({"v": column})
    return messages(batch.schema, [batch])


def _changed(stream: list[Message], place: int, change: Callable[[bytearray], Any]) -> list[Message]:
    """The stream with the body of one message changed."""
    body = bytearray(stream[place].body)
    change(body)
    return [*stream[:place], Message(stream[place].header, bytes(body)), *stream[place + 1 :]]


def _renumbered(stream: list[Message], place: int, old: int, new: int) -> list[Message]:
    """The stream with a number in the header of one message replaced wherever it stands."""
    header = stream[place].header
    assert struct.pack("<q", old) in header
    changed = header.replace(struct.pack("<q", old), struct.pack("<q", new))
    return [*stream[:place], Message(changed, stream[place].body), *stream[place + 1 :]]


def _filled(
    kind: str, value: int, start: int = 0, count: int = ROWS, step: int = 0
) -> Callable[[bytearray], None]:
    size = struct.calcsize("<" + kind)

    def fill(body: bytearray) -> None:
        for i in range(count):
            struct.pack_into("<" + kind, body, start + i * size, value + i * step)

    return fill


def _text(kind: pa.DataType) -> list[Message]:
    return _batch(pa.array(_VALUES, kind))


def _lists(kind: pa.DataType) -> list[Message]:
    return _batch(pa.array([[i, i + 1] for i in range(ROWS)], kind))


def _dictionary() -> list[Message]:
    return _batch(pa.array(_VALUES).dictionary_encode())


def _run_ends() -> list[Message]:
    ends, values = pa.array(range(1, ROWS + 1), pa.int32()), pa.array(_VALUES)
    return _batch(pa.RunEndEncodedArray.from_arrays(ends, values))


def _union(mode: str) -> list[Message]:
    kinds = pa.array([i % 2 for i in range(ROWS)], pa.int8())
    children = [pa.array(range(ROWS)), pa.array(_VALUES)]
    if mode == "sparse":
        return _batch(pa.UnionArray.from_sparse(kinds, children))
    return _batch(pa.UnionArray.from_dense(kinds, pa.array(range(ROWS), pa.int32()), children))


def _offsets() -> Iterator[tuple[str, list[Message]]]:
    for name, kind, code in (
        ("string", pa.string(), "i"),
        ("binary", pa.binary(), "i"),
        ("large_string", pa.large_string(), "q"),
    ):
        far = _FAR if code == "i" else 1 << 60
        yield (
            f"{name}_offsets_beyond",
            _changed(_text(kind), 1, _filled(code, far, struct.calcsize(code), step=1)),
        )
        yield f"{name}_offsets_negative", _changed(_text(kind), 1, _filled(code, -far, step=1))
        yield f"{name}_offsets_falling", _changed(_text(kind), 1, _filled(code, ROWS, step=-1))
        yield (
            f"{name}_last_offset_beyond",
            _changed(_text(kind), 1, _filled(code, far, ROWS * struct.calcsize(code), 1)),
        )
    for name, kind, code in (
        ("list", pa.list_(pa.int64()), "i"),
        ("large_list", pa.large_list(pa.int64()), "q"),
        ("list_view", pa.list_view(pa.int64()), "i"),
    ):
        far = _FAR if code == "i" else 1 << 60
        yield (
            f"{name}_offsets_beyond",
            _changed(_lists(kind), 1, _filled(code, far, struct.calcsize(code), step=1)),
        )
        yield f"{name}_offsets_negative", _changed(_lists(kind), 1, _filled(code, -far))
    map_kind = pa.map_(pa.string(), pa.int64())
    maps = _batch(pa.array([[("k", i)] for i in range(ROWS)], map_kind))
    yield "map_offsets_beyond", _changed(maps, 1, _filled("i", _FAR, 4, step=1))


def _values() -> Iterator[tuple[str, list[Message]]]:
    def spoil(body: bytearray) -> None:
        tail = len(body) - 9000
        body[tail:] = b"\xff" * 9000

    for name, kind in (("string", pa.string()), ("large_string", pa.large_string())):
        yield f"{name}_not_utf8", _changed(_text(kind), 1, spoil)
    yield "dictionary_not_utf8", _changed(_dictionary(), 1, spoil)
    yield "dictionary_index_beyond", _changed(_dictionary(), 2, _filled("i", _FAR))
    yield "dictionary_index_negative", _changed(_dictionary(), 2, _filled("i", -_FAR))
    yield "dictionary_missing", [_dictionary()[0], _dictionary()[2]]
    yield "dictionary_of_nothing", [_dictionary()[0], _dictionary()[1]]
    yield "dictionary_twice", [*_dictionary()[:2], *_dictionary()[1:]]
    yield "run_ends_zero", _changed(_run_ends(), 1, _filled("i", 0))
    yield "run_ends_negative", _changed(_run_ends(), 1, _filled("i", -_FAR))
    yield "run_ends_beyond", _changed(_run_ends(), 1, _filled("i", _FAR))
    yield "union_types_unknown", _changed(_union("sparse"), 1, _filled("b", 77))
    yield "dense_union_types_unknown", _changed(_union("dense"), 1, _filled("b", -3))
    yield "dense_union_offsets_beyond", _changed(_union("dense"), 1, _filled("i", _FAR, 1280))
    views = _batch(pa.array([f"a long enough value {i}" for i in range(ROWS)], pa.string_view()))
    yield "view_sizes_negative", _changed(views, 1, _filled("i", -1, count=ROWS * 4))
    yield "view_buffers_unknown", _changed(views, 1, _filled("i", 4000, count=ROWS * 4))
    decimals = _batch(pa.array([1] * ROWS, pa.decimal128(5, 2)))
    yield "decimal_beyond_precision", _changed(decimals, 1, _filled("q", -1, count=ROWS * 2))
    yield "day_beyond_time", _changed(_batch(pa.array([0] * ROWS, pa.date32())), 1, _filled("i", 2**31 - 1))
    stamps = _batch(pa.array([0] * ROWS, pa.timestamp("s")))
    yield "moment_beyond_time", _changed(stamps, 1, _filled("q", 2**63 - 1))
    yield (
        "clock_beyond_day",
        _changed(_batch(pa.array([0] * ROWS, pa.time64("us"))), 1, _filled("q", -(2**63))),
    )


def _sizes() -> Iterator[tuple[str, list[Message]]]:
    numbers = _batch(pa.array(range(ROWS)))
    for name, count in (("many", 1 << 61), ("more", ROWS * 2), ("negative", -1), ("no", 0)):
        yield f"{name}_rows_of_numbers", _renumbered(numbers, 1, ROWS, count)
        yield f"{name}_rows_of_text", _renumbered(_text(pa.string()), 1, ROWS, count)
        yield f"{name}_rows_of_lists", _renumbered(_lists(pa.list_(pa.int64())), 1, ROWS, count)
        yield f"{name}_rows_of_views", _renumbered(_text(pa.string_view()), 1, ROWS, count)
        yield f"{name}_rows_of_runs", _renumbered(_run_ends(), 1, ROWS, count)
    for size in (0, -8, 1 << 62, 7):
        yield f"buffer_of_{size}_bytes", _renumbered(numbers, 1, ROWS * 8, size)
    nulls = pa.record_batch({"v": pa.nulls(ROWS)})
    yield "endless_nulls", _renumbered(messages(nulls.schema, [nulls]), 1, ROWS, 1 << 62)
    for keep in (0, 1, 8, 4096):
        yield f"body_cut_at_{keep}", [numbers[0], Message(numbers[1].header, numbers[1].body[:keep])]
    for keep in (0, 4, 40):
        yield f"header_cut_at_{keep}", [numbers[0], Message(numbers[1].header[:keep], numbers[1].body)]
        yield f"schema_cut_at_{keep}", [Message(numbers[0].header[:keep]), numbers[1]]


def _order() -> Iterator[tuple[str, list[Message]]]:
    numbers, text = _batch(pa.array(range(ROWS))), _text(pa.string())
    yield "rows_of_another_schema", [numbers[0], text[1]]
    yield "text_claimed_rows_of_numbers", [text[0], numbers[1]]
    yield "schema_twice", [numbers[0], numbers[0], numbers[1]]
    yield "schema_changed_in_between", [*numbers, *text]
    yield "rows_without_schema", [numbers[1], numbers[0]]
    yield "nothing", [Message(b"")]
    yield "garbage", [Message(bytes(range(256)), bytes(range(256)))]
    yield "schema_then_garbage", [numbers[0], Message(bytes(range(256)), b"\xff" * 999)]


def _compressed() -> Iterator[tuple[str, list[Message]]]:
    batch = pa.record_batch({"v": pa.array([7] * ROWS)})
    for codec in ("zstd", "lz4"):
        stream = messages(batch.schema, [batch], pa.ipc.IpcWriteOptions(compression=codec))
        for name, size in (
            ("huge", 1 << 60),
            ("negative", -5),
            ("small", 8),
            ("none", 0),
            ("large", 1 << 33),
        ):
            yield f"{codec}_declares_{name}", _changed(stream, 1, _filled("q", size, count=1))
        yield f"{codec}_damaged", _changed(stream, 1, _filled("q", -1, start=16, count=1))


def _shapes() -> Iterator[tuple[str, list[Message]]]:
    wide = pa.schema([pa.field(f"c{i}", pa.int8()) for i in range(10_000)])
    yield "ten_thousand_columns", messages(wide, [])
    for name, names in (
        ("duplicate", ["a", "a"]),
        ("case_duplicate", ["a", "A"]),
        ("empty", ["", ""]),
        ("nul", ["a\0b"]),
        ("newline", ["a\nb", '"', "'; drop table x; --"]),
        ("long", ["x" * 1_000_000]),
    ):
        schema = pa.schema([pa.field(n, pa.int8()) for n in names])
        rows = pa.record_batch([pa.array([1], pa.int8())] * len(names), schema=schema)
        yield f"{name}_column_names", messages(schema, [rows])
    for depth in (60, 1000):
        kind: pa.DataType = pa.int8()
        for _ in range(depth):
            kind = pa.list_(kind)
        yield (
            f"{depth}_levels_of_lists",
            [Message(pa.schema([pa.field("v", kind)]).serialize().to_pybytes()[8:])],
        )
    for zone in ("", "Nowhere/Nothing", "\0", "x" * 100_000, "+99:99"):
        zoned = _batch(pa.array([1], pa.timestamp("us", zone or None)))
        yield f"zone_{zone[:8]!a}_{len(zone)}", zoned


_EXTENSIONS = (
    "arrow.uuid arrow.json arrow.bool8 arrow.opaque arrow.parquet.variant arrow.fixed_shape_tensor "
    "arrow.variable_shape_tensor arrow.timestamp_with_offset geoarrow.wkb geoarrow.point duckdb.hugeint "
    "duckdb.bit duckdb.bignum duckdb.varint duckdb.time_tz nothing.known"
).split()
_TOLD = {
    "arrow.fixed_shape_tensor": '{"shape": [-1, 99999999999]}',
    "arrow.variable_shape_tensor": '{"uniform_shape": [null, -1], "permutation": [7]}',
    "arrow.opaque": '{"type_name": "bit", "vendor_name": "DuckDB"}',
    "nothing.known": "[" * 1000,
}


def _extensions() -> Iterator[tuple[str, list[Message]]]:
    storages = {
        "text": pa.array(_VALUES),
        "bytes": pa.array([b"", b"\xff", b"\0" * 3, b"\x80\0\0"], pa.binary()),
        "sixteen": pa.array([b"\xff" * 16, b"\0" * 16], pa.binary(16)),
        "number": pa.array([-128, 2, 0], pa.int8()),
        "variant": pa.array(
            [{"metadata": b"\xff\xff\xff", "value": b"\xff\xff"}, {"metadata": b"", "value": b""}],
            pa.struct([pa.field("metadata", pa.binary()), pa.field("value", pa.binary())]),
        ),
    }
    for extension in _EXTENSIONS:
        for name, storage in storages.items():
            told = _TOLD.get(extension, "")
            notes = {"ARROW:extension:name": extension, "ARROW:extension:metadata": told}
            schema = pa.schema([pa.field("v", storage.type, metadata=notes)])
            batch = pa.record_batch([storage], schema=schema)
            yield f"{extension}_of_{name}", messages(schema, [batch])


def all_lies() -> dict[str, list[Message]]:
    """Every stream by name."""
    families = (_offsets, _values, _sizes, _order, _compressed, _shapes, _extensions)
    return {name: stream for family in families for name, stream in family()}
