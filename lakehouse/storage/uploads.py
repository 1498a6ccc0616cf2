"""Objects that are stored side by side, while their writer goes on."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

from lakehouse.errors import StorageError

# They wait for storage, so there may be many more than cores.
_THREADS = ThreadPoolExecutor(32, thread_name_prefix="upload")


class Uploads:
    """What one writer has under way. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._started: list[Future[None]] = []

    def start(self, put: Callable[[], None]) -> None:
        """Begin to store an object; ``settle`` tells what became of it."""
        self._started.append(_THREADS.submit(contextvars.copy_context().run, put))

    def settle(self) -> None:
        """Wait until nothing is under way.

        Raises:
            StorageError: Something that was begun since the last time could not be stored; the rest is
                stored or failed as well.
        """
        started, self._started = self._started, []
        wait(started)
        for upload in started:
            upload.result()

    def abandon(self) -> None:
        """Wait until nothing is under way, whatever became of it, so that it can be removed."""
        with suppress(StorageError):
            self.settle()
