"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. ``roles`` decides what they may do; two with the same name and roles are one.

    ``method`` says how they were recognised: anonymous, password, api_key, token, jwt or certificate;
    ``expires_at`` when that ends, where it does.
    """

    name: str
    roles: frozenset[str] = frozenset()
    method: str = field(default="anonymous", compare=False)
    expires_at: datetime | None = field(default=None, compare=False)


ANONYMOUS = "anonymous"
"""Name of the principal of callers who did not have to say who they are."""
