"""Queries for a vector index stream in, what they find streams out, over one DoExchange."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, presenting, start_guarded, token
from conftest import Server
from lakehouse_client import LakehouseClientError, connect

REFUSED = (flight.FlightError, pa.ArrowException)
POINTS, DIMENSION = 1500, 8
ROLES = ("admin", "even", "outsider")
CONFIG = """
[vectors]
refresh_ms = 0
[[roles]]
name = "even"
grants = [{ on = "lake.docs.points", row_filter = "id % 2 = 0" }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.other.*" }]
"""


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype("f4")


def nearest(sought: np.ndarray, k: int, step: int = 1) -> list[int]:
    points = vectors(POINTS, 3)[::step]
    return [int(i) * step for i in np.argsort(-(points @ sought) / np.linalg.norm(points, axis=1))[:k]]


def column(values: np.ndarray) -> pa.Array:
    return pa.array(list(values), pa.list_(pa.float32()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = start_guarded(tmp_path_factory.mktemp("exchange"), CONFIG, ROLES)
    try:
        admin = Caller(started)
        admin.sql("CREATE SCHEMA docs")
        rows = pa.table({"id": pa.array(range(POINTS), pa.int64()), "vector": column(vectors(POINTS, 3))})
        admin.fill("docs.points", rows)
        admin.call("vectors.build", index="points", table="points", db_schema="docs", keys=["id"])
        yield started
    finally:
        started.stop()


class Exchange:
    """One exchange of a caller."""

    def __init__(self, server: Server, role: str = "admin", **said: Any) -> None:
        wanted = {"exchange": "vectors.search", "index": "points", **said}
        descriptor = flight.FlightDescriptor.for_command(json.dumps(wanted).encode())
        self.client = server.client()
        self.writer, self.reader = self.client.do_exchange(descriptor, presenting(token(role)))

    def begin(self, schema: pa.Schema) -> None:
        self.writer.begin(schema)

    def send(self, batch: pa.RecordBatch) -> None:
        self.writer.write_batch(batch)

    def next(self) -> tuple[pa.RecordBatch, dict[str, Any]]:
        chunk = self.reader.read_chunk()
        told = b"{}" if chunk.app_metadata is None else chunk.app_metadata.to_pybytes()
        return chunk.data, json.loads(told)

    def whole(self, *batches: pa.RecordBatch) -> pa.Table:
        with self.writer:
            self.begin(batches[0].schema)
            for batch in batches:
                self.send(batch)
            self.writer.done_writing()
            return self.reader.read_all()


def batch_of(values: np.ndarray) -> pa.RecordBatch:
    return pa.record_batch({"vector": column(values)})


def found_by(rows: pa.Table, number: int) -> list[int]:
    return [row["id"] for row in rows.to_pylist() if row["query"] == number]


def test_each_batch_is_answered_before_the_next_comes(server: Server) -> None:
    exchange, sought = Exchange(server, k=4, ef=500), vectors(5, 9)
    with exchange.writer:
        exchange.begin(batch_of(sought).schema)
        for start, stop in ((0, 2), (2, 5)):
            exchange.send(batch_of(sought[start:stop]))
            rows, told = exchange.next()
            assert rows.schema.names == ["query", "rank", "score", "id"]
            assert sorted(set(rows["query"].to_pylist())) == list(range(start, stop))
            for number in range(start, stop):
                assert found_by(rows, number) == nearest(sought[number], 4)
            assert told["queries"] == stop
            assert told["way"] in ("exact", "hnsw")
        exchange.writer.done_writing()
        with pytest.raises(StopIteration):
            exchange.next()


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 8)]
)
def test_vectors_come_in_any_kind_of_list_and_null_finds_nothing(server: Server, kind: pa.DataType) -> None:
    sought = vectors(3, 5)
    listed = pa.array([sought[0].tolist(), None, sought[2].tolist()], kind)
    rows = Exchange(server, k=3, ef=500).whole(pa.record_batch({"other": [1, 2, 3], "vector": listed}))
    assert found_by(rows, 0) == nearest(sought[0], 3)
    assert found_by(rows, 1) == []
    assert found_by(rows, 2) == nearest(sought[2], 3)


def test_filters_hold_and_only_what_may_be_seen_is_found(server: Server) -> None:
    sought = vectors(2, 6)
    rows = Exchange(server, k=7, filter="id % 30 = 0").whole(batch_of(sought))
    assert found_by(rows, 1) == nearest(sought[1], 7, 30)
    rows = Exchange(server, "even", k=7).whole(batch_of(sought))
    assert found_by(rows, 0) == nearest(sought[0], 7, 2)
    said = []
    for index in ("points", "absent"):
        with pytest.raises(REFUSED) as refused:
            Exchange(server, "outsider", index=index).whole(batch_of(sought))
        said.append(str(refused.value).split(" Detail")[0].replace(index, "…"))
    assert said[0] == said[1]
    assert "VECTOR_INDEX_NOT_FOUND" in said[0]


def test_more_is_sent_than_fits_into_one_message_and_no_faster_than_it_is_read(server: Server) -> None:
    exchange, sought = Exchange(server, k=1000), vectors(900, 8)
    sent: list[int] = []

    def send() -> None:
        exchange.begin(batch_of(sought).schema)
        for start in range(0, 900, 50):
            exchange.send(batch_of(sought[start : start + 50]))
            sent.append(start)
        exchange.writer.done_writing()

    writing = threading.Thread(target=send)
    writing.start()
    rows = last = 0
    for chunk in exchange.reader:
        rows += chunk.data.num_rows
        assert chunk.data.nbytes < 4_000_000
        if chunk.app_metadata is not None:
            last = json.loads(chunk.app_metadata.to_pybytes())["queries"]
    writing.join()
    exchange.writer.close()
    assert (rows, last, len(sent)) == (900_000, 900, 18)


def _wrong(**changes: Any) -> pa.RecordBatch:
    return pa.record_batch(changes)


@pytest.mark.parametrize(
    ("batch", "said", "message"),
    [
        (_wrong(vector=column(vectors(2, 1)[:, :5])), {}, "query 0: the query has 5 dimensions"),
        (_wrong(vector=[[0.5] * 8, [0.5] * 7]), {}, "query 1 has 7 dimensions"),
        (_wrong(vector=[[0.5] * 8, [0.5] * 7 + [None]]), {}, "query 1: a number"),
        (_wrong(vector=[[0.5] * 8, [0.0] * 8]), {}, "query 1: .*all zero"),
        (_wrong(vector=[[0.5] * 8, [float("nan")] * 8]), {}, "query 1: .*not finite"),
        (_wrong(text=["a"]), {}, "search it by vectors"),
        (_wrong(vector=["a"]), {}, "expected a list of numbers"),
        (_wrong(words=["a"]), {}, "expected one column"),
        (_wrong(text=["a"], vector=[[0.5] * 8]), {}, "expected one column"),
        (_wrong(vector=[[0.5] * 8]), {"filter": "absent = 1"}, "absent"),
        (_wrong(vector=[[0.5] * 8]), {"k": 0}, "k: "),
        (_wrong(vector=[[0.5] * 8]), {"fast": True}, "fast"),
        (_wrong(vector=[[0.5] * 8]), {"exchange": "other"}, "exchange"),
    ],
)
def test_a_query_that_cannot_be_answered_is_named(
    server: Server, batch: pa.RecordBatch, said: dict[str, Any], message: str
) -> None:
    with pytest.raises(REFUSED, match=message):
        Exchange(server, **said).whole(batch)
    rows = Caller(server).sql("SELECT 1 AS one")
    assert rows["one"].to_pylist() == [1]


def test_a_client_that_goes_away_leaves_nothing_behind(server: Server) -> None:
    sought = vectors(50, 2)
    exchange = Exchange(server, k=1000)
    exchange.begin(batch_of(sought).schema)
    exchange.send(batch_of(sought))
    exchange.next()
    exchange.reader.cancel()
    running = (
        "SELECT count(*) AS n FROM system.statements "
        "WHERE state IN ('running', 'planned') AND sql LIKE 'VECTORS%'"
    )
    for _ in range(100):
        if Caller(server).sql(running)["n"].to_pylist() == [0]:
            return
    pytest.fail("the exchange goes on")


def test_the_client_streams_queries(server: Server) -> None:
    sought = vectors(40, 4)
    with connect(server.uri, token=token("admin")) as lake:
        parts = (sought[i : i + 10].tolist() for i in range(0, 40, 10))
        answers = lake.stream_searches("points", parts, k=3, ef=500)
        rows = pa.Table.from_batches(answers)
        assert rows.num_rows == 120
        assert found_by(rows, 39) == nearest(sought[39], 3)
        with pytest.raises(LakehouseClientError, match="query 1"):
            list(lake.stream_searches("points", [[[0.5] * 8, [0.0] * 8]]))
        with pytest.raises(ZeroDivisionError):
            list(lake.stream_searches("points", ([[1 / (2 - i)] * 8] for i in range(3))))
        given_up = lake.stream_searches("points", (sought[:10].tolist() for _ in range(10_000)), k=100)
        assert next(given_up).num_rows == 1000
        given_up.close()
