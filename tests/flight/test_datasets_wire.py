"""What is known of datasets, over the wire: actions, system tables and the metadata of Flight SQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from conftest import Server, start_server
from wire import command

QUICK = """
[datasets]
refresh_seconds = 0.05
index_refresh_ms = 0
"""


class Client:
    """A plain Flight client of a server."""

    def __init__(self, server: Server) -> None:
        self.flight = server.client()

    def call(self, name: str, /, **request: Any) -> dict[str, Any]:
        results = list(self.flight.do_action(flight.Action(name, json.dumps(request).encode())))
        found: dict[str, Any] = json.loads(results[-1].body.to_pybytes())
        return found

    def sql(self, query: str) -> list[dict[str, Any]]:
        return self.get(command("CommandStatementQuery", query=query)).to_pylist()

    def get(self, descriptor: flight.FlightDescriptor) -> pa.Table:
        info = self.flight.get_flight_info(descriptor)
        return pa.concat_tables([self.flight.do_get(e.ticket).read_all() for e in info.endpoints])

    def described(self, table: str, rows: int | None = None, **more: Any) -> dict[str, Any]:
        """The description of a table, once the background has seen so many rows."""
        for _ in range(1200):
            found = self.call("catalog.describe", table=table, **more)
            if rows is None or (found["rows"] == rows and found["version"]):
                (row,) = self.sql(
                    f"SELECT snapshot_id FROM system.datasets WHERE table_name = '{found['table']}'"
                )
                if row["snapshot_id"] == found["snapshot_id"]:
                    return found
            time.sleep(0.05)
        raise AssertionError(f"no description of {table} with {rows} rows")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = start_server(tmp_path_factory.mktemp("datasets"), QUICK)
    yield started
    assert started.stop() == 0, "".join(started.log[-50:])


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    found = Client(server)
    found.sql("CREATE TABLE customers (id BIGINT NOT NULL, mail VARCHAR, Straße VARCHAR)")
    found.sql(
        "INSERT INTO customers "
        "SELECT range, 'user' || range || '@example.org', 'Weg ' || range FROM range(200)"
    )
    found.sql("COMMENT ON TABLE customers IS 'Who buys „things“ 🦆'")
    found.sql("COMMENT ON COLUMN customers.id IS 'number of the customer'")
    found.call("catalog.declare_keys", table="customers", primary_key=["id"])
    found.sql("CREATE TABLE mails AS SELECT mail FROM customers")
    found.sql("CREATE TABLE domains AS SELECT split_part(mail, '@', 2) AS domain FROM mails")
    found.described("customers", 200)
    found.described("mails", 200)
    return found


def wait_for(client: Client, table: str, kind: str) -> dict[str, Any]:
    for _ in range(1200):
        found = client.call("catalog.describe", table=table)
        if kind in found["sensitivity"]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {kind} in {table}: {found}")


def test_a_description_tells_all_that_is_known(client: Client) -> None:
    found = wait_for(client, "CUSTOMERS", "email")
    assert (found["table"], found["kind"], found["rows"]) == ("customers", "table", 200)
    assert found["description"] == "Who buys „things“ 🦆"
    assert found["primary_key"] == ["id"]
    assert (found["owner"], found["created_by"]) == ("anonymous", "anonymous")
    assert found["freshness"] == "unknown"
    assert found["fingerprint"].startswith("1:")
    number, mail, street = found["columns"]
    assert (number["nullable"], number["minimum"], number["maximum"], number["nulls"]) == (
        False,
        "0",
        "199",
        0,
    )
    assert number["description"] == "number of the customer"
    assert street["name"] == "Straße"
    (held,) = mail["sensitivity"]
    assert (held["kind"], held["declared"], mail["minimum"]) == ("email", False, None)
    assert "example" not in json.dumps(mail)
    (source,) = found["lineage"]
    assert (source["system"], source["ingest"], source["by"]) == ("sql", "INSERT", "anonymous")


def test_counts_are_those_of_the_current_snapshot(client: Client) -> None:
    client.sql("CREATE TABLE counted AS SELECT 1 AS n")
    for rows in range(2, 6):
        client.sql("INSERT INTO counted VALUES (1)")
        found = client.call("catalog.describe", table="counted")
        assert (found["rows"], found["columns"][0]["values"]) == (rows, rows)
        (row,) = client.sql("SELECT row_count, file_count FROM system.datasets WHERE table_name = 'counted'")
        assert row == {"row_count": rows, "file_count": rows}


def test_unknown_names_are_answered_with_suggestions(client: Client) -> None:
    with pytest.raises(KeyError, match=r"\[TABLE_NOT_FOUND\].*did you mean customers\?"):
        client.call("catalog.describe", table="custmers")
    with pytest.raises(pa.ArrowInvalid, match=r"no column 'mial'.*did you mean 'mail'\?"):
        client.call("catalog.update", table="customers", columns=[{"name": "mial", "tags": ["x"]}])
    with pytest.raises(pa.ArrowInvalid, match="page is not one"):
        client.call("catalog.search", page="x")


def test_what_is_said_of_a_dataset_is_found_and_recorded(client: Client) -> None:
    client.sql("CREATE TABLE said AS SELECT 'a' AS a, 'b' AS Bé")
    found = client.call(
        "catalog.update",
        table="said",
        owner="Zoë",
        description="what is said",
        tags=["x", "gold ⭐"],
        freshness_seconds=3600,
        columns=[
            {"name": "a", "description": "the a", "declare": ["secret"], "decline": ["email"]},
            {"name": "Bé", "add_tags": ["pii"]},
        ],
    )
    assert (found["owner"], found["tags"], found["freshness"]) == ("Zoë", ["gold ⭐", "x"], "fresh")
    assert found["columns"][0]["sensitivity"][0]["kind"] == "secret"
    assert found["columns"][0]["declined"] == ["email"]
    assert (found["columns"][0]["description"], found["columns"][1]["tags"]) == ("the a", ["pii"])

    def names(**wanted: Any) -> list[str]:
        return [each["table"] for each in client.call("catalog.search", **wanted)["datasets"]]

    for wanted in (
        {"text": "WHAT IS SAID"}, {"text": "bé"}, {"text": "⭐"}, {"tag": "pii"}, {"owner": "Zoë"},
        {"column": "A", "owner": "Zoë"}, {"sensitivity": "secret"}, {"freshness": "fresh"},
        {"kind": "table", "tag": "x"}, {"catalog": "LAKE", "db_schema": "main", "text": "the a"},
    ):  # fmt: skip
        assert names(**wanted) == ["said"], wanted
    assert names(tag="X") == names(kind="parquet") == names(freshness="late") == []
    found = client.call("catalog.update", table="said", freshness_seconds=0, description="", owner="")
    assert (found["freshness"], found["description"], found["owner"]) == ("unknown", "", "")
    (comment,) = client.sql(
        "SELECT table_comment FROM information_schema.tables WHERE table_name = 'said'"
    ) or [{"table_comment": None}]
    assert not comment.get("table_comment")
    for _ in range(600):
        events = client.sql(
            "SELECT field, old, new, actor, source FROM system.events WHERE entity = 'lake.main.said' "
            "AND action IN ('update', 'alter') ORDER BY seq"
        )
        if len(events) >= 10:
            break
        time.sleep(0.1)
    # What is in words is recorded by the table, which keeps it; nothing is recorded twice.
    assert [event["field"] for event in events] == [
        "a", "description", "owner", "tags", "freshness_seconds", "a.sensitivity", "Bé.tags",
        "description", "owner", "freshness_seconds",
    ]  # fmt: skip
    told = {event["field"]: event for event in reversed(events)}
    assert [json.loads(told["tags"][part]) for part in ("old", "new")] == [[], ["gold ⭐", "x"]]
    assert {event["source"] for event in events} == {"action:catalog.update"}


def test_clients_that_update_at_once_lose_nothing(client: Client, server: Server) -> None:
    client.sql("CREATE TABLE busy AS SELECT 1 AS n")

    def add(number: int) -> None:
        Client(server).call("catalog.update", table="busy", add_tags=[f"tag {number}"])

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(add, number) for number in range(12)]
        done.append(threads.submit(lambda: client.call("catalog.update", table="busy", owner="me")))
        for each in done:
            each.result()
    found = client.call("catalog.describe", table="busy")
    assert (set(found["tags"]), found["owner"]) == ({f"tag {n}" for n in range(12)}, "me")


def test_a_search_goes_on_page_by_page(client: Client) -> None:
    client.sql("CREATE SCHEMA pages")
    for number in range(7):
        client.sql(f"CREATE TABLE pages.t{number} (n BIGINT)")
    found: list[str] = []
    page = ""
    while True:
        answer = client.call("catalog.search", db_schema="pages", limit=3, page=page)
        found += [each["table"] for each in answer["datasets"]]
        page = answer["next_page"]
        if not page:
            break
    assert found == [f"t{number}" for number in range(7)]
    client.sql("DROP SCHEMA pages CASCADE")
    assert client.call("catalog.search", db_schema="pages")["datasets"] == []


def test_lineage_goes_both_ways(client: Client) -> None:
    found = client.call("catalog.lineage", table="mails")
    assert [(each["name"], each["distance"]) for each in found["datasets"]] == [
        ("lake.main.customers", -1),
        ("lake.main.mails", 0),
        ("lake.main.domains", 1),
    ]
    ids = {each["name"].split(".")[-1]: each["dataset_id"] for each in found["datasets"]}
    assert {(s["from_id"], s["to_id"], s["ingest"]) for s in found["steps"]} == {
        (None, ids["customers"], "INSERT"),
        (ids["customers"], ids["mails"], "CREATE TABLE AS"),
        (ids["mails"], ids["domains"], "CREATE TABLE AS"),
    }
    far = client.call("catalog.lineage", table="domains", direction="upstream")
    assert [each["distance"] for each in far["datasets"]] == [-2, -1, 0]
    near = client.call("catalog.lineage", table="domains", direction="upstream", depth=1)
    assert [each["name"] for each in near["datasets"]] == ["lake.main.mails", "lake.main.domains"]
    rows = client.sql(
        "SELECT table_name, input_name FROM system.lineage WHERE table_name IN ('mails', 'domains') "
        "ORDER BY table_name"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("domains", "lake.main.mails"),
        ("mails", "lake.main.customers"),
    ]


def test_the_metadata_of_flight_sql_tells_what_tables_and_columns_are(client: Client) -> None:
    client.sql("CREATE TABLE shown AS SELECT 1 AS id, 'x' AS word")
    client.sql("COMMENT ON TABLE shown IS 'what is shown'")
    client.sql("COMMENT ON COLUMN shown.id IS 'a number'")
    columns = [{"name": "word", "declare": ["secret"]}, {"name": "id", "tags": ["key"]}]
    client.call("catalog.update", table="shown", tags=["x"], columns=columns)
    (row,) = client.get(
        command("CommandGetTables", table_name_filter_pattern="shown", include_schema=True)
    ).to_pylist()
    schema = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
    key = b"ARROW:FLIGHT:SQL:REMARKS"
    assert schema.metadata[key].decode() == ("what is shown [owner: anonymous; tags: x; sensitivity: secret]")
    assert schema.field("id").metadata[key] == b"a number [tags: key]"
    assert schema.field("word").metadata[key] == b"[sensitivity: secret]"
    info = client.flight.get_flight_info(flight.FlightDescriptor.for_path("main", "shown"))
    facts = json.loads(info.app_metadata)
    found = client.call("catalog.describe", table="shown")
    assert (facts["dataset"], facts["fingerprint"]) == (found["dataset_id"], found["fingerprint"])


def test_a_dropped_dataset_is_gone_everywhere(client: Client) -> None:
    client.sql("CREATE TABLE gone AS SELECT 1 AS n")
    dropped = client.call("catalog.drop", table="gone")
    assert (dropped["dropped"], dropped["kind"]) == (True, "table")
    assert client.sql("SELECT * FROM system.datasets WHERE table_name = 'gone'") == []
    with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
        client.call("catalog.drop", table="gone")
    assert client.call("catalog.drop", table="gone", if_exists=True)["dropped"] is False
    assert client.call("catalog.search", text="gone")["datasets"] == []


def test_two_servers_and_one_that_is_killed_know_the_same(tmp_path: Path) -> None:
    first = start_server(tmp_path, QUICK)
    one = Client(first)
    one.sql("CREATE TABLE t AS SELECT range AS n FROM range(10)")
    second = start_server(tmp_path, QUICK)
    two = Client(second)
    two.call("catalog.update", table="t", owner="two", add_tags=["b"])
    one.call("catalog.update", table="t", add_tags=["a"])
    assert two.call("catalog.describe", table="t")["tags"] == ["a", "b"]
    one.sql("INSERT INTO t VALUES (10)")
    first.kill()
    assert two.call("catalog.describe", table="t")["rows"] == 11
    third = start_server(tmp_path, QUICK)
    found = Client(third).described("t", 11)
    assert (found["owner"], found["tags"]) == ("two", ["a", "b"])
    assert second.stop() == 0
    assert third.stop() == 0


def test_registered_objects_are_datasets_like_tables(tmp_path: Path) -> None:
    place = tmp_path / "data" / "in"
    place.mkdir(parents=True)
    mails = pa.table({"mail": [f"user{n}@example.org" for n in range(50)], "n": list(range(50))})
    pq.write_table(mails, place / "1.parquet")
    buckets = "".join(f'[[buckets]]\nname = "{n}"\npath = "{tmp_path}/{n}"\n' for n in ("primary", "data"))
    server = start_server(tmp_path, buckets + QUICK + '[auth]\nanonymous_role = "admin"\n')
    client = Client(server)
    client.call("catalog.register", name="raw.people", bucket="data", prefix="in", owner="ann")
    name = {"catalog": "registered", "db_schema": "raw", "table": "people"}
    found = client.call(
        "catalog.update",
        **name,
        description="people of others",
        add_tags=["raw"],
        columns=[{"name": "n", "description": "a number", "declare": ["secret"]}],
    )
    assert (found["kind"], found["rows"], found["owner"], found["tags"]) == ("parquet", 50, "ann", ["raw"])
    assert (found["description"], found["columns"][1]["description"]) == ("people of others", "a number")
    assert [each["key"] for each in found["objects"]] == ["in/1.parquet"]
    assert found["sensitivity"] == ["email", "secret"]
    client.sql("CREATE TABLE mails AS SELECT mail FROM registered.raw.people")
    steps = client.call("catalog.lineage", table="mails", direction="upstream")
    assert [each["name"] for each in steps["datasets"]] == ["registered.raw.people", "lake.main.mails"]
    for wanted in ({"kind": "parquet"}, {"text": "of others"}, {"sensitivity": "secret"}):
        (hit,) = client.call("catalog.search", **wanted)["datasets"]
        assert (hit["catalog"], hit["table"], hit["rows"]) == ("registered", "people", 50)
    (row,) = client.sql("SELECT kind, row_count, owner FROM system.datasets WHERE table_name = 'people'")
    assert row == {"kind": "parquet", "row_count": 50, "owner": "ann"}
    (info,) = client.flight.list_flights(b"registered.raw.*")
    assert json.loads(info.app_metadata)["dataset"] == found["dataset_id"]
    assert client.call("catalog.drop", **name)["kind"] == "parquet"
    with pytest.raises(KeyError, match="NOT_FOUND"):
        client.call("catalog.describe", **name)
    assert client.call("catalog.search", kind="parquet")["datasets"] == []
    assert server.stop() == 0
    assert pq.read_table(place / "1.parquet").equals(mails)
