"""The catalogs of one server, side by side under their own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lakehouse.catalog.catalog import Catalog
from lakehouse.catalog.iceberg_catalog import IcebergCatalog, open_catalog, open_mounted
from lakehouse.catalog.names import fold
from lakehouse.catalog.sql_view import SqlView
from lakehouse.catalog.table import Table
from lakehouse.clock import Clock
from lakehouse.config import Settings
from lakehouse.errors import CatalogNotFound
from lakehouse.storage import Bucket
from lakehouse.types import TableName

HOME_SCHEMA = "main"
"""What a name of another catalog and a table leaves out, and where ``USE catalog`` leads."""


class Catalogs:
    """Every catalog by its name, in whatever case of ASCII letters.

    Args:
        catalogs: All of them. The first is the default one: sessions begin in it, and the tables about the
            server are shown in it.
        default_schema: The schema of the default catalog in which sessions begin.
    """

    def __init__(self, catalogs: Sequence[Catalog], default_schema: str = HOME_SCHEMA) -> None:
        self.default = catalogs[0]
        self._default_schema = default_schema
        self._by_name = {fold(catalog.name): catalog for catalog in catalogs}
        self._exact = {catalog.name: catalog for catalog in catalogs}

    def __iter__(self) -> Iterator[Catalog]:
        """The catalogs, the default one first."""
        return iter(self._by_name.values())

    def __contains__(self, name: str) -> bool:
        """Whether there is a catalog of that name."""
        return fold(name) in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all catalogs, the default one's first."""
        return tuple(self._exact)

    def of(self, name: str) -> Catalog:
        """The catalog of that name.

        Raises:
            CatalogNotFound: There is none.
        """
        found = self._exact.get(name) or self._by_name.get(fold(name))
        if found is None:
            raise no_catalog(name, self.names)
        return found

    def home_schema(self, name: str) -> str:
        """The schema in which a session is that takes a catalog without saying which schema."""
        return self._default_schema if self.of(name) is self.default else HOME_SCHEMA

    def load(self, name: TableName) -> Table:
        """The current version of a table.

        Raises:
            CatalogNotFound, SchemaNotFound, TableNotFound: There is no such table.
        """
        return self.of(name.catalog).load(name.schema, name.table)

    def find_view(self, name: TableName) -> SqlView | None:
        """The current version of a view; None where there is none."""
        return self.of(name.catalog).find_view(name.schema, name.table)

    def version(self) -> int:
        """A number that grows whenever anything that this process knows of any catalog changes."""
        return sum(catalog.version() for catalog in self)


def no_catalog(name: str, there: Sequence[str]) -> CatalogNotFound:
    """The error for a catalog that is not there; ``there`` are those that are."""
    others = f"the catalog is {there[0]}" if len(there) == 1 else f"the catalogs are {', '.join(there)}"
    return CatalogNotFound(f"catalog {name} does not exist", others)


def open_catalogs(
    settings: Settings, clock: Clock, buckets: Mapping[str, Bucket]
) -> tuple[IcebergCatalog, ...]:
    """The catalogs that a configuration describes, the default one first.

    Args:
        settings: The configuration.
        clock: Source of time and ids.
        buckets: The buckets that catalogs are in, by name.

    Raises:
        ConfigError: The database of a catalog cannot be used.
    """
    found = [open_catalog(settings, clock, buckets[settings.bucket_of(settings.catalog)])]
    try:
        for connection in settings.catalogs:
            bucket = buckets[settings.bucket_of(connection)]
            found.append(open_mounted(connection, settings, clock, bucket))
    except BaseException:
        for catalog in found:
            catalog.close()
        raise
    return tuple(found)
