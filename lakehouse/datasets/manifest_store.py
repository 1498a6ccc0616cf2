"""Where the manifests of all datasets are kept: a log of small Parquet objects in one bucket.

``{prefix}/{n:012d}.parquet`` is slot n: whole manifests that changed together. A change is made on what all
slots below say and put create-only into the next one, so of several servers exactly one takes it and the
others begin again from what it wrote. ``{prefix}/checkpoint-{n:012d}.parquet`` holds every manifest as of
slot n, so that a start reads one object and the few slots behind it.

Slots are removed once a checkpoint is ``KEPT_SLOTS`` ahead of them. A writer that was asleep could find such
a slot free and take it, where nobody ever looks again. So whoever took a slot lists the log once more: where
no checkpoint is that far ahead, the slot had not been removed by anybody, and the change is made; else it is
made again on top of the newest state. No clock is needed for that.

What cannot be read is skipped, is told to the log and stands in ``damage``: a checkpoint is replaced by an
older one and the slots behind that. No damage keeps a server from starting.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from lakehouse.catalog.names import fold
from lakehouse.clock import Clock
from lakehouse.datasets.manifest import DatasetKind, DatasetManifest
from lakehouse.datasets.manifest_rows import SCHEMA, from_parquet, from_rows, to_parquet, to_rows
from lakehouse.errors import (
    CommitConflict,
    CommitStateUnknown,
    LakehouseError,
    ObjectAlreadyExists,
    ObjectNotFound,
    StorageError,
)
from lakehouse.storage import Bucket
from lakehouse.types import TableName

_log = structlog.get_logger()

MANIFESTS = "_catalog/manifests"
CHECKPOINT_SLOTS = 64
KEPT_SLOTS = 256
_KEPT_CHECKPOINTS = 3
_KEPT_DROPPED = timedelta(days=30)
_NAME = re.compile(r"(checkpoint-)?(\d{12})\.parquet")
_ATTEMPTS = 50
_LISTINGS = 5
_PUT_ATTEMPTS = 3
_PAUSE_S = 0.02
_READERS = 8
# Rows of so small a table are decoded together.
_FEW_ROWS = 64

Build = Callable[[DatasetManifest | None], DatasetManifest]
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Damage:
    """An object of the log that could not be read, and why."""

    key: str
    reason: str


class _Rows:
    """Rows of one object, decoded when somebody asks for them."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self._decoded: dict[int, DatasetManifest] = {}

    def manifest(self, row: int) -> DatasetManifest:
        found = self._decoded.get(row)
        if found is not None:
            return found
        # Whoever asks for one often asks for its neighbours too.
        start = row - row % _FEW_ROWS
        self.manifests(range(start, min(start + _FEW_ROWS, len(self.rows))))
        return self._decoded[row]

    def manifests(self, wanted: Sequence[int]) -> list[DatasetManifest]:
        missing = [row for row in wanted if row not in self._decoded]
        if missing:
            found = from_rows(self.rows.take(pa.array(missing)))
            # Manifests that were given away already stay the same objects.
            for row, manifest in zip(missing, found, strict=True):
                self._decoded.setdefault(row, manifest)
        return [self._decoded[row] for row in wanted]

    def take_over(self, row: int, other: _Rows, other_row: int) -> None:
        """Know a manifest that was decoded elsewhere."""
        known = other._decoded.get(other_row)
        if known is not None:
            self._decoded[row] = known


@dataclass(frozen=True, slots=True)
class _Entry:
    rows: _Rows
    row: int
    name: TableName
    key: _Key
    kind: str
    dropped: bool


@dataclass(frozen=True, slots=True)
class _State:
    """Every manifest as of slot ``number``, by id, and the ids of those that are not dropped by name."""

    number: int = 0
    entries: Mapping[str, _Entry] = field(default_factory=dict)
    names: Mapping[_Key, str] = field(default_factory=dict)

    def with_rows(self, number: int, *slots: pa.Table) -> _State:
        entries, names = dict(self.entries), dict(self.names)
        for rows in slots:
            self._add(rows, entries, names)
        return _State(number, entries, names)

    @staticmethod
    def _add(rows: pa.Table, entries: dict[str, _Entry], names: dict[_Key, str]) -> None:
        held = _Rows(rows)
        parts = ("dataset_id", "catalog_name", "schema_name", "table_name", "kind", "dropped")
        columns = (rows.column(part).to_pylist() for part in parts)
        for row, (dataset_id, *name, kind, dropped) in enumerate(zip(*columns, strict=True)):
            before = entries.get(dataset_id)
            if before is not None and names.get(before.key) == dataset_id:
                del names[before.key]
            found = TableName(*name)
            key = _key(found)
            entries[dataset_id] = _Entry(held, row, found, key, kind, bool(dropped))
            if not dropped:
                names[key] = dataset_id

    def get(self, dataset_id: str) -> DatasetManifest | None:
        entry = self.entries.get(dataset_id)
        return None if entry is None else entry.rows.manifest(entry.row)

    def by_rows(self) -> dict[_Rows, list[int]]:
        found: dict[_Rows, list[int]] = {}
        for entry in self.entries.values():
            found.setdefault(entry.rows, []).append(entry.row)
        return found

    def table(self) -> pa.Table:
        """The newest rows of all manifests as one table."""
        parts = [rows.rows.take(pa.array(wanted)) for rows, wanted in self.by_rows().items()]
        return pa.concat_tables(parts).combine_chunks() if parts else SCHEMA.empty_table()


@dataclass(frozen=True, slots=True)
class _Listing:
    slots: frozenset[int]
    checkpoints: tuple[int, ...]

    @property
    def last(self) -> int:
        return max((*self.slots, *self.checkpoints), default=0)

    @property
    def last_checkpoint(self) -> int:
        return max(self.checkpoints, default=0)


class ManifestStore:
    """The manifests of all datasets. Safe to use from several threads, and by several servers on one bucket.

    Args:
        bucket: Where they are kept.
        clock: Tells when what is known has to be asked again.
        refresh_s: How old what is known of other servers' changes may be.
    """

    def __init__(self, bucket: Bucket, clock: Clock, refresh_s: float = 0.5) -> None:
        self._bucket = bucket
        self._clock = clock
        self._refresh_s = refresh_s
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._state = _State()
        self._is_loaded = False
        self._fresh_until = 0.0
        self._damage: dict[str, Damage] = {}
        self._failed = False
        self._background = ThreadPoolExecutor(1, "manifest-checkpoint")
        self._is_checkpointing = False

    @property
    def damage(self) -> tuple[Damage, ...]:
        """The objects of the log that this process could not read."""
        return tuple(self._damage.values())

    @property
    def version(self) -> int:
        """A number that grows whenever anything that is known of manifests changes."""
        return self._look().number

    def get(self, dataset_id: str) -> DatasetManifest | None:
        """The manifest of a dataset, dropped or not; None where there is none."""
        return self._look().get(dataset_id)

    def known(self, dataset_id: str) -> DatasetManifest | None:
        """The manifest of a dataset as far as this process knows it without asking storage."""
        return self._state.get(dataset_id)

    def find(self, name: TableName) -> DatasetManifest | None:
        """The manifest of the dataset that has a name now, in whatever case; None where there is none."""
        state = self._look()
        dataset_id = state.names.get(_key(name))
        return None if dataset_id is None else state.get(dataset_id)

    def named(self, name: TableName) -> list[DatasetManifest]:
        """The manifests of all datasets that have a name: several where another program gave it away."""
        state, key = self._look(), _key(name)
        return [
            e.rows.manifest(e.row) for e in list(state.entries.values()) if e.key == key and not e.dropped
        ]

    def names(self) -> list[tuple[str, TableName, DatasetKind]]:
        """Id, name and kind of every dataset that is not dropped; quicker than ``all``."""
        found = self._look().entries.items()
        return [(each, e.name, DatasetKind(e.kind)) for each, e in found if not e.dropped]

    def all(self) -> Sequence[DatasetManifest]:
        """The manifests of all datasets that are not dropped, sorted by name."""
        found = [
            manifest
            for rows, wanted in self._look().by_rows().items()
            for manifest in rows.manifests(wanted)
            if not manifest.dropped
        ]
        return sorted(found, key=lambda manifest: (manifest.name, manifest.dataset_id))

    def change(self, dataset_id: str, build: Build) -> DatasetManifest:
        """Change a manifest, or make it. When this returns, the change is durable.

        Args:
            dataset_id: The dataset.
            build: Gives the manifest from the newest one, or None where there is none; its version is set by
                the store. Called again where another server was faster, so it must not do anything else. What
                it gives unchanged is not written.

        Raises:
            CommitConflict: Others were faster again and again.
            StorageError: Storage failed. The change may be there later on nevertheless.
            CommitStateUnknown: It could not be found out whether the change was made.
        """
        return self.change_many({dataset_id: build})[0]

    def change_many(self, changes: Mapping[str, Build]) -> list[DatasetManifest]:
        """Change several manifests at once, all or none; see ``change``."""
        with self._writing:
            for attempt in range(_ATTEMPTS):
                if attempt or not self._is_loaded:
                    self.refresh()
                state = self._state
                built = {each: _built(state.get(each), each, build) for each, build in changes.items()}
                changed = [new for each, new in built.items() if new is not state.get(each)]
                if not changed or self._put(state, changed):
                    return list(built.values())
                time.sleep(_PAUSE_S * random.random() * min(attempt, 10))
        raise CommitConflict(
            "the manifests were changed by other servers faster than this one could change them", "try again"
        )

    def refresh(self) -> None:
        """Take over what other servers changed; costs one list request where they changed nothing.

        Raises:
            StorageError: Storage failed; what was known stays.
        """
        with self._lock:
            asked = self._clock.monotonic()
            for attempt in reversed(range(_LISTINGS)):
                if self._catch_up(self._listed(), is_last=not attempt):
                    break
            self._is_loaded = True
            self._fresh_until = asked + self._refresh_s

    def checkpoint(self) -> None:
        """Write all manifests as one object, and remove slots that older ones cover.

        Raises:
            StorageError: Storage failed.
        """
        self.refresh()
        with self._lock:
            state = self._state
            rows = _without_forgotten(state.table(), self._clock)
            self._state = _State(state.number).with_rows(state.number, rows)
            for dataset_id, entry in self._state.entries.items():
                before = state.entries[dataset_id]
                entry.rows.take_over(entry.row, before.rows, before.row)
        if not state.number:
            return
        with suppress(ObjectAlreadyExists):  # another server was faster
            self._bucket.put_new(_checkpoint_key(state.number), to_parquet(rows))
        self._clean_up(self._listed())

    def close(self) -> None:
        """Wait for a checkpoint that is being written. What was changed is durable already."""
        self._background.shutdown(wait=True)

    # -- changes --------------------------------------------------------------------------------------

    def _put(self, state: _State, changed: list[DatasetManifest]) -> bool:
        """Take the next slot; gives whether this was it."""
        number = state.number + 1
        rows = to_rows(changed)
        if not self._take(number, to_parquet(rows, self._clock.token())):
            return False
        try:
            listing = self._listed()
        except LakehouseError as error:
            raise CommitStateUnknown(
                "a change of manifests was stored, but whether it came in time could not be found out"
            ) from error
        if listing.last_checkpoint >= number + KEPT_SLOTS:
            return False  # the slot may have been removed, and so taken in vain
        with self._lock:
            if self._state is state:
                self._state = state.with_rows(number, rows)
            else:
                self._catch_up(listing, is_last=True)
        if listing.last - listing.last_checkpoint >= CHECKPOINT_SLOTS:
            self._checkpoint_soon()
        return True

    def _take(self, number: int, content: bytes) -> bool:
        """Put a slot. The put may be repeated: it is create-only, and the content tells whose it is."""
        failure: StorageError | None = None
        for attempt in range(_PUT_ATTEMPTS):
            try:
                self._bucket.put_new(_slot_key(number), content)
            except ObjectAlreadyExists:
                # The client of the store repeats requests too, the first of which may have taken place.
                return self._bucket.get(_slot_key(number)) == content
            except StorageError as error:
                failure = error
                time.sleep(_PAUSE_S * attempt)
            else:
                return True
        assert failure is not None
        raise failure

    def _checkpoint_soon(self) -> None:
        with self._lock:
            if self._is_checkpointing:
                return
            self._is_checkpointing = True
        try:
            self._background.submit(self._checkpoint_now)
        except RuntimeError:  # closed; another server or the next start does it
            self._is_checkpointing = False

    def _checkpoint_now(self) -> None:
        try:
            self.checkpoint()
        except LakehouseError as error:
            _log.warning("manifest_checkpoint_failed", reason=str(error))
        except Exception:  # noqa: BLE001 - the changes are durable without it
            _log.exception("manifest_checkpoint_failed")
        finally:
            self._is_checkpointing = False

    def _clean_up(self, listing: _Listing) -> None:
        kept = sorted(listing.checkpoints)[-_KEPT_CHECKPOINTS:]
        for number in sorted(set(listing.checkpoints) - set(kept)):
            self._remove(_checkpoint_key(number))
        if len(kept) == _KEPT_CHECKPOINTS:
            end = min(kept[0], listing.last_checkpoint - KEPT_SLOTS)
            for number in sorted(slot for slot in listing.slots if slot <= end):
                self._remove(_slot_key(number))

    def _remove(self, key: str) -> None:
        with suppress(ObjectNotFound):  # another server was faster
            self._bucket.delete(key)

    # -- reading --------------------------------------------------------------------------------------

    def _look(self) -> _State:
        if self._clock.monotonic() >= self._fresh_until or not self._is_loaded:
            # While one thread asks, the others go on with what is known.
            if not self._lock.acquire(blocking=not self._is_loaded):
                return self._state
            try:
                if self._clock.monotonic() >= self._fresh_until or not self._is_loaded:
                    self._refresh_if_possible()
            finally:
                self._lock.release()
        return self._state

    def _refresh_if_possible(self) -> None:
        try:
            self.refresh()
        except StorageError as error:
            if not self._is_loaded:
                raise
            if not self._failed:
                _log.warning("manifests_not_refreshed", reason=str(error))
            self._failed = True
            self._fresh_until = self._clock.monotonic() + self._refresh_s
        else:
            self._failed = False

    def _listed(self) -> _Listing:
        found = [_NAME.fullmatch(name) for name in self._bucket.names(MANIFESTS)]
        numbers = [(match.group(1) is not None, int(match.group(2))) for match in found if match]
        return _Listing(
            frozenset(number for is_checkpoint, number in numbers if not is_checkpoint),
            tuple(sorted(number for is_checkpoint, number in numbers if is_checkpoint)),
        )

    def _catch_up(self, listing: _Listing, *, is_last: bool) -> bool:
        """Take over what a listing shows; False where slots are missing in it that the next one may have."""
        state = self._state
        if listing.last <= state.number:
            return True
        if not state.number or not listing.slots.issuperset(range(state.number + 1, listing.last + 1)):
            state = self._from_checkpoint(state, listing)
        wanted = range(state.number + 1, listing.last + 1)
        missing = [number for number in wanted if number not in listing.slots]
        if missing and not is_last:
            return False
        try:
            contents = self._contents([number for number in wanted if number in listing.slots])
        except ObjectNotFound:
            if not is_last:
                return False
            raise
        for number in missing:
            # Those of long ago were removed when there were checkpoints.
            if number > min(listing.slots, default=0):
                self._damaged(_slot_key(number), "it is missing")
        slots = [self._rows(_slot_key(number), content) for number, content in contents]
        self._state = state.with_rows(listing.last, *(rows for rows in slots if rows is not None))
        return True

    def _from_checkpoint(self, state: _State, listing: _Listing) -> _State:
        """The newest checkpoint that is whole and ahead of a state; else the state."""
        for number in reversed(listing.checkpoints):
            if number <= state.number:
                break
            key = _checkpoint_key(number)
            try:
                rows = self._rows(key, self._bucket.get(key))
            except ObjectNotFound:
                continue  # there is a newer one by now
            if rows is not None:
                return _State(number).with_rows(number, rows)
        return state

    def _contents(self, numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        keys = [_slot_key(number) for number in numbers]
        if len(keys) < _READERS:
            return list(zip(numbers, map(self._bucket.get, keys), strict=True))
        with ThreadPoolExecutor(_READERS, "manifests") as readers:
            return list(zip(numbers, readers.map(self._bucket.get, keys), strict=True))

    def _rows(self, key: str, content: bytes) -> pa.Table | None:
        try:
            rows = from_parquet(content)
            if len(rows) <= _FEW_ROWS:
                from_rows(rows)  # so that what is wrong with them is noticed here
        except (ValueError, TypeError, OverflowError) as error:
            self._damaged(key, str(error))
            return None
        return rows

    def _damaged(self, key: str, reason: str) -> None:
        if key not in self._damage:
            _log.error("manifests_skipped", bucket=self._bucket.name, object=key, reason=reason)
            self._damage[key] = Damage(key, reason)


def _built(old: DatasetManifest | None, dataset_id: str, build: Build) -> DatasetManifest:
    new = build(old)
    if new.dataset_id != dataset_id:
        raise AssertionError(f"the manifest of {dataset_id} became that of {new.dataset_id}")
    if old is not None and replace(new, version=old.version) == old:
        return old
    return replace(new, version=old.version + 1 if old else 1)


def _without_forgotten(rows: pa.Table, clock: Clock) -> pa.Table:
    """Rows without those of datasets that were dropped long ago."""
    before = pa.scalar(clock.now() - _KEPT_DROPPED, SCHEMA.field("updated_at").type)
    is_forgotten = pc.and_(rows.column("dropped"), pc.less(rows.column("updated_at"), before))
    return rows.filter(pc.invert(pc.fill_null(is_forgotten, False))).combine_chunks()


def _key(name: TableName) -> _Key:
    return fold(name.catalog), fold(name.schema), fold(name.table)


def _slot_key(number: int) -> str:
    return f"{MANIFESTS}/{number:012d}.parquet"


def _checkpoint_key(number: int) -> str:
    return f"{MANIFESTS}/checkpoint-{number:012d}.parquet"
