"""Takes the words of a text, in whatever script, as a search by words compares them.

A text is brought to one form: NFKC, then without case as Unicode folds it, so that ``Straße`` is ``strasse``
and full-width letters and ligatures are plain ones. A word is a run of letters, digits and their marks: ``ü``
is not ``u``, and vowel signs do not cut words of Indic scripts. Scripts that are written without spaces
give each character and each pair of neighbours, since nobody knows where their words end. No word is left out
for being frequent, and none is cut down to a stem.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

WORDS = 1
"""Tells this way of taking words from later ones: an index and its queries have to be of one way."""
LONGEST = 64
"""Longer words (keys, encoded files) are cut to that many characters."""
# Han, Hiragana and Katakana, Hangul, Bopomofo; Thai, Lao, Tibetan, Myanmar, Khmer.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u3029\u3041-\u30ff\u3105-\u312f"
    "\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U0001b000-\U0001b16f"
    "\U00020000-\U000323af"
)

_PLAIN = re.compile("[a-z0-9]+")


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds words, and what finds the parts of one that are written without spaces."""
    marks = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M"]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    told = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    # \w without the underscore, which joins words of programs.
    return re.compile(rf"[^\W_](?:[^\W_]|[{told}])*"), re.compile(
        rf"(?![{told}])[{_UNSPACED}][{_UNSPACED}{told}]*"
    )


def words(text: str) -> list[str]:
    """The words of a text in their order, each as often as it is there."""
    if text.isascii():
        return [word[:LONGEST] for word in _PLAIN.findall(text.lower())]
    found, unspaced = _patterns()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    listed = found.findall(folded)
    if unspaced.search(folded) is not None:
        listed = [part for word in listed for part in ((word,) if word.isascii() else _parts(word, unspaced))]
    return [word[:LONGEST] for word in listed]


def _parts(word: str, unspaced: re.Pattern[str]) -> Iterator[str]:
    """What is written with spaces around it, and characters and pairs of the rest."""
    end = 0
    for run in unspaced.finditer(word):
        if run.start() > end:
            yield word[end : run.start()]
        end = run.end()
        yield from (character for character in run[0] if unicodedata.category(character)[0] != "M")
        yield from map("".join, pairwise(run[0]))
    if end < len(word):
        yield word[end:]
