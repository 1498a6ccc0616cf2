"""Profiles as roles may use them, and which tables each of them covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lakehouse.access.patterns import TablePattern
from lakehouse.config import ProfileSettings
from lakehouse.types import TableName


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile of the configuration.

    Attributes:
        settings: How it is configured.
        patterns: The tables that it covers.
    """

    settings: ProfileSettings
    patterns: tuple[TablePattern, ...]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.settings.name

    def covers(self, table: TableName) -> bool:
        """Whether vectors made from a table may be made and searched with it."""
        return any(each.fits(table.catalog, table.schema, table.table) for each in self.patterns)

    def is_for(self, roles: Iterable[str]) -> bool:
        """Whether a principal of these roles may use it."""
        return not self.settings.roles or not set(self.settings.roles).isdisjoint({*roles})


def profiles_of(settings: Iterable[ProfileSettings]) -> Mapping[str, Profile]:
    """The profiles of the configuration by name."""
    return {each.name: Profile(each, tuple(map(TablePattern, each.datasets))) for each in settings}
