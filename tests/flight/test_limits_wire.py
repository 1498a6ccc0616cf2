"""Bounds as clients meet them: a clear message naming the limit, nothing left behind, the server alive."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import start_server
from wire import call, command, query

LONG = "select sum(a.range * b.range) from range(10000000) a, range(1000000) b"
# Sent by a process of its own, which can be killed; it says when it waits for the first rows.
CLIENT = """
import sys
sys.path.insert(0, sys.argv[1])
from wire import command
import pyarrow.flight as flight
client = flight.connect(sys.argv[2])
info = client.get_flight_info(command("CommandStatementQuery", query=sys.argv[3]))
print("waiting", flush=True)
reader = client.do_get(info.endpoints[0].ticket)
reader.read_chunk()
print("stalled", flush=True)
sys.stdin.read()
"""
CONFIG = """
[auth]
anonymous_role = "admin"

[engine]
memory_limit = "300MB"
spill_limit = "100MB"

[limits]
concurrent_statements = 1
queued_statements = 1
queue_seconds = 6
statement_timeout_seconds = 60
result_bytes = 50_000_000
request_bytes = 100_000
statement_bytes = 10_000
statement_memory = "100MB"
"""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """A server with narrow limits."""
    running = start_server(tmp_path_factory.mktemp("bounded"), CONFIG)
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


def until(condition, what):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"never: {what}")


def statements(server, **request):
    with server.client() as client:
        return call(client, "admin.statements", request)["statements"]


def running_count(server):
    return sum(len(statements(server, state=state)) for state in ("running", "queued"))


def idle(server):
    """Whether the server's process uses next to no CPU."""
    return psutil.Process(server.process.pid).cpu_percent(interval=0.3) < 30


class Busy:
    """A statement at work in a thread, and what became of it."""

    def __init__(self, server, sql=LONG):
        self.error = None
        self._server, self._sql = server, sql
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            with self._server.client() as client:
                query(client, self._sql)
        except pa.ArrowException as error:
            self.error = error


@pytest.fixture
def busy(bounded):
    """The only place of the server taken by a statement that takes long."""
    until(lambda: running_count(bounded) == 0, "the server is idle")
    statement = Busy(bounded)
    until(lambda: statements(bounded, state="running"), "the statement runs")
    yield statement
    for item in statements(bounded, state="running") + statements(bounded, state="queued"):
        with bounded.client() as client:
            call(client, "admin.kill", {"statement_id": item["statement_id"]})
    statement.thread.join(30)
    until(lambda: running_count(bounded) == 0, "everything has ended")


def client_process(server, sql):
    """A client in a process of its own, and its first word."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(Path(__file__).parent), server.uri, sql],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


def kill_process(process):
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdin.close()
    process.stdout.close()


def test_a_full_server_says_so_after_the_stated_wait_or_at_once(bounded, busy):
    waiting = Busy(bounded, "select 1")
    until(lambda: statements(bounded, state="queued"), "the second waits")
    with bounded.client() as client:
        with pytest.raises(flight.FlightUnavailableError) as caught:
            query(client, "select 2")
        assert "[LIMIT_EXCEEDED] 1 statements are running and 1 wait" in str(caught.value)
        assert "limits.queued_statements" in str(caught.value)
    waiting.thread.join(30)
    assert "waited 6 s for one of 1 places" in str(waiting.error)
    assert "limits.queue_seconds" in str(waiting.error)


def test_metadata_and_actions_need_no_place(bounded, busy):
    with bounded.client() as client:
        info = client.get_flight_info(command("CommandGetTables", include_schema=False))
        assert client.do_get(info.endpoints[0].ticket).read_all().num_rows > 0
        assert call(client, "server.status")["running_statements"] == 1
        assert client.get_schema(command("CommandStatementQuery", query="select 1 as x")).schema.names == [
            "x"
        ]


def test_a_client_killed_at_work_frees_everything(bounded):
    until(lambda: running_count(bounded) == 0, "the server is idle")
    process = client_process(bounded, LONG)
    until(lambda: statements(bounded, state="running"), "the statement runs")
    (item,) = statements(bounded, state="running")
    kill_process(process)
    until(lambda: running_count(bounded) == 0, "the statement ends")
    until(lambda: idle(bounded), "the server stops computing")
    ended = next(s for s in statements(bounded) if s["statement_id"] == item["statement_id"])
    assert (ended["state"], ended["code"]) == ("cancelled", "CANCELLED")


def test_a_client_killed_in_the_queue_leaves_it(bounded, busy):
    process = client_process(bounded, "select 3 as x")
    until(lambda: statements(bounded, state="queued"), "the second waits")
    kill_process(process)
    until(lambda: not statements(bounded, state="queued"), "the queue is empty")


def test_a_client_killed_in_the_middle_of_a_result_frees_everything(bounded):
    until(lambda: running_count(bounded) == 0, "the server is idle")
    process = client_process(bounded, "select range as i from range(5000000)")
    assert process.stdout.readline() == "stalled\n"
    kill_process(process)
    until(lambda: running_count(bounded) == 0, "the statement ends")
    with bounded.client() as client:
        assert query(client, "select 1 as x").to_pydict() == {"x": [1]}


def test_a_reader_that_stalls_lends_its_place_and_gets_all_of_its_result(bounded):
    until(lambda: running_count(bounded) == 0, "the server is idle")
    with bounded.client() as slow, bounded.client() as quick:
        info = slow.get_flight_info(
            command("CommandStatementQuery", query="select range from range(6000000)")
        )
        reader = slow.do_get(info.endpoints[0].ticket)
        rows = reader.read_chunk().data.num_rows
        for _ in range(3):
            assert query(quick, "select 1 as x").to_pydict() == {"x": [1]}
        assert rows + reader.read_all().num_rows == 6_000_000


def test_a_result_above_the_limit_ends_with_a_clear_error(bounded):
    with bounded.client() as client:
        info = client.get_flight_info(
            command("CommandStatementQuery", query="select range as i, range as j from range(10000000)")
        )
        reader = client.do_get(info.endpoints[0].ticket)
        with pytest.raises(pa.ArrowException) as caught:
            reader.read_all()
    assert "[LIMIT_EXCEEDED] the result is larger than 50000000 bytes (limits.result_bytes)" in str(
        caught.value
    )
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "select len(list(a.range)) from range(100000000) a",
        "create temp table t as select a.range, hash(a.range) as h, uuid() as u from range(40000000) a",
    ],
)
def test_a_statement_that_needs_too_much_memory_is_refused_and_the_server_lives(bounded, sql):
    with bounded.client() as client:
        with pytest.raises(flight.FlightUnavailableError) as caught:
            query(client, sql)
        assert "[LIMIT_EXCEEDED]" in str(caught.value)
        assert "engine.memory_limit" in str(caught.value)
        assert query(client, "select 1 as x").to_pydict() == {"x": [1]}


def test_too_long_statements_and_requests_are_refused_by_name(bounded):
    with bounded.client() as client:
        for size, limit in ((20_000, "limits.statement_bytes"), (200_000, "limits.request_bytes")):
            with pytest.raises(flight.FlightUnavailableError) as caught:
                query(client, "select '" + "x" * size + "'")
            assert limit in str(caught.value)
        with pytest.raises(flight.FlightUnavailableError) as caught:
            list(client.do_action(flight.Action("admin.kill", b"x" * 200_000)))
        assert "limits.request_bytes" in str(caught.value)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A server whose statements have one second."""
    config = '[auth]\nanonymous_role = "admin"\n[limits]\nstatement_timeout_seconds = 1\n'
    running = start_server(tmp_path_factory.mktemp("hasty"), config)
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


@pytest.mark.parametrize("sql", [LONG, f"create temp table t as {LONG}"])
def test_a_statement_that_ran_out_of_time_stops_using_the_cpu(hasty, sql):
    with hasty.client() as client, pytest.raises(flight.FlightTimedOutError, match="ran longer than 1 s"):
        query(client, sql)
    until(lambda: idle(hasty), "the server stops computing")
    assert running_count(hasty) == 0
    newest = next(s for s in statements(hasty) if s["sql"] == sql)
    assert (newest["state"], newest["code"]) == ("failed", "STATEMENT_TIMEOUT")


def test_a_load_that_ran_out_of_time_leaves_nothing(hasty):
    schema = pa.schema([("x", pa.int64())])
    descriptor = command(
        "CommandStatementIngest",
        table="slow",
        table_definition_options={"if_not_exist": 1, "if_exists": 1},
    )
    with hasty.client() as client:
        writer, _ = client.do_put(descriptor, schema)

        def load():
            for _ in range(300):
                writer.write_batch(pa.record_batch([pa.array([1, 2, 3])], schema))
                time.sleep(0.02)
            writer.close()

        with pytest.raises(flight.FlightTimedOutError, match="ran longer than 1 s"):
            load()
        with pytest.raises(pa.ArrowException, match="TABLE_NOT_FOUND"):
            query(client, "from slow")
    assert running_count(hasty) == 0
    newest = next(s for s in statements(hasty) if s["kind"] == "ingest")
    assert (newest["sql"], newest["code"]) == ("INGEST slow (create)", "STATEMENT_TIMEOUT")
    assert newest["rows"] > 0
