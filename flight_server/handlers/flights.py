"""Datasets as flights: tables by path, readable in parallel, with projection, filter and limit in the ticket.

A ticket is JSON: ``{"path": ["lake", "nyc", "flights"], "columns": ["carrier"], "filter": "dest = 'LAX'",
"limit": 10, "snapshot": 123, "files": [0, 4]}``; everything but ``path`` may be left out.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flight_server.context import CallContext
from flight_server.dispatch import DataStream, Endpoint, FlightPlan
from flight_server.execution import RecordedFailure, RecordedStream, Recording, watch
from flight_server.misfit import misfit
from lakehouse.catalog import Table
from lakehouse.engine.binding import DELETED, has_deletes
from lakehouse.engine.engine import Plan
from lakehouse.engine.running import CallWatch
from lakehouse.errors import InvalidRequest, LakehouseError
from lakehouse.types import DataFileRef, TableName, quote

_MAX_ENDPOINTS = 16
_MAX_CRITERIA_BYTES = 1000


class PathTicket(BaseModel):
    """What a dataset ticket may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: list[str] = Field(min_length=1, max_length=3)
    columns: list[str] | None = None
    filter: str | None = None
    limit: int | None = Field(default=None, ge=0)
    snapshot: int | None = None
    files: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One dataset as ListFlights shows it."""

    path: tuple[str, str, str]
    plan: FlightPlan


def is_path_ticket(ticket: bytes) -> bool:
    """Whether a ticket is a dataset ticket rather than a Flight SQL one."""
    return ticket[:1] == b"{"


def decode_ticket(ticket: bytes) -> PathTicket:
    """The validated ticket.

    Raises:
        InvalidRequest: It is not JSON or does not fit; names the field.
    """
    try:
        return PathTicket.model_validate_json(ticket)
    except ValidationError as error:
        raise misfit(error, PathTicket, "dataset ticket", "ticket") from error


def info(ctx: CallContext, path: tuple[str, ...]) -> FlightPlan:
    """How to fetch a table: one endpoint for each group of its data files.

    Raises:
        TableNotFound, SchemaNotFound: There is no such table.
    """
    with RecordedFailure(ctx, f"FLIGHT {'.'.join(path)}", "flight"):
        view = _view(ctx, path)
        if view is not None:
            ticket = PathTicket(path=[view.catalog, view.schema, view.table])
            endpoint = Endpoint(ticket.model_dump_json(exclude_none=True).encode())
            return FlightPlan(_plan(ctx, ticket, watch(ctx)).schema, (endpoint,))
        table = _load(ctx, path)
        ticket = PathTicket(path=list(_full(table)), snapshot=table.snapshot_id)
        return _flight(ctx, table, _plan(ctx, ticket, watch(ctx)).schema)


def schema(ctx: CallContext, path: tuple[str, ...]) -> pa.Schema:
    """The schema of a table as it is streamed."""
    return info(ctx, path).schema


def stream(ctx: CallContext, ticket: PathTicket) -> DataStream:
    """The rows of a dataset ticket."""
    with Recording(ctx, _described(ticket), "flight") as recording:
        plan = _plan(ctx, ticket, recording.watch())
        if ticket.files is not None and not plan.views:
            plan = _restricted(plan, ticket.files)
        recording.watch().note_tables(plan.names)
        recording.goes_on = True
    return DataStream(plan.schema, RecordedStream(ctx, ctx.session, (plan,), recording.record))


def _described(ticket: PathTicket) -> str:
    """A dataset ticket as a line of text."""
    rest = ticket.model_dump(exclude_none=True, exclude={"path"})
    said = ", ".join(f"{name} {value}" for name, value in rest.items())
    return f"FLIGHT {'.'.join(ticket.path)}" + (f" ({said})" if said else "")


def listing(ctx: CallContext, criteria: bytes) -> Iterator[Listing]:
    """Every table whose ``[catalog.]schema.table`` matches the pattern (``*``, ``?``, ``%``).

    Raises:
        InvalidRequest: The pattern is not UTF-8, or longer than any name.
    """
    if len(criteria) > _MAX_CRITERIA_BYTES:
        raise InvalidRequest(
            f"the criteria of ListFlights have {len(criteria)} bytes, expected up to {_MAX_CRITERIA_BYTES}"
        )
    try:
        pattern = criteria.decode().strip().lower().replace("%", "*") or "*"
    except UnicodeDecodeError as error:
        raise InvalidRequest("the criteria of ListFlights are a pattern in UTF-8", "nyc.*") from error
    for catalog in ctx.lakes:
        for schema_name in catalog.schemas():
            for table_name in catalog.tables(schema_name):
                short = f"{schema_name}.{table_name}".lower()
                names = (short, f"{catalog.name}.{short}".lower())
                if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                    continue
                try:
                    table = catalog.load(schema_name, table_name)
                    found = _flight(ctx, table, _seen(ctx, table))
                except LakehouseError:
                    continue
                yield Listing(_full(table), found)


def nullable(table_schema: pa.Schema) -> pa.Schema:
    """The schema as DuckDB streams it: every column may be null."""
    return pa.schema([pa.field(f.name, _nullable_type(f.type)) for f in table_schema])


def _nullable_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([pa.field(f.name, _nullable_type(f.type)) for f in fields])
    if pa.types.is_list(kind):
        return pa.list_(pa.field(kind.value_field.name, _nullable_type(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(_nullable_type(kind.key_type), _nullable_type(kind.item_type))
    return kind


def _view(ctx: CallContext, path: tuple[str, ...]) -> TableName | None:
    """The full name of a view; None where the path does not lead to one."""
    if not 1 <= len(path) <= 3 or not all(path):
        return None
    name: TableName = ctx.lakehouse.engine.binder.locate(path, ctx.session)
    found = ctx.lake(name).find_view(name.schema, name.table)
    return found.name if found else None


def _load(ctx: CallContext, path: tuple[str, ...]) -> Table:
    if not 1 <= len(path) <= 3 or not all(path):
        raise InvalidRequest(
            "the path of a dataset is catalog, schema, table", "the first two may be left out"
        )
    binder = ctx.lakehouse.engine.binder
    name: TableName = binder.locate(path, ctx.session)
    catalog = ctx.lake(name)
    if not catalog.table_exists(name.schema, name.table):
        raise binder.missing(name, ctx.lakes)
    return catalog.load(name.schema, name.table)


def _full(table: Table) -> tuple[str, str, str]:
    return (table.name.catalog, table.name.schema, table.name.table)


def _seen(ctx: CallContext, table: Table) -> pa.Schema:
    """The columns as they are streamed: every one may be null, and a mask may have a type of its own."""
    if ctx.session.access.table(table.name).restrictions:
        return ctx.lakehouse.engine.columns_seen(table.name, ctx.session)
    return nullable(table.arrow_schema())


def _flight(ctx: CallContext, table: Table, result_schema: pa.Schema) -> FlightPlan:
    files = table.files(table.snapshot_id)
    # How much there is beyond a filter is not for those behind it.
    is_whole = not ctx.session.access.table(table.name).restrictions
    endpoints = []
    for start, stop in _groups(files):
        ticket = PathTicket(path=list(_full(table)), snapshot=table.snapshot_id, files=(start, stop))
        endpoints.append(Endpoint(ticket.model_dump_json(exclude_none=True).encode()))
    return FlightPlan(
        result_schema,
        tuple(endpoints),
        # Of rows that other engines deleted, nobody counts how many are still there.
        total_records=sum(f.rows for f in files) if is_whole and not has_deletes(files) else -1,
        total_bytes=sum(f.size_bytes for f in files) if is_whole else -1,
        app_metadata=_facts(ctx, table),
    )


def _facts(ctx: CallContext, table: Table) -> bytes:
    """Which snapshot of which dataset it is, and the fingerprint of its schema where that is known."""
    facts = {"snapshot": table.snapshot_id, "dataset": table.uuid}
    manifest = ctx.lakehouse.manifests.known(table.uuid)
    if manifest is not None and manifest.fingerprint:
        facts["fingerprint"] = manifest.fingerprint
    return json.dumps(facts).encode()


def _groups(files: tuple[DataFileRef, ...]) -> list[tuple[int, int]]:
    """Ranges of files of about equal bytes, at most ``_MAX_ENDPOINTS``; one empty range for no files."""
    if not files:
        return [(0, 0)]
    share = sum(f.size_bytes for f in files) / min(len(files), _MAX_ENDPOINTS)
    groups: list[tuple[int, int]] = []
    start = size = 0
    for index, file in enumerate(files):
        size += file.size_bytes
        if size >= share * (len(groups) + 1) or index == len(files) - 1:
            groups.append((start, index + 1))
            start = index + 1
    return groups


def _plan(ctx: CallContext, ticket: PathTicket, watched: CallWatch) -> Plan:
    engine = ctx.lakehouse.engine
    path = tuple(ticket.path)
    name = _view(ctx, path) or _load(ctx, path).name
    columns = "*" if ticket.columns is None else ", ".join(quote(column) for column in ticket.columns)
    if ticket.columns is not None and not ticket.columns:
        raise InvalidRequest("columns must name at least one column", "leave it out to read them all")
    at = f" AT (VERSION => {ticket.snapshot})" if ticket.snapshot is not None else ""
    sql = f"SELECT {columns} FROM {name.sql}{at}"
    if ticket.filter:
        engine.gate.check_expression(ticket.filter)
        sql += f" WHERE ({ticket.filter}\n)"
    if ticket.limit is not None:
        sql += f" LIMIT {ticket.limit}"
    # The numbers of a ticket's files count in the whole list.
    return engine.plan(
        engine.gate.analyse(sql), ctx.session, watch=watched, needs_every_file=ticket.files is not None
    )


def _restricted(plan: Plan, files: tuple[int, int]) -> Plan:
    """The plan reading only some of its table's files."""
    start, stop = files
    if start == stop:
        return plan
    bindings = tuple(
        replace(binding, key=(*binding.key, start, stop), files=binding.files[start:stop])
        if not binding.variable.endswith(DELETED)
        else binding
        for binding in plan.bindings
    )
    return replace(plan, bindings=bindings)
