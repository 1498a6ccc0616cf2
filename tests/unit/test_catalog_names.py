"""Names of schemas and tables, and the path segments made of them."""

from __future__ import annotations

import random

import pytest

from lakehouse.catalog.names import check_name, fold, name_of, segment_of
from lakehouse.errors import InvalidRequest

NAMES = [
    "flights",
    "a b",
    "a/b",
    "a%2Fb",
    "%",
    ".",
    "..",
    ".hidden",
    "_schema.json",
    "_",
    "~",
    "a~b",
    "über",
    "日本語",
    'a:b*c?d"e<f>g|h\\i',
    "[x]",
    "#",
    "a+b",
    "\n",
    "'",
    "con",
    "x" * 199,
    "e\u0301",
    "\u00e9",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_segment_can_be_read_back_and_is_plain(name: str) -> None:
    segment = segment_of(name)
    assert name_of(segment) == fold(name)
    assert segment.isascii()
    assert not set(segment) & set("/\\ *?[]:\"<>|#+'\n")
    assert segment[0] not in "._"


def test_different_names_have_different_segments() -> None:
    assert len({segment_of(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("letter", ["x", "é", "😀", "%"])
def test_very_long_names_have_segments_that_fit_and_differ(letter: str) -> None:
    first, second = segment_of(letter * 5000), segment_of(letter * 5001)
    assert first != second
    assert len(first) <= 200
    assert len(second) <= 200
    assert name_of(first) is None


def test_ascii_case_does_not_matter_and_that_of_other_letters_does() -> None:
    assert segment_of("Flights") == segment_of("FLIGHTS")
    assert segment_of("Été") == segment_of("ÉTé".replace("É", "É"))
    assert segment_of("É") != segment_of("é")
    assert fold("STRASSE") != fold("straße")


def test_random_names_survive() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        name = "".join(chr(rng.choice([rng.randrange(1, 128), rng.randrange(1, 0xD800)])) for _ in range(9))
        assert name_of(segment_of(name)) == fold(name)


@pytest.mark.parametrize("segment", ["", "Flights", "a b", "%zz", "%61", "~", "_x", ".x", "data"])
def test_segments_that_no_name_is_kept_under_stand_for_none(segment: str) -> None:
    expected = "data" if segment == "data" else None
    assert name_of(segment) == expected


@pytest.mark.parametrize("name", ["", "a\0", "\udc80"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name, "table")
