"""Staged files, and making them part of a table: one atomic change of its metadata, or none."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum

import pyarrow as pa
from pyiceberg.exceptions import CommitStateUnknownException, ValidationException
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import StagedTable, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import (
    AddSchemaUpdate,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    TableUpdate,
)

from lakehouse.catalog import iceberg_types
from lakehouse.catalog.catalog import Catalog
from lakehouse.catalog.change_events import Change, Share, Told, events_of, origin_properties
from lakehouse.catalog.iceberg_catalog import IcebergCatalog
from lakehouse.catalog.iceberg_errors import iceberg_errors
from lakehouse.catalog.ingest_mark import IngestMark, carried, generation_of, marked_snapshot, sync_states
from lakehouse.catalog.metadata_update import updated_metadata
from lakehouse.catalog.names import check_name
from lakehouse.catalog.observer import RowSource, current_source
from lakehouse.catalog.partitioning import check_layout, layout_columns
from lakehouse.catalog.slots import Head
from lakehouse.catalog.table import Table
from lakehouse.catalog.table_alteration import Alteration, altered
from lakehouse.catalog.table_change import (
    COMMIT_ID_PROPERTY,
    MERGE_PROPERTY,
    NewSnapshot,
    Ready,
    change_table,
    create_table,
    retried,
    stage_updates,
)
from lakehouse.catalog.table_definition import (
    TableDefinition,
    partition_spec,
    partition_updates,
    sort_order,
    sort_updates,
)
from lakehouse.errors import (
    AlreadyIngested,
    CommitConflict,
    CommitStateUnknown,
    InvalidRequest,
    NotSupported,
    ObjectNotFound,
    SchemaMismatch,
    SchemaNotFound,
    StorageError,
    TableAlreadyExists,
)
from lakehouse.journal.change_event import ChangeEvent, Origin, current_origin
from lakehouse.storage import Uploads
from lakehouse.types import DataFileRef, TableName

_log = logging.getLogger(__name__)
# Of one transaction; an append log holds about as many.
_MOST_ROW_EVENTS = 100_000
# The number of retries and the codec are for other programs that write to our tables.
_PROPERTIES = {
    "format-version": "2",
    # Every hundredth commit puts the manifests of those before into one, so that planning does not take
    # longer with every commit that there was.
    MERGE_PROPERTY: "true",
    "commit.retry.num-retries": "10",
    "write.parquet.compression-codec": "zstd",
}


class WriteMode(Enum):
    """What is to become of a table that is written to."""

    CREATE = "create"
    APPEND = "append"
    REPLACE = "replace"
    CREATE_APPEND = "create_append"


@dataclass(frozen=True)
class Target:
    """What files are written for: a table as it is, or as it is to become.

    Args:
        mode: What a commit will do: ``CREATE``, ``APPEND`` or ``REPLACE``.
        schema: The columns that the files have.
        table: How the table looks before these files are in it.
        base: The table as it is in the catalog; None for one to be created.
        new: The table to be created, for ``CREATE``.
        kept: Files that the same transaction wrote before, and that stay.
        superseded: Files that the same transaction wrote before, and that will never be in the table.
        removed: Files of the base that go.
        serializable: Whether what is written depends on no other rows being there than were read.
        definition: What the table that is created or replaced is declared to be, besides its columns.
        file_bytes: How large the files become; as the catalog says when left out.
    """

    mode: WriteMode
    schema: Schema
    table: Table
    base: Table | None = None
    new: StagedTable | None = None
    kept: tuple[DataFile, ...] = ()
    superseded: tuple[DataFile, ...] = ()
    removed: tuple[DataFileRef, ...] = ()
    serializable: bool = False
    definition: TableDefinition | None = None
    file_bytes: int | None = None

    @property
    def file_schema(self) -> pa.Schema:
        """The Arrow schema that the files are written with."""
        return iceberg_types.file_schema(self.schema)


@dataclass(frozen=True)
class StagedWrite:
    """Files that were written for a table and are not part of it yet.

    Args:
        target: The full name of the table, as it will be spelled.
        mode: What a commit does: ``CREATE``, ``APPEND`` or ``REPLACE``.
        schema: The table's Iceberg schema after the commit.
        data_files: All files to be added, those of earlier writes of the same transaction included.
        superseded: Files of earlier writes that a later one replaced; they will never be in the table.
        removed: Files of the base that go.
        serializable: Whether the commit has to fail when others added rows since the base.
        rows: How many rows this write brought.
        size_bytes: How large this write's files are.
        table: The table as it will look after the commit.
        base: The table as it was in the catalog; None for one to be created.
        new: The table to be created, for ``CREATE``.
        snapshot_id: What the commit's snapshot will be called, so that it can be recognised.
        commit_id: Marks the commit in the table's history.
        definition: What the table that is created or replaced is declared to be.
        keeps_rows: Whether the files hold exactly the rows of those that go, so that the table is the same.
        shares: Who brought the rows.
        row_events: What becomes of single rows by it.
        sources: Where the rows come from, as far as somebody said.
        mark: The ingest that this is part of, which must not be in the table yet.
    """

    target: TableName
    mode: WriteMode
    schema: Schema
    data_files: tuple[DataFile, ...]
    superseded: tuple[DataFile, ...]
    removed: tuple[DataFileRef, ...]
    serializable: bool
    rows: int
    size_bytes: int
    table: Table
    base: Table | None
    new: StagedTable | None
    snapshot_id: int
    commit_id: str
    definition: TableDefinition | None = None
    keeps_rows: bool = False
    shares: tuple[Share, ...] = ()
    row_events: tuple[ChangeEvent, ...] = ()
    sources: tuple[RowSource, ...] = field(default_factory=current_source)
    mark: IngestMark | None = None

    def after(self, earlier: StagedWrite | None) -> StagedWrite:
        """This write with what is to be told of the earlier one of the same transaction."""
        if earlier is None:
            return self
        kept = () if self.mode is WriteMode.REPLACE else earlier.sources
        return replace(
            self,
            shares=_by_origin((*earlier.shares, *self.shares)),
            row_events=(*earlier.row_events, *self.row_events)[-_MOST_ROW_EVENTS:],
            sources=tuple(dict.fromkeys((*kept, *self.sources))),
        )


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit did; ``snapshot_id`` is None where there was no row to be committed."""

    snapshot_id: int | None
    rows: int


def writable(catalog: Catalog) -> IcebergCatalog:
    """The catalog, if tables can be written in it.

    Raises:
        NotSupported: They cannot.
    """
    if not isinstance(catalog, IcebergCatalog):
        raise NotSupported(
            f"the tables of catalog '{catalog.name}' cannot be written to",
            "they are Parquet objects of others; catalog.drop ends a registration",
        )
    return catalog


def resolve(
    catalog: IcebergCatalog,
    name: TableName,
    mode: WriteMode,
    columns: Callable[[], pa.Schema],
    earlier: StagedWrite | None = None,
    seen: Table | None = None,
    definition: TableDefinition | None = None,
    alterations: Sequence[Alteration] = (),
    *,
    makes_schema: bool = False,
) -> Target:
    """Decide what a write is to do, given what is there.

    Args:
        catalog: Where the table is or will be.
        name: Its name, in any case.
        mode: What the caller wants.
        columns: Gives the columns, of storable types, that a table gets which is created or replaced.
        earlier: What the same transaction wrote for the table before.
        seen: The table as the same transaction has read it.
        definition: What a table that gets created or replaced is declared to be; its columns are ``columns``.
        alterations: How the columns of a table change that gets rows, if nothing was written for it before.
        makes_schema: Whether the commit makes the schema where there is none.

    Raises:
        SchemaNotFound, TableNotFound, TableAlreadyExists: The mode does not fit what is there.
        InvalidRequest: There is a view of that name.
        NotSupported: The table cannot be written to.
    """
    schema = _spelled_schema(catalog, name.schema, makes_schema=makes_schema)
    check_name(name.table, "table")
    appends = mode is WriteMode.APPEND and seen is not None  # whether it is there still, the commit tells
    if not appends:
        catalog.refresh(schema, name.table)
    exists = earlier is not None or appends or catalog.table_exists(schema, name.table)
    if exists and mode is WriteMode.CREATE:
        raise TableAlreadyExists(f"table '{catalog.name}.{schema}.{name.table}' exists already")
    view = None if exists else catalog.find_view(schema, name.table)
    if view is not None:
        raise InvalidRequest(f"{view.name} is a view, not a table", f"DROP VIEW {view.name}")
    if not exists and mode in (WriteMode.CREATE, WriteMode.CREATE_APPEND):
        return _to_create(catalog, TableName(catalog.name, schema, name.table), columns(), definition)
    if earlier is None:
        base = seen or catalog.load(schema, name.table)
        _check_writable(base, anew=mode is WriteMode.REPLACE and not _keeps_rest(definition))
        if mode is WriteMode.REPLACE:
            return _to_replace(base, columns(), catalog.clock.token(), definition)
        return _to_append(base, alterations, catalog.clock.token())
    if mode is not WriteMode.REPLACE:
        return Target(
            earlier.mode,
            earlier.schema,
            earlier.table,
            earlier.base,
            earlier.new,
            earlier.data_files,
            earlier.superseded,
            earlier.removed,
            earlier.serializable,
            earlier.definition,
        )
    if earlier.base is None:
        again = _to_create(catalog, earlier.target, columns(), definition)
    else:
        again = _to_replace(earlier.base, columns(), catalog.clock.token(), definition)
    return replace(again, superseded=earlier.superseded + earlier.data_files)


def _spelled_schema(catalog: IcebergCatalog, schema: str, *, makes_schema: bool) -> str:
    try:
        return catalog.spelled_schema(check_name(schema, "schema"))
    except SchemaNotFound:
        if makes_schema:
            return schema
        raise


def rewriting(
    table: Table,
    affected: Collection[DataFileRef],
    earlier: StagedWrite | None = None,
    *,
    serializable: bool = False,
) -> Target:
    """What files are written for that take the place of others.

    Args:
        table: The table as the statement sees it.
        affected: The files of it that go.
        earlier: What the same transaction wrote for the table before.
        serializable: Whether what is written depends on no other rows being there than were read.

    Raises:
        NotSupported: The table cannot be written to.
    """
    _check_writable(table)
    gone = {file.uri: file for file in affected}
    staged = tuple(file for file in table.staged or () if file.uri not in gone)
    if earlier is None:
        view = replace(table, staged=staged, removed=gone)
        removed = tuple(gone.values())
        return Target(
            WriteMode.APPEND, table.metadata.schema(), view, table, removed=removed, serializable=serializable
        )
    kept = tuple(file for file in earlier.data_files if file.file_path not in gone)
    own = tuple(file for file in earlier.data_files if file.file_path in gone)
    own_uris = {file.file_path for file in own}
    removed = tuple(file for uri, file in gone.items() if uri not in own_uris)
    if earlier.mode is not WriteMode.APPEND:
        removed = ()
    view = replace(table, staged=staged, removed={**table.removed, **{file.uri: file for file in removed}})
    return Target(
        earlier.mode,
        earlier.schema,
        view,
        earlier.base,
        earlier.new,
        kept,
        earlier.superseded + own,
        earlier.removed + removed,
        earlier.serializable or serializable,
        earlier.definition,
    )


def staged_write(catalog: IcebergCatalog, target: Target, files: Sequence[DataFile]) -> StagedWrite:
    """What was staged, once its files are written."""
    references = tuple(catalog.planner.reference(file) for file in files)
    return StagedWrite(
        target=target.table.name,
        mode=target.mode,
        schema=target.schema,
        data_files=(*target.kept, *files),
        superseded=target.superseded,
        removed=target.removed,
        serializable=target.serializable,
        rows=sum(file.rows for file in references),
        size_bytes=sum(file.size_bytes for file in references),
        table=replace(target.table, staged=(target.table.staged or ()) + references),
        base=target.base,
        new=target.new,
        snapshot_id=target.table.metadata.new_snapshot_id(),
        commit_id=catalog.clock.token(),
        definition=target.definition,
        shares=(Share(current_origin(), sum(file.rows for file in references)),),
    )


def _by_origin(shares: Iterable[Share]) -> tuple[Share, ...]:
    """The shares with those of one origin put together."""
    rows: dict[Origin, int] = {}
    for share in shares:
        rows[share.origin] = rows.get(share.origin, 0) + share.rows
    return tuple(Share(origin, count) for origin, count in rows.items())


def drop_files(catalog: Catalog, target: Target) -> StagedWrite:
    """A write that only takes files out of a table."""
    return staged_write(writable(catalog), target, ())


def commit(catalog: Catalog, staged: StagedWrite, ready: Ready | None = None) -> CommitResult:
    """Make staged files part of their table, in one atomic change. Calling it again does not do it twice.

    An append goes on top of what others appended meanwhile; a replacement replaces that as well.

    Args:
        catalog: Where the table is.
        staged: What was written.
        ready: Called before the change takes place, to wait until the files are stored.

    Raises:
        TableAlreadyExists: Somebody else created the table first.
        TableNotFound, SchemaNotFound: It was dropped meanwhile.
        CommitConflict: Its columns were changed meanwhile, or others were faster again and again.
        AlreadyIngested: The same ingest is in the table already.
        CommitStateUnknown: It could not be found out whether the commit took place; the files are kept.
    """
    lake = writable(catalog)
    rows = sum(file.record_count for file in staged.data_files)
    with lake.committing(staged.target.schema, staged.target.table):
        _announce(lake, staged)
        told = lake.told(staged.target)
        if staged.new is not None:
            _create(lake, staged, told, ready=ready)
        else:
            known = lake.known_head(staged.target.schema, staged.target.table)
            _change(lake, staged, told, known=known, ready=ready)
    lake.catch_up(staged.target.schema, staged.target.table)
    _tell(lake, staged)
    _delete(lake, staged.superseded)
    return CommitResult(staged.snapshot_id if _makes_snapshot(staged) else None, rows)


def commit_or_discard(catalog: Catalog, staged: StagedWrite, uploads: Uploads | None = None) -> None:
    """Publish a staged write, or remove its files where it is certain that it was not published.

    Args:
        catalog: Where the table is.
        staged: What was written.
        uploads: What of it is still on its way to storage.

    Raises:
        CommitConflict: Another writer changed the table first; nothing was changed.
        CommitStateUnknown: It could not be established whether the commit took place; the files stay.
    """
    try:
        commit(catalog, staged, uploads.settle if uploads else None)
    except CommitStateUnknown:
        raise
    except BaseException:
        if uploads is not None:
            uploads.abandon()
        discard(catalog, staged)
        raise


def commit_together(
    catalog: Catalog, staged: Sequence[StagedWrite], drops: Sequence[TableName], ready: Ready | None = None
) -> None:
    """Make changes of several tables take place at once, or none of them. See ``commit`` and ``drop_table``.

    Every table's next version is promised first; one decision then holds for all of them. ``ready`` is called
    before each promise.

    Raises:
        TableAlreadyExists, TableNotFound, SchemaNotFound, CommitConflict: A change no longer fits; nothing
            was changed.
        StorageError: Nothing was changed.
        CommitStateUnknown: It could not be found out whether the changes took place; the files are kept.
        NotSupported: The catalog cannot do it.
    """
    lake = writable(catalog)
    lake.check_joint()
    changes: list[tuple[TableName, StagedWrite | None]] = [(each.target, each) for each in staged]
    changes += [(name, None) for name in drops]
    changes.sort(key=lambda change: change[0])
    with ExitStack() as locks:
        for name, _ in changes:
            locks.enter_context(lake.committing(name.schema, name.table))
        for name, write in changes:
            _announce(lake, write, name)
        events = retried(lambda: _together(lake, changes, ready))
        if events is None:
            raise CommitConflict("the commit took too long and was aborted; nothing was stored", "try again")
        lake.record(*events)
        for name, _ in changes:
            lake.objects.write_out(name.schema, name.table)
    for each in staged:
        _tell(lake, each)
        _delete(lake, each.superseded)


def _announce(lake: IcebergCatalog, staged: StagedWrite | None, name: TableName | None = None) -> None:
    """Tell of a table that is about to be created, replaced or dropped."""
    if lake.observer is None:
        return
    if staged is None:
        if name is not None and lake.table_exists(name.schema, name.table):
            lake.observer.dropping(lake.load(name.schema, name.table))
    elif staged.mode is not WriteMode.APPEND or _evolves(staged):
        after = lake.view(staged.target, staged.table.metadata)
        lake.observer.altering(after, staged.base, staged.sources)


def _tell(lake: IcebergCatalog, staged: StagedWrite) -> None:
    if lake.observer is not None and staged.sources:
        lake.observer.filled(staged.target, staged.sources)


def _together(
    catalog: IcebergCatalog,
    changes: Sequence[tuple[TableName, StagedWrite | None]],
    ready: Ready | None,
) -> list[ChangeEvent] | None:
    """Try once to make all changes take place; gives the events of it, or None where somebody aborted them.

    Raises:
        CommitFailedException: Another writer came first, and nothing was changed; it can be tried again.
    """
    promise = catalog.clock.token()
    events: list[ChangeEvent] = []
    try:
        for name, write in changes:
            _promise(catalog, name, write, promise, events, ready)
    except BaseException as error:
        _abort(catalog, promise)
        if isinstance(error, CommitStateUnknown | CommitStateUnknownException):
            raise StorageError("storage failed before the commit; nothing was stored") from error
        raise
    return events if _decided(catalog, promise) else None


def _promise(
    catalog: IcebergCatalog,
    name: TableName,
    staged: StagedWrite | None,
    promise: str,
    events: list[ChangeEvent],
    ready: Ready | None,
) -> None:
    def told(change: Change) -> None:
        events.extend(events_of(name, change))

    with iceberg_errors(f"table '{name}'"):
        if staged is None:
            dropped = catalog.dropped(name.schema, name.table)
            retried(lambda: catalog.objects.promise_drop(name.schema, name.table, promise))
            events.append(dropped)
        elif staged.new is not None:
            _create(catalog, staged, told, promise, ready)
        else:
            _change(catalog, staged, told, promise, ready=ready)


def _decided(catalog: IcebergCatalog, promise: str) -> bool:
    """Commit; gives whether nobody aborted before."""
    try:
        return catalog.objects.decide(promise, commit=True)
    except StorageError:
        # The answer may be late rather than never: it is settled by the opposite.
        if catalog.objects.decide(promise, commit=False):
            return True
        raise


def _abort(catalog: IcebergCatalog, promise: str) -> None:
    """Release what was promised. Where that fails too, whoever wants to go on will do it."""
    try:
        catalog.objects.decide(promise, commit=False)
    except (StorageError, CommitStateUnknownException):
        _log.warning("a commit that did not take place could not be marked so", exc_info=True)


def discard(catalog: Catalog, staged: StagedWrite) -> None:
    """Delete the files of a write that is not going to be committed."""
    _delete(writable(catalog), staged.data_files + staged.superseded)


def _to_create(
    catalog: IcebergCatalog, name: TableName, columns: pa.Schema, definition: TableDefinition | None = None
) -> Target:
    definition = definition or TableDefinition(columns)
    schema = definition.schema(itertools.count(1).__next__)
    spec, order = partition_spec(definition.partitioning, schema), sort_order(definition.sorting, schema)
    with iceberg_errors(f"table '{name}'"):
        new = catalog.objects.staged_table(name.schema, name.table, schema, dict(_PROPERTIES), spec, order)
    new.metadata.properties.update(definition.properties(new.metadata.schema()))
    view = catalog.view(name, new.metadata)
    return Target(WriteMode.CREATE, new.metadata.schema(), view, new=new, definition=definition)


def _to_append(base: Table, alterations: Sequence[Alteration], token: str) -> Target:
    if not alterations:
        return Target(WriteMode.APPEND, base.metadata.schema(), base, base)
    with iceberg_errors(f"table '{base.name}'"):
        wanted = altered(base, alterations)
        after = updated_metadata(base.metadata, _evolution(base, wanted))
    view = replace(base, metadata=after, staged=(), draft=f"+{token}")
    return Target(WriteMode.APPEND, after.schema(), view, base)


def _evolution(base: Table, wanted: TableMetadata) -> tuple[TableUpdate, ...]:
    """The changes after which a table has the columns, and what is said of them, of another version."""
    before = base.metadata.properties
    told = {name: text for name, text in wanted.properties.items() if before.get(name) != text}
    updates = _schema_updates(base.metadata, wanted.schema())
    return (*updates, SetPropertiesUpdate(updates=told)) if told else updates


def _evolves(staged: StagedWrite) -> bool:
    """Whether rows are added with a change of the columns."""
    return bool(staged.mode is WriteMode.APPEND and staged.table.draft)


def _to_replace(
    base: Table, columns: pa.Schema, replacement: str, definition: TableDefinition | None = None
) -> Target:
    metadata = base.metadata
    next_id = itertools.count(metadata.last_column_id + 1).__next__
    if definition is None:
        wanted = iceberg_types.iceberg_schema(columns, next_id, metadata.schema())
    else:
        wanted = definition.schema(next_id, metadata.schema())
    if _keeps_rest(definition):
        _check_columns_of_layout(base, wanted)
    with iceberg_errors(f"table '{base.name}'"):
        after = _replaced(metadata, wanted, definition)
    view = replace(base, metadata=after, staged=(), replacement=f"-{replacement}")
    return Target(WriteMode.REPLACE, after.schema(), view, base, definition=definition)


def _keeps_rest(definition: TableDefinition | None) -> bool:
    """Whether a table that is replaced keeps its partitions and order."""
    return definition is None or definition.keeps_rest


def _replaced(metadata: TableMetadata, wanted: Schema, definition: TableDefinition | None) -> TableMetadata:
    """A table's metadata after its replacement, rows apart."""
    updates = _schema_updates(metadata, wanted)
    if definition is None:
        return updated_metadata(metadata, updates)
    if definition.keeps_rest:
        after = updated_metadata(metadata, updates)
        return updated_metadata(after, definition.replacing(after))
    # No spec of the old columns must be looked at with the new ones.
    bare = updated_metadata(metadata, (*partition_updates(metadata, ()), *sort_updates(metadata, ())))
    after = updated_metadata(bare, updates)
    return updated_metadata(after, definition.replacing(after))


def _check_writable(base: Table, *, anew: bool = False) -> None:
    if base.metadata.format_version > 2:
        raise NotSupported(
            f"table '{base.name}' has a format version above 2; such tables cannot be written to yet"
        )
    if not anew:
        check_layout(base.metadata, str(base.name))


def _check_columns_of_layout(base: Table, wanted: Schema) -> None:
    """Make sure that new columns still have those by which the table is partitioned and sorted."""
    present = {field.field_id for field in wanted.fields}
    for field_id in layout_columns(base.metadata) - present:
        name = base.metadata.schema().find_column_name(field_id)
        raise SchemaMismatch(
            f"table '{base.name}' is partitioned or sorted by its column '{name}', which the columns "
            "that are to replace its own do not have with the same type",
            "drop the table first",
        )


def _schema_updates(metadata: TableMetadata, wanted: Schema) -> tuple[TableUpdate, ...]:
    if wanted == metadata.schema():
        return ()
    for schema in metadata.schemas:
        if wanted == schema:
            return (SetCurrentSchemaUpdate(schema_id=schema.schema_id),)
    schema_id = max(schema.schema_id for schema in metadata.schemas) + 1
    added = wanted.model_copy(update={"schema_id": schema_id})
    return AddSchemaUpdate(schema_=added), SetCurrentSchemaUpdate(schema_id=schema_id)


def _makes_snapshot(staged: StagedWrite) -> bool:
    if staged.data_files or staged.removed or _is_step(staged):
        return True
    return (
        staged.mode is WriteMode.REPLACE and staged.base is not None and staged.base.snapshot_id is not None
    )


def _is_step(staged: StagedWrite) -> bool:
    """Whether there is something to be told of even if there are no rows."""
    return staged.mark is not None and staged.mark.sync is not None


def _rows(staged: StagedWrite, now: TableMetadata | None = None) -> NewSnapshot | None:
    if not _makes_snapshot(staged):
        return None
    anew = staged.mode is WriteMode.REPLACE
    goes_on = carried(now) if now is not None and not anew else {}
    properties = {
        **(generation_of(staged.commit_id) if anew else goes_on),
        COMMIT_ID_PROPERTY: staged.commit_id,
        **origin_properties(staged.shares, len(staged.row_events)),
    }
    if staged.mark is not None:
        properties |= staged.mark.properties
    removed = frozenset(file.uri for file in staged.removed)
    return NewSnapshot(
        staged.snapshot_id,
        staged.data_files,
        properties,
        anew,
        removed,
        staged.keeps_rows,
        staged.shares,
        staged.row_events,
    )


def _create(
    catalog: IcebergCatalog, staged: StagedWrite, told: Told, promise: str = "", ready: Ready | None = None
) -> None:
    if staged.new is None:
        raise AssertionError("only a write that creates a table has a new one")
    try:
        create_table(catalog.objects, staged.new, lambda _: _rows(staged), promise, ready, told)
    except ValidationException as error:
        head = catalog.objects.head(staged.target.schema, staged.target.table)
        if head.metadata is not None and head.metadata.table_uuid == staged.new.metadata.table_uuid:
            return  # it was committed before
        raise TableAlreadyExists(
            f"table '{staged.target}' was created by another writer at the same time; nothing was stored"
        ) from error


def _change(
    catalog: IcebergCatalog,
    staged: StagedWrite,
    told: Told,
    promise: str = "",
    known: Head | None = None,
    ready: Ready | None = None,
) -> None:
    base = staged.base
    if base is None:
        raise AssertionError("only a write that creates a table has no base")

    def build(transaction: Transaction) -> NewSnapshot | None:
        now = transaction.table_metadata
        if now.snapshot_by_id(staged.snapshot_id) is not None:
            return None  # it was committed before
        if staged.mark is not None:
            _check_mark(staged.mark, now, staged)
        if (now.table_uuid, now.current_schema_id) != (base.metadata.table_uuid, base.schema_id):
            raise columns_changed(staged.target)
        if staged.serializable and _added_since(catalog, base, now):
            raise CommitConflict(
                f"rows were added to table '{staged.target}' by another writer at the same time; "
                "nothing was stored",
                "try again",
            )
        if _deleted_since(catalog, staged, now):
            raise CommitConflict(
                f"rows of table '{staged.target}' were deleted by another writer at the same time; "
                "nothing was stored",
                "try again",
            )
        if staged.mode is WriteMode.REPLACE:
            _stage_replacement(transaction, base, staged)
        elif _evolves(staged):
            _stage_evolution(transaction, base, staged)
        spec_id = transaction.table_metadata.default_spec_id
        if any(file.spec_id != spec_id for file in staged.data_files):
            raise CommitConflict(
                f"the partitioning of table '{staged.target}' was changed by another writer at the same "
                "time; nothing was stored",
                "send the rows again",
            )
        return _rows(staged, now)

    is_change = staged.mode is WriteMode.REPLACE or _evolves(staged) or _is_step(staged)
    if is_change or staged.data_files or staged.removed:
        schema, table = staged.target.schema, staged.target.table
        change_table(catalog.objects, schema, table, build, promise, known, ready, told)


def _check_mark(mark: IngestMark, now: TableMetadata, staged: StagedWrite) -> None:
    """Make sure that the rows of an ingest are not in a table already.

    Raises:
        AlreadyIngested: They are.
        CommitConflict: Another run of what is run again and again was faster.
    """
    step = mark.sync
    if step is not None and sync_states(now).get(step.id, "") != step.before:
        raise CommitConflict(
            f"table '{staged.target}' was brought up to date by another run at the same time; nothing was "
            "stored",
            "try again",
        )
    snapshot_id = marked_snapshot(now, mark.key, only_last=staged.mode is WriteMode.REPLACE)
    if snapshot_id is not None:
        raise AlreadyIngested(f"the same rows are in table '{staged.target}' already", snapshot_id)


def _stage_evolution(transaction: Transaction, base: Table, staged: StagedWrite) -> None:
    """Stage the change of a table's columns that its new files were written for.

    Raises:
        CommitConflict: What the change depends on was changed meanwhile, even if it was changed back.
    """
    if _columns_state(transaction.table_metadata) != _columns_state(base.metadata):
        raise columns_changed(staged.target)
    stage_updates(transaction, _evolution(base, staged.table.metadata))


def columns_changed(table: TableName) -> CommitConflict:
    """What rows run into that were meant for other columns than a table has by now."""
    return CommitConflict(
        f"the columns of table '{table}' were changed by another writer at the same time; nothing was stored",
        "send the rows again",
    )


def _columns_state(metadata: TableMetadata) -> tuple[int, ...]:
    return (
        metadata.last_column_id,
        len(metadata.schemas),
        metadata.default_spec_id,
        len(metadata.partition_specs),
        metadata.default_sort_order_id,
    )


def _stage_replacement(transaction: Transaction, base: Table, staged: StagedWrite) -> None:
    """Stage what makes of a table its replacement, rows apart."""
    now, definition = transaction.table_metadata, staged.definition
    if definition is None:
        stage_updates(transaction, _schema_updates(now, staged.schema))
        return
    if definition.keeps_rest:
        stage_updates(transaction, _schema_updates(now, staged.schema))
        stage_updates(transaction, definition.replacing(transaction.table_metadata))
        return
    if (now.default_spec_id, len(now.partition_specs)) != (
        base.metadata.default_spec_id,
        len(base.metadata.partition_specs),
    ):
        raise CommitConflict(
            f"the partitions of table '{staged.target}' were changed by another writer at the same time; "
            "nothing was stored",
            "try again",
        )
    stage_updates(transaction, (*partition_updates(now, ()), *sort_updates(now, ())))
    stage_updates(transaction, _schema_updates(transaction.table_metadata, staged.schema))
    stage_updates(transaction, definition.replacing(transaction.table_metadata))


def _added_since(catalog: IcebergCatalog, base: Table, now: TableMetadata) -> bool:
    """Whether a version of a table has files that an older one had not."""
    if now.current_snapshot_id == base.metadata.current_snapshot_id:
        return False
    before = (
        {file.uri for file in base.files(base.metadata.current_snapshot_id)} if base.snapshot_id else set()
    )
    after = catalog.view(base.name, now).files()
    return any(file.uri not in before for file in after)


def _deleted_since(catalog: IcebergCatalog, staged: StagedWrite, now: TableMetadata) -> bool:
    """Whether delete files came for the data files that go: their rows would be there again."""
    if not staged.removed or staged.base is None:
        return False
    if now.current_snapshot_id == staged.base.metadata.current_snapshot_id:
        return False
    deletes = {file.uri: file.deletes for file in catalog.view(staged.target, now).files()}
    return any(deletes.get(file.uri, file.deletes) != file.deletes for file in staged.removed)


def _delete(catalog: IcebergCatalog, files: Sequence[DataFile]) -> None:
    for file in files:
        try:
            catalog.bucket.delete(catalog.bucket.key_of(file.file_path))
        except ObjectNotFound:
            pass
        except StorageError:
            _log.warning("a data file that no table refers to could not be deleted", exc_info=True)
