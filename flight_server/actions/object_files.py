"""Objects of buckets as files to be read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from lakehouse.access.guarded_objects import GuardedObjects
from lakehouse.storage.bucket import StoredObject

# Directories are gone through anew for each page.
_PAGE = 10_000


def listed(objects: GuardedObjects, bucket: str, prefix: str, pattern: str) -> Iterator[StoredObject]:
    """The objects that a caller may read, by the beginning and the end of their keys; without empty ones.

    Args:
        objects: The objects as the caller may read them.
        bucket: The name of the bucket.
        prefix: What the keys begin with, at any depth.
        pattern: What the end of the key fits, as in ``*.csv.gz``.

    Raises:
        BucketNotFound: There is none for the caller.
    """
    after = ""
    while True:
        page = objects.list(bucket, prefix, recursive=True, limit=_PAGE, after=after)
        for found in page.objects:
            if found.size_bytes and fnmatch.fnmatchcase(found.key, f"*{pattern}"):
                yield found
        if not page.next_after:
            return
        after = page.next_after
