"""What no client sends: the server must say no, survive, and go on giving honest clients right answers."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator

import pyarrow as pa
import pytest
from faults.lies import all_lies
from faults.raw_flight import (
    METHODS,
    Message,
    RawFlight,
    action,
    chunk,
    command_descriptor,
    ingest,
    messages,
    path_descriptor,
    ticket,
    upload,
)
from faults.victim import CONFIG, Victim, close_session, start_victim, wait_until
from wire import unwrapped, wrapped

from flight_server.protocol.messages import flight_class

LIES = all_lies()
MIB = 1 << 20


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Victim]]:
    holder = [start_victim(tmp_path_factory.mktemp("hostile") / "server")]
    yield holder
    assert holder[0].server.stop() == 0, "".join(holder[0].server.log[-20:])


@pytest.fixture
def victim(attacked: list[Victim]) -> Victim:
    """The server; a fresh one where the test before ended it."""
    if attacked[0].server.process.poll() is not None:
        attacked[0] = start_victim(attacked[0].directory)
    return attacked[0]


def prepared(client: RawFlight, sql: str) -> bytes:
    """The command that binds and runs a prepared statement."""
    request = wrapped("ActionCreatePreparedStatementRequest", query=sql)
    answer = client.call("DoAction", [action(b"CreatePreparedStatement", request)])
    (result,) = answer.messages
    body = flight_class("Ticket").FromString(result).ticket  # Result and Ticket look the same on the wire
    handle = unwrapped(body, "ActionCreatePreparedStatementResult").prepared_statement_handle
    return wrapped("CommandPreparedStatementQuery", prepared_statement_handle=handle)


def read_back(client: RawFlight, victim: Victim, sql: str, what: str) -> None:
    """Run a query and read some of it; whatever was stored must not hurt who reads it."""
    descriptor = command_descriptor(wrapped("CommandStatementQuery", query=sql))
    answer = client.call("GetFlightInfo", [descriptor])
    victim.check(answer, f"{what}, described")
    if answer.status == "OK":
        (endpoint,) = flight_class("FlightInfo").FromString(answer.messages[0]).endpoint
        victim.check(client.call("DoGet", [ticket(endpoint.ticket.ticket)], most=10), f"{what}, read back")


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_upload_is_refused_or_stored_as_it_is_wherever_it_goes(victim, lie):
    table = "t_" + re.sub(r"\W", "_", lie.lower())
    with RawFlight(victim.port) as client:
        for temporary in (True, False):
            descriptor = ingest(table, temporary=temporary)
            answer = client.call("DoPut", upload(descriptor, LIES[lie]))
            victim.check(answer, f"{lie} into a {'temporary' if temporary else 'lake'} table")
            if answer.status == "OK":
                read_back(client, victim, f"select * from {table}", lie)
            if temporary:
                close_session(client)
        statement = prepared(client, "select ? as v")
        descriptor = command_descriptor(statement)
        answer = client.call("DoPut", upload(descriptor, LIES[lie]))
        victim.check(answer, f"{lie} as parameters")
        victim.check(client.call("GetFlightInfo", [descriptor]), f"{lie} as parameters, executed")
        close_session(client)


def test_honest_clients_get_right_answers_after_all_the_lies(victim):
    victim.check_honest()


def sharing() -> dict[str, pa.Array]:
    """Arrays of a few bytes that stand for values without end."""
    count = 100_000
    long = pa.array(["x" * 1_000_000])
    short_list = pa.array([list(range(10_000))], pa.list_(pa.int64()))
    zeros, all_of_it = pa.array([0] * count, pa.int32()), pa.array([10_000] * count, pa.int32())
    views = pa.ListViewArray.from_arrays(zeros, all_of_it, short_list.flatten())
    return {
        "dictionary": pa.DictionaryArray.from_arrays(zeros, long),
        "dictionary_of_lists": pa.DictionaryArray.from_arrays(zeros, short_list),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), long),
        "runs_of_nulls": pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.nulls(1)),
        "views": views,
        "lists_of_nulls": pa.Array.from_buffers(
            pa.list_(pa.null()),
            1,
            [None, pa.array([0, 2**31 - 1], pa.int32()).buffers()[1]],
            children=[pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])],
        ),
    }


@pytest.mark.parametrize("name", sharing())
@pytest.mark.parametrize("temporary", [True, False])
def test_a_few_bytes_that_stand_for_gigabytes_are_refused(victim, name, temporary):
    batch = pa.record_batch({"v": sharing()[name]})
    stream = messages(batch.schema, [batch])
    assert sum(len(message.body) for message in stream) < 4 * MIB
    before = victim.process.memory_info().rss
    with RawFlight(victim.port) as client:
        answer = client.call("DoPut", upload(ingest(f"bomb_{name}", temporary=temporary), stream))
        assert "[LIMIT_EXCEEDED]" in answer.text, answer
        victim.check(answer, name)
        close_session(client)
    assert victim.process.memory_info().rss - before < 256 * MIB


def test_an_upload_that_is_larger_once_decompressed_than_a_message_may_be_is_refused(victim):
    batch = pa.record_batch({"v": pa.repeat(0, 10_000_000)})
    stream = messages(batch.schema, [batch], pa.ipc.IpcWriteOptions(compression="zstd"))
    assert len(stream[1].body) < MIB
    with RawFlight(victim.port) as client:
        answer = client.call("DoPut", upload(ingest("inflated"), stream))
        assert "[LIMIT_EXCEEDED]" in answer.text, answer
        victim.check(answer, "inflated")


def zstd_of_zeros(size: int) -> bytes:
    """A zstd frame of so many zero bytes, a multiple of 128 KiB."""
    block, whole = 1 << 17, size >> 17
    header = b"\x28\xb5\x2f\xfd" + bytes((0b1100_0000, 7 << 3)) + struct.pack("<Q", size)
    run = struct.pack("<I", block << 3 | 1 << 1)[:3] + b"\0"
    return header + run * (whole - 1) + struct.pack("<I", block << 3 | 1 << 1 | 1)[:3] + b"\0"


def test_a_message_that_unpacks_to_more_memory_than_arrow_may_take_is_refused(tmp_path):
    """Arrow unpacks it before the server sees it, so the size of a message is no bound."""
    rng, rows = random.Random(1), (3 << 30) // 8
    batch = pa.record_batch({"v": pa.array([rng.randrange(1 << 40) for _ in range(1237)])})
    schema, honest = messages(batch.schema, [batch], pa.ipc.IpcWriteOptions(compression="zstd"))
    body = struct.pack("<q", rows * 8) + zstd_of_zeros(rows * 8)
    body += bytes(-len(body) % 8)
    header = honest.header.replace(struct.pack("<q", 1237), struct.pack("<q", rows))
    for length in range(len(honest.body) - 7, len(honest.body) + 1):
        header = header.replace(struct.pack("<q", length), struct.pack("<q", len(body)))
    victim = start_victim(tmp_path / "server", CONFIG, MIMALLOC_RESERVE_OS_MEMORY="1GiB")
    try:
        with RawFlight(victim.port) as client:
            answer = client.call("DoPut", upload(ingest("bomb"), [schema, Message(header, body)]))
        assert "[LIMIT_EXCEEDED]" in answer.text, answer
        assert victim.process.memory_info().rss < 1200 * MIB
        victim.check_honest()
        assert victim.server.stop() == 0
    finally:
        if victim.server.process.poll() is None:
            victim.server.kill()


def test_a_query_takes_a_bounded_number_of_parameter_rows(victim):
    batch = pa.record_batch({"v": pa.nulls(2_000_000)})
    with RawFlight(victim.port) as client:
        descriptor = command_descriptor(prepared(client, "select ? as v"))
        answer = client.call("DoPut", upload(descriptor, messages(batch.schema, [batch])))
        assert "[LIMIT_EXCEEDED]" in answer.text, answer
        victim.check(answer, "parameters")
        close_session(client)


def test_an_upload_whose_client_vanishes_stores_nothing(victim):
    batch = pa.record_batch({"v": pa.array(range(1000))})
    schema, rows = messages(batch.schema, [batch])
    with RawFlight(victim.port) as client:

        def endless() -> Iterator[bytes]:
            yield schema.flight_data(ingest("half"))
            for _ in range(50):
                yield rows.flight_data()
            raise ConnectionError("vanished")

        client.call("DoPut", endless(), timeout_s=10)
    with RawFlight(victim.port) as client:
        descriptor = command_descriptor(wrapped("CommandStatementQuery", query="select * from half"))
        assert "[TABLE_NOT_FOUND]" in client.call("GetFlightInfo", [descriptor]).text


# -- messages that are no messages --------------------------------------------------------------------------

DEEP = b""
for _ in range(5000):
    DEEP = chunk(3, DEEP)
GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "text": b"select 1",
    "deep": DEEP,
    "declares_much": chunk(2, b"x", declared=1 << 40),
    "declares_negative": chunk(2, b"x", declared=(1 << 64) - 1),
    "group_without_end": b"\x0b" * 1000,
    "any_in_any": wrapped("CommandStatementQuery", query="select 1") * 200,
    "mib": b"\n" + b"\xa5" * MIB,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused_by_every_method(victim, method, garbage):
    data = GARBAGE[garbage]
    wrappings = {
        "bare": data,
        "command": command_descriptor(data),
        "path": path_descriptor(data),
        "ticket": ticket(data),
        "action": action(b"CreatePreparedStatement", data),
        "kind": action(data, data),
        "upload": Message(data, data).flight_data(command_descriptor(data)),
    }
    with RawFlight(victim.port) as client:
        for name, message in wrappings.items():
            answer = client.call(method, [message], timeout_s=10)
            if answer.status == "INTERNAL" and "[" not in answer.text[:1]:
                continue  # gRPC's own: the message is not the protobuf message it should be
            victim.check(answer, f"{method} of {garbage} as {name}")


@pytest.mark.parametrize(
    "parts",
    [
        [b"x"] * 10_000,
        [b""],
        [],
        ["💣".encode() * 1000],
        [b"\xff\xfe"],
        [b"lake", b"main", b"honest\0"],
        [b"..", b"..", b"etc"],
        [b"lake", b"main", b"x" * MIB],
    ],
    ids=["many", "empty", "none", "unicode", "not_utf8", "nul", "dots", "long"],
)
def test_strange_paths_are_refused(victim, parts):
    with RawFlight(victim.port) as client:
        for method in ("GetFlightInfo", "GetSchema"):
            answer = client.call(method, [path_descriptor(*parts)])
            if answer.status == "INTERNAL" and "[" not in answer.text[:1]:
                continue
            victim.check(answer, method)
            assert answer.status != "OK"


# -- SQL ---------------------------------------------------------------------------------------------------

SQL: dict[str, str] = {
    "many_terms": "select " + "+".join(["1"] * 100_000),
    "many_conditions": "select 1 where " + " or ".join(f"{i} = {i + 1}" for i in range(10_000)),
    "many_columns": "select " + ", ".join(f"{i} as c{i}" for i in range(5000)),
    "many_parentheses": "select " + "(" * 50_000 + "1" + ")" * 50_000,
    "many_subqueries": "select * from " + "(select * from " * 2000 + "honest" + ")" * 2000,
    "many_brackets": "select " + "[" * 20_000 + "]" * 20_000,
    "many_statements": "select 1;" * 10_000,
    "many_unions": " union all ".join(["select 1"] * 500),
    "many_ctes": "with " + ", ".join(f"c{i} as (select 1)" for i in range(500)) + " select 1",
    "many_joins": "select count(*) from " + ", ".join(f"honest h{i}" for i in range(200)),
    "many_in": "select 1 where 1 in (" + ", ".join(["2"] * 10_000) + ")",
    "many_cases": "select " + "case when true then " * 5000 + "1" + " end" * 5000,
    "many_casts": "select 1" + "::int" * 10_000,
    "many_nots": "select " + "not " * 100_000 + "true",
    "many_minus": "select " + "- " * 100_000 + "1",
    "many_comments": "/*" * 100_000 + "*/" * 100_000 + " select 1",
    "long_name": f'select 1 as "{"n" * 900_000}"',
    "long_text": f"select length('{'t' * 900_000}') as n",
    "too_long": f"select length('{'t' * 20_000_000}') as n",
    "nul": "select 1\0; drop table honest",
    "only_nul": "\0",
    "controls": "".join(map(chr, range(1, 32))),
    "unfinished": "select 'a",
    "dollars": "select $$" * 1000,
    "parameters": "select " + ", ".join(["?"] * 500),
    "huge_number": "select " + "9" * 100_000,
    "huge_interval": "select interval '" + "9" * 1000 + " years'",
    "huge_range": "select * from range(9223372036854775807)",
    "huge_result": "select repeat('x', 100000000)",
    "huge_list": "select range(1000000)",
    "huge_pad": "select lpad('x', 100000000, 'y')",
    "bits": "select bitstring('1', 100000000)",
    "regex": "select regexp_matches(repeat('a', 100000), '(a*)*(a*)*(a*)*b')",
    "pattern": "select repeat('a', 100000) like repeat('%a', 5000) || 'b'",
    "recursion": "with recursive r as (select 1 as i union all select i + 1 from r) select count(*) from r",
    "cross_join": "select count(*) from honest a, honest b, honest c, honest d",
    "right_to_left": "select '\u202e' as \u202ex",
    "unicode": "sélect 💣",
    "lone_quote": '"',
    "backslashes": "select e'\\x00\\uD800'",
    "json": "select json('" + "[" * 100_000 + "]" * 100_000 + "')",
    "json_path": "select '{}'->'$" + "[0]" * 50_000 + "'",
    "struct": "select " + "{'a': " * 3000 + "1" + "}" * 3000,
    "typed": "select null::" + "struct(a " * 2000 + "int" + ")" * 2000,
    "lambdas": "select " + "list_transform([1], lambda x: " * 500 + "1" + ")" * 500,
    "macro": "create temp macro m(x) as m(x); select m(1)",
    "view": "create or replace temp view v as select * from v; select * from v",
    "enum": "select 'a'::enum(" + ", ".join(f"'{i}'" for i in range(10_000)) + ")",
    "format": "select printf('%" + "9" * 100 + "d', 1), format('{:" + "9" * 100 + "}', 1)",
    "pivot": "pivot honest on s using sum(k)",
    "dates": "select date '999999999-01-01' - date '-999999999-01-01', make_date(2147483647, 1, 1)",
}


@pytest.mark.parametrize("name", SQL)
def test_extreme_sql_is_answered_or_refused_in_time(victim, name):
    with RawFlight(victim.port) as client:
        descriptor = command_descriptor(wrapped("CommandStatementQuery", query=SQL[name]))
        read_back(client, victim, SQL[name], name)
        victim.check(client.call("GetSchema", [descriptor]), f"{name}, schema")
        request = wrapped("ActionCreatePreparedStatementRequest", query=SQL[name])
        victim.check(
            client.call("DoAction", [action(b"CreatePreparedStatement", request)]), f"{name}, prepared"
        )
        close_session(client)


@pytest.mark.parametrize("tail", [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"])
def test_sql_that_is_not_utf8_is_refused(victim, tail):
    body = chunk(1, b"select '" + tail + b"' as x")
    url = b"type.googleapis.com/arrow.flight.protocol.sql."
    with RawFlight(victim.port) as client:
        for name in (b"CommandStatementQuery", b"CommandStatementUpdate"):
            descriptor = command_descriptor(chunk(1, url + name) + chunk(2, body))
            answer = client.call("GetFlightInfo", [descriptor])
            assert answer.status in {"INVALID_ARGUMENT", "UNIMPLEMENTED"}, answer
            victim.check(answer, "not UTF-8")


# -- JSON --------------------------------------------------------------------------------------------------

JSON: dict[str, bytes] = {
    "deep_list": b"[" * 1_000_000,
    "deep_object": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep_value": b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "huge_number": b'{"limit": ' + b"9" * 1_000_000 + b', "path": ["honest"], "name": 1e999999}',
    "nan": b'{"name": NaN, "path": [NaN], "limit": -Infinity}',
    "duplicates": b'{"name": "a", "name": "b", "path": ["a"], "path": ["honest"]}',
    "long_text": b'{"name": "' + b"x" * (15 * MIB) + b'"}',
    "surrogates": b'{"name": "\\ud800", "path": ["\\ud800"], "table": "\\ud800"}',
    "nul": b'{"name": "\\u0000", "path": ["\\u0000"], "table": "\\u0000"}',
    "not_utf8": b'{"name": "\xff"}',
    "many_keys": b"{" + b", ".join(b'"k%d": %d' % (i, i) for i in range(100_000)) + b"}",
    "list": b"[1, 2]",
    "number": b"1",
    "null": b"null",
    "utf16": '{"name": "nyc"}'.encode("utf-16"),
    "filter": b'{"path": ["honest"], "filter": "1) union select * from read_text(\'/etc/passwd\') --"}',
    "deep_filter": b'{"path": ["honest"], "filter": "' + b"(" * 50_000 + b'"}',
    "files": b'{"path": ["honest"], "files": [-5, 99999999999999999999]}',
    "wide_files": b'{"path": ["honest"], "files": [0, 4611686018427387904]}',
    "snapshot": b'{"path": ["honest"], "snapshot": 99999999999999999999999999}',
    "limit": b'{"path": ["honest"], "limit": 99999999999999999999999999}',
    "columns": b'{"path": ["honest"], "columns": ["k\\u0000", "\\"; drop table honest"]}',
}
ACTIONS = (
    b"samples.load server.status actions.describe catalog.snapshots catalog.declare_keys admin.sessions "
    b"admin.statements admin.kill auth.create_key CancelFlightInfo SetSessionOptions no.such.action"
).split()


@pytest.mark.parametrize("name", JSON)
def test_json_bombs_are_refused(victim, name):
    with RawFlight(victim.port) as client:
        for kind in ACTIONS:
            answer = client.call("DoAction", [action(kind, JSON[name])])
            victim.check(answer, f"{kind!r} with {name}")
        victim.check(client.call("DoGet", [ticket(JSON[name])]), f"ticket {name}")
        victim.check(client.call("ListFlights", [ticket(JSON[name])]), f"criteria {name}")


def test_the_attacks_leave_no_threads_and_no_statements_behind(victim):
    victim.check_honest()
    wait_until(lambda: victim.process.num_threads() < 80, lambda: f"{victim.process.num_threads()} threads")
