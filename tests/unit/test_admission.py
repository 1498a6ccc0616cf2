"""Places for statements, the fair queue for them, the records of statements, and bounds on sessions."""

from __future__ import annotations

import threading
import time

import pyarrow as pa
import pytest

from lakehouse.access.principal import Principal
from lakehouse.clock import FixedClock, SystemClock
from lakehouse.config import Settings
from lakehouse.config.settings import LimitSettings
from lakehouse.engine.admission import Admission, CallPlaces, check_size
from lakehouse.engine.running import ABANDONED, CallWatch, RunningStatements, StatementState
from lakehouse.engine.session import StatementHandle
from lakehouse.errors import (
    LakehouseError,
    LimitExceeded,
    SqlBindError,
    StatementCancelled,
    StatementTimeout,
    TransactionNotFound,
)
from lakehouse.runtime import Lakehouse


def limits(**values):
    return LimitSettings.model_validate(
        {"concurrent_statements": 1, "queued_statements": 4, "queue_seconds": 30, **values}
    )


@pytest.fixture
def running():
    opened = RunningStatements(SystemClock(), limits(), idle_seconds=1800)
    yield opened
    opened.close()


def until(condition):
    """Wait until a condition holds; fails after a generous time."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("the condition never held")


class Visitor:
    """A thread that takes a place, notes that it had it, and waits to be let go."""

    def __init__(self, admission, principal, order):
        self.error = None
        self.leave = threading.Event()
        self.wake = None
        self.stopped = None
        self._admission, self._principal, self._order = admission, principal, order
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        until(lambda: self.wake is not None or not self.thread.is_alive())

    def _run(self):
        try:
            self._admission.wait(self._principal, self._attach, self._check)
        except LakehouseError as error:
            self.error = error
            return
        self._order.append(self._principal)
        self.leave.wait(30)
        self._admission.leave()

    def _attach(self, wake):
        self.wake = wake

    def _check(self):
        if self.stopped is not None:
            raise self.stopped


def finish(*visitors):
    for visitor in visitors:
        visitor.leave.set()
    for visitor in visitors:
        visitor.thread.join(30)
        assert not visitor.thread.is_alive()


def test_principals_take_turns_and_each_keeps_its_order():
    admission, order = Admission(limits(queued_statements=9)), []
    assert admission.try_enter()
    visitors = [Visitor(admission, name, order) for name in ("ann", "ann", "ann", "bob", "cy", "bob")]
    for visitor in visitors:
        visitor.leave.set()
    admission.leave()
    finish(*visitors)
    assert order == ["ann", "bob", "cy", "ann", "bob", "ann"]
    assert (admission.working, admission.waiting) == (0, 0)


def test_a_full_queue_refuses_and_names_the_limits():
    admission = Admission(limits(queued_statements=0))
    assert admission.try_enter()
    assert not admission.try_enter()
    with pytest.raises(LimitExceeded, match=r"1 statements are running and 0 wait \(limits.concurrent_st"):
        admission.wait("ann", lambda wake: None, lambda: None)
    admission.leave()
    assert admission.try_enter()


def test_nobody_fills_the_queue_to_the_exclusion_of_others():
    admission, order = Admission(limits(queued_statements=3)), []
    assert admission.try_enter()
    greedy = [Visitor(admission, "greedy", order) for _ in range(3)]
    late = Visitor(admission, "greedy", order)
    assert isinstance(late.error, LimitExceeded)
    modest = Visitor(admission, "modest", order)
    until(lambda: greedy[2].error is not None)
    assert isinstance(greedy[2].error, LimitExceeded)
    for visitor in (greedy[0], modest, greedy[1]):
        visitor.leave.set()
    admission.leave()
    finish(greedy[0], greedy[1], modest)
    assert order == ["greedy", "modest", "greedy"]
    assert (admission.working, admission.waiting) == (0, 0)


def test_waiting_ends_after_the_stated_time():
    admission = Admission(limits(queue_seconds=0.05))
    assert admission.try_enter()
    with pytest.raises(LimitExceeded, match=r"waited 0.05 s for one of 1 places \(limits.queue_seconds"):
        admission.wait("ann", lambda wake: None, lambda: None)
    assert (admission.working, admission.waiting) == (1, 0)


def test_what_is_stopped_leaves_the_queue():
    admission, order = Admission(limits()), []
    assert admission.try_enter()
    first, second = Visitor(admission, "ann", order), Visitor(admission, "ann", order)
    first.stopped = StatementCancelled("no more")
    first.wake()
    until(lambda: first.error is not None)
    assert first.error is first.stopped
    assert admission.waiting == 1
    admission.leave()
    finish(second)
    assert order == ["ann"]
    assert (admission.working, admission.waiting) == (0, 0)


def test_work_that_lent_its_place_takes_it_back_at_once_and_others_wait_for_both():
    admission, order = Admission(limits()), []
    assert admission.try_enter()
    admission.leave()
    assert admission.try_enter()
    admission.enter_again()
    assert admission.working == 2
    visitor = Visitor(admission, "ann", order)
    admission.leave()
    assert order == []
    admission.leave()
    finish(visitor)
    assert order == ["ann"]


def test_calls_above_the_limit_are_refused():
    places = CallPlaces(1)
    places.enter()
    with pytest.raises(LimitExceeded, match=r"1 calls are open \(limits.concurrent_calls\)"):
        places.enter()
    places.leave()
    places.enter()


def test_what_is_too_large_is_refused_by_name():
    check_size("the ticket", 10, 10, "limits.request_bytes")
    with pytest.raises(LimitExceeded, match="the ticket has 11 bytes, expected up to 10") as caught:
        check_size("the ticket", 11, 10, "limits.request_bytes")
    assert caught.value.hint == "limits.request_bytes"


def test_a_record_ends_once_and_a_failing_observer_harms_nobody(running):
    told = []

    def broken(record):
        raise ValueError(record.id)

    running.observers += [broken, told.append]
    record = running.arrive("SELECT 1", principal="ann")
    assert running.records() == [record]
    running.end(record)
    running.end(record, SqlBindError("late"))
    assert told == [record]
    assert (record.state, record.code) == (StatementState.FINISHED, "")
    assert running.records() == []
    assert running.recent() == [record]


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (SqlBindError("no"), StatementState.FAILED, "SQL_INVALID"),
        (StatementCancelled("gone"), StatementState.CANCELLED, "CANCELLED"),
        (StatementTimeout("slow"), StatementState.FAILED, "STATEMENT_TIMEOUT"),
        (ZeroDivisionError("secret"), StatementState.FAILED, "INTERNAL"),
    ],
)
def test_the_error_that_ends_a_statement_is_on_record(running, error, state, code):
    record = running.arrive("SELECT 1")
    running.end(record, error)
    assert (record.state, record.code) == (state, code)
    assert "secret" not in record.error


def test_only_the_beginning_of_a_long_text_is_kept(running):
    record = running.arrive("x" * 1_000_000)
    assert len(record.sql) < 30_000


def test_a_statement_whose_client_has_gone_leaves_the_queue(running):
    first = running.start(CallWatch(), "s")
    gone = threading.Event()
    record = running.arrive("SELECT 2", principal="ann")
    threading.Timer(0.05, gone.set).start()
    with pytest.raises(StatementCancelled, match="the client cancelled"):
        running.start(CallWatch(gone.is_set, None, record), "s")
    assert running.admission.waiting == 0
    assert record.queue_s > 0
    running.finish(first)
    assert running.count() == 0


def test_a_queued_statement_can_be_killed(running):
    first = running.start(CallWatch(), "s")
    record = running.arrive("SELECT 2", principal="ann")
    reason = StatementCancelled("an administrator stopped the statement")

    def kill():
        until(lambda: record.state is StatementState.QUEUED)
        assert running.kill(record, reason)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(StatementCancelled) as caught:
        running.start(CallWatch(record=record), "s")
    killer.join()
    assert caught.value is reason
    running.finish(first)
    assert running.admission.working == 0


def test_a_planned_statement_that_is_killed_does_not_start(running):
    record = running.arrive("SELECT 2")
    assert running.kill(record, StatementCancelled("stop"))
    assert record.state is StatementState.CANCELLED
    assert not running.kill(record, StatementCancelled("again"))
    with pytest.raises(StatementCancelled, match="stop"):
        running.start(CallWatch(record=record), "s")
    assert running.admission.working == 0


def test_the_queue_does_not_count_towards_the_time_out_but_planning_does(running):
    record = running.arrive("SELECT 2")
    record.queue_s, record.plan_s = 100.0, 2.0
    statement = running.start(CallWatch(timeout_s=5.0, record=record), "s")
    assert statement.deadline_s == pytest.approx(statement.started_s + 3.0)
    running.finish(statement)


class Stream:
    closed = False

    def close(self):
        self.closed = True


def test_a_result_that_is_not_read_lends_its_place_and_is_closed_in_the_end():
    clock = FixedClock()
    running = RunningStatements(clock, limits(), idle_seconds=60)
    try:
        record, stream = running.arrive("SELECT 1"), Stream()
        statement = running.start(CallWatch(record=record), "s")
        statement.stream = stream
        running.pause(statement)
        clock.elapsed_s += 2
        until(lambda: running.admission.working == 0)
        assert not stream.closed
        running.resume(statement)
        assert running.admission.working == 1
        running.pause(statement)
        clock.elapsed_s += 61
        until(lambda: record.error)
        assert running.has_ended(record)
        assert stream.closed
        assert "nothing was read of the result for 60 s" in record.error
        with pytest.raises(LimitExceeded):
            running.resume(statement)
        running.finish(statement)
        until(lambda: running.admission.working == 0)
    finally:
        running.close()


def test_what_stops_an_upload_is_what_comes_out(running):
    def broken():
        yield 1
        raise LimitExceeded("a batch is too large")

    def load():
        with running.working(CallWatch(), "s") as statement:
            try:
                list(running.arriving(statement, broken()))
            except LimitExceeded:
                raise SqlBindError("foreign code made text of it") from None

    with pytest.raises(LimitExceeded, match="a batch is too large"):
        load()
    assert running.admission.working == 0


# -- sessions ---------------------------------------------------------------------------------------


@pytest.fixture
def lakehouse(tmp_path):
    opened = Lakehouse(
        Settings.model_validate(
            {
                "buckets": [{"path": tmp_path / "bucket"}],
                "session": {
                    "max_sessions": 5,
                    "max_sessions_per_principal": 3,
                    "max_transactions_per_session": 2,
                    "max_prepared_per_session": 2,
                    "lifetime_seconds": 100,
                    "idle_seconds": 50,
                },
                "limits": {"result_bytes": 100_000},
            }
        ),
        FixedClock(),
    )
    yield opened
    opened.close()


ANN, BOB = Principal("ann", frozenset({"writer"})), Principal("bob", frozenset({"writer"}))


def test_sessions_of_a_principal_are_bounded_and_those_that_hold_nothing_give_way(lakehouse):
    sessions = lakehouse.sessions
    theirs = sessions.get("x", BOB)
    first = sessions.get("1", ANN)
    for token in ("2", "3"):
        lakehouse.clock.elapsed_s += 1
        sessions.get(token, ANN).begin()
    fourth = sessions.get("4", ANN)
    assert first.closed
    fourth.begin()
    with pytest.raises(LimitExceeded, match="3 sessions of ann are open") as caught:
        sessions.get("5", ANN)
    assert "session.max_sessions_per_principal" in caught.value.hint
    assert not theirs.closed
    sessions.close(fourth)
    assert sessions.get("5", ANN).principal == ANN


def test_a_full_server_makes_room_among_the_sessions_of_the_newcomer_first(lakehouse):
    sessions = lakehouse.sessions
    older = [sessions.get(token, BOB) for token in ("1", "2")]
    own = []
    for token in ("1", "2"):
        lakehouse.clock.elapsed_s += 1
        own.append(sessions.get(token, ANN))
    sessions.get("1", Principal("cy", frozenset({"writer"})))
    sessions.get("3", ANN)
    assert [s.closed for s in (*older, *own)] == [False, False, True, False]


def test_a_session_does_not_outlive_its_lifetime_however_busy(lakehouse):
    session = lakehouse.sessions.get("1", ANN)
    transaction = session.begin()
    for _ in range(3):
        lakehouse.clock.elapsed_s += 30
        assert lakehouse.sessions.get("1", ANN) is session
        assert lakehouse.sessions.sweep() == 0
    lakehouse.clock.elapsed_s += 30
    assert lakehouse.sessions.get("1", ANN) is not session
    assert session.closed
    with pytest.raises(TransactionNotFound):
        session.transaction(transaction.id.encode())


def test_transactions_of_a_session_are_bounded(lakehouse):
    session = lakehouse.sessions.get("1", ANN)
    session.begin()
    session.begin()
    with pytest.raises(LimitExceeded, match="2 transactions are open") as caught:
        session.begin()
    assert "session.max_transactions_per_session" in caught.value.hint


def test_a_query_that_nobody_fetches_ends_as_abandoned(lakehouse):
    running, session = lakehouse.engine.running, lakehouse.sessions.get("1", ANN)
    records = [running.arrive("SELECT 1", session_id=session.id) for _ in range(4)]
    for number, record in enumerate(records):
        expires_s = 10.0 if number < 3 else 1000.0
        session.add_handle(StatementHandle(str(number), pa.schema([]), expires_s=expires_s, record=record))
    assert records[0].code == ABANDONED
    assert session.take_record(session.handle("2")) is records[2]
    lakehouse.clock.elapsed_s += 20
    lakehouse.sessions.sweep()
    assert [r.code for r in records] == [ABANDONED, ABANDONED, "", ""]
    assert records[1].run_s == 0
    assert records[1].state is StatementState.CANCELLED
    lakehouse.sessions.close(session)
    assert records[3].code == ABANDONED


def test_a_result_stops_growing_at_its_limit(lakehouse):
    engine, session = lakehouse.engine, lakehouse.sessions.get("1", ANN)
    plan = engine.plan(engine.gate.analyse("SELECT range AS i FROM range(1000)"), session)
    assert sum(batch.num_rows for batch in engine.open(plan, session, CallWatch())) == 1000
    plan = engine.plan(engine.gate.analyse("SELECT range AS i FROM range(1000000)"), session)
    with pytest.raises(LimitExceeded, match=r"larger than 100000 bytes \(limits.result_bytes\)"):
        list(engine.open(plan, session, CallWatch()))
    assert engine.running.admission.working == 0
    assert engine.running.count() == 0


def test_a_client_that_got_the_address_of_another_gets_a_session_of_its_own(lakehouse):
    sessions = lakehouse.sessions
    first = sessions.get("peer:1", ANN)
    sessions.alias("cookie", first)
    assert sessions.get("peer:1", ANN) is first
    assert sessions.get("cookie", ANN) is first
    second = sessions.get("peer:1", ANN)
    assert second is not first
    assert sessions.get("peer:1", ANN) is second
    assert sessions.get("cookie", ANN) is first


def test_a_session_is_not_idle_while_a_call_is_being_answered(lakehouse):
    session = lakehouse.sessions.get("1", ANN)
    session.begin_call()
    idle = lakehouse.settings.session.idle_seconds + 1
    lakehouse.clock.elapsed_s += min(idle, lakehouse.settings.session.lifetime_seconds - 1)
    assert lakehouse.sessions.sweep() == 0
    session.end_call()
    assert session.last_used_s == lakehouse.clock.monotonic()


def test_a_statement_that_takes_a_while_tells_the_memory_of_the_engine(lakehouse):
    session, engine = lakehouse.sessions.get("1", ANN), lakehouse.engine
    sql = "SELECT sum(n) FROM (SELECT count(*) AS n FROM range(30000000) GROUP BY range % 10000000)"
    record = engine.running.arrive(sql, session_id=session.id)
    plan = engine.plan(engine.gate.analyse(sql), session)
    assert list(engine.open(plan, session, CallWatch(record=record)))
    assert record.run_s < 0.2 or record.memory_bytes > 10_000_000
