"""Role × object × path: what each principal gets, on every way there is to an object.

ROLES says what each principal may do with each object, PATHS how an object is reached. Every command, action
and RPC of the server must be on a path or in NO_OBJECT, so a new one cannot be forgotten.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, presenting, start_guarded
from wire import command, put, unwrapped, wrapped

from flight_server.actions.all import all_actions
from flight_server.protocol import commands
from flight_server.protocol.codec import PROTOCOL_ACTIONS

SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), ("region", pa.string()), ("note", pa.string())]
)
ROWS = pa.table([[1, 2, 3, 4], ["eu", "us", "eu", "us"], ["a", "b", "c", "d"]], schema=SCHEMA)
ALL, PART = {1, 2, 3, 4}, {1, 3}

# What a principal reads of each object, and whether it may add rows to it.
ROLES: dict[str, dict[str, tuple[set[int] | None, bool]]] = {
    "reader": {"people": (ALL, False), "open": (ALL, False), "away": (ALL, False)},
    "writer": {"people": (ALL, True), "open": (ALL, True), "away": (ALL, True)},
    "admin": {"people": (ALL, True), "open": (ALL, True), "away": (ALL, True)},
    "european": {"people": (PART, False), "open": (ALL, False), "away": (PART, False)},
    "outsider": {"people": (None, False), "open": (ALL, False), "away": (None, False)},
    "appender": {"people": (None, True), "open": (ALL, False), "away": (None, True)},
    "abroad": {"people": (None, False), "open": (None, False), "away": (ALL, False)},
    "nobody": {"people": (None, False), "open": (None, False), "away": (None, False)},
}
OBJECTS = ("people", "open", "away")
# Names that begin so are in another catalog than the default one, of which the last is not there.
CATALOGS = {"away": "other", "void": "nowhere"}
CONFIG = """
[[catalogs]]
name = "other"
warehouse = "other"
[[roles]]
name = "european"
grants = [{ on = "lake.hr.people", row_filter = "region = 'eu'" }, { on = "lake.hr.open" },
  { on = "other.hr.away", row_filter = "region = 'eu'" }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.hr.open" }]
[[roles]]
name = "appender"
grants = [{ on = "lake.hr.people", privileges = ["write"] }, { on = "lake.hr.open" },
  { on = "other.hr.away", privileges = ["write"] }]
[[roles]]
name = "abroad"
grants = [{ on = "other.hr.away" }]
"""


def catalog_of(name: str) -> str:
    """The catalog that an object of this name is in."""
    return next((catalog for prefix, catalog in CATALOGS.items() if name.startswith(prefix)), "lake")


def full(name: str) -> str:
    """What a statement calls an object: without the catalog where it is the default one."""
    catalog = catalog_of(name)
    return f"hr.{name}" if catalog == "lake" else f"{catalog}.hr.{name}"


def named(name: str) -> dict[str, str]:
    """How an action is told of an object."""
    catalog = catalog_of(name)
    return {"table": name, "db_schema": "hr"} | ({} if catalog == "lake" else {"catalog": catalog})


def missing_beside(name: str) -> str:
    """The name of an object that is not there, in the same catalog."""
    return "away0" if catalog_of(name) == "other" else "nothing"


# -- the paths on which rows are read: each gives the ids that were seen -----------------------------


def ids(table: pa.Table) -> set[int]:
    return set(table.column("id").to_pylist())


def by_query(who: Caller, name: str) -> set[int]:
    return ids(who.sql(f"SELECT * FROM {full(name)}"))


def by_update_command(who: Caller, name: str) -> set[int]:
    statement = command(
        "CommandStatementUpdate", query=f"CREATE OR REPLACE TEMP TABLE x AS FROM {full(name)}"
    )
    who.write(statement, pa.table({}))
    return ids(who.sql("FROM x"))


def by_view(who: Caller, name: str) -> set[int]:
    who.sql(f"CREATE OR REPLACE TEMP VIEW v AS SELECT * FROM {full(name)}")
    return ids(who.sql("FROM v"))


def by_cte(who: Caller, name: str) -> set[int]:
    return ids(who.sql(f"WITH {name} AS (FROM {full(name)}) SELECT * FROM {name}"))


def by_time_travel(who: Caller, name: str) -> set[int]:
    return ids(who.sql(f"SELECT * FROM {full(name)} AT (TIMESTAMP => now())"))


def by_subquery(who: Caller, name: str) -> set[int]:
    return ids(who.sql(f"SELECT unnest((SELECT list(id) FROM {full(name)})) AS id"))


def by_transaction(who: Caller, name: str) -> set[int]:
    (begun,) = who.act("BeginTransaction", wrapped("ActionBeginTransactionRequest"))
    transaction = unwrapped(begun, "ActionBeginTransactionResult").transaction_id
    try:
        return ids(who.sql(f"SELECT * FROM {full(name)}", transaction_id=transaction))
    finally:
        body = wrapped("ActionEndTransactionRequest", transaction_id=transaction, action=2)
        who.act("EndTransaction", body)


def by_prepared_statement(who: Caller, name: str) -> set[int]:
    request = wrapped(
        "ActionCreatePreparedStatementRequest", query=f"SELECT * FROM {full(name)} WHERE id > ?"
    )
    (created,) = who.act("CreatePreparedStatement", request)
    handle = unwrapped(created, "ActionCreatePreparedStatementResult").prepared_statement_handle
    statement = command("CommandPreparedStatementQuery", prepared_statement_handle=handle)
    writer, _ = who.client.do_put(statement, pa.schema([("1", pa.int64())]), who.options)
    with writer:
        writer.write_table(pa.table({"1": [0]}))
    found = ids(who.read(statement))
    who.act(
        "ClosePreparedStatement",
        wrapped("ActionClosePreparedStatementRequest", prepared_statement_handle=handle),
    )
    return found


def by_schema_of_a_query(who: Caller, name: str) -> set[int]:
    who.client.get_schema(command("CommandStatementQuery", query=f"FROM {full(name)}"), who.options)
    return by_query(who, name)


def by_path(who: Caller, name: str) -> set[int]:
    return ids(who.read(flight.FlightDescriptor.for_path(catalog_of(name), "hr", name)))


def by_schema_of_a_path(who: Caller, name: str) -> set[int]:
    who.client.get_schema(flight.FlightDescriptor.for_path(*full(name).split(".")), who.options)
    return by_path(who, name)


def by_own_ticket(who: Caller, name: str) -> set[int]:
    ticket = json.dumps(
        {"path": [catalog_of(name), "hr", name], "columns": ["id"], "filter": "id > 0", "files": [0, 1]}
    )
    return ids(who.redeem(ticket.encode()))


def by_snapshots(who: Caller, name: str) -> set[int]:
    (snapshot, *_) = who.call("catalog.snapshots", **named(name))["snapshots"]
    return ids(who.sql(f"SELECT * FROM {full(name)} AT (VERSION => {snapshot['snapshot_id']})"))


def by_table_snapshots(who: Caller, name: str) -> set[int]:
    found = who.call("table.snapshots", **named(name))["snapshots"]
    (current,) = [snapshot for snapshot in found if snapshot["is_current"]]
    rows = ids(who.sql(f"SELECT * FROM {full(name)}".replace(name, f'"{name}@first"')))
    assert current["summary"].get("total-records") == (str(len(ALL)) if rows == ALL else None)
    return rows


def by_diff(who: Caller, name: str) -> set[int]:
    """Between the empty table that it was first and what it is now, with the ticket of the action."""
    before = {"ref": "nothing"}
    answer = who.call("table.diff", **named(name), before=before)
    rows = who.redeem(base64.b64decode(answer["ticket"]))
    assert rows.column(0).to_pylist() == ["INSERT"] * answer["inserted"]
    return ids(rows)


def by_record_history(who: Caller, name: str) -> set[int]:
    """What records looked like a moment ago; changes of theirs are for those who see the table as it is."""
    now = datetime.now(UTC).isoformat()
    found = [who.call("journal.history", **named(name), key={"id": n}, at=now) for n in sorted(ALL)]
    assert all(answer["events"] == [] and answer["at"]["basis"] == "snapshot" for answer in found)
    return {answer["at"]["row"]["id"] for answer in found if answer["at"]["row"] is not None}


def by_history_tables(who: Caller, name: str) -> set[int]:
    """Who sees a part is told of no file, whose bounds and counts tell of the other rows."""
    rows = by_query(who, name)
    for table in ("snapshots", "history", "files", "partitions"):
        seen = who.sql(f"FROM system.{table} WHERE table_name = '{name}' AND schema_name = 'hr'").num_rows
        assert (seen > 0) == (rows == ALL or table in ("snapshots", "history"))
    return rows


def by_describe(who: Caller, name: str) -> set[int]:
    assert set(who.sql(f"DESCRIBE {full(name)}").column("column_name").to_pylist()) == {
        "id",
        "region",
        "note",
    }
    return by_query(who, name)


def by_summarize(who: Caller, name: str) -> set[int]:
    summary = {row["column_name"]: row for row in who.sql(f"SUMMARIZE {full(name)}").to_pylist()}
    found = by_query(who, name)
    assert int(summary["id"]["max"]) == max(found)
    assert summary["id"]["count"] == len(found)
    return found


def by_current_catalog(who: Caller, name: str) -> set[int]:
    who.sql(f"USE {catalog_of(name)}.hr")
    try:
        return ids(who.sql(f"SELECT * FROM {name}"))
    finally:
        who.sql("RESET schema")


def by_dataset_description(who: Caller, name: str) -> set[int]:
    """Who sees a part is told neither counts nor what columns hold."""
    found = who.call("catalog.describe", **named(name))
    rows = by_query(who, name)
    assert found["rows"] == (len(ALL) if rows == ALL else None)
    assert (found["sensitivity"] is not None) == (rows == ALL)
    assert {(c["nulls"], c["minimum"]) for c in found["columns"]} & {(0, "1")} == (
        {(0, "1")} if rows == ALL else set()
    )
    assert {step["ingest"] for step in found["lineage"]} == {"bulk ingest"}
    return rows


def by_dataset_lineage(who: Caller, name: str) -> set[int]:
    found = who.call("catalog.lineage", **named(name))
    assert f"{catalog_of(name)}.hr.{name}" in {each["name"] for each in found["datasets"]}
    return by_query(who, name)


READ = {
    by_dataset_description: {"catalog.describe"},
    by_dataset_lineage: {"catalog.lineage"},
    by_current_catalog: set(),
    by_query: {commands.StatementQuery, commands.TicketStatementQuery},
    by_update_command: {commands.StatementUpdate},
    by_view: set(),
    by_cte: set(),
    by_time_travel: set(),
    by_subquery: set(),
    by_transaction: {commands.BeginTransaction, commands.EndTransaction},
    by_prepared_statement: {
        commands.CreatePreparedStatement,
        commands.PreparedStatementQuery,
        commands.ClosePreparedStatement,
    },
    by_schema_of_a_query: {"get_schema"},
    by_path: {"get_flight_info", "do_get"},
    by_schema_of_a_path: set(),
    by_own_ticket: set(),
    by_snapshots: {"catalog.snapshots"},
    by_table_snapshots: {"table.snapshots"},
    by_diff: {"table.diff"},
    by_record_history: {"journal.history"},
    by_history_tables: set(),
    by_describe: set(),
    by_summarize: set(),
}


# -- the paths on which names are listed: each gives the tables of schema hr -----------------------------


def by_get_tables(who: Caller) -> set[str]:
    found = who.read(command("CommandGetTables", db_schema_filter_pattern="hr"))
    with_schema = who.read(command("CommandGetTables", db_schema_filter_pattern="hr", include_schema=True))
    names = set(found.column("table_name").to_pylist())
    assert set(with_schema.column("table_name").to_pylist()) == names
    return names


def by_get_schemas(who: Caller) -> set[str]:
    schemas = who.read(command("CommandGetDbSchemas")).column("db_schema_name").to_pylist()
    return by_get_tables(who) if "hr" in schemas else set()


def by_primary_keys(who: Caller) -> set[str]:
    found = [who.read(command("CommandGetPrimaryKeys", table=name)) for name in OBJECTS]
    return {name for table in found for name in table.column("table_name").to_pylist()}


def by_foreign_keys(who: Caller) -> set[str]:
    """``open`` refers to ``people`` and ``away`` to itself: what refers, and what is referred to if seen."""
    found = set()
    for name in OBJECTS:
        for kind in ("CommandGetImportedKeys", "CommandGetExportedKeys"):
            for row in who.read(command(kind, table=name)).to_pylist():
                found |= {row["fk_table_name"], row["pk_table_name"]}
    crossed = who.read(command("CommandGetCrossReference", pk_table="people", fk_table="open"))
    assert (crossed.num_rows == 1) == (found >= {"people", "open"})
    return found | by_get_tables(who)


def by_list_flights(who: Caller) -> set[str]:
    found = list(who.client.list_flights(b"hr.*", who.options))
    return {info.descriptor.path[-1].decode() for info in found}


def by_information_schema(who: Caller) -> set[str]:
    sql = "SELECT DISTINCT table_name FROM information_schema.{} WHERE table_schema = 'hr'"
    tables = set(who.sql(sql.format("tables")).column(0).to_pylist())
    assert set(who.sql(sql.format("columns")).column(0).to_pylist()) == tables
    return tables


def by_system_snapshots(who: Caller) -> set[str]:
    found = who.sql("SELECT DISTINCT table_name FROM system.snapshots WHERE schema_name = 'hr'")
    return set(found.column(0).to_pylist())


def by_system_events(who: Caller) -> set[str]:
    """What was on record of the tables; those who see a part are told no values."""
    found = who.sql("SELECT entity, new FROM system.events WHERE action = 'commit' AND seq > 0").to_pylist()
    names = {event["entity"].partition(".hr.")[2]: event["new"] is not None for event in found}
    parts = {name for name, has_values in names.items() if not has_values}
    assert all(by_query(who, name) == PART for name in parts)
    return names.keys() & set(OBJECTS)


def by_journal_events(who: Caller) -> set[str]:
    named_by = {}
    for stored in (False, True):
        found = who.call("journal.events", stored=stored, limit=10_000)["events"]
        named_by[stored] = {(event["entity"] or "").partition(".hr.")[2] for event in found}
    assert named_by[False] == named_by[True]
    return named_by[True] & set(OBJECTS)


def by_show(who: Caller) -> set[str]:
    return {row["name"] for row in who.sql("SHOW ALL TABLES").to_pylist() if row["schema"] == "hr"}


def by_get_catalogs(who: Caller) -> set[str]:
    """Table by table of the catalogs that are listed, with each of them named."""
    listed = who.read(command("CommandGetCatalogs")).column("catalog_name").to_pylist()
    assert ("other" in listed) == ("away" in by_get_tables(who) or may_add_to_other(who))
    found: set[str] = set()
    for catalog in listed:
        tables = who.read(command("CommandGetTables", catalog=catalog, db_schema_filter_pattern="hr"))
        assert {row["catalog_name"] for row in tables.to_pylist()} <= {catalog}
        found |= set(tables.column("table_name").to_pylist())
    return found


def may_add_to_other(who: Caller) -> bool:
    try:
        by_append(who, "away")
    except pa.ArrowException:
        return False
    return True


def by_dataset_search(who: Caller) -> set[str]:
    found = who.call("catalog.search", db_schema="hr")["datasets"]
    rows = {each["table"]: each["rows"] for each in found}
    assert {each["table"] for each in who.call("catalog.search", column="region")["datasets"]} == set(rows)
    return set(rows)


def by_system_datasets(who: Caller) -> set[str]:
    found = []
    for table in ("datasets", "columns", "lineage"):
        sql = f"SELECT DISTINCT table_name FROM system.{table} WHERE schema_name = 'hr'"
        found.append(set(who.sql(sql).column(0).to_pylist()))
    assert found[0] == found[1] == found[2]
    return found[0]


LIST = {
    by_dataset_search: {"catalog.search"},
    by_system_datasets: set(),
    by_get_catalogs: {commands.GetCatalogs},
    by_get_tables: {commands.GetTables},
    by_get_schemas: {commands.GetDbSchemas},
    by_primary_keys: {commands.GetPrimaryKeys},
    by_foreign_keys: {commands.GetImportedKeys, commands.GetExportedKeys, commands.GetCrossReference},
    by_list_flights: {"list_flights"},
    by_information_schema: set(),
    by_system_snapshots: set(),
    by_system_events: set(),
    by_journal_events: {"journal.events"},
    by_show: set(),
}


# -- the paths on which objects are changed: each must leave things as they were -----------------------------


def ingest(who: Caller, name: str, exists: int, missing: int = 1) -> int:
    options = {"if_not_exist": missing, "if_exists": exists}
    return who.write(ingesting(name, options), ROWS.slice(0, 0))


def ingesting(name: str, options: dict[str, int]) -> flight.FlightDescriptor:
    catalog = {} if catalog_of(name) == "lake" else {"catalog": catalog_of(name)}
    fields = {"table": name, "schema": "hr", **catalog}
    return command("CommandStatementIngest", table_definition_options=options, **fields)


def by_append(who: Caller, name: str) -> None:
    assert ingest(who, name, exists=2, missing=2) == 0


def by_create_or_append(who: Caller, name: str) -> None:
    assert ingest(who, name, exists=2) == 0


def by_insert(who: Caller, name: str) -> None:
    assert who.sql(f"INSERT INTO {full(name)} SELECT 5, 'eu', 'x' WHERE false")["Count"].to_pylist() == [0]


def by_prepared_insert(who: Caller, name: str) -> None:
    assert prepared_update(who, f"INSERT INTO {full(name)} (id) SELECT 5 WHERE false") == 0


def prepared_update(who: Caller, sql: str) -> int:
    (created,) = who.act(
        "CreatePreparedStatement", wrapped("ActionCreatePreparedStatementRequest", query=sql)
    )
    handle = unwrapped(created, "ActionCreatePreparedStatementResult").prepared_statement_handle
    return who.write(
        command("CommandPreparedStatementUpdate", prepared_statement_handle=handle), pa.table({})
    )


def by_create_table(who: Caller, name: str) -> None:
    assert who.sql(f"CREATE TABLE IF NOT EXISTS {full(name)} (id BIGINT)")["Count"].to_pylist() == [0]


def by_put(who: Caller, name: str) -> None:
    told = who.call("ingest.upload", **named(name))
    assert told["path"] == [catalog_of(name), "hr", name]
    descriptor = flight.FlightDescriptor.for_path(*told["path"])
    writer, reader = who.client.do_put(descriptor, ROWS.schema, who.options)
    with writer:
        writer.write_metadata(told["first_metadata"].encode())
        writer.write_metadata(told["last_metadata"].encode())
        writer.done_writing()
        run = json.loads(reader.read().to_pybytes())["run"]
    assert (run["state"], run["rows_stored"]) == ("succeeded", 0)
    assert who.call("ingest.status", run=run["id"]) == run
    who.call("ingest.cancel", run=run["id"])
    runs = who.call("ingest.list", limit=1000)["runs"]
    assert run in runs
    assert len({each["principal"] for each in runs}) == 1 or by_show(who) == set(OBJECTS)


WRITE = {
    by_put: {"do_put", "ingest.upload", "ingest.status", "ingest.cancel", "ingest.list"},
    by_create_table: set(),
    by_append: {commands.StatementIngest, "do_put"},
    by_create_or_append: set(),
    by_insert: set(),
    by_prepared_insert: {commands.PreparedStatementUpdate},
}


def declare(who: Caller, name: str) -> None:
    keys = {"primary_key": ["id"]}
    if name != "people":
        # Within a catalog: ``open`` refers to ``people``, ``away`` to itself.
        wanted = "people" if name == "open" else name
        reference = {"name": "fk", "columns": ["id"], "ref_table": wanted, "ref_columns": ["id"]}
        keys["foreign_keys"] = [reference]
    who.call("catalog.declare_keys", **named(name), **keys)


def drop_in_transaction(who: Caller, name: str) -> None:
    (begun,) = who.act("BeginTransaction", wrapped("ActionBeginTransactionRequest"))
    transaction = unwrapped(begun, "ActionBeginTransactionResult").transaction_id
    try:
        statement = command(
            "CommandStatementUpdate", query=f"DROP TABLE {full(name)}", transaction_id=transaction
        )
        who.write(statement, pa.table({}))
    finally:
        who.act(
            "EndTransaction", wrapped("ActionEndTransactionRequest", transaction_id=transaction, action=2)
        )


def delete(who: Caller, name: str) -> None:
    assert who.sql(f"DELETE FROM {full(name)} WHERE id = 5 RETURNING note").num_rows == 0


def prepared_delete(who: Caller, name: str) -> None:
    assert prepared_update(who, f"DELETE FROM {full(name)} WHERE id = 5") == 0


def update(who: Caller, name: str) -> None:
    assert who.sql(f"UPDATE {full(name)} SET note = 'x' WHERE id = 5")["Count"].to_pylist() == [0]


def merge(who: Caller, name: str) -> None:
    source = "(SELECT 5 AS id WHERE false) q ON t.id = q.id"
    who.sql(f"MERGE INTO {full(name)} AS t USING {source} WHEN NOT MATCHED THEN INSERT (id) VALUES (q.id)")


def truncate(who: Caller, name: str) -> None:
    who.sql("BEGIN")
    try:
        who.sql(f"TRUNCATE {full(name)}")
    finally:
        who.sql("ROLLBACK")


def create_or_replace(who: Caller, name: str) -> None:
    who.sql("BEGIN")
    try:
        assert who.sql(f"CREATE OR REPLACE TABLE {full(name)} AS SELECT 1 AS z")["Count"].to_pylist() == [1]
    finally:
        who.sql("ROLLBACK")


def alter(who: Caller, name: str) -> None:
    who.sql(f"ALTER TABLE {full(name)} ADD COLUMN IF NOT EXISTS id BIGINT")


def comment(who: Caller, name: str) -> None:
    who.sql(f"COMMENT ON TABLE {full(name)} IS NULL")


def rename(who: Caller, name: str) -> None:
    who.sql(f"ALTER TABLE {full(name)} RENAME TO {name}_renamed")
    who.sql(f"ALTER TABLE {full(name)}_renamed RENAME TO {name}")


def create_view(who: Caller, name: str) -> None:
    who.sql(f"CREATE VIEW {full(name)}_seen AS SELECT id FROM {full(name)}")
    try:
        assert ids(who.sql(f"FROM {full(name)}_seen")) == ALL
        who.sql(f"ALTER VIEW {full(name)}_seen RENAME TO {name}_viewed")
        who.sql(f"ALTER VIEW {full(name)}_viewed RENAME TO {name}_seen")
    finally:
        who.sql(f"DROP VIEW {full(name)}_seen")


def create_schema(who: Caller, name: str) -> None:
    schema = f"{catalog_of(name)}.fresh"
    who.sql(f"CREATE SCHEMA {schema}")
    who.sql(f"DROP SCHEMA {schema}")


def name_a_snapshot(who: Caller, name: str) -> None:
    for kind in ("tag", "branch"):
        who.call(f"table.create_{kind}", **named(name), name=f"a {kind}")
        who.call(f"table.drop_{kind}", **named(name), name=f"a {kind}")


def roll_back(who: Caller, name: str) -> None:
    who.call("table.rollback", **named(name), ref="main")


def keep_in_shape(who: Caller, name: str) -> None:
    for action in ("compact", "expire_snapshots", "remove_orphans"):
        options = {"keep_last": 100} if action == "expire_snapshots" else {}
        who.call(f"table.{action}", **named(name), **options)


def purge(who: Caller, name: str) -> None:
    try:
        who.call("table.purge", **named(name))
    except pa.ArrowException as error:
        if "TABLE_ALREADY_EXISTS" not in str(error):
            raise


def say_what_it_is(who: Caller, name: str) -> None:
    who.call("catalog.update", **named(name), description="", add_tags=["x"])
    who.call("catalog.update", **named(name), remove_tags=["x"])


def drop_dataset(who: Caller, name: str) -> None:
    try:
        comment(who, name)
    except pa.ArrowException:
        who.call("catalog.drop", **named(name))
        return
    gone = f"{name}_gone"
    who.sql(f"CREATE TABLE {full(name)}_gone AS FROM {full(name)}")
    assert who.call("catalog.drop", **{**named(name), "table": gone})["dropped"]
    assert not who.call("catalog.drop", **{**named(name), "table": gone}, if_exists=True)["dropped"]


def compare_with_storage(who: Caller, name: str) -> None:
    who.call("catalog.resync", **named(name))
    assert who.call("catalog.verify", **named(name))["healthy"]


# Changes of a table as a whole, which need it to be both read and written in full.
CHANGE = {
    declare: {"catalog.declare_keys", "do_action"},
    **dict.fromkeys(
        (
            drop_in_transaction,
            delete,
            prepared_delete,
            update,
            merge,
            truncate,
            create_or_replace,
            alter,
            comment,
            rename,
            create_view,
            create_schema,
        ),
        frozenset(),
    ),
    name_a_snapshot: {
        "table.create_tag",
        "table.drop_tag",
        "table.create_branch",
        "table.drop_branch",
    },
    say_what_it_is: {"catalog.update"},
    drop_dataset: {"catalog.drop"},
    roll_back: {"table.rollback"},
    keep_in_shape: {"table.compact", "table.expire_snapshots", "table.remove_orphans"},
    purge: {"table.purge"},
    compare_with_storage: {"catalog.resync", "catalog.verify"},
}

# What reaches no object. Whether an action may be run at all is tested below for every action.
NO_OBJECT = {
    commands.StatementSubstraitPlan, commands.CreatePreparedSubstraitPlan, commands.GetSqlInfo,
    commands.GetXdbcTypeInfo, commands.GetTableTypes, commands.BeginSavepoint,
    commands.EndSavepoint, commands.CancelQuery, commands.CancelFlightInfo, commands.RenewFlightEndpoint,
    commands.SetSessionOptions, commands.GetSessionOptions, commands.CloseSession,
    "list_actions",
    "server.status", "actions.describe", "actions.check",
    "samples.load", "catalog.register", "catalog.resync_missing",
    "journal.flush", "journal.compact", "journal.recover",
    # What they read are objects; who may do so, and write the table, is in test_ingest_wire.py.
    "ingest.file", "ingest.preview",
    # What they read is a database; see test_ingest_postgres_wire.py.
    "ingest.postgres", "ingest.postgres_all", "ingest.postgres_preview",
    # What it reads is one or the other; see test_ingest_sync_wire.py.
    "ingest.sync",
    # They need a column of vectors; see test_vectors_wire.py and test_vector_exchange.py.
    "do_exchange",
    "vectors.embed", "vectors.build", "vectors.search", "vectors.list", "vectors.rollback", "vectors.drop",
    # So do they; see test_embeddings_wire.py.
    "vectors.runs.embed", "vectors.runs.build", "vectors.runs.status", "vectors.runs.list",
    "vectors.runs.cancel",
    # They need an index of vectors; see test_hnsw_wire.py.
    "hnsw.evals.autogen", "hnsw.evals.list", "hnsw.trial", "hnsw.trials", "hnsw.best", "hnsw.promote",
    "hnsw.cache.stats", "vectors.runs.trial",
}  # fmt: skip
# Objects of buckets have a matrix of their own: test_objects_wire.py.
NO_OBJECT_FAMILIES = ("profiles.", "ai.", "auth.", "admin.", "audit.", "cache.", "storage.", "objects.")


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Caller]]:
    server = start_guarded(tmp_path_factory.mktemp("matrix"), CONFIG, list(ROLES))
    found = {role: Caller(server, role) for role in ROLES}
    admin = found["admin"]
    admin.sql("CREATE SCHEMA hr")
    admin.sql("CREATE SCHEMA other.hr")
    for name in OBJECTS:
        options = {"if_not_exist": 1, "if_exists": 1}
        assert admin.write(ingesting(name, options), ROWS) == ROWS.num_rows
        declare(admin, name)
        admin.call("table.create_tag", **named(name), name="first")
        ingest(admin, name, exists=3)
        admin.call("table.create_tag", **named(name), name="nothing")
        admin.call("table.rollback", **named(name), ref="first")
    yield found
    for caller in found.values():
        caller.close()
    assert server.stop() == 0, "".join(server.log[-50:])


def names(paths: dict[Callable[..., Any], set[Any]]) -> list[Any]:
    return [pytest.param(path, id=path.__name__) for path in paths]


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("path", names(READ))
@pytest.mark.parametrize("role", ROLES)
def test_reading(
    callers: dict[str, Caller], role: str, path: Callable[[Caller, str], set[int]], name: str
) -> None:
    who, (expected, _) = callers[role], ROLES[role][name]
    if expected is not None:
        assert path(who, name) == expected
        return
    with pytest.raises(pa.ArrowException) as denied:
        path(who, name)
    with pytest.raises(pa.ArrowException) as missing:
        path(who, missing_beside(name))
    assert type(denied.value) is type(missing.value)
    assert sentence(denied.value).replace(name, missing_beside(name)) == sentence(missing.value)


@pytest.mark.parametrize("path", names(READ))
@pytest.mark.parametrize("role", ["outsider", "nobody"])
def test_a_catalog_without_grants_is_as_one_that_is_not_there(
    callers: dict[str, Caller], role: str, path: Callable[[Caller, str], set[int]]
) -> None:
    with pytest.raises(pa.ArrowException) as denied:
        path(callers[role], "away")
    with pytest.raises(pa.ArrowException) as missing:
        path(callers[role], "void")
    assert "[CATALOG_NOT_FOUND]" in str(missing.value)
    assert str(denied.value).replace("other", "nowhere").replace("away", "void") == str(missing.value)


def sentence(error: Exception) -> str:
    """What an error says, without the suggestion that follows, which can only name what can be seen."""
    text, _, hint = str(error).partition(". Detail")[0].partition("[")[2].partition(" (")
    assert "people" not in hint
    assert "away" not in hint
    return text


@pytest.mark.parametrize("path", names(LIST))
@pytest.mark.parametrize("role", ROLES)
def test_listing(callers: dict[str, Caller], role: str, path: Callable[[Caller], set[str]]) -> None:
    assert path(callers[role]) == {name for name, (seen, _) in ROLES[role].items() if seen is not None}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("path", names(WRITE))
@pytest.mark.parametrize("role", ROLES)
def test_writing(
    callers: dict[str, Caller], role: str, path: Callable[[Caller, str], None], name: str
) -> None:
    who, (seen, may_write) = callers[role], ROLES[role][name]
    if may_write:
        path(who, name)
        return
    with pytest.raises(pa.ArrowException) as denied:
        path(who, name)
    with pytest.raises(pa.ArrowException) as missing:
        path(who, missing_beside(name))
    if seen is None and not may_write:
        assert sentence(denied.value).replace(name, missing_beside(name)) == sentence(missing.value)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("path", names(CHANGE))
@pytest.mark.parametrize("role", ROLES)
def test_changing(
    callers: dict[str, Caller], role: str, path: Callable[[Caller, str], None], name: str
) -> None:
    who, (seen, may_write) = callers[role], ROLES[role][name]
    if role in ("writer", "admin"):
        path(who, name)
        return
    with pytest.raises(pa.ArrowException, match=r"\[(PERMISSION_DENIED|(TABLE|SCHEMA|CATALOG)_NOT_FOUND)\]"):
        path(who, name)
    assert not (seen == ALL and may_write)


@pytest.mark.parametrize("role", ROLES)
def test_actions_run_for_those_who_may(callers: dict[str, Caller], role: str) -> None:
    allowed = {"admin": 4, "writer": 3, "reader": 2}.get(role, 1)
    for spec in all_actions():
        needed = {"read": 1, "ai": 2, "write": 3, "admin": 4}[spec.permission.value]
        # A body that fits no request: whoever may run the action is told so, and nothing runs.
        with pytest.raises(pa.ArrowException) as refused:
            callers[role].act(spec.name, b'{"no such field": 1}')
        expected = "[INVALID_REQUEST]" if needed <= allowed else "[PERMISSION_DENIED]"
        assert expected in str(refused.value), spec.name


@pytest.mark.parametrize("role", ROLES)
def test_the_size_of_a_part_is_not_told(callers: dict[str, Caller], role: str) -> None:
    who, (expected, _) = callers[role], ROLES[role]["people"]
    if expected is not None:
        path = flight.FlightDescriptor.for_path("hr", "people")
        infos = [
            who.client.get_flight_info(path, who.options),
            *who.client.list_flights(b"hr.people", who.options),
        ]
        assert {info.total_records for info in infos} == ({4} if expected == ALL else {-1})


def test_nobody_gets_in_without_credentials(callers: dict[str, Caller]) -> None:
    client = callers["admin"].client
    strangers = (None, presenting("wrong"))
    for options in strangers:
        calls: tuple[Callable[[], Any], ...] = (
            lambda o=options: client.get_flight_info(command("CommandGetCatalogs"), o),
            lambda o=options: client.get_schema(command("CommandGetCatalogs"), o),
            lambda o=options: client.do_get(flight.Ticket(wrapped("CommandGetCatalogs")), o).read_all(),
            lambda o=options: list(client.do_action("server.status", o)),
            lambda o=options: list(client.list_actions(o)),
            lambda o=options: list(client.list_flights(b"", o)),
            lambda o=options: put(client, command("CommandStatementUpdate", query="x"), pa.table({}), o),
        )
        for attempt in calls:
            # GetSchema cannot send that status.
            with pytest.raises((flight.FlightUnauthenticatedError, OSError), match=r"\[UNAUTHENTICATED\]"):
                attempt()


def test_every_command_action_and_rpc_is_in_the_matrix() -> None:
    covered: set[Any] = set(NO_OBJECT)
    for paths in (READ, LIST, WRITE, CHANGE):
        covered = covered.union(*paths.values())
    types = {kind for kind in vars(commands).values() if is_dataclass(kind)}
    assert types <= covered
    actions = {spec.name for spec in all_actions() if not spec.name.startswith(NO_OBJECT_FAMILIES)}
    assert actions <= covered
    assert not {name for name, _ in PROTOCOL_ACTIONS} & actions
    rpcs = {"list_flights", "get_flight_info", "get_schema", "do_get"}
    rpcs |= {"do_put", "do_exchange", "do_action", "list_actions"}
    assert rpcs <= covered
