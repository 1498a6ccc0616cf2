"""Statements that give names to queries and other names to tables: what they name and to what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lakehouse.engine.gate_text import Token, closing_bracket, read_path, words
from lakehouse.errors import InvalidRequest, NotSupported

_NAMING = re.compile(r"(?:ALTER|COMMENT)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rename:
    """``ALTER TABLE | VIEW [IF EXISTS] name RENAME TO new``; ``target`` is the new name as written."""

    path: tuple[str, ...]
    target: tuple[str, ...]
    is_view: bool
    if_exists: bool


@dataclass(frozen=True, slots=True)
class ViewComment:
    """``COMMENT ON VIEW name IS 'text'``; no text for NULL."""

    path: tuple[str, ...]
    text: str | None


def read_naming(text: str) -> Rename | ViewComment | None:
    """What a statement renames, or which view it describes; None for every other statement."""
    if not _NAMING.match(text):
        return None
    tokens = words(text)
    spelled = [token.word for token in tokens]
    if spelled[:3] == ["COMMENT", "ON", "VIEW"]:
        return _comment(tokens)
    if spelled[0] != "ALTER" or spelled[1:2] not in (["TABLE"], ["VIEW"]):
        return None
    if_exists = spelled[2:4] == ["IF", "EXISTS"]
    path, after = read_path(tokens, 4 if if_exists else 2)
    if not path or spelled[after : after + 2] != ["RENAME", "TO"]:
        return None
    target, end = read_path(tokens, after + 2)
    if not target or end != len(tokens):
        raise NotSupported("this form of RENAME is not supported", "ALTER TABLE name RENAME TO [schema.]name")
    return Rename(path, target, spelled[1] == "VIEW", if_exists)


def _comment(tokens: Sequence[Token]) -> ViewComment:
    path, after = read_path(tokens, 3)
    rest = tokens[after:]
    if not path or len(rest) != 2 or rest[0].word != "IS":
        raise NotSupported("this form of COMMENT is not supported", "COMMENT ON VIEW name IS 'text'")
    if rest[1].word == "NULL":
        return ViewComment(path, None)
    if not rest[1].text.startswith("'"):
        raise NotSupported("this form of COMMENT is not supported", "COMMENT ON VIEW name IS 'text'")
    return ViewComment(path, rest[1].name)


def read_columns(tokens: Sequence[Token], first: int) -> tuple[tuple[str, ...], int]:
    """The names in brackets that begin at a token, if any do, and the index of the token after them.

    Raises:
        InvalidRequest: Something else is in the brackets, or a name twice.
    """
    if first >= len(tokens) or tokens[first].text != "(":
        return (), first
    closing = closing_bracket(tokens, first)
    inner = tokens[first + 1 : closing]
    names, commas = inner[::2], inner[1::2]
    if len(inner) % 2 == 0 or any(t.kind != "name" for t in names) or any(t.text != "," for t in commas):
        raise InvalidRequest("expected the names of the view's columns in brackets")
    found = tuple(token.name for token in names)
    if len({name.lower() for name in found}) != len(found):
        raise InvalidRequest("the view has two columns of one name")
    return found, closing + 1
