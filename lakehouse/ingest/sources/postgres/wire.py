"""Messages of PostgreSQL's protocol, read from a connection's own socket in large pieces.

libpq gives the rows of a COPY one by one, each in memory of its own, which takes longer than all that is done
with them (per million rows of 170 bytes 1.3 to 1.6 s of the processor, against 0.55 s for what is done here).
It can be passed by because it keeps nothing of its own while nothing is asked: the question is sent and its
answer read to the end on the bare socket, and libpq finds the connection as it left it. TLS is libpq's own.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psycopg

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = len(_SIGNATURE) + 8
_PREFIX = 5
_READY = b"Z\0\0\0\5"
_DATA = ord("d")
# The end of the rows; and what may come at any time: notices, settings, notifications.
_ASIDE = frozenset(b"cNSA")
_LENGTH = struct.Struct("!I")
_END_OF_ROWS = b"\xff\xff"
# Waking up for every 8 kB that the server sends would cost more than to wait for some of them, but not for
# longer than this: the last ones may be fewer.
_ENOUGH = 128 * 1024
_WAIT_MS, _LONG_WAIT_MS = 5, 100
_PATIENCE_S = 1.0
# What comes may be looked at in pieces of up to this size, which reach beyond the end of the last row.
SLACK = 4096


@dataclass(slots=True)
class RowBytes:
    """Rows in binary form, valid until the next ones are asked for.

    Attributes:
        memory: The bytes they are in, with some more behind them than the last of them has.
        starts: Where each row begins.
        ends: Where each of them ends.
    """

    memory: bytearray
    starts: np.ndarray
    ends: np.ndarray


class CopyStream:
    """The answer to one ``COPY … TO STDOUT (FORMAT binary)``.

    Args:
        connection: Without TLS, and with no other query at work.
        sql: The whole statement.
        batch_bytes: About how many bytes to give at once.
    """

    def __init__(
        self, connection: psycopg.Connection[tuple[object, ...]], sql: str, batch_bytes: int
    ) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.pgconn.socket))
        self._memory = bytearray(batch_bytes + SLACK)
        self._filled = 0
        self._at = 0
        self._rows = 0
        self._begun = self._ended = self._is_over = False
        self._error: psycopg.Error | None = None
        text = sql.encode() + b"\0"
        self._ask = b"Q" + _LENGTH.pack(len(text) + 4) + text

    def rows(self) -> Iterator[RowBytes]:
        """The rows, some at a time.

        Raises:
            psycopg.Error: The server refused, failed, or sent what nobody can understand.
            OSError: The connection was lost.
        """
        with suppress(OSError):  # only for speed
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _ENOUGH)
        try:
            self._send()
            while not self._is_over:
                self._receive()
                yield from self._taken()
        except OSError as error:
            # What the server said last tells more than that it is gone.
            raise self._error or error from None
        finally:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self._socket.close()
        if self._error is not None:
            raise self._error

    def _send(self) -> None:
        left = memoryview(self._ask)
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                poll.poll()

    def _receive(self) -> None:
        """Fill the memory, as far as there is something to come soon."""
        self._make_room()
        room = len(self._memory) - SLACK
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        wait_ms, before, until_s = _WAIT_MS, self._filled, time.monotonic() + _PATIENCE_S
        with memoryview(self._memory) as view:
            while self._filled < room:
                poll.poll(wait_ms)
                try:
                    count = self._socket.recv_into(view[self._filled : room])
                except BlockingIOError:
                    if self._filled > before and wait_ms >= _LONG_WAIT_MS:
                        return
                    wait_ms = min(2 * wait_ms, _LONG_WAIT_MS)
                    continue
                if not count and self._filled > before:
                    return  # what it said last comes first
                if not count:
                    raise ConnectionError("the server closed the connection unexpectedly")
                self._filled += count
                wait_ms = _WAIT_MS
                # The very end of an answer, unless a value happens to look like it, which does no harm.
                if time.monotonic() > until_s or self._memory.startswith(_READY, max(self._filled - 6, 0)):
                    return

    def _make_room(self) -> None:
        """Move what is left to the front, into larger memory where one message fills it."""
        left = self._memory[self._at : self._filled]
        needed = 1 + _LENGTH.unpack_from(left, 1)[0] if len(left) >= _PREFIX else 0
        if needed > len(self._memory) - SLACK:
            self._memory = bytearray(needed + SLACK)
        self._memory[: len(left)] = left
        self._at, self._filled = 0, len(left)

    def _taken(self) -> Iterator[RowBytes]:
        """The rows that are there as a whole."""
        places, self._at = self._walk()
        if not places:
            return
        starts = np.array(places, dtype=np.int64)
        ends = np.append(starts[1:], self._at)
        kinds = np.frombuffer(self._memory, np.uint8)[starts]
        starts += _PREFIX
        others = np.flatnonzero(kinds != _DATA).tolist()
        first = 0
        for other in [*others, len(starts)]:
            if other > first:
                yield from self._data(starts[first:other], ends[first:other])
            if other < len(starts):
                self._other(chr(kinds[other]), bytes(self._memory[starts[other] : ends[other]]))
            first = other + 1

    def _walk(self) -> tuple[list[int], int]:
        """Where messages begin that are there as a whole, and where the next one would."""
        memory, filled, at = self._memory, self._filled, self._at
        places: list[int] = []
        note, length = places.append, _LENGTH.unpack_from
        last = filled - _PREFIX
        while at <= last:
            note(at)
            at += 1 + length(memory, at + 1)[0]
        return (places, at) if at <= filled else (places, places.pop())

    def _data(self, starts: np.ndarray, ends: np.ndarray) -> Iterator[RowBytes]:
        """The rows of messages, without what stands before and behind all of them."""
        if self._ended:
            raise psycopg.DataError("the server sent rows after their end")
        if not self._begun:
            self._begun = True
            begin, end = int(starts[0]), int(ends[0])
            if not self._memory.startswith(_SIGNATURE, begin, end) or end < begin + _HEADER:
                raise psycopg.DataError("the server did not send rows in binary form")
            extra = _LENGTH.unpack_from(self._memory, begin + _HEADER - 4)[0]
            starts[0] += _HEADER + extra
            if starts[0] >= ends[0]:
                starts, ends = starts[1:], ends[1:]
        if len(starts) and self._memory[starts[-1] : min(ends[-1], starts[-1] + 3)] == _END_OF_ROWS:
            self._ended = True
            starts, ends = starts[:-1], ends[:-1]
        if len(starts):
            self._rows += len(starts)
            yield RowBytes(self._memory, starts, ends)

    def _other(self, kind: str, content: bytes) -> None:
        """A message that is no row."""
        if kind == "Z":
            self._is_over = True
        elif kind == "E":
            self._error = _error(content)
        elif kind == "C":
            if not self._ended or content.rstrip(b"\0") != b"COPY %d" % self._rows:
                raise psycopg.DataError(f"{self._rows} rows arrived, and the server says {content!r}")
        elif kind == "H":
            if content[:1] != b"\1":
                raise psycopg.DataError("the server did not send rows in binary form")
        elif ord(kind) not in _ASIDE:
            raise psycopg.DataError(f"the server sent a message of the unknown kind {kind!r}")


def _error(content: bytes) -> psycopg.Error:
    """What the server says, as psycopg would raise it."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in content.split(b"\0") if part}
    kind: type[psycopg.Error] = psycopg.DatabaseError
    with suppress(KeyError):
        kind = psycopg.errors.lookup(fields.get(b"C", ""))
    return kind(f"ERROR:  {fields.get(b'M', 'no reason was given')}")
