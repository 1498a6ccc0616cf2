"""What roles may do with which objects: patterns over bucket and key; the most specific one holds."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lakehouse.config import ObjectGrantSettings

READ, WRITE = "read", "write"
_NOTHING: frozenset[str] = frozenset()


class _ObjectGrant:
    def __init__(self, settings: ObjectGrantSettings) -> None:
        bucket, _, key = settings.on.partition("/")
        self.privileges: frozenset[str] = frozenset(settings.privileges)
        self.bucket = _pattern(bucket)
        self._key = _pattern(key)
        self._start = key.partition("*")[0]
        self._covers_below = _pattern(key) if key.endswith("*") else None
        self.specificity = ("*" not in bucket, "*" not in key, len(settings.on.replace("*", "")))

    def fits(self, bucket: str, key: str) -> bool:
        return bool(self.bucket.fullmatch(bucket) and self._key.fullmatch(key))

    def covers(self, bucket: str, prefix: str) -> bool:
        """Whether it fits all keys with a prefix."""
        below = self._covers_below
        return bool(below is not None and self.bucket.fullmatch(bucket) and below.fullmatch(prefix))

    def touches(self, bucket: str, prefix: str) -> bool:
        """Whether it can fit some key with a prefix."""
        common = min(len(prefix), len(self._start))
        return bool(self.bucket.fullmatch(bucket)) and self._start[:common] == prefix[:common]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


class ObjectGrants:
    """The grants of one role on objects. Cases differ: these are keys, not names.

    Args:
        settings: The grants; of equally specific ones the last holds.
    """

    def __init__(self, settings: Iterable[ObjectGrantSettings] = ()) -> None:
        self._grants = sorted(map(_ObjectGrant, settings), key=lambda grant: grant.specificity)
        self._grants.reverse()

    def privileges(self, bucket: str, key: str) -> frozenset[str]:
        """What may be done with an object, whether there is one or not."""
        return next((grant.privileges for grant in self._grants if grant.fits(bucket, key)), _NOTHING)

    def sees_bucket(self, bucket: str) -> bool:
        """Whether something may be done with some objects of a bucket."""
        return any(grant.privileges and grant.bucket.fullmatch(bucket) for grant in self._grants)

    def reads_below(self, bucket: str, prefix: str) -> bool:
        """Whether objects with a prefix may be read, if there are any that grants name."""
        for grant in self._grants:
            if grant.covers(bucket, prefix):
                return READ in grant.privileges
            if READ in grant.privileges and grant.touches(bucket, prefix):
                return True
        return False
