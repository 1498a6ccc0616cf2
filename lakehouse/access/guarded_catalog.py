"""The catalog as one principal sees it: what may not be read is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from lakehouse.access.policy import Access
from lakehouse.catalog import Catalog, Table
from lakehouse.catalog.sql_view import SqlView
from lakehouse.catalog.table_alteration import Alteration
from lakehouse.errors import PermissionDenied, SchemaNotFound, TableNotFound
from lakehouse.types import ForeignKey, TableName


class GuardedCatalog:
    """A catalog that shows only what may be read and changes only what may be written.

    Denial looks like absence: whoever may not read a table is told what they would be told if there were
    none. Only those who may read a table learn that they may not write it.

    Args:
        catalog: The whole catalog.
        access: What the principal may do.
    """

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self.access = access

    @property
    def name(self) -> str:
        """What SQL clients call the catalog."""
        return self._catalog.name

    def schemas(self) -> list[str]:
        """The names of the schemas that are there for the principal, sorted."""
        return [s for s in self._catalog.schemas() if self.access.sees_schema(self.name, s)]

    def schema_exists(self, schema: str) -> bool:
        """Whether there is such a schema for the principal."""
        return self.access.sees_schema(self.name, schema) and self._catalog.schema_exists(schema)

    def create_schema(self, schema: str, if_not_exists: bool = False) -> None:
        """Make a schema.

        Raises:
            PermissionDenied: The principal may not write there.
            SchemaAlreadyExists: There is one of that name, and ``if_not_exists`` is false.
        """
        self.check_schema(schema)
        self._catalog.create_schema(schema, if_not_exists=if_not_exists)

    def check_schema(self, schema: str) -> None:
        """Refuse to create a schema, or any table in it, where that is not granted.

        Raises:
            PermissionDenied: The principal may not write there.
        """
        if not self.access.may_write_schema(self.name, schema):
            raise self._denied(f"create the schema {schema}, or any table in it")

    def drop_schema(self, schema: str, if_exists: bool = False) -> None:
        """Remove an empty schema.

        Raises:
            SchemaNotFound: There is none for the principal, and ``if_exists`` is false.
            PermissionDenied: The principal may not write there.
            SchemaNotEmpty: It holds tables or views.
        """
        if self.schema_exists(schema) and not self.access.may_write_schema(self.name, schema):
            raise self._denied(f"drop the schema {schema}")
        if not self.access.sees_schema(self.name, schema):
            if not if_exists:
                raise self._no_schema(schema)
            return
        self._catalog.drop_schema(schema, if_exists=if_exists)

    def tables(self, schema: str) -> list[str]:
        """The names of a schema's tables that may be read, sorted.

        Raises:
            SchemaNotFound: There is no such schema for the principal.
        """
        if not self.access.sees_schema(self.name, schema):
            raise self._no_schema(schema)
        names = self._catalog.tables(schema)
        return names if self.reads_everything else [n for n in names if self._reads(schema, n)]

    @property
    def reads_everything(self) -> bool:
        """Whether every table may be read, and as it is."""
        return not self.access.key

    def table_exists(self, schema: str, table: str) -> bool:
        """Whether there is such a table for the principal."""
        return self._reads(schema, table) and self._catalog.table_exists(schema, table)

    def load(self, schema: str, table: str) -> Table:
        """The current version of a table.

        Raises:
            SchemaNotFound: There is no such schema for the principal.
            TableNotFound: There is no such table for the principal.
        """
        if self.reads_everything:
            return self._catalog.load(schema, table)
        self.check_read(schema, table)
        try:
            return self._catalog.load(schema, table)
        except (SchemaNotFound, TableNotFound):
            # The catalog's own error suggests names, among them some that are not for this principal.
            raise self._absent(schema, table) from None

    def refresh(self, schema: str, table: str) -> None:
        """Ask storage at the next look at a table, however young what is known about it."""
        self._catalog.refresh(schema, table)

    def check_read(self, schema: str, table: str) -> None:
        """Say that a table is not there, if it may not be read.

        Raises:
            SchemaNotFound, TableNotFound: The principal may not read it, whether it is there or not.
        """
        if not self._reads(schema, table):
            raise self._absent(schema, table)

    def check_write(self, schema: str, table: str) -> None:
        """Refuse to add rows to a table, or to create it, where that is not granted.

        The answer depends on the grants only, so it does not tell whether there is such a table.

        Raises:
            SchemaNotFound: There is no such schema for the principal.
            PermissionDenied: The principal may not write it.
        """
        if self.access.table(TableName(self.name, schema, table)).write:
            return
        if not self.access.sees_schema(self.name, schema):
            raise self._no_schema(schema)
        raise self._denied(f"write {self.name}.{schema}.{table}")

    def check_change(self, schema: str, table: str) -> None:
        """Refuse to change a table as a whole: to drop it, to replace it, to describe it.

        Who does not see all of it cannot know what the change would hit.

        Raises:
            SchemaNotFound, TableNotFound: The principal may neither read nor write it.
            PermissionDenied: The principal may not write it, or does not read all of it.
        """
        access = self.access.table(TableName(self.name, schema, table))
        if not (access.read or access.write):
            raise self._absent(schema, table)
        self.check_write(schema, table)
        if access.restrictions or not access.read:
            raise self._denied(f"change {self.name}.{schema}.{table}, which it does not see in full")

    def drop_table(self, schema: str, table: str, if_exists: bool = False) -> None:
        """Remove a table.

        Raises:
            SchemaNotFound, TableNotFound: There is none for the principal, and ``if_exists`` is false.
            PermissionDenied: The principal may not write it.
        """
        try:
            self.check_change(schema, table)
            self.load(schema, table)
        except (SchemaNotFound, TableNotFound):
            if if_exists:
                return
            raise
        self._catalog.drop_table(schema, table, if_exists=if_exists)

    def declare_keys(
        self, schema: str, table: str, primary_key: Sequence[str], foreign_keys: Sequence[ForeignKey]
    ) -> None:
        """Set the declared keys of a table.

        Raises:
            PermissionDenied: The principal may not write it.
            SchemaMismatch: A key names a column that the table does not have or that cannot be in a key.
        """
        self.check_change(schema, table)
        self.load(schema, table)
        self._catalog.declare_keys(schema, table, primary_key, foreign_keys)

    def describe_table(
        self, schema: str, table: str, description: str | None, column_docs: Mapping[str, str]
    ) -> None:
        """Set what a table and some of its columns are, in words; empty words take a description away.

        Raises:
            PermissionDenied: The principal may not write it.
            SchemaMismatch: A column is described that the table does not have.
        """
        self.check_change(schema, table)
        self.load(schema, table)
        self._catalog.describe_table(schema, table, description, column_docs)

    def alter_table(self, schema: str, table: str, change: Alteration) -> None:
        """Change what a table is declared to be.

        Raises:
            SchemaNotFound, TableNotFound: There is none for the principal.
            PermissionDenied: The principal may not write it.
            SchemaMismatch, NotSupported, CommitConflict: The change is not possible.
        """
        self.check_change(schema, table)
        self.load(schema, table)
        self._catalog.alter_table(schema, table, change)

    def views(self, schema: str) -> list[str]:
        """The names of a schema's views that may be read, sorted.

        Raises:
            SchemaNotFound: There is no such schema for the principal.
        """
        if not self.access.sees_schema(self.name, schema):
            raise self._no_schema(schema)
        names = self._catalog.views(schema)
        return names if self.reads_everything else [n for n in names if self._reads(schema, n)]

    def find_view(self, schema: str, view: str) -> SqlView | None:
        """The current version of a view; None where there is none for the principal."""
        return self._catalog.find_view(schema, view) if self._reads(schema, view) else None

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
        """Give a query a name. It may read what its readers may read, whoever created it.

        Raises:
            SchemaNotFound: There is no such schema for the principal.
            PermissionDenied: The principal may not write that name.
            TableAlreadyExists: There is a table of that name, or a view that is not to be replaced.
        """
        self.check_write(schema, view)
        if replace:
            self.check_change(schema, view)
        self._catalog.create_view(schema, view, sql, columns, replace=replace, if_not_exists=if_not_exists)

    def describe_view(self, schema: str, view: str, description: str | None) -> None:
        """Set what a view is, in words.

        Raises:
            TableNotFound: There is no such view for the principal.
            PermissionDenied: The principal may not write it.
        """
        self.check_change(schema, view)
        self._catalog.describe_view(schema, view, description)

    def drop_view(self, schema: str, view: str, if_exists: bool = False) -> None:
        """Remove a view.

        Raises:
            SchemaNotFound, TableNotFound: There is none for the principal, and ``if_exists`` is false.
            PermissionDenied: The principal may not write it.
        """
        try:
            self.check_change(schema, view)
        except (SchemaNotFound, TableNotFound):
            if if_exists:
                return
            raise
        self._catalog.drop_view(schema, view, if_exists=if_exists)

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, *, is_view: bool = False) -> None:
        """Give a table or view another name, which is one that the principal may change and read as well.

        A new name must not show more of a table than the old one did.

        Raises:
            SchemaNotFound, TableNotFound: There is none of the old name for the principal, or no new schema.
            PermissionDenied: The principal may not change one of the names.
            TableAlreadyExists: There is a table or view of the new name.
        """
        self.check_change(schema, name)
        self.check_change(to_schema, to_name)
        self._catalog.rename(schema, name, to_schema, to_name, is_view=is_view)

    def version(self) -> int:
        """A number that grows whenever anything that this process knows of the catalog changes."""
        return self._catalog.version()

    def _reads(self, schema: str, table: str) -> bool:
        return self.access.table(TableName(self.name, schema, table)).read

    def _absent(self, schema: str, table: str) -> SchemaNotFound | TableNotFound:
        if not self.schema_exists(schema):
            return self._no_schema(schema)
        return TableNotFound(f"table '{self.name}.{schema}.{table}' does not exist")

    def _no_schema(self, schema: str) -> SchemaNotFound:
        return SchemaNotFound(f"schema '{self.name}.{schema}' does not exist")

    def _denied(self, what: str) -> PermissionDenied:
        roles = ", ".join(sorted(self.access.principal.roles)) or "none"
        return PermissionDenied(f"{self.access.principal.name} may not {what}", f"roles: {roles}")
