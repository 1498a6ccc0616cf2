"""Filling the rescue bucket: broken off anywhere, what it holds can be read, and the rest follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lakehouse.catalog.object_catalog import ObjectCatalog
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import InvalidRequest, StorageError
from lakehouse.runtime import Lakehouse
from lakehouse.storage import Bucket, ObjectWriter
from lakehouse.storage.bucket import UPLOAD_PART_BYTES
from lakehouse.storage.local import open_local_bucket
from lakehouse.storage.rescue_copies import RescueCopies
from lakehouse.storage.rescue_fill import Filled, fill

WAREHOUSE = "warehouse"


class Breaking(Bucket):
    """A directory that takes only so many objects."""

    def __init__(self, path: Path, most: int = 10**9) -> None:
        there = open_local_bucket("rescue", path)
        super().__init__("rescue", there._store, there.uri, there._root, None)
        self.left = most
        self.written: list[str] = []

    def put(self, key: str, content: bytes, durable: bool = True) -> None:
        self._count(key)
        super().put(key, content, durable)

    def open_writer(self, key: str, attributes: Mapping[str, str] | None = None) -> ObjectWriter:
        self._count(key)
        return super().open_writer(key, attributes)

    def _count(self, key: str) -> None:
        if not self.left:
            raise StorageError("no more")
        self.left -= 1
        self.written.append(key)


def run(lake: Lakehouse, *statements: str) -> None:
    session = lake.sessions.get("s", lake.anonymous, "")
    for sql in statements:
        lake.engine.changes.run(lake.engine.gate.analyse(sql), Scope(session, None, CallWatch()))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lakehouse]:
    settings = Settings(buckets=[{"path": tmp_path / "primary"}], catalog={"refresh_ms": 0})
    opened = Lakehouse(settings)
    run(
        opened,
        "CREATE TABLE t AS SELECT i AS n FROM range(10) r(i)",
        "INSERT INTO t VALUES (100)",
        "DELETE FROM t WHERE n < 5",
        "CREATE VIEW v AS SELECT n FROM t",
        'CREATE TABLE "größe 1" (n BIGINT)',
        "CREATE TABLE gone (n BIGINT)",
        "DROP TABLE gone",
        "CREATE TABLE large AS SELECT 1 AS n",
    )
    large = bytes(range(256)) * (UPLOAD_PART_BYTES // 100)
    opened.bucket.put(f"{WAREHOUSE}/files/large.bin", large)
    opened.bucket.put("_probe/left", b"first")
    yield opened
    opened.close()


def contents(bucket: Bucket, above: str = "") -> dict[str, bytes]:
    """The tables; journals are written at any time."""
    found = bucket.objects(f"{above}{WAREHOUSE}")
    return {each.key.removeprefix(above): bucket.get(each.key) for each in found}


def readable_versions(lake: Lakehouse, rescue: Bucket) -> dict[str, int]:
    """The newest version of each table of the copies, all of whose files are there."""
    copies = RescueCopies(lake.bucket, rescue)
    catalog = ObjectCatalog("lake", copies, WAREHOUSE)
    found = {}
    for name in copies.directories(f"{WAREHOUSE}/main"):
        head = catalog._head(f"{WAREHOUSE}/main/{name}")
        if head.metadata is None:
            continue
        found[name] = head.version
        snapshot = head.metadata.current_snapshot()
        for manifest in snapshot.manifests(catalog.file_io) if snapshot else ():
            for entry in manifest.fetch_manifest_entry(catalog.file_io, discard_deleted=True):
                assert copies.exists(copies.key_of(entry.data_file.file_path)), name
    return found


def filled(source: Bucket, rescue: Bucket, prefix: str = WAREHOUSE) -> Filled:
    *_, last = fill(source, rescue, prefix)
    return last


def test_what_was_copied_until_it_broke_off_can_be_read_and_is_not_copied_again(
    lake: Lakehouse, tmp_path: Path
) -> None:
    whole = Breaking(tmp_path / "whole")
    told = filled(lake.bucket, whole)
    everything = contents(lake.bucket)
    assert contents(whole, "primary/") == everything
    assert told.copied == len(everything) == len(whole.written)
    assert told.seen == told.total == len(everything)
    assert filled(lake.bucket, whole).copied == 0
    versions = readable_versions(lake, whole)
    assert versions["t"] == 3
    for number in range(0, len(everything), 3):
        broken = Breaking(tmp_path / f"broken{number}", number)
        with pytest.raises(StorageError, match="no more"):
            filled(lake.bucket, broken)
        assert all(version <= versions[name] for name, version in readable_versions(lake, broken).items())
        broken.left = 10**9
        assert filled(lake.bucket, broken).copied == len(everything) - number
        assert contents(broken, "primary/") == everything
        assert len(set(broken.written)) == len(broken.written)


def test_a_version_that_comes_meanwhile_is_left_for_the_next_time(lake: Lakehouse, tmp_path: Path) -> None:
    rescue = Breaking(tmp_path / "rescue")
    going_on = fill(lake.bucket, rescue, WAREHOUSE)
    next(going_on)
    run(lake, "INSERT INTO t VALUES (200)", "CREATE TABLE new AS SELECT 1 AS n")
    *_, told = going_on
    assert told.later == 2
    versions = readable_versions(lake, rescue)
    assert versions["t"] == 3
    assert "new" not in versions
    assert filled(lake.bucket, rescue).later == 0
    assert readable_versions(lake, rescue) == {**versions, "t": 4, "new": 1}


def test_what_changes_is_copied_again(lake: Lakehouse, tmp_path: Path) -> None:
    rescue = Breaking(tmp_path / "rescue")
    filled(lake.bucket, rescue)
    lake.bucket.put(f"{WAREHOUSE}/files/other", b"one")
    assert filled(lake.bucket, rescue, f"{WAREHOUSE}/files").copied == 1
    lake.bucket.put(f"{WAREHOUSE}/files/other", b"two")
    assert filled(lake.bucket, rescue, f"{WAREHOUSE}/files").copied == 1
    assert rescue.get(f"primary/{WAREHOUSE}/files/other") == b"two"
    slot = f"{WAREHOUSE}/main/t/metadata/v1.metadata.json"
    lake.bucket.put(slot, b'{"pruned": true}')
    run(lake, "INSERT INTO t VALUES (300)")
    before = len(rescue.written)
    filled(lake.bucket, rescue)
    order = [key.rsplit("/", 1)[-1] for key in rescue.written[before:]]
    assert (
        order.index("v4.metadata.json") < order.index("v1.metadata.json") < order.index("version-hint.text")
    )
    assert contents(rescue, "primary/") == contents(lake.bucket)
    assert filled(lake.bucket, Breaking(tmp_path / "all"), "").copied >= len(contents(lake.bucket))
    assert not (tmp_path / "all" / "primary" / "_probe").exists()
    lake.bucket.delete(f"{WAREHOUSE}/files/other")
    filled(lake.bucket, rescue)
    assert rescue.get(f"primary/{WAREHOUSE}/files/other") == b"two", "nothing is ever deleted"


def test_only_others_can_be_copied_into_the_rescue_bucket(tmp_path: Path) -> None:
    def opened(**more: Any) -> Lakehouse:
        buckets = [{"path": tmp_path / "a"}, {"name": "b", "path": tmp_path / "b", **more}]
        return Lakehouse(Settings(buckets=buckets))

    lake = opened()
    with pytest.raises(InvalidRequest, match='no bucket is of class "rescue"'):
        lake.buckets.to_be_rescued()
    lake.close()
    lake = opened(**{"class": "rescue"})
    assert [bucket.name for bucket in lake.buckets.to_be_rescued()] == ["primary"]
    for name in ("b", "c"):
        with pytest.raises(InvalidRequest, match="these can: primary"):
            lake.buckets.to_be_rescued(name)
    lake.close()
