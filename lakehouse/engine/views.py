"""Statements about views, and those that give tables and views other names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from lakehouse.catalog.arrow_types import storable_schema
from lakehouse.config.catalog import RESERVED_SCHEMAS
from lakehouse.engine.gate import Analysis, StatementKind
from lakehouse.engine.gate_text import read_reference
from lakehouse.engine.session import Session
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    NotSupported,
    SchemaNotFound,
    TableNotFound,
    TransactionStateError,
)
from lakehouse.types import TableName, quote

if TYPE_CHECKING:
    from lakehouse.engine.engine import Engine


class ViewDdl:
    """Runs CREATE VIEW, DROP VIEW, COMMENT ON VIEW and RENAME.

    Args:
        engine: The engine whose catalog, binder and gate are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, analysis: Analysis, session: Session, transaction: Transaction | None) -> TableName:
        """Run a statement of one of these kinds; gives the name that it is about.

        Raises:
            NotSupported: It is of another kind, which gives rows.
            LakehouseError: It failed; nothing was changed.
        """
        if analysis.kind is StatementKind.CREATE_VIEW:
            return self.create(analysis, session, transaction)
        if analysis.kind is StatementKind.COMMENT_VIEW:
            return self.comment(analysis, session)
        if analysis.kind is StatementKind.RENAME:
            return self.rename(analysis, session, transaction)
        raise NotSupported("this statement gives rows", "send it as a query")

    def create(self, analysis: Analysis, session: Session, transaction: Transaction | None) -> TableName:
        """Keep a query under a name; what it reads is written by full names. Gives the view's name.

        Raises:
            LakehouseError: The query cannot be run by this principal, or the name is taken.
        """
        _refuse_in(transaction)
        detail = analysis.detail
        name = self._engine.binder.locate(analysis.target, session)
        if name.schema.lower() in RESERVED_SCHEMAS:
            raise InvalidRequest(
                f"a view cannot be in the schema {name.schema}", "the schema is the server's own"
            )
        session.lakes.of(name.catalog).check_write(name.schema, name.table)
        sql = self._qualified(analysis, session)
        if detail["columns"]:
            names = ", ".join(map(quote, detail["columns"]))
            sql = f"SELECT * FROM (\n{sql}\n) AS {quote(name.table)} ({names})"
        # Who creates it must be able to run it; nested views are found to be too deep here.
        schema = self._engine.plan(self._engine.gate.analyse(sql), session, None).schema
        if len({column.lower() for column in schema.names}) != len(schema.names):
            raise InvalidRequest(f"view {name} would have two columns of one name", "name them: (a, b, …)")
        if self._reads(sql, name, session):
            raise InvalidRequest(f"view {name} cannot read itself")
        session.lakes.of(name.catalog).create_view(
            name.schema,
            name.table,
            sql,
            _storable(schema),
            replace=detail["replace"],
            if_not_exists=detail["if_not_exists"],
        )
        return name

    def drop(self, analysis: Analysis, session: Session, transaction: Transaction | None) -> TableName:
        """Remove a view; gives its name.

        Raises:
            TableNotFound: There is none, and the statement does not allow for that.
        """
        _refuse_in(transaction)
        name = self._engine.binder.locate(analysis.target, session)
        lake = session.lakes.of(name.catalog)
        if lake.table_exists(name.schema, name.table):
            raise InvalidRequest(f"{name} is a table, not a view", f"DROP TABLE {name}")
        lake.drop_view(name.schema, name.table, if_exists=bool(analysis.detail["if_exists"]))
        return name

    def comment(self, analysis: Analysis, session: Session) -> TableName:
        """Set or remove a view's description; gives its name."""
        name = self._engine.binder.locate(analysis.target, session)
        lake = session.lakes.of(name.catalog)
        lake.describe_view(name.schema, name.table, analysis.detail["text"])
        return name

    def rename(self, analysis: Analysis, session: Session, transaction: Transaction | None) -> TableName:
        """Give a table or view another name; gives the old one.

        Raises:
            LakehouseError: There is none of the old name, or something of the new.
        """
        _refuse_in(transaction)
        name = self._engine.binder.locate(analysis.target, session)
        is_view = bool(analysis.detail["view"])
        # The new name stands alone where the schema stays, as SQL has it elsewhere.
        new = self._engine.binder.locate_beside(analysis.detail["to"], name, session)
        if new.catalog != name.catalog:
            raise NotSupported(
                f"{name} cannot be renamed to {new}: that is in another catalog",
                f"CREATE TABLE {new} AS FROM {name}, and drop the old one",
            )
        lake = session.lakes.of(name.catalog)
        found = lake.find_view(name.schema, name.table)
        if is_view and found is None and lake.table_exists(name.schema, name.table):
            raise InvalidRequest(f"{name} is a table, not a view", f"ALTER TABLE {name} RENAME TO …")
        if found is not None and not is_view:
            raise InvalidRequest(f"{name} is a view, not a table", f"ALTER VIEW {name} RENAME TO …")
        try:
            lake.rename(name.schema, name.table, new.schema, new.table, is_view=is_view)
        except (TableNotFound, SchemaNotFound):
            if (
                analysis.detail["if_exists"]
                and found is None
                and not lake.table_exists(name.schema, name.table)
            ):
                return name
            raise
        self._engine.database.drop_view(name)
        return name

    def _qualified(self, analysis: Analysis, session: Session) -> str:
        """The query with every table by its full name, so that it reads the same in every session."""
        text, temporary = analysis.sql.encode(), session.temp_objects()
        for reference in sorted(analysis.references, key=lambda r: r.span or (-1, -1), reverse=True):
            path = reference.path
            if reference.search is not None:
                continue
            if (len(path) == 1 and path[0].lower() in temporary) or path[0].lower() == "temp":
                raise NotSupported(f"a view cannot read the temporary table {path[-1]}", "CREATE TEMP VIEW")
            if reference.at is not None:
                raise NotSupported("a view cannot use time travel")
            name = self._engine.binder.locate(path, session)
            if name.schema.lower() in RESERVED_SCHEMAS:
                raise NotSupported(f"a view cannot read tables of the schema {name.schema}")
            if reference.span is None:
                raise NotSupported(
                    f"{path[-1]} cannot be read in this kind of view", "write SELECT … FROM it"
                )
            start, end = reference.span
            written = text[start:end].decode()
            found = read_reference(written)
            if found is None:
                raise NotSupported(
                    f"{path[-1]} cannot be read in this kind of view", "write SELECT … FROM it"
                )
            before, after = written[: found.name[0]].encode(), written[found.name[1] :].encode()
            text = text[:start] + before + name.sql.encode() + after + text[end:]
        return text.decode()

    def _reads(self, sql: str, name: TableName, session: Session) -> bool:
        """Whether a query reads a name, through other views or by itself."""
        pending, seen = [sql], set()
        wanted = (name.catalog, name.schema.lower(), name.table.lower())
        while pending:
            for reference in self._engine.gate.analyse(pending.pop()).references:
                if reference.search is not None:
                    continue
                found = self._engine.binder.locate(reference.path, session)
                place = (found.catalog, found.schema.lower(), found.table.lower())
                if place == wanted:
                    return True
                view = self._engine.catalogs.find_view(found) if place not in seen else None
                seen.add(place)
                if view is not None:
                    pending.append(view.sql)
        return False


def _refuse_in(transaction: Transaction | None) -> None:
    if transaction is not None:
        raise TransactionStateError(
            "views and names of tables cannot be changed within a transaction", "COMMIT or ROLLBACK first"
        )


def _storable(schema: pa.Schema) -> pa.Schema:
    """The columns as Iceberg can name them; what it has no type for is text to other programs."""
    fields = []
    for field in schema:
        try:
            fields.append(storable_schema(pa.schema([field])).field(0).with_nullable(True))
        except LakehouseError:
            fields.append(pa.field(field.name, pa.string()))
    return pa.schema([field.remove_metadata() for field in fields])
