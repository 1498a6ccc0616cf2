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
    return Bucket(name, store, f"file://{root}", root)
