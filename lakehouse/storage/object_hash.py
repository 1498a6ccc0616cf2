"""SHA-256 of a content while something else is done with it."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

# Hashing needs cores rather than patience, so many more would help nobody.
_THREADS = ThreadPoolExecutor(8, thread_name_prefix="sha256")
_AT_ONCE_BYTES = 65_536


class RunningHash:
    """The hash of bytes that come piece by piece; each may be changed only after the next one has come.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._waiting: Future[None] | None = None

    def update(self, piece: memoryview) -> None:
        """Begin to hash the next piece, once the one before is done."""
        self._settle()
        if piece.nbytes <= _AT_ONCE_BYTES:
            self._sha256.update(piece)
        else:
            self._waiting = _THREADS.submit(self._sha256.update, piece)

    def hexdigest(self) -> str:
        """The hash of all pieces, in hexadecimal digits."""
        self._settle()
        return self._sha256.hexdigest()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result()
