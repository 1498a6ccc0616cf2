"""Values of events as JSON texts, with their types kept as well as JSON can, and none of them endless."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

_MOST_CHARACTERS = 16_384
_MOST_DEPTH = 20


def json_text(value: Any, most_characters: int = _MOST_CHARACTERS) -> str:
    """A value as a JSON text.

    Numbers, texts and truth values stay what they are; decimals, times and intervals become texts, so that
    nothing of them is lost; of bytes there is their number and SHA-256. A text that is too long is an object
    with its beginning under ``beginning`` and its length under ``characters``.

    Args:
        value: Anything.
        most_characters: The longest text that is kept whole.
    """
    plain = _plain(value, 0)
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if len(text) <= most_characters:
        return text
    whole = plain if isinstance(plain, str) else text
    return json.dumps(
        {"beginning": whole[: most_characters // 2], "characters": len(whole)},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return _whole(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        content = bytes(value)
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta | Decimal):
        return str(value)
    if depth >= _MOST_DEPTH:
        return "…"
    return _nested(value, depth + 1)


def _whole(value: Any) -> Any:
    """Enumerations that are texts or numbers, too, as plain ones."""
    if isinstance(value, Enum):
        return _plain(value.value, 0)
    return value


def _nested(value: Any, depth: int) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, depth)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((_plain(item, depth) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(item, depth) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), depth) for f in fields(value)}
    return str(value)
