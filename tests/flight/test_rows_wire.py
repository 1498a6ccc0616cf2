"""Arrow rows put under the path of a table, by a client that knows nothing but Flight."""

from __future__ import annotations

import base64
import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

PEOPLE = pa.table({"id": [1, 2, 3], "name": ["Ann", "Bo", None]})


def put(server: Any, path: tuple[str, ...], rows: pa.Table, said: Any = None, batch: int = 1000) -> list[Any]:
    """Put rows, and give everything that the server says."""
    with flight.connect(server.uri) as client:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path(*path), rows.schema)
        told = []
        with writer:
            for number, each in enumerate(rows.to_batches(max_chunksize=batch)):
                note = json.dumps(said).encode() if said is not None and not number else None
                writer.write_with_metadata(each, note) if note else writer.write_batch(each)
            writer.done_writing()
            while (message := reader.read()) is not None:
                told.append(json.loads(message.to_pybytes()))
        return told


def count(server: Any, table: str) -> Any:
    with server.adbc() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*), count(DISTINCT id) FROM {table}")
        return cursor.fetchone()


def test_rows_become_a_table_and_every_batch_is_acknowledged(server: Any) -> None:
    rows = pa.table({"id": range(10_000)})
    told = put(server, ("lake", "puts", "numbers"), rows, batch=1000)
    assert told[:-1] == [{"batches": n, "rows": n * 1000} for n in range(1, 11)]
    run = told[-1]["run"]
    assert (run["state"], run["rows_in"], run["rows_stored"]) == ("succeeded", 10_000, 10_000)
    assert run["table"] == "lake.puts.numbers"
    assert count(server, "puts.numbers") == (10_000, 10_000)


def test_what_is_said_first_holds(server: Any) -> None:
    path = ("puts", "people")
    put(server, path, PEOPLE, {"mode": "upsert", "keys": ["id"]})
    changed = pa.table({"id": [3, 4], "name": ["Cy", "Di"]})
    *_, last = put(server, path, changed, {"mode": "upsert", "key": "monday"})
    assert last["run"]["state"] == "succeeded"
    assert count(server, "puts.people") == (4, 4)
    [last] = put(server, path, changed, {"mode": "append", "key": "monday"})
    assert (last["run"]["state"], last["run"]["rows_stored"]) == ("repeated", 0)
    assert count(server, "puts.people") == (4, 4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mode": "merge"}, "mode"),
        ({"colour": "red"}, "fields: mode, keys, key, evolve"),
        ([], "metadata of the rows"),
        ({"mode": "upsert", "keys": ["nope"]}, "the key column 'nope' does not come"),
        ({"mode": "upsert"}, "cannot be told apart"),
    ],
)
def test_what_does_not_fit_stores_nothing(server: Any, said: Any, message: str) -> None:
    with pytest.raises(pa.ArrowException, match=message):
        put(server, ("puts", "refused"), PEOPLE, said)
    with (
        server.adbc() as connection,
        connection.cursor() as cursor,
        pytest.raises(Exception, match="NOT_FOUND"),
    ):
        cursor.execute("SELECT * FROM puts.refused")


def test_a_preview_tells_of_a_file_and_stores_nothing(server: Any) -> None:
    content = pa.table({"content": [b"id;born\n1;1980-02-", b"03\n2;1990-12-31\n"]})
    *_, last = put(server, ("puts", "seen"), content, {"file": "seen.csv", "preview": 1})
    found = last["preview"]
    assert [(c["name"], c["type"]) for c in found["columns"]] == [("id", "int64"), ("born", "date32[day]")]
    rows = pa.ipc.open_stream(base64.b64decode(found["arrow"])).read_all().to_pylist()
    assert rows == [{"id": 1, "born": date(1980, 2, 3)}]
    with pytest.raises(Exception, match="NOT_FOUND"):
        count(server, "puts.seen")
    with pytest.raises(pa.ArrowException, match="a preview is of a file"):
        put(server, ("puts", "seen"), PEOPLE, {"preview": 1})


def test_the_account_of_runs_is_kept(server: Any) -> None:
    put(server, ("puts", "kept"), PEOPLE)
    with flight.connect(server.uri) as client:
        body = json.dumps({"table": "lake.puts.kept"}).encode()
        [result] = client.do_action(flight.Action("ingest.list", body))
        [run] = json.loads(result.body.to_pybytes())["runs"]
        assert (run["state"], run["rows_stored"], run["principal"]) == ("succeeded", 3, "anonymous")
        [result] = client.do_action(flight.Action("ingest.status", json.dumps({"run": run["id"]}).encode()))
        assert json.loads(result.body.to_pybytes()) == run


@pytest.mark.parametrize("path", [(), ("",), ("a", "b", "c", "d"), ("lake", "puts", "")])
def test_a_path_that_is_not_one_of_a_table_is_refused(server: Any, path: tuple[str, ...]) -> None:
    with pytest.raises(pa.ArrowException, match="path of a table"):
        put(server, path, PEOPLE)


def test_a_client_that_vanishes_leaves_nothing(server: Any) -> None:
    with flight.connect(server.uri) as client:
        writer, _ = client.do_put(flight.FlightDescriptor.for_path("puts", "vanished"), PEOPLE.schema)
        writer.write_table(PEOPLE)
    with flight.connect(server.uri) as client:
        body = json.dumps({"table": "lake.puts.vanished"}).encode()
        for _ in range(200):
            [result] = client.do_action(flight.Action("ingest.list", body))
            runs = json.loads(result.body.to_pybytes())["runs"]
            if runs and runs[0]["state"] not in ("queued", "running"):
                break
    with (
        server.adbc() as connection,
        connection.cursor() as cursor,
        pytest.raises(Exception, match="NOT_FOUND"),
    ):
        cursor.execute("SELECT * FROM puts.vanished")
