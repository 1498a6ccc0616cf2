"""Buckets: which there are, how they are, and a record of every request that failed."""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime, timedelta

import pytest

from lakehouse import telemetry
from lakehouse.clock import SystemClock
from lakehouse.config import Settings
from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.journal import BUCKET_ERRORS_SCHEMA, BucketErrorJournal
from lakehouse.runtime import Lakehouse
from lakehouse.storage import Buckets, ObjectCache

NEEDED = frozenset({"primary"})


@pytest.fixture
def nowhere():
    """The port of a store that nobody runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def settings(tmp_path, nowhere, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    remote = {
        "name": "tenant", "kind": "s3", "bucket": "rows", "endpoint": f"http://127.0.0.1:{nowhere}",
        "max_retries": 0, "connect_timeout_seconds": 1,
    }  # fmt: skip
    primary = {"name": "primary", "path": tmp_path / "data"}
    return Settings(buckets=[primary, remote], cache={"directory": str(tmp_path / "cache")})


@pytest.fixture
def buckets(settings):
    opened = Buckets(settings.buckets, ObjectCache(), SystemClock(), NEEDED, NEEDED)
    yield opened
    opened.close()


@pytest.fixture
def journal(buckets):
    opened = BucketErrorJournal(buckets.primary, SystemClock())
    opened.watch(buckets.values())
    yield opened
    opened.close()


def test_a_bucket_that_nothing_needs_may_be_down_at_the_start_and_is_told_to_be(buckets, journal, nowhere):
    well, ill = buckets.health()
    assert (well.bucket, well.reason, ill.bucket, ill.code) == (
        "primary", "", "tenant", "STORAGE_UNAVAILABLE",
    )  # fmt: skip
    assert "cannot be reached" in ill.reason
    assert str(nowhere) not in ill.reason
    assert [each.bucket for each in buckets.health(["primary"])] == ["primary"]
    with pytest.raises(InvalidRequest, match="there are: primary, tenant"):
        buckets.health(["tenants"])
    use = buckets.use("tenant")
    assert (use.failures, use.last_failure.operation) == (1, "list")
    assert buckets.use("primary").failures == 0


def test_a_bucket_that_is_needed_has_to_answer(settings):
    with pytest.raises(StorageError, match="bucket 'tenant'"):
        Buckets(settings.buckets, ObjectCache(), SystemClock(), NEEDED | {"tenant"}, NEEDED)


def test_every_failure_is_recorded_with_whose_request_it_was(buckets, journal):
    telemetry.call_fields.set({"request_id": "r-1", "principal": "alice"})
    try:
        with pytest.raises(StorageError):
            buckets["tenant"].put("a/ä", b"x")
    finally:
        telemetry.call_fields.set(None)
    with pytest.raises(StorageError):
        buckets["tenant"].get("b")
    with pytest.raises(StorageError), buckets["tenant"].open_writer("c") as file:
        file.write(b"x")
    assert not buckets.primary.exists("none"), "that something is not there is no failure"
    events = journal.recent(10)
    assert [(e["bucket"], e["operation"], e["key"]) for e in events] == [
        ("tenant", "upload", "c"), ("tenant", "get", "b"), ("tenant", "put", "a/ä"),
    ]  # fmt: skip
    assert (events[2]["request_id"], events[2]["principal"]) == ("r-1", "alice")
    assert [e["operation"] for e in journal.recent(10, operation="get", bucket="tenant")] == ["get"]
    assert journal.recent(10, bucket="primary") == []
    assert journal.recent(10, since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert len(journal.recent(2)) == 2
    assert journal.flush() == 3
    afresh = BucketErrorJournal(buckets.primary, SystemClock())
    table = afresh.table()
    afresh.close()
    assert table.schema == BUCKET_ERRORS_SCHEMA
    assert table["key"].to_pylist() == ["a/ä", "b", "c"]
    assert set(table["code"].to_pylist()) == {"STORAGE_UNAVAILABLE"}


def test_while_the_primary_bucket_is_gone_its_failures_are_told_from_memory(buckets, journal, tmp_path):
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("a file is in the way")
    for _ in range(3):
        with pytest.raises(StorageError):
            buckets.primary.put("k", b"v")
    with pytest.raises(StorageError):
        journal.flush()
    assert [event["key"] for event in journal.recent(10)] == ["k"] * 3, "nor is the journal in its own way"
    assert journal.table().schema == BUCKET_ERRORS_SCHEMA
    assert journal.table()["key"].to_pylist() == ["k"] * 3
    (tmp_path / "data").unlink()
    (tmp_path / "data").mkdir()
    assert journal.flush() == 3
    assert journal.table()["key"].to_pylist() == ["k"] * 3


def test_a_server_shows_its_buckets_and_their_failures_as_tables(settings):
    lake = Lakehouse(settings)
    try:
        with pytest.raises(StorageError):
            lake.buckets["tenant"].get("x")
        names = {table.name: table for table in lake.engine.system.all()}
        (row,) = [r for r in names["buckets"].read(None).to_pylist() if r["name"] == "tenant"]
        assert (row["kind"], row["is_primary"], row["failures"]) == ("s3", False, 1)
        assert (row["last_operation"], row["last_key"], row["location"]) == ("get", "x", "s3://rows")
        assert row["last_code"] == "STORAGE_UNAVAILABLE"
        assert names["bucket_errors"].read(None)["key"].to_pylist() == ["x"]
        assert not names["bucket_errors"].personal
        assert not names["buckets"].personal
    finally:
        lake.close()
