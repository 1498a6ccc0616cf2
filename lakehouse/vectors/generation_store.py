"""Where generations of indexes are kept, and which of them is the live one.

``{PREFIX}/{index}/generations/{id}/`` holds the files of a generation and, written last, ``manifest.json``: a
generation without one is not whole, and nobody reads it. ``{PREFIX}/{index}/live/{n}.json`` are slots of
which each is created once and never changed: the highest says which generation is the live one, with all that
is known of it. Promotion puts the next slot, create-only: of two at once one wins, and no server ever sees
anything between the old and the new generation. The indexes of a profile are below
``{PROFILES}/{profile}/indexes/`` instead of ``{PREFIX}/``, in its own bucket where it has one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from lakehouse.clock import Clock
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    LakehouseError,
    ObjectAlreadyExists,
    ObjectNotFound,
    StorageError,
)
from lakehouse.storage import Bucket
from lakehouse.vectors.generation import Generation, IndexFile, parted_name

PREFIX = "_vectors/indexes"
PROFILES = "_vectors/profiles"
VECTORS, ROWS, LEXICAL, MANIFEST = "vectors.faiss", "rows.arrow", "lexical.arrow", "manifest.json"
_SLOT = re.compile(r"(\d{12})\.json")
_ID = re.compile(r"[0-9a-f]{14}-[0-9a-f]{8}")
_BLOCK_BYTES = 8 * 1024 * 1024
_log = structlog.get_logger()


class IndexDamaged(StorageError):
    """A file of a generation is missing, or not what was written."""


@dataclass(frozen=True, slots=True)
class Live:
    """What a slot says.

    Attributes:
        number: The slot.
        generation: The live generation; None where the index was dropped.
        at: Since when, in UTC.
        by: Whose call made it so.
        why: ``build``, ``rollback``, ``repair``, ``drop``.
        token: Tells it from what others tried to put into the same slot.
    """

    number: int
    generation: Generation | None
    at: datetime
    by: str
    why: str
    token: str

    def content(self) -> bytes:
        """What the slot holds."""
        generation = None if self.generation is None else self.generation.to_json()
        told = {"generation": generation, "at": self.at.isoformat()}
        return _sealed({**told, "by": self.by, "why": self.why, "token": self.token})


class GenerationStore:
    """The generations of all indexes of a lake.

    Args:
        bucket: Where they are kept.
        clock: Source of time and ids.
        profiles: Where those of profiles are kept, by the names of the profiles.
    """

    def __init__(
        self, bucket: Bucket, clock: Clock, profiles: Mapping[str, Bucket] = MappingProxyType({})
    ) -> None:
        self.bucket = bucket
        self._clock = clock
        self._profiles = profiles

    def bucket_of(self, index: str) -> Bucket:
        """Where an index is kept."""
        return self._profiles.get(parted_name(index)[0], self.bucket)

    def location(self, index: str) -> str:
        """What the keys of its objects begin with."""
        return f"{_base(index)}/"

    def new_id(self) -> str:
        """The id of a generation that is made now."""
        return f"{int(self._clock.now().timestamp() * 1_000_000):014x}-{self._clock.token()[-8:]}"

    def indexes(self) -> list[str]:
        """The names of all indexes, dropped ones of which something is left among them."""
        found = self.bucket.directories(PREFIX)
        for profile, bucket in self._profiles.items():
            found += [f"{profile}:{name}" for name in bucket.directories(f"{PROFILES}/{profile}/indexes")]
        return found

    def upload(self, index: str, generation: str, name: str, path: Path) -> IndexFile:
        """Put a file of a generation into the bucket.

        Raises:
            StorageError: It could not be written.
        """
        key = _key(index, generation, name)
        digest = hashlib.sha256()
        with path.open("rb") as file, self.bucket_of(index).open_writer(key) as writer:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                writer.write(block)
        return IndexFile(key, writer.size_bytes, digest.hexdigest())

    def complete(self, generation: Generation) -> None:
        """Say that all files of a generation are there.

        Raises:
            StorageError: It could not be written.
        """
        key = _key(generation.index, generation.id, MANIFEST)
        self.bucket_of(generation.index).put(key, _sealed(generation.to_json()))

    def generations(self, index: str) -> list[Generation]:
        """Those that are whole, the oldest first; what cannot be read is left out.

        Raises:
            StorageError: They cannot be listed.
        """
        found = []
        for name in sorted(self._files(index)):
            with suppress(ObjectNotFound, IndexDamaged):
                told = _unsealed(self.bucket_of(index).get(_key(index, name, MANIFEST)), f"{index}/{name}")
                found.append(_generation(told, f"{index}/{name}"))
        return found

    def live(self, index: str) -> Live | None:
        """What the highest slot says that can be understood; None where there never was one.

        Its number is that of the highest one.

        Raises:
            IndexDamaged: None can be understood.
            StorageError: They cannot be read.
        """
        numbers = self._slots(index)
        for number in reversed(numbers):
            try:
                found = self._slot(index, number)
            except ObjectNotFound:
                if number != numbers[-1] or self._slots(index)[-1:] <= numbers[-1:]:
                    raise
                return self.live(index)  # later ones were put since, and this one cleaned away
            except IndexDamaged as error:
                _log.warning("vector_index_slot_unreadable", index=index, slot=number)
                if number == numbers[0]:
                    raise error from None
            else:
                return replace(found, number=numbers[-1])
        return None

    def history(self, index: str) -> list[Live]:
        """What all slots say that are left, the oldest first; what cannot be understood is left out."""
        found = []
        for number in self._slots(index):
            with suppress(ObjectNotFound, IndexDamaged):
                found.append(self._slot(index, number))
        return found

    def put_live(
        self, index: str, generation: Generation | None, before: Live | None, *, by: str, why: str
    ) -> Live:
        """Make a generation the live one, in one step.

        Args:
            index: The index.
            generation: The generation; None where the index is dropped.
            before: What the highest slot said when this was decided.
            by: Whose call it is.
            why: What for.

        Raises:
            CommitConflict: Another one was made live first; nothing was changed.
            StorageError: The slot could not be written.
        """
        number = before.number + 1 if before is not None else 1
        wanted = Live(number, generation, self._clock.now(), by, why, self._clock.token())
        key, content = _slot_key(index, number), wanted.content()
        try:
            self.bucket_of(index).put_new(key, content)
        except ObjectAlreadyExists:
            if self.bucket_of(index).get(key) != content:  # a request that was repeated finds its own
                raise _conflict(index) from None
        except StorageError:
            if not self._holds(index, key, content):
                raise
        numbers = self._slots(index)
        if number != numbers[-1] and (before is None or before.number not in numbers):
            # The slot was given free long ago, and what others put above it holds.
            self._delete(index, key)
            raise _conflict(index)
        return wanted

    def clean(self, index: str, *, keep: int, grace: timedelta, abandoned: timedelta) -> list[str]:
        """Delete the generations that nobody reads any more; gives their ids.

        Args:
            index: The index.
            keep: How many that were live before stay, to go back to.
            grace: How long one that is live no more stays in any case, for searches in other processes.
            abandoned: How long one stays that was never live: it may be on its way.

        Raises:
            StorageError: What there is cannot be listed. What cannot be deleted is left for the next time.
        """
        now, slots = self._clock.now(), self.history(index)
        replaced: dict[str, datetime] = {}
        for slot, later in pairwise(slots):
            if slot.generation is not None:
                replaced[slot.generation.id] = later.at
        live = slots[-1].generation if slots else None
        former = [
            g for g in sorted(replaced, key=lambda g: replaced[g], reverse=True) if not live or g != live.id
        ]
        stay = set(former[:keep]) if live is not None else set()
        stay |= {each for each in former if now - replaced[each] < grace}
        if live is not None:
            stay.add(live.id)
        files, deleted = self._files(index), []
        for each in sorted(files):
            if each not in stay and (each in replaced or now - _made_at(each) >= abandoned):
                # Its manifest first: without it it is not whole, so nothing that fails leaves a half one.
                for key in sorted(files[each], key=lambda key: not key.endswith(MANIFEST)):
                    self._delete(index, key)
                deleted.append(each)
        for torn in list(self.bucket_of(index).unfinished(_base(index))):
            if now - torn.modified_at >= abandoned:
                self._delete(index, torn.key)
        for slot in slots[:-1]:
            if now - slot.at >= grace and (slot.generation is None or slot.generation.id not in stay):
                self._delete(index, _slot_key(index, slot.number))
        return deleted

    def _files(self, index: str) -> dict[str, list[str]]:
        """The keys of all that there is of generations, by their ids."""
        found: dict[str, list[str]] = {}
        prefix = f"{_base(index)}/generations"
        for each in self.bucket_of(index).objects(prefix):
            generation = each.key[len(prefix) + 1 :].partition("/")[0]
            if _ID.fullmatch(generation):
                found.setdefault(generation, []).append(each.key)
        return found

    def _slots(self, index: str) -> list[int]:
        names = map(_SLOT.fullmatch, self.bucket_of(index).names(f"{_base(index)}/live"))
        return [int(match[1]) for match in names if match]

    def _slot(self, index: str, number: int) -> Live:
        what = f"{index}/live/{number}"
        told = _unsealed(self.bucket_of(index).get(_slot_key(index, number)), what)
        try:
            generation = None if told["generation"] is None else _generation(told["generation"], what)
            at = datetime.fromisoformat(told["at"])
            return Live(number, generation, at, told["by"], told["why"], told["token"])
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(what) from error

    def _holds(self, index: str, key: str, content: bytes) -> bool:
        try:
            return self.bucket_of(index).get(key) == content
        except StorageError:
            return False

    def _delete(self, index: str, key: str) -> None:
        try:
            self.bucket_of(index).delete(key)
        except ObjectNotFound:
            pass
        except LakehouseError as error:
            _log.warning("vector_index_file_not_deleted", key=key, reason=error.message)


def _base(index: str) -> str:
    profile, name = parted_name(index)
    return f"{PROFILES}/{profile}/indexes/{name}" if profile else f"{PREFIX}/{name}"


def _key(index: str, generation: str, name: str) -> str:
    return f"{_base(index)}/generations/{generation}/{name}"


def _slot_key(index: str, number: int) -> str:
    return f"{_base(index)}/live/{number:012d}.json"


def _made_at(generation: str) -> datetime:
    return datetime.fromtimestamp(int(generation[:14], 16) / 1_000_000).astimezone()


def _sealed(told: dict[str, Any]) -> bytes:
    """JSON with its own checksum."""
    text = json.dumps(told, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "said": told}).encode()


def _unsealed(content: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
        told: dict[str, Any] = found["said"]
        text = json.dumps(told, sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() == found["sha256"]:
            return told
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise _damaged(what)


def _generation(told: dict[str, Any], what: str) -> Generation:
    try:
        return Generation.from_json(told)
    except (ValueError, TypeError, KeyError, AttributeError, InvalidRequest) as error:
        raise _damaged(what) from error


def _damaged(what: str) -> IndexDamaged:
    return IndexDamaged(f"what is known of the vector index '{what}' cannot be read: it is damaged")


def _conflict(index: str) -> CommitConflict:
    return CommitConflict(
        f"another generation of the vector index '{index}' was made the live one first", "try again"
    )
