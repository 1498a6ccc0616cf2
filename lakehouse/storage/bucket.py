"""One bucket of an object store, by way of obstore. The only package that imports obstore."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import obstore
import structlog
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from lakehouse import telemetry
from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    NotSupported,
    ObjectAlreadyExists,
    ObjectChanged,
    ObjectNotFound,
    StorageError,
)
from lakehouse.storage.breaker import CircuitBreaker
from lakehouse.storage.object_cache import ObjectCache
from lakehouse.storage.rescue import RescueRead, note

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, WritableFile
    from obstore.store import ObjectStore

_log = structlog.get_logger()

# What obstore calls the files of a directory that it has not finished.
_UNFINISHED = re.compile(r"#\d+$")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
UPLOAD_PART_BYTES = 10 * 1024 * 1024
_UPLOADED_PARTS = 4
_FETCH = "fetch"
# What the messages of obstore say of a request, which hold endpoints, and what clients are told of it.
_REQUEST = re.compile("Error performing|HTTP error:")
_REASONS = (
    (re.compile("NoSuchBucket"), "the object store has no such bucket"),
    (
        re.compile("RequestTimeTooSkewed"),
        "the clock of this machine and that of the object store are too far apart",
    ),
    (re.compile("status code: 40[13]"), "the object store does not accept the credentials for that"),
)
_REPEATED = re.compile(r"after [1-9]\d* retries")
_NO_ANSWER = (
    (re.compile("status code: (5|429)"), "the object store is not working"),
    (re.compile("timed out|TimedOut"), "the object store did not answer in time"),
    (re.compile("response body"), "the answer of the object store broke off"),
    (re.compile("sending request|onnect|dns error"), "the object store cannot be reached"),
)

T = TypeVar("T")
StorageObserver = Callable[[str, str, float], None]
"""Told of the operation, its outcome and seconds.

The outcome is ``ok``, ``not_found``, ``already_exists``, ``failed``, or ``refused`` where the store was not
asked because it had not answered lately.
"""


class StoreUnreachable(StorageError):
    """The store did not answer, or says that it is not working."""


class StoreRefused(StorageError):
    """The store answered the only time that it was asked, and did nothing."""


@dataclass(frozen=True, slots=True)
class BucketFailure:
    """A request to a store that failed.

    Attributes:
        bucket: The name of the bucket.
        key: The object, or the prefix that was listed.
        operation: What was asked for: ``get``, ``put``, ``upload``, ``list`` …
        error: What clients are told of it; no endpoint, no path of this machine, no secret.
        seconds: How long it took, the store's own retries included.
    """

    bucket: str
    key: str
    operation: str
    error: LakehouseError
    seconds: float


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that was listed; ``modified_at`` is in UTC, by the clock of the store."""

    key: str
    size_bytes: int
    modified_at: datetime
    e_tag: str = ""


@dataclass(frozen=True, slots=True)
class ObjectDetails(StoredObject):
    """An object that was looked up, with what the store keeps beside its content.

    ``is_rescued`` is set where it is the copy of an object in the rescue bucket.
    """

    attributes: Mapping[str, str] = field(default_factory=dict)
    is_rescued: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Part of an object, and size and version of the whole. An answer that broke off has no bytes."""

    content: memoryview
    size: int
    e_tag: str


class Bucket:
    """Objects under string keys: ``a/b/c``, segments parted by ``/``, no empty, ``.`` or ``..`` segment.

    Args:
        name: What messages call the bucket.
        store: The object store, already narrowed to the bucket.
        uri: Prefix of the objects' URIs, without a slash at the end.
        root: The directory that holds the objects, where the bucket is one of this machine.
        persist: Makes an object that was written survive a power failure; None where the store does that.
        aliases: What the URIs of the same objects may begin with as well.
        cache: Where copies of objects are read, where the bucket is elsewhere.

    Attributes:
        breaker: Says when the store is not to be asked; None asks always.
        copies: The copies of its objects in the rescue bucket, by the same keys; None where there are none.
        observers: Told of every request to the store.
        failure_observers: Told of those that failed. That an object is not there is no failure, unless
            something refers to it.
        rescue_observers: Told of everything that was read in the rescue bucket instead.
    """

    def __init__(
        self,
        name: str,
        store: ObjectStore,
        uri: str,
        root: Path | None = None,
        persist: Callable[[str], None] | None = None,
        aliases: Sequence[str] = (),
        cache: ObjectCache | None = None,
    ) -> None:
        self.name = name
        self.uri = uri
        self._prefixes: tuple[str, ...] = tuple(
            f"{prefix}/" for prefix in (uri, *_directories(root), *aliases)
        )
        self._cache = cache
        self._store = store
        self._root = root
        self._persist = persist
        self.breaker: CircuitBreaker | None = None
        self.copies: Bucket | None = None
        self.observers: list[StorageObserver] = []
        self.failure_observers: list[Callable[[BucketFailure], None]] = []
        self.rescue_observers: list[Callable[[RescueRead], None]] = []

    @contextmanager
    def operation(self, name: str, key: str, done: str, *, always: bool = False) -> Iterator[None]:
        """A request to the store: its errors are translated, and observers and traces are told of it.

        Args:
            name: Of the operation, from a small fixed set.
            key: The object's key.
            done: What is being done, as a participle.
            always: Whether to ask a store that has not been answering.

        Raises:
            StoreUnreachable: The store has not been answering, and is left alone for a while.
        """
        if self.breaker is not None and not always:
            self._check_answering(name, key, done)
        part = telemetry.begin(f"storage.{name}", key=key)
        begun_s = time.perf_counter()
        outcome = "failed"
        failure: BaseException | None = None
        try:
            with storage_errors(self.name, key, done):
                yield
            outcome = "ok"
        except (ObjectNotFound, ObjectAlreadyExists) as error:
            outcome = "not_found" if isinstance(error, ObjectNotFound) else "already_exists"
            if name == _FETCH:
                failure = error
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            part.set({"outcome": outcome})
            part.end(failure)
            if self.breaker is not None:
                self._judge(self.breaker, failure)
            seconds = time.perf_counter() - begun_s
            for observer in self.observers:
                observer(name, outcome, seconds)
            if isinstance(failure, LakehouseError):
                self.report(name, key, failure, seconds)

    def _check_answering(self, name: str, key: str, done: str) -> None:
        assert self.breaker is not None
        wait_s = self.breaker.admit()
        if wait_s:
            for observer in self.observers:
                observer(name, "refused", 0.0)
            raise StoreUnreachable(
                f"{_subject(self.name, key)} could not be {done}: the object store has not been answering, "
                f"and is asked again in {max(wait_s, 0.1):.1f} s"
            )

    def _judge(self, breaker: CircuitBreaker, failure: BaseException | None) -> None:
        if isinstance(failure, StoreUnreachable):
            if breaker.failed():
                _log.warning("bucket is not asked for a while", bucket=self.name, reason=failure.message)
        elif failure is None or isinstance(failure, StorageError):
            breaker.answered()
        else:
            breaker.abandoned()

    def report(self, operation: str, key: str, error: LakehouseError, seconds: float) -> None:
        """Tell the observers of failures of one."""
        failed = BucketFailure(self.name, key, operation, error, seconds)
        for observer in self.failure_observers:
            observer(failed)

    def rescued(self, operation: str, key: str, cause: LakehouseError, read: Callable[[Bucket], T]) -> T:
        """Read from the rescue bucket what this bucket did not give, and tell everybody about it.

        Args:
            operation: What was asked for.
            key: The object's key, or the prefix that was listed.
            cause: Why it was not given.
            read: Reads it from the copies.

        Raises:
            LakehouseError: ``cause``, where the rescue bucket does not give it either.
        """
        if self.copies is None:
            raise cause
        try:
            found = read(self.copies)
        except StorageError:
            raise cause from None
        self.tell_rescued(operation, key, cause)
        note(self.name)
        return found

    def tell_rescued(self, operation: str, key: str, cause: LakehouseError) -> None:
        """Tell the observers that something was read from the rescue bucket."""
        assert self.copies is not None
        told = RescueRead(self.name, key, operation, self.copies.name, cause)
        for observer in self.rescue_observers:
            observer(told)

    @property
    def root(self) -> Path | None:
        """The directory that holds the objects, where the bucket is one of this machine."""
        return self._root

    @property
    def uri_prefixes(self) -> tuple[str, ...]:
        """What the URIs of its objects may begin with."""
        return self._prefixes

    def uri_of(self, key: str) -> str:
        """The URI of an object, as Iceberg metadata names it."""
        return f"{self.uri}/{key}"

    def key_of(self, uri: str) -> str:
        """The key of the object that a URI names.

        Raises:
            StorageError: The URI lies outside of this bucket.
        """
        for prefix in self._prefixes:
            if uri.startswith(prefix):
                return uri[len(prefix) :]
        raise StorageError(
            f"an object that a table refers to is not in bucket '{self.name}'",
            "tables can be read only where all of their files are in the configured bucket",
        )

    def shown(self, uri: str) -> str:
        """A URI as clients may see it: of a directory of this machine only the key within the bucket.

        An object of another bucket or directory is named by its last segment.
        """
        try:
            key = self.key_of(uri)
        except StorageError:
            return uri.rsplit("/", 1)[-1]
        return key if self._root is not None else uri

    def local_path(self, key: str, e_tag: str = "") -> str:
        """The absolute path at which an object can be read on this machine, while it is ``held``.

        Args:
            key: The object's key.
            e_tag: The version that is meant, of an object that may be replaced.

        Raises:
            StorageError: The bucket is elsewhere and has no cache, or the key cannot be that of a file.
        """
        if self._root is not None:
            return f"{self._root}/{key}"
        if self._cache is None:
            raise StorageError(f"bucket '{self.name}' is not a directory of this machine")
        return self._cache.path(self, key, e_tag)

    @property
    def is_local(self) -> bool:
        """Whether the bucket is a directory of this machine."""
        return self._root is not None

    def path_now(self, path: str) -> str:
        """Where an object is read whose ``local_path`` that is: elsewhere if the rescue bucket has to do.

        Only for a directory of this machine; what is read through the cache needs no other path.
        """
        assert self._root is not None
        if os.path.exists(path):  # noqa: PTH110 - a Path takes longer than the question
            return path
        key = path[len(str(self._root)) + 1 :]
        missing = ObjectNotFound(f"{_subject(self.name, key)} does not exist")

        def copy(copies: Bucket) -> str:
            copies.size(key)
            return copies.local_path(key)

        with suppress(StorageError):
            return self.rescued("fetch", key, missing, copy)
        return path

    def held(self, paths: Iterable[str]) -> AbstractContextManager[None]:
        """For the length of a ``with``, objects can be read at the paths that ``local_path`` gave.

        Raises:
            StorageError: An object could not be fetched.
        """
        return nullcontext() if self._cache is None else self._cache.held(paths)

    def get(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            ObjectNotFound: There is none.
        """
        with self.operation("get", key, "read"):
            return bytes(obstore.get(self._store, key).bytes())

    def get_referred(self, key: str) -> bytes:
        """The content of an object that something refers to, and that nobody ever writes again.

        Raises:
            ObjectNotFound: There is none.
        """
        if self.copies is None:
            return self.get(key)
        try:
            return self.get(key)
        except StorageError as error:
            return self.rescued("get", key, error, lambda copies: copies.get(key))

    def get_unchanging(self, key: str) -> bytes:
        """The same as ``get_referred``, by way of a local copy where there are any.

        Raises:
            ObjectNotFound: There is none.
        """
        if self._cache is None:
            return self.get_referred(key)
        path = self._cache.path(self, key)
        try:
            with self._cache.held([path]):
                return Path(path).read_bytes()
        except OSError:  # removed by somebody else in this very moment
            return self.get_referred(key)

    def get_end(self, key: str, length: int) -> bytes:
        """The last bytes of an object that something refers to: ``length`` of them, or all there are.

        Raises:
            ObjectNotFound: There is none.
        """
        try:
            with self.operation("get", key, "read"):
                return bytes(obstore.get(self._store, key, options={"range": {"suffix": length}}).bytes())
        except StorageError as error:
            return self.rescued("get", key, error, lambda copies: copies.get_end(key, length))

    def tail(self, key: str, length: int) -> Range:
        """The last bytes of an object, as ``get_end``, with the size and version of the whole.

        Raises:
            ObjectNotFound: There is none.
        """
        with self.operation("get", key, "read"):
            answer = obstore.get(self._store, key, options={"range": {"suffix": length}})
            meta = answer.meta
            return Range(memoryview(answer.bytes()), int(meta["size"]), meta["e_tag"] or "")

    def head_bytes(self, key: str, length: int) -> bytes:
        """The first bytes of an object: ``length`` of them, or all there are.

        Raises:
            ObjectNotFound: There is none.
        """
        with self.operation("get", key, "read"):
            return bytes(obstore.get(self._store, key, options={"range": (0, length)}).bytes())

    async def get_range(self, key: str, start: int, end: int, e_tag: str = "") -> Range:
        """Some bytes of an object, as far as it has them.

        Args:
            key: The object's key.
            start: The first byte.
            end: The one after the last.
            e_tag: The version that it has to be; empty if any will do.

        Raises:
            ObjectNotFound: There is none.
            StorageError: It cannot be read, or is another version by now.
        """
        options: GetOptions = {"range": (start, end)}
        if e_tag:
            options["if_match"] = e_tag
        with storage_errors(self.name, key, "read"):
            answer = await obstore.get_async(self._store, key, options=options)
            meta = answer.meta
            try:
                content = memoryview(await answer.bytes_async())
            except BaseError:
                content = memoryview(b"")  # the request is repeated by the store, the body by the caller
        return Range(content, int(meta["size"]), meta["e_tag"] or "")

    def put(self, key: str, content: bytes, durable: bool = True) -> None:
        """Write an object whole, replacing what is there.

        Args:
            key: The object's key.
            content: What it is to hold.
            durable: Whether it has to survive a power failure from the moment that this returns.
        """
        with self.operation("put", key, "written"):
            self._check_root()
            obstore.put(self._store, key, content, mode="overwrite", use_multipart=False)
            if durable and self._persist:
                self._persist(key)

    def put_new(self, key: str, content: bytes) -> None:
        """Write an object whole, if there is none of that key. Of several writers exactly one succeeds.

        Raises:
            ObjectAlreadyExists: There is one.
        """
        with self.operation("put_new", key, "written"):
            self._check_root()
            # A multipart upload would silently ignore the create-only mode.
            obstore.put(self._store, key, content, mode="create", use_multipart=False)
            if self._persist:
                self._persist(key)

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        try:
            self.size(key)
        except ObjectNotFound:
            return False
        return True

    def size(self, key: str) -> int:
        """The size of an object in bytes.

        Raises:
            ObjectNotFound: There is none.
        """
        return self.look_up(key).size_bytes

    def look_up(self, key: str) -> StoredObject:
        """What the store knows of an object.

        Raises:
            ObjectNotFound: There is none.
        """
        with self.operation("head", key, "looked up"):
            found = obstore.head(self._store, key)
        return StoredObject(key, int(found["size"]), found["last_modified"])

    def directories(self, prefix: str) -> list[str]:
        """The names of the segments that follow ``prefix`` and have something below them, sorted."""
        with self.operation("list", prefix, "listed"):
            listed = obstore.list_with_delimiter(self._store, prefix)
        return sorted(path.rsplit("/", 1)[-1] for path in listed["common_prefixes"])

    def names(self, prefix: str) -> list[str]:
        """The last segments of the objects directly under ``prefix``, sorted."""
        with self.operation("list", prefix, "listed"):
            listed = obstore.list_with_delimiter(self._store, prefix)
        # Some stores list a directory that has become empty as an object of its own.
        paths = [found["path"] for found in listed["objects"] if found["path"] != prefix]
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below ``prefix``, at any depth; listed a thousand at a time."""
        with self.operation("list", prefix, "listed"):
            for chunk in obstore.list(self._store, prefix, chunk_size=1000):
                for found in chunk:
                    yield StoredObject(found["path"], found["size"], found["last_modified"])

    def delete(self, key: str) -> None:
        """Remove an object, or what a killed writer left of one.

        Raises:
            ObjectNotFound: There is none (not every kind of store tells).
        """
        with self.operation("delete", key, "deleted"):
            if self._root is not None and _UNFINISHED.search(key):
                (self._root / key).unlink()
            else:
                obstore.delete(self._store, key)

    def unfinished(self, prefix: str) -> Iterator[StoredObject]:
        """What writers that were killed left of objects below ``prefix``, in a directory of this machine.

        No listing tells of these files. Other stores keep the parts of unfinished uploads to themselves.

        Raises:
            StorageError: The directory cannot be read.
        """
        if self._root is None:
            return
        with storage_errors(self.name, prefix, "listed"):
            for path in (self._root / prefix).rglob("*#*"):
                if _UNFINISHED.search(path.name) and path.is_file():
                    with suppress(FileNotFoundError):  # finished meanwhile
                        found = path.stat()
                        modified = datetime.fromtimestamp(found.st_mtime, UTC)
                        key = path.relative_to(self._root).as_posix()
                        yield StoredObject(key, found.st_size, modified)

    def pieces(self, key: str) -> Iterator[memoryview]:
        """The content of an object, some megabytes at a time.

        Raises:
            ObjectNotFound: There is none.
        """
        with self.operation("get", key, "read"):
            for piece in obstore.get(self._store, key).stream(min_chunk_size=UPLOAD_PART_BYTES):
                yield memoryview(piece)

    def check(self) -> None:
        """Ask the store for something small, even if it has not been answering.

        Raises:
            StorageError: It cannot be reached, or does not let this server in.
        """
        with self.operation("list", "", "listed", always=True):
            if self._root is not None and not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
                # The store itself would take a directory that is gone for an empty one.
                raise StorageError(f"the directory of bucket '{self.name}' is gone or not accessible")
            # Of a store without directories all that is in the bucket might be listed.
            obstore.list_with_delimiter(self._store, None if self._root else "_probe")

    def _check_root(self) -> None:
        # The store would make the directory again, in the place of a disk that is gone.
        if self._root is not None and not os.path.isdir(self._root):  # noqa: PTH112 - see path_now
            raise StorageError(f"the directory of bucket '{self.name}' is gone")

    def open_writer(self, key: str, attributes: Mapping[str, str] | None = None) -> ObjectWriter:
        """A file to write an object through; the object appears, whole, when the file is closed.

        Args:
            key: The object's key.
            attributes: What the store is to keep beside the content.

        Raises:
            StorageError: The store has not been answering.
        """
        if self.breaker is not None:
            self._check_answering("upload", key, "written")
            self.breaker.abandoned()  # no request is made yet
        with storage_errors(self.name, key, "written"):
            self._check_root()
            target = obstore.open_writer(
                self._store,
                key,
                attributes=dict(attributes) if attributes else None,
                buffer_size=UPLOAD_PART_BYTES,
                max_concurrency=_UPLOADED_PARTS,
            )
        return ObjectWriter(self, key, target, self._persist)

    # -- objects that clients read and write as they are ---------------------------------------------------

    @property
    def keeps_attributes(self) -> bool:
        """Whether it keeps more of an object than its content."""
        return isinstance(self._store, S3Store)

    @property
    def key_prefix(self) -> str:
        """What the store puts before every key; empty where that is nothing."""
        if isinstance(self._store, S3Store) and self._store.prefix:
            return f"{str(self._store.prefix).strip('/')}/"
        return ""

    def details(self, key: str) -> ObjectDetails:
        """All that the store knows of an object.

        Raises:
            ObjectNotFound: There is none.
        """
        with self.operation("head", key, "looked up"):
            if self._root is not None and not (self._root / key).is_file():
                self._check_root()
                raise ObjectNotFound(f"object '{key}' of bucket '{self.name}' does not exist")
            answer = obstore.get(self._store, key, options={"head": True})
            found, attributes = answer.meta, answer.attributes
        return ObjectDetails(
            key, int(found["size"]), found["last_modified"], found["e_tag"] or "", dict(attributes)
        )

    def read(self, key: str, start: int, end: int, e_tag: str) -> memoryview:
        """Some bytes of an object, all of one version; none where the answer broke off.

        Raises:
            ObjectNotFound: There is none any more.
            ObjectChanged: It is another version by now.
        """
        options: GetOptions = {"range": (start, end)}
        if e_tag:
            options["if_match"] = e_tag
        with self.operation("get", key, "read"):
            try:
                answer = obstore.get(self._store, key, options=options)
            except PreconditionError as error:
                raise ObjectChanged(
                    f"object '{key}' of bucket '{self.name}' was replaced while it was read", "read it again"
                ) from error
            try:
                return memoryview(answer.bytes())
            except BaseError:
                return memoryview(b"")

    def put_once(self, key: str, content: bytes, attributes: Mapping[str, str], *, create: bool) -> str:
        """Write an object whole in one request; gives its ETag.

        Args:
            key: The object's key.
            content: What it is to hold.
            attributes: What the store is to keep beside the content.
            create: Whether there must not be one.

        Raises:
            ObjectAlreadyExists: There is one.
        """
        with self.operation("put_new" if create else "put", key, "written"):
            self._check_root()
            told = obstore.put(
                self._store,
                key,
                content,
                attributes=dict(attributes) if attributes else None,
                mode="create" if create else "overwrite",
                use_multipart=False,
            )
            if self._persist:
                self._persist(key)
        return told["e_tag"] or ""

    def move(self, source: str, target: str, *, create: bool) -> None:
        """Give an object another key, in one step where the bucket is a directory.

        Args:
            source: Its key.
            target: The key that it is to have.
            create: Whether there must not be an object of that key.

        Raises:
            ObjectAlreadyExists: There is one.
        """
        if self._root is not None and not _make_way(self._root / target):
            raise InvalidRequest(
                f"'{target}' is the beginning of other keys in bucket '{self.name}', which is a directory",
                "expected a key that is no directory",
            )
        with self.operation("move", target, "written"):
            obstore.rename(self._store, source, target, overwrite=not create)
            if self._persist:
                self._persist(target)

    def copy(self, source: str, target: str, *, create: bool) -> None:
        """Let the store copy an object.

        Args:
            source: Its key.
            target: The key of the copy.
            create: Whether there must not be an object of that key.

        Raises:
            ObjectAlreadyExists: There is one.
            ObjectNotFound: There is nothing to copy.
        """
        with self.operation("copy", target, "copied"):
            self._check_root()
            obstore.copy(self._store, source, target, overwrite=not create)

    def objects_after(self, prefix: str, after: str) -> Iterator[Sequence[StoredObject]]:
        """The objects below ``prefix``, at any depth, whose keys come after one; some at a time.

        They come sorted by their keys unless the bucket is a directory of this machine.
        """
        with self.operation("list", prefix, "listed"):
            for chunk in obstore.list(self._store, prefix or None, offset=after or None, chunk_size=1000):
                yield [_stored(found) for found in chunk if found["path"] != prefix]

    def level(self, prefix: str) -> tuple[list[str], list[StoredObject]]:
        """What is directly below ``prefix``: keys that have something below them, and objects."""
        with self.operation("list", prefix, "listed"):
            listed = obstore.list_with_delimiter(self._store, prefix or None)
        objects = [_stored(found) for found in listed["objects"] if found["path"] != prefix]
        return list(listed["common_prefixes"]), objects

    def presign(self, method: Literal["GET", "PUT"], key: str, seconds: int) -> str:
        """A URL at which an object can be read or written for a time, without credentials.

        Raises:
            NotSupported: The bucket is of a kind that gives none.
        """
        if not isinstance(self._store, S3Store):
            raise NotSupported(
                f"bucket '{self.name}' has no URLs that could be given away: it is not an S3 store",
                "read and write its objects as flights",
            )
        with self.operation("presign", key, "signed"):
            return obstore.sign(self._store, method, key, timedelta(seconds=seconds))


def _stored(found: ObjectMeta) -> StoredObject:
    return StoredObject(found["path"], int(found["size"]), found["last_modified"], found["e_tag"] or "")


def _make_way(path: Path) -> bool:
    """Remove a directory that deleted objects left empty; gives whether a file can be at its place."""
    if not path.is_dir():
        return True
    try:
        for parent, _, _ in os.walk(path, topdown=False):
            Path(parent).rmdir()
    except OSError:
        return False
    return True


class ObjectWriter:
    """A writable binary file whose content becomes an object on ``close`` and vanishes on ``abort``."""

    def __init__(
        self, bucket: Bucket, key: str, target: WritableFile, persist: Callable[[str], None] | None
    ) -> None:
        self._bucket = bucket
        self._persist = persist
        self._target: WritableFile | None = target
        self._aborted = False
        self.key = key
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        """Append bytes (anything with the buffer protocol); gives how many."""
        if self._target is None:
            if self._aborted:
                return len(data)  # a writer on top of this one may still want to finish its file
            raise ValueError("the object is closed")
        begun_s = time.perf_counter()
        try:
            with storage_errors(self._bucket.name, self.key, "written"):
                written = self._target.write(data)
        except LakehouseError as error:
            if self._bucket.breaker is not None:
                self._bucket._judge(self._bucket.breaker, error)  # noqa: SLF001 - part of the bucket
            self._bucket.report("upload", self.key, error, time.perf_counter() - begun_s)
            raise
        self.size_bytes += written
        return written

    def tell(self) -> int:
        """How many bytes were written so far."""
        return self.size_bytes

    def flush(self) -> None:
        """Nothing: bytes reach the store in parts and on close."""

    def close(self) -> None:
        """Make the object appear."""
        target, self._target = self._target, None
        if target is not None:
            with self._bucket.operation("upload", self.key, "written", always=True):
                target.close()
                if self._persist:
                    self._persist(self.key)

    def abort(self) -> None:
        """Forget what was written; no object appears."""
        target, self._target = self._target, None
        self._aborted = True
        if target is not None:
            with storage_errors(self._bucket.name, self.key, "written"):
                aborted = StorageError("aborted")
                target.__exit__(StorageError, aborted, None)

    @property
    def closed(self) -> bool:
        """Whether the file was closed or aborted."""
        return self._target is None

    def readable(self) -> bool:
        """False."""
        return False

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """False."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


@contextmanager
def storage_errors(bucket: str, key: str, done: str) -> Iterator[None]:
    """Turn what obstore raises into domain errors that name bucket and key, never a path of this machine.

    Args:
        bucket: The bucket's name.
        key: The object's key.
        done: What was being done, as a participle.
    """
    subject = _subject(bucket, key)
    try:
        yield
    except AlreadyExistsError as error:
        raise ObjectAlreadyExists(f"{subject} exists already") from error
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise _refusal(error)(f"{subject} could not be {done}: {_reason(error)}") from error
        raise ObjectNotFound(f"{subject} does not exist") from error
    except UnauthenticatedError as error:
        raise StorageError(
            f"{subject} could not be {done}: the credentials cannot be read or are not accepted"
        ) from error
    except (PermissionDeniedError, PermissionError) as error:
        reason = _reason(error) if _REQUEST.search(str(error)) else "permission denied"
        raise _refusal(error)(f"{subject} could not be {done}: {reason}") from error
    except ValueError as error:
        raise InvalidRequest(f"{subject} could not be {done}: the key is not valid") from error
    except (BaseError, OSError) as error:
        reason = _no_answer(error)
        if reason:
            raise StoreUnreachable(f"{subject} could not be {done}: {reason}") from error
        raise StorageError(f"{subject} could not be {done}: {_reason(error)}", _hint(error)) from error


def _refusal(error: BaseException) -> type[StorageError]:
    """What to make of an answer: one that came after others tells nothing of what became of those."""
    text = str(error)
    return StoreRefused if _REQUEST.search(text) and not _REPEATED.search(text) else StorageError


def _subject(bucket: str, key: str) -> str:
    return f"object '{key}' of bucket '{bucket}'" if key else f"bucket '{bucket}'"


def _directories(root: Path | None) -> tuple[str, ...]:
    """What paths below a directory begin with; programs in Java write file:/ for file:///."""
    return (str(root), f"file:{root}") if root is not None else ()


def _os_error(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found.group(1)) if found else None


def _no_answer(error: BaseException) -> str:
    """Why a store did not answer; empty where it did."""
    text = str(error)
    if not _REQUEST.search(text) or any(pattern.search(text) for pattern, _ in _REASONS):
        return ""
    return next((told for pattern, told in _NO_ANSWER if pattern.search(text)), "")


def _reason(error: BaseException) -> str:
    text = str(error)
    if _REQUEST.search(text):
        told = (told for pattern, told in _REASONS if pattern.search(text))
        return next(told, "the object store reported an error")
    number = _os_error(error)
    return os.strerror(number).lower() if number is not None else "the object store reported an error"


def _hint(error: BaseException) -> str:
    full = _os_error(error) in (errno.ENOSPC, errno.EDQUOT)
    return "free some space on the disk that holds the bucket" if full else ""
