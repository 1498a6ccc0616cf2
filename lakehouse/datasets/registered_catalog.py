"""The catalog of registered Parquet: every dataset is a table that can be read, and none be written."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from lakehouse.catalog import Table
from lakehouse.catalog.names import fold
from lakehouse.catalog.parquet_footer import Footer
from lakehouse.catalog.registered_table import RegisteredColumn, RegisteredTable, registered_table
from lakehouse.catalog.sql_view import SqlView
from lakehouse.catalog.table_alteration import Alteration
from lakehouse.datasets.footers import Finding, read_footers
from lakehouse.datasets.manifest import DatasetKind, DatasetManifest, DatasetObject
from lakehouse.datasets.manifest_store import ManifestStore
from lakehouse.datasets.partitions import path_schema, path_values, with_path_columns
from lakehouse.errors import NotSupported, SchemaNotFound, TableNotFound, object_changed
from lakehouse.storage import Bucket, LinkedObjects
from lakehouse.types import DataFileRef, ForeignKey, TableName

REGISTERED = "registered"
"""The name of the catalog; no other may be called so."""


class RegisteredCatalog:
    """Registered datasets by schema and table, as their manifests tell of them. See ``Catalog``.

    Args:
        store: The manifests.
        buckets: Where objects are, by name.
        links: Gives objects of local buckets the paths at which they are read.
    """

    def __init__(self, store: ManifestStore, buckets: Mapping[str, Bucket], links: LinkedObjects) -> None:
        self.name = REGISTERED
        self._store = store
        self._buckets = buckets
        self._links = links
        self._lock = threading.Lock()
        self._tables: dict[str, tuple[DatasetManifest, RegisteredTable]] = {}
        self._known: tuple[int, dict[str, tuple[str, dict[str, str]]]] = (-1, {})

    def schemas(self) -> list[str]:
        """The names of the schemas that hold something, sorted."""
        return sorted(name for name, _ in self._names().values())

    def schema_exists(self, schema: str) -> bool:
        """Whether there is such a schema."""
        return fold(schema) in self._names()

    def tables(self, schema: str) -> list[str]:
        """The names of a schema's datasets, sorted.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        found = self._names().get(fold(schema))
        if found is None:
            raise self._no_schema(schema)
        return sorted(found[1].values())

    def table_exists(self, schema: str, table: str) -> bool:
        """Whether there is such a dataset."""
        return self._find(schema, table) is not None

    def load(self, schema: str, table: str) -> Table:
        """A dataset as its newest manifest has it.

        Raises:
            SchemaNotFound: There is no such schema.
            TableNotFound: There is no such dataset in it.
            NotSupported: Its bucket is not configured any more, or its manifest cannot be understood.
        """
        manifest = self._find(schema, table)
        if manifest is None:
            raise self._no_table(schema, table)
        known = self._tables.get(manifest.dataset_id)
        if known is None or known[0] is not manifest:
            known = (manifest, self.table(manifest))
            with self._lock:
                self._tables[manifest.dataset_id] = known
        return known[1]

    def table(self, manifest: DatasetManifest) -> RegisteredTable:
        """The table that a manifest describes.

        Raises:
            NotSupported: Its bucket is not configured any more, or the manifest cannot be understood.
        """
        bucket = bucket_of(manifest, self._buckets)
        columns = [
            RegisteredColumn(column.name, column.type, column.description, column.size_bytes is None)
            for column in manifest.columns
        ]
        in_path = frozenset(column.name for column in columns if column.in_path)
        return registered_table(
            manifest.name,
            manifest.dataset_id,
            columns,
            [self._reference(bucket, manifest, each, in_path) for each in manifest.objects],
            "\n".join(f"{each.key}\0{each.size_bytes}\0{each.e_tag}" for each in manifest.objects),
            bucket,
            manifest.location,
            manifest.changed_at or manifest.created_at,
            manifest.description,
            lambda: _footers(bucket, manifest),
        )

    def _reference(
        self, bucket: Bucket, manifest: DatasetManifest, each: DatasetObject, in_path: frozenset[str]
    ) -> DataFileRef:
        if bucket.is_local:
            values = path_values(each.key, manifest.location) if in_path else {}
            path = self._links.path(bucket, each.key, each.e_tag, [f"{k}={v}" for k, v in values.items()])
        else:
            path = bucket.local_path(each.key, each.e_tag)
        return DataFileRef(path, each.rows, each.size_bytes, bucket.uri_of(each.key))

    def refresh(self, schema: str, table: str) -> None:
        """Nothing: no statement that changes something gets here."""

    def version(self) -> int:
        """A number that grows whenever anything that this process knows of manifests changes."""
        return self._store.version

    # -- what cannot be ---------------------------------------------------------------------------------

    def create_schema(self, schema: str, if_not_exists: bool = False) -> None:
        """Refused: there is a schema as long as something is registered in it."""
        if if_not_exists and self.schema_exists(schema):
            return
        raise self._refused("has the schemas that something is registered in", "use catalog.register")

    def drop_schema(self, schema: str, if_exists: bool = False) -> None:
        """Refused, as ``create_schema``."""
        if not self.schema_exists(schema):
            if if_exists:
                return
            raise self._no_schema(schema)
        raise self._refused("has the schemas that something is registered in", "use catalog.drop")

    def drop_table(self, schema: str, table: str, if_exists: bool = False) -> None:
        """Refused: the words would promise that objects are deleted."""
        if not self.table_exists(schema, table):
            if if_exists:
                return
            raise self._no_table(schema, table)
        raise self._refused(
            "cannot drop tables, whose objects are not its own",
            "catalog.drop ends the registration; the objects stay",
        )

    def declare_keys(
        self, schema: str, table: str, primary_key: Sequence[str], foreign_keys: Sequence[ForeignKey]
    ) -> None:
        """Refused."""
        raise self._read_only()

    def describe_table(
        self, schema: str, table: str, description: str | None, column_docs: Mapping[str, str]
    ) -> None:
        """Refused."""
        raise self._refused("takes no comments", "describe the dataset with catalog.update")

    def alter_table(self, schema: str, table: str, change: Alteration) -> None:
        """Refused."""
        raise self._read_only()

    def views(self, schema: str) -> list[str]:
        """None.

        Raises:
            SchemaNotFound: There is no such schema.
        """
        if not self.schema_exists(schema):
            raise self._no_schema(schema)
        return []

    def find_view(self, schema: str, view: str) -> SqlView | None:
        """None."""
        return None

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
        """Refused."""
        raise self._refused("cannot hold views", "create the view in another catalog")

    def describe_view(self, schema: str, view: str, description: str | None) -> None:
        """Refused: there is none."""
        raise self._no_table(schema, view)

    def drop_view(self, schema: str, view: str, if_exists: bool = False) -> None:
        """Refused: there is none."""
        if not if_exists:
            raise self._no_table(schema, view)

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, *, is_view: bool = False) -> None:
        """Refused."""
        raise self._refused("cannot rename tables", "register the objects under the other name")

    # -- what is known ------------------------------------------------------------------------------------

    def _find(self, schema: str, table: str) -> DatasetManifest | None:
        found = self._store.find(TableName(REGISTERED, schema, table))
        return found if found is not None and found.kind is DatasetKind.PARQUET else None

    def _names(self) -> dict[str, tuple[str, dict[str, str]]]:
        """By folded name the schemas with their datasets."""
        version = self._store.version
        known = self._known
        if known[0] != version:
            names: dict[str, tuple[str, dict[str, str]]] = {}
            for manifest in registered_datasets(self._store):
                schema, table = manifest.name.schema, manifest.name.table
                names.setdefault(fold(schema), (schema, {}))[1][fold(table)] = table
            known = self._known = (version, names)
        return known[1]

    def _no_schema(self, schema: str) -> SchemaNotFound:
        return SchemaNotFound(f"schema '{REGISTERED}.{schema}' does not exist")

    def _no_table(self, schema: str, table: str) -> SchemaNotFound | TableNotFound:
        found = self._names().get(fold(schema))
        if found is None:
            return self._no_schema(schema)
        near = difflib.get_close_matches(fold(table), found[1], n=1)
        hint = f"did you mean '{found[1][near[0]]}'?" if near else ""
        return TableNotFound(f"table '{REGISTERED}.{schema}.{table}' does not exist", hint)

    def _read_only(self) -> NotSupported:
        return self._refused("is read only", "its tables are Parquet objects of others, registered in place")

    def _refused(self, what: str, hint: str) -> NotSupported:
        return NotSupported(f"catalog '{REGISTERED}' {what}", hint)


def registered_datasets(store: ManifestStore) -> Iterator[DatasetManifest]:
    """The manifests of the registered datasets, sorted by name."""
    return (m for m in store.all() if m.kind is DatasetKind.PARQUET and m.name.catalog == REGISTERED)


def bucket_of(manifest: DatasetManifest, buckets: Mapping[str, Bucket]) -> Bucket:
    """The bucket of a dataset.

    Raises:
        NotSupported: It is not configured any more.
    """
    bucket = buckets.get(manifest.bucket)
    if bucket is None:
        raise NotSupported(
            f"the objects of {manifest.name} are in bucket '{manifest.bucket}', which is not configured",
            f"there are: {', '.join(buckets)}",
        )
    return bucket


def _footers(bucket: Bucket, manifest: DatasetManifest) -> Iterator[Footer]:
    """The footers of objects that are still those of the manifest, with the columns that are in their keys.

    Raises:
        ObjectChanged: One of them is not.
    """
    in_path = path_schema(manifest)
    found = read_footers(bucket, (each.key for each in manifest.objects))
    for each, footer in zip(manifest.objects, found, strict=True):
        if isinstance(footer, Finding) or footer.e_tag != each.e_tag:
            raise object_changed(bucket.name, each.key)
        yield with_path_columns(footer, manifest.location, in_path)
