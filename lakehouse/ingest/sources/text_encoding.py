"""Which encoding a text is in, and the text as UTF-8."""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from typing import BinaryIO, cast

from lakehouse.errors import InvalidRequest

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What Windows leaves undefined, and ISO 8859-1 uses for control characters.
_UNDEFINED = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))
# All but those that end lines, pages and files of DOS, tabs and escapes.
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\v\f\r\x1a\x1b"})
_FEW = 8
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoding:
    """How bytes are read as text.

    Attributes:
        name: As Python names it.
        mark_bytes: How many bytes of a mark stand before the text.
        reason: How that is known.
        guessed: Whether it may turn out to be wrong.
    """

    name: str
    mark_bytes: int = 0
    reason: str = ""
    guessed: bool = False

    @property
    def is_utf8(self) -> bool:
        """Whether the bytes can be taken as they are."""
        return self.name == "utf-8"

    @property
    def is_unicode(self) -> bool:
        """Whether bytes that are no text could hardly be read so."""
        return self.name.startswith("utf")


def encoding_of(sample: bytes, stated: str = "") -> Encoding:
    """The encoding of a text that begins with ``sample``.

    Raises:
        InvalidRequest: There is no such encoding as the stated one.
    """
    mark, name = next(((mark, name) for mark, name in _MARKS if sample.startswith(mark)), (b"", ""))
    if stated:
        return _stated(stated, mark, name)
    if name:
        return Encoding(name, len(mark), "by its byte order mark")
    wide = _without_mark(sample)
    if wide:
        return Encoding(wide, 0, "every other byte is zero")
    broken = _broken_at(sample)
    if broken is None and sample.isascii():
        return Encoding("utf-8", 0, "nothing speaks against it", guessed=True)
    if broken is None or not sample[:broken].isascii():
        return Encoding("utf-8", 0, "letters beyond ASCII are written so")
    return single_byte_encoding(sample, sample.count(b"\n", 0, broken) + 1)


def check_text(text: bytes, name: str, *, is_unicode: bool) -> None:
    """Refuse what is none, such as a picture, or a file of another format that is damaged.

    Args:
        text: The beginning of a file.
        name: What to call the file.
        is_unicode: Whether it can be read as such: then it is a text, unless it is full of zeros.

    Raises:
        InvalidRequest: It is no text.
    """
    unwanted, share = (b"\0", 0.1) if is_unicode else (_CONTROLS, 0.01)
    count = len(text) - len(text.translate(None, unwanted))
    if count > max(_FEW, share * len(text)):
        raise InvalidRequest(
            f"'{name}' is no text, and of no other format that is known by its content: "
            f"{count} of its first {len(text)} characters are control characters",
            "it may be damaged or of another kind; state the format, encoding or delimiter if it is a text",
        )


def single_byte_encoding(text: bytes, line: int) -> Encoding:
    """What a text is taken for that is ASCII up to a line, and from there on not UTF-8."""
    name = "latin-1" if any(byte in text for byte in _UNDEFINED) else "windows-1252"
    return Encoding(name, 0, f"a guess: line {line} is not UTF-8")


def _stated(stated: str, mark: bytes, marked: str) -> Encoding:
    try:
        name = codecs.lookup(stated).name
    except LookupError:
        raise InvalidRequest(
            f"there is no encoding '{stated}'", "such as utf-8, windows-1252, utf-16"
        ) from None
    name = {"utf-8-sig": "utf-8"}.get(name, name)
    if name in {"utf-16", "utf-32"}:
        name = marked if marked.startswith(name) else f"{name}-le"
    return Encoding(name, len(mark) if marked == name else 0, "stated by the caller")


def _without_mark(sample: bytes) -> str:
    head = sample[:4096]
    half = len(head) // 2
    if half < 2:
        return ""
    if head[1::2].count(0) > 0.8 * half and not head[0::2].count(0):
        return "utf-16-le"
    if head[0::2].count(0) > 0.8 * half and not head[1::2].count(0):
        return "utf-16-be"
    return ""


def _broken_at(sample: bytes) -> int | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(sample)  # a character that the sample cuts is no fault
    except UnicodeDecodeError as error:
        return error.start
    return None


def utf8_stream(stream: BinaryIO, encoding: Encoding, name: str) -> BinaryIO:
    """The text of a stream, from its beginning, as UTF-8 and without a mark."""
    stream.read(encoding.mark_bytes)
    if encoding.is_utf8:
        return stream
    return cast("BinaryIO", io.BufferedReader(_Recoded(stream, encoding, name), _CHUNK))


class _Recoded(io.RawIOBase):
    def __init__(self, stream: BinaryIO, encoding: Encoding, name: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._name = name
        self._decoder = codecs.getincrementaldecoder(encoding.name)()
        self._left = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._left and not self._ended:
            found = self._stream.read(_CHUNK)
            self._ended = not found
            self._left = memoryview(self._recode(found))
        taken = self._left[: len(target)]
        target[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)

    def _recode(self, found: bytes) -> bytes:
        try:
            return self._decoder.decode(found, final=not found).encode()
        except UnicodeError as error:
            raise InvalidRequest(
                f"'{self._name}' is not {self._encoding.name} throughout, as it was taken for "
                f"({self._encoding.reason})",
                "state the encoding",
            ) from error

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
