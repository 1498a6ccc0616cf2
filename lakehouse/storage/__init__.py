"""Object storage: buckets that hold everything that has to survive a restart."""

from lakehouse.storage.bucket import Bucket, BucketFailure, ObjectWriter, StoredObject
from lakehouse.storage.buckets import BucketHealth, Buckets, BucketUse, open_bucket
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.object_cache import CacheStatistics, Lease, ObjectCache
from lakehouse.storage.uploads import Uploads

__all__ = [
    "Bucket",
    "BucketFailure",
    "BucketHealth",
    "BucketUse",
    "Buckets",
    "CacheStatistics",
    "Lease",
    "ObjectCache",
    "ObjectWriter",
    "StoredObject",
    "Uploads",
    "open_bucket",
    "open_local_bucket",
]
