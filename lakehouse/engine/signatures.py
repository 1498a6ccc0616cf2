"""What DuckDB says of its functions: the types they take and give, as Arrow types.

DuckDB lists the overloads of every function in ``duckdb_functions()``. They are read once in a process, from
an empty database of their own, the first time that a function matters for the type of a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import duckdb
import pyarrow as pa

INTERVAL = pa.month_day_nano_interval()
TIMESTAMP = pa.timestamp("us")
TIMESTAMP_TZ = pa.timestamp("us", "UTC")

# DuckDB's names of the simple types. HUGEINT, which sums of integers have, counts as int64: a client can bind
# any integer to that, but only a decimal of the right scale to decimal128(38, 0).
_SIMPLE: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "HUGEINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "UHUGEINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": TIMESTAMP_TZ,
    "INTERVAL": INTERVAL,
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "UUID": pa.string(),
    "BLOB": pa.binary(),
}
_NAMES = {kind: name for name, kind in reversed(_SIMPLE.items()) if name not in ("HUGEINT", "UHUGEINT")}
_NAMES[pa.string()] = "VARCHAR"
_GENERIC = frozenset({"ANY", "T", "K", "V"})
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_WIDER: dict[str, frozenset[str]] = {
    name: frozenset({*_INTEGERS[i + 1 :], "DECIMAL", "FLOAT", "DOUBLE"}) for i, name in enumerate(_INTEGERS)
} | {
    "UTINYINT": frozenset({*_INTEGERS[1:], "USMALLINT", "UINTEGER", "UBIGINT", "DOUBLE"}),
    "USMALLINT": frozenset({*_INTEGERS[2:], "UINTEGER", "UBIGINT", "DOUBLE"}),
    "UINTEGER": frozenset({"BIGINT", "HUGEINT", "UBIGINT", "DOUBLE"}),
    "UBIGINT": frozenset({"HUGEINT", "DOUBLE"}),
    "DECIMAL": frozenset({"FLOAT", "DOUBLE"}),
    "FLOAT": frozenset({"DOUBLE"}),
    "DATE": frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}),
    "TIMESTAMP": frozenset({"TIMESTAMP WITH TIME ZONE"}),
}
_CHARACTER_RESULT = frozenset({"concat", "concat_ws"})
_OF_THEIR_ARGUMENTS = frozenset({"coalesce", "ifnull", "nullif", "greatest", "least"})
_OF_THEIR_FIRST = frozenset(
    "any_value arbitrary first last min max mode first_value last_value nth_value lag lead arg_min arg_max "
    "min_by max_by argmin argmax arg_min_null arg_max_null quantile_disc fill median quantile_cont".split()
)


@dataclass(frozen=True, slots=True)
class Overload:
    """One way to call a function, with DuckDB's names of the types."""

    parameters: tuple[str, ...]
    varargs: str | None
    returns: str

    def parameter(self, position: int) -> str | None:
        """The type taken at a position, counted from 0; ``None`` where there is no such argument."""
        return self.parameters[position] if position < len(self.parameters) else self.varargs

    def takes(self, count: int) -> bool:
        """Whether it can be called with so many arguments."""
        return count == len(self.parameters) or (count > len(self.parameters) and self.varargs is not None)


@cache
def _overloads() -> dict[str, tuple[Overload, ...]]:
    connection = duckdb.connect(":memory:", config={"threads": 1})
    try:
        rows = connection.execute(
            "SELECT function_name, function_type, parameter_types, varargs, return_type "
            "FROM duckdb_functions() WHERE function_type IN ('scalar', 'aggregate', 'window', 'table')"
        ).fetchall()
    finally:
        connection.close()
    found: dict[str, list[Overload]] = {}
    for name, kind, parameters, varargs, returns in rows:
        types = tuple(p or "ANY" for p in parameters)
        # Of window functions the last arguments may be left out: lag(x), lag(x, 2).
        shortest = min(1, len(types)) if kind == "window" else len(types)
        for count in range(shortest, len(types) + 1):
            found.setdefault(name.lower(), []).append(Overload(types[:count], varargs, returns or ""))
    return {name: tuple(overloads) for name, overloads in found.items()}


def takes_alike(name: str) -> bool:
    """Whether all arguments of a function, and its result, have one type."""
    return name in _OF_THEIR_ARGUMENTS


def argument_type(
    name: str, arguments: Sequence[pa.DataType | None], position: int, literals: Sequence[bool]
) -> pa.DataType | None:
    """The type that a function wants at a position, given the types of the other arguments.

    Args:
        name: The function, in lower case.
        arguments: The types of all arguments, ``None`` where not known.
        position: Which argument is asked for, counted from 0.
        literals: Which of the arguments are literals, which DuckDB turns into whatever type is wanted.

    Returns:
        The type, or ``None`` where DuckDB would take too many.
    """
    if name in _CHARACTER_RESULT:
        return pa.string()
    wanted: list[pa.DataType | str | None] = []
    for overload in _fitting(name, arguments, literals):
        text = overload.parameter(position) or ""
        bound = _bindings(overload, arguments)
        wanted.append("DECIMAL" if text == "DECIMAL" else _arrow(text, bound))
    return _choice([kind for kind in wanted if kind is not None])


def result_type(
    name: str, arguments: Sequence[pa.DataType | None], literals: Sequence[bool]
) -> pa.DataType | None:
    """The type of what a function gives, or ``None`` where it is not known."""
    first = next((kind for kind in arguments[:1] if kind is not None), None)
    if name in _CHARACTER_RESULT:
        return pa.string()
    if name in ("avg", "mean") and first is not None:
        return pa.float64() if is_number(first) else first
    if name in ("median", "quantile_cont") and first is not None and pa.types.is_integer(first):
        return pa.float64()
    if name in _OF_THEIR_FIRST and len(arguments) <= 2:
        return first
    results = {
        _decimal_result(name, arguments)
        if overload.returns == "DECIMAL"
        else _arrow(overload.returns, _bindings(overload, arguments))
        for overload in _fitting(name, arguments, literals)
    }
    return results.pop() if len(results) == 1 else None


def _decimal_result(name: str, arguments: Sequence[pa.DataType | None]) -> pa.DataType | None:
    kind = next((a for a in arguments if a is not None and pa.types.is_decimal(a)), None)
    if kind is not None and name in ("sum", "sumkahan"):
        return pa.decimal128(38, kind.scale)
    return kind


def _fitting(
    name: str, arguments: Sequence[pa.DataType | None], literals: Sequence[bool]
) -> tuple[Overload, ...]:
    """The overloads that can be meant: those that take the known types as they are, else with a cast."""
    possible = [o for o in _overloads().get(name, ()) if o.takes(len(arguments))]
    known = [(i, kind) for i, kind in enumerate(arguments) if kind is not None]
    firm = [(i, kind) for i, kind in known if not literals[i]]
    for pairs, exactly in ((known, True), (firm, True), (known, False), (firm, False)):
        found = tuple(
            o for o in possible if all(_fits(kind, o.parameter(i) or "", exactly) for i, kind in pairs)
        )
        if found:
            return found
    return ()


def _fits(kind: pa.DataType, wanted: str, exactly: bool) -> bool:
    if wanted in _GENERIC:
        return True
    if wanted.endswith("[]"):
        return is_list(kind) and _fits(kind.value_type, wanted[:-2], exactly)
    if wanted.startswith("MAP"):
        return bool(pa.types.is_map(kind))
    name = "DECIMAL" if pa.types.is_decimal(kind) else _NAMES.get(kind, "")
    return wanted == name or (not exactly and wanted in _WIDER.get(name, ()))


def _bindings(overload: Overload, arguments: Sequence[pa.DataType | None]) -> dict[str, pa.DataType]:
    """What the type variables of an overload stand for."""
    bound: dict[str, pa.DataType] = {}
    for i, kind in enumerate(arguments):
        text = overload.parameter(i) or ""
        if kind is None or text == "ANY":
            continue
        if text == "MAP(K, V)" and pa.types.is_map(kind):
            bound.setdefault("K", kind.key_type)
            bound.setdefault("V", kind.item_type)
            continue
        while text.endswith("[]") and is_list(kind):
            text, kind = text[:-2], kind.value_type  # noqa: PLW2901
        if text in _GENERIC:
            bound.setdefault(text, kind)
    return bound


def _arrow(name: str, bound: dict[str, pa.DataType]) -> pa.DataType | None:
    """The Arrow type for DuckDB's name of a type; ``None`` for what has no single one."""
    if name.endswith("[]"):
        element = _arrow(name[:-2], bound)
        return None if element is None else pa.list_(element)
    return bound.get(name) or _SIMPLE.get(name)


def _choice(wanted: list[pa.DataType | str]) -> pa.DataType | None:
    """The type that serves most of what overloads want: a text, the widest number, a timestamp, the first."""
    kinds = list(dict.fromkeys(kind for kind in wanted if isinstance(kind, pa.DataType)))
    decimal = "DECIMAL" in wanted
    if len(kinds) == 1 and not decimal:
        return kinds[0]
    if pa.string() in kinds:
        return pa.string()
    numbers = [kind for kind in kinds if is_number(kind)]
    if numbers or decimal:
        whole = not decimal and all(pa.types.is_integer(kind) for kind in numbers)
        return pa.int64() if whole else pa.float64()
    return TIMESTAMP if TIMESTAMP in kinds else next(iter(kinds), None)


def is_number(kind: pa.DataType) -> bool:
    """Whether it is an integer, floating-point or decimal type."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list type, of fixed or any length."""
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))
