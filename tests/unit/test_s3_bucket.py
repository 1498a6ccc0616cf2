"""A bucket of a real S3 store: what a bucket promises, how it fails, and that no message tells too much."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from s3 import S3, start_s3
from s3_proxy import start_proxy

from lakehouse.clock import FixedClock
from lakehouse.config import BucketSettings, SecretRef, Settings
from lakehouse.errors import ConfigError, LakehouseError, ObjectAlreadyExists, ObjectNotFound, StorageError
from lakehouse.storage import BreakerState, Bucket, Buckets, ObjectCache, open_bucket
from lakehouse.storage.rescue_fill import fill


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return open_bucket(s3.settings())


def test_objects_are_written_read_listed_and_deleted(bucket: Bucket) -> None:
    bucket.put("a/b/one", b"1")
    bucket.put("a/b/one", b"11")
    bucket.put_new("a/c/größe = 7 %.txt", b"2")
    with pytest.raises(ObjectAlreadyExists):
        bucket.put_new("a/b/one", b"no")
    assert bucket.get("a/b/one") == b"11"
    assert bucket.get("a/c/größe = 7 %.txt") == b"2"
    assert (bucket.size("a/b/one"), bucket.exists("a/b/one"), bucket.exists("a/b")) == (2, True, False)
    assert bucket.directories("a") == ["b", "c"]
    assert bucket.names("a/c") == ["größe = 7 %.txt"]
    assert {(o.key, o.size_bytes) for o in bucket.objects("a")} == {
        ("a/b/one", 2),
        ("a/c/größe = 7 %.txt", 1),
    }
    assert (bucket.get_end("a/b/one", 1), bucket.get_end("a/b/one", 100)) == (b"1", b"11")
    bucket.delete("a/b/one")
    with pytest.raises(ObjectNotFound):
        bucket.get("a/b/one")
    assert bucket.names("a/b") == []


def test_of_several_writers_of_one_key_exactly_one_succeeds(bucket: Bucket) -> None:
    def write(number: int) -> bool:
        try:
            bucket.put_new("slot", str(number).encode())
        except ObjectAlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = [number for number, succeeded in enumerate(threads.map(write, range(16))) if succeeded]
    assert [bucket.get("slot")] == [str(number).encode() for number in won]


@pytest.mark.parametrize("size", [0, 1, 25_000_000])
def test_what_is_written_through_a_file_appears_whole_or_not_at_all(bucket: Bucket, size: int) -> None:
    content = os.urandom(size)
    with bucket.open_writer("whole") as file:
        for start in range(0, size, 1_000_000):
            file.write(content[start : start + 1_000_000])
        assert not bucket.exists("whole")
    assert bucket.get("whole") == content
    file = bucket.open_writer("never")
    file.write(content)
    file.abort()
    assert not bucket.exists("never")


def test_uris_of_the_bucket_lead_to_keys_and_those_of_others_do_not(s3: S3, bucket: Bucket) -> None:
    assert bucket.uri_of("t/x") == f"{bucket.uri}/t/x"
    assert bucket.uri.startswith(f"s3://{s3.bucket}/run")
    assert bucket.key_of(bucket.uri_of("t/x")) == "t/x"
    assert bucket.key_of(bucket.uri_of("t/x").replace("s3:", "s3a:")) == "t/x"
    for other in (f"s3://{s3.bucket}/other/t/x", bucket.uri + "1/x", "file:///etc/passwd"):
        with pytest.raises(StorageError, match="not in bucket 'primary'"):
            bucket.key_of(other)


def _failure(settings: BucketSettings, s3: S3) -> LakehouseError:
    with pytest.raises(LakehouseError) as caught:
        open_bucket(settings)
    told = str(caught.value)
    for secret in (s3.secret_key, "wr0ng", settings.endpoint.removeprefix("http://"), "127.0.0.1"):
        assert secret not in told
    assert "'primary'" in told
    return caught.value


def test_opening_tells_what_is_wrong_and_no_secret(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = s3.settings()
    monkeypatch.setenv("WRONG", f"{s3.access_key}:wr0ng")
    monkeypatch.setenv("UNKNOWN", "nobody:wr0ng")
    monkeypatch.setenv("SHAPELESS", "wr0ng")
    for name in ("WRONG", "UNKNOWN"):
        refused = _failure(settings.model_copy(update={"secret_ref": SecretRef(env=name)}), s3)
        assert isinstance(refused, StorageError)
        assert "does not accept the credentials" in str(refused)
    shapeless = _failure(settings.model_copy(update={"secret_ref": SecretRef(env="SHAPELESS")}), s3)
    assert isinstance(shapeless, ConfigError)
    nowhere = settings.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    assert "cannot be reached" in str(_failure(nowhere, s3))
    none = settings.model_copy(update={"bucket": "no-such-bucket"})
    assert "no such bucket" in str(_failure(none, s3))


def test_a_store_that_ignores_create_only_writes_is_refused(s3: S3) -> None:
    settings = s3.settings()
    proxy = start_proxy(s3.endpoint)
    try:
        through = settings.model_copy(update={"endpoint": proxy.endpoint})
        open_bucket(through)
        done = {"status": 200, "headers": (("ETag", '"0"'),)}
        proxy.fault = lambda answer: replace(answer, **done) if answer.status == 412 else answer
        refused = _failure(through, s3)
        assert isinstance(refused, ConfigError)
        assert "ignores create-only writes" in str(refused)
        proxy.fault = lambda answer: replace(answer, status=403) if answer.method == "PUT" else answer
        assert "does not accept the credentials" in str(_failure(through, s3))
    finally:
        proxy.stop()
    assert list(open_bucket(settings).objects("")) == []


def test_credentials_come_from_a_file_that_may_change_and_from_the_environment(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials.toml"
    file.write_text(f"access_key_id = '{s3.access_key}'\nsecret_access_key = '{s3.secret_key}'\n")
    file.chmod(0o600)
    settings = s3.settings("shared")
    open_bucket(settings.model_copy(update={"secret_ref": SecretRef(file=file)})).put("x", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    assert open_bucket(settings.model_copy(update={"secret_ref": None})).get("x") == b"1"
    monkeypatch.setattr("lakehouse.storage.s3._REREAD", timedelta(0))
    rotated = open_bucket(settings.model_copy(update={"secret_ref": SecretRef(file=file)}))
    right = file.read_text()
    for text, works in (("nobody:wr0ng", False), (s3.secret, True), ("", False), (right, True)):
        file.write_text(text)
        if works:
            assert rotated.get("x") == b"1"
        else:
            with pytest.raises(StorageError, match="credentials"):
                rotated.get("x")
    # What the reference names goes before the environment.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng")
    assert open_bucket(settings).get("x") == b"1"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"kind": "s3"}, "needs the key bucket"),
        ({"bucket": "b1b"}, 'bucket is for kind = "s3"'),
        ({"kind": "s3", "bucket": "s3://b"}, "without a scheme"),
        ({"kind": "s3", "bucket": "b1", "endpoint": "s3.example.org"}, "should be a URL"),
        (
            {"kind": "s3", "bucket": "b1", "endpoint": "https://k:s@s3.example.org"},
            "without user and password",
        ),
        ({"kind": "s3", "bucket": "b1", "endpoint": "https://s3.example.org/b1"}, "without a path"),
        ({"kind": "s3", "bucket": "b1", "endpoint": "https://10.0.0.1"}, "allow_ip_literals"),
        ({"kind": "s3", "bucket": "b1", "prefix": "../up"}, "relative key"),
        ({"kind": "s3", "bucket": "b1", "secret_ref": "hunter2"}, "secret_ref"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(keys: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(buckets=({"name": "primary", **keys},))
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_store_that_is_gone_fails_cleanly_and_works_again_when_it_is_back(s3: S3, bucket: Bucket) -> None:
    bucket.put("kept", b"1")
    s3.kill()
    for attempt in (
        lambda: bucket.get("kept"),
        lambda: bucket.put_new("new", b"2"),
        lambda: list(bucket.objects("")),
        bucket.check,
    ):
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            attempt()
        assert "127.0.0.1" not in str(caught.value)
    s3.restart()
    assert bucket.get("kept") == b"1"


def test_a_store_that_does_not_answer_is_not_waited_for_longer_than_allowed(s3: S3) -> None:
    proxy = start_proxy(s3.endpoint)
    try:
        settings = s3.settings(endpoint=proxy.endpoint, request_timeout_seconds=3, max_retries=1)
        bucket = open_bucket(settings)
        go_on = threading.Event()
        proxy.fault = lambda answer: answer if go_on.wait(20) else None
        with pytest.raises(StorageError, match="did not answer in time"):
            bucket.get("x")
        go_on.set()
        with pytest.raises(ObjectNotFound):
            bucket.get("x")
    finally:
        proxy.stop()


def test_a_request_that_comes_while_the_store_starts_is_repeated(s3: S3) -> None:
    patient = open_bucket(s3.settings(max_retries=20, retry_seconds=30))
    patient.put("kept", b"1")
    s3.kill()
    starting = threading.Thread(target=s3.restart)
    starting.start()
    time.sleep(0.05)
    assert patient.get("kept") == b"1"
    starting.join()


def test_a_store_that_does_not_answer_is_left_alone_and_noticed_when_it_is_back(s3: S3) -> None:
    proxy = start_proxy(s3.endpoint)
    quick = {"endpoint": proxy.endpoint, "max_retries": 0, "breaker_failures": 2, "breaker_seconds": 5}
    here = {"name": "here", "kind": "memory"}
    there = s3.settings(name="there", **quick).model_dump()
    clock = FixedClock()
    buckets = Buckets(Settings(buckets=[here, there]).buckets, ObjectCache(), clock, frozenset(), frozenset())
    bucket = buckets["there"]

    def fails(told: str) -> None:
        with pytest.raises(StorageError, match=told):
            bucket.get("x")

    try:
        bucket.put("x", b"1")
        for status in (403, 404):
            proxy.fault = lambda answer, told=status: replace(answer, status=told)
            for _ in range(5):
                with pytest.raises(StorageError):
                    bucket.get("x")
        assert buckets.state("there") is BreakerState.CLOSED, "a store that refuses is there"
        proxy.fault = lambda answer: replace(answer, status=503, body=b"", length=0)
        fails("is not working")
        proxy.fault = lambda answer: replace(answer, body=b"", length=1)
        fails("broke off")
        asked = len(proxy.seen)
        fails("has not been answering, and is asked again in 5.0 s")
        with pytest.raises(StorageError, match="has not been answering"):
            bucket.open_writer("y")
        assert len(proxy.seen) == asked
        use = buckets.use("there")
        assert (use.refused, use.last_failure.error.code) == (2, "STORAGE_UNAVAILABLE")
        clock.elapsed_s = 5
        proxy.fault = lambda answer: None
        fails("cannot be reached")
        fails("asked again in 10.0 s")
        proxy.fault = lambda answer: answer
        assert [each.reason for each in buckets.health(["there"])] == [""]
        assert bucket.get("x") == b"1", "whoever sees the store answer opens it for all"
    finally:
        proxy.stop()
        buckets.close()


def test_credentials_come_from_a_directory_that_is_replaced_as_a_whole(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lakehouse.storage.s3._REREAD", timedelta(0))
    right = {"access_key_id": s3.access_key, "secret_access_key": f"{s3.secret_key}\n"}
    for number, parts in enumerate((right, {**right, "secret_access_key": "wr0ng"}, right)):
        (tmp_path / f"..{number}").mkdir()
        for name, text in parts.items():
            (tmp_path / f"..{number}" / name).write_text(text)
            (tmp_path / f"..{number}" / name).chmod(0o444)
    (tmp_path / "..data").symlink_to("..0")
    bucket = open_bucket(s3.settings(secret_ref=SecretRef(directory=tmp_path)))
    bucket.put("x", b"1")
    for number in (1, 2):
        (tmp_path / "..new").symlink_to(f"..{number}")
        (tmp_path / "..new").rename(tmp_path / "..data")
        if number == 1:
            with pytest.raises(StorageError, match="credentials"):
                bucket.get("x")
    assert bucket.get("x") == b"1"


def test_what_a_store_keeps_beside_an_object_is_kept_of_its_copy(s3: S3) -> None:
    source, rescue = open_bucket(s3.settings()), open_bucket(s3.settings(name="rescue"))
    source.put_once("a", b"1", {"Content-Type": "text/plain", "sha256": "0" * 64}, create=True)
    large = os.urandom(9_000_000)
    with source.open_writer("b", {"Content-Type": "image/png"}) as file:
        file.write(large)
    *_, filled = fill(source, rescue)
    assert (filled.total, filled.copied, filled.copied_bytes) == (2, 2, 1 + len(large))
    for key in ("a", "b"):
        assert rescue.details(f"primary/{key}").attributes == source.details(key).attributes
    assert rescue.get("primary/b") == large
