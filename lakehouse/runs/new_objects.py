"""The objects of a bucket that are new, as a source that is read again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from lakehouse.errors import InvalidRequest, StatementCancelled
from lakehouse.ingest.sources.byte_source import BucketObject
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.incremental import At, Incremental, SyncAccount
from lakehouse.ingest.sources.source import Progress, Source
from lakehouse.runs.known_objects import KnownObject, KnownObjects
from lakehouse.runs.sync import SyncState

_LIST, _TABLE = "list", "table"


class Changed(StrEnum):
    """What becomes of an object that came before and has other content now."""

    REFUSE = "refuse"
    """The run fails, and names it."""
    AGAIN = "again"
    """Its rows come, besides those that came before; with a key, in place of them."""
    SKIP = "skip"
    """It stays as it came."""


class NewObjects(Incremental):
    """Those objects of a prefix that no run brought before.

    An object is known by its key, and taken for the same while the store says that its version is.

    Args:
        listing: Gives the objects that there are now.
        bucket: The name of their bucket.
        prefix: What their keys begin with.
        options: How they are read.
        lists: Where is kept which of them came.
        changed: What becomes of those that came before and have changed.
        most: How many come in one run; the others are left for the next.
    """

    system = "file"

    def __init__(
        self,
        listing: Callable[[], Iterable[BucketObject]],
        bucket: str,
        prefix: str,
        options: FileOptions,
        lists: KnownObjects,
        changed: Changed,
        most: int,
        described: str,
    ) -> None:
        self.described = described
        self.name = f"{bucket}/{prefix}"
        self.definition: Mapping[str, str] = {"bucket": bucket, "prefix": prefix}
        self.account = SyncAccount(name=self.name)
        self._listing = listing
        self._options = options
        self._lists = lists
        self._changed = changed
        self._most = most
        self._known: dict[str, KnownObject] = {}

    def _look(self, since: At | None, cancelled: Callable[[], bool], progress: Progress) -> Source | None:
        progress(None, "listing objects")
        self._known = {} if since is None else self._lists.get(since[_TABLE], self._id, since[_LIST])
        new: list[BucketObject] = []
        changed: list[BucketObject] = []
        present = set()
        for found in self._listing():
            if cancelled():
                raise StatementCancelled("the sync was cancelled; nothing was stored")
            present.add(found.key)
            known = self._known.get(found.key)
            if known is None:
                new.append(found)
            elif known != _known(found):
                changed.append(found)
        wanted = [*new, *(changed if self._changed is Changed.AGAIN else ())]
        wanted.sort(key=lambda each: each.key)
        self.account = self.account.model_copy(
            update={
                "objects_new": len(new),
                "objects_known": len(present) - len(new) - len(changed),
                "objects_changed": len(changed),
                "objects_gone": len(self._known.keys() - present),
                "objects_left": max(len(wanted) - self._most, 0),
            }
        )
        if changed and self._changed is Changed.REFUSE:
            self._refuse(changed)
        if not wanted:
            return None
        wanted = wanted[: self._most]
        self._known |= {found.key: _known(found) for found in wanted}
        return FileSource(wanted, self._options, f"{self.described} ({len(wanted)} new objects)")

    def reached(self, table: str, run: str) -> At:
        """See ``Incremental``."""
        return {_TABLE: table, _LIST: self._lists.put(table, self._id, run, self._known)}

    def tidy(self, table: str, kept: Sequence[At]) -> None:
        """See ``Incremental``."""
        self._lists.tidy(table, self._id, {at.get(_LIST, "") for at in kept})

    @property
    def _id(self) -> str:
        return SyncState(self.account.name).id

    @staticmethod
    def _refuse(changed: Sequence[BucketObject]) -> None:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InvalidRequest(
            f"object '{changed[0].key}'{more} was brought before and has other content now",
            "changed = 'again' brings its rows besides those that came before, 'skip' leaves it; "
            "with mode = 'upsert' and a key they take the place of those",
        )


def _known(found: BucketObject) -> KnownObject:
    return KnownObject(found.e_tag, found.size)
