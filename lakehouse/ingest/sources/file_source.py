"""Files as a source: what format they are of is seen from their content, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lakehouse.errors import InvalidRequest, NotSupported
from lakehouse.ingest.sources.byte_source import ByteSource
from lakehouse.ingest.sources.compression import expanded
from lakehouse.ingest.sources.csv_source import CsvReader
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.file_reader import FileReader
from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress

_FORMATS: dict[str, Callable[[Sequence[ByteSource], FileOptions], FileReader]] = {"csv": CsvReader}


class FileSource:
    """One or several files as one source of rows; columns are united by name.

    Args:
        files: In the order in which their rows are to come; a prefix of a bucket, sorted, for instance.
        options: What the caller says of them.
        described: What they are, for people; the name of the only file if left out.
    """

    system = "file"

    def __init__(
        self, files: Sequence[ByteSource], options: FileOptions | None = None, described: str = ""
    ) -> None:
        if not files:
            raise InvalidRequest("there is no file to read", "the prefix or pattern matches nothing")
        self._files = files
        self._options = options or FileOptions()
        self.described = described or (files[0].name if len(files) == 1 else f"{len(files)} files")
        self._reader: FileReader | None = None

    def inspect(self, cancelled: Callable[[], bool], progress: Progress) -> Inspection:
        """See ``Source``."""
        return self._opened().inspect(cancelled, progress)

    def read(
        self,
        inspection: Inspection,
        on_error: OnError,
        cancelled: Callable[[], bool],
        progress: Progress,
        position: str | None = None,
    ) -> Iterator[Piece]:
        """See ``Source``."""
        return self._opened().read(inspection, on_error, cancelled, progress, position)

    def close(self) -> None:
        """Nothing is held between the calls."""

    def _opened(self) -> FileReader:
        if self._reader is None:
            options = self._options
            inner = [found for file in self._files for found in expanded(file, options.limits)]
            wanted = options.format or "csv"
            if wanted not in _FORMATS:
                raise NotSupported(f"there is no format '{wanted}'", f"formats are {', '.join(_FORMATS)}")
            self._reader = _FORMATS[wanted](inner, options)
        return self._reader
