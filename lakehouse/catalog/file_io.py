"""How pyiceberg reads and writes metadata files: whole objects of a bucket."""

from __future__ import annotations

from io import BytesIO

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream

from lakehouse.errors import ObjectAlreadyExists, ObjectNotFound
from lakehouse.storage.bucket import Bucket
from lakehouse.storage.uploads import Uploads


class BucketFileIO(FileIO):
    """pyiceberg's view of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__({})
        self.bucket = bucket

    def new_input(self, location: str) -> InputFile:
        """The object of that URI, to be read."""
        return _BucketFile(self, location)

    def new_output(self, location: str) -> OutputFile:
        """The object of that URI, to be written."""
        return _BucketFile(self, location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove the object; it is an error if there is none."""
        uri = location if isinstance(location, str) else location.location
        try:
            self.bucket.delete(self.bucket.key_of(uri))
        except ObjectNotFound as error:
            raise FileNotFoundError(uri) from error

    def read(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            ObjectNotFound: There is none.
        """
        # Manifests and lists of them are never written again, nor is metadata under a name of its own.
        return self.bucket.get_unchanging(key) if key.endswith(".avro") else self.bucket.get_referred(key)

    def write(self, key: str, content: bytes, *, overwrite: bool) -> None:
        """Store an object.

        Raises:
            ObjectAlreadyExists: There is one, and ``overwrite`` is false.
        """
        if overwrite:
            self.bucket.put(key, content)
        else:
            self.bucket.put_new(key, content)


class AttemptFiles(BucketFileIO):
    """The files of one attempt to commit. They are stored side by side, and can be read before they are."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket)
        self.uploads = Uploads()
        self._written: dict[str, bytes] = {}

    def read(self, key: str) -> bytes:
        """The content of an object, of one that is on its way as well."""
        written = self._written.get(key)
        return super().read(key) if written is None else written

    def write(self, key: str, content: bytes, *, overwrite: bool) -> None:
        """Begin to store an object; ``uploads.settle`` tells what became of it."""
        self._written[key] = content
        self.uploads.start(lambda: super(AttemptFiles, self).write(key, content, overwrite=overwrite))


class _BucketFile(InputFile, OutputFile):
    def __init__(self, files: BucketFileIO, location: str) -> None:
        super().__init__(location)
        self._files = files
        self._key = files.bucket.key_of(location)
        self._size: int | None = None

    def __len__(self) -> int:
        return self._files.bucket.size(self._key) if self._size is None else self._size

    def exists(self) -> bool:
        return self._files.bucket.exists(self._key)

    def open(self, seekable: bool = True) -> InputStream:
        try:
            return BytesIO(self._files.read(self._key))
        except ObjectNotFound as error:
            raise FileNotFoundError(self.location) from error

    def create(self, overwrite: bool = False) -> OutputStream:
        return _Upload(self, overwrite)

    def store(self, content: bytes, *, overwrite: bool) -> None:
        self._size = len(content)
        try:
            self._files.write(self._key, content, overwrite=overwrite)
        except ObjectAlreadyExists as error:
            raise FileExistsError(self.location) from error

    def to_input_file(self) -> InputFile:
        return self


class _Upload(BytesIO):
    """A file in memory that becomes an object when it is closed without an error."""

    def __init__(self, target: _BucketFile, overwrite: bool) -> None:
        super().__init__()
        self._target = target
        self._overwrite = overwrite

    def close(self) -> None:
        if self.closed:
            return
        content = self.getvalue()
        super().close()
        self._target.store(content, overwrite=self._overwrite)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            super().close()

    def __del__(self) -> None:
        # Left behind by an error: what was written so far must not become an object.
        super().close()
