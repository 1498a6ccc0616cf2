"""What a slot of the object catalog can hold: a version of a table or view, or a tombstone.

A rename is a joint commit of two slots: the new name's with the table, the old name's with a tombstone.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.view.metadata import ViewMetadata

NAME_PROPERTY = "lakehouse.name"
PRUNED = b'{"pruned":true}'
_DROPPED, _VIEW = "dropped", "view-uuid"


@dataclass(frozen=True, slots=True)
class Head:
    """The current version of a name.

    Attributes:
        version: The highest slot.
        metadata: The table; None when there is none (any more).
        view: The view, likewise.
        undecided: The joint commit whose promise holds the slot, while that is not decided; all else
            is then as it was in the version before.
        moved: Whether what was there has another name now.
        shared: Whether the directory of the name may hold data of a table that has another name.
        name: How the name is spelled, where that does not stand in the table's own metadata.
        pruned: Whether what was there has been given up, being old.
        below: How many slots below this one what it says was written; those in between changed nothing.
    """

    version: int
    metadata: TableMetadata | None = None
    view: ViewMetadata | None = None
    undecided: str = ""
    moved: bool = False
    shared: bool = False
    name: str = ""
    pruned: bool = False
    below: int = 0

    @property
    def written_at(self) -> int:
        """The slot that holds what this version says."""
        return self.version - self.below

    @property
    def is_free(self) -> bool:
        """Whether there is neither a table nor a view."""
        return self.metadata is None and self.view is None

    @property
    def properties(self) -> dict[str, str]:
        """Those of the table or view."""
        found = self.metadata or self.view
        return dict(found.properties) if found else {}

    def content(self, name: str | None = None) -> bytes:
        """What a slot holds that has this table or view, under another name if one is given."""
        found = self.metadata or self.view
        if found is None:
            raise AssertionError("there is nothing to be written")
        if name is not None:
            found = found.model_copy(update={"properties": {**found.properties, NAME_PROPERTY: name}})
        return found.model_dump_json(exclude_none=True).encode()


def tombstone(head: Head, name: str, *, renamed_to: str = "", is_shared: bool = False) -> bytes:
    """What says that a name leads nowhere now; its id makes it that of one drop or rename."""
    identity = head.metadata.table_uuid if head.metadata else head.view.view_uuid if head.view else ""
    told: dict[str, Any] = {_DROPPED: str(identity), "name": name, "id": str(uuid.uuid4())}
    if renamed_to:
        told["renamed-to"] = renamed_to
    if is_shared:
        told["shared"] = True
    return json.dumps(told).encode()


def read_slot(version: int, content: bytes) -> Head:
    """What a slot says that holds no promise."""
    told = _parsed(content)
    if _DROPPED in told:
        return Head(version, moved="renamed-to" in told, shared="shared" in told)
    if _VIEW in told:
        return Head(version, view=ViewMetadata.model_validate(told))
    return Head(version, metadata=TableMetadataUtil.parse_raw(content.decode()))


def _parsed(content: bytes) -> dict[str, Any]:
    if not content.startswith(b"{"):
        return {}
    found: dict[str, Any] = json.loads(content)
    return found
