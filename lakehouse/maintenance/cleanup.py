"""Old snapshots expired, and files removed that nothing refers to.

Expiry goes in two steps. Before the snapshots are taken out of the metadata, a list of the files that only
they need is put beside it. The files on a list are deleted once it is older than the grace time, as far as
neither the current version of the table nor the one of the grace time ago refers to them and no statement of
this process reads them. So whoever read the table's metadata within the grace time can finish reading; a
failure at any point leaves a list that is looked at again; and a list for an expiry that did not take place
does no harm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from lakehouse.catalog import IcebergCatalog, Table
from lakehouse.catalog.references import latest
from lakehouse.catalog.retention import (
    Expendable,
    RetentionRule,
    expendable,
    needed_since,
    only_needed_by,
    remove_snapshots,
)
from lakehouse.errors import (
    CommitConflict,
    InternalError,
    NotSupported,
    ObjectNotFound,
    StatementCancelled,
    StorageError,
)
from lakehouse.storage import StoredObject

_log = structlog.get_logger()
_LIST = re.compile(r"[0-9a-f]+\.json")
# Of what lies beside the metadata only kinds of files that this knows are ever removed.
_METADATA_FILES = re.compile(r".+\.(avro|puffin|stats)")
_ATTEMPTS = 3
_NAMED = 1000
Report = Callable[[float, str], None]
Cancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class ExpiryResult:
    """What was done; ``pending_files`` are to be removed when the grace time is over."""

    snapshots: tuple[int, ...] = ()
    references: tuple[str, ...] = ()
    removed_files: int = 0
    pending_files: int = 0


@dataclass(frozen=True, slots=True)
class OrphanResult:
    """Files that nothing refers to: how many, how large, and the first thousand of them by key."""

    files: int = 0
    size_bytes: int = 0
    keys: tuple[str, ...] = ()


class Cleaner:
    """Removes what tables of one catalog no longer need.

    Args:
        catalog: Where they are.
        in_use: Gives the paths of the files that statements of this process read or may yet read.
        grace: How long files stay after they have become unreferenced, for readers in other processes.
    """

    def __init__(self, catalog: IcebergCatalog, in_use: Callable[[], set[str]], grace: timedelta) -> None:
        self._catalog = catalog
        self._in_use = in_use
        self._grace = grace

    def purge(self, schema: str, name: str) -> int:
        """Delete the files of a dropped table that no other refers to; gives how many these were.

        Raises:
            TableNotFound: No table of that name was dropped.
            TableAlreadyExists: There is a table or view of that name.
            CommitConflict: A statement or transaction of this process still reads the table.
            StorageError: It failed; calling it again deletes the rest.
        """
        dropped = self._catalog.objects.last_table(schema, name)
        if dropped is not None:
            bucket = self._catalog.bucket
            place = bucket.local_path(bucket.key_of(dropped.location)).rstrip("/") + "/"
            if any(path.startswith(place) for path in self._in_use()):
                raise CommitConflict(
                    f"table '{self._catalog.name}.{schema}.{name}' was dropped, but is still being read; "
                    "nothing was deleted",
                    "try again when its last statements and transactions have ended",
                )
        return self._catalog.purge(schema, name)

    # -- expiry ---------------------------------------------------------------------------------------

    def youngest_ms(self) -> int:
        """Snapshots that were committed after this are not expired."""
        return _ms(self._catalog.clock.now() - self._grace)

    def expire(self, schema: str, name: str, older_than: datetime, keep_last: int) -> ExpiryResult:
        """Forget old snapshots, and remove the files whose grace time is over.

        Tags and the heads of branches are kept.

        Args:
            schema: The table's schema.
            name: Its name.
            older_than: Snapshots committed before may go.
            keep_last: So many of each branch are kept however old they are.

        Raises:
            SchemaNotFound, TableNotFound: There is no such table.
            CommitConflict: Other writers were faster each time.
            StorageError: It failed; what was not removed is removed by a later call.
        """
        rule = RetentionRule(_ms(older_than), keep_last, self.youngest_ms())
        for attempt in range(_ATTEMPTS):
            table = self._collectable(schema, name)
            choice = expendable(table.metadata, rule, _ms(self._catalog.clock.now()))
            if not choice:
                break
            try:
                self._forget(table, choice)
            except CommitConflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                removed, pending = self.sweep(schema, name)
                return ExpiryResult(choice.snapshot_ids, choice.references, removed, pending)
        removed, pending = self.sweep(schema, name)
        return ExpiryResult((), (), removed, pending)

    def sweep(self, schema: str, name: str) -> tuple[int, int]:
        """Delete the files of expired snapshots whose grace time is over, and give up old versions.

        Returns:
            How many were deleted, and how many are still waiting for it.
        """
        table = latest(self._catalog, schema, name)
        bucket, prefix = self._catalog.bucket, self._lists(table)
        removed = pending = 0
        now_ms = _ms(self._catalog.clock.now())
        for listed in bucket.names(prefix):
            if not _LIST.fullmatch(listed):
                continue
            expired_ms, keys = _read_list(bucket.get(f"{prefix}/{listed}"))
            if now_ms - expired_ms < _length_ms(self._grace):
                pending += len(keys)
                continue
            now, lately = needed_since(self._catalog, schema, name, self.youngest_ms())
            reading = self._in_use()
            gone = [key for key in keys if key not in now]
            waiting = {key for key in gone if key in lately or self._path(key) in reading}
            removed += self._delete([key for key in gone if key not in waiting])
            pending += len(waiting)
            if not waiting:
                self._delete([f"{prefix}/{listed}"])
        self._catalog.objects.prune_versions(schema, name, self._catalog.clock.now() - self._grace)
        return removed, pending

    def _forget(self, table: Table, choice: Expendable) -> None:
        # What is elsewhere may belong to another table as well.
        own = f"{self._location(table)}/"
        needed_no_more = only_needed_by(self._catalog, table, choice.snapshot_ids)
        keys = sorted(key for key in needed_no_more if key.startswith(own))
        if keys:
            content = {"expired_at_ms": _ms(self._catalog.clock.now()), "keys": keys}
            place = f"{self._lists(table)}/{self._catalog.clock.token()}.json"
            self._catalog.bucket.put_new(place, json.dumps(content).encode())
        remove_snapshots(self._catalog, table, choice)

    # -- orphans --------------------------------------------------------------------------------------

    def remove_orphans(
        self,
        schema: str,
        name: str,
        age: timedelta,
        report: Report,
        cancelled: Cancelled,
        *,
        dry_run: bool = False,
    ) -> OrphanResult:
        """Remove what writes that never came to an end left at a table's location.

        Args:
            schema: The table's schema.
            name: Its name.
            age: Younger files stay: they may belong to a write that is still going on.
            report: Told of the share done and what is going on.
            cancelled: Asked from time to time.
            dry_run: Only tell what there is.

        Raises:
            SchemaNotFound, TableNotFound: There is no such table.
            StorageError: It failed; what was not removed is removed by a later call.
        """
        table = self._collectable(schema, name)
        before = self._catalog.clock.now() - age
        report(0.0, f"listing the files of {table.name}")
        # Listed first, asked for references afterwards: what is committed in between is seen as needed.
        known = self._known_to_be_there(table)
        old = []
        for found in self._listed(table):
            known.discard(found.key)
            if found.modified_at < before:
                old.append(found)
            if cancelled():
                raise StatementCancelled("the removal was cancelled; nothing was removed")
        if known:
            raise InternalError(
                f"the listing of table '{table.name}' lacks files that it has; none was removed"
            )
        needed = set[str]().union(*needed_since(self._catalog, schema, name, self.youngest_ms()))
        reading = self._in_use()
        orphans = [f for f in old if f.key not in needed and self._path(f.key) not in reading]
        halves = self._catalog.bucket.unfinished(self._location(table))
        orphans += [half for half in halves if half.modified_at < before]
        result = OrphanResult(
            len(orphans),
            sum(f.size_bytes for f in orphans),
            tuple(f.key for f in orphans[:_NAMED]),
        )
        for number, orphan in enumerate(() if dry_run else orphans):
            if number % 100 == 0:
                report(number / len(orphans), f"{len(orphans)} files of {table.name} are not needed")
                if cancelled():
                    raise StatementCancelled(f"the removal was cancelled after {number} files")
            self._delete([orphan.key])
        return result

    def _listed(self, table: Table) -> Iterator[StoredObject]:
        """Data files, and files beside the metadata that can be told not to be slots or lists."""
        location = self._location(table)
        yield from self._catalog.bucket.objects(f"{location}/data")
        for found in self._catalog.bucket.objects(f"{location}/metadata"):
            if _METADATA_FILES.fullmatch(found.key.rsplit("/", 1)[-1]):
                yield found

    def _known_to_be_there(self, table: Table) -> set[str]:
        """A few files that a right listing has, lest keys and listing are spelled differently."""
        location = self._location(table)
        keys = [self._catalog.bucket.key_of(file.uri) for file in table.files()[:1]]
        return {key for key in keys if key.startswith(f"{location}/data/")}

    # -- plumbing -------------------------------------------------------------------------------------

    def _delete(self, keys: list[str]) -> int:
        deleted = 0
        for key in keys:
            try:
                self._catalog.bucket.delete(key)
            except ObjectNotFound:
                continue
            deleted += 1
        return deleted

    def _path(self, key: str) -> str:
        try:
            return self._catalog.bucket.local_path(key)
        except StorageError:
            return key

    def _location(self, table: Table) -> str:
        return self._catalog.bucket.key_of(table.metadata.location)

    def _lists(self, table: Table) -> str:
        return f"{self._location(table)}/metadata/expired"

    def _collectable(self, schema: str, name: str) -> Table:
        """The current version of a table, if its files may be removed at all (property ``gc.enabled``)."""
        table = latest(self._catalog, schema, name)
        if table.metadata.properties.get("gc.enabled", "true").lower() == "false":
            raise NotSupported(
                f"no file of table '{table.name}' may be removed: its property gc.enabled is false"
            )
        return table


def _read_list(content: bytes) -> tuple[int, list[str]]:
    try:
        found = json.loads(content)
        return int(found["expired_at_ms"]), [str(key) for key in found["keys"]]
    except (ValueError, KeyError, TypeError):
        _log.warning("a list of expired files cannot be read and is dropped; they become orphans")
        return 0, []


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _length_ms(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)
