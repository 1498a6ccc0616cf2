"""What values of JSON have in common: the narrowest type that holds all of them exactly, or none."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Self

import pyarrow as pa

from lakehouse.ingest.sources.text_kinds import LARGEST_EXACT

Shape = Any
"""``null``, ``bool``, ``int``, ``wide`` (an integer that no double holds), ``double``, ``string``, a list of
one shape, or a dict of them by field."""

_ARROW = {
    "null": pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "wide": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
}
_NAMES = {"null": "null", "bool": "true or false", "int": "integer", "wide": "integer", "double": "number"}
_MOST_FIELDS = 1000


class Number(float):
    """A number with a fraction or an exponent, and how it is written."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Self:
        """Read a number."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    @property
    def is_exact(self) -> bool:
        """Whether a double holds what is written."""
        return repr(float(self)) == self.text or Decimal(repr(float(self))) == Decimal(self.text)


class Mixed(Exception):
    """Two values have nothing in common but their text."""


DECODER = json.JSONDecoder(parse_float=Number)


def shape_of(value: object) -> Shape:
    """The shape of one value.

    Raises:
        Mixed: There is none, for it holds a number that is too large, or values that have none in common.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) <= LARGEST_EXACT:
            return "int"
        if -(1 << 63) <= value < 1 << 63:
            return "wide"
        raise Mixed("a number beyond 64 bits")
    if isinstance(value, float):
        if isinstance(value, Number) and not value.is_exact:
            raise Mixed("a number of more digits than doubles hold")
        return "double"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return {name: shape_of(field) for name, field in value.items()}
    inner: Shape = "null"
    for element in value if isinstance(value, list) else ():
        inner = merged(inner, shape_of(element))
    return [inner]


def merged(one: Shape, other: Shape) -> Shape:
    """The shape that holds what both do.

    Raises:
        Mixed: There is none.
    """
    if other in (one, "null"):
        return one
    if one == "null":
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        united = {name: merged(shape, other.get(name, "null")) for name, shape in one.items()}
        united.update((name, shape) for name, shape in other.items() if name not in one)
        if len(united) > _MOST_FIELDS:
            raise Mixed(f"objects of more than {_MOST_FIELDS} different fields")
        return united
    if isinstance(one, list) and isinstance(other, list):
        return [merged(one[0], other[0])]
    names = {shape for shape in (one, other) if isinstance(shape, str)}
    if names == {"int", "wide"}:
        return "wide"
    if names == {"int", "double"}:
        return "double"
    raise Mixed(f"{named(one)} and {named(other)}")


def named(shape: Shape) -> str:
    """What people call a shape."""
    if isinstance(shape, dict):
        return "object"
    return "list" if isinstance(shape, list) else _NAMES.get(shape, str(shape))


def arrow_type(shape: Shape) -> pa.DataType:
    """The Arrow type of values of a shape; None for objects that never have a field, which no table holds."""
    if isinstance(shape, dict):
        fields = [pa.field(name, arrow_type(inner)) for name, inner in shape.items()]
        return pa.struct(fields)
    if isinstance(shape, list):
        return pa.list_(pa.field("element", arrow_type(shape[0])))
    return _ARROW[shape]


def is_storable(shape: Shape) -> bool:
    """Whether no object within it is without fields, or has two of the same name but for case."""
    if isinstance(shape, dict):
        distinct = len({name.lower() for name in shape}) == len(shape) and all(shape)
        return bool(shape) and distinct and all(is_storable(inner) for inner in shape.values())
    return is_storable(shape[0]) if isinstance(shape, list) else True


def has_double(shape: Shape) -> bool:
    """Whether there is a double in it."""
    if isinstance(shape, dict):
        return any(has_double(inner) for inner in shape.values())
    return has_double(shape[0]) if isinstance(shape, list) else shape == "double"


def raw_fields(line: str) -> dict[str, str]:
    """The fields of an object as they are written."""
    found: dict[str, str] = {}
    place = _skipped(line, _skipped(line, 0) + 1)
    while line[place] != "}":
        name, place = json.decoder.scanstring(line, place + 1, True)  # type: ignore[attr-defined]
        place = _skipped(line, _skipped(line, place) + 1)
        _, end = DECODER.raw_decode(line, place)
        found[name] = line[place:end]
        place = _skipped(line, end)
        if line[place] == ",":
            place = _skipped(line, place + 1)
    return found


def _skipped(line: str, place: int) -> int:
    while line[place] in " \t\r\n":
        place += 1
    return place
