"""Which data files make up a snapshot, remembered, because snapshots and manifests never change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestFile,
)
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from lakehouse.catalog.delete_files import DeleteIndex, deleted_rows, partition_key
from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.file_statistics import FileStatistics, ManifestStatistics
from lakehouse.catalog.parquet_footer import FooterError, read_footer
from lakehouse.errors import NotSupported, SnapshotNotFound, StorageError
from lakehouse.storage.bucket import Bucket
from lakehouse.types import DataFileRef

NAME_MAPPING_PROPERTY = "schema.name-mapping.default"
_CACHED_FILES = 1_000_000
# Values of statistics, and snapshots for which they are put together.
_CACHED_CELLS = 20_000_000
_CACHED_STATISTICS = 256
# The statistics of so many files are kept at once when they are read for another reason.
_LARGE_MANIFEST = 32
T = TypeVar("T")
# The number of the commit that brought a file, the file, and its partition.
_Entry = tuple[int, DataFileRef, Hashable]


class FilePlanner(Protocol):
    """Knows the data files of snapshots."""

    @property
    def bucket_name(self) -> str:
        """The bucket that the files are in."""

    def files(self, table: str, metadata: TableMetadata, snapshot_id: int) -> tuple[DataFileRef, ...]:
        """The data files of a snapshot."""

    def statistics(self, table: str, metadata: TableMetadata, snapshot_id: int) -> FileStatistics:
        """What is known of the data files of a snapshot, in an order of its own."""

    def rows_left(self, files: Sequence[DataFileRef]) -> int:
        """How many rows of some data files are not deleted."""

    def metadata_paths(self, metadata: TableMetadata) -> tuple[str, ...]:
        """Where the metadata is that lists the files of the current snapshot."""

    def entries(self, metadata: TableMetadata, snapshot: Snapshot) -> Iterator[ManifestEntry]:
        """What the manifests of a snapshot list, delete files included."""

    def shown(self, uri: str) -> str:
        """What a client is told of where a file is."""

    def held(self, paths: Iterable[str]) -> AbstractContextManager[None]:
        """For the length of a ``with``, files can be read at their paths."""


class SnapshotFiles:
    """Plans snapshots of the tables of one bucket. Safe to use from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.bucket_name = bucket.name
        self.io = self._io = BucketFileIO(bucket)
        self.held = bucket.held
        self._snapshots: _FilesCache[DataFileRef] = _FilesCache(_CACHED_FILES)
        self._manifests: _FilesCache[_Entry] = _FilesCache(_CACHED_FILES)
        self._told: _FilesCache[ManifestStatistics] = _FilesCache(_CACHED_CELLS)
        self._statistics: _FilesCache[FileStatistics] = _FilesCache(_CACHED_STATISTICS)

    def files(self, table: str, metadata: TableMetadata, snapshot_id: int) -> tuple[DataFileRef, ...]:
        """The data files of a snapshot, oldest commit first.

        Args:
            table: The table's name, for messages.
            metadata: A version of the table that has the snapshot.
            snapshot_id: The snapshot.

        Raises:
            SnapshotNotFound: The table has none of that id.
            NotSupported: The snapshot has files other than Parquet, or without field ids.
        """
        key = (metadata.table_uuid, snapshot_id)
        found = self._snapshots.get(key)
        if found is None:
            found = self._plan(table, metadata, snapshot_id)
            self._snapshots.put(key, found)
        return found

    def rows_left(self, files: Sequence[DataFileRef]) -> int:
        """How many rows of some data files are not deleted; reads their delete files.

        Raises:
            NotSupported, StorageError: A delete file cannot be read.
        """
        gone = sum(len(positions) for _, positions in deleted_rows(files, self.held))
        return sum(file.rows for file in files) - gone

    def statistics(self, table: str, metadata: TableMetadata, snapshot_id: int) -> FileStatistics:
        """What is known of the data files of a snapshot, in an order of its own.

        Raises:
            SnapshotNotFound: The table has none of that id.
        """
        key = (metadata.table_uuid, snapshot_id)
        found = self._statistics.get(key)
        if found is None:
            snapshot = metadata.snapshot_by_id(snapshot_id)
            if snapshot is None:
                raise SnapshotNotFound(f"table '{table}' has no snapshot {snapshot_id}")
            manifests = [m for m in snapshot.manifests(self._io) if m.content == ManifestContent.DATA]
            found = (FileStatistics([self._told_by(manifest) for manifest in manifests]),)
            self._statistics.put(key, found)
        return found[0]

    def _told_by(self, manifest: ManifestFile) -> ManifestStatistics:
        found = self._told.get(manifest.manifest_path)
        if found is None:
            entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            found = self._keep(manifest, [entry.data_file for entry in entries])
        return found[0]

    def _keep(self, manifest: ManifestFile, files: Sequence[DataFile]) -> tuple[ManifestStatistics]:
        found = (ManifestStatistics(files),)
        self._told.put(manifest.manifest_path, found, found[0].cells)
        return found

    def reference(self, file: DataFile) -> DataFileRef:
        """A data file as the engine needs to know it."""
        path = self._bucket.local_path(self._bucket.key_of(file.file_path))
        return DataFileRef(path, file.record_count, file.file_size_in_bytes, file.file_path)

    def metadata_paths(self, metadata: TableMetadata) -> tuple[str, ...]:
        """Where the manifest list and the manifests of the current snapshot are."""
        snapshot = metadata.current_snapshot()
        if snapshot is None:
            return ()
        uris = [snapshot.manifest_list, *(m.manifest_path for m in snapshot.manifests(self._io))]
        return tuple(self._bucket.local_path(self._bucket.key_of(uri)) for uri in uris)

    def entries(self, metadata: TableMetadata, snapshot: Snapshot) -> Iterator[ManifestEntry]:
        """What the manifests of a snapshot list, delete files included; they are read one by one."""
        for manifest in snapshot.manifests(self.io):
            yield from manifest.fetch_manifest_entry(self.io, discard_deleted=True)

    def shown(self, uri: str) -> str:
        """What a client is told of where a file is: its URI, and of a local bucket its key only."""
        return self._bucket.shown(uri)

    def _plan(self, table: str, metadata: TableMetadata, snapshot_id: int) -> tuple[DataFileRef, ...]:
        snapshot = metadata.snapshot_by_id(snapshot_id)
        if snapshot is None:
            raise SnapshotNotFound(f"table '{table}' has no snapshot {snapshot_id}")
        manifests = snapshot.manifests(self._io)
        # Where names are mapped to ids, some files may have been made without any knowledge of Iceberg.
        doubtful = NAME_MAPPING_PROPERTY in metadata.properties
        data = [manifest for manifest in manifests if manifest.content == ManifestContent.DATA]
        entries = [entry for manifest in data for entry in self._manifest(table, manifest, doubtful)]
        entries.sort(key=_sequence_number)
        if len(data) == len(manifests):
            return tuple(file for _, file, _ in entries)
        deletes = [manifest for manifest in manifests if manifest.content == ManifestContent.DELETES]
        unpartitioned = frozenset(spec.spec_id for spec in metadata.partition_specs if not spec.fields)
        index = DeleteIndex(self._bucket, self._io, table, deletes, unpartitioned)
        return tuple(
            replace(file, deletes=index.of(sequence, partition, file))
            for sequence, file, partition in entries
        )

    def _manifest(self, table: str, manifest: ManifestFile, doubtful: bool) -> tuple[_Entry, ...]:
        key = (manifest.manifest_path, doubtful)
        found = self._manifests.get(key)
        if found is None:
            entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            found = tuple(
                (
                    entry.sequence_number or 0,
                    self._checked(table, entry.data_file),
                    partition_key(entry.data_file),
                )
                for entry in entries
            )
            if doubtful:
                self._check_field_ids(table, [file for _, file, _ in found])
            if len(entries) > _LARGE_MANIFEST:
                self._keep(manifest, [entry.data_file for entry in entries])
            self._manifests.put(key, found)
        return found

    def _checked(self, table: str, file: DataFile) -> DataFileRef:
        if file.content != DataFileContent.DATA or file.file_format != FileFormat.PARQUET:
            raise NotSupported(
                f"table '{table}' has data files of the format {file.file_format}; only Parquet can be read"
            )
        return self.reference(file)

    def _check_field_ids(self, table: str, files: Sequence[DataFileRef]) -> None:
        for file in files:
            key = self._bucket.key_of(file.uri)
            try:
                footer = read_footer(self._bucket, key)
            except FooterError as error:
                name = self._bucket.name
                raise StorageError(
                    f"object '{key}' of bucket '{name}' is not Parquet: {error.detail}"
                ) from error
            if not footer.has_field_ids:
                raise NotSupported(
                    f"table '{table}' has data files without field ids, whose columns would be read as NULL",
                    "rewrite the table's data files, or write the rows into a new table",
                )


def _sequence_number(entry: _Entry) -> int:
    return entry[0]


class _FilesCache(Generic[T]):
    """Least recently used lists go first when more than ``limit`` is held in all, by default in files."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[Hashable, tuple[tuple[T, ...], int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> tuple[T, ...] | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, files: tuple[T, ...], weight: int | None = None) -> None:
        with self._lock:
            if key in self._entries:
                return
            held = (len(files) if weight is None else weight) + 1
            self._entries[key] = (files, held)
            self._held += held
            while self._held > self._limit and len(self._entries) > 1:
                _, (_, freed) = self._entries.popitem(last=False)
                self._held -= freed
