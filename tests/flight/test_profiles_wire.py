"""Vector indexes as datasets; profiles: which index a reader gets, and how readers move to other models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded, token
from conftest import Server
from lakehouse_client import connect

CONFIG = """
[vectors]
refresh_ms = 0
[datasets]
refresh_seconds = 0.1
index_refresh_ms = 0
[[roles]]
name = "even"
grants = [{ on = "lake.docs.notes", row_filter = "id % 2 = 0" }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.other.*" }]
[[roles]]
name = "early"
profile = "new"
grants = [{ on = "lake.docs.*" }]
[[ai.models]]
name = "small"
dimension = 64
[[ai.models]]
name = "large"
[[profiles]]
name = "old"
model = "small"
ef_search = 33
k = 2
[[profiles]]
name = "new"
model = "large"
datasets = ["lake.docs.*"]
algorithm = "exact"
k = 3
[[profiles]]
name = "private"
model = "large"
roles = ["even"]
[[buckets]]
path = "{directory}/bucket"
[[buckets]]
name = "fresh"
class = "profile:new"
path = "{directory}/fresh"
"""
ROLES = ("admin", "writer", "reader", "even", "outsider", "early")
REFUSED = (flight.FlightError, pa.ArrowException)
VECTORS = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]]


class Searcher(Caller):
    """A caller of searches by text."""

    def find(self, text: str, index: str = "prose", **request: Any) -> tuple[str, list[int]]:
        """In which index the nearest texts were found, and their ids."""
        told, rows = self.search(index, texts=[text], **request)
        return told["index"], rows["id"].to_pylist()


def _start(directory: Path, data: Path | None = None) -> Server:
    return start_guarded(directory, CONFIG.replace("{directory}", str(data or directory)), ROLES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = _start(tmp_path_factory.mktemp("profiles"))
    admin = Caller(found, "admin")
    admin.sql("CREATE SCHEMA docs")
    rows = ", ".join(f"({n}, 'text {n}', {v})" for n, v in enumerate(VECTORS, 1))
    admin.sql("CREATE TABLE docs.notes (id BIGINT, body VARCHAR, vector FLOAT[])")
    admin.sql(f"INSERT INTO docs.notes VALUES {rows}")
    yield found
    found.stop()


INDEX = {"catalog": "vectors", "db_schema": "default", "table": "notes"}


@pytest.fixture
def admin(server: Server) -> Caller:
    caller = Caller(server, "admin")
    caller.call("vectors.build", index="notes", table="notes", db_schema="docs", keys=["id"], metric="l2")
    return caller


def test_index_is_a_dataset_for_those_who_may_search_it(server: Server, admin: Caller) -> None:
    said = admin.call(
        "catalog.update", **INDEX, description="by meaning", add_tags=["gold"], owner="ann",
        freshness_seconds=3600, columns=[{"name": "body", "description": "the text"}],
    )  # fmt: skip
    assert (said["kind"], said["rows"], said["object_count"], said["freshness"]) == (
        "vector_index",
        4,
        2,
        "fresh",
    )
    for role in ("reader", "even"):
        who = Caller(server, role)
        found = who.call("catalog.describe", catalog="vectors", db_schema="default", table="Notes")
        assert (found["description"], found["tags"], found["owner"]) == ("by meaning", ["gold"], "ann")
        live = who.call("vectors.list")["indexes"][0]
        facts = found["vectors"]
        assert (facts["generation"], facts["metric"], facts["dimension"]) == (live["generation"], "l2", 2)
        assert (facts["source"], facts["keys"], facts["m"]) == ("lake.docs.notes", ["id"], 32)
        assert facts["source_snapshot_id"] == live["source_snapshot_id"]
        whole = role == "reader"
        assert (found["rows"], len(found["objects"])) == ((4, 2) if whole else (None, 0))
        assert [c["description"] for c in found["columns"]] == ["", "the text", ""]
        for wanted in (
            {"text": "meaning"},
            {"kind": "vector_index"},
            {"tag": "gold"},
            {"catalog": "vectors"},
        ):
            assert [d["table"] for d in who.call("catalog.search", **wanted)["datasets"]] == ["notes"]
        seen = who.sql("FROM system.datasets WHERE kind = 'vector_index'").to_pylist()
        assert [(d["catalog_name"], d["table_name"], d["owner"]) for d in seen] == [
            ("vectors", "notes", "ann")
        ]
        assert seen[0]["row_count"] == (4 if whole else None)
        names = who.sql("SELECT column_name FROM system.columns WHERE catalog_name = 'vectors'")
        assert names["column_name"].to_pylist() == ["id", "body", "vector"]
        lineage = who.sql("SELECT ingest, input_name FROM system.lineage WHERE schema_name = 'default'")
        assert lineage.to_pylist() == [{"ingest": "vectors.build", "input_name": "lake.docs.notes"}]
        graph = who.call("catalog.lineage", **INDEX)
        assert [(d["name"], d["distance"]) for d in graph["datasets"]] == [
            ("lake.docs.notes", -1), ("vectors.default.notes", 0),
        ]  # fmt: skip
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            who.call("catalog.update", **INDEX, owner="me")
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            who.call("catalog.drop", **INDEX)
    downstream = admin.call("catalog.lineage", table="notes", db_schema="docs", direction="downstream")
    assert [d["kind"] for d in downstream["datasets"]] == ["table", "vector_index"]


def test_index_is_absent_for_others(server: Server, admin: Caller) -> None:
    who = Caller(server, "outsider")
    assert who.call("catalog.search", kind="vector_index")["datasets"] == []
    assert who.sql("FROM system.datasets WHERE catalog_name = 'vectors'").num_rows == 0
    for name in ("notes", "nothing"):
        with pytest.raises(
            REFUSED, match=rf"VECTOR_INDEX_NOT_FOUND.*'vectors.default.{name}' does not exist"
        ):
            who.call("catalog.describe", **{**INDEX, "table": name})
        with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
            who.call("catalog.lineage", **{**INDEX, "table": name})


def test_index_is_verified_resynced_and_dropped_as_a_dataset(server: Server, admin: Caller) -> None:
    assert admin.call("catalog.verify", **INDEX, deep=True)["healthy"]
    assert not admin.call("catalog.resync", **INDEX)["changed"]
    assert admin.call("catalog.resync_missing")["count"] == 0
    for role in ("reader", "outsider"):
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            Caller(server, role).call("catalog.verify", **INDEX)
    dropped = Caller(server, "writer").call("catalog.drop", **INDEX)
    assert (dropped["dropped"], dropped["kind"]) == (True, "vector_index")
    assert admin.call("vectors.list")["indexes"] == []
    assert not admin.call("catalog.drop", **INDEX, if_exists=True)["dropped"]
    assert admin.sql("FROM docs.notes").num_rows == 4


# -- profiles ---------------------------------------------------------------------------------------------

PROSE = {
    1: "Flour, water, salt and yeast are kneaded, left to rise and baked in a hot oven.",
    2: "The boat leans as wind fills the sails. A keel keeps it from drifting sideways.",
    3: "A transaction is either committed as a whole or rolled back.",
    4: "Tomatoes want sun, a stake to climb and water every morning.",
}
BREAD = "how to bake a loaf of bread"
TEXTS = {"table": "prose", "db_schema": "docs"}


@pytest.fixture(scope="module")
def prose(server: Server) -> Server:
    """The same index in two profiles, made with two models."""
    pytest.importorskip("wordllama")
    who = Caller(server, "admin")
    who.sql("CREATE TABLE docs.prose (id BIGINT, body VARCHAR)")
    rows = ", ".join(f"({n}, '{text}')" for n, text in PROSE.items())
    who.sql(f"INSERT INTO docs.prose VALUES {rows}")
    for profile in ("old", "new"):
        done = who.call("vectors.embed", **TEXTS, columns=["body"], keys=["id"], profile=profile)
        assert done["table"] == f"lake.docs.prose_embeddings_{profile}"
        assert done["model"]["profile"] == {"old": "small", "new": "large"}[profile]
        table = f"prose_embeddings_{profile}"
        built = who.call("vectors.build", index="prose", table=table, db_schema="docs", profile=profile)
        assert (built["index"], built["profile"]) == (f"{profile}:prose", profile)
    return server


@pytest.fixture
def settled(prose: Server) -> Iterator[Server]:
    """Everything as it is configured, before and after."""
    yield prose
    who = Caller(prose, "admin")
    for role in ("early", None):
        request = {"everybody": True} if role is None else {"role": role}
        profile = "none" if role is None else "new"
        who.call("profiles.activate", profile=profile, partial=True, warm=False, **request)
    for profile in ("old", "new"):
        who.call("profiles.activate", profile=profile, warm=False)


def test_each_profile_has_its_own_index_model_and_parameters(prose: Server) -> None:
    who = Searcher(prose, "reader")
    listed = {each["index"]: each for each in who.call("vectors.list")["indexes"]}
    old, new = listed["old:prose"], listed["new:prose"]
    assert (old["dimension"], old["algorithm"], old["ef_search"]) == (64, "hnsw", 33)
    assert (new["dimension"], new["algorithm"], new["ef_search"]) == (256, "exact", 64)
    assert [each["index"] for each in who.call("vectors.list", profile="new")["indexes"]] == ["new:prose"]
    assert all(":" not in each["index"] for each in who.call("vectors.list", profile="none")["indexes"])
    # By the request, by the full name, by the session's option either way; k is the profile's.
    assert who.find(BREAD, profile="old") == ("old:prose", [1, who.find(BREAD, profile="old")[1][1]])
    assert len(who.find(BREAD, profile="new")[1]) == 3
    assert who.find(BREAD, "NEW:Prose", k=1) == ("new:prose", [1])
    with pytest.raises(REFUSED, match="'prose' does not exist"):
        who.find(BREAD)
    who.sql("SET profile = 'new'")
    assert who.find(BREAD, k=1) == ("new:prose", [1])
    assert who.find(BREAD, profile="old", k=1) == ("old:prose", [1])
    in_sql = [
        who.sql(f"SELECT score FROM vector_search('{index}', '{BREAD}', 1)")["score"].to_pylist()
        for index in ("prose", "new:prose", "old:prose")
    ]
    assert in_sql[0] == in_sql[1] != in_sql[2]
    for none in ({"profile": "none"}, {"index": ":prose"}):
        with pytest.raises(REFUSED, match="'prose' does not exist"):
            who.find(BREAD, **none)
    who.sql("SET profile = 'none'")
    with pytest.raises(REFUSED, match="'prose' does not exist"):
        who.find(BREAD)
    # Its files are in the bucket of its class.
    where = who.call("catalog.describe", catalog="vectors", db_schema="new", table="prose")
    assert (where["bucket"], where["vectors"]["index"]) == ("fresh", "new:prose")
    assert [edge["source"].partition("@")[0] for edge in where["lineage"]] == [
        "lake.docs.prose_embeddings_new", "lake.docs.prose", "local/wordllama",
    ]  # fmt: skip
    with connect(prose.uri, token=token("early")) as lake:
        assert lake.search_vectors("prose", BREAD).num_rows == 3
        assert lake.search_vectors("prose", BREAD, profile="old").num_rows == 2
        for profile, count in ((None, 3), ("old", 2)):
            streamed = list(lake.stream_searches("prose", [[BREAD]], profile=profile))
            assert sum(batch.num_rows for batch in streamed) == count


def test_profile_of_other_roles_is_absent(prose: Server) -> None:
    reader, even = Searcher(prose, "reader"), Searcher(prose, "even")
    for name in ("private", "nothing"):
        for call in (
            lambda name=name: reader.find(BREAD, profile=name),
            lambda name=name: reader.find(BREAD, f"{name}:prose"),
            lambda name=name: reader.call("vectors.list", profile=name),
            lambda name=name: reader.call("profiles.describe", profile=name),
            lambda name=name: reader.call("profiles.activate", profile=name),
            lambda name=name: reader.sql(f"SET profile = '{name}'"),
        ):
            with pytest.raises(
                REFUSED, match=rf"PROFILE_NOT_FOUND.*'{name}' does not exist .there are: new, old"
            ):
                call()
    assert [p["profile"] for p in reader.call("profiles.list")["profiles"]] == ["new", "old"]
    assert [p["profile"] for p in even.call("profiles.list")["profiles"]] == ["new", "old", "private"]
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        even.find(BREAD, profile="private")
    for refused in ({"everybody": True}, {"role": "early"}):
        with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
            reader.call("profiles.activate", profile="old", **refused)
    with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
        reader.call("profiles.deactivate", profile="old")


def test_profile_takes_only_tables_that_it_covers_and_vectors_of_its_model(prose: Server) -> None:
    who = Caller(prose, "admin")
    who.sql("CREATE SCHEMA IF NOT EXISTS other")
    who.sql("CREATE OR REPLACE TABLE other.prose AS FROM docs.prose")
    other = {"table": "prose", "db_schema": "other", "columns": ["body"], "keys": ["id"]}
    with pytest.raises(REFUSED, match=r"'new' does not cover 'lake\.other\.prose'"):
        who.call("vectors.embed", **other, profile="new")
    with pytest.raises(REFUSED, match="has the model 'large', the request names 'small'"):
        who.call("vectors.embed", **TEXTS, columns=["body"], keys=["id"], profile="new", model="small")
    who.call("vectors.embed", **other, profile="old")
    table = {"table": "prose_embeddings_old", "db_schema": "other"}
    who.sql("CREATE OR REPLACE TABLE other.raw AS SELECT id, [id, 1.0]::FLOAT[] AS vector FROM docs.prose")
    with pytest.raises(REFUSED, match=r"'new' does not cover 'lake\.other\.raw'"):
        who.call("vectors.build", index="raw", table="raw", db_schema="other", profile="new")
    with pytest.raises(REFUSED, match="made with the model 'small'"):
        who.call(
            "vectors.build", index="mixed", table="prose_embeddings_old", db_schema="docs", profile="new"
        )
    who.call("vectors.build", index="elsewhere", **table, profile="old")
    assert who.call("vectors.drop", index="elsewhere", profile="old")["index"] == "old:elsewhere"


def test_warming_loads_the_model_and_the_indexes_ahead(settled: Server) -> None:
    admin, reader = Caller(settled, "admin"), Searcher(settled, "reader")
    admin.call("profiles.deactivate", profile="old")
    for refused in (
        lambda: reader.find(BREAD, profile="old"),
        lambda: reader.call("profiles.warm", profile="old"),
    ):
        with pytest.raises(REFUSED, match=r"PROFILE_INACTIVE.*profiles\.activate"):
            refused()
    assert reader.call("profiles.describe", profile="old")["profile"]["loaded_bytes"] == 0
    with pytest.raises(REFUSED, match="PERMISSION_DENIED"):
        reader.call("profiles.activate", profile="old")
    admin.call("profiles.activate", profile="old", warm=False)
    told = reader.results("profiles.warm", profile="old")
    assert [each["message"] for each in told[:-1]] == ["loading the model small", "loading old:prose"]
    done = told[-1]
    assert done["model"] == "small"
    first = done["indexes"][0]
    assert (first["index"], first["was_loaded"], first["is_loaded"]) == ("old:prose", False, True)
    assert done["loaded_bytes"] == first["size_bytes"] > 0
    assert done["milliseconds"] >= first["milliseconds"] > 0
    assert reader.call("profiles.warm", profile="old", indexes=["prose"])["indexes"][0]["was_loaded"]
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        reader.call("profiles.warm", profile="old", indexes=["nothing"])
    shown = reader.call("profiles.describe", profile="old")
    assert [(each["index"], each["is_loaded"], each["count"]) for each in shown["indexes"]] == [
        ("old:prose", True, 4)
    ]


def test_readers_move_to_another_model_and_see_no_error(settled: Server, tmp_path: Path) -> None:
    admin = Caller(settled, "admin")
    other = _start(tmp_path / "other", settled.directory)
    found: list[tuple[str, int]] = []
    later: list[str] = []  # what was begun after all have moved
    moved, stop = threading.Event(), threading.Event()

    def read(server: Server) -> None:
        who = Searcher(server, "reader")
        while not stop.is_set():
            is_later = moved.is_set()
            index, ids = who.find(BREAD, filter="id < 4")
            found.append((index, ids[0]))
            rows = who.sql(f"SELECT id FROM vector_search('prose', '{BREAD}', 2) WHERE id < 4 ORDER BY rank")
            found.append((index, rows["id"][0].as_py()))
            if is_later:
                later.append(index)

    try:
        admin.call("profiles.activate", profile="old", everybody=True, partial=True)
        readers = [
            threading.Thread(target=_kept(read, found), args=(each,)) for each in (settled, settled, other)
        ]
        for reader in readers:
            reader.start()
        _until(lambda: len(found) > 20)
        for turn in range(6):
            profile = ("new", "old")[turn % 2]
            admin.call("profiles.activate", profile=profile, everybody=True)
            count = len(found)
            _until(lambda count=count: len(found) > count + 10)
        admin.call("profiles.activate", profile="new", everybody=True)
        admin.call("profiles.deactivate", profile="old")
        count = len(found)
        _until(lambda: len(found) > count + 20)
        moved.set()
        _until(lambda: len(later) > 5)
        stop.set()
        for reader in readers:
            reader.join(30)
        assert {index for index, _ in found} == {"old:prose", "new:prose"}
        assert {nearest for _, nearest in found} == {1}
        assert Searcher(other, "reader").find(BREAD)[0] == "new:prose"
        assert set(later) == {"new:prose"}
        mine = Caller(other, "reader").call("profiles.list")
        assert (mine["mine"], [p["is_active"] for p in mine["profiles"]]) == ("new", [True, False])
        # A session and a role say it better than everybody's default.
        admin.call("profiles.activate", profile="old")
        admin.call("profiles.activate", profile="old", role="early")
        early = Searcher(other, "early")
        assert early.find(BREAD)[0] == "old:prose"
        early.call("profiles.activate", profile="new")
        assert early.find(BREAD)[0] == "new:prose"
        with pytest.raises(REFUSED, match="is that of the role 'early'"):
            admin.call("profiles.deactivate", profile="old")
    finally:
        stop.set()
        other.stop()


def test_activation_refuses_a_profile_that_lacks_what_is_searched_now(settled: Server) -> None:
    admin = Caller(settled, "admin")
    admin.call("profiles.activate", profile="old", everybody=True, partial=True)
    table = {"table": "prose_embeddings_old", "db_schema": "docs"}
    admin.call("vectors.build", index="extra", **table, profile="old")
    with pytest.raises(REFUSED, match="'new' has no index 'extra', which is searched with 'old' now"):
        admin.call("profiles.activate", profile="new", everybody=True)
    assert Searcher(settled, "reader").find(BREAD, k=1) == ("old:prose", [1])
    admin.call("vectors.drop", index="extra", profile="old")
    admin.call("profiles.activate", profile="new", everybody=True)
    assert Searcher(settled, "reader").find(BREAD, k=1) == ("new:prose", [1])
    for wrong, message in (
        ({"profile": "private", "everybody": True}, "'private' is not for everybody"),
        ({"profile": "old", "role": "nobody"}, "there is no role 'nobody'"),
        ({"profile": "old", "role": "even", "everybody": True}, "either role or everybody"),
    ):
        with pytest.raises(REFUSED, match=message):
            admin.call("profiles.activate", **wrong)


def _kept(read: Any, found: list[tuple[str, int]]) -> Any:
    """The same, with what it raises among what was found."""

    def run(server: Server) -> None:
        try:
            read(server)
        except BaseException as error:
            found.append((repr(error), 0))
            raise

    return run


def _until(holds: Any) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
