"""Types that a caller states for columns of text: read leniently, since somebody knows what is there."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.text_kinds import Kind, Mask

_NAMES: dict[str, pa.DataType] = {
    "STRING": pa.string(),
    "VARCHAR": pa.string(),
    "TEXT": pa.string(),
    "BOOLEAN": pa.bool_(),
    "BOOL": pa.bool_(),
    "INTEGER": pa.int32(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "LONG": pa.int64(),
    "REAL": pa.float32(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
}
_SPEC = re.compile(r"^\s*(\w+)\s*(?:\((.*)\))?\s*$", re.DOTALL)
_DECIMAL = re.compile(r"^\s*(\d{1,2})\s*(?:,\s*(\d{1,2})\s*)?$")
_TRUE = ["true", "t", "yes", "y", "1", "on"]
_FALSE = ["false", "f", "no", "n", "0", "off"]
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_SPECIAL = "^(?i:[+-]?(?:nan|inf|infinity))$"
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_OFFSET = "(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
STATED = "stated by the caller"
GIVEN = frozenset({STATED, "the table's type"})
"""Reasons of columns whose type was not inferred: rows that do not fit are rejected."""


def stated_type(spec: str, column: str) -> tuple[pa.DataType, str]:
    """The Arrow type that a caller means, and the format of dates if there is one.

    Args:
        spec: ``BIGINT``, ``DECIMAL(12,2)``, ``DATE(%d/%m/%Y)`` …, in any case.
        column: For messages.

    Raises:
        InvalidRequest: There is no such type.
    """
    found = _SPEC.match(spec)
    name, inner = (found.group(1).upper(), found.group(2)) if found else ("", None)
    if name in {"DECIMAL", "NUMERIC"}:
        digits = _DECIMAL.match(inner if inner is not None else "38,0")
        if digits and 0 < int(digits.group(1)) <= 38 and int(digits.group(2) or 0) <= int(digits.group(1)):
            return pa.decimal128(int(digits.group(1)), int(digits.group(2) or 0)), ""
    elif name in {"DATE", "TIMESTAMP"} and inner:
        return _NAMES[name], inner.strip("'\" ")
    elif name in _NAMES and inner is None:
        return _NAMES[name], ""
    known = ", ".join([*_NAMES, "DECIMAL(p,s)", "DATE(%d/%m/%Y)", "TIMESTAMP(%d/%m/%Y %H:%M)"])
    raise InvalidRequest(f"column '{column}' cannot have the type '{spec}'", f"types are {known}")


def stated_kind(type_: pa.DataType, form: str, column: str) -> Kind | None:
    """How texts are read as a type; None for text itself.

    Raises:
        InvalidRequest: Texts cannot be read as that.
    """
    types = pa.types
    if types.is_string(type_):
        return None
    if types.is_boolean(type_):
        return _StatedBoolean(type_, "^(?i:" + "|".join(_TRUE + _FALSE) + ")$")
    if types.is_integer(type_):
        return _Stated(type_, "^[+-]?[0-9]+$")
    if types.is_floating(type_):
        return _Stated(type_, f"(?:{_NUMBER})|(?:{_SPECIAL})")
    if types.is_decimal128(type_):
        return _StatedDecimal(type_, _NUMBER)
    if form:
        return _StatedFormat(type_, form)
    if types.is_date32(type_):
        return _Stated(type_, f"^{_DAY}$")
    if types.is_timestamp(type_) and type_.unit == "us":
        return _Stated(type_, f"^{_DAY}(?:[ T]{_CLOCK} ?{_OFFSET if type_.tz else ''})$")
    if types.is_time64(type_) and type_.unit == "us":
        return _StatedTime(type_, f"^{_CLOCK}$")
    raise InvalidRequest(f"column '{column}' holds text, which cannot be read as {type_}")


class _Stated(Kind):
    """Whatever Arrow reads as the type, once blanks around it and a plus are gone."""

    def __init__(self, type_: pa.DataType, pattern: str) -> None:
        super().__init__(str(type_), type_, f"values of the type {type_}", pattern)

    def looks(self, texts: pa.Array) -> pa.Array:
        return super().looks(pc.utf8_trim_whitespace(texts))

    def cast(self, texts: pa.Array) -> pa.Array:
        trimmed = pc.utf8_trim_whitespace(texts)
        if not pa.types.is_temporal(self.type):
            trimmed = pc.replace_substring_regex(trimmed, r"^\+", "")
        elif pa.types.is_timestamp(self.type):
            trimmed = pc.replace_substring_regex(trimmed, " (Z|[+-])", r"\1")
            trimmed = pc.replace_substring_regex(trimmed, f"^({_DAY})$", r"\1 00:00:00")
        return self.read(trimmed)

    def read(self, texts: pa.Array) -> pa.Array:
        """The values of trimmed texts."""
        return pc.cast(texts, self.type)


class _StatedBoolean(_Stated):
    def read(self, texts: pa.Array) -> pa.Array:
        return (
            pc.is_in(pc.ascii_lower(texts), pa.array(_TRUE))
            if not texts.null_count
            else pc.if_else(
                texts.is_valid(),
                pc.is_in(pc.ascii_lower(texts), pa.array(_TRUE)),
                pa.scalar(None, pa.bool_()),
            )
        )


class _StatedDecimal(_Stated):
    def read(self, texts: pa.Array) -> pa.Array:
        # Arrow wraps numbers of more than 38 digits around, so they are read in twice the width.
        wide = pc.cast(texts, pa.decimal256(76, self.type.scale))
        return pc.cast(wide, self.type)

    def looks(self, texts: pa.Array) -> pa.Array:
        fits = pc.less_equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 70)
        return pc.and_(super().looks(texts), fits)


class _StatedTime(_Stated):
    def read(self, texts: pa.Array) -> pa.Array:
        moments = pc.cast(pc.binary_join_element_wise("1970-01-01", texts, " "), pa.timestamp("us"))
        return pc.cast(moments, pa.time64("us"))


class _StatedFormat(_Stated):
    def __init__(self, type_: pa.DataType, form: str) -> None:
        super().__init__(type_, "")
        self._form = form

    def looks(self, texts: pa.Array) -> pa.Array:
        read = pc.strptime(pc.utf8_trim_whitespace(texts), format=self._form, unit="us", error_is_null=True)
        return read.is_valid()

    def read(self, texts: pa.Array) -> pa.Array:
        return pc.cast(pc.strptime(texts, format=self._form, unit="us"), self.type)

    def convert(self, texts: pa.Array) -> tuple[pa.Array, Mask]:
        read = pc.strptime(pc.utf8_trim_whitespace(texts), format=self._form, unit="us", error_is_null=True)
        misfits: Mask = pc.and_(texts.is_valid(), read.is_null()).to_numpy(zero_copy_only=False)
        return pc.cast(read, self.type), np.asarray(misfits, np.bool_)


class Recast:
    """Values of one Arrow type as those of another; what has no counterpart is told.

    Args:
        texts: How texts are read, if they are texts.
        target: The type that is wanted.
    """

    def __init__(self, texts: Kind | None, target: pa.DataType) -> None:
        self._texts = texts
        self._target = target

    def convert(self, values: pa.Array) -> tuple[pa.Array, Mask]:
        """The values, NULL where one has no counterpart, and which of them those are.

        Raises:
            InvalidRequest: No value of that type has one.
        """
        if self._texts is not None:
            return self._texts.convert(pc.cast(values, pa.string()))
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        try:
            converted = pa.concat_arrays(self._bisected(values)) if len(values) else self._cast(values)
        except pa.ArrowNotImplementedError as error:
            raise InvalidRequest(f"values of the type {values.type} are no {self._target}") from error
        wrong = pc.and_(values.is_valid(), converted.is_null())
        return converted, np.asarray(wrong.to_numpy(zero_copy_only=False), np.bool_)

    def _cast(self, values: pa.Array) -> pa.Array:
        return pc.cast(values, self._target)

    def _bisected(self, values: pa.Array) -> list[pa.Array]:
        try:
            return [self._cast(values)]
        except pa.ArrowNotImplementedError:
            raise
        except pa.ArrowInvalid:
            if len(values) == 1:
                return [pa.nulls(1, self._target)]
            half = len(values) // 2
            return self._bisected(values.slice(0, half)) + self._bisected(values.slice(half))
