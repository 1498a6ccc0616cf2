"""The catalogs as one principal sees them: those of which it may read nothing are not there."""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse.access.guarded_catalog import GuardedCatalog
from lakehouse.access.policy import Access
from lakehouse.catalog.catalogs import Catalogs, no_catalog
from lakehouse.catalog.names import fold
from lakehouse.config import RESERVED_CATALOGS


class GuardedCatalogs:
    """The catalogs that are there for a principal, by name.

    The default catalog is there for everybody: it has the tables about the server.

    Args:
        catalogs: All catalogs.
        access: What the principal may do.
    """

    def __init__(self, catalogs: Catalogs, access: Access) -> None:
        self.access = access
        self.default = GuardedCatalog(catalogs.default, access)
        self._by_name = {fold(self.default.name): self.default}
        for catalog in catalogs:
            if catalog is not catalogs.default and access.sees_catalog(catalog.name):
                self._by_name[fold(catalog.name)] = GuardedCatalog(catalog, access)

    def __iter__(self) -> Iterator[GuardedCatalog]:
        """The catalogs, the default one first; what every server has only where something is in it."""
        return (
            catalog
            for name, catalog in self._by_name.items()
            if name not in RESERVED_CATALOGS or catalog.schemas()
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the catalogs, the default one's first."""
        return tuple(catalog.name for catalog in self)

    def find(self, name: str) -> GuardedCatalog | None:
        """The catalog of that name, in whatever case; None where there is none for the principal."""
        return self._by_name.get(fold(name))

    def of(self, name: str) -> GuardedCatalog:
        """The catalog of that name, in whatever case.

        Raises:
            CatalogNotFound: There is none for the principal.
        """
        found = self._by_name.get(fold(name))
        if found is None:
            raise no_catalog(name, self.names)
        return found
