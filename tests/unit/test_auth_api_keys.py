"""API keys: made, found, expired and revoked, by several processes on one bucket."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.access.api_keys import ApiKeys
from lakehouse.access.principal import Principal
from lakehouse.clock import FixedClock
from lakehouse.errors import ApiKeyNotFound, InvalidRequest, StorageError
from lakehouse.storage import Bucket, open_local_bucket

ROLES = ("reader", "writer", "admin", "analyst")


class CountingBucket:
    """A bucket that can be out of reach and counts what is asked of it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.out_of_reach = False
        self.asked = 0

    def __getattr__(self, name):
        self.asked += 1
        if self.out_of_reach:
            raise StorageError("out of reach")
        return getattr(self._bucket, name)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def bucket(tmp_path: Path) -> CountingBucket:
    return CountingBucket(open_local_bucket("primary", tmp_path))


@pytest.fixture
def server(bucket, clock) -> ApiKeys:
    return ApiKeys(bucket, clock, ROLES)


@pytest.fixture
def other_server(bucket, clock) -> ApiKeys:
    return ApiKeys(bucket, clock, ROLES)


def objects(tmp_path: Path) -> Iterator[str]:
    return (file.read_text() for file in tmp_path.rglob("*") if file.is_file())


def test_a_key_is_its_holder_with_its_roles(server):
    _, text = server.create("nightly load", "etl", ["writer", "analyst", "writer"])
    found = server.find(text)
    assert (found, found.method) == (Principal("etl", frozenset({"writer", "analyst"})), "api_key")
    assert found.expires_at is None


def test_of_a_key_only_a_hash_is_kept(server, tmp_path):
    key, text = server.create("k", "k", ["reader"])
    secret = text.split("_")[2]
    assert text == f"lh_{key.id}_{secret}"
    assert len(secret) == 64
    (kept,) = objects(tmp_path)
    assert secret not in kept
    assert json.loads(kept)["secret_sha256"] == key.secret_sha256
    assert key.secret_sha256 not in repr(key)


def test_a_key_with_one_character_changed_is_none(server):
    _, text = server.create("k", "k", ["reader"])
    for place in range(len(text)):
        changed = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
        assert server.find(changed) is None
    for changed in (text.upper(), text[:-1], text + "0", "lh__", "lh_" + "0" * 16 + "_" + "0" * 64, ""):
        assert server.find(changed) is None
    assert server.find(text) is not None


@pytest.mark.parametrize("roles", [[], ["root"], ["reader", "Admin"]])
def test_a_key_cannot_have_roles_that_do_not_exist(server, tmp_path, roles):
    with pytest.raises(InvalidRequest, match="needs roles that exist"):
        server.create("k", "k", roles)
    assert list(objects(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "principal", "seconds"),
    [
        ("", "k", None),
        ("x" * 201, "k", None),
        ("k", " k", None),
        ("k", "a\nb", None),
        ("k", "k", 0),
        ("k", "k", 1e12),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(server, tmp_path, name, principal, seconds):
    with pytest.raises(InvalidRequest):
        server.create(name, principal, ["reader"], None if seconds is None else timedelta(seconds=seconds))
    assert list(objects(tmp_path)) == []


def test_a_role_that_is_configured_no_more_gives_nothing(server, bucket, clock):
    _, text = server.create("k", "k", ["reader", "analyst"])
    assert ApiKeys(bucket, clock, ["reader"]).find(text).roles == {"reader"}


def test_a_key_expires(server, clock):
    key, text = server.create("k", "k", ["reader"], timedelta(hours=1))
    assert server.find(text).expires_at == key.expires_at == clock.time + timedelta(hours=1)
    clock.time += timedelta(hours=1)
    assert server.find(text) is None
    assert [found.state for found in server.states()] == ["expired"]


def test_a_key_of_another_server_is_known_at_once_and_its_end_within_two_seconds(server, other_server, clock):
    assert other_server.find("lh_" + "0" * 16 + "_" + "0" * 64) is None
    clock.elapsed_s += 0.2
    key, text = server.create("k", "k", ["reader"])
    assert other_server.find(text).name == "k"
    server.revoke(key.id)
    assert server.find(text) is None
    clock.elapsed_s += 2
    assert other_server.find(text) is None
    assert [found.state for found in other_server.states()] == ["revoked"]


def test_revoking_again_says_so_and_changes_nothing(server, tmp_path):
    key, _ = server.create("k", "k", ["reader"])
    assert server.revoke(key.id, "ann") is True
    before = sorted(objects(tmp_path))
    assert server.revoke(key.id, "ben") is False
    assert sorted(objects(tmp_path)) == before


@pytest.mark.parametrize("key_id", ["", "nope", "0" * 16, "../../x", "0" * 16 + "\n", "x" * 10_000])
def test_what_is_no_key_cannot_be_revoked(server, tmp_path, key_id):
    with pytest.raises(ApiKeyNotFound) as refused:
        server.revoke(key_id)
    assert len(str(refused.value)) < 200
    assert list(objects(tmp_path)) == []


def test_storage_is_asked_rarely_however_many_calls_there_are(server, bucket, clock):
    _, text = server.create("k", "k", ["reader"])
    server.find(text)
    bucket.asked = 0
    for _ in range(1000):
        assert server.find(text) is not None
        assert server.find("lh_" + "0" * 16 + "_" + "0" * 64) is None
    assert bucket.asked == 0
    for _ in range(100):
        clock.elapsed_s += 0.1
        server.find("lh_" + "0" * 16 + "_" + "0" * 64)
    assert bucket.asked <= 51


def test_keys_hold_through_a_short_outage_of_storage_but_not_a_long_one(server, bucket, clock):
    _, text = server.create("k", "k", ["reader"])
    server.states()
    bucket.out_of_reach = True
    clock.elapsed_s += 59
    assert server.find(text).name == "k"
    clock.elapsed_s += 2
    for _ in range(3):
        with pytest.raises(StorageError, match="cannot be checked"):
            server.find(text)
    bucket.out_of_reach = False
    clock.elapsed_s += 2
    assert server.find(text).name == "k"


def test_a_key_is_not_called_wrong_while_it_cannot_be_looked_for(server, other_server, bucket, clock):
    bucket.out_of_reach = True
    with pytest.raises(StorageError):
        other_server.find("lh_" + "0" * 16 + "_" + "0" * 64)
    bucket.out_of_reach = False
    _, text = server.create("k", "k", ["reader"])
    with pytest.raises(StorageError):
        other_server.find(text)
    clock.elapsed_s += 0.2
    assert other_server.find(text).name == "k"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"id": 1}', b"[" * 1000])
def test_an_object_that_is_no_key_harms_no_other(server, other_server, tmp_path, clock, content):
    _, text = server.create("k", "k", ["reader"])
    (tmp_path / "_access/keys" / ("f" * 16 + ".key.json")).write_bytes(content)
    (tmp_path / "_access/keys" / "README.txt").write_bytes(content)
    assert other_server.find(text).name == "k"
    assert len(other_server.states()) == 1


def test_a_key_copied_under_another_id_is_none(server, other_server, tmp_path):
    key, text = server.create("k", "k", ["reader"])
    folder = tmp_path / "_access/keys"
    (folder / ("f" * 16 + ".key.json")).write_bytes((folder / f"{key.id}.key.json").read_bytes())
    assert other_server.find(text.replace(key.id, "f" * 16)) is None


def test_keys_are_listed_in_their_order_with_their_last_use(server, clock):
    texts = []
    for name in ("c", "a", "b"):
        clock.time += timedelta(seconds=1)
        texts.append(server.create(name, name, ["reader"], created_by="ann")[1])
    server.find(texts[1])
    listed = [found.public() for found in server.states()]
    assert [row["name"] for row in listed] == ["c", "a", "b"]
    assert [row["last_used_at"] for row in listed] == [None, clock.time, None]
    assert {row["created_by"] for row in listed} == {"ann"}
    assert not any("secret" in name for row in listed for name in row)
    for one, two in itertools.pairwise(texts):
        assert one != two
