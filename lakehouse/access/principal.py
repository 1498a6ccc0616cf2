"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. ``roles`` decides what they may do; two with the same name and roles are one.

    ``method`` says how they were recognised: anonymous, password, api_key, token, jwt or certificate.
    """

    name: str
    roles: frozenset[str] = frozenset()
    method: str = field(default="anonymous", compare=False)


ANONYMOUS = "anonymous"
"""Name of the principal of callers who did not have to say who they are."""
