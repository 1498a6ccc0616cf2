"""DuckDB's rules for the types of sums, differences, products, quotients and remainders, on Arrow types."""

from __future__ import annotations

import pyarrow as pa
from sqlglot import expressions as exp

from lakehouse.engine.signatures import INTERVAL, TIMESTAMP, is_number

OPERATORS: tuple[type[exp.Expr], ...] = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Pow)
_NARROW_DECIMAL = 18  # DuckDB widens beyond a 64-bit decimal only where an operand is wider already
_DIGITS = {1: 3, 2: 5, 4: 10, 8: 19}  # of an integer of so many bytes as a decimal


def result(
    operator: type[exp.Expr],
    left: pa.DataType | None,
    right: pa.DataType | None,
    literals: tuple[bool, bool] = (False, False),
) -> pa.DataType | None:
    """The type of ``left operator right``.

    An operand of unknown type (``None``) is taken to be such that the other keeps its own. ``literals`` tells
    which operands are literals: a whole number takes the type of the other side then.
    """
    if operator is exp.Pow or (operator is exp.Div and left != INTERVAL):
        return pa.float64()
    if left is None or right is None:
        return left if right is None else right
    if is_number(left) and is_number(right):
        return _number(operator, left, right, literals)
    return _temporal(operator, left, right)


def operand(
    operator: type[exp.Expr],
    other: pa.DataType,
    wanted: pa.DataType | None,
    *,
    on_the_right: bool,
) -> pa.DataType | None:
    """The type for a parameter that is one operand, given the other and what the result should be.

    DuckDB's ``/`` and ``**`` divide and raise floating-point numbers, whatever their operands.
    """
    if is_number(other):
        if operator in (exp.Div, exp.Pow) or pa.types.is_floating(other):
            return pa.float64()
        return other if pa.types.is_decimal(other) else pa.int64()
    whole = wanted is not None and pa.types.is_integer(wanted)
    if pa.types.is_date(other):
        return other if operator is exp.Sub and (whole or not on_the_right) else pa.int32()
    if pa.types.is_timestamp(other):
        if operator is exp.Sub and (wanted == INTERVAL or not on_the_right):
            return other
        # DuckDB reads a text as an interval after "+", but not after "-".
        return pa.string() if operator is exp.Add else pa.duration("us")
    if other == INTERVAL and operator in (exp.Mul, exp.Div):
        return pa.float64()
    if other == INTERVAL and wanted != INTERVAL and (operator is exp.Add or not on_the_right):
        return wanted if wanted is not None and pa.types.is_temporal(wanted) else TIMESTAMP
    return pa.duration("us") if other == INTERVAL or pa.types.is_time(other) else None


def _number(
    operator: type[exp.Expr], left: pa.DataType, right: pa.DataType, literals: tuple[bool, bool]
) -> pa.DataType:
    if pa.types.is_floating(left) or pa.types.is_floating(right):
        narrow = {pa.float32(), pa.float16()}
        widest = [kind for kind in (left, right) if pa.types.is_floating(kind)]
        return pa.float32() if all(kind in narrow for kind in widest) else pa.float64()
    if pa.types.is_decimal(left) or pa.types.is_decimal(right):
        return _decimal(operator, left, right)
    if literals[0] != literals[1]:
        return right if literals[0] else left
    if pa.types.is_signed_integer(left) != pa.types.is_signed_integer(right):
        return pa.int64()
    return left if left.bit_width >= right.bit_width else right


def _decimal(operator: type[exp.Expr], left: pa.DataType, right: pa.DataType) -> pa.DataType:
    (p1, s1), (p2, s2) = _digits(left), _digits(right)
    if operator is exp.Mul:
        precision, scale = p1 + p2, s1 + s2
    else:
        scale = max(s1, s2)
        precision = max(p1 - s1, p2 - s2) + scale + (1 if operator in (exp.Add, exp.Sub) else 0)
    limit = _NARROW_DECIMAL if max(p1, p2, scale) <= _NARROW_DECIMAL else 38
    return pa.decimal128(min(precision, limit), scale) if scale <= 38 else pa.float64()


def _digits(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_decimal(kind):
        return kind.precision, kind.scale
    return _DIGITS.get(kind.bit_width // 8, 19), 0


def _temporal(operator: type[exp.Expr], left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if is_number(left) or is_number(right):
        return right if is_number(left) else left
    if operator is exp.Sub and INTERVAL not in (left, right):
        return pa.int64() if pa.types.is_date(left) and pa.types.is_date(right) else INTERVAL
    if left == right == INTERVAL:
        return INTERVAL
    point = right if left == INTERVAL else left
    return TIMESTAMP if pa.types.is_date(point) else point
