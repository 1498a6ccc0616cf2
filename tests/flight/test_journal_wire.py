"""The event journal over the wire: what changed, one record's life, and workspaces."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import start_server
from wire import bare_action, query

from flight_server.protocol.messages import flight_class


def call(client, name, /, options=None, **request):
    results = list(client.do_action(flight.Action(name, json.dumps(request).encode()), options))
    return json.loads(results[-1].body.to_pybytes())


CONFIG = """
[auth]
anonymous_role = "admin"
[maintenance]
grace_seconds = 0
[journal]
flush_seconds = 3600
"""


@pytest.fixture(scope="module")
def journal_server(tmp_path_factory):
    server = start_server(tmp_path_factory.mktemp("journal"), CONFIG)
    yield server
    assert server.stop() == 0, "".join(server.log[-50:])


@pytest.fixture
def client(journal_server):
    with journal_server.client() as opened:
        yield opened


def moment():
    time.sleep(0.01)
    now = datetime.now(UTC)
    time.sleep(0.01)
    return now


def test_one_records_life_and_what_it_looked_like(client):
    query(client, "CREATE TABLE lives (id INTEGER PRIMARY KEY, name TEXT, born DATE)")
    before = moment()
    query(client, "INSERT INTO lives VALUES (1, 'ann', '2001-02-03'), (2, 'bob', NULL)")
    first = moment()
    query(client, "UPDATE lives SET name = 'anna' WHERE id = 1")
    second = moment()
    query(client, "DELETE FROM lives WHERE id = 1")
    told = call(client, "journal.history", table="lives", key={"ID": "1"})
    assert (told["table"], told["key"], told["at"]) == ("lake.main.lives", {"id": 1}, None)
    assert [(e["action"], e["field"], e["old"], e["new"]) for e in told["events"]] == [
        ("update", "name", "ann", "anna"),
        ("delete", None, {"id": 1, "name": "anna", "born": "2001-02-03"}, None),
    ]
    assert all(e["source"] == "sql" and e["request_id"] and e["statement_id"] for e in told["events"])

    def looked(at, **key):
        return call(client, "journal.history", table="lives", key=key or {"id": 1}, at=at.isoformat())["at"]

    ann = {"id": 1, "name": "ann", "born": "2001-02-03"}
    assert looked(first) == {"row": ann, "basis": "snapshot", "is_sure": True, "detail": None}
    assert looked(second)["row"] == {**ann, "name": "anna"}
    assert looked(moment())["row"] is None
    assert looked(first, id=2)["row"] == {"id": 2, "name": "bob", "born": None}

    call(client, "table.expire_snapshots", table="lives", keep_last=1, older_than=moment().isoformat())
    assert looked(second) == {
        "row": {**ann, "name": "anna"}, "basis": "events", "is_sure": True, "detail": None,
    }  # fmt: skip
    assert looked(first)["row"] == ann
    assert looked(first, id=2) == {
        "row": {"id": 2, "name": "bob", "born": None}, "basis": "events", "is_sure": True, "detail": None,
    }  # fmt: skip
    # Rows that INSERT brings leave no events of their own, so nobody can tell.
    assert (looked(before)["basis"], looked(before)["is_sure"]) == ("events", False)
    assert "rows were added since" in looked(before)["detail"]
    query(client, "UPDATE lives SET born = '1999-01-01' WHERE id = 2")
    call(client, "table.expire_snapshots", table="lives", keep_last=1, older_than=moment().isoformat())
    assert looked(second, id=2) == {
        "row": {"id": 2, "name": "bob", "born": None}, "basis": "events", "is_sure": True, "detail": None,
    }  # fmt: skip
    query(client, "DROP TABLE lives")
    told = call(client, "journal.history", table="lives", key={"id": 1}, at=first.isoformat())
    assert [e["action"] for e in told["events"]] == ["update", "delete"]
    assert told["at"]["row"] == ann


def test_what_names_no_record_is_refused(client):
    query(client, "CREATE TABLE keyless AS SELECT 1 AS n")
    query(client, "CREATE TABLE keyed (a INTEGER, b INTEGER, PRIMARY KEY (a, b))")
    for table, key, message in (
        ("keyless", {"n": 1}, "INVALID_REQUEST.*no primary key"),
        ("keyed", {"a": 1}, "INVALID_REQUEST.*has the columns a, b, found a"),
        ("keyed", {"a": "x", "b": 1}, "SQL_EXECUTION|VALUE|Could not convert"),
        ("nowhere", {"a": 1}, "TABLE_NOT_FOUND"),
    ):
        with pytest.raises((pa.ArrowException, KeyError), match=message):
            call(client, "journal.history", table=table, key=key)


def test_events_are_to_be_had_from_memory_and_from_storage(client):
    query(client, "CREATE TABLE told AS SELECT 1 AS n")
    query(client, "COMMENT ON TABLE told IS 'words'")
    for stored in (False, True):
        found = call(client, "journal.events", entity="lake.main.told", stored=stored)["events"]
        assert [(e["action"], e["field"], e["new"] if e["field"] else None) for e in found] == [
            ("alter", "description", "words"), ("commit", None, None), ("create", None, None),
        ]  # fmt: skip
        found = call(client, "journal.events", entity="lake.main.told", action="commit", stored=stored)
        assert len(found["events"]) == 1
        nothing = call(client, "journal.events", since="2999-01-01T00:00:00", stored=stored)
        assert nothing == {"events": []}
    assert call(client, "journal.flush")["flushed"] >= 3
    rows = query(
        client,
        "SELECT action, new FROM system.events WHERE entity = 'lake.main.told' AND time > '2020-01-01'",
    )
    assert rows.column(0).to_pylist() == ["create", "commit", "alter"]
    assert call(client, "journal.compact")["merged"] >= 0
    recovered = call(client, "journal.recover", hours=1)
    assert recovered["recovered"] == 0
    assert recovered["commits"] >= 1


def test_a_workspace_of_a_session_is_kept_with_each_change(client):
    request = flight_class("SetSessionOptionsRequest")()
    request.session_options["workspace"].string_value = "quarter-end"
    bare_action(client, "SetSessionOptions", request)
    query(client, "CREATE TABLE spaced AS SELECT 1 AS n")
    query(client, "SET workspace = 'later'")
    query(client, "INSERT INTO spaced VALUES (2)")
    query(client, "RESET workspace")
    query(client, "INSERT INTO spaced VALUES (3)")
    found = call(client, "journal.events", entity="lake.main.spaced")["events"]
    assert [event["workspace"] for event in found] == [None, "later", "quarter-end", "quarter-end"]
    summaries = query(
        client, "SELECT summary['lakehouse.workspace'] AS w FROM system.snapshots WHERE table_name = 'spaced'"
    )
    assert sorted(filter(None, summaries.column(0).to_pylist())) == ["later", "quarter-end"]


def test_actions_say_that_they_were_the_source(client):
    query(client, "CREATE TABLE sourced (n INTEGER NOT NULL, m INTEGER)")
    call(client, "catalog.declare_keys", table="sourced", primary_key=["n"])
    (event, *_) = call(client, "journal.events", entity="lake.main.sourced")["events"]
    assert (event["source"], event["field"], event["new"]) == (
        "action:catalog.declare_keys", "primary_key", ["n"],
    )  # fmt: skip
