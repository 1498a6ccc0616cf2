"""The text of a statement as a journal may keep it.

DuckDB's own tokenizer says where literals begin and end. It takes any text; what it does not split as the
parser would (a backtick swallows the rest of the text) is refused as a whole rather than kept by mistake.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import duckdb

UNPARSABLE = "[unparsable]"
"""Stands for a text of which it is not clear what is a literal in it."""

_LITERAL = "?"
_CACHED_CHARACTERS = 4000
# Whoever writes one of these into a statement may be writing the secret itself next to it.
_SECRET = re.compile(
    r"passw|passphrase|secret|token|credential|api.?key|(access|private|account).?key|authorization|bearer"
    r"|signature|\bpwd|\bpin\b|connection.?string|dsn\b|-----begin|akia[0-9a-z]{12}|eyj[0-9a-z_-]{10}"
    r"|gh[pousr]_[0-9a-z]|github_pat|xox[abps]-|\bsk[-_]|://[^/\s]*@",
    re.IGNORECASE,
)
# Parts of the above, one of which is in every text that it finds: most texts are done with sooner this way.
_SUSPICIOUS = tuple(
    "pass secret token credential key authorization bearer signature pwd pin connection dsn begin akia eyj "
    "gh github xox sk- sk_ ://".split()
)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_WORD = re.compile(r"[^\s'\"`\\]+")
_OPERATOR = re.compile(r"[^\w\s'\"`\\]+")
_ASSIGNS = re.compile(r"=|=>|:=|:|to|is|by|as", re.IGNORECASE)
_TYPE = duckdb.token_type
_LITERALS = (_TYPE.string_const, _TYPE.numeric_const)


class _Token(NamedTuple):
    kind: duckdb.token_type
    word: str
    space: str


def statement_text(sql: str, redact_literals: bool) -> str:
    """A statement's text without what may be a secret.

    Where a word suggests that there is one, every literal, comment and quoted name is left out, and whatever
    is assigned to that word; otherwise the text stays as it is.

    Args:
        sql: The text, whole or cut off.
        redact_literals: Leave out every literal and comment in any case.

    Returns:
        The text with ``?`` for what was left out, or ``[unparsable]``.
    """
    if len(sql) > _CACHED_CHARACTERS:
        return _text(sql, redact_literals)
    return _cached_text(sql, redact_literals)


def _text(sql: str, redact_literals: bool) -> str:
    has_secret = _names_secret(sql)
    if not (has_secret or redact_literals):
        return sql
    try:
        return _redacted(_tokens(sql), has_secret)
    except (ValueError, duckdb.Error):
        return UNPARSABLE


# The same texts come again and again, from dashboards above all.
_cached_text = lru_cache(maxsize=1024)(_text)


def _names_secret(text: str) -> bool:
    folded = text.lower()
    return any(part in folded for part in _SUSPICIOUS) and _SECRET.search(text) is not None


def _tokens(sql: str) -> list[_Token]:
    """The tokens that make up the whole text.

    Raises:
        ValueError: Something in it is no token.
    """
    data = sql.encode("utf-8", "replace")
    found = duckdb.tokenize(data.decode())
    starts = [start for start, _ in found] + [len(data)]
    if data[: starts[0]].strip():
        raise ValueError("the text begins with something that is no token")
    tokens: list[_Token] = []
    for (start, found_kind), end in zip(found, starts[1:], strict=True):
        piece = data[start:end].decode()
        word = piece.rstrip()
        # The tokenizer calls the dot of a.b a number.
        kind = _TYPE.operator if word == "." else found_kind
        if kind not in (*_LITERALS, _TYPE.comment):
            shape = _OPERATOR if kind == _TYPE.operator else _WORD
            if not shape.fullmatch(word) and not (kind == _TYPE.identifier and _QUOTED.fullmatch(word)):
                raise ValueError("the tokenizer took something for a name or an operator that is none")
        tokens.append(_Token(kind, word, piece[len(word) :]))
    return tokens


def _redacted(tokens: list[_Token], has_secret: bool) -> str:
    kept: list[str] = []
    before = _Token(_TYPE.operator, "", " ")
    names_secret = assigns_secret = False
    for token in tokens:
        if token.kind == _TYPE.comment:
            kept.append(" ")
            continue
        word = token.word
        if _continues_number(before, token):
            word = ""
        elif _is_literal(before, token) or (has_secret and (assigns_secret or word.startswith('"'))):
            word = _LITERAL
        kept.append(word + token.space)
        assigns_secret = names_secret and _ASSIGNS.fullmatch(token.word) is not None
        names_secret = assigns_secret or _names_secret(token.word)
        before = token
    return "".join(kept)


def _continues_number(before: _Token, token: _Token) -> bool:
    """Whether a token is the rest of a number: ``0x1F`` comes as ``0`` and ``x1F``."""
    glued = before.kind == _TYPE.numeric_const and not before.space
    return glued and token.kind in (_TYPE.identifier, _TYPE.keyword)


def _is_literal(before: _Token, token: _Token) -> bool:
    is_number_of_parameter = token.word.isdigit() and before.word in ("$", "?") and not before.space
    return token.kind in _LITERALS and not is_number_of_parameter
