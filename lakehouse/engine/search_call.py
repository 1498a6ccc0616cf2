"""``vector_search(…)`` as it stands in a statement: its arguments, and the text around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lakehouse.engine.gate_text import Token, closing_bracket, scan
from lakehouse.errors import InvalidRequest, NotSupported, SqlBindError
from lakehouse.types import quote

VECTOR_SEARCH = "vector_search"
"""The name of the function, in lower case."""

PLACES = ("index", "query", "k", "ef", "filter", "mode", "rerank")
"""The names of its arguments, in their order."""

_CAST = re.compile(r"\$(\w+)\s*::\s*(?:FLOAT|REAL|DOUBLE)\s*\[\d*\]", re.IGNORECASE)
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_FORM = (
    "vector_search('index', 'text or vector', k, ef := …, filter := '…', mode := 'hybrid', rerank := 'model')"
)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a search.

    Attributes:
        text: As written.
        value: What it is, where that is written out; then ``is_known``.
        parameter: The name of the parameter that it is, if it is one.
        is_cast: Whether that is cast to a list of numbers, which a list of numbers need not be.
    """

    text: str
    value: Any = None
    is_known: bool = False
    parameter: str = ""
    is_cast: bool = False


@dataclass(frozen=True, slots=True)
class SearchCall:
    """A call of ``vector_search`` in FROM.

    Attributes:
        index: The name of the index.
        arguments: The others, by their names.
        rest: The text after the call, up to the end of the reference: its alias.
    """

    index: str
    arguments: Mapping[str, Argument]
    rest: str

    def in_place(self, table: str) -> str:
        """The text of the reference, with a table in place of the call."""
        return table + (f" {self.rest}" if self.rest else f" AS {quote(VECTOR_SEARCH)}")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters in its arguments."""
        return tuple(name for each in self.arguments.values() for name in parameters_in(each.text))


def read_search(text: str, node: Mapping[str, Any]) -> SearchCall:
    """Take apart a call.

    Args:
        text: The whole reference as written: the call and its alias.
        node: Its tree.

    Raises:
        SqlBindError: An argument is missing, unknown, or there twice.
        InvalidRequest: The index is not named by a text.
        NotSupported: It stands in a form that is not offered.
    """
    tokens = list(scan(text))
    if tokens and tokens[0].word == "LATERAL":
        tokens = tokens[1:]
    if len(tokens) < 3 or tokens[0].name.lower() != VECTOR_SEARCH or tokens[1].text != "(":
        raise NotSupported(f"{VECTOR_SEARCH} is not supported in this place", f"write FROM {_FORM}")
    if node["with_ordinality"] != "WITHOUT_ORDINALITY":
        raise NotSupported(f"{VECTOR_SEARCH} has no ordinality", "its column rank says the same")
    closing = closing_bracket(tokens, 1)
    pieces = _split(tokens[2:closing])
    trees = node["function"]["arguments"]
    if len(pieces) != len(trees):
        raise NotSupported(f"{VECTOR_SEARCH} is not supported in this form", f"write FROM {_FORM}")
    found: dict[str, Argument] = {}
    for place, (piece, tree) in enumerate(zip(pieces, trees, strict=True)):
        name, argument = _argument(text, piece, tree, place)
        if name in found:
            raise SqlBindError(f"{VECTOR_SEARCH} is given {name} twice", _FORM)
        found[name] = argument
    for name in ("index", "query"):
        if name not in found:
            raise SqlBindError(f"{VECTOR_SEARCH} needs the argument {name}", _FORM)
    index = found.pop("index")
    if not isinstance(index.value, str):
        raise InvalidRequest(
            f"{VECTOR_SEARCH} takes the name of an index in single quotes, found {index.text}",
            "its columns have to be known before the statement runs",
        )
    return SearchCall(index.value, found, text[tokens[closing].end :].strip())


def numbered_marks(text: str) -> str:
    """A statement with ``$1``, ``$2`` … in place of its ``?``, so that some of them can be taken out."""
    parts: list[str] = []
    position = highest = 0
    tokens = list(scan(text))
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.text != "?":
            continue
        parts += [text[position : token.start], "$"]
        position = token.end
        if after is not None and after.kind == "number" and after.start == token.end:
            highest = max(highest, int(after.text) if after.text.isdecimal() else 0)
        else:
            highest += 1
            parts.append(str(highest))
    return "".join((*parts, text[position:]))


def parameters_in(text: str) -> tuple[str, ...]:
    """The names of the parameters ``$name`` in a text, each once."""
    tokens = list(scan(text))
    found = {
        after.name: None
        for token, after in pairwise(tokens)
        if token.text == "$" and after.kind in ("number", "name")
    }
    return tuple(found)


def _split(tokens: list[Token]) -> list[list[Token]]:
    """The tokens between brackets in pieces, at the commas that are not within further brackets."""
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if token.text == "," and not depth:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [] if pieces == [[]] else pieces


def _argument(text: str, piece: list[Token], tree: Mapping[str, Any], place: int) -> tuple[str, Argument]:
    name = str(tree["name"]).lower()
    if name:
        if name not in PLACES or len(piece) < 3 or piece[1].text not in (":=", "=>"):
            raise SqlBindError(f"{VECTOR_SEARCH} has no argument {name}", _FORM)
        piece = piece[2:]
    elif place >= len(PLACES) or not piece:
        raise SqlBindError(f"{VECTOR_SEARCH} takes at most {len(PLACES)} arguments", _FORM)
    written = text[piece[0].start : piece[-1].end]
    expression = tree["expression"]
    if expression["class"] == "PARAMETER":
        return name or PLACES[place], Argument(written, parameter=str(expression["identifier"]))
    cast = _CAST.fullmatch(written) if expression["class"] == "CAST" else None
    if cast is not None:
        return name or PLACES[place], Argument(written, parameter=cast[1], is_cast=True)
    try:
        return name or PLACES[place], Argument(written, _literal(expression), is_known=True)
    except _Computed:
        return name or PLACES[place], Argument(written)


class _Computed(Exception):
    """An expression is not a literal."""


def _literal(node: Mapping[str, Any]) -> Any:
    """What a literal stands for: a text, a number, NULL, or a list of numbers."""
    kind = node["class"]
    if kind == "CONSTANT" and "literal" in node:
        return _constant(node["literal"])
    if kind == "FUNCTION" and node["function_name"] in ("list_value", "-"):
        values = [_literal(each["expression"]) for each in node["arguments"]]
        if node["function_name"] == "list_value":
            return values
        if len(values) == 1 and isinstance(values[0], int | float):
            return -values[0]
    raise _Computed


def _constant(literal: Mapping[str, Any]) -> Any:
    kind, text = literal.get("kind"), literal.get("text")
    if kind == "STRING":
        return str(text)
    if kind == "NULL_LITERAL":
        return None
    try:
        if kind == "INTEGER":
            return int(str(text))
        if kind == "NUMERIC":
            return float(str(text))
    except ValueError:
        pass
    raise _Computed
