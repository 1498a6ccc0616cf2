"""Texts of statements: their words, where names stand in them, and other names put in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from lakehouse.errors import NotSupported

NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
"""A name as written, for regular expressions."""

PATH = rf"{NAME}(?:\s*\.\s*{NAME})*"
"""A name of one or more parts as written, for regular expressions."""

# One token of a text, blanks and comments apart; a nested comment is read on from its first two characters.
_TOKEN = re.compile(
    r"(?P<blank>\s+|--[^\n]*)|(?P<comment>/\*)"
    r"""|(?P<name>"(?:[^"]|"")*"|(?![eE]')[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)"""
    r"""|(?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(?P<tag>\$\w*\$).*?(?P=tag))"""
    r"|(?P<number>\d[\w.]*)|(?P<sign>::|=>|:=|.)",
    re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_CREATE = re.compile(
    rf"(?P<head>CREATE\s+(?:OR\s+REPLACE\s+)?(?:TABLE|VIEW)\s+(?:IF\s+NOT\s+EXISTS\s+)?){PATH}",
    re.IGNORECASE,
)
# DuckDB reads each of these as one blank, and counts places in the text after that.
_WIDE_BLANK = re.compile("[\u00a0\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff]")
_QUOTED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|"(?:[^"]|"")*"|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(\$\w*\$).*?\1""", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, string, number or sign of a text, with its place; ``kind`` is a group of the scanner."""

    text: str
    kind: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """An unquoted name in upper case; empty for everything else."""
        return self.text.upper() if self.kind == "name" and not self.text.startswith('"') else ""

    @property
    def name(self) -> str:
        """What a name or a string stands for, without its quotes."""
        if self.text[:1] in ('"', "'"):
            quote_char = self.text[0]
            return self.text[1:-1].replace(quote_char * 2, quote_char)
        return self.text


def scan(text: str) -> Iterator[Token]:
    """The tokens of a text without blanks and comments."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None
        kind, position = str(match.lastgroup), match.end()
        if kind == "comment":
            position = _comment_end(text, position)
        elif kind != "blank":
            yield Token(match[0], "string" if kind == "tag" else kind, match.start(), position)


def _comment_end(text: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def words(text: str) -> list[Token]:
    """The tokens of a statement as DuckDB's own scanner divides it; places count in UTF-8 bytes."""
    raw = text.encode()
    starts = [start for start, _ in duckdb.tokenize(text)]
    found = []
    for start, end in zip(starts, [*starts[1:], len(raw)], strict=True):
        piece = raw[start:end].decode(errors="replace").rstrip()
        if not piece or piece.startswith(("--", "/*")):
            continue
        is_name = piece[0] in '"_' or piece[0].isalpha() or piece[0] >= "\x80"
        kind = "string" if piece.endswith("'") else "name" if is_name else "sign"
        found.append(Token(piece, kind, start, start + len(piece.encode())))
    return found


def outer_words(tokens: Sequence[Token]) -> list[str]:
    """For each token its word in upper case, or nothing where it is within brackets or no word."""
    found, depth = [], 0
    for token in tokens:
        depth += token.text in ("(", "[", "{")
        found.append("" if depth else token.word)
        depth -= token.text in (")", "]", "}")
    return found


def read_path(tokens: Sequence[Token], first: int) -> tuple[tuple[str, ...], int]:
    """The parts of a name that begins at a token, and the index of the token after it."""
    parts: list[str] = []
    while first < len(tokens) and tokens[first].kind == "name":
        parts.append(tokens[first].name)
        if first + 1 >= len(tokens) or tokens[first + 1].text != ".":
            return tuple(parts), first + 1
        first += 2
    return (), first


def statement_start(text: str) -> int:
    """Where the first token of a text begins, after blanks and comments."""
    position = 0
    while (match := _TOKEN.match(text, position)) is not None and match.lastgroup in ("blank", "comment"):
        position = match.end() if match.lastgroup == "blank" else _comment_end(text, match.end())
    return position


def plain_blanks(text: str) -> str:
    """The text with wide blanks outside quotes made plain, as DuckDB reads them.

    Otherwise every place that DuckDB tells would be off by the bytes it saved.
    """
    if not has_wide_blanks(text):
        return text
    parts, position = [], 0
    for match in _QUOTED.finditer(text):
        is_comment = match[0].startswith(("--", "/*"))
        parts.append(_WIDE_BLANK.sub(" ", text[position : match.start()]))
        parts.append(_WIDE_BLANK.sub(" ", match[0]) if is_comment else match[0])
        position = match.end()
    parts.append(_WIDE_BLANK.sub(" ", text[position:]))
    return "".join(parts)


def has_wide_blanks(text: str) -> bool:
    """Whether DuckDB might count places in this text otherwise than its bytes."""
    return not text.isascii() and _WIDE_BLANK.search(text) is not None


def without_wide_blanks(text: str) -> str:
    """The text with every wide blank made a word of as many bytes, which cannot shift places."""
    return _WIDE_BLANK.sub(lambda match: "x" * len(match[0].encode()), text)


@dataclass(frozen=True, slots=True)
class ReferenceText:
    """The text of a table reference taken apart: where its name stands, and its AT clause."""

    name: tuple[int, int]
    path: tuple[str, ...]
    clause: tuple[int, int] | None = None
    expression: str = ""


def read_reference(text: str) -> ReferenceText | None:
    """Take apart ``[alias :] name [AS] alias (columns) AT (…) TABLESAMPLE …``; ``None`` if it is not one."""
    tokens = list(scan(text))
    first = 2 if len(tokens) > 2 and tokens[1].text == ":" else 0
    last = first
    while last + 2 < len(tokens) and tokens[last + 1].text == ".":
        last += 2
    named = tokens[first : last + 1 : 2]
    if not named or any(token.kind not in ("name", "string") for token in named):
        return None
    place, path = (named[0].start, named[-1].end), tuple(token.name for token in named)
    for index in range(last + 1, len(tokens) - 4):
        at, bracket, unit, arrow = tokens[index : index + 4]
        if at.word == "AT" and bracket.text == "(" and unit.kind == "name" and arrow.text == "=>":
            closing = closing_bracket(tokens, index + 1)
            expression = text[tokens[index + 4].start : tokens[closing - 1].end]
            return ReferenceText(place, path, (at.start, tokens[closing].end), expression)
    return ReferenceText(place, path)


def closing_bracket(tokens: Sequence[Token], opening: int) -> int:
    """The index of the token that closes the bracket at ``opening``; the last one where nothing does."""
    depth = 0
    for index in range(opening, len(tokens)):
        if tokens[index].text in ("(", "[", "{"):
            depth += 1
        elif tokens[index].text in (")", "]", "}"):
            depth -= 1
            if depth == 0:
                return index
    return len(tokens) - 1


def rewrite_reference(text: str, view: str, table: str, has_alias: bool) -> str:
    """The text of a table reference with its name replaced by a view and its AT clause taken out.

    Args:
        text: The reference as written.
        view: The quoted full name to put in place of the table's.
        table: The name by which the rest of the statement knows the table, unless there is an alias.
        has_alias: Whether the reference has one.

    Raises:
        NotSupported: The text is not that of a reference.
    """
    found = read_reference(text)
    if found is None:
        raise NotSupported(f"{table} cannot be read in this kind of statement here", "write SELECT … FROM it")
    start, end = found.name
    rest = text[end:]
    if found.clause is not None:
        opening, closing = found.clause
        rest = text[end:opening].rstrip() + " " + text[closing:].lstrip()
    alias = "" if has_alias else " AS " + '"' + table.replace('"', '""') + '"'
    return f"{text[:start]}{view}{alias}{rest}"


def qualifiers(text: str, catalog: str, schema: str, table: str) -> Iterator[tuple[int, int]]:
    """The places, in UTF-8 bytes, where columns are written with ``[catalog.]schema.table`` before them."""
    wanted = [part.lower() for part in (catalog, schema, table)]
    tokens = words(text)
    index = 0
    while index < len(tokens):
        first, index = index, index + 1
        if tokens[first].kind != "name":
            continue
        while index + 1 < len(tokens) and tokens[index].text == "." and tokens[index + 1].kind == "name":
            index += 2
        names = [token.name.lower() for token in tokens[first:index:2]]
        for parts in (wanted, wanted[1:]):
            if names[: len(parts)] == parts and len(names) > len(parts):
                yield tokens[first].start, tokens[first + 2 * len(parts) - 2].end
                break


def retarget(create: str, target: str) -> str:
    """The text of CREATE TABLE or CREATE VIEW with the name of what is created replaced."""
    head = _CREATE.match(create)
    return create if head is None else f"{head['head']}{target}{create[head.end() :]}"


class Edited:
    """A text after some replacements, with the way back from places in it to places in the original.

    Args:
        text: The original.
        edits: Start and end of what is replaced, in UTF-8 bytes, and by what; they do not overlap.
    """

    def __init__(self, text: str, edits: Sequence[tuple[int, int, str]]) -> None:
        raw, self._moves, moved = text.encode(), [], 0
        parts, position = [], 0
        for start, end, replacement in sorted(edits):
            new = replacement.encode()
            parts += [raw[position:start], new]
            position = end
            moved += len(new) - (end - start)
            self._moves.append((start, end + moved, moved))
        self.text = b"".join([*parts, raw[position:]]).decode()

    def original(self, place: int) -> int:
        """The place in the original of a place outside the replacements."""
        shift = 0
        for _, end, moved in self._moves:
            if place >= end:
                shift = moved
        return place - shift


_SHOWING = frozenset({"DESCRIBE", "DESC", "SUMMARIZE", "SHOW"})
_AFTER_TABLE = frozenset({"", "UNION", "INTERSECT", "EXCEPT", "ORDER", "LIMIT", "OFFSET", "FETCH"})


def with_from_clauses(text: str) -> str:
    """The statement with ``TABLE t``, ``DESCRIBE t`` and their like written with FROM.

    DuckDB does not tell where the name stands in the short forms. What comes out has to be compared.
    """
    tokens, edits, index = words(text), [], 0
    while index < len(tokens) - 1:
        word, first = tokens[index].word, index + 1
        if word in _SHOWING and tokens[first].word == "TABLE" and first + 1 < len(tokens):
            first += 1
        index += 1
        if word != "TABLE" and word not in _SHOWING:
            continue
        last = first
        while last + 2 < len(tokens) and tokens[last + 1].text == ".":
            last += 2
        after = tokens[last + 1] if last + 1 < len(tokens) else None
        if tokens[last].kind == "sign" or (after is not None and not _ends_table(after)):
            continue
        verb = {"TABLE": "FROM", "SHOW": "DESCRIBE FROM"}.get(word, f"{word} FROM")
        edits.append((tokens[index - 1].start, tokens[first].start, f"{verb} "))
        index = last + 1
    return Edited(text, edits).text


def _ends_table(token: Token) -> bool:
    return token.text in (")", ";") or (token.kind == "name" and token.word in _AFTER_TABLE - {""})


_PIVOT_ENDS = frozenset("USING GROUP ORDER LIMIT OFFSET UNION EXCEPT INTERSECT".split())


def with_pivot_values(text: str) -> Edited:
    """The statement with ``IN (NULL)`` given to each column that PIVOT takes its values from at run time.

    DuckDB runs such a statement as two, and gives no tree of it.
    """
    tokens = words(text)
    edits: list[tuple[int, int, str]] = []
    for index, token in enumerate(tokens):
        if token.word in ("PIVOT", "PIVOT_WIDER"):
            items = _pivot_items(tokens, index)
            edits += [(item[0].start, item[0].start, "(") for item in items]
            edits += [(item[-1].end, item[-1].end, ") IN (NULL)") for item in items]
    return Edited(text, edits)


def _pivot_items(tokens: Sequence[Token], pivot: int) -> list[list[Token]]:
    """The expressions after ON of a PIVOT statement that have no list of values."""
    depth, listed, items = 0, False, [[]]  # type: tuple[int, bool, list[list[Token]]]
    found = False
    for token in tokens[pivot + 1 :]:
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth < 0 or token.text == ";" or (depth == 0 and token.word in _PIVOT_ENDS):
            break
        if depth == 0 and token.word == "ON":
            found, items, listed = True, [[]], False
        elif depth == 0 and token.text == ",":
            if listed:
                items.pop()
            items.append([])
            listed = False
        else:
            listed = listed or (depth == 0 and token.word == "IN")
            items[-1].append(token)
    if listed:
        items.pop()
    return [item for item in items if item] if found else []
