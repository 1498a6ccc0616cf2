"""Files of a bucket become tables by one action, told of row by row."""

from __future__ import annotations

import base64
import gzip
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import start_guarded, token
from conftest import start_server
from lakehouse_client import LakehouseClientError, connect


class Ingest:
    """A server, and the directory of its bucket."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.data: Path = server.directory / "bucket"
        self.client = flight.connect(server.uri)

    def file(self, key: str, content: str | bytes) -> str:
        path = self.data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return key

    def results(self, action: str, **request: Any) -> list[Any]:
        body = json.dumps(request).encode()
        return [json.loads(r.body.to_pybytes()) for r in self.client.do_action(flight.Action(action, body))]

    def __call__(self, table: str, **request: Any) -> Any:
        return self.results("ingest.file", table=table, db_schema="files", **request)[-1]

    def sql(self, text: str) -> list[dict[str, Any]]:
        with self.server.adbc() as connection, connection.cursor() as cursor:
            cursor.execute(text)
            found: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return found


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    config = '[auth]\nanonymous_role = "admin"\n[limits]\nmessage_bytes = 8_000_000'
    server = start_server(tmp_path / "server", config)
    yield Ingest(server)
    assert server.stop() == 0


PEOPLE = 'id,name,born,note\n1,Ann,1980-02-03,\n2,Bo,1990-12-31,N/A\n007,"C, D",2001-01-01,123\n'


def test_a_file_becomes_a_table_with_an_account_of_every_column(ingest: Ingest) -> None:
    key = ingest.file("in/people.csv", PEOPLE)
    *progress, run = ingest.results("ingest.file", table="people", db_schema="files", key=key)
    assert all(0 <= told["progress"] <= 1 for told in progress)
    assert (run["state"], run["rows_in"], run["rows_stored"], run["rows_rejected"]) == ("succeeded", 3, 3, 0)
    assert [(c["name"], c["type"]) for c in run["columns"]] == [
        ("id", "string"), ("name", "string"), ("born", "date32[day]"), ("note", "string"),
    ]  # fmt: skip
    assert ingest.sql("SELECT id, name, note FROM files.people ORDER BY born")[2] == {
        "id": "007", "name": "C, D", "note": "123",
    }  # fmt: skip
    assert ingest(table="people", key=key)["state"] == "repeated"
    assert ingest.sql("SELECT count(*) AS n FROM files.people") == [{"n": 3}]


def test_an_object_with_other_content_comes_again(ingest: Ingest) -> None:
    key = ingest.file("in/one.csv", "id\n1\n")
    assert ingest(table="one", key=key)["state"] == "succeeded"
    ingest.file("in/one.csv", "id\n2\n3\n")
    assert ingest(table="one", key=key)["rows_stored"] == 2
    assert ingest(table="one", key=key)["state"] == "repeated"
    assert ingest(table="one", key=key, run_key="")["rows_stored"] == 2
    assert ingest(table="one", key=key, run_key="x")["rows_stored"] == 2
    assert ingest(table="one", key=key, run_key="x")["state"] == "repeated"


def test_after_an_ingest_everything_is_known_without_another_call(ingest: Ingest) -> None:
    mails = "".join(f"{n},person{n}@example.org\n" for n in range(100))
    run = ingest(table="mails", key=ingest.file("in/mails.csv", "id,mail\n" + mails))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = ingest.results("catalog.describe", table="mails", db_schema="files")[-1]
        if any(column.get("sensitivity") for column in found["columns"]):
            break
        time.sleep(0.1)
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["mail"]["sensitivity"][0]["kind"] == "email"
    assert found["rows"] == 100
    [edge] = found["lineage"]
    assert (edge["system"], edge["source"]) == ("file", "primary/in/mails.csv")
    assert run["id"] in edge["ingest"]
    ingest.results("journal.flush")
    events = ingest.sql("SELECT action, source, actor FROM system.events WHERE entity = 'lake.files.mails'")
    assert {"action": "commit", "source": "ingest", "actor": "anonymous"} in events


def test_rows_that_do_not_fit_are_kept_with_line_and_reason(ingest: Ingest) -> None:
    key = ingest.file("in/bad.csv", "id,amount\n1,10\n2,ten\n3,30,and more\n4,40\n")
    with pytest.raises(pa.ArrowException, match="line"):
        ingest(table="bad", key=key, types={"amount": "INTEGER"})
    run = ingest(table="bad", key=key, types={"amount": "INTEGER"}, on_error="reject")
    assert (run["rows_in"], run["rows_stored"], run["rows_rejected"]) == (4, 2, 2)
    assert ingest.sql("SELECT * FROM files.bad ORDER BY id") == [
        {"id": 1, "amount": 10}, {"id": 4, "amount": 40},
    ]  # fmt: skip
    rejects = ingest.sql(f"SELECT line, content FROM {run['rejects_table']} ORDER BY line")
    assert [(row["line"], row["content"]) for row in rejects] == [(3, "2,ten"), (4, "3,30,and more")]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_several_ingests_make_one_table_at_once_and_none_is_lost(ingest: Ingest, mode: str) -> None:
    keys = [ingest.file(f"in/{n}.csv", f"id,name\n{n},{'abcd'[n]}\n99,same\n") for n in range(4)]
    with ThreadPoolExecutor(len(keys)) as threads:
        runs = list(threads.map(lambda key: ingest("shared", key=key, mode=mode, keys=["id"]), keys))
    assert {(run["state"], run["rows_in"], run["rows_stored"]) for run in runs} == {("succeeded", 2, 2)}
    found = ingest.sql("SELECT id, name FROM files.shared ORDER BY ALL")
    same = 1 if mode == "upsert" else len(keys)
    assert [(row["id"], row["name"]) for row in found] == [*enumerate("abcd"), *[(99, "same")] * same]


def test_a_prefix_is_one_source_whose_columns_are_united(ingest: Ingest) -> None:
    ingest.file("in/days/1.csv", "id,a\n1,x\n")
    ingest.file("in/days/2.csv.gz", gzip.compress(b"id,b\n2,y\n"))
    ingest.file("in/days/readme.txt", "not this")
    run = ingest(table="days", prefix="in/days/", pattern="*.csv*")
    assert run["rows_stored"] == 2
    assert ingest.sql("SELECT * FROM files.days ORDER BY id") == [
        {"id": 1, "a": "x", "b": None}, {"id": 2, "a": None, "b": "y"},
    ]  # fmt: skip


def test_a_value_far_down_makes_the_whole_column_text(ingest: Ingest) -> None:
    lines = "".join(f"{n},{n}\n" for n in range(3_000_000))
    key = ingest.file("in/long.csv", "id,code\n" + lines + "3000000,N/A\n")
    run = ingest(table="long", key=key)
    assert run["rows_stored"] == run["rows_in"] == 3_000_001
    assert [c["type"] for c in run["columns"]] == ["int64", "string"]
    found = ingest.sql(
        "SELECT count(*) AS n, max(id) AS last, count(*) FILTER (code = 'N/A') AS na FROM files.long"
    )
    assert found == [{"n": 3_000_001, "last": 3_000_000, "na": 1}]


def test_a_preview_stores_nothing(ingest: Ingest) -> None:
    key = ingest.file("in/people.csv", PEOPLE)
    [seen] = ingest.results("ingest.preview", key=key, limit=2)
    rows = pa.ipc.open_stream(base64.b64decode(seen["arrow"])).read_all()
    assert rows.column("name").to_pylist() == ["Ann", "Bo"]
    assert [c["name"] for c in seen["columns"]] == ["id", "name", "born", "note"]
    assert seen["rows"] == 3
    assert ingest.results("ingest.list")[-1]["runs"] == []


def test_a_run_in_the_background_is_told_of(ingest: Ingest) -> None:
    key = ingest.file("in/people.csv", PEOPLE)
    run = ingest(table="later", key=key, background=True)
    while run["state"] in ("queued", "running"):
        [run] = ingest.results("ingest.status", run=run["id"])
    assert (run["state"], run["rows_stored"]) == ("succeeded", 3)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "exactly one of key and prefix"),
        ({"key": "a", "prefix": "b"}, "exactly one of key and prefix"),
        ({"key": "in/nothing.csv"}, "does not exist"),
        ({"key": "../../etc/passwd"}, "key"),
        ({"prefix": "in/none/"}, "no file to read"),
        ({"key": "in/x.csv", "bucket": "nope"}, "no bucket 'nope'"),
        ({"key": "_audit/x"}, "does not exist"),
        ({"key": "in/people.csv", "types": {"nope": "INTEGER"}}, "nope"),
        ({"key": "in/people.csv", "types": {"id": "MONEY"}}, "MONEY"),
        ({"key": "in/people.csv", "mode": "sideways"}, "mode"),
        ({"key": "in/empty.csv"}, "empty"),
    ],
)
def test_what_cannot_be_read_is_said(ingest: Ingest, request_: dict[str, Any], message: str) -> None:
    ingest.file("in/people.csv", PEOPLE)
    ingest.file("in/empty.csv", "")
    with pytest.raises(pa.ArrowException, match=message):
        ingest(table="refused", **request_)


def test_files_are_sent_in_pieces_and_stored_once(ingest: Ingest) -> None:
    lines = "".join(f"{n},name {n}\n" for n in range(500_000))
    content = gzip.compress(f"id,name\n{lines}".encode())
    sent: list[int] = []
    with connect(ingest.server.uri) as lake:
        run = lake.ingest_file(io.BytesIO(content), "sent", db_schema="files", on_sent=sent.append)
        assert (run.state, run.rows_stored) == ("succeeded", 500_000)
        assert sum(sent) == len(content)
        again = lake.ingest_file(io.BytesIO(content), "sent", db_schema="files")
        assert again.state == "repeated"
        rows = pa.table({"id": [1], "name": ["changed"]})
        changed = lake.ingest_rows(rows, "sent", db_schema="files", mode="upsert", keys=["id"])
        assert changed.rows_stored == 1
    assert ingest.sql("SELECT count(*) AS n, count(*) FILTER (name = 'changed') AS c FROM files.sent") == [
        {"n": 500_000, "c": 1}
    ]


def test_a_batch_may_be_larger_than_a_message(ingest: Ingest) -> None:
    wide = "x" * 3_000_000
    rows = pa.table({"id": range(1_000_000), "text": [wide, *["y"] * 999_999]})
    with connect(ingest.server.uri) as lake:
        assert lake.ingest_rows(rows, "large", db_schema="files").rows_stored == 1_000_000
    asked = "SELECT count(*) AS n, sum(id) AS s, max(length(text)) AS l FROM files.large"
    assert ingest.sql(asked) == [{"n": 1_000_000, "s": 499_999_500_000, "l": 3_000_000}]


def test_a_file_that_breaks_off_is_not_stored(ingest: Ingest) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 4_000_000:
                raise OSError("the disk is gone")
            return super().read(size)

    content = b"id\n" + b"1\n" * 10_000_000
    with connect(ingest.server.uri) as lake, pytest.raises(OSError, match="the disk is gone"):
        lake.ingest_file(Broken(content), "broken", db_schema="files")
    with pytest.raises(Exception, match="NOT_FOUND"):
        ingest.sql("SELECT * FROM files.broken")


ROLES = """
[[roles]]
name = "both"
actions = ["ingest.*"]
grants = [{ on = "lake.files.*", privileges = ["read", "write"] }]
objects = [{ on = "primary/in/*", privileges = ["read"] }]
[[roles]]
name = "table"
actions = ["ingest.*"]
grants = [{ on = "lake.files.*", privileges = ["read", "write"] }]
[[roles]]
name = "file"
actions = ["ingest.*"]
objects = [{ on = "primary/in/*", privileges = ["read"] }]
"""


def test_both_the_file_and_the_table_have_to_be_granted(tmp_path: Path) -> None:
    names = ("both", "table", "file")
    server = start_guarded(tmp_path / "server", ROLES, names)
    key = Ingest(server).file("in/people.csv", PEOPLE)
    Ingest(server).file("elsewhere.csv", "not,for,them\n")
    told = {}
    for name in names:
        with connect(server.uri, token=token(name)) as lake:
            into = {"table": "people", "db_schema": "files"}
            for action, request in (
                ("file", {"key": key, **into}), ("preview", {"key": key}), ("sync", {"prefix": "", **into}),
            ):  # fmt: skip
                try:
                    lake.call(f"ingest.{action}", request)
                    told[name, action] = "ok"
                except LakehouseClientError as error:
                    told[name, action] = error.code
    assert told == {
        ("both", "file"): "ok", ("both", "preview"): "ok", ("both", "sync"): "ok",
        ("table", "file"): "BUCKET_NOT_FOUND", ("table", "preview"): "BUCKET_NOT_FOUND",
        ("table", "sync"): "BUCKET_NOT_FOUND",
        ("file", "file"): "SCHEMA_NOT_FOUND", ("file", "preview"): "ok", ("file", "sync"): "SCHEMA_NOT_FOUND",
    }  # fmt: skip
    assert server.stop() == 0
