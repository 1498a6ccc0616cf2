"""Where reading got to, and whether a later state of the table still begins with the same rows.

Rows are read in the order of their places (``ctid``). A row that is changed gets a new place and the number
of the transaction that changed it. So when a later state holds, up to some place, exactly as many rows as
were read, and every one of them is older than any transaction that was at work when they were read, they are
the same rows, and going on after them gives exactly the later state: nothing twice, and nothing left out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.postgres.catalogue import Description, Leaf
from lakehouse.ingest.sources.postgres.snapshot import Cancelled, Snapshot


@dataclass(frozen=True, slots=True)
class Place:
    """How much of one file was read: so many rows, the last of them at ``ctid``."""

    oid: int
    filenode: int
    rows: int
    ctid: tuple[int, int]


@dataclass(slots=True)
class Read:
    """How much was read.

    Attributes:
        snapshot: Under which state.
        server: Which server, database and timeline that was; empty if unknown.
        xmin: The oldest transaction that was at work then; 0 if unknown.
        rows: How many rows in all.
        done: Files that are behind.
        place: Where in the file that is being read.
    """

    snapshot: str = ""
    server: str = ""
    xmin: int = 0
    definition: str = ""
    rows: int = 0
    done: list[Place] = field(default_factory=list)
    place: Place | None = None

    def advance(self, leaf: Leaf, ctid: tuple[int, int], rows: int) -> None:
        """Note some more rows of a file."""
        before = 0
        if self.place is not None:
            if self.place.oid == leaf.oid:
                before = self.place.rows
            else:
                self.done.append(self.place)
        self.place = Place(leaf.oid, leaf.filenode, before + rows, ctid)

    def text(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Read:
        """What ``text`` gave.

        Raises:
            InvalidRequest: It is something else.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            place = values.pop("place")
            done = [_place(each) for each in values.pop("done")]
            return cls(**values, done=done, place=_place(place) if place else None)
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        raise InvalidRequest("the position is none that reading from PostgreSQL gave")


def unchanged(
    snapshot: Snapshot, description: Description, at: Read, what: str, cancelled: Cancelled
) -> bool:
    """Whether what was read is what a state of the database begins with."""
    leaves = {leaf.oid: leaf for leaf in description.leaves}
    if not at.xmin or at.place is None or at.server != snapshot.server:
        return False
    for place in [*at.done, at.place]:
        leaf = leaves.get(place.oid)
        if leaf is None or leaf.filenode != place.filenode:
            return False
        where = f"WHERE ctid <= '({place.ctid[0]},{place.ctid[1]})'"
        sql = _COUNT.format(
            table=leaf.sql, xmin=at.xmin % 2**32, where="" if place is not at.place else where
        )
        ((rows, old),) = snapshot.query(sql, (), what, cancelled)
        if not rows == old == place.rows:
            return False
    return True


def _place(values: dict[str, Any]) -> Place:
    ctid = values["ctid"]
    return Place(
        int(values["oid"]), int(values["filenode"]), int(values["rows"]), (int(ctid[0]), int(ctid[1]))
    )


# Transactions are numbered in a circle; 1 and 2 stand for those that are older than all others.
_COUNT = """
    SELECT count(*), count(*) FILTER (
        WHERE x IN (1, 2) OR ({xmin} - x + 4294967296) % 4294967296 BETWEEN 1 AND 2147483647)
    FROM (SELECT xmin::text::int8 AS x FROM ONLY {table} {where}) AS r"""
