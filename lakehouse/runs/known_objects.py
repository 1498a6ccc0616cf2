"""Which objects of a bucket are in a table already: lists that are too long for the table's own metadata.

A list is an object of its own, written before the commit whose snapshot names it, by its hash, and never
changed. ``{PREFIX}/syncs/{table uuid}/{sync}/{run}-{hash}.jsonl.gz`` holds a line ``[key, version, bytes]``
for each object.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from lakehouse.clock import Clock
from lakehouse.errors import ObjectAlreadyExists, ObjectNotFound, StorageError
from lakehouse.runs.store import PREFIX
from lakehouse.storage import Bucket

# A list that no snapshot names may be that of a run whose commit is under way.
_GRACE = timedelta(days=1)
_NAME = re.compile(r"[0-9a-f]{14}-[0-9a-f]{8}-([0-9a-f]{64})\.jsonl\.gz")


@dataclass(frozen=True, slots=True)
class KnownObject:
    """An object as it was when its rows came; ``version`` is what the store calls its content."""

    version: str
    size_bytes: int


class KnownObjects:
    """The lists.

    Args:
        bucket: Where they are kept.
        clock: Source of time.
    """

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock

    def put(self, table: str, sync: str, run: str, objects: Mapping[str, KnownObject]) -> str:
        """Keep a list; gives its name.

        Raises:
            StorageError: It could not be written.
        """
        lines = (
            json.dumps([key, found.version, found.size_bytes], ensure_ascii=False)
            for key, found in sorted(objects.items())
        )
        content = gzip.compress("\n".join(lines).encode(), 6, mtime=0)
        name = f"{run}-{hashlib.sha256(content).hexdigest()}.jsonl.gz"
        with suppress(ObjectAlreadyExists):  # the name tells the content
            self._bucket.put_new(self._key(table, sync, name), content)
        return name

    def get(self, table: str, sync: str, name: str) -> dict[str, KnownObject]:
        """What a list holds.

        Raises:
            StorageError: It is not there, or not what was written.
        """
        match = _NAME.fullmatch(name)
        try:
            content = self._bucket.get(self._key(table, sync, name)) if match else b""
        except ObjectNotFound:
            content = b""
        if match is None or hashlib.sha256(content).hexdigest() != match[1]:
            raise StorageError(
                "the list of objects that are in the table already is lost or spoiled",
                "with reset = true all objects come again",
            )
        lines = gzip.decompress(content).decode().split("\n")
        found = (json.loads(line) for line in lines if line)
        return {str(key): KnownObject(str(version), int(size)) for key, version, size in found}

    def tidy(self, table: str, sync: str, kept: Collection[str]) -> None:
        """Remove lists that no snapshot names any more.

        Raises:
            StorageError: They could not be removed.
        """
        before = self._clock.now() - _GRACE
        for found in list(self._bucket.objects(self._folder(table, sync))):
            name = found.key.rpartition("/")[2]
            if _NAME.fullmatch(name) and name not in kept and found.modified_at < before:
                self._bucket.delete(found.key)

    def _key(self, table: str, sync: str, name: str) -> str:
        return f"{self._folder(table, sync)}/{name}"

    @staticmethod
    def _folder(table: str, sync: str) -> str:
        return f"{PREFIX}/syncs/{table}/{sync}"
