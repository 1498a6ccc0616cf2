"""The text of a query as lineage may keep it: what it reads, without the values that stand in it."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<name>"(?:[^"]|"")*")
    | (?P<comment>--[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/|\Z))
    | (?P<escaped>\b[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z))
    | (?P<text>(?:\b[uU]&|\b[bBxXnN])?'(?:[^']|'')*(?:'|\Z))
    | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
    """,
    re.VERBOSE | re.DOTALL,
)
_DATE = re.compile(r"'\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?'\Z")
_MAX_LENGTH = 10_000


def redacted(query: str) -> str:
    """The query without comments, and with ``'…'`` for each text in it that is no date.

    A text may be a password, a key or somebody's name; which of them it is cannot be told.
    """
    shown = _TOKEN.sub(_shown, query)
    shown = " ".join(shown.split())
    return shown if len(shown) <= _MAX_LENGTH else f"{shown[:_MAX_LENGTH]} …"


def _shown(found: re.Match[str]) -> str:
    if found["name"]:
        return found[0]
    if found["comment"]:
        return " "
    return found[0] if _DATE.match(found[0]) else "'…'"
