"""Stops asking a store that does not answer, and finds out when it is back.

Written here because what there is for Python (pybreaker and its like) waits equally long each time and reads
the clock of the machine.
"""

from __future__ import annotations

import threading
from enum import Enum

from lakehouse.clock import Clock


class BreakerState(Enum):
    """Whether requests reach the store: all of them, none, or one that finds out whether it is back."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Counts requests in a row that a store did not answer; after some of them it lets none through.

    After a pause, which doubles from time to time up to a bound, one request is let through as a trial. What
    becomes of it decides. Every request that was admitted ends in one of ``answered``, ``failed`` and
    ``abandoned``. Safe to use from several threads.

    Args:
        clock: Source of time.
        failures: After how many failures in a row requests are refused.
        first_s: The first pause.
        longest_s: The longest pause.
    """

    def __init__(self, clock: Clock, failures: int, first_s: float, longest_s: float) -> None:
        self._clock = clock
        self._most = failures
        self._first_s = first_s
        self._longest_s = longest_s
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_s = 0.0  # 0 while closed
        self._until_s = 0.0
        self._trial_until_s = 0.0

    @property
    def state(self) -> BreakerState:
        """Whether requests reach the store."""
        if not self._pause_s:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock.monotonic() < self._until_s else BreakerState.HALF_OPEN

    def admit(self) -> float:
        """Ask to send a request; gives 0 if it may be sent, else the seconds until another may."""
        if not self._pause_s:
            return 0.0
        now = self._clock.monotonic()
        with self._lock:
            if not self._pause_s:
                return 0.0
            # A trial that nobody heard of again does not keep others from being made.
            wait_s = max(self._until_s, self._trial_until_s) - now
            if wait_s > 0:
                return wait_s
            self._trial_until_s = now + self._longest_s
            return 0.0

    def answered(self) -> None:
        """A request was answered, whatever the answer says."""
        if self._failures or self._pause_s:
            with self._lock:
                self._failures = 0
                self._pause_s = self._until_s = self._trial_until_s = 0.0

    def failed(self) -> bool:
        """A request was not answered; gives whether that is why requests are refused from now on."""
        now = self._clock.monotonic()
        with self._lock:
            self._failures += 1
            is_trial = self._trial_until_s > 0
            if self._failures < self._most or (self._pause_s and not is_trial):
                return False  # one that was under way when the others failed tells nothing new
            was_closed = not self._pause_s
            self._pause_s = min(self._pause_s * 2 or self._first_s, self._longest_s)
            self._until_s, self._trial_until_s = now + self._pause_s, 0.0
            return was_closed

    def abandoned(self) -> None:
        """A request was given up before anything was known; where it was the trial, another may follow."""
        if self._pause_s:
            with self._lock:
                self._trial_until_s = 0.0
