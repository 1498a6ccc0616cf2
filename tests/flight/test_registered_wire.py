"""Registered Parquet over the wire: registering, reading in every way there is, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from callers import Caller, start_guarded
from wire import command

CONFIG = """
[[buckets]]
name = "primary"
path = "{directory}/primary"
[[buckets]]
name = "data"
path = "{directory}/data"
[[roles]]
name = "registrar"
grants = [{{ on = "registered.raw.*", privileges = ["read", "write"] }}, {{ on = "lake.*.*" }}]
actions = ["catalog.*"]
[[roles]]
name = "european"
grants = [{{ on = "registered.raw.*", row_filter = "region = 'eu'" }}]
[[roles]]
name = "stranger"
grants = [{{ on = "lake.*.*" }}]
"""
ROLES = ("admin", "registrar", "european", "stranger", "reader")
ROWS = pa.table({"id": [1, 2, 3], "region": ["eu", "us", "eu"]})


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Caller]]:
    directory = tmp_path_factory.mktemp("registered")
    server = start_guarded(directory, CONFIG.format(directory=directory), ROLES)
    found = {role: Caller(server, role) for role in ROLES}
    place = directory / "data" / "in" / "day=2026-01-02"
    place.mkdir(parents=True)
    pq.write_table(ROWS, place / "1.parquet")
    (directory / "data" / "in" / "readme.md").write_text("no rows")
    yield found
    for caller in found.values():
        caller.close()
    assert server.stop() == 0, "".join(server.log[-50:])
    assert pq.read_table(place / "1.parquet", partitioning=None).equals(ROWS)
    assert sorted(p.name for p in Path(directory / "data").rglob("*")) == [
        "1.parquet", "day=2026-01-02", "in", "readme.md",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def registered(callers: dict[str, Caller]) -> dict[str, Any]:
    request = {"name": "raw.people", "bucket": "data", "prefix": "in", "description": "who came"}
    with pytest.raises(pa.ArrowException, match=r"\[PERMISSION_DENIED\]"):
        callers["reader"].call("catalog.register", **request)
    with pytest.raises(pa.ArrowException, match=r"\[PERMISSION_DENIED\]|\[SCHEMA_NOT_FOUND\]"):
        callers["registrar"].call("catalog.register", **request | {"name": "other.people"})
    *progress, made = callers["registrar"].results("catalog.register", **request)
    assert [each["progress"] for each in progress] == [1.0]
    return made


def test_what_was_registered_is_told_and_read_in_every_way(
    callers: dict[str, Caller], registered: dict[str, Any]
) -> None:
    assert registered["table"] == '"registered"."raw"."people"'
    assert (registered["rows"], registered["objects"]) == (3, 1)
    assert registered["ignored"] == ["in/readme.md"]
    assert [(c["name"], c["type"], c["in_path"]) for c in registered["columns"]] == [
        ("id", "BIGINT", False),
        ("region", "VARCHAR", False),
        ("day", "DATE", True),
    ]
    who = callers["admin"]
    assert who.ids("SELECT id FROM registered.raw.people ORDER BY id") == [1, 2, 3]
    path = flight.FlightDescriptor.for_path("registered", "raw", "people")
    assert sorted(who.read(path).column("id").to_pylist()) == [1, 2, 3]
    listed = who.client.list_flights(b"registered.*", who.options)
    assert [info.descriptor.path[-1] for info in listed] == [b"people"]
    tables = who.read(command("CommandGetTables", catalog="registered", include_schema=True)).to_pylist()
    assert [(t["db_schema_name"], t["table_name"], t["table_type"]) for t in tables] == [
        ("raw", "people", "TABLE")
    ]
    schema = pa.ipc.read_schema(pa.py_buffer(tables[0]["table_schema"]))
    assert schema.names == ["id", "region", "day"]
    named = {"catalog": "registered", "db_schema": "raw", "table": "people"}
    (snapshot,) = who.call("catalog.snapshots", **named)["snapshots"]
    travelled = who.sql(
        f"SELECT count(*) AS n FROM registered.raw.people AT (VERSION => {snapshot['snapshot_id']})"
    )
    assert travelled["n"].to_pylist() == [3]
    (file,) = who.sql("SELECT * FROM system.files WHERE table_name = 'people'").to_pylist()
    assert (file["record_count"], file["file_path"]) == (3, "in/day=2026-01-02/1.parquet")


def test_who_may_not_read_it_sees_none_of_it(callers: dict[str, Caller], registered: dict[str, Any]) -> None:
    stranger, european = callers["stranger"], callers["european"]
    assert european.ids("SELECT id FROM registered.raw.people ORDER BY id") == [1, 3]
    with pytest.raises(pa.ArrowException) as denied:
        stranger.sql("FROM registered.raw.people")
    with pytest.raises(pa.ArrowException) as missing:
        stranger.sql("FROM registerex.raw.people")
    assert str(denied.value) == str(missing.value).replace("registerex", "registered")
    catalogs = stranger.read(command("CommandGetCatalogs")).column(0).to_pylist()
    assert "registered" not in catalogs
    assert "registered" in european.read(command("CommandGetCatalogs")).column(0).to_pylist()


def test_manifests_are_compared_and_made_anew_by_those_who_may(
    callers: dict[str, Caller], registered: dict[str, Any]
) -> None:
    named = {"catalog": "registered", "db_schema": "raw", "table": "people"}
    for role in ("registrar", "admin"):
        assert callers[role].call("catalog.verify", **named)["healthy"]
        done = callers[role].call("catalog.resync", **named)
        assert (done["changed"], done["rows"], done["footers"]) == (False, 3, 1)
    everything = callers["admin"].call("catalog.verify", deep=True)
    assert (everything["healthy"], everything["datasets"]) == (True, 1)
    assert callers["admin"].call("catalog.resync_missing") == {"resynced": [], "failed": [], "count": 0}
    for role in ("european", "stranger", "reader"):
        for action in ("catalog.resync", "catalog.verify"):
            with pytest.raises(pa.ArrowException, match=r"\[PERMISSION_DENIED\]"):
                callers[role].call(action, **named)
    with pytest.raises(pa.ArrowException, match=r"expected table as well"):
        callers["admin"].call("catalog.verify", catalog="registered")


def test_it_is_described_updated_and_dropped_while_the_objects_stay(callers: dict[str, Caller]) -> None:
    who, named = callers["admin"], {"catalog": "registered", "db_schema": "raw", "table": "again"}
    for _ in range(2):
        who.call("catalog.register", name="raw.again", bucket="data", prefix="in", owner="ann")
        told = who.call("catalog.update", **named, description="once more", add_tags=["x"])
        assert (told["kind"], told["rows"], told["owner"], told["tags"]) == ("parquet", 3, "ann", ["x"])
        told = callers["european"].call("catalog.describe", **named)
        assert (told["description"], told["rows"]) == ("once more", None)
        assert who.call("catalog.resync", **named)["changed"] is False
        found = who.sql("SELECT table_name, owner FROM system.datasets WHERE table_name = 'again'")
        assert found.to_pylist() == [{"table_name": "again", "owner": "ann"}]
        who.call("catalog.drop", **named)
        with pytest.raises(pa.ArrowException, match=r"does not exist"):
            who.sql("FROM registered.raw.again")
        assert who.call("catalog.resync_missing")["count"] == 0


def test_nothing_can_be_written_into_it(callers: dict[str, Caller], registered: dict[str, Any]) -> None:
    who = callers["admin"]
    options = {"if_not_exist": 1, "if_exists": 2}
    for table in ("people", "fresh"):
        ingest = command(
            "CommandStatementIngest",
            table_definition_options=options,
            catalog="registered",
            schema="raw",
            table=table,
        )
        with pytest.raises(pa.ArrowException, match="NOT_SUPPORTED"):
            who.write(ingest, ROWS)
        with pytest.raises(pa.ArrowException):
            who.write(flight.FlightDescriptor.for_path("registered", "raw", table), ROWS)
    named = {"catalog": "registered", "db_schema": "raw", "table": "people"}
    for action, more in [
        ("table.compact", {"min_files": 1}),
        ("table.expire_snapshots", {}),
        ("table.remove_orphans", {}),
        ("table.purge", {}),
        ("table.create_tag", {"name": "t"}),
        ("table.rollback", {"ref": "main"}),
        ("catalog.declare_keys", {"primary_key": ["id"]}),
    ]:
        with pytest.raises(pa.ArrowException, match=r"\[(NOT_SUPPORTED|CATALOG_NOT_FOUND)\]"):
            who.call(action, **named, **more)
    assert len(who.sql("FROM registered.raw.people")) == 3
