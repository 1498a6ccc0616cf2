"""A bucket in the memory of this process, which is gone with it: for tests."""

from __future__ import annotations

import secrets

from obstore.store import MemoryStore

from lakehouse.storage.bucket import Bucket
from lakehouse.storage.object_cache import ObjectCache


def open_memory_bucket(name: str, cache: ObjectCache | None = None) -> Bucket:
    """Make an empty bucket in memory.

    Args:
        name: What messages call the bucket.
        cache: Where its objects are kept for reading; without one, data files cannot be read.

    Raises:
        ConfigError: The cache cannot be used.
    """
    bucket = Bucket(name, MemoryStore(), f"memory://{name}", cache=cache)
    if cache is not None:
        # What an earlier process left in the cache is of another bucket.
        cache.attach(bucket, f"memory {secrets.token_hex(16)}")
    return bucket
