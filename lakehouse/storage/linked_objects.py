"""Paths at which objects of local buckets are read that somebody may replace at any time.

Each version of such an object has a path of its own, a link in a directory of this process. So whatever is
remembered of a file by its path, as the SQL engine remembers footers, is never that of another version; and
before files are read, it is looked up whether their objects are still those versions. That is told by what
the store calls an e_tag: of a file the inode, the time of the last change, and the size.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lakehouse.errors import ObjectNotFound, StorageError, object_changed
from lakehouse.storage.bucket import Bucket
from lakehouse.storage.object_cache import readable_key
from lakehouse.storage.scratch import ScratchDirectory

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class _Linked:
    bucket: str
    key: str
    target: str
    e_tag: str


class LinkedObjects:
    """Gives versions of objects paths of their own. Safe to use from several threads.

    Args:
        parent: Where the directory of links is made; empty for the system's temporary directory.
    """

    def __init__(self, parent: str = "") -> None:
        self._scratch = ScratchDirectory(parent)
        self.directory = self._scratch.path
        self._prefix = f"{self.directory}/"
        self._lock = threading.Lock()
        self._linked: dict[str, _Linked] = {}

    def path(self, bucket: Bucket, key: str, e_tag: str, directories: Iterable[str] = ()) -> str:
        """Where a version of an object of a local bucket can be read.

        Args:
            bucket: The bucket.
            key: The object's key.
            e_tag: The version.
            directories: Segments of the key that have to be in the path.

        Raises:
            StorageError: No link can be made.
        """
        target = bucket.local_path(key)
        name = hashlib.sha256(f"{target}\0{e_tag}".encode()).hexdigest()[:32]
        between = "".join(f"{readable_key(each)}/" for each in directories)
        # Messages of the engine name the last segment.
        last = readable_key(key.rsplit("/", 1)[-1])[-_LONGEST_NAME:]
        path = f"{self._prefix}{name}/{between}{last}"
        with self._lock:
            if path not in self._linked:
                try:
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    Path(path).symlink_to(target)
                except OSError as error:
                    raise StorageError(
                        f"object '{key}' of bucket '{bucket.name}' cannot be read: {error.strerror}",
                        "make room on the disk of engine.spill_directory",
                    ) from error
                self._linked[path] = _Linked(bucket.name, key, target, e_tag)
        return path

    def holds(self, path: str) -> bool:
        """Whether a path is one that ``path`` gave."""
        return path.startswith(self._prefix)

    def check(self, paths: Iterable[str]) -> None:
        """Make sure that objects are still the versions that paths stand for.

        Args:
            paths: Paths that ``path`` gave; others are left alone.

        Raises:
            ObjectChanged: One of them was replaced.
            ObjectNotFound: One of them is gone.
        """
        for path in paths:
            if not path.startswith(self._prefix):
                continue
            linked = self._linked[path]
            try:
                found = os.stat(linked.target)  # noqa: PTH116 - a Path takes longer than the question
            except OSError:
                raise ObjectNotFound(
                    f"object '{linked.key}' of bucket '{linked.bucket}', which was registered, is gone",
                    "catalog.verify tells what changed, catalog.resync takes it over",
                ) from None
            if _e_tag(found) != linked.e_tag:
                raise object_changed(linked.bucket, linked.key)

    def close(self) -> None:
        """Remove the links."""
        self._scratch.close()


def _e_tag(found: os.stat_result) -> str:
    """What obstore's store of local files calls a version."""
    return f'"{found.st_ino:x}-{found.st_mtime_ns // 1000:x}-{found.st_size:x}"'
