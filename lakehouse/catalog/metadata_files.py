"""The metadata files of tables in a bucket, which never change once they are written."""

from __future__ import annotations

import logging
import threading
import uuid

from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.file_io import BucketFileIO
from lakehouse.catalog.table_store import DELETE_METADATA_PROPERTY
from lakehouse.errors import ObjectNotFound, StorageError
from lakehouse.storage.bucket import Bucket

_REMEMBERED = 64
_log = logging.getLogger(__name__)


class MetadataFiles:
    """Reads metadata files, and remembers the last ones.

    Args:
        bucket: Where they are.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.io = BucketFileIO(bucket)
        self._bucket = bucket
        self._lock = threading.Lock()
        self._parsed: dict[str, TableMetadata] = {}

    def read(self, location: str) -> TableMetadata:
        """What stands in a metadata file.

        Raises:
            StorageError: It is missing, or not in the bucket.
        """
        known = self._parsed.get(location)
        if known is not None:
            return known
        try:
            metadata = FromInputFile.table_metadata(self.io.new_input(location))
        except FileNotFoundError as error:
            raise StorageError("the metadata file of a table is missing in the bucket") from error
        return self.keep(location, metadata)

    def keep(self, location: str, metadata: TableMetadata) -> TableMetadata:
        """Remember what stands in a metadata file."""
        with self._lock:
            while len(self._parsed) >= _REMEMBERED:
                del self._parsed[next(iter(self._parsed))]
            self._parsed[location] = metadata
        return metadata

    def write(self, metadata: TableMetadata, base: str) -> str:
        """Write a new file; gives its location.

        Args:
            metadata: What is to stand in it.
            base: Where the version before it is, empty where there is none.
        """
        location = self.place(metadata, base)
        self.put(location, metadata)
        return location

    def place(self, metadata: TableMetadata, base: str) -> str:
        """Where a new file is to be written, numbered as the next one after ``base``."""
        number = base.rsplit("/", 1)[-1].split("-", 1)[0]
        following = int(number) + 1 if number.isdigit() else 0
        return f"{metadata.location}/metadata/{following:05d}-{uuid.uuid4()}.metadata.json"

    def put(self, location: str, metadata: TableMetadata) -> None:
        """Write a new file at a place."""
        content = metadata.model_dump_json(exclude_none=True).encode()
        self._bucket.put_new(self._bucket.key_of(location), content)
        self.keep(location, metadata)

    def delete(self, uri: str) -> bool:
        """Delete a file that a table referred to; gives whether it was there."""
        try:
            self._bucket.delete(self._bucket.key_of(uri))
        except ObjectNotFound:
            return False
        return True

    def forget(self, location: str) -> None:
        """Delete the file of a version that nobody needs; it is no error where that fails."""
        try:
            self.delete(location)
        except StorageError:
            _log.warning("a metadata file that is not needed could not be deleted", exc_info=True)

    def give_up(self, base: TableMetadata, metadata: TableMetadata) -> None:
        """Delete the files of versions that were in the log of the former version and are not any more.

        Args:
            base: The former version.
            metadata: The current one.
        """
        if metadata.properties.get(DELETE_METADATA_PROPERTY) == "true":
            kept = {entry.metadata_file for entry in metadata.metadata_log}
            for entry in base.metadata_log:
                if entry.metadata_file not in kept:
                    self.forget(entry.metadata_file)

    def version_at(self, metadata: TableMetadata | None, moment_ms: int) -> TableMetadata | None:
        """The version that was current at a time, or the first one that is known.

        Args:
            metadata: The current version; None where there is no table.
            moment_ms: The time, by the clocks of the writers.

        Raises:
            StorageError: A former version cannot be read.
        """
        found = metadata
        while found is not None and found.last_updated_ms > moment_ms and found.metadata_log:
            log = found.metadata_log
            earlier = [entry for entry in log if entry.timestamp_ms <= moment_ms]
            found = self.read((earlier[-1] if earlier else log[0]).metadata_file)
            if earlier:
                break
        return found

    def is_ours(self, location: str | None) -> bool:
        """Whether a file is in the bucket."""
        try:
            return bool(location and self._bucket.key_of(location))
        except StorageError:
            return False
