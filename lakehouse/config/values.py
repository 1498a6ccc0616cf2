"""Types of settings that sections share: names, amounts, keys."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator


def matching(pattern: str, expected: str) -> AfterValidator:
    """A text that the whole of a pattern fits."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {expected}")
        return text

    return AfterValidator(check)


def not_reserved(*names: str) -> AfterValidator:
    """A text other than these names, in any case."""

    def check(name: str) -> str:
        if name.lower() in names:
            raise ValueError(f"should be a name of your own, not one of the engine's {', '.join(names)}")
        return name

    return AfterValidator(check)


def key_prefix(prefix: str) -> str:
    """A relative key, as it is."""
    if prefix != str(PurePosixPath(prefix)) or prefix.startswith("/") or {".", ".."} & set(prefix.split("/")):
        raise ValueError("should be a relative key such as warehouse or teams/a, without . and ..")
    return prefix


Identifier = Annotated[
    str,
    matching(r"[A-Za-z][A-Za-z0-9_]{0,63}", "1 to 64 ASCII letters, digits and _, a letter first"),
]
BucketName = Annotated[
    str, matching(r"[a-z0-9][a-z0-9-]{0,62}", "1 to 63 lower-case ASCII letters, digits and -")
]
MemorySize = Annotated[
    str,
    matching(r"(\d+(\.\d+)? ?([KMGTkmgt][Ii]?[Bb]|%))?", "an amount such as 4GB, 512MiB or 60%, or empty"),
]
ByteSize = Annotated[
    str, matching(r"(\d+(\.\d+)? ?[KMGTkmgt][Ii]?[Bb])?", "an amount such as 4GB or 512MiB, or empty")
]
KeyPrefix = Annotated[str, AfterValidator(key_prefix)]
