"""Indexes are searched in SQL: with parameters, joined, in views and changes, by whoever may."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import adbc_driver_flightsql.dbapi as adbc
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded, token
from conftest import ROOT, need

pytest.importorskip("wordllama")

REFUSED = (flight.FlightError, pa.ArrowException)
CONFIG = """
[vectors]
refresh_ms = 0
[[roles]]
name = "even"
grants = [
    { on = "lake.docs.notes", row_filter = "id % 2 = 0" },
    { on = "lake.docs.points", row_filter = "id % 2 = 0" },
    { on = "lake.docs.bakery" },
]
[[roles]]
name = "masked"
grants = [{ on = "lake.docs.*", masks = { body = "null" } }]
[[roles]]
name = "outsider"
grants = [{ on = "lake.other.*" }]
"""
ROLES = ("admin", "even", "masked", "outsider")
NOTES = {
    1: ("food", "Flour, water, salt and yeast are kneaded, left to rise and baked in a hot oven."),
    2: ("sport", "The boat leans as wind fills the sails. A keel keeps it from drifting sideways."),
    3: ("software", "A transaction is either committed as a whole or rolled back."),
    4: ("food", "Tomatoes want sun, a stake to climb and water every morning."),
    5: ("sport", "A chain carries the force of the pedals to the rear wheel of the bicycle."),
    6: ("food", "Milk is warmed, curdled with rennet, pressed into a wheel of cheese and left to age."),
}
POINTS, DIMENSION = 300, 8


def points() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((POINTS, DIMENSION)).astype("f4")


def nearest(vector: np.ndarray, k: int, ids: np.ndarray | None = None) -> list[int]:
    found = points()
    scores = found @ vector / np.linalg.norm(found, axis=1)
    if ids is not None:
        scores = np.where(np.isin(np.arange(POINTS), ids), scores, -np.inf)
    return [int(i) for i in np.argsort(-scores)[:k]]


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Caller]]:
    server = start_guarded(tmp_path_factory.mktemp("sql"), CONFIG, ROLES)
    try:
        found = {role: Caller(server, role) for role in ROLES}
        admin = found["admin"]
        admin.sql("CREATE SCHEMA docs")
        admin.sql("CREATE TABLE docs.notes (id BIGINT, topic VARCHAR, body VARCHAR)")
        rows = ", ".join(f"({i}, '{topic}', '{body}')" for i, (topic, body) in NOTES.items())
        admin.sql(f"INSERT INTO docs.notes VALUES {rows}")
        admin.call("vectors.embed", table="notes", db_schema="docs", columns=["body"], keys=["id"])
        admin.call("vectors.build", index="notes", table="notes_embeddings", db_schema="docs")
        rows = {
            "id": pa.array(range(POINTS), pa.int64()),
            "rank": [f"r{i}" for i in range(POINTS)],
            "vector": pa.array(list(points()), pa.list_(pa.float32())),
        }
        admin.fill("docs.points", pa.table(rows))
        admin.call("vectors.build", index="points", table="points", db_schema="docs", keys=["id"])
        yield found
    finally:
        server.stop()


@pytest.fixture
def admin(callers: dict[str, Caller]) -> Caller:
    return callers["admin"]


def vector(number: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(100 + number).standard_normal(DIMENSION), "f4")


def written(values: np.ndarray) -> str:
    return "[" + ", ".join(repr(float(value)) for value in values) + "]"


def test_a_text_finds_what_means_the_same(admin: Caller) -> None:
    found = admin.sql("SELECT * FROM vector_search('notes', 'how to bake a loaf', 2)")
    assert found.column_names[:4] == ["rank", "score", "id", "chunk_id"]
    assert found["rank"].to_pylist() == [1, 2]
    assert found["id"][0].as_py() == 1
    assert found["score"][0].as_py() > found["score"][1].as_py()


def test_a_search_is_joined_with_its_table(admin: Caller) -> None:
    found = admin.sql(
        "WITH near AS (SELECT * FROM vector_search('notes', 'commit or roll back', k := 3)) "
        "SELECT d.topic, v.rank FROM near v JOIN docs.notes d ON d.id = v.id ORDER BY v.rank"
    )
    assert found.to_pylist()[0] == {"topic": "software", "rank": 1}
    assert found.num_rows == 3


@pytest.mark.parametrize(
    "call",
    [
        "vector_search('points', {v}, 5)",
        "vector_search('points', {v}::FLOAT[], 5) AS v",
        "VECTOR_SEARCH('POINTS', query => {v}, k => 2 + 3) v(r, s, id, rank)",
        "LATERAL vector_search(k := 5, index := 'points', query := {v}, ef := 100) v",
        "vector_search('points', {v}, 5, NULL, 'id >= 0')",
        "(SELECT * FROM vector_search('points', {v}, 5)) s",
    ],
)
def test_a_vector_finds_the_nearest_however_it_is_written(admin: Caller, call: str) -> None:
    sought = vector()
    assert admin.ids(f"SELECT id FROM {call.format(v=written(sought))}") == nearest(sought, 5)


def test_names_that_the_index_has_itself_are_told_apart(admin: Caller) -> None:
    found = admin.sql(f"FROM vector_search('points', {written(vector())}, 1)")
    assert found.column_names == ["_rank", "score", "id", "rank"]
    assert found["rank"][0].as_py() == f"r{found['id'][0].as_py()}"


def test_a_filter_leaves_as_many_as_there_are(admin: Caller) -> None:
    sought, even = vector(1), np.arange(0, POINTS, 2)
    call = f"SELECT id FROM vector_search('points', {written(sought)}, 20, filter := 'id % 2 = 0')"
    assert admin.ids(call) == nearest(sought, 20, even)
    assert admin.ids(call.replace("id % 2 = 0", "id IN (7, 8)")) == nearest(sought, 2, np.array([7, 8]))
    with pytest.raises(REFUSED, match=r"SQL_SYNTAX|FORBIDDEN|SYNTAX"):
        admin.sql(call.replace("id % 2 = 0", "true) UNION (SELECT 1"))


def test_what_is_like_a_row_is_found_by_a_subquery(admin: Caller) -> None:
    found = admin.ids(
        "SELECT id FROM vector_search('points', (SELECT vector FROM docs.points WHERE id = 17), 3)"
    )
    assert found == nearest(points()[17], 3)
    assert found[0] == 17
    nothing = "SELECT id FROM vector_search('points', (SELECT vector FROM docs.points WHERE id < 0), 3)"
    assert admin.ids(nothing) == []


def test_parameters_are_bound_by_adbc(admin: Caller) -> None:
    sought = vector(2)
    sql = "SELECT ? AS a, id, ? AS b FROM vector_search('points', ?, ?) v WHERE id >= ? ORDER BY v._rank"
    row = pa.record_batch(
        {
            "1": ["x"],
            "2": pa.array([7], pa.int64()),
            "3": pa.array([list(sought)], pa.list_(pa.float32())),
            "4": pa.array([6], pa.int64()),
            "5": pa.array([0], pa.int64()),
        }
    )
    with admin.adbc() as connection, connection.cursor() as cursor:
        for k in (6, 3):
            row = row.set_column(3, "4", pa.array([k], pa.int64()))
            cursor.execute(sql, row)
            found = cursor.fetch_arrow_table()
            assert found["id"].to_pylist() == nearest(sought, k)
            assert set(zip(found["a"].to_pylist(), found["b"].to_pylist(), strict=True)) == {("x", 7)}
        for cast in ("?::FLOAT[]", "?::DOUBLE[8]", "CAST(? AS FLOAT[])"):
            listed = pa.record_batch({"1": pa.array([list(sought)], pa.list_(pa.float32()))})
            cursor.execute(f"SELECT id FROM vector_search('points', {cast}, 5)", listed)
            assert [i for (i,) in cursor.fetchall()] == nearest(sought, 5)
        text = pa.record_batch({"1": [written(sought)]})
        cursor.execute("SELECT id FROM vector_search('points', ?::FLOAT[], 5)", text)
        assert [i for (i,) in cursor.fetchall()] == nearest(sought, 5)
        cursor.execute("SELECT id FROM vector_search('notes', ?, 1)", ("a loaf of bread",))
        assert cursor.fetchall() == [(1,)]


def test_columns_are_known_before_anything_is_asked(admin: Caller) -> None:
    with admin.adbc() as connection, connection.cursor() as cursor:
        sql = "SELECT * FROM vector_search('notes', ?, ?, filter := ?)"
        wanted = cursor.adbc_prepare(sql)
        assert wanted is not None
        assert [str(kind) for kind in wanted.types] == ["string", "int64", "string"]
        schema = cursor.adbc_execute_schema(sql.replace("?", "'bread'", 1).replace("?, filter := ?", "5"))
        assert schema.names == ["rank", "score", "id", "chunk_id", "chunk_text", "content_hash"]
        assert [str(kind) for kind in schema.types][:3] == ["int32", "float", "int64"]


def test_views_search_for_whoever_reads_them(callers: dict[str, Caller]) -> None:
    admin = callers["admin"]
    admin.sql(
        "CREATE OR REPLACE VIEW docs.bakery AS SELECT v.rank, d.id, d.topic "
        "FROM vector_search('notes', 'to bake bread', 3) v JOIN docs.notes d ON d.id = v.id"
    )
    twice = "SELECT a.id FROM docs.bakery a JOIN docs.bakery b ON a.id = b.id ORDER BY a.rank"
    assert admin.ids(twice)[0] == 1
    assert len(admin.ids(twice)) == 3
    assert all(i % 2 == 0 for i in callers["even"].ids("SELECT id FROM docs.bakery"))
    assert len(callers["even"].ids("SELECT id FROM docs.bakery")) == 3
    with pytest.raises(REFUSED, match="NOT_FOUND"):
        callers["outsider"].sql("SELECT * FROM docs.bakery")
    admin.sql("DROP VIEW docs.bakery")


def test_what_was_found_can_be_kept(admin: Caller) -> None:
    search = f"SELECT id FROM vector_search('points', {written(vector(3))}, 4)"
    expected = sorted(nearest(vector(3), 4))
    admin.sql(f"CREATE TABLE docs.kept AS {search}")
    assert sorted(admin.ids("FROM docs.kept")) == expected
    admin.sql(f"INSERT INTO docs.kept {search}")
    assert sorted(admin.ids("FROM docs.kept")) == sorted(expected * 2)
    admin.sql(f"DELETE FROM docs.kept WHERE id IN ({search})")
    assert admin.ids("FROM docs.kept") == []
    admin.sql("DROP TABLE docs.kept")


def test_searches_stand_in_transactions_beside_temporary_tables(admin: Caller) -> None:
    sought = vector(4)
    with admin.adbc() as connection, connection.cursor() as cursor:
        connection.adbc_connection.set_autocommit(False)
        cursor.execute(f"CREATE TEMP TABLE near AS FROM vector_search('points', {written(sought)}, 5)")
        cursor.execute("SELECT id FROM near ORDER BY _rank")
        assert [i for (i,) in cursor.fetchall()] == nearest(sought, 5)
        again = "(SELECT vector FROM docs.points WHERE id = (SELECT id FROM near WHERE _rank = 1))"
        cursor.execute(f"SELECT v.id FROM vector_search('points', {again}, 2) v JOIN near n ON n.id = v.id")
        assert nearest(sought, 1)[0] in [i for (i,) in cursor.fetchall()]
        connection.rollback()


def test_a_plan_is_shown(admin: Caller) -> None:
    shown = admin.sql("EXPLAIN ANALYZE SELECT * FROM vector_search('notes', 'bread', 1)")
    assert "~" not in shown["explain_value"][0].as_py().replace("~1", "")


def test_who_may_not_read_the_source_finds_no_index(callers: dict[str, Caller]) -> None:
    said = []
    for name in ("notes", "absent"):
        with pytest.raises(REFUSED) as refused:
            callers["outsider"].sql(f"SELECT * FROM vector_search('{name}', 'bread', 1)")
        said.append(str(refused.value).replace(name, "…"))
    assert said[0] == said[1]
    assert "VECTOR_INDEX_NOT_FOUND" in said[0]
    with pytest.raises(REFUSED, match="masked"):
        callers["masked"].sql("SELECT * FROM vector_search('notes', 'bread', 1)")


def test_behind_a_row_filter_are_the_nearest_of_what_is_left(callers: dict[str, Caller]) -> None:
    sought, even = vector(5), np.arange(0, POINTS, 2)
    call = f"SELECT id FROM vector_search('points', {written(sought)}, 10)"
    assert callers["even"].ids(call) == nearest(sought, 10, even)
    assert callers["admin"].ids(call) == nearest(sought, 10)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("vector_search('points', [1, 2], 1)", "2 dimensions, the index has 8"),
        ("vector_search('points', 'text', 1)", "search it by vectors"),
        ("vector_search('notes', 'text', 0)", "k = 0"),
        ("vector_search('notes', 'text', 1.5)", "whole number"),
        ("vector_search('notes', DATE '2020-01-01', 1)", "a text or a list of numbers"),
        ("vector_search('notes')", "needs the argument query"),
        ("vector_search('notes', 'x', k := 1, k := 2)", "twice"),
        ("vector_search('notes', 'x', fast := true)", "no argument fast"),
        ("vector_search(lower('NOTES'), 'x')", "single quotes"),
        ("vector_search('notes', 'x') WITH ORDINALITY", "ordinality"),
        ("vector_search('notes', (SELECT body FROM docs.absent))", "absent does not exist"),
        ("vector_search('notes', getenv('HOME'))", "not allowed"),
        ("vector_search('notes', unnest(['a', 'b']))", "one value"),
        ("docs.notes d, vector_search('notes', d.body)", r"\bd\b"),
    ],
)
def test_what_cannot_be_searched_is_said(admin: Caller, call: str, said: str) -> None:
    with pytest.raises(REFUSED, match=said):
        admin.sql(f"SELECT * FROM {call}")
    assert admin.ids("SELECT id FROM vector_search('notes', 'a loaf of bread', 1)") == [1]


# -- embed() ------------------------------------------------------------------------------------------------


def cosine(a: list[float], b: list[float]) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_whole_column_is_embedded(admin: Caller) -> None:
    found = admin.sql(
        "SELECT n.id, embed(body) AS here, e.vector AS there FROM docs.notes n "
        "JOIN docs.notes_embeddings e ON e.id = n.id ORDER BY n.id"
    )
    assert str(found.schema.field("here").type) == "list<l: float>"
    for row in found.to_pylist():
        assert cosine(row["here"], row["there"]) > 0.9999
    many = admin.sql(
        "WITH n AS MATERIALIZED (SELECT id, embed(body) AS once FROM docs.notes), "
        "r AS (SELECT embed(d.body) AS often, n.once FROM range(9000) r(i) "
        "JOIN docs.notes d ON d.id = i % 6 + 1 JOIN n ON n.id = d.id) "
        "SELECT count(*) AS n, max(list_distance(often, once)) AS far FROM r"
    )
    assert many.to_pylist() == [{"n": 9000, "far": pytest.approx(0, abs=1e-5)}]


def test_rows_are_ordered_by_how_near_they_are(admin: Caller) -> None:
    found = admin.ids(
        "SELECT id FROM docs.notes ORDER BY "
        "list_cosine_similarity(embed(body), embed('baking a loaf', purpose := 'query')) DESC LIMIT 1"
    )
    assert found == [1]
    same = admin.sql(
        "SELECT array_inner_product(embed('a')::FLOAT[256], embed('a')::FLOAT[256]) AS a, "
        "list_distance(embed('a'), embed('a')) AS b"
    )
    assert same.to_pylist() == [{"a": pytest.approx(1, abs=1e-5), "b": 0}]


def test_null_and_empty_texts_have_no_vector(admin: Caller) -> None:
    found = admin.sql("SELECT t, embed(t) IS NULL AS none FROM (VALUES (NULL), (''), (' '), ('a')) v(t)")
    assert [row["none"] for row in found.to_pylist()] == [True, True, True, False]


def test_models_and_purposes_may_differ_from_row_to_row(admin: Caller) -> None:
    found = admin.sql(
        "SELECT embed('x' || (i % 3), purpose := if(i % 2 = 0, 'query', 'document')) AS a, "
        "embed('x' || (i % 3)) AS b FROM range(9) r(i)"
    )
    for row in found.to_pylist():  # the built-in model has no prefixes
        assert cosine(row["a"], row["b"]) > 0.9999


def test_vectors_of_a_statement_are_kept(admin: Caller) -> None:
    admin.sql("CREATE TABLE docs.made AS SELECT id, embed(body) AS vector FROM docs.notes")
    admin.sql("INSERT INTO docs.made SELECT id + 100, embed(body) FROM docs.notes")
    admin.sql("UPDATE docs.made SET vector = embed('a boat') WHERE id = 106")
    found = admin.sql("SELECT count(*) AS n, count(vector) AS v, min(len(vector)) AS d FROM docs.made")
    assert found.to_pylist() == [{"n": 12, "v": 12, "d": 256}]
    assert admin.ids("SELECT id FROM docs.made ORDER BY list_distance(vector, embed('a boat')) LIMIT 1") == [
        106
    ]
    admin.call("vectors.build", index="made", table="made", db_schema="docs", keys=["id"])
    sql = "SELECT id FROM vector_search('made', embed(?, purpose := 'query'), 1)"
    with admin.adbc() as connection, connection.cursor() as cursor:
        cursor.execute(sql, ("a boat",))
        assert cursor.fetchall() == [(106,)]
        cursor.execute("CREATE TEMP TABLE t AS SELECT embed('a') AS v")
        cursor.execute("INSERT INTO t SELECT embed('b')")
        cursor.execute("SELECT count(v) FROM t")
        assert cursor.fetchall() == [(2,)]
    admin.sql("CREATE VIEW docs.seen AS SELECT id, embed(body) AS vector FROM docs.notes")
    assert admin.sql("SELECT count(vector) AS n FROM docs.seen")["n"].to_pylist() == [6]
    admin.call("vectors.drop", index="made")
    for name in ("VIEW docs.seen", "TABLE docs.made"):
        admin.sql(f"DROP {name}")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT embed('a', model := 'absent')", "MODEL_NOT_FOUND.*absent"),
        ("SELECT embed('a', purpose := 'fun')", "purpose"),
        ("SELECT embed(repeat('a', 20000000))", "max_text_bytes"),
        ("SELECT embed(body, model := 'absent') FROM docs.notes", "MODEL_NOT_FOUND"),
        ("SELECT \"~embed\"('a', '', '', '')", "not allowed|internal|does not exist"),
        ("CREATE TABLE docs.defaulted (a FLOAT[] DEFAULT embed('x'))", "."),
    ],
)
def test_what_cannot_be_embedded_is_said(admin: Caller, sql: str, said: str) -> None:
    with pytest.raises(REFUSED, match=said):
        admin.sql(sql)


def test_embedding_stops_with_its_statement(admin: Caller) -> None:
    sql = "SELECT sum(list_sum(embed(repeat('many words ', 500) || range))) FROM range(1000000)"
    with admin.adbc() as connection, connection.cursor() as cursor:
        timer = threading.Timer(0.5, cursor.adbc_cancel)
        timer.start()
        began = time.monotonic()

        def run() -> None:
            cursor.execute(sql)
            cursor.fetchall()

        with pytest.raises(adbc.Error, match=r"(?i)cancel"):
            run()
        assert time.monotonic() - began < 60
        timer.join()


@pytest.mark.timeout(300)
def test_jdbc_searches_with_values_written_out_and_bound(callers: dict[str, Caller]) -> None:
    java, driver = need("java"), ROOT / "build" / "jdbc" / "flight-sql-jdbc-driver-18.3.0.jar"
    if not driver.is_file():
        pytest.skip("make jdbc has not fetched the driver")
    place = callers["admin"].server.uri.removeprefix("grpc://")
    url = f"jdbc:arrow-flight-sql://{place}?useEncryption=false&token={token('admin')}"
    program = ROOT / "tests" / "clients" / "jdbc" / "VectorSearch.java"
    done = subprocess.run(
        [java, "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", str(driver), str(program), url],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "written 1 software",
        "columns 2",
        "bound 1 software",
        "bound 1 food",
        f"vector {nearest(np.ones(DIMENSION, 'f4'), 1)[0]}",
    ], done.stderr[-2000:]


def test_many_search_at_once_while_the_index_is_swapped(admin: Caller) -> None:
    sql = "SELECT id FROM vector_search('points', $vector, $k, ef := 300) ORDER BY _rank"
    wrong: list[str] = []

    def search(first: int) -> None:
        with admin.adbc() as connection, connection.cursor() as cursor:
            for number in range(first, first + 15):
                sought = vector(number)
                listed = pa.array([list(sought)], pa.list_(pa.float32()))
                cursor.execute(sql, pa.record_batch({"vector": listed, "k": [4]}))
                found = cursor.fetch_arrow_table()["id"].to_pylist()
                if found != nearest(sought, 4):
                    wrong.append(f"{number}: {found}")

    threads = [threading.Thread(target=search, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        admin.call("vectors.build", index="points", table="points", db_schema="docs", keys=["id"])
    for thread in threads:
        thread.join()
    assert wrong == []


def test_columns_follow_the_index(admin: Caller) -> None:
    sql = f"FROM vector_search('other', {written(vector())}, 2)"
    wanted = {"index": "other", "table": "points", "db_schema": "docs", "keys": ["id"]}
    admin.call("vectors.build", **wanted)
    assert admin.sql(sql).column_names == ["_rank", "score", "id", "rank"]
    admin.call("vectors.build", **wanted, columns=["id"])
    found = admin.sql(sql)
    assert found.column_names == ["rank", "score", "id"]
    assert found["id"].to_pylist() == nearest(vector(), 2)
    admin.call("vectors.drop", index="other")
    with pytest.raises(REFUSED, match="VECTOR_INDEX_NOT_FOUND"):
        admin.sql(sql)


def test_searches_stand_wherever_tables_do(admin: Caller) -> None:
    call = f"vector_search('points', {written(vector())}, 3)"
    assert admin.sql(f"DESCRIBE FROM {call}")["column_name"].to_pylist()[0] == "_rank"
    assert admin.sql(f"SUMMARIZE FROM {call}").num_rows == 4
    both = admin.sql(f"SELECT a.id FROM {call} a JOIN {call} b USING (id) UNION ALL SELECT id FROM {call}")
    assert sorted(both["id"].to_pylist()) == sorted(nearest(vector(), 3) * 2)
    inner = f"(SELECT vector FROM docs.points WHERE id = (SELECT min(id) FROM {call}))"
    first = min(nearest(vector(), 3))
    assert admin.ids(f"SELECT id FROM vector_search('points', {inner}, 1)") == [first]
    assert admin.sql(f"SELECT count(*) AS n FROM docs.points WHERE id IN (SELECT id FROM {call})")[
        "n"
    ].to_pylist() == [3]
    found = admin.sql(f"SELECT vector_search.id FROM {call} -- a comment with ?\n WHERE '?' <> ''")
    assert found.num_rows == 3
