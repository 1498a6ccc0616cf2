"""Arrow types of expressions in a statement that sqlglot parsed, worked out by need and without running it.

Only what stands near a parameter is looked at, which is much less work than qualifying and annotating the
whole statement. Whatever is not understood has the type ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import expressions as exp

from lakehouse.engine import arithmetic
from lakehouse.engine.signatures import (
    INTERVAL,
    TIMESTAMP,
    TIMESTAMP_TZ,
    is_list,
    is_number,
    result_type,
    takes_alike,
)

_MAX_DEPTH = 50
_STRING = pa.string()
_DATA_TYPES: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "INT128": pa.decimal128(38, 0),
    "UINT128": pa.decimal128(38, 0),
    "BIGNUM": _STRING,
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINT": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": TIMESTAMP,
    "TIMESTAMPNTZ": TIMESTAMP,
    "DATETIME": TIMESTAMP,
    "TIMESTAMPTZ": TIMESTAMP_TZ,
    "TIMESTAMP_S": pa.timestamp("s"),
    "TIMESTAMP_MS": pa.timestamp("ms"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "INTERVAL": INTERVAL,
    "VARBINARY": pa.binary(),
    "BINARY": pa.binary(),
    "BLOB": pa.binary(),
    "TEXT": _STRING,
    "VARCHAR": _STRING,
    "CHAR": _STRING,
    "NCHAR": _STRING,
    "NVARCHAR": _STRING,
    "UUID": _STRING,
    "JSON": _STRING,
    "BIT": _STRING,
    "ENUM": _STRING,
    "TIMETZ": _STRING,
}


@dataclass(frozen=True, slots=True)
class Output:
    """A column that a table, subquery or CTE gives: its name in lower case, and what its type comes from."""

    name: str
    sources: tuple[exp.Expr | pa.DataType, ...]


class ExpressionTypes:
    """Finds types of expressions; keeps what it has found, so it serves one statement.

    Args:
        columns_of: Gives the Arrow schema of a table by its name as written, or ``None``.
    """

    def __init__(self, columns_of: Callable[[tuple[str, ...]], pa.Schema | None]) -> None:
        self._columns_of = columns_of
        self._types: dict[int, pa.DataType | None] = {}
        self._outputs: dict[int, list[Output]] = {}
        self._by_name: dict[int, dict[str, Output]] = {}
        self._boundaries: dict[int, tuple[exp.Expr | None, exp.Expr]] = {}
        self._tables: dict[tuple[str, ...], list[Output]] = {}
        self._depth = 0

    def of(self, node: object) -> pa.DataType | None:
        """The type of an expression, as DuckDB would find it."""
        if not isinstance(node, exp.Expr) or self._depth > _MAX_DEPTH:
            return None
        key = id(node)
        if key not in self._types:
            self._types[key] = None  # what refers to itself has no type
            self._depth += 1
            try:
                self._types[key] = self._find(node)
            finally:
                self._depth -= 1
        return self._types[key]

    def peer(self, node: object) -> pa.DataType | None:
        """The type for a parameter that stands opposite an expression: as wide as can be for literals."""
        kind = self.of(node)
        if kind is not None and literal(node) is not None and is_number(kind):
            return pa.int64() if pa.types.is_integer(kind) else pa.float64()
        return kind

    def first(self, nodes: list[exp.Expr]) -> pa.DataType | None:
        """The first known of the types of some expressions that are to have one; literals count last."""
        for node in nodes:
            kind = None if literal(node) is not None else self.of(node)
            if kind is not None:
                return kind
        return next((kind for kind in map(self.peer, nodes) if kind is not None), None)

    def output(self, output: Output) -> pa.DataType | None:
        """The type of an output column."""
        for source in output.sources:
            kind = self.of(source) if isinstance(source, exp.Expr) else source
            if kind is not None:
                return kind
        return None

    # -- expressions --------------------------------------------------------------------------------

    def _find(self, node: exp.Expr) -> pa.DataType | None:
        for cls in type(node).__mro__:
            rule = _RULES.get(cls)
            if rule is not None:
                return rule(self, node)
        return None

    def inner(self, node: exp.Expr) -> pa.DataType | None:
        """The type of what is wrapped: in parentheses, an alias, OVER, FILTER, ORDER BY."""
        return self.of(node.this)

    def distinct(self, node: exp.Expr) -> pa.DataType | None:
        """The type of ``DISTINCT x`` in an aggregate."""
        return self.of(node.expressions[0]) if node.expressions else None

    def cast(self, node: exp.Expr) -> pa.DataType | None:
        """The target of a cast."""
        return arrow_type(node.args.get("to"))

    def arithmetic(self, node: exp.Expr) -> pa.DataType | None:
        """The type of a sum, difference, product, quotient or remainder."""
        left, right = node.args.get("this"), node.args.get("expression")
        return arithmetic.result(
            type(node),
            self.of(left),
            self.of(right),
            (literal(left) is not None, literal(right) is not None),
        )

    def concatenation(self, node: exp.Expr) -> pa.DataType | None:
        """The type of ``a || b``."""
        kinds = [self.of(node.this), self.of(node.expression)]
        return next((k for k in kinds if k is not None and (is_list(k) or pa.types.is_binary(k))), _STRING)

    def case(self, node: exp.Expr) -> pa.DataType | None:
        """The type of CASE or IF: that of its first result that has one."""
        return self.first(case_results(node))

    def function(self, node: exp.Expr) -> pa.DataType | None:
        """The type that a function gives."""
        name, arguments = str(node.this).lower(), arguments_of(node)
        if takes_alike(name):
            return self.first(arguments)
        kinds = [self.of(argument) for argument in arguments]
        if name in ("unnest", "explode"):
            return element(kinds[0]) if kinds else None
        if name in ("struct_extract", "map_extract_value", "element_at") and len(arguments) == 2:
            return field_of(kinds[0], arguments[1].name)
        return result_type(name, kinds, [literal(argument) is not None for argument in arguments])

    def scalar(self, node: exp.Expr) -> pa.DataType | None:
        """The type of a subquery that gives one value."""
        outputs = self.outputs(node)
        return self.output(outputs[0]) if outputs else None

    def dot(self, node: exp.Expr) -> pa.DataType | None:
        """The type of ``(struct).field``, or of a function called as ``schema.function(…)``."""
        if isinstance(node.expression, exp.Anonymous):
            return self.of(node.expression)
        return field_of(self.of(node.this), node.expression.name)

    def bracket(self, node: exp.Expr) -> pa.DataType | None:
        """The type of an element, a slice, or a field taken with ``[…]``."""
        kind = self.of(node.this)
        if not node.expressions or isinstance(node.expressions[0], exp.Slice):
            return kind
        return field_of(kind, node.expressions[0].name)

    def array(self, node: exp.Expr) -> pa.DataType | None:
        """The type of ``[a, b]``."""
        kind = self.first(node.expressions)
        return None if kind is None else pa.list_(kind)

    def time_zone(self, node: exp.Expr) -> pa.DataType | None:
        """AT TIME ZONE turns a timestamp with time zone into one without, and the other way round."""
        return TIMESTAMP if self.of(node.this) == TIMESTAMP_TZ else TIMESTAMP_TZ

    # -- columns ------------------------------------------------------------------------------------

    def column(self, node: exp.Expr) -> pa.DataType | None:
        """The type of a column, or of a field of a column that is a struct."""
        assert isinstance(node, exp.Column)
        found = self.resolve(node)
        if found is None:
            return None
        kind = self.output(found[0])
        for field in found[1]:
            kind = field_of(kind, field)
        return kind

    def variable(self, node: exp.Expr) -> pa.DataType | None:
        """The type of a bare name: a variable of a lambda function."""
        over = next(filter(None, (_runs_over(b, node.name.lower(), i) for b, i in self._around(node))), None)
        return element(self.of(over)) if over is not None else None

    def resolve(self, column: exp.Column) -> tuple[Output, list[str]] | None:
        """What a column name stands for, with the names of struct fields taken from it."""
        parts = [part.name.lower() for part in column.parts]
        for boundary, inside in self._around(column):
            over = _runs_over(boundary, parts[0], inside)
            if over is not None:
                kind = element(self.of(over))
                return None if kind is None else (Output(parts[0], (kind,)), parts[1:])
            found = self._in_scope(boundary, parts) or _by_alias(boundary, parts, inside)
            if found is not None:
                return found
        return None

    def _around(self, node: exp.Expr) -> Iterator[tuple[exp.Expr, exp.Expr]]:
        """The statements and lambda functions around an expression, each with its part that holds it."""
        boundary: exp.Expr | None = node
        while boundary is not None:
            path = []
            inside, outer = boundary, boundary.parent
            while outer is not None and not isinstance(outer, _BOUNDARIES):
                known = self._boundaries.get(id(inside))
                if known is not None:
                    outer, inside = known
                    break
                path.append(id(inside))
                inside, outer = outer, outer.parent
            self._boundaries.update(dict.fromkeys(path, (outer, inside)))
            if outer is not None:
                yield outer, inside
            boundary = outer

    def _in_scope(self, scope: exp.Expr, parts: list[str]) -> tuple[Output, list[str]] | None:
        relations = list(relations_of(scope)) if isinstance(scope, _SCOPES) else []
        for start in (1, 0, 2, 3):
            if start >= len(parts):
                continue
            for name, relation in relations:
                if start and name != parts[start - 1]:
                    continue
                output = self._named(relation).get(parts[start])
                if output is not None:
                    return output, parts[start + 1 :]
        return None

    def _named(self, relation: exp.Expr) -> dict[str, Output]:
        found = self._by_name.get(id(relation))
        if found is None:
            outputs = self.outputs(relation)
            found = {output.name: output for output in reversed(outputs)}
            if outputs:
                self._by_name[id(relation)] = found
        return found

    # -- relations ----------------------------------------------------------------------------------

    def outputs(self, relation: exp.Expr) -> list[Output]:
        """The columns that a table, subquery, CTE, VALUES list or query gives."""
        key = id(relation)
        if key not in self._outputs:
            self._outputs[key] = []  # a recursive CTE knows its columns from its first part
            if self._depth > _MAX_DEPTH:
                return []
            self._depth += 1
            try:
                self._outputs[key] = self._find_outputs(relation)
            finally:
                self._depth -= 1
        return self._outputs[key]

    def _find_outputs(self, relation: exp.Expr) -> list[Output]:
        found: list[Output]
        if isinstance(relation, exp.Table):
            found = self._table(relation)
        elif isinstance(relation, exp.Select):
            found = [output for item in relation.expressions for output in self._projected(relation, item)]
        elif isinstance(relation, exp.SetOperation):
            found = self._set_operation(relation)
        elif isinstance(relation, exp.Values):
            rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in relation.expressions]
            width = max(map(len, rows), default=0)
            found = [Output(f"col{i}", tuple(row[i] for row in rows if i < len(row))) for i in range(width)]
        elif isinstance(relation, exp.Unnest):
            kinds = [element(self.of(item)) for item in relation.expressions]
            found = [Output("unnest", () if kind is None else (kind,)) for kind in kinds]
        elif isinstance(relation, exp.Subquery | exp.Lateral | exp.Paren):
            found = self.outputs(relation.this) if isinstance(relation.this, exp.Expr) else []
        else:
            found = []
        return _renamed(found, relation.args.get("alias"))

    def _set_operation(self, relation: exp.SetOperation) -> list[Output]:
        left = self.outputs(relation.this)
        self._outputs[id(relation)] = left
        right = self.outputs(relation.expression)
        if relation.args.get("by_name"):
            others = {output.name: output.sources for output in right}
            names = {output.name for output in left}
            merged = [Output(o.name, o.sources + others.get(o.name, ())) for o in left]
            return merged + [output for output in right if output.name not in names]
        return [
            Output(o.name, o.sources + (right[i].sources if i < len(right) else ()))
            for i, o in enumerate(left)
        ]

    def _table(self, table: exp.Table) -> list[Output]:
        if isinstance(table.this, exp.Anonymous):
            name = str(table.this.this).lower()
            if name not in ("range", "generate_series"):
                return []
            start = self.of(table.this.expressions[0]) if table.this.expressions else None
            kind = start if start is not None and pa.types.is_timestamp(start) else pa.int64()
            return [Output(table.alias.lower() or name, (kind,))]
        path = tuple(part.name for part in table.parts if part.name)
        cte = _cte(table, path[0].lower()) if len(path) == 1 else None
        if cte is not None:
            return _renamed(self.outputs(cte.this), cte.args.get("alias"))
        return self.columns(path)

    def columns(self, path: tuple[str, ...]) -> list[Output]:
        """The columns of a table of the catalog, none where it is not known."""
        if path not in self._tables:
            schema = self._columns_of(path) if path else None
            self._tables[path] = [Output(field.name.lower(), (field.type,)) for field in schema or ()]
        return self._tables[path]

    def _projected(self, select: exp.Select, item: exp.Expr) -> Iterator[Output]:
        if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
            yield from self._star(select, item)
        else:
            yield Output(item.alias_or_name.lower(), (item,))

    def _star(self, select: exp.Select, item: exp.Expr) -> Iterator[Output]:
        star = item if isinstance(item, exp.Star) else item.this
        of_table = item.args["table"].name.lower() if item.args.get("table") else None
        left_out = {column.name.lower() for column in star.args.get("except_") or ()}
        replaced = {alias.alias.lower(): alias for alias in star.args.get("replace") or ()}
        renamed = {alias.this.name.lower(): alias.alias.lower() for alias in star.args.get("rename") or ()}
        for name, relation in relations_of(select):
            if of_table is not None and name != of_table:
                continue
            for output in self.outputs(relation):
                if output.name in left_out:
                    continue
                sources = (replaced[output.name],) if output.name in replaced else output.sources
                yield Output(renamed.get(output.name, output.name), sources)
            if of_table is None:
                left_out |= _merged_columns(select, relation)


_SCOPES = (exp.Select, exp.Update, exp.Delete, exp.Merge, exp.Insert)
_BOUNDARIES = (*_SCOPES, exp.Lambda, exp.Comprehension)


def relations_of(scope: exp.Expr) -> Iterator[tuple[str, exp.Expr]]:
    """The relations that columns of a statement can come from, with the names to call them by, lower-case."""
    roots: list[object] = []
    if isinstance(scope, exp.Insert):
        target = scope.this.this if isinstance(scope.this, exp.Schema) else scope.this
        if isinstance(target, exp.Table):
            yield target.alias_or_name.lower(), target
            yield "excluded", target
        return
    if not isinstance(scope, exp.Select):
        using = scope.args.get("using")
        roots += [scope.args.get("this"), *(using if isinstance(using, list) else [using])]
    source = scope.args.get("from_")
    roots += [source.this] if isinstance(source, exp.From) else []
    roots += [join.this for join in scope.args.get("joins") or ()]
    roots += list(scope.args.get("laterals") or ())
    for root in roots:
        yield from _joined(root)


def _joined(root: object) -> Iterator[tuple[str, exp.Expr]]:
    """A relation, and those that are joined to it in parentheses or by nesting."""
    pending = [root]
    while pending:
        node = pending.pop(0)
        if not isinstance(node, exp.Expr):
            continue
        pending += [join.this for join in node.args.get("joins") or () if not isinstance(node, exp.Select)]
        if isinstance(node, exp.Paren | exp.Subquery) and isinstance(node.this, exp.Table):
            pending.insert(0, node.this)
        else:
            yield node.alias_or_name.lower(), node


def _merged_columns(select: exp.Select, relation: exp.Expr) -> set[str]:
    """Columns that ``*`` shows once, because the next join has them in USING."""
    joins = select.args.get("joins") or []
    place = next((i for i, join in enumerate(joins) if join.this is relation), -1) + 1
    following = joins[place].args.get("using") if place < len(joins) else None
    return {name.name.lower() for name in following or ()}


def _renamed(outputs: list[Output], alias: object) -> list[Output]:
    """Columns under the names that an alias like ``AS t(a, b)`` gives them."""
    columns = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
    if not columns:
        return outputs
    names = [column.name.lower() for column in columns]
    return [
        Output(names[i] if i < len(names) else output.name, output.sources)
        for i, output in enumerate(outputs)
    ]


def _cte(table: exp.Table, name: str) -> exp.CTE | None:
    """The CTE that a table name stands for; in its own definition only a recursive one."""
    scope: exp.Expr | None = table
    within: set[int] = set()
    while scope is not None:
        clause = scope.args.get("with_")
        for cte in clause.expressions if isinstance(clause, exp.With) else ():
            if cte.alias.lower() == name and (id(cte) not in within or _is_recursive(clause)):
                assert isinstance(cte, exp.CTE)
                return cte
        within.add(id(scope))
        scope = scope.parent
    return None


def _is_recursive(clause: object) -> bool:
    return isinstance(clause, exp.With) and bool(clause.args.get("recursive"))


def _by_alias(scope: exp.Expr, parts: list[str], inside: exp.Expr) -> tuple[Output, list[str]] | None:
    """The projection that a name means where DuckDB lets aliases stand for them, as in WHERE and HAVING."""
    if not isinstance(scope, exp.Select):
        return None
    for item in scope.expressions:
        if isinstance(item, exp.Alias) and item is not inside and item.alias.lower() == parts[0]:
            return Output(parts[0], (item,)), parts[1:]
    return None


def _runs_over(scope: exp.Expr, name: str, inside: exp.Expr) -> exp.Expr | None:
    """The list over which a variable of that name runs, in a lambda function or a list comprehension."""
    found: object = None
    if isinstance(scope, exp.Lambda) and any(v.name.lower() == name for v in scope.expressions):
        function = scope.parent
        if isinstance(function, exp.Anonymous) and function.expressions[0] is not scope:
            found = function.expressions[0]
    elif isinstance(scope, exp.Comprehension) and scope.args["expression"].name.lower() == name:
        found = scope.args.get("iterator")
    return found if isinstance(found, exp.Expr) and found is not inside else None


def literal(node: object) -> exp.Literal | None:
    """The literal that an expression is, perhaps signed or in parentheses."""
    while isinstance(node, exp.Paren | exp.Neg):
        node = node.this
    return node if isinstance(node, exp.Literal) else None


def literal_type(node: exp.Expr) -> pa.DataType | None:
    """The type that DuckDB gives a number or text in a statement."""
    assert isinstance(node, exp.Literal)
    text = str(node.this)
    if node.is_string:
        return _STRING
    if not re.fullmatch(r"\d*\.?\d*", text):
        return pa.float64()
    whole, _, fraction = text.partition(".")
    if "." in text and len(whole) + len(fraction) <= 38:
        return pa.decimal128(max(1, len(whole.lstrip("0")) + len(fraction)), len(fraction))
    if len(whole) > 18:
        return pa.float64()
    return pa.int32() if int(whole or "0") < 1 << 31 else pa.int64()


def case_results(node: exp.Expr) -> list[exp.Expr]:
    """The expressions of which a CASE or IF gives one."""
    found = [node.args.get("true"), node.args.get("false"), node.args.get("default")]
    found += [branch.args.get("true") for branch in node.args.get("ifs") or ()]
    return [item for item in found if isinstance(item, exp.Expr)]


def arguments_of(function: exp.Expr) -> list[exp.Expr]:
    """The arguments of a function; those after DISTINCT count one by one."""
    found: list[exp.Expr] = []
    for argument in function.expressions:
        found += argument.expressions if isinstance(argument, exp.Distinct) else [argument]
    return found if not (len(found) == 1 and isinstance(found[0], exp.Star)) else []


def element(kind: pa.DataType | None) -> pa.DataType | None:
    """The type of the elements of a list."""
    return kind.value_type if kind is not None and is_list(kind) else None


def field_of(kind: pa.DataType | None, name: str) -> pa.DataType | None:
    """The type of what ``[…]`` or ``.name`` takes from a list, map, struct or text."""
    if kind is None:
        return None
    if pa.types.is_struct(kind):
        return next((field.type for field in kind if field.name.lower() == name.lower()), None)
    if pa.types.is_map(kind):
        return kind.item_type
    return kind.value_type if is_list(kind) else kind


def arrow_type(node: object) -> pa.DataType | None:
    """The Arrow type in which DuckDB returns a type written in SQL; what it does not know counts as text."""
    if not isinstance(node, exp.DataType):
        return None
    name = node.this.value if isinstance(node.this, exp.DType) else str(node.this)
    if name == "DECIMAL":
        numbers = [int(p.name) for p in node.expressions if p.name.isdigit()]
        precision = numbers[0] if numbers else 18
        scale = numbers[1] if len(numbers) > 1 else (0 if numbers else 3)
        return pa.decimal128(precision, scale) if 0 < precision <= 38 and scale <= precision else pa.float64()
    if name in ("ARRAY", "LIST") and node.expressions:
        item = arrow_type(node.expressions[0]) or _STRING
        size = next((v.name for v in node.args.get("values") or ()), "")
        return pa.list_(item, int(size)) if size.isdigit() else pa.list_(item)
    if name == "MAP" and len(node.expressions) == 2:
        key, value = (arrow_type(item) or _STRING for item in node.expressions)
        return pa.map_(key, value)
    if name == "STRUCT":
        fields = [(f.name, arrow_type(f.args.get("kind")) or _STRING) for f in node.expressions]
        return pa.struct(fields)
    return _DATA_TYPES.get(name, _STRING)


_Rule = Callable[[ExpressionTypes, exp.Expr], pa.DataType | None]


def _always(kind: pa.DataType) -> _Rule:
    return lambda *_: kind


# By class, most special first in the order of Python's method resolution.
_RULES: dict[type, _Rule] = {
    **dict.fromkeys(
        (
            exp.Paren,
            exp.Alias,
            exp.Neg,
            exp.BitwiseNot,
            exp.Window,
            exp.Filter,
            exp.WithinGroup,
            exp.IgnoreNulls,
            exp.RespectNulls,
            exp.Order,
            exp.Collate,
            exp.Abs,
            exp.BitwiseAnd,
            exp.BitwiseOr,
            exp.BitwiseXor,
            exp.BitwiseLeftShift,
            exp.BitwiseRightShift,
        ),
        ExpressionTypes.inner,
    ),
    **dict.fromkeys(arithmetic.OPERATORS, ExpressionTypes.arithmetic),
    **dict.fromkeys((exp.Predicate, exp.Connector, exp.Not, exp.Boolean), _always(pa.bool_())),
    **dict.fromkeys(
        (exp.Escape, exp.RegexpLike, exp.StartsWith, exp.SimilarTo, exp.Glob), _always(pa.bool_())
    ),
    **dict.fromkeys(
        (exp.Substring, exp.Trim, exp.Overlay, exp.JSONExtract, exp.JSONExtractScalar), _always(_STRING)
    ),
    **dict.fromkeys((exp.Extract, exp.StrPosition), _always(pa.int64())),
    **dict.fromkeys((exp.Subquery, exp.Select, exp.SetOperation), ExpressionTypes.scalar),
    **dict.fromkeys((exp.Case, exp.If), ExpressionTypes.case),
    exp.Cast: ExpressionTypes.cast,
    exp.Literal: lambda _, node: literal_type(node),
    exp.Distinct: ExpressionTypes.distinct,
    exp.DPipe: ExpressionTypes.concatenation,
    exp.Anonymous: ExpressionTypes.function,
    exp.Column: ExpressionTypes.column,
    exp.Identifier: ExpressionTypes.variable,
    exp.Dot: ExpressionTypes.dot,
    exp.Bracket: ExpressionTypes.bracket,
    exp.Array: ExpressionTypes.array,
    exp.AtTimeZone: ExpressionTypes.time_zone,
    exp.Interval: _always(INTERVAL),
    exp.CurrentDate: _always(pa.date32()),
    exp.CurrentTimestamp: _always(TIMESTAMP_TZ),
    exp.Localtimestamp: _always(TIMESTAMP),
    exp.Localtime: _always(pa.time64("us")),
}
