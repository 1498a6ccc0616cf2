"""Several connections at work at once, whose rows come out in one order, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from lakehouse.errors import StatementCancelled
from lakehouse.ingest.sources.postgres.sessions import Opener, Session, fastest
from lakehouse.ingest.sources.postgres.snapshot import Cancelled, Snapshot

_POLL_S = 0.05
_END_S = 3.0
_ASK_S = 1.0
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read.

    Attributes:
        scan: Whether ``inspect`` looks at all values where a type does not tell what they are: numeric
            without precision, infinite dates, arrays of several dimensions. Without it such columns
            become strings or are taken for what they mostly are, and rows that do not fit show while reading.
        trust: Whether ``inspect`` takes dates, times and numbers of a large table for finite, as they mostly
            are, and spares the look at all values. One that is not shows while reading, which then raises
            ``Disproved`` and has to begin again.
        connections: How many read at once.
        batch_bytes: About how large the batches are; one row may be larger.
        buffer_bytes: How much may wait until its turn comes.
        chunk_blocks: How many blocks of a table one query reads at most; fewer where rows of as many would
            take more than one batch.
        retry_seconds: How long a lost server is waited for.
        opener: What streams; the fastest that there is if None.
    """

    scan: bool = True
    trust: bool = False
    connections: int = 2
    batch_bytes: int = 8 << 20
    buffer_bytes: int = 64 << 20
    chunk_blocks: int = 2048
    retry_seconds: float = 60.0
    opener: Opener | None = None


@dataclass(slots=True)
class _Task:
    """One query, and what came of it that nobody took yet."""

    sql: str
    batches: deque[pa.RecordBatch] = field(default_factory=deque)
    done: bool = False
    failure: BaseException | None = None


class Fetch:
    """The rows of queries, one after the other, read by as many connections at once as are allowed.

    A connection reads ahead in a later query until what waits is ``buffer_bytes`` in all, and in the one
    whose turn it is until two batches wait.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        reading: Reading,
        queries: Sequence[str],
        what: str,
        ends: Sequence[bool],
    ) -> None:
        """Describe it; nothing is read yet.

        Args:
            snapshot: What is seen.
            reading: How to read.
            queries: Each of them is read by one connection.
            what: What they read, for messages.
            ends: For which of them it is told which batch is the last.
        """
        self._snapshot = snapshot
        self._opener = reading.opener or fastest(snapshot)
        self._tasks = [_Task(sql) for sql in queries]
        self._what = what
        self._ends = ends
        self._batch_bytes = reading.batch_bytes
        self._buffer_bytes = reading.buffer_bytes
        self._buffered = 0
        self._next = 0
        self._head = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._sessions: list[Session] = []
        self._threads = [
            threading.Thread(target=self._work, name="postgres-reader", daemon=True)
            for _ in range(min(reading.connections, len(queries)))
        ]

    def batches(self, cancelled: Cancelled) -> Generator[tuple[int, pa.RecordBatch, bool]]:
        """The number of each query, a batch of its rows, and whether it is known to be the last.

        Raises:
            Dropped: A connection was lost.
            InvalidRequest, StorageError, StatementTimeout: A query failed.
            StatementCancelled: ``cancelled`` said so.
        """
        for thread in self._threads:
            thread.start()
        while self._head < len(self._tasks):
            batch = self._take(cancelled)
            while batch is not None:
                following = self._take(cancelled) if self._ends[self._head] else None
                yield self._head, batch, self._ends[self._head] and following is None
                batch = following if self._ends[self._head] else self._take(cancelled)
            with self._changed:
                self._head += 1
                self._changed.notify_all()

    def stop(self) -> None:
        """End all that still runs, at the server too. Comes back within a few seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        end = time.monotonic() + _END_S
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < end:
            # More than once: a session may only now have begun its query.
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join(_POLL_S)
            with self._changed:
                pids = [session.pid for session in self._sessions]
            # A server that does not answer would keep this for long.
            asking = threading.Thread(target=self._snapshot.cancel, args=(pids,), daemon=True)
            asking.start()
            asking.join(_ASK_S)

    def _take(self, cancelled: Cancelled) -> pa.RecordBatch | None:
        """The next batch of the query whose turn it is; None at its end."""
        task = self._tasks[self._head]
        while True:
            if cancelled():
                raise StatementCancelled("reading from PostgreSQL was cancelled")
            with self._changed:
                if task.batches:
                    batch = task.batches.popleft()
                    self._buffered -= batch.nbytes
                    self._changed.notify_all()
                    return batch
                if task.failure is not None:
                    failure, task.failure = task.failure, None
                    raise failure
                if task.done:
                    return None
                self._changed.wait(_POLL_S)

    def _work(self) -> None:
        session: Session | None = None
        task: _Task | None = None
        try:
            while (task := self._begin()) is not None:
                if session is None:
                    session = self._opener(self._snapshot.dsn, self._snapshot.id, self._batch_bytes)
                    with self._changed:
                        self._sessions.append(session)
                self._read(session, task)
        except BaseException as error:  # noqa: BLE001  (raised where it is asked for)
            if task is not None:
                with self._changed:
                    task.failure = error
                    self._changed.notify_all()
        finally:
            if session is not None:
                with self._changed:
                    if session in self._sessions:
                        self._sessions.remove(session)
                session.close()

    def _begin(self) -> _Task | None:
        with self._changed:
            if self._stopped or self._next == len(self._tasks):
                return None
            self._next += 1
            return self._tasks[self._next - 1]

    def _read(self, session: Session, task: _Task) -> None:
        stream = session.batches(task.sql, self._what)
        try:
            for batch in stream:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._has_room(task))
                    if self._stopped:
                        return
                    task.batches.append(batch)
                    self._buffered += batch.nbytes
                    self._changed.notify_all()
        finally:
            if self._stopped:
                # Closing reads what the server still sends; it should not send more.
                self._snapshot.cancel([session.pid])
            stream.close()  # type: ignore[attr-defined]
        with self._changed:
            task.done = True
            self._changed.notify_all()

    def _has_room(self, task: _Task) -> bool:
        if task is self._tasks[self._head]:
            return len(task.batches) < _AHEAD
        return self._buffered < self._buffer_bytes
