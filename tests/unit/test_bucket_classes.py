"""What buckets are for, which places they may be, and those that are in memory."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lakehouse.clock import SystemClock
from lakehouse.config import Settings, load_settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import ConfigError
from lakehouse.runtime import Lakehouse
from lakehouse.storage import Buckets, ObjectCache


def s3(name, **more):
    return {"name": name, "kind": "s3", "bucket": "b-1", "endpoint": "https://s3.example.org", **more}


def local(name, path=None, **more):
    return {"name": name, "path": path or name, **more}


def classes(*buckets):
    found = Settings(buckets=buckets)
    return [each.bucket_class for each in found.buckets], found.primary_bucket.name


def test_the_first_bucket_is_the_primary_one_unless_another_is():
    assert classes(local("a"), local("b")) == (["primary", "data"], "a")
    assert classes(local("a"), local("b", **{"class": "primary"})) == (["data", "primary"], "b")
    assert classes(
        local("a"),
        local("b", **{"class": "profile:alice"}),
        local("c", **{"class": "tenant:acme.org"}),
        local("d", **{"class": "rescue"}),
        local("e", **{"class": "data"}),
    ) == (["primary", "profile:alice", "tenant:acme.org", "rescue", "data"], "a")
    assert Settings().primary_bucket.name == "primary"


@pytest.mark.parametrize(
    ("buckets", "told"),
    [
        (
            [{"class": "primary"}, {"class": "primary"}],
            """'b0' and 'b1' are of class "primary", expected ex""",
        ),
        (
            [{}, {"class": "rescue"}, {"class": "rescue"}],
            "'b1' and 'b2' are of class \"rescue\", expected at",
        ),
        ([{"class": "rescue"}, {}], 'no bucket is of class "primary"'),
        ([{"class": "primry"}], 'did you mean "primary"?'),
        ([{}, {"class": "tenants:acme"}], 'did you mean "tenant:acme"?'),
        ([{}, {"class": "tenant"}], 'should be "tenant:NAME"'),
        ([{}, {"class": "profile:a b"}], 'should be "profile:NAME"'),
        ([{}, {"class": "eu"}], 'should be "primary", "profile:NAME", "tenant:NAME", "rescue" or "data"'),
        ([{"name": "lake"}], "a catalog and a bucket have the name 'lake'"),
        ([{"name": "registered"}], "name of your own"),
        ([{"kind": "memory", "prefix": "x"}], 'is of kind "memory"'),
        ([{"breaker_seconds": 60}], "should not exceed breaker_max_seconds"),
    ],
)
def test_classes_and_names_that_do_not_fit_are_refused(buckets, told):
    with pytest.raises(ValidationError) as caught:
        Settings(buckets=[{"name": f"b{n}", "path": f"p{n}", **each} for n, each in enumerate(buckets)])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (local("a", "x"), local("b", "x"), False),
        (local("a", "x"), local("b", "x/y"), False),
        (local("a", "x/../y"), local("b", "y/"), False),
        (local("a", "x"), local("b", "xy"), True),
        (s3("a"), s3("b"), False),
        (s3("a"), s3("b", endpoint="https://S3.Example.org:443/"), False),
        (s3("a"), s3("b", prefix="x"), False),
        (s3("a", prefix="x"), s3("b", prefix="x/y"), False),
        (s3("a", prefix="x"), s3("b", prefix="xy"), True),
        (s3("a"), s3("b", endpoint=""), True),
        (s3("a", endpoint=""), s3("b", endpoint="https://s3.amazonaws.com"), False),
        ({"name": "a", "kind": "memory"}, {"name": "b", "kind": "memory"}, True),
    ],
)
def test_no_object_is_in_two_buckets(one, other, apart):
    if apart:
        Settings(buckets=[one, other])
    else:
        with pytest.raises(ValidationError, match="'a' and 'b' are one place, or one is within the other"):
            Settings(buckets=[one, other])


def test_no_catalog_is_in_the_rescue_bucket():
    buckets = [local("a"), local("b", **{"class": "rescue"})]
    with pytest.raises(ValidationError, match="is in the bucket 'b' of class \"rescue\""):
        Settings(buckets=buckets, catalogs=[{"name": "other", "bucket": "b", "warehouse": "w"}])


def test_one_directory_by_two_names_is_found_out(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    file = tmp_path / "lakehouse.toml"
    file.write_text(
        f'[[buckets]]\nname = "a"\npath = "link"\n[[buckets]]\nname = "b"\npath = "{tmp_path}/real"\n'
    )
    with pytest.raises(ConfigError, match="'a' and 'b' are one place"):
        Lakehouse(load_settings(file))


def test_a_lake_in_memory_is_read_and_gone_with_the_process(tmp_path):
    def settings(path):
        return Settings(
            buckets=[{"name": "ram", "kind": "memory"}, local("disk", tmp_path / path)],
            cache={"directory": str(tmp_path / "cache")},
        )

    for _ in range(2):
        lake = Lakehouse(settings("disk"))
        try:
            assert lake.bucket.name == "ram"
            session = lake.sessions.get("s", lake.anonymous, "")
            scope = Scope(session, None, CallWatch())
            for sql in (
                "CREATE TABLE t AS SELECT i AS n FROM range(1000) r(i)",
                "DELETE FROM t WHERE n >= 10",
            ):
                lake.engine.changes.run(lake.engine.gate.analyse(sql), scope)
            plan = lake.engine.plan(lake.engine.gate.analyse("SELECT sum(n) AS s FROM t"), session)
            (batch,) = lake.engine.open(plan, session, CallWatch())
            assert batch.to_pylist() == [{"s": 45}]
            (row,) = [r for r in lake.engine.system.all() if r.name == "buckets"]
            shown = {r["name"]: r for r in row.read(None).to_pylist()}
            assert (shown["ram"]["bucket_class"], shown["ram"]["location"]) == ("primary", "memory://ram")
            assert (shown["disk"]["bucket_class"], shown["disk"]["state"]) == ("data", "closed")
        finally:
            lake.close()


def test_the_primary_bucket_is_the_one_of_that_class(tmp_path):
    settings = [local("first", tmp_path / "a"), local("second", tmp_path / "b", **{"class": "primary"})]
    listed = Settings(buckets=settings).buckets
    buckets = Buckets(listed, ObjectCache(), SystemClock(), frozenset(), frozenset())
    assert (buckets.primary.name, list(buckets)) == ("second", ["second", "first"])
    buckets.close()
