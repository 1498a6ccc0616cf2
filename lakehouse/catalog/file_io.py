"""How pyiceberg reads and writes metadata files: whole objects of a bucket."""

from __future__ import annotations

from io import BytesIO

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream

from lakehouse.errors import ObjectAlreadyExists, ObjectNotFound
from lakehouse.storage.bucket import Bucket


class BucketFileIO(FileIO):
    """pyiceberg's view of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__({})
        self._bucket = bucket

    def new_input(self, location: str) -> InputFile:
        """The object of that URI, to be read."""
        return _BucketFile(self._bucket, location)

    def new_output(self, location: str) -> OutputFile:
        """The object of that URI, to be written."""
        return _BucketFile(self._bucket, location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove the object; it is an error if there is none."""
        uri = location if isinstance(location, str) else location.location
        try:
            self._bucket.delete(self._bucket.key_of(uri))
        except ObjectNotFound as error:
            raise FileNotFoundError(uri) from error


class _BucketFile(InputFile, OutputFile):
    def __init__(self, bucket: Bucket, location: str) -> None:
        super().__init__(location)
        self._bucket = bucket
        self._key = bucket.key_of(location)

    def __len__(self) -> int:
        return self._bucket.size(self._key)

    def exists(self) -> bool:
        return self._bucket.exists(self._key)

    def open(self, seekable: bool = True) -> InputStream:
        try:
            return BytesIO(self._bucket.get(self._key))
        except ObjectNotFound as error:
            raise FileNotFoundError(self.location) from error

    def create(self, overwrite: bool = False) -> OutputStream:
        return _Upload(self._bucket, self._key, overwrite)

    def to_input_file(self) -> InputFile:
        return self


class _Upload(BytesIO):
    """A file in memory that becomes an object when it is closed without an error."""

    def __init__(self, bucket: Bucket, key: str, overwrite: bool) -> None:
        super().__init__()
        self._bucket = bucket
        self._key = key
        self._overwrite = overwrite

    def close(self) -> None:
        if self.closed:
            return
        content = self.getvalue()
        super().close()
        if self._overwrite:
            self._bucket.put(self._key, content)
            return
        try:
            self._bucket.put_new(self._key, content)
        except ObjectAlreadyExists as error:
            raise FileExistsError(self._bucket.uri_of(self._key)) from error

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            super().close()

    def __del__(self) -> None:
        # Left behind by an error: what was written so far must not become an object.
        super().close()
