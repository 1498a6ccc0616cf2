"""The vector indexes as one session sees them.

Who may read the table that vectors were made from, in all columns that an index tells of, may search it; for
others it is not there. Behind a row filter only those vectors are found whose rows the filter lets through:
not fewer of them, but the nearest among these.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from lakehouse.config.profiles import NO_PROFILE
from lakehouse.engine.engine import Engine
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import (
    CatalogNotFound,
    InvalidRequest,
    PermissionDenied,
    SchemaNotFound,
    SnapshotNotFound,
    TableNotFound,
    VectorIndexNotFound,
)
from lakehouse.types import TableName, quote
from lakehouse.vectors.faiss_index import unchecked
from lakehouse.vectors.generation import FullName, Generation, Guard, parted_name
from lakehouse.vectors.generation_store import Live
from lakehouse.vectors.hybrid import Ask, Matches
from lakehouse.vectors.indexes import BuildRequest, Hits, Progress, Select, VectorIndexes
from lakehouse.vectors.loader import LoadedIndex
from lakehouse.vectors.selection import Selection

_K = 10
_POSITION = "~position"
_Absent = (TableNotFound, SchemaNotFound, CatalogNotFound)


class GuardedIndexes:
    """The vector indexes that are there for a session's principal.

    Args:
        indexes: All indexes.
        engine: Reads the tables that they were made from.
        session: On whose behalf.
        profile: The profile that is asked for, ``none`` for none; the session's own one when left out.

    Raises:
        ProfileNotFound: There is no such profile for the principal.
    """

    def __init__(
        self, indexes: VectorIndexes, engine: Engine, session: Session, profile: str | None = None
    ) -> None:
        self._indexes = indexes
        self._engine = engine
        self._session = session
        self._profile: str | None = None
        self._names: dict[str, FullName] = {}
        if profile is not None:
            wanted = profile.lower()
            self._profile = "" if wanted in ("", NO_PROFILE) else session.access.profile(wanted).name

    @property
    def profile(self) -> str:
        """The profile that indexes are taken from that name none; empty for none. It stays the same."""
        if self._profile is None:
            profiles = self._indexes.profiles
            self._profile = "" if profiles is None else profiles.of(self._session)
        return self._profile

    def named(self, index: str) -> FullName:
        """The full name of an index, with that of its profile.

        What was found out once stays so: a call is not disturbed by what is activated meanwhile.

        Raises:
            ProfileNotFound: There is no such profile for the principal.
            ProfileInactive: It was deactivated.
        """
        if isinstance(index, FullName):
            return index
        known = self._names.get(index)
        if known is None:
            profiles = self._indexes.profiles
            if profiles is not None:
                known = FullName(profiles.named(index, self.profile, self._session.access))
            else:
                if ":" in index:
                    self._session.access.profile(index.rpartition(":")[0])  # there is none
                known = FullName(index)
            self._names[index] = known
        return known

    def usual_k(self, index: str) -> int:
        """How many rows a search in an index gives that does not say: what its profile says, else 10."""
        profile = parted_name(self.named(index))[0]
        return self._session.access.profile(profile).settings.k if profile else _K

    def all(self) -> list[Live]:
        """The live generations of those that the principal may search, by name."""
        return [
            live
            for live in self._indexes.all()
            if live.generation is not None and self.may_search(live.generation)
        ]

    def find(self, index: str) -> Live:
        """The live generation of an index.

        Raises:
            VectorIndexNotFound: There is none for the principal.
        """
        live = self._indexes.live(self.named(index))
        assert live.generation is not None
        self.check_search(live.generation)
        return live

    def check_search(self, generation: Generation) -> None:
        """Say that an index is not there, if the principal may not search it.

        Raises:
            VectorIndexNotFound: The principal may not read what it was made from.
            PermissionDenied: A column that it tells of is masked for the principal.
        """
        guard = generation.guard
        profile = parted_name(generation.index)[0]
        if profile:
            found = self._session.access.profiles.get(profile)
            if found is None or not found.covers(guard.table):
                raise _absent(generation.index)
        try:
            table = self._session.lakes.of(guard.table.catalog).load(guard.table.schema, guard.table.table)
        except _Absent:
            raise _absent(generation.index) from None
        if table.uuid != guard.table_uuid:
            raise _absent(generation.index)
        masked = self._masked(guard)
        if masked:
            raise PermissionDenied(
                f"the vector index '{generation.index}' tells of '{guard.table}.{masked[0]}', which is "
                f"masked for {self._session.principal.name}"
            )

    def build(
        self,
        request: BuildRequest,
        *,
        create: bool,
        check: Callable[[], None],
        progress: Progress,
        why: str = "build",
    ) -> Generation:
        """Build a generation of an index and make it live; see ``VectorIndexes.build``.

        Raises:
            PermissionDenied: The principal may not change the tables that it is made of, or those that the
                present generation is made of.
        """
        request = replace(request, index=self.named(request.index))
        profile = parted_name(request.index)[0]
        if profile:
            self.check_covered(profile, request.guard.table)
        self._check_change(request.source.table)
        self._check_change(request.guard.table)
        try:
            present = self._indexes.live(request.index, fresh=True)
        except VectorIndexNotFound:
            pass
        else:
            if not create:
                self._check_owner(present)
        return self._indexes.build(request, create=create, check=check, progress=progress, why=why)

    def owned(self, index: str) -> Live:
        """The live generation of an index that the principal may build anew.

        Raises:
            VectorIndexNotFound: There is none for the principal.
            PermissionDenied: The principal may not change the tables that it is made of.
        """
        live = self.find(index)
        self._check_owner(live)
        return live

    def check_covered(self, profile: str, table: TableName) -> None:
        """Refuse a table that a profile does not cover.

        Raises:
            PermissionDenied: It does not.
        """
        if not self._session.access.profile(profile).covers(table):
            raise PermissionDenied(
                f"the profile '{profile}' does not cover '{table}'", "its datasets say which tables it does"
            )

    def rollback(self, index: str) -> Generation:
        """Make the generation live that was it before; see ``VectorIndexes.rollback``.

        Raises:
            PermissionDenied: The principal may not change the table that it is made of.
        """
        self.owned(index)
        return self._indexes.rollback(self.named(index))

    def drop(self, index: str) -> None:
        """Remove an index.

        Raises:
            VectorIndexNotFound: There is none for the principal.
            PermissionDenied: The principal may not change the table that it is made of.
        """
        self.owned(index)
        self._indexes.drop(self.named(index))

    def search(
        self,
        index: str,
        queries: ArrayLike,
        k: int,
        *,
        ef: int | None = None,
        where: str = "",
        watch: CallWatch | None = None,
        check: Callable[[], None] = unchecked,
    ) -> Hits:
        """The nearest vectors of one or many queries among those that the principal may see.

        Args:
            index: The name of the index.
            queries: Of shape ``(dimension,)`` or ``(queries, dimension)``.
            k: How many of each.
            ef: How many candidates to look at; see ``VectorIndex.search``.
            where: SQL predicate over the table that the vectors were made from; empty for all rows.
            watch: How the query for it learns to stop.
            check: Raises where the search shall stop.

        Raises:
            VectorIndexNotFound: There is no such index for the principal.
            PermissionDenied: A column that it tells of is masked for the principal.
            InvalidRequest: A query does not fit, or rows cannot be told apart and there is something to be
                left out.
            LakehouseError: The predicate is wrong.
        """
        select = self._selecting(index, where, watch)
        return self._indexes.search(self._counted(index), queries, k, ef=ef, select=select, check=check)

    def ask(
        self,
        index: str,
        ask: Ask,
        *,
        where: str = "",
        watch: CallWatch | None = None,
        check: Callable[[], None] = unchecked,
    ) -> Matches:
        """The rows that answer queries best, by vectors, words or both, of those that the principal may see.

        Args:
            index: The name of the index.
            ask: What is sought.
            where: As for ``search``.
            watch: How the query for it learns to stop.
            check: Raises where the search shall stop.

        Raises:
            InvalidRequest: As for ``search``, or the index has no words or texts that are asked for.
            LakehouseError: As for ``search``, or the model that is to rerank does not.
        """
        select = self._selecting(index, where, watch)
        return self._indexes.ask(self._counted(index), ask, select=select, check=check)

    def _counted(self, index: str) -> str:
        """The full name of an index, in which a search is made now."""
        full = self.named(index)
        if self._indexes.profiles is not None:
            self._indexes.profiles.searches[parted_name(full)[0] or NO_PROFILE] += 1
        return full

    def _selecting(self, index: str, where: str, watch: CallWatch | None) -> Select:
        """What tells the rows of a generation that the principal may find."""
        checked = self.find(index).generation
        if where:
            self._engine.gate.check_expression(where)

        def select(loaded: LoadedIndex) -> Selection | None:
            generation = loaded.generation
            if generation is not checked:
                self.check_search(generation)  # it is another one by now
            if not where and not self._restricted(generation.guard.table):
                return None
            keys = self._keys(generation, where, watch or CallWatch())
            return matching(loaded.rows, keys)

        return select

    def _keys(self, generation: Generation, where: str, watch: CallWatch) -> pa.Table:
        """The keys of the rows that may be found, as the table was when the vectors were made from it."""
        guard = generation.guard
        if not guard.keys:
            raise InvalidRequest(
                f"rows of the vector index '{generation.index}' have no key, so none can be left out",
                "build it again and name the key columns",
            )
        columns = ", ".join(map(quote, guard.keys))
        condition = f" WHERE ({where}\n)" if where else ""
        if guard.snapshot_id is not None:
            try:
                return self._rows(
                    f"SELECT {columns} FROM {guard.table.sql} AT (VERSION => {guard.snapshot_id}){condition}",
                    watch,
                )
            except SnapshotNotFound:
                if self._restricted(guard.table):
                    # What is let through now may have been another row's content then.
                    raise InvalidRequest(
                        f"the vector index '{generation.index}' is older than all that is kept of "
                        f"'{guard.table}'",
                        "it has to be built again",
                    ) from None
        return self._rows(f"SELECT {columns} FROM {guard.table.sql}{condition}", watch)

    def _rows(self, sql: str, watch: CallWatch) -> pa.Table:
        plan = self._engine.plan(self._engine.gate.analyse(sql), self._session, watch=watch)
        watch.note_tables(plan.names)
        with closing(self._engine.open(plan, self._session, watch)) as stream:
            return pa.Table.from_batches(stream, plan.schema)

    def may_search(self, generation: Generation) -> bool:
        """Whether the principal may search an index."""
        try:
            self.check_search(generation)
        except (VectorIndexNotFound, PermissionDenied):
            return False
        return True

    def _check_owner(self, live: Live) -> None:
        assert live.generation is not None
        self._check_change(live.generation.source.table)
        self._check_change(live.generation.guard.table)

    def _check_change(self, name: TableName) -> None:
        self._session.lakes.of(name.catalog).check_change(name.schema, name.table)

    def _restricted(self, name: TableName) -> bool:
        return bool(self._session.access.table(name).restrictions)

    def _masked(self, guard: Guard) -> list[str]:
        told = {column.lower() for column in (*guard.columns, *guard.keys)}
        restrictions = self._session.access.table(guard.table).restrictions
        return sorted({column for each in restrictions for column, _ in each.masks} & told)


def matching(rows: pa.Table, keys: pa.Table) -> Selection:
    """The rows whose key is among those.

    Args:
        rows: What an index has of its rows.
        keys: Keys, in columns that ``rows`` has as well.
    """
    names = keys.column_names
    if len(names) == 1:
        column = rows[names[0]]
        found = pc.is_in(column, value_set=keys[names[0]].cast(column.type).combine_chunks())
        return Selection(found.combine_chunks().to_numpy(zero_copy_only=False))
    mine = rows.select(names).append_column(_POSITION, pa.array(np.arange(len(rows))))
    theirs = pa.table([keys[name].cast(rows.schema.field(name).type) for name in names], names=names)
    positions = mine.join(theirs, names, join_type="left semi")[_POSITION]
    return Selection.of(positions.to_numpy(), len(rows))


def _absent(index: str) -> VectorIndexNotFound:
    return VectorIndexNotFound(f"vector index '{index}' does not exist", "vectors.list tells which do")
