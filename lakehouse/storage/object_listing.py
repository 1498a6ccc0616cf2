"""The keys of a bucket, a bounded number at a time."""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lakehouse.storage.bucket import Bucket, StoredObject

_LAST = "\U0010ffff"
# How many keys are looked at for one page, whether they are wanted or not.
_MOST_LOOKED_AT = 20_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be listed.

    Attributes:
        prefix: What the keys begin with, which may end within a segment.
        recursive: Whether keys are listed at any depth; else what follows the next slash is left out.
        limit: Most entries of the page.
        after: The last entry of the page before; empty for the first page.
        sees: Whether an object is to be listed.
        sees_below: Whether anything below a prefix, which ends with a slash, is to be listed.
    """

    prefix: str
    recursive: bool
    limit: int
    after: str
    sees: Callable[[str], bool]
    sees_below: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries of a listing. ``next_after`` is empty on the last page; a page may be short before that.

    ``prefixes`` end with a slash and stand for all keys below them.
    """

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]
    next_after: str


def list_page(bucket: Bucket, wish: Wish) -> Page:
    """The next page of a listing.

    Raises:
        StorageError: The bucket cannot be listed.
    """
    return _of_a_directory(bucket, wish) if bucket.is_local else _of_a_store(bucket, wish)


def _of_a_directory(bucket: Bucket, wish: Wish) -> Page:
    """What a directory lists comes in no order."""
    folder = wish.prefix.rpartition("/")[0]
    candidates: Iterator[StoredObject | str]
    if wish.recursive:
        candidates = (each for chunk in bucket.objects_after(folder, "") for each in chunk)
    else:
        prefixes, objects = bucket.level(folder)
        candidates = iter([*(f"{prefix}/" for prefix in prefixes), *objects])
    wanted = (
        each
        for each in candidates
        if _position(each) > wish.after and _position(each).startswith(wish.prefix) and _is_seen(wish, each)
    )
    scan = _Scan(wish)
    for each in heapq.nsmallest(wish.limit + 1, wanted, key=_position):
        scan.add(each)
    return scan.page()


def _of_a_store(bucket: Bucket, wish: Wish) -> Page:
    """Stores list in an order of their own, and go on after any key; below a prefix that is done with too."""
    folder, scan, after = wish.prefix.rpartition("/")[0], _Scan(wish), wish.after
    if after.endswith("/"):
        after += _LAST
    elif not after and wish.prefix and not wish.prefix.endswith("/"):
        after = _just_before(wish.prefix)
    while scan.is_short:
        for chunk in bucket.objects_after(folder, after):
            for each in chunk:
                scan.look_at(each)
            if scan.skipped or not scan.is_short:
                break
        else:
            scan.is_at_end = True
        after = scan.skipped + _LAST
    return scan.page()


class _Scan:
    """What was found so far for one page. Whatever comes after its end is not looked at."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._found: list[StoredObject | str] = []
        self._position = wish.after
        self._looked_at = 0
        self._is_full = False
        self.is_at_end = False
        self.skipped = ""

    @property
    def is_short(self) -> bool:
        """Whether there may be more for this page."""
        return not (self._is_full or self.is_at_end or self._looked_at >= _MOST_LOOKED_AT)

    def look_at(self, found: StoredObject) -> None:
        """Add an object, or the prefix that it stands for, if it is wanted."""
        if self._is_full or self.is_at_end or (self.skipped and found.key.startswith(self.skipped)):
            return
        wish, self.skipped = self._wish, ""
        self._looked_at += 1
        if not found.key.startswith(wish.prefix):
            self.is_at_end = found.key > wish.prefix
            return
        head, slash, _ = found.key[len(wish.prefix) :].partition("/")
        if not wish.recursive and slash:
            self.skipped = f"{wish.prefix}{head}/"
            self.add(self.skipped, wish.sees_below(self.skipped))
        else:
            self.add(found, wish.sees(found.key))

    def add(self, entry: StoredObject | str, is_seen: bool = True) -> None:
        """Take an entry into the page, unless it is full, or only note that it was looked at."""
        if is_seen and len(self._found) == self._wish.limit:
            self._is_full = True
        if not self._is_full:
            self._position = _position(entry)
            if is_seen:
                self._found.append(entry)

    def page(self) -> Page:
        """What was found."""
        return Page(
            tuple(entry for entry in self._found if isinstance(entry, StoredObject)),
            tuple(entry for entry in self._found if isinstance(entry, str)),
            "" if self.is_at_end or self.is_short else self._position,
        )


def _position(entry: StoredObject | str) -> str:
    return entry if isinstance(entry, str) else entry.key


def _is_seen(wish: Wish, entry: StoredObject | str) -> bool:
    return wish.sees_below(entry) if isinstance(entry, str) else wish.sees(entry.key)


def _just_before(text: str) -> str:
    """A text after which, in the order of bytes, comes what begins with the given one, and little else.

    It is one that can be a key; empty where there is none of use.
    """
    before = ord(text[-1]) - 1
    while before >= 0x20 and (chr(before) in "/\\" or unicodedata.category(chr(before)) in ("Cc", "Cs")):
        before -= 1
    if before >= 0x20:
        return text[:-1] + chr(before) + _LAST
    return "" if text[:-1].endswith("/") else text[:-1]
