"""The types of a statement's parameters, found from where they stand.

DuckDB knows the type of a parameter only once a value is bound, but clients like JDBC bind by the types that
the server announces. Here each parameter gets the type that its surroundings want: the column it is compared
with or stored in, the target of its cast, the argument of its function. A parameter of which nothing is known
is text, which every client can bind and DuckDB turns into most types by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pyarrow as pa
from sqlglot import expressions as exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.parsers.duckdb import DuckDBParser

from lakehouse.engine import arithmetic
from lakehouse.engine.expression_types import (
    ExpressionTypes,
    Output,
    arguments_of,
    arrow_type,
    case_results,
    element,
    literal,
)
from lakehouse.engine.search_call import PLACES, VECTOR_SEARCH
from lakehouse.engine.signatures import (
    INTERVAL,
    TIMESTAMP,
    TIMESTAMP_TZ,
    argument_type,
    is_list,
    is_number,
    takes_alike,
)

_MAX_CHARACTERS = 200_000  # a statement of that size takes sqlglot half a second
_MAX_ARGUMENTS = 64
_MAX_DEPTH = 40
_MAX_USES = 20  # places looked at where the column of a subquery or CTE is used
_STRING = pa.string()
_NAME = r"[^\W\d]\w*"
_TOKEN = re.compile(
    rf"""
    (?P<text> [eE]'(?:[^'\\]|\\.|'')*+' | (?P<tag> \$(?:{_NAME})?\$ ) )
    | '(?:[^']|'')*+' | "(?:[^"]|"")*+" | {_NAME}[\w$]* | \d[\w.]*
    | (?P<comment> --[^\n]* | /\* )
    | \$\s*(?P<name> \d+ | {_NAME} | "(?:[^"]|"")++" )
    | (?P<mark>\?)(?P<number>\d*)
    """,
    re.VERBOSE | re.DOTALL,
)
_NESTING = re.compile(r"/\*|\*/")
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?(?:\([^)]*\)\s*)?", re.IGNORECASE)


def infer_parameters(
    sql: str, names: tuple[str, ...], columns_of: Callable[[tuple[str, ...]], pa.Schema | None]
) -> pa.Schema:
    """The schema of a statement's parameters.

    Args:
        sql: One statement.
        names: The parameters as DuckDB names them: "1", "2" … for ``?`` and ``$1``, else what follows ``$``.
        columns_of: Gives the Arrow schema of a table by its name as written, or ``None`` where there is none.

    Returns:
        One nullable field for each name, in their order. Where the type is unclear, or the statement is not
        understood, it is utf8.
    """
    kinds: dict[int, pa.DataType] = {}
    if names and len(sql) <= _MAX_CHARACTERS:
        try:
            kinds = _infer(_parse(_numbered(sql, names)), columns_of)
        except RecursionError:
            kinds = {}
    return pa.schema([pa.field(name, kinds.get(i, _STRING)) for i, name in enumerate(names)])


def _infer(
    tree: exp.Expr | None, columns_of: Callable[[tuple[str, ...]], pa.Schema | None]
) -> dict[int, pa.DataType]:
    found: dict[int, pa.DataType] = {}
    if tree is None:
        return found
    surroundings = _Surroundings(tree, ExpressionTypes(columns_of))
    for placeholder in tree.find_all(exp.Placeholder):
        name = placeholder.name
        if name.isdigit() and int(name) not in found:
            kind = surroundings.wanted(placeholder)
            if kind is not None:
                found[int(name)] = _bindable(kind)
    return found


def _bindable(kind: pa.DataType) -> pa.DataType:
    """The type in which a value can be sent: intervals and choices of an ENUM are sent as text."""
    if isinstance(kind, pa.BaseExtensionType):
        return _bindable(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _bindable(kind.value_type)
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_null(kind) or pa.types.is_union(kind) or kind in (INTERVAL, pa.large_string()):
        return _STRING
    return _STRING if pa.types.is_string_view(kind) else kind


# -- from text to tree ----------------------------------------------------------------------------------


class _Parser(DuckDBParser):
    """DuckDB's dialect, but functions keep the names and arguments that they are written with."""

    FUNCTIONS = {}  # noqa: RUF012 - as the base class has it
    FUNCTION_PARSERS = {  # noqa: RUF012
        name: DuckDBParser.FUNCTION_PARSERS[name]
        for name in ("CAST", "TRY_CAST", "EXTRACT", "POSITION", "SUBSTRING", "TRIM", "OVERLAY")
    }

    def _warn_unsupported(self) -> None:
        """Say nothing: what is not understood has no types, which is all right here."""


def _parse(sql: str) -> exp.Expr | None:
    dialect = DuckDB()
    try:
        trees = _Parser(dialect=dialect).parse(dialect.tokenize(sql), sql)
    except Exception:  # noqa: BLE001 - a foreign parser meets text of anyone's; types are a service only
        return None
    return trees[0] if trees else None


def _numbered(sql: str, names: tuple[str, ...]) -> str:
    """The statement with each parameter written as ``$`` and its place in the names, without comments.

    sqlglot takes ``?::`` for one sign and ``$1,$`` for a quotation mark, so it cannot be left to it.
    """
    places = {name.lower(): i for i, name in enumerate(names)}
    pieces, position, highest = [], 0, 0
    for begin, end, match in _tokens(sql):
        pieces.append(sql[position:begin])
        position = end
        name = match["name"] or match["number"]
        if match["mark"] and not name:
            name = str(highest + 1)
        if name:
            highest = max(highest, int(name)) if name.isdecimal() else highest
            place = places.get(name.strip('"').replace('""', '"').lower())
            pieces.append("NULL" if place is None else f" ${place} ")
        else:
            pieces.append("''" if match["text"] else " ")
    text = "".join((*pieces, sql[position:]))
    explain = _EXPLAIN.match(text)
    return text[explain.end() :] if explain else text


def _tokens(sql: str) -> Iterator[tuple[int, int, re.Match[str]]]:
    """Parameters, comments and unusual texts with their places; comments may be nested."""
    position = 0
    while (match := _TOKEN.search(sql, position)) is not None:
        position = match.end()
        if match["comment"] == "/*":
            depth = 1
            while depth and (sign := _NESTING.search(sql, position)) is not None:
                depth += 1 if sign[0] == "/*" else -1
                position = sign.end()
            position = len(sql) if depth else position
        elif match["tag"]:
            end = sql.find(match["tag"], position)
            position = len(sql) if end < 0 else end + len(match["tag"])
        if match["text"] is not None or match["comment"] or match["name"] or match["mark"]:
            yield match.start(), position, match


# -- from place to type ---------------------------------------------------------------------------------


class _Surroundings:
    """What type the surroundings of an expression want it to have."""

    def __init__(self, tree: exp.Expr, types: ExpressionTypes) -> None:
        self.types = types
        self._tree = tree
        self._depth = 0
        self._columns: dict[str, list[exp.Column]] | None = None
        self._common: dict[tuple[int, int], pa.DataType | None] = {}

    def wanted(self, node: exp.Expr) -> pa.DataType | None:
        """The type for an expression at its place, ``None`` where any will do."""
        parent = node.parent
        if parent is None or self._depth > _MAX_DEPTH:
            return None
        for cls in type(parent).__mro__:
            rule = _RULES.get(cls)
            if rule is not None:
                self._depth += 1
                try:
                    return rule(self, parent, node)
                finally:
                    self._depth -= 1
        return None

    def common(self, parent: exp.Expr, items: Callable[[], list[exp.Expr]]) -> pa.DataType | None:
        """The type that parts of an expression have in common; found once for all of them.

        A parameter has no type by itself, so it need not be left out of its siblings.
        """
        key = (id(parent), 0)
        if key not in self._common:
            self._common[key] = self.types.first(items())
        return self._common[key]

    # -- conditions ---------------------------------------------------------------------------------

    def compared(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In a comparison: the type of the other side."""
        return self.types.peer(_other(parent, node))

    def between(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``x BETWEEN low AND high``: the type of the other two."""
        return self.types.first(
            [parent.args[k] for k in ("this", "low", "high") if parent.args[k] is not node]
        )

    def member(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``x IN (…)``: the type of x, or for x that of the members."""
        query, over = parent.args.get("query"), parent.args.get("field")
        if node is query:
            return self.types.peer(parent.this)
        if node is over:
            kind = self.types.peer(parent.this)
            return None if kind is None else pa.list_(kind)
        if node is not parent.this:
            return self.common(parent, lambda: [parent.this, *parent.expressions])
        if isinstance(query, exp.Expr):
            return self.types.of(query)
        if isinstance(over, exp.Expr):
            return element(self.types.of(over))
        return self.types.first(parent.expressions)

    def quantified(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``x = ANY (…)``: a list of the type of x, or for a subquery the type itself."""
        kind = self.wanted(parent)
        return kind if kind is None or isinstance(node, exp.Query) else pa.list_(kind)

    def condition(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In AND, OR, NOT, WHERE and the like."""
        return pa.bool_()

    def joined(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """After ON of a join."""
        return pa.bool_() if node.arg_key == "on" else None

    def tested(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``x IS TRUE``; ``x IS NULL`` wants nothing."""
        return pa.bool_() if isinstance(_other(parent, node), exp.Boolean) else None

    # -- values -------------------------------------------------------------------------------------

    def same(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In parentheses and the like: what is wanted of the whole."""
        return self.wanted(parent)

    def aliased(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """With an alias: of ``* REPLACE (x AS c)`` the type of c, else what is wanted of the whole."""
        if isinstance(parent.parent, exp.Star):
            column = exp.column(parent.alias)
            column.parent = parent.parent
            return self.types.of(column)
        return self.wanted(parent)

    def cast(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """Under a cast: its target."""
        return arrow_type(parent.args.get("to"))

    def signed(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """After a sign: a number."""
        kind = self.wanted(parent)
        return kind if kind is not None and is_number(kind) else pa.float64()

    def operand(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In arithmetic: by the other side; where that is a literal or unknown, by the result wanted."""
        other = _other(parent, node)
        kind = self.types.of(other)
        wanted = self.wanted(parent)
        if kind is None or (literal(other) is not None and wanted is not None and is_number(kind)):
            usable = wanted is not None and (is_number(wanted) or pa.types.is_temporal(wanted))
            if usable and wanted != INTERVAL and type(parent) not in (exp.Div, exp.Pow):
                return wanted
        if kind is None:
            return pa.float64()
        if literal(other) is not None:
            return self.types.peer(other)
        on_the_right = node.arg_key == "expression"
        return arithmetic.operand(type(parent), kind, wanted, on_the_right=on_the_right)

    def bits(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``&``, ``|``, ``<<``: a whole number."""
        kind = self.types.of(_other(parent, node)) if isinstance(parent, exp.Binary) else None
        return kind if kind is not None and literal(_other(parent, node)) is None else pa.int64()

    def joined_text(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``a || b``: text, or what the other side is of lists and bytes."""
        kind = self.types.of(_other(parent, node))
        return kind if kind is not None and (is_list(kind) or pa.types.is_binary(kind)) else _STRING

    def branch(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In CASE and IF: a condition, the value compared with, or one of the results."""
        case = parent.parent if isinstance(parent.parent, exp.Case) else parent
        if isinstance(parent, exp.Case) and node is parent.this:
            return self.types.first([branch.this for branch in parent.args.get("ifs") or ()])
        if isinstance(parent, exp.If) and node is parent.this:
            compared = case.this if isinstance(case, exp.Case) else None
            return pa.bool_() if compared is None else self.types.peer(compared)
        return self.common(case, lambda: case_results(case)) or self.wanted(case)

    def argument(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """As the argument of a function: what its overloads take."""
        name = str(parent.this).lower()
        if name == VECTOR_SEARCH:
            return _search_argument(_place(parent.expressions, node))
        if takes_alike(name):
            return self.common(parent, lambda: parent.expressions) or self.wanted(parent)
        if name in ("row", "tuple"):
            return self.wanted_in_row(parent, node)
        arguments = arguments_of(parent) if len(parent.expressions) <= _MAX_ARGUMENTS else []
        place = _place(arguments, node)
        if place == len(arguments):
            return None
        kinds = [None if a is node else self.types.of(a) for a in arguments]
        found = argument_type(name, kinds, place, [literal(a) is not None for a in arguments])
        if found is None and name in ("lag", "lead", "list_append", "array_append") and place:
            return element(kinds[0]) if is_list(kinds[0] or _STRING) else kinds[0]
        return found or (self.wanted(parent) if name in _KEEPING else None)

    def named_argument(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """As the argument of a function, with its name."""
        function, name = parent.parent, parent.this.name.lower()
        is_search = isinstance(function, exp.Anonymous) and str(function.this).lower() == VECTOR_SEARCH
        return _search_argument(PLACES.index(name)) if is_search and name in PLACES else None

    def distinct(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """After DISTINCT in an aggregate: an argument of it."""
        function = parent.parent
        return self.argument(function, node) if isinstance(function, exp.Anonymous) else None

    def text(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In LIKE and functions on text with a syntax of their own."""
        return pa.int64() if node.arg_key in ("start", "length", "from_", "for_") else _STRING

    def subscript(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``x[…]``: a key of a map, the name of a field, else a position."""
        if node is parent.this:
            return None
        kind = self.types.of(parent.this)
        if kind is not None and pa.types.is_map(kind):
            return kind.key_type
        return _STRING if kind is not None and pa.types.is_struct(kind) else pa.int64()

    def item(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``[a, b]``: the type of the others."""
        return self.common(parent, lambda: parent.expressions) or element(self.wanted(parent))

    def zoned(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """Around AT TIME ZONE."""
        return TIMESTAMP if node is parent.this else _STRING

    def whole(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In LIMIT, OFFSET, slices and window frames."""
        return pa.int64()

    def moment(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In EXTRACT."""
        return TIMESTAMP

    def version(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``AT (VERSION => …)`` and ``AT (TIMESTAMP => …)``."""
        return TIMESTAMP_TZ if parent.args.get("kind") == "TIMESTAMP" else pa.int64()

    # -- rows ---------------------------------------------------------------------------------------

    def wanted_in_row(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In ``(a, b)``: by the same place of the rows compared with, or of the table inserted into."""
        place = _place(parent.expressions, node)
        outer = parent.parent
        while isinstance(outer, exp.Paren):
            outer = outer.parent
        if isinstance(outer, exp.Values):
            return self._in_values(outer, place, node)
        if isinstance(outer, exp.Insert):
            return self._stored(outer, place, "")
        if not isinstance(outer, exp.Binary | exp.In):
            return None
        query = outer.args.get("query")
        if isinstance(query, exp.Expr) and parent is outer.this:
            outputs = self.types.outputs(query)
            return self.types.output(outputs[place]) if place < len(outputs) else None
        rows = [outer.this, outer.args.get("expression"), *(outer.args.get("expressions") or ())]
        cells = [
            row.expressions[place]
            for row in rows
            if isinstance(row, exp.Tuple | exp.Anonymous)
            and row is not parent
            and place < len(row.expressions)
        ]
        return self.types.first(cells)

    def value(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """In VALUES with one column that is not in parentheses."""
        return self._in_values(parent, 0, node)

    def _in_values(self, values: exp.Expr, place: int, node: exp.Expr) -> pa.DataType | None:
        if isinstance(values.parent, exp.Insert):
            return self._stored(values.parent, place, "")
        key = (id(values), 1 + place)
        if key not in self._common:
            outputs = self.types.outputs(values)
            column = outputs[place] if place < len(outputs) else Output("", ())
            cells = [source for source in column.sources if isinstance(source, exp.Expr)]
            self._common[key] = self.types.first(cells) or self._of_uses(values, column.name, node)
        return self._common[key]

    def projected(self, parent: exp.Expr, node: exp.Expr) -> pa.DataType | None:
        """As a result of SELECT: what becomes of the column."""
        if node.arg_key != "expressions":
            return None
        return self._result(parent, _place(parent.expressions, node), node)

    def _result(self, query: exp.Expr, place: int, node: exp.Expr) -> pa.DataType | None:
        """What the user of a query wants of the column at a place of its result."""
        outer = query.parent
        name = node.alias_or_name.lower()
        if isinstance(outer, exp.SetOperation):
            other = self.types.outputs(outer.expression if query is outer.this else outer.this)
            if outer.args.get("by_name"):
                other = [output for output in other if output.name == name]
                place = place if not other else 0
            found = self.types.output(other[place]) if place < len(other) else None
            return found or self._result(outer, place, node)
        if isinstance(outer, exp.Insert):
            return self._stored(outer, place, name)
        if isinstance(outer, exp.In) and isinstance(outer.this, exp.Tuple):
            cells = outer.this.expressions
            return self.types.peer(cells[place]) if place < len(cells) else None
        if isinstance(outer, exp.Subquery) and not isinstance(
            outer.parent, exp.From | exp.Join | exp.Lateral
        ):
            return self._result(outer, place, node) if _is_wrapped(outer) else self.wanted(outer)
        if isinstance(outer, exp.In | exp.Any | exp.All):
            return self.wanted(query)
        return self._of_uses(query, name, node)

    def _stored(self, insert: exp.Insert, place: int, name: str) -> pa.DataType | None:
        """The type of the column into which INSERT, also that of MERGE, puts the value at a place."""
        target = insert.this
        if isinstance(insert.parent, exp.When):
            merge = insert.find_ancestor(exp.Merge)
            table = merge.this if merge is not None else None
            listed = target.expressions if isinstance(target, exp.Tuple) else []
        else:
            table = target.this if isinstance(target, exp.Schema) else target
            listed = target.expressions if isinstance(target, exp.Schema) else []
        if not isinstance(table, exp.Table):
            return None
        columns = self.types.columns(tuple(part.name for part in table.parts if part.name))
        if not listed and insert.args.get("by_name"):
            listed = [exp.to_identifier(name, quoted=True)]
            place = 0
        if listed:
            wanted = listed[place].name.lower() if place < len(listed) else None
            return next((self.types.output(c) for c in columns if c.name == wanted), None)
        return self.types.output(columns[place]) if place < len(columns) else None

    def _of_uses(self, relation: exp.Expr, name: str, node: exp.Expr) -> pa.DataType | None:
        """What is wanted of the column of a subquery or CTE where other parts of the statement use it."""
        if self._columns is None:
            self._columns = {}
            for column in self._tree.find_all(exp.Column):
                self._columns.setdefault(column.name.lower(), []).append(column)
        holder = relation.parent if isinstance(relation.parent, exp.Subquery | exp.CTE) else relation
        alias = holder.args.get("alias")
        if isinstance(alias, exp.TableAlias) and alias.columns:
            place = next((i for i, o in enumerate(self.types.outputs(relation)) if _gives(o, node)), None)
            if place is not None and place < len(alias.columns):
                name = alias.columns[place].name.lower()
        for column in self._columns.get(name, [])[:_MAX_USES]:
            found = self.types.resolve(column)
            if found is not None and not found[1] and _gives(found[0], node):
                kind = self.wanted(column)
                if kind is not None:
                    return kind
        return None


# Functions whose result has the type of their argument.
_KEEPING = frozenset("abs min max any_value first last sum round".split())


def _other(parent: exp.Expr, node: exp.Expr) -> exp.Expr | None:
    other = parent.args.get("expression") if node is parent.this else parent.this
    return other if isinstance(other, exp.Expr) else None


def _search_argument(place: int) -> pa.DataType:
    return pa.int64() if place < len(PLACES) and PLACES[place] in ("k", "ef") else _STRING


def _place(items: list[exp.Expr], node: exp.Expr) -> int:
    return next((i for i, item in enumerate(items) if item is node), len(items))


def _gives(output: Output, node: exp.Expr) -> bool:
    return any(source is node for source in output.sources)


def _is_wrapped(subquery: exp.Expr) -> bool:
    """Whether a query stands in parentheses of its own: as part of UNION, INSERT or another such pair."""
    return isinstance(subquery.parent, exp.SetOperation | exp.Insert | exp.Subquery | exp.CTE)


_Rule = Callable[[_Surroundings, exp.Expr, exp.Expr], pa.DataType | None]
_RULES: dict[type, _Rule] = {
    **dict.fromkeys(
        (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ),
        _Surroundings.compared,
    ),
    **dict.fromkeys(
        (exp.Connector, exp.Not, exp.Where, exp.Having, exp.Qualify, exp.When), _Surroundings.condition
    ),
    **dict.fromkeys(
        (
            exp.Like,
            exp.ILike,
            exp.SimilarTo,
            exp.Glob,
            exp.Escape,
            exp.RegexpLike,
            exp.StartsWith,
            exp.Substring,
            exp.Trim,
            exp.Overlay,
            exp.StrPosition,
            exp.Collate,
            exp.JSONExtract,
            exp.JSONExtractScalar,
        ),
        _Surroundings.text,
    ),
    **dict.fromkeys(
        (exp.Limit, exp.Offset, exp.Fetch, exp.Slice, exp.WindowSpec, exp.Interval), _Surroundings.whole
    ),
    **dict.fromkeys((exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor, exp.BitwiseNot), _Surroundings.bits),
    **dict.fromkeys((exp.BitwiseLeftShift, exp.BitwiseRightShift), _Surroundings.bits),
    **dict.fromkeys((exp.Paren, exp.Order, exp.Filter, exp.Window, exp.IgnoreNulls), _Surroundings.same),
    **dict.fromkeys((exp.Case, exp.If), _Surroundings.branch),
    **dict.fromkeys((exp.Neg, exp.Abs), _Surroundings.signed),
    **dict.fromkeys(arithmetic.OPERATORS, _Surroundings.operand),
    **dict.fromkeys((exp.Any, exp.All), _Surroundings.quantified),
    exp.Between: _Surroundings.between,
    exp.In: _Surroundings.member,
    exp.Is: _Surroundings.tested,
    exp.Join: _Surroundings.joined,
    exp.Merge: _Surroundings.joined,
    exp.Alias: _Surroundings.aliased,
    exp.Cast: _Surroundings.cast,
    exp.DPipe: _Surroundings.joined_text,
    exp.Anonymous: _Surroundings.argument,
    exp.PropertyEQ: _Surroundings.named_argument,
    exp.Kwarg: _Surroundings.named_argument,
    exp.Distinct: _Surroundings.distinct,
    exp.Bracket: _Surroundings.subscript,
    exp.Array: _Surroundings.item,
    exp.AtTimeZone: _Surroundings.zoned,
    exp.Extract: _Surroundings.moment,
    exp.HistoricalData: _Surroundings.version,
    exp.Tuple: _Surroundings.wanted_in_row,
    exp.Values: _Surroundings.value,
    exp.Select: _Surroundings.projected,
}
