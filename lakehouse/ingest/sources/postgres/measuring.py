"""What the values of columns turn out to be, where their types do not tell enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lakehouse.ingest.sources.postgres.catalogue import PgColumn
from lakehouse.ingest.sources.postgres.mapping import (
    ListOf,
    Node,
    Scalar,
    Server,
    StructOf,
    Types,
    Unfit,
    as_json,
    as_text,
)

_MAX_OUTPUTS = 1200


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a column travels, and what a stricter reading would have lost."""

    node: Node
    stricter: str = ""


def questions(column: PgColumn, value: str, types: Types) -> list[str]:
    """Aggregates over a column whose answers ``chosen`` wants; none if the type says it all."""
    node = types.node(column.oid, column.modifier)
    each = node.element if isinstance(node, ListOf) else None
    asked = []
    if types.is_open_numeric(column.oid, column.modifier) and (each is None or isinstance(each, Scalar)):
        asked = [_over(value, sql, name, inner=each is not None) for name, sql in _digits(types.server)]
    if isinstance(node, ListOf):
        asked += [f"min(array_ndims({value}))", f"max(array_ndims({value}))"]
        unfit = node.element.unfit("u")
        asked += [_over(value, f"({u.condition})", "bool_or", inner=True) for u in unfit]
    else:
        asked += [f"bool_or({u.condition})" for u in node.unfit(value)]
    return asked


def can_be_trusted(column: PgColumn, types: Types) -> bool:
    """Whether a value that does not fit would show where it arrives."""
    node = types.node(column.oid, column.modifier)
    return isinstance(node, Scalar) and not types.is_open_numeric(column.oid, column.modifier)


def chosen(column: PgColumn, types: Types, answers: Sequence[Any]) -> Chosen:
    """How a column travels, with what its values were found to be."""
    natural = types.node(column.oid, column.modifier)
    left = list(answers)
    found = Chosen(natural)
    if types.is_open_numeric(column.oid, column.modifier):
        found = _open(natural, types, *left[:3])
        del left[:3]
    if not isinstance(natural, ListOf):
        return _checked(found, natural.unfit(""), left)
    least, most = left.pop(0), left.pop(0)
    node = found.node
    assert isinstance(node, ListOf)
    if least != most:
        return _lost(node, f"it has arrays of {least} and of {most} dimensions")
    return _checked(
        Chosen(replace(node, dimensions=most or 1), found.stricter), natural.element.unfit(""), left
    )


def _checked(found: Chosen, misfits: Sequence[Unfit], answers: Sequence[Any]) -> Chosen:
    for answer, unfit in zip(answers, misfits, strict=True):
        if answer:
            return _lost(found.node, f"{unfit.why}, and there is some")
    return found


def _lost(node: Node, why: str) -> Chosen:
    """The column as text, since values of it do not fit."""
    text = as_json(node.reason) if isinstance(node, ListOf | StructOf) else as_text(node.reason)
    return Chosen(replace(text, reason=f"{text.reason}; {why}"), f"as {node.type} such values would be lost")


def _open(natural: Node, types: Types, special: Any, scale: Any, biggest: Any) -> Chosen:
    """Numeric that does not say how many digits it has, or arrays of it, by the digits that there are."""
    why = "" if special is None else "NaN or infinity is among the values"
    if not special:
        if scale is None:
            return Chosen(natural)
        digits = len(str(int(biggest))) if biggest else 0
        element = types.open_numeric(int(scale), digits)
        if element is not None:
            element = replace(
                element, reason=f"numeric: no value has more than {scale} digits after the point"
            )
            return Chosen(replace(natural, element=element) if isinstance(natural, ListOf) else element)
        why = f"values have {digits} digits before the point and {scale} after it"
    if isinstance(natural, ListOf):
        natural = replace(natural, reason=f"{natural.reason}; {why}")
    else:
        natural = as_text("numeric", why)
    return Chosen(natural, "as decimal such values would be lost")


def _digits(server: Server) -> list[tuple[str, str]]:
    special = "{} IN ('NaN', 'Infinity', '-Infinity')" if server.version >= 140000 else "{} = 'NaN'"
    digits = "scale(trim_scale({}))" if server.version >= 130000 else "scale({})"
    return [
        ("bool_or", f"({special})"),
        ("max", f"CASE WHEN NOT ({special}) THEN {digits} END"),
        ("max", f"CASE WHEN NOT ({special}) THEN trunc(abs({{}})) END"),
    ]


def _over(value: str, template: str, aggregate: str, *, inner: bool) -> str:
    if not inner:
        return f"{aggregate}({template.replace('{}', value)})"
    each = f"SELECT {aggregate}({template.replace('{}', 'u')}) FROM (SELECT unnest({value}) AS u) AS e"
    return f"{aggregate}(({each}))"


def groups(asked: Mapping[int, Sequence[str]]) -> Iterator[list[int]]:
    """Columns whose questions go into one query: it can give so many values and no more."""
    group: list[int] = []
    size = 0
    for number, found in asked.items():
        if group and size + len(found) > _MAX_OUTPUTS:
            yield group
            group, size = [], 0
        group.append(number)
        size += len(found)
    if group:
        yield group
