"""Object storage: buckets that hold everything that has to survive a restart."""

from lakehouse.storage.bucket import Bucket, ObjectWriter, StoredObject
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.uploads import Uploads

__all__ = ["Bucket", "ObjectWriter", "StoredObject", "Uploads", "open_local_bucket"]
