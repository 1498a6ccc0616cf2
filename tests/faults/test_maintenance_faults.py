"""Storage that fails and processes that die while tables are kept in shape: every row stays."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faults.faulty_bucket import FaultyBucket

from lakehouse.access.principal import Principal
from lakehouse.catalog import IcebergCatalog
from lakehouse.catalog.references import create_reference
from lakehouse.catalog.table import Reference
from lakehouse.clock import SystemClock
from lakehouse.config import Settings
from lakehouse.engine.running import CallWatch
from lakehouse.engine.table_reader import TableReader
from lakehouse.errors import LakehouseError
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.maintenance.cleanup import Cleaner
from lakehouse.maintenance.compaction import CompactionOptions, Compactor
from lakehouse.runtime import Lakehouse
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName

NOTHING: set[str] = set()
ROUNDS = 2
Fails = Callable[[int, str], str | None]


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    real = time.sleep
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.002)))
    opened = Lakehouse(settings(tmp_path))
    yield opened
    opened.close()


def settings(root: Path) -> Settings:
    return Settings.model_validate(
        {
            "buckets": [{"path": str(root)}],
            "catalog": {"refresh_ms": 0},
            "maintenance": {"grace_seconds": 0},
            "audit": {"enabled": False},
        }
    )


def put(catalog: Any, table: str, numbers: list[int], mode: WriteMode = WriteMode.CREATE_APPEND) -> None:
    rows = pa.table({"n": numbers})
    name = TableName("lake", "main", table)
    commit(catalog, stage(catalog, name, mode, rows.schema, rows.to_batches(), lambda: False))


def prepare(lakehouse: Lakehouse, table: str) -> None:
    """Rows 0 to 3 in four files, an earlier state with a tag and one without, and an orphan."""
    catalog = lakehouse.catalog
    put(catalog, table, [100])
    first = catalog.load("main", table)
    create_reference(catalog, first, Reference("first", "tag", first.snapshot_id or 0))
    put(catalog, table, [200, 201], WriteMode.REPLACE)
    put(catalog, table, [0], WriteMode.REPLACE)
    for number in (1, 2, 3):
        put(catalog, table, [number])
    Path(first.files()[0].path).with_name("orphan.parquet").write_bytes(b"left behind")


def numbers_in(lakehouse: Lakehouse, table: str) -> list[int]:
    session = lakehouse.sessions.get("check", Principal("ann", frozenset({"admin"})))
    engine = session.engine
    plan = engine.plan(engine.gate.analyse(f'SELECT n FROM "{table}"'), session)
    return sorted(n for batch in engine.open(plan, session, CallWatch()) for n in batch.column(0).to_pylist())


def compact(catalog: IcebergCatalog, lakehouse: Lakehouse, table: str) -> None:
    compactor = Compactor(catalog, TableReader(lakehouse.engine))
    compactor.compact("main", table, CompactionOptions(1 << 20, 2), lambda *_: None, lambda: False)


def expire(catalog: IcebergCatalog, lakehouse: Lakehouse, table: str) -> None:
    soon = lakehouse.clock.now() + timedelta(seconds=60)
    Cleaner(catalog, lambda: NOTHING, timedelta()).expire("main", table, soon, 1)


def remove_orphans(catalog: IcebergCatalog, lakehouse: Lakehouse, table: str) -> None:
    Cleaner(catalog, lambda: NOTHING, timedelta()).remove_orphans(
        "main", table, timedelta(seconds=-60), lambda *_: None, lambda: False
    )


WORK = [compact, expire, remove_orphans]


def fails_at(number: int, fault: str, call: int, _: str) -> str | None:
    return fault if call == number else None


def opened(root: Path, fails: Fails) -> tuple[IcebergCatalog, FaultyBucket]:
    bucket = FaultyBucket(open_local_bucket("primary", root), fails)
    return IcebergCatalog("lake", bucket, "warehouse", SystemClock(), refresh_s=0), bucket


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_whichever_call_fails_every_row_stays_and_the_next_run_finishes(
    lakehouse: Lakehouse, tmp_path: Path, work: Callable[..., None], fault: str
) -> None:
    prepare(lakehouse, "count")
    catalog, bucket = opened(tmp_path, lambda _, __: None)
    work(catalog, lakehouse, "count")
    # Every third call, and another third of them for the other kind of fault.
    for number in range(1 if fault == "before" else 2, bucket.calls + 1, 3):
        table = f"t{number}"
        prepare(lakehouse, table)
        faulty, _ = opened(tmp_path, partial(fails_at, number, fault))
        with suppress(LakehouseError):
            work(faulty, lakehouse, table)
        check(lakehouse, table)
        for each in WORK:
            each(lakehouse.catalog, lakehouse, table)  # type: ignore[arg-type]
        check(lakehouse, table)
        files = sorted(path.name for path in tmp_path.glob(f"warehouse/main/{table}/data/*"))
        assert len(files) == 2, f"call {number}: what is not needed is gone: {files}"
        assert not list(tmp_path.glob(f"warehouse/main/{table}/metadata/expired/*"))
    assert bucket.calls > 5


def check(lakehouse: Lakehouse, table: str) -> None:
    lakehouse.catalog.refresh("main", table)
    assert numbers_in(lakehouse, table) == [0, 1, 2, 3]
    assert numbers_in(lakehouse, f"{table}@first") == [100]


SCRIPT = """
    import sys
    from datetime import timedelta
    from pathlib import Path
    from faults.test_maintenance_faults import compact, expire, put, remove_orphans, settings
    from lakehouse.runtime import Lakehouse

    lakehouse = Lakehouse(settings(Path(sys.argv[1])))
    print("ready", flush=True)
    number = int(sys.argv[2])
    while True:
        for _ in range(3):
            put(lakehouse.catalog, "t", [number])
            print(number, flush=True)
            number += 1
        for work in (compact, expire, remove_orphans):
            work(lakehouse.catalog, lakehouse, "t")
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_at_any_moment_leaves_every_row(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    confirmed: set[int] = set()
    begun = 0
    for _ in range(ROUNDS):
        told = killed(tmp_path, begun, rng.uniform(0.02, 0.8))
        confirmed |= told
        lakehouse = Lakehouse(settings(tmp_path))
        try:
            found = numbers_in(lakehouse, "t") if lakehouse.catalog.table_exists("main", "t") else []
        finally:
            lakehouse.close()
        assert len(found) == len(set(found)), f"seed {seed}: rows are there twice"
        assert confirmed <= set(found), f"seed {seed}: rows are lost"
        unconfirmed = set(found) - confirmed
        assert len(unconfirmed) <= 1, f"seed {seed}: rows nobody wrote"
        confirmed |= unconfirmed
        begun = max(found, default=-1) + 1
    assert begun > 0


def killed(root: Path, begun: int, seconds: float) -> set[int]:
    """Write and maintain for a while, and be killed; gives the numbers that were confirmed."""
    tests = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(root), str(begun)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests / 'flight'}:{tests.parent}"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.kill()
    told = {int(line) for line in process.stdout.read().splitlines()}
    process.stdout.close()
    process.wait()
    return told
