"""What a text may be besides text: the kinds of values that inference knows, and how exactly each is read.

A kind takes a text only if the text can be told from the value again, but for zeros at the end of a fraction,
its notation with an exponent, and the digits of a second that are zero. What a caller states is read more
leniently, by ``stated_kinds``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from decimal import Decimal, InvalidOperation

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

_DIGITS = 38
# A double holds every decimal number of 15 digits.
_EXACT_LENGTH = 15
LARGEST_EXACT = 1 << 53
_MICROSECONDS = pa.timestamp("us")
_UTC = pa.timestamp("us", "UTC")
_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"


class Kind(ABC):
    """One way of reading texts.

    Attributes:
        name: As SQL names the type.
        type: The Arrow type of the values.
        plural: What the values are called, for reasons.
        pattern: What a text has to look like, as RE2 reads it.
    """

    def __init__(self, name: str, type_: pa.DataType, plural: str, pattern: str) -> None:
        self.name = name
        self.type = type_
        self.plural = plural
        self.pattern = pattern
        self._shape = re.compile(pattern.replace("$", r"\Z"))

    def resembles(self, text: str) -> bool:
        """Whether one text looks right. RE2 is fast with many of them, but takes long to begin."""
        return self._shape.search(text) is not None

    @abstractmethod
    def cast(self, texts: pa.Array) -> pa.Array:
        """The values of texts that look right.

        Raises:
            pa.ArrowInvalid: One of them is none.
        """

    def quick(self, texts: pa.Array) -> pa.Array | None:
        """The values, if it is certain that all texts are of this kind; None if it is not."""
        if pc.all(self.looks(texts), min_count=0).as_py():
            try:
                values = self.cast(texts)
            except pa.ArrowInvalid:
                return None
            return None if self.inexact(texts, values).any() else values
        return None

    def looks(self, texts: pa.Array) -> pa.Array:
        """Which texts look right."""
        return pc.match_substring_regex(texts, self.pattern)

    def inexact(self, texts: pa.Array, values: pa.Array) -> Mask:
        """Which values are not what their texts say."""
        return np.zeros(len(texts), np.bool_)

    def convert(self, texts: pa.Array) -> tuple[pa.Array, Mask]:
        """The values, NULL where a text is not of this kind, and which of them those are."""
        values = self.quick(texts)
        if values is not None:
            return values, np.zeros(len(texts), np.bool_)
        there = _bits(texts.is_valid())
        candidates = pc.if_else(self.looks(texts), texts, pa.scalar(None, texts.type))
        values = pa.concat_arrays(list(self._bisected(candidates)))
        inexact = self.inexact(candidates, values)
        if inexact.any():
            values = pc.if_else(pa.array(inexact), pa.scalar(None, values.type), values)
        return values, there & ~_bits(values.is_valid())

    def _bisected(self, texts: pa.Array) -> list[pa.Array]:
        try:
            return [self.cast(texts)]
        except pa.ArrowInvalid:
            if len(texts) <= 1:
                return [pa.nulls(len(texts), self.type)]
            half = len(texts) // 2
            return self._bisected(texts.slice(0, half)) + self._bisected(texts.slice(half))


class Boolean(Kind):
    """Truth in one spelling."""

    def __init__(self, true: str, false: str) -> None:
        super().__init__("BOOLEAN", pa.bool_(), f"'{true}' or '{false}'", f"^(?:{true}|{false})$")
        self._true = true

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``."""
        return pc.equal(texts, self._true)


class BigInt(Kind):
    """Whole numbers of 64 bits, as every program writes them: without leading zeros, ``+`` or ``-0``."""

    def __init__(self) -> None:
        super().__init__("BIGINT", pa.int64(), "integers", "^(?:0|-?[1-9][0-9]{0,18})$")

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``."""
        return pc.cast(texts, pa.int64())

    def quick(self, texts: pa.Array) -> pa.Array | None:
        """By the number of bytes: any other way to write the same number takes more of them."""
        _, content = text_bytes(texts)
        if len(content) and content.max() > ord("9"):
            return None
        try:
            values = self.cast(texts)
        except pa.ArrowInvalid:
            return None
        numbers = values.fill_null(0) if values.null_count else values
        digits = _digits(np.frombuffer(numbers.buffers()[1], np.int64, len(numbers), numbers.offset * 8))
        return values if digits - values.null_count == len(content) else None


class Numeric(Kind):
    """Decimal numbers of a fixed number of digits after the point, exactly."""

    def __init__(self, scale: int) -> None:
        whole = f"(?:0|[1-9][0-9]{{0,{_DIGITS - scale - 1}}})" if scale < _DIGITS else "0"
        point = rf"(?:\.[0-9]{{1,{scale}}})" if scale else ""
        pattern = rf"^-?(?:{whole}{point}?|{point})$" if scale else f"^(?:0|-?[1-9][0-9]{{0,{_DIGITS - 1}}})$"
        what = "decimal numbers with more digits than doubles have" if scale else "integers beyond 64 bits"
        super().__init__(f"DECIMAL({_DIGITS},{scale})", pa.decimal128(_DIGITS, scale), what, pattern)

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``. Arrow wraps numbers of more than 38 digits around; none has the right look."""
        return pc.cast(texts, self.type)


_PLAIN = r"^-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)$"
_SCIENTIFIC = r"^-?[0-9](?:\.[0-9]+[eE][+-]?|[eE][+-])[0-9]{1,3}$"


class Double(Kind):
    """Numbers with a fraction or an exponent that a double gives back as they are."""

    def __init__(self) -> None:
        super().__init__("DOUBLE", pa.float64(), "numbers", f"(?:{_PLAIN})|(?:{_SCIENTIFIC})")

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``."""
        return pc.cast(texts, pa.float64())

    def quick(self, texts: pa.Array) -> pa.Array | None:
        """By the bytes: digits, points and signs that can be cast are numbers, but for a few shapes."""
        ends, content = text_bytes(texts)
        if len(content) and (content.max() > ord("9") or (content == ord("+")).any()):
            return super().quick(texts)
        if _odd_shape(ends, content):
            return None
        try:
            values = self.cast(texts)
        except pa.ArrowInvalid:
            return None
        return None if self.inexact(texts, values).any() else values

    def inexact(self, texts: pa.Array, values: pa.Array) -> Mask:
        """Those whose shortest notation is not the number that is written there."""
        ends, content = text_bytes(texts)
        doubtful = np.diff(ends) > _EXACT_LENGTH
        if len(content) and content.max() > ord("9"):
            doubtful |= _bits(pc.fill_null(pc.match_substring_regex(texts, "[eE]"), False))
        if not doubtful.any():
            return doubtful
        places = np.flatnonzero(doubtful)
        some = texts.take(pa.array(places))
        shown = pc.cast(values.take(pa.array(places)), pa.string())
        wrong = ~_bits(pc.fill_null(pc.equal(some, shown), True))
        doubtful[places] = wrong
        for place in np.flatnonzero(doubtful):
            doubtful[place] = not _same_number(texts[place].as_py(), values[place].as_py())
        return doubtful


class Date(Kind):
    """Days, year first."""

    def __init__(self, separator: str) -> None:
        pattern = _DATE.replace("-", separator) if separator != "-" else _DATE
        if separator != "-":
            pattern = f"[0-9]{{4}}{separator}[0-9]{{2}}{separator}[0-9]{{2}}"
        super().__init__("DATE", pa.date32(), f"dates as YYYY{separator}MM{separator}DD", f"^{pattern}$")
        self._separator = separator

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``."""
        if self._separator != "-":
            texts = pc.replace_substring(texts, self._separator, "-")
        values = pc.cast(texts, pa.date32())
        _check_era(pc.cast(values, pa.int32()), _FIRST_DAY)
        return values

    def looks(self, texts: pa.Array) -> pa.Array:
        """Arrow reads nothing else of ten bytes as a date."""
        ends, _ = text_bytes(texts)
        if self._separator == "-" and not texts.null_count and (np.diff(ends) == 10).all():
            return pa.array(np.ones(len(texts), np.bool_))
        return super().looks(texts)


class Moment(Kind):
    """Dates with times of day; with ``zone``, in UTC and written so."""

    def __init__(self, separator: str, zone: str = "") -> None:
        name, type_ = ("TIMESTAMPTZ", _UTC) if zone else ("TIMESTAMP", _MICROSECONDS)
        shape = f"YYYY-MM-DD{separator}HH:MM:SS{zone}"
        pattern = f"^{_DATE}{separator}{_CLOCK}{zone.replace('+', '[+]')}$"
        super().__init__(name, type_, f"times as {shape}", pattern)
        self._marks = dict(zip((4, 7, 10, 13, 16), f"--{separator}::", strict=True))
        self._marks.update(enumerate(zone, 19))

    def looks(self, texts: pa.Array) -> pa.Array:
        """By their marks, where all are without fractions: Arrow checks the digits."""
        ends, content = text_bytes(texts)
        width = 14 + len(self._marks)
        if texts.null_count or not len(texts) or (np.diff(ends) != width).any():
            return super().looks(texts)
        letters = content.reshape(len(texts), width)
        marked = all((letters[:, place] == ord(mark)).all() for place, mark in self._marks.items())
        return pa.array(np.ones(len(texts), np.bool_)) if marked else super().looks(texts)

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``."""
        values = pc.cast(texts, self.type)
        _check_era(pc.cast(values, pa.int64()), _FIRST_DAY * _DAY_US)
        return values


class Time(Kind):
    """Times of day."""

    def __init__(self) -> None:
        super().__init__("TIME", pa.time64("us"), "times of day as HH:MM:SS", f"^{_CLOCK}$")

    def cast(self, texts: pa.Array) -> pa.Array:
        """See ``Kind``."""
        moments = pc.cast(pc.binary_join_element_wise("1970-01-01", texts, " "), _MICROSECONDS)
        return pc.cast(moments, pa.time64("us"))


_FIRST_DAY = -719162
_DAY_US = 86_400_000_000

BIGINT = BigInt()
DOUBLE = Double()
WHOLE = Numeric(0)

KINDS: tuple[Kind, ...] = (
    Boolean("true", "false"),
    Boolean("True", "False"),
    Boolean("TRUE", "FALSE"),
    BIGINT,
    WHOLE,
    DOUBLE,
    Date("-"),
    Date("/"),
    Moment(" "),
    Moment("T"),
    Moment(" ", "Z"),
    Moment("T", "Z"),
    Moment(" ", "+00"),
    Moment(" ", "+00:00"),
    Moment("T", "+00:00"),
    Time(),
)
"""Those that inference tries, the first that fits everything is taken."""


def text_bytes(texts: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """The offsets of texts, from 0, and their bytes."""
    buffers = texts.buffers()
    if not len(texts) or buffers[1] is None:
        return np.zeros(len(texts) + 1, np.int32), np.zeros(0, np.uint8)
    ends = np.frombuffer(buffers[1], np.int32, len(texts) + 1, texts.offset * 4)
    if buffers[2] is None:
        return ends, np.zeros(0, np.uint8)
    content = np.frombuffer(buffers[2], np.uint8)[ends[0] : ends[-1]]
    return ends - ends[0], content


def number_shape(texts: pa.Array) -> tuple[int, int] | None:
    """The most digits before and after the point, if all texts are plain decimal numbers; else None."""
    if not pc.all(pc.match_substring_regex(texts, _PLAIN), min_count=0).as_py():
        return None
    lengths = pc.binary_length(texts)
    points = pc.find_substring(texts, ".")
    signs = pc.cast(pc.starts_with(texts, "-"), pa.int32())
    pointed = pc.greater_equal(points, 0)
    whole = pc.subtract(pc.if_else(pointed, points, lengths), signs)
    after = pc.if_else(pointed, pc.subtract(pc.subtract(lengths, points), 1), 0)
    return pc.max(whole).as_py() or 0, pc.max(after).as_py() or 0


def _digits(numbers: npt.NDArray[np.int64]) -> int:
    """How many characters the numbers take, written down."""
    if not len(numbers):
        return 0
    least, most = int(numbers.min()), int(numbers.max())
    total = len(numbers)
    if least < 0:
        total += int(np.count_nonzero(numbers < 0))
        numbers = np.abs(numbers)
    bound = 10
    while bound <= max(most, -least):
        total += int(np.count_nonzero(numbers >= bound))
        bound *= 10
    return total


def _odd_shape(ends: npt.NDArray[np.int32], content: npt.NDArray[np.uint8]) -> bool:
    """Whether a number has a leading zero, or a point at its end."""
    lengths = np.diff(ends)
    starts = ends[:-1][lengths > 1]
    if not len(starts):
        return False
    lasts = ends[1:][lengths > 1] - 1
    if (content[lasts] == ord(".")).any():
        return True
    first = content[starts]
    minus = first == ord("-")
    if minus.any():
        starts = starts + minus
        first = content[starts]
    zero = (first == ord("0")) & (starts < lasts)
    return bool((content[starts[zero] + 1] != ord(".")).any())


def _same_number(text: str, value: float) -> bool:
    try:
        return Decimal(text) == Decimal(repr(value))
    except InvalidOperation:
        return False


def _check_era(numbers: pa.Array, least: int) -> None:
    if len(numbers) and (pc.min(numbers).as_py() or 0) < least:
        raise pa.ArrowInvalid("the year 0")


def _bits(mask: pa.Array) -> Mask:
    found: Mask = mask.to_numpy(zero_copy_only=False).astype(np.bool_, copy=True)
    return found
