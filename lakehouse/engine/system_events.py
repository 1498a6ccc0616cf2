"""``system.events``: what changed in the lake, for whoever may read what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.engine.system_tables import Reading, SystemTable
from lakehouse.journal import EVENTS_SCHEMA, EventFilter, EventJournal
from lakehouse.journal.change_event import SCHEMA_FIELD
from lakehouse.journal.events import ROW
from lakehouse.types import TableName

EVENTS_TABLE = "events"
_VALUES = ("old", "new", "key", "detail")


def events_table(journal: EventJournal) -> SystemTable:
    """The table over an event journal."""

    def scan(reading: Reading) -> pa.Table:
        view = EventView(reading.lakes)
        where = EventFilter(
            since=reading.since,
            entities=reading.wanted.get("entity"),
            actor=_only(reading.wanted.get("actor")),
            action=_only(reading.wanted.get("action")),
        )
        return journal.table(where, view.shown, reading.check)

    return SystemTable(
        EVENTS_TABLE,
        "Every change of tables, schemas, views and other entities: old and new value, by whom, when",
        EVENTS_SCHEMA,
        scan=scan,
    )


def _only(values: frozenset[str] | None) -> str | None:
    return next(iter(values)) if values is not None and len(values) == 1 else None


class EventView:
    """The events as one principal sees them: of what it may not read there are none.

    Of a table that it may read in part there are no rows, and of other changes no values.

    Args:
        lakes: The catalogs as the principal sees them.
    """

    def __init__(self, lakes: GuardedCatalogs) -> None:
        self._lakes = lakes
        access = lakes.access
        self.sees_all = access.sees_all_of(lakes.default.name, EVENTS_TABLE)
        self._known: dict[tuple[str, bool], str] = {}

    def shown(self, table: pa.Table) -> pa.Table:
        """What of a table of events the principal sees."""
        if self.sees_all or not len(table):
            return table
        seen = self._seen_of(table)
        table = self._without_former_names(table)
        in_part = pc.equal(seen, "part")
        is_row = pc.equal(table["kind"], ROW)
        hidden = pc.or_(pc.equal(seen, ""), pc.and_(in_part, is_row))
        if pc.any(in_part).as_py():
            for name in _VALUES:
                place = table.schema.get_field_index(name)
                blank = pc.if_else(in_part, pa.scalar(None, pa.string()), table[name])
                table = table.set_column(place, table.schema.field(name), blank)
        return table.filter(pc.invert(hidden))

    def _seen_of(self, table: pa.Table) -> pa.ChunkedArray:
        """What the principal sees of each event's entity; few entities have many events."""
        entities = pc.unique(table["entity"].drop_null())
        places = pc.index_in(table["entity"], entities)
        names = entities.to_pylist()
        of_schemas, of_tables = (
            pc.take(pa.array([self._seen(name, kind) for name in names], pa.string()), places)
            for kind in (True, False)
        )
        is_schema = pc.fill_null(pc.equal(table["field"], SCHEMA_FIELD), False)
        return pc.fill_null(pc.if_else(is_schema, of_schemas, of_tables), "")

    def _without_former_names(self, table: pa.Table) -> pa.Table:
        """The events without the names that things had where the principal would not have seen them."""
        old = table["old"].to_pylist()
        renamed = [place for place, name in enumerate(table["action"].to_pylist()) if name == "rename"]
        for place in renamed:
            if old[place] is not None and not self._seen(str(json.loads(old[place])), False):
                old[place] = None
        if not renamed:
            return table
        place = table.schema.get_field_index("old")
        return table.set_column(place, table.schema.field("old"), pa.array(old, pa.string()))

    def access_to(self, entity: str) -> str:
        """What the principal sees of a table's events: ``all``, ``part``, or nothing, which is empty."""
        return "all" if self.sees_all else self._seen(entity, False)

    def _seen(self, entity: str | None, is_schema: bool) -> str:
        if not entity:
            return ""
        key = (entity, is_schema)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._look(entity, is_schema)
        return found

    def _look(self, entity: str, is_schema: bool) -> str:
        """As little as any way allows to take the name apart: names may have dots in them."""
        catalogs = [name for name in self._lakes.names if entity.startswith(f"{name}.")]
        if not catalogs:
            return ""
        access = self._lakes.access
        if is_schema:
            visible = all(access.sees_schema(name, entity[len(name) + 1 :]) for name in catalogs)
            return "all" if visible else ""
        found = [access.table(name) for catalog in catalogs for name in _names(catalog, entity)]
        if not found or not all(table.read for table in found):
            return ""
        return "part" if any(table.restrictions for table in found) else "all"


def _names(catalog: str, entity: str) -> Iterator[TableName]:
    rest = entity[len(catalog) + 1 :]
    for place, letter in enumerate(rest):
        if letter == "." and 0 < place < len(rest) - 1:
            yield TableName(catalog, rest[:place], rest[place + 1 :])
