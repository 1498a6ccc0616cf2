"""Fills the rescue bucket: what it lacks of another bucket is copied, so that every copy can be used.

Data goes before what refers to it: data files, manifests, lists of manifests, versions of tables, hints.
Which versions there are is looked up before anything is copied, and later ones are left for the next time:
their data may not have been seen. So whenever this ends, and wherever it is broken off, the newest version of
a table in the rescue bucket is one that was current at some time, and all that it needs is there.

Nothing is ever deleted. What is there already is not copied again, so it can be broken off and begun anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice

from lakehouse.errors import ObjectNotFound
from lakehouse.storage.bucket import Bucket, StoredObject

_SLOT = re.compile(r"(.*)/v(\d+)\.metadata\.json")
_HINT = "version-hint.text"
_UNCHANGING = (".parquet", ".avro", ".puffin", ".metadata.json")
# Kinds of objects in the order in which they are copied; later ones refer to earlier ones.
_DATA, _MANIFESTS, _LISTS, _NEWEST, _VERSIONS, _FORMER, _HINTS = range(7)
_ROUNDS = range(7)
_PROBES = "_probe/"
_SMALL_BYTES = 8 * 1024 * 1024
_AT_ONCE = 8
_CHUNK = 256


@dataclass(slots=True)
class Filled:
    """What became of the objects of a bucket so far.

    Attributes:
        total: How many there were at the beginning.
        seen: How many were looked at.
        copied: How many were copied, or copied again because they had changed.
        copied_bytes: Their size.
        later: Versions of tables that came meanwhile, which are left for the next time.
    """

    bucket: str
    total: int = 0
    seen: int = 0
    copied: int = 0
    copied_bytes: int = 0
    later: int = 0


def fill(source: Bucket, rescue: Bucket, prefix: str = "") -> Iterator[Filled]:
    """Copy what the rescue bucket lacks, or has in another size, of a bucket; tells how far it is.

    Args:
        source: The bucket whose objects are copied.
        rescue: Where they go, below the name of the bucket.
        prefix: Only objects below it.

    Raises:
        StorageError: An object could not be copied. What was copied until then is of use, and is not copied
            again the next time.
    """
    filled = Filled(source.name)
    newest: dict[str, int] = {}
    for found in source.objects(prefix):
        filled.total += bool(_kinds(found.key))
        slot = _SLOT.fullmatch(found.key)
        if slot:
            newest[slot[1]] = max(newest.get(slot[1], 0), int(slot[2]))
    yield filled
    copying = _Copying(source, rescue, newest, filled)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rescue-copy") as pool:
        for kind in _ROUNDS:
            wanted = (found for found in source.objects(prefix) if kind in _kinds(found.key))
            while chunk := list(islice(wanted, _CHUNK)):
                copying.copy(kind, chunk, pool)
                if kind not in (_NEWEST, _FORMER):
                    filled.seen = min(filled.seen + len(chunk), filled.total)
                yield filled


def _kinds(key: str) -> tuple[int, ...]:
    """In which rounds an object is looked at; not at all where it is nobody's."""
    name = key.rsplit("/", 1)[-1]
    if key.startswith(_PROBES):
        return ()
    if name.endswith(".metadata.json"):
        return (_NEWEST, _VERSIONS, _FORMER)
    if name == _HINT:
        return (_HINTS,)
    if name.endswith(".avro"):
        return (_LISTS,) if name.startswith("snap-") else (_MANIFESTS,)
    return (_DATA,)


@dataclass(frozen=True, slots=True)
class _Copying:
    source: Bucket
    rescue: Bucket
    newest: dict[str, int]
    filled: Filled

    def copy(self, kind: int, objects: Sequence[StoredObject], pool: ThreadPoolExecutor) -> None:
        runs = [pool.submit(copy_context().run, self._lacks, found, kind) for found in objects]
        needed = [found for found, run in zip(objects, runs, strict=True) if run.result()]
        small = [found for found in needed if found.size_bytes <= _SMALL_BYTES]
        runs = [pool.submit(copy_context().run, self._copy_small, found, kind) for found in small]
        for found, run in zip(small, runs, strict=True):
            self._count(found, is_there=run.result())
        for found in needed:
            if found.size_bytes > _SMALL_BYTES:
                self._count(found, is_there=self._copy_large(found))

    def _lacks(self, found: StoredObject, kind: int) -> bool:
        slot = _SLOT.fullmatch(found.key)
        if slot and int(slot[2]) > self.newest.get(slot[1], 0):
            self.filled.later += kind == _VERSIONS
            return False
        if kind == _NEWEST and (slot is None or int(slot[2]) != self.newest[slot[1]]):
            return False
        try:
            copy = self.rescue.look_up(self._copy_of(found.key))
        except ObjectNotFound:
            return kind != _FORMER
        if kind in (_NEWEST, _VERSIONS, _FORMER):
            # Of an old version that was given up the content goes last: a hint may still lead to it.
            return kind == _FORMER and copy.size_bytes != found.size_bytes
        if kind == _HINTS:
            return True
        is_newer = not found.key.endswith(_UNCHANGING) and copy.modified_at < found.modified_at
        return copy.size_bytes != found.size_bytes or is_newer

    def _copy_small(self, found: StoredObject, kind: int) -> bool:
        target = self._copy_of(found.key)
        try:
            content = self.source.get(found.key)
            attributes = self._attributes(found)
        except ObjectNotFound:
            return False
        if kind == _HINTS:
            content = self._hint(found.key, content)
            if self.rescue.exists(target) and self.rescue.get(target) == content:
                return False
        if attributes:
            self.rescue.put_once(target, content, attributes, create=False)
        else:
            self.rescue.put(target, content)
        return True

    def _copy_large(self, found: StoredObject) -> bool:
        try:
            with self.rescue.open_writer(self._copy_of(found.key), self._attributes(found)) as writer:
                for piece in self.source.pieces(found.key):
                    writer.write(piece)
        except ObjectNotFound:
            return False
        return True

    def _attributes(self, found: StoredObject) -> Mapping[str, str] | None:
        """What the store keeps beside an object that a client has put."""
        if found.key.endswith(_UNCHANGING) or not (
            self.source.keeps_attributes and self.rescue.keeps_attributes
        ):
            return None
        return self.source.details(found.key).attributes

    def _hint(self, key: str, content: bytes) -> bytes:
        """The hint for the newest version that was copied."""
        known = self.newest.get(key.rsplit("/", 1)[0])
        return content if known is None or not content.isdigit() else str(min(int(content), known)).encode()

    def _count(self, found: StoredObject, *, is_there: bool) -> None:
        if is_there:
            self.filled.copied += 1
            self.filled.copied_bytes += found.size_bytes

    def _copy_of(self, key: str) -> str:
        return f"{self.source.name}/{key}"
