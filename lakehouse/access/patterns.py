"""Patterns that grants and profiles name tables by."""

from __future__ import annotations

import re


class TablePattern:
    """Names with ``*`` for any characters, compared whatever the case of ASCII letters."""

    def __init__(self, text: str) -> None:
        parts = text.lower().split(".")
        self.text = text.lower()
        self.exact = "*" not in text
        self._parts = tuple(map(wildcard, parts))
        self.any_table = parts[-1] == "*"
        self.any_schema = self.any_table and parts[1:2] == ["*"]
        self.schema_text = parts[1] if len(parts) == 3 else ""
        self.specificity = (sum("*" not in p for p in parts), len(text.replace("*", "")))

    def fits(self, *names: str) -> bool:
        """Whether every name fits its part; with fewer names than parts only the first parts count."""
        return all(part.fullmatch(name.lower()) for part, name in zip(self._parts, names, strict=False))


def wildcard(text: str) -> re.Pattern[str]:
    """What a name must be to fit a text with ``*`` for any characters."""
    return re.compile(".*".join(map(re.escape, text.lower().split("*"))), re.DOTALL)
