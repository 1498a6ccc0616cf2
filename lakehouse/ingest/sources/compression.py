"""Compressed files as what is in them: streamed, and bounded in what they may grow to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import pyarrow as pa

from lakehouse.errors import InvalidRequest, LimitExceeded
from lakehouse.ingest.sources.byte_source import ByteSource
from lakehouse.ingest.sources.file_options import FileLimits

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_EXTENSIONS = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
_CHUNK = 256 * 1024
_OFFICE = ("[Content_Types].xml", "mimetype")
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException, OSError)


def compression_of(head: bytes) -> str:
    """What the first bytes of a file say of its compression: ``gzip``, ``zstd``, ``zip`` …, or nothing."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def is_workbook(source: ByteSource) -> bool:
    """Whether a zip archive is an Office document."""
    with source.open() as stream:
        try:
            return any(name in zipfile.ZipFile(stream).namelist() for name in _OFFICE)
        except zipfile.BadZipFile:
            return False


def expanded(source: ByteSource, limits: FileLimits) -> list[ByteSource]:
    """The files that are in a file: itself if it is not compressed, or is a workbook.

    Raises:
        InvalidRequest: It is damaged, or encrypted.
        LimitExceeded: It holds too many files.
    """
    with source.open() as stream:
        head = stream.read(8)
    kind = compression_of(head)
    if not kind:
        return [source]
    if kind == "zip":
        return [source] if is_workbook(source) else _members(source, limits)
    return [Expanded(source, kind, _inner_name(source.name), limits)]


def _inner_name(name: str) -> str:
    ending = next((ending for ending in _EXTENSIONS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _members(source: ByteSource, limits: FileLimits) -> list[ByteSource]:
    with source.open() as stream:
        try:
            found = zipfile.ZipFile(stream).infolist()
        except zipfile.BadZipFile as error:
            raise InvalidRequest(
                f"'{source.name}' is cut off or damaged: a zip archive has a table of contents at its end, "
                "found none",
                "bring it here again",
            ) from error
    # What macOS puts into archives beside the files themselves.
    names = sorted(m.filename for m in found if not m.is_dir() and not m.filename.startswith("__MACOSX/"))
    if not names:
        raise InvalidRequest(f"the archive '{source.name}' holds no file")
    if len(names) > limits.max_members:
        raise LimitExceeded(
            f"the archive '{source.name}' holds {len(names)} files, at most {limits.max_members} are taken "
            "(max_members)"
        )
    return [Expanded(source, "zip", name, limits, name) for name in names]


@dataclass(frozen=True)
class Expanded:
    """What is in a compressed file, or one file of an archive, as a source of its own."""

    origin: ByteSource
    compression: str
    name: str
    limits: FileLimits = field(repr=False)
    member: str = ""
    size: int | None = None

    @property
    def identity(self) -> str:
        """That of the compressed file, and which one of its files it is."""
        return f"{self.origin.identity}#{self.member}" if self.origin.identity else ""

    def open(self) -> BinaryIO:
        """See ``ByteSource``. A stream of this kind cannot seek.

        Raises:
            InvalidRequest: The file is damaged.
        """
        return cast("BinaryIO", io.BufferedReader(_Expanding(self), _CHUNK))


class _Expanding(io.RawIOBase):
    """Counts what comes out, and says in words when nothing sensible does."""

    def __init__(self, content: Expanded) -> None:
        self._content = content
        self._source = content.origin.open()
        self._compressed = content.origin.size
        self._count = 0
        self._read = self._opened()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            found = self._read(len(target))
        except _BROKEN as error:
            raise self._damaged(error) from error
        target[: len(found)] = found
        self._count += len(found)
        self._check()
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def _opened(self) -> Callable[[int], bytes]:
        kind = self._content.compression
        if kind == "gzip":
            return gzip.GzipFile(fileobj=self._source).read
        if kind == "bzip2":
            return bz2.BZ2File(self._source).read
        if kind == "xz":
            return lzma.LZMAFile(self._source).read
        if kind == "zstd":
            return cast("Callable[[int], bytes]", pa.CompressedInputStream(self._source, "zstd").read)
        try:
            return zipfile.ZipFile(self._source).open(self._content.member).read
        except (*_BROKEN, NotImplementedError, RuntimeError) as error:
            raise self._damaged(error) from error

    def _check(self) -> None:
        limits, content = self._content.limits, self._content
        if self._count > limits.max_expanded_bytes:
            raise LimitExceeded(
                f"'{content.name}' holds more than {limits.max_expanded_bytes} bytes, which is the most a "
                "compressed file may grow to (max_expanded_bytes)"
            )
        compressed = self._compressed if self._compressed is not None else self._source.tell()
        if self._count > limits.expansion_floor_bytes and self._count > limits.max_expansion * compressed:
            raise LimitExceeded(
                f"'{content.origin.name}' grows to more than {limits.max_expansion} times its size of "
                f"{compressed} bytes, which real data does not (max_expansion)",
                "expand it yourself if it is what it should be",
            )

    def _damaged(self, error: BaseException) -> InvalidRequest:
        name, kind = self._content.origin.name, self._content.compression
        if isinstance(error, EOFError) or "Truncated" in str(error) or "ended before" in str(error):
            return InvalidRequest(
                f"'{name}' is cut off: its {kind} data ends in the middle, after {self._count} bytes of "
                "content",
                "it was probably not copied to its end; bring it here again",
            )
        if isinstance(error, RuntimeError) and "password" in str(error):
            return InvalidRequest(f"'{name}' is encrypted", "decrypt it first")
        return InvalidRequest(
            f"'{name}' is damaged: its {kind} data makes no sense after {self._count} bytes of content",
            "bring it here again",
        )
