"""Texts of statements: where names stand in them, and putting other names in their place."""

from __future__ import annotations

import re

NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
"""A name as written, for regular expressions."""

PATH = rf"{NAME}(?:\s*\.\s*{NAME})*"
"""A name of one or more parts as written, for regular expressions."""

_CREATE = re.compile(
    rf"(?P<head>CREATE\s+(?:OR\s+REPLACE\s+)?(?:TABLE|VIEW)\s+(?:IF\s+NOT\s+EXISTS\s+)?){PATH}",
    re.IGNORECASE,
)
_AT = re.compile(r"\bAT\s*\(\s*(VERSION|TIMESTAMP)\s*=>", re.IGNORECASE)


def at_clause(text: str) -> tuple[tuple[int, int], str] | None:
    """The place of ``AT (… => expression)`` in the text of a table reference, and the expression."""
    match = _AT.search(text)
    if match is None:
        return None
    depth, quote_char, position = 1, "", match.end()
    while position < len(text):
        char = text[position]
        if quote_char:
            quote_char = "" if char == quote_char else quote_char
        elif char in "'\"":
            quote_char = char
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return (match.start(), position + 1), text[match.end() : position].strip()
        position += 1
    return None


def rewrite_reference(text: str, view: str, table: str, has_alias: bool) -> str:
    """The text of a table reference with its name replaced by a view and its AT clause taken out."""
    clause = at_clause(text)
    if clause is not None:
        (start, end), _ = clause
        text = text[:start].rstrip() + " " + text[end:].lstrip()
    name = re.match(PATH, text)
    rest = text[name.end() :] if name else ""
    alias = "" if has_alias else " AS " + '"' + table.replace('"', '""') + '"'
    return f"{view}{alias}{rest}"


def retarget(create: str, target: str) -> str:
    """The text of CREATE TABLE or CREATE VIEW with the name of what is created replaced."""
    head = _CREATE.match(create)
    return create if head is None else f"{head['head']}{target}{create[head.end() :]}"
