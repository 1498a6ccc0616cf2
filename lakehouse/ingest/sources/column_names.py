"""Names of columns that every SQL statement can hold without quotes, and that can be told apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lakehouse.catalog.names import fold

_MAX_LENGTH = 128
_UNSAFE = re.compile(r"[^0-9A-Za-z_]+")


def safe_names(names: Sequence[str]) -> list[str]:
    """A name for each column of a source, in its order; the source's own names are kept beside them.

    Letters stay as they are, accents are dropped (``Größe`` becomes ``Grosse``), everything else becomes
    ``_``. A name that begins with a digit gets a ``_`` before it, and one without any letter or digit becomes
    ``column_3``, by its place. Of names that are the same but for the case of letters, the first stays and
    the others get ``_2``, ``_3`` …, whatever is free. The same names always give the same result, and a name
    that is safe and not taken stays as it is.
    """
    wanted = [_safe(name, place) for place, name in enumerate(names, 1)]
    given: dict[int, str] = {}
    taken: set[str] = set()
    # A name that was fine from the beginning is not to lose it to one that is made up.
    for place, name in enumerate(names):
        if wanted[place] == name and fold(name) not in taken:
            given[place] = name
            taken.add(fold(name))
    for place in range(len(names)):
        if place not in given:
            name, number = wanted[place], 1
            while fold(name) in taken:
                number += 1
                name = f"{wanted[place]}_{number}"
            given[place] = name
            taken.add(fold(name))
    return [given[place] for place in range(len(names))]


def _safe(name: str, place: int) -> str:
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    safe = _UNSAFE.sub("_", plain.strip())
    if safe != name:
        safe = safe.strip("_") or f"column_{place}"
    if not any(letter.isalnum() for letter in safe):
        safe = f"column_{place}"
    if safe[0].isdigit():
        safe = f"_{safe}"
    return safe[:_MAX_LENGTH]
