"""Names of schemas and tables, and the path segments that objects of them are kept under.

Names are looked up as DuckDB does it: the case of ASCII letters does not matter, that of all others does.
The segment is made from the folded name, so that two names that differ only by case compete for one and the
same object, and a create-only put decides between them.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote, unquote

from lakehouse.errors import InvalidRequest

_SAFE = "-"
# File systems allow 255 bytes in a segment; the store appends a few of its own while it writes.
_MAX_SEGMENT_BYTES = 200
_HASH_MARK = "~"
_LOWER = {ord(upper): upper.lower() for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def fold(name: str) -> str:
    """The form of a name that lookups compare: ASCII letters in lower case."""
    return name.lower() if name.isascii() else name.translate(_LOWER)


def check_name(name: str, what: str) -> str:
    """The name itself, if it can be one.

    Args:
        name: A name somebody chose.
        what: What it is to name: ``schema``, ``table`` or ``column``.

    Raises:
        InvalidRequest: It is empty or holds a character that no name can hold.
    """
    if not name:
        raise InvalidRequest(f"a {what} needs a name, found an empty one")
    if "\0" in name:
        raise InvalidRequest(f"the {what} name {name!r} contains a NUL character")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {what} name {name!r} is not valid Unicode") from None
    return name


def segment_of(name: str) -> str:
    """The path segment that a name's objects are kept under.

    ASCII letters, digits, ``-``, and within the name ``_`` and ``.`` stand for themselves, everything else
    is percent-encoded. A very long name is cut short and made unique by a hash, so it cannot be read back.
    """
    # quote() never encodes these three; first in a segment they would mark something hidden.
    encoded = quote(fold(name), safe=_SAFE).replace(_HASH_MARK, "%7E")
    if encoded[0] in "._":
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded) <= _MAX_SEGMENT_BYTES:
        return encoded
    digest = hashlib.sha256(fold(name).encode()).hexdigest()[:32]
    return encoded[: _MAX_SEGMENT_BYTES - 33].rsplit("%", 1)[0] + _HASH_MARK + digest


def name_of(segment: str) -> str | None:
    """The folded name that a path segment stands for; None where it cannot be told from the segment."""
    if _HASH_MARK in segment or not segment:
        return None
    name = unquote(segment)
    return name if segment_of_is(name, segment) else None


def segment_of_is(name: str, segment: str) -> bool:
    """Whether ``segment`` is the one that ``name`` is kept under."""
    return bool(name) and segment_of(name) == segment
