"""Names of columns that can be told apart when the case of letters does not count."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.catalog.names import fold


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with ``_2``, ``_3`` … behind those that are taken already."""
    taken = {fold(name) for name in names}
    seen: set[str] = set()
    found = []
    for name in names:
        chosen, number = name or "column", 1
        while fold(chosen) in seen or (number > 1 and fold(chosen) in taken):
            number += 1
            chosen = f"{name or 'column'}_{number}"
        seen.add(fold(chosen))
        found.append(chosen)
    return found
