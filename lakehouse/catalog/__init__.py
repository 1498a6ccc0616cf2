"""Tables: the Iceberg catalog that lives in object storage alone, and immutable views of its tables."""

from lakehouse.catalog.avro_schemas import understand_once
from lakehouse.catalog.catalog import Catalog
from lakehouse.catalog.catalogs import Catalogs, open_catalogs
from lakehouse.catalog.iceberg_catalog import IcebergCatalog, open_catalog
from lakehouse.catalog.table import Snapshot, Table

__all__ = ["Catalog", "Catalogs", "IcebergCatalog", "Snapshot", "Table", "open_catalog", "open_catalogs"]

understand_once()
