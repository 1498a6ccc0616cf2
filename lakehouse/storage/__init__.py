"""Object storage: buckets that hold everything that has to survive a restart."""

from lakehouse.storage.bucket import Bucket, ObjectWriter, StoredObject
from lakehouse.storage.local import open_local_bucket

__all__ = ["Bucket", "ObjectWriter", "StoredObject", "open_local_bucket"]
