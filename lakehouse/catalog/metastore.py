"""What catalogs of a metastore have in common: this side writes metadata files, and says which is current.

pyiceberg's catalogs for Hive and Glue do both in ``commit_table``. Here their files come from and go to the
bucket, and it is found out what became of a change where the answer leaves that open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchIcebergTableError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io import FileIO
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, StagedTable, Table
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.sorting import SortOrder
from pyiceberg.table.update import TableRequirement, TableUpdate, update_table_metadata
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties

from lakehouse.catalog.metadata_files import MetadataFiles
from lakehouse.catalog.metadata_update import updated_metadata
from lakehouse.catalog.remote_catalog import Name, Step, Unreadable
from lakehouse.catalog.table_store import DELETE_METADATA_PROPERTY, check_requirement
from lakehouse.errors import LakehouseError, StorageError

if TYPE_CHECKING:
    from pyiceberg.view.metadata import ViewMetadata

_LOOK_AGAIN_PAUSES_S = (0.0, 0.1, 0.5, 2.0)


class Metastore(MetastoreCatalog):
    """To be inherited from before pyiceberg's class for a metastore. See ``Service``."""

    _files: MetadataFiles
    _local: threading.local

    def calling(self, *, changes: bool) -> AbstractContextManager[None]:
        """Translate what goes wrong on the way. See ``Service``."""
        raise NotImplementedError

    def point_at(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """What pyiceberg's class does for a commit: write the next metadata file, and make it current."""
        raise NotImplementedError

    # -- tables ---------------------------------------------------------------------------------------

    def stage(
        self,
        identifier: Name,
        columns: Schema,
        properties: Properties,
        spec: PartitionSpec,
        order: SortOrder,
        location: str,
    ) -> StagedTable:
        """A table that exists in memory only."""
        told = {DELETE_METADATA_PROPERTY: "true", **properties}
        metadata = new_table_metadata(columns, spec, order, location, told)
        return StagedTable(identifier, metadata, "", self._files.io, self)

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Write the next metadata file, and make it the current one. See ``TableStore``."""
        self._local.written, self._local.base = "", None
        try:
            with self.calling(changes=True):
                done = self.point_at(table, requirements, updates)
        except (
            CommitFailedException, TableAlreadyExistsError, ValidationException, NoSuchTableError,
            NoSuchNamespaceError, LakehouseError,
        ) as error:  # fmt: skip
            if not (written := self._local.written):
                raise
            # A request that is repeated on the way to the metastore may be in the way of itself.
            try:
                found = self._current(table, written)
            except StorageError:
                raise CommitStateUnknownException(
                    "the metastore cannot be asked what became of it"
                ) from error
            if found is None:
                self._files.forget(written)
                raise
        except CommitStateUnknownException as error:
            if not (written := self._local.written):
                raise StorageError("the metastore failed before the commit; nothing was stored") from error
            found = None
            for pause in _LOOK_AGAIN_PAUSES_S:
                time.sleep(pause)
                with suppress(StorageError):
                    found = found or self._current(table, written)
            if found is None:
                raise
        else:
            if self._local.base is not None:
                self._files.give_up(self._local.base, done.metadata)
            return done
        return CommitTableResponse(metadata=self._files.read(written), metadata_location=written)

    def _current(self, table: Table, written: str) -> Table | None:
        """The table, if a version of it is or was the current one; whoever is asked for it must know."""
        try:
            with self.calling(changes=False):
                found = self.load_table(table.name())
        except (NoSuchTableError, Unreadable):
            return None
        log = [entry.metadata_file for entry in found.metadata.metadata_log]
        return found if written in (found.metadata_location, *log) else None

    def _found(self, name: Identifier, told: dict[str, str] | None) -> Table:
        """A table, from what the metastore says of it.

        Raises:
            NoSuchIcebergTableError: It is something else.
            Unreadable: It is not in the bucket.
        """
        location = (told or {}).get("metadata_location")
        if (told or {}).get("table_type", "").lower() != "iceberg" or not location:
            raise NoSuchIcebergTableError(".".join(name))
        if not self._files.is_ours(location):
            raise Unreadable(
                StorageError(
                    f"table '{'.'.join(name)}' is not in the bucket of catalog '{self.name}'",
                    "tables can be read only where all of their files are in the configured bucket",
                )
            )
        return Table(name, self._files.read(location), location, self._files.io, self)

    # -- pyiceberg's hooks -----------------------------------------------------------------------------

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        return self._files.io

    def _update_and_stage_table(
        self,
        current_table: Table | None,
        table_identifier: Identifier,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> StagedTable:
        self._local.base = base = current_table.metadata if current_table else None
        for requirement in requirements:
            check_requirement(requirement, base, ".".join(table_identifier))
        if base is not None and current_table is not None:
            metadata = updated_metadata(base, updates, current_table.metadata_location)
        else:
            metadata = update_table_metadata(self._empty_table_metadata(), updates, enforce_validation=True)
        place = self._files.place(metadata, current_table.metadata_location if current_table else "")
        return StagedTable(table_identifier, metadata, place, self._files.io, self)

    def _write_metadata(self, metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:  # type: ignore[override]
        self._local.written = metadata_path
        self._files.put(metadata_path, metadata)

    # -- what a metastore does not offer ---------------------------------------------------------------

    def commit_together(self, steps: Sequence[Step]) -> None:
        """Not offered."""
        raise NotImplementedError

    def view(self, identifier: Name) -> ViewMetadata:
        """Not offered."""
        raise NotImplementedError

    def put_view(self, identifier: Name, old: ViewMetadata | None, new: ViewMetadata) -> None:
        """Not offered."""
        raise NotImplementedError

    def rename_view(self, source: Name, target: Name) -> None:
        """Not offered."""
        raise NotImplementedError
