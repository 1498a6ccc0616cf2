"""Small files put together into files of the target size, without changing what the table holds.

Rows that delete files take away are left out for good: what is written needs no delete file any more.

Files are packed into groups and each group is committed by itself: what is done is done when the next one
fails, and a writer that changes a row meanwhile costs one group, not all of them. A commit takes out exactly
the files that were read and is refused when one of them is gone, so that no row can be lost, come back or
come twice; appends do not disturb it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import structlog

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.catalog.commit import StagedWrite, commit, discard, rewriting
from lakehouse.catalog.delete_files import Held, deleted_rows
from lakehouse.catalog.history import FileRecord, file_records
from lakehouse.catalog.references import latest
from lakehouse.catalog.table import SortColumn
from lakehouse.errors import (
    CommitConflict,
    CommitStateUnknown,
    InternalError,
    StatementCancelled,
    TableNotFound,
)
from lakehouse.ingest import stage_for
from lakehouse.types import DataFileRef

_log = structlog.get_logger()
# Files that reach this share of the target size are large enough.
_LARGE_ENOUGH = 0.75
# A group gives about so many files: enough that sorting and committing pay, few enough to lose to a conflict.
_FILES_OF_A_GROUP = 8
_ROUNDS = 3
# A file of which more than this share of the rows is deleted, or some rows by so many delete files, is
# written anew by itself, however large it is.
_DELETED_SHARE = 0.05
_MANY_DELETES = 8

Report = Callable[[float, str], None]


class Reader(Protocol):
    """What gives the rows of files."""

    def rows(
        self,
        table: Table,
        files: Sequence[DataFileRef],
        order: Sequence[SortColumn],
        cancelled: Callable[[], bool],
    ) -> AbstractContextManager[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Columns and rows of some files, sorted, for the length of a ``with``."""
        ...


@dataclass(frozen=True, slots=True)
class CompactionOptions:
    """What is worth being compacted, and into what.

    Args:
        target_bytes: How large the new files become.
        min_files: Groups of fewer files are left alone, unless so many rows of a file are deleted that it is
            worth it; with 1 every file is that has a delete file.
        partition: Only files of the partitions whose path begins so: ``day=2026-01-01``.
    """

    target_bytes: int
    min_files: int = 5
    partition: str = ""


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What was done; ``conflicts`` counts groups that another writer changed first."""

    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    commits: int = 0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    files: tuple[DataFileRef, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class Compactor:
    """Compacts tables of one catalog.

    Args:
        catalog: Where they are.
        reader: Gives the rows of files.
    """

    def __init__(self, catalog: IcebergCatalog, reader: Reader) -> None:
        self._catalog = catalog
        self._reader = reader

    def compact(
        self,
        schema: str,
        name: str,
        options: CompactionOptions,
        report: Report,
        cancelled: Callable[[], bool],
    ) -> CompactionResult:
        """Put the small files of a table together.

        Args:
            schema: The table's schema.
            name: Its name.
            options: What is worth it.
            report: Told of the share done, 0 to 1, and what is going on.
            cancelled: Asked between batches; what was committed until then stays.

        Raises:
            SchemaNotFound, TableNotFound: There is no such table.
            NotSupported: The table has files that cannot be read or written.
            StatementCancelled: ``cancelled`` said so.
        """
        result = CompactionResult()
        for _ in range(_ROUNDS):
            table = latest(self._catalog, schema, name)
            groups = groups_of(table, options)
            if not groups:
                break
            conflicts = result.conflicts
            result = self._round(table, groups, options, result, report, cancelled)
            if result.conflicts == conflicts:
                break
        return result

    def _round(
        self,
        table: Table,
        groups: Sequence[_Group],
        options: CompactionOptions,
        result: CompactionResult,
        report: Report,
        cancelled: Callable[[], bool],
    ) -> CompactionResult:
        total = sum(group.size_bytes for group in groups) or 1
        done = 0
        for number, group in enumerate(groups, start=1):
            what = f"{len(group.files)} files of {table.name}, group {number} of {len(groups)}"
            report(done / total, what)
            if cancelled():
                raise StatementCancelled("the compaction was cancelled; what was committed before stays")
            try:
                current = latest(self._catalog, table.name.schema, table.name.table)
                staged = self._rewrite(current, group, options, cancelled)
            except CommitConflict as conflict:
                _log.info("compaction_conflict", table=str(table.name), reason=conflict.message)
                result = replace(result, conflicts=result.conflicts + 1)
            else:
                result = _with(result, group, staged)
            done += group.size_bytes
        report(1.0, f"{result.files_before} files of {table.name} became {result.files_after}")
        return result

    def _rewrite(
        self, table: Table, group: _Group, options: CompactionOptions, cancelled: Callable[[], bool]
    ) -> StagedWrite:
        # Rows may have been deleted since the files were chosen.
        there = {file.uri: file for file in table.files()}
        if not all(file.uri in there for file in group.files):
            raise CommitConflict(
                f"files of table '{table.name}' were rewritten by another writer", "try again"
            )
        files = tuple(there[file.uri] for file in group.files)
        target = replace(rewriting(table, files), file_bytes=options.target_bytes)
        with self._reader.rows(table, files, table.sort_columns, cancelled) as (schema, batches):
            staged = stage_for(self._catalog, target, schema, batches, cancelled)
        try:
            _check_rows(table, files, staged)
            commit(self._catalog, replace(staged, keeps_rows=True))
        except CommitStateUnknown:
            raise
        except TableNotFound as error:
            discard(self._catalog, staged)
            raise CommitConflict(f"table '{table.name}' was dropped meanwhile") from error
        except BaseException:
            discard(self._catalog, staged)
            raise
        return staged


def _check_rows(table: Table, files: Sequence[DataFileRef], staged: StagedWrite) -> None:
    expected = table.planner.rows_left(files)
    if staged.rows != expected:
        raise InternalError(
            f"compacting table '{table.name}' gave {staged.rows} rows of {expected}; nothing was changed"
        )


def groups_of(table: Table, options: CompactionOptions) -> list[_Group]:
    """The files that are worth being put together, oldest first.

    Args:
        table: The table.
        options: What is worth it.
    """
    partitions = (
        _partitions(table) if options.partition or not table.metadata.spec().is_unpartitioned() else {}
    )
    by_partition: dict[tuple[int, str], list[DataFileRef]] = {}
    files = table.files()
    worn = _worn(files, options, table.planner.held)
    for file in files:
        spec_id, partition = partitions.get(table.planner.shown(file.uri), (0, ""))
        small = file.size_bytes < options.target_bytes * _LARGE_ENOUGH
        if (small or file.uri in worn) and partition.startswith(options.partition):
            by_partition.setdefault((spec_id, partition), []).append(file)
    return [
        group
        for files in by_partition.values()
        for group in _packed(files, options.target_bytes * _FILES_OF_A_GROUP)
        if len(group.files) >= max(2, options.min_files) or any(file.uri in worn for file in group.files)
    ]


def _worn(files: Sequence[DataFileRef], options: CompactionOptions, held: Held) -> set[str]:
    """Which files have so many deleted rows that they are worth being written anew by themselves."""
    if options.min_files <= 1:
        return {file.uri for file in files if file.deletes}
    return {
        file.uri
        for file, gone in deleted_rows(files, held)
        if len(gone) > file.rows * _DELETED_SHARE or (len(gone) and len(file.deletes) >= _MANY_DELETES)
    }


def _packed(files: Sequence[DataFileRef], most_bytes: int) -> Iterator[_Group]:
    """Neighbours together, so that rows which came together stay together."""
    pending: list[DataFileRef] = []
    size = 0
    for file in files:
        if pending and size + file.size_bytes > most_bytes:
            yield _Group(tuple(pending))
            pending, size = [], 0
        pending.append(file)
        size += file.size_bytes
    if pending:
        yield _Group(tuple(pending))


def _partitions(table: Table) -> dict[str, tuple[int, str]]:
    return {record.file_path: _place(record) for record in file_records(table) if record.content == "data"}


def _place(record: FileRecord) -> tuple[int, str]:
    return record.spec_id, record.partition


def _with(result: CompactionResult, group: _Group, staged: StagedWrite) -> CompactionResult:
    return replace(
        result,
        files_before=result.files_before + len(group.files),
        files_after=result.files_after + len(staged.data_files),
        rows=result.rows + staged.rows,
        bytes_before=result.bytes_before + group.size_bytes,
        bytes_after=result.bytes_after + staged.size_bytes,
        commits=result.commits + 1,
    )
