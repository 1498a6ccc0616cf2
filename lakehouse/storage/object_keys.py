"""What the key of an object may be where clients choose it."""

from __future__ import annotations

import re
import unicodedata

from lakehouse.errors import InvalidRequest
from lakehouse.storage.bucket import Bucket

MOST_KEY_BYTES = 1024
_MOST_NAME_BYTES = 255
_SHOWN = 80
# What the writer of a directory calls files that are not finished; no listing shows them.
_UNFINISHED = re.compile(r"#\d+")


def check_key(bucket: Bucket, key: str) -> str:
    """A key as it is, if an object of the bucket can have it.

    Raises:
        InvalidRequest: It cannot; says why.
    """
    why = _objection(bucket, key)
    if why:
        shown = key if len(key) <= _SHOWN else key[:_SHOWN] + "…"
        raise InvalidRequest(
            f"'{shown}' cannot be the key of an object: {why}",
            "expected segments such as photos/2026/cat.jpg",
        )
    return key


def _objection(bucket: Bucket, key: str) -> str:
    if not key:
        return "it is empty"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in key):
        return "it has a control character or half a surrogate pair in it"
    if "\\" in key:
        return "it has a backslash in it, which some stores take for a slash"
    # A bucket may put something before every key of its own.
    if len(f"{bucket.key_prefix}{key}".encode()) > MOST_KEY_BYTES:
        return f"it is longer than {MOST_KEY_BYTES} bytes, what the bucket puts before it included"
    for segment in key.split("/"):
        if not segment:
            return "it has an empty segment: a slash at the beginning, at the end, or two together"
        if segment in (".", ".."):
            return f"it has the segment '{segment}'"
        if bucket.is_local and len(segment.encode()) > _MOST_NAME_BYTES:
            return f"a segment is longer than the {_MOST_NAME_BYTES} bytes that the name of a file may have"
    if bucket.is_local and _UNFINISHED.fullmatch("#" + key.rsplit("#", 1)[-1]) and "#" in key:
        return "it ends with # and a number, as what is not finished does in a directory"
    return ""
