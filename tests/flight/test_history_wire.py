"""A table's history over the wire: tags, rollback, and a diff whose rows come with a ticket."""

from __future__ import annotations

import base64
import json

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from wire import bare_action, command, put, query

from flight_server.protocol.messages import flight_class


def call(client, name, /, **request):
    results = list(client.do_action(flight.Action(name, json.dumps(request).encode())))
    return json.loads(results[-1].body.to_pybytes())


def ingest(client, table, rows, exists=2):
    options = {"if_not_exist": 1, "if_exists": exists}
    descriptor = command("CommandStatementIngest", table=table, table_definition_options=options)
    put(client, descriptor, rows)


@pytest.fixture
def client(server):
    with server.client() as opened:
        yield opened


def test_a_table_is_tagged_compared_and_rolled_back(client):
    ingest(client, "walk", pa.table({"n": [1, 2]}))
    created = call(client, "table.create_tag", table="walk", name="v1")
    ingest(client, "walk", pa.table({"n": [3]}))
    snapshots = call(client, "table.snapshots", table="walk")["snapshots"]
    assert [s["tags"] for s in snapshots] == [["v1"], []]
    assert snapshots[0]["snapshot_id"] == created["snapshot_id"] == snapshots[1]["parent_id"]
    assert query(client, 'SELECT sum(n) AS n FROM "walk@v1"').to_pylist() == [{"n": 3}]

    diff = call(client, "table.diff", table="walk", before={"ref": "v1"})
    assert (diff["inserted"], diff["deleted"], diff["updated"], diff["files_read"]) == (1, 0, 0, 1)
    ticket = flight.Ticket(base64.b64decode(diff["ticket"]))
    for _ in range(2):
        rows = client.do_get(ticket).read_all()
        assert rows.to_pylist() == [{"_change_type": "INSERT", "n": 3}]
    assert query(client, "SELECT count(*) AS n FROM system.statements WHERE sql LIKE 'table.diff%'").num_rows

    rolled = call(client, "table.rollback", table="walk", ref="v1")
    assert rolled["previous_snapshot_id"] == snapshots[1]["snapshot_id"]
    assert query(client, "SELECT sum(n) AS n FROM walk").to_pylist() == [{"n": 3}]
    back = call(
        client, "table.rollback", table="walk", snapshot_id=snapshots[1]["snapshot_id"], any_snapshot=True
    )
    assert back["snapshot_id"] == snapshots[1]["snapshot_id"]
    assert query(client, "SELECT sum(n) AS n FROM walk").to_pylist() == [{"n": 6}]
    call(client, "table.drop_tag", table="walk", name="v1")
    with pytest.raises(KeyError, match=r"SNAPSHOT_NOT_FOUND.*no tag or branch 'v1'"):
        query(client, "FROM walk AT (VERSION => 'v1')")


def test_what_does_not_fit_is_refused_by_name(client):
    ingest(client, "refused", pa.table({"n": [1]}))
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_REQUEST.*only one of snapshot_id, ref"):
        call(client, "table.create_tag", table="refused", name="x", ref="main", snapshot_id=1)
    with pytest.raises(pa.ArrowInvalid, match="INVALID_REQUEST"):
        call(client, "table.rollback", table="refused")
    with pytest.raises(KeyError, match="SNAPSHOT_NOT_FOUND"):
        call(client, "table.rollback", table="refused", snapshot_id=5)
    with pytest.raises(pa.ArrowException, match="COMMIT_CONFLICT"):
        call(client, "table.rollback", table="refused", ref="main", expected_snapshot_id=5)
    with pytest.raises(KeyError, match=r"TABLE_NOT_FOUND"):
        call(client, "table.diff", table="refusedd", before={})


def test_a_table_is_compacted_expired_and_swept_over_the_wire(client):
    for number in range(6):
        ingest(client, "shape", pa.table({"n": [number]}))
    body = json.dumps({"table": "shape"}).encode()
    results = [
        json.loads(result.body.to_pybytes())
        for result in client.do_action(flight.Action("table.compact", body))
    ]
    assert [set(result) for result in results[:-1]] == [{"progress", "message"}] * (len(results) - 1)
    assert (results[-1]["files_before"], results[-1]["files_after"], results[-1]["rows"]) == (6, 1, 6)
    files = query(client, "SELECT file_path FROM system.files WHERE table_name = 'shape'").column(0)
    assert len(files) == 1
    assert not files[0].as_py().startswith(("/", "file:"))
    expired = call(client, "table.expire_snapshots", table="shape")
    assert expired["snapshots"] == [], "a snapshot younger than the grace time stays"
    swept = call(client, "table.remove_orphans", table="shape", dry_run=True)
    assert swept == {"files": 0, "size_bytes": 0, "dry_run": True, "keys": []}
    assert query(client, "SELECT sum(n) AS n FROM shape").to_pylist() == [{"n": 15}]
    with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
        call(client, "table.compact", table="shapeless")


def test_the_files_of_a_dropped_table_are_deleted_when_nobody_reads_them(server, client):
    ingest(client, "spent", pa.table({"n": [1, 2]}))
    with pytest.raises(pa.ArrowException, match=r"TABLE_ALREADY_EXISTS.*spent"):
        call(client, "table.purge", table="spent")
    with pytest.raises(KeyError, match=r"TABLE_NOT_FOUND.*no table.*was dropped"):
        call(client, "table.purge", table="never")
    with server.client() as other:
        query(other, "BEGIN")
        assert query(other, "SELECT sum(n) AS n FROM spent").to_pylist() == [{"n": 3}]
        query(client, "DROP TABLE spent")
        with pytest.raises(pa.ArrowException, match=r"COMMIT_CONFLICT.*still being read"):
            call(client, "table.purge", table="spent")
        assert query(other, "SELECT sum(n) AS n FROM spent").to_pylist() == [{"n": 3}]
        bare_action(other, "CloseSession", flight_class("CloseSessionRequest")())
    assert call(client, "table.purge", table="spent")["files"] >= 3
    assert call(client, "table.purge", table="spent")["files"] == 0
    ingest(client, "spent", pa.table({"n": [7]}))
    assert query(client, "SELECT sum(n) AS n FROM spent").to_pylist() == [{"n": 7}]
