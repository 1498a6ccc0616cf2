"""The objects of the buckets as one principal may read and write them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from lakehouse.access.policy import Access
from lakehouse.access.server_places import ServerPlaces
from lakehouse.clock import Clock
from lakehouse.config import ObjectSettings, Settings
from lakehouse.errors import (
    BucketNotFound,
    InvalidRequest,
    LimitExceeded,
    NotSupported,
    ObjectNotFound,
    PermissionDenied,
    StorageError,
)
from lakehouse.journal.change_event import ChangeEvent, ChangeRecorder
from lakehouse.storage import Bucket, ObjectDetails
from lakehouse.storage.object_download import ObjectDownload
from lakehouse.storage.object_keys import MOST_KEY_BYTES, check_key
from lakehouse.storage.object_listing import Page, Wish, list_page
from lakehouse.storage.object_upload import (
    HASH_ATTRIBUTE,
    MOST_COPIED_BYTES,
    Leftovers,
    ObjectUpload,
    PutOptions,
    PutResult,
    copy_new,
)

_KNOWN_HASHES = 10_000


class _Nobody:
    def record(self, *events: ChangeEvent) -> None:
        """Forget them."""


@dataclass(frozen=True, slots=True)
class Place:
    """An object, whether it is there or not."""

    bucket: Bucket
    key: str

    @property
    def uri(self) -> str:
        """Where it is, whatever links lead there."""
        if self.bucket.root is None:
            return self.bucket.uri_of(self.key)
        return f"file://{os.path.realpath(self.bucket.root / self.key)}"

    def __str__(self) -> str:
        return f"{self.bucket.name}/{self.key}"


class KnownHashes:
    """The hashes of objects that were put by this server, as long as they are the same objects."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hashes: OrderedDict[tuple[str, str], str] = OrderedDict()

    def note(self, place: Place, e_tag: str, sha256: str) -> None:
        """Keep the hash of an object, and forget the oldest ones."""
        with self._lock:
            self._hashes[place.uri, e_tag] = sha256
            while len(self._hashes) > _KNOWN_HASHES:
                self._hashes.popitem(last=False)

    def of(self, place: Place, e_tag: str) -> str:
        """The hash of an object; empty if it is not known."""
        return self._hashes.get((place.uri, e_tag), "")


class Objects:
    """What all principals have in common: the buckets, what in them is the server's, and the bounds.

    Args:
        settings: The configuration.
        buckets: The buckets by name.
        clock: Source of time.
        recorder: Told of every change.
    """

    def __init__(
        self,
        settings: Settings,
        buckets: Mapping[str, Bucket],
        clock: Clock,
        recorder: ChangeRecorder | None = None,
    ) -> None:
        self.bounds: ObjectSettings = settings.objects
        self.buckets = buckets
        self.places = ServerPlaces(settings, buckets)
        self.hashes = KnownHashes()
        self.recorder: ChangeRecorder = recorder or _Nobody()
        self._clock = clock
        self._transfers = threading.BoundedSemaphore(self.bounds.concurrent_transfers)
        self._leftovers = {
            name: Leftovers(bucket, self.bounds.unfinished_seconds) for name, bucket in buckets.items()
        }
        self._sweeper = ThreadPoolExecutor(1, thread_name_prefix="leftovers")
        for name, bucket in buckets.items():
            if bucket.is_local:
                self.sweep(name)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """A place for an object on its way, for the length of a ``with``.

        Raises:
            LimitExceeded: There is none free.
        """
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Take a place for an object on its way.

        Raises:
            LimitExceeded: There is none free.
        """
        if not self._transfers.acquire(blocking=False):
            raise LimitExceeded(
                f"{self.bounds.concurrent_transfers} objects are on their way already "
                "(objects.concurrent_transfers)",
                "try again in a moment",
            )

    def leave(self) -> None:
        """Give the place back."""
        self._transfers.release()

    def sweep(self, bucket: str) -> None:
        """Have removed what killed servers left in a bucket, unless that was done lately."""
        leftovers = self._leftovers[bucket]
        self._sweeper.submit(leftovers.sweep, self._clock.now())

    def close(self) -> None:
        """Sweep no more."""
        self._sweeper.shutdown(wait=False, cancel_futures=True)


class GuardedObjects:
    """The objects as a principal may read and write them.

    Args:
        objects: What all principals have in common.
        access: What the principal may do.
    """

    def __init__(self, objects: Objects, access: Access) -> None:
        self._objects = objects
        self._access = access

    def sees_bucket(self, name: str) -> bool:
        """Whether there is a bucket of that name for the principal."""
        return name in self._objects.buckets and self._access.sees_bucket(name)

    def bucket(self, name: str) -> Bucket:
        """The bucket of that name.

        Raises:
            BucketNotFound: There is none for the principal.
        """
        if not self.sees_bucket(name):
            seen = [each for each in self._objects.buckets if self.sees_bucket(each)]
            raise BucketNotFound(
                f"there is no bucket '{name}'", f"there are: {', '.join(seen)}" if seen else ""
            )
        return self._objects.buckets[name]

    def to_read(self, bucket: str, key: str) -> Place:
        """An object that the principal may read, if it is there.

        Raises:
            BucketNotFound: There is no such bucket for the principal.
            InvalidRequest: No object can have that key.
            ObjectNotFound: There is none for the principal.
        """
        place = self._place(bucket, key)
        if not self._reads(place.bucket, key, place.uri):
            raise ObjectNotFound(f"object '{key}' of bucket '{bucket}' does not exist")
        return place

    def to_write(self, bucket: str, key: str) -> Place:
        """An object that the principal may write and delete.

        Raises:
            BucketNotFound: There is no such bucket for the principal.
            InvalidRequest: No object can have that key.
            PermissionDenied: The principal may not, whether it is there or not.
        """
        place = self._place(bucket, key)
        if self._objects.places.is_own(place.uri):
            raise PermissionDenied(
                f"object '{key}' of bucket '{bucket}' is in a place that the server keeps for itself",
                "choose a key outside of the warehouses of catalogs that does not begin with _",
            )
        if not self._access.writes_object(bucket, key):
            raise PermissionDenied(
                f"{self._access.principal.name} may not write object '{key}' of bucket '{bucket}'",
                "it needs a grant on objects with the privilege write",
            )
        return place

    def head(self, bucket: str, key: str) -> ObjectDetails:
        """What is known of an object.

        Raises:
            ObjectNotFound: There is none for the principal.
        """
        return self.details(self.to_read(bucket, key))

    def details(self, place: Place) -> ObjectDetails:
        """What is known of an object that may be read; among its attributes its hash, if that is known.

        While its bucket cannot be asked, that is its copy in the rescue bucket. One that is not there is not
        looked for elsewhere: it may have been deleted.

        Raises:
            ObjectNotFound: There is none.
        """
        try:
            found = place.bucket.details(place.key)
        except ObjectNotFound:
            raise
        except StorageError as error:
            found = place.bucket.rescued("head", place.key, error, lambda copies: copies.details(place.key))
        sha256 = self._objects.hashes.of(place, found.e_tag)
        return replace(found, attributes={**found.attributes, HASH_ATTRIBUTE: sha256}) if sha256 else found

    def list(self, bucket: str, prefix: str, *, recursive: bool, limit: int, after: str) -> Page:
        """The next page of the keys that begin with a prefix and may be read.

        Args:
            bucket: The bucket.
            prefix: What keys begin with; may end within a segment, or be empty.
            recursive: Whether keys at any depth are listed one by one.
            limit: Most entries of a page.
            after: Where the page before ended; empty for the first page.

        Raises:
            BucketNotFound: There is no such bucket for the principal.
            InvalidRequest: No key can begin so.
        """
        found = self.bucket(bucket)
        if prefix:
            check_key(found, prefix.removesuffix("/"))
        if len(after.encode()) > 2 * MOST_KEY_BYTES:
            raise InvalidRequest("the token of the listing is none that a listing gave")
        wish = Wish(
            prefix,
            recursive,
            limit,
            after,
            lambda key: self._reads(found, key, found.uri_of(key)),
            lambda below: self._reads_below(found, below),
        )
        return list_page(found, wish)

    def download(self, place: Place, found: ObjectDetails, start: int, end: int) -> ObjectDownload:
        """Some bytes of an object that was looked up."""
        copies = place.bucket.copies if found.is_rescued else None
        return ObjectDownload(copies or place.bucket, found, start, end)

    def upload(self, place: Place, options: PutOptions) -> ObjectUpload:
        """Begin to put an object."""
        self._objects.sweep(place.bucket.name)
        return ObjectUpload(place.bucket, place.key, options, self._objects.bounds.max_bytes)

    def delete(self, bucket: str, key: str) -> ObjectDetails:
        """Remove an object; gives what it was.

        Raises:
            ObjectNotFound: There is none.
            PermissionDenied: The principal may not.
        """
        place = self.to_write(bucket, key)
        found = place.bucket.details(key)
        place.bucket.delete(key)
        self._record("delete", place, old={"size": found.size_bytes, "e_tag": found.e_tag})
        return found

    def copy_in_store(self, source: Place, target: Place, found: ObjectDetails, *, if_absent: bool) -> bool:
        """Let the store copy an object; gives whether it could.

        Raises:
            ObjectAlreadyExists: There is one of that key.
        """
        if source.bucket is not target.bucket or source.bucket.is_local:
            return False
        if found.size_bytes > MOST_COPIED_BYTES:
            return False
        if if_absent:
            copy_new(source.bucket, source.key, target.key)
        else:
            source.bucket.copy(source.key, target.key, create=False)
        return True

    def presign(self, method: Literal["GET", "PUT"], bucket: str, key: str, seconds: int) -> str:
        """A URL at which an object can be read or written for a time, without credentials.

        Raises:
            LimitExceeded: The time is too long.
            NotSupported: The bucket gives none.
            ObjectNotFound: There is no object to read.
            PermissionDenied: The principal may not write it.
        """
        most = self._objects.bounds.presign_seconds
        if seconds > most:
            raise LimitExceeded(
                f"a URL is good for {most} s at most, {seconds} s were asked for", "objects.presign_seconds"
            )
        place = self.to_read(bucket, key) if method == "GET" else self.to_write(bucket, key)
        if not place.bucket.keeps_attributes:
            raise NotSupported(
                f"bucket '{bucket}' has no URLs that could be given away: it is not an S3 store",
                "read and write its objects as flights",
            )
        if method == "GET":
            place.bucket.details(key)
        return place.bucket.presign(method, key, seconds)

    def recorded(self, action: str, place: Place, result: PutResult, source: Place | None = None) -> None:
        """Record that an object was put or copied."""
        if result.sha256 and result.is_exact:
            self._objects.hashes.note(place, result.e_tag, result.sha256)
        new = {"size": result.size_bytes, "sha256": result.sha256, "e_tag": result.e_tag}
        if source is not None:
            new["copied_from"] = str(source)
        self._record(action, place, new={name: value for name, value in new.items() if value != ""})

    def _record(self, action: str, place: Place, old: object = None, new: object = None) -> None:
        event = ChangeEvent(action, str(place), old=old, new=new, source=f"objects.{action}")
        self._objects.recorder.record(event)

    def _place(self, bucket: str, key: str) -> Place:
        found = self.bucket(bucket)
        return Place(found, check_key(found, key))

    def _reads(self, bucket: Bucket, key: str, uri: str) -> bool:
        places = self._objects.places
        if places.is_secret(uri) or not self._access.reads_object(bucket.name, key):
            return False
        return self._access.is_admin or not places.is_own(uri)

    def _reads_below(self, bucket: Bucket, prefix: str) -> bool:
        places, uri = self._objects.places, bucket.uri_of(prefix)
        if places.is_secret(uri) or not self._access.reads_objects_below(bucket.name, prefix):
            return False
        return self._access.is_admin or not places.is_within(uri)
