"""Tables, views and queries of PostgreSQL as sources of rows."""

from lakehouse.ingest.sources.postgres.catalogue import Relation
from lakehouse.ingest.sources.postgres.database import PostgresDatabase
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.fetching import Reading
from lakehouse.ingest.sources.postgres.source import PostgresSource, Query
from lakehouse.ingest.sources.postgres.watermark import NewRows

__all__ = ["Dsn", "NewRows", "PostgresDatabase", "PostgresSource", "Query", "Reading", "Relation"]
