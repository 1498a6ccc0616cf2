"""What operators see and stop: admin actions, system.statements and system.sessions."""

from __future__ import annotations

import threading
import time

import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, start_guarded
from wire import action, bare_action, command, unwrapped

from flight_server.protocol.messages import flight_class

LONG = "select sum(a.range * b.range) from range(10000000) a, range(1000000) b"
PRINCIPALS = {"root": ["admin"], "ann": ["writer"], "bob": ["writer"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with an administrator and two writers."""
    running = start_guarded(tmp_path_factory.mktemp("admin"), "", PRINCIPALS)
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


class Client(Caller):
    """A caller that is told of statements."""

    def rows(self, sql):
        return self.sql(sql).to_pylist()

    def info(self, sql):
        return self.client.get_flight_info(command("CommandStatementQuery", query=sql), self.options)

    def statements(self, **request):
        return self.call("admin.statements", **request)["statements"]


@pytest.fixture
def clients(server):
    """Connections by name of the principal."""
    opened = {name: Client(server, name) for name in PRINCIPALS}
    yield opened
    for client in opened.values():
        client.close()


class Busy:
    """A statement at work in a thread, and what became of it."""

    def __init__(self, client, sql=LONG):
        self.error = None
        self.ended_s = 0.0
        self._client, self._sql = client, sql
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            self._client.sql(self._sql)
        except pa.ArrowException as error:
            self.error = error
        self.ended_s = time.monotonic()


def until(condition, what):
    for _ in range(3000):
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"never: {what}")


def running_of(clients, name):
    return until(lambda: clients["root"].statements(state="running", principal=name), f"{name} runs")


def test_an_administrator_kills_a_statement_whose_client_is_told(server, clients):
    busy = Busy(clients["ann"])
    (item,) = running_of(clients, "ann")
    assert (item["sql"], item["kind"], item["principal"]) == (LONG, "query", "ann")
    assert clients["root"].call("admin.kill", statement_id=item["statement_id"]) == {
        "statements": [item["statement_id"]],
        "session_closed": False,
    }
    busy.thread.join(30)
    assert "[STATEMENT_KILLED] an administrator stopped the statement" in str(busy.error)
    assert "Traceback" not in str(busy.error)
    until(
        lambda: psutil.Process(server.process.pid).cpu_percent(interval=0.3) < 30,
        "the server stops computing",
    )
    (ended,) = clients["root"].statements(session_id=item["session_id"], state="cancelled")
    assert (ended["statement_id"], ended["code"]) == (item["statement_id"], "STATEMENT_KILLED")
    with pytest.raises(KeyError, match="STATEMENT_NOT_FOUND"):
        clients["root"].call("admin.kill", statement_id=item["statement_id"])


def test_an_administrator_kills_a_session_with_all_that_it_runs_and_holds(clients):
    ann = clients["ann"]
    ann.sql("create temp table held as select 1 as x")
    action(ann.client, "BeginTransaction", "ActionBeginTransactionRequest", ann.options)
    busy = Busy(ann)
    (item,) = running_of(clients, "ann")
    (found,) = [
        s
        for s in clients["root"].call("admin.sessions", principal="ann")["sessions"]
        if s["session_id"] == item["session_id"]
    ]
    held = ("transactions", "temporary_tables", "running_statements", "prepared_statements")
    assert [found[name] for name in held] == [1, 1, 1, 0]
    assert (found["roles"], found["method"]) == (["writer"], "token")
    assert found["peer"].startswith("ipv4:127.0.0.1:")
    answer = clients["root"].call("admin.kill", session_id=item["session_id"])
    assert item["statement_id"] in answer["statements"]
    assert answer["session_closed"]
    busy.thread.join(30)
    assert "an administrator stopped the session" in str(busy.error)
    with pytest.raises(pa.ArrowException, match="TABLE_NOT_FOUND"):
        ann.sql("from held")
    with pytest.raises(KeyError, match="SESSION_NOT_FOUND"):
        clients["root"].call("admin.kill", session_id=item["session_id"])


def test_a_statement_killed_before_it_is_fetched_does_not_run(clients):
    info = clients["ann"].info("select 42 as x")
    (item,) = clients["root"].statements(state="planned", principal="ann")
    clients["root"].call("admin.kill", statement_id=item["statement_id"])
    with pytest.raises(flight.FlightUnavailableError, match="an administrator stopped the statement"):
        clients["ann"].client.do_get(info.endpoints[0].ticket, clients["ann"].options).read_all()


def test_a_result_whose_reader_stalls_can_be_killed(clients):
    ann = clients["ann"]
    reader = ann.client.do_get(
        ann.info("select range as i from range(20000000)").endpoints[0].ticket, ann.options
    )
    reader.read_chunk()
    (item,) = running_of(clients, "ann")
    clients["root"].call("admin.kill", statement_id=item["statement_id"])
    (ended,) = [s for s in clients["root"].statements() if s["statement_id"] == item["statement_id"]]
    until(
        lambda: clients["root"].statements(principal="ann", state="running") == [], "the statement has ended"
    )
    with pytest.raises(pa.ArrowException, match="an administrator stopped the statement"):
        reader.read_all()
    assert ended["rows"] > 0


def test_writers_see_their_own_rows_and_administrators_all(clients):
    for name in ("ann", "bob"):
        assert clients[name].rows(f"select '{name} was here' as x")
    own = clients["ann"].rows("select distinct principal from system.statements")
    assert own == [{"principal": "ann"}]
    assert clients["ann"].rows("select distinct principal from lake.system.sessions") == [
        {"principal": "ann"}
    ]
    seen = clients["root"].rows("select distinct principal from system.statements order by 1")
    assert {"ann", "bob", "root"} <= {row["principal"] for row in seen}
    with pytest.raises(flight.FlightUnauthorizedError, match="PERMISSION_DENIED"):
        clients["ann"].call("admin.statements")


def test_sql_answers_what_is_running_and_who_started_it(clients):
    busy = Busy(clients["bob"])
    running_of(clients, "bob")
    sql = (
        "select s.principal, s.state, s.kind, s.sql, s.run_seconds > 0 as works, c.running_statements as n "
        "from system.statements s join system.sessions c using (session_id) "
        "where s.state = 'running' and s.principal = 'bob'"
    )
    (row,) = clients["root"].rows(sql)
    assert row == {
        "principal": "bob",
        "state": "running",
        "kind": "query",
        "sql": LONG,
        "works": True,
        "n": 1,
    }
    own = "select statement_id from system.statements where state = 'running' and sql like '%itself%'"
    assert len(clients["bob"].rows(own)) == 1
    for item in clients["root"].statements(state="running", principal="bob"):
        clients["root"].call("admin.kill", statement_id=item["statement_id"])
    busy.thread.join(30)


def newest(clients, name):
    return clients["root"].statements(principal=name, limit=1)[0]


def test_each_way_to_end_leaves_one_record(clients):
    ann = clients["ann"]
    assert ann.rows("select range as i from range(7)")
    ended = newest(clients, "ann")
    assert (ended["state"], ended["rows"]) == ("finished", 7)
    assert 56 <= ended["bytes"] < 100
    for sql, state, code, kind in (
        ("selec 1", "failed", "SQL_SYNTAX", ""),
        ("copy (select 1) to '/tmp/x.csv'", "failed", "STATEMENT_FORBIDDEN", ""),
        ("from no_such_table", "failed", "TABLE_NOT_FOUND", "query"),
        ("select error('boom')", "failed", "SQL_FAILED", "query"),
    ):
        with pytest.raises(pa.ArrowException):
            ann.sql(sql)
        ended = newest(clients, "ann")
        assert (ended["sql"], ended["state"], ended["code"], ended["kind"]) == (sql, state, code, kind)
        assert ended["error"]
    ann.sql("create temp table counted as select range as i from range(5)")
    ann.sql("delete from counted where i < 2")
    ended = newest(clients, "ann")
    assert (ended["kind"], ended["state"], ended["rows"]) == ("dml", "finished", 2)


def test_a_fetch_repeated_is_a_statement_of_its_own(clients):
    ann = clients["ann"]
    info = ann.info("select 'fetched twice' as x")
    (planned,) = ann.rows(
        "select statement_id from system.statements where sql like '%fetched twice%' and state = 'planned'"
    )
    for _ in range(2):
        assert ann.client.do_get(info.endpoints[0].ticket, ann.options).read_all().num_rows == 1
    found = [s for s in clients["root"].statements() if s["sql"] == "select 'fetched twice' as x"]
    assert [s["state"] for s in found] == ["finished", "finished"]
    assert planned["statement_id"] in {s["statement_id"] for s in found}


def test_a_prepared_statement_is_on_record_for_each_execution(clients):
    ann = clients["ann"]
    (result,) = action(
        ann.client,
        "CreatePreparedStatement",
        "ActionCreatePreparedStatementRequest",
        ann.options,
        query="select 'prepared' as x",
    )
    handle = unwrapped(result, "ActionCreatePreparedStatementResult").prepared_statement_handle
    for _ in range(2):
        info = ann.client.get_flight_info(
            command("CommandPreparedStatementQuery", prepared_statement_handle=handle), ann.options
        )
        ann.client.do_get(info.endpoints[0].ticket, ann.options).read_all()
    found = [s for s in clients["root"].statements() if s["sql"] == "select 'prepared' as x"]
    assert [s["state"] for s in found] == ["finished", "finished"]
    with pytest.raises(pa.ArrowException):
        action(
            ann.client,
            "CreatePreparedStatement",
            "ActionCreatePreparedStatementRequest",
            ann.options,
            query="from no_such_table",
        )
    assert newest(clients, "ann")["code"] == "TABLE_NOT_FOUND"


def test_loads_and_flights_are_on_record_with_their_tables(clients):
    ann, schema = clients["ann"], pa.schema([("x", pa.int64())])
    descriptor = command(
        "CommandStatementIngest",
        table="loaded",
        table_definition_options={"if_not_exist": 1, "if_exists": 1},
    )
    writer, _ = ann.client.do_put(descriptor, schema, ann.options)
    writer.write_batch(pa.record_batch([pa.array([1, 2, 3])], schema))
    writer.close()
    ended = newest(clients, "ann")
    assert (ended["kind"], ended["sql"], ended["rows"]) == ("ingest", "INGEST loaded (create)", 3)
    assert ended["tables"] == ["lake.main.loaded"]
    info = ann.client.get_flight_info(flight.FlightDescriptor.for_path("main", "loaded"), ann.options)
    assert ann.client.do_get(info.endpoints[0].ticket, ann.options).read_all().num_rows == 3
    ended = newest(clients, "ann")
    assert (ended["kind"], ended["tables"], ended["rows"]) == ("flight", ["lake.main.loaded"], 3)
    assert ended["sql"].startswith("FLIGHT lake.main.loaded (")
    assert ann.rows("select l.x from loaded l, loaded k where l.x = k.x and l.x = 1")
    assert newest(clients, "ann")["tables"] == ["lake.main.loaded"]
    with pytest.raises(pa.ArrowException):
        ann.client.get_flight_info(flight.FlightDescriptor.for_path("main", "nope"), ann.options)
    ended = newest(clients, "ann")
    assert (ended["sql"], ended["code"]) == ("FLIGHT main.nope", "TABLE_NOT_FOUND")


def test_a_cancelled_statement_is_on_record_as_cancelled(clients):
    ann = clients["ann"]
    info = ann.info("select 'cancelled' as x")
    request = flight_class("CancelFlightInfoRequest")()
    request.info.ParseFromString(info.serialize())
    bare_action(ann.client, "CancelFlightInfo", request, ann.options)
    ended = newest(clients, "ann")
    assert (ended["sql"], ended["state"]) == ("select 'cancelled' as x", "cancelled")
    assert ended["run_seconds"] == 0


@pytest.mark.parametrize(
    "request_body", [{}, {"statement_id": "a", "session_id": "b"}, {"statement_id": ""}, {"nope": 1}]
)
def test_a_kill_says_what_exactly(clients, request_body):
    with pytest.raises(pa.ArrowInvalid, match="INVALID_REQUEST"):
        clients["root"].call("admin.kill", **request_body)


def test_long_lists_are_cut_and_counted(clients):
    for number in range(5):
        clients["bob"].rows(f"select {number} as x")
    answer = clients["root"].call("admin.statements", principal="bob", limit=2)
    assert len(answer["statements"]) == 2
    assert answer["total"] >= 5
    with pytest.raises(pa.ArrowInvalid, match="limit"):
        clients["root"].call("admin.statements", limit=100_000)
