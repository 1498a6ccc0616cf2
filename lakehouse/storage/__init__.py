"""Object storage: buckets that hold everything that has to survive a restart."""

from lakehouse.storage.breaker import BreakerState, CircuitBreaker
from lakehouse.storage.bucket import (
    Bucket,
    BucketFailure,
    ObjectDetails,
    ObjectWriter,
    StoredObject,
    StoreRefused,
    StoreUnreachable,
)
from lakehouse.storage.buckets import BucketHealth, Buckets, BucketUse, open_bucket
from lakehouse.storage.linked_objects import LinkedObjects
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.object_cache import CacheStatistics, Lease, ObjectCache, readable_key
from lakehouse.storage.scratch import ScratchDirectory
from lakehouse.storage.uploads import Uploads

__all__ = [
    "BreakerState",
    "Bucket",
    "BucketFailure",
    "BucketHealth",
    "BucketUse",
    "Buckets",
    "CacheStatistics",
    "CircuitBreaker",
    "Lease",
    "LinkedObjects",
    "ObjectCache",
    "ObjectDetails",
    "ObjectWriter",
    "ScratchDirectory",
    "StoreRefused",
    "StoreUnreachable",
    "StoredObject",
    "Uploads",
    "open_bucket",
    "open_local_bucket",
    "readable_key",
]
