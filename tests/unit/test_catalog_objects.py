"""The catalog in object storage: schemas, tables, who sees what when, and names of every kind."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog, Table, open_catalog
from lakehouse.clock import FixedClock, SystemClock
from lakehouse.config import load_settings
from lakehouse.errors import (
    ConfigError,
    InvalidRequest,
    LakehouseError,
    SchemaAlreadyExists,
    SchemaNotEmpty,
    SchemaNotFound,
    SnapshotNotFound,
    TableAlreadyExists,
    TableNotFound,
)
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

ROWS = pa.table({"n": [1, 2]})


def opened(root: Path, clock: FixedClock) -> IcebergCatalog:
    return IcebergCatalog("lake", open_local_bucket("primary", root), "warehouse", clock, refresh_s=0.5)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def catalog(tmp_path: Path, clock: FixedClock) -> IcebergCatalog:
    catalog = opened(tmp_path, clock)
    catalog.create_schema("main")
    return catalog


def write(
    catalog: IcebergCatalog, table: str, mode: WriteMode = WriteMode.CREATE, schema: str = "main"
) -> Table:
    name = TableName("lake", schema, table)
    commit(catalog, stage(catalog, name, mode, ROWS.schema, ROWS.to_batches(), lambda: False))
    return catalog.load(schema, table)


def count(table: Table) -> int:
    paths = [file.path for file in table.files()]
    with duckdb.connect() as connection:
        found = connection.execute("SELECT count(*) FROM read_parquet(?)", [paths]).fetchone()
    assert found is not None
    return int(found[0])


def test_schemas_are_found_in_any_case_and_keep_theirs(catalog: IcebergCatalog) -> None:
    catalog.create_schema("Sales")
    assert catalog.schemas() == ["Sales", "main"]
    assert catalog.schema_exists("SALES")
    assert catalog.spelled_schema("sAles") == "Sales"
    with pytest.raises(SchemaAlreadyExists):
        catalog.create_schema("SALES")
    catalog.create_schema("sales", if_not_exists=True)
    assert catalog.schemas() == ["Sales", "main"]
    catalog.drop_schema("sALES")
    assert catalog.schemas() == ["main"]
    assert not catalog.schema_exists("Sales")


def test_a_schema_that_is_not_there_is_said_to_be_missing_with_the_nearest_name(
    catalog: IcebergCatalog,
) -> None:
    for call in (catalog.tables, catalog.drop_schema, catalog.spelled_schema):
        with pytest.raises(SchemaNotFound) as missing:
            call("mian")
        assert "lake.mian" in missing.value.message
        assert "'main'" in missing.value.hint
    with pytest.raises(SchemaNotFound):
        catalog.load("mian", "t")
    catalog.drop_schema("mian", if_exists=True)


def test_a_schema_with_tables_is_not_dropped(catalog: IcebergCatalog) -> None:
    write(catalog, "t")
    with pytest.raises(SchemaNotEmpty):
        catalog.drop_schema("main")
    catalog.drop_table("main", "t")
    catalog.drop_schema("main")
    catalog.create_schema("main")
    assert catalog.tables("main") == []


def test_tables_are_found_in_any_case_and_keep_theirs(catalog: IcebergCatalog) -> None:
    table = write(catalog, "Flights")
    assert catalog.load("MAIN", "FLIGHTS") is table
    assert table.name == TableName("lake", "main", "Flights")
    assert catalog.tables("Main") == ["Flights"]
    with pytest.raises(TableAlreadyExists):
        write(catalog, "flightS")
    assert count(write(catalog, "FLIGHTS", WriteMode.APPEND)) == 4
    assert catalog.tables("main") == ["Flights"]


def test_a_table_that_is_not_there_is_said_to_be_missing_with_the_nearest_name(
    catalog: IcebergCatalog,
) -> None:
    write(catalog, "flights")
    with pytest.raises(TableNotFound) as missing:
        catalog.load("main", "flihgts")
    assert "lake.main.flihgts" in missing.value.message
    assert "'flights'" in missing.value.hint
    with pytest.raises(TableNotFound):
        catalog.drop_table("main", "nothing")
    with pytest.raises(SchemaNotFound):
        catalog.drop_table("nowhere", "nothing")
    catalog.drop_table("nowhere", "nothing", if_exists=True)
    assert not catalog.table_exists("main", "flihgts")
    assert not catalog.table_exists("nowhere", "flights")
    assert not catalog.table_exists("", "")


def test_a_dropped_table_is_gone_and_can_be_made_again(catalog: IcebergCatalog) -> None:
    old = write(catalog, "T")
    catalog.drop_table("main", "t")
    assert not catalog.table_exists("main", "t")
    assert catalog.tables("main") == []
    new = write(catalog, "t")
    assert new.uuid != old.uuid
    assert (new.name.table, count(new), catalog.tables("main")) == ("t", 2, ["t"])
    assert count(old) == 2, "who still reads the old table is not disturbed"


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a/b",
        "..",
        ".",
        "a.b",
        "%41",
        "_schema.json",
        "metadata",
        "data",
        "ünïcödé",
        "日本",
        "😀",
        "[*?]",
        "'\"",
        "x" * 1000,
        "é" * 300,
        "a\nb",
        "~",
        "#?&=+",
        "C:\\x",
        " ",
    ],
)
def test_names_may_be_anything(tmp_path: Path, name: str) -> None:
    catalog = opened(tmp_path / "with space %41 ü #", FixedClock())
    catalog.create_schema(name)
    table = write(catalog, name, schema=name)
    assert count(table) == 2
    assert count(write(catalog, name, WriteMode.APPEND, schema=name)) == 4
    assert all(Path(file.path).is_file() for file in table.files())
    other = opened(tmp_path / "with space %41 ü #", FixedClock())
    assert other.schemas() == [name]
    assert other.tables(name) == [name]
    assert other.load(name, name).name == TableName("lake", name, name)
    assert catalog.objects.load_table((name, name)).scan().to_arrow().num_rows == 4
    catalog.drop_table(name, name)
    catalog.drop_schema(name)
    assert catalog.schemas() == []


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_what_cannot_be_a_name_is_refused(catalog: IcebergCatalog, name: str) -> None:
    for call in (catalog.create_schema, catalog.drop_schema):
        with pytest.raises(InvalidRequest):
            call(name)
    with pytest.raises(InvalidRequest):
        catalog.load("main", name)


def test_what_another_process_does_is_seen_when_the_known_state_is_old(
    tmp_path: Path, catalog: IcebergCatalog, clock: FixedClock
) -> None:
    other = opened(tmp_path, FixedClock())
    assert catalog.tables("main") == []
    assert not catalog.table_exists("main", "t")
    write(other, "t")
    assert not catalog.table_exists("main", "t"), "what is known may be half a second old"
    clock.elapsed_s += 0.5
    first = catalog.load("main", "t")
    assert catalog.tables("main") == ["t"]
    write(other, "t", WriteMode.APPEND)
    assert catalog.load("main", "t") is first
    clock.elapsed_s += 0.5
    assert count(catalog.load("main", "t")) == 4
    other.drop_table("main", "t")
    clock.elapsed_s += 0.5
    assert not catalog.table_exists("main", "t")
    assert catalog.tables("main") == []
    other.drop_schema("main")
    clock.elapsed_s += 0.5
    assert catalog.schemas() == []


def test_own_changes_are_seen_at_once(catalog: IcebergCatalog) -> None:
    assert not catalog.table_exists("main", "t")
    assert catalog.tables("main") == []
    write(catalog, "t")
    assert catalog.tables("main") == ["t"]
    assert count(write(catalog, "t", WriteMode.APPEND)) == 4
    catalog.drop_table("main", "t")
    assert not catalog.table_exists("main", "t")


def test_own_commits_are_seen_at_once_while_others_ask_for_the_same_table(tmp_path: Path) -> None:
    catalog = IcebergCatalog(
        "lake", open_local_bucket("primary", tmp_path), "warehouse", SystemClock(), refresh_s=0.002
    )
    catalog.create_schema("main")
    over = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not over.is_set():
                catalog.table_exists("main", "t")
                catalog.tables("main")
        except LakehouseError as error:
            errors.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(5):
            assert write(catalog, "t").record_count == 2
            assert catalog.tables("main") == ["t"]
            assert write(catalog, "t", WriteMode.APPEND).record_count == 4
            catalog.drop_table("main", "t")
            assert not catalog.table_exists("main", "t")
            assert catalog.tables("main") == []
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert errors == []


@pytest.mark.parametrize("question", ["exists", "load", "list"])
def test_an_answer_that_a_commit_overtook_is_not_kept(
    catalog: IcebergCatalog, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    if question == "load":
        write(catalog, "t")
    catalog.refresh("main", "t")
    overtaken: list[bool] = []
    name = "list_tables" if question == "list" else "head"
    ask = getattr(catalog.objects, name)

    def slow(*arguments: str) -> object:
        answer = ask(*arguments)
        if not overtaken:
            overtaken.append(True)
            mode = WriteMode.APPEND if question == "load" else WriteMode.CREATE
            other = threading.Thread(target=write, args=(catalog, "t", mode))
            other.start()
            other.join()
        return answer

    monkeypatch.setattr(catalog.objects, name, slow)
    if question == "list":
        catalog.tables("main")
        assert catalog.tables("main") == ["t"]
    else:
        catalog.table_exists("main", "t")
        assert catalog.load("main", "t").record_count == (4 if question == "load" else 2)


def test_a_write_asks_for_what_others_did_however_young_the_known_state(
    tmp_path: Path, catalog: IcebergCatalog
) -> None:
    other = opened(tmp_path, FixedClock())
    assert not catalog.table_exists("main", "t")
    assert not catalog.schema_exists("late")
    write(other, "t")
    other.create_schema("late")
    assert count(write(catalog, "t", WriteMode.APPEND)) == 4
    write(catalog, "t", schema="late")
    with pytest.raises(TableAlreadyExists):
        write(catalog, "t")


def test_nothing_is_loaded_again_while_nothing_changes(catalog: IcebergCatalog, clock: FixedClock) -> None:
    table = write(catalog, "t")
    files = table.files()
    version = catalog.version()
    for _ in range(3):
        clock.elapsed_s += 10
        assert catalog.load("main", "t") is table
        assert catalog.load("main", "t").files() is files
    assert catalog.version() == version


def test_the_version_grows_with_every_change(
    tmp_path: Path, catalog: IcebergCatalog, clock: FixedClock
) -> None:
    seen = [catalog.version()]

    def grew() -> bool:
        seen.append(catalog.version())
        return seen[-1] > seen[-2]

    catalog.create_schema("s")
    assert grew()
    write(catalog, "t")
    assert grew()
    write(catalog, "t", WriteMode.APPEND)
    assert grew()
    catalog.drop_table("main", "t")
    assert grew()
    catalog.drop_schema("s")
    assert grew()
    catalog.schemas()
    catalog.tables("main")
    seen.append(catalog.version())
    opened(tmp_path, FixedClock()).create_schema("x")
    clock.elapsed_s += 1
    catalog.schemas()
    assert grew()


def test_a_late_hint_or_none_does_not_lead_to_an_old_version(catalog: IcebergCatalog, tmp_path: Path) -> None:
    write(catalog, "t")
    write(catalog, "t", WriteMode.APPEND)
    write(catalog, "t", WriteMode.APPEND)
    hint = next(tmp_path.rglob("version-hint.text"))
    assert hint.read_text() == "3"
    for text in ("1", "2", "17", "nonsense", ""):
        hint.write_text(text)
        assert count(opened(tmp_path, FixedClock()).load("main", "t")) == 6
    hint.unlink()
    assert count(opened(tmp_path, FixedClock()).load("main", "t")) == 6


def keep_versions(catalog: IcebergCatalog, most: int) -> None:
    with catalog.objects.load_table(("main", "t")).transaction() as transaction:
        transaction.set_properties({"write.metadata.previous-versions-max": str(most)})


def whole_versions(root: Path) -> list[int]:
    slots = (root / "warehouse/main/t/metadata").glob("v*.metadata.json")
    return sorted(int(slot.name[1:].split(".")[0]) for slot in slots if slot.stat().st_size > 100)


def test_old_versions_are_given_up_and_nobody_takes_their_places(
    catalog: IcebergCatalog, clock: FixedClock, tmp_path: Path
) -> None:
    write(catalog, "t")
    asleep, idle = opened(tmp_path, clock), opened(tmp_path, clock)
    late = stage(
        asleep, TableName("lake", "main", "t"), WriteMode.APPEND, ROWS.schema, ROWS.to_batches(), bool
    )
    assert count(idle.load("main", "t")) == 2
    keep_versions(catalog, 5)
    for _ in range(17):
        write(catalog, "t", WriteMode.APPEND)
    future, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    assert catalog.objects.prune_versions("main", "t", past) == 0, "all of them are young"
    assert catalog.objects.prune_versions("main", "t", future) == 13
    assert catalog.objects.prune_versions("main", "t", future) == 0
    assert whole_versions(tmp_path) == [*range(14, 20)]
    commit(asleep, late)
    assert [count(c.load("main", "t")) for c in (asleep, opened(tmp_path, clock))] == [38, 38]
    clock.elapsed_s += 1
    assert count(idle.load("main", "t")) == 38, "it had seen version 1 only"
    (tmp_path / "warehouse/main/t/metadata/version-hint.text").write_text("3")
    afresh = opened(tmp_path, clock)
    assert count(afresh.load("main", "t")) == 38
    assert len(afresh.load("main", "t").snapshots()) == 19
    head = afresh.objects.head("main", "t")
    oldest = afresh.objects.version_at("main", "t", head, 0)
    assert oldest is not None
    assert len(oldest.snapshots) == 13, "the first version that is there"
    catalog.drop_table("main", "t")
    assert catalog.objects.prune_versions("main", "t", future) == 0
    assert catalog.objects.last_table("main", "t") is not None


def test_the_current_version_is_never_given_up_however_many_joint_commits_failed(
    catalog: IcebergCatalog, tmp_path: Path
) -> None:
    write(catalog, "t")
    keep_versions(catalog, 2)
    for number in range(6):
        catalog.objects.promise_drop("main", "t", f"promise-{number}")
        catalog.objects.decide(f"promise-{number}", commit=False)
    assert catalog.objects.prune_versions("main", "t", datetime.now(UTC) + timedelta(hours=1)) == 0
    afresh = opened(tmp_path, FixedClock())
    assert afresh.objects.head("main", "t").version == 8
    assert count(afresh.load("main", "t")) == 2
    write(afresh, "t", WriteMode.APPEND)
    assert afresh.objects.prune_versions("main", "t", datetime.now(UTC) + timedelta(hours=1)) == 6
    assert count(opened(tmp_path, FixedClock()).load("main", "t")) == 4


def test_snapshots_are_found_by_id_and_by_time(catalog: IcebergCatalog) -> None:
    write(catalog, "t")
    for _ in range(3):
        table = write(catalog, "t", WriteMode.APPEND)
    snapshots = table.snapshots()
    assert len({snapshot.timestamp for snapshot in snapshots}) == 4
    for rows, snapshot in enumerate(snapshots, 1):
        assert table.snapshot_for(version=snapshot.snapshot_id) == snapshot
        assert table.snapshot_for(at=snapshot.timestamp) == snapshot
        assert table.snapshot_for(at=snapshot.timestamp.replace(tzinfo=None)) == snapshot
        assert sum(file.rows for file in table.files(snapshot.snapshot_id)) == 2 * rows
    assert table.snapshot_for(at=snapshots[-1].timestamp.replace(year=2999)) == snapshots[-1]
    assert table.snapshot_id == snapshots[-1].snapshot_id
    with pytest.raises(SnapshotNotFound, match="no snapshot 42"):
        table.snapshot_for(version=42)
    with pytest.raises(SnapshotNotFound, match="first snapshot"):
        table.snapshot_for(at=snapshots[0].timestamp.replace(year=1999))
    with pytest.raises(SnapshotNotFound):
        table.snapshot_for()
    with pytest.raises(SnapshotNotFound):
        table.files(42)


def test_the_configured_catalog_is_opened_with_its_default_schema(tmp_path: Path) -> None:
    overrides = {
        "buckets": [{"name": "primary", "path": str(tmp_path / "new" / "deep")}],
        "catalog": {"name": "house", "default_schema": "Stuff", "warehouse": "a/b"},
    }
    catalog = open_catalog(load_settings(None, overrides), FixedClock())
    assert (catalog.name, catalog.schemas()) == ("house", ["Stuff"])
    assert (tmp_path / "new/deep/a/b/stuff/_schema.json").is_file()
    assert open_catalog(load_settings(None, overrides), FixedClock()).schemas() == ["Stuff"]


@pytest.mark.parametrize("name", ["a*b", "a?b", "[ab]"])
def test_a_directory_that_the_engine_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="primary"):
        open_local_bucket("primary", tmp_path / name)


def test_a_directory_that_cannot_be_made_is_refused_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused:
        open_local_bucket("primary", tmp_path / "file" / "below")
    assert str(tmp_path) not in str(refused.value)
