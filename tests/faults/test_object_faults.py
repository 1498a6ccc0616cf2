"""Objects while clients vanish, servers are killed and stores break down: whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import Server, start_server
from s3 import S3, start_s3
from s3_proxy import Answer, S3Proxy, start_proxy

SCHEMA = pa.schema([("x", pa.binary())])
PIECE = os.urandom(1_000_000)
CONFIG = '[auth]\nanonymous_role = "admin"\n[objects]\nunfinished_seconds = 1\n'


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[S3Proxy]:
    running = start_proxy(s3.endpoint)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "proxy" in request.fixturenames:
        request.getfixturevalue("proxy").fault = lambda answer: answer


@pytest.fixture(scope="module")
def server(s3: S3, proxy: S3Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a bucket of each kind, the store of one behind a proxy."""
    directory = tmp_path_factory.mktemp("objects")
    running = start_server(directory, configuration(directory, s3, endpoint=proxy.endpoint))
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


def configuration(directory: Path, s3: S3, **more: Any) -> str:
    local = f'[[buckets]]\nname = "local"\nkind = "local"\npath = "{directory}/local"\n'
    store = s3.toml(name="store", breaker_failures=0, max_retries=4, retry_seconds=15, **more)
    return f"{local}{store}{CONFIG}"


def put(client: flight.FlightClient, bucket: str, key: str, pieces: int, **first: Any) -> dict[str, Any]:
    writer, reader = client.do_put(flight.FlightDescriptor.for_path(bucket, key), SCHEMA)
    with writer:
        if first:
            writer.write_metadata(json.dumps(first).encode())
        for _ in range(pieces):
            writer.write_batch(pa.record_batch([[PIECE]], schema=SCHEMA))
        writer.done_writing()
        return dict(json.loads(reader.read().to_pybytes()))


def get(client: flight.FlightClient, bucket: str, key: str, **wish: Any) -> tuple[int, str, dict[str, Any]]:
    """Size and hash of what comes, and what is told at its end."""
    found, size, told = hashlib.sha256(), 0, {}
    for chunk in client.do_get(flight.Ticket(json.dumps({"path": [bucket, key], **wish}).encode())):
        for value in chunk.data.column(0):
            found.update(value.as_buffer())
            size += len(value.as_buffer())
        if chunk.app_metadata is not None:
            told = json.loads(chunk.app_metadata.to_pybytes())
    return size, found.hexdigest(), told


def keys(client: flight.FlightClient, bucket: str, prefix: str) -> list[str]:
    body = json.dumps({"bucket": bucket, "prefix": prefix, "recursive": True}).encode()
    *_, last = client.do_action(flight.Action("objects.list", body))
    return [each["key"] for each in json.loads(last.body.to_pybytes())["objects"]]


def leftovers(server: Server) -> list[str]:
    return [path.name for path in (server.directory / "local" / "_uploads").rglob("*") if path.is_file()]


def uploads(s3: S3) -> list[str]:
    import boto3

    keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key}
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1", **keys)
    found = client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", [])
    client.close()
    return [each["Key"] for each in found]


def eventually(check: Callable[[], bool]) -> None:
    for _ in range(1200):
        if check():
            return
        time.sleep(0.05)
    assert check()


PUTTER = """
    import json, os, sys, pyarrow as pa, pyarrow.flight as flight
    schema = pa.schema([("x", pa.binary())])
    client = flight.connect(sys.argv[1])
    path = flight.FlightDescriptor.for_path(*sys.argv[2:4])
    writer, reader = client.do_put(path, schema)
    writer.write_metadata(sys.argv[4].encode())
    batch = pa.record_batch([[os.urandom(1_000_000)]], schema=schema)
    count = 0
    while True:
        writer.write_batch(batch)
        count += 1
        print(count, flush=True)
"""


@pytest.mark.parametrize(
    ("bucket", "after", "first"),
    [
        ("local", 3, "{}"),
        ("local", 30, '{"if_absent": true}'),
        ("store", 3, '{"size_follows": true}'),
        ("store", 30, "{}"),
        ("store", 30, '{"if_absent": true}'),
    ],
)
def test_of_a_client_that_is_killed_nothing_stays(
    server: Server, s3: S3, bucket: str, after: int, first: str
) -> None:
    key = f"killed/{after}"
    command = [sys.executable, "-c", textwrap.dedent(PUTTER), server.uri, bucket, key, first]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    for line in client.stdout:
        if int(line) == after:
            break
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    with server.client() as other:
        eventually(
            lambda: not leftovers(server) and not [u for u in uploads(s3) if "killed" in u or "_uploads" in u]
        )
        assert keys(other, bucket, "killed") == []
        # All places are free again, and the key can be put.
        assert put(other, bucket, "fine", 1)["size"] == len(PIECE)


@pytest.mark.parametrize("bucket", ["local", "store"])
def test_of_a_server_that_is_killed_nothing_is_seen_and_its_leftovers_go(
    s3: S3, tmp_path: Path, bucket: str
) -> None:
    config = configuration(tmp_path, s3, prefix=s3.prefix())
    server = start_server(tmp_path, config)
    with server.client() as client:
        before = put(client, bucket, "k", 1)
        writers = []  # one that is dropped has finished its stream
        for key, options in (("k", {}), ("new", {"if_absent": True})):
            writer, reader = client.do_put(flight.FlightDescriptor.for_path(bucket, key), SCHEMA)
            writers.append((writer, reader))
            writer.write_metadata(json.dumps(options).encode())
            for _ in range(40):
                writer.write_batch(pa.record_batch([[PIECE]], schema=SCHEMA))
        if bucket == "local":
            eventually(lambda: len(leftovers(server)) == 2)
        server.kill()
    server = start_server(tmp_path, config)
    with server.client() as client:
        assert [key for key in keys(client, bucket, "") if "/" not in key] == ["k"]
        assert get(client, bucket, "k")[1] == before["sha256"]
        time.sleep(1.1)
        put(client, bucket, "another", 1)
        eventually(lambda: not leftovers(server))
        assert put(client, bucket, "new", 12, if_absent=True)["size"] == 12 * len(PIECE)
    assert server.stop() == 0


def failing(
    share: int, method: str, *, status: int | None = None, short: bool = False
) -> Callable[[Answer], Any]:
    """One in so many requests is answered by an error, by half of the content, or not at all."""
    numbers = iter(range(1, 10**9))

    def fault(answer: Answer) -> Answer | None:
        if answer.method != method or "list-type" in answer.path or next(numbers) % share:
            return answer
        if short and len(answer.body) > 1000:
            return Answer(**{**vars(answer), "body": answer.body[: len(answer.body) // 2]})
        if status is not None:
            return Answer(**{**vars(answer), "status": status, "body": b"", "length": 0})
        return None

    return fault


@pytest.mark.parametrize("fault", [{"status": 503}, {"short": True}, {}])
def test_what_fails_now_and_then_is_tried_again(
    server: Server, proxy: S3Proxy, fault: dict[str, Any]
) -> None:
    with server.client() as client:
        proxy.fault = failing(5, "PUT", **{**fault, "short": False})
        told = put(client, "store", "again", 45)
        proxy.fault = failing(5, "GET", **fault)
        assert get(client, "store", "again", sha256=True)[:2] == (told["size"], told["sha256"])


def test_a_store_that_breaks_down_fails_what_goes_on_and_nothing_of_it_is_seen(
    server: Server, s3: S3, proxy: S3Proxy
) -> None:
    down = threading.Event()
    with server.client() as client:
        before = put(client, "store", "k", 80)
        proxy.fault = lambda answer: None if down.is_set() else answer
        reader = client.do_get(flight.Ticket(b'{"path": ["store", "k"]}'))
        reader.read_chunk()
        down.set()
        with pytest.raises(flight.FlightUnavailableError, match="STORAGE_UNAVAILABLE"):
            reader.read_all()
        for options in ({}, {"if_absent": True}):
            with pytest.raises(
                (flight.FlightUnavailableError, pa.ArrowException), match="STORAGE_UNAVAILABLE"
            ):
                put(client, "store", "other", 30, **options)
        down.clear()
        *_, last = client.do_action(flight.Action("storage.errors", b'{"bucket": "store", "limit": 1000}'))
        errors = json.loads(last.body.to_pybytes())["errors"]
        assert {"get", "upload"} <= {each["operation"] for each in errors}
        told = [each for each in errors if each["operation"] in ("get", "upload")]
        assert all(each["request_id"] and each["principal"] == "anonymous" for each in told)
        assert get(client, "store", "k", sha256=True)[1] == before["sha256"]
        assert "other" not in keys(client, "store", "")
        assert put(client, "store", "other", 12)["size"] == 12 * len(PIECE)


def test_what_a_bucket_does_not_give_is_read_from_its_copy_and_said_to_be(
    s3: S3, proxy: S3Proxy, tmp_path: Path
) -> None:
    rescue = f'[[buckets]]\nname = "copies"\nclass = "rescue"\nkind = "local"\npath = "{tmp_path}/copies"\n'
    config = configuration(tmp_path, s3, endpoint=proxy.endpoint)
    server = start_server(tmp_path, config.replace(CONFIG, rescue + CONFIG))
    copy = tmp_path / "copies" / "store" / "k"
    copy.parent.mkdir(parents=True)
    with server.client() as client:
        told = put(client, "store", "k", 20)
        copy.write_bytes(PIECE * 20)
        (copy.parent / "deleted").write_bytes(b"1")
        with pytest.raises(pa.ArrowKeyError, match="OBJECT_NOT_FOUND"):
            get(client, "store", "deleted")
        assert "rescue_used" not in get(client, "store", "k")[2]
        proxy.fault = lambda answer: None
        size, sha256, trailer = get(client, "store", "k")
        assert (size, sha256) == (told["size"], told["sha256"])
        assert trailer["rescue_used"] == ["store"]
        *_, last = client.do_action(flight.Action("objects.head", b'{"bucket": "store", "key": "k"}'))
        assert json.loads(last.body.to_pybytes())["rescue_used"] == ["store"]
        with pytest.raises(flight.FlightUnavailableError, match="STORAGE_UNAVAILABLE"):
            put(client, "store", "k", 1)
        copied = b'{"bucket": "store", "key": "k", "to_bucket": "local", "to_key": "k"}'
        with pytest.raises(flight.FlightUnavailableError, match="STORAGE_UNAVAILABLE"):
            list(client.do_action(flight.Action("objects.copy", copied)))
        with pytest.raises(flight.FlightUnauthorizedError, match="PERMISSION_DENIED"):
            put(client, "copies", "store/k", 1)
    assert copy.read_bytes() == PIECE * 20
    assert server.stop() == 0


@pytest.mark.parametrize(("bucket", "pieces"), [("local", 600), ("store", 600)])
def test_memory_is_bounded_however_large_the_object(server: Server, bucket: str, pieces: int) -> None:
    process = psutil.Process(server.process.pid)
    with server.client() as client:
        put(client, bucket, "large", 100)
        get(client, bucket, "large")
        before, peak, done = process.memory_info().rss, 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.02):
                peak = max(peak, process.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            told = put(client, bucket, "large", pieces)
            assert get(client, bucket, "large")[:2] == (pieces * len(PIECE), told["sha256"])
        finally:
            done.set()
            watching.join()
    assert peak - before < pieces * len(PIECE) // 2
