"""A program that knows nothing but actions and Flight can send a file, told how by an action."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import ROOT, Server, start_server

CONFIG = """
[auth]
anonymous_role = "admin"
[ingest]
max_upload_bytes = 5_000_000
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("uploads"), CONFIG)
    yield running
    assert running.stop() == 0


def act(client: flight.FlightClient, name: str, **request: Any) -> dict[str, Any]:
    *_, last = client.do_action(flight.Action(name, json.dumps(request).encode()))
    found: dict[str, Any] = json.loads(last.body.to_pybytes())
    return found


def test_the_example_of_the_documentation_sends_a_file(server: Server, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ingest.md").read_text(encoding="utf-8")
    section = text.split("## Sending a file without our client")[1]
    match = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert match is not None
    (tmp_path / "people.csv").write_text("id,name\n1,Ann\n2,Bo\n")
    program = match[1].replace("grpc://127.0.0.1:31337", server.uri)
    for expected in ("succeeded 2", "repeated 0"):
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_rows_are_sent_as_told(server: Server) -> None:
    rows = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})
    with server.client() as client:
        told = act(client, "ingest.upload", table="rows", db_schema="up", mode="upsert", keys=["id"])
        assert (told["arrow_schema"], told["max_bytes"], told["answer"]) == (None, None, "run")
        for _ in range(2):
            writer, reader = client.do_put(flight.FlightDescriptor.for_path(*told["path"]), rows.schema)
            with writer:
                writer.write_metadata(told["first_metadata"].encode())
                writer.write_table(rows)
                writer.write_metadata(told["last_metadata"].encode())
                writer.done_writing()
                reader.read()
                assert json.loads(reader.read().to_pybytes())["run"]["rows_stored"] == 3


def test_what_is_told_of_a_file_is_so(server: Server) -> None:
    with server.client() as client:
        told = act(client, "ingest.upload", table="t", db_schema="up", file="x.csv", preview=5)
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(told["arrow_schema"])))
    assert schema == pa.schema([pa.field("content", pa.binary(), nullable=False)])
    assert (told["max_bytes"], told["answer"]) == (5_000_000, "preview")
    assert json.loads(told["first_metadata"]) == {"file": "x.csv", "preview": 5, "end_follows": True}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"table": "there", "mode": "create"}, "TABLE_ALREADY_EXISTS"),
        ({"table": "there", "mode": "upsert"}, "name the key columns"),
        ({"mode": "sideways"}, "mode"),
        ({"file": "a", "types": {"id": "MONEY"}}, "MONEY"),
        ({"file": "a", "format": "xml"}, "there is no format"),
        ({"file": "a", "delimiter": "ab"}, "one ASCII character"),
        ({"file": "a", "encoding": "klingon"}, "klingon"),
        ({"types": {"id": "INTEGER"}}, "about files"),
        ({"catalog": "nowhere"}, "CATALOG_NOT_FOUND"),
    ],
)
def test_what_would_be_refused_is_said_before_anything_is_sent(
    server: Server, request_: dict[str, Any], message: str
) -> None:
    with server.client() as client:
        act(client, "server.status")
        descriptor = flight.FlightDescriptor.for_path("up", "there")
        writer, _ = client.do_put(descriptor, pa.schema([("id", pa.int64())]))
        with writer:
            writer.done_writing()
        with pytest.raises(pa.ArrowException, match=message):
            act(client, "ingest.upload", **{"table": "t", "db_schema": "up", **request_})


def test_the_request_of_any_action_can_be_looked_at(server: Server) -> None:
    with server.client() as client:

        def problems(action: str, **request: Any) -> list[str]:
            found: list[str] = act(client, "actions.check", action=action, request=request)["problems"]
            return found

        assert problems("ingest.file", table="t", key="a.csv") == []
        assert problems("ingest.file", table="t") == [
            "request: Value error, exactly one of key and prefix has to be given"
        ]
        assert [p.split(":")[0] for p in problems("ingest.file", table="", key="a", mod="x")] == [
            "table",
            "mod",
        ]
        with pytest.raises(pa.ArrowException, match="no action is called"):
            problems("ingest.nothing")
