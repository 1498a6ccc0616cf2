"""Objects over the wire: put, got, listed, copied and deleted, by those who may."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded
from conftest import Server

BUCKETS = """
[[buckets]]
name = "primary"
kind = "local"
path = "{0}/bucket"
[[buckets]]
name = "media"
kind = "local"
path = "{0}/media"
[[buckets]]
name = "vault"
kind = "local"
path = "{0}/vault"
[objects]
inline_bytes = 1000
concurrent_transfers = 4
[[roles]]
name = "viewer"
objects = [{{ on = "media/pub/*" }}]
[[roles]]
name = "dropper"
objects = [{{ on = "media/in/*", privileges = ["write"] }}]
[[roles]]
name = "keeper"
objects = [{{ on = "media/*", privileges = ["read", "write"] }},
  {{ on = "media/pub/private/*", privileges = [] }}]
[[roles]]
name = "curious"
objects = [{{ on = "*/*", privileges = ["read", "write"] }}]
"""
PRINCIPALS = ("admin", "reader", "writer", "viewer", "dropper", "keeper", "curious")
BIG = os.urandom(11_000_000)


class ObjectCaller(Caller):
    """A caller that puts and gets objects."""

    def put(
        self,
        path: Iterable[str],
        batches: Iterable[list[Any]],
        first: dict[str, Any] | None = None,
        last: dict[str, Any] | None = None,
        kind: pa.DataType | None = None,
    ) -> dict[str, Any]:
        schema = pa.schema([("x", kind or pa.binary())])
        writer, reader = self.client.do_put(flight.FlightDescriptor.for_path(*path), schema, self.options)
        with writer:
            if first is not None:
                writer.write_metadata(json.dumps(first).encode())
            for batch in batches:
                writer.write_batch(pa.record_batch([pa.array(batch, schema.field(0).type)], schema=schema))
            if last is not None:
                writer.write_metadata(json.dumps(last).encode())
            writer.done_writing()
            return dict(json.loads(reader.read().to_pybytes()))

    def get(self, path: list[str], **wish: Any) -> tuple[bytes, dict[str, Any]]:
        ticket = flight.Ticket(json.dumps({"path": path, **wish}).encode())
        content, told = [], {}
        for chunk in self.client.do_get(ticket, self.options):
            content += chunk.data.column(0).to_pylist()
            if chunk.app_metadata is not None:
                told = json.loads(chunk.app_metadata.to_pybytes())
        return b"".join(content), told

    def keys(self, bucket: str, **wish: Any) -> list[str]:
        found = self.call("objects.list", bucket=bucket, **wish)
        return [each["key"] for each in found["objects"]] + found["prefixes"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("objects")
    server = start_guarded(directory, BUCKETS.format(directory), PRINCIPALS)
    yield server
    assert server.stop() == 0, "".join(server.log[-50:])


@pytest.fixture(scope="module")
def callers(running: Server) -> Iterator[dict[str, ObjectCaller]]:
    found = {name: ObjectCaller(running, name) for name in PRINCIPALS}
    yield found
    for caller in found.values():
        caller.close()


@pytest.fixture
def admin(callers: dict[str, ObjectCaller]) -> ObjectCaller:
    return callers["admin"]


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises((pa.ArrowException, OSError), match=rf"\[{code}\]"):
        yield


@pytest.mark.parametrize(
    "batches", [[], [[b""]], [[b"a", b"", b"bc"], [], [b"d"]], [[BIG[:7_000_000]], [BIG[7_000_000:]]]]
)
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_go_in_and_come_out_whatever_the_batches(
    admin: ObjectCaller, batches: list[list[bytes]], kind: pa.DataType
) -> None:
    content = b"".join(piece for batch in batches for piece in batch)
    sha256 = hashlib.sha256(content).hexdigest()
    told = admin.put(["media", "some", "ü x.bin"], batches, kind=kind)
    assert told["size"] == len(content)
    assert told["sha256"] == sha256
    path = ["media", "some/ü x.bin"]
    got, known = admin.get(path)
    assert got == content
    assert {key: known[key] for key in ("size", "sha256", "e_tag")} == {
        "size": len(content), "sha256": sha256, "e_tag": told["e_tag"]
    }  # fmt: skip
    part, known = admin.get(path, offset=2, length=8_500_000, e_tag=told["e_tag"])
    assert part == content[2 : 2 + 8_500_000]
    assert known["sha256"] == sha256
    info = admin.client.get_flight_info(flight.FlightDescriptor.for_path(*path), admin.options)
    assert info.total_bytes == len(content)
    schema = admin.client.get_schema(flight.FlightDescriptor.for_path(*path), admin.options).schema
    (endpoint,) = info.endpoints
    read = admin.client.do_get(endpoint.ticket, admin.options).read_all()
    assert read.schema == info.schema == schema
    assert b"".join(read.column("content").to_pylist()) == content
    head = admin.call("objects.head", bucket="media", key="some/ü x.bin")
    assert (head["size"], head["e_tag"]) == (len(content), told["e_tag"])


def test_the_hash_of_what_others_put_is_told_when_asked_for(running: Server, admin: ObjectCaller) -> None:
    place(running, "media/others")
    path, expected = ["media", "others"], hashlib.sha256(b"before").hexdigest()
    assert admin.get(path)[1]["sha256"] is None
    assert admin.get(path, sha256=True)[1]["sha256"] == expected
    assert admin.get(path, sha256=True, length=3)[1]["sha256"] is None
    admin.put(path, [[b"mine"]])
    assert admin.get(path)[1]["sha256"] == hashlib.sha256(b"mine").hexdigest()
    place(running, "media/others")
    assert admin.get(path)[1]["sha256"] is None


def test_text_and_a_slice_of_an_array_are_put_as_they_are(admin: ObjectCaller) -> None:
    told = admin.put(["media", "text"], [["ä", "𝄞"]], kind=pa.large_string())
    assert admin.get(["media", "text"])[0] == "ä𝄞".encode()
    schema = pa.schema([("x", pa.binary())])
    writer, reader = admin.client.do_put(
        flight.FlightDescriptor.for_path("media", "text"), schema, admin.options
    )
    with writer:
        whole = pa.record_batch([pa.array([b"no", b"yes", b"!", b"no"])], schema=schema)
        writer.write_batch(whole.slice(1, 2))
        writer.done_writing()
        assert json.loads(reader.read().to_pybytes())["size"] == 4 != told["size"]
    assert admin.get(["media", "text"])[0] == b"yes!"


def test_what_was_announced_has_to_come(admin: ObjectCaller, running: Server) -> None:
    sha256 = hashlib.sha256(b"abc").hexdigest()
    path, content = ["media", "announced"], [[b"ab"], [b"c"]]
    for first, last in (
        ({"size": 4}, None),
        ({"size": 2}, None),
        ({"sha256": "0" * 64}, None),
        ({"size_follows": True}, None),
        ({"size_follows": True}, {"size": 4}),
        (None, {"size": 4}),
    ):
        with refused("CONTENT_MISMATCH"):
            admin.put(path, content, first, last)
    for first, last in (
        (["no"], None),
        ({"sha": ""}, None),
        (None, {"if_absent": True}),
        ({"size": -1}, None),
    ):
        with refused("INVALID_REQUEST"):
            admin.put(path, content, first, last)
    with refused("OBJECT_NOT_FOUND"):
        admin.get(path)
    good = {"size": 3, "sha256": sha256.upper(), "if_absent": True}
    assert admin.put(path, content, good)["sha256"] == sha256
    with refused("OBJECT_ALREADY_EXISTS"):
        admin.put(path, content, good)
    assert admin.put(path, content, {"size_follows": True}, {"size": 3})["size"] == 3
    left = [
        each
        for each in (running.directory / "media").rglob("*")
        if "_uploads" in each.parts and each.is_file()
    ]
    assert not left


def test_what_is_no_bytes_is_refused(admin: ObjectCaller) -> None:
    for batches, kind in (([[1]], pa.int64()), ([[b"x", None]], pa.binary()), ([["x"]], pa.string_view())):
        with refused("INVALID_REQUEST"):
            admin.put(["media", "none"], batches, kind=kind)
    two = pa.schema([("a", pa.binary()), ("b", pa.binary())])
    with refused("INVALID_REQUEST"):
        writer, reader = admin.client.do_put(
            flight.FlightDescriptor.for_path("media", "x"), two, admin.options
        )
        with writer:
            writer.write_batch(pa.record_batch([[b"1"], [b"2"]], schema=two))
            writer.done_writing()
            reader.read()
    for key in ("a/../b", "a//b", "x\x00y", "a\\b", "k#1"):
        with refused("INVALID_REQUEST"):
            admin.put(["media", key], [[b"x"]])
    for wish in ({"offset": -1}, {"length": -1}, {"columns": ["x"]}):
        with refused("INVALID_REQUEST"):
            admin.get(["media", "text"], **wish)


def test_small_objects_in_actions_and_where_large_ones_are(admin: ObjectCaller) -> None:
    content = os.urandom(999)
    put = admin.call(
        "objects.put", bucket="vault", key="a/b", content=base64.b64encode(content).decode(), if_absent=True
    )
    assert put["sha256"] == hashlib.sha256(content).hexdigest()
    got = admin.call("objects.get", bucket="vault", key="a/b")
    assert base64.b64decode(got["content"]) == content
    assert got["sha256"] == put["sha256"]
    part = admin.call("objects.get", bucket="vault", key="a/b", offset=990, length=100)
    assert base64.b64decode(part["content"]) == content[990:]
    with refused("LIMIT_EXCEEDED"):
        admin.call("objects.put", bucket="vault", key="c", content=base64.b64encode(bytes(1001)).decode())
    with refused("INVALID_REQUEST"):
        admin.call("objects.put", bucket="vault", key="c", content="no base64!")
    with refused("OBJECT_ALREADY_EXISTS"):
        admin.call("objects.put", bucket="vault", key="a/b", content="", if_absent=True)
    with refused("NOT_SUPPORTED"):
        admin.call("objects.put", bucket="vault", key="c", content="", content_type="text/plain")
    with refused("NOT_SUPPORTED"):
        admin.call("objects.presign", bucket="vault", key="a/b")
    with refused("LIMIT_EXCEEDED"):
        admin.call("objects.presign", bucket="vault", key="a/b", seconds=3601)
    admin.put(["vault", "large"], [[BIG]])
    large = admin.call("objects.get", bucket="vault", key="large", offset=5)
    assert large["content"] is None
    table = admin.redeem(base64.b64decode(large["ticket"]))
    assert b"".join(table.column(0).to_pylist()) == BIG[5:]


def test_copies_and_deletions(admin: ObjectCaller) -> None:
    admin.put(["vault", "from", "here"], [[BIG]])
    there = {"to_bucket": "media", "to_key": "to/there"}
    results = admin.results("objects.copy", bucket="vault", key="from/here", **there)
    assert [each["progress"] for each in results[:-1]][-1] == 1
    assert results[-1]["sha256"] == hashlib.sha256(BIG).hexdigest()
    again = {"bucket": "media", "key": "to/there", "to_key": "to/here"}
    assert admin.call("objects.copy", **again)["size"] == len(BIG)
    with refused("OBJECT_ALREADY_EXISTS"):
        admin.call("objects.copy", **again, if_absent=True)
    with refused("INVALID_REQUEST"):
        admin.call("objects.copy", bucket="media", key="to/here", to_key="to/here")
    admin.put(["media", "to", "there"], [[b"other"]])
    assert admin.get(["media", "to/here"])[0] == BIG
    assert admin.call("objects.delete", bucket="media", key="to/here")["size"] == len(BIG)
    for action in ("objects.delete", "objects.head", "objects.get"):
        with refused("OBJECT_NOT_FOUND"):
            admin.call(action, bucket="media", key="to/here")
    with refused("OBJECT_NOT_FOUND"):
        admin.get(["media", "to/here"])
    admin.call("objects.delete", bucket="media", key="to/there")
    admin.put(["media", "to"], [[b"where a directory was"]])
    admin.put(["media", "some", "x"], [[b""]])
    with refused("INVALID_REQUEST"):
        admin.put(["media", "some"], [[b"is the beginning of another key"]])


READABLE = {
    "media/pub/x": {"admin", "viewer", "keeper", "curious"},
    "media/pub/private/x": {"admin", "viewer", "curious"},
    "media/in/x": {"admin", "keeper", "curious"},
    "media/top": {"admin", "keeper", "curious"},
    "primary/free": {"admin", "curious"},
    "primary/_audit/x": {"admin"},
    "primary/_access/keys/x": set(),
    "primary/warehouse/x": {"admin"},
}
WRITABLE = {
    "media/pub/x": {"admin", "keeper", "curious"},
    "media/pub/private/x": {"admin", "curious"},
    "media/in/x": {"admin", "dropper", "keeper", "curious"},
    "media/top": {"admin", "keeper", "curious"},
    "primary/free": {"admin", "curious"},
    "primary/_audit/x": set(),
    "primary/_access/keys/x": set(),
    "primary/warehouse/x": set(),
}


def place(running: Server, path: str) -> None:
    bucket, key = path.split("/", 1)
    file = running.directory / {"primary": "bucket"}.get(bucket, bucket) / key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"before")


@pytest.mark.parametrize("path", READABLE)
@pytest.mark.parametrize("name", PRINCIPALS)
def test_who_reads_and_who_writes(
    running: Server, callers: dict[str, ObjectCaller], name: str, path: str
) -> None:
    who, (bucket, key) = callers[name], path.split("/", 1)
    place(running, path)
    place(running, "vault/stolen/x")
    named = {"bucket": bucket, "key": key}
    reads = {
        "flight": lambda named: who.get([named["bucket"], named["key"]]),
        "info": lambda named: who.client.get_flight_info(
            flight.FlightDescriptor.for_path(named["bucket"], *named["key"].split("/")), who.options
        ),
        "schema": lambda named: who.client.get_schema(
            flight.FlightDescriptor.for_path(named["bucket"], *named["key"].split("/")), who.options
        ),
        "head": lambda named: who.call("objects.head", **named),
        "get": lambda named: who.call("objects.get", **named),
        "copy": lambda named: who.call("objects.copy", **named, to_bucket="media", to_key=f"in/{name}"),
    }
    if name in READABLE[path]:
        for way, read in reads.items():
            if way != "copy" or name in WRITABLE["media/in/x"]:
                read(named)
        assert key in who.keys(bucket, prefix=key)
    else:
        missing = {"bucket": bucket, "key": key + "0"}
        for read in reads.values():
            with pytest.raises((pa.ArrowException, OSError)) as denied:
                read(named)
            with pytest.raises((pa.ArrowException, OSError)) as absent:
                read(missing)
            assert str(denied.value).replace(key, key + "0") == str(absent.value).replace(
                key + "00", key + "0"
            )
    writes = {
        "flight": lambda: who.put([bucket, key], [[b"after"]]),
        "put": lambda: who.call("objects.put", **named, content=""),
        "copy": lambda: who.call(
            "objects.copy", bucket="vault", key="stolen/x", to_bucket=bucket, to_key=key
        ),
        "delete": lambda: who.call("objects.delete", **named),
    }
    before = (running.directory / {"primary": "bucket"}.get(bucket, bucket) / key).read_bytes()
    if name in WRITABLE[path]:
        for way, write in writes.items():
            if way != "copy" or name in ("admin", "curious"):
                write()
    else:
        for write in (*writes.values(), lambda: who.call("objects.presign", **named, method="PUT")):
            with refused("(PERMISSION_DENIED|BUCKET_NOT_FOUND|OBJECT_NOT_FOUND)"):
                write()
        assert (running.directory / {"primary": "bucket"}.get(bucket, bucket) / key).read_bytes() == before


def test_a_bucket_without_grants_is_as_one_that_is_not_there(callers: dict[str, ObjectCaller]) -> None:
    for name in ("reader", "writer", "viewer"):
        for attempt in (
            lambda who, bucket: who.keys(bucket),
            lambda who, bucket: who.call("objects.head", bucket=bucket, key="x"),
            lambda who, bucket: who.get([bucket, "x"]),
        ):
            with pytest.raises(pa.ArrowException) as denied:
                attempt(callers[name], "vault")
            with pytest.raises(pa.ArrowException) as absent:
                attempt(callers[name], "nothing")
            assert str(denied.value).replace("vault", "nothing") == str(absent.value)
        # Whose name is a bucket's is never taken for a schema, so nothing goes to a wrong place.
        with refused("BUCKET_NOT_FOUND"):
            callers[name].put(["vault", "x"], [[b"x"]])


def test_listings_show_what_may_be_read(running: Server, callers: dict[str, ObjectCaller]) -> None:
    for path in READABLE:
        place(running, path)
    for name, expected in (
        ("viewer", ["pub/"]),
        ("dropper", []),
        ("keeper", None),
    ):
        found = callers[name].keys("media")
        assert expected is None or found == expected
    assert callers["viewer"].keys("media", recursive=True) == ["pub/private/x", "pub/x"]
    assert callers["keeper"].keys("media", prefix="pub/") == ["pub/x"]
    assert not {"_uploads/", "_access/"} & set(callers["admin"].keys("primary"))
    assert {"_audit/", "warehouse/"} <= set(callers["admin"].keys("primary"))
    assert callers["curious"].keys("primary", recursive=True) == ["free"]
    admin, found = callers["admin"], []
    page = admin.call("objects.list", bucket="media", recursive=True, limit=2)
    while page["next_token"]:
        found += [each["key"] for each in page["objects"]]
        page = admin.call("objects.list", bucket="media", recursive=True, limit=2, token=page["next_token"])
    found += [each["key"] for each in page["objects"]]
    assert found == admin.keys("media", recursive=True)
    with refused("INVALID_REQUEST"):
        admin.call("objects.list", bucket="media", token="%")


def test_objects_are_on_record(running: Server, admin: ObjectCaller) -> None:
    admin.put(["media", "recorded"], [[b"1234"]])
    admin.get(["media", "recorded"])
    with refused("OBJECT_NOT_FOUND"):
        admin.get(["media", "unrecorded"])
    admin.call("objects.delete", bucket="media", key="recorded")
    admin.call("audit.flush")
    rows = admin.sql(
        "SELECT statement, action, outcome, bytes FROM system.audit WHERE "
        "statement LIKE 'OBJECT%recorded' OR action = 'objects.delete' ORDER BY time, seq"
    ).to_pylist()[-5:]
    assert [(row["statement"] or row["action"], row["outcome"], row["bytes"] or 0) for row in rows] == [
        ("OBJECT PUT media/recorded", "ok", 4),
        ("OBJECT GET media/recorded", "ok", 4),
        ("OBJECT GET media/unrecorded", "OBJECT_NOT_FOUND", 0),
        ("OBJECT DELETE media/recorded", "ok", 0),
        ("objects.delete", "ok", 0),
    ]


def test_only_so_many_objects_are_on_their_way(admin: ObjectCaller) -> None:
    admin.put(["vault", "large"], [[BIG]] * 8)
    ticket = flight.Ticket(b'{"path": ["vault", "large"]}')
    open_ones = []
    with refused("LIMIT_EXCEEDED"):
        for _ in range(5):
            open_ones.append(admin.client.do_get(ticket, admin.options))
            open_ones[-1].read_chunk()
    for each in open_ones:
        each.cancel()
    for _ in range(100):
        try:
            assert len(admin.get(["vault", "large"])[0]) == 8 * len(BIG)
            break
        except flight.FlightUnavailableError:
            continue
    else:
        pytest.fail("places were not given back")
