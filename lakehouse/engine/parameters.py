"""The types of a statement's parameters, inferred from where they stand.

DuckDB 2.0 does not say what it expects of a parameter, but JDBC binds by the announced type. What cannot be
told is announced as text, to which every driver can bind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

ColumnsOf = Callable[[tuple[str, ...]], pa.Schema | None]

_MAX_TEXT = 200_000
_PREFIX = "lakehouse_parameter_"
# Strings, quoted names and comments are skipped whole.
_PARAMETER = re.compile(
    r"'(?:[^']|'')*'"
    r'|"(?:[^"]|"")*"'
    r"|--[^\n]*|/\*.*?\*/|\$\$.*?\$\$"
    r"|(?P<positional>\?)|\$(?P<name>\w+)",
    re.DOTALL,
)
_T = exp.DataType.Type
_SQL_TYPES: dict[Any, pa.DataType] = {
    _T.BOOLEAN: pa.bool_(),
    _T.TINYINT: pa.int8(),
    _T.SMALLINT: pa.int16(),
    _T.INT: pa.int32(),
    _T.BIGINT: pa.int64(),
    _T.INT128: pa.decimal128(38, 0),
    _T.UTINYINT: pa.uint8(),
    _T.USMALLINT: pa.uint16(),
    _T.UINT: pa.uint32(),
    _T.UBIGINT: pa.uint64(),
    _T.FLOAT: pa.float32(),
    _T.DOUBLE: pa.float64(),
    _T.DATE: pa.date32(),
    _T.DATE32: pa.date32(),
    _T.TIME: pa.time64("us"),
    _T.TIMESTAMP: pa.timestamp("us"),
    _T.TIMESTAMPNTZ: pa.timestamp("us"),
    _T.DATETIME: pa.timestamp("us"),
    _T.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
    _T.VARBINARY: pa.binary(),
    _T.BLOB: pa.binary(),
    _T.BINARY: pa.binary(),
}
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod)
_TEXT = (
    exp.Like,
    exp.ILike,
    exp.RegexpLike,
    exp.DPipe,
    exp.Concat,
    exp.Lower,
    exp.Upper,
    exp.Trim,
    exp.Length,
)
_TRANSPARENT = (exp.Paren, exp.Neg)
_KNOWN: tuple[tuple[tuple[type[exp.Expr], ...], pa.DataType], ...] = (
    ((exp.Boolean,), pa.bool_()),
    ((exp.Count, exp.Length), pa.int64()),
    ((exp.Avg,), pa.float64()),
    ((exp.Lower, exp.Upper, exp.Trim, exp.Substring, exp.Concat, exp.DPipe), pa.string()),
)


def infer_parameters(sql: str, names: tuple[str, ...], columns_of: ColumnsOf) -> pa.Schema:
    """One nullable field for each parameter, in the order of ``names``.

    Args:
        sql: One statement.
        names: The parameters as DuckDB names them: ``1``, ``2`` … or the names after ``$``.
        columns_of: The columns of a table by its name as written; ``None`` where there is none.
    """
    if not names:
        return pa.schema([])
    types: dict[str, pa.DataType] = {}
    if len(sql) <= _MAX_TEXT:
        try:
            types = _Inference(_named(sql), columns_of).types
        except (SqlglotError, RecursionError):
            types = {}
    return pa.schema([pa.field(name, types.get(name, pa.string())) for name in names])


def _named(sql: str) -> exp.Expr:
    """The parsed statement with each parameter as a column name, the one form sqlglot reads anywhere."""
    count = 0

    def rename(match: re.Match[str]) -> str:
        nonlocal count
        if match["positional"]:
            count += 1
            return f" {_PREFIX}{count} "
        return f" {_PREFIX}{match['name']} " if match["name"] else match[0]

    return sqlglot.parse_one(_PARAMETER.sub(rename, sql), dialect="duckdb")


class _Inference:
    """Finds the types of the parameters of one parsed statement."""

    def __init__(self, tree: exp.Expr, columns_of: ColumnsOf) -> None:
        self.types: dict[str, pa.DataType] = {}
        self._tables: dict[str, pa.Schema] = {}
        for table in tree.find_all(exp.Table):
            schema = columns_of(tuple(part.name for part in table.parts))
            if schema is not None:
                self._tables[(table.alias or table.name).lower()] = schema
        if isinstance(tree, exp.Insert):
            self._insert(tree)
        for node in tree.find_all(exp.Column):
            if node.name.startswith(_PREFIX):
                kind = self._expected(node)
                if kind is not None:
                    self.types.setdefault(node.name.removeprefix(_PREFIX), kind)

    def _expected(self, node: exp.Expr) -> pa.DataType | None:
        child, parent = node, node.parent
        while isinstance(parent, _TRANSPARENT):
            child, parent = parent, parent.parent
        if isinstance(parent, exp.Cast):
            return _sql_type(parent.to)
        if isinstance(parent, exp.Limit | exp.Offset | exp.Fetch):
            return pa.int64()
        if isinstance(parent, _TEXT):
            return pa.string()
        if isinstance(parent, exp.And | exp.Or | exp.Not | exp.Where):
            return pa.bool_()
        if isinstance(parent, _COMPARISONS):
            return self._type(parent.expression if parent.this is child else parent.this)
        if isinstance(parent, exp.Between):
            return next((t for t in map(self._type, _others(parent, child)) if t is not None), None)
        if isinstance(parent, exp.In):
            return self._type(parent.this) if parent.this is not child else self._in_list(parent)
        if isinstance(parent, _ARITHMETIC):
            return self._arithmetic(parent, child)
        if isinstance(parent, exp.Coalesce):
            return next((t for t in map(self._type, _others(parent, child)) if t is not None), None)
        return None

    def _in_list(self, node: exp.In) -> pa.DataType | None:
        return next((t for t in map(self._type, node.expressions) if t is not None), None)

    def _arithmetic(self, node: exp.Expr, child: exp.Expr) -> pa.DataType | None:
        other = self._type(node.expression if node.this is child else node.this)
        if other is None:
            return None
        if pa.types.is_integer(other):
            return pa.int64()
        if pa.types.is_temporal(other):
            same = isinstance(node, exp.Sub) and pa.types.is_timestamp(other)
            return other if same else pa.int64()
        return other

    def _type(self, node: exp.Expr | None) -> pa.DataType | None:
        for kinds, found in _KNOWN:
            if isinstance(node, kinds):
                return found
        if isinstance(node, (*_TRANSPARENT, exp.Min, exp.Max, exp.Abs, exp.AnyValue)):
            return self._type(node.this)
        if isinstance(node, exp.Column):
            return self._column(node.table.lower(), node.name.lower())
        if isinstance(node, exp.Cast):
            return _sql_type(node.to)
        if isinstance(node, exp.Literal):
            number = pa.int64() if node.this.isdigit() else pa.float64()
            return pa.string() if node.is_string else number
        if isinstance(node, _ARITHMETIC):
            return self._type(node.this) or self._type(node.expression)
        if (
            isinstance(node, exp.Subquery)
            and isinstance(node.this, exp.Select)
            and len(node.this.selects) == 1
        ):
            return self._type(node.this.selects[0].unalias())
        return None

    def _column(self, table: str, name: str) -> pa.DataType | None:
        schemas = [self._tables[table]] if table in self._tables else list(self._tables.values())
        for schema in schemas:
            for field in schema:
                if field.name.lower() == name:
                    return field.type
        return None

    def _insert(self, node: exp.Insert) -> None:
        """Parameters that stand for whole columns of the row to insert."""
        target = node.find(exp.Table)
        schema = self._tables.get((target.alias or target.name).lower()) if target is not None else None
        if schema is None:
            return
        names = [c.name for c in node.this.expressions] if isinstance(node.this, exp.Schema) else schema.names
        kinds = [self._column("", name.lower()) for name in names]
        source = node.expression
        rows = [t.expressions for t in source.expressions] if isinstance(source, exp.Values) else []
        if isinstance(source, exp.Select):
            rows = [source.selects]
        for row in rows:
            for value, kind in zip(row, kinds, strict=False):
                inner = value.this if isinstance(value, exp.Alias) else value
                if inner.name.startswith(_PREFIX) and kind is not None:
                    self.types[inner.name.removeprefix(_PREFIX)] = kind


def _others(node: exp.Expr, child: exp.Expr) -> list[exp.Expr]:
    return [value for value in node.iter_expressions() if value is not child]


def _sql_type(kind: exp.DataType) -> pa.DataType | None:
    if kind.this is _T.DECIMAL:
        sizes = [int(p.name) for p in kind.expressions if p.name.isdigit()]
        precision, scale = (sizes + [18, 3][len(sizes) :])[:2] if sizes else (18, 3)
        return pa.decimal128(precision, scale if len(sizes) > 1 or not sizes else 0)
    return _SQL_TYPES.get(kind.this)
