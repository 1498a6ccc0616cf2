"""Parquet with an HNSW sidecar, as the lake keeps vectors, beside Lance on the same vectors, in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read as Lance is loaded: it warns of each search otherwise.
os.environ.setdefault("LANCE_LOG", "error")

import duckdb
import lance as untyped_lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.processes import Line
from benchmarks.vectors import K, Matrix, Turns, clustered, faiss, in_turn, recall, table_of
from lakehouse.ingest.encodings import choose_encodings
from lakehouse.vectors.faiss_index import VectorIndex
from lakehouse.vectors.parameters import IndexParameters
from lakehouse.vectors.selection import Selection

lance: Any = untyped_lance
_COUNT, _QUICK_COUNT = 100_000, 5_000
_PARAMETERS = IndexParameters(m=32, ef_construction=40)
_EFFORTS = (16, 32, 64, 128, 256, 512)
_RECALLS = (0.95, 0.99)
_FETCHED = 100


class _Lake:
    """A Parquet file, and beside it the graph and the other columns."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own = duckdb.connect()
        self.index: VectorIndex | None = None
        self.rows = pa.table({})

    def write(self, table: pa.Table, name: str) -> None:
        """A file as the lake writes it, which has no lists of fixed length."""
        place = table.schema.get_field_index("vector")
        table = table.set_column(place, "vector", table["vector"].cast(pa.list_(pa.float32())))
        chosen = choose_encodings(table.slice(0, 10_000))
        pq.write_table(
            table,
            self._directory / f"{name}.parquet",
            compression="zstd",
            use_dictionary=chosen.dictionary,
            column_encoding=chosen.others,
        )

    def build(self, data: Matrix) -> None:
        """The graph, stored and mapped."""
        index = VectorIndex.build(data, _PARAMETERS)
        index.save(self._directory / "vectors")
        self.index = VectorIndex.load(self._directory / "vectors", _PARAMETERS)

    def keep(self, table: pa.Table) -> None:
        """The other columns, stored and mapped."""
        path = str(self._directory / "rows")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self.rows = pa.ipc.open_file(pa.memory_map(path)).read_all()

    def search(self, query: Matrix, ef: int, where: str = "") -> NDArray[np.int64]:
        """The ids of the nearest; a condition is asked of the Parquet file."""
        assert self.index is not None
        selection = None
        if where:
            sql = f"SELECT id FROM read_parquet('{self._directory}/first.parquet') WHERE {where}"
            found = self._own.sql(sql).to_arrow_table()["id"].to_numpy()
            selection = Selection.of(found, self.index.count)
        positions = self.index.search(query, K, ef=ef, selection=selection).positions
        return self.rows.take(pa.array(positions.ravel()))["id"].to_numpy()  # type: ignore[no-any-return]

    def fetch(self, ids: NDArray[np.int64]) -> pa.Table:
        """Whole rows, from Parquet."""
        listed = ", ".join(map(str, ids))
        return self._own.sql(
            f"FROM read_parquet('{self._directory}/first.parquet') WHERE id IN ({listed})"
        ).to_arrow_table()

    def fetch_beside(self, ids: NDArray[np.int64]) -> tuple[pa.Table, Matrix]:
        """Whole rows, from what is beside the Parquet."""
        assert self.index is not None
        return self.rows.take(pa.array(ids)), self.index.vectors(ids)


class _Lance:
    """A data set of Lance with its index."""

    def __init__(self, directory: Path) -> None:
        self._uri = str(directory / "data.lance")
        self._set: Any = None

    def write(self, table: pa.Table, mode: str = "create") -> None:
        """A version of it."""
        self._set = lance.write_dataset(table, self._uri, mode=mode)

    def build(self, kind: str) -> None:
        """Its index, of one partition so that it is one graph as ours is."""
        self._set.create_index(
            "vector",
            kind,
            metric="cosine",
            num_partitions=1,
            m=_PARAMETERS.m,
            ef_construction=_PARAMETERS.ef_construction,
            replace=True,
        )
        self._set = lance.dataset(self._uri)

    def optimize(self) -> None:
        """Bring the index up to the data."""
        self._set.optimize.optimize_indices()

    def search(self, query: Matrix, ef: int, where: str = "") -> NDArray[np.int64]:
        """The ids of the nearest."""
        nearest = {"column": "vector", "q": query[0], "k": K, "ef": ef, "nprobes": 1}
        found = self._set.to_table(
            columns=["id", "_distance"], nearest=nearest, filter=where or None, prefilter=bool(where)
        )
        return found["id"].to_numpy()  # type: ignore[no-any-return]

    def fetch(self, ids: NDArray[np.int64]) -> pa.Table:
        """Whole rows."""
        return self._set.take(ids)


def lance_beside(directory: Path, quick: bool) -> list[Line]:
    """Writing, building, searching at equal recall, with filters, fetching, appending, and size."""
    data, queries = clustered(_QUICK_COUNT if quick else _COUNT)
    table = table_of(data)
    exact = faiss.IndexFlatIP(data.shape[1])
    exact.add(data)
    (directory / "lake").mkdir()
    ours, theirs = _Lake(directory / "lake"), _Lance(directory)
    others = table.drop_columns(["vector"])
    lines = [
        _once("write", "", lambda: ours.write(table, "first"), lambda: theirs.write(table)),
        _once("build, in threads", "HNSW_SQ", lambda: ours.build(data), lambda: theirs.build("IVF_HNSW_SQ")),
    ]
    ours.keep(others)
    lines.append(_sizes("size with the index of HNSW_SQ", directory))
    turns = 50 if quick else 300
    lines += _searched(ours, theirs, "HNSW_SQ", exact, queries, turns)
    lines.append(
        _once(
            "build of the other kind, Lance alone",
            "HNSW_FLAT",
            lambda: None,
            lambda: theirs.build("IVF_HNSW_FLAT"),
        )
    )
    lines += _searched(ours, theirs, "HNSW_FLAT", exact, queries, turns)
    lines += _fetched(ours, theirs, len(data), turns)
    more = table.slice(0, len(data) // 100)
    lines.append(
        _once(
            "append 1 %, data alone",
            "",
            lambda: ours.write(more, "second"),
            lambda: theirs.write(more, "append"),
        )
    )
    grown = np.concatenate([data, data[: len(more)]])
    lines.append(
        _once("bring the index up to it (ours anew)", "", lambda: ours.build(grown), theirs.optimize)
    )
    return lines


def _once(what: str, kind: str, ours: Callable[[], object], theirs: Callable[[], object]) -> Line:
    """What takes long is done once by each."""
    took = []
    for way in (ours, theirs):
        cpu_s, began_s = time.process_time(), time.perf_counter()
        way()
        took.append((time.perf_counter() - began_s, time.process_time() - cpu_s))
    told = [f"{clock:.2f} s, processor {cpu:.2f} s" for clock, cpu in took]
    return Line(what, told[0], f"Lance {kind} {told[1]}".replace("  ", " "), took[0][0] / took[1][0], "")


def _sizes(what: str, directory: Path) -> Line:
    sizes = {
        name: sum(each.stat().st_size for each in (directory / name).rglob("*") if each.is_file())
        for name in ("lake", "data.lance")
    }
    parquet = (directory / "lake" / "first.parquet").stat().st_size
    told = f"{sizes['lake'] / 1e6:.0f} MB ({parquet / 1e6:.0f} MB of it Parquet)"
    return Line(
        what, told, f"Lance {sizes['data.lance'] / 1e6:.0f} MB", sizes["lake"] / sizes["data.lance"], ""
    )


def _searched(ours: _Lake, theirs: _Lance, kind: str, exact: Any, queries: Matrix, turns: int) -> list[Line]:
    truth = exact.search(queries, K)[1]
    some = 100
    lines = []
    reached = {
        name: {ef: recall(_all(way.search, queries[:some], ef), truth[:some]) for ef in _EFFORTS}
        for name, way in (("ours", ours), ("theirs", theirs))
    }
    for least in _RECALLS:
        # The best there is where none reaches it: the line tells the recall.
        efforts = {
            name: next(
                (ef for ef, share in found.items() if share >= least), max(found, key=found.__getitem__)
            )
            for name, found in reached.items()
        }
        found = in_turn(
            {
                "ours": lambda n, ef=efforts["ours"]: ours.search(queries[n % 1000][None], ef),  # type: ignore[misc]
                "theirs": lambda n, ef=efforts["theirs"]: theirs.search(queries[n % 1000][None], ef),  # type: ignore[misc]
            },
            turns,
            time.process_time,
        )
        told = {name: f"ef {ef}, recall {reached[name][ef]:.3f}" for name, ef in efforts.items()}
        lines.append(_turned(f"search, recall ≥ {least}: {told['ours']}", kind, found, told["theirs"]))
    for percent in (1, 10, 50):
        where = f"kind < {percent}"
        chosen = np.flatnonzero(np.arange(exact.ntotal) % 100 < percent)
        sought = faiss.SearchParameters(sel=faiss.IDSelectorArray(chosen))
        nearest = exact.search(queries[:some], K, params=sought)[1]
        of_ours, of_theirs = (
            recall(_all(lambda q, ef, w=way, c=where: w.search(q, ef, c), queries[:some], 64), nearest)  # type: ignore[misc]
            for way in (ours, theirs)
        )
        found = in_turn(
            {
                "ours": lambda n, w=where: ours.search(queries[n % 1000][None], 64, w),  # type: ignore[misc]
                "theirs": lambda n, w=where: theirs.search(queries[n % 1000][None], 64, w),  # type: ignore[misc]
            },
            turns // 3,
            time.process_time,
        )
        lines.append(
            _turned(
                f"search of {percent} %, ef 64, recall {of_ours:.3f}", kind, found, f"recall {of_theirs:.3f}"
            )
        )
    return lines


def _all(search: Callable[[Matrix, int], NDArray[np.int64]], queries: Matrix, ef: int) -> NDArray[np.int64]:
    return np.array([search(query[None], ef) for query in queries])


def _turned(what: str, kind: str, found: Turns, more: str = "") -> Line:
    beside = f"Lance {kind} {found.told('theirs')}".replace("  ", " ")
    return Line(
        what, found.told("ours"), f"{beside}; {more}" if more else beside, found.ratio("ours", "theirs"), ""
    )


def _fetched(ours: _Lake, theirs: _Lance, count: int, turns: int) -> list[Line]:
    rng = np.random.default_rng(3)
    picks = [np.sort(rng.choice(count, _FETCHED, replace=False)) for _ in range(50)]
    lines = []
    for name, way in (("Parquet", ours.fetch), ("the files of the index", ours.fetch_beside)):
        found = in_turn(
            {
                "ours": lambda n, w=way: w(picks[n % 50]),  # type: ignore[misc]
                "theirs": lambda n: theirs.fetch(picks[n % 50]),
            },
            max(10, turns // 10),
            time.process_time,
        )
        lines.append(_turned(f"{_FETCHED} random rows with their vectors, from {name}", "", found))
    return lines
