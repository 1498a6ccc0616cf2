"""Manifests damaged in every way, and made anew from storage: seven datasets, 2,469,278 rows together."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from registered import open_lake, parquet, put, register, run, session_of
from s3 import S3, start_s3
from s3_proxy import Fault, start_proxy

from lakehouse.datasets.difference import differences
from lakehouse.datasets.manifest import ColumnManifest, DatasetKind, DatasetManifest, DatasetObject
from lakehouse.datasets.manifest_store import MANIFESTS, ManifestStore
from lakehouse.datasets.registered_catalog import RegisteredCatalog
from lakehouse.datasets.registration import RECORDS, Registrations
from lakehouse.datasets.resync import Resync, Resynced, Verified
from lakehouse.engine.table_reader import TableReader
from lakehouse.errors import LakehouseError, SchemaMismatch, StatementCancelled, TableNotFound
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

ROWS = 2_469_278
# Unequal sizes; of tables, and of registered Parquet with the number of its objects.
TABLES = {"trips": 1_200_000, "people": 120_000, "mixed": 40_000, "one": 1}
PARQUET = {"events": (700_000, 7), "nested": (400_000, 3), "by_day": (9_277, 4)}
SELECT = {
    "trips": "i AS id, i % 97 AS zone, (i / 100.0)::DECIMAL(12, 2) AS fare, "
    "TIMESTAMP '2026-01-01' + INTERVAL 1 SECOND * i AS at",
    "people": "i AS id, 'größe ' || i % 1000 AS \"Größe\", if(i % 3 = 0, NULL, i * 0.5) AS score",
    "mixed": "i AS id, {'x': i, 'y': 'ü' || i} AS point, [i, NULL] AS list, MAP {'k': i} AS map, "
    "DATE '2026-01-01' + (i % 365)::INTEGER AS day",
    "one": "i AS id, 'only' AS word",
    "events": "i AS id, 'e' || i % 11 AS kind, i % 2 = 0 AS flag, TIMESTAMPTZ '2026-01-01 00:00:00Z' + "
    "INTERVAL 1 MINUTE * i AS at",
    "nested": "i AS id, {'a': {'b': i::INTEGER}, 'c': [i]} AS \"n e\", (i * 1.001)::DECIMAL(38, 3) AS big",
    "by_day": "i AS id, if(i % 5 = 0, NULL, 'Zürich') AS city",
}
# What only a person can know, and what nobody can who finds no manifest.
SAID = {"owner", "tags", "lineage", "freshness_seconds", "created_at", "created_by"}
SAID_OF_PARQUET = {"owner", "tags", "freshness_seconds", "description", "lineage"}
CHANGE = {"version", "updated_at", "updated_by"}


@dataclass
class Seven:
    """The lake, its manifests as they should be, and the objects that hold them."""

    lake: Lakehouse
    root: Path
    originals: dict[TableName, DatasetManifest]
    kept: Path

    @property
    def catalog(self) -> Path:
        return self.root / "primary" / "_catalog"


class Tools:
    """Everything that works on manifests, with nothing remembered."""

    def __init__(self, lake: Lakehouse) -> None:
        self.events: list[ChangeEvent] = []
        self.store = ManifestStore(lake.bucket, lake.clock)
        registered = RegisteredCatalog(self.store, lake.buckets, lake.links)
        reader = TableReader(lake.engine)
        registrations = Registrations(
            self.store,
            lake.buckets,
            [],
            lake.clock,
            self,
            lambda m: reader.sample(registered.table(m), 1000, lambda: False),
        )
        self.resyncer = Resync(
            self.store, lake.catalogs, registered, registrations, lake.buckets, lake.clock, self, reader
        )

    def record(self, *events: ChangeEvent) -> None:
        self.events += events

    def resync(self, name: TableName, **options: Any) -> Resynced:
        return self.resyncer.resync(name, "mechanic", _go_on, _untold, **options)

    def missing(self, check: Callable[[], None] | None = None) -> list[TableName]:
        done, failed = self.resyncer.resync_missing("mechanic", _every, check or _go_on, _untold)
        assert not failed
        return [each.name for each in done]

    def verify(self, **options: Any) -> list[Verified]:
        return self.resyncer.verify(None, _every, _go_on, _untold, **options)[0]


def _go_on() -> None:
    pass


def _untold(share: float, message: str) -> None:
    assert 0 <= share <= 1


def _every(name: TableName) -> bool:
    return True


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seven]:
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda _: None)
    root = tmp_path_factory.mktemp("seven")
    lake = open_lake(root)
    session = session_of(lake)
    for table, rows in TABLES.items():
        run(session, f"CREATE TABLE main.{table} AS SELECT {SELECT[table]} FROM range({rows}) r(i)")
    # Rows that were deleted without rewriting their files would not be counted by footers alone.
    run(session, "COMMENT ON TABLE main.people IS 'who came'")
    engine = duckdb.connect()
    for name, (rows, objects) in PARQUET.items():
        for number in range(objects):
            low, high = rows * number // objects, rows * (number + 1) // objects
            inner = f"day=2026-01-0{number + 1}/" if name == "by_day" else ""
            target = root / "data" / name / f"{inner}{number}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            engine.execute(f"COPY (SELECT {SELECT[name]} FROM range({low}, {high}) r(i)) TO '{target}'")
        register(lake, f"raw.{name}", name, owner="ann", description=f"the {name}", tags=("raw",))
    engine.close()
    lake.datasets.settle()
    lake.close()
    lake = open_lake(root, datasets={"enabled": False})
    tools = Tools(lake)
    originals = {manifest.name: manifest for manifest in tools.store.all()}
    assert sum(manifest.rows for manifest in originals.values()) == ROWS
    assert len(originals) == 7
    shutil.copytree(root / "primary" / "_catalog", root / "kept")
    yield Seven(lake, root, originals, root / "kept")
    lake.close()
    patch.undo()


@pytest.fixture
def whole(seven: Seven) -> Seven:
    """The same, with all manifests as they should be."""
    shutil.rmtree(seven.catalog)
    shutil.copytree(seven.kept, seven.catalog)
    return seven


def fields_that_differ(old: DatasetManifest, new: DatasetManifest) -> set[str]:
    return {each.field.split(".")[0] for each in differences(old, new)}


def test_what_is_right_is_left_alone_and_told_so(whole: Seven) -> None:
    tools = Tools(whole.lake)
    assert tools.verify() == []
    assert tools.missing() == []
    before = sorted(whole.catalog.rglob("*"))
    for name, manifest in whole.originals.items():
        done = tools.resync(name)
        assert (done.differences, done.findings) == ((), ())
        assert done.rows == manifest.rows
        assert tools.store.find(name) == manifest
    assert tools.events == []
    assert sorted(whole.catalog.rglob("*")) == before
    assert tools.verify(deep=True) == []


def objects_of(whole: Seven) -> list[Path]:
    return sorted((whole.catalog / "manifests").glob("*.parquet"))


def flip(path: Path, seed: int) -> None:
    content, dice = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(20):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(content))


def lose_old_slots(whole: Seven) -> None:
    """Only a checkpoint is left, and that is damaged."""
    Tools(whole.lake).store.checkpoint()
    for path in objects_of(whole):
        if "checkpoint" in path.name:
            path.write_bytes(path.read_bytes()[:-100])
        else:
            path.unlink()


def each_object(damage: Callable[[Path], Any]) -> Callable[[Seven], None]:
    return lambda whole: [damage(path) for path in objects_of(whole)] and None


GONE: dict[str, Callable[[Seven], None]] = {
    "deleted": each_object(Path.unlink),
    "the directory deleted": lambda whole: shutil.rmtree(whole.catalog / "manifests"),
    "zero bytes": each_object(lambda path: path.write_bytes(b"")),
    "truncated": each_object(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
    "garbage": each_object(lambda path: path.write_bytes(random.Random(3).randbytes(5000))),
    "other Parquet": each_object(lambda path: path.write_bytes(parquet({"a": [1]}))),
    "bits flipped": each_object(lambda path: flip(path, len(path.name))),
    "checkpoint damaged, slots gone": lose_old_slots,
}


@pytest.mark.parametrize("name", GONE)
def test_manifests_that_are_gone_are_made_anew(whole: Seven, name: str) -> None:
    GONE[name](whole)
    tools = Tools(whole.lake)
    lost = set(whole.originals) - {manifest.name for manifest in tools.store.all()}
    assert lost
    told = tools.verify()
    assert {each.name for each in told if any(f.problem == "no_manifest" for f in each.findings)} == lost
    assert set(tools.missing()) == lost
    recovered = Tools(whole.lake)
    for each, original in whole.originals.items():
        found = recovered.store.find(each)
        assert found is not None
        said = SAID if original.kind is DatasetKind.TABLE else SAID_OF_PARQUET
        assert fields_that_differ(original, found) <= (said if each in lost else set())
    assert recovered.missing() == []
    assert [each for each in recovered.verify() if each.name is not None] == []
    assert {event.action for event in tools.events} == {"resync"}


def test_half_of_the_log_damaged_costs_no_more_than_what_was_in_it(whole: Seven) -> None:
    paths = objects_of(whole)
    for path in paths[::2]:
        path.write_bytes(b"PAR1")
    tools = Tools(whole.lake)
    assert next(each for each in tools.verify() if each.name is None).count == len(paths[::2])
    tools.missing()
    for name in whole.originals:
        tools.resync(name)
    for name, original in whole.originals.items():
        found = tools.store.find(name)
        assert found is not None
        said = SAID | SAID_OF_PARQUET
        assert fields_that_differ(original, found) <= said


def test_what_was_stopped_goes_on_with_what_still_lacks(whole: Seven) -> None:
    shutil.rmtree(whole.catalog / "manifests")
    stopped, done = Tools(whole.lake), 0

    def check() -> None:
        if len({event.entity for event in stopped.events}) >= 3:
            raise StatementCancelled("stopped")

    with pytest.raises(StatementCancelled):
        stopped.missing(check)
    done = len(Tools(whole.lake).store.all())
    assert done == 3
    assert len(Tools(whole.lake).missing()) == 7 - done
    assert Tools(whole.lake).missing() == []
    assert Tools(whole.lake).verify() == []


def changed_columns(change: Callable[[ColumnManifest], ColumnManifest]) -> Callable[..., DatasetManifest]:
    return lambda m, other: replace(m, columns=tuple(map(change, m.columns)))


def of_parquet(change: Callable[[DatasetManifest], DatasetManifest]) -> Callable[..., DatasetManifest]:
    return lambda m, other: change(m) if m.kind is DatasetKind.PARQUET else replace(m, rows=m.rows + 1)


WRONG: dict[str, Callable[[DatasetManifest, DatasetManifest], DatasetManifest]] = {
    "rows": lambda m, other: replace(m, rows=m.rows - 1),
    "sizes": lambda m, other: replace(m, size_bytes=0, object_count=99),
    "fingerprint": lambda m, other: replace(m, fingerprint="1:" + "0" * 32),
    "column order": lambda m, other: replace(m, columns=m.columns[::-1]),
    "column types": changed_columns(lambda c: replace(c, type="BLOB")),
    "column names": changed_columns(lambda c: replace(c, name=c.name + "_")),
    "column statistics": changed_columns(lambda c: replace(c, nulls=7, minimum="x", maximum=None, values=1)),
    "no columns": lambda m, other: replace(m, columns=()),
    "a column twice": lambda m, other: replace(m, columns=(*m.columns, m.columns[0])),
    "stale snapshot": lambda m, other: replace(m, snapshot_id=12345, rows=0),
    "objects extra": of_parquet(
        lambda m: replace(m, objects=(*m.objects, replace(m.objects[0], key=m.location + "no.parquet")))
    ),
    "objects missing": of_parquet(lambda m: replace(m, objects=m.objects[1:])),
    "no objects": of_parquet(lambda m: replace(m, objects=(), object_count=0)),
    "an object twice": of_parquet(lambda m: replace(m, objects=(*m.objects, m.objects[0]))),
    "objects changed": of_parquet(
        lambda m: replace(m, objects=tuple(replace(o, rows=1, e_tag="x") for o in m.objects))
    ),
    "objects of another dataset": lambda m, other: replace(m, objects=(DatasetObject("x", 1, 1, "e"),)),
    "place": lambda m, other: replace(m, bucket="primary", location="nowhere/"),
    "kind": lambda m, other: replace(m, kind=other.kind) if other.kind != m.kind else replace(m, rows=0),
    "times": lambda m, other: replace(m, changed_at=None),
    "name": lambda m, other: replace(m, name=TableName(m.name.catalog, "else", "where")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_manifests_that_say_what_is_not_so_are_put_right(whole: Seven, wrong: str) -> None:
    tools, names = Tools(whole.lake), list(whole.originals)
    for name, original in whole.originals.items():
        other = whole.originals[names[names.index(name) - 1]]
        tools.store.change(original.dataset_id, lambda m, o=other: WRONG[wrong](m, o))
    tools = Tools(whole.lake)
    seen = {each.dataset_id for each in tools.verify() if each.count}
    assert seen >= {original.dataset_id for original in whole.originals.values()}
    tools.missing()
    for name in names:
        done = tools.resync(name)
        assert done.findings == ()
    again = Tools(whole.lake)
    for name, original in whole.originals.items():
        assert fields_that_differ(original, again.store.find(name)) == set()
    assert again.verify() == []


def test_the_manifest_of_another_dataset_and_two_of_one_name(whole: Seven) -> None:
    tools, names = Tools(whole.lake), list(whole.originals)
    for number, original in enumerate(whole.originals.values()):
        other = whole.originals[names[number - 1]]
        tools.store.change(original.dataset_id, lambda m, o=other: replace(o, dataset_id=m.dataset_id))
        twin = replace(original, dataset_id=f"00000000-0000-4000-8000-00000000000{number}")
        tools.store.change(twin.dataset_id, lambda _, t=twin: t)
    tools = Tools(whole.lake)
    problems = {finding.problem for each in tools.verify() for finding in each.findings}
    assert "name_twice" in problems
    tools.missing()
    for name in names:
        tools.resync(name)
    again = Tools(whole.lake)
    for name, original in whole.originals.items():
        found = again.store.find(name)
        assert found is not None
        assert found.dataset_id == original.dataset_id
        # Whose tags and owner stood in it cannot be told any more.
        assert fields_that_differ(original, found) <= SAID | SAID_OF_PARQUET
    assert again.verify() == []


def test_a_manifest_marked_as_dropped_of_a_table_that_is_there(whole: Seven) -> None:
    tools, name = Tools(whole.lake), TableName("lake", "main", "trips")
    tools.store.change(whole.originals[name].dataset_id, lambda m: replace(m, dropped=True))
    assert [f.problem for f in tools.verify()[0].findings] == ["no_manifest"]
    assert tools.missing() == [name]
    assert tools.verify() == []


def test_a_registration_that_ended_is_not_made_anew(whole: Seven) -> None:
    tools, name = Tools(whole.lake), TableName("registered", "raw", "events")
    tools.store.change(whole.originals[name].dataset_id, lambda m: replace(m, dropped=True))
    assert tools.missing() == []
    with pytest.raises(TableNotFound):
        tools.resync(name)
    assert not list(whole.lake.bucket.objects(f"{RECORDS}/{whole.originals[name].dataset_id}.json"))
    shutil.rmtree(whole.catalog / "manifests")
    tools = Tools(whole.lake)
    tools.missing()
    assert tools.store.find(name) is None


def test_what_is_registered_is_written_down_where_a_killed_server_did_not(whole: Seven) -> None:
    shutil.rmtree(whole.catalog / "registered")
    Tools(whole.lake).missing()
    assert len(list((whole.catalog / "registered").iterdir())) == len(PARQUET)
    shutil.rmtree(whole.catalog / "manifests")
    Tools(whole.lake).missing()
    assert {each.name for each in Tools(whole.lake).store.all()} == set(whole.originals)


# -- what is wrong in storage ---------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    opened = open_lake(tmp_path, datasets={"enabled": False})
    yield opened
    opened.close()


def findings(found: list[Verified]) -> list[tuple[str, str]]:
    return [(f.problem, f.key) for each in found for f in each.findings]


def test_objects_that_came_went_and_changed_are_told_and_taken_over(lake: Lakehouse) -> None:
    data, session, tools = lake.buckets["data"], session_of(lake), Tools(lake)
    for number in range(4):
        put(data, f"t/{number}.parquet", {"a": [number] * 10})
    register(lake, description="kept")
    name = TableName("registered", "raw", "t")
    data.delete("t/0.parquet")
    put(data, "t/1.parquet", {"a": [7] * 3, "b": ["new"] * 3})
    put(data, "t/9.parquet", {"a": [9]})
    data.put("t/2.parquet", data.get("t/2.parquet")[:-20])
    told = findings(tools.verify())
    assert ("truncated", "t/2.parquet") in told
    assert ("changed_object", "t/1.parquet") in told
    assert {problem for problem, _ in told} >= {"objects", "wrong_rows", "wrong_fingerprint", "wrong_columns"}
    with pytest.raises(SchemaMismatch, match=r"'t/2.parquet' .* \(truncated\)"):
        tools.resync(name)
    done = tools.resync(name, skip_damaged=True)
    assert [(f.problem, f.key) for f in done.findings] == [("truncated", "t/2.parquet")]
    assert (done.rows, done.objects) == (14, 3)
    assert {d.field for d in done.differences} >= {"objects", "rows", "columns", "fingerprint"}
    put(data, "t/2.parquet", {"a": [2]})
    tools.resync(name)
    assert findings(tools.verify()) == []
    lake.manifests.refresh()
    assert run(session, "SELECT count(*), count(b), sum(a) FROM registered.raw.t") == [
        (15, 3, 7 * 3 + 9 + 30 + 2)
    ]
    again = lake.manifests.find(name)
    assert again is not None
    assert again.description == "kept"


def test_a_footer_that_disagrees_with_the_iceberg_manifest_is_told_with_both(lake: Lakehouse) -> None:
    session, tools = session_of(lake), Tools(lake)
    for number in range(5):
        run(session, f"{'CREATE TABLE t AS' if not number else 'INSERT INTO t'} SELECT {number} AS a")
    tools.missing()
    assert findings(tools.verify(deep=True)) == []
    keys = [lake.bucket.key_of(file.uri) for file in lake.catalog.load("main", "t").files()]
    put(lake.bucket, keys[0], {"a": [1, 2, 3]})
    lake.bucket.delete(keys[1])
    lake.bucket.put(keys[2], b"")
    content = bytearray(lake.bucket.get(keys[3]))
    content[4:40] = bytes(36)
    lake.bucket.put(keys[3], bytes(content))
    (found,) = tools.verify()
    told = {(f.problem, f.key): f.detail for f in found.findings}
    assert told["wrong_rows", keys[0]] == "its footer says 3 rows, the Iceberg manifest 1"
    assert ("missing", keys[1]) in told
    assert ("empty", keys[2]) in told
    assert keys[3] not in {key for _, key in told}
    assert ("unreadable", keys[3]) in findings(tools.verify(deep=True))
    done = tools.resync(TableName("lake", "main", "t"))
    assert done.rows == 5
    assert {f.key for f in done.findings} == set(keys[:3])


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    yield running
    running.stop()


FAULTS: dict[str, Fault] = {
    "an object cannot be read": lambda a: replace(a, status=500, body=b"") if "2.parquet" in a.path else a,
    "an answer breaks off": lambda a: replace(a, body=a.body[:-9]) if "1.parquet" in a.path else a,
    "no answer": lambda a: None if "parquet" in a.path else a,
    "nothing can be listed": lambda a: replace(a, status=503, body=b"") if "list-type" in a.path else a,
    "not let in": lambda a: replace(a, status=403, body=b""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_does_not_work_changes_no_manifest(
    s3: S3, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    proxy = start_proxy(s3.endpoint)
    away = s3.settings(name="data", endpoint=proxy.endpoint, max_retries=0, breaker_failures=1000)
    home = {"name": "primary", "path": str(tmp_path / "primary")}
    buckets = [home, away.model_dump(exclude_unset=True)]
    lake = open_lake(tmp_path, buckets=buckets, datasets={"enabled": False})
    try:
        tools, name = Tools(lake), TableName("registered", "raw", "t")
        for number in range(4):
            put(lake.buckets["data"], f"t/{number}.parquet", {"a": [number]})
        before = register(lake)
        put(lake.buckets["data"], "t/4.parquet", {"a": [4]})
        proxy.fault = FAULTS[fault]
        with pytest.raises(LakehouseError) as failed:
            tools.resync(name)
        assert away.bucket not in str(failed.value)
        told = findings(tools.verify())
        assert told
        assert tools.store.find(name) == before
        proxy.fault = lambda answer: answer
        assert tools.resync(name).rows == 5
        assert findings(tools.verify(deep=True)) == []
    finally:
        lake.close()
        proxy.stop()


def test_tables_without_manifests_and_manifests_without_tables_are_told(lake: Lakehouse) -> None:
    session, tools = session_of(lake), Tools(lake)
    run(session, "CREATE TABLE t AS SELECT 1 AS a")
    assert findings(tools.verify()) == [("no_manifest", "")]
    tools.missing()
    run(session, "DROP TABLE t")
    assert findings(tools.verify()) == [("table_gone", "")]
    with pytest.raises(TableNotFound):
        tools.resync(TableName("lake", "main", "t"))


def test_rows_that_are_deleted_are_not_counted(lake: Lakehouse) -> None:
    session, tools = session_of(lake), Tools(lake)
    run(session, "CREATE TABLE t AS SELECT i AS a FROM range(1000) r(i)")
    run(session, "DELETE FROM t WHERE a < 10")
    tools.missing()
    manifest = tools.store.find(TableName("lake", "main", "t"))
    assert manifest is not None
    assert manifest.rows == 990
    assert tools.verify(deep=True) == []


def test_the_manifests_are_where_the_store_keeps_them(whole: Seven) -> None:
    assert whole.catalog / "manifests" == whole.root / "primary" / MANIFESTS
    assert pq.read_metadata(objects_of(whole)[0]).num_rows > 0
