"""The object cache: what is served is right and whole, whoever reads, dies, or spoils it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from s3 import S3, start_s3
from s3_proxy import Answer, S3Proxy, slowly, start_proxy

from lakehouse.errors import ConfigError, ObjectNotFound, StatementCancelled, StorageError
from lakehouse.storage import Bucket, ObjectCache, open_bucket

KEY = "t/data/day=2026-11-21/a%20b !ü [x].parquet"
LARGE = os.urandom(20_000_000)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


@pytest.fixture
def proxy(s3: S3) -> Iterator[S3Proxy]:
    running = start_proxy(s3.endpoint)
    yield running
    running.stop()


@pytest.fixture
def open_cache(s3: S3, proxy: S3Proxy, tmp_path: Path) -> Iterator[Callable[..., tuple[ObjectCache, Bucket]]]:
    """Opens a cache over one bucket, as often as wanted; as many at once as are not closed."""
    opened: list[ObjectCache] = []
    settings = s3.settings(endpoint=proxy.endpoint)

    def open_one(max_bytes: int = 10**9) -> tuple[ObjectCache, Bucket]:
        cache = ObjectCache(tmp_path / "cache", max_bytes)
        opened.append(cache)
        return cache, open_bucket(settings, cache)

    yield open_one
    for cache in opened:
        cache.close()


def content(cache: ObjectCache, bucket: Bucket, key: str) -> bytes:
    path = bucket.local_path(key)
    with cache.held([path]):
        return Path(path).read_bytes()


Opens = Callable[..., tuple[ObjectCache, Bucket]]


def test_objects_are_fetched_once_in_parts_and_found_again_by_the_next_process(
    open_cache: Opens, proxy: S3Proxy
) -> None:
    cache, bucket = open_cache()
    for key, written in ((KEY, LARGE), ("t/data/small", b"x")):
        bucket.put(key, written)
        path = Path(bucket.local_path(key))
        assert not path.exists()
        assert not set("*?[]") & set(path.name)
        assert content(cache, bucket, key) == content(cache, bucket, key) == written
    assert sorted(a.range for a in proxy.reads_of_data()) == [
        "bytes=0-8388607", "bytes=0-8388607", "bytes=16777216-19999999", "bytes=8388608-16777215"
    ]  # fmt: skip
    found = cache.statistics()
    assert (found.objects, found.bytes, found.in_use_bytes) == (2, len(LARGE) + 1, 0)
    assert (found.misses, found.hits, found.fetched_bytes) == (2, 2, found.bytes)
    cache.close()
    again, bucket = open_cache()
    assert content(again, bucket, KEY) == LARGE
    assert (again.statistics().hits, again.statistics().misses) == (1, 0)
    assert again.clear() == (2, len(LARGE) + 1)
    assert not list(Path(bucket.local_path(KEY)).parents[1].rglob("*.parquet"))


def test_what_exists_nowhere_is_not_found_and_keys_lead_nowhere_else(open_cache: Opens) -> None:
    cache, bucket = open_cache()
    with pytest.raises(ObjectNotFound, match="'t/data/nothing' of bucket 'primary'"):
        content(cache, bucket, "t/data/nothing")
    for key in ("../x", "a/../../x", "a//b", "./a", "/etc/passwd", ""):
        with pytest.raises(StorageError):
            bucket.local_path(key)
    assert cache.statistics().objects == cache.statistics().bytes == 0


def test_readers_of_one_object_share_one_download(open_cache: Opens, proxy: S3Proxy) -> None:
    cache, bucket = open_cache()
    bucket.put(KEY, LARGE)
    proxy.fault = slowly(0.2)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: content(cache, bucket, KEY), range(8)))
    assert found == [LARGE] * 8
    assert len(proxy.reads_of_data()) == 3
    assert (cache.statistics().misses, cache.statistics().shared) == (1, 7)


def test_what_is_in_use_stays_and_the_rest_goes_least_recently_used_first(open_cache: Opens) -> None:
    cache, bucket = open_cache(max_bytes=3000)
    keys = [f"t/data/{number}" for number in range(5)]
    for key in keys:
        bucket.put(key, os.urandom(1000))
    for key in (*keys[:3], keys[0]):
        content(cache, bucket, key)
    there = lambda: [key for key in keys if Path(bucket.local_path(key)).exists()]  # noqa: E731
    content(cache, bucket, keys[3])
    assert there() == [keys[0], keys[2], keys[3]]
    with cache.held(map(bucket.local_path, keys)):
        assert there() == keys
        assert cache.statistics().bytes == cache.statistics().in_use_bytes == 5000
        assert cache.clear() == (0, 0)
    assert cache.statistics().bytes == 3000
    assert len(there()) == 3


def test_a_cancelled_read_stops_its_download_but_not_that_of_others(
    open_cache: Opens, proxy: S3Proxy
) -> None:
    cache, bucket = open_cache()
    bucket.put(KEY, LARGE)
    bucket.put("t/data/other", LARGE)
    go_on = threading.Event()
    asked = threading.Barrier(3)  # the first part of each object, and the test

    def hold(answer: Answer) -> Answer | None:
        if "/data/" in answer.path:
            if answer.range.startswith("bytes=0-"):
                asked.wait(20)
            go_on.wait(20)
        return answer

    proxy.fault = hold
    paths = [bucket.local_path(KEY), bucket.local_path("t/data/other")]
    alone, both = cache.lease(paths[:1]), cache.lease(paths)
    with ThreadPoolExecutor(2) as threads:
        waits = threads.submit(both.wait)
        asked.wait(20)
        both.cancel()
        with pytest.raises(StatementCancelled):
            waits.result(20)
        both.release()
        go_on.set()
        alone.wait()
    assert Path(paths[0]).read_bytes() == LARGE
    alone.release()
    assert not Path(paths[1]).exists()
    assert cache.statistics().bytes == len(LARGE)
    assert sum("/other" in a.path for a in proxy.reads_of_data()) <= 1
    proxy.fault = lambda a: a
    assert content(cache, bucket, "t/data/other") == LARGE


def test_a_failed_download_fails_all_who_wait_and_the_next_one_works(
    open_cache: Opens, proxy: S3Proxy
) -> None:
    cache, bucket = open_cache()
    bucket.put(KEY, LARGE)
    proxy.fault = lambda a: None if a.range.startswith("bytes=16777216") else a
    with ThreadPoolExecutor(2) as threads:
        for failed in [threads.submit(content, cache, bucket, KEY) for _ in range(2)]:
            with pytest.raises(StorageError, match="of bucket 'primary' could not be read") as caught:
                failed.result(60)
            assert "127.0.0.1" not in str(caught.value)
    assert cache.statistics().bytes == 0
    proxy.fault = lambda a: a
    assert content(cache, bucket, KEY) == LARGE


@pytest.mark.parametrize("times", [1, 99])
@pytest.mark.parametrize("kind", ["short", "spoiled"])
def test_an_answer_that_is_short_or_spoiled_is_asked_for_again_and_never_served(
    open_cache: Opens, proxy: S3Proxy, kind: str, times: int
) -> None:
    cache, bucket = open_cache()
    written = os.urandom(100_000)
    bucket.put(KEY, written)
    left = [times]

    def spoil(answer: Answer) -> Answer | None:
        if answer not in proxy.reads_of_data() or left[0] == 0:
            return answer
        left[0] -= 1
        if kind == "short":
            return replace(answer, body=answer.body[:5000])
        return replace(answer, body=answer.body[:5000] + os.urandom(95_000))

    proxy.fault = spoil
    if times == 99:
        with pytest.raises(StorageError, match=r"incomplete|damaged"):
            content(cache, bucket, KEY)
        assert cache.statistics().objects == 0
    else:
        assert content(cache, bucket, KEY) == written


def test_an_etag_that_only_looks_like_a_checksum_does_no_harm(
    open_cache: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, bucket = open_cache()
    bucket.put(KEY, b"encrypted elsewhere")
    monkeypatch.setattr("lakehouse.storage.object_cache.md5_of", lambda tag: "0" * 32)
    assert content(cache, bucket, KEY) == b"encrypted elsewhere"


@pytest.mark.parametrize("how", ["changed", "cut", "gone", "sum changed", "sum gone"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_damaged_copy_is_noticed_and_fetched_again(open_cache: Opens, how: str, restarted: bool) -> None:
    cache, bucket = open_cache()
    bucket.put(KEY, LARGE[:50_000])
    assert content(cache, bucket, KEY) == LARGE[:50_000]
    copy = Path(bucket.local_path(KEY))
    beside = Path(str(copy).replace("/objects/", "/sums/"))
    if restarted:
        cache.close()
    if how == "changed":
        copy.write_bytes(LARGE[50_000:100_000])
    elif how == "cut":
        os.truncate(copy, 40_000)
    elif how == "gone":
        copy.unlink()
    elif how == "sum changed":
        beside.write_text("crc32 00000000 50000\n")
    else:
        beside.unlink()
    if restarted:
        cache, bucket = open_cache()
    assert content(cache, bucket, KEY) == LARGE[:50_000]


def test_two_processes_do_not_share_copies_and_the_second_one_finds_room(open_cache: Opens) -> None:
    first, bucket = open_cache()
    bucket.put(KEY, LARGE)
    second, other = open_cache()
    assert bucket.local_path(KEY) != other.local_path(KEY)
    assert content(first, bucket, KEY) == content(second, other, KEY) == LARGE
    first.close()
    third, another = open_cache()
    assert another.local_path(KEY) == bucket.local_path(KEY)
    content(third, another, KEY)
    assert third.statistics().misses == 0


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, s3: S3) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"cache\.directory.*others may write"):
        open_bucket(s3.settings(), ObjectCache(tmp_path))


_VICTIM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from lakehouse.config import BucketSettings
from lakehouse.storage import ObjectCache, open_bucket
cache = ObjectCache(Path(sys.argv[1]))
bucket = open_bucket(BucketSettings.model_validate_json(sys.argv[3]), cache)
print(bucket.local_path(sys.argv[4]), flush=True)
with cache.held([bucket.local_path(sys.argv[4])]):
    print("done", flush=True)
"""


@pytest.mark.parametrize("parts", [1, 3, 4])
def test_kill_9_in_the_middle_of_a_download_leaves_nothing_that_is_served(
    s3: S3, proxy: S3Proxy, tmp_path: Path, parts: int
) -> None:
    settings = s3.settings(endpoint=proxy.endpoint)
    open_bucket(settings).put(KEY, LARGE)
    reached, go_on = threading.Event(), threading.Event()

    def hold(answer: Answer) -> Answer | None:
        if len(proxy.reads_of_data()) >= parts and parts < 4 and not go_on.is_set():
            reached.set()
            go_on.wait(20)
        return answer

    proxy.fault = hold
    given = settings.model_dump_json(exclude_defaults=True)
    root = str(Path(__file__).parents[2])
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path), root, given, KEY], stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    path = Path(victim.stdout.readline().strip())
    if parts == 4:
        assert victim.stdout.readline() == "done\n"
    else:
        assert reached.wait(20)
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    go_on.set()
    assert path.exists() == (parts == 4)
    cache = ObjectCache(tmp_path)
    bucket = open_bucket(settings, cache)
    assert bucket.local_path(KEY) == str(path)
    assert cache.statistics().bytes == (len(LARGE) if parts == 4 else 0)
    assert not list((path.parents[5] / "partial").iterdir())
    assert content(cache, bucket, KEY) == LARGE
    cache.close()
