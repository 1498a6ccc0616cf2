"""The circuit breaker: when requests are refused, and how it is found out that a store is back."""

from __future__ import annotations

import pytest

from lakehouse.clock import FixedClock
from lakehouse.storage import BreakerState, CircuitBreaker


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def breaker(clock: FixedClock) -> CircuitBreaker:
    return CircuitBreaker(clock, failures=3, first_s=1, longest_s=4)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    return breaker


def test_only_failures_in_a_row_stop_requests(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        assert (breaker.failed(), breaker.failed()) == (False, False)
        breaker.answered()
    assert breaker.state is BreakerState.CLOSED
    opened(breaker)
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit() == 1.0


def test_the_pause_doubles_up_to_its_bound_while_trials_fail(
    breaker: CircuitBreaker, clock: FixedClock
) -> None:
    opened(breaker)
    for pause in (1, 2, 4, 4):
        assert breaker.admit() == pause
        clock.elapsed_s += pause
        assert breaker.state is BreakerState.HALF_OPEN
        assert breaker.admit() == 0
        assert not breaker.failed()
    clock.elapsed_s += 4
    assert breaker.admit() == 0
    breaker.answered()
    assert (breaker.state, breaker.admit()) == (BreakerState.CLOSED, 0)
    assert opened(breaker).admit() == 1, "the pauses begin anew"


def test_one_request_at_a_time_finds_out_whether_the_store_is_back(
    breaker: CircuitBreaker, clock: FixedClock
) -> None:
    opened(breaker)
    clock.elapsed_s = 1
    assert breaker.admit() == 0
    assert breaker.admit() == 4
    breaker.abandoned()
    assert breaker.admit() == 0, "another one takes the place of a trial that was given up"
    clock.elapsed_s += 4
    assert breaker.admit() == 0, "and of one that nobody heard of again"


def test_requests_that_were_under_way_do_not_make_the_pause_longer(
    breaker: CircuitBreaker, clock: FixedClock
) -> None:
    opened(breaker)
    for _ in range(10):
        assert not breaker.failed()
    assert breaker.admit() == 1
    breaker.answered()
    assert breaker.admit() == 0, "one that is answered after all shows that the store is there"
