"""Profiles: which one somebody searches with, and what is said of them while servers run."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket
from lake_tables import put
from pydantic import ValidationError

from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.engine.session import Session
from lakehouse.errors import (
    InvalidRequest,
    ProfileInactive,
    ProfileNotFound,
    StatementForbidden,
    StorageError,
    VectorIndexNotFound,
)
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName
from lakehouse.vectors.generation import Generation, Guard, VectorColumn
from lakehouse.vectors.guarded_indexes import GuardedIndexes
from lakehouse.vectors.indexes import BuildRequest
from lakehouse.vectors.parameters import Algorithm, IndexParameters
from lakehouse.vectors.profiles import EVERYBODY, SLOTS, Profiles

ROLES = [
    {"name": "analyst", "profile": "fresh", "grants": [{"on": "lake.main.*"}]},
    {"name": "biologist", "profile": "none", "grants": [{"on": "lake.main.*"}]},
    {"name": "chemist", "grants": [{"on": "lake.main.*"}]},
]
PROFILES = [
    {"name": "fresh", "datasets": ["lake.main.notes"], "m": 8, "ef_search": 99},
    {"name": "secret", "roles": ["chemist"]},
    {"name": "plain", "model": "small"},
]


def settings(path: Path, **others: Any) -> Settings:
    told: dict[str, Any] = {
        "buckets": [
            {"path": str(path / "main")},
            {"name": "own", "class": "profile:fresh", "path": str(path / "own")},
        ],
        "vectors": {"refresh_ms": 0},
        "datasets": {"enabled": False},
        "roles": ROLES,
        "ai": {"models": [{"name": "local"}, {"name": "small", "dimension": 64}]},
        "profiles": PROFILES,
    }
    return Settings.model_validate({**told, **others})


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lakehouse]:
    found = Lakehouse(settings(tmp_path_factory.mktemp("profiles")))
    vectors = pa.array(np.eye(4, dtype="f4").tolist(), pa.list_(pa.float32()))
    for name in ("notes", "others"):
        put(found, name, pa.table({"id": [1, 2, 3, 4], "vector": vectors}))
    yield found
    found.close()


@pytest.fixture
def profiles(lake: Lakehouse) -> Iterator[Profiles]:
    """With nothing said but what is configured."""
    found = lake.vectors.profiles
    assert found is not None
    yield found
    for key in lake.bucket.names(SLOTS):
        lake.bucket.delete(f"{SLOTS}/{key}")
    lake.vectors.profiles = another(lake)


def another(lake: Lakehouse, bucket: Any = None) -> Profiles:
    """The profiles of another server."""
    return Profiles(
        lake.settings,
        lake.policy.profiles,
        bucket or lake.bucket,
        lake.vectors,
        lake.ai,
        lake.clock,
        lake.events,
    )


def session(lake: Lakehouse, *roles: str) -> Session:
    return lake.engine.new_session("s", {}, Principal("somebody", frozenset(roles)))


def guarded(lake: Lakehouse, *roles: str, profile: str | None = None) -> GuardedIndexes:
    return GuardedIndexes(lake.vectors, lake.engine, session(lake, *roles), profile)


def build(lake: Lakehouse, index: str, table: str = "notes", profile: str | None = None) -> Generation:
    name = TableName("lake", "main", table)
    uuid = lake.catalog.load("main", table).uuid
    request = BuildRequest(
        index,
        VectorColumn(name, uuid, "vector", ("id",)),
        IndexParameters(algorithm=Algorithm.EXACT),
        Guard(name, uuid, ("id", "vector"), ("id",)),
    )
    who = guarded(lake, "admin", profile=profile)
    return who.build(request, create=False, check=lambda: None, progress=lambda *_: None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profiles": [{"name": "a"}, {"name": "a"}]}, "there twice"),
        ({"profiles": [{"name": "none"}]}, "name of your own"),
        (
            {"profiles": [{"name": "a", "model": "gpt"}]},
            "names the model 'gpt', expected one that embeds: local, small",
        ),
        ({"profiles": [{"name": "a", "roles": ["x"]}]}, "names the role 'x'"),
        ({"profiles": [{"name": "a", "datasets": ["lake.*"]}]}, "catalog.schema.table"),
        (
            {"vectors": {"profile": "secret"}},
            "vectors.profile names the profile 'secret', expected .*: fresh, plain",
        ),
        (
            {"roles": [{"name": "analyst", "profile": "b"}], "profiles": []},
            "the role 'analyst' names the profile 'b'",
        ),
    ],
)
def test_configuration_that_makes_no_sense_is_refused(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(tmp_path, **wrong)


def test_request_says_it_first_then_the_session_then_the_roles_then_everybody(
    lake: Lakehouse, profiles: Profiles
) -> None:
    def of(*roles: str) -> str:
        return profiles.of(session(lake, *roles))

    assert (of("analyst"), of("biologist"), of("chemist"), of("reader"), of()) == ("fresh", "", "", "", "")
    # Of several roles the first that has one.
    assert (of("analyst", "biologist"), of("biologist", "chemist")) == ("fresh", "")
    profiles.activate("plain", roles=[EVERYBODY], partial=True)
    assert (of("analyst"), of("biologist"), of("chemist"), of()) == ("fresh", "", "plain", "plain")
    profiles.activate("plain", roles=["analyst"], partial=True)
    profiles.activate("none", roles=[EVERYBODY], partial=True)
    assert (of("analyst"), of("chemist")) == ("plain", "")
    found = session(lake, "analyst")
    lake.engine.changes.set_option(found, "PROFILE", "Fresh")
    assert profiles.of(found) == found.profile == "fresh"
    assert GuardedIndexes(lake.vectors, lake.engine, found, "none").profile == ""
    assert GuardedIndexes(lake.vectors, lake.engine, found, "plain").profile == "plain"
    lake.engine.changes.set_option(found, "profile", "none")
    assert profiles.of(found) == ""
    lake.engine.changes.set_option(found, "profile", None)
    assert profiles.of(found) == "plain"
    for name in ("secret", "nothing", "a/b", "x" * 1000):
        with pytest.raises(ProfileNotFound):
            lake.engine.changes.set_option(found, "profile", name)
    with pytest.raises(StatementForbidden, match="profile"):
        lake.engine.changes.set_option(found, "nonsense", "1")


def test_names_lead_to_the_indexes_of_one_profile(lake: Lakehouse, profiles: Profiles) -> None:
    made = {profile: build(lake, "notes", profile=profile) for profile in ("none", "fresh", "plain")}
    assert [made[each].index for each in made] == ["notes", "fresh:notes", "plain:notes"]
    analyst = guarded(lake, "analyst")
    for index, expected in (
        ("notes", "fresh"), ("NOTES", "fresh"), (":notes", "none"), ("Plain:notes", "plain"),
    ):  # fmt: skip
        assert analyst.find(index).generation == made[expected]
    full = analyst.named("notes")
    profiles.activate("plain", roles=["analyst"])
    assert (analyst.named("notes"), guarded(lake, "analyst").named(full)) == ("fresh:notes", "fresh:notes")
    assert guarded(lake, "analyst").named("notes") == "plain:notes"
    with pytest.raises(ProfileNotFound):
        analyst.find("secret:notes")
    with pytest.raises(VectorIndexNotFound):
        guarded(lake, "chemist").find("secret:notes")
    # The files are apart, in the bucket of the class where there is one.
    own = lake.buckets["own"]
    assert own.directories("_vectors/profiles/fresh/indexes") == ["notes"]
    assert lake.bucket.directories("_vectors/profiles") == ["plain"]
    lake.vectors.drop("plain:notes")
    assert {live.generation.index for live in lake.vectors.all() if live.generation} == {
        "fresh:notes",
        "notes",
    }


def test_table_that_a_profile_does_not_cover_any_more_is_not_searched(lake: Lakehouse) -> None:
    with pytest.raises(Exception, match=r"'fresh' does not cover 'lake\.main\.others'"):
        build(lake, "others", "others", profile="fresh")
    build(lake, "others", "others", profile="plain")
    old = lake.policy.profiles["plain"]
    object.__setattr__(old, "patterns", ())
    try:
        with pytest.raises(VectorIndexNotFound):
            guarded(lake, "reader").find("plain:others")
        assert all(
            "plain" not in each.generation.index for each in guarded(lake, "reader").all() if each.generation
        )
    finally:
        object.__setattr__(old, "patterns", lake.policy.profiles["secret"].patterns)
        lake.vectors.drop("plain:others")


def test_deactivated_profile_is_refused_and_leaves_memory(lake: Lakehouse, profiles: Profiles) -> None:
    build(lake, "notes", profile="plain")
    who = guarded(lake, "reader")
    who.search("plain:notes", np.ones(4), 1)
    assert profiles.loaded("plain").keys() == {"plain:notes"}
    assert profiles.searches["plain"] == 1
    server = another(lake)
    assert not server.state().inactive
    shared, own = lake.ai.embedder("local"), weakref.ref(lake.ai.embedder("small"))
    profiles.deactivate("plain")
    assert own() is None
    assert lake.ai.embedder("local") is shared
    assert not profiles.loaded("plain")
    assert server.state().inactive == {"plain"}
    who.search("plain:notes", np.ones(4), 1)  # a call that has begun goes on
    for call in (
        lambda: guarded(lake, "reader").find("plain:notes"),
        lambda: build(lake, "notes", profile="plain"),
    ):
        with pytest.raises(ProfileInactive):
            call()
    with pytest.raises(InvalidRequest, match="is that of the role 'analyst'"):
        profiles.deactivate("fresh")
    server.activate("plain")
    guarded(lake, "reader").find("plain:notes")
    lake.vectors.drop("plain:notes")


def test_of_changes_at_once_none_is_lost(lake: Lakehouse, profiles: Profiles) -> None:
    servers = [another(lake) for _ in range(4)]
    roles = ["chemist", "reader", "writer", "admin"]

    def work(server: Profiles, role: str) -> None:
        for name in ("plain", "none", "plain"):
            server.activate(name, roles=[role], partial=True)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(servers, roles, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        server.state().defaults == dict.fromkeys(roles, "plain") for server in (*servers, another(lake))
    )
    assert profiles.state().number == 12
    assert len(lake.bucket.names(SLOTS)) <= 11


def test_what_cannot_be_read_changes_nothing(lake: Lakehouse, profiles: Profiles) -> None:
    failing: list[str] = []
    faulty = FaultyBucket(lake.bucket, lambda _, what: "before" if failing else None)
    server = another(lake, faulty)
    failing.append("now")
    with pytest.raises(StorageError):
        server.state()  # nothing is known yet
    failing.clear()
    profiles.activate("plain", roles=["chemist"], partial=True)
    assert server.state().defaults == {"chemist": "plain"}
    failing.append("now")
    assert server.state().defaults == {"chemist": "plain"}
    with pytest.raises(StorageError):
        server.activate("none", roles=["chemist"])
    failing.clear()
    lake.bucket.put(f"{SLOTS}/{2:012d}.json", b"nonsense")
    assert server.state().defaults == {"chemist": "plain"}
    server.activate("none", roles=["chemist"])
    assert profiles.state().defaults == another(lake).state().defaults == {"chemist": "none"}
    # A profile that is configured no more is nobody's.
    lake.bucket.put(f"{SLOTS}/{9:012d}.json", b'{"defaults": {"": "gone"}, "inactive": []}')
    assert profiles.default_of(()) == "none"


def test_changes_are_on_record(lake: Lakehouse, profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ChangeEvent] = []

    class Recorder:
        def record(self, *events: ChangeEvent) -> None:
            told.extend(events)

    monkeypatch.setattr(profiles, "_recorder", Recorder())
    profiles.activate("plain", roles=[EVERYBODY], partial=True)
    profiles.activate("plain", roles=[EVERYBODY], partial=True)
    profiles.deactivate("secret")
    assert [(e.entity, e.field, e.old, e.new) for e in told] == [
        ("profile:plain", "everybody", None, "plain"), ("profile:secret", "active", True, False),
    ]  # fmt: skip
