"""CREATE TABLE, ALTER TABLE and COMMENT ON, taken apart by their words.

DuckDB parses these statements before they come here, so that their syntax is right; it has no tree of them.
What is to be run of their text later, which is types and default values, must pass the gate like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lakehouse.catalog.table_definition import TRANSFORMS, SortTerm, Term
from lakehouse.engine.gate_functions import check_calls
from lakehouse.engine.gate_text import Token, closing_bracket, has_wide_blanks, outer_words, read_path
from lakehouse.errors import NotSupported, SqlSyntaxError

_PLURALS = {f"{unit}s": unit for unit in ("year", "month", "day", "hour")}
_TABLE_CONSTRAINTS = frozenset({"CONSTRAINT", "PRIMARY", "FOREIGN", "UNIQUE", "CHECK"})
_LAYOUTS = (["PARTITIONED", "BY"], ["SORTED", "BY"])


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key as it is written."""

    name: str
    columns: tuple[str, ...]
    table: tuple[str, ...]
    ref_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table is partitioned and sorted by; None where nothing is said about it."""

    partitioning: tuple[Term, ...] | None = None
    sorting: tuple[SortTerm, ...] | None = None


@dataclass(frozen=True, slots=True)
class CreateTable:
    """CREATE TABLE.

    ``columns`` are their definitions as DuckDB shall read them, without foreign keys; ``names`` those given
    to the columns of a query. ``query`` is where it stands in the text, in UTF-8 bytes.
    """

    target: tuple[str, ...]
    replaces: bool = False
    if_not_exists: bool = False
    columns: str = ""
    names: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    layout: Layout = field(default_factory=Layout)
    query: tuple[int, int] | None = None
    with_data: bool = True


@dataclass(frozen=True, slots=True)
class AddColumn:
    """ADD COLUMN; ``definition`` is what stands after the name."""

    path: tuple[str, ...]
    definition: str
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class DropColumn:
    """DROP COLUMN."""

    path: tuple[str, ...]
    if_exists: bool


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """RENAME COLUMN."""

    path: tuple[str, ...]
    name: str


@dataclass(frozen=True, slots=True)
class RetypeColumn:
    """ALTER COLUMN … TYPE; ``definition`` is the type."""

    path: tuple[str, ...]
    definition: str


@dataclass(frozen=True, slots=True)
class RequireColumn:
    """ALTER COLUMN … SET NOT NULL, DROP NOT NULL."""

    path: tuple[str, ...]
    required: bool


@dataclass(frozen=True, slots=True)
class DefaultColumn:
    """ALTER COLUMN … SET DEFAULT, DROP DEFAULT."""

    path: tuple[str, ...]
    expression: str | None


@dataclass(frozen=True, slots=True)
class SetLayout:
    """SET or RESET PARTITIONED BY, SORTED BY."""

    layout: Layout


@dataclass(frozen=True, slots=True)
class AddKey:
    """ADD PRIMARY KEY, or ADD FOREIGN KEY where ``reference`` is given."""

    columns: tuple[str, ...]
    reference: Reference | None = None


Action = (
    AddColumn | DropColumn | RenameColumn | RetypeColumn | RequireColumn | DefaultColumn | SetLayout | AddKey
)


@dataclass(frozen=True, slots=True)
class AlterTable:
    """ALTER TABLE with its one action."""

    target: tuple[str, ...]
    if_exists: bool
    action: Action


@dataclass(frozen=True, slots=True)
class Comment:
    """COMMENT ON TABLE, or on the column named; ``text`` is an SQL literal, None for NULL."""

    target: tuple[str, ...]
    column: str | None
    text: str | None


def check_readable(text: str) -> None:
    """Refuse a text in which DuckDB may count places otherwise than its bytes.

    Raises:
        NotSupported: It holds such characters.
    """
    if has_wide_blanks(text):
        raise NotSupported("names and values with such blanks cannot be used in this statement")


def create_parts(tokens: Sequence[Token]) -> tuple[bool, bool, str, int, bool]:
    """Of CREATE: OR REPLACE, temporary, the kind of thing, the index of its name, and IF NOT EXISTS."""
    replaces = [t.word for t in tokens[1:3]] == ["OR", "REPLACE"]
    index = 3 if replaces else 1
    index += _word(tokens, index) == "LOCAL"
    temporary = _word(tokens, index) in ("TEMP", "TEMPORARY")
    index += temporary
    what, index = _word(tokens, index), index + 1
    exists = [t.word for t in tokens[index : index + 3]] == ["IF", "NOT", "EXISTS"]
    return replaces, temporary, what, index + 3 * exists, exists


def layout_places(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """First and last token of each PARTITIONED BY and SORTED BY of CREATE TABLE."""
    _, after = read_path(tokens, create_parts(tokens)[3])
    if after < len(tokens) and tokens[after].text == "(":
        after = closing_bracket(tokens, after) + 1
    found = []
    while [t.word for t in tokens[after : after + 2]] in _LAYOUTS and _text(tokens, after + 2) == "(":
        closing = closing_bracket(tokens, after + 2)
        found.append((after, closing))
        after = closing + 1
    return found


def read_create(text: str, tokens: Sequence[Token]) -> CreateTable:
    """Take CREATE TABLE apart.

    Raises:
        NotSupported, SqlSyntaxError: It has a form that is not offered.
        StatementForbidden: A function in it is not allowed.
    """
    replaces, _, _, index, exists = create_parts(tokens)
    target, after = read_path(tokens, index)
    if not target:
        raise NotSupported("this form of CREATE TABLE is not supported")
    bracket: tuple[int, int] | None = None
    if _text(tokens, after) == "(":
        bracket = (after, closing_bracket(tokens, after))
        after = bracket[1] + 1
    layout = Layout()
    for first, last in layout_places(tokens):
        layout = _with_layout(layout, tokens, first)
        after = last + 1
    if after < len(tokens):
        if _word(tokens, after) != "AS" or after + 1 >= len(tokens):
            raise NotSupported(
                f"{tokens[after].text} is not supported in CREATE TABLE",
                "there are columns, PARTITIONED BY, SORTED BY and AS",
            )
        names = _names(tokens, bracket[0]) if bracket else ()
        return _of_query(
            text, tokens, after + 1, CreateTable(target, replaces, exists, "", names, (), layout)
        )
    if bracket is None:
        raise SqlSyntaxError("CREATE TABLE needs columns, or AS with a query")
    columns, references = _columns(text, tokens[bracket[0] + 1 : bracket[1]])
    return CreateTable(target, replaces, exists, columns, (), references, layout)


def read_alter(text: str, tokens: Sequence[Token]) -> AlterTable:
    """Take ALTER TABLE apart.

    Raises:
        NotSupported, SqlSyntaxError: It has a form that is not offered.
        StatementForbidden: A function in it is not allowed.
    """
    if _word(tokens, 1) != "TABLE":
        raise NotSupported(f"ALTER {_word(tokens, 1)} is not supported")
    exists = [t.word for t in tokens[2:4]] == ["IF", "EXISTS"]
    target, index = read_path(tokens, 4 if exists else 2)
    verb = _word(tokens, index)
    second = [t.word for t in tokens[index + 1 : index + 3]]
    if verb in ("SET", "RESET") and second in _LAYOUTS:
        empty = Layout((), None) if second[0] == "PARTITIONED" else Layout(None, ())
        layout = _with_layout(Layout(), tokens, index + 1) if verb == "SET" else empty
        return AlterTable(target, exists, SetLayout(layout))
    if verb == "RENAME" and second[:1] == ["TO"]:
        raise NotSupported("ALTER TABLE … RENAME TO is not supported")
    if verb == "ADD" and second and second[0] in _TABLE_CONSTRAINTS:
        return AlterTable(target, exists, _added_key(tokens[index + 1 :]))
    index += 2 if second[:1] == ["COLUMN"] else 1
    reader = {"ADD": _add, "DROP": _drop, "RENAME": _rename, "ALTER": _alter}.get(verb)
    if reader is None:
        raise NotSupported(f"ALTER TABLE … {verb} is not supported")
    return AlterTable(target, exists, reader(text, tokens, index))


def read_comment(tokens: Sequence[Token]) -> Comment:
    """Take COMMENT ON apart.

    Raises:
        NotSupported: It is about something that has no description.
    """
    what = _word(tokens, 2)
    path, after = read_path(tokens, 3)
    if what not in ("TABLE", "COLUMN") or _word(tokens, after) != "IS" or after + 2 != len(tokens):
        raise NotSupported(f"COMMENT ON {what} is not supported", "tables and columns can have one")
    if what == "COLUMN" and len(path) < 2:
        raise SqlSyntaxError("COMMENT ON COLUMN takes the column as table.column")
    text = None if _word(tokens, after + 1) == "NULL" else tokens[after + 1].text
    if what == "COLUMN":
        return Comment(path[:-1], path[-1], text)
    return Comment(path, None, text)


# -- CREATE --------------------------------------------------------------------------------------------


def _of_query(text: str, tokens: Sequence[Token], first: int, found: CreateTable) -> CreateTable:
    end, with_data = len(tokens), True
    if [t.word for t in tokens[-2:]] == ["WITH", "DATA"]:
        end -= 2
    elif [t.word for t in tokens[-3:]] == ["WITH", "NO", "DATA"]:
        end, with_data = end - 3, False
    stop = tokens[end].start if end < len(tokens) else len(text.encode())
    return CreateTable(
        found.target,
        found.replaces,
        found.if_not_exists,
        names=found.names,
        layout=found.layout,
        query=(tokens[first].start, stop),
        with_data=with_data,
    )


def _columns(text: str, tokens: Sequence[Token]) -> tuple[str, tuple[Reference, ...]]:
    """The definitions of columns without foreign keys, and these."""
    kept, references = [], []
    for item in _items(tokens):
        if not item:
            raise SqlSyntaxError("a column is missing between two commas")
        if item[0].word in _TABLE_CONSTRAINTS:
            named = item[0].word == "CONSTRAINT"
            if _word(item, 2 * named) == "FOREIGN":
                references.append(_foreign_key(item))
                continue
            kept.append(_source(text, item))
        else:
            definition, reference = _column(text, item)
            references += [reference] if reference else []
            kept.append(definition)
    if not kept:
        raise SqlSyntaxError("CREATE TABLE needs at least one column")
    return ", ".join(kept), tuple(references)


def _column(text: str, item: Sequence[Token]) -> tuple[str, Reference | None]:
    outer = outer_words(item)
    if "COLLATE" in outer:
        raise NotSupported(
            f"column {item[0].name} has a collation, which an Iceberg table cannot hold",
            "write COLLATE in the queries",
        )
    if "GENERATED" in outer or "AS" in outer:
        raise NotSupported(
            f"column {item[0].name} is generated, which an Iceberg table cannot hold",
            "compute it in the queries or in a view, or give it a DEFAULT",
        )
    if "REFERENCES" not in outer:
        return _source(text, item), None
    start = outer.index("REFERENCES")
    table, columns, end = _referenced(item, start)
    named = start >= 2 and outer[start - 2] == "CONSTRAINT"
    name = item[start - 1].name if named else ""
    before, after = item[: start - 2 * named], item[end:]
    definition = f"{_source(text, before)} {_source(text, after) if after else ''}"
    return definition, Reference(name, (item[0].name,), table, columns)


def _foreign_key(item: Sequence[Token]) -> Reference:
    named = item[0].word == "CONSTRAINT"
    name, index = (item[1].name, 2) if named else ("", 0)
    if [t.word for t in item[index : index + 2]] != ["FOREIGN", "KEY"] or _text(item, index + 2) != "(":
        raise NotSupported("this form of FOREIGN KEY is not supported")
    columns, closing = _names(item, index + 2), closing_bracket(item, index + 2)
    table, ref_columns, end = _referenced(item, closing + 1)
    if end < len(item):
        raise NotSupported(f"{item[end].text} is not supported after FOREIGN KEY")
    return Reference(name, columns, table, ref_columns)


def _referenced(item: Sequence[Token], index: int) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """The table and columns after REFERENCES, and the index of what follows."""
    table, after = read_path(item, index + 1)
    if _word(item, index) != "REFERENCES" or not table:
        raise NotSupported("this form of FOREIGN KEY is not supported")
    columns: tuple[str, ...] = ()
    if _text(item, after) == "(":
        columns, after = _names(item, after), closing_bracket(item, after) + 1
    if _word(item, after) in ("ON", "MATCH"):
        raise NotSupported(
            "foreign keys are declared and not enforced, so they take no actions",
            "leave out ON DELETE, ON UPDATE and MATCH",
        )
    return table, columns, after


# -- ALTER ---------------------------------------------------------------------------------------------


def _add(text: str, tokens: Sequence[Token], index: int) -> Action:
    exists = [t.word for t in tokens[index : index + 3]] == ["IF", "NOT", "EXISTS"]
    path, after = _path(tokens, index + 3 * exists)
    definition, reference = _column(text, tokens[after - 1 :])
    if reference is not None:
        raise NotSupported("a column cannot be added together with a foreign key", "ADD FOREIGN KEY after it")
    name = _source(text, tokens[after - 1 : after])
    return AddColumn(path, definition.removeprefix(name).strip(), exists)


def _drop(text: str, tokens: Sequence[Token], index: int) -> Action:
    exists = [t.word for t in tokens[index : index + 2]] == ["IF", "EXISTS"]
    path, after = _path(tokens, index + 2 * exists)
    if [t.word for t in tokens[after:]] not in ([], ["CASCADE"], ["RESTRICT"]):
        raise NotSupported("this form of DROP COLUMN is not supported")
    return DropColumn(path, exists)


def _rename(text: str, tokens: Sequence[Token], index: int) -> Action:
    path, after = _path(tokens, index)
    if _word(tokens, after) != "TO" or after + 2 != len(tokens):
        raise NotSupported("this form of RENAME COLUMN is not supported")
    return RenameColumn(path, tokens[after + 1].name)


def _alter(text: str, tokens: Sequence[Token], index: int) -> Action:
    path, after = _path(tokens, index)
    rest = [t.word for t in tokens[after:]]
    if rest in (["SET", "NOT", "NULL"], ["DROP", "NOT", "NULL"]):
        return RequireColumn(path, rest[0] == "SET")
    if rest == ["DROP", "DEFAULT"]:
        return DefaultColumn(path, None)
    if rest[:2] == ["SET", "DEFAULT"]:
        return DefaultColumn(path, _source(text, tokens[after + 2 :]))
    skipped = 3 if rest[:3] == ["SET", "DATA", "TYPE"] else 1 if rest[:1] == ["TYPE"] else 0
    if not skipped or len(rest) == skipped:
        raise NotSupported("this form of ALTER COLUMN is not supported")
    if "USING" in outer_words(tokens[after:]):
        raise NotSupported(
            "ALTER COLUMN … TYPE with USING is not supported: the values of a column stay what they are",
            "CREATE OR REPLACE TABLE … AS SELECT with a cast",
        )
    return RetypeColumn(path, _source(text, tokens[after + skipped :]))


def _added_key(item: Sequence[Token]) -> AddKey:
    named = item[0].word == "CONSTRAINT"
    index = 2 * named
    if _word(item, index) == "FOREIGN":
        reference = _foreign_key(item)
        return AddKey(reference.columns, reference)
    if [t.word for t in item[index : index + 2]] != ["PRIMARY", "KEY"]:
        raise NotSupported(
            f"{_word(item, index)} constraints cannot be kept by an Iceberg table",
            "there are NOT NULL, PRIMARY KEY and FOREIGN KEY",
        )
    return AddKey(_names(item, index + 2))


def _path(tokens: Sequence[Token], index: int) -> tuple[tuple[str, ...], int]:
    path, after = read_path(tokens, index)
    if not path:
        raise NotSupported("expected the name of a column")
    return path, after


# -- PARTITIONED BY, SORTED BY -------------------------------------------------------------------------


def _with_layout(layout: Layout, tokens: Sequence[Token], index: int) -> Layout:
    is_partitioning = tokens[index].word == "PARTITIONED"
    if (layout.partitioning if is_partitioning else layout.sorting) is not None:
        raise SqlSyntaxError(f"{tokens[index].word} BY is given twice")
    opening = index + 2
    if _text(tokens, opening) != "(":
        raise SqlSyntaxError(f"{tokens[index].word} BY takes columns in brackets")
    items = _items(tokens[opening + 1 : closing_bracket(tokens, opening)])
    if is_partitioning:
        return Layout(tuple(_term(item) for item in items), layout.sorting)
    return Layout(layout.partitioning, tuple(_sort_term(item) for item in items))


def _term(item: Sequence[Token]) -> Term:
    if len(item) == 1 and item[0].kind == "name":
        return Term(item[0].name)
    if len(item) < 4 or item[1].text != "(" or item[-1].text != ")":
        raise _no_term(item)
    transform = _PLURALS.get(item[0].name.lower(), item[0].name.lower())
    names = [t for t in item[2:-1] if t.kind == "name"]
    numbers = [t for t in item[2:-1] if t.text.isdecimal()]
    others = [t for t in item[2:-1] if t not in names and t not in numbers]
    if transform not in TRANSFORMS or len(names) != 1 or len(numbers) != len(others) or len(numbers) > 1:
        raise _no_term(item)
    number = int(numbers[0].text[:12]) if numbers else None
    return Term(names[0].name, transform, number)


def _sort_term(item: Sequence[Token]) -> SortTerm:
    rest = [t.word for t in item]
    nulls_first: bool | None = None
    if rest[-2:] in (["NULLS", "FIRST"], ["NULLS", "LAST"]):
        nulls_first, item = rest[-1] == "FIRST", item[:-2]
    descending = len(item) > 1 and item[-1].word == "DESC"
    if len(item) > 1 and item[-1].word in ("ASC", "DESC"):
        item = item[:-1]
    # As other engines that write Iceberg tables have it.
    return SortTerm(_term(item), descending, nulls_first if nulls_first is not None else not descending)


def _no_term(item: Sequence[Token]) -> NotSupported:
    return NotSupported(
        f"a table cannot be partitioned or sorted by {' '.join(t.text for t in item) or 'nothing'}",
        "by a column, bucket(n, column), truncate(n, column), year, month, day or hour(column)",
    )


# -- words ---------------------------------------------------------------------------------------------


def _items(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """What stands between the commas, those within brackets apart."""
    items: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if token.text == "," and depth == 0:
            items.append([])
        else:
            items[-1].append(token)
    return [list(item) for item in items]


def _names(tokens: Sequence[Token], opening: int) -> tuple[str, ...]:
    items = _items(tokens[opening + 1 : closing_bracket(tokens, opening)])
    if any(len(item) != 1 or item[0].kind != "name" for item in items):
        raise NotSupported("expected the names of columns in brackets")
    return tuple(item[0].name for item in items)


def _source(text: str, tokens: Sequence[Token]) -> str:
    """The text of some tokens, once the functions in it have been looked at."""
    check_calls(tokens)
    return text.encode()[tokens[0].start : tokens[-1].end].decode() if tokens else ""


def _word(tokens: Sequence[Token], index: int) -> str:
    return tokens[index].word if index < len(tokens) else ""


def _text(tokens: Sequence[Token], index: int) -> str:
    return tokens[index].text if index < len(tokens) else ""
