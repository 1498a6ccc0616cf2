"""Files as a source: what format they are of is seen from their content, whatever they are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from lakehouse.errors import InvalidRequest, NotSupported
from lakehouse.ingest.sources.arrow_source import TypedReader, arrow, orc, parquet
from lakehouse.ingest.sources.avro_file import avro
from lakehouse.ingest.sources.byte_source import ByteSource
from lakehouse.ingest.sources.compression import expanded
from lakehouse.ingest.sources.csv_dialect import one_byte
from lakehouse.ingest.sources.csv_source import CsvReader
from lakehouse.ingest.sources.excel_file import excel
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.file_reader import FileReader
from lakehouse.ingest.sources.json_source import JsonReader
from lakehouse.ingest.sources.source import Inspection, OnError, Piece, Progress
from lakehouse.ingest.sources.stated_kinds import stated_type
from lakehouse.ingest.sources.text_encoding import encoding_of

_Opener = Callable[[Sequence[ByteSource], FileOptions], FileReader]
_FORMATS: dict[str, _Opener] = {
    "csv": CsvReader,
    "json": JsonReader,
    "jsonl": JsonReader,
    "parquet": lambda files, options: TypedReader(files, options, "Parquet", parquet),
    "arrow": lambda files, options: TypedReader(files, options, "Arrow", arrow),
    "orc": lambda files, options: TypedReader(files, options, "ORC", orc),
    "avro": lambda files, options: TypedReader(files, options, "Avro", avro),
    "excel": lambda files, options: TypedReader(files, options, "Excel", excel),
}
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"FEA1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
    (b"ORC", "orc"),
    (b"Obj\x01", "avro"),
    (b"PK\x03\x04", "excel"),  # archives of other files have been expanded
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "excel"),
)
_ENDINGS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".geojson": "json"}
_JSON = re.compile(rb'(?:\[\s*)?\{\s*(?:"(?:[^"\\]|\\.)*"\s*:|\})')
_HEAD = 64 * 1024


class FileSource:
    """One or several files as one source of rows; columns are united by name.

    Args:
        files: In the order in which their rows are to come; a prefix of a bucket, sorted, for instance.
        options: What the caller says of them.
        described: What they are, for people; the name of the only file if left out.
    """

    system = "file"
    comes_once = False

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
            formats = {format_of(file, options): file for file in reversed(inner)}
            if len(formats) > 1:
                (one, first), (other, second) = list(formats.items())[:2]
                raise InvalidRequest(
                    f"files are of different formats: '{second.name}' is {other}, '{first.name}' is {one}",
                    "bring them in one format after the other, or leave some out by a pattern",
                )
            self._reader = _FORMATS[next(iter(formats))](inner, options)
        return self._reader


def format_of(file: ByteSource, options: FileOptions) -> str:
    """The format of a file: the stated one, else what its content looks like, else what its name ends in.

    Raises:
        NotSupported: There is no such format as the stated one.
    """
    if options.format:
        return _known(options.format)
    with closing(file.open()) as stream:
        head = stream.read(_HEAD)
    found = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
    if found == "orc" and not head[3:4] < b" ":
        found = ""  # a text that begins with these letters
    if found:
        return found
    ending = next((name for ending, name in _ENDINGS.items() if file.name.lower().endswith(ending)), "")
    return ending or ("jsonl" if _is_json(head) else "csv")


def check_options(options: FileOptions) -> None:
    """Make sure of what can be told without the files.

    Raises:
        InvalidRequest, NotSupported: No file can be read so.
    """
    if options.format:
        _known(options.format)
    for column, spec in options.types.items():
        stated_type(spec, column)
    for text, what in ((options.delimiter, "delimiter"), (options.quote, "quote")):
        one_byte(text, what)
    encoding_of(b"", options.encoding)


def _known(form: str) -> str:
    if form not in _FORMATS:
        raise NotSupported(f"there is no format '{form}'", f"formats are {', '.join(_FORMATS)}")
    return form


def _is_json(head: bytes) -> bool:
    """Whether a text begins with an object, or an array of some."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return bool(_JSON.match(text))
