"""Who may work now: a limited number of places, and a fair, bounded queue for them."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from lakehouse.config.settings import LimitSettings
from lakehouse.errors import LimitExceeded


class _Waiter:
    """One statement in the queue. ``is_admitted`` and ``is_refused`` change under the queue's lock only."""

    __slots__ = ("is_admitted", "is_refused", "principal", "woken")

    def __init__(self, principal: str) -> None:
        self.principal = principal
        self.woken = threading.Event()
        self.is_admitted = False
        self.is_refused = False


class Admission:
    """Places for statements at work, and the queue for them.

    Principals take turns; the statements of one principal keep their order. When the queue is full, a
    newcomer takes the place of the last statement of whichever principal has the most in it, provided that
    its own principal has fewer: nobody fills the queue to the exclusion of others.

    Args:
        limits: How many may work, how many may wait and for how long.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._working = 0
        self._waiting = 0
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @property
    def working(self) -> int:
        """How many places are taken."""
        return self._working

    @property
    def waiting(self) -> int:
        """How many statements wait for a place."""
        return self._waiting

    def try_enter(self) -> bool:
        """Take a place, if one is free and nobody waits for it."""
        with self._lock:
            if self._working >= self._limits.concurrent_statements or self._waiting:
                return False
            self._working += 1
            return True

    def wait(
        self,
        principal: str,
        attach: Callable[[Callable[[], None]], None],
        check: Callable[[], None],
    ) -> None:
        """Take a place as soon as it is the principal's turn.

        Args:
            principal: On whose behalf.
            attach: Given what ends the waiting early; raises where it should not begin.
            check: Called when the waiting has ended; raises where the statement has to stop.

        Raises:
            LimitExceeded: The queue is full, or the waiting took too long.
            LakehouseError: The statement was stopped.
        """
        waiter = self._queue(principal)
        if waiter is None:
            return
        try:
            attach(waiter.woken.set)
            waiter.woken.wait(self._limits.queue_seconds)
            check()
        except BaseException:
            self._withdraw(waiter)
            raise
        with self._lock:
            if waiter.is_admitted:
                return
            if not waiter.is_refused:
                self._remove(waiter)
        raise self._full() if waiter.is_refused else self._too_long()

    def enter_again(self) -> None:
        """Take a place without waiting, even above the limit: for work that was begun and lent its place.

        Made to wait, such work could fail for no fault of its own. How much of it there may be is bounded
        by the number of calls.
        """
        with self._lock:
            self._working += 1

    def leave(self) -> None:
        """Give a place back; the next in the queue takes it."""
        with self._lock:
            self._working -= 1
            self._admit()

    # -- plumbing, called with the lock held unless they take it ------------------------------------

    def _queue(self, principal: str) -> _Waiter | None:
        """A new waiter at the end of its principal's queue; ``None`` where a place is free after all."""
        with self._lock:
            limits = self._limits
            if self._working < limits.concurrent_statements and not self._waiting:
                self._working += 1
                return None
            if self._waiting >= limits.queued_statements:
                self._make_room(principal)
            waiter = _Waiter(principal)
            self._queues.setdefault(principal, deque()).append(waiter)
            self._waiting += 1
            return waiter

    def _make_room(self, principal: str) -> None:
        own = len(self._queues.get(principal, ()))
        longest = max(self._queues.values(), key=len, default=None)
        if longest is None or len(longest) <= own + 1:
            raise self._full()
        last = longest[-1]
        self._remove(last)
        last.is_refused = True
        last.woken.set()

    def _admit(self) -> None:
        while self._waiting and self._working < self._limits.concurrent_statements:
            principal, queue = next(iter(self._queues.items()))
            waiter = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues.move_to_end(principal)
            else:
                del self._queues[principal]
            self._working += 1
            waiter.is_admitted = True
            waiter.woken.set()

    def _withdraw(self, waiter: _Waiter) -> None:
        """Take a waiter that will not work out of the queue, or give back the place it was given."""
        with self._lock:
            if waiter.is_admitted:
                self._working -= 1
                self._admit()
            elif not waiter.is_refused:
                self._remove(waiter)

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.principal]
        queue.remove(waiter)
        self._waiting -= 1
        if not queue:
            del self._queues[waiter.principal]

    def _full(self) -> LimitExceeded:
        return LimitExceeded(
            f"{self._working} statements are running and {self._limits.queued_statements} wait "
            "(limits.concurrent_statements, limits.queued_statements)",
            "try again in a moment",
        )

    def _too_long(self) -> LimitExceeded:
        limits = self._limits
        return LimitExceeded(
            f"the statement waited {limits.queue_seconds:g} s for one of {limits.concurrent_statements} "
            "places (limits.queue_seconds, limits.concurrent_statements)",
            "try again in a moment",
        )


class CallPlaces:
    """Counts the calls that are open, and refuses more than a limit: each takes a thread.

    Args:
        most: How many may be open at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open = 0

    @property
    def open(self) -> int:
        """How many calls are open."""
        return self._open

    def enter(self) -> None:
        """Count a call that begins; pair it with ``leave``.

        Raises:
            LimitExceeded: Too many are open.
        """
        with self._lock:
            if self._open >= self._most:
                raise LimitExceeded(
                    f"{self._most} calls are open (limits.concurrent_calls)", "try again in a moment"
                )
            self._open += 1

    def leave(self) -> None:
        """Count a call that has ended."""
        with self._lock:
            self._open -= 1


def check_size(what: str, size: int, most: int, setting: str) -> None:
    """Refuse what is too large.

    Args:
        what: What has that size, with its article: "the body of the action".
        size: Its size, in bytes.
        most: The limit.
        setting: The limit's name.

    Raises:
        LimitExceeded: It is.
    """
    if size > most:
        raise LimitExceeded(f"{what} has {size} bytes, expected up to {most}", setting)
