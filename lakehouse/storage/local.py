"""A bucket that is a directory of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from obstore.store import LocalStore

from lakehouse.errors import ConfigError, InvalidRequest, StorageError
from lakehouse.storage.bucket import Bucket, storage_errors

# The SQL engine reads these as wildcards, so a file below such a directory could not be named.
_WILDCARDS = frozenset("*?[]")


def open_local_bucket(name: str, path: Path | str) -> Bucket:
    """Open a directory as a bucket; it is created when it is missing.

    Args:
        name: What messages call the bucket.
        path: The directory.

    Raises:
        ConfigError: The path cannot be a bucket: not creatable, not writable, or with wildcards in it.
    """
    root = Path(os.path.realpath(path))
    if _WILDCARDS & set(str(root)):
        raise ConfigError(f"the directory of bucket '{name}' must not have any of * ? [ ] in its path")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with storage_errors(name, "", "opened"):
            store = LocalStore(root)
    except (OSError, StorageError, InvalidRequest) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the directory of bucket '{name}' cannot be used: {reason}") from error
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"the directory of bucket '{name}' cannot be written to by this user")
    return Bucket(name, store, f"file://{root}", root, _Persistence(root), aliases=(str(root),))


class _Persistence:
    """Flushes objects, and the directories that lead to them, from the system's memory to the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reachable = {root}

    def __call__(self, key: str) -> None:
        path = self._root / key
        _flush(path)
        parent = path.parent
        _flush(parent)
        while parent not in self._reachable:
            self._reachable.add(parent)
            parent = parent.parent
            _flush(parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
