"""Objects as clients choose and see them: keys, pages of listings, grants, and what is the server's own."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3 import S3, start_s3

from lakehouse.access.guarded_objects import GuardedObjects, Objects
from lakehouse.access.policy import AccessPolicy
from lakehouse.access.principal import Principal
from lakehouse.clock import SystemClock
from lakehouse.config import BucketSettings, CatalogConnection, ObjectGrantSettings, RoleSettings, Settings
from lakehouse.errors import (
    ContentMismatch,
    InvalidRequest,
    LakehouseError,
    LimitExceeded,
    ObjectAlreadyExists,
    ObjectChanged,
)
from lakehouse.storage import Bucket, ObjectCache, open_bucket, open_local_bucket
from lakehouse.storage.bucket import UPLOAD_PART_BYTES
from lakehouse.storage.object_download import PART_BYTES, ObjectDownload
from lakehouse.storage.object_keys import check_key
from lakehouse.storage.object_listing import Wish, list_page
from lakehouse.storage.object_upload import Leftovers, ObjectUpload, PutOptions, PutResult

MOST = 10**9
SIZES = (0, 1, UPLOAD_PART_BYTES - 1, UPLOAD_PART_BYTES, UPLOAD_PART_BYTES + 1, 2 * UPLOAD_PART_BYTES)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "local":
        return open_bucket(BucketSettings(path=tmp_path / "bucket"))
    if request.param == "memory":
        return open_bucket(BucketSettings(kind="memory"), ObjectCache(tmp_path / "cache", 10**9, 4))
    return open_bucket(request.getfixturevalue("s3").settings())


def put(bucket: Bucket, key: str, content: bytes, options: PutOptions | None = None) -> PutResult:
    upload = ObjectUpload(bucket, key, options or PutOptions(), MOST)
    try:
        for start in range(0, len(content), 3_000_000):
            upload.write(memoryview(content)[start : start + 3_000_000])
        return upload.finish()
    finally:
        upload.abort()


def get(bucket: Bucket, key: str, start: int = 0, end: int | None = None) -> bytes:
    found = bucket.details(key)
    return b"".join(ObjectDownload(bucket, found, start, found.size_bytes if end is None else end))


def leftovers(bucket: Bucket) -> list[str]:
    return [o.key for o in (*bucket.objects("_uploads"), *bucket.unfinished(""))]


@pytest.mark.parametrize("if_absent", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_is_what_is_got(bucket: Bucket, size: int, if_absent: bool) -> None:
    content = os.urandom(size)
    told = put(bucket, "a/ü.bin", content, PutOptions(if_absent, size_bytes=size))
    is_exact = bucket.is_local or size <= UPLOAD_PART_BYTES
    sha256 = hashlib.sha256(content).hexdigest()
    assert told == PutResult(size, sha256, bucket.details("a/ü.bin").e_tag, is_exact)
    assert get(bucket, "a/ü.bin") == content
    assert get(bucket, "a/ü.bin", size // 3, size // 2) == content[size // 3 : size // 2]
    if if_absent:
        with pytest.raises(ObjectAlreadyExists):
            put(bucket, "a/ü.bin", content[::-1], PutOptions(if_absent=True))
        assert get(bucket, "a/ü.bin") == content
    assert not leftovers(bucket)


@pytest.mark.parametrize("size", [10, 2 * UPLOAD_PART_BYTES])
@pytest.mark.parametrize(
    "wrong", [PutOptions(sha256="0" * 64), PutOptions(size_bytes=9), PutOptions(size_bytes=10**8)]
)
def test_what_is_not_as_announced_does_not_appear(bucket: Bucket, size: int, wrong: PutOptions) -> None:
    put(bucket, "k", b"before")
    with pytest.raises(ContentMismatch):
        put(bucket, "k", bytes(size), wrong)
    assert get(bucket, "k") == b"before"
    assert not leftovers(bucket)


def test_too_large_an_object_is_refused_before_it_is_whole(bucket: Bucket) -> None:
    upload = ObjectUpload(bucket, "k", PutOptions(), UPLOAD_PART_BYTES * 2)
    piece = memoryview(bytes(UPLOAD_PART_BYTES))
    upload.write(piece)
    upload.write(piece)
    with pytest.raises(LimitExceeded, match=r"objects\.max_bytes"):
        upload.write(piece[:1])
    upload.abort()
    assert not bucket.exists("k")
    assert not leftovers(bucket)


@pytest.mark.parametrize("size", [1000, UPLOAD_PART_BYTES + 1000])
def test_of_puts_to_one_key_one_is_there_whole_and_of_creating_ones_one_succeeds(
    bucket: Bucket, size: int
) -> None:
    contents = [bytes([n]) * (size + n) for n in range(6)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda content: put(bucket, "k", content), contents))
        assert get(bucket, "k") in contents

        def create(content: bytes) -> bool:
            try:
                put(bucket, "new", content, PutOptions(if_absent=True))
            except ObjectAlreadyExists:
                return False
            return True

        won = list(threads.map(create, contents))
    assert won.count(True) == 1
    assert get(bucket, "new") == contents[won.index(True)]
    assert not leftovers(bucket)


def test_of_an_object_that_is_replaced_no_mixture_is_read(bucket: Bucket) -> None:
    old, new = (bytes([n]) * (PART_BYTES * 8) for n in (1, 2))
    put(bucket, "k", old)
    download = ObjectDownload(bucket, bucket.details("k"), 0, len(old))
    read = [bytes(next(download))]
    put(bucket, "k", new)
    with pytest.raises(ObjectChanged):
        read += [bytes(part) for part in download]
    assert set(b"".join(read)) == {1}


def test_leftovers_are_removed_when_nobody_has_touched_them_for_long(tmp_path: Path) -> None:
    bucket = open_bucket(BucketSettings(path=tmp_path))
    put(bucket, "kept", b"1")
    put(bucket, "_uploads/staged", b"2")
    (tmp_path / "_uploads" / "killed#1").write_bytes(b"3")
    now = datetime.now(UTC)
    assert Leftovers(bucket, 60).sweep(now) == 0
    assert Leftovers(bucket, 60).sweep(now + timedelta(seconds=61)) == 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]


# -- keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\x00b", "a\nb", "a\x7fb", "\ud800", "é" * 513,
     "x" * 256, "a/" + "ü" * 128, "a#1", "a/b#22",
     "\\_access\\keys"],
)  # fmt: skip
def test_keys_that_no_object_can_have(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be the key of an object: "):
        check_key(open_bucket(BucketSettings(path=tmp_path)), key)


KEYS = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=12),
    min_size=1,
    max_size=4,
).map("/".join)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(key=KEYS)
def test_a_key_that_is_accepted_can_be_used(bucket: Bucket, key: str) -> None:
    try:
        check_key(bucket, key)
    except InvalidRequest:
        return
    put(bucket, key, key.encode())
    try:
        assert get(bucket, key) == key.encode()
        page = list_page(bucket, wish(prefix=key))
        assert [found.key for found in page.objects] == [key]
    finally:
        bucket.delete(key)


# -- listings -------------------------------------------------------------------------------------------


def wish(
    prefix: str = "", *, recursive: bool = True, limit: int = 1000, after: str = "", hidden: str = "\0"
) -> Wish:
    return Wish(
        prefix,
        recursive,
        limit,
        after,
        lambda key: not key.startswith((hidden, "_uploads")),
        lambda below: not below.startswith((hidden, "_uploads")),
    )


TREE = ["a", "b/1", "b/2/x", "b/2/y", "b/3", "b-1", "b.txt", "b/ x", "ba/1", "c/d/e/f", "ü/1", "z"]
PREFIXES = ["", "b", "b/", "b/2", "b/2/", "b/ ", "c/", "c/d/e", "ü", "nothing", "b/9", "z"]


def test_pages_of_a_listing_have_every_key_once(bucket: Bucket) -> None:
    for key in TREE:
        put(bucket, key, b"1")
    for prefix, limit, hidden in itertools.product(PREFIXES, (1, 2, 3, 1000), ("\0", "b/2")):
        seen = {key for key in TREE if key.startswith(prefix) and not key.startswith(hidden)}
        tails = {key: key[len(prefix) :].partition("/") for key in seen}
        for recursive, expected in (
            (True, seen),
            (False, {prefix + head + slash for head, slash, _ in tails.values()}),
        ):
            found: list[str] = []
            after, pages = "", 0
            while after or not pages:
                asked = wish(prefix, recursive=recursive, limit=limit, after=after, hidden=hidden)
                page = list_page(bucket, asked)
                assert len(page.objects) + len(page.prefixes) <= limit
                found += [*(o.key for o in page.objects), *page.prefixes]
                after, pages = page.next_after, pages + 1
                assert pages < 50
            assert sorted(found) == sorted(expected), (prefix, limit, hidden, recursive)


# -- who may do what --------------------------------------------------------------------------------------


def guarded(configuration: Settings, buckets: dict[str, Bucket], *roles: str) -> GuardedObjects:
    objects = Objects(configuration, buckets, SystemClock())
    return GuardedObjects(objects, AccessPolicy(configuration).of(Principal("p", frozenset(roles))))


def may(call: object, *arguments: str) -> bool:
    try:
        call(*arguments)  # type: ignore[operator]
    except LakehouseError:
        return False
    return True


def test_the_most_specific_grant_holds_and_built_in_roles_have_none(tmp_path: Path) -> None:
    grants = [
        ObjectGrantSettings(on="media/*", privileges=("read",)),
        ObjectGrantSettings(on="media/hr/*", privileges=()),
        ObjectGrantSettings(on="media/hr/open/*", privileges=("read", "write")),
        ObjectGrantSettings(on="drop/in/*.csv", privileges=("write",)),
    ]
    names = ("primary", "media", "drop")
    configuration = Settings(
        buckets=tuple(BucketSettings(name=name, path=tmp_path / name) for name in names),
        roles=(RoleSettings(name="some", objects=tuple(grants)),),
    )
    buckets = {each.name: open_bucket(each) for each in configuration.buckets}
    some = guarded(configuration, buckets, "some")
    for place, read, write in (
        ("media/x", True, False),
        ("media/hr/x", False, False),
        ("media/hr/open/x", True, True),
        ("media/HR/x", True, False),
        ("drop/in/a/b.csv", False, True),
        ("drop/in/a.txt", False, False),
        ("primary/x", False, False),
    ):
        bucket, key = place.split("/", 1)
        assert (may(some.to_read, bucket, key), may(some.to_write, bucket, key)) == (read, write), place
    for key in ("x", "hr/x", "hr/open/x", "hr/open/deep/x"):
        put(buckets["media"], key, b"1")
    assert [name for name in names if some.sees_bucket(name)] == ["media", "drop"]
    page = some.list("media", "", recursive=True, limit=10, after="")
    assert [o.key for o in page.objects] == ["hr/open/deep/x", "hr/open/x", "x"]
    page = some.list("media", "hr/", recursive=False, limit=10, after="")
    assert (page.objects, page.prefixes) == ((), ("hr/open/",))
    for role in ("reader", "writer"):
        assert not any(guarded(configuration, buckets, role).sees_bucket(name) for name in names)


def test_nobody_changes_what_is_the_servers_own_by_whatever_bucket(tmp_path: Path) -> None:
    """One bucket is within another, and one catalog's warehouse within a third."""
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "deep" / "inner"
    configuration = Settings(
        buckets=tuple(
            BucketSettings(name=name, path=tmp_path / name, **{"class": kind})
            for name, kind in (("inner", ""), ("outer", ""), ("far", ""), ("rescue", "rescue"))
        ),
        catalogs=(CatalogConnection(name="other", bucket="far", warehouse="lakes/one"),),
    )
    places = {"inner": inner, "outer": outer, "far": tmp_path / "far", "rescue": tmp_path / "rescue"}
    buckets = {name: open_local_bucket(name, place) for name, place in places.items()}
    admin = guarded(configuration, buckets, "admin")
    for bucket, key, read, write in (
        ("inner", "_audit/x", True, False),
        ("inner", "_access/keys/x", False, False),
        ("inner", "_ACCESS/keys/x", False, False),
        ("inner", "_uploads/x", False, False),
        ("inner", "_new", True, False),
        ("inner", "warehouse/x", True, False),
        ("inner", "warehouse", True, False),
        ("inner", "Warehouse/x", True, False),
        ("inner", "warehouses/x", True, True),
        ("outer", "deep/inner/_access/keys/x", False, False),
        ("outer", "deep/inner/_errors/x", True, False),
        ("outer", "deep/inner/warehouse/t/data/x", True, False),
        ("outer", "deep/inner", True, False),
        ("outer", "deep", True, False),
        ("outer", "deep/inner/x", True, True),
        ("outer", "_x", True, False),
        ("far", "lakes/one/x", True, False),
        ("far", "lakes", True, False),
        ("far", "lakes/two/x", True, True),
        ("far", "warehouse/x", True, True),
        ("rescue", "x", True, False),
        ("rescue", "primary/_access/x", False, False),
    ):
        assert (may(admin.to_read, bucket, key), may(admin.to_write, bucket, key)) == (read, write), key
    (tmp_path / "far" / "link").symlink_to(inner)
    for key, read in (("link/_access/x", False), ("link/_audit/x", True), ("link/warehouse/x", True)):
        assert (may(admin.to_read, "far", key), may(admin.to_write, "far", key)) == (read, False), key
    put(buckets["inner"], "_access/keys/x", b"secret")
    put(buckets["inner"], "_audit/x", b"1")
    assert (
        admin.list("outer", "deep/inner/_", recursive=True, limit=9, after="")
        .objects[0]
        .key.endswith("_audit/x")
    )
    assert (
        "deep/inner/_access/"
        not in admin.list("outer", "deep/inner/", recursive=False, limit=9, after="").prefixes
    )
    role = RoleSettings(name="all", objects=(ObjectGrantSettings(on="*/*", privileges=("read", "write")),))
    granted = guarded(configuration.model_copy(update={"roles": (role,)}), buckets, "all")
    assert not may(granted.to_read, "outer", "deep/inner/_audit/x")
    assert not may(granted.to_read, "inner", "warehouse/x")
    assert not granted.list("outer", "deep/inner/_", recursive=True, limit=9, after="").objects
