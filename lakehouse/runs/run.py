"""One ingest from its beginning to its end: in a session of the caller's, in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa
import structlog

from lakehouse.access.principal import Principal
from lakehouse.catalog import Table
from lakehouse.catalog.commit import columns_changed
from lakehouse.catalog.ingest_mark import (
    IngestMark,
    SyncStep,
    columns_of,
    generation,
    is_cut_off,
    marked_snapshot,
    snapshot_of_run,
)
from lakehouse.catalog.names import fold
from lakehouse.catalog.observer import coming_from
from lakehouse.clock import Clock
from lakehouse.engine.changes import Scope
from lakehouse.engine.engine import Engine
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    AlreadyIngested,
    CommitConflict,
    InternalError,
    InvalidRequest,
    LakehouseError,
    SchemaNotFound,
    StorageError,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import WriteMode
from lakehouse.ingest.sources.incremental import Incremental, SyncAccount
from lakehouse.ingest.sources.source import Disproved, Inspection, OnError, Progress, Source
from lakehouse.journal.change_event import Origin, acting
from lakehouse.runs.declaring import can_be_key, definition, with_required
from lakehouse.runs.fitting import Evolve, Fitted, fitted, stated
from lakehouse.runs.record import RunColumn, RunRecord, RunState
from lakehouse.runs.recorded import RecordedRun
from lakehouse.runs.rejects import REJECTS_SCHEMA, Rejects
from lakehouse.runs.statements import FRESH, INCOMING, ambiguous, fresh, insert, span, upsert
from lakehouse.runs.store import RunStore
from lakehouse.runs.sync import SyncRequest, SyncState
from lakehouse.types import TableName

_REJECTS = "_rejects"
# How often what is new is looked for anew, because another writer was faster.
_ATTEMPTS = 5
_log = structlog.get_logger()


class IngestMode(StrEnum):
    """What is to become of the table."""

    CREATE = "create"
    APPEND = "append"
    """Rows are added; the table is made where there is none."""
    REPLACE = "replace"
    UPSERT = "upsert"
    """Rows with a key that is there take the place of those; others are added."""


_MODES = {
    IngestMode.CREATE: WriteMode.CREATE,
    IngestMode.APPEND: WriteMode.CREATE_APPEND,
    IngestMode.REPLACE: WriteMode.REPLACE,
}


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """What an ingest is to do.

    Attributes:
        table: Where the rows go.
        mode: What is to become of the table.
        on_error: What becomes of rows that do not fit.
        keys: The columns that tell rows apart, for ``upsert``; the table's primary key when left out.
        types: Types of columns that are not to be inferred, by name.
        evolve: How the table may change.
        key: Runs with the same key bring the same rows, and only the first of them does anything; None takes
            the content of the source, and with an empty one every run brings its rows.
        sync: That only what is new is to come, of an ``Incremental`` source, and how that is called.
    """

    table: TableName
    mode: IngestMode = IngestMode.APPEND
    on_error: OnError = OnError.FAIL
    keys: tuple[str, ...] = ()
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    evolve: Evolve = Evolve.ADD
    key: str | None = None
    sync: SyncRequest | None = None


class Run(RecordedRun):
    """One ingest from its beginning to its end."""

    def __init__(
        self,
        engine: Engine,
        store: RunStore,
        clock: Clock,
        request: IngestRequest,
        source: Source,
        principal: Principal,
        cancelled: Callable[[], bool],
        progress: Progress,
        record: RunRecord,
    ) -> None:
        super().__init__(store, clock, record, cancelled, progress)
        self._engine = engine
        self._request = request
        self._source = source
        self._principal = principal
        self._rejects = Rejects(record.id)
        self._state = SyncState("")

    def execute(self) -> RunRecord:
        """Do it; gives the record of its end.

        Raises:
            LakehouseError: It failed, or was cancelled.
        """
        try:
            with (
                acting(Origin(actor=self._principal.name, source="ingest")),
                coming_from(self._source.system, self._source.described, f"ingest {self.record.id}"),
                closing(self._source),
                closing(self._rejects),
                closing(self._engine.new_session(self.record.id, {}, self._principal)) as session,
            ):
                self._note(state=RunState.RUNNING)
                snapshot_id = self._ingest(session)
            rejected = f", {self._rejects.count} rejected" if self._rejects.count else ""
            message = f"{self.record.rows_stored} rows were stored{rejected}"
            self._end(RunState.SUCCEEDED, message=message, snapshot_id=snapshot_id, progress=1.0)
        except AlreadyIngested as error:
            self._end(RunState.REPEATED, message=error.message, snapshot_id=error.snapshot_id)
        except BaseException as error:
            self._failed(error, "ingest")
            raise
        return self.record

    def give_up(self) -> None:
        """End a run that has not begun."""
        self._source.close()
        super().give_up()

    # -- steps ----------------------------------------------------------------------------------------

    def _ingest(self, session: Session) -> int | None:
        """Bring the rows into the table; gives the snapshot that they made, if any."""
        target = self._request.table
        session.lakes.of(target.catalog).check_write(target.schema, target.table)
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._once(session)
            except (CommitConflict, TableAlreadyExists) as error:
                if not self._may_begin_again:
                    raise
                _log.info("ingest_begins_again", run=self.record.id, reason=error.message)
                self._rejects.clear()
                self._note(rows_in=0, rows_rejected=0, rows_stored=0)
        return self._once(session)

    @property
    def _may_begin_again(self) -> bool:
        """Whether what another writer, who was faster, did leaves to do what was asked for."""
        return self._request.mode is not IngestMode.CREATE and not self._source.comes_once

    def _once(self, session: Session) -> int | None:
        """Try to bring the rows into the table; gives the snapshot that they made, if any."""
        request = self._request
        if request.sync is not None:
            self._begin(request.sync)
        inspection = stated(self._source.inspect(self._cancelled, self._progress), request.types)
        key = self._key(inspection)
        table = self._existing()
        if table is not None:
            self._check_repeated(table, key)
        while True:
            try:
                return self._stored(session, inspection, key, table)
            except Disproved as error:
                _log.info("ingest_begins_again", run=self.record.id, reason=error.message)
                inspection = error.inspection
                self._rejects.clear()
                self._note(rows_in=0, rows_rejected=0)

    def _stored(self, session: Session, inspection: Inspection, key: str, table: Table | None) -> int | None:
        """Try to bring the rows into the table; gives the snapshot that they made, if any.

        Raises:
            Disproved: The rows are not what the inspection says, and nothing was changed.
        """
        keys = self._keys(inspection, table)
        if table is None or self._request.mode is IngestMode.REPLACE:
            fit = Fitted(with_required(inspection, keys))
        else:
            fit = fitted(inspection, table, self._request.evolve)
        self._note_columns(fit.inspection)
        transaction = session.begin()
        mark = transaction.mark = IngestMark(self._request.table, self.record.id, key)
        try:
            if table is None:
                self._need_schema(session, transaction)
            stored = self._load(session, transaction, fit, keys, table)
            step = self._step(session, transaction, fit.inspection, stored)
            transaction.mark = replace(mark, sync=step)
            rejects = self._load_rejects(session, transaction)
        except BaseException:
            session.end(transaction, commit=False)
            raise
        self._note(rows_stored=stored, rejects_table=rejects, message="committing")
        try:
            session.end(transaction, commit=True)
        except TableAlreadyExists:
            made_meanwhile = self._existing()
            if made_meanwhile is not None:
                self._check_repeated(made_meanwhile, key)
            raise
        return self._noted_snapshot(key, step)

    def _need_schema(self, session: Session, transaction: Transaction) -> None:
        target = self._request.table
        if not session.lakes.of(target.catalog).schema_exists(target.schema):
            self._engine.changes.need_schema(session, transaction, target.catalog, target.schema)

    def _noted_snapshot(self, key: str, step: SyncStep | None) -> int | None:
        """The snapshot that the rows made, if any, with their key noted.

        The rows are in the table already, so a failure is none of the ingest: the snapshot has the key, too.
        """
        try:
            made = self._engine.catalogs.load(self._request.table)
            snapshot_id = snapshot_of_run(made.metadata, self.record.id)
            if key:
                self._store.note_key(_place(made), key, self.record.id, snapshot_id)
            if step is not None:
                self._tidy(made)
        except LakehouseError as error:
            _log.warning("ingest_key_not_noted", run=self.record.id, reason=str(error))
            return None
        return snapshot_id

    # -- only what is new -------------------------------------------------------------------------------

    def _begin(self, sync: SyncRequest) -> None:
        """Look what is new.

        Raises:
            AlreadyIngested: Nothing is.
            InvalidRequest: What came before is of another source.
        """
        source, table = self._incremental, self._existing()
        self._state = SyncState.of(sync.name or source.name, table)
        if sync.reset:
            self._state = replace(self._state, at=None)
        elif table is not None and not self._state.text and is_cut_off(table.metadata):
            self._check_never_synced(table)
        self._state.check(source)
        source.account = SyncAccount(name=self._state.name)
        is_new = source.begin(self._state.at, self._cancelled, self._progress)
        self._note(sync=source.account)
        if not is_new:
            raise AlreadyIngested("nothing is new", None)

    def _check_never_synced(self, table: Table) -> None:
        """Refuse to begin where nobody knows whether that would be the beginning.

        Raises:
            InvalidRequest: The sync has brought rows before.
        """
        if self._store.is_synced(table.uuid, self._state.id):
            raise InvalidRequest(
                f"how far sync '{self._state.name}' had got in table '{table.name}' was lost: another "
                "program expired all snapshots that told of it",
                "with reset = true everything comes again",
            )

    def _step(
        self, session: Session, transaction: Transaction, inspection: Inspection, stored: int
    ) -> SyncStep | None:
        """What the table is to remember of what is new, if it is to.

        Raises:
            AlreadyIngested: Nothing was new after all.
        """
        if self._request.sync is None:
            return None
        source, state, target = self._incremental, self._state, self._request.table
        known = self.record.rows_in - self.record.rows_rejected - stored
        source.account = source.account.model_copy(update={"rows_known": known})
        self._note(sync=source.account)
        if transaction.known(target) not in transaction.writes:
            scope = Scope(session, transaction, CallWatch(self._cancelled))
            self._engine.changes.ingest(scope, target, WriteMode.APPEND, inspection.schema, iter(()))
        table = transaction.load(target)
        uuid = str(table.metadata.table_uuid)  # whatever is staged for it
        at = source.reached(uuid, self.record.id)
        if not stored and at == state.at:
            raise AlreadyIngested("nothing is new", None)
        if not state.text:
            self._store.note_sync(uuid, state.id)
        return SyncStep(
            target, state.id, state.text, state.after(source, at, table.schema_id, self.record.id)
        )

    def _tidy(self, table: Table) -> None:
        try:
            self._incremental.tidy(table.uuid, self._state.all_of(table))
        except StorageError as error:
            _log.warning("sync_not_tidied", run=self.record.id, reason=error.message)

    @property
    def _incremental(self) -> Incremental:
        if not isinstance(self._source, Incremental):
            raise InternalError("this source cannot tell what is new")
        return self._source

    def _existing(self) -> Table | None:
        """The table as it is. That the caller may write it, if not read it, has been made sure of."""
        target = self._request.table
        lake = self._engine.catalogs.of(target.catalog)
        lake.refresh(target.schema, target.table)
        try:
            return lake.load(target.schema, target.table)
        except (TableNotFound, SchemaNotFound):
            return None

    def _key(self, inspection: Inspection) -> str:
        if self._request.sync is not None:
            return ""
        said = self._request.key
        text = inspection.identity if said is None else said
        if not text:
            return ""
        key = hashlib.sha256(f"{'content' if said is None else 'said'}:{text}".encode()).hexdigest()[:32]
        self._note(key=key)
        return key

    def _check_repeated(self, table: Table, key: str) -> None:
        """Find out whether the rows are in the table already.

        Raises:
            AlreadyIngested: They are.
        """
        replaces = self._request.mode is IngestMode.REPLACE
        found = marked_snapshot(table.metadata, key, only_last=replaces)
        if found is None and key and not replaces:
            noted = self._store.noted_key(_place(table), key)
            known = {snapshot.snapshot_id for snapshot in table.snapshots()}
            # A snapshot that is there, but not among those that the table is made of, was rolled back.
            found = noted[1] if noted is not None and noted[1] not in known else None
        if found is not None:
            raise AlreadyIngested(f"the same rows are in table '{table.name}' already", found)

    def _keys(self, inspection: Inspection, table: Table | None) -> tuple[str, ...]:
        """The columns that tell rows apart: those that were named, or are declared.

        Raises:
            InvalidRequest: There are none, and they are needed; or one of them does not come.
        """
        anew = table is None or self._request.mode is IngestMode.REPLACE
        keys = self._request.keys or (inspection.primary_key if anew else ())
        if not keys and table is not None:
            keys = table.primary_key
        if self._request.mode is not IngestMode.UPSERT:
            return keys if self._request.keys or can_be_key(inspection, keys) else ()
        if not keys:
            raise InvalidRequest(
                f"rows of '{self._request.table}' cannot be told apart: it has no primary key",
                "name the key columns",
            )
        coming = {fold(column.name) for column in inspection.columns}
        for key in keys:
            if fold(key) not in coming:
                raise InvalidRequest(f"the key column '{key}' does not come")
        return keys

    def _load(
        self,
        session: Session,
        transaction: Transaction,
        fit: Fitted,
        keys: tuple[str, ...],
        table: Table | None,
    ) -> int:
        inspection = fit.inspection
        request, changes, schema = self._request, self._engine.changes, inspection.schema
        scope = Scope(session, transaction, CallWatch(self._cancelled))
        rows = self._batches(inspection)
        declared = definition(inspection, keys, request.table, session.lakes.of(request.table.catalog))
        again = self._again(session, inspection, table)
        if request.mode is not IngestMode.UPSERT and not again:
            self._check_columns(transaction, fit, table)
            mode = _MODES[request.mode]
            return changes.ingest(scope, request.table, mode, schema, rows, declared, fit.alterations)
        coming = changes.ingest_temporary(scope, INCOMING, WriteMode.REPLACE, schema, rows)
        if request.mode is IngestMode.UPSERT:
            self._check_keys(session, transaction, keys)
        if table is None:
            changes.ingest(scope, request.table, WriteMode.CREATE, schema, iter(()), declared)
        elif fit.alterations:
            self._check_columns(transaction, fit, table)
            mode, none = WriteMode.APPEND, iter(())
            changes.ingest(scope, request.table, mode, schema, none, alterations=fit.alterations)
        names, source = [column.name for column in inspection.columns], INCOMING
        if again:
            coming, source = self._leave_out(session, transaction, names, again), FRESH
            if not coming:
                return 0
        is_upsert = request.mode is IngestMode.UPSERT
        statement = (
            upsert(request.table, source, keys, names) if is_upsert else insert(request.table, source, names)
        )
        changes.run(self._engine.gate.analyse(statement), scope)
        # Not what the statement changed: a row that is nothing but its key, and was there, is stored as well.
        return coming

    @staticmethod
    def _check_columns(transaction: Transaction, fit: Fitted, table: Table | None) -> None:
        """Make sure that a table whose columns are to change is still what was looked at.

        Raises:
            CommitConflict: It is not.
        """
        if table is None or not fit.alterations:
            return
        now = transaction.load(table.name)
        if (now.uuid, now.schema_id) != (table.uuid, table.schema_id):
            raise columns_changed(table.name)

    def _again(self, session: Session, inspection: Inspection, table: Table | None) -> str:
        """The column whose values tell which rows may have come before; empty if none can.

        Raises:
            PermissionDenied: The caller does not see which rows are there.
        """
        if table is None or self._request.sync is None or self._state.at is None:
            return ""
        wanted = self._incremental.again
        names = [column.name for column in inspection.columns if column.source_name == wanted]
        if not names:
            return ""
        target = self._request.table
        session.lakes.of(target.catalog).check_change(target.schema, target.table)
        return names[0]

    def _leave_out(self, session: Session, transaction: Transaction, names: list[str], column: str) -> int:
        """Find out which incoming rows are not in the table as they are; gives how many."""
        target = self._request.table
        (ends,) = self._asked(session, transaction, span(column))
        if ends["low"] is None:
            return 0
        table = transaction.load(target)
        kinds = {fold(name): kind for name, kind in table.sql_columns()}
        types = {name: kinds[fold(name)] for name in names}
        then = set(map(fold, columns_of(table.metadata, self._state.schema)))
        told_by = [name for name in names if fold(name) in then or name == column]
        statement = fresh(target, types, told_by, column, ends["low"], ends["high"])
        scope = Scope(session, transaction, CallWatch(self._cancelled))
        self._engine.changes.run(self._engine.gate.analyse(statement), scope)
        (found,) = self._asked(session, transaction, f"SELECT count(*) AS n FROM {FRESH}")
        return int(found["n"])

    def _asked(self, session: Session, transaction: Transaction, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, as what is done sees them."""
        plan = self._engine.plan(self._engine.gate.analyse(sql), session, transaction)
        batches = self._engine.open(plan, session, CallWatch(self._cancelled))
        return [row for batch in batches for row in batch.to_pylist()]

    def _batches(self, inspection: Inspection) -> Iterator[pa.RecordBatch]:
        pieces = self._source.read(inspection, self._request.on_error, self._cancelled, self._progress)
        for piece in pieces:
            self._rejects.add(piece.rejected)
            self._note(
                rows_in=self.record.rows_in + piece.rows_in,
                rows_rejected=self._rejects.count,
            )
            if piece.batch.num_rows:
                yield piece.batch

    def _load_rejects(self, session: Session, transaction: Transaction) -> str:
        """Put the rejected rows beside the table; gives the name of theirs, if there are any."""
        if not self._rejects.count:
            return ""
        target = self._request.table
        beside = TableName(target.catalog, target.schema, f"{target.table}{_REJECTS}")
        scope = Scope(session, transaction, CallWatch(self._cancelled))
        self._engine.changes.ingest(
            scope, beside, WriteMode.CREATE_APPEND, REJECTS_SCHEMA, self._rejects.batches()
        )
        return str(beside)

    def _check_keys(self, session: Session, transaction: Transaction, keys: tuple[str, ...]) -> None:
        """Make sure that no key comes twice, or without a value.

        Raises:
            InvalidRequest: One does; names it.
        """
        for row in self._asked(session, transaction, ambiguous(keys)):
            values = list(row.values())
            shown = ", ".join(f"{name} = {value!r}" for name, value in zip(keys, values, strict=False))
            raise InvalidRequest(
                f"the key {shown} comes {values[-1]} times; a key must have a value and come once",
                "name other key columns, or make the rows distinct",
            )

    # -- the account ----------------------------------------------------------------------------------

    def _note_columns(self, inspection: Inspection) -> None:
        columns = tuple(map(RunColumn.of, inspection.columns))
        self._note(columns=columns, details=dict(inspection.details))


def _place(table: Table) -> str:
    """Where keys of a table are noted: elsewhere once its rows were replaced."""
    number = generation(table.metadata)
    return f"{table.uuid}-{number}" if number else str(table.uuid)
