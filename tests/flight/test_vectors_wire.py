"""Vector indexes over the wire: who finds what in them, by which way, and through what happens to servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded
from conftest import Server

CONFIG = """
[vectors]
refresh_ms = 0
grace_seconds = 0
[[roles]]
name = "european"
grants = [{ on = "lake.hr.*", row_filter = "region = 'eu'" }]
[[roles]]
name = "masked"
grants = [{ on = "lake.hr.*", masks = { text = "null" } }]
[[roles]]
name = "coarse"
grants = [{ on = "lake.hr.*", masks = { secret = "null" } }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.other.*" }]
[[roles]]
name = "appender"
grants = [{ on = "lake.hr.*", privileges = ["write"] }]
"""
ROLES = ("admin", "writer", "reader", "european", "masked", "coarse", "outsider", "appender", "nobody")
N, D = 4000, 16
REFUSED = (flight.FlightError, pa.ArrowException)


def texts(count: int = N, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(7).standard_normal((6, D))
    vectors = (rng.standard_normal((count, 6)) @ directions).astype("f4")
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "region": ["eu" if i % 10 == 0 else "us" for i in range(count)],
            "text": [f"text {seed}/{i}" for i in range(count)],
            "secret": [f"secret {i}" for i in range(count)],
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        }
    )


def _start(directory: Path) -> Server:
    return start_guarded(directory, CONFIG, ROLES)


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Caller]]:
    server = _start(tmp_path_factory.mktemp("vectors"))
    try:
        found = {role: Caller(server, role) for role in ROLES}
        found["admin"].sql("CREATE SCHEMA hr")
        found["admin"].fill("hr.texts", texts())
        names = ["id", "region", "text"]
        found["writer"].call(
            "vectors.build", index="texts", table="texts", db_schema="hr", keys=["id"], columns=names, m=16
        )
        yield found
    finally:
        server.stop()


QUERY = np.asarray(texts(3, 5)["vector"].to_pylist())


def expected(query: np.ndarray, where: np.ndarray, k: int) -> list[int]:
    vectors = np.asarray(texts()["vector"].to_pylist())
    scores = vectors @ query / np.linalg.norm(vectors, axis=1)
    return [int(i) for i in np.argsort(-np.where(where, scores, -np.inf))[: min(k, int(where.sum()))]]


IDS = np.arange(N)


def test_build_tells_of_its_progress_and_then_what_was_built(callers: dict[str, Caller]) -> None:
    told = callers["admin"].results(
        "vectors.build", index="other", table="texts", db_schema="hr", algorithm="exact", storage="fp16"
    )
    shares = [each["progress"] for each in told[:-1]]
    assert shares == sorted(shares)
    assert len(shares) >= 3
    made = told[-1]
    assert (made["index"], made["count"], made["dimension"], made["keys"]) == ("other", N, D, [])
    assert made["columns"] == ["id", "region", "text", "secret"]
    assert (made["algorithm"], made["storage"], made["metric"]) == ("exact", "fp16", "cosine")
    assert made["source"] == "lake.hr.texts"
    with pytest.raises(REFUSED, match="VECTOR_INDEX_ALREADY_EXISTS"):
        callers["admin"].call("vectors.build", index="OTHER", table="texts", db_schema="hr", create=True)
    callers["admin"].call("vectors.drop", index="other")


def test_search_gives_the_nearest_rows(callers: dict[str, Caller]) -> None:
    told, rows = callers["reader"].search("texts", QUERY, k=5, ef=300)
    assert rows.column_names == ["query", "rank", "score", "id", "region", "text"]
    assert told["way"] == "hnsw"
    assert rows["query"].to_pylist() == [0] * 5 + [1] * 5 + [2] * 5
    assert rows["rank"].to_pylist() == [1, 2, 3, 4, 5] * 3
    for number, query in enumerate(QUERY):
        mine = rows.slice(5 * number, 5)
        assert mine["id"].to_pylist() == expected(query, IDS >= 0, 5)
        assert mine["text"].to_pylist() == [f"text 0/{i}" for i in mine["id"].to_pylist()]
    by_sql = callers["reader"].sql(
        f"SELECT id, list_cosine_similarity(vector, {QUERY[0].tolist()}::FLOAT[]) AS s FROM hr.texts "
        "ORDER BY s DESC LIMIT 5"
    )
    assert by_sql["id"].to_pylist() == rows["id"].to_pylist()[:5]
    assert np.allclose(by_sql["s"].to_numpy(), rows["score"].to_numpy()[:5], atol=1e-5)


@pytest.mark.parametrize(
    ("condition", "chosen", "way"),
    [
        ("id < 8", IDS < 8, "exact"),
        ("id % 50 = 3", IDS % 50 == 3, "exact"),
        ("text LIKE '%7' OR region = 'eu'", (IDS % 10 == 7) | (IDS % 10 == 0), "exact"),
        ("id % 2 = 0", IDS % 2 == 0, "hnsw_filtered"),
        ("true", IDS >= 0, "hnsw"),
    ],
)
def test_filter_is_honoured_and_k_are_found(
    callers: dict[str, Caller], condition: str, chosen: np.ndarray, way: str
) -> None:
    told, rows = callers["reader"].search("texts", QUERY[:1], k=10, ef=120, filter=condition)
    assert told["way"] == way
    assert rows["id"].to_pylist() == expected(QUERY[0], chosen, 10)


def test_filter_that_nothing_fits_finds_nothing(callers: dict[str, Caller]) -> None:
    _, rows = callers["reader"].search("texts", QUERY, filter="id < 0")
    assert rows.num_rows == 0
    assert rows.column_names[-1] == "text"


def test_one_ticket_is_a_whole_search(callers: dict[str, Caller]) -> None:
    search = {"index": "texts", "k": 5, "ef": 300, "filter": "id % 2 = 0"}
    packed = QUERY.astype("<f4")
    told, rows = callers["reader"].search("texts", packed, k=5, ef=300, filter="id % 2 = 0")
    in_json = json.dumps({"search": {**search, "vectors": packed.tolist()}}, indent=2)
    behind = json.dumps({"search": {**search, "dimension": D}}).encode() + b"\0" + packed.tobytes()
    for ticket in (in_json.encode(), behind):
        found = callers["reader"].redeem(ticket)
        assert found.equals(rows)
        assert found.schema.metadata[b"vectors.way"].decode() == told["way"]
        assert int(found.schema.metadata[b"vectors.ef"]) == told["ef"]
    one = json.dumps({"search": search}).encode() + b"\0" + packed[1].tobytes()
    assert callers["reader"].redeem(one)["id"].to_pylist() == rows["id"].to_pylist()[5:10]
    only_eu = callers["european"].redeem(one)
    assert only_eu["region"].to_pylist() == ["eu"] * 5
    assert only_eu["id"].to_pylist() == expected(QUERY[1], (IDS % 10 == 0), 5)
    for other, code in (("outsider", "VECTOR_INDEX_NOT_FOUND"), ("masked", "PERMISSION_DENIED")):
        with pytest.raises(REFUSED, match=code):
            callers[other].redeem(one)
    of_reader = "sql = 'VECTORS SEARCH texts' AND principal = 'reader' ORDER BY submitted_at DESC LIMIT 1"
    record = callers["admin"].sql(f"SELECT kind, rows, state FROM system.statements WHERE {of_reader}")
    assert record.to_pylist() == [{"kind": "vectors", "rows": 5, "state": "finished"}]


@pytest.mark.parametrize(
    ("ticket", "message"),
    [
        (b'{"search": {"index": "texts"}}', "vectors or texts"),
        (b'{"search": {"index": "texts", "vectors": [[1.0]]}}\0' + bytes(4), "vectors twice"),
        (b'{"search": {"index": "texts"}}\0' + bytes(4 * D + 1), f"{4 * D + 1} bytes"),
        (b'{"search": {"index": "texts", "dimension": 3}}\0' + bytes(4 * D), "vectors of 3 float32"),
        (b'{"search": {"index": "texts", "dimension": "x"}}\0' + bytes(4 * D), "vectors of 'x'"),
        (b'{"search": {"index": "texts", "dimension": 0}}\0', "vectors of 0"),
        (b'{"search": {"index": "texts"}}\0', "vectors of 0"),
        (b'{"search": [}\0' + bytes(4), "not JSON"),
        (b'{"search": []}\0' + bytes(4), "vectors"),
        (b'{"search": {"index": "texts", "texts": ["x"]}, "more": 1}', "more"),
        (b'{"search": {"index": "texts"}}\0' + b"\xff" * 4 * D, "not finite"),
        (b'{"search": {"index": "texts"}}\0' + bytes(8), "2 dimensions, the index has"),
    ],
)
def test_search_ticket_that_is_wrong_is_told_why(
    callers: dict[str, Caller], ticket: bytes, message: str
) -> None:
    with pytest.raises(REFUSED, match=message):
        callers["reader"].redeem(ticket)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"vectors": [[1.0] * (D - 1)]}, f"{D - 1} dimensions, the index has {D}"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "expected one length"),
        ({"vectors": [[0.0] * D]}, "all zero"),
        ({"vectors": []}, "vectors"),
        ({"vectors": [[1e39] * D]}, "not finite"),
        ({"k": 0}, "k"),
        ({"ef": 0}, "ef = 0"),
        ({"index": "nothing"}, "VECTOR_INDEX_NOT_FOUND"),
        ({"index": "a/b"}, "no name of a vector index"),
        ({"filter": "nope = 1"}, "nope"),
        ({"filter": "true) UNION SELECT (1"}, "SQL_SYNTAX"),
        ({"filter": "id IN (SELECT 1 FROM read_csv('/etc/passwd'))"}, "STATEMENT_FORBIDDEN"),
    ],
)
def test_search_that_is_wrong_is_told_why(
    callers: dict[str, Caller], request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(REFUSED) as caught:
        callers["reader"].call("vectors.search", **{"index": "texts", "vectors": [[1.0] * D], **request_})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"table": "nothing"}, "TABLE_NOT_FOUND"),
        ({"column": "text"}, "expected a list of numbers"),
        ({"column": "nothing"}, "does not exist"),
        ({"keys": ["nothing"]}, "does not exist"),
        ({"columns": ["vector"]}, "column of the vectors"),
        ({"m": 1}, "m = 1"),
        ({"metric": "manhattan"}, "metric"),
    ],
)
def test_build_that_is_wrong_is_told_why(
    callers: dict[str, Caller], request_: dict[str, Any], message: str
) -> None:
    wanted = {"index": "wrong", "table": "texts", "db_schema": "hr", **request_}
    with pytest.raises(REFUSED) as caught:
        callers["admin"].call("vectors.build", **wanted)
    assert message in str(caught.value)
    assert "wrong" not in {i["index"] for i in callers["admin"].call("vectors.list")["indexes"]}


def test_row_filter_of_the_table_holds_in_its_index(callers: dict[str, Caller]) -> None:
    who = callers["european"]
    _, rows = who.search("texts", QUERY, k=20)
    assert set(rows["region"].to_pylist()) == {"eu"}
    for number, query in enumerate(QUERY):
        assert rows["id"].to_pylist()[20 * number :][:20] == expected(query, IDS % 10 == 0, 20)
    _, rows = who.search("texts", QUERY, k=20, filter="id < 100")
    assert rows.num_rows == 3 * 10
    _, rows = who.search("texts", QUERY, k=20, filter="region = 'us'")
    assert rows.num_rows == 0
    (listed,) = who.call("vectors.list")["indexes"]
    assert (listed["count"], listed["size_bytes"]) == (None, None)


def test_who_may_do_what_with_an_index(callers: dict[str, Caller]) -> None:
    reads = {"admin", "writer", "reader", "european", "coarse"}
    for role, who in callers.items():
        seen = {each["index"] for each in who.call("vectors.list")["indexes"]}
        assert seen == ({"texts"} if role in reads else set())
        if role in reads:
            _, rows = who.search("texts", QUERY)
            assert rows.num_rows == 30
        else:
            for name in ("texts", "nothing"):
                with pytest.raises(REFUSED) as caught:
                    who.search(name, QUERY)
                wanted = "PERMISSION_DENIED" if (role, name) == ("masked", "texts") else "does not exist"
                assert wanted in str(caught.value)
        if role not in ("admin", "writer"):
            for action in ("vectors.drop", "vectors.rollback"):
                with pytest.raises(REFUSED, match=r"PERMISSION_DENIED|NOT_FOUND"):
                    who.call(action, index="texts")
            with pytest.raises(REFUSED, match=r"PERMISSION_DENIED|NOT_FOUND"):
                who.call("vectors.build", index=f"by-{role}", table="texts", db_schema="hr")
    assert len(callers["admin"].call("vectors.list")["indexes"]) == 1


def test_index_is_gone_with_its_table_and_is_not_shown_of_another(callers: dict[str, Caller]) -> None:
    who = callers["admin"]
    who.fill("hr.short", texts(20))
    who.call("vectors.build", index="short", table="short", db_schema="hr")
    assert who.search("short", QUERY, k=30)[1].num_rows == 60
    who.sql("DROP TABLE hr.short")
    who.fill("hr.short", texts(5, 1))
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        who.search("short", QUERY)
    assert who.call("vectors.build", index="short", table="short", db_schema="hr")["count"] == 5
    who.call("vectors.drop", index="short")


def test_generations_swap_and_go_back(callers: dict[str, Caller]) -> None:
    who = callers["admin"]
    who.fill("hr.swap", texts(50))
    first = who.call("vectors.build", index="swap", table="swap", db_schema="hr", keys=["id"])
    who.sql("DELETE FROM hr.swap WHERE id < 10")
    assert who.search("swap", QUERY, k=50)[1].num_rows == 150  # it shows the snapshot that it was made from
    assert who.search("swap", QUERY, k=50, filter="id < 20")[1].num_rows == 60
    second = who.call("vectors.build", index="swap", table="swap", db_schema="hr", keys=["id"])
    assert (second["count"], second["why"]) == (40, "build")
    assert who.search("swap", QUERY, k=50)[1].num_rows == 120
    back = who.call("vectors.rollback", index="swap")
    assert (back["generation"], back["why"]) == (first["generation"], "rollback")
    assert who.search("swap", QUERY, k=50)[1].num_rows == 150
    events = who.call("journal.events", entity="swap")["events"]
    told = [(e["action"], e["old"], e["new"], e["detail"], e["actor"]) for e in events]
    assert told[0] == ("swap", second["generation"], first["generation"], "rollback", "admin")
    assert len(told) == 3
    who.call("vectors.drop", index="swap")
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        who.search("swap", QUERY)


def test_index_without_keys_cannot_be_filtered(callers: dict[str, Caller]) -> None:
    who = callers["admin"]
    who.call("vectors.build", index="keyless", table="texts", db_schema="hr", columns=["text"])
    assert who.search("keyless", QUERY)[1].num_rows == 30
    with pytest.raises(REFUSED, match="have no key"):
        who.search("keyless", QUERY, filter="id = 1")
    with pytest.raises(REFUSED, match="have no key"):
        callers["european"].search("keyless", QUERY)
    who.call("vectors.drop", index="keyless")


def test_key_of_two_columns(callers: dict[str, Caller]) -> None:
    who = callers["admin"]
    keys = {"keys": ["region", "ID"], "columns": []}
    assert who.call("vectors.build", index="two", table="texts", db_schema="hr", **keys)["keys"] == [
        "region",
        "id",
    ]
    _, rows = who.search("two", QUERY[:1], filter="id < 100 AND region = 'eu'", k=20)
    assert rows["id"].to_pylist() == expected(QUERY[0], (IDS < 100) & (IDS % 10 == 0), 10)
    who.call("vectors.drop", index="two")


def test_index_outlives_the_server_and_is_mended(tmp_path: Path) -> None:
    server = _start(tmp_path)
    who = Caller(server)
    who.sql("CREATE SCHEMA hr")
    who.fill("hr.texts", texts(300))
    who.call("vectors.build", index="texts", table="texts", db_schema="hr", keys=["id"])
    before = who.search("texts", QUERY)[1]
    server.kill()
    (file,) = server.directory.rglob("vectors.faiss")
    server = _start(tmp_path)
    try:
        who = Caller(server)
        assert who.search("texts", QUERY)[1].equals(before)
        server.kill()
        file.write_bytes(file.read_bytes()[:-5])
        server = _start(tmp_path)
        who = Caller(server)
        assert who.search("texts", QUERY)[1].equals(before)
        assert who.call("vectors.list")["indexes"][0]["why"] == "repair"
    finally:
        server.stop()
