"""Blocks of a text, worked on by several threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from lakehouse.errors import StatementCancelled
from lakehouse.ingest.sources.csv_blocks import Block

_THREADS = min(4, os.cpu_count() or 1)
_SKIPPED = 1024 * 1024
_T = TypeVar("_T")


def in_order(
    found: Iterator[Block], work: Callable[[Block], _T], cancelled: Callable[[], bool]
) -> Iterator[tuple[Block, _T]]:
    """What becomes of blocks, in their order, a few at a time.

    Raises:
        StatementCancelled: ``cancelled`` said so.
    """
    waiting: deque[tuple[Block, Future[_T]]] = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="parse")
    try:
        for block in found:
            if cancelled():
                raise StatementCancelled("reading was cancelled")
            waiting.append((block, pool.submit(work, block)))
            if len(waiting) > _THREADS:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            if cancelled():
                raise StatementCancelled("reading was cancelled")
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def skip(stream: BinaryIO, start: int, seeking: bool) -> None:
    """Go on to a place in a text, which begins where ``stream`` is."""
    if seeking and stream.seekable():
        stream.seek(start, os.SEEK_CUR)
        return
    while start > 0:
        start -= len(stream.read(min(start, _SKIPPED))) or start
