"""Directories for files of a process: gone with it, or with the next one where it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from lakehouse.errors import ConfigError

_PREFIX = "lakehouse-scratch-"
_LOCK = "lock"


class ScratchDirectory:
    """A fresh directory of this process. What killed processes left beside it is removed.

    A lock on a file in it says that its process lives; the system lets go of that, however the process ends.

    Args:
        parent: Where it is made; empty for the system's temporary directory.

    Attributes:
        path: The directory, absolute.

    Raises:
        ConfigError: There cannot be one.
    """

    def __init__(self, parent: str = "") -> None:
        place = Path(parent or tempfile.gettempdir()).absolute()
        try:
            place.mkdir(parents=True, exist_ok=True)
            _remove_orphans(place)
            self.path, lock = _made(place)
        except OSError as error:
            raise ConfigError(
                f"engine.spill_directory = {str(place)!r} cannot be used: {error.strerror}"
            ) from None
        self._lock: int | None = lock

    def close(self) -> None:
        """Remove it with all that is in it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)


def _made(place: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        descriptor = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if _is_locked(descriptor) and (path / _LOCK).exists():
            return path, descriptor
        # Another process removed it, or is about to, since nobody held the lock yet.
        os.close(descriptor)


def _remove_orphans(place: Path) -> None:
    """Remove what belongs to no process any more."""
    for path in place.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _is_locked(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether the lock is this process's now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
