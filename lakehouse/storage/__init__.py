"""Object storage: buckets that hold everything that has to survive a restart."""

from lakehouse.config import BucketSettings
from lakehouse.storage.bucket import Bucket, ObjectWriter, StoredObject
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.s3 import open_s3_bucket
from lakehouse.storage.uploads import Uploads

__all__ = ["Bucket", "ObjectWriter", "StoredObject", "Uploads", "open_bucket", "open_local_bucket"]


def open_bucket(settings: BucketSettings) -> Bucket:
    """Open a bucket as it is configured.

    Raises:
        ConfigError: The configuration does not lead to a bucket.
        StorageError: Its store cannot be reached, or does not let this server in.
    """
    if settings.kind == "local":
        return open_local_bucket(settings.name, settings.path)
    bucket = open_s3_bucket(settings)
    bucket.check()
    return bucket
