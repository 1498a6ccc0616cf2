"""Which data files make up a snapshot, remembered, because snapshots and manifests never change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestFile
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.iceberg_types import FIELD_ID
from lakehouse.errors import NotSupported, SnapshotNotFound
from lakehouse.storage.bucket import Bucket
from lakehouse.types import DataFileRef

NAME_MAPPING_PROPERTY = "schema.name-mapping.default"
_CACHED_FILES = 1_000_000
T = TypeVar("T")
# The number of the commit that brought a file, and the file.
_Entry = tuple[int, DataFileRef]


class SnapshotFiles:
    """Plans snapshots of the tables of one bucket. Safe to use from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.io = self._io = BucketFileIO(bucket)
        self._snapshots: _FilesCache[DataFileRef] = _FilesCache(_CACHED_FILES)
        self._manifests: _FilesCache[_Entry] = _FilesCache(_CACHED_FILES)

    def files(self, table: str, metadata: TableMetadata, snapshot_id: int) -> tuple[DataFileRef, ...]:
        """The data files of a snapshot, oldest commit first.

        Args:
            table: The table's name, for messages.
            metadata: A version of the table that has the snapshot.
            snapshot_id: The snapshot.

        Raises:
            SnapshotNotFound: The table has none of that id.
            NotSupported: The snapshot has delete files, or files other than Parquet, or without field ids.
        """
        key = (metadata.table_uuid, snapshot_id)
        found = self._snapshots.get(key)
        if found is None:
            found = self._plan(table, metadata, snapshot_id)
            self._snapshots.put(key, found)
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

    def shown(self, uri: str) -> str:
        """What a client is told of where a file is: its URI, and of a local bucket its key only."""
        return self._bucket.shown(uri)

    def _plan(self, table: str, metadata: TableMetadata, snapshot_id: int) -> tuple[DataFileRef, ...]:
        snapshot = metadata.snapshot_by_id(snapshot_id)
        if snapshot is None:
            raise SnapshotNotFound(f"table '{table}' has no snapshot {snapshot_id}")
        manifests = snapshot.manifests(self._io)
        if any(manifest.content == ManifestContent.DELETES for manifest in manifests):
            raise NotSupported(
                f"table '{table}' has rows that were deleted by delete files, which cannot be read yet",
                "rewrite the table's data files with that engine",
            )
        # Where names are mapped to ids, some files may have been made without any knowledge of Iceberg.
        doubtful = NAME_MAPPING_PROPERTY in metadata.properties
        entries = [entry for manifest in manifests for entry in self._manifest(table, manifest, doubtful)]
        entries.sort(key=_sequence_number)
        return tuple(file for _, file in entries)

    def _manifest(self, table: str, manifest: ManifestFile, doubtful: bool) -> tuple[_Entry, ...]:
        key = (manifest.manifest_path, doubtful)
        found = self._manifests.get(key)
        if found is None:
            entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            found = tuple(
                (entry.sequence_number or 0, self._checked(table, entry.data_file)) for entry in entries
            )
            if doubtful:
                _check_field_ids(table, [file for _, file in found])
            self._manifests.put(key, found)
        return found

    def _checked(self, table: str, file: DataFile) -> DataFileRef:
        if file.content != DataFileContent.DATA or file.file_format != FileFormat.PARQUET:
            raise NotSupported(
                f"table '{table}' has data files of the format {file.file_format}; only Parquet can be read"
            )
        return self.reference(file)


def _check_field_ids(table: str, files: Sequence[DataFileRef]) -> None:
    for file in files:
        schema = pq.read_schema(file.path)
        if not all(FIELD_ID in (field.metadata or {}) for field in schema):
            raise NotSupported(
                f"table '{table}' has data files without field ids, whose columns would be read as NULL",
                "rewrite the table's data files, or write the rows into a new table",
            )


def _sequence_number(entry: _Entry) -> int:
    return entry[0]


class _FilesCache(Generic[T]):
    """Least recently used lists of files go first when more than ``limit`` files are held in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[Hashable, tuple[T, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> tuple[T, ...] | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: Hashable, files: tuple[T, ...]) -> None:
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = files
            self._held += len(files) + 1
            while self._held > self._limit and len(self._entries) > 1:
                _, evicted = self._entries.popitem(last=False)
                self._held -= len(evicted) + 1
