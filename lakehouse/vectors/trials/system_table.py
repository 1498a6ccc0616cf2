"""``system.hnsw_trials``: what was measured of vector indexes, for whoever may search them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.engine.system_tables import Reading, SystemTable
from lakehouse.errors import CatalogNotFound, LakehouseError, SchemaNotFound, TableNotFound
from lakehouse.vectors.generation import Generation, parted_name
from lakehouse.vectors.indexes import VectorIndexes
from lakehouse.vectors.trials.journal import TRIALS_SCHEMA, TrialJournal

TRIALS_TABLE = "hnsw_trials"
_COUNTS = ("vectors", "index_bytes", "build_seconds", "build_cpu_seconds", "exact_p50_us")
"""What tells how much there is beyond a filter."""


def trials_table(journal: TrialJournal, indexes: VectorIndexes) -> SystemTable:
    """The table over the journal of trials."""

    def scan(reading: Reading) -> pa.Table:
        reading.check()
        table = journal.table()
        wanted = reading.wanted.get("index")
        if wanted is not None:
            table = table.filter(pc.is_in(table["index"], pa.array(sorted(wanted), pa.string())))
        return shown(table, reading.lakes, indexes)

    return SystemTable(
        TRIALS_TABLE,
        "What was measured of vector indexes: parameters, recall, latency, memory, time of building",
        TRIALS_SCHEMA,
        scan=scan,
    )


def shown(table: pa.Table, lakes: GuardedCatalogs, indexes: VectorIndexes) -> pa.Table:
    """What of some trials a principal sees: those of indexes that it may search.

    Behind a row filter it does not see how much there is beyond. Of indexes that are gone, or made of another
    table now, only those see trials who see everything.

    Args:
        table: Trials, in the columns of ``TRIALS_SCHEMA``.
        lakes: The catalogs as the principal sees them.
        indexes: All indexes.
    """
    access = lakes.access
    if access.sees_all_of(lakes.default.name, TRIALS_TABLE) or not len(table):
        return table
    seen: list[pa.Array] = [pa.array([False] * len(table))]
    in_part = seen[0]
    for name in pc.unique(table["index"]).to_pylist():
        try:
            generation = indexes.live(name).generation
        except LakehouseError:
            continue
        if generation is None or not may_search(lakes, generation):
            continue
        mine = pc.and_(
            pc.equal(table["index"], name), pc.equal(table["table_uuid"], generation.source.table_uuid)
        )
        seen.append(mine)
        if access.table(generation.guard.table).restrictions:
            in_part = pc.or_(in_part, mine)
    chosen = seen[0]
    for each in seen[1:]:
        chosen = pc.or_(chosen, each)
    if pc.any(in_part).as_py():
        for name in _COUNTS:
            place = table.schema.get_field_index(name)
            blank = pc.if_else(in_part, pa.scalar(None, table.schema.field(name).type), table[name])
            table = table.set_column(place, table.schema.field(name), blank)
    return table.filter(chosen)


def may_search(lakes: GuardedCatalogs, generation: Generation) -> bool:
    """Whether a principal may search an index."""
    guard, profile = generation.guard, parted_name(generation.index)[0]
    if profile:
        found = lakes.access.profiles.get(profile)
        if found is None or not found.covers(guard.table):
            return False
    try:
        table = lakes.of(guard.table.catalog).load(guard.table.schema, guard.table.table)
    except (TableNotFound, SchemaNotFound, CatalogNotFound):
        return False
    told = {column.lower() for column in (*guard.columns, *guard.keys)}
    restrictions = lakes.access.table(guard.table).restrictions
    masked = {column for each in restrictions for column, _ in each.masks}
    return table.uuid == guard.table_uuid and not masked & told
