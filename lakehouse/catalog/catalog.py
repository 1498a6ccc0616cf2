"""What the engine and the wire may ask of a catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from lakehouse.catalog.sql_view import SqlView
from lakehouse.catalog.table import Table
from lakehouse.catalog.table_alteration import Alteration
from lakehouse.types import ForeignKey


class Catalog(Protocol):
    """Schemas and tables. Names are found whatever the case of their ASCII letters; the stored case is kept.

    Every method is safe to call from several threads.
    """

    @property
    def name(self) -> str:
        """What SQL clients call the catalog."""
        ...

    def schemas(self) -> list[str]:
        """The names of all schemas, sorted."""
        ...

    def schema_exists(self, schema: str) -> bool:
        """Whether there is such a schema."""
        ...

    def create_schema(self, schema: str, if_not_exists: bool = False) -> None:
        """Make a schema.

        Raises:
            SchemaAlreadyExists: There is one of that name, and ``if_not_exists`` is false.
        """
        ...

    def drop_schema(self, schema: str, if_exists: bool = False) -> None:
        """Remove an empty schema.

        Raises:
            SchemaNotFound: There is none of that name, and ``if_exists`` is false.
            SchemaNotEmpty: It holds tables or views.
        """
        ...

    def tables(self, schema: str) -> list[str]:
        """The names of a schema's tables, sorted.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        ...

    def table_exists(self, schema: str, table: str) -> bool:
        """Whether there is such a table."""
        ...

    def load(self, schema: str, table: str) -> Table:
        """The current version of a table, at most ``catalog.refresh_ms`` old.

        Raises:
            SchemaNotFound: There is no such schema.
            TableNotFound: There is no such table in it.
        """
        ...

    def refresh(self, schema: str, table: str) -> None:
        """Ask storage at the next look at a table, however young what is known about it."""
        ...

    def drop_table(self, schema: str, table: str, if_exists: bool = False) -> None:
        """Remove a table.

        Raises:
            SchemaNotFound, TableNotFound: There is none, and ``if_exists`` is false.
        """
        ...

    def declare_keys(
        self, schema: str, table: str, primary_key: Sequence[str], foreign_keys: Sequence[ForeignKey]
    ) -> None:
        """Set the declared, not enforced, keys of a table, in place of those it had.

        Raises:
            SchemaMismatch: A key names a column that the table does not have or that cannot be in a key.
        """
        ...

    def describe_table(
        self, schema: str, table: str, description: str | None, column_docs: Mapping[str, str]
    ) -> None:
        """Set what a table and some of its columns are, in words; empty words take a description away.

        Raises:
            SchemaMismatch: A column is described that the table does not have.
        """
        ...

    def alter_table(self, schema: str, table: str, change: Alteration) -> None:
        """Change what a table is declared to be, in one commit.

        Raises:
            SchemaNotFound, TableNotFound: There is none.
            SchemaMismatch: The change does not fit the table.
            NotSupported: Rows or files that are there could not be read right afterwards.
            CommitConflict: Rows were changed since they were looked through.
        """
        ...

    def views(self, schema: str) -> list[str]:
        """The names of a schema's views, sorted.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        ...

    def find_view(self, schema: str, view: str) -> SqlView | None:
        """The current version of a view, at most ``catalog.refresh_ms`` old; None where there is none."""
        ...

    def create_view(
        self,
        schema: str,
        view: str,
        sql: str,
        columns: pa.Schema,
        *,
        replace: bool = False,
        if_not_exists: bool = False,
    ) -> None:
        """Give a query a name; every table in it is written by its full name.

        Raises:
            SchemaNotFound: There is no such schema.
            TableAlreadyExists: There is a table of that name, or a view that is not to be replaced.
        """
        ...

    def describe_view(self, schema: str, view: str, description: str | None) -> None:
        """Set what a view is, in words.

        Raises:
            TableNotFound: There is no such view.
        """
        ...

    def drop_view(self, schema: str, view: str, if_exists: bool = False) -> None:
        """Remove a view.

        Raises:
            TableNotFound: There is none, and ``if_exists`` is false.
        """
        ...

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, *, is_view: bool = False) -> None:
        """Give a table or view another name; rows, history and location stay.

        Raises:
            SchemaNotFound, TableNotFound: There is none of the old name, or no new schema.
            TableAlreadyExists: There is a table or view of the new name.
        """
        ...

    def version(self) -> int:
        """A number that grows whenever anything that this process knows of the catalog changes."""
        ...
