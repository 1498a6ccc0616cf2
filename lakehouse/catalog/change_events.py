"""What a change of a table's metadata means to people: the events that the journal keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSnapshotUpdate,
    AddSortOrderUpdate,
    RemovePropertiesUpdate,
    RemoveSnapshotRefUpdate,
    RemoveSnapshotsUpdate,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableUpdate,
)
from pyiceberg.types import NestedField

from lakehouse.catalog.table import DESCRIPTION_PROPERTY, FOREIGN_KEYS_PROPERTY, PRIMARY_KEY_PROPERTY
from lakehouse.journal.change_event import ChangeEvent, Origin
from lakehouse.types import TableName

_ACTOR, _SOURCE = "lakehouse.actor", "lakehouse.source"
_WORKSPACE, _STATEMENT = "lakehouse.workspace", "lakehouse.statement-id"
_SHARES, _SHARES_LEFT_OUT = "lakehouse.shares", "lakehouse.shares-left-out"
_ROW_CHANGES = "lakehouse.row-changes"
_MOST_SHARES = 20
_log = structlog.get_logger()
_COUNTS = {
    "added_rows": "added-records",
    "removed_rows": "deleted-records",
    "added_files": "added-data-files",
    "removed_files": "deleted-data-files",
    "total_rows": "total-records",
}


@dataclass(frozen=True, slots=True)
class Share:
    """Who brought how many of a commit's rows."""

    origin: Origin
    rows: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a table's metadata that took place.

    Args:
        before: The metadata until then; None for a table that was created.
        updates: What was done to it.
        shares: Who brought the rows, where there are new ones.
        row_events: What became of single rows.
    """

    before: TableMetadata | None
    updates: Sequence[TableUpdate]
    uuid: str
    shares: tuple[Share, ...] = ()
    row_events: tuple[ChangeEvent, ...] = ()


# Is told of each change that took place.
Told = Callable[[Change], None]


def origin_properties(shares: Sequence[Share], row_events: int) -> dict[str, str]:
    """Entries of a snapshot's summary that say who made it, should the journal not come to it.

    Args:
        shares: Who brought the rows.
        row_events: How many changes of single rows go with it.
    """
    found: dict[str, str] = {_ROW_CHANGES: str(row_events)} if row_events else {}
    if len(shares) == 1:
        origin = shares[0].origin
        entries = {
            _ACTOR: origin.actor,
            _SOURCE: origin.source or "library",
            _WORKSPACE: origin.workspace,
            _STATEMENT: origin.statement_id,
        }
        return found | {name: value for name, value in entries.items() if value}
    if shares:
        # Kept with every version of the table's metadata, so nothing is in it twice.
        said = [(s.origin.actor, s.origin.source, s.origin.workspace) for s in shares[:_MOST_SHARES]]
        by = list(dict.fromkeys(said))
        of = [
            [by.index(who), share.origin.statement_id, share.rows]
            for who, share in zip(said, shares, strict=False)
        ]
        found[_SHARES] = json.dumps({"by": by, "of": of}, separators=(",", ":"))
        if len(shares) > _MOST_SHARES:
            found[_SHARES_LEFT_OUT] = str(len(shares) - _MOST_SHARES)
    return found


def events_of(name: TableName, change: Change) -> list[ChangeEvent]:
    """The events of a change, in the order in which they make sense. Never fails: it has taken place.

    Args:
        name: The table.
        change: What took place.
    """
    try:
        return _events_of(name, change)
    except Exception:  # noqa: BLE001 - what took place must not look as if it had failed
        _log.exception("change_event_lost", table=str(name))
        return []


def _events_of(name: TableName, change: Change) -> list[ChangeEvent]:
    entity = str(name)
    if change.before is None:
        found = [ChangeEvent("create", entity, change.uuid, new=_created(change.updates))]
    else:
        found = list(_alterations(entity, change.before, change))
    for update in change.updates:
        if isinstance(update, AddSnapshotUpdate):
            found += commit_events(entity, change.uuid, update.snapshot, change.shares)
            at = update.snapshot.snapshot_id
            found += [
                replace(e, entity=entity, entity_id=change.uuid, snapshot_id=at) for e in change.row_events
            ]
    return found


def commit_events(
    entity: str, uuid: str, snapshot: Snapshot, shares: Sequence[Share] = ()
) -> list[ChangeEvent]:
    """The events of a commit of rows: one for each of those who brought some.

    Args:
        entity: The table's full name.
        uuid: Its id.
        snapshot: What was committed.
        shares: Who brought the rows.
    """
    summary: Mapping[str, str] = snapshot.summary.additional_properties if snapshot.summary else {}
    new: dict[str, Any] = {"operation": snapshot.summary.operation.value if snapshot.summary else ""}
    new |= {name: int(summary[key]) for name, key in _COUNTS.items() if summary.get(key, "").isdigit()}
    parent = snapshot.parent_snapshot_id
    event = ChangeEvent(
        "commit",
        entity,
        uuid,
        old=None if parent is None else {"snapshot_id": parent},
        new=new,
        snapshot_id=snapshot.snapshot_id,
    )
    if not shares:
        shares = (Share(Origin(), 0),)
    return [
        replace(
            event,
            origin=share.origin if share.origin != Origin() else None,
            new=new if len(shares) == 1 else {**new, "own_rows": share.rows},
            event_id=f"{uuid}:{snapshot.snapshot_id}:{number}",
        )
        for number, share in enumerate(shares)
    ]


def recovered_events(entity: str, metadata: TableMetadata, snapshot: Snapshot) -> list[ChangeEvent]:
    """The events of a commit as its snapshot tells of it, with the same ids that they had or will have.

    Args:
        entity: The table's full name.
        metadata: The table's metadata.
        snapshot: One of its snapshots.
    """
    summary: Mapping[str, str] = snapshot.summary.additional_properties if snapshot.summary else {}
    detail = "found in the table's history after a server had not recorded it"
    rows = summary.get(_ROW_CHANGES)
    if rows:
        detail += f"; {rows} changes of single rows went with it, which may have been lost"
    left_out = summary.get(_SHARES_LEFT_OUT)
    if left_out:
        detail += f"; {left_out} more statements had a share in it"
    at = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
    found = commit_events(entity, str(metadata.table_uuid), snapshot, _shares_of(summary))
    return [
        replace(event, origin=event.origin or Origin(), at=at, is_recovered=True, detail=detail)
        for event in found
    ]


def is_told(snapshot: Snapshot) -> bool:
    """Whether a snapshot says who made it, which those say that the journal keeps events of."""
    summary = snapshot.summary.additional_properties if snapshot.summary else {}
    return _SOURCE in summary or _SHARES in summary


def _shares_of(summary: Mapping[str, str]) -> tuple[Share, ...]:
    if _SHARES in summary:
        try:
            told = json.loads(summary[_SHARES])
            by = [Origin(str(actor), str(source), str(space)) for actor, source, space in told["by"]]
            return tuple(
                Share(replace(by[who], statement_id=str(statement)), int(count))
                for who, statement, count in told["of"]
            )
        except (ValueError, TypeError, KeyError, IndexError):
            return ()  # another program wrote it
    names = (_ACTOR, _SOURCE, _WORKSPACE, _STATEMENT)
    return (Share(Origin(*(summary.get(name, "") for name in names)), 0),)


def _created(updates: Sequence[TableUpdate]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for update in updates:
        if isinstance(update, AddSchemaUpdate):
            found["columns"] = {field.name: str(field.field_type) for field in update.schema_.fields}
            key = update.schema_.identifier_field_names()
            if key:
                found["primary_key"] = sorted(key)
        elif isinstance(update, AddPartitionSpecUpdate) and update.spec.fields:
            found["partitioning"] = [str(field) for field in update.spec.fields]
        elif isinstance(update, AddSortOrderUpdate) and update.sort_order.fields:
            found["sorting"] = [str(field) for field in update.sort_order.fields]
        elif isinstance(update, SetPropertiesUpdate) and DESCRIPTION_PROPERTY in update.updates:
            found["description"] = update.updates[DESCRIPTION_PROPERTY]
    return found


def _alterations(entity: str, before: TableMetadata, change: Change) -> Iterator[ChangeEvent]:
    def event(field: str, old: Any, new: Any, action: str = "alter", at: int | None = None) -> ChangeEvent:
        return ChangeEvent(action, entity, change.uuid, field, old, new, snapshot_id=at)

    schema, properties = _after(before, change.updates)
    for field, old, new in _columns(before.schema(), schema):
        yield event(field, old, new)
    for name in dict.fromkeys([*before.properties, *properties]):
        old, new = before.properties.get(name), properties.get(name)
        if old != new:
            field, was, now = _property(name, old, new, before.schema(), schema)
            if was != now:
                yield event(field, was, now)
    for update in change.updates:
        if isinstance(update, AddPartitionSpecUpdate):
            now = [str(field) for field in update.spec.fields]
            yield event("partitioning", [str(field) for field in before.spec().fields], now)
        elif isinstance(update, AddSortOrderUpdate):
            now = [str(field) for field in update.sort_order.fields]
            yield event("sorting", [str(field) for field in before.sort_order().fields], now)
    yield from _moves(before, change, event)


def _moves(before: TableMetadata, change: Change, event: Callable[..., ChangeEvent]) -> Iterator[ChangeEvent]:
    """Snapshots that go, and names of snapshots that come, go or move, other than by a commit of rows."""
    is_commit = any(isinstance(update, AddSnapshotUpdate) for update in change.updates)
    for update in change.updates:
        if isinstance(update, SetSnapshotRefUpdate) and not (is_commit and update.ref_name == MAIN_BRANCH):
            there = before.refs.get(update.ref_name)
            old, new = there.snapshot_id if there else None, update.snapshot_id
            if update.ref_name == MAIN_BRANCH:
                yield event("", {"snapshot_id": old}, {"snapshot_id": new}, "rollback", new)
            else:
                yield event(f"{update.type.value}.{update.ref_name}", old, new)
        elif isinstance(update, RemoveSnapshotRefUpdate):
            gone = before.refs.get(update.ref_name)
            if gone is not None:
                yield event(f"{gone.snapshot_ref_type.value}.{update.ref_name}", gone.snapshot_id, None)
        elif isinstance(update, RemoveSnapshotsUpdate):
            yield event("snapshots", list(update.snapshot_ids), None, "expire")


def _after(before: TableMetadata, updates: Sequence[TableUpdate]) -> tuple[Schema, Mapping[str, str]]:
    """The schema and the properties of a table after updates."""
    schemas = {schema.schema_id: schema for schema in before.schemas}
    schema, properties = before.schema(), before.properties
    last = schema
    for update in updates:
        if isinstance(update, AddSchemaUpdate):
            last = schemas[update.schema_.schema_id] = update.schema_
        elif isinstance(update, SetCurrentSchemaUpdate):
            schema = last if update.schema_id == -1 else schemas.get(update.schema_id, last)
        elif isinstance(update, SetPropertiesUpdate):
            properties = {**properties, **update.updates}
        elif isinstance(update, RemovePropertiesUpdate):
            properties = {name: value for name, value in properties.items() if name not in update.removals}
    return schema, properties


def _columns(before: Schema, after: Schema) -> Iterator[tuple[str, Any, Any]]:
    """Name, former and present state of each column that is not what it was."""
    if before is after:
        return
    old = {field.field_id: field for field in before.fields}
    new = {field.field_id: field for field in after.fields}
    for field_id in dict.fromkeys([*old, *new]):
        was = _described(old[field_id]) if field_id in old else None
        now = _described(new[field_id]) if field_id in new else None
        if was == now:
            continue
        name = new[field_id].name if field_id in new else old[field_id].name
        if was is None or now is None:
            yield name, was, now
        else:
            different = [key for key in dict.fromkeys([*was, *now]) if was.get(key) != now.get(key)]
            yield name, {key: was.get(key) for key in different}, {key: now.get(key) for key in different}


def _described(field: NestedField) -> dict[str, Any]:
    found: dict[str, Any] = {"name": field.name, "type": str(field.field_type), "required": field.required}
    return {**found, "description": field.doc} if field.doc else found


def _property(
    name: str, old: str | None, new: str | None, before: Schema, after: Schema
) -> tuple[str, Any, Any]:
    """A property by the name that people know it by, and its values as they would say them."""
    if name == DESCRIPTION_PROPERTY:
        return "description", old, new
    if name == PRIMARY_KEY_PROPERTY:
        return "primary_key", _key(old, before), _key(new, after)
    if name == FOREIGN_KEYS_PROPERTY:
        return "foreign_keys", _loaded(old), _loaded(new)
    return f"properties.{name}", old, new


def _key(text: str | None, schema: Schema) -> list[str] | None:
    if not text:
        return None
    names = [schema.find_column_name(int(part)) for part in text.split(",") if part.isdigit()]
    return [name for name in names if name is not None]


def _loaded(text: str | None) -> Any:
    try:
        return (json.loads(text) if text else None) or None
    except ValueError:
        return text
