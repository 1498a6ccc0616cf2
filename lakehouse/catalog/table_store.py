"""What is asked of whatever keeps the current versions of tables, so that one store can stand for another.

A store knows which version of a table is the current one, and changes that in one step or not at all. The
loop around a commit, the rules for names, what is cached, and the errors that clients see are not its own:
they are the same over every store (``table_change.py``, ``commit.py``, ``iceberg_catalog.py``). What a store
raises are pyiceberg's exceptions, and ``StorageError`` where it is certain that nothing was changed.
Names reach a store in any case, and are compared as ``names.fold`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, ValidationException
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, StagedTable, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import SortOrder
from pyiceberg.table.update import AssertCreate, TableRequirement, TableUpdate
from pyiceberg.typedef import Identifier, Properties
from pyiceberg.view.metadata import ViewMetadata

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.slots import Head


def extra(name: str) -> str:
    """What to do where a package is missing that a type of catalog needs."""
    return f"pip install 'lakehouse-server[{name}]'"


DELETE_METADATA_PROPERTY = "write.metadata.delete-after-commit.enabled"
"""Whether a commit deletes the metadata file that no version's log names any more."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do besides keeping tables.

    Args:
        kind: The type of the store, as the configuration calls it.
        joint_commits: Changes of several tables can take place at once.
        views: It keeps views.
        moves: A table can be renamed into another schema.
        remembers_dropped: What a dropped table was can be told, so that it can be purged.
        renames: A table can be given another name in one step.
        late_schemas: A table can be prepared while its schema does not exist yet.
    """

    kind: str
    joint_commits: bool = True
    views: bool = True
    moves: bool = True
    remembers_dropped: bool = True
    renames: bool = True
    late_schemas: bool = False


class TableStore(Protocol):
    """Keeps which version of each table is the current one."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; what it cannot must not be asked of it."""

    @property
    def file_io(self) -> BucketFileIO:
        """How metadata files are read and written."""

    def close(self) -> None:
        """Release what is held open; the store is not used any more."""

    # -- schemas --------------------------------------------------------------------------------------

    def create_namespace(self, namespace: tuple[str], /) -> None:
        """Make a schema exist.

        Raises:
            NamespaceAlreadyExistsError: There is one whose name differs by case at most.
        """

    def drop_namespace(self, namespace: tuple[str], /) -> None:
        """Make an empty schema cease to exist. Of this and a table that is created in it one always fails.

        Raises:
            NoSuchNamespaceError: There is none.
            NamespaceNotEmptyError: It holds tables or views.
        """

    def list_namespaces(self) -> list[Identifier]:
        """The names of all schemas as they were spelled when they were made."""

    # -- tables ---------------------------------------------------------------------------------------

    def head(self, schema: str, table: str, /) -> Head:
        """The current version of a name, asked anew; the same object for as long as nothing changed.

        Within a process a later answer has a higher ``version`` than an earlier one, or is the same object.
        """

    def last_head(self, schema: str, table: str, /) -> Head | None:
        """The version that this process saw or wrote last, which needs no asking; None where that is open."""

    def version_at(self, schema: str, table: str, head: Head, moment_ms: int, /) -> TableMetadata | None:
        """The version that was current at a time, or the first one after a drop; none if there was none.

        Raises:
            StorageError: It cannot be found out.
        """

    def load_table(self, identifier: tuple[str, str] | Identifier, known: Head | None = None, /) -> Table:
        """The current version of a table, for a change of it.

        Args:
            identifier: Its schema and name.
            known: A version that was current a moment ago. It may be taken for the current one unasked: where
                it is not, the commit finds out.

        Raises:
            NoSuchTableError: There is none.
        """

    def list_tables(self, namespace: tuple[str] | Identifier, /) -> list[Identifier]:
        """The tables of a schema, as (schema, table) pairs.

        Raises:
            NoSuchNamespaceError: There is no such schema.
        """

    def table_location(self, schema: str, table: str, /) -> str:
        """The URI that what has a name is kept under, unless that is taken."""

    def staged_table(
        self,
        schema: str,
        table: str,
        columns: Schema,
        properties: Properties,
        spec: PartitionSpec,
        order: SortOrder,
        /,
    ) -> StagedTable:
        """A table that exists in memory only, to be created by a commit. The field ids are assigned anew.

        Its location holds no file of any other table.
        """

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
        promise: str = "",
        /,
    ) -> CommitTableResponse:
        """Apply updates to the current version of a table, and make the result the current one.

        Args:
            table: The table as it was loaded.
            requirements: What must hold for the current version.
            updates: What to change.
            promise: The joint commit that this is part of; the change takes place when that is decided.

        Raises:
            CommitFailedException: Another writer came first; reload and try again.
            ValidationException: A table that is to be created exists.
            NoSuchTableError, NoSuchNamespaceError: The table or its schema was dropped.
            StorageError: It failed, and nothing was changed.
            CommitStateUnknownException: It failed, and it is open whether the change took place.
        """

    def drop_table(self, identifier: tuple[str, str], /) -> None:
        """Make a table cease to exist; its files stay.

        Raises:
            NoSuchTableError: There is none.
        """

    def rename(self, schema: str, name: str, to_schema: str, to_name: str, kind: str, /) -> None:
        """Give a table or view another name, at once and wholly.

        Args:
            schema: The old schema.
            name: The old name.
            to_schema: The new schema.
            to_name: The new name.
            kind: ``metadata`` for a table, ``view`` for a view.

        Raises:
            NoSuchTableError: There is none of the old name.
            TableAlreadyExistsError: There is a table or view of the new name.
            NoSuchNamespaceError: There is no new schema.
            CommitFailedException: Other writers were faster each time.
            CommitStateUnknownException: It could not be found out whether the rename took place.
        """

    def last_table(self, schema: str, table: str, /) -> TableMetadata | None:
        """What a dropped table was; None where there was none, where it is there or has another name."""

    def prune_versions(self, schema: str, table: str, before: datetime, /) -> int:
        """Give up the content of versions that nothing needs any more; gives how many these were.

        As many versions of the table before the current one stay as its property
        ``write.metadata.previous-versions-max`` says.

        Args:
            schema: Its schema.
            table: Its name.
            before: Versions that were written later stay, by the clock of the storage.

        Raises:
            StorageError: It failed; the rest can be given up later.
        """

    def delete_file(self, uri: str, /) -> bool:
        """Delete a file that a table referred to; gives whether it was there."""

    # -- joint commits ----------------------------------------------------------------------------------

    def promise_drop(self, schema: str, table: str, promise: str, /) -> None:
        """Drop a table as part of a joint commit; one that does not exist stays so.

        Raises:
            CommitFailedException: Another writer came first; try again.
            StorageError, CommitStateUnknownException: It failed.
        """

    def decide(self, promise: str, /, *, commit: bool) -> bool:
        """Say once and for all what becomes of a joint commit; gives whether it is committed.

        Raises:
            CommitFailedException: Another writer came first; nothing of it took place, make it anew.
            CommitStateUnknownException: It could not be found out what was decided.
            StorageError: Nothing was decided.
        """

    def write_out(self, schema: str, table: str, /) -> None:
        """Make what a joint commit did to a table readable to other engines, where it is not yet."""

    # -- views ------------------------------------------------------------------------------------------

    def list_views(self, namespace: tuple[str], /) -> list[Identifier]:
        """The views of a schema, as (schema, view) pairs; none where views are not kept.

        Raises:
            NoSuchNamespaceError: There is no such schema.
        """

    def put_view(
        self, schema: str, name: str, build: Callable[[ViewMetadata | None], ViewMetadata], /
    ) -> None:
        """Write the next version of a view.

        Args:
            schema: Its schema.
            name: Its name.
            build: Gives the version, from the one that is there now, if any; called for each attempt.

        Raises:
            TableAlreadyExistsError: There is a table of that name.
            NoSuchNamespaceError: There is no such schema.
            CommitFailedException: Other writers were faster each time.
            CommitStateUnknownException: It could not be found out whether the version was written.
        """

    def drop_view(self, identifier: tuple[str, str], /) -> None:
        """Make a view cease to exist.

        Raises:
            NoSuchViewError: There is none.
        """


def check_requirement(requirement: TableRequirement, metadata: TableMetadata | None, table: str) -> None:
    """Make sure that a requirement of a commit holds.

    Raises:
        NoSuchTableError: There is no table, and there has to be one.
        ValidationException: There is one, and must not be.
        CommitFailedException: Something else does not hold.
    """
    creates = isinstance(requirement, AssertCreate)
    if metadata is None and not creates:
        raise NoSuchTableError(table)
    try:
        requirement.validate(metadata)
    except CommitFailedException as error:
        if creates:
            raise ValidationException(str(error)) from error  # trying again is of no use
        raise
