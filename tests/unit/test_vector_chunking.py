"""Texts are cut where a reader would cut them, and nothing of them is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.errors import InvalidRequest
from lakehouse.vectors.chunking import ChunkBy, Chunking, chunks

TEXT = "One is here. Two is there! Is three?\n\nA second paragraph.  It has two sentences.\n \nEnd"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Chunking(ChunkBy.NONE), [TEXT]),
        (Chunking(size=1000), [TEXT]),
        (
            Chunking(size=45),
            ["One is here. Two is there! Is three?", "A second paragraph.  It has two sentences.", "End"],
        ),
        (
            Chunking(size=30),
            [
                "One is here. Two is there!",
                "Is three?",
                "A second paragraph.",
                "It has two sentences.\n \nEnd",
            ],
        ),
        (
            Chunking(ChunkBy.SENTENCE, 30, 15),
            ["One is here. Two is there!", "Two is there! Is three?", "A second paragraph."],
        ),
        (Chunking(ChunkBy.SIZE, 11), ["One is", "here. Two", "is there!", "Is three?", "A second"]),
        (Chunking(ChunkBy.SIZE, 3), ["One", "is", "her", "e.", "Two", "is", "the", "re!", "Is", "thr"]),
    ],
)
def test_text_is_cut_where_it_may_be(how: Chunking, expected: list[str]) -> None:
    assert chunks(TEXT, how)[: len(expected)] == expected


@pytest.mark.parametrize("text", ["", " ", "\n\n\t"])
@pytest.mark.parametrize("by", ChunkBy)
def test_blank_text_has_no_pieces(text: str, by: ChunkBy) -> None:
    assert chunks(text, Chunking(by)) == []


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": 100_001}, {"overlap": -1}, {"size": 10, "overlap": 6}]
)
def test_sizes_have_bounds(wrong: dict) -> None:
    with pytest.raises(InvalidRequest):
        Chunking(**wrong)


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.sampled_from("ab é.。!?\n\t 🦆")),
    st.sampled_from([ChunkBy.PARAGRAPH, ChunkBy.SENTENCE, ChunkBy.SIZE]),
    st.integers(1, 30),
    st.integers(0, 15),
)
def test_pieces_are_small_and_cover_the_text(text: str, by: ChunkBy, size: int, overlap: int) -> None:
    how = Chunking(by, size, min(overlap, size // 2))
    at = 0
    for piece in chunks(text, how):
        assert 0 < len(piece) <= size
        found = text.find(piece, max(0, at - how.overlap - size))
        assert found >= 0
    if not how.overlap:
        assert "".join("".join(chunks(text, how)).split()) == "".join(text.split())


def test_a_megabyte_without_a_blank_is_cut_soon() -> None:
    assert len(chunks("x" * 1_000_000, Chunking())) == 1000
    assert len(chunks("word. " * 170_000, Chunking(ChunkBy.SENTENCE, 100, 50))) > 1000
