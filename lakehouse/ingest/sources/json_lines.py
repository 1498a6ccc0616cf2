"""JSON documents as lines: one value in each, whatever was around and between them."""

from __future__ import annotations

import io
import json
import re
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from lakehouse.errors import InvalidRequest

_CHUNK = 4 * 1024 * 1024
_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_MARKS = np.zeros(256, np.bool_)
_MARKS[list(b"{}[],\n\r")] = True
_STEPS = np.zeros(256, np.int64)
_STEPS[list(b"{[")] = 1
_STEPS[list(b"}]")] = -1


def is_array(head: bytes) -> bool:
    """Whether a text begins an array, of which each element is a row."""
    return head.lstrip().startswith(b"[")


def is_lines(head: bytes) -> bool:
    """Whether each value of a text stands in a line of its own, as far as its beginning shows."""
    text = head.decode("utf-8", "replace")
    place = _BLANKS.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        try:
            _, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            # A line that is wrong is followed by one that is right, a value that goes on is not.
            _, broken, rest = text[place:].partition("\n")
            return not broken or _is_value(rest.partition("\n")[0].strip())
        if "\n" in text[place:end]:
            return False
        place = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
    return True


def _is_value(line: str) -> bool:
    if not line.startswith(("{", "[")):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def as_lines(stream: BinaryIO, array: bool, name: str) -> BinaryIO:
    """The values of a document, each in a line of its own.

    Args:
        stream: UTF-8 from its beginning.
        array: Whether they are the elements of an array.
        name: Of the file, for messages.
    """
    return cast("BinaryIO", io.BufferedReader(_Lines(stream, array, name), _CHUNK))


class _Lines(io.RawIOBase):
    """What parts values becomes a line end, a line end within values a blank; no byte more or less."""

    def __init__(self, stream: BinaryIO, array: bool, name: str) -> None:
        self._stream = stream
        self._array = array
        self._name = name
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._left:
            found = self._stream.read(_CHUNK)
            if not found and (self._depth or self._in_text):
                raise InvalidRequest(f"'{self._name}' is cut off: its JSON ends within a value")
            self._left = memoryview(self._turned(found)) if found else self._left
        taken = self._left[: len(target)]
        target[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)

    def _turned(self, content: bytes) -> bytes:
        letters = np.frombuffer(content, np.uint8).copy()
        quotes = self._quotes(content, letters)
        places = np.flatnonzero(_MARKS[letters])
        inside = (np.searchsorted(quotes, places) + self._in_text) % 2 == 1
        places = places[~inside]
        marks = letters[places]
        depths = np.cumsum(_STEPS[marks]) + self._depth
        ends = (marks == 10) | (marks == 13)
        letters[places[ends & (depths > 0)]] = 32
        if self._array:
            letters[places[(marks == ord(",")) & (depths == 1)]] = 10
            letters[places[(marks == ord("[")) & (depths == 1)]] = 32
            letters[places[(marks == ord("]")) & (depths == 0)]] = 32
        if len(places):
            self._depth = int(depths[-1])
        self._in_text = (len(quotes) + self._in_text) % 2 == 1
        return letters.tobytes()

    def _quotes(self, content: bytes, letters: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The places of the quotes that begin or end a text."""
        quotes: npt.NDArray[np.int64] = np.flatnonzero(letters == ord('"'))
        escaped = [
            place for place in quotes[letters[quotes - 1] == 92].tolist() if self._is_escaped(content, place)
        ]
        if len(quotes) and quotes[0] == 0 and self._escaped:
            escaped.append(0)
        tail = len(content) - len(content.rstrip(b"\\"))
        self._escaped = (tail + (self._escaped and tail == len(content))) % 2 == 1
        return np.setdiff1d(quotes, np.array(escaped, np.int64), assume_unique=True) if escaped else quotes

    def _is_escaped(self, content: bytes, place: int) -> bool:
        if place == 0:
            return False
        run = place - len(content[:place].rstrip(b"\\")) if place < 64 else _run(content, place)
        return (run + (self._escaped and run == place)) % 2 == 1

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _run(content: bytes, place: int) -> int:
    """How many backslashes stand before a place."""
    start = place
    while start and content[start - 1] == 92:
        start -= 1
    return place - start
