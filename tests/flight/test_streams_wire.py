"""Results on the wire: schemas that hold what they promise, messages of bounded size, cancellation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from wire import action, bare, bare_action, command, query, unwrapped, wrapped

from flight_server.protocol.messages import flight_class

MIB = 1 << 20
LONG = "select sum(a.range * b.range) from range(10000000) a, range(1000000) b"
EVERY_TYPE = """
select true as b, 1::tinyint as i8, 1::smallint as i16, 1::int as i32, 1::bigint as i64,
  1::utinyint as u8,
  1::ubigint as u64, 1::hugeint as huge,
  1.5::float as f, 1.5::double as d, 1.25::decimal(9, 2) as dec,
  'é💡' as s, 'x'::blob as bin, date '2020-01-01' as day, time '01:02:03' as clock,
  timestamp '2020-01-01 01:02:03.456789' as ts, timestamptz '2020-01-01 00:00:00+00' as tstz,
  timestamp_ns '2020-01-01 00:00:00' as ns, interval 1 month as iv,
  [1, null] as l, {'a': 1, 'b': [null]} as st,
  map {'k': 1} as m, [1, 2]::int[2] as arr, uuid '00000000-0000-0000-0000-000000000001' as u,
  'a'::enum('a', 'b') as e, ['a'::enum('a', 'b')] as el, '{"x": 1}'::json as j, null as n, '101'::bit as bits
"""


@pytest.mark.parametrize(
    "sql",
    [
        EVERY_TYPE,
        f"select * from ({EVERY_TYPE}) where false",
        "select * from nyc.flights limit 3",
        "select count(*), sum(distance), avg(distance), max(time_hour) from nyc.flights",
        "show tables",
        "describe nyc.flights",
        "summarize nyc.airlines",
        "explain select 1",
        "select 1 as a, 2 as a",
    ],
)
def test_the_promised_schema_is_the_streams_schema(server, sql):
    with server.client() as client:
        described = client.get_schema(command("CommandStatementQuery", query=sql)).schema
        info = client.get_flight_info(command("CommandStatementQuery", query=sql))
        reader = client.do_get(info.endpoints[0].ticket)
        assert reader.schema.equals(info.schema), (reader.schema, info.schema)
        assert described.equals(info.schema)
        reader.read_all().validate(full=True)


def test_messages_stay_under_four_mebibytes(server):
    wide = "select " + ", ".join(f"repeat('x', 3000) as c{i}" for i in range(20)) + " from range(2000)"
    skewed = "select case when range % 1000 = 0 then repeat('y', 500000) else 'y' end as v from range(20000)"
    lists = "select range(20000) as l from range(200)"
    with server.client() as client:
        for sql, rows in ((wide, 2000), (skewed, 20000), (lists, 200)):
            info = client.get_flight_info(command("CommandStatementQuery", query=sql))
            seen = 0
            for chunk in client.do_get(info.endpoints[0].ticket):
                assert chunk.data.nbytes < 4 * MIB
                seen += chunk.data.num_rows
            assert seen == rows


def test_an_empty_result_has_its_schema_and_no_rows(server):
    with server.client() as client:
        table = query(client, "select 1 as a, 'x' as b where false")
    assert table.num_rows == 0
    assert table.schema.names == ["a", "b"]


def test_a_ticket_can_be_fetched_again_until_it_expires(server):
    with server.client() as client:
        info = client.get_flight_info(command("CommandStatementQuery", query="select 42 as x"))
        endpoint = info.endpoints[0]
        assert endpoint.expiration_time is not None
        for _ in range(2):
            assert client.do_get(endpoint.ticket).read_all().to_pydict() == {"x": [42]}
        request = flight_class("RenewFlightEndpointRequest")()
        request.endpoint.ticket.ticket = endpoint.ticket.ticket
        (renewed,) = bare_action(client, "RenewFlightEndpoint", request)
        moment = bare(renewed, "FlightEndpoint").expiration_time.ToDatetime()
        assert moment.timestamp() > 0


def test_a_statement_that_changes_something_runs_once_when_asked_for(server):
    with server.client() as client:
        info = client.get_flight_info(
            command("CommandStatementQuery", query="create temp table once as select 1 as a")
        )
        assert client.do_get(info.endpoints[0].ticket).read_all().to_pydict() == {"Count": [0]}
        table = query(client, "insert into once values (2), (3) returning a")
        assert table.to_pydict() == {"a": [2, 3]}
        assert query(client, "select count(*) as n from once").to_pydict() == {"n": [3]}


@pytest.mark.parametrize("name", ["CancelFlightInfo", "CancelQuery"])
def test_a_running_statement_is_cancelled(server, name):
    with server.client() as client, server.client() as other:
        info = client.get_flight_info(command("CommandStatementQuery", query=LONG))
        failures: list[BaseException] = []

        def read() -> None:
            try:
                client.do_get(info.endpoints[0].ticket).read_all()
            except Exception as error:  # noqa: BLE001 - looked at below
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        wait_for(server, 1)
        if name == "CancelFlightInfo":
            request = flight_class("CancelFlightInfoRequest")()
            request.info.ParseFromString(info.serialize())
            (result,) = bare_action(other, name, request)
            assert bare(result, "CancelFlightInfoResult").status == 1
        else:
            (result,) = action(other, name, "ActionCancelQueryRequest", info=info.serialize())
            assert unwrapped(result, "ActionCancelQueryResult").result == 1
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert isinstance(failures[0], flight.FlightCancelledError)
        assert "[CANCELLED]" in str(failures[0])


def running(server) -> int:
    with server.client() as client:
        (result,) = client.do_action(flight.Action("server.status", b"{}"))
    return int(json.loads(result.body.to_pybytes())["running_statements"])


def wait_for(server, count: int) -> None:
    deadline = time.monotonic() + 60
    while running(server) != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("sql", [LONG, "select range, range * 2 as b from range(10000000000)"])
def test_a_client_that_is_killed_frees_its_statement(server, sql):
    program = (
        "import pyarrow.flight as f; from wire import command; "
        f"c = f.connect({server.uri!r}); "
        f"i = c.get_flight_info(command('CommandStatementQuery', query={sql!r}))\n"
        "for chunk in c.do_get(i.endpoints[0].ticket): pass"
    )
    here = str(Path(__file__).parent)
    client = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": here})
    try:
        wait_for(server, 1)
    finally:
        client.kill()
        client.wait()
    wait_for(server, 0)


def test_a_statement_is_stopped_when_its_time_is_up(tmp_path):
    from conftest import start_server

    server = start_server(tmp_path, "[limits]\nstatement_timeout_seconds = 1\n")
    try:
        with (
            server.client() as client,
            pytest.raises(flight.FlightTimedOutError, match="STATEMENT_TIMEOUT"),
        ):
            query(client, LONG)
    finally:
        assert server.stop() == 0


def test_memory_stays_flat_while_a_large_result_is_read_slowly(server):
    process = psutil.Process(server.process.pid)
    sql = "select range as a, range * 2 as b, range::double as c, range % 7 as d from range(20000000)"
    with server.client() as client:
        info = client.get_flight_info(command("CommandStatementQuery", query=sql))
        before, peak, rows = process.memory_info().rss, 0, 0
        for index, chunk in enumerate(client.do_get(info.endpoints[0].ticket)):
            rows += chunk.data.num_rows
            if index % 20 == 0:
                peak = max(peak, process.memory_info().rss)
    assert rows == 20_000_000
    assert peak - before < 200 * MIB


def test_sessions_open_statements_at_once(server):
    with server.client() as client:
        streams = []
        for start in range(4):
            sql = f"select range + {start} as x from range(1000000)"
            info = client.get_flight_info(command("CommandStatementQuery", query=sql))
            streams.append((start, client.do_get(info.endpoints[0].ticket)))
        first = [(start, reader, reader.read_chunk().data.column(0)[0].as_py()) for start, reader in streams]
        for start, reader, value in first:
            assert value == start
            assert reader.read_all().num_rows > 0


def test_a_ticket_that_is_not_the_servers_own_is_refused(server):
    with server.client() as client:
        ticket = flight.Ticket(wrapped("CommandStatementQuery", query="select 1"))
        with pytest.raises(pa.ArrowNotImplementedError, match="ticket from GetFlightInfo"):
            client.do_get(ticket).read_all()
