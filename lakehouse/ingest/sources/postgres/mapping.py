"""What PostgreSQL's types become, and how values of them travel without losing anything.

Each node of a plan says three things about values that an SQL expression gives: by which expressions the
database sends them, what of them its target type cannot hold, and how what was sent is put together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.catalog.names import fold
from lakehouse.types import quote

_MAX_DIGITS = 38
NUMBER_DIGITS = 18
_TEXT_REASONS = {
    "interval": "Iceberg has no interval; months, days and time are kept apart in the text",
    "timetz": "Iceberg has no time with an offset",
    "json": "the document as it was written",
    "jsonb": "the document as PostgreSQL writes it",
    "xml": "the document as it was written",
    "inet": "an address, with its mask where it has one",
    "cidr": "a network",
    "macaddr": "an address",
    "macaddr8": "an address",
    "bit": "the bits as 0 and 1",
    "varbit": "the bits as 0 and 1",
    "tsvector": "PostgreSQL's text of it",
    "bpchar": "without the blanks that fill it up, which PostgreSQL does not count as part of the value",
}


@dataclass(frozen=True, slots=True)
class PgType:
    """A type of the database, as its catalogue describes it.

    Attributes:
        oid: Its number.
        schema: Where it is.
        name: Its name there.
        kind: ``b``ase, ``c``omposite, ``d``omain, ``e``num, ``r``ange, ``m``ultirange, ``p``seudo.
        element: The number of its elements' type; 0 if it is no array.
        base: The number of a domain's type.
        base_modifier: The modifier that a domain gives it.
        fields: Names, types and modifiers of a composite's fields.
    """

    oid: int
    schema: str
    name: str
    kind: str
    element: int = 0
    base: int = 0
    base_modifier: int = -1
    fields: tuple[tuple[str, int, int], ...] = ()

    @property
    def sql(self) -> str:
        """Its name in a cast."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.name if self.schema == "pg_catalog" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Unfit:
    """A condition in SQL under which a value cannot be kept, and what to say then."""

    condition: str
    why: str


@dataclass(frozen=True, slots=True)
class Measure:
    """Something to find out from all values: an aggregate over what ``sql`` gives for one of them."""

    aggregate: str
    sql: str


class Node(Protocol):
    """How values of one type travel."""

    @property
    def type(self) -> pa.DataType:
        """What they become."""
        ...

    @property
    def reason(self) -> str:
        """Why that."""
        ...

    def sent(self, value: str) -> list[str]:
        """The expressions to select for what the expression ``value`` gives."""
        ...

    def unfit(self, value: str) -> list[Unfit]:
        """When a value cannot be kept."""
        ...

    def decode(self, columns: Iterator[pa.Array]) -> pa.Array:
        """What was sent, as ``type``: takes as many columns as ``sent`` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that is sent as one.

    Attributes:
        type: What it becomes.
        template: The expression that is sent; ``{}`` stands for the value.
        misfits: Conditions, with ``{}`` likewise, and what to say.
        reason: Why that type.
    """

    type: pa.DataType
    template: str = "{}"
    misfits: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def sent(self, value: str) -> list[str]:
        """One expression."""
        return [self.template.replace("{}", value)]

    def unfit(self, value: str) -> list[Unfit]:
        """Those that were stated."""
        return [Unfit(condition.replace("{}", value), why) for condition, why in self.misfits]

    def decode(self, columns: Iterator[pa.Array]) -> pa.Array:
        """A cast where the driver gives another type."""
        return plain(next(columns), self.type)


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array, sent as its elements in one row, with its sizes where it has more than one dimension."""

    element: Scalar
    dimensions: int = 1
    reason: str = ""

    @property
    def type(self) -> pa.DataType:
        """A list, or one of lists."""
        kind = self.element.type
        for _ in range(self.dimensions):
            kind = pa.list_(pa.field("element", kind))
        return kind

    def sent(self, value: str) -> list[str]:
        """The elements, numbered from 1, which is what the driver can read; then the sizes."""
        flat = f"ARRAY(SELECT {self.element.sent('u')[0]} FROM (SELECT unnest({value}) AS u) AS e)"
        if self.dimensions > 1:
            sizes = ", ".join(
                f"coalesce(array_length({value}, {n}), 0)" for n in range(1, self.dimensions + 1)
            )
            return [f"CASE WHEN {value} IS NOT NULL THEN {flat} END", f"ARRAY[{sizes}]::int4[]"]
        if self.element.template == "{}":
            return [f"CASE WHEN array_lower({value}, 1) <> 1 THEN {flat} ELSE {value} END"]
        return [f"CASE WHEN {value} IS NOT NULL THEN {flat} END"]

    def unfit(self, value: str) -> list[Unfit]:
        """Other dimensions, and elements that do not fit."""
        found = [
            Unfit(
                f"array_ndims({value}) <> {self.dimensions}",
                f"its array does not have {self.dimensions} dimension(s)",
            )
        ]
        found += [
            Unfit(
                f"EXISTS (SELECT FROM (SELECT unnest({value}) AS u) AS e WHERE {each.condition})",
                f"of an element: {each.why}",
            )
            for each in self.element.unfit("u")
        ]
        return found

    def decode(self, columns: Iterator[pa.Array]) -> pa.Array:
        """The elements in their lists."""
        flat = storage(next(columns))
        values = plain(flat.flatten(), self.element.type)
        offsets = flat.offsets.to_numpy() - flat.offsets[0].as_py()
        if self.dimensions > 1:
            sizes = next(columns).flatten().to_numpy().reshape(-1, self.dimensions)
            for level in range(self.dimensions - 1, 0, -1):
                # How many lists of this level each row has, and how long each of them is.
                count = np.prod(sizes[:, :level], axis=1, dtype=np.int64)
                inner = np.repeat(sizes[:, level].astype(np.int64), count)
                values = _lists(np.concatenate([[0], np.cumsum(inner)]), values)
            offsets = np.concatenate([[0], np.cumsum(sizes[:, 0].astype(np.int64))])
        return _lists(offsets, values, flat.is_null() if flat.null_count else None)


@dataclass(frozen=True, slots=True)
class StructOf:
    """A composite, sent field by field, and whether there is one."""

    names: tuple[str, ...]
    sources: tuple[str, ...]
    nodes: tuple[Node, ...]
    reason: str = ""

    @property
    def type(self) -> pa.DataType:
        """A struct."""
        return pa.struct([pa.field(n, node.type) for n, node in zip(self.names, self.nodes, strict=True)])

    def _parts(self, value: str) -> Iterator[tuple[Node, str]]:
        for source, node in zip(self.sources, self.nodes, strict=True):
            yield node, f"({value}).{quote(source)}"

    def sent(self, value: str) -> list[str]:
        """Its presence: ``IS NULL`` would also be true of one whose fields are all null."""
        found = [f"({value} IS DISTINCT FROM NULL)"]
        for node, part in self._parts(value):
            found += node.sent(part)
        return found

    def unfit(self, value: str) -> list[Unfit]:
        """Those of its fields."""
        return [
            Unfit(each.condition, f"of its field {source}: {each.why}")
            for (node, part), source in zip(self._parts(value), self.sources, strict=True)
            for each in node.unfit(part)
        ]

    def decode(self, columns: Iterator[pa.Array]) -> pa.Array:
        """The fields together."""
        present = next(columns)
        parts = [node.decode(columns) for node in self.nodes]
        missing = pc.invert(present)
        return pa.StructArray.from_arrays(parts, fields=list(self.type), mask=missing)


@dataclass(frozen=True, slots=True)
class Stated:
    """Values that become another type because somebody said so."""

    node: Node
    type: pa.DataType
    reason: str = "stated by the caller"

    def sent(self, value: str) -> list[str]:
        """As they would be sent."""
        return self.node.sent(value)

    def unfit(self, value: str) -> list[Unfit]:
        """As they would be."""
        return self.node.unfit(value)

    def decode(self, columns: Iterator[pa.Array]) -> pa.Array:
        """A cast that loses nothing.

        Raises:
            pyarrow.ArrowInvalid: A value does not fit.
        """
        return plain(self.node.decode(columns), self.type)


@dataclass(frozen=True, slots=True)
class Server:
    """What of a server, and of how it is read, the mapping depends on.

    Attributes:
        version: Its number.
        money_scale: How many digits of its money are behind the point.
        sends_numbers: Whether numeric of up to ``NUMBER_DIGITS`` digits can be read as it is.
    """

    version: int
    money_scale: int = 2
    sends_numbers: bool = False


@dataclass(slots=True)
class Types:
    """The types of a database, and what they become."""

    known: Mapping[int, PgType]
    server: Server
    _cache: dict[tuple[int, int], Node] = field(default_factory=dict)

    def node(self, oid: int, modifier: int) -> Node:
        """How values of a type travel when nothing is known of them but the type."""
        key = oid, modifier
        if key not in self._cache:
            self._cache[key] = self._node(self.known[oid], modifier)
        return self._cache[key]

    def is_open_numeric(self, oid: int, modifier: int) -> bool:
        """Whether it is numeric that says nothing of its digits, or an array of it."""
        kind = self.known[oid]
        if kind.kind == "d":
            return self.is_open_numeric(kind.base, kind.base_modifier)
        return (
            self.is_open_numeric(kind.element, modifier)
            if kind.element
            else kind.name == "numeric" and modifier < 0
        )

    def _node(self, kind: PgType, modifier: int) -> Node:
        if kind.kind == "d":
            base = self.known[kind.base]
            node = self.node(kind.base, kind.base_modifier)
            if isinstance(node, Scalar):
                template = node.template.replace("{}", f"({{}})::{base.sql}")
                return Scalar(node.type, template, node.misfits, f"domain {kind.shown} over {node.reason}")
            return node
        if kind.kind == "c":
            return self._composite(kind)
        if kind.element:
            element = self.node(kind.element, modifier)
            if isinstance(element, Scalar):
                if pa.types.is_decimal(element.type):
                    element = replace(element, template="{}::text")
                return ListOf(element, 1, f"array of {element.reason}")
            return ListOf(as_json(self.known[kind.element].shown), 1, "array; its elements as JSON")
        return self._scalar(kind, modifier)

    def _composite(self, kind: PgType) -> Node:
        names = [fold(name) for name, _, _ in kind.fields]
        if not names or len(set(names)) < len(names) or "" in names:
            return as_json(kind.shown)
        return StructOf(
            tuple(name for name, _, _ in kind.fields),
            tuple(name for name, _, _ in kind.fields),
            tuple(self.node(oid, modifier) for _, oid, modifier in kind.fields),
            f"composite {kind.shown}",
        )

    def _scalar(self, kind: PgType, modifier: int) -> Scalar:
        if kind.schema != "pg_catalog" or kind.kind != "b":
            return as_text(kind.shown, {"e": "enum", "r": "range", "m": "multirange"}.get(kind.kind, ""))
        if kind.name == "numeric":
            return self._numeric(modifier)
        if kind.name == "money":
            scale = self.server.money_scale
            return Scalar(
                pa.decimal128(19 + (scale == 0), scale), "{}::numeric::text", (), "money, without its sign"
            )
        if kind.name == "inet":  # the cast to text adds a mask that the value does not show
            return Scalar(pa.string(), "textin(inet_out({}))", (), f"inet: {_TEXT_REASONS['inet']}")
        return _SCALARS.get(kind.name) or as_text(kind.name, _TEXT_REASONS.get(kind.name, ""))

    def _numeric(self, modifier: int) -> Scalar:
        if modifier < 0:
            return as_text("numeric", "nothing says how many digits it has")
        precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
        scale = (scale ^ 0x400) - 0x400
        shown = f"numeric({precision},{scale})"
        digits = max(precision - min(scale, 0), scale)
        if digits > _MAX_DIGITS:
            return as_text(shown, f"decimals have up to {_MAX_DIGITS} digits")
        kind = pa.decimal128(digits, max(scale, 0))
        template = "{}" if self.server.sends_numbers and digits <= NUMBER_DIGITS else "{}::text"
        return Scalar(kind, template, (("{} = 'NaN'", "NaN is no decimal"),), shown)

    def open_numeric(self, scale: int, digits: int) -> Scalar | None:
        """Numeric of unstated digits, all of whose values have so many of them; None if they are too many."""
        if scale + digits > _MAX_DIGITS:
            return None
        special = "{} IN ('NaN', 'Infinity', '-Infinity')" if self.server.version >= 140000 else "{} = 'NaN'"
        limit = "1" + "0" * (_MAX_DIGITS - scale)
        misfits = (
            (special, "NaN and infinity are no decimals"),
            (
                f"(abs({{}}) >= {limit} OR {{}} <> round({{}}, {scale}))",
                f"it has other digits than decimal({_MAX_DIGITS},{scale})",
            ),
        )
        return Scalar(pa.decimal128(_MAX_DIGITS, scale), "{}::text", misfits, "numeric")


def as_text(shown: str, why: str = "") -> Scalar:
    """Kept as PostgreSQL's text of it."""
    reason = f"{shown}: {why}" if why else f"{shown}: kept as PostgreSQL writes it"
    return Scalar(pa.string(), "{}::text", (), reason)


def as_json(shown: str) -> Scalar:
    """Kept as JSON."""
    return Scalar(pa.string(), "to_json({})::text", (), f"{shown}: as JSON")


_FINITE = "infinity and times past the year 294246 are no timestamps"
_SCALARS: dict[str, Scalar] = {
    "bool": Scalar(pa.bool_(), reason="boolean"),
    "int2": Scalar(pa.int32(), reason="smallint"),
    "int4": Scalar(pa.int32(), reason="integer"),
    "int8": Scalar(pa.int64(), reason="bigint"),
    "oid": Scalar(pa.int64(), "{}::int8", reason="oid"),
    "float4": Scalar(pa.float32(), reason="real"),
    "float8": Scalar(pa.float64(), reason="double precision"),
    "text": Scalar(pa.string(), reason="text"),
    "varchar": Scalar(pa.string(), reason="varchar"),
    "bytea": Scalar(pa.binary(), reason="bytea"),
    "uuid": Scalar(pa.uuid(), reason="uuid"),
    "date": Scalar(pa.date32(), "{}", (("NOT isfinite({})", "infinity is no date"),), "date"),
    "time": Scalar(pa.time64("us"), "{}", (("{} = '24:00'", "24:00 is no time of a day"),), "time"),
    "timestamp": Scalar(
        pa.timestamp("us"), "{}", (("(NOT isfinite({}) OR {} >= '294247-01-01')", _FINITE),), "timestamp"
    ),
    "timestamptz": Scalar(
        pa.timestamp("us", "UTC"),
        "{}",
        (("(NOT isfinite({}) OR {} >= '294247-01-01 00:00+00')", _FINITE),),
        "timestamptz",
    ),
}


# What is infinite, or too much for the bits of its type once days are counted from 1970, comes out below all
# dates that PostgreSQL has, which begin in 4713 BC.
_FIRST_DAY = -2_440_588
_FIRST_US = _FIRST_DAY * 86_400_000_000
_AFTER_YEARS = int(np.datetime64("294247-01-01", "us").astype(np.int64))
_DAY_US = 86_400_000_000
_NEVER = 2**63 - 1


def looks_unfit(array: pa.Array) -> bool:
    """Whether a value that came is none of those that its type can hold, though nothing kept it out."""
    kind = array.type
    if pa.types.is_date32(kind):
        numbers, first, after = array.view(pa.int32()), _FIRST_DAY, _NEVER
    elif pa.types.is_timestamp(kind):
        numbers, first, after = array.view(pa.int64()), _FIRST_US, _AFTER_YEARS
    elif pa.types.is_time64(kind):
        numbers, first, after = array.view(pa.int64()), 0, _DAY_US
    else:
        return False
    extremes = pc.min_max(numbers)
    least, most = extremes["min"].as_py(), extremes["max"].as_py()
    return least is not None and (least < first or most >= after)


def storage(array: pa.Array) -> pa.Array:
    """The values below an extension type that only says where they are from."""
    return array.storage if isinstance(array.type, pa.OpaqueType) else array


def plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """An array as a type.

    Raises:
        pyarrow.ArrowInvalid: A value does not fit.
    """
    array = storage(array)
    if array.type == kind:
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if isinstance(kind, pa.BaseExtensionType):
        return kind.wrap_array(array.cast(kind.storage_type))
    return array.cast(kind)


def _lists(offsets: np.ndarray, values: pa.Array, missing: pa.Array | None = None) -> pa.Array:
    kind = pa.list_(pa.field("element", values.type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=missing)
