"""Vector indexes beside bare faiss in the same process, in turn, and what the server adds to a search."""

from __future__ import annotations

import base64
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

# Before faiss: its threads shall leave the cores to others while they wait, as those of the server do.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import adbc_driver_flightsql.dbapi as adbc
import faiss as untyped_faiss
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.flight as flight
from lakehouse_client import connect
from numpy.typing import NDArray

from benchmarks.processes import Line, drain, lakehouse, query
from lakehouse.clock import SystemClock
from lakehouse.config.vectors import VectorSettings
from lakehouse.journal.change_event import ChangeEvent
from lakehouse.storage import open_local_bucket
from lakehouse.types import TableName
from lakehouse.vectors.faiss_index import VectorIndex
from lakehouse.vectors.generation import Guard, VectorColumn
from lakehouse.vectors.indexes import BuildRequest, VectorIndexes
from lakehouse.vectors.parameters import Algorithm, IndexParameters
from lakehouse.vectors.selection import Selection

faiss: Any = untyped_faiss
Matrix = NDArray[np.float32]
K = 10
_COUNT, _QUICK_COUNT, _DIMENSION, _QUERIES = 100_000, 10_000, 768, 1000
_PARAMETERS = IndexParameters(m=32, ef_construction=40, ef_search=64)
_TABLE = TableName("lake", "docs", "vectors")
_SHARES = (0.01, 0.1, 0.5)
_ADMIN = '[auth]\nanonymous_role = "admin"\n'


def clustered(count: int, seed: int = 1) -> tuple[Matrix, Matrix]:
    """Vectors of 768 numbers about a thousand centres in 64 dimensions, with noise in all; and 1,000 more."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((64, _DIMENSION)).astype("f4")
    centres = rng.standard_normal((1000, 64)).astype("f4")

    def some(rows: int) -> Matrix:
        latent = centres[rng.integers(0, len(centres), rows)] + 0.4 * rng.standard_normal((rows, 64), "f4")
        found: Matrix = latent @ directions + 0.1 * rng.standard_normal((rows, _DIMENSION), "f4")
        faiss.normalize_L2(found)
        return found

    return some(count), some(_QUERIES)


@dataclass(frozen=True, slots=True)
class Turns:
    """What each of some ways took, turn by turn: seconds, and processor seconds of all that was done."""

    seconds: dict[str, list[float]]
    cpu_s: dict[str, list[float]]

    def ratio(self, name: str, base: str) -> float:
        """Of medians, by the clock."""
        return median(self.seconds[name]) / median(self.seconds[base])

    def cpu_ratio(self, name: str, base: str) -> float:
        """Of all of it, by time of the processor."""
        return sum(self.cpu_s[name]) / sum(self.cpu_s[base])

    def told(self, name: str) -> str:
        """Median and more of a way, in microseconds or milliseconds."""
        p50, p95, p99 = np.percentile(self.seconds[name], [50, 95, 99]) * 1e6
        cpu = sum(self.cpu_s[name]) / len(self.cpu_s[name]) * 1e6
        if p50 >= 2000:
            return f"p50 {p50 / 1e3:.1f} ms, p95 {p95 / 1e3:.1f}, processor {cpu / 1e3:.1f}"
        return f"p50 {p50:.0f} µs, p95 {p95:.0f}, p99 {p99:.0f}, processor {cpu:.0f}"


def in_turn(
    ways: dict[str, Callable[[int], object]], turns: int, clock: Callable[[], float] = time.thread_time
) -> Turns:
    """Call the ways one after the other, turn by turn, each with a number that another one has not just had.

    Args:
        ways: What is measured.
        turns: How often.
        clock: Of the processor: of this thread, or of the process where a way has threads.
    """
    found = Turns({name: [] for name in ways}, {name: [] for name in ways})
    for way in ways.values():
        for warm in range(min(turns, 20)):
            way(warm)
    gc.disable()
    try:
        for turn in range(turns):
            for place, (name, way) in enumerate(ways.items()):
                # Another one for each way: what one has just read is in the caches.
                number = turn * 7 + place * 311
                cpu_s, began_s = clock(), time.perf_counter()
                way(number)
                found.seconds[name].append(time.perf_counter() - began_s)
                found.cpu_s[name].append(clock() - cpu_s)
    finally:
        gc.enable()
    return found


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The share of the true neighbours that was found, over all queries."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def vectors(directory: Path, quick: bool) -> list[Line]:
    """100,000 vectors of 768 numbers: built, searched, filtered, loaded; bare, in process, over the wire."""
    data, queries = clustered(_QUICK_COUNT if quick else _COUNT)
    lines, bare, ours = _builds(data, quick)
    faiss.omp_set_num_threads(1)
    exact = faiss.IndexFlatIP(_DIMENSION)
    exact.add(data)
    truth = exact.search(queries, K)[1]
    turns = 300 if quick else 2000
    lines += _searches(bare, ours, queries, truth, turns)
    lines += _exact(exact, data, queries, turns // 20)
    lines += _threads(bare, ours, queries, 0.5 if quick else 2.0)
    lines += _filtered(ours, exact, data, queries, turns // 20)
    del exact
    lines += _in_bucket(directory, data, queries, ours, bare, turns)
    del ours
    return lines + _over_the_wire(directory, data, queries, truth, bare, turns // 2)


def _builds(data: Matrix, quick: bool) -> tuple[list[Line], Any, VectorIndex]:
    made: dict[str, Any] = {}

    def bare(_: int) -> None:
        index = faiss.IndexHNSWFlat(_DIMENSION, _PARAMETERS.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _PARAMETERS.ef_construction
        index.add(data)
        made["bare"] = index

    def ours(_: int) -> None:
        made["ours"] = VectorIndex.build(data, _PARAMETERS)

    found = Turns({"bare": [], "ours": []}, {"bare": [], "ours": []})
    for _ in range(1 if quick else 2):
        for name, way in (("bare", bare), ("ours", ours)):
            made.pop(name, None)
            cpu_s, began_s = time.process_time(), time.perf_counter()
            way(0)
            found.seconds[name].append(time.perf_counter() - began_s)
            found.cpu_s[name].append(time.process_time() - cpu_s)

    def told(name: str) -> str:
        return f"{median(found.seconds[name]):.1f} s, processor {median(found.cpu_s[name]):.1f} s"

    how = f"M {_PARAMETERS.m}, ef_construction {_PARAMETERS.ef_construction}"
    what = f"build, {len(data):,} × {_DIMENSION}, {how}"
    lines = [
        Line(what, told("ours"), f"faiss {told('bare')}", found.ratio("ours", "bare"), "≤ 1.1"),
        Line("the same, by processor", "", "", found.cpu_ratio("ours", "bare"), "≤ 1.1"),
    ]
    return lines, made["bare"], made["ours"]


def _both(what: str, found: Turns, aim: str, name: str = "ours", base: str = "bare") -> list[Line]:
    beside = f"{base} {found.told(base)}"
    return [
        Line(what, found.told(name), beside, found.ratio(name, base), aim),
        Line("the same, by processor", "", "", found.cpu_ratio(name, base), aim),
    ]


def _searches(
    bare: Any, ours: VectorIndex, queries: Matrix, truth: NDArray[np.int64], turns: int
) -> list[Line]:
    lines = []
    for ef in (30, 64):
        sought = faiss.SearchParametersHNSW(efSearch=ef)
        found = in_turn(
            {
                "bare": lambda n, s=sought: bare.search(_one(queries, n), K, params=s),  # type: ignore[misc]
                "ours": lambda n, e=ef: ours.search(_one(queries, n), K, ef=e),  # type: ignore[misc]
            },
            turns,
        )
        of_bare = recall(bare.search(queries, K, params=sought)[1], truth)
        of_ours = recall(ours.search(queries, K, ef=ef).positions, truth)
        lines += _both(
            f"HNSW, ef {ef}, recall@10 {of_ours:.3f} (faiss {of_bare:.3f}), in process", found, "≤ 1.15"
        )
    return lines


def _exact(exact: Any, data: Matrix, queries: Matrix, turns: int) -> list[Line]:
    ours = VectorIndex.build(data, replace(_PARAMETERS, algorithm=Algorithm.EXACT))
    found = in_turn(
        {
            "bare": lambda n: exact.search(_one(queries, n), K),
            "ours": lambda n: ours.search(_one(queries, n), K),
        },
        turns,
    )
    batches = in_turn(
        {"bare": lambda _: exact.search(queries[:256], K), "ours": lambda _: ours.search(queries[:256], K)}, 3
    )
    return [
        *_both("exact, one query, in process", found, "≤ 1.15"),
        *_both("exact, 256 queries at once, in process", batches, "≤ 1.15"),
    ]


def _threads(bare: Any, ours: VectorIndex, queries: Matrix, seconds: float) -> list[Line]:
    sought = faiss.SearchParametersHNSW(efSearch=_PARAMETERS.ef_search)

    def rate(work: Callable[[int], object], count: int) -> float:
        done = [0] * count
        stop = time.monotonic() + seconds

        def run(number: int) -> None:
            while time.monotonic() < stop:
                work(done[number] * 7 + number * 311)
                done[number] += 1

        threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / seconds

    lines = []
    for count in (1, 2):
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(2):
            rates["bare"].append(rate(lambda n: bare.search(_one(queries, n), K, params=sought), count))
            rates["ours"].append(rate(lambda n: ours.search(_one(queries, n), K), count))
        of_ours, of_bare = max(rates["ours"]), max(rates["bare"])
        lines.append(
            Line(
                f"HNSW, ef {_PARAMETERS.ef_search}, {count} threads",
                f"{of_ours:,.0f}/s",
                f"bare {of_bare:,.0f}/s",
                of_bare / of_ours,
                "≤ 1.15",
            )
        )
    return lines


def _filtered(ours: VectorIndex, exact: Any, data: Matrix, queries: Matrix, turns: int) -> list[Line]:
    lines = []
    for share in _SHARES:
        mask = np.random.default_rng(int(share * 1000)).random(len(data)) < share
        positions = np.flatnonzero(mask)
        sought = faiss.SearchParameters(sel=faiss.IDSelectorArray(positions))
        some = queries[:200]
        truth = exact.search(some, K, params=sought)[1]
        ways: dict[str, Callable[[int], object]] = {
            # Made anew each time, as the keys that a filter finds are another query's.
            "ours": lambda n, m=mask: ours.search(_one(queries, n), K, selection=Selection(m)),  # type: ignore[misc]
            "bare": lambda n, s=sought: exact.search(_one(queries, n), K, params=s),  # type: ignore[misc]
        }
        found = in_turn(ways, turns)
        answer = ours.search(some, K, selection=Selection(mask))
        lines.append(
            Line(
                f"{share:.0%} may be found, {answer.way} (ef {answer.ef}), "
                f"recall@10 {recall(answer.positions, truth):.3f}",
                found.told("ours"),
                f"bare, exact {found.told('bare')}",
                found.ratio("ours", "bare"),
                "",
            )
        )
    return lines


class _Source:
    """The vectors as a table in memory."""

    def __init__(self, data: Matrix) -> None:
        self.table = table_of(data)

    def read(self, source: VectorColumn, check: Callable[[], None]) -> tuple[VectorColumn, pa.Table]:
        """All of it."""
        return source, self.table


class _Recorder(list[ChangeEvent]):
    def record(self, *events: ChangeEvent) -> None:
        self.extend(events)


def table_of(data: Matrix) -> pa.Table:
    """Vectors as a table with a key, a number of ten kinds and a name."""
    count, dimension = data.shape
    return pa.table(
        {
            "id": pa.array(np.arange(count)),
            "kind": pa.array(np.arange(count) % 100, pa.int32()),
            "name": pa.array([f"document {i}" for i in range(count)]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(data.ravel()), dimension),
        }
    )


def _in_bucket(
    directory: Path, data: Matrix, queries: Matrix, ours: VectorIndex, bare: Any, turns: int
) -> list[Line]:
    """The whole way in the engine: which generation is live, loading it, the search, the rows of it."""
    columns = ("id", "kind", "name")
    source = VectorColumn(_TABLE, "u", "vector", columns)
    guard = Guard(_TABLE, "u", columns, ("id",))
    bucket = open_local_bucket("main", str(directory / "indexes"))
    with _closing(VectorIndexes(bucket, SystemClock(), VectorSettings(), _Source(data), _Recorder())) as lake:
        generation = lake.build(BuildRequest("texts", source, _PARAMETERS, guard))
    size = sum(file.stat().st_size for file in (directory / "indexes").rglob("*") if file.is_file())
    for file in (directory / "indexes").rglob("*"):
        if file.is_file():
            _forget(file)
    gc.collect()
    with _closing(VectorIndexes(bucket, SystemClock(), VectorSettings(), _Source(data), _Recorder())) as lake:
        before = _memory()
        began_s = time.perf_counter()
        lake.search("texts", queries[0], K)
        cold_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        lake.search("texts", queries[1], K)
        second_s = time.perf_counter() - began_s
        sought = faiss.SearchParametersHNSW(efSearch=_PARAMETERS.ef_search)
        found = in_turn(
            {
                "bare": lambda n: bare.search(_one(queries, n), K, params=sought),
                "ours": lambda n: lake.search("texts", _one(queries, n), K),
            },
            turns,
        )
        after = _memory()
        lake.loader.close()
        began_s = time.perf_counter()
        lake.search("texts", queries[2], K)
        warm_s = time.perf_counter() - began_s
    own, mapped = ((late - early) / 1e6 for late, early in zip(after, before, strict=True))
    of_data = (size - generation.vectors.size_bytes) / 1e6
    return [
        *_both("HNSW, ef 64, engine with its rows", found, "< 100 µs"),
        Line(
            f"first search of an index of {size / 1e6:.0f} MB ({of_data:.0f} MB of it rows), from disk",
            f"{cold_s * 1e3:.0f} ms, then {second_s * 1e3:.2f} ms",
            f"page cache {warm_s * 1e3:.0f} ms",
            cold_s / warm_s,
            "",
        ),
        Line(
            f"memory of an index of {size / 1e6:.0f} MB after {turns:,} searches",
            f"+{own:.0f} MB of its own",
            f"+{mapped:.0f} MB of files, which the system may take back",
            own * 1e6 / size,
            "",
        ),
    ]


@contextmanager
def _closing(lake: VectorIndexes) -> Iterator[VectorIndexes]:
    try:
        yield lake
    finally:
        lake.close()


def _memory() -> tuple[int, int]:
    """Bytes of this process in memory: its own, and of mapped files."""
    told = psutil.Process().memory_info()
    return told.rss - told.shared, told.shared


def _forget(file: Path) -> None:
    """Have the system read a file from the disk the next time."""
    with file.open("rb") as content:
        os.fsync(content.fileno())
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _one(queries: Matrix, number: int) -> Matrix:
    at = number % len(queries)
    return queries[at : at + 1]


def _over_the_wire(
    directory: Path, data: Matrix, queries: Matrix, truth: NDArray[np.int64], bare: Any, turns: int
) -> list[Line]:
    lines: list[Line] = []
    with lakehouse(directory, _ADMIN) as (uri, _), connect(uri) as lake:
        lake.execute("CREATE SCHEMA docs")
        began_s = time.perf_counter()
        lake.ingest("vectors", table_of(data), schema="docs")
        put_s = time.perf_counter() - began_s
        built_s = time.perf_counter()
        described = lake.call(
            "vectors.build",
            {
                "index": "texts",
                "table": "vectors",
                "db_schema": "docs",
                "keys": ["id"],
                "m": _PARAMETERS.m,
                "ef_construction": _PARAMETERS.ef_construction,
                "ef_search": _PARAMETERS.ef_search,
            },
        )
        built_s = time.perf_counter() - built_s
        lines.append(
            Line(
                "vectors.build, with reading the table and storing",
                f"{built_s:.1f} s",
                f"the graph alone {described['build_seconds']:.1f} s (putting the table: {put_s:.1f} s)",
                built_s / described["build_seconds"],
                "",
            )
        )
        wire = Wire(flight.connect(uri))
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            ranks = np.array([wire.by_action(q)["id"].to_pylist() for q in queries[:200]])
            sought = faiss.SearchParametersHNSW(efSearch=_PARAMETERS.ef_search)
            ways: dict[str, Callable[[int], object]] = {
                "bare": lambda n: bare.search(_one(queries, n), K, params=sought),
                "SELECT 1": lambda _: drain(wire.client, query("SELECT 1")),
                "action": lambda n: wire.by_action(queries[n % len(queries)]),
                "one ticket": lambda n: wire.by_ticket(queries[n % len(queries)]),
                "SQL": lambda n: wire.by_sql(queries[n % len(queries)]),
                "SQL, prepared, over ADBC": lambda n: _prepared(cursor, queries[n % len(queries)]),
            }
            found = in_turn(ways, turns)
        for name in (each for each in ways if each not in ("bare", "SELECT 1")):
            more = median(found.seconds[name]) - median(found.seconds["bare"])
            lines.append(
                Line(
                    f"search through Flight, {name}, recall@10 {recall(ranks, truth[:200]):.3f}",
                    f"{found.told(name)}; overhead {more * 1e6:.0f} µs",
                    f"SELECT 1: {found.told('SELECT 1')}",
                    found.ratio(name, "SELECT 1"),
                    "< 1 ms",
                )
            )
    return lines


def _prepared(cursor: Any, vector: Matrix) -> object:
    """A search by a statement whose text stays the same."""
    sql = f"SELECT id, score FROM vector_search('texts', ?::FLOAT[], {K}) ORDER BY rank"
    cursor.execute(sql, pa.record_batch({"0": pa.array([vector], pa.list_(pa.float32()))}))
    return cursor.fetch_arrow_table()


class Wire:
    """Searches of one connection, each way that there is."""

    def __init__(self, client: flight.FlightClient) -> None:
        self.client = client

    def by_action(self, vector: Matrix, **more: object) -> pa.Table:
        """Two calls: the action, and the ticket that it gives."""
        request = {"index": "texts", "vectors": [vector.tolist()], "k": K, **more}
        action = flight.Action("vectors.search", json.dumps(request).encode())
        told = json.loads(next(iter(self.client.do_action(action))).body.to_pybytes())
        return self.client.do_get(flight.Ticket(base64.b64decode(told["ticket"]))).read_all()

    def by_ticket(self, vector: Matrix) -> pa.Table:
        """One call: a ticket that says what is sought."""
        said = json.dumps({"search": {"index": "texts", "k": K}}).encode()
        return self.client.do_get(flight.Ticket(said + b"\0" + vector.tobytes())).read_all()

    def by_sql(self, vector: Matrix) -> tuple[int, int]:
        """Two calls: a statement with the vector in its text, and its result."""
        numbers = ", ".join(map(str, vector.tolist()))
        return drain(self.client, query(f"FROM vector_search('texts', [{numbers}], {K}) ORDER BY rank"))
