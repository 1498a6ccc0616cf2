"""Rows are found by their words: of any script, weighed by BM25, within what may be found."""

from __future__ import annotations

from math import inf
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.vectors.lexical import K1, B, LexicalIndex
from lakehouse.vectors.selection import Selection
from lakehouse.vectors.words import LONGEST, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("Müller, Mu\u0308ller", ["müller", "müller"]),  # composed or not
        ("Muller", ["muller"]),
        ("ﬁne ＰＹＴＨＯＮ ①", ["fine", "python", "1"]),
        ("Σίσυφος ΣΊΣΥΦΟΣ", ["σίσυφοσ", "σίσυφοσ"]),
        ("Ёлка Їжак", ["ёлка", "їжак"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are no letters, and cut no words
        ("שָׁלוֹם مرحبا", ["שָׁלוֹם", "مرحبا"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー", "東京", "京タ", "タワ", "ワー"]),
        ("Python3を学ぶ", ["python3", "を", "学", "ぶ", "を学", "学ぶ"]),
        ("한국", ["한", "국", "한국"]),
        ("犬", ["犬"]),
        ("read_csv() of os.path, 3.14", ["read", "csv", "of", "os", "path", "3", "14"]),
        ("x" * 100, ["x" * LONGEST]),
        ("ü" * 100, ["ü" * LONGEST]),
        ("🦆 … \0 _", []),
        ("", []),
    ],
)
def test_words_of_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_words_hold_only_what_they_are_compared_by(text: str) -> None:
    found = words(text)
    assert all(0 < len(word) <= LONGEST and not set(word) & set(" _.,-\n\0") for word in found)
    assert all(words(word) for word in found)  # each is one when it stands alone


def index(*texts: str | None) -> LexicalIndex:
    return LexicalIndex.build(pa.chunked_array([pa.array(texts, pa.string())]))


TEXTS = ("to be or not to be", "be quick", "", None, "not now", "quick brown fox, quick", "Füchse 狐が走る")


def test_what_holds_a_word_of_the_query_is_found_the_best_first() -> None:
    made = index(*TEXTS)
    assert made.search("Quick!", 10)[0].tolist() == [5, 1]
    assert made.search("fox not now", 10)[0].tolist() == [4, 5, 0]
    assert made.search("走る 狐", 10)[0].tolist() == [6]
    assert made.search("füchse", 1)[0].tolist() == [6]
    assert made.search("FUCHSE zebra", 10)[0].tolist() == []
    assert made.search("", 10)[0].tolist() == []
    assert made.search("quick " * 10, 1)[1] == made.search("quick", 1)[1]  # a word counts once
    assert made.search("quick be", 2)[0].tolist() == made.search("be quick", 10)[0][:2].tolist()


def test_of_equals_the_former_comes_first_however_many_are_wanted() -> None:
    made = index(*["same text"] * 50, "other")
    for k in (1, 7, 50, 100):
        assert made.search("text", k)[0].tolist() == list(range(min(k, 50)))


def test_scores_are_those_of_the_library() -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(f"w{n}" for n in rng.zipf(1.4, rng.integers(0, 30)) % 80) for _ in range(300)]
    library = bm25s.BM25(k1=K1, b=B, method="lucene")
    library.index([text.split() for text in texts], show_progress=False)
    made = index(*texts)
    for query in (["w1", "w2"], ["w7"], ["w3", "w41", "w5"]):
        expected = library.get_scores(query)
        positions, scores = made.search(" ".join(query), 300)
        assert scores == pytest.approx(expected[positions], rel=1e-5)
        assert len(positions) == np.count_nonzero(expected)
        assert sorted(scores, reverse=True) == scores.tolist()


def test_search_among_some_tells_nothing_of_the_others() -> None:
    """Words are as rare as they are among the selection, whatever the rest holds."""
    mine = ["red apple", "green apple", "red wine", "blue sky"]
    mask = np.array([True] * 4 + [False] * 40)
    one = index(*mine, *["red thing"] * 40)
    other = index(*mine, *["blue thing"] * 40)
    for query in ("red", "apple red", "blue", "green sky thing"):
        first = one.search(query, 10, selection=Selection(mask))
        second = other.search(query, 10, selection=Selection(mask))
        assert first[0].tolist() == second[0].tolist()
        assert first[1] == pytest.approx(second[1])
        assert set(first[0].tolist()) <= set(range(4))
    assert one.search("thing", 10, selection=Selection(mask))[0].tolist() == []
    nothing = Selection(np.zeros(44, dtype=np.bool_))
    assert one.search("red", 10, selection=nothing)[0].tolist() == []


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=12), st.data())
def test_selection_finds_all_that_fits_and_holds_a_word(rows: list[list[str]], data: st.DataObject) -> None:
    made = index(*map(" ".join, rows))
    mask = np.array([data.draw(st.booleans()) for _ in rows], dtype=np.bool_)
    wanted = data.draw(st.lists(st.sampled_from("abcdefg"), max_size=3))
    found, scores = made.search(" ".join(wanted), 100, selection=Selection(mask))
    assert set(found.tolist()) == {n for n, row in enumerate(rows) if mask[n] and set(row) & set(wanted)}
    assert all(0 < score < inf for score in scores)


def test_index_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "words"
    for texts in (TEXTS, ("", None), ()):
        made = index(*texts)
        made.save(path)
        loaded = LexicalIndex.load(path)
        assert loaded.count == len(texts)
        for query in ("quick", "not 狐", ""):
            assert [each.tolist() for each in loaded.search(query, 5)] == [
                each.tolist() for each in made.search(query, 5)
            ]
    for content in (b"", b"something else", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="does not hold one"):
            LexicalIndex.load(path)


def test_long_texts_and_long_queries() -> None:
    many = " ".join(f"word{n}" for n in range(20_000))
    made = index("word7 alone", many, "word" * 250_000)
    assert made.search(many, 3)[0].tolist() == [1, 0]
    assert made.search("word7", 3)[0].tolist() == [0, 1]
    assert made.search("word" * 250_000, 3)[0].tolist() == [2]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_of_any_type_of_text(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array(["a b", "b"]).cast(kind), pa.array(["c"]).cast(kind)])
    assert LexicalIndex.build(column).search("b c", 5)[0].tolist() == [2, 1, 0]


def test_what_is_no_text_has_no_words() -> None:
    with pytest.raises(InvalidRequest, match="int64, expected texts"):
        LexicalIndex.build(pa.chunked_array([[1, 2]]))


def test_work_stops_when_it_shall() -> None:
    class Stopped(Exception):
        pass

    def check() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        LexicalIndex.build(pa.chunked_array([["a"]]), check=check)
    with pytest.raises(Stopped):
        index("a").search("a", 1, check=check)
