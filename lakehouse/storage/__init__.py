"""Object storage: buckets that hold everything that has to survive a restart."""

from lakehouse.config import BucketSettings
from lakehouse.storage.bucket import Bucket, ObjectWriter, StoredObject
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.object_cache import CacheStatistics, Lease, ObjectCache
from lakehouse.storage.s3 import check_create_only, open_s3_bucket
from lakehouse.storage.uploads import Uploads

__all__ = [
    "Bucket",
    "CacheStatistics",
    "Lease",
    "ObjectCache",
    "ObjectWriter",
    "StoredObject",
    "Uploads",
    "open_bucket",
    "open_local_bucket",
]


def open_bucket(settings: BucketSettings, cache: ObjectCache | None = None) -> Bucket:
    """Open a bucket as it is configured.

    Args:
        settings: The configuration.
        cache: Where the objects of remote buckets are kept for reading; without one, only their metadata
            can be read.

    Raises:
        ConfigError: The configuration does not lead to a bucket, or to one in which two writers could both
            take place.
        StorageError: Its store cannot be reached, or does not let this server in.
    """
    if settings.kind == "local":
        return open_local_bucket(settings.name, settings.path)
    bucket = open_s3_bucket(settings, cache)
    bucket.check()
    check_create_only(bucket)
    return bucket
