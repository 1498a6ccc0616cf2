"""Manifests of tables follow what becomes of the tables, ahead of it or shortly after, and never stop it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket
from lake_tables import put

from lakehouse import telemetry
from lakehouse.access.principal import Principal
from lakehouse.catalog.observer import coming_from, current_source
from lakehouse.config import Settings
from lakehouse.datasets import ColumnManifest, DatasetManifest, Sensitivity
from lakehouse.datasets.fingerprint import fingerprint
from lakehouse.datasets.observed import is_current
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.errors import LakehouseError, StorageError, TableAlreadyExists
from lakehouse.ingest import WriteMode
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

numbers = itertools.count()


def opened(path: Path, **datasets: Any) -> Lakehouse:
    settings = {"buckets": [{"path": str(path)}], "catalog": {"refresh_ms": 0}}
    # What is written behind commits is written when a test says so.
    datasets = {"refresh_seconds": 3600, "index_refresh_ms": 0, **datasets}
    return Lakehouse(Settings.model_validate({**settings, "datasets": datasets}))


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the thread look through what is there, which would be beside what a test does."""
    monkeypatch.setattr("lakehouse.datasets.tracker._PACE_S", 3600.0)


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    found = opened(tmp_path)
    yield found
    found.close()


@pytest.fixture
def session(lakehouse: Lakehouse) -> Session:
    return session_of(lakehouse)


def session_of(lakehouse: Lakehouse) -> Session:
    return lakehouse.sessions.get(f"test-{next(numbers)}", Principal("ann", frozenset({"admin"})))


def run(session: Session, *statements: str) -> None:
    engine = session.engine
    token = telemetry.call_fields.set({"principal": "ann"})
    try:
        for sql in statements:
            analysis = engine.gate.analyse(sql)
            engine.changes.run(analysis, Scope(session, session.sql_transaction, CallWatch()))
    finally:
        telemetry.call_fields.reset(token)


def found(lakehouse: Lakehouse, table: str) -> DatasetManifest | None:
    return lakehouse.manifests.find(TableName("lake", "main", table))


def there(lakehouse: Lakehouse, table: str) -> DatasetManifest:
    manifest = found(lakehouse, table)
    assert manifest is not None
    return manifest


def column(manifest: DatasetManifest, name: str) -> ColumnManifest:
    return next(column for column in manifest.columns if column.name == name)


def test_what_a_table_is_stands_in_its_manifest_before_anything_waits(
    lakehouse: Lakehouse, session: Session
) -> None:
    run(session, "CREATE TABLE t (id BIGINT NOT NULL, Größe DECIMAL(10, 2))")
    made = there(lakehouse, "T")
    table = lakehouse.catalog.load("main", "t")
    assert made.dataset_id == str(table.metadata.table_uuid)
    assert made.fingerprint == fingerprint(table.arrow_schema())
    assert (made.owner, made.created_by, made.bucket, made.location) == (
        "ann", "ann", "primary", "warehouse/main/t",
    )  # fmt: skip
    assert [(c.name, c.type, c.nullable) for c in made.columns] == [
        ("id", "BIGINT", False),
        ("Größe", "DECIMAL(10,2)", True),
    ]
    run(session, "COMMENT ON TABLE t IS 'Größen'", "COMMENT ON COLUMN t.id IS 'the key'")
    assert there(lakehouse, "t").description == "Größen"
    assert column(there(lakehouse, "t"), "id").description == "the key"
    run(session, "ALTER TABLE t ADD COLUMN more VARCHAR", "ALTER TABLE t DROP COLUMN id")
    assert [c.name for c in there(lakehouse, "t").columns] == ["Größe", "more"]
    run(session, "ALTER TABLE t RENAME TO u")
    assert found(lakehouse, "t") is None
    assert there(lakehouse, "u").dataset_id == made.dataset_id
    run(session, "DROP TABLE u")
    assert found(lakehouse, "u") is None
    gone = lakehouse.manifests.get(made.dataset_id)
    assert gone is not None
    assert (gone.dropped, gone.updated_by) == (True, "ann")


def test_commits_bring_counts_statistics_and_lineage_shortly_after(
    lakehouse: Lakehouse, session: Session
) -> None:
    put(lakehouse, "source", {"n": [1, 2, 3]})
    run(session, "CREATE TABLE t AS SELECT n, 'x' || n AS s, DATE '2026-01-01' + n::INT AS d FROM source")
    run(session, "INSERT INTO t VALUES (NULL, 'zoë', NULL)", "INSERT INTO t SELECT n, 'y', NULL FROM source")
    lakehouse.datasets.settle()
    table, manifest = lakehouse.catalog.load("main", "t"), there(lakehouse, "t")
    assert is_current(manifest, table)
    assert (manifest.rows, manifest.size_bytes, manifest.object_count) == (7, table.size_bytes, 3)
    assert column(manifest, "n") == ColumnManifest("n", "BIGINT", True, 7, 1, "1", "3")
    assert (column(manifest, "s").minimum, column(manifest, "s").maximum) == ("x1", "zoë")
    assert column(manifest, "d").maximum == "2026-01-04"
    assert column(manifest, "d").nulls == 4
    source = str(lakehouse.catalog.load("main", "source").metadata.table_uuid)
    assert [(e.system, e.ingest, e.inputs, e.by) for e in manifest.lineage] == [
        ("sql", "CREATE TABLE AS", (source,), "ann"),
        ("sql", "INSERT", (), "ann"),
        ("sql", "INSERT", (source,), "ann"),
    ]
    run(session, "DELETE FROM t WHERE n = 1")
    lakehouse.datasets.settle()
    assert there(lakehouse, "t").rows == 5
    changed = there(lakehouse, "t").changed_at
    assert changed is not None
    assert abs((datetime.now(UTC) - changed).total_seconds()) < 600
    # Nothing new, nothing written.
    version = there(lakehouse, "t").version
    lakehouse.datasets.changed(TableName("lake", "main", "t"))
    lakehouse.datasets.settle()
    assert there(lakehouse, "t").version == version


def test_a_transaction_brings_its_sources_along(lakehouse: Lakehouse, session: Session) -> None:
    put(lakehouse, "a", {"n": [1]})
    put(lakehouse, "b", {"n": [2]})
    run(session, "BEGIN", "CREATE TABLE t AS FROM a", "INSERT INTO t FROM b")
    assert found(lakehouse, "t") is None
    run(session, "COMMIT")
    ids = [there_id(lakehouse, name) for name in "ab"]
    assert [edge.inputs for edge in there(lakehouse, "t").lineage] == [(each,) for each in ids]
    run(session, "BEGIN", "DROP TABLE a", "DROP TABLE b", "COMMIT")
    assert found(lakehouse, "a") is None
    assert found(lakehouse, "b") is None


def there_id(lakehouse: Lakehouse, table: str) -> str:
    return str(lakehouse.catalog.load("main", table).metadata.table_uuid)


def test_what_is_known_of_a_column_stays_when_it_is_renamed_and_the_table_replaced(
    lakehouse: Lakehouse, session: Session
) -> None:
    run(session, "CREATE TABLE t (a BIGINT, b VARCHAR)")
    marked = Sensitivity("own", 1.0, "", declared=True)

    def build(old: DatasetManifest | None) -> DatasetManifest:
        assert old is not None
        first = replace(old.columns[0], tags=("key",), sensitivity=(marked,))
        return replace(old, tags=("x",), owner="bob", columns=(first, *old.columns[1:]))

    lakehouse.manifests.change(there(lakehouse, "t").dataset_id, build)
    run(session, "ALTER TABLE t RENAME COLUMN a TO z", "CREATE OR REPLACE TABLE t AS SELECT 1 AS z, 2 AS c")
    lakehouse.datasets.settle()
    manifest = there(lakehouse, "t")
    assert (manifest.owner, manifest.tags, manifest.created_by) == ("bob", ("x",), "ann")
    assert [c.name for c in manifest.columns] == ["z", "c"]
    assert (manifest.columns[0].tags, manifest.columns[0].sensitivity) == (("key",), (marked,))
    assert manifest.columns[0].minimum is None  # values of such columns are not kept
    assert manifest.columns[1].minimum == "2"


def test_personal_data_is_found_once_and_what_was_declared_is_believed(tmp_path: Path) -> None:
    lakehouse = opened(tmp_path)
    sampled: list[int] = []
    sampler = lakehouse.datasets._sampler
    assert sampler is not None

    class Counting:
        def sample(self, table: Any, rows: int, cancelled: Any) -> pa.Table:
            sampled.append(rows)
            return sampler.sample(table, rows, cancelled)

    lakehouse.datasets._sampler = Counting()
    mails = {"contact": [f"user{n}@example.org" for n in range(50)], "n": list(range(50))}
    put(lakehouse, "t", mails)
    lakehouse.datasets.settle()
    manifest = there(lakehouse, "t")
    (mail,) = column(manifest, "contact").sensitivity
    assert (mail.kind, mail.declared) == ("email", False)
    assert mail.confidence > 0.9
    assert "@" not in mail.evidence
    assert column(manifest, "contact").minimum is None
    assert column(manifest, "n").minimum == "0"
    for _ in range(3):
        put(lakehouse, "t", {"contact": ["a"], "n": [1]}, WriteMode.APPEND)
        lakehouse.datasets.settle()
    assert sampled == [1000]
    declined = Sensitivity("email", 0.0, "declined by ann", declared=True)

    def decline(old: DatasetManifest | None) -> DatasetManifest:
        assert old is not None
        return replace(old, columns=(replace(old.columns[0], sensitivity=(declined,)), old.columns[1]))

    lakehouse.manifests.change(manifest.dataset_id, decline)
    put(lakehouse, "t", {"contact": mails["contact"] * 3, "n": mails["n"] * 3}, WriteMode.APPEND)
    lakehouse.datasets.settle()
    assert sampled == [1000, 1000]
    assert column(there(lakehouse, "t"), "contact").sensitivity == (declined,)
    lakehouse.close()
    again = opened(tmp_path)
    assert column(there(again, "t"), "contact").sensitivity == (declined,)
    again.close()


def test_tables_of_other_programs_get_their_manifests_and_lose_them(tmp_path: Path) -> None:
    other = opened(tmp_path, enabled=False)
    put(other, "theirs", {"n": [1, 2]})
    put(other, "both", {"n": [1]})
    assert list(other.manifests.all()) == []
    lakehouse = opened(tmp_path)
    step = lakehouse.datasets._unseen()
    assert len(list(step)) > 2
    lakehouse.datasets.settle()
    assert [(m.name.table, m.rows, m.owner) for m in lakehouse.manifests.all()] == [
        ("both", 1, ""),
        ("theirs", 2, ""),
    ]
    other.catalog.drop_table("main", "theirs")
    put(other, "both", {"n": [5]})
    list(lakehouse.datasets._unseen())
    lakehouse.datasets.settle()
    assert [(m.name.table, m.rows) for m in lakehouse.manifests.all()] == [("both", 2)]
    other.close()
    lakehouse.close()


def test_a_table_that_was_not_made_after_all_has_no_manifest_for_long(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = lakehouse.catalog
    commit_table = catalog.objects.commit_table  # type: ignore[attr-defined]
    put(lakehouse, "kept", {"n": [1]})

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise StorageError("injected")

    monkeypatch.setattr(catalog.objects, "commit_table", fails)  # type: ignore[attr-defined]
    with pytest.raises(StorageError):
        put(lakehouse, "t", {"n": [1]})
    assert there(lakehouse, "t").rows == 0  # written ahead
    monkeypatch.setattr(catalog.objects, "drop_table", fails)  # type: ignore[attr-defined]
    with pytest.raises(StorageError):
        catalog.drop_table("main", "kept")
    assert found(lakehouse, "kept") is None
    monkeypatch.setattr(catalog.objects, "commit_table", commit_table)  # type: ignore[attr-defined]
    lakehouse.datasets.settle()
    assert found(lakehouse, "t") is None
    assert there(lakehouse, "kept").rows == 1
    put(lakehouse, "t", {"n": [1]})
    lakehouse.datasets.settle()
    assert there(lakehouse, "t").rows == 1


def test_nothing_takes_place_that_could_not_be_written_ahead(lakehouse: Lakehouse) -> None:
    put(lakehouse, "kept", {"n": [1]})
    away = True
    store = lakehouse.manifests
    store._bucket = FaultyBucket(store._bucket, lambda *_: "before" if away else None)
    with pytest.raises(StorageError):
        put(lakehouse, "t", {"n": [1]})
    with pytest.raises(StorageError):
        lakehouse.catalog.drop_table("main", "kept")
    with pytest.raises(LakehouseError):
        lakehouse.catalog.describe_table("main", "kept", "x", {})
    assert lakehouse.catalog.tables("main") == ["kept"]
    put(lakehouse, "kept", {"n": [2]})  # rows need no manifest
    away = False
    lakehouse.datasets.settle()
    assert there(lakehouse, "kept").rows == 2


def test_of_two_servers_that_make_a_table_one_manifest_is_left(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    altering = second.datasets.altering

    def late(*args: Any) -> None:
        altering(*args)
        put(first, "t", {"n": [1]})

    second.datasets.altering = late  # type: ignore[method-assign]
    with pytest.raises(TableAlreadyExists):
        put(second, "t", {"n": [2]}, WriteMode.CREATE)
    second.datasets.settle()
    first.datasets.settle()
    for each in (first, second):
        assert [m.dataset_id for m in each.manifests.all()] == [there_id(first, "t")]
        assert there(each, "t").rows == 1
        each.close()


def test_an_edge_that_comes_again_counts_once(lakehouse: Lakehouse) -> None:
    put(lakehouse, "t", {"n": [1]})
    for number in range(60):
        with coming_from("file", f"s3://b/{number % 55}", "ingest"):
            lakehouse.datasets.filled(TableName("lake", "main", "T"), current_source())
        if number % 7 == 0:
            lakehouse.datasets.settle()
    lakehouse.datasets.settle()
    sources = [edge.source for edge in there(lakehouse, "t").lineage]
    assert len(sources) == 50
    assert sources[-1] == "s3://b/4"
    assert len(set(sources)) == 50


def test_what_was_seen_before_a_change_does_not_overwrite_what_was_written_ahead(
    lakehouse: Lakehouse, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background looks at a table, and then somebody describes it before its manifest is written."""
    run(session, "CREATE TABLE t AS SELECT 1 AS n")
    change_many = lakehouse.manifests.change_many
    moments = iter([lambda: run(session, "COMMENT ON TABLE t IS 'new'")])

    def late(builds: Any) -> Any:
        next(moments, lambda: None)()
        return change_many(builds)

    tracker = lakehouse.datasets
    monkeypatch.setattr(lakehouse.manifests, "change_many", late)
    tracker._look_after(0.0, everything=True)
    monkeypatch.undo()
    assert there(lakehouse, "t").description == "new"
    tracker.altering(lakehouse.catalog.load("main", "t"), None)
    lakehouse.manifests.change(
        there(lakehouse, "t").dataset_id, lambda old: replace(old, description="ahead") if old else made()
    )
    tracker._look_after(0.0, everything=True)
    assert there(lakehouse, "t").description == "ahead"
    tracker.changed(TableName("lake", "main", "t"))
    tracker.settle()
    assert there(lakehouse, "t").description == "new"


def made() -> DatasetManifest:
    raise AssertionError("there was no manifest")
