"""Tables of which other engines deleted rows without rewriting files: what SQL sees of them."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delete_files import (
    add_deletes,
    data_files,
    equality,
    make_version_3,
    positional,
    vectors,
)
from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyiceberg.types import LongType

from lakehouse.access.principal import Principal
from lakehouse.catalog.commit import rewriting
from lakehouse.config import Settings
from lakehouse.engine import position_files
from lakehouse.engine.changes import Scope
from lakehouse.engine.diff import plan_diff
from lakehouse.engine.running import CallWatch
from lakehouse.errors import CommitConflict, NotSupported, StorageError
from lakehouse.ingest import WriteMode, commit
from lakehouse.ingest.writer import stage_for
from lakehouse.maintenance import compaction
from lakehouse.maintenance.compaction import CompactionOptions
from lakehouse.runtime import Lakehouse
from lakehouse.types import TableName

pytestmark = pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
NAME = TableName("lake", "main", "t")
K, V = pa.int64(), pa.string()


class Client:
    """A session, and the table as pyiceberg sees it."""

    def __init__(self, lakehouse, name="x", principal=None):
        self.lakehouse, self.engine = lakehouse, lakehouse.engine
        self.session = lakehouse.sessions.get(name, principal or lakehouse.anonymous)

    @property
    def scope(self):
        return Scope(self.session, self.session.sql_transaction, CallWatch())

    @property
    def table(self):
        return self.lakehouse.catalog.objects.load_table(("main", "t"))

    def change(self, sql):
        return self.engine.changes.run(self.engine.gate.analyse(sql), self.scope)

    def add(self, rows, mode=WriteMode.APPEND):
        self.engine.changes.ingest(self.scope, NAME, mode, rows.schema, rows.to_batches())

    def rows(self, sql="SELECT * FROM t"):
        plan = self.engine.plan(self.engine.gate.analyse(sql), self.session, self.session.sql_transaction)
        batches = list(self.engine.open(plan, self.session, CallWatch()))
        return sorted((tuple(row.values()) for batch in batches for row in batch.to_pylist()), key=repr)

    def load(self):
        return self.lakehouse.catalog.load("main", "t")


def rows_of(*pairs):
    return pa.table({"k": pa.array([k for k, _ in pairs], K), "v": pa.array([v for _, v in pairs], V)})


def keys(*values, kind=K):
    return pa.table({"k": pa.array(values, kind)})


@pytest.fixture
def lakehouse(tmp_path):
    buckets = [{"name": "primary", "kind": "local", "path": tmp_path / "bücket ☃"}]
    roles = [{"name": "part", "grants": [{"on": "lake.main.t", "row_filter": "v = 'a'"}]}]
    opened = Lakehouse(Settings(buckets=buckets, catalog={"refresh_ms": 0}, roles=roles))
    yield opened
    opened.close()


@pytest.fixture
def client(lakehouse):
    return Client(lakehouse)


@pytest.fixture
def restricted(lakehouse):
    """One who sees only rows whose v is 'a'."""
    return Client(lakehouse, "y", Principal("bob", frozenset({"part"})))


def check_history(client, seen, picked):
    for snapshot, expected in picked.sample(sorted(seen.items()), len(seen)):
        assert client.rows(f"SELECT * FROM t AT (VERSION => {snapshot})") == expected
    first, *_, last = seen
    counts = [
        f"(SELECT count(*) FROM t{at})" for at in ("", *(f" AT (VERSION => {n})" for n in (first, last)))
    ]
    assert client.rows(f"SELECT {', '.join(counts)}") == [
        (len(seen[last]), len(seen[first]), len(seen[last]))
    ]


def check_compacted(client, seen, picked):
    """No delete file applies any more, and all else is as before."""
    rows = client.rows()
    check_diffs(client, seen, picked)
    compact(client, min_files=1)
    table = client.load()
    assert not any(file.deletes for file in table.files())
    assert (client.rows(), table.record_count) == (rows, len(rows))
    seen[table.snapshot_id] = rows
    check_history(client, seen, picked)
    check_diffs(client, seen, picked)


def check_diffs(client, seen, picked):
    """Between any two snapshots those rows differ that one has and the other has not."""
    for _ in range(4):
        before, after = picked.sample(list(seen), 2)
        old, new = Counter(seen[before]), Counter(seen[after])
        expected = Counter({("DELETE", *row): n for row, n in (old - new).items()})
        expected += Counter({("INSERT", *row): n for row, n in (new - old).items()})
        table = client.load()
        sides = table.snapshot_for(before), table.snapshot_for(after)
        diff = plan_diff(client.engine, client.session, table, *sides)
        batches = client.engine.open(diff.rows, client.session, CallWatch())
        found = Counter(tuple(row.values()) for batch in batches for row in batch.to_pylist())
        assert found == expected, (before, after)


def compact(client, target_bytes=1 << 20, min_files=2):
    options = CompactionOptions(target_bytes, min_files)
    compactor = client.lakehouse.maintenance.compactor
    return compactor.compact("main", "t", options, lambda *_: None, lambda: False)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("partitioned", [False, True])
def test_every_snapshot_of_random_deletes_is_read_right(client, restricted, seed, partitioned):
    picked = random.Random(seed)
    client.add(rows_of(), WriteMode.CREATE)
    if partitioned:
        with client.table.update_spec() as update:
            update.add_field("k", BucketTransform(3), "pk")
    alive: dict[tuple[str, int], tuple] = {}
    seen: dict[int, list] = {}
    vectored: dict[str, set[int]] = {}

    for _ in range(14):
        table, files = client.table, data_files(client.table)
        step = picked.choice(["add", "equality", "positions", "vector"]) if files else "add"
        if step == "add":
            pairs = [(picked.choice([None, *range(12)]), picked.choice([None, "a", "b"])) for _ in range(40)]
            client.add(rows_of(*pairs))
            for file in data_files(client.table)[len(files) :]:
                path = client.engine.catalogs.default.bucket.local_path(
                    client.engine.catalogs.default.bucket.key_of(file.file_path)
                )
                for pos, row in enumerate(pq.read_table(path).to_pylist()):
                    alive[file.file_path, pos] = tuple(row.values())
        elif step == "equality":
            like = picked.choice(files)
            gone = picked.sample([None, *range(12)], 2)
            by_both = picked.random() < 0.5
            values = rows_of(*((k, "a") for k in gone)) if by_both else keys(*gone)
            add_deletes(table, equality(table, values, [1, 2] if by_both else [1], like))
            here = {file.file_path for file in files if file.partition == like.partition}
            alive = {
                at: row
                for at, row in alive.items()
                if at[0] not in here or row[0] not in gone or (by_both and row[1] != "a")
            }
        elif step == "positions":
            like = picked.choice(files)
            here = [
                file for file in files if file.partition == like.partition and file.file_path not in vectored
            ]
            rows = [
                (file.file_path, pos)
                for file in here
                for pos in [pos for path, pos in alive if path == file.file_path]
                if picked.random() < 0.2
            ]
            if not rows:
                continue
            add_deletes(table, positional(table, rows, like, named=picked.random() < 0.5))
            for at in rows:
                alive.pop(at)
        else:
            file = picked.choice(files)
            if file.file_path in vectored:
                continue
            kept = [
                pos for pos in [pos for path, pos in alive if path == file.file_path] if picked.random() < 0.7
            ]
            vectored[file.file_path] = set(range(file.record_count)) - set(kept)
            add_deletes(table, *vectors(table, {file.file_path: sorted(vectored[file.file_path])}, file))
            alive = {at: row for at, row in alive.items() if at[0] != file.file_path or at[1] in kept}
        seen[client.table.metadata.current_snapshot_id] = sorted(alive.values(), key=repr)
        assert client.rows() == seen[client.table.metadata.current_snapshot_id], step
        assert restricted.rows() == [row for row in client.rows() if row[1] == "a"], step
        assert client.load().record_count == len(alive)
    check_history(client, seen, picked)
    check_compacted(client, seen, picked)


def test_a_key_that_is_inserted_again_after_its_delete_is_there(client):
    client.add(rows_of((1, "old"), (2, "b"), (None, "n")), WriteMode.CREATE)
    before = client.table.metadata.current_snapshot_id
    add_deletes(client.table, equality(client.table, keys(1, None), [1], None))
    client.add(rows_of((1, "new"), (None, "again")))
    assert client.rows() == [(1, "new"), (2, "b"), (None, "again")]
    assert client.rows(f"SELECT * FROM t AT (VERSION => {before})") == [(1, "old"), (2, "b"), (None, "n")]
    assert client.rows("SELECT count(*), max(k) FROM t WHERE v <> 'new'") == [(2, 2)]


def test_equality_deletes_find_columns_that_were_renamed_widened_and_dropped(client):
    rows = pa.table({"k": pa.array([1, 2, 3], pa.int32()), "v": ["a", "b", "c"]})
    client.add(rows, WriteMode.CREATE)
    table = client.table
    with table.update_schema() as update:
        update.add_column("late", table.schema().find_type("v"))
    client.add(pa.table({"k": pa.array([4], pa.int32()), "v": ["d"], "late": ["x"]}))
    late = pa.table({"late": pa.array([None], V)})
    add_deletes(client.table, equality(client.table, keys(1, kind=pa.int32()), [1], None))
    with client.table.update_schema() as update:
        update.rename_column("k", "key")
        update.update_column("k", LongType())
    add_deletes(client.table, equality(client.table, keys(2), [1], None))
    assert client.rows() == [(3, "c", None), (4, "d", "x")]
    with client.table.update_schema() as update:
        update.delete_column("key")
    assert client.rows() == [("c", None), ("d", "x")]
    add_deletes(client.table, equality(client.table, late, [3], None))
    assert client.rows() == [("d", "x")]


def test_equality_deletes_of_a_partition_leave_the_others_alone(client):
    client.add(rows_of(), WriteMode.CREATE)
    with client.table.update_spec() as update:
        update.add_field("v", IdentityTransform(), "pv")
    client.add(rows_of((1, "ä/b"), (1, None), (2, "ä/b")))
    named = next(file for file in data_files(client.table) if file.partition[0] == "ä/b")
    add_deletes(client.table, equality(client.table, keys(1), [1], named))
    assert client.rows() == [(1, None), (2, "ä/b")]
    add_deletes(client.table, equality(client.table, keys(1), [1], None))
    assert client.rows() == [(2, "ä/b")]


def test_a_table_whose_rows_are_all_deleted_is_empty(client):
    client.add(rows_of(*((n, "x") for n in range(10))), WriteMode.CREATE)
    (file,) = data_files(client.table)
    add_deletes(client.table, positional(client.table, [(file.file_path, n) for n in range(10)], file))
    assert client.rows() == []
    assert client.rows("SELECT count(*) FROM t") == [(0,)]
    assert client.load().record_count == 0


def test_tables_of_version_3_are_read_and_not_written(client):
    client.add(rows_of((1, "a"), (2, "b")), WriteMode.CREATE)
    client.add(rows_of((3, "c")))
    first, second = data_files(client.table)
    deleted = {first.file_path: [1, 2**32 + 5], second.file_path: [7]}
    add_deletes(client.table, *vectors(client.table, deleted, first))
    make_version_3(client.table)
    assert client.rows() == [(1, "a"), (3, "c")]
    with pytest.raises(NotSupported, match="version above 2"):
        client.add(rows_of((4, "d")))


def test_a_damaged_deletion_vector_is_an_error_and_no_row(client):
    client.add(rows_of((1, "a"), (2, "b")), WriteMode.CREATE)
    (file,) = data_files(client.table)
    add_deletes(client.table, *vectors(client.table, {file.file_path: [0]}, file, damage=1))
    with pytest.raises(StorageError, match="damaged"):
        client.rows()


def test_statements_that_rewrite_files_keep_deleted_rows_deleted(client):
    client.add(rows_of(*((n, "x") for n in range(6))), WriteMode.CREATE)
    client.add(rows_of(*((n, "y") for n in range(6, 9))))
    first, second = data_files(client.table)
    add_deletes(client.table, positional(client.table, [(first.file_path, 0), (second.file_path, 2)], first))
    add_deletes(client.table, equality(client.table, keys(1, 6), [1], None))
    client.change("UPDATE t SET v = 'z' WHERE k = 2")
    assert client.rows() == [(2, "z"), (3, "x"), (4, "x"), (5, "x"), (7, "y")]
    assert client.load().record_count == 5
    client.change("DELETE FROM t WHERE k IN (0, 3, 7)")
    client.change("INSERT INTO t VALUES (0, 'w'), (1, 'w')")
    assert client.rows() == [(0, "w"), (1, "w"), (2, "z"), (4, "x"), (5, "x")]
    client.change("TRUNCATE t")
    assert client.rows() == []


def test_deletes_of_others_are_never_undone_by_a_rewrite(client):
    client.add(rows_of((1, "a"), (2, "b")), WriteMode.CREATE)
    seen = client.load()
    (file,) = data_files(client.table)
    add_deletes(client.table, positional(client.table, [(file.file_path, 0)], file))
    again = rows_of((1, "changed"), (2, "changed"))
    catalog = client.lakehouse.catalog
    staged = stage_for(
        catalog, rewriting(seen, seen.files()), again.schema, again.to_batches(), lambda: False
    )
    with pytest.raises(CommitConflict, match="deleted by another"):
        commit(catalog, staged)
    assert client.rows() == [(2, "b")]


def test_replacing_a_table_leaves_its_delete_files_behind(client):
    client.add(rows_of((1, "a"), (2, "b")), WriteMode.CREATE)
    add_deletes(client.table, equality(client.table, keys(1), [1], None))
    client.add(rows_of((1, "c")), WriteMode.REPLACE)
    assert client.rows() == [(1, "c")]
    assert client.load().record_count == 1
    assert client.table.current_snapshot().summary["total-delete-files"] == "0"


def test_large_files_are_written_anew_when_enough_of_their_rows_are_deleted(client):
    client.add(rows_of(*((n, "x") for n in range(100))), WriteMode.CREATE)
    client.add(rows_of(*((n, "y") for n in range(100))))
    first, second = data_files(client.table)
    few = [(first.file_path, n) for n in range(5)]
    add_deletes(client.table, positional(client.table, [*few, (second.file_path, 99)], first))
    assert compact(client, 600).commits == 0, "both files are large, and hardly a row is deleted"
    add_deletes(client.table, equality(client.table, rows_of((7, "x")), [1, 2], None))
    done = compact(client, 600)
    assert (done.files_before, done.files_after, done.rows) == (1, 1, 94)
    assert [bool(file.deletes) for file in client.load().files()] == [True, False]
    for n in range(7):
        add_deletes(client.table, positional(client.table, [(second.file_path, n)], second))
    expected = client.rows()
    assert compact(client, 600).rows == 92
    assert client.rows() == expected
    add_deletes(client.table, equality(client.table, pa.table({"v": ["x", "y"]}), [2], None))
    done = compact(client)
    assert (done.files_before, done.files_after, done.rows) == (2, 0, 0)
    assert (client.rows(), client.load().files(), client.load().record_count) == ([], (), 0)


@pytest.mark.parametrize("when", ["before the files are read", "while the files are read"])
def test_rows_that_are_deleted_during_a_compaction_stay_deleted(client, monkeypatch, when):
    client.add(rows_of((1, "a"), (2, "b")), WriteMode.CREATE)
    client.add(rows_of((3, "c")))
    meanwhile = [equality(client.table, keys(2), [1], None)]
    part = "lakehouse.maintenance.compaction."
    name = part + ("groups_of" if when.startswith("before") else "stage_for")
    real = compaction.groups_of if when.startswith("before") else stage_for

    def deleting(*arguments):
        found = real(*arguments)
        if meanwhile:
            add_deletes(client.table, meanwhile.pop())
        return found

    monkeypatch.setattr(name, deleting)
    done = compact(client)
    assert done.conflicts == (0 if when.startswith("before") else 1)
    assert (done.files_after, done.rows) == (1, 2)
    assert client.rows() == [(1, "a"), (3, "c")]


def test_what_is_deleted_in_one_snapshot_is_there_in_another_of_many_files(client):
    for n in range(34):
        client.add(rows_of((n, "x")), WriteMode.APPEND if n else WriteMode.CREATE)
    before = client.load().snapshot_id
    file = data_files(client.table)[5]
    add_deletes(client.table, positional(client.table, [(file.file_path, 0)], file))
    after = client.load().snapshot_id
    for _ in range(2):
        assert len(client.rows(f"SELECT * FROM t AT (VERSION => {after})")) == 33
        assert client.rows(f"SELECT * FROM t AT (VERSION => {before}) WHERE k = 5") == [(5, "x")]


def test_sessions_see_the_deletes_of_their_own_snapshot(lakehouse):
    one, two = Client(lakehouse, "one"), Client(lakehouse, "two")
    one.add(rows_of((1, "a"), (2, "b"), (3, "c")), WriteMode.CREATE)
    one.change("CREATE TEMP VIEW seen AS SELECT k FROM t")
    before = one.table.metadata.current_snapshot_id
    one.change("BEGIN")
    assert len(one.rows()) == 3
    (file,) = data_files(two.table)
    add_deletes(two.table, positional(two.table, [(file.file_path, 1)], file))
    assert two.rows() == [(1, "a"), (3, "c")]
    assert len(one.rows()) == 3
    one.change("UPDATE t SET v = 'mine' WHERE k = 9")
    one.change("COMMIT")
    assert one.rows("SELECT * FROM seen") == [(1,), (3,)]
    for _ in range(3):
        assert len(two.rows(f"SELECT * FROM t AT (VERSION => {before})")) == 3
        assert len(two.rows()) == 2


def test_what_was_kept_of_deleted_rows_is_made_again_when_it_is_gone(client, monkeypatch):
    monkeypatch.setattr(position_files, "_MOST_FILES", 0)
    monkeypatch.setattr(position_files, "_KEPT_S", -1.0)
    client.add(rows_of((1, "a"), (2, "b")), WriteMode.CREATE)
    add_deletes(client.table, equality(client.table, keys(1), [1], None))
    directory = client.engine.database.positions_directory
    paths = client.engine.binder.positions.paths(client.load().files())
    assert len(paths) == 1
    monkeypatch.undo()
    assert client.rows() == [(2, "b")]
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [paths[0].rsplit("/", 1)[1], "none.parquet"]
    )
