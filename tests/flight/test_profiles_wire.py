"""Vector indexes as datasets; profiles: which index a reader gets, and how readers move to other models."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import Server, start_server
from wire import query

CONFIG = """
[vectors]
refresh_ms = 0
[datasets]
refresh_seconds = 0.1
index_refresh_ms = 0
[[roles]]
name = "even"
grants = [{ on = "lake.docs.notes", row_filter = "id % 2 = 0" }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.other.*" }]
"""
ROLES = ("admin", "writer", "reader", "even", "outsider")
REFUSED = (flight.FlightError, pa.ArrowException)
VECTORS = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]]


def _token(role: str) -> str:
    return f"{role}-" + "0123456789abcdef" * 3


class Caller:
    """A principal with a connection, and so a session, of its own."""

    def __init__(self, server: Server, role: str) -> None:
        self.client = server.client()
        self.options = flight.FlightCallOptions(
            headers=[(b"authorization", f"Bearer {_token(role)}".encode())]
        )

    def results(self, name: str, **request: Any) -> list[dict[str, Any]]:
        action = flight.Action(name, json.dumps(request).encode())
        return [json.loads(r.body.to_pybytes()) for r in self.client.do_action(action, self.options)]

    def call(self, name: str, **request: Any) -> dict[str, Any]:
        return self.results(name, **request)[-1]

    def sql(self, text: str) -> pa.Table:
        return query(self.client, text, self.options)

    def search(self, index: str, **request: Any) -> pa.Table:
        told = self.call("vectors.search", index=index, **request)
        ticket = flight.Ticket(base64.b64decode(told["ticket"]))
        return self.client.do_get(ticket, self.options).read_all()


def _start(directory: Path) -> Server:
    lines = [CONFIG]
    for role in ROLES:
        lines += ["[[auth.tokens]]", f'name = "{role}"', f'roles = ["{role}"]']
        lines += [f'token = {{ env = "T_{role}" }}']
    return start_server(directory, "\n".join(lines), **{f"T_{role}": _token(role) for role in ROLES})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = _start(tmp_path_factory.mktemp("profiles"))
    admin = Caller(found, "admin")
    admin.sql("CREATE SCHEMA docs")
    rows = ", ".join(f"({n}, 'text {n}', {v})" for n, v in enumerate(VECTORS, 1))
    admin.sql("CREATE TABLE docs.notes (id BIGINT, body VARCHAR, vector FLOAT[])")
    admin.sql(f"INSERT INTO docs.notes VALUES {rows}")
    yield found
    found.stop()


INDEX = {"catalog": "vectors", "db_schema": "default", "table": "notes"}


@pytest.fixture
def admin(server: Server) -> Caller:
    caller = Caller(server, "admin")
    caller.call("vectors.build", index="notes", table="notes", db_schema="docs", keys=["id"], metric="l2")
    return caller


def test_index_is_a_dataset_for_those_who_may_search_it(server: Server, admin: Caller) -> None:
    said = admin.call(
        "catalog.update", **INDEX, description="by meaning", add_tags=["gold"], owner="ann",
        freshness_seconds=3600, columns=[{"name": "body", "description": "the text"}],
    )  # fmt: skip
    assert (said["kind"], said["rows"], said["object_count"], said["freshness"]) == (
        "vector_index",
        4,
        2,
        "fresh",
    )
    for role in ("reader", "even"):
        who = Caller(server, role)
        found = who.call("catalog.describe", catalog="vectors", db_schema="default", table="Notes")
        assert (found["description"], found["tags"], found["owner"]) == ("by meaning", ["gold"], "ann")
        live = who.call("vectors.list")["indexes"][0]
        facts = found["vectors"]
        assert (facts["generation"], facts["metric"], facts["dimension"]) == (live["generation"], "l2", 2)
        assert (facts["source"], facts["keys"], facts["m"]) == ("lake.docs.notes", ["id"], 32)
        assert facts["source_snapshot_id"] == live["source_snapshot_id"]
        whole = role == "reader"
        assert (found["rows"], len(found["objects"])) == ((4, 2) if whole else (None, 0))
        assert [c["description"] for c in found["columns"]] == ["", "the text", ""]
        for wanted in (
            {"text": "meaning"},
            {"kind": "vector_index"},
            {"tag": "gold"},
            {"catalog": "vectors"},
        ):
            assert [d["table"] for d in who.call("catalog.search", **wanted)["datasets"]] == ["notes"]
        seen = who.sql("FROM system.datasets WHERE kind = 'vector_index'").to_pylist()
        assert [(d["catalog_name"], d["table_name"], d["owner"]) for d in seen] == [
            ("vectors", "notes", "ann")
        ]
        assert seen[0]["row_count"] == (4 if whole else None)
        names = who.sql("SELECT column_name FROM system.columns WHERE catalog_name = 'vectors'")
        assert names["column_name"].to_pylist() == ["id", "body", "vector"]
        lineage = who.sql("SELECT ingest, input_name FROM system.lineage WHERE schema_name = 'default'")
        assert lineage.to_pylist() == [{"ingest": "vectors.build", "input_name": "lake.docs.notes"}]
        graph = who.call("catalog.lineage", **INDEX)
        assert [(d["name"], d["distance"]) for d in graph["datasets"]] == [
            ("lake.docs.notes", -1), ("vectors.default.notes", 0),
        ]  # fmt: skip
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            who.call("catalog.update", **INDEX, owner="me")
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            who.call("catalog.drop", **INDEX)
    downstream = admin.call("catalog.lineage", table="notes", db_schema="docs", direction="downstream")
    assert [d["kind"] for d in downstream["datasets"]] == ["table", "vector_index"]


def test_index_is_absent_for_others(server: Server, admin: Caller) -> None:
    who = Caller(server, "outsider")
    assert who.call("catalog.search", kind="vector_index")["datasets"] == []
    assert who.sql("FROM system.datasets WHERE catalog_name = 'vectors'").num_rows == 0
    for name in ("notes", "nothing"):
        with pytest.raises(
            REFUSED, match=rf"VECTOR_INDEX_NOT_FOUND.*'vectors.default.{name}' does not exist"
        ):
            who.call("catalog.describe", **{**INDEX, "table": name})
        with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
            who.call("catalog.lineage", **{**INDEX, "table": name})


def test_index_is_verified_resynced_and_dropped_as_a_dataset(server: Server, admin: Caller) -> None:
    assert admin.call("catalog.verify", **INDEX, deep=True)["healthy"]
    assert not admin.call("catalog.resync", **INDEX)["changed"]
    assert admin.call("catalog.resync_missing")["count"] == 0
    for role in ("reader", "outsider"):
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            Caller(server, role).call("catalog.verify", **INDEX)
    dropped = Caller(server, "writer").call("catalog.drop", **INDEX)
    assert (dropped["dropped"], dropped["kind"]) == (True, "vector_index")
    assert admin.call("vectors.list")["indexes"] == []
    assert not admin.call("catalog.drop", **INDEX, if_exists=True)["dropped"]
    assert admin.sql("FROM docs.notes").num_rows == 4
