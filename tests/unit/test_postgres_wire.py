"""Rows read from the bare socket are those that the driver gives, and lost or made up by nothing."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pyarrow as pa
import pytest
from postgres import Postgres, start_postgres

from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.postgres import Dsn
from lakehouse.ingest.sources.postgres.binary_rows import RowReader, kinds_by_oid
from lakehouse.ingest.sources.postgres.failures import Dropped
from lakehouse.ingest.sources.postgres.sessions import AdbcSession, WireSession
from lakehouse.ingest.sources.postgres.snapshot import Snapshot
from lakehouse.ingest.sources.postgres.wire import CopyStream, RowBytes

TYPES = (
    "int8 bool text float8 int2 date timestamp bytea timestamptz time uuid varchar float4 int4 tid json"
).split()
VALUES = {
    "int8": "(r * 9e18)::int8",
    "bool": "r > 0.5",
    "text": "repeat('ü', (r * 40)::int)",
    "float8": "r",
    "int2": "(r * 30000)::int2",
    "date": "date '0001-01-01' + (r * 2000000)::int",
    "timestamp": "timestamp '4713-01-01 BC' + r * interval '290000 years'",
    "timestamptz": "timestamptz '1900-01-01 00:00+00' + r * interval '300 years'",
    "bytea": "decode(repeat('00', (r * 20)::int), 'hex')",
    "time": "time '00:00' + r * interval '23:59:59'",
    "uuid": "md5(r::text)::uuid",
    "varchar": "left(md5(r::text), (r * 32)::int)::varchar",
    "float4": "r::float4",
    "int4": "(r * 2e9)::int4",
    "tid": "('(' || (r * 4e9)::int8 || ',' || (r * 60000)::int || ')')::tid",
    "json": "to_json(r::text)",
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    running = start_postgres()
    yield running
    running.stop()


@pytest.fixture
def snapshot(postgres: Postgres) -> Iterator[Snapshot]:
    found = Snapshot(Dsn.parse(postgres.database().replace("+psycopg", "")))
    found.open([], lambda: False)
    with closing(found):  # type: ignore[type-var]
        assert found.is_bare
        yield found


def read(snapshot: Snapshot, kind: type[WireSession | AdbcSession], sql: str, batch_bytes: int) -> pa.Table:
    with closing(kind(snapshot.dsn, snapshot.id, batch_bytes)) as session:
        batches = list(session.batches(sql, "t"))
    assert batches
    return pa.Table.from_batches(batches).combine_chunks()


def told(table: pa.Table) -> list[list[object]]:
    columns = []
    for column in table.columns:
        values = column.chunk(0)
        values = values.storage if isinstance(values.type, pa.ExtensionType) else values
        if pa.types.is_temporal(values.type):
            values = values.view(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
        columns.append(values.to_pylist())
    return columns


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_that_the_driver_gives(snapshot: Snapshot, seed: int) -> None:
    chance = random.Random(seed)
    types = chance.sample(TYPES * 3, chance.randrange(1, 30))
    nulls = chance.choice([0.0, 0.0, 0.01, 0.5])
    items = ", ".join(
        f"CASE WHEN random() >= {nulls if chance.random() < 0.5 else 0} THEN {VALUES[kind]} END AS c{n}"
        for n, kind in enumerate(types)
    )
    rows = f"SELECT random() AS r, random(), n FROM generate_series(1, {chance.choice([1, 300, 5000])}) n"
    # The same values for both: a seed counts for one session's statement.
    sql = f"SELECT {items} FROM (SELECT setseed(0.5)) s, LATERAL ({rows} OFFSET 0) t"
    batch_bytes = chance.choice([1_000, 50_000, 8 << 20])
    ours = read(snapshot, WireSession, sql, batch_bytes)
    assert told(ours) == told(read(snapshot, AdbcSession, sql, 1 << 20))


def test_numbers_are_those_that_their_text_names(snapshot: Snapshot) -> None:
    chance = random.Random(7)
    for precision, scale in ((18, 0), (18, 18), (18, 5), (18, 9), (12, 2), (1, 0), (1, 1), (5, -3), (17, 1)):
        most = 10**precision
        values: list[int | None] = [0, 1, -1, 9, -10, most - 1, 1 - most, most // 10, None]
        values += [chance.randrange(most) // 10 ** chance.randrange(precision) for _ in range(200)]
        values = [v for v in values if v is None or abs(v) < most]
        written = ", ".join("(NULL)" if v is None else f"({v}e{-scale})" for v in values)
        rows = f"SELECT v::numeric({precision},{scale}) AS v FROM (VALUES {written}) t(v)"
        with closing(WireSession(snapshot.dsn, snapshot.id, 1_000)) as session:
            batches = list(session.batches(f"SELECT v, v::text, 7 FROM ({rows}) t", "t"))
        wanted = pa.decimal128(19, max(scale, 0))
        found = pa.concat_arrays([batch.column(0).cast(wanted) for batch in batches])
        assert found.equals(pa.concat_arrays([batch.column(1).cast(wanted) for batch in batches]))
        assert len(found) == len(values)


def test_a_row_larger_than_a_batch_comes_whole_between_others(snapshot: Snapshot) -> None:
    sql = "SELECT n, repeat(n::text, CASE n WHEN 3 THEN 2000000 ELSE 10 END) FROM generate_series(1, 5) n"
    table = read(snapshot, WireSession, sql, 4_000)
    assert table.column(0).to_pylist() == [1, 2, 3, 4, 5]
    assert [len(text.as_py()) for text in table.column(1)] == [10, 10, 2_000_000, 10, 10]


def test_no_rows_and_errors_leave_the_session_as_it_was(snapshot: Snapshot) -> None:
    with closing(WireSession(snapshot.dsn, snapshot.id, 1_000)) as session:
        assert list(session.batches("SELECT 1 WHERE false", "t")) == []
        assert session.pid
        (batch,) = session.batches("SELECT 'Z'::text || repeat(' ', 5), NULL::int4, NULL::text", "t")
        assert [column.to_pylist() for column in batch.columns] == [["Z     "], [None], [None]]
        with pytest.raises(InvalidRequest, match="division by zero"):
            list(session.batches("SELECT 1 / (n - 900) FROM generate_series(1, 2000) n", "t"))


def test_a_server_that_goes_away_is_told_from_one_that_refuses(snapshot: Snapshot) -> None:
    with closing(WireSession(snapshot.dsn, snapshot.id, 1_000)) as session:
        rows = session.batches("SELECT n, pg_sleep(0.001)::text FROM generate_series(1, 100000) n", "t")
        next(rows)
        with psycopg.connect(snapshot.dsn.conninfo()) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [session.pid])
        with pytest.raises(Dropped, match="terminating connection"):
            list(rows)


def test_what_no_server_would_send_is_refused_and_never_read_beyond_its_end() -> None:
    """Rows with lengths that lead out of them, of too few columns, and cut off."""
    oids = kinds_by_oid()
    reader = RowReader([oids[17], oids[23]])
    good = struct.pack(">hi3sii", 2, 3, b"abc", 4, 7)
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(good)
        content[chance.randrange(len(content))] = chance.randrange(256)
        memory = bytearray(4096 + len(content))
        memory[: len(content)] = content
        ends = pa.array([len(content)]).to_numpy()
        try:
            batch = reader.batch(RowBytes(memory, ends - len(content), ends))
        except psycopg.DataError:
            refused += 1
        else:
            assert len(batch.column(0).to_pylist()[0] or "xxx") <= 3
    assert refused > 100


def test_answers_that_do_not_add_up_are_refused() -> None:
    """A server that sends two rows and says that it was three."""

    def message(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack(">I", len(content) + 4) + content

    row = struct.pack(">hii", 1, 4, 7)
    answer = message(b"H", b"\1\0\1\0\1") + message(b"d", b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + row)
    answer += message(b"d", row) + message(b"d", b"\xff\xff") + message(b"c", b"")
    answer += message(b"C", b"COPY 3\0") + message(b"Z", b"I")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    thread = threading.Thread(target=lambda: theirs.sendall(answer), daemon=True)
    thread.start()

    class Connection:
        class pgconn:  # noqa: N801
            socket = ours.fileno()

    stream = CopyStream(Connection(), "COPY t", 1_000)  # type: ignore[arg-type]
    with pytest.raises(psycopg.DataError, match="2 rows arrived"):
        list(stream.rows())
    thread.join()
    ours.close()
    theirs.close()
