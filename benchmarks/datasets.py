"""What is known of many datasets: how fast a starting server knows it, and what a change of it takes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import Line, interleaved, ratio
from lakehouse.clock import SystemClock
from lakehouse.datasets import ColumnManifest, DatasetKind, DatasetManifest, LineageEdge, Sensitivity
from lakehouse.datasets.manifest_store import MANIFESTS, Build, ManifestStore
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.types import TableName

_COLUMNS = 20
_SLOTS = 50


def manifests(directory: Path, quick: bool) -> list[Line]:
    """The index of all manifests, rebuilt from a checkpoint and the slots behind it, and one change."""
    count = 1000 if quick else 10_000
    bucket = open_local_bucket("primary", directory / "bucket")
    store = ManifestStore(bucket, SystemClock())
    known = _filled(store, count)
    object_name = next(name for name in bucket.names(MANIFESTS) if name.startswith("checkpoint"))
    content = bucket.get(f"{MANIFESTS}/{object_name}")

    def rebuilt() -> ManifestStore:
        found = ManifestStore(bucket, SystemClock())
        assert found.get(known) is not None
        return found

    ways: dict[str, Callable[[], object]] = {
        "rebuilt": rebuilt,
        "decoded": lambda: len(rebuilt().all()),
        "parquet": lambda: pq.read_table(pa.BufferReader(content)),
    }
    seconds = interleaved(ways, 3 if quick else 7)
    changes = _changes(store, bucket, known)
    store.close()
    what = f"{count:,} datasets of {_COLUMNS} columns"
    beside = f"bare Parquet {median(seconds['parquet']) * 1e3:.0f} ms"
    return [
        Line(
            f"index of {what}, until the first is known",
            f"{median(seconds['rebuilt']) * 1e3:.0f} ms",
            f"{beside}, {len(content) / 1e6:.1f} MB",
            ratio(seconds, "rebuilt", "parquet"),
            "< 2 s",
        ),
        Line(
            f"index of {what}, until all are decoded",
            f"{median(seconds['decoded']) * 1e3:.0f} ms",
            beside,
            ratio(seconds, "decoded", "parquet"),
            "< 2 s",
        ),
        Line(
            "one change of a manifest, durable",
            f"p50 {median(changes['change']) * 1e3:.1f} ms",
            f"bare put {median(changes['put']) * 1e3:.1f} ms",
            ratio(changes, "change", "put"),
            "",
        ),
    ]


def _filled(store: ManifestStore, count: int) -> str:
    """Fill a store; gives one of the ids."""
    made = [_manifest(number) for number in range(count)]
    store.change_many({each.dataset_id: _always(each) for each in made})
    store.checkpoint()
    for each in made[:_SLOTS]:
        store.change(each.dataset_id, _described)
    return made[-1].dataset_id


def _changes(store: ManifestStore, bucket: Bucket, dataset_id: str) -> dict[str, list[float]]:
    content = bytes(10_000)
    return interleaved(
        {
            "change": lambda: store.change(dataset_id, _described),
            "put": lambda: bucket.put_new(f"bare/{uuid.uuid4()}", content),
        },
        50,
    )


def _always(manifest: DatasetManifest) -> Build:
    return lambda _: manifest


def _described(old: DatasetManifest | None) -> DatasetManifest:
    assert old is not None
    return replace(old, description=f"described at {time.monotonic_ns()}")


def _manifest(number: int) -> DatasetManifest:
    now = datetime.now(UTC)
    held = (Sensitivity("email", 0.9, "450 of 500 sampled values are e-mail addresses"),)
    columns = tuple(
        ColumnManifest(
            f"column_{n}", "BIGINT", True, number, n, str(n), str(n * number), 1234, "what it is", ("tag",),
            held if n == 3 else (),
        )
        for n in range(_COLUMNS)
    )  # fmt: skip
    edge = LineageEdge("sql", "", "CREATE TABLE AS", (str(uuid.uuid4()),), now, "somebody")
    name = TableName("lake", f"schema_{number % 50}", f"table_{number}")
    return DatasetManifest(
        str(uuid.uuid4()), 1, DatasetKind.TABLE, name, "primary", f"warehouse/{name}", number, (), 3,
        1000 * number, 10_000 * number, columns, "1:" + "0" * 32, "somebody", "what it is", ("a", "b"),
        (edge,), 3600, now, now, "somebody", now, "somebody",
    )  # fmt: skip
