"""The size of Arrow data with every value written out, against what decoding it gives."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flight_server.protocol.decoded_size import decoded_bytes

MOST = 1 << 28
COUNT = 1000
TEXTS = [f"text {i % 7} {'x' * (i % 50)}" for i in range(COUNT)]
LENGTH = sum(len(text) for text in TEXTS)
PLAIN = pa.array(TEXTS)


@pytest.mark.parametrize(
    "array",
    [
        PLAIN,
        pa.array(TEXTS, pa.string_view()),
        PLAIN.dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays(pa.array(range(1, COUNT + 1), pa.int32()), PLAIN),
        pa.array([[text] for text in TEXTS], pa.list_view(pa.string())),
        pa.array([[text] for text in TEXTS], pa.list_(pa.string_view(), 1)),
        pa.array([{"a": text} for text in TEXTS], pa.struct([("a", pa.string_view())])),
        pa.array([[(text, None)] for text in TEXTS], pa.map_(pa.string_view(), pa.null())),
    ],
    ids=lambda array: str(array.type)[:30],
)
def test_the_size_is_that_of_the_values_and_a_little_for_each(array):
    size = decoded_bytes(pa.record_batch({"v": array}), MOST)
    assert LENGTH <= size <= LENGTH + 40 * COUNT


@pytest.mark.parametrize(
    "array",
    [
        pa.DictionaryArray.from_arrays(pa.array([0] * COUNT), pa.array(["x" * 1_000_000])),
        pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.nulls(1)),
        pa.RunEndEncodedArray.from_arrays(pa.array([COUNT], pa.int32()), pa.array(["x" * 1_000_000])),
        pa.Array.from_buffers(pa.null(), 1 << 60, [None]),
        pa.Array.from_buffers(pa.struct([]), 1 << 27, [None]),
    ],
    ids=["dictionary", "runs_of_nulls", "runs", "nulls", "empty_structs"],
)
def test_what_a_few_bytes_stand_for_is_seen(array):
    assert decoded_bytes(pa.record_batch({"v": array}), MOST) == float("inf")
