"""Which data files can hold a row that a condition is true of, by what manifests tell about them.

A condition may be weaker than what is asked in SQL, never stronger: where a comparison cannot be followed
exactly as the engine makes it, every file is kept. Constants are intervals in the column's own domain, wide
enough for every way in which the engine may convert them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

from lakehouse.catalog.file_statistics import ColumnStatistics, FileStatistics, Mask
from lakehouse.catalog.names import fold

__all__ = [
    "AllOf",
    "AnyOf",
    "Column",
    "Compared",
    "Condition",
    "Constant",
    "IsNull",
    "Moment",
    "OneOf",
    "Parameter",
    "Prefixed",
    "Unknown",
    "cast",
    "columns_of",
    "has_parameters",
    "may_match",
]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
_EPOCH_DAY = _EPOCH.date()
_MICROSECOND = timedelta(microseconds=1)
_DAY_US = 86_400_000_000
# No zone is further from UTC; what a zone makes of a moment is between these.
_ZONE_US = 26 * 3_600_000_000
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})\Z", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?))?(Z|[+-]\d{2}(?::?\d{2})?)?\Z", re.ASCII
)
_LONGEST_DECIMAL = 38
_LARGEST_FLOAT32 = 3e38
_EXACT_DOUBLE = 2**52
_MANY = 64
_INTEGERS = frozenset("TINYINT SMALLINT INTEGER INT BIGINT HUGEINT INT1 INT2 INT4 INT8 LONG SHORT".split())
_DOUBLES = frozenset({"DOUBLE", "FLOAT8"})
_NAIVE = frozenset({"TIMESTAMP", "DATETIME", "TIMESTAMP WITHOUT TIME ZONE"})
_ZONED = frozenset({"TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"})


class Unknown(Exception):
    """A value cannot be followed exactly, so that nothing can be concluded from it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time as the engine could understand it: microseconds from the epoch, from and to."""

    low: int
    high: int
    zoned: bool


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that stands in the statement. Text is what stood between quotes, and no type of its own."""

    value: Any


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that is given when the statement runs, and the types that it is cast to."""

    name: str
    casts: tuple[str, ...] = ()


Term = Constant | Parameter


@dataclass(frozen=True, slots=True)
class Column:
    """A column as written: its name, and the name of its table where that stands before it."""

    name: str
    table: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """``column operator term``, or with ``to`` ``column BETWEEN term AND to`` (operator ``between``)."""

    column: Column
    operator: str
    term: Term
    to: Term | None = None


@dataclass(frozen=True, slots=True)
class OneOf:
    """``column IN (terms)``."""

    column: Column
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Prefixed:
    """The column begins with a text."""

    column: Column
    text: str


@dataclass(frozen=True, slots=True)
class IsNull:
    """``column IS NULL``, or with ``negated`` ``IS NOT NULL``."""

    column: Column
    negated: bool = False


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part is true."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Some part is true."""

    parts: tuple[Condition, ...]


Condition = Compared | OneOf | Prefixed | IsNull | AllOf | AnyOf


def columns_of(condition: Condition) -> frozenset[Column]:
    """The columns that a condition is about."""
    if isinstance(condition, AllOf | AnyOf):
        return frozenset().union(*map(columns_of, condition.parts))
    return frozenset({condition.column})


def has_parameters(condition: Condition) -> bool:
    """Whether what a condition keeps depends on the values of parameters."""
    if isinstance(condition, AllOf | AnyOf):
        return any(map(has_parameters, condition.parts))
    if isinstance(condition, Compared):
        return isinstance(condition.term, Parameter) or isinstance(condition.to, Parameter)
    return isinstance(condition, OneOf) and any(isinstance(term, Parameter) for term in condition.terms)


def may_match(
    condition: Condition, statistics: FileStatistics, schema: Schema, values: Mapping[str, Any]
) -> Mask:
    """For each file of a snapshot whether a row of it can fulfil a condition.

    Args:
        condition: The condition; columns that the schema does not have say nothing.
        statistics: What is known of the files.
        schema: The columns as the statement sees them.
        values: The values of parameters, by name; those missing say nothing.
    """
    return _Filter(statistics, schema, values).mask(condition)


class _Filter:
    def __init__(self, statistics: FileStatistics, schema: Schema, values: Mapping[str, Any]) -> None:
        self._statistics = statistics
        self._fields = {fold(field.name): field for field in schema.fields}
        self._values = values

    def mask(self, condition: Condition) -> Mask:
        if isinstance(condition, AllOf):
            return _is(np.logical_and.reduce([self.mask(part) for part in condition.parts]))
        if isinstance(condition, AnyOf):
            return _is(np.logical_or.reduce([self.mask(part) for part in condition.parts]))
        every = np.ones(len(self._statistics.uris), dtype=bool)
        field = self._fields.get(fold(condition.column.name))
        column = self._statistics.column(field.field_id, field.field_type) if field is not None else None
        if field is None or column is None:
            return every
        if isinstance(condition, IsNull):
            told = column.nulls >= 0
            gone = told & (column.nulls == column.rows) if condition.negated else column.nulls == 0
            return _is(every & ~gone)
        try:
            found = self._kept(condition, field, column)
        except (Unknown, OverflowError):
            return every
        return _is(found & (column.nulls != column.rows))

    def _kept(
        self, condition: Compared | OneOf | Prefixed, field: NestedField, column: ColumnStatistics
    ) -> Mask:
        kind = field.field_type
        if isinstance(condition, Prefixed):
            if not isinstance(kind, StringType):
                raise Unknown
            return _within_prefix(column, condition.text.encode())
        if isinstance(condition, OneOf):
            return self._one_of(condition.terms, kind, column)
        low, high = self._interval(kind, condition.term)
        if condition.to is not None:
            _, last = self._interval(kind, condition.to)
            return _from(column, low) & _up_to(column, last)
        return _compared(column, condition.operator, low, high)

    def _one_of(self, terms: Sequence[Term], kind: IcebergType, column: ColumnStatistics) -> Mask:
        intervals = [self._interval(kind, term) for term in terms]
        if len(intervals) > _MANY:
            lows, highs = zip(*intervals, strict=True)
            return _compared(column, "=", min(lows), max(highs))
        return _is(np.logical_or.reduce([_compared(column, "=", low, high) for low, high in intervals]))

    def _interval(self, kind: IcebergType, term: Term) -> tuple[Any, Any]:
        if isinstance(term, Constant):
            return _interval(kind, term.value)
        if term.name not in self._values:
            raise Unknown
        value = self._values[term.name]
        for wanted in term.casts:
            value = cast(value, wanted)
        if isinstance(value, str) and not isinstance(kind, StringType):
            raise Unknown  # a parameter has a type, unlike a text in the statement
        return _interval(kind, value)


def _compared(column: ColumnStatistics, operator: str, low: Any, high: Any) -> Mask:
    if operator == "=":
        return _from(column, low) & _up_to(column, high)
    if operator == "<":
        return _is(~(column.has_lower & _is(column.lower >= high)))
    if operator == "<=":
        return _up_to(column, high)
    # The engine takes NaN for the greatest value; bounds leave it out.
    if operator == ">":
        return _is(column.has_nan | ~(column.has_upper & _is(column.upper <= low)))
    return _is(column.has_nan | _from(column, low))


def _from(column: ColumnStatistics, low: Any) -> Mask:
    return _is(~(column.has_upper & _is(column.upper < low)))


def _up_to(column: ColumnStatistics, high: Any) -> Mask:
    return _is(~(column.has_lower & _is(column.lower > high)))


def _within_prefix(column: ColumnStatistics, prefix: bytes) -> Mask:
    starts = np.array([bound.startswith(prefix) for bound in column.lower], dtype=bool)
    above = _is(column.lower > prefix) & ~starts
    return _is(_from(column, prefix) & ~(column.has_lower & above))


def _is(compared: npt.NDArray[Any]) -> Mask:
    return np.asarray(compared, dtype=bool)


# -- constants -------------------------------------------------------------------------------------------


def cast(value: Any, kind: str) -> Any:
    """A value cast to an SQL type, where that gives the same or a plainly readable value.

    Raises:
        Unknown: The cast may round, or depends on more than the value.
    """
    if value is None or type(value) is bool:
        raise Unknown
    wanted = kind.upper()
    if wanted in _INTEGERS and type(value) is int:
        return value
    if wanted in _DOUBLES and type(value) in (int, float, Decimal):
        return float(value)
    if wanted == "DATE" and type(value) in (str, date):
        return value if isinstance(value, date) else _read_date(value)
    if wanted in _NAIVE | _ZONED:
        return _moment(value, zoned=wanted in _ZONED)
    raise Unknown


def _moment(value: Any, *, zoned: bool) -> Moment:
    """A value as TIMESTAMP, or with ``zoned`` as TIMESTAMP WITH TIME ZONE in an unknown zone."""
    if type(value) is str:
        value = _read_moment(value)
    if type(value) is date:
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001
    if type(value) is datetime:
        if value.tzinfo is None:
            micros = (value - _EPOCH) // _MICROSECOND
            value = Moment(micros, micros, zoned=False)
        else:
            micros = (value.astimezone(UTC).replace(tzinfo=None) - _EPOCH) // _MICROSECOND
            value = Moment(micros, micros, zoned=True)
    if not isinstance(value, Moment):
        raise Unknown
    slack = _ZONE_US if value.zoned != zoned else 0
    return Moment(value.low - slack, value.high + slack, zoned)


def _read_date(text: str) -> date:
    match = _DATE.match(text)
    try:
        return date(*map(int, match.groups())) if match else _raise()
    except ValueError:
        raise Unknown from None


def _read_moment(text: str) -> datetime:
    match = _TIME.match(text)
    if match is None:
        raise Unknown
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00:00'}{match[3] or ''}")
    except ValueError:
        raise Unknown from None


def _raise() -> Any:
    raise Unknown


def _interval(kind: IcebergType, value: Any) -> tuple[Any, Any]:
    """Between which values of a column's domain the engine can place a constant."""
    if isinstance(kind, StringType):
        if type(value) is not str:
            raise Unknown
        encoded = value.encode()
        return encoded, encoded
    if isinstance(kind, BooleanType):
        return (int(value), int(value)) if type(value) is bool else _raise()
    if isinstance(kind, DateType | TimestampType | TimestamptzType):
        return _temporal(kind, value)
    if type(value) not in (int, float, Decimal):
        raise Unknown
    if isinstance(kind, IntegerType | LongType):
        return _scaled(value, 0)
    if isinstance(kind, DecimalType):
        return _scaled(value, kind.scale)
    return _floating(kind, value)


def _temporal(kind: IcebergType, value: Any) -> tuple[int, int]:
    if isinstance(kind, DateType):
        if type(value) is str:
            value = _read_date(value)
        if type(value) is date:
            days = (value - _EPOCH_DAY).days
            return days, days
        moment = _moment(value, zoned=False)
        return moment.low // _DAY_US, -(-moment.high // _DAY_US)
    if type(value) is str and isinstance(kind, TimestampType) and _read_moment(value).tzinfo is not None:
        raise Unknown
    moment = _moment(value, zoned=isinstance(kind, TimestamptzType))
    return moment.low, moment.high


def _scaled(value: Any, scale: int) -> tuple[Any, Any]:
    """A number in units of the last decimal place: the whole numbers around it, or floats around those."""
    if type(value) is int and abs(value) < 10**_LONGEST_DECIMAL:
        return value * 10**scale, value * 10**scale
    if isinstance(value, Decimal) and value.is_finite() and abs(value) < _EXACT_DOUBLE:
        _, digits, exponent = value.as_tuple()
        if len(digits) <= _LONGEST_DECIMAL and isinstance(exponent, int):
            scaled = Fraction(value) * 10**scale
            return math.floor(scaled), math.ceil(scaled)
    number = float(value)
    if not math.isfinite(number):
        raise Unknown
    around = abs(number) * 1e-12
    return _finite((number - around) * 10.0**scale), _finite((number + around) * 10.0**scale)


def _floating(kind: IcebergType, value: Any) -> tuple[float, float]:
    number = float(value)
    if not math.isfinite(number):
        raise Unknown
    if isinstance(kind, FloatType):
        if abs(number) > _LARGEST_FLOAT32:
            raise Unknown
        around = abs(number) * 1e-6 + 1e-40
        return number - around, number + around
    if not isinstance(kind, DoubleType):
        raise Unknown
    low = high = number
    for _ in range(8):
        low, high = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    return low, high


def _finite(number: float) -> float:
    return number if math.isfinite(number) else _raise()
