"""What a PostgreSQL's own catalogue says of its tables, columns, keys and types."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.postgres.mapping import PgType
from lakehouse.ingest.sources.postgres.snapshot import Cancelled, Snapshot
from lakehouse.types import ForeignKey, quote

_KINDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "f": "foreign table"}

_SUSPECTS = """
    SELECT attname FROM pg_catalog.pg_stats WHERE schemaname = %s AND tablename = %s
        AND concat(most_common_vals::text, histogram_bounds::text) ~ '(infinity|Infinity|NaN)\\M'"""


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """The exact name of something with rows."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """Quoted."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class PgColumn:
    """A column as PostgreSQL describes it."""

    name: str
    oid: int
    modifier: int
    not_null: bool = False
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part of a table that has files of its own: the table itself, or one of its partitions.

    Attributes:
        sql: Its name.
        oid: Its number.
        filenode: The number of its file, another one after it was written anew; 0 if it has none.
        blocks: How long it is.
        is_heap: Whether rows can be told by where they are.
        readable: Whether it can be read by its own name, with the same rows as through its parent.
    """

    sql: str
    oid: int
    filenode: int
    blocks: int
    is_heap: bool
    readable: bool


@dataclass(frozen=True, slots=True)
class Description:
    """A table, view or query.

    ``rows`` and ``size_bytes`` are what the database believes; None where it does not know.
    """

    kind: str
    columns: tuple[PgColumn, ...]
    leaves: tuple[Leaf, ...] = ()
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    comment: str = ""
    rows: int | None = None
    size_bytes: int | None = None
    filtered: bool = field(default=False)


def described(snapshot: Snapshot, relation: Relation, cancelled: Cancelled) -> Description:
    """What is known of a table or view.

    Raises:
        InvalidRequest: There is none of that name, or the user may not read it.
    """
    what = f"'{relation}'"
    found = snapshot.query(_RELATION, [relation.schema, relation.name], what, cancelled)
    if not found:
        raise InvalidRequest(
            f"the PostgreSQL database '{snapshot.dsn.dbname}' has no table or view {what}",
            _similar(snapshot, relation, cancelled),
        )
    oid, kind, comment, may_read, filtered = found[0]
    if not may_read:
        raise InvalidRequest(
            f"the PostgreSQL user may not read {what}", "grant SELECT on the table to the user"
        )
    columns = tuple(PgColumn(*row) for row in snapshot.query(_COLUMNS, [oid], what, cancelled))
    if not columns:
        raise InvalidRequest(f"{what} has no columns, a table in the lake needs at least one")
    sized = snapshot.query(_LEAVES, [oid], what, cancelled)
    leaves = tuple(Leaf(*row[:6]) for row in sized)
    key = snapshot.query(_PRIMARY_KEY, [oid], what, cancelled)
    estimates = [row[6] for row in sized if row[6] >= 0]
    return Description(
        _KINDS[kind],
        columns,
        leaves,
        tuple(key[0][0]) if key else (),
        tuple(
            ForeignKey(name, tuple(own), schema, table, tuple(theirs))
            for name, own, schema, table, theirs in snapshot.query(_FOREIGN_KEYS, [oid], what, cancelled)
        ),
        comment,
        int(sum(estimates)) if len(estimates) == len(sized) and sized else None,
        sum(row[7] for row in sized) if sized else None,
        filtered,
    )


def types(snapshot: Snapshot, oids: Iterable[int], cancelled: Cancelled) -> dict[int, PgType]:
    """The types of these numbers and all that they are made of."""
    known: dict[int, PgType] = {}
    wanted = set(oids)
    while wanted:
        rows = snapshot.query(_TYPES, [sorted(wanted)], "the types", cancelled)
        for oid, schema, name, kind, element, base, modifier, names, kinds, modifiers in rows:
            parts = tuple(zip(names, kinds, modifiers, strict=True)) if names else ()
            known[oid] = PgType(oid, schema, name, kind, element, base, modifier, parts)
        made_of = {
            oid for each in known.values() for oid in (each.element, each.base, *(f[1] for f in each.fields))
        }
        wanted = made_of - known.keys() - {0}
    return known


def relations(
    snapshot: Snapshot,
    schemas: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str],
    cancelled: Cancelled,
) -> list[Relation]:
    """Tables of a database, referred ones before those that refer to them.

    Args:
        snapshot: The database.
        schemas: Those to look in; all that are not the system's if empty.
        include: Patterns (``*``, ``?``, ``[…]``) of ``table`` or ``schema.table``; all if empty.
        exclude: Patterns of those to leave out.
        cancelled: Asked while this waits.
    """
    rows = snapshot.query(_RELATIONS, [list(schemas), list(schemas)], "the database", cancelled)
    found = {oid: Relation(schema, name) for oid, schema, name in rows}
    chosen = {
        oid: each
        for oid, each in found.items()
        if (not include or _matches(each, include)) and not _matches(each, exclude)
    }
    edges = snapshot.query(_EDGES, [list(chosen)], "the database", cancelled)
    needs: dict[int, set[int]] = {oid: set() for oid in chosen}
    for own, other in edges:
        if other in chosen and other != own:
            needs[own].add(other)
    return [chosen[oid] for oid in _ordered(needs, chosen)]


def _ordered(needs: dict[int, set[int]], names: dict[int, Relation]) -> list[int]:
    """By name, but what is needed first; where they need each other in a circle, the first by name."""
    left = {oid: set(others) for oid, others in needs.items()}
    found: list[int] = []
    while left:
        free = [oid for oid, others in left.items() if not others] or [min(left, key=names.__getitem__)]
        for oid in sorted(free, key=names.__getitem__):
            found.append(oid)
            del left[oid]
        for others in left.values():
            others.difference_update(free)
    return found


def _matches(relation: Relation, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(str(relation) if "." in each else relation.name, each) for each in patterns
    )


def _similar(snapshot: Snapshot, relation: Relation, cancelled: Cancelled) -> str:
    rows = snapshot.query(_SAME_NAME, [relation.name], "the database", cancelled)
    near = [str(Relation(*row)) for row in rows]
    return f"there is {', '.join(near)}; names are taken exactly, case included" if near else ""


_RELATION = """
    SELECT c.oid::int8, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
        row_security_active(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""

_COLUMNS = """
    SELECT a.attname::text, a.atttypid::int8, a.atttypmod, a.attnotnull,
        coalesce(col_description(a.attrelid, a.attnum), '')
    FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

# Children by inheritance are partitions too, only that their parent may have rows itself.
_LEAVES = """
    WITH RECURSIVE parts(oid, path) AS (
        SELECT %s::oid, ARRAY[''::text]
        UNION ALL
        SELECT i.inhrelid, p.path || i.inhrelid::regclass::text
        FROM parts p JOIN pg_inherits i ON i.inhparent = p.oid
    ), top AS (SELECT row_security_active(oid) AS filtered FROM parts WHERE path = ARRAY[''::text])
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.oid::int8,
        coalesce(pg_relation_filenode(c.oid), 0)::int8,
        CASE WHEN c.relkind = 'f' OR c.relkind = 'v' THEN 0
            ELSE pg_relation_size(c.oid) / current_setting('block_size')::int8 END,
        c.relkind IN ('r', 'm') AND coalesce(am.amname = 'heap', false),
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
            AND (cardinality(p.path) = 1 OR NOT (row_security_active(c.oid) OR (SELECT filtered FROM top))),
        c.reltuples::float8,
        CASE WHEN c.relkind IN ('r', 'm') THEN pg_table_size(c.oid) ELSE 0 END
    FROM (SELECT oid, min(path) AS path FROM parts GROUP BY oid) p JOIN pg_class c ON c.oid = p.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
    WHERE c.relkind IN ('r', 'm', 'f') ORDER BY p.path, c.oid"""

_PRIMARY_KEY = """
    SELECT array_agg(a.attname::text ORDER BY k.place)
    FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY k(number, place), pg_attribute a
    WHERE c.conrelid = %s AND c.contype = 'p' AND a.attrelid = c.conrelid AND a.attnum = k.number
    GROUP BY c.oid"""

_FOREIGN_KEYS = """
    SELECT c.conname::text, array_agg(a.attname::text ORDER BY k.place), n.nspname::text, r.relname::text,
        array_agg(b.attname::text ORDER BY k.place)
    FROM pg_constraint c, unnest(c.conkey, c.confkey) WITH ORDINALITY k(own, other, place), pg_attribute a,
        pg_attribute b, pg_class r, pg_namespace n
    WHERE c.conrelid = %s AND c.contype = 'f' AND c.conparentid = 0
        AND a.attrelid = c.conrelid AND a.attnum = k.own AND b.attrelid = c.confrelid AND b.attnum = k.other
        AND r.oid = c.confrelid AND n.oid = r.relnamespace
    GROUP BY c.oid, c.conname, n.nspname, r.relname ORDER BY c.conname"""

_TYPES = """
    SELECT t.oid::int8, n.nspname::text, t.typname::text, t.typtype::text,
        CASE WHEN t.typcategory = 'A' AND t.typlen = -1 AND t.typname NOT IN ('int2vector', 'oidvector')
            THEN t.typelem ELSE 0 END::int8,
        t.typbasetype::int8, t.typtypmod,
        (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT array_agg(a.atttypid::int8 ORDER BY a.attnum) FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT array_agg(a.atttypmod ORDER BY a.attnum) FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = ANY(%s::oid[])"""

_RELATIONS = """
    SELECT c.oid::int8, n.nspname::text, c.relname::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
        AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%%'
        AND (cardinality(%s::text[]) = 0 OR n.nspname = ANY(%s::text[]))
    ORDER BY n.nspname, c.relname"""

_EDGES = """
    SELECT conrelid::int8, confrelid::int8 FROM pg_constraint
    WHERE contype = 'f' AND conrelid = ANY(%s::oid[])"""

_SAME_NAME = """
    SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE lower(c.relname) = lower(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1, 2 LIMIT 3"""


def suspects(snapshot: Snapshot, relation: Relation, cancelled: Cancelled) -> set[str]:
    """Columns of a table of which its statistics know a value that is not finite; they do not know all."""
    return {
        name
        for (name,) in snapshot.query(_SUSPECTS, (relation.schema, relation.name), str(relation), cancelled)
    }
