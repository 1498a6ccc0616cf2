"""What the values of one column of text say about its type: string, unless every one says otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.ingest.sources.text_kinds import (
    BIGINT,
    DOUBLE,
    KINDS,
    LARGEST_EXACT,
    WHOLE,
    Kind,
    Numeric,
    number_shape,
)

NO_VALUE = "there is no value"
_FIRST_VALUES = 100
# What a value of any kind begins with; an empty text is none.
_BEGINNINGS = frozenset("-.0123456789TtFf")
_SHOWN = 40
_DIGITS = 38
# Shapes of text that people ask about: why is it no number, no date?
_EXPLAINED = tuple(
    (re.compile(pattern), explained)
    for pattern, explained in (
        (r"^-?0[0-9]+\Z", "numbers with leading zeros"),
        (
            r"^[0-9]{1,2}([/.-])[0-9]{1,2}[/.-]([0-9]{2}|[0-9]{4})\Z",
            "dates in which day and month can be mistaken",
        ),
        (r"^-?[0-9]{1,3}([,.' ][0-9]{3})+([.,][0-9]+)?\Z", "numbers with separators of thousands"),
        (r"^-?[0-9]+,[0-9]+\Z", "numbers with a decimal comma"),
        (
            r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]+ ?[+-][0-9:]+\Z",
            "times of which the offset would be lost",
        ),
    )
)


@dataclass(slots=True)
class Doubt:
    """How many values are not of a kind, and the first of them."""

    kind: Kind
    count: int = 0
    text: str = ""
    line: int = 0
    place: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The type of a column: ``kind`` is None for a string. See ``SourceColumn`` for the others."""

    kind: Kind | None
    reason: str
    stricter: str

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        return self.kind.type if self.kind else pa.string()


class Evidence:
    """Fed with all texts of a column, part by part."""

    def __init__(self) -> None:
        self.values = 0
        self.missing = 0
        self._doubts: list[Doubt] | None = None
        self._whole = self._scale = 0
        self._plain = False
        self._explained = ""
        self._example = ""

    def add(self, texts: pa.Array, line_of: Callable[[int], int], place: str = "") -> None:
        """Look at more texts.

        Args:
            texts: Strings; NULL where a value is missing.
            line_of: Gives the line in which a row of ``texts`` begins.
            place: What file it is, where there are several.
        """
        self.missing += texts.null_count
        found = len(texts) - texts.null_count
        if not found:
            return
        if self._doubts is None:
            self._begin(texts)
        self.values += found
        implied: set[Kind] = set()
        for doubt in list(self._doubts or ()):
            if doubt.kind not in implied:
                implied |= self._test(doubt, texts, line_of, place)
        if self._plain and DOUBLE not in implied:
            self._measure(texts)
        # Of those that do not fit, one is told of: the one that fits best.
        least = min((doubt.count for doubt in self._doubts or () if doubt.count), default=0)
        told = next((doubt for doubt in self._doubts or () if doubt.count == least), None)
        self._doubts = [
            doubt
            for doubt in self._doubts or ()
            if not doubt.count or (doubt is told and doubt.count * 2 < self.values)
        ]

    def verdict(self, whole: bool = True) -> Verdict:
        """What the column is, by what was seen so far.

        Args:
            whole: Whether that was everything.
        """
        if not self.values:
            return Verdict(None, NO_VALUE, "")
        fits = [doubt.kind for doubt in self._doubts or () if not doubt.count]
        kind = fits[0] if fits else self._exact_number()
        failed = [d for d in self._doubts or () if d.count and (kind is None or d.kind is BIGINT)]
        stricter = self._lost(min(failed, key=lambda d: d.count), whole) if failed else ""
        seen = f"all {self.values} values" if whole else f"the first {self.values} values"
        if kind is not None:
            return Verdict(kind, f"{seen} are {kind.plural}{self._missing()}", stricter)
        if self._explained:
            return Verdict(None, f"{self._explained}, such as '{self._example}'", stricter)
        return Verdict(None, "mixed values" if stricter else "text", stricter)

    def kind_for(self, type_: pa.DataType) -> Kind | None:
        """The kind of a type that nothing spoke against so far."""
        if pa.types.is_decimal128(type_) and type_.precision == _DIGITS:
            return Numeric(type_.scale)
        fits = (doubt.kind for doubt in self._doubts or () if not doubt.count)
        return next((kind for kind in fits if kind.type == type_), None)

    def _missing(self) -> str:
        return f", {self.missing} are missing" if self.missing else ""

    def _lost(self, doubt: Doubt, whole: bool) -> str:
        where = f"line {doubt.line}" + (f" of '{doubt.place}'" if doubt.place else "")
        seen = "" if whole else f" of the first {self.values}"
        return (
            f"as {doubt.kind.name} {doubt.count}{seen} values would be lost, first '{doubt.text}' in {where}"
        )

    def _begin(self, texts: pa.Array) -> None:
        """Which kinds it could be at all: those that half of the first values look like."""
        some = texts.drop_null().slice(0, _FIRST_VALUES).to_pylist()
        half = len(some) / 2
        self._doubts = []
        if sum(text[:1] in _BEGINNINGS for text in some) <= half:
            return
        self._doubts = [Doubt(kind) for kind in KINDS if sum(kind.resembles(text) for text in some) > half]
        self._plain = any(doubt.kind is DOUBLE for doubt in self._doubts)
        for pattern, explained in _EXPLAINED:
            matching = [text for text in some if pattern.search(text)]
            if len(matching) > half:
                self._explained, self._example = explained, _cut(matching[0])
                break

    def _test(self, doubt: Doubt, texts: pa.Array, line_of: Callable[[int], int], place: str) -> set[Kind]:
        """See which texts are not of a kind; gives the kinds that need not be looked at any more."""
        kind = doubt.kind
        if len(texts) <= _FIRST_VALUES:
            # With thousands of columns and a few rows, it counts how fast one is done with.
            wrong = sum(text is not None and not kind.resembles(text) for text in texts.to_pylist())
            if wrong * 2 >= self.values:
                doubt.count = self.values
                return set()
        values = None if doubt.count else kind.quick(texts)
        if values is None:
            values, misfits = kind.convert(texts)
            if misfits.any():
                first = int(np.flatnonzero(misfits)[0])
                if not doubt.count:
                    doubt.text, doubt.line, doubt.place = _cut(texts[first].as_py()), line_of(first), place
                doubt.count += int(np.count_nonzero(misfits))
                return set()
        if kind is BIGINT:
            bounds = pc.min_max(values).as_py()
            self._whole = max(self._whole, 19)
            small = max(abs(bounds["min"] or 0), abs(bounds["max"] or 0)) <= LARGEST_EXACT
            return {WHOLE, DOUBLE} if small else {WHOLE}
        return set()

    def _measure(self, texts: pa.Array) -> None:
        shape = number_shape(texts)
        if shape is None:
            self._plain = False
        else:
            self._whole, self._scale = max(self._whole, shape[0]), max(self._scale, shape[1])

    def _exact_number(self) -> Kind | None:
        """A decimal number that holds all values, where doubles do not and nothing else is against it."""
        if self._plain and self._whole + self._scale <= _DIGITS:
            return Numeric(self._scale)
        return None


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
